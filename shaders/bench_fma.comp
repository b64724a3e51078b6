#version 460
/* octoflow-bench: rate of F32 fma: FMA_CHAINS independent chains an invocation, `count` rounds. */
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"
#include "bench_push.h"

layout(local_size_x = 256) in;
layout(push_constant) uniform P { PUSH_BENCH } p;
const uint FMA_CHAINS = 16; /* bench/measure.c counts with it */

void main()
{
    float x[FMA_CHAINS];
    float a = 0.5 + float(gl_LocalInvocationID.x) * 1e-4;
    [[unroll]] for (uint i = 0; i < FMA_CHAINS; i++)
        x[i] = float(i);
    for (uint round = 0; round < p.count; round++) {
        [[unroll]] for (uint i = 0; i < FMA_CHAINS; i++)
            x[i] = fma(x[i], a, a);
    }
    float sum = 0;
    [[unroll]] for (uint i = 0; i < FMA_CHAINS; i++)
        sum += x[i];
    if (gl_LocalInvocationID.x == 0 || sum == 1234.5)
        U32s(p.out_).v[gl_WorkGroupID.x] = floatBitsToUint(sum);
}
