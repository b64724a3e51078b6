/* A simulated night's world: GPUs, lines of work, and what has become of them. Static functions, as
 * in script.h: test_night.c includes it. */
#ifndef OCTO_TESTS_BROKER_NIGHT_H
#define OCTO_TESTS_BROKER_NIGHT_H

#include <math.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/size.h"
#include "broker/headroom.h"
#include "broker/suspects.h"
#include "tests/broker/jobs_kit.h"

enum {
    SLOTS = 32, /* sequences that a GPU runs at a time */
    QUEUE = 8,  /* and jobs that it has ready beside them */
    ROOM = SLOTS + QUEUE,
    MAX_GPUS = 300,
    MAX_BATCHES = 24,
    BEAT_S = 2,
    SILENT_S = 6, /* then a worker is lost */
    LEASE_S = 600,
    GRANT = 64,
    MAX_ATTEMPTS = 3,
};

struct work {
    uint64_t job, epoch;
    double prompt, completion, done; /* tokens */
};

enum gpu_state { GPU_UP, GPU_DOWN, GPU_HANGS };

struct gpu {
    uint64_t owner;
    double tokens_per_s; /* at full duty, all slots in use */
    double duty;
    double hot_from_s, hot_duty; /* throttles from then on; 0: never */
    enum gpu_state state;
    double until_s;  /* DOWN, HANGS */
    double silent_s; /* since when the broker has not heard of it; 0: it has */
    bool isolated;
    struct work work[ROOM];
    size_t count;
    /* what the broker knows */
    double best_tokens_per_s, job_tokens_per_s, no_twin_s;
};

/* What has become of a job, as the ledger would know it. */
struct fate {
    uint32_t batch, prompt, completion;
    uint64_t epoch; /* greatest that was given */
    uint8_t done, failed, cancelled, attempts;
    bool kills; /* its worker, half-way */
};

struct night {
    struct jobs *j;
    struct batch *batches[MAX_BATCHES];
    size_t batch_count, gpu_count, job_count, left;
    struct gpu gpus[MAX_GPUS];
    struct fate *fates; /* [job_count + 1], by id */
    double now_s, step_s;
    uint32_t generation;
    uint64_t next_owner;
    bool first_come; /* no shares, no twins */
    bool deadlines;
    double orders; /* chance of somebody's pause, change, cancel or deadline an hour */
    size_t allowed[MAX_BATCHES]; /* above max_parallel: it was lowered, or workers came
                                    back with work that was others' to do again */
    double trouble;              /* chance of a failure a GPU and hour */
    double restart;              /* chance of a broker's restart an hour */
    double served[MAX_BATCHES], starved_s[MAX_BATCHES];
    size_t twins, deaths, restarts;
    struct check_rng rng;
};

static double chance(struct night *n)
{
    return (double)(check_rng_next(&n->rng) >> 11) / (double)(UINT64_C(1) << 53);
}

static double between(struct night *n, double low, double high)
{
    return low + (high - low) * chance(n);
}

static bool happens(struct night *n, double an_hour)
{
    return chance(n) < an_hour * n->step_s / 3600;
}

static uint64_t ns(double seconds)
{
    return (uint64_t)(seconds * (double)NS_PER_S);
}

/* ---- making one ---- */

static void add_batch(struct night *n, const char *client, struct rec_SCHEDULE schedule)
{
    char user[16];
    snprintf(user, sizeof user, "%s", client);
    struct batch like = {.id = n->batch_count + 1,
                         .client = user,
                         .schedule = schedule,
                         .max_attempts = MAX_ATTEMPTS,
                         .sealed = true};
    n->batches[n->batch_count] = kit_batch(n->j, like);
    n->batch_count++;
}

static struct job job_of(const struct fate *f, uint64_t id)
{
    return (struct job){.id = id,
                        .line = id,
                        .body_bytes = 4 * f->prompt,
                        .epoch = f->epoch,
                        .attempts = f->attempts};
}

static struct night *new_night(uint64_t seed, size_t gpus, size_t jobs)
{
    struct night *n = calloc(1, sizeof *n);
    if (n == NULL || (n->fates = calloc(jobs + 1, sizeof *n->fates)) == NULL ||
        jobs_create(1, NULL, NULL, &n->j) != ERR_OK)
        abort();
    n->rng = (struct check_rng){seed};
    n->generation = 1;
    n->step_s = 1;
    n->gpu_count = gpus;
    n->job_count = n->left = jobs;
    for (size_t i = 0; i < gpus; i++)
        n->gpus[i] = (struct gpu){.owner = ++n->next_owner, .duty = 1};
    return n;
}

/* Lines of a task are alike, those of different tasks are not; some take much longer than others.
 */
static void add_jobs(struct night *n)
{
    for (uint64_t id = 1; id <= n->job_count; id++) {
        struct fate *f = &n->fates[id];
        f->batch = (uint32_t)(id * n->batch_count / (n->job_count + 1));
        f->prompt = (uint32_t)between(n, 50, 500);
        f->completion = (uint32_t)(100 * exp(between(n, 0, 1.5) + between(n, 0, 1.5)));
        struct job like = job_of(f, id);
        CHECK_ERR(jobs_add(n->j, n->batches[f->batch], &like), ERR_OK);
    }
}

static void free_night(struct night *n)
{
    jobs_destroy(&n->j);
    free(n->fates);
    free(n);
}

/* ---- the GPUs ---- */

/* Few sequences leave a GPU idle in part. */
static double speed(const struct gpu *g)
{
    double running = (double)min_u64(g->count, SLOTS);
    return g->tokens_per_s * running / (running + 4) * (SLOTS + 4) / SLOTS;
}

static void drop_work(struct gpu *g, size_t at)
{
    g->count--;
    memmove(g->work + at, g->work + at + 1, (g->count - at) * sizeof *g->work);
}

static void result(struct night *n, struct gpu *g, const struct work *w)
{
    struct fate *f = &n->fates[w->job];
    if (jobs_result(n->j, w->job, w->epoch) != JOBS_ACCEPT)
        return; /* dropped and acknowledged: done by a twin, cancelled, or another's by now */
    struct job *job = jobs_find(n->j, w->job);
    CHECK_INT(f->done + f->failed + f->cancelled, 0);
    double seconds = jobs_lease_s(n->j, job);
    if (job->tokens > 0 && seconds > 0) {
        double rate = (w->prompt + w->completion) / seconds;
        g->job_tokens_per_s =
            g->job_tokens_per_s == 0 ? rate : g->job_tokens_per_s * 0.9 + rate * 0.1;
    }
    jobs_learn(n->j, job, (uint64_t)w->prompt, (uint64_t)w->completion);
    jobs_finished(n->j, w->job);
    n->served[f->batch] += w->prompt + w->completion;
    f->done++;
    n->left--;
}

static void goes_down(struct night *n, struct gpu *g, enum gpu_state state, double for_s)
{
    g->state = state;
    g->until_s = n->now_s + for_s;
    g->silent_s = n->now_s;
    n->deaths++;
    if (state == GPU_DOWN)
        g->count = 0;
}

static void run_gpu(struct night *n, struct gpu *g)
{
    double rate = g->count == 0 ? 0 : speed(g) * g->duty / (double)min_u64(g->count, SLOTS);
    for (size_t i = 0; i < g->count && i < SLOTS; i++)
        g->work[i].done += rate * n->step_s;
    for (size_t i = 0; i < g->count && i < SLOTS;) {
        struct work w = g->work[i];
        if (n->fates[w.job].kills && w.done > (w.prompt + w.completion) / 2) {
            goes_down(n, g, GPU_DOWN, 30);
            return;
        }
        if (w.done < w.prompt + w.completion) {
            i++;
            continue;
        }
        drop_work(g, i);
        if (g->count >= SLOTS) /* who takes its place began within the step */
            g->work[SLOTS - 1].done += w.done - w.prompt - w.completion;
        result(n, g, &w);
    }
}

/* Its heartbeat: leases are renewed, what is not its own any more is dropped. */
static void beat(struct night *n, struct gpu *g)
{
    double told = speed(g);
    g->best_tokens_per_s = headroom_best(g->best_tokens_per_s, told, BEAT_S);
    for (size_t i = 0; i < g->count;) {
        struct work *w = &g->work[i];
        if (!jobs_claim(n->j, w->job, w->epoch, g->owner, 0, ns(n->now_s + LEASE_S))) {
            drop_work(g, i);
            continue;
        }
        struct job *job = jobs_find(n->j, w->job);
        if (w->epoch == job->epoch)
            job->running_tokens = (uint32_t)fmax(0, w->done - w->prompt);
        i++;
    }
}

static void allow_what_runs(struct night *n)
{
    for (size_t b = 0; b < n->batch_count; b++)
        n->allowed[b] = n->batches[b]->leased;
}

static void gpu_step(struct night *n, struct gpu *g)
{
    g->duty = g->hot_from_s > 0 && n->now_s >= g->hot_from_s ? g->hot_duty : 1;
    if (g->state != GPU_UP && n->now_s >= g->until_s) {
        bool lost = n->now_s - g->silent_s >= SILENT_S || g->state == GPU_DOWN;
        if (lost) { /* HELLO: a new session, and what it still holds */
            uint64_t old = g->owner;
            g->owner = ++n->next_owner;
            for (size_t i = 0; i < g->count;) {
                if (jobs_claim(n->j, g->work[i].job, g->work[i].epoch, g->owner, old,
                               ns(n->now_s + LEASE_S)))
                    i++;
                else
                    drop_work(g, i);
            }
            jobs_release_owner(n->j, old, g->state == GPU_DOWN, "worker restarted");
            allow_what_runs(n);
        }
        g->state = GPU_UP;
        g->silent_s = 0;
    }
    if (g->silent_s > 0 && n->now_s - g->silent_s >= SILENT_S)
        jobs_release_owner(n->j, g->owner, true, "worker silent for three heartbeats");
    if (g->state != GPU_UP)
        return;
    run_gpu(n, g);
    if (g->state == GPU_UP && happens(n, n->trouble))
        goes_down(n, g, chance(n) < 0.5 ? GPU_DOWN : GPU_HANGS, between(n, 1, 60));
    if (g->state == GPU_UP && (uint64_t)n->now_s % BEAT_S == 0)
        beat(n, g);
}

#endif
