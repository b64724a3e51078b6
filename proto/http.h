/* A small HTTP server for what a program says about itself: /metrics (Prometheus' text format),
 * /healthz and /readyz (for probes). It has a thread of its own and serves copies that the program
 * gives it now and then: whoever asks, however often or slowly, never holds up the program's loop.
 *
 * All functions belong to one thread. */
#ifndef OCTO_PROTO_HTTP_H
#define OCTO_PROTO_HTTP_H

#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"

/* A program that has neither beaten nor published for so long hangs, says /healthz. */
enum { HTTP_SILENT_MS = 10000, HTTP_CONNECTIONS = 16, HTTP_IDLE_S = 10 };

struct http;

/* address: IPV4:PORT, [IPV6]:PORT or localhost:PORT. ERR_USAGE: it is none, or one that other
 * machines can reach, without `insecure`. */
enum err http_open(const char *address, bool insecure, struct http **ret,
                   struct err_msg *why) MUST_CHECK;
/* The page of /metrics from now on (until the first one it is starting: healthy, not ready)
 * (copied), and why /readyz says no (NULL: it says yes). ERR_NOMEM: the last page stays. */
enum err http_publish(struct http *h, const struct buf *page, const char *not_ready,
                      uint64_t now_ns) MUST_CHECK;
/* Its loop turns, whenever the next page comes. */
void http_beat(struct http *h, uint64_t now_ns);
void http_close(struct http **h); /* NULL is fine */

#endif
