/* Opening, closing, the timer, the way into and out of the ledger, and dispatch. What workers' and
 * clients' messages do is in server_worker.c and server_client.c. */
#include "broker/server.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/size.h"
#include "broker/server_internal.h"

enum { LOCK_WAIT_MS = 5000, LINGER_MS = 1000, STORAGE_RETRY_MS = 1000, MAX_GARBAGE_REPLIES = 1000 };

/* ---- operations ---- */

static struct pending **find_pending(struct server *s, const struct proto_peer *peer)
{
    struct pending **at = &s->pendings;
    while (*at != NULL &&
           ((*at)->peer.len != peer->len || memcmp((*at)->peer.id, peer->id, peer->len) != 0))
        at = &(*at)->next;
    return at;
}

struct server_op *server_op_new(struct server *s, const struct proto_peer *peer,
                                enum ledger_kind kind, void (*done)(struct ledger_op *op))
{
    struct server_op *op = calloc(1, sizeof *op);
    if (op == NULL)
        return NULL;
    op->s = s;
    op->op.kind = kind;
    op->op.done = done;
    op->op.now_ms = clock_wall_ms();
    if (peer != NULL)
        op->peer = *peer;
    return op;
}

void server_op_submit(struct server_op *op, size_t bytes)
{
    struct server *s = op->s;
    op->bytes = bytes + sizeof *op;
    s->pending_bytes += op->bytes;
    if (op->client) {
        struct pending **at = find_pending(s, &op->peer);
        if (*at == NULL && (*at = calloc(1, sizeof **at)) != NULL)
            (*at)->peer = op->peer;
        if (*at != NULL) {
            (*at)->count++;
            (*at)->bytes += op->bytes;
        }
    }
    ledger_submit(s->ledger, &op->op);
}

static bool is_storage_error(enum err e)
{
    return e == ERR_IO || e == ERR_FULL || e == ERR_FORMAT || e == ERR_NOMEM;
}

void server_op_free(struct server_op *op)
{
    struct server *s = op->s;
    if (op->bytes > 0) {
        s->pending_bytes -= op->bytes;
        struct pending **at = op->client ? find_pending(s, &op->peer) : NULL;
        if (at != NULL && *at != NULL) {
            (*at)->bytes -= min_u64((*at)->bytes, op->bytes);
            if (--(*at)->count == 0) {
                struct pending *gone = *at;
                *at = gone->next;
                free(gone);
            }
        }
        if (is_storage_error(op->op.err)) {
            if (s->storage_bad_ns == 0)
                log_error("%s: nothing is acknowledged or granted until it works again",
                          op->op.why.text);
            s->storage_bad_ns = s->now_ns;
            s->storage_why = op->op.why;
        } else if (s->storage_bad_ns != 0 && op->op.err == ERR_OK && op->op.kind != LEDGER_FETCH &&
                   op->op.kind != LEDGER_GRANT && op->op.kind != LEDGER_RETURN &&
                   op->op.kind != LEDGER_BARRIER) {
            /* Only what is synced shows it. The note of a failed grant's return may well be
             * written on a full disk: taken for a recovery, the next grant would follow at once. */
            log_info("the ledger works again");
            s->storage_bad_ns = 0;
        }
    }
    arena_free(&op->op.arena);
    free(op);
}

/* Grants pause for a while after a failure: results could not be stored. */
bool server_storage_works(const struct server *s)
{
    return s->storage_bad_ns == 0 || s->now_ns - s->storage_bad_ns > STORAGE_RETRY_MS * NS_PER_MS;
}

bool server_copy(struct arena *arena, struct str *text)
{
    const char *copy = arena_copy(arena, text->data == NULL ? "" : text->data, text->len);
    if (copy == NULL)
        return false;
    text->data = copy;
    return true;
}

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

/* ---- the jobs' notes in the ledger ---- */

static void note_done(struct ledger_op *op)
{
    server_op_free((struct server_op *)op);
}

void server_write_returned(void *user, const struct job *job, bool counted, const char *reason)
{
    struct server *s = user;
    struct server_op *op = server_op_new(s, NULL, LEDGER_RETURN, note_done);
    bool poison = job->state == JOB_POISONED;
    if (counted)
        log_warn("lease lost, %s batch=%s line=%llu attempt=%u reason=\"%s\"",
                 poison ? "giving up" : "requeueing", job->batch->name,
                 (unsigned long long)job->line, (unsigned)job->attempts, reason);
    if (op == NULL)
        return; /* the note only matters after a restart */
    op->op.returned.job = job->id;
    op->op.returned.attempts = job->attempts;
    op->op.returned.counted = counted;
    op->op.returned.reason = str_of(reason);
    if (!server_copy(&op->op.arena, &op->op.returned.reason)) {
        server_op_free(op);
        return;
    }
    server_op_submit(op, op->op.returned.reason.len);
}

void server_batch_changed(struct server *s, struct batch *b)
{
    const struct batch_counts *c = &b->counts;
    (void)s;
    if (b->sealed && c->total == c->done + c->failed + c->cancelled)
        log_info("batch completed batch=%s lines=%llu done=%llu failed=%llu cancelled=%llu",
                 b->name, (unsigned long long)c->total, (unsigned long long)c->done,
                 (unsigned long long)c->failed, (unsigned long long)c->cancelled);
}

/* A job whose attempts are used up gets its result from us. */
static void poison_done(struct ledger_op *ledger_op)
{
    struct server_op *op = (struct server_op *)ledger_op;
    struct server *s = op->s;
    struct ledger_result *r = &ledger_op->results.items[0];
    struct job *job = jobs_find(s->jobs, r->job);
    if (ledger_op->err != ERR_OK) {
        jobs_store_failed(s->jobs, r->job, r->epoch, 0);
    } else if (job != NULL) {
        struct batch *b = job->batch;
        jobs_finished(s->jobs, r->job);
        if (r->ret_outcome == 0) {
            b->counts.failed++;
            b->counts.last_finished_ms = ledger_op->now_ms;
            server_batch_changed(s, b);
        }
    }
    server_op_free(op);
}

static bool store_poison(struct server *s, struct job *job)
{
    struct server_op *op = server_op_new(s, NULL, LEDGER_RESULTS, poison_done);
    struct ledger_result *r = op == NULL ? NULL : arena_alloc(&op->op.arena, 1, sizeof *r);
    struct buf body = {0};
    char text[3500];
    snprintf(text, sizeof text, "poison: given up after %u attempts (%s)", (unsigned)job->attempts,
             jobs_history(job));
    struct rec_OUTPUT output = {.status_code = 500,
                                .error_message = str_of(text),
                                .error_type = STR_LIT("server_error"),
                                .error_code = STR_LIT("poison")};
    struct err_msg why = {{0}};
    if (r == NULL || proto_encode_output(&output, &body, &why) != ERR_OK) {
        log_error("cannot fail a job now, trying again batch=%s line=%llu %s", job->batch->name,
                  (unsigned long long)job->line, why.text);
    } else {
        *r = (struct ledger_result){.job = job->id,
                                    .epoch = job->epoch,
                                    .accept = true,
                                    .failed = true,
                                    .body = {body.data, body.len},
                                    .attempts = job->attempts};
        if (server_copy(&op->op.arena, &r->body)) {
            op->op.results.items = r;
            op->op.results.count = 1;
            jobs_result(s->jobs, job->id, job->epoch);
            server_op_submit(op, r->body.len);
            op = NULL;
        }
    }
    buf_free(&body);
    bool sent = op == NULL;
    if (!sent)
        server_op_free(op);
    return sent;
}

void server_store_poisoned(struct server *s)
{
    for (int i = 0; i < MAX_GRANT_JOBS; i++) {
        struct job *job = jobs_poisoned(s->jobs);
        if (job == NULL || !store_poison(s, job))
            break;
    }
}

/* ---- the loop ---- */

static void on_timer(uv_timer_t *timer)
{
    struct server *s = timer->data;
    s->now_ns = clock_mono_ns();
    uint64_t gap_ns = s->now_ns - s->last_tick_ns;
    s->last_tick_ns = s->now_ns;
    if (gap_ns > s->o.heartbeat_ms * NS_PER_MS) {
        /* we stood still (stopped, swapped out): the beats of that time are still in the socket */
        log_warn("the broker stood still, leases go on ms=%llu",
                 (unsigned long long)(gap_ns / NS_PER_MS));
        worker_stood_still(s, gap_ns);
        return;
    }
    jobs_expire(s->jobs, s->now_ns);
    worker_tick(s);
    worker_feed(s);
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

static void wake_loop(void *user)
{
    struct server *s = user;
    uv_async_send(&s->wake);
}

static void on_message(void *user, const struct proto_peer *from, const struct msg *m)
{
    struct server *s = user;
    s->now_ns = clock_mono_ns();
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

/* ---- open ---- */

static enum err load_batch(void *user, const struct ledger_batch *b, const uint64_t counts[4],
                           uint64_t prompt_tokens, uint64_t completion_tokens,
                           uint64_t last_finished_ms)
{
    struct server *s = user;
    char *name = strndup(b->name.data == NULL ? "" : b->name.data, b->name.len);
    char *model = strndup(b->model.data == NULL ? "" : b->model.data, b->model.len);
    struct batch like = {.id = b->id,
                         .name = name,
                         .model = model,
                         .created_ms = b->created_ms,
                         .sealed_ms = b->sealed_ms,
                         .sealed = b->sealed_ms != 0,
                         .cancelled = b->cancelled,
                         .priority = (uint32_t)min_u64(b->priority, 255),
                         .max_attempts = (uint32_t)max_u64(1, min_u64(b->max_attempts, 100))};
    like.counts.total = counts[0] + counts[1] + counts[2] + counts[3];
    like.counts.done = counts[LEDGER_DONE];
    like.counts.failed = counts[LEDGER_FAILED];
    like.counts.cancelled = counts[LEDGER_CANCELLED];
    like.counts.prompt_tokens = prompt_tokens;
    like.counts.completion_tokens = completion_tokens;
    like.counts.last_finished_ms = last_finished_ms;
    struct batch *added;
    enum err e = name == NULL || model == NULL ? ERR_NOMEM : jobs_add_batch(s->jobs, &like, &added);
    free(name);
    free(model);
    return e;
}

static enum err load_job(void *user, uint64_t batch, uint64_t job, uint64_t line,
                         uint64_t body_bytes, uint64_t attempts, uint64_t epoch, bool leased)
{
    struct server *s = user;
    struct batch *b = jobs_batch(s->jobs, batch);
    if (b == NULL)
        return ERR_FORMAT;
    /* two beats: the time a worker that lived through our restart needs to say what it holds */
    struct job like = {.id = job,
                       .line = line,
                       .body_bytes = (uint32_t)min_u64(body_bytes, UINT32_MAX),
                       .attempts = (uint8_t)min_u64(attempts, UINT8_MAX),
                       .epoch = epoch,
                       .state = leased ? JOB_LEASED : JOB_SUBMITTED,
                       .expires_ns = s->now_ns + 2 * s->o.heartbeat_ms * NS_PER_MS};
    return jobs_add(s->jobs, b, &like);
}

static enum err load_attempt(void *user, uint64_t job, const char *reason)
{
    struct server *s = user;
    struct job *found = jobs_find(s->jobs, job);
    if (found != NULL && jobs_add_history(s->jobs, found, reason) != ERR_OK)
        log_debug("history of a job not kept job=%llu", (unsigned long long)job);
    return ERR_OK;
}

static enum err check_endpoint(const struct server_options *o, struct err_msg *why)
{
    enum err e = proto_endpoint_check(o->endpoint, why);
    if (e != ERR_OK || o->insecure || strncmp(o->endpoint, "tcp://", 6) != 0)
        return e;
    const char *host = o->endpoint + 6;
    if (strncmp(host, "localhost:", 10) == 0 || strncmp(host, "[::1]:", 6) == 0)
        return ERR_OK;
    char address[64];
    struct in_addr parsed;
    const char *colon = strrchr(host, ':');
    size_t len = colon == NULL ? strlen(host) : (size_t)(colon - host);
    snprintf(address, sizeof address, "%.*s", (int)min_u64(len, 63), host);
    if (inet_pton(AF_INET, address, &parsed) == 1 && ntohl(parsed.s_addr) >> 24 == 127)
        return ERR_OK;
    return err_set(
        why, ERR_USAGE,
        "--listen %s: anybody who reaches this address could read and change batches; give "
        "tcp://127.0.0.1:PORT or ipc://PATH, or --insecure on a network you trust",
        o->endpoint);
}

static void free_server(struct server *s)
{
    worker_free_sessions(s);
    jobs_destroy(&s->jobs);
    while (s->pendings != NULL) {
        struct pending *next = s->pendings->next;
        free(s->pendings);
        s->pendings = next;
    }
    free(s);
}

static void on_handle_closed(uv_handle_t *handle)
{
    struct server *s = handle->data;
    if (--s->open_handles == 0)
        free_server(s);
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
    static const struct jobs_events events = {.on_returned = server_write_returned};
    e = jobs_create(ledger_generation(s->ledger), &events, s, &s->jobs);
    if (e != ERR_OK)
        return err_set(why, e, "out of memory");
    s->started_ns = s->last_tick_ns = s->now_ns = clock_mono_ns();
    static const struct ledger_loader loader = {load_batch, load_job, load_attempt};
    return ledger_load(s->ledger, &loader, s, why);
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
    s->timer.data = s->wake.data = s;
    s->open_handles = 2;
    e = open_store(s, why);
    if (e == ERR_OK) {
        struct proto_socket_options so = {.router = true, .endpoint = o->endpoint};
        static const struct proto_socket_events events = {on_message, on_garbage};
        e = proto_socket_open(loop, &so, &events, s, &s->socket, why);
    }
    if (e != ERR_OK) {
        server_close(&s);
        return e;
    }
    /* a large ledger takes long to load: the time to claim leases begins now */
    s->last_tick_ns = clock_mono_ns();
    jobs_delay(s->jobs, s->last_tick_ns - s->now_ns);
    s->now_ns = s->last_tick_ns;
    uint64_t tick_ms = max_u64(10, min_u64(250, o->heartbeat_ms / 4));
    uv_timer_start(&s->timer, on_timer, tick_ms, tick_ms);
    log_info("broker started listen=%s ledger=%s id=%s generation=%u unfinished=%zu", o->endpoint,
             o->ledger_path, ledger_id(s->ledger), ledger_generation(s->ledger),
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
    /* everything that is queued is committed, and its acknowledgements go out, before the socket
     * closes */
    ledger_close(&s->ledger);
    if (s->socket != NULL)
        proto_socket_close(&s->socket, LINGER_MS);
    uv_close((uv_handle_t *)&s->timer, on_handle_closed);
    uv_close((uv_handle_t *)&s->wake, on_handle_closed);
}
