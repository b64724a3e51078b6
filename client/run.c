/* octoflow run: the whole system in small. A real broker and a real worker as child processes on an
 * ipc endpoint beside the output file; what happens here is what a cluster's client does, one step
 * after the other: open the batch, submit, follow, write. */
#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "client/children.h"
#include "client/client.h"
#include "client/devices.h"
#include "client/lines.h"
#include "client/progress.h"
#include "client/report.h"
#include "client/run_options.h"
#include "client/rundir.h"
#include "client/submit.h"
#include "model/chat.h"
#include "model/model.h"
#include "model/tokenizer.h"

enum {
    BROKER,
    WORKER, /* the order of starting */
    POLL_MS = 250,
    PUMP_MS = 50,
    CALL_TIMEOUT_MS = 300000, /* for the first answer; later a broker that lives is waited for */
    CALL_SLOW_MS = 5000,
    STOP_GRACE_MS = 10000,
};
/* A worker that was killed is missed after three of these. */
static const char heartbeat_ms[] = "1000";
/* After Ctrl-C the worker ends what takes no longer than this. */
static const char drain_s[] = "2";
/* timeout(1), and others who stop a whole group, say it twice at once and mean it once. */
static const uint64_t once_ns = NS_PER_S / 4;

struct run {
    struct run_options o;
    char batch[PROTO_MAX_ID_BYTES + 1];
    char model_hash[64], model_name[160];
    char shaping[512], otherwise[256], otherwise_options[256];
    struct rundir dir;
    char broker_path[PATH_MAX], worker_path[PATH_MAX], broker_log[PATH_MAX], worker_log[PATH_MAX];
    struct run_worker_args worker_args;
    struct children *children;
    struct link link;
    struct partial *partial;
    bool partial_tried;
    struct progress progress;
    struct submit_counts submitted;
    bool is_submitted, complete_before;
    bool is_file;     /* the input: it can be read again */
    bool done_before; /* the folder's run on this input */
    bool anew;        /* --overwrite, and that run had another content or other options */
    uint64_t started_ns, tokens_before;
    struct results_counts counts;
    char *devices; /* their lines of the summary; NULL: none */
};

/* ---- signals ---- */

/* Set by the handler: how often it was asked to stop, and whom a second time kills. */
static volatile sig_atomic_t stop_asked;
static volatile uint64_t asked_ns; /* read and written by the handler alone */
static volatile sig_atomic_t pids[CHILDREN_MAX];

static void on_signal(int number)
{
    (void)number;
    uint64_t now_ns = clock_mono_ns();
    if (stop_asked == 0)
        asked_ns = now_ns;
    else if (now_ns - asked_ns < once_ns)
        return;
    stop_asked = stop_asked + 1;
    if (stop_asked < 2)
        return;
    for (int i = 0; i < CHILDREN_MAX; i++) {
        if (pids[i] > 0)
            kill((pid_t)pids[i], SIGKILL);
    }
    static const char text[] = "\noctoflow run: stopped at once; nothing that is done is lost. To "
                               "resume, run the same command again.\n";
    if (write(STDERR_FILENO, text, sizeof text - 1) < 0)
        _exit(EXIT_FATAL);
    _exit(EXIT_FATAL);
}

static void catch_signals(void)
{
    static const int numbers[] = {SIGINT, SIGTERM, SIGHUP};
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
        struct sigaction old, a = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
        sigfillset(&a.sa_mask); /* one at a time */
        /* under nohup a hang-up is to be ignored still */
        if (sigaction(numbers[i], NULL, &old) == 0 &&
            (numbers[i] == SIGINT || old.sa_handler != SIG_IGN))
            sigaction(numbers[i], &a, NULL);
    }
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN);
}

static void on_notice(void *user)
{
    struct run *r = user;
    progress_clear(&r->progress);
}

/* Looks after the children for a while; ERR_CANCELLED when it is time to stop. */
static enum err look_after(struct run *r, unsigned ms, struct err_msg *why)
{
    uint64_t end_ns = clock_mono_ns() + ms * NS_PER_MS;
    do {
        enum err e = children_pump(r->children, ms > 0 ? PUMP_MS : 0, why);
        for (unsigned i = 0; i < CHILDREN_MAX; i++)
            pids[i] = children_pid(r->children, i);
        if (stop_asked > 0)
            return err_set(why, ERR_CANCELLED, "stopped");
        if (e != ERR_OK)
            return e;
    } while (clock_mono_ns() < end_ns);
    return ERR_OK;
}

static enum err pump(void *user, struct err_msg *why)
{
    return look_after(user, 0, why);
}

/* ---- before anything is started ---- */

static enum err check_files(struct run *r, struct err_msg *why)
{
    struct stat in, out;
    bool empty = false;
    enum err e = lines_check(r->o.input, &r->is_file, &empty, why);
    if (e != ERR_OK)
        return e;
    if (empty)
        fprintf(stderr, "octoflow run: warning: %s has no lines\n", r->o.input);
    if (stat(r->o.input, &in) == 0 && stat(r->o.output, &out) == 0 && in.st_dev == out.st_dev &&
        in.st_ino == out.st_ino)
        return err_set(why, ERR_USAGE, "%s is the input and the output: choose another output",
                       r->o.output);
    return results_check_path(r->o.output, why);
}

/* A model that cannot run is found out here, before a process is started for it. */
static enum err check_model(struct run *r, struct err_msg *why)
{
    struct model *m = NULL;
    struct chat_template *t = NULL;
    struct tokenizer *tokenizer = NULL;
    const char *name = strrchr(r->o.model, '/');
    enum err e = model_open(r->o.model, &m, why);
    if (e != ERR_OK && strstr(why->text, name != NULL ? name + 1 : r->o.model) == NULL)
        return err_prefix(why, e, "%s", r->o.model);
    if (e != ERR_OK)
        return e;
    /* also before the options are in the ledger, where others would be another run's */
    e = tokenizer_create(m->gguf, r->o.pre_tokenizer, &tokenizer, why);
    tokenizer_destroy(&tokenizer);
    if (e == ERR_OK && r->o.chat_template != NULL)
        e = chat_template_create(m->gguf, r->o.chat_template, &t, why);
    chat_template_destroy(&t);
    if (e == ERR_OK) {
        const char *hash = gguf_hash(m->gguf);
        snprintf(r->model_hash, sizeof r->model_hash, "%s", hash != NULL ? hash : "");
        snprintf(r->model_name, sizeof r->model_name, "%s", m->name);
    }
    model_close(&m);
    return e;
}

/* Everything that shapes the outputs: a resume with another of these would mix two runs. */
static void describe_shaping(struct run *r)
{
    char content[24] = "";
    uint64_t hash = 0;
    struct stat st;
    struct err_msg ignored;
    /* of a template in a file it is the text that counts */
    if (r->o.chat_template != NULL && stat(r->o.chat_template, &st) == 0 && S_ISREG(st.st_mode) &&
        lines_hash_file(r->o.chat_template, &hash, &ignored) == ERR_OK)
        snprintf(content, sizeof content, ":%016" PRIx64, hash);
    snprintf(r->shaping, sizeof r->shaping,
             "model=%s max_tokens=%" PRId64 " seed=%" PRId64 " ctx=%" PRId64
             " chat_template=%.60s%s pre_tokenizer=%.60s",
             r->model_hash, r->o.max_tokens, r->o.seed, r->o.ctx,
             r->o.chat_template != NULL ? r->o.chat_template : "file", content,
             r->o.pre_tokenizer != NULL ? r->o.pre_tokenizer : "file");
}

static enum err open_dir(struct run *r, struct err_msg *why)
{
    enum err e = rundir_open(r->o.output, &r->dir, why);
    if (e != ERR_OK)
        return e;
    if (!r->o.overwrite && !rundir_has_ledger(&r->dir) && access(r->o.output, F_OK) == 0)
        return err_set(
            why, ERR_CONFLICT,
            "%s is there, and not from a run that can be resumed: choose another output, "
            "or say --overwrite",
            r->o.output);
    if ((size_t)snprintf(r->broker_log, sizeof r->broker_log, "%s/broker.log", r->dir.path) >=
            sizeof r->broker_log ||
        (size_t)snprintf(r->worker_log, sizeof r->worker_log, "%s/worker.log", r->dir.path) >=
            sizeof r->worker_log)
        return err_set(why, ERR_RANGE, "%.200s...: path too long", r->dir.path);
    e = rundir_find_program("octoflow-broker", r->broker_path, why);
    return e == ERR_OK ? rundir_find_program("octoflow-worker", r->worker_path, why) : e;
}

/* ---- the programs ---- */

static enum err start_broker(struct run *r, struct err_msg *why)
{
    struct child_spec spec = {
        .name = "octoflow-broker",
        .path = r->broker_path,
        .log = r->broker_log,
        .args = {r->broker_path, "--ledger", r->dir.ledger, "--listen", r->dir.endpoint,
                 "--heartbeat-ms", heartbeat_ms, "--die-with-parent"},
    };
    if (r->o.log_level != NULL) {
        spec.args[8] = "--log-level";
        spec.args[9] = r->o.log_level;
    }
    return children_start(r->children, &spec, why);
}

/* "all" is one worker per hardware GPU; the worker's own `--device all` knows no software device,
 * so it is decided here. */
static const char *choose_device(const struct run *r)
{
    struct devices d;
    if (strcmp(r->o.device, "all") != 0)
        return r->o.device;
    devices_list(r->worker_path, &d);
    if (d.hardware == 0 && d.software > 0)
        fprintf(stderr,
                "octoflow run: NO GPU was found: running on the CPU (%s), which is very slow\n",
                d.first_software);
    return d.hardware > 1 ? "all" : "auto";
}

static enum err start_worker(struct run *r, struct err_msg *why)
{
    struct child_spec spec = {
        .name = "octoflow-worker",
        .path = r->worker_path,
        .log = r->worker_log,
        .args = {r->worker_path, "--broker", r->dir.endpoint, "--model", r->o.model, "--device",
                 choose_device(r), "--drain-s", drain_s, "--die-with-parent"},
    };
    unsigned at = 10;
    run_options_worker_args(&r->o, &r->worker_args, &spec, &at);
    return children_start(r->children, &spec, why);
}

/* ---- following ---- */

static void on_submitted(void *user, uint64_t lines)
{
    struct run *r = user;
    struct rec_BATCH so_far = {.total = lines, .problem = STR_LIT("submitting")};
    progress_show(&r->progress, &so_far, clock_mono_ns());
}

static const char *folder_name(const struct run *r)
{
    const char *slash = strrchr(r->dir.path, '/');
    return slash != NULL ? slash + 1 : r->dir.path;
}

/* An output's folder has the run on one input. What is undone of another one would take its part of
 * the device, and the answers to another one would be replaced. */
static enum err check_batch(struct run *r, struct err_msg *why)
{
    struct msg m = {.type = MSG_TYPE_STATUS};
    const struct msg *reply = NULL;
    enum err e = link_call(&r->link, &m, MSG_TYPE_STATUS_OK, &reply, why);
    if (e != ERR_OK)
        return e;
    for (size_t i = 0; i < reply->status_ok.batches.count; i++) {
        const struct rec_BATCH *b = &reply->status_ok.batches.items[i];
        bool done = link_batch_complete(b), newest = i + 1 == reply->status_ok.batches.count;
        bool ours = str_eq(b->batch, str_of(r->batch));
        r->done_before = r->done_before || (ours && done);
        if (ours || (done && (!newest || r->o.overwrite)))
            continue;
        if (done)
            return err_set(why, ERR_CONFLICT,
                           "%s: its folder has a run on \"%.*s\", now it is \"%s\": choose another "
                           "output, or say --overwrite",
                           r->o.output, STR_ARG(b->batch), r->batch);
        return err_set(why, ERR_CONFLICT,
                       "%s: its folder has an unfinished run on \"%.*s\", now it is \"%s\": choose "
                       "another output, or remove the folder %.120s to begin anew",
                       r->o.output, STR_ARG(b->batch), r->batch, folder_name(r));
    }
    return ERR_OK;
}

/* What to do about an input that was edited, or other options. What is undone is not thrown away,
 * as a script may say --overwrite always. */
static void say_otherwise(struct run *r)
{
    char way[200];
    if (r->done_before && r->is_file)
        snprintf(way, sizeof way, "use another output file, or say --overwrite to begin anew");
    else
        snprintf(way, sizeof way,
                 "use another output file, or remove the folder %.120s to begin anew",
                 folder_name(r));
    snprintf(r->otherwise, sizeof r->otherwise, "restore it, %s", way);
    snprintf(r->otherwise_options, sizeof r->otherwise_options, "say that again, %s", way);
}

static enum err submit(struct run *r, struct err_msg *why)
{
    struct submit_options s = {
        .path = r->o.input,
        .batch = r->batch,
        .model = r->model_hash,
        .shaping = r->shaping,
        .max_attempts = (uint64_t)r->o.max_attempts,
        .request = {.max_tokens = (uint64_t)r->o.max_tokens, .batch_seed = (uint64_t)r->o.seed},
        .otherwise = r->otherwise,
        .otherwise_options = r->otherwise_options,
        .on_progress = on_submitted,
        .user = r,
    };
    bool existed = false;
    const struct rec_BATCH *b = NULL;
    enum err e = check_batch(r, why);
    bool checked = e == ERR_OK;
    say_otherwise(r);
    if (e == ERR_OK)
        e = submit_open(&r->link, &s, &existed, &r->complete_before, NULL, why);
    r->link.command = "run";
    r->link.patient = true;
    if (e == ERR_OK && existed) {
        e = link_status(&r->link, r->batch, &b, why);
        if (e == ERR_OK) {
            r->tokens_before = b->completion_tokens;
            printf("resuming %s: %" PRIu64 " of %" PRIu64 " lines are done\n", r->batch,
                   link_batch_finished(b), b->total);
            fflush(stdout);
        }
    }
    if (e == ERR_OK && !r->complete_before)
        e = start_worker(r, why);
    if (e == ERR_OK)
        e = submit_lines(&r->link, &s, &r->submitted, why);
    progress_clear(&r->progress);
    r->is_submitted = e == ERR_OK;
    r->anew = checked && e == ERR_CONFLICT && r->o.overwrite && r->done_before && r->is_file;
    return e;
}

/* The partial file is a convenience: when it cannot be written, the run goes on without. */
static enum err fetch_new(struct run *r, struct err_msg *why)
{
    struct err_msg problem = {{0}};
    uint64_t count = 1;
    enum err e = ERR_OK;
    if (!r->partial_tried) {
        r->partial_tried = true;
        e = partial_open(r->dir.partial, &r->partial, &problem);
    }
    while (e == ERR_OK && r->partial != NULL && count > 0) {
        e = partial_fetch(r->partial, &r->link, r->batch, &count, &problem);
        if (e == ERR_OK && stop_asked > 0)
            break;
    }
    if (e == ERR_OK)
        return ERR_OK;
    if (r->partial == NULL || strstr(problem.text, r->dir.partial) != NULL) {
        on_notice(r);
        log_warn("going on without the partial file error=\"%s\"", problem.text);
        partial_close(&r->partial, false);
        return ERR_OK;
    }
    return err_set(why, e, "%s", problem.text);
}

static enum err follow(struct run *r, struct err_msg *why)
{
    uint64_t finished = 0;
    for (;;) {
        const struct rec_BATCH *b = NULL;
        enum err e = link_status(&r->link, r->batch, &b, why);
        if (e != ERR_OK)
            return e;
        bool complete = link_batch_complete(b);
        if (complete)
            return ERR_OK;
        progress_show(&r->progress, b, clock_mono_ns());
        if (link_batch_finished(b) > finished)
            children_do_well(r->children);
        finished = link_batch_finished(b);
        e = fetch_new(r, why);
        if (e == ERR_OK)
            e = look_after(r, POLL_MS, why);
        if (e != ERR_OK)
            return e;
    }
}

/* ---- the end ---- */

/* While the workers are there. The run is done: without this nothing is missing. */
static void note_devices(struct run *r)
{
    struct msg m = {.type = MSG_TYPE_STATUS};
    const struct msg *reply = NULL;
    size_t size = 0;
    m.status.batch = str_of(r->batch);
    if (link_call(&r->link, &m, MSG_TYPE_STATUS_OK, &reply, NULL) != ERR_OK)
        return;
    FILE *out = open_memstream(&r->devices, &size);
    if (out == NULL)
        return;
    report_devices(out, &reply->status_ok);
    fclose(out);
}

static void print_summary(const struct run *r)
{
    const struct results_counts *c = &r->counts;
    double seconds = (double)(clock_mono_ns() - r->started_ns) / 1e9;
    uint64_t tokens =
        c->completion_tokens > r->tokens_before ? c->completion_tokens - r->tokens_before : 0;
    printf("%" PRIu64 " lines: %" PRIu64 " answered, %" PRIu64 " failed", c->lines, c->answered,
           c->failed);
    if (c->cancelled > 0)
        printf(", %" PRIu64 " cancelled", c->cancelled);
    if (r->complete_before)
        printf("; all of it was done before\n");
    else
        printf("; %" PRIu64 " tokens in %.1f s, %.1f tokens/s\n", tokens, seconds,
               (double)tokens / seconds);
    report_reasons(stdout, c);
    report_energy(stdout, c);
    fputs(r->devices != NULL ? r->devices : "", stdout);
    printf("results: %s\nledger and logs: %s\n", r->o.output, r->dir.path);
}

static void init_link(struct run *r)
{
    r->link = (struct link){.timeout_ms = CALL_TIMEOUT_MS,
                            .slow_ms = CALL_SLOW_MS,
                            .progress = &r->progress,
                            .pump = pump,
                            .user = r};
}

/* From an open folder to the final file. */
static enum err work(struct run *r, struct err_msg *why)
{
    enum err e = children_create(on_notice, r, &r->children, why);
    if (e == ERR_OK)
        e = start_broker(r, why);
    if (e == ERR_OK)
        e = link_open(&r->link, r->dir.endpoint, NULL, why);
    if (e == ERR_OK)
        e = submit(r, why);
    if (e == ERR_OK)
        e = follow(r, why);
    progress_clear(&r->progress);
    if (e == ERR_OK)
        e = results_write(&r->link, r->batch, r->o.output, &r->counts, why);
    if (e == ERR_OK) {
        partial_close(&r->partial, true);
        unlink(r->dir.partial); /* of an earlier run */
        note_devices(r);
    }
    return e;
}

static void stop_children(struct run *r)
{
    if (r->children != NULL)
        children_stop(r->children, STOP_GRACE_MS);
    for (int i = 0; i < CHILDREN_MAX; i++)
        pids[i] = 0;
    children_destroy(&r->children);
}

/* The answers in the folder are not those of this run: away with them. */
static enum err begin_anew(struct run *r, struct err_msg *why)
{
    const char *otherwise = strrchr(why->text, ';');
    int len = otherwise != NULL ? (int)(otherwise - why->text) : (int)strlen(why->text);
    fprintf(stderr, "octoflow run: beginning anew (--overwrite): %.*s\n", len, why->text);
    link_close(&r->link);
    stop_children(r);
    partial_close(&r->partial, false);
    r->partial_tried = r->anew = r->done_before = r->complete_before = false;
    r->tokens_before = 0;
    r->submitted = (struct submit_counts){0};
    init_link(r);
    enum err e = rundir_remove_ledger(&r->dir, why);
    return e == ERR_OK ? work(r, why) : e;
}

static int finish(struct run *r, enum err e, const struct err_msg *why)
{
    if (e == ERR_OK) {
        print_summary(r);
        return r->counts.answered == r->counts.lines ? EXIT_ALL_DONE : EXIT_SOME_FAILED;
    }
    if (e == ERR_CANCELLED) {
        fprintf(stderr, "octoflow run: stopped; nothing that is done is lost. To resume, run the "
                        "same command again.\n");
        return EXIT_FATAL;
    }
    int code = client_fail("run", e, why);
    if (r->is_submitted)
        fprintf(stderr, "octoflow run: nothing that is done is lost. Once that is put right, the "
                        "same command goes on where it was.\n");
    return code;
}

int cmd_run(int argc, char **argv)
{
    struct err_msg why = {{0}};
    struct run *r = calloc(1, sizeof *r);
    if (r == NULL)
        return client_fail("run", ERR_NOMEM, &why);
    int code = run_options_parse(argc, argv, &r->o);
    if (code >= 0) {
        free(r);
        return code;
    }
    unsetenv("NOTIFY_SOCKET"); /* should this be a service: its broker and workers are none */
    r->dir.lock_fd = -1;
    r->started_ns = clock_mono_ns();
    init_link(r);
    progress_start(&r->progress, isatty(STDERR_FILENO) == 1);
    if (r->o.batch != NULL)
        snprintf(r->batch, sizeof r->batch, "%s", r->o.batch);
    else
        submit_batch_name(r->o.input, r->batch);
    enum err e = check_files(r, &why);
    if (e == ERR_OK)
        e = check_model(r, &why);
    if (e == ERR_OK) {
        describe_shaping(r);
        e = open_dir(r, &why);
    }
    if (e == ERR_OK) {
        catch_signals();
        e = work(r, &why);
        if (r->anew)
            e = begin_anew(r, &why);
    }
    partial_close(&r->partial, false);
    link_close(&r->link);
    if (e == ERR_CANCELLED)
        fprintf(stderr,
                "octoflow run: stopping; answers that take less than %s s more are "
                "finished. Ctrl-C again stops at once.\n",
                drain_s);
    stop_children(r);
    code = finish(r, e, &why);
    rundir_close(&r->dir);
    free(r->devices);
    free(r);
    return code;
}
