/* The transformer, top to bottom: records one pass over a ragged batch of rows (tokens of any
 * sequences at any positions). Shapes stand beside the buffers; R = rows of this step, L = rows
 * that get logits.
 *
 * Architecture: pre-norm decoder with grouped-query attention, rotary positions and SwiGLU (Qwen2
 * technical report, arXiv 2407.10671; LLaMA, arXiv 2302.13971). */
#include "base/size.h"
#include "engine/engine_impl.h"

/* What was recorded so far is finished before what follows; its time goes under `name` when
 * profiling. */
static void stage(struct engine *e, const char *name)
{
    gpu_barrier(e->gpu);
    if (e->options.profile)
        gpu_mark(e->gpu, name);
}

static void matmul(struct engine *e, const struct weight *w, const struct weight *bias, uint64_t a,
                   uint64_t residual, uint64_t out, uint32_t out_stride, uint32_t rows)
{
    struct push_matmul p = {.a = a,
                            .w = w->address,
                            .bias = bias != NULL ? bias->address : 0,
                            .residual = residual,
                            .out = out,
                            .rows = rows,
                            .n = w->rows,
                            .k = w->cols,
                            .out_stride = out_stride};
    kernel_matmul(e->kernels, &p, w->type);
}

static void rmsnorm(struct engine *e, uint64_t x, const struct weight *w, uint64_t idx,
                    uint64_t out, uint32_t rows)
{
    const struct model *m = e->model;
    struct push_rmsnorm p = {.x = x,
                             .weight = w->address,
                             .idx = idx,
                             .out = out,
                             .rows = rows,
                             .cols = m->n_embd,
                             .eps = m->rms_eps};
    kernel_rmsnorm(e->kernels, &p);
}

/* attn [R][n_head * head_size] = attention over each row's past; K and V of the rows go into the
 * pages. */
static void attention(struct engine *e, const struct layer_weights *l, uint32_t rows)
{
    const struct model *m = e->model;
    uint64_t step = e->step_device.address;
    uint32_t head = m->head_size;
    uint32_t q_cols = m->n_head * head, kv_cols = m->n_head_kv * head;
    uint32_t qkv_cols = q_cols + 2 * kv_cols;
    uint64_t q = e->qkv.address, k = q + q_cols * sizeof(float), v = k + kv_cols * sizeof(float);

    /* qkv [R][q | k | v] */
    matmul(e, &l->q, &l->q_bias, e->normed.address, 0, q, qkv_cols, rows);
    matmul(e, &l->k, &l->k_bias, e->normed.address, 0, k, qkv_cols, rows);
    matmul(e, &l->v, &l->v_bias, e->normed.address, 0, v, qkv_cols, rows);
    stage(e, "qkv");
    struct push_rope rope = {.qkv = q,
                             .angles = e->angles.address,
                             .pos = step + e->layout.pos,
                             .seq = step + e->layout.seq,
                             .pages = step + e->layout.pages,
                             .kv = l->kv_address,
                             .rows = rows,
                             .n_head = m->n_head,
                             .n_head_kv = m->n_head_kv,
                             .head_size = head,
                             .rope_dims = m->rope_dims,
                             .pages_stride = e->pages_stride,
                             .page_bytes = e->page_bytes};
    kernel_rope(e->kernels, &rope);
    stage(e, "rope");
    struct push_attention att = {.qkv = q,
                                 .pos = rope.pos,
                                 .seq = rope.seq,
                                 .pages = rope.pages,
                                 .kv = l->kv_address,
                                 .out = e->attn.address,
                                 .rows = rows,
                                 .n_head = m->n_head,
                                 .n_head_kv = m->n_head_kv,
                                 .head_size = head,
                                 .qkv_stride = qkv_cols,
                                 .pages_stride = e->pages_stride,
                                 .page_bytes = e->page_bytes,
                                 .scale = e->attention_scale};
    kernel_attention(e->kernels, &att);
    stage(e, "attention");
}

/* x [R][n_embd] += W_down (silu(W_gate normed) * W_up normed) */
static void feed_forward(struct engine *e, const struct layer_weights *l, uint32_t rows)
{
    uint32_t n_ff = e->model->n_ff, n_embd = e->model->n_embd;
    uint64_t gate = e->gate_up.address, up = gate + n_ff * sizeof(float);
    matmul(e, &l->ffn_gate, NULL, e->normed.address, 0, gate, 2 * n_ff, rows);
    matmul(e, &l->ffn_up, NULL, e->normed.address, 0, up, 2 * n_ff, rows);
    stage(e, "gate_up");
    struct push_silu_mul silu = {
        .gate_up = gate, .out = e->hidden.address, .rows = rows, .cols = n_ff};
    kernel_silu_mul(e->kernels, &silu);
    stage(e, "silu_mul");
    matmul(e, &l->ffn_down, NULL, e->hidden.address, e->x.address, e->x.address, n_embd, rows);
    stage(e, "ffn_down");
}

/* logits and sampled ids of the L rows, max_logit_rows at a time. */
static void head(struct engine *e)
{
    const struct model *m = e->model;
    uint64_t step = e->step_device.address;
    for (uint32_t first = 0; first < e->logit_rows; first += e->max_logit_rows) {
        uint32_t count = (uint32_t)min_u64(e->max_logit_rows, e->logit_rows - first);
        rmsnorm(e, e->x.address, &e->weights.output_norm,
                step + e->layout.logit_idx + first * sizeof(uint32_t), e->normed.address, count);
        stage(e, "norm");
        matmul(e, &e->weights.output, NULL, e->normed.address, 0, e->logits.address, m->n_vocab,
               count);
        stage(e, "head");
        struct push_sample sample = {.logits = e->logits.address,
                                     .params = step + e->layout.samples +
                                               first * sizeof(struct sample_row),
                                     .banned = step + e->layout.banned,
                                     .out = e->tokens_device.address + first * sizeof(uint32_t),
                                     .rows = count,
                                     .n_vocab = m->n_vocab};
        kernel_sample(e->kernels, &sample);
        if (e->options.logits_fn != NULL) {
            uint64_t row_bytes = (uint64_t)m->n_vocab * sizeof(float);
            gpu_copy(e->gpu, &e->logits, 0, &e->logits_host, first * row_bytes, count * row_bytes);
        }
        stage(e, "sample");
    }
}

void forward_record(struct engine *e)
{
    const struct model *m = e->model;
    uint32_t rows = e->plan.rows_count; /* R */

    struct push_embed embed = {.table = e->weights.token_embd.address,
                               .ids = e->step_device.address + e->layout.ids,
                               .out = e->x.address,
                               .rows = rows,
                               .n_embd = m->n_embd,
                               .n_vocab = m->n_vocab};
    kernel_embed(e->kernels, &embed, e->weights.token_embd.type); /* x [R][n_embd] */
    stage(e, "embed");
    for (uint32_t i = 0; i < m->n_layer; i++) {
        const struct layer_weights *l = &e->weights.layers[i];
        rmsnorm(e, e->x.address, &l->attn_norm, 0, e->normed.address,
                rows); /* normed [R][n_embd] */
        stage(e, "norm");
        attention(e, l, rows); /* attn [R][n_head * head_size] */
        matmul(e, &l->attn_output, NULL, e->attn.address, e->x.address, e->x.address, m->n_embd,
               rows);
        stage(e, "attn_output");
        rmsnorm(e, e->x.address, &l->ffn_norm, 0, e->normed.address, rows);
        stage(e, "norm");
        feed_forward(e, l, rows);
    }
    head(e); /* logits [L][n_vocab] -> tokens [L] */
}
