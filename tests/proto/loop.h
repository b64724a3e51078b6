/* A loop, a router and dealers for the socket tests, and raw ZeroMQ sockets that behave badly. */
#ifndef OCTO_TESTS_PROTO_LOOP_H
#define OCTO_TESTS_PROTO_LOOP_H

#include <unistd.h>
#include <uv.h>
#include <zmq.h>

#include "base/clock.h"
#include "proto/codec.h"
#include "proto/socket.h"
#include "tests/check.h"

enum { LOOP_LIMIT_MS = 20000 };

struct place {
    char dir[64];
    char endpoint[96];
};

static inline void place_make(struct place *p)
{
    snprintf(p->dir, sizeof p->dir, "/tmp/octo-socket-XXXXXX");
    if (mkdtemp(p->dir) == NULL)
        abort();
    snprintf(p->endpoint, sizeof p->endpoint, "ipc://%s/s", p->dir);
}

static inline void place_remove(struct place *p)
{
    unlink(p->endpoint + strlen("ipc://"));
    rmdir(p->dir);
}

static inline void loop_nothing(uv_timer_t *t)
{
    (void)t;
}

static inline void loop_closed(uv_handle_t *h)
{
    *(bool *)h->data = true;
}

/* Turns the loop until done(arg), but not for ever. */
static inline bool loop_until(uv_loop_t *loop, bool (*done)(void *), void *arg)
{
    bool closed = false;
    uv_timer_t tick = {.data = &closed};
    uv_timer_init(loop, &tick);
    uv_timer_start(&tick, loop_nothing, 10, 10);
    uint64_t end_ns = clock_mono_ns() + LOOP_LIMIT_MS * NS_PER_MS;
    while (!done(arg) && clock_mono_ns() < end_ns)
        uv_run(loop, UV_RUN_ONCE);
    uv_close((uv_handle_t *)&tick, loop_closed);
    while (!closed)
        uv_run(loop, UV_RUN_NOWAIT);
    return done(arg);
}

/* A raw DEALER; routing_id NULL: ZeroMQ's choice. */
static inline void *raw_dealer(void *context, const char *endpoint, int rcvhwm,
                               const char *routing_id)
{
    void *s = zmq_socket(context, ZMQ_DEALER);
    int linger = 0;
    zmq_setsockopt(s, ZMQ_LINGER, &linger, sizeof linger);
    zmq_setsockopt(s, ZMQ_RCVHWM, &rcvhwm, sizeof rcvhwm);
    if (routing_id != NULL)
        zmq_setsockopt(s, ZMQ_ROUTING_ID, routing_id, strlen(routing_id));
    if (zmq_connect(s, endpoint) != 0)
        abort();
    return s;
}

static inline void raw_send(void *socket, const struct msg *m)
{
    struct buf b = {0};
    if (proto_encode(m, &b, NULL) != ERR_OK || zmq_send(socket, b.data, b.len, 0) < 0)
        abort();
    buf_free(&b);
}

static inline struct msg ok_msg(uint64_t seq)
{
    return (struct msg){.type = MSG_TYPE_OK, .ok = {.seq = seq}};
}

#endif
