/* What a step has to move and to compute, from the model's shapes alone: the roofline's input. */
#ifndef OCTO_BENCH_COST_H
#define OCTO_BENCH_COST_H

#include "model/model.h"

struct step_cost {
    double weight_bytes; /* each read once */
    double kv_bytes;     /* f16; read, and the new rows written */
    double logits_bytes; /* F32; written once, read once */
    double bytes;        /* weight_bytes + kv_bytes + logits_bytes: the least */
    double flops;        /* of matrix products: 2 for a multiplication and an addition */
};
/* `rows` tokens, each seeing `context` tokens; `samples` rows get logits. tiles: weights are read
 * as f16, not as the file has them. */
void cost_of_step(const struct model *m, bool tiles, double rows, double context, double samples,
                  struct step_cost *ret);
/* A prompt of `tokens` tokens, computed in steps of up to `chunk`. */
void cost_of_prompt(const struct model *m, bool tiles, double tokens, double chunk,
                    struct step_cost *ret);

#endif
