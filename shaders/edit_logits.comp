#version 460
/* Logit bias and penalties of the rows that have some (push.h has the formula), and the way back. */
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"

layout(local_size_x_id = 0) in;
layout(push_constant) uniform P { PUSH_EDIT_LOGITS } p;

struct row_params { SAMPLE_ROW };
struct logit_edit { LOGIT_EDIT };
layout(buffer_reference, std430, buffer_reference_align = 4) readonly buffer Rows { row_params v[]; };
layout(buffer_reference, std430, buffer_reference_align = 4) buffer Edits { logit_edit v[]; };

void main()
{
    uint r = gl_WorkGroupID.x;
    row_params params = Rows(p.params).v[r];
    F32s logits = F32s(at(p.logits, r, p.n_vocab, 4));
    Edits edits = Edits(p.edits);
    for (uint i = gl_LocalInvocationID.x; i < params.edits_count; i += gl_WorkGroupSize.x) {
        uint n = params.edits_begin + i;
        logit_edit e = edits.v[n];
        if (e.id >= p.n_vocab)
            continue;
        if (p.restore != 0) {
            logits.v[e.id] = e.raw;
            continue;
        }
        precise float x = logits.v[e.id];
        edits.v[n].raw = x;
        x = x + e.bias;
        if (e.seen != 0 && params.repetition_penalty != 1.0)
            x = x > 0.0 ? x / params.repetition_penalty : x * params.repetition_penalty;
        uint count = e.seen & ~EDIT_IN_PROMPT;
        if (count > 0) {
            precise float much = params.frequency_penalty * float(count);
            x = x - much;
            x = x - params.presence_penalty;
        }
        logits.v[e.id] = x;
    }
}
