/* See suspects.h. */
#include "broker/suspects.h"

#include "base/size.h"

static struct jobs_waiting waiting_for(const struct jobs *j, const struct seat *s)
{
    struct jobs_want want = {.has_model = s->has_model, .user = s->user};
    return jobs_suspects_waiting(j, &want);
}

static bool has_use(const struct jobs *j, const struct seat *s)
{
    struct jobs_waiting w = waiting_for(j, s);
    return s->ready && w.together + w.alone > 0;
}

/* The one that will be empty first, as far as anybody knows. NULL: none is able. */
static struct seat *fewest_jobs(const struct jobs *j, struct seat *seats, size_t count)
{
    struct seat *best = NULL;
    for (size_t i = 0; i < count; i++) {
        struct seat *s = &seats[i];
        if (!s->isolated && has_use(j, s) && (best == NULL || s->held.jobs < best->held.jobs))
            best = s;
    }
    return best;
}

static void count_one(struct seat *seats, size_t count, const struct job *job, uint64_t owner)
{
    struct seat *s = jobs_find_owner(seats, count, sizeof *seats, owner);
    if (s == NULL)
        return;
    s->held.jobs++;
    s->held.suspects += job->attempts > 0;
    s->held.alone |= job->attempts > 0 && job_must_be_alone(job);
}

static void count_held(const struct jobs *j, struct seat *seats, size_t count)
{
    for (size_t i = 0; i < count; i++)
        seats[i].held = (struct jobs_held){.owner = seats[i].held.owner};
    for (const struct job *job = jobs_first(j, JOB_LEASED); job != NULL; job = job->next) {
        count_one(seats, count, job, job->owner);
        if (job_twin(job) != NULL)
            count_one(seats, count, job, job_twin(job)->owner);
    }
}

bool suspects_seat(struct jobs *j, struct seat *seats, size_t count)
{
    static const struct jobs_want anybody;
    struct jobs_waiting all = jobs_suspects_waiting(j, &anybody);
    bool any = all.together + all.alone > 0;
    size_t ready = 0, isolated = 0, coming = 0;
    count_held(j, seats, count);
    for (size_t i = 0; i < count; i++) {
        struct seat *s = &seats[i];
        /* Who came back with suspects is isolated, too. */
        s->isolated = s->held.suspects > 0 || (s->isolated && any && has_use(j, s));
        /* Who takes no more jobs may go on with its suspects for hours: that stands for nobody. */
        ready += s->ready;
        isolated += s->ready && s->isolated;
        coming += s->isolated && s->held.suspects == 0;
    }
    size_t useful = all.alone + (all.together + JOBS_TOGETHER - 1) / JOBS_TOGETHER;
    while (isolated < max_u64(1, ready / 2) && coming < useful) {
        struct seat *s = fewest_jobs(j, seats, count);
        if (s == NULL)
            break;
        s->isolated = true;
        isolated++;
        coming++;
    }
    return any;
}

size_t suspects_lease(struct jobs *j, const struct seat *s, struct headroom_table *table, size_t at,
                      const struct jobs_want *want, struct job **ret_jobs, bool *ret_none)
{
    struct jobs_want others = *want, apart = *want;
    *ret_none = false;
    size_t count = s->isolated ? 0 : headroom_lease(j, table, at, &others, ret_jobs, ret_none);
    *ret_none = *ret_none && !has_use(j, s);
    if (count > 0 || (!s->isolated && s->held.jobs > 0))
        return count;
    apart.held = &s->held;
    return jobs_lease(j, &apart, ret_jobs);
}
