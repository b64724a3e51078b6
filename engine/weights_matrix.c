/* A model's matrices for the matrix family: which tensors they are, and their tiles. Tiles of a
 * layer are one buffer, q, k and v as one matrix in it where their rows fill whole tiles. */
#include <stdlib.h>

#include "base/size.h"
#include "engine/engine_impl.h"

/* A tensor's rows into tiles. */
struct part {
    const struct weight *from;
    uint32_t first_row, rows;
    uint32_t halves, upper, head_size; /* as PUSH_MATRIX_EXPAND */
    uint64_t offset;                   /* in the layer's buffer */
};
/* A matrix whose tiles begin there. */
struct placed {
    struct matrix_weight *matrix;
    uint64_t offset;
};
enum { MOST_PARTS = 8 };
struct parts {
    enum matrix_form form;
    const struct tuning *tuning;
    struct part list[MOST_PARTS];
    size_t count;
    struct placed placed[MOST_PARTS];
    size_t placed_count;
    uint64_t bytes;
};

static struct matrix_weight plain(const struct weight *w)
{
    return (struct matrix_weight){
        .address = w->address, .type = w->type, .rows = w->rows, .cols = w->cols};
}

static bool follows(const struct weight *bias, const struct weight *before)
{
    return before->address != 0 && bias->address == before->address + before->cols * sizeof(float);
}

/* A kernel that computes q, k and v at once takes one vector, or none. */
static bool biases_adjoin(const struct layer_weights *l)
{
    uint64_t any = l->q_bias.address | l->k_bias.address | l->v_bias.address;
    return any == 0 || (follows(&l->k_bias, &l->q_bias) && follows(&l->v_bias, &l->k_bias));
}

/* The layer's matrices as the file has them. */
static void describe(struct layer_weights *l, const struct model *m)
{
    struct layer_matrices *x = &l->matrix;
    *x = (struct layer_matrices){.attn_output = plain(&l->attn_output)};
    if (l->qkv.rows > 0) {
        x->qkv = plain(&l->qkv);
        x->biases_adjoin = true; /* it has none */
    } else {
        x->q = plain(&l->q);
        x->k = plain(&l->k);
        x->v = plain(&l->v);
        x->biases_adjoin = biases_adjoin(l);
    }
    if (m->n_expert > 0)
        return;
    x->down = plain(&l->ffn_down);
    x->down.in_band = true;
    x->gate_up = (struct matrix_weight){.rows = m->n_ff, .cols = m->n_embd, .gated = true};
    if (l->ffn_gate_up.rows > 0) {
        x->gate_up.address = x->gate_up.high_address = l->ffn_gate_up.address;
        x->gate_up.high_row = m->n_ff;
        x->gate_up.type = l->ffn_gate_up.type;
        return;
    }
    x->gate = plain(&l->ffn_gate);
    x->up = plain(&l->ffn_up);
    if (x->gate.type == x->up.type) {
        x->gate_up.address = x->gate.address;
        x->gate_up.high_address = x->up.address;
        x->gate_up.type = x->gate.type;
    }
}

/* Whether a matrix of so many rows and columns gets tiles of the form. */
static bool pays(enum matrix_form form, const struct tuning *t, uint64_t rows, uint64_t cols)
{
    bool streams = t->stream_rows >= 8 && matrix_stream_rows((uint32_t)cols) > 0;
    uint64_t least_bytes = (uint64_t)t->byte_tiles_mib << 20;
    return form == MATRIX_TILES || (streams && matrix_tiles_bytes(rows, cols) > least_bytes);
}

static bool takes(const struct parts *p, const struct weight *w)
{
    return w->rows == 0 || matrix_form_takes(p->form, w->type);
}

static void place_matrix(struct parts *p, struct matrix_weight *matrix, uint64_t offset)
{
    p->placed[p->placed_count++] = (struct placed){matrix, offset};
}

static void add_part(struct parts *p, struct matrix_weight *matrix, const struct weight *from)
{
    place_matrix(p, matrix, p->bytes);
    p->list[p->count++] = (struct part){from, 0, from->rows, 2, 0, 0, p->bytes};
    p->bytes += matrix_form_bytes(p->form, from->rows, from->cols);
}

static void add(struct parts *p, struct matrix_weight *matrix, const struct weight *from)
{
    if (takes(p, from) && pays(p->form, p->tuning, from->rows, from->cols))
        add_part(p, matrix, from);
}

static void add_gated(struct parts *p, struct matrix_weight *matrix, const struct weight *gate,
                      const struct weight *up, uint32_t up_row, uint32_t rows)
{
    uint64_t both = 2 * div_up(rows, 8) * 8;
    if (!takes(p, gate) || !takes(p, up) || !pays(p->form, p->tuning, both, gate->cols))
        return;
    place_matrix(p, matrix, p->bytes);
    p->list[p->count++] = (struct part){gate, 0, rows, 1, 0, 0, p->bytes};
    p->list[p->count++] = (struct part){up, up_row, rows, 1, 1, 0, p->bytes};
    p->bytes += matrix_form_bytes(p->form, both, gate->cols);
}

/* q, k and v as one matrix where their rows fill whole tiles. */
static void add_qkv(struct parts *p, struct layer_weights *l, const struct model *m)
{
    struct layer_matrices *x = &l->matrix;
    bool paired = l->q_norm.rows == 0 && m->rope_dims == m->head_size && x->biases_adjoin;
    size_t first = p->count;
    if (l->qkv.rows > 0) {
        add(p, &x->qkv, &l->qkv);
    } else if (takes(p, &l->q) && takes(p, &l->k) && takes(p, &l->v) &&
               pays(p->form, p->tuning, l->q.rows + l->k.rows + l->v.rows, l->q.cols)) {
        uint64_t begin = p->bytes;
        add_part(p, &x->q, &l->q);
        add_part(p, &x->k, &l->k);
        add_part(p, &x->v, &l->v);
        if (l->q.rows % 16 == 0 && l->k.rows % 16 == 0 && x->biases_adjoin) {
            x->qkv.rows = l->q.rows + l->k.rows + l->v.rows;
            x->qkv.cols = l->q.cols;
            place_matrix(p, &x->qkv, begin);
        }
    }
    x->qkv.paired = paired;
    for (size_t i = first; paired && i < p->count; i++)
        p->list[i].head_size = m->head_size;
}

/* Where the layer's tiles will be in its buffer. */
static struct parts place(struct layer_weights *l, const struct model *m, enum matrix_form form,
                          const struct tuning *t)
{
    struct layer_matrices *x = &l->matrix;
    struct parts p = {.form = form, .tuning = t};
    add_qkv(&p, l, m);
    add(&p, &x->attn_output, &l->attn_output);
    if (m->n_expert > 0)
        return p;
    if (l->ffn_gate_up.rows > 0)
        add_gated(&p, &x->gate_up, &l->ffn_gate_up, &l->ffn_gate_up, m->n_ff, m->n_ff);
    else
        add_gated(&p, &x->gate_up, &l->ffn_gate, &l->ffn_up, 0, m->n_ff);
    add(&p, &x->down, &l->ffn_down);
    return p;
}

static struct parts place_output(struct weights *w, enum matrix_form form, const struct tuning *t)
{
    struct parts p = {.form = form, .tuning = t};
    add(&p, &w->output_matrix, &w->output);
    return p;
}

/* The buffer's address. */
static void move(const struct parts *p, uint64_t base)
{
    for (size_t i = 0; i < p->placed_count; i++) {
        struct matrix_weight *w = p->placed[i].matrix;
        *(p->form == MATRIX_BYTES ? &w->bytes : &w->tiles) = base + p->placed[i].offset;
    }
}

/* Blocks of a workgroup read its whole tiles, also behind the last row of a buffer's last matrix.
 */
static uint64_t behind_bytes(enum matrix_form form, uint64_t cols)
{
    return form == MATRIX_TILES ? MATRIX_PAD_TILES * matrix_tiles_bytes(16, cols) : 0;
}

static enum err expand(struct gpu *g, struct matrix *x, const struct parts *p, bool adjacent,
                       struct gpu_buffer *ret, struct err_msg *why)
{
    if (p->count == 0)
        return ERR_OK;
    uint64_t behind = behind_bytes(p->form, p->list[p->count - 1].from->cols);
    enum err e = gpu_buffer_create(g, GPU_DEVICE, p->bytes + behind, "weight tiles", ret, why);
    if (e == ERR_OK)
        e = gpu_begin(g, why);
    if (e != ERR_OK)
        return e;
    for (size_t i = 0; i < p->count; i++) {
        const struct part *t = &p->list[i];
        struct push_matrix_expand push = {.w = t->from->address,
                                          .out = ret->address + t->offset,
                                          .n = t->rows,
                                          .k = t->from->cols,
                                          .halves = t->halves,
                                          .upper = t->upper,
                                          .first_row = t->first_row,
                                          .head_size = t->head_size,
                                          .adjacent = adjacent};
        matrix_expand(x, &push, t->from->type, p->form);
    }
    e = gpu_submit(g, why);
    if (e == ERR_OK)
        e = gpu_wait(g, why);
    if (e == ERR_OK)
        move(p, ret->address);
    return e;
}

/* Where all of a form will be, and the kernels that put it there. */
static enum err prepare_form(struct weights *w, struct matrix *x, const struct model *m,
                             enum matrix_form form, const struct tuning *t, struct err_msg *why)
{
    enum { NOT_YET = 1 }; /* an address */
    enum err e = ERR_OK;
    for (uint32_t i = 0; i <= m->n_layer && e == ERR_OK; i++) {
        struct parts p =
            i < m->n_layer ? place(&w->layers[i], m, form, t) : place_output(w, form, t);
        move(&p, NOT_YET);
        for (size_t k = 0; k < p.count && e == ERR_OK; k++)
            e = matrix_prepare_expand(x, p.list[k].from->type, form, why);
    }
    return e;
}

/* All kernels, at once, for the layers and tiles that there will be. */
static enum err prepare(struct weights *w, struct matrix *x, const struct model *m,
                        const bool forms[MATRIX_FORMS], const struct tuning *t, uint32_t max_rows,
                        struct err_msg *why)
{
    enum err e = ERR_OK;
    for (enum matrix_form form = 0; form < MATRIX_FORMS && e == ERR_OK; form++)
        if (forms[form])
            e = prepare_form(w, x, m, form, t, why);
    if (e == ERR_OK)
        e = matrix_prepare(x, &w->output_matrix, max_rows, why);
    for (uint32_t i = 0; i < m->n_layer && e == ERR_OK; i++) {
        struct layer_matrices *l = &w->layers[i].matrix;
        const struct matrix_weight *all[] = {
            &l->qkv, &l->q, &l->k, &l->v, &l->attn_output, &l->gate_up, &l->gate, &l->up, &l->down};
        for (size_t k = 0; k < ARRAY_LEN(all) && e == ERR_OK; k++) {
            bool unused = ((all[k] == &l->gate || all[k] == &l->up) &&
                           (l->gate_up.tiles != 0 || l->gate_up.address != 0)) ||
                          (k >= 1 && k <= 3 && l->qkv.paired);
            if (all[k]->rows > 0 && (all[k]->tiles != 0 || all[k]->address != 0) && !unused)
                e = matrix_prepare(x, all[k], max_rows, why);
        }
    }
    return e == ERR_OK ? matrix_compile(x, why) : e;
}

static enum err make_form(struct weights *w, struct gpu *g, struct matrix *x, const struct model *m,
                          enum matrix_form form, const struct tuning *t, struct err_msg *why)
{
    enum err e = ERR_OK;
    w->tiles[form] = calloc(m->n_layer + 1, sizeof *w->tiles[form]);
    if (w->tiles[form] == NULL)
        return err_set(why, ERR_NOMEM, "out of memory for the tensor table");
    for (uint32_t i = 0; i <= m->n_layer && e == ERR_OK; i++) {
        struct parts p =
            i < m->n_layer ? place(&w->layers[i], m, form, t) : place_output(w, form, t);
        bool adjacent = i < m->n_layer && m->rope_pairs_adjacent;
        e = expand(g, x, &p, adjacent, &w->tiles[form][i], why);
        w->tiles_bytes += w->tiles[form][i].bytes;
    }
    return e;
}

enum err weights_make_matrices(struct weights *w, struct gpu *g, struct matrix *x,
                               const struct model *m, const bool forms[MATRIX_FORMS],
                               const struct tuning *t, uint32_t max_rows, struct err_msg *why)
{
    w->output_matrix = plain(&w->output);
    w->output_matrix.logits = true;
    for (uint32_t i = 0; i < m->n_layer; i++)
        describe(&w->layers[i], m);
    enum err e = prepare(w, x, m, forms, t, max_rows, why);
    for (enum matrix_form form = 0; form < MATRIX_FORMS && e == ERR_OK; form++)
        if (forms[form])
            e = make_form(w, g, x, m, form, t, why);
    return e;
}

void weights_free_tiles(struct weights *w, struct gpu *g, uint32_t n_layer)
{
    for (enum matrix_form form = 0; form < MATRIX_FORMS; form++) {
        for (uint32_t i = 0; w->tiles[form] != NULL && i <= n_layer; i++)
            gpu_buffer_destroy(g, &w->tiles[form][i]);
        free(w->tiles[form]);
        w->tiles[form] = NULL;
    }
    w->tiles_bytes = 0;
}

/* What a step of so many rows reads of a matrix's byte tiles. */
static uint64_t bytes_read(const struct matrix_weight *w, const struct tuning *t, uint32_t rows)
{
    uint64_t tile_rows = div_up(rows, 8) * 8,
             both = w->gated ? 2 * div_up(w->rows, 8) * 8 : w->rows;
    if (w->bytes == 0 || tile_rows > t->stream_rows || tile_rows > matrix_stream_rows(w->cols))
        return 0;
    return matrix_form_bytes(MATRIX_BYTES, both, w->cols);
}

uint64_t weights_byte_tiles_read(const struct weights *w, uint32_t n_layer, const struct tuning *t,
                                 uint32_t rows)
{
    uint64_t bytes = bytes_read(&w->output_matrix, t, rows);
    for (uint32_t i = 0; i < n_layer; i++) {
        const struct layer_matrices *x = &w->layers[i].matrix;
        const struct matrix_weight *all[] = {&x->q,           &x->k,       &x->v,   &x->qkv,
                                             &x->attn_output, &x->gate_up, &x->down};
        for (size_t k = x->qkv.rows > 0 ? 3 : 0; k < ARRAY_LEN(all); k++)
            bytes += bytes_read(all[k], t, rows);
    }
    return bytes;
}

/* Of tensors that make one matrix, as many as there are of them. */
static uint64_t matrix_bytes(enum matrix_form form, const struct tuning *tuning,
                             const struct gguf_tensor *const *t, size_t count)
{
    uint64_t bytes = 0, rows = 0, cols = 0;
    for (size_t i = 0; i < count; i++) {
        if (t[i] == NULL)
            continue;
        if (!matrix_form_takes(form, t[i]->type))
            return 0;
        cols = t[i]->dims[0];
        rows += t[i]->dims[1];
        bytes += matrix_form_bytes(form, t[i]->dims[1], cols);
    }
    return pays(form, tuning, rows, cols) ? bytes : 0;
}

static uint64_t output_bytes(const struct model *m, const struct tuning *t, enum matrix_form form)
{
    return matrix_bytes(form, t, &m->output, 1) + behind_bytes(form, m->output->dims[0]);
}

static uint64_t layer_bytes(const struct model *m, const struct model_layer *l,
                            const struct tuning *t, enum matrix_form form)
{
    const struct gguf_tensor *qkv[] = {l->attn_qkv, l->attn_q, l->attn_k, l->attn_v};
    const struct gguf_tensor *gate_up[] = {l->ffn_gate_up, l->ffn_gate, l->ffn_up};
    return matrix_bytes(form, t, qkv, ARRAY_LEN(qkv)) + matrix_bytes(form, t, &l->attn_output, 1) +
           matrix_bytes(form, t, gate_up, ARRAY_LEN(gate_up)) +
           matrix_bytes(form, t, &l->ffn_down, 1) +
           behind_bytes(form, (m->n_expert > 0 ? l->attn_output : l->ffn_down)->dims[0]);
}

uint64_t weights_tiles_bytes(const struct model *m, const struct tuning *t, enum matrix_form form,
                             uint64_t *ret_largest)
{
    uint64_t bytes = output_bytes(m, t, form);
    *ret_largest = bytes;
    for (uint32_t i = 0; i < m->n_layer; i++) {
        uint64_t layer = layer_bytes(m, &m->layers[i], t, form);
        *ret_largest = max_u64(*ret_largest, layer);
        bytes += layer;
    }
    return bytes;
}
