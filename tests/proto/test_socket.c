/* The socket on its loop, over ipc: order, garbage beside a good peer, peers that vanish or read
 * nothing, and a broker that comes back. */
#include "tests/proto/loop.h"

enum { DEALERS = 4, EACH = 2500, BLOB_BYTES = 64 << 10 };

/* A router that answers OK n with OK n, and remembers who spoke last. */
struct server {
    uv_loop_t *loop;
    struct proto_socket *socket;
    struct proto_peer last;
    uint64_t messages, garbage, unsent;
    struct err_msg why;
};

static void server_message(void *user, const struct proto_peer *from, const struct msg *m)
{
    struct server *s = user;
    s->messages++;
    s->last = *from;
    if (m->type == MSG_TYPE_OK && proto_socket_send(s->socket, from, m, NULL) != ERR_OK)
        s->unsent++;
}

static void server_garbage(void *user, const struct proto_peer *from, const struct err_msg *why)
{
    struct server *s = user;
    CHECK(from->len > 0);
    s->garbage++;
    s->why = *why;
}

static void server_open(struct server *s, uv_loop_t *loop, const char *endpoint,
                        size_t max_queue_bytes)
{
    static const struct proto_socket_events events = {server_message, server_garbage};
    struct proto_socket_options o = {
        .router = true, .endpoint = endpoint, .max_queue_bytes = max_queue_bytes};
    struct err_msg why;
    s->loop = loop;
    CHECK_OK(proto_socket_open(loop, &o, &events, s, &s->socket, &why), why);
}

/* Sends OK 1, 2, ... and expects them back in that order. What ZeroMQ had when a connection broke
 * may be missing (first_safe: the first one it did not have). */
struct echo {
    struct proto_socket *socket;
    uint64_t sent, got, out_of_order, first_safe;
};

static void echo_message(void *user, const struct proto_peer *from, const struct msg *m)
{
    struct echo *e = user;
    CHECK(from->len == 0);
    bool lost_some = m->ok.seq > e->got + 1 && m->ok.seq <= e->first_safe;
    if (m->type != MSG_TYPE_OK || (m->ok.seq != e->got + 1 && !lost_some))
        e->out_of_order++;
    e->got = m->ok.seq;
}

static void echo_open(struct echo *e, uv_loop_t *loop, const char *endpoint)
{
    static const struct proto_socket_events events = {.on_message = echo_message};
    struct proto_socket_options o = {.endpoint = endpoint};
    struct err_msg why;
    CHECK_OK(proto_socket_open(loop, &o, &events, e, &e->socket, &why), why);
}

static void echo_send(struct echo *e, uint64_t count)
{
    struct err_msg why;
    for (uint64_t i = 0; i < count; i++) {
        struct msg m = ok_msg(++e->sent);
        CHECK_OK(proto_socket_send(e->socket, NULL, &m, &why), why);
    }
}

static bool echo_done(void *arg)
{
    const struct echo *e = arg;
    return e->got == e->sent;
}

static void loop_finish(uv_loop_t *loop, struct place *p)
{
    uv_run(loop, UV_RUN_DEFAULT);
    CHECK_INT(uv_loop_close(loop), 0);
    place_remove(p);
}

static bool all_echoed(void *arg)
{
    const struct echo *e = arg;
    for (int i = 0; i < DEALERS; i++) {
        if (e[i].got != e[i].sent)
            return false;
    }
    return true;
}

static void test_order(void)
{
    uv_loop_t loop;
    uv_loop_init(&loop);
    struct place p;
    place_make(&p);
    struct server server = {0};
    struct echo echoes[DEALERS] = {{0}};
    for (int i = 0; i < DEALERS; i++) {
        echo_open(&echoes[i], &loop, p.endpoint); /* before there is anybody to connect to */
        echo_send(&echoes[i], EACH);
    }
    server_open(&server, &loop, p.endpoint, 0);
    CHECK(loop_until(&loop, all_echoed, echoes));
    CHECK_INT(server.messages, DEALERS * EACH);
    CHECK_INT(server.unsent, 0);
    struct proto_socket_stats st;
    proto_socket_get_stats(server.socket, &st);
    CHECK_INT(st.received, DEALERS * EACH);
    CHECK_INT(st.sent, DEALERS * EACH);
    CHECK_INT(st.queued_peers, 0);
    CHECK_INT(st.queued_bytes, 0);
    for (int i = 0; i < DEALERS; i++) {
        CHECK_INT(echoes[i].out_of_order, 0);
        proto_socket_close(&echoes[i].socket, 0);
        CHECK(echoes[i].socket == NULL);
    }
    proto_socket_close(&server.socket, 0);
    proto_socket_close(&server.socket, 0); /* NULL by now: nothing */
    loop_finish(&loop, &p);
}

struct garbage_wait {
    struct server *server;
    struct echo *echo;
    uint64_t want;
};

static bool garbage_seen(void *arg)
{
    const struct garbage_wait *w = arg;
    struct proto_socket_stats st;
    proto_socket_get_stats(w->server->socket, &st);
    return st.garbage >= w->want && w->echo->got == w->echo->sent;
}

static void send_frames(void *socket, const char *bytes, size_t len, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (zmq_send(socket, bytes, len, i + 1 < count ? ZMQ_SNDMORE : 0) < 0)
            abort();
    }
}

static void test_garbage(struct check_rng *rng)
{
    uv_loop_t loop;
    uv_loop_init(&loop);
    struct place p;
    place_make(&p);
    struct server server = {0};
    struct echo echo = {0};
    server_open(&server, &loop, p.endpoint, 0);
    echo_open(&echo, &loop, p.endpoint);
    void *context = zmq_ctx_new();
    void *bad = raw_dealer(context, p.endpoint, 100, NULL);
    struct garbage_wait wait = {&server, &echo, 0};
    for (int i = 0; i < 50; i++) {
        char bytes[64];
        for (size_t j = 0; j < sizeof bytes; j++)
            bytes[j] = (char)check_rng_next(rng);
        bytes[0] = (char)(bytes[0] | 1); /* never an empty map, which is fine msgpack */
        send_frames(bad, bytes, check_rng_below(rng, sizeof bytes), 1);
        wait.want++;
        echo_send(&echo, 10);
    }
    CHECK(loop_until(&loop, garbage_seen, &wait));
    CHECK_INT(server.garbage, 50);
    /* The right bytes, but in more frames than one: as a REQ socket frames them, and a flood. */
    struct buf b = {0};
    struct msg m = ok_msg(1);
    CHECK_ERR(proto_encode(&m, &b, NULL), ERR_OK);
    zmq_send(bad, "", 0, ZMQ_SNDMORE);
    send_frames(bad, b.data, b.len, 1);
    send_frames(bad, b.data, b.len, 5000);
    wait.want += 2;
    echo_send(&echo, 100);
    CHECK(loop_until(&loop, garbage_seen, &wait));
    CHECK_HAS(server.why.text, "several frames; expected one");
    CHECK_INT(server.messages, echo.sent);
    /* A peer whose chosen id is too long to answer is heard by nobody. */
    char longer[41];
    memset(longer, 'x', 40);
    longer[40] = '\0';
    void *nameless = raw_dealer(context, p.endpoint, 100, longer);
    send_frames(nameless, b.data, b.len, 1);
    wait.want += 1;
    echo_send(&echo, 10);
    CHECK(loop_until(&loop, garbage_seen, &wait));
    CHECK_INT(server.garbage, 52);
    CHECK_INT(server.messages, echo.sent);
    CHECK_INT(echo.out_of_order, 0);
    buf_free(&b);
    zmq_close(bad);
    zmq_close(nameless);
    zmq_ctx_term(context);
    proto_socket_close(&echo.socket, 0);
    proto_socket_close(&server.socket, 0);
    loop_finish(&loop, &p);
}

static bool one_message(void *arg)
{
    return ((struct server *)arg)->messages > 0;
}

static enum err send_blob(struct server *s, const struct proto_peer *to, uint64_t n,
                          struct err_msg *why)
{
    static char blob[BLOB_BYTES];
    struct rec_GRANT_JOB job = {.job = n, .batch = STR_LIT("b"), .body = {blob, sizeof blob}};
    struct msg m = {.type = MSG_TYPE_GRANT, .grant = {.jobs = {&job, 1}}};
    return proto_socket_send(s->socket, to, &m, why);
}

/* A peer that says hello and then reads nothing. */
static struct proto_peer stalled_peer(struct server *s, void **ret_socket, void *context,
                                      const char *endpoint)
{
    *ret_socket = raw_dealer(context, endpoint, 1, NULL);
    struct msg hello = {.type = MSG_TYPE_BYE, .bye = {.session = 1}};
    s->messages = 0;
    raw_send(*ret_socket, &hello);
    CHECK(loop_until(s->loop, one_message, s));
    return s->last;
}

struct vanish_wait {
    struct server *server;
    struct proto_peer peer;
    enum err last;
};

static bool is_gone(void *arg)
{
    struct vanish_wait *w = arg;
    struct msg m = ok_msg(1);
    if (w->last != ERR_NOT_FOUND)
        w->last = proto_socket_send(w->server->socket, &w->peer, &m, NULL);
    return w->last == ERR_NOT_FOUND;
}

static bool queue_empty(void *arg)
{
    struct proto_socket_stats st;
    proto_socket_get_stats(((struct server *)arg)->socket, &st);
    return st.queued_peers == 0 && st.queued_bytes == 0;
}

/* Fills the peer's queue to its limit; the number of the last message taken. */
static uint64_t fill(struct server *s, const struct proto_peer *to, size_t limit)
{
    struct err_msg why = {{0}};
    struct proto_socket_stats st;
    uint64_t n = 0;
    enum err e = ERR_OK;
    while (e == ERR_OK && n < 10000) {
        e = send_blob(s, to, n + 1, &why);
        n += e == ERR_OK;
    }
    CHECK_ERR(e, ERR_FULL);
    CHECK_HAS(why.text, "GRANT: ");
    proto_socket_get_stats(s->socket, &st);
    CHECK_INT(st.queued_peers, 1);
    CHECK(st.queued_bytes > 0 && st.queued_bytes <= limit);
    return n;
}

static void read_in_order(struct server *s, void *socket, uint64_t count)
{
    uint64_t wrong = 0;
    for (uint64_t n = 1; n <= count; n++) {
        zmq_msg_t frame;
        zmq_msg_init(&frame);
        uint64_t end_ns = clock_mono_ns() + LOOP_LIMIT_MS * NS_PER_MS;
        while (zmq_msg_recv(&frame, socket, ZMQ_DONTWAIT) < 0 && clock_mono_ns() < end_ns)
            uv_run(s->loop, UV_RUN_NOWAIT);
        struct arena arena = {0};
        struct msg m = {.type = MSG_NONE};
        if (proto_decode(zmq_msg_data(&frame), zmq_msg_size(&frame), &arena, &m, NULL) != ERR_OK ||
            m.type != MSG_TYPE_GRANT || m.grant.jobs.items[0].job != n)
            wrong++;
        arena_free(&arena);
        zmq_msg_close(&frame);
        if (wrong > 0)
            break;
    }
    CHECK_INT(wrong, 0);
}

static void test_stalled_and_vanished(void)
{
    enum { LIMIT = 1 << 20 };
    uv_loop_t loop;
    uv_loop_init(&loop);
    struct place p;
    place_make(&p);
    struct server server = {0};
    struct echo echo = {0};
    void *context = zmq_ctx_new(), *raw;
    server_open(&server, &loop, p.endpoint, LIMIT);
    echo_open(&echo, &loop, p.endpoint);

    struct proto_peer peer = stalled_peer(&server, &raw, context, p.endpoint);
    uint64_t count = fill(&server, &peer, LIMIT);
    echo_send(&echo, 200); /* the others do not notice */
    CHECK(loop_until(&loop, echo_done, &echo));
    read_in_order(&server, raw, count);
    CHECK(loop_until(&loop, queue_empty, &server));

    /* Gone with a full queue: it is freed without anybody sending. */
    fill(&server, &peer, LIMIT);
    zmq_close(raw);
    CHECK(loop_until(&loop, queue_empty, &server));
    struct proto_socket_stats st;
    proto_socket_get_stats(server.socket, &st);
    CHECK(st.dropped > 0);
    struct vanish_wait wait = {&server, peer, ERR_OK};
    CHECK(loop_until(&loop, is_gone, &wait));

    /* Gone with nothing queued. */
    wait.peer = stalled_peer(&server, &raw, context, p.endpoint);
    wait.last = ERR_OK;
    zmq_close(raw);
    CHECK(loop_until(&loop, is_gone, &wait));

    /* Dropped because its session ended. */
    peer = stalled_peer(&server, &raw, context, p.endpoint);
    fill(&server, &peer, LIMIT);
    proto_socket_drop(server.socket, &peer);
    CHECK(queue_empty(&server));
    proto_socket_drop(server.socket, &peer);

    /* And closing with a full queue leaks nothing. */
    fill(&server, &peer, LIMIT);
    zmq_close(raw);
    echo_send(&echo, 10);
    CHECK(loop_until(&loop, echo_done, &echo));
    CHECK_INT(echo.out_of_order, 0);
    proto_socket_close(&echo.socket, 0);
    proto_socket_close(&server.socket, 0);
    loop_finish(&loop, &p);
    zmq_ctx_term(context);
}

static void test_restart(void)
{
    uv_loop_t loop;
    uv_loop_init(&loop);
    struct place p;
    place_make(&p);
    struct echo echo = {0};
    echo_open(&echo, &loop, p.endpoint);
    for (int round = 0; round < 3; round++) {
        struct server server = {0};
        struct proto_socket_stats st = {0};
        /* Nobody is there. ZeroMQ may not have noticed yet and take some, but then they wait. */
        while (st.queued_peers == 0 && echo.sent < 1000) {
            echo_send(&echo, 1);
            proto_socket_get_stats(echo.socket, &st);
        }
        CHECK_INT(st.queued_peers, 1);
        echo.first_safe = echo.sent;
        echo_send(&echo, 50);
        server_open(&server, &loop, p.endpoint, 0);
        CHECK(loop_until(&loop, echo_done, &echo));
        echo_send(&echo, 20);
        CHECK(loop_until(&loop, echo_done, &echo));
        CHECK(server.messages >= 71);
        proto_socket_close(&server.socket, 0);
        uv_run(&loop, UV_RUN_NOWAIT);
    }
    CHECK_INT(echo.out_of_order, 0);
    proto_socket_close(&echo.socket, 0);
    loop_finish(&loop, &p);
}

/* A DEALER takes back what waits for a broker that is away. */
static void test_drop_away(void)
{
    uv_loop_t loop;
    uv_loop_init(&loop);
    struct place p;
    place_make(&p);
    struct echo echo = {0};
    struct proto_socket_stats st;
    echo_open(&echo, &loop, p.endpoint);
    echo_send(&echo, 10);
    proto_socket_get_stats(echo.socket, &st);
    CHECK_INT(st.queued_peers, 1);
    proto_socket_drop(echo.socket, NULL);
    proto_socket_get_stats(echo.socket, &st);
    CHECK_INT(st.queued_bytes, 0);
    CHECK_INT(st.dropped, 10);
    proto_socket_close(&echo.socket, 0);
    loop_finish(&loop, &p);
}

/* Closing from inside a callback, with more to read. */
static void closing_message(void *user, const struct proto_peer *from, const struct msg *m)
{
    struct server *s = user;
    (void)from;
    (void)m;
    s->messages++;
    proto_socket_close(&s->socket, 0);
}

static void test_close_in_callback(void)
{
    uv_loop_t loop;
    uv_loop_init(&loop);
    struct place p;
    place_make(&p);
    struct server server = {.loop = &loop};
    struct echo echo = {0};
    static const struct proto_socket_events events = {.on_message = closing_message};
    struct proto_socket_options o = {.router = true, .endpoint = p.endpoint};
    struct err_msg why;
    CHECK_OK(proto_socket_open(&loop, &o, &events, &server, &server.socket, &why), why);
    echo_open(&echo, &loop, p.endpoint);
    echo_send(&echo, 10);
    CHECK(loop_until(&loop, one_message, &server));
    CHECK_INT(server.messages, 1);
    proto_socket_close(&echo.socket, 0);
    loop_finish(&loop, &p);
}

static void test_endpoints(void)
{
    struct err_msg why = {{0}};
    char path[200] = "ipc:///";
    CHECK_OK(proto_endpoint_check("ipc:///tmp/x", &why), why);
    CHECK_OK(proto_endpoint_check("ipc://relative/x", &why), why);
    CHECK_OK(proto_endpoint_check("tcp://*:5555", &why), why);
    CHECK_OK(proto_endpoint_check("tcp://host.example:1", &why), why);
    CHECK_OK(proto_endpoint_check("tcp://[::1]:65535", &why), why);
    static const char *const bad[][2] = {
        {"", "expected ipc://PATH or tcp://HOST:PORT"},
        {"udp://x:1", "expected ipc://PATH or tcp://HOST:PORT"},
        {"ipc://", "expected the path of a socket file"},
        {"ipc://*", "expected the path of a socket file"},
        {"tcp://", "expected tcp://HOST:PORT"},
        {"tcp://host", "expected tcp://HOST:PORT"},
        {"tcp://:5", "expected tcp://HOST:PORT"},
        {"tcp://host:", "expected tcp://HOST:PORT"},
        {"tcp://host:0", "port \"0\"; expected a number from 1 to 65535"},
        {"tcp://host:65536", "port \"65536\""},
        {"tcp://host:123456789012345678901", "expected a number from 1 to 65535"},
        {"tcp://host:5x", "port \"5x\""},
        {"tcp://::1:5", "stands in brackets"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        CHECK_ERR(proto_endpoint_check(bad[i][0], &why), ERR_USAGE);
        CHECK_HAS(why.text, bad[i][1]);
    }
    memset(path + 7, 'p', 106);
    CHECK_OK(proto_endpoint_check(path, &why), why);
    path[7 + 106] = 'p';
    CHECK_ERR(proto_endpoint_check(path, &why), ERR_USAGE);
    CHECK_HAS(why.text, "its path has 108 bytes; the system allows 107");
    uv_loop_t loop;
    uv_loop_init(&loop);
    struct server server = {0};
    static const struct proto_socket_events events = {server_message, server_garbage};
    struct proto_socket_options o = {.router = true, .endpoint = "ipc:///nonexistent/folder/s"};
    CHECK_ERR(proto_socket_open(&loop, &o, &events, &server, &server.socket, &why), ERR_IO);
    CHECK_HAS(why.text, "ipc:///nonexistent/folder/s: cannot bind: No such file or directory");
    struct proto_curve short_key = {.secret_key = "short"};
    o.curve = &short_key;
    CHECK_ERR(proto_socket_open(&loop, &o, &events, &server, &server.socket, &why), ERR_USAGE);
    CHECK_HAS(why.text, "a CURVE key is refused");
    CHECK(server.socket == NULL);
    CHECK_INT(uv_loop_close(&loop), 0);
}

int main(void)
{
    struct check_rng rng = check_rng_start(1);
    test_endpoints();
    test_order();
    test_garbage(&rng);
    test_stalled_and_vanished();
    test_restart();
    test_drop_away();
    test_close_in_callback();
    return check_report();
}
