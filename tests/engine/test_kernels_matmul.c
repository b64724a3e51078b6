/* matmul and embed: against naive twins over random shapes, bit by bit between variants and batch
 * sizes.
 * `--time` measures instead. */
#include <time.h>

#include "base/size.h"
#include "tests/engine/dequant_twin.h"

static const enum tensor_type types[] = {TENSOR_F32, TENSOR_F16, TENSOR_Q8_0, TENSOR_Q4_K,
                                         TENSOR_Q6_K};

struct weights {
    enum tensor_type type;
    uint32_t rows, cols;
    uint8_t *file;
    struct tensor device;
};

static void make_weights(struct bed *b, enum tensor_type type, uint32_t rows, uint32_t cols,
                         struct weights *ret)
{
    struct err_msg why = {""};
    uint64_t row_bytes = twin_row_bytes(type, cols),
             device_bytes = kernel_weight_bytes(type, rows, cols);
    *ret = (struct weights){
        .type = type, .rows = rows, .cols = cols, .file = malloc(row_bytes * rows)};
    void *packed = malloc(device_bytes);
    if (ret->file == NULL || packed == NULL)
        exit(1);
    for (uint32_t r = 0; r < rows; r++)
        random_row(type, &b->rng, cols, ret->file + r * row_bytes);
    CHECK_OK(kernel_weight_repack(type, rows, cols, ret->file, packed, &why), why);
    ret->device = bed_tensor(b, packed, device_bytes);
    free(packed);
}

static uint32_t random_cols(struct bed *b, enum tensor_type type)
{
    uint32_t step = type == TENSOR_Q8_0 ? 32 : type == TENSOR_Q4_K || type == TENSOR_Q6_K ? 256 : 1;
    uint32_t most = step == 256 ? 4 : step == 32 ? 30 : 700;
    return step * (1 + (uint32_t)check_rng_below(&b->rng, most));
}

struct matmul_case {
    struct weights w;
    uint32_t rows, stride;
    bool in_place; /* residual == out */
    float *a, *bias, *residual;
    struct tensor a_t, bias_t, residual_t;
};

static void make_case(struct bed *b, enum tensor_type type, struct matmul_case *c)
{
    uint32_t n = 1 + (uint32_t)check_rng_below(&b->rng, 150), k = random_cols(b, type);
    *c = (struct matmul_case){.rows = 1 + (uint32_t)check_rng_below(&b->rng, 21)};
    c->stride = n + (uint32_t)check_rng_below(&b->rng, 9);
    bed_clear(b);
    make_weights(b, type, n, k, &c->w);
    c->a = bed_floats(b, (size_t)c->rows * k, -1, 1);
    c->a_t = bed_tensor(b, c->a, (uint64_t)c->rows * k * 4);
    if (check_rng_below(&b->rng, 2)) {
        c->bias = bed_floats(b, n, -4, 4);
        c->bias_t = bed_tensor(b, c->bias, n * 4);
    }
    if (check_rng_below(&b->rng, 2)) {
        c->residual = bed_floats(b, (size_t)c->rows * c->stride, -4, 4);
        c->residual_t = bed_tensor(b, c->residual, (uint64_t)c->rows * c->stride * 4);
        c->in_place = check_rng_below(&b->rng, 2);
    }
}

static void free_case(struct matmul_case *c)
{
    free(c->w.file);
    free(c->a);
    free(c->bias);
    free(c->residual);
}

/* Rows first .. first + count of the case into a new tensor; returns all of it (what is not
 * written: all ones). */
static float *run_case(struct bed *b, const struct matmul_case *c, uint32_t first, uint32_t count)
{
    size_t mark_count = b->count;
    uint64_t mark_used = b->used, bytes = (uint64_t)count * c->stride * 4,
             skip = (uint64_t)first * c->stride;
    struct tensor out = bed_tensor(b, c->in_place ? c->residual + skip : NULL, bytes);
    struct push_matmul p = {.a = c->a_t.address + (uint64_t)first * c->w.cols * 4,
                            .w = c->w.device.address,
                            .bias = c->bias_t.address,
                            .residual = c->in_place   ? out.address
                                        : c->residual ? c->residual_t.address + skip * 4
                                                      : 0,
                            .out = out.address,
                            .rows = count,
                            .n = c->w.rows,
                            .k = c->w.cols,
                            .out_stride = c->stride};
    bed_begin(b);
    kernel_matmul(b->kernels, &p, c->w.type);
    bed_run(b);
    bed_check(b);
    float *got = malloc(bytes + 4);
    if (got == NULL)
        exit(1);
    bed_get(b, &out, got);
    b->count = mark_count;
    b->used = mark_used;
    return got;
}

/* An f32 sum of k products by fma, in any order, is within (k + a few) units of 2^-24 of the sum of
 * the absolute products; the few: the weight's own rounding, slices, bias, residual. */
static void compare(const struct matmul_case *c, const float *got)
{
    uint64_t row_bytes = twin_row_bytes(c->w.type, c->w.cols);
    double worst = 0;
    bool gaps = true;
    for (uint32_t r = 0; r < c->rows; r++)
        for (uint32_t j = 0; j < c->stride; j++) {
            const float *cell = &got[(size_t)r * c->stride + j];
            if (j >= c->w.rows) {
                uint32_t bits, keep = UINT32_MAX;
                memcpy(&bits, cell, 4);
                if (c->in_place)
                    memcpy(&keep, &c->residual[(size_t)r * c->stride + j], 4);
                gaps = gaps && bits == keep;
                continue;
            }
            double sum = 0, size = 0;
            for (uint32_t i = 0; i < c->w.cols; i++) {
                double magnitude, x = c->a[(size_t)r * c->w.cols + i];
                sum += x * twin_value(c->w.type, c->w.file + j * row_bytes, i, &magnitude);
                size += fabs(x) * magnitude;
            }
            double bias = c->bias ? c->bias[j] : 0;
            double residual = c->residual ? c->residual[(size_t)r * c->stride + j] : 0;
            double bound = (c->w.cols + 8) * ldexp(size + fabs(bias) + fabs(residual), -24) + 1e-30;
            double error = fabs(*cell - (sum + bias + residual)) / bound;
            worst = error <= worst ? worst : error; /* a NaN is worst */
        }
    CHECK(gaps && "values between rows untouched");
    if (!CHECK(worst <= 1))
        fprintf(stderr, "    type %u, %u x %u x %u: %g of the bound\n", (unsigned)c->w.type,
                c->rows, c->w.rows, c->w.cols, worst);
}

static void test_matmul(struct bed *b, enum tensor_type type)
{
    uint32_t variants[8];
    size_t count = kernels_matmul_variants(variants);
    struct matmul_case c;
    make_case(b, type, &c);
    size_t bytes = (size_t)c.rows * c.stride * 4;
    float *usual = run_case(b, &c, 0, c.rows);
    compare(&c, usual);
    for (size_t v = 0; v < count; v++) {
        if (!kernels_force_matmul(b->kernels, variants[v]))
            continue;
        float *other = run_case(b, &c, 0, c.rows);
        if (!CHECK(memcmp(usual, other, bytes) == 0))
            fprintf(stderr, "    type %u: variant %u has other bits (%u x %u x %u)\n",
                    (unsigned)type, variants[v], c.rows, c.w.rows, c.w.cols);
        free(other);
    }
    CHECK(kernels_force_matmul(b->kernels, 0));
    uint32_t first = (uint32_t)check_rng_below(&b->rng, c.rows);
    uint32_t some = 1 + (uint32_t)check_rng_below(&b->rng, c.rows - first);
    float *part = run_case(b, &c, first, some), *alone = run_case(b, &c, first, 1);
    CHECK(memcmp(usual + (size_t)first * c.stride, part, (size_t)some * c.stride * 4) == 0);
    CHECK(memcmp(part, alone, (size_t)c.stride * 4) == 0);
    free(usual);
    free(part);
    free(alone);
    free_case(&c);
}

/* Embedding is dequantization alone: every value rounds once at most, so it is exact. */
static void test_embed(struct bed *b, enum tensor_type type)
{
    uint32_t n = 1 + (uint32_t)check_rng_below(&b->rng, 100), k = random_cols(b, type);
    uint32_t rows = 1 + (uint32_t)check_rng_below(&b->rng, 5), ids[5];
    struct weights w;
    bed_clear(b);
    make_weights(b, type, n, k, &w);
    for (uint32_t r = 0; r < rows; r++)
        ids[r] = (uint32_t)check_rng_below(&b->rng, n);
    struct tensor ids_t = bed_tensor(b, ids, rows * 4),
                  out = bed_tensor(b, NULL, (uint64_t)rows * k * 4);
    struct push_embed p = {.table = w.device.address,
                           .ids = ids_t.address,
                           .out = out.address,
                           .rows = rows,
                           .n_embd = k,
                           .n_vocab = n};
    bed_begin(b);
    kernel_embed(b->kernels, &p, type);
    bed_run(b);
    bed_check(b);
    float *got = malloc((size_t)rows * k * 4);
    if (got == NULL)
        exit(1);
    bed_get(b, &out, got);
    unsigned wrong = 0;
    for (uint32_t r = 0; r < rows; r++)
        for (uint32_t i = 0; i < k; i++) {
            double magnitude;
            double want =
                twin_value(type, w.file + ids[r] * twin_row_bytes(type, k), i, &magnitude);
            float have = got[(size_t)r * k + i];
            wrong += have != (float)want;
            if (have != (float)want && wrong == 1)
                fprintf(stderr, "    type %u row %u value %u: %g, expected %g\n", (unsigned)type,
                        ids[r], i, (double)have, want);
        }
    CHECK_INT(wrong, 0);
    free(got);
    free(w.file);
}

static void test_bad_scales(struct bed *b)
{
    struct err_msg why = {""};
    for (size_t t = 2; t < ARRAY_LEN(types); t++) {
        enum tensor_type type = types[t];
        uint64_t row_bytes = twin_row_bytes(type, 512),
                 device_bytes = kernel_weight_bytes(type, 3, 512);
        uint8_t *file = malloc(row_bytes * 3), *packed = malloc(device_bytes);
        if (file == NULL || packed == NULL)
            exit(1);
        for (uint32_t r = 0; r < 3; r++)
            random_row(type, &b->rng, 512, file + r * row_bytes);
        uint64_t last =
            row_bytes / 2 + (type == TENSOR_Q6_K ? 208 : 0); /* a later block of row 1 */
        put_half(file + row_bytes + last, 0x7c00);
        CHECK_ERR(kernel_weight_repack(type, 3, 512, file, packed, &why), ERR_FORMAT);
        CHECK_HAS(why.text, "row 1");
        put_half(file + row_bytes + last, 0xfe01);
        CHECK_ERR(kernel_weight_repack(type, 3, 512, file, packed, &why), ERR_FORMAT);
        CHECK_ERR(kernel_weight_repack(type, 3, 500, file, packed, &why), ERR_FORMAT);
        free(file);
        free(packed);
    }
    CHECK(!kernel_type_supported(TENSOR_MXFP4));
    CHECK_ERR(kernel_weight_repack(TENSOR_MXFP4, 1, 32, "", NULL, &why), ERR_UNSUPPORTED);
}

static void test_no_rows(struct bed *b)
{
    struct push_matmul p = {.n = 5, .k = 7};
    struct push_embed e = {.n_embd = 8};
    bed_begin(b);
    kernel_matmul(b->kernels, &p, TENSOR_F32);
    kernel_embed(b->kernels, &e, TENSOR_F32);
    bed_run(b);
}

/* Milliseconds of one matmul, best of some; *ret_cpu: of processor time (what a software device
 * costs). */
static double time_matmul(struct bed *b, enum tensor_type type, uint32_t rows, uint32_t n,
                          uint32_t k, double *ret_cpu)
{
    struct weights w;
    bed_clear(b);
    make_weights(b, type, n, k, &w);
    float *a = bed_floats(b, (size_t)rows * k, -1, 1);
    struct tensor a_t = bed_tensor(b, a, (uint64_t)rows * k * 4);
    struct tensor out = bed_tensor(b, NULL, (uint64_t)rows * n * 4);
    struct push_matmul p = {.a = a_t.address,
                            .w = w.device.address,
                            .out = out.address,
                            .rows = rows,
                            .n = n,
                            .k = k,
                            .out_stride = n};
    double best = *ret_cpu = INFINITY;
    for (int i = 0; i < 4; i++) {
        enum { REPEAT = 8 };
        bed_begin(b);
        for (int j = 0; j < REPEAT; j++) {
            kernel_matmul(b->kernels, &p, type);
            gpu_barrier(b->gpu);
        }
        uint64_t begin = clock_mono_ns();
        clock_t cpu = clock();
        bed_run(b);
        *ret_cpu = fmin(*ret_cpu, (double)(clock() - cpu) / (CLOCKS_PER_SEC / 1000) / REPEAT);
        best = fmin(best, (double)(clock_mono_ns() - begin) / 1e6 / REPEAT);
    }
    free(a);
    free(w.file);
    return best;
}

/* only: a tensor type's number, or 0 for all. */
static void time_all(struct bed *b, unsigned only)
{
    static const uint32_t rows[] = {1, 4, 8, 32};
    static const uint32_t shapes[][2] = {{256, 256}, {768, 256}, {256, 768}, {4096, 256}};
    for (size_t t = 0; t < ARRAY_LEN(types); t++)
        for (size_t s = 0; s < ARRAY_LEN(shapes); s++)
            for (size_t r = 0; r < ARRAY_LEN(rows) && (only == 0 || only == (unsigned)types[t]);
                 r++) {
                uint32_t n = shapes[s][0], k = shapes[s][1];
                double cpu_ms, ms = time_matmul(b, types[t], rows[r], n, k, &cpu_ms),
                               work = 1e-6 * rows[r] * n * k;
                printf(
                    "matmul type %2u %3u x %4u x %3u: %8.3f ms %6.2f GMAC/s; %.2f a cpu second\n",
                    (unsigned)types[t], rows[r], n, k, ms, work / ms, work / cpu_ms);
            }
}

int main(int argc, char **argv)
{
    struct bed b;
    bed_start(&b, UINT64_C(32) << 20, 1);
    if (argc > 1 && strcmp(argv[1], "--time") == 0) {
        time_all(&b, argc > 2 ? (unsigned)atoi(argv[2]) : 0);
        return bed_finish(&b);
    }
    for (size_t t = 0; t < ARRAY_LEN(types); t++)
        for (int i = 0; i < 6; i++) {
            test_embed(&b, types[t]);
            test_matmul(&b, types[t]);
        }
    test_bad_scales(&b);
    test_no_rows(&b);
    return bed_finish(&b);
}
