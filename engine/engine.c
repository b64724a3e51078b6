/* The engine's life: creation (device, weights, KV pages, buffers) and the end. Steps are step.c's.
 */
#include "engine/engine.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "base/size.h"
#include "engine/engine_impl.h"
#include "octo_build.h"

enum {
    SOFTWARE_MAX_SEQS = 32,
    SOFTWARE_CHUNK_TOKENS = 128,
    HARDWARE_MAX_SEQS = 256,
    HARDWARE_CHUNK_TOKENS = 1024,
    LARGEST_SEQS = 4096,
    LARGEST_CHUNK_TOKENS = 65536,
};
static const uint64_t SOFTWARE_KV_BYTES = UINT64_C(512) << 20;
enum { EDITS_A_SEQ = 1024 }; /* room for bias and penalties a step, on average */
static const uint64_t LOGITS_BYTES = UINT64_C(256) << 20; /* of one head pass */

/* ---- sizes ---- */

static void choose_batch(struct engine *e)
{
    const struct engine_options *o = &e->options;
    bool software = e->info.device.software;
    uint32_t seqs = o->max_seqs != 0 ? o->max_seqs
                    : software       ? SOFTWARE_MAX_SEQS
                                     : HARDWARE_MAX_SEQS;
    uint32_t chunk = o->chunk_tokens != 0 ? o->chunk_tokens
                     : software           ? SOFTWARE_CHUNK_TOKENS
                                          : HARDWARE_CHUNK_TOKENS;
    e->info.max_seqs = (uint32_t)min_u64(seqs, LARGEST_SEQS);
    e->info.chunk_tokens = (uint32_t)min_u64(chunk, LARGEST_CHUNK_TOKENS);
    e->info.max_ctx = e->model->n_ctx_train;
    if (o->max_ctx != 0 && o->max_ctx < e->info.max_ctx)
        e->info.max_ctx = o->max_ctx;
    e->max_rows = e->info.chunk_tokens + e->info.max_seqs;
    uint64_t row_bytes = (uint64_t)e->model->n_vocab * sizeof(float);
    e->max_logit_rows = (uint32_t)max_u64(1, min_u64(LOGITS_BYTES / row_bytes, e->max_rows));
    uint64_t most = sampling_most_edits(e->info.max_ctx, e->model->n_vocab);
    e->max_edits = (uint32_t)(most + min_u64(most, EDITS_A_SEQ) * (e->info.max_seqs - 1));
    e->pages_stride = (e->info.max_ctx + PAGE_TOKENS - 1) / PAGE_TOKENS;
    e->page_bytes =
        2 * e->model->n_head_kv * PAGE_TOKENS * e->model->head_size * (uint32_t)sizeof(uint16_t);
}

/* Called when everything else is on the device: the cache gets what is left. */
static enum err choose_kv(struct engine *e, uint32_t *ret_pages, struct err_msg *why)
{
    uint64_t token_bytes = (uint64_t)e->page_bytes * e->model->n_layer / PAGE_TOKENS;
    uint64_t one = (uint64_t)e->pages_stride * PAGE_TOKENS; /* a longest sequence */
    uint64_t useful = one * e->info.max_seqs;
    uint64_t tokens = e->options.kv_tokens;
    if (tokens == 0) {
        uint64_t free_bytes = gpu_memory_free(e->gpu);
        uint64_t budget = free_bytes != 0 ? free_bytes / 10 * 9 : e->info.device.memory_bytes / 2;
        if (e->info.device.software)
            budget = min_u64(budget, SOFTWARE_KV_BYTES);
        tokens = max_u64(budget / token_bytes, one);
    } else if (tokens < one) {
        return err_set(
            why, ERR_RANGE,
            "KV cache of %llu tokens: at least one longest sequence must fit, %llu tokens",
            (unsigned long long)tokens, (unsigned long long)one);
    }
    tokens = min_u64(tokens, useful);
    *ret_pages = (uint32_t)min_u64(div_up(tokens, PAGE_TOKENS), UINT32_MAX / 2);
    e->info.kv_tokens = (uint64_t)*ret_pages * PAGE_TOKENS;
    e->info.kv_bytes = (uint64_t)*ret_pages * e->page_bytes * e->model->n_layer;
    return ERR_OK;
}

static uint64_t take(uint64_t *total, uint64_t bytes)
{
    uint64_t offset = *total;
    *total += div_up(bytes, 256) * 256;
    return offset;
}

static void lay_out_step(struct engine *e)
{
    struct step_layout *l = &e->layout;
    uint64_t rows_bytes = e->max_rows * sizeof(uint32_t);
    l->ids = take(&l->total, rows_bytes);
    l->pos = take(&l->total, rows_bytes);
    l->seq = take(&l->total, rows_bytes);
    l->logit_idx = take(&l->total, rows_bytes);
    l->samples = take(&l->total, (uint64_t)e->max_rows * sizeof(struct sample_row));
    l->pages = take(&l->total, (uint64_t)e->info.max_seqs * e->pages_stride * sizeof(uint32_t));
    l->banned = take(&l->total, (uint64_t)e->info.max_seqs * MAX_BANS * sizeof(uint32_t));
    l->edits = take(&l->total, (uint64_t)e->max_edits * sizeof(struct logit_edit));
}

/* ---- creation ---- */

static uint64_t types_of(const struct model *m)
{
    uint64_t types = 0;
    for (size_t i = 0; i < gguf_tensor_count(m->gguf); i++)
        types |= UINT64_C(1) << gguf_tensor_at(m->gguf, i)->type;
    return types;
}

static enum err upload_angles(struct engine *e, const struct model_rope *r, struct gpu_buffer *ret,
                              struct err_msg *why)
{
    uint64_t bytes = (uint64_t)e->info.max_ctx * (e->model->rope_dims / 2) * 2 * sizeof(float);
    float(*angles)[2] = malloc(bytes);
    if (angles == NULL)
        return err_set(why, ERR_NOMEM, "out of memory: %llu bytes for RoPE angles",
                       (unsigned long long)bytes);
    model_rope_angles(e->model, r, e->info.max_ctx, angles);
    enum err bad = gpu_buffer_create(e->gpu, GPU_DEVICE, bytes, "RoPE angles", ret, why);
    if (bad == ERR_OK)
        bad = gpu_upload(e->gpu, ret, 0, angles, bytes, why);
    free(angles);
    return bad;
}

static enum err create_buffers(struct engine *e, struct err_msg *why)
{
    const struct model *m = e->model;
    uint64_t row = e->max_rows * sizeof(float);
    uint64_t q = (uint64_t)m->n_head * m->head_size, kv = (uint64_t)m->n_head_kv * m->head_size;
    uint64_t ids = e->max_rows * sizeof(uint32_t);
    uint64_t pairs = ids * m->n_expert_used;
    uint64_t tiles = m->n_expert == 0
                         ? 0
                         : kernel_expert_tiles_count(e->max_rows * m->n_expert_used, m->n_expert);
    uint64_t ff = m->n_expert == 0 ? m->n_ff : (uint64_t)m->n_ff_expert * m->n_expert_used;
    uint64_t logits = (uint64_t)m->n_vocab * sizeof(float);
    struct {
        struct gpu_buffer *buffer;
        enum gpu_memory kind;
        uint64_t bytes;
        const char *what;
    } table[] = {
        {&e->step_host, GPU_UPLOAD, e->layout.total, "step input"},
        {&e->step_device, GPU_DEVICE, e->layout.total, "step input"},
        {&e->x, GPU_DEVICE, row * m->n_embd, "residual stream"},
        {&e->normed, GPU_DEVICE, row * m->n_embd, "normalized rows"},
        {&e->qkv, GPU_DEVICE, row * (q + 2 * kv), "q, k, v"},
        {&e->attn, GPU_DEVICE, row * q, "attention output"},
        {&e->gate_up, GPU_DEVICE, row * 2 * ff, "gate and up"},
        {&e->hidden, GPU_DEVICE, row * ff, "feed-forward"},
        {&e->router, GPU_DEVICE, row * m->n_expert, "router"},
        {&e->expert_ids, GPU_DEVICE, pairs, "experts"},
        {&e->expert_weights, GPU_DEVICE, pairs, "experts"},
        {&e->expert_pairs, GPU_DEVICE, pairs, "experts"},
        {&e->expert_tiles, GPU_DEVICE, tiles * 16, "experts"},
        {&e->expert_out, GPU_DEVICE, pairs * m->n_embd, "experts"},
        {&e->logits, GPU_DEVICE, e->max_logit_rows * logits, "logits"},
        {&e->tokens_device, GPU_DEVICE, ids, "sampled ids"},
        {&e->tokens_host, GPU_READBACK, ids, "sampled ids"},
        {&e->logprobs_device, GPU_DEVICE, e->max_rows * sizeof(struct logprob_row),
         "log-probabilities"},
        {&e->logprobs_host, GPU_READBACK, e->max_rows * sizeof(struct logprob_row),
         "log-probabilities"},
        {&e->logits_host, GPU_READBACK, e->options.logits_fn != NULL ? e->max_rows * logits : 0,
         "logits copy"},
    };
    for (size_t i = 0; i < ARRAY_LEN(table); i++) {
        if (table[i].bytes == 0)
            continue;
        enum err r = gpu_buffer_create(e->gpu, table[i].kind, table[i].bytes, table[i].what,
                                       table[i].buffer, why);
        if (r != ERR_OK)
            return r;
    }
    return ERR_OK;
}

static enum err create_kv(struct engine *e, struct err_msg *why)
{
    uint32_t pages = 0;
    enum err r = choose_kv(e, &pages, why);
    if (r != ERR_OK)
        return r;
    e->kv_buffers = calloc(e->model->n_layer, sizeof *e->kv_buffers);
    if (e->kv_buffers == NULL || kv_create(pages, &e->kv) != ERR_OK)
        return err_set(why, ERR_NOMEM, "out of memory for the page table");
    for (uint32_t i = 0; i < e->model->n_layer; i++) {
        r = gpu_buffer_create(e->gpu, GPU_DEVICE, (uint64_t)pages * e->page_bytes, "KV cache",
                              &e->kv_buffers[i], why);
        if (r != ERR_OK)
            return r;
        e->weights.layers[i].kv_address = e->kv_buffers[i].address;
    }
    return ERR_OK;
}

static enum err create_sequences(struct engine *e, struct err_msg *why)
{
    uint32_t n = e->info.max_seqs;
    e->slots = calloc(n, sizeof *e->slots);
    e->order = calloc(n, sizeof *e->order);
    e->events = calloc(n, sizeof *e->events);
    e->plan.rows = calloc(e->max_rows, sizeof *e->plan.rows);
    if (e->slots == NULL || e->order == NULL || e->events == NULL || e->plan.rows == NULL)
        return err_set(why, ERR_NOMEM, "out of memory for %u sequences", n);
    for (uint32_t i = 0; i < n; i++) {
        struct sequence *s = &e->slots[i];
        s->slot = i;
        s->tokens = malloc(e->info.max_ctx * sizeof *s->tokens);
        s->pages = malloc(e->pages_stride * sizeof *s->pages);
        if (s->tokens == NULL || s->pages == NULL)
            return err_set(why, ERR_NOMEM, "out of memory for %u sequences", n);
    }
    return ERR_OK;
}

static void name_numeric_class(struct engine *e)
{
    char text[1024];
    int len = snprintf(text, sizeof text, "%s|%s|%s|exact", e->info.device.name,
                       e->info.device.driver, kernels_build_hash(e->kernels));
    hash128_hex(text, (size_t)len, e->info.numeric_class);
    snprintf(e->info.shader_build, sizeof e->info.shader_build, "%s",
             kernels_build_hash(e->kernels));
}

enum err engine_create(const struct model *m, const struct engine_options *o, struct engine **ret,
                       struct err_msg *why)
{
    struct engine *e = calloc(1, sizeof *e);
    if (e == NULL)
        return err_set(why, ERR_NOMEM, "out of memory");
    e->model = m;
    e->options = *o;
    struct gpu_options gpu = {.device_index = o->device_index, .validate = o->validate};
    enum err r = gpu_create(&gpu, &e->gpu, why);
    if (r != ERR_OK)
        goto fail;
    e->info.device = *gpu_info(e->gpu);
    r = kernels_create(e->gpu, types_of(m), &e->kernels, why);
    if (r != ERR_OK)
        goto fail;
    choose_batch(e);
    lay_out_step(e);
    name_numeric_class(e);
    r = weights_load(&e->weights, e->gpu, m, why);
    if (r == ERR_OK)
        r = upload_angles(e, &m->rope, &e->angles, why);
    if (r == ERR_OK)
        r = upload_angles(e, &m->rope_local, &e->angles_local, why);
    if (r == ERR_OK)
        r = create_buffers(e, why);
    if (r == ERR_OK)
        r = create_kv(e, why);
    if (r == ERR_OK)
        r = create_sequences(e, why);
    if (r != ERR_OK)
        goto fail;
    e->info.weight_bytes = e->weights.bytes;
    *ret = e;
    return ERR_OK;
fail:
    engine_destroy(&e);
    return r;
}

void engine_destroy(struct engine **e_ptr)
{
    struct engine *e = *e_ptr;
    if (e == NULL)
        return;
    if (e->gpu != NULL) {
        struct gpu_buffer *buffers[] = {&e->angles_local,
                                        &e->router,
                                        &e->expert_ids,
                                        &e->expert_weights,
                                        &e->expert_pairs,
                                        &e->expert_tiles,
                                        &e->expert_out,
                                        &e->angles,
                                        &e->step_host,
                                        &e->step_device,
                                        &e->x,
                                        &e->normed,
                                        &e->qkv,
                                        &e->attn,
                                        &e->gate_up,
                                        &e->hidden,
                                        &e->logits,
                                        &e->tokens_device,
                                        &e->tokens_host,
                                        &e->logits_host,
                                        &e->logprobs_device,
                                        &e->logprobs_host};
        for (size_t i = 0; i < ARRAY_LEN(buffers); i++)
            gpu_buffer_destroy(e->gpu, buffers[i]);
        for (uint32_t i = 0; e->kv_buffers != NULL && i < e->model->n_layer; i++)
            gpu_buffer_destroy(e->gpu, &e->kv_buffers[i]);
        weights_free(&e->weights, e->gpu);
        kernels_destroy(&e->kernels);
        gpu_destroy(&e->gpu);
    }
    for (uint32_t i = 0; e->slots != NULL && i < e->info.max_seqs; i++) {
        sampling_destroy(&e->slots[i].more);
        free(e->slots[i].tokens);
        free(e->slots[i].pages);
    }
    kv_destroy(&e->kv);
    free(e->kv_buffers);
    free(e->slots);
    free(e->order);
    free(e->events);
    free(e->plan.rows);
    free(e);
    *e_ptr = NULL;
}

const struct engine_info *engine_info(const struct engine *e)
{
    return &e->info;
}

unsigned engine_validation_errors(const struct engine *e)
{
    return gpu_validation_errors(e->gpu);
}
