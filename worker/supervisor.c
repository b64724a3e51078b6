/* `--device all`: one worker process for each usable hardware GPU. This process touches no GPU
 * beyond the list.
 *
 *     child: STARTED --exit 0, 2, 3--> OVER        (drained; wrong usage or what a start cannot
 * heal) ^ \--another exit, a signal--> WAITING --1, 2, 4 .. 30 s--> STARTED
 *               +---------------------------------------------------------------+
 *
 * A child that ran for a minute starts its waits from 1 s again. SIGTERM and SIGINT go on to the
 * children; then nothing is started any more. Exit code: 0 if every child drained, else the worst.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>
#include <uv.h>

#include "base/clock.h"
#include "base/log.h"
#include "engine/gpu.h"
#include "worker/worker.h"

static const uint64_t healthy_ns = 60 * NS_PER_S;
enum { WAIT_FIRST_MS = 1000, WAIT_MOST_MS = 30000, MAX_ARGS = 256 };

struct supervisor;

struct child {
    struct supervisor *owner;
    uv_process_t process;
    uv_timer_t timer;
    bool running, over;
    uint32_t device;
    char device_text[16], name[128];
    uint64_t started_ns;
    uint64_t wait_ms;
};

struct supervisor {
    uv_loop_t loop;
    uv_signal_t term, interrupt;
    uv_timer_t parent_timer;
    int parent;
    bool stopping;
    int exit_code;
    char path[4096];
    char **argv;
    int argc;
    struct child children[GPU_MAX_DEVICES];
    size_t count;
};

static void start(struct child *c);

static void on_retry(uv_timer_t *timer)
{
    start(timer->data);
}

static void leave_if_over(struct supervisor *s)
{
    for (size_t i = 0; i < s->count; i++) {
        if (!s->children[i].over)
            return;
    }
    uv_stop(&s->loop);
}

static void finish(struct child *c, int code)
{
    c->over = true;
    uv_timer_stop(&c->timer);
    if (code > c->owner->exit_code)
        c->owner->exit_code = code;
    leave_if_over(c->owner);
}

/* It died, or did not even start. */
static void retry(struct child *c)
{
    if (clock_mono_ns() - c->started_ns > healthy_ns)
        c->wait_ms = WAIT_FIRST_MS;
    log_warn("worker died, starting it again worker=%s wait_ms=%llu", c->name,
             (unsigned long long)c->wait_ms);
    uv_timer_start(&c->timer, on_retry, c->wait_ms, 0);
    c->wait_ms = 2 * c->wait_ms < WAIT_MOST_MS ? 2 * c->wait_ms : WAIT_MOST_MS;
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
    log_info("worker ended worker=%s exit=%lld signal=%d", c->name, (long long)status,
             signal_number);
    bool final = signal_number == 0 && (status == WORKER_EXIT_OK || status == WORKER_EXIT_USAGE ||
                                        status == WORKER_EXIT_FATAL);
    uv_close((uv_handle_t *)process, on_closed);
    if (final)
        finish(c, (int)status);
}

static void start(struct child *c)
{
    struct supervisor *s = c->owner;
    char *args[MAX_ARGS + 8];
    char device_option[] = "--device", name_option[] = "--name", die[] = "--die-with-parent";
    int n = 0;
    for (int i = 0; i < s->argc; i++)
        args[n++] = s->argv[i];
    /* The last value of an option counts. */
    args[n++] = device_option;
    args[n++] = c->device_text;
    args[n++] = name_option;
    args[n++] = c->name;
    args[n++] = die;
    args[n] = NULL;
    uv_stdio_container_t stdio[3] = {
        {.flags = UV_INHERIT_FD, .data.fd = 0},
        {.flags = UV_INHERIT_FD, .data.fd = 1},
        {.flags = UV_INHERIT_FD, .data.fd = 2},
    };
    uv_process_options_t o = {
        .exit_cb = on_exit_of, .file = s->path, .args = args, .stdio = stdio, .stdio_count = 3};
    c->process.data = c;
    c->started_ns = clock_mono_ns();
    c->running = true;
    int e = uv_spawn(&s->loop, &c->process, &o);
    if (e != 0) {
        log_error("worker does not start worker=%s error=\"%s\"", c->name, uv_strerror(e));
        uv_close((uv_handle_t *)&c->process, on_closed);
    }
}

static void stop_all(struct supervisor *s, int number)
{
    s->stopping = true;
    for (size_t i = 0; i < s->count; i++) {
        struct child *c = &s->children[i];
        if (c->running)
            uv_process_kill(&c->process, number);
        else if (!c->over)
            finish(c, WORKER_EXIT_OK);
    }
}

static void on_signal(uv_signal_t *handle, int number)
{
    (void)number;
    stop_all(handle->data, SIGTERM);
}

static void on_parent_timer(uv_timer_t *timer)
{
    struct supervisor *s = timer->data;
    if (getppid() != s->parent && !s->stopping)
        stop_all(s, SIGTERM);
}

static enum err find_devices(struct supervisor *s, const struct worker_options *o,
                             struct err_msg *why)
{
    struct gpu_device_info *list = calloc(GPU_MAX_DEVICES, sizeof *list);
    size_t count = 0;
    char host[256] = "host";
    if (list == NULL)
        return err_set(why, ERR_NOMEM, "devices: out of memory");
    enum err e = gpu_list(list, &count, why);
    uv_os_gethostname(host, &(size_t){sizeof host});
    for (size_t i = 0; e == ERR_OK && i < count; i++) {
        if (!list[i].usable || list[i].software)
            continue;
        struct child *c = &s->children[s->count++];
        c->owner = s;
        c->device = list[i].index;
        c->wait_ms = WAIT_FIRST_MS;
        snprintf(c->device_text, sizeof c->device_text, "%u", c->device);
        snprintf(c->name, sizeof c->name, "%.100s:%u", o->name != NULL ? o->name : host, c->device);
    }
    free(list);
    if (e == ERR_OK && s->count == 0)
        e = err_set(why, ERR_NOT_FOUND,
                    "no usable hardware GPU; --device auto takes a software one");
    return e;
}

static enum err open_loop(struct supervisor *s, const struct worker_options *o, struct err_msg *why)
{
    size_t path_bytes = sizeof s->path - 1;
    if (uv_loop_init(&s->loop) != 0 || uv_exepath(s->path, &path_bytes) != 0 ||
        uv_signal_init(&s->loop, &s->term) != 0 || uv_signal_init(&s->loop, &s->interrupt) != 0 ||
        uv_timer_init(&s->loop, &s->parent_timer) != 0)
        return err_set(why, ERR_IO, "event loop: cannot start");
    s->term.data = s->interrupt.data = s->parent_timer.data = s;
    uv_signal_start(&s->term, on_signal, SIGTERM);
    uv_signal_start(&s->interrupt, on_signal, SIGINT);
    s->parent = getppid();
    if (o->die_with_parent) {
        prctl(PR_SET_PDEATHSIG, SIGTERM);
        uv_timer_start(&s->parent_timer, on_parent_timer, 1000, 1000);
    }
    for (size_t i = 0; i < s->count; i++) {
        struct child *c = &s->children[i];
        uv_timer_init(&s->loop, &c->timer);
        c->timer.data = c;
    }
    return ERR_OK;
}

int supervisor_main(const struct worker_options *o, int argc, char **argv)
{
    struct err_msg why = {{0}};
    enum err e = ERR_OK;
    struct supervisor *s = calloc(1, sizeof *s);
    if (s == NULL)
        return WORKER_EXIT_FATAL;
    s->argv = argv;
    s->argc = argc;
    if (argc > MAX_ARGS)
        e = err_set(&why, ERR_USAGE, "more than %d arguments", MAX_ARGS);
    if (e == ERR_OK)
        e = find_devices(s, o, &why);
    if (e == ERR_OK)
        e = open_loop(s, o, &why);
    if (e != ERR_OK) {
        log_error("cannot start error=\"%s\"", why.text);
        free(s);
        return e == ERR_USAGE ? WORKER_EXIT_USAGE : WORKER_EXIT_FATAL;
    }
    for (size_t i = 0; i < s->count; i++)
        start(&s->children[i]);
    uv_run(&s->loop, UV_RUN_DEFAULT);
    int code = s->exit_code;
    free(s); /* the loop ends with the process */
    return code;
}
