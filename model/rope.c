/* RoPE angles (Su et al. 2021, RoFormer) with the scalings GGUF files ask for. */
#include <math.h>
#include <string.h>

#include "model/model.h"

/* YaRN (arXiv 2309.00071): the pair that turns `turns` times over the original context. */
static double yarn_pair(const struct model_rope *r, uint32_t dims, double turns)
{
    return dims * log(r->original_ctx / (turns * 2 * M_PI)) / (2 * log(r->base));
}

/* How much of the unscaled frequency pair i keeps: 1 for fast pairs, 0 for slow ones. */
static double yarn_kept(const struct model_rope *r, uint32_t dims, uint32_t i)
{
    double low = fmax(0, floor(yarn_pair(r, dims, r->beta_fast)));
    double high = fmin(dims - 1, ceil(yarn_pair(r, dims, r->beta_slow)));
    double ramp = (i - low) / fmax(0.001, high - low);
    return 1 - fmin(1, fmax(0, ramp));
}

void model_rope_angles(const struct model *m, const struct model_rope *r, uint32_t max_ctx,
                       float (*ret)[2])
{
    uint32_t half = m->rope_dims / 2;
    const struct gguf_tensor *factors = r->factors;
    if (r->factors_long != NULL && max_ctx > r->original_ctx)
        factors = r->factors_long;
    /* With every scaling: Phi 3's files name none and have factors and a magnitude. */
    double magnitude = r->attn_factor;
    if (r->scaling == ROPE_YARN)
        magnitude *= 1 + 0.1 * log(r->factor);
    for (uint32_t i = 0; i < half; i++) {
        double frequency = pow(r->base, -2.0 * i / m->rope_dims);
        if (factors != NULL) {
            float f;
            memcpy(&f, factors->data + i * sizeof(f), sizeof(f));
            frequency /= f;
        }
        if (r->scaling == ROPE_LINEAR)
            frequency /= r->factor;
        if (r->scaling == ROPE_YARN) {
            double kept = yarn_kept(r, m->rope_dims, i);
            frequency = frequency / r->factor * (1 - kept) + frequency * kept;
        }
        for (uint32_t pos = 0; pos < max_ctx; pos++) {
            ret[(uint64_t)pos * half + i][0] = (float)(cos(pos * frequency) * magnitude);
            ret[(uint64_t)pos * half + i][1] = (float)(sin(pos * frequency) * magnitude);
        }
    }
}
