/* Workers: leases, results, heartbeats; sessions are in server_session.c, grants in server_grant.c.
 * What a lease is lives in jobs.h, the wording of the messages in proto/messages.h. */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/size.h"
#include "base/utf8.h"
#include "broker/headroom.h"
#include "broker/server_internal.h"

/* ---- results ---- */

/* How fast a job is done there, queueing included. */
static void learn_rate(const struct server *s, struct session *w, const struct job *job,
                       const struct ledger_result *r)
{
    double seconds = jobs_lease_s(s->jobs, job);
    if (w == NULL || job->tokens == 0 || seconds <= 0)
        return;
    double rate = (double)(r->prompt_tokens + r->completion_tokens) / seconds;
    w->job_tokens_per_s = w->job_tokens_per_s == 0 ? rate : w->job_tokens_per_s * 0.9 + rate * 0.1;
}

static void results_done(struct ledger_op *ledger_op)
{
    struct server_op *op = (struct server_op *)ledger_op;
    struct server *s = op->s;
    struct session *w = worker_find_session(s, op->session);
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
        if (r->accept && b != NULL && r->ret_outcome == 0) {
            learn_rate(s, w, job, r);
            jobs_learn(s->jobs, job, r->prompt_tokens, r->completion_tokens);
        }
        if (r->accept)
            jobs_finished(s->jobs, r->job);
        if (r->ret_outcome != 0 || b == NULL)
            continue;
        *(r->failed ? &b->counts.failed : &b->counts.done) += 1;
        b->counts.prompt_tokens += r->prompt_tokens;
        b->counts.completion_tokens += r->completion_tokens;
        b->counts.energy_uj += r->energy_uj;
        b->counts.energy_jobs += r->energy_uj > 0;
        b->counts.last_finished_ms = ledger_op->now_ms;
        rate_count(&b->rate, s->now_ns, 1);
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

/* What a worker says may be anything: more than a megawatt-hour for a job is unknown, too. */
static uint64_t microjoules(double joules)
{
    return joules > 0 && joules < 3.6e9 ? (uint64_t)(joules * 1e6) : 0;
}

static void results(struct server *s, struct session *w, const struct msg_results *m)
{
    if (m->results.count == 0)
        return;
    struct server_op *op = server_op_new(s, &w->peer, LEDGER_RESULTS, results_done);
    size_t count = m->results.count, bytes = 0;
    struct ledger_result *items =
        op == NULL ? NULL : arena_alloc(&op->op.arena, count, sizeof *items);
    bool room = items != NULL && server_has_room(s, &w->peer, SIDE_WORKERS);
    for (size_t i = 0; i < count && room; i++) {
        const struct rec_RESULT *r = &m->results.items[i];
        items[i] = (struct ledger_result){.job = r->job,
                                          .epoch = r->epoch,
                                          .failed = r->failed,
                                          .body = r->body,
                                          .prompt_tokens = r->prompt_tokens,
                                          .completion_tokens = r->completion_tokens,
                                          .energy_uj = microjoules(r->energy_j)};
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
        items[i].batch = job == NULL ? 0 : job->batch->id;
        items[i].accept = jobs_result(s->jobs, items[i].job, items[i].epoch) == JOBS_ACCEPT;
    }
    op->session = w->number;
    op->counted = true;
    op->op.results.items = items;
    op->op.results.count = count;
    server_op_submit(op, bytes);
}

/* ---- BEAT, NACK, BYE ---- */

static void heard_headroom(const struct server *s, struct session *w)
{
    double seconds = (double)(s->now_ns - w->told_ns) / (double)NS_PER_S;
    w->best_tokens_per_s =
        headroom_best(w->best_tokens_per_s, w->headroom.decode_tokens_per_s, seconds);
    w->told_ns = s->now_ns;
}

static void beat(struct server *s, struct session *w, const struct msg_beat *m)
{
    PROTO_COPY(HEADROOM_FIELDS, &w->headroom, m);
    heard_headroom(s, w);
    if (m->draining && w->state == SESSION_READY) {
        w->state = SESSION_DRAINING;
        log_info("worker drains, it gets no more jobs worker=%s", w->worker);
        server_event(s, EVENT_WORKER_DRAINING, w->worker, "it gets no more jobs");
    }
    struct rec_JOB_REF *cancel = calloc(m->running.count + 1, sizeof *cancel);
    struct msg reply = {.type = MSG_TYPE_BEAT_OK};
    reply.beat_ok.session = w->number;
    reply.beat_ok.drain = w->leave;
    models_beat(s, w, m->unfetchable, &reply.beat_ok);
    reply.beat_ok.cancel.items = cancel;
    for (size_t i = 0; i < m->running.count; i++) {
        const struct rec_RUNNING *r = &m->running.items[i];
        if (!jobs_claim(s->jobs, r->job, r->epoch, w->number, 0, server_lease_end_ns(s))) {
            if (cancel != NULL)
                cancel[reply.beat_ok.cancel.count++] = (struct rec_JOB_REF){r->job, r->epoch};
            continue;
        }
        struct job *job = jobs_find(s->jobs, r->job);
        if (r->epoch == job->epoch) /* not its twin's */
            job->running_tokens = (uint32_t)min_u64(r->completion_tokens, UINT32_MAX);
        jobs_keep_checkpoint(s->jobs, job, r->checkpoint);
    }
    server_send(s, &w->peer, &reply);
    free(cancel);
}

void worker_drain(struct server *s, const struct proto_peer *from, const struct msg_drain *m)
{
    struct msg reply = {.type = MSG_TYPE_DRAIN_OK};
    reply.drain_ok.seq = m->seq;
    worker_count_leases(s);
    for (struct session *w = s->sessions; w != NULL; w = w->next) {
        bool meant = m->worker.len > 0 ? str_eq(m->worker, str_of(w->worker))
                                       : m->host.len > 0 && str_eq(m->host, str_of(w->host));
        if (!meant || w->state == SESSION_LOST)
            continue;
        reply.drain_ok.workers++;
        reply.drain_ok.jobs += w->leased;
        if (w->leave)
            continue;
        w->leave = true;
        w->state = SESSION_DRAINING;
        log_info("worker asked to leave worker=%s", w->worker);
        server_event(s, EVENT_WORKER_DRAINING, w->worker, "asked to leave");
    }
    if (reply.drain_ok.workers > 0)
        server_send(s, from, &reply);
    else
        server_error(s, from, m->seq, "not_found", "no such worker is connected", 0);
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
        if (job != NULL && job_is_held(job, w->number, n->epoch))
            jobs_keep_checkpoint(s->jobs, job, n->checkpoint);
        jobs_release(s->jobs, n->job, n->epoch, w->number, n->counts, reason);
    }
}

static void bye_done(struct ledger_op *ledger_op)
{
    struct server_op *op = (struct server_op *)ledger_op;
    struct server *s = op->s;
    struct session *w = worker_find_session(s, op->session);
    if (w != NULL)
        w->leaving = false;
    if (ledger_op->err == ERR_OK && w != NULL && w->lost_result_ns == 0) {
        struct msg m = {.type = MSG_TYPE_BYE_OK};
        m.bye_ok.session = w->number;
        server_send(s, &op->peer, &m);
        size_t jobs = jobs_release_owner(s->jobs, w->number, false, "worker left");
        log_info("worker left worker=%s done=%llu jobs_back=%zu", w->worker,
                 (unsigned long long)w->done, jobs);
        server_event(s, EVENT_WORKER_LEFT, w->worker, "%llu results, %zu jobs go to others",
                     (unsigned long long)w->done, jobs);
        worker_end_session(s, w);
    }
    server_op_free(op);
}

static void bye(struct server *s, struct session *w)
{
    w->state = SESSION_DRAINING;
    if (w->leaving) /* the answer is on its way */
        return;
    struct server_op *op = server_op_new(s, &w->peer, LEDGER_BARRIER, bye_done);
    if (op == NULL)
        return;
    w->leaving = true;
    op->session = w->number;
    server_op_submit(op, 0);
}

/* ---- dispatch ---- */

static void pull(const struct server *s, struct session *w, const struct msg_pull *m)
{
    PROTO_COPY(HEADROOM_FIELDS, &w->headroom, m);
    heard_headroom(s, w);
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
    case MSG_TYPE_MODEL_FETCH:
        return m->model_fetch.session;
    default:
        return 0;
    }
}

/* The session that took over from this connection. A worker has one connection at a time, and an
 * answer on a dead one reaches nobody: who hears this is a second, living worker of that name. The
 * two would take each other's jobs away for ever, and use up their attempts. */
static const struct session *find_namesake(const struct server *s, const struct proto_peer *from)
{
    for (const struct session *w = s->sessions; w != NULL; w = w->next) {
        if (w->state != SESSION_LOST && from->len > 0 && worker_same_peer(&w->replaced, from))
            return w;
    }
    return NULL;
}

void worker_message(struct server *s, const struct proto_peer *from, const struct msg *m)
{
    const struct session *other = find_namesake(s, from);
    if (other != NULL) {
        char text[PROTO_MAX_ID_BYTES + 100];
        snprintf(text, sizeof text,
                 "another worker has joined under the name %s: give each its own with --name",
                 other->worker);
        log_warn("two workers of one name, the earlier one is sent away worker=%s host=%s",
                 other->worker, other->host);
        server_event(s, EVENT_WORKER_REFUSED, other->worker, "%s", text);
        server_error(s, from, 0, "conflict", text, 0);
        return;
    }
    if (m->type == MSG_TYPE_HELLO) {
        proto_socket_blame(s->socket); /* good, but rare: not in floods */
        worker_hello(s, from, &m->hello);
        worker_feed(s);
        return;
    }
    uint64_t number = session_number(m);
    if (number == 0) {
        server_refuse(s, from, 0, "a message that only the broker sends", 0);
        return;
    }
    struct session *w = worker_find_any(s, number);
    bool own = w != NULL && worker_same_peer(&w->peer, from);
    /* whose session was given up may still have done the work: the lease's epoch says whether it
     * counts. By its own wire, so that it is of this ledger. */
    if (own && m->type == MSG_TYPE_RESULTS)
        results(s, w, &m->results);
    /* a session from another connection: grants to the old one may be lost, so count credits anew
     */
    if (!own || w->stalled || w->state == SESSION_LOST) {
        struct msg reply = {.type = MSG_TYPE_RECONNECT};
        reply.reconnect.reason = STR_LIT("session unknown: say HELLO");
        server_send(s, from, &reply);
        return;
    }
    w->seen_ns = s->now_ns;
    w->moved_bytes = 0;
    if (m->type == MSG_TYPE_PULL)
        pull(s, w, &m->pull);
    else if (m->type == MSG_TYPE_NACK)
        nack(s, w, &m->nack);
    else if (m->type == MSG_TYPE_BYE)
        bye(s, w);
    else if (m->type == MSG_TYPE_BEAT)
        beat(s, w, &m->beat);
    else if (m->type == MSG_TYPE_MODEL_FETCH)
        chunks_send(s, w, &m->model_fetch);
    worker_feed(s);
}

static void local_time(uint64_t unix_ms, char ret[32])
{
    struct tm local;
    time_t seconds = (time_t)(unix_ms / 1000);
    if (localtime_r(&seconds, &local) == NULL || strftime(ret, 32, "%F %T", &local) == 0)
        snprintf(ret, 32, "%llu", (unsigned long long)seconds);
}

/* Why the batch's own schedule lets nothing start. */
static void schedule_problem(const struct server *s, const struct batch *b, struct err_msg *ret)
{
    const struct rec_SCHEDULE *c = &b->schedule;
    char when[32];
    uint64_t now_ms = s->wall_ms;
    if (batch_may_start(s->jobs, b))
        return;
    if (c->paused) {
        err_set(ret, ERR_OK, "paused: octoflow resume %s goes on", b->name);
    } else if (now_ms < c->not_before_ms) {
        local_time(c->not_before_ms, when);
        err_set(ret, ERR_OK, "starts at %s", when);
    } else if (c->not_after_ms > 0 && now_ms >= c->not_after_ms) {
        local_time(c->not_after_ms, when);
        err_set(ret, ERR_OK, "starts nothing since %s: octoflow change %s --not-after ...", when,
                b->name);
    } else if (c->max_parallel == 0 || b->leased < c->max_parallel) {
        err_set(ret, ERR_OK, "waits for its hours, %02u:%02u to %02u:%02u",
                (unsigned)c->daily_from_min / 60, (unsigned)c->daily_from_min % 60,
                (unsigned)c->daily_until_min / 60, (unsigned)c->daily_until_min % 60);
    }
}

void worker_problem(const struct server *s, const struct batch *b, struct err_msg *ret)
{
    size_t connected = 0, ready = 0;
    ret->text[0] = '\0';
    if (s->storage_bad_ns != 0) {
        err_set(ret, ERR_OK, "storage: %s", s->storage_why.text);
        return;
    }
    if (batch_waiting(b) == 0)
        return;
    schedule_problem(s, b, ret);
    if (ret->text[0] != '\0' || b->leased > 0)
        return;
    if (s->damaged_requests > MAX_DAMAGED_REQUESTS) {
        err_set(ret, ERR_OK,
                "storage: more than %d requests cannot be read: stop the broker, and "
                "octoflow-broker --salvage the ledger",
                MAX_DAMAGED_REQUESTS);
        return;
    }
    for (struct session *w = s->sessions; w != NULL; w = w->next) {
        if (w->state == SESSION_LOST)
            continue;
        bool has = b->model[0] == '\0' || worker_has_model(w, b->model);
        connected++;
        ready += has && w->state == SESSION_READY;
    }
    if (b->model[0] != '\0')
        models_problem(s, b->model, ret);
    if (connected == 0)
        err_set(ret, ERR_OK, "no worker is connected");
    else if (ready == 0 && ret->text[0] == '\0')
        err_set(ret, ERR_OK, "all workers are draining");
}
