#version 460
/* One workgroup draws one row's token, or several do where there are few rows. Every step is independent of the order
 * in which invocations run and of their number: maxima with the lowest id on ties, integer counts and integer masses.
 * So a row's token is a function of its logits and parameters alone.
 *
 * A line is four ids. Group g of SAMPLE_GROUPS has the lines g, g + SAMPLE_GROUPS, ...: an invocation owns whole
 * groups, or shares one with others, adds their masses up in registers, and neighbours read neighbouring lines.
 *
 * The draw inverts the cumulative sum of the masses, in the order of push.h. top_p needs no search for its threshold:
 * a token drawn is good if the masses of the values above its own do not reach top_p already. If they do, it was
 * drawn from below the threshold, and the next one is drawn from what is above it, until one is good. What is good is
 * always among what is drawn from, so the distribution is that of the kept tokens. To know so without another pass in
 * most cases, the first one also adds up a tail, the values up to a pivot that a look at some values suggests: a token
 * not below the pivot is good if all but the tail do not reach top_p. The pivot decides what is known early, never what
 * is drawn.
 *
 * Several workgroups: each has its part of the groups, all lines of them, and each stage is a dispatch. BEST finds
 * every part's best; where that is the token, the last workgroup to come hands it out. SUMS adds up the masses of its
 * groups: what comes before, over the groups' bests, is done by each workgroup for itself. DRAW draws the first token
 * from all groups' sums, in each workgroup; if it is not known to be good, they add up again, each its part, and the
 * last one to come goes on alone. Nobody waits for another workgroup. */
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"

layout(local_size_x_id = 0) in; /* a power of two, at most SAMPLE_GROUPS */
layout(constant_id = 1) const uint AHEAD = 4; /* lines in flight; 1: one value at a time, one workgroup a row */
layout(push_constant) uniform P { PUSH_SAMPLE } p;
#include "sample_row.glsl"

const uint KEY_NEGATIVE_INF = 0x007fffffu, NONE = 0xffffffffu;
const uint TAIL_BITS = 12; /* sums of 32 bits leave so many out: 4,096 masses fit */
const uint BUCKETS = 2048;

shared uint words[BUCKETS];            /* counts; or sums of masses, low words, then high words */
shared uint group_best[SAMPLE_GROUPS]; /* the largest logit's key */
shared uint listed[SAMPLE_GROUPS], listed_count;
shared uint found_index;
shared uint64_t found_rest;
shared float found_z;

#include "sample_parts.glsl"

/* ---- the best ---- */

/* Key and id of the best logit of the part's groups; on the way, every group's. */
uvec2 find_best()
{
    float best = MINUS_INF;
    uint best_line = 0;
    if (sharers > 1) {
        for (uint g = first_group + lane; g < end_group; g += SIZE)
            group_best[g] = 0;
        barrier();
    }
    uint stride = sharers * SAMPLE_GROUPS;
    for (uint g = own_group; g < end_group; g += SIZE) {
        float here = MINUS_INF;
        uint here_line = g;
        for (uint line = g + share * SAMPLE_GROUPS; line < lines; line += AHEAD * stride) {
            vec4 x[AHEAD];
            [[unroll]] for (uint a = 0; a < AHEAD; a++)
                x[a] = read_line(line + a * stride);
            [[unroll]] for (uint a = 0; a < AHEAD; a++) {
                vec4 c = clean_line(line + a * stride, x[a]);
                float most = max(max(c.x, c.y), max(c.z, c.w));
                if (most > here) {
                    here = most;
                    here_line = line + a * stride;
                }
            }
        }
        if (sharers == 1)
            group_best[g] = key_of(here);
        else
            atomicMax(group_best[g], key_of(here));
        if (here > best || (here == best && here_line < best_line)) {
            best = here;
            best_line = here_line;
        }
    }
    vec4 x = clean_line(best_line, read_line(best_line));
    uint i = x.x == best ? 0 : x.y == best ? 1 : x.z == best ? 2 : 3;
    return group_of_best(key_of(best), best_line * 4 + i);
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

/* The highest bucket such that `above`, its word and those of the buckets beyond reach `want`; 0: none. Then above is
 * what they have without its own. */
uint find_bucket(uint want, inout uint above)
{
    const uint per = BUCKETS / SIZE;
    uint mine = 0;
    uint64_t total;
    if (lane == 0) {
        found_index = 0;
        found_rest = 0;
    }
    for (uint i = 0; i < per; i++)
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
    uint found = found_index;
    above = uint(found_rest);
    barrier();
    return found;
}

void clear_words()
{
    for (uint i = lane; i < BUCKETS; i += SIZE)
        words[i] = 0;
    barrier();
}

uint z_key(uint g)
{
    return key_of(z_of(value_of(group_best[g])));
}

void count_key(uint key, uint floor_key, uint shift, uint bits, uint prefix)
{
    if (key >= floor_key && (shift + bits == 32 || key >> (shift + bits) == prefix))
        atomicAdd(words[(key >> shift) & ((1u << bits) - 1)], 1);
}

/* Counts values >= floor_key whose upper bits are `prefix` by their next bits. of_groups: the groups' best alone;
 * otherwise of the groups that are listed. */
void count_keys(bool of_groups, uint floor_key, uint shift, uint bits, uint prefix)
{
    uint depth = (lines + SAMPLE_GROUPS - 1) / SAMPLE_GROUPS;
    clear_words();
    for (uint g = lane; g < SAMPLE_GROUPS && of_groups; g += SIZE)
        count_key(z_key(g), floor_key, shift, bits, prefix);
    for (uint i = lane; i < listed_count * depth && !of_groups; i += SIZE) {
        uint line = listed[i % listed_count] + i / listed_count * SAMPLE_GROUPS;
        vec4 x = clean_line(line, read_line(line));
        for (uint c = 0; c < 4 && line < lines; c++)
            count_key(key_of(z_of(x[c])), floor_key, shift, bits, prefix);
    }
    barrier();
}

/* The groups that have values >= floor_key, in any order. */
void list_groups(uint floor_key)
{
    if (lane == 0)
        listed_count = 0;
    barrier();
    for (uint g = lane; g < SAMPLE_GROUPS; g += SIZE)
        if (z_key(g) >= floor_key)
            listed[atomicAdd(listed_count, 1)] = g;
    barrier();
}

/* The largest key >= floor_key such that `want` values are not below it; floor_key if there are not so many. */
uint kth_key(bool of_groups, uint floor_key, uint want)
{
    uint prefix = 0, above = 0;
    if (!of_groups)
        list_groups(floor_key);
    for (uint pass = 0; pass < 3; pass++) { /* 11, 11 and 10 bits */
        uint shift = pass == 0 ? 21 : pass == 1 ? 10 : 0, bits = pass == 2 ? 10 : 11;
        count_keys(of_groups, floor_key, shift, bits, prefix);
        prefix = (prefix << bits) | find_bucket(want, above);
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
    const float per_bucket = 16.0 / float(BUCKETS); /* farther from zmax there is no mass to speak of */
    if (AHEAD == 1 || !(params.top_p < 1.0) || params.top_p < 0.5)
        return MINUS_INF;
    uint sum = 0, above = 0;
    clear_words();
    vec4 x = clean_line(lane, read_line(lane));
    [[unroll]] for (uint i = 0; i < 4; i++) {
        float z = z_of(x[i]);
        uint mass = is_kept(z, low, false) ? mass_of(z) >> TAIL_BITS : 0;
        sum += mass;
        if (mass > 0)
            atomicAdd(words[min(uint((zmax - z) / per_bucket), BUCKETS - 1)], mass);
    }
    uint aim = uint(float(sum_of_few(sum)) * (1.0 - params.top_p) * 1.25);
    return zmax - float(find_bucket(aim + 1, above)) * per_bucket;
}

/* What invocations that share a group add to its sum, with the carry. */
void add_to_group(uint g, uint64_t sum)
{
    uvec2 both = unpackUint2x32(sum);
    if (sharers == 1) {
        words[g] = both.x;
        words[SAMPLE_GROUPS + g] = both.y;
    } else {
        uint before = atomicAdd(words[g], both.x);
        atomicAdd(words[SAMPLE_GROUPS + g], both.y + (before + both.x < before ? 1 : 0));
    }
}

/* The part's groups' masses of the values >= low, or > low if strict. Returns this lane's part of a bound of the mass
 * of those up to the pivot, never above it. */
uint64_t sum_groups(float low, const bool strict, float pivot)
{
    uint64_t all_tail = 0;
    if (sharers > 1) {
        for (uint g = first_group + lane; g < end_group; g += SIZE)
            words[g] = words[SAMPLE_GROUPS + g] = 0;
        barrier();
    }
    uint stride = sharers * SAMPLE_GROUPS;
    for (uint g = own_group; g < end_group; g += SIZE) {
        uint64_t sum = 0;
        uint tail = 0;
        uint end = is_kept(z_of(value_of(group_best[g])), low, strict) ? lines : 0;
        for (uint line = g + share * SAMPLE_GROUPS; line < end; line += AHEAD * stride) {
            vec4 x[AHEAD];
            [[unroll]] for (uint a = 0; a < AHEAD; a++)
                x[a] = read_line(line + a * stride);
            [[unroll]] for (uint a = 0; a < AHEAD; a++) {
                x[a] = clean_line(line + a * stride, x[a]);
                [[unroll]] for (uint c = 0; c < 4; c++) {
                    float z = z_of(x[a][c]);
                    uint mass = is_kept(z, low, strict) ? mass_of(z) : 0;
                    sum += mass;
                    if (AHEAD > 1 && !strict)
                        tail += z <= pivot ? mass >> TAIL_BITS : 0;
                }
            }
        }
        all_tail += uint64_t(tail) << TAIL_BITS;
        add_to_group(g, sum);
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

/* From the sums in `words`; their tail is up to the pivot. NONE: another workgroup goes on. */
uint draw(float low, float pivot, uint64_t tail)
{
    const uint per = SAMPLE_GROUPS / SIZE;
    bool strict = false, any = !(params.top_p < 1.0), alone = PARTS == 1;
    uint64_t want = 0;
    uint token = 0;
    float z;
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
        if (!alone) {
            put_sums(SUMS_ABOVE);
            if (!is_last())
                return NONE;
            get_sums(SUMS_ABOVE);
            alone = true;
        }
    }
    return token;
}

/* ---- stages ---- */

bool does(uint stage)
{
    return PARTS == 1 || p.stage == stage;
}

/* The row's best. False: not yet, or nothing is to be drawn from it in this stage. */
bool best_stage(bool draws, out uvec2 ret_best)
{
    ret_best = does(SAMPLE_BEST) ? find_best() : uvec2(0);
    if (PARTS == 1)
        return true;
    if (p.stage == SAMPLE_BEST) {
        put_best(ret_best);
        if (draws || !is_last())
            return false;
    } else if (!draws) {
        return false;
    }
    ret_best = get_best();
    return true;
}

void sums_stage(out float ret_low, out float ret_pivot, out uint64_t ret_tail)
{
    ret_low = filter_threshold();
    ret_pivot = tail_pivot(ret_low);
    uint64_t mine = sum_groups(ret_low, false, ret_pivot);
    ret_tail = 0;
    if (AHEAD > 1)
        scan(mine, ret_tail);
    if (PARTS == 1)
        return;
    put_sums(SUMS);
    if (lane == 0) {
        uvec2 tail = unpackUint2x32(ret_tail);
        scratch.v[PART_TAIL + 2 * part] = tail.x;
        scratch.v[PART_TAIL + 2 * part + 1] = tail.y;
        if (part == 0) {
            scratch.v[LOW] = floatBitsToUint(ret_low);
            scratch.v[PIVOT] = floatBitsToUint(ret_pivot);
        }
    }
}

/* What sums_stage() left. */
void get_stage(out float ret_low, out float ret_pivot, out uint64_t ret_tail)
{
    uint64_t mine = 0;
    for (uint i = lane; i < PARTS; i += SIZE)
        mine += packUint2x32(uvec2(scratch.v[PART_TAIL + 2 * i], scratch.v[PART_TAIL + 2 * i + 1]));
    scan(mine, ret_tail);
    ret_low = uintBitsToFloat(scratch.v[LOW]);
    ret_pivot = uintBitsToFloat(scratch.v[PIVOT]);
    get_sums(SUMS);
}

void main()
{
    uint r = gl_WorkGroupID.x;
    find_lane();
    params = Rows(p.params).v[r];
    row = at(p.logits, r, p.n_vocab, 4);
    whole = AHEAD > 1 && p.n_vocab % 4 == 0 && (uint(row) & 15) == 0;
    lines = p.n_vocab / 4 + (p.n_vocab % 4 != 0 ? 1 : 0);
    scratch = Scratch(at(p.scratch, r, SAMPLE_SCRATCH_WORDS, 4));
    take_part(SPLITS ? gl_WorkGroupID.y : 0, PARTS);
    bool draws = params.temperature > 0.0;
    uvec2 best;
    if (params.banned_count > 0)
        prepare_banned();
    if (!best_stage(draws, best))
        return;
    inverse_temperature = max(1.0 / params.temperature, 1.17549435e-38); /* 0 * infinity is nothing to compare */
    zmax = z_of(value_of(best.x));
    uint token = best.y;
    float low, pivot;
    uint64_t tail;
    /* Minus infinity: all are; infinity: nothing to draw from, the best there is. */
    bool finite = best.x != KEY_NEGATIVE_INF && is_finite(zmax);
    if (draws && finite && does(SAMPLE_SUMS))
        sums_stage(low, pivot, tail);
    if (!does(SAMPLE_DRAW) && draws)
        return;
    if (draws && finite) {
        if (!does(SAMPLE_SUMS))
            get_stage(low, pivot, tail);
        token = draw(low, pivot, tail);
    } else if (best.x == KEY_NEGATIVE_INF) {
        token = find_any();
    }
    if (lane == 0 && part == 0 && token != NONE)
        U32s(p.out_).v[r] = token;
}
