/* The worker's senses: a reading a second off the loop thread, the governor's delay to the engine
 * thread, headroom to the session. */
#include "worker/worker_impl.h"

#include <string.h>

#include "base/clock.h"
#include "base/log.h"

enum { READING_KEEPS_S = 5 }; /* an older one is told to nobody */

enum err heat_open(struct worker *w, struct err_msg *why)
{
    struct heat *h = &w->heat;
    const struct gpu_device_info *device = &engine_thread_info(w->engine)->device;
    const char *spec = w->options->sensor;
    bool automatic = strcmp(spec, "auto") == 0 || strcmp(spec, "none") == 0;
    struct err_msg reason = {{0}};
    enum err e = ERR_NOT_FOUND;
    if (strcmp(spec, "auto") == 0 && device->software)
        err_set(&reason, e, "a software device has none");
    else
        e = sensor_open(spec, device->pci, &h->sensor, &reason);
    if (e != ERR_OK && !automatic)
        return err_set(why, e, "--sensor %s: %s", spec, reason.text);
    struct governor_config config = governor_defaults();
    config.target_c = w->options->target_c;
    config.blind_ms = w->options->pace_ms;
    /* A processor is cooled and throttled by its own system; resting would only slow it down. */
    config.off =
        strcmp(w->options->governor, "off") == 0 || (device->software && h->sensor == NULL);
    governor_init(&h->governor, config);
    if (h->sensor != NULL)
        log_info("sensor name=%s target_c=%.0f", sensor_name(h->sensor), config.target_c);
    else if (!config.off)
        log_warn("no sensor, resting %.1f ms after every 50 ms of work reason=\"%s\"",
                 config.blind_ms, reason.text);
    h->said_blind = h->sensor == NULL;
    return ERR_OK;
}

/* On a pool thread. */
static void read_sensor(uv_work_t *work)
{
    struct heat *h = work->data;
    h->fresh_err = sensor_read(h->sensor, &h->fresh, &h->fresh_why);
}

static void count_energy(struct worker *w, uint64_t now_ns)
{
    struct heat *h = &w->heat;
    uint64_t tokens = engine_thread_stats(w->engine).core.tokens;
    if (h->power_ns != 0 && tokens > h->power_tokens) {
        double seconds = (double)(now_ns - h->power_ns) / (double)NS_PER_S;
        double joules = h->reading.power_w * seconds / (double)(tokens - h->power_tokens);
        h->joules_per_token +=
            h->joules_per_token == 0 ? joules : (joules - h->joules_per_token) / 10;
    }
    h->power_ns = now_ns;
    h->power_tokens = tokens;
}

static void sensor_was_read(uv_work_t *work, int status)
{
    struct worker *w = ((struct heat *)work->data)->work.loop->data;
    struct heat *h = &w->heat;
    h->reading_now = false;
    if (status != 0 || w->engine == NULL)
        return;
    if (h->fresh_err != ERR_OK) {
        if (!h->said_failed)
            log_warn("sensor does not answer, going on without it error=\"%s\"", h->fresh_why.text);
        h->said_failed = true;
        return;
    }
    h->said_failed = false;
    h->reading = h->fresh;
    h->reading.read_ns = clock_mono_ns();
    if (h->reading.have_power)
        count_energy(w, h->reading.read_ns);
}

static void begin_reading(struct worker *w, uint64_t now_ns)
{
    struct heat *h = &w->heat;
    if (h->sensor == NULL || h->reading_now || w->stopping ||
        (h->asked_ns != 0 && now_ns - h->asked_ns < NS_PER_S))
        return;
    h->asked_ns = now_ns;
    h->work.data = h;
    h->reading_now = uv_queue_work(&w->loop, &h->work, read_sensor, sensor_was_read) == 0;
}

static void tell_session(struct worker *w, double delay_ms, uint64_t now_ns)
{
    static const struct governor_input nothing;
    struct heat *h = &w->heat;
    bool fresh =
        h->reading.read_ns != 0 && now_ns - h->reading.read_ns <= READING_KEEPS_S * NS_PER_S;
    const struct governor_input *in = fresh ? &h->reading : &nothing;
    struct thread_stats stats = engine_thread_stats(w->engine);
    struct headroom room = {
        .temp_c = in->have_temp ? in->temp_c : 0,
        .target_c = h->governor.config.target_c,
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
        .joules_per_token = h->joules_per_token,
        .prefill_tokens = stats.core.prefill_tokens,
        .cached_tokens = stats.core.cached_tokens,
    };
    room.temp_known = governor_headroom_c(&h->governor, in, &room.margin_c);
    session_headroom(w->session, &room);
}

void heat_tick(struct worker *w, uint64_t now_ns)
{
    struct heat *h = &w->heat;
    begin_reading(w, now_ns);
    double delay_ms = governor_update(&h->governor, &h->reading, now_ns);
    /* Not yet read at all is no news. */
    if (h->governor.blind && !h->said_blind && h->asked_ns != 0 &&
        now_ns - h->asked_ns > NS_PER_S / 2) {
        log_warn("no fresh sensor reading, resting %.1f ms after every 50 ms of work", delay_ms);
        h->said_blind = true;
    }
    engine_thread_set_delay(w->engine, delay_ms);
    tell_session(w, delay_ms, now_ns);
}

void heat_close(struct worker *w)
{
    /* A read that hangs in the driver would hang us too: its sensor is left to the process's end.
     */
    if (!w->heat.reading_now)
        sensor_close(&w->heat.sensor);
}
