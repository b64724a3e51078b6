/* Connections with keys: who gets in at a ROUTER, what those hear who do not, keys that are taken
 * off the list, and a crowd of strangers beside a good peer. */
#include <pthread.h>

#include "proto/curve.h"
#include "tests/proto/loop.h"

enum { MOST_KEYS = 4, STRANGERS = 60 };

struct bed {
    uv_loop_t loop;
    struct place place;
    struct proto_socket *router;
    struct proto_curve own;
    const char *list[MOST_KEYS]; /* public keys that get in */
    char last_key[PROTO_KEY_CHARS + 1], last_told[256];
    uint64_t messages, told;
    void *context;
};

static bool may_connect(void *user, const char *key)
{
    const struct bed *b = user;
    for (int i = 0; i < MOST_KEYS; i++) {
        if (b->list[i] != NULL && strcmp(b->list[i], key) == 0)
            return true;
    }
    return false;
}

static void on_message(void *user, const struct proto_peer *from, const struct msg *m)
{
    struct bed *b = user;
    const char *key = proto_socket_key(b->router);
    b->messages++;
    snprintf(b->last_key, sizeof b->last_key, "%s", key == NULL ? "none" : key);
    enum err e = proto_socket_send(b->router, from, m, NULL);
    if (e != ERR_OK && e != ERR_NOT_FOUND) /* no CHECK: it may be another thread's turn */
        abort();
}

static void on_cut_off(void *user, const char *why)
{
    struct bed *b = user;
    b->told++;
    snprintf(b->last_told, sizeof b->last_told, "%s", why);
}

static struct proto_curve new_keys(const struct bed *b)
{
    struct proto_curve c = {0};
    struct err_msg why;
    CHECK_OK(proto_curve_make(&c, &why), why);
    if (b != NULL)
        memcpy(c.server_key, b->own.public_key, sizeof c.server_key);
    return c;
}

static void bed_open(struct bed *b, bool with_keys)
{
    static const struct proto_socket_events events = {
        .on_message = on_message, .on_cut_off = on_cut_off, .may_connect = may_connect};
    static const struct proto_limits limits = {.max_connections = 1000, .greet_ms = 60000};
    struct err_msg why;
    *b = (struct bed){.context = zmq_ctx_new()};
    uv_loop_init(&b->loop);
    place_make(&b->place);
    b->own = new_keys(NULL);
    struct proto_socket_options o = {.router = true,
                                     .endpoint = b->place.endpoint,
                                     .limits = &limits,
                                     .curve = with_keys ? &b->own : NULL};
    CHECK_OK(proto_socket_open(&b->loop, &o, &events, b, &b->router, &why), why);
}

static struct proto_socket_stats stats(const struct bed *b)
{
    struct proto_socket_stats st;
    proto_socket_get_stats(b->router, &st);
    return st;
}

static bool nobody_left(void *arg)
{
    return stats(arg).connections == 0;
}

static bool one_left(void *arg)
{
    return stats(arg).connections == 1;
}

/* Who has hung up already may still wait to be accepted: it is not over when it is so once. */
static bool comes_down_to(struct bed *b, int connections)
{
    for (int i = 0; i < 100; i++) {
        if (loop_until(&b->loop, connections == 0 ? nobody_left : one_left, b))
            return true;
    }
    return false;
}

static void bed_close(struct bed *b)
{
    zmq_ctx_term(b->context);
    CHECK(comes_down_to(b, 0));
    proto_socket_close(&b->router, 0);
    uv_run(&b->loop, UV_RUN_DEFAULT);
    CHECK_INT(uv_loop_close(&b->loop), 0);
    place_remove(&b->place);
}

/* A raw peer; c NULL: without keys. */
static void *raw_peer(const struct bed *b, const struct proto_curve *c)
{
    int none = 0;
    void *s = zmq_socket(b->context, ZMQ_DEALER);
    zmq_setsockopt(s, ZMQ_LINGER, &none, sizeof none);
    if (c != NULL) {
        zmq_setsockopt(s, ZMQ_CURVE_SERVERKEY, c->server_key, PROTO_KEY_CHARS + 1);
        zmq_setsockopt(s, ZMQ_CURVE_PUBLICKEY, c->public_key, PROTO_KEY_CHARS + 1);
        zmq_setsockopt(s, ZMQ_CURVE_SECRETKEY, c->secret_key, PROTO_KEY_CHARS + 1);
    }
    if (zmq_connect(s, b->place.endpoint) != 0)
        abort();
    return s;
}

static bool has_answer(void *socket)
{
    char frame[256];
    return zmq_recv(socket, frame, sizeof frame, ZMQ_DONTWAIT) >= 0;
}

static void ask(struct bed *b, void *socket)
{
    struct msg m = ok_msg(1);
    raw_send(socket, &m);
    /* loop_until() asks once more at its end */
    uint64_t end_ns = clock_mono_ns() + LOOP_LIMIT_MS * NS_PER_MS;
    bool answered = false;
    while (!(answered = has_answer(socket)) && clock_mono_ns() < end_ns) {
        uv_run(&b->loop, UV_RUN_NOWAIT);
        clock_sleep_ns(NS_PER_MS);
    }
    CHECK(answered);
}

/* ---- our own DEALER ---- */

struct dealer {
    struct proto_socket *socket;
    unsigned answers, refusals;
    char why[256];
};

static void dealer_message(void *user, const struct proto_peer *from, const struct msg *m)
{
    struct dealer *d = user;
    (void)from;
    d->answers += m->type == MSG_TYPE_OK;
}

static void dealer_no_entry(void *user, const char *why)
{
    struct dealer *d = user;
    d->refusals++;
    snprintf(d->why, sizeof d->why, "%s", why);
}

static void dealer_open(struct bed *b, struct dealer *d, const struct proto_curve *c)
{
    static const struct proto_socket_events events = {.on_message = dealer_message,
                                                      .on_no_entry = dealer_no_entry};
    struct proto_socket_options o = {.endpoint = b->place.endpoint, .curve = c};
    struct err_msg why;
    *d = (struct dealer){0};
    CHECK_OK(proto_socket_open(&b->loop, &o, &events, d, &d->socket, &why), why);
    struct msg m = ok_msg(7);
    CHECK_OK(proto_socket_send(d->socket, NULL, &m, &why), why);
}

static bool is_refused(void *arg)
{
    return ((struct dealer *)arg)->refusals > 0;
}

static bool is_answered(void *arg)
{
    return ((struct dealer *)arg)->answers > 0;
}

static void refused(struct bed *b, const struct proto_curve *c, const char *why)
{
    struct dealer d;
    dealer_open(b, &d, c);
    CHECK(loop_until(&b->loop, is_refused, &d));
    CHECK_HAS(d.why, why);
    CHECK_INT(d.answers, 0);
    proto_socket_close(&d.socket, 0);
}

static void test_who_gets_in(void)
{
    struct bed b;
    bed_open(&b, true);
    struct proto_curve good = new_keys(&b), unknown = new_keys(&b), wrong = new_keys(&b);
    struct proto_curve other = new_keys(NULL);
    b.list[0] = good.public_key;
    struct dealer d;
    dealer_open(&b, &d, &good);
    CHECK(loop_until(&b.loop, is_answered, &d));
    CHECK_STR(b.last_key, good.public_key);
    CHECK_INT(d.refusals, 0);
    CHECK_INT(b.told, 0);
    proto_socket_close(&d.socket, 0);

    refused(&b, &unknown, unknown.public_key);
    CHECK_HAS(b.last_told, unknown.public_key);
    CHECK(strstr(b.last_told, "not on the list") != NULL && b.told >= 1);
    refused(&b, NULL, "give --curve-key FILE and --server-key FILE");
    memcpy(wrong.server_key, other.public_key, sizeof wrong.server_key);
    b.list[1] = wrong.public_key; /* its own key is good */
    refused(&b, &wrong, "is not the broker's public key");
    wrong = good; /* a secret key that is not the public one's */
    memcpy(wrong.secret_key, other.secret_key, sizeof wrong.secret_key);
    refused(&b, &wrong, "no secure connection");
    CHECK_INT(b.messages, 1);

    /* Put on the list it gets in with its next try. */
    dealer_open(&b, &d, &unknown);
    CHECK(loop_until(&b.loop, is_refused, &d));
    b.list[2] = unknown.public_key;
    proto_socket_connect_again(d.socket);
    CHECK(loop_until(&b.loop, is_answered, &d));
    CHECK_STR(b.last_key, unknown.public_key);
    proto_socket_close(&d.socket, 0);
    bed_close(&b);
}

static void test_plain_broker(void)
{
    struct bed b;
    bed_open(&b, false);
    struct proto_curve keys = new_keys(&b);
    refused(&b, &keys, "the broker takes no keys");
    void *plain = raw_peer(&b, NULL);
    ask(&b, plain);
    CHECK_STR(b.last_key, "none");
    zmq_close(plain);
    bed_close(&b);
}

static void test_taken_off_the_list(void)
{
    struct bed b;
    bed_open(&b, true);
    struct proto_curve a = new_keys(&b), c = new_keys(&b);
    b.list[0] = a.public_key, b.list[1] = c.public_key;
    void *stays = raw_peer(&b, &a), *goes = raw_peer(&b, &c);
    ask(&b, stays);
    ask(&b, goes);
    CHECK_INT(stats(&b).connections, 2);
    proto_socket_check_keys(b.router);
    CHECK_INT(stats(&b).cut_off, 0);
    b.list[1] = NULL;
    proto_socket_check_keys(b.router);
    CHECK_INT(stats(&b).cut_off, 1);
    CHECK_HAS(b.last_told, "not on the list any more");
    CHECK(comes_down_to(&b, 1));
    uint64_t messages = b.messages;
    struct msg m = ok_msg(2);
    raw_send(goes, &m); /* it connects again, and is not let in */
    ask(&b, stays);
    CHECK_INT(b.messages, messages + 1);
    zmq_close(stays);
    zmq_close(goes);
    bed_close(&b);
}

static bool all_told(void *arg)
{
    return ((struct bed *)arg)->told >= STRANGERS;
}

/* Half of them with keys nobody knows, half without: they only cost time. */
static void test_strangers(void)
{
    struct bed b;
    bed_open(&b, true);
    struct proto_curve good = new_keys(&b);
    b.list[0] = good.public_key;
    void *peer = raw_peer(&b, &good), *strangers[2 * STRANGERS];
    ask(&b, peer);
    for (int i = 0; i < 2 * STRANGERS; i++) {
        struct proto_curve keys = new_keys(&b);
        strangers[i] = raw_peer(&b, i % 2 == 0 ? &keys : NULL);
        if (i % 10 == 0)
            ask(&b, peer);
    }
    CHECK(loop_until(&b.loop, all_told, &b));
    ask(&b, peer);
    CHECK_STR(b.last_key, good.public_key);
    CHECK_INT(b.messages, 2 + 2 * STRANGERS / 10);
    for (int i = 0; i < 2 * STRANGERS; i++)
        zmq_close(strangers[i]);
    CHECK(comes_down_to(&b, 1));
    zmq_close(peer);
    bed_close(&b);
}

/* ---- the blocking client: its calls take no turn of the loop, so a thread does ---- */

static void on_stop(uv_async_t *a)
{
    uv_close((uv_handle_t *)a, NULL);
    uv_stop(a->loop);
}

static void *turn(void *arg)
{
    uv_run(arg, UV_RUN_DEFAULT);
    return NULL;
}

static enum err call(const struct bed *b, const struct proto_curve *c, int timeout_ms,
                     struct err_msg *why)
{
    struct proto_socket_options o = {.endpoint = b->place.endpoint, .curve = c};
    struct proto_client *client = NULL;
    struct msg m = {.type = MSG_TYPE_OK};
    const struct msg *reply;
    CHECK_OK(proto_client_open(&o, &client, why), *why);
    enum err e = proto_client_call(client, &m, timeout_ms, MSG_TYPE_OK, &reply, why);
    proto_client_close(&client);
    return e;
}

static void test_client(void)
{
    struct bed b;
    bed_open(&b, true);
    struct proto_curve good = new_keys(&b), unknown = new_keys(&b), wrong = new_keys(NULL);
    memcpy(wrong.server_key, unknown.public_key, sizeof wrong.server_key);
    b.list[0] = good.public_key;
    struct err_msg why;
    uv_async_t stop;
    pthread_t thread;
    uv_async_init(&b.loop, &stop, on_stop);
    if (pthread_create(&thread, NULL, turn, &b.loop) != 0)
        abort();
    CHECK_OK(call(&b, &good, 10000, &why), why);
    uint64_t start_ns = clock_mono_ns();
    CHECK_ERR(call(&b, &unknown, 30000, &why), ERR_PROTO);
    CHECK_HAS(why.text, "the broker does not let in the key");
    CHECK_HAS(why.text, unknown.public_key);
    CHECK(clock_mono_ns() - start_ns < 25 * NS_PER_S); /* not waited for */
    CHECK_ERR(call(&b, NULL, 2000, &why), ERR_AGAIN);
    CHECK_HAS(why.text, "give --curve-key FILE and --server-key FILE");
    CHECK_ERR(call(&b, &wrong, 2000, &why), ERR_AGAIN);
    CHECK_HAS(why.text, "is not the broker's public key");
    uv_async_send(&stop);
    pthread_join(thread, NULL);
    bed_close(&b);
}

int main(void)
{
    if (zmq_has("curve") == 0) {
        fprintf(stderr, "this libzmq has no CURVE\n");
        return 1;
    }
    test_who_gets_in();
    test_plain_broker();
    test_taken_off_the_list();
    test_strangers();
    test_client();
    return check_report();
}
