/* octoflow-bench run --profile: a step's time on the device by kernel, beside what the device could
 * do. */
#include <stdio.h>
#include <string.h>

#include "base/size.h"
#include "bench/run.h"

enum { MAX_ROWS = 64 };
struct snapshot {
    struct engine_profile_row rows[MAX_ROWS];
    size_t count;
};
struct profiling {
    struct engine *engine;
    struct decode_timing timing;
    struct snapshot before, after;
    bool started;
    uint64_t steps; /* between them */
};

static void take(const struct engine *e, struct snapshot *ret)
{
    const struct engine_profile_row *rows;
    ret->count = min_u64(engine_profile(e, &rows), MAX_ROWS);
    memcpy(ret->rows, rows, ret->count * sizeof *rows);
}

static bool on_step(void *user, const struct engine_step_stats *s, uint64_t now_ns)
{
    struct profiling *p = user;
    bool go_on = decode_timing_step(&p->timing, s, now_ns);
    if (p->started) { /* not at the end: the device is a step ahead then */
        p->steps++;
        take(p->engine, &p->after);
    }
    if (p->timing.last_full && !p->started) {
        p->started = true;
        take(p->engine, &p->before);
    }
    return go_on;
}

/* The least a step can take at the rates measured on this device, beside the time that it took. */
static void print_limit(struct run *r, const char *what, unsigned number, const struct step_cost *c,
                        double device_us)
{
    const struct measure_rates *m = &r->rates;
    bool matrix = engine_info(r->engine)->matrix && m->matrix_flops_s > 0;
    double flops_s = matrix ? m->matrix_flops_s : m->fma_flops_s;
    if (m->read_bytes_s <= 0 || flops_s <= 0 || device_us <= 0)
        return;
    double memory_us = c->bytes / m->read_bytes_s * 1e6, math_us = c->flops / flops_s * 1e6;
    double least_us = memory_us > math_us ? memory_us : math_us;
    printf(
        "  least %.1f us: %.2f MB at %.1f GB/s are %.1f us, %.2f GFLOP at %.2f TFLOP/s (%s) %.1f "
        "us; %.1f %% of the limit\n",
        least_us, c->bytes / 1e6, m->read_bytes_s / 1e9, memory_us, c->flops / 1e9, flops_s / 1e12,
        matrix ? "matrix units" : "F32", math_us, 100 * least_us / device_us);
    char key[64];
    snprintf(key, sizeof key, "limit_share_%s", what);
    report_number(r->report, key, number, r->o.temperature == 0, least_us / device_us);
}

/* What was spent from `before` to `after`, for each of `steps`. */
static void print_profile(struct run *r, const char *what, unsigned number,
                          const struct snapshot *before, const struct snapshot *after,
                          uint64_t steps, const struct step_cost *cost)
{
    struct snapshot now = *after;
    uint64_t total_ns = 0;
    for (size_t i = 0; i < before->count; i++) {
        now.rows[i].ns -= before->rows[i].ns; /* rows keep their places */
        now.rows[i].count -= before->rows[i].count;
    }
    for (size_t i = 0; i < now.count; i++)
        total_ns += now.rows[i].ns;
    double n = (double)max_u64(steps, 1);
    printf("%s of %u: %.1f us on the device\n", what, number, (double)total_ns / 1e3 / n);
    char key[64];
    snprintf(key, sizeof key, "profile_%s_%u%s", what, number,
             r->o.temperature == 0 ? "_greedy" : "");
    json_t *list = json_object();
    for (size_t i = 0; i < now.count; i++) {
        const struct engine_profile_row *row = &now.rows[i];
        if (row->count == 0)
            continue;
        double us = (double)row->ns / 1e3 / n;
        printf("  %-14s %10.1f us %5.1f %%  %6.1f times %9.2f us\n", row->name, us,
               (double)row->ns * 100 / (double)max_u64(total_ns, 1), (double)row->count / n,
               (double)row->ns / 1e3 / (double)row->count);
        json_object_set_new(list, row->name, json_real(us));
    }
    json_object_set_new(r->report, key, list);
    print_limit(r, what, number, cost, (double)total_ns / 1e3 / n);
}

enum err profile_decode(struct run *r, struct work *w, uint32_t steps, struct err_msg *why)
{
    struct profiling p = {.engine = r->engine,
                          .timing = {.batch = (uint32_t)w->count, .steps_max = steps}};
    struct step_cost cost;
    run_cost_of_batch(r, (uint32_t)w->count, steps, &cost);
    enum err e = work_run(r->engine, w, on_step, &p, why);
    if (e == ERR_OK)
        print_profile(r, "decode", (unsigned)w->count, &p.before, &p.after, p.steps, &cost);
    return e;
}

enum err profile_prefill(struct run *r, uint32_t length, struct err_msg *why)
{
    struct work w = {0};
    struct snapshot before, after;
    struct step_cost cost;
    run_cost_of_prompt(r, length, &cost);
    enum err e = work_create((size_t)r->o.prefill_seqs, UINT64_C(1) << 32, length, 1,
                             r->model->n_vocab, &w, why);
    take(r->engine, &before);
    if (e == ERR_OK)
        e = work_run(r->engine, &w, NULL, NULL, why);
    take(r->engine, &after);
    if (e == ERR_OK)
        print_profile(r, "prefill", length, &before, &after, w.count, &cost);
    work_free(&w);
    return e;
}
