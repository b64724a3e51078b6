/* The known models as data, their tensors and their keys, named as llama.cpp's converter names
 * them. The -tiny ones are no real models: an architecture's features in a size for tests. */
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/size.h"
#include "bench/synth.h"

enum {
    LLAMA = SYNTH_ROPE_DIMS,
    LLAMA3 = SYNTH_ROPE_DIMS | SYNTH_HEAD_SIZE | SYNTH_ROPE_FREQS | SYNTH_TIED,
    QWEN2 = SYNTH_QKV_BIAS,
    QWEN3 = SYNTH_QK_NORM | SYNTH_HEAD_SIZE,
    GEMMA2 = SYNTH_TIED | SYNTH_HEAD_SIZE | SYNTH_POST_NORM,
    PHI3 = SYNTH_FUSED | SYNTH_ROPE_DIMS,
    TIED = SYNTH_TIED
};

/* name, architecture; layers, width, feed-forward, heads, kv heads, head size, vocabulary, context;
 * RoPE base, epsilon */
static const struct synth_shape shapes[] = {
    {"qwen2.5-0.5b", "qwen2", 24, 896, 4864, 14, 2, 64, 151936, 32768, 1e6f, 1e-6f, QWEN2 | TIED,
     VOCAB_QWEN2},
    {"qwen2.5-1.5b", "qwen2", 28, 1536, 8960, 12, 2, 128, 151936, 32768, 1e6f, 1e-6f, QWEN2 | TIED,
     VOCAB_QWEN2},
    {"qwen2.5-7b", "qwen2", 28, 3584, 18944, 28, 4, 128, 152064, 32768, 1e6f, 1e-6f, QWEN2,
     VOCAB_QWEN2},
    {"qwen3-0.6b", "qwen3", 28, 1024, 3072, 16, 8, 128, 151936, 40960, 1e6f, 1e-6f, QWEN3 | TIED,
     VOCAB_QWEN3},
    {"llama-3.2-1b", "llama", 16, 2048, 8192, 32, 8, 64, 128256, 131072, 5e5f, 1e-5f, LLAMA3,
     VOCAB_LLAMA3},
    {"tinyllama-1.1b", "llama", 22, 2048, 5632, 32, 4, 64, 32000, 2048, 1e4f, 1e-5f, LLAMA,
     VOCAB_LLAMA2},
    {"smollm2-135m", "llama", 30, 576, 1536, 9, 3, 64, 49152, 8192, 1e5f, 1e-5f, LLAMA | TIED,
     VOCAB_SMOLLM},
    {"mixtral-tiny", "llama", 4, 512, 1024, 8, 2, 64, 4096, 4096, 1e6f, 1e-5f, LLAMA, VOCAB_MISTRAL,
     .n_expert = 8, .n_expert_used = 2},
    {"qwen2-tiny", "qwen2", 2, 256, 768, 4, 2, 64, 2048, 2048, 1e6f, 1e-6f, QWEN2 | TIED,
     VOCAB_QWEN2},
    {"qwen3-tiny", "qwen3", 2, 256, 768, 4, 2, 128, 2048, 2048, 1e6f, 1e-6f, QWEN3 | TIED,
     VOCAB_QWEN3},
    {"qwen3moe-tiny", "qwen3moe", 3, 256, 768, 4, 2, 128, 2048, 2048, 1e6f, 1e-6f, QWEN3,
     VOCAB_QWEN3, .n_expert = 16, .n_expert_used = 4, .n_ff_expert = 256},
    {"llama-tiny", "llama", 2, 256, 768, 4, 2, 64, 2048, 4096, 1e4f, 1e-5f, LLAMA, VOCAB_LLAMA2},
    {"llama3-tiny", "llama", 2, 256, 768, 4, 2, 64, 2048, 16384, 5e5f, 1e-5f, LLAMA3, VOCAB_LLAMA3},
    {"gemma2-tiny", "gemma2", 4, 512, 1024, 4, 2, 256, 4096, 8192, 1e4f, 1e-6f, GEMMA2, VOCAB_GEMMA,
     .window = 64, .attn_softcap = 50, .logit_softcap = 30},
    {"gemma3-tiny", "gemma3", 7, 512, 1024, 4, 1, 256, 4096, 8192, 1e6f, 1e-6f,
     GEMMA2 | SYNTH_QK_NORM, VOCAB_GEMMA, .window = 64},
    {"phi3-tiny", "phi3", 2, 384, 1024, 4, 4, 96, 2048, 4096, 1e4f, 1e-5f, PHI3, VOCAB_PHI3},
    {"phi3.5-tiny", "phi3", 2, 384, 1024, 4, 4, 96, 2048, 16384, 1e4f, 1e-5f, PHI3 | SYNTH_LONGROPE,
     VOCAB_PHI3},
};

const struct synth_shape *synth_shape_list(size_t *ret_count)
{
    *ret_count = ARRAY_LEN(shapes);
    return shapes;
}

const struct synth_shape *synth_shape_find(const char *name)
{
    for (size_t i = 0; i < ARRAY_LEN(shapes); i++)
        if (strcmp(shapes[i].name, name) == 0)
            return &shapes[i];
    return NULL;
}

/* ---- tensors ---- */

enum { MOST_IN_LAYER = 24, MOST_GLOBAL = 8 };

struct list {
    struct synth_tensor *at;
    size_t count;
    uint32_t layer;
    bool in_layer;
};

static void add(struct list *l, const char *name, enum synth_role role, uint64_t cols,
                uint64_t rows, uint64_t planes)
{
    struct synth_tensor *t = &l->at[l->count++];
    *t = (struct synth_tensor){.role = role, .layer = l->layer, .dims = {cols, rows, planes}};
    t->dims_count = planes > 0 ? 3 : rows > 0 ? 2 : 1;
    if (l->in_layer)
        snprintf(t->name, sizeof(t->name), "blk.%u.%s", l->layer, name);
    else
        snprintf(t->name, sizeof(t->name), "%s", name);
}

static void add_attention(struct list *l, const struct synth_shape *s)
{
    uint64_t n_embd = s->n_embd, q = (uint64_t)s->n_head * s->head_size;
    uint64_t kv = (uint64_t)s->n_head_kv * s->head_size;
    add(l, "attn_norm.weight", SYNTH_NORM, n_embd, 0, 0);
    if (s->flags & SYNTH_FUSED) {
        add(l, "attn_qkv.weight", SYNTH_QKV, n_embd, q + 2 * kv, 0);
    } else {
        add(l, "attn_q.weight", SYNTH_Q, n_embd, q, 0);
        add(l, "attn_k.weight", SYNTH_K, n_embd, kv, 0);
        add(l, "attn_v.weight", SYNTH_V, n_embd, kv, 0);
    }
    if (s->flags & SYNTH_QKV_BIAS) {
        add(l, "attn_q.bias", SYNTH_BIAS, q, 0, 0);
        add(l, "attn_k.bias", SYNTH_BIAS, kv, 0, 0);
        add(l, "attn_v.bias", SYNTH_BIAS, kv, 0, 0);
    }
    if (s->flags & SYNTH_QK_NORM) {
        add(l, "attn_q_norm.weight", SYNTH_NORM, s->head_size, 0, 0);
        add(l, "attn_k_norm.weight", SYNTH_NORM, s->head_size, 0, 0);
    }
    add(l, "attn_output.weight", SYNTH_ATTN_OUTPUT, q, n_embd, 0);
    if (s->flags & SYNTH_POST_NORM)
        add(l, "post_attention_norm.weight", SYNTH_NORM, n_embd, 0, 0);
}

static void add_feed_forward(struct list *l, const struct synth_shape *s)
{
    uint64_t n_embd = s->n_embd,
             n_ff = s->n_expert > 0 && s->n_ff_expert > 0 ? s->n_ff_expert : s->n_ff;
    add(l, "ffn_norm.weight", SYNTH_NORM, n_embd, 0, 0);
    if (s->n_expert > 0) {
        add(l, "ffn_gate_inp.weight", SYNTH_ROUTER, n_embd, s->n_expert, 0);
        add(l, "ffn_gate_exps.weight", SYNTH_GATE, n_embd, n_ff, s->n_expert);
        add(l, "ffn_down_exps.weight", SYNTH_DOWN, n_ff, n_embd, s->n_expert);
        add(l, "ffn_up_exps.weight", SYNTH_UP, n_embd, n_ff, s->n_expert);
    } else {
        if (!(s->flags & SYNTH_FUSED))
            add(l, "ffn_gate.weight", SYNTH_GATE, n_embd, n_ff, 0);
        add(l, "ffn_up.weight", SYNTH_UP, n_embd, s->flags & SYNTH_FUSED ? 2 * n_ff : n_ff, 0);
        add(l, "ffn_down.weight", SYNTH_DOWN, n_ff, n_embd, 0);
    }
    if (s->flags & SYNTH_POST_NORM)
        add(l, "post_ffw_norm.weight", SYNTH_NORM, n_embd, 0, 0);
}

enum err synth_tensors(const struct synth_shape *s, struct synth_tensor **ret, size_t *ret_count,
                       struct err_msg *why)
{
    struct list l = {0};
    l.at = calloc((size_t)s->n_layer * MOST_IN_LAYER + MOST_GLOBAL, sizeof(*l.at));
    if (l.at == NULL)
        return err_set(why, ERR_NOMEM, "out of memory");
    if (s->flags & SYNTH_ROPE_FREQS)
        add(&l, "rope_freqs.weight", SYNTH_FREQS, s->head_size / 2, 0, 0);
    if (s->flags & SYNTH_LONGROPE) {
        add(&l, "rope_factors_long.weight", SYNTH_FACTORS_LONG, s->head_size / 2, 0, 0);
        add(&l, "rope_factors_short.weight", SYNTH_FACTORS_SHORT, s->head_size / 2, 0, 0);
    }
    add(&l, "token_embd.weight", SYNTH_EMBD, s->n_embd, s->n_vocab, 0);
    l.in_layer = true;
    for (l.layer = 0; l.layer < s->n_layer; l.layer++) {
        add_attention(&l, s);
        add_feed_forward(&l, s);
    }
    l.in_layer = false;
    add(&l, "output_norm.weight", SYNTH_NORM, s->n_embd, 0, 0);
    if (!(s->flags & SYNTH_TIED))
        add(&l, "output.weight", SYNTH_OUTPUT, s->n_embd, s->n_vocab, 0);
    *ret = l.at;
    *ret_count = l.count;
    return ERR_OK;
}

/* ---- keys ---- */

struct keys {
    struct gguf_writer *w;
    const char *arch;
};

static void put_u32(const struct keys *k, const char *name, uint32_t value)
{
    char key[96];
    snprintf(key, sizeof(key), "%s.%s", k->arch, name);
    gguf_write_u32(k->w, key, value);
}

static void put_f32(const struct keys *k, const char *name, float value)
{
    char key[96];
    snprintf(key, sizeof(key), "%s.%s", k->arch, name);
    gguf_write_f32(k->w, key, value);
}

static void put_optional(const struct keys *k, const struct synth_shape *s)
{
    if (s->flags & SYNTH_HEAD_SIZE) {
        put_u32(k, "attention.key_length", s->head_size);
        put_u32(k, "attention.value_length", s->head_size);
    }
    if (s->flags & SYNTH_ROPE_DIMS)
        put_u32(k, "rope.dimension_count", s->head_size);
    if (s->n_expert > 0) {
        put_u32(k, "expert_count", s->n_expert);
        put_u32(k, "expert_used_count", s->n_expert_used);
    }
    if (s->n_ff_expert > 0)
        put_u32(k, "expert_feed_forward_length", s->n_ff_expert);
    if (s->window > 0)
        put_u32(k, "attention.sliding_window", s->window);
    if (s->attn_softcap > 0)
        put_f32(k, "attn_logit_softcapping", s->attn_softcap);
    if (s->logit_softcap > 0)
        put_f32(k, "final_logit_softcapping", s->logit_softcap);
    if (s->flags & SYNTH_LONGROPE) {
        uint32_t original = s->n_ctx / 4;
        put_u32(k, "rope.scaling.original_context_length", original);
        put_f32(k, "rope.scaling.attn_factor",
                sqrtf(1 + logf((float)s->n_ctx / (float)original) / logf((float)original)));
    }
}

void synth_write_metadata(struct gguf_writer *w, const struct synth_shape *s)
{
    const struct keys k = {w, s->arch};
    char name[64];
    snprintf(name, sizeof(name), "synthetic %s", s->name);
    gguf_write_str(w, "general.architecture", s->arch);
    gguf_write_str(w, "general.type", "model");
    gguf_write_str(w, "general.name", name);
    gguf_write_str(w, "general.description",
                   "random weights in a known model's shape: for tests and measurements");
    gguf_write_u32(w, "general.alignment", GGUF_WRITE_ALIGNMENT);
    put_u32(&k, "block_count", s->n_layer);
    put_u32(&k, "context_length", s->n_ctx);
    put_u32(&k, "embedding_length", s->n_embd);
    put_u32(&k, "feed_forward_length", s->n_ff);
    put_u32(&k, "attention.head_count", s->n_head);
    put_u32(&k, "attention.head_count_kv", s->n_head_kv);
    put_f32(&k, "rope.freq_base", s->rope_base);
    put_f32(&k, "attention.layer_norm_rms_epsilon", s->rms_eps);
    put_u32(&k, "vocab_size", s->n_vocab);
    put_optional(&k, s);
}
