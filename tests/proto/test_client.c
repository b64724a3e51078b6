/* The blocking client against a broker on a thread that answers, is late, lies, errs or keeps
 * silent, as the batch's name tells it to. */
#include <netinet/in.h>
#include <pthread.h>
#include <sys/socket.h>

#include "proto/reach.h"
#include "tests/proto/loop.h"

struct broker {
    pthread_t thread;
    uv_loop_t loop;
    uv_async_t stop;
    struct proto_socket *socket;
    unsigned silent; /* requests for "silent" so far */
};

static void answer(struct broker *b, const struct proto_peer *to, const struct msg *m)
{
    if (proto_socket_send(b->socket, to, m, NULL) != ERR_OK)
        abort();
}

static void answer_error(struct broker *b, const struct proto_peer *to, uint64_t seq,
                         const char *code)
{
    struct msg m = {
        .type = MSG_TYPE_ERROR,
        .error = {.seq = seq, .code = str_of(code), .text = STR_LIT("line 7: why"), .line = 7}};
    answer(b, to, &m);
}

static void broker_message(void *user, const struct proto_peer *from, const struct msg *m)
{
    struct broker *b = user;
    struct msg good = {.type = MSG_TYPE_STATUS_OK,
                       .status_ok = {.seq = m->status.seq, .uptime_ms = 5}};
    struct msg stale = {.type = MSG_TYPE_STATUS_OK,
                        .status_ok = {.seq = m->status.seq - 1, .uptime_ms = 99}};
    struct msg wrong = ok_msg(m->status.seq);
    struct msg other = {.type = MSG_TYPE_RECONNECT};
    const char *name = m->status.batch.data;
    size_t len = m->status.batch.len;
    if (len == 6 && memcmp(name, "silent", 6) == 0 && b->silent++ == 0)
        return;
    if (len == 4 && memcmp(name, "mute", 4) == 0)
        return;
    if (len == 5 && memcmp(name, "stale", 5) == 0) {
        answer(b, from, &stale);
        answer(b, from, &other);
    }
    if (len == 5 && memcmp(name, "wrong", 5) == 0)
        answer(b, from, &wrong);
    else if (len > 6 && memcmp(name, "error ", 6) == 0) {
        char code[64] = {0};
        memcpy(code, name + 6, len - 6);
        answer_error(b, from, m->status.seq, code);
    } else
        answer(b, from, &good);
    if (len == 5 && memcmp(name, "twice", 5) == 0)
        answer(b, from, &good);
}

static void broker_garbage(void *user, const struct proto_peer *from, const struct err_msg *why)
{
    (void)why;
    answer_error(user, from, 0, "bad_message");
}

static void on_stop(uv_async_t *a)
{
    struct broker *b = a->data;
    proto_socket_close(&b->socket, 0);
    uv_close((uv_handle_t *)a, NULL);
}

static void *broker_main(void *arg)
{
    struct broker *b = arg;
    uv_run(&b->loop, UV_RUN_DEFAULT);
    return NULL;
}

static void broker_start(struct broker *b, const char *endpoint)
{
    static const struct proto_socket_events events = {broker_message, broker_garbage};
    struct proto_socket_options o = {.router = true, .endpoint = endpoint};
    struct err_msg why;
    *b = (struct broker){0};
    uv_loop_init(&b->loop);
    uv_async_init(&b->loop, &b->stop, on_stop);
    b->stop.data = b;
    CHECK_OK(proto_socket_open(&b->loop, &o, &events, b, &b->socket, &why), why);
    if (pthread_create(&b->thread, NULL, broker_main, b) != 0)
        abort();
}

static void broker_stop(struct broker *b)
{
    uv_async_send(&b->stop);
    pthread_join(b->thread, NULL);
    CHECK_INT(uv_loop_close(&b->loop), 0);
}

struct slow {
    unsigned calls;
    bool connected;
};

static void on_slow(void *user, bool connected)
{
    struct slow *s = user;
    s->calls++;
    s->connected = connected;
}

static enum err call(struct proto_client *c, const char *batch, int timeout_ms,
                     uint64_t *ret_uptime, struct err_msg *why)
{
    struct msg m = {.type = MSG_TYPE_STATUS, .status = {.batch = str_of(batch)}};
    const struct msg *reply = NULL;
    enum err e = proto_client_call(c, &m, timeout_ms, MSG_TYPE_STATUS_OK, &reply, why);
    *ret_uptime = reply != NULL ? reply->status_ok.uptime_ms : 0;
    return e;
}

static void test_errors(struct proto_client *c)
{
    static const struct {
        const char *batch;
        enum err e;
    } cases[] = {{"error bad_message", ERR_PROTO},   {"error version", ERR_PROTO},
                 {"error not_found", ERR_NOT_FOUND}, {"error conflict", ERR_CONFLICT},
                 {"error full", ERR_FULL},           {"error storage", ERR_IO},
                 {"error internal", ERR_IO},         {"error news", ERR_PROTO},
                 {"error quota", ERR_FULL},          {"error too_large", ERR_RANGE}};
    struct err_msg why = {{0}};
    uint64_t uptime;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        CHECK_ERR(call(c, cases[i].batch, 10000, &uptime, &why), cases[i].e);
        CHECK_STR(why.text, "line 7: why");
        CHECK_INT(proto_client_error_line(c), 7);
    }
    CHECK_ERR(call(c, "wrong", 10000, &uptime, &why), ERR_PROTO);
    CHECK_HAS(why.text, "reply OK; expected STATUS_OK");
    CHECK_INT(proto_client_error_line(c), 0);
}

/* Why nobody can be connected to; also on a thread that nobody waits for. */
static void test_reach(void)
{
    char why[REACH_WHY_BYTES], endpoint[64];
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof at;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    CHECK(bind(fd, (struct sockaddr *)&at, size) == 0 &&
          getsockname(fd, (struct sockaddr *)&at, &size) == 0);
    snprintf(endpoint, sizeof endpoint, "tcp://127.0.0.1:%d", ntohs(at.sin_port));
    reach_try(endpoint, 5000, why);
    CHECK_STR(why, "Connection refused");
    CHECK(listen(fd, 1) == 0);
    reach_try(endpoint, 5000, why);
    CHECK_STR(why, "");
    struct reach *r = reach_begin("ipc:///nowhere/s");
    if (CHECK(r != NULL)) {
        while (!reach_ended(&r, why))
            clock_sleep_ns(NS_PER_MS);
        CHECK(r == NULL);
        CHECK_STR(why, "No such file or directory");
    }
    r = reach_begin(endpoint);
    reach_forget(&r);
    CHECK(r == NULL);
    reach_forget(&r);
    close(fd);
}

int main(void)
{
    test_reach();
    struct place p;
    struct broker b;
    struct proto_client *c = NULL;
    struct err_msg why = {{0}};
    uint64_t uptime;
    place_make(&p);
    struct proto_socket_options o = {.endpoint = p.endpoint};
    CHECK_OK(proto_client_open(&o, &c, &why), why);
    uint64_t start_ns = clock_mono_ns();
    CHECK_ERR(call(c, "x", 150, &uptime, &why), ERR_AGAIN);
    CHECK(clock_mono_ns() - start_ns >= 150 * NS_PER_MS);
    CHECK_HAS(why.text,
              "no connection to a broker within 150 ms (STATUS): No such file or directory");
    struct slow slow = {0};
    proto_client_when_slow(c, 50, on_slow, &slow);
    CHECK_ERR(call(c, "x", 350, &uptime, &why), ERR_AGAIN);
    CHECK(slow.calls == 1 && !slow.connected);
    proto_client_when_slow(c, 0, NULL, NULL);

    broker_start(&b, p.endpoint);
    CHECK_OK(call(c, "x", 10000, &uptime, &why), why);
    CHECK_INT(uptime, 5);
    proto_client_when_slow(c, 50, on_slow, &slow);
    CHECK_ERR(call(c, "mute", 150, &uptime, &why), ERR_AGAIN);
    CHECK_HAS(why.text, "no answer from the broker within 150 ms (STATUS)");
    CHECK(slow.calls == 2 && slow.connected);
    proto_client_when_slow(c, 0, NULL, NULL);
    CHECK_OK(call(c, "stale", 10000, &uptime, &why),
             why); /* the answer to the call before is not ours */
    CHECK_INT(uptime, 5);
    CHECK_OK(call(c, "twice", 10000, &uptime, &why), why);
    CHECK_OK(call(c, "x", 10000, &uptime, &why), why);
    test_errors(c);
    start_ns = clock_mono_ns();
    CHECK_OK(call(c, "silent", 10000, &uptime, &why), why); /* the first request was lost */
    CHECK(clock_mono_ns() - start_ns >= 2 * NS_PER_S);
    broker_stop(&b);

    CHECK_ERR(call(c, "x", 300, &uptime, &why), ERR_AGAIN);
    broker_start(&b, p.endpoint); /* another broker at the same place */
    CHECK_OK(call(c, "x", 10000, &uptime, &why), why);
    CHECK_INT(uptime, 5);
    broker_stop(&b);

    proto_client_close(&c);
    CHECK(c == NULL);
    proto_client_close(&c);
    o.endpoint = "http://x";
    CHECK_ERR(proto_client_open(&o, &c, &why), ERR_USAGE);
    place_remove(&p);
    return check_report();
}
