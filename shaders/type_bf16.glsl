/* BF16: the upper half of an f32. Four units a group. */
#define TYPE_HEAD_UNITS 0
#define TYPE_GROUP_UNITS 4
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
    [[unroll]] for (uint u = 0; u < 4; u++) {
        uvec4 x = weight_unit(p, g * 4 + u);
        [[unroll]] for (uint i = 0; i < 4; i++) {
            w[u * 8 + i * 2] = uintBitsToFloat(x[i] << 16);
            w[u * 8 + i * 2 + 1] = uintBitsToFloat(x[i] & 0xffff0000);
        }
    }
}
