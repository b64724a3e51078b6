#version 460
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"

layout(local_size_x_id = 0) in;
layout(push_constant) uniform P { PUSH_SILU_MUL } p;

void main()
{
    uint j = gl_GlobalInvocationID.x, r = gl_GlobalInvocationID.y;
    if (j >= p.cols)
        return;
    F32s row = F32s(at(p.gate_up, r, 2 * p.cols, 4));
    float x = row.v[j];
    precise float gate;
    if (p.gelu != 0) {
        precise float inner = 0.7978845608028654 * (x + 0.044715 * x * x * x);
        gate = 0.5 * x * (1.0 + tanh(clamp(inner, -15.0, 15.0)));
    } else {
        gate = x / (1.0 + exp(-x));
    }
    precise float y = gate * row.v[p.cols + j];
    F32s(at(p.out_, r, p.cols, 4)).v[j] = y;
}
