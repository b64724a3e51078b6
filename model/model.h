/* What a GGUF file says a model is: hyperparameters and tensors by their role, all shapes checked.
 * No Vulkan here: the engine uploads what this describes. Thread-safety: immutable after
 * model_open(). */
#ifndef OCTO_MODEL_MODEL_H
#define OCTO_MODEL_MODEL_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "model/gguf.h"

enum { MODEL_MAX_LAYERS = 512, MODEL_MAX_EXPERTS = 1024, MODEL_MAX_EXPERTS_USED = 32 };

/* A layer. Shapes as rows x cols, cols contiguous; NULL where the architecture has no such tensor.
 * Norm weights and biases are F32 vectors. */
struct model_layer {
    const struct gguf_tensor *attn_norm; /* [n_embd] */
    const struct gguf_tensor
        *attn_qkv; /* fused: q, k, v rows one below the other; else the three: */
    const struct gguf_tensor *attn_q, *attn_q_bias; /* [n_head * head_size x n_embd] */
    const struct gguf_tensor *attn_k, *attn_k_bias; /* [n_head_kv * head_size x n_embd] */
    const struct gguf_tensor *attn_v, *attn_v_bias; /* [n_head_kv * head_size x n_embd] */
    const struct gguf_tensor *attn_q_norm,
        *attn_k_norm; /* [head_size]: rmsnorm of each head before RoPE */
    const struct gguf_tensor *attn_output, *attn_output_bias; /* [n_embd x n_head * head_size] */
    const struct gguf_tensor
        *attn_post_norm; /* [n_embd]: rmsnorm of attention's output before it is added */
    const struct gguf_tensor *ffn_norm; /* [n_embd] */
    const struct gguf_tensor
        *ffn_gate_up; /* fused: gate, up rows one below the other; else the two: */
    const struct gguf_tensor *ffn_gate, *ffn_up; /* [n_ff x n_embd] */
    const struct gguf_tensor *ffn_down;          /* [n_embd x n_ff] */
    const struct gguf_tensor *ffn_post_norm;     /* [n_embd] */
    /* Mixture of experts, instead of ffn_gate, ffn_up, ffn_down: n_expert matrices one after the
     * other. */
    const struct gguf_tensor *ffn_router;                  /* [n_expert x n_embd] */
    const struct gguf_tensor *ffn_gate_exps, *ffn_up_exps; /* [n_expert][n_ff_expert x n_embd] */
    const struct gguf_tensor *ffn_down_exps;               /* [n_expert][n_embd x n_ff_expert] */
    bool local; /* this layer sees `window` tokens back and uses the local RoPE */
};

enum model_activation {
    MODEL_SILU,
    MODEL_GELU /* the tanh approximation (Hendrycks & Gimpel 2016) */
};

/* Angle of pair i at position p: p * base^(-2i / dims) changed by the scaling; cos and sin are
 * multiplied by magnitude. */
enum model_rope_scaling { ROPE_PLAIN, ROPE_LINEAR, ROPE_YARN, ROPE_FACTORS };
struct model_rope {
    float base;
    enum model_rope_scaling scaling;
    float factor;               /* LINEAR, YARN: how much longer the context became */
    uint32_t original_ctx;      /* YARN, FACTORS */
    float attn_factor;          /* magnitude (YARN: times 1 + 0.1 ln factor) */
    float beta_fast, beta_slow; /* YARN (Peng et al. 2023, arXiv 2309.00071) */
    /* FACTORS: each pair's frequency is divided by its factor, F32 [dims / 2]: Llama 3's rope_freqs
     * (one set), or LongRoPE's long and short ones: long beyond original_ctx. NULL: none. */
    const struct gguf_tensor *factors, *factors_long;
};

struct model {
    struct gguf *gguf;     /* owned */
    char name[129];        /* file name without directory and .gguf */
    char architecture[32]; /* "qwen2" */
    char quantization[16]; /* the type that most matrix bytes have, as "Q4_K" */
    uint32_t n_layer;
    uint32_t n_embd;
    uint32_t n_ff;
    uint32_t n_head;
    uint32_t n_head_kv; /* divides n_head */
    uint32_t head_size; /* even */
    uint32_t n_vocab;
    uint32_t n_ctx_train;   /* longest sequence in tokens */
    uint32_t n_expert;      /* 0: one feed-forward network a layer */
    uint32_t n_expert_used; /* a token's experts; their weights are made to add up to 1 */
    uint32_t n_ff_expert;
    float rms_eps;
    uint32_t rope_dims;       /* <= head_size, even */
    bool rope_pairs_adjacent; /* pairs are (2i, 2i + 1); false, "neox": (i, i + rope_dims / 2) */
    struct model_rope rope;   /* of layers that see everything */
    struct model_rope rope_local; /* of layers with a window; equal to rope in most models */
    uint32_t window;  /* a local layer's token at p sees p - window + 1 .. p; 0: no local layers */
    float attn_scale; /* of q . k */
    float attn_softcap;  /* s = cap * tanh(s / cap); 0: off */
    float logit_softcap; /* the same on logits */
    float embd_scale;    /* embeddings are multiplied by it */
    enum model_activation activation;
    uint64_t weight_count;                 /* sum of all tensors' values */
    const struct gguf_tensor *token_embd;  /* [n_vocab x n_embd] */
    const struct gguf_tensor *output_norm; /* [n_embd], F32 */
    const struct gguf_tensor *output;      /* [n_vocab x n_embd]; == token_embd when tied */
    struct model_layer *layers;            /* n_layer */
};

/* RoPE angles of one table for sequences up to max_ctx: ret[p * dims / 2 + i] = (cos, sin) of pair
 * i at position p, computed in double: the same on every device. */
void model_rope_angles(const struct model *m, const struct model_rope *r, uint32_t max_ctx,
                       float (*ret)[2]);

/* Opens the file and checks that it is a model this program runs; the message names the tensor or
 * key, what it is and what was expected. */
enum err model_open(const char *path, struct model **ret, struct err_msg *why) MUST_CHECK;
/* Takes the gguf on success. */
enum err model_from_gguf(struct gguf **g, struct model **ret, struct err_msg *why) MUST_CHECK;
void model_close(struct model **m);

#endif
