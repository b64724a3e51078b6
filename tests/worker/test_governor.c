/* The governor's figures, exactly as the design gives them, and the pacer. Virtual time. */
#include "base/clock.h"
#include "base/size.h"
#include "check.h"
#include "worker/governor.h"
#include "worker/pacer.h"

static bool near(double got, double want)
{
    double d = got - want;
    bool ok = d < 1e-6 && d > -1e-6;
    if (!ok)
        fprintf(stderr, "    got %.9f, expected %.9f\n", got, want);
    return ok;
}

static struct governor start(void)
{
    struct governor g;
    governor_init(&g, governor_defaults());
    return g;
}

static double at_temp(struct governor *g, double temp_c, double now_s)
{
    uint64_t now_ns = (uint64_t)(now_s * 1e9);
    struct governor_input in = {.have_temp = true, .temp_c = temp_c, .read_ns = now_ns};
    return governor_update(g, &in, now_ns);
}

static void test_ramp(void)
{
    static const struct {
        double temp_c, delay_ms;
    } table[] = {{20, 1},      {69.9, 1},  {70, 1},    {71, 10.8}, {72, 20.6},
                 {72.5, 25.5}, {73, 30.4}, {74, 40.2}, {75, 50}};
    for (size_t i = 0; i < ARRAY_LEN(table); i++) {
        struct governor g = start();
        CHECK(near(at_temp(&g, table[i].temp_c, 100), table[i].delay_ms));
        CHECK(!g.blind);
    }
    /* Another target moves the whole ramp. */
    struct governor_config c = governor_defaults();
    c.target_c = 60;
    struct governor g;
    governor_init(&g, c);
    CHECK(near(at_temp(&g, 58, 1), 30.4));
}

static void test_release(void)
{
    struct governor g = start();
    CHECK(near(at_temp(&g, 73, 100), 30.4));
    /* Cooling: 1 ms a second, however cold it is. */
    CHECK(near(at_temp(&g, 60, 101), 29.4));
    CHECK(near(at_temp(&g, 60, 101.5), 28.9));
    CHECK(near(at_temp(&g, 60, 111.5), 18.9));
    /* Warming: at once. */
    CHECK(near(at_temp(&g, 74, 111.6), 40.2));
    /* The release ends at the ramp. */
    CHECK(near(at_temp(&g, 73, 121), 30.8));
    CHECK(near(at_temp(&g, 73, 122), 30.4));
    CHECK(near(at_temp(&g, 73, 200), 30.4));
}

static void test_escalation(void)
{
    struct governor g = start();
    static const double up[] = {50, 100, 200, 400, 450, 450, 450};
    for (size_t i = 0; i < ARRAY_LEN(up); i++) {
        CHECK(near(at_temp(&g, 76, 10 + (double)i), up[i]));
        CHECK(near(at_temp(&g, 76, 10.9 + (double)i), up[i]));
    }
    CHECK(near(governor_duty(450), 0.1));
    /* Back at the target: halves every 2 s down to the ramp, then 1 ms a second. */
    static const double down[] = {450, 225, 112.5, 56.25, 50};
    for (size_t i = 0; i < ARRAY_LEN(down); i++) {
        CHECK(near(at_temp(&g, 74, 20 + 2 * (double)i), down[i]));
        CHECK(near(at_temp(&g, 74, 21.9 + 2 * (double)i), i < 4 ? down[i] : 50 - 1.9));
    }
    CHECK(near(at_temp(&g, 74, 60), 40.2));
    /* Too hot again on the way back: doubling goes on from where it was. */
    g = start();
    at_temp(&g, 80, 10);
    CHECK(near(at_temp(&g, 80, 12), 200));
    CHECK(near(at_temp(&g, 70, 13), 200));
    CHECK(near(at_temp(&g, 70, 15), 100));
    CHECK(near(at_temp(&g, 80, 15.5), 100));
    CHECK(near(at_temp(&g, 80, 16.5), 200));
    /* Seldom updates lose no doubling. */
    g = start();
    at_temp(&g, 80, 10);
    CHECK(near(at_temp(&g, 80, 12.5), 200));
    CHECK(near(at_temp(&g, 80, 13.5), 400));
}

static void test_throttle(void)
{
    struct governor g = start();
    struct governor_input in = {.have_temp = true, .temp_c = 60, .read_ns = 1};
    CHECK(near(governor_update(&g, &in, 1), 1));
    double duty = governor_duty(g.delay_ms);
    in.throttle_bits = THROTTLE_THERMAL;
    in.read_ns = NS_PER_S;
    governor_update(&g, &in, NS_PER_S);
    CHECK(near(governor_duty(g.delay_ms), duty / 2));
    CHECK(near(g.delay_ms, 52));
    governor_update(&g, &in, NS_PER_S + NS_PER_S / 2);
    CHECK(near(g.delay_ms, 52));
    governor_update(&g, &in, 2 * NS_PER_S);
    CHECK(near(g.delay_ms, 104));
    /* Gone: halves, then the ramp. */
    in.throttle_bits = 0;
    in.read_ns = 3 * NS_PER_S;
    CHECK(near(governor_update(&g, &in, 3 * NS_PER_S), 104));
    in.read_ns = 5 * NS_PER_S;
    CHECK(near(governor_update(&g, &in, 5 * NS_PER_S), 52));
    in.read_ns = 7 * NS_PER_S;
    CHECK(near(governor_update(&g, &in, 7 * NS_PER_S), 50));
    in.read_ns = 9 * NS_PER_S;
    CHECK(near(governor_update(&g, &in, 9 * NS_PER_S), 48));
    /* The power bit is the ramp's business. */
    g = start();
    in = (struct governor_input){
        .have_temp = true, .temp_c = 60, .read_ns = 1, .throttle_bits = THROTTLE_POWER};
    CHECK(near(governor_update(&g, &in, 1), 1));
}

static void test_power(void)
{
    static const struct {
        double temp_c, power_w, delay_ms;
    } table[] = {
        {50, 600, 1},  {50, 665, 1},  {50, 679, 20.6}, {50, 686, 30.4},
        {50, 700, 50}, {50, 710, 50}, {74, 679, 40.2}, {71, 686, 30.4},
    };
    for (size_t i = 0; i < ARRAY_LEN(table); i++) {
        struct governor g = start();
        struct governor_input in = {.have_temp = true,
                                    .temp_c = table[i].temp_c,
                                    .have_power = true,
                                    .power_w = table[i].power_w,
                                    .limit_w = 700,
                                    .read_ns = 5};
        CHECK(near(governor_update(&g, &in, 5), table[i].delay_ms));
    }
    /* Power alone will do; power without its limit says nothing. */
    struct governor g = start();
    struct governor_input in = {.have_power = true, .power_w = 686, .limit_w = 700, .read_ns = 5};
    CHECK(near(governor_update(&g, &in, 5), 30.4));
    CHECK(!g.blind);
    g = start();
    in.limit_w = 0;
    CHECK(near(governor_update(&g, &in, 5), 5));
    CHECK(g.blind);
}

static void test_margin(void)
{
    struct governor g = start();
    double headroom = 0;
    /* As a card answers that tells its limit only as a margin. */
    struct governor_input in = {
        .have_temp = true, .temp_c = 42, .have_margin = true, .margin_c = 45, .read_ns = 5};
    CHECK(governor_headroom_c(&g, &in, &headroom));
    CHECK(near(headroom, 33));
    CHECK(near(governor_update(&g, &in, 5), 1));
    /* 5 degrees are kept below the card's own limit, wherever the target is. */
    in.margin_c = 7;
    CHECK(governor_headroom_c(&g, &in, &headroom));
    CHECK(near(headroom, 2));
    CHECK(near(governor_update(&g, &in, 6), 30.4));
    g = start();
    in.have_temp = false;
    in.temp_c = 200;
    CHECK(near(governor_update(&g, &in, 7), 30.4));
    in.have_margin = false;
    CHECK(!governor_headroom_c(&g, &in, &headroom));
}

static void test_blind(void)
{
    struct governor g = start();
    struct governor_input none = {0};
    CHECK(near(governor_update(&g, &none, 100 * NS_PER_S), 5));
    CHECK(g.blind);
    /* The first reading counts at once. */
    struct governor_input in = {.have_temp = true, .temp_c = 73, .read_ns = 101 * NS_PER_S};
    CHECK(near(governor_update(&g, &in, 101 * NS_PER_S), 30.4));
    CHECK(!g.blind);
    CHECK(near(governor_update(&g, &in, 106 * NS_PER_S), 30.4));
    CHECK(!g.blind);
    CHECK(near(governor_update(&g, &in, 106 * NS_PER_S + 1), 5));
    CHECK(g.blind);
    struct governor_config off = governor_defaults();
    off.off = true;
    governor_init(&g, off);
    CHECK(near(governor_update(&g, &in, 101 * NS_PER_S), 0));
}

/* Whatever the readings: the delay stays in its bounds and the ramp is never undercut. */
static void test_random(void)
{
    struct check_rng rng = check_rng_start(7);
    struct governor g = start();
    uint64_t now_ns = NS_PER_S;
    for (int i = 0; i < 20000; i++) {
        now_ns += 1 + check_rng_below(&rng, 2 * NS_PER_S);
        double temp_c = (double)check_rng_float(&rng, 60, 80);
        double before = g.delay_ms;
        struct governor_input in = {.have_temp = true, .temp_c = temp_c, .read_ns = now_ns};
        in.throttle_bits = check_rng_below(&rng, 50) == 0 ? THROTTLE_THERMAL : 0;
        double ms = governor_update(&g, &in, now_ns);
        double least = temp_c <= 70 ? 1 : temp_c >= 75 ? 50 : 1 + 49 * (temp_c - 70) / 5;
        if (!CHECK(ms >= least - 1e-9 && ms <= 450))
            break;
        if (before <= 50 && temp_c < 75 && !CHECK(ms >= before - 2.1))
            break;
    }
}

static void test_pacer(void)
{
    struct pacer p = {0};
    CHECK_INT(pacer_rest_ns(&p, 30 * NS_PER_MS, 50), 0);
    CHECK_INT(pacer_rest_ns(&p, 30 * NS_PER_MS, 50), 50 * NS_PER_MS);
    CHECK_INT(p.work_ns, 10 * NS_PER_MS);
    CHECK_INT(pacer_rest_ns(&p, 240 * NS_PER_MS, 30.4), 152 * NS_PER_MS);
    CHECK_INT(pacer_rest_ns(&p, 1000 * NS_PER_MS, 0), 0);
    /* The duty is the governor's, however long the steps are. */
    for (uint64_t step_ms = 1; step_ms < 400; step_ms += 37) {
        p = (struct pacer){0};
        uint64_t work = 0, rest = 0;
        while (work < 4000 * NS_PER_MS) {
            rest += pacer_rest_ns(&p, step_ms * NS_PER_MS, 30);
            work += step_ms * NS_PER_MS;
        }
        double duty = (double)work / (double)(work + rest);
        CHECK(duty > governor_duty(30) - 0.01 && duty < governor_duty(30) + 0.02);
    }
}

int main(void)
{
    test_ramp();
    test_release();
    test_escalation();
    test_throttle();
    test_power();
    test_margin();
    test_blind();
    test_random();
    test_pacer();
    return check_report();
}
