/* Leasing: which batches may start now, and which jobs an owner is given, suspects apart from
 * others. Whose turn it is, is jobs_turns.c's. */
#include "base/clock.h"
#include "base/size.h"
#include "broker/jobs_impl.h"

bool batch_may_start(const struct jobs *j, const struct batch *b)
{
    uint64_t most = b->schedule.max_parallel;
    return (most == 0 || b->leased < most) && batch_may_run(j, b);
}

bool batch_may_run(const struct jobs *j, const struct batch *b)
{
    const struct rec_SCHEDULE *s = &b->schedule;
    if (s->paused || b->expired)
        return false;
    if (j->wall_ms == 0)
        return true;
    if (j->wall_ms < s->not_before_ms || (s->not_after_ms > 0 && j->wall_ms >= s->not_after_ms))
        return false;
    bool after = j->day_min >= s->daily_from_min, before = j->day_min < s->daily_until_min;
    if (s->daily_from_min == s->daily_until_min)
        return true;
    return s->daily_from_min < s->daily_until_min ? after && before : after || before;
}

bool batch_is_due(const struct batch *b, uint64_t wall_ms)
{
    uint64_t deadline_ms = b->schedule.deadline_ms;
    return (b->expired || (deadline_ms > 0 && wall_ms >= deadline_ms)) &&
           batch_waiting(b) + b->leased > 0;
}

bool batch_suits(const struct jobs_want *want, const struct batch *b)
{
    return b->model[0] == '\0' || want->has_model == NULL || want->has_model(want->user, b->model);
}

bool batch_may_start_at(const struct jobs *j, const struct jobs_want *want, const struct batch *b)
{
    return batch_may_start(j, b) && batch_suits(want, b);
}

struct leasing {
    const struct jobs_want *want;
    struct job **ret_jobs;
    size_t count;
    uint64_t bytes;
    double tokens;
};

/* False: it does not fit beside the others any more. */
static bool lease_one(struct jobs *j, struct leasing *l, struct job *job)
{
    uint64_t size = job->body_bytes + jobs_checkpoint(job).len; /* both travel with it */
    if (l->count > 0 && l->bytes + size > l->want->max_bytes)
        return false;
    l->bytes += size;
    job_move(j, job, JOB_LEASED);
    job->epoch = jobs_new_epoch(j);
    job->leased_ms = (uint32_t)(j->now_ns / NS_PER_MS);
    job->owner = l->want->owner;
    job->expires_ns = l->want->expires_ns;
    job->running_tokens = 0;
    turns_lease(j, job);
    prefix_given(&j->prefixes, job->prefix, job->owner);
    l->tokens += job->tokens;
    l->ret_jobs[l->count++] = job;
    return true;
}

static bool fits_share(const struct leasing *l, const struct job *job)
{
    double tokens = (double)batch_job_tokens(job->batch, job->body_bytes);
    return l->want->max_tokens == 0 || l->tokens + tokens <= l->want->max_tokens;
}

static size_t lease_suspects(struct jobs *j, struct leasing *l)
{
    const struct jobs_held *held = l->want->held;
    if (held->jobs > held->suspects || held->alone || l->want->max_jobs == 0)
        return 0;
    for (struct batch *b = j->waiting; b != NULL; b = b->next_waiting) {
        struct job *job = b->suspects[1].first;
        if (job == NULL || !batch_may_start_at(j, l->want, b))
            continue;
        if (held->jobs > 0) /* its turn comes when they are done */
            return 0;
        job->alone = lease_one(j, l, job);
        return l->count;
    }
    size_t room = held->jobs < JOBS_TOGETHER ? JOBS_TOGETHER - held->jobs : 0;
    room = min_u64(room, l->want->max_jobs);
    for (struct batch *b = j->waiting, *next; b != NULL; b = next) {
        next = b->next_waiting; /* b may have nothing waiting any more */
        while (b->suspects[0].first != NULL && l->count < room &&
               batch_may_start_at(j, l->want, b)) {
            if (!lease_one(j, l, b->suspects[0].first))
                return l->count;
        }
    }
    return l->count;
}

/* Jobs that are no suspects. */
struct asking {
    const struct jobs *j;
    const struct jobs_want *want;
};

static enum turn_use others_use(const struct batch *b, const void *asking)
{
    const struct asking *a = asking;
    if (b->heap_len == 0 || !batch_may_start(a->j, b))
        return TURN_NOWHERE;
    return batch_suits(a->want, b) ? TURN_HERE : TURN_ELSEWHERE;
}

size_t jobs_lease(struct jobs *j, const struct jobs_want *want, struct job **ret_jobs)
{
    struct leasing l = {.want = want, .ret_jobs = ret_jobs};
    if (want->held != NULL)
        return lease_suspects(j, &l);
    struct asking asking = {j, want};
    for (struct batch *b = NULL; l.count < want->max_jobs;) {
        b = turns_next(j, b, others_use, &asking);
        struct job *job = b == NULL ? NULL : queue_pick(j, b, want->owner);
        if (job == NULL || !fits_share(&l, job) || !lease_one(j, &l, job))
            break;
    }
    return l.count;
}

struct jobs_waiting jobs_suspects_waiting(const struct jobs *j, const struct jobs_want *want)
{
    struct jobs_waiting w = {0};
    for (const struct batch *b = j->waiting; b != NULL; b = b->next_waiting) {
        if (b->suspects[0].count + b->suspects[1].count == 0 || !batch_may_start_at(j, want, b))
            continue;
        w.together += b->suspects[0].count;
        w.alone += b->suspects[1].count;
    }
    return w;
}
