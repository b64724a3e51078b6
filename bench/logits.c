/* octoflow-bench logits: every position's best logits against a reference ("top": for each position
 * a list of [id, logit], best first; "last_logits": all logits of the last position, optional). */
#include <jansson.h>
#include <math.h>
#include <stdio.h>

#include "base/size.h"
#include "bench/bench.h"

struct logits_options {
    struct bench_common common;
    double max_diff; /* 0: only print */
    int64_t max_other;
};

static const struct option table[] = {
    BENCH_COMMON_OPTIONS(logits_options),
    {"max-diff", 0, OPTION_FLOAT, offsetof(struct logits_options, max_diff), .min = 0, .max = 1e9,
     .arg = "X",
     .help =
         "fail (exit 1) when a reference logit is further off than this (default 0: only print)"},
    {"max-other", 0, OPTION_INT, offsetof(struct logits_options, max_other), .min = -1, .max = 1e9,
     .arg = "N",
     .help = "fail when the best token differs at more than N positions (default -1: only print)"},
};

struct comparison {
    const struct bench_data *data;
    uint32_t n_vocab;
    size_t positions, same_best, compared;
    double worst, sum;
};

static void compare(struct comparison *c, double got, double want)
{
    double diff = fabs(got - want);
    if (!(diff <= c->worst)) /* NaN is the worst */
        c->worst = diff;
    c->sum += diff;
    c->compared++;
}

static void on_logits(void *user, uint64_t seq_id, uint32_t position, const float *logits)
{
    struct comparison *c = user;
    json_t *entry = json_array_get(c->data->json, seq_id);
    json_t *top = json_array_get(json_object_get(entry, "top"), position);
    if (json_array_size(top) == 0)
        return;
    uint32_t best = 0;
    for (uint32_t i = 1; i < c->n_vocab; i++) {
        if (logits[i] > logits[best])
            best = i;
    }
    c->positions++;
    c->same_best += best == (uint32_t)json_integer_value(json_array_get(json_array_get(top, 0), 0));
    for (size_t i = 0; i < json_array_size(top); i++) {
        json_t *pair = json_array_get(top, i);
        json_int_t id = json_integer_value(json_array_get(pair, 0));
        if (id >= 0 && id < c->n_vocab)
            compare(c, logits[id], json_number_value(json_array_get(pair, 1)));
    }
    json_t *last = json_object_get(entry, "last_logits");
    if (position + 1 == c->data->entries[seq_id].count && json_array_size(last) == c->n_vocab) {
        for (uint32_t i = 0; i < c->n_vocab; i++)
            compare(c, logits[i], json_number_value(json_array_get(last, i)));
    }
}

static enum err run(struct engine *e, const struct bench_data *d, struct err_msg *why)
{
    for (size_t i = 0; i < d->count; i++) {
        struct engine_request r = {.id = i,
                                   .prompt = d->entries[i].ids,
                                   .prompt_count = d->entries[i].count,
                                   .max_tokens = 1,
                                   .top_p = 1};
        enum err bad = engine_add(e, &r, why);
        if (bad == ERR_OK)
            bad = bench_drain(e, NULL, NULL, why);
        if (bad != ERR_OK)
            return bad;
    }
    return ERR_OK;
}

static int report(const struct comparison *c, const struct logits_options *o,
                  const struct engine *e)
{
    printf("%zu of %zu positions have the reference's best token; %zu logits, worst difference "
           "%.5f, mean %.6f (%s)\n",
           c->same_best, c->positions, c->compared, c->worst, c->sum / (double)c->compared,
           engine_info(e)->device.name);
    bool bad = c->positions == 0 || (o->max_diff > 0 && !(c->worst <= o->max_diff)) ||
               (o->max_other >= 0 && c->positions - c->same_best > (size_t)o->max_other);
    if (bad)
        printf("FAILED: expected differences <= %g and at most %lld other best tokens\n",
               o->max_diff, (long long)o->max_other);
    return bad ? BENCH_FAILED : BENCH_OK;
}

int cmd_logits(int argc, char **argv)
{
    struct logits_options o = {.max_other = -1};
    int code;
    if (!bench_parse(table, ARRAY_LEN(table), &o,
                     "Usage: octoflow-bench logits -m FILE --data logits.json", argc, argv, &code))
        return code;
    struct err_msg why = {0};
    struct model *m = NULL;
    struct engine *e = NULL;
    struct bench_data d = {0};
    struct comparison c = {.data = &d};
    enum err r = bench_open_model(&o.common, &m, &why);
    if (r == ERR_OK)
        r = bench_load_data(o.common.data, o.common.limit, &d, &why);
    if (r == ERR_OK) {
        c.n_vocab = m->n_vocab;
        struct engine_options eo = {
            .no_prefix_cache = true, .logits_fn = on_logits, .logits_user = &c, .logits_all = true};
        r = bench_open_engine(&o.common, m, eo, &e, &why);
    }
    if (r == ERR_OK)
        r = run(e, &d, &why);
    code = r != ERR_OK ? bench_fail(r, &why) : report(&c, &o, e);
    engine_destroy(&e);
    bench_free_data(&d);
    model_close(&m);
    return code;
}
