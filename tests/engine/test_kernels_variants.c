/* What architectures other than the first need of the row kernels: norms of heads in place and with
 * a residual, scaled embeddings, adjacent RoPE pairs, windows and caps in attention, GELU, and a
 * cap on logits. Each against a naive twin in double. The mixture of experts:
 * test_kernels_experts.c. */
#include "base/size.h"
#include "tests/engine/rows_bed.h"

/* Norms each head of a row by itself; heads 1 with a wide stride too. Between the heads' end and
 * the row's nothing changes. */
static void test_head_norm(struct bed *b)
{
    uint32_t heads = 1 + below(b, 5), cols = 1 + below(b, 140), rows = 1 + below(b, 6);
    uint32_t stride = heads * cols + below(b, 50);
    size_t count = (size_t)rows * stride;
    float eps = 1e-5f, *x = bed_floats(b, count, -3, 3), *w = bed_floats(b, cols, -2, 2);
    bed_clear(b);
    struct tensor x_t = bed_tensor(b, x, count * 4), w_t = bed_tensor(b, w, cols * 4);
    struct push_rmsnorm p = {.x = x_t.address,
                             .weight = w_t.address,
                             .out = x_t.address,
                             .rows = rows * heads,
                             .cols = cols,
                             .heads = heads,
                             .stride = stride,
                             .eps = eps};
    bed_begin(b);
    kernel_rmsnorm(b->kernels, &p);
    bed_run(b);
    bed_check(b);
    float *got = take(x_t.bytes);
    bed_get(b, &x_t, got);
    double worst = 0;
    bool rest = true;
    for (uint32_t r = 0; r < rows; r++)
        for (uint32_t i = 0; i < stride; i++) {
            size_t at = (size_t)r * stride + i;
            if (i >= heads * cols) {
                rest = rest && memcmp(&got[at], &x[at], 4) == 0;
                continue;
            }
            const float *head = &x[(size_t)r * stride + i / cols * cols];
            double sum = 0;
            for (uint32_t j = 0; j < cols; j++)
                sum += (double)head[j] * head[j];
            double want = x[at] * (double)w[i % cols] / sqrt(sum / cols + (double)eps);
            /* As in test_kernels_rows.c, with fewer terms. */
            worst = worse(worst, got[at], want, ldexp(fabs(want), -24) * 40 + 1e-12);
        }
    CHECK(worst <= 1);
    CHECK(rest && "what is no head is as before");
    free(x);
    free(w);
    free(got);
}

/* out = residual + norm(x), out being a tensor of its own, x, or the residual. */
static void test_residual_norm(struct bed *b, unsigned where)
{
    uint32_t cols = 1 + below(b, 900), rows = 1 + below(b, 6);
    size_t count = (size_t)rows * cols;
    float eps = 1e-6f, *x = bed_floats(b, count, -3, 3), *w = bed_floats(b, cols, -2, 2),
          *residual = bed_floats(b, count, -5, 5);
    bed_clear(b);
    struct tensor x_t = bed_tensor(b, x, count * 4), w_t = bed_tensor(b, w, cols * 4);
    struct tensor residual_t = bed_tensor(b, residual, count * 4);
    struct tensor own = bed_tensor(b, NULL, count * 4);
    const struct tensor *out = where == 0 ? &own : where == 1 ? &x_t : &residual_t;
    struct push_rmsnorm p = {.x = x_t.address,
                             .weight = w_t.address,
                             .residual = residual_t.address,
                             .out = out->address,
                             .rows = rows,
                             .cols = cols,
                             .eps = eps};
    bed_begin(b);
    kernel_rmsnorm(b->kernels, &p);
    bed_run(b);
    bed_check(b);
    float *got = take(out->bytes);
    bed_get(b, out, got);
    double worst = 0;
    for (uint32_t r = 0; r < rows; r++) {
        const float *src = x + (size_t)r * cols;
        double sum = 0;
        for (uint32_t i = 0; i < cols; i++)
            sum += (double)src[i] * src[i];
        for (uint32_t i = 0; i < cols; i++) {
            double add = residual[(size_t)r * cols + i];
            double norm = src[i] * (double)w[i] / sqrt(sum / cols + (double)eps);
            double bound = ldexp(fabs(norm), -24) * 80 + ldexp(fabs(add + norm), -23) + 1e-12;
            worst = worse(worst, got[(size_t)r * cols + i], add + norm, bound);
        }
    }
    CHECK(worst <= 1);
    free(x);
    free(w);
    free(residual);
    free(got);
}

/* A product of two floats rounds once: exact. */
static void test_scaled_embed(struct bed *b, float scale)
{
    uint32_t n_vocab = 1 + below(b, 40), n_embd = 1 + below(b, 300), rows = 1 + below(b, 5);
    uint32_t ids[5], wrong = 0;
    float *table = bed_floats(b, (size_t)n_vocab * n_embd, -1, 1);
    for (uint32_t r = 0; r < rows; r++)
        ids[r] = below(b, n_vocab);
    struct err_msg why = {""};
    uint64_t bytes = kernel_weight_bytes(TENSOR_F32, n_vocab, n_embd);
    void *packed = take(bytes);
    CHECK_OK(kernel_weight_repack(TENSOR_F32, n_vocab, n_embd, table, packed, &why), why);
    bed_clear(b);
    struct tensor table_t = bed_tensor(b, packed, bytes), ids_t = bed_tensor(b, ids, rows * 4);
    struct tensor out = bed_tensor(b, NULL, (uint64_t)rows * n_embd * 4);
    struct push_embed p = {.table = table_t.address,
                           .ids = ids_t.address,
                           .out = out.address,
                           .rows = rows,
                           .n_embd = n_embd,
                           .n_vocab = n_vocab,
                           .scale = scale};
    bed_begin(b);
    kernel_embed(b->kernels, &p, TENSOR_F32);
    bed_run(b);
    bed_check(b);
    float *got = take(out.bytes);
    bed_get(b, &out, got);
    for (uint32_t r = 0; r < rows; r++)
        for (uint32_t i = 0; i < n_embd; i++) {
            float x = table[(size_t)ids[r] * n_embd + i];
            wrong += got[(size_t)r * n_embd + i] != (scale == 0 ? x : x * scale);
        }
    CHECK_INT(wrong, 0);
    free(table);
    free(packed);
    free(got);
}

static void test_gelu_mul(struct bed *b)
{
    uint32_t cols = 3 + below(b, 300), rows = 1 + below(b, 5);
    float *x = bed_floats(b, (size_t)rows * 2 * cols, -8, 8);
    x[0] = -3e4f; /* its cube overflows a naive exp: 0 */
    x[1] = 3e4f;
    x[2] = 0;
    bed_clear(b);
    struct tensor x_t = bed_tensor(b, x, (uint64_t)rows * 2 * cols * 4);
    struct tensor out = bed_tensor(b, NULL, (uint64_t)rows * cols * 4);
    struct push_silu_mul p = {
        .gate_up = x_t.address, .out = out.address, .rows = rows, .cols = cols, .gelu = 1};
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
            double inner = sqrt(2 / acos(-1)) * (gate + 0.044715 * gate * gate * gate);
            double want = gate / 2 * (1 + tanh(inner)) * up;
            /* 1 + tanh: 1 or less with an error of some units of 1, whatever is left of it. */
            worst = worse(worst, got[(size_t)r * cols + j], want,
                          ldexp(fabs(gate * up), -24) * 40 + 1e-30);
        }
    CHECK(worst <= 1);
    free(x);
    free(got);
}

/* Vulkan makes tanh of sums and differences of exp: an error of some units of the cap. */
static void test_softcap(struct bed *b, uint32_t count)
{
    float cap = 30, *x = bed_floats(b, count, -40, 40);
    x[0] = 0;
    x[count - 1] = 2000; /* 66 caps */
    bed_clear(b);
    struct tensor x_t = bed_tensor(b, x, (uint64_t)count * 4);
    struct push_softcap p = {.x = x_t.address, .count = count, .cap = cap};
    bed_begin(b);
    kernel_softcap(b->kernels, &p);
    bed_run(b);
    bed_check(b);
    float *got = take(x_t.bytes);
    bed_get(b, &x_t, got);
    double worst = 0, bound = ldexp((double)cap, -24) * 20;
    for (uint32_t i = 0; i < count; i++)
        worst = worse(worst, got[i], (double)cap * tanh(x[i] / (double)cap), bound);
    if (!CHECK(worst <= 1))
        fprintf(stderr, "    %u values: %g of the bound\n", count, worst);
    free(x);
    free(got);
}

/* ---- attention with a window ---- */

/* Makes every key NaN that no row sees. */
static void poison_hidden(struct bed *b, struct attention_case *c)
{
    uint32_t length = c->cache.pages_stride * PAGE_TOKENS;
    for (uint32_t s = 0; s < SEQS; s++)
        for (uint32_t t = 0; t < length; t++) {
            bool seen = false;
            for (uint32_t r = 0; r < c->rows; r++)
                seen = seen || (c->seq[r] == s && t <= c->pos[r] && t >= first_seen(c, c->pos[r]));
            for (uint32_t h = 0; h < c->cache.n_head_kv && !seen; h++) {
                size_t bytes = c->cache.head_size * sizeof(uint16_t);
                memset(cell(&c->cache, s, t, h, false, 0), 0xff, bytes);
                memset(cell(&c->cache, s, t, h, true, 0), 0xff, bytes);
            }
        }
    bed_put(b, c->cache.kv_t.offset, c->cache.kv, c->cache.kv_t.bytes);
}

struct shape {
    uint32_t n_head, n_head_kv, head_size;
};

/* One row a sequence, at the given positions. */
static void test_window(struct bed *b, const struct shape *s, uint32_t window,
                        const uint32_t pos[SEQS], float softcap)
{
    struct attention_case c;
    uint32_t length = 0;
    for (uint32_t r = 0; r < SEQS; r++)
        length = pos[r] >= length ? pos[r] + 1 : length;
    make_attention(b, s->n_head, s->n_head_kv, s->head_size, length, SEQS, &c);
    memcpy(c.pos, pos, SEQS * sizeof *pos);
    bed_put(b, c.pos_t.offset, c.pos, SEQS * sizeof *pos);
    c.window = window;
    c.softcap = softcap;
    size_t row = (size_t)s->n_head * s->head_size;
    float *open = run_attention(b, &c, 0, SEQS);
    poison_hidden(b, &c);
    float *hidden = run_attention(b, &c, 0, SEQS);
    compare_attention(&c, hidden);
    if (!CHECK(memcmp(open, hidden, SEQS * row * 4) == 0))
        fprintf(stderr, "    window %u at %u, %u, %u, head size %u: hidden keys matter\n", window,
                pos[0], pos[1], pos[2], s->head_size);
    for (uint32_t r = 0; r < SEQS; r++) {
        float *alone = run_attention(b, &c, r, 1);
        CHECK(memcmp(alone, hidden + r * row, row * 4) == 0);
        free(alone);
    }
    free(open);
    free(hidden);
    free_attention(&c);
}

/* Sizes for both kernels and all their specializations (attention_few: multiples of 4 up to 128).
 */
static void test_windows(struct bed *b)
{
    static const struct shape shapes[] = {{4, 2, 64},  {3, 1, 20}, {2, 2, 6},
                                          {4, 2, 128}, {2, 2, 80}, {2, 1, 256}};
    static const uint32_t windows[] = {1, 2, 31, 32, 33, 40, 64, 95, 1000};
    static const uint32_t positions[][SEQS] = {{0, 30, 31}, {32, 33, 63}, {64, 65, 96}};
    for (size_t w = 0; w < ARRAY_LEN(windows); w++)
        for (size_t i = 0; i < ARRAY_LEN(positions); i++)
            test_window(b, &shapes[(w + i) % ARRAY_LEN(shapes)], windows[w], positions[i],
                        w % 2 == 0 ? 0 : 2);
    for (size_t s = 0; s < ARRAY_LEN(shapes); s++) {
        uint32_t pos[SEQS] = {below(b, 130), below(b, 130), below(b, 130)};
        test_window(b, &shapes[s], 1 + below(b, 70), pos, 0);
        test_window(b, &shapes[s], 0, pos, 50);     /* a cap that hardly bends */
        test_window(b, &shapes[s], 0, pos, 0.125f); /* one that all scores are at */
    }
}

static void test_no_rows(struct bed *b)
{
    struct push_softcap s = {.cap = 30};
    struct push_rmsnorm n = {.cols = 3, .heads = 2, .stride = 9};
    bed_begin(b);
    kernel_softcap(b->kernels, &s);
    kernel_rmsnorm(b->kernels, &n);
    bed_run(b);
}

int main(void)
{
    struct bed b;
    bed_start(&b, UINT64_C(32) << 20, 21);
    for (unsigned i = 0; i < 9; i++) {
        test_head_norm(&b);
        test_residual_norm(&b, i % 3);
        test_gelu_mul(&b);
    }
    test_scaled_embed(&b, 0);
    test_scaled_embed(&b, 1);
    test_scaled_embed(&b, 33.941124f);
    test_softcap(&b, 1);
    test_softcap(&b, 64);
    test_softcap(&b, 1000 + below(&b, 1000));
    test_softcap(&b, 64 * 32768 + 65); /* more than one row of workgroups */
    check_rope(&b, 4, 2, 64, 64, true);
    check_rope(&b, 3, 1, 10, 6, true);
    check_rope(&b, 2, 2, 6, 2, true);
    test_no_rows(&b);
    test_windows(&b);
    kernels_force_common_attention(b.kernels);
    test_windows(&b);
    return bed_finish(&b);
}
