/* octoflow-broker: options, signals, the loop. Everything else is server.h's. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>
#include <uv.h>

#include "base/log.h"
#include "base/options.h"
#include "base/size.h"
#include "broker/server.h"
#include "octo_build.h"

enum { EXIT_USAGE = 2, EXIT_FATAL = 3 };

struct broker_options {
    const char *ledger, *listen, *log_level;
    int64_t heartbeat_ms, lease_ms, max_attempts;
    bool insecure, die_with_parent, version;
};

#define AT(field) offsetof(struct broker_options, field)

static const struct option table[] = {
    {"ledger", 0, OPTION_STRING, AT(ledger), .arg = "FILE",
     .help = "the store of batches and results; created when it is not there"},
    {"listen", 0, OPTION_STRING, AT(listen), .arg = "ENDPOINT",
     .help = "ipc://PATH or tcp://127.0.0.1:PORT, where workers and clients connect"},
    {"insecure", 0, OPTION_FLAG, AT(insecure),
     .help = "allow a TCP address that other machines can reach: no encryption, no passwords"},
    {"heartbeat-ms", 0, OPTION_INT, AT(heartbeat_ms), .min = 20, .max = 600000, .arg = "MS",
     .help = "workers beat this often; after three missed beats their jobs go to others "
             "(default 2000)"},
    {"lease-ms", 0, OPTION_INT, AT(lease_ms), .min = 50, .max = 86400000, .arg = "MS",
     .help = "a job that no beat names for this long goes to another worker (default 60000)"},
    {"max-attempts", 0, OPTION_INT, AT(max_attempts), .min = 1, .max = 100, .arg = "N",
     .help = "a job fails as poison after this many lost workers or leases, unless its batch says "
             "otherwise (default 3)"},
    {"log-level", 0, OPTION_STRING, AT(log_level), .arg = "LEVEL",
     .help = "error, warn, info or debug (default info)"},
    {"die-with-parent", 0, OPTION_FLAG, AT(die_with_parent),
     .help = "stop when the process that started this one ends"},
    {"version", 0, OPTION_FLAG, AT(version), .help = "print the version and exit"},
};

struct broker {
    struct server *server;
    uv_signal_t term, interrupt;
};

static void print_help(void)
{
    printf("octoflow-broker: keeps batches in a ledger and hands their jobs to workers\n\n"
           "usage: octoflow-broker --ledger FILE --listen ENDPOINT [options]\n\n");
    options_print(table, ARRAY_LEN(table), stdout);
    printf("\nSIGTERM and SIGINT: commit and acknowledge what is pending, then exit with 0.\n"
           "Exit status: 0 stopped, 2 wrong usage, 3 cannot start.\n");
}

static void on_signal(uv_signal_t *handle, int number)
{
    struct broker *b = handle->data;
    log_info("stopping signal=%s", number == SIGTERM ? "SIGTERM" : "SIGINT");
    server_close(&b->server);
    uv_close((uv_handle_t *)&b->term, NULL);
    uv_close((uv_handle_t *)&b->interrupt, NULL);
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
    b.term.data = b.interrupt.data = &b;
    struct server_options so = {.ledger_path = o->ledger,
                                .endpoint = o->listen,
                                .insecure = o->insecure,
                                .heartbeat_ms = (uint64_t)o->heartbeat_ms,
                                .lease_ms = (uint64_t)o->lease_ms,
                                .max_attempts = (uint64_t)o->max_attempts};
    enum err e = server_open(&loop, &so, &b.server, &why);
    if (e == ERR_OK) {
        uv_signal_start(&b.term, on_signal, SIGTERM);
        uv_signal_start(&b.interrupt, on_signal, SIGINT);
        if (o->die_with_parent && parent_is_gone())
            raise(SIGTERM);
    } else {
        fprintf(stderr, "octoflow-broker: %s\n", why.text);
        uv_close((uv_handle_t *)&b.term, NULL);
        uv_close((uv_handle_t *)&b.interrupt, NULL);
    }
    uv_run(&loop, UV_RUN_DEFAULT);
    uv_loop_close(&loop);
    if (e != ERR_OK)
        return e == ERR_USAGE ? EXIT_USAGE : EXIT_FATAL;
    log_info("broker stopped");
    return 0;
}

int main(int argc, char **argv)
{
    struct broker_options o = {
        .heartbeat_ms = 2000, .lease_ms = 60000, .max_attempts = 3, .log_level = "info"};
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
    if (e == ERR_OK && (o.ledger == NULL || o.listen == NULL))
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
    if (o.die_with_parent && prctl(PR_SET_PDEATHSIG, SIGTERM) != 0)
        log_warn("cannot follow the parent process, it has to stop this broker itself");
    return run(&o);
}
