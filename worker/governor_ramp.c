/* The ramp: governor.h has the picture. */
#include "base/clock.h"
#include "worker/governor_impl.h"

static const double ramp_c = 5;           /* the last degrees below the target */
static const double ramp_power = 0.05;    /* the last share below the power limit */
static const double delay_cool_ms = 1;    /* a cool card still breathes */
static const double delay_target_ms = 50; /* at the target: half duty */
static const double delay_most_ms = 450;  /* a tenth of the duty */
static const double release_ms_per_s = 1;
static const uint64_t double_ns = NS_PER_S;
static const uint64_t halve_ns = 2 * NS_PER_S;

/* left: what is left of the ramp, 1 at its cool end, 0 at the target. */
static double ramp(double left)
{
    if (left >= 1)
        return delay_cool_ms;
    if (left <= 0)
        return delay_target_ms;
    return delay_cool_ms + (delay_target_ms - delay_cool_ms) * (1 - left);
}

static double most(double ms)
{
    return ms > delay_most_ms ? delay_most_ms : ms;
}

/* Above the target, or while the card throttles itself. */
static void escalate(struct governor_ramp *r, bool throttled, uint64_t now_ns)
{
    bool entered = !r->over;
    if (entered || !r->escalated) {
        if (r->delay_ms < delay_target_ms && !throttled)
            r->delay_ms = delay_target_ms;
        r->step_ns = now_ns;
    }
    if (throttled && !r->throttled) {
        r->delay_ms = most(governor_delay_ms(governor_duty(r->delay_ms) / 2));
        r->step_ns = now_ns;
    }
    while (now_ns - r->step_ns >= double_ns) {
        r->delay_ms = most(r->delay_ms * 2);
        r->step_ns += double_ns;
    }
    r->escalated = true;
}

/* Back below the target: halve every 2 s down to the ramp's top. */
static void come_back(struct governor_ramp *r, uint64_t now_ns)
{
    if (r->over)
        r->step_ns = now_ns;
    while (r->delay_ms > delay_target_ms && now_ns - r->step_ns >= halve_ns) {
        r->delay_ms /= 2;
        r->step_ns += halve_ns;
    }
    if (r->delay_ms <= delay_target_ms) {
        r->delay_ms = delay_target_ms;
        r->escalated = false;
    }
}

static void follow_ramp(struct governor_ramp *r, double want_ms, uint64_t now_ns)
{
    if (!r->started || want_ms >= r->delay_ms) {
        r->delay_ms = want_ms;
        return;
    }
    double seconds = (double)(now_ns - r->update_ns) / (double)NS_PER_S;
    double released = r->delay_ms - release_ms_per_s * seconds;
    r->delay_ms = released > want_ms ? released : want_ms;
}

double governor_ramp_update(struct governor_ramp *r, const struct governor_input *in,
                            uint64_t now_ns)
{
    bool throttled = (in->reading->throttle_bits & THROTTLE_THERMAL) != 0;
    bool over = throttled || (in->have_headroom && in->headroom_c < 0);
    double want_ms = in->have_headroom ? ramp(in->headroom_c / ramp_c) : delay_cool_ms;
    if (in->reading->have_power && in->limit_w > 0) {
        double power_ms = ramp((in->limit_w - in->reading->power_w) / in->limit_w / ramp_power);
        want_ms = power_ms > want_ms ? power_ms : want_ms;
    }
    if (!r->started)
        r->delay_ms = want_ms;
    if (over) {
        escalate(r, throttled, now_ns);
        if (r->delay_ms < want_ms)
            r->delay_ms = want_ms;
    } else if (r->escalated) {
        come_back(r, now_ns);
    } else {
        follow_ramp(r, want_ms, now_ns);
    }
    r->over = over;
    r->throttled = throttled;
    r->started = true;
    r->update_ns = now_ns;
    return r->delay_ms;
}
