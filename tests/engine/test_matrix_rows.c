/* matrix_rows and matrix_rope against naive twins in double: values, places, and that nothing else
 * is written. */
#include "tests/engine/matrix_bed.h"

/* In band, a workgroup a row: the bits that `want` has, and as many places cleared. */
static void check_in_band(struct bed *b, struct matrix *m, struct push_matrix_rows p,
                          const uint16_t *want)
{
    size_t bytes = row_tiles_bytes(p.rows, p.cols), cleared = 0, other = 0;
    uint16_t *got = take(bytes), *clear = take(bytes);
    memset(clear, 0, bytes);
    struct tensor out_t = bed_tensor(b, NULL, bytes), clear_t = bed_tensor(b, clear, bytes);
    p.out = out_t.address;
    p.clear = clear_t.address;
    p.options = MATRIX_A_IN_BAND;
    bed_begin(b);
    matrix_rows(m, &p);
    bed_run(b);
    bed_check(b);
    bed_get(b, &out_t, got);
    bed_get(b, &clear_t, clear);
    if (!CHECK(memcmp(want, got, bytes) == 0))
        fprintf(stderr, "    in band, %u x %u\n", p.rows, p.cols);
    for (uint32_t r = 0; r < p.rows; r++)
        for (uint32_t i = 0; i < p.cols; i++)
            cleared += clear[row_place(r, i, p.cols / 32)] == UNTOUCHED;
    for (size_t i = 0; i < bytes / 2; i++)
        other += clear[i] != 0;
    CHECK_INT(cleared, (size_t)p.rows * p.cols);
    CHECK_INT(other, cleared); /* and nothing else */
    free(got);
    free(clear);
}

struct rows_case {
    uint32_t rows, cols, stride;
    bool weight, idx;
    float most; /* values lie in -most .. most */
};

static void test_rows(struct bed *b, struct matrix *m, const struct rows_case *c)
{
    enum { SOURCES = 40 };
    const float eps = 1e-5f;
    bed_clear(b);
    uint32_t idx[SOURCES], groups = c->cols / 32;
    for (uint32_t r = 0; r < c->rows; r++)
        idx[r] = c->idx ? below(b, SOURCES) : r;
    float *x = bed_floats(b, (size_t)SOURCES * c->stride, -c->most, c->most);
    float *weight = bed_floats(b, c->cols, -2, 2);
    struct tensor x_t = bed_tensor(b, x, (uint64_t)SOURCES * c->stride * 4),
                  weight_t = bed_tensor(b, weight, c->cols * 4),
                  idx_t = bed_tensor(b, idx, c->rows * 4),
                  out = bed_tensor(b, NULL, row_tiles_bytes(c->rows, c->cols));
    struct push_matrix_rows p = {.x = x_t.address,
                                 .weight = c->weight ? weight_t.address : 0,
                                 .idx = c->idx ? idx_t.address : 0,
                                 .out = out.address,
                                 .rows = c->rows,
                                 .cols = c->cols,
                                 .stride = c->stride,
                                 .eps = eps};
    bed_begin(b);
    matrix_rows(m, &p);
    bed_run(b);
    bed_check(b);
    uint16_t *got = take(out.bytes);
    bed_get(b, &out, got);
    double worst = 0;
    size_t untouched = 0;
    for (uint32_t r = 0; r < c->rows; r++) {
        const float *row = x + (size_t)idx[r] * c->stride;
        double sum = 0, scale = 1;
        for (uint32_t i = 0; i < c->cols; i++)
            sum += (double)row[i] * row[i];
        if (c->weight)
            scale = 1 / sqrt(sum / c->cols + (double)eps);
        for (uint32_t i = 0; i < c->cols; i++) {
            double want = row[i] * scale * (c->weight ? (double)weight[i] : 1);
            double bound = half_unit(want) + ldexp((c->cols + 8) * fabs(want), -24);
            want = fmin(fmax(want, -65504), 65504);
            worst = worse(worst, half_value(got[row_place(r, i, groups)]), want, bound);
        }
    }
    for (size_t i = 0; i < out.bytes / 2; i++)
        untouched += got[i] == UNTOUCHED;
    CHECK_INT(untouched, out.bytes / 2 - (size_t)c->rows * c->cols); /* nothing else is written */
    if (!CHECK(worst <= 1))
        fprintf(stderr, "    %u x %u: %g of the bound\n", c->rows, c->cols, worst);
    if (c->weight && !c->idx && c->cols <= MATRIX_ROWS_IN_BAND_COLS)
        check_in_band(b, m, p, got);
    free(x);
    free(weight);
    free(got);
}

static uint16_t half_got(const uint16_t *q, const struct cache *c, uint32_t r, uint32_t h,
                         uint32_t d)
{
    return q[((size_t)r * c->n_head + h) * c->head_size + d];
}

enum { ROPE_ROWS = 9, CONTEXT = 100 };

static void check_rope_rows(const struct cache *c, const float *qkv, const uint16_t *q,
                            const float *angles, const uint32_t *pos, uint32_t dims, bool adjacent)
{
    double worst = 0;
    uint32_t heads = c->n_head + 2 * c->n_head_kv;
    for (uint32_t r = 0; r < ROPE_ROWS; r++)
        for (uint32_t h = 0; h < heads; h++)
            for (uint32_t d = 0; d < c->head_size; d++) {
                const float *x = qkv + ((size_t)r * heads + h) * c->head_size;
                bool is_v = h >= c->n_head + c->n_head_kv;
                uint32_t kv_head = h < c->n_head ? 0 : (h - c->n_head) % c->n_head_kv;
                double want = is_v ? (double)x[d]
                                   : turned(x, angles + (size_t)pos[r] * dims, dims, adjacent, d);
                uint16_t have = h < c->n_head ? half_got(q, c, r, h, d)
                                : is_v        ? *value_cell(c, r % SEQS, pos[r], kv_head, d)
                                              : *cell(c, r % SEQS, pos[r], kv_head, false, d);
                /* two products, one sum of terms up to 4; then rounded */
                worst = worse(worst, half_value(have), want, half_unit(want) + ldexp(8, -24));
            }
    if (!CHECK(worst <= 1))
        fprintf(stderr, "    %u heads, %u of keys, size %u, rope %u: %g of the bound\n", c->n_head,
                c->n_head_kv, c->head_size, dims, worst);
}

static void test_rope(struct bed *b, struct matrix *m, uint32_t n_head, uint32_t n_head_kv,
                      uint32_t head_size, uint32_t dims, bool adjacent)
{
    /* around the pages' boundaries; rows of three sequences in turn */
    static const uint32_t pos[ROPE_ROWS] = {0, 31, 32, 33, 63, 64, 95, 96, 99};
    struct cache c;
    bed_clear(b);
    make_cache(b, n_head, n_head_kv, head_size, 4, &c);
    uint32_t stride = (n_head + 2 * n_head_kv) * head_size, seq[ROPE_ROWS];
    float *qkv = bed_floats(b, (size_t)ROPE_ROWS * stride, -4, 4),
          *angles = take((size_t)CONTEXT * dims * 4);
    for (uint32_t i = 0; i < CONTEXT * dims / 2; i++) {
        double angle = (double)check_rng_float(&b->rng, -3, 3);
        angles[2 * i] = (float)cos(angle);
        angles[2 * i + 1] = (float)sin(angle);
    }
    for (uint32_t r = 0; r < ROPE_ROWS; r++)
        seq[r] = r % SEQS;
    struct tensor qkv_t = bed_tensor(b, qkv, (uint64_t)ROPE_ROWS * stride * 4);
    struct tensor angles_t = bed_tensor(b, angles, (uint64_t)CONTEXT * dims * 4);
    struct tensor seq_t = bed_tensor(b, seq, sizeof seq), pos_t = bed_tensor(b, pos, sizeof pos);
    struct tensor q_t = bed_tensor(b, NULL, (uint64_t)ROPE_ROWS * n_head * head_size * 2);
    struct push_matrix_rope p = {.qkv = qkv_t.address,
                                 .q = q_t.address,
                                 .angles = angles_t.address,
                                 .pos = pos_t.address,
                                 .seq = seq_t.address,
                                 .pages = c.pages_t.address,
                                 .kv = c.kv_t.address,
                                 .rows = ROPE_ROWS,
                                 .n_head = n_head,
                                 .n_head_kv = n_head_kv,
                                 .head_size = head_size,
                                 .rope_dims = dims,
                                 .pages_stride = c.pages_stride,
                                 .page_bytes = c.page_bytes,
                                 .adjacent = adjacent};
    bed_begin(b);
    matrix_rope(m, &p);
    bed_run(b);
    bed_check(b);
    uint16_t *q = take(q_t.bytes);
    float *after = take(qkv_t.bytes);
    bed_get(b, &q_t, q);
    bed_get(b, &qkv_t, after);
    bed_get(b, &c.kv_t, c.kv);
    CHECK(memcmp(after, qkv, qkv_t.bytes) == 0);
    check_rope_rows(&c, qkv, q, angles, pos, dims, adjacent);
    size_t written = 0;
    for (size_t i = 0; i < c.kv_t.bytes / 2; i++)
        written += c.kv[i] != UNTOUCHED;
    CHECK_INT(written, (size_t)ROPE_ROWS * 2 * n_head_kv * head_size);
    free(qkv);
    free(angles);
    free(q);
    free(after);
    free_cache(&c);
}

int main(void)
{
    static const struct rows_case rows[] = {
        {1, 32, 32, true, false, 3},         {5, 96, 100, true, true, 3},
        {8, 256, 256, true, false, 0.01f},   {17, 128, 128, true, true, 1000},
        {33, 1056, 1056, true, false, 3},    {3, 64, 72, false, true, 3},
        {12, 160, 160, false, false, 0.01f}, {7, 96, 96, false, false, 2e5f},
        {2, 4096, 4096, false, true, 3},     {4, 64, 64, true, false, 1e-4f},
    };
    struct bed b;
    bed_start_types(&b, 8 << 20, 0x3a7121, 0);
    struct matrix *m = make_matrix(&b, 64, true);
    for (size_t i = 0; i < ARRAY_LEN(rows); i++)
        test_rows(&b, m, &rows[i]);
    for (int adjacent = 0; adjacent < 2; adjacent++) {
        test_rope(&b, m, 4, 2, 64, 64, adjacent);
        test_rope(&b, m, 7, 1, 64, 32, adjacent);
        test_rope(&b, m, 3, 3, 32, 20, adjacent);
        test_rope(&b, m, 12, 1, 96, 96, adjacent);
        test_rope(&b, m, 2, 1, 128, 64, adjacent);
    }
    matrix_destroy(&m);
    return bed_finish(&b);
}
