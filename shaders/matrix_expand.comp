#version 460
/* Quantized weights to f16 weight tiles, or with WEIGHT_BYTES to byte tiles (matrix.glsl). One invocation writes a
 * lane's octet. */
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"
#define MATRIX_LAYOUT
#include "matrix.glsl"
#define LOAD_BY_64_BITS false
#include "weights.glsl"

layout(local_size_x = 32, local_size_y = 1) in;
layout(push_constant) uniform P { PUSH_MATRIX_EXPAND } p;

#ifdef WEIGHT_BYTES
/* The integers + 128 of four values, 0 2 1 3; each is a whole multiple of d. */
uint bytes_of(vec4 w, float d)
{
    uvec4 q = uvec4(ivec4(round(d == 0.0 ? vec4(0.0) : w / d)) + 128);
    return q.x | q.z << 8 | q.y << 16 | q.w << 24;
}

/* A type whose first unit is the slice's scales, and whose values are whole multiples of them up to 127. */
void put_octet(uint tile, uint b, uint upper, uint row)
{
    uint lane = gl_LocalInvocationID.x, groups = p.k / 32, g = b % (SLICE / GROUP), q = lane % 4;
    uint64_t block = p.out_ + (uint64_t(tile) * groups + b) * MATRIX_BYTES_BLOCK;
    float d = 0.0, w[GROUP];
    uvec2 octet = uvec2(0x80808080u);
    if (row < p.n) {
        weight_at at = weight_find(p.w, p.first_row + row, b / (SLICE / GROUP), p.k);
        type_slice s = type_read_slice(at);
        d = half_of(s.scales, g);
        type_read_group(s, at, g, w);
        vec4 x[2];
        [[unroll]] for (uint i = 0; i < 2; i++)
            [[unroll]] for (uint j = 0; j < 4; j++) {
                uint k = i * 16 + j;
                x[i][j] = q == 0 ? w[k] : q == 1 ? w[k + 4] : q == 2 ? w[k + 8] : w[k + 12];
            }
        octet = uvec2(bytes_of(x[0], d), bytes_of(x[1], d));
    }
    if (q == 0)
        F16s(block).v[lane / 4 * 2 + upper] = float16_t(d);
    U32x2s(block + 32).v[lane * 2 + upper] = octet;
}
#else
void put_octet(uint tile, uint b, uint upper, uint row)
{
    uint lane = gl_LocalInvocationID.x, groups = p.k / 32;
    uvec4 octet = uvec4(0);
    if (row < p.n) {
        weight_at at = weight_find(p.w, p.first_row + row, b / (SLICE / GROUP), p.k);
        octet = type_read_octet(type_read_slice(at), at, b % (SLICE / GROUP), lane % 4);
    }
    U32x4s(p.out_).v[((tile * groups + b) * 2 + upper) * 32 + lane] = octet;
}
#endif

void main()
{
    uint lane = gl_LocalInvocationID.x, b = gl_WorkGroupID.x, tile = gl_WorkGroupID.y;
    for (uint upper = 0; upper < p.halves; upper++) {
        uint row = (tile * p.halves + upper) * 8 + lane / 4;
        if (p.head_size > 0) {
            uint tiles = p.head_size / 16, pair = tile % tiles * 8 + lane / 4;
            row = tile / tiles * p.head_size +
                  (p.adjacent != 0 ? 2 * pair + upper : pair + upper * (p.head_size / 2));
        }
        put_octet(tile, b, upper + p.upper, row);
    }
}
