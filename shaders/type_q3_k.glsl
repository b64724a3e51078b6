/* Q3_K: w = (d * (scale - 32)) * (q - 4), q 0..7; sixteen values to a 6-bit scale; d f16. Units: the 12 packed bytes
 * of scales as the file has them and d; then for each pair of groups 16 bytes of lower 2 bits; then a word of upper
 * bits for each group (bit i: value i). Exact. k is a multiple of 256: slices are whole. */
#define TYPE_HEAD_UNITS 7
#define TYPE_GROUP_UNITS 0
#define TYPE_TAIL_WORDS 0

struct type_slice {
    uvec4 head;
    uvec4 high[2];
};

type_slice type_read_slice(weight_at p)
{
    return type_slice(weight_unit(p, 0), uvec4[2](weight_unit(p, 5), weight_unit(p, 6)));
}

/* Scale n of 16. Bytes 0..7: the lower 4 bits of 0..7 (below) and 8..15 (above); bytes 8..11: the upper 2 bits, of n, n
 * + 4, n + 8 and n + 12 in a byte. */
int q3_k_scale(uvec4 head, uint n)
{
    uint shift = (n % 4) * 8;
    uint low = ((n % 8 < 4 ? head.x : head.y) >> (shift + n / 8 * 4)) & 15;
    uint high = (head.z >> (shift + n / 4 * 2)) & 3;
    return int(low | (high << 4)) - 32;
}

void type_read_group(type_slice s, weight_at p, uint g, out float w[GROUP])
{
    uvec4 pair = weight_unit(p, 1 + g / 2);
    uvec2 x = g % 2 == 0 ? pair.xy : pair.zw;
    uint high = word_of(s.high[0], s.high[1], g);
    float d = unpackHalf2x16(s.head.w).x, scale[2];
    [[unroll]] for (uint i = 0; i < 2; i++)
        scale[i] = d * float(q3_k_scale(s.head, g * 2 + i));
    [[unroll]] for (uint i = 0; i < 32; i++) {
        uint q = ((x[i / 16] >> ((i % 16) * 2)) & 3) | (((high >> i) & 1) << 2);
        w[i] = scale[i / 16] * float(int(q) - 4);
    }
}
