/* Two neighbouring rows of f32 to their words of a row tile (matrix.glsl), by one warp, normalized first where there is
 * a weight. The sum of squares has a fixed tree: a lane adds four values at a time, lane by lane; then the lanes are
 * added pairwise. Who includes this defines
 *   NORM_PUT(at, part, word)   keep word `part` of the 16 bytes at `at`, counted from the rows' tile */
#ifndef OCTO_MATRIX_NORM_GLSL
#define OCTO_MATRIX_NORM_GLSL

float norm_scale(F32x4s x, uint cols, float eps)
{
    precise float sum = 0.0;
    for (uint i = warp_lane(); i < cols / 4; i += WARP) {
        vec4 v = x.v[i];
        sum = fma(v.x, v.x, sum);
        sum = fma(v.y, v.y, sum);
        sum = fma(v.z, v.z, sum);
        sum = fma(v.w, v.w, sum);
    }
    precise float mean = warp_sum(sum) / float(cols) + eps;
    precise float scale = 1.0 / sqrt(mean);
    return scale;
}

/* pair: of the four in a tile of 8 rows. b may be a; then has_b is false and its halves are 0. */
void norm_pair(uint64_t a, uint64_t b, bool has_b, uint64_t norm, uint cols, float eps, uint pair)
{
    F32x4s xa = F32x4s(a), xb = F32x4s(b), weight = F32x4s(norm);
    float scale_a = 1.0, scale_b = 1.0;
    if (norm != 0) {
        scale_a = norm_scale(xa, cols, eps);
        scale_b = norm_scale(xb, cols, eps);
    }
    for (uint i = warp_lane(); i < cols / 4; i += WARP) {
        precise vec4 ya = xa.v[i], yb = xb.v[i];
        if (norm != 0) {
            vec4 w = weight.v[i];
            ya = ya * scale_a * w;
            yb = yb * scale_b * w;
        }
        if (!has_b)
            yb = vec4(0.0);
        /* Values 4i .. 4i + 3: lanes 2 (i % 4) and the next of group i / 8, two words each. */
        uint at = i / 8 * WARP + i % 4 * 8 + pair, part = i / 4 % 2 * 2;
        NORM_PUT(at, part, pack_halves(ya.x, yb.x));
        NORM_PUT(at + 4, part, pack_halves(ya.y, yb.y));
        NORM_PUT(at, part + 1, pack_halves(ya.z, yb.z));
        NORM_PUT(at + 4, part + 1, pack_halves(ya.w, yb.w));
    }
}
#endif
