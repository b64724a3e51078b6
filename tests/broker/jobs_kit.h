/* What tests of the broker's index begin with: batches and jobs, and how often jobs came back. */
#ifndef OCTO_TESTS_BROKER_JOBS_KIT_H
#define OCTO_TESTS_BROKER_JOBS_KIT_H

#include "broker/jobs.h"
#include "tests/check.h"

static unsigned returned_count, counted_count; /* since the last kit_jobs() */

static inline void kit_returned(void *user, const struct job *job, bool counted, const char *reason)
{
    (void)user;
    (void)job;
    (void)reason;
    returned_count++;
    counted_count += counted;
}

static inline struct jobs *kit_jobs(uint32_t generation)
{
    static const struct jobs_events events = {.on_returned = kit_returned};
    struct jobs *j = NULL;
    if (jobs_create(generation, &events, NULL, &j) != ERR_OK)
        abort();
    returned_count = counted_count = 0;
    return j;
}

/* Named "batch-ID"; without priority 100, without max_attempts 3. The texts of `like` may be NULL.
 */
static inline struct batch *kit_batch(struct jobs *j, struct batch like)
{
    char name[32];
    struct batch *b = NULL;
    snprintf(name, sizeof name, "batch-%llu", (unsigned long long)like.id);
    like.name = name;
    if (like.schedule.priority == 0)
        like.schedule.priority = 100;
    if (like.max_attempts == 0)
        like.max_attempts = 3;
    if (jobs_add_batch(j, &like, &b) != ERR_OK)
        abort();
    return b;
}

/* Jobs that the owner holds, by either lease. */
static inline size_t leases_of(const struct jobs *j, uint64_t owner)
{
    size_t count = 0;
    for (const struct job *job = jobs_first(j, JOB_LEASED); job != NULL; job = job->next)
        count += job->owner == owner || (job_twin(job) != NULL && job_twin(job)->owner == owner);
    return count;
}

#endif
