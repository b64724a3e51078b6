#version 460
/* Rows of f32 to row tiles of f16 (matrix.glsl), normalized first where there is a weight. One workgroup a row; the
 * sum of squares has a fixed tree: an invocation adds i, i + size, ...; a subgroup adds its invocations; subgroups are
 * added in ascending order. */
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"
#define MATRIX_LAYOUT
#include "matrix.glsl"

layout(local_size_x_id = 0) in;
layout(push_constant) uniform P { PUSH_MATRIX_ROWS } p;

shared float partial[gl_WorkGroupSize.x];

void main()
{
    uint r = gl_WorkGroupID.x, lane = gl_LocalInvocationID.x, size = gl_WorkGroupSize.x;
    uint src = p.idx != 0 ? U32s(p.idx).v[r] : r;
    F32s x = F32s(at(p.x, src, p.stride, 4));
    F32s weight = F32s(p.weight);
    F16s dst = F16s(p.out_);
    uint groups = (p.cols + 31) / 32;
    float scale = 1.0;
    if (p.weight != 0) {
        precise float sum = 0.0;
        for (uint i = lane; i < p.cols; i += size) {
            float v = x.v[i];
            sum = fma(v, v, sum);
        }
        sum = subgroupAdd(sum);
        if (subgroupElect())
            partial[gl_SubgroupID] = sum;
        barrier();
        precise float total = 0.0;
        for (uint i = 0; i < gl_NumSubgroups; i++)
            total = total + partial[i];
        precise float inverse = 1.0 / sqrt(total / float(p.cols) + p.eps);
        scale = inverse;
    }
    for (uint i = lane; i < p.cols; i += size) {
        precise float v = x.v[i];
        if (p.weight != 0)
            v = v * scale * weight.v[i];
        F16s(p.out_ + tile_place(r, i, groups) * 2).v[0] = to_half(v);
    }
}
