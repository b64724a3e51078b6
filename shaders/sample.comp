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
 * always among what is drawn from, so the distribution is that of the kept tokens. Leaving out a tail that is below the
 * threshold for certain makes a second round rare. So that a token is known to be good without another pass, the first
 * one also adds up what is not above a second pivot, a little over the threshold: a token not below that one is good if
 * all but those do not reach top_p. This pivot decides what is known early, never what is drawn.
 *
 * Several workgroups: each has its part of the groups, all lines of them. The stage BEST, a dispatch, finds every
 * part's best; where that is the token, the last workgroup to come hands it out. DRAW adds up the masses of its groups,
 * and the last one to come draws, alone from there on. Nobody waits for another workgroup. The matmul that made the
 * logits may have left its bests: then there is only DRAW. */
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"

layout(local_size_x_id = 0) in; /* a power of two, at most SAMPLE_GROUPS */
layout(constant_id = 1) const uint AHEAD = 4; /* lines in flight; 1: one value at a time, one workgroup a row */
/* No row bans ids, has top_k or min_p, and lines can be read at once. Most code is gone then, of which every byte comes
 * from memory once a step. */
layout(constant_id = 2) const bool PLAIN = false;
layout(push_constant) uniform P { PUSH_SAMPLE } p;
#include "sample_row.glsl"

const uint KEY_NEGATIVE_INF = 0x007fffffu, NONE = 0xffffffffu;
const uint TAIL_BITS = 12; /* sums of 32 bits leave so many out: 4,096 masses fit */
const uint BUCKETS = 2048;

/* Counts, and then a list of groups; or their sums of masses: low words, high words, and the same of the tail. */
shared uint words[4 * SAMPLE_GROUPS];
shared uint group_best[SAMPLE_GROUPS]; /* the largest logit's key */
shared uint listed_count;
shared uint levels[SAMPLE_LEVELS]; /* masses of some values, by distance from zmax */
shared uint below_words[2];        /* a bound of the mass of those up to the second pivot, never above it */
shared uint found_index;
shared uint64_t found_rest;
shared uvec2 random;
shared float found_z;

#include "sample_parts.glsl"

/* ---- the best ---- */

/* Key and id of the best logit of this invocation's lines; on the way, every group's. */
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
    return uvec2(key_of(best), best_line * 4 + i);
}

/* The first id by key where no logit is a number to draw: minus infinity, then NaN, then what is banned. By every
 * subgroup for itself: that is rare, and little code. */
uint find_any()
{
    uvec2 best = uvec2(0, NONE);
    for (uint id = gl_SubgroupInvocationID; id < p.n_vocab; id += subgroup_lanes) {
        bool banned = !PLAIN && params.banned_count > 0 && (maybe_banned(id & ~3u) >> (id & 3) & 1) != 0 &&
                      is_banned(id);
        best = better(best, uvec2(banned ? 0 : key_of(F32s(row).v[id]), id));
    }
    return subgroup_best(best).y;
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
        uint line = words[BUCKETS + i % listed_count] + i / listed_count * SAMPLE_GROUPS;
        vec4 x = clean_line(line, read_line(line));
        for (uint c = 0; c < 4 && line < lines; c++)
            count_key(key_of(z_of(x[c])), floor_key, shift, bits, prefix);
    }
    barrier();
}

/* Lists the groups that have values >= floor_key, in any order. */
void list_groups(uint floor_key)
{
    if (lane == 0)
        listed_count = 0;
    barrier();
    for (uint g = lane; g < SAMPLE_GROUPS; g += SIZE)
        if (z_key(g) >= floor_key)
            words[BUCKETS + atomicAdd(listed_count, 1)] = g;
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
    if (PLAIN)
        return MINUS_INF;
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

float low;          /* min_p's and top_k's threshold */
float above;        /* drawn from is what is above that */
float tail, below;  /* the two pivots */

bool is_kept(float z)
{
    return z >= low && z > above;
}

/* Before the masses are added up. */
void clear_sums()
{
    for (uint i = lane; i < SAMPLE_LEVELS; i += SIZE)
        levels[i] = 0;
    if (lane < 2)
        below_words[lane] = 0;
    for (uint g = first_group + lane; g < end_group && sharers > 1; g += SIZE) {
        [[unroll]] for (uint i = 0; i < 4; i++)
            words[i * SAMPLE_GROUPS + g] = 0;
        if (p.bests_count > 0)
            group_best[g] = 0;
    }
    barrier();
}

float level_value(uint level)
{
    return zmax - float(level) * (1.0 / float(SAMPLE_LEVELS_UNIT));
}

/* push.h: the tail; and the last level from which on the masses are more than 9/8 of what top_p leaves out. Every
 * subgroup looks for itself. */
void find_pivots()
{
    tail = below = MINUS_INF;
    if (!(params.top_p < 1.0))
        return;
    uint stride = max((lines + SAMPLE_LOOK_LINES - 1) / SAMPLE_LOOK_LINES, 8);
    for (uint line = lane * stride; line < lines; line += SIZE * stride) {
        vec4 x = clean_line(line, read_line(line));
        [[unroll]] for (uint i = 0; i < 4; i++) {
            precise float distance = zmax - z_of(x[i]);
            uint mass = is_kept(z_of(x[i])) ? mass_of(z_of(x[i])) >> TAIL_BITS : 0;
            if (mass > 0)
                atomicAdd(levels[min(uint(distance * float(SAMPLE_LEVELS_UNIT)), SAMPLE_LEVELS - 1)], mass);
        }
    }
    barrier();
    uint per = SAMPLE_LEVELS / subgroup_lanes, first = SAMPLE_LEVELS - 1 - gl_SubgroupInvocationID * per, mine = 0;
    for (uint i = 0; i < per; i++)
        mine += levels[first - i];
    uint sum = subgroupExclusiveAdd(mine), tail_level = SAMPLE_LEVELS, below_level = 0;
    precise float out_of_all = float(subgroupAdd(mine)) * (1.0 - params.top_p);
    uint most = uint(out_of_all * 0.9375), least = uint(out_of_all * 1.125) + 1;
    for (uint i = 0; i < per; i++) {
        sum += levels[first - i];
        if (sum <= most)
            tail_level = first - i;
        if (sum >= least)
            below_level = max(below_level, first - i);
    }
    tail_level = subgroupMin(tail_level);
    if (tail_level < SAMPLE_LEVELS)
        tail = level_value(tail_level);
    below = level_value(subgroupMax(below_level));
}

/* A sum of two words, the lower one first, of several invocations. */
#define ADD_WORDS(low_word, high_word, sum) \
    { \
        uvec2 both = unpackUint2x32(sum); \
        uint before = atomicAdd(low_word, both.x); \
        atomicAdd(high_word, both.y + (before + both.x < before ? 1 : 0)); \
    }

void put_words(uint g, uint64_t sum)
{
    uvec2 both = unpackUint2x32(sum);
    words[g] = both.x;
    words[SAMPLE_GROUPS + g] = both.y;
}

/* Group g's lines that are this invocation's: what is kept of them in ret_sum and, up to the tail, in ret_tail.
 * Returns the best of them. */
float sum_group(uint g, uint end, out uint64_t ret_sum, out uint64_t ret_tail, inout uint all_below)
{
    float best = MINUS_INF;
    ret_sum = ret_tail = 0;
    for (uint line = g + share * SAMPLE_GROUPS; line < end; line += AHEAD * sharers * SAMPLE_GROUPS) {
        vec4 x[AHEAD];
        [[unroll]] for (uint a = 0; a < AHEAD; a++)
            x[a] = read_line(line + a * sharers * SAMPLE_GROUPS);
        [[unroll]] for (uint a = 0; a < AHEAD; a++) {
            x[a] = clean_line(line + a * sharers * SAMPLE_GROUPS, x[a]);
            [[unroll]] for (uint c = 0; c < 4; c++) {
                float z = z_of(x[a][c]);
                uint mass = is_kept(z) ? mass_of(z) : 0;
                ret_sum += z > tail ? mass : 0;
                ret_tail += z > tail ? 0 : mass;
                all_below += z <= below ? mass >> TAIL_BITS : 0;
                best = max(best, x[a][c]);
            }
        }
    }
    return best;
}

/* The part's groups' masses. The first time behind clear_sums(), later of groups that have values to draw. */
void sum_groups(bool first)
{
    uint64_t all_below = 0;
    bool finds_best = first && p.bests_count > 0;
    for (uint g = own_group; g < end_group; g += SIZE) {
        uint64_t sum, tail_sum;
        uint below_sum = 0;
        bool some = finds_best || is_kept(z_of(value_of(group_best[g])));
        float best = sum_group(g, some ? lines : 0, sum, tail_sum, below_sum);
        all_below += uint64_t(below_sum) << TAIL_BITS;
        if (sharers == 1) {
            put_words(g, sum);
            put_words(g + 2 * SAMPLE_GROUPS, tail_sum);
            if (finds_best)
                group_best[g] = key_of(best);
        } else {
            ADD_WORDS(words[g], words[SAMPLE_GROUPS + g], sum)
            ADD_WORDS(words[2 * SAMPLE_GROUPS + g], words[3 * SAMPLE_GROUPS + g], tail_sum)
            if (finds_best)
                atomicMax(group_best[g], key_of(best));
        }
    }
    if (first) {
        all_below = join(subgroupAdd(split(all_below)));
        if (subgroupElect())
            ADD_WORDS(below_words[0], below_words[1], all_below)
    }
    barrier();
}

bool with_tail; /* it is drawn from, too */

uint64_t words_at(uint g)
{
    return packUint2x32(uvec2(words[g], words[SAMPLE_GROUPS + g]));
}

uint64_t group_sum(uint g)
{
    return words_at(g) + (with_tail ? words_at(2 * SAMPLE_GROUPS + g) : 0);
}

uint64_t line_sum(uint line)
{
    vec4 x = clean_line(line, read_line(line));
    uint64_t sum = 0;
    [[unroll]] for (uint i = 0; i < 4; i++)
        sum += is_kept(z_of(x[i])) ? mass_of(z_of(x[i])) : 0;
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

/* The 64 bits of the row's `round`th draw, the lower word first. */
uvec2 random_bits(uint round)
{
    uvec4 c = uvec4(params.position, params.choice, round, 0);
    uvec2 key = uvec2(params.seed_low, params.seed_high);
    for (uint i = 0; i < 10; i++) {
        uint h0, l0, h1, l1;
        umulExtended(0xD2511F53u, c.x, h0, l0);
        umulExtended(0xCD9E8D57u, c.z, h1, l1);
        c = uvec4(h1 ^ c.y ^ key.x, l1, h0 ^ c.w ^ key.y, l0);
        key += uvec2(0x9E3779B9u, 0xBB67AE85u);
    }
    return c.yx;
}

/* floor(mass * u / 2^64) */
uint64_t random_below(uint64_t mass, uvec2 u)
{
    uint64_t m1 = mass >> 32, m0 = mass & 0xffffffffu, u1 = u.y, u0 = u.x;
    uint64_t middle = m1 * u0 + (m0 * u0 >> 32), other = m0 * u1 + (middle & 0xffffffffu);
    return m1 * u1 + (middle >> 32) + (other >> 32);
}

/* The id at which the running sum exceeds `target`, and its z. before: the sum of the groups of the lanes before. */
uint pick(uint64_t target, uint64_t before, out float ret_z)
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
        mine += line_sum(g + i * SAMPLE_GROUPS);
    before = scan(mine, total);
    if (rest >= before && rest - before < mine) {
        uint line = g + begin * SAMPLE_GROUPS;
        for (rest -= before;; line += SAMPLE_GROUPS) {
            uint64_t sum = line_sum(line);
            if (rest < sum)
                break;
            rest -= sum;
        }
        vec4 x = clean_line(line, read_line(line));
        for (uint i = 0; i < 4; i++) {
            float z = z_of(x[i]);
            uint64_t mass = is_kept(z) ? mass_of(z) : 0;
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

/* NONE: another workgroup goes on. */
uint draw()
{
    const uint per = SAMPLE_GROUPS / SIZE;
    uint64_t all = 0, want = 0, below_sum = 0;
    uint token = 0;
    low = filter_threshold();
    above = MINUS_INF;
    clear_sums();
    find_pivots();
    for (uint round = 0;; round++) {
        if (gl_SubgroupID == 0)
            random = random_bits(round);
        sum_groups(round == 0);
        if (round == 0) {
            below_sum = packUint2x32(uvec2(below_words[0], below_words[1]));
            if (PARTS > 1) {
                put_sums();
                if (!is_last())
                    return NONE;
                below_sum = get_sums();
            }
        }
        uint64_t mine = 0, mine_tail = 0, total, total_tail;
        for (uint i = 0; i < per; i++) {
            mine += words_at(lane * per + i);
            mine_tail += words_at(2 * SAMPLE_GROUPS + lane * per + i);
        }
        uint64_t before = scan(mine, total), before_tail = scan(mine_tail, total_tail);
        if (round == 0) {
            all = total + total_tail;
            want = part_of(all, params.top_p);
        } else if (total < want) {
            break;
        }
        with_tail = total < want;
        if (with_tail) {
            total += total_tail;
            before += before_tail;
        } else if (round == 0) {
            above = tail;
        }
        tail = MINUS_INF;
        float z;
        token = pick(random_below(total, random), before, z);
        bool known = !(params.top_p < 1.0) || (round == 0 && z >= below && all - below_sum < want);
        if (known || !(z < zmax))
            break;
        above = z;
    }
    return token;
}

/* The row's best. False: not yet, or not here, or nothing is to be drawn from it in this stage. */
bool best_stage(bool draws, out uvec2 ret_best)
{
    bool given = p.bests_count > 0, finds = !given && (PARTS == 1 || p.stage == SAMPLE_BEST);
    if (!finds && !draws && (!given || part > 0))
        return false;
    if (given || finds) {
        uvec2 mine = given ? given_best() : find_best();
        ret_best = group_of_best(mine.x, mine.y);
    }
    if (finds && PARTS > 1) {
        put_best(ret_best);
        if (draws || !is_last())
            return false;
    }
    if (!given && PARTS > 1) {
        ret_best = best_of_parts();
        get_group_bests();
        barrier();
    }
    return true;
}

void main()
{
    uint r = gl_WorkGroupID.x;
    find_lane();
    params = Rows(p.params).v[r];
    row = at(p.logits, r, p.n_vocab, 4);
    whole = PLAIN || (AHEAD > 1 && p.n_vocab % 4 == 0 && (uint(row) & 15) == 0);
    lines = p.n_vocab / 4 + (p.n_vocab % 4 != 0 ? 1 : 0);
    scratch = Scratch(at(p.scratch, r, SAMPLE_SCRATCH_WORDS, 4));
    take_part(SPLITS ? gl_WorkGroupID.y : 0, PARTS);
    bool draws = params.temperature > 0.0;
    uvec2 best;
    if (!PLAIN && params.banned_count > 0)
        prepare_banned();
    if (!best_stage(draws, best))
        return;
    inverse_temperature = max(1.0 / params.temperature, 1.17549435e-38); /* 0 * infinity is nothing to compare */
    zmax = z_of(value_of(best.x));
    uint token = best.y;
    /* Minus infinity: all are; infinity: nothing to draw from, the best there is. */
    if (draws && best.x != KEY_NEGATIVE_INF && is_finite(zmax))
        token = draw();
    else if (best.x == KEY_NEGATIVE_INF && part == 0)
        token = find_any();
    if (lane == 0 && part == 0 && token != NONE)
        U32s(p.out_).v[r] = token;
}
