/* Results that are the broker's own, each a failure: of a job whose attempts are used up, and of
 * one whose request the ledger cannot read any more. */
#include <stdio.h>

#include "base/log.h"
#include "broker/server_internal.h"

bool server_failure(struct arena *arena, const char *code, const char *text, struct str *ret)
{
    struct rec_OUTPUT output = {.status_code = 500,
                                .error_message = str_of(text),
                                .error_type = STR_LIT("server_error"),
                                .error_code = str_of(code)};
    struct buf body = {0};
    struct str copy = {0};
    bool made = proto_encode_output(&output, &body, NULL) == ERR_OK;
    if (made) {
        copy = (struct str){body.data, body.len};
        made = server_copy(arena, &copy);
    }
    buf_free(&body);
    if (made)
        *ret = copy;
    return made;
}

/* Takes it in that the failure is in the ledger, or is not. what: for the event; NULL: none. True:
 * it is, since now. */
static bool fail_done(struct ledger_op *ledger_op, enum event_kind kind, const char *what)
{
    struct server_op *op = (struct server_op *)ledger_op;
    struct server *s = op->s;
    struct ledger_result *r = &ledger_op->results.items[0];
    struct job *job = jobs_find(s->jobs, r->job);
    bool fresh = job != NULL && ledger_op->err == ERR_OK && r->ret_outcome == 0;
    if (ledger_op->err != ERR_OK) {
        jobs_store_failed(s->jobs, r->job, r->epoch, 0);
    } else if (job != NULL) {
        struct batch *b = job->batch;
        uint64_t line = job->line;
        jobs_finished(s->jobs, r->job);
        if (fresh) {
            if (what != NULL)
                server_event(s, kind, b->name, "line %llu, %s", (unsigned long long)line, what);
            rate_count(&b->rate, s->now_ns, 1);
            b->counts.failed++;
            b->counts.last_finished_ms = ledger_op->now_ms;
            server_batch_changed(s, b);
        }
    }
    server_op_free(op);
    return fresh;
}

/* Nobody may hold it. False: no memory for it now. */
static bool fail_job(struct server *s, const struct job *job, const char *code, const char *text,
                     void (*done)(struct ledger_op *op))
{
    struct server_op *op = server_op_new(s, NULL, LEDGER_RESULTS, done);
    struct ledger_result *r = op == NULL ? NULL : arena_alloc(&op->op.arena, 1, sizeof *r);
    struct str body;
    if (r == NULL || !server_failure(&op->op.arena, code, text, &body)) {
        log_error("cannot fail a job now, trying again batch=%s line=%llu", job->batch->name,
                  (unsigned long long)job->line);
        if (op != NULL)
            server_op_free(op);
        return false;
    }
    *r = (struct ledger_result){.job = job->id,
                                .batch = job->batch->id,
                                .epoch = job->epoch,
                                .accept = true,
                                .failed = true,
                                .body = body,
                                .attempts = job->attempts};
    op->op.results.items = r;
    op->op.results.count = 1;
    jobs_result(s->jobs, job->id, job->epoch);
    server_op_submit(op, r->body.len);
    return true;
}

/* ---- poison, deadlines ---- */

static bool is_poison(const struct job *job)
{
    return job->strikes >= job->batch->max_attempts;
}

static void doomed_done(struct ledger_op *ledger_op)
{
    struct server *s = ((struct server_op *)ledger_op)->s;
    const struct ledger_result *r = &ledger_op->results.items[0];
    const struct job *job = jobs_find(s->jobs, r->job);
    bool poison = job != NULL && is_poison(job);
    char what[64];
    snprintf(what, sizeof what, "given up after %llu attempts", (unsigned long long)r->attempts);
    bool fresh = fail_done(ledger_op, EVENT_JOB_POISONED, poison ? what : NULL);
    s->watch.poisoned += fresh && poison;
}

static bool fail_doomed(struct server *s, const struct job *job)
{
    char text[3500];
    if (!is_poison(job))
        return fail_job(s, job, "batch_expired", "this line was not done by the batch's deadline",
                        doomed_done);
    snprintf(text, sizeof text, "poison: given up after %u attempts (%s)", (unsigned)job->attempts,
             jobs_history(job));
    return fail_job(s, job, "poison", text, doomed_done);
}

void server_store_doomed(struct server *s)
{
    for (int i = 0; i < MAX_GRANT_JOBS; i++) {
        const struct job *job = jobs_doomed(s->jobs);
        if (job == NULL || !fail_doomed(s, job))
            break;
    }
}

/* ---- requests that cannot be read ---- */

static void damaged_done(struct ledger_op *op)
{
    struct server *s = ((struct server_op *)op)->s;
    s->damaged_requests -= op->err != ERR_OK; /* it comes again */
    (void)fail_done(op, EVENT_JOB_DAMAGED, "its request cannot be read");
}

static void fail_damaged(struct server *s, struct job *job, const char *why)
{
    char text[600];
    jobs_release(s->jobs, job->id, job->epoch, job->owner, false, "its request cannot be read");
    if (s->damaged_requests >= MAX_DAMAGED_REQUESTS) {
        if (s->damaged_requests++ > MAX_DAMAGED_REQUESTS)
            return;
        log_error("%s: more than %d requests cannot be read: nothing is granted any more", why,
                  MAX_DAMAGED_REQUESTS);
        server_event(s, EVENT_STORAGE_FAILED, "", "more than %d requests cannot be read",
                     MAX_DAMAGED_REQUESTS);
        return;
    }
    snprintf(text, sizeof text, "storage: the request cannot be read: %s", why);
    if (!fail_job(s, job, "storage", text, damaged_done))
        return;
    s->damaged_requests++;
    log_error("a job failed, its request cannot be read batch=%s line=%llu error=\"%s\"",
              job->batch->name, (unsigned long long)job->line, why);
}

void server_unreadable(struct server *s, const struct ledger_grant *g, uint64_t owner)
{
    struct job *job = jobs_find(s->jobs, g->job);
    if (job == NULL || !job_is_held(job, owner, g->epoch))
        return;
    if (job->epoch != g->epoch) { /* a twin's: who has the job has its request */
        jobs_release(s->jobs, g->job, g->epoch, owner, false, "its request cannot be read");
        return;
    }
    char why[sizeof s->storage_why.text];
    snprintf(why, sizeof why, "%.*s", STR_ARG(g->ret_why));
    if (g->ret_err != ERR_FORMAT && jobs_defer(s->jobs, g->job, g->epoch, owner, s->now_ns)) {
        log_warn("a request cannot be read now, trying again batch=%s line=%llu error=\"%s\"",
                 job->batch->name, (unsigned long long)job->line, why);
        server_storage_failed(s, why);
        return;
    }
    fail_damaged(s, job, why);
}
