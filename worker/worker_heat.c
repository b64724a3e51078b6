/* The worker's senses: a reading a second off the loop thread, the governor's delay to the engine
 * thread, headroom to the session. */
#include "worker/worker_impl.h"

#include <string.h>

#include "base/clock.h"
#include "base/log.h"

/* Of the options that only a law keeps to; the target has a default. */
static bool limits_anything(const struct governor_config *c)
{
    struct governor_config usual = governor_defaults();
    return c->limits.target_c != usual.limits.target_c || c->limits.max_watts > 0 ||
           c->limits.duty_max < 1 || c->hours.count > 0 || c->joules_per_token > 0;
}

enum err heat_open(struct worker *w, struct err_msg *why)
{
    struct heat *h = &w->heat;
    const struct gpu_device_info *device = &engine_thread_info(w->engine)->device;
    const char *spec = w->options->sensor;
    bool automatic = strcmp(spec, "auto") == 0 || strcmp(spec, "none") == 0;
    struct err_msg reason = {{0}};
    struct sensor_target target = {.pci = device->pci, .software = device->software};
    enum err e = sensor_open(spec, &target, &h->sensor, &reason);
    if (e != ERR_OK && !automatic)
        return err_set(why, e, "--sensor %s: %s", spec, reason.text);
    struct governor_config config = w->options->heat;
    /* A processor is cooled and throttled by its own system; resting would only slow it down. */
    if (device->software && automatic)
        config.law = GOVERNOR_OFF;
    governor_init(&h->governor, config);
    bool off = config.law == GOVERNOR_OFF;
    if (h->sensor != NULL && off)
        log_info("sensor name=%s governor=off", sensor_name(h->sensor));
    else if (h->sensor != NULL)
        log_info("sensor name=%s target_c=%.0f", sensor_name(h->sensor), config.limits.target_c);
    else if (!off)
        log_warn("no sensor, resting %.1f ms after every 50 ms of work reason=\"%s\"",
                 config.blind_ms, reason.text);
    if (off && limits_anything(&config))
        log_warn("the governor is off: no target, --max-watts, --duty-max, --quiet-hours or "
                 "--joules-per-token is kept to");
    return ERR_OK;
}

/* On a pool thread. */
static void read_sensor(uv_work_t *work)
{
    struct heat *h = work->data;
    h->fresh_err = sensor_read(h->sensor, clock_mono_ns(), &h->fresh, &h->fresh_why);
    if (h->fresh_err == ERR_OK)
        sensor_came(&h->fresh, clock_mono_ns());
}

/* What a token costs; what is used while nothing runs, a load of another model too, is no part of
 * it. */
static void count_energy(struct worker *w)
{
    struct heat *h = &w->heat;
    energy_reading(&h->meter, &h->reading);
    if (w->loading)
        return;
    struct core_stats core = engine_thread_stats(w->engine).core;
    engine_thread_set_meter(w->engine, &h->meter);
    if (core.shared_tokens == h->shared_tokens)
        return;
    double joules = (core.shared_j - h->shared_j) / (double)(core.shared_tokens - h->shared_tokens);
    h->joules_per_token += h->joules_per_token == 0 ? joules : (joules - h->joules_per_token) / 10;
    governor_tell_joules(&h->governor, h->joules_per_token, h->reading.read_ns);
    h->shared_j = core.shared_j;
    h->shared_tokens = core.shared_tokens;
}

/* How much of the time since the reading before the device worked on steps. */
static void count_busy(struct worker *w, uint64_t now_ns)
{
    struct heat *h = &w->heat;
    uint64_t gpu_ns = w->loading ? h->gpu_ns : engine_thread_stats(w->engine).gpu_ns;
    if (now_ns > h->heard_ns)
        governor_tell_busy(&h->governor,
                           (double)(gpu_ns - h->gpu_ns) / (double)(now_ns - h->heard_ns));
    h->gpu_ns = gpu_ns;
}

static void count_temp(struct heat *h)
{
    if (!h->reading.have_temp)
        return;
    if (h->temps == 0 || h->reading.temp_c > h->temp_peak_c)
        h->temp_peak_c = h->reading.temp_c;
    h->temp_sum_c += h->reading.temp_c;
    h->temps++;
}

static void sensor_was_read(uv_work_t *work, int status)
{
    struct worker *w = ((struct heat *)work->data)->work.loop->data;
    struct heat *h = &w->heat;
    h->reading_now = false;
    if (status != 0 || w->stopping)
        return;
    h->failed_why = h->fresh_err != ERR_OK ? h->fresh_why : (struct err_msg){{0}};
    if (h->fresh_err != ERR_OK)
        return;
    uint64_t now_ns = clock_mono_ns();
    count_busy(w, now_ns);
    h->reading = h->fresh;
    h->heard_ns = now_ns;
    count_energy(w);
    count_temp(h);
}

static void begin_reading(struct worker *w, uint64_t now_ns)
{
    struct heat *h = &w->heat;
    if (h->sensor == NULL || h->reading_now || w->stopping ||
        (h->asked_ns != 0 && now_ns - h->asked_ns < NS_PER_S))
        return;
    h->asked_ns = now_ns;
    if (h->heard_ns == 0)
        h->heard_ns = now_ns;
    h->work.data = h;
    h->reading_now = uv_queue_work(&w->loop, &h->work, read_sensor, sensor_was_read) == 0;
}

/* A sensor that falls silent or tells no degrees any more, and that answers again. */
static void say_blind(struct heat *h, double delay_ms, uint64_t now_ns)
{
    bool silent = h->heard_ns != 0 && now_ns - h->heard_ns > SENSOR_KEEPS_NS;
    bool blind = silent || governor_misses_degrees(&h->governor, now_ns);
    if (h->sensor == NULL || blind == h->said_blind)
        return;
    h->said_blind = blind;
    if (blind)
        log_warn("no fresh sensor reading, resting %.1f ms after every 50 ms of work error=\"%s\"",
                 delay_ms,
                 !silent                         ? "it tells no degrees any more"
                 : h->failed_why.text[0] == '\0' ? "it does not answer"
                                                 : h->failed_why.text);
    else
        log_info("sensor answers again name=%s", sensor_name(h->sensor));
}

static void say_unmet(struct heat *h)
{
    bool unmet = h->governor.joules.unmet;
    if (unmet && !h->said_unmet)
        log_warn("working less does not bring a token down to the joules asked for "
                 "joules_per_token=%.3g wanted=%.3g",
                 h->joules_per_token, h->governor.config.joules_per_token);
    h->said_unmet = unmet;
}

static void say_no_watts(struct heat *h, double delay_ms, uint64_t now_ns)
{
    bool missing = governor_misses_watts(&h->governor, now_ns);
    if (missing && !h->said_no_watts)
        log_warn("nothing tells what the GPU takes, its most watts are not kept to wanted=%.0f "
                 "resting_ms=%.1f",
                 h->governor.limits.max_watts, delay_ms);
    h->said_no_watts = missing;
}

static void tell_session(struct worker *w, double delay_ms, uint64_t now_ns)
{
    static const struct sensor_reading nothing;
    struct heat *h = &w->heat;
    bool fresh = h->reading.read_ns != 0 && now_ns - h->reading.read_ns <= SENSOR_KEEPS_NS;
    const struct sensor_reading *in = fresh ? &h->reading : &nothing;
    struct thread_stats stats = engine_thread_stats(w->engine);
    struct headroom room = {
        .temp_c = in->have_temp ? in->temp_c : 0,
        .target_c = h->governor.config.law == GOVERNOR_OFF ? 0 : h->governor.limits.target_c,
        .power_w = in->have_power ? in->power_w : 0,
        .power_limit_w = in->limit_w,
        .throttle_bits = in->throttle_bits,
        .duty = governor_duty(delay_ms),
        .pace_ms = delay_ms,
        .kv_tokens_free = stats.kv_tokens_free,
        .kv_tokens_total = engine_thread_info(w->engine)->kv_tokens,
        .vram_free_bytes = stats.vram_free_bytes,
        .prefill_tokens_per_s = stats.core.prefill_tokens_per_s,
        .decode_tokens_per_s = stats.core.decode_tokens_per_s,
        .joules_per_token = fresh ? h->joules_per_token : 0,
        .energy_j = energy_total(&h->meter, now_ns),
        .temp_mean_c = h->temps > 0 ? h->temp_sum_c / (double)h->temps : 0,
        .temp_peak_c = h->temp_peak_c,
        .prefill_tokens = stats.core.prefill_tokens,
        .cached_tokens = stats.core.cached_tokens,
    };
    room.temp_known = governor_headroom_c(&h->governor, in, &room.margin_c);
    w->room = room;
    session_headroom(w->session, &room);
}

void heat_tick(struct worker *w, uint64_t now_ns)
{
    struct heat *h = &w->heat;
    begin_reading(w, now_ns);
    double delay_ms = governor_update(&h->governor, &h->reading, now_ns);
    say_blind(h, delay_ms, now_ns);
    say_unmet(h);
    say_no_watts(h, delay_ms, now_ns);
    if (w->loading)
        return;
    engine_thread_set_delay(w->engine, delay_ms);
    tell_session(w, delay_ms, now_ns);
}

void heat_new_engine(struct worker *w)
{
    w->heat.shared_j = 0;
    w->heat.shared_tokens = 0;
    w->heat.gpu_ns = 0;
    engine_thread_set_meter(w->engine,
                            &w->heat.meter); /* the next reading is up to a second away */
}

void heat_close(struct worker *w)
{
    /* A read that hangs in the driver would hang us too. */
    if (w->heat.reading_now)
        sensor_abandon(&w->heat.sensor);
    else
        sensor_close(&w->heat.sensor);
}
