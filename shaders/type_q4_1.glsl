/* Q4_1: w = d * q + m, q 0..15; 32 values to a scale d and a minimum m (f16). Head: eight words of d (lower half) and
 * m. The product is exact; the sum rounds once. */
#define TYPE_HEAD_UNITS 2
#define TYPE_GROUP_UNITS 1
#define TYPE_TAIL_WORDS 0

struct type_slice {
    uvec4 head[2];
};

type_slice type_read_slice(weight_at p)
{
    return type_slice(uvec4[2](weight_unit(p, 0), weight_unit(p, 1)));
}

void type_read_group(type_slice s, weight_at p, uint g, out float w[GROUP])
{
    vec2 d = unpackHalf2x16(word_of(s.head[0], s.head[1], g));
    uvec4 x = weight_unit(p, 2 + g);
    [[unroll]] for (uint i = 0; i < 32; i++)
        w[i] = fma(d.x, float(split_nibble(x, i)), d.y);
}
