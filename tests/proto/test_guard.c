/* Who a ROUTER with limits cuts off: each kind of bad peer loses its connection, and a good one
 * beside it keeps its own. */
#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "proto/guard.h"
#include "tests/proto/loop.h"

struct bed {
    uv_loop_t loop;
    struct place place;
    struct proto_socket *socket;
    struct proto_peer last;
    uint64_t messages, garbage, told;
    bool blame; /* every message */
    void *context, *good;
    uint64_t asked;
};

static void on_message(void *user, const struct proto_peer *from, const struct msg *m)
{
    struct bed *b = user;
    b->messages++;
    b->last = *from;
    if (m->type == MSG_TYPE_OK) {
        enum err e = proto_socket_send(b->socket, from, m, NULL);
        CHECK(e == ERR_OK || e == ERR_NOT_FOUND);
    } else if (b->blame) {
        proto_socket_blame(b->socket);
    }
}

static void on_garbage(void *user, const struct proto_peer *from, const struct err_msg *why)
{
    struct bed *b = user;
    (void)from;
    (void)why;
    b->garbage++;
}

static void on_cut_off(void *user, const char *why)
{
    struct bed *b = user;
    CHECK(why[0] != '\0');
    b->told++;
}

static void bed_open(struct bed *b, struct proto_limits limits, size_t max_queue_bytes)
{
    static const struct proto_socket_events events = {on_message, on_garbage, on_cut_off};
    struct err_msg why;
    *b = (struct bed){0};
    uv_loop_init(&b->loop);
    place_make(&b->place);
    struct proto_socket_options o = {.router = true,
                                     .endpoint = b->place.endpoint,
                                     .max_queue_bytes = max_queue_bytes,
                                     .limits = &limits};
    CHECK_OK(proto_socket_open(&b->loop, &o, &events, b, &b->socket, &why), why);
    b->context = zmq_ctx_new();
    b->good = raw_dealer(b->context, b->place.endpoint, 1000, NULL);
}

static struct proto_socket_stats stats(const struct bed *b)
{
    struct proto_socket_stats st;
    proto_socket_get_stats(b->socket, &st);
    return st;
}

static bool good_answered(void *arg)
{
    struct bed *b = arg;
    char frame[256];
    while (zmq_recv(b->good, frame, sizeof frame, ZMQ_DONTWAIT) >= 0)
        b->asked--;
    return b->asked == 0;
}

/* The good peer's connection is the one it had. */
static void ask(struct bed *b)
{
    struct msg m = ok_msg(1);
    raw_send(b->good, &m);
    b->asked++;
    CHECK(loop_until(&b->loop, good_answered, b));
}

static bool one_is_cut(void *arg)
{
    return stats(arg).cut_off >= 1;
}

static bool two_are_cut(void *arg)
{
    return stats(arg).cut_off >= 2;
}

static bool has_spoken(void *arg)
{
    return ((struct bed *)arg)->messages > 0;
}

struct cuts_of {
    struct bed *bed;
    uint64_t before;
};

static bool one_more_is_cut(void *arg)
{
    const struct cuts_of *c = arg;
    return stats(c->bed).cut_off > c->before;
}

static bool only_the_good_one(void *arg)
{
    return stats(arg).connections == 1;
}

static void bed_close(struct bed *b, uint64_t cuts)
{
    ask(b);
    CHECK(loop_until(&b->loop, only_the_good_one, b));
    CHECK_INT(stats(b).cut_off, cuts);
    CHECK_INT(b->told, cuts);
    zmq_close(b->good);
    zmq_ctx_term(b->context);
    proto_socket_close(&b->socket, 0);
    uv_run(&b->loop, UV_RUN_DEFAULT);
    CHECK_INT(uv_loop_close(&b->loop), 0);
    place_remove(&b->place);
}

/* A peer of one connection: cut off, it does not come back. */
static void *bad_dealer(struct bed *b)
{
    int never = -1;
    void *s = zmq_socket(b->context, ZMQ_DEALER);
    zmq_setsockopt(s, ZMQ_RECONNECT_IVL, &never, sizeof never);
    int linger = 0, sndhwm = 100000;
    zmq_setsockopt(s, ZMQ_LINGER, &linger, sizeof linger);
    zmq_setsockopt(s, ZMQ_SNDHWM, &sndhwm, sizeof sndhwm);
    if (zmq_connect(s, b->place.endpoint) != 0)
        abort();
    return s;
}

/* A plain Unix socket that says nothing. */
static int mute_peer(const struct bed *b)
{
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    snprintf(at.sun_path, sizeof at.sun_path, "%s", b->place.endpoint + strlen("ipc://"));
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    CHECK(fd >= 0 && connect(fd, (struct sockaddr *)&at, sizeof at) == 0);
    return fd;
}

/* Whether the other side has closed; what it said before is read over. */
static bool is_closed(int fd)
{
    char bytes[256];
    for (;;) {
        ssize_t n = read(fd, bytes, sizeof bytes);
        if (n <= 0)
            return n == 0 || (errno != EAGAIN && errno != EINTR);
    }
}

static bool mute_is_closed(void *arg)
{
    return is_closed(*(int *)arg);
}

static void test_garbage(void)
{
    struct bed b;
    bed_open(&b, (struct proto_limits){.max_faults = 20}, 0);
    ask(&b);
    void *bad = bad_dealer(&b);
    for (int i = 0; i < 200; i++)
        CHECK(zmq_send(bad, "\xc1", 1, 0) == 1);
    CHECK(loop_until(&b.loop, one_is_cut, &b));
    CHECK(b.garbage >= 20 && b.garbage <= 30); /* the rest was thrown away unread */
    CHECK(loop_until(&b.loop, only_the_good_one, &b));
    zmq_close(bad);
    /* large garbage counts more */
    static char large[4 << 20];
    bad = bad_dealer(&b);
    b.garbage = 0;
    for (int i = 0; i < 8; i++)
        CHECK(zmq_send(bad, large, sizeof large, 0) == (int)sizeof large);
    CHECK(loop_until(&b.loop, two_are_cut, &b));
    CHECK(b.garbage >= 4 && b.garbage <= 5);
    zmq_close(bad);
    bed_close(&b, 2);
}

static void test_blame(void)
{
    struct bed b;
    bed_open(&b, (struct proto_limits){.max_faults = 20}, 0);
    ask(&b);
    void *bad = bad_dealer(&b);
    struct msg m = {.type = MSG_TYPE_BYE, .bye = {.session = 1}};
    b.blame = true;
    for (int i = 0; i < 200; i++)
        raw_send(bad, &m);
    CHECK(loop_until(&b.loop, one_is_cut, &b));
    CHECK(b.messages <= 1 + 30);
    zmq_close(bad);
    bed_close(&b, 1);
}

static void test_flood(void)
{
    struct bed b;
    bed_open(&b, (struct proto_limits){.max_per_s = 1000}, 0);
    ask(&b);
    void *bad = bad_dealer(&b);
    struct msg m = {.type = MSG_TYPE_BYE, .bye = {.session = 1}};
    for (int i = 0; i < 50000; i++)
        raw_send(bad, &m);
    CHECK(loop_until(&b.loop, one_is_cut, &b));
    CHECK(b.messages >= 2000 && b.messages < 50000);
    zmq_close(bad);
    bed_close(&b, 1);
}

/* The guard alone, in virtual time: silence ends a connection, but time in which nobody looked does
 * not. */
static void test_stood_still(void)
{
    struct place place;
    struct guard *g = NULL;
    struct err_msg why;
    struct proto_limits limits = {.idle_ms = 5000};
    struct proto_peer peer = {0};
    uint64_t now_ns = 1000 * NS_PER_S;
    place_make(&place);
    void *context = zmq_ctx_new(), *router = zmq_socket(context, ZMQ_ROUTER);
    CHECK_OK(guard_open(context, router, &limits, &g, &why), why);
    CHECK(zmq_bind(router, place.endpoint) == 0);
    void *dealer = raw_dealer(context, place.endpoint, 10, NULL);
    CHECK(zmq_send(dealer, "x", 1, 0) == 1);
    zmq_msg_t frame;
    zmq_msg_init(&frame);
    CHECK(zmq_recv(router, peer.id, sizeof peer.id, 0) > 0);
    CHECK(zmq_msg_recv(&frame, router, 0) == 1);
    peer.len = 5;
    guard_tick(g, now_ns);
    CHECK_INT(guard_connections(g), 1);
    CHECK(guard_heard(g, zmq_msg_get(&frame, ZMQ_SRCFD), &peer, NULL, now_ns));
    zmq_msg_close(&frame);
    for (int i = 0; i < 12; i++) /* 3 s of silence, then an hour in which nobody looked */
        guard_tick(g, now_ns += NS_PER_S / 4);
    guard_tick(g, now_ns += 3600 * NS_PER_S);
    for (int i = 0; i < 7; i++)
        guard_tick(g, now_ns += NS_PER_S / 4);
    CHECK_INT(guard_cuts(g), 0); /* 4.75 s as far as anybody knows */
    for (int i = 0; i < 4; i++)
        guard_tick(g, now_ns += NS_PER_S / 4);
    CHECK_INT(guard_cuts(g), 1);
    guard_close(&g, router);
    zmq_close(dealer);
    zmq_close(router);
    zmq_ctx_term(context);
    place_remove(&place);
}

/* What a peer had said before it was cut off stays unread, also once its connection is gone; what
 * one had said that went by itself is read. */
static void test_gone(bool by_itself, bool reused)
{
    struct place place;
    struct guard *g = NULL;
    struct err_msg why;
    struct proto_limits limits = {.max_faults = 1};
    struct proto_peer peer = {0};
    uint64_t now_ns = 1000 * NS_PER_S;
    int never = -1, linger = -1, fd = -1;
    place_make(&place);
    void *context = zmq_ctx_new(), *router = zmq_socket(context, ZMQ_ROUTER);
    CHECK_OK(guard_open(context, router, &limits, &g, &why), why);
    CHECK(zmq_bind(router, place.endpoint) == 0);
    void *dealer = zmq_socket(context, ZMQ_DEALER);
    zmq_setsockopt(dealer, ZMQ_RECONNECT_IVL, &never, sizeof never);
    zmq_setsockopt(dealer, ZMQ_LINGER, &linger, sizeof linger);
    CHECK(zmq_connect(dealer, place.endpoint) == 0);
    void *next = zmq_socket(context, ZMQ_DEALER);
    zmq_setsockopt(next, ZMQ_LINGER, &linger, sizeof linger);
    for (int i = 0; i < 3; i++)
        CHECK(zmq_send(dealer, "x", 1, 0) == 1);
    for (int i = 0; i < 3; i++) {
        zmq_msg_t frame;
        zmq_msg_init(&frame);
        peer.len = (size_t)zmq_recv(router, peer.id, sizeof peer.id, 0);
        CHECK(zmq_msg_recv(&frame, router, 0) == 1);
        fd = zmq_msg_get(&frame, ZMQ_SRCFD);
        CHECK(guard_heard(g, fd, &peer, NULL, now_ns) == (i == 0 || by_itself));
        zmq_msg_close(&frame);
        if (i > 0)
            continue;
        if (by_itself) {
            zmq_close(dealer);
        } else {
            guard_blame(g, fd, 4 << 20, "garbage", now_ns);
            CHECK_INT(guard_cuts(g), 1);
        }
        uint64_t end_ns = clock_mono_ns() + 20 * NS_PER_S;
        while (guard_connections(g) > 0 && clock_mono_ns() < end_ns)
            guard_tick(g, now_ns += NS_PER_MS);
        CHECK_INT(guard_connections(g), 0);
        if (!reused)
            continue;
        CHECK(zmq_connect(next, place.endpoint) == 0);
        while (guard_connections(g) == 0 && clock_mono_ns() < end_ns)
            guard_tick(g, now_ns += NS_PER_MS);
        CHECK_INT(guard_find_fd(g, &peer), -1);
    }
    if (reused) { /* the one that has the descriptor now */
        zmq_msg_t frame;
        zmq_msg_init(&frame);
        CHECK(zmq_send(next, "y", 1, 0) == 1);
        peer.len = (size_t)zmq_recv(router, peer.id, sizeof peer.id, 0);
        CHECK(zmq_msg_recv(&frame, router, 0) == 1);
        CHECK_INT(zmq_msg_get(&frame, ZMQ_SRCFD), fd);
        CHECK(guard_heard(g, fd, &peer, NULL, now_ns));
        CHECK_INT(guard_cuts(g), 1);
        zmq_msg_close(&frame);
    }
    zmq_close(next);
    guard_close(&g, router);
    if (!by_itself)
        zmq_close(dealer);
    zmq_close(router);
    zmq_ctx_term(context);
    place_remove(&place);
}

static void test_silent(void)
{
    struct bed b;
    bed_open(&b, (struct proto_limits){.greet_ms = 100, .idle_ms = 3600000}, 0);
    ask(&b);
    int mute = mute_peer(&b);
    uint64_t begin_ns = clock_mono_ns();
    CHECK(loop_until(&b.loop, mute_is_closed, &mute));
    CHECK(clock_mono_ns() - begin_ns >= 90 * NS_PER_MS);
    close(mute);
    bed_close(&b, 1);

    bed_open(&b, (struct proto_limits){.idle_ms = 300}, 0);
    ask(&b);
    void *bad = bad_dealer(&b);
    struct msg m = {.type = MSG_TYPE_BYE, .bye = {.session = 1}};
    raw_send(bad, &m);
    while (stats(&b).cut_off == 0 && clock_mono_ns() - begin_ns < 20 * NS_PER_S)
        ask(&b);
    zmq_close(bad);
    bed_close(&b, 1);
}

/* Of more connections than there is room for, those that said nothing give way, the oldest first.
 */
static void test_crowd(void)
{
    enum { MOST = 4, MUTES = 12 };
    struct bed b;
    bed_open(&b, (struct proto_limits){.max_connections = MOST, .greet_ms = 3600000}, 0);
    ask(&b);
    int mutes[MUTES];
    for (int i = 0; i < MUTES; i++)
        mutes[i] = mute_peer(&b);
    for (int i = 0; i < MUTES - (MOST - 1); i++)
        CHECK(loop_until(&b.loop, mute_is_closed, &mutes[i]));
    ask(&b);
    /* each newcomer takes the place of one of them, and keeps it with its first word */
    struct msg m = {.type = MSG_TYPE_BYE, .bye = {.session = 1}};
    void *dealers[MOST];
    for (int i = 0; i < MOST - 1; i++) {
        CHECK(!is_closed(mutes[MUTES - (MOST - 1) + i]));
        dealers[i] = bad_dealer(&b);
        b.messages = 0;
        raw_send(dealers[i], &m);
        CHECK(loop_until(&b.loop, has_spoken, &b));
        CHECK(loop_until(&b.loop, mute_is_closed, &mutes[MUTES - (MOST - 1) + i]));
    }
    CHECK_INT(stats(&b).cut_off, MUTES);
    /* where everybody has spoken, nobody gives way */
    dealers[MOST - 1] = bad_dealer(&b);
    CHECK(loop_until(&b.loop, one_more_is_cut, &(struct cuts_of){&b, MUTES}));
    ask(&b);
    for (int i = 0; i < MOST; i++)
        zmq_close(dealers[i]);
    for (int i = 0; i < MUTES; i++)
        close(mutes[i]);
    bed_close(&b, MUTES + 1);
}

static bool queue_is_empty(void *arg)
{
    return stats(arg).queued_bytes == 0 && stats(arg).queued_peers == 0;
}

/* Answers that are not read: at the peer's limit, or as the longest queue of all. */
static void test_deaf(size_t max_queue_bytes, size_t max_queues_bytes)
{
    struct bed b;
    bed_open(&b, (struct proto_limits){.max_queues_bytes = max_queues_bytes, .idle_ms = 3600000},
             max_queue_bytes);
    ask(&b);
    b.messages = 0;
    void *bad = bad_dealer(&b);
    int rcvhwm = 1;
    zmq_setsockopt(bad, ZMQ_RCVHWM, &rcvhwm, sizeof rcvhwm);
    struct msg m = {.type = MSG_TYPE_BYE, .bye = {.session = 1}};
    raw_send(bad, &m);
    CHECK(loop_until(&b.loop, has_spoken, &b));
    struct proto_peer peer = b.last;
    static char body[64 << 10];
    struct rec_GRANT_JOB job = {.batch = STR_LIT("b"), .body = {body, sizeof body}};
    struct msg grant = {.type = MSG_TYPE_GRANT, .grant = {.session = 1, .jobs = {&job, 1}}};
    enum err e = ERR_OK;
    size_t most = 0;
    for (int i = 0; i < 100000 && stats(&b).cut_off == 0; i++) {
        e = proto_socket_send(b.socket, &peer, &grant, NULL);
        CHECK(e == ERR_OK || (e == ERR_NOT_FOUND && stats(&b).cut_off == 1));
        most = stats(&b).queued_bytes > most ? stats(&b).queued_bytes : most;
    }
    CHECK_INT(stats(&b).cut_off, 1);
    CHECK(most > (512 << 10) && most <= (1 << 20) + 2 * sizeof body);
    CHECK(loop_until(&b.loop, queue_is_empty, &b));
    zmq_close(bad);
    bed_close(&b, 1);
}

/* Small answers that are not read take no more memory than the limit says, though most of that is
 * not their own bytes. */
static void test_deaf_to_small_answers(void)
{
    enum { MOST_BYTES = 8 << 20 };
    struct bed b;
    bed_open(&b, (struct proto_limits){.idle_ms = 3600000}, MOST_BYTES);
    ask(&b);
    b.messages = 0;
    void *bad = bad_dealer(&b);
    struct msg m = {.type = MSG_TYPE_BYE, .bye = {.session = 1}};
    raw_send(bad, &m);
    CHECK(loop_until(&b.loop, has_spoken, &b));
    struct proto_peer peer = b.last;
    struct msg answer = {.type = MSG_TYPE_ERROR,
                         .error = {.text = STR_LIT("no batch of that name")}};
    size_t before = mallinfo2().uordblks, most = before;
    while (stats(&b).cut_off == 0) {
        size_t now = mallinfo2().uordblks;
        most = now > most ? now : most;
        for (int i = 0; i < 1000 && stats(&b).cut_off == 0; i++) {
            enum err e = proto_socket_send(b.socket, &peer, &answer, NULL);
            CHECK(e == ERR_OK || (e == ERR_NOT_FOUND && stats(&b).cut_off == 1));
        }
    }
    printf("small answers: the limit %d bytes, memory %zu\n", MOST_BYTES, most - before);
    CHECK(most - before <= MOST_BYTES + (MOST_BYTES >> 4));
    zmq_close(bad);
    bed_close(&b, 1);
}

int main(void)
{
    test_garbage();
    test_blame();
    test_flood();
    test_silent();
    test_stood_still();
    test_gone(true, false);
    test_gone(false, false);
    test_gone(false, true);
    test_crowd();
    test_deaf(1 << 20, 0);
    test_deaf(64 << 20, 1 << 20);
    test_deaf_to_small_answers();
    return check_report();
}
