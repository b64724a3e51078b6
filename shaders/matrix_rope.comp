#version 460
/* One invocation for two neighbouring values of q, k (both rotated) or v of a row: q as f16 rows, k and v into the
 * row's page. */
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"
#define MATRIX_LAYOUT
#include "matrix.glsl"

layout(local_size_x_id = 0) in;
layout(push_constant) uniform P { PUSH_MATRIX_ROPE } p;

#include "rotation.glsl"

float turned(F32s x, F32x2s angles, uint d)
{
    return rotated(x, angles, d, p.rope_dims, p.adjacent != 0);
}

void main()
{
    uint i = gl_GlobalInvocationID.x, r = gl_GlobalInvocationID.y;
    uint words = p.head_size / 2, heads = p.n_head + 2 * p.n_head_kv;
    if (i >= heads * words)
        return;
    uint head = i / words, d = i % words * 2, pos = U32s(p.pos).v[r];
    F32s x = F32s(at(p.qkv, r, heads * p.head_size, 4) + uint64_t(head) * p.head_size * 4);
    F32x2s angles = F32x2s(at(p.angles, pos, p.rope_dims / 2, 8));
    bool is_v = head >= p.n_head + p.n_head_kv;
    float a = is_v ? x.v[d] : turned(x, angles, d), b = is_v ? x.v[d + 1] : turned(x, angles, d + 1);
    if (head < p.n_head) {
        U32s(at(p.q, r, p.n_head * p.head_size, 2)).v[i] = pack_halves(a, b);
        return;
    }
    uint page = U32s(at(p.pages, U32s(p.seq).v[r], p.pages_stride, 4)).v[pos / PAGE_TOKENS];
    uint64_t dst = p.kv + uint64_t(page) * p.page_bytes;
    uint in_page = pos % PAGE_TOKENS, kv_head = (head - p.n_head) % p.n_head_kv;
    if (!is_v) {
        U32s(dst).v[(kv_head * PAGE_TOKENS + in_page) * words + d / 2] = pack_halves(a, b);
        return;
    }
    F16s v = F16s(dst + p.page_bytes / 2 + uint64_t(kv_head * p.head_size + d) * PAGE_TOKENS * 2);
    v.v[in_page] = to_half(a);
    v.v[in_page + PAGE_TOKENS] = to_half(b);
}
