/* The oracle: tiny models with random weights in any supported architecture, written as GGUF files,
 * and what such a model computes, in double precision.
 *
 * Written from the models' papers and configurations, not from the engine; it shares no code with
 * model/ or engine/ except the GGUF writer. One thing is the engine's on purpose: K and V are
 * rounded to F16, as the engine's cache holds them. */
#ifndef OCTO_TESTS_ORACLE_H
#define OCTO_TESTS_ORACLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

enum oracle_rope {
    ORACLE_PLAIN,
    ORACLE_LINEAR,     /* rope.scaling.type, rope.scaling.factor */
    ORACLE_OLD_LINEAR, /* rope.scale_linear alone, as files of 2023 have it */
    ORACLE_YARN,
    ORACLE_FREQS,   /* tensor rope_freqs (Llama 3) */
    ORACLE_LONGROPE /* tensors rope_factors_short and _long, no rope.scaling.type (Phi 3) */
};

/* Zeros: the architecture's usual thing, and no key in the file. */
struct oracle_case {
    const char *name, *group;
    const char *architecture;
    uint32_t n_layer, n_embd, n_head, n_head_kv;
    uint32_t head_size; /* 0: n_embd / n_head */
    uint32_t n_ff;      /* with experts: of each expert */
    uint32_t n_expert, n_expert_used;
    float rope_base; /* 0: 10000 */
    uint32_t rope_dims;
    enum oracle_rope rope;
    float factor, attn_factor;
    uint32_t original_ctx;
    uint32_t window;
    float attn_cap, logit_cap;
    float local_base;      /* gemma3, written as rope.freq_base_swa */
    bool biases;           /* q, k, v */
    bool no_q_bias;        /* of those */
    bool output_bias;      /* of the attention's output */
    bool tied;             /* no output.weight */
    bool gate_bf16;        /* the tensor ffn_gate is BF16; all others are F32 */
    uint32_t max_ctx;      /* the engine's, 0: ORACLE_CTX; LongRoPE chooses by it */
    uint32_t prompt_count; /* 0: 100 */
    uint64_t seed;         /* the test's, of weights and prompts; 0: any */
};

enum { ORACLE_VOCAB = 128, ORACLE_CTX = 256 };

struct oracle;

enum err oracle_create(const struct oracle_case *c, uint64_t seed, struct oracle **ret) MUST_CHECK;
void oracle_destroy(struct oracle **o);
/* The case with nothing left to be filled in. */
const struct oracle_case *oracle_case(const struct oracle *o);
/* omit: a key or a tensor that is left out of the file; NULL: none. */
enum err oracle_write(const struct oracle *o, const char *path, const char *omit,
                      struct err_msg *why) MUST_CHECK;

/* Logits [count][ORACLE_VOCAB] of a sequence. *ret_margin: by how much, at least, an expert that
 * was chosen was ahead of one that was not (in router logits); infinity without experts. ERR_NOMEM.
 */
enum err oracle_forward(const struct oracle *o, const uint32_t *ids, uint32_t count, double *ret,
                        double *ret_margin) MUST_CHECK;

#endif
