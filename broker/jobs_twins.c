/* Twins: near the end of a batch a job that is slow where it is may be given to a second worker as
 * well. Both leases count, each under its own epoch; the first result wins, and the other worker is
 * told to stop with its next heartbeat. If one lease ends, the other is the job's, and nobody is
 * blamed. */
#include <math.h>

#include "base/clock.h"
#include "base/size.h"
#include "broker/jobs_impl.h"

static const double least_left_s = 2; /* less is not worth a second run */
static const double worth_it = 1.5;

struct lease *twin_of(const struct job *job)
{
    struct lease *twin = job->extra == NULL ? NULL : &job->extra->twin;
    return twin != NULL && twin->epoch != 0 ? twin : NULL;
}

const struct lease *job_twin(const struct job *job)
{
    return twin_of(job);
}

bool job_is_held(const struct job *job, uint64_t owner, uint64_t epoch)
{
    const struct lease *twin = twin_of(job);
    return job->state == JOB_LEASED &&
           ((job->owner == owner && job->epoch == epoch) ||
            (twin != NULL && twin->owner == owner && twin->epoch == epoch));
}

bool jobs_lease_twin(struct jobs *j, struct job *job, uint64_t owner, uint64_t expires_ns,
                     uint64_t *ret_epoch)
{
    struct job_extra *x = job->state != JOB_LEASED || job->owner == 0 || job->owner == owner ||
                                  job->attempts > 0 || twin_of(job) != NULL
                              ? NULL
                              : job_get_extra(job);
    if (x == NULL)
        return false;
    x->twin =
        (struct lease){owner, jobs_new_epoch(j), expires_ns, (uint32_t)(j->now_ns / NS_PER_MS)};
    *ret_epoch = x->twin.epoch;
    return true;
}

enum err jobs_add_twin(struct job *job, uint64_t epoch, uint64_t expires_ns)
{
    struct job_extra *x = job_get_extra(job);
    if (x == NULL)
        return ERR_NOMEM;
    x->twin = (struct lease){.epoch = epoch, .expires_ns = expires_ns};
    return ERR_OK;
}

void twin_swap(struct job *job)
{
    struct lease *twin = twin_of(job);
    struct lease old = {job->owner, job->epoch, job->expires_ns, job->leased_ms};
    job->owner = twin->owner;
    job->epoch = twin->epoch;
    job->expires_ns = twin->expires_ns;
    job->leased_ms = twin->leased_ms;
    *twin = old;
}

bool twin_takes_over(struct job *job)
{
    if (twin_of(job) == NULL)
        return false;
    twin_swap(job);
    twin_drop(job);
    return true;
}

void twin_drop(struct job *job)
{
    if (job->extra != NULL)
        job->extra->twin = (struct lease){0};
}

double jobs_lease_s(const struct jobs *j, const struct job *job)
{
    return (double)((uint32_t)(j->now_ns / NS_PER_MS) - job->leased_ms) / 1000;
}

/* Seconds until the job is done where it is. A job that takes twice what was expected is taken to
 * need as long again. */
static double left_s(const struct jobs *j, const struct job *job, double rate)
{
    const struct batch *b = job->batch;
    double age_s = jobs_lease_s(j, job), done = job->running_tokens;
    double all = done < job->tokens ? job->tokens : done * 1.25;
    double expected_s = rate > 0             ? all / rate
                        : b->learnt.jobs > 0 ? b->learnt.seconds / b->learnt.jobs
                                             : 0;
    if (expected_s == 0)
        return 0;
    if (age_s > 2 * expected_s)
        return age_s;
    return rate > 0 ? (all - done) / rate : fmax(0, expected_s - age_s);
}

/* And where it would be begun anew, from its last checkpoint if there is one. */
static double fresh_s(const struct job *job, double rate)
{
    const struct batch *b = job->batch;
    if (rate == 0)
        return b->learnt.jobs > 0 ? b->learnt.seconds / b->learnt.jobs : INFINITY;
    double done = jobs_checkpoint(job).len > 0 ? job->running_tokens : 0;
    return done < job->tokens ? (job->tokens - done) / rate : 0;
}

struct job *jobs_straggler(const struct jobs *j, const struct jobs_want *want,
                           double (*rate)(void *user, uint64_t owner), void *user)
{
    struct job *best = NULL;
    double best_s = least_left_s, own = rate(user, want->owner);
    for (struct job *job = j->lists[JOB_LEASED]; job != NULL; job = job->next) {
        if (job->owner == 0 || job->owner == want->owner || job->attempts > 0 ||
            twin_of(job) != NULL || batch_waiting(job->batch) > 0 ||
            !batch_may_run(j, job->batch) || !batch_suits(want, job->batch))
            continue;
        double left = left_s(j, job, rate(user, job->owner));
        if (left > best_s && fresh_s(job, own) * worth_it < left) {
            best = job;
            best_s = left;
        }
    }
    return best;
}
