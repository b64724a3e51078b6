/* From a checked GGUF container to a model: which architecture, its numbers, its tensors by role.
 *
 * Everything an architecture is stands in the tables of architecture.c. A key or a tensor that has
 * no place there and would change the result is an error, never ignored. */
#include "model/model.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/size.h"
#include "base/utf8.h"
#include "model/architecture.h"

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
    size_t len = 0, count;
    const struct architecture *list = architecture_list(&count);
    enum err e = gguf_get_str(m->gguf, "general.architecture", &name, why);
    if (e != ERR_OK)
        return e == ERR_NOT_FOUND ? ERR_FORMAT : e;
    for (size_t i = 0; i < count; i++) {
        if (str_eq(name, str_of(list[i].name))) {
            snprintf(m->architecture, sizeof(m->architecture), "%s", list[i].name);
            *ret = &list[i];
            return ERR_OK;
        }
        len += (size_t)snprintf(known + len, sizeof(known) - len, "%s%s", i == 0 ? "" : ", ",
                                list[i].name);
    }
    return err_set(why, ERR_UNSUPPORTED, "%s: architecture '%.*s' is not supported (supported: %s)",
                   gguf_path(m->gguf), (int)min_u64(name.len, 64), name.data, known);
}

static enum err check_forbidden(const struct model *m, struct err_msg *why)
{
    char key[128];
    uint32_t pooling = 0;
    bool causal = true;
    snprintf(key, sizeof(key), "%s.pooling_type", m->architecture);
    enum err e = gguf_get_u32(m->gguf, key, &pooling, why);
    if (e != ERR_OK && e != ERR_NOT_FOUND)
        return e;
    if (pooling != 0)
        return err_set(why, ERR_UNSUPPORTED,
                       "%s: key '%s' is %" PRIu32
                       ": an embedding model, not one that generates text, is not supported",
                       gguf_path(m->gguf), key, pooling);
    snprintf(key, sizeof(key), "%s.attention.causal", m->architecture);
    e = gguf_get_bool(m->gguf, key, &causal, why);
    if (e != ERR_OK && e != ERR_NOT_FOUND)
        return e;
    if (!causal)
        return err_set(why, ERR_UNSUPPORTED,
                       "%s: key '%s' is false: only causal attention is supported",
                       gguf_path(m->gguf), key);
    return ERR_OK;
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

static enum err read_list(struct model *m, const struct param *list, size_t count,
                          struct err_msg *why)
{
    for (size_t i = 0; i < count; i++) {
        enum err e = read_param(m, &list[i], why);
        if (e != ERR_OK)
            return e;
    }
    return ERR_OK;
}

static enum err check_experts(const struct model *m, const struct architecture *arch,
                              struct err_msg *why)
{
    if (m->n_expert == 0)
        return (arch->features & FEATURE_DENSE) != 0 || (arch->features & FEATURE_FUSED_FFN) != 0
                   ? ERR_OK
                   : err_set(why, ERR_FORMAT, "%s: key '%s.expert_count' is missing",
                             gguf_path(m->gguf), m->architecture);
    if ((arch->features & FEATURE_EXPERTS) == 0)
        return err_set(why, ERR_UNSUPPORTED,
                       "%s: key '%s.expert_count' is %" PRIu32
                       ": a mixture of experts is not supported in this architecture",
                       gguf_path(m->gguf), m->architecture, m->n_expert);
    if (m->n_expert_used == 0 || m->n_expert_used > m->n_expert ||
        m->n_expert_used > MODEL_MAX_EXPERTS_USED)
        return err_set(why, ERR_FORMAT,
                       "%s: %" PRIu32 " of %" PRIu32 " experts a token, expected 1 to %" PRIu32,
                       gguf_path(m->gguf), m->n_expert_used, m->n_expert,
                       (uint32_t)min_u64(m->n_expert, MODEL_MAX_EXPERTS_USED));
    return ERR_OK;
}

static enum err read_params(struct model *m, const struct architecture *arch, struct err_msg *why)
{
    char key[128];
    uint32_t unused;
    size_t count;
    m->rope.base = 10000.0f; /* what files without the key mean */
    const struct param *list = param_list(&count);
    enum err e = read_list(m, list, count, why);
    if (e != ERR_OK)
        return e;
    snprintf(key, sizeof(key), "%s.attention.key_length", m->architecture);
    if (m->n_embd % m->n_head != 0 && gguf_get_u32(m->gguf, key, &unused, NULL) == ERR_NOT_FOUND)
        return err_set(why, ERR_FORMAT,
                       "%s: a width of %" PRIu32 " cannot be cut into %" PRIu32 " heads",
                       gguf_path(m->gguf), m->n_embd, m->n_head);
    m->n_head_kv = m->n_head;
    m->head_size = m->n_embd / m->n_head;
    m->n_ff_expert = m->n_ff;
    list = derived_param_list(&count);
    for (size_t i = 0; i < count && e == ERR_OK; i++) {
        if (list[i].offset == offsetof(struct model, rope_dims))
            m->rope_dims = m->head_size;
        e = read_param(m, &list[i], why);
    }
    if (e == ERR_OK)
        e = check_heads(m, why);
    if (e == ERR_OK)
        e = check_experts(m, arch, why);
    if (e == ERR_OK)
        e = architecture_read(m, arch, why);
    return e;
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
    case DIM_QKV:
        return ((uint64_t)m->n_head + 2 * (uint64_t)m->n_head_kv) * m->head_size;
    case DIM_HEAD:
        return m->head_size;
    case DIM_ROPE_PAIRS:
        return m->rope_dims / 2;
    case DIM_GATE_UP:
        return 2 * (uint64_t)m->n_ff;
    case DIM_EXPERTS:
        return m->n_expert;
    case DIM_FF_EXPERT:
        return m->n_ff_expert;
    }
    return 0;
}

static enum err check_type(const struct model *m, const struct gguf_tensor *t,
                           const struct role *role, struct err_msg *why)
{
    if (!role->is_vector || t->type == TENSOR_F32)
        return ERR_OK; /* a matrix may have any type */
    return err_set(why, ERR_UNSUPPORTED, "%s: tensor '%.*s' has type %s, expected F32",
                   gguf_path(m->gguf), STR_ARG(t->name), tensor_type_find(t->type)->name);
}

static enum err find_role(struct model *m, const struct role *role, const char *name,
                          const struct gguf_tensor **ret, struct err_msg *why)
{
    uint64_t rows = dim_of(m, role->rows), cols = dim_of(m, role->cols);
    uint64_t stack = role->by_expert ? m->n_expert : 1;
    const struct gguf_tensor *t = gguf_tensor_find(m->gguf, name);
    if (t == NULL) {
        if (role->optional)
            return ERR_OK;
        return err_set(why, ERR_FORMAT, "%s: tensor '%s' is missing", gguf_path(m->gguf), name);
    }
    if (t->dims[0] != cols || t->dims[1] != rows || t->dims[2] != stack || t->dims[3] != 1) {
        char shape[96];
        size_t len = 0;
        for (uint32_t i = 0; i < t->dims_count; i++)
            len += (size_t)snprintf(shape + len, sizeof(shape) - len, "%s%" PRIu64,
                                    i == 0 ? "" : " x ", t->dims[i]);
        if (role->is_vector)
            return err_set(why, ERR_FORMAT, "%s: tensor '%s' is %s, expected %" PRIu64,
                           gguf_path(m->gguf), name, shape, cols);
        if (role->by_expert)
            return err_set(why, ERR_FORMAT,
                           "%s: tensor '%s' is %s, expected %" PRIu64 " x %" PRIu64 " x %" PRIu64,
                           gguf_path(m->gguf), name, shape, cols, rows, stack);
        return err_set(why, ERR_FORMAT, "%s: tensor '%s' is %s, expected %" PRIu64 " x %" PRIu64,
                       gguf_path(m->gguf), name, shape, cols, rows);
    }
    enum err e = check_type(m, t, role, why);
    if (e == ERR_OK)
        *ret = t;
    return e;
}

/* Finds the tensors of those roles that the model has; pointers go to base + offset. Counts what it
 * found. */
static enum err find_roles(struct model *m, uint32_t features, const struct role *roles,
                           size_t count, const char *prefix, void *base, size_t *found,
                           struct err_msg *why)
{
    for (size_t i = 0; i < count; i++) {
        const struct gguf_tensor *t = NULL;
        char name[96];
        if (roles[i].feature != 0 && (features & roles[i].feature) == 0)
            continue;
        snprintf(name, sizeof(name), "%s%s", prefix, roles[i].name);
        enum err e = find_role(m, &roles[i], name, &t, why);
        if (e != ERR_OK)
            return e;
        if (t == NULL)
            continue;
        memcpy((char *)base + roles[i].offset, &t, sizeof(t));
        (*found)++;
    }
    return ERR_OK;
}

static bool name_has_role(uint32_t features, const struct model *m, struct str name)
{
    char want[96];
    size_t globals_count, layer_count;
    const struct role *globals = global_roles(&globals_count), *layer = layer_roles(&layer_count);
    for (size_t i = 0; i < globals_count; i++)
        if (str_eq(name, str_of(globals[i].name)))
            return true;
    for (uint32_t n = 0; n < m->n_layer; n++)
        for (size_t i = 0; i < layer_count; i++) {
            if (layer[i].feature != 0 && (features & layer[i].feature) == 0)
                continue;
            snprintf(want, sizeof(want), "blk.%" PRIu32 ".%s", n, layer[i].name);
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
    size_t found = 0, globals_count, layer_count;
    const struct role *globals = global_roles(&globals_count), *layer = layer_roles(&layer_count);
    uint32_t features = arch->features & ~(m->n_expert > 0 ? FEATURE_DENSE : FEATURE_EXPERTS);
    enum err e = read_vocab(m, why);
    if (e == ERR_OK)
        e = find_roles(m, features, globals, globals_count, "", m, &found, why);
    if (e != ERR_OK)
        return e;
    if (m->output == NULL)
        m->output = m->token_embd;
    if (arch->local_rope_base == 0)
        m->rope_local = m->rope; /* with its factors, which are tensors */
    m->layers = calloc(m->n_layer, sizeof(*m->layers));
    if (m->layers == NULL)
        return err_set(why, ERR_NOMEM, "%s: out of memory", gguf_path(m->gguf));
    for (uint32_t i = 0; i < m->n_layer; i++) {
        char prefix[32];
        snprintf(prefix, sizeof(prefix), "blk.%" PRIu32 ".", i);
        m->layers[i].local = architecture_layer_is_local(m, arch, i);
        e = find_roles(m, features, layer, layer_count, prefix, &m->layers[i], &found, why);
        if (e != ERR_OK)
            return e;
    }
    for (size_t i = 0; found < gguf_tensor_count(m->gguf) && i < gguf_tensor_count(m->gguf); i++) {
        struct str name = gguf_tensor_at(m->gguf, i)->name;
        if (!name_has_role(features, m, name))
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
    const struct architecture *arch = NULL;
    struct model *m = calloc(1, sizeof(*m));
    if (m == NULL)
        return err_set(why, ERR_NOMEM, "%s: out of memory", gguf_path(*g));
    m->gguf = *g;
    enum err e = read_architecture(m, &arch, why);
    if (e == ERR_OK)
        e = read_params(m, arch, why);
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
