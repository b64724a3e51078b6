/* A layer on matrix units; the rest of the pass is forward.c's. Activations that a matmul reads are
 * f16 row tiles (shaders/matrix.glsl), made where their values are: by the norm, by attention, by
 * the gated matmul. The residual stream x stays F32. R: rows of this step. */
#include "base/size.h"
#include "engine/engine_impl.h"

/* In band a stage waits by count at least for what its layer's attention waited for, the
 * projections (shaders/chain.glsl), or those of the layer before. So many stages lie between: qkv,
 * attention, attn_output, norm, gate_up, ffn_down, norm. A matmul behind a norm waits for what the
 * norm does: its many workgroups would look for rows all the time that attention takes, and slow it
 * down (bench/NOTES.md). */
enum { LAYER_BEHIND = 5, OUTPUT_BEHIND = 1, NORM_BEHIND = 2, NORMED_BEHIND = 1, DOWN_BEHIND = 4 };

/* Attention rehearses where it has so few workgroups that others of their kind do not warm caches
 * for them. */
enum { REHEARSE_GROUPS = 32 };

/* What a layer's kernels leave for the next one: x behind attention and behind the layer, and row
 * tiles. */
enum place { X_MID, X_OUT, ATTN_NORM, FF_NORM, ATTN, FF, HALF, PLACES };

/* Usually there is one of each, and x is changed in place. In band it is one of two in turn, and
 * who writes it clears the other (shaders/chain.glsl). */
struct places {
    uint64_t x_in, at[PLACES], clear[PLACES];
    uint32_t x_in_band; /* MATRIX_A_IN_BAND: x_in is */
    uint32_t in_band;   /* MATRIX_A_IN_BAND: the others are */
};

static struct places places_of(const struct engine *e, const struct layer_weights *l)
{
    const struct in_band_layout *in = &e->in_band_layout;
    const uint64_t offsets[PLACES] = {
        [X_MID] = in->x_mid,     [X_OUT] = in->x_out, [ATTN_NORM] = in->attn_norm,
        [FF_NORM] = in->ff_norm, [ATTN] = in->attn,   [FF] = in->ff,
        [HALF] = in->half};
    uint64_t x = e->x.address;
    struct places p = {.x_in = x,
                       .at = {[X_MID] = x,
                              [X_OUT] = x,
                              [ATTN_NORM] = e->embd_tiles.address,
                              [FF_NORM] = e->embd_tiles.address,
                              [ATTN] = e->attn_tiles.address,
                              [FF] = e->ff_tiles.address}};
    uint32_t layer = (uint32_t)(l - e->weights.layers);
    uint64_t turn = e->in_band.address + layer % 2 * in->turn_bytes;
    uint64_t other = e->in_band.address + (layer + 1) % 2 * in->turn_bytes;
    if (!e->is_in_band)
        return p;
    p.in_band = MATRIX_A_IN_BAND;
    for (int i = 0; i < PLACES; i++) {
        p.at[i] = turn + offsets[i];
        p.clear[i] = other + offsets[i];
    }
    if (layer > 0) {
        p.x_in = other + in->x_out;
        p.x_in_band = MATRIX_A_IN_BAND;
    }
    if (layer + 1 == e->model->n_layer) /* who comes next waits for the count */
        p.at[X_OUT] = x;
    return p;
}

/* memory_tuning() has looked at the model, and create_chain() at the device; this is about weights.
 */
static bool layer_in_band(const struct engine *e, const struct layer_weights *l, uint32_t rows)
{
    const struct layer_matrices *x = &l->matrix;
    const struct matrix *m = e->matrix;
    return x->qkv.paired && matrix_in_band(m, &x->qkv, rows) &&
           matrix_in_band(m, &x->gate_up, rows) && matrix_in_band(m, &x->attn_output, rows) &&
           matrix_in_band(m, &x->down, rows);
}

void forward_matrix_init(struct engine *e)
{
    uint32_t rows = 0;
    bool all = e->matrix != NULL;
    while (all && rows < e->tuning.in_band_rows) {
        for (uint32_t i = 0; i < e->model->n_layer && all; i++)
            all = layer_in_band(e, &e->weights.layers[i], rows + 1);
        rows += all;
    }
    e->info.in_band_rows = rows;
}

static uint32_t activation_of(const struct engine *e)
{
    return e->model->activation == MODEL_GELU ? MATRIX_GELU : 0;
}

static void matmul(struct engine *e, const struct matrix_weight *w, uint64_t bias, uint64_t a,
                   uint64_t out, uint32_t out_stride, uint32_t rows)
{
    struct push_matrix_matmul p = {
        .a = a, .bias = bias, .out = out, .rows = rows, .out_stride = out_stride};
    matrix_matmul(e->matrix, &p, w);
}

/* out (row tiles) = norm(x) * w; w NULL: x itself */
static void to_tiles(struct engine *e, uint64_t x, const struct weight *w, uint64_t idx,
                     uint64_t out, uint32_t cols, uint32_t stride, uint32_t rows)
{
    struct push_matrix_rows p = {.x = x,
                                 .weight = w != NULL ? w->address : 0,
                                 .idx = idx,
                                 .out = out,
                                 .rows = rows,
                                 .cols = cols,
                                 .stride = stride,
                                 .eps = e->model->rms_eps};
    matrix_rows(e->matrix, &p);
}

/* For the next dispatch, in band. */
static void behind(struct engine *e, const struct places *at, uint32_t stages)
{
    gpu_chain_behind(e->gpu, at->in_band != 0 ? stages : 0);
}

/* at[to] = norm(x) * w, to: ATTN_NORM or FF_NORM, unless the matmul that reads it does that itself,
 * which it does not in band: returns whether it does. */
static bool norm(struct engine *e, const struct places *at, enum place to, const struct weight *w,
                 const struct matrix_weight *reader, uint32_t rows)
{
    bool first = to == ATTN_NORM;
    struct push_matrix_rows p = {.x = first ? at->x_in : at->at[X_MID],
                                 .weight = w->address,
                                 .out = at->at[to],
                                 .clear = at->clear[to],
                                 .rows = rows,
                                 .cols = e->model->n_embd,
                                 .stride = e->model->n_embd,
                                 .options = first ? at->x_in_band : at->in_band,
                                 .eps = e->model->rms_eps};
    if (at->in_band == 0 && matrix_norms(e->matrix, reader, rows))
        return true;
    behind(e, at, first ? LAYER_BEHIND : NORM_BEHIND);
    matrix_rows(e->matrix, &p);
    forward_stage(e, "norm");
    return false;
}

/* qkv [R][q | k | v], F32 */
static void project_qkv(struct engine *e, const struct layer_weights *l, uint32_t rows)
{
    const struct layer_matrices *x = &l->matrix;
    uint32_t q_cols = e->model->n_head * e->model->head_size,
             kv_cols = e->model->n_head_kv * e->model->head_size, stride = q_cols + 2 * kv_cols;
    uint64_t in = e->embd_tiles.address, q = e->qkv.address;
    if (x->qkv.rows > 0) {
        matmul(e, &x->qkv, l->q_bias.address, in, q, stride, rows);
    } else {
        uint64_t k = q + q_cols * sizeof(float), v = k + kv_cols * sizeof(float);
        matmul(e, &x->q, l->q_bias.address, in, q, stride, rows);
        matmul(e, &x->k, l->k_bias.address, in, k, stride, rows);
        matmul(e, &x->v, l->v_bias.address, in, v, stride, rows);
    }
    forward_stage(e, "qkv");
}

/* q (f16 rows) from qkv, rotated; K and V of the rows go into the pages. */
static void rotate(struct engine *e, const struct layer_weights *l, uint32_t rows)
{
    const struct model *m = e->model;
    uint64_t step = e->step_input;
    struct push_matrix_rope rope = {.qkv = e->qkv.address,
                                    .q = e->q.address,
                                    .angles =
                                        l->local ? e->angles_local.address : e->angles.address,
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
    matrix_rope(e->matrix, &rope);
    forward_stage(e, "rope");
}

/* Both at once; and the norm before it, if asked to. */
static void project_and_rotate(struct engine *e, const struct layer_weights *l,
                               const struct places *at, bool norms, uint32_t rows)
{
    const struct model *m = e->model;
    uint64_t step = e->step_input;
    struct push_matrix_qkv p = {.a = norms ? at->x_in : at->at[ATTN_NORM],
                                .norm = norms ? l->attn_norm.address : 0,
                                .eps = m->rms_eps,
                                .bias = l->q_bias.address,
                                .q = e->q.address,
                                .angles = l->local ? e->angles_local.address : e->angles.address,
                                .pos = step + e->layout.pos,
                                .seq = step + e->layout.seq,
                                .pages = step + e->layout.pages,
                                .kv = l->kv_address,
                                .rows = rows,
                                .n_head = m->n_head,
                                .n_head_kv = m->n_head_kv,
                                .head_size = m->head_size,
                                .pages_stride = e->step_stride,
                                .page_bytes = e->page_bytes,
                                .options =
                                    at->in_band | (m->rope_pairs_adjacent ? MATRIX_ADJACENT : 0)};
    behind(e, at, NORMED_BEHIND);
    matrix_qkv(e->matrix, &p, &l->matrix.qkv);
    forward_stage(e, "qkv");
}

/* attn_tiles [R][n_head * head_size] = attention over each row's past */
static void attention(struct engine *e, const struct layer_weights *l, const struct places *at)
{
    const struct model *m = e->model;
    uint64_t step = e->step_input, scratch = e->in_band.address + e->in_band_layout.scratch;
    bool rehearses = e->tuning.rehearse != 0 && e->in_band.address != 0 &&
                     e->plan.rows_count <= REHEARSE_ROWS && /* a task's row may be any of them */
                     e->tasks_few * m->n_head_kv <= REHEARSE_GROUPS;
    struct push_matrix_attention att = {.q = e->q.address,
                                        .pages = step + e->layout.pages,
                                        .kv = l->kv_address,
                                        .tasks = step + e->layout.tasks,
                                        .out = at->at[ATTN],
                                        .clear = at->clear[ATTN],
                                        .scratch = rehearses ? scratch : 0,
                                        .options = rehearses ? MATRIX_REHEARSE : 0,
                                        .n_head = m->n_head,
                                        .n_head_kv = m->n_head_kv,
                                        .pages_stride = e->step_stride,
                                        .page_bytes = e->page_bytes,
                                        .window = l->local ? m->window : 0,
                                        .scale = m->attn_scale,
                                        .softcap = m->attn_softcap};
    matrix_attention(e->matrix, &att, e->tasks_few, true, e->tasks_keys);
    att.tasks += e->tasks_few * sizeof(struct attention_task);
    matrix_attention(e->matrix, &att, e->tasks_many, false, e->tasks_keys);
    forward_stage(e, "attention");
}

/* out [R][n_embd] = x + W a, or x + norm(W a) where the architecture norms a block's output; `of`:
 * a, x (residual), out. */
static void add_to_stream(struct engine *e, const struct matrix_weight *w,
                          const struct weight *bias, const struct push_matrix_matmul *of,
                          const struct weight *post_norm, const char *name)
{
    bool post = post_norm->address != 0;
    struct push_matrix_matmul p = *of;
    p.bias = bias != NULL ? bias->address : 0;
    p.out_stride = e->model->n_embd;
    if (post) {
        p.residual = 0;
        p.out = e->normed.address;
    }
    matrix_matmul(e->matrix, &p, w);
    forward_stage(e, name);
    if (!post)
        return;
    forward_rmsnorm(e, p.out, post_norm, 0, of->residual, of->out, p.rows);
    forward_stage(e, "norm");
}

/* x [R][n_embd] += W_down (act(W_gate n) * W_up n), n = norm(x) */
static void feed_forward(struct engine *e, const struct layer_weights *l, const struct places *at,
                         uint32_t rows)
{
    const struct layer_matrices *x = &l->matrix;
    uint32_t n_ff = e->model->n_ff;
    uint64_t in = e->embd_tiles.address;
    bool norms = norm(e, at, FF_NORM, &l->ffn_norm, &x->gate_up, rows);
    if (x->gate_up.tiles != 0 || x->gate_up.address != 0) {
        struct push_matrix_matmul p = {.a = norms ? at->at[X_MID] : at->at[FF_NORM],
                                       .norm = norms ? l->ffn_norm.address : 0,
                                       .eps = e->model->rms_eps,
                                       .out = at->at[FF],
                                       .clear = at->clear[FF],
                                       .rows = rows,
                                       .options = at->in_band | activation_of(e)};
        behind(e, at, NORMED_BEHIND);
        matrix_matmul(e->matrix, &p, &x->gate_up);
        forward_stage(e, "gate_up");
    } else { /* two types, and no room for tiles */
        uint64_t gate = e->gate_up.address, up = gate + n_ff * sizeof(float);
        matmul(e, &x->gate, 0, in, gate, 2 * n_ff, rows);
        matmul(e, &x->up, 0, in, up, 2 * n_ff, rows);
        forward_stage(e, "gate_up");
        forward_activate(e, n_ff, rows);
        to_tiles(e, e->hidden.address, NULL, 0, at->at[FF], n_ff, n_ff, rows);
        forward_stage(e, "activation");
    }
    struct push_matrix_matmul down = {.a = at->at[FF],
                                      .residual = at->at[X_MID],
                                      .out = at->at[X_OUT],
                                      .clear = at->clear[X_OUT],
                                      .rows = rows,
                                      .options = at->in_band |
                                                 (at->in_band != 0 ? MATRIX_RESIDUAL_IN_BAND : 0)};
    if (at->in_band != 0 && matrix_splits(e->matrix, &x->down, rows)) {
        down.half_sums = at->at[HALF];
        down.half_clear = at->clear[HALF];
    }
    behind(e, at, DOWN_BEHIND);
    add_to_stream(e, &x->down, NULL, &down, &l->ffn_post_norm, "ffn_down");
}

void forward_matrix_layer(struct engine *e, const struct layer_weights *l, uint32_t rows)
{
    struct places at = places_of(e, l);
    bool norms = norm(e, &at, ATTN_NORM, &l->attn_norm, &l->matrix.qkv, rows);
    if (l->matrix.qkv.paired) {
        project_and_rotate(e, l, &at, norms, rows);
    } else {
        project_qkv(e, l, rows);
        forward_head_norms(e, l, rows);
        rotate(e, l, rows);
    }
    attention(e, l, &at);
    struct push_matrix_matmul output = {
        .a = at.at[ATTN],
        .residual = at.x_in,
        .out = at.at[X_MID],
        .clear = at.clear[X_MID],
        .rows = rows,
        .options = at.in_band | (at.x_in_band != 0 ? MATRIX_RESIDUAL_IN_BAND : 0)};
    behind(e, &at, OUTPUT_BEHIND);
    add_to_stream(e, &l->matrix.attn_output, &l->attn_output_bias, &output, &l->attn_post_norm,
                  "attn_output");
    if (e->model->n_expert > 0) {
        forward_rmsnorm(e, e->x.address, &l->ffn_norm, 0, 0, e->normed.address, rows);
        forward_stage(e, "norm");
        forward_mixture_of_experts(e, l, rows);
    } else {
        feed_forward(e, l, &at, rows);
    }
}

uint32_t forward_matrix_logits(struct engine *e, uint64_t idx, uint32_t count)
{
    const struct model *m = e->model;
    const struct matrix_weight *w = &e->weights.output_matrix;
    /* Of the logits that are sampled from: not capped, not edited, nothing banned. */
    bool wanted = m->logit_softcap == 0 && e->edits_count == 0 && e->filter_rows == 0;
    uint32_t bests = wanted ? matrix_bests(e->matrix, w, count) : 0;
    struct push_matrix_matmul p = {.a = e->embd_tiles.address,
                                   .out = e->logits.address,
                                   .bests = bests > 0 ? e->bests.address : 0,
                                   .rows = count,
                                   .out_stride = m->n_vocab};
    to_tiles(e, e->x.address, &e->weights.output_norm, idx, e->embd_tiles.address, m->n_embd,
             m->n_embd, count);
    forward_stage(e, "norm");
    matrix_matmul(e->matrix, &p, w);
    forward_stage(e, "head");
    return bests;
}

void forward_matrix_plan(struct engine *e, char *host)
{
    struct attention_task *tasks = (struct attention_task *)(void *)(host + e->layout.tasks);
    const uint32_t *seq = (const uint32_t *)(void *)(host + e->layout.seq);
    uint32_t most = matrix_task_rows(e->model->n_head, e->model->n_head_kv);
    uint32_t count = 0;
    e->tasks_few = e->tasks_keys = 0;
    for (int few = 1; few >= 0; few--) { /* single rows, then runs */
        for (uint32_t r = 0, run; r < e->plan.rows_count; r += run) {
            const struct step_row *row = &e->plan.rows[r];
            run = 1;
            while (r + run < e->plan.rows_count && row[run].seq == row->seq)
                run++;
            if (few && run == 1)
                e->tasks_keys = (uint32_t)max_u64(e->tasks_keys, row->position + 1);
            for (uint32_t i = 0; i < run && few == (run == 1); i += most)
                tasks[count++] = (struct attention_task){r + i, (uint32_t)min_u64(most, run - i),
                                                         row[i].position, seq[r]};
        }
        if (few)
            e->tasks_few = count;
    }
    e->tasks_many = count - e->tasks_few;
    e->is_in_band = e->plan.rows_count <= e->info.in_band_rows && e->tasks_many == 0;
}
