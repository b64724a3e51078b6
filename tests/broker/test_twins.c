/* jobs_twins.c: a second lease of a slow job. Named cases, then random ones. */
#include "base/clock.h"
#include "base/size.h"
#include "tests/broker/jobs_kit.h"

static struct jobs *new_jobs(struct batch **ret, size_t count)
{
    struct jobs *j = kit_jobs(1);
    *ret = kit_batch(j, (struct batch){.id = 1});
    for (uint64_t i = 1; i <= count; i++)
        CHECK_ERR(jobs_add(j, *ret, &(struct job){.id = i, .line = i, .body_bytes = 400}), ERR_OK);
    return j;
}

static struct job *lease(struct jobs *j, uint64_t owner)
{
    struct job *got[1] = {NULL};
    struct jobs_want want = {
        .owner = owner, .max_jobs = 1, .max_bytes = 1 << 20, .expires_ns = 100};
    jobs_lease(j, &want, got);
    return got[0];
}

static uint64_t twin(struct jobs *j, struct job *job, uint64_t owner)
{
    uint64_t epoch = 0;
    CHECK(jobs_lease_twin(j, job, owner, 100, &epoch));
    return epoch;
}

/* Whoever is first, the other one's result is stale for the index or the ledger, and its lease
 * over. */
static void test_first_result_wins(void)
{
    for (int second = 0; second < 2; second++) {
        struct batch *b;
        struct jobs *j = new_jobs(&b, 2);
        struct job *job = lease(j, 1);
        uint64_t first = job->epoch, again = twin(j, job, 2);
        CHECK(again != first && job_is_held(job, 1, first) && job_is_held(job, 2, again));
        CHECK(!job_is_held(job, 1, again) && !job_is_held(job, 2, first));
        CHECK_INT(b->leased, 1);
        CHECK_INT(leases_of(j, 1), 1);
        CHECK_INT(leases_of(j, 2), 1);
        CHECK(!jobs_lease_twin(j, job, 3, 100, &again)); /* two are enough */
        CHECK(jobs_claim(j, 1, first, 1, 0, 200) && jobs_claim(j, 1, again, 2, 0, 200));
        CHECK(!jobs_claim(j, 1, first, 2, 0, 200) && !jobs_claim(j, 1, again, 1, 0, 200));
        CHECK_INT(jobs_expire(j, 150), 0);
        CHECK_INT(jobs_result(j, 1, second ? again : first), JOBS_ACCEPT);
        CHECK_INT(jobs_result(j, 1, second ? first : again),
                  JOBS_ACCEPT); /* the ledger takes one */
        jobs_check(j);
        jobs_finished(j, 1);
        CHECK(!jobs_claim(j, 1, first, 1, 0, 200) && !jobs_claim(j, 1, again, 2, 0, 200));
        CHECK_INT(returned_count, 0);
        jobs_destroy(&j);
    }
}

/* One lease ends: the other goes on, nobody is blamed. Both end: back to the queue. */
static void test_ends(void)
{
    struct batch *b;
    struct jobs *j = new_jobs(&b, 1);
    struct job *job = lease(j, 1);
    uint64_t again = twin(j, job, 2);
    CHECK_INT(jobs_release_owner(j, 1, true, "died"), 1);
    CHECK_INT(job->state, JOB_LEASED);
    CHECK_INT(job->owner, 2);
    CHECK_INT(job->epoch, again);
    CHECK(job_twin(job) == NULL);
    CHECK_INT(returned_count, 0);
    uint64_t third = twin(j, job, 3);
    CHECK(jobs_release(j, 1, third, 3, true, "device lost"));
    CHECK(job_twin(job) == NULL && job->owner == 2);
    CHECK_INT(job->attempts, 0);
    third = twin(j, job, 3);
    CHECK(jobs_claim(j, 1, third, 3, 0, 500));
    CHECK_INT(jobs_expire(j, 100), 1); /* the first lease */
    CHECK_INT(job->owner, 3);
    third = twin(j, job, 4);
    CHECK_INT(jobs_expire(j, 200), 0); /* only the twin's */
    CHECK(job_twin(job) == NULL);
    CHECK_INT(jobs_expire(j, 500), 1);
    CHECK_INT(job->state, JOB_SUBMITTED);
    CHECK_INT(counted_count, 1);
    CHECK(!jobs_lease_twin(j, job, 4, 100, &third)); /* not leased */
    CHECK(lease(j, 5) == NULL);                      /* it is a suspect now */
    jobs_check(j);
    jobs_destroy(&j);
}

/* A result that could not be stored: the lease whose result it was goes on, or the other one. */
static void test_store_fails(void)
{
    struct batch *b;
    struct jobs *j = new_jobs(&b, 1);
    struct job *job = lease(j, 1);
    uint64_t first = job->epoch, again = twin(j, job, 2);
    CHECK_INT(jobs_result(j, 1, again), JOBS_ACCEPT);
    jobs_store_failed(j, 1, again, 300);
    CHECK(job_is_held(job, 2, again) && job_is_held(job, 1, first));
    CHECK_INT(jobs_result(j, 1, again), JOBS_ACCEPT);
    CHECK_INT(jobs_release_owner(j, 2, true, "died"), 0);
    jobs_store_failed(j, 1, again, 300);
    CHECK(job->state == JOB_LEASED && job_is_held(job, 1, first));
    jobs_check(j);
    jobs_destroy(&j);
}

static double rates[8];

static double rate(void *user, uint64_t owner)
{
    (void)user;
    return rates[owner];
}

static struct job *straggler(struct jobs *j, uint64_t owner)
{
    struct jobs_want want = {.owner = owner};
    return jobs_straggler(j, &want, rate, NULL);
}

static void test_straggler(void)
{
    struct batch *b;
    struct jobs *j = new_jobs(&b, 32);
    jobs_set_time(j, NS_PER_S, 0, 0);
    for (uint64_t i = 1; i <= 30; i++) { /* each took 10 s for 100 + 100 tokens */
        struct job *job = lease(j, 1);
        jobs_set_time(j, (1 + 10 * i) * NS_PER_S, 0, 0);
        jobs_learn(j, job, 100, 100);
        CHECK_INT(jobs_result(j, job->id, job->epoch), JOBS_ACCEPT);
        jobs_finished(j, job->id);
    }
    struct job *slow = lease(j, 1), *fast = lease(j, 2);
    rates[1] = 20;
    rates[2] = 60;
    rates[3] = 20;
    rates[4] = 0;
    CHECK(straggler(j, 3) == NULL); /* no faster than where it is */
    rates[3] = 60;
    CHECK(straggler(j, 3) == slow); /* 3 s instead of 10 */
    CHECK(straggler(j, 2) == slow);
    CHECK(straggler(j, 1) == NULL); /* its own, and a faster one's */
    slow->running_tokens = 120;     /* 4 s to go, 3 anew: not worth it */
    CHECK(straggler(j, 3) == NULL);
    slow->running_tokens = 0;
    CHECK(straggler(j, 4) == NULL); /* nobody knows how fast it is: as all are */
    jobs_set_time(j, (301 + 25) * NS_PER_S, 0, 0);
    CHECK(straggler(j, 4) == slow || straggler(j, 4) == fast); /* overdue: anybody is better */
    struct rec_SCHEDULE paused = b->schedule;
    paused.paused = true;
    CHECK_ERR(jobs_reschedule(j, b, &paused), ERR_OK);
    CHECK(straggler(j, 3) == NULL);
    /* Nor is one started outside the batch's hours; all that may run at a time do. */
    struct rec_SCHEDULE night = {.priority = 100,
                                 .max_parallel = 2,
                                 .not_before_ms = 1000,
                                 .not_after_ms = 2000,
                                 .daily_from_min = 22 * 60,
                                 .daily_until_min = 6 * 60};
    static const struct {
        uint64_t wall_ms;
        unsigned day_min;
        bool may;
    } times[] = {{999, 5 * 60, false},
                 {1000, 5 * 60, true},
                 {1500, 6 * 60, false},
                 {1500, 22 * 60, true},
                 {2000, 23 * 60, false}};
    CHECK_ERR(jobs_reschedule(j, b, &night), ERR_OK);
    for (size_t i = 0; i < ARRAY_LEN(times); i++) {
        jobs_set_time(j, (301 + 25) * NS_PER_S, times[i].wall_ms, times[i].day_min);
        CHECK_INT(straggler(j, 3) != NULL, times[i].may);
    }
    jobs_destroy(&j);
}

/* ---- random ---- */

enum { JOBS = 60, OWNERS = 5, STEPS = 20000 };

struct held {
    uint64_t job, owner, epoch;
};

/* What each owner believes that it holds; whatever happens, every job ends once, and who holds a
 * lease by the index is somebody who believes so. */
static void test_random(uint64_t seed)
{
    struct check_rng rng = check_rng_start(seed);
    struct batch *b;
    struct jobs *j = new_jobs(&b, JOBS);
    static struct held held[STEPS];
    size_t count = 0, finished = 0;
    uint64_t now = 1, next_owner = OWNERS, owners[OWNERS] = {1, 2, 3, 4, 5};
    for (int step = 0; step < STEPS && jobs_count(j) > 0; step++) {
        uint64_t *owner = &owners[check_rng_below(&rng, OWNERS)];
        struct job *job = jobs_find(j, 1 + check_rng_below(&rng, JOBS));
        uint64_t what = check_rng_below(&rng, 10), epoch = 0;
        now += check_rng_below(&rng, 3);
        if (what < 3) {
            struct job *got[1];
            struct jobs_held none = {.owner = *owner};
            struct jobs_want want = {.owner = *owner,
                                     .held = what == 0 ? &none : NULL,
                                     .max_jobs = 1,
                                     .max_bytes = 1 << 20,
                                     .expires_ns = now + 20};
            if (jobs_lease(j, &want, got) == 1)
                held[count++] = (struct held){got[0]->id, *owner, got[0]->epoch};
        } else if (what < 5 && job != NULL && jobs_lease_twin(j, job, *owner, now + 20, &epoch)) {
            held[count++] = (struct held){job->id, *owner, epoch};
        } else if (what == 5 && count > 0) {
            struct held *h = &held[check_rng_below(&rng, count)];
            jobs_claim(j, h->job, h->epoch, h->owner, 0, now + 20);
        } else if (what == 6 && count > 0) {
            struct held *h = &held[check_rng_below(&rng, count)];
            jobs_release(j, h->job, h->epoch, h->owner, check_rng_below(&rng, 40) == 0, "test");
        } else if (what == 7) {
            jobs_release_owner(j, *owner, check_rng_below(&rng, 40) == 0, "test");
            *owner = ++next_owner;
        } else if (what == 8) {
            jobs_expire(j, now - 15);
        } else if (count > 0 && check_rng_below(&rng, 8) == 0) {
            struct held *h = &held[check_rng_below(&rng, count)];
            if (jobs_result(j, h->job, h->epoch) == JOBS_ACCEPT) {
                if (check_rng_below(&rng, 3) == 0) {
                    jobs_store_failed(j, h->job, h->epoch, now + 20);
                } else {
                    jobs_finished(j, h->job);
                    finished++;
                }
            }
        }
        for (struct job *doomed; (doomed = jobs_doomed(j)) != NULL; finished++)
            jobs_finished(j, doomed->id);
        for (uint64_t id = 1; id <= JOBS; id++) {
            job = jobs_find(j, id);
            if (job == NULL || job->state != JOB_LEASED)
                continue;
            const struct lease *second = job_twin(job);
            size_t believers = 0;
            for (size_t i = 0; i < count; i++)
                believers += held[i].job == id && job_is_held(job, held[i].owner, held[i].epoch);
            CHECK_INT(believers, 1 + (second != NULL));
        }
        if (step % 100 == 0)
            jobs_check(j);
    }
    CHECK_INT(jobs_count(j), 0);
    CHECK_INT(finished, JOBS);
    jobs_destroy(&j);
}

/* Of a lease that is older than the broker nobody knows how long it has been: its time counts from
 * when its worker said that it has it, and teaches nothing. */
static void test_older_than_the_broker(void)
{
    struct batch *b;
    const uint64_t began_ns = 1000000 * NS_PER_S;
    for (int late = 0; late < 2; late++) {
        struct jobs *j;
        struct job like = {.id = 1,
                           .line = 1,
                           .body_bytes = 400,
                           .epoch = (UINT64_C(1) << 32) + 7,
                           .state = JOB_LEASED,
                           .expires_ns = began_ns};
        CHECK_ERR(jobs_create(2, NULL, NULL, &j), ERR_OK);
        char name[] = "b";
        CHECK_ERR(jobs_add_batch(j, &(struct batch){.id = 1, .name = name, .max_attempts = 3}, &b),
                  ERR_OK);
        CHECK_ERR(jobs_add(j, b, &like), ERR_OK);
        jobs_set_time(j, began_ns, 0, 0);
        if (late) /* after it was back in the queue */
            CHECK_INT(jobs_expire(j, began_ns), 1);
        CHECK(jobs_claim(j, 1, like.epoch, 1, 0, 2 * began_ns));
        struct job *job = jobs_find(j, 1);
        job->running_tokens = 10;
        rates[1] = rates[2] = 10;
        CHECK(straggler(j, 2) == NULL);
        jobs_set_time(j, began_ns + 3 * NS_PER_S, 0, 0);
        CHECK(jobs_lease_s(j, job) == 3);
        jobs_learn(j, job, 100, 100);
        CHECK(b->learnt.jobs == 1 && b->learnt.seconds == 0);
        jobs_destroy(&j);
    }
}

/* Two leases that are older than the broker, as the ledger has noted them: each worker gets its own
 * back, in any order, and the first result wins; who does not come in time has none. */
static void test_both_older(void)
{
    const uint64_t first = (UINT64_C(1) << 32) + 7, again = first + 4;
    for (int order = 0; order < 4; order++) {
        struct jobs *j = kit_jobs(2);
        struct batch *b = kit_batch(j, (struct batch){.id = 1});
        struct job like = {
            .id = 1, .line = 1, .epoch = again, .state = JOB_LEASED, .expires_ns = 100};
        CHECK_ERR(jobs_add(j, b, &like), ERR_OK);
        struct job *job = jobs_find(j, 1);
        CHECK_ERR(jobs_add_twin(job, first, 100), ERR_OK);
        jobs_set_time(j, 50 * NS_PER_S, 0, 0);
        CHECK(!jobs_claim(j, 1, first + 1, 3, 0, 200)); /* neither of them */
        if (order == 0 || order == 2)
            CHECK(jobs_claim(j, 1, first, 1, 0, 200));
        if (order != 2)
            CHECK(jobs_claim(j, 1, again, 2, 0, 200));
        if (order == 3)
            CHECK(jobs_claim(j, 1, first, 1, 0, 200));
        CHECK(!jobs_claim(j, 1, order != 1 ? first : again, 3, 0, 200)); /* it has an owner */
        CHECK_INT(jobs_expire(j, 100), order == 2); /* who has not come; the other goes on */
        CHECK_INT(returned_count, 0);
        CHECK(job_is_held(job, 1, first) == (order != 1));
        CHECK(job_is_held(job, 2, again) == (order != 2));
        CHECK((job_twin(job) != NULL) == (order == 0 || order == 3));
        CHECK_INT(jobs_result(j, 1, order == 2 || order == 3 ? first : again), JOBS_ACCEPT);
        jobs_check(j);
        jobs_finished(j, 1);
        jobs_destroy(&j);
    }
    struct jobs *j = kit_jobs(2); /* nobody comes */
    struct batch *b = kit_batch(j, (struct batch){.id = 1});
    struct job like = {.id = 1, .line = 1, .epoch = again, .state = JOB_LEASED, .expires_ns = 100};
    CHECK_ERR(jobs_add(j, b, &like), ERR_OK);
    CHECK_ERR(jobs_add_twin(jobs_find(j, 1), first, 100), ERR_OK);
    CHECK_INT(jobs_release_owner(j, 1, true, "died"), 0);
    CHECK_INT(jobs_expire(j, 100), 1);
    CHECK_INT(batch_waiting(b), 1);
    CHECK_INT(counted_count, 0);
    jobs_destroy(&j);
}

int main(void)
{
    test_both_older();
    test_first_result_wins();
    test_ends();
    test_store_fails();
    test_straggler();
    test_older_than_the_broker();
    for (uint64_t seed = 1; seed <= 10; seed++)
        test_random(seed);
    return check_report();
}
