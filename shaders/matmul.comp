#version 460
/* out = a w^T (+ bias) (+ residual). Dequantizes in registers: an invocation computes TILE rows of COLUMNS columns.
 *
 * Canonical arithmetic (engine/kernels.h): the loops over slices, groups and values are the same for every
 * specialization; only who does what differs, and how values are loaded, which changes no bit. */
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"

layout(local_size_x_id = 0, local_size_y_id = 1) in; /* columns; slices side by side */
layout(constant_id = 2) const uint TILE = 1;
layout(constant_id = 3) const uint COLUMNS = 1; /* an invocation's are local_size_x apart */
layout(constant_id = 4) const uint LOAD = 0;
const uint LOAD_ANY = 0;       /* one value at a time */
const uint LOAD_VEC4 = 1;      /* k a multiple of 4, a aligned to 16 bytes */
/* Subgroups of 8 or more, k even, a aligned to 8 bytes: a lane loads two values, all lanes use them; 64 bits at a
 * time. For software devices: a load is a loop over lanes there, dearer than 30 multiplications, and so is a
 * broadcast: two values at a time, and enough columns for one. */
const uint LOAD_BROADCAST = 2;
layout(push_constant) uniform P { PUSH_MATMUL } p;

#define LOAD_BY_64_BITS (LOAD == LOAD_BROADCAST)
#include "weights.glsl"

const uint CELLS = TILE * COLUMNS;
const uint STEP = 16; /* values multiplied at a time */

shared float partial[gl_WorkGroupSize.y > 1 ? gl_WorkGroupSize.x * gl_WorkGroupSize.y * CELLS : 1];

/* Beyond p.k: any value, the weights are 0. */
void load_step(uint64_t a, uint k0, out float x[STEP])
{
    if (LOAD == LOAD_BROADCAST) {
        uint offset = min(k0 * 4 + gl_SubgroupInvocationID % 8 * 8, p.k * 4 - 8);
        uint64_t pair = U64s(join(add_low(a, offset))).v[0];
        [[unroll]] for (uint i = 0; i < STEP; i += 2) {
            vec2 v = uintBitsToFloat(unpack32(subgroupBroadcast(pair, i / 2)));
            x[i] = v.x;
            x[i + 1] = v.y;
        }
    } else if (LOAD == LOAD_VEC4) {
        [[unroll]] for (uint i = 0; i < STEP; i += 4) {
            vec4 v = F32x4s(a).v[min((k0 + i) / 4, p.k / 4 - 1)];
            x[i + 0] = v.x;
            x[i + 1] = v.y;
            x[i + 2] = v.z;
            x[i + 3] = v.w;
        }
    } else {
        [[unroll]] for (uint i = 0; i < STEP; i++)
            x[i] = F32s(a).v[min(k0 + i, p.k - 1)];
    }
}

void add_slice(uint64_t a[TILE], uint weight_row, uint first_column, uint slice, out precise float acc[CELLS])
{
    weight_at at[COLUMNS];
    type_slice head[COLUMNS];
    [[unroll]] for (uint i = 0; i < CELLS; i++)
        acc[i] = 0.0;
    [[unroll]] for (uint c = 0; c < COLUMNS; c++) {
        at[c] = weight_find(p.w, weight_row + min(first_column + c * gl_WorkGroupSize.x, p.n - 1), slice, p.k);
        head[c] = type_read_slice(at[c]);
    }
    for (uint g = 0; g < at[0].groups; g++) {
        float w[COLUMNS][GROUP];
        [[unroll]] for (uint c = 0; c < COLUMNS; c++) {
            float one[GROUP];
            type_read_group(head[c], at[c], g, one);
            [[unroll]] for (uint i = 0; i < GROUP; i++)
                w[c][i] = one[i];
        }
        [[unroll]] for (uint begin = 0; begin < GROUP; begin += STEP) {
            float x[TILE][STEP];
            [[unroll]] for (uint t = 0; t < TILE; t++)
                load_step(a[t], slice * SLICE + g * GROUP + begin, x[t]);
            [[unroll]] for (uint i = 0; i < STEP; i++)
                [[unroll]] for (uint t = 0; t < TILE; t++) {
                    float v = x[t][i];
                    [[unroll]] for (uint c = 0; c < COLUMNS; c++)
                        acc[t * COLUMNS + c] = fma(v, w[c][begin + i], acc[t * COLUMNS + c]);
                }
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
    uint first_column = gl_WorkGroupID.x * X * COLUMNS + lx, first = gl_WorkGroupID.y * TILE;
    uint slices = (p.k + SLICE - 1) / SLICE;
    uint end = p.rows, weight_row = 0;
    if (p.tiles != 0) {
        uvec4 tile = U32x4s(p.tiles).v[gl_WorkGroupID.y];
        weight_row = tile.x * p.n;
        first = tile.y;
        end = tile.z;
        if (first >= end)
            return;
    }
    uint64_t a[TILE];
    precise float acc[CELLS], total[CELLS];
    uint row[TILE]; /* of out */
    [[unroll]] for (uint t = 0; t < TILE; t++) {
        row[t] = min(first + t, end - 1);
        if (p.tiles != 0)
            row[t] = U32s(p.pairs).v[row[t]];
        a[t] = at(p.a, p.tiles != 0 ? row[t] / p.a_share : row[t], p.k, 4);
    }
    [[unroll]] for (uint i = 0; i < CELLS; i++)
        total[i] = 0.0;
    for (uint round = 0; round < slices; round += Y) {
        add_slice(a, weight_row, first_column, min(round + ly, slices - 1), acc);
        if (Y == 1) {
            [[unroll]] for (uint i = 0; i < CELLS; i++)
                total[i] = total[i] + acc[i];
            continue;
        }
        [[unroll]] for (uint i = 0; i < CELLS; i++)
            partial[(ly * CELLS + i) * X + lx] = acc[i];
        barrier();
        /* Cell i's sum is kept by invocation y = i % Y. */
        [[unroll]] for (uint i = 0; i < CELLS; i++)
            if (i % Y == ly)
                for (uint s = 0; s < min(Y, slices - round); s++)
                    total[i] = total[i] + partial[(s * CELLS + i) * X + lx];
        barrier();
    }
    [[unroll]] for (uint t = 0; t < TILE; t++)
        [[unroll]] for (uint c = 0; c < COLUMNS; c++) {
            uint i = t * COLUMNS + c, column = first_column + c * X;
            if (i % Y == ly && first + t < end && column < p.n)
                write(row[t], column, total[i]);
        }
}
