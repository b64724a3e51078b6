#version 460
/* Quantized weights to f16 weight tiles (matrix.glsl). One invocation writes a lane's octet. */
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"
#define MATRIX_LAYOUT
#include "matrix.glsl"
#define LOAD_BY_64_BITS false
#include "weights.glsl"

layout(local_size_x = 32, local_size_y = 1) in;
layout(push_constant) uniform P { PUSH_MATRIX_EXPAND } p;

void main()
{
    uint lane = gl_LocalInvocationID.x, groups = p.k / 32;
    uint b = gl_WorkGroupID.x, tile = gl_WorkGroupID.y;
    for (uint upper = 0; upper < p.halves; upper++) {
        uint row = (tile * p.halves + upper) * 8 + lane / 4;
        if (p.head_size > 0) {
            uint tiles = p.head_size / 16, pair = tile % tiles * 8 + lane / 4;
            row = tile / tiles * p.head_size +
                  (p.adjacent != 0 ? 2 * pair + upper : pair + upper * (p.head_size / 2));
        }
        uvec4 octet = uvec4(0);
        if (row < p.n) {
            weight_at at = weight_find(p.w, p.first_row + row, b / (SLICE / GROUP), p.k);
            octet = type_read_octet(type_read_slice(at), at, b % (SLICE / GROUP), lane % 4);
        }
        U32x4s(p.out_).v[((tile * groups + b) * 2 + upper + p.upper) * 32 + lane] = octet;
    }
}
