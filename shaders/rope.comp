#version 460
/* One invocation for: a pair of q, rotated in place; or two neighbouring values of k (rotated) or v, written to the
 * row's page as f16. */
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"

layout(local_size_x_id = 0) in;
layout(push_constant) uniform P { PUSH_ROPE } p;

#include "rotation.glsl"

float turned(F32s x, F32x2s angles, uint d)
{
    return rotated(x, angles, d, p.rope_dims, p.adjacent != 0);
}

void main()
{
    uint i = gl_GlobalInvocationID.x, r = gl_GlobalInvocationID.y;
    uint pairs = p.rope_dims / 2, words = p.head_size / 2;
    uint pos = U32s(p.pos).v[r];
    F32x2s angles = F32x2s(at(p.angles, pos, pairs, 8));
    uint64_t row = at(p.qkv, r, (p.n_head + 2 * p.n_head_kv) * p.head_size, 4);
    if (i < p.n_head * pairs) {
        F32s q = F32s(row + uint64_t(i / pairs) * p.head_size * 4);
        uint d = p.adjacent != 0 ? i % pairs * 2 : i % pairs;
        uint other = d + (p.adjacent != 0 ? 1 : pairs);
        float low = turned(q, angles, d), high = turned(q, angles, other);
        q.v[d] = low;
        q.v[other] = high;
        return;
    }
    i -= p.n_head * pairs;
    if (i >= 2 * p.n_head_kv * words)
        return;
    uint head = i / words, d = (i % words) * 2; /* heads of k, then of v */
    bool is_k = head < p.n_head_kv;
    F32s x = F32s(row + uint64_t(p.n_head + head) * p.head_size * 4);
    vec2 pair = is_k ? vec2(turned(x, angles, d), turned(x, angles, d + 1)) : vec2(x.v[d], x.v[d + 1]);
    uint page = U32s(at(p.pages, U32s(p.seq).v[r], p.pages_stride, 4)).v[pos / PAGE_TOKENS];
    uint64_t dst = p.kv + uint64_t(page) * p.page_bytes + (is_k ? 0 : p.page_bytes / 2);
    uint kv_head = is_k ? head : head - p.n_head_kv;
    U32s(dst).v[(kv_head * PAGE_TOKENS + pos % PAGE_TOKENS) * words + d / 2] = packHalf2x16(pair);
}
