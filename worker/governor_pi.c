/* The controller: holds the target by duty. One step a reading, from the reading's own time.
 *
 *     budget = integral + gain * headroom        share of what full duty takes at most
 *     duty   = budget * most_w / full_w          full_w: what full duty takes with this work
 *
 * The budget is of heat, not of time: where watts are counted, work that takes fewer gets more duty
 * for the same budget, at once, before the temperature has moved (feed-forward). The budget's
 * bounds are the duty's and the watts'; the integral stops at them, so that nothing winds up while
 * the card is cool, and a reading that did not come integrates nothing. A thermal-throttle bit
 * halves the budget each second. A second one within ten minutes, from a card that works, teaches:
 * the target is kept 3 degrees below where the card throttled, but 10 lower at most than it was
 * kept before, and comes back by a degree in ten minutes. */
#include "base/clock.h"
#include "worker/governor_impl.h"

static const double gain = 0.045;       /* of full duty for each degree */
static const double integral_s = 25;    /* until the integral has done what the gain does */
static const double smooth_s = 3;       /* of noise and of whole degrees */
static const double smooth_power_s = 5; /* longer than watts are late behind the duty */
static const double smooth_moments_s = 30;
static const double least_busy = 0.3;     /* of the duty: less is an idle card's watts */
static const double steady_busy = 0.75;   /* more is all of it: steps count when they end */
static const double slack = 0.01;         /* of budget above full duty: noise does not cut in */
static const double near_c = 4;           /* the last degrees, in which the budget is held down */
static const double far_c = 10;           /* more headroom, or less, counts like this much */
static const double longest_s = 2;        /* a later reading counts like one after this time */
static const double lightest = 0.5;       /* work counts as taking this share of most_w at least */
static const double throttle_below_c = 3; /* of where the card throttled */
static const double most_backoff_c = 10;  /* more of it at a time is not believed */
static const uint64_t again_ns = 600 * NS_PER_S;
static const double forget_c_per_s = 1 / 600.0;
static const double no_heat_limit = 0.95; /* of the card's watts, where nothing tells its heat */
static const double no_heat_c = 1;        /* what counts as headroom then, to forget a throttling */
static const double forget_power_s = 1800;

static double clamp(double x, double low, double high)
{
    return x < low ? low : x > high ? high : x;
}

static void smooth(double *value, double now, double seconds, double over_s)
{
    *value += (now - *value) * seconds / (seconds + over_s);
}

/* Mean power since the last reading of the counter. */
static bool count_power_w(struct governor_pi *p, const struct sensor_reading *in, double *ret_w)
{
    double seconds = (double)(in->read_ns - p->energy_ns) / (double)NS_PER_S;
    double joules = in->energy_j - p->energy_j;
    bool known = p->counted && joules > 0 && seconds > 0;
    p->counted = true;
    p->energy_j = in->energy_j;
    p->energy_ns = in->read_ns;
    if (known)
        *ret_w = joules / seconds;
    return known;
}

/* How hungry the work is: an idle card's watts tell nothing of it. Watts of a moment are the full
 * ones or those of a rest: of them only a long mean is of use, and nothing is fed forward. */
static void learn_power(struct governor_pi *p, const struct sensor_reading *in, double busy,
                        double seconds)
{
    double power_w = in->power_w;
    if (in->have_energy ? !count_power_w(p, in, &power_w) : p->counted || !in->have_power)
        return;
    double duty = busy < 0 ? p->duty : busy;
    if (p->full_w <= 0)
        p->busy = duty;
    smooth(&p->busy, duty, seconds, smooth_power_s);
    if (p->busy < p->duty * least_busy)
        return;
    if (p->busy >= p->duty * steady_busy)
        duty = p->duty;
    if (p->full_w <= 0) {
        p->power_w = power_w;
        p->power_duty = duty;
    }
    double over_s = p->counted ? smooth_power_s : smooth_moments_s;
    smooth(&p->power_w, power_w, seconds, over_s);
    smooth(&p->power_duty, duty, seconds, over_s);
    p->full_w = p->power_w / p->power_duty;
    double most_w = p->most_w;
    if (p->counted && p->full_w < most_w)
        smooth(&p->most_w, p->full_w, seconds, forget_power_s);
    else
        p->most_w = p->full_w;
    /* Near the target the budget stays what it is in watts. */
    if (p->counted && most_w > 0 && p->headroom_c < near_c)
        p->integral *= most_w / p->most_w;
}

static void learn_headroom(struct governor_pi *p, double told_c, double seconds)
{
    p->backoff_c = clamp(p->backoff_c - forget_c_per_s * seconds, 0, p->backoff_c);
    double headroom_c = clamp(told_c - p->backoff_c, -far_c, far_c);
    if (!p->heat_known)
        p->headroom_c = headroom_c;
    p->heat_known = true;
    smooth(&p->headroom_c, headroom_c, seconds, smooth_s);
}

/* No degrees any more: the budget is what it was with the last ones. */
static void forget_headroom(struct governor_pi *p)
{
    p->integral += gain * p->headroom_c;
    p->headroom_c = 0;
    p->heat_known = false;
}

/* True while the card throttles itself by heat. */
static bool learn_throttling(struct governor_pi *p, const struct governor_input *in)
{
    bool throttled = (in->reading->throttle_bits & THROTTLE_THERMAL) != 0;
    if (!throttled || in->busy == 0) {
        p->learnt = false;
        return throttled;
    }
    uint64_t read_ns = in->reading->read_ns;
    bool again = p->throttle_ns != 0 && read_ns - p->throttle_ns <= again_ns;
    p->throttle_ns = read_ns;
    if (again && !p->learnt && in->have_headroom) {
        p->backoff_c =
            clamp(in->headroom_c + throttle_below_c, p->backoff_c, p->backoff_c + most_backoff_c);
        p->learnt = true;
    }
    return throttled;
}

double governor_pi_update(struct governor_pi *p, const struct governor_input *in)
{
    const struct sensor_reading *r = in->reading;
    if (!p->started) {
        *p = (struct governor_pi){.integral = in->duty_max, .duty = in->duty_max};
    } else if (r->read_ns <= p->read_ns) {
        return governor_delay_ms(p->duty);
    }
    double seconds =
        p->started ? clamp((double)(r->read_ns - p->read_ns) / (double)NS_PER_S, 0, longest_s) : 0;
    learn_power(p, r, in->busy, seconds);
    p->started = true;
    p->read_ns = r->read_ns;
    bool throttled = learn_throttling(p, in);
    if (in->have_headroom)
        learn_headroom(p, in->headroom_c, seconds);
    else if (p->heat_known)
        forget_headroom(p);
    p->integral += gain / integral_s * (in->have_headroom ? p->headroom_c : no_heat_c) * seconds;

    double light = p->most_w > 0 ? clamp(p->full_w / p->most_w, lightest, 1) : 1;
    double high = in->duty_max * light, low = in->duty_min * light;
    double hold_w = in->own_limit       ? in->limit_w
                    : in->have_headroom ? 0
                                        : in->limit_w * no_heat_limit;
    if (hold_w > 0 && p->most_w > 0)
        high = clamp(hold_w / p->most_w, low, high);
    double proportional = p->heat_known ? gain * p->headroom_c : 0;
    double nearby = clamp(proportional, 0, gain * near_c);
    p->integral = clamp(p->integral, low - proportional, high + slack - nearby);
    double budget = clamp(p->integral + proportional, low, in->duty_max);
    if (hold_w > 0)
        budget = clamp(budget, low, high);
    if (throttled)
        budget = clamp(p->duty * light / 2, low, high);
    if (throttled)
        p->integral = budget - proportional;
    p->duty = clamp(budget / light, in->duty_min, in->duty_max);
    return governor_delay_ms(p->duty);
}
