/* What the engine's files share; nobody else includes this.
 *
 *   engine.c    create, destroy
 *   memory.c    how large everything is (no Vulkan)
 *   step.c      the step from plan to events
 *   sequence.c  sequences in and out
 *   sampling.c  what a sequence asks of its logits (no Vulkan)
 *   plan.c      which tokens a step computes: pages, preemption, prefixes (no Vulkan)
 *   forward.c   the transformer: records one forward pass over the planned rows
 *   forward_matrix.c  its layers on matrix units
 *   weights.c   tensors onto the device
 *   weights_matrix.c  their tiles, where they fit */
#ifndef OCTO_ENGINE_IMPL_H
#define OCTO_ENGINE_IMPL_H

#include <assert.h>

#include "engine/chunk.h"
#include "engine/engine.h"
#include "engine/kernels.h"
#include "engine/kv.h"
#include "engine/matrix.h"
#include "engine/sampling.h"

enum { MAX_STOP_TOKENS = 128, MAX_BANS = MAX_STOP_TOKENS + ENGINE_MAX_BAD_WORDS };
static_assert((int)MAX_BANS <= SAMPLE_MAX_BANNED, "the sampler looks at all of them");
enum { PROFILE_ROWS = 32, MAX_MARKS = 1024 };

/* A live sequence.
 *
 *   WAITING --plan: pages found--> ACTIVE --stop, length, remove--> gone
 *      ^                             |
 *      +------ out of pages ---------+   (its tokens stay, its pages go)
 *
 * WAITING: pages_count == 0, computed == 0.
 * ACTIVE:  pages cover at least `computed` tokens, of which those of the step in flight are being
 * computed. tokens_count + pending - computed == 1: it decodes; more: it prefills.
 *
 * The step in flight may be drawing the next token (pending == 1): its place is known, its id is
 * not. A decode can be planned behind it all the same: the device hands the id on. */
struct sequence {
    uint64_t id;
    uint64_t arrival; /* order of engine_add: older ones keep their pages */
    bool active;
    uint32_t *tokens;      /* prompt, then completion; capacity max_ctx */
    uint32_t tokens_count; /* those that the host knows */
    uint32_t pending;      /* drawn by steps in flight; 2 only within engine_step() */
    uint32_t drawn_at;     /* of the last of them: index into tokens_device */
    uint32_t prompt_count;
    uint32_t computed;     /* tokens whose K and V are in the pages when all submitted steps ran */
    uint32_t cached_count; /* of the prompt, at first admission */
    bool admitted_before;
    uint32_t *pages; /* capacity max_ctx / PAGE_TOKENS rounded up */
    uint32_t pages_count;
    uint32_t published;    /* leading pages that are findable or shared */
    uint64_t chain;        /* kv_chain() of the last of those */
    uint32_t planned;      /* rows in the step being built */
    uint32_t tokens_limit; /* tokens_count at which it ends: length */
    uint32_t min_tokens;
    uint32_t stop_tokens[MAX_STOP_TOKENS];
    uint32_t stop_tokens_count;
    struct sample_row sampling; /* position, banned_*, edits_* are set each step */
    struct sampling *more;      /* NULL: no bias, penalties, bad words */
};

/* A step's rows on the host, copied to the device in one piece. Offsets in bytes, anew each step:
 * max_rows stands for its rows. */
struct step_layout {
    uint64_t ids, pos, seq; /* uint [max_rows] each */
    uint64_t logit_idx;     /* uint [max_rows]: row of each row that gets logits */
    uint64_t samples;       /* struct sample_row [max_rows] */
    uint64_t tasks;         /* struct attention_task [max_rows]: matrix family */
    uint64_t pages;  /* uint [max_seqs][pages_stride]; of a step, [its sequences][step_stride] */
    uint64_t banned; /* uint [max_seqs * MAX_BANS] */
    uint64_t edits;  /* struct logit_edit [max_edits] */
    uint64_t total;
};

/* What a layer's kernels leave for the next one where that arrives in band (shaders/chain.glsl): in
 * one of two places, in turn. Offsets in a place, in bytes. R: tuning.in_band_rows, in whole tiles
 * of 8. */
struct in_band_layout {
    uint64_t x_mid, x_out; /* F32 [R][n_embd]: behind attention, behind the layer */
    /* f16 row tiles [R] of n_embd (normed rows), n_head * head_size, n_ff. */
    uint64_t attn_norm, ff_norm, attn, ff;
    uint64_t half; /* matrix_half_bytes(n_embd) */
    uint64_t turn_bytes;
    uint64_t scratch; /* behind both turns, attention's: as attn, of REHEARSE_ROWS */
    uint64_t total;
};
enum { REHEARSE_ROWS = 16 };

struct step_row {
    struct sequence *seq;
    uint64_t arrival; /* seq->arrival then: another one now, and the sequence is gone */
    uint32_t position;
    bool samples;
};

/* A step, from its planning until its results were taken. */
struct plan {
    struct step_row *rows; /* [max_rows] */
    uint32_t half;         /* which of the host's buffers are its own */
    uint32_t rows_count;
    uint32_t decode_rows;
    uint32_t prefill_rows;
    uint32_t edits; /* of the rows that sample */
};

struct weight {
    uint64_t address;
    enum tensor_type type;
    uint32_t rows, cols; /* a vector: 1 x n */
};

/* The same matrices for the matrix family; rows 0 where there is none. */
struct layer_matrices {
    /* One tensor in the file, or q, k and v as neighbouring tiles; paired where the rotation can be
     * the matmul's last act. */
    struct matrix_weight qkv;
    struct matrix_weight q, k, v, attn_output;
    bool biases_adjoin;           /* q's, k's and v's biases are one vector, or none */
    struct matrix_weight gate_up; /* gated; no tiles and no address: only gate and up */
    struct matrix_weight gate, up, down;
};

/* As struct model_layer; address 0 where the architecture has no such tensor. */
struct layer_weights {
    struct weight attn_norm, qkv, q, q_bias, k, k_bias, v, v_bias, q_norm, k_norm;
    struct weight attn_output, attn_output_bias, attn_post_norm;
    struct weight ffn_norm, ffn_gate_up, ffn_gate, ffn_up, ffn_down, ffn_post_norm;
    struct weight ffn_router, ffn_gate_exps, ffn_up_exps, ffn_down_exps;
    bool local;
    uint64_t kv_address; /* this layer's page pool */
    struct layer_matrices matrix;
};

struct weights {
    struct gpu_buffer *slabs;
    size_t slabs_count;
    uint64_t bytes;
    struct weight token_embd, output_norm, output;
    struct layer_weights *layers;
    /* Each [n_layer + 1]: a layer's; the last one: of output. NULL: none. */
    struct gpu_buffer *tiles[MATRIX_FORMS];
    uint64_t tiles_bytes;
    struct matrix_weight output_matrix;
};

struct engine {
    const struct model *model;
    struct engine_options options;
    struct tuning tuning;
    struct engine_info info;
    struct gpu *gpu;
    struct kernels *kernels;
    struct matrix *matrix; /* NULL: the plain kernels do it all */
    struct weights weights;

    /* Sizes. */
    uint32_t max_rows;       /* rows a step */
    uint32_t chunk;          /* most prompt rows of the next one */
    uint32_t decodes;        /* most other rows of it */
    struct widths widths;    /* how many of them pay */
    uint32_t widths_turn;    /* of the sequences that can go on, the first to sit out next */
    uint32_t max_logit_rows; /* rows of one head pass */
    uint32_t max_edits;      /* a step: at least those of one longest sequence */
    uint32_t pages_stride;   /* pages of a longest sequence */
    uint32_t page_bytes;     /* of one layer */
    struct step_layout layout;
    struct in_band_layout in_band_layout;

    /* Device memory. Activations are F32 [max_rows][...]. */
    struct gpu_buffer *kv_buffers; /* [n_layer] */
    struct gpu_buffer angles, angles_local;
    struct gpu_buffer step_host[2], step_device; /* [2]: by plan.half */
    struct gpu_buffer step_direct[2];            /* tuning.direct_input: instead of step_device */
    uint64_t step_input;                         /* where the step at hand has its input */
    struct gpu_buffer x, normed, qkv, attn, gate_up, hidden;
    /* Matrix family: f16 row tiles [max_rows][n_embd], [n_head * head_size], [n_ff]; q as f16 rows.
     */
    struct gpu_buffer embd_tiles, attn_tiles, ff_tiles, q;
    struct gpu_buffer in_band; /* two turns of in_band_layout, and scratch */
    struct gpu_buffer router, expert_ids, expert_weights, expert_pairs, expert_tiles, expert_out;
    struct gpu_buffer logits;                        /* [max_logit_rows][n_vocab] */
    struct gpu_buffer sample_scratch;                /* kernel_sample()'s, zeros between steps */
    struct gpu_buffer bests;                         /* of rows of logits: matrix_bests() */
    struct gpu_buffer tokens_device, tokens_host[2]; /* uint [max_rows]: sampled ids */
    struct gpu_buffer logprobs_device, logprobs_host[2]; /* struct logprob_row [max_rows] */
    struct gpu_buffer logits_host; /* only with logits_fn: [max_rows][n_vocab] */

    /* Sequences. */
    struct kv *kv;
    struct sequence *slots;  /* [max_seqs] */
    struct sequence **order; /* live ones, by arrival */
    uint32_t live;
    uint64_t arrivals;
    uint64_t preemptions;
    struct plan plan;               /* the step being built */
    struct plan flight;             /* the one submitted before it; rows_count 0: none */
    struct engine_event *events;    /* [max_seqs] */
    struct engine_share *shares;    /* [max_seqs] */
    uint32_t step_stride;           /* of the step being built: of its page table */
    uint32_t logit_rows;            /* of it */
    uint32_t edits_count;           /* written for it */
    uint32_t draw_rows;             /* of logit_rows: not greedy */
    uint32_t filter_rows;           /* of logit_rows: for which kernel_sample() is not plain */
    uint32_t logprob_rows;          /* of logit_rows */
    uint32_t tasks_few, tasks_many; /* attention's, few first */
    uint32_t tasks_keys;            /* the most that one of the few looks at */
    bool is_in_band;                /* the step being built */
    struct engine_profile_row profile[PROFILE_ROWS];
    size_t profile_count;
};

/* memory.c: from model, options and info.device alone. */
enum { ENGINE_BUFFERS = 32 };
struct engine_buffer {
    struct gpu_buffer *buffer; /* in the engine */
    enum gpu_memory kind;
    uint64_t bytes; /* 0: not needed */
    const char *what;
};
/* What the options ask for, or what suits the device. */
struct tuning memory_tuning(const struct engine_options *o, const struct model *m, bool software);
/* Whether the matrix family runs this model on this device. */
bool memory_uses_matrix(const struct engine *e);
/* Of that, in which forms weights are kept beside what the file has: those that fit beside
 * everything else, and the largest buffer of each into what the device allows for one. Returns
 * their bytes. free_bytes 0: unknown. */
uint64_t memory_choose_forms(const struct engine *e, uint64_t free_bytes, bool ret[MATRIX_FORMS]);
void memory_size_step(struct engine *e);
/* e->layout for a step of `rows` rows and `table` entries of the page table: what travels lies
 * close together. */
void memory_lay_out_step(struct engine *e, uint32_t rows, uint64_t table);
uint64_t memory_angles_bytes(const struct engine *e);
size_t memory_buffers(struct engine *e, struct engine_buffer ret[ENGINE_BUFFERS]);
/* free_bytes: with everything else on the device, the cache gets what is left; 0: unknown. */
enum err memory_choose_kv(struct engine *e, uint64_t free_bytes, uint32_t *ret_pages,
                          struct err_msg *why) MUST_CHECK;

/* weights.c */
/* What weights_load() will take of the device. */
enum err weights_measure(const struct model *m, uint64_t *ret_bytes,
                         struct err_msg *why) MUST_CHECK;
enum err weights_load(struct weights *w, struct gpu *g, const struct model *m,
                      struct err_msg *why) MUST_CHECK;
void weights_free(struct weights *w, struct gpu *g);

/* weights_matrix.c */
/* Device bytes of all tiles of a form, and of the largest of their buffers. */
uint64_t weights_tiles_bytes(const struct model *m, const struct tuning *t, enum matrix_form form,
                             uint64_t *ret_largest);
/* Fills w's matrices and makes tiles on the device; MATRIX_BYTES only beside MATRIX_TILES. Then
 * every kernel for up to max_rows rows is there. */
enum err weights_make_matrices(struct weights *w, struct gpu *g, struct matrix *x,
                               const struct model *m, const bool forms[MATRIX_FORMS],
                               const struct tuning *t, uint32_t max_rows,
                               struct err_msg *why) MUST_CHECK;
/* See engine_byte_tiles_read(). */
uint64_t weights_byte_tiles_read(const struct weights *w, uint32_t n_layer, const struct tuning *t,
                                 uint32_t rows);
void weights_free_tiles(struct weights *w, struct gpu *g, uint32_t n_layer);

/* sequence.c */
void sequence_end(struct engine *e, struct sequence *s);

/* plan.c */
void plan_step(struct engine *e);
/* After e->plan was submitted: its rows count as computed, its draws are pending. */
void plan_commit(struct engine *e);
/* Makes pages findable that are full of known tokens. Those that find one read it in a later step,
 * so it may be in flight still. */
void plan_publish(struct engine *e);
void sequence_drop_pages(struct engine *e, struct sequence *s);

/* forward.c: records the pass over e->plan between gpu_begin and gpu_submit. */
void forward_record(struct engine *e);
/* What was recorded so far is finished before what follows; its time goes under `name` when
 * profiling. */
void forward_stage(struct engine *e, const char *name);
/* out = norm(x) * w  (+ residual) */
void forward_rmsnorm(struct engine *e, uint64_t x, const struct weight *w, uint64_t idx,
                     uint64_t residual, uint64_t out, uint32_t rows);
/* Normalizes q's and k's heads in qkv where the architecture does. */
void forward_head_norms(struct engine *e, const struct layer_weights *l, uint32_t rows);
void forward_activate(struct engine *e, uint32_t n_ff, uint32_t rows);
void forward_mixture_of_experts(struct engine *e, const struct layer_weights *l, uint32_t rows);

/* forward_matrix.c */
/* Sets info.in_band_rows, when all else is there. */
void forward_matrix_init(struct engine *e);
/* Attention's tasks for e->plan into the step's input on the host, when all else is there. */
void forward_matrix_plan(struct engine *e, char *host);
void forward_matrix_layer(struct engine *e, const struct layer_weights *l, uint32_t rows);
/* logits of `count` rows of x, those that step input `idx` lists. Returns how many bests each row
 * has now in engine.bests; 0: none. */
uint32_t forward_matrix_logits(struct engine *e, uint64_t idx, uint32_t count);

#endif
