/* Q5_1: w = d * q + m, q 0..31; 32 values to a scale d and a minimum m (f16). Head: eight words of d (lower half) and
 * m, then a word of upper bits for each group (bit i: value i). The product is exact; the sum rounds once. */
#define TYPE_HEAD_UNITS 4
#define TYPE_GROUP_UNITS 1
#define TYPE_TAIL_WORDS 0

struct type_slice {
    uvec4 head[2];
    uvec4 high[2];
};

type_slice type_read_slice(weight_at p)
{
    return type_slice(uvec4[2](weight_unit(p, 0), weight_unit(p, 1)), uvec4[2](weight_unit(p, 2), weight_unit(p, 3)));
}

void type_read_group(type_slice s, weight_at p, uint g, out float w[GROUP])
{
    vec2 d = unpackHalf2x16(word_of(s.head[0], s.head[1], g));
    uint high = word_of(s.high[0], s.high[1], g);
    uvec4 x = weight_unit(p, 4 + g);
    [[unroll]] for (uint i = 0; i < 32; i++)
        w[i] = fma(d.x, float(split_nibble(x, i) | (((high >> i) & 1) << 4)), d.y);
}
