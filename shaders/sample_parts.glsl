/* A row's workgroups (sample.comp): which groups are whose, and what they hand on. Who includes this has `words`,
 * `group_best` and `below_words`, and a shared found_index. */
#ifndef OCTO_SAMPLE_PARTS_GLSL
#define OCTO_SAMPLE_PARTS_GLSL

#extension GL_KHR_memory_scope_semantics : require

/* What a row's workgroups hand on, by the place of its words. */
const uint ARRIVED = 0, PART_BEST = 4, PART_BELOW = PART_BEST + 2 * SAMPLE_MOST_PARTS,
           GROUP_BEST = PART_BELOW + 2 * SAMPLE_MOST_PARTS, SUMS = GROUP_BEST + SAMPLE_GROUPS;
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
    const int buffers = gl_StorageSemanticsBuffer;
    controlBarrier(gl_ScopeWorkgroup, gl_ScopeWorkgroup, buffers, gl_SemanticsAcquireRelease);
    if (lane == 0) {
        memoryBarrier(gl_ScopeDevice, buffers, gl_SemanticsAcquireRelease);
        found_index = atomicAdd(scratch.v[ARRIVED], 1);
        if (found_index + 1 == PARTS)
            scratch.v[ARRIVED] = 0;
        memoryBarrier(gl_ScopeDevice, buffers, gl_SemanticsAcquireRelease);
    }
    controlBarrier(gl_ScopeWorkgroup, gl_ScopeWorkgroup, buffers | gl_StorageSemanticsShared,
                   gl_SemanticsAcquireRelease);
    if (found_index + 1 < PARTS)
        return false;
    take_part(0, 1);
    return true;
}

void put_group_bests()
{
    for (uint g = first_group + lane; g < end_group; g += SIZE)
        scratch.v[GROUP_BEST + g] = group_best[g];
}

void get_group_bests()
{
    for (uint g = lane; g < SAMPLE_GROUPS; g += SIZE)
        group_best[g] = scratch.v[GROUP_BEST + g];
}

void put_sums()
{
    for (uint g = first_group + lane; g < end_group; g += SIZE)
        [[unroll]] for (uint i = 0; i < 4; i++)
            scratch.v[SUMS + i * SAMPLE_GROUPS + g] = words[i * SAMPLE_GROUPS + g];
    if (lane < 2)
        scratch.v[PART_BELOW + 2 * part + lane] = below_words[lane];
    if (p.bests_count > 0)
        put_group_bests();
}

/* Returns what is up to the second pivot, of all parts. */
uint64_t get_sums()
{
    uint64_t sum = 0;
    for (uint i = lane; i < 4 * SAMPLE_GROUPS; i += SIZE)
        words[i] = scratch.v[SUMS + i];
    for (uint i = gl_SubgroupInvocationID; i < PARTS; i += subgroup_lanes)
        sum += packUint2x32(uvec2(scratch.v[PART_BELOW + 2 * i], scratch.v[PART_BELOW + 2 * i + 1]));
    if (p.bests_count > 0)
        get_group_bests();
    barrier();
    return join(subgroupAdd(split(sum)));
}

void put_best(uvec2 best)
{
    put_group_bests();
    if (lane == 0) {
        scratch.v[PART_BEST + 2 * part] = best.x;
        scratch.v[PART_BEST + 2 * part + 1] = best.y;
    }
}

/* By every subgroup for itself. */
uvec2 best_of_parts()
{
    uvec2 best = uvec2(0, NONE);
    for (uint i = gl_SubgroupInvocationID; i < PARTS; i += subgroup_lanes)
        best = better(best, uvec2(scratch.v[PART_BEST + 2 * i], scratch.v[PART_BEST + 2 * i + 1]));
    return subgroup_best(best);
}

/* This invocation's of those that the head left. */
uvec2 given_best()
{
    U32x2s bests = U32x2s(at(p.bests, gl_WorkGroupID.x, p.bests_count, 8));
    uvec2 best = uvec2(0, NONE);
    for (uint i = lane; i < p.bests_count; i += SIZE)
        best = better(best, bests.v[i]);
    return best;
}
#endif
