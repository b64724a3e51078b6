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

/* One row's slice: `groups` groups from the file's blocks at src into `dst` as units, then the tail
 * word. Values the row does not have are not read (`values` of them are there). false: a scale is
 * NaN or infinite. */
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

static bool pack_f16(const uint8_t *src, uint32_t values, uint32_t groups, uint8_t *dst)
{
    (void)groups;
    memcpy(dst, src, values * 2);
    return true;
}

static bool pack_q8_0(const uint8_t *src, uint32_t values, uint32_t groups, uint8_t *dst)
{
    (void)values;
    for (uint32_t g = 0; g < groups; g++, src += 34) {
        memcpy(dst + g * 2, src, 2);
        memcpy(dst + UNIT_BYTES + g * 32, src + 2, 32);
        if (!half_is_finite(src))
            return false;
    }
    return true;
}

/* File: d, dmin, 12 bytes of scales, then for each pair of groups 32 bytes: lower nibbles are the
 * first group. */
static bool pack_q4_k(const uint8_t *src, uint32_t values, uint32_t groups, uint8_t *dst)
{
    (void)values;
    memcpy(dst, src, UNIT_BYTES);
    for (uint32_t g = 0; g < groups; g++) {
        const uint8_t *q = src + 16 + g / 2 * 32;
        uint8_t *d = dst + UNIT_BYTES + g * UNIT_BYTES;
        for (uint32_t i = 0; i < GROUP; i++) {
            uint8_t nibble = g % 2 == 0 ? q[i] & 15 : q[i] >> 4;
            d[i / 2] |= (uint8_t)(nibble << (i % 2 * 4));
        }
    }
    return half_is_finite(src) && half_is_finite(src + 2);
}

/* File: 128 bytes of lower nibbles, 64 of upper bit pairs, 16 scales, d. Each half block (128
 * values) has 64 and 32 of them: group 0 and 2 of the half are the lower and upper nibbles of the
 * first 32 bytes, 1 and 3 of the second; group n has bits 2n of the 32 bytes of upper bits. */
static bool pack_q6_k(const uint8_t *src, uint32_t values, uint32_t groups, uint8_t *dst)
{
    (void)values;
    memcpy(dst, src + 192, UNIT_BYTES);
    for (uint32_t g = 0; g < groups; g++) {
        const uint8_t *low = src + g / 4 * 64 + g % 2 * 32, *high = src + 128 + g / 4 * 32;
        uint8_t *d_low = dst + (5 + g) * UNIT_BYTES, *d_high = dst + UNIT_BYTES + g * 8;
        for (uint32_t i = 0; i < GROUP; i++) {
            uint8_t nibble = g % 4 < 2 ? low[i] & 15 : low[i] >> 4;
            uint8_t upper = (high[i] >> (g % 4 * 2)) & 3;
            d_low[i / 2] |= (uint8_t)(nibble << (i % 2 * 4));
            d_high[i / 4] |= (uint8_t)(upper << (i % 4 * 2));
        }
    }
    memcpy(dst + 13 * UNIT_BYTES, src + 208, 2);
    return half_is_finite(src + 208);
}

/* Numbers as in the type's shader file. */
static const struct layout {
    enum tensor_type type;
    uint32_t block_values, block_bytes; /* in the file */
    uint32_t head_units, group_units, tail_words;
    pack_fn *pack;
} layouts[] = {
    {TENSOR_F32, 1, 4, 0, 8, 0, pack_f32},       {TENSOR_F16, 1, 2, 0, 4, 0, pack_f16},
    {TENSOR_Q8_0, 32, 34, 1, 2, 0, pack_q8_0},   {TENSOR_Q4_K, 256, 144, 1, 1, 0, pack_q4_k},
    {TENSOR_Q6_K, 256, 210, 5, 1, 1, pack_q6_k},
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
    if (l->tail_words > 0)
        memcpy(slice + units * STRIPE * UNIT_BYTES + lane * 4, packed + units * UNIT_BYTES, 4);
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
