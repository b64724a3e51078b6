/* See monitor.h. */
#include "proto/monitor.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <zmq.h>

enum { MAX_EVENTS = 8192 };

void *monitor_open(void *context, void *socket, int events, struct err_msg *why)
{
    char endpoint[64];
    int most = MAX_EVENTS, linger = 0;
    snprintf(endpoint, sizeof endpoint, "inproc://monitor-%p", socket);
    void *monitor = zmq_socket(context, ZMQ_PAIR);
    if (monitor != NULL && zmq_setsockopt(monitor, ZMQ_RCVHWM, &most, sizeof most) == 0 &&
        zmq_setsockopt(monitor, ZMQ_LINGER, &linger, sizeof linger) == 0 &&
        zmq_socket_monitor(socket, endpoint, events) == 0 && zmq_connect(monitor, endpoint) == 0)
        return monitor;
    err_set(why, ERR_IO, "cannot watch a socket's connections: %s", zmq_strerror(errno));
    monitor_close(monitor, socket);
    return NULL;
}

void monitor_close(void *monitor, void *socket)
{
    /* libzmq's thread may wait for room here, and holds the lock that the end takes */
    uint16_t event;
    int32_t value;
    for (int i = 0; monitor != NULL && i < 2 * MAX_EVENTS && monitor_read(monitor, &event, &value);
         i++) {
    }
    zmq_socket_monitor(socket, NULL, 0);
    if (monitor != NULL)
        zmq_close(monitor);
}

/* An event is two frames: number and value, then an address. */
bool monitor_read(void *monitor, uint16_t *ret_event, int32_t *ret_value)
{
    zmq_msg_t frame;
    zmq_msg_init(&frame);
    bool got = zmq_msg_recv(&frame, monitor, ZMQ_DONTWAIT) >= 0;
    if (got && zmq_msg_size(&frame) >= 6) {
        const unsigned char *bytes = zmq_msg_data(&frame);
        memcpy(ret_event, bytes, sizeof *ret_event);
        memcpy(ret_value, bytes + sizeof *ret_event, sizeof *ret_value);
    } else {
        *ret_event = 0;
    }
    while (got && zmq_msg_more(&frame)) {
        if (zmq_msg_recv(&frame, monitor, ZMQ_DONTWAIT) < 0 && errno != EINTR)
            break;
    }
    zmq_msg_close(&frame);
    return got;
}
