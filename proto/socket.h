/* One ZeroMQ socket on a libuv loop: whole messages in, whole messages out.
 *
 * ZMQ_FD is edge-triggered, so the socket is driven by a uv_poll (wake-ups), a uv_prepare (asks ZMQ_EVENTS
 * before the loop blocks), a uv_check (does the work) and a uv_idle (keeps the loop from blocking while there
 * is more). Receiving is bounded per turn, so that a flood on one socket cannot starve timers.
 * All calls belong to the loop's thread. */
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
    /* A frame that is no message of ours (why says what). ROUTER only: answer with ERROR, count, cut off. */
    void (*on_garbage)(void *user, const struct proto_peer *from, const struct err_msg *why);
};

struct proto_socket_options {
    bool router;              /* false: DEALER */
    const char *endpoint;     /* bind (router) or connect (dealer): ipc://PATH, tcp://HOST:PORT */
    size_t max_queue_bytes;   /* per peer; 0: 256 MiB */
    /* Room for CURVE: server_public, own_public, own_secret (Z85, 40 characters; NULL: no CURVE). */
    const char *curve_server_public, *curve_public, *curve_secret;
};

enum err proto_socket_open(uv_loop_t *loop, const struct proto_socket_options *o,
                           const struct proto_socket_events *events, void *user,
                           struct proto_socket **ret, struct err_msg *why) MUST_CHECK;
/* Queues for the peer (`to` NULL on a DEALER) and sends what ZeroMQ takes now. ERR_FULL: the peer's queue is
 * over its limit, nothing was queued; ERR_NOT_FOUND: the peer is gone (ROUTER_MANDATORY). */
enum err proto_socket_send(struct proto_socket *s, const struct proto_peer *to, const struct msg *m,
                           struct err_msg *why) MUST_CHECK;
/* Stops receiving: closes handles; memory is freed once the loop has run its close callbacks. linger_ms: how
 * long unsent messages are kept trying at context end. */
void proto_socket_close(struct proto_socket **s, int linger_ms);

/* Blocking request/reply for clients that have no loop: sends m (its seq is filled in), waits for the reply
 * with that seq; ERROR replies become ERR_PROTO / ERR_CONFLICT / ERR_NOT_FOUND / ERR_FULL / ERR_IO with the
 * broker's text and *ret_error_line set. Sends again after a reconnect (requests are idempotent); ERR_AGAIN
 * after timeout_ms without an answer. */
struct proto_client;
enum err proto_client_open(const struct proto_socket_options *o, struct proto_client **ret,
                           struct err_msg *why) MUST_CHECK;
enum err proto_client_call(struct proto_client *c, struct msg *m, int timeout_ms,
                           enum msg_type want, const struct msg **ret, struct err_msg *why) MUST_CHECK;
/* `*ret` of the last call is valid until the next call or close. */
uint64_t proto_client_error_line(const struct proto_client *c);
void proto_client_close(struct proto_client **c);

/* "ipc://..." or "tcp://host:port": ERR_USAGE says what is wrong with another. */
enum err proto_endpoint_check(const char *endpoint, struct err_msg *why) MUST_CHECK;

#endif
