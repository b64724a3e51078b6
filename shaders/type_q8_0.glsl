/* Q8_0: w = d * q, 32 signed bytes to a scale d (f16). Head: the slice's eight scales. The product is exact. */
#define TYPE_HEAD_UNITS 1
#define TYPE_GROUP_UNITS 2
#define TYPE_TAIL_WORDS 0

struct type_slice {
    uvec4 scales;
};

type_slice type_read_slice(weight_at p)
{
    return type_slice(weight_unit(p, 0));
}

void type_read_group(type_slice s, weight_at p, uint g, out float w[GROUP])
{
    vec2 pair = unpackHalf2x16(s.scales[g / 2]);
    float d = g % 2 == 0 ? pair.x : pair.y;
    vec3 scales = byte_scales(d);
    [[unroll]] for (uint u = 0; u < 2; u++) {
        uvec4 x = weight_unit(p, 1 + g * 2 + u) ^ 0x80808080u;
        [[unroll]] for (uint i = 0; i < 16; i++)
            w[u * 16 + i] = byte_fma(x[i / 4], i % 4, scales, -128.0 * d);
    }
}

#ifdef OCTO_MATRIX_GLSL
#define TYPE_OCTET
uvec4 type_read_octet(type_slice s, weight_at p, uint g, uint q)
{
    f16vec2 d = octet_scale(p, g);
    uvec2 low = octet_bytes(weight_word(p, 1 + 2 * g, q), d), high = octet_bytes(weight_word(p, 2 + 2 * g, q), d);
    return uvec4(low, high);
}
#endif
