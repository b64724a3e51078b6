/* The matrix family's table: shaders, specializations, and which variant of the matmul for which
 * shape. */
#include "engine/matrix.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/hash.h"
#include "base/size.h"
#include "shaders/spirv_matrix.h"

#define PUSH_FITS(name) static_assert(sizeof(struct push_##name) <= GPU_PUSH_MAX_BYTES, #name)
PUSH_FITS(matrix_matmul);
PUSH_FITS(matrix_qkv);
PUSH_FITS(matrix_expand);
PUSH_FITS(matrix_rows);
PUSH_FITS(matrix_rope);
PUSH_FITS(matrix_attention);
static_assert(sizeof(struct attention_task) == 16, "the shader reads it as four words");

struct code {
    const uint32_t *spirv;
    size_t bytes;
};
#define CODE(name)                                                                                 \
    {                                                                                              \
        spirv_##name, sizeof spirv_##name                                                          \
    }
#define BOTH(name)                                                                                 \
    {                                                                                              \
        CODE(name##_nv), CODE(name##_emulated)                                                     \
    }

/* Shaders by device: with matrix units, emulated. */
static const struct code attention_code[2] = BOTH(matrix_attention);
static const struct code tiles_code[2] = BOTH(matrix_matmul_tiles);
static const struct code qkv_code[2] = BOTH(matrix_qkv);
static const struct code bytes_code[2] = BOTH(matrix_matmul_bytes);
static const struct code qkv_bytes_code[2] = BOTH(matrix_qkv_bytes);
static const struct code rows_code[2] = BOTH(matrix_rows);
static const struct code rope_code = CODE(matrix_rope);

#define TYPE(TENSOR, name, ...)                                                                    \
    {                                                                                              \
        TENSOR, {CODE(matrix_expand_##name), __VA_ARGS__}, BOTH(matrix_matmul_##name)              \
    }
#define BYTES_TYPE(TENSOR, name) TYPE(TENSOR, name, CODE(matrix_bytes_##name))
static const struct type_code {
    enum tensor_type type;
    struct code expand[MATRIX_FORMS];
    struct code matmul[2];
} types[] = {
    TYPE(TENSOR_F32, f32, {0}),       TYPE(TENSOR_F16, f16, {0}),
    TYPE(TENSOR_BF16, bf16, {0}),     BYTES_TYPE(TENSOR_Q4_0, q4_0),
    TYPE(TENSOR_Q4_1, q4_1, {0}),     BYTES_TYPE(TENSOR_Q5_0, q5_0),
    TYPE(TENSOR_Q5_1, q5_1, {0}),     BYTES_TYPE(TENSOR_Q8_0, q8_0),
    TYPE(TENSOR_Q2_K, q2_k, {0}),     TYPE(TENSOR_Q3_K, q3_k, {0}),
    TYPE(TENSOR_Q4_K, q4_k, {0}),     TYPE(TENSOR_Q5_K, q5_k, {0}),
    TYPE(TENSOR_Q6_K, q6_k, {0}),     BYTES_TYPE(TENSOR_IQ4_NL, iq4_nl),
    TYPE(TENSOR_IQ4_XS, iq4_xs, {0}), TYPE(TENSOR_MXFP4, mxfp4, {0}),
};
enum { MANY_ROWS = 1 << 30 };
/* What a matmul reads: a type, tiles, byte tiles, or paired ones of both. */
enum { TYPES = ARRAY_LEN(types), TILES = TYPES, PAIRED, BYTES, PAIRED_BYTES, SOURCES };

/* The matmul's specializations, all of the same arithmetic; for how many rows each is considered,
 * and what a workgroup of it takes, fitted to an H200's times (bench/NOTES.md): time = begin_us +
 * rounds * (group_us * groups of 32 a warp sums + round_us). */
static const struct variant {
    uint32_t tm, tn, warps_m, warps_n, warps_k, unroll;
    enum { BLOCKS, STREAM, STREAM_CACHED } kind; /* the latter: the shader's ROWS_CACHED */
    uint32_t from_rows, to_rows;
    uint32_t at_a_time; /* workgroups */
    float begin_us, group_us, round_us;
} variants[] = {
    {1, 1, 1, 1, 8, 4, STREAM, 1, 8, 160, 2.0f, 0.1f, 0},
    {1, 1, 1, 1, 16, 4, STREAM, 1, 8, 132, 2.1f, 0.1f, 0},
    {1, 1, 1, 1, 8, 4, BLOCKS, 1, 8, 396, 3.0f, 0.71f, 0},
    {1, 1, 1, 1, 16, 5, BLOCKS, 1, 8, 132, 4.7f, 0.15f, 0.9f},
    {1, 1, 1, 1, 16, 10, BLOCKS, 1, 8, 132, 4.6f, 0.15f, 0.9f},
    {1, 2, 1, 1, 8, 4, STREAM, 9, 16, 132, 2.0f, 0.1f, 0},
    {1, 3, 1, 1, 8, 4, STREAM, 17, 24, 132, 2.0f, 0.1f, 0},
    {1, 4, 1, 1, 8, 4, STREAM, 25, 32, 132, 2.0f, 0.1f, 0},
    {1, 5, 1, 1, 8, 4, STREAM, 33, 40, 132, 2.0f, 0.1f, 0},
    {1, 3, 1, 1, 8, 4, STREAM, 41, 48, 264, 2.0f, 0.1f, 0},
    {1, 7, 1, 1, 8, 4, STREAM, 49, 56, 132, 2.0f, 0.1f, 0},
    {1, 8, 1, 1, 8, 4, STREAM, 57, 64, 132, 2.0f, 0.1f, 0},
    {1, 2, 1, 1, 8, 4, STREAM_CACHED, 1, 0, 132, 0, 0, 0}, /* for tests */
    {1, 5, 1, 1, 8, 4, STREAM_CACHED, 33, 40, 264, 2.0f, 0.1f, 0},
    {1, 6, 1, 1, 8, 4, STREAM_CACHED, 41, 48, 264, 2.0f, 0.1f, 0},
    {1, 7, 1, 1, 8, 4, STREAM_CACHED, 49, 56, 264, 2.0f, 0.1f, 0},
    {1, 8, 1, 1, 8, 4, STREAM_CACHED, 57, 64, 264, 2.0f, 0.1f, 0},
    {1, 2, 1, 1, 8, 4, BLOCKS, 9, 16, 396, 2.1f, 0.49f, 1.3f},
    {1, 2, 1, 1, 16, 5, BLOCKS, 9, 16, 132, 4.3f, 0.38f, 0.2f},
    {1, 2, 1, 1, 4, 4, BLOCKS, 9, 16, 528, 4.0f, 0.35f, 1.2f},
    {1, 3, 1, 1, 16, 5, BLOCKS, 17, 24, 132, 3.6f, 0.42f, 0.6f},
    {1, 4, 1, 1, 8, 4, BLOCKS, 17, MANY_ROWS, 132, 3.5f, 0.36f, 0},
    {1, 4, 1, 1, 16, 5, BLOCKS, 17, 64, 132, 3.0f, 0.45f, 1.1f},
    {1, 4, 1, 1, 4, 4, BLOCKS, 17, MANY_ROWS, 132, 5.1f, 0.13f, 0},
    {1, 5, 1, 1, 8, 2, BLOCKS, 33, 40, 264, 2.0f, 0.39f, 1.6f},
    {1, 5, 1, 1, 4, 4, BLOCKS, 33, 40, 396, 4.0f, 0.40f, 1.2f},
    {1, 6, 1, 1, 8, 2, BLOCKS, 41, 48, 264, 1.9f, 0.43f, 1.7f},
    {2, 4, 1, 1, 4, 0, BLOCKS, 49, MANY_ROWS, 264, 3.6f, 0.40f, 0.9f},
    {2, 4, 2, 2, 1, 0, BLOCKS, 49, MANY_ROWS, 396, 3.1f, 0.38f, 7.3f},
    {2, 4, 2, 2, 1, 1, BLOCKS, 65, MANY_ROWS, 528, 0.1f, 0.53f, 5.1f},
};
enum { VARIANTS = ARRAY_LEN(variants) };

static bool streams(const struct variant *v)
{
    return v->kind != BLOCKS;
}

enum { EMULATED_MOST_TILES = 2 };
enum { CACHED_FROM_ROWS = 32, CACHED_LEAST_TILES = 4096 }; /* a head's; gate_up was slower so */
enum { MULTIPROCESSORS = 132, SPLIT_WARPS = 8, SPLIT_MOST_UNROLL = 10 };
enum { ELEMENTS = 64, NORM_MOST_BYTES = 24 << 10, NORM_MOST_TILES = 2, NORM_WARPS = 8 };
/* Attention over many columns and over few: tiles of 8 columns a warp; warps side by side in
 * columns, in chunks. Fewer warps a column where there are many columns. */
enum attention { MANY, FEW_8, FEW_4, FEW_2, FEW_1, ATTENTIONS };
struct attention_spec {
    uint32_t tn, warps_n, warps_k, values; /* the shader's constants; 0: not used */
};
/* For heads of up to 64 values, and larger ones; by shared memory. */
static const struct attention_spec attention_specs[2][ATTENTIONS] = {
    {{2, 4, 1, 1}, {1, 1, 8, 2}, {1, 1, 4, 2}, {1, 1, 2, 2}, {1, 1, 1, 2}},
    {{1, 4, 1, 0}, {0}, {1, 1, 4, 1}, {1, 1, 2, 1}, {1, 1, 1, 1}},
};
/* Emulated: many columns. A software device has half as much. */
static const struct attention_spec emulated_many[2] = {{2, 2, 2, 1}, {1, 4, 1, 0}};
enum { FEW_4_GROUPS = 96 };
enum { MANY_COLUMNS = 64, FEW_COLUMNS = 8 };

static const uint64_t NEAR_BYTES = UINT64_C(32) << 20;

struct matrix {
    struct gpu *gpu;
    bool emulated;
    uint32_t head_size, many_columns;
    int forced;
    uint32_t forced_groups;
    uint64_t near_bytes;  /* a tensor of so many stays in the cache */
    uint32_t norm_groups; /* of rows that a matmul can normalize; 0: none */
    struct tuning tuning;
    struct gpu_pipeline *attention[ATTENTIONS];
    struct gpu_pipeline *rows, *rope;
    struct gpu_pipeline *expand[TYPES][MATRIX_FORMS];
    struct gpu_pipeline *matmul[SOURCES][VARIANTS][2][2]; /* gated, normed */
    struct gpu_pipeline *split[SPLIT_MOST_UNROLL + 1];    /* of tiles, by unroll */
    struct gpu_pipeline *bests[SOURCES][VARIANTS];        /* that leave them */
    struct gpu_pipelines wanted;                          /* of the above, not created yet */
    char hash[33];
};

struct push_shape {
    uint32_t bytes, chain_at;
};
#define CHAINED(name)                                                                              \
    ((struct push_shape){sizeof(struct push_##name), offsetof(struct push_##name, chain)})
#define UNCHAINED(name) ((struct push_shape){.bytes = sizeof(struct push_##name)})

static enum err want(struct matrix *m, const char *name, const struct code *code,
                     struct push_shape push, const uint32_t *spec, uint32_t spec_count,
                     struct gpu_pipeline **ret, struct err_msg *why)
{
    struct gpu_pipeline_options o = {.name = name,
                                     .spirv = code->spirv,
                                     .spirv_bytes = code->bytes,
                                     .push_bytes = push.bytes,
                                     .chain_at = push.chain_at,
                                     .spec = spec,
                                     .spec_count = spec_count};
    return *ret != NULL ? ERR_OK : gpu_pipelines_add(&m->wanted, &o, ret, why);
}

static size_t source_of(enum tensor_type type)
{
    size_t i = 0;
    while (i < TYPES && types[i].type != type)
        i++;
    assert(i < TYPES);
    return i;
}

static enum err add_code(struct buf *all, const struct code *code)
{
    return code->spirv == NULL ? ERR_OK : buf_append(all, code->spirv, code->bytes);
}

static enum err make_hash(struct matrix *m, struct err_msg *why)
{
    /* How a sum is cut: its bits depend on it. */
    static const uint32_t cut[] = {MATRIX_MOST_SLICES, MATRIX_LEAST_SLICE_GROUPS};
    const struct code *of_device[] = {attention_code, tiles_code,     qkv_code,
                                      bytes_code,     qkv_bytes_code, rows_code};
    struct buf all = {0};
    enum err e = buf_append(&all, cut, sizeof cut);
    for (size_t i = 0; i < ARRAY_LEN(of_device) && e == ERR_OK; i++)
        e = add_code(&all, &of_device[i][m->emulated]);
    if (e == ERR_OK)
        e = add_code(&all, &rope_code);
    for (size_t i = 0; i < TYPES && e == ERR_OK; i++) {
        e = add_code(&all, &types[i].matmul[m->emulated]);
        for (size_t form = 0; form < MATRIX_FORMS && e == ERR_OK; form++)
            e = add_code(&all, &types[i].expand[form]);
    }
    if (e != ERR_OK)
        err_set(why, e, "out of memory for the shaders' hash");
    else
        hash128_hex(all.data, all.len, m->hash);
    buf_free(&all);
    return e;
}

enum err matrix_create(struct gpu *g, uint32_t head_size, uint32_t n_embd, bool emulated,
                       struct matrix **ret, struct err_msg *why)
{
    static const uint32_t elements = ELEMENTS;
    assert(head_size % 32 == 0 && head_size <= MATRIX_MAX_HEAD_SIZE);
    struct matrix *m = calloc(1, sizeof *m);
    if (m == NULL)
        return err_set(why, ERR_NOMEM, "out of memory for the matrix kernels");
    m->gpu = g;
    m->emulated = emulated;
    m->head_size = head_size;
    m->norm_groups = n_embd * 16 <= NORM_MOST_BYTES ? n_embd / 32 : 0;
    m->tuning = tuning_defaults();
    m->forced = -1;
    m->near_bytes = NEAR_BYTES;
    enum err e = make_hash(m, why);
    for (size_t i = 0; i < ATTENTIONS && e == ERR_OK; i++) {
        const struct attention_spec *a = i == MANY && emulated
                                             ? &emulated_many[head_size > 64]
                                             : &attention_specs[head_size > 64][i];
        const uint32_t spec[] = {a->warps_n * a->warps_k,
                                 head_size / 32,
                                 a->tn,
                                 a->warps_n,
                                 a->warps_k,
                                 a->values,
                                 i != MANY};
        struct push_shape push = CHAINED(matrix_attention);
        if (i == MANY) { /* reads through caches that a chain would not refresh */
            push.chain_at = 0;
            m->many_columns = a->tn * a->warps_n * 8;
        }
        if (a->tn > 0)
            e = want(m, "matrix_attention", &attention_code[emulated], push, spec, ARRAY_LEN(spec),
                     &m->attention[i], why);
    }
    if (e == ERR_OK)
        e = want(m, "matrix_rows", &rows_code[emulated], CHAINED(matrix_rows), NULL, 0, &m->rows,
                 why);
    if (e == ERR_OK)
        e = want(m, "matrix_rope", &rope_code, UNCHAINED(matrix_rope), &elements, 1, &m->rope, why);
    if (e == ERR_OK)
        e = matrix_check(m, g, head_size, why);
    if (e != ERR_OK) {
        matrix_destroy(&m);
        return e;
    }
    *ret = m;
    return ERR_OK;
}

void matrix_tune(struct matrix *m, const struct tuning *t)
{
    m->tuning = *t;
}

enum err matrix_compile(struct matrix *m, struct err_msg *why)
{
    return gpu_pipelines_create(m->gpu, &m->wanted, why);
}

void matrix_destroy(struct matrix **m)
{
    if (*m != NULL)
        gpu_pipelines_free(&(*m)->wanted);
    free(*m); /* pipelines belong to the gpu */
    *m = NULL;
}

const char *matrix_build_hash(const struct matrix *m)
{
    return m->hash;
}

/* ---- the matmul ---- */

void matrix_slices(uint32_t k, uint32_t *ret_slices, uint32_t *ret_slice_groups)
{
    uint32_t groups = k / 32;
    uint32_t of_slice =
        (uint32_t)max_u64(MATRIX_LEAST_SLICE_GROUPS, div_up(groups, MATRIX_MOST_SLICES));
    *ret_slice_groups = of_slice;
    *ret_slices = (uint32_t)div_up(groups, of_slice);
}

uint32_t matrix_stream_rows(uint32_t cols)
{
    uint32_t slices, slice_groups, most = 0;
    matrix_slices(cols, &slices, &slice_groups);
    for (size_t i = 0; i < VARIANTS; i++)
        if (streams(&variants[i]) && slices <= variants[i].warps_k &&
            slice_groups == variants[i].unroll && variants[i].to_rows > most)
            most = variants[i].to_rows;
    return most;
}

uint64_t matrix_form_bytes(enum matrix_form form, uint64_t rows, uint64_t cols)
{
    static const uint64_t block_bytes[MATRIX_FORMS] = {16 * 32 * sizeof(uint16_t),
                                                       MATRIX_BYTES_BLOCK};
    return div_up(rows, 16) * (cols / 32) * block_bytes[form];
}

uint64_t matrix_tiles_bytes(uint64_t rows, uint64_t cols)
{
    return matrix_form_bytes(MATRIX_TILES, rows, cols);
}

static uint32_t output_tiles(const struct matrix_weight *w)
{
    return (uint32_t)div_up(w->rows, w->gated ? 8 : 16);
}

/* Where nothing is forced: streams and norms inside are of one tile of rows, as a CPU's compiler
 * takes long for more. */
static bool spares_compiler(const struct matrix *m)
{
    return m->emulated && m->forced < 0;
}

/* Whether a matmul of this weight would norm so many rows itself, if its variant can. */
static bool normed_inside(const struct matrix *m, const struct matrix_weight *w, uint32_t rows)
{
    return (w->gated || w->paired) && rows <= m->tuning.norm_rows &&
           (rows <= 8 || !spares_compiler(m)) && w->cols == m->norm_groups * 32;
}

/* Workgroups in rows and in outputs. Of byte tiles, whose registers are few, three fit on a
 * multiprocessor with one tile of rows, or two if gated (but not where two take the same weights:
 * bench/NOTES.md), two with up to four, or with one where it norms. */
static void grid(const struct matrix *m, const struct variant *v, const struct matrix_weight *w,
                 uint32_t rows, bool norms, uint32_t *ret_rows, uint32_t *ret_outputs)
{
    *ret_rows = (uint32_t)div_up(rows, 8 * v->tn * v->warps_n);
    *ret_outputs = (uint32_t)div_up(output_tiles(w), v->tm * v->warps_m);
    if (streams(v)) { /* all at once, and all of the same length */
        bool two = w->bytes != 0 && v->tn <= (norms ? 1 : 4);
        bool three = two && v->tn <= (w->gated && *ret_rows == 1 ? 2 : 1) && !norms;
        two = two || (*ret_rows > 1 && v->tn == MATRIX_IN_BAND_TILES);
        uint32_t all = !two ? v->at_a_time : three ? 3 * MULTIPROCESSORS : 2 * MULTIPROCESSORS;
        uint64_t at_once = m->forced_groups != 0 ? m->forced_groups : max_u64(1, all / *ret_rows);
        *ret_outputs = (uint32_t)div_up(*ret_outputs, div_up(*ret_outputs, at_once));
    }
}

/* Neighbouring workgroups share rows, which is best while the weights stay in the cache. Of a
 * tensor too large for it they share weights instead, outputs being the grid's z: each is then read
 * from memory once. */
static void dispatch(struct matrix *m, struct gpu_pipeline *pipeline, const void *push,
                     const struct variant *v, const struct matrix_weight *w, uint32_t rows,
                     bool norms)
{
    uint32_t row_groups, output_groups;
    grid(m, v, w, rows, norms, &row_groups, &output_groups);
    uint64_t bytes = matrix_tiles_bytes((uint64_t)output_tiles(w) * 16, w->cols);
    if (!streams(v) && bytes > m->near_bytes && row_groups > 1 && output_groups > 1)
        gpu_dispatch(m->gpu, pipeline, push, row_groups, 1, output_groups);
    else
        gpu_dispatch(m->gpu, pipeline, push, output_groups, row_groups, 1);
}

/* Others read their rows through caches that a chain would not refresh. */
static bool chained(const struct variant *v)
{
    return v->unroll > 0 && v->warps_k > 1 && v->kind != STREAM_CACHED;
}

static uint32_t shared_bytes(const struct matrix *m, const struct variant *v)
{
    uint32_t warps = v->warps_m * v->warps_n * v->warps_k, bytes = 256;
    if (v->warps_k > 1)
        bytes += warps * v->tm * v->tn * 32 * 16;
    if (m->emulated)
        bytes += warps * 32 * 24;
    return bytes;
}

bool matrix_variant_fits(const struct matrix *m, size_t variant, uint32_t cols)
{
    const struct variant *v = &variants[variant];
    uint32_t slices, slice_groups;
    matrix_slices(cols, &slices, &slice_groups);
    if (streams(v) && m->emulated && v->tn > EMULATED_MOST_TILES)
        return false; /* a CPU's compiler takes minutes for it */
    if (streams(v) && (slices > v->warps_k || slice_groups != v->unroll))
        return false;
    return shared_bytes(m, v) <= gpu_info(m->gpu)->shared_bytes;
}

bool matrix_variant_norms(const struct matrix *m, size_t variant)
{
    const struct variant *v = &variants[variant];
    uint32_t normed_bytes = v->tn * (m->norm_groups * 32 * 16 + 256);
    uint32_t warps = v->warps_m * v->warps_n * v->warps_k;
    return v->tn <= NORM_MOST_TILES && v->warps_n == 1 && warps >= NORM_WARPS &&
           m->norm_groups > 0 &&
           shared_bytes(m, v) + normed_bytes <= gpu_info(m->gpu)->shared_bytes;
}

size_t matrix_variant_for(const struct matrix *m, const struct matrix_weight *w, uint32_t rows)
{
    uint32_t slices, slice_groups, x, y;
    size_t best = VARIANTS;
    float least = 0;
    if (m->forced >= 0)
        return (size_t)m->forced;
    matrix_slices(w->cols, &slices, &slice_groups);
    /* The same for all rows of a tile, as matrix_prepare() expects. */
    bool in_band = div_up(rows, 8) <= div_up(m->tuning.in_band_rows, 8) && !w->logits;
    bool many = w->bytes != 0 && output_tiles(w) >= CACHED_LEAST_TILES;
    for (size_t i = 0; i < VARIANTS; i++) {
        const struct variant *v = &variants[i];
        /* In band two tiles of rows at most, and as often as it takes. */
        bool more = in_band && v->tn == MATRIX_IN_BAND_TILES && v->to_rows > 0;
        if (rows < v->from_rows || (rows > v->to_rows && !more) ||
            !matrix_variant_fits(m, i, w->cols))
            continue;
        if (in_band && v->tn > MATRIX_IN_BAND_TILES)
            continue;
        if (streams(v) && div_up(rows, 8) * 8 > m->tuning.stream_rows)
            continue;
        if (streams(v) && v->tn > 1 && spares_compiler(m))
            continue;
        if (streams(v) && rows > CACHED_FROM_ROWS && (v->kind == STREAM_CACHED) != many)
            continue;
        if (v->unroll > MATRIX_LEAST_SLICE_GROUPS + 1 && slice_groups % v->unroll != 0)
            continue; /* the rest of a slice would come group by group */
        grid(m, v, w, rows, normed_inside(m, w, rows), &x, &y);
        /* Few rounds end together; of many the last one is shared out. */
        float rounds = (float)x * (float)y / (float)v->at_a_time;
        if (rounds < 4)
            rounds = (float)div_up((uint64_t)x * y, v->at_a_time);
        float groups = (float)(slice_groups * div_up(slices, v->warps_k));
        float us = v->begin_us + rounds * (v->group_us * groups + v->round_us);
        if (best == VARIANTS || us < least) {
            least = us;
            best = i;
        }
    }
    assert(best < VARIANTS);
    return best;
}

bool matrix_norms(const struct matrix *m, const struct matrix_weight *w, uint32_t rows)
{
    bool readable = w->tiles != 0 || w->address != 0; /* not: gate and up of two types */
    return readable && normed_inside(m, w, rows) &&
           matrix_variant_norms(m, matrix_variant_for(m, w, rows));
}

bool matrix_in_band(const struct matrix *m, const struct matrix_weight *w, uint32_t rows)
{
    bool readable = w->tiles != 0 || w->address != 0;
    const struct variant *v = &variants[matrix_variant_for(m, w, rows)];
    return readable && chained(v) && v->tn <= MATRIX_IN_BAND_TILES;
}

static uint32_t slice_groups_of(uint32_t cols)
{
    uint32_t slices, slice_groups;
    matrix_slices(cols, &slices, &slice_groups);
    return slice_groups;
}

static uint32_t split_shared_bytes(const struct matrix *m, uint32_t slice_groups)
{
    uint32_t sums = SPLIT_WARPS * 32 * 16, weights = SPLIT_WARPS * (slice_groups / 2) * 2 * 32 * 16;
    return sums + weights + (m->emulated ? SPLIT_WARPS * 32 * 24 : 0) + 256;
}

bool matrix_splits(const struct matrix *m, const struct matrix_weight *w, uint32_t rows)
{
    uint32_t slices, slice_groups;
    matrix_slices(w->cols, &slices, &slice_groups);
    return m->forced < 0 && w->in_band && w->tiles != 0 && rows <= m->tuning.split_rows &&
           slices > SPLIT_WARPS && slices <= 2 * SPLIT_WARPS && slice_groups <= SPLIT_MOST_UNROLL &&
           split_shared_bytes(m, slice_groups) <= gpu_info(m->gpu)->shared_bytes;
}

uint64_t matrix_half_bytes(uint32_t outputs)
{
    return div_up(outputs, 16) * 32 * 16;
}

uint32_t matrix_bests(const struct matrix *m, const struct matrix_weight *w, uint32_t rows)
{
    uint32_t x, y;
    const struct variant *v = &variants[matrix_variant_for(m, w, rows)];
    if (!w->logits || w->gated || w->paired || !streams(v))
        return 0;
    grid(m, v, w, rows, false, &x, &y);
    return (uint64_t)rows * y * 8 <= MATRIX_BESTS_BYTES ? y : 0;
}

/* Tiles where there are any, also for few rows: unpacking what the file has costs more than the
 * bytes (bench/NOTES.md). */
static size_t source_for(const struct matrix_weight *w, size_t variant)
{
    if (streams(&variants[variant]) && w->bytes != 0)
        return w->paired ? PAIRED_BYTES : BYTES;
    return w->paired ? PAIRED : w->tiles != 0 ? TILES : source_of(w->type);
}

static uint64_t address_for(const struct matrix_weight *w, size_t source)
{
    return source < TYPES                              ? w->address
           : source == BYTES || source == PAIRED_BYTES ? w->bytes
                                                       : w->tiles;
}

static const struct code *code_for(const struct matrix *m, size_t source)
{
    static const struct code *const of[] = {tiles_code, qkv_code, bytes_code, qkv_bytes_code};
    return source < TYPES ? &types[source].matmul[m->emulated] : &of[source - TILES][m->emulated];
}

static enum err prepare_variant(struct matrix *m, size_t source, size_t variant, bool gated,
                                bool normed, bool bests, struct err_msg *why)
{
    const struct variant *v = &variants[variant];
    struct gpu_pipeline **ret =
        bests ? &m->bests[source][variant] : &m->matmul[source][variant][gated][normed];
    const uint32_t spec[] = {v->warps_m * v->warps_n * v->warps_k,
                             v->tm,
                             v->tn,
                             v->warps_m,
                             v->warps_n,
                             v->warps_k,
                             v->unroll,
                             gated,
                             normed ? m->norm_groups : 0,
                             streams(v),
                             false,
                             bests,
                             v->kind == STREAM_CACHED};
    struct push_shape push =
        source == PAIRED || source == PAIRED_BYTES ? CHAINED(matrix_qkv) : CHAINED(matrix_matmul);
    if (!chained(v))
        push.chain_at = 0;
    return want(m, "matrix_matmul", code_for(m, source), push, spec, ARRAY_LEN(spec), ret, why);
}

static enum err prepare_split(struct matrix *m, const struct matrix_weight *w, struct err_msg *why)
{
    uint32_t unroll = slice_groups_of(w->cols);
    const uint32_t spec[] = {SPLIT_WARPS, 1, 1, 1, 1, SPLIT_WARPS, unroll, false, 0, false, true};
    return want(m, "matrix_matmul", code_for(m, TILES), CHAINED(matrix_matmul), spec,
                ARRAY_LEN(spec), &m->split[unroll], why);
}

enum err matrix_prepare(struct matrix *m, const struct matrix_weight *w, uint32_t max_rows,
                        struct err_msg *why)
{
    enum err e = matrix_splits(m, w, 1) ? prepare_split(m, w, why) : ERR_OK;
    for (uint32_t rows = 8; rows < max_rows + 8 && e == ERR_OK; rows += 8) { /* tiles of 8 */
        size_t variant = matrix_variant_for(m, w, rows), source = source_for(w, variant);
        e = prepare_variant(m, source, variant, w->gated, false, false, why);
        if (e == ERR_OK && matrix_norms(m, w, rows - 7))
            e = prepare_variant(m, source, variant, w->gated, true, false, why);
        if (e == ERR_OK && matrix_bests(m, w, rows) > 0)
            e = prepare_variant(m, source, variant, false, false, true, why);
    }
    return e;
}

bool matrix_form_takes(enum matrix_form form, enum tensor_type type)
{
    return types[source_of(type)].expand[form].spirv != NULL;
}

enum err matrix_prepare_expand(struct matrix *m, enum tensor_type type, enum matrix_form form,
                               struct err_msg *why)
{
    size_t i = source_of(type);
    return want(m, "matrix_expand", &types[i].expand[form], UNCHAINED(matrix_expand), NULL, 0,
                &m->expand[i][form], why);
}

void matrix_matmul(struct matrix *m, const struct push_matrix_matmul *p,
                   const struct matrix_weight *w)
{
    struct push_matrix_matmul q = *p;
    size_t i = matrix_variant_for(m, w, p->rows), source = source_for(w, i);
    q.w = address_for(w, source);
    q.w_high = w->high_address;
    q.high_row = w->high_row;
    q.n = w->rows;
    q.k = w->cols;
    struct gpu_pipeline *pipeline =
        p->bests != 0 ? m->bests[source][i] : m->matmul[source][i][w->gated][p->norm != 0];
    if (p->half_sums != 0) {
        assert(matrix_splits(m, w, p->rows));
        pipeline = m->split[slice_groups_of(w->cols)];
        q.w = w->tiles;
        gpu_dispatch(m->gpu, pipeline, &q, output_tiles(w), 2, 1);
        return;
    }
    assert(pipeline != NULL);
    dispatch(m, pipeline, &q, &variants[i], w, p->rows, p->norm != 0);
}

void matrix_qkv(struct matrix *m, const struct push_matrix_qkv *p, const struct matrix_weight *w)
{
    struct push_matrix_qkv q = *p;
    size_t i = matrix_variant_for(m, w, p->rows), source = source_for(w, i);
    struct gpu_pipeline *pipeline = m->matmul[source][i][0][p->norm != 0];
    assert(w->paired && pipeline != NULL);
    q.w = address_for(w, source);
    q.k = w->cols;
    dispatch(m, pipeline, &q, &variants[i], w, p->rows, p->norm != 0);
}

/* ---- the rest ---- */

void matrix_expand(struct matrix *m, const struct push_matrix_expand *p, enum tensor_type type,
                   enum matrix_form form)
{
    gpu_dispatch(m->gpu, m->expand[source_of(type)][form], p, p->k / 32,
                 (uint32_t)div_up(p->n, 8 * p->halves), 1);
}

void matrix_rows(struct matrix *m, const struct push_matrix_rows *p)
{
    bool in_band = p->clear != 0;
    assert(!in_band || p->cols <= MATRIX_ROWS_IN_BAND_COLS);
    gpu_dispatch(m->gpu, m->rows, p, in_band ? p->rows : (uint32_t)div_up(p->rows, 2), 1, 1);
}

void matrix_rope(struct matrix *m, const struct push_matrix_rope *p)
{
    uint32_t words = (p->n_head + 2 * p->n_head_kv) * p->head_size / 2;
    gpu_dispatch(m->gpu, m->rope, p, (uint32_t)div_up(words, ELEMENTS), p->rows, 1);
}

uint32_t matrix_task_rows(uint32_t n_head, uint32_t n_head_kv)
{
    return (uint32_t)max_u64(1, MANY_COLUMNS / (n_head / n_head_kv));
}

void matrix_attention(struct matrix *m, const struct push_matrix_attention *p, uint32_t tasks,
                      bool few, uint32_t keys)
{
    uint32_t share = p->n_head / p->n_head_kv, groups = tasks * p->n_head_kv;
    enum attention i = !few ? MANY
                       : groups <= 132 && m->head_size <= 64 &&
                               (groups > FEW_4_GROUPS || keys > 4 * MATRIX_CHUNK_TOKENS)
                           ? FEW_8
                       : groups <= 528  ? FEW_4
                       : groups <= 1056 ? FEW_2
                                        : FEW_1;
    uint32_t columns = few ? share : share * matrix_task_rows(p->n_head, p->n_head_kv);
    if (tasks > 0)
        gpu_dispatch(m->gpu, m->attention[i], p, p->n_head_kv, tasks,
                     (uint32_t)div_up(columns, few ? FEW_COLUMNS : m->many_columns));
}

size_t matrix_variants(void)
{
    return VARIANTS;
}

bool matrix_variant_streams(size_t variant)
{
    return streams(&variants[variant]);
}

void matrix_force(struct matrix *m, int variant)
{
    m->forced = variant;
}

void matrix_force_groups(struct matrix *m, uint32_t groups)
{
    m->forced_groups = groups;
}

void matrix_force_far(struct matrix *m, bool far)
{
    m->near_bytes = far ? 0 : NEAR_BYTES;
}
