/* See governor_night.h. */
#include "bench/governor_night.h"

#include <math.h>
#include <string.h>

#include "base/clock.h"
#include "base/size.h"
#include "worker/sensors/degrees.h"

enum { MINUTE_S = 60, SETTLED_S = 20 * MINUTE_S, WINDOW_S = 10 * MINUTE_S, MAX_DELAYED = 64 };

struct run {
    const struct night *n;
    struct night_result result;
    struct plant_state card;
    struct governor governor;
    struct sensor_reading reading; /* the last that came */
    uint64_t random;
    struct delayed {
        double die_c, power_w, joules;
    } delayed[MAX_DELAYED]; /* by reading, a ring */
    size_t readings;
    struct degrees believed;
    double nonsense_c;
    unsigned nonsense_left; /* readings */
    double joules, tokens, minute_tokens;
    double window[WINDOW_S]; /* a temperature a second */
    size_t window_count;
    double hot_s; /* since full speed would pass the target */
    double sum_c;
};

/* splitmix64, as 0..1. */
static double uniform(struct run *r)
{
    uint64_t z = (r->random += UINT64_C(0x9e3779b97f4a7c15));
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return (double)((z ^ (z >> 31)) >> 11) / (double)(UINT64_C(1) << 53);
}

static double normal(struct run *r)
{
    double a = uniform(r), b = uniform(r);
    return sqrt(-2 * log(1 - a)) * cos(2 * M_PI * b);
}

/* What a moment has of a mean: the full watts as often as the engine works, else the idle card's.
 */
static double moment_w(struct run *r, double mean_w)
{
    double duty = governor_duty(r->governor.delay_ms), idle_w = r->n->plant->p_idle;
    return uniform(r) < duty ? idle_w + (mean_w - idle_w) / duty : idle_w;
}

static const double near_c = 12;

/* What a broken sensor tells now and then: 0, all bits set, or anything. */
static double spoil(struct run *r, double temp_c)
{
    if (r->nonsense_left == 0) {
        if (uniform(r) >= r->n->nonsense_probability)
            return temp_c;
        double kind = uniform(r), any_c = -40 + 190 * uniform(r);
        bool near = any_c > temp_c - near_c && any_c < temp_c + near_c;
        r->nonsense_c = kind < 0.3 ? 0 : kind < 0.6 || (near && !r->n->nonsense_near) ? 127 : any_c;
        r->nonsense_left = 1 + (unsigned)((r->nonsense_c < temp_c ? 4 : 2) * uniform(r));
    }
    r->nonsense_left--;
    return r->nonsense_c;
}

/* Each period: what the card was delay_s ago, with noise, in steps; or nothing. */
static void read_sensor(struct run *r, uint64_t now_ns)
{
    const struct plant_file *f = r->n->file;
    size_t late = (size_t)(f->delay_s / f->period_s + 0.5);
    late = late < MAX_DELAYED ? late : MAX_DELAYED - 1;
    size_t at = r->readings > late ? r->readings - late : 0;
    r->delayed[r->readings++ % MAX_DELAYED] =
        (struct delayed){.die_c = r->card.die_c, .power_w = r->card.power_w, .joules = r->joules};
    const struct delayed *then = &r->delayed[at % MAX_DELAYED];
    double temp_c = then->die_c + normal(r) * f->noise_c;
    if (f->resolution_c > 0)
        temp_c = floor(temp_c / f->resolution_c + 0.5) * f->resolution_c;
    double power_w = moment_w(r, then->power_w);
    if (uniform(r) < f->dropout_probability)
        return;
    if (r->n->nonsense_probability > 0)
        temp_c = spoil(r, temp_c);
    double second = (double)now_ns / (double)NS_PER_S, hour = second / 3600;
    bool glitch = r->n->glitch_s > 0 && floor(second) == r->n->glitch_s;
    r->reading = (struct sensor_reading){
        .have_temp = (r->n->heat_ends_h <= 0 || hour < r->n->heat_ends_h) &&
                     degrees_believe(&r->believed, temp_c, now_ns),
        .temp_c = temp_c,
        .have_power = true,
        .power_w = power_w,
        .limit_w = r->n->limit_w,
        .have_energy = !r->n->no_counter,
        .energy_j = then->joules,
        .throttle_bits = r->card.clock < 1 || glitch ? THROTTLE_THERMAL : 0,
        .read_ns = now_ns,
    };
}

/* Where full speed would settle. */
static double full_speed_c(const struct night *n, double room_c)
{
    const struct plant *p = n->plant;
    double full_w = p->p_idle + n->work->activity * (p->p_full - p->p_idle);
    return room_c + full_w * (p->r_die_sink + p->r_sink_room);
}

static void score_second(struct run *r, size_t second, double room_c, double duty)
{
    struct night_result *s = &r->result;
    double die_c = r->card.die_c, target_c = r->governor.limits.target_c;
    r->sum_c += die_c;
    s->peak_c = fmax(s->peak_c, die_c);
    s->duty_least = fmin(s->duty_least, duty);
    s->duty_most = fmax(s->duty_most, duty);
    s->throttled_s += r->card.clock < 1 ? 1 : 0;
    r->hot_s = full_speed_c(r->n, room_c) > target_c + 1 ? r->hot_s + 1 : 0;
    r->window[second % WINDOW_S] = die_c;
    if (second >= SETTLED_S) {
        s->overshoot_c = fmax(s->overshoot_c, die_c - target_c);
        if (r->hot_s >= SETTLED_S)
            s->under_c = fmax(s->under_c, target_c - die_c);
    }
    if (second >= SETTLED_S + WINDOW_S && second % 10 == 0) {
        double low = r->window[0], high = r->window[0];
        for (size_t i = 1; i < WINDOW_S; i++) {
            low = fmin(low, r->window[i]);
            high = fmax(high, r->window[i]);
        }
        s->ripple_c = fmax(s->ripple_c, high - low);
    }
    if ((second + 1) % MINUTE_S == 0) {
        s->worst_minute = fmin(s->worst_minute, r->minute_tokens / MINUTE_S);
        r->minute_tokens = 0;
    }
}

static void tell_row(const struct run *r, double hour, double room_c)
{
    struct night_row row = {
        .hour = hour,
        .room_c = room_c,
        .die_c = r->card.die_c,
        .sensor_c = r->reading.temp_c,
        .have_sensor = r->reading.have_temp,
        .power_w = r->card.power_w,
        .clock = r->card.clock,
        .duty = governor_duty(r->governor.delay_ms),
        .delay_ms = r->governor.delay_ms,
        .speed = r->card.speed,
    };
    r->n->on_row(r->n->user, &row);
}

/* The work of this moment: one kind, or two by turns. */
static const struct plant_work *work_at(const struct night *n, double now_s)
{
    bool other = n->other_work != NULL && (uint64_t)(now_s / n->change_s) % 2 == 1;
    return other ? n->other_work : n->work;
}

struct night_result night_run(const struct night *n)
{
    const struct plant_file *f = n->file;
    struct run r = {.n = n,
                    .random = n->seed,
                    .result = {.worst_minute = 1, .duty_least = 1, .overshoot_c = -1000}};
    plant_start(n->plant, plant_room_c(f, 0), &r.card);
    governor_init(&r.governor, n->governor);
    size_t steps = (size_t)(f->hours * 3600 / f->step_s + 0.5);
    size_t steps_a_second = (size_t)(1 / f->step_s + 0.5);
    size_t steps_a_reading = (size_t)(f->period_s / f->step_s + 0.5);
    for (size_t i = 0; i < steps; i++) {
        double now_s = (double)i * f->step_s, room_c = plant_room_c(f, now_s / 3600);
        uint64_t now_ns = (uint64_t)(now_s * 1e9) + 1;
        if (i % steps_a_reading == 0) {
            read_sensor(&r, now_ns);
            governor_update(&r.governor, &r.reading, now_ns);
        }
        double duty = governor_duty(r.governor.delay_ms);
        plant_step(n->plant, work_at(n, now_s), duty, room_c, f->step_s, &r.card);
        r.joules += r.card.power_w * f->step_s;
        r.tokens += r.card.speed * f->step_s;
        r.minute_tokens += r.card.speed * f->step_s;
        if ((i + 1) % steps_a_second == 0) {
            score_second(&r, i / steps_a_second, room_c, duty);
            if (n->on_row != NULL)
                tell_row(&r, now_s / 3600, room_c);
        }
    }
    double seconds = f->hours * 3600;
    r.result.tokens = r.tokens / seconds;
    r.result.mean_c = r.sum_c / seconds;
    r.result.joules = r.joules;
    r.result.watts = r.joules / seconds;
    r.result.per_joule = r.tokens / r.joules;
    return r.result;
}
