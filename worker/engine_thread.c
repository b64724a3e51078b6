/* See engine_thread.h. */
#include "worker/engine_thread.h"

#include <assert.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "worker/pacer.h"
#include "worker/queue.h"

enum command_kind { COMMAND_ADD, COMMAND_CANCEL, COMMAND_PROGRESS, COMMAND_HAND_BACK };

struct command {
    enum command_kind kind;
    struct job *job;
    uint64_t serial;
    bool running_too;
};

struct engine_thread {
    pthread_t thread;
    engine_open_fn *open;
    void *open_user;
    struct engine_port port;
    struct engine_info info; /* a copy: a lost engine is gone before its thread's owner is */
    const struct job_context *context;
    struct core *core;
    struct queue *commands; /* struct command */
    struct queue *events;   /* struct thread_event */
    void (*wake)(void *user);
    void *wake_user;
    struct pacer pacer;
    atomic_bool stop;
    atomic_uint delay_us;
    unsigned validation_errors;

    pthread_mutex_t mutex; /* over what follows */
    pthread_cond_t changed;
    bool opened, go;
    enum err open_err;
    struct err_msg open_why;
    struct thread_stats stats;
    struct energy_meter meter;
};

void thread_event_free(struct thread_event *ev)
{
    buf_free(&ev->body);
    for (size_t i = 0; i < ev->progress_count; i++)
        buf_free(&ev->progress[i].checkpoint);
    free(ev->progress);
    ev->progress = NULL;
    ev->progress_count = 0;
}

static void emit(struct engine_thread *t, struct thread_event *ev)
{
    if (queue_push_wait(t->events, ev) != ERR_OK)
        thread_event_free(ev); /* stopping: nobody listens */
    else
        t->wake(t->wake_user);
}

static uint64_t wall_ms(void *user)
{
    (void)user;
    return clock_wall_ms();
}

static bool energy(void *user, double *ret_joules)
{
    struct engine_thread *t = user;
    pthread_mutex_lock(&t->mutex);
    struct energy_meter meter = t->meter;
    pthread_mutex_unlock(&t->mutex);
    return energy_at(&meter, clock_mono_ns(), ret_joules);
}

static void on_result(void *user, uint64_t serial, struct buf *body, uint64_t prompt_tokens,
                      uint64_t completion_tokens, double energy_j)
{
    struct thread_event ev = {
        .kind = THREAD_RESULT,
        .serial = serial,
        .body = *body,
        .prompt_tokens = prompt_tokens,
        .completion_tokens = completion_tokens,
        .energy_j = energy_j,
    };
    *body = (struct buf){0};
    emit(user, &ev);
}

static void on_nack(void *user, uint64_t serial, bool counts, const char *reason,
                    struct buf *checkpoint)
{
    struct thread_event ev = {
        .kind = THREAD_NACK, .serial = serial, .counts = counts, .body = *checkpoint};
    snprintf(ev.reason, sizeof ev.reason, "%s", reason);
    *checkpoint = (struct buf){0};
    emit(user, &ev);
}

static void report_progress(struct engine_thread *t)
{
    uint64_t vram_free = t->port.vram_free(t->port.impl);
    pthread_mutex_lock(&t->mutex);
    t->stats.vram_free_bytes = vram_free;
    pthread_mutex_unlock(&t->mutex);
    size_t max = t->port.info(t->port.impl)->max_seqs;
    struct thread_event ev = {.kind = THREAD_PROGRESS,
                              .progress = calloc(max, sizeof *ev.progress)};
    if (ev.progress == NULL)
        return; /* the next BEAT tells the old figures */
    ev.progress_count = core_progress(t->core, clock_mono_ns(), ev.progress, max);
    emit(t, &ev);
}

static void obey(struct engine_thread *t, struct command *c)
{
    switch (c->kind) {
    case COMMAND_ADD:
        core_add(t->core, &c->job);
        break;
    case COMMAND_CANCEL:
        core_cancel(t->core, c->serial);
        break;
    case COMMAND_PROGRESS:
        report_progress(t);
        break;
    case COMMAND_HAND_BACK:
        core_hand_back(t->core, c->running_too, false, "the worker leaves");
        break;
    }
}

static void publish(struct engine_thread *t, uint64_t step_gpu_ns)
{
    struct core_stats core = core_stats(t->core);
    uint64_t kv_free = t->port.kv_tokens_free(t->port.impl);
    pthread_mutex_lock(&t->mutex);
    t->stats.core = core;
    t->stats.gpu_ns += step_gpu_ns;
    t->stats.kv_tokens_free = kv_free;
    pthread_mutex_unlock(&t->mutex);
}

/* Steps until stopped or the device fails. */
static void work(struct engine_thread *t)
{
    struct command c;
    while (!atomic_load(&t->stop)) {
        if (core_idle(t->core)) {
            publish(t, 0);
            if (!queue_pop_wait(t->commands, &c))
                return;
            obey(t, &c);
        }
        while (queue_pop(t->commands, &c))
            obey(t, &c);
        struct err_msg why = {{0}};
        uint64_t step_gpu_ns = 0;
        enum err e = core_step(t->core, clock_mono_ns(), &step_gpu_ns, &why);
        if (e == ERR_AGAIN)
            continue;
        if (e != ERR_OK) {
            core_hand_back(t->core, true, true, why.text);
            struct thread_event lost = {.kind = THREAD_LOST};
            snprintf(lost.reason, sizeof lost.reason, "%.150s", why.text);
            emit(t, &lost);
            return;
        }
        publish(t, step_gpu_ns);
        uint64_t rest_ns = pacer_rest_ns(&t->pacer, step_gpu_ns, clock_mono_ns(),
                                         atomic_load(&t->delay_us) / 1000.0);
        if (rest_ns > 0)
            queue_rest(t->commands, rest_ns);
    }
}

/* Tells the starter how opening went; true when it is time to work. */
static bool open_engine(struct engine_thread *t)
{
    struct err_msg why = {{0}};
    enum err e = t->open(t->open_user, &t->port, &why);
    if (e == ERR_OK)
        t->info = *t->port.info(t->port.impl);
    pthread_mutex_lock(&t->mutex);
    t->opened = true;
    t->open_err = e;
    t->open_why = why;
    if (e == ERR_OK)
        t->stats.kv_tokens_free = t->port.kv_tokens_free(t->port.impl);
    pthread_cond_broadcast(&t->changed);
    while (e == ERR_OK && !t->go)
        pthread_cond_wait(&t->changed, &t->mutex);
    pthread_mutex_unlock(&t->mutex);
    return e == ERR_OK;
}

static void *thread_main(void *user)
{
    struct engine_thread *t = user;
    if (!open_engine(t))
        return NULL;
    if (t->core != NULL)
        work(t);
    core_destroy(&t->core);
    t->validation_errors = t->port.validation_errors(t->port.impl);
    t->port.close(t->port.impl);
    return NULL;
}

static void destroy(struct engine_thread *t)
{
    struct command c;
    struct thread_event ev;
    while (t->commands != NULL && queue_pop(t->commands, &c))
        job_destroy(&c.job);
    while (t->events != NULL && queue_pop(t->events, &ev))
        thread_event_free(&ev);
    queue_destroy(&t->commands);
    queue_destroy(&t->events);
    pthread_mutex_destroy(&t->mutex);
    pthread_cond_destroy(&t->changed);
    free(t);
}

enum err engine_thread_start(engine_open_fn *open, void *user, struct engine_thread **ret,
                             struct err_msg *why)
{
    struct engine_thread *t = calloc(1, sizeof *t);
    if (t == NULL)
        return err_set(why, ERR_NOMEM, "engine thread: out of memory");
    t->open = open;
    t->open_user = user;
    pthread_mutex_init(&t->mutex, NULL);
    pthread_cond_init(&t->changed, NULL);
    if (pthread_create(&t->thread, NULL, thread_main, t) != 0) {
        destroy(t);
        return err_set(why, ERR_NOMEM, "engine thread: cannot start");
    }
    pthread_mutex_lock(&t->mutex);
    while (!t->opened)
        pthread_cond_wait(&t->changed, &t->mutex);
    enum err e = t->open_err;
    if (e != ERR_OK && why != NULL)
        *why = t->open_why;
    pthread_mutex_unlock(&t->mutex);
    if (e != ERR_OK) {
        pthread_join(t->thread, NULL);
        destroy(t);
        return e;
    }
    *ret = t;
    return ERR_OK;
}

const struct engine_info *engine_thread_info(const struct engine_thread *t)
{
    return &t->info;
}

enum err engine_thread_run(struct engine_thread *t, const struct job_context *context,
                           void (*wake)(void *user), void *user)
{
    struct core_events events = {.user = t,
                                 .wall_ms = wall_ms,
                                 .on_result = on_result,
                                 .on_nack = on_nack,
                                 .energy = energy};
    size_t max = engine_thread_info(t)->max_seqs;
    t->context = context;
    t->wake = wake;
    t->wake_user = user;
    enum err e = queue_create(sizeof(struct command), 8 * max + 256, &t->commands);
    if (e == ERR_OK)
        e = queue_create(sizeof(struct thread_event), 8 * max + 256, &t->events);
    if (e == ERR_OK)
        e = core_create(&t->port, context, &events, &t->core);
    if (e != ERR_OK)
        return e;
    pthread_mutex_lock(&t->mutex);
    t->go = true;
    pthread_cond_broadcast(&t->changed);
    pthread_mutex_unlock(&t->mutex);
    return ERR_OK;
}

enum err engine_thread_add(struct engine_thread *t, struct job **job)
{
    struct command c = {.kind = COMMAND_ADD, .job = *job};
    enum err e = queue_push(t->commands, &c);
    if (e == ERR_OK)
        *job = NULL;
    return e;
}

static void command(struct engine_thread *t, struct command c)
{
    if (queue_push(t->commands, &c) != ERR_OK)
        log_debug("engine thread is busy, command dropped kind=%d", (int)c.kind);
}

void engine_thread_cancel(struct engine_thread *t, uint64_t serial)
{
    command(t, (struct command){.kind = COMMAND_CANCEL, .serial = serial});
}

void engine_thread_ask_progress(struct engine_thread *t)
{
    command(t, (struct command){.kind = COMMAND_PROGRESS});
}

void engine_thread_hand_back(struct engine_thread *t, bool running_too)
{
    command(t, (struct command){.kind = COMMAND_HAND_BACK, .running_too = running_too});
    queue_wake(t->commands);
}

void engine_thread_set_delay(struct engine_thread *t, double delay_ms)
{
    atomic_store(&t->delay_us, (unsigned)(delay_ms * 1000));
}

void engine_thread_set_meter(struct engine_thread *t, const struct energy_meter *meter)
{
    pthread_mutex_lock(&t->mutex);
    t->meter = *meter;
    pthread_mutex_unlock(&t->mutex);
}

bool engine_thread_poll(struct engine_thread *t, struct thread_event *ret)
{
    return queue_pop(t->events, ret);
}

struct thread_stats engine_thread_stats(struct engine_thread *t)
{
    pthread_mutex_lock(&t->mutex);
    struct thread_stats stats = t->stats;
    pthread_mutex_unlock(&t->mutex);
    return stats;
}

unsigned engine_thread_stop(struct engine_thread **t)
{
    if (t == NULL || *t == NULL)
        return 0;
    atomic_store(&(*t)->stop, true);
    if ((*t)->commands != NULL)
        queue_close((*t)->commands);
    if ((*t)->events != NULL)
        queue_close((*t)->events);
    pthread_mutex_lock(&(*t)->mutex);
    (*t)->go = true;
    pthread_cond_broadcast(&(*t)->changed);
    pthread_mutex_unlock(&(*t)->mutex);
    pthread_join((*t)->thread, NULL);
    unsigned errors = (*t)->validation_errors;
    destroy(*t);
    *t = NULL;
    return errors;
}
