/* The blocking client of socket.h: one request at a time, its answer recognised by seq. */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <zmq.h>

#include "base/clock.h"
#include "base/size.h"
#include "proto/codec.h"
#include "proto/endpoint.h"
#include "proto/reach.h"
#include "proto/schema.h"
#include "proto/socket.h"

static const uint64_t slice_ns = 100 * NS_PER_MS; /* how often others are looked after */
static const uint64_t first_resend_ns = 2 * NS_PER_S;
static const uint64_t last_resend_ns = 16 * NS_PER_S;
static const uint64_t again_ns = 5 * NS_PER_S; /* without a connection */
static const uint64_t moves_ns = 5 * NS_PER_S; /* so long after something has moved */

static const int reach_ms = 500; /* to see why nobody could be connected to */

struct proto_client {
    struct proto_zmq z;
    char *endpoint;
    uint64_t seq;
    uint64_t error_line;
    uint64_t down_ns; /* since when there is no connection; 0: there is */
    uint64_t slow_ns; /* 0: nobody is told */
    void (*slow)(void *user, bool connected);
    void *slow_user;
    enum err (*meanwhile)(void *user, struct err_msg *why); /* NULL: nothing to do */
    void *meanwhile_user;
    struct buf out;
    struct arena arena; /* with `frame`: what reply points to */
    zmq_msg_t frame;
    struct msg reply;
};

/* One call under way. */
struct call {
    uint64_t deadline_ns, resend_ns, interval_ns;
    uint64_t slow_ns;               /* when somebody is told; 0: not, or told */
    uint64_t moved_bytes, moved_ns; /* on the wire when it moved last; 0: it did not yet */
    bool to_send;                   /* as soon as a connection takes it */
    bool sent;                      /* at least once */
    bool was_lost;                  /* the connection it was sent on is gone */
};

static uint64_t *seq_field(struct msg *m)
{
    const struct proto_schema *s = proto_message_schema(m->type);
    const struct proto_field *f = s != NULL ? proto_schema_field(s, "seq", 3) : NULL;
    return f != NULL ? (uint64_t *)(void *)((char *)&m->hello + f->offset) : NULL;
}

enum err proto_client_open(const struct proto_socket_options *o, struct proto_client **ret,
                           struct err_msg *why)
{
    struct proto_socket_options dealer = *o;
    dealer.router = false;
    struct proto_client *c = calloc(1, sizeof *c);
    if (c == NULL || (c->endpoint = strdup(o->endpoint)) == NULL) {
        free(c);
        return err_set(why, ERR_NOMEM, "%s: out of memory", o->endpoint);
    }
    zmq_msg_init(&c->frame);
    enum err e = proto_zmq_open(&dealer, &c->z, why);
    if (e != ERR_OK) {
        proto_client_close(&c);
        return e;
    }
    *ret = c;
    return ERR_OK;
}

void proto_client_close(struct proto_client **client)
{
    struct proto_client *c = *client;
    *client = NULL;
    if (c == NULL)
        return;
    zmq_msg_close(&c->frame);
    proto_zmq_close(&c->z, 0);
    arena_free(&c->arena);
    buf_free(&c->out);
    free(c->endpoint);
    free(c);
}

void proto_client_when_slow(struct proto_client *c, int slow_ms,
                            void (*slow)(void *user, bool connected), void *user)
{
    c->slow_ns = (uint64_t)slow_ms * NS_PER_MS;
    c->slow = slow;
    c->slow_user = user;
}

void proto_client_while_waiting(struct proto_client *c,
                                enum err (*fn)(void *user, struct err_msg *why), void *user)
{
    c->meanwhile = fn;
    c->meanwhile_user = user;
}

const char *proto_client_no_entry(const struct proto_client *c)
{
    bool final;
    return handshake_why(c->z.handshake, &final);
}

uint64_t proto_client_error_line(const struct proto_client *c)
{
    return c->error_line;
}

static enum err error_of_code(struct str code)
{
    static const struct {
        const char *code;
        enum err e;
    } codes[] = {{"not_found", ERR_NOT_FOUND}, {"conflict", ERR_CONFLICT}, {"full", ERR_FULL},
                 {"quota", ERR_FULL},          {"too_large", ERR_RANGE},   {"storage", ERR_IO},
                 {"internal", ERR_IO}};
    for (size_t i = 0; i < ARRAY_LEN(codes); i++) {
        if (str_eq(code, str_of(codes[i].code)))
            return codes[i].e;
    }
    return ERR_PROTO; /* bad_message, version, and what a newer broker may say */
}

/* One frame, if there is one, into c->frame; more than one in a message: ERR_PROTO. ERR_AGAIN:
 * nothing. */
static enum err receive(struct proto_client *c, struct err_msg *why)
{
    int r;
    do
        r = zmq_msg_recv(&c->frame, c->z.socket, ZMQ_DONTWAIT);
    while (r < 0 && errno == EINTR);
    if (r < 0)
        return errno == EAGAIN ? ERR_AGAIN
                               : err_set(why, ERR_IO, "%s: cannot receive: %s", c->endpoint,
                                         zmq_strerror(errno));
    bool several = false;
    while (zmq_msg_more(&c->frame)) {
        several = true;
        if (zmq_msg_recv(&c->frame, c->z.socket, ZMQ_DONTWAIT) < 0 && errno != EINTR)
            break;
    }
    if (several)
        return err_set(why, ERR_PROTO, "%s: a message of several frames; expected one",
                       c->endpoint);
    return ERR_OK;
}

/* Reads until the answer to c->seq is there (ERR_OK or the error it carries) or nothing is
 * (ERR_AGAIN). */
static enum err read_replies(struct proto_client *c, enum msg_type want, struct err_msg *why)
{
    for (;;) {
        arena_free(&c->arena);
        enum err e = receive(c, why);
        if (e != ERR_OK)
            return e;
        e = proto_decode(zmq_msg_data(&c->frame), zmq_msg_size(&c->frame), &c->arena, &c->reply,
                         why);
        if (e != ERR_OK)
            return err_prefix(why, e, "%s: reply", c->endpoint);
        const uint64_t *seq = seq_field(&c->reply);
        bool is_error = c->reply.type == MSG_TYPE_ERROR;
        /* An ERROR without seq answers a request the broker could not read: only ours can be that.
         */
        if (seq == NULL || (*seq != c->seq && !(is_error && *seq == 0)))
            continue;
        if (is_error) {
            c->error_line = c->reply.error.line;
            return err_set(why, error_of_code(c->reply.error.code), "%.*s",
                           STR_ARG(c->reply.error.text));
        }
        if (c->reply.type != want)
            return err_set(why, ERR_PROTO, "%s: reply %s; expected %s", c->endpoint,
                           proto_type_name(c->reply.type), proto_type_name(want));
        return ERR_OK;
    }
}

static enum err send_request(struct proto_client *c, struct call *call, uint64_t now_ns,
                             struct err_msg *why)
{
    if (zmq_send(c->z.socket, c->out.data, c->out.len, ZMQ_DONTWAIT) < 0) {
        if (errno == EAGAIN || errno == EINTR)
            return ERR_OK; /* the connection went just now: the next slice tries again */
        return err_set(why, ERR_IO, "%s: cannot send: %s", c->endpoint, zmq_strerror(errno));
    }
    call->sent = true;
    call->to_send = false;
    call->was_lost = false;
    call->resend_ns = now_ns + call->interval_ns;
    call->interval_ns = min_u64(call->interval_ns * 2, last_resend_ns);
    return ERR_OK;
}

static uint64_t bytes_moved(struct proto_client *c)
{
    struct proto_moved moved = proto_fd_moved(handshake_fd(c->z.handshake));
    return moved.received + moved.taken;
}

/* On a slow wire, request or answer are under way as long as something moves. */
static bool wire_moves(const struct call *call, uint64_t now_ns)
{
    return call->moved_ns != 0 && now_ns - call->moved_ns < moves_ns;
}

/* A DEALER is not told that its connection broke; but with ZMQ_IMMEDIATE it is writable only while
 * one stands. */
static void watch_connection(struct proto_client *c, struct call *call, uint64_t now_ns)
{
    int events = 0;
    size_t size = sizeof events;
    if (zmq_getsockopt(c->z.socket, ZMQ_EVENTS, &events, &size) == 0) {
        bool stands = (events & ZMQ_POLLOUT) != 0;
        if (call->sent && !stands)
            call->was_lost = true;
        else if (call->was_lost)
            call->to_send = true;
        if (stands)
            c->down_ns = 0;
        else if (c->down_ns == 0)
            c->down_ns = now_ns;
        else if (now_ns - c->down_ns > again_ns) {
            proto_zmq_connect_again(c->z.socket, c->endpoint);
            c->down_ns = now_ns;
        }
    }
    if (proto_moves(&call->moved_bytes, bytes_moved(c)))
        call->moved_ns = now_ns;
    if (call->sent && now_ns >= call->resend_ns) {
        call->to_send = call->to_send || !wire_moves(call, now_ns);
        call->resend_ns = now_ns + call->interval_ns;
    }
}

static enum err wait_reply(struct proto_client *c, struct call *call, enum msg_type want,
                           struct err_msg *why)
{
    for (;;) {
        uint64_t now_ns = clock_mono_ns();
        if (now_ns >= call->deadline_ns) {
            if (!call->sent || !wire_moves(call, now_ns))
                return ERR_AGAIN;
            call->deadline_ns = now_ns + first_resend_ns;
        }
        if (call->slow_ns != 0 && now_ns >= call->slow_ns) {
            call->slow_ns = 0;
            c->slow(c->slow_user, call->sent && !call->was_lost);
        }
        uint64_t wait_ns = min_u64(slice_ns, call->deadline_ns - now_ns);
        zmq_pollitem_t item = {.socket = c->z.socket,
                               .events = (short)(ZMQ_POLLIN | (call->to_send ? ZMQ_POLLOUT : 0))};
        int r = zmq_poll(&item, 1, (long)div_up(wait_ns, NS_PER_MS));
        if (r < 0 && errno != EINTR)
            return err_set(why, ERR_IO, "%s: cannot wait: %s", c->endpoint, zmq_strerror(errno));
        enum err e = read_replies(c, want, why);
        if (e != ERR_AGAIN)
            return e;
        if (call->to_send && r > 0 && (item.revents & ZMQ_POLLOUT) != 0) {
            e = send_request(c, call, clock_mono_ns(), why);
            if (e != ERR_OK)
                return e;
        }
        watch_connection(c, call, clock_mono_ns());
        if (r <= 0 && c->meanwhile != NULL && (e = c->meanwhile(c->meanwhile_user, why)) != ERR_OK)
            return e;
        bool final = false;
        if (handshake_failed(c->z.handshake) && handshake_why(c->z.handshake, &final)[0] != '\0' &&
            final)
            return err_set(why, ERR_PROTO, "%s: %s", c->endpoint, proto_client_no_entry(c));
    }
}

enum err proto_client_call(struct proto_client *c, struct msg *m, int timeout_ms,
                           enum msg_type want, const struct msg **ret, struct err_msg *why)
{
    uint64_t *seq = seq_field(m);
    assert(seq != NULL);
    *seq = ++c->seq;
    c->error_line = 0;
    buf_clear(&c->out);
    enum err e = proto_encode(m, &c->out, why);
    if (e != ERR_OK)
        return e;
    uint64_t now_ns = clock_mono_ns();
    struct call call = {.deadline_ns =
                            now_ns + (timeout_ms > 0 ? (uint64_t)timeout_ms * NS_PER_MS : 0),
                        .interval_ns = first_resend_ns,
                        .slow_ns = c->slow_ns == 0 ? 0 : now_ns + c->slow_ns,
                        .moved_bytes = bytes_moved(c),
                        .to_send = true};
    e = wait_reply(c, &call, want, why);
    if (e == ERR_OK)
        *ret = &c->reply;
    else if (e == ERR_AGAIN && proto_client_no_entry(c)[0] != '\0')
        err_set(why, e, "%s: %s", c->endpoint, proto_client_no_entry(c));
    else if (e == ERR_AGAIN && call.sent)
        err_set(why, e, "%s: no answer from the broker within %d ms (%s)", c->endpoint, timeout_ms,
                proto_type_name(m->type));
    else if (e == ERR_AGAIN) {
        char reason[REACH_WHY_BYTES];
        reach_try(c->endpoint, reach_ms, reason);
        err_set(why, e, "%s: no connection to a broker within %d ms (%s)%s%s", c->endpoint,
                timeout_ms, proto_type_name(m->type), reason[0] != '\0' ? ": " : "", reason);
    }
    return e;
}
