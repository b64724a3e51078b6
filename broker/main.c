/* octoflow-broker: options, signals, the loop. Everything else is server.h's. */
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>
#include <uv.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/notify.h"
#include "base/options.h"
#include "base/size.h"
#include "broker/ledger.h"
#include "broker/salvage.h"
#include "broker/server.h"
#include "octo_build.h"

enum { EXIT_USAGE = 2, EXIT_FATAL = 3 };

struct broker_options {
    const char *ledger, *listen, *log_level, *salvage, *metrics, *backups, *models, *curve_key,
        *allow;
    int64_t heartbeat_ms, lease_ms, max_attempts;
    int64_t max_jobs, max_bytes, max_client_jobs, max_client_bytes;
    int64_t max_connections, idle_s, keep_s;
    bool insecure, die_with_parent, version, compact, first_come;
};

#define AT(field) offsetof(struct broker_options, field)

static const struct option table[] = {
    {"ledger", 0, OPTION_STRING, AT(ledger), .arg = "FILE",
     .help = "the store of batches and results; created when it is not there"},
    {"listen", 0, OPTION_STRING, AT(listen), .arg = "ENDPOINT",
     .help = "ipc://PATH or tcp://ADDRESS:PORT, where workers and clients connect"},
    {"curve-key", 0, OPTION_STRING, AT(curve_key), .arg = "FILE",
     .help = "the broker's secret key (octoflow keygen): everything is encrypted, and only keys on "
             "the list get in"},
    {"allow", 0, OPTION_STRING, AT(allow), .arg = "FILE",
     .help = "the list: lines of KEY ROLE[,ROLE] NAME, with the roles work, submit and admin; read "
             "again on SIGHUP"},
    {"insecure", 0, OPTION_FLAG, AT(insecure),
     .help = "without keys, allow a TCP address that other machines can reach: whoever reaches it "
             "can read and change everything; and let others reach --metrics"},
    {"heartbeat-ms", 0, OPTION_INT, AT(heartbeat_ms), .min = 20, .max = 600000, .arg = "MS",
     .help = "workers beat this often; after three missed beats their jobs go to others "
             "(default 2000)"},
    {"lease-ms", 0, OPTION_INT, AT(lease_ms), .min = 50, .max = 86400000, .arg = "MS",
     .help = "a job that no beat names for this long goes to another worker (default 60000)"},
    {"max-attempts", 0, OPTION_INT, AT(max_attempts), .min = 1, .max = 100, .arg = "N",
     .help = "a job fails as poison when its worker was lost this often while it ran there alone, "
             "unless its batch says otherwise (default 3)"},
    {"max-jobs", 0, OPTION_INT, AT(max_jobs), .min = 0, .max = 1e9, .arg = "N",
     .help = "take no more unfinished jobs than this; each is about 120 bytes of memory; 0: no "
             "limit (default 10000000)"},
    {"max-bytes", 0, OPTION_INT, AT(max_bytes), .min = 0, .max = 1e15, .arg = "N",
     .help = "take no more bytes of unfinished requests than this; 0: no limit (default 0)"},
    {"max-client-jobs", 0, OPTION_INT, AT(max_client_jobs), .min = 0, .max = 1e9, .arg = "N",
     .help = "unfinished jobs one client may have in all its batches; a client is what submit "
             "--client says; 0: no limit (default 0)"},
    {"max-client-bytes", 0, OPTION_INT, AT(max_client_bytes), .min = 0, .max = 1e15, .arg = "N",
     .help = "bytes of unfinished requests one client may have; 0: no limit (default 0)"},
    {"first-come", 0, OPTION_FLAG, AT(first_come),
     .help =
         "give each worker what it has room for, whatever its speed and heat, and no line to two "
         "workers"},
    {"max-connections", 0, OPTION_INT, AT(max_connections), .min = 1, .max = 1000000, .arg = "N",
     .help = "workers and clients at a time; more: who has said nothing gives way, or else the new "
             "one (default 8192)"},
    {"idle-s", 0, OPTION_INT, AT(idle_s), .min = 0, .max = 1e9, .arg = "SECONDS",
     .help =
         "cut off who has said nothing for this long; 0: never (default 3600, and at least four "
         "heartbeats)"},
    {"keep", 0, OPTION_TIME, AT(keep_s), .min = 0, .max = 86400.0 * 36500, .arg = "TIME",
     .help = "batches that were finished this long ago leave the ledger with their results: 12h, "
             "30d; 0: never (default 0)"},
    {"backups", 0, OPTION_STRING, AT(backups), .arg = "FOLDER",
     .help = "octoflow backup may have copies of the ledger written there (default: nowhere)"},
    {"models", 0, OPTION_STRING, AT(models), .arg = "FOLDER",
     .help = "workers may fetch the model files (*.gguf) in it; looked at every minute and on "
             "SIGHUP (default: none)"},
    {"metrics", 0, OPTION_STRING, AT(metrics), .arg = "ADDRESS:PORT",
     .help =
         "serve /metrics for Prometheus, /healthz and /readyz there by HTTP (default: nowhere)"},
    {"salvage", 0, OPTION_STRING, AT(salvage), .arg = "NEW-FILE",
     .help = "write what can be read of a damaged --ledger FILE into a new ledger, and exit"},
    {"compact", 0, OPTION_FLAG, AT(compact),
     .help = "write --ledger FILE anew without the room that removed batches left, and exit; no "
             "broker may use it meanwhile"},
    {"log-level", 0, OPTION_STRING, AT(log_level), .arg = "LEVEL",
     .help = "error, warn, info or debug (default info)"},
    {"die-with-parent", 0, OPTION_FLAG, AT(die_with_parent),
     .help = "stop when the process that started this one ends"},
    {"version", 0, OPTION_FLAG, AT(version), .help = "print the version and exit"},
};

struct broker {
    struct server *server;
    uv_signal_t term, interrupt, hangup;
    uv_timer_t timer; /* for the service manager */
    struct notify notify;
};

static void print_help(void)
{
    printf("octoflow-broker: keeps batches in a ledger and hands their jobs to workers\n\n"
           "usage: octoflow-broker --ledger FILE --listen ENDPOINT [options]\n"
           "       octoflow-broker --ledger FILE --salvage NEW-FILE\n"
           "       octoflow-broker --ledger FILE --compact\n\n");
    options_print(table, ARRAY_LEN(table), stdout);
    printf("\nSIGTERM and SIGINT: commit and acknowledge what is pending, then exit with 0.\n"
           "SIGHUP: read the --allow file again; who is not on it any more is cut off. Look at "
           "--models\n"
           "again.\n"
           "Exit status: 0 stopped, 2 wrong usage, 3 cannot start.\n");
}

static void on_signal(uv_signal_t *handle, int number)
{
    struct broker *b = handle->data;
    log_info("stopping signal=%s", number == SIGTERM ? "SIGTERM" : "SIGINT");
    notify_send(&b->notify, "STOPPING=1");
    server_close(&b->server);
    uv_close((uv_handle_t *)&b->term, NULL);
    uv_close((uv_handle_t *)&b->interrupt, NULL);
    uv_close((uv_handle_t *)&b->hangup, NULL);
    uv_close((uv_handle_t *)&b->timer, NULL);
}

static void on_hangup(uv_signal_t *handle, int number)
{
    struct broker *b = handle->data;
    char text[80];
    (void)number;
    snprintf(text, sizeof text, "RELOADING=1\nMONOTONIC_USEC=%" PRIu64, clock_mono_ns() / 1000);
    notify_send(&b->notify, text);
    server_reload(b->server);
    notify_send(&b->notify, "READY=1");
}

/* The loop turns: the service manager may know. */
static void on_timer(uv_timer_t *timer)
{
    struct broker *b = timer->data;
    char text[600] = "STATUS=";
    size_t used = strlen(text);
    server_describe(b->server, text + used, sizeof text - used);
    notify_send(&b->notify, text);
    notify_feed(&b->notify, clock_mono_ns());
}

/* The parent may have ended before prctl() took effect; then we belong to init. In a container the
 * parent itself can be process 1, which its name tells. */
static bool parent_is_gone(void)
{
    char name[32] = "";
    if (getppid() != 1)
        return false;
    FILE *f = fopen("/proc/1/comm", "r");
    if (f != NULL) {
        if (fgets(name, sizeof name, f) == NULL)
            name[0] = '\0';
        fclose(f);
    }
    return strncmp(name, "octoflow", 8) != 0;
}

/* Each connection is a file descriptor, and a few are needed for the rest. */
static uint64_t room_for(int64_t connections)
{
    enum { OTHER_FILES = 64 };
    struct rlimit files;
    if (getrlimit(RLIMIT_NOFILE, &files) != 0)
        return (uint64_t)connections;
    rlim_t want = (rlim_t)connections + OTHER_FILES;
    if (files.rlim_cur < want) {
        files.rlim_cur = want < files.rlim_max ? want : files.rlim_max;
        if (setrlimit(RLIMIT_NOFILE, &files) != 0)
            getrlimit(RLIMIT_NOFILE, &files);
    }
    if (files.rlim_cur >= want)
        return (uint64_t)connections;
    uint64_t room = files.rlim_cur > 2 * OTHER_FILES ? files.rlim_cur - OTHER_FILES : OTHER_FILES;
    log_warn("the system allows %llu open files, so no more than %llu connections",
             (unsigned long long)files.rlim_cur, (unsigned long long)room);
    return room;
}

/* Said now, not by the first backup. It goes on: the disk for them may come later. */
static void check_backups(const char *folder)
{
    char inside[PATH_MAX];
    if (folder == NULL)
        return;
    snprintf(inside, sizeof inside, "%s/.", folder);
    if (access(inside, W_OK | X_OK) != 0)
        log_warn("no backup can be made until that is mended folder=%s error=\"%s\"", folder,
                 strerror(errno));
}

static int run(const struct broker_options *o)
{
    struct err_msg why = {{0}};
    struct broker b = {0};
    uv_loop_t loop;
    if (uv_loop_init(&loop) != 0) {
        fprintf(stderr, "octoflow-broker: cannot make an event loop\n");
        return EXIT_FATAL;
    }
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN); /* a full disk is an error to report, by limit too */
    uv_signal_init(&loop, &b.term);
    uv_signal_init(&loop, &b.interrupt);
    uv_signal_init(&loop, &b.hangup);
    uv_timer_init(&loop, &b.timer);
    b.term.data = b.interrupt.data = b.hangup.data = b.timer.data = &b;
    notify_open(&b.notify);
    uint64_t idle_s =
        o->idle_s == 0 ? 0 : max_u64((uint64_t)o->idle_s, 4 * (uint64_t)o->heartbeat_ms / 1000 + 1);
    struct server_options so = {.ledger_path = o->ledger,
                                .endpoint = o->listen,
                                .insecure = o->insecure,
                                .curve_key = o->curve_key,
                                .allow = o->allow,
                                .heartbeat_ms = (uint64_t)o->heartbeat_ms,
                                .lease_ms = (uint64_t)o->lease_ms,
                                .max_attempts = (uint64_t)o->max_attempts,
                                .first_come = o->first_come,
                                .max_jobs = (uint64_t)o->max_jobs,
                                .max_bytes = (uint64_t)o->max_bytes,
                                .max_client_jobs = (uint64_t)o->max_client_jobs,
                                .max_client_bytes = (uint64_t)o->max_client_bytes,
                                .max_connections = room_for(o->max_connections),
                                .idle_s = idle_s,
                                .keep_s = (uint64_t)o->keep_s,
                                .backups = o->backups,
                                .models = o->models,
                                .metrics = o->metrics};
    enum err e = server_open(&loop, &so, &b.server, &why);
    if (e == ERR_OK) {
        check_backups(o->backups);
        uv_signal_start(&b.term, on_signal, SIGTERM);
        uv_signal_start(&b.interrupt, on_signal, SIGINT);
        uv_signal_start(&b.hangup, on_hangup, SIGHUP);
        if (b.notify.fd >= 0)
            uv_timer_start(&b.timer, on_timer, 0, notify_interval_ms(&b.notify));
        notify_send(&b.notify, "READY=1");
        if (o->die_with_parent && parent_is_gone())
            raise(SIGTERM);
    } else {
        fprintf(stderr, "octoflow-broker: %s\n", why.text);
        uv_close((uv_handle_t *)&b.term, NULL);
        uv_close((uv_handle_t *)&b.interrupt, NULL);
        uv_close((uv_handle_t *)&b.hangup, NULL);
        uv_close((uv_handle_t *)&b.timer, NULL);
    }
    uv_run(&loop, UV_RUN_DEFAULT);
    uv_loop_close(&loop);
    notify_close(&b.notify);
    if (e != ERR_OK)
        return e == ERR_USAGE ? EXIT_USAGE : EXIT_FATAL;
    log_info("broker stopped");
    return 0;
}

static int salvage(const struct broker_options *o)
{
    struct salvage_report r;
    struct err_msg why;
    if (salvage_ledger(o->ledger, o->salvage, &r, &why) != ERR_OK) {
        fprintf(stderr, "octoflow-broker: %s\n", why.text);
        return EXIT_FATAL;
    }
    printf("salvaged %s into %s: %" PRIu64 " pages, %" PRIu64 " rows not readable\n", o->ledger,
           o->salvage, r.pages, r.unreadable_rows);
    printf("batches: %" PRIu64 " kept, %" PRIu64 " lost\n", r.batches, r.batches_lost);
    printf("jobs: %" PRIu64 " kept, %" PRIu64 " lost\n", r.jobs, r.jobs_lost);
    printf("results: %" PRIu64 " kept, %" PRIu64 " lost\n", r.results, r.results_lost);
    if (r.rerun > 0)
        printf("jobs that run again, their results being lost: %" PRIu64 "\n", r.rerun);
    if (r.ids_lost > 0)
        printf("results without their custom_id, by their line's number alone: %" PRIu64 "\n",
               r.ids_lost);
    if (r.batches_renamed > 0)
        printf("batches without a readable name, now salvaged-ID: %" PRIu64 "\n",
               r.batches_renamed);
    if (r.batches_reopened > 0)
        printf("batches open again, as lines may be missing: %" PRIu64 "; submit their inputs "
               "again, what is there is not run twice\n",
               r.batches_reopened);
    return 0;
}

static int compact(const struct broker_options *o)
{
    uint64_t before = 0, after = 0;
    struct err_msg why;
    if (ledger_compact(o->ledger, &before, &after, &why) != ERR_OK) {
        fprintf(stderr, "octoflow-broker: %s\n", why.text);
        return EXIT_FATAL;
    }
    printf("%s: %" PRIu64 " bytes, before %" PRIu64 "\n", o->ledger, after, before);
    return 0;
}

int main(int argc, char **argv)
{
    struct broker_options o = {.heartbeat_ms = 2000,
                               .lease_ms = 60000,
                               .max_attempts = 3,
                               .max_jobs = 10000000,
                               .max_connections = 8192,
                               .idle_s = 3600,
                               .log_level = "info"};
    struct err_msg why = {{0}};
    int count = 0;
    enum log_level level = LOG_LEVEL_INFO;
    enum err e = options_parse(table, ARRAY_LEN(table), &o, argc - 1, argv + 1, &count, &why);
    if (e == ERR_CANCELLED) {
        print_help();
        return 0;
    }
    if (e == ERR_OK && o.version) {
        printf("octoflow-broker %s (%s)\n", OCTO_VERSION, OCTO_BUILD);
        return 0;
    }
    if (e == ERR_OK)
        e = log_level_parse(o.log_level, &level, &why);
    if (e == ERR_OK && (o.ledger == NULL || (o.listen == NULL && o.salvage == NULL && !o.compact)))
        e = err_set(&why, ERR_USAGE, "%s is missing (--help explains)",
                    o.ledger == NULL ? "--ledger FILE" : "--listen ENDPOINT");
    if (e == ERR_OK && count > 0)
        e = err_set(&why, ERR_USAGE, "argument \"%s\": none is expected (--help explains)",
                    argv[0]);
    if (e != ERR_OK) {
        fprintf(stderr, "octoflow-broker: %s\n", why.text);
        return EXIT_USAGE;
    }
    log_init("broker", level);
    if (o.salvage != NULL)
        return salvage(&o);
    if (o.compact)
        return compact(&o);
    if (o.die_with_parent && prctl(PR_SET_PDEATHSIG, SIGTERM) != 0)
        log_warn("cannot follow the parent process, it has to stop this broker itself");
    return run(&o);
}
