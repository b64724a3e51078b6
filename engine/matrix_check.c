/* What a device has to do right before the kernels are let onto it.
 *
 * Where its matrix units hold a product's values is not something Vulkan tells: the kernels expect
 * NVIDIA's places, of B two different ones (shaders/matrix.glsl). A matmul of small integers and an
 * attention in which every query finds one key show whether they are those. And a chain of
 * dispatches must leave the bits that barriers between them leave. */
#include <assert.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/size.h"
#include "engine/matrix.h"

enum { OUTPUTS = 32, ROWS = 8, COLS = 288, GROUPS = COLS / 32, SLOTS = 8 };
enum { WEIGHTS = OUTPUTS * COLS, VALUES = ROWS * COLS };
/* Two chunks of keys, the second one cut off; rows that follow each other, and one alone. */
enum {
    KEYS = 70,
    RUN = 10,
    QUERIES = RUN + 1,
    HEADS = 2,
    PAGES = (KEYS + PAGE_TOKENS - 1) / PAGE_TOKENS
};
enum { CHAIN_ROUNDS = 32 };

static int weight_of(uint32_t j, uint32_t k)
{
    return (int)((j * 7 + k * 13 + j * k) % 31) - 15;
}

static int value_of(uint32_t r, uint32_t k)
{
    return (int)((r * 11 + k * 5 + r * k * 3) % 29) - 14;
}

/* f16 of -2047 .. 2047 */
static uint16_t half_of(int x)
{
    uint32_t most = (uint32_t)(x < 0 ? -x : x), power = 0;
    if (x == 0)
        return 0;
    while (most >> (power + 1) != 0)
        power++;
    return (uint16_t)((x < 0 ? 0x8000u : 0) | (15 + power) << 10 |
                      ((most << (10 - power)) & 0x3ffu));
}

/* In both kinds of tiles a lane's values are an octet of a group of 32. */
static void fill_weights(uint16_t *weights, uint32_t outputs, uint32_t cols)
{
    for (uint32_t j = 0; j < outputs; j++)
        for (uint32_t k = 0; k < cols; k++) {
            uint32_t c = k % 32, lane = j % 8 * 4 + c % 16 / 4;
            uint32_t half = (j / 16 * (cols / 32) + k / 32) * 2 + j % 16 / 8;
            weights[(half * 32 + lane) * SLOTS + c / 16 * 4 + c % 4] = half_of(weight_of(j, k));
        }
}

/* tile_place() */
static size_t row_place(uint32_t r, uint32_t k, uint32_t groups)
{
    uint32_t c = k % 32, lane = r % 8 * 4 + c % 16 / 4;
    return ((size_t)(r / 8 * groups + k / 32) * 32 + lane) * SLOTS + c / 16 * 4 + c % 4;
}

static bool is_right(const float *out)
{
    for (uint32_t r = 0; r < ROWS; r++)
        for (uint32_t j = 0; j < OUTPUTS; j++) {
            int sum = 0;
            for (uint32_t k = 0; k < COLS; k++)
                sum += weight_of(j, k) * value_of(r, k);
            if (out[r * OUTPUTS + j] != (float)sum)
                return false;
        }
    return true;
}

/* w NULL: no weights to prepare. */
static enum err begin(struct matrix *m, struct gpu *g, const struct matrix_weight *w,
                      struct err_msg *why)
{
    enum err e = w != NULL ? matrix_prepare(m, w, ROWS, why) : ERR_OK;
    if (e == ERR_OK)
        e = matrix_compile(m, why);
    return e == ERR_OK ? gpu_begin(g, why) : e;
}

static enum err multiply(struct matrix *m, struct gpu *g, const struct gpu_buffer *in,
                         const struct gpu_buffer *out, struct err_msg *why)
{
    struct matrix_weight w = {.tiles = in->address, .rows = OUTPUTS, .cols = COLS};
    struct push_matrix_matmul p = {.a = in->address + WEIGHTS * sizeof(uint16_t),
                                   .out = out->address,
                                   .rows = ROWS,
                                   .out_stride = OUTPUTS};
    enum err e = begin(m, g, &w, why);
    if (e != ERR_OK)
        return e;
    matrix_matmul(m, &p, &w);
    e = gpu_submit(g, why);
    return e == ERR_OK ? gpu_wait(g, why) : e;
}

static enum err check_matmul(struct matrix *m, struct gpu *g, struct err_msg *why)
{
    struct gpu_buffer in = {0}, out = {0};
    uint64_t out_bytes = ROWS * OUTPUTS * sizeof(float);
    enum err e = gpu_buffer_create(g, GPU_UPLOAD, (WEIGHTS + VALUES) * sizeof(uint16_t),
                                   "the matrix units' check", &in, why);
    if (e == ERR_OK)
        e = gpu_buffer_create(g, GPU_READBACK, out_bytes, "the matrix units' check", &out, why);
    if (e == ERR_OK) {
        uint16_t *weights = in.mapped, *values = weights + WEIGHTS;
        fill_weights(weights, OUTPUTS, COLS);
        for (uint32_t r = 0; r < ROWS; r++)
            for (uint32_t k = 0; k < COLS; k++)
                values[row_place(r, k, GROUPS)] = half_of(value_of(r, k));
        memset(out.mapped, 0xff, out_bytes); /* NaN: what was not written is wrong */
        e = multiply(m, g, &in, &out, why);
    }
    if (e == ERR_OK && !is_right(out.mapped))
        e = err_set(why, ERR_UNSUPPORTED,
                    "the device's matrix units do not multiply as the kernels expect");
    gpu_buffer_destroy(g, &in);
    gpu_buffer_destroy(g, &out);
    return e;
}

/* ---- attention ---- */

/* A key's values: 1 or -1, in an order of its own. */
static int key_of(uint32_t t, uint32_t d)
{
    uint32_t x = (t * 64 + d + 1) * 0x9e3779b1u;
    x = (x ^ x >> 15) * 0x85ebca77u;
    return (x ^ x >> 13) & 1 ? 1 : -1;
}

/* Never 0: that has two signs. */
static int content_of(uint32_t t, uint32_t d)
{
    int x = (int)((t * 7 + d * 3 + t * d) % 60);
    return x < 30 ? x - 30 : x - 29;
}

static uint32_t position_of(uint32_t row)
{
    return row < RUN ? KEYS - RUN + row : KEYS - 1;
}

/* The key that a query finds: a query is that key, and the scale leaves the others nothing. */
static uint32_t target_of(uint32_t row, uint32_t head)
{
    return (row * 37 + head * 29 + 3) % (position_of(row) + 1);
}

/* What attention reads, in one buffer. */
struct attention_input {
    uint64_t kv, q, tasks, pages, bytes;
    uint32_t head_size, page_bytes;
};

static struct attention_input lay_out(uint32_t head_size)
{
    struct attention_input a = {.head_size = head_size,
                                .page_bytes = 2 * PAGE_TOKENS * head_size * sizeof(uint16_t)};
    a.q = a.kv + (uint64_t)PAGES * a.page_bytes;
    a.tasks = a.q + (uint64_t)QUERIES * HEADS * head_size * sizeof(uint16_t);
    a.pages = a.tasks + 2 * sizeof(struct attention_task);
    a.bytes = a.pages + PAGES * sizeof(uint32_t);
    return a;
}

/* Behind the last key there are NaN. */
static void fill_attention(const struct attention_input *a, char *in)
{
    static const struct attention_task tasks[] = {{RUN, 1, KEYS - 1, 0}, {0, RUN, KEYS - RUN, 0}};
    static const uint32_t pages[PAGES] = {2, 0, 1};
    uint32_t n = a->head_size;
    uint16_t *q = (uint16_t *)(void *)(in + a->q);
    memset(in + a->kv, 0xff, (uint64_t)PAGES * a->page_bytes);
    for (uint32_t t = 0; t < KEYS; t++) {
        uint16_t *keys = (uint16_t *)(void *)(in + pages[t / PAGE_TOKENS] * a->page_bytes);
        uint16_t *values = keys + PAGE_TOKENS * n;
        for (uint32_t d = 0; d < n; d++) {
            keys[t % PAGE_TOKENS * n + d] = half_of(key_of(t, d));
            values[d * PAGE_TOKENS + t % PAGE_TOKENS] = half_of(content_of(t, d));
        }
    }
    for (uint32_t i = 0; i < QUERIES * HEADS * n; i++)
        q[i] = half_of(key_of(target_of(i / n / HEADS, i / n % HEADS), i % n));
    memcpy(in + a->tasks, tasks, sizeof tasks);
    memcpy(in + a->pages, pages, sizeof pages);
}

/* A weight of 1 may come out a unit beside it, and a result is rounded to f16 as the device likes:
 * whole numbers below 32 are at least 32 units apart. */
static bool is_near(uint16_t half, int want)
{
    return abs((int)half - half_of(want)) <= 4;
}

static bool found_all(const uint16_t *out, uint32_t head_size)
{
    for (uint32_t i = 0; i < QUERIES * HEADS * head_size; i++) {
        uint32_t row = i / head_size / HEADS, head = i / head_size % HEADS, d = i % head_size;
        size_t at = row_place(row, head * head_size + d, HEADS * head_size / 32);
        if (!is_near(out[at], content_of(target_of(row, head), d)))
            return false;
    }
    return true;
}

static enum err attend(struct matrix *m, struct gpu *g, const struct attention_input *a,
                       const struct gpu_buffer *in, const struct gpu_buffer *out,
                       struct err_msg *why)
{
    struct push_matrix_attention p = {.q = in->address + a->q,
                                      .pages = in->address + a->pages,
                                      .kv = in->address + a->kv,
                                      .tasks = in->address + a->tasks,
                                      .out = out->address,
                                      .n_head = HEADS,
                                      .n_head_kv = 1,
                                      .pages_stride = PAGES,
                                      .page_bytes = a->page_bytes,
                                      .scale = 8};
    enum err e = begin(m, g, NULL, why);
    if (e != ERR_OK)
        return e;
    matrix_attention(m, &p, 1, true, UINT32_MAX);
    p.tasks += sizeof(struct attention_task);
    matrix_attention(m, &p, 1, false, UINT32_MAX);
    e = gpu_submit(g, why);
    return e == ERR_OK ? gpu_wait(g, why) : e;
}

static enum err check_attention(struct matrix *m, struct gpu *g, uint32_t head_size,
                                struct err_msg *why)
{
    struct gpu_buffer in = {0}, out = {0};
    struct attention_input a = lay_out(head_size);
    uint64_t out_bytes = div_up(QUERIES, 8) * 8 * HEADS * head_size * sizeof(uint16_t);
    assert(matrix_task_rows(HEADS, 1) >= RUN);
    enum err e = gpu_buffer_create(g, GPU_UPLOAD, a.bytes, "attention's check", &in, why);
    if (e == ERR_OK)
        e = gpu_buffer_create(g, GPU_READBACK, out_bytes, "attention's check", &out, why);
    if (e == ERR_OK) {
        fill_attention(&a, in.mapped);
        memset(out.mapped, 0xff, out_bytes);
        e = attend(m, g, &a, &in, &out, why);
    }
    if (e == ERR_OK && !found_all(out.mapped, head_size))
        e = err_set(why, ERR_UNSUPPORTED,
                    "the device's matrix units do not attend as the kernels expect");
    gpu_buffer_destroy(g, &in);
    gpu_buffer_destroy(g, &out);
    return e;
}

enum err matrix_check(struct matrix *m, struct gpu *g, uint32_t head_size, struct err_msg *why)
{
    enum err e = check_matmul(m, g, why);
    return e == ERR_OK ? check_attention(m, g, head_size, why) : e;
}

/* ---- chains ---- */

/* Rows that go through norm and matmul, round after round, each reading what the one before wrote,
 * in the device's memory: x [ROWS][cols] F32, a norm's weight [cols], square weights, and row tiles
 * of x. */
struct rounds {
    uint32_t cols;
    uint64_t x_bytes, norm, weights, tiles, bytes; /* places in a buffer that begins with x */
};

static struct rounds rounds_of(bool software)
{
    struct rounds r = {.cols = software ? 96 : 1024};
    r.x_bytes = r.norm = ROWS * r.cols * sizeof(float);
    r.weights = r.norm + r.cols * sizeof(float);
    r.tiles = r.weights + matrix_tiles_bytes(r.cols, r.cols);
    r.bytes = r.tiles + (uint64_t)MATRIX_PAD_ROWS * r.cols * sizeof(uint16_t);
    return r;
}

/* All that comes before the row tiles. */
static void fill_rounds(const struct rounds *r, char *host)
{
    float *x = (float *)(void *)host, *norm = (float *)(void *)(host + r->norm);
    for (uint32_t i = 0; i < ROWS * r->cols; i++)
        x[i] = (float)value_of(i / r->cols, i % r->cols);
    for (uint32_t i = 0; i < r->cols; i++)
        norm[i] = 1;
    fill_weights((uint16_t *)(void *)(host + r->weights), r->cols, r->cols);
}

static enum err record_rounds(struct matrix *m, struct gpu *g, const struct rounds *r,
                              uint64_t address, bool chain, struct err_msg *why)
{
    struct matrix_weight w = {.tiles = address + r->weights, .rows = r->cols, .cols = r->cols};
    struct push_matrix_rows norm = {.x = address,
                                    .weight = address + r->norm,
                                    .out = address + r->tiles,
                                    .rows = ROWS,
                                    .cols = r->cols,
                                    .stride = r->cols,
                                    .eps = 1e-5f};
    struct push_matrix_matmul multiply = {
        .a = norm.out, .residual = address, .out = address, .rows = ROWS, .out_stride = r->cols};
    enum err e = begin(m, g, &w, why);
    if (e != ERR_OK)
        return e;
    gpu_chain(g, chain);
    for (uint32_t i = 0; i < CHAIN_ROUNDS; i++) {
        matrix_rows(m, &norm);
        gpu_barrier(g);
        matrix_matmul(m, &multiply, &w);
        gpu_barrier(g);
    }
    return gpu_submit(g, why);
}

/* host: the buffer's contents; ret_x: of x after the rounds. */
static enum err run_rounds(struct matrix *m, struct gpu *g, const struct rounds *r,
                           const struct gpu_buffer *at, const char *host, bool chain, char *ret_x,
                           struct err_msg *why)
{
    enum err e = gpu_upload(g, at, 0, host, r->tiles, why);
    if (e == ERR_OK)
        e = record_rounds(m, g, r, at->address, chain, why);
    if (e == ERR_OK)
        e = gpu_wait(g, why);
    return e == ERR_OK ? gpu_download(g, at, 0, ret_x, r->x_bytes, why) : e;
}

enum err matrix_check_chain(struct matrix *m, struct gpu *g, struct err_msg *why)
{
    struct rounds r = rounds_of(gpu_info(g)->software);
    struct gpu_buffer at = {0};
    char *host = malloc(r.tiles + 2 * r.x_bytes), *want = host + r.tiles, *got = want + r.x_bytes;
    if (host == NULL)
        return err_set(why, ERR_NOMEM, "out of memory for the chains' check");
    fill_rounds(&r, host);
    enum err e = gpu_buffer_create(g, GPU_DEVICE, r.bytes, "the chains' check", &at, why);
    if (e == ERR_OK)
        e = run_rounds(m, g, &r, &at, host, false, want, why);
    if (e == ERR_OK)
        e = run_rounds(m, g, &r, &at, host, true, got, why);
    if (e == ERR_OK && memcmp(want, got, r.x_bytes) != 0)
        e = err_set(why, ERR_UNSUPPORTED, "a dispatch did not see what the one before wrote");
    if (e == ERR_DEVICE && gpu_chain_broken(g))
        e = ERR_UNSUPPORTED; /* the device itself goes on */
    gpu_buffer_destroy(g, &at);
    free(host);
    return e;
}
