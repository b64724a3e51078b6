/* A night of scheduling in virtual time: the broker's index, shares, suspects and twins as they
 * are, over simulated GPUs that differ in speed, get hot, die, hang and lose their wires, under
 * brokers that restart.
 *
 *     test_night            the report, and random nights from fixed seeds
 *     test_night SEED       that random night alone, step by step as it was
 *
 * What must be true is checked at every step: no job is lost or done twice, nobody is given more
 * than the room it has told, limits of batches hold, nobody starves. Prints makespans beside plain
 * first-come pulling and beside the bound: all tokens over all speed. */
#include "tests/broker/night.h"

/* ---- the broker ---- */

static void take(struct night *n, struct gpu *g, struct job *job, uint64_t epoch)
{
    struct fate *f = &n->fates[job->id];
    if (!CHECK(g->count < ROOM))
        return;
    CHECK_INT(f->done + f->failed + f->cancelled, 0);
    CHECK(epoch > f->epoch);
    f->epoch = epoch;
    g->work[g->count++] = (struct work){
        .job = job->id, .epoch = epoch, .prompt = f->prompt, .completion = f->completion};
}

static double job_rate(void *user, uint64_t owner)
{
    const struct night *n = user;
    for (size_t i = 0; i < n->gpu_count; i++) {
        if (n->gpus[i].owner == owner)
            return n->gpus[i].job_tokens_per_s;
    }
    return 0;
}

static int by_owner(const void *a, const void *b)
{
    uint64_t x = (*(struct gpu *const *)a)->owner, y = (*(struct gpu *const *)b)->owner;
    return x < y ? -1 : x > y;
}

static bool takes(const struct gpu *g)
{
    return g->state == GPU_UP && g->count < ROOM;
}

static struct jobs_want want_of(const struct night *n, const struct gpu *g)
{
    return (struct jobs_want){.owner = g->owner,
                              .max_jobs = min_u64(ROOM - g->count, GRANT),
                              .max_bytes = 1 << 20,
                              .expires_ns = ns(n->now_s + LEASE_S)};
}

/* seat: NULL while there are no suspects. */
static void feed_gpu(struct night *n, struct gpu *g, const struct seat *seat,
                     struct headroom_table *table, size_t at)
{
    struct job *got[GRANT];
    struct jobs_want want = want_of(n, g);
    bool none = false;
    if (!takes(g))
        return;
    size_t count = seat != NULL ? suspects_lease(n->j, seat, table, at, &want, got, &none)
                                : headroom_lease(n->j, table, at, &want, got, &none);
    CHECK(count <= ROOM - g->count);
    for (size_t k = 0; k < count; k++)
        take(n, g, got[k], got[k]->epoch);
    if (!none || n->first_come || n->now_s - g->no_twin_s < 1)
        return;
    uint64_t epoch = 0;
    struct job *job = jobs_straggler(n->j, &want, job_rate, n);
    g->no_twin_s = n->now_s;
    if (job != NULL && jobs_lease_twin(n->j, job, g->owner, want.expires_ns, &epoch)) {
        n->twins++;
        take(n, g, job, epoch);
    }
}

static void feed(struct night *n)
{
    struct gpu *gpus[MAX_GPUS];
    struct seat apart[MAX_GPUS];
    static struct headroom_seat seats[MAX_GPUS];
    bool suspects = jobs_suspects(n->j) > 0;
    for (size_t i = 0; i < n->gpu_count; i++)
        gpus[i] = &n->gpus[i];
    qsort(gpus, n->gpu_count, sizeof *gpus, by_owner);
    for (size_t i = 0; i < n->gpu_count; i++)
        apart[i] = (struct seat){.held.owner = gpus[i]->owner,
                                 .ready = gpus[i]->state == GPU_UP,
                                 .isolated = suspects && gpus[i]->isolated};
    if (suspects)
        suspects_seat(n->j, apart, n->gpu_count);
    for (size_t i = 0; i < n->gpu_count; i++) {
        gpus[i]->isolated = apart[i].isolated;
        seats[i] = (struct headroom_seat){.owner = gpus[i]->owner,
                                          .model = "m",
                                          .name = "m",
                                          .tokens_per_s = gpus[i]->best_tokens_per_s,
                                          .duty = gpus[i]->duty,
                                          .takes = takes(gpus[i]),
                                          .leaves = gpus[i]->state != GPU_UP || gpus[i]->isolated};
    }
    struct headroom_table table = {.seats = n->first_come ? NULL : seats, .count = n->gpu_count};
    if (!n->first_come)
        headroom_weigh(n->j, seats, n->gpu_count);
    size_t first = (size_t)check_rng_below(&n->rng, n->gpu_count); /* they ask in any order */
    for (size_t i = 0; i < n->gpu_count; i++) {
        size_t at = (first + i) % n->gpu_count;
        feed_gpu(n, gpus[at], suspects ? &apart[at] : NULL, &table, at);
    }
}

/* kill -9 of the broker: the index is made anew from what the ledger knows; workers come back and
 * say what they hold. */
static void restart(struct night *n)
{
    static const char *const losses = JOBS_ALONE "worker died";
    n->restarts++;
    for (uint64_t id = 1; id <= n->job_count; id++) {
        const struct job *job = jobs_find(n->j, id);
        struct fate *f = &n->fates[id];
        CHECK((job == NULL) == (f->done + f->failed + f->cancelled > 0));
        f->attempts = job == NULL ? 0 : job->attempts;
        f->epoch = job == NULL ? f->epoch : max_u64(f->epoch, job->epoch);
    }
    struct rec_SCHEDULE schedules[MAX_BATCHES];
    char users[MAX_BATCHES][16];
    uint8_t *strikes = calloc(n->job_count + 1, 1), *leased = calloc(n->job_count + 1, 1);
    uint64_t *twins = calloc(n->job_count + 1, sizeof *twins);
    if (strikes == NULL || leased == NULL || twins == NULL)
        abort();
    for (uint64_t id = 1; id <= n->job_count; id++) {
        const struct job *job = jobs_find(n->j, id);
        const struct lease *twin = job == NULL ? NULL : job_twin(job);
        strikes[id] = job == NULL ? 0 : job->strikes;
        leased[id] = job != NULL && job->state == JOB_LEASED;
        twins[id] = twin == NULL ? 0 : min_u64(job->epoch, twin->epoch);
    }
    size_t batches = n->batch_count;
    for (size_t b = 0; b < batches; b++) {
        schedules[b] = n->batches[b]->schedule;
        snprintf(users[b], sizeof users[b], "%s", n->batches[b]->client);
    }
    jobs_destroy(&n->j);
    CHECK_ERR(jobs_create(++n->generation, NULL, NULL, &n->j), ERR_OK);
    n->batch_count = 0;
    for (size_t b = 0; b < batches; b++)
        add_batch(n, users[b], schedules[b]);
    for (uint64_t id = 1; id <= n->job_count; id++) {
        struct fate *f = &n->fates[id];
        if (f->done + f->failed + f->cancelled > 0)
            continue;
        struct job like = job_of(f, id);
        like.state = leased[id] ? JOB_LEASED : JOB_SUBMITTED;
        like.expires_ns = ns(n->now_s + 2 * BEAT_S);
        CHECK_ERR(jobs_add(n->j, n->batches[f->batch], &like), ERR_OK);
        if (twins[id] != 0)
            CHECK_ERR(jobs_add_twin(jobs_find(n->j, id), twins[id], like.expires_ns), ERR_OK);
        for (int k = 0; k < strikes[id]; k++)
            CHECK_ERR(jobs_add_loss(n->j, jobs_find(n->j, id), losses), ERR_OK);
    }
    free(strikes);
    free(leased);
    free(twins);
    for (size_t i = 0; i < n->gpu_count; i++) {
        struct gpu *g = &n->gpus[i];
        uint64_t old = g->owner;
        g->owner = ++n->next_owner;
        for (size_t k = 0; k < g->count && g->state == GPU_UP;) {
            if (jobs_claim(n->j, g->work[k].job, g->work[k].epoch, g->owner, old,
                           ns(n->now_s + LEASE_S)))
                k++;
            else
                drop_work(g, k);
        }
        g->best_tokens_per_s = g->job_tokens_per_s = 0;
    }
    allow_what_runs(n);
}

/* ---- what must be true ---- */

static void check_step(struct night *n)
{
    size_t running[MAX_BATCHES] = {0};
    double all_speed = 0;
    for (size_t i = 0; i < n->gpu_count; i++)
        all_speed += n->gpus[i].tokens_per_s * n->gpus[i].duty;
    /* some turns of all (a quantum is 8,192 tokens), and the trouble in between */
    double most_wait_s = 900 + 4 * 8192 * (double)n->batch_count / all_speed;
    for (const struct job *job = jobs_first(n->j, JOB_LEASED); job != NULL; job = job->next)
        running[job->batch->id - 1]++;
    for (size_t b = 0; b < n->batch_count; b++) {
        const struct batch *batch = n->batches[b];
        uint64_t most = batch->schedule.max_parallel;
        CHECK(most == 0 || running[b] <= max_u64(most, n->allowed[b]));
        if (running[b] <= most)
            n->allowed[b] = 0;
        /* nobody starves: of one priority, whoever may start is served now and then */
        bool could = batch_waiting(batch) > 0 && batch_may_start(n->j, batch) && running[b] == 0;
        for (size_t c = 0; c < n->batch_count && could; c++)
            could = n->batches[c]->schedule.priority <= batch->schedule.priority ||
                    batch_waiting(n->batches[c]) == 0;
        n->starved_s[b] = could ? n->starved_s[b] + n->step_s : 0;
        CHECK(n->starved_s[b] < most_wait_s);
    }
    CHECK_INT(jobs_count(n->j), n->left);
}

/* Somebody pauses, resumes, changes or cancels, or sets a deadline. */
static void order(struct night *n)
{
    struct batch *b = n->batches[check_rng_below(&n->rng, n->batch_count)];
    struct rec_SCHEDULE s = b->schedule;
    uint64_t what = check_rng_below(&n->rng, 10), wall_ms = 1 + (uint64_t)(n->now_s * 1000);
    if (what < 3) {
        s.paused = !s.paused && n->now_s < 24 * 3600;
    } else if (what < 6) {
        s.priority = 100 + check_rng_below(&n->rng, 3);
        s.max_parallel = check_rng_below(&n->rng, 2) * 40;
        n->allowed[b->id - 1] = b->leased;
    } else if (what < 8 && s.deadline_ms == 0 && n->deadlines) {
        s.deadline_ms = wall_ms + check_rng_below(&n->rng, 3600000);
    } else {
        for (int k = 0; k < 20; k++) { /* some lines */
            uint64_t id = 1 + check_rng_below(&n->rng, n->job_count);
            if (jobs_find(n->j, id) == NULL)
                continue;
            jobs_finished(n->j, id);
            n->fates[id].cancelled++;
            n->left--;
        }
    }
    if (!b->expired)
        CHECK_ERR(jobs_reschedule(n->j, b, &s), ERR_OK);
}

static void expire(struct night *n)
{
    uint64_t wall_ms = 1 + (uint64_t)(n->now_s * 1000);
    for (size_t b = 0; b < n->batch_count; b++) {
        uint64_t deadline_ms = n->batches[b]->schedule.deadline_ms;
        if (deadline_ms > 0 && wall_ms >= deadline_ms)
            jobs_expire_batch(n->j, n->batches[b], 100);
    }
}

static void finish_doomed(struct night *n)
{
    for (struct job *job; (job = jobs_doomed(n->j)) != NULL;) {
        struct fate *f = &n->fates[job->id];
        CHECK(f->kills || job->batch->expired || n->trouble > 0);
        CHECK_INT(jobs_result(n->j, job->id, job->epoch), JOBS_ACCEPT);
        jobs_finished(n->j, job->id);
        f->failed++;
        n->left--;
    }
}

static double run(struct night *n, double most_s)
{
    uint64_t steps = 0;
    for (; n->left > 0 && n->now_s < most_s; n->now_s += n->step_s, steps++) {
        jobs_set_time(n->j, ns(n->now_s + 1), 1 + (uint64_t)(n->now_s * 1000),
                      (unsigned)(n->now_s / 60) % 1440);
        for (size_t i = 0; i < n->gpu_count; i++)
            gpu_step(n, &n->gpus[i]);
        jobs_expire(n->j, ns(n->now_s));
        if (happens(n, n->orders) || (n->now_s > 24 * 3600 && n->orders > 0 && steps % 100 == 0))
            order(n);
        expire(n);
        finish_doomed(n);
        feed(n);
        check_step(n);
        if (happens(n, n->restart))
            restart(n);
        if (steps % 512 == 0)
            jobs_check(n->j);
    }
    jobs_check(n->j);
    CHECK_INT(n->left, 0);
    for (uint64_t id = 1; id <= n->job_count; id++)
        CHECK_INT(n->fates[id].done + n->fates[id].failed + n->fates[id].cancelled, 1);
    return n->now_s;
}

/* ---- the report ---- */

/* Eight GPUs, the fastest three times as fast as the slowest, two of them hot after a while. */
static double eight(size_t jobs, bool first_come, double *ret_bound_s, size_t *ret_twins)
{
    static const double speeds[] = {1000, 1300, 1600, 2000, 2300, 2600, 3000, 3000};
    struct night *n = new_night(7, 8, jobs);
    n->first_come = first_come;
    add_batch(n, "ann", (struct rec_SCHEDULE){.priority = 100});
    add_jobs(n);
    for (size_t i = 0; i < 8; i++) {
        n->gpus[i].tokens_per_s = speeds[i];
        if (i == 3 || i == 6) {
            n->gpus[i].hot_from_s = 120;
            n->gpus[i].hot_duty = 0.4;
        }
    }
    double tokens = 0, at_s = 0, cool = 0, hot = 0;
    for (size_t id = 1; id <= jobs; id++)
        tokens += n->fates[id].prompt + n->fates[id].completion;
    for (size_t i = 0; i < 8; i++) {
        cool += speeds[i];
        hot += n->gpus[i].hot_from_s > 0 ? speeds[i] * n->gpus[i].hot_duty : speeds[i];
    }
    at_s = tokens / cool < 120 ? tokens / cool : 120 + (tokens - 120 * cool) / hot;
    *ret_bound_s = at_s;
    double took_s = run(n, 100 * at_s + 1000);
    *ret_twins = n->twins;
    free_night(n);
    return took_s;
}

static void report(void)
{
    static const size_t jobs[] = {2000, 20000, 200000};
    printf("8 GPUs of 1,000 to 3,000 tokens/s, two at 40 %% duty after two minutes:\n"
           "%10s %12s %16s %10s %8s\n",
           "lines", "bound s", "first come", "ours", "twins");
    for (size_t i = 0; i < ARRAY_LEN(jobs); i++) {
        double bound_s = 0;
        size_t twins = 0;
        double plain_s = eight(jobs[i], true, &bound_s, &twins);
        double ours_s = eight(jobs[i], false, &bound_s, &twins);
        printf("%10zu %12.0f %8.0f (%+.1f%%) %5.0f (%+.1f%%) %4zu\n", jobs[i], bound_s, plain_s,
               100 * (plain_s / bound_s - 1), ours_s, 100 * (ours_s / bound_s - 1), twins);
        CHECK(ours_s <= plain_s);
        CHECK(jobs[i] < 20000 || ours_s < 1.03 * bound_s);
    }
}

/* Three users with one, two and five batches of one priority: what each had of the first two hours.
 */
static void fairness(void)
{
    struct night *n = new_night(5, 8, 120000);
    static const char *const users[] = {"ann", "ben", "ben", "cid", "cid", "cid", "cid", "cid"};
    for (size_t i = 0; i < ARRAY_LEN(users); i++)
        add_batch(n, users[i], (struct rec_SCHEDULE){.priority = 100});
    add_jobs(n);
    for (size_t i = 0; i < 8; i++)
        n->gpus[i].tokens_per_s = 1000 + 250 * (double)i;
    size_t left = n->left;
    n->left = left;
    for (n->now_s = 0; n->now_s < 600; n->now_s++) {
        jobs_set_time(n->j, ns(n->now_s + 1), 0, 0);
        for (size_t i = 0; i < 8; i++)
            gpu_step(n, &n->gpus[i]);
        feed(n);
    }
    double ann = n->served[0], ben = n->served[1] + n->served[2], cid = 0;
    for (size_t i = 3; i < 8; i++)
        cid += n->served[i];
    printf("three users with 1, 2 and 5 batches, tokens of ten minutes: %.0f, %.0f, %.0f\n", ann,
           ben, cid);
    CHECK(fmax(ann, fmax(ben, cid)) < 1.05 * fmin(ann, fmin(ben, cid)));
    free_night(n);
}

/* ---- random nights ---- */

static void random_night(uint64_t seed)
{
    struct check_rng rng = {seed};
    size_t gpus = 1 + check_rng_below(&rng, seed % 8 == 0 ? MAX_GPUS : 24);
    struct night *n = new_night(seed * 31 + 1, gpus, 200 + check_rng_below(&rng, 4000));
    n->trouble = check_rng_below(&rng, 3) == 0 ? 0 : between(n, 0, 3);
    n->restart = check_rng_below(&rng, 3) == 0 ? 0 : between(n, 0, 4);
    n->orders = check_rng_below(&rng, 2) == 0 ? 0 : between(n, 0, 30);
    n->deadlines = check_rng_below(&rng, 3) == 0;
    size_t batches = 1 + check_rng_below(&rng, MAX_BATCHES);
    for (size_t b = 0; b < batches; b++) {
        char user[] = "u0";
        user[1] = (char)('0' + check_rng_below(&rng, 5));
        struct rec_SCHEDULE s = {.priority = 100 + check_rng_below(&rng, 3)};
        if (check_rng_below(&rng, 4) == 0)
            s.max_parallel = 1 + check_rng_below(&rng, 60);
        if (check_rng_below(&rng, 6) == 0)
            s.not_before_ms = (uint64_t)between(n, 1000, 3000000);
        if (check_rng_below(&rng, 8) == 0) {
            s.daily_from_min = check_rng_below(&rng, 1440);
            s.daily_until_min = (s.daily_from_min + 30) % 1440;
        }
        add_batch(n, user, s);
    }
    add_jobs(n);
    for (size_t i = 0; i < gpus; i++) {
        n->gpus[i].tokens_per_s = 200 * exp(between(n, 0, 3));
        if (check_rng_below(&rng, 4) == 0) {
            n->gpus[i].hot_from_s = between(n, 1, 3600);
            n->gpus[i].hot_duty = between(n, 0.1, 0.9);
        }
    }
    for (uint64_t k = check_rng_below(&rng, 4); k > 0; k--)
        n->fates[1 + check_rng_below(&rng, n->job_count)].kills = true;
    double took_s = run(n, 400 * 3600);
    printf("seed %llu: %zu lines of %zu batches, %zu GPUs: %.1f h; %zu deaths, %zu restarts, %zu "
           "twins\n",
           (unsigned long long)seed, n->job_count, batches, gpus, took_s / 3600, n->deaths,
           n->restarts, n->twins);
    free_night(n);
}

int main(int argc, char **argv)
{
    if (argc > 1) {
        random_night(strtoull(argv[1], NULL, 0));
        return check_report();
    }
    report();
    fairness();
    for (uint64_t seed = 1; seed <= 40 && check_failures == 0; seed++)
        random_night(seed);
    return check_report();
}
