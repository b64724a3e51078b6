/* See supervisor.h. */
#include "worker/supervisor.h"

#include <errno.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
#include <uv.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/notify.h"
#include "base/size.h"
#include "worker/options.h"

static const uint64_t healthy_ns = 60 * NS_PER_S;
static const uint64_t start_most_ns = 30 * 60 * NS_PER_S; /* as the unit's TimeoutStartSec */
enum { WAIT_FIRST_MS = 1000, WAIT_MOST_MS = 30000, MAX_ARGS = 256 };

struct supervisor;

struct child {
    struct supervisor *owner;
    struct supervisor_child who;
    uv_process_t process;
    uv_timer_t timer;
    bool running, over;
    bool lost; /* its GPU: until it has run for a while, having none is not for good */
    uint64_t started_ns;
    uint64_t wait_ms;
    /* With a watchdog: where it says that it is well, as to a service manager. */
    int ear; /* -1: nobody listens */
    char ear_name[16];
    bool ready, given_up;
    uint64_t heard_ns;
};

struct supervisor {
    const struct supervisor_options *options;
    uint64_t wait_first_ms;
    uv_loop_t loop;
    uv_signal_t term, interrupt, hangup;
    uv_timer_t timer; /* looks after the parent, and tells the service manager that we are well */
    struct notify notify;
    int parent;
    bool stopping;
    int exit_code;
    char path[4096];
    struct child children[SUPERVISOR_MAX_CHILDREN];
    size_t count;
};

static void start(struct child *c);

static void on_retry(uv_timer_t *timer)
{
    start(timer->data);
}

static void finish(struct child *c, int code)
{
    struct supervisor *s = c->owner;
    c->over = true;
    uv_timer_stop(&c->timer);
    if (code > s->exit_code)
        s->exit_code = code;
    for (size_t i = 0; i < s->count; i++) {
        if (!s->children[i].over)
            return;
    }
    uv_stop(&s->loop);
}

/* It died, or did not even start. */
static void retry(struct child *c)
{
    if (clock_mono_ns() - c->started_ns > healthy_ns)
        c->wait_ms = c->owner->wait_first_ms;
    log_warn("worker died, starting it again worker=%s wait_ms=%llu", c->who.name,
             (unsigned long long)c->wait_ms);
    uv_timer_start(&c->timer, on_retry, c->wait_ms, 0);
    c->wait_ms = min_u64(2 * c->wait_ms, WAIT_MOST_MS);
}

static void on_closed(uv_handle_t *handle)
{
    struct child *c = handle->data;
    c->running = false;
    if (!c->over && c->owner->stopping)
        finish(c, WORKER_EXIT_OK);
    else if (!c->over)
        retry(c);
}

static void on_exit_of(uv_process_t *process, int64_t status, int signal_number)
{
    struct child *c = process->data;
    log_info("worker ended worker=%s exit=%lld signal=%d", c->who.name, (long long)status,
             signal_number);
    if (clock_mono_ns() - c->started_ns > healthy_ns)
        c->lost = false;
    c->lost |= signal_number == 0 && status == WORKER_EXIT_RESPAWN;
    bool final = signal_number == 0 && (status == WORKER_EXIT_OK || status == WORKER_EXIT_USAGE ||
                                        (status == WORKER_EXIT_FATAL && !c->lost));
    c->running = false;
    uv_close((uv_handle_t *)process, on_closed);
    if (final)
        finish(c, (int)status);
}

/* ---- the watchdog of each child ---- */

/* At a name that is no file, and that the kernel chooses: nobody else has it. */
static void open_ear(struct child *c)
{
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    socklen_t size = sizeof at;
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd >= 0 && bind(fd, (struct sockaddr *)&at, sizeof at.sun_family) == 0 &&
        getsockname(fd, (struct sockaddr *)&at, &size) == 0) {
        int len = (int)(size - offsetof(struct sockaddr_un, sun_path)) - 1;
        snprintf(c->ear_name, sizeof c->ear_name, "@%.*s", len, at.sun_path + 1);
        c->ear = fd;
        return;
    }
    log_warn("one that stands still will not be noticed worker=%s error=\"%s\"", c->who.name,
             strerror(errno));
    if (fd >= 0)
        close(fd);
}

/* What waits at its ear, also of its last life. */
static void listen_to(struct child *c, uint64_t now_ns)
{
    char text[512];
    ssize_t n;
    while (c->ear >= 0 && (n = recv(c->ear, text, sizeof text - 1, 0)) >= 0) {
        text[n] = '\0';
        if (strstr(text, "READY=1") == NULL && strstr(text, "WATCHDOG=1") == NULL)
            continue;
        c->ready = true;
        c->heard_ns = now_ns;
    }
}

static void watch(struct child *c, uint64_t now_ns)
{
    listen_to(c, now_ns);
    uint64_t most_ns = c->ready ? c->owner->notify.watchdog_ns : start_most_ns;
    if (c->ear < 0 || !c->running || c->given_up || now_ns - c->heard_ns <= most_ns)
        return;
    log_error("worker gives no sign of life, killing it worker=%s silent_s=%llu", c->who.name,
              (unsigned long long)((now_ns - c->heard_ns) / NS_PER_S));
    c->given_up = true;
    uv_process_kill(&c->process, SIGKILL);
}

/* The environment is a child's: with its ear in it, or nothing. */
static void show_ear(const struct child *c)
{
    char usec[32];
    if (c->ear < 0)
        return;
    snprintf(usec, sizeof usec, "%llu", (unsigned long long)(c->owner->notify.watchdog_ns / 1000));
    setenv("NOTIFY_SOCKET", c->ear_name, 1);
    setenv("WATCHDOG_USEC", usec, 1);
}

static void hide_ear(void)
{
    unsetenv("NOTIFY_SOCKET");
    unsetenv("WATCHDOG_USEC");
}

static void start(struct child *c)
{
    struct supervisor *s = c->owner;
    const struct supervisor_options *o = s->options;
    char *args[MAX_ARGS + 8];
    char device_option[] = "--device", name_option[] = "--name", die[] = "--die-with-parent";
    char metrics_option[] = "--metrics";
    int n = 0;
    for (int i = 0; i < o->argc; i++)
        args[n++] = o->argv[i];
    /* The last value of an option counts. */
    args[n++] = device_option;
    args[n++] = c->who.device;
    args[n++] = name_option;
    args[n++] = c->who.name;
    if (c->who.metrics[0] != '\0') {
        args[n++] = metrics_option;
        args[n++] = c->who.metrics;
    }
    args[n++] = die;
    args[n] = NULL;
    uv_stdio_container_t stdio[3];
    for (int fd = 0; fd < 3; fd++)
        stdio[fd] = (uv_stdio_container_t){.flags = UV_INHERIT_FD, .data.fd = fd};
    /* A session of its own: a terminal's Ctrl-C reaches it once, through us, not twice. */
    uv_process_options_t p = {.exit_cb = on_exit_of,
                              .file = s->path,
                              .args = args,
                              .flags = UV_PROCESS_DETACHED,
                              .stdio = stdio,
                              .stdio_count = 3};
    c->process.data = c;
    c->started_ns = clock_mono_ns();
    listen_to(c, c->started_ns);
    c->heard_ns = c->started_ns;
    c->ready = c->given_up = false;
    show_ear(c);
    int e = uv_spawn(&s->loop, &c->process, &p);
    hide_ear();
    c->running = e == 0;
    if (e != 0) {
        log_error("worker does not start worker=%s error=\"%s\"", c->who.name, uv_strerror(e));
        uv_close((uv_handle_t *)&c->process, on_closed);
    }
}

static void stop_all(struct supervisor *s)
{
    notify_send(&s->notify, "STOPPING=1");
    s->stopping = true;
    for (size_t i = 0; i < s->count; i++) {
        struct child *c = &s->children[i];
        if (c->running)
            uv_process_kill(&c->process, SIGTERM);
        else if (!c->over)
            finish(c, WORKER_EXIT_OK);
    }
}

static void on_signal(uv_signal_t *handle, int number)
{
    (void)number;
    stop_all(handle->data);
}

/* They look at their models again. */
static void on_hangup(uv_signal_t *handle, int number)
{
    struct supervisor *s = handle->data;
    (void)number;
    for (size_t i = 0; i < s->count; i++) {
        if (s->children[i].running)
            uv_process_kill(&s->children[i].process, SIGHUP);
    }
}

static void on_timer(uv_timer_t *timer)
{
    struct supervisor *s = timer->data;
    uint64_t now_ns = clock_mono_ns();
    notify_feed(&s->notify, now_ns);
    for (size_t i = 0; i < s->count; i++)
        watch(&s->children[i], now_ns);
    if (s->options->die_with_parent && getppid() != s->parent && !s->stopping)
        stop_all(s);
}

static bool open_loop(struct supervisor *s)
{
    if (uv_loop_init(&s->loop) != 0 || uv_signal_init(&s->loop, &s->term) != 0 ||
        uv_signal_init(&s->loop, &s->interrupt) != 0 || uv_signal_init(&s->loop, &s->hangup) != 0 ||
        uv_timer_init(&s->loop, &s->timer) != 0)
        return false;
    s->term.data = s->interrupt.data = s->hangup.data = s->timer.data = s;
    s->parent = getppid();
    if (s->options->die_with_parent)
        prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (s->options->die_with_parent || s->notify.fd >= 0)
        uv_timer_start(&s->timer, on_timer, 0, notify_interval_ms(&s->notify));
    for (size_t i = 0; i < s->count; i++) {
        uv_timer_init(&s->loop, &s->children[i].timer);
        s->children[i].timer.data = &s->children[i];
    }
    return uv_signal_start(&s->term, on_signal, SIGTERM) == 0 &&
           uv_signal_start(&s->interrupt, on_signal, SIGINT) == 0 &&
           uv_signal_start(&s->hangup, on_hangup, SIGHUP) == 0;
}

static void close_handle(uv_handle_t *handle, void *user)
{
    (void)user;
    if (!uv_is_closing(handle))
        uv_close(handle, NULL);
}

static bool find_path(struct supervisor *s)
{
    size_t bytes = sizeof s->path - 1;
    if (s->options->path == NULL)
        return uv_exepath(s->path, &bytes) == 0;
    size_t len = strlen(s->options->path);
    if (len > bytes)
        return false;
    memcpy(s->path, s->options->path, len + 1);
    return true;
}

int supervisor_run(const struct supervisor_options *o)
{
    struct supervisor *s = calloc(1, sizeof *s);
    if (s == NULL || o->argc > MAX_ARGS || o->count > SUPERVISOR_MAX_CHILDREN) {
        log_error("cannot start workers: out of memory, or too many arguments");
        free(s);
        return WORKER_EXIT_FATAL;
    }
    s->options = o;
    s->wait_first_ms = o->wait_first_ms != 0 ? o->wait_first_ms : WAIT_FIRST_MS;
    s->count = o->count;
    for (size_t i = 0; i < s->count; i++)
        s->children[i] = (struct child){
            .owner = s, .who = o->children[i], .wait_ms = s->wait_first_ms, .ear = -1};
    notify_open(&s->notify);
    for (size_t i = 0; i < s->count && s->notify.watchdog_ns > 0; i++)
        open_ear(&s->children[i]);
    if (!find_path(s) || !open_loop(s)) {
        log_error("cannot start workers: no event loop");
        free(s);
        return WORKER_EXIT_FATAL;
    }
    for (size_t i = 0; i < s->count; i++)
        start(&s->children[i]);
    notify_send(&s->notify, "READY=1\nSTATUS=keeps a worker for each GPU running");
    uv_run(&s->loop, UV_RUN_DEFAULT);
    uv_walk(&s->loop, close_handle, NULL);
    uv_run(&s->loop, UV_RUN_DEFAULT);
    uv_loop_close(&s->loop);
    for (size_t i = 0; i < s->count; i++) {
        if (s->children[i].ear >= 0)
            close(s->children[i].ear);
    }
    notify_close(&s->notify);
    int code = s->exit_code;
    free(s);
    return code;
}
