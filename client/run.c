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
#include "client/results.h"
#include "client/run_options.h"
#include "client/rundir.h"
#include "client/submit.h"
#include "model/chat.h"
#include "model/model.h"

enum {
    BROKER,
    WORKER, /* the order of starting */
    POLL_MS = 250,
    PUMP_MS = 50,
    CALL_TIMEOUT_MS = 300000,
    CALL_SLICE_MS = 1000,
    STOP_GRACE_MS = 10000,
};
/* A worker that was killed is missed after three of these. */
static const char heartbeat_ms[] = "1000";
/* After Ctrl-C the worker ends what takes no longer than this. */
static const char drain_s[] = "2";

struct run {
    struct run_options o;
    char batch[PROTO_MAX_ID_BYTES + 1];
    char model_hash[64], model_name[160];
    char shaping[512], otherwise[256];
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
    uint64_t started_ns, tokens_before;
    struct results_counts counts;
};

/* ---- signals ---- */

/* Set by the handler: how often it was asked to stop, and whom a second time kills. */
static volatile sig_atomic_t stop_asked;
static volatile sig_atomic_t pids[CHILDREN_MAX];

static void on_signal(int number)
{
    (void)number;
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
        sigemptyset(&a.sa_mask);
        /* under nohup a hang-up is to be ignored still */
        if (sigaction(numbers[i], NULL, &old) == 0 &&
            (numbers[i] == SIGINT || old.sa_handler != SIG_IGN))
            sigaction(numbers[i], &a, NULL);
    }
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN);
}

static bool hurry(void)
{
    return stop_asked > 1;
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
    struct lines *lines = NULL;
    struct stat in, out;
    enum err e = lines_open(r->o.input, LINES_MAX_BYTES, &lines, why);
    if (e != ERR_OK)
        return e;
    lines_close(&lines);
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
    const char *name = strrchr(r->o.model, '/');
    enum err e = model_open(r->o.model, &m, why);
    if (e != ERR_OK && strstr(why->text, name != NULL ? name + 1 : r->o.model) == NULL)
        return err_prefix(why, e, "%s", r->o.model);
    if (e != ERR_OK)
        return e;
    if (r->o.chat_template != NULL)
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
        .on_progress = on_submitted,
        .user = r,
    };
    bool existed = false;
    const struct rec_BATCH *b = NULL;
    const char *folder = strrchr(r->dir.path, '/');
    snprintf(r->otherwise, sizeof r->otherwise,
             "restore it, use another output file, or remove the folder %.120s to begin anew",
             folder != NULL ? folder + 1 : r->dir.path);
    enum err e = submit_open(&r->link, &s, &existed, &r->complete_before, why);
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
    for (;;) {
        const struct rec_BATCH *b = NULL;
        enum err e = link_status(&r->link, r->batch, &b, why);
        if (e != ERR_OK)
            return e;
        bool complete = link_batch_complete(b);
        if (complete)
            return ERR_OK;
        progress_show(&r->progress, b, clock_mono_ns());
        e = fetch_new(r, why);
        if (e == ERR_OK)
            e = look_after(r, POLL_MS, why);
        if (e != ERR_OK)
            return e;
    }
}

/* ---- the end ---- */

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
    for (size_t i = 0; i < c->reasons_count; i++)
        printf("  %s\n", c->reasons[i]);
    if (c->failed + c->cancelled > c->reasons_count)
        printf("  ... and %" PRIu64 " more without an answer\n",
               c->failed + c->cancelled - c->reasons_count);
    printf("results: %s\nledger and logs: %s\n", r->o.output, r->dir.path);
}

/* From an open folder to the final file. */
static enum err work(struct run *r, struct err_msg *why)
{
    enum err e = children_create(on_notice, r, &r->children, why);
    if (e == ERR_OK)
        e = start_broker(r, why);
    if (e == ERR_OK)
        e = link_open(&r->link, r->dir.endpoint, why);
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
    }
    return e;
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
        fprintf(stderr, "octoflow run: nothing that is done is lost. To resume, run the same "
                        "command again.\n");
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
    r->dir.lock_fd = -1;
    r->started_ns = clock_mono_ns();
    r->link = (struct link){
        .first_slice_ms = CALL_SLICE_MS, .timeout_ms = CALL_TIMEOUT_MS, .pump = pump, .user = r};
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
    }
    partial_close(&r->partial, false);
    link_close(&r->link);
    if (r->children != NULL)
        children_stop(r->children, STOP_GRACE_MS, hurry);
    for (int i = 0; i < CHILDREN_MAX; i++)
        pids[i] = 0;
    children_destroy(&r->children);
    code = finish(r, e, &why);
    rundir_close(&r->dir);
    free(r);
    return code;
}
