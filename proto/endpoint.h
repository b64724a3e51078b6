/* Opening and closing of a ZeroMQ socket with the settings every OctoFlow socket has. Private to
 * proto/. */
#ifndef OCTO_PROTO_ENDPOINT_H
#define OCTO_PROTO_ENDPOINT_H

#include "proto/guard.h"
#include "proto/handshake.h"
#include "proto/socket.h"

struct proto_zmq {
    void *context, *socket;
    void *zap;                   /* a ROUTER with keys: zap.h; else NULL */
    struct guard *guard;         /* a ROUTER with limits: guard.h; else NULL */
    struct handshake *handshake; /* a DEALER: handshake.h; else NULL */
};

/* A context with one I/O thread and one bound (ROUTER) or connecting (DEALER) socket. Each socket
 * has its own context, so that nothing of ZeroMQ exists before the first one is opened: a program
 * may fork before. */
enum err proto_zmq_open(const struct proto_socket_options *o, struct proto_zmq *ret,
                        struct err_msg *why) MUST_CHECK;
/* For a DEALER that is without a connection for long. ZeroMQ tries for ever where nobody answers,
 * but gives up for good on a peer that spoke no ZeroMQ, or broke its rules, once: a stranger on the
 * broker's port while that was down. */
void proto_zmq_connect_again(void *socket, const char *endpoint);
/* Blocks for at most linger_ms while what ZeroMQ holds is sent. May be half open, or closed. */
void proto_zmq_close(struct proto_zmq *z, int linger_ms);

#endif
