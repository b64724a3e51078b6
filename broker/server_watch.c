/* What somebody who looks on is told: the events, and the page of metrics. */
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/size.h"
#include "broker/metrics.h"
#include "broker/server_internal.h"

/* A page is made once a second, and takes no more than a part in PAGE_SHARE of the loop's time; but
 * one that stays old for longer than PAGE_MOST_MS is of no use. */
enum { PAGE_SHARE = 50, PAGE_MOST_MS = 5000 };

/* ---- events ---- */

void server_event(struct server *s, enum event_kind kind, const char *subject, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    events_add(s->watch.events, kind, clock_wall_ms(), subject, fmt, args);
    va_end(args);
}

void watch_events(struct server *s, const struct proto_peer *from, const struct msg_events *m)
{
    struct rec_EVENT *items = calloc(MAX_REPLY_EVENTS, sizeof *items);
    if (items == NULL) {
        server_error(s, from, m->seq, "full", "out of memory: try again later", 0);
        return;
    }
    struct msg reply = {.type = MSG_TYPE_EVENTS_OK};
    reply.events_ok.seq = m->seq;
    reply.events_ok.events.items = items;
    reply.events_ok.events.count = events_read(s->watch.events, m->after, items, MAX_REPLY_EVENTS);
    server_send(s, from, &reply);
    free(items);
}

/* ---- status ---- */

void server_describe(const struct server *s, char *out, size_t size)
{
    size_t workers = 0;
    for (const struct session *w = s->sessions; w != NULL; w = w->next)
        workers += w->state != SESSION_LOST;
    snprintf(out, size, "%zu batches, %zu lines unfinished, %zu workers%s%s",
             jobs_batch_count(s->jobs), jobs_count(s->jobs), workers,
             s->storage_bad_ns == 0 ? "" : ", ", s->storage_bad_ns == 0 ? "" : s->storage_why.text);
}

/* ---- metrics ---- */

static void add_counts(const struct batch_counts *c, double *v)
{
    v[METRIC_SUBMITTED] += (double)c->total;
    v[METRIC_DONE] += (double)c->done;
    v[METRIC_FAILED] += (double)c->failed;
    v[METRIC_CANCELLED] += (double)c->cancelled;
    v[METRIC_PROMPT_TOKENS] += (double)c->prompt_tokens;
    v[METRIC_GENERATION_TOKENS] += (double)c->completion_tokens;
    v[METRIC_ENERGY] += (double)c->energy_uj / 1e6;
}

static void count_batches(const struct server *s, double *v)
{
    add_counts(&s->keep.gone, v); /* counters do not fall when batches leave */
    for (const struct batch *b = jobs_first_batch(s->jobs); b != NULL; b = b->next) {
        const struct batch_counts *c = &b->counts;
        bool complete = c->total == c->done + c->failed + c->cancelled;
        v[b->cancelled && complete ? METRIC_BATCHES_CANCELLED
          : !b->sealed             ? METRIC_BATCHES_OPEN
          : complete               ? METRIC_BATCHES_COMPLETED
                                   : METRIC_BATCHES_IN_PROGRESS]++;
        v[METRIC_JOBS_QUEUED] += (double)batch_waiting(b);
        v[METRIC_JOBS_RUNNING] += (double)b->leased;
        add_counts(c, v);
    }
}

static void measure(struct server *s, double *v)
{
    struct proto_socket_stats socket = {0};
    proto_socket_get_stats(s->socket, &socket);
    v[METRIC_UPTIME] = (double)(s->now_ns - s->started_ns) / (double)NS_PER_S;
    v[METRIC_JOBS_BYTES] = (double)jobs_bytes(s->jobs);
    v[METRIC_JOBS_SUSPECT] = (double)jobs_suspects(s->jobs);
    v[METRIC_LEASES_LOST] = (double)s->watch.leases_lost;
    v[METRIC_POISONED] = (double)s->watch.poisoned;
    v[METRIC_LEDGER_UP] = s->storage_bad_ns == 0;
    v[METRIC_LEDGER_PENDING] =
        (double)(s->pending_bytes[SIDE_WORKERS] + s->pending_bytes[SIDE_CLIENTS]);
    v[METRIC_SEND_QUEUE] = (double)socket.queued_bytes;
    v[METRIC_CONNECTIONS] = (double)socket.connections;
    v[METRIC_CUT_OFF] = (double)socket.cut_off;
    v[METRIC_RECEIVED] = (double)socket.received;
    v[METRIC_SENT] = (double)socket.sent;
    v[METRIC_GARBAGE] = (double)socket.garbage;
    v[METRIC_MEMORY] = prometheus_memory_bytes();
    v[METRIC_CPU] = prometheus_cpu_s();
    count_batches(s, v);
}

static enum err make_page(struct server *s, struct buf *out)
{
    struct metrics m = {.commits = ledger_commit_times(s->ledger)};
    struct rec_WORKER workers[METRICS_WORKERS];
    static const enum metric by_state[] = {METRIC_WORKERS_READY, METRIC_WORKERS_DRAINING,
                                           METRIC_WORKERS_LOST};
    worker_count_leases(s);
    for (const struct session *w = s->sessions; w != NULL; w = w->next) {
        m.values[by_state[w->state]]++;
        if (m.worker_count < METRICS_WORKERS)
            workers[m.worker_count++] = status_worker(s, w);
    }
    m.workers = workers;
    measure(s, m.values);
    return metrics_render(&m, out);
}

void watch_beat(struct server *s)
{
    if (s->watch.http != NULL)
        http_beat(s->watch.http, s->now_ns);
}

void watch_tick(struct server *s)
{
    if (s->watch.http == NULL || s->now_ns < s->watch.next_ns)
        return;
    struct buf page = {0};
    uint64_t begin_ns = clock_mono_ns();
    enum err e = make_page(s, &page);
    if (e == ERR_OK)
        e = http_publish(s->watch.http, &page, s->storage_bad_ns == 0 ? NULL : s->storage_why.text,
                         s->now_ns);
    if (e != ERR_OK)
        log_debug("page of metrics not made error=\"%s\"", err_name(e));
    buf_free(&page);
    uint64_t pause_ns = max_u64(NS_PER_S, PAGE_SHARE * (clock_mono_ns() - begin_ns));
    s->watch.next_ns = s->now_ns + min_u64(pause_ns, PAGE_MOST_MS * NS_PER_MS);
}

enum err watch_open(struct server *s, struct err_msg *why)
{
    enum err e = events_create(ledger_generation(s->ledger), &s->watch.events);
    if (e != ERR_OK)
        return err_set(why, e, "out of memory");
    if (s->o.metrics == NULL)
        return ERR_OK;
    struct err_msg http_why;
    e = http_open(s->o.metrics, s->o.insecure, &s->watch.http, &http_why);
    return e == ERR_OK ? ERR_OK : err_set(why, e, "--metrics %s", http_why.text);
}

void watch_close(struct server *s)
{
    http_close(&s->watch.http);
    events_destroy(&s->watch.events);
}
