/* Bias and penalties on logits, and log-probabilities, against twins in double written from the
 * formulas; that what was edited comes back to the bit; rows that do not see their neighbours. */
#include "base/size.h"
#include "tests/engine/kernel_bed.h"

enum { MAX_EDITS = 300 };

struct row {
    struct sample_row p;
    struct logit_edit edits[MAX_EDITS];
};

static void *take(size_t bytes)
{
    void *p = calloc(1, bytes + 1);
    if (p == NULL)
        exit(1);
    return p;
}

/* Edits of distinct ids, some of them outside the vocabulary. */
static void random_edits(struct bed *b, struct row *row, uint32_t n_vocab, uint32_t count)
{
    uint32_t first = (uint32_t)check_rng_below(&b->rng, n_vocab);
    row->p = (struct sample_row){.edits_count = count,
                                 .repetition_penalty = check_rng_float(&b->rng, 0.5f, 2),
                                 .frequency_penalty = check_rng_float(&b->rng, -2, 2),
                                 .presence_penalty = check_rng_float(&b->rng, -2, 2)};
    if (check_rng_below(&b->rng, 3) == 0)
        row->p.repetition_penalty = 1;
    for (uint32_t i = 0; i < count; i++) {
        struct logit_edit *e = &row->edits[i];
        e->id = (first + i * 3) % (n_vocab + n_vocab / 2 * 2 + 5);
        e->seen = (uint32_t)check_rng_below(&b->rng, 5);
        if (check_rng_below(&b->rng, 2))
            e->seen |= EDIT_IN_PROMPT;
        if (check_rng_below(&b->rng, 2))
            e->bias = check_rng_float(&b->rng, -100, 100);
    }
}

/* Device tensors of one call. */
struct call {
    struct tensor logits, params, edits;
    uint32_t rows, n_vocab;
};

static struct call put(struct bed *b, const float *logits, struct row *rows, uint32_t count,
                       uint32_t n_vocab)
{
    struct sample_row *params = take(count * sizeof *params);
    struct logit_edit *edits = take((size_t)count * MAX_EDITS * sizeof *edits);
    uint32_t used = 0;
    for (uint32_t r = 0; r < count; r++) {
        rows[r].p.edits_begin = used;
        memcpy(edits + used, rows[r].edits, rows[r].p.edits_count * sizeof *edits);
        used += rows[r].p.edits_count;
        params[r] = rows[r].p;
    }
    bed_clear(b);
    struct call c = {.logits = bed_tensor(b, logits, (uint64_t)count * n_vocab * 4),
                     .params = bed_tensor(b, params, count * sizeof *params),
                     .edits = bed_tensor(b, edits, used * sizeof *edits),
                     .rows = count,
                     .n_vocab = n_vocab};
    free(params);
    free(edits);
    return c;
}

static void edit(struct bed *b, const struct call *c, bool restore, float *ret_logits)
{
    struct push_edit_logits p = {.logits = c->logits.address,
                                 .params = c->params.address,
                                 .edits = c->edits.address,
                                 .rows = c->rows,
                                 .n_vocab = c->n_vocab,
                                 .restore = restore};
    bed_begin(b);
    kernel_edit_logits(b->kernels, &p);
    bed_run(b);
    bed_check(b);
    bed_get(b, &c->logits, ret_logits);
}

static double twin_edit(const struct sample_row *p, const struct logit_edit *e, double x)
{
    uint32_t count = e->seen & 0x7fffffff;
    double penalty = (double)p->repetition_penalty;
    x += (double)e->bias;
    if (e->seen != 0)
        x = x > 0 ? x / penalty : x * penalty;
    x -= (double)p->frequency_penalty * count;
    return count > 0 ? x - (double)p->presence_penalty : x;
}

static void test_edits(struct bed *b)
{
    enum { ROWS = 5 };
    for (int round = 0; round < 20; round++) {
        uint32_t n =
            500 + (uint32_t)check_rng_below(&b->rng, 3000); /* more than 3 * MAX_EDITS ids */
        float *x = bed_floats(b, (size_t)n * ROWS, -20, 20), *got = take((size_t)n * ROWS * 4);
        struct row *rows = take(ROWS * sizeof *rows);
        for (uint32_t r = 0; r < ROWS; r++)
            random_edits(b, &rows[r], n,
                         r == 2 ? 0 : (uint32_t)check_rng_below(&b->rng, MAX_EDITS));
        x[n - 1] = NAN;
        struct call c = put(b, x, rows, ROWS, n);
        edit(b, &c, false, got);
        for (uint32_t r = 0; r < ROWS; r++) {
            double *want = take(n * sizeof *want);
            for (uint32_t i = 0; i < n; i++)
                want[i] = x[(size_t)r * n + i];
            for (uint32_t i = 0; i < rows[r].p.edits_count; i++) {
                const struct logit_edit *e = &rows[r].edits[i];
                if (e->id < n)
                    want[e->id] = twin_edit(&rows[r].p, e, want[e->id]);
            }
            /* Five roundings of values up to 250 in f32, and a division of 2.5 ulp. */
            for (uint32_t i = 0; i < n; i++) {
                double have = got[(size_t)r * n + i];
                if (!(fabs(have - want[i]) < 1e-4) && !(isnan(have) && isnan(want[i]))) {
                    CHECK(!"edited logit");
                    fprintf(stderr, "    row %u id %u: %g, expected %g\n", r, i, have, want[i]);
                    break;
                }
            }
            free(want);
        }
        edit(b, &c, true, got);
        CHECK(memcmp(got, x, (size_t)n * ROWS * 4) == 0);
        free(x);
        free(got);
        free(rows);
    }
}

/* Values by hand: each part alone, and that penalties follow the bias. */
static void test_edit_values(struct bed *b)
{
    float x[6] = {2, -2, 3, 1, 4, 0}, got[6];
    struct row row = {.p = {.edits_count = 5,
                            .repetition_penalty = 2,
                            .frequency_penalty = 0.5f,
                            .presence_penalty = 0.25f},
                      .edits = {{.id = 0, .seen = EDIT_IN_PROMPT},
                                {.id = 1, .seen = EDIT_IN_PROMPT},
                                {.id = 2, .seen = 3},
                                {.id = 3, .bias = -100},
                                {.id = 4, .seen = 1 | EDIT_IN_PROMPT, .bias = -8}}};
    struct call c = put(b, x, &row, 1, 6);
    edit(b, &c, false, got);
    float want[6] = {1, -4, 1.5f - 1.5f - 0.25f, -99, -8 - 0.5f - 0.25f, 0};
    for (int i = 0; i < 6; i++)
        CHECK(got[i] == want[i]);
}

static void logprobs(struct bed *b, const float *x, struct row *rows, const uint32_t *tokens,
                     uint32_t count, uint32_t n, struct logprob_row *ret)
{
    struct call c = put(b, x, rows, count, n);
    struct tensor t = bed_tensor(b, tokens, count * 4),
                  out = bed_tensor(b, NULL, count * sizeof *ret);
    struct push_logprobs p = {.logits = c.logits.address,
                              .params = c.params.address,
                              .tokens = t.address,
                              .out = out.address,
                              .rows = count,
                              .n_vocab = n};
    bed_begin(b);
    kernel_logprobs(b->kernels, &p);
    bed_run(b);
    bed_check(b);
    bed_get(b, &out, ret);
}

static double twin_log_sum(const float *x, uint32_t n)
{
    double most = -INFINITY, sum = 0;
    for (uint32_t i = 0; i < n; i++)
        most = isnan(x[i]) ? most : fmax(most, (double)x[i]);
    for (uint32_t i = 0; i < n; i++)
        sum += isnan(x[i]) ? 0 : exp((double)x[i] - most);
    return most + log(sum);
}

/* The id that comes after `last`: by descending value, then ascending id. */
static uint32_t twin_next(const float *x, uint32_t n, uint32_t last)
{
    uint32_t best = UINT32_MAX;
    for (uint32_t i = 0; i < n; i++) {
        double v = isnan(x[i]) ? -INFINITY : (double)x[i];
        double l = last == UINT32_MAX ? INFINITY : isnan(x[last]) ? -INFINITY : (double)x[last];
        bool after = last == UINT32_MAX || v < l || (v == l && i > last);
        double have = best == UINT32_MAX ? -INFINITY : isnan(x[best]) ? -INFINITY : (double)x[best];
        if (after && (best == UINT32_MAX || v > have))
            best = i;
    }
    return best;
}

static void check_logprobs(const float *x, const struct row *row, uint32_t token, uint32_t n,
                           const struct logprob_row *got)
{
    double rest = twin_log_sum(x, n);
    /* exp, log and a sum of n values in f32, over distances up to 40. */
    CHECK(fabs((double)got->token - ((double)x[token] - rest)) < 2e-5);
    uint32_t last = UINT32_MAX;
    for (uint32_t i = 0; i + 1 < row->p.logprobs; i++) {
        uint32_t want = i < n ? twin_next(x, n, last) : UINT32_MAX;
        CHECK_INT(got->top_ids[i], want);
        if (want == UINT32_MAX || isnan(x[want]))
            CHECK(isinf(got->top[i]));
        else
            CHECK(fabs((double)got->top[i] - ((double)x[want] - rest)) < 2e-5);
        last = want;
    }
}

static void test_logprobs(struct bed *b)
{
    enum { ROWS = 6 };
    for (int round = 0; round < 12; round++) {
        uint32_t n = round == 0 ? 7 : 1 + (uint32_t)check_rng_below(&b->rng, 5000), tokens[ROWS];
        float *x = bed_floats(b, (size_t)n * ROWS, -20, 20);
        struct row *rows = take(ROWS * sizeof *rows);
        struct logprob_row got[ROWS], alone;
        for (uint32_t r = 0; r < ROWS; r++) {
            rows[r].p.logprobs = r == 3 ? 0 : 1 + (uint32_t)check_rng_below(&b->rng, 21);
            tokens[r] = (uint32_t)check_rng_below(&b->rng, n);
            for (uint32_t i = 0; i < n && round % 3 == 1; i++) /* ties */
                x[(size_t)r * n + i] = floorf(x[(size_t)r * n + i] / 8);
            for (uint32_t i = 0; i < n && round % 4 == 2; i += 3)
                if (i != tokens[r])
                    x[(size_t)r * n + i] = NAN;
        }
        logprobs(b, x, rows, tokens, ROWS, n, got);
        for (uint32_t r = 0; r < ROWS; r++) {
            if (rows[r].p.logprobs == 0) {
                CHECK(isnan(got[r].token)); /* the guard's bytes: not written */
                continue;
            }
            check_logprobs(x + (size_t)r * n, &rows[r], tokens[r], n, &got[r]);
            logprobs(b, x + (size_t)r * n, &rows[r], &tokens[r], 1, n, &alone);
            CHECK(memcmp(&alone, &got[r], sizeof alone) == 0);
        }
        free(x);
        free(rows);
    }
}

/* A real vocabulary's size: a large sum, and no invocation runs into a shader's loop limit. */
static void test_large(struct bed *b)
{
    enum { N = 151936 };
    float *x = bed_floats(b, N, -3, 3);
    struct row *row = take(sizeof *row);
    struct logprob_row got;
    uint32_t token = 77;
    row->p.logprobs = 4;
    for (uint32_t i = 0; i < 3; i++)
        x[i * 70000 + 5] = 9 + (float)i;
    logprobs(b, x, row, &token, 1, N, &got);
    check_logprobs(x, row, token, N, &got);
    free(x);
    free(row);
}

int main(void)
{
    struct bed b;
    bed_start(&b, UINT64_C(8) << 20, 11);
    test_edit_values(&b);
    test_edits(&b);
    test_logprobs(&b);
    test_large(&b);
    return bed_finish(&b);
}
