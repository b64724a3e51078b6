#version 460
/* One workgroup for a row and a head: softmax over the row's past, a page of PAGE_TOKENS keys at a time in ascending
 * order, with a running maximum (Milakov & Gimelshein 2018, Online normalizer calculation for softmax). A row's result
 * depends on its position and its pages' content alone.
 *
 * Of a page, invocation i scores keys i, i + SIZE, ...; then it adds up the values of 2 * PAIRS dimensions. A dot
 * product is a chain of fma in ascending dimension; the weighted sum one in ascending key. */
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"
#include "softcap.glsl"

layout(local_size_x_id = 0) in; /* SIZE: divides PAGE_TOKENS */
layout(constant_id = 1) const uint WORDS = 32; /* at least head_size / 2 */
layout(push_constant) uniform P { PUSH_ATTENTION } p;

const uint SIZE = gl_WorkGroupSize.x;
const uint KEYS = PAGE_TOKENS / SIZE;
const uint PAIRS = (WORDS + SIZE - 1) / SIZE;

shared vec2 query[WORDS];
shared float weight[PAGE_TOKENS];
shared float largest[SIZE]; /* one a subgroup */

/* The first key that a row with `count` keys sees. */
uint first_key(uint count)
{
    return p.window == 0 || count <= p.window ? 0 : count - p.window;
}

float score(U32s k, uint key)
{
    uint words = p.head_size / 2;
    precise float s = 0.0;
    for (uint w = 0; w < WORDS; w += 8)
        [[unroll]] for (uint i = 0; i < 8; i++) {
            vec2 q = query[w + i];
            vec2 x = unpackHalf2x16(k.v[key * words + min(w + i, words - 1)]);
            s = fma(q.x, x.x, s);
            s = fma(q.y, x.y, s);
        }
    return soft_capped(s * p.scale, p.softcap);
}

float group_max(float x)
{
    float m = subgroupMax(x);
    if (subgroupElect())
        largest[gl_SubgroupID] = m;
    barrier();
    m = largest[0];
    for (uint i = 1; i < gl_NumSubgroups; i++)
        m = max(m, largest[i]);
    return m;
}

void main()
{
    uint h = gl_WorkGroupID.x, r = gl_WorkGroupID.y, lane = gl_LocalInvocationID.x;
    uint words = p.head_size / 2;
    uint count = U32s(p.pos).v[r] + 1; /* keys */
    U32s pages = U32s(at(p.pages, U32s(p.seq).v[r], p.pages_stride, 4));
    uint64_t head_offset = uint64_t(h / (p.n_head / p.n_head_kv)) * (PAGE_TOKENS * p.head_size * 2);
    F32s q = F32s(at(p.qkv, r, p.qkv_stride, 4) + uint64_t(h) * p.head_size * 4);
    for (uint w = lane; w < WORDS; w += SIZE)
        query[w] = w < words ? vec2(q.v[2 * w], q.v[2 * w + 1]) : vec2(0.0);
    barrier();

    precise float m = uintBitsToFloat(0xff800000u), sum = 0.0; /* -inf */
    precise vec2 acc[PAIRS];
    [[unroll]] for (uint i = 0; i < PAIRS; i++)
        acc[i] = vec2(0.0);
    uint seen = first_key(count);
    for (uint first = seen / PAGE_TOKENS * PAGE_TOKENS; first < count; first += PAGE_TOKENS) {
        uint64_t page = p.kv + uint64_t(pages.v[first / PAGE_TOKENS]) * p.page_bytes + head_offset;
        U32s k = U32s(page), v = U32s(page + p.page_bytes / 2);
        uint in_page = min(count - first, PAGE_TOKENS);
        float s[KEYS];
        float most = uintBitsToFloat(0xff800000u);
        [[unroll]] for (uint i = 0; i < KEYS; i++) {
            uint key = i * SIZE + lane;
            bool sees = key < in_page && first + key >= seen;
            s[i] = sees ? score(k, min(key, in_page - 1)) : uintBitsToFloat(0xff800000u);
            most = max(most, s[i]);
        }
        precise float m_new = max(m, group_max(most));
        precise float shrink = exp(m - m_new);
        [[unroll]] for (uint i = 0; i < KEYS; i++) {
            precise float distance = s[i] - m_new;
            weight[i * SIZE + lane] = exp(distance);
        }
        barrier();
        m = m_new;
        sum = sum * shrink;
        [[unroll]] for (uint i = 0; i < PAIRS; i++)
            acc[i] = acc[i] * shrink;
        for (uint t0 = 0; t0 < in_page; t0 += 8)
            [[unroll]] for (uint j = 0; j < 8; j++) {
                uint t = t0 + j;
                bool there = t < in_page && first + t >= seen; /* 0 * infinity is not 0 */
                float e = there ? weight[t] : 0.0;
                sum = sum + e;
                [[unroll]] for (uint i = 0; i < PAIRS; i++) {
                    uint w = min(i * SIZE + lane, words - 1);
                    vec2 x = there ? unpackHalf2x16(v.v[min(t, in_page - 1) * words + w]) : vec2(0.0);
                    acc[i] = fma(vec2(e), x, acc[i]);
                }
            }
    }
    F32s dst = F32s(at(p.out_, r, p.n_head * p.head_size, 4) + uint64_t(h) * p.head_size * 4);
    [[unroll]] for (uint i = 0; i < PAIRS; i++) {
        uint w = i * SIZE + lane;
        if (w < words) {
            precise vec2 y = acc[i] / sum;
            dst.v[2 * w] = y.x;
            dst.v[2 * w + 1] = y.y;
        }
    }
}
