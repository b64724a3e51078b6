/* The broker's picture of unfinished jobs: who may run which job, and what happens when a lease
 * ends.
 *
 *     SUBMITTED --jobs_lease--> LEASED --jobs_result--> STORING --jobs_finished--> DONE | FAILED
 *        ^  ^                    |  |                     |
 *        |  +---- jobs_release --+  |                     +--jobs_finished--> CANCELLED
 *        |      (NACK, drain, lost) |                     |   (in the ledger)
 *        |                          +--> DOOMED ----------|--jobs_result--> STORING
 *        |      lost alone too often, its deadline passed |
 *        +------------ jobs_store_failed -----------------+
 *
 * A job that was held by a worker when that was lost (or that a worker could not run) is a
 * *suspect*: it may have been the cause. Suspects wait apart from the others and are leased apart
 * from them, at first JOBS_TOGETHER at a time, after another loss alone. Only what is lost alone
 * counts: DOOMED after max_attempts of those. So whoever shares a worker with a killer comes
 * through, however often that happens. suspects.h says which workers look after suspects.
 *
 * A job may have two leases (jobs_twins.c); the first result wins.
 *
 * A job holds the epoch of its last lease until the next lease. A result counts while its epoch is
 * still the last one, even when that lease has run out meanwhile: nobody else has begun, and the
 * work is done. Epochs begin with the broker's generation in their high 32 bits, so they never
 * repeat over restarts; more than 2^32 leases go on into the next generation's (the ledger notes
 * that).
 *
 * After a restart, jobs that were leased come back LEASED without an owner for a grace period; a
 * worker that still holds one claims it in its HELLO. What nobody claims returns to the queue, and
 * that costs no attempt.
 *
 * Pure: no sockets, no store, no clock (now_ns is passed in). Not thread-safe: belongs to the
 * loop's thread. Bodies stay in the ledger; a job here takes about 105 bytes with its places in the
 * index and the queue. */
#ifndef OCTO_BROKER_JOBS_H
#define OCTO_BROKER_JOBS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/str.h"
#include "broker/rate.h"
#include "proto/messages.h"

/* Suspects of a first loss at a time on a worker. A worker that held hundreds of jobs and died for
 * a reason of its own is made up for in some 20 rounds; one with a killer costs 15 jobs a run
 * alone. */
enum { JOBS_TOGETHER = 16 };

enum { JOBS_DEFERRED_MOST = 11 };

/* Begins the reason of a loss that counts towards poison, in histories and in the ledger. */
#define JOBS_ALONE "alone: "

enum job_state { JOB_SUBMITTED, JOB_LEASED, JOB_STORING, JOB_DOOMED };

struct lease {
    uint64_t owner, epoch, expires_ns; /* epoch 0: none; owner 0: nobody since a restart */
    uint32_t leased_ms;                /* as a job's */
};

/* What only few jobs have. */
struct job_extra {
    struct lease twin; /* jobs_twins.c */
    char *checkpoint;  /* REC_CHECKPOINT of an earlier or running lease */
    size_t checkpoint_bytes;
    unsigned history_count;
    unsigned deferred; /* how often the ledger could not read its request */
    char *history;     /* "attempt 1: lease expired; attempt 2: ..." */
};

struct job {
    uint64_t id;
    uint64_t epoch; /* of the last lease; 0: never leased */
    uint64_t line;
    struct batch *batch;
    struct job *prev, *next; /* in the list of LEASED, STORING, DOOMED jobs or waiting suspects */
    uint64_t owner;          /* session; 0: none */
    uint64_t expires_ns;
    struct job_extra *extra;
    uint32_t body_bytes;
    uint32_t running_tokens; /* completion tokens the last BEAT named */
    uint32_t heap_pos;
    uint32_t leased_ms; /* LEASED: when, on the monotonic clock; it wraps */
    uint32_t prefix;    /* what its prompt begins with (prefixes.h); 0: nothing long */
    uint32_t tokens;    /* LEASED: what it was charged for its lease */
    uint8_t attempts;   /* leases lost so far; from 1: a suspect */
    uint8_t strikes;    /* of them while it was alone on its worker */
    uint8_t state;      /* enum job_state */
    bool alone;         /* LEASED: by itself */
};

/* A place in a line of those who take turns (jobs_turns.c). */
struct turn {
    struct turn *prev, *next;
    int64_t round;
    int64_t tokens; /* left of its turn; negative: it owes them */
    bool waits;     /* it is in the line */
    bool passed;    /* jobs_turns.c's: when last looked at */
};

struct batch_counts {
    uint64_t total, done, failed, cancelled;
    uint64_t prompt_tokens, completion_tokens; /* of finished jobs */
    uint64_t energy_uj, energy_jobs;           /* of those of them whose energy is known */
    uint64_t last_finished_ms;
};

struct batch {
    uint64_t id;
    char *name, *model; /* model "": any */
    char *client;       /* whose quota it counts for */
    uint64_t created_ms, sealed_ms;
    struct rec_SCHEDULE schedule; /* priority 1..255 */
    uint32_t max_attempts;
    bool expired;               /* its deadline has passed: nothing starts any more */
    bool sealed, cancelled;     /* cancelled: by a CANCEL of the whole batch */
    bool unnamed;               /* its name is free */
    struct batch_counts counts; /* of what is committed; total includes unfinished */
    struct rate rate;           /* finished jobs; the server's */
    uint64_t leased;            /* LEASED, STORING and DOOMED now */
    uint64_t running_tokens;    /* the server's: of its leases, when last counted */
    uint64_t bytes;             /* of its unfinished jobs' bodies */
    struct user *user;          /* all of one client and priority */
    struct turn turn;
    struct {
        double jobs, bytes, prompt_tokens, completion_tokens, seconds; /* of late */
    } learnt;                                                          /* from results */
    uint64_t coming_jobs, coming_bytes; /* the server's: on their way to the ledger */
    uint32_t coming;                    /* submits that are */
    struct job **heap;                  /* SUBMITTED jobs but suspects, lowest line on top */
    uint32_t heap_len, heap_cap;
    struct jobs_line {
        struct job *first, *last;
        uint32_t count;
    } suspects[2];      /* SUBMITTED suspects in order of their return: with others, alone */
    struct batch *next; /* by priority, then age */
    struct batch *prev_waiting, *next_waiting; /* likewise, of those with SUBMITTED jobs */
};

struct jobs;

struct jobs_events {
    /* A job went from LEASED back to SUBMITTED or to DOOMED; `counted`: that used up an attempt.
     */
    void (*on_returned)(void *user, const struct job *job, bool counted, const char *reason);
};

enum err jobs_create(uint32_t generation, const struct jobs_events *events, void *user,
                     struct jobs **ret) MUST_CHECK;
/* Epochs get 16 bits that follow from the secret and the rest of them, and of those of earlier runs
 * only such ones count: what nobody was given is not made up by chance. 0: without, for tests. */
void jobs_set_secret(struct jobs *jobs, uint64_t secret);
void jobs_destroy(struct jobs **jobs);
size_t jobs_count(const struct jobs *jobs);   /* unfinished */
size_t jobs_leased(const struct jobs *jobs);  /* LEASED ones of them */
uint64_t jobs_bytes(const struct jobs *jobs); /* of their bodies */
size_t jobs_batch_count(const struct jobs *jobs);
/* Bytes kept for checkpoints; a quarter more is for histories. What is beyond is not kept. 64 MiB
 * by itself: of some 400 jobs with 30,000 tokens each. */
void jobs_limit_extra(struct jobs *jobs, size_t max_bytes);

/* Copies what it needs. ERR_CONFLICT: there is one of that name. */
enum err jobs_add_batch(struct jobs *jobs, const struct batch *like, struct batch **ret) MUST_CHECK;
/* Changes when and how much of it runs. ERR_NOMEM: nothing has changed. */
enum err jobs_reschedule(struct jobs *jobs, struct batch *batch,
                         const struct rec_SCHEDULE *schedule) MUST_CHECK;
/* now_ns is monotonic; wall_ms and day_min are the time on the wall, Unix milliseconds and minute
 * of the local day: schedules are in it. Never called, or 0: their times are not looked at. */
void jobs_set_time(struct jobs *jobs, uint64_t now_ns, uint64_t wall_ms, unsigned day_min);
/* Whether the batch's schedule lets a job start now; and whether it does but for how many of it run
 * already. */
bool batch_may_start(const struct jobs *jobs, const struct batch *b);
bool batch_may_run(const struct jobs *jobs, const struct batch *b);
/* Its deadline has passed, now or at any time before, and there is something left to fail. */
bool batch_is_due(const struct batch *b, uint64_t wall_ms);
/* The batch's deadline has passed: up to max of its jobs become DOOMED; a result that comes before
 * the server stores their failure still counts. Returns how many. */
size_t jobs_expire_batch(struct jobs *jobs, struct batch *batch, size_t max);
/* It is not found by its name any more, which another may have. */
void jobs_unname_batch(struct jobs *jobs, struct batch *batch);
/* It has no unfinished jobs. */
void jobs_remove_batch(struct jobs *jobs, struct batch *batch);
struct batch *jobs_find_batch(const struct jobs *jobs, struct str name);
struct batch *jobs_batch(struct jobs *jobs, uint64_t id);
struct batch *jobs_first_batch(const struct jobs *jobs); /* then ->next */
/* Those with SUBMITTED jobs; then ->next_waiting */
const struct batch *jobs_first_waiting(const struct jobs *jobs);

/* What jobs_add() takes as a line's prefix; hashes as in LINE. */
uint32_t jobs_prefix(struct jobs *jobs, const uint64_t *hashes, size_t count);
/* `like` gives id, line, body_bytes, prefix; on a restart also attempts and epoch, and state
 * JOB_LEASED with expires_ns for a job that may still be held. ERR_CONFLICT: the id is there.
 * Counts nothing.
 */
enum err jobs_add(struct jobs *jobs, struct batch *batch, const struct job *like) MUST_CHECK;
struct job *jobs_find(const struct jobs *jobs, uint64_t id);
/* A loss that the ledger knows of, of a job just added: counts it when it was alone, and keeps the
 * history. */
enum err jobs_add_loss(struct jobs *jobs, struct job *job, const char *reason) MUST_CHECK;
uint64_t batch_waiting(const struct batch *b); /* SUBMITTED jobs */

/* What an owner holds: LEASED jobs. */
struct jobs_held {
    uint64_t owner;        /* first */
    size_t jobs, suspects; /* suspects: of the jobs */
    bool alone;            /* one of them is to be alone */
};
/* LEASED, STORING or DOOMED; then ->next */
const struct job *jobs_first(const struct jobs *jobs, enum job_state state);
bool job_must_be_alone(const struct job *job);
size_t jobs_suspects(const struct jobs *jobs); /* unfinished ones */

struct jobs_want {
    uint64_t owner;
    const struct jobs_held *held; /* NULL: no suspects; else only suspects, which go beside these */
    bool (*has_model)(void *user, const char *model); /* NULL: any */
    void *user;
    size_t max_jobs;
    uint64_t max_bytes; /* one job is leased even when it is larger */
    double max_tokens;  /* suspects aside: of all jobs together; 0: any number */
    uint64_t expires_ns;
};

/* Whether the owner has the model that the batch asks for; and whether a job of it may start there
 * now. */
bool batch_suits(const struct jobs_want *want, const struct batch *b);
bool batch_may_start_at(const struct jobs *jobs, const struct jobs_want *want,
                        const struct batch *b);
/* Leases jobs by priority, then whose turn it is (users of a priority and the batches of a user
 * share by tokens, jobs_turns.c), then line, but prompts
 * that begin alike go to the same owner where that costs nobody much, and gives each a new epoch.
 * Returns how many. Suspects: none while other jobs are held; one at a time that is to be alone, or
 * up to JOBS_TOGETHER of the others. */
size_t jobs_lease(struct jobs *jobs, const struct jobs_want *want, struct job **ret_jobs);
/* How many suspects wait that this one could run. */
struct jobs_waiting {
    size_t together, alone;
};
struct jobs_waiting jobs_suspects_waiting(const struct jobs *jobs, const struct jobs_want *want);
/* True: (id, epoch) is owner's lease from now to expires_ns. Renews one's own lease, and takes one
 * whose epoch is still the last: of old_owner (0: none), without an owner, or run out but not
 * leased since. */
bool jobs_claim(struct jobs *jobs, uint64_t id, uint64_t epoch, uint64_t owner, uint64_t old_owner,
                uint64_t expires_ns);

/* What a job of the batch will take: prompt and completion, from its body's length and from what
 * the batch's results were like. */
uint64_t batch_job_tokens(const struct batch *b, uint64_t body_bytes);
/* A result's tokens, before the job is forgotten. */
void jobs_learn(struct jobs *jobs, const struct job *job, uint64_t prompt_tokens,
                uint64_t completion_tokens);
double jobs_lease_s(const struct jobs *jobs,
                    const struct job *job); /* how long it has been leased */

/* A twin: a second lease of a LEASED job that is slow where it is. Both count, under epochs of
 * their own: the first result wins. When one ends the other goes on, and nobody is blamed. */
const struct lease *job_twin(const struct job *job);                     /* NULL: none */
bool job_is_held(const struct job *job, uint64_t owner, uint64_t epoch); /* by either lease */
/* Of batches that have nothing waiting and may run now: the job whose end is farthest away of those
 * that `want` would be done with well before; NULL: none. rate: how many of a job's tokens an owner
 * does in a second, 0: not known. */
struct job *jobs_straggler(const struct jobs *jobs, const struct jobs_want *want,
                           double (*rate)(void *user, uint64_t owner), void *user);
/* False: no memory, or the job is not such that it may have one. */
bool jobs_lease_twin(struct jobs *jobs, struct job *job, uint64_t owner, uint64_t expires_ns,
                     uint64_t *ret_epoch);
/* After a restart: the ledger knows of an earlier lease, too, of a job just added as LEASED.
 * Without an owner until it is claimed. */
enum err jobs_add_twin(struct job *job, uint64_t epoch, uint64_t expires_ns) MUST_CHECK;

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

/* Ends a lease that owner (0: anyone) holds. counts: the job may have been the cause. False: not
 * its lease. */
bool jobs_release(struct jobs *jobs, uint64_t id, uint64_t epoch, uint64_t owner, bool counts,
                  const char *reason);
/* All leases of an owner. Returns how many. */
size_t jobs_release_owner(struct jobs *jobs, uint64_t owner, bool counts, const char *reason);
/* Of items sorted by owner, which is their first member; NULL: none has that one. */
void *jobs_find_owner(const void *items, size_t count, size_t item_bytes, uint64_t owner);
/* And of many owners, sorted, in one look at all leases. */
struct jobs_gone {
    uint64_t owner;
    size_t ret_jobs; /* how many it had */
};
void jobs_release_owners(struct jobs *jobs, struct jobs_gone *gone, size_t count, bool counts,
                         const char *reason);
/* The ledger cannot read the request of owner's lease just now: nobody holds the job for a second,
 * then for two, four, ...; then it is back in the queue. False: not its lease, or that was the
 * JOBS_DEFERRED_MOST-th time (after 17 minutes), and it is as it was. */
bool jobs_defer(struct jobs *jobs, uint64_t id, uint64_t epoch, uint64_t owner, uint64_t now_ns);
/* The owner's leases run until expires_ns at least. */
void jobs_renew_owner(struct jobs *jobs, uint64_t owner, uint64_t expires_ns);
/* All leases that ended by now_ns. Returns how many. */
size_t jobs_expire(struct jobs *jobs, uint64_t now_ns);
/* Moves the end of all leases. */
void jobs_delay(struct jobs *jobs, uint64_t by_ns);
/* One DOOMED job, or NULL. jobs_result(id, epoch) takes it from here; if its write fails it is
 * back. */
struct job *jobs_doomed(struct jobs *jobs);
const char *jobs_history(const struct job *job); /* "" when nothing is known */

/* Replaces the job's checkpoint; dropped silently when memory for them is used up: it only saves
 * work. */
void jobs_keep_checkpoint(struct jobs *jobs, struct job *job, struct str checkpoint);
struct str jobs_checkpoint(const struct job *job);

/* Aborts when an invariant is broken; for tests. */
void jobs_check(const struct jobs *jobs);

#endif
