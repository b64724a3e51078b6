/* A worker with the real session on a real socket, and instead of an engine answers of a size that
 * the prompt asks for: "answer BYTES hold MS checkpoint BYTES". It holds the job for that long, and
 * gives each heartbeat a checkpoint. SIGTERM: it drains. argv: the broker's endpoint, a name. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <uv.h>

#include "base/clock.h"
#include "base/log.h"
#include "proto/codec.h"
#include "proto/socket.h"
#include "worker/session.h"

enum { TICK_MS = 20, MAX_JOBS = 64, MAX_HELD = 512 };

struct held {
    uint64_t serial, end_ns, seed; /* serial 0: free */
    unsigned answer_bytes, checkpoint_bytes;
};

struct worker {
    uv_loop_t loop;
    uv_timer_t timer;
    uv_prepare_t prepare;
    uv_signal_t term;
    struct proto_socket *socket;
    struct session *session;
    struct held held[MAX_HELD];
    uint64_t moved_bytes;
};

static void must(enum err e, const struct err_msg *why)
{
    if (e == ERR_OK)
        return;
    fprintf(stderr, "%s: %s\n", err_name(e), why->text);
    exit(1);
}

static bool on_send(void *user, const struct msg *m)
{
    struct worker *w = user;
    struct err_msg why;
    if (m->type == MSG_TYPE_HELLO)
        proto_socket_drop(w->socket, NULL);
    return proto_socket_send(w->socket, NULL, m, &why) == ERR_OK;
}

static void on_job(void *user, uint64_t serial, const struct rec_GRANT_JOB *grant)
{
    struct worker *w = user;
    struct arena arena = {0};
    struct rec_REQUEST q;
    struct err_msg why;
    struct held h = {.serial = serial};
    unsigned hold_ms = 0;
    char text[100];
    must(proto_decode_request(grant->body.data, grant->body.len, &arena, &q, &why), &why);
    snprintf(text, sizeof text, "%.*s", STR_ARG(q.prompt));
    if (sscanf(text, "answer %u hold %u checkpoint %u", &h.answer_bytes, &hold_ms,
               &h.checkpoint_bytes) != 3)
        abort();
    h.seed = q.seed;
    h.end_ns = clock_mono_ns() + hold_ms * NS_PER_MS;
    arena_free(&arena);
    for (size_t i = 0; i < MAX_HELD; i++) {
        if (w->held[i].serial == 0) {
            w->held[i] = h;
            return;
        }
    }
    session_nack(w->session, serial, false, "no room", NULL);
}

static void on_cancel(void *user, uint64_t serial)
{
    struct worker *w = user;
    for (size_t i = 0; i < MAX_HELD; i++) {
        if (w->held[i].serial == serial)
            w->held[i].serial = 0;
    }
}

static void on_drain(void *user)
{
    (void)user;
}

static void on_error(void *user, struct str code, struct str text)
{
    (void)user;
    fprintf(stderr, "ERROR %.*s: %.*s\n", STR_ARG(code), STR_ARG(text));
}

static struct buf bytes_of(size_t bytes)
{
    struct buf b = {0};
    must(buf_reserve(&b, bytes), &(struct err_msg){"bytes"});
    memset(b.data, 'x', bytes);
    b.len = bytes;
    return b;
}

/* "SEED xxx..." */
static void answer(struct worker *w, const struct held *h)
{
    struct buf body = {0}, text = bytes_of(h->answer_bytes);
    struct err_msg why;
    int n = snprintf((char *)text.data, text.len, "%llu", (unsigned long long)h->seed);
    ((char *)text.data)[n] = ' ';
    struct rec_CHOICE choice = {.text = {text.data, text.len}, .finish_reason = STR_LIT("stop")};
    struct rec_OUTPUT o = {.status_code = 200, .model_name = STR_LIT("test")};
    o.choices.items = &choice;
    o.choices.count = 1;
    must(proto_encode_output(&o, &body, &why), &why);
    session_result(w->session, h->serial, false, &body, 1, 1, 0);
    buf_free(&body);
    buf_free(&text);
}

static void on_message(void *user, const struct proto_peer *from, const struct msg *m)
{
    struct worker *w = user;
    (void)from;
    session_receive(w->session, m, clock_mono_ns());
    if (m->type == MSG_TYPE_WELCOME)
        fprintf(stderr, "WELCOME\n");
}

static void on_prepare(uv_prepare_t *prepare)
{
    struct worker *w = prepare->data;
    session_tick(w->session, clock_mono_ns());
    bool beat = session_beat_sent(w->session);
    for (size_t i = 0; i < MAX_HELD && beat; i++) {
        struct held *h = &w->held[i];
        if (h->serial == 0 || h->checkpoint_bytes == 0)
            continue;
        struct buf checkpoint = bytes_of(h->checkpoint_bytes);
        session_progress(w->session, h->serial, 1, &checkpoint);
        buf_free(&checkpoint);
    }
    if (session_state(w->session) == SESSION_GONE)
        uv_stop(&w->loop);
}

static void on_timer(uv_timer_t *timer)
{
    struct worker *w = timer->data;
    uint64_t now_ns = clock_mono_ns();
    struct proto_moved moved = proto_socket_moved(w->socket, NULL);
    if (proto_moves(&w->moved_bytes, moved.received + moved.taken))
        session_wire_moves(w->session, now_ns);
    for (size_t i = 0; i < MAX_HELD; i++) {
        struct held *h = &w->held[i];
        if (h->serial == 0 || now_ns < h->end_ns)
            continue;
        answer(w, h);
        h->serial = 0;
    }
}

static void on_term(uv_signal_t *handle, int number)
{
    struct worker *w = handle->data;
    (void)number;
    session_drain(w->session);
}

int main(int argc, char **argv)
{
    static struct worker w;
    struct err_msg why;
    if (argc != 3)
        return 2;
    static struct rec_MODEL model;
    model = (struct rec_MODEL){STR_LIT("test"), STR_LIT("00ff"), STR_LIT("F16"), 2048, 0};
    struct session_config c = {.worker = argv[2],
                               .host = "test",
                               .build = "test",
                               .device = "test",
                               .driver = "test",
                               .numeric_class = "test",
                               .models = &model,
                               .models_count = 1,
                               .max_jobs = MAX_JOBS,
                               .kv_tokens = 1 << 20,
                               .process = (uint64_t)getpid()};
    struct session_events events = {&w, on_send, on_job, on_cancel, on_drain, NULL, on_error};
    static const struct proto_socket_events socket_events = {.on_message = on_message};
    struct proto_socket_options o = {.endpoint = argv[1]};
    uv_loop_init(&w.loop);
    uv_timer_init(&w.loop, &w.timer);
    uv_prepare_init(&w.loop, &w.prepare);
    uv_signal_init(&w.loop, &w.term);
    w.timer.data = w.prepare.data = w.term.data = &w;
    must(proto_socket_open(&w.loop, &o, &socket_events, &w, &w.socket, &why), &why);
    must(session_create(&c, &events, &w.session), &(struct err_msg){"session"});
    uv_timer_start(&w.timer, on_timer, TICK_MS, TICK_MS);
    uv_prepare_start(&w.prepare, on_prepare);
    uv_signal_start(&w.term, on_term, SIGTERM);
    uv_run(&w.loop, UV_RUN_DEFAULT);
    return 0; /* the system takes the rest back */
}
