/* headroom.c: shares in named cases; then nights on clusters of hot and cool GPUs in virtual time,
 * with the jobs' real index, against pulling that only looks at who has room. */
#include "broker/headroom.h"

#include <math.h>

#include "base/clock.h"
#include "base/size.h"
#include "tests/broker/jobs_kit.h"

static void check_near(double got, double want)
{
    if (!CHECK(fabs(got - want) <= 1e-6 * fmax(1, fabs(want))))
        fprintf(stderr, "    got %.6f, want %.6f\n", got, want);
}

/* ---- shares ---- */

static double share(const struct headroom_seat *s, size_t which, double waiting)
{
    struct headroom_crowd crowd = headroom_gather(s, 3, &s[which], waiting);
    return headroom_share(&crowd, &s[which]);
}

static bool is_first(const struct headroom_seat *s, size_t which, double waiting)
{
    struct headroom_crowd crowd = headroom_gather(s, 3, &s[which], waiting);
    return headroom_is_first(&crowd, s, 3, &s[which]);
}

static void test_shares(void)
{
    struct headroom_seat s[] = {
        {.owner = 1, .model = "m", .name = "", .tokens_per_s = 300, .duty = 1, .takes = true},
        {.owner = 2, .model = "m", .name = "", .tokens_per_s = 200, .duty = 0.5, .takes = true},
        {.owner = 3, .model = "other", .name = "", .tokens_per_s = 9000, .duty = 1, .takes = true},
    };
    check_near(share(s, 0, 400), 300);
    check_near(share(s, 1, 400), 100); /* it works half of the time */
    check_near(share(s, 2, 50), 50);   /* nobody else has its model */
    CHECK(is_first(s, 0, 400) && !is_first(s, 1, 400) && is_first(s, 2, 50));
    CHECK(isinf(share(s, 1, INFINITY)));
    s[0].held_tokens = 300; /* what is held counts as work, and as taken */
    check_near(share(s, 0, 500), 300);
    check_near(share(s, 1, 500), 200);
    s[0].takes = false; /* it has no room */
    CHECK(is_first(s, 1, 500));
    s[1].held_tokens = 900;
    CHECK(share(s, 1, 100) < 0 && !is_first(s, 1, 100));
    /* Who has no room and holds nothing is out of it, and so is who leaves. */
    s[0].takes = true;
    s[1].held_tokens = 0;
    s[1].takes = false;
    check_near(share(s, 0, 500), 500);
    s[1].takes = s[1].leaves = true;
    check_near(share(s, 0, 500), 500);
    /* Not known: average. Nobody knows: all alike. */
    s[1] = (struct headroom_seat){.owner = 2, .model = "m", .name = "", .takes = true};
    check_near(share(s, 1, 500), 400);
    s[0].tokens_per_s = s[0].duty = s[0].held_tokens = 0;
    check_near(share(s, 1, 500), 250);
    CHECK(is_first(s, 0, 1) && is_first(s, 1, 1));
    /* Nonsense is not believed. */
    s[0].duty = NAN;
    s[1].duty = -3;
    check_near(share(s, 0, 500), 250);
    check_near(headroom_best(100, 50, 600), 50);
    check_near(headroom_best(100, 90, 1), 100 * exp2(-1.0 / 600));
    check_near(headroom_best(100, NAN, 0), 100);
    check_near(headroom_best(100, 1e300, 0), 100);
    check_near(headroom_best(0, -5, 10), 0);
}

static bool asks_for(void *user, const char *model)
{
    const struct headroom_seat *s = user;
    return strcmp(s->name, model) == 0 || strcmp(s->model, model) == 0;
}

/* Leases what the seat may have now, with a table that was made before. */
static size_t lease(struct jobs *j, struct headroom_table *t, size_t at, bool *ret_none)
{
    struct job *got[64];
    struct jobs_want want = {.owner = at + 1,
                             .has_model = asks_for,
                             .user = &t->seats[at],
                             .max_jobs = 64,
                             .max_bytes = 1 << 20};
    return headroom_lease(j, t, at, &want, got, ret_none);
}

/* One file under two names: what waits for one of them is a share of that one's alone, whoever asks
 * first, and however fast the other is. */
static void test_two_names(void)
{
    for (size_t first = 0; first < 2; first++) {
        struct headroom_seat s[] = {
            {.owner = 1, .model = "m", .name = "a", .tokens_per_s = 900, .takes = true},
            {.owner = 2, .model = "m", .name = "b", .tokens_per_s = 100, .takes = true},
        };
        struct headroom_table t = {.seats = s, .count = 2};
        struct jobs *j = kit_jobs(1);
        char name[] = "b";
        struct batch *b = kit_batch(j, (struct batch){.id = 1, .model = name});
        for (uint64_t i = 1; i <= 10; i++) {
            struct job job = {.id = i, .line = i, .body_bytes = 400};
            CHECK_ERR(jobs_add(j, b, &job), ERR_OK);
        }
        for (size_t i = 0; i < 2; i++) {
            size_t at = i == 0 ? first : 1 - first;
            bool none = at == 1;
            CHECK_INT(lease(j, &t, at, &none), at == 1 ? 10 : 0);
            CHECK_INT(none, at == 0);
        }
        jobs_destroy(&j);
    }
}

/* Those that may not start are no reason to look at no others. */
static void test_many_batches(void)
{
    struct jobs *j = kit_jobs(1);
    static const struct jobs_want any;
    double one = 0;
    for (uint64_t id = 1; id <= 300; id++) {
        struct batch *b =
            kit_batch(j, (struct batch){.id = id, .schedule.paused = id <= 200 || id > 250});
        struct job job = {.id = id, .line = 1, .body_bytes = 400};
        CHECK_ERR(jobs_add(j, b, &job), ERR_OK);
        one = (double)batch_job_tokens(b, 400);
    }
    check_near(headroom_waiting(j, &any), 50 * one);
    for (uint64_t id = 401; id <= 420; id++) {
        struct batch *b = kit_batch(j, (struct batch){.id = id});
        struct job job = {.id = id, .line = 1, .body_bytes = 400};
        CHECK_ERR(jobs_add(j, b, &job), ERR_OK);
    }
    CHECK(isinf(headroom_waiting(j, &any)));
    jobs_destroy(&j);
}

/* ---- a cluster ---- */

enum {
    GPUS = 8,
    SLOTS = 16,
    ROOM = SLOTS + SLOTS / 4,
    MOST_JOBS = 4000,
    TICK_MS = 100,
    BEAT_MS = 1000
};

/* A GPU: the more sequences, the more tokens/s. Heat is one mass that cools into the room; its
 * governor gives way over the last five degrees. */
struct gpu {
    double tokens_per_s;            /* with all slots, at full duty */
    double room_c, rise_c, seconds; /* at full duty it settles at room_c + rise_c */
    double temp_c, duty;
    double told;            /* the best tokens/s of late */
    struct job *jobs[ROOM]; /* the first SLOTS of them run */
    double done[ROOM];      /* tokens */
    size_t count;
    double idle_s; /* since it last had a job */
};

struct cluster {
    struct jobs *j;
    struct batch *batch;
    struct gpu gpus[GPUS];
    size_t count;
    double length[MOST_JOBS + 1]; /* tokens of a completion, by job */
    uint64_t now_ms;
    double capacity; /* tokens that all could have done until now */
    size_t finished;
};

static double uniform(struct check_rng *rng)
{
    return (double)check_rng_below(rng, 1000000) / 1e6;
}

static void warm(struct gpu *g, bool works, double seconds)
{
    static const double target_c = 75, ramp_c = 5;
    double settles = g->room_c + (works ? g->duty * g->rise_c : 0);
    g->temp_c += (settles - g->temp_c) * seconds / g->seconds;
    g->duty = fmin(1, fmax(0.1, (target_c + 1 - g->temp_c) / ramp_c));
}

static void open_cluster(struct cluster *c, uint64_t seed, size_t least)
{
    struct check_rng rng = check_rng_start(seed);
    *c = (struct cluster){0};
    c->j = kit_jobs(1);
    c->batch = kit_batch(c->j, (struct batch){.id = 1});
    c->count = (size_t)((double)least * pow(10, uniform(&rng)));
    for (uint64_t i = 1; i <= c->count; i++) {
        struct job job = {.id = i, .line = i, .body_bytes = 400};
        CHECK_ERR(jobs_add(c->j, c->batch, &job), ERR_OK);
        c->length[i] = ceil(100 + 300 * uniform(&rng));
    }
    for (size_t i = 0; i < GPUS; i++) {
        c->gpus[i] = (struct gpu){
            .tokens_per_s = 500 * pow(3, uniform(&rng)),
            .room_c = 20 + 20 * uniform(&rng),
            .rise_c = 25 + 45 * uniform(&rng),
            .seconds = 30 + 60 * uniform(&rng),
            .temp_c = 40 + 45 * uniform(&rng), /* from what it did before */
        };
        c->gpus[i].told = c->gpus[i].tokens_per_s * (0.9 + 0.2 * uniform(&rng));
        warm(&c->gpus[i], false, 0);
    }
}

static double rate(const struct gpu *g, size_t running)
{
    enum { HALF_SLOTS = 4 }; /* so many sequences do half of what endlessly many would */
    double full = (double)SLOTS / (SLOTS + HALF_SLOTS);
    return g->tokens_per_s * (double)running / (double)(running + HALF_SLOTS) / full;
}

static void end_job(struct cluster *c, struct gpu *g, size_t at)
{
    struct job *job = g->jobs[at];
    CHECK_INT(jobs_result(c->j, job->id, job->epoch), JOBS_ACCEPT);
    jobs_learn(c->j, job, 100, (uint64_t)c->length[job->id]);
    jobs_finished(c->j, job->id);
    g->count--;
    for (size_t i = at; i < g->count; i++) {
        g->jobs[i] = g->jobs[i + 1];
        g->done[i] = g->done[i + 1];
    }
    c->finished++;
}

static void run_gpu(struct cluster *c, struct gpu *g, double seconds)
{
    size_t running = g->count < SLOTS ? g->count : SLOTS;
    double each = running == 0 ? 0 : rate(g, running) * g->duty * seconds / (double)running;
    for (size_t i = running; i-- > 0;) {
        g->done[i] += each;
        if (g->done[i] >= c->length[g->jobs[i]->id])
            end_job(c, g, i);
    }
    c->capacity += g->tokens_per_s * g->duty * seconds;
    g->idle_s = g->count == 0 ? g->idle_s + seconds : 0;
    warm(g, running > 0, seconds);
}

/* What a beat tells. */
static void beat(struct gpu *g, double seconds)
{
    size_t running = g->count < SLOTS ? g->count : SLOTS;
    g->told = headroom_best(g->told, rate(g, running), seconds);
    for (size_t i = 0; i < g->count; i++)
        g->jobs[i]->running_tokens = (uint32_t)g->done[i];
}

/* blind: each takes what it has room for, first come, first served. */
static void feed(struct cluster *c, bool blind)
{
    struct headroom_seat seats[GPUS];
    for (size_t i = 0; i < GPUS; i++)
        seats[i] = (struct headroom_seat){.owner = i + 1,
                                          .model = "",
                                          .name = "",
                                          .tokens_per_s = c->gpus[i].told,
                                          .duty = c->gpus[i].duty,
                                          .takes = c->gpus[i].count < ROOM};
    headroom_weigh(c->j, seats, GPUS);
    static const struct jobs_want any;
    struct headroom_crowd crowd =
        headroom_gather(seats, GPUS, &seats[0], headroom_waiting(c->j, &any));
    for (size_t i = 0; i < GPUS; i++) {
        struct gpu *g = &c->gpus[i];
        struct jobs_want want = {.owner = i + 1, .max_jobs = ROOM - g->count, .max_bytes = 1 << 20};
        if (!blind)
            want.max_tokens = headroom_share(&crowd, &seats[i]);
        if (want.max_jobs == 0 || want.max_tokens < 0)
            continue;
        size_t count = jobs_lease(c->j, &want, g->jobs + g->count);
        if (count == 0 && headroom_is_first(&crowd, seats, GPUS, &seats[i])) {
            want.max_tokens = 0;
            want.max_jobs = 1;
            count = jobs_lease(c->j, &want, g->jobs + g->count);
        }
        for (; count > 0; count--, g->count++) {
            seats[i].held_tokens += g->jobs[g->count]->tokens;
            g->done[g->count] = 0;
        }
    }
}

struct night {
    size_t jobs;
    double makespan_s, idle_s; /* idle_s: of a GPU at the end, on average */
    double bound_s;            /* had all worked to the end at their best */
};

static struct night run_night(uint64_t seed, size_t least, bool blind)
{
    static struct cluster c;
    double tokens = 0;
    struct night n = {0};
    open_cluster(&c, seed, least);
    for (size_t i = 1; i <= c.count; i++)
        tokens += c.length[i];
    while (c.finished < c.count && c.now_ms < 24 * 3600 * 1000) {
        feed(&c, blind);
        c.now_ms += TICK_MS;
        jobs_set_time(c.j, c.now_ms * NS_PER_MS, 0, 0);
        for (size_t i = 0; i < GPUS; i++) {
            run_gpu(&c, &c.gpus[i], TICK_MS / 1000.0);
            if (c.now_ms % BEAT_MS == 0)
                beat(&c.gpus[i], BEAT_MS / 1000.0);
        }
        if (n.bound_s == 0 && c.capacity >= tokens)
            n.bound_s = (double)c.now_ms / 1000;
    }
    CHECK_INT(c.finished, c.count);
    for (size_t i = 0; i < GPUS; i++)
        n.idle_s += c.gpus[i].idle_s / GPUS;
    n.makespan_s = (double)c.now_ms / 1000;
    n.jobs = c.count;
    jobs_destroy(&c.j);
    return n;
}

/* Batches of `least` to ten times as many jobs. */
static void test_nights(size_t least, double most_mean, double most_worst)
{
    enum { SEEDS = 24 };
    double mean = 0, worst = 0, idle[2] = {0};
    printf("                     who has room     by headroom\n"
           "seed  jobs  bound  makespan  idle  makespan  idle  ratio\n");
    for (uint64_t seed = 1; seed <= SEEDS; seed++) {
        struct night blind = run_night(seed, least, true), aware = run_night(seed, least, false);
        double ratio = aware.makespan_s / blind.makespan_s;
        printf("%4d %5zu %6.1f    %6.1f %5.1f    %6.1f %5.1f  %.3f\n", (int)seed, blind.jobs,
               blind.bound_s, blind.makespan_s, blind.idle_s, aware.makespan_s, aware.idle_s,
               ratio);
        mean += ratio / SEEDS;
        worst = fmax(worst, ratio);
        idle[0] += blind.idle_s / SEEDS;
        idle[1] += aware.idle_s / SEEDS;
    }
    printf("mean ratio %.3f, worst %.3f; idle at the end, mean of all GPUs: %.1f s, %.1f s\n", mean,
           worst, idle[0], idle[1]);
    CHECK(mean <= most_mean);
    CHECK(worst <= most_worst);
    CHECK(idle[1] < idle[0] / 2);
}

int main(void)
{
    test_shares();
    test_two_names();
    test_many_batches();
    test_nights(400, 0.96, 1.01);
    test_nights(20, 0.75, 100);
    return check_report();
}
