/* What an architecture is, as data: private to model/. The tables are in architecture.c; model.c
 * reads files by them. */
#ifndef OCTO_MODEL_ARCHITECTURE_H
#define OCTO_MODEL_ARCHITECTURE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "model/model.h"

/* What a tensor's dimension must be. */
enum dim {
    DIM_ONE,
    DIM_EMBD,
    DIM_FF,
    DIM_VOCAB,
    DIM_Q,
    DIM_KV,
    DIM_QKV,
    DIM_HEAD,
    DIM_ROPE_PAIRS,
    DIM_GATE_UP,
    DIM_EXPERTS,
    DIM_FF_EXPERT
};

/* Which tensors a layer has. */
enum feature {
    FEATURE_SPLIT_QKV = 1,
    FEATURE_FUSED_QKV = 2,
    FEATURE_QKV_BIAS = 4,      /* must be there */
    FEATURE_OPTIONAL_BIAS = 8, /* may be there */
    FEATURE_QK_NORM = 16,
    FEATURE_POST_NORM = 32,
    FEATURE_DENSE = 64,
    FEATURE_FUSED_FFN = 128,
    FEATURE_EXPERTS = 256, /* when expert_count > 0, instead of DENSE */
};

struct role {
    const char *name; /* tensor name; in a layer after "blk.N." */
    size_t offset;    /* of the pointer in struct model or struct model_layer */
    enum dim rows, cols;
    uint32_t feature; /* 0: every architecture; else only those with (one of) these features */
    bool is_vector;   /* cols values, F32; else a matrix of any supported weight type */
    bool optional;
    bool by_expert; /* n_expert matrices */
};

struct architecture {
    const char *name;
    uint32_t features;
    bool rope_pairs_adjacent;
    enum model_activation activation;
    bool scale_embeddings;   /* by sqrt(n_embd) */
    uint32_t local_period;   /* with a window: layer i is local unless i % period == period - 1; 1:
                                all are */
    uint32_t default_window; /* for files without the key */
    float default_attn_softcap, default_logit_softcap;
    float local_rope_base;      /* 0: local layers have the same RoPE */
    uint32_t wide_scale_layers; /* the size whose q . k is scaled by 1 / sqrt(n_embd / n_head); 0:
                                   none */
};

/* A number of the model under "ARCHITECTURE.key". */
struct param {
    const char *key;
    size_t offset;
    bool is_float;
    bool required; /* else the field keeps what the code put there */
    double min, max;
};

const struct architecture *architecture_list(size_t *ret_count);
const struct role *global_roles(size_t *ret_count);
const struct role *layer_roles(size_t *ret_count);
const struct param *param_list(size_t *ret_count);
const struct param *
derived_param_list(size_t *ret_count); /* default to something computed from the ones above */

/* Scales, caps, windows and RoPE, once the plain numbers are read. */
enum err architecture_read(struct model *m, const struct architecture *a,
                           struct err_msg *why) MUST_CHECK;
bool architecture_layer_is_local(const struct model *m, const struct architecture *a,
                                 uint32_t layer);

#endif
