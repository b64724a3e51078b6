#version 460
/* octoflow-bench: read bandwidth. Every invocation walks the buffer in strides of the whole grid. */
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"
#include "bench_push.h"

layout(local_size_x = 256) in;
layout(push_constant) uniform P { PUSH_BENCH } p;
shared uint sum_of[256];

void main()
{
    U32x4s from = U32x4s(p.from);
    uint i = gl_GlobalInvocationID.x;
    uvec4 sum = uvec4(0);
    for (uint round = 0; round < p.count; round++) {
        uvec4 a = from.v[i], b = from.v[i + p.words], c = from.v[i + 2 * p.words], d = from.v[i + 3 * p.words];
        sum += (a + b) + (c + d);
        i += 4 * p.words;
    }
    sum_of[gl_LocalInvocationID.x] = sum.x + sum.y + sum.z + sum.w;
    barrier();
    if (gl_LocalInvocationID.x == 0) {
        uint all = 0;
        for (uint k = 0; k < 256; k++)
            all += sum_of[k];
        U32s(p.out_).v[gl_WorkGroupID.x] = all;
    }
}
