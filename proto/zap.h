/* Who gets in at a CURVE server: libzmq asks a handler in the same context (ZAP 1.0, RFC 27) about
 * each key, after the handshake has proved that the peer owns it and before any message of its is
 * read. The handler is a socket that the loop serves: a peer waits for it no longer than for its
 * handshake. One thread. Private to proto/. */
#ifndef OCTO_PROTO_ZAP_H
#define OCTO_PROTO_ZAP_H

#include <stdbool.h>

#include "base/err.h"

/* Once a context, and before its server is bound. The socket is closed with zmq_close(). */
enum err zap_open(void *context, void **ret, struct err_msg *why) MUST_CHECK;
/* Readable when somebody waits: a reason to call zap_serve(). Edge-triggered, as ZMQ_FD is. */
int zap_fd(void *zap);
/* Answers who waits. may: whether the owner of the public key (Z85) at that address gets in. The
 * key is then each of its messages' "User-Id". */
void zap_serve(void *zap, bool (*may)(void *user, const char *key, const char *address),
               void *user);

#endif
