/* Q5_0: w = d * (q - 16), q 0..31; 32 values to a scale d (f16). Head: the slice's eight scales, then a word of upper
 * bits for each group (bit i: value i). Exact. */
#define TYPE_HEAD_UNITS 3
#define TYPE_GROUP_UNITS 1
#define TYPE_TAIL_WORDS 0

struct type_slice {
    uvec4 scales;
    uvec4 high[2];
};

type_slice type_read_slice(weight_at p)
{
    return type_slice(weight_unit(p, 0), uvec4[2](weight_unit(p, 1), weight_unit(p, 2)));
}

void type_read_group(type_slice s, weight_at p, uint g, out float w[GROUP])
{
    float d = half_of(s.scales, g);
    uint high = word_of(s.high[0], s.high[1], g);
    uvec4 x = weight_unit(p, 3 + g);
    vec3 scales = byte_scales(d);
    [[unroll]] for (uint i = 0; i < 32; i += 4) {
        uint q = ((x[i % 16 / 4] >> (i / 16 * 4)) & 0x0f0f0f0fu) | fifth_bits(high >> i);
        [[unroll]] for (uint b = 0; b < 4; b++)
            w[i + b] = byte_fma(q, b, scales, -16.0 * d);
    }
}

#ifdef OCTO_MATRIX_GLSL
#define TYPE_OCTET
uvec4 type_read_octet(type_slice s, weight_at p, uint g, uint q)
{
    f16vec2 d = octet_scale(p, g);
    uint x = weight_word(p, 3 + g, q), high = weight_word(p, 1 + g / 4, g % 4) >> (4 * q);
    return uvec4(octet_fives(x, high, d), octet_fives(x >> 4, high >> 16, d));
}
#endif
