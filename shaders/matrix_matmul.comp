#version 460
/* A matmul on matrix units: weights are A, rows (activations) are B, so a tile is 16 outputs of 8 rows.
 *
 * Canonical arithmetic: k is cut into slices of whole groups of 32 (push.h says how); a slice is summed from 0 by
 * products in ascending k, two a group; slices are added in ascending order. Every specialization does exactly that:
 * a warp has TM x TN tiles; WARPS_N x WARPS_M warps lie side by side, and WARPS_K warps take slices side by side. */
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"
#include "activation.glsl"
layout(local_size_x = 32, local_size_y_id = 0) in; /* y: WARPS_N * WARPS_M * WARPS_K */
layout(constant_id = 1) const uint TM = 1;         /* tiles of 16 outputs a warp */
layout(constant_id = 2) const uint TN = 1;         /* tiles of 8 rows a warp */
layout(constant_id = 3) const uint WARPS_M = 1;
layout(constant_id = 4) const uint WARPS_N = 1;
layout(constant_id = 5) const uint WARPS_K = 8;
layout(constant_id = 6) const uint UNROLL = 4; /* groups loaded at a time; 0: one ahead of the products */
layout(constant_id = 7) const bool GATED = false;
layout(constant_id = 9) const bool SUMS_SHARED = false; /* sums of slices in shared memory: WARPS_K 1 */
layout(constant_id = 8) const uint NORM_GROUPS = 0; /* not 0: a is f32 rows, normalized here; k / 32. TN, WARPS_N 1 */
#ifdef QKV
layout(push_constant) uniform P { PUSH_MATRIX_QKV } p;
#else
layout(push_constant) uniform P { PUSH_MATRIX_MATMUL } p;
#endif

const uint WARPS = WARPS_M * WARPS_N * WARPS_K;
#include "matrix.glsl"

const uint TILES = TM * TN;
const uint AHEAD = UNROLL > 0 ? UNROLL : 1;

/* A slice's sums of all warps, or the sums of slices so far, each lane's its own. */
shared vec4 partial[WARPS_K > 1 || SUMS_SHARED ? WARPS * TILES * WARP : 1];

const bool NORMED = NORM_GROUPS > 0;
shared uvec4 normed[NORMED ? NORM_GROUPS * WARP : 1];
const uint NORM_OWN = NORM_GROUPS > 32 ? (NORM_GROUPS + 31) / 32 : 1; /* fours of a row a lane */
shared float norm_partial[NORMED ? 64 : 1];
#define NORM_PUT(at, part, word) normed[at][part] = word
#include "matrix_norm.glsl"

/* Every workgroup norms the rows of its tile for itself: dearer than once, cheaper than another dispatch. */
void norm_rows(uint first)
{
    uint count = min(p.rows - first, 8), warp = gl_LocalInvocationID.y, lane = warp * WARP + warp_lane();
    vec4 x[8 * NORM_OWN];
    [[unroll]] for (uint r = 0; r < 8; r++)
        [[unroll]] for (uint o = 0; o < NORM_OWN; o++) {
            uint i = lane + o * NORM_LANES;
            bool there = r < count && lane < NORM_LANES && i < NORM_GROUPS * 8;
            x[r * NORM_OWN + o] = there ? F32x4s(at(p.a, first + r, p.k, 4)).v[i] : vec4(0.0);
        }
    [[unroll]] for (uint r = 0; r < 8; r++)
        if (r < count) {
            float sum = 0.0;
            [[unroll]] for (uint o = 0; o < NORM_OWN; o++)
                sum = add_squares(x[r * NORM_OWN + o], sum);
            sum = warp_sum(sum);
            if (warp_lane() == 0 && warp < NORM_WARPS)
                norm_partial[r * NORM_WARPS + warp] = sum;
        }
    barrier();
    [[unroll]] for (uint r = 0; r < 8; r++)
        if (r < count) {
            precise float total = 0.0;
            [[unroll]] for (uint w = 0; w < NORM_WARPS; w++)
                total = total + norm_partial[r * NORM_WARPS + w];
            float scale = norm_scale(total, p.k, p.eps);
            [[unroll]] for (uint o = 0; o < NORM_OWN; o++) {
                vec4 weight = F32x4s(p.norm).v[min(lane + o * NORM_LANES, NORM_GROUPS * 8 - 1)];
                x[r * NORM_OWN + o] = scaled(x[r * NORM_OWN + o], scale, weight);
            }
        }
    [[unroll]] for (uint pair = 0; pair < 4; pair++)
        [[unroll]] for (uint o = 0; o < NORM_OWN; o++) {
            uint i = lane + o * NORM_LANES;
            if (pair * 2 < count && lane < NORM_LANES && i < NORM_GROUPS * 8)
                put_pair(i, pair, x[pair * 2 * NORM_OWN + o], x[(pair * 2 + 1) * NORM_OWN + o]);
        }
    barrier();
}

/* ---- a lane's octet of group b of output tile i: row g (upper 0) or g + 8 (upper 1) ---- */

#ifdef WEIGHT_TILES
#define WEIGHTS_BEGIN \
    Units weight_base = Units(p.w + uint64_t(out_tile) * groups * 1024 + lane * 16);
#define WEIGHTS_LOAD(ret, i, b, upper) ret = weight_base.v[((i) * groups + (b)) * 64 + (upper) * 32];
#else
#define LOAD_BY_64_BITS false
#include "weights.glsl"
/* In a gated matmul an output tile is eight gates and the eight values they gate. */
uint weight_row(uint tile, uint g, uint upper)
{
    uint row = GATED ? tile * 8 + g : tile * 16 + upper * 8 + g;
    return min(row, p.n - 1) + (GATED && upper == 1 ? p.high_row : 0);
}
#define WEIGHTS_BEGIN
#define WEIGHTS_LOAD(ret, i, b, upper) \
    { \
        weight_at at = weight_find(GATED && (upper) == 1 ? p.w_high : p.w, \
                                   weight_row(out_tile + (i), lane / 4, upper), (b) / (SLICE / GROUP), p.k); \
        ret = type_read_octet(type_read_slice(at), at, (b) % (SLICE / GROUP), lane % 4); \
    }
#endif

#define LOAD(b, w, w_at, x, x_at) \
    [[unroll]] for (uint i = 0; i < TM; i++) { \
        WEIGHTS_LOAD(w[w_at + 2 * i], i, b, 0) \
        WEIGHTS_LOAD(w[w_at + 2 * i + 1], i, b, 1) \
    } \
    [[unroll]] for (uint j = 0; j < TN; j++) \
        if (NORMED) \
            x[x_at + j] = normed[(b) * WARP + lane]; \
        else \
            x[x_at + j] = row_base.v[(j * groups + (b)) * 32];

#define MULTIPLY(w, w_at, x, x_at) \
    [[unroll]] for (uint i = 0; i < TM; i++) \
        [[unroll]] for (uint j = 0; j < TN; j++) \
            acc[i * TN + j] = \
                product(w[w_at + 2 * i].xy, w[w_at + 2 * i + 1].xy, x[x_at + j].xy, acc[i * TN + j]); \
    [[unroll]] for (uint i = 0; i < TM; i++) \
        [[unroll]] for (uint j = 0; j < TN; j++) \
            acc[i * TN + j] = \
                product(w[w_at + 2 * i].zw, w[w_at + 2 * i + 1].zw, x[x_at + j].zw, acc[i * TN + j]);

#ifdef QKV
/* A tile of C: a pair of dimensions of one head, for rows 2q and 2q + 1. */
void write_tile(uint out_tile, uint row_tile, vec4 c)
{
    uint lane = warp_lane(), tiles = p.head_size / 16;
    uint head = out_tile / tiles, pair = out_tile % tiles * 8 + lane / 4;
    uint low = p.adjacent != 0 ? 2 * pair : pair, high = p.adjacent != 0 ? low + 1 : pair + p.head_size / 2;
    precise vec2 bias = vec2(0.0);
    if (p.bias != 0 && out_tile * 16 < p.n)
        bias = vec2(F32s(p.bias).v[head * p.head_size + low], F32s(p.bias).v[head * p.head_size + high]);
    [[unroll]] for (uint e = 0; e < 2; e++) {
        uint r = row_tile * 8 + lane % 4 * 2 + e;
        if (r >= p.rows || out_tile * 16 >= p.n)
            continue;
        precise vec2 x = vec2(c[e], c[e + 2]) + bias;
        uint pos = U32s(p.pos).v[r];
        if (head < p.n_head + p.n_head_kv) {
            vec2 a = F32x2s(at(p.angles, pos, p.head_size / 2, 8)).v[pair];
            precise vec2 turned = vec2(-x.y, x.x) * a.y;
            x = vec2(fma(x.x, a.x, turned.x), fma(x.y, a.x, turned.y));
        }
        if (head < p.n_head) {
            F16s q = F16s(at(p.q, r, p.n_head * p.head_size, 2) + head * p.head_size * 2);
            q.v[low] = to_half(x.x);
            q.v[high] = to_half(x.y);
            continue;
        }
        uint page = U32s(at(p.pages, U32s(p.seq).v[r], p.pages_stride, 4)).v[pos / PAGE_TOKENS];
        uint in_page = pos % PAGE_TOKENS, kv_head = (head - p.n_head) % p.n_head_kv;
        F16s dst = F16s(p.kv + uint64_t(page) * p.page_bytes + kv_head * (PAGE_TOKENS * p.head_size * 2));
        if (head < p.n_head + p.n_head_kv) {
            dst.v[in_page * p.head_size + low] = to_half(x.x);
            dst.v[in_page * p.head_size + high] = to_half(x.y);
        } else {
            uint v = p.page_bytes / 4; /* halves before the values */
            dst.v[v + low * PAGE_TOKENS + in_page] = to_half(x.x);
            dst.v[v + high * PAGE_TOKENS + in_page] = to_half(x.y);
        }
    }
}
#else
void write(uint row, uint column, float value)
{
    if (row >= p.rows || column >= p.n)
        return;
    precise float y = value;
    uint64_t index = uint64_t(row) * p.out_stride + column;
    if (p.bias != 0)
        y = y + F32s(p.bias).v[column];
    if (p.residual != 0)
        y = y + F32s(p.residual + index * 4).v[0];
    F32s(p.out_ + index * 4).v[0] = y;
}

/* A tile of C: outputs g and g + 8 of rows 2q and 2q + 1. */
void write_tile(uint out_tile, uint row_tile, vec4 c)
{
    uint lane = warp_lane();
    uint row = row_tile * 8 + lane % 4 * 2;
    if (GATED) {
        uint column = out_tile * 8 + lane / 4;
        if (column < p.n && row < p.rows) {
            precise float x = activated(c.x, p.gelu != 0) * c.z, y = activated(c.y, p.gelu != 0) * c.w;
            U32s(p.out_ + tile_place(row, column, (p.n + 31) / 32) * 2).v[0] = pack_halves(x, y);
        }
        return;
    }
    uint column = out_tile * 16 + lane / 4;
    write(row, column, c.x);
    write(row + 1, column, c.y);
    write(row, column + 8, c.z);
    write(row + 1, column + 8, c.w);
}

#endif

void main()
{
    uint lane = warp_lane(), warp = gl_LocalInvocationID.y;
    uint warp_k = warp / (WARPS_M * WARPS_N), side = warp % (WARPS_M * WARPS_N);
    uint groups = p.k / 32;
    /* Neighbours share rows, or, with outputs in z, weights: dispatch() in matrix.c. */
    bool rows_first = gl_NumWorkGroups.z > 1;
    uint out_tile = ((rows_first ? gl_WorkGroupID.z : gl_WorkGroupID.x) * WARPS_M + side % WARPS_M) * TM;
    uint row_tile = ((rows_first ? gl_WorkGroupID.x : gl_WorkGroupID.y) * WARPS_N + side / WARPS_M) * TN;
    WEIGHTS_BEGIN
    if (NORMED)
        norm_rows(row_tile * 8);
    Units row_base = Units(p.a + uint64_t(row_tile) * groups * 512 + lane * 16);
    vec4 total[TILES], acc[TILES];
    [[unroll]] for (uint i = 0; i < TILES; i++) {
        total[i] = vec4(0.0);
        if (SUMS_SHARED)
            partial[(warp * TILES + i) * WARP + lane] = vec4(0.0);
    }
    for (uint round = 0; round < p.slices; round += WARPS_K) {
        uint begin = min((round + warp_k) * p.slice_groups, groups), end = min(begin + p.slice_groups, groups);
        [[unroll]] for (uint i = 0; i < TILES; i++)
            acc[i] = vec4(0.0);
        if (UNIFORM_WARPS) {
            for (uint n = 0; n < p.slice_groups; n++) {
                uvec4 w[TM * 2], x[TN];
                bool there = begin + n < end;
                uint b = min(begin + n, groups - 1);
                LOAD(b, w, 0, x, 0)
                if (!there) {
                    [[unroll]] for (uint i = 0; i < TM * 2; i++)
                        w[i] = uvec4(0);
                    [[unroll]] for (uint j = 0; j < TN; j++)
                        x[j] = uvec4(0);
                }
                MULTIPLY(w, 0, x, 0)
            }
        } else if (UNROLL == 0) {
            uvec4 w[TM * 2], x[TN], next_w[TM * 2], next_x[TN];
            uint b = begin;
            if (b < end) {
                LOAD(b, w, 0, x, 0)
            }
            for (; b + 1 < end; b += 2) {
                LOAD(b + 1, next_w, 0, next_x, 0)
                MULTIPLY(w, 0, x, 0)
                LOAD(min(b + 2, end - 1), w, 0, x, 0)
                MULTIPLY(next_w, 0, next_x, 0)
            }
            if (b < end) {
                MULTIPLY(w, 0, x, 0)
            }
        } else {
            uint b = begin;
            for (; b + AHEAD <= end; b += AHEAD) {
                uvec4 w[AHEAD * TM * 2], x[AHEAD * TN];
                [[unroll]] for (uint u = 0; u < AHEAD; u++) {
                    LOAD(b + u, w, u * TM * 2, x, u * TN)
                }
                [[unroll]] for (uint u = 0; u < AHEAD; u++) {
                    MULTIPLY(w, u * TM * 2, x, u * TN)
                }
            }
            for (; b < end; b++) {
                uvec4 w[TM * 2], x[TN];
                LOAD(b, w, 0, x, 0)
                MULTIPLY(w, 0, x, 0)
            }
        }
        if (SUMS_SHARED) {
            [[unroll]] for (uint i = 0; i < TILES; i++)
                partial[(warp * TILES + i) * WARP + lane] += acc[i];
            continue;
        }
        if (WARPS_K == 1) {
            [[unroll]] for (uint i = 0; i < TILES; i++)
                total[i] += acc[i];
            continue;
        }
        [[unroll]] for (uint i = 0; i < TILES; i++)
            partial[(warp * TILES + i) * WARP + lane] = acc[i];
        barrier();
        [[unroll]] for (uint i = 0; i < TILES; i++)
            if (i % WARPS_K == warp_k)
                for (uint s = 0; s < min(WARPS_K, p.slices - round); s++)
                    total[i] += partial[((s * WARPS_M * WARPS_N + side) * TILES + i) * WARP + lane];
        barrier();
    }
    [[unroll]] for (uint i = 0; i < TM; i++)
        [[unroll]] for (uint j = 0; j < TN; j++)
            if ((i * TN + j) % WARPS_K == warp_k)
                write_tile(out_tile + i, row_tile + j,
                           SUMS_SHARED ? partial[(warp * TILES + i * TN + j) * WARP + lane] : total[i * TN + j]);
}
