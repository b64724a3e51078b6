#version 460
/* Rows of f32 to row tiles of f16 (matrix.glsl), normalized first where there is a weight. A workgroup takes two
 * rows; where what it leaves is in band (chain.glsl), one. */
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

/* Where the tile of row r begins. */
uint64_t tile_at(uint r)
{
    return uint64_t(r / 8) * (p.cols / 32) * 512;
}

const uint OWN = MATRIX_ROWS_IN_BAND_COLS / 4 / NORM_LANES; /* fours of a row a lane */

void norm_in_band()
{
    uint r = gl_WorkGroupID.x, lane = gl_LocalInvocationID.y * WARP + warp_lane(), fours = p.cols / 4, tries = 0;
    ComingF32x4s x = ComingF32x4s(at(p.x, r, p.stride, 4));
    FreshU32s cleared = FreshU32s(p.clear + tile_at(r));
    vec4 y[OWN], weight[OWN];
    tile = FreshU32s(p.out_ + tile_at(r));
    [[unroll]] for (uint o = 0; o < OWN; o++)
        weight[o] = F32x4s(p.weight).v[min(lane + o * NORM_LANES, fours - 1)];
    chain_wait();
    bool comes;
    do {
        comes = false;
        [[unroll]] for (uint o = 0; o < OWN; o++) {
            uint i = lane + o * NORM_LANES;
            y[o] = i < fours ? x.v[i] : vec4(0.0);
            comes = comes || unwritten(y[o]);
        }
    } while (comes && (p.options & MATRIX_A_IN_BAND) != 0 && chain_again(tries));
    float sum = 0.0;
    [[unroll]] for (uint o = 0; o < OWN; o++)
        sum = add_squares(y[o], sum);
    sum = warp_sum(sum);
    if (warp_lane() == 0)
        partial[gl_LocalInvocationID.y].x = sum;
    barrier();
    precise float total = 0.0;
    [[unroll]] for (uint w = 0; w < NORM_WARPS; w++)
        total = total + partial[w].x;
    float scale = norm_scale(total, p.cols, p.eps);
    [[unroll]] for (uint o = 0; o < OWN; o++) {
        uint i = lane + o * NORM_LANES, word = norm_place(i, r % 8) * 4 + norm_part(i);
        if (i >= fours)
            continue;
        vec4 z = scaled(y[o], scale, weight[o]);
        [[unroll]] for (uint e = 0; e < 4; e++)
            z[e] = in_band(z[e]);
        put_four(i, r % 8, z);
        cleared.v[word] = UNWRITTEN;
        cleared.v[word + 1] = UNWRITTEN;
    }
    chain_done();
}

void main()
{
    if (p.clear != 0) {
        norm_in_band();
        return;
    }
    uint a = gl_WorkGroupID.x * 2, lane = gl_LocalInvocationID.y * WARP + warp_lane();
    bool has_b = a + 1 < p.rows;
    FreshF32x4s xa = row_of(a), xb = row_of(has_b ? a + 1 : a);
    F32x4s weight = F32x4s(p.weight);
    tile = FreshU32s(p.out_ + tile_at(a));
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
