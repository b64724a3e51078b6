/* See headroom.h. */
#include "broker/headroom.h"

#include <math.h>
#include <string.h>

enum { MOST_BATCHES = 64, BEST_HALF_S = 600 };

static const double most_tokens_per_s = 1e9; /* what a worker says may be anything */
static const double least_duty = 0.01;
static const double least_left = 0.125; /* of a job that is longer than was expected */

double headroom_best(double best, double told, double seconds)
{
    double faded = best * exp2(-seconds / BEST_HALF_S);
    return told >= 0 && told <= most_tokens_per_s ? fmax(faded, told) : faded;
}

static double tokens_left(const struct job *job)
{
    double all =
        job->tokens > 0 ? job->tokens : (double)batch_job_tokens(job->batch, job->body_bytes);
    return fmax(all - job->running_tokens, all * least_left);
}

static struct headroom_seat *find(struct headroom_seat *seats, size_t count, uint64_t owner)
{
    size_t low = 0, high = count;
    while (low < high) {
        size_t mid = low + (high - low) / 2;
        if (seats[mid].owner < owner)
            low = mid + 1;
        else
            high = mid;
    }
    return low < count && seats[low].owner == owner ? &seats[low] : NULL;
}

static void add(struct headroom_seat *seats, size_t count, uint64_t owner, double tokens)
{
    struct headroom_seat *seat = find(seats, count, owner);
    if (seat != NULL)
        seat->held_tokens += tokens;
}

void headroom_weigh(const struct jobs *jobs, struct headroom_seat *seats, size_t count)
{
    for (size_t i = 0; i < count; i++)
        seats[i].held_tokens = 0;
    for (const struct job *job = jobs_first(jobs, JOB_LEASED); job != NULL; job = job->next) {
        add(seats, count, job->owner, tokens_left(job));
        if (job_twin(job) != NULL)
            add(seats, count, job_twin(job)->owner, tokens_left(job));
    }
}

double headroom_waiting(const struct jobs *jobs, const struct jobs_want *want)
{
    double tokens = 0;
    size_t seen = 0;
    for (const struct batch *b = jobs_first_waiting(jobs); b != NULL; b = b->next_waiting) {
        if (b->heap_len == 0 || !batch_may_start_at(jobs, want, b))
            continue;
        if (++seen > MOST_BATCHES)
            return INFINITY;
        uint64_t bytes = b->bytes / (batch_waiting(b) + b->leased); /* of a job, about */
        tokens += (double)b->heap_len * (double)batch_job_tokens(b, bytes);
    }
    return tokens;
}

static bool has_same(const struct headroom_crowd *c, const struct headroom_seat *s)
{
    return strcmp(s->model, c->model) == 0 && strcmp(s->name, c->name) == 0;
}

static bool is_of(const struct headroom_crowd *c, const struct headroom_seat *s)
{
    return !s->leaves && (s->takes || s->held_tokens > 0) && has_same(c, s);
}

static double speed(const struct headroom_crowd *c, const struct headroom_seat *s)
{
    double duty = s->duty > 0 && s->duty <= 1 ? fmax(s->duty, least_duty) : 1;
    return (s->tokens_per_s > 0 ? s->tokens_per_s : c->unknown) * duty;
}

struct headroom_crowd headroom_gather(const struct headroom_seat *seats, size_t count,
                                      const struct headroom_seat *like, double waiting_tokens)
{
    struct headroom_crowd c = {.model = like->model,
                               .name = like->name,
                               .waiting = waiting_tokens,
                               .work = waiting_tokens};
    double known = 0;
    size_t known_count = 0;
    for (size_t i = 0; i < count; i++) {
        if (!is_of(&c, &seats[i]) || seats[i].tokens_per_s <= 0)
            continue;
        known += seats[i].tokens_per_s;
        known_count++;
    }
    c.unknown = known_count > 0 ? known / (double)known_count : 1;
    for (size_t i = 0; i < count; i++) {
        if (!is_of(&c, &seats[i]))
            continue;
        c.speed += speed(&c, &seats[i]);
        c.work += seats[i].held_tokens;
    }
    return c;
}

double headroom_share(const struct headroom_crowd *c, const struct headroom_seat *seat)
{
    return c->speed > 0 ? speed(c, seat) / c->speed * c->work - seat->held_tokens : 0;
}

bool headroom_is_first(const struct headroom_crowd *c, const struct headroom_seat *seats,
                       size_t count, const struct headroom_seat *seat)
{
    double share = headroom_share(c, seat);
    bool first = share > 0;
    for (size_t i = 0; i < count && first; i++)
        first = !seats[i].takes || !is_of(c, &seats[i]) || headroom_share(c, &seats[i]) <= share;
    return first;
}

size_t headroom_lease(struct jobs *jobs, struct headroom_table *t, size_t at,
                      struct jobs_want *want, struct job **ret_jobs, bool *ret_none)
{
    if (t->seats == NULL) {
        size_t leased = jobs_lease(jobs, want, ret_jobs);
        *ret_none = leased == 0;
        return leased;
    }
    struct headroom_seat *seat = &t->seats[at];
    if (t->crowd.model == NULL || !has_same(&t->crowd, seat))
        t->crowd = headroom_gather(t->seats, t->count, seat, headroom_waiting(jobs, want));
    *ret_none = t->crowd.waiting == 0;
    want->max_tokens = headroom_share(&t->crowd, seat);
    if (*ret_none || want->max_tokens <= 0)
        return 0;
    size_t leased = jobs_lease(jobs, want, ret_jobs);
    if (leased == 0 && headroom_is_first(&t->crowd, t->seats, t->count, seat)) {
        want->max_tokens = 0;
        want->max_jobs = 1;
        leased = jobs_lease(jobs, want, ret_jobs);
    }
    for (size_t i = 0; i < leased; i++)
        seat->held_tokens += ret_jobs[i]->tokens;
    return leased;
}
