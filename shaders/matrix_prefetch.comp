#version 460
/* Reads memory, so that it lies in the last-level cache when it is needed: one load a sector. */
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"

layout(local_size_x = 256) in;
layout(push_constant) uniform P { PUSH_MATRIX_PREFETCH } p;

const uint SECTOR_BYTES = 32, LOADS = 8;

void main()
{
    uint at = gl_WorkGroupID.x * (gl_WorkGroupSize.x * LOADS) + gl_LocalInvocationID.x;
    uint sum = 0;
    [[unroll]] for (uint i = 0; i < LOADS; i++) {
        uint sector = min(at + i * gl_WorkGroupSize.x, p.sectors - 1);
        sum |= U32s(p.from + uint64_t(sector) * SECTOR_BYTES).v[0];
    }
    if (p.sectors == 0) /* never: but the loads have a use */
        U32s(p.from).v[0] = sum;
}
