/* Private to jobs*.c: the index, its batches, and the queue of a batch's SUBMITTED jobs. */
#ifndef OCTO_BROKER_JOBS_IMPL_H
#define OCTO_BROKER_JOBS_IMPL_H

#include "broker/jobs.h"
#include "broker/jobs_table.h"
#include "broker/prefixes.h"
#include "broker/slab.h"

enum { DEFAULT_EXTRA_BYTES = 64 << 20 /* for checkpoints */ };

/* Those who take turns: by rounds, within a round in order. */
struct turns_line {
    struct turn *first, *last;
    int64_t round;  /* the first whose turns are not over, when last asked */
    int64_t served; /* and that of who was served */
};

struct jobs {
    struct jobs_events events;
    void *user;
    uint32_t generation;
    uint64_t last_epoch, secret;
    struct slab slab;                      /* of the jobs */
    struct jobs_table table;               /* by id */
    size_t job_count, leased, batch_count; /* leased: LEASED ones */
    uint64_t bytes;                        /* of their bodies */
    struct job *lists[4];                  /* by state; SUBMITTED jobs are in their batch's heap */
    struct batch *batches, *last_batch;    /* by priority, then age */
    struct batch *waiting, *last_waiting;  /* those with SUBMITTED jobs, in the same order */
    struct batch **by_id;                  /* batch_count of them, ascending */
    struct batch **by_name;                /* open addressing, linear probing */
    size_t by_id_cap, by_name_cap;
    size_t extra_bytes, max_extra_bytes;
    struct prefixes prefixes;
    uint64_t now_ns;
    uint64_t wall_ms; /* 0: not known */
    unsigned day_min;
    size_t suspects;              /* unfinished jobs with a loss */
    struct turns_line turns[256]; /* by priority: whose turn it is, of users with waiting jobs */
    struct user **users;          /* by priority and name */
    size_t users_count, users_cap;
};

/* jobs_batches.c: the batch gets its first waiting job, or has lost its last. */
void batch_begins_waiting(struct jobs *j, struct batch *b);
void batch_ends_waiting(struct jobs *j, struct batch *b);
void batches_free(struct jobs *j);

/* jobs_turns.c: fair shares. */
enum err turns_join(struct jobs *j, struct batch *b) MUST_CHECK;
void turns_leave(struct jobs *j, struct user *u);  /* a batch that has nothing waiting */
void turns_begin(struct jobs *j, struct batch *b); /* it has waiting jobs */
void turns_end(struct jobs *j, struct batch *b);
/* Whether a batch has jobs that may start: on no worker, not on the one that asks, on that. */
enum turn_use { TURN_NOWHERE, TURN_ELSEWHERE, TURN_HERE };
/* The batch whose turn it is, of those for which `use` says TURN_HERE; NULL: there is none. last:
 * what it was before, when nothing has happened since but leases of its jobs; else NULL. */
struct batch *turns_next(struct jobs *j, struct batch *last,
                         enum turn_use (*use)(const struct batch *b, const void *user),
                         const void *user);
void turns_lease(struct jobs *j, struct job *job);     /* charges what it will cost */
void turns_give_back(struct jobs *j, struct job *job); /* it was not run to the end */
/* Of its batches, and how many they are; for jobs_check(). */
const struct turn *turns_of(const struct user *u);
size_t turns_batches(const struct user *u);
void turns_free(struct jobs *j);

/* jobs.c */
void job_move(struct jobs *j, struct job *job, enum job_state state);
uint64_t jobs_new_epoch(struct jobs *j);

/* jobs_extra.c */
struct job_extra *job_get_extra(struct job *job); /* NULL: no memory */
void job_free_extra(struct jobs *j, struct job *job);
enum err job_add_history(struct jobs *j, struct job *job, const char *reason) MUST_CHECK;

/* jobs_twins.c */
struct lease *twin_of(const struct job *job); /* NULL: none */
void twin_swap(struct job *job);              /* the twin is the job's first lease now */
bool twin_takes_over(struct job *job); /* the first lease has ended; false: there is no twin */
void twin_drop(struct job *job);

/* Room for one more job of the batch, so that a return to the queue cannot fail. */
enum err queue_reserve(struct batch *b) MUST_CHECK;
/* By the job's attempts, which may not change in between. */
void queue_push(struct job *job);
void queue_remove(struct job *job);
/* Of a batch with a heap that is not empty: who goes next to this owner. */
struct job *queue_pick(const struct jobs *j, const struct batch *b, uint64_t owner);

#endif
