/* What the two places that norm rows for row tiles (matrix.glsl) share, so that they have the same bits: NORM_WARPS
 * warps take a row; a lane adds squares of every 256th four values, a warp its lanes pairwise, and the warps follow in
 * ascending order. Who includes this defines
 *   NORM_PUT(at, part, word)   keep word `part` of the 16 bytes at `at`, counted from the rows' tile */
#ifndef OCTO_MATRIX_NORM_GLSL
#define OCTO_MATRIX_NORM_GLSL

#define NORM_WARPS 8
#define NORM_LANES (NORM_WARPS * WARP)

float add_squares(vec4 v, float sum)
{
    precise float s = fma(v.x, v.x, sum);
    s = fma(v.y, v.y, s);
    s = fma(v.z, v.z, s);
    s = fma(v.w, v.w, s);
    return s;
}

float norm_scale(float squares, uint cols, float eps)
{
    precise float mean = squares / float(cols) + eps;
    precise float scale = 1.0 / sqrt(mean);
    return scale;
}

vec4 scaled(vec4 x, float scale, vec4 weight)
{
    precise vec4 y = x * scale * weight;
    return y;
}

/* Values 4i .. 4i + 3 of row r of the tile: two words of lane i % 4 of the row, in group i / 8. */
uint norm_place(uint i, uint r)
{
    return i / 8 * WARP + r * 4 + i % 4;
}

uint norm_part(uint i)
{
    return i / 4 % 2 * 2;
}

void put_four(uint i, uint r, vec4 a)
{
    NORM_PUT(norm_place(i, r), norm_part(i), pack_halves(a.x, a.y));
    NORM_PUT(norm_place(i, r), norm_part(i) + 1, pack_halves(a.z, a.w));
}
#endif
