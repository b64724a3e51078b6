/* Who is connected to a ROUTER, and who is cut off: surplus connections, silent ones, floods, and
 * peers that send too much that is no message. Private to proto/.
 *
 * ZeroMQ's stable interface closes no single connection of a socket. But its monitor tells the file
 * descriptor of each connection as it comes and goes, and each message (ZMQ_SRCFD) that of the one
 * it came by, and a shutdown() of that ends the connection as if the peer had: ZeroMQ drops what it
 * holds for it and forgets it. Events of the monitor are read before each cut; should a descriptor
 * have gone to another peer in that moment, it is that one which has to connect again. A DEALER
 * does by itself.
 *
 * One thread; now_ns is monotonic. */
#ifndef OCTO_PROTO_GUARD_H
#define OCTO_PROTO_GUARD_H

#include "proto/socket.h"

struct guard;

/* The socket is not bound yet. */
enum err guard_open(void *context, void *socket, const struct proto_limits *limits,
                    struct guard **ret, struct err_msg *why) MUST_CHECK;
/* Calls fn for each peer that is cut off. */
void guard_tell(struct guard *g, void (*fn)(void *user, const char *why), void *user);
/* Before the socket is closed. */
void guard_close(struct guard **g, void *socket);
/* Sees who came and went, and cuts off who is silent or too many. Cheap: call it each turn, and at
 * least each second: time without a call counts for nobody. */
void guard_tick(struct guard *g, uint64_t now_ns);
/* A message came by the connection fd (-1: unknown), of a peer with that public key (NULL: without
 * keys). False: the peer is cut off, or is now: drop it. */
bool guard_heard(struct guard *g, int fd, const struct proto_peer *from, const char *key,
                 uint64_t now_ns);
/* It was no good. `bytes` of it count too. */
void guard_blame(struct guard *g, int fd, size_t bytes, const char *what, uint64_t now_ns);
/* Whoever has that routing id. False: nobody, or cut off already. */
bool guard_cut_peer(struct guard *g, const struct proto_peer *peer, const char *what,
                    uint64_t now_ns);
/* Cuts off everybody who has sent a message and whose key may no longer. */
void guard_cut_keys(struct guard *g, bool (*may)(void *user, const char *key), void *user,
                    uint64_t now_ns);
/* The connection of whoever has that routing id; -1: nobody. */
int guard_find_fd(const struct guard *g, const struct proto_peer *peer);
/* Readable when somebody comes or goes: a reason to call guard_tick(). Edge-triggered, as ZMQ_FD
 * is. */
int guard_fd(const struct guard *g);
size_t guard_connections(const struct guard *g);
uint64_t guard_cuts(const struct guard *g);

#endif
