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
    [[unroll]] for (uint i = 0; i < 32; i++) {
        uint q = ((low[i / 8] >> ((i % 8) * 4)) & 15) | (((high[i / 16] >> ((i % 16) * 2)) & 3) << 4);
        w[i] = (i < 16 ? a : b) * float(int(q) - 32);
    }
}
