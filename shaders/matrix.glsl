/* Matrix units: the one product that the kernels of the matrix family are made of, and the layouts it wants.
 *
 *   product: C[16 x 8] += A[16 x 16] B[16 x 8], A and B f16, C f32, held by 32 invocations ("a warp"; workgroups are
 *   32 x warps). Invocation `lane` is (g, q) = (lane / 4, lane % 4) and holds
 *     A: rows g (low) and g + 8 (high); of each the four columns 2q, 2q + 1, 2q + 8, 2q + 9
 *     B: rows 2q, 2q + 1 (x), 2q + 8, 2q + 9 (y); of column g
 *     C: (row g, column 2q), (g, 2q + 1), (g + 8, 2q), (g + 8, 2q + 1)
 *   That is how NVIDIA's units have it; matrix_create() looks whether the device does. MATRIX_B_AS_C: B lies as C does
 *   instead, rows g (x) and g + 8 (y) of columns 2q and 2q + 1: what one product gave, the next one takes.
 *
 * Since a product sums over A's columns and B's rows, any 16 values of k may stand for them, in any order, the same in
 * both. A step takes a group of 32 values of k as two products: the first has k 0..15 of the group, the second 16..31,
 * with A's columns 2q, 2q + 1, 2q + 8, 2q + 9 standing for 4q .. 4q + 3. So a lane's share of a row's group are eight
 * values: its "octet" 4q .. 4q + 3 and 16 + 4q .. 16 + 4q + 3, one 16-byte load; of B the same of its column's k.
 *
 *   weight tiles: f16 [rows / 16][k / 32][2][32 lanes][8]: half 0 is row g of a tile, half 1 row g + 8; a lane's octet
 *   byte tiles: [rows / 16][k / 32] of MATRIX_BYTES_BLOCK bytes: first f16 [8][2], the scales of rows g and g + 8; then
 *     [32 lanes][2][2] words, a lane's octets of both rows as its integers + 128: values 0, 2, 1, 3 (low byte first) of
 *     four in a word. A weight is the f16 product of its scale and its integer: the bits that weight tiles have.
 *   row tiles (activations): f16 [rows / 8][k / 32][32 lanes][8]: a lane's octet of row g: tile_place()
 *
 * MATRIX_LAYOUT: only that. MATRIX_NV: GL_NV_cooperative_matrix, whose B lies as C does; without MATRIX_B_AS_C the
 * build makes VK_KHR_cooperative_matrix of it (to_khr.py), whose B lies as the units have it. Otherwise the same
 * product by shared memory and fma, for devices and tests without such units: the shader defines WARPS, the warps of
 * its workgroup, before, and all warps of a workgroup must come to every product together (UNIFORM_WARPS). */
#ifndef OCTO_MATRIX_GLSL
#define OCTO_MATRIX_GLSL
#extension GL_EXT_shader_explicit_arithmetic_types_float16 : require
#extension GL_EXT_shader_16bit_storage : require

#define WARP 32

layout(buffer_reference, std430, buffer_reference_align = 16) readonly restrict buffer Units { uvec4 v[]; };
layout(buffer_reference, std430, buffer_reference_align = 4) readonly restrict buffer UnitWords { uint v[]; };
layout(buffer_reference, std430, buffer_reference_align = 16) buffer CachedUnits { uvec4 v[]; };
/* Of what a dispatch of the same chain wrote (chain.glsl): not from a cache of this multiprocessor. */
layout(buffer_reference, std430, buffer_reference_align = 16) coherent buffer FreshUnits { uvec4 v[]; };
layout(buffer_reference, std430, buffer_reference_align = 16) coherent buffer FreshF32x4s { vec4 v[]; };
layout(buffer_reference, std430, buffer_reference_align = 4) coherent buffer FreshF32s { float v[]; };
layout(buffer_reference, std430, buffer_reference_align = 4) coherent buffer FreshU32s { uint v[]; };
layout(buffer_reference, std430, buffer_reference_align = 2) buffer F16s { float16_t v[]; };
layout(buffer_reference, std430, buffer_reference_align = 2) coherent buffer FreshF16s { float16_t v[]; };
layout(buffer_reference, std430, buffer_reference_align = 2) coherent buffer FreshU16s { uint16_t v[]; };
/* Of what arrives in band. */
layout(buffer_reference, std430, buffer_reference_align = 16) volatile coherent buffer ComingUnits { uvec4 v[]; };
layout(buffer_reference, std430, buffer_reference_align = 16) volatile coherent buffer ComingF32x4s { vec4 v[]; };
layout(buffer_reference, std430, buffer_reference_align = 4) volatile coherent buffer ComingF32s { float v[]; };

uint warp_lane()
{
    return gl_LocalInvocationID.x;
}

/* Of a byte tile: 0x6400 | i is the half 1024 + i, so its difference to 1152 is exact. */
uvec4 octet_of_bytes(uvec2 x, f16vec2 scale)
{
    f16vec2 zero = f16vec2(1152.0);
    return uvec4(packFloat2x16((unpackFloat2x16((x.x & 0x00ff00ffu) | 0x64006400u) - zero) * scale),
                 packFloat2x16((unpackFloat2x16((x.x >> 8 & 0x00ff00ffu) | 0x64006400u) - zero) * scale),
                 packFloat2x16((unpackFloat2x16((x.y & 0x00ff00ffu) | 0x64006400u) - zero) * scale),
                 packFloat2x16((unpackFloat2x16((x.y >> 8 & 0x00ff00ffu) | 0x64006400u) - zero) * scale));
}

#ifdef MATRIX_LAYOUT /* no products here */
#elif defined(MATRIX_NV)
#extension GL_KHR_memory_scope_semantics : require
#extension GL_NV_cooperative_matrix : require
#extension GL_KHR_shader_subgroup_shuffle : require
#define UNIFORM_WARPS false

vec4 product(uvec2 low, uvec2 high, uvec2 b, vec4 c)
{
    fcoopmatNV<16, gl_ScopeSubgroup, 16, 16> ma;
    fcoopmatNV<16, gl_ScopeSubgroup, 16, 8> mb;
    fcoopmatNV<32, gl_ScopeSubgroup, 16, 8> mc;
    [[unroll]] for (uint i = 0; i < 2; i++) {
        f16vec2 x = unpackFloat2x16(low[i]), y = unpackFloat2x16(high[i]), z = unpackFloat2x16(b[i]);
        ma[2 * i] = x.x;
        ma[2 * i + 1] = x.y;
        ma[4 + 2 * i] = y.x;
        ma[4 + 2 * i + 1] = y.y;
        mb[2 * i] = z.x;
        mb[2 * i + 1] = z.y;
    }
    [[unroll]] for (uint i = 0; i < 4; i++)
        mc[i] = c[i];
    mc = coopMatMulAddNV(ma, mb, mc);
    return vec4(mc[0], mc[1], mc[2], mc[3]);
}

float of_other(float x, uint apart)
{
    return subgroupShuffleXor(x, apart);
}

float warp_sum(float x)
{
    [[unroll]] for (uint i = 1; i < WARP; i *= 2) {
        precise float y = x + of_other(x, i);
        x = y;
    }
    return x;
}

/* Of the eight lanes with one q. */
float column_max(float x)
{
    [[unroll]] for (uint i = 4; i < WARP; i *= 2)
        x = max(x, subgroupShuffleXor(x, i));
    return x;
}

float column_sum(float x)
{
    [[unroll]] for (uint i = 4; i < WARP; i *= 2) {
        precise float y = x + subgroupShuffleXor(x, i);
        x = y;
    }
    return x;
}
#else
#define UNIFORM_WARPS true
/* A lane's words of A (low x, y, high x, y) and of B, word by word: a software device reads shared memory one
 * invocation after the other, so only what is needed is read, and both halves of a word are used. */
shared uint emulated_a[4][WARP * WARPS], emulated_b[2][WARP * WARPS];

vec4 product(uvec2 low, uvec2 high, uvec2 b, vec4 c)
{
    uint lane = warp_lane(), warp = gl_LocalInvocationID.y * WARP, me = warp + lane;
    barrier();
    emulated_a[0][me] = low.x;
    emulated_a[1][me] = low.y;
    emulated_a[2][me] = high.x;
    emulated_a[3][me] = high.y;
    emulated_b[0][me] = b.x;
    emulated_b[1][me] = b.y;
    barrier();
    uint depth = min(gl_NumWorkGroups.x, 1) * 8; /* 8; a compiler that knew would unroll, and take minutes */
    for (uint pair = 0; pair < depth; pair++) {
        uint word = pair / 4, row = warp + lane / 4 * 4 + pair % 4;
        vec2 x = unpackHalf2x16(emulated_a[word][row]), y = unpackHalf2x16(emulated_a[2 + word][row]);
#ifdef MATRIX_B_AS_C
        uint at = warp + pair % 4 * 8 + lane % 4;
        vec2 z = unpackHalf2x16(emulated_b[word][at]), next = unpackHalf2x16(emulated_b[word][at + 4]);
        vec2 first = vec2(z.x, next.x), second = vec2(z.y, next.y);
#else
        uint at = warp + lane % 4 * 8 + pair % 4;
        vec2 first = unpackHalf2x16(emulated_b[word][at]), second = unpackHalf2x16(emulated_b[word][at + 4]);
#endif
        c = vec4(fma(x.x, first.x, c.x), fma(x.x, second.x, c.y), fma(y.x, first.x, c.z), fma(y.x, second.x, c.w));
        c = vec4(fma(x.y, first.y, c.x), fma(x.y, second.y, c.y), fma(y.y, first.y, c.z), fma(y.y, second.y, c.w));
    }
    return c;
}

float of_lane(uint lane)
{
    return uintBitsToFloat(emulated_b[0][gl_LocalInvocationID.y * WARP + lane]);
}

float of_other(float x, uint apart)
{
    barrier();
    emulated_b[0][gl_LocalInvocationID.y * WARP + warp_lane()] = floatBitsToUint(x);
    barrier();
    return of_lane(warp_lane() ^ apart);
}

/* Pairwise, as the lanes' exchange does it. */
float warp_sum(float x)
{
    for (uint i = 1; i < WARP; i *= 2) {
        precise float y = x + of_other(x, i);
        x = y;
    }
    return x;
}

float column_max(float x)
{
    barrier();
    emulated_b[0][gl_LocalInvocationID.y * WARP + warp_lane()] = floatBitsToUint(x);
    barrier();
    for (uint i = warp_lane() % 4; i < WARP; i += 4)
        x = max(x, of_lane(i));
    return x;
}

float column_sum(float x)
{
    barrier();
    emulated_b[0][gl_LocalInvocationID.y * WARP + warp_lane()] = floatBitsToUint(x);
    barrier();
    precise float sum = 0.0;
    for (uint i = warp_lane() % 4; i < WARP; i += 4)
        sum = sum + of_lane(i);
    return sum;
}
#endif

/* Where value k of a row stands in row tiles of `groups` groups of 32, in halves. */
uint64_t tile_place(uint row, uint k, uint groups)
{
    uint c = k % 32, lane = row % 8 * 4 + c % 16 / 4;
    return (uint64_t(row / 8) * groups + k / 32) * 256 + lane * 8 + c / 16 * 4 + c % 4;
}

/* f16 has no room beyond 65504: values stay finite. */
float16_t to_half(float x)
{
    return float16_t(clamp(x, -65504.0, 65504.0));
}

uint pack_halves(float x, float y)
{
    return packHalf2x16(clamp(vec2(x, y), vec2(-65504.0), vec2(65504.0)));
}
#endif
