/* What every shader includes: extensions, buffers by address, push.h. No subgroup size is assumed anywhere, and the
 * one said is not asked for: invocations may be fewer. */
#ifndef OCTO_COMMON_GLSL
#define OCTO_COMMON_GLSL
#extension GL_EXT_buffer_reference : require
#extension GL_EXT_buffer_reference_uvec2 : require
#extension GL_EXT_shader_explicit_arithmetic_types_int64 : require
#extension GL_EXT_control_flow_attributes : require
#extension GL_EXT_scalar_block_layout : enable
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_KHR_shader_subgroup_arithmetic : require
#extension GL_KHR_shader_subgroup_ballot : require
#extension GL_EXT_shader_subgroup_extended_types_int64 : require

#define OCTO_GLSL
#include "push.h"

layout(buffer_reference, std430, buffer_reference_align = 4) buffer F32s { float v[]; };
layout(buffer_reference, std430, buffer_reference_align = 4) buffer U32s { uint v[]; };
layout(buffer_reference, std430, buffer_reference_align = 8) readonly buffer U64s { uint64_t v[]; };
layout(buffer_reference, std430, buffer_reference_align = 16) readonly buffer F32x4s { vec4 v[]; };
layout(buffer_reference, std430, buffer_reference_align = 16) buffer U32x4s { uvec4 v[]; };
layout(buffer_reference, std430, buffer_reference_align = 8) buffer U32x2s { uvec2 v[]; };
layout(buffer_reference, std430, buffer_reference_align = 8) readonly buffer F32x2s { vec2 v[]; };

/* base + row * stride elements of `bytes` bytes, without 32-bit overflow. */
uint64_t at(uint64_t base, uint row, uint stride, uint bytes)
{
    return base + uint64_t(row) * (uint64_t(stride) * bytes);
}

#define MINUS_INF uintBitsToFloat(0xff800000u)

/* An unsigned integer in the order of the floats. Key 0: none; key 1: NaN. */
uint key_of(float x)
{
    uint bits = floatBitsToUint(x);
    if ((bits & 0x7fffffffu) > 0x7f800000u)
        return 1;
    if (bits == 0x80000000u)
        bits = 0; /* -0 equals 0 */
    return (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
}
#endif
