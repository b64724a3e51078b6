/* The broker's picture of unfinished jobs: who may run which job, and what happens when a lease
 * ends.
 *
 *     SUBMITTED --jobs_lease--> LEASED --jobs_result--> STORING --jobs_finished--> DONE | FAILED
 *       ^  ^  ^                   |  \                     |                      (leaves the
 * index) |  |  |                   |   \--jobs_finished (cancelled in the ledger)--> CANCELLED |  |
 * +-- jobs_release ---+                        | |  |      (NACK, drain, lost lease, dead worker) |
 *       |  +--------- jobs_store_failed -------------------+
 *       |                         |
 *       |                         +-- attempts used up --> POISONED --jobs_result--> STORING
 *
 * A job holds the epoch of its last lease until the next lease. A result counts while its epoch is
 * still the last one, even when that lease has run out meanwhile: nobody else has begun, and the
 * work is done. Epochs carry the broker's generation in their high 32 bits, so they never repeat
 * over restarts.
 *
 * After a restart, jobs that were leased come back LEASED without an owner for a grace period; a
 * worker that still holds one claims it in its HELLO. What nobody claims returns to the queue, and
 * that costs no attempt.
 *
 * Pure: no sockets, no store, no clock (now_ns is passed in). Not thread-safe: belongs to the
 * loop's thread. Bodies stay in the ledger; a job here takes about 130 bytes with its places in the
 * index and the queue. */
#ifndef OCTO_BROKER_JOBS_H
#define OCTO_BROKER_JOBS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/str.h"

enum job_state { JOB_SUBMITTED, JOB_LEASED, JOB_STORING, JOB_POISONED };

/* What only few jobs have. */
struct job_extra {
    char *checkpoint; /* REC_CHECKPOINT of an earlier or running lease */
    size_t checkpoint_bytes;
    unsigned history_count;
    char *history; /* "attempt 1: lease expired; attempt 2: ..." */
};

struct job {
    uint64_t id;
    uint64_t epoch; /* of the last lease; 0: never leased */
    uint64_t line;
    struct batch *batch;
    struct job *prev, *next; /* in the list of LEASED, STORING or POISONED jobs */
    uint64_t owner;          /* session; 0: none */
    uint64_t expires_ns;
    struct job_extra *extra;
    uint32_t body_bytes;
    uint32_t running_tokens; /* completion tokens the last BEAT named */
    uint32_t heap_pos;
    uint8_t attempts; /* leases lost so far */
    uint8_t state;    /* enum job_state */
};

struct batch_counts {
    uint64_t total, done, failed, cancelled;
    uint64_t prompt_tokens, completion_tokens; /* of finished jobs */
    uint64_t last_finished_ms;
};

struct batch {
    uint64_t id;
    char *name, *model; /* model "": any */
    uint64_t created_ms, sealed_ms;
    uint32_t priority, max_attempts;
    bool sealed, cancelled;     /* cancelled: by a CANCEL of the whole batch */
    struct batch_counts counts; /* of what is committed; total includes unfinished */
    uint64_t leased;            /* LEASED, STORING and POISONED now */
    struct job **heap;          /* SUBMITTED jobs, lowest line on top */
    uint32_t heap_len, heap_cap;
    struct batch *next; /* by priority, then age */
};

struct jobs;

struct jobs_events {
    /* A job went from LEASED back to SUBMITTED or to POISONED; `counted`: that used up an attempt.
     */
    void (*on_returned)(void *user, const struct job *job, bool counted, const char *reason);
};

enum err jobs_create(uint32_t generation, const struct jobs_events *events, void *user,
                     struct jobs **ret) MUST_CHECK;
void jobs_destroy(struct jobs **jobs);
size_t jobs_count(const struct jobs *jobs); /* unfinished */
/* Bytes kept for checkpoints and histories; more than max is not kept. */
void jobs_limit_extra(struct jobs *jobs, size_t max_bytes);

/* Copies what it needs; name must be new. */
enum err jobs_add_batch(struct jobs *jobs, const struct batch *like, struct batch **ret) MUST_CHECK;
struct batch *jobs_find_batch(const struct jobs *jobs, struct str name);
struct batch *jobs_batch(struct jobs *jobs, uint64_t id);
struct batch *jobs_first_batch(const struct jobs *jobs); /* then ->next */

/* `like` gives id, line, body_bytes; on a restart also attempts and epoch, and state JOB_LEASED
 * with expires_ns for a job that may still be held. ERR_CONFLICT: the id is there. Counts nothing.
 */
enum err jobs_add(struct jobs *jobs, struct batch *batch, const struct job *like) MUST_CHECK;
struct job *jobs_find(const struct jobs *jobs, uint64_t id);
enum err jobs_add_history(struct jobs *jobs, struct job *job, const char *reason) MUST_CHECK;

struct jobs_want {
    uint64_t owner;
    bool (*has_model)(void *user, const char *model); /* NULL: any */
    void *user;
    size_t max_jobs;
    uint64_t max_bytes; /* one job is leased even when it is larger */
    uint64_t expires_ns;
};

/* Leases the first jobs by priority, age of batch and line, and gives each a new epoch. Returns how
 * many. */
size_t jobs_lease(struct jobs *jobs, const struct jobs_want *want, struct job **ret_jobs);
/* True: (id, epoch) is owner's lease from now to expires_ns. Renews one's own lease, and takes one
 * whose epoch is still the last: of old_owner (0: none), without an owner, or run out but not
 * leased since. */
bool jobs_claim(struct jobs *jobs, uint64_t id, uint64_t epoch, uint64_t owner, uint64_t old_owner,
                uint64_t expires_ns);

enum jobs_verdict {
    JOBS_ACCEPT, /* the job is STORING now: write the result, then jobs_finished or
                    jobs_store_failed */
    JOBS_STALE,  /* a later lease exists */
    JOBS_GONE    /* not among the unfinished: the ledger knows more */
};
enum jobs_verdict jobs_result(struct jobs *jobs, uint64_t id, uint64_t epoch);
/* The ledger has it as done, failed or cancelled: forget it. An unknown id is ignored. */
void jobs_finished(struct jobs *jobs, uint64_t id);
/* The write failed: the lease goes on (its owner sends again), or back to the queue without an
 * owner. */
void jobs_store_failed(struct jobs *jobs, uint64_t id, uint64_t epoch, uint64_t expires_ns);

/* Ends a lease that owner (0: anyone) holds. counts: one attempt less. False: not its lease. */
bool jobs_release(struct jobs *jobs, uint64_t id, uint64_t epoch, uint64_t owner, bool counts,
                  const char *reason);
/* All leases of an owner. Returns how many. */
size_t jobs_release_owner(struct jobs *jobs, uint64_t owner, bool counts, const char *reason);
/* All leases that ended by now_ns. Returns how many. */
size_t jobs_expire(struct jobs *jobs, uint64_t now_ns);
/* Moves the end of all leases. */
void jobs_delay(struct jobs *jobs, uint64_t by_ns);
/* One POISONED job, or NULL. jobs_result(id, epoch) takes it from here; if its write fails it is
 * back. */
struct job *jobs_poisoned(struct jobs *jobs);
const char *jobs_history(const struct job *job); /* "" when nothing is known */

/* Replaces the job's checkpoint; dropped silently when memory for them is used up: it only saves
 * work. */
void jobs_keep_checkpoint(struct jobs *jobs, struct job *job, struct str checkpoint);
struct str jobs_checkpoint(const struct job *job);
/* How many leases the owner has, and how many completion tokens the batch's leases made so far. */
size_t jobs_owned(const struct jobs *jobs, uint64_t owner);
uint64_t jobs_running_tokens(const struct jobs *jobs, const struct batch *batch);

/* Aborts when an invariant is broken; for tests. */
void jobs_check(const struct jobs *jobs);

#endif
