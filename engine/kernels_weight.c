/* Weights from the file's layout to the GPU's: the C side of shaders/weights.glsl, which describes
 * it. Values never change: bytes are only put where neighbouring columns find them side by side.
 * The formats are those of GGUF (ggml, docs/gguf.md); each pack function says how its blocks lie in
 * the file. */
#include <stdlib.h>
#include <string.h>

#include "base/size.h"
#include "engine/kernels.h"

enum {
    STRIPE = 32,
    SLICE = MATMUL_SLICE,
    GROUP = 32,
    UNIT_BYTES = 16,
    SLICE_GROUPS = SLICE / GROUP
};
enum { MAX_SLICE_BYTES = SLICE * 4 + UNIT_BYTES };

/* One row's slice: `groups` groups from the file's blocks at src into `dst` (all 0) as units, then
 * the tail words. Values the row does not have are not read (`values` of them are there). false: a
 * scale is NaN or infinite. */
typedef bool pack_fn(const uint8_t *src, uint32_t values, uint32_t groups, uint8_t *dst);

static bool half_is_finite(const uint8_t *p)
{
    return ((p[1] >> 2) & 31) != 31;
}

static bool pack_f32(const uint8_t *src, uint32_t values, uint32_t groups, uint8_t *dst)
{
    (void)groups;
    memcpy(dst, src, values * 4);
    return true;
}

/* F16, BF16 */
static bool pack_16_bits(const uint8_t *src, uint32_t values, uint32_t groups, uint8_t *dst)
{
    (void)groups;
    memcpy(dst, src, values * 2);
    return true;
}

/* ---- blocks of 32 ---- */

/* Where the fields of a block of 32 lie and where they go. Quants are a group's units, as they are.
 */
struct block32 {
    uint32_t bytes;
    uint32_t scales;      /* halves at the start: d, or d and m */
    uint32_t quant_bytes; /* at the end */
    uint32_t quants_at;   /* in the slice: after the heads */
    uint32_t high_at;     /* 0, or of the upper bits, which lie behind the scales in the file */
};

static bool pack_block32(const struct block32 *b, const uint8_t *src, uint32_t groups, uint8_t *dst)
{
    bool finite = true;
    for (uint32_t g = 0; g < groups; g++, src += b->bytes) {
        uint32_t scale_bytes = b->scales * 2;
        memcpy(dst + g * scale_bytes, src, scale_bytes);
        if (b->high_at > 0)
            memcpy(dst + b->high_at + g * 4, src + scale_bytes, 4);
        memcpy(dst + b->quants_at + g * b->quant_bytes, src + b->bytes - b->quant_bytes,
               b->quant_bytes);
        for (uint32_t i = 0; i < b->scales; i++)
            finite = finite && half_is_finite(src + i * 2);
    }
    return finite;
}

/* Q4_0, IQ4_NL: d, 16 bytes: lower halves are the first 16 values. */
static bool pack_q4_0(const uint8_t *src, uint32_t values, uint32_t groups, uint8_t *dst)
{
    (void)values;
    return pack_block32(&(struct block32){18, 1, 16, UNIT_BYTES, 0}, src, groups, dst);
}

/* d, m, 16 bytes */
static bool pack_q4_1(const uint8_t *src, uint32_t values, uint32_t groups, uint8_t *dst)
{
    (void)values;
    return pack_block32(&(struct block32){20, 2, 16, 2 * UNIT_BYTES, 0}, src, groups, dst);
}

/* d, 32 upper bits, 16 bytes */
static bool pack_q5_0(const uint8_t *src, uint32_t values, uint32_t groups, uint8_t *dst)
{
    (void)values;
    return pack_block32(&(struct block32){22, 1, 16, 3 * UNIT_BYTES, UNIT_BYTES}, src, groups, dst);
}

/* d, m, 32 upper bits, 16 bytes */
static bool pack_q5_1(const uint8_t *src, uint32_t values, uint32_t groups, uint8_t *dst)
{
    (void)values;
    return pack_block32(&(struct block32){24, 2, 16, 4 * UNIT_BYTES, 2 * UNIT_BYTES}, src, groups,
                        dst);
}

/* d, 32 bytes */
static bool pack_q8_0(const uint8_t *src, uint32_t values, uint32_t groups, uint8_t *dst)
{
    (void)values;
    return pack_block32(&(struct block32){34, 1, 32, UNIT_BYTES, 0}, src, groups, dst);
}

/* e, 16 bytes as in Q4_0. e = 255 is NaN; 253 and 254 leave f32's range with E2M1 values of 4 and
 * more, 2 and more (codes 6 and 4 on, by size). */
static bool pack_mxfp4(const uint8_t *src, uint32_t values, uint32_t groups, uint8_t *dst)
{
    bool finite = true;
    (void)values;
    for (uint32_t g = 0; g < groups; g++, src += 17) {
        dst[groups * UNIT_BYTES + g] = src[0];
        memcpy(dst + g * UNIT_BYTES, src + 1, UNIT_BYTES);
        unsigned first_infinite = src[0] < 253 ? 8 : src[0] == 253 ? 6 : 4;
        for (uint32_t i = 1; i < 17; i++)
            finite = finite && (src[i] & 7) < first_infinite && (src[i] >> 4 & 7) < first_infinite;
        finite = finite && src[0] < 255;
    }
    return finite;
}

/* ---- blocks of 256 ---- */

/* Group g's 4-bit values of pairs of groups: 32 bytes a pair, lower halves are the first group. */
static void pack_pair_nibbles(const uint8_t *src, uint32_t g, uint8_t *dst)
{
    for (uint32_t i = 0; i < GROUP; i++) {
        uint8_t byte = src[g / 2 * 32 + i];
        dst[i / 2] |= (uint8_t)((g % 2 == 0 ? byte & 15 : byte >> 4) << (i % 2 * 4));
    }
}

/* Group g's 2-bit values: 32 bytes a half block (128 values), whose group n has the bits 2n. */
static void pack_bit_pairs(const uint8_t *src, uint32_t g, uint8_t *dst)
{
    for (uint32_t i = 0; i < GROUP; i++)
        dst[i / 4] |= (uint8_t)((src[g / 4 * 32 + i] >> (g % 4 * 2) & 3) << (i % 4 * 2));
}

/* Group g's bits: bit g of 32 bytes. */
static void pack_bits(const uint8_t *src, uint32_t g, uint8_t *dst)
{
    for (uint32_t i = 0; i < GROUP; i++)
        dst[i / 8] |= (uint8_t)((src[i] >> g & 1) << (i % 8));
}

/* File: 16 scales, 64 bytes of bit pairs, d, dmin. */
static bool pack_q2_k(const uint8_t *src, uint32_t values, uint32_t groups, uint8_t *dst)
{
    (void)values;
    memcpy(dst, src, UNIT_BYTES);
    for (uint32_t g = 0; g < groups; g++)
        pack_bit_pairs(src + 16, g, dst + UNIT_BYTES + g * 8);
    memcpy(dst + 5 * UNIT_BYTES, src + 80, 4);
    return half_is_finite(src + 80) && half_is_finite(src + 82);
}

/* File: 32 bytes of upper bits, 64 of bit pairs, 12 of scales, d. */
static bool pack_q3_k(const uint8_t *src, uint32_t values, uint32_t groups, uint8_t *dst)
{
    (void)values;
    memcpy(dst, src + 96, 14);
    for (uint32_t g = 0; g < groups; g++) {
        pack_bit_pairs(src + 32, g, dst + UNIT_BYTES + g * 8);
        pack_bits(src, g, dst + 5 * UNIT_BYTES + g * 4);
    }
    return half_is_finite(src + 108);
}

/* File: d, dmin, 12 bytes of scales, 128 of nibbles. */
static bool pack_q4_k(const uint8_t *src, uint32_t values, uint32_t groups, uint8_t *dst)
{
    (void)values;
    memcpy(dst, src, UNIT_BYTES);
    for (uint32_t g = 0; g < groups; g++)
        pack_pair_nibbles(src + 16, g, dst + UNIT_BYTES + g * UNIT_BYTES);
    return half_is_finite(src) && half_is_finite(src + 2);
}

/* File: d, dmin, 12 bytes of scales, 32 of upper bits, 128 of nibbles. */
static bool pack_q5_k(const uint8_t *src, uint32_t values, uint32_t groups, uint8_t *dst)
{
    (void)values;
    memcpy(dst, src, UNIT_BYTES);
    for (uint32_t g = 0; g < groups; g++) {
        pack_bits(src + 16, g, dst + UNIT_BYTES + g * 4);
        pack_pair_nibbles(src + 48, g, dst + 3 * UNIT_BYTES + g * UNIT_BYTES);
    }
    return half_is_finite(src) && half_is_finite(src + 2);
}

/* File: 128 bytes of lower nibbles, 64 of upper bit pairs, 16 scales, d. Each half block (128
 * values) has 64 of the nibbles: group 0 and 2 of the half are the lower and upper halves of the
 * first 32 bytes, 1 and 3 of the second. */
static bool pack_q6_k(const uint8_t *src, uint32_t values, uint32_t groups, uint8_t *dst)
{
    (void)values;
    memcpy(dst, src + 192, UNIT_BYTES);
    for (uint32_t g = 0; g < groups; g++) {
        const uint8_t *low = src + g / 4 * 64 + g % 2 * 32;
        uint8_t *d_low = dst + (5 + g) * UNIT_BYTES;
        for (uint32_t i = 0; i < GROUP; i++) {
            uint8_t nibble = g % 4 < 2 ? low[i] & 15 : low[i] >> 4;
            d_low[i / 2] |= (uint8_t)(nibble << (i % 2 * 4));
        }
        pack_bit_pairs(src + 128, g, dst + UNIT_BYTES + g * 8);
    }
    memcpy(dst + 13 * UNIT_BYTES, src + 208, 2);
    return half_is_finite(src + 208);
}

/* File: d, the scales' upper bit pairs (2 bytes), their lower nibbles (4 bytes), 128 bytes: 16 a
 * group, as in Q4_0. */
static bool pack_iq4_xs(const uint8_t *src, uint32_t values, uint32_t groups, uint8_t *dst)
{
    (void)values;
    memcpy(dst, src + 8, groups * UNIT_BYTES);
    memcpy(dst + groups * UNIT_BYTES, src, 8);
    return half_is_finite(src);
}

/* Numbers as in the type's shader file. */
static const struct layout {
    enum tensor_type type;
    uint32_t block_values, block_bytes; /* in the file */
    uint32_t head_units, group_units, tail_words;
    pack_fn *pack;
} layouts[] = {
    {TENSOR_F32, 1, 4, 0, 8, 0, pack_f32},           {TENSOR_F16, 1, 2, 0, 4, 0, pack_16_bits},
    {TENSOR_BF16, 1, 2, 0, 4, 0, pack_16_bits},      {TENSOR_Q4_0, 32, 18, 1, 1, 0, pack_q4_0},
    {TENSOR_Q4_1, 32, 20, 2, 1, 0, pack_q4_1},       {TENSOR_Q5_0, 32, 22, 3, 1, 0, pack_q5_0},
    {TENSOR_Q5_1, 32, 24, 4, 1, 0, pack_q5_1},       {TENSOR_Q8_0, 32, 34, 1, 2, 0, pack_q8_0},
    {TENSOR_Q2_K, 256, 84, 5, 0, 1, pack_q2_k},      {TENSOR_Q3_K, 256, 110, 7, 0, 0, pack_q3_k},
    {TENSOR_Q4_K, 256, 144, 1, 1, 0, pack_q4_k},     {TENSOR_Q5_K, 256, 176, 3, 1, 0, pack_q5_k},
    {TENSOR_Q6_K, 256, 210, 5, 1, 1, pack_q6_k},     {TENSOR_IQ4_NL, 32, 18, 1, 1, 0, pack_q4_0},
    {TENSOR_IQ4_XS, 256, 136, 0, 1, 2, pack_iq4_xs}, {TENSOR_MXFP4, 32, 17, 0, 1, 2, pack_mxfp4},
};

static const struct layout *find(enum tensor_type type)
{
    for (size_t i = 0; i < ARRAY_LEN(layouts); i++)
        if (layouts[i].type == type)
            return &layouts[i];
    return NULL;
}

bool kernel_type_supported(enum tensor_type type)
{
    return find(type) != NULL;
}

static uint64_t slice_bytes(const struct layout *l, uint64_t groups)
{
    return (l->head_units + l->group_units * groups) * UNIT_BYTES + l->tail_words * 4;
}

static uint64_t row_bytes(const struct layout *l, uint64_t cols)
{
    uint64_t groups = div_up(cols, GROUP), slices = div_up(cols, SLICE);
    if (slices == 0)
        return 0;
    return (slices - 1) * slice_bytes(l, SLICE_GROUPS) +
           slice_bytes(l, groups - (slices - 1) * SLICE_GROUPS);
}

uint64_t kernel_weight_bytes(enum tensor_type type, uint64_t rows, uint64_t cols)
{
    const struct layout *l = find(type);
    return l == NULL ? 0 : div_up(rows, STRIPE) * STRIPE * row_bytes(l, cols);
}

/* A row's packed slice into its stripe: unit u of all rows lies before unit u + 1 of any. */
static void scatter(const struct layout *l, const uint8_t *packed, uint64_t groups, uint64_t lane,
                    uint8_t *slice)
{
    uint64_t units = l->head_units + l->group_units * groups;
    for (uint64_t u = 0; u < units; u++)
        memcpy(slice + (u * STRIPE + lane) * UNIT_BYTES, packed + u * UNIT_BYTES, UNIT_BYTES);
    for (uint64_t i = 0; i < l->tail_words; i++)
        memcpy(slice + units * STRIPE * UNIT_BYTES + (i * STRIPE + lane) * 4,
               packed + units * UNIT_BYTES + i * 4, 4);
}

enum err kernel_weight_repack(enum tensor_type type, uint64_t rows, uint64_t cols, const void *src,
                              void *dst, struct err_msg *why)
{
    const struct layout *l = find(type);
    if (l == NULL)
        return err_set(why, ERR_UNSUPPORTED, "no kernel for tensor type %u", (unsigned)type);
    if (cols % l->block_values != 0)
        return err_set(why, ERR_FORMAT, "%llu columns: not a multiple of the type's block of %u",
                       (unsigned long long)cols, l->block_values);
    uint64_t file_row_bytes = cols / l->block_values * l->block_bytes;
    uint64_t stripe_bytes = row_bytes(l, cols) * STRIPE;
    memset(dst, 0, kernel_weight_bytes(type, rows, cols));
    for (uint64_t r = 0; r < rows; r++) {
        uint8_t *stripe = (uint8_t *)dst + r / STRIPE * stripe_bytes;
        for (uint64_t k = 0; k < cols; k += SLICE) {
            uint8_t packed[MAX_SLICE_BYTES] = {0};
            uint64_t values = min_u64(cols - k, SLICE), groups = div_up(values, GROUP);
            const uint8_t *block =
                (const uint8_t *)src + r * file_row_bytes + k / l->block_values * l->block_bytes;
            if (!l->pack(block, (uint32_t)values, (uint32_t)groups, packed))
                return err_set(why, ERR_FORMAT, "row %llu: a block's scale is not a finite number",
                               (unsigned long long)r);
            scatter(l, packed, groups, r % STRIPE,
                    stripe + k / SLICE * slice_bytes(l, SLICE_GROUPS) * STRIPE);
        }
    }
    return ERR_OK;
}
