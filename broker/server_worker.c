/* Workers: sessions, leases, grants, results. What a lease is lives in jobs.h, the wording of the
 * messages in proto/messages.h. */
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/size.h"
#include "base/utf8.h"
#include "broker/server_internal.h"

static void free_session(struct session *w)
{
    arena_free(&w->arena);
    free(w);
}

void worker_free_sessions(struct server *s)
{
    while (s->sessions != NULL) {
        struct session *next = s->sessions->next;
        free_session(s->sessions);
        s->sessions = next;
    }
}

static bool same_peer(const struct proto_peer *a, const struct proto_peer *b)
{
    return a->len == b->len && memcmp(a->id, b->id, a->len) == 0;
}

static struct session *find_session(struct server *s, uint64_t number)
{
    for (struct session *w = s->sessions; w != NULL; w = w->next) {
        if (w->number == number && w->state != SESSION_LOST)
            return w;
    }
    return NULL;
}

static void unlink_session(struct server *s, struct session *w)
{
    struct session **at = &s->sessions;
    while (*at != w)
        at = &(*at)->next;
    *at = w->next;
}

static void lose_session(struct server *s, struct session *w, const char *reason)
{
    w->state = SESSION_LOST;
    size_t jobs = jobs_release_owner(s->jobs, w->number, true, reason);
    log_warn("worker lost, its jobs go to others worker=%s jobs=%zu reason=\"%s\"", w->worker, jobs,
             reason);
}

void worker_tick(struct server *s)
{
    for (struct session *w = s->sessions, *next; w != NULL; w = next) {
        next = w->next;
        uint64_t silent_ms = (s->now_ns - w->seen_ns) / NS_PER_MS;
        if (w->state != SESSION_LOST && silent_ms > MISSED_BEATS * s->o.heartbeat_ms) {
            lose_session(s, w, "worker silent for three heartbeats");
        } else if (w->state == SESSION_LOST && silent_ms > SHOW_LOST_MS) {
            unlink_session(s, w);
            free_session(w);
        } else if (w->lost_result_ns != 0 && server_storage_works(s) &&
                   s->now_ns - w->lost_result_ns > NS_PER_S) {
            /* a new HELLO makes it send again what we could not store */
            struct msg m = {.type = MSG_TYPE_RECONNECT};
            m.reconnect.reason =
                STR_LIT("the ledger had trouble: say HELLO and send results again");
            w->lost_result_ns = s->now_ns; /* once a second, until the HELLO comes */
            server_send(s, &w->peer, &m);
        }
    }
}

void worker_stood_still(struct server *s, uint64_t gap_ns)
{
    for (struct session *w = s->sessions; w != NULL; w = w->next) {
        if (w->state != SESSION_LOST)
            w->seen_ns = min_u64(w->seen_ns + gap_ns, s->now_ns);
    }
    jobs_delay(s->jobs, gap_ns);
}

/* ---- HELLO ---- */

static char *copy_text(struct session *w, struct str text)
{
    return arena_copy(&w->arena, text.data == NULL ? "" : text.data, text.len);
}

static struct session *new_session(struct server *s, const struct proto_peer *from,
                                   const struct msg_hello *h)
{
    struct session *w = calloc(1, sizeof *w);
    if (w == NULL)
        return NULL;
    w->number = (uint64_t)ledger_generation(s->ledger) << 32 | ++s->last_session;
    w->peer = *from;
    w->seen_ns = s->now_ns;
    w->worker = copy_text(w, h->worker);
    w->host = copy_text(w, h->host);
    w->device = copy_text(w, h->device);
    w->numeric_class = copy_text(w, h->numeric_class);
    w->models = arena_alloc(&w->arena, 2 * h->models.count, sizeof *w->models);
    bool whole = w->worker != NULL && w->host != NULL && w->device != NULL &&
                 w->numeric_class != NULL && w->models != NULL;
    for (size_t i = 0; i < h->models.count && whole; i++) {
        w->models[w->model_count++] = copy_text(w, h->models.items[i].name);
        w->models[w->model_count++] = copy_text(w, h->models.items[i].hash);
        whole = w->models[2 * i] != NULL && w->models[2 * i + 1] != NULL;
    }
    if (!whole) {
        free_session(w);
        return NULL;
    }
    return w;
}

/* Takes over the leases it still holds. *ret_old: the worker's earlier session, unlinked; NULL:
 * none. */
static size_t claim_held(struct server *s, struct session *w, const struct msg_hello *h,
                         struct rec_JOB_REF *lost, struct session **ret_old)
{
    struct session *old = NULL;
    size_t lost_count = 0;
    for (struct session *o = s->sessions, *next; o != NULL; o = next) {
        next = o->next;
        if (strcmp(o->worker, w->worker) != 0)
            continue;
        unlink_session(s, o);
        if (old != NULL)
            free_session(old);
        old = o;
    }
    uint64_t old_number = old == NULL ? 0 : old->number;
    for (size_t i = 0; i < h->holding.count; i++) {
        const struct rec_JOB_REF *ref = &h->holding.items[i];
        if (!jobs_claim(s->jobs, ref->job, ref->epoch, w->number, old_number,
                        server_lease_end_ns(s)))
            lost[lost_count++] = *ref;
    }
    *ret_old = old;
    return lost_count;
}

static void hello(struct server *s, const struct proto_peer *from, const struct msg_hello *h)
{
    size_t sessions = 0;
    for (struct session *w = s->sessions; w != NULL; w = w->next)
        sessions++;
    if (h->worker.len == 0 || h->models.count == 0) {
        server_error(s, from, 0, "bad_message", "HELLO: a worker needs a name and a model", 0);
        return;
    }
    struct session *w = sessions >= MAX_SESSIONS ? NULL : new_session(s, from, h);
    struct rec_JOB_REF *lost = calloc(h->holding.count + 1, sizeof *lost);
    if (w == NULL || lost == NULL) {
        server_error(s, from, 0, "full", "HELLO: no room for one more worker, try again later", 0);
        if (w != NULL)
            free_session(w);
        free(lost);
        return;
    }
    struct session *old = NULL;
    size_t lost_count = claim_held(s, w, h, lost, &old);
    w->next = s->sessions;
    s->sessions = w;
    log_info("worker connected worker=%s host=%s device=\"%s\" model=%s class=\"%s\" holding=%zu "
             "lost=%zu",
             w->worker, w->host, w->device, w->models[0], w->numeric_class, h->holding.count,
             lost_count);
    if (old != NULL) {
        w->replaced = same_peer(&old->peer, from) ? old->replaced : old->peer;
        if (old->state != SESSION_LOST) {
            /* who still holds leases has not died: the others never reached it, and cost nothing */
            bool died = h->holding.count == 0;
            size_t jobs = jobs_release_owner(s->jobs, old->number, died,
                                             died ? "worker restarted" : "grant not received");
            if (jobs > 0)
                log_warn("worker said HELLO anew, jobs it does not hold go on worker=%s jobs=%zu",
                         w->worker, jobs);
        }
        free_session(old);
    }
    struct msg m = {.type = MSG_TYPE_WELCOME};
    m.welcome.broker = str_of(ledger_id(s->ledger));
    m.welcome.session = w->number;
    m.welcome.heartbeat_ms = s->o.heartbeat_ms;
    m.welcome.lease_ms = s->o.lease_ms;
    m.welcome.lost.items = lost;
    m.welcome.lost.count = lost_count;
    server_send(s, from, &m);
    free(lost);
}

/* ---- grants ---- */

static bool session_has_model(void *user, const char *model)
{
    const struct session *w = user;
    for (size_t i = 0; i < w->model_count; i++) {
        if (strcmp(w->models[i], model) == 0)
            return true;
    }
    return false;
}

static void send_grant(struct server *s, struct session *w, struct ledger_op *op)
{
    struct rec_GRANT_JOB jobs[MAX_GRANT_JOBS];
    struct msg m = {.type = MSG_TYPE_GRANT};
    m.grant.session = w->number;
    m.grant.jobs.items = jobs;
    for (size_t i = 0; i < op->grant.count; i++) {
        const struct ledger_grant *g = &op->grant.items[i];
        struct job *job = jobs_find(s->jobs, g->job);
        /* cancelled, or lost with a session, while the body was on its way */
        if (job == NULL || job->state != JOB_LEASED || job->epoch != g->epoch ||
            job->owner != w->number) {
            w->granted--;
            continue;
        }
        jobs[m.grant.jobs.count++] = (struct rec_GRANT_JOB){.job = job->id,
                                                            .epoch = job->epoch,
                                                            .attempt = job->attempts + 1u,
                                                            .batch = str_of(job->batch->name),
                                                            .line = job->line,
                                                            .custom_id = g->ret_custom_id,
                                                            .model = str_of(job->batch->model),
                                                            .body = g->ret_body,
                                                            .checkpoint = jobs_checkpoint(job)};
    }
    if (m.grant.jobs.count == 0)
        return;
    struct err_msg why;
    if (proto_socket_send(s->socket, &w->peer, &m, &why) == ERR_OK)
        return;
    log_warn("grant not sent, requeueing worker=%s jobs=%zu error=\"%s\"", w->worker,
             m.grant.jobs.count, why.text);
    for (size_t i = 0; i < m.grant.jobs.count; i++)
        jobs_release(s->jobs, jobs[i].job, jobs[i].epoch, w->number, false, "grant not sent");
    w->stalled = true; /* it keeps its other leases, and counts credits anew with its next HELLO */
}

static void grant_done(struct ledger_op *ledger_op)
{
    struct server_op *op = (struct server_op *)ledger_op;
    struct server *s = op->s;
    struct session *w = find_session(s, op->session);
    if (w != NULL)
        w->loading = false;
    if (ledger_op->err != ERR_OK || s->closing) {
        for (size_t i = 0; i < ledger_op->grant.count; i++)
            jobs_release(s->jobs, ledger_op->grant.items[i].job, ledger_op->grant.items[i].epoch,
                         op->session, false, "not granted: the ledger could not load it");
        if (w != NULL)
            w->granted -= min_u64(w->granted, ledger_op->grant.count);
    } else if (w != NULL) {
        send_grant(s, w, ledger_op);
    }
    server_op_free(op);
}

static void feed_session(struct server *s, struct session *w)
{
    if (w->state != SESSION_READY || w->stalled || w->loading || w->granted >= w->credit_total)
        return;
    struct job *jobs[MAX_GRANT_JOBS];
    struct jobs_want want = {.owner = w->number,
                             .has_model = session_has_model,
                             .user = w,
                             .max_jobs = min_u64(w->credit_total - w->granted, MAX_GRANT_JOBS),
                             .max_bytes = MAX_REPLY_BYTES,
                             .expires_ns = server_lease_end_ns(s)};
    struct server_op *op = server_op_new(s, &w->peer, LEDGER_GRANT, grant_done);
    if (op == NULL)
        return;
    struct ledger_grant *items = arena_alloc(&op->op.arena, want.max_jobs, sizeof *items);
    size_t count = items == NULL ? 0 : jobs_lease(s->jobs, &want, jobs);
    if (count == 0) {
        server_op_free(op);
        return;
    }
    size_t bytes = 0;
    for (size_t i = 0; i < count; i++) {
        items[i] = (struct ledger_grant){.job = jobs[i]->id, .epoch = jobs[i]->epoch};
        bytes += jobs[i]->body_bytes;
    }
    op->session = w->number;
    op->op.grant.items = items;
    op->op.grant.count = count;
    w->granted += count;
    w->loading = true;
    server_op_submit(op, bytes);
}

void worker_feed(struct server *s)
{
    if (!server_storage_works(s) || s->closing || s->pending_bytes > MAX_PENDING_BYTES)
        return;
    server_store_poisoned(s);
    for (struct session *w = s->sessions; w != NULL; w = w->next)
        feed_session(s, w);
}

/* ---- results ---- */

static void results_done(struct ledger_op *ledger_op)
{
    struct server_op *op = (struct server_op *)ledger_op;
    struct server *s = op->s;
    struct session *w = find_session(s, op->session);
    size_t count = ledger_op->results.count;
    if (ledger_op->err != ERR_OK) {
        for (size_t i = 0; i < count; i++)
            jobs_store_failed(s->jobs, ledger_op->results.items[i].job,
                              ledger_op->results.items[i].epoch, server_lease_end_ns(s));
        if (w != NULL)
            w->lost_result_ns = s->now_ns;
        server_op_free(op);
        return;
    }
    struct msg m = {.type = MSG_TYPE_ACKS};
    struct rec_ACK *acks = arena_alloc(&ledger_op->arena, count, sizeof *acks);
    for (size_t i = 0; i < count; i++) {
        const struct ledger_result *r = &ledger_op->results.items[i];
        if (acks != NULL)
            acks[i] = (struct rec_ACK){.job = r->job, .epoch = r->epoch, .outcome = r->ret_outcome};
        struct job *job = r->accept ? jobs_find(s->jobs, r->job) : NULL;
        struct batch *b = job == NULL ? NULL : job->batch;
        if (r->accept)
            jobs_finished(s->jobs, r->job);
        if (r->ret_outcome != 0 || b == NULL)
            continue;
        *(r->failed ? &b->counts.failed : &b->counts.done) += 1;
        b->counts.prompt_tokens += r->prompt_tokens;
        b->counts.completion_tokens += r->completion_tokens;
        b->counts.last_finished_ms = ledger_op->now_ms;
        if (w != NULL)
            w->done++;
        server_batch_changed(s, b);
    }
    if (acks != NULL) { /* without memory for the reply the worker sends again */
        m.acks.acks.items = acks;
        m.acks.acks.count = count;
        server_send(s, &op->peer, &m);
    }
    server_op_free(op);
}

static void results(struct server *s, struct session *w, const struct msg_results *m)
{
    if (m->results.count == 0)
        return;
    struct server_op *op = server_op_new(s, &w->peer, LEDGER_RESULTS, results_done);
    size_t count = m->results.count, bytes = 0;
    struct ledger_result *items =
        op == NULL ? NULL : arena_alloc(&op->op.arena, count, sizeof *items);
    bool room = items != NULL && s->pending_bytes <= MAX_PENDING_BYTES;
    for (size_t i = 0; i < count && room; i++) {
        const struct rec_RESULT *r = &m->results.items[i];
        items[i] = (struct ledger_result){.job = r->job,
                                          .epoch = r->epoch,
                                          .failed = r->failed,
                                          .body = r->body,
                                          .prompt_tokens = r->prompt_tokens,
                                          .completion_tokens = r->completion_tokens};
        bytes += r->body.len;
        room = server_copy(&op->op.arena, &items[i].body);
    }
    if (!room) { /* it keeps them, and sends again when told to */
        log_warn("no room for results, the worker has to send them again worker=%s", w->worker);
        w->lost_result_ns = s->now_ns;
        if (op != NULL)
            server_op_free(op);
        return;
    }
    for (size_t i = 0; i < count; i++) {
        struct job *job = jobs_find(s->jobs, items[i].job);
        items[i].attempts = job == NULL ? 0 : job->attempts + 1u;
        items[i].accept = jobs_result(s->jobs, items[i].job, items[i].epoch) == JOBS_ACCEPT;
    }
    op->session = w->number;
    op->op.results.items = items;
    op->op.results.count = count;
    server_op_submit(op, bytes);
}

/* ---- BEAT, NACK, BYE ---- */

#define COPY_FIELD(kind, name, limit, need, doc) w->headroom.name = m->name;

static void beat(struct server *s, struct session *w, const struct msg_beat *m)
{
    HEADROOM_FIELDS(COPY_FIELD)
    if (m->draining && w->state == SESSION_READY) {
        w->state = SESSION_DRAINING;
        log_info("worker drains, it gets no more jobs worker=%s", w->worker);
    }
    struct rec_JOB_REF *cancel = calloc(m->running.count + 1, sizeof *cancel);
    struct msg reply = {.type = MSG_TYPE_BEAT_OK};
    reply.beat_ok.session = w->number;
    reply.beat_ok.cancel.items = cancel;
    for (size_t i = 0; i < m->running.count; i++) {
        const struct rec_RUNNING *r = &m->running.items[i];
        if (!jobs_claim(s->jobs, r->job, r->epoch, w->number, 0, server_lease_end_ns(s))) {
            if (cancel != NULL)
                cancel[reply.beat_ok.cancel.count++] = (struct rec_JOB_REF){r->job, r->epoch};
            continue;
        }
        struct job *job = jobs_find(s->jobs, r->job);
        job->running_tokens = (uint32_t)min_u64(r->completion_tokens, UINT32_MAX);
        jobs_keep_checkpoint(s->jobs, job, r->checkpoint);
    }
    server_send(s, &w->peer, &reply);
    free(cancel);
}

static void nack(struct server *s, struct session *w, const struct msg_nack *m)
{
    for (size_t i = 0; i < m->jobs.count; i++) {
        const struct rec_NACK_JOB *n = &m->jobs.items[i];
        char reason[512];
        snprintf(reason, sizeof reason, "handed back by %s: %.*s", w->worker,
                 (int)min_u64(n->reason.len, 300), n->reason.len == 0 ? "" : n->reason.data);
        /* cut inside a character it could not stand in the result of a poisoned job */
        reason[utf8_valid_prefix(reason, strlen(reason))] = '\0';
        struct job *job = jobs_find(s->jobs, n->job);
        if (job != NULL && job->epoch == n->epoch && job->owner == w->number)
            jobs_keep_checkpoint(s->jobs, job, n->checkpoint);
        jobs_release(s->jobs, n->job, n->epoch, w->number, n->counts, reason);
    }
}

static void bye_done(struct ledger_op *ledger_op)
{
    struct server_op *op = (struct server_op *)ledger_op;
    struct server *s = op->s;
    struct session *w = find_session(s, op->session);
    if (ledger_op->err == ERR_OK && w != NULL && w->lost_result_ns == 0) {
        struct msg m = {.type = MSG_TYPE_BYE_OK};
        m.bye_ok.session = w->number;
        server_send(s, &op->peer, &m);
        size_t jobs = jobs_release_owner(s->jobs, w->number, false, "worker left");
        log_info("worker left worker=%s done=%llu jobs_back=%zu", w->worker,
                 (unsigned long long)w->done, jobs);
        unlink_session(s, w);
        free_session(w);
    }
    server_op_free(op);
}

static void bye(struct server *s, struct session *w)
{
    w->state = SESSION_DRAINING;
    struct server_op *op = server_op_new(s, &w->peer, LEDGER_BARRIER, bye_done);
    if (op == NULL)
        return;
    op->session = w->number;
    server_op_submit(op, 0);
}

/* ---- dispatch ---- */

static void pull(struct session *w, const struct msg_pull *m)
{
    HEADROOM_FIELDS(COPY_FIELD)
    w->credit_total = max_u64(w->credit_total, m->credit_total);
}

static uint64_t session_number(const struct msg *m)
{
    switch (m->type) {
    case MSG_TYPE_PULL:
        return m->pull.session;
    case MSG_TYPE_RESULTS:
        return m->results.session;
    case MSG_TYPE_BEAT:
        return m->beat.session;
    case MSG_TYPE_NACK:
        return m->nack.session;
    case MSG_TYPE_BYE:
        return m->bye.session;
    default:
        return 0;
    }
}

/* The session that took over from this connection. A worker has one connection at a time, and an
 * answer on a dead one reaches nobody: who hears this is a second, living worker of that name. The
 * two would take each other's jobs away for ever, and use up their attempts. */
static const struct session *find_twin(const struct server *s, const struct proto_peer *from)
{
    for (const struct session *w = s->sessions; w != NULL; w = w->next) {
        if (w->state != SESSION_LOST && from->len > 0 && same_peer(&w->replaced, from))
            return w;
    }
    return NULL;
}

void worker_message(struct server *s, const struct proto_peer *from, const struct msg *m)
{
    const struct session *twin = find_twin(s, from);
    if (twin != NULL) {
        char text[PROTO_MAX_ID_BYTES + 100];
        snprintf(text, sizeof text,
                 "another worker has joined under the name %s: give each its own with --name",
                 twin->worker);
        log_warn("two workers of one name, the earlier one is sent away worker=%s host=%s",
                 twin->worker, twin->host);
        server_error(s, from, 0, "conflict", text, 0);
        return;
    }
    if (m->type == MSG_TYPE_HELLO) {
        hello(s, from, &m->hello);
        worker_feed(s);
        return;
    }
    uint64_t number = session_number(m);
    if (number == 0) {
        server_error(s, from, 0, "bad_message", "a message that only the broker sends", 0);
        return;
    }
    struct session *w = find_session(s, number);
    /* a session from another connection: grants to the old one may be lost, so count credits anew
     */
    if (w == NULL || w->stalled || !same_peer(&w->peer, from)) {
        struct msg reply = {.type = MSG_TYPE_RECONNECT};
        reply.reconnect.reason = STR_LIT("session unknown: say HELLO");
        server_send(s, from, &reply);
        return;
    }
    w->seen_ns = s->now_ns;
    if (m->type == MSG_TYPE_PULL)
        pull(w, &m->pull);
    else if (m->type == MSG_TYPE_RESULTS)
        results(s, w, &m->results);
    else if (m->type == MSG_TYPE_NACK)
        nack(s, w, &m->nack);
    else if (m->type == MSG_TYPE_BYE)
        bye(s, w);
    else
        beat(s, w, &m->beat);
    worker_feed(s);
}

void worker_problem(const struct server *s, const struct batch *b, struct err_msg *ret)
{
    size_t connected = 0, ready = 0, able = 0;
    ret->text[0] = '\0';
    if (s->storage_bad_ns != 0) {
        err_set(ret, ERR_OK, "storage: %s", s->storage_why.text);
        return;
    }
    if (b->heap_len == 0 || b->leased > 0)
        return;
    const char *other = "";
    for (struct session *w = s->sessions; w != NULL; w = w->next) {
        if (w->state == SESSION_LOST)
            continue;
        bool has = b->model[0] == '\0' || session_has_model(w, b->model);
        connected++;
        able += has;
        ready += has && w->state == SESSION_READY;
        if (!has)
            other = w->models[0];
    }
    if (connected == 0)
        err_set(ret, ERR_OK, "no worker is connected");
    else if (able == 0)
        err_set(ret, ERR_OK, "no worker has model %s (one has %s)", b->model, other);
    else if (ready == 0)
        err_set(ret, ERR_OK, "all workers are draining");
}
