/* The engine's thread and its two queues over a fake engine, for real (the thread sanitizer looks
 * on): every job ends once, whatever the order; stop, hand-back and device loss wake it. Waits on
 * the thread's own wake-ups, never on time. Arguments: octo-tiny model, golden folder (unused). */
#include <pthread.h>

#include "base/clock.h"
#include "fake_engine.h"
#include "worker/engine_thread.h"
#include "worker/queue.h"
#include "worker_kit.h"

enum { JOBS = 100 };

static struct kit kit;
static struct fake_engine fake;
static const uint32_t script[] = {300, 301, 302, 2};
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t woken = PTHREAD_COND_INITIALIZER;
static unsigned wakes;

static void on_wake(void *user)
{
    (void)user;
    pthread_mutex_lock(&mutex);
    wakes++;
    pthread_cond_signal(&woken);
    pthread_mutex_unlock(&mutex);
}

static struct thread_event next_event(struct engine_thread *t)
{
    struct thread_event ev;
    for (;;) {
        pthread_mutex_lock(&mutex);
        unsigned before = wakes;
        pthread_mutex_unlock(&mutex);
        if (engine_thread_poll(t, &ev))
            return ev;
        pthread_mutex_lock(&mutex);
        while (wakes == before)
            pthread_cond_wait(&woken, &mutex);
        pthread_mutex_unlock(&mutex);
    }
}

static struct engine_thread *start(void)
{
    struct engine_thread *t = NULL;
    struct err_msg why;
    fake_init(&fake, 4);
    fake.script = script;
    fake.script_count = 4;
    CHECK_OK(engine_thread_start(fake_open, &fake, &t, &why), why);
    CHECK_INT(engine_thread_info(t)->max_seqs, 4);
    /* a worker that joins has an empty cache, not a full one */
    CHECK_INT(engine_thread_stats(t).kv_tokens_free, fake.kv_tokens_free);
    CHECK_ERR(engine_thread_run(t, &kit.context, on_wake, NULL), ERR_OK);
    return t;
}

static void add(struct engine_thread *t, uint64_t serial, bool endless)
{
    struct job *j = NULL;
    struct job_refusal refusal;
    struct err_msg why;
    struct rec_REQUEST q = kit_request("Hello");
    q.ignore_eos = endless;
    q.max_tokens = endless ? 2000 : 100;
    CHECK_OK(kit_job(&kit, &q, (struct str){0}, serial, &j, &refusal, &why), why);
    CHECK_ERR(engine_thread_add(t, &j), ERR_OK);
    CHECK(j == NULL);
}

static void test_results(void)
{
    struct engine_thread *t = start();
    bool done[JOBS + 1] = {0};
    for (uint64_t i = 1; i <= JOBS; i++)
        add(t, i, false);
    engine_thread_ask_progress(t);
    unsigned results = 0, progress = 0;
    while (results < JOBS || progress < 1) {
        struct thread_event ev = next_event(t);
        if (ev.kind == THREAD_RESULT) {
            CHECK(ev.serial <= JOBS && !done[ev.serial] && ev.completion_tokens == 4);
            done[ev.serial] = true;
            results++;
        } else {
            CHECK_INT(ev.kind, THREAD_PROGRESS);
            progress++;
        }
        thread_event_free(&ev);
    }
    CHECK_INT(engine_thread_stats(t).vram_free_bytes, 12345);
    CHECK_INT(engine_thread_stop(&t), 0);
    CHECK(t == NULL && fake.closed && fake.misuses == 0);
}

/* The meter's joules go to the jobs from when it is set. */
static void test_energy(void)
{
    enum { WATTS = 1000000 };
    struct sensor_reading reading = {.have_power = true, .power_w = WATTS};
    struct energy_meter meter = {0};
    struct engine_thread *t = start();
    double joules = 0;
    add(t, 1, false);
    struct thread_event ev = next_event(t);
    CHECK(ev.kind == THREAD_RESULT && ev.energy_j == 0);
    thread_event_free(&ev);
    reading.read_ns = clock_mono_ns();
    energy_reading(&meter, &reading);
    engine_thread_set_meter(t, &meter);
    for (uint64_t i = 2; i <= JOBS; i++)
        add(t, i, false);
    for (unsigned results = 1; results < JOBS; results++) {
        ev = next_event(t);
        CHECK(ev.kind == THREAD_RESULT && ev.energy_j > 0);
        joules += ev.energy_j;
        thread_event_free(&ev);
    }
    double seconds = (double)(clock_mono_ns() - reading.read_ns) / (double)NS_PER_S;
    CHECK(joules <= WATTS * seconds * 1.000001);
    CHECK_INT(engine_thread_stop(&t), 0);
}

/* It rests after each quantum of the device's time. */
static void test_rests(void)
{
    enum { STEPS = 4, DELAY_MS = 5 };
    struct engine_thread *t = start();
    fake.step_ns = 50 * NS_PER_MS;
    engine_thread_set_delay(t, DELAY_MS);
    uint64_t start_ns = clock_mono_ns();
    add(t, 1, false);
    for (uint64_t i = 1; i <= 2; i++) {
        struct thread_event ev = next_event(t);
        CHECK(ev.kind == THREAD_RESULT && ev.completion_tokens == STEPS);
        thread_event_free(&ev);
        if (i == 1)
            add(t, 2, false);
    }
    CHECK(clock_mono_ns() - start_ns >= (2 * STEPS - 1) * DELAY_MS * NS_PER_MS);
    CHECK_INT(engine_thread_stop(&t), 0);
}

static void test_hand_back(void)
{
    struct engine_thread *t = start();
    fake.step_ns = 60000000; /* each step is a quantum: it rests, and is woken */
    engine_thread_set_delay(t, 400000);
    for (uint64_t i = 1; i <= 6; i++)
        add(t, i, true);
    engine_thread_hand_back(t, true);
    for (int i = 0; i < 6; i++) {
        struct thread_event ev = next_event(t);
        CHECK(ev.kind == THREAD_NACK && !ev.counts);
        thread_event_free(&ev);
    }
    add(t, 7, true);
    CHECK_INT(engine_thread_stop(&t), 0); /* in the middle of a job and of a rest */
    CHECK_INT(fake.misuses, 0);
}

static void test_lost(void)
{
    struct engine_thread *t = start();
    fake.fail_at_step = 1;
    add(t, 1, true);
    struct thread_event ev = next_event(t);
    CHECK(ev.kind == THREAD_NACK && ev.counts && ev.serial == 1);
    thread_event_free(&ev);
    ev = next_event(t);
    CHECK_INT(ev.kind, THREAD_LOST);
    CHECK_HAS(ev.reason, "DEVICE_LOST");
    thread_event_free(&ev);
    while (!fake.closed) /* the engine is gone soon, what it was is still asked for */
        sched_yield();
    CHECK_INT(engine_thread_info(t)->max_seqs, fake.info.max_seqs);
    add(t, 2, true); /* nobody is there any more: freed by stop */
    engine_thread_stop(&t);
    CHECK(fake.closed && fake.misuses == 0);
}

static enum err open_fails(void *user, struct engine_port *ret, struct err_msg *why)
{
    (void)user;
    (void)ret;
    return err_set(why, ERR_DEVICE, "no such device");
}

static void test_open_fails(void)
{
    struct engine_thread *t = NULL;
    struct err_msg why = {{0}};
    CHECK_ERR(engine_thread_start(open_fails, NULL, &t, &why), ERR_DEVICE);
    CHECK_STR(why.text, "no such device");
    CHECK(t == NULL);
    CHECK_INT(engine_thread_stop(&t), 0);
}

static void test_queue(void)
{
    struct queue *q = NULL;
    int item = 0;
    CHECK_ERR(queue_create(sizeof item, 3, &q), ERR_OK);
    CHECK(!queue_pop(q, &item));
    for (int round = 0; round < 5; round++) {
        for (int i = 0; i < 3; i++)
            CHECK_ERR(queue_push(q, &i), ERR_OK);
        CHECK_ERR(queue_push(q, &item), ERR_FULL);
        for (int i = 0; i < 3; i++)
            CHECK(queue_pop_wait(q, &item) && item == i);
    }
    item = 9;
    CHECK_ERR(queue_push(q, &item), ERR_OK);
    queue_wake(q);
    CHECK(!queue_rest(q, UINT64_C(3600000000000)));
    CHECK(queue_rest(q, 1));
    queue_close(q);
    CHECK(!queue_rest(q, UINT64_C(3600000000000)));
    CHECK(queue_pop_wait(q, &item) && item == 9); /* closed, yet not empty */
    CHECK(!queue_pop_wait(q, &item));
    queue_destroy(&q);
    CHECK(q == NULL);
}

int main(int argc, char **argv)
{
    if (argc != 3 || !kit_open(&kit, argv[1]))
        return 1;
    test_queue();
    test_open_fails();
    test_results();
    test_energy();
    test_rests();
    test_hand_back();
    test_lost();
    kit_close(&kit);
    return check_report();
}
