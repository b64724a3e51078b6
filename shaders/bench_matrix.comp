#version 460
/* octoflow-bench: rate of the matrix units, 16 x 8 x 16, f16 in, f32 sums: 4 x 4 independent sums a subgroup, operands
 * in registers. */
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_shader_explicit_arithmetic_types_float16 : require
#extension GL_KHR_memory_scope_semantics : require
#extension GL_NV_cooperative_matrix : require
#include "common.glsl"
#include "bench_push.h"

layout(local_size_x = 128) in;
layout(push_constant) uniform P { PUSH_BENCH } p;
const uint SIDE = 4; /* bench/measure.c counts with it */

void main()
{
    fcoopmatNV<16, gl_ScopeSubgroup, 16, 16> a[SIDE];
    fcoopmatNV<16, gl_ScopeSubgroup, 16, 8> b[SIDE];
    fcoopmatNV<32, gl_ScopeSubgroup, 16, 8> sum[SIDE * SIDE];
    float16_t seed = float16_t(float(gl_GlobalInvocationID.x & 31) * 0.01);
    [[unroll]] for (uint i = 0; i < SIDE; i++) {
        a[i] = fcoopmatNV<16, gl_ScopeSubgroup, 16, 16>(seed + float16_t(i));
        b[i] = fcoopmatNV<16, gl_ScopeSubgroup, 16, 8>(seed - float16_t(i));
    }
    [[unroll]] for (uint i = 0; i < SIDE * SIDE; i++)
        sum[i] = fcoopmatNV<32, gl_ScopeSubgroup, 16, 8>(0.0);
    for (uint round = 0; round < p.count; round++) {
        [[unroll]] for (uint i = 0; i < SIDE; i++) {
            [[unroll]] for (uint j = 0; j < SIDE; j++)
                sum[i * SIDE + j] = coopMatMulAddNV(a[i], b[j], sum[i * SIDE + j]);
        }
    }
    float all = 0;
    [[unroll]] for (uint i = 0; i < SIDE * SIDE; i++)
        all += sum[i][0] + sum[i][1] + sum[i][2] + sum[i][3];
    if ((gl_LocalInvocationID.x & 31) == 0 || all == 1234.5)
        U32s(p.out_).v[gl_GlobalInvocationID.x / 32] = floatBitsToUint(all);
}
