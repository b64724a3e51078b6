/* A row's workgroups (sample.comp): which groups are whose, and what they hand on. Who includes this has `words` and
 * `group_best`, and a shared found_index. */
#ifndef OCTO_SAMPLE_PARTS_GLSL
#define OCTO_SAMPLE_PARTS_GLSL

/* What a row's workgroups hand on, by the place of its words. */
const uint ARRIVED = 0, LOW = 1, PIVOT = 2, PART_BEST = 4, PART_TAIL = PART_BEST + 2 * SAMPLE_MOST_PARTS,
           GROUP_BEST = PART_TAIL + 2 * SAMPLE_MOST_PARTS, SUMS = GROUP_BEST + SAMPLE_GROUPS,
           SUMS_ABOVE = SUMS + 2 * SAMPLE_GROUPS;
layout(buffer_reference, std430, buffer_reference_align = 4) coherent buffer Scratch { uint v[]; };

/* Of a row. For a CPU, which runs both sides of a branch, there is none. */
const bool SPLITS = AHEAD > 1;
#define PARTS (SPLITS ? gl_NumWorkGroups.y : 1)

Scratch scratch;
uint part, first_group, end_group; /* this workgroup's */
uint sharers;                      /* invocations that share a group: each takes every n-th of its lines */
uint own_group, share;             /* this invocation's; end_group: none */

void take_part(uint number, uint parts)
{
    part = number;
    first_group = SAMPLE_GROUPS * number / parts;
    end_group = SAMPLE_GROUPS * (number + 1) / parts;
    uint groups = end_group - first_group;
    sharers = SPLITS ? max(SIZE / groups, 1) : 1;
    share = lane / groups;
    own_group = share < sharers ? first_group + lane % groups : end_group;
}

/* True in the last of the row's workgroups to come here: it goes on alone, and sees what the others wrote. */
bool is_last()
{
    memoryBarrierBuffer();
    barrier();
    if (lane == 0) {
        found_index = atomicAdd(scratch.v[ARRIVED], 1);
        if (found_index + 1 == PARTS)
            scratch.v[ARRIVED] = 0;
    }
    barrier();
    memoryBarrierBuffer();
    if (found_index + 1 < PARTS)
        return false;
    take_part(0, 1);
    return true;
}

void put_sums(uint at)
{
    for (uint g = first_group + lane; g < end_group; g += SIZE) {
        scratch.v[at + g] = words[g];
        scratch.v[at + SAMPLE_GROUPS + g] = words[SAMPLE_GROUPS + g];
    }
}

void get_sums(uint at)
{
    for (uint i = lane; i < 2 * SAMPLE_GROUPS; i += SIZE)
        words[i] = scratch.v[at + i];
    barrier();
}

void put_best(uvec2 best)
{
    for (uint g = first_group + lane; g < end_group; g += SIZE)
        scratch.v[GROUP_BEST + g] = group_best[g];
    if (lane == 0) {
        scratch.v[PART_BEST + 2 * part] = best.x;
        scratch.v[PART_BEST + 2 * part + 1] = best.y;
    }
}

uvec2 get_best()
{
    uvec2 best = uvec2(0, NONE);
    for (uint i = lane; i < PARTS; i += SIZE) {
        uvec2 one = uvec2(scratch.v[PART_BEST + 2 * i], scratch.v[PART_BEST + 2 * i + 1]);
        if (one.x > best.x || (one.x == best.x && one.y < best.y))
            best = one;
    }
    for (uint g = lane; g < SAMPLE_GROUPS; g += SIZE)
        group_best[g] = scratch.v[GROUP_BEST + g];
    return group_of_best(best.x, best.y);
}
#endif
