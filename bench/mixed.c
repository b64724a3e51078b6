/* octoflow-bench mixed: requests of all lengths, all there at the start: output tokens/s from end
 * to end. With --shared-prefix all prompts begin alike, and the prefix cache is on. */
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/size.h"
#include "bench/bench.h"
#include "bench/report.h"
#include "bench/work.h"

struct mixed_options {
    struct bench_common common;
    int64_t requests, batch, seed, shortest, longest, shared_prefix;
    double temperature, top_p;
    bool no_verify, json;
};

static const struct option table[] = {
    BENCH_COMMON_OPTIONS(mixed_options),
    {"requests", 0, OPTION_INT, offsetof(struct mixed_options, requests), .min = 1, .max = 1e6,
     .arg = "N", .help = "all there at the start (default 256)"},
    {"batch", 'b', OPTION_INT, offsetof(struct mixed_options, batch), .min = 1, .max = 65535,
     .arg = "N", .help = "sequences at a time (default 256)"},
    {"shortest", 0, OPTION_INT, offsetof(struct mixed_options, shortest), .min = 1, .max = 1e6,
     .arg = "N", .help = "prompt and output lengths are even from this (default 100)"},
    {"longest", 0, OPTION_INT, offsetof(struct mixed_options, longest), .min = 1, .max = 1e6,
     .arg = "N", .help = "to this (default 1024)"},
    {"seed", 0, OPTION_INT, offsetof(struct mixed_options, seed), .min = 0, .max = 1e9, .arg = "N",
     .help = "of lengths, prompts and draws (default 0)"},
    {"shared-prefix", 0, OPTION_INT, offsetof(struct mixed_options, shared_prefix), .min = 0,
     .max = 1e6, .arg = "N",
     .help = "every prompt begins with the same N tokens more; prefix cache on (default 0: off)"},
    {"temperature", 't', OPTION_FLOAT, offsetof(struct mixed_options, temperature), .min = 0,
     .max = 100, .arg = "X", .help = "0: greedy (default 0.8)"},
    {"top-p", 0, OPTION_FLOAT, offsetof(struct mixed_options, top_p), .min = 0, .max = 1,
     .arg = "X", .help = "(default 0.95)"},
    {"no-verify", 0, OPTION_FLAG, offsetof(struct mixed_options, no_verify),
     .help = "do not generate three of the requests again, alone"},
    {"json", 0, OPTION_FLAG, offsetof(struct mixed_options, json),
     .help = "one JSON object on the last line"},
};

struct totals {
    uint64_t prefill, steps;
};

static bool on_step(void *user, const struct engine_step_stats *s, uint64_t now_ns)
{
    (void)now_ns;
    struct totals *t = user;
    t->prefill += s->prefill_tokens;
    t->steps += s->prefill_tokens + s->decode_tokens > 0;
    return true;
}

static enum err make_requests(const struct mixed_options *o, uint32_t n_vocab, struct work *ret,
                              struct err_msg *why)
{
    struct work w = {.seqs = calloc((size_t)o->requests, sizeof *w.seqs),
                     .count = (size_t)o->requests,
                     .temperature = (float)o->temperature,
                     .top_p = (float)o->top_p};
    uint32_t prefix_count = (uint32_t)o->shared_prefix;
    uint32_t *prefix = calloc(prefix_count + 1, sizeof *prefix);
    enum err e =
        w.seqs == NULL || prefix == NULL ? err_set(why, ERR_NOMEM, "out of memory") : ERR_OK;
    uint64_t state = (uint64_t)o->seed, name = (uint64_t)o->seed << 32;
    uint64_t spread = (uint64_t)(o->longest - o->shortest) + 1;
    if (e == ERR_OK)
        bench_random_ids(name + UINT32_MAX, n_vocab, prefix, prefix_count);
    for (size_t i = 0; e == ERR_OK && i < w.count; i++) {
        uint32_t prompt = (uint32_t)((uint64_t)o->shortest + bench_random(&state) % spread);
        uint32_t output = (uint32_t)((uint64_t)o->shortest + bench_random(&state) % spread);
        e = work_fill(&w.seqs[i], name + i, prefix, prefix_count, prefix_count + prompt, output,
                      n_vocab, why);
    }
    free(prefix);
    if (e == ERR_OK)
        *ret = w;
    else
        work_free(&w);
    return e;
}

/* The kernels' first use, with prompts of nobody's; on hardware until the clocks are up. */
static enum err warm_up(struct engine *e, const struct model *m, struct err_msg *why)
{
    struct work w = {0};
    enum err bad =
        work_create(engine_info(e)->max_seqs, UINT64_C(1) << 62, 8, 4, m->n_vocab, &w, why);
    uint64_t start_ns = clock_mono_ns(), least = engine_info(e)->device.software ? 0 : NS_PER_S / 2;
    do
        bad = bad == ERR_OK ? work_run(e, &w, NULL, NULL, why) : bad;
    while (bad == ERR_OK && clock_mono_ns() - start_ns < least);
    work_free(&w);
    return bad;
}

static enum err verify(struct engine *e, const struct work *w, struct err_msg *why)
{
    size_t which[] = {0, w->count / 2, w->count - 1};
    for (size_t i = 0; i < ARRAY_LEN(which); i++) {
        enum err bad = work_verify(e, w, which[i], NULL, why);
        if (bad != ERR_OK)
            return err_prefix(why, bad, "%zu requests", w->count);
    }
    return ERR_OK;
}

static void print_results(const struct mixed_options *o, const struct work *w,
                          const struct totals *t, uint64_t ns, json_t *report)
{
    uint64_t output = 0, prompts = 0, cached = 0;
    for (size_t i = 0; i < w->count; i++) {
        output += w->seqs[i].tokens_count;
        prompts += w->seqs[i].prompt_count;
        cached += w->seqs[i].cached_count;
    }
    double seconds = (double)max_u64(ns, 1) / 1e9, rate = (double)output / seconds;
    printf("%zu requests, %llu prompt tokens: %llu computed, %llu from the prefix cache\n",
           w->count, (unsigned long long)prompts, (unsigned long long)t->prefill,
           (unsigned long long)cached);
    printf("%llu output tokens in %.3f s, %llu steps: %.1f output tokens/s\n",
           (unsigned long long)output, seconds, (unsigned long long)t->steps, rate);
    bool greedy = o->temperature == 0;
    const char *key = o->shared_prefix > 0 ? "shared_prefix" : "mixed";
    report_number(report, key, (unsigned)w->count, greedy, rate);
    report_number(report, "seconds", 0, false, seconds);
    json_object_set_new(report, "output_tokens", json_integer((json_int_t)output));
    json_object_set_new(report, "prompt_tokens", json_integer((json_int_t)prompts));
    json_object_set_new(report, "prefill_tokens", json_integer((json_int_t)t->prefill));
    json_object_set_new(report, "cached_tokens", json_integer((json_int_t)cached));
    json_object_set_new(report, "verified", json_boolean(!o->no_verify));
}

static enum err measure(const struct mixed_options *o, const struct model *m, json_t *report,
                        struct err_msg *why)
{
    struct engine *e = NULL;
    struct work w = {0};
    struct totals t = {0};
    uint64_t ctx = (uint64_t)(o->shared_prefix + 2 * o->longest) + 1;
    struct engine_options eo = {.max_seqs =
                                    (uint32_t)min_u64((uint64_t)o->batch, (uint64_t)o->requests),
                                .max_ctx = (uint32_t)min_u64(ctx, m->n_ctx_train),
                                .no_prefix_cache = o->shared_prefix == 0};
    if (ctx > m->n_ctx_train)
        return err_set(why, ERR_USAGE,
                       "a request can have %llu tokens, but the model sees %u: make --longest or "
                       "--shared-prefix smaller",
                       (unsigned long long)ctx, m->n_ctx_train);
    enum err bad = make_requests(o, m->n_vocab, &w, why);
    if (bad == ERR_OK)
        bad = bench_open_engine(&o->common, m, eo, &e, why);
    if (bad == ERR_OK)
        bad = warm_up(e, m, why);
    uint64_t start_ns = clock_mono_ns();
    if (bad == ERR_OK)
        bad = work_run(e, &w, on_step, &t, why);
    uint64_t ns = clock_mono_ns() - start_ns;
    /* Alone also means without what the others left in the prefix cache. */
    if (bad == ERR_OK && !o->no_verify && o->shared_prefix > 0) {
        engine_destroy(&e);
        eo.no_prefix_cache = true;
        eo.max_seqs = 1;
        bad = bench_open_engine(&o->common, m, eo, &e, why);
    }
    if (bad == ERR_OK && !o->no_verify)
        bad = verify(e, &w, why);
    if (bad == ERR_OK) {
        printf("%s on %s: up to %u at a time, temperature %g, top-p %g\n", m->name,
               engine_info(e)->device.name, (unsigned)min_u64((uint64_t)o->batch, w.count),
               o->temperature, o->top_p);
        json_object_set_new(report, "device", json_string(engine_info(e)->device.name));
        json_object_set_new(report, "driver", json_string(engine_info(e)->device.driver));
        json_object_set_new(report, "model", json_string(m->name));
        print_results(o, &w, &t, ns, report);
    }
    engine_destroy(&e);
    work_free(&w);
    return bad;
}

int cmd_mixed(int argc, char **argv)
{
    struct mixed_options o = {.requests = 256,
                              .batch = 256,
                              .shortest = 100,
                              .longest = 1024,
                              .temperature = 0.8,
                              .top_p = 0.95};
    struct err_msg why = {0};
    struct model *m = NULL;
    json_t *report = report_create(&(struct gpu_device_info){.name = ""}, "mixed", argc, argv);
    int code;
    if (!bench_parse(table, ARRAY_LEN(table), &o, "Usage: octoflow-bench mixed -m FILE", argc, argv,
                     &code)) {
        json_decref(report);
        return code;
    }
    enum err e = o.shortest > o.longest
                     ? err_set(&why, ERR_USAGE, "--shortest %lld: more than --longest %lld",
                               (long long)o.shortest, (long long)o.longest)
                     : bench_open_model(&o.common, &m, &why);
    if (e == ERR_OK)
        e = measure(&o, m, report, &why);
    if (e == ERR_OK && o.json)
        report_print(json_incref(report));
    code = e == ERR_OK ? BENCH_OK : bench_fail(e, &why);
    json_decref(report);
    model_close(&m);
    return code;
}
