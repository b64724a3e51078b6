/* How much of what waits a worker may take now, by how fast it and the others are: hot and slow
 * GPUs get less, and near the end of the work no worker takes more than it finishes about when the
 * others do.
 *
 *     speed = tokens/s at full duty x duty now
 *     share = speed / all speeds x (waiting + held by all) - held by it          in tokens
 *
 * While much waits, the share is more than anybody has room for. Without a share a worker waits:
 * for more lines, or until the faster ones are through. Who holds nothing always has one; is it
 * smaller than a job, and nobody with room has a greater one, it takes a job all the same. So
 * something moves whenever somebody has room.
 *
 * A worker that has not said how fast it is counts as an average one. Shares are of workers with
 * the same model loaded under the same name: a batch may ask for either, and what waits is the same
 * for all of these. What a worker has room for (credit) is the caller's other bound.
 *
 * Pure: no sockets, no clock. */
#ifndef OCTO_BROKER_HEADROOM_H
#define OCTO_BROKER_HEADROOM_H

#include "broker/jobs.h"

struct headroom_seat {
    uint64_t owner;      /* ascending from seat to seat */
    const char *model;   /* the one loaded: its hash */
    const char *name;    /* and its name there */
    double tokens_per_s; /* at full duty; 0: unknown */
    double duty;         /* 0..1; 0: unknown */
    bool takes;          /* it has room; who has none and holds nothing does not count */
    bool leaves;         /* it takes no more jobs, and does not count either */
    double held_tokens;  /* what its jobs still need: headroom_weigh() */
};

/* The best of late of what a worker told: a GPU with few jobs left does fewer tokens/s than it
 * could, and must not get less for that. seconds: since `best` was made; it fades by half in ten
 * minutes. */
double headroom_best(double best, double told, double seconds);
/* Fills held_tokens from the leases: some ten nanoseconds each. */
void headroom_weigh(const struct jobs *jobs, struct headroom_seat *seats, size_t count);
/* Tokens of waiting jobs, suspects aside, that `want`'s owner could be given. Infinite when so many
 * batches may start that nobody is at the end. */
double headroom_waiting(const struct jobs *jobs, const struct jobs_want *want);
/* Those with one model of one name, all together. */
struct headroom_crowd {
    const char *model, *name; /* borrowed */
    double waiting;           /* when it was gathered */
    double unknown;           /* what is taken for a speed that is not known */
    double speed, work;
};
/* Of those who have what this seat has. */
struct headroom_crowd headroom_gather(const struct headroom_seat *seats, size_t count,
                                      const struct headroom_seat *like, double waiting_tokens);
/* Tokens that a seat of the crowd may take now; 0 or less: nothing. Who takes some adds them to its
 * held_tokens. */
double headroom_share(const struct headroom_crowd *crowd, const struct headroom_seat *seat);
/* Nobody of the crowd who has room has a greater share than this seat, and it has one. */
bool headroom_is_first(const struct headroom_crowd *crowd, const struct headroom_seat *seats,
                       size_t count, const struct headroom_seat *seat);

/* All who work here. */
struct headroom_table {
    struct headroom_seat *seats; /* NULL: shares do not matter, each takes what it has room for */
    size_t count;
    struct headroom_crowd crowd; /* of the model last asked for; model NULL: none yet */
};
/* Leases jobs that are no suspects, as many as the seat's share is worth. *ret_none: none waits
 * that it could run. want->max_tokens is set here. */
size_t headroom_lease(struct jobs *jobs, struct headroom_table *table, size_t at,
                      struct jobs_want *want, struct job **ret_jobs, bool *ret_none);

#endif
