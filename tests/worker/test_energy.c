/* The energy meter in virtual time: power integrated, a counter, what happens between readings, and
 * sensors that fall silent. */
#include "worker/energy.h"

#include <math.h>
#include <stdlib.h>

#include "base/clock.h"
#include "check.h"

static const uint64_t start_ns = 1000 * NS_PER_S;

static uint64_t at(double seconds)
{
    return start_ns + (uint64_t)llround(seconds * 1e9);
}

static void power(struct energy_meter *m, double seconds, double watts)
{
    struct sensor_reading r = {.have_power = true, .power_w = watts, .read_ns = at(seconds)};
    energy_reading(m, &r);
}

static void counter(struct energy_meter *m, double seconds, double joules)
{
    struct sensor_reading r = {.have_energy = true, .energy_j = joules, .read_ns = at(seconds)};
    energy_reading(m, &r);
}

/* -1: unknown */
static double told(const struct energy_meter *m, double seconds)
{
    double joules;
    return energy_at(m, at(seconds), &joules) ? joules : -1;
}

static void check_near(double got, double want, double tolerance)
{
    if (!CHECK(fabs(got - want) <= tolerance))
        fprintf(stderr, "    got %.6f, want %.6f\n", got, want);
}

static void test_unknown(void)
{
    struct energy_meter m = {0};
    struct sensor_reading warm = {.have_temp = true, .temp_c = 60, .read_ns = at(1)};
    CHECK(told(&m, 0) < 0);
    energy_reading(&m, &warm);
    CHECK(told(&m, 1) < 0);
    counter(&m, 2, 5000); /* the first of a counter says nothing yet */
    CHECK(told(&m, 2) < 0);
    counter(&m, 3, 5100);
    check_near(told(&m, 3), 100, 1e-9);
    check_near(told(&m, 3.5), 150, 1e-9);
}

static void test_constant(void)
{
    struct energy_meter m = {0};
    for (int i = 0; i <= 1000; i++) {
        power(&m, i, 100);
        check_near(told(&m, i + 0.25), 100 * (i + 0.25), 1e-6);
    }
}

/* Power that jumps about: what is told never falls, and is never further from the truth than what
 * two seconds can hold. */
static void test_follows(void)
{
    enum { SECONDS = 3600, MOST_W = 700 };
    struct energy_meter m = {0}, c = {0};
    double truth = 0, last = 0, last_c = 0;
    srand(7);
    for (int i = 0; i < SECONDS; i++) {
        double watts = i % 60 < 20 ? 70 : (double)(rand() % MOST_W);
        power(&m, i, watts);
        counter(&c, i, truth);
        for (int tenth = 0; tenth < 10; tenth++) {
            double now = i + tenth / 10.0, joules = told(&m, now), counted = told(&c, now);
            CHECK(joules >= last);
            CHECK(i == 0 || counted >= last_c);
            CHECK(i == 0 || fabs(counted - (truth + watts * tenth / 10)) <= 2 * MOST_W);
            last = joules;
            last_c = counted;
        }
        truth += watts;
    }
    check_near(last_c, truth, 2 * MOST_W);
    check_near(last, truth, 0.02 * truth); /* power now stands for a second of it */
}

/* Power told too low beside a counter: each second makes up for what the one before lacked. */
static void test_counter_beside_power(void)
{
    struct energy_meter m = {0};
    for (int i = 0; i <= 60; i++) {
        struct sensor_reading r = {.have_power = true,
                                   .power_w = 60,
                                   .have_energy = true,
                                   .energy_j = 100 * i,
                                   .read_ns = at(i)};
        energy_reading(&m, &r);
    }
    check_near(told(&m, 60), 6000, 100);
    check_near(told(&m, 61), 6060, 1e-6);
}

/* A silence longer than a reading keeps: nothing is known, and then the power sensor goes on where
 * it was. Only a counter knows what was used meanwhile. */
static void test_silence(void)
{
    struct energy_meter m = {0}, c = {0};
    for (int i = 0; i <= 10; i++) {
        power(&m, i, 100);
        counter(&c, i, 100 * i);
    }
    check_near(told(&m, 15), 1500, 1e-6);
    CHECK(told(&m, 15.001) < 0);
    power(&m, 60, 200);
    check_near(told(&m, 60), 1500, 1e-6);
    check_near(told(&m, 61), 1700, 1e-6);
    CHECK(told(&c, 15.001) < 0);
    counter(&c, 60, 6000);
    check_near(told(&c, 60), 6000, 1e-6);
    check_near(told(&c, 61), 6100, 1e-6); /* at once: not in the next second */
    /* A short one is bridged. */
    power(&m, 61, 200);
    power(&m, 65, 200);
    check_near(told(&m, 65), 2500, 1e-6);
}

/* What is told as a counter never falls: not when the sensor dies, not when it is back with less.
 */
static void test_total(void)
{
    struct energy_meter m = {0};
    double total = energy_total(&m, at(0));
    CHECK(total == 0);
    for (int i = 0; i < 1000; i++) {
        double seconds = i / 10.0;
        if (i % 10 == 0 && (i <= 100 || i >= 300))
            power(&m, seconds, i < 500 ? 300 : 10);
        double now = energy_total(&m, at(seconds));
        CHECK(now >= total && (told(&m, seconds) < 0 || now >= told(&m, seconds)));
        CHECK(i < 150 || i >= 300 || now > 4400);
        total = now;
    }
}

static void test_counter_anew(void)
{
    struct energy_meter m = {0};
    counter(&m, 0, 9000);
    counter(&m, 1, 9100);
    counter(&m, 2, 3); /* the driver was loaded anew */
    CHECK(told(&m, 2) < 0);
    counter(&m, 3, 103);
    CHECK(told(&m, 3) >= 200 - 1e-6 && told(&m, 3) <= 300 + 1e-6);
    /* With power beside it, that stands in. */
    struct energy_meter p = {0};
    struct sensor_reading r = {.have_power = true,
                               .power_w = 100,
                               .have_energy = true,
                               .energy_j = 9000,
                               .read_ns = at(0)};
    energy_reading(&p, &r);
    r.energy_j = 3;
    r.read_ns = at(1);
    energy_reading(&p, &r);
    check_near(told(&p, 1), 100, 1e-6);
}

int main(void)
{
    test_unknown();
    test_constant();
    test_follows();
    test_counter_beside_power();
    test_silence();
    test_total();
    test_counter_anew();
    return check_report();
}
