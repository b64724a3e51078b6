/* How much a TCP connection has moved, parts of messages too: so that a long message on a slow wire
 * is not mistaken for silence. */
#ifndef OCTO_PROTO_MOVED_H
#define OCTO_PROTO_MOVED_H

#include <stdbool.h>
#include <stdint.h>

/* Bytes that came in, and bytes that the other machine has taken. Both 0: not known (no TCP, no
 * connection). */
struct proto_moved {
    uint64_t received, taken;
};

/* ZeroMQ says a few bytes by itself now and then, also for a program that hangs: a message is under
 * way while so many come together. */
enum { PROTO_MOVES_BYTES = 4096 };

struct proto_moved proto_fd_moved(int fd); /* of a connection; -1: none */
/* Whether so many came since the last time that this was true; *mark: how many it were then. */
bool proto_moves(uint64_t *mark, uint64_t bytes);

#endif
