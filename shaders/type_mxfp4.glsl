/* MXFP4: w = 2^(e - 127) * E2M1[q] (OCP microscaling formats): 32 values to a byte e. Tail: the slice's eight e, two
 * words. Exact, but what is below the smallest normal f32 a device may round to 0. Here E2M1 is doubled (integers) and
 * the power halved, in two factors so that neither is subnormal or infinite. */
#define TYPE_HEAD_UNITS 0
#define TYPE_GROUP_UNITS 1
#define TYPE_TAIL_WORDS 2

struct type_slice {
    uvec2 e;
};

type_slice type_read_slice(weight_at p)
{
    return type_slice(uvec2(weight_tail(p, p.groups, 0), weight_tail(p, p.groups, 1)));
}

void type_read_group(type_slice s, weight_at p, uint g, out float w[GROUP])
{
    uint e = ((g < 4 ? s.e.x : s.e.y) >> ((g % 4) * 8)) & 0xff;
    /* 2^-64 and 2^(e - 128 + 64), or 1 and 2^(e - 128) */
    float first = e < 128 ? uintBitsToFloat(uint(127 - 64) << 23) : 1.0;
    float second = uintBitsToFloat((e < 128 ? e + 63 : e - 1) << 23);
    uvec4 x = weight_unit(p, g);
    [[unroll]] for (uint i = 0; i < 32; i++) {
        uint q = split_nibble(x, i);
        int twice = int((0xc8643210 >> ((q & 7) * 4)) & 15); /* 12 8 6 4 3 2 1 0 */
        precise float part = float(q < 8 ? twice : -twice) * first;
        precise float value = part * second;
        w[i] = value;
    }
}
