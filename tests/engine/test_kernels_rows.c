/* The kernels that read no quantized weights: rmsnorm, rope with its page writes, attention,
 * silu_mul. Each against a naive twin in double over random shapes. `--time` measures
 * instead. */
#include <time.h>

#include "base/size.h"
#include "tests/engine/kernel_bed.h"

static uint32_t below(struct bed *b, uint32_t n)
{
    return (uint32_t)check_rng_below(&b->rng, n);
}

static void *take(size_t bytes)
{
    void *p = calloc(1, bytes + 1);
    if (p == NULL)
        exit(1);
    return p;
}

/* The worst |got - want| / bound; a NaN counts as infinite. */
static double worse(double worst, double got, double want, double bound)
{
    double x = fabs(got - want) / bound;
    return x <= worst ? worst : isnan(x) ? INFINITY : x;
}

static void test_rmsnorm(struct bed *b)
{
    uint32_t cols = 1 + below(b, 900), rows = 1 + below(b, 9), src_rows = 12, idx[9];
    float eps = 1e-6f, *x = bed_floats(b, (size_t)src_rows * cols, -3, 3),
          *w = bed_floats(b, cols, -2, 2);
    bool gather = below(b, 2);
    for (uint32_t r = 0; r < rows; r++)
        idx[r] = below(b, src_rows);
    bed_clear(b);
    struct tensor x_t = bed_tensor(b, x, (uint64_t)src_rows * cols * 4),
                  w_t = bed_tensor(b, w, cols * 4);
    struct tensor idx_t = bed_tensor(b, idx, rows * 4),
                  out = bed_tensor(b, NULL, (uint64_t)rows * cols * 4);
    struct push_rmsnorm p = {.x = x_t.address,
                             .weight = w_t.address,
                             .idx = gather ? idx_t.address : 0,
                             .out = out.address,
                             .rows = rows,
                             .cols = cols,
                             .eps = eps};
    bed_begin(b);
    kernel_rmsnorm(b->kernels, &p);
    bed_run(b);
    bed_check(b);
    float *got = take(out.bytes);
    bed_get(b, &out, got);
    double worst = 0;
    for (uint32_t r = 0; r < rows; r++) {
        const float *src = x + (size_t)(gather ? idx[r] : r) * cols;
        double sum = 0;
        for (uint32_t i = 0; i < cols; i++)
            sum += (double)src[i] * src[i];
        for (uint32_t i = 0; i < cols; i++) {
            double want = src[i] * (double)w[i] / sqrt(sum / cols + (double)eps);
            /* A sum of at most 113 + 8 terms a lane and tree rounds by half of that, halved by the
             * root; then a square root and a division (Vulkan: 2.5 units each) and two products. */
            worst =
                worse(worst, got[(size_t)r * cols + i], want, ldexp(fabs(want), -24) * 80 + 1e-12);
        }
    }
    CHECK(worst <= 1);
    free(x);
    free(w);
    free(got);
}

static void test_silu_mul(struct bed *b)
{
    uint32_t cols = 1 + below(b, 300), rows = 1 + below(b, 5);
    float *x = bed_floats(b, (size_t)rows * 2 * cols, -20, 20);
    x[0] = -200; /* exp overflows: silu is 0 */
    x[cols - 1] = 200;
    bed_clear(b);
    struct tensor x_t = bed_tensor(b, x, (uint64_t)rows * 2 * cols * 4);
    struct tensor out = bed_tensor(b, NULL, (uint64_t)rows * cols * 4);
    struct push_silu_mul p = {
        .gate_up = x_t.address, .out = out.address, .rows = rows, .cols = cols};
    bed_begin(b);
    kernel_silu_mul(b->kernels, &p);
    bed_run(b);
    bed_check(b);
    float *got = take(out.bytes);
    bed_get(b, &out, got);
    double worst = 0;
    for (uint32_t r = 0; r < rows; r++)
        for (uint32_t j = 0; j < cols; j++) {
            double gate = x[(size_t)r * 2 * cols + j], up = x[(size_t)r * 2 * cols + cols + j];
            double want = gate / (1 + exp(-gate)) * up;
            /* exp may be off by 3 + 2 |x| units in Vulkan. */
            worst = worse(worst, got[(size_t)r * cols + j], want,
                          ldexp(fabs(want), -23) * (10 + 2 * fabs(gate)) + 1e-30);
        }
    CHECK(worst <= 1);
    free(x);
    free(got);
}

/* ---- rope and attention share a cache ---- */

enum { SEQS = 3 };

struct cache {
    uint32_t n_head, n_head_kv, head_size, page_bytes, pages_count, pages_stride;
    uint32_t *pages; /* [SEQS][pages_stride] */
    uint16_t *kv;
    struct tensor pages_t, kv_t;
};

/* Pages of random order; every value NaN. */
static void make_cache(struct bed *b, uint32_t n_head, uint32_t n_head_kv, uint32_t head_size,
                       uint32_t stride, struct cache *c)
{
    *c = (struct cache){n_head, n_head_kv, head_size, .pages_stride = stride,
                        .pages_count = SEQS * stride};
    c->page_bytes = 2 * n_head_kv * PAGE_TOKENS * head_size * 2;
    c->pages = take(c->pages_count * sizeof *c->pages);
    c->kv = take((size_t)c->pages_count * c->page_bytes);
    memset(c->kv, 0xff, (size_t)c->pages_count * c->page_bytes);
    for (uint32_t i = 0; i < c->pages_count; i++)
        c->pages[i] = i;
    for (uint32_t i = c->pages_count; i > 1; i--) {
        uint32_t j = below(b, i), other = c->pages[j];
        c->pages[j] = c->pages[i - 1];
        c->pages[i - 1] = other;
    }
    c->pages_t = bed_tensor(b, c->pages, c->pages_count * 4);
    c->kv_t = bed_tensor(b, c->kv, (uint64_t)c->pages_count * c->page_bytes);
}

static uint16_t *cell(const struct cache *c, uint32_t seq, uint32_t pos, uint32_t kv_head,
                      bool is_v, uint32_t d)
{
    size_t page = c->pages[seq * c->pages_stride + pos / PAGE_TOKENS];
    size_t half = (size_t)c->n_head_kv * PAGE_TOKENS * c->head_size;
    return c->kv + page * (c->page_bytes / 2) + (is_v ? half : 0) +
           ((size_t)kv_head * PAGE_TOKENS + pos % PAGE_TOKENS) * c->head_size + d;
}

static void free_cache(struct cache *c)
{
    free(c->pages);
    free(c->kv);
}

static double turned(const float *x, const float *angles, uint32_t dims, uint32_t d)
{
    uint32_t half = dims / 2, i = d % half;
    if (d >= dims)
        return x[d];
    double cosine = angles[2 * i], sine = angles[2 * i + 1];
    return d < half ? x[d] * cosine - x[d + half] * sine : x[d] * cosine + x[d - half] * sine;
}

static void check_rope_row(const struct cache *c, const float *row, const float *got,
                           const float *angles, uint32_t seq, uint32_t pos, uint32_t dims,
                           double *worst)
{
    for (uint32_t h = 0; h < c->n_head + 2 * c->n_head_kv; h++)
        for (uint32_t d = 0; d < c->head_size; d++) {
            const float *x = row + (size_t)h * c->head_size;
            float same = got[(size_t)h * c->head_size + d];
            if (h < c->n_head) { /* two products, one sum: 2 units of terms up to 4 */
                *worst = worse(*worst, same, turned(x, angles, dims, d), ldexp(8, -24));
                continue;
            }
            CHECK(memcmp(&same, &x[d], 4) == 0); /* k and v stay in qkv */
            uint32_t kv_head = (h - c->n_head) % c->n_head_kv;
            bool is_v = h >= c->n_head + c->n_head_kv;
            double want = is_v ? x[d] : turned(x, angles, dims, d);
            double have = half_value(*cell(c, seq, pos, kv_head, is_v, d));
            /* Rounded to f16 (nearest or not: one unit). */
            *worst = worse(*worst, have, want, ldexp(fabs(want), -10) + ldexp(1, -23));
        }
}

static void test_rope(struct bed *b, uint32_t n_head, uint32_t n_head_kv, uint32_t head_size,
                      uint32_t dims)
{
    enum { CONTEXT = 100, ROWS = 7 };
    struct cache c;
    bed_clear(b);
    make_cache(b, n_head, n_head_kv, head_size, 4, &c);
    uint32_t stride = (n_head + 2 * n_head_kv) * head_size, seq[ROWS], pos[ROWS];
    float *qkv = bed_floats(b, (size_t)ROWS * stride, -4, 4),
          *angles = take((size_t)CONTEXT * dims * 4);
    for (uint32_t i = 0; i < CONTEXT * dims / 2; i++) {
        double angle = (double)check_rng_float(&b->rng, -3, 3);
        angles[2 * i] = (float)cos(angle);
        angles[2 * i + 1] = (float)sin(angle);
    }
    for (uint32_t r = 0; r < ROWS; r++) {
        seq[r] = r % SEQS;
        pos[r] = r * 13 + below(b, 12); /* all different */
    }
    struct tensor qkv_t = bed_tensor(b, qkv, (uint64_t)ROWS * stride * 4);
    struct tensor angles_t = bed_tensor(b, angles, (uint64_t)CONTEXT * dims * 4);
    struct tensor seq_t = bed_tensor(b, seq, sizeof seq), pos_t = bed_tensor(b, pos, sizeof pos);
    struct push_rope p = {.qkv = qkv_t.address,
                          .angles = angles_t.address,
                          .pos = pos_t.address,
                          .seq = seq_t.address,
                          .pages = c.pages_t.address,
                          .kv = c.kv_t.address,
                          .rows = ROWS,
                          .n_head = n_head,
                          .n_head_kv = n_head_kv,
                          .head_size = head_size,
                          .rope_dims = dims,
                          .pages_stride = c.pages_stride,
                          .page_bytes = c.page_bytes};
    bed_begin(b);
    kernel_rope(b->kernels, &p);
    bed_run(b);
    bed_check(b);
    float *got = take(qkv_t.bytes);
    bed_get(b, &qkv_t, got);
    bed_get(b, &c.kv_t, c.kv);
    double worst = 0;
    size_t written = 0;
    for (uint32_t r = 0; r < ROWS; r++)
        check_rope_row(&c, qkv + (size_t)r * stride, got + (size_t)r * stride,
                       angles + (size_t)pos[r] * dims, seq[r], pos[r], dims, &worst);
    CHECK(worst <= 1);
    for (size_t i = 0; i < c.kv_t.bytes / 2; i++)
        written += c.kv[i] != 0xffff;
    CHECK_INT(written, (size_t)ROWS * 2 * n_head_kv * head_size);
    free(qkv);
    free(angles);
    free(got);
    free_cache(&c);
}

struct attention_case {
    struct cache cache;
    uint32_t rows, stride;
    uint32_t *seq, *pos;
    float *qkv;
    struct tensor qkv_t, seq_t, pos_t;
};

static uint16_t random_half(struct bed *b)
{
    return (uint16_t)(below(b, 2) << 15 | (8 + below(b, 8)) << 10 | below(b, 1024)); /* 2^-7 .. 2 */
}

/* Every sequence has `length` tokens; the rest of its pages stays NaN. */
static void make_attention(struct bed *b, uint32_t n_head, uint32_t n_head_kv, uint32_t head_size,
                           uint32_t length, uint32_t rows, struct attention_case *c)
{
    *c = (struct attention_case){.rows = rows, .stride = (n_head + 2 * n_head_kv) * head_size};
    bed_clear(b);
    make_cache(b, n_head, n_head_kv, head_size, (length + PAGE_TOKENS - 1) / PAGE_TOKENS,
               &c->cache);
    for (uint32_t s = 0; s < SEQS; s++)
        for (uint32_t t = 0; t < length; t++)
            for (uint32_t h = 0; h < n_head_kv; h++)
                for (uint32_t d = 0; d < head_size; d++) {
                    *cell(&c->cache, s, t, h, false, d) = random_half(b);
                    *cell(&c->cache, s, t, h, true, d) = random_half(b);
                }
    bed_put(b, c->cache.kv_t.offset, c->cache.kv, c->cache.kv_t.bytes);
    c->seq = take(rows * 4);
    c->pos = take(rows * 4);
    for (uint32_t r = 0; r < rows; r++) {
        c->seq[r] = r % SEQS;
        c->pos[r] = r == 0 ? length - 1 : below(b, length);
    }
    c->qkv = bed_floats(b, (size_t)rows * c->stride, -2, 2);
    c->qkv_t = bed_tensor(b, c->qkv, (uint64_t)rows * c->stride * 4);
    c->seq_t = bed_tensor(b, c->seq, rows * 4);
    c->pos_t = bed_tensor(b, c->pos, rows * 4);
}

static void free_attention(struct attention_case *c)
{
    free(c->seq);
    free(c->pos);
    free(c->qkv);
    free_cache(&c->cache);
}

static struct push_attention attention_push(const struct attention_case *c, uint32_t first,
                                            uint32_t count, uint64_t out)
{
    return (struct push_attention){.qkv = c->qkv_t.address + (uint64_t)first * c->stride * 4,
                                   .pos = c->pos_t.address + first * 4,
                                   .seq = c->seq_t.address + first * 4,
                                   .pages = c->cache.pages_t.address,
                                   .kv = c->cache.kv_t.address,
                                   .out = out,
                                   .rows = count,
                                   .n_head = c->cache.n_head,
                                   .n_head_kv = c->cache.n_head_kv,
                                   .head_size = c->cache.head_size,
                                   .qkv_stride = c->stride,
                                   .pages_stride = c->cache.pages_stride,
                                   .page_bytes = c->cache.page_bytes,
                                   .scale = 1 / sqrtf((float)c->cache.head_size)};
}

static float *run_attention(struct bed *b, const struct attention_case *c, uint32_t first,
                            uint32_t count)
{
    size_t mark_count = b->count;
    uint64_t mark_used = b->used;
    struct tensor out =
        bed_tensor(b, NULL, (uint64_t)count * c->cache.n_head * c->cache.head_size * 4);
    struct push_attention p = attention_push(c, first, count, out.address);
    bed_begin(b);
    kernel_attention(b->kernels, &p);
    bed_run(b);
    bed_check(b);
    float *got = take(out.bytes);
    bed_get(b, &out, got);
    b->count = mark_count;
    b->used = mark_used;
    return got;
}

/* Weights are a convex combination: an error of the scores of e shifts the result by at most about
 * 2 e times the largest value (below 4). Scores: 2 * head_size roundings of terms up to 8, times
 * the scale; exp: 3 + 2 |x| units. */
static void compare_attention(const struct attention_case *c, const float *got)
{
    uint32_t head = c->cache.head_size, group = c->cache.n_head / c->cache.n_head_kv;
    double scale = 1 / sqrt(head), worst = 0;
    double bound = 2 * 4 * ldexp(2 * head * scale * 8 + 100, -24) + 1e-5;
    double *weight = take((size_t)c->cache.pages_stride * PAGE_TOKENS * sizeof *weight);
    for (uint32_t r = 0; r < c->rows; r++)
        for (uint32_t h = 0; h < c->cache.n_head; h++) {
            const float *q = c->qkv + (size_t)r * c->stride + (size_t)h * head;
            double most = -INFINITY, sum = 0;
            for (uint32_t t = 0; t <= c->pos[r]; t++) {
                weight[t] = 0;
                for (uint32_t d = 0; d < head; d++)
                    weight[t] += (double)q[d] *
                                 half_value(*cell(&c->cache, c->seq[r], t, h / group, false, d));
                weight[t] *= scale;
                most = fmax(most, weight[t]);
            }
            for (uint32_t t = 0; t <= c->pos[r]; t++)
                sum += weight[t] = exp(weight[t] - most);
            for (uint32_t d = 0; d < head; d++) {
                double want = 0;
                for (uint32_t t = 0; t <= c->pos[r]; t++)
                    want += weight[t] / sum *
                            half_value(*cell(&c->cache, c->seq[r], t, h / group, true, d));
                worst =
                    worse(worst, got[((size_t)r * c->cache.n_head + h) * head + d], want, bound);
            }
        }
    if (!CHECK(worst <= 1))
        fprintf(stderr, "    %u heads, %u of keys, size %u: %g of the bound\n", c->cache.n_head,
                c->cache.n_head_kv, head, worst);
    free(weight);
}

static void test_attention(struct bed *b, uint32_t n_head, uint32_t n_head_kv, uint32_t head_size,
                           uint32_t length)
{
    struct attention_case c;
    make_attention(b, n_head, n_head_kv, head_size, length, 1 + below(b, 9), &c);
    size_t row = (size_t)n_head * head_size;
    float *all = run_attention(b, &c, 0, c.rows);
    compare_attention(&c, all);
    /* A row as prefill computes it (beside others) and as decode does (alone). */
    for (uint32_t r = 0; r < c.rows; r++) {
        float *alone = run_attention(b, &c, r, 1);
        CHECK(memcmp(alone, all + r * row, row * 4) == 0);
        free(alone);
    }
    free(all);
    free_attention(&c);
}

static void test_attentions(struct bed *b)
{
    test_attention(b, 4, 2, 64, 1);
    test_attention(b, 4, 2, 64, 33);
    test_attention(b, 3, 1, 64, 100);
    test_attention(b, 2, 2, 6, 70);
    test_attention(b, 6, 3, 20, 64);
    test_attention(b, 1, 1, 2, 40);
    test_attention(b, 4, 2, 128, 90);
    test_attention(b, 2, 1, 256, 50);
    test_attention(b, 2, 2, 80, 31);
}

/* Far positions: many blocks, and a shader's loop limits (lavapipe cuts a loop after some tens of
 * thousands). */
static void test_long_attention(struct bed *b)
{
    struct attention_case c;
    make_attention(b, 2, 1, 16, 40000, 1, &c);
    float *got = run_attention(b, &c, 0, 1);
    compare_attention(&c, got);
    free(got);
    free_attention(&c);
}

static void test_no_rows(struct bed *b)
{
    struct push_attention a = {.n_head = 2, .n_head_kv = 1, .head_size = 4};
    struct push_rope r = {.n_head = 2, .n_head_kv = 1, .head_size = 4, .rope_dims = 4};
    struct push_rmsnorm n = {.cols = 3};
    struct push_silu_mul s = {.cols = 3};
    bed_begin(b);
    kernel_attention(b->kernels, &a);
    kernel_rope(b->kernels, &r);
    kernel_rmsnorm(b->kernels, &n);
    kernel_silu_mul(b->kernels, &s);
    bed_run(b);
}

static void time_attention(struct bed *b, uint32_t rows, uint32_t length)
{
    enum { REPEAT = 8 };
    struct attention_case c;
    make_attention(b, 4, 2, 64, length, rows, &c);
    struct tensor out = bed_tensor(b, NULL, (uint64_t)rows * 4 * 64 * 4);
    struct push_attention p = attention_push(&c, 0, rows, out.address);
    double best = INFINITY, cpu = INFINITY, keys = 0;
    for (uint32_t r = 0; r < rows; r++)
        keys += c.pos[r] + 1;
    for (int i = 0; i < 4; i++) {
        bed_begin(b);
        for (int j = 0; j < REPEAT; j++) {
            kernel_attention(b->kernels, &p);
            gpu_barrier(b->gpu);
        }
        clock_t begin_cpu = clock();
        uint64_t begin = clock_mono_ns();
        bed_run(b);
        best = fmin(best, (double)(clock_mono_ns() - begin) / 1e3 / REPEAT);
        cpu = fmin(cpu, (double)(clock() - begin_cpu) / (CLOCKS_PER_SEC / 1e6) / REPEAT);
    }
    printf("attention 4/2 heads of 64, %u rows, up to %u keys: %.0f us, %.0f us of cpu, %.3f us a "
           "key\n",
           rows, length, best, cpu, cpu / keys);
    free_attention(&c);
}

int main(int argc, char **argv)
{
    struct bed b;
    bed_start(&b, UINT64_C(64) << 20, 2);
    if (argc > 1 && strcmp(argv[1], "--time") == 0) {
        time_attention(&b, 1, 200);
        time_attention(&b, 32, 200);
        time_attention(&b, 256, 256);
        return bed_finish(&b);
    }
    for (int i = 0; i < 10; i++) {
        test_rmsnorm(&b);
        test_silu_mul(&b);
    }
    test_rope(&b, 4, 2, 64, 64);
    test_rope(&b, 3, 1, 10, 6);
    test_rope(&b, 2, 2, 6, 6);
    test_no_rows(&b);
    test_attentions(&b);
    test_long_attention(&b);
    kernels_force_common_attention(b.kernels);
    test_attentions(&b);
    test_long_attention(&b);
    return bed_finish(&b);
}
