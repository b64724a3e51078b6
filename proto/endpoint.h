/* Opening and closing of a ZeroMQ socket with the settings every OctoFlow socket has. Private to
 * proto/. */
#ifndef OCTO_PROTO_ENDPOINT_H
#define OCTO_PROTO_ENDPOINT_H

#include "proto/socket.h"

/* A context with one I/O thread and one bound (ROUTER) or connecting (DEALER) socket. Each socket
 * has its own context, so that nothing of ZeroMQ exists before the first one is opened: a program
 * may fork before. */
enum err proto_zmq_open(const struct proto_socket_options *o, void **ret_context, void **ret_socket,
                        struct err_msg *why) MUST_CHECK;
/* Blocks for at most linger_ms while what ZeroMQ holds is sent. Both may be NULL. */
void proto_zmq_close(void *context, void *socket, int linger_ms);

#endif
