/* Child processes on a libuv loop; see children.h. */
#include "client/children.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <uv.h>

#include "base/clock.h"
#include "base/log.h"

enum {
    WAIT_FIRST_MS = 100,
    WAIT_MOST_MS = 10000,
    QUICK_DEATHS_MOST = 10, /* in a row: then it is not going to work */
    LOG_TAIL_BYTES = 4096,
    EXIT_USAGE_CODE = 2,
    EXIT_FATAL_CODE = 3,
    EXIT_LOST_CODE = 4,
};
static const uint64_t quick_ns = 10 * NS_PER_S;

struct child {
    struct children *owner;
    struct child_spec spec;
    uv_process_t process;
    bool open;                       /* the handle is */
    bool running;                    /* the process is */
    bool lost;                       /* its GPU, and it has not run for long since */
    uint64_t started_ns, restart_ns; /* restart_ns 0: none is due */
    unsigned wait_ms, quick_deaths;
    long log_start; /* the log's length when it was started last */
};

struct children {
    uv_loop_t loop;
    uv_timer_t timer;
    bool stopping, rang;
    void (*on_notice)(void *user);
    void *user;
    struct child items[CHILDREN_MAX];
    unsigned count;
    enum err failed;
    struct err_msg failure;
};

/* ---- a child's last words ---- */

/* The message of "2026-...Z error program: text" is its text. */
static const char *strip_stamp(const char *line)
{
    const char *at = strstr(line, ": ");
    bool stamped = line[0] >= '0' && line[0] <= '9' && strchr(line, 'Z') != NULL;
    return stamped && at != NULL ? at + 2 : line;
}

/* The last error line since the child's start, else the last line. */
static void last_words(const struct child *c, char *out, size_t size)
{
    char tail[LOG_TAIL_BYTES + 1];
    out[0] = '\0';
    int fd = open(c->spec.log, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return;
    off_t end = lseek(fd, 0, SEEK_END);
    off_t from = end - LOG_TAIL_BYTES > c->log_start ? end - LOG_TAIL_BYTES : c->log_start;
    ssize_t n = pread(fd, tail, LOG_TAIL_BYTES, from > 0 ? from : 0);
    close(fd);
    tail[n > 0 ? n : 0] = '\0';
    const char *best = "";
    bool best_is_error = false;
    for (char *line = strtok(tail, "\n"); line != NULL; line = strtok(NULL, "\n")) {
        bool is_error = strstr(line, "Z error ") != NULL;
        if (is_error || !best_is_error)
            best = line;
        best_is_error = best_is_error || is_error;
    }
    snprintf(out, size, "%s", strip_stamp(best));
}

static void fail(struct child *c, const char *what)
{
    struct children *all = c->owner;
    char words[300];
    if (all->failed != ERR_OK)
        return;
    last_words(c, words, sizeof words);
    all->failed = err_set(&all->failure, ERR_IO, "%s %s: %s (log: %s)", c->spec.name, what,
                          words[0] != '\0' ? words : "it said nothing", c->spec.log);
}

/* ---- life and death ---- */

static void on_closed(uv_handle_t *handle)
{
    struct child *c = handle->data;
    c->open = false;
}

static void on_exit_of(uv_process_t *process, int64_t status, int signal_number)
{
    struct child *c = process->data;
    c->running = false;
    uv_close((uv_handle_t *)process, on_closed);
    if (c->owner->stopping)
        return;
    uint64_t now_ns = clock_mono_ns();
    bool quick = now_ns - c->started_ns < quick_ns;
    c->lost = (c->lost && quick) || (signal_number == 0 && status == EXIT_LOST_CODE);
    /* A card that was lost, or its driver, may be away for a moment. */
    if (signal_number == 0 &&
        (status == EXIT_USAGE_CODE || (status == EXIT_FATAL_CODE && !c->lost))) {
        fail(c, "cannot run");
        return;
    }
    c->quick_deaths = quick ? c->quick_deaths + 1 : 0;
    if (!quick)
        c->wait_ms = WAIT_FIRST_MS;
    if (c->quick_deaths >= QUICK_DEATHS_MOST) {
        fail(c, "dies again and again");
        return;
    }
    if (c->owner->on_notice != NULL)
        c->owner->on_notice(c->owner->user);
    char words[300] = "";
    if (c->quick_deaths <= 1) /* of several in a row the first says it */
        last_words(c, words, sizeof words);
    log_warn("%s ended, starting it again exit=%lld signal=%d wait_ms=%u%s%s%s", c->spec.name,
             (long long)status, signal_number, c->wait_ms, words[0] != '\0' ? " last_words=\"" : "",
             words, words[0] != '\0' ? "\"" : "");
    c->restart_ns = now_ns + c->wait_ms * NS_PER_MS;
    c->wait_ms = c->wait_ms * 2 < WAIT_MOST_MS ? c->wait_ms * 2 : WAIT_MOST_MS;
}

static enum err spawn(struct child *c, struct err_msg *why)
{
    int log = open(c->spec.log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    if (log < 0)
        return err_set(why, ERR_IO, "%s: cannot create: %s", c->spec.log, strerror(errno));
    c->log_start = (long)lseek(log, 0, SEEK_END);
    uv_stdio_container_t stdio[3] = {
        {.flags = UV_IGNORE},
        {.flags = UV_INHERIT_FD, .data.fd = log},
        {.flags = UV_INHERIT_FD, .data.fd = log},
    };
    /* uv_spawn wants non-const strings, and leaves them alone */
    char *args[CHILD_MAX_ARGS];
    memcpy(args, c->spec.args, sizeof args);
    uv_process_options_t o = {.exit_cb = on_exit_of,
                              .file = c->spec.path,
                              .args = args,
                              .flags = UV_PROCESS_DETACHED,
                              .stdio = stdio,
                              .stdio_count = 3};
    c->process.data = c;
    c->started_ns = clock_mono_ns();
    c->restart_ns = 0;
    c->open = true;
    int e = uv_spawn(&c->owner->loop, &c->process, &o);
    close(log);
    c->running = e == 0;
    if (e != 0) {
        uv_close((uv_handle_t *)&c->process, on_closed);
        return err_set(why, ERR_IO, "%s: cannot start: %s", c->spec.path, uv_strerror(e));
    }
    return ERR_OK;
}

static void on_timer(uv_timer_t *timer)
{
    struct children *c = timer->data;
    c->rang = true;
}

enum err children_create(void (*on_notice)(void *user), void *user, struct children **ret,
                         struct err_msg *why)
{
    struct children *c = calloc(1, sizeof *c);
    if (c == NULL)
        return err_set(why, ERR_NOMEM, "child processes: out of memory");
    if (uv_loop_init(&c->loop) != 0) {
        free(c);
        return err_set(why, ERR_IO, "cannot make an event loop");
    }
    uv_timer_init(&c->loop, &c->timer);
    c->timer.data = c;
    c->on_notice = on_notice;
    c->user = user;
    *ret = c;
    return ERR_OK;
}

enum err children_start(struct children *c, const struct child_spec *spec, struct err_msg *why)
{
    struct child *child = &c->items[c->count];
    if (c->count == CHILDREN_MAX)
        return err_set(why, ERR_FULL, "%s: too many child processes", spec->name);
    *child = (struct child){.owner = c, .spec = *spec, .wait_ms = WAIT_FIRST_MS};
    enum err e = spawn(child, why);
    if (e == ERR_OK)
        c->count++;
    else
        uv_run(&c->loop, UV_RUN_NOWAIT);
    return e;
}

enum err children_pump(struct children *c, unsigned ms, struct err_msg *why)
{
    c->rang = false;
    uv_update_time(&c->loop);
    /* Repeating: UV_RUN_ONCE runs timers that are due before it waits, and with a timer that has
     * run already it would wait for good. */
    uv_timer_start(&c->timer, on_timer, ms, ms > 0 ? ms : 1);
    while (!c->rang)
        uv_run(&c->loop, ms > 0 ? UV_RUN_ONCE : UV_RUN_NOWAIT);
    uv_timer_stop(&c->timer);
    uint64_t now_ns = clock_mono_ns();
    for (unsigned i = 0; i < c->count && c->failed == ERR_OK && !c->stopping; i++) {
        struct child *child = &c->items[i];
        if (child->restart_ns != 0 && now_ns >= child->restart_ns && !child->open)
            c->failed = spawn(child, &c->failure);
    }
    return c->failed == ERR_OK ? ERR_OK : err_set(why, c->failed, "%s", c->failure.text);
}

void children_do_well(struct children *c)
{
    for (unsigned i = 0; i < c->count; i++) {
        c->items[i].quick_deaths = 0;
        c->items[i].wait_ms = WAIT_FIRST_MS;
    }
}

static void stop_one(struct children *c, struct child *child, unsigned grace_ms)
{
    uint64_t kill_ns = clock_mono_ns() + grace_ms * NS_PER_MS;
    bool killed = false;
    struct err_msg ignored;
    child->restart_ns = 0;
    if (child->running)
        uv_process_kill(&child->process, SIGTERM);
    while (child->open) {
        if (!killed && child->running && clock_mono_ns() >= kill_ns) {
            uv_process_kill(&child->process, SIGKILL);
            killed = true;
        }
        if (children_pump(c, 20, &ignored) != ERR_OK)
            continue; /* it is stopping that matters now */
    }
}

void children_stop(struct children *c, unsigned grace_ms)
{
    c->stopping = true;
    /* One that is stopped (SIGSTOP) hears no SIGTERM, and those that need its answer wait. */
    for (unsigned i = 0; i < c->count; i++) {
        if (c->items[i].running)
            uv_process_kill(&c->items[i].process, SIGCONT);
    }
    for (unsigned i = c->count; i > 0; i--)
        stop_one(c, &c->items[i - 1], grace_ms);
}

int children_pid(const struct children *c, unsigned number)
{
    return number < c->count && c->items[number].running ? c->items[number].process.pid : 0;
}

void children_destroy(struct children **c)
{
    if (*c == NULL)
        return;
    children_stop(*c, 0);
    uv_close((uv_handle_t *)&(*c)->timer, NULL);
    uv_run(&(*c)->loop, UV_RUN_DEFAULT);
    uv_loop_close(&(*c)->loop);
    free(*c);
    *c = NULL;
}
