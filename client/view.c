/* Tables, bars and JSON; see view.h. */
#include "client/view.h"

#include <inttypes.h>
#include <math.h>

#include "base/size.h"
#include "client/json.h"
#include "client/link.h"
#include "client/text.h"

static int wider(struct str s, int width)
{
    return text_width(s) > width ? text_width(s) : width;
}

static void eta_text(const struct rec_BATCH *b, char *out, size_t size)
{
    if (link_batch_complete(b))
        snprintf(out, size, "-");
    else if (b->eta_ms == 0)
        snprintf(out, size, "unknown");
    else
        text_duration((double)b->eta_ms / 1000, out, size);
}

static void put_problem(FILE *out, const struct rec_BATCH *b)
{
    if (b->problem.len == 0)
        return;
    fprintf(out, "    ");
    text_put(out, b->problem, 0);
    fputc('\n', out);
}

static void put_left_out(FILE *out, const struct msg_status_ok *m)
{
    if (m->left_out > 0)
        fprintf(out, "and %" PRIu64 " batches more: octoflow status BATCH shows one\n",
                m->left_out);
    if (m->batches.count == 0)
        fprintf(out, "no batches\n");
}

void view_batches(FILE *out, const struct msg_status_ok *m)
{
    int width = 5;
    for (size_t i = 0; i < m->batches.count; i++)
        width = wider(m->batches.items[i].batch, width);
    fprintf(out, "%-*s  %-11s %9s %9s %8s %9s %7s %9s %12s %9s %14s\n", width, "BATCH", "STATE",
            "LINES", "QUEUED", "RUNNING", "DONE", "FAILED", "CANCELLED", "TOKENS", "ETA", "ENERGY");
    for (size_t i = 0; i < m->batches.count; i++) {
        const struct rec_BATCH *b = &m->batches.items[i];
        char eta[48], energy[TEXT_ENERGY_BYTES];
        eta_text(b, eta, sizeof eta);
        text_energy(b->energy_j, energy);
        text_put(out, b->batch, width + 2);
        fprintf(out,
                "%-11.*s %9" PRIu64 " %9" PRIu64 " %8" PRIu64 " %9" PRIu64 " %7" PRIu64 " %9" PRIu64
                " %12" PRIu64 " %9s %14s\n",
                STR_ARG(b->state), b->total, b->queued, b->leased, b->done, b->failed, b->cancelled,
                b->completion_tokens + b->running_tokens, eta, energy);
        put_problem(out, b);
    }
    put_left_out(out, m);
}

/* "63/75 C": as it is, and what it may be; "-" when it is not known. */
static void of_limit(double value, double limit, const char *unit, char *out, size_t size)
{
    if (limit > 0)
        snprintf(out, size, "%.0f/%.0f %s", value, limit, unit);
    else
        snprintf(out, size, "%.0f %s", value, unit);
}

static void share(double part, double all, char *out, size_t size)
{
    if (all > 0)
        snprintf(out, size, "%.0f%%", part / all * 100);
}

static void put_worker(FILE *out, const struct rec_WORKER *w)
{
    char temp[40] = "-", power[40] = "-", duty[24] = "-", speed[24] = "-";
    char kv[24] = "-", cached[24] = "-"; /* of its pages; of all prompt tokens */
    char peak[24] = "-", per_token[24] = "-", energy[TEXT_ENERGY_BYTES];
    if (!str_eq(w->state, STR_LIT("lost"))) {
        if (w->temp_known && w->temp_c > 0)
            of_limit(w->temp_c, w->target_c, "C", temp, sizeof temp);
        else if (w->temp_known) /* it tells only how far its own limit is */
            snprintf(temp, sizeof temp, "%.0f left", w->margin_c);
        if (w->power_w > 0)
            of_limit(w->power_w, w->power_limit_w, "W", power, sizeof power);
        if (w->duty > 0)
            share(w->duty, 1, duty, sizeof duty);
        share((double)w->kv_tokens_total - (double)w->kv_tokens_free, (double)w->kv_tokens_total,
              kv, sizeof kv);
        snprintf(speed, sizeof speed, "%.1f", w->decode_tokens_per_s);
        if (w->joules_per_token > 0)
            snprintf(per_token, sizeof per_token, "%.3g", w->joules_per_token);
    }
    if (w->temp_peak_c > 0)
        snprintf(peak, sizeof peak, "%.0f C", w->temp_peak_c);
    text_energy(w->energy_j, energy);
    share((double)w->cached_tokens, (double)w->prefill_tokens + (double)w->cached_tokens, cached,
          sizeof cached);
    fprintf(out, "%7" PRIu64 " %9" PRIu64 " %9s %8s %6s %10s %5s %5s %6s %8s %14s %6.1f s  ",
            w->leased, w->done, speed, temp, peak, power, duty, kv, cached, per_token, energy,
            (double)w->seen_ms / 1000);
}

void view_workers(FILE *out, const struct msg_status_ok *m)
{
    int width = 6, model = 5;
    for (size_t i = 0; i < m->workers.count; i++) {
        width = wider(m->workers.items[i].worker, width);
        model = wider(m->workers.items[i].model, model);
    }
    fprintf(out, "%-*s  %-8s  %-*s  %7s %9s %9s %8s %6s %10s %5s %5s %6s %8s %14s %8s  %s\n", width,
            "WORKER", "STATE", model, "MODEL", "RUNNING", "DONE", "TOKENS/S", "TEMP", "PEAK",
            "POWER", "DUTY", "KV", "CACHED", "J/TOKEN", "ENERGY", "SEEN", "DEVICE");
    for (size_t i = 0; i < m->workers.count; i++) {
        const struct rec_WORKER *w = &m->workers.items[i];
        text_put(out, w->worker, width + 2);
        text_put(out, w->state, 10);
        text_put(out, w->model, model + 2);
        put_worker(out, w);
        text_put(out, w->device, 0);
        fputc('\n', out);
    }
    if (m->workers.count == 0)
        fprintf(out, "no workers\n");
}

/* ---- bars ---- */

static void put_bar(FILE *out, const struct rec_BATCH *b, int width)
{
    uint64_t finished = link_batch_finished(b);
    int full = b->total == 0 ? 0 : (int)((double)finished / (double)b->total * width);
    fputc('[', out);
    for (int i = 0; i < width; i++)
        fputc(i < full ? '#' : '.', out);
    fputc(']', out);
}

static void put_bar_line(FILE *out, const struct rec_BATCH *b, int name, int bar)
{
    char eta[48], failed[48] = "", cancelled[48] = "";
    uint64_t finished = link_batch_finished(b);
    eta_text(b, eta, sizeof eta);
    if (b->failed > 0)
        snprintf(failed, sizeof failed, "  %" PRIu64 " failed", b->failed);
    if (b->cancelled > 0)
        snprintf(cancelled, sizeof cancelled, "  %" PRIu64 " cancelled", b->cancelled);
    text_put(out, b->batch, name + 2);
    text_put(out, b->state, 13);
    put_bar(out, b, bar);
    fprintf(out, " %3.0f%%  %" PRIu64 "/%" PRIu64 "%s%s  %.1f/s  ETA %s\n",
            b->total == 0 ? 0.0 : (double)finished / (double)b->total * 100, finished, b->total,
            failed, cancelled, b->jobs_per_s, eta);
    put_problem(out, b);
}

void view_bars(FILE *out, const struct msg_status_ok *m, int columns, int rows)
{
    enum { REST_COLUMNS = 13 + 2 + 45, MIN_BAR = 10, MAX_BAR = 60 };
    int name = 5, used = 0;
    for (size_t i = 0; i < m->batches.count; i++)
        name = wider(m->batches.items[i].batch, name);
    int bar = columns - name - 2 - REST_COLUMNS;
    bar = bar < MIN_BAR ? MIN_BAR : bar > MAX_BAR ? MAX_BAR : bar;
    uint64_t left_out = m->left_out;
    for (int complete = 0; complete < 2; complete++) {
        for (size_t i = 0; i < m->batches.count; i++) {
            const struct rec_BATCH *b = &m->batches.items[i];
            if (link_batch_complete(b) != (complete == 1))
                continue;
            used += 1 + (b->problem.len > 0);
            if (used <= rows)
                put_bar_line(out, b, name, bar);
            else
                left_out++;
        }
    }
    if (left_out > 0)
        fprintf(out, "and %" PRIu64 " batches more\n", left_out);
    if (m->batches.count == 0)
        fprintf(out, "no batches\n");
}

/* ---- JSON ---- */

static double known(double v)
{
    return v > 0 ? v : NAN;
}

static void json_batch(struct json_out *o, const struct rec_BATCH *b)
{
    struct rec_BATCH copy = *b, *r = &copy;
    r->energy_j = known(r->energy_j);
    JSON_RECORD(REC_BATCH, o, r);
}

static void json_worker(struct json_out *o, const struct rec_WORKER *w)
{
    struct rec_WORKER copy = *w, *r = &copy;
    if (!r->temp_known)
        r->temp_c = r->margin_c = NAN;
    double *const unknown_at_0[] = {&r->temp_c,           &r->power_w,  &r->power_limit_w,
                                    &r->joules_per_token, &r->energy_j, &r->temp_mean_c,
                                    &r->temp_peak_c,      &r->duty,     &r->target_c};
    for (size_t i = 0; i < ARRAY_LEN(unknown_at_0); i++)
        *unknown_at_0[i] = known(*unknown_at_0[i]);
    JSON_RECORD(REC_WORKER, o, r);
}

enum err view_json(FILE *out, const struct msg_status_ok *m, enum view_parts parts)
{
    struct buf text = {0};
    struct json_out o = {.buf = &text};
    json_open(&o, '{');
    json_key(&o, "uptime_ms");
    json_u64(&o, m->uptime_ms);
    if ((parts & VIEW_BATCHES) != 0) {
        json_key(&o, "left_out");
        json_u64(&o, m->left_out);
        json_key(&o, "batches");
        json_open(&o, '[');
        for (size_t i = 0; i < m->batches.count; i++)
            json_batch(&o, &m->batches.items[i]);
        json_close(&o, ']');
    }
    if ((parts & VIEW_WORKERS) != 0) {
        json_key(&o, "workers");
        json_open(&o, '[');
        for (size_t i = 0; i < m->workers.count; i++)
            json_worker(&o, &m->workers.items[i]);
        json_close(&o, ']');
    }
    json_close(&o, '}');
    return json_print(&o, out);
}
