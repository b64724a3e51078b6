/* Decoders of the 16 types: one value at a time, in double, as the format reads. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tests/quant/quantize.h"

const int8_t quant_codebook[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                   1,    13,   25,  38,  53,  69,  89,  113};
const float quant_e2m1[16] = {0,     0.5f,  1,  1.5f,  2,  3,  4,  6,
                              -0.0f, -0.5f, -1, -1.5f, -2, -3, -4, -6};

uint64_t quant_row_bytes(enum tensor_type type, uint64_t n)
{
    const struct tensor_type_info *info = tensor_type_find((uint32_t)type);
    if (info == NULL || n % info->block_values != 0)
        return 0;
    return n / info->block_values * info->block_bytes;
}

double quant_from_half(uint16_t bits)
{
    int exponent = bits >> 10 & 31, mantissa = bits & 1023;
    double sign = bits & 0x8000 ? -1.0 : 1.0;
    if (exponent == 31)
        return mantissa != 0 ? NAN : sign * INFINITY;
    return exponent == 0 ? sign * ldexp(mantissa, -24)
                         : sign * ldexp(1024 + mantissa, exponent - 25);
}

static double half_at(const uint8_t *p)
{
    return quant_from_half((uint16_t)(p[0] | p[1] << 8));
}

/* Four bits of value j of 32: the first 16 values lie in the low halves. */
static unsigned nibble(const uint8_t *qs, unsigned j)
{
    return j < 16 ? qs[j] & 15u : qs[j - 16] >> 4;
}

static unsigned bit(const uint8_t *bits, unsigned j)
{
    return bits[j / 8] >> (j % 8) & 1u;
}

static double small_value(enum tensor_type type, const uint8_t *b, unsigned j)
{
    switch (type) {
    case TENSOR_Q4_0:
        return half_at(b) * ((int)nibble(b + 2, j) - 8);
    case TENSOR_Q4_1:
        return half_at(b) * nibble(b + 4, j) + half_at(b + 2);
    case TENSOR_Q5_0:
        return half_at(b) * ((int)(nibble(b + 6, j) | bit(b + 2, j) << 4) - 16);
    case TENSOR_Q5_1:
        return half_at(b) * (nibble(b + 8, j) | bit(b + 4, j) << 4) + half_at(b + 2);
    case TENSOR_Q8_0:
        return half_at(b) * (int8_t)b[2 + j];
    case TENSOR_IQ4_NL:
        return half_at(b) * quant_codebook[nibble(b + 2, j)];
    case TENSOR_MXFP4:
        return b[0] == 255 ? NAN : ldexp((double)quant_e2m1[nibble(b + 1, j)], b[0] - 127);
    default:
        abort();
    }
}

static double q2_k(const uint8_t *b, unsigned j)
{
    unsigned scale = b[j / 16];
    unsigned q = b[16 + j / 128 * 32 + j % 32] >> (j % 128 / 32 * 2) & 3u;
    return half_at(b + 80) * (scale & 15u) * q - half_at(b + 82) * (scale >> 4);
}

static double q3_k(const uint8_t *b, unsigned j)
{
    const uint8_t *mask = b, *qs = b + 32, *s = b + 96;
    unsigned sub = j / 16;
    unsigned low = sub < 8 ? s[sub] & 15u : s[sub - 8] >> 4;
    unsigned high = s[8 + sub % 4] >> (sub / 4 * 2) & 3u;
    int q = qs[j / 128 * 32 + j % 32] >> (j % 128 / 32 * 2) & 3;
    if ((mask[j % 32] >> (j / 32) & 1) == 0)
        q -= 4;
    return half_at(b + 108) * ((int)(low | high << 4) - 32) * q;
}

/* The twelve bytes of Q4_K and Q5_K: eight 6-bit scales and eight 6-bit minimums. */
static void scale_min(const uint8_t *s, unsigned sub, unsigned *ret_scale, unsigned *ret_min)
{
    if (sub < 4) {
        *ret_scale = s[sub] & 63u;
        *ret_min = s[sub + 4] & 63u;
    } else {
        *ret_scale = (s[sub + 4] & 15u) | (unsigned)(s[sub - 4] >> 6) << 4;
        *ret_min = (unsigned)(s[sub + 4] >> 4) | (unsigned)(s[sub] >> 6) << 4;
    }
}

static double q4_5_k(const uint8_t *b, unsigned j, bool five)
{
    unsigned scale, least, sub = j / 32;
    const uint8_t *qs = b + (five ? 48 : 16);
    scale_min(b + 4, sub, &scale, &least);
    unsigned byte = qs[j / 64 * 32 + j % 32];
    unsigned q = sub % 2 == 0 ? byte & 15u : byte >> 4;
    if (five)
        q |= (b[16 + j % 32] >> sub & 1u) << 4;
    return half_at(b) * scale * q - half_at(b + 2) * least;
}

static double q6_k(const uint8_t *b, unsigned j)
{
    unsigned part = j % 128 / 32; /* four runs of 32 share 64 bytes of low and 32 of high bits */
    unsigned byte = b[j / 128 * 64 + part % 2 * 32 + j % 32];
    unsigned low = part < 2 ? byte & 15u : byte >> 4;
    unsigned high = b[128 + j / 128 * 32 + j % 32] >> (2 * part) & 3u;
    return half_at(b + 208) * (int8_t)b[192 + j / 16] * ((int)(low | high << 4) - 32);
}

static double iq4_xs(const uint8_t *b, unsigned j)
{
    unsigned sub = j / 32, highs = (unsigned)(b[2] | b[3] << 8);
    unsigned low = b[4 + sub / 2] >> (sub % 2 * 4) & 15u;
    int scale = (int)(low | (highs >> (2 * sub) & 3u) << 4) - 32;
    return half_at(b) * scale * quant_codebook[nibble(b + 8 + sub * 16, j % 32)];
}

static double large_value(enum tensor_type type, const uint8_t *b, unsigned j)
{
    switch (type) {
    case TENSOR_Q2_K:
        return q2_k(b, j);
    case TENSOR_Q3_K:
        return q3_k(b, j);
    case TENSOR_Q4_K:
    case TENSOR_Q5_K:
        return q4_5_k(b, j, type == TENSOR_Q5_K);
    case TENSOR_Q6_K:
        return q6_k(b, j);
    case TENSOR_IQ4_XS:
        return iq4_xs(b, j);
    default:
        abort();
    }
}

static double plain_value(enum tensor_type type, const uint8_t *b)
{
    float f;
    uint32_t bits;
    switch (type) {
    case TENSOR_F32:
        memcpy(&f, b, sizeof(f));
        return (double)f;
    case TENSOR_F16:
        return half_at(b);
    case TENSOR_BF16:
        bits = (uint32_t)b[0] << 16 | (uint32_t)b[1] << 24;
        memcpy(&f, &bits, sizeof(f));
        return (double)f;
    default:
        abort();
    }
}

void quant_decode(enum tensor_type type, const void *blocks, uint64_t n, double *out)
{
    const struct tensor_type_info *info = tensor_type_find((uint32_t)type);
    for (uint64_t i = 0; i < n; i++) {
        const uint8_t *b = (const uint8_t *)blocks + i / info->block_values * info->block_bytes;
        unsigned j = (unsigned)(i % info->block_values);
        out[i] = info->block_values == 1    ? plain_value(type, b)
                 : info->block_values == 32 ? small_value(type, b, j)
                                            : large_value(type, b, j);
    }
}
