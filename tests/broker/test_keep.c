/* Batches that come and go in the index, found by name and id and in their order; and the time that
 * ages go by. */
#include <inttypes.h>
#include <time.h>

#include "base/clock.h"
#include "broker/server_internal.h"
#include "tests/check.h"

enum { BATCHES = 300, STEPS = 6000 };

static struct batch *there[BATCHES]; /* by number; its id changes each time it comes */
static char names[BATCHES][24];

static void compare(struct jobs *jobs, size_t count)
{
    size_t seen = 0;
    const struct batch *before = NULL;
    for (const struct batch *b = jobs_first_batch(jobs); b != NULL; b = b->next) {
        CHECK(before == NULL || before->schedule.priority > b->schedule.priority ||
              (before->schedule.priority == b->schedule.priority && before->id < b->id));
        before = b;
        seen++;
    }
    CHECK_INT(seen, count);
    CHECK_INT(jobs_batch_count(jobs), count);
    for (size_t i = 0; i < BATCHES; i++) {
        CHECK(jobs_find_batch(jobs, str_of(names[i])) == there[i]);
        CHECK(there[i] == NULL || jobs_batch(jobs, there[i]->id) == there[i]);
    }
    jobs_check(jobs);
}

static void test_batches(void)
{
    struct check_rng rng = check_rng_start(7);
    struct jobs *jobs = NULL;
    uint64_t last_id = 0, gone_id = 0;
    size_t count = 0;
    CHECK_ERR(jobs_create(1, &(struct jobs_events){0}, NULL, &jobs), ERR_OK);
    for (size_t i = 0; i < BATCHES; i++)
        snprintf(names[i], sizeof names[i], "night-%zu", i);
    for (size_t step = 0; step < STEPS; step++) {
        size_t i = check_rng_below(&rng, BATCHES);
        if (there[i] == NULL && check_rng_below(&rng, 3) > 0) {
            static char none[] = "";
            char client[16]; /* nearly each has its own: they are forgotten with their batches */
            snprintf(client, sizeof client, "u%zu", i / 2);
            struct batch like = {
                .id = ++last_id, .name = names[i], .model = none, .client = client};
            like.schedule.priority = 100 + check_rng_below(&rng, 3);
            like.max_attempts = 3;
            CHECK_ERR(jobs_add_batch(jobs, &like, &there[i]), ERR_OK);
            CHECK_ERR(jobs_add_batch(jobs, &like, &there[i]), ERR_CONFLICT);
            count++;
            if (check_rng_below(&rng, 4) == 0) { /* it has had a job */
                struct job job = {.id = last_id, .line = 1, .body_bytes = 5};
                CHECK_ERR(jobs_add(jobs, there[i], &job), ERR_OK);
                jobs_finished(jobs, job.id);
            }
        } else if (there[i] != NULL && check_rng_below(&rng, 3) == 0) {
            struct rec_SCHEDULE other = {.priority = 100 + check_rng_below(&rng, 3)};
            CHECK_ERR(jobs_reschedule(jobs, there[i], &other), ERR_OK);
        } else if (there[i] != NULL) {
            gone_id = there[i]->id;
            jobs_remove_batch(jobs, there[i]);
            CHECK(jobs_batch(jobs, gone_id) == NULL);
            there[i] = NULL;
            count--;
        }
        if (step % 500 == 0)
            compare(jobs, count);
    }
    compare(jobs, count);
    jobs_destroy(&jobs);
}

/* A batch that is about to go gives its name to another. */
static void test_name_again(void)
{
    struct jobs *jobs = NULL;
    struct batch *old = NULL, *other = NULL;
    char name[] = "night";
    CHECK_ERR(jobs_create(1, &(struct jobs_events){0}, NULL, &jobs), ERR_OK);
    CHECK_ERR(jobs_add_batch(jobs, &(struct batch){.id = 1, .name = name}, &old), ERR_OK);
    jobs_unname_batch(jobs, old);
    CHECK(jobs_find_batch(jobs, str_of(name)) == NULL && jobs_batch(jobs, 1) == old);
    CHECK_ERR(jobs_add_batch(jobs, &(struct batch){.id = 2, .name = name}, &other), ERR_OK);
    jobs_unname_batch(jobs, old);
    CHECK(jobs_find_batch(jobs, str_of(name)) == other);
    jobs_check(jobs);
    jobs_remove_batch(jobs, old);
    CHECK(jobs_find_batch(jobs, str_of(name)) == other && jobs_batch(jobs, 1) == NULL);
    jobs_check(jobs);
    jobs_destroy(&jobs);
}

/* Thousands that wait: a start takes them in, and the oldest and the newest get jobs one by one,
 * without looking at all of them for each. */
static void test_many_wait(void)
{
    enum { MANY = 32768, MOST_MS = 1500 };
    struct jobs *jobs = NULL;
    struct timespec begin, end;
    CHECK_ERR(jobs_create(1, &(struct jobs_events){0}, NULL, &jobs), ERR_OK);
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &begin);
    for (uint64_t id = 1; id <= MANY; id++) {
        struct batch *b = NULL;
        char name[24];
        snprintf(name, sizeof name, "night-%" PRIu64, id);
        CHECK_ERR(jobs_add_batch(jobs, &(struct batch){.id = id, .name = name}, &b), ERR_OK);
        b->max_attempts = 3;
        CHECK_ERR(jobs_add(jobs, b, &(struct job){.id = id, .line = 1}), ERR_OK);
    }
    for (uint64_t i = 0; i < MANY; i++) {
        uint64_t id = i % 2 == 0 ? 1 : MANY;
        jobs_finished(jobs, id);
        CHECK_ERR(jobs_add(jobs, jobs_batch(jobs, id), &(struct job){.id = id, .line = 1}), ERR_OK);
    }
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &end);
    long ms = (end.tv_sec - begin.tv_sec) * 1000 + (end.tv_nsec - begin.tv_nsec) / 1000000;
    printf("%d batches that wait: %ld ms\n", MANY, ms);
    CHECK(ms < MOST_MS);
    jobs_check(jobs);
    jobs_destroy(&jobs);
}

static const uint64_t hour = 3600000, begin = 1700000000000, year = UINT64_C(31557600000);

/* A run that begins at that time by the wall, with what the one before noted; keep: 30 days. */
static bool starts(struct keep_clock *c, uint64_t wall_ms)
{
    struct keep_note noted = c->note;
    return keep_clock_start(c, &noted, 0, wall_ms, UINT64_C(30) * 24 * hour);
}

/* A clock that is set makes nothing older than it is, while a broker runs. */
static void test_time(void)
{
    uint64_t after = hour * NS_PER_MS;
    struct keep_clock c = {0};
    CHECK(!starts(&c, begin));
    CHECK_INT(keep_clock_ms(&c, begin, 0), begin);
    CHECK_INT(keep_clock_ms(&c, begin + hour, after), begin + hour);
    CHECK_INT(keep_clock_ms(&c, begin + year, after), begin + hour);
    CHECK_INT(keep_clock_ms(&c, begin - year, after), begin - year);
    CHECK_INT(c.note.at_ms, begin + hour);
    /* the next run: a weekend later; by a clock that was set back, and then right again */
    CHECK(!starts(&c, begin + 65 * hour));
    CHECK_INT(keep_clock_ms(&c, begin + 66 * hour, after), begin + 66 * hour);
    CHECK(!starts(&c, begin - year));
    CHECK_INT(keep_clock_ms(&c, begin - year + hour, after), begin - year + hour);
    CHECK(!starts(&c, begin + 80 * hour));
    CHECK_INT(keep_clock_ms(&c, begin + 81 * hour, after), begin + 81 * hour);
}

/* Nor over a restart: only what has stayed ahead for as long as batches are kept is believed. */
static void test_time_over_restarts(void)
{
    uint64_t hour_ns = hour * NS_PER_MS, seen = 0, wall = begin + year, last = 0;
    struct keep_clock c = {0};
    CHECK(!starts(&c, begin));
    for (int run = 0; run < 100 && last < begin + year; run++) { /* of 10 hours, 2 hours apart */
        CHECK(starts(&c, wall));
        for (uint64_t h = 0; h <= 10; h++) {
            last = keep_clock_ms(&c, wall + h * hour, h * hour_ns);
            CHECK(last <= begin + hour * (seen + h + 2 * (uint64_t)run) || seen + h >= 30 * 24);
        }
        seen += 10;
        wall += 12 * hour;
    }
    CHECK_INT(seen, 30 * 24);
    CHECK(!starts(&c, wall));
    CHECK_INT(keep_clock_ms(&c, wall, 0), wall);
    /* ahead again, and put right before it is believed */
    CHECK(starts(&c, wall + year));
    CHECK_INT(keep_clock_ms(&c, wall + year + hour, hour_ns), wall + hour);
    CHECK(!starts(&c, wall + 2 * hour));
    CHECK_INT(keep_clock_ms(&c, wall + 2 * hour, 0), wall + 2 * hour);
    /* ahead, and put right while the broker runs on for months */
    CHECK(starts(&c, wall + year));
    uint64_t month = UINT64_C(30) * 24 * hour;
    CHECK_INT(keep_clock_ms(&c, wall + 2 * hour + month, month * NS_PER_MS),
              wall + 2 * hour + month);
    CHECK(c.note.at_ms < wall + year);
    /* a ledger without a note: by what is in it */
    struct keep_note none = {0};
    CHECK(keep_clock_start(&c, &none, begin, begin + year, hour));
    CHECK_INT(keep_clock_ms(&c, begin + year, 0), begin);
    CHECK(!keep_clock_start(&c, &none, begin + year, begin, hour));
    CHECK_INT(keep_clock_ms(&c, begin, 0), begin);
}

int main(void)
{
    test_batches();
    test_name_again();
    test_many_wait();
    test_time();
    test_time_over_restarts();
    return check_report();
}
