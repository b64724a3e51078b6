/* The oracle's models: random weights, and the GGUF file that holds them. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/size.h"
#include "model/gguf_write.h"
#include "tests/check.h"
#include "tests/engine/oracle_impl.h"

const float *oracle_tensor(const struct oracle *o, int layer, const char *name)
{
    char full[sizeof o->tensors[0].name];
    if (layer < 0)
        snprintf(full, sizeof full, "%s", name);
    else
        snprintf(full, sizeof full, "blk.%d.%s", layer, name);
    for (size_t i = 0; i < o->tensors_count; i++)
        if (strcmp(o->tensors[i].name, full) == 0)
            return o->tensors[i].data;
    return NULL;
}

/* A BF16 number is an F32 number's upper half. */
static uint16_t upper_half(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return (uint16_t)(bits >> 16);
}

static float cut(float x)
{
    uint32_t bits = (uint32_t)upper_half(x) << 16;
    memcpy(&x, &bits, sizeof x);
    return x;
}

struct maker {
    struct oracle *o;
    struct check_rng rng;
    int layer;
};

/* Values middle +- spread, evenly. A vector has no rows, a matrix no stack (0). */
static void make(struct maker *m, const char *name, float middle, float spread, uint64_t cols,
                 uint64_t rows, uint64_t stack)
{
    struct oracle_tensor *t = &m->o->tensors[m->o->tensors_count];
    uint64_t count = cols * max_u64(rows, 1) * max_u64(stack, 1);
    if (m->o->tensors_count == ORACLE_MAX_TENSORS)
        abort(); /* a case too large for the table */
    *t = (struct oracle_tensor){.dims = {cols, rows, stack},
                                .dims_count = stack > 0  ? 3
                                              : rows > 0 ? 2
                                                         : 1,
                                .data = malloc(count * sizeof *t->data)};
    if (t->data == NULL)
        abort();
    if (m->layer < 0)
        snprintf(t->name, sizeof t->name, "%s", name);
    else
        snprintf(t->name, sizeof t->name, "blk.%d.%s", m->layer, name);
    for (uint64_t i = 0; i < count; i++)
        t->data[i] = check_rng_float(&m->rng, middle - spread, middle + spread);
    t->bf16 = m->o->c.gate_bf16 && strcmp(name, "ffn_gate.weight") == 0;
    for (uint64_t i = 0; t->bf16 && i < count; i++)
        t->data[i] = cut(t->data[i]);
    m->o->tensors_count++;
}

static void vector(struct maker *m, const char *name, uint64_t n)
{
    make(m, name, 1, 0.4f, n, 0, 0);
}

static void bias(struct maker *m, const char *name, uint64_t n)
{
    make(m, name, 0, 1, n, 0, 0);
}

/* Rows whose product with values of variance 1 has the standard deviation `gain`. */
static void matrix(struct maker *m, const char *name, float gain, uint64_t rows, uint64_t cols,
                   uint64_t stack)
{
    make(m, name, 0, gain * sqrtf(3.0f / (float)cols), cols, rows, stack);
}

static void make_layer(struct maker *m)
{
    const struct oracle_case *c = &m->o->c;
    uint64_t q = (uint64_t)c->n_head * c->head_size, kv = (uint64_t)c->n_head_kv * c->head_size;
    bool gemma = strncmp(c->architecture, "gemma", 5) == 0;
    bool phi = strcmp(c->architecture, "phi3") == 0;
    float sharp = 1.5f; /* scores with a standard deviation of 2 or so: softmax has much to do */
    vector(m, "attn_norm.weight", c->n_embd);
    if (phi) {
        matrix(m, "attn_qkv.weight", sharp, q + 2 * kv, c->n_embd, 0);
    } else {
        matrix(m, "attn_q.weight", sharp, q, c->n_embd, 0);
        matrix(m, "attn_k.weight", sharp, kv, c->n_embd, 0);
        matrix(m, "attn_v.weight", 1, kv, c->n_embd, 0);
    }
    if (c->biases) {
        if (!c->no_q_bias)
            bias(m, "attn_q.bias", q);
        bias(m, "attn_k.bias", kv);
        bias(m, "attn_v.bias", kv);
    }
    if (c->output_bias)
        bias(m, "attn_output.bias", c->n_embd);
    if (strncmp(c->architecture, "qwen3", 5) == 0 || strcmp(c->architecture, "gemma3") == 0) {
        make(m, "attn_q_norm.weight", 1.4f, 0.5f, c->head_size, 0, 0);
        make(m, "attn_k_norm.weight", 1.4f, 0.5f, c->head_size, 0, 0);
    }
    matrix(m, "attn_output.weight", 1, c->n_embd, q, 0);
    if (gemma)
        vector(m, "post_attention_norm.weight", c->n_embd);
    vector(m, "ffn_norm.weight", c->n_embd);
    if (c->n_expert > 0) {
        matrix(m, "ffn_gate_inp.weight", 2, c->n_expert, c->n_embd, 0);
        matrix(m, "ffn_gate_exps.weight", 1, c->n_ff, c->n_embd, c->n_expert);
        matrix(m, "ffn_up_exps.weight", 1, c->n_ff, c->n_embd, c->n_expert);
        matrix(m, "ffn_down_exps.weight", 2, c->n_embd, c->n_ff, c->n_expert);
    } else {
        if (!phi)
            matrix(m, "ffn_gate.weight", 1, c->n_ff, c->n_embd, 0);
        matrix(m, "ffn_up.weight", 1, phi ? 2 * c->n_ff : c->n_ff, c->n_embd, 0);
        matrix(m, "ffn_down.weight", 2, c->n_embd, c->n_ff, 0);
    }
    if (gemma)
        vector(m, "post_ffw_norm.weight", c->n_embd);
}

enum err oracle_create(const struct oracle_case *c, uint64_t seed, struct oracle **ret)
{
    struct oracle *o = calloc(1, sizeof *o);
    if (o == NULL)
        return ERR_NOMEM;
    struct maker m = {.o = o, .rng = {seed}, .layer = -1};
    bool gemma = strncmp(c->architecture, "gemma", 5) == 0;
    o->c = *c;
    if (c->head_size == 0)
        o->c.head_size = c->n_embd / c->n_head;
    if (c->rope_dims == 0)
        o->c.rope_dims = o->c.head_size;
    if (c->rope_base == 0)
        o->c.rope_base = 10000;
    if (c->max_ctx == 0)
        o->c.max_ctx = ORACLE_CTX;
    if (c->prompt_count == 0)
        o->c.prompt_count = 100;
    /* Variance 1 on entering the first layer; Gemma multiplies by sqrt(n_embd). */
    make(&m, "token_embd.weight", 0, sqrtf(3) / (gemma ? sqrtf((float)c->n_embd) : 1), c->n_embd,
         ORACLE_VOCAB, 0);
    /* Gemma's caps on logits are 30: large logits, so that they show. */
    make(&m, "output_norm.weight", gemma ? 20 : 2, 0.5f, c->n_embd, 0, 0);
    if (!c->tied)
        matrix(&m, "output.weight", 1, ORACLE_VOCAB, c->n_embd, 0);
    if (c->rope == ORACLE_FREQS)
        make(&m, "rope_freqs.weight", 4.5f, 3.5f, o->c.rope_dims / 2, 0, 0);
    if (c->rope == ORACLE_LONGROPE) {
        make(&m, "rope_factors_long.weight", 8, 6, o->c.rope_dims / 2, 0, 0);
        make(&m, "rope_factors_short.weight", 1.2f, 0.2f, o->c.rope_dims / 2, 0, 0);
    }
    for (m.layer = 0; m.layer < (int)c->n_layer; m.layer++)
        make_layer(&m);
    *ret = o;
    return ERR_OK;
}

void oracle_destroy(struct oracle **p)
{
    struct oracle *o = *p;
    if (o == NULL)
        return;
    for (size_t i = 0; i < o->tensors_count; i++)
        free(o->tensors[i].data);
    free(o);
    *p = NULL;
}

const struct oracle_case *oracle_case(const struct oracle *o)
{
    return &o->c;
}

/* What is being written, and the key or tensor that is left out of it (NULL: none). */
struct writing {
    struct gguf_writer *w;
    const struct oracle_case *c;
    const char *omit;
};

static bool omitted(const struct writing *w, const char *name)
{
    return w->omit != NULL && strcmp(w->omit, name) == 0;
}

static void number(const struct writing *w, const char *name, uint32_t value)
{
    char key[96];
    snprintf(key, sizeof key, "%s.%s", w->c->architecture, name);
    if (value != 0 && !omitted(w, key))
        gguf_write_u32(w->w, key, value);
}

static void real(const struct writing *w, const char *name, float value)
{
    char key[96];
    snprintf(key, sizeof key, "%s.%s", w->c->architecture, name);
    if (value != 0 && !omitted(w, key))
        gguf_write_f32(w->w, key, value);
}

static void write_rope(const struct writing *w)
{
    const struct oracle_case *c = w->c;
    char key[96];
    snprintf(key, sizeof key, "%s.rope.scaling.type", c->architecture);
    number(w, "rope.dimension_count", c->rope_dims);
    real(w, "rope.freq_base", c->rope_base);
    real(w, "rope.freq_base_swa", c->local_base);
    if (c->rope == ORACLE_LINEAR)
        gguf_write_str(w->w, key, "linear");
    if (c->rope == ORACLE_YARN)
        gguf_write_str(w->w, key, "yarn");
    real(w, c->rope == ORACLE_OLD_LINEAR ? "rope.scale_linear" : "rope.scaling.factor", c->factor);
    real(w, "rope.scaling.attn_factor", c->attn_factor);
    number(w, "rope.scaling.original_context_length", c->original_ctx);
}

/* The keys that llama.cpp's converters write for such a model. */
static void write_keys(const struct writing *w)
{
    const struct oracle_case *c = w->c;
    bool apart = c->head_size != c->n_embd / c->n_head;
    gguf_write_str(w->w, "general.architecture", c->architecture);
    number(w, "block_count", c->n_layer);
    number(w, "context_length", ORACLE_CTX);
    number(w, "embedding_length", c->n_embd);
    number(w, "feed_forward_length", c->n_ff);
    number(w, "attention.head_count", c->n_head);
    number(w, "attention.head_count_kv", c->n_head_kv);
    number(w, "attention.key_length", apart ? c->head_size : 0);
    number(w, "attention.value_length", apart ? c->head_size : 0);
    number(w, "attention.sliding_window", c->window);
    number(w, "expert_count", c->n_expert);
    number(w, "expert_used_count", c->n_expert_used);
    if (strcmp(c->architecture, "qwen3moe") == 0)
        number(w, "expert_feed_forward_length", c->n_ff);
    real(w, "attention.layer_norm_rms_epsilon", oracle_eps);
    real(w, "attn_logit_softcapping", c->attn_cap);
    real(w, "final_logit_softcapping", c->logit_cap);
    write_rope(w);
}

static enum err write_data(struct gguf_writer *w, const struct oracle_tensor *t,
                           struct err_msg *why)
{
    uint64_t count = t->dims[0] * max_u64(t->dims[1], 1) * max_u64(t->dims[2], 1);
    if (!t->bf16)
        return gguf_write_data(w, t->data, count * sizeof *t->data, why);
    uint16_t *halves = malloc(count * sizeof *halves);
    if (halves == NULL)
        return err_set(why, ERR_NOMEM, "out of memory");
    for (uint64_t i = 0; i < count; i++)
        halves[i] = upper_half(t->data[i]);
    enum err e = gguf_write_data(w, halves, count * sizeof *halves, why);
    free(halves);
    return e;
}

enum err oracle_write(const struct oracle *o, const char *path, const char *omit,
                      struct err_msg *why)
{
    struct gguf_writer *w = gguf_write_create();
    if (w == NULL)
        return err_set(why, ERR_NOMEM, "out of memory");
    struct writing keys = {.w = w, .c = &o->c, .omit = omit};
    write_keys(&keys);
    for (size_t i = 0; i < o->tensors_count; i++) {
        const struct oracle_tensor *t = &o->tensors[i];
        if (!omitted(&keys, t->name))
            gguf_write_tensor(w, str_of(t->name), t->bf16 ? TENSOR_BF16 : TENSOR_F32, t->dims_count,
                              t->dims);
    }
    enum err e = gguf_write_begin(w, path, why);
    for (size_t i = 0; i < o->tensors_count && e == ERR_OK; i++) {
        const struct oracle_tensor *t = &o->tensors[i];
        if (omitted(&keys, t->name))
            continue;
        e = write_data(w, t, why);
    }
    if (e == ERR_OK)
        e = gguf_write_finish(w, why);
    gguf_write_destroy(&w);
    return e;
}
