/* Weights in GPU memory and the interface of a type.
 *
 * A tensor [n x k] is cut into stripes of STRIPE rows and slices of SLICE values. A stripe holds its slices one after
 * the other; in a slice all of the STRIPE rows' first 16-byte units come first (row by row), then all second units,
 * and so on, then (types that need them) all first 4-byte words, all second words. So neighbouring columns of a matmul
 * read neighbouring bytes, and every load is aligned. The last slice is cut to whole groups of GROUP values; what lies
 * beyond k is 0. The C side of this: kernels_weight.c.
 *
 * The shader that includes this defines LOAD_BY_64_BITS (loads of 64 bits instead of 128: same values).
 * A type's file (type_*.glsl) defines
 *   TYPE_HEAD_UNITS, TYPE_GROUP_UNITS, TYPE_TAIL_WORDS   layout of a slice, see slice_bytes()
 *   struct type_slice           what is read once a slice
 *   type_slice type_read_slice(weight_at p)
 *   void type_read_group(type_slice s, weight_at p, uint g, out float w[GROUP])   the values of group g, ascending k */
#ifndef OCTO_WEIGHTS_GLSL
#define OCTO_WEIGHTS_GLSL

#define STRIPE 32
#define SLICE 256
#define GROUP 32

/* Where a row's slice begins. */
struct weight_at {
    uint64_t base; /* of the slice in its stripe */
    uint lane;     /* row within the stripe */
    uint groups;   /* in this slice */
};

/* Addresses for loads of 64 bits as two halves. llvmpipe stores a vector of addresses in every turn of a load's loop
 * over lanes, and reads one back: from 512 bits that is slow, from the halves' 256 it is not. It sees through
 * join() only where each result has one use, so a second load of the same place takes join_again(): same value. */
uvec2 add_low(uint64_t base, uint bytes)
{
    uvec2 b = unpack32(base);
    uint low = b.x + bytes;
    return uvec2(low, b.y + (low < b.x ? 1 : 0));
}

uint64_t join(uvec2 halves)
{
    return uint64_t(halves.y) << 32 | uint64_t(halves.x);
}

uint64_t join_again(uvec2 halves)
{
    return join(uvec2(halves.x, halves.y ^ 0x80000000u)) ^ 0x8000000000000000ul;
}

uvec4 weight_unit(weight_at p, uint unit)
{
    uint i = unit * STRIPE + p.lane;
    if (LOAD_BY_64_BITS) {
        uvec2 unit_at = add_low(p.base, i * 16);
        return uvec4(unpack32(U64s(join(unit_at)).v[0]), unpack32(U64s(join_again(unit_at | uvec2(8, 0))).v[0]));
    }
    return U32x4s(p.base).v[i];
}

/* Word `word` behind a slice's `units` units. */
uint weight_tail(weight_at p, uint units, uint word)
{
    return U32s(p.base + units * (16 * STRIPE)).v[word * STRIPE + p.lane];
}

/* ---- what several types share ---- */

/* Half i of eight. */
float half_of(uvec4 halves, uint i)
{
    vec2 pair = unpackHalf2x16(halves[i / 2]);
    return i % 2 == 0 ? pair.x : pair.y;
}

/* Word i of eight. */
uint word_of(uvec4 a, uvec4 b, uint i)
{
    return i < 4 ? a[i] : b[i - 4];
}

/* Value i of 32 as the file has them: the first 16 are the bytes' lower halves. */
uint split_nibble(uvec4 x, uint i)
{
    return (x[i % 16 / 4] >> ((i % 4) * 8 + i / 16 * 4)) & 15;
}

/* What byte i of a word is multiplied with where it stands, as a multiple of 2^8i: exact, no scale is so small. */
vec3 byte_scales(float d)
{
    return d * vec3(1.0, 1.0 / 256.0, 1.0 / 65536.0);
}

/* d * (byte i of x) + c, rounded once. Masked where it stands: a shift less for each value. */
float byte_fma(uint x, uint i, vec3 d, float c)
{
    return i == 3 ? fma(d[0], float(int(x >> 24)), c) : fma(d[i], float(int(x & (0xffu << (8 * i)))), c);
}

/* Lower four bits of x as bit 4 of a word's bytes. */
uint fifth_bits(uint x)
{
    return ((x & 15) * 0x02040810u) & 0x10101010u;
}

/* Scale and min of group g of Q4_K and Q5_K; head.yzw: twelve bytes. Bytes 0..3: scales of 0..3 (6 bits), 4..7: mins
 * of 0..3; their upper 2 bits are the upper bits of 4..7, whose lower 4 bits are in bytes 8..11 (scale below, min
 * above). */
uvec2 k_scale_min(uvec4 head, uint g)
{
    uint shift = (g % 4) * 8;
    uint s = (head.y >> shift) & 0xff, m = (head.z >> shift) & 0xff, low = (head.w >> shift) & 0xff;
    return g < 4 ? uvec2(s & 63, m & 63) : uvec2((low & 15) | ((s >> 6) << 4), (low >> 4) | ((m >> 6) << 4));
}

/* The 16 values of IQ4_NL and IQ4_XS: -127 -104 -83 -65, -49 -35 -22 -10, 1 13 25 38, 53 69 89 113; four to a word. */
int codebook(uint q)
{
    uint word = q < 8 ? (q < 4 ? 0xbfad9881u : 0xf6eaddcfu) : (q < 12 ? 0x26190d01u : 0x71594535u);
    return bitfieldExtract(int(word), int(q % 4) * 8, 8);
}

#ifdef OCTO_MATRIX_GLSL
/* For octets (matrix.glsl): small integers become halves by their bits, 0x6400 | i is 1024 + i. Two at a time, and a
 * product of a half and an integer of 8 bits is rounded once, as the F32 product (exact) is when it becomes a half. */

/* One word of a unit. */
uint weight_word(weight_at p, uint unit, uint word)
{
    return U32s(p.base).v[(unit * STRIPE + p.lane) * 4 + word];
}

/* Half g of unit 0: a group's scale. Words, not units: what an octet does not need is not read. */
f16vec2 octet_scale(weight_at p, uint g)
{
    f16vec2 pair = unpackFloat2x16(weight_word(p, 0, g / 2));
    return f16vec2(g % 2 == 0 ? pair.x : pair.y);
}

/* Integers 0, 2 and 1, 3 of four, less `zero`, times d: as two words, in order. */
uvec2 octet_pairs(uint even, uint odd, float16_t zero, f16vec2 d)
{
    f16vec2 a = (unpackFloat2x16(even | 0x64006400u) - f16vec2(zero)) * d;
    f16vec2 b = (unpackFloat2x16(odd | 0x64006400u) - f16vec2(zero)) * d;
    return uvec2(packFloat2x16(f16vec2(a.x, b.x)), packFloat2x16(f16vec2(a.y, b.y)));
}

/* Four signed bytes. */
uvec2 octet_bytes(uint x, f16vec2 d)
{
    x ^= 0x80808080u;
    return octet_pairs(x & 0x00ff00ffu, (x >> 8) & 0x00ff00ffu, float16_t(1024.0 + 128.0), d);
}

/* The lower nibbles of four bytes, each with a fifth bit from `high`, less 16. */
uvec2 octet_fives(uint x, uint high, f16vec2 d)
{
    uint even = (x & 0x000f000fu) | ((high & 1) << 4) | ((high & 4) << 18);
    uint odd = ((x >> 8) & 0x000f000fu) | ((high & 2) << 3) | ((high & 8) << 17);
    return octet_pairs(even, odd, float16_t(1024.0 + 16.0), d);
}
#endif

#if defined(TYPE_F32)
#include "type_f32.glsl"
#elif defined(TYPE_F16)
#include "type_f16.glsl"
#elif defined(TYPE_BF16)
#include "type_bf16.glsl"
#elif defined(TYPE_Q4_0)
#include "type_q4_0.glsl"
#elif defined(TYPE_Q4_1)
#include "type_q4_1.glsl"
#elif defined(TYPE_Q5_0)
#include "type_q5_0.glsl"
#elif defined(TYPE_Q5_1)
#include "type_q5_1.glsl"
#elif defined(TYPE_Q8_0)
#include "type_q8_0.glsl"
#elif defined(TYPE_Q2_K)
#include "type_q2_k.glsl"
#elif defined(TYPE_Q3_K)
#include "type_q3_k.glsl"
#elif defined(TYPE_Q4_K)
#include "type_q4_k.glsl"
#elif defined(TYPE_Q5_K)
#include "type_q5_k.glsl"
#elif defined(TYPE_Q6_K)
#include "type_q6_k.glsl"
#elif defined(TYPE_IQ4_NL)
#include "type_iq4_nl.glsl"
#elif defined(TYPE_IQ4_XS)
#include "type_iq4_xs.glsl"
#elif defined(TYPE_MXFP4)
#include "type_mxfp4.glsl"
#endif

/* For the matrix family: octet q (matrix.glsl) of group g, values 4q .. 4q + 3 and 16 + 4q .. 16 + 4q + 3, as f16. */
#ifndef TYPE_OCTET
uvec4 type_read_octet(type_slice s, weight_at p, uint g, uint q)
{
    float w[GROUP];
    type_read_group(s, p, g, w);
    float x[8];
    [[unroll]] for (uint i = 0; i < 8; i++) {
        uint at = i / 4 * 16 + i % 4;
        x[i] = q == 0 ? w[at] : q == 1 ? w[at + 4] : q == 2 ? w[at + 8] : w[at + 12];
    }
    return uvec4(packHalf2x16(vec2(x[0], x[1])), packHalf2x16(vec2(x[2], x[3])), packHalf2x16(vec2(x[4], x[5])),
                 packHalf2x16(vec2(x[6], x[7])));
}
#endif

uint slice_bytes(uint groups)
{
    return (TYPE_HEAD_UNITS + TYPE_GROUP_UNITS * groups) * 16 + TYPE_TAIL_WORDS * 4;
}

weight_at weight_find(uint64_t w, uint row, uint slice, uint k)
{
    uint groups = (k + GROUP - 1) / GROUP;
    uint slices = (k + SLICE - 1) / SLICE;
    uint last_groups = groups - (slices - 1) * (SLICE / GROUP);
    uint row_bytes = (slices - 1) * slice_bytes(SLICE / GROUP) + slice_bytes(last_groups);
    uint64_t stripe = w + uint64_t(row / STRIPE) * (uint64_t(row_bytes) * STRIPE);
    return weight_at(stripe + uint64_t(slice) * (slice_bytes(SLICE / GROUP) * STRIPE), row % STRIPE,
                     slice + 1 == slices ? last_groups : SLICE / GROUP);
}
#endif
