#version 460
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"

layout(local_size_x_id = 0) in;
layout(push_constant) uniform P { PUSH_COMBINE } p;

void main()
{
    uint j = gl_GlobalInvocationID.x, r = gl_GlobalInvocationID.y;
    if (j >= p.cols)
        return;
    precise float sum = 0.0;
    for (uint s = 0; s < p.used; s++) {
        uint pair = r * p.used + s;
        sum = fma(F32s(p.weights).v[pair], F32s(at(p.y, pair, p.cols, 4)).v[j], sum);
    }
    F32s row = F32s(at(p.out_, r, p.cols, 4));
    precise float y = row.v[j] + sum;
    row.v[j] = y;
}
