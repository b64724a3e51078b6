/* From a checked GGUF container to a model: which architecture, its numbers, its tensors by role.
 *
 * Everything an architecture is to this file stands in tables: the numbers it reads (params), the
 * tensors it has (roles) and the keys that would make it compute something else (forbidden). A key
 * or a tensor that has no place there and would change the result is an error, never ignored. */
#include "model/model.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/size.h"
#include "base/utf8.h"

/* What a tensor's dimension must be. */
enum dim { DIM_ONE, DIM_EMBD, DIM_FF, DIM_VOCAB, DIM_Q, DIM_KV };

enum role_kind {
    ROLE_MATRIX,  /* rows x cols, any supported weight type */
    ROLE_VECTOR,  /* cols values, F32 */
    ROLE_OPTIONAL /* a matrix that may be missing */
};

struct role {
    const char *name; /* tensor name; in a layer after "blk.N." */
    size_t offset;    /* of the pointer in struct model or struct model_layer */
    enum role_kind kind;
    enum dim rows, cols;
};

struct architecture {
    const char *name;
    const struct role *layer;
    size_t layer_count;
};

#define IN_LAYER(field) offsetof(struct model_layer, field)
static const struct role qwen2_layer[] = {
    {"attn_norm.weight", IN_LAYER(attn_norm), ROLE_VECTOR, DIM_ONE, DIM_EMBD},
    {"attn_q.weight", IN_LAYER(attn_q), ROLE_MATRIX, DIM_Q, DIM_EMBD},
    {"attn_q.bias", IN_LAYER(attn_q_bias), ROLE_VECTOR, DIM_ONE, DIM_Q},
    {"attn_k.weight", IN_LAYER(attn_k), ROLE_MATRIX, DIM_KV, DIM_EMBD},
    {"attn_k.bias", IN_LAYER(attn_k_bias), ROLE_VECTOR, DIM_ONE, DIM_KV},
    {"attn_v.weight", IN_LAYER(attn_v), ROLE_MATRIX, DIM_KV, DIM_EMBD},
    {"attn_v.bias", IN_LAYER(attn_v_bias), ROLE_VECTOR, DIM_ONE, DIM_KV},
    {"attn_output.weight", IN_LAYER(attn_output), ROLE_MATRIX, DIM_EMBD, DIM_Q},
    {"ffn_norm.weight", IN_LAYER(ffn_norm), ROLE_VECTOR, DIM_ONE, DIM_EMBD},
    {"ffn_gate.weight", IN_LAYER(ffn_gate), ROLE_MATRIX, DIM_FF, DIM_EMBD},
    {"ffn_up.weight", IN_LAYER(ffn_up), ROLE_MATRIX, DIM_FF, DIM_EMBD},
    {"ffn_down.weight", IN_LAYER(ffn_down), ROLE_MATRIX, DIM_EMBD, DIM_FF},
};
#undef IN_LAYER

static const struct role globals[] = {
    {"token_embd.weight", offsetof(struct model, token_embd), ROLE_MATRIX, DIM_VOCAB, DIM_EMBD},
    {"output_norm.weight", offsetof(struct model, output_norm), ROLE_VECTOR, DIM_ONE, DIM_EMBD},
    {"output.weight", offsetof(struct model, output), ROLE_OPTIONAL, DIM_VOCAB, DIM_EMBD},
};

static const struct architecture architectures[] = {
    {"qwen2", qwen2_layer, ARRAY_LEN(qwen2_layer)},
};

static const enum tensor_type weight_types[] = {TENSOR_F32, TENSOR_F16, TENSOR_Q8_0, TENSOR_Q4_K,
                                                TENSOR_Q6_K};

/* A number of the model under "ARCHITECTURE.key". */
struct param {
    const char *key;
    size_t offset;
    bool is_float;
    bool required; /* else the field keeps what the code put there */
    double min, max;
};

#define OF(field) offsetof(struct model, field)
static const struct param params[] = {
    {"block_count", OF(n_layer), false, true, 1, MODEL_MAX_LAYERS},
    {"embedding_length", OF(n_embd), false, true, 1, 1 << 18},
    {"feed_forward_length", OF(n_ff), false, true, 1, 1 << 20},
    {"context_length", OF(n_ctx_train), false, true, 1, 1 << 28},
    {"attention.head_count", OF(n_head), false, true, 1, 4096},
    {"attention.layer_norm_rms_epsilon", OF(rms_eps), true, true, 1e-12, 1e-1},
    {"rope.freq_base", OF(rope_base), true, false, 1, 1e12},
};
/* These default to something computed from the ones above. */
static const struct param derived_params[] = {
    {"attention.head_count_kv", OF(n_head_kv), false, false, 1, 4096},
    {"attention.key_length", OF(head_size), false, false, 2, 1 << 16},
    {"rope.dimension_count", OF(rope_dims), false, false, 2, 1 << 16},
};
#undef OF

/* Integer keys that must be absent or hold this value: anything else changes what the model
 * computes. */
static const struct {
    const char *key;
    uint32_t harmless;
    const char *meaning;
} forbidden[] = {
    {"expert_count", 0, "a mixture of experts"},
    {"attention.sliding_window", 0, "sliding-window attention"},
    {"pooling_type", 0, "an embedding model, not one that generates text"},
};

static enum err read_param(struct model *m, const struct param *p, struct err_msg *why)
{
    char key[128];
    char *field = (char *)m + p->offset;
    double value;
    uint32_t u = 0;
    float f = 0;
    snprintf(key, sizeof(key), "%s.%s", m->architecture, p->key);
    enum err e =
        p->is_float ? gguf_get_f32(m->gguf, key, &f, why) : gguf_get_u32(m->gguf, key, &u, why);
    if (e == ERR_NOT_FOUND && !p->required)
        return ERR_OK;
    if (e != ERR_OK)
        return e == ERR_NOT_FOUND ? ERR_FORMAT : e;
    value = p->is_float ? (double)f : (double)u;
    if (!(value >= p->min && value <= p->max))
        return err_set(why, ERR_RANGE, "%s: key '%s' is %g, expected %g to %g", gguf_path(m->gguf),
                       key, value, p->min, p->max);
    if (p->is_float)
        memcpy(field, &f, sizeof(f));
    else
        memcpy(field, &u, sizeof(u));
    return ERR_OK;
}

static enum err read_architecture(struct model *m, const struct architecture **ret,
                                  struct err_msg *why)
{
    struct str name;
    char known[128];
    size_t len = 0;
    enum err e = gguf_get_str(m->gguf, "general.architecture", &name, why);
    if (e != ERR_OK)
        return e == ERR_NOT_FOUND ? ERR_FORMAT : e;
    for (size_t i = 0; i < ARRAY_LEN(architectures); i++) {
        if (str_eq(name, str_of(architectures[i].name))) {
            snprintf(m->architecture, sizeof(m->architecture), "%s", architectures[i].name);
            *ret = &architectures[i];
            return ERR_OK;
        }
        len += (size_t)snprintf(known + len, sizeof(known) - len, "%s%s", i == 0 ? "" : ", ",
                                architectures[i].name);
    }
    return err_set(why, ERR_UNSUPPORTED, "%s: architecture '%.*s' is not supported (supported: %s)",
                   gguf_path(m->gguf), (int)min_u64(name.len, 64), name.data, known);
}

/* Scaled RoPE, under today's and the older key. */
static enum err check_rope_scaling(const struct model *m, struct err_msg *why)
{
    static const char *const factor_keys[] = {"rope.scaling.factor", "rope.scale_linear"};
    const char *path = gguf_path(m->gguf);
    char key[128];
    struct str type;
    snprintf(key, sizeof(key), "%s.rope.scaling.type", m->architecture);
    enum err e = gguf_get_str(m->gguf, key, &type, why);
    if (e == ERR_OK && !str_eq(type, STR_LIT("none")))
        return err_set(why, ERR_UNSUPPORTED, "%s: key '%s' is '%.*s', only 'none' is supported",
                       path, key, (int)min_u64(type.len, 64), type.data);
    if (e != ERR_NOT_FOUND)
        return e;
    for (size_t i = 0; i < ARRAY_LEN(factor_keys); i++) {
        float factor = 1;
        snprintf(key, sizeof(key), "%s.%s", m->architecture, factor_keys[i]);
        e = gguf_get_f32(m->gguf, key, &factor, why);
        if (e != ERR_OK && e != ERR_NOT_FOUND)
            return e;
        /* 0 is what converters write for "none". */
        if (factor != 1.0f && factor != 0.0f)
            return err_set(why, ERR_UNSUPPORTED, "%s: key '%s' is %g: scaled RoPE is not supported",
                           path, key, (double)factor);
    }
    return ERR_OK;
}

static enum err check_forbidden(const struct model *m, struct err_msg *why)
{
    char key[128];
    for (size_t i = 0; i < ARRAY_LEN(forbidden); i++) {
        uint32_t value;
        snprintf(key, sizeof(key), "%s.%s", m->architecture, forbidden[i].key);
        enum err e = gguf_get_u32(m->gguf, key, &value, why);
        if (e == ERR_NOT_FOUND)
            continue;
        if (e != ERR_OK)
            return e;
        if (value != forbidden[i].harmless)
            return err_set(why, ERR_UNSUPPORTED, "%s: key '%s' is %" PRIu32 ": %s is not supported",
                           gguf_path(m->gguf), key, value, forbidden[i].meaning);
    }
    bool causal = true;
    snprintf(key, sizeof(key), "%s.attention.causal", m->architecture);
    enum err e = gguf_get_bool(m->gguf, key, &causal, why);
    if (e != ERR_OK && e != ERR_NOT_FOUND)
        return e;
    if (!causal)
        return err_set(why, ERR_UNSUPPORTED,
                       "%s: key '%s' is false: only causal attention is supported",
                       gguf_path(m->gguf), key);
    return check_rope_scaling(m, why);
}

/* Numbers that must fit each other. */
static enum err check_heads(const struct model *m, struct err_msg *why)
{
    const char *path = gguf_path(m->gguf);
    uint32_t value_length = m->head_size;
    char key[128];
    snprintf(key, sizeof(key), "%s.attention.value_length", m->architecture);
    enum err e = gguf_get_u32(m->gguf, key, &value_length, why);
    if (e != ERR_OK && e != ERR_NOT_FOUND)
        return e;
    if (value_length != m->head_size)
        return err_set(why, ERR_UNSUPPORTED,
                       "%s: values of %" PRIu32 " and keys of %" PRIu32
                       " a head, only equal sizes are supported",
                       path, value_length, m->head_size);
    if (m->n_head % m->n_head_kv != 0)
        return err_set(why, ERR_FORMAT,
                       "%s: %" PRIu32 " heads cannot share %" PRIu32 " key/value heads", path,
                       m->n_head, m->n_head_kv);
    if (m->head_size < 2 || m->head_size % 2 != 0)
        return err_set(why, ERR_FORMAT, "%s: heads of %" PRIu32 " values, expected an even number",
                       path, m->head_size);
    if (m->rope_dims > m->head_size || m->rope_dims % 2 != 0)
        return err_set(why, ERR_FORMAT,
                       "%s: RoPE over %" PRIu32
                       " values, expected an even number up to the head's %" PRIu32,
                       path, m->rope_dims, m->head_size);
    return ERR_OK;
}

static enum err read_params(struct model *m, struct err_msg *why)
{
    char key[128];
    uint32_t unused;
    m->rope_base = 10000.0f; /* what files without the key mean */
    for (size_t i = 0; i < ARRAY_LEN(params); i++) {
        enum err e = read_param(m, &params[i], why);
        if (e != ERR_OK)
            return e;
    }
    snprintf(key, sizeof(key), "%s.attention.key_length", m->architecture);
    if (m->n_embd % m->n_head != 0 && gguf_get_u32(m->gguf, key, &unused, NULL) == ERR_NOT_FOUND)
        return err_set(why, ERR_FORMAT,
                       "%s: a width of %" PRIu32 " cannot be cut into %" PRIu32 " heads",
                       gguf_path(m->gguf), m->n_embd, m->n_head);
    m->n_head_kv = m->n_head;
    m->head_size = m->n_embd / m->n_head;
    for (size_t i = 0; i < ARRAY_LEN(derived_params); i++) {
        m->rope_dims = m->head_size;
        enum err e = read_param(m, &derived_params[i], why);
        if (e != ERR_OK)
            return e;
    }
    return check_heads(m, why);
}

static uint64_t dim_of(const struct model *m, enum dim d)
{
    switch (d) {
    case DIM_ONE:
        return 1;
    case DIM_EMBD:
        return m->n_embd;
    case DIM_FF:
        return m->n_ff;
    case DIM_VOCAB:
        return m->n_vocab;
    case DIM_Q:
        return (uint64_t)m->n_head * m->head_size;
    case DIM_KV:
        return (uint64_t)m->n_head_kv * m->head_size;
    }
    return 0;
}

static enum err check_type(const struct model *m, const struct gguf_tensor *t,
                           const struct role *role, struct err_msg *why)
{
    const char *name = tensor_type_find(t->type)->name;
    char known[128];
    size_t len = 0;
    if (role->kind == ROLE_VECTOR) {
        if (t->type == TENSOR_F32)
            return ERR_OK;
        return err_set(why, ERR_UNSUPPORTED, "%s: tensor '%.*s' has type %s, expected F32",
                       gguf_path(m->gguf), STR_ARG(t->name), name);
    }
    for (size_t i = 0; i < ARRAY_LEN(weight_types); i++) {
        if (t->type == weight_types[i])
            return ERR_OK;
        len += (size_t)snprintf(known + len, sizeof(known) - len, "%s%s", i == 0 ? "" : ", ",
                                tensor_type_find(weight_types[i])->name);
    }
    return err_set(why, ERR_UNSUPPORTED,
                   "%s: tensor '%.*s' has type %s, which is not supported (supported: %s)",
                   gguf_path(m->gguf), STR_ARG(t->name), name, known);
}

static enum err find_role(struct model *m, const struct role *role, const char *name,
                          const struct gguf_tensor **ret, struct err_msg *why)
{
    uint64_t rows = dim_of(m, role->rows), cols = dim_of(m, role->cols);
    const struct gguf_tensor *t = gguf_tensor_find(m->gguf, name);
    if (t == NULL) {
        if (role->kind == ROLE_OPTIONAL)
            return ERR_OK;
        return err_set(why, ERR_FORMAT, "%s: tensor '%s' is missing", gguf_path(m->gguf), name);
    }
    if (t->dims[0] != cols || t->dims[1] != rows || t->dims[2] != 1 || t->dims[3] != 1) {
        char shape[96];
        size_t len = 0;
        for (uint32_t i = 0; i < t->dims_count; i++)
            len += (size_t)snprintf(shape + len, sizeof(shape) - len, "%s%" PRIu64,
                                    i == 0 ? "" : " x ", t->dims[i]);
        if (role->kind == ROLE_VECTOR)
            return err_set(why, ERR_FORMAT, "%s: tensor '%s' is %s, expected %" PRIu64,
                           gguf_path(m->gguf), name, shape, cols);
        return err_set(why, ERR_FORMAT, "%s: tensor '%s' is %s, expected %" PRIu64 " x %" PRIu64,
                       gguf_path(m->gguf), name, shape, cols, rows);
    }
    enum err e = check_type(m, t, role, why);
    if (e == ERR_OK)
        *ret = t;
    return e;
}

/* Finds every tensor of `roles`; pointers go to base + offset. Counts what it found. */
static enum err find_roles(struct model *m, const struct role *roles, size_t count,
                           const char *prefix, void *base, size_t *found, struct err_msg *why)
{
    for (size_t i = 0; i < count; i++) {
        const struct gguf_tensor *t = NULL;
        char name[96];
        snprintf(name, sizeof(name), "%s%s", prefix, roles[i].name);
        enum err e = find_role(m, &roles[i], name, &t, why);
        if (e != ERR_OK)
            return e;
        memcpy((char *)base + roles[i].offset, &t, sizeof(t));
        *found += t != NULL;
    }
    return ERR_OK;
}

static bool name_has_role(const struct architecture *arch, const struct model *m, struct str name)
{
    char want[96];
    for (size_t i = 0; i < ARRAY_LEN(globals); i++)
        if (str_eq(name, str_of(globals[i].name)))
            return true;
    for (uint32_t layer = 0; layer < m->n_layer; layer++)
        for (size_t i = 0; i < arch->layer_count; i++) {
            snprintf(want, sizeof(want), "blk.%" PRIu32 ".%s", layer, arch->layer[i].name);
            if (str_eq(name, str_of(want)))
                return true;
        }
    return false;
}

/* The vocabulary's size: what token_embd has rows for, equal to the tokenizer's list where there is
 * one. */
static enum err read_vocab(struct model *m, struct err_msg *why)
{
    const struct str *tokens;
    size_t count;
    const struct gguf_tensor *t = gguf_tensor_find(m->gguf, "token_embd.weight");
    if (t == NULL)
        return err_set(why, ERR_FORMAT, "%s: tensor 'token_embd.weight' is missing%s",
                       gguf_path(m->gguf),
                       gguf_tensor_count(m->gguf) == 0 ? ": the file has a vocabulary only" : "");
    enum err e = gguf_get_strs(m->gguf, "tokenizer.ggml.tokens", &tokens, &count, why);
    if (e != ERR_OK && e != ERR_NOT_FOUND)
        return e;
    if (e == ERR_OK && count != t->dims[1])
        return err_set(why, ERR_FORMAT,
                       "%s: tensor 'token_embd.weight' has %" PRIu64
                       " rows, the vocabulary %zu tokens",
                       gguf_path(m->gguf), t->dims[1], count);
    if (t->dims[1] > INT32_MAX)
        return err_set(why, ERR_RANGE,
                       "%s: a vocabulary of %" PRIu64 " tokens, expected at most %d",
                       gguf_path(m->gguf), t->dims[1], INT32_MAX);
    m->n_vocab = (uint32_t)t->dims[1];
    return ERR_OK;
}

static enum err read_tensors(struct model *m, const struct architecture *arch, struct err_msg *why)
{
    size_t found = 0;
    enum err e = read_vocab(m, why);
    if (e == ERR_OK)
        e = find_roles(m, globals, ARRAY_LEN(globals), "", m, &found, why);
    if (e != ERR_OK)
        return e;
    if (m->output == NULL)
        m->output = m->token_embd;
    m->layers = calloc(m->n_layer, sizeof(*m->layers));
    if (m->layers == NULL)
        return err_set(why, ERR_NOMEM, "%s: out of memory", gguf_path(m->gguf));
    for (uint32_t i = 0; i < m->n_layer; i++) {
        char prefix[32];
        snprintf(prefix, sizeof(prefix), "blk.%" PRIu32 ".", i);
        e = find_roles(m, arch->layer, arch->layer_count, prefix, &m->layers[i], &found, why);
        if (e != ERR_OK)
            return e;
    }
    for (size_t i = 0; found < gguf_tensor_count(m->gguf) && i < gguf_tensor_count(m->gguf); i++) {
        struct str name = gguf_tensor_at(m->gguf, i)->name;
        if (!name_has_role(arch, m, name))
            return err_set(
                why, ERR_UNSUPPORTED,
                "%s: tensor '%.*s' has no place in a model of architecture '%s' with %" PRIu32
                " layers",
                gguf_path(m->gguf), STR_ARG(name), m->architecture, m->n_layer);
    }
    return ERR_OK;
}

/* weight_count, and the type that most of the matrices' bytes have. */
static void sum_up(struct model *m)
{
    uint64_t bytes[64] = {0};
    uint64_t best = 0;
    for (size_t i = 0; i < gguf_tensor_count(m->gguf); i++) {
        const struct gguf_tensor *t = gguf_tensor_at(m->gguf, i);
        m->weight_count += t->dims[0] * t->dims[1] * t->dims[2] * t->dims[3];
        if (t->dims_count > 1 && (size_t)t->type < ARRAY_LEN(bytes))
            bytes[t->type] += t->bytes;
    }
    for (size_t i = 0; i < ARRAY_LEN(bytes); i++)
        if (bytes[i] > best) {
            best = bytes[i];
            snprintf(m->quantization, sizeof(m->quantization), "%s",
                     tensor_type_find((uint32_t)i)->name);
        }
}

/* File name without directory and ".gguf"; it travels in messages, so it must be text. */
static void set_name(struct model *m)
{
    const char *base = strrchr(gguf_path(m->gguf), '/');
    base = base == NULL ? gguf_path(m->gguf) : base + 1;
    size_t len = strlen(base);
    if (len > 5 && strcmp(base + len - 5, ".gguf") == 0)
        len -= 5;
    bool cut = len > sizeof(m->name) - 1;
    if (cut)
        len = sizeof(m->name) - 1;
    memcpy(m->name, base, len);
    m->name[len] = '\0';
    for (size_t at = 0; (at += utf8_valid_prefix(m->name + at, len - at)) < len;) {
        if (cut && utf8_is_partial(m->name + at, len - at)) {
            m->name[at] = '\0';
            break;
        }
        m->name[at] = '?';
    }
    for (char *c = m->name; *c != '\0'; c++)
        if ((unsigned char)*c < 0x20 || *c == 0x7f)
            *c = '?';
}

enum err model_from_gguf(struct gguf **g, struct model **ret, struct err_msg *why)
{
    const struct architecture *arch;
    struct model *m = calloc(1, sizeof(*m));
    if (m == NULL)
        return err_set(why, ERR_NOMEM, "%s: out of memory", gguf_path(*g));
    m->gguf = *g;
    enum err e = read_architecture(m, &arch, why);
    if (e == ERR_OK)
        e = read_params(m, why);
    if (e == ERR_OK)
        e = check_forbidden(m, why);
    if (e == ERR_OK)
        e = read_tensors(m, arch, why);
    if (e != ERR_OK) {
        m->gguf = NULL; /* stays the caller's */
        model_close(&m);
        return e;
    }
    set_name(m);
    sum_up(m);
    *g = NULL;
    *ret = m;
    return ERR_OK;
}

enum err model_open(const char *path, struct model **ret, struct err_msg *why)
{
    struct gguf *g = NULL;
    enum err e = gguf_open(path, &g, why);
    if (e == ERR_OK)
        e = model_from_gguf(&g, ret, why);
    gguf_close(&g);
    return e;
}

void model_close(struct model **p)
{
    struct model *m = *p;
    if (m == NULL)
        return;
    gguf_close(&m->gguf);
    free(m->layers);
    free(m);
    *p = NULL;
}
