/* Rows of random and of edge blocks for every tensor type. What they are worth says
 * tests/quant/decode.c: naive, in double, written from the formats; it shares nothing with the
 * shaders or the repacking. */
#ifndef OCTO_TESTS_DEQUANT_TWIN_H
#define OCTO_TESTS_DEQUANT_TWIN_H

#include "tests/engine/kernel_bed.h"
#include "tests/quant/quantize.h"

static inline void put_half(uint8_t *p, unsigned bits)
{
    p[0] = (uint8_t)bits;
    p[1] = (uint8_t)(bits >> 8);
}

/* Where a block has its halves; returns how many (0: MXFP4 and types without blocks). */
static inline unsigned scales_of(enum tensor_type type, unsigned ret_at[2])
{
    unsigned first, count = 1;
    switch (type) {
    case TENSOR_Q4_0:
    case TENSOR_Q5_0:
    case TENSOR_Q8_0:
    case TENSOR_IQ4_NL:
    case TENSOR_IQ4_XS:
        first = 0;
        break;
    case TENSOR_Q4_1:
    case TENSOR_Q5_1:
    case TENSOR_Q4_K:
    case TENSOR_Q5_K:
        first = 0;
        count = 2;
        break;
    case TENSOR_Q2_K:
        first = 80;
        count = 2;
        break;
    case TENSOR_Q3_K:
        first = 108;
        break;
    case TENSOR_Q6_K:
        first = 208;
        break;
    default:
        return 0;
    }
    ret_at[0] = first;
    ret_at[1] = first + 2;
    return count;
}

/* A finite half: usual sizes, sometimes an edge (0, largest, smallest subnormal, negative). */
static inline unsigned random_scale(struct check_rng *rng)
{
    static const unsigned edges[] = {0x0000, 0x8000, 0x7bff, 0xfbff,
                                     0x0001, 0x03ff, 0x0400, 0x3c00};
    if (check_rng_below(rng, 12) == 0)
        return edges[check_rng_below(rng, 8)];
    /* exponents 5..15, that is 2^-10 .. 2 */
    return (unsigned)(check_rng_below(rng, 2) << 15 | (5 + check_rng_below(rng, 10)) << 10 |
                      check_rng_below(rng, 1024));
}

/* One block: random bits, or all quants' (and small scales') bits 0 or 1; `zero`: all of it 0. */
static inline void random_block(const struct tensor_type_info *info, struct check_rng *rng,
                                uint8_t *block)
{
    unsigned at[2], count = scales_of(info->type, at);
    uint64_t kind = check_rng_below(rng, 12);
    for (unsigned i = 0; i < info->block_bytes; i++)
        block[i] = kind <= 1 ? 0 : kind == 2 ? 0xff : (uint8_t)check_rng_next(rng);
    for (unsigned i = 0; i < count && kind != 0; i++)
        put_half(block + at[i], random_scale(rng));
    if (info->type == TENSOR_MXFP4 && kind != 0) /* sums of 700 stay finite */
        block[0] = (uint8_t)(kind == 1 ? check_rng_below(rng, 4) : check_rng_below(rng, 240));
    if (info->type == TENSOR_MXFP4 && kind > 3)
        block[0] = (uint8_t)(117 + check_rng_below(rng, 16));
}

static inline void random_row(enum tensor_type type, struct check_rng *rng, uint64_t cols,
                              uint8_t *row)
{
    const struct tensor_type_info *info = tensor_type_find((uint32_t)type);
    for (uint64_t i = 0; i < cols / info->block_values; i++) {
        uint8_t *block = row + i * info->block_bytes;
        float f = check_rng_float(rng, -1, 1);
        uint32_t bits;
        memcpy(&bits, &f, 4);
        if (type == TENSOR_F32)
            memcpy(block, &f, 4);
        else if (type == TENSOR_BF16)
            put_half(block, check_rng_below(rng, 12) == 0 ? 0x8000 : bits >> 16);
        else if (type == TENSOR_F16)
            put_half(block, random_scale(rng));
        else
            random_block(info, rng, block);
    }
}

/* Is `have` what an f32 computation gives whose exact value is `want`? It rounds once; a device may
 * take what is below the smallest normal number for 0. */
static inline bool is_value(float have, double want)
{
    return have == (float)want || (fabs(want) < ldexp(1, -126) && have == 0);
}

#endif
