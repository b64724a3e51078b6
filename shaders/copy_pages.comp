#version 460
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"

layout(local_size_x_id = 0) in;
layout(push_constant) uniform P { PUSH_COPY_PAGES } p;

void main()
{
    uint i = gl_GlobalInvocationID.x;
    if (i >= p.page_bytes / 16)
        return;
    uvec2 pair = U32x2s(p.pairs).v[gl_WorkGroupID.y];
    uint64_t layer = p.kv + uint64_t(gl_WorkGroupID.z) * p.layer_stride;
    U32x4s(layer + uint64_t(pair.y) * p.page_bytes).v[i] = U32x4s(layer + uint64_t(pair.x) * p.page_bytes).v[i];
}
