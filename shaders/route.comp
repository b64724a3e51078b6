#version 460
/* One invocation a row: picks the largest logit `used` times. */
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"

layout(local_size_x_id = 0) in;
layout(push_constant) uniform P { PUSH_ROUTE } p;

void main()
{
    uint r = gl_GlobalInvocationID.x;
    if (r >= p.rows)
        return;
    F32s logits = F32s(at(p.logits, r, p.n_expert, 4));
    U32s ids = U32s(at(p.ids, r, p.used, 4));
    F32s weights = F32s(at(p.weights, r, p.used, 4));
    float last = 0.0, largest = 0.0;
    uint last_id = 0;
    precise float sum = 0.0;
    for (uint s = 0; s < p.used; s++) {
        /* The best of those after (last, last_id) in the order "larger first, then lower number". */
        float best = 0.0;
        uint best_id = 0xffffffffu;
        for (uint e = 0; e < p.n_expert; e++) {
            float x = logits.v[e];
            bool after = s == 0 || x < last || (x == last && e > last_id);
            if (after && (best_id == 0xffffffffu || x > best)) {
                best = x;
                best_id = e;
            }
        }
        if (best_id == 0xffffffffu) { /* NaN logits: any expert, so that nothing is read out of bounds */
            best_id = s;
            best = logits.v[s];
        }
        if (s == 0)
            largest = best;
        precise float distance = best - largest;
        float w = exp(distance);
        sum = sum + w;
        weights.v[s] = w;
        ids.v[s] = best_id;
        last = best;
        last_id = best_id;
    }
    for (uint s = 0; s < p.used; s++) {
        precise float w = weights.v[s] / sum;
        weights.v[s] = w;
    }
}
