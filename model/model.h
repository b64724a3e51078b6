/* What a GGUF file says a model is: hyperparameters and tensors by their role, all shapes checked.
 * No Vulkan here: the engine uploads what this describes. Thread-safety: immutable after model_open(). */
#ifndef OCTO_MODEL_MODEL_H
#define OCTO_MODEL_MODEL_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "model/gguf.h"

enum { MODEL_MAX_LAYERS = 512 };

struct model_layer {
    /* Shapes as rows x cols, cols contiguous. Biases are F32 vectors; NULL where the model has none. */
    const struct gguf_tensor *attn_norm;              /* [n_embd], F32 */
    const struct gguf_tensor *attn_q, *attn_q_bias;   /* [n_head * head_size x n_embd] */
    const struct gguf_tensor *attn_k, *attn_k_bias;   /* [n_head_kv * head_size x n_embd] */
    const struct gguf_tensor *attn_v, *attn_v_bias;   /* [n_head_kv * head_size x n_embd] */
    const struct gguf_tensor *attn_output;            /* [n_embd x n_head * head_size] */
    const struct gguf_tensor *ffn_norm;               /* [n_embd], F32 */
    const struct gguf_tensor *ffn_gate, *ffn_up;      /* [n_ff x n_embd] */
    const struct gguf_tensor *ffn_down;               /* [n_embd x n_ff] */
};

struct model {
    struct gguf *gguf; /* owned */
    char name[129];         /* file name without directory and .gguf */
    char architecture[32];  /* "qwen2" */
    char quantization[16];  /* the type that most matrix bytes have, as "Q4_K" */
    uint32_t n_layer;
    uint32_t n_embd;
    uint32_t n_ff;
    uint32_t n_head;
    uint32_t n_head_kv;     /* divides n_head */
    uint32_t head_size;     /* even */
    uint32_t n_vocab;
    uint32_t n_ctx_train;   /* longest sequence in tokens */
    float rms_eps;
    float rope_base;
    uint32_t rope_dims;     /* <= head_size, even; neox order */
    uint64_t weight_count;  /* sum of all tensors' values */
    const struct gguf_tensor *token_embd;  /* [n_vocab x n_embd] */
    const struct gguf_tensor *output_norm; /* [n_embd], F32 */
    const struct gguf_tensor *output;      /* [n_vocab x n_embd]; == token_embd when tied */
    struct model_layer *layers;            /* n_layer */
};

/* Opens the file and checks that it is a model this program runs; the message names the tensor or key, what
 * it is and what was expected. */
enum err model_open(const char *path, struct model **ret, struct err_msg *why) MUST_CHECK;
/* Takes the gguf on success. */
enum err model_from_gguf(struct gguf **g, struct model **ret, struct err_msg *why) MUST_CHECK;
void model_close(struct model **m);

#endif
