/* How much of everything: the batch, the buffers, the KV cache; and what that takes of a device's
 * memory. No Vulkan: engine.c creates what is sized here, engine_plan_memory() answers without a
 * device. */
#include "engine/memory.h"

#include <assert.h>
#include <string.h>

#include "base/size.h"
#include "engine/engine_impl.h"

enum {
    SOFTWARE_MAX_SEQS = 32,
    SOFTWARE_CHUNK_TOKENS = 128,
    HARDWARE_MAX_SEQS = 256,
    HARDWARE_CHUNK_TOKENS = 1024,
    MATRIX_CHUNK_ROWS = 2048, /* matrix units want large tiles */
    LARGEST_SEQS = 4096,
};
static const uint64_t SOFTWARE_KV_BYTES = UINT64_C(512) << 20;
enum {
    MAX_GROUPS = 65535,          /* workgroups in a dimension that every device takes */
    BUFFER_SLACK_BYTES = 1 << 16 /* what a driver may add to a buffer */
};
enum { EDITS_A_SEQ = 1024 }; /* room for bias and penalties a step, on average */
/* Of one head pass, which reads all of the output's weights: more where memory is plenty. */
static const uint64_t LOGITS_BYTES = UINT64_C(256) << 20, MOST_LOGITS_BYTES = UINT64_C(1) << 30;
enum { LOGITS_SHARE = 32 };

bool memory_uses_matrix(const struct engine *e)
{
    const struct model *m = e->model;
    bool units = e->options.family == ENGINE_EMULATED ||
                 (e->options.family == ENGINE_AUTO && e->info.device.matrix_f16);
    return units && m->head_size % 32 == 0 && m->head_size <= MATRIX_MAX_HEAD_SIZE &&
           m->n_embd % 32 == 0 && (m->n_expert > 0 || m->n_ff % 32 == 0) &&
           m->n_head / m->n_head_kv <= 64;
}

/* Whether a layer's results may arrive in band: forward_matrix.c. Places take turns by layer, also
 * from one step to the next: the number of layers is even. */
static bool may_be_in_band(const struct model *m)
{
    bool all = m->n_layer % 2 == 0 && m->n_expert == 0 && m->n_embd <= MATRIX_ROWS_IN_BAND_COLS &&
               m->rope_dims == m->head_size;
    for (uint32_t i = 0; i < m->n_layer && all; i++) {
        const struct model_layer *l = &m->layers[i];
        all = l->attn_q_norm == NULL && l->attn_post_norm == NULL && l->ffn_post_norm == NULL;
    }
    return all;
}

/* On a software device nothing waits, and workgroups need not run together; its times say little.
 */
struct tuning memory_tuning(const struct engine_options *o, const struct model *m, bool software)
{
    struct tuning t = o->tuning != NULL ? *o->tuning : tuning_defaults();
    if (o->tuning == NULL && software)
        t.in_band_rows = t.split_rows = t.rehearse = t.round_rows = 0;
    t.in_band_rows = may_be_in_band(m) ? (uint32_t)min_u64(t.in_band_rows, t.chain_rows) : 0;
    t.split_rows = (uint32_t)min_u64(t.split_rows, t.in_band_rows);
    return t;
}

static void choose_batch(struct engine *e)
{
    const struct engine_options *o = &e->options;
    bool software = e->info.device.software;
    uint32_t seqs = o->max_seqs != 0 ? o->max_seqs
                    : software       ? SOFTWARE_MAX_SEQS
                                     : HARDWARE_MAX_SEQS;
    uint32_t chunk = o->chunk_tokens != 0    ? o->chunk_tokens
                     : software              ? SOFTWARE_CHUNK_TOKENS
                     : memory_uses_matrix(e) ? MATRIX_CHUNK_ROWS
                                             : HARDWARE_CHUNK_TOKENS;
    /* Kernels' grids have a row, or a row's expert, to a workgroup. */
    uint64_t most_rows = max_u64(2, MAX_GROUPS / max_u64(1, e->model->n_expert_used));
    e->info.max_seqs = (uint32_t)min_u64(min_u64(seqs, LARGEST_SEQS), most_rows / 2);
    e->info.chunk_tokens = (uint32_t)min_u64(chunk, most_rows - e->info.max_seqs);
    e->info.max_ctx = e->model->n_ctx_train;
    if (o->max_ctx != 0 && o->max_ctx < e->info.max_ctx)
        e->info.max_ctx = o->max_ctx;
    e->max_rows = e->info.chunk_tokens + e->info.max_seqs;
    uint64_t row_bytes = (uint64_t)e->model->n_vocab * sizeof(float);
    uint64_t share = min_u64(e->info.device.memory_bytes / LOGITS_SHARE, MOST_LOGITS_BYTES);
    uint64_t logits_bytes = max_u64(LOGITS_BYTES, share);
    e->max_logit_rows = (uint32_t)max_u64(1, min_u64(logits_bytes / row_bytes, e->max_rows));
    uint64_t most = sampling_most_edits(e->info.max_ctx, e->model->n_vocab);
    e->max_edits = (uint32_t)(most + min_u64(most, EDITS_A_SEQ) * (e->info.max_seqs - 1));
    e->pages_stride = (e->info.max_ctx + PAGE_TOKENS - 1) / PAGE_TOKENS;
    e->page_bytes =
        2 * e->model->n_head_kv * PAGE_TOKENS * e->model->head_size * (uint32_t)sizeof(uint16_t);
}

static uint64_t take(uint64_t *total, uint64_t bytes)
{
    uint64_t offset = *total;
    *total += div_up(bytes, 256) * 256;
    return offset;
}

void memory_lay_out_step(struct engine *e, uint32_t rows, uint64_t table)
{
    struct step_layout *l = &e->layout;
    uint64_t rows_bytes = rows * sizeof(uint32_t);
    bool matrix = memory_uses_matrix(e);
    *l = (struct step_layout){0};
    l->ids = take(&l->total, rows_bytes);
    l->pos = take(&l->total, rows_bytes);
    l->seq = take(&l->total, rows_bytes);
    l->logit_idx = take(&l->total, rows_bytes);
    l->samples = take(&l->total, rows * sizeof(struct sample_row));
    l->tasks = take(&l->total, matrix ? rows * sizeof(struct attention_task) : 0);
    l->pages = take(&l->total, table * sizeof(uint32_t));
    l->banned = take(&l->total, (uint64_t)e->info.max_seqs * MAX_BANS * sizeof(uint32_t));
    l->edits = take(&l->total, (uint64_t)e->max_edits * sizeof(struct logit_edit));
}

static void lay_out_in_band(struct engine *e)
{
    const struct model *m = e->model;
    struct in_band_layout *l = &e->in_band_layout;
    uint64_t rows = div_up(e->tuning.in_band_rows, 8) * 8;
    uint64_t f32 = rows * sizeof(float), f16 = rows * sizeof(uint16_t);
    *l = (struct in_band_layout){0};
    if (!memory_uses_matrix(e))
        return;
    if (e->tuning.in_band_rows > 0) {
        l->x_mid = take(&l->turn_bytes, f32 * m->n_embd);
        l->x_out = take(&l->turn_bytes, f32 * m->n_embd);
        l->attn_norm = take(&l->turn_bytes, f16 * m->n_embd);
        l->ff_norm = take(&l->turn_bytes, f16 * m->n_embd);
        l->attn = take(&l->turn_bytes, f16 * m->n_head * m->head_size);
        l->ff = take(&l->turn_bytes, f16 * m->n_ff);
        l->half = take(&l->turn_bytes, matrix_half_bytes(m->n_embd));
    }
    l->scratch = l->total = 2 * l->turn_bytes;
    if (e->tuning.rehearse != 0)
        take(&l->total, REHEARSE_ROWS * sizeof(uint16_t) * m->n_head * m->head_size);
}

void memory_size_step(struct engine *e)
{
    choose_batch(e);
    lay_out_in_band(e);
    memory_lay_out_step(e, e->max_rows, (uint64_t)e->info.max_seqs * e->pages_stride);
}

uint64_t memory_angles_bytes(const struct engine *e)
{
    return (uint64_t)e->info.max_ctx * (e->model->rope_dims / 2) * 2 * sizeof(float);
}

/* Gate and up in one matmul, which never writes what comes before the activation. */
static bool gates_inside(const struct engine *e)
{
    for (uint32_t i = 0; i < e->model->n_layer; i++) {
        const struct model_layer *l = &e->model->layers[i];
        if (l->ffn_gate_up == NULL && l->ffn_gate->type != l->ffn_up->type)
            return false;
    }
    return true;
}

size_t memory_buffers(struct engine *e, struct engine_buffer ret[ENGINE_BUFFERS])
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
    uint64_t split_rows = e->tuning.sample_parts == 1 ? 0 : SAMPLE_SPLIT_ROWS;
    uint64_t scratch = min_u64(e->max_logit_rows, split_rows) * SAMPLE_SCRATCH_WORDS * 4;
    uint64_t halves = 0; /* f16 rows and the whole tiles that are read behind them */
    bool matrix = memory_uses_matrix(e), dense = matrix && m->n_expert == 0;
    bool inside = dense && gates_inside(e),
         direct = e->tuning.direct_input != 0 && e->info.device.shares_memory;
    if (matrix)
        halves = (div_up(e->max_rows, MATRIX_PAD_ROWS) + 1) * MATRIX_PAD_ROWS * sizeof(uint16_t);
    const struct engine_buffer table[] = {
        {&e->step_host[0], GPU_UPLOAD, e->layout.total, "step input"},
        {&e->step_host[1], GPU_UPLOAD, e->layout.total, "step input"},
        {&e->step_device, GPU_DEVICE, direct ? 0 : e->layout.total, "step input"},
        {&e->step_direct[0], GPU_SHARED, direct ? e->layout.total : 0, "step input"},
        {&e->step_direct[1], GPU_SHARED, direct ? e->layout.total : 0, "step input"},
        {&e->x, GPU_DEVICE, row * m->n_embd, "residual stream"},
        {&e->normed, GPU_DEVICE, row * m->n_embd, "normalized rows"},
        {&e->qkv, GPU_DEVICE, row * (q + 2 * kv), "q, k, v"},
        {&e->attn, GPU_DEVICE, matrix ? 0 : row * q, "attention output"},
        {&e->embd_tiles, GPU_DEVICE, halves * m->n_embd, "normalized rows"},
        {&e->attn_tiles, GPU_DEVICE, halves * q, "attention output"},
        {&e->ff_tiles, GPU_DEVICE, dense ? halves * m->n_ff : 0, "feed-forward"},
        {&e->q, GPU_DEVICE, halves * q, "queries"},
        {&e->in_band, GPU_DEVICE, e->in_band_layout.total, "what arrives in band"},
        {&e->gate_up, GPU_DEVICE, inside ? 0 : row * 2 * ff, "gate and up"},
        {&e->hidden, GPU_DEVICE, inside ? 0 : row * ff, "feed-forward"},
        {&e->router, GPU_DEVICE, row * m->n_expert, "router"},
        {&e->expert_ids, GPU_DEVICE, pairs, "experts"},
        {&e->expert_weights, GPU_DEVICE, pairs, "experts"},
        {&e->expert_pairs, GPU_DEVICE, pairs, "experts"},
        {&e->expert_tiles, GPU_DEVICE, tiles * 16, "experts"},
        {&e->expert_out, GPU_DEVICE, pairs * m->n_embd, "experts"},
        {&e->logits, GPU_DEVICE, e->max_logit_rows * logits, "logits"},
        {&e->sample_scratch, GPU_DEVICE, scratch, "sampler"},
        {&e->bests, GPU_DEVICE, matrix ? MATRIX_BESTS_BYTES : 0, "sampler"},
        {&e->tokens_device, GPU_DEVICE, ids, "sampled ids"},
        {&e->tokens_host[0], GPU_READBACK, ids, "sampled ids"},
        {&e->tokens_host[1], GPU_READBACK, ids, "sampled ids"},
        {&e->logprobs_device, GPU_DEVICE, e->max_rows * sizeof(struct logprob_row),
         "log-probabilities"},
        {&e->logprobs_host[0], GPU_READBACK, e->max_rows * sizeof(struct logprob_row),
         "log-probabilities"},
        {&e->logprobs_host[1], GPU_READBACK, e->max_rows * sizeof(struct logprob_row),
         "log-probabilities"},
        {&e->logits_host, GPU_READBACK, e->options.logits_fn != NULL ? e->max_rows * logits : 0,
         "logits copy"},
    };
    static_assert(ARRAY_LEN(table) <= ENGINE_BUFFERS, "room for all of them");
    memcpy(ret, table, sizeof table);
    return ARRAY_LEN(table);
}

/* ---- the KV cache ---- */

static uint64_t kv_token_bytes(const struct engine *e)
{
    return (uint64_t)e->page_bytes * e->model->n_layer / PAGE_TOKENS;
}

enum err memory_choose_kv(struct engine *e, uint64_t free_bytes, uint32_t *ret_pages,
                          struct err_msg *why)
{
    uint64_t token_bytes = kv_token_bytes(e);
    uint64_t one = (uint64_t)e->pages_stride * PAGE_TOKENS; /* a longest sequence */
    uint64_t useful = one * e->info.max_seqs;
    uint64_t tokens = e->options.kv_tokens;
    if (tokens == 0) {
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
    /* A layer's pages are one buffer. Too small for a longest sequence: its allocation says so. */
    uint64_t buffer = e->info.device.max_buffer_bytes;
    if (buffer > BUFFER_SLACK_BYTES) {
        uint64_t pages = (buffer - BUFFER_SLACK_BYTES) / e->page_bytes;
        tokens = min_u64(tokens, max_u64(pages * PAGE_TOKENS, one));
    }
    tokens = min_u64(tokens, useful);
    *ret_pages = (uint32_t)min_u64(div_up(tokens, PAGE_TOKENS), UINT32_MAX / 2);
    e->info.kv_tokens = (uint64_t)*ret_pages * PAGE_TOKENS;
    e->info.kv_bytes = (uint64_t)*ret_pages * e->page_bytes * e->model->n_layer;
    return ERR_OK;
}

/* ---- beside the weights ---- */

/* On the device, whatever is free. */
static uint64_t fixed_bytes(struct engine *e)
{
    struct engine_buffer table[ENGINE_BUFFERS];
    size_t count = memory_buffers(e, table);
    uint64_t bytes = 2 * memory_angles_bytes(e);
    for (size_t i = 0; i < count; i++)
        bytes += table[i].kind == GPU_DEVICE || table[i].kind == GPU_SHARED ? table[i].bytes : 0;
    return bytes;
}

/* With the smallest cache: what was asked for, or one longest sequence. */
static uint64_t least_bytes(const struct engine *e)
{
    struct engine copy = *e;
    uint32_t pages = 0;
    bool known = memory_choose_kv(&copy, 1, &pages, NULL) == ERR_OK; /* else nothing will start */
    return fixed_bytes(&copy) + (known ? copy.info.kv_bytes : 0);
}

uint64_t memory_choose_forms(const struct engine *e, uint64_t free_bytes, bool ret[MATRIX_FORMS])
{
    /* Of what is free, while nine tenths of it hold them and all that there must be. Byte tiles
     * serve few rows alone, which a night has at its end. */
    static const uint64_t tenths[MATRIX_FORMS] = {[MATRIX_TILES] = 4, [MATRIX_BYTES] = 5};
    bool known = free_bytes != 0;
    uint64_t room = known ? free_bytes : e->info.device.memory_bytes / 8 * 5;
    uint64_t must = known ? least_bytes(e) : 0;
    uint64_t buffer = e->info.device.max_buffer_bytes, taken = 0;
    bool wanted = !e->options.no_tiles && memory_uses_matrix(e);
    for (enum matrix_form form = 0; form < MATRIX_FORMS; form++) {
        uint64_t largest = 0,
                 bytes = wanted ? weights_tiles_bytes(e->model, &e->tuning, form, &largest) : 0;
        bool in_one = buffer == 0 || largest + BUFFER_SLACK_BYTES <= buffer;
        ret[form] = in_one && bytes > 0 && (taken + bytes) * 10 <= room * tenths[form] &&
                    (must + taken + bytes) * 10 <= room * 9;
        wanted = ret[form];
        taken += ret[form] ? bytes : 0;
    }
    return taken;
}

/* ---- without a device ---- */

/* 0 stays "not known"; nothing left is 1. */
static uint64_t rest(uint64_t free_bytes, uint64_t taken)
{
    return free_bytes == 0 ? 0 : free_bytes > taken ? free_bytes - taken : 1;
}

enum err engine_plan_memory(const struct model *m, const struct gpu_device_info *device,
                            uint64_t free_bytes, const struct engine_options *o,
                            struct engine_memory *ret, struct err_msg *why)
{
    struct engine e = {.model = m,
                       .options = *o,
                       .tuning = memory_tuning(o, m, device->software),
                       .info.device = *device};
    struct engine_memory plan = {.free_bytes = free_bytes};
    uint32_t pages = 0;
    enum err r = weights_measure(m, &plan.weight_bytes, why);
    if (r != ERR_OK)
        return r;
    memory_size_step(&e);
    bool forms[MATRIX_FORMS];
    plan.weight_bytes += memory_choose_forms(&e, rest(free_bytes, plan.weight_bytes), forms);
    plan.activation_bytes = fixed_bytes(&e);
    /* What the engine will find when all that is on the device. */
    uint64_t fixed = plan.weight_bytes + plan.activation_bytes;
    r = memory_choose_kv(&e, rest(free_bytes, fixed), &pages, why);
    if (r != ERR_OK)
        return r;
    uint64_t one = (uint64_t)e.pages_stride * PAGE_TOKENS;
    plan.kv_token_bytes = kv_token_bytes(&e);
    plan.kv_tokens = e.info.kv_tokens;
    plan.kv_bytes = e.info.kv_bytes;
    plan.max_ctx = e.info.max_ctx;
    plan.max_seqs = e.info.max_seqs;
    plan.chunk_tokens = e.info.chunk_tokens;
    plan.sequences = (uint32_t)min_u64(plan.kv_tokens / one, plan.max_seqs);
    plan.total_bytes = fixed + plan.kv_bytes;
    plan.fits = plan.total_bytes <= (free_bytes != 0 ? free_bytes : device->memory_bytes);
    *ret = plan;
    return ERR_OK;
}
