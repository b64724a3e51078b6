/* The reference quantizer: rounding, where each format keeps each bit, errors of a round trip, edge
 * blocks, and real files (made by llama.cpp) against the F16 file they came from. Arguments: the
 * folder with the models. */
#include <math.h>
#include <stdio.h>

#include "base/size.h"
#include "tests/check.h"
#include "tests/quant/quantize.h"

enum { ROW = 2048 };

static const enum tensor_type all_types[] = {
#define X(name, number, values, bytes) TENSOR_##name,
    TENSOR_TYPES(X)
#undef X
};

static const char *name_of(enum tensor_type type)
{
    return tensor_type_find((uint32_t)type)->name;
}

static void test_rounding(void)
{
    for (unsigned bits = 0; bits < 0x10000; bits++) {
        double v = quant_from_half((uint16_t)bits);
        if (!isnan(v))
            CHECK_INT(quant_to_half(v), bits);
    }
    CHECK(isnan(quant_from_half(quant_to_half(NAN))));
    CHECK_INT(quant_to_half(1 + 1.0 / 2048), 0x3c00);               /* a tie: to even */
    CHECK_INT(quant_to_half(1 + 3.0 / 2048), 0x3c02);               /* a tie: to even, upwards */
    CHECK_INT(quant_to_half(1 + 1.0 / 2048 + 1e-9), 0x3c01);        /* just above it */
    CHECK_INT(quant_to_half(2 - 1.0 / 4096), 0x4000);               /* carries into the exponent */
    CHECK_INT(quant_to_half(ldexp(1, -25)), 0);                     /* half the smallest: to even */
    CHECK_INT(quant_to_half(ldexp(3, -25)), 2);                     /* one and a half of it */
    CHECK_INT(quant_to_half(ldexp(1, -14) - ldexp(1, -26)), 0x400); /* subnormal up to normal */
    CHECK_INT(quant_to_half(1e9), 0x7bff);
    CHECK_INT(quant_to_half(-1e9), 0xfbff);
    static const struct {
        uint32_t in;
        uint16_t out;
    } bf16[] = {
        {0x3f800000, 0x3f80}, {0x3f808000, 0x3f80}, {0x3f818000, 0x3f82}, {0x3f808001, 0x3f81},
        {0xbf807fff, 0xbf80}, {0x3fffffff, 0x4000}, {0x00000001, 0x0000}, {0x00018000, 0x0002},
        {0x7f7fffff, 0x7f80}, {0x7f800000, 0x7f80}, {0x7f800001, 0x7fc0}, {0x80000000, 0x8000},
    };
    for (size_t i = 0; i < ARRAY_LEN(bf16); i++) {
        float f;
        memcpy(&f, &bf16[i].in, sizeof(f));
        CHECK_INT(quant_to_bf16(f), bf16[i].out);
    }
}

/* Setting one bit of a block moves exactly the values named, by exactly this much; every half in
 * the block is 1 and other bytes have the value `fill`. */
struct bit_case {
    enum tensor_type type;
    unsigned byte, bit;
    unsigned first, count; /* values that move */
    double by;
};

static const struct bit_case bit_cases[] = {
    {TENSOR_Q4_0, 2, 0, 0, 1, 1},
    {TENSOR_Q4_0, 2, 4, 16, 1, 1},
    {TENSOR_Q4_0, 17, 7, 31, 1, 8},
    {TENSOR_Q4_1, 4, 3, 0, 1, 8},
    {TENSOR_Q4_1, 19, 4, 31, 1, 1},
    {TENSOR_Q5_0, 2, 1, 1, 1, 16},
    {TENSOR_Q5_0, 4, 0, 16, 1, 16},
    {TENSOR_Q5_0, 6, 5, 16, 1, 2},
    {TENSOR_Q5_1, 7, 7, 31, 1, 16},
    {TENSOR_Q5_1, 9, 0, 1, 1, 1},
    {TENSOR_Q8_0, 2, 6, 0, 1, 64},
    {TENSOR_Q8_0, 33, 7, 31, 1, -128},
    /* K types: sub-blocks' scales are 0 with the quants at 0: see fill */
    {TENSOR_Q2_K, 16, 0, 0, 1, 1},
    {TENSOR_Q2_K, 16, 2, 32, 1, 1},
    {TENSOR_Q2_K, 47, 7, 127, 1, 2},
    {TENSOR_Q2_K, 48, 5, 192, 1, 2},
    {TENSOR_Q2_K, 0, 4, 0, 16, -1},
    {TENSOR_Q2_K, 9, 5, 144, 16, -2},
    {TENSOR_Q3_K, 32, 0, 0, 1, -31},
    {TENSOR_Q3_K, 37, 6, 101, 1, -31},
    {TENSOR_Q3_K, 95, 7, 255, 1, -62},
    {TENSOR_Q3_K, 3, 0, 3, 1, -124},
    {TENSOR_Q3_K, 31, 7, 255, 1, -124},
    {TENSOR_Q3_K, 97, 1, 16, 16, -8},
    {TENSOR_Q3_K, 97, 5, 144, 16, -8},
    {TENSOR_Q3_K, 105, 3, 80, 16, -128},
    {TENSOR_Q3_K, 107, 6, 240, 16, -64},
    {TENSOR_Q4_K, 16, 0, 0, 1, 1},
    {TENSOR_Q4_K, 16, 4, 32, 1, 1},
    {TENSOR_Q4_K, 143, 7, 255, 1, 8},
    {TENSOR_Q4_K, 9, 0, 32, 32, -1},
    {TENSOR_Q4_K, 12, 4, 128, 32, -1},
    {TENSOR_Q4_K, 8, 6, 128, 32, -16},
    {TENSOR_Q5_K, 16, 0, 0, 1, 16},
    {TENSOR_Q5_K, 47, 7, 255, 1, 16},
    {TENSOR_Q5_K, 48, 4, 32, 1, 1},
    {TENSOR_Q5_K, 175, 0, 223, 1, 1},
    {TENSOR_Q6_K, 0, 0, 0, 1, 1},
    {TENSOR_Q6_K, 0, 4, 64, 1, 1},
    {TENSOR_Q6_K, 33, 3, 33, 1, 8},
    {TENSOR_Q6_K, 127, 7, 255, 1, 8},
    {TENSOR_Q6_K, 128, 0, 0, 1, 16},
    {TENSOR_Q6_K, 128, 7, 96, 1, 32},
    {TENSOR_Q6_K, 160, 2, 160, 1, 16},
    {TENSOR_Q6_K, 193, 1, 16, 16, -64},
    {TENSOR_IQ4_NL, 2, 0, 0, 1, 23},
    {TENSOR_IQ4_NL, 17, 7, 31, 1, 128},
    {TENSOR_IQ4_XS, 8, 4, 16, 1, -713},
    {TENSOR_IQ4_XS, 135, 3, 239, 1, -3968},
    {TENSOR_IQ4_XS, 4, 1, 0, 32, -254},
    {TENSOR_IQ4_XS, 7, 6, 224, 32, -508},
    {TENSOR_IQ4_XS, 2, 2, 32, 32, -2032},
    {TENSOR_IQ4_XS, 3, 7, 224, 32, -4064},
    {TENSOR_MXFP4, 1, 0, 0, 1, 0.5},
    {TENSOR_MXFP4, 16, 6, 31, 1, 2},
    {TENSOR_MXFP4, 2, 1, 1, 1, 1},
};

/* A block with halves of 1, and scales of 1 where the format has integer scales with 0 as
 * "nothing". */
static void start_block(enum tensor_type type, uint8_t *b)
{
    static const uint8_t half_one[2] = {0x00, 0x3c};
    memset(b, 0, 256);
    switch (type) {
    case TENSOR_MXFP4:
        b[0] = 127;
        return;
    case TENSOR_Q2_K:
        memset(b, 1, 16);
        memcpy(b + 80, half_one, 2);
        memcpy(b + 82, half_one, 2);
        return;
    case TENSOR_Q3_K: /* 6 bits of 1 less 32: -31 */
        memset(b + 96, 0x11, 8);
        memcpy(b + 108, half_one, 2);
        return;
    case TENSOR_Q4_K:
    case TENSOR_Q5_K: /* the low bit of each scale */
        memset(b + 4, 1, 4);
        memset(b + 12, 1, 4);
        memcpy(b + 2, half_one, 2);
        break;
    case TENSOR_Q6_K:
        memset(b + 192, 1, 16);
        memcpy(b + 208, half_one, 2);
        return;
    case TENSOR_IQ4_XS: /* 6 bits of 1 less 32: -31 */
        memset(b + 4, 0x11, 4);
        break;
    default:
        break;
    }
    memcpy(b, half_one, 2);
}

static void test_bits(void)
{
    for (size_t i = 0; i < ARRAY_LEN(bit_cases); i++) {
        const struct bit_case *c = &bit_cases[i];
        unsigned n = tensor_type_find((uint32_t)c->type)->block_values;
        uint8_t block[256];
        double before[256], after[256];
        start_block(c->type, block);
        quant_decode(c->type, block, n, before);
        block[c->byte] ^= (uint8_t)(1u << c->bit);
        quant_decode(c->type, block, n, after);
        for (unsigned j = 0; j < n; j++) {
            double want = j >= c->first && j < c->first + c->count ? c->by : 0;
            check_count++;
            if (after[j] - before[j] != want) {
                check_fail(__FILE__, __LINE__, "a bit moves the right value");
                fprintf(stderr, "    %s, byte %u, bit %u: value %u moves by %g, expected %g\n",
                        name_of(c->type), c->byte, c->bit, j, after[j] - before[j], want);
            }
        }
    }
}

/* Root of the mean squared error over the root of the mean square. */
static double round_trip(enum tensor_type type, const float *row, uint64_t n, double *ret_most)
{
    static uint8_t blocks[ROW * 4];
    static double back[ROW];
    double error = 0, square = 0;
    CHECK(quant_row_bytes(type, n) <= sizeof(blocks));
    memset(blocks, 0xa5, sizeof(blocks)); /* the encoder clears what it or-s into */
    quant_encode(type, row, n, blocks);
    quant_decode(type, blocks, n, back);
    *ret_most = 0;
    for (uint64_t i = 0; i < n; i++) {
        CHECK(isfinite(back[i]));
        double off = back[i] - (double)row[i];
        error += off * off;
        square += (double)row[i] * (double)row[i];
        *ret_most = fmax(*ret_most, fabs(off));
    }
    return square == 0 ? sqrt(error) : sqrt(error / square);
}

static float gauss(struct check_rng *rng)
{
    float sum = 0;
    for (int i = 0; i < 12; i++)
        sum += check_rng_float(rng, -0.5f, 0.5f);
    return sum;
}

/* Relative error on normally distributed weights; about 1.2 times what a good encoder reaches. */
static const struct {
    enum tensor_type type;
    double most;
} bounds[] = {
    {TENSOR_F32, 0},       {TENSOR_F16, 2.2e-4},  {TENSOR_BF16, 1.8e-3}, {TENSOR_Q8_0, 6.5e-3},
    {TENSOR_Q6_K, 0.022},  {TENSOR_Q5_0, 0.046},  {TENSOR_Q5_1, 0.042},  {TENSOR_Q5_K, 0.042},
    {TENSOR_Q4_0, 0.095},  {TENSOR_Q4_1, 0.085},  {TENSOR_Q4_K, 0.085},  {TENSOR_IQ4_NL, 0.08},
    {TENSOR_IQ4_XS, 0.08}, {TENSOR_MXFP4, 0.125}, {TENSOR_Q3_K, 0.17},   {TENSOR_Q2_K, 0.31},
};

static void test_round_trips(struct check_rng *rng)
{
    static float row[ROW];
    CHECK_INT(ARRAY_LEN(bounds), ARRAY_LEN(all_types));
    for (size_t t = 0; t < ARRAY_LEN(bounds); t++) {
        double worst = 0, most;
        for (int round = 0; round < 4; round++) {
            float size = ldexpf(1, round * 5 - 12);
            for (int i = 0; i < ROW; i++)
                row[i] = size * gauss(rng);
            worst = fmax(worst, round_trip(bounds[t].type, row, ROW, &most));
        }
        printf("%-7s relative error %.5f\n", name_of(bounds[t].type), worst);
        check_count++;
        if (!(worst <= bounds[t].most)) {
            check_fail(__FILE__, __LINE__, "error of a round trip");
            fprintf(stderr, "    %s: %g, expected at most %g\n", name_of(bounds[t].type), worst,
                    bounds[t].most);
        }
    }
}

static void test_edges(void)
{
    static float row[ROW];
    for (size_t t = 0; t < ARRAY_LEN(all_types); t++) {
        enum tensor_type type = all_types[t];
        bool codebook = type == TENSOR_IQ4_NL || type == TENSOR_IQ4_XS; /* lopsided, without a 0 */
        bool few = type == TENSOR_Q2_K || type == TENSOR_Q3_K;
        double most, relative;
        memset(row, 0, sizeof(row));
        round_trip(type, row, ROW, &most);
        CHECK(most == 0); /* zeros stay zeros */
        for (int i = 0; i < ROW; i++)
            row[i] = -0.25f; /* one level is enough, and only a minimum can be negative in affine
                                types */
        relative = round_trip(type, row, ROW, &most);
        CHECK(relative < 0.02);
        for (int i = 0; i < ROW; i++)
            row[i] = i % 2 == 0 ? 1.0f : -1.0f; /* two levels */
        relative = round_trip(type, row, ROW, &most);
        CHECK(relative < (few ? 0.1 : codebook ? 0.05 : 0.04));
        for (int i = 0; i < ROW; i++)
            row[i] = i % 32 == 7 ? -64.0f : 0; /* a spike in every block keeps its size */
        relative = round_trip(type, row, ROW, &most);
        CHECK(relative < (codebook ? 0.05 : 0.02));
        for (int i = 0; i < ROW; i++)
            row[i] = (i % 3 == 0 ? -1.0f : 1.0f) * 60000.0f; /* the largest halves */
        relative = round_trip(type, row, ROW, &most);
        CHECK(relative < 0.15);
        for (int i = 0; i < ROW; i++)
            row[i] = i % 5 == 0 ? -3e38f : 3e38f; /* beyond every half: finite, whatever else */
        round_trip(type, row, ROW, &most);
        for (int i = 0; i < ROW; i++)
            row[i] = i % 5 == 0 ? -1e-38f : 1e-40f; /* below every half */
        round_trip(type, row, ROW, &most);
        CHECK(most <= 2e-38);
    }
    CHECK_INT(quant_row_bytes(TENSOR_Q4_K, 257), 0);
    CHECK_INT(quant_row_bytes(TENSOR_Q4_K, 512), 288);
    CHECK_INT(quant_row_bytes(TENSOR_MXFP4, 32), 17);
    CHECK_INT(quant_row_bytes(TENSOR_BF16, 3), 6);
}

/* Each matrix of a file that llama.cpp quantized, against the same of the F16 file; and our encoder
 * against its. */
static void test_file(const char *dir, const char *name)
{
    char paths[2][1024];
    struct gguf *f16 = NULL, *g = NULL;
    struct err_msg why;
    snprintf(paths[0], sizeof(paths[0]), "%s/octo-tiny-f16.gguf", dir);
    snprintf(paths[1], sizeof(paths[1]), "%s/octo-tiny-%s.gguf", dir, name);
    CHECK_OK(gguf_open(paths[0], &f16, &why), why);
    CHECK_OK(gguf_open(paths[1], &g, &why), why);
    size_t seen = 0;
    for (size_t i = 0; f16 != NULL && g != NULL && i < gguf_tensor_count(g); i++) {
        const struct gguf_tensor *t = gguf_tensor_at(g, i);
        const struct gguf_tensor *from = gguf_tensor_find(f16, "");
        char text[128];
        snprintf(text, sizeof(text), "%.*s", STR_ARG(t->name));
        from = gguf_tensor_find(f16, text);
        if (!CHECK(from != NULL) || t->dims_count < 2)
            continue;
        seen++;
        static double want[ROW], got[ROW];
        static float row[ROW];
        uint64_t cols = t->dims[0], rows = t->dims[1] < 64 ? t->dims[1] : 64;
        double error = 0, ours = 0, square = 0, most;
        for (uint64_t r = 0; r < rows; r++) {
            quant_decode(from->type, from->data + r * quant_row_bytes(from->type, cols), cols,
                         want);
            quant_decode(t->type, t->data + r * quant_row_bytes(t->type, cols), cols, got);
            double row_square = 0;
            for (uint64_t c = 0; c < cols; c++) {
                row[c] = (float)want[c];
                error += (got[c] - want[c]) * (got[c] - want[c]);
                row_square += want[c] * want[c];
            }
            ours += pow(round_trip(t->type, row, cols, &most), 2) * row_square;
            square += row_square;
        }
        error = sqrt(error / square);
        ours = sqrt(ours / square);
        double limit = t->type == TENSOR_Q8_0   ? 0.008
                       : t->type == TENSOR_Q6_K ? 0.025
                       : t->type == TENSOR_Q4_K ? 0.095
                                                : 0;
        check_count++;
        if (!(error <= limit && ours <= 1.1 * error)) {
            check_fail(__FILE__, __LINE__,
                       "a real file's tensor is near the F16 one, and so is ours");
            fprintf(stderr, "    %s, %s: %g, ours %g, expected at most %g\n", text,
                    name_of(t->type), error, ours, limit);
        }
    }
    CHECK_INT(seen, 57);
    gguf_close(&g);
    gguf_close(&f16);
}

int main(int argc, char **argv)
{
    if (argc != 2)
        return 2;
    struct check_rng rng = check_rng_start(20);
    test_rounding();
    test_bits();
    test_round_trips(&rng);
    test_edges();
    test_file(argv[1], "q8_0");
    test_file(argv[1], "q4_k_m");
    return check_report();
}
