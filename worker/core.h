/* What the engine's thread does between two steps, without the thread: admits jobs, turns tokens
 * into text, finds stop strings, makes results and checkpoints, hands jobs back.
 *
 *     WAITING --room in the engine--> RUNNING --all choices stop, length--> result
 *        \--cancel--> gone               \--cancel--> gone
 *         \--hand back--> NACK            \--hand back, device lost--> NACK with a checkpoint
 *
 * A job has 1 or more choices (OpenAI's n): each takes a slot of its own and is live in the engine
 * under the slot's id; the engine's prefix cache lets them share the prompt's pages. WAITING: in
 * arrival order, no choice started. RUNNING: some are started; the first job in line is RUNNING
 * while choices of it still wait for slots.
 *
 * Energy: what the device used from the end of one step to the end of the next, the rest between
 * them included, is shared by the step's tokens: a decode token counts as one, a prompt token as
 * the part of a decode token's device time that it takes on this device (decode by prefill tokens/s
 * as measured, at most one). What is used while no job runs is nobody's. A job any part of which
 * ran while the energy was not known has none; so has a job that an earlier lease began, of what
 * that lease used. One thread; time comes as an argument. */
#ifndef OCTO_WORKER_CORE_H
#define OCTO_WORKER_CORE_H

#include "base/buf.h"
#include "worker/job.h"
#include "worker/port.h"

struct core;

/* What comes out. Bodies are the receiver's from then on (it empties or frees the buf). */
struct core_events {
    void *user;
    uint64_t (*wall_ms)(void *user); /* Unix time, for results */
    void (*on_result)(void *user, uint64_t serial, struct buf *body, uint64_t prompt_tokens,
                      uint64_t completion_tokens, double energy_j); /* 0: unknown */
    void (*on_nack)(void *user, uint64_t serial, bool counts, const char *reason,
                    struct buf *checkpoint);
    /* Joules that the device has used since some moment in the past, now. False: not known. */
    bool (*energy)(void *user, double *ret_joules);
};

/* One running job's state, for a BEAT. */
struct core_progress {
    uint64_t serial;
    uint64_t completion_tokens;
    struct buf checkpoint; /* empty: none now */
};

struct core_stats {
    double prefill_tokens_per_s, decode_tokens_per_s; /* of GPU time, smoothed; 0: none yet */
    uint64_t tokens;           /* computed since start, prompts and completions */
    uint64_t prefill_tokens;   /* of them in prompts; with what was computed again */
    uint64_t cached_tokens;    /* since start: prompt tokens found in the prefix cache */
    double shared_j;           /* joules shared out since start */
    uint64_t shared_tokens;    /* and the tokens computed for them */
    uint32_t running, waiting; /* choices in the engine; jobs with choices to start */
};

/* port, context and events outlive the core; its engine's max_seqs is how many run at a time. */
enum err core_create(const struct engine_port *port, const struct job_context *context,
                     const struct core_events *events, struct core **ret) MUST_CHECK;
/* Jobs still in it are dropped without a word. */
void core_destroy(struct core **c);
void core_add(struct core *c, struct job **job);
/* Unknown serials are ignored. */
void core_cancel(struct core *c, uint64_t serial);
bool core_idle(const struct core *c);
/* Admits, runs one engine step, reports. *ret_gpu_ns: how long the device worked on the step that
 * ended. ERR_AGAIN: nothing to do. ERR_DEVICE: the device is lost; call core_hand_back(). */
enum err core_step(struct core *c, uint64_t now_ns, uint64_t *ret_gpu_ns,
                   struct err_msg *why) MUST_CHECK;
/* NACKs the waiting jobs and, with running_too, those that run; `counts`: the running ones used up
 * an attempt. */
void core_hand_back(struct core *c, bool running_too, bool counts, const char *reason);
/* Fills up to `max` entries, returns how many. A checkpoint comes with a job at most every 10 s and
 * 128 new tokens, or an eighth of those it had, and at most about 4 MiB of them at a time, in
 * turns. */
size_t core_progress(struct core *c, uint64_t now_ns, struct core_progress *entries, size_t max);
struct core_stats core_stats(const struct core *c);

#endif
