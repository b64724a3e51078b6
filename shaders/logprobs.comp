#version 460
/* One workgroup gives one row's log-probabilities. The sum of exponentials: each invocation adds up every SIZE-th value
 * in ascending order, a tree of halves adds the invocations'. SIZE is a constant of the build, so the bits depend on
 * the row's logits alone. The likeliest ids: one pass over the row for each, the best that comes after the last. */
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"

layout(local_size_x_id = 0) in; /* a power of two, at most MAX_SIZE */
layout(push_constant) uniform P { PUSH_LOGPROBS } p;

struct row_params { SAMPLE_ROW };
layout(buffer_reference, std430, buffer_reference_align = 4) readonly buffer Rows { row_params v[]; };

const uint SIZE = gl_WorkGroupSize.x, MAX_SIZE = 256;
const uint ROW_WORDS = 1 + 2 * MAX_TOP_LOGPROBS, NONE = 0xffffffffu;

shared float sums[MAX_SIZE];
shared float best_value[MAX_SIZE];
shared uint best_id[MAX_SIZE];

F32s logits;

float value(uint id)
{
    float x = logits.v[id];
    return (floatBitsToUint(x) & 0x7fffffffu) > 0x7f800000u ? MINUS_INF : x;
}

bool before(float a, uint a_id, float b, uint b_id)
{
    return a > b || (a == b && a_id < b_id);
}

/* The first id, by descending value, then ascending id, after (last, last_id); NONE when there is no more. */
uint find_next(float last, uint last_id, out float ret_value)
{
    uint lane = gl_LocalInvocationID.x;
    float best = MINUS_INF;
    uint id_best = NONE;
    for (uint id = lane; id < p.n_vocab; id += SIZE) {
        float x = value(id);
        if ((last_id == NONE || before(last, last_id, x, id)) && before(x, id, best, id_best)) {
            best = x;
            id_best = id;
        }
    }
    best_value[lane] = best;
    best_id[lane] = id_best;
    barrier();
    for (uint half_size = SIZE / 2; half_size > 0; half_size /= 2) {
        if (lane < half_size &&
            before(best_value[lane + half_size], best_id[lane + half_size], best_value[lane], best_id[lane])) {
            best_value[lane] = best_value[lane + half_size];
            best_id[lane] = best_id[lane + half_size];
        }
        barrier();
    }
    ret_value = best_value[0];
    uint found = best_id[0];
    barrier();
    return found;
}

/* log(sum of exp(x - most)) */
float log_sum(float most)
{
    uint lane = gl_LocalInvocationID.x;
    precise float sum = 0.0;
    for (uint id = lane; id < p.n_vocab; id += SIZE) {
        precise float distance = value(id) - most;
        sum += exp(distance);
    }
    sums[lane] = sum;
    barrier();
    for (uint half_size = SIZE / 2; half_size > 0; half_size /= 2) {
        if (lane < half_size) {
            precise float both = sums[lane] + sums[lane + half_size];
            sums[lane] = both;
        }
        barrier();
    }
    return log(sums[0]);
}

float logprob(float x, float most, float rest)
{
    precise float distance = x - most;
    precise float result = distance - rest;
    return result;
}

void main()
{
    uint r = gl_WorkGroupID.x;
    uint wanted = Rows(p.params).v[r].logprobs;
    if (wanted == 0)
        return;
    logits = F32s(at(p.logits, r, p.n_vocab, 4));
    F32s out_values = F32s(at(p.out_, r, ROW_WORDS, 4));
    U32s out_ids = U32s(at(p.out_, r, ROW_WORDS, 4));
    float most, x;
    uint id = find_next(0.0, NONE, most);
    float rest = log_sum(most);
    bool first = gl_LocalInvocationID.x == 0;
    uint token = U32s(p.tokens).v[r];
    if (first)
        out_values.v[0] = logprob(token < p.n_vocab ? value(token) : MINUS_INF, most, rest);
    x = most;
    uint count = min(wanted - 1, MAX_TOP_LOGPROBS);
    for (uint i = 0; i < count; i++) {
        if (first) {
            out_ids.v[1 + i] = id;
            out_values.v[1 + MAX_TOP_LOGPROBS + i] = id == NONE ? MINUS_INF : logprob(x, most, rest);
        }
        if (id != NONE && i + 1 < count)
            id = find_next(x, id, x);
    }
}
