/* A row of logits as sample.comp's invocations see it: sums over the workgroup, and values without those that must not
 * be drawn. */
#ifndef OCTO_SAMPLE_ROW_GLSL
#define OCTO_SAMPLE_ROW_GLSL

struct row_params { SAMPLE_ROW };
layout(buffer_reference, std430, buffer_reference_align = 4) readonly buffer Rows { row_params v[]; };

const uint SIZE = gl_WorkGroupSize.x;
const uint FILTER_BITS = 8192, SLOTS = 2 * SAMPLE_MAX_BANNED;

shared uvec2 per_subgroup[SAMPLE_GROUPS / 4];
shared uint banned_bits[FILTER_BITS / 32]; /* by id % FILTER_BITS: 0 means not banned */
shared uint banned_slots[SLOTS];         /* open addressing: id + 1; 0: empty */

row_params params;
uint64_t row;
bool whole; /* lines can be read at once */
uint lane, lines;
uint subgroup_lanes; /* that there are: the size said is 32 where Mesa's driver for Intel runs 8 or 16 */
float inverse_temperature, zmax;

/* ---- sums over the workgroup ---- */

/* SIZE is a power of two: subgroups are full, or there is one. */
void find_lane()
{
    subgroup_lanes = SIZE / gl_NumSubgroups;
    lane = gl_SubgroupID * subgroup_lanes + gl_SubgroupInvocationID;
}

uvec3 split(uint64_t x)
{
    return uvec3(uint(x) & 0xffffff, uint(x >> 24) & 0xffffff, uint(x >> 48));
}

uint64_t join(uvec3 x)
{
    return uint64_t(x.x) + (uint64_t(x.y) << 24) + (uint64_t(x.z) << 48);
}

/* The sum of the lanes before this one, and of all. */
uint64_t scan(uint64_t mine, out uint64_t ret_total)
{
    uvec3 parts = split(mine);
    uint64_t before = join(subgroupExclusiveAdd(parts)), sum = join(subgroupAdd(parts));
    barrier();
    if (subgroupElect())
        per_subgroup[gl_SubgroupID] = unpackUint2x32(sum);
    barrier();
    uint64_t all_before = 0, all = 0;
    for (uint i = gl_SubgroupInvocationID; i < gl_NumSubgroups; i += subgroup_lanes) {
        uint64_t one = packUint2x32(per_subgroup[i]);
        all += one;
        all_before += i < gl_SubgroupID ? one : 0;
    }
    ret_total = join(subgroupAdd(split(all)));
    return before + join(subgroupAdd(split(all_before)));
}

/* Of two keys and their ids: the larger key, of equal ones the lower id. */
uvec2 better(uvec2 a, uvec2 b)
{
    return b.x > a.x || (b.x == a.x && b.y < a.y) ? b : a;
}

uvec2 subgroup_best(uvec2 mine)
{
    uint top = subgroupMax(mine.x);
    return uvec2(top, subgroupMin(mine.x == top ? mine.y : 0xffffffffu));
}

/* Of all invocations. */
uvec2 group_of_best(uint key, uint id)
{
    uvec2 best = subgroup_best(uvec2(key, id));
    barrier();
    if (subgroupElect())
        per_subgroup[gl_SubgroupID] = best;
    barrier();
    best = uvec2(0, 0xffffffffu);
    for (uint i = gl_SubgroupInvocationID; i < gl_NumSubgroups; i += subgroup_lanes)
        best = better(best, per_subgroup[i]);
    return subgroup_best(best);
}

/* ---- values ---- */

/* Of key_of(); key 0: banned. */
float value_of(uint key)
{
    return uintBitsToFloat((key & 0x80000000u) != 0 ? key & 0x7fffffffu : ~key);
}

bool is_finite(float x)
{
    return (floatBitsToUint(x) & 0x7f800000u) != 0x7f800000u;
}

void prepare_banned()
{
    uint count = min(params.banned_count, SAMPLE_MAX_BANNED);
    for (uint i = lane; i < FILTER_BITS / 32; i += SIZE)
        banned_bits[i] = 0;
    for (uint i = lane; i < SLOTS; i += SIZE)
        banned_slots[i] = 0;
    barrier();
    for (uint i = lane; i < count; i += SIZE) {
        uint id = U32s(p.banned).v[params.banned_begin + i], bit = id % FILTER_BITS, slot = id % SLOTS;
        atomicOr(banned_bits[bit / 32], 1u << (bit % 32));
        for (;; slot = (slot + 1) % SLOTS) {
            uint was = atomicCompSwap(banned_slots[slot], 0, id + 1);
            if (was == 0 || was == id + 1)
                break;
        }
    }
    barrier();
}

/* Bit i: id + i may be banned. id is a multiple of 4. */
uint maybe_banned(uint id)
{
    uint bit = id % FILTER_BITS;
    return (banned_bits[bit / 32] >> (bit % 32)) & 15;
}

/* A look-up, not a walk over the list: an invocation's loop iterations are limited on some devices. */
bool is_banned(uint id)
{
    for (uint slot = id % SLOTS; banned_slots[slot] != 0; slot = (slot + 1) % SLOTS)
        if (banned_slots[slot] == id + 1)
            return true;
    return false;
}

vec4 read_line(uint line)
{
    vec4 x = vec4(MINUS_INF);
    if ((PLAIN || whole) && line < lines)
        x = F32x4s(row).v[line];
    if (!PLAIN && !whole)
        [[unroll]] for (uint i = 0; i < 4; i++)
            if (line * 4 + i < p.n_vocab)
                x[i] = F32s(row).v[line * 4 + i];
    return x;
}

/* What must not be drawn becomes minus infinity. */
vec4 clean_line(uint line, vec4 x)
{
    [[unroll]] for (uint i = 0; i < 4; i++)
        if ((floatBitsToUint(x[i]) & 0x7fffffffu) > 0x7f800000u)
            x[i] = MINUS_INF;
    if (!PLAIN && params.banned_count > 0) {
        uint bits = maybe_banned(line * 4);
        if (bits != 0)
            [[unroll]] for (uint i = 0; i < 4; i++)
                if ((bits >> i & 1) != 0 && is_banned(line * 4 + i))
                    x[i] = MINUS_INF;
    }
    return x;
}

float z_of(float x)
{
    precise float z = x * inverse_temperature;
    return z;
}

/* exp(z - zmax) in units of 2^-31. */
uint mass_of(float z)
{
    precise float distance = z - zmax;
    precise float binary = distance * 1.44269504;
    precise float mass = exp2(binary) * 2147483648.0;
    return uint(mass);
}
#endif
