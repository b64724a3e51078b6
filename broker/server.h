/* The broker on a libuv loop: one ROUTER socket, the ledger, the jobs, and what the messages mean.
 * All calls belong to the loop's thread. */
#ifndef OCTO_BROKER_SERVER_H
#define OCTO_BROKER_SERVER_H

#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

#include "base/err.h"

struct server;

struct server_options {
    const char *ledger_path;
    const char *endpoint;
    bool insecure; /* allow TCP addresses that other machines can reach */
    uint64_t heartbeat_ms, lease_ms;
    uint64_t max_attempts; /* for batches that do not say */
    uint64_t max_pages;    /* of the ledger's file; 0: no limit */
};

/* ERR_USAGE: the endpoint; otherwise the ledger's or the socket's errors. */
enum err server_open(uv_loop_t *loop, const struct server_options *o, struct server **ret,
                     struct err_msg *why) MUST_CHECK;
/* Commits and acknowledges what is pending, then closes everything; blocks for the last commit. The
 * loop has to run until it ends by itself: that frees the handles. */
void server_close(struct server **s);

#endif
