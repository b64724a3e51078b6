/* Grants: who has credit is given jobs, with their bodies from the ledger. Which jobs is jobs.h's
 * and suspects.h's business. */
#include <stdlib.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/size.h"
#include "broker/headroom.h"
#include "broker/server_internal.h"
#include "broker/suspects.h"

bool worker_has_model(void *user, const char *model)
{
    const struct session *w = user;
    return models_suits(&w->models[0], model);
}

/* As the worker knows it: what the broker's folder calls the file, it may not. */
static struct str model_for(const struct session *w, const char *model)
{
    bool knows = model[0] == '\0' || strcmp(w->models[0].name, model) == 0;
    return str_of(knows ? model : w->models[0].hash);
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
        /* cancelled, or lost with a session, while the body was on its way; or not readable */
        if (job == NULL || !job_is_held(job, w->number, g->epoch)) {
            w->granted--;
            continue;
        }
        jobs[m.grant.jobs.count++] =
            (struct rec_GRANT_JOB){.job = job->id,
                                   .epoch = g->epoch,
                                   .attempt = job->attempts + 1u,
                                   .batch = str_of(job->batch->name),
                                   .line = job->line,
                                   .custom_id = g->ret_custom_id,
                                   .model = model_for(w, job->batch->model),
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

void worker_withdraw_grant(struct server *s, struct session *w, const char *reason)
{
    const struct ledger_op *op = w->grant == NULL ? NULL : &w->grant->op;
    for (size_t i = 0; op != NULL && i < op->grant.count; i++)
        jobs_release(s->jobs, op->grant.items[i].job, op->grant.items[i].epoch, w->number, false,
                     reason);
    w->grant = NULL;
}

static void grant_done(struct ledger_op *ledger_op)
{
    struct server_op *op = (struct server_op *)ledger_op;
    struct server *s = op->s;
    struct session *w = worker_find_session(s, op->session);
    if (w != NULL)
        w->grant = NULL;
    if (ledger_op->err != ERR_OK || s->closing) {
        for (size_t i = 0; i < ledger_op->grant.count; i++)
            jobs_release(s->jobs, ledger_op->grant.items[i].job, ledger_op->grant.items[i].epoch,
                         op->session, false, "not granted: the ledger could not load it");
        if (w != NULL)
            w->granted -= min_u64(w->granted, ledger_op->grant.count);
    } else {
        for (size_t i = 0; i < ledger_op->grant.count; i++) {
            if (ledger_op->grant.items[i].ret_err != ERR_OK)
                server_unreadable(s, &ledger_op->grant.items[i], op->session);
        }
        if (w != NULL)
            send_grant(s, w, ledger_op);
    }
    server_op_free(op);
}

/* Now and then, when notes of grants have become many, the ledger is given all that is leased, and
 * forgets the others. Without memory for it: another time. */
static void note_held(struct server *s, struct ledger_op *op)
{
    if (s->lease_notes++ < MAX_LEASE_NOTES)
        return;
    size_t count = 0, at = 0;
    for (const struct batch *b = jobs_first_batch(s->jobs); b != NULL; b = b->next)
        count += 2 * b->leased;
    struct rec_JOB_REF *held = arena_alloc(&op->arena, count, sizeof *held);
    if (held == NULL)
        return;
    for (int state = JOB_LEASED; state <= JOB_STORING; state++) {
        const struct job *job = jobs_first(s->jobs, (enum job_state)state);
        for (; job != NULL; job = job->next) {
            held[at++] = (struct rec_JOB_REF){job->id, job->epoch};
            if (job_twin(job) != NULL)
                held[at++] = (struct rec_JOB_REF){job->id, job_twin(job)->epoch};
        }
    }
    op->grant.held = held;
    op->grant.held_count = at;
    s->lease_notes = 0;
}

struct job_rates {
    struct job_rate {
        uint64_t owner;
        double tokens_per_s;
    } * items; /* by owner */
    size_t count;
};

/* items NULL: no memory. */
static struct job_rates know_rates(const struct server *s)
{
    struct job_rates r = {0};
    for (const struct session *w = s->sessions; w != NULL; w = w->next)
        r.count++;
    r.items = calloc(r.count, sizeof *r.items);
    size_t i = r.items == NULL ? 0 : r.count; /* the newest session is the list's first */
    for (const struct session *w = s->sessions; i > 0; w = w->next)
        r.items[--i] = (struct job_rate){w->number, w->job_tokens_per_s};
    return r;
}

static double job_rate(void *user, uint64_t owner)
{
    const struct job_rates *r = user;
    const struct job_rate *found = jobs_find_owner(r->items, r->count, sizeof *r->items, owner);
    return found == NULL ? 0 : found->tokens_per_s;
}

/* Nothing waits for this worker: a job that it would do well before the one that has it goes to
 * both. */
static size_t lease_twin(struct server *s, struct session *w, const struct jobs_want *want,
                         struct job **ret_job, uint64_t *ret_epoch)
{
    if (s->o.first_come || s->now_ns < w->twin_ns)
        return 0;
    struct job_rates rates = know_rates(s);
    if (rates.items == NULL)
        return 0;
    struct job *job = jobs_straggler(s->jobs, want, job_rate, &rates);
    if (job == NULL) /* it looks at all leases: seldom, when all sessions do */
        w->twin_ns =
            s->now_ns + max_u64(NS_PER_S, rates.count * jobs_leased(s->jobs) * TWIN_A_LEASE_NS);
    free(rates.items);
    if (job == NULL || !jobs_lease_twin(s->jobs, job, w->number, want->expires_ns, ret_epoch))
        return 0;
    log_info("slow where it is, given to a second worker as well batch=%s line=%llu worker=%s",
             job->batch->name, (unsigned long long)job->line, w->worker);
    *ret_job = job;
    return 1;
}

/* It takes jobs: it is not about to leave, nor to change its model. */
static bool can_work(const struct session *w)
{
    return w->state == SESSION_READY && !w->stalled && w->load[0] == '\0';
}

static bool takes_jobs(const struct server *s, const struct session *w)
{
    /* On a slow wire jobs wait where any worker may have them. */
    return can_work(w) && w->grant == NULL && w->granted < w->credit_total &&
           proto_socket_queued(s->socket, &w->peer) < MAX_GRANT_BYTES;
}

/* Whether more jobs than so many wait that may start, or so many batches wait that nobody counts.
 */
static bool more_wait_than(const struct server *s, uint64_t most)
{
    enum { MOST_BATCHES = 1000 };
    uint64_t jobs = 0;
    size_t seen = 0;
    const struct batch *b = jobs_first_waiting(s->jobs);
    for (; b != NULL && jobs <= most && seen <= MOST_BATCHES; b = b->next_waiting, seen++)
        jobs += batch_may_start(s->jobs, b) ? b->heap_len : 0;
    return jobs > most || seen > MOST_BATCHES;
}

/* Whether shares matter now: several workers, and what waits is not so much more than they hold and
 * have room for that nobody could have too much (but one that is that much slower than the
 * average). Most messages end here. */
static bool is_scarce(const struct server *s, size_t *ret_count)
{
    enum { PLENTY = 64 };
    size_t count = 0, room = 0;
    bool any = false;
    for (const struct session *w = s->sessions; w != NULL; w = w->next) {
        count++;
        room += w->credit_total > w->granted ? w->credit_total - w->granted : 0;
        any |= w->credit_total > w->granted && w->grant == NULL;
    }
    size_t leased = jobs_leased(s->jobs);
    *ret_count = count;
    return !s->o.first_come && any && count > 1 && jobs_first_waiting(s->jobs) != NULL &&
           !more_wait_than(s, PLENTY * (leased + room));
}

/* None when shares do not matter, or without memory. Leases are weighed each time while they are
 * few, and so seldom when they are many that it takes a hundredth of the time or so. */
static struct headroom_table set_table(struct server *s)
{
    struct headroom_table t = {0};
    size_t count, i;
    bool apart = jobs_suspects(s->jobs) > 0;
    if (!is_scarce(s, &count))
        return t;
    t.seats = calloc(count, sizeof *t.seats);
    if (t.seats == NULL)
        return t;
    t.count = i = count;
    for (const struct session *w = s->sessions; w != NULL; w = w->next)
        t.seats[--i] = (struct headroom_seat){.owner = w->number,
                                              .model = w->models[0].hash,
                                              .name = w->models[0].name,
                                              .tokens_per_s = w->best_tokens_per_s,
                                              .duty = w->headroom.duty,
                                              .takes = takes_jobs(s, w),
                                              .leaves = !can_work(w) || (apart && w->isolated),
                                              .held_tokens = w->held_tokens};
    if (s->now_ns < s->weigh_ns)
        return t;
    headroom_weigh(s->jobs, t.seats, count);
    s->weigh_ns = s->now_ns + jobs_leased(s->jobs) * WEIGH_A_LEASE_NS;
    i = count;
    for (struct session *w = s->sessions; w != NULL; w = w->next)
        w->held_tokens = t.seats[--i].held_tokens;
    return t;
}

/* seat: NULL while there are no suspects. table: NULL while nothing may start, but for twins. */
static void feed_session(struct server *s, struct session *w, const struct seat *seat,
                         struct headroom_table *table, size_t at)
{
    if (!takes_jobs(s, w))
        return;
    struct job *jobs[MAX_GRANT_JOBS];
    struct jobs_want want = {.owner = w->number,
                             .has_model = worker_has_model,
                             .user = w,
                             .max_jobs = min_u64(w->credit_total - w->granted, MAX_GRANT_JOBS),
                             .max_bytes = MAX_GRANT_BYTES,
                             .expires_ns = server_lease_end_ns(s)};
    struct server_op *op = server_op_new(s, &w->peer, LEDGER_GRANT, grant_done);
    if (op == NULL)
        return;
    struct ledger_grant *items = arena_alloc(&op->op.arena, want.max_jobs, sizeof *items);
    bool none_waits = items != NULL && table == NULL;
    size_t count = 0;
    if (items != NULL && table != NULL && seat != NULL)
        count = suspects_lease(s->jobs, seat, table, at, &want, jobs, &none_waits);
    else if (items != NULL && table != NULL)
        count = headroom_lease(s->jobs, table, at, &want, jobs, &none_waits);
    if (table != NULL && table->seats != NULL)
        w->held_tokens = table->seats[at].held_tokens;
    uint64_t twin_epoch = 0;
    if (none_waits)
        count = lease_twin(s, w, &want, jobs, &twin_epoch);
    if (count == 0) {
        server_op_free(op);
        return;
    }
    size_t bytes = 0;
    for (size_t i = 0; i < count; i++) {
        rate_begin(&jobs[i]->batch->rate, s->now_ns);
        items[i] = (struct ledger_grant){.job = jobs[i]->id,
                                         .epoch = twin_epoch != 0 ? twin_epoch : jobs[i]->epoch};
        bytes += jobs[i]->body_bytes;
    }
    op->session = w->number;
    op->op.grant.items = items;
    op->op.grant.count = count;
    note_held(s, &op->op);
    w->granted += count;
    w->grant = op;
    server_op_submit(op, bytes);
}

/* The ledger takes what workers' business asks of it. */
static bool ledger_takes(const struct server *s)
{
    return server_storage_works(s) && !s->closing &&
           s->pending_bytes[SIDE_WORKERS] <= MAX_PENDING_BYTES;
}

static bool may_feed(const struct server *s)
{
    return ledger_takes(s) && s->damaged_requests <= MAX_DAMAGED_REQUESTS;
}

/* Whether a job that is no suspect may start, if there is a worker with its model. */
static bool anything_waits(const struct server *s)
{
    const struct batch *b = jobs_first_waiting(s->jobs);
    while (b != NULL && (b->heap_len == 0 || !batch_may_start(s->jobs, b)))
        b = b->next_waiting;
    return b != NULL;
}

void worker_feed_apart(struct server *s)
{
    size_t count = 0, i = 0;
    s->apart_due = false;
    if (!may_feed(s) || jobs_suspects(s->jobs) == 0)
        return;
    for (struct session *w = s->sessions; w != NULL; w = w->next)
        count++;
    struct seat *seats = calloc(count + 1, sizeof *seats);
    if (seats == NULL)
        return; /* the timer comes again */
    for (struct session *w = s->sessions; w != NULL; w = w->next)
        seats[count - ++i] = (struct seat){.held.owner = w->number,
                                           .ready = can_work(w),
                                           .isolated = w->isolated,
                                           .has_model = worker_has_model,
                                           .user = w};
    bool waits = suspects_seat(s->jobs, seats, count);
    waits = anything_waits(s) || waits;
    i = 0;
    for (struct session *w = s->sessions; w != NULL; w = w->next)
        w->isolated = seats[count - ++i].isolated;
    struct headroom_table table = {0};
    if (waits)
        table = set_table(s);
    i = 0;
    for (struct session *w = s->sessions; w != NULL; w = w->next) {
        const struct seat *seat = &seats[count - ++i];
        if (waits || (!seat->isolated && s->now_ns >= w->twin_ns))
            feed_session(s, w, seat, waits ? &table : NULL, count - i);
    }
    free(table.seats);
    free(seats);
}

void worker_feed(struct server *s)
{
    if (!ledger_takes(s))
        return;
    server_store_doomed(s);
    if (!may_feed(s))
        return;
    server_set_time(s);
    s->apart_due = jobs_suspects(s->jobs) > 0;
    if (s->apart_due)
        return;
    bool waits = anything_waits(s);
    struct headroom_table table = {0};
    if (waits)
        table = set_table(s);
    size_t at = table.count;
    for (struct session *w = s->sessions; w != NULL; w = w->next) {
        w->isolated = false;
        at--;
        if (waits || s->now_ns >= w->twin_ns)
            feed_session(s, w, NULL, waits ? &table : NULL, at);
    }
    free(table.seats);
}
