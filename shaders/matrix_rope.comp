#version 460
/* One invocation for two neighbouring values of q, k (both rotated) or v of a row: q as f16 rows, k and v into the
 * row's page. */
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"
#define MATRIX_LAYOUT
#include "matrix.glsl"

layout(local_size_x_id = 0) in;
layout(push_constant) uniform P { PUSH_MATRIX_ROPE } p;

float rotated(F32s x, F32x2s angles, uint d)
{
    uint pairs = p.rope_dims / 2;
    if (d >= p.rope_dims)
        return x.v[d];
    bool first = p.adjacent != 0 ? d % 2 == 0 : d < pairs; /* of its pair */
    uint away = p.adjacent != 0 ? 1 : pairs;
    vec2 a = angles.v[p.adjacent != 0 ? d / 2 : first ? d : d - pairs];
    float own = x.v[d], other = x.v[first ? d + away : d - away];
    precise float turned = other * (first ? -a.y : a.y);
    precise float sum = fma(own, a.x, turned);
    return sum;
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
    float a = is_v ? x.v[d] : rotated(x, angles, d), b = is_v ? x.v[d + 1] : rotated(x, angles, d + 1);
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
