/* Synthetic models: random weights in the exact shape, type mix and metadata of a known model. The
 * command is in synth.c; the shapes and their tensors in synth_shapes.c, which type each tensor
 * gets in synth_types.c, the vocabulary in synth_vocab.c, random blocks in synth_random.c. */
#ifndef OCTO_BENCH_SYNTH_H
#define OCTO_BENCH_SYNTH_H

#include "model/gguf_write.h"

enum synth_vocab {
    VOCAB_QWEN2, /* byte-level BPE, ChatML */
    VOCAB_QWEN3,
    VOCAB_LLAMA3, /* byte-level BPE, header turns */
    VOCAB_SMOLLM, /* byte-level BPE, ChatML, special tokens first */
    VOCAB_LLAMA2, /* SentencePiece, Zephyr's turns */
    VOCAB_MISTRAL,
    VOCAB_GEMMA,
    VOCAB_PHI3
};

enum synth_flag {
    SYNTH_TIED = 1,
    SYNTH_QKV_BIAS = 2,
    SYNTH_QK_NORM = 4,
    SYNTH_POST_NORM = 8,
    SYNTH_FUSED = 16,      /* attn_qkv; ffn_up holds gate and up */
    SYNTH_ROPE_FREQS = 32, /* Llama 3's factors */
    SYNTH_LONGROPE = 64,
    SYNTH_ROPE_DIMS = 128, /* rope.dimension_count is written */
    SYNTH_HEAD_SIZE = 256  /* key_length and value_length are written */
};

struct synth_shape {
    const char *name, *arch;
    uint32_t n_layer, n_embd, n_ff, n_head, n_head_kv, head_size, n_vocab, n_ctx;
    float rope_base, rms_eps;
    uint32_t flags; /* enum synth_flag */
    enum synth_vocab vocab;
    uint32_t n_expert, n_expert_used, n_ff_expert;
    uint32_t window;
    float attn_softcap, logit_softcap;
};

/* What a tensor is: decides its type and what its values look like. */
enum synth_role {
    SYNTH_NORM,   /* F32, around 1 */
    SYNTH_BIAS,   /* F32, around 0 */
    SYNTH_ROUTER, /* F32 matrix */
    SYNTH_FREQS,
    SYNTH_FACTORS_SHORT,
    SYNTH_FACTORS_LONG, /* F32, RoPE factors */
    SYNTH_EMBD,
    SYNTH_OUTPUT,
    SYNTH_Q,
    SYNTH_K,
    SYNTH_V,
    SYNTH_QKV,
    SYNTH_ATTN_OUTPUT,
    SYNTH_GATE,
    SYNTH_UP,
    SYNTH_DOWN
};

struct synth_tensor {
    char name[64];
    enum synth_role role;
    enum tensor_type type;
    uint32_t layer;
    uint32_t dims_count;
    uint64_t dims[3];
};

/* NULL: no such name. */
const struct synth_shape *synth_shape_find(const char *name);
const struct synth_shape *synth_shape_list(size_t *ret_count);
/* The tensors in the file's order, without types. The caller frees *ret. */
enum err synth_tensors(const struct synth_shape *s, struct synth_tensor **ret, size_t *ret_count,
                       struct err_msg *why) MUST_CHECK;
void synth_write_metadata(struct gguf_writer *w, const struct synth_shape *s);

/* Sets the tensors' types from a mix's name; ret_file_type is for general.file_type. */
enum err synth_choose_types(const struct synth_shape *s, const char *mix, struct synth_tensor *t,
                            size_t count, uint32_t *ret_file_type, struct err_msg *why) MUST_CHECK;

enum err synth_write_vocab(struct gguf_writer *w, const struct synth_shape *s,
                           struct err_msg *why) MUST_CHECK;

/* splitmix64 (Steele, Lea, Flood 2014). */
struct synth_rng {
    uint64_t state;
};
static inline uint64_t synth_next(struct synth_rng *r)
{
    uint64_t z = (r->state += UINT64_C(0x9e3779b97f4a7c15));
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}
/* Approximately N(0, 1). */
float synth_gauss(struct synth_rng *r);

/* Random blocks of one type whose values are about N(0, size). */
struct synth_fill {
    const struct tensor_type_info *type;
    uint16_t scales[256];  /* halves, or E8M0 in the low byte */
    uint16_t seconds[256]; /* the second half of types that have two */
    void *table;           /* unquantized types: 65536 values as the file has them */
};
enum err synth_fill_init(struct synth_fill *f, enum tensor_type type, float size,
                         struct synth_rng *r, struct err_msg *why) MUST_CHECK;
/* bytes: a multiple of the type's block. */
void synth_fill_blocks(const struct synth_fill *f, struct synth_rng *r, uint8_t *out, size_t bytes);
void synth_fill_free(struct synth_fill *f);

#endif
