/* octoflow-bench ppl: perplexity = exp(mean negative log-likelihood), each conversation by itself
 * from position 0. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/size.h"
#include "bench/bench.h"

struct ppl_options {
    struct bench_common common;
    double expect;    /* 0: only print */
    double tolerance; /* relative */
};

static const struct option table[] = {
    BENCH_COMMON_OPTIONS(ppl_options),
    {"expect", 0, OPTION_FLOAT, offsetof(struct ppl_options, expect), .min = 0, .max = 1e9,
     .arg = "PPL",
     .help = "fail (exit 1) when the perplexity over all tokens is further from this than the "
             "tolerance"},
    {"tolerance", 0, OPTION_FLOAT, offsetof(struct ppl_options, tolerance), .min = 0, .max = 1,
     .arg = "R", .help = "relative (default 0.001)"},
};

struct sums {
    const struct bench_data *data;
    uint32_t n_vocab;
    double nll, nll_answer;
    size_t tokens, tokens_answer;
};

static double log_likelihood(const float *logits, uint32_t n, uint32_t id)
{
    double max = logits[0], sum = 0;
    for (uint32_t i = 1; i < n; i++)
        max = fmax(max, logits[i]);
    for (uint32_t i = 0; i < n; i++)
        sum += exp(logits[i] - max);
    return logits[id] - max - log(sum);
}

static void on_logits(void *user, uint64_t seq_id, uint32_t position, const float *logits)
{
    struct sums *s = user;
    const struct bench_ids *b = &s->data->entries[seq_id];
    size_t next = (size_t)position + 1;
    if (next >= b->count)
        return;
    double nll = -log_likelihood(logits, s->n_vocab, b->ids[next]);
    s->nll += nll;
    s->tokens++;
    if (b->answer_start > 0 && next >= b->answer_start) {
        s->nll_answer += nll;
        s->tokens_answer++;
    }
}

static enum err run(struct engine *e, const struct bench_data *d, struct err_msg *why)
{
    uint32_t max_seqs = engine_info(e)->max_seqs;
    for (size_t first = 0; first < d->count; first += max_seqs) {
        for (size_t i = first; i < d->count && i < first + max_seqs; i++) {
            struct engine_request r = {.id = i,
                                       .prompt = d->entries[i].ids,
                                       .prompt_count = d->entries[i].count,
                                       .max_tokens = 1,
                                       .top_p = 1};
            enum err bad = engine_add(e, &r, why);
            if (bad != ERR_OK)
                return err_prefix(why, bad, "entry %zu", i + 1);
        }
        enum err bad = bench_drain(e, NULL, NULL, why);
        if (bad != ERR_OK)
            return bad;
    }
    return ERR_OK;
}

int cmd_ppl(int argc, char **argv)
{
    struct ppl_options o = {.tolerance = 0.001};
    int code;
    if (!bench_parse(table, ARRAY_LEN(table), &o,
                     "Usage: octoflow-bench ppl -m FILE --data FILE.jsonl", argc, argv, &code))
        return code;
    struct err_msg why = {0};
    struct model *m = NULL;
    struct engine *e = NULL;
    struct bench_data d = {0};
    struct sums s = {.data = &d};
    enum err r = bench_open_model(&o.common, &m, &why);
    if (r == ERR_OK)
        r = bench_load_data(o.common.data, o.common.limit, &d, &why);
    if (r == ERR_OK) {
        s.n_vocab = m->n_vocab;
        struct engine_options eo = {
            .no_prefix_cache = true, .logits_fn = on_logits, .logits_user = &s, .logits_all = true};
        r = bench_open_engine(&o.common, m, eo, &e, &why);
    }
    if (r == ERR_OK)
        r = run(e, &d, &why);
    code = BENCH_OK;
    if (r != ERR_OK) {
        code = bench_fail(r, &why);
    } else {
        double ppl = exp(s.nll / (double)s.tokens);
        printf("%s: perplexity %.5f over %zu tokens", m->name, ppl, s.tokens);
        if (s.tokens_answer > 0)
            printf(", %.5f over %zu answer tokens", exp(s.nll_answer / (double)s.tokens_answer),
                   s.tokens_answer);
        printf(" (%s)\n", engine_info(e)->device.name);
        if (o.expect > 0 && !(fabs(ppl / o.expect - 1) <= o.tolerance)) {
            printf("FAILED: expected %.5f within %g %%, off by %.3f %%\n", o.expect,
                   o.tolerance * 100, (ppl / o.expect - 1) * 100);
            code = BENCH_FAILED;
        }
    }
    engine_destroy(&e);
    bench_free_data(&d);
    model_close(&m);
    return code;
}
