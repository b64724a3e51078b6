#version 460
/* One workgroup draws one row's token. Every step is independent of the order in which invocations run and of their
 * number: maxima with the lowest id on ties, integer counts and integer masses. So a row's token is a function of
 * its logits and parameters alone.
 *
 * Values are compared as `keys`: unsigned integers in the order of the floats. Key 0: banned; key 1: NaN.
 * Filters are thresholds on the key: kept is what is >= threshold, so ties at a threshold stay.
 * The draw is the Gumbel-max trick (Gumbel 1954; Maddison et al. 2014) with Philox4x32-10 (Salmon et al. 2011). */
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"

layout(local_size_x_id = 0) in;
layout(push_constant) uniform P { PUSH_SAMPLE } p;

struct row_params { SAMPLE_ROW };
layout(buffer_reference, std430, buffer_reference_align = 4) readonly buffer Rows { row_params v[]; };

const uint SIZE = gl_WorkGroupSize.x;
const uint KEY_NEGATIVE_INF = 0x007fffffu, KEY_INF = 0xff800000u;
const uint BUCKETS = 256, FILTER_BITS = 8192, SLOTS = 2 * SAMPLE_MAX_BANNED;

shared uint best_key[SIZE], best_id[SIZE];        /* one a subgroup */
shared uint bucket_low[BUCKETS], bucket_high[BUCKETS];
shared uint banned_bits[FILTER_BITS / 32];        /* by id % FILTER_BITS: 0 means not banned */
shared uint banned_slots[SLOTS];                  /* open addressing: id + 1; 0: empty */
shared uint64_t found_above;
shared uint found_bucket;

row_params params;
F32s logits;
float inverse_temperature;

uint key_of(float x)
{
    uint bits = floatBitsToUint(x);
    if ((bits & 0x7fffffffu) > 0x7f800000u)
        return 1;
    if (bits == 0x80000000u)
        bits = 0; /* -0 equals 0 */
    return (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
}

float value_of(uint key)
{
    return uintBitsToFloat((key & 0x80000000u) != 0 ? key & 0x7fffffffu : ~key);
}

/* A look-up, not a walk over the list: an invocation's loop iterations are limited on some devices. */
bool is_banned(uint id)
{
    uint bit = id % FILTER_BITS;
    if (params.banned_count == 0 || (banned_bits[bit / 32] & (1u << (bit % 32))) == 0)
        return false;
    for (uint slot = id % SLOTS; banned_slots[slot] != 0; slot = (slot + 1) % SLOTS)
        if (banned_slots[slot] == id + 1)
            return true;
    return false;
}

/* The key of id's logit over the temperature. */
uint read_key(uint id)
{
    precise float z = logits.v[id] * inverse_temperature;
    return is_banned(id) ? 0 : key_of(z);
}

void prepare_banned()
{
    uint count = min(params.banned_count, SAMPLE_MAX_BANNED);
    for (uint i = gl_LocalInvocationID.x; i < FILTER_BITS / 32; i += SIZE)
        banned_bits[i] = 0;
    for (uint i = gl_LocalInvocationID.x; i < SLOTS; i += SIZE)
        banned_slots[i] = 0;
    barrier();
    for (uint i = gl_LocalInvocationID.x; i < count; i += SIZE) {
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

/* The largest key of all invocations and the lowest id that has it. Ends with a barrier passed by all. */
uvec2 group_best(uint key, uint id)
{
    uint top = subgroupMax(key);
    uint low = subgroupMin(key == top ? id : 0xffffffffu);
    barrier();
    if (subgroupElect()) {
        best_key[gl_SubgroupID] = top;
        best_id[gl_SubgroupID] = low;
    }
    barrier();
    uvec2 best = uvec2(best_key[0], best_id[0]);
    for (uint i = 1; i < gl_NumSubgroups; i++) {
        uint k = best_key[i], n = best_id[i];
        if (k > best.x || (k == best.x && n < best.y))
            best = uvec2(k, n);
    }
    return best;
}

uvec2 find_best()
{
    uvec2 best = uvec2(0, 0xffffffffu);
    for (uint id = gl_LocalInvocationID.x; id < p.n_vocab; id += SIZE) {
        uint key = read_key(id);
        if (key > best.x || best.y == 0xffffffffu)
            best = uvec2(key, id);
    }
    return group_best(best.x, best.y);
}

/* exp(z - zmax) in units of 2^-24. */
uint mass_of(uint key, float zmax)
{
    precise float distance = value_of(key) - zmax;
    return uint(exp(distance) * 16777216.0);
}

/* 8 bits of the radix search: adds up the kept values whose upper bits are `prefix`, by their next 8 bits, and finds
 * the highest bucket at which the sum from above, with `above` so far, reaches `want`. */
void radix_pass(uint threshold, uint prefix, uint shift, bool by_mass, float zmax, uint64_t above, uint64_t want)
{
    uint lane = gl_LocalInvocationID.x;
    for (uint i = lane; i < BUCKETS; i += SIZE)
        bucket_low[i] = bucket_high[i] = 0;
    barrier();
    for (uint id = lane; id < p.n_vocab; id += SIZE) {
        uint key = read_key(id);
        if (key < threshold || (shift < 24 && key >> (shift + 8) != prefix))
            continue;
        uint add = by_mass ? mass_of(key, zmax) : 1;
        uint bucket = (key >> shift) & 0xff;
        uint old = atomicAdd(bucket_low[bucket], add);
        if (old + add < old)
            atomicAdd(bucket_high[bucket], 1);
    }
    barrier();
    if (lane == 0) {
        uint i = BUCKETS - 1;
        for (;; i--) {
            uint64_t here = (uint64_t(bucket_high[i]) << 32) | bucket_low[i];
            if (above + here >= want || i == 0)
                break;
            above += here;
        }
        found_bucket = i;
        found_above = above;
    }
    barrier();
}

/* The largest key t >= threshold such that the values >= t count (or weigh) at least `want`. */
uint radix_select(uint threshold, bool by_mass, float zmax, uint64_t want)
{
    uint prefix = 0;
    uint64_t above = 0;
    for (uint pass = 0; pass < 4; pass++) {
        radix_pass(threshold, prefix, 24 - pass * 8, by_mass, zmax, above, want);
        prefix = (prefix << 8) | found_bucket;
        above = found_above;
        barrier();
    }
    return max(prefix, threshold);
}

/* Sum of the masses of the values >= threshold. */
uint64_t kept_mass(uint threshold, float zmax)
{
    radix_pass(threshold, 0, 24, true, zmax, 0, ~uint64_t(0));
    uint64_t sum = 0;
    for (uint i = 0; i < BUCKETS; i++)
        sum += (uint64_t(bucket_high[i]) << 32) | bucket_low[i];
    barrier();
    return sum;
}

/* ceil(mass * part), part in (0, 1) with 24 bits. */
uint64_t part_of(uint64_t mass, float part)
{
    uint64_t f = uint64_t(max(part, 0.0) * 16777216.0);
    uint64_t high = mass >> 24, low = mass & 0xffffff;
    uint64_t want = high * f + ((low * f + 0xffffff) >> 24);
    return max(want, uint64_t(1));
}

uint filter_threshold(float zmax)
{
    uint threshold = KEY_NEGATIVE_INF;
    if (params.min_p > 0.0) {
        precise float least = zmax + log(min(params.min_p, 1.0));
        threshold = min(max(key_of(least), threshold), key_of(zmax));
    }
    if (params.top_k > 0 && params.top_k < p.n_vocab)
        threshold = radix_select(threshold, false, zmax, uint64_t(params.top_k));
    if (params.top_p < 1.0)
        threshold = radix_select(threshold, true, zmax, part_of(kept_mass(threshold, zmax), params.top_p));
    return threshold;
}

uint philox_word(uint id)
{
    uvec4 c = uvec4(params.position, params.choice, id, 0);
    uvec2 key = uvec2(params.seed_low, params.seed_high);
    [[unroll]] for (uint i = 0; i < 10; i++) {
        uint h0, l0, h1, l1;
        umulExtended(0xD2511F53u, c.x, h0, l0);
        umulExtended(0xCD9E8D57u, c.z, h1, l1);
        c = uvec4(h1 ^ c.y ^ key.x, l1, h0 ^ c.w ^ key.y, l0);
        key += uvec2(0x9E3779B9u, 0xBB67AE85u);
    }
    return c.x;
}

/* -log(-log(u)) with u = 1 - v; v in (0, 1) is finest where it decides: near 0, where the Gumbel value is large. */
float gumbel(uint id)
{
    precise float v = min((float(philox_word(id)) + 0.5) * 2.3283064365386963e-10, 1.0 - 5.9604645e-8);
    precise float small = v * (1.0 + v * (0.5 + v * (0.33333334 + v * 0.25)));
    precise float rest = 1.0 - v;
    return -log(v < 0.0078125 ? small : -log(rest));
}

uint draw(uint threshold, float zmax)
{
    uvec2 best = uvec2(0, 0xffffffffu);
    for (uint id = gl_LocalInvocationID.x; id < p.n_vocab; id += SIZE) {
        uint key = read_key(id);
        if (key < threshold)
            continue;
        precise float score = (value_of(key) - zmax) + gumbel(id);
        uint score_key = key_of(score);
        if (score_key > best.x)
            best = uvec2(score_key, id);
    }
    return group_best(best.x, best.y).y;
}

void main()
{
    uint r = gl_WorkGroupID.x;
    params = Rows(p.params).v[r];
    logits = F32s(at(p.logits, r, p.n_vocab, 4));
    bool greedy = !(params.temperature > 0.0);
    inverse_temperature = greedy ? 1.0 : 1.0 / params.temperature;
    if (params.banned_count > 0)
        prepare_banned();
    uvec2 best = find_best();
    uint token = best.y;
    if (!greedy && best.x > KEY_NEGATIVE_INF && best.x < KEY_INF) {
        float zmax = value_of(best.x);
        token = draw(filter_threshold(zmax), zmax);
    } else if (!greedy) { /* nothing finite to draw from: the best there is */
        inverse_temperature = 1.0;
        token = find_best().y;
    }
    if (gl_LocalInvocationID.x == 0)
        U32s(p.out_).v[r] = token;
}
