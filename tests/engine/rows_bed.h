/* What the tests of the row kernels share: numbers at random, a cache of KV pages, and rope's and
 * attention's naive twins in double over it. Included by one program each; on top of kernel_bed.h.
 */
#ifndef OCTO_TESTS_ROWS_BED_H
#define OCTO_TESTS_ROWS_BED_H

#include "tests/engine/kernel_bed.h"

static inline uint32_t below(struct bed *b, uint32_t n)
{
    return (uint32_t)check_rng_below(&b->rng, n);
}

static inline void *take(size_t bytes)
{
    void *p = calloc(1, bytes + 1);
    if (p == NULL)
        exit(1);
    return p;
}

/* The worst |got - want| / bound; a NaN counts as infinite. */
static inline double worse(double worst, double got, double want, double bound)
{
    double x = fabs(got - want) / bound;
    return x <= worst ? worst : isnan(x) ? INFINITY : x;
}

enum { SEQS = 3 };

struct cache {
    uint32_t n_head, n_head_kv, head_size, page_bytes, pages_count, pages_stride;
    uint32_t *pages; /* [SEQS][pages_stride] */
    uint16_t *kv;
    struct tensor pages_t, kv_t;
};

/* Pages of random order; every value NaN. */
static inline void make_cache(struct bed *b, uint32_t n_head, uint32_t n_head_kv,
                              uint32_t head_size, uint32_t stride, struct cache *c)
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

static inline uint16_t *cell(const struct cache *c, uint32_t seq, uint32_t pos, uint32_t kv_head,
                             bool is_v, uint32_t d)
{
    size_t page = c->pages[seq * c->pages_stride + pos / PAGE_TOKENS];
    size_t half = (size_t)c->n_head_kv * PAGE_TOKENS * c->head_size;
    return c->kv + page * (c->page_bytes / 2) + (is_v ? half : 0) +
           ((size_t)kv_head * PAGE_TOKENS + pos % PAGE_TOKENS) * c->head_size + d;
}

static inline void free_cache(struct cache *c)
{
    free(c->pages);
    free(c->kv);
}

static inline double turned(const float *x, const float *angles, uint32_t dims, bool adjacent,
                            uint32_t d)
{
    uint32_t half = dims / 2, i = adjacent ? d / 2 : d % half;
    if (d >= dims)
        return x[d];
    double cosine = angles[2 * i], sine = angles[2 * i + 1];
    uint32_t away = adjacent ? 1 : half;
    bool first = adjacent ? d % 2 == 0 : d < half; /* of its pair */
    return first ? x[d] * cosine - x[d + away] * sine : x[d] * cosine + x[d - away] * sine;
}

static inline void check_rope_row(const struct cache *c, const float *row, const float *got,
                                  const float *angles, uint32_t seq, uint32_t pos, uint32_t dims,
                                  bool adjacent, double *worst)
{
    for (uint32_t h = 0; h < c->n_head + 2 * c->n_head_kv; h++)
        for (uint32_t d = 0; d < c->head_size; d++) {
            const float *x = row + (size_t)h * c->head_size;
            float same = got[(size_t)h * c->head_size + d];
            if (h < c->n_head) { /* two products, one sum: 2 units of terms up to 4 */
                *worst = worse(*worst, same, turned(x, angles, dims, adjacent, d), ldexp(8, -24));
                continue;
            }
            CHECK(memcmp(&same, &x[d], 4) == 0); /* k and v stay in qkv */
            uint32_t kv_head = (h - c->n_head) % c->n_head_kv;
            bool is_v = h >= c->n_head + c->n_head_kv;
            double want = is_v ? x[d] : turned(x, angles, dims, adjacent, d);
            double have = half_value(*cell(c, seq, pos, kv_head, is_v, d));
            /* Rounded to f16 (nearest or not: one unit). */
            *worst = worse(*worst, have, want, ldexp(fabs(want), -10) + ldexp(1, -23));
        }
}

static inline void check_rope(struct bed *b, uint32_t n_head, uint32_t n_head_kv,
                              uint32_t head_size, uint32_t dims, bool adjacent)
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
                          .page_bytes = c.page_bytes,
                          .adjacent = adjacent};
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
                       angles + (size_t)pos[r] * dims, seq[r], pos[r], dims, adjacent, &worst);
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
    uint32_t window; /* 0: off, as softcap */
    float softcap;
    uint32_t *seq, *pos;
    float *qkv;
    struct tensor qkv_t, seq_t, pos_t;
};

static inline uint16_t random_half(struct bed *b)
{
    return (uint16_t)(below(b, 2) << 15 | (8 + below(b, 8)) << 10 | below(b, 1024)); /* 2^-7 .. 2 */
}

/* Every sequence has `length` tokens; the rest of its pages stays NaN. */
static inline void make_attention(struct bed *b, uint32_t n_head, uint32_t n_head_kv,
                                  uint32_t head_size, uint32_t length, uint32_t rows,
                                  struct attention_case *c)
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

static inline void free_attention(struct attention_case *c)
{
    free(c->seq);
    free(c->pos);
    free(c->qkv);
    free_cache(&c->cache);
}

static inline struct push_attention attention_push(const struct attention_case *c, uint32_t first,
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
                                   .scale = 1 / sqrtf((float)c->cache.head_size),
                                   .softcap = c->softcap,
                                   .window = c->window};
}

static inline float *run_attention(struct bed *b, const struct attention_case *c, uint32_t first,
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

/* The first key that a row at `pos` sees. */
static inline uint32_t first_seen(const struct attention_case *c, uint32_t pos)
{
    return c->window == 0 || pos < c->window ? 0 : pos + 1 - c->window;
}

/* Weights are a convex combination: an error of the scores of e shifts the result by at most about
 * 2 e times the largest value (below 4). Scores: 2 * head_size roundings of terms up to 8, times
 * the scale; exp: 3 + 2 |x| units. The cap: a quotient of sums and differences of exp, some 20
 * units of the cap. */
static inline void compare_attention(const struct attention_case *c, const float *got)
{
    uint32_t head = c->cache.head_size, group = c->cache.n_head / c->cache.n_head_kv;
    double scale = 1 / sqrt(head), worst = 0;
    double bound = 2 * 4 * ldexp(2 * head * scale * 8 + 100 + 20 * (double)c->softcap, -24) + 1e-5;
    double *weight = take((size_t)c->cache.pages_stride * PAGE_TOKENS * sizeof *weight);
    for (uint32_t r = 0; r < c->rows; r++)
        for (uint32_t h = 0; h < c->cache.n_head; h++) {
            const float *q = c->qkv + (size_t)r * c->stride + (size_t)h * head;
            double most = -INFINITY, sum = 0;
            uint32_t first = first_seen(c, c->pos[r]);
            for (uint32_t t = first; t <= c->pos[r]; t++) {
                weight[t] = 0;
                for (uint32_t d = 0; d < head; d++)
                    weight[t] += (double)q[d] *
                                 half_value(*cell(&c->cache, c->seq[r], t, h / group, false, d));
                weight[t] *= scale;
                if (c->softcap != 0)
                    weight[t] = (double)c->softcap * tanh(weight[t] / (double)c->softcap);
                most = fmax(most, weight[t]);
            }
            for (uint32_t t = first; t <= c->pos[r]; t++)
                sum += weight[t] = exp(weight[t] - most);
            for (uint32_t d = 0; d < head; d++) {
                double want = 0;
                for (uint32_t t = first; t <= c->pos[r]; t++)
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

#endif
