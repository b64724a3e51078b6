/* The engine's life: creation (device, weights, KV pages, buffers) and the end. Sizes are
 * memory.c's, steps step.c's.
 */
#include "engine/engine.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "base/log.h"
#include "base/size.h"
#include "engine/engine_impl.h"
#include "octo_build.h"

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
    uint64_t bytes = memory_angles_bytes(e);
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

/* Chains, where the device does them right. */
static enum err create_chain(struct engine *e, struct err_msg *why)
{
    enum err r = gpu_chain_create(e->gpu, why);
    if (r == ERR_OK)
        r = matrix_check_chain(e->matrix, e->gpu, why);
    e->info.chains = r == ERR_OK;
    if (r != ERR_UNSUPPORTED)
        return r;
    log_warn("barriers between dispatches instead of chains, and slower with few sequences: %s "
             "device=\"%s\" driver=\"%s\"",
             why->text, e->info.device.name, e->info.device.driver);
    gpu_chain_destroy(e->gpu);
    e->tuning.in_band_rows = e->tuning.split_rows = 0;
    return ERR_OK;
}

/* The matrix family, where it can be; units that are not as expected cost speed, never a start. */
static enum err create_matrix(struct engine *e, struct err_msg *why)
{
    struct err_msg other = {""};
    if (!memory_uses_matrix(e))
        return ERR_OK;
    enum err r = matrix_create(e->gpu, e->model->head_size, e->model->n_embd,
                               e->options.family == ENGINE_EMULATED, &e->matrix, &other);
    if (r == ERR_UNSUPPORTED) {
        log_warn("plain kernels instead, and slower: %s device=\"%s\" driver=\"%s\"", other.text,
                 e->info.device.name, e->info.device.driver);
        e->options.family = ENGINE_PLAIN;
        return ERR_OK;
    }
    if (r == ERR_OK)
        r = create_chain(e, &other);
    if (r == ERR_OK)
        matrix_tune(e->matrix, &e->tuning);
    return r == ERR_OK ? r : err_set(why, r, "%s", other.text);
}

static enum err make_matrices(struct engine *e, struct err_msg *why)
{
    bool forms[MATRIX_FORMS];
    struct err_msg other = {""};
    enum err r;
    memory_choose_forms(e, gpu_memory_free(e->gpu), forms);
    for (;;) {
        r = weights_make_matrices(&e->weights, e->gpu, e->matrix, e->model, forms, &e->tuning,
                                  e->max_rows, &other);
        if (r != ERR_NOMEM || !forms[MATRIX_TILES])
            break;
        /* Other programs took it since. */
        forms[forms[MATRIX_BYTES] ? MATRIX_BYTES : MATRIX_TILES] = false;
        log_warn("without %s of the weights, and slower: %s",
                 forms[MATRIX_TILES] ? "byte tiles" : "tiles", other.text);
        weights_free_tiles(&e->weights, e->gpu, e->model->n_layer);
    }
    if (r != ERR_OK)
        return err_set(why, r, "%s", other.text);
    e->info.matrix = true;
    e->info.tiles_bytes = e->weights.tiles_bytes;
    return ERR_OK;
}

static enum err create_buffers(struct engine *e, struct err_msg *why)
{
    struct engine_buffer table[ENGINE_BUFFERS];
    size_t count = memory_buffers(e, table);
    for (size_t i = 0; i < count; i++) {
        if (table[i].bytes == 0 || table[i].buffer->address != 0)
            continue;
        enum err r = gpu_buffer_create(e->gpu, table[i].kind, table[i].bytes, table[i].what,
                                       table[i].buffer, why);
        if (r == ERR_NOMEM && table[i].kind == GPU_SHARED) { /* its window may be small */
            e->tuning.direct_input = 0;
            for (size_t k = 0; k < ARRAY_LEN(e->step_direct); k++)
                gpu_buffer_destroy(e->gpu, &e->step_direct[k]);
            return create_buffers(e, why);
        }
        if (r != ERR_OK)
            return r;
    }
    return ERR_OK;
}

/* Every byte of it. */
static enum err fill(struct engine *e, const struct gpu_buffer *b, int byte, struct err_msg *why)
{
    if (b->bytes == 0)
        return ERR_OK;
    void *bytes = malloc(b->bytes);
    if (bytes == NULL)
        return err_set(why, ERR_NOMEM, "out of memory for a buffer's first contents");
    memset(bytes, byte, b->bytes);
    enum err r = gpu_upload(e->gpu, b, 0, bytes, b->bytes, why);
    free(bytes);
    return r;
}

/* As kernel_sample() wants it before its first run, and UNWRITTEN. */
static enum err fill_buffers(struct engine *e, struct err_msg *why)
{
    enum err r = fill(e, &e->sample_scratch, 0, why);
    return r == ERR_OK ? fill(e, &e->in_band, 0xff, why) : r;
}

static enum err create_kv(struct engine *e, struct err_msg *why)
{
    uint32_t pages = 0;
    enum err r = memory_choose_kv(e, gpu_memory_free(e->gpu), &pages, why);
    if (r != ERR_OK)
        return r;
    e->kv_buffers = calloc(e->model->n_layer, sizeof *e->kv_buffers);
    if (e->kv_buffers == NULL)
        return err_set(why, ERR_NOMEM, "out of memory for the page table");
    r = kv_create(pages, &e->kv, why);
    if (r != ERR_OK)
        return r;
    for (uint32_t i = 0; i < e->model->n_layer; i++) {
        r = gpu_buffer_create(e->gpu, GPU_DEVICE, (uint64_t)pages * e->page_bytes, "KV cache",
                              &e->kv_buffers[i], why);
        if (r != ERR_OK)
            return err_prefix(why, r,
                              "KV cache of %llu tokens, at least one sequence of %u (a smaller "
                              "--ctx or --kv-tokens needs less)",
                              (unsigned long long)e->info.kv_tokens, e->info.max_ctx);
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
    e->shares = calloc(n, sizeof *e->shares);
    e->plan.rows = calloc(e->max_rows, sizeof *e->plan.rows);
    e->flight.rows = calloc(e->max_rows, sizeof *e->flight.rows);
    e->flight.half = 1;
    if (e->slots == NULL || e->order == NULL || e->events == NULL || e->shares == NULL ||
        e->plan.rows == NULL || e->flight.rows == NULL)
        return err_set(why, ERR_NOMEM, "out of memory for %u sequences", n);
    for (uint32_t i = 0; i < n; i++) {
        struct sequence *s = &e->slots[i];
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
    const struct model_rope *r = &e->model->rope;
    bool factors_long = r->factors_long != NULL && e->info.max_ctx > r->original_ctx;
    int len = snprintf(text, sizeof text, "%s%s", kernels_build_hash(e->kernels),
                       e->matrix != NULL ? matrix_build_hash(e->matrix) : "");
    hash128_hex(text, (size_t)len, e->info.shader_build);
    len = snprintf(text, sizeof text, "%s|%s|%s|exact%s", e->info.device.name,
                   e->info.device.driver, e->info.shader_build, factors_long ? "|long" : "");
    hash128_hex(text, (size_t)len, e->info.numeric_class);
}

enum err engine_create(const struct model *m, const struct engine_options *o, struct engine **ret,
                       struct err_msg *why)
{
    struct engine *e = calloc(1, sizeof *e);
    if (e == NULL)
        return err_set(why, ERR_NOMEM, "out of memory");
    e->model = m;
    e->options = *o;
    e->options.tuning = NULL;
    struct gpu_options gpu = {.device_index = o->device_index,
                              .validate = o->validate,
                              .cache_dir = o->cache_dir,
                              .timeout_s = o->timeout_s};
    enum err r = gpu_create(&gpu, &e->gpu, why);
    if (r != ERR_OK)
        goto fail;
    e->info.device = *gpu_info(e->gpu);
    e->tuning = memory_tuning(o, m, e->info.device.software);
    r = kernels_create(e->gpu, types_of(m), &e->kernels, why);
    if (r != ERR_OK)
        goto fail;
    kernels_set_sample_parts(e->kernels, e->tuning.sample_parts);
    r = create_matrix(e, why);
    if (r != ERR_OK)
        goto fail;
    memory_size_step(e);
    e->chunk = e->info.chunk_tokens;
    e->decodes = e->info.max_seqs;
    if (o->step_ms > 0)
        e->chunk = (uint32_t)min_u64(e->chunk, CHUNK_FIRST);
    name_numeric_class(e);
    r = weights_load(&e->weights, e->gpu, m, why);
    if (r == ERR_OK && e->matrix != NULL)
        r = make_matrices(e, why);
    if (r == ERR_OK)
        r = upload_angles(e, &m->rope, &e->angles, why);
    if (r == ERR_OK)
        r = upload_angles(e, &m->rope_local, &e->angles_local, why);
    if (r == ERR_OK)
        r = create_buffers(e, why);
    if (r == ERR_OK)
        r = fill_buffers(e, why);
    if (r == ERR_OK)
        r = create_kv(e, why);
    if (r == ERR_OK)
        r = create_sequences(e, why);
    if (r != ERR_OK)
        goto fail;
    forward_matrix_init(e);
    e->info.weight_bytes = e->weights.bytes;
    e->options.cache_dir = NULL; /* the caller's */
    gpu_save_cache(e->gpu);
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
        struct engine_buffer buffers[ENGINE_BUFFERS];
        size_t buffers_count = memory_buffers(e, buffers);
        for (size_t i = 0; i < buffers_count; i++)
            gpu_buffer_destroy(e->gpu, buffers[i].buffer);
        gpu_buffer_destroy(e->gpu, &e->angles);
        gpu_buffer_destroy(e->gpu, &e->angles_local);
        for (uint32_t i = 0; e->kv_buffers != NULL && i < e->model->n_layer; i++)
            gpu_buffer_destroy(e->gpu, &e->kv_buffers[i]);
        weights_free_tiles(&e->weights, e->gpu, e->model->n_layer);
        weights_free(&e->weights, e->gpu);
        matrix_destroy(&e->matrix);
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
    free(e->shares);
    free(e->plan.rows);
    free(e->flight.rows);
    free(e);
    *e_ptr = NULL;
}

const struct engine_info *engine_info(const struct engine *e)
{
    return &e->info;
}

uint64_t engine_byte_tiles_read(const struct engine *e, uint32_t rows)
{
    return weights_byte_tiles_read(&e->weights, e->model->n_layer, &e->tuning, rows);
}

unsigned engine_validation_errors(const struct engine *e)
{
    return gpu_validation_errors(e->gpu);
}
