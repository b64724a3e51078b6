#version 460
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"
#include "softcap.glsl"

layout(local_size_x_id = 0) in;
layout(push_constant) uniform P { PUSH_SOFTCAP } p;

void main()
{
    uint i = (gl_WorkGroupID.y * p.row_groups + gl_WorkGroupID.x) * gl_WorkGroupSize.x + gl_LocalInvocationID.x;
    if (i >= p.count)
        return;
    F32s(p.x).v[i] = soft_capped(F32s(p.x).v[i], p.cap);
}
