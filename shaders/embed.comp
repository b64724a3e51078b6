#version 460
/* out[r, :] = table[id of r, :], dequantized. One invocation writes a group of values. */
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"
#define LOAD_BY_64_BITS false
#include "weights.glsl"

layout(local_size_x_id = 0) in;
layout(push_constant) uniform P { PUSH_EMBED } p;

void main()
{
    uint g = gl_GlobalInvocationID.x, r = gl_GlobalInvocationID.y;
    if (g * GROUP >= p.n_embd)
        return;
    uint id = U32s(p.ids).v[r];
    if ((id & EMBED_DRAWN) != 0)
        id = U32s(p.drawn).v[id & ~EMBED_DRAWN];
    id = min(id, p.n_vocab - 1);
    weight_at w = weight_find(p.table, id, g / (SLICE / GROUP), p.n_embd);
    float x[GROUP];
    type_read_group(type_read_slice(w), w, g % (SLICE / GROUP), x);
    F32s row = F32s(at(p.out_, r, p.n_embd, 4));
    [[unroll]] for (uint i = 0; i < GROUP; i++)
        if (g * GROUP + i < p.n_embd)
            row.v[g * GROUP + i] = p.scale == 0.0 ? x[i] : x[i] * p.scale;
}
