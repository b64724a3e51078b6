/* What the laws have in common: which limits count, what is fresh, the bounds of duty. */
#include "worker/governor.h"

#include <string.h>

#include "base/clock.h"
#include "base/size.h"
#include "worker/governor_impl.h"

static const uint64_t stale_ns = 5 * NS_PER_S;
static const uint64_t missed_ns = 15 * NS_PER_S;
static const double mean_s = 60, longest_s = 2; /* of the duty; an update later counts like this */
static const double held_share = 2 / 3.0;
static const double quantum_ms = (double)GOVERNOR_QUANTUM_NS / (double)NS_PER_MS;

enum err governor_law_parse(const char *name, enum governor_law *ret, struct err_msg *why)
{
    static const char *const names[] = {"off", "ramp", "pi"};
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        if (strcmp(name, names[i]) == 0) {
            *ret = (enum governor_law)i;
            return ERR_OK;
        }
    }
    return err_set(why, ERR_USAGE, "\"%s\": expected pi, ramp or off", name);
}

struct governor_config governor_defaults(void)
{
    return (struct governor_config){
        .law = GOVERNOR_PI,
        .limits = {.target_c = 75, .duty_max = 1},
        .margin_keep_c = 5,
        .duty_min = 0.1,
        .blind_ms = 5,
    };
}

void governor_init(struct governor *g, struct governor_config config)
{
    *g = (struct governor){
        .config = config, .limits = config.limits, .joules = {.duty_max = 1}, .busy = -1};
}

void governor_tell_busy(struct governor *g, double share)
{
    g->busy = share;
}

void governor_set_minute(struct governor *g, unsigned minute_of_day)
{
    g->limits = governor_hours_at(&g->config.hours, minute_of_day, g->config.limits);
}

/* read_ns 0: never. */
static bool is_fresh(uint64_t read_ns, uint64_t now_ns)
{
    return read_ns != 0 && (now_ns < read_ns || now_ns - read_ns <= stale_ns);
}

static bool is_missed(const struct governor_told *d, uint64_t now_ns)
{
    return d->read_ns != 0 && now_ns > d->read_ns + missed_ns;
}

bool governor_misses_degrees(const struct governor *g, uint64_t now_ns)
{
    return is_missed(&g->temp, now_ns) || is_missed(&g->margin, now_ns);
}

bool governor_misses_watts(const struct governor *g, uint64_t now_ns)
{
    uint64_t told_ns = g->watts.read_ns != 0 ? g->watts.read_ns : g->began_ns;
    return g->limits.max_watts > 0 && told_ns != 0 && now_ns > told_ns + missed_ns;
}

bool governor_headroom_c(const struct governor *g, const struct sensor_reading *in, double *ret_c)
{
    double to_target = g->limits.target_c - in->temp_c;
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
    return quantum_ms / (quantum_ms + delay_ms);
}

double governor_delay_ms(double duty)
{
    return quantum_ms / duty - quantum_ms;
}

static double clamp(double x, double low, double high)
{
    return x < low ? low : x > high ? high : x;
}

/* What a reading lacks is as it was before while that is fresh. False: it was told once and is not
 * any more. */
static bool keep(struct governor_told *last, uint64_t read_ns, bool *have, double *value,
                 uint64_t now_ns)
{
    if (*have)
        *last = (struct governor_told){.value = *value, .read_ns = read_ns};
    if (last->read_ns == 0)
        return true;
    *have = is_fresh(last->read_ns, now_ns);
    *value = last->value;
    return *have;
}

static void remember(struct governor *g, uint64_t now_ns)
{
    double duty = governor_duty(g->delay_ms);
    double seconds = clamp((double)(now_ns - g->held_ns) / (double)NS_PER_S, 0, longest_s);
    g->held_mean += g->held_ns == 0 ? duty : (duty - g->held_mean) * seconds / (seconds + mean_s);
    g->held_ms = g->delay_ms;
    g->held_ns = now_ns;
}

/* While nobody sees how hot the card is, it rests at least as it did last. But one bad second is
 * nothing to go by for the rest of a night: the ramp rests for half of the time at most, pi works
 * for two thirds of what it did in the minute before at least. */
static double floor_ms(const struct governor *g)
{
    double most_ms = quantum_ms;
    if (g->config.law == GOVERNOR_PI)
        most_ms = g->held_ns == 0 ? 0 : governor_delay_ms(g->held_mean * held_share);
    double held_ms = clamp(g->held_ms, 0, most_ms);
    return held_ms > g->config.blind_ms ? held_ms : g->config.blind_ms;
}

double governor_update(struct governor *g, const struct sensor_reading *in, uint64_t now_ns)
{
    if (g->config.law == GOVERNOR_OFF)
        return g->delay_ms = 0;
    struct sensor_reading reading = *in;
    bool temp = keep(&g->temp, in->read_ns, &reading.have_temp, &reading.temp_c, now_ns);
    bool margin = keep(&g->margin, in->read_ns, &reading.have_margin, &reading.margin_c, now_ns);
    bool watts = keep(&g->watts, in->read_ns, &reading.have_power, &reading.power_w, now_ns);
    g->began_ns = g->began_ns == 0 ? now_ns : g->began_ns;
    struct governor_input input = {
        .reading = &reading,
        .limit_w = in->limit_w,
        .duty_max = clamp(g->joules.duty_max, 0, g->limits.duty_max),
        .busy = g->busy,
    };
    input.duty_min = clamp(g->config.duty_min, 0, input.duty_max);
    input.have_headroom = governor_headroom_c(g, &reading, &input.headroom_c);
    if (g->limits.max_watts > 0 && (in->limit_w <= 0 || g->limits.max_watts < in->limit_w)) {
        input.limit_w = g->limits.max_watts;
        input.own_limit = true;
    }
    bool have_power = reading.have_power && input.limit_w > 0;
    bool fresh = is_fresh(in->read_ns, now_ns);
    bool known = fresh && (input.have_headroom || have_power);
    g->throttles = g->throttles || (fresh && (in->throttle_bits & THROTTLE_THERMAL) != 0);
    bool seen = known || (fresh && g->throttles);
    g->blind = !known || !temp || !margin || (g->limits.max_watts > 0 && !watts);
    if (g->blind)
        input.duty_max = clamp(governor_duty(floor_ms(g)), input.duty_min, input.duty_max);
    double delay_ms = 0;
    if (!seen)
        g->ramp = (struct governor_ramp){0};
    else if (g->config.law == GOVERNOR_RAMP)
        delay_ms = governor_ramp_update(&g->ramp, &input, now_ns);
    else
        delay_ms = governor_pi_update(&g->pi, &input);
    g->delay_ms =
        clamp(delay_ms, governor_delay_ms(input.duty_max), governor_delay_ms(input.duty_min));
    if (!g->blind)
        remember(g, now_ns);
    return g->delay_ms;
}
