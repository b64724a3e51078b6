/* Q4_K: w = (d * scale) * q - (dmin * min), q 0..15; eight groups of 32 with a 6-bit scale and min each; d, dmin f16.
 * Head: d, dmin and the 12 packed bytes as the file has them. The products are exact; the difference rounds once. */
#define TYPE_HEAD_UNITS 1
#define TYPE_GROUP_UNITS 1
#define TYPE_TAIL_WORDS 0

struct type_slice {
    uvec4 head;
};

type_slice type_read_slice(weight_at p)
{
    return type_slice(weight_unit(p, 0));
}

void type_read_group(type_slice s, weight_at p, uint g, out float w[GROUP])
{
    vec2 d = unpackHalf2x16(s.head.x);
    uvec2 q = k_scale_min(s.head, g);
    float scale = d.x * float(q.x), least = -(d.y * float(q.y));
    uvec4 x = weight_unit(p, 1 + g);
    vec3 scales = byte_scales(scale);
    [[unroll]] for (uint i = 0; i < 32; i++)
        w[i] = byte_fma((x[i / 8] >> (i % 2 * 4)) & 0x0f0f0f0fu, i % 8 / 2, scales, least);
}

#ifdef OCTO_MATRIX_GLSL
#define TYPE_OCTET
/* Four nibbles, one after the other. */
uvec2 four_fours(uint x, float scale, float least)
{
    vec2 a = vec2(float(x & 15), float((x >> 4) & 15)), b = vec2(float((x >> 8) & 15), float((x >> 12) & 15));
    return uvec2(packHalf2x16(fma(vec2(scale), a, vec2(least))), packHalf2x16(fma(vec2(scale), b, vec2(least))));
}

uvec4 type_read_octet(type_slice s, weight_at p, uint g, uint q)
{
    vec2 d = unpackHalf2x16(s.head.x);
    uvec2 scales = k_scale_min(s.head, g);
    float scale = d.x * float(scales.x), least = -(d.y * float(scales.y));
    uint shift = q % 2 * 16;
    uint low = weight_word(p, 1 + g, q / 2) >> shift, up = weight_word(p, 1 + g, 2 + q / 2) >> shift;
    return uvec4(four_fours(low, scale, least), four_fours(up, scale, least));
}
#endif
