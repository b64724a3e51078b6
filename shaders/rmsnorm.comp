#version 460
/* One workgroup a row. The sum of squares has a fixed tree: invocation i adds i, i + size, ... in ascending order;
 * the partial sums are added in ascending order. */
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"

layout(local_size_x_id = 0) in;
layout(push_constant) uniform P { PUSH_RMSNORM } p;

shared float partial[gl_WorkGroupSize.x];

uint64_t row_begin(uint r)
{
    return (uint64_t(r / p.heads) * p.stride + (r % p.heads) * p.cols) * 4;
}

void main()
{
    uint r = gl_WorkGroupID.y * gl_NumWorkGroups.x + gl_WorkGroupID.x;
    if (r >= p.rows)
        return;
    uint lane = gl_LocalInvocationID.x, size = gl_WorkGroupSize.x;
    uint src = p.idx != 0 ? U32s(p.idx).v[r] : r;
    F32s x = F32s(p.x + row_begin(src));
    F32s weight = F32s(p.weight);
    F32s dst = F32s(p.out_ + row_begin(r));
    F32s residual = F32s(p.residual + row_begin(r));
    precise float sum = 0.0;
    for (uint i = lane; i < p.cols; i += size) {
        float v = x.v[i];
        sum = fma(v, v, sum);
    }
    partial[lane] = sum;
    barrier();
    precise float total = 0.0;
    for (uint i = 0; i < size; i++)
        total = total + partial[i];
    precise float scale = 1.0 / sqrt(total / float(p.cols) + p.eps);
    for (uint i = lane; i < p.cols; i += size) {
        precise float v = x.v[i] * scale * weight.v[i];
        if (p.residual != 0)
            v = residual.v[i] + v;
        dst.v[i] = v;
    }
}
