/* One ZeroMQ socket on a libuv loop: whole messages in, whole messages out.
 *
 * ZMQ_FD is edge-triggered, so the socket is driven by a uv_poll (wake-ups), a uv_prepare (asks
 * ZMQ_EVENTS before the loop blocks), a uv_check (does the work) and a uv_idle (keeps the loop from
 * blocking while there is more). Receiving is bounded per turn, so that a flood on one socket
 * cannot starve timers.
 *
 * What is promised: messages to one peer arrive in the order of their sending, each at most once,
 * while one connection stands. When a connection breaks, messages handed to it before may be lost;
 * a DEALER connects again by itself (after 100 ms to 2 s) and then sends what was still in its
 * queue. It does not learn of the break: the broker answers RECONNECT to a session it does not
 * know, and requests are idempotent, so the layers above say HELLO or send again. A ROUTER forgets
 * a peer, and what was queued for it, when its connection breaks; the same program comes back as a
 * new peer. All calls belong to the loop's thread. The ZeroMQ context is made in open and belongs
 * to the socket: fork before. */
#ifndef OCTO_PROTO_SOCKET_H
#define OCTO_PROTO_SOCKET_H

#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

#include "base/err.h"
#include "base/str.h"
#include "proto/messages.h"

struct proto_socket;

/* A peer's routing id (ROUTER); length 0 on a DEALER. */
struct proto_peer {
    uint8_t len;
    uint8_t id[31];
};

struct proto_socket_events {
    /* A decoded message; it and what it points to are valid until the function returns. */
    void (*on_message)(void *user, const struct proto_peer *from, const struct msg *m);
    /* A frame that is no message of ours (why says what), or a message of several frames. May be
     * NULL. ROUTER: answer with ERROR, count. DEALER: the broker talks another protocol. */
    void (*on_garbage)(void *user, const struct proto_peer *from, const struct err_msg *why);
};

struct proto_socket_options {
    bool router;            /* false: DEALER */
    const char *endpoint;   /* bind (router) or connect (dealer): ipc://PATH, tcp://HOST:PORT */
    size_t max_queue_bytes; /* per peer; 0: 256 MiB */
    /* Room for CURVE: server_public, own_public, own_secret (Z85, 40 characters; NULL: no CURVE).
     */
    const char *curve_server_public, *curve_public, *curve_secret;
};

/* events is copied; user and the loop must outlive the socket. Binding replaces a socket file that
 * is there, even one in use: whoever must be alone takes a lock first. */
enum err proto_socket_open(uv_loop_t *loop, const struct proto_socket_options *o,
                           const struct proto_socket_events *events, void *user,
                           struct proto_socket **ret, struct err_msg *why) MUST_CHECK;
/* Queues for the peer (`to` NULL on a DEALER) and sends what ZeroMQ takes now. ERR_FULL: the peer's
 * queue is over its limit, nothing was queued; ERR_NOT_FOUND: the peer is gone (ROUTER_MANDATORY),
 * and so is what was queued for it; ERR_RANGE: the message does not encode. */
enum err proto_socket_send(struct proto_socket *s, const struct proto_peer *to, const struct msg *m,
                           struct err_msg *why) MUST_CHECK;
/* Frees what is queued for the peer (one whose session has ended, say; `to` NULL on a DEALER). */
void proto_socket_drop(struct proto_socket *s, const struct proto_peer *to);
/* Stops receiving: closes handles; memory is freed once the loop has run its close callbacks.
 * linger_ms: how long unsent messages are kept trying (the loop blocks for that long at most); what
 * ZeroMQ would not take by now is dropped. May be called from the callbacks. */
void proto_socket_close(struct proto_socket **s, int linger_ms);

struct proto_socket_stats {
    uint64_t received;   /* messages given to on_message */
    uint64_t garbage;    /* given to on_garbage, or of a peer whose id we cannot name */
    uint64_t sent;       /* taken by ZeroMQ */
    uint64_t dropped;    /* queued once, then dropped: the peer was gone */
    size_t queued_peers; /* peers something is queued for; the others cost nothing */
    size_t queued_bytes;
};
void proto_socket_get_stats(const struct proto_socket *s, struct proto_socket_stats *ret);

/* Blocking request/reply for clients that have no loop: sends m (its seq is filled in), waits for
 * the reply with that seq; ERROR replies become ERR_PROTO / ERR_CONFLICT / ERR_NOT_FOUND / ERR_FULL
 * / ERR_IO with the broker's text and proto_client_error_line() set. Sends again after a reconnect,
 * and after 2, 4, 8, ... seconds without an answer (requests are idempotent); ERR_AGAIN after
 * timeout_ms without one. Late replies to earlier calls are dropped. Signals do not cut the wait
 * short. One thread at a time. */
struct proto_client;
enum err proto_client_open(const struct proto_socket_options *o, struct proto_client **ret,
                           struct err_msg *why) MUST_CHECK;
enum err proto_client_call(struct proto_client *c, struct msg *m, int timeout_ms,
                           enum msg_type want, const struct msg **ret,
                           struct err_msg *why) MUST_CHECK;
/* `*ret` of the last call is valid until the next call or close. */
uint64_t proto_client_error_line(const struct proto_client *c); /* 0: none */
void proto_client_close(struct proto_client **c);

/* "ipc://..." or "tcp://host:port": ERR_USAGE says what is wrong with another. */
enum err proto_endpoint_check(const char *endpoint, struct err_msg *why) MUST_CHECK;

#endif
