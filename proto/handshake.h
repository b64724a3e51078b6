/* Why a DEALER's connection does not come about although somebody answers at its address: libzmq
 * tries again, or gives up, without a word. Its monitor tells. One thread. Private to proto/. */
#ifndef OCTO_PROTO_HANDSHAKE_H
#define OCTO_PROTO_HANDSHAKE_H

#include <stdbool.h>

#include "proto/curve.h"

struct handshake;

/* The socket is not connected yet. curve: what it was opened with. */
enum err handshake_open(void *context, void *socket, const struct proto_curve *curve,
                        struct handshake **ret, struct err_msg *why) MUST_CHECK;
/* Before the socket is closed. */
void handshake_close(struct handshake **h, void *socket);
/* Sees what has happened. True: a handshake has failed since the last call, and it is known why. */
bool handshake_failed(struct handshake *h);
/* Of the last connection that came about, as of that call; -1: none did yet. */
int handshake_fd(const struct handshake *h);
/* What was wrong with the last handshake, as of that call: "" when that is not known, or nothing.
 * *ret_final: the broker does not know the key, and never did. All else, also what seems a
 * broker that wants other keys, may be a stranger on its port. */
const char *handshake_why(const struct handshake *h, bool *ret_final);

#endif
