/* The monitor of a ZeroMQ socket: what happens to its connections, as events to read. Private to
 * proto/. */
#ifndef OCTO_PROTO_MONITOR_H
#define OCTO_PROTO_MONITOR_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

/* events: ZMQ_EVENT_* or-ed. NULL: why says what is wrong. At most one a socket, before it binds or
 * connects. Read it often: libzmq waits for room when some thousand events are unread. */
void *monitor_open(void *context, void *socket, int events, struct err_msg *why);
/* Before the socket is closed. Reads over what is unread. */
void monitor_close(void *monitor, void *socket);
/* The next event, and its value: a file descriptor, or an error. False: none now. */
bool monitor_read(void *monitor, uint16_t *ret_event, int32_t *ret_value);

#endif
