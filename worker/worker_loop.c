/* The loop thread: socket, session, timers and signals on one side, the engine thread's queues on
 * the other. */
#include "worker/worker_impl.h"

#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"

enum { TICK_MS = 50, MAX_UNANSWERED = 3, ALONE_FIRST_S = 10, ALONE_AGAIN_S = 600 };
static const uint64_t leave_most_ns =
    6 * NS_PER_S; /* after the hand-back: for NACKs, acks and BYE */
static const uint64_t step_most_ns = 3 * NS_PER_S; /* of these, for the step under way to end */

/* ---- session to the rest ---- */

static bool on_send(void *user, const struct msg *m)
{
    struct worker *w = user;
    struct err_msg why = {{0}};
    /* What waits is of an older session, or the last HELLO: a broker that is away for hours must
     * not find thousands of them. Results are kept and sent again, leases not named are free. */
    if (m->type == MSG_TYPE_HELLO) {
        proto_socket_drop(w->socket, NULL);
        if (session_unanswered(w->session) >= MAX_UNANSWERED)
            proto_socket_connect_again(w->socket);
    }
    enum err e = proto_socket_send(w->socket, NULL, m, &why);
    if (e != ERR_OK && !w->said_full)
        log_warn("message not sent, trying again later error=\"%s\"", why.text);
    w->said_full = e != ERR_OK;
    return e == ERR_OK;
}

static void refuse(struct worker *w, uint64_t serial, const struct job_refusal *refusal,
                   const struct err_msg *message)
{
    struct buf body = {0};
    struct err_msg why = {{0}};
    enum err e =
        job_encode_refusal(&w->context, refusal, message->text, clock_wall_ms(), &body, &why);
    if (e == ERR_OK)
        session_result(w->session, serial, true, &body, 0, 0, 0);
    else
        session_nack(w->session, serial, true, why.text, NULL);
    buf_free(&body);
}

static void on_job(void *user, uint64_t serial, const struct rec_GRANT_JOB *grant)
{
    struct worker *w = user;
    struct job *job = NULL;
    struct job_refusal refusal;
    struct err_msg why = {{0}};
    enum err e = job_create(&w->context, grant, serial, &job, &refusal, &why);
    if (e == ERR_USAGE) {
        refuse(w, serial, &refusal, &why);
        return;
    }
    if (e == ERR_OK)
        e = engine_thread_add(w->engine, &job);
    if (e == ERR_OK)
        return;
    if (why.text[0] == '\0')
        err_set(&why, e, "the worker is busy");
    log_warn("job handed back job=%llu reason=\"%s\"", (unsigned long long)grant->job, why.text);
    session_nack(w->session, serial, e != ERR_FULL, why.text, NULL);
    job_destroy(&job);
}

static void on_cancel(void *user, uint64_t serial)
{
    struct worker *w = user;
    engine_thread_cancel(w->engine, serial);
}

static void on_models(void *user, const struct msg_beat_ok *orders)
{
    models_orders(user, orders);
}

static void on_drain(void *user)
{
    struct worker *w = user;
    worker_drain(w, w->options->drain_s, "the broker asks for it");
}

static void on_error(void *user, struct str code, struct str text)
{
    struct worker *w = user;
    char line[sizeof w->last_error];
    snprintf(line, sizeof line, "%.*s: %.*s", STR_ARG(code), STR_ARG(text));
    if (strcmp(line, w->last_error) != 0)
        log_error("the broker refuses a message error=\"%s\"", line);
    memcpy(w->last_error, line, sizeof line);
    /* Another protocol, another worker under this name, or a key that is not a worker's: trying
     * again would not help. A list of keys that changes meanwhile may change back. */
    if (str_eq(code, STR_LIT("version")) || str_eq(code, STR_LIT("conflict")) ||
        (str_eq(code, STR_LIT("forbidden")) && !w->joined)) {
        w->exit_code = WORKER_EXIT_FATAL;
        uv_stop(&w->loop);
    }
}

/* ---- the rest to the session ---- */

static void on_message(void *user, const struct proto_peer *from, const struct msg *m)
{
    struct worker *w = user;
    (void)from;
    if (w->stopping)
        return;
    enum session_state before = session_state(w->session);
    session_receive(w->session, m, clock_mono_ns());
    if (m->type == MSG_TYPE_MODEL_CHUNK)
        fetch_take_chunk(w, &m->model_chunk);
    enum session_state now = session_state(w->session);
    if (now == before || now != SESSION_READY)
        return;
    w->joined = true;
    w->no_entry = NULL;
    log_info("joined the broker broker=%.*s", STR_ARG(m->welcome.broker));
}

static void on_garbage(void *user, const struct proto_peer *from, const struct err_msg *why)
{
    struct worker *w = user;
    (void)from;
    if (!w->said_garbage)
        log_warn("message that cannot be read, ignored error=\"%s\"", why->text);
    w->said_garbage = true;
}

/* Each reason once, until we have been in. */
static void on_no_entry(void *user, const char *why)
{
    struct worker *w = user;
    if (w->no_entry != why)
        log_error("nobody lets this worker in, trying again broker=%s reason=\"%s\"",
                  w->options->broker, why);
    w->no_entry = why;
}

static void take_event(struct worker *w, struct thread_event *ev)
{
    switch (ev->kind) {
    case THREAD_RESULT:
        session_result(w->session, ev->serial, false, &ev->body, ev->prompt_tokens,
                       ev->completion_tokens, ev->energy_j);
        break;
    case THREAD_NACK:
        session_nack(w->session, ev->serial, ev->counts, ev->reason, &ev->body);
        break;
    case THREAD_PROGRESS:
        for (size_t i = 0; i < ev->progress_count; i++)
            session_progress(w->session, ev->progress[i].serial, ev->progress[i].completion_tokens,
                             &ev->progress[i].checkpoint);
        break;
    case THREAD_LOST:
        log_error("the GPU failed, handing everything back error=\"%s\"", ev->reason);
        w->exit_code = WORKER_EXIT_RESPAWN;
        worker_drain(w, 0, "the GPU failed");
        session_nack_all(w->session, false, "the GPU failed before it began");
        break;
    }
    thread_event_free(ev);
}

static void on_wake(uv_async_t *wake)
{
    struct worker *w = wake->data;
    struct thread_event ev;
    while (!w->loading && engine_thread_poll(w->engine, &ev))
        take_event(w, &ev);
}

/* Before the loop sleeps: whatever came in this turn is answered together. */
static void on_prepare(uv_prepare_t *prepare)
{
    struct worker *w = prepare->data;
    if (w->stopping)
        return;
    bool was_ready = session_state(w->session) == SESSION_READY;
    session_tick(w->session, clock_mono_ns());
    if (session_beat_sent(w->session) && !w->loading)
        engine_thread_ask_progress(w->engine);
    if (was_ready && session_state(w->session) == SESSION_CONNECTING)
        log_warn("the broker does not answer, saying hello again held=%u",
                 session_held(w->session));
    if (session_state(w->session) == SESSION_GONE) {
        log_info("leaving results=%llu", (unsigned long long)session_finished(w->session));
        uv_stop(&w->loop);
    }
}

void worker_drain(struct worker *w, double seconds, const char *reason)
{
    uint64_t now_ns = clock_mono_ns();
    if (w->draining)
        seconds = 0;
    else
        log_info("draining seconds=%.0f running=%u reason=\"%s\"", seconds,
                 session_running(w->session), reason);
    w->draining = true;
    notify_send(&w->notify, "STOPPING=1");
    w->hand_back_ns = now_ns + (uint64_t)(seconds * (double)NS_PER_S);
    session_drain(w->session);
    if (!w->loading) /* else nothing runs */
        engine_thread_hand_back(w->engine, false);
}

static void tick_drain(struct worker *w, uint64_t now_ns)
{
    if (now_ns < w->hand_back_ns)
        return;
    if (!w->handed_back) {
        w->handed_back = true;
        if (!w->loading)
            engine_thread_hand_back(w->engine, true);
    }
    if (now_ns - w->hand_back_ns > step_most_ns && session_running(w->session) > 0) {
        /* A slow device is in the middle of a step. Leases that just run out cost an attempt. */
        log_warn("the engine does not answer, handing its jobs back without it running=%u",
                 session_running(w->session));
        session_nack_all(w->session, false, "the worker leaves in the middle of a step");
    }
    if (now_ns - w->hand_back_ns > leave_most_ns) {
        log_warn("leaving without the broker's word, its leases will run out held=%u",
                 session_held(w->session));
        uv_stop(&w->loop);
    }
}

/* As the clock on the wall has it; for the governor's quiet hours. */
static unsigned minute_of_day(void)
{
    time_t now = (time_t)(clock_wall_ms() / 1000);
    struct tm local;
    return localtime_r(&now, &local) == NULL ? 0 : (unsigned)(local.tm_hour * 60 + local.tm_min);
}

/* A long message takes its time on a slow wire, and who is behind it cannot be heard meanwhile. */
static void watch_wire(struct worker *w, uint64_t now_ns)
{
    struct proto_moved moved = proto_socket_moved(w->socket, NULL);
    if (proto_moves(&w->moved_bytes, moved.received + moved.taken))
        session_wire_moves(w->session, now_ns);
}

/* Nobody answers: says why after a while, and again now and then. */
static void tick_alone(struct worker *w, uint64_t now_ns)
{
    char why[REACH_WHY_BYTES];
    if (session_state(w->session) != SESSION_CONNECTING) {
        w->say_alone_ns = 0;
        reach_forget(&w->reach);
        return;
    }
    if (w->say_alone_ns == 0)
        w->say_alone_ns = now_ns + ALONE_FIRST_S * NS_PER_S;
    if (w->reach == NULL && now_ns >= w->say_alone_ns) {
        w->say_alone_ns = now_ns + ALONE_AGAIN_S * NS_PER_S;
        w->reach = reach_begin(w->options->broker);
    }
    if (w->reach == NULL || !reach_ended(&w->reach, why))
        return;
    if (why[0] == '\0' && w->no_entry != NULL) /* that is said already */
        return;
    log_error("no broker, trying again broker=%s reason=\"%s\"", w->options->broker,
              why[0] != '\0' ? why : "somebody listens there, but does not answer");
}

static void on_timer(uv_timer_t *timer)
{
    struct worker *w = timer->data;
    uint64_t now_ns = clock_mono_ns();
    if (w->stopping)
        return;
    watch_wire(w, now_ns);
    tick_alone(w, now_ns);
    governor_set_minute(&w->heat.governor, minute_of_day());
    heat_tick(w, now_ns);
    models_tick(w, now_ns);
    watch_tick(w, now_ns);
    if (w->options->die_with_parent && !w->draining && getppid() != w->parent)
        worker_drain(w, 0, "the parent process ended");
    if (w->draining)
        tick_drain(w, now_ns);
}

static void on_signal(uv_signal_t *handle, int number)
{
    struct worker *w = handle->data;
    bool orphan = w->options->die_with_parent && getppid() != w->parent;
    worker_drain(w, orphan ? 0 : w->options->drain_s, number == SIGINT ? "interrupt" : "SIGTERM");
}

static void on_hangup(uv_signal_t *handle, int number)
{
    (void)number;
    models_reload(handle->data);
}

static void engine_wakes(void *user)
{
    uv_async_send(user);
}

static enum err open_handles(struct worker *w, struct err_msg *why)
{
    if (uv_loop_init(&w->loop) != 0)
        return err_set(why, ERR_NOMEM, "event loop: out of memory");
    w->loop_open = true;
    w->loop.data = w;
    w->timer.data = w->prepare.data = w->wake.data = w->term.data = w->interrupt.data = w;
    w->hangup.data = w;
    if (uv_timer_init(&w->loop, &w->timer) != 0 || uv_prepare_init(&w->loop, &w->prepare) != 0 ||
        uv_async_init(&w->loop, &w->wake, on_wake) != 0 ||
        uv_signal_init(&w->loop, &w->term) != 0 || uv_signal_init(&w->loop, &w->interrupt) != 0 ||
        uv_signal_init(&w->loop, &w->hangup) != 0 ||
        uv_timer_start(&w->timer, on_timer, TICK_MS, TICK_MS) != 0 ||
        uv_signal_start(&w->term, on_signal, SIGTERM) != 0 ||
        uv_signal_start(&w->interrupt, on_signal, SIGINT) != 0 ||
        uv_signal_start(&w->hangup, on_hangup, SIGHUP) != 0)
        return err_set(why, ERR_IO, "event loop: cannot start its timers and signals");
    return ERR_OK;
}

enum err worker_loop_open(struct worker *w, struct err_msg *why)
{
    struct session_events events = {
        .user = w,
        .send = on_send,
        .on_job = on_job,
        .on_cancel = on_cancel,
        .on_drain = on_drain,
        .on_models = on_models,
        .on_error = on_error,
    };
    static const struct proto_socket_events socket_events = {
        .on_message = on_message, .on_garbage = on_garbage, .on_no_entry = on_no_entry};
    struct proto_socket_options socket = {.endpoint = w->options->broker, .curve = &w->curve};
    enum err e = open_handles(w, why);
    if (e != ERR_OK)
        return e;
    e = proto_socket_open(&w->loop, &socket, &socket_events, w, &w->socket, why);
    proto_curve_wipe(&w->curve);
    if (e != ERR_OK)
        return e;
    /* The handle that was started last runs first: the socket looks for wake-ups after we have
     * sent. */
    uv_prepare_start(&w->prepare, on_prepare);
    e = session_create(&w->session_config, &events, &w->session);
    if (e == ERR_OK)
        e = worker_loop_begin(w);
    return e == ERR_OK ? ERR_OK : err_set(why, e, "session: %s", err_name(e));
}

enum err worker_loop_begin(struct worker *w)
{
    return engine_thread_run(w->engine, &w->context, engine_wakes, &w->wake);
}

void worker_loop_run(struct worker *w)
{
    governor_set_minute(&w->heat.governor, minute_of_day());
    heat_tick(w, clock_mono_ns());
    notify_send(&w->notify, "READY=1");
    uv_run(&w->loop, UV_RUN_DEFAULT);
}

static void close_handle(uv_handle_t *handle, void *user)
{
    (void)user;
    if (!uv_is_closing(handle))
        uv_close(handle, NULL);
}

void worker_loop_close(struct worker *w)
{
    if (!w->loop_open)
        return;
    w->stopping = true;
    reach_forget(&w->reach);
    proto_socket_close(&w->socket, 500);
    uv_walk(&w->loop, close_handle, NULL);
    /* A sensor read under way is waited for, but not for ever. */
    uint64_t until_ns = clock_mono_ns() + 2 * NS_PER_S;
    while (uv_run(&w->loop, UV_RUN_NOWAIT) != 0 && clock_mono_ns() < until_ns)
        clock_sleep_ns(NS_PER_MS);
    if (uv_loop_close(&w->loop) != 0)
        log_debug("event loop closed with a sensor read under way");
    session_destroy(&w->session);
}
