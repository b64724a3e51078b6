/* octoflow-bench run: prefill and decode tokens/s by batch size, checked: what a batch generates is
 * what each sequence generates alone. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/size.h"
#include "bench/bench.h"
#include "bench/run.h"
#include "engine/memory.h"
#include "shaders/push.h"

enum {
    PROFILE_STEPS = 16,
    SLACK_TOKENS = 8, /* the device may be a step ahead, a prompt's end may share a step */
};
/* The device's clocks rise under load: it works for so long before a number counts. */
static const uint64_t WARM_NS = NS_PER_S / 2, WARM_RANGED_NS = NS_PER_S / 10;

static const struct option table[] = {
    BENCH_COMMON_OPTIONS(run_options),
    {"prefill", 'p', OPTION_STRING, offsetof(struct run_options, prefill), .arg = "N,N,...",
     .help = "prompt lengths to measure prefill with (default 512,2048; \"\": none)"},
    {"prefill-seqs", 0, OPTION_INT, offsetof(struct run_options, prefill_seqs), .min = 1,
     .max = 1024, .arg = "N", .help = "prompts that are there at the same time (default 4)"},
    {"batch", 'b', OPTION_STRING, offsetof(struct run_options, batch), .arg = "N,A-B,...",
     .help = "sequences at a time to measure decode with (default 1,8,32)"},
    {"prompt", 0, OPTION_INT, offsetof(struct run_options, prompt), .min = 1, .max = 1e6,
     .arg = "N", .help = "prompt tokens of each of them (default 128)"},
    {"gen", 'n', OPTION_INT, offsetof(struct run_options, gen), .min = 4, .max = 1e6, .arg = "N",
     .help = "timed steps in which all decode; 24 at most in a range (default 128)"},
    {"temperature", 't', OPTION_FLOAT, offsetof(struct run_options, temperature), .min = 0,
     .max = 100, .arg = "X", .help = "0: greedy (default 0)"},
    {"top-p", 0, OPTION_FLOAT, offsetof(struct run_options, top_p), .min = 0, .max = 1, .arg = "X",
     .help = "(default 1)"},
    {"repeats", 0, OPTION_INT, offsetof(struct run_options, repeats), .min = 1, .max = 100,
     .arg = "N", .help = "the median counts (default 3)"},
    {"profile", 0, OPTION_FLAG, offsetof(struct run_options, profile),
     .help = "also the device's limits, and a step's time by kernel, in runs of their own"},
    {"no-verify", 0, OPTION_FLAG, offsetof(struct run_options, no_verify),
     .help = "do not generate the first and the last sequence of each batch again, alone"},
    {"no-energy", 0, OPTION_FLAG, offsetof(struct run_options, no_energy),
     .help = "no run of a second for the energy counter after each batch"},
    {"json", 0, OPTION_FLAG, offsetof(struct run_options, json),
     .help = "one JSON object on the last line"},
};

/* Tokens a sequence generates where `steps` steps are timed: it decodes while later ones are still
 * in their prompts. */
static uint64_t tokens_wanted(const struct run *r, uint64_t batch, uint64_t steps)
{
    return steps + div_up(batch * (uint64_t)r->o.prompt, r->chunk_tokens) + SLACK_TOKENS;
}

/* The longest sequence where the largest batch fits. One page more than it holds: the engine keeps
 * some free when it takes in another sequence. */
static uint64_t context_wanted(const struct run *r, uint64_t batch, uint64_t steps)
{
    return (uint64_t)r->o.prompt + tokens_wanted(r, batch, steps) + PAGE_TOKENS;
}

static enum err check_context(const struct run *r, const struct bench_count *n, uint64_t steps,
                              uint64_t max_ctx, struct err_msg *why)
{
    uint64_t want = context_wanted(r, n->value, steps);
    if (want <= max_ctx)
        return ERR_OK;
    return err_set(
        why, ERR_USAGE,
        "batch %u: sequences get %llu tokens long (prompt %lld, %llu timed steps, %llu "
        "while others are in their prompts); the context is %llu: make --prompt, --gen "
        "or the batch smaller",
        n->value, (unsigned long long)want, (long long)r->o.prompt, (unsigned long long)steps,
        (unsigned long long)(want - steps - (uint64_t)r->o.prompt), (unsigned long long)max_ctx);
}

static uint64_t steps_of(const struct run *r, const struct bench_count *n)
{
    return n->ranged ? min_u64(24, (uint64_t)r->o.gen) : (uint64_t)r->o.gen;
}

static enum err make_batch(const struct run *r, uint32_t batch, uint32_t steps, struct work *ret,
                           struct err_msg *why)
{
    enum err e = work_create(batch, 0, (uint32_t)r->o.prompt,
                             (uint32_t)tokens_wanted(r, batch, steps), r->model->n_vocab, ret, why);
    if (e == ERR_OK) {
        ret->temperature = (float)r->o.temperature;
        ret->top_p = (float)r->o.top_p;
    }
    return e;
}

static enum err verify_batch(struct run *r, const struct work *w, struct err_msg *why)
{
    size_t which[2] = {0, w->count - 1};
    for (size_t i = 0; i < (w->count > 1 ? 2u : 1u) && !r->o.no_verify; i++) {
        enum err e = work_verify(r->engine, w, which[i], &r->references[which[i]], why);
        if (e != ERR_OK)
            return err_prefix(why, e, "batch %zu", w->count);
    }
    return ERR_OK;
}

/* One run of a batch with `steps` timed steps. */
static enum err time_batch(struct run *r, struct work *w, uint32_t steps, struct decode_timing *ret,
                           struct err_msg *why)
{
    struct decode_timing t = {.batch = (uint32_t)w->count, .steps_max = steps};
    enum err e = work_run(r->engine, w, decode_timing_step, &t, why);
    if (e != ERR_OK)
        return e;
    if (t.steps == 0)
        return err_set(why, ERR_USAGE,
                       "batch %zu: never did all decode together: is the KV cache too small? Make "
                       "the batch, --prompt or --gen smaller",
                       w->count);
    *ret = t;
    return ERR_OK;
}

struct warming {
    struct decode_timing timing;
    uint64_t ns_wanted;
};

static bool warming_step(void *user, const struct engine_step_stats *s, uint64_t now_ns)
{
    struct warming *w = user;
    return decode_timing_step(&w->timing, s, now_ns) && w->timing.ns < w->ns_wanted;
}

/* The kernels' first use, and on hardware until the clocks are up: the batch decodes, after short
 * prompts. */
static enum err warm_batch(struct run *r, const struct bench_count *n, struct err_msg *why)
{
    struct warming warming = {.timing = {.batch = n->value, .steps_max = UINT64_MAX},
                              .ns_wanted = n->ranged ? WARM_RANGED_NS : WARM_NS};
    if (engine_info(r->engine)->device.software) {
        if (n->ranged && r->warm)
            return ERR_OK;
        warming.timing.steps_max = 4;
        warming.ns_wanted = 1;
    }
    uint32_t prompt = (uint32_t)min_u64(16, (uint64_t)r->o.prompt);
    uint64_t tokens = tokens_wanted(r, n->value, steps_of(r, n));
    struct work w = {0};
    enum err e = work_create(n->value, UINT64_C(1) << 40, prompt, (uint32_t)tokens,
                             r->model->n_vocab, &w, why);
    w.temperature = (float)r->o.temperature;
    w.top_p = (float)r->o.top_p;
    uint64_t before = UINT64_MAX; /* a run without a timed step: time_batch() says so */
    while (e == ERR_OK && warming.timing.ns < warming.ns_wanted && warming.timing.steps != before) {
        before = warming.timing.steps;
        warming.timing.last_full = false;
        e = work_run(r->engine, &w, warming_step, &warming, why);
    }
    work_free(&w);
    r->warm = true;
    return e;
}

/* The card's counter; false: there is none. */
static bool read_joules(struct sensor *s, double *ret)
{
    struct sensor_reading in = {0};
    if (s == NULL || sensor_read(s, clock_mono_ns(), &in, NULL) != ERR_OK || !in.have_energy)
        return false;
    *ret = in.energy_j;
    return true;
}

/* Whole runs, prompts and all, for a second and more: the counter is a slow one. */
static enum err measure_energy(struct run *r, struct work *w, struct err_msg *why)
{
    double before, after;
    if (!read_joules(r->sensor, &before))
        return ERR_OK;
    uint64_t start_ns = clock_mono_ns(), tokens = 0;
    while (clock_mono_ns() - start_ns < NS_PER_S) {
        enum err e = work_run(r->engine, w, NULL, NULL, why);
        if (e != ERR_OK)
            return e;
        for (size_t i = 0; i < w->count; i++)
            tokens += w->seqs[i].tokens_count;
    }
    if (!read_joules(r->sensor, &after) || after <= before)
        return ERR_OK;
    r->tokens_per_joule = (double)tokens / (after - before);
    return ERR_OK;
}

void run_cost_of_batch(const struct run *r, uint32_t batch, uint64_t steps, struct step_cost *ret)
{
    double before = (double)batch * (double)r->o.prompt / r->chunk_tokens;
    double context = (double)r->o.prompt + before / 2 + (double)steps / 2;
    const struct engine_info *info = engine_info(r->engine);
    cost_of_step(r->model, info->tiles_bytes > 0, batch, context, batch, ret);
    double less = (double)engine_byte_tiles_read(r->engine, batch) * (32.0 / 17 - 1);
    ret->weight_bytes -= less;
    ret->bytes -= less;
}

void run_cost_of_prompt(const struct run *r, uint32_t length, struct step_cost *ret)
{
    const struct engine_info *info = engine_info(r->engine);
    double chunk = info->chunk_tokens, seqs = (double)r->o.prefill_seqs;
    cost_of_prompt(r->model, info->tiles_bytes > 0, length, chunk, ret);
    /* A step can hold the rows of several prompts. */
    double shared = ret->weight_bytes * ceil(seqs * length / chunk) / (seqs * ceil(length / chunk));
    ret->bytes += shared - ret->weight_bytes;
    ret->weight_bytes = shared;
}

static void print_batch(struct run *r, uint32_t batch, uint64_t steps, double rate, bool ranged)
{
    bool greedy = r->o.temperature == 0;
    struct step_cost c;
    run_cost_of_batch(r, batch, steps, &c);
    printf("%6u %14.1f %12.4f", batch, rate, 1e3 * batch / rate);
    if (r->tokens_per_joule > 0)
        printf(" %14.2f", r->tokens_per_joule);
    else
        printf(" %14s", ranged ? "-" : "unknown");
    printf(" %12.2f %12.2f\n", c.bytes / 1e6, c.flops / 1e9);
    fflush(stdout);
    char key[64];
    snprintf(key, sizeof key, "decode_%u%s", batch, greedy ? "_greedy" : "");
    if (ranged && json_object_get(r->report, key) != NULL)
        return; /* a range's few steps do not replace the batch's own number */
    report_number(r->report, "decode", batch, greedy, rate);
    report_number(r->report, "ms_per_step", batch, greedy, 1e3 * batch / rate);
    if (ranged)
        return;
    if (r->tokens_per_joule > 0)
        report_number(r->report, "tokens_per_joule", batch, greedy, r->tokens_per_joule);
    report_number(r->report, "bytes_per_step", batch, false, c.bytes);
    report_number(r->report, "flops_per_step", batch, false, c.flops);
}

static enum err run_batch(struct run *r, const struct bench_count *n, struct err_msg *why)
{
    uint32_t steps = (uint32_t)steps_of(r, n);
    double rates[100];
    struct decode_timing t = {0};
    struct work w = {0};
    enum err e = make_batch(r, n->value, steps, &w, why);
    if (e == ERR_OK)
        e = warm_batch(r, n, why);
    for (int64_t i = 0; e == ERR_OK && i < r->o.repeats; i++) {
        e = time_batch(r, &w, steps, &t, why);
        rates[i] = (double)t.tokens * 1e9 / (double)max_u64(t.ns, 1);
        if (e == ERR_OK)
            e = verify_batch(r, &w, why);
    }
    r->tokens_per_joule = 0;
    if (e == ERR_OK && !n->ranged && !r->o.no_energy)
        e = measure_energy(r, &w, why);
    work_free(&w);
    if (e != ERR_OK)
        return e;
    double rate = bench_median(rates, (size_t)r->o.repeats);
    print_batch(r, n->value, steps, rate, n->ranged);
    if (n->ranged && r->last_ranged > 0 && n->value == r->last_ranged + 1) {
        double drop = (1 - rate / r->last_rate) * 100;
        if (drop > r->worst_drop) {
            r->worst_drop = drop;
            r->worst_drop_at = r->last_ranged;
        }
        r->has_drop = true;
    }
    r->last_ranged = n->ranged ? n->value : 0;
    r->last_rate = rate;
    return ERR_OK;
}

static enum err run_batches(struct run *r, struct err_msg *why)
{
    printf("%6s %14s %12s %14s %12s %12s\n", "batch", "decode tok/s", "ms/step", "tokens/joule",
           "MB/step", "GFLOP/step");
    enum err e = ERR_OK;
    for (size_t i = 0; e == ERR_OK && i < r->batches.count; i++)
        e = run_batch(r, &r->batches.list[i], why);
    if (e == ERR_OK && r->has_drop) {
        printf("worst drop from n to n + 1 sequences: %.1f %%", r->worst_drop);
        if (r->worst_drop > 0)
            printf(" at %u", r->worst_drop_at);
        printf("\n");
        report_number(r->report, "worst_drop_percent", 0, r->o.temperature == 0, r->worst_drop);
    }
    return e;
}

/* From the first submission to the step that computed the last prompt token. */
static enum err run_prefill(struct run *r, uint32_t length, struct err_msg *why)
{
    double rates[100], seqs = (double)r->o.prefill_seqs;
    struct work w = {0};
    enum err e = work_create((size_t)r->o.prefill_seqs, UINT64_C(1) << 32, length, 1,
                             r->model->n_vocab, &w, why);
    uint64_t warm_ns = engine_info(r->engine)->device.software ? 0 : WARM_NS;
    uint64_t begin_ns = clock_mono_ns();
    do
        e = e == ERR_OK ? work_run(r->engine, &w, NULL, NULL, why) : e;
    while (e == ERR_OK && clock_mono_ns() - begin_ns < warm_ns);
    for (int64_t i = 0; e == ERR_OK && i < r->o.repeats; i++) {
        uint64_t start_ns = clock_mono_ns();
        e = work_run(r->engine, &w, NULL, NULL, why);
        if (e == ERR_OK)
            rates[i] = seqs * length * 1e9 / (double)max_u64(clock_mono_ns() - start_ns, 1);
    }
    if (e == ERR_OK && !r->o.no_verify && w.count > 1)
        e = work_verify(r->engine, &w, w.count - 1, NULL, why);
    work_free(&w);
    if (e != ERR_OK)
        return err_prefix(why, e, "prefill of %u", length);
    double rate = bench_median(rates, (size_t)r->o.repeats);
    struct step_cost c;
    run_cost_of_prompt(r, length, &c);
    printf("%8u %16.1f %12.4f %12.2f %12.2f\n", length, rate, 1e3 * length / rate, c.bytes / 1e6,
           c.flops / 1e9);
    fflush(stdout);
    report_number(r->report, "prefill", length, r->o.temperature == 0, rate);
    report_number(r->report, "bytes_per_prompt", length, false, c.bytes);
    report_number(r->report, "flops_per_prompt", length, false, c.flops);
    return ERR_OK;
}

static enum err run_prefills(struct run *r, struct err_msg *why)
{
    if (r->prefills.count > 0)
        printf("%8s %16s %12s %12s %12s\n", "prompt", "prefill tok/s", "ms/prompt", "MB/prompt",
               "GFLOP/prompt");
    enum err e = ERR_OK;
    for (size_t i = 0; e == ERR_OK && i < r->prefills.count; i++)
        e = run_prefill(r, r->prefills.list[i].value, why);
    return e;
}

static uint64_t whole_pages(uint64_t tokens)
{
    return div_up(tokens, PAGE_TOKENS) * PAGE_TOKENS;
}

/* As large as the largest batch and the longest prompts ask for; an error where the model sees
 * less.
 */
static enum err size_engine(const struct run *r, struct engine_options *o, struct err_msg *why)
{
    uint64_t seqs = 1, ctx = 1, kv = 0, train = r->model->n_ctx_train;
    for (size_t i = 0; i < r->batches.count; i++) {
        const struct bench_count *n = &r->batches.list[i];
        uint64_t steps = max_u64(steps_of(r, n), PROFILE_STEPS);
        uint64_t want = context_wanted(r, n->value, steps);
        enum err e = check_context(r, n, steps, train, why);
        if (e != ERR_OK)
            return e;
        seqs = max_u64(seqs, n->value);
        ctx = max_u64(ctx, want);
        kv = max_u64(kv, n->value * whole_pages(want));
    }
    for (size_t i = 0; i < r->prefills.count; i++) {
        uint64_t length = r->prefills.list[i].value, prompts = (uint64_t)r->o.prefill_seqs;
        if (length + 1 > train)
            return err_set(why, ERR_USAGE, "--prefill %llu: the model sees %llu tokens at most",
                           (unsigned long long)length, (unsigned long long)train);
        seqs = max_u64(seqs, prompts);
        ctx = max_u64(ctx, min_u64(length + 1 + PAGE_TOKENS, train));
        kv = max_u64(kv, prompts * whole_pages(length + 1 + PAGE_TOKENS));
    }
    o->max_seqs = (uint32_t)seqs;
    o->max_ctx = (uint32_t)ctx;
    o->kv_tokens = max_u64(kv, whole_pages(ctx));
    return ERR_OK;
}

/* Prompt tokens that a step takes: they say how long sequences get, before there is an engine. */
static enum err find_chunk(struct run *r, const struct gpu_device_info *device, struct err_msg *why)
{
    uint64_t seqs = r->prefills.count > 0 ? (uint64_t)r->o.prefill_seqs : 1;
    for (size_t i = 0; i < r->batches.count; i++)
        seqs = max_u64(seqs, r->batches.list[i].value);
    struct engine_options o = {.max_seqs = (uint32_t)seqs};
    struct engine_memory plan;
    enum err e = engine_plan_memory(r->model, device, r->vram_before, &o, &plan, why);
    if (e == ERR_OK && plan.max_seqs < seqs)
        e = err_set(why, ERR_USAGE, "--batch %llu: the engine takes %u sequences at a time at most",
                    (unsigned long long)seqs, plan.max_seqs);
    if (e == ERR_OK)
        r->chunk_tokens = plan.chunk_tokens;
    return e;
}

/* One engine for all of it. */
static enum err open_engine(struct run *r, bool profile, struct err_msg *why)
{
    struct engine_options o = {.no_prefix_cache = true, .profile = profile};
    enum err e = size_engine(r, &o, why);
    return e == ERR_OK ? bench_open_engine(&r->o.common, r->model, o, &r->engine, why) : e;
}

/* After all that was timed: time stamps cost time. */
static enum err profile_batches(struct run *r, struct err_msg *why)
{
    struct gpu_device_info device;
    engine_destroy(&r->engine);
    enum err e = measure_device(r->o.common.device, r->o.common.validate, &device, &r->rates, why);
    if (e == ERR_OK) {
        measure_to_json(&r->rates, r->report);
        e = open_engine(r, true, why);
    }
    for (size_t i = 0; e == ERR_OK && i < r->batches.count; i++) {
        const struct bench_count *n = &r->batches.list[i];
        struct work w = {0};
        if (n->ranged)
            continue;
        e = make_batch(r, n->value, PROFILE_STEPS, &w, why);
        if (e == ERR_OK)
            e = profile_decode(r, &w, PROFILE_STEPS, why);
        work_free(&w);
    }
    for (size_t i = 0; e == ERR_OK && i < r->prefills.count; i++)
        e = profile_prefill(r, r->prefills.list[i].value, why);
    return e;
}

static enum err measure(struct run *r, struct err_msg *why)
{
    const struct engine_info *info = engine_info(r->engine);
    json_object_set_new(r->report, "device", json_string(info->device.name));
    json_object_set_new(r->report, "driver", json_string(info->device.driver));
    json_object_set_new(r->report, "model", json_string(r->model->name));
    json_object_set_new(r->report, "matrix_units", json_boolean(info->matrix));
    json_object_set_new(r->report, "verified", json_boolean(!r->o.no_verify));
    r->references = calloc(info->max_seqs, sizeof *r->references);
    if (r->references == NULL)
        return err_set(why, ERR_NOMEM, "out of memory");
    r->references_count = info->max_seqs;
    printf("%s (%s) on %s, %s: %s kernels, %.1f MB of weights, %.1f MB of tiles\n", r->model->name,
           r->model->quantization, info->device.name, info->device.driver,
           info->matrix ? "matrix" : "plain", (double)info->weight_bytes / 1e6,
           (double)info->tiles_bytes / 1e6);
    printf("prompt %lld, %lld timed steps, temperature %g, top-p %g, median of %lld\n",
           (long long)r->o.prompt, (long long)r->o.gen, r->o.temperature, r->o.top_p,
           (long long)r->o.repeats);
    enum err e = run_prefills(r, why);
    if (e == ERR_OK)
        e = run_batches(r, why);
    uint64_t free_after = engine_vram_free(r->engine);
    if (e == ERR_OK && r->vram_before > free_after && free_after > 0) {
        double used = (double)(r->vram_before - free_after);
        printf("peak device memory: %.1f MB\n", used / 1e6);
        report_number(r->report, "vram_peak_bytes", 0, false, used);
    } else if (e == ERR_OK) {
        printf("peak device memory: unknown\n");
    }
    return e == ERR_OK && r->o.profile ? profile_batches(r, why) : e;
}

static void free_run(struct run *r)
{
    for (uint32_t i = 0; i < r->references_count; i++)
        free(r->references[i].tokens);
    free(r->references);
    json_decref(r->report);
    sensor_close(&r->sensor);
    engine_destroy(&r->engine);
    bench_free_counts(&r->batches);
    bench_free_counts(&r->prefills);
    model_close(&r->model);
}

int cmd_run(int argc, char **argv)
{
    struct run r = {.o = {.prefill = "512,2048",
                          .prefill_seqs = 4,
                          .batch = "1,8,32",
                          .prompt = 128,
                          .gen = 128,
                          .top_p = 1,
                          .repeats = 3}};
    struct gpu_device_info device;
    struct err_msg why = {0};
    json_t *report = report_create(&(struct gpu_device_info){.name = ""}, "run", argc, argv);
    r.report = report;
    int code;
    if (!bench_parse(table, ARRAY_LEN(table), &r.o, "Usage: octoflow-bench run -m FILE", argc, argv,
                     &code)) {
        json_decref(report);
        return code;
    }
    enum err e = bench_parse_counts("batch", r.o.batch, 65535, &r.batches, &why);
    if (e == ERR_OK && r.o.prefill[0] != '\0')
        e = bench_parse_counts("prefill", r.o.prefill, 1000000, &r.prefills, &why);
    if (e == ERR_OK)
        e = bench_open_model(&r.o.common, &r.model, &why);
    if (e == ERR_OK)
        e = bench_choose_device(&r.o.common, &device, &r.vram_before, &why);
    if (e == ERR_OK) {
        struct sensor_target target = {.pci = device.pci, .software = device.software};
        if (sensor_open("auto", &target, &r.sensor, NULL) != ERR_OK)
            r.sensor = NULL; /* only the joules are missing then */
        e = find_chunk(&r, &device, &why);
    }
    if (e == ERR_OK)
        e = open_engine(&r, false, &why);
    if (e == ERR_OK)
        e = measure(&r, &why);
    if (e == ERR_OK && r.o.json)
        report_print(json_incref(report));
    code = e == ERR_OK ? BENCH_OK : bench_fail(e, &why);
    free_run(&r);
    return code;
}
