/* Of matrix_matmul.comp, which includes it where its macros are there: a tile of few rows by two workgroups. The first
 * one has WARPS_K slices and sends their sum in band, the second one adds the rest. So all weights are there before the
 * rows come, half of them in registers and half in shared memory, and a multiprocessor has room for a workgroup of the
 * dispatch before beside it. */
#ifndef OCTO_MATRIX_HALVES_GLSL
#define OCTO_MATRIX_HALVES_GLSL

const uint IN_SHARED = SPLIT ? UNROLL / 2 : 0; /* groups */
shared uvec4 others[IN_SHARED > 0 ? WARPS * IN_SHARED * 2 * WARP : 1];
#define OTHER(u, half_) ((warp * IN_SHARED + (u)) * 2 + (half_)) * WARP + lane

void halves()
{
    uint lane = warp_lane(), warp = gl_LocalInvocationID.y, groups = p.k / 32, part = gl_WorkGroupID.y;
    uint out_tile = gl_WorkGroupID.x, slices = (groups + AHEAD - 1) / AHEAD; /* WARPS_K < slices <= 2 WARPS_K */
    uint begin = (part * WARPS_K + warp) * AHEAD;
    bool ends = warp == 0;
    uvec4 w[AHEAD * 2], x[AHEAD];
    End end;
    WEIGHTS_AT;
    WEIGHTS_MOVE(out_tile)
    [[unroll]] for (uint u = AHEAD - IN_SHARED; u < AHEAD; u++) {
        LOAD_WEIGHTS(min(begin + u, groups - 1), w, u * 2)
    }
    [[unroll]] for (uint u = 0; u < IN_SHARED; u++)
        [[unroll]] for (uint i = 0; i < 2; i++)
            others[OTHER(u, i)] = w[(AHEAD - IN_SHARED + u) * 2 + i];
    [[unroll]] for (uint u = 0; u < AHEAD - IN_SHARED; u++) {
        LOAD_WEIGHTS(min(begin + u, groups - 1), w, u * 2)
    }
    ROWS_AT(0)
    chain_wait();
    AWAIT_ROWS(AHEAD, min(begin + u, groups - 1), x)
    vec4 acc[1] = vec4[1](vec4(0.0));
    [[unroll]] for (uint u = 0; u < AHEAD; u++) {
        if (begin + u >= groups) /* adds nothing */
            x[u] = uvec4(0);
        if (u >= AHEAD - IN_SHARED)
            [[unroll]] for (uint i = 0; i < 2; i++)
                w[u * 2 + i] = others[OTHER(u - (AHEAD - IN_SHARED), i)];
        MULTIPLY(w, u * 2, x, u)
    }
    partial[warp * WARP + lane] = acc[0];
    if (ends && part == 1) /* while the other workgroup's sums are on their way */
        end = load_end(out_tile, 0);
    barrier();
    if (ends) {
        vec4 total = vec4(0.0), sum[WARPS_K];
        uint tries = 0, first = part * WARPS_K;
        [[unroll]] for (uint s = 0; s < WARPS_K; s++)
            sum[s] = partial[s * WARP + lane];
        if (part == 1)
            do
                total = ComingF32x4s(p.half_sums).v[out_tile * WARP + lane];
            while (unwritten(total) && chain_again(tries));
#ifdef MATRIX_EMULATED /* llvmpipe loses what a lane saw before its neighbours did */
        if (part == 1)
            total = ComingF32x4s(p.half_sums).v[out_tile * WARP + lane];
#endif
        [[unroll]] for (uint s = 0; s < WARPS_K; s++)
            if (first + s < slices)
                total += sum[s];
        if (part == 1) {
            write_tile(out_tile, 0, total, end);
        } else {
            [[unroll]] for (uint e = 0; e < 4; e++)
                total[e] = in_band(total[e]);
            FreshF32x4s(p.half_sums).v[out_tile * WARP + lane] = total;
            FreshUnits(p.half_clear).v[out_tile * WARP + lane] = uvec4(UNWRITTEN);
        }
    }
    chain_done();
}
#endif
