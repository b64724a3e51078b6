/* A broker's server on a thread of this process, for tests that have their hands inside: a disk in
 * memory, or calls that the linker leads to the test. Beside script.h. */
#ifndef OCTO_TESTS_BROKER_OWN_BROKER_H
#define OCTO_TESTS_BROKER_OWN_BROKER_H

#include <pthread.h>
#include <uv.h>

#include "broker/server.h"
#include "tests/broker/script.h"

struct own_broker {
    pthread_t thread;
    uv_loop_t loop;
    uv_async_t stop;
    struct server *server;
};

static void own_on_stop(uv_async_t *stop)
{
    struct own_broker *b = stop->data;
    server_close(&b->server);
    uv_close((uv_handle_t *)stop, NULL);
}

static void *own_run(void *arg)
{
    struct own_broker *b = arg;
    uv_run(&b->loop, UV_RUN_DEFAULT);
    return NULL;
}

/* Ledger and endpoint are the name's, as those of start(). */
static void own_start(struct own_broker *b, const char *name, struct server_options o)
{
    struct err_msg why;
    snprintf(ledger, sizeof ledger, "%s/%s", dir, name);
    snprintf(endpoint, sizeof endpoint, "ipc://%s/%s.sock", dir, name);
    o.ledger_path = ledger;
    o.endpoint = endpoint;
    uv_loop_init(&b->loop);
    uv_async_init(&b->loop, &b->stop, own_on_stop);
    b->stop.data = b;
    CHECK_OK(server_open(&b->loop, &o, &b->server, &why), why);
    CHECK(pthread_create(&b->thread, NULL, own_run, b) == 0);
}

static void own_stop(struct own_broker *b)
{
    uv_async_send(&b->stop);
    pthread_join(b->thread, NULL);
    CHECK(uv_loop_close(&b->loop) == 0);
}

#endif
