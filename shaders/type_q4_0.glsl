/* Q4_0: w = d * (q - 8), q 0..15; 32 values to a scale d (f16). Head: the slice's eight scales. Exact. */
#define TYPE_HEAD_UNITS 1
#define TYPE_GROUP_UNITS 1
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
    float d = half_of(s.scales, g);
    uvec4 x = weight_unit(p, 1 + g);
    [[unroll]] for (uint i = 0; i < 32; i++)
        w[i] = d * float(int(split_nibble(x, i)) - 8);
}
