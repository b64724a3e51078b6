/* jobs.c: named cases for each rule, then random operations against a naive shadow. */
#include <stdlib.h>

#include "base/clock.h"
#include "broker/jobs_impl.h"
#include "tests/broker/jobs_kit.h"

_Static_assert(sizeof(struct job) <= 112, "with index and queue below 150 bytes a job");

static struct batch *new_batch(struct jobs *j, uint64_t id, unsigned priority,
                               unsigned max_attempts, const char *model)
{
    char model_copy[64];
    snprintf(model_copy, sizeof model_copy, "%s", model);
    return kit_batch(j, (struct batch){.id = id,
                                       .model = model_copy,
                                       .schedule.priority = priority,
                                       .max_attempts = max_attempts});
}

static void add(struct jobs *j, struct batch *b, uint64_t id, uint64_t line)
{
    struct job like = {.id = id, .line = line, .body_bytes = 100};
    CHECK_ERR(jobs_add(j, b, &like), ERR_OK);
}

static size_t lease(struct jobs *j, uint64_t owner, size_t max, uint64_t expires_ns,
                    struct job **ret)
{
    struct jobs_want want = {
        .owner = owner, .max_jobs = max, .max_bytes = 1 << 20, .expires_ns = expires_ns};
    return jobs_lease(j, &want, ret);
}

static size_t lease_suspects(struct jobs *j, uint64_t owner, size_t max, uint64_t expires_ns,
                             struct job **ret)
{
    struct jobs_held held = {.owner = owner};
    for (const struct job *job = jobs_first(j, JOB_LEASED); job != NULL; job = job->next) {
        if (job->owner != owner)
            continue;
        held.jobs++;
        held.suspects += job->attempts > 0;
        held.alone |= job->attempts > 0 && job_must_be_alone(job);
    }
    struct jobs_want want = {.owner = owner,
                             .held = &held,
                             .max_jobs = max,
                             .max_bytes = 1 << 20,
                             .expires_ns = expires_ns};
    return jobs_lease(j, &want, ret);
}

static bool is_model_b(void *user, const char *model)
{
    (void)user;
    return strcmp(model, "b") == 0;
}

static void test_order(void)
{
    struct jobs *j = kit_jobs(1);
    struct job *got[16];
    struct batch *low = new_batch(j, 1, 50, 3, ""), *first = new_batch(j, 2, 100, 3, "a");
    struct batch *second = new_batch(j, 3, 100, 3, "b");
    add(j, low, 10, 1);
    add(j, second, 20, 1);
    add(j, first, 31, 2);
    add(j, first, 30, 1);
    CHECK_ERR(jobs_add(j, first, &(struct job){.id = 30, .line = 9}), ERR_CONFLICT);
    struct jobs_want want = {
        .owner = 5, .has_model = is_model_b, .max_jobs = 1, .max_bytes = 1000, .expires_ns = 9};
    CHECK_INT(jobs_lease(j, &want, got), 1);
    CHECK_INT(got[0]->id, 20); /* the older batch asks for a model that this worker lacks */
    CHECK_INT(lease(j, 5, 16, 9, got), 3);
    CHECK_INT(got[0]->id, 30);
    CHECK_INT(got[1]->id, 31);
    CHECK_INT(got[2]->id, 10);
    CHECK_INT(lease(j, 5, 16, 9, got), 0);
    CHECK_INT(leases_of(j, 5), 4);
    CHECK_INT(jobs_release_owner(j, 5, false, "test"), 4);
    want = (struct jobs_want){.owner = 5, .max_jobs = 16, .max_bytes = 150};
    CHECK_INT(jobs_lease(j, &want, got), 1); /* 200 bytes do not fit */
    want.max_bytes = 1;
    CHECK_INT(jobs_lease(j, &want, got), 1); /* one always does */
    jobs_check(j);
    jobs_destroy(&j);
    CHECK(j == NULL);
}

static void test_epochs(void)
{
    struct jobs *j = kit_jobs(7);
    struct job *got[4];
    struct batch *b = new_batch(j, 1, 100, 9, "");
    add(j, b, 1, 1);
    CHECK_INT(lease(j, 5, 4, 100, got), 1);
    uint64_t first = got[0]->epoch;
    CHECK_INT(first >> 32, 7);
    CHECK(!jobs_release(j, 1, first, 6, true, "not yours"));
    CHECK_INT(jobs_expire(j, 99), 0);
    CHECK_INT(jobs_expire(j, 100), 1);
    CHECK_INT(counted_count, 1);
    CHECK_STR(jobs_history(got[0]), "attempt 1: lease expired");
    /* late, but nobody has the job: its holder may go on, or bring the result */
    CHECK(jobs_claim(j, 1, first, 5, 0, 200));
    CHECK_INT(jobs_expire(j, 200), 1);
    CHECK_INT(lease(j, 6, 4, 300, got), 0);
    CHECK_INT(lease_suspects(j, 6, 4, 300, got), 1);
    uint64_t second = got[0]->epoch;
    CHECK(second != first);
    CHECK(!jobs_claim(j, 1, first, 5, 0, 400));
    CHECK_INT(jobs_result(j, 1, first), JOBS_STALE);
    CHECK(!jobs_claim(j, 1, second, 5, 0, 400)); /* of a live session */
    CHECK(jobs_claim(j, 1, second, 7, 6, 400));  /* of its own earlier one */
    CHECK_INT(jobs_result(j, 1, second), JOBS_ACCEPT);
    CHECK_INT(jobs_result(j, 1, second), JOBS_ACCEPT); /* sent twice: the ledger takes one */
    CHECK_INT(jobs_expire(j, 1000), 0);                /* storing */
    jobs_store_failed(j, 1, second, 500);
    CHECK_INT(got[0]->state, JOB_LEASED);
    CHECK_INT(jobs_result(j, 1, second), JOBS_ACCEPT);
    CHECK_INT(jobs_release_owner(j, 7, true, "dead"), 0);
    jobs_store_failed(j, 1, second, 500);
    CHECK_INT(got[0]->state, JOB_SUBMITTED); /* its owner went while we wrote */
    CHECK_INT(jobs_result(j, 1, second), JOBS_ACCEPT);
    jobs_finished(j, 1);
    CHECK_INT(jobs_result(j, 1, second), JOBS_GONE);
    CHECK_INT(jobs_count(j), 0);
    jobs_finished(j, 1);
    jobs_check(j);
    jobs_destroy(&j);
}

/* A job's losses: with others, then with other suspects, then alone; only the last ones count. */
static void test_poison(void)
{
    struct jobs *j = kit_jobs(1);
    struct job *got[4];
    struct batch *b = new_batch(j, 1, 100, 2, "");
    add(j, b, 1, 1);
    CHECK_INT(lease(j, 5, 1, 100, got), 1);
    CHECK(jobs_release(j, 1, got[0]->epoch, 5, false, "drain"));
    CHECK_INT(got[0]->attempts, 0);
    CHECK_INT(jobs_suspects(j), 0);
    CHECK_INT(lease(j, 5, 1, 100, got), 1);
    CHECK(jobs_release(j, 1, got[0]->epoch, 5, true, "device lost"));
    CHECK_INT(jobs_suspects(j), 1);
    CHECK_INT(batch_waiting(b), 1);
    CHECK_INT(lease(j, 5, 1, 100, got), 0);
    CHECK_INT(lease_suspects(j, 5, 1, 100, got), 1);
    CHECK(!got[0]->alone); /* others might have come beside it */
    CHECK_INT(jobs_release_owner(j, 5, true, "worker died"), 1);
    for (int strike = 1; strike <= 2; strike++) {
        CHECK(jobs_doomed(j) == NULL);
        CHECK_INT(lease_suspects(j, 5, 4, 100, got), 1);
        CHECK(got[0]->alone);
        jobs_check(j);
        CHECK_INT(jobs_release_owner(j, 5, true, "worker died"), 1);
    }
    struct job *poisoned = jobs_doomed(j);
    CHECK(poisoned == got[0]);
    CHECK_STR(jobs_history(poisoned),
              "attempt 1: device lost; attempt 2: worker died; attempt 3: alone: worker died; "
              "attempt 4: alone: worker died");
    CHECK_INT(lease_suspects(j, 6, 1, 100, got), 0);
    CHECK(!jobs_claim(j, 1, poisoned->epoch, 5, 0, 100));
    CHECK_INT(jobs_result(j, 1, poisoned->epoch), JOBS_ACCEPT);
    CHECK(jobs_doomed(j) == NULL);
    jobs_store_failed(j, 1, poisoned->epoch, 100);
    CHECK(jobs_doomed(j) == poisoned);
    jobs_check(j);
    jobs_finished(j, 1);
    CHECK_INT(jobs_suspects(j), 0);
    jobs_destroy(&j);
}

/* Who may be beside whom. */
static void test_company(void)
{
    struct jobs *j = kit_jobs(1);
    enum { SUSPECTS = JOBS_TOGETHER + 4, ALL = SUSPECTS + 8 };
    struct job *got[32];
    struct batch *b = new_batch(j, 1, 100, 3, "a"), *other = new_batch(j, 2, 90, 3, "b");
    for (uint64_t i = 1; i <= ALL; i++)
        add(j, i <= SUSPECTS ? b : other, i, i);
    CHECK_INT(lease(j, 1, SUSPECTS, 100, got), SUSPECTS);
    CHECK_INT(jobs_release_owner(j, 1, true, "died"), SUSPECTS);
    CHECK_INT(lease(j, 2, 2, 100, got), 2); /* the other batch's */
    CHECK_INT(lease_suspects(j, 2, 32, 100, got), 0);
    CHECK_INT(lease_suspects(j, 3, 3, 100, got), 3);
    CHECK_INT(lease_suspects(j, 3, 32, 100, got), JOBS_TOGETHER - 3);
    CHECK_INT(lease_suspects(j, 3, 32, 100, got), 0);
    CHECK_INT(got[0]->line, SUSPECTS - 3);
    jobs_finished(j, got[0]->id);
    CHECK_INT(lease_suspects(j, 3, 32, 100, got), 1); /* one more in its place */
    CHECK_INT(got[0]->line, 4);
    struct jobs_want blind = {.has_model = is_model_b};
    CHECK_INT(jobs_suspects_waiting(j, &blind).together, 0);
    blind.has_model = NULL;
    CHECK_INT(jobs_suspects_waiting(j, &blind).together, 3);
    CHECK_INT(jobs_release_owner(j, 3, true, "died"), JOBS_TOGETHER);
    CHECK_INT(jobs_suspects_waiting(j, &blind).alone, JOBS_TOGETHER);
    CHECK_INT(lease_suspects(j, 4, 32, 100, got), 1); /* the alone go first */
    CHECK(got[0]->alone && got[0]->attempts == 2);
    CHECK_INT(lease_suspects(j, 4, 32, 100, got), 0);
    CHECK_INT(jobs_suspects(j), SUSPECTS - 1);
    jobs_check(j);
    /* handed back without blame: it waits where it was */
    CHECK(jobs_release(j, got[0]->id, got[0]->epoch, 4, false, "drain"));
    CHECK_INT(jobs_suspects_waiting(j, &blind).alone, JOBS_TOGETHER);
    jobs_check(j);
    jobs_destroy(&j);
}

/* The ledger's history says which losses count. */
static void test_suspects_restart(void)
{
    struct jobs *j = kit_jobs(2);
    struct batch *b = new_batch(j, 1, 100, 2, "");
    struct job like = {.id = 1, .line = 1, .attempts = 1};
    CHECK_ERR(jobs_add(j, b, &like), ERR_OK);
    like = (struct job){.id = 2, .line = 2, .attempts = 4, .state = JOB_LEASED, .expires_ns = 9};
    CHECK_ERR(jobs_add(j, b, &like), ERR_OK);
    like = (struct job){.id = 3, .line = 3, .attempts = 3};
    CHECK_ERR(jobs_add(j, b, &like), ERR_OK);
    CHECK_INT(jobs_suspects(j), 3);
    CHECK_ERR(jobs_add_loss(j, jobs_find(j, 1), JOBS_ALONE "worker died"), ERR_OK);
    for (int i = 0; i < 2; i++) {
        CHECK_ERR(jobs_add_loss(j, jobs_find(j, 2), "worker died"), ERR_OK);
        CHECK_ERR(jobs_add_loss(j, jobs_find(j, 3), JOBS_ALONE "worker died"), ERR_OK);
    }
    CHECK_ERR(jobs_add_loss(j, jobs_find(j, 2), JOBS_ALONE "worker died"), ERR_OK);
    jobs_check(j);
    CHECK_INT(jobs_find(j, 1)->strikes, 1);
    CHECK(job_must_be_alone(jobs_find(j, 1)));
    CHECK_INT(jobs_find(j, 2)->strikes, 1);
    CHECK_INT(jobs_find(j, 2)->state, JOB_LEASED);
    CHECK(jobs_doomed(j) == jobs_find(j, 3));
    jobs_destroy(&j);
}

/* After 2^32 leases their numbers count on into the next generation's: none comes twice. */
static void test_many_leases(void)
{
    struct jobs *j = kit_jobs(3);
    struct job *got[1];
    struct batch *b = new_batch(j, 1, 100, 3, "");
    add(j, b, 1, 1);
    uint64_t before = 0;
    j->last_epoch += UINT32_MAX - 2;
    for (int i = 0; i < 5; i++) {
        CHECK_INT(lease(j, 5, 1, 100, got), 1);
        uint64_t epoch = got[0]->epoch;
        CHECK(epoch > before && epoch >> 32 == (i < 2 ? 3u : 4u));
        CHECK(!jobs_claim(j, 1, before, 5, 0, 200));
        CHECK(jobs_claim(j, 1, epoch, 5, 0, 200));
        CHECK(jobs_release(j, 1, epoch, 5, false, "test"));
        before = epoch;
    }
    CHECK_INT(jobs_result(j, 1, before), JOBS_ACCEPT);
    jobs_check(j);
    jobs_destroy(&j);
}

/* The lease of an earlier run whose note is lost counts, as the ledger's secret made it; others of
 * that run, or of another ledger's, do not, whatever their numbers. */
static void test_made_up(void)
{
    enum { LEASES = 70000 };
    uint64_t given = 0, other = 0, seen = 0;
    for (int secret = 1; secret <= 2; secret++) {
        struct jobs *j = kit_jobs(2);
        struct job *got[1];
        struct batch *b = new_batch(j, 1, 100, 3, "");
        jobs_set_secret(j, (uint64_t)secret);
        add(j, b, 1, 1);
        for (int i = 0; i < (secret == 1 ? LEASES : 7); i++) {
            CHECK_INT(lease(j, 5, 1, 100, got), 1);
            CHECK(got[0]->epoch > seen);
            seen = got[0]->epoch;
            given = secret == 1 && i == 6 ? seen : given;
            other = seen;
            jobs_release(j, 1, seen, 5, false, "test");
        }
        CHECK_INT(seen >> 32, secret == 1 ? 3 : 2);
        seen = 0;
        jobs_destroy(&j);
    }
    CHECK(given != other && given >> 16 == other >> 16);
    struct jobs *j = kit_jobs(3);
    struct batch *b = new_batch(j, 1, 100, 3, "");
    jobs_set_secret(j, 1);
    add(j, b, 1, 1);
    size_t good = 0;
    for (uint64_t k = 0; k < LEASES; k++)
        good += jobs_claim(j, 1, (UINT64_C(1) << 32) + k, 9, 9, 500);
    CHECK(good <= 2); /* of two numbers and all tags */
    CHECK(!jobs_claim(j, 1, other, 9, 9, 500));
    CHECK(jobs_claim(j, 1, given, 9, 9, 500));
    CHECK_INT(jobs_result(j, 1, given), JOBS_ACCEPT);
    jobs_check(j);
    jobs_destroy(&j);
}

static void test_restart(void)
{
    struct jobs *j = kit_jobs(3);
    struct job *got[4];
    struct batch *b = new_batch(j, 1, 100, 3, "");
    uint64_t noted = UINT64_C(2) << 32 | 5;
    struct job held = {.id = 1, .line = 1, .epoch = noted, .state = JOB_LEASED, .expires_ns = 50};
    struct job unclaimed = {
        .id = 2, .line = 2, .epoch = noted + 1, .state = JOB_LEASED, .expires_ns = 50};
    struct job unnoted = {.id = 3, .line = 3}; /* its lease was given, the note is lost */
    CHECK_ERR(jobs_add(j, b, &held), ERR_OK);
    CHECK_ERR(jobs_add(j, b, &unclaimed), ERR_OK);
    CHECK_ERR(jobs_add(j, b, &unnoted), ERR_OK);
    CHECK(!jobs_claim(j, 1, noted - 1, 9, 0, 500));
    CHECK(jobs_claim(j, 1, noted, 9, 0, 500));
    CHECK(jobs_claim(j, 3, noted + 2, 9, 0, 500));
    CHECK(!jobs_claim(j, 3, UINT64_C(3) << 32 | 77, 9, 0, 500)); /* we never gave that one */
    CHECK_INT(jobs_expire(j, 50), 1);
    CHECK_INT(counted_count, 0); /* a restart of the broker costs no attempt */
    CHECK_INT(jobs_result(j, 2, noted + 1), JOBS_ACCEPT);
    jobs_finished(j, 2);
    CHECK_INT(lease(j, 10, 4, 100, got), 0);
    jobs_delay(j, 1000);
    CHECK_INT(jobs_expire(j, 1499), 0);
    CHECK_INT(jobs_expire(j, 1500), 2);
    CHECK_INT(lease_suspects(j, 10, 4, 9999, got), 2);
    CHECK(got[0]->epoch > noted + 2 && got[1]->epoch > got[0]->epoch);
    jobs_check(j);
    jobs_destroy(&j);
}

static void test_checkpoints(void)
{
    struct jobs *j = kit_jobs(1);
    struct batch *b = new_batch(j, 1, 100, 3, "");
    add(j, b, 1, 1);
    add(j, b, 2, 2);
    jobs_limit_extra(j, 100);
    char big[101] = {0};
    jobs_keep_checkpoint(j, jobs_find(j, 1), STR_LIT("abc"));
    jobs_keep_checkpoint(j, jobs_find(j, 1), STR_LIT("abcdef"));
    jobs_keep_checkpoint(j, jobs_find(j, 2), (struct str){big, 95});
    CHECK_INT(jobs_checkpoint(jobs_find(j, 1)).len, 6);
    CHECK_INT(jobs_checkpoint(jobs_find(j, 2)).len, 0);
    jobs_finished(j, 1);
    jobs_keep_checkpoint(j, jobs_find(j, 2), (struct str){big, 95});
    CHECK_INT(jobs_checkpoint(jobs_find(j, 2)).len, 95);
    struct job *got[2];
    add(j, b, 3, 3);
    struct jobs_want want = {.owner = 5, .max_jobs = 2, .max_bytes = 250};
    CHECK_INT(jobs_lease(j, &want, got), 1); /* checkpoints travel with the bodies */
    jobs_limit_extra(j, 200); /* with what is left over, a history can still be kept */
    jobs_keep_checkpoint(j, got[0], (struct str){big, 100});
    jobs_keep_checkpoint(j, jobs_find(j, 3), (struct str){big, 99});
    CHECK(jobs_release(j, got[0]->id, got[0]->epoch, 5, true, "device lost"));
    CHECK_STR(jobs_history(got[0]), "attempt 1: device lost");
    jobs_destroy(&j);
}

/* ---- random operations ---- */

enum { BATCHES = 4, LINES = 150, OWNERS = 5, MAX_ATTEMPTS = 3 };

/* What the ledger would know, and what has happened. */
struct shadow {
    uint64_t id, epoch, line;
    unsigned batch, finished, attempts;
};

struct world {
    struct jobs *j;
    struct batch *batches[BATCHES];
    struct shadow shadows[BATCHES * LINES];
    uint64_t now, last_epoch, owners[OWNERS], next_owner;
    uint32_t generation;
    struct check_rng rng;
};

static struct job *some_job(struct world *w)
{
    return jobs_find(w->j, w->shadows[check_rng_below(&w->rng, BATCHES * LINES)].id);
}

static void random_lease(struct world *w)
{
    struct job *got[8];
    uint64_t owner = w->owners[check_rng_below(&w->rng, OWNERS)];
    size_t max = 1 + check_rng_below(&w->rng, 8);
    bool suspects = check_rng_below(&w->rng, 2) == 0;
    size_t n = suspects ? lease_suspects(w->j, owner, max, w->now + 20, got)
                        : lease(w->j, owner, max, w->now + 20, got);
    for (size_t i = 0; i < n; i++) {
        CHECK(got[i]->epoch > w->last_epoch);
        w->last_epoch = got[i]->epoch;
        struct shadow *sh = &w->shadows[got[i]->id - 1];
        CHECK_INT(sh->finished, 0);
        CHECK(got[i]->strikes < MAX_ATTEMPTS);
        sh->epoch = got[i]->epoch;
        CHECK((got[i]->attempts > 0) == suspects);
        if (suspects)
            continue;
        for (unsigned b = 0; b < BATCHES; b++) { /* nothing more urgent waits */
            struct batch *other = w->batches[b];
            CHECK(other->heap_len == 0 ||
                  other->schedule.priority <= got[i]->batch->schedule.priority || i + 1 < n);
        }
        CHECK(i == 0 || got[i]->batch != got[i - 1]->batch || got[i]->line > got[i - 1]->line);
    }
}

static void random_result(struct world *w)
{
    struct job *job = some_job(w);
    if (job == NULL || job->epoch == 0)
        return;
    struct shadow *sh = &w->shadows[job->id - 1];
    bool old = check_rng_below(&w->rng, 4) == 0;
    uint64_t epoch = old && job->epoch > 1 ? job->epoch - 1 : job->epoch;
    enum jobs_verdict v = jobs_result(w->j, sh->id, epoch);
    CHECK_INT(v, epoch == sh->epoch ? JOBS_ACCEPT : JOBS_STALE);
    if (v != JOBS_ACCEPT)
        return;
    if (check_rng_below(&w->rng, 3) == 0) {
        jobs_store_failed(w->j, sh->id, epoch, w->now + 20);
        return;
    }
    jobs_finished(w->j, sh->id);
    sh->finished++;
}

static void random_restart(struct world *w)
{
    struct job kept[BATCHES * LINES];
    memset(kept, 0, sizeof kept);
    for (size_t i = 0; i < BATCHES * LINES; i++) {
        struct job *job = jobs_find(w->j, w->shadows[i].id);
        CHECK((job == NULL) == (w->shadows[i].finished == 1));
        if (job != NULL) {
            kept[i] = *job;
            kept[i].state = job->state == JOB_LEASED ? JOB_LEASED : JOB_SUBMITTED;
            kept[i].expires_ns = w->now + 10;
        }
    }
    jobs_destroy(&w->j);
    w->j = kit_jobs(++w->generation);
    for (unsigned b = 0; b < BATCHES; b++)
        w->batches[b] = new_batch(w->j, b + 1, 100 - b / 2 * 10, MAX_ATTEMPTS, "");
    for (size_t i = 0; i < BATCHES * LINES; i++) {
        if (kept[i].id != 0)
            CHECK_ERR(jobs_add(w->j, w->batches[w->shadows[i].batch], &kept[i]), ERR_OK);
    }
}

static void random_step(struct world *w)
{
    struct job *job;
    switch (check_rng_below(&w->rng, 12)) {
    case 0:
    case 1:
    case 2:
        random_lease(w);
        break;
    case 3:
    case 4:
    case 5:
        random_result(w);
        break;
    case 6:
        job = some_job(w);
        if (job != NULL)
            jobs_claim(w->j, job->id, job->epoch, w->owners[0], 0, w->now + 30);
        break;
    case 7:
        job = some_job(w);
        if (job != NULL)
            jobs_release(w->j, job->id, job->epoch, 0, check_rng_below(&w->rng, 4) == 0, "nack");
        break;
    case 8:
        w->now += check_rng_below(&w->rng, 8);
        jobs_expire(w->j, w->now);
        break;
    case 9:
        if (check_rng_below(&w->rng, 10) == 0) {
            size_t at = check_rng_below(&w->rng, OWNERS);
            jobs_release_owner(w->j, w->owners[at], true, "died");
            w->owners[at] = ++w->next_owner;
        }
        break;
    case 10:
        job = jobs_doomed(w->j);
        if (job != NULL && jobs_result(w->j, job->id, job->epoch) == JOBS_ACCEPT) {
            w->shadows[job->id - 1].finished++;
            jobs_finished(w->j, job->id);
        }
        break;
    default:
        if (check_rng_below(&w->rng, 100) == 0)
            random_restart(w);
    }
}

static void test_random(void)
{
    struct world *w = calloc(1, sizeof *w);
    w->rng = check_rng_start(20261125);
    w->generation = 1;
    w->j = kit_jobs(1);
    for (unsigned b = 0; b < BATCHES; b++) {
        w->batches[b] = new_batch(w->j, b + 1, 100 - b / 2 * 10, MAX_ATTEMPTS, "");
        for (unsigned i = 0; i < LINES; i++) {
            uint64_t id = b * LINES + i + 1;
            w->shadows[id - 1] = (struct shadow){.id = id, .line = i + 1, .batch = b};
            add(w->j, w->batches[b], id, i + 1);
        }
    }
    for (unsigned i = 0; i < OWNERS; i++)
        w->owners[i] = ++w->next_owner;
    size_t steps = 0;
    for (; jobs_count(w->j) > 0 && steps < 200000; steps++) {
        random_step(w);
        if (steps % 16 == 0)
            jobs_check(w->j);
    }
    printf("%zu steps, %u generations\n", steps, w->generation);
    CHECK_INT(jobs_count(w->j), 0);
    for (size_t i = 0; i < BATCHES * LINES; i++)
        CHECK_INT(w->shadows[i].finished, 1);
    jobs_destroy(&w->j);
    free(w);
}

/* Thousands of batches, added in any order of ids and priorities: found by id and name, and leased
 * from by priority and age, wherever the finished ones stand. */
static void test_many_batches(void)
{
    struct check_rng rng = check_rng_start(5);
    enum { MANY = 2000 };
    static uint64_t ids[MANY];
    struct jobs *j = NULL;
    CHECK_ERR(jobs_create(1, NULL, NULL, &j), ERR_OK);
    for (size_t i = 0; i < MANY; i++)
        ids[i] = i + 1;
    for (size_t i = 0; i < MANY; i++) {
        size_t other = i < MANY / 2 ? i : i + check_rng_below(&rng, MANY - i);
        uint64_t id = ids[other];
        char name[32];
        ids[other] = ids[i];
        snprintf(name, sizeof name, "batch %llu", (unsigned long long)id);
        struct batch like = {.id = id,
                             .name = name,
                             .schedule.priority = (uint32_t)check_rng_below(&rng, 3),
                             .max_attempts = 3},
                     *b = NULL;
        CHECK(jobs_find_batch(j, str_of(name)) == NULL && jobs_batch(j, id) == NULL);
        CHECK_ERR(jobs_add_batch(j, &like, &b), ERR_OK);
        CHECK(jobs_find_batch(j, str_of(name)) == b && jobs_batch(j, id) == b);
        if (check_rng_below(&rng, 50) == 0)
            CHECK_ERR(jobs_add(j, b, &(struct job){.id = id, .line = 1, .body_bytes = 1}), ERR_OK);
        if (i % 100 == 0)
            jobs_check(j);
    }
    jobs_check(j);
    size_t left = jobs_count(j);
    CHECK(left > 0);
    const struct batch *last = NULL;
    for (struct job *job; left > 0; left--) {
        struct jobs_want want = {.owner = 1, .max_jobs = 1, .max_bytes = 100, .expires_ns = 1};
        if (!CHECK(jobs_lease(j, &want, &job) == 1))
            break;
        CHECK(last == NULL || last->schedule.priority >= job->batch->schedule.priority);
        last = job->batch;
        jobs_check(j);
    }
    CHECK(jobs_batch(j, MANY + 1) == NULL && jobs_find_batch(j, STR_LIT("none")) == NULL);
    jobs_destroy(&j);
}

/* Workers that are lost together: each one's jobs come back, and nobody else's. */
static void test_release_owners(void)
{
    enum { WORKERS = 40, EACH = 5 };
    struct jobs *j = kit_jobs(1);
    struct batch *b = new_batch(j, 1, 100, 3, "");
    struct job *got[EACH];
    struct jobs_gone gone[WORKERS / 2];
    uint64_t epoch;
    for (uint64_t id = 1; id <= WORKERS * EACH; id++)
        add(j, b, id, id);
    for (uint64_t owner = 1; owner <= WORKERS; owner++) {
        CHECK_INT(lease(j, owner, EACH, 100, got), EACH);
        if (owner % 2 == 0) /* a job that also runs at one that is lost, and one that is stored */
            CHECK(jobs_lease_twin(j, got[0], owner - 1, 100, &epoch));
        CHECK_INT(jobs_result(j, got[1]->id, got[1]->epoch), JOBS_ACCEPT);
    }
    for (size_t i = 0; i < WORKERS / 2; i++)
        gone[i] = (struct jobs_gone){.owner = 2 * i + 1};
    jobs_release_owners(j, gone, WORKERS / 2, true, "died");
    jobs_check(j);
    CHECK_INT(returned_count, WORKERS / 2 * (EACH - 1));
    CHECK_INT(jobs_suspects(j), returned_count);
    for (uint64_t owner = 1; owner <= WORKERS; owner++) {
        CHECK_INT(leases_of(j, owner), owner % 2 == 0 ? EACH - 1 : 0);
        CHECK(owner % 2 == 0 || gone[owner / 2].ret_jobs == EACH - 1);
    }
    for (const struct job *job = jobs_first(j, JOB_STORING); job != NULL; job = job->next)
        CHECK(job->owner % 2 == 0);
    jobs_destroy(&j);
}

/* A request that cannot be read now: the job waits longer each time, nobody has it meanwhile, it
 * costs no attempt, the others go out, and there is an end. */
static void test_deferred(void)
{
    struct jobs *j = kit_jobs(1);
    struct batch *b = new_batch(j, 1, 1, 3, "");
    struct job *got[4];
    add(j, b, 1, 1);
    add(j, b, 2, 2);
    uint64_t now_ns = 0;
    for (unsigned i = 1; i < JOBS_DEFERRED_MOST; i++) {
        CHECK_INT(lease(j, 5, 1, UINT64_MAX, got), 1);
        CHECK_INT(got[0]->id, 1);
        CHECK(!jobs_defer(j, 1, got[0]->epoch, 6, now_ns));
        CHECK(!jobs_defer(j, 1, got[0]->epoch - 1, 5, now_ns));
        CHECK(jobs_defer(j, 1, got[0]->epoch, 5, now_ns));
        CHECK(!jobs_defer(j, 1, got[0]->epoch, 5, now_ns));
        jobs_check(j);
        CHECK_INT(leases_of(j, 5), 0);
        CHECK_INT(lease(j, 5, 2, UINT64_MAX, got), 1); /* the other one */
        CHECK_INT(got[0]->id, 2);
        CHECK(jobs_release(j, 2, got[0]->epoch, 5, false, "test"));
        now_ns += NS_PER_S << (i - 1);
        CHECK_INT(jobs_expire(j, now_ns - 1), 0);
        CHECK_INT(jobs_expire(j, now_ns), 1);
    }
    CHECK_INT(now_ns / NS_PER_S, 1023);
    CHECK_INT(lease(j, 5, 1, UINT64_MAX, got), 1);
    CHECK(!jobs_defer(j, 1, got[0]->epoch, 5, now_ns));
    CHECK(got[0]->state == JOB_LEASED && got[0]->owner == 5 && got[0]->attempts == 0);
    CHECK_INT(counted_count, 0);
    jobs_check(j);
    jobs_destroy(&j);
}

int main(void)
{
    test_deferred();
    test_order();
    test_epochs();
    test_poison();
    test_company();
    test_suspects_restart();
    test_many_leases();
    test_made_up();
    test_restart();
    test_checkpoints();
    test_many_batches();
    test_release_owners();
    test_random();
    return check_report();
}
