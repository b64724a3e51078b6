/* IQ4_XS: w = (d * (scale - 32)) * codebook[q], q 0..15; eight groups of 32 with a 6-bit scale each; d f16. Tail: a
 * word of d (lower half) and the scales' upper 2 bits, and one of their lower 4 bits. Exact. k is a multiple of 256:
 * slices are whole. */
#define TYPE_HEAD_UNITS 0
#define TYPE_GROUP_UNITS 1
#define TYPE_TAIL_WORDS 2

struct type_slice {
    uint d_high;
    uint low;
};

type_slice type_read_slice(weight_at p)
{
    return type_slice(weight_tail(p, 8, 0), weight_tail(p, 8, 1));
}

void type_read_group(type_slice s, weight_at p, uint g, out float w[GROUP])
{
    uint scale = ((s.low >> (g * 4)) & 15) | (((s.d_high >> (16 + g * 2)) & 3) << 4);
    float d = unpackHalf2x16(s.d_high).x * float(int(scale) - 32);
    uvec4 x = weight_unit(p, g);
    [[unroll]] for (uint i = 0; i < 32; i++)
        w[i] = d * float(codebook(split_nibble(x, i)));
}
