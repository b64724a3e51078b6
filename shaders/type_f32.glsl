/* F32: eight units a group. */
#define TYPE_HEAD_UNITS 0
#define TYPE_GROUP_UNITS 8
#define TYPE_TAIL_WORDS 0

struct type_slice {
    uint none;
};

type_slice type_read_slice(weight_at p)
{
    return type_slice(0);
}

void type_read_group(type_slice s, weight_at p, uint g, out float w[GROUP])
{
    [[unroll]] for (uint u = 0; u < 8; u++) {
        vec4 x = uintBitsToFloat(weight_unit(p, g * 8 + u));
        w[u * 4 + 0] = x.x;
        w[u * 4 + 1] = x.y;
        w[u * 4 + 2] = x.z;
        w[u * 4 + 3] = x.w;
    }
}
