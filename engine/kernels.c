/* The kernels' table: which shader, which specialization, which grid. The shaders say what they
 * compute. */
#include "engine/kernels.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/hash.h"
#include "base/size.h"
#include "shaders/spirv.h"

#define PUSH_FITS(name) static_assert(sizeof(struct push_##name) <= GPU_PUSH_MAX_BYTES, #name)
PUSH_FITS(embed);
PUSH_FITS(rmsnorm);
PUSH_FITS(matmul);
PUSH_FITS(rope);
PUSH_FITS(attention);
PUSH_FITS(silu_mul);
PUSH_FITS(edit_logits);
PUSH_FITS(sample);
PUSH_FITS(logprobs);
PUSH_FITS(route);
PUSH_FITS(expert_tiles);
PUSH_FITS(combine);
PUSH_FITS(softcap);
static_assert(sizeof(struct sample_row) == 64, "the shader reads it packed");
static_assert(sizeof(struct logit_edit) == 16, "the shader reads it packed");
static_assert(sizeof(struct logprob_row) == 4 * (1 + 2 * MAX_TOP_LOGPROBS), "the shader packs it");

struct shader {
    const char *name;
    const uint32_t *spirv;
    size_t spirv_bytes;
    uint32_t push_bytes;
};
#define SHADER(file, push)                                                                         \
    {                                                                                              \
#file, spirv_##file, sizeof spirv_##file, sizeof(struct push_##push)                       \
    }

enum plain {
    RMSNORM,
    ROPE,
    ATTENTION_64,
    ATTENTION_128,
    ATTENTION_256,
    FEW_64, /* attention_few: up to this head size, so many query heads at a time */
    FEW_64_PAIRS,
    FEW_128,
    FEW_128_PAIRS,
    SILU_MUL,
    EDIT_LOGITS,
    SAMPLE,
    SAMPLE_PLAIN, /* rows that ban nothing, without top_k and min_p */
    LOGPROBS,
    SOFTCAP,
    ROUTE,
    EXPERT_TILES,
    COMBINE,
    PLAIN_COUNT
};
enum {
    ELEMENTS = 64,    /* invocations of kernels that work on single elements */
    GRID_ROW = 32768, /* workgroups, where one dimension of 65,535 is not enough */
    SAMPLE_FILL = 132 /* workgroups of SAMPLE: one for each multiprocessor of a large card */
};

enum { SPECS = 3 };
/* Kernels that do not read weights. spec: for software devices, for hardware. A CPU has few lanes
 * and dear barriers. */
static const struct plain_kernel {
    struct shader shader;
    uint32_t spec_count;
    uint32_t spec[2][SPECS];
} plains[PLAIN_COUNT] = {
    [RMSNORM] = {SHADER(rmsnorm, rmsnorm), 1, {{8}, {256}}},
    [ROPE] = {SHADER(rope, rope), 1, {{ELEMENTS}, {ELEMENTS}}},
    [ATTENTION_64] = {SHADER(attention, attention), 2, {{32, 32}, {32, 32}}},
    [ATTENTION_128] = {SHADER(attention, attention), 2, {{32, 64}, {32, 64}}},
    [ATTENTION_256] = {SHADER(attention, attention), 2, {{32, 128}, {32, 128}}},
    [FEW_64] = {SHADER(attention_few, attention), 2, {{16, 1}, {16, 1}}},
    [FEW_64_PAIRS] = {SHADER(attention_few, attention), 2, {{16, 2}, {16, 2}}},
    [FEW_128] = {SHADER(attention_few, attention), 2, {{32, 1}, {32, 1}}},
    [FEW_128_PAIRS] = {SHADER(attention_few, attention), 2, {{32, 2}, {32, 2}}},
    [SILU_MUL] = {SHADER(silu_mul, silu_mul), 1, {{ELEMENTS}, {ELEMENTS}}},
    [EDIT_LOGITS] = {SHADER(edit_logits, edit_logits), 1, {{ELEMENTS}, {256}}},
    [SAMPLE] = {SHADER(sample, sample), 3, {{64, 1, false}, {SAMPLE_GROUPS, 4, false}}},
    [SAMPLE_PLAIN] = {SHADER(sample, sample), 3, {{64, 1, true}, {SAMPLE_GROUPS, 4, true}}},
    [LOGPROBS] = {SHADER(logprobs, logprobs), 1, {{128}, {256}}},
    [SOFTCAP] = {SHADER(softcap, softcap), 1, {{ELEMENTS}, {ELEMENTS}}},
    [ROUTE] = {SHADER(route, route), 1, {{8}, {32}}},
    [EXPERT_TILES] = {SHADER(expert_tiles, expert_tiles), 1, {{32}, {256}}},
    [COMBINE] = {SHADER(combine, combine), 1, {{ELEMENTS}, {ELEMENTS}}},
};

static const struct weight_kernel {
    enum tensor_type type;
    struct shader embed, matmul;
} weights[] = {
    {TENSOR_F32, SHADER(embed_f32, embed), SHADER(matmul_f32, matmul)},
    {TENSOR_F16, SHADER(embed_f16, embed), SHADER(matmul_f16, matmul)},
    {TENSOR_BF16, SHADER(embed_bf16, embed), SHADER(matmul_bf16, matmul)},
    {TENSOR_Q4_0, SHADER(embed_q4_0, embed), SHADER(matmul_q4_0, matmul)},
    {TENSOR_Q4_1, SHADER(embed_q4_1, embed), SHADER(matmul_q4_1, matmul)},
    {TENSOR_Q5_0, SHADER(embed_q5_0, embed), SHADER(matmul_q5_0, matmul)},
    {TENSOR_Q5_1, SHADER(embed_q5_1, embed), SHADER(matmul_q5_1, matmul)},
    {TENSOR_Q8_0, SHADER(embed_q8_0, embed), SHADER(matmul_q8_0, matmul)},
    {TENSOR_Q2_K, SHADER(embed_q2_k, embed), SHADER(matmul_q2_k, matmul)},
    {TENSOR_Q3_K, SHADER(embed_q3_k, embed), SHADER(matmul_q3_k, matmul)},
    {TENSOR_Q4_K, SHADER(embed_q4_k, embed), SHADER(matmul_q4_k, matmul)},
    {TENSOR_Q5_K, SHADER(embed_q5_k, embed), SHADER(matmul_q5_k, matmul)},
    {TENSOR_Q6_K, SHADER(embed_q6_k, embed), SHADER(matmul_q6_k, matmul)},
    {TENSOR_IQ4_NL, SHADER(embed_iq4_nl, embed), SHADER(matmul_iq4_nl, matmul)},
    {TENSOR_IQ4_XS, SHADER(embed_iq4_xs, embed), SHADER(matmul_iq4_xs, matmul)},
    {TENSOR_MXFP4, SHADER(embed_mxfp4, embed), SHADER(matmul_mxfp4, matmul)},
};

/* How matmul.comp loads activations. */
enum { LOAD_ANY, LOAD_VEC4, LOAD_BROADCAST };

/* matmul.comp's specializations, all of the same arithmetic. Chosen: of those of the device's kind
 * that can load the shape and give it enough workgroups, the first whose rows are enough, else the
 * first with the most rows. On software devices a workgroup is one subgroup with eight columns an
 * invocation: whole stripes are read front to back, and a broadcast is used eight times. */
static const struct matmul_variant {
    uint32_t lanes, slices, rows, columns, load; /* the shader's constants */
    uint32_t least_groups;                       /* fewer would leave the device idle */
    bool software, hardware;                     /* which devices use it unforced */
} variants[] = {
    {8, 1, 1, 8, LOAD_BROADCAST, 0, true, false}, {8, 1, 4, 8, LOAD_BROADCAST, 0, true, false},
    {8, 1, 8, 8, LOAD_BROADCAST, 0, true, false}, {32, 8, 1, 1, LOAD_VEC4, 0, false, true},
    {32, 8, 4, 1, LOAD_VEC4, 0, false, true},     {64, 1, 8, 2, LOAD_VEC4, 100, false, true},
    {32, 4, 8, 1, LOAD_VEC4, 0, false, true},     {64, 1, 8, 1, LOAD_ANY, 0, true, true},
};
enum { VARIANTS = ARRAY_LEN(variants) };
static_assert(VARIANTS <= 8, "kernels_matmul_variants");

struct kernels {
    struct gpu *gpu;
    bool software;
    bool can_broadcast; /* subgroups of 8 or more */
    bool few_lanes;     /* attention_few */
    uint32_t max_invocations;
    uint64_t types;
    uint32_t forced;       /* variant + 1 */
    uint32_t sample_ahead; /* 1: one workgroup a row */
    uint32_t forced_parts;
    struct gpu_pipeline *plain[PLAIN_COUNT];
    struct gpu_pipeline *embed[ARRAY_LEN(weights)];
    struct gpu_pipeline *matmul[ARRAY_LEN(weights)][VARIANTS];
    struct gpu_pipelines wanted; /* of the above, not created yet */
    char hash[33];
};

static enum err want(struct kernels *k, const struct shader *s, const uint32_t *spec,
                     uint32_t spec_count, struct gpu_pipeline **ret, struct err_msg *why)
{
    struct gpu_pipeline_options o = {.name = s->name,
                                     .spirv = s->spirv,
                                     .spirv_bytes = s->spirv_bytes,
                                     .push_bytes = s->push_bytes,
                                     .spec = spec,
                                     .spec_count = spec_count};
    return gpu_pipelines_add(&k->wanted, &o, ret, why);
}

static enum err want_matmul(struct kernels *k, size_t type, uint32_t variant, struct err_msg *why)
{
    if (k->matmul[type][variant] != NULL)
        return ERR_OK;
    const struct matmul_variant *v = &variants[variant];
    const uint32_t spec[] = {v->lanes, v->slices, v->rows, v->columns, v->load};
    return want(k, &weights[type].matmul, spec, ARRAY_LEN(spec), &k->matmul[type][variant], why);
}

static bool is_used(const struct kernels *k, const struct matmul_variant *v)
{
    return (k->software ? v->software : v->hardware) &&
           (v->load != LOAD_BROADCAST || k->can_broadcast);
}

/* Of kernels that do not read weights. A device of small workgroups: sample's result is the same in
 * any. */
static void plain_spec(const struct kernels *k, size_t i, uint32_t ret[SPECS])
{
    memcpy(ret, plains[i].spec[!k->software], sizeof plains[i].spec[0]);
    if ((i == SAMPLE || i == SAMPLE_PLAIN) && ret[0] > k->max_invocations)
        ret[0] = 256;
}

/* All shaders and what this device makes of them, whatever types are in use. */
static enum err make_hash(struct kernels *k, struct err_msg *why)
{
    struct buf all = {0};
    enum err e = ERR_OK;
    for (size_t i = 0; i < PLAIN_COUNT && e == ERR_OK; i++) {
        uint32_t spec[SPECS];
        plain_spec(k, i, spec);
        e = buf_append(&all, plains[i].shader.spirv, plains[i].shader.spirv_bytes);
        if (e == ERR_OK)
            e = buf_append(&all, spec, sizeof spec);
    }
    for (size_t i = 0; i < ARRAY_LEN(weights) && e == ERR_OK; i++) {
        e = buf_append(&all, weights[i].embed.spirv, weights[i].embed.spirv_bytes);
        if (e == ERR_OK)
            e = buf_append(&all, weights[i].matmul.spirv, weights[i].matmul.spirv_bytes);
    }
    for (size_t i = 0; i < VARIANTS && e == ERR_OK; i++)
        if (is_used(k, &variants[i]))
            e = buf_append(&all, &variants[i], 5 * sizeof(uint32_t));
    if (e == ERR_OK)
        hash128_hex(all.data, all.len, k->hash);
    else
        err_set(why, e, "out of memory for the shaders' hash");
    buf_free(&all);
    return e;
}

enum err kernels_create(struct gpu *g, uint64_t types, struct kernels **ret, struct err_msg *why)
{
    static const uint32_t elements = ELEMENTS;
    struct kernels *k = calloc(1, sizeof *k);
    if (k == NULL)
        return err_set(why, ERR_NOMEM, "out of memory for the kernels");
    k->gpu = g;
    k->software = gpu_info(g)->software;
    k->can_broadcast = gpu_info(g)->subgroup_size >= 8;
    k->few_lanes = k->software && gpu_info(g)->subgroup_size == 8;
    k->max_invocations = gpu_info(g)->max_invocations;
    k->types = types | UINT64_C(1) << TENSOR_F32;
    k->sample_ahead = plains[SAMPLE].spec[!k->software][1];
    enum err e = make_hash(k, why);
    for (size_t i = 0; i < PLAIN_COUNT && e == ERR_OK; i++) {
        if (i == SAMPLE_PLAIN && k->sample_ahead == 1)
            continue; /* reads no lines at once */
        uint32_t spec[SPECS];
        plain_spec(k, i, spec);
        e = want(k, &plains[i].shader, spec, plains[i].spec_count, &k->plain[i], why);
    }
    for (size_t t = 0; t < ARRAY_LEN(weights) && e == ERR_OK; t++) {
        if (!(k->types >> weights[t].type & 1))
            continue;
        e = want(k, &weights[t].embed, &elements, 1, &k->embed[t], why);
        for (uint32_t v = 0; v < VARIANTS && e == ERR_OK; v++)
            if (is_used(k, &variants[v]))
                e = want_matmul(k, t, v, why);
    }
    if (e == ERR_OK)
        e = gpu_pipelines_create(g, &k->wanted, why);
    if (e != ERR_OK) {
        kernels_destroy(&k);
        return e;
    }
    *ret = k;
    return ERR_OK;
}

void kernels_destroy(struct kernels **k)
{
    if (*k != NULL)
        gpu_pipelines_free(&(*k)->wanted);
    free(*k); /* pipelines belong to the gpu */
    *k = NULL;
}

const char *kernels_build_hash(const struct kernels *k)
{
    return k->hash;
}

static size_t weight_index(const struct kernels *k, enum tensor_type type)
{
    size_t i = 0;
    while (i < ARRAY_LEN(weights) && weights[i].type != type)
        i++;
    assert(i < ARRAY_LEN(weights) && k->embed[i] != NULL);
    return i;
}

void kernel_embed(struct kernels *k, const struct push_embed *p, enum tensor_type type)
{
    uint32_t groups = (uint32_t)div_up(p->n_embd, 32);
    gpu_dispatch(k->gpu, k->embed[weight_index(k, type)], p, (uint32_t)div_up(groups, ELEMENTS),
                 p->rows, 1);
}

void kernel_rmsnorm(struct kernels *k, const struct push_rmsnorm *p)
{
    struct push_rmsnorm q = *p;
    if (q.heads == 0) {
        q.heads = 1;
        q.stride = q.cols;
    }
    uint32_t x = (uint32_t)min_u64(q.rows, GRID_ROW);
    if (x > 0)
        gpu_dispatch(k->gpu, k->plain[RMSNORM], &q, x, (uint32_t)div_up(q.rows, x), 1);
}

static uint32_t columns_of(const struct matmul_variant *v)
{
    return v->lanes * v->columns;
}

static bool can_load(const struct matmul_variant *v, const struct push_matmul *p)
{
    switch (v->load) {
    case LOAD_VEC4:
        return p->k % 4 == 0 && p->a % 16 == 0;
    case LOAD_BROADCAST:
        return p->k % 2 == 0 && p->a % 8 == 0;
    default:
        return true;
    }
}

static uint32_t choose_variant(const struct kernels *k, const struct push_matmul *p)
{
    uint32_t best = VARIANTS;
    if (k->forced > 0 && can_load(&variants[k->forced - 1], p))
        return k->forced - 1;
    for (uint32_t i = 0; i < VARIANTS; i++) {
        const struct matmul_variant *v = &variants[i];
        bool have = best < VARIANTS;
        if (!is_used(k, v) || !can_load(v, p) || (have && variants[best].rows >= v->rows))
            continue;
        if (have && v->load == LOAD_ANY && variants[best].load != LOAD_ANY)
            continue;
        if (div_up(p->n, columns_of(v)) * div_up(p->rows, v->rows) < v->least_groups)
            continue;
        best = i;
        if (v->rows >= p->rows)
            break;
    }
    assert(best < VARIANTS);
    return best;
}

void kernel_matmul(struct kernels *k, const struct push_matmul *p, enum tensor_type type)
{
    uint32_t i = choose_variant(k, p);
    const struct matmul_variant *v = &variants[i];
    gpu_dispatch(k->gpu, k->matmul[weight_index(k, type)][i], p,
                 (uint32_t)div_up(p->n, columns_of(v)), (uint32_t)div_up(p->rows, v->rows), 1);
}

void kernel_rope(struct kernels *k, const struct push_rope *p)
{
    uint64_t items =
        (uint64_t)p->n_head * (p->rope_dims / 2) + (uint64_t)p->n_head_kv * p->head_size;
    gpu_dispatch(k->gpu, k->plain[ROPE], p, (uint32_t)div_up(items, ELEMENTS), p->rows, 1);
}

void kernel_attention(struct kernels *k, const struct push_attention *p)
{
    assert(p->head_size % 2 == 0 && p->head_size <= ATTENTION_MAX_HEAD_SIZE);
    enum plain i = p->head_size <= 64    ? ATTENTION_64
                   : p->head_size <= 128 ? ATTENTION_128
                                         : ATTENTION_256;
    uint32_t heads = 1;
    if (k->few_lanes && p->head_size <= 128 && p->head_size % 4 == 0) {
        heads = p->n_head / p->n_head_kv % 2 == 0 ? 2 : 1;
        if (p->head_size <= 64)
            i = heads == 2 ? FEW_64_PAIRS : FEW_64;
        else
            i = heads == 2 ? FEW_128_PAIRS : FEW_128;
    }
    gpu_dispatch(k->gpu, k->plain[i], p, p->n_head / heads, p->rows, 1);
}

void kernel_silu_mul(struct kernels *k, const struct push_silu_mul *p)
{
    gpu_dispatch(k->gpu, k->plain[SILU_MUL], p, (uint32_t)div_up(p->cols, ELEMENTS), p->rows, 1);
}

/* Workgroups a row. */
static uint32_t sample_parts(const struct kernels *k, uint32_t rows)
{
    static_assert(SAMPLE_FILL / SAMPLE_SPLIT_ROWS >= 2 && SAMPLE_FILL / (SAMPLE_SPLIT_ROWS + 1) < 2,
                  "those that have scratch");
    if (k->sample_ahead == 1 || rows == 0 || rows > SAMPLE_SPLIT_ROWS)
        return 1;
    if (k->forced_parts > 0)
        return k->forced_parts;
    return (uint32_t)min_u64(SAMPLE_FILL / rows, SAMPLE_MOST_PARTS);
}

void kernel_sample(struct kernels *k, const struct push_sample *p, bool draws, bool plain)
{
    bool lines = p->n_vocab % 4 == 0 && p->logits % 16 == 0;
    enum plain id = plain && lines && k->plain[SAMPLE_PLAIN] != NULL ? SAMPLE_PLAIN : SAMPLE;
    struct push_sample q = *p;
    uint32_t parts = sample_parts(k, p->rows);
    if (parts > 1 && p->bests_count == 0) {
        q.stage = SAMPLE_BEST;
        gpu_dispatch(k->gpu, k->plain[id], &q, p->rows, parts, 1);
        if (!draws)
            return;
        gpu_barrier(k->gpu);
    }
    q.stage = SAMPLE_DRAW;
    gpu_dispatch(k->gpu, k->plain[id], &q, p->rows, draws ? parts : 1, 1);
}

void kernel_edit_logits(struct kernels *k, const struct push_edit_logits *p)
{
    gpu_dispatch(k->gpu, k->plain[EDIT_LOGITS], p, p->rows, 1, 1);
}

void kernel_logprobs(struct kernels *k, const struct push_logprobs *p)
{
    gpu_dispatch(k->gpu, k->plain[LOGPROBS], p, p->rows, 1, 1);
}

void kernel_softcap(struct kernels *k, const struct push_softcap *p)
{
    struct push_softcap q = *p;
    uint32_t groups = (uint32_t)div_up(p->count, ELEMENTS);
    q.row_groups = (uint32_t)min_u64(groups, GRID_ROW);
    if (q.row_groups > 0)
        gpu_dispatch(k->gpu, k->plain[SOFTCAP], &q, q.row_groups,
                     (uint32_t)div_up(groups, q.row_groups), 1);
}

/* ---- mixture of experts ---- */

uint32_t kernel_expert_tiles_count(uint32_t pairs, uint32_t n_expert)
{
    return pairs / EXPERT_TILE + n_expert;
}

void kernel_route(struct kernels *k, const struct push_route *p)
{
    gpu_dispatch(k->gpu, k->plain[ROUTE], p,
                 (uint32_t)div_up(p->rows, plains[ROUTE].spec[!k->software][0]), 1, 1);
}

void kernel_expert_tiles(struct kernels *k, const struct push_expert_tiles *p)
{
    assert(p->n_expert <= MAX_EXPERTS);
    if (p->pairs > 0)
        gpu_dispatch(k->gpu, k->plain[EXPERT_TILES], p, 1, 1, 1);
}

void kernel_combine(struct kernels *k, const struct push_combine *p)
{
    gpu_dispatch(k->gpu, k->plain[COMBINE], p, (uint32_t)div_up(p->cols, ELEMENTS), p->rows, 1);
}

/* The first variant that takes all of a tile at once. */
void kernel_expert_matmul(struct kernels *k, const struct push_matmul *p, enum tensor_type type,
                          uint32_t tiles_count)
{
    uint32_t i = 0;
    while (i < VARIANTS && !(variants[i].rows >= EXPERT_TILE && is_used(k, &variants[i]) &&
                             can_load(&variants[i], p)))
        i++;
    assert(i < VARIANTS); /* every k and address is a multiple of 4 values here */
    gpu_dispatch(k->gpu, k->matmul[weight_index(k, type)][i], p,
                 (uint32_t)div_up(p->n, columns_of(&variants[i])), tiles_count, 1);
}

/* ---- for tests ---- */

bool kernels_force_matmul(struct kernels *k, uint32_t variant)
{
    if (variant > VARIANTS)
        return false;
    if (variant > 0 && variants[variant - 1].load == LOAD_BROADCAST && !k->can_broadcast)
        return false;
    for (size_t t = 0; t < ARRAY_LEN(weights) && variant > 0; t++)
        if (k->embed[t] != NULL && want_matmul(k, t, variant - 1, NULL) != ERR_OK)
            return false;
    if (gpu_pipelines_create(k->gpu, &k->wanted, NULL) != ERR_OK)
        return false;
    k->forced = variant;
    return true;
}

bool kernels_force_sample(struct kernels *k, uint32_t invocations, uint32_t ahead)
{
    k->sample_ahead = ahead;
    k->plain[SAMPLE_PLAIN] = NULL;
    bool ok = invocations <= k->max_invocations && SAMPLE_GROUPS % invocations == 0;
    for (uint32_t plain = 0; plain <= (ahead > 1) && ok; plain++) {
        const uint32_t spec[] = {invocations, ahead, plain};
        enum plain id = plain ? SAMPLE_PLAIN : SAMPLE;
        ok = want(k, &plains[id].shader, spec, ARRAY_LEN(spec), &k->plain[id], NULL) == ERR_OK;
    }
    return ok && gpu_pipelines_create(k->gpu, &k->wanted, NULL) == ERR_OK;
}

void kernels_set_sample_parts(struct kernels *k, uint32_t parts)
{
    k->forced_parts = parts;
}

void kernels_force_common_attention(struct kernels *k)
{
    k->few_lanes = false;
}

size_t kernels_matmul_variants(uint32_t ret[8])
{
    for (uint32_t i = 0; i < VARIANTS; i++)
        ret[i] = i + 1;
    return VARIANTS;
}
