/* What the tests of the matrix family share: its layouts, written from shaders/matrix.glsl's
 * description, and f16 numbers. On top of kernel_bed.h. Every test runs on the emulation, and on
 * matrix units too where the device has them. */
#ifndef OCTO_TESTS_MATRIX_BED_H
#define OCTO_TESTS_MATRIX_BED_H

#include "base/size.h"
#include "engine/matrix.h"
#include "tests/engine/rows_bed.h"
#include "tests/quant/quantize.h"

enum { UNTOUCHED = 0xffff }; /* a half of the guard's bytes: no kernel writes a NaN here */

static inline struct matrix *make_matrix(struct bed *b, uint32_t head_size, bool emulated)
{
    struct err_msg why = {""};
    struct matrix *m = NULL;
    CHECK_OK(matrix_create(b->gpu, head_size, 256, emulated, &m, &why), why);
    if (m == NULL)
        exit(1);
    CHECK_OK(matrix_compile(m, &why), why);
    return m;
}

/* Which column 2q, 2q + 1, 2q + 8, 2q + 9 of a product's 16 value c stands for, as (q, its place
 * 0..3). */
struct octet_place {
    uint32_t q, i; /* value i of octet q of a group of 32 */
};

static inline struct octet_place octet_place(uint32_t k)
{
    uint32_t c = k % 32;
    return (struct octet_place){c % 16 / 4, c / 16 * 4 + c % 4};
}

/* In halves. f16 [rows / 16][k / 32][2][32 lanes][8], a lane: row * 4 + octet. */
static inline size_t weight_place(uint32_t row, uint32_t k, uint32_t groups)
{
    struct octet_place o = octet_place(k);
    size_t group = (size_t)(row / 16) * groups + k / 32;
    return ((group * 2 + row % 16 / 8) * 32 + row % 8 * 4 + o.q) * 8 + o.i;
}

/* In halves. f16 [rows / 8][k / 32][32 lanes][8], a lane: row * 4 + octet. */
static inline size_t row_place(uint32_t row, uint32_t k, uint32_t groups)
{
    struct octet_place o = octet_place(k);
    return (((size_t)(row / 8) * groups + k / 32) * 32 + row % 8 * 4 + o.q) * 8 + o.i;
}

static inline size_t row_tiles_bytes(uint32_t rows, uint32_t cols)
{
    return (size_t)(rows + 7) / 8 * 8 * ((cols + 31) / 32) * 32 * sizeof(uint16_t);
}

/* Rows of f16 of about -1 .. 1. */
static inline uint16_t *random_halves(struct bed *b, size_t count, float most)
{
    uint16_t *x = take(count * sizeof *x);
    for (size_t i = 0; i < count; i++)
        x[i] = quant_to_half((double)check_rng_float(&b->rng, -most, most));
    return x;
}

/* Bound of a value's rounding to f16: one unit, to nearest or not. */
static inline double half_unit(double x)
{
    return ldexp(fabs(x), -10) + ldexp(1, -24);
}

/* Of a page's values, [head][dimension][key]; its keys lie as cell() has them. */
static inline uint16_t *value_cell(const struct cache *c, uint32_t seq, uint32_t pos,
                                   uint32_t kv_head, uint32_t d)
{
    size_t page = c->pages[seq * c->pages_stride + pos / PAGE_TOKENS];
    size_t half = (size_t)c->n_head_kv * PAGE_TOKENS * c->head_size;
    return c->kv + page * (c->page_bytes / 2) + half +
           ((size_t)kv_head * c->head_size + d) * PAGE_TOKENS + pos % PAGE_TOKENS;
}

#endif
