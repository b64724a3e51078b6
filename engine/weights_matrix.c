/* A model's matrices for the matrix family: which tensors they are, and their f16 tiles. Tiles of a
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
enum { MOST_PARTS = 8 };
struct parts {
    struct part list[MOST_PARTS];
    size_t count;
    uint64_t bytes;
};

static struct matrix_weight plain(const struct weight *w)
{
    return (struct matrix_weight){
        .address = w->address, .type = w->type, .rows = w->rows, .cols = w->cols};
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
        x->biases_adjoin =
            l->q_bias.address == 0 ||
            (l->k_bias.address == l->q_bias.address + l->q_bias.cols * sizeof(float) &&
             l->v_bias.address == l->k_bias.address + l->k_bias.cols * sizeof(float));
    }
    if (m->n_expert > 0)
        return;
    x->down = plain(&l->ffn_down);
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

static uint64_t add(struct parts *p, const struct weight *from, uint32_t first_row, uint32_t rows)
{
    uint64_t offset = p->bytes;
    p->list[p->count++] = (struct part){from, first_row, rows, 2, 0, 0, offset};
    p->bytes += matrix_tiles_bytes(rows, from->cols);
    return offset;
}

static uint64_t add_gated(struct parts *p, const struct weight *gate, const struct weight *up,
                          uint32_t up_row, uint32_t rows)
{
    uint64_t offset = p->bytes;
    p->list[p->count++] = (struct part){gate, 0, rows, 1, 0, 0, offset};
    p->list[p->count++] = (struct part){up, up_row, rows, 1, 1, 0, offset};
    p->bytes += matrix_tiles_bytes(2 * div_up(rows, 8) * 8, gate->cols);
    return offset;
}

/* Where the layer's tiles will be in its buffer; sets the offsets as addresses. */
static void place(struct layer_weights *l, const struct model *m, struct parts *p)
{
    struct layer_matrices *x = &l->matrix;
    bool paired = l->q_norm.rows == 0 && m->rope_dims == m->head_size && x->biases_adjoin;
    size_t first = p->count;
    if (l->qkv.rows > 0) {
        x->qkv.tiles = add(p, &l->qkv, 0, l->qkv.rows);
    } else {
        x->q.tiles = add(p, &l->q, 0, l->q.rows);
        x->k.tiles = add(p, &l->k, 0, l->k.rows);
        x->v.tiles = add(p, &l->v, 0, l->v.rows);
        if (l->q.rows % 16 == 0 && l->k.rows % 16 == 0 && x->biases_adjoin)
            x->qkv = (struct matrix_weight){
                .tiles = x->q.tiles, .rows = l->q.rows + l->k.rows + l->v.rows, .cols = l->q.cols};
    }
    x->qkv.paired = paired;
    for (size_t i = first; paired && i < p->count; i++)
        p->list[i].head_size = m->head_size;
    x->attn_output.tiles = add(p, &l->attn_output, 0, l->attn_output.rows);
    if (m->n_expert > 0)
        return;
    if (l->ffn_gate_up.rows > 0)
        x->gate_up.tiles = add_gated(p, &l->ffn_gate_up, &l->ffn_gate_up, m->n_ff, m->n_ff);
    else
        x->gate_up.tiles = add_gated(p, &l->ffn_gate, &l->ffn_up, 0, m->n_ff);
    x->down.tiles = add(p, &l->ffn_down, 0, l->ffn_down.rows);
}

static void move(struct matrix_weight *w, uint64_t base)
{
    if (w->rows > 0)
        w->tiles += base;
}

/* After place(): the buffer's address. */
static void move_layer(struct layer_matrices *x, uint64_t base)
{
    struct matrix_weight *all[] = {&x->qkv,         &x->q,       &x->k,   &x->v,
                                   &x->attn_output, &x->gate_up, &x->down};
    for (size_t i = 0; i < ARRAY_LEN(all); i++)
        move(all[i], base);
}

/* A workgroup reads its whole tiles, also behind the last row of a buffer's last matrix. */
static uint64_t behind_bytes(uint64_t cols)
{
    return MATRIX_PAD_TILES * matrix_tiles_bytes(16, cols);
}

static enum err expand(struct gpu *g, struct matrix *x, const struct parts *p, bool adjacent,
                       struct gpu_buffer *ret, struct err_msg *why)
{
    uint64_t behind = behind_bytes(p->list[p->count - 1].from->cols);
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
        matrix_expand(x, &push, t->from->type);
    }
    e = gpu_submit(g, why);
    return e == ERR_OK ? gpu_wait(g, why) : e;
}

static enum err make_layer_tiles(struct layer_weights *l, struct gpu *g, struct matrix *x,
                                 const struct model *m, struct gpu_buffer *ret, struct err_msg *why)
{
    struct parts p = {.count = 0};
    place(l, m, &p);
    enum err e = expand(g, x, &p, m->rope_pairs_adjacent, ret, why);
    if (e == ERR_OK)
        move_layer(&l->matrix, ret->address);
    return e;
}

/* All kernels, at once, for the layers and tiles that there will be. */
static enum err prepare(struct weights *w, struct matrix *x, const struct model *m, bool tiles,
                        uint32_t max_rows, struct err_msg *why)
{
    enum { NOT_YET = 1 }; /* a tile's address */
    enum err e = ERR_OK;
    if (tiles) {
        w->output_matrix.tiles = NOT_YET;
        e = matrix_prepare_expand(x, w->output.type, why);
    }
    if (e == ERR_OK)
        e = matrix_prepare(x, &w->output_matrix, max_rows, why);
    for (uint32_t i = 0; i < m->n_layer && e == ERR_OK; i++) {
        struct layer_matrices *l = &w->layers[i].matrix;
        struct parts p = {.count = 0};
        if (tiles) {
            place(&w->layers[i], m, &p);
            move_layer(l, NOT_YET);
        }
        for (size_t k = 0; k < p.count && e == ERR_OK; k++)
            e = matrix_prepare_expand(x, p.list[k].from->type, why);
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

enum err weights_make_matrices(struct weights *w, struct gpu *g, struct matrix *x,
                               const struct model *m, bool tiles, uint32_t max_rows,
                               struct err_msg *why)
{
    w->output_matrix = plain(&w->output);
    for (uint32_t i = 0; i < m->n_layer; i++)
        describe(&w->layers[i], m);
    enum err e = prepare(w, x, m, tiles, max_rows, why);
    if (tiles && e == ERR_OK) {
        w->tiles = calloc(m->n_layer + 1, sizeof *w->tiles);
        if (w->tiles == NULL)
            return err_set(why, ERR_NOMEM, "out of memory for the tensor table");
        for (uint32_t i = 0; i < m->n_layer && e == ERR_OK; i++)
            e = make_layer_tiles(&w->layers[i], g, x, m, &w->tiles[i], why);
        struct parts p = {.count = 0};
        add(&p, &w->output, 0, w->output.rows);
        if (e == ERR_OK)
            e = expand(g, x, &p, false, &w->tiles[m->n_layer], why);
        if (e == ERR_OK)
            w->output_matrix.tiles = w->tiles[m->n_layer].address;
        for (uint32_t i = 0; i <= m->n_layer; i++)
            w->tiles_bytes += w->tiles[i].bytes;
    }
    return e;
}

void weights_free_tiles(struct weights *w, struct gpu *g, uint32_t n_layer)
{
    for (uint32_t i = 0; w->tiles != NULL && i <= n_layer; i++)
        gpu_buffer_destroy(g, &w->tiles[i]);
    free(w->tiles);
    w->tiles = NULL;
    w->tiles_bytes = 0;
}

static uint64_t tensor_bytes(const struct gguf_tensor *t)
{
    return t == NULL ? 0 : matrix_tiles_bytes(t->dims[1], t->dims[0]);
}

static uint64_t output_bytes(const struct model *m)
{
    return tensor_bytes(m->output) + behind_bytes(m->output->dims[0]);
}

static uint64_t layer_bytes(const struct model *m, const struct model_layer *l)
{
    return tensor_bytes(l->attn_qkv) + tensor_bytes(l->attn_q) + tensor_bytes(l->attn_k) +
           tensor_bytes(l->attn_v) + tensor_bytes(l->attn_output) + tensor_bytes(l->ffn_gate_up) +
           tensor_bytes(l->ffn_gate) + tensor_bytes(l->ffn_up) + tensor_bytes(l->ffn_down) +
           behind_bytes((m->n_expert > 0 ? l->attn_output : l->ffn_down)->dims[0]);
}

uint64_t weights_tiles_bytes(const struct model *m, uint64_t *ret_largest)
{
    uint64_t bytes = output_bytes(m);
    *ret_largest = bytes;
    for (uint32_t i = 0; i < m->n_layer; i++) {
        uint64_t layer = layer_bytes(m, &m->layers[i]);
        *ret_largest = max_u64(*ret_largest, layer);
        bytes += layer;
    }
    return bytes;
}
