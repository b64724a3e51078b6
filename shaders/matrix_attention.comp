#version 460
/* Attention on matrix units: keys and values are A, queries and their weights B. A column is a query: one head of one
 * token; the heads that share a KV head are neighbours. S^T [keys x columns] = K Q^T has in its registers just what
 * O^T [dims x columns] += V^T P^T wants as B, so weights never leave them (FlashAttention-2, arXiv 2307.08691).
 *
 * Canonical arithmetic: keys are cut into chunks of CHUNK_PAGES pages from position 0. A chunk is summed from nothing,
 * page by page, with a running maximum; chunks are merged in ascending order. A column's result depends on its
 * position and its pages alone. Variants: WARPS_K warps take chunks side by side (few columns: decode), or WARPS_N
 * warps take columns side by side (many: prefill).
 *
 * A task is a run of neighbouring rows of one sequence at consecutive positions: see push.h. */
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"
#include "softcap.glsl"
layout(local_size_x = 32, local_size_y_id = 0) in; /* y: WARPS_N * WARPS_K */
layout(constant_id = 1) const uint BLOCKS = 2;     /* of 32 dimensions: head_size / 32 */
layout(constant_id = 2) const uint TN = 1;         /* tiles of 8 columns a warp */
layout(constant_id = 3) const uint WARPS_N = 1;
layout(constant_id = 4) const uint WARPS_K = 4;
layout(push_constant) uniform P { PUSH_MATRIX_ATTENTION } p;

const uint WARPS = WARPS_N * WARPS_K;
#include "matrix.glsl"

const uint CHUNK_PAGES = MATRIX_CHUNK_TOKENS / PAGE_TOKENS;
const uint DIM_TILES = BLOCKS * 2; /* of 16 dimensions */
const uint HEAD_SIZE = BLOCKS * 32;
const float NOTHING = -3.0e38; /* below every score */

shared vec4 part_out[WARPS_K > 1 ? WARPS_N * WARPS_K * TN * DIM_TILES * WARP : 1];
shared vec4 part_sum[WARPS_K > 1 ? WARPS_N * WARPS_K * TN * WARP : 1]; /* maxima and sums of two columns */

float grown(float low, float high) /* exp(low - high), low <= high */
{
    precise float distance = low - high;
    return exp(distance);
}

void main()
{
    uint lane = warp_lane(), warp = gl_LocalInvocationID.y, g = lane / 4, q = lane % 4;
    uint warp_k = warp / WARPS_N, warp_n = warp % WARPS_N;
    uvec4 task = U32x4s(p.tasks).v[gl_WorkGroupID.x];
    uint kv_head = gl_WorkGroupID.y, share = p.n_head / p.n_head_kv;
    uint columns = task.y * share;
    uint first_column = (gl_WorkGroupID.z * WARPS_N + warp_n) * TN * 8;
    if (gl_WorkGroupID.z * WARPS_N * TN * 8 >= columns)
        return;
    uint begin_pos = task.z;
    U32s pages = U32s(at(p.pages, task.w, p.pages_stride, 4));
    uint64_t head_offset = uint64_t(kv_head) * (PAGE_TOKENS * HEAD_SIZE * 2);

    /* Queries as B: column 2q or 2q + 1, dimensions 8 (g / 2) + g % 2 + 4 step (+ 2) of each block. */
    uvec2 query[TN * BLOCKS * 2];
    uint limit[TN * 2]; /* keys 0 .. limit of a column */
    [[unroll]] for (uint j = 0; j < TN; j++) {
        F16s row[2];
        [[unroll]] for (uint e = 0; e < 2; e++) {
            uint column = min(first_column + j * 8 + 2 * q + e, columns - 1);
            limit[2 * j + e] = begin_pos + column / share;
            uint64_t q_row = at(p.q, task.x + column / share, p.n_head * HEAD_SIZE, 2);
            row[e] = F16s(q_row + uint64_t(kv_head * share + column % share) * (HEAD_SIZE * 2));
        }
        [[unroll]] for (uint s = 0; s < BLOCKS * 2; s++) {
            uint d = s / 2 * 32 + g / 2 * 8 + s % 2 * 4 + g % 2;
            query[j * BLOCKS * 2 + s] = uvec2(packFloat2x16(f16vec2(row[0].v[d], row[1].v[d])),
                                              packFloat2x16(f16vec2(row[0].v[d + 2], row[1].v[d + 2])));
        }
    }
    uint last_column = min(first_column + TN * 8, columns) - 1; /* may lie before first_column: then nothing is kept */
    uint last_key = begin_pos + last_column / share;
    uint task_last = begin_pos + task.y - 1;
    uint first_key = p.window == 0 || begin_pos + 1 <= p.window ? 0 : begin_pos + 1 - p.window;
    uint first_chunk = first_key / MATRIX_CHUNK_TOKENS;
    uint chunks = (UNIFORM_WARPS ? task_last : WARPS_K > 1 ? task_last : last_key) / MATRIX_CHUNK_TOKENS + 1;

    vec4 total[TN * DIM_TILES];
    vec4 total_sum[TN]; /* x, y: maxima of columns 2q, 2q + 1; z, w: sums */
    [[unroll]] for (uint i = 0; i < TN * DIM_TILES; i++)
        total[i] = vec4(0.0);
    [[unroll]] for (uint j = 0; j < TN; j++)
        total_sum[j] = vec4(NOTHING, NOTHING, 0.0, 0.0);

    for (uint round = first_chunk; round < chunks; round += WARPS_K) {
        uint chunk = round + warp_k;
        vec4 acc[TN * DIM_TILES];
        vec4 sum[TN];
        [[unroll]] for (uint i = 0; i < TN * DIM_TILES; i++)
            acc[i] = vec4(0.0);
        [[unroll]] for (uint j = 0; j < TN; j++)
            sum[j] = vec4(NOTHING, NOTHING, 0.0, 0.0);
        uint page_ids[CHUNK_PAGES];
        [[unroll]] for (uint c = 0; c < CHUNK_PAGES; c++)
            page_ids[c] = pages.v[min(chunk * CHUNK_PAGES + c, last_key / PAGE_TOKENS)];
        [[unroll]] for (uint c = 0; c < CHUNK_PAGES; c++) {
            uint first = (chunk * CHUNK_PAGES + c) * PAGE_TOKENS;
            bool there = first <= last_key && first + PAGE_TOKENS > first_key; /* else all its keys are masked */
            if (!UNIFORM_WARPS && !there)
                continue;
            uint64_t page = p.kv + uint64_t(page_ids[c]) * p.page_bytes + head_offset;
            Units keys = Units(page), values = Units(page + p.page_bytes / 2);
            uvec4 value_low[DIM_TILES], value_high[DIM_TILES];
            [[unroll]] for (uint d = 0; d < DIM_TILES; d++) {
                value_low[d] = values.v[((d * 16 + g) * PAGE_TOKENS) / 8 + q];
                value_high[d] = values.v[((d * 16 + 8 + g) * PAGE_TOKENS) / 8 + q];
            }
            vec4 score[TN * 2];
            [[unroll]] for (uint i = 0; i < TN * 2; i++)
                score[i] = vec4(0.0);
            /* Key rows g and g + 8 of product s are keys 8 (g / 2) + 4 s + g % 2 and two more. */
            [[unroll]] for (uint s = 0; s < 2; s++) {
                uint key = g / 2 * 8 + s * 4 + g % 2;
                uvec4 low[BLOCKS], high[BLOCKS];
                [[unroll]] for (uint b = 0; b < BLOCKS; b++) {
                    low[b] = keys.v[(key * HEAD_SIZE + b * 32) / 8 + q];
                    high[b] = keys.v[((key + 2) * HEAD_SIZE + b * 32) / 8 + q];
                }
                [[unroll]] for (uint b = 0; b < BLOCKS; b++)
                    [[unroll]] for (uint j = 0; j < TN; j++) {
                        uint at = (j * BLOCKS + b) * 2;
                        score[j * 2 + s] = product(low[b].xy, high[b].xy, query[at], score[j * 2 + s]);
                        score[j * 2 + s] = product(low[b].zw, high[b].zw, query[at + 1], score[j * 2 + s]);
                    }
            }
            bool whole = there && p.window == 0 && first + PAGE_TOKENS <= begin_pos + 1; /* all see it */
            uvec2 weight[TN * 2];
            [[unroll]] for (uint j = 0; j < TN; j++) {
                float most[2] = float[2](NOTHING, NOTHING);
                if (whole) {
                    [[unroll]] for (uint s = 0; s < 2; s++)
                        [[unroll]] for (uint i = 0; i < 4; i++) {
                            score[j * 2 + s][i] = soft_capped(score[j * 2 + s][i] * p.scale, p.softcap);
                            most[i % 2] = max(most[i % 2], score[j * 2 + s][i]);
                        }
                } else
                [[unroll]] for (uint s = 0; s < 2; s++)
                    [[unroll]] for (uint i = 0; i < 4; i++) {
                        uint key = first + g / 2 * 8 + s * 4 + g % 2 + i / 2 * 2, end = limit[2 * j + i % 2];
                        bool sees = there && key <= end && (p.window == 0 || key + p.window > end);
                        float x = score[j * 2 + s][i] * p.scale;
                        x = sees ? soft_capped(x, p.softcap) : NOTHING;
                        score[j * 2 + s][i] = x;
                        most[i % 2] = max(most[i % 2], x);
                    }
                [[unroll]] for (uint e = 0; e < 2; e++) {
                    float m = max(sum[j][e], column_max(most[e]));
                    float shrink = grown(sum[j][e], m);
                    precise float own = sum[j][2 + e] * shrink;
                    [[unroll]] for (uint s = 0; s < 2; s++)
                        [[unroll]] for (uint i = e; i < 4; i += 2) {
                            float x = score[j * 2 + s][i];
                            float w = x == NOTHING ? 0.0 : float(float16_t(grown(x, m)));
                            score[j * 2 + s][i] = w;
                            own = own + w;
                        }
                    sum[j][e] = m;
                    sum[j][2 + e] = own;
                    [[unroll]] for (uint d = 0; d < DIM_TILES; d++) {
                        acc[j * DIM_TILES + d][e] *= shrink;
                        acc[j * DIM_TILES + d][e + 2] *= shrink;
                    }
                }
                [[unroll]] for (uint s = 0; s < 2; s++)
                    weight[j * 2 + s] = uvec2(packHalf2x16(score[j * 2 + s].xy), packHalf2x16(score[j * 2 + s].zw));
            }
            /* Values of keys that nobody here sees may be anything, and 0 times infinity is not 0. */
            uint known = task_last - first; /* key first + known is the last written one */
            bool part = there && known < PAGE_TOKENS - 1;
            [[unroll]] for (uint d = 0; d < DIM_TILES; d++) {
                uvec4 low = value_low[d], high = value_high[d];
                if (part || !there)
                    [[unroll]] for (uint w = 0; w < 4; w++) {
                        uint key = q * 8 + w * 2;
                        uint keep = !there || key > known ? 0u : key + 1 > known ? 0xffffu : 0xffffffffu;
                        low[w] &= keep;
                        high[w] &= keep;
                    }
                [[unroll]] for (uint j = 0; j < TN; j++) {
                    uint at = j * DIM_TILES + d;
                    acc[at] = product(low.xy, high.xy, weight[j * 2], acc[at]);
                    acc[at] = product(low.zw, high.zw, weight[j * 2 + 1], acc[at]);
                }
            }
        }
        /* The chunk's sums over its eight lanes a column; then it joins those before it. */
        [[unroll]] for (uint j = 0; j < TN; j++)
            [[unroll]] for (uint e = 0; e < 2; e++)
                sum[j][2 + e] = column_sum(sum[j][2 + e]);
        if (WARPS_K > 1) {
            [[unroll]] for (uint i = 0; i < TN * DIM_TILES; i++)
                part_out[(warp * TN * DIM_TILES + i) * WARP + lane] = acc[i];
            [[unroll]] for (uint j = 0; j < TN; j++)
                part_sum[(warp * TN + j) * WARP + lane] = sum[j];
            barrier();
        }
        for (uint k = 0; k < min(WARPS_K, chunks - round); k++) {
            uint from = k * WARPS_N + warp_n;
            [[unroll]] for (uint j = 0; j < TN; j++) {
                vec4 other = sum[j];
                if (WARPS_K > 1)
                    other = part_sum[(from * TN + j) * WARP + lane];
                vec2 m = max(total_sum[j].xy, other.xy);
                vec2 a = vec2(grown(total_sum[j].x, m.x), grown(total_sum[j].y, m.y));
                vec2 b = vec2(grown(other.x, m.x), grown(other.y, m.y));
                precise vec2 both = total_sum[j].zw * a;
                both = fma(other.zw, b, both);
                total_sum[j] = vec4(m, both);
                [[unroll]] for (uint d = 0; d < DIM_TILES; d++) {
                    uint i = j * DIM_TILES + d;
                    if (i % WARPS_K != warp_k)
                        continue;
                    vec4 x = acc[i];
                    if (WARPS_K > 1)
                        x = part_out[(from * TN * DIM_TILES + i) * WARP + lane];
                    precise vec4 y = total[i] * a.xyxy;
                    total[i] = fma(x, b.xyxy, y);
                }
            }
        }
        if (WARPS_K > 1)
            barrier();
    }
    uint groups = p.n_head * HEAD_SIZE / 32;
    [[unroll]] for (uint j = 0; j < TN; j++)
        [[unroll]] for (uint e = 0; e < 2; e++) {
            uint column = first_column + j * 8 + 2 * q + e;
            if (column >= columns)
                continue;
            uint row = task.x + column / share, at = (kv_head * share + column % share) * HEAD_SIZE;
            [[unroll]] for (uint d = 0; d < DIM_TILES; d++) {
                if ((j * DIM_TILES + d) % WARPS_K != warp_k)
                    continue;
                precise float x = total[j * DIM_TILES + d][e] / total_sum[j][2 + e];
                precise float y = total[j * DIM_TILES + d][e + 2] / total_sum[j][2 + e];
                F16s(p.out_ + tile_place(row, at + d * 16 + g, groups) * 2).v[0] = to_half(x);
                F16s(p.out_ + tile_place(row, at + d * 16 + 8 + g, groups) * 2).v[0] = to_half(y);
            }
        }
}
