#version 460
/* out = a w^T (+ bias) (+ residual). Dequantizes in registers: an invocation computes one column of TILE rows.
 *
 * Canonical arithmetic (engine/kernels.h): the loops over slices, groups and values are the same for every TILE and
 * every number of slices side by side; only who does what differs. Values are loaded in one of three ways, which
 * change no bit: */
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"
#include "weights.glsl"

layout(local_size_x_id = 0, local_size_y_id = 1) in; /* columns; slices side by side */
layout(constant_id = 2) const uint TILE = 1;
layout(constant_id = 3) const uint LOAD = 0;
const uint LOAD_ANY = 0;       /* one value at a time */
const uint LOAD_VEC4 = 1;      /* k a multiple of 4, a aligned to 16 bytes */
const uint LOAD_BROADCAST = 2; /* subgroups of 8 or more: a lane loads a value, all lanes use it */
layout(push_constant) uniform P { PUSH_MATMUL } p;

shared float partial[gl_WorkGroupSize.y > 1 ? gl_WorkGroupSize.x * gl_WorkGroupSize.y * TILE : 1];

/* acc[t] += sum over eight values from k0 on. Beyond p.k the weights are 0. */
void add_eight(uint64_t a[TILE], uint k0, float w[8], inout precise float acc[TILE])
{
    float x[TILE][8];
    if (LOAD == LOAD_BROADCAST) {
        uint lane = min(k0 + gl_SubgroupInvocationID % 8, p.k - 1);
        [[unroll]] for (uint t = 0; t < TILE; t++) {
            float v = F32s(a[t]).v[lane];
            [[unroll]] for (uint i = 0; i < 8; i++)
                x[t][i] = subgroupBroadcast(v, i);
        }
    } else if (LOAD == LOAD_VEC4) {
        uint last = p.k / 4 - 1;
        [[unroll]] for (uint t = 0; t < TILE; t++)
            [[unroll]] for (uint h = 0; h < 2; h++) {
                vec4 v = F32x4s(a[t]).v[min(k0 / 4 + h, last)];
                x[t][h * 4 + 0] = v.x;
                x[t][h * 4 + 1] = v.y;
                x[t][h * 4 + 2] = v.z;
                x[t][h * 4 + 3] = v.w;
            }
    } else {
        [[unroll]] for (uint t = 0; t < TILE; t++)
            [[unroll]] for (uint i = 0; i < 8; i++)
                x[t][i] = F32s(a[t]).v[min(k0 + i, p.k - 1)];
    }
    [[unroll]] for (uint i = 0; i < 8; i++)
        [[unroll]] for (uint t = 0; t < TILE; t++)
            acc[t] = fma(x[t][i], w[i], acc[t]);
}

void add_slice(uint64_t a[TILE], uint column, uint slice, out precise float acc[TILE])
{
    [[unroll]] for (uint t = 0; t < TILE; t++)
        acc[t] = 0.0;
    weight_at at = weight_find(p.w, column, slice, p.k);
    type_slice head = type_read_slice(at);
    for (uint g = 0; g < at.groups; g++) {
        float w[GROUP];
        type_read_group(head, at, g, w);
        [[unroll]] for (uint i = 0; i < GROUP; i += 8) {
            float eight[8];
            [[unroll]] for (uint j = 0; j < 8; j++)
                eight[j] = w[i + j];
            add_eight(a, slice * SLICE + g * GROUP + i, eight, acc);
        }
    }
}

void write(uint row, uint column, float value)
{
    precise float y = value;
    uint64_t index = uint64_t(row) * p.out_stride + column;
    if (p.bias != 0)
        y = y + F32s(p.bias).v[column];
    if (p.residual != 0)
        y = y + F32s(p.residual + index * 4).v[0];
    F32s(p.out_ + index * 4).v[0] = y;
}

void main()
{
    const uint X = gl_WorkGroupSize.x, Y = gl_WorkGroupSize.y;
    uint lx = gl_LocalInvocationID.x, ly = gl_LocalInvocationID.y;
    uint column = gl_WorkGroupID.x * X + lx, first = gl_WorkGroupID.y * TILE;
    uint safe_column = min(column, p.n - 1);
    uint slices = (p.k + SLICE - 1) / SLICE;
    uint64_t a[TILE];
    precise float acc[TILE], total[TILE];
    [[unroll]] for (uint t = 0; t < TILE; t++) {
        a[t] = at(p.a, min(first + t, p.rows - 1), p.k, 4);
        total[t] = 0.0;
    }
    for (uint round = 0; round < slices; round += Y) {
        add_slice(a, safe_column, min(round + ly, slices - 1), acc);
        if (Y == 1) {
            [[unroll]] for (uint t = 0; t < TILE; t++)
                total[t] = total[t] + acc[t];
            continue;
        }
        [[unroll]] for (uint t = 0; t < TILE; t++)
            partial[(ly * TILE + t) * X + lx] = acc[t];
        barrier();
        /* Row t's sum is kept by invocation y = t % Y. */
        [[unroll]] for (uint t = 0; t < TILE; t++)
            if (t % Y == ly)
                for (uint s = 0; s < min(Y, slices - round); s++)
                    total[t] = total[t] + partial[(s * TILE + t) * X + lx];
        barrier();
    }
    if (column >= p.n)
        return;
    [[unroll]] for (uint t = 0; t < TILE; t++)
        if (t % Y == ly && first + t < p.rows)
            write(first + t, column, total[t]);
}
