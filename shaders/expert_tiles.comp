#version 460
/* One workgroup: counts each expert's pairs, gives every expert its place, writes lists and tiles. */
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"

layout(local_size_x_id = 0) in;
layout(push_constant) uniform P { PUSH_EXPERT_TILES } p;

shared uint count[MAX_EXPERTS];
shared uint first_pair[MAX_EXPERTS];
shared uint first_tile[MAX_EXPERTS];
shared uint tiles_used;

void main()
{
    uint lane = gl_LocalInvocationID.x, size = gl_WorkGroupSize.x;
    U32s ids = U32s(p.ids), list = U32s(p.list);
    for (uint e = lane; e < p.n_expert; e += size) {
        uint n = 0;
        for (uint i = 0; i < p.pairs; i++)
            n += ids.v[i] == e ? 1 : 0;
        count[e] = n;
    }
    barrier();
    if (lane == 0) {
        uint pairs = 0, tiles = 0;
        for (uint e = 0; e < p.n_expert; e++) {
            first_pair[e] = pairs;
            first_tile[e] = tiles;
            pairs += count[e];
            tiles += (count[e] + EXPERT_TILE - 1) / EXPERT_TILE;
        }
        tiles_used = tiles;
    }
    barrier();
    for (uint e = lane; e < p.n_expert; e += size) {
        uint at = first_pair[e], end = at + count[e], tile = first_tile[e];
        for (uint i = 0; i < p.pairs && at < end; i++)
            if (ids.v[i] == e)
                list.v[at++] = i;
        for (uint first = first_pair[e]; first < end; first += EXPERT_TILE)
            U32x4s(p.tiles).v[tile++] = uvec4(e, first, min(first + EXPERT_TILE, end), 0);
    }
    for (uint t = tiles_used + lane; t < p.tiles_count; t += size)
        U32x4s(p.tiles).v[t] = uvec4(0);
}
