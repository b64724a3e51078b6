/* The kernels of a mixture of experts: route, expert_tiles, expert_matmul, combine. Against naive
 * twins, and expert_matmul bit by bit against matmul of the same row with the expert's weights. */
#include "base/size.h"
#include "tests/engine/rows_bed.h"
#include "tests/quant/quantize.h"

/* ---- route ---- */

/* True if expert a comes before b in a row of logits. */
static bool before(const float *logits, uint32_t a, uint32_t b)
{
    return logits[a] > logits[b] || (logits[a] == logits[b] && a < b);
}

static void check_routed(const float *logits, uint32_t n_expert, uint32_t used, const uint32_t *ids,
                         const float *weights)
{
    double sum = 0, got_sum = 0, worst = 0;
    for (uint32_t s = 0; s < used; s++) {
        if (!CHECK(ids[s] < n_expert))
            return;
        uint32_t rank = 0; /* how many come before it */
        for (uint32_t e = 0; e < n_expert; e++)
            rank += before(logits, e, ids[s]);
        CHECK_INT(rank, s);
        sum += exp((double)logits[ids[s]] - (double)logits[ids[0]]);
        got_sum += (double)weights[s];
    }
    for (uint32_t s = 0; s < used; s++) {
        double distance = (double)logits[ids[s]] - (double)logits[ids[0]];
        double want = exp(distance) / sum;
        /* exp: 3 + 2 |x| units; the sum's terms, the quotient. */
        worst = worse(worst, weights[s], want,
                      ldexp(want, -24) * 2 * (3 - 2 * distance + used + 4) + 1e-30);
    }
    CHECK(worst <= 1);
    CHECK(fabs(got_sum - 1) <= ldexp(used + 4, -23));
}

static void test_route(struct bed *b, uint32_t n_expert, uint32_t used, bool ties)
{
    uint32_t rows = 1 + below(b, 40), pairs = rows * used;
    float *logits = bed_floats(b, (size_t)rows * n_expert, -6, 6);
    for (size_t i = 0; i < (size_t)rows * n_expert && ties; i++)
        logits[i] = (float)below(b, 3); /* many equal ones */
    bed_clear(b);
    struct tensor logits_t = bed_tensor(b, logits, (uint64_t)rows * n_expert * 4);
    struct tensor ids_t = bed_tensor(b, NULL, pairs * 4), w_t = bed_tensor(b, NULL, pairs * 4);
    struct push_route p = {.logits = logits_t.address,
                           .ids = ids_t.address,
                           .weights = w_t.address,
                           .rows = rows,
                           .n_expert = n_expert,
                           .used = used};
    bed_begin(b);
    kernel_route(b->kernels, &p);
    bed_run(b);
    bed_check(b);
    uint32_t *ids = take(pairs * 4);
    float *weights = take(pairs * 4);
    bed_get(b, &ids_t, ids);
    bed_get(b, &w_t, weights);
    for (uint32_t r = 0; r < rows; r++)
        check_routed(logits + (size_t)r * n_expert, n_expert, used, ids + r * used,
                     weights + r * used);
    free(logits);
    free(ids);
    free(weights);
}

/* A row of NaN: no expert is right, but none beyond the last is taken, and its neighbours are well.
 */
static void test_route_nan(struct bed *b)
{
    enum { ROWS = 3, EXPERTS = 8, USED = 3 };
    float logits[ROWS][EXPERTS], weights[ROWS][USED];
    uint32_t ids[ROWS][USED];
    for (uint32_t r = 0; r < ROWS; r++)
        for (uint32_t e = 0; e < EXPERTS; e++)
            logits[r][e] = r == 1 ? NAN : check_rng_float(&b->rng, -3, 3);
    bed_clear(b);
    struct tensor logits_t = bed_tensor(b, logits, sizeof logits);
    struct tensor ids_t = bed_tensor(b, NULL, sizeof ids),
                  w_t = bed_tensor(b, NULL, sizeof weights);
    struct push_route p = {.logits = logits_t.address,
                           .ids = ids_t.address,
                           .weights = w_t.address,
                           .rows = ROWS,
                           .n_expert = EXPERTS,
                           .used = USED};
    bed_begin(b);
    kernel_route(b->kernels, &p);
    bed_run(b);
    bed_check(b);
    bed_get(b, &ids_t, ids);
    bed_get(b, &w_t, weights);
    check_routed(logits[0], EXPERTS, USED, ids[0], weights[0]);
    check_routed(logits[2], EXPERTS, USED, ids[2], weights[2]);
    for (uint32_t s = 0; s < USED; s++)
        CHECK(ids[1][s] < EXPERTS);
}

/* ---- who goes where ---- */

enum spread { RANDOM, ONE_HAS_ALL, FEW_HAVE_ALL, EVEN, SPREADS };

static void assign(struct bed *b, enum spread spread, uint32_t n_expert, uint32_t pairs,
                   uint32_t *ids)
{
    uint32_t one = below(b, n_expert), other = below(b, n_expert);
    for (uint32_t i = 0; i < pairs; i++)
        ids[i] = spread == RANDOM         ? below(b, n_expert)
                 : spread == ONE_HAS_ALL  ? one
                 : spread == FEW_HAVE_ALL ? (below(b, 3) == 0 ? one : other)
                                          : i % n_expert;
}

static void record_tiles(struct bed *b, const struct tensor *ids, const struct tensor *list,
                         const struct tensor *tiles, uint32_t n_expert)
{
    struct push_expert_tiles p = {.ids = ids->address,
                                  .list = list->address,
                                  .tiles = tiles->address,
                                  .pairs = (uint32_t)(ids->bytes / 4),
                                  .n_expert = n_expert,
                                  .tiles_count = (uint32_t)(tiles->bytes / 16)};
    kernel_expert_tiles(b->kernels, &p);
}

/* The pairs sorted by expert, a tile's all of one expert, in order, no tile larger than it may be.
 */
static void test_tiles(struct bed *b, enum spread spread, uint32_t n_expert, uint32_t pairs,
                       uint32_t spare)
{
    uint32_t count = kernel_expert_tiles_count(pairs, n_expert) + spare, next = 0, wrong = 0;
    uint32_t *ids = take(pairs * 4), *list = take(pairs * 4), (*tiles)[4] = take(count * 16);
    assign(b, spread, n_expert, pairs, ids);
    bed_clear(b);
    struct tensor ids_t = bed_tensor(b, ids, pairs * 4), list_t = bed_tensor(b, NULL, pairs * 4);
    struct tensor tiles_t = bed_tensor(b, NULL, (uint64_t)count * 16);
    bed_begin(b);
    record_tiles(b, &ids_t, &list_t, &tiles_t, n_expert);
    bed_run(b);
    bed_check(b);
    bed_get(b, &list_t, list);
    bed_get(b, &tiles_t, tiles);
    for (uint32_t e = 0; e < n_expert; e++)
        for (uint32_t i = 0; i < pairs; i++)
            if (ids[i] == e)
                wrong += list[next++] != i;
    CHECK_INT(wrong, 0);
    next = 0;
    for (uint32_t t = 0; t < count; t++) {
        uint32_t expert = tiles[t][0], first = tiles[t][1], end = tiles[t][2];
        if (first >= end)
            continue;
        wrong += expert >= n_expert || first != next || end > pairs || end - first > EXPERT_TILE;
        for (uint32_t i = first; i < end && wrong == 0; i++)
            wrong += ids[list[i]] != expert;
        next = end;
    }
    CHECK_INT(wrong, 0);
    CHECK_INT(next, pairs); /* all of them */
    free(ids);
    free(list);
    free(tiles);
}

/* ---- expert_matmul ---- */

struct experts_case {
    enum tensor_type type;
    uint32_t n_expert, n, k, pairs, a_share, stride;
    uint64_t row_bytes, expert_bytes; /* in the file; of one expert on the device, padded */
    uint8_t *file;
    float *a;
    uint32_t *ids;
    struct tensor w_t, single_t, a_t, ids_t, list_t, tiles_t;
};

static void make_experts(struct bed *b, struct experts_case *c)
{
    struct err_msg why = {""};
    uint64_t rows = (uint64_t)c->n_expert * c->n, bytes = kernel_weight_bytes(c->type, rows, c->k);
    uint64_t one = kernel_weight_bytes(c->type, c->n, c->k);
    c->row_bytes = quant_row_bytes(c->type, c->k);
    c->expert_bytes = div_up(one, 256) * 256;
    c->file = take(rows * c->row_bytes);
    uint8_t *packed = take(bytes), *single = take(c->n_expert * c->expert_bytes);
    for (uint64_t r = 0; r < rows; r++) {
        float *row = bed_floats(b, c->k, -1, 1);
        quant_encode(c->type, row, c->k, c->file + r * c->row_bytes);
        free(row);
    }
    CHECK_OK(kernel_weight_repack(c->type, rows, c->k, c->file, packed, &why), why);
    for (uint32_t e = 0; e < c->n_expert; e++)
        CHECK_OK(kernel_weight_repack(c->type, c->n, c->k, c->file + e * c->n * c->row_bytes,
                                      single + e * c->expert_bytes, &why),
                 why);
    uint32_t tiles = kernel_expert_tiles_count(c->pairs, c->n_expert);
    bed_clear(b);
    c->w_t = bed_tensor(b, packed, bytes);
    c->single_t = bed_tensor(b, single, c->n_expert * c->expert_bytes);
    size_t a_rows = div_up(c->pairs, c->a_share);
    c->a = bed_floats(b, a_rows * c->k, -1, 1);
    c->a_t = bed_tensor(b, c->a, a_rows * c->k * 4);
    c->ids_t = bed_tensor(b, c->ids, c->pairs * 4);
    c->list_t = bed_tensor(b, NULL, c->pairs * 4);
    c->tiles_t = bed_tensor(b, NULL, (uint64_t)tiles * 16);
    free(packed);
    free(single);
}

static float *run_experts(struct bed *b, const struct experts_case *c)
{
    struct tensor out = bed_tensor(b, NULL, (uint64_t)c->pairs * c->stride * 4);
    struct push_matmul p = {.a = c->a_t.address,
                            .w = c->w_t.address,
                            .out = out.address,
                            .tiles = c->tiles_t.address,
                            .pairs = c->list_t.address,
                            .n = c->n,
                            .k = c->k,
                            .out_stride = c->stride,
                            .a_share = c->a_share};
    bed_begin(b);
    record_tiles(b, &c->ids_t, &c->list_t, &c->tiles_t, c->n_expert);
    gpu_barrier(b->gpu);
    kernel_expert_matmul(b->kernels, &p, c->type, (uint32_t)(c->tiles_t.bytes / 16));
    bed_run(b);
    bed_check(b);
    float *got = take(out.bytes);
    bed_get(b, &out, got);
    return got;
}

/* The same, a pair at a time, with kernel_matmul and an expert's weights by themselves. */
static float *run_singly(struct bed *b, const struct experts_case *c)
{
    struct tensor out = bed_tensor(b, NULL, (uint64_t)c->pairs * c->stride * 4);
    bed_begin(b);
    for (uint32_t q = 0; q < c->pairs; q++) {
        struct push_matmul p = {.a = c->a_t.address + (uint64_t)(q / c->a_share) * c->k * 4,
                                .w = c->single_t.address + c->ids[q] * c->expert_bytes,
                                .out = out.address + (uint64_t)q * c->stride * 4,
                                .rows = 1,
                                .n = c->n,
                                .k = c->k,
                                .out_stride = c->stride};
        kernel_matmul(b->kernels, &p, c->type);
    }
    bed_run(b);
    float *got = take(out.bytes);
    bed_get(b, &out, got);
    return got;
}

/* The bound is kernel_matmul's (test_kernels_matmul.c). */
static void compare_experts(const struct experts_case *c, const float *got)
{
    double worst = 0, *row = take(c->k * sizeof *row);
    bool gaps = true;
    for (uint32_t q = 0; q < c->pairs; q++)
        for (uint32_t j = 0; j < c->stride; j++) {
            const float *value = &got[(size_t)q * c->stride + j];
            if (j >= c->n) {
                uint32_t bits;
                memcpy(&bits, value, 4);
                gaps = gaps && bits == UINT32_MAX;
                continue;
            }
            double sum = 0, size = 0;
            quant_decode(c->type, c->file + ((uint64_t)c->ids[q] * c->n + j) * c->row_bytes, c->k,
                         row);
            for (uint32_t i = 0; i < c->k; i++) {
                double term = row[i] * (double)c->a[(size_t)(q / c->a_share) * c->k + i];
                sum += term;
                size += fabs(term);
            }
            worst = worse(worst, *value, sum, (c->k + 8) * ldexp(size, -24) * 2 + 1e-30);
        }
    CHECK(gaps && "values between rows untouched");
    if (!CHECK(worst <= 1))
        fprintf(stderr, "    type %u: %g of the bound\n", (unsigned)c->type, worst);
    free(row);
}

static void test_experts(struct bed *b, enum tensor_type type, enum spread spread, bool shared)
{
    uint32_t block = tensor_type_find(type)->block_values, step = block < 4 ? 4 : block;
    struct experts_case c = {.type = type, .n_expert = 1 + below(b, 9), .n = 1 + below(b, 70)};
    c.k = step * (1 + below(b, step == 256 ? 2 : step == 32 ? 10 : 90));
    c.a_share = shared ? 1 + below(b, 3) : 1;
    c.pairs = (1 + below(b, 9)) * c.a_share;
    c.stride = c.n + below(b, 9);
    c.ids = take(c.pairs * 4);
    assign(b, spread, c.n_expert, c.pairs, c.ids);
    make_experts(b, &c);
    float *got = run_experts(b, &c), *singly = run_singly(b, &c);
    compare_experts(&c, got);
    if (!CHECK(memcmp(got, singly, (size_t)c.pairs * c.stride * 4) == 0))
        fprintf(stderr, "    type %u, %u experts, %u pairs, %u x %u: other bits than matmul\n",
                (unsigned)type, c.n_expert, c.pairs, c.n, c.k);
    free(c.file);
    free(c.a);
    free(c.ids);
    free(got);
    free(singly);
}

/* ---- combine ---- */

static void test_combine(struct bed *b)
{
    uint32_t rows = 1 + below(b, 6), cols = 1 + below(b, 200), used = 1 + below(b, 9);
    size_t pairs = (size_t)rows * used;
    float *y = bed_floats(b, pairs * cols, -3, 3), *w = bed_floats(b, pairs, 0, 1),
          *x = bed_floats(b, (size_t)rows * cols, -9, 9);
    bed_clear(b);
    struct tensor y_t = bed_tensor(b, y, pairs * cols * 4), w_t = bed_tensor(b, w, pairs * 4),
                  x_t = bed_tensor(b, x, (uint64_t)rows * cols * 4);
    struct push_combine p = {.y = y_t.address,
                             .weights = w_t.address,
                             .out = x_t.address,
                             .rows = rows,
                             .cols = cols,
                             .used = used};
    bed_begin(b);
    kernel_combine(b->kernels, &p);
    bed_run(b);
    bed_check(b);
    float *got = take(x_t.bytes);
    bed_get(b, &x_t, got);
    double worst = 0;
    for (uint32_t r = 0; r < rows; r++)
        for (uint32_t j = 0; j < cols; j++) {
            double want = x[(size_t)r * cols + j], size = fabs(want);
            for (uint32_t s = 0; s < used; s++) {
                double term = (double)w[r * used + s] * y[((size_t)r * used + s) * cols + j];
                want += term;
                size += fabs(term);
            }
            worst = worse(worst, got[(size_t)r * cols + j], want, ldexp(size, -24) * (used + 2));
        }
    CHECK(worst <= 1);
    free(y);
    free(w);
    free(x);
    free(got);
}

int main(void)
{
    static const enum tensor_type types[] = {TENSOR_F32, TENSOR_F16, TENSOR_Q8_0, TENSOR_Q4_K,
                                             TENSOR_Q6_K};
    struct bed b;
    uint64_t bits = 0;
    for (size_t t = 0; t < ARRAY_LEN(types); t++)
        bits |= UINT64_C(1) << types[t];
    bed_start_types(&b, UINT64_C(16) << 20, 22, bits);
    for (unsigned ties = 0; ties < 2; ties++) {
        test_route(&b, 1, 1, ties);
        test_route(&b, 8, 2, ties);
        test_route(&b, 60, 60, ties);
        test_route(&b, 128, 8, ties);
        test_route(&b, 1 + below(&b, 300), 1, ties);
    }
    test_route_nan(&b);
    for (unsigned s = 0; s < SPREADS; s++) {
        test_tiles(&b, s, 1, 1 + below(&b, 20), 0);
        test_tiles(&b, s, 8, 1 + below(&b, 100), below(&b, 5));
        test_tiles(&b, s, 128, 1 + below(&b, 300), 0);
        test_tiles(&b, s, MAX_EXPERTS, 40, 3);
        for (size_t t = 0; t < ARRAY_LEN(types); t++) {
            test_experts(&b, types[t], s, false);
            test_experts(&b, types[t], s, true);
        }
    }
    for (unsigned i = 0; i < 8; i++)
        test_combine(&b);
    return bed_finish(&b);
}
