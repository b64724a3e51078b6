/* The architectures: one row each, and the tables of tensors and numbers they share. Sources: the
 * models' papers and configurations, and the names that GGUF files use. */
#include "model/architecture.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>

#include "base/size.h"

enum {
    PLAIN = FEATURE_SPLIT_QKV | FEATURE_DENSE,
};

static const struct architecture architectures[] = {
    /* Llama 1 to 3.x, TinyLlama, SmolLM2, Mistral; Mixtral with experts. Converters permute q and k
       for adjacent pairs. */
    {.name = "llama",
     .features = PLAIN | FEATURE_OPTIONAL_BIAS | FEATURE_EXPERTS,
     .rope_pairs_adjacent = true,
     .local_period = 1},
    {.name = "qwen2", .features = PLAIN | FEATURE_QKV_BIAS, .local_period = 1},
    {.name = "qwen3", .features = PLAIN | FEATURE_QK_NORM, .local_period = 1},
    {.name = "qwen3moe",
     .features = FEATURE_SPLIT_QKV | FEATURE_QK_NORM | FEATURE_EXPERTS,
     .local_period = 1},
    /* arXiv 2408.00118; 27B (46 layers) scales by the model's width. */
    {.name = "gemma2",
     .features = PLAIN | FEATURE_POST_NORM,
     .activation = MODEL_GELU,
     .scale_embeddings = true,
     .local_period = 2,
     .default_window = 4096,
     .default_attn_softcap = 50,
     .default_logit_softcap = 30,
     .wide_scale_layers = 46},
    /* arXiv 2503.19786; local layers keep the base 10,000; 27B has 62 layers. */
    {.name = "gemma3",
     .features = PLAIN | FEATURE_POST_NORM | FEATURE_QK_NORM,
     .activation = MODEL_GELU,
     .scale_embeddings = true,
     .local_period = 6,
     .local_rope_base = 10000,
     .wide_scale_layers = 62},
    {.name = "phi3", .features = FEATURE_FUSED_QKV | FEATURE_FUSED_FFN, .local_period = 1},
};

#define L(field) offsetof(struct model_layer, field)
#define VECTOR   .is_vector = true
#define OPTIONAL .optional = true
static const struct role layer[] = {
    {"attn_norm.weight", L(attn_norm), DIM_ONE, DIM_EMBD, VECTOR},
    {"attn_qkv.weight", L(attn_qkv), DIM_QKV, DIM_EMBD, FEATURE_FUSED_QKV},
    {"attn_q.weight", L(attn_q), DIM_Q, DIM_EMBD, FEATURE_SPLIT_QKV},
    {"attn_k.weight", L(attn_k), DIM_KV, DIM_EMBD, FEATURE_SPLIT_QKV},
    {"attn_v.weight", L(attn_v), DIM_KV, DIM_EMBD, FEATURE_SPLIT_QKV},
    {"attn_q.bias", L(attn_q_bias), DIM_ONE, DIM_Q, FEATURE_QKV_BIAS, VECTOR},
    {"attn_k.bias", L(attn_k_bias), DIM_ONE, DIM_KV, FEATURE_QKV_BIAS, VECTOR},
    {"attn_v.bias", L(attn_v_bias), DIM_ONE, DIM_KV, FEATURE_QKV_BIAS, VECTOR},
    {"attn_q.bias", L(attn_q_bias), DIM_ONE, DIM_Q, FEATURE_OPTIONAL_BIAS, VECTOR, OPTIONAL},
    {"attn_k.bias", L(attn_k_bias), DIM_ONE, DIM_KV, FEATURE_OPTIONAL_BIAS, VECTOR, OPTIONAL},
    {"attn_v.bias", L(attn_v_bias), DIM_ONE, DIM_KV, FEATURE_OPTIONAL_BIAS, VECTOR, OPTIONAL},
    {"attn_output.bias", L(attn_output_bias), DIM_ONE, DIM_EMBD, FEATURE_OPTIONAL_BIAS, VECTOR,
     OPTIONAL},
    {"attn_q_norm.weight", L(attn_q_norm), DIM_ONE, DIM_HEAD, FEATURE_QK_NORM, VECTOR},
    {"attn_k_norm.weight", L(attn_k_norm), DIM_ONE, DIM_HEAD, FEATURE_QK_NORM, VECTOR},
    {"attn_output.weight", L(attn_output), DIM_EMBD, DIM_Q},
    {"post_attention_norm.weight", L(attn_post_norm), DIM_ONE, DIM_EMBD, FEATURE_POST_NORM, VECTOR},
    {"ffn_norm.weight", L(ffn_norm), DIM_ONE, DIM_EMBD, VECTOR},
    {"ffn_up.weight", L(ffn_gate_up), DIM_GATE_UP, DIM_EMBD, FEATURE_FUSED_FFN},
    {"ffn_gate.weight", L(ffn_gate), DIM_FF, DIM_EMBD, FEATURE_DENSE},
    {"ffn_up.weight", L(ffn_up), DIM_FF, DIM_EMBD, FEATURE_DENSE},
    {"ffn_down.weight", L(ffn_down), DIM_EMBD, DIM_FF, FEATURE_DENSE | FEATURE_FUSED_FFN},
    {"post_ffw_norm.weight", L(ffn_post_norm), DIM_ONE, DIM_EMBD, FEATURE_POST_NORM, VECTOR},
    {"ffn_gate_inp.weight", L(ffn_router), DIM_EXPERTS, DIM_EMBD, FEATURE_EXPERTS},
    {"ffn_gate_exps.weight", L(ffn_gate_exps), DIM_FF_EXPERT, DIM_EMBD, FEATURE_EXPERTS,
     .by_expert = true},
    {"ffn_up_exps.weight", L(ffn_up_exps), DIM_FF_EXPERT, DIM_EMBD, FEATURE_EXPERTS,
     .by_expert = true},
    {"ffn_down_exps.weight", L(ffn_down_exps), DIM_EMBD, DIM_FF_EXPERT, FEATURE_EXPERTS,
     .by_expert = true},
};
#undef L

#define OF(field) offsetof(struct model, field)
static const struct role globals[] = {
    {"token_embd.weight", OF(token_embd), DIM_VOCAB, DIM_EMBD},
    {"output_norm.weight", OF(output_norm), DIM_ONE, DIM_EMBD, VECTOR},
    {"output.weight", OF(output), DIM_VOCAB, DIM_EMBD, OPTIONAL},
    {"rope_freqs.weight", OF(rope.factors), DIM_ONE, DIM_ROPE_PAIRS, VECTOR, OPTIONAL},
    {"rope_factors_short.weight", OF(rope.factors), DIM_ONE, DIM_ROPE_PAIRS, VECTOR, OPTIONAL},
    {"rope_factors_long.weight", OF(rope.factors_long), DIM_ONE, DIM_ROPE_PAIRS, VECTOR, OPTIONAL},
};

static const struct param params[] = {
    {"block_count", OF(n_layer), false, true, 1, MODEL_MAX_LAYERS},
    {"embedding_length", OF(n_embd), false, true, 1, 1 << 18},
    {"feed_forward_length", OF(n_ff), false, true, 1, 1 << 20},
    {"context_length", OF(n_ctx_train), false, true, 1, 1 << 28},
    {"attention.head_count", OF(n_head), false, true, 1, 4096},
    {"attention.layer_norm_rms_epsilon", OF(rms_eps), true, true, 1e-12, 1e-1},
    {"rope.freq_base", OF(rope.base), true, false, 1, 1e12},
    {"expert_count", OF(n_expert), false, false, 0, MODEL_MAX_EXPERTS},
    {"expert_used_count", OF(n_expert_used), false, false, 0, MODEL_MAX_EXPERTS},
};

static const struct param derived_params[] = {
    {"attention.head_count_kv", OF(n_head_kv), false, false, 1, 4096},
    {"attention.key_length", OF(head_size), false, false, 2, 1 << 16},
    {"rope.dimension_count", OF(rope_dims), false, false, 2, 1 << 16},
    {"expert_feed_forward_length", OF(n_ff_expert), false, false, 1, 1 << 20},
};
#undef OF

#define LIST(type, function, table)                                                                \
    const type *function(size_t *ret_count)                                                        \
    {                                                                                              \
        *ret_count = ARRAY_LEN(table);                                                             \
        return table;                                                                              \
    }
LIST(struct architecture, architecture_list, architectures)
LIST(struct role, global_roles, globals)
LIST(struct role, layer_roles, layer)
LIST(struct param, param_list, params)
LIST(struct param, derived_param_list, derived_params)

/* ---- what does not fit a table ---- */

/* An optional number "ARCHITECTURE.key", *value unchanged where the file has none. */
static enum err optional_f32(const struct model *m, const char *name, float *value,
                             struct err_msg *why)
{
    char key[128];
    snprintf(key, sizeof(key), "%s.%s", m->architecture, name);
    enum err e = gguf_get_f32(m->gguf, key, value, why);
    if (e == ERR_OK && !(isfinite(*value) && *value >= 0))
        return err_set(why, ERR_RANGE, "%s: key '%s' is %g, expected a number from 0 on",
                       gguf_path(m->gguf), key, (double)*value);
    return e == ERR_NOT_FOUND ? ERR_OK : e;
}

static enum err optional_u32(const struct model *m, const char *name, uint32_t *value,
                             struct err_msg *why)
{
    char key[128];
    snprintf(key, sizeof(key), "%s.%s", m->architecture, name);
    enum err e = gguf_get_u32(m->gguf, key, value, why);
    return e == ERR_NOT_FOUND ? ERR_OK : e;
}

static enum err read_rope(struct model *m, struct err_msg *why)
{
    static const struct {
        const char *name;
        enum model_rope_scaling scaling;
    } types[] = {{"none", ROPE_PLAIN},
                 {"linear", ROPE_LINEAR},
                 {"yarn", ROPE_YARN},
                 {"longrope", ROPE_FACTORS},
                 {"llama3", ROPE_FACTORS}};
    struct model_rope *r = &m->rope;
    char key[128];
    struct str type = {0};
    float old_factor = 0;
    r->attn_factor = 1;
    r->beta_fast = 32;
    r->beta_slow = 1;
    r->original_ctx = m->n_ctx_train;
    enum err e = optional_f32(m, "rope.scale_linear", &old_factor, why);
    if (e == ERR_OK)
        e = optional_f32(m, "rope.scaling.factor", &r->factor, why);
    if (e == ERR_OK)
        e = optional_f32(m, "rope.scaling.attn_factor", &r->attn_factor, why);
    if (e == ERR_OK)
        e = optional_f32(m, "rope.scaling.yarn_beta_fast", &r->beta_fast, why);
    if (e == ERR_OK)
        e = optional_f32(m, "rope.scaling.yarn_beta_slow", &r->beta_slow, why);
    if (e == ERR_OK)
        e = optional_u32(m, "rope.scaling.original_context_length", &r->original_ctx, why);
    if (e != ERR_OK)
        return e;
    if (r->factor == 0)
        r->factor = old_factor;
    snprintf(key, sizeof(key), "%s.rope.scaling.type", m->architecture);
    e = gguf_get_str(m->gguf, key, &type, why);
    if (e == ERR_NOT_FOUND) { /* the factor alone means linear, as old files have it */
        r->scaling = r->factor != 0 && r->factor != 1 ? ROPE_LINEAR : ROPE_PLAIN;
        return ERR_OK;
    }
    if (e != ERR_OK)
        return e;
    size_t i = 0;
    while (i < ARRAY_LEN(types) && !str_eq(type, str_of(types[i].name)))
        i++;
    if (i == ARRAY_LEN(types))
        return err_set(why, ERR_UNSUPPORTED,
                       "%s: key '%s' is '%.*s', supported are none, linear, yarn, longrope",
                       gguf_path(m->gguf), key, (int)min_u64(type.len, 64), type.data);
    r->scaling = types[i].scaling;
    if ((r->scaling == ROPE_LINEAR || r->scaling == ROPE_YARN) && r->factor == 0)
        return err_set(why, ERR_FORMAT,
                       "%s: key '%s' is '%.*s', but 'rope.scaling.factor' is missing",
                       gguf_path(m->gguf), key, STR_ARG(type));
    if (r->original_ctx == 0)
        return err_set(why, ERR_RANGE, "%s: rope.scaling.original_context_length is 0",
                       gguf_path(m->gguf));
    return ERR_OK;
}

enum err architecture_read(struct model *m, const struct architecture *a, struct err_msg *why)
{
    uint32_t head = a->wide_scale_layers != 0 && m->n_layer == a->wide_scale_layers
                        ? m->n_embd / m->n_head
                        : m->head_size;
    float scale = 0;
    m->rope_pairs_adjacent = a->rope_pairs_adjacent;
    m->activation = a->activation;
    m->embd_scale = a->scale_embeddings ? sqrtf((float)m->n_embd) : 1.0f;
    m->window = a->default_window;
    m->attn_softcap = a->default_attn_softcap;
    m->logit_softcap = a->default_logit_softcap;
    enum err e = optional_u32(m, "attention.sliding_window", &m->window, why);
    if (e == ERR_OK)
        e = optional_f32(m, "attn_logit_softcapping", &m->attn_softcap, why);
    if (e == ERR_OK)
        e = optional_f32(m, "final_logit_softcapping", &m->logit_softcap, why);
    if (e == ERR_OK)
        e = optional_f32(m, "attention.scale", &scale, why);
    if (e == ERR_OK)
        e = read_rope(m, why);
    if (e != ERR_OK)
        return e;
    m->attn_scale = scale > 0 ? scale : 1.0f / sqrtf((float)head);
    m->rope_local = m->rope;
    if (a->local_rope_base != 0) {
        m->rope_local = (struct model_rope){.base = a->local_rope_base, .attn_factor = 1};
        e = optional_f32(m, "rope.freq_base_swa", &m->rope_local.base, why);
    }
    return e;
}

bool architecture_layer_is_local(const struct model *m, const struct architecture *a, uint32_t i)
{
    if (m->window == 0)
        return false;
    return a->local_period <= 1 || i % a->local_period != a->local_period - 1;
}
