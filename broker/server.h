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
    bool insecure; /* allow TCP addresses that other machines can reach, without keys */
    const char *curve_key, *allow; /* files: its secret key, and allow.h's list; NULL: no keys */
    uint64_t heartbeat_ms, lease_ms;
    uint64_t max_attempts; /* for batches that do not say */
    bool first_come;       /* what a worker has room for, whatever its speed and heat; no twins */
    uint64_t max_pages;    /* of the ledger's file; 0: no limit */
    /* Quotas of unfinished jobs and bytes of their bodies; 0: no limit. */
    uint64_t max_jobs, max_bytes, max_client_jobs, max_client_bytes;
    uint64_t max_connections, idle_s; /* of the socket; 0: no limit */
    uint64_t keep_s;                  /* finished batches stay for so long; 0: for ever */
    const char *models;               /* folder of files that workers may fetch; NULL: none */
    const char *backups;              /* folder; NULL: none are made */
    const char *metrics;              /* ADDRESS:PORT of the metrics' page; NULL: none */
};

/* ERR_USAGE: the endpoint; otherwise the ledger's or the socket's errors. */
enum err server_open(uv_loop_t *loop, const struct server_options *o, struct server **ret,
                     struct err_msg *why) MUST_CHECK;
/* "2 batches, 120 lines unfinished, 3 workers": for a service manager's status. */
void server_describe(const struct server *s, char *out, size_t size);
/* Looks at the folder of models again, reads the list of keys again, and cuts off who is not on it
 * any more. A list with a mistake changes nothing. */
void server_reload(struct server *s);
/* Commits and acknowledges what is pending, then closes everything; blocks for the last commit. The
 * loop has to run until it ends by itself: that frees the handles. */
void server_close(struct server **s);

#endif
