/* The kernels that read no quantized weights: rmsnorm, rope with its page writes, attention,
 * silu_mul. Each against a naive twin in double over random shapes. `--time` measures
 * instead. */
#include <time.h>

#include "base/size.h"
#include "tests/engine/rows_bed.h"

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
    check_rope(&b, 4, 2, 64, 64, false);
    check_rope(&b, 3, 1, 10, 6, false);
    check_rope(&b, 2, 2, 6, 6, false);
    test_no_rows(&b);
    test_attentions(&b);
    test_long_attention(&b);
    kernels_force_common_attention(b.kernels);
    test_attentions(&b);
    test_long_attention(&b);
    return bed_finish(&b);
}
