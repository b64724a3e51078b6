#version 460
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"

layout(local_size_x_id = 0) in;
layout(push_constant) uniform P { PUSH_SOFTCAP } p;

void main()
{
    uint i = (gl_WorkGroupID.y * p.row_groups + gl_WorkGroupID.x) * gl_WorkGroupSize.x + gl_LocalInvocationID.x;
    if (i >= p.count)
        return;
    precise float x = F32s(p.x).v[i] / p.cap;
    precise float y = p.cap * (abs(x) > 15.0 ? sign(x) : tanh(x)); /* a driver's sinh / cosh may overflow */
    F32s(p.x).v[i] = y;
}
