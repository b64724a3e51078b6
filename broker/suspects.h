/* Which workers look after suspects (jobs.h), and what a worker may be given.
 *
 * A suspect runs only beside other suspects, so a worker has to be emptied for them: it is
 * *isolated*, gets no other jobs until it holds none, then suspects until none waits. Up to half of
 * the workers that take jobs are isolated while there are other jobs to do, at least one, and never
 * more than there is use for; those with the fewest jobs come first. A worker that nothing else is
 * left for takes suspects as well. So neither the suspects nor the others wait for good.
 *
 * Workers that are not isolated are given the others as if there were no suspects.
 *
 * Pure, as jobs.h. */
#ifndef OCTO_BROKER_SUSPECTS_H
#define OCTO_BROKER_SUSPECTS_H

#include "broker/headroom.h"

/* A worker as this sees it. */
struct seat {
    struct jobs_held held; /* first; the caller sets the owner, the rest is counted */
    bool ready;            /* it takes jobs */
    bool isolated;         /* the caller keeps it from call to call */
    bool (*has_model)(void *user, const char *model); /* as in struct jobs_want */
    void *user;
};

/* Counts what each holds, and chooses. Seats are sorted by owner. With jobs_suspects() == 0 there
 * is no need to call it: nobody is isolated then. False: no suspect waits that may start. */
bool suspects_seat(struct jobs *jobs, struct seat *seats, size_t count);
/* Leases for an owner that suspects_seat() was just called for. `want` is filled but for `held`.
 * Others by its share, as headroom_lease() does, of `table` in which it is seat `at`; who is
 * isolated is to be one that leaves there. *ret_none: nothing waits that it could run, of either.
 */
size_t suspects_lease(struct jobs *jobs, const struct seat *seat, struct headroom_table *table,
                      size_t at, const struct jobs_want *want, struct job **ret_jobs,
                      bool *ret_none);

#endif
