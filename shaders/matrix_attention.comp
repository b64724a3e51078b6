#version 460
/* Attention on matrix units: keys and values are A, queries and their weights B. A column is a query: one head of one
 * token; the heads that share a KV head are neighbours. S^T [keys x columns] = K Q^T has in its registers just what
 * O^T [dims x columns] += V^T P^T wants as B, so weights never leave them (FlashAttention-2, arXiv 2307.08691).
 *
 * Canonical arithmetic: keys are cut into chunks of CHUNK_PAGES pages from position 0. A chunk has one maximum, and is
 * summed from nothing, ascending; chunks are merged in ascending order. Maxima count in powers of 2. The sum of a
 * column's weights is kept in eight lanes, each with its own keys, until the end. A column's result depends on its
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
layout(constant_id = 5) const uint VALUES = 1; /* are loaded: 2 behind all keys; 1 before the weights; 0 behind them */
layout(constant_id = 6) const bool CHAINED = false;
layout(push_constant) uniform P { PUSH_MATRIX_ATTENTION } p;
#include "chain.glsl"

const uint WARPS = WARPS_N * WARPS_K;
#define MATRIX_B_AS_C
#include "matrix.glsl"

const uint CHUNK_PAGES = MATRIX_CHUNK_TOKENS / PAGE_TOKENS;
const uint DIM_TILES = BLOCKS * 2; /* of 16 dimensions */
const uint KEPT_KEYS = VALUES == 2 ? CHUNK_PAGES : 1, KEPT_VALUES = VALUES > 0 ? CHUNK_PAGES : 1; /* pages of */
const uint HEAD_SIZE = BLOCKS * 32;
const float NOTHING = -3.0e38; /* below every score */

shared vec4 part_out[WARPS_K > 1 ? WARPS_N * WARPS_K * TN * DIM_TILES * WARP : 1];
shared vec4 part_sum[WARPS_K > 1 ? WARPS_N * WARPS_K * TN * WARP : 1]; /* maxima and sums of two columns */

float grown(float low, float high) /* 2^(low - high), low <= high */
{
    precise float distance = low - high;
    return exp2(distance);
}

#define UNIT(address, i) (CHAINED ? FreshUnits(address).v[i] : CachedUnits(address).v[i])

/* Key rows g and g + 8 of product s of page c are keys 8 (g / 2) + 4 s + g % 2 and two more. */
#define KEYS_LOAD(c, to) \
    { \
        [[unroll]] for (uint s = 0; s < 2; s++) \
            [[unroll]] for (uint b = 0; b < BLOCKS; b++) { \
                uint key = g / 2 * 8 + s * 4 + g % 2; \
                key_low[(to) + s * BLOCKS + b] = UNIT(page[c], (key * HEAD_SIZE + b * 32) / 8 + q); \
                key_high[(to) + s * BLOCKS + b] = UNIT(page[c], ((key + 2) * HEAD_SIZE + b * 32) / 8 + q); \
            } \
    }

#define VALUES_LOAD(c, to) \
    { \
        uint64_t values = page[c] + p.page_bytes / 2; \
        [[unroll]] for (uint d = 0; d < DIM_TILES; d++) { \
            value_low[(to) + d] = UNIT(values, ((d * 16 + g) * PAGE_TOKENS) / 8 + q); \
            value_high[(to) + d] = UNIT(values, ((d * 16 + 8 + g) * PAGE_TOKENS) / 8 + q); \
        } \
    }

#define LOAD_PAGES(chunk) \
    [[unroll]] for (uint c = 0; c < CHUNK_PAGES; c++) \
        page[c] = pages.v[min((chunk) * CHUNK_PAGES + c, task_last / PAGE_TOKENS)]; \
    [[unroll]] for (uint c = 0; c < CHUNK_PAGES; c++) \
        page[c] = p.kv + page[c] * p.page_bytes + head_offset;

#define LOAD_CHUNK(chunk) \
    { \
        LOAD_PAGES(chunk) \
        [[unroll]] for (uint c = 0; c < CHUNK_PAGES; c++) \
            KEYS_LOAD(c, c * 2 * BLOCKS) \
        [[unroll]] for (uint c = 0; c < CHUNK_PAGES; c++) \
            VALUES_LOAD(c, c * DIM_TILES) \
    }

void main()
{
    uint lane = warp_lane(), warp = gl_LocalInvocationID.y, g = lane / 4, q = lane % 4;
    uint warp_k = warp / WARPS_N, warp_n = warp % WARPS_N;
    uvec4 task = U32x4s(p.tasks).v[gl_NumWorkGroups.y - 1 - gl_WorkGroupID.y]; /* the longest ones first */
    uint kv_head = gl_WorkGroupID.x, share = p.n_head / p.n_head_kv;
    uint columns = task.y * share;
    uint first_column = (gl_WorkGroupID.z * WARPS_N + warp_n) * TN * 8;
    if (gl_WorkGroupID.z * WARPS_N * TN * 8 >= columns) {
        chain_wait();
        chain_done();
        return;
    }
    uint begin_pos = task.z;
    U32s pages = U32s(at(p.pages, task.w, p.pages_stride, 4));
    uint64_t head_offset = uint64_t(kv_head) * (PAGE_TOKENS * HEAD_SIZE * 2);

    uint task_last = begin_pos + task.y - 1;
    uint first_key = p.window == 0 || begin_pos + 1 <= p.window ? 0 : begin_pos + 1 - p.window;
    uint first_chunk = first_key / MATRIX_CHUNK_TOKENS;
    uint last_column = min(first_column + TN * 8, columns) - 1; /* may lie before first_column: then nothing is kept */
    uint last_key = begin_pos + last_column / share;
    uint chunks = (UNIFORM_WARPS ? task_last : WARPS_K > 1 ? task_last : last_key) / MATRIX_CHUNK_TOKENS + 1;
    const float LOG2_E = 1.44269504;
    float unit = p.softcap == 0.0 ? p.scale * LOG2_E : LOG2_E; /* of a score, in powers of 2 */
    vec4 total[TN * DIM_TILES];
    vec4 total_sum[TN]; /* x, y: maxima of columns 2q, 2q + 1; z, w: sums */
    uint64_t page[CHUNK_PAGES];
    uvec4 key_low[KEPT_KEYS * 2 * BLOCKS], key_high[KEPT_KEYS * 2 * BLOCKS];
    uvec4 value_low[KEPT_VALUES * DIM_TILES], value_high[KEPT_VALUES * DIM_TILES];

    /* While it waits for the dispatch before, it rehearses: the same with what is there, for nothing but to have
     * instructions, keys and values near. */
    for (bool rehearsal = CHAINED && p.chain != 0 && (p.options & MATRIX_REHEARSE) != 0, again = true; again;
         rehearsal = false) {
        again = rehearsal;
        if (!rehearsal)
            chain_wait();
        /* Queries as B: column 2q or 2q + 1, dimensions 8 (g / 2) + g % 2 + 4 step (+ 2) of each block. */
        uvec2 query[TN * BLOCKS * 2];
        uint limit[TN * 2]; /* keys 0 .. limit of a column */
        [[unroll]] for (uint j = 0; j < TN; j++) {
            FreshF16s row[2];
            [[unroll]] for (uint e = 0; e < 2; e++) {
                uint column = min(first_column + j * 8 + 2 * q + e, columns - 1);
                limit[2 * j + e] = begin_pos + column / share;
                uint64_t q_row = at(p.q, task.x + column / share, p.n_head * HEAD_SIZE, 2);
                row[e] = FreshF16s(q_row + uint64_t(kv_head * share + column % share) * (HEAD_SIZE * 2));
            }
            [[unroll]] for (uint s = 0; s < BLOCKS * 2; s++) {
                uint d = s / 2 * 32 + g / 2 * 8 + s % 2 * 4 + g % 2;
                query[j * BLOCKS * 2 + s] = uvec2(packFloat2x16(f16vec2(row[0].v[d], row[1].v[d])),
                                                  packFloat2x16(f16vec2(row[0].v[d + 2], row[1].v[d + 2])));
            }
        }
        [[unroll]] for (uint i = 0; i < TN * DIM_TILES; i++)
            total[i] = vec4(0.0);
        [[unroll]] for (uint j = 0; j < TN; j++)
            total_sum[j] = vec4(NOTHING, NOTHING, 0.0, 0.0);

        for (uint round = first_chunk; round < chunks; round += WARPS_K) {
            uint chunk = round + warp_k, first = chunk * MATRIX_CHUNK_TOKENS;
            /* Else all its keys are masked. */
            bool there = first <= last_key && first + MATRIX_CHUNK_TOKENS > first_key;
            vec4 acc[TN * DIM_TILES];
            vec4 sum[TN];
            [[unroll]] for (uint i = 0; i < TN * DIM_TILES; i++)
                acc[i] = vec4(0.0);
            [[unroll]] for (uint j = 0; j < TN; j++)
                sum[j] = vec4(NOTHING, NOTHING, 0.0, 0.0);
            if (UNIFORM_WARPS || there) {
                if (VALUES == 2) {
                    LOAD_CHUNK(chunk)
                } else {
                    LOAD_PAGES(chunk)
                }
                vec4 score[TN * CHUNK_PAGES * 2];
                [[unroll]] for (uint i = 0; i < TN * CHUNK_PAGES * 2; i++)
                    score[i] = vec4(0.0);
                [[unroll]] for (uint c = 0; c < CHUNK_PAGES; c++) {
                    if (VALUES < 2)
                        KEYS_LOAD(c, 0)
                    [[unroll]] for (uint b = 0; b < BLOCKS * 2; b++)
                        [[unroll]] for (uint s = 0; s < 2; s++)
                            [[unroll]] for (uint j = 0; j < TN; j++) {
                                uint at = c % KEPT_KEYS * 2 * BLOCKS + s * BLOCKS + b / 2;
                                uint to = (j * CHUNK_PAGES + c) * 2 + s;
                                uvec4 l = key_low[at], h = key_high[at];
                                score[to] = product(b % 2 == 0 ? l.xy : l.zw, b % 2 == 0 ? h.xy : h.zw,
                                                    query[j * BLOCKS * 2 + b], score[to]);
                            }
                }
                if (VALUES == 1)
                    [[unroll]] for (uint c = 0; c < CHUNK_PAGES; c++)
                        VALUES_LOAD(c, c * DIM_TILES)
                if (p.softcap != 0.0)
                    [[unroll]] for (uint i = 0; i < TN * CHUNK_PAGES * 2; i++)
                        [[unroll]] for (uint e = 0; e < 4; e++)
                            score[i][e] = soft_capped(score[i][e] * p.scale, p.softcap);
                bool whole = there && p.window == 0 && first + MATRIX_CHUNK_TOKENS <= begin_pos + 1; /* all see it */
                if (!whole)
                    [[unroll]] for (uint j = 0; j < TN; j++)
                        [[unroll]] for (uint s = 0; s < CHUNK_PAGES * 2; s++)
                            [[unroll]] for (uint i = 0; i < 4; i++) {
                                uint key = first + s / 2 * PAGE_TOKENS + g / 2 * 8 + s % 2 * 4 + g % 2 + i / 2 * 2;
                                uint end = limit[2 * j + i % 2];
                                bool sees = there && key <= end && (p.window == 0 || end - key < p.window);
                                if (!sees)
                                    score[j * CHUNK_PAGES * 2 + s][i] = NOTHING;
                            }
                uvec2 weight[TN * CHUNK_PAGES * 2];
                [[unroll]] for (uint j = 0; j < TN; j++) {
                    [[unroll]] for (uint e = 0; e < 2; e++) {
                        float most = NOTHING;
                        [[unroll]] for (uint s = 0; s < CHUNK_PAGES * 2; s++)
                            most = max(most, max(score[j * CHUNK_PAGES * 2 + s][e],
                                                 score[j * CHUNK_PAGES * 2 + s][e + 2]));
                        most = column_max(most);
                        bool nothing = most == NOTHING; /* a weight of NOTHING is 2^-(a lot), 0 */
                        precise float m = nothing ? 0.0 : most * unit, own = 0.0;
                        [[unroll]] for (uint s = 0; s < CHUNK_PAGES * 2; s++)
                            [[unroll]] for (uint i = e; i < 4; i += 2) {
                                float w = exp2(fma(score[j * CHUNK_PAGES * 2 + s][i], unit, -m));
                                score[j * CHUNK_PAGES * 2 + s][i] = w;
                                own = own + w;
                            }
                        sum[j][e] = nothing ? NOTHING : m;
                        sum[j][2 + e] = own;
                    }
                    [[unroll]] for (uint s = 0; s < CHUNK_PAGES * 2; s++) {
                        f16vec4 w = f16vec4(score[j * CHUNK_PAGES * 2 + s]);
                        weight[j * CHUNK_PAGES * 2 + s] = uvec2(packFloat2x16(w.xy), packFloat2x16(w.zw));
                    }
                }
                [[unroll]] for (uint c = 0; c < CHUNK_PAGES; c++) {
                    uint from = c % KEPT_VALUES * DIM_TILES, first_value = first + c * PAGE_TOKENS;
                    if (VALUES == 0)
                        VALUES_LOAD(c, 0)
                    /* Values of keys that nobody here sees may be anything, and 0 times infinity is not 0. */
                    if (!there || first_value + PAGE_TOKENS - 1 > task_last)
                        [[unroll]] for (uint d = 0; d < DIM_TILES; d++)
                            [[unroll]] for (uint w = 0; w < 4; w++) {
                                uint key = first_value + q * 8 + w * 2;
                                uint keep = !there || key > task_last ? 0u
                                            : key + 1 > task_last     ? 0xffffu
                                                                      : 0xffffffffu;
                                value_low[from + d][w] &= keep;
                                value_high[from + d][w] &= keep;
                            }
                    [[unroll]] for (uint s = 0; s < 2; s++)
                        [[unroll]] for (uint d = 0; d < DIM_TILES; d++)
                            [[unroll]] for (uint j = 0; j < TN; j++) {
                                uvec4 l = value_low[from + d], h = value_high[from + d];
                                uint at = j * DIM_TILES + d;
                                acc[at] = product(s == 0 ? l.xy : l.zw, s == 0 ? h.xy : h.zw,
                                                  weight[(j * CHUNK_PAGES + c) * 2 + s], acc[at]);
                            }
                }
            }
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
        uint64_t out_ = rehearsal ? p.scratch : p.out_, clear = rehearsal ? p.scratch : p.clear;
        [[unroll]] for (uint j = 0; j < TN; j++)
            [[unroll]] for (uint e = 0; e < 2; e++)
                total_sum[j][2 + e] = column_sum(total_sum[j][2 + e]);
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
                    uint64_t low = tile_place(row, at + d * 16 + g, groups) * 2;
                    uint64_t high = tile_place(row, at + d * 16 + 8 + g, groups) * 2;
                    if (p.clear != 0) {
                        x = in_band(x);
                        y = in_band(y);
                        FreshU16s(clear + low).v[0] = uint16_t(UNWRITTEN);
                        FreshU16s(clear + high).v[0] = uint16_t(UNWRITTEN);
                    }
                    FreshF16s(out_ + low).v[0] = to_half(x);
                    FreshF16s(out_ + high).v[0] = to_half(y);
                }
            }
    }
    chain_done();
}
