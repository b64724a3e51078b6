/* The transformer, top to bottom: records one pass over a ragged batch of rows (tokens of any
 * sequences at any positions). Shapes stand beside the buffers; R = rows of this step, L = rows
 * that get logits.
 *
 * Pre-norm decoders with grouped-query attention, rotary positions and gated feed-forward networks
 * (LLaMA, arXiv 2302.13971; Qwen2, 2407.10671; Gemma 2, 2408.00118; Mixtral, 2401.04088). What
 * differs between architectures is data in struct model: a tensor that is there or not, a scale, a
 * cap. */
#include "base/size.h"
#include "engine/engine_impl.h"

void forward_stage(struct engine *e, const char *name)
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

void forward_rmsnorm(struct engine *e, uint64_t x, const struct weight *w, uint64_t idx,
                     uint64_t residual, uint64_t out, uint32_t rows)
{
    const struct model *m = e->model;
    struct push_rmsnorm p = {.x = x,
                             .weight = w->address,
                             .idx = idx,
                             .residual = residual,
                             .out = out,
                             .rows = rows,
                             .cols = m->n_embd,
                             .eps = m->rms_eps};
    kernel_rmsnorm(e->kernels, &p);
}

/* Each of `heads` heads of a row of qkv by itself, in place. */
static void head_norm(struct engine *e, uint64_t x, const struct weight *w, uint32_t heads,
                      uint32_t stride, uint32_t rows)
{
    struct push_rmsnorm p = {.x = x,
                             .weight = w->address,
                             .out = x,
                             .rows = rows * heads,
                             .cols = e->model->head_size,
                             .heads = heads,
                             .stride = stride,
                             .eps = e->model->rms_eps};
    kernel_rmsnorm(e->kernels, &p);
}

/* x [R][n_embd] += W a, or += norm(W a) where the architecture norms a block's output. */
static void add_to_stream(struct engine *e, const struct weight *w, const struct weight *bias,
                          uint64_t a, const struct weight *post_norm, const char *name,
                          uint32_t rows)
{
    uint64_t x = e->x.address, y = e->normed.address;
    bool post = post_norm->address != 0;
    matmul(e, w, bias, a, post ? 0 : x, post ? y : x, e->model->n_embd, rows);
    forward_stage(e, name);
    if (!post)
        return;
    forward_rmsnorm(e, y, post_norm, 0, x, x, rows);
    forward_stage(e, "norm");
}

void forward_head_norms(struct engine *e, const struct layer_weights *l, uint32_t rows)
{
    const struct model *m = e->model;
    uint32_t q_cols = m->n_head * m->head_size, stride = q_cols + 2 * m->n_head_kv * m->head_size;
    uint64_t q = e->qkv.address, k = q + q_cols * sizeof(float);
    if (l->q_norm.address == 0)
        return;
    head_norm(e, q, &l->q_norm, m->n_head, stride, rows);
    head_norm(e, k, &l->k_norm, m->n_head_kv, stride, rows);
    forward_stage(e, "norm");
}

/* qkv [R][q | k | v] from normed [R][n_embd] */
static void project_qkv(struct engine *e, const struct layer_weights *l, uint32_t rows)
{
    const struct model *m = e->model;
    uint32_t q_cols = m->n_head * m->head_size, kv_cols = m->n_head_kv * m->head_size;
    uint32_t stride = q_cols + 2 * kv_cols;
    uint64_t in = e->normed.address, q = e->qkv.address;
    uint64_t k = q + q_cols * sizeof(float), v = k + kv_cols * sizeof(float);
    if (l->qkv.address != 0) {
        matmul(e, &l->qkv, NULL, in, 0, q, stride, rows);
    } else {
        matmul(e, &l->q, &l->q_bias, in, 0, q, stride, rows);
        matmul(e, &l->k, &l->k_bias, in, 0, k, stride, rows);
        matmul(e, &l->v, &l->v_bias, in, 0, v, stride, rows);
    }
    forward_stage(e, "qkv");
}

/* attn [R][n_head * head_size] = attention over each row's past; K and V of the rows go into the
 * pages. */
static void attention(struct engine *e, const struct layer_weights *l, uint32_t rows)
{
    const struct model *m = e->model;
    uint64_t step = e->step_input;
    struct push_rope rope = {.qkv = e->qkv.address,
                             .angles = l->local ? e->angles_local.address : e->angles.address,
                             .pos = step + e->layout.pos,
                             .seq = step + e->layout.seq,
                             .pages = step + e->layout.pages,
                             .kv = l->kv_address,
                             .rows = rows,
                             .n_head = m->n_head,
                             .n_head_kv = m->n_head_kv,
                             .head_size = m->head_size,
                             .rope_dims = m->rope_dims,
                             .pages_stride = e->step_stride,
                             .page_bytes = e->page_bytes,
                             .adjacent = m->rope_pairs_adjacent};
    kernel_rope(e->kernels, &rope);
    forward_stage(e, "rope");
    struct push_attention att = {.qkv = rope.qkv,
                                 .pos = rope.pos,
                                 .seq = rope.seq,
                                 .pages = rope.pages,
                                 .kv = l->kv_address,
                                 .out = e->attn.address,
                                 .rows = rows,
                                 .n_head = m->n_head,
                                 .n_head_kv = m->n_head_kv,
                                 .head_size = m->head_size,
                                 .qkv_stride = (m->n_head + 2 * m->n_head_kv) * m->head_size,
                                 .pages_stride = e->step_stride,
                                 .page_bytes = e->page_bytes,
                                 .scale = m->attn_scale,
                                 .softcap = m->attn_softcap,
                                 .window = l->local ? m->window : 0};
    kernel_attention(e->kernels, &att);
    forward_stage(e, "attention");
}

/* hidden [rows][n_ff] = act(gate) * up, from gate_up [rows][gate | up] */
void forward_activate(struct engine *e, uint32_t n_ff, uint32_t rows)
{
    struct push_silu_mul p = {.gate_up = e->gate_up.address,
                              .out = e->hidden.address,
                              .rows = rows,
                              .cols = n_ff,
                              .gelu = e->model->activation == MODEL_GELU};
    kernel_silu_mul(e->kernels, &p);
    forward_stage(e, "activation");
}

/* x [R][n_embd] += W_down (act(W_gate normed) * W_up normed) */
static void feed_forward(struct engine *e, const struct layer_weights *l, uint32_t rows)
{
    uint32_t n_ff = e->model->n_ff;
    uint64_t gate = e->gate_up.address, up = gate + n_ff * sizeof(float);
    if (l->ffn_gate_up.address != 0) {
        matmul(e, &l->ffn_gate_up, NULL, e->normed.address, 0, gate, 2 * n_ff, rows);
    } else {
        matmul(e, &l->ffn_gate, NULL, e->normed.address, 0, gate, 2 * n_ff, rows);
        matmul(e, &l->ffn_up, NULL, e->normed.address, 0, up, 2 * n_ff, rows);
    }
    forward_stage(e, "gate_up");
    forward_activate(e, n_ff, rows);
    add_to_stream(e, &l->ffn_down, NULL, e->hidden.address, &l->ffn_post_norm, "ffn_down", rows);
}

static void expert_matmul(struct engine *e, const struct weight *w, uint64_t a, uint32_t a_share,
                          uint64_t out, uint32_t out_stride, uint32_t tiles)
{
    struct push_matmul p = {.a = a,
                            .w = w->address,
                            .out = out,
                            .tiles = e->expert_tiles.address,
                            .pairs = e->expert_pairs.address,
                            .n = w->rows / e->model->n_expert,
                            .k = w->cols,
                            .out_stride = out_stride,
                            .a_share = a_share};
    kernel_expert_matmul(e->kernels, &p, w->type, tiles);
}

/* x [R][n_embd] += sum over a row's experts of weight * expert(normed row); P = R * n_expert_used
 * pairs of a row and an expert, worked on expert by expert. */
void forward_mixture_of_experts(struct engine *e, const struct layer_weights *l, uint32_t rows)
{
    const struct model *m = e->model;
    uint32_t used = m->n_expert_used, n_ff = m->n_ff_expert, pairs = rows * used;
    uint32_t tiles = kernel_expert_tiles_count(pairs, m->n_expert);
    uint64_t gate = e->gate_up.address, up = gate + n_ff * sizeof(float);
    matmul(e, &l->ffn_router, NULL, e->normed.address, 0, e->router.address, m->n_expert, rows);
    forward_stage(e, "router");
    struct push_route route = {.logits = e->router.address,
                               .ids = e->expert_ids.address,
                               .weights = e->expert_weights.address,
                               .rows = rows,
                               .n_expert = m->n_expert,
                               .used = used};
    kernel_route(e->kernels, &route);
    forward_stage(e, "router");
    struct push_expert_tiles sort = {.ids = route.ids,
                                     .list = e->expert_pairs.address,
                                     .tiles = e->expert_tiles.address,
                                     .pairs = pairs,
                                     .n_expert = m->n_expert,
                                     .tiles_count = tiles};
    kernel_expert_tiles(e->kernels, &sort);
    forward_stage(e, "router");
    /* gate_up [P][gate | up], hidden [P][n_ff], expert_out [P][n_embd] */
    expert_matmul(e, &l->ffn_gate_exps, e->normed.address, used, gate, 2 * n_ff, tiles);
    expert_matmul(e, &l->ffn_up_exps, e->normed.address, used, up, 2 * n_ff, tiles);
    forward_stage(e, "gate_up");
    forward_activate(e, n_ff, pairs);
    expert_matmul(e, &l->ffn_down_exps, e->hidden.address, 1, e->expert_out.address, m->n_embd,
                  tiles);
    forward_stage(e, "ffn_down");
    struct push_combine combine = {.y = e->expert_out.address,
                                   .weights = route.weights,
                                   .out = e->x.address,
                                   .rows = rows,
                                   .cols = m->n_embd,
                                   .used = used};
    kernel_combine(e->kernels, &combine);
    forward_stage(e, "combine");
}

/* Token ids and log-probabilities of `count` rows of logits, of which the head left so many bests
 * each. Log-probabilities are those of the logits as they came from the model: what bias and
 * penalties changed is put back before. */
static void sample(struct engine *e, uint32_t first, uint32_t count, uint32_t bests)
{
    uint64_t step = e->step_input;
    struct push_sample draw = {.logits = e->logits.address,
                               .params =
                                   step + e->layout.samples + first * sizeof(struct sample_row),
                               .banned = step + e->layout.banned,
                               .out = e->tokens_device.address + first * sizeof(uint32_t),
                               .scratch = e->sample_scratch.address,
                               .bests = e->bests.address,
                               .bests_count = bests,
                               .rows = count,
                               .n_vocab = e->model->n_vocab};
    struct push_edit_logits edit = {.logits = draw.logits,
                                    .params = draw.params,
                                    .edits = step + e->layout.edits,
                                    .rows = count,
                                    .n_vocab = draw.n_vocab};
    if (e->edits_count > 0) {
        kernel_edit_logits(e->kernels, &edit);
        forward_stage(e, "sample");
    }
    kernel_sample(e->kernels, &draw, e->draw_rows > 0, e->filter_rows == 0);
    if (e->logprob_rows == 0)
        return;
    forward_stage(e, "sample");
    if (e->edits_count > 0) {
        edit.restore = 1;
        kernel_edit_logits(e->kernels, &edit);
        forward_stage(e, "sample");
    }
    struct push_logprobs p = {.logits = draw.logits,
                              .params = draw.params,
                              .tokens = draw.out,
                              .out =
                                  e->logprobs_device.address + first * sizeof(struct logprob_row),
                              .rows = count,
                              .n_vocab = draw.n_vocab};
    kernel_logprobs(e->kernels, &p);
}

/* logits and sampled ids of the L rows, max_logit_rows at a time. */
static void head(struct engine *e)
{
    const struct model *m = e->model;
    uint64_t step = e->step_input;
    for (uint32_t first = 0; first < e->logit_rows; first += e->max_logit_rows) {
        uint32_t count = (uint32_t)min_u64(e->max_logit_rows, e->logit_rows - first);
        uint64_t idx = step + e->layout.logit_idx + first * sizeof(uint32_t);
        uint32_t bests = 0;
        if (e->matrix != NULL) {
            bests = forward_matrix_logits(e, idx, count);
        } else {
            forward_rmsnorm(e, e->x.address, &e->weights.output_norm, idx, 0, e->normed.address,
                            count);
            forward_stage(e, "norm");
            matmul(e, &e->weights.output, NULL, e->normed.address, 0, e->logits.address, m->n_vocab,
                   count);
            forward_stage(e, "head");
        }
        if (m->logit_softcap != 0) {
            struct push_softcap cap = {
                .x = e->logits.address, .count = count * m->n_vocab, .cap = m->logit_softcap};
            kernel_softcap(e->kernels, &cap);
            forward_stage(e, "head");
        }
        if (e->options.logits_fn != NULL) {
            uint64_t row_bytes = (uint64_t)m->n_vocab * sizeof(float);
            gpu_copy(e->gpu, &e->logits, 0, &e->logits_host, first * row_bytes, count * row_bytes);
            forward_stage(e, "sample");
        }
        sample(e, first, count, bests);
        forward_stage(e, "sample");
    }
}

static void layer(struct engine *e, const struct layer_weights *l, uint32_t rows)
{
    forward_rmsnorm(e, e->x.address, &l->attn_norm, 0, 0, e->normed.address, rows);
    forward_stage(e, "norm"); /* normed [R][n_embd] */
    project_qkv(e, l, rows);
    forward_head_norms(e, l, rows);
    attention(e, l, rows); /* attn [R][n_head * head_size] */
    add_to_stream(e, &l->attn_output, &l->attn_output_bias, e->attn.address, &l->attn_post_norm,
                  "attn_output", rows);
    forward_rmsnorm(e, e->x.address, &l->ffn_norm, 0, 0, e->normed.address, rows);
    forward_stage(e, "norm");
    if (e->model->n_expert > 0)
        forward_mixture_of_experts(e, l, rows);
    else
        feed_forward(e, l, rows);
}

void forward_record(struct engine *e)
{
    const struct model *m = e->model;
    uint32_t rows = e->plan.rows_count; /* R */

    gpu_chain(e->gpu, rows <= e->tuning.chain_rows); /* more work hides a barrier */
    struct push_embed embed = {.table = e->weights.token_embd.address,
                               .ids = e->step_input + e->layout.ids,
                               .drawn = e->tokens_device.address,
                               .out = e->x.address,
                               .rows = rows,
                               .n_embd = m->n_embd,
                               .n_vocab = m->n_vocab,
                               .scale = m->embd_scale};
    kernel_embed(e->kernels, &embed, e->weights.token_embd.type); /* x [R][n_embd] */
    forward_stage(e, "embed");
    for (uint32_t i = 0; i < m->n_layer; i++) {
        if (e->matrix != NULL)
            forward_matrix_layer(e, &e->weights.layers[i], rows);
        else
            layer(e, &e->weights.layers[i], rows);
    }
    head(e); /* logits [L][n_vocab] -> tokens [L] */
}
