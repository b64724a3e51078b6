/* Schedules of batches (jobs.h): what may start when, changes while jobs run, deadlines. */
#include "tests/broker/jobs_kit.h"

static struct batch *new_batch(struct jobs *j, uint64_t id, struct rec_SCHEDULE schedule,
                               size_t count)
{
    struct batch *b =
        kit_batch(j, (struct batch){.id = id, .schedule = schedule, .max_attempts = 1});
    for (uint64_t i = 1; i <= count; i++)
        CHECK_ERR(jobs_add(j, b, &(struct job){.id = id * 100 + i, .line = i, .body_bytes = 10}),
                  ERR_OK);
    return b;
}

static size_t lease(struct jobs *j, uint64_t now_ms, unsigned day_min, size_t max, struct job **got)
{
    jobs_set_time(j, 1, now_ms, day_min);
    struct jobs_want want = {.owner = 1, .max_jobs = max, .max_bytes = 1 << 20, .expires_ns = 1000};
    return jobs_lease(j, &want, got);
}

static void test_times(void)
{
    static const struct {
        struct rec_SCHEDULE schedule;
        uint64_t now_ms;
        unsigned day_min;
        bool starts;
    } cases[] = {
        {{0}, 50, 0, true},
        {{.paused = true}, 50, 0, false},
        {{.not_before_ms = 51}, 50, 0, false},
        {{.not_before_ms = 50}, 50, 0, true},
        {{.not_after_ms = 50}, 50, 0, false},
        {{.not_after_ms = 51}, 50, 0, true},
        {{.daily_from_min = 60, .daily_until_min = 120}, 50, 59, false},
        {{.daily_from_min = 60, .daily_until_min = 120}, 50, 60, true},
        {{.daily_from_min = 60, .daily_until_min = 120}, 50, 119, true},
        {{.daily_from_min = 60, .daily_until_min = 120}, 50, 120, false},
        {{.daily_from_min = 1320, .daily_until_min = 360}, 50, 1319, false},
        {{.daily_from_min = 1320, .daily_until_min = 360}, 50, 1320, true},
        {{.daily_from_min = 1320, .daily_until_min = 360}, 50, 0, true},
        {{.daily_from_min = 1320, .daily_until_min = 360}, 50, 360, false},
        {{.daily_from_min = 0, .daily_until_min = 1}, 50, 0, true},
        {{.daily_from_min = 0, .daily_until_min = 1}, 50, 1, false},
        {{.not_before_ms = 51}, 0, 0, true}, /* no clock: times do not count */
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct jobs *j = kit_jobs(1);
        struct job *got[4];
        new_batch(j, 1, cases[i].schedule, 2);
        check_count++;
        if (lease(j, cases[i].now_ms, cases[i].day_min, 4, got) != (cases[i].starts ? 2 : 0)) {
            fprintf(stderr, "case %zu: expected starts=%d\n", i, cases[i].starts);
            check_failures++;
        }
        jobs_destroy(&j);
    }
}

/* At most so many at a time, whoever asks; the others' jobs go on beside it. */
static void test_parallel(void)
{
    struct jobs *j = kit_jobs(1);
    struct job *got[16];
    struct batch *b = new_batch(j, 1, (struct rec_SCHEDULE){.priority = 200, .max_parallel = 3}, 8);
    struct batch *other = new_batch(j, 2, (struct rec_SCHEDULE){0}, 2);
    CHECK_INT(lease(j, 1, 0, 16, got), 5);
    CHECK_INT(b->leased, 3);
    CHECK_INT(other->leased, 2);
    CHECK_INT(lease(j, 1, 0, 16, got), 0);
    CHECK_INT(jobs_result(j, 101, jobs_find(j, 101)->epoch), JOBS_ACCEPT);
    CHECK_INT(lease(j, 1, 0, 16, got), 0); /* not stored yet */
    jobs_finished(j, 101);
    CHECK_INT(lease(j, 1, 0, 16, got), 1);
    struct rec_SCHEDULE more = b->schedule;
    more.max_parallel = 0;
    CHECK_ERR(jobs_reschedule(j, b, &more), ERR_OK);
    CHECK_INT(lease(j, 1, 0, 16, got), 4);
    jobs_check(j);
    jobs_destroy(&j);
}

/* A priority may change while jobs wait, run, or neither. */
static void test_priority(void)
{
    struct jobs *j = kit_jobs(1);
    struct job *got[4];
    struct batch *a = new_batch(j, 1, (struct rec_SCHEDULE){0}, 3);
    struct batch *b = new_batch(j, 2, (struct rec_SCHEDULE){0}, 3);
    struct batch *c = new_batch(j, 3, (struct rec_SCHEDULE){0}, 0);
    struct batch *order[] = {c, b, a};
    for (uint64_t i = 0; i < 3; i++) {
        struct rec_SCHEDULE s = order[i]->schedule;
        s.priority = 250 - i;
        CHECK_ERR(jobs_reschedule(j, order[i], &s), ERR_OK);
        jobs_check(j);
    }
    CHECK(jobs_first_batch(j) == c && c->next == b && b->next == a);
    CHECK_INT(lease(j, 1, 0, 4, got), 4);
    CHECK(got[2]->batch == b && got[3]->batch == a);
    struct rec_SCHEDULE s = a->schedule;
    s.priority = 255;
    CHECK_ERR(jobs_reschedule(j, a, &s), ERR_OK);
    CHECK_INT(jobs_release_owner(j, 1, false, "drain"), 4);
    CHECK_INT(lease(j, 1, 0, 4, got), 4);
    CHECK(got[0]->batch == a && got[2]->batch == a && got[3]->batch == b);
    jobs_check(j);
    jobs_destroy(&j);
}

/* Behind its deadline nothing starts, and nothing comes back to the queue; a result that is there
 * in time counts. */
static void test_deadline(void)
{
    struct jobs *j = kit_jobs(1);
    struct job *got[8];
    struct batch *b = new_batch(j, 1, (struct rec_SCHEDULE){0}, 6);
    struct batch *other = new_batch(j, 2, (struct rec_SCHEDULE){.priority = 1}, 2);
    CHECK_INT(lease(j, 1, 0, 3, got), 3);
    uint64_t storing = got[1]->epoch, running = got[2]->epoch;
    CHECK(jobs_release(j, 101, got[0]->epoch, 1, false, "drain"));
    CHECK_INT(jobs_result(j, 102, storing), JOBS_ACCEPT);
    CHECK_INT(jobs_expire_batch(j, b, 2), 2);
    jobs_check(j);
    CHECK_INT(jobs_expire_batch(j, b, 100), 3);
    CHECK_INT(jobs_expire_batch(j, b, 100), 0);
    CHECK_INT(batch_waiting(b), 0);
    CHECK_INT(lease(j, 1, 0, 8, got), 2);
    CHECK(got[0]->batch == other);
    CHECK(!jobs_claim(j, 103, running, 1, 0, 5000)); /* its worker is told to stop */
    CHECK_INT(jobs_result(j, 103, running), JOBS_ACCEPT);
    jobs_finished(j, 103);
    jobs_store_failed(j, 102, storing, 100);
    CHECK_INT(jobs_find(j, 102)->state, JOB_DOOMED);
    size_t failed = 0;
    for (struct job *job; (job = jobs_doomed(j)) != NULL; failed++) {
        CHECK_INT(jobs_result(j, job->id, job->epoch), JOBS_ACCEPT);
        jobs_finished(j, job->id);
    }
    CHECK_INT(failed, 5);
    CHECK_INT(jobs_count(j), 2);
    jobs_check(j);
    jobs_destroy(&j);
}

/* Past its deadline once, a batch is over for good: a clock that is set back, or a later deadline
 * that comes too late, leaves no lines that neither run nor fail. */
static void test_expired_for_good(void)
{
    struct jobs *j = kit_jobs(1);
    struct batch *b = new_batch(j, 1, (struct rec_SCHEDULE){.deadline_ms = 5000}, 3);
    CHECK(!batch_is_due(b, 4999));
    CHECK(batch_is_due(b, 5000));
    CHECK_INT(jobs_expire_batch(j, b, 2), 2);
    CHECK(batch_is_due(b, 4999));
    CHECK_ERR(jobs_reschedule(j, b, &(struct rec_SCHEDULE){.priority = 100}), ERR_OK);
    CHECK(batch_is_due(b, 4999));
    CHECK_INT(jobs_expire_batch(j, b, 2), 1);
    for (struct job *job; (job = jobs_doomed(j)) != NULL;)
        jobs_finished(j, job->id);
    CHECK(!batch_is_due(b, 5000)); /* nothing is left */
    jobs_check(j);
    jobs_destroy(&j);
}

int main(void)
{
    test_times();
    test_parallel();
    test_priority();
    test_deadline();
    test_expired_for_good();
    return check_report();
}
