/* The governor on simulated cards for whole nights (tests/plants.json), several seeds: what it
 * promises there, on the cards of the file and on random ones. Usage: test_governor_night
 * plants.json */
#include "bench/governor_night.h"

#include <math.h>

#include "base/size.h"
#include "check.h"

enum { SEEDS = 3 };

static struct plant_file file;

static const struct plant *plant(const char *name)
{
    for (size_t i = 0; i < file.plants_count; i++) {
        if (strcmp(file.plants[i].name, name) == 0)
            return &file.plants[i];
    }
    fprintf(stderr, "no plant %s\n", name);
    exit(1);
}

static const struct plant_work *work(const char *name)
{
    for (size_t i = 0; i < file.works_count; i++) {
        if (strcmp(file.works[i].name, name) == 0)
            return &file.works[i];
    }
    fprintf(stderr, "no work %s\n", name);
    exit(1);
}

static struct night night(const struct plant *p, const struct plant_work *w, enum governor_law law,
                          uint64_t seed)
{
    struct night n = {
        .file = &file, .plant = p, .work = w, .governor = governor_defaults(), .seed = seed};
    n.governor.law = law;
    n.governor.limits.target_c = p->target_c;
    return n;
}

static bool told(bool ok, const struct night *n, const struct night_result *r)
{
    if (!ok)
        fprintf(stderr,
                "    %s, %s, law %d, seed %llu: tokens %.4f peak %.2f over %.2f under %.2f ripple "
                "%.2f duty %.3f..%.3f\n",
                n->plant->name, n->work->name, (int)n->governor.law, (unsigned long long)n->seed,
                r->tokens, r->peak_c, r->overshoot_c, r->under_c, r->ripple_c, r->duty_least,
                r->duty_most);
    return ok;
}

/* All cards, all work: what holds wherever. A room that warms by 6 degrees is part of each night.
 */
static void test_goals(void)
{
    for (size_t p = 0; p < file.plants_count; p++) {
        for (size_t w = 0; w < file.works_count; w++) {
            for (uint64_t seed = 1; seed <= SEEDS; seed++) {
                struct night n = night(&file.plants[p], &file.works[w], GOVERNOR_PI, seed);
                struct night_result r = night_run(&n);
                bool hot = r.duty_least < 1;
                told(CHECK(r.overshoot_c <= 1 && r.peak_c <= n.plant->target_c + 1), &n, &r);
                told(CHECK(r.under_c <= 1), &n, &r);
                told(CHECK(!hot || r.ripple_c <= 2), &n, &r);
                told(CHECK(r.throttled_s == 0), &n, &r);
                told(CHECK(hot || r.tokens >= 0.995), &n, &r);
                n.governor.law = GOVERNOR_RAMP;
                r = night_run(&n);
                told(CHECK(r.overshoot_c <= 1 && r.peak_c <= n.plant->target_c + 1), &n, &r);
                told(CHECK(r.throttled_s == 0 && (hot || r.tokens >= 0.98)), &n, &r);
            }
        }
    }
}

/* Firmware that falls deep is what a governor beats on tokens. */
static void test_tokens(void)
{
    for (uint64_t seed = 1; seed <= SEEDS; seed++) {
        struct night n = night(plant("deep_hysteresis"), work("compute_bound"), GOVERNOR_OFF, seed);
        struct night_result none = night_run(&n);
        n.governor.law = governor_defaults().law;
        struct night_result governed = night_run(&n);
        told(CHECK(governed.tokens >= 1.01 * none.tokens), &n, &governed);
        told(CHECK(governed.worst_minute >= none.worst_minute), &n, &governed);
        n.governor.law = GOVERNOR_RAMP;
        struct night_result ramp = night_run(&n);
        told(CHECK(ramp.tokens >= 0.95 * none.tokens), &n, &ramp);
        CHECK(none.throttled_s > 3600 && none.ripple_c > 8);
    }
    struct night n = night(plant("cool_server"), work("compute_bound"), GOVERNOR_PI, 1);
    CHECK(night_run(&n).tokens >= 0.995);
    n.governor.law = GOVERNOR_RAMP;
    CHECK(night_run(&n).tokens >= 0.98);
}

/* Prompts and answers by turns: watts change by a quarter at once, and the card does not throttle.
 */
static void test_changing_work(void)
{
    static const double change_s[] = {5, 45, 600};
    for (size_t i = 0; i < ARRAY_LEN(change_s); i++) {
        struct night n = night(plant("deep_hysteresis"), work("compute_bound"), GOVERNOR_PI, 1);
        n.other_work = work("memory_bound");
        n.change_s = change_s[i];
        struct night_result r = night_run(&n);
        told(CHECK(r.throttled_s == 0 && r.overshoot_c < 2.5), &n, &r);
        n.plant = plant("cool_server");
        r = night_run(&n);
        told(CHECK(r.tokens >= 0.995), &n, &r);
    }
}

/* A target above where the card throttles: it learns where that is. */
static void test_target_too_high(void)
{
    struct night n = night(plant("deep_hysteresis"), work("compute_bound"), GOVERNOR_OFF, 1);
    struct night_result none = night_run(&n);
    n.governor = governor_defaults();
    n.governor.limits.target_c = 95;
    struct night_result r = night_run(&n);
    told(CHECK(r.throttled_s < none.throttled_s / 10 && r.tokens > none.tokens), &n, &r);
    /* Also of firmware that throttles for a second at a time, and far below the target. */
    n.plant = plant("smooth_dvfs");
    for (double target_c = 88; target_c <= 108; target_c += 10) {
        n.governor.limits.target_c = target_c;
        r = night_run(&n);
        told(CHECK(r.throttled_s < 180), &n, &r);
    }
}

/* A sensor that falls silent and talks nonsense, up to four readings in a row. What cannot be true
 * is seen through; what can be four times in a row is not, and costs degrees, as does nonsense all
 * the time. */
static void test_nonsense(void)
{
    static const struct {
        double probability, over_c, throttled_s;
        bool near;
    } kinds[] = {{0.01, 1, 0, false}, {0.01, 3, 0, true}, {0.05, 4, 20, true}};
    static const char *const plants[] = {"cool_server", "smooth_dvfs", "deep_hysteresis"};
    double dropout = file.dropout_probability;
    for (size_t i = 0; i < ARRAY_LEN(plants) * ARRAY_LEN(kinds) * SEEDS; i++) {
        size_t kind = i % ARRAY_LEN(kinds);
        struct night n = night(plant(plants[i / ARRAY_LEN(kinds) / SEEDS]), work("compute_bound"),
                               GOVERNOR_PI, i / ARRAY_LEN(kinds) % SEEDS + 1);
        struct night_result good = night_run(&n);
        n.nonsense_probability = file.dropout_probability = kinds[kind].probability;
        n.nonsense_near = kinds[kind].near;
        struct night_result r = night_run(&n);
        told(CHECK(r.overshoot_c <= kinds[kind].over_c), &n, &r);
        told(CHECK(r.throttled_s <= kinds[kind].throttled_s), &n, &r);
        told(CHECK(r.tokens >= 0.99 * good.tokens), &n, &r);
        file.dropout_probability = dropout;
    }
}

/* A thermal bit that is not true, once in a night: nothing is learnt of it. */
static void test_glitch(void)
{
    for (int law = GOVERNOR_RAMP; law <= GOVERNOR_PI; law++) {
        struct night n = night(plant("cool_server"), work("compute_bound"), law, 1);
        double tokens = night_run(&n).tokens;
        n.glitch_s = 5;
        struct night_result r = night_run(&n);
        told(CHECK(r.tokens < tokens && r.tokens >= 0.99 * tokens), &n, &r);
    }
}

/* The degrees end while the card is cool and its watts go on: no full speed for the rest of the
 * night, and the card's own throttling is not left alone. */
static void test_lost_heat(void)
{
    for (int law = GOVERNOR_RAMP; law <= GOVERNOR_PI; law++) {
        for (size_t p = 0; p < file.plants_count; p++) {
            struct night n = night(&file.plants[p], work("compute_bound"), GOVERNOR_OFF, 1);
            struct night_result none = night_run(&n);
            n.governor.law = (enum governor_law)law;
            n.limit_w = 1.2 * n.plant->p_full;
            n.heat_ends_h = 0.01;
            struct night_result r = night_run(&n);
            told(CHECK(r.throttled_s <= none.throttled_s / 5 && r.tokens < 0.92), &n, &r);
        }
    }
}

/* A sensor that is silent every other time, one that is late, and one whose watts are those of a
 * moment: slower, never out of hand. */
static void test_bad_sensors(void)
{
    struct plant_file usual = file;
    file.dropout_probability = 0.5;
    struct night n = night(plant("deep_hysteresis"), work("compute_bound"), GOVERNOR_PI, 1);
    struct night_result r = night_run(&n);
    told(CHECK(r.overshoot_c <= 2 && r.throttled_s == 0), &n, &r);
    file = usual;
    file.delay_s = 4;
    r = night_run(&n);
    told(CHECK(r.overshoot_c <= 1.5 && r.throttled_s == 0 && r.ripple_c <= 3), &n, &r);
    file = usual;
    n.no_counter = true;
    r = night_run(&n);
    told(CHECK(r.overshoot_c <= 1 && r.throttled_s == 0 && r.ripple_c <= 2), &n, &r);
}

/* Cards of all kinds, from one that follows its heat within a minute to one that takes an hour. */
static void test_random_plants(void)
{
    struct check_rng rng = check_rng_start(17);
    double hours = file.hours;
    file.hours = 3;
    for (int i = 0; i < 60; i++) {
        struct plant p = {
            .name = "random",
            .p_idle = (double)check_rng_float(&rng, 5, 80),
            .p_full = (double)check_rng_float(&rng, 100, 700),
            .c_die = (double)check_rng_float(&rng, 60, 250),
            .c_sink = (double)check_rng_float(&rng, 500, 5000),
            .hysteresis = check_rng_below(&rng, 2) == 0,
            .low_clock = 0.4,
            .hysteresis_c = 8,
            .v_min = 0.7,
        };
        double rise_c = (double)check_rng_float(&rng, 40, 90);
        double die_share = (double)check_rng_float(&rng, 0.15F, 0.5F);
        p.r_die_sink = rise_c * die_share / p.p_full;
        p.r_sink_room = rise_c * (1 - die_share) / p.p_full;
        p.target_c = 26 + rise_c * (double)check_rng_float(&rng, 0.6F, 1.1F);
        p.throttle_c = p.target_c + 4;
        struct night n = night(&p, work("compute_bound"), GOVERNOR_PI, (uint64_t)i);
        struct night_result r = night_run(&n);
        told(CHECK(r.overshoot_c <= 1.5), &n, &r);
        told(CHECK(r.duty_least >= 0.0999 && r.duty_most <= 1 && isfinite(r.tokens)), &n, &r);
        told(CHECK(r.throttled_s == 0), &n, &r);
    }
    file.hours = hours;
}

/* The same seed, the same night; another seed, another one. */
static void test_seeds(void)
{
    struct night n = night(plant("hysteresis"), work("compute_bound"), GOVERNOR_PI, 5);
    struct night_result a = night_run(&n), b = night_run(&n);
    CHECK(memcmp(&a, &b, sizeof a) == 0);
    n.seed = 6;
    b = night_run(&n);
    CHECK(a.tokens != b.tokens && fabs(a.tokens - b.tokens) < 0.002);
}

int main(int argc, char **argv)
{
    struct err_msg why;
    if (argc != 2) {
        fprintf(stderr, "usage: test_governor_night plants.json\n");
        return 2;
    }
    CHECK_OK(plant_load(argv[1], &file, &why), why);
    CHECK_ERR(plant_load("no such file", &file, &why), ERR_FORMAT);
    CHECK_HAS(why.text, "no such file");
    test_seeds();
    test_goals();
    test_tokens();
    test_changing_work();
    test_target_too_high();
    test_bad_sensors();
    test_nonsense();
    test_glitch();
    test_lost_heat();
    test_random_plants();
    return check_report();
}
