/* The ramp's figures, exactly as the design gives them, what all laws have in common, and the
 * pacer. Virtual time. */
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

static struct governor_config ramp(void)
{
    struct governor_config c = governor_defaults();
    c.law = GOVERNOR_RAMP;
    return c;
}

static struct governor start(void)
{
    struct governor g;
    governor_init(&g, ramp());
    return g;
}

static double at_temp(struct governor *g, double temp_c, double now_s)
{
    uint64_t now_ns = (uint64_t)(now_s * 1e9);
    struct sensor_reading in = {.have_temp = true, .temp_c = temp_c, .read_ns = now_ns};
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
    struct governor_config c = ramp();
    c.limits.target_c = 60;
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
    /* At the target and just below it, it does not escalate. */
    g = start();
    for (int i = 0; i < 10; i++)
        CHECK(near(at_temp(&g, i % 2 == 0 ? 75 : 74.9, 10 + (double)i), i % 2 == 0 ? 50 : 49.02));
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
    struct sensor_reading in = {.have_temp = true, .temp_c = 60, .read_ns = 1};
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
    in = (struct sensor_reading){
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
        struct sensor_reading in = {.have_temp = true,
                                    .temp_c = table[i].temp_c,
                                    .have_power = true,
                                    .power_w = table[i].power_w,
                                    .limit_w = 700,
                                    .read_ns = 5};
        CHECK(near(governor_update(&g, &in, 5), table[i].delay_ms));
    }
    /* Power alone will do; power without its limit says nothing. */
    struct governor g = start();
    struct sensor_reading in = {.have_power = true, .power_w = 686, .limit_w = 700, .read_ns = 5};
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
    struct sensor_reading in = {
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
    struct sensor_reading none = {0};
    CHECK(near(governor_update(&g, &none, 100 * NS_PER_S), 5));
    CHECK(g.blind);
    /* The first reading counts at once. */
    struct sensor_reading in = {.have_temp = true, .temp_c = 73, .read_ns = 101 * NS_PER_S};
    CHECK(near(governor_update(&g, &in, 101 * NS_PER_S), 30.4));
    CHECK(!g.blind);
    CHECK(near(governor_update(&g, &in, 106 * NS_PER_S), 30.4));
    CHECK(!g.blind);
    CHECK(near(governor_update(&g, &in, 106 * NS_PER_S + 1), 30.4)); /* as hot as it was last */
    CHECK(g.blind);
    CHECK(near(governor_update(&g, &in, 900 * NS_PER_S), 30.4));
    in = (struct sensor_reading){.have_temp = true, .temp_c = 60, .read_ns = 901 * NS_PER_S};
    governor_update(&g, &in, 901 * NS_PER_S);
    in.read_ns = 960 * NS_PER_S;
    CHECK(near(governor_update(&g, &in, 960 * NS_PER_S), 1));
    CHECK(near(governor_update(&g, &in, 966 * NS_PER_S), 5)); /* it was cool */
    in = (struct sensor_reading){.have_temp = true, .temp_c = 90, .read_ns = 970 * NS_PER_S};
    for (uint64_t s = 970; s < 975; s++)
        governor_update(&g, &in, s * NS_PER_S);
    CHECK(g.delay_ms > 400);
    CHECK(near(governor_update(&g, &in, 976 * NS_PER_S), 50)); /* half duty, not a tenth for ever */
    struct governor_config off = governor_defaults();
    off.law = GOVERNOR_OFF;
    governor_init(&g, off);
    CHECK(near(governor_update(&g, &in, 101 * NS_PER_S), 0));
}

/* Degrees that end while watts go on: the last ones count for 5 s, then it is blind. */
static void test_lost_heat(void)
{
    struct governor g = start();
    struct sensor_reading in = {.have_power = true, .power_w = 100, .limit_w = 700};
    CHECK(near(at_temp(&g, 73, 10), 30.4));
    for (uint64_t s = 11; s < 1000; s++) {
        in.read_ns = s * NS_PER_S;
        CHECK(near(governor_update(&g, &in, in.read_ns), 30.4));
        CHECK(g.blind == (s > 15));
        CHECK(governor_misses_degrees(&g, in.read_ns) == (s > 25));
    }
    CHECK(near(at_temp(&g, 60, 1000), 1) && !g.blind);
    in.read_ns = 1006 * NS_PER_S;
    CHECK(near(governor_update(&g, &in, in.read_ns), 5));
    in.power_w = 700; /* the power's ramp goes on */
    in.read_ns = 1007 * NS_PER_S;
    CHECK(near(governor_update(&g, &in, in.read_ns), 50));
    /* A margin without the degrees that the target is of does not hold the target. */
    g = start();
    in = (struct sensor_reading){
        .have_temp = true, .temp_c = 74, .have_margin = true, .margin_c = 30, .read_ns = NS_PER_S};
    CHECK(near(governor_update(&g, &in, NS_PER_S), 40.2));
    in.have_temp = false;
    for (uint64_t s = 2; s < 100; s++) {
        in.read_ns = s * NS_PER_S;
        CHECK(near(governor_update(&g, &in, in.read_ns), 40.2));
    }
}

/* Of temperature and margin one ends, and the other tells that it is too hot: that counts. */
static void test_lost_one(void)
{
    for (int law = GOVERNOR_RAMP; law <= GOVERNOR_PI; law++) {
        for (int lost = 0; lost < 2; lost++) {
            struct governor g;
            struct governor_config c = governor_defaults();
            c.law = (enum governor_law)law;
            governor_init(&g, c);
            for (uint64_t s = 1; s < 600; s++) {
                struct sensor_reading in = {.have_temp = lost == 1 || s < 60,
                                            .temp_c = s < 100 ? 50 : 95,
                                            .have_margin = lost == 0 || s < 60,
                                            .margin_c = s < 100 ? 40 : -10,
                                            .read_ns = s * NS_PER_S};
                governor_update(&g, &in, in.read_ns);
                CHECK(s < 66 || g.blind);
                CHECK(s < 66 || s > 99 || near(g.delay_ms, 5)); /* no more than what it was told */
            }
            CHECK(near(g.delay_ms, 450));
        }
    }
}

/* A card that tells neither heat nor a limit of watts, but that it throttles: that counts. */
static void test_throttle_alone(void)
{
    for (int law = GOVERNOR_RAMP; law <= GOVERNOR_PI; law++) {
        struct governor g;
        struct governor_config c = governor_defaults();
        c.law = (enum governor_law)law;
        governor_init(&g, c);
        for (uint64_t s = 1; s < 1000; s++) {
            struct sensor_reading in = {.have_power = true,
                                        .power_w = 100,
                                        .throttle_bits = s >= 100 && s < 110 ? THROTTLE_THERMAL : 0,
                                        .read_ns = s * NS_PER_S};
            governor_update(&g, &in, in.read_ns);
            CHECK(s >= 100 || near(g.delay_ms, 5));
            CHECK(s < 105 || s > 110 || g.delay_ms > 400);
            CHECK(s != 113 || g.delay_ms > 100); /* and comes back, but not at once */
        }
        CHECK(near(g.delay_ms, 5) && g.blind);
    }
}

/* --max-watts is a limit like the card's own, the lower of the two counts. */
static void test_watts(void)
{
    struct governor_config c = ramp();
    c.limits.max_watts = 350;
    struct governor g;
    struct sensor_reading in = {.have_power = true, .power_w = 343, .limit_w = 700, .read_ns = 5};
    governor_init(&g, c);
    CHECK(near(governor_update(&g, &in, 5), 30.4));
    in.limit_w = 0;
    governor_init(&g, c);
    CHECK(near(governor_update(&g, &in, 5), 30.4));
    in.limit_w = 300;
    governor_init(&g, c);
    CHECK(near(governor_update(&g, &in, 5), 50));
}

/* Watts that end under --max-watts: what kept to it goes on, and somebody is to say so. Watts that
 * nobody ever told are nothing to hold on to. */
static void test_lost_watts(void)
{
    for (int law = GOVERNOR_RAMP; law <= GOVERNOR_PI; law++) {
        struct governor g, never;
        struct governor_config c = governor_defaults();
        c.law = (enum governor_law)law;
        c.limits.max_watts = 200;
        governor_init(&g, c);
        governor_init(&never, c);
        double power_w = 0;
        for (uint64_t s = 1; s < 2000; s++) {
            struct sensor_reading in = {.have_temp = true, .temp_c = 50, .read_ns = s * NS_PER_S};
            governor_update(&never, &in, in.read_ns);
            CHECK(governor_misses_watts(&never, in.read_ns) == (s > 16) && !never.blind);
            in.have_power = s < 600;
            in.power_w = power_w = 60 + 230 * governor_duty(g.delay_ms);
            governor_update(&g, &in, in.read_ns);
            CHECK(g.blind == (s > 604) && governor_misses_watts(&g, in.read_ns) == (s > 614));
            CHECK(s < 300 || (power_w <= 201 && power_w > 180));
        }
        g.limits.max_watts = 0; /* the quiet hours are over */
        governor_update(&g, &(struct sensor_reading){0}, 2000 * NS_PER_S);
        CHECK(!governor_misses_watts(&g, 2000 * NS_PER_S));
    }
}

/* Bounds of duty hold for the ramp, its escalation and blind flight. */
static void test_bounds(void)
{
    struct governor_config c = ramp();
    c.limits.duty_max = 0.5;
    c.duty_min = 0.25;
    struct governor g;
    governor_init(&g, c);
    CHECK(near(governor_update(&g, &(struct sensor_reading){0}, NS_PER_S), 50));
    CHECK(near(at_temp(&g, 20, 2), 50));
    for (int s = 3; s < 10; s++)
        at_temp(&g, 99, s);
    CHECK(near(g.delay_ms, 150));
}

/* Quiet hours: other limits while they last, and the usual ones for what they do not name. */
static void test_quiet_hours(void)
{
    struct governor_config c = ramp();
    struct err_msg why;
    CHECK_OK(governor_hours_parse("22:00-07:00=60C/200W, 12:00-13:00=50%", &c.hours, &why), why);
    struct governor g;
    governor_init(&g, c);
    CHECK(near(at_temp(&g, 58, 1), 1));
    governor_set_minute(&g, 21 * 60 + 59);
    CHECK(near(at_temp(&g, 58, 2), 1));
    governor_set_minute(&g, 22 * 60);
    CHECK(near(at_temp(&g, 58, 3), 30.4));
    CHECK(g.limits.max_watts == 200 && g.limits.duty_max == 1);
    governor_set_minute(&g, 6 * 60 + 59);
    CHECK(g.limits.target_c == 60);
    governor_set_minute(&g, 7 * 60);
    CHECK(g.limits.target_c == 75 && g.limits.max_watts == 0);
    governor_set_minute(&g, 12 * 60 + 30);
    CHECK(g.limits.target_c == 75 && g.limits.duty_max == 0.5);
    CHECK(near(at_temp(&g, 20, 90), 50));
}

static void test_quiet_hours_refused(void)
{
    static const char *const good[] = {"0:00-24:00=70C", "23:30-0:15=50%",
                                       "7:00-8:00=1W,8:00-9:00=30C,9:00-7:00=100%"};
    static const char *const bad[] = {
        "",
        " , ",
        "22-7=70C",
        "22:00-07:00",
        "22:00-07:00=",
        "22:00-07:00=70",
        "22:00-07:00=70F",
        "22:00-07:00=70C/",
        "22:00-07:00=70C/71C",
        "22:00-07:00=20C",
        "22:00-07:00=0W",
        "22:00-07:00=101%",
        "22:00-07:00=nanC",
        "22:00-22:00=70C",
        "24:01-07:00=70C",
        "22:60-07:00=70C",
        "22:0-07:00=70C",
        "-1:00-07:00=70C",
        "22:00-07:00=70C,06:59-08:00=60C",
        "06:59-08:00=60C,22:00-07:00=70C",
        "22:00-07:00=70C 22:00-23:00=60C",
        "0:00-24:00=70C,3:00-4:00=60C",
        "12:00-24:00=70C,0:00-12:01=60C",
    };
    struct governor_hours h;
    struct err_msg why;
    for (size_t i = 0; i < ARRAY_LEN(good); i++)
        CHECK_OK(governor_hours_parse(good[i], &h, &why), why);
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        fprintf(stderr, "%s", governor_hours_parse(bad[i], &h, &why) == ERR_OK ? bad[i] : "");
        CHECK_ERR(governor_hours_parse(bad[i], &h, &why), ERR_USAGE);
    }
    CHECK_HAS(why.text, "0:00-12:01=60C");
    CHECK_HAS(why.text, "overlaps");
    /* Random texts of the alphabet: never anything but an error or times that make sense. */
    struct check_rng rng = check_rng_start(3);
    for (int i = 0; i < 20000; i++) {
        char text[40];
        size_t n = check_rng_below(&rng, sizeof text);
        for (size_t k = 0; k < n; k++)
            text[k] = "0123456789:-=CW%/, e."[check_rng_below(&rng, 21)];
        text[n] = '\0';
        if (governor_hours_parse(text, &h, &why) == ERR_OK)
            CHECK(h.count > 0 && h.list[0].from <= MINUTES_A_DAY && h.list[0].to <= MINUTES_A_DAY);
    }
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
        struct sensor_reading in = {.have_temp = true, .temp_c = temp_c, .read_ns = now_ns};
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
    uint64_t now_ns = NS_PER_S;
    CHECK_INT(pacer_rest_ns(&p, 30 * NS_PER_MS, now_ns, 50), 0);
    CHECK_INT(pacer_rest_ns(&p, 30 * NS_PER_MS, now_ns += 30 * NS_PER_MS, 50), 50 * NS_PER_MS);
    CHECK_INT(p.work_ns, 10 * NS_PER_MS);
    /* Rested, and one step of 240 ms. */
    now_ns += 290 * NS_PER_MS;
    CHECK_INT(pacer_rest_ns(&p, 240 * NS_PER_MS, now_ns, 30.4), 152 * NS_PER_MS);
    /* A rest that was cut short is owed; one that was too long is taken off the next. */
    now_ns += 52 * NS_PER_MS + 40 * NS_PER_MS;
    CHECK_INT(pacer_rest_ns(&p, 40 * NS_PER_MS, now_ns, 20), 0);
    now_ns += 10 * NS_PER_MS;
    CHECK_INT(pacer_rest_ns(&p, 10 * NS_PER_MS, now_ns, 20), 120 * NS_PER_MS);
    now_ns += 125 * NS_PER_MS + 50 * NS_PER_MS;
    CHECK_INT(pacer_rest_ns(&p, 50 * NS_PER_MS, now_ns, 20), 15 * NS_PER_MS);
    /* No delay, no debt. */
    CHECK_INT(pacer_rest_ns(&p, 1000 * NS_PER_MS, now_ns += 1000 * NS_PER_MS, 0), 0);
    CHECK_INT(pacer_rest_ns(&p, 50 * NS_PER_MS, now_ns += 50 * NS_PER_MS, 20), 20 * NS_PER_MS);
    /* An hour without work is this rest and the next one, no more. */
    now_ns += 3600 * NS_PER_S;
    CHECK_INT(pacer_rest_ns(&p, 50 * NS_PER_MS, now_ns, 20), 0);
    CHECK_INT(pacer_rest_ns(&p, 50 * NS_PER_MS, now_ns += 50 * NS_PER_MS, 20), 0);
    CHECK_INT(pacer_rest_ns(&p, 50 * NS_PER_MS, now_ns += 50 * NS_PER_MS, 20), 20 * NS_PER_MS);
}

/* The device's share of ten minutes: steps of these two lengths take turns, and between a step's
 * end and the next one's submission the host needs host_ms. ahead: it submits one more first. */
static double paced_duty(const uint64_t step_ms[2], bool ahead, uint64_t host_ms, double delay_ms)
{
    struct pacer p = {0};
    uint64_t now_ns = 0, busy_ns = 0, end_ns = 0; /* of this step; known when it was submitted */
    for (unsigned i = 0; now_ns < 600 * NS_PER_S; i++) {
        uint64_t gpu_ns = step_ms[i % 2] * NS_PER_MS, called_ns = now_ns;
        if (i == 0 || !ahead)
            end_ns = called_ns + gpu_ns;
        now_ns = max_u64(called_ns, end_ns) + host_ms * NS_PER_MS;
        if (ahead)
            end_ns = max_u64(called_ns, end_ns) + step_ms[(i + 1) % 2] * NS_PER_MS;
        busy_ns += gpu_ns;
        now_ns += pacer_rest_ns(&p, gpu_ns, now_ns + 1, delay_ms);
    }
    return (double)busy_ns / (double)now_ns;
}

/* The duty is the governor's, however long the steps are. */
static void test_paced_duty(void)
{
    static const uint64_t steps_ms[][2] = {{1, 1},     {2, 2},    {38, 38},  {50, 50}, {112, 112},
                                           {333, 333}, {400, 20}, {20, 400}, {3, 130}};
    static const double delays_ms[] = {5, 30, 450};
    for (size_t i = 0; i < ARRAY_LEN(steps_ms) * ARRAY_LEN(delays_ms) * 4; i++) {
        const uint64_t *step_ms = steps_ms[i / 4 / ARRAY_LEN(delays_ms)];
        double delay_ms = delays_ms[i / 4 % ARRAY_LEN(delays_ms)], want = governor_duty(delay_ms);
        uint64_t host_ms = step_ms[0] + step_ms[1] > 75 ? i / 2 % 2 * 3 : 0;
        double duty = paced_duty(step_ms, i % 2 == 1, host_ms, delay_ms);
        if (!CHECK(duty > want - 0.004 && duty < want + 0.004))
            fprintf(stderr, "    steps of %d and %d ms, %s, host %d ms: %.4f, expected %.4f\n",
                    (int)step_ms[0], (int)step_ms[1], i % 2 == 1 ? "ahead" : "one by one",
                    (int)host_ms, duty, want);
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
    test_lost_heat();
    test_lost_one();
    test_throttle_alone();
    test_watts();
    test_lost_watts();
    test_bounds();
    test_quiet_hours();
    test_quiet_hours_refused();
    test_random();
    test_pacer();
    test_paced_duty();
    return check_report();
}
