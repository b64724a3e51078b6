/* The governor's arithmetic; governor.h has the picture. */
#include "worker/governor.h"

#include "base/clock.h"

static const double ramp_c = 5;           /* the last degrees below the target */
static const double ramp_power = 0.05;    /* the last share below the power limit */
static const double delay_cool_ms = 1;    /* a cool card still breathes */
static const double delay_target_ms = 50; /* at the target: half duty */
static const double delay_most_ms = 450;  /* a tenth of the duty */
static const double release_ms_per_s = 1;
static const uint64_t double_ns = NS_PER_S;
static const uint64_t halve_ns = 2 * NS_PER_S;
static const uint64_t stale_ns = 5 * NS_PER_S;

struct governor_config governor_defaults(void)
{
    return (struct governor_config){.target_c = 75, .margin_keep_c = 5, .blind_ms = 5};
}

void governor_init(struct governor *g, struct governor_config config)
{
    *g = (struct governor){.config = config};
}

bool governor_headroom_c(const struct governor *g, const struct governor_input *in, double *ret_c)
{
    double to_target = g->config.target_c - in->temp_c;
    double to_limit = in->margin_c - g->config.margin_keep_c;
    if (in->have_temp && in->have_margin)
        *ret_c = to_target < to_limit ? to_target : to_limit;
    else if (in->have_temp)
        *ret_c = to_target;
    else if (in->have_margin)
        *ret_c = to_limit;
    return in->have_temp || in->have_margin;
}

double governor_duty(double delay_ms)
{
    double quantum_ms = (double)GOVERNOR_QUANTUM_NS / (double)NS_PER_MS;
    return quantum_ms / (quantum_ms + delay_ms);
}

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
static void escalate(struct governor *g, bool throttled, uint64_t now_ns)
{
    bool entered = !g->over;
    if (entered || !g->escalated) {
        if (g->delay_ms < delay_target_ms && !throttled)
            g->delay_ms = delay_target_ms;
        g->step_ns = now_ns;
    }
    if (throttled && !g->throttled) {
        /* duty = q / (q + d): half of it is d' = q + 2 d. */
        double quantum_ms = (double)GOVERNOR_QUANTUM_NS / (double)NS_PER_MS;
        g->delay_ms = most(quantum_ms + 2 * g->delay_ms);
        g->step_ns = now_ns;
    }
    while (now_ns - g->step_ns >= double_ns) {
        g->delay_ms = most(g->delay_ms * 2);
        g->step_ns += double_ns;
    }
    g->escalated = true;
}

/* Back below the target: halve every 2 s down to the ramp's top. */
static void come_back(struct governor *g, uint64_t now_ns)
{
    if (g->over)
        g->step_ns = now_ns;
    while (g->delay_ms > delay_target_ms && now_ns - g->step_ns >= halve_ns) {
        g->delay_ms /= 2;
        g->step_ns += halve_ns;
    }
    if (g->delay_ms <= delay_target_ms) {
        g->delay_ms = delay_target_ms;
        g->escalated = false;
    }
}

static void follow_ramp(struct governor *g, double want_ms, uint64_t now_ns)
{
    if (!g->started || want_ms >= g->delay_ms) {
        g->delay_ms = want_ms;
        return;
    }
    double seconds = (double)(now_ns - g->update_ns) / (double)NS_PER_S;
    double released = g->delay_ms - release_ms_per_s * seconds;
    g->delay_ms = released > want_ms ? released : want_ms;
}

double governor_update(struct governor *g, const struct governor_input *in, uint64_t now_ns)
{
    if (g->config.off)
        return g->delay_ms = 0;
    double headroom_c = 0;
    bool have_c = governor_headroom_c(g, in, &headroom_c);
    bool have_power = in->have_power && in->limit_w > 0;
    bool fresh = in->read_ns != 0 && (now_ns < in->read_ns || now_ns - in->read_ns <= stale_ns);
    if (!fresh || (!have_c && !have_power)) {
        *g = (struct governor){.config = g->config, .blind = true, .delay_ms = g->config.blind_ms};
        return g->delay_ms;
    }
    g->blind = false;
    bool throttled = (in->throttle_bits & THROTTLE_THERMAL) != 0;
    bool over = throttled || (have_c && headroom_c < 0);
    double want_ms = have_c ? ramp(headroom_c / ramp_c) : delay_cool_ms;
    if (have_power) {
        double power_ms = ramp((in->limit_w - in->power_w) / in->limit_w / ramp_power);
        want_ms = power_ms > want_ms ? power_ms : want_ms;
    }
    if (!g->started)
        g->delay_ms = want_ms;
    if (over) {
        escalate(g, throttled, now_ns);
        if (g->delay_ms < want_ms)
            g->delay_ms = want_ms;
    } else if (g->escalated) {
        come_back(g, now_ns);
    } else {
        follow_ramp(g, want_ms, now_ns);
    }
    g->over = over;
    g->throttled = throttled;
    g->started = true;
    g->update_ns = now_ns;
    return g->delay_ms;
}
