/* matmul and embed: against naive twins over random shapes, bit by bit between variants and batch
 * sizes. Arguments: the tensor types to test, by name; `--time` before them measures instead. */
#include <time.h>

#include "base/size.h"
#include "tests/engine/dequant_twin.h"

static enum tensor_type types[16];
static size_t types_count;

struct weights {
    enum tensor_type type;
    uint32_t rows, cols;
    uint8_t *file;
    double *values; /* rows x cols */
    struct tensor device;
};

static void make_weights(struct bed *b, enum tensor_type type, uint32_t rows, uint32_t cols,
                         struct weights *ret)
{
    struct err_msg why = {""};
    uint64_t row_bytes = quant_row_bytes(type, cols),
             device_bytes = kernel_weight_bytes(type, rows, cols);
    *ret = (struct weights){
        .type = type, .rows = rows, .cols = cols, .file = malloc(row_bytes * rows)};
    void *packed = malloc(device_bytes);
    ret->values = calloc((size_t)rows * cols, sizeof(double));
    if (ret->file == NULL || ret->values == NULL || packed == NULL)
        exit(1);
    for (uint32_t r = 0; r < rows; r++) {
        random_row(type, &b->rng, cols, ret->file + r * row_bytes);
        quant_decode(type, ret->file + r * row_bytes, cols, ret->values + (size_t)r * cols);
    }
    CHECK_OK(kernel_weight_repack(type, rows, cols, ret->file, packed, &why), why);
    ret->device = bed_tensor(b, packed, device_bytes);
    free(packed);
}

static void free_weights(struct weights *w)
{
    free(w->file);
    free(w->values);
}

/* Columns: any multiple of the type's block. */
static uint32_t random_cols(struct bed *b, enum tensor_type type)
{
    uint32_t step = tensor_type_find(type)->block_values;
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

/* cols 0: random. */
static void make_case(struct bed *b, enum tensor_type type, uint32_t cols, struct matmul_case *c)
{
    uint32_t n = 1 + (uint32_t)check_rng_below(&b->rng, 150);
    uint32_t k = cols > 0 ? cols : random_cols(b, type);
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
    free_weights(&c->w);
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
                double product = (double)c->a[(size_t)r * c->w.cols + i] *
                                 c->w.values[(size_t)j * c->w.cols + i];
                sum += product;
                size += fabs(product);
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

static void test_matmul(struct bed *b, enum tensor_type type, uint32_t cols)
{
    uint32_t variants[8];
    size_t count = kernels_matmul_variants(variants);
    struct matmul_case c;
    make_case(b, type, cols, &c);
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
            double want = w.values[(size_t)ids[r] * k + i];
            float have = got[(size_t)r * k + i];
            if (!is_value(have, want) && ++wrong == 1)
                fprintf(stderr, "    type %u row %u value %u: %g, expected %g\n", (unsigned)type,
                        ids[r], i, (double)have, want);
        }
    CHECK_INT(wrong, 0);
    free(got);
    free_weights(&w);
}

/* `bytes` at `at` of the second block of row 1 of 3: refused, and the row is named. */
static void bad_block(struct bed *b, enum tensor_type type, unsigned at, const uint8_t *bytes,
                      size_t len)
{
    const struct tensor_type_info *info = tensor_type_find(type);
    struct err_msg why = {""};
    uint64_t row_bytes = quant_row_bytes(type, 512);
    uint8_t *file = malloc(row_bytes * 3), *packed = malloc(kernel_weight_bytes(type, 3, 512));
    if (file == NULL || packed == NULL)
        exit(1);
    for (uint32_t r = 0; r < 3; r++)
        random_row(type, &b->rng, 512, file + r * row_bytes);
    CHECK_OK(kernel_weight_repack(type, 3, 512, file, packed, &why), why);
    memcpy(file + row_bytes + info->block_bytes + at, bytes, len);
    CHECK_ERR(kernel_weight_repack(type, 3, 512, file, packed, &why), ERR_FORMAT);
    CHECK_HAS(why.text, "row 1");
    CHECK_ERR(kernel_weight_repack(type, 3, 500, file, packed, &why), ERR_FORMAT);
    free(file);
    free(packed);
}

static void test_bad_scales(struct bed *b, enum tensor_type type)
{
    static const uint16_t bad[] = {0x7c00, 0xfc00, 0xfe01, 0x7c01};
    unsigned at[2], count = scales_of(type, at);
    for (unsigned i = 0; i < count; i++)
        for (size_t k = 0; k < ARRAY_LEN(bad); k++) {
            uint8_t half[2];
            put_half(half, bad[k]);
            bad_block(b, type, at[i], half, 2);
        }
    if (type == TENSOR_MXFP4) {
        /* E8M0's NaN; 2^126 * 4 and 2^127 * 2 in a lower and an upper half */
        bad_block(b, type, 0, (const uint8_t[]){255, 0}, 2);
        bad_block(b, type, 0, (const uint8_t[]){253, 0x06}, 2);
        bad_block(b, type, 0, (const uint8_t[]){254, 0xc0}, 2);
    }
}

/* The largest values of MXFP4 that f32 holds: 2^127 * 1.5, 2^126 * 3. */
static void test_largest_mxfp4(struct bed *b)
{
    uint8_t file[64 * 17] = {254, 0xb3};
    float out[32] = {0};
    struct err_msg why = {""};
    uint64_t bytes = kernel_weight_bytes(TENSOR_MXFP4, 2, 32);
    uint8_t *packed = malloc(bytes);
    if (packed == NULL)
        exit(1);
    file[17] = 253;
    file[18] = 0x5d;
    CHECK_OK(kernel_weight_repack(TENSOR_MXFP4, 2, 32, file, packed, &why), why);
    bed_clear(b);
    uint32_t ids[2] = {0, 1};
    float got[64];
    struct tensor table = bed_tensor(b, packed, bytes), ids_t = bed_tensor(b, ids, sizeof ids),
                  out_t = bed_tensor(b, NULL, sizeof got);
    struct push_embed p = {.table = table.address,
                           .ids = ids_t.address,
                           .out = out_t.address,
                           .rows = 2,
                           .n_embd = 32,
                           .n_vocab = 2};
    bed_begin(b);
    kernel_embed(b->kernels, &p, TENSOR_MXFP4);
    bed_run(b);
    bed_get(b, &out_t, got);
    CHECK(got[0] == ldexpf(1.5f, 127) && got[16] == ldexpf(-1.5f, 127));
    CHECK(got[32] == ldexpf(-3, 126) && got[48] == ldexpf(3, 126));
    CHECK(memcmp(got + 1, out, 15 * sizeof(float)) == 0);
    free(packed);
}

static void test_unknown_type(void)
{
    struct err_msg why = {""};
    enum tensor_type tq1_0 = (enum tensor_type)34;
    CHECK(!kernel_type_supported(tq1_0));
    CHECK_ERR(kernel_weight_repack(tq1_0, 1, 256, "", NULL, &why), ERR_UNSUPPORTED);
#define X(name, number, values, bytes) CHECK(kernel_type_supported(TENSOR_##name));
    TENSOR_TYPES(X)
#undef X
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
    free_weights(&w);
    return best;
}

static void time_all(struct bed *b)
{
    static const uint32_t rows[] = {1, 4, 8, 32};
    static const uint32_t shapes[][2] = {{256, 256}, {768, 256}, {256, 768}, {4096, 256}};
    for (size_t t = 0; t < types_count; t++)
        for (size_t s = 0; s < ARRAY_LEN(shapes); s++)
            for (size_t r = 0; r < ARRAY_LEN(rows); r++) {
                uint32_t n = shapes[s][0], k = shapes[s][1];
                double cpu_ms, ms = time_matmul(b, types[t], rows[r], n, k, &cpu_ms),
                               work = 1e-6 * rows[r] * n * k;
                printf("matmul %-6s %3u x %4u x %3u: %8.3f ms %6.2f GMAC/s; %.2f a cpu second\n",
                       tensor_type_find(types[t])->name, rows[r], n, k, ms, work / ms,
                       work / cpu_ms);
            }
}

/* One by one, so that no more pipelines than these are built. */
static uint64_t choose_types(char **names)
{
    uint64_t bits = 0;
    for (; *names != NULL; names++) {
        size_t before = types_count;
#define X(name, number, values, bytes)                                                             \
    if (strcmp(*names, #name) == 0 && types_count < ARRAY_LEN(types))                              \
        types[types_count++] = TENSOR_##name;
        TENSOR_TYPES(X)
#undef X
        if (types_count == before) {
            fprintf(stderr, "no tensor type %s\n", *names);
            exit(1);
        }
        bits |= UINT64_C(1) << types[before];
    }
    return bits;
}

int main(int argc, char **argv)
{
    static const uint32_t usual_cols[] = {896, 4864}; /* Qwen2.5-0.5B: the last slice is short */
    struct bed b;
    bool timed = argc > 1 && strcmp(argv[1], "--time") == 0;
    uint64_t bits = choose_types(argv + 1 + timed);
    bed_start_types(&b, UINT64_C(32) << 20, 1, bits);
    if (timed) {
        time_all(&b);
        return bed_finish(&b);
    }
    for (size_t t = 0; t < types_count; t++) {
        for (int i = 0; i < 6; i++) {
            test_embed(&b, types[t]);
            test_matmul(&b, types[t], 0);
        }
        for (size_t i = 0; i < ARRAY_LEN(usual_cols); i++)
            if (usual_cols[i] % tensor_type_find(types[t])->block_values == 0)
                test_matmul(&b, types[t], usual_cols[i]);
        test_bad_scales(&b, types[t]);
        if (types[t] == TENSOR_MXFP4)
            test_largest_mxfp4(&b);
    }
    test_unknown_type();
    test_no_rows(&b);
    return bed_finish(&b);
}
