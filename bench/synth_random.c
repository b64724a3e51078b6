/* Random blocks of every type, without a quantizer: all bits random but the scales, which are put
 * so that the block's values have the size asked for and are finite. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "bench/synth.h"

enum { TABLE = 65536 };

/* Where a block's scale is, what the values' size is when it is 1, and the second half as a
 * multiple of the scale that makes the mean 0. The sizes are measured over random blocks. */
static const struct layout {
    enum tensor_type type;
    uint16_t at;
    float size;
    int16_t second_at; /* -1: none */
    float second;
} layouts[] = {
    {TENSOR_Q4_0, 0, 4.6f, -1, 0},    {TENSOR_Q4_1, 0, 4.6f, 2, -7.5f},
    {TENSOR_Q5_0, 0, 9.2f, -1, 0},    {TENSOR_Q5_1, 0, 9.2f, 2, -15.5f},
    {TENSOR_Q8_0, 0, 73.9f, -1, 0},   {TENSOR_Q2_K, 80, 13.9f, 82, 1.5f},
    {TENSOR_Q3_K, 108, 43.3f, -1, 0}, {TENSOR_Q4_K, 0, 258, 2, 7.5f},
    {TENSOR_Q5_K, 0, 527, 2, 15.5f},  {TENSOR_Q6_K, 208, 1366, -1, 0},
    {TENSOR_IQ4_NL, 0, 67.4f, -1, 0}, {TENSOR_IQ4_XS, 0, 1245, -1, 0},
    {TENSOR_MXFP4, 0, 2.93f, -1, 0},
};

static const struct layout *layout_of(enum tensor_type type)
{
    for (size_t i = 0; i < sizeof(layouts) / sizeof(layouts[0]); i++)
        if (layouts[i].type == type)
            return &layouts[i];
    return NULL;
}

float synth_gauss(struct synth_rng *r)
{
    float sum = 0; /* twelve uniform numbers have variance 1 */
    for (int i = 0; i < 3; i++) {
        uint64_t bits = synth_next(r);
        for (int k = 0; k < 4; k++, bits >>= 16)
            sum += (float)(bits & 0xffff) / 65536;
    }
    return sum - 6;
}

static uint16_t to_half(float x)
{
    float a = fabsf(x);
    int exponent = a < 0x1p-14f ? -14 : ilogbf(a);
    unsigned units = (unsigned)nearbyintf(ldexpf(a, 10 - exponent));
    return (uint16_t)((signbit(x) ? 0x8000 : 0) + units + ((unsigned)(exponent + 14) << 10));
}

static uint16_t to_bf16(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof(bits));
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

static void put_value(const struct synth_fill *f, size_t i, float v)
{
    if (f->type->type == TENSOR_F32)
        ((float *)f->table)[i] = v;
    else
        ((uint16_t *)f->table)[i] = f->type->type == TENSOR_F16 ? to_half(v) : to_bf16(v);
}

enum err synth_fill_init(struct synth_fill *f, enum tensor_type type, float size,
                         struct synth_rng *r, struct err_msg *why)
{
    const struct layout *l = layout_of(type);
    *f = (struct synth_fill){.type = tensor_type_find((uint32_t)type)};
    if (l == NULL) {
        f->table = malloc(TABLE * f->type->block_bytes);
        if (f->table == NULL)
            return err_set(why, ERR_NOMEM, "out of memory");
        for (size_t i = 0; i < TABLE; i++)
            put_value(f, i, size * synth_gauss(r));
        return ERR_OK;
    }
    for (int i = 0; i < 256; i++) {
        float scale = size / l->size * (0.5f + (float)i / 256);
        if (i % 2 != 0 && l->second_at < 0)
            scale = -scale; /* quants from -8 to 7 have a mean that must not add up */
        f->scales[i] = type == TENSOR_MXFP4 ? (uint16_t)(127 + (int)lrintf(log2f(fabsf(scale))))
                                            : to_half(scale);
        f->seconds[i] = to_half(scale * l->second);
    }
    return ERR_OK;
}

static void put_half(uint8_t *p, uint16_t bits)
{
    p[0] = (uint8_t)bits;
    p[1] = (uint8_t)(bits >> 8);
}

static void fill_values(const struct synth_fill *f, struct synth_rng *r, uint8_t *out, size_t count)
{
    size_t width = f->type->block_bytes;
    for (size_t i = 0; i < count;) {
        uint64_t bits = synth_next(r);
        for (int k = 0; k < 4 && i < count; k++, i++, bits >>= 16)
            if (width == 2)
                memcpy(out + i * 2, (const uint16_t *)f->table + (bits & (TABLE - 1)), 2);
            else
                memcpy(out + i * 4, (const float *)f->table + (bits & (TABLE - 1)), 4);
    }
}

void synth_fill_blocks(const struct synth_fill *f, struct synth_rng *r, uint8_t *out, size_t bytes)
{
    const struct layout *l = layout_of(f->type->type);
    if (l == NULL) {
        fill_values(f, r, out, bytes / f->type->block_bytes);
        return;
    }
    for (size_t i = 0; i < bytes; i += 8) {
        uint64_t bits = synth_next(r);
        memcpy(out + i, &bits, bytes - i < 8 ? bytes - i : 8);
    }
    for (uint8_t *b = out; b < out + bytes; b += f->type->block_bytes) {
        unsigned pick = b[l->at];
        if (f->type->type == TENSOR_MXFP4) {
            b[0] = (uint8_t)f->scales[pick];
            continue;
        }
        put_half(b + l->at, f->scales[pick]);
        if (l->second_at >= 0)
            put_half(b + l->second_at, f->seconds[pick]);
    }
}

void synth_fill_free(struct synth_fill *f)
{
    free(f->table);
    f->table = NULL;
}
