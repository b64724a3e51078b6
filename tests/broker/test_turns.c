/* jobs_turns.c: who gets how much of the workers, by tokens. */
#include "tests/broker/jobs_kit.h"

enum { MAX_BATCHES = 8 };

/* A cluster that is always busy: each step somebody asks for jobs, runs them, and the results come.
 */
struct world {
    struct jobs *j;
    struct batch *batches[MAX_BATCHES];
    uint64_t prompt_tokens[MAX_BATCHES], completion_tokens[MAX_BATCHES]; /* of a job */
    uint32_t body_bytes[MAX_BATCHES];
    double served[MAX_BATCHES];
    size_t count;
    uint64_t next_id;
    struct check_rng rng;
};

static void begin(struct world *w)
{
    *w = (struct world){.next_id = 1, .rng = check_rng_start(1)};
    w->j = kit_jobs(1);
}

static struct batch *add_batch_for(struct world *w, const char *client, const char *model,
                                   unsigned priority, uint32_t body_bytes, uint64_t prompt,
                                   uint64_t completion)
{
    char user[32], asks_for[32];
    snprintf(user, sizeof user, "%s", client);
    snprintf(asks_for, sizeof asks_for, "%s", model);
    size_t i = w->count++;
    w->batches[i] = kit_batch(
        w->j, (struct batch){
                  .id = i + 1, .client = user, .model = asks_for, .schedule.priority = priority});
    w->body_bytes[i] = body_bytes;
    w->prompt_tokens[i] = prompt;
    w->completion_tokens[i] = completion;
    return w->batches[i];
}

static struct batch *add_batch(struct world *w, const char *client, unsigned priority,
                               uint32_t body_bytes, uint64_t prompt, uint64_t completion)
{
    return add_batch_for(w, client, "", priority, body_bytes, prompt, completion);
}

static void add_jobs(struct world *w, const struct batch *b, size_t count)
{
    size_t i = (size_t)b->id - 1;
    for (; count > 0; count--, w->next_id++) {
        struct job like = {.id = w->next_id, .line = w->next_id, .body_bytes = w->body_bytes[i]};
        CHECK_ERR(jobs_add(w->j, w->batches[i], &like), ERR_OK);
    }
}

static bool not_batch_1(void *user, const char *model)
{
    (void)user;
    return strcmp(model, "other") != 0;
}

static bool is_model(void *user, const char *model)
{
    return strcmp(user, model) == 0;
}

/* Leases up to max jobs for a worker with this model (NULL: all but "other") and finishes them.
 * Returns how many. */
static size_t run_with(struct world *w, char *model, size_t max)
{
    struct job *got[64];
    struct jobs_want want = {.owner = 1,
                             .has_model = model == NULL ? not_batch_1 : is_model,
                             .user = model,
                             .max_jobs = max,
                             .max_bytes = 1 << 30,
                             .expires_ns = 1};
    size_t n = jobs_lease(w->j, &want, got);
    for (size_t k = 0; k < n; k++) {
        size_t i = (size_t)got[k]->batch->id - 1;
        uint64_t completion =
            w->completion_tokens[i] / 2 + check_rng_below(&w->rng, w->completion_tokens[i] + 1);
        CHECK_INT(jobs_result(w->j, got[k]->id, got[k]->epoch), JOBS_ACCEPT);
        jobs_learn(w->j, got[k], w->prompt_tokens[i], completion);
        w->served[i] += (double)(w->prompt_tokens[i] + completion);
        jobs_finished(w->j, got[k]->id);
    }
    return n;
}

static size_t run(struct world *w, size_t max)
{
    return run_with(w, NULL, max);
}

static double sum(const struct world *w, size_t from, size_t to)
{
    double tokens = 0;
    for (size_t i = from; i < to; i++)
        tokens += w->served[i];
    return tokens;
}

static void check_ratio(double a, double b, double want, double tolerance, const char *what)
{
    check_count++;
    if (b > 0 && a / b > want / (1 + tolerance) && a / b < want * (1 + tolerance))
        return;
    fprintf(stderr, "%s: %.0f to %.0f tokens, expected a ratio of %.2f\n", what, a, b, want);
    check_failures++;
}

/* A user with three batches gets no more than one with one, however long their jobs are. */
static void test_users_and_batches(void)
{
    struct world w;
    begin(&w);
    add_batch(&w, "ann", 100, 400, 100, 200);
    add_batch(&w, "ann", 100, 4000, 1000, 50);
    add_batch(&w, "ann", 100, 40, 10, 2000);
    add_batch(&w, "ben", 100, 1000, 250, 250);
    for (size_t i = 0; i < w.count; i++)
        add_jobs(&w, w.batches[i], 20000);
    for (int step = 0; step < 600; step++)
        CHECK_INT(run(&w, 1 + check_rng_below(&w.rng, 16)) > 0, true);
    jobs_check(w.j);
    check_ratio(sum(&w, 0, 3), w.served[3], 1, 0.05, "users");
    check_ratio(w.served[0], w.served[1], 1, 0.08, "batches of one user");
    check_ratio(w.served[0], w.served[2], 1, 0.08, "short and long jobs");
    jobs_destroy(&w.j);
}

/* A higher priority takes all; the rest share what is left when it has nothing to do. */
static void test_priority(void)
{
    struct world w;
    begin(&w);
    add_batch(&w, "ann", 100, 400, 100, 100);
    add_batch(&w, "ben", 101, 400, 100, 100);
    add_jobs(&w, w.batches[0], 100);
    add_jobs(&w, w.batches[1], 30);
    CHECK_INT(run(&w, 30), 30);
    CHECK(w.served[0] == 0);
    CHECK_INT(run(&w, 30), 30);
    add_jobs(&w, w.batches[1], 1);
    double before = w.served[1];
    CHECK_INT(run(&w, 2), 2);
    CHECK(w.served[1] > before);
    jobs_destroy(&w.j);
}

/* Who was away for long has saved nothing up, and who comes later is not made to wait. */
static void test_newcomer(void)
{
    struct world w;
    begin(&w);
    add_batch(&w, "ann", 100, 400, 100, 100);
    add_batch(&w, "ben", 100, 400, 100, 100);
    add_jobs(&w, w.batches[0], 20000);
    for (int step = 0; step < 500; step++)
        run(&w, 16);
    double before = w.served[0];
    add_jobs(&w, w.batches[1], 10000);
    for (int step = 0; step < 200; step++)
        run(&w, 16);
    check_ratio(w.served[0] - before, w.served[1], 1, 0.06, "a newcomer");
    jobs_destroy(&w.j);
}

/* What is handed back is not paid for, and what a worker cannot run does not hold up the others. */
static void test_returns_and_models(void)
{
    struct world w;
    char other[] = "other";
    begin(&w);
    add_batch(&w, "ann", 100, 400, 100, 100);
    add_batch(&w, "ben", 100, 400, 100, 100);
    w.batches[2] = kit_batch(w.j, (struct batch){.id = 3, .client = other, .model = other});
    for (int i = 0; i < 3; i++)
        add_jobs(&w, w.batches[i], 6000);
    for (int step = 0; step < 300; step++) {
        struct job *got[64];
        struct jobs_want want = {.owner = 2,
                                 .has_model = not_batch_1,
                                 .max_jobs = 64,
                                 .max_bytes = 1 << 30,
                                 .expires_ns = 1};
        size_t n = jobs_lease(w.j, &want, got);
        for (size_t i = 0; i < n; i++) {
            CHECK(got[i]->batch != w.batches[2]);
            if (got[i]->batch == w.batches[0])
                CHECK(jobs_release(w.j, got[i]->id, got[i]->epoch, 2, false, "drain"));
        }
        CHECK_INT(jobs_release_owner(w.j, 2, false, "drain") <= n, true);
        run(&w, 16);
    }
    jobs_check(w.j);
    check_ratio(w.served[0], w.served[1], 1, 0.06, "beside returns");
    CHECK_INT(batch_waiting(w.batches[2]), 6000);
    jobs_destroy(&w.j);
}

/* Two workers with a model each, as fast as each other. Ann can use both, and ben one: all of it is
 * his, however many jobs they take at a time. */
static void test_few_workers(void)
{
    static const size_t grants[] = {1, 8, 32};
    static char models[2][3] = {"m1", "m2"};
    for (size_t i = 0; i < 3; i++) {
        struct world w;
        begin(&w);
        add_batch(&w, "ann", 100, 400, 100, 200);
        add_batch_for(&w, "ben", "m2", 100, 400, 100, 200);
        add_jobs(&w, w.batches[0], 20000);
        add_jobs(&w, w.batches[1], 20000);
        for (size_t jobs = 0; jobs < 16000;)
            jobs += run_with(&w, models[check_rng_below(&w.rng, 2)], grants[i]);
        jobs_check(w.j);
        if (!CHECK(w.served[1] > 0.45 * sum(&w, 0, 2)))
            fprintf(stderr, "    %zu a grant: %.1f %%\n", grants[i],
                    100 * w.served[1] / sum(&w, 0, 2));
        jobs_destroy(&w.j);
    }
}

/* Who comes shares at once with those who use the same workers: also where those of another model
 * are twenty times as fast, and where somebody waits for one that nobody has. */
static void test_newcomers_of_models(void)
{
    struct world w;
    static char fast[] = "fast", slow[] = "slow";
    begin(&w);
    add_batch_for(&w, "zed", "nobody's", 100, 400, 100, 200);
    add_batch_for(&w, "ann", fast, 100, 400, 100, 200);
    add_batch_for(&w, "ben", slow, 100, 400, 100, 200);
    add_batch_for(&w, "cal", fast, 100, 400, 100, 200);
    add_batch_for(&w, "dan", slow, 100, 400, 100, 200);
    for (size_t i = 0; i < w.count; i++)
        add_jobs(&w, w.batches[i], i < 3 ? 40000 : 0);
    for (int step = 0; step < 20000; step++)
        run_with(&w, check_rng_below(&w.rng, 21) == 0 ? slow : fast, 1);
    double ann = w.served[1], ben = w.served[2];
    CHECK(ann > 15 * ben && ben > 0);
    add_jobs(&w, w.batches[3], 20000);
    add_jobs(&w, w.batches[4], 20000);
    for (int step = 0; step < 12000; step++)
        run_with(&w, check_rng_below(&w.rng, 21) == 0 ? slow : fast, 1);
    check_ratio(w.served[1] - ann, w.served[3], 1, 0.06, "those with the fast ones");
    check_ratio(w.served[2] - ben, w.served[4], 1, 0.15, "those with the slow one");
    jobs_check(w.j);
    jobs_destroy(&w.j);
}

/* What may start nowhere has saved no turns up when it may. */
static void test_paused(void)
{
    struct world w;
    begin(&w);
    add_batch(&w, "ann", 100, 400, 100, 200);
    add_batch(&w, "ben", 100, 400, 100, 200);
    add_batch(&w, "ben", 100, 400, 100, 200);
    for (size_t i = 0; i < w.count; i++)
        add_jobs(&w, w.batches[i], 20000);
    struct rec_SCHEDULE schedule = {.priority = 100, .paused = true};
    for (size_t i = 1; i < 3; i++)
        CHECK_ERR(jobs_reschedule(w.j, w.batches[i], &schedule), ERR_OK);
    for (int step = 0; step < 500; step++)
        run(&w, 16);
    CHECK(sum(&w, 1, 3) == 0);
    schedule.paused = false;
    for (size_t i = 1; i < 3; i++)
        CHECK_ERR(jobs_reschedule(w.j, w.batches[i], &schedule), ERR_OK);
    double ann = w.served[0];
    for (int step = 0; step < 200; step++)
        run(&w, 16);
    check_ratio(w.served[0] - ann, sum(&w, 1, 3), 1, 0.06, "a user who was paused");
    check_ratio(w.served[1], w.served[2], 1, 0.1, "his batches");
    jobs_destroy(&w.j);
}

/* What was charged in excess comes back, but is no turn saved up: neither after large jobs that
 * were handed back, nor after those that were guessed much too large. */
static void test_nothing_saved_up(void)
{
    struct world w;
    struct job *got[64];
    struct jobs_want want = {
        .owner = 2, .has_model = not_batch_1, .max_jobs = 64, .max_bytes = 1 << 30};
    begin(&w);
    add_batch(&w, "ann", 100, 1 << 20, 1000, 1000); /* taken for 262,000 tokens each at first */
    add_jobs(&w, w.batches[0], 2000);
    CHECK_INT(jobs_lease(w.j, &want, got), 64);
    CHECK_INT(jobs_release_owner(w.j, 2, false, "drain"), 64);
    CHECK_INT(jobs_lease(w.j, &want, got), 64);
    for (int i = 0; i < 64; i++) {
        CHECK_INT(jobs_result(w.j, got[i]->id, got[i]->epoch), JOBS_ACCEPT);
        jobs_learn(w.j, got[i], 1000, 1000);
        jobs_finished(w.j, got[i]->id);
    }
    add_batch(&w, "ben", 100, 400, 100, 100);
    add_jobs(&w, w.batches[1], 6000);
    for (int step = 0; step < 20; step++)
        run(&w, 16);
    check_ratio(w.served[0], w.served[1], 1, 0.2, "after large jobs");
    jobs_destroy(&w.j);
}

/* Answers that are a hundred times longer than was guessed are paid for when they are there. */
static void test_wrong_guess(void)
{
    struct world w;
    begin(&w);
    add_batch(&w, "ann", 100, 40, 10, 20000);
    add_batch(&w, "ben", 100, 40, 10, 200);
    add_jobs(&w, w.batches[0], 3000);
    add_jobs(&w, w.batches[1], 3000);
    CHECK_INT(run(&w, 64), 64);
    double ann = w.served[0];
    CHECK(ann > 100000 && ann > 50 * w.served[1]);
    while (w.served[1] < ann / 2)
        run(&w, 16);
    CHECK(w.served[0] == ann); /* all was ben's */
    jobs_destroy(&w.j);
}

/* Tokens of a job are guessed from its bytes, better and better. */
static void test_estimate(void)
{
    struct world w;
    begin(&w);
    struct batch *b = add_batch(&w, "ann", 100, 1200, 400, 1000);
    CHECK_INT(batch_job_tokens(b, 1200), 300 + 256 + 1);
    add_jobs(&w, b, 3000);
    while (run(&w, 32) > 0)
        ;
    uint64_t tokens = batch_job_tokens(b, 2400);
    CHECK(tokens > 800 + 900 && tokens < 800 + 1100);
    w.completion_tokens[0] = 10; /* the rest of the file is another task */
    add_jobs(&w, b, 3000);
    while (run(&w, 32) > 0)
        ;
    CHECK(batch_job_tokens(b, 1200) < 400 + 20);
    jobs_destroy(&w.j);
}

int main(void)
{
    test_users_and_batches();
    test_priority();
    test_newcomer();
    test_returns_and_models();
    test_few_workers();
    test_newcomers_of_models();
    test_paused();
    test_nothing_saved_up();
    test_wrong_guess();
    test_estimate();
    return check_report();
}
