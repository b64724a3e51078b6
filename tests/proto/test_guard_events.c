/* The guard alone, while nobody looks at its events for a while: descriptors that go to the next
 * connection, and its end with events that nobody read. */
#include <errno.h>
#include <fcntl.h>
#include <linux/sockios.h>
#include <netinet/in.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "proto/guard.h"
#include "tests/proto/loop.h"

struct bed {
    struct place place;
    void *context, *router;
    struct guard *guard;
    uint64_t now_ns;
};

static void bed_open(struct bed *b, struct proto_limits limits)
{
    struct err_msg why;
    *b = (struct bed){.now_ns = 1000 * NS_PER_S};
    place_make(&b->place);
    b->context = zmq_ctx_new();
    b->router = zmq_socket(b->context, ZMQ_ROUTER);
    CHECK_OK(guard_open(b->context, b->router, &limits, &b->guard, &why), why);
    CHECK(zmq_bind(b->router, b->place.endpoint) == 0);
}

static void bed_close(struct bed *b)
{
    guard_close(&b->guard, b->router);
    zmq_close(b->router);
    zmq_ctx_term(b->context);
    place_remove(&b->place);
}

/* A client's socket, without a connection: made early, it does not take the descriptor that the
 * other side is to get. */
static int peer_open(void)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    CHECK(fd >= 0);
    return fd;
}

static bool peer_connects(const struct bed *b, int fd)
{
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    const char *path = b->place.endpoint + strlen("ipc://");
    memcpy(at.sun_path, path, strlen(path));
    return connect(fd, (struct sockaddr *)&at, sizeof at) == 0;
}

/* ZMTP 3.1 of a DEALER without a routing id of its own, by hand. */
static void peer_greet(int fd)
{
    static const unsigned char greeting[64] = {0xff, 0,    0, 0, 0,   0,   0,   0,
                                               0,    0x7f, 3, 1, 'N', 'U', 'L', 'L'};
    static const char ready[] = "\x04\x1c\x05READY\x0bSocket-Type\0\0\0\x06"
                                "DEALER";
    unsigned char theirs[64];
    CHECK(write(fd, greeting, sizeof greeting) == sizeof greeting);
    CHECK(recv(fd, theirs, sizeof theirs, MSG_WAITALL) == sizeof theirs);
    CHECK(write(fd, ready, sizeof ready - 1) == sizeof ready - 1);
}

static void peer_say(int fd, const char *text)
{
    char frame[64];
    int len = snprintf(frame, sizeof frame, "%c%c%s", 0, (char)strlen(text), text);
    CHECK(write(fd, frame, (size_t)len) == len);
}

struct said {
    struct proto_peer from;
    int fd; /* the router's, of the connection it came by */
    char text[16];
};

static struct said hear(const struct bed *b)
{
    struct said s = {0};
    zmq_msg_t frame;
    zmq_msg_init(&frame);
    int len = zmq_recv(b->router, s.from.id, sizeof s.from.id, 0);
    CHECK(len > 0 && zmq_msg_recv(&frame, b->router, 0) > 0);
    s.from.len = (uint8_t)len;
    s.fd = zmq_msg_get(&frame, ZMQ_SRCFD);
    snprintf(s.text, sizeof s.text, "%.*s", (int)zmq_msg_size(&frame),
             (const char *)zmq_msg_data(&frame));
    zmq_msg_close(&frame);
    return s;
}

static struct said connect_and_say(const struct bed *b, int fd, const char *text)
{
    CHECK(peer_connects(b, fd));
    peer_greet(fd);
    peer_say(fd, text);
    struct said s = hear(b);
    CHECK_STR(s.text, text);
    return s;
}

/* The next connection gets that number. */
static void wait_until_closed(int fd)
{
    while (fcntl(fd, F_GETFD) >= 0)
        clock_sleep_ns(NS_PER_MS);
}

static bool heard(struct bed *b, const struct said *s)
{
    return guard_heard(b->guard, s->fd, &s->from, NULL, b->now_ns);
}

/* Cut off, and in the same moment the descriptor is another's. */
static void test_reused_after_a_cut(void)
{
    struct bed b;
    int bad = peer_open(), good = peer_open();
    bed_open(&b, (struct proto_limits){.max_faults = 1});
    struct said first = connect_and_say(&b, bad, "bad");
    CHECK(heard(&b, &first));
    guard_blame(b.guard, first.fd, 0, "test", b.now_ns);
    guard_blame(b.guard, first.fd, 0, "test", b.now_ns);
    CHECK_INT(guard_cuts(b.guard), 1);
    wait_until_closed(first.fd);
    struct said second = connect_and_say(&b, good, "good");
    CHECK_INT(second.fd, first.fd);
    CHECK(heard(&b, &second));
    CHECK_INT(guard_connections(b.guard), 1);
    close(bad);
    close(good);
    bed_close(&b);
}

/* What the one before said is not counted against the one that has the descriptor now. */
static void test_reused_after_a_flood(void)
{
    struct bed b;
    int bad = peer_open(), good = peer_open();
    bed_open(&b, (struct proto_limits){.max_per_s = 10, .max_faults = 10});
    struct said first = connect_and_say(&b, bad, "bad");
    for (int i = 0; i < 20; i++)
        CHECK(heard(&b, &first));
    for (int i = 0; i < 10; i++)
        guard_blame(b.guard, first.fd, 0, "test", b.now_ns);
    shutdown(bad, SHUT_RDWR);
    wait_until_closed(first.fd);
    struct said second = connect_and_say(&b, good, "good");
    CHECK_INT(second.fd, first.fd);
    CHECK(heard(&b, &second));
    guard_blame(b.guard, second.fd, 0, "test", b.now_ns);
    CHECK_INT(guard_cuts(b.guard), 0);
    for (int i = 0; i < 19; i++)
        CHECK(heard(&b, &second));
    CHECK(!heard(&b, &second));
    CHECK_INT(guard_cuts(b.guard), 1);
    close(bad);
    close(good);
    bed_close(&b);
}

/* Messages of the one before that are read after the newcomer's. */
static void test_what_is_left_of_the_one_before(void)
{
    struct bed b;
    int bad = peer_open(), good = peer_open();
    bed_open(&b, (struct proto_limits){.max_faults = 10});
    struct said first = connect_and_say(&b, bad, "bad");
    CHECK(heard(&b, &first));
    shutdown(bad, SHUT_RDWR);
    wait_until_closed(first.fd);
    struct said second = connect_and_say(&b, good, "good");
    CHECK_INT(second.fd, first.fd);
    CHECK(heard(&b, &second));
    CHECK(heard(&b, &first));
    for (int i = 0; i < 8; i++)
        guard_blame(b.guard, first.fd, 0, "test", b.now_ns);
    CHECK(heard(&b, &second));
    for (int i = 0; i < 8; i++)
        guard_blame(b.guard, second.fd, 0, "test", b.now_ns);
    CHECK_INT(guard_cuts(b.guard), 0);
    CHECK(!guard_cut_peer(b.guard, &first.from, "test", b.now_ns));
    CHECK(guard_cut_peer(b.guard, &second.from, "test", b.now_ns));
    close(bad);
    close(good);
    bed_close(&b);
}

/* More connections come and go than the monitor has room to tell of: libzmq's thread waits for
 * room. The end must not wait for that thread. */
static void test_closed_with_events_left(void)
{
    struct bed b;
    unsigned made = 0, refused = 0;
    bed_open(&b, (struct proto_limits){.greet_ms = 60000});
    while (made < 20000 && refused < 100) {
        int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        bool connects = peer_connects(&b, fd);
        made += connects;
        refused = connects ? 0 : refused + 1; /* nobody accepts at the moment */
        if (!connects)
            clock_sleep_ns(NS_PER_MS);
        close(fd);
    }
    printf("%u connections, then libzmq waits\n", made);
    CHECK(refused == 100);
    alarm(30); /* it would be for ever */
    bed_close(&b);
    alarm(0);
}

/* A TCP peer that begins a frame of 32 MiB in the middle of the handshake, and sends so much of it
 * that the other side has. */
static void peer_sends(int fd, size_t bytes)
{
    static const unsigned char greeting[64] = {0xff, 0,    0, 0, 0,   0,   0,   0,
                                               0,    0x7f, 3, 1, 'N', 'U', 'L', 'L'};
    static const unsigned char header[9] = {0x06, 0, 0, 0, 0, 2}; /* a long command */
    static char body[64 << 10];
    CHECK(send(fd, greeting, sizeof greeting, 0) == sizeof greeting);
    CHECK(send(fd, header, sizeof header, 0) == sizeof header);
    for (size_t left = bytes; left > 0; left -= sizeof body)
        CHECK(send(fd, body, sizeof body, 0) == sizeof body);
    int waits = 1;
    while (ioctl(fd, SIOCOUTQ, &waits) == 0 && waits > 0)
        clock_sleep_ns(NS_PER_MS);
}

static bool is_cut(int fd)
{
    char bytes[256];
    ssize_t n;
    while ((n = recv(fd, bytes, sizeof bytes, MSG_DONTWAIT)) > 0) {
    }
    return n == 0 || errno != EAGAIN;
}

/* Many who say nothing, and together send more than there is memory for. Who sent least stays. */
static void test_greedy_mutes(void)
{
    enum { PEERS = 4 };
    struct err_msg why;
    struct proto_limits limits = {.max_mute_bytes = 4 << 20};
    struct bed b = {.now_ns = 1000 * NS_PER_S};
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    char endpoint[64];
    size_t size = sizeof endpoint;
    int fds[PEERS];
    b.context = zmq_ctx_new();
    b.router = zmq_socket(b.context, ZMQ_ROUTER);
    CHECK_OK(guard_open(b.context, b.router, &limits, &b.guard, &why), why);
    CHECK(zmq_bind(b.router, "tcp://127.0.0.1:*") == 0);
    CHECK(zmq_getsockopt(b.router, ZMQ_LAST_ENDPOINT, endpoint, &size) == 0);
    at.sin_port = htons((uint16_t)atoi(strrchr(endpoint, ':') + 1));
    for (int i = 0; i < PEERS; i++) {
        fds[i] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        CHECK(connect(fds[i], (struct sockaddr *)&at, sizeof at) == 0);
    }
    guard_tick(b.guard, b.now_ns); /* nobody looked for long: no reason to cut anybody off */
    peer_sends(fds[0], 64 << 10);
    peer_sends(fds[1], 3 << 20);
    guard_tick(b.guard, b.now_ns += NS_PER_S / 4);
    CHECK_INT(guard_connections(b.guard), PEERS);
    CHECK_INT(guard_cuts(b.guard), 0);
    peer_sends(fds[2], 3 << 20);
    guard_tick(b.guard, b.now_ns += NS_PER_S / 4);
    CHECK_INT(guard_cuts(b.guard), 2);
    CHECK(!is_cut(fds[0]) && is_cut(fds[1]) && is_cut(fds[2]) && !is_cut(fds[3]));
    guard_tick(b.guard, b.now_ns += NS_PER_S / 4);
    CHECK_INT(guard_cuts(b.guard), 2);
    for (int i = 0; i < PEERS; i++)
        close(fds[i]);
    guard_close(&b.guard, b.router);
    zmq_close(b.router);
    zmq_ctx_term(b.context);
}

int main(void)
{
    test_greedy_mutes();
    test_reused_after_a_cut();
    test_reused_after_a_flood();
    test_what_is_left_of_the_one_before();
    test_closed_with_events_left();
    return check_report();
}
