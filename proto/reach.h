/* Why nobody can be connected to at an endpoint: ZeroMQ tries again and again without a word. A
 * connection of our own tells, and is closed at once. */
#ifndef OCTO_PROTO_REACH_H
#define OCTO_PROTO_REACH_H

#include <stdbool.h>

enum { REACH_WHY_BYTES = 320 };

/* "": somebody listens there. Waits for so long at most for a connection, but for a name's address
 * as long as the system does. */
void reach_try(const char *endpoint, int wait_ms, char ret_why[REACH_WHY_BYTES]);

/* The same on a thread of its own. NULL: not now. */
struct reach;
struct reach *reach_begin(const char *endpoint);
/* True once it has ended: it is freed, and NULL. */
bool reach_ended(struct reach **r, char ret_why[REACH_WHY_BYTES]);
/* Nobody wants to know any more. May be NULL. */
void reach_forget(struct reach **r);

#endif
