#version 460
/* Attention for devices with few lanes (subgroups of FEW) and dear loads and barriers: CPUs. One subgroup for a row
 * and some of the query heads that share a head of keys: they are computed together, from one load of K and V.
 *
 * Softmax over the row's past, FEW keys at a time in ascending order, with a running maximum (Milakov & Gimelshein
 * 2018, Online normalizer calculation for softmax). A row's result depends on its position and its pages' content
 * alone. A lane holds every eighth quad (four dimensions) of a query and scores one key; then it adds up its quads.
 * attention.comp is the same for all other devices; the bits differ, so a device uses only one of them. */
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"
#include "softcap.glsl"

layout(local_size_x = 8) in;
layout(constant_id = 0) const uint QUADS = 16; /* at least head_size / 4 */
layout(constant_id = 1) const uint HEADS = 1;  /* query heads at a time; divides n_head / n_head_kv */
layout(push_constant) uniform P { PUSH_ATTENTION } p;

const uint FEW = 8;
const uint HELD = (QUADS + FEW - 1) / FEW; /* quads of a lane */

vec4 halves(uint64_t x)
{
    uvec2 v = unpack32(x);
    return vec4(unpackHalf2x16(v.x), unpackHalf2x16(v.y));
}

/* The first key that a row with `count` keys sees. */
uint first_key(uint count)
{
    return p.window == 0 || count <= p.window ? 0 : count - p.window;
}

/* The score of key `lane`: a chain of fma in ascending dimension. */
void score_keys(U64s k, uint hidden, uint there, vec4 query[HEADS][HELD], out precise float s[HEADS])
{
    uint quads = p.head_size / 4, lane = gl_SubgroupInvocationID;
    uint key = min(lane, there - 1);
    [[unroll]] for (uint h = 0; h < HEADS; h++)
        s[h] = 0.0;
    [[unroll]] for (uint d = 0; d < QUADS; d++) {
        vec4 x = halves(k.v[key * quads + min(d, quads - 1)]);
        [[unroll]] for (uint h = 0; h < HEADS; h++) {
            vec4 q = subgroupBroadcast(query[h][d / FEW], d % FEW);
            s[h] = fma(q.x, x.x, s[h]);
            s[h] = fma(q.y, x.y, s[h]);
            s[h] = fma(q.z, x.z, s[h]);
            s[h] = fma(q.w, x.w, s[h]);
        }
    }
    [[unroll]] for (uint h = 0; h < HEADS; h++)
        s[h] = lane >= hidden && lane < there ? soft_capped(s[h] * p.scale, p.softcap) : uintBitsToFloat(0xff800000u);
}

/* acc += weight * value, keys ascending; keys that are hidden or not there have weight 0 and another's value (0 *
 * infinity is not 0). */
void add_values(U64s v, uint hidden, uint there, float weight[HEADS], inout precise vec4 acc[HEADS][HELD])
{
    uint quads = p.head_size / 4, lane = gl_SubgroupInvocationID;
    [[unroll]] for (uint j = 0; j < FEW; j++) {
        uint key = clamp(j, hidden, there - 1);
        [[unroll]] for (uint d = 0; d < HELD; d++) {
            vec4 x = halves(v.v[key * quads + min(d * FEW + lane, quads - 1)]);
            [[unroll]] for (uint h = 0; h < HEADS; h++)
                acc[h][d] = fma(vec4(subgroupBroadcast(weight[h], j)), x, acc[h][d]);
        }
    }
}

void main()
{
    uint lane = gl_SubgroupInvocationID, quads = p.head_size / 4;
    uint first_head = gl_WorkGroupID.x * HEADS, r = gl_WorkGroupID.y;
    uint count = U32s(p.pos).v[r] + 1; /* keys */
    U32s pages = U32s(at(p.pages, U32s(p.seq).v[r], p.pages_stride, 4));
    uint64_t head_offset = uint64_t(first_head / (p.n_head / p.n_head_kv)) * (PAGE_TOKENS * p.head_size * 2);
    uint64_t row = at(p.qkv, r, p.qkv_stride, 4);

    vec4 query[HEADS][HELD];
    precise vec4 acc[HEADS][HELD];
    precise float m[HEADS], sum[HEADS]; /* sum: of the lane's keys */
    [[unroll]] for (uint h = 0; h < HEADS; h++) {
        F32s q = F32s(row + uint64_t(first_head + h) * p.head_size * 4);
        m[h] = uintBitsToFloat(0xff800000u); /* -inf */
        sum[h] = 0.0;
        [[unroll]] for (uint d = 0; d < HELD; d++) {
            uint i = d * FEW + lane, from = min(i, quads - 1) * 4;
            vec4 x = vec4(q.v[from], q.v[from + 1], q.v[from + 2], q.v[from + 3]);
            query[h][d] = i < quads ? x : vec4(0.0);
            acc[h][d] = vec4(0.0);
        }
    }
    uint seen = first_key(count);
    for (uint first = seen / FEW * FEW; first < count; first += FEW) {
        uint64_t page = p.kv + uint64_t(pages.v[first / PAGE_TOKENS]) * p.page_bytes + head_offset;
        uint64_t k = page + (first % PAGE_TOKENS) * (p.head_size * 2);
        uint there = min(count - first, FEW), hidden = first < seen ? seen - first : 0;
        precise float s[HEADS];
        score_keys(U64s(k), hidden, there, query, s);
        [[unroll]] for (uint h = 0; h < HEADS; h++) {
            precise float m_new = max(m[h], subgroupMax(s[h]));
            precise float shrink = exp(m[h] - m_new);
            s[h] = exp(s[h] - m_new);
            sum[h] = fma(sum[h], shrink, s[h]);
            [[unroll]] for (uint d = 0; d < HELD; d++)
                acc[h][d] = acc[h][d] * shrink;
            m[h] = m_new;
        }
        add_values(U64s(k + p.page_bytes / 2), hidden, there, s, acc);
    }
    [[unroll]] for (uint h = 0; h < HEADS; h++) {
        F32s dst = F32s(at(p.out_, r, p.n_head * p.head_size, 4) + uint64_t(first_head + h) * p.head_size * 4);
        precise float total = 0.0;
        [[unroll]] for (uint i = 0; i < FEW; i++)
            total = total + subgroupBroadcast(sum[h], i);
        [[unroll]] for (uint d = 0; d < HELD; d++) {
            uint i = d * FEW + lane;
            if (i < quads) {
                precise vec4 y = acc[h][d] / total;
                [[unroll]] for (uint c = 0; c < 4; c++)
                    dst.v[4 * i + c] = y[c];
            }
        }
    }
}
