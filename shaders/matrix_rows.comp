#version 460
/* Rows of f32 to row tiles of f16 (matrix.glsl), normalized first where there is a weight. A workgroup takes two
 * rows. */
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"

layout(local_size_x = 32, local_size_y = 8) in;
layout(push_constant) uniform P { PUSH_MATRIX_ROWS } p;
#include "chain.glsl"

const uint WARPS = 8;
#include "matrix.glsl"

FreshU32s tile;
#define NORM_PUT(at, part, word) tile.v[(at) * 4 + (part)] = word
#include "matrix_norm.glsl"

shared vec2 partial[NORM_WARPS];

FreshF32x4s row_of(uint r)
{
    return FreshF32x4s(at(p.x, p.idx != 0 ? U32s(p.idx).v[r] : r, p.stride, 4));
}

void main()
{
    uint a = gl_WorkGroupID.x * 2, lane = gl_LocalInvocationID.y * WARP + warp_lane();
    bool has_b = a + 1 < p.rows;
    FreshF32x4s xa = row_of(a), xb = row_of(has_b ? a + 1 : a);
    F32x4s weight = F32x4s(p.weight);
    tile = FreshU32s(p.out_ + uint64_t(a / 8) * (p.cols / 32) * 512);
    vec2 scale = vec2(1.0);
    chain_wait();
    if (p.weight != 0) {
        vec2 sum = vec2(0.0);
        for (uint i = lane; i < p.cols / 4; i += NORM_LANES)
            sum = vec2(add_squares(xa.v[i], sum.x), add_squares(xb.v[i], sum.y));
        sum = vec2(warp_sum(sum.x), warp_sum(sum.y));
        if (warp_lane() == 0)
            partial[gl_LocalInvocationID.y] = sum;
        barrier();
        precise vec2 total = vec2(0.0);
        [[unroll]] for (uint w = 0; w < NORM_WARPS; w++)
            total = total + partial[w];
        scale = vec2(norm_scale(total.x, p.cols, p.eps), norm_scale(total.y, p.cols, p.eps));
    }
    for (uint i = lane; i < p.cols / 4; i += NORM_LANES) {
        vec4 ya = xa.v[i], yb = xb.v[i];
        if (p.weight != 0) {
            vec4 w = weight.v[i];
            ya = scaled(ya, scale.x, w);
            yb = scaled(yb, scale.y, w);
        }
        put_four(i, a % 8, ya);
        if (has_b)
            put_four(i, a % 8 + 1, yb);
    }
    chain_done();
}
