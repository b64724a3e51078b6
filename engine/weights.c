/* A model's tensors onto the device, in the kernels' layout. Tensors are packed into few large
 * buffers. */
#include <assert.h>
#include <stdlib.h>

#include "base/size.h"
#include "engine/engine_impl.h"
#include "engine/repack.h"

enum { ALIGN_BYTES = 256, MOST_IN_A_LAYER = 23 };
static const uint64_t SLAB_BYTES = UINT64_C(1) << 30;

struct item {
    const struct gguf_tensor *tensor;
    struct weight *dst;
    bool is_vector; /* F32, uploaded as it is */
    uint64_t bytes; /* on the device */
    size_t slab;
    uint64_t offset;
};

struct loader {
    struct weights *w;
    struct gpu *gpu;
    struct item *items;
    size_t count;
};

static void add(struct loader *l, const struct gguf_tensor *t, struct weight *dst, bool is_vector)
{
    if (t == NULL)
        return;
    struct item *i = &l->items[l->count++];
    *i = (struct item){.tensor = t, .dst = dst, .is_vector = is_vector};
    *dst = (struct weight){
        .type = t->type, .cols = (uint32_t)t->dims[0], .rows = (uint32_t)(t->dims[1] * t->dims[2])};
    i->bytes =
        is_vector ? t->bytes : kernel_weight_bytes(t->type, t->dims[1] * t->dims[2], t->dims[0]);
}

static void add_all(struct loader *l, const struct model *m)
{
    struct weights *w = l->w;
    add(l, m->token_embd, &w->token_embd, false);
    add(l, m->output_norm, &w->output_norm, true);
    if (m->output != m->token_embd)
        add(l, m->output, &w->output, false);
    for (uint32_t i = 0; i < m->n_layer; i++) {
        const struct model_layer *s = &m->layers[i];
        struct layer_weights *d = &w->layers[i];
        add(l, s->attn_norm, &d->attn_norm, true);
        add(l, s->attn_qkv, &d->qkv, false);
        add(l, s->attn_q, &d->q, false);
        add(l, s->attn_k, &d->k, false);
        add(l, s->attn_v, &d->v, false);
        add(l, s->attn_q_bias, &d->q_bias,
            true); /* side by side: forward_matrix.c adds them at once */
        add(l, s->attn_k_bias, &d->k_bias, true);
        add(l, s->attn_v_bias, &d->v_bias, true);
        add(l, s->attn_q_norm, &d->q_norm, true);
        add(l, s->attn_k_norm, &d->k_norm, true);
        add(l, s->attn_output, &d->attn_output, false);
        add(l, s->attn_output_bias, &d->attn_output_bias, true);
        add(l, s->attn_post_norm, &d->attn_post_norm, true);
        add(l, s->ffn_norm, &d->ffn_norm, true);
        add(l, s->ffn_gate_up, &d->ffn_gate_up, false);
        add(l, s->ffn_gate, &d->ffn_gate, false);
        add(l, s->ffn_up, &d->ffn_up, false);
        add(l, s->ffn_down, &d->ffn_down, false);
        add(l, s->ffn_post_norm, &d->ffn_post_norm, true);
        add(l, s->ffn_router, &d->ffn_router, false);
        add(l, s->ffn_gate_exps, &d->ffn_gate_exps, false);
        add(l, s->ffn_up_exps, &d->ffn_up_exps, false);
        add(l, s->ffn_down_exps, &d->ffn_down_exps, false);
        d->local = s->local;
    }
}

/* Gives every item its place; fills slab sizes. Returns the number of slabs. */
static size_t place(struct loader *l, uint64_t *slab_bytes)
{
    size_t slabs = 0;
    for (size_t k = 0; k < l->count; k++) {
        struct item *i = &l->items[k];
        uint64_t bytes = div_up(i->bytes, ALIGN_BYTES) * ALIGN_BYTES;
        if (slabs == 0 || slab_bytes[slabs - 1] + bytes > max_u64(SLAB_BYTES, bytes))
            slab_bytes[slabs++] = 0;
        i->slab = slabs - 1;
        i->offset = slab_bytes[slabs - 1];
        slab_bytes[slabs - 1] += bytes;
    }
    return slabs;
}

/* A matrix, in the pieces that r makes of it. */
static enum err upload_matrix(struct loader *l, const struct item *i, struct repack *r,
                              struct err_msg *why)
{
    struct repack_piece p = {0};
    while (!p.last) {
        enum err e = repack_next(r, &p, why);
        if (e != ERR_OK)
            return e;
        assert(p.tensor == i->tensor);
        e = gpu_upload(l->gpu, &l->w->slabs[i->slab], i->offset + p.offset, p.data, p.bytes, why);
        if (e != ERR_OK)
            return err_prefix(why, e, "tensor %.*s", STR_ARG(i->tensor->name));
    }
    return ERR_OK;
}

static enum err upload(struct loader *l, const struct item *i, struct repack *r,
                       struct err_msg *why)
{
    const struct gguf_tensor *t = i->tensor;
    const struct gpu_buffer *slab = &l->w->slabs[i->slab];
    enum err e;
    i->dst->address = slab->address + i->offset;
    if (!i->is_vector)
        return upload_matrix(l, i, r, why);
    e = gpu_upload(l->gpu, slab, i->offset, t->data, t->bytes, why);
    return e == ERR_OK ? e : err_prefix(why, e, "tensor %.*s", STR_ARG(t->name));
}

static enum err upload_all(struct loader *l, struct err_msg *why)
{
    struct repack *r = NULL;
    size_t count = 0;
    const struct gguf_tensor **matrices = calloc(l->count + 1, sizeof *matrices);
    if (matrices == NULL)
        return err_set(why, ERR_NOMEM, "out of memory for the tensor table");
    for (size_t i = 0; i < l->count; i++) {
        if (!l->items[i].is_vector)
            matrices[count++] = l->items[i].tensor;
    }
    enum err e = repack_create(matrices, count, repack_threads(), &r, why);
    for (size_t i = 0; i < l->count && e == ERR_OK; i++)
        e = upload(l, &l->items[i], r, why);
    repack_destroy(&r);
    free(matrices);
    return e;
}

/* Lists the tensors and gives them their places. w->layers, l->items and *ret_slab_bytes
 * [w->slabs_count] are the caller's to free, also after an error. */
static enum err plan(struct loader *l, const struct model *m, uint64_t **ret_slab_bytes,
                     struct err_msg *why)
{
    if (m->head_size > ATTENTION_MAX_HEAD_SIZE)
        return err_set(why, ERR_UNSUPPORTED,
                       "%s: attention heads of %u values, at most %d are supported",
                       gguf_path(m->gguf), m->head_size, ATTENTION_MAX_HEAD_SIZE);
    size_t most = 3 + (size_t)m->n_layer * MOST_IN_A_LAYER;
    l->items = calloc(most, sizeof *l->items);
    l->w->layers = calloc(m->n_layer, sizeof *l->w->layers);
    *ret_slab_bytes = calloc(most, sizeof **ret_slab_bytes);
    if (l->items == NULL || l->w->layers == NULL || *ret_slab_bytes == NULL)
        return err_set(why, ERR_NOMEM, "out of memory for the tensor table");
    add_all(l, m);
    l->w->slabs_count = place(l, *ret_slab_bytes);
    return ERR_OK;
}

enum err weights_measure(const struct model *m, uint64_t *ret_bytes, struct err_msg *why)
{
    struct weights w = {0};
    struct loader l = {.w = &w};
    uint64_t *slab_bytes = NULL, bytes = 0;
    enum err e = plan(&l, m, &slab_bytes, why);
    for (size_t i = 0; e == ERR_OK && i < w.slabs_count; i++)
        bytes += slab_bytes[i];
    if (e == ERR_OK)
        *ret_bytes = bytes;
    free(w.layers);
    free(l.items);
    free(slab_bytes);
    return e;
}

enum err weights_load(struct weights *w, struct gpu *g, const struct model *m, struct err_msg *why)
{
    struct loader l = {.w = w, .gpu = g};
    uint64_t *slab_bytes = NULL;
    enum err e = plan(&l, m, &slab_bytes, why);
    size_t slabs = w->slabs_count;
    w->slabs_count = 0; /* none there yet */
    if (e != ERR_OK)
        goto fail;
    w->slabs = calloc(slabs + 1, sizeof *w->slabs);
    if (w->slabs == NULL) {
        e = err_set(why, ERR_NOMEM, "out of memory for the tensor table");
        goto fail;
    }
    w->slabs_count = slabs;
    for (size_t i = 0; i < slabs; i++) {
        e = gpu_buffer_create(g, GPU_DEVICE, slab_bytes[i], "weights", &w->slabs[i], why);
        if (e != ERR_OK)
            goto fail;
        w->bytes += slab_bytes[i];
    }
    e = upload_all(&l, why);
    if (e == ERR_OK && m->output == m->token_embd)
        w->output = w->token_embd;
fail:
    free(l.items);
    free(slab_bytes);
    return e;
}

void weights_free(struct weights *w, struct gpu *g)
{
    for (size_t i = 0; i < w->slabs_count; i++)
        gpu_buffer_destroy(g, &w->slabs[i]);
    free(w->slabs);
    free(w->layers);
    *w = (struct weights){0};
}
