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
#include "proto/curve.h"
#include "proto/messages.h"
#include "proto/moved.h"

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
    /* A peer was cut off by the limits. May be NULL. */
    void (*on_cut_off)(void *user, const char *why);
    /* ROUTER with keys, which needs it: whether the owner of that public key gets in. */
    bool (*may_connect)(void *user, const char *key);
    /* DEALER: somebody answers at the endpoint, but there is no connection, and why. Comes again
     * with every try. May be NULL. */
    void (*on_no_entry)(void *user, const char *why);
};

/* What a ROUTER puts up with; 0: no such limit. Who breaks one is cut off: its connection ends,
 * what it still sends on it is thrown away. */
struct proto_limits {
    size_t max_connections; /* more: who has said nothing gives way, or else the new one */
    uint64_t greet_ms;      /* without a message since it connected */
    uint64_t idle_ms;       /* without another one */
    unsigned max_faults; /* garbage and blame; a MiB counts as one more; one a second is forgiven */
    unsigned max_per_s;  /* messages, over two seconds */
    size_t max_queues_bytes; /* what all peers have not read: the one with the most is cut off */
    /* Over TCP, what came from all who have said no whole message, be it in the middle of a
     * handshake: ZeroMQ may hold it. Who has sent the most is cut off. */
    size_t max_mute_bytes;
};

struct proto_socket_options {
    bool router;            /* false: DEALER */
    const char *endpoint;   /* bind (router) or connect (dealer): ipc://PATH, tcp://HOST:PORT */
    size_t max_queue_bytes; /* of memory, per peer; 0: 64 MiB */
    const struct proto_limits *limits; /* of a ROUTER; NULL: none. Copied. */
    const struct proto_curve *curve;   /* NULL, or without keys: plain. Copied. */
};

/* events is copied; user and the loop must outlive the socket. Binding replaces a socket file that
 * nobody listens on; one in use is waited for, for three seconds. */
enum err proto_socket_open(uv_loop_t *loop, const struct proto_socket_options *o,
                           const struct proto_socket_events *events, void *user,
                           struct proto_socket **ret, struct err_msg *why) MUST_CHECK;
/* Queues for the peer (`to` NULL on a DEALER) and sends what ZeroMQ takes now. ERR_FULL: the peer's
 * queue is over its limit, nothing was queued (a ROUTER with limits cuts the peer off instead);
 * ERR_NOT_FOUND: the peer is gone (ROUTER_MANDATORY), and so is what was queued for it; ERR_RANGE:
 * the message does not encode. */
enum err proto_socket_send(struct proto_socket *s, const struct proto_peer *to, const struct msg *m,
                           struct err_msg *why) MUST_CHECK;
/* A DEALER that hears nothing for long connects anew. ZeroMQ does so by itself when a connection
 * breaks, but never again after a peer that spoke no ZeroMQ, or broke its rules. */
void proto_socket_connect_again(struct proto_socket *s);
/* Bytes that wait in a ROUTER's queue for the peer: what ZeroMQ did not take yet. */
size_t proto_socket_queued(struct proto_socket *s, const struct proto_peer *to);
/* What the peer's connection has moved so far (NULL on a DEALER). */
struct proto_moved proto_socket_moved(struct proto_socket *s, const struct proto_peer *peer);
/* Frees what is queued for the peer (one whose session has ended, say; `to` NULL on a DEALER). */
void proto_socket_drop(struct proto_socket *s, const struct proto_peer *to);
/* In on_message: what the message asks makes no sense. Whoever sends many such is cut off, if the
 * limits say so. */
void proto_socket_blame(struct proto_socket *s);
/* In on_message: the sender's public key; NULL without keys. Valid until that returns. */
const char *proto_socket_key(const struct proto_socket *s);
/* may_connect would answer otherwise now: cuts off who may no longer. Who has got in, but said
 * nothing yet, is not among them: look at the keys of messages, too. */
void proto_socket_check_keys(struct proto_socket *s);
/* Stops receiving: closes handles; memory is freed once the loop has run its close callbacks.
 * linger_ms: how long unsent messages are kept trying (the loop blocks for that long at most); what
 * ZeroMQ would not take by now is dropped. May be called from the callbacks. */
void proto_socket_close(struct proto_socket **s, int linger_ms);

struct proto_socket_stats {
    uint64_t received;   /* messages given to on_message */
    uint64_t garbage;    /* given to on_garbage, or of a peer whose id we cannot name */
    uint64_t sent;       /* taken by ZeroMQ */
    uint64_t dropped;    /* queued once, then dropped, as the peer was gone; or of a peer cut off */
    size_t queued_peers; /* peers something is queued for; the others cost nothing */
    size_t queued_bytes; /* of memory */
    size_t connections;  /* of a ROUTER with limits */
    uint64_t cut_off;    /* peers, since the start */
};
void proto_socket_get_stats(const struct proto_socket *s, struct proto_socket_stats *ret);

/* Blocking request/reply for clients that have no loop: sends m (its seq is filled in), waits for
 * the reply with that seq; ERROR replies become ERR_PROTO / ERR_CONFLICT / ERR_NOT_FOUND / ERR_FULL
 * (full, quota) / ERR_RANGE (too_large) / ERR_IO with the broker's text and
 * proto_client_error_line() set. Sends again after a reconnect, and after 2, 4, 8, ... seconds
 * without an answer (requests are idempotent); ERR_AGAIN after timeout_ms without one. Neither
 * while a long request or answer is under way on a slow wire (TCP). Late replies to earlier calls
 * are dropped. Signals do not cut the wait short. One thread at a time. */
struct proto_client;
enum err proto_client_open(const struct proto_socket_options *o, struct proto_client **ret,
                           struct err_msg *why) MUST_CHECK;
enum err proto_client_call(struct proto_client *c, struct msg *m, int timeout_ms,
                           enum msg_type want, const struct msg **ret,
                           struct err_msg *why) MUST_CHECK;
/* `*ret` of the last call is valid until the next call or close. */
/* From the next call on, a call that has waited slow_ms (0: never) without an answer says so once;
 * connected: there is a broker, but it does not answer. */
void proto_client_when_slow(struct proto_client *c, int slow_ms,
                            void (*slow)(void *user, bool connected), void *user);
/* While a call waits, fn is called each 100 ms, and when a signal comes; its error ends the call.
 */
void proto_client_while_waiting(struct proto_client *c,
                                enum err (*fn)(void *user, struct err_msg *why), void *user);
/* Why there is no connection although somebody answers there; "": not known. A call ends at once
 * (ERR_PROTO, with that text) when the broker does not know the key; the rest may pass. */
const char *proto_client_no_entry(const struct proto_client *c);
uint64_t proto_client_error_line(const struct proto_client *c); /* 0: none */
void proto_client_close(struct proto_client **c);

/* "ipc://..." or "tcp://host:port": ERR_USAGE says what is wrong with another. */
enum err proto_endpoint_check(const char *endpoint, struct err_msg *why) MUST_CHECK;
/* Whether only this machine can reach it: ipc, localhost, 127.x.x.x or [::1]. */
bool proto_endpoint_is_local(const char *endpoint);

#endif
