#version 460
/* Rows of f32 to row tiles of f16 (matrix.glsl), normalized first where there is a weight. A warp takes two rows. */
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"

layout(local_size_x = 32, local_size_y_id = 0) in;
layout(constant_id = 1) const uint WARPS = 4; /* as y */
layout(push_constant) uniform P { PUSH_MATRIX_ROWS } p;

#include "matrix.glsl"

U32s tile;
#define NORM_PUT(at, part, word) tile.v[(at) * 4 + (part)] = word
#include "matrix_norm.glsl"

uint64_t row_of(uint r)
{
    return at(p.x, p.idx != 0 ? U32s(p.idx).v[r] : r, p.stride, 4);
}

void main()
{
    uint a = (gl_WorkGroupID.x * WARPS + gl_LocalInvocationID.y) * 2;
    bool there = a < p.rows;
    if (!UNIFORM_WARPS && !there)
        return;
    a = there ? a : 0; /* emulated: all warps go on together */
    bool has_b = a + 1 < p.rows;
    tile = U32s(p.out_ + uint64_t(a / 8) * (p.cols / 32) * 512);
    norm_pair(row_of(a), row_of(has_b ? a + 1 : a), has_b, p.weight, p.cols, p.eps, a % 8 / 2);
}
