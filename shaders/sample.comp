#version 460
/* One workgroup draws one row's token. Every step is independent of the order in which invocations run and of their
 * number: maxima with the lowest id on ties, integer counts and integer masses. So a row's token is a function of
 * its logits and parameters alone.
 *
 * A line is four ids. Group g of SAMPLE_GROUPS has the lines g, g + SAMPLE_GROUPS, ...: an invocation owns whole
 * groups, adds their masses up in registers, and neighbours read neighbouring lines.
 *
 * The draw inverts the cumulative sum of the masses, in the order of push.h. top_p needs no search for its threshold:
 * a token drawn is good if the masses of the values above its own do not reach top_p already. If they do, it was
 * drawn from below the threshold, and the next one is drawn from what is above it, until one is good. What is good is
 * always among what is drawn from, so the distribution is that of the kept tokens. To know so without another pass in
 * most cases, the first one also adds up a tail, the values up to a pivot that a look at some values suggests: a token
 * not below the pivot is good if all but the tail do not reach top_p. The pivot decides what is known early, never what
 * is drawn. */
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"

layout(local_size_x_id = 0) in; /* a power of two, at most SAMPLE_GROUPS */
layout(constant_id = 1) const uint AHEAD = 4; /* lines in flight; 1: read one value at a time */
layout(push_constant) uniform P { PUSH_SAMPLE } p;

struct row_params { SAMPLE_ROW };
layout(buffer_reference, std430, buffer_reference_align = 4) readonly buffer Rows { row_params v[]; };

const uint SIZE = gl_WorkGroupSize.x;
const uint KEY_NEGATIVE_INF = 0x007fffffu;
const uint TAIL_BITS = 12; /* sums of 32 bits leave so many out: 4,096 masses fit */
const uint BUCKETS = 2048, FILTER_BITS = 8192, SLOTS = 2 * SAMPLE_MAX_BANNED;
#define MINUS_INF uintBitsToFloat(0xff800000u)

shared uvec2 per_subgroup[SAMPLE_GROUPS];
shared uint words[BUCKETS];              /* counts; or sums of masses, low words, then high words */
shared float group_best[SAMPLE_GROUPS];  /* the largest logit */
shared uint banned_bits[FILTER_BITS / 32]; /* by id % FILTER_BITS: 0 means not banned */
shared uint banned_slots[SLOTS];         /* open addressing: id + 1; 0: empty */
shared uint found_index;
shared uint64_t found_rest;
shared float found_z;

row_params params;
uint64_t row;
bool whole; /* lines can be read at once */
uint lane, lines;
float inverse_temperature, zmax;

/* ---- sums over the workgroup ---- */

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
    for (uint i = gl_SubgroupInvocationID; i < gl_NumSubgroups; i += gl_SubgroupSize) {
        uint64_t one = packUint2x32(per_subgroup[i]);
        all += one;
        all_before += i < gl_SubgroupID ? one : 0;
    }
    ret_total = join(subgroupAdd(split(all)));
    return before + join(subgroupAdd(split(all_before)));
}

uint sum_of_few(uint mine)
{
    uint sum = subgroupAdd(mine), all = 0;
    barrier();
    if (subgroupElect())
        per_subgroup[gl_SubgroupID].x = sum;
    barrier();
    for (uint i = gl_SubgroupInvocationID; i < gl_NumSubgroups; i += gl_SubgroupSize)
        all += per_subgroup[i].x;
    return subgroupAdd(all);
}

/* ---- values ---- */

/* An unsigned integer in the order of the floats. Key 0: banned; key 1: NaN. */
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
    if (whole && line < lines)
        x = F32x4s(row).v[line];
    if (!whole)
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
    if (params.banned_count > 0) {
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

/* ---- the best ---- */

/* The largest key of all invocations and the lowest id that has it. */
uvec2 group_of_best(uint key, uint id)
{
    uint top = subgroupMax(key);
    uint low = subgroupMin(key == top ? id : 0xffffffffu);
    barrier();
    if (subgroupElect())
        per_subgroup[gl_SubgroupID] = uvec2(top, low);
    barrier();
    key = 0;
    for (uint i = gl_SubgroupInvocationID; i < gl_NumSubgroups; i += gl_SubgroupSize)
        key = max(key, per_subgroup[i].x);
    top = subgroupMax(key);
    low = 0xffffffffu;
    for (uint i = gl_SubgroupInvocationID; i < gl_NumSubgroups; i += gl_SubgroupSize)
        low = per_subgroup[i].x == top ? min(low, per_subgroup[i].y) : low;
    return uvec2(top, subgroupMin(low));
}

/* The best logit's id; on the way, every group's largest logit. Minus infinity: there is none. */
uint find_best(out float ret_best)
{
    float best = MINUS_INF;
    uint best_line = 0;
    for (uint g = lane; g < SAMPLE_GROUPS; g += SIZE) {
        float here = MINUS_INF;
        uint here_line = g;
        for (uint line = g; line < lines; line += AHEAD * SAMPLE_GROUPS) {
            vec4 x[AHEAD];
            [[unroll]] for (uint i = 0; i < AHEAD; i++)
                x[i] = read_line(line + i * SAMPLE_GROUPS);
            [[unroll]] for (uint i = 0; i < AHEAD; i++) {
                vec4 c = clean_line(line + i * SAMPLE_GROUPS, x[i]);
                float most = max(max(c.x, c.y), max(c.z, c.w));
                if (most > here) {
                    here = most;
                    here_line = line + i * SAMPLE_GROUPS;
                }
            }
        }
        group_best[g] = here;
        if (here > best || (here == best && here_line < best_line)) {
            best = here;
            best_line = here_line;
        }
    }
    vec4 x = clean_line(best_line, read_line(best_line));
    uint i = x.x == best ? 0 : x.y == best ? 1 : x.z == best ? 2 : 3;
    uvec2 found = group_of_best(key_of(best), best_line * 4 + i);
    ret_best = value_of(found.x);
    return found.y;
}

/* The first id by key where no logit is a number to draw: minus infinity, then NaN, then what is banned. */
uint find_any()
{
    uvec2 best = uvec2(0, 0xffffffffu);
    for (uint id = lane; id < p.n_vocab; id += SIZE) {
        bool banned = params.banned_count > 0 && (maybe_banned(id & ~3u) >> (id & 3) & 1) != 0 && is_banned(id);
        uint key = banned ? 0 : key_of(F32s(row).v[id]);
        if (key > best.x || best.y == 0xffffffffu)
            best = uvec2(key, id);
    }
    return group_of_best(best.x, best.y).y;
}

/* ---- top_k ---- */

void count_key(float z, uint floor_key, uint shift, uint bits, uint prefix)
{
    uint key = key_of(z);
    if (key >= floor_key && (shift + bits == 32 || key >> (shift + bits) == prefix))
        atomicAdd(words[(key >> shift) & ((1u << bits) - 1)], 1);
}

/* Counts values >= floor_key whose upper bits are `prefix` by their next bits. of_groups: the groups' best alone. */
void count_keys(bool of_groups, uint floor_key, uint shift, uint bits, uint prefix)
{
    for (uint i = lane; i < BUCKETS; i += SIZE)
        words[i] = 0;
    barrier();
    for (uint g = lane; g < SAMPLE_GROUPS; g += SIZE) {
        float most = z_of(group_best[g]);
        if (key_of(most) < floor_key)
            continue;
        if (of_groups)
            count_key(most, floor_key, shift, bits, prefix);
        for (uint line = g; line < lines && !of_groups; line += SAMPLE_GROUPS) {
            vec4 x = clean_line(line, read_line(line));
            [[unroll]] for (uint i = 0; i < 4; i++)
                count_key(z_of(x[i]), floor_key, shift, bits, prefix);
        }
    }
    barrier();
}

/* The largest key >= floor_key such that `want` values are not below it; floor_key if there are not so many. */
uint kth_key(bool of_groups, uint floor_key, uint want)
{
    const uint per = BUCKETS / SIZE;
    uint prefix = 0, above = 0;
    for (uint pass = 0; pass < 3; pass++) { /* 11, 11 and 10 bits */
        uint shift = pass == 0 ? 21 : pass == 1 ? 10 : 0, bits = pass == 2 ? 10 : 11;
        if (lane == 0) {
            found_index = 0;
            found_rest = 0;
        }
        count_keys(of_groups, floor_key, shift, bits, prefix);
        uint mine = 0;
        uint64_t total;
        for (uint i = 0; i < per; i++) /* the highest bucket first */
            mine += words[BUCKETS - 1 - (lane * per + i)];
        uint sum = above + uint(scan(mine, total));
        if (sum < want && sum + mine >= want) {
            uint i = BUCKETS - 1 - lane * per;
            for (; sum + words[i] < want; i--)
                sum += words[i];
            found_index = i;
            found_rest = sum;
        }
        barrier();
        prefix = (prefix << bits) | found_index;
        above = uint(found_rest);
        barrier();
    }
    return max(prefix, floor_key);
}

/* What is kept is >= the result: min_p, then top_k. */
float filter_threshold()
{
    uint key = KEY_NEGATIVE_INF;
    if (params.min_p > 0.0) {
        precise float least = zmax + log(min(params.min_p, 1.0));
        key = min(max(key_of(least), key), key_of(zmax));
    }
    if (params.top_k > 0 && params.top_k < p.n_vocab) {
        if (params.top_k <= SAMPLE_GROUPS) /* as many values as groups are not below that: few are left to look at */
            key = kth_key(true, key, params.top_k);
        key = kth_key(false, key, params.top_k);
    }
    return value_of(key);
}

/* ---- the draw ---- */

bool is_kept(float z, float low, bool strict)
{
    return strict ? z > low : z >= low;
}

/* A value up to which about 5/4 of the mass that top_p leaves out may lie, by one line a lane; minus infinity: none. */
float tail_pivot(float low)
{
    if (AHEAD == 1 || !(params.top_p < 1.0) || params.top_p < 0.5)
        return MINUS_INF;
    vec4 x = clean_line(lane, read_line(lane));
    uvec4 mass;
    [[unroll]] for (uint i = 0; i < 4; i++) {
        x[i] = z_of(x[i]);
        mass[i] = is_kept(x[i], low, false) ? mass_of(x[i]) >> TAIL_BITS : 0;
    }
    uint aim = uint(float(sum_of_few(mass.x + mass.y + mass.z + mass.w)) * (1.0 - params.top_p) * 1.25);
    float near = 0.0, far = 16.0; /* distances from zmax */
    for (uint step = 0; step < 10; step++) {
        float middle = (near + far) * 0.5;
        uint tail = 0;
        [[unroll]] for (uint i = 0; i < 4; i++)
            tail += x[i] <= zmax - middle ? mass[i] : 0;
        if (sum_of_few(tail) > aim)
            near = middle;
        else
            far = middle;
    }
    return zmax - near;
}

/* Every group's mass of the values >= low, or > low if strict. Returns this lane's part of a bound of the mass of those
 * up to the pivot, never above it. */
uint64_t sum_groups(float low, const bool strict, float pivot)
{
    uint64_t all_tail = 0;
    for (uint g = lane; g < SAMPLE_GROUPS; g += SIZE) {
        uint64_t sum = 0;
        uint tail = 0;
        uint end = is_kept(z_of(group_best[g]), low, strict) ? lines : 0;
        for (uint line = g; line < end; line += AHEAD * SAMPLE_GROUPS) {
            vec4 x[AHEAD];
            [[unroll]] for (uint i = 0; i < AHEAD; i++)
                x[i] = read_line(line + i * SAMPLE_GROUPS);
            [[unroll]] for (uint i = 0; i < AHEAD; i++) {
                x[i] = clean_line(line + i * SAMPLE_GROUPS, x[i]);
                [[unroll]] for (uint c = 0; c < 4; c++) {
                    float z = z_of(x[i][c]);
                    uint mass = is_kept(z, low, strict) ? mass_of(z) : 0;
                    sum += mass;
                    if (AHEAD > 1 && !strict)
                        tail += z <= pivot ? mass >> TAIL_BITS : 0;
                }
            }
        }
        all_tail += uint64_t(tail) << TAIL_BITS;
        words[g] = uint(sum);
        words[SAMPLE_GROUPS + g] = uint(sum >> 32);
    }
    barrier();
    return all_tail;
}

uint64_t group_sum(uint g)
{
    return packUint2x32(uvec2(words[g], words[SAMPLE_GROUPS + g]));
}

uint64_t line_sum(uint line, float low, bool strict)
{
    vec4 x = clean_line(line, read_line(line));
    uint64_t sum = 0;
    [[unroll]] for (uint i = 0; i < 4; i++)
        sum += is_kept(z_of(x[i]), low, strict) ? mass_of(z_of(x[i])) : 0;
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

/* floor(mass * u / 2^64), u: the 64 bits of the row's `round`th draw. */
uint64_t random_below(uint64_t mass, uint round)
{
    uvec4 c = uvec4(params.position, params.choice, round, 0);
    uvec2 key = uvec2(params.seed_low, params.seed_high);
    [[unroll]] for (uint i = 0; i < 10; i++) {
        uint h0, l0, h1, l1;
        umulExtended(0xD2511F53u, c.x, h0, l0);
        umulExtended(0xCD9E8D57u, c.z, h1, l1);
        c = uvec4(h1 ^ c.y ^ key.x, l1, h0 ^ c.w ^ key.y, l0);
        key += uvec2(0x9E3779B9u, 0xBB67AE85u);
    }
    uint64_t m1 = mass >> 32, m0 = mass & 0xffffffffu, u1 = c.x, u0 = c.y;
    uint64_t middle = m1 * u0 + (m0 * u0 >> 32), other = m0 * u1 + (middle & 0xffffffffu);
    return m1 * u1 + (middle >> 32) + (other >> 32);
}

/* The id at which the running sum exceeds `target`, and its z. before: the sum of the groups of the lanes before. */
uint pick(uint64_t target, uint64_t before, float low, bool strict, out float ret_z)
{
    const uint per = SAMPLE_GROUPS / SIZE;
    for (uint i = 0; i < per; i++) {
        uint64_t sum = group_sum(lane * per + i);
        if (target >= before && target - before < sum) {
            found_index = lane * per + i;
            found_rest = target - before;
        }
        before += sum;
    }
    barrier();
    uint g = found_index, count = (lines - g + SAMPLE_GROUPS - 1) / SAMPLE_GROUPS, many = (count + SIZE - 1) / SIZE;
    uint begin = min(lane * many, count), end = min(begin + many, count);
    uint64_t rest = found_rest, mine = 0, total;
    for (uint i = begin; i < end; i++)
        mine += line_sum(g + i * SAMPLE_GROUPS, low, strict);
    before = scan(mine, total);
    if (rest >= before && rest - before < mine) {
        uint line = g + begin * SAMPLE_GROUPS;
        for (rest -= before;; line += SAMPLE_GROUPS) {
            uint64_t sum = line_sum(line, low, strict);
            if (rest < sum)
                break;
            rest -= sum;
        }
        vec4 x = clean_line(line, read_line(line));
        for (uint i = 0; i < 4; i++) {
            float z = z_of(x[i]);
            uint64_t mass = is_kept(z, low, strict) ? mass_of(z) : 0;
            if (rest < mass) {
                found_index = line * 4 + i;
                found_z = z;
                break;
            }
            rest -= mass;
        }
    }
    barrier();
    ret_z = found_z;
    return found_index;
}

uint draw()
{
    const uint per = SAMPLE_GROUPS / SIZE;
    float low = filter_threshold(), z;
    bool strict = false, any = !(params.top_p < 1.0);
    uint64_t want = 0;
    uint token = 0;
    float pivot = tail_pivot(low);
    uint64_t tail_part = sum_groups(low, false, pivot), tail = 0;
    if (AHEAD > 1)
        scan(tail_part, tail);
    for (uint round = 0;; round++) {
        uint64_t mine = 0, total;
        for (uint i = 0; i < per; i++)
            mine += group_sum(lane * per + i);
        uint64_t before = scan(mine, total);
        if (round == 0)
            want = part_of(total, params.top_p);
        else if (total < want)
            break;
        token = pick(random_below(total, round), before, low, strict, z);
        bool above_tail = AHEAD > 1 && round == 0 && z >= pivot && total - tail < want;
        if (any || above_tail || !(z < zmax))
            break;
        low = z;
        strict = true;
        sum_groups(low, true, MINUS_INF);
    }
    return token;
}

void main()
{
    uint r = gl_WorkGroupID.x;
    lane = gl_SubgroupID * gl_SubgroupSize + gl_SubgroupInvocationID;
    params = Rows(p.params).v[r];
    row = at(p.logits, r, p.n_vocab, 4);
    whole = AHEAD > 1 && p.n_vocab % 4 == 0 && (uint(row) & 15) == 0;
    lines = p.n_vocab / 4 + (p.n_vocab % 4 != 0 ? 1 : 0);
    if (params.banned_count > 0)
        prepare_banned();
    float best;
    uint token = find_best(best);
    if (best == MINUS_INF) {
        token = find_any();
    } else if (params.temperature > 0.0) {
        inverse_temperature = max(1.0 / params.temperature, 1.17549435e-38); /* 0 * infinity is nothing to compare */
        zmax = z_of(best);
        if (is_finite(zmax)) /* else nothing to draw from: the best there is */
            token = draw();
    }
    if (lane == 0)
        U32s(p.out_).v[r] = token;
}
