/* Block formats, naively: one value at a time, in double, from the file's bytes as the GGUF format
 * describes them. Shares nothing with the shaders or the repacking. */
#ifndef OCTO_TESTS_DEQUANT_TWIN_H
#define OCTO_TESTS_DEQUANT_TWIN_H

#include "tests/engine/kernel_bed.h"

static inline double half_at(const uint8_t *p)
{
    return half_value((uint16_t)(p[0] | p[1] << 8));
}

/* Value i of a row; *ret_magnitude: the sum of the absolute terms (what rounding errors are
 * proportional to). */
static inline double twin_value(enum tensor_type type, const uint8_t *row, uint64_t i,
                                double *ret_magnitude)
{
    double v = NAN, magnitude;
    if (type == TENSOR_F32) {
        float f;
        memcpy(&f, row + i * 4, 4);
        v = f;
    } else if (type == TENSOR_F16) {
        v = half_at(row + i * 2);
    } else if (type == TENSOR_Q8_0) {
        const uint8_t *block = row + i / 32 * 34;
        v = half_at(block) * (double)(int8_t)block[2 + i % 32];
    } else if (type == TENSOR_Q4_K) {
        const uint8_t *block = row + i / 256 * 144, *s = block + 4;
        unsigned j = (unsigned)(i % 256) / 32, l = (unsigned)(i % 32); /* sub-block, place in it */
        unsigned scale = j < 4 ? s[j] & 63u : (s[j + 4] & 15u) | (unsigned)(s[j - 4] >> 6) << 4;
        unsigned least =
            j < 4 ? s[j + 4] & 63u : (unsigned)(s[j + 4] >> 4) | (unsigned)(s[j] >> 6) << 4;
        unsigned byte = block[16 + j / 2 * 32 + l];
        unsigned q = j % 2 == 0 ? byte & 15u : byte >> 4;
        double high = half_at(block) * scale * q, low = half_at(block + 2) * least;
        *ret_magnitude = fabs(high) + fabs(low);
        return high - low;
    } else if (type == TENSOR_Q6_K) {
        const uint8_t *block = row + i / 256 * 210;
        unsigned n = (unsigned)(i % 256), half = n / 128, within = n % 128, part = within / 32,
                 l = within % 32;
        unsigned byte = block[half * 64 + (part % 2) * 32 + l];
        unsigned low = part < 2 ? byte & 15u : byte >> 4;
        unsigned high = (block[128 + half * 32 + l] >> (2 * part)) & 3u;
        int scale = (int8_t)block[192 + n / 16];
        v = half_at(block + 208) * scale * ((int)(low | high << 4) - 32);
    }
    magnitude = fabs(v);
    *ret_magnitude = magnitude;
    return v;
}

static inline uint64_t twin_row_bytes(enum tensor_type type, uint64_t cols)
{
    switch (type) {
    case TENSOR_F32:
        return cols * 4;
    case TENSOR_F16:
        return cols * 2;
    case TENSOR_Q8_0:
        return cols / 32 * 34;
    case TENSOR_Q4_K:
        return cols / 256 * 144;
    case TENSOR_Q6_K:
        return cols / 256 * 210;
    default:
        return 0;
    }
}

static inline void put_half(uint8_t *p, unsigned bits)
{
    p[0] = (uint8_t)bits;
    p[1] = (uint8_t)(bits >> 8);
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

/* A row of random blocks; now and then all bits of a block's quants 0 or 1. */
static inline void random_row(enum tensor_type type, struct check_rng *rng, uint64_t cols,
                              uint8_t *row)
{
    uint64_t bytes = twin_row_bytes(type, cols);
    if (type == TENSOR_F32) {
        for (uint64_t i = 0; i < cols; i++) {
            float f = check_rng_float(rng, -1, 1);
            memcpy(row + i * 4, &f, 4);
        }
        return;
    }
    if (type == TENSOR_F16) {
        for (uint64_t i = 0; i < cols; i++)
            put_half(row + i * 2, random_scale(rng));
        return;
    }
    uint64_t block = type == TENSOR_Q8_0 ? 34 : type == TENSOR_Q4_K ? 144 : 210;
    for (uint64_t at = 0; at < bytes; at += block) {
        uint64_t kind = check_rng_below(rng, 10);
        for (uint64_t i = 0; i < block; i++)
            row[at + i] = kind == 0 ? 0 : kind == 1 ? 0xff : (uint8_t)check_rng_next(rng);
        put_half(row + at + (type == TENSOR_Q6_K ? 208 : 0), random_scale(rng));
        if (type == TENSOR_Q4_K)
            put_half(row + at + 2, random_scale(rng));
    }
}

#endif
