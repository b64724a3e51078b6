/* The engine's thread: owns the engine and the core, steps while there is work, rests as the
 * governor says. Two bounded queues join it to the loop thread: commands in, events out.
 *
 * All functions belong to the loop thread; `wake` is called on the engine's thread. */
#ifndef OCTO_WORKER_ENGINE_THREAD_H
#define OCTO_WORKER_ENGINE_THREAD_H

#include "worker/core.h"
#include "worker/energy.h"

struct engine_thread;

enum thread_event_kind { THREAD_RESULT, THREAD_NACK, THREAD_PROGRESS, THREAD_LOST };

/* The receiver owns what it points to: thread_event_free(). */
struct thread_event {
    enum thread_event_kind kind;
    uint64_t serial;
    bool counts;      /* NACK */
    char reason[160]; /* NACK, LOST */
    struct buf body;  /* RESULT: its body; NACK: a checkpoint or empty */
    uint64_t prompt_tokens, completion_tokens;
    double energy_j;                /* RESULT; 0: unknown */
    struct core_progress *progress; /* PROGRESS */
    size_t progress_count;
};
void thread_event_free(struct thread_event *ev);

struct thread_stats {
    struct core_stats core;
    uint64_t gpu_ns; /* of all steps */
    uint64_t kv_tokens_free;
    uint64_t vram_free_bytes; /* as of the last engine_thread_ask_progress() */
};

/* Starts the thread, opens the engine on it and waits for that. The engine's own error on failure.
 */
enum err engine_thread_start(engine_open_fn *open, void *user, struct engine_thread **ret,
                             struct err_msg *why) MUST_CHECK;
const struct engine_info *engine_thread_info(const struct engine_thread *t);
/* Begins to take jobs. context outlives the thread. wake: there are events to poll. */
enum err engine_thread_run(struct engine_thread *t, const struct job_context *context,
                           void (*wake)(void *user), void *user) MUST_CHECK;

/* Takes the job on success. ERR_FULL: too many commands wait. */
enum err engine_thread_add(struct engine_thread *t, struct job **job) MUST_CHECK;
/* Lost when the queue is full: the broker names a cancelled lease again. */
void engine_thread_cancel(struct engine_thread *t, uint64_t serial);
/* A PROGRESS event will come after the step that runs now. */
void engine_thread_ask_progress(struct engine_thread *t);
/* NACKs what waits and, with running_too, what runs. */
void engine_thread_hand_back(struct engine_thread *t, bool running_too);
/* Rest after each quantum of GPU work. */
void engine_thread_set_delay(struct engine_thread *t, double delay_ms);
/* What the jobs' energy is told by, from now on; copied. Until then it is unknown. */
void engine_thread_set_meter(struct engine_thread *t, const struct energy_meter *meter);

bool engine_thread_poll(struct engine_thread *t, struct thread_event *ret);
struct thread_stats engine_thread_stats(struct engine_thread *t);

/* Stops after the step that runs now, closes the engine, joins. Returns the validation layer's
 * errors. */
unsigned engine_thread_stop(struct engine_thread **t);

#endif
