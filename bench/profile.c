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
    struct snapshot before;
    bool started;
    uint64_t steps; /* since `before` */
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
    if (p->started)
        p->steps++;
    if (p->timing.last_full && !p->started) {
        p->started = true;
        take(p->engine, &p->before);
    }
    return go_on;
}

/* What was spent since `before`, for each of `steps`. */
static void print_profile(struct run *r, const char *what, unsigned number,
                          const struct snapshot *before, uint64_t steps)
{
    struct snapshot now;
    take(r->engine, &now);
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
}

enum err profile_decode(struct run *r, struct work *w, uint32_t steps, struct err_msg *why)
{
    struct profiling p = {.engine = r->engine,
                          .timing = {.batch = (uint32_t)w->count, .steps_max = steps}};
    enum err e = work_run(r->engine, w, on_step, &p, why);
    if (e == ERR_OK)
        print_profile(r, "decode", (unsigned)w->count, &p.before, p.steps);
    return e;
}

enum err profile_prefill(struct run *r, uint32_t length, struct err_msg *why)
{
    struct work w = {0};
    struct snapshot before;
    enum err e = work_create((size_t)r->o.prefill_seqs, UINT64_C(1) << 32, length, 1,
                             r->model->n_vocab, &w, why);
    take(r->engine, &before);
    if (e == ERR_OK)
        e = work_run(r->engine, &w, NULL, NULL, why);
    if (e == ERR_OK)
        print_profile(r, "prefill", length, &before, w.count);
    work_free(&w);
    return e;
}
