/* What a step has to move and to compute; see cost.h. */
#include "bench/cost.h"

#include <math.h>

#include "base/size.h"

struct matrices {
    double values, bytes;
};

static void add(struct matrices *m, const struct gguf_tensor *t, double share)
{
    if (t == NULL)
        return;
    double values = 1;
    for (size_t i = 0; i < ARRAY_LEN(t->dims); i++)
        values *= (double)t->dims[i];
    m->values += share * values;
    m->bytes += share * (double)t->bytes;
}

/* read: what a step of `rows` reads; used: what one row multiplies with. */
static void add_layer(const struct model *m, const struct model_layer *l, double rows,
                      struct matrices *read, struct matrices *used)
{
    const struct gguf_tensor *dense[] = {l->attn_qkv,    l->attn_q,      l->attn_k,   l->attn_v,
                                         l->attn_output, l->ffn_gate_up, l->ffn_gate, l->ffn_up,
                                         l->ffn_down,    l->ffn_router};
    const struct gguf_tensor *experts[] = {l->ffn_gate_exps, l->ffn_up_exps, l->ffn_down_exps};
    for (size_t i = 0; i < ARRAY_LEN(dense); i++) {
        add(read, dense[i], 1);
        add(used, dense[i], 1);
    }
    if (m->n_expert == 0)
        return;
    /* Experts that some row takes, were they drawn evenly. */
    double share = (double)m->n_expert_used / m->n_expert;
    for (size_t i = 0; i < ARRAY_LEN(experts); i++) {
        add(read, experts[i], 1 - pow(1 - share, rows));
        add(used, experts[i], share);
    }
}

void cost_of_step(const struct model *m, bool tiles, double rows, double context, double samples,
                  struct step_cost *ret)
{
    struct matrices read = {0}, used = {0}, head = {0};
    struct step_cost c = {0};
    double kv_row = 2.0 * m->n_head_kv * m->head_size * 2;
    for (uint32_t i = 0; i < m->n_layer; i++) {
        double seen = m->layers[i].local ? fmin(context, m->window) : context;
        add_layer(m, &m->layers[i], rows, &read, &used);
        c.kv_bytes += rows * (seen + 1) * kv_row;
        c.flops += 4.0 * rows * seen * m->n_head * m->head_size;
    }
    if (samples > 0)
        add(&head, m->output, 1);
    c.flops += 2 * (rows * used.values + samples * head.values);
    c.weight_bytes = tiles ? 2 * (read.values + head.values) : read.bytes + head.bytes;
    c.logits_bytes = samples * m->n_vocab * 4.0 * 2;
    c.bytes = c.weight_bytes + c.kv_bytes + c.logits_bytes;
    *ret = c;
}

void cost_of_prompt(const struct model *m, bool tiles, double tokens, double chunk,
                    struct step_cost *ret)
{
    struct step_cost sum = {0};
    for (double done = 0; done < tokens; done += chunk) {
        double rows = fmin(chunk, tokens - done), kv_row = 2.0 * m->n_head_kv * m->head_size * 2;
        struct step_cost c;
        cost_of_step(m, tiles, rows, done + rows / 2, done + rows >= tokens ? 1 : 0, &c);
        /* Rows of one sequence share what they read. */
        c.kv_bytes = m->n_layer * kv_row * (done + 2 * rows);
        sum.weight_bytes += c.weight_bytes;
        sum.kv_bytes += c.kv_bytes;
        sum.logits_bytes += c.logits_bytes;
        sum.bytes += c.weight_bytes + c.kv_bytes + c.logits_bytes;
        sum.flops += c.flops;
    }
    *ret = sum;
}
