#ifndef OCTO_SHADERS_PUSH_H
#define OCTO_SHADERS_PUSH_H
/* Push-constant blocks, declared once for C and GLSL. At most 128 bytes each. Addresses are 64-bit buffer
 * addresses (0: absent); counts are 32-bit. The C side checks every size with static_assert (kernels.c).
 *
 * C:    struct push_matmul p = {.a = ..., ...};
 * GLSL: layout(push_constant) uniform P { PUSH_MATMUL } p;   with ADDR = uint64_t
 */
#ifdef OCTO_GLSL
#define ADDR(name) uint64_t name;
#define ADDR_OUT   uint64_t out_; /* "out" is a word of the language */
#define U32(name)  uint name;
#define F32(name)  float name;
#else
#include <stdint.h>
#define ADDR(name) uint64_t name;
#define ADDR_OUT   uint64_t out;
#define U32(name)  uint32_t name;
#define F32(name)  float name;
#endif

/* All activations are F32, row-major, rows packed (row r of [R x C] begins at r * C floats) unless a stride is
 * given. "rows" are the tokens of a ragged step, in any order; a row's result never depends on other rows.
 *
 * Per-token arrays (uint each): token ids, pos (position in the sequence), seq (row of the page table).
 * KV pages: f16. Page p of layer l holds PAGE_TOKENS tokens: K then V, each [n_head_kv][PAGE_TOKENS][head_size];
 * a layer's pool is contiguous: page address = kv + p * page_bytes, V at + page_bytes / 2.
 * pages: uint [sequences][pages_stride], the page ids of each sequence in order. */

/* out[r, :] = table[id, :] * scale, dequantized (scale 0: 1). id is ids[r], or, when that has EMBED_DRAWN set,
 * drawn[the other bits]: what the step before drew. */
#define EMBED_DRAWN 0x80000000u
#define PUSH_EMBED ADDR(table) ADDR(ids) ADDR(drawn) ADDR_OUT U32(rows) U32(n_embd) U32(n_vocab) F32(scale)

/* out[r, :] = x[idx[r], :] * weight / sqrt(mean(x[idx[r], :]^2) + eps)  (+ residual[r, :] if residual); idx 0: r.
 * Row r begins at (r / heads) * stride + (r % heads) * cols floats: heads > 1 norms each head of a row by itself, rows
 * counts heads. heads 0: rows packed. out may be x or residual. (Zhang & Sennrich 2019, Root Mean Square Layer Norm) */
#define PUSH_RMSNORM                                                                               \
    ADDR(x) ADDR(weight) ADDR(idx) ADDR(residual) ADDR_OUT U32(rows) U32(cols) U32(heads) U32(stride) F32(eps)

/* out[r * out_stride + j] = sum_k a[r, k] * w[j, k]  (+ bias[j] if bias) (+ residual[r * out_stride + j] if residual)
 * for j < n. Canonical arithmetic: see engine/kernels.h. residual may be == out.
 * With tiles (kernel_expert_matmul): w holds n rows of each expert, one after the other; a workgroup takes a tile's
 * pairs; pair q is row q / a_share of a and row q of out. */
#define PUSH_MATMUL                                                                                \
    ADDR(a) ADDR(w) ADDR(bias) ADDR(residual) ADDR_OUT ADDR(tiles) ADDR(pairs)                     \
    U32(rows) U32(n) U32(k) U32(out_stride) U32(a_share)

/* A mixture of experts (Shazeer et al. 2017). Pair r * used + s is row r's s-th expert.
 * ids[pair], weights[pair]: the row's `used` largest logits, largest first, the lower number first among equals;
 * weights are their softmax. logits: [rows][n_expert]. One invocation a row. */
#define PUSH_ROUTE ADDR(logits) ADDR(ids) ADDR(weights) U32(rows) U32(n_expert) U32(used)
/* Sorts the pairs by expert, ascending: list[...] = pair. tiles: uint4 (expert, first, end, 0) [tiles_count], at most
 * EXPERT_TILE pairs each; those not needed are empty. tiles_count >= pairs / EXPERT_TILE + n_expert. One workgroup. */
#define PUSH_EXPERT_TILES ADDR(ids) ADDR(list) ADDR(tiles) U32(pairs) U32(n_expert) U32(tiles_count)
/* out[r, :] += sum_s weights[r * used + s] * y[r * used + s, :], s ascending. */
#define PUSH_COMBINE ADDR(y) ADDR(weights) ADDR_OUT U32(rows) U32(cols) U32(used)
#define EXPERT_TILE 4
#define MAX_EXPERTS 1024

/* ---- the matrix family: f16 products on matrix units; layouts "weight tiles", "row tiles": matrix.glsl ---- */

/* Filled in by gpu_dispatch(): the chain's state (0: none), and the count to wait for. See chain.glsl. */
#define PUSH_CHAIN ADDR(chain) U32(after)

/* How a sum over k is cut: its bits depend on it. Slices of so many groups of 32, the last one shorter. */
#define MATRIX_MOST_SLICES 16
#define MATRIX_LEAST_SLICE_GROUPS 4
/* Of byte tiles (matrix.glsl): 16 rows of a group of 32, with their scales. */
#define MATRIX_BYTES_BLOCK 544

/* out[r * out_stride + j] = sum_k a[r, k] * w[j, k] (+ bias) (+ residual) as PUSH_MATMUL, a: row tiles, w: weight tiles
 * or a quantized tensor. Gated: n outputs act(w[j] a) * (w'[j] a) as row tiles, w' = w_high from its row high_row on
 * (weight tiles: eight rows of w and eight of w' alternate). k a multiple of 32.
 * Rows are padded to what the variant takes.
 * norm (few rows, matrix_norms()): a is F32 rows [rows][k] instead, normalized on the way with weight norm and eps; it
 * does not come in band then.
 * options: MATRIX_GELU instead of silu, and what of the input comes in band. clear (0: none): out's other place, which
 * becomes UNWRITTEN. half_sums (matrix_splits(); 0: none), half_clear: the two places of sums on their way from one
 * workgroup of a tile to the other, in band. bests (0: none): uint2 [rows][matrix_bests()], of each workgroup's outputs
 * the largest, as key_of() has it, and its column, the lowest of equal ones; key 0x007fffff: all minus infinity or NaN.
 * Of the sums alone: no bias, no residual. */
#define PUSH_MATRIX_MATMUL                                                                         \
    ADDR(a) ADDR(w) ADDR(w_high) ADDR(bias) ADDR(residual) ADDR(norm) ADDR_OUT ADDR(clear)         \
    ADDR(half_sums) ADDR(half_clear) ADDR(bests) PUSH_CHAIN                                        \
    U32(rows) U32(n) U32(k) U32(out_stride) U32(high_row) U32(options) F32(eps)
#define MATRIX_GELU 1u
#define MATRIX_ADJACENT 2u
#define MATRIX_A_IN_BAND 4u
#define MATRIX_RESIDUAL_IN_BAND 8u
#define MATRIX_REHEARSE 16u
/* The projections to q, k and v with what follows them: bias, rotation (all of a head's dimensions), and the places of
 * PUSH_MATRIX_ROPE. w: weight tiles of all (n_head + 2 n_head_kv) * head_size rows, paired:
 * see PUSH_MATRIX_EXPAND. options: MATRIX_ADJACENT, MATRIX_A_IN_BAND. */
#define PUSH_MATRIX_QKV                                                                            \
    ADDR(a) ADDR(w) ADDR(bias) ADDR(norm) ADDR(q) ADDR(angles) ADDR(pos) ADDR(seq) ADDR(pages)     \
    ADDR(kv) PUSH_CHAIN F32(eps) U32(rows) U32(k) U32(n_head) U32(n_head_kv) U32(head_size)        \
    U32(pages_stride) U32(page_bytes) U32(options)
/* out: weight tiles of n rows of a quantized tensor from first_row on. halves 2: rows fill tiles of 16; 1: eight rows
 * fill half `upper` of each tile. head_size (0: none): paired, that is each head's rows are put so that the two of a
 * rotation stand eight rows apart in a tile; adjacent: they are neighbours in the tensor. The same for byte tiles. */
#define PUSH_MATRIX_EXPAND                                                                         \
    ADDR(w) ADDR_OUT U32(n) U32(k) U32(halves) U32(upper) U32(first_row) U32(head_size) U32(adjacent)
/* out (row tiles) = norm(x[idx[r], :]) * weight as PUSH_RMSNORM; weight 0: x as it is. Row s begins at s * stride, a
 * multiple of 4. clear: as in PUSH_MATRIX_MATMUL; then there is a
 * weight and no idx, cols is at most MATRIX_ROWS_IN_BAND_COLS, and options may have MATRIX_A_IN_BAND. */
#define PUSH_MATRIX_ROWS                                                                           \
    ADDR(x) ADDR(weight) ADDR(idx) ADDR_OUT ADDR(clear) PUSH_CHAIN                                 \
    U32(rows) U32(cols) U32(stride) U32(options) F32(eps)
#define MATRIX_ROWS_IN_BAND_COLS 2048
#define MATRIX_IN_BAND_TILES 2 /* of rows: matmuls that take more do not look for them in band */
/* As PUSH_ROPE, with other places: q (rotated) goes to f16 rows [rows][n_head * head_size]; v lies in its page as
 * [n_head_kv][head_size][PAGE_TOKENS]. */
#define PUSH_MATRIX_ROPE                                                                           \
    ADDR(qkv) ADDR(q) ADDR(angles) ADDR(pos) ADDR(seq) ADDR(pages) ADDR(kv)                        \
    U32(rows) U32(n_head) U32(n_head_kv) U32(head_size) U32(rope_dims) U32(pages_stride) U32(page_bytes) \
    U32(adjacent)
/* As PUSH_ATTENTION: q f16 rows, pages as PUSH_MATRIX_ROPE leaves them, out: row tiles.
 * tasks: struct attention_task, each a run of rows of one sequence at consecutive positions: the first row, how many,
 * the first one's position, and the row of the page table. clear: as PUSH_MATRIX_MATMUL. options:
 * MATRIX_REHEARSE (in a chain): once for nothing, into scratch, which has room for all rows of the step. */
#define PUSH_MATRIX_ATTENTION                                                                      \
    ADDR(q) ADDR(pages) ADDR(kv) ADDR(tasks) ADDR_OUT ADDR(clear) ADDR(scratch) PUSH_CHAIN          \
    U32(n_head) U32(n_head_kv) U32(pages_stride) U32(page_bytes) U32(window) U32(options) F32(scale) F32(softcap)
#define MATRIX_CHUNK_TOKENS 64 /* two pages */

/* x[i] = cap * tanh(x[i] / cap), i < count. (Gemma 2, arXiv 2408.00118) */
#define PUSH_SOFTCAP ADDR(x) U32(count) U32(row_groups) F32(cap)

/* Rotates q and k (pairs (i, i + rope_dims/2), "neox"; adjacent: (2i, 2i + 1); Su et al. 2021, RoFormer) by pos[r] and
 * writes k and v into their pages. qkv: row r holds q [n_head][head_size], k and v [n_head_kv][head_size] each.
 * q is rotated in place; k, v go to the page pages[seq[r]][pos[r] / PAGE_TOKENS], as f16.
 * angles: float2 [n_ctx][rope_dims/2] = (cos, sin) by position and pair: model_rope_angles(). */
#define PUSH_ROPE                                                                                  \
    ADDR(qkv) ADDR(angles) ADDR(pos) ADDR(seq) ADDR(pages) ADDR(kv)                                \
    U32(rows) U32(n_head) U32(n_head_kv) U32(head_size) U32(rope_dims) U32(pages_stride) U32(page_bytes) \
    U32(adjacent)

/* out[r][h] = softmax(s) . v over keys 0..pos[r], s = q[r][h] . k * scale, h's kv head = h / (n_head / n_head_kv).
 * softcap (0: off): s = softcap * tanh(s / softcap). window (0: off): only the last `window` keys.
 * q: in qkv rows as above (row stride qkv_stride floats); out: [rows][n_head * head_size].
 * Fixed split: blocks of keys of one size that divides PAGE_TOKENS, ascending, whatever the batch or the chunk. */
#define PUSH_ATTENTION                                                                             \
    ADDR(qkv) ADDR(pos) ADDR(seq) ADDR(pages) ADDR(kv) ADDR_OUT                                   \
    U32(rows) U32(n_head) U32(n_head_kv) U32(head_size) U32(qkv_stride) U32(pages_stride) U32(page_bytes) F32(scale) \
    F32(softcap) U32(window)

/* out[r, j] = silu(gate_up[r, j]) * gate_up[r, cols + j]; silu(x) = x / (1 + exp(-x)). (Shazeer 2020, GLU variants)
 * gelu 1: x / 2 * (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) instead of silu. */
#define PUSH_SILU_MUL ADDR(gate_up) ADDR_OUT U32(rows) U32(cols) U32(gelu)

/* Logit bias and penalties, written into the logits: row r's edits are edits[params[r].edits_begin ..+ edits_count],
 * ids unique, so that no two invocations touch one value. x + bias; then, where the id was seen, x / repetition where
 * x > 0 and else x * repetition (Keskar et al. 2019, CTRL); then x - frequency * count - presence where count > 0.
 * Before it changes a logit it keeps it in the edit's `raw`. restore 1: puts those back. */
#define PUSH_EDIT_LOGITS ADDR(logits) ADDR(params) ADDR(edits) U32(rows) U32(n_vocab) U32(restore)

/* One token a row from logits [rows][n_vocab] with params: struct sample_row [rows] (below) -> out: uint [rows].
 * Order of operations: banned tokens, temperature, min_p, top_k, top_p, draw. Greedy takes the first best id.
 * The draw: a token's mass is exp(z - zmax), z = logit / temperature, in whole units of 2^-31; of the masses M of all
 * tokens drawn from, floor(u M) with 64 random bits u falls into one token's. The order in which the masses are added
 * up: ascending by id / 4 % SAMPLE_GROUPS, then by id. u: words 0 (high) and 1 of Philox4x32-10 (Salmon et al. 2011)
 * with counter (position, choice, round, 0) and key seed. Round 0 draws from what min_p and top_k keep; as long as a
 * token is below top_p's threshold, the next round draws from what is above that token.
 * top_p < 1: round 0 leaves out the tail, that is values up to a pivot, if their masses are not more than what top_p
 * leaves out, since they would only be drawn in vain. The pivot is guessed from some values: of every so-many-th line
 * of four ids, SAMPLE_LOOK_LINES at most and an eighth of all, the masses in units of 2^-19 are added up by level,
 * min((zmax - z) * SAMPLE_LEVELS_UNIT, SAMPLE_LEVELS - 1); the tail begins at the first level from which on they are
 * not more than 15/16 of the part of their total that top_p leaves out. */
#define SAMPLE_LEVELS 256
#define SAMPLE_LEVELS_UNIT 32
#define SAMPLE_LOOK_LINES 1024
#define PUSH_SAMPLE                                                                                \
    ADDR(logits) ADDR(params) ADDR(banned) ADDR_OUT ADDR(scratch) ADDR(bests)                      \
    U32(rows) U32(n_vocab) U32(stage) U32(bests_count)
/* A row may have several workgroups: then the stages are dispatches one after the other, and scratch has so many words
 * a row, the first of each 0 (and again afterwards). With one, all stages are one dispatch, and scratch is not used.
 * bests: uint2 [rows][bests_count], what PUSH_MATRIX_MATMUL left; bests_count 0: there are none. With them there is no
 * stage SAMPLE_BEST. */
#define SAMPLE_BEST 0
#define SAMPLE_DRAW 1
#define SAMPLE_MOST_PARTS 32
#define SAMPLE_SCRATCH_WORDS (4 + 4 * SAMPLE_MOST_PARTS + 5 * SAMPLE_GROUPS)

/* Log-probabilities (log_softmax of the logits) of tokens[r] and of the likeliest params[r].logprobs - 1 ids, in
 * descending order, the lower id first on ties: out: struct logprob_row [rows]. A row with params[r].logprobs 0 is
 * left as it was. NaN counts as minus infinity; ids there are not enough of are 0xffffffff. */
#define PUSH_LOGPROBS ADDR(logits) ADDR(params) ADDR(tokens) ADDR_OUT U32(rows) U32(n_vocab)

/* Sampling parameters of one row, read by edit_logits, sample and logprobs. 64 bytes. */
#define SAMPLE_ROW                                                                                 \
    F32(temperature)  /* 0: greedy */                                                              \
    F32(top_p)        /* >= 1: off */                                                              \
    F32(min_p)        /* 0: off */                                                                 \
    U32(top_k)        /* 0: off */                                                                 \
    U32(seed_low)                                                                                  \
    U32(seed_high)                                                                                 \
    U32(position)     /* the position the sampled token will have */                               \
    U32(choice)       /* 0; for n > 1 the choice's number */                                       \
    U32(banned_begin) /* banned[begin .. begin + count): ids that must not be drawn */             \
    U32(banned_count) /* at most SAMPLE_MAX_BANNED: the rest is not looked at */                   \
    U32(edits_begin)                                                                               \
    U32(edits_count)  /* 0: logits as they are */                                                  \
    F32(repetition_penalty)                                                                        \
    F32(frequency_penalty)                                                                         \
    F32(presence_penalty)                                                                          \
    U32(logprobs)     /* 0: none; 1 + how many of the likeliest */

/* What changes one id's logit. 16 bytes. */
#define LOGIT_EDIT                                                                                 \
    U32(id)    /* below n_vocab, or it is passed over */                                           \
    U32(seen)  /* bit 31: in the prompt; the rest: how often in the completion */                  \
    F32(bias)                                                                                      \
    F32(raw)   /* the device's */

#define PAGE_TOKENS 32
#define SAMPLE_MAX_BANNED 512
#define SAMPLE_GROUPS 1024
#define EDIT_IN_PROMPT 0x80000000u
#define MAX_TOP_LOGPROBS 20

#ifndef OCTO_GLSL
struct push_embed { PUSH_EMBED };
struct push_rmsnorm { PUSH_RMSNORM };
struct push_matmul { PUSH_MATMUL };
struct push_rope { PUSH_ROPE };
struct push_attention { PUSH_ATTENTION };
struct push_silu_mul { PUSH_SILU_MUL };
struct push_edit_logits { PUSH_EDIT_LOGITS };
struct push_sample { PUSH_SAMPLE };
struct push_logprobs { PUSH_LOGPROBS };
struct push_route { PUSH_ROUTE };
struct push_expert_tiles { PUSH_EXPERT_TILES };
struct push_combine { PUSH_COMBINE };
struct push_softcap { PUSH_SOFTCAP };
struct push_matrix_matmul { PUSH_MATRIX_MATMUL };
struct push_matrix_qkv { PUSH_MATRIX_QKV };
struct push_matrix_expand { PUSH_MATRIX_EXPAND };
struct push_matrix_rows { PUSH_MATRIX_ROWS };
struct push_matrix_rope { PUSH_MATRIX_ROPE };
struct attention_task { uint32_t row, rows, position, seq; };
struct push_matrix_attention { PUSH_MATRIX_ATTENTION };
struct sample_row { SAMPLE_ROW };
struct logit_edit { LOGIT_EDIT };
struct logprob_row {
    float token; /* of the sampled one */
    uint32_t top_ids[MAX_TOP_LOGPROBS];
    float top[MAX_TOP_LOGPROBS];
};
#undef ADDR
#undef ADDR_OUT
#undef U32
#undef F32
#endif
#endif
