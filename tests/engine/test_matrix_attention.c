/* matrix_attention against softmax in double over the pages; and bit by bit between tasks: a row
 * alone (few) or in runs of any length. */
#include "tests/engine/matrix_bed.h"

enum { MOST_RUNS = 3 };

struct attention_shape {
    uint32_t head_size, share, n_head_kv;
    uint32_t begin[MOST_RUNS], rows[MOST_RUNS]; /* a run of rows of each sequence */
    uint32_t window;
    float softcap;
};

struct setup {
    struct attention_shape s;
    struct cache cache;
    uint32_t rows, length;
    uint32_t seq[256], pos[256];
    uint16_t *q;
    struct tensor q_t, seq_t, pos_t;
};

/* What a page's slot may hold before its key is written. */
static uint16_t stale(struct bed *b)
{
    static const uint16_t bits[] = {0x7c00, 0xfc00, 0xffff, 0x7e00, 0x7c01, 0x7bff};
    return bits[below(b, ARRAY_LEN(bits))];
}

/* Keys from `pos` on of a sequence become stale. */
static void make_stale(struct bed *b, struct cache *c, uint32_t seq, uint32_t pos)
{
    for (uint32_t t = pos; t < c->pages_stride * PAGE_TOKENS; t++)
        for (uint32_t h = 0; h < c->n_head_kv; h++)
            for (uint32_t d = 0; d < c->head_size; d++) {
                *cell(c, seq, t, h, false, d) = stale(b);
                *value_cell(c, seq, t, h, d) = stale(b);
            }
}

static void put_pages(struct bed *b, const struct cache *c)
{
    bed_put(b, c->kv_t.offset, c->kv, c->kv_t.bytes);
}

static void make_setup(struct bed *b, const struct attention_shape *shape, struct setup *u)
{
    *u = (struct setup){.s = *shape};
    uint32_t n_head = shape->share * shape->n_head_kv, most = 0;
    for (uint32_t s = 0; s < MOST_RUNS; s++)
        most = most > shape->begin[s] + shape->rows[s] ? most : shape->begin[s] + shape->rows[s];
    bed_clear(b);
    make_cache(b, n_head, shape->n_head_kv, shape->head_size, most / PAGE_TOKENS + 1, &u->cache);
    for (uint32_t s = 0; s < MOST_RUNS; s++) {
        for (uint32_t i = 0; i < shape->rows[s]; i++) {
            u->seq[u->rows] = s;
            u->pos[u->rows++] = shape->begin[s] + i;
        }
        for (uint32_t t = 0; t < shape->begin[s] + shape->rows[s]; t++)
            for (uint32_t h = 0; h < shape->n_head_kv; h++)
                for (uint32_t d = 0; d < shape->head_size; d++) {
                    *cell(&u->cache, s, t, h, false, d) = random_half(b);
                    *value_cell(&u->cache, s, t, h, d) = random_half(b);
                }
        make_stale(b, &u->cache, s, shape->begin[s] + shape->rows[s]);
    }
    put_pages(b, &u->cache);
    u->q = random_halves(b, (size_t)u->rows * n_head * shape->head_size, 2);
    u->q_t = bed_tensor(b, u->q, (uint64_t)u->rows * n_head * shape->head_size * 2);
    u->seq_t = bed_tensor(b, u->seq, u->rows * 4);
    u->pos_t = bed_tensor(b, u->pos, u->rows * 4);
}

static void free_setup(struct setup *u)
{
    free(u->q);
    free_cache(&u->cache);
}

/* Runs of at most `most` rows, of random length or as long as can be. */
static uint32_t cut(struct bed *b, const struct setup *u, uint32_t most, bool random,
                    struct attention_task *ret)
{
    uint32_t count = 0;
    for (uint32_t r = 0; r < u->rows;) {
        uint32_t rows = 1, end = random ? 1 + below(b, most) : most;
        while (rows < end && r + rows < u->rows && u->seq[r + rows] == u->seq[r])
            rows++;
        ret[count++] = (struct attention_task){r, rows, u->pos[r], u->seq[r]};
        r += rows;
    }
    return count;
}

/* Rows that no task has stay untouched. chained: as a dispatch that waits for another one might. */
static uint16_t *run_in(struct bed *b, struct matrix *m, const struct setup *u,
                        const struct attention_task *tasks, uint32_t count, bool few, bool chained)
{
    size_t mark_count = b->count;
    uint64_t mark_used = b->used;
    uint32_t q_cols = u->cache.n_head * u->cache.head_size;
    struct tensor tasks_t = bed_tensor(b, tasks, count * sizeof *tasks),
                  out = bed_tensor(b, NULL, row_tiles_bytes(u->rows, q_cols));
    struct push_matrix_attention p = {.q = u->q_t.address,
                                      .pages = u->cache.pages_t.address,
                                      .kv = u->cache.kv_t.address,
                                      .tasks = tasks_t.address,
                                      .out = out.address,
                                      .n_head = u->cache.n_head,
                                      .n_head_kv = u->cache.n_head_kv,
                                      .pages_stride = u->cache.pages_stride,
                                      .page_bytes = u->cache.page_bytes,
                                      .window = u->s.window,
                                      .scale = 1 / sqrtf((float)u->cache.head_size),
                                      .softcap = u->s.softcap};
    bed_begin(b);
    gpu_chain(b->gpu, chained);
    uint32_t keys = count % 2 == 0 ? 1 : UINT32_MAX; /* fewer warps, or more */
    matrix_attention(m, &p, count, few, keys);
    bed_run(b);
    gpu_chain(b->gpu, false);
    bed_check(b);
    uint16_t *got = take(out.bytes);
    bed_get(b, &out, got);
    b->count = mark_count;
    b->used = mark_used;
    size_t rows = 0, untouched = 0;
    for (uint32_t i = 0; i < count; i++)
        rows += tasks[i].rows;
    for (size_t i = 0; i < out.bytes / 2; i++)
        untouched += got[i] == UNTOUCHED;
    CHECK_INT(untouched, out.bytes / 2 - rows * q_cols);
    return got;
}

static uint16_t *run(struct bed *b, struct matrix *m, const struct setup *u,
                     const struct attention_task *tasks, uint32_t count, bool few)
{
    return run_in(b, m, u, tasks, count, few, false);
}

static bool same_rows(const struct setup *u, const uint16_t *a, const uint16_t *b, uint32_t first,
                      uint32_t count)
{
    uint32_t cols = u->cache.n_head * u->cache.head_size;
    for (uint32_t r = first; r < first + count; r++)
        for (uint32_t i = 0; i < cols; i++)
            if (a[row_place(r, i, cols / 32)] != b[row_place(r, i, cols / 32)])
                return false;
    return true;
}

/* A head of a row. A weight (positive) is off by a factor of at most 1 + e: by its score's error
 * (as compare_attention() has it, in rows_bed.h), and by one unit of f16. So the mean is off by
 * about e times the mean distance from it. Weights below f16's normal numbers are off by 2^-24. */
static double compare_head(const struct setup *u, const uint16_t *got, uint32_t r, uint32_t h,
                           double *weight)
{
    const struct cache *c = &u->cache;
    uint32_t size = c->head_size, pos = u->pos[r], kv_head = h / u->s.share,
             first = u->s.window == 0 || pos < u->s.window ? 0 : pos + 1 - u->s.window;
    const uint16_t *q = u->q + ((size_t)r * c->n_head + h) * size;
    double scale = 1 / sqrt(size), most = -INFINITY, sum = 0, worst = 0;
    for (uint32_t t = first; t <= pos; t++) {
        double s = 0;
        for (uint32_t d = 0; d < size; d++)
            s += half_value(q[d]) * half_value(*cell(c, u->seq[r], t, kv_head, false, d));
        s *= scale;
        if (u->s.softcap != 0)
            s = (double)u->s.softcap * tanh(s / (double)u->s.softcap);
        weight[t] = s;
        most = fmax(most, s);
    }
    for (uint32_t t = first; t <= pos; t++)
        sum += weight[t] = exp(weight[t] - most);
    double e = ldexp(2 * size * scale * 4 + 100 + 20 * (double)u->s.softcap, -24) + ldexp(1, -10);
    for (uint32_t d = 0; d < size; d++) {
        double want = 0, away = 0;
        for (uint32_t t = first; t <= pos; t++)
            want += weight[t] / sum * half_value(*value_cell(c, u->seq[r], t, kv_head, d));
        for (uint32_t t = first; t <= pos; t++)
            away +=
                weight[t] / sum * fabs(half_value(*value_cell(c, u->seq[r], t, kv_head, d)) - want);
        double bound = 1.1 * e * away + half_unit(want) + ldexp(pos + 1, -22) / sum + 1e-5;
        size_t place = row_place(r, h * size + d, c->n_head * size / 32);
        worst = worse(worst, half_value(got[place]), want, bound);
    }
    return worst;
}

static void compare(const struct setup *u, const uint16_t *got)
{
    double *weight = take((size_t)u->cache.pages_stride * PAGE_TOKENS * sizeof *weight), worst = 0;
    for (uint32_t r = 0; r < u->rows; r++)
        for (uint32_t h = 0; h < u->cache.n_head; h++)
            worst = fmax(worst, compare_head(u, got, r, h, weight));
    if (!CHECK(worst <= 1))
        fprintf(stderr, "    size %u, %u heads of %u: %g of the bound\n", u->cache.head_size,
                u->cache.n_head, u->cache.n_head_kv, worst);
    free(weight);
}

/* Row r's own view, with nothing written behind it: the bits of `usual`. */
static void test_stale(struct bed *b, struct matrix *m, struct setup *u, const uint16_t *usual)
{
    uint32_t r = below(b, u->rows), most = matrix_task_rows(u->cache.n_head, u->cache.n_head_kv);
    uint32_t first = r;
    while (first > 0 && r - first + 1 < most && u->seq[first - 1] == u->seq[r])
        first--;
    make_stale(b, &u->cache, u->seq[r], u->pos[r] + 1);
    put_pages(b, &u->cache);
    const struct attention_task alone = {r, 1, u->pos[r], u->seq[r]},
                                last = {first, r - first + 1, u->pos[first], u->seq[first]};
    uint16_t *few = run(b, m, u, &alone, 1, true), *many = run(b, m, u, &last, 1, false);
    CHECK(same_rows(u, usual, few, r, 1) && "stale keys behind it do not matter");
    CHECK(same_rows(u, usual, many, first, r - first + 1));
    free(few);
    free(many);
}

static void test_attention(struct bed *b, struct matrix *m, const struct attention_shape *shape)
{
    struct setup u;
    struct attention_task tasks[256];
    make_setup(b, shape, &u);
    uint32_t most = matrix_task_rows(u.cache.n_head, u.cache.n_head_kv);
    uint32_t count = cut(b, &u, most, false, tasks);
    uint16_t *usual = run(b, m, &u, tasks, count, false);
    compare(&u, usual);
    count = cut(b, &u, most, true, tasks);
    uint16_t *other = run(b, m, &u, tasks, count, false);
    CHECK(same_rows(&u, usual, other, 0, u.rows) && "other tasks, same bits");
    count = cut(b, &u, 1, false, tasks);
    uint16_t *few = run(b, m, &u, tasks, count, true);
    if (!CHECK(same_rows(&u, usual, few, 0, u.rows) && "few and many, same bits"))
        fprintf(stderr, "    size %u, %u heads of %u\n", u.cache.head_size, u.cache.n_head,
                u.cache.n_head_kv);
    for (uint32_t r = 0; r < u.rows; r++) { /* few workgroups in a chain rehearse */
        uint16_t *alone = run_in(b, m, &u, &tasks[r], 1, true, true);
        CHECK(same_rows(&u, usual, alone, r, 1) && "alone in a chain, same bits");
        free(alone);
    }
    test_stale(b, m, &u, usual);
    free(usual);
    free(other);
    free(few);
    free_setup(&u);
}

/* By size: pipelines are built for one. */
static const struct attention_shape shapes[] = {
    {32, 1, 2, {0, 29, 126}, {9, 6, 5}, 0, 0},     {32, 8, 1, {120, 0, 383}, {11, 3, 2}, 0, 0},
    {32, 12, 1, {30, 255, 0}, {5, 4, 1}, 40, 0},   {64, 7, 2, {0, 250, 127}, {10, 8, 3}, 0, 0},
    {64, 2, 1, {100, 0, 300}, {33, 2, 1}, 96, 30}, {64, 3, 1, {31, 128, 399}, {2, 1, 1}, 1, 0},
    {64, 12, 1, {0, 62, 256}, {6, 4, 2}, 0, 5},    {64, 7, 1, {511, 640, 0}, {2, 1, 1}, 0, 0},
    {96, 3, 1, {90, 0, 128}, {9, 40, 1}, 33, 0},   {96, 1, 1, {120, 0, 380}, {16, 1, 5}, ~0u, 0},
    {128, 8, 1, {0, 127, 250}, {17, 3, 9}, 0, 0},  {128, 2, 1, {60, 0, 124}, {8, 1, 8}, 130, 50},
    {128, 7, 1, {376, 0, 0}, {10, 1, 0}, 200, 0},
};

static void test_all(struct bed *b, bool emulated)
{
    struct matrix *m = NULL;
    for (size_t i = 0; i < ARRAY_LEN(shapes); i++) {
        if (i == 0 || shapes[i].head_size != shapes[i - 1].head_size) {
            if (m != NULL)
                matrix_destroy(&m);
            m = make_matrix(b, shapes[i].head_size, emulated);
        }
        test_attention(b, m, &shapes[i]);
    }
    matrix_destroy(&m);
}

int main(void)
{
    struct bed b;
    struct err_msg why = {""};
    bed_start_types(&b, 8 << 20, 0xa77e47, 0);
    CHECK_OK(gpu_chain_create(b.gpu, &why), why);
    test_all(&b, true);
    if (gpu_info(b.gpu)->matrix_f16)
        test_all(&b, false);
    return bed_finish(&b);
}
