/* A ZeroMQ socket on a libuv loop, with a queue for each peer that cannot take more now. Encoding
 * is the codec's, settings are endpoint.c's, and what to do about a lost peer is the caller's.
 *
 * How a turn of the loop goes:  prepare  flush the queues, ask ZMQ_EVENTS; more to read: start idle
 *                               poll     sleeps until ZMQ_FD moves, a timer is due, or not at all
 * (idle) check    receives at most TURN_FRAMES frames, for TURN_MS. Asking ZMQ_EVENTS and sending
 * both take wake-ups off ZMQ_FD, so nothing may rely on one of its edges alone: prepare asks last
 * of all, and while anything is queued a timer turns the loop, since "peer A can take more" may be
 * consumed by a send to peer B. */
#include "proto/socket.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zmq.h>

#include "base/clock.h"
#include "base/hash.h"
#include "base/log.h"
#include "proto/codec.h"
#include "proto/endpoint.h"
#include "proto/guard.h"
#include "proto/handshake.h"
#include "proto/zap.h"

enum {
    TURN_FRAMES = 128,
    TURN_MS = 5, /* and a turn ends with the message that takes it beyond */
    RETRY_MS = 20,
    BUCKETS = 256,
    DEFAULT_QUEUE_MIB = 64,
    ZMQ_MESSAGE_BYTES = 80, /* libzmq's header of a message, and the allocator's own */
};

static const size_t default_queue_bytes = (size_t)DEFAULT_QUEUE_MIB << 20;
/* More than any message within the limits decodes to. */
static const size_t decoded_limit_bytes = (size_t)128 << 20;

struct queued {
    struct queued *next;
    size_t bytes; /* of memory */
    zmq_msg_t frame;
};

/* Exists only while something is queued. */
struct peer_queue {
    struct peer_queue *next; /* in the bucket */
    struct proto_peer peer;
    struct queued *head;
    struct queued **tail;
    size_t bytes;
};

struct proto_socket {
    uv_poll_t poll;
    uv_prepare_t prepare;
    uv_check_t check;
    uv_idle_t idle;
    uv_timer_t retry;
    uv_poll_t guard_poll; /* with a guard only */
    uv_poll_t zap_poll;   /* with keys, on a ROUTER */
    unsigned open_handles;
    bool closing;
    int linger_ms;
    bool router;
    struct proto_zmq z;
    char *endpoint;
    size_t max_queue_bytes;
    struct proto_socket_events events;
    void *user;
    struct buf scratch;
    struct peer_queue *buckets[BUCKETS];
    struct proto_socket_stats stats;
    size_t max_queues_bytes;
    int fd;          /* of the message at hand; -1: unknown */
    const char *key; /* its sender's; NULL: without keys */
    /* In the middle of a message with too many frames. */
    bool skipping;
    struct proto_peer skip_peer;
};

/* ---- sending ---- */

/* The memory a message takes in a queue. Of small answers most is not their own bytes. */
static size_t memory_bytes(size_t message_bytes)
{
    return message_bytes + sizeof(struct queued) + ZMQ_MESSAGE_BYTES;
}

static struct peer_queue **find_queue(struct proto_socket *s, const struct proto_peer *p)
{
    struct peer_queue **at = &s->buckets[hash64(p->id, p->len, 0) % BUCKETS];
    while (*at != NULL && ((*at)->peer.len != p->len || memcmp((*at)->peer.id, p->id, p->len) != 0))
        at = &(*at)->next;
    return at;
}

static void free_queue(struct proto_socket *s, struct peer_queue **at)
{
    struct peer_queue *q = *at;
    *at = q->next;
    for (struct queued *m = q->head; m != NULL;) {
        struct queued *next = m->next;
        zmq_msg_close(&m->frame);
        free(m);
        s->stats.dropped++;
        m = next;
    }
    s->stats.queued_bytes -= q->bytes;
    s->stats.queued_peers--;
    free(q);
}

/* ERR_OK: ZeroMQ has the frame. ERR_AGAIN: not now. ERR_NOT_FOUND: no such peer (any more). */
static enum err try_send(struct proto_socket *s, const struct proto_peer *to, zmq_msg_t *frame)
{
    int r;
    if (s->router) {
        do
            r = zmq_send(s->z.socket, to->id, to->len, ZMQ_DONTWAIT | ZMQ_SNDMORE);
        while (r < 0 && errno == EINTR);
        if (r < 0)
            return errno == EAGAIN ? ERR_AGAIN : errno == EHOSTUNREACH ? ERR_NOT_FOUND : ERR_IO;
    }
    /* On a ROUTER that has taken the routing id this cannot block; a peer lost in between swallows
     * it. */
    do
        r = zmq_msg_send(frame, s->z.socket, ZMQ_DONTWAIT);
    while (r < 0 && errno == EINTR);
    if (r < 0)
        return errno == EAGAIN ? ERR_AGAIN : errno == EHOSTUNREACH ? ERR_NOT_FOUND : ERR_IO;
    s->stats.sent++;
    return ERR_OK;
}

/* Sends what can be sent; frees the queue when it is empty or its peer is gone (ERR_NOT_FOUND). */
static enum err flush_queue(struct proto_socket *s, struct peer_queue **at)
{
    struct peer_queue *q = *at;
    while (q->head != NULL) {
        struct queued *m = q->head;
        enum err e = try_send(s, &q->peer, &m->frame);
        if (e == ERR_AGAIN)
            return ERR_OK;
        if (e != ERR_OK) {
            log_debug("peer gone, dropping its queue: bytes=%zu cause=\"%s\"", q->bytes,
                      err_name(e));
            free_queue(s, at);
            return ERR_NOT_FOUND;
        }
        q->head = m->next;
        if (q->head == NULL)
            q->tail = &q->head;
        q->bytes -= m->bytes;
        s->stats.queued_bytes -= m->bytes;
        zmq_msg_close(&m->frame);
        free(m);
    }
    free_queue(s, at);
    return ERR_OK;
}

static void flush_all(struct proto_socket *s)
{
    for (size_t i = 0; i < BUCKETS && s->stats.queued_peers > 0; i++) {
        for (struct peer_queue **at = &s->buckets[i]; *at != NULL;) {
            struct peer_queue *q = *at;
            if (flush_queue(s, at) == ERR_OK && *at == q)
                at = &q->next;
        }
    }
    if (s->stats.queued_peers == 0)
        uv_timer_stop(&s->retry);
}

static void on_retry(uv_timer_t *timer)
{
    (void)timer; /* prepare flushes */
}

/* Takes the frame over on ERR_OK. */
static enum err append(struct proto_socket *s, const struct proto_peer *to, zmq_msg_t *frame,
                       size_t bytes)
{
    struct peer_queue **at = find_queue(s, to);
    struct queued *m = malloc(sizeof *m);
    if (m == NULL)
        return ERR_NOMEM;
    if (*at == NULL) {
        struct peer_queue *q = calloc(1, sizeof *q);
        if (q == NULL) {
            free(m);
            return ERR_NOMEM;
        }
        q->peer = *to;
        q->tail = &q->head;
        *at = q;
        s->stats.queued_peers++;
    }
    m->next = NULL;
    m->bytes = bytes;
    zmq_msg_init(&m->frame);
    zmq_msg_move(&m->frame, frame);
    *(*at)->tail = m;
    (*at)->tail = &m->next;
    (*at)->bytes += bytes;
    s->stats.queued_bytes += bytes;
    if (!uv_is_active((const uv_handle_t *)&s->retry))
        uv_timer_start(&s->retry, on_retry, RETRY_MS, RETRY_MS);
    return ERR_OK;
}

/* A message for a peer that nothing waits for is never too much: it would have no second chance. */
static bool is_over(const struct proto_socket *s, const struct peer_queue *q, size_t message_bytes)
{
    return q != NULL && (q->bytes >= s->max_queue_bytes ||
                         memory_bytes(message_bytes) > s->max_queue_bytes - q->bytes);
}

static uint64_t now_ns(const struct proto_socket *s)
{
    return uv_now(s->poll.loop) * NS_PER_MS;
}

static void cut_off(struct proto_socket *s, struct peer_queue **at, const char *what)
{
    guard_cut_peer(s->z.guard, &(*at)->peer, what, now_ns(s));
    free_queue(s, at);
}

/* All queues together are over their limit: the longest goes. */
static void cut_longest(struct proto_socket *s)
{
    struct peer_queue **longest = NULL;
    for (size_t i = 0; i < BUCKETS; i++) {
        for (struct peer_queue **at = &s->buckets[i]; *at != NULL; at = &(*at)->next) {
            if (longest == NULL || (*at)->bytes > (*longest)->bytes)
                longest = at;
        }
    }
    if (longest != NULL)
        cut_off(s, longest, "reads too little");
}

enum err proto_socket_send(struct proto_socket *s, const struct proto_peer *to, const struct msg *m,
                           struct err_msg *why)
{
    static const struct proto_peer broker;
    const struct proto_peer *peer = s->router ? to : &broker;
    assert(peer != NULL && !s->closing);
    buf_clear(&s->scratch);
    enum err e = proto_encode(m, &s->scratch, why);
    if (e != ERR_OK)
        return e;
    size_t bytes = s->scratch.len;
    struct peer_queue **at = find_queue(s, peer);
    if (is_over(s, *at, bytes) && flush_queue(s, at) == ERR_NOT_FOUND)
        return err_set(why, ERR_NOT_FOUND, "%s: the peer is gone", proto_type_name(m->type));
    at = find_queue(s, peer);
    if (is_over(s, *at, bytes) && s->z.guard != NULL) {
        cut_off(s, at, "reads nothing");
        return err_set(why, ERR_NOT_FOUND, "%s: the peer does not read, it is cut off",
                       proto_type_name(m->type));
    }
    if (is_over(s, *at, bytes))
        return err_set(why, ERR_FULL, "%s: %zu bytes wait for the peer already; at most %zu may",
                       proto_type_name(m->type), (*at)->bytes, s->max_queue_bytes);
    bool queue = *at != NULL;
    zmq_msg_t frame;
    if (zmq_msg_init_size(&frame, bytes) != 0)
        return err_set(why, ERR_NOMEM, "%s: out of memory for %zu bytes", proto_type_name(m->type),
                       bytes);
    memcpy(zmq_msg_data(&frame), s->scratch.data, bytes);
    e = queue ? ERR_AGAIN : try_send(s, peer, &frame);
    if (e == ERR_AGAIN)
        e = append(s, peer, &frame, memory_bytes(bytes));
    if (s->z.guard != NULL && s->max_queues_bytes > 0 &&
        s->stats.queued_bytes > s->max_queues_bytes)
        cut_longest(s);
    zmq_msg_close(&frame); /* empty when ZeroMQ or the queue has it */
    if (s->scratch.cap > (1 << 20))
        buf_free(&s->scratch);
    if (e == ERR_NOT_FOUND)
        return err_set(why, e, "%s: the peer is gone", proto_type_name(m->type));
    if (e != ERR_OK)
        return err_set(why, e, "%s: cannot send: %s", proto_type_name(m->type), err_name(e));
    return ERR_OK;
}

size_t proto_socket_queued(struct proto_socket *s, const struct proto_peer *to)
{
    const struct peer_queue *q = *find_queue(s, to);
    return q == NULL ? 0 : q->bytes;
}

struct proto_moved proto_socket_moved(struct proto_socket *s, const struct proto_peer *peer)
{
    if (s->z.guard != NULL)
        return proto_fd_moved(guard_find_fd(s->z.guard, peer));
    return proto_fd_moved(s->z.handshake != NULL ? handshake_fd(s->z.handshake) : -1);
}

void proto_socket_drop(struct proto_socket *s, const struct proto_peer *to)
{
    static const struct proto_peer broker;
    struct peer_queue **at = find_queue(s, s->router ? to : &broker);
    if (*at != NULL)
        free_queue(s, at);
}

void proto_socket_get_stats(const struct proto_socket *s, struct proto_socket_stats *ret)
{
    *ret = s->stats;
    if (s->z.guard != NULL) {
        ret->connections = guard_connections(s->z.guard);
        ret->cut_off = guard_cuts(s->z.guard);
    }
}

const char *proto_socket_key(const struct proto_socket *s)
{
    return s->key;
}

void proto_socket_check_keys(struct proto_socket *s)
{
    if (s->z.guard != NULL)
        guard_cut_keys(s->z.guard, s->events.may_connect, s->user, now_ns(s));
}

void proto_socket_blame(struct proto_socket *s)
{
    if (s->z.guard != NULL)
        guard_blame(s->z.guard, s->fd, 0, "messages that make no sense", now_ns(s));
}

/* ---- receiving ---- */

static bool receive_frame(struct proto_socket *s, zmq_msg_t *frame)
{
    int r;
    do
        r = zmq_msg_recv(frame, s->z.socket, ZMQ_DONTWAIT);
    while (r < 0 && errno == EINTR);
    return r >= 0;
}

static void report_garbage(struct proto_socket *s, const struct proto_peer *from, size_t bytes,
                           const struct err_msg *why)
{
    s->stats.garbage++;
    if (s->z.guard != NULL)
        guard_blame(s->z.guard, s->fd, bytes, "messages that cannot be read", now_ns(s));
    if (s->router && from->len == 0)
        log_debug("garbage from a peer with an unusable routing id");
    else if (s->events.on_garbage != NULL)
        s->events.on_garbage(s->user, from, why);
}

static void deliver(struct proto_socket *s, const struct proto_peer *from, zmq_msg_t *frame)
{
    struct arena arena = {.limit_bytes = decoded_limit_bytes};
    struct err_msg why;
    struct msg m;
    enum err e = proto_decode(zmq_msg_data(frame), zmq_msg_size(frame), &arena, &m, &why);
    if (e == ERR_OK && s->router && from->len == 0)
        e = ERR_PROTO;
    if (e == ERR_OK) {
        s->stats.received++;
        s->events.on_message(s->user, from, &m);
    } else {
        report_garbage(s, from, zmq_msg_size(frame), &why);
    }
    arena_free(&arena);
}

/* Reads the routing id in front of a message; false: nothing there. A sender may choose its id: one
 * that is too long to name gives length 0, which no real id has. */
static bool receive_peer(struct proto_socket *s, zmq_msg_t *frame, struct proto_peer *ret,
                         bool *ret_more)
{
    if (!receive_frame(s, frame))
        return false;
    size_t len = zmq_msg_size(frame);
    ret->len = len <= sizeof ret->id ? (uint8_t)len : 0;
    memcpy(ret->id, zmq_msg_data(frame), ret->len);
    *ret_more = zmq_msg_more(frame);
    return true;
}

/* One message, or one frame of a message that has too many (those are thrown away one by one,
 * across turns if need be). False: nothing there. */
static bool receive(struct proto_socket *s)
{
    struct proto_peer from = {0};
    struct err_msg why;
    bool more = true, got = false;
    zmq_msg_t frame;
    zmq_msg_init(&frame);
    if (s->skipping) {
        got = receive_frame(s, &frame);
        if (got)
            s->skipping = zmq_msg_more(&frame);
        zmq_msg_close(&frame);
        return got;
    }
    if (s->router)
        got = receive_peer(s, &frame, &from, &more);
    if (s->router && (!got || !more)) {
        zmq_msg_close(&frame);
        return got;
    }
    if (receive_frame(s, &frame)) {
        got = true;
        s->skipping = zmq_msg_more(&frame);
        s->fd = s->z.guard != NULL ? zmq_msg_get(&frame, ZMQ_SRCFD) : -1;
        s->key = s->z.zap != NULL ? zmq_msg_gets(&frame, "User-Id") : NULL;
        if (s->z.guard != NULL && !guard_heard(s->z.guard, s->fd, &from, s->key, now_ns(s))) {
            s->stats.dropped++;
        } else if (s->skipping) {
            err_set(&why, ERR_PROTO, "message: several frames; expected one");
            report_garbage(s, &from, zmq_msg_size(&frame), &why);
        } else {
            deliver(s, &from, &frame);
        }
        s->key = NULL;
    }
    zmq_msg_close(&frame);
    return got;
}

static unsigned query_events(struct proto_socket *s)
{
    int events = 0, r;
    size_t size = sizeof events;
    do
        r = zmq_getsockopt(s->z.socket, ZMQ_EVENTS, &events, &size);
    while (r != 0 && errno == EINTR);
    return r == 0 ? (unsigned)events : 0;
}

static void on_poll(uv_poll_t *handle, int status, int events)
{
    (void)handle; /* the wake-up is all: prepare and check work */
    (void)events;
    if (status < 0)
        log_debug("poll of a ZeroMQ socket failed: cause=\"%s\"", uv_strerror(status));
}

static void on_idle(uv_idle_t *handle)
{
    (void)handle;
}

/* Asked by the handler of ZAP. */
static bool may_connect(void *user, const char *key, const char *address)
{
    struct proto_socket *s = user;
    char why[160];
    bool may = s->events.may_connect(s->user, key);
    snprintf(why, sizeof why, "its key is not on the list: %s from %s", key, address);
    if (!may && s->events.on_cut_off != NULL)
        s->events.on_cut_off(s->user, why);
    return may;
}

static void on_prepare(uv_prepare_t *handle)
{
    struct proto_socket *s = handle->data;
    bool final;
    if (s->stats.queued_peers > 0)
        flush_all(s);
    if (s->z.zap != NULL)
        zap_serve(s->z.zap, may_connect, s);
    if (s->z.handshake != NULL && handshake_failed(s->z.handshake) && s->events.on_no_entry != NULL)
        s->events.on_no_entry(s->user, handshake_why(s->z.handshake, &final));
    if (s->z.guard != NULL)
        guard_tick(s->z.guard, now_ns(s));
    if ((query_events(s) & ZMQ_POLLIN) != 0)
        uv_idle_start(&s->idle, on_idle);
    else
        uv_idle_stop(&s->idle);
}

static void on_check(uv_check_t *handle)
{
    struct proto_socket *s = handle->data;
    uint64_t end_ns = clock_mono_ns() + TURN_MS * NS_PER_MS;
    for (int i = 0; i < TURN_FRAMES && !s->closing; i++) {
        if (!receive(s) || clock_mono_ns() >= end_ns)
            break;
    }
}

/* ---- opening and closing ---- */

static void on_closed(uv_handle_t *handle)
{
    struct proto_socket *s = handle->data;
    if (--s->open_handles > 0)
        return;
    for (size_t i = 0; i < BUCKETS; i++) {
        while (s->buckets[i] != NULL)
            free_queue(s, &s->buckets[i]);
    }
    proto_zmq_close(&s->z, s->linger_ms);
    buf_free(&s->scratch);
    free(s->endpoint);
    free(s);
}

static void start_handles(struct proto_socket *s, uv_loop_t *loop)
{
    uv_prepare_init(loop, &s->prepare);
    uv_check_init(loop, &s->check);
    uv_idle_init(loop, &s->idle);
    uv_timer_init(loop, &s->retry);
    s->poll.data = s->prepare.data = s->check.data = s->idle.data = s->retry.data = s;
    s->open_handles = 5;
    uv_prepare_start(&s->prepare, on_prepare);
    uv_check_start(&s->check, on_check);
}

static int watch(struct proto_socket *s, uv_loop_t *loop, uv_poll_t *poll, int fd)
{
    int r = uv_poll_init(loop, poll, fd);
    if (r != 0)
        return r;
    poll->data = s;
    s->open_handles++;
    return uv_poll_start(poll, UV_READABLE, on_poll);
}

enum err proto_socket_open(uv_loop_t *loop, const struct proto_socket_options *o,
                           const struct proto_socket_events *events, void *user,
                           struct proto_socket **ret, struct err_msg *why)
{
    struct proto_socket *s = calloc(1, sizeof *s);
    if (s == NULL || (s->endpoint = strdup(o->endpoint)) == NULL) {
        free(s);
        return err_set(why, ERR_NOMEM, "%s: out of memory", o->endpoint);
    }
    s->router = o->router;
    s->max_queue_bytes = o->max_queue_bytes != 0 ? o->max_queue_bytes : default_queue_bytes;
    s->events = *events;
    s->user = user;
    s->max_queues_bytes = o->limits != NULL ? o->limits->max_queues_bytes : 0;
    enum err e = proto_zmq_open(o, &s->z, why);
    if (e != ERR_OK) {
        free(s->endpoint);
        free(s);
        return e;
    }
    if (s->z.guard != NULL)
        guard_tell(s->z.guard, events->on_cut_off, user);
    int fd = -1;
    size_t size = sizeof fd;
    int r = zmq_getsockopt(s->z.socket, ZMQ_FD, &fd, &size) == 0 ? uv_poll_init(loop, &s->poll, fd)
                                                                 : UV_EBADF;
    if (r != 0) {
        e = err_set(why, ERR_IO, "%s: cannot watch the socket: %s", o->endpoint, uv_strerror(r));
        proto_zmq_close(&s->z, 0);
        free(s->endpoint);
        free(s);
        return e;
    }
    start_handles(s, loop);
    r = uv_poll_start(&s->poll, UV_READABLE, on_poll);
    /* A crowd of connections must not wait for a message or a timer to be looked at. */
    if (r == 0 && s->z.guard != NULL)
        r = watch(s, loop, &s->guard_poll, guard_fd(s->z.guard));
    if (r == 0 && s->z.zap != NULL)
        r = watch(s, loop, &s->zap_poll, zap_fd(s->z.zap));
    if (r != 0) {
        proto_socket_close(&s, 0);
        return err_set(why, ERR_IO, "%s: cannot watch the socket: %s", o->endpoint, uv_strerror(r));
    }
    *ret = s;
    return ERR_OK;
}

void proto_socket_connect_again(struct proto_socket *s)
{
    if (!s->closing && !s->router)
        proto_zmq_connect_again(s->z.socket, s->endpoint);
}

void proto_socket_close(struct proto_socket **socket, int linger_ms)
{
    struct proto_socket *s = *socket;
    *socket = NULL;
    if (s == NULL || s->closing)
        return;
    flush_all(s);
    s->closing = true;
    s->linger_ms = linger_ms;
    uv_close((uv_handle_t *)&s->poll, on_closed);
    if (s->guard_poll.data != NULL)
        uv_close((uv_handle_t *)&s->guard_poll, on_closed);
    if (s->zap_poll.data != NULL)
        uv_close((uv_handle_t *)&s->zap_poll, on_closed);
    uv_close((uv_handle_t *)&s->prepare, on_closed);
    uv_close((uv_handle_t *)&s->check, on_closed);
    uv_close((uv_handle_t *)&s->idle, on_closed);
    uv_close((uv_handle_t *)&s->retry, on_closed);
}
