/* The kernels: one table (kernels.c) from kernel and tensor type to shader, specialization and
 * grid; and one function for each that records it. The push blocks and what each kernel computes:
 * shaders/push.h.
 *
 * Canonical arithmetic: for one device, driver and build an output row has the same bits whatever
 * rows are beside it and whichever variant (few rows, many rows) computes it. For matmul: k is cut
 * into slices of MATMUL_SLICE values; a slice is accumulated in ascending k by explicit fma in f32
 * from 0; slices are added in ascending order; then bias, then residual. Dequantized weights are
 * the exact f32 values of the format's formula, in one written order of operations. No float
 * atomics; reductions have a fixed tree. */
#ifndef OCTO_ENGINE_KERNELS_H
#define OCTO_ENGINE_KERNELS_H

#include "engine/gpu.h"
#include "model/gguf.h"
#include "shaders/push.h"

enum { MATMUL_SLICE = 256, ATTENTION_MAX_HEAD_SIZE = 256, SAMPLE_SPLIT_ROWS = 66 };

struct kernels;

/* Creates every pipeline for the types in `types` (bit n: enum tensor_type n; F32 is always there).
 */
enum err kernels_create(struct gpu *g, uint64_t types, struct kernels **ret,
                        struct err_msg *why) MUST_CHECK;
void kernels_destroy(struct kernels **k);
/* XXH3-128 hex of all SPIR-V and specialization: part of the numeric class. */
const char *kernels_build_hash(const struct kernels *k);

/* How a weight lies in GPU memory. The engine asks for the size, allocates, repacks and uploads.
 * Blocks may be laid out anew (aligned for 16-byte loads), their values never change. `rows` x
 * `cols` as in gguf. */
uint64_t kernel_weight_bytes(enum tensor_type type, uint64_t rows, uint64_t cols);
/* src: the file's bytes of these rows; dst: kernel_weight_bytes(). Row r lands where the kernel
 * expects row r of a tensor of `rows` rows. ERR_FORMAT: a scale that is NaN or infinite (names the
 * block's row). */
enum err kernel_weight_repack(enum tensor_type type, uint64_t rows, uint64_t cols, const void *src,
                              void *dst, struct err_msg *why) MUST_CHECK;
bool kernel_type_supported(enum tensor_type type);

void kernel_embed(struct kernels *k, const struct push_embed *p, enum tensor_type type);
void kernel_rmsnorm(struct kernels *k, const struct push_rmsnorm *p);
void kernel_matmul(struct kernels *k, const struct push_matmul *p, enum tensor_type type);
void kernel_rope(struct kernels *k, const struct push_rope *p);
void kernel_attention(struct kernels *k, const struct push_attention *p);
void kernel_silu_mul(struct kernels *k, const struct push_silu_mul *p);
void kernel_edit_logits(struct kernels *k, const struct push_edit_logits *p);
/* draws: a row's temperature is above 0. plain: no row bans ids, none that draws has top_k or
 * min_p. scratch: of min(rows, SAMPLE_SPLIT_ROWS) rows, none where each has one workgroup, as more
 * rows have. stage is filled in. */
void kernel_sample(struct kernels *k, const struct push_sample *p, bool draws, bool plain);
void kernel_logprobs(struct kernels *k, const struct push_logprobs *p);
void kernel_softcap(struct kernels *k, const struct push_softcap *p); /* row_groups is filled in */

/* A mixture of experts: route, expert_tiles, then expert_matmul for gate, up and down, and combine.
 */
uint32_t kernel_expert_tiles_count(uint32_t pairs, uint32_t n_expert);
void kernel_route(struct kernels *k, const struct push_route *p);
void kernel_expert_tiles(struct kernels *k, const struct push_expert_tiles *p);
/* p->k a multiple of 4, p->a aligned to 16 bytes; p->rows is not used. Same arithmetic as
 * kernel_matmul. */
void kernel_expert_matmul(struct kernels *k, const struct push_matmul *p, enum tensor_type type,
                          uint32_t tiles_count);
void kernel_combine(struct kernels *k, const struct push_combine *p);

/* Tests only: forces kernel_matmul's variant (a number from kernels_matmul_variants(); 0: by shape
 * and device, as always), creating what it needs; one that cannot load a shape leaves it to the
 * usual choice. false: the device cannot run it. */
bool kernels_force_matmul(struct kernels *k, uint32_t variant);
/* Tests only: from now on attention as hardware does it, on software devices, too. */
void kernels_force_common_attention(struct kernels *k);
/* Tests only: from now on kernel_sample with workgroups of so many invocations that read so many
 * lines ahead. false: the device cannot run them. */
bool kernels_force_sample(struct kernels *k, uint32_t invocations, uint32_t ahead);
/* So many of them, if they read ahead, for each of up to SAMPLE_SPLIT_ROWS rows; 0, at first: as
 * many as fill the device. */
void kernels_set_sample_parts(struct kernels *k, uint32_t parts);
size_t kernels_matmul_variants(uint32_t ret[8]);

#endif
