/* Q2_K: w = (d * scale) * q - (dmin * min), q 0..3; sixteen values to a 4-bit scale and min (a byte: scale below, min
 * above); d, dmin f16. Units: head = the 16 bytes, then for each pair of groups 16 bytes of quants; tail: d, dmin. The
 * products are exact; the difference rounds once. k is a multiple of 256: slices are whole. */
#define TYPE_HEAD_UNITS 5
#define TYPE_GROUP_UNITS 0
#define TYPE_TAIL_WORDS 1

struct type_slice {
    uvec4 scales;
    vec2 d;
};

type_slice type_read_slice(weight_at p)
{
    return type_slice(weight_unit(p, 0), unpackHalf2x16(weight_tail(p, 5, 0)));
}

void type_read_group(type_slice s, weight_at p, uint g, out float w[GROUP])
{
    uvec4 pair = weight_unit(p, 1 + g / 2);
    uvec2 x = g % 2 == 0 ? pair.xy : pair.zw;
    uint bytes = s.scales[g / 2] >> (g % 2) * 16;
    float scale[2], least[2];
    [[unroll]] for (uint i = 0; i < 2; i++) {
        scale[i] = s.d.x * float((bytes >> (i * 8)) & 15);
        least[i] = -(s.d.y * float((bytes >> (i * 8 + 4)) & 15));
    }
    [[unroll]] for (uint i = 0; i < 32; i++)
        w[i] = fma(scale[i / 16], float((x[i / 16] >> ((i % 16) * 2)) & 3), least[i / 16]);
}
