#version 460
/* A matmul on matrix units: weights are A, rows (activations) are B, so a tile is 16 outputs of 8 rows.
 *
 * Canonical arithmetic: k is cut into slices of whole groups of 32 (push.h says how); a slice is summed from 0 by
 * products in ascending k, two a group; slices are added in ascending order. Every specialization does exactly that.
 *
 * Blocks: a warp has TM x TN tiles; WARPS_N x WARPS_M warps lie side by side, and WARPS_K warps take slices side by
 * side.
 * STREAM: each of WARPS_K warps holds its slice of 8 TN rows in registers, and the weights stream by: the workgroup
 * takes every gl_NumWorkGroups.x-th tile of outputs, the next one's weights on their way while it sums this one's.
 * Registers for more than four tiles of rows would leave room for one workgroup on a multiprocessor: where many tiles
 * stream by, rows come from its cache instead (ROWS_CACHED). */
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
layout(constant_id = 8) const uint NORM_GROUPS = 0; /* not 0: a is f32 rows, normed here; k / 32. TN <= 2, WARPS_N 1 */
layout(constant_id = 9) const bool STREAM = false; /* UNROLL: groups of a slice; slices <= WARPS_K; TN <= WARPS_K */
layout(constant_id = 10) const bool SPLIT = false; /* halves(); UNROLL: groups of a slice */
layout(constant_id = 11) const bool BESTS = false; /* STREAM, not gated: leaves p.bests */
layout(constant_id = 12) const bool ROWS_CACHED = false; /* STREAM: rows are read again for every tile, not held */
#ifdef QKV
layout(push_constant) uniform P { PUSH_MATRIX_QKV } p;
uint outputs()
{
    return (p.n_head + 2 * p.n_head_kv) * p.head_size;
}
#else
layout(push_constant) uniform P { PUSH_MATRIX_MATMUL } p;
uint outputs()
{
    return p.n;
}
#endif
#include "chain.glsl"

const uint WARPS = WARPS_M * WARPS_N * WARPS_K;
#include "matrix.glsl"

const uint TILES = TM * TN;
const bool NORMED = NORM_GROUPS > 0;
const uint AHEAD = UNROLL > 0 ? UNROLL : 1;
const bool CHAINED = UNROLL > 0 && WARPS_K > 1 && !ROWS_CACHED; /* others read their rows through caches */
const bool FEW = CHAINED && !NORMED && TN <= MATRIX_IN_BAND_TILES; /* input may come in band */
const uint OWN = (TILES + WARPS_K - 1) / WARPS_K; /* tiles whose slices a warp adds up and writes */

shared vec4 partial[WARPS_K > 1 ? WARPS * TILES * WARP : 1]; /* a slice's sums of all warps */

shared uvec4 normed[NORMED ? TN * NORM_GROUPS * WARP : 1];
const uint NORM_ROWS = 8 * TN;
uint norm_tile; /* where the tile of the row at hand begins */
const uint NORM_OWN = NORM_GROUPS > 32 ? (NORM_GROUPS + 31) / 32 : 1; /* fours of a row a lane */
shared float norm_partial[NORMED ? NORM_ROWS * 8 : 1];
shared float norm_scales[NORMED ? NORM_ROWS : 1];
#define NORM_PUT(at, part, word) normed[norm_tile + (at)][part] = word
#include "matrix_norm.glsl"

/* Of a lane's fours; before chain_wait(). */
vec4 norm_weight[NORM_OWN];
void load_norm_weight()
{
    uint lane = gl_LocalInvocationID.y * WARP + warp_lane();
    [[unroll]] for (uint o = 0; o < NORM_OWN; o++)
        norm_weight[o] = F32x4s(p.norm).v[min(lane + o * NORM_LANES, NORM_GROUPS * 8 - 1)];
}

/* Every workgroup norms the rows of its tiles for itself: dearer than once, cheaper than another dispatch. Eight rows'
 * sums and scales at once, not row by row. */
void norm_rows(uint first)
{
    uint count = min(p.rows - first, NORM_ROWS), warp = gl_LocalInvocationID.y, lane = warp * WARP + warp_lane();
    vec4 x[NORM_ROWS * NORM_OWN];
    [[unroll]] for (uint r = 0; r < NORM_ROWS; r++)
        [[unroll]] for (uint o = 0; o < NORM_OWN; o++) {
            uint i = lane + o * NORM_LANES;
            bool there = r < count && lane < NORM_LANES && i < NORM_GROUPS * 8;
            x[r * NORM_OWN + o] = there ? FreshF32x4s(at(p.a, first + r, p.k, 4)).v[i] : vec4(0.0);
        }
    [[unroll]] for (uint j = 0; j < TN; j++) {
        float sum[8];
        [[unroll]] for (uint r = 0; r < 8; r++) {
            sum[r] = 0.0;
            [[unroll]] for (uint o = 0; o < NORM_OWN; o++)
                sum[r] = add_squares(x[(j * 8 + r) * NORM_OWN + o], sum[r]);
        }
        /* The tree of warp_sum(), each lane with half of the rows that it had before: in the end row lane % 8. */
        [[unroll]] for (uint left = 4; left > 0; left /= 2) {
            uint apart = 4 / left;
            bool odd = (warp_lane() & apart) != 0;
            [[unroll]] for (uint r = 0; r < left; r++) {
                float keep = odd ? sum[2 * r + 1] : sum[2 * r], give = odd ? sum[2 * r] : sum[2 * r + 1];
                precise float both = keep + of_other(give, apart);
                sum[r] = both;
            }
        }
        [[unroll]] for (uint apart = 8; apart < WARP; apart *= 2) {
            precise float both = sum[0] + of_other(sum[0], apart);
            sum[0] = both;
        }
        if (warp_lane() < 8 && warp < NORM_WARPS)
            norm_partial[warp * NORM_ROWS + j * 8 + warp_lane()] = sum[0];
    }
    barrier();
    if (lane < NORM_ROWS) {
        precise float total = 0.0;
        [[unroll]] for (uint w = 0; w < NORM_WARPS; w++)
            total = total + norm_partial[w * NORM_ROWS + lane];
        norm_scales[lane] = norm_scale(total, p.k, p.eps);
    }
    barrier();
    [[unroll]] for (uint r = 0; r < NORM_ROWS; r++)
        [[unroll]] for (uint o = 0; o < NORM_OWN; o++)
            x[r * NORM_OWN + o] = scaled(x[r * NORM_OWN + o], norm_scales[r], norm_weight[o]);
    [[unroll]] for (uint r = 0; r < NORM_ROWS; r++) {
        norm_tile = r / 8 * NORM_GROUPS * WARP;
        [[unroll]] for (uint o = 0; o < NORM_OWN; o++) {
            uint i = lane + o * NORM_LANES;
            if (r < count && lane < NORM_LANES && i < NORM_GROUPS * 8)
                put_four(i, r % 8, x[r * NORM_OWN + o]);
        }
    }
    barrier();
}

/* ---- a lane's octet of group b of output tile i: row g (upper 0) or g + 8 (upper 1) ---- */

#ifdef WEIGHT_TILES
#define WEIGHTS_AT Units weight_base
#define WEIGHTS_MOVE(tile) weight_base = Units(p.w + uint64_t(tile) * groups * 1024 + lane * 16);
#define WEIGHTS_LOAD(ret, i, b, upper) ret = weight_base.v[((i) * groups + (b)) * 64 + (upper) * 32];
#elif defined(WEIGHT_BYTES) /* STREAM only */
#define WEIGHTS_AT uint64_t weight_block
#define WEIGHTS_MOVE(tile) weight_block = p.w + uint64_t(tile) * groups * MATRIX_BYTES_BLOCK;
#else
#define LOAD_BY_64_BITS false
#include "weights.glsl"
/* In a gated matmul an output tile is eight gates and the eight values they gate. */
uint weight_row(uint tile, uint g, uint upper)
{
    uint row = GATED ? tile * 8 + g : tile * 16 + upper * 8 + g;
    return min(row, p.n - 1) + (GATED && upper == 1 ? p.high_row : 0);
}
#define WEIGHTS_AT uint weight_tile
#define WEIGHTS_MOVE(tile) weight_tile = tile;
#define WEIGHTS_LOAD(ret, i, b, upper) \
    { \
        weight_at at = weight_find(GATED && (upper) == 1 ? p.w_high : p.w, \
                                   weight_row(weight_tile + (i), lane / 4, upper), (b) / (SLICE / GROUP), p.k); \
        ret = type_read_octet(type_read_slice(at), at, (b) % (SLICE / GROUP), lane % 4); \
    }
#endif

/* What stream() holds of a tile's weights: HELD declares it, HOLD(u, b) loads group b as the slice's u-th, and TAKE(u)
 * makes octets[0 and 1] of it. */
#ifdef WEIGHT_BYTES
#define HELD uvec4 held[AHEAD]; uint held_scales[AHEAD]; uvec4 octets[2];
#define HOLD(u, b) \
    held_scales[u] = UnitWords(weight_block + (b) * MATRIX_BYTES_BLOCK).v[lane / 4]; \
    held[u] = Units(weight_block + (b) * MATRIX_BYTES_BLOCK + 32).v[lane];
#define TAKE(u) \
    octets[0] = octet_of_bytes(held[u].xy, unpackFloat2x16(held_scales[u]).xx); \
    octets[1] = octet_of_bytes(held[u].zw, unpackFloat2x16(held_scales[u]).yy);
#else
#define HELD uvec4 held[AHEAD * 2], octets[2];
#define HOLD(u, b) LOAD_WEIGHTS(b, held, (u) * 2)
#define TAKE(u) \
    octets[0] = held[(u) * 2]; \
    octets[1] = held[(u) * 2 + 1];
#endif

#define LOAD_WEIGHTS(b, w, w_at) \
    [[unroll]] for (uint i = 0; i < TM; i++) { \
        WEIGHTS_LOAD(w[w_at + 2 * i], i, b, 0) \
        WEIGHTS_LOAD(w[w_at + 2 * i + 1], i, b, 1) \
    }
#define LOAD_ROWS(b, x, x_at) \
    [[unroll]] for (uint j = 0; j < TN; j++) \
        if (NORMED) \
            x[x_at + j] = normed[(j * NORM_GROUPS + (b)) * WARP + lane]; \
        else \
            x[x_at + j] = CHAINED ? FreshUnits(row_base).v[(j * groups + (b)) * 32] \
                                  : CachedUnits(row_base).v[(j * groups + (b)) * 32];
#define LOAD(b, w, w_at, x, x_at) \
    LOAD_WEIGHTS(b, w, w_at) \
    LOAD_ROWS(b, x, x_at)
/* The same of what may come in band, and no more than the rows that there are. */
#define LOAD_COMING(b, x, x_at) \
    [[unroll]] for (uint j = 0; j < TN; j++) \
        x[x_at + j] = row_first + j * 8 < p.rows ? ComingUnits(row_base).v[(j * groups + (b)) * 32] : uvec4(0);
/* Of `count` groups, group(u) = `group`. */
#define AWAIT_ROWS(count, group, x) \
    if (FEW && (p.options & MATRIX_A_IN_BAND) != 0) { \
        uint tries = 0; \
        bool comes; \
        do { \
            [[unroll]] for (uint u = 0; u < (count); u++) { \
                LOAD_COMING(group, x, u * TN) \
            } \
            comes = false; \
            [[unroll]] for (uint i = 0; i < (count) * TN; i++) \
                comes = comes || unwritten_halves(x[i]); \
        } while (comes && chain_again(tries)); \
    } else { \
        [[unroll]] for (uint u = 0; u < (count); u++) { \
            LOAD_ROWS(group, x, u * TN) \
        } \
    }
#define ROWS_AT(row_tile) \
    uint64_t row_base = p.a + uint64_t(row_tile) * groups * 512 + lane * 16; \
    uint row_first = (row_tile) * 8 + lane / 4;

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
/* What the end of a tile needs besides its sums. None of it comes from the dispatch before. */
const bool END_IS_OLD = true;
struct End {
    vec2 bias, angle[2];
    uint pos[2], page[2];
};

End load_end(uint out_tile, uint row_tile)
{
    End end;
    out_tile = min(out_tile, outputs() / 16 - 1);
    uint lane = warp_lane(), tiles = p.head_size / 16;
    uint head = out_tile / tiles, pair = out_tile % tiles * 8 + lane / 4;
    bool adjacent = (p.options & MATRIX_ADJACENT) != 0;
    uint low = adjacent ? 2 * pair : pair, high = adjacent ? low + 1 : pair + p.head_size / 2;
    end.bias = vec2(0.0);
    if (p.bias != 0)
        end.bias = vec2(F32s(p.bias).v[head * p.head_size + low], F32s(p.bias).v[head * p.head_size + high]);
    [[unroll]] for (uint e = 0; e < 2; e++) {
        uint r = min(row_tile * 8 + lane % 4 * 2 + e, p.rows - 1);
        end.pos[e] = U32s(p.pos).v[r];
        end.angle[e] = F32x2s(at(p.angles, end.pos[e], p.head_size / 2, 8)).v[pair];
        end.page[e] = U32s(at(p.pages, U32s(p.seq).v[r], p.pages_stride, 4)).v[end.pos[e] / PAGE_TOKENS];
    }
    return end;
}

/* A tile of C: a pair of dimensions of one head, for rows 2q and 2q + 1. */
void write_tile(uint out_tile, uint row_tile, vec4 c, End end)
{
    uint lane = warp_lane(), tiles = p.head_size / 16;
    uint head = out_tile / tiles, pair = out_tile % tiles * 8 + lane / 4;
    bool adjacent = (p.options & MATRIX_ADJACENT) != 0;
    uint low = adjacent ? 2 * pair : pair, high = adjacent ? low + 1 : pair + p.head_size / 2;
    precise vec2 bias = end.bias;
    [[unroll]] for (uint e = 0; e < 2; e++) {
        uint r = row_tile * 8 + lane % 4 * 2 + e;
        if (r >= p.rows || out_tile * 16 >= outputs())
            continue;
        precise vec2 x = vec2(c[e], c[e + 2]) + bias;
        uint pos = end.pos[e];
        if (head < p.n_head + p.n_head_kv) {
            vec2 a = end.angle[e];
            precise vec2 turned = vec2(-x.y, x.x) * a.y;
            x = vec2(fma(x.x, a.x, turned.x), fma(x.y, a.x, turned.y));
        }
        if (head < p.n_head) {
            FreshF16s q = FreshF16s(at(p.q, r, p.n_head * p.head_size, 2) + head * p.head_size * 2);
            q.v[low] = to_half(x.x);
            q.v[high] = to_half(x.y);
            continue;
        }
        uint page = end.page[e];
        uint in_page = pos % PAGE_TOKENS, kv_head = (head - p.n_head) % p.n_head_kv;
        FreshF16s dst = FreshF16s(p.kv + uint64_t(page) * p.page_bytes + kv_head * (PAGE_TOKENS * p.head_size * 2));
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
/* What the end of a tile needs besides its sums, for (row 2q, output g), (2q + 1, g), (2q, g + 8), (2q + 1, g + 8). */
const bool END_IS_OLD = false;
struct End {
    vec4 bias, residual;
};

End load_end(uint out_tile, uint row_tile)
{
    End end;
    end.bias = end.residual = vec4(0.0);
    if (GATED)
        return end;
    uint lane = warp_lane();
    [[unroll]] for (uint e = 0; e < 4; e++) {
        uint column = min(out_tile * 16 + lane / 4 + e / 2 * 8, p.n - 1);
        uint row = min(row_tile * 8 + lane % 4 * 2 + e % 2, p.rows - 1);
        if (p.bias != 0)
            end.bias[e] = F32s(p.bias).v[column];
        if (p.residual != 0)
            end.residual[e] = FreshF32s(p.residual + (uint64_t(row) * p.out_stride + column) * 4).v[0];
    }
    if (!FEW || (p.options & MATRIX_RESIDUAL_IN_BAND) == 0)
        return end;
    /* It is there before what a is made from. */
    uint tries = 0;
    [[unroll]] for (uint e = 0; e < 4; e++)
        while (floatBitsToUint(end.residual[e]) == UNWRITTEN && chain_again(tries)) {
            uint column = min(out_tile * 16 + lane / 4 + e / 2 * 8, p.n - 1);
            uint row = min(row_tile * 8 + lane % 4 * 2 + e % 2, p.rows - 1);
            end.residual[e] = ComingF32s(p.residual + (uint64_t(row) * p.out_stride + column) * 4).v[0];
        }
    return end;
}

/* A tile of C: outputs g and g + 8 of rows 2q and 2q + 1. */
void write_tile(uint out_tile, uint row_tile, vec4 c, End end)
{
    uint lane = warp_lane();
    uint row = row_tile * 8 + lane % 4 * 2;
    if (GATED) {
        uint column = out_tile * 8 + lane / 4;
        if (column < p.n && row < p.rows) {
            bool gelu = (p.options & MATRIX_GELU) != 0, both = row + 1 < p.rows;
            precise float x = activated(c.x, gelu) * c.z, y = activated(c.y, gelu) * c.w;
            uint64_t place = tile_place(row, column, (p.n + 31) / 32) * 2;
            if (FEW && p.clear != 0) {
                x = in_band(x);
                y = in_band(y);
            }
            FreshF16s(p.out_ + place).v[0] = to_half(x);
            if (both)
                FreshF16s(p.out_ + place).v[32] = to_half(y);
            if (FEW && p.clear != 0) {
                FreshU16s(p.clear + place).v[0] = uint16_t(UNWRITTEN);
                if (both)
                    FreshU16s(p.clear + place).v[32] = uint16_t(UNWRITTEN);
            }
        }
        return;
    }
    [[unroll]] for (uint e = 0; e < 4; e++) {
        uint column = out_tile * 16 + lane / 4 + e / 2 * 8, r = row + e % 2;
        if (r >= p.rows || column >= p.n)
            continue;
        precise float y = c[e];
        if (p.bias != 0)
            y = y + end.bias[e];
        if (p.residual != 0)
            y = y + end.residual[e];
        FreshF32s(p.out_ + (uint64_t(r) * p.out_stride + column) * 4).v[0] = FEW && p.clear != 0 ? in_band(y) : y;
    }
    if (FEW && p.clear != 0)
        [[unroll]] for (uint e = 0; e < 4; e++) {
            uint column = out_tile * 16 + lane / 4 + e / 2 * 8, r = row + e % 2;
            if (r < p.rows && column < p.n)
                FreshU32s(p.clear + (uint64_t(r) * p.out_stride + column) * 4).v[0] = UNWRITTEN;
        }
}

#endif

#ifdef QKV
#define KEEP_BEST(out_tile, c)
#define LEAVE_BESTS(row_tile)
#else
/* Of what this invocation wrote, of its rows 2q and 2q + 1. */
float best[2] = float[2](MINUS_INF, MINUS_INF);
uint best_column[2] = uint[2](0xffffffffu, 0xffffffffu);

/* Columns come in ascending order. A NaN is no best. */
void keep_best(uint out_tile, vec4 c)
{
    [[unroll]] for (uint e = 0; e < 4; e++) {
        uint column = out_tile * 16 + warp_lane() / 4 + e / 2 * 8;
        if (column < p.n && c[e] > best[e % 2]) {
            best[e % 2] = c[e];
            best_column[e % 2] = column;
        }
    }
}

/* By all invocations: those with one q have the same rows; the lowest of equal columns. */
void leave_bests(uint row_tile)
{
    [[unroll]] for (uint e = 0; e < 2; e++) {
        [[unroll]] for (uint apart = 4; apart < WARP; apart *= 2) {
            float other = of_other(best[e], apart);
            uint column = floatBitsToUint(of_other(uintBitsToFloat(best_column[e]), apart));
            if (other > best[e] || (other == best[e] && column < best_column[e])) {
                best[e] = other;
                best_column[e] = column;
            }
        }
        uint row = (row_tile + gl_LocalInvocationID.y) * 8 + warp_lane() * 2 + e;
        if (gl_LocalInvocationID.y < TN && warp_lane() < 4 && row < p.rows)
            U32x2s(at(p.bests, row, gl_NumWorkGroups.x, 8)).v[gl_WorkGroupID.x] =
                uvec2(key_of(best[e]), best_column[e]);
    }
}
#define KEEP_BEST(out_tile, c) \
    if (BESTS) \
        keep_best(out_tile, c);
#define LEAVE_BESTS(row_tile) \
    if (BESTS) \
        leave_bests(row_tile);
#endif

#define HOLD_TILE \
    [[unroll]] for (uint u = 0; u < AHEAD; u++) { \
        HOLD(u, min(begin + u, groups - 1)) \
    }

void stream()
{
    uint lane = warp_lane(), warp_k = gl_LocalInvocationID.y, groups = p.k / 32;
    uint tiles = GATED ? (outputs() + 7) / 8 : (outputs() + 15) / 16;
    uint slices = (groups + AHEAD - 1) / AHEAD, begin = warp_k * AHEAD;
    uint row_tile = gl_WorkGroupID.y * TN, out_tile = gl_WorkGroupID.x;
    bool ends = warp_k < TN; /* this warp adds up and writes row tile warp_k */
    WEIGHTS_AT;
    WEIGHTS_MOVE(out_tile)
    HELD
    uvec4 x[AHEAD * TN];
    End end;
    HOLD_TILE
    if (END_IS_OLD && ends)
        end = load_end(out_tile, row_tile + warp_k);
    if (NORMED)
        load_norm_weight();
    chain_wait();
    if (!END_IS_OLD && FEW && ends)
        end = load_end(out_tile, row_tile + warp_k);
    if (NORMED)
        norm_rows(row_tile * 8);
    ROWS_AT(row_tile)
    if (!ROWS_CACHED) {
        AWAIT_ROWS(AHEAD, min(begin + u, groups - 1), x)
        [[unroll]] for (uint u = 0; u < AHEAD; u++)
            if (begin + u >= groups) /* adds nothing */
                [[unroll]] for (uint j = 0; j < TN; j++)
                    x[u * TN + j] = uvec4(0);
    }
    while (out_tile < tiles) {
        uint next = out_tile + gl_NumWorkGroups.x;
        if (ends && !((END_IS_OLD || FEW) && out_tile == gl_WorkGroupID.x))
            end = load_end(out_tile, row_tile + warp_k);
        vec4 acc[TN];
        [[unroll]] for (uint j = 0; j < TN; j++)
            acc[j] = vec4(0.0);
        [[unroll]] for (uint u = 0; u < AHEAD; u++) {
            TAKE(u)
            if (!ROWS_CACHED) {
                MULTIPLY(octets, 0, x, u * TN)
            } else if (UNIFORM_WARPS || begin + u < groups) {
                uvec4 now[TN];
                LOAD_ROWS(min(begin + u, groups - 1), now, 0)
                if (begin + u >= groups)
                    [[unroll]] for (uint j = 0; j < TN; j++)
                        now[j] = uvec4(0);
                MULTIPLY(octets, 0, now, 0)
            }
        }
        if (next < tiles) {
            WEIGHTS_MOVE(next)
            HOLD_TILE
        }
        [[unroll]] for (uint j = 0; j < TN; j++)
            partial[(warp_k * TN + j) * WARP + lane] = acc[j];
        barrier();
        if (ends) {
            vec4 total = vec4(0.0), sum[WARPS_K];
            [[unroll]] for (uint s = 0; s < WARPS_K; s++)
                sum[s] = partial[(min(s, slices - 1) * TN + warp_k) * WARP + lane];
            [[unroll]] for (uint s = 0; s < WARPS_K; s++)
                if (s < slices)
                    total += sum[s];
            write_tile(out_tile, row_tile + warp_k, total, end);
            KEEP_BEST(out_tile, total)
        }
        barrier();
        out_tile = next;
    }
    LEAVE_BESTS(row_tile)
    chain_done();
}

#ifndef WEIGHT_BYTES
/* Tile o of a warp's own: its output tile, its row tile. Constants where WARPS_K is 1. */
#define OWN_TILE(o) (WARPS_K == 1 ? (o) : (o) * WARPS_K + warp_k)
#define OWNED(o) (WARPS_K == 1 || OWN_TILE(o) < TILES)
#define OWN_OUT(o) (out_tile + OWN_TILE(o) / TN)
#define OWN_ROWS(o) (row_tile + OWN_TILE(o) % TN)

void blocks()
{
    uint lane = warp_lane(), warp = gl_LocalInvocationID.y;
    uint warp_k = warp / (WARPS_M * WARPS_N), side = warp % (WARPS_M * WARPS_N);
    uint groups = p.k / 32;
    /* Neighbours share rows, or, with outputs in z, weights: dispatch() in matrix.c. */
    bool rows_first = gl_NumWorkGroups.z > 1;
    uint out_tile = ((rows_first ? gl_WorkGroupID.z : gl_WorkGroupID.x) * WARPS_M + side % WARPS_M) * TM;
    uint row_tile = ((rows_first ? gl_WorkGroupID.x : gl_WorkGroupID.y) * WARPS_N + side / WARPS_M) * TN;
    uint slice_groups = max(MATRIX_LEAST_SLICE_GROUPS, (groups + MATRIX_MOST_SLICES - 1) / MATRIX_MOST_SLICES);
    uint slices = (groups + slice_groups - 1) / slice_groups;
    WEIGHTS_AT;
    WEIGHTS_MOVE(out_tile)
    /* The first weights are on their way while the dispatch before ends. */
    const bool EARLY = CHAINED && !UNIFORM_WARPS;
    uvec4 w[AHEAD * TM * 2];
    bool early = EARLY && warp_k * slice_groups + AHEAD <= min((warp_k + 1) * slice_groups, groups);
    if (early) {
        [[unroll]] for (uint u = 0; u < AHEAD; u++) {
            LOAD_WEIGHTS(warp_k * slice_groups + u, w, u * TM * 2)
        }
    }
    if (NORMED)
        load_norm_weight();
    chain_wait();
    if (NORMED)
        norm_rows(row_tile * 8);
    ROWS_AT(row_tile)
    /* Before the products where warps share a tile's sums, and else behind them: there are registers then. All come
     * before the first store, or each would wait for the one before. */
    End ends[OWN];
    if (WARPS_K > 1)
        [[unroll]] for (uint o = 0; o < OWN; o++)
            ends[o] = load_end(OWN_OUT(o), OWN_ROWS(o));
    vec4 total[OWN], acc[TILES];
    [[unroll]] for (uint o = 0; o < OWN; o++)
        total[o] = vec4(0.0);
    for (uint round = 0; round < slices; round += WARPS_K) {
        uint begin = min((round + warp_k) * slice_groups, groups), end = min(begin + slice_groups, groups);
        [[unroll]] for (uint i = 0; i < TILES; i++)
            acc[i] = vec4(0.0);
        if (UNIFORM_WARPS) {
            for (uint n = 0; n < slice_groups; n++) {
                uvec4 x[TN];
                bool there = begin + n < end;
                uint b = min(begin + n, groups - 1);
                LOAD_WEIGHTS(b, w, 0)
                AWAIT_ROWS(1, b, x)
                if (!there) {
                    [[unroll]] for (uint i = 0; i < TM * 2; i++)
                        w[i] = uvec4(0);
                    [[unroll]] for (uint j = 0; j < TN; j++)
                        x[j] = uvec4(0);
                }
                MULTIPLY(w, 0, x, 0)
            }
        } else if (UNROLL == 0) {
            uvec4 x[TN], next_w[TM * 2], next_x[TN];
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
                if (!early) {
                    [[unroll]] for (uint u = 0; u < AHEAD; u++) {
                        LOAD_WEIGHTS(b + u, w, u * TM * 2)
                    }
                }
                early = false;
                uvec4 x[AHEAD * TN];
                AWAIT_ROWS(AHEAD, b + u, x)
                [[unroll]] for (uint u = 0; u < AHEAD; u++) {
                    MULTIPLY(w, u * TM * 2, x, u * TN)
                }
            }
            for (; b < end; b++) {
                uvec4 x[TN];
                LOAD_WEIGHTS(b, w, 0)
                AWAIT_ROWS(1, b, x)
                MULTIPLY(w, 0, x, 0)
            }
        }
        if (WARPS_K == 1) {
            [[unroll]] for (uint i = 0; i < TILES; i++)
                total[i % OWN] += acc[i];
            continue;
        }
        [[unroll]] for (uint i = 0; i < TILES; i++)
            partial[(warp * TILES + i) * WARP + lane] = acc[i];
        barrier();
        [[unroll]] for (uint o = 0; o < OWN; o++)
            if (OWNED(o))
                for (uint s = 0; s < min(WARPS_K, slices - round); s++)
                    total[o] += partial[((s * WARPS_M * WARPS_N + side) * TILES + OWN_TILE(o)) * WARP + lane];
        barrier();
    }
    if (WARPS_K == 1)
        [[unroll]] for (uint o = 0; o < OWN; o++)
            ends[o] = load_end(OWN_OUT(o), OWN_ROWS(o));
    [[unroll]] for (uint o = 0; o < OWN; o++)
        if (OWNED(o))
            write_tile(OWN_OUT(o), OWN_ROWS(o), total[o], ends[o]);
    chain_done();
}
#endif

#if defined(WEIGHT_BYTES) || defined(QKV)
#define NO_HALVES
#else
#include "matrix_halves.glsl"
#endif

void main()
{
#ifndef NO_HALVES
    if (SPLIT) {
        halves();
        return;
    }
#endif
#ifdef WEIGHT_BYTES
    stream();
#else
    if (STREAM)
        stream();
    else
        blocks();
#endif
}
