/* Encoders of the 16 types. Each block's scale (and minimum) is searched among a few candidates,
 * fitted by least squares, rounded to what the format stores; then every value takes the nearest
 * level of the stored scale. */
#include "tests/quant/quantize.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { BLOCK = 32, SUPER = 256, CANDIDATES = 9 };

uint16_t quant_to_half(double x)
{
    uint16_t sign = signbit(x) ? 0x8000 : 0;
    double a = fabs(x);
    if (isnan(x))
        return 0x7e00;
    if (isinf(x))
        return sign | 0x7c00;
    if (a >= 65504)
        return sign | 0x7bff;
    int exponent = a < ldexp(1, -14) ? -14 : ilogb(a);
    /* in units of the last place; rounding up to the next power of two carries into the exponent */
    unsigned units = (unsigned)nearbyint(ldexp(a, 10 - exponent));
    return (uint16_t)(sign | (units + ((unsigned)(exponent + 14) << 10)));
}

uint16_t quant_to_bf16(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof(bits));
    if (isnan(x))
        return (uint16_t)(bits >> 16 | 0x40);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

/* Stores the nearest half and returns what it holds. */
static double put_half(uint8_t *p, double x)
{
    uint16_t bits = quant_to_half(x);
    p[0] = (uint8_t)bits;
    p[1] = (uint8_t)(bits >> 8);
    return quant_from_half(bits);
}

static int level(double x, double scale, int low, int high)
{
    double q = scale == 0 ? 0 : nearbyint(x / scale);
    return q < low ? low : q > high ? high : (int)q;
}

/* The scale with the least squared error for x ~ scale * q, q in low..high; both signs are tried,
 * since low..high is lopsided. 0 for an all-zero block. */
static double fit_scale(const float *x, int n, int low, int high)
{
    double extreme = 0, best = 0, best_gain = 0;
    for (int i = 0; i < n; i++)
        if (fabs((double)x[i]) > fabs(extreme))
            extreme = (double)x[i];
    if (extreme == 0)
        return 0;
    for (int c = 0; c < 2 * CANDIDATES; c++) {
        double reach = (c % 2 == 0 ? low : high) * (1 + (c / 2 - CANDIDATES / 2) * 0.04);
        double try = extreme / reach, xq = 0, qq = 0;
        for (int i = 0; i < n; i++) {
            int q = level((double)x[i], try, low, high);
            xq += (double)x[i] * q;
            qq += (double)q * q;
        }
        /* the fitted scale is xq / qq, and the squared error falls by xq^2 / qq */
        if (qq > 0 && xq * xq / qq > best_gain) {
            best_gain = xq * xq / qq;
            best = xq / qq;
        }
    }
    return best;
}

/* Scale and minimum for x ~ scale * q + least, q in 0..high. With `below`, least is at most 0 (K
 * types store it as a subtracted amount). */
static void fit_affine(const float *x, int n, int high, bool below, double *ret_scale,
                       double *ret_least)
{
    double low = (double)x[0], top = (double)x[0], best = DBL_MAX;
    for (int i = 1; i < n; i++) {
        low = fmin(low, (double)x[i]);
        top = fmax(top, (double)x[i]);
    }
    if (below && low > 0)
        low = 0;
    *ret_scale = top > low ? (top - low) / high : 0;
    *ret_least = low;
    if (!(top > low))
        return;
    for (int c = 0; c < CANDIDATES; c++) {
        double scale = (top - low) / (high * (1 + (c - 2) * 0.04)), least = low;
        for (int round = 0; round < 2; round++) {
            double sq = 0, sqq = 0, sx = 0, sxq = 0, error = 0;
            for (int i = 0; i < n; i++) {
                double v = (double)x[i], q = level(v - least, scale, 0, high);
                double off = v - least - scale * q;
                error += off * off;
                sq += q;
                sqq += q * q;
                sx += v;
                sxq += v * q;
            }
            if (error < best && scale > 0) {
                best = error;
                *ret_scale = scale;
                *ret_least = least;
            }
            double determinant = n * sqq - sq * sq;
            if (determinant <= 0)
                break;
            scale = (n * sxq - sx * sq) / determinant;
            least = (sx - scale * sq) / n;
            if (below && least > 0) {
                least = 0;
                scale = sqq > 0 ? sxq / sqq : scale;
            }
        }
    }
}

/* ---- blocks of 32 ---- */

static void put_nibble(uint8_t *qs, int j, int q)
{
    qs[j % 16] |= (uint8_t)(j < 16 ? q : q << 4);
}

static void encode_symmetric(enum tensor_type type, const float *x, uint8_t *b)
{
    bool five = type == TENSOR_Q5_0;
    int half = five ? 16 : 8;
    double d = put_half(b, fit_scale(x, BLOCK, -half, half - 1));
    for (int j = 0; j < BLOCK; j++) {
        int q = level((double)x[j], d, -half, half - 1) + half;
        put_nibble(b + (five ? 6 : 2), j, q & 15);
        if (five)
            b[2 + j / 8] |= (uint8_t)(q >> 4 << j % 8);
    }
}

static void encode_affine(enum tensor_type type, const float *x, uint8_t *b)
{
    bool five = type == TENSOR_Q5_1;
    int high = five ? 31 : 15;
    double scale, least;
    fit_affine(x, BLOCK, high, false, &scale, &least);
    double d = put_half(b, scale), m = put_half(b + 2, least);
    for (int j = 0; j < BLOCK; j++) {
        int q = level((double)x[j] - m, d, 0, high);
        put_nibble(b + (five ? 8 : 4), j, q & 15);
        if (five)
            b[4 + j / 8] |= (uint8_t)(q >> 4 << j % 8);
    }
}

static void encode_q8_0(const float *x, uint8_t *b)
{
    double most = 0;
    for (int j = 0; j < BLOCK; j++)
        most = fmax(most, fabs((double)x[j]));
    double d = put_half(b, most / 127);
    for (int j = 0; j < BLOCK; j++)
        b[2 + j] = (uint8_t)(int8_t)level((double)x[j], d, -127, 127);
}

/* The codebook ascends: halving finds the two neighbours. */
static int nearest_code(double x)
{
    int low = 0, high = 15;
    while (high - low > 1) {
        int middle = (low + high) / 2;
        if (x >= quant_codebook[middle])
            low = middle;
        else
            high = middle;
    }
    return x - quant_codebook[low] <= quant_codebook[high] - x ? low : high;
}

/* fit_scale() over the codebook. */
static double fit_codebook(const float *x)
{
    double extreme = 0, best = 0, best_gain = 0;
    for (int j = 0; j < BLOCK; j++)
        if (fabs((double)x[j]) > fabs(extreme))
            extreme = (double)x[j];
    if (extreme == 0)
        return 0;
    for (int c = 0; c < 2 * CANDIDATES; c++) {
        double reach = (c % 2 == 0 ? -127 : 113) * (1 + (c / 2 - CANDIDATES / 2) * 0.04);
        double try = extreme / reach, xq = 0, qq = 0;
        for (int j = 0; j < BLOCK; j++) {
            double q = quant_codebook[nearest_code((double)x[j] / try)];
            xq += (double)x[j] * q;
            qq += q * q;
        }
        if (xq * xq / qq > best_gain) {
            best_gain = xq * xq / qq;
            best = xq / qq;
        }
    }
    return best;
}

static void put_codes(const float *x, double d, uint8_t *qs)
{
    for (int j = 0; j < BLOCK; j++)
        put_nibble(qs, j, nearest_code(d == 0 ? 0 : (double)x[j] / d));
}

static double mxfp4_codes(const float *x, int e, uint8_t *qs)
{
    double error = 0;
    for (int j = 0; j < BLOCK; j++) {
        double v = ldexp((double)x[j], 127 - e);
        int best = 0;
        for (int q = 1; q < 16; q++)
            if (q != 8 && fabs(v - (double)quant_e2m1[q]) < fabs(v - (double)quant_e2m1[best]))
                best = q;
        put_nibble(qs, j, best);
        error += pow((double)x[j] - ldexp((double)quant_e2m1[best], e - 127), 2);
    }
    return error;
}

/* The exponent whose largest value (6) is next to the block's, or the one above: what errs less. */
static void encode_mxfp4(const float *x, uint8_t *b)
{
    double most = 0, best = DBL_MAX;
    for (int j = 0; j < BLOCK; j++)
        most = fmax(most, fabs((double)x[j]));
    int first = most == 0 ? 0 : ilogb(most) - 2 + 127;
    for (int e = first; e <= first + 1; e++) {
        uint8_t qs[16] = {0};
        int stored = e < 0 ? 0 : e > 254 ? 254 : e;
        double error = mxfp4_codes(x, stored, qs);
        if (error < best) {
            best = error;
            b[0] = (uint8_t)stored;
            memcpy(b + 1, qs, sizeof(qs));
        }
    }
}

/* ---- blocks of 256 ---- */

/* Scales and minimums of `subs` sub-blocks to integers 0..most under two halves; returns what the
 * halves hold. */
static void fit_super(const float *x, int subs, int high, int most, uint8_t *ret_scales,
                      uint8_t *ret_mins, uint8_t *at_d, uint8_t *at_dmin, double *ret_d,
                      double *ret_dmin)
{
    double scales[16], mins[16], top_scale = 0, top_min = 0;
    int n = SUPER / subs;
    for (int s = 0; s < subs; s++) {
        fit_affine(x + s * n, n, high, true, &scales[s], &mins[s]);
        top_scale = fmax(top_scale, scales[s]);
        top_min = fmax(top_min, -mins[s]);
    }
    *ret_d = put_half(at_d, top_scale / most);
    *ret_dmin = put_half(at_dmin, top_min / most);
    for (int s = 0; s < subs; s++) {
        ret_scales[s] = (uint8_t)level(scales[s], *ret_d, 0, most);
        ret_mins[s] = (uint8_t)level(-mins[s], *ret_dmin, 0, most);
    }
}

static void encode_q2_k(const float *x, uint8_t *b)
{
    uint8_t scales[16], mins[16];
    double d, dmin;
    fit_super(x, 16, 3, 15, scales, mins, b + 80, b + 82, &d, &dmin);
    for (int s = 0; s < 16; s++)
        b[s] = (uint8_t)(scales[s] | mins[s] << 4);
    for (int j = 0; j < SUPER; j++) {
        int q = level((double)x[j] + dmin * mins[j / 16], d * scales[j / 16], 0, 3);
        b[16 + j / 128 * 32 + j % 32] |= (uint8_t)(q << (j % 128 / 32 * 2));
    }
}

static void encode_q4_5_k(const float *x, uint8_t *b, bool five)
{
    uint8_t scales[8], mins[8], *s = b + 4;
    double d, dmin;
    fit_super(x, 8, five ? 31 : 15, 63, scales, mins, b, b + 2, &d, &dmin);
    for (int i = 0; i < 4; i++) {
        s[i] = (uint8_t)(scales[i] | scales[i + 4] >> 4 << 6);
        s[i + 4] = (uint8_t)(mins[i] | mins[i + 4] >> 4 << 6);
        s[i + 8] = (uint8_t)((scales[i + 4] & 15) | (mins[i + 4] & 15) << 4);
    }
    for (int j = 0; j < SUPER; j++) {
        int sub = j / 32;
        int q = level((double)x[j] + dmin * mins[sub], d * scales[sub], 0, five ? 31 : 15);
        b[(five ? 48 : 16) + j / 64 * 32 + j % 32] |= (uint8_t)((q & 15) << (sub % 2 * 4));
        if (five)
            b[16 + j % 32] |= (uint8_t)(q >> 4 << sub);
    }
}

/* Signed scales of sub-blocks to integers low..high under one half. */
static double fit_signed_super(const double *scales, int subs, int low, int high, uint8_t *at_d,
                               int *ret_scales)
{
    double extreme = 0;
    for (int s = 0; s < subs; s++)
        if (fabs(scales[s]) > fabs(extreme))
            extreme = scales[s];
    double d = put_half(at_d, extreme / low);
    for (int s = 0; s < subs; s++)
        ret_scales[s] = level(scales[s], d, low, high);
    return d;
}

static void encode_q3_k(const float *x, uint8_t *b)
{
    double fitted[16];
    int scales[16];
    for (int s = 0; s < 16; s++)
        fitted[s] = fit_scale(x + s * 16, 16, -4, 3);
    double d = fit_signed_super(fitted, 16, -32, 31, b + 108, scales);
    for (int s = 0; s < 16; s++) {
        int u = scales[s] + 32;
        b[96 + s % 8] |= (uint8_t)(s < 8 ? u & 15 : (u & 15) << 4);
        b[104 + s % 4] |= (uint8_t)(u >> 4 << (s / 4 * 2));
    }
    for (int j = 0; j < SUPER; j++) {
        int q = level((double)x[j], d * scales[j / 16], -4, 3);
        if (q >= 0)
            b[j % 32] |= (uint8_t)(1 << j / 32);
        b[32 + j / 128 * 32 + j % 32] |= (uint8_t)((q & 3) << (j % 128 / 32 * 2));
    }
}

static void encode_q6_k(const float *x, uint8_t *b)
{
    double fitted[16];
    int scales[16];
    for (int s = 0; s < 16; s++)
        fitted[s] = fit_scale(x + s * 16, 16, -32, 31);
    double d = fit_signed_super(fitted, 16, -128, 127, b + 208, scales);
    for (int s = 0; s < 16; s++)
        b[192 + s] = (uint8_t)(int8_t)scales[s];
    for (int j = 0; j < SUPER; j++) {
        int q = level((double)x[j], d * scales[j / 16], -32, 31) + 32;
        int part = j % 128 / 32;
        b[j / 128 * 64 + part % 2 * 32 + j % 32] |= (uint8_t)((q & 15) << (part / 2 * 4));
        b[128 + j / 128 * 32 + j % 32] |= (uint8_t)(q >> 4 << (part * 2));
    }
}

static void encode_iq4_xs(const float *x, uint8_t *b)
{
    double fitted[8];
    int scales[8];
    unsigned highs = 0;
    for (int s = 0; s < 8; s++)
        fitted[s] = fit_codebook(x + s * BLOCK);
    double d = fit_signed_super(fitted, 8, -32, 31, b, scales);
    for (int s = 0; s < 8; s++) {
        unsigned u = (unsigned)(scales[s] + 32);
        b[4 + s / 2] |= (uint8_t)((u & 15) << (s % 2 * 4));
        highs |= u >> 4 << (2 * s);
        put_codes(x + s * BLOCK, d * scales[s], b + 8 + s * 16);
    }
    b[2] = (uint8_t)highs;
    b[3] = (uint8_t)(highs >> 8);
}

static void encode_block(enum tensor_type type, const float *x, uint8_t *b)
{
    uint16_t bits;
    switch (type) {
    case TENSOR_F32:
        memcpy(b, x, sizeof(*x));
        return;
    case TENSOR_F16:
        put_half(b, (double)*x);
        return;
    case TENSOR_BF16:
        bits = quant_to_bf16(*x);
        b[0] = (uint8_t)bits;
        b[1] = (uint8_t)(bits >> 8);
        return;
    case TENSOR_Q4_0:
    case TENSOR_Q5_0:
        encode_symmetric(type, x, b);
        return;
    case TENSOR_Q4_1:
    case TENSOR_Q5_1:
        encode_affine(type, x, b);
        return;
    case TENSOR_Q8_0:
        encode_q8_0(x, b);
        return;
    case TENSOR_Q2_K:
        encode_q2_k(x, b);
        return;
    case TENSOR_Q3_K:
        encode_q3_k(x, b);
        return;
    case TENSOR_Q4_K:
    case TENSOR_Q5_K:
        encode_q4_5_k(x, b, type == TENSOR_Q5_K);
        return;
    case TENSOR_Q6_K:
        encode_q6_k(x, b);
        return;
    case TENSOR_IQ4_NL:
        put_codes(x, put_half(b, fit_codebook(x)), b + 2);
        return;
    case TENSOR_IQ4_XS:
        encode_iq4_xs(x, b);
        return;
    case TENSOR_MXFP4:
        encode_mxfp4(x, b);
        return;
    }
    abort();
}

void quant_encode(enum tensor_type type, const float *row, uint64_t n, void *out)
{
    const struct tensor_type_info *info = tensor_type_find((uint32_t)type);
    memset(out, 0, n / info->block_values * info->block_bytes);
    for (uint64_t i = 0; i < n / info->block_values; i++)
        encode_block(type, row + i * info->block_values, (uint8_t *)out + i * info->block_bytes);
}
