/* Weights in GPU memory and the interface of a type.
 *
 * A tensor [n x k] is cut into stripes of STRIPE rows and slices of SLICE values. A stripe holds its slices one after
 * the other; in a slice all of the STRIPE rows' first 16-byte units come first (row by row), then all second units,
 * and so on, then (types that need it) one 4-byte word a row. So neighbouring columns of a matmul read neighbouring
 * bytes, and every load is aligned. The last slice is cut to whole groups of GROUP values; what lies beyond k is 0.
 * The C side of this: kernels_weight.c.
 *
 * The shader that includes this defines LOAD_BY_64_BITS (loads of 64 bits instead of 128: same values).
 * A type's file (type_*.glsl) defines
 *   TYPE_HEAD_UNITS, TYPE_GROUP_UNITS, TYPE_TAIL_WORDS   layout of a slice, see slice_bytes()
 *   struct type_slice           what is read once a slice
 *   type_slice type_read_slice(weight_at p)
 *   void type_read_group(type_slice s, weight_at p, uint g, out float w[GROUP])   the values of group g, ascending k */
#ifndef OCTO_WEIGHTS_GLSL
#define OCTO_WEIGHTS_GLSL

#define STRIPE 32
#define SLICE 256
#define GROUP 32

/* Where a row's slice begins. */
struct weight_at {
    uint64_t base; /* of the slice in its stripe */
    uint lane;     /* row within the stripe */
    uint groups;   /* in this slice */
};

uvec4 weight_unit(weight_at p, uint unit)
{
    uint i = unit * STRIPE + p.lane;
    if (LOAD_BY_64_BITS)
        return uvec4(unpack32(U64s(p.base).v[2 * i]), unpack32(U64s(p.base).v[2 * i + 1]));
    return U32x4s(p.base).v[i];
}

#if defined(TYPE_F32)
#include "type_f32.glsl"
#elif defined(TYPE_F16)
#include "type_f16.glsl"
#elif defined(TYPE_Q8_0)
#include "type_q8_0.glsl"
#elif defined(TYPE_Q4_K)
#include "type_q4_k.glsl"
#elif defined(TYPE_Q6_K)
#include "type_q6_k.glsl"
#endif

uint slice_bytes(uint groups)
{
    return (TYPE_HEAD_UNITS + TYPE_GROUP_UNITS * groups) * 16 + TYPE_TAIL_WORDS * 4;
}

weight_at weight_find(uint64_t w, uint row, uint slice, uint k)
{
    uint groups = (k + GROUP - 1) / GROUP;
    uint slices = (k + SLICE - 1) / SLICE;
    uint last_groups = groups - (slices - 1) * (SLICE / GROUP);
    uint row_bytes = (slices - 1) * slice_bytes(SLICE / GROUP) + slice_bytes(last_groups);
    uint64_t stripe = w + uint64_t(row / STRIPE) * (uint64_t(row_bytes) * STRIPE);
    return weight_at(stripe + uint64_t(slice) * (slice_bytes(SLICE / GROUP) * STRIPE), row % STRIPE,
                     slice + 1 == slices ? last_groups : SLICE / GROUP);
}
#endif
