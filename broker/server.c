/* Opening, closing, the timer and dispatch. What workers' and clients' messages do is in
 * server_worker.c and server_client.c. */
#include "broker/server.h"

#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/size.h"
#include "broker/allow.h"
#include "broker/server_internal.h"

enum { TRIM_EVERY_S = 5, TRIM_BYTES = 16 << 20 };
enum { LOCK_WAIT_MS = 5000, LINGER_MS = 1000 };

uint64_t server_lease_end_ns(const struct server *s)
{
    return s->now_ns + s->o.lease_ms * NS_PER_MS;
}

void server_send(struct server *s, const struct proto_peer *to, const struct msg *m)
{
    struct err_msg why;
    if (s->socket == NULL)
        return;
    enum err e = proto_socket_send(s->socket, to, m, &why);
    if (e != ERR_OK && e != ERR_NOT_FOUND) /* who is gone asks again when back */
        log_warn("reply dropped, the peer has to ask again type=%s error=\"%s\"",
                 proto_type_name(m->type), why.text);
}

void server_error(struct server *s, const struct proto_peer *to, uint64_t seq, const char *code,
                  const char *text, uint64_t line)
{
    struct msg m = {.type = MSG_TYPE_ERROR};
    m.error.seq = seq;
    m.error.code = str_of(code);
    m.error.text = str_of(text);
    m.error.line = line;
    server_send(s, to, &m);
}

void server_refuse(struct server *s, const struct proto_peer *from, uint64_t seq, const char *text,
                   uint64_t line)
{
    server_error(s, from, seq, "bad_message", text, line);
    proto_socket_blame(s->socket);
}

void server_batch_changed(struct server *s, struct batch *b)
{
    const struct batch_counts *c = &b->counts;
    if (!b->sealed || c->total != c->done + c->failed + c->cancelled)
        return;
    log_info("batch completed batch=%s lines=%llu done=%llu failed=%llu cancelled=%llu", b->name,
             (unsigned long long)c->total, (unsigned long long)c->done,
             (unsigned long long)c->failed, (unsigned long long)c->cancelled);
    server_event(s, EVENT_BATCH_COMPLETED, b->name,
                 "lines %llu, done %llu, failed %llu, cancelled %llu", (unsigned long long)c->total,
                 (unsigned long long)c->done, (unsigned long long)c->failed,
                 (unsigned long long)c->cancelled);
}

/* Deadlines are times on the wall, as their users gave them. */
static void expire_batches(struct server *s)
{
    size_t room = MAX_CANCEL_JOBS;
    uint64_t now_ms = clock_wall_ms();
    for (struct batch *b = jobs_first_batch(s->jobs); b != NULL && room > 0; b = b->next) {
        if (!batch_is_due(b, now_ms))
            continue;
        if (!b->expired) {
            log_warn("the batch's deadline has passed, what is not done fails batch=%s", b->name);
            server_event(s, EVENT_BATCH_EXPIRED, b->name, "%llu lines are not done",
                         (unsigned long long)(batch_waiting(b) + b->leased));
        }
        room -= jobs_expire_batch(s->jobs, b, room);
    }
}

void server_set_time(struct server *s)
{
    struct tm local;
    s->wall_ms = clock_wall_ms();
    time_t seconds = (time_t)(s->wall_ms / 1000);
    if (localtime_r(&seconds, &local) != NULL)
        jobs_set_time(s->jobs, s->now_ns, s->wall_ms,
                      (unsigned)(local.tm_hour * 60 + local.tm_min));
}

/* ---- the loop ---- */

/* After a flood or a large batch malloc keeps what was freed, in pieces; the system gets it back.
 */
static void give_back_memory(struct server *s)
{
    if (s->now_ns - s->trimmed_ns < TRIM_EVERY_S * NS_PER_S)
        return;
    s->trimmed_ns = s->now_ns;
    if (mallinfo2().fordblks > TRIM_BYTES)
        malloc_trim(0);
}

static void on_timer(uv_timer_t *timer)
{
    struct server *s = timer->data;
    s->now_ns = clock_mono_ns();
    uint64_t gap_ns = s->now_ns - s->last_tick_ns;
    s->last_tick_ns = s->now_ns;
    watch_beat(s);
    if (gap_ns > s->o.heartbeat_ms * NS_PER_MS) {
        /* we stood still (stopped, swapped out): the beats of that time are still in the socket */
        log_warn("the broker stood still, leases go on ms=%llu",
                 (unsigned long long)(gap_ns / NS_PER_MS));
        server_event(s, EVENT_BROKER_STOOD_STILL, "", "for %llu ms, leases go on",
                     (unsigned long long)(gap_ns / NS_PER_MS));
        worker_stood_still(s, gap_ns);
        return;
    }
    jobs_expire(s->jobs, s->now_ns);
    expire_batches(s);
    give_back_memory(s);
    worker_tick(s);
    worker_feed(s);
    watch_tick(s);
    keep_tick(s);
    models_tick(s);
}

static void on_wake(uv_async_t *wake)
{
    struct server *s = wake->data;
    s->now_ns = clock_mono_ns();
    if (s->closing)
        return;
    ledger_poll(s->ledger);
    worker_feed(s);
}

/* Behind all messages of a turn. */
static void on_prepare(uv_prepare_t *prepare)
{
    struct server *s = prepare->data;
    if (s->apart_due)
        worker_feed_apart(s);
    server_submit_returned(s);
}

static void wake_loop(void *user)
{
    struct server *s = user;
    uv_async_send(&s->wake);
}

static void on_message(void *user, const struct proto_peer *from, const struct msg *m)
{
    struct server *s = user;
    s->now_ns = clock_mono_ns();
    if (!access_allows(s, from, m))
        return;
    if (m->type >= MSG_TYPE_HELLO && m->type <= MSG_TYPE_RECONNECT)
        worker_message(s, from, m);
    else
        client_message(s, from, m);
}

static void on_garbage(void *user, const struct proto_peer *from, const struct err_msg *why)
{
    struct server *s = user;
    s->now_ns = clock_mono_ns();
    s->garbage_count++;
    if (s->garbage_logged_ns == 0 || s->now_ns - s->garbage_logged_ns > NS_PER_S) {
        s->garbage_logged_ns = s->now_ns;
        log_warn("a frame that is no message, answered with an error count=%llu error=\"%s\"",
                 (unsigned long long)s->garbage_count, why->text);
    }
    if (from == NULL)
        return;
    bool version = strstr(why->text, "version") != NULL;
    server_error(s, from, 0, version ? "version" : "bad_message", why->text, 0);
}

static void on_cut_off(void *user, const char *why)
{
    log_warn("peer cut off reason=\"%s\"", why);
    server_event(user, EVENT_PEER_CUT_OFF, "", "%s", why);
}

/* ---- open ---- */

static enum err load_batch(void *user, const struct ledger_batch *b, const struct ledger_sums *sums)
{
    struct server *s = user;
    if (b->name.len > 0 && b->name.data[0] == '\0') { /* it is gone, and part of its rows */
        s->keep.more = true;
        return ERR_OK;
    }
    char *name = strndup(b->name.data == NULL ? "" : b->name.data, b->name.len);
    char *model = strndup(b->model.data == NULL ? "" : b->model.data, b->model.len);
    char *client = strndup(b->client.data == NULL ? "" : b->client.data, b->client.len);
    struct batch like = {.id = b->id,
                         .name = name,
                         .model = model,
                         .client = client,
                         .created_ms = b->created_ms,
                         .sealed_ms = b->sealed_ms,
                         .sealed = b->sealed_ms != 0,
                         .cancelled = b->cancelled,
                         .schedule = b->schedule,
                         .max_attempts = (uint32_t)max_u64(1, min_u64(b->max_attempts, 100))};
    like.counts = (struct batch_counts){.done = sums->counts[LEDGER_DONE],
                                        .failed = sums->counts[LEDGER_FAILED],
                                        .cancelled = sums->counts[LEDGER_CANCELLED],
                                        .prompt_tokens = sums->prompt_tokens,
                                        .completion_tokens = sums->completion_tokens,
                                        .energy_uj = sums->energy_uj,
                                        .energy_jobs = sums->energy_jobs,
                                        .last_finished_ms = sums->last_finished_ms};
    s->keep.newest_ms = max_u64(max_u64(s->keep.newest_ms, sums->last_finished_ms),
                                max_u64(b->created_ms, b->sealed_ms));
    for (size_t i = 0; i < ARRAY_LEN(sums->counts); i++)
        like.counts.total += sums->counts[i];
    struct batch *added;
    enum err e = name == NULL || model == NULL || client == NULL
                     ? ERR_NOMEM
                     : jobs_add_batch(s->jobs, &like, &added);
    free(name);
    free(model);
    free(client);
    return e;
}

static enum err load_job(void *user, const struct ledger_job *job)
{
    struct server *s = user;
    struct batch *b = jobs_batch(s->jobs, job->batch);
    if (b == NULL)
        return ERR_FORMAT;
    /* two beats: the time a worker that lived through our restart needs to say what it holds */
    struct job like = {.id = job->id,
                       .line = job->line,
                       .body_bytes = (uint32_t)min_u64(job->body_bytes, UINT32_MAX),
                       .attempts = (uint8_t)min_u64(job->attempts, UINT8_MAX),
                       .epoch = job->epoch,
                       .prefix = (uint32_t)job->prefix,
                       .state = job->leased ? JOB_LEASED : JOB_SUBMITTED,
                       .expires_ns = s->now_ns + 2 * s->o.heartbeat_ms * NS_PER_MS};
    enum err e = jobs_add(s->jobs, b, &like);
    return e != ERR_OK || job->twin == 0
               ? e
               : jobs_add_twin(jobs_find(s->jobs, job->id), job->twin, like.expires_ns);
}

static enum err load_attempt(void *user, uint64_t job, const char *reason)
{
    struct server *s = user;
    struct job *found = jobs_find(s->jobs, job);
    if (found != NULL && jobs_add_loss(s->jobs, found, reason) != ERR_OK)
        log_debug("history of a job not kept job=%llu", (unsigned long long)job);
    return ERR_OK;
}

static enum err check_endpoint(const struct server_options *o, struct err_msg *why)
{
    enum err e = proto_endpoint_check(o->endpoint, why);
    if (e != ERR_OK || o->insecure || o->curve_key != NULL || proto_endpoint_is_local(o->endpoint))
        return e;
    return err_set(
        why, ERR_USAGE,
        "--listen %s: anybody who reaches this address could read and change batches; give "
        "--curve-key FILE and --allow FILE (docs/security.md), or --insecure on a network of your "
        "own",
        o->endpoint);
}

static void free_server(struct server *s)
{
    worker_free_sessions(s);
    access_close(s);
    jobs_destroy(&s->jobs);
    watch_close(s);
    catalog_free(&s->models.catalog);
    while (s->pendings != NULL) {
        struct pending *next = s->pendings->next;
        free(s->pendings);
        s->pendings = next;
    }
    free(s);
}

void server_handle_closed(struct server *s)
{
    if (--s->open_handles == 0)
        free_server(s);
}

static void on_handle_closed(uv_handle_t *handle)
{
    server_handle_closed(handle->data);
}

static enum err open_store(struct server *s, struct err_msg *why)
{
    struct ledger_options lo = {.path = s->o.ledger_path,
                                .lock_wait_ms = LOCK_WAIT_MS,
                                .max_pages = s->o.max_pages,
                                .wake = wake_loop,
                                .user = s};
    enum err e = ledger_open(&lo, &s->ledger, why);
    if (e != ERR_OK)
        return e;
    static const struct jobs_events events = {.on_returned = server_note_returned};
    e = jobs_create(ledger_generation(s->ledger), &events, s, &s->jobs);
    if (e != ERR_OK)
        return err_set(why, e, "out of memory");
    jobs_set_secret(s->jobs, ledger_secret(s->ledger));
    e = watch_open(s, why);
    if (e != ERR_OK)
        return e;
    s->last_session = (uint64_t)ledger_generation(s->ledger) << 32;
    s->lease_notes = MAX_LEASE_NOTES; /* those of the runs before go with the first grant */
    s->started_ns = s->last_tick_ns = s->now_ns = clock_mono_ns();
    static const struct ledger_loader loader = {load_batch, load_job, load_attempt};
    e = ledger_load(s->ledger, &loader, s, why);
    if (e == ERR_OK)
        keep_open(s);
    return e;
}

enum err server_open(uv_loop_t *loop, const struct server_options *o, struct server **ret,
                     struct err_msg *why)
{
    enum err e = check_endpoint(o, why);
    if (e != ERR_OK)
        return e;
    struct server *s = calloc(1, sizeof *s);
    if (s == NULL)
        return err_set(why, ERR_NOMEM, "out of memory");
    s->loop = loop;
    s->o = *o;
    if (uv_async_init(loop, &s->wake, on_wake) != 0) {
        free(s);
        return err_set(why, ERR_IO, "cannot make a wake-up for the loop");
    }
    uv_timer_init(loop, &s->timer);
    uv_prepare_init(loop, &s->prepare);
    s->timer.data = s->wake.data = s->prepare.data = s;
    s->open_handles = 3;
    struct proto_curve curve = {0};
    e = access_open(s, &curve, why);
    if (e == ERR_OK)
        e = open_store(s, why);
    if (e == ERR_OK) {
        struct proto_limits limits = {.max_connections = o->max_connections,
                                      .greet_ms = max_u64(GREET_MS, 2 * o->heartbeat_ms),
                                      .idle_ms = o->idle_s * 1000,
                                      .max_faults = MAX_FAULTS,
                                      .max_per_s = MAX_PER_S,
                                      .max_queues_bytes = MAX_QUEUES_BYTES,
                                      .max_mute_bytes = MAX_MUTE_BYTES};
        struct proto_socket_options so = {.router = true,
                                          .endpoint = o->endpoint,
                                          .max_queue_bytes = MAX_PEER_QUEUE_BYTES,
                                          .limits = &limits,
                                          .curve = &curve};
        static const struct proto_socket_events events = {.on_message = on_message,
                                                          .on_garbage = on_garbage,
                                                          .on_cut_off = on_cut_off,
                                                          .may_connect = access_may_connect};
        e = proto_socket_open(loop, &so, &events, s, &s->socket, why);
    }
    proto_curve_wipe(&curve);
    if (e != ERR_OK) {
        server_close(&s);
        return e;
    }
    /* a large ledger takes long to load: the time to claim leases begins now */
    s->last_tick_ns = clock_mono_ns();
    jobs_delay(s->jobs, s->last_tick_ns - s->now_ns);
    s->now_ns = s->last_tick_ns;
    server_set_time(s);
    uint64_t tick_ms = max_u64(10, min_u64(250, o->heartbeat_ms / 4));
    uv_timer_start(&s->timer, on_timer, tick_ms, tick_ms);
    /* the handle that was started last runs first: the socket looks for wake-ups after we have sent
     */
    uv_prepare_start(&s->prepare, on_prepare);
    if (s->allow != NULL)
        log_info("only keys of the list get in file=%s keys=%zu", o->allow, allow_count(s->allow));
    log_info("broker started listen=%s ledger=%s id=%s generation=%u unfinished=%zu", o->endpoint,
             o->ledger_path, ledger_id(s->ledger), ledger_generation(s->ledger),
             jobs_count(s->jobs));
    server_event(s, EVENT_BROKER_STARTED, "", "listening at %s, %zu jobs unfinished", o->endpoint,
                 jobs_count(s->jobs));
    *ret = s;
    return ERR_OK;
}

void server_close(struct server **server)
{
    struct server *s = *server;
    if (s == NULL)
        return;
    *server = NULL;
    s->closing = true;
    s->now_ns = clock_mono_ns();
    uv_timer_stop(&s->timer);
    models_close(s);
    server_submit_returned(s);
    /* everything that is queued is committed, and its acknowledgements go out, before the socket
     * closes */
    ledger_close(&s->ledger);
    if (s->socket != NULL)
        proto_socket_close(&s->socket, LINGER_MS);
    uv_close((uv_handle_t *)&s->timer, on_handle_closed);
    uv_close((uv_handle_t *)&s->wake, on_handle_closed);
    uv_close((uv_handle_t *)&s->prepare, on_handle_closed);
}
