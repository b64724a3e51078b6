#version 460
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"
#include "activation.glsl"

layout(local_size_x_id = 0) in;
layout(push_constant) uniform P { PUSH_SILU_MUL } p;

void main()
{
    uint j = gl_GlobalInvocationID.x, r = gl_GlobalInvocationID.y;
    if (j >= p.cols)
        return;
    F32s row = F32s(at(p.gate_up, r, 2 * p.cols, 4));
    precise float y = activated(row.v[j], p.gelu != 0) * row.v[p.cols + j];
    F32s(at(p.out_, r, p.cols, 4)).v[j] = y;
}
