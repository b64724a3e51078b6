/* The matrix family: the transformer's kernels on matrix units (f16 products, f32 sums), beside the
 * plain ones of kernels.h. shaders/matrix.glsl has the layouts, shaders/push.h what each kernel
 * computes.
 *
 * Canonical arithmetic, as in kernels.h: an output's bits depend on its own row alone, not on the
 * rows beside it nor on the variant. A matmul's inner dimension is cut into slices
 * (matrix_slices()) that are added in ascending order; whatever the source, a weight is the f16
 * nearest to the format's value. Weights are read as f16 tiles where those fit on the device,
 * beside the tensors as the file has them, and from the latter otherwise. Matmuls that stream
 * their weights wait for memory: they read byte tiles where there are any. */
#ifndef OCTO_ENGINE_MATRIX_H
#define OCTO_ENGINE_MATRIX_H

#include "engine/gpu.h"
#include "engine/tuning.h"
#include "model/gguf.h"
#include "shaders/push.h"

enum {
    MATRIX_PAD_ROWS =
        128, /* row tiles are read in whole tiles of a workgroup: so many rows may lie behind */
    MATRIX_PAD_TILES = 8,        /* and so many weight tiles */
    MATRIX_MAX_HEAD_SIZE = 128,  /* a multiple of 32 */
    MATRIX_BESTS_BYTES = 1 << 18 /* matrix_bests() */
};

/* `rows` x `cols` of weights; gated: rows is the number of outputs, each of a gate and a value. */
struct matrix_weight {
    uint64_t tiles;   /* f16 weight tiles; 0: none */
    uint64_t bytes;   /* byte tiles, beside them, for few rows; 0: none */
    uint64_t address; /* the tensor as kernel_weight_repack() leaves it; 0: not readable so */
    uint64_t high_address;
    uint32_t high_row; /* gated: the values' tensor and its first row */
    enum tensor_type type;
    uint32_t rows, cols;
    bool gated;
    bool paired;  /* tiles for matrix_qkv() */
    bool in_band; /* ffn_down's: see matrix_splits() */
    bool logits;  /* the head's: see matrix_bests() */
};

struct matrix;

/* emulated: without matrix units (slow: for tests). Nothing can be dispatched before
 * matrix_compile(). ERR_UNSUPPORTED: matrix_check() says that the device's units are others. */
enum err matrix_create(struct gpu *g, uint32_t head_size, uint32_t n_embd, bool emulated,
                       struct matrix **ret, struct err_msg *why) MUST_CHECK;
/* Instead of the defaults, for what is prepared from now on. */
void matrix_tune(struct matrix *m, const struct tuning *t);
/* matrix_check.c, a part of matrix_create(): a small matmul and a small attention on the device,
 * whose results are known. ERR_UNSUPPORTED: they come out wrong. */
enum err matrix_check(struct matrix *m, struct gpu *g, uint32_t head_size,
                      struct err_msg *why) MUST_CHECK;
/* Once, after gpu_chain_create(): whether dispatches in a chain leave what they leave with barriers
 * between them. ERR_UNSUPPORTED: they do not, or one waited in vain; gpu_chain_destroy() then. */
enum err matrix_check_chain(struct matrix *m, struct gpu *g, struct err_msg *why) MUST_CHECK;
void matrix_destroy(struct matrix **m);
/* XXH3-128 hex of the family's SPIR-V and of how sums are cut; specializations and variants have no
 * part in the bits. */
const char *matrix_build_hash(const struct matrix *m);

/* matrix_compile() is to make matrix_matmul() ready for this weight and up to max_rows rows. Of
 * tiles and addresses it is only looked at whether they are 0. */
enum err matrix_prepare(struct matrix *m, const struct matrix_weight *w, uint32_t max_rows,
                        struct err_msg *why) MUST_CHECK;
/* Of what a matrix keeps its weights in. */
enum matrix_form { MATRIX_TILES, MATRIX_BYTES, MATRIX_FORMS };
bool matrix_form_takes(enum matrix_form form, enum tensor_type type);
/* As well matrix_expand() for a type. */
enum err matrix_prepare_expand(struct matrix *m, enum tensor_type type, enum matrix_form form,
                               struct err_msg *why) MUST_CHECK;

/* Creates the pipelines of all that was prepared since the last one, at once, and at first those
 * that do not depend on weights. */
enum err matrix_compile(struct matrix *m, struct err_msg *why) MUST_CHECK;

/* Of a gated weight: rows of both. */
uint64_t matrix_form_bytes(enum matrix_form form, uint64_t rows, uint64_t cols);
uint64_t matrix_tiles_bytes(uint64_t rows, uint64_t cols); /* MATRIX_TILES */
/* Up to how many rows weights of so many columns stream by, if the tuning lets them; 0: never, and
 * byte tiles are of no use. */
uint32_t matrix_stream_rows(uint32_t cols);
void matrix_slices(uint32_t k, uint32_t *ret_slices, uint32_t *ret_slice_groups);

/* Whether this matmul can norm its rows itself: push.h, norm. Same bits as matrix_rows() before it.
 */
bool matrix_norms(const struct matrix *m, const struct matrix_weight *w, uint32_t rows);
/* Whether this matmul's input may arrive in band, or what it adds to: shaders/chain.glsl. */
bool matrix_in_band(const struct matrix *m, const struct matrix_weight *w, uint32_t rows);
/* Whether it may be two workgroups' work for each tile, so that its weights fit beside others' in a
 * multiprocessor's registers: half_sums and half_clear of matrix_half_bytes() then. */
bool matrix_splits(const struct matrix *m, const struct matrix_weight *w, uint32_t rows);
uint64_t matrix_half_bytes(uint32_t outputs);
/* How many bests of each row this matmul may leave (push.h), MATRIX_BESTS_BYTES of all rows at
 * most; 0: none. */
uint32_t matrix_bests(const struct matrix *m, const struct matrix_weight *w, uint32_t rows);

void matrix_expand(struct matrix *m, const struct push_matrix_expand *p, enum tensor_type type,
                   enum matrix_form form);
void matrix_rows(struct matrix *m, const struct push_matrix_rows *p);
/* w, w_high, high_row, n, k, slices are filled in from the weight. */
void matrix_matmul(struct matrix *m, const struct push_matrix_matmul *p,
                   const struct matrix_weight *w);
/* As matrix_matmul() with a paired weight. */
void matrix_qkv(struct matrix *m, const struct push_matrix_qkv *p, const struct matrix_weight *w);
void matrix_rope(struct matrix *m, const struct push_matrix_rope *p);
/* Tasks of one row (few) or of up to matrix_task_rows() rows; keys: the most that one of them looks
 * at. */
uint32_t matrix_task_rows(uint32_t n_head, uint32_t n_head_kv);
void matrix_attention(struct matrix *m, const struct push_matrix_attention *p, uint32_t tasks,
                      bool few, uint32_t keys);

/* Tests only: from now on this variant (0 .. matrix_variants() - 1; -1: by shape), from tiles or
 * not. */
size_t matrix_variants(void);
/* The device's shared memory, and sums over so many columns. */
bool matrix_variant_fits(const struct matrix *m, size_t variant, uint32_t cols);
bool matrix_variant_streams(size_t variant);
size_t matrix_variant_for(const struct matrix *m, const struct matrix_weight *w, uint32_t rows);
bool matrix_variant_norms(const struct matrix *m, size_t variant); /* can norm its rows itself */
void matrix_force(struct matrix *m, int variant);
/* Tests only: streams have so many workgroups, which then take several tiles; 0: by variant. */
void matrix_force_groups(struct matrix *m, uint32_t groups);
/* Tests only: every tensor as if it were too large for the device's cache. */
void matrix_force_far(struct matrix *m, bool far);

#endif
