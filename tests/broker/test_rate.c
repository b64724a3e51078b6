/* Speeds and what is left at them, in made-up time. */
#include "broker/rate.h"

#include "base/clock.h"
#include "tests/check.h"

static const uint64_t start_ns = 5000 * NS_PER_S;

static uint64_t at(double s)
{
    return start_ns + (uint64_t)(s * (double)NS_PER_S);
}

static bool near(double got, double want, double share)
{
    if (got > want * (1 - share) && got < want * (1 + share))
        return true;
    fprintf(stderr, "    got %g, expected about %g\n", got, want);
    return false;
}

/* Two a second, from the first seconds on, and after an hour. */
static void test_steady(void)
{
    struct rate r = {0};
    rate_begin(&r, at(0));
    CHECK(rate_per_s(&r, at(0)) <= 0);
    for (int i = 1; i <= 3600; i++) {
        rate_count(&r, at(i), 2);
        if (i == 10 || i == 100 || i == 3600) {
            CHECK(near(rate_per_s(&r, at(i)), 2, 0.02));
            CHECK(near((double)rate_left_ms(&r, at(i), 100), 50000, 0.02));
        }
    }
    CHECK_INT(rate_left_ms(&r, at(3600), 0), 0);
}

/* What was fast in the evening is slow in the night: a few minutes on, that is what it says. */
static void test_change(void)
{
    struct rate r = {0};
    rate_begin(&r, at(0));
    for (int i = 1; i <= 3600; i++)
        rate_count(&r, at(i), 50);
    for (int i = 1; i <= 120; i++)
        rate_count(&r, at(3600 + 10 * i), 10);
    CHECK(near(rate_per_s(&r, at(4800)), 1, 0.1));
}

/* Bunches: 64 jobs that end together each ten minutes. */
static void test_bunches(void)
{
    struct rate r = {0};
    rate_begin(&r, at(0));
    CHECK_INT(rate_left_ms(&r, at(500), 100), 0);
    for (int i = 1; i <= 6; i++)
        rate_count(&r, at(600 * i), 64);
    double sum = 0;
    for (int s = 0; s < 600; s++)
        sum += rate_per_s(&r, at(3600 + s));
    CHECK(near(sum / 600, 64 / 600.0, 0.2));
}

static void test_standstill(void)
{
    struct rate r = {0};
    rate_count(&r, at(0), 1000); /* nobody saw it begin: not a thousand in no time */
    CHECK_INT(rate_left_ms(&r, at(0), 5), 0);
    for (int i = 1; i <= 60; i++)
        rate_count(&r, at(i), 1);
    CHECK(rate_left_ms(&r, at(90), 5) > 0);
    CHECK_INT(rate_left_ms(&r, at(121), 5), 0);
    CHECK(rate_per_s(&r, at(121)) <= 0);
    /* an hour later it goes on: the pause counts for nothing */
    rate_begin(&r, at(3700));
    for (int i = 1; i <= 20; i++)
        rate_count(&r, at(3700 + i), 4);
    CHECK(near(rate_per_s(&r, at(3720)), 4, 0.1));
    /* a slow batch is not unknown after a minute */
    struct rate slow = {0};
    rate_begin(&slow, at(0));
    for (int i = 1; i <= 10; i++)
        rate_count(&slow, at(100 * i), 1);
    CHECK(near((double)rate_left_ms(&slow, at(1090), 6), 600e3, 0.6));
}

int main(void)
{
    test_steady();
    test_change();
    test_bunches();
    test_standstill();
    return check_report();
}
