/* Q6_K: w = (d * scale) * (q - 32), q 6 bits; sixteen values to a signed 8-bit scale; d f16. Units: head = the 16
 * scales; then for each group 16 bytes of lower nibbles; then for each pair of groups 16 bytes of upper 2 bits;
 * tail: d. k is a multiple of 256: slices are whole. */
#define TYPE_HEAD_UNITS 5
#define TYPE_GROUP_UNITS 1
#define TYPE_TAIL_WORDS 1

struct type_slice {
    ivec4 scales;
    float d;
};

type_slice type_read_slice(weight_at p)
{
    uint d = weight_tail(p, 13, 0);
    return type_slice(ivec4(weight_unit(p, 0)), unpackHalf2x16(d).x);
}

void type_read_group(type_slice s, weight_at p, uint g, out float w[GROUP])
{
    uvec4 low = weight_unit(p, 5 + g);
    uvec4 pair = weight_unit(p, 1 + g / 2);
    uvec2 high = g % 2 == 0 ? pair.xy : pair.zw;
    int scales = s.scales[g / 2] >> int(g % 2) * 16;
    float a = s.d * float(bitfieldExtract(scales, 0, 8)), b = s.d * float(bitfieldExtract(scales, 8, 8));
    [[unroll]] for (uint i = 0; i < 32; i += 8) {
        uint pairs = high[i / 16] >> i % 16 * 2 & 0xffff; /* a nibble: upper bits of two neighbours */
        pairs = (pairs | pairs << 8) & 0x00ff00ffu;
        pairs = (pairs | pairs << 4) & 0x0f0f0f0fu;
        uint even = (low[i / 8] & 0x0f0f0f0fu) | ((pairs & 0x03030303u) << 4);
        uint odd = ((low[i / 8] >> 4) & 0x0f0f0f0fu) | ((pairs & 0x0c0c0c0cu) << 2);
        float d = i < 16 ? a : b;
        [[unroll]] for (uint k = 0; k < 4; k++) {
            w[i + 2 * k] = byte_fma(even, k, byte_scales(d), -32.0 * d);
            w[i + 2 * k + 1] = byte_fma(odd, k, byte_scales(d), -32.0 * d);
        }
    }
}

#ifdef OCTO_MATRIX_GLSL
#define TYPE_OCTET
/* Four values: lower nibbles one after the other in x, upper two bits in `high`. */
uvec2 four_sixes(uint x, uint high, float scale)
{
    uint a = (x & 15) | ((x & 0xf0) << 12) | ((high & 3) << 4) | ((high & 0xc) << 18);
    uint b = ((x >> 8) & 15) | ((x & 0xf000) << 4) | (high & 0x30) | ((high & 0xc0) << 14);
    vec2 low = vec2(unpackFloat2x16(a | 0x64006400u) - f16vec2(float16_t(1056.0)));
    vec2 up = vec2(unpackFloat2x16(b | 0x64006400u) - f16vec2(float16_t(1056.0)));
    return uvec2(packHalf2x16(low * scale), packHalf2x16(up * scale));
}

uvec4 type_read_octet(type_slice s, weight_at p, uint g, uint q)
{
    uint shift = q % 2 * 16;
    uint low = weight_word(p, 5 + g, q / 2) >> shift, up = weight_word(p, 5 + g, 2 + q / 2) >> shift;
    uint pair = g % 2 * 2;
    uint low_high = weight_word(p, 1 + g / 2, pair) >> (8 * q);
    uint up_high = weight_word(p, 1 + g / 2, pair + 1) >> (8 * q);
    int scales = int(weight_word(p, 0, g / 2)) >> int(g % 2) * 16;
    float a = s.d * float(bitfieldExtract(scales, 0, 8)), b = s.d * float(bitfieldExtract(scales, 8, 8));
    return uvec4(four_sixes(low, low_high, a), four_sixes(up, up_high, b));
}
#endif
