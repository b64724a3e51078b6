/* matrix_expand and matrix_matmul: against naive twins over random shapes, and bit by bit between
 * variants, sources (tiles, byte tiles, the file's blocks) and batch sizes. Arguments: the tensor
 * types to test, by name. */
#include "tests/engine/dequant_twin.h"
#include "tests/engine/matrix_bed.h"

/* Tensors of a weight as the file has them, and as f16. Gated: the second one's rows begin at
 * high_row of `tensors[1]`, or of the same tensor. */
struct weights {
    enum tensor_type type;
    uint32_t rows, cols;
    uint16_t *halves; /* rows x cols, what the tiles ought to hold */
    struct tensor device;
};

static bool fits_half(const double *x, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        if (!(fabs(x[i]) <= 2000)) /* sums of 2200 products of two stay finite halves, too */
            return false;
    return true;
}

static void make_weights(struct bed *b, enum tensor_type type, uint32_t rows, uint32_t cols,
                         struct weights *ret)
{
    struct err_msg why = {""};
    uint64_t row_bytes = quant_row_bytes(type, cols),
             device_bytes = kernel_weight_bytes(type, rows, cols);
    uint32_t block = tensor_type_find(type)->block_values,
             block_bytes = tensor_type_find(type)->block_bytes;
    *ret = (struct weights){.type = type, .rows = rows, .cols = cols};
    uint8_t *file = take(row_bytes * rows), *packed = take(device_bytes);
    double *values = take(block * sizeof *values);
    ret->halves = take((size_t)rows * cols * sizeof *ret->halves);
    for (size_t i = 0; i < (size_t)rows * cols / block; i++) {
        do {
            random_row(type, &b->rng, block, file + i * block_bytes);
            quant_decode(type, file + i * block_bytes, block, values);
        } while (!fits_half(values, block));
        for (uint32_t j = 0; j < block; j++) /* one rounding to f32, one to f16 */
            ret->halves[i * block + j] = quant_to_half((double)(float)values[j]);
    }
    CHECK_OK(kernel_weight_repack(type, rows, cols, file, packed, &why), why);
    ret->device = bed_tensor(b, packed, device_bytes);
    free(file);
    free(packed);
    free(values);
}

/* -0 is 0. */
static bool same_half(uint16_t a, uint16_t b)
{
    return a == b || ((a | b) & 0x7fff) == 0;
}

static void expand(struct bed *b, struct matrix *m, const struct weights *w, uint32_t first,
                   uint32_t n, uint32_t halves, uint32_t upper, enum matrix_form form,
                   const struct tensor *out)
{
    struct err_msg why = {""};
    struct push_matrix_expand p = {.w = w->device.address,
                                   .out = out->address,
                                   .n = n,
                                   .k = w->cols,
                                   .halves = halves,
                                   .upper = upper,
                                   .first_row = first};
    CHECK_OK(matrix_prepare_expand(m, w->type, form, &why), why);
    CHECK_OK(matrix_compile(m, &why), why);
    bed_begin(b);
    matrix_expand(m, &p, w->type, form);
    bed_run(b);
}

struct matmul_case {
    struct weights w[2];     /* gated: the gates' and the values' tensor */
    bool gated, gelu, fused; /* fused: both in w[0] */
    uint32_t n, k, rows, stride, high_row;
    bool in_place;                                  /* residual == out */
    struct tensor tiles, bytes, bias_t, residual_t; /* bytes: address 0: not of this type */
    uint16_t *a;                                    /* rows x k */
    float *bias, *residual;
    float *x, *norm;  /* F32 rows and a norm's weight, instead of a; NULL: none */
    bool norm_inside; /* the matmul norms them itself, not matrix_rows() */
    bool logits;      /* matrix_bests(), into bests_t */
    struct tensor bests_t;
};

static uint16_t weight_half(const struct matmul_case *c, uint32_t row, uint32_t i, bool high)
{
    const struct weights *w = &c->w[high && !c->fused ? 1 : 0];
    return w->halves[(size_t)(row + (high ? c->high_row : 0)) * c->k + i];
}

/* Tiles are full: padding rows hold 0. */
static void check_tiles(struct bed *b, const struct matmul_case *c)
{
    uint16_t *got = take(c->tiles.bytes);
    uint32_t per_tile = c->gated ? 8 : 16, tiles = (c->n + per_tile - 1) / per_tile;
    size_t wrong = 0;
    bed_get(b, &c->tiles, got);
    for (uint32_t t = 0; t < tiles; t++)
        for (uint32_t s = 0; s < 16; s++) {
            bool high = c->gated && s >= 8;
            uint32_t row = t * per_tile + (high ? s - 8 : s);
            for (uint32_t i = 0; i < c->k; i++) {
                uint16_t want = row < c->n ? weight_half(c, row, i, high) : 0;
                uint16_t have = got[weight_place(t * 16 + s, i, c->k / 32)];
                if (!same_half(have, want) && wrong++ == 0)
                    fprintf(stderr, "    type %u row %u value %u: %04x, expected %04x\n",
                            (unsigned)c->w[0].type, row, i, have, want);
            }
        }
    CHECK_INT(wrong, 0);
    free(got);
}

/* Full blocks: [8][2] scales, [32 lanes][2][8] integers + 128, of which those of padding rows times
 * their scale, 0, are 0. */
static void check_bytes(struct bed *b, const struct matmul_case *c)
{
    static const uint32_t byte_of[4] = {0, 2, 1, 3};
    uint8_t *got = take(c->bytes.bytes);
    uint32_t per_tile = c->gated ? 8 : 16, tiles = (c->n + per_tile - 1) / per_tile;
    size_t wrong = 0;
    bed_get(b, &c->bytes, got);
    for (uint32_t t = 0; t < tiles; t++)
        for (uint32_t s = 0; s < 16; s++) {
            bool high = c->gated && s >= 8;
            uint32_t row = t * per_tile + (high ? s - 8 : s);
            for (uint32_t i = 0; i < c->k; i++) {
                const uint8_t *block = got + (size_t)(t * (c->k / 32) + i / 32) * 544;
                struct octet_place o = octet_place(i);
                uint16_t scale;
                memcpy(&scale, block + (s % 8 * 2 + s / 8) * 2, 2);
                uint8_t byte =
                    block[32 + (s % 8 * 4 + o.q) * 16 + s / 8 * 8 + o.i / 4 * 4 + byte_of[o.i % 4]];
                uint16_t want = row < c->n ? weight_half(c, row, i, high) : 0,
                         have = quant_to_half(half_value(scale) * ((int)byte - 128));
                if (!same_half(have, want) && wrong++ == 0)
                    fprintf(stderr, "    bytes, type %u row %u value %u: %04x, expected %04x\n",
                            (unsigned)c->w[0].type, row, i, have, want);
            }
        }
    CHECK_INT(wrong, 0);
    free(got);
}

static struct tensor make_form(struct bed *b, struct matrix *m, struct matmul_case *c,
                               enum matrix_form form)
{
    uint32_t rows = c->gated ? (c->n + 7) / 8 * 16 : c->n;
    struct tensor out = bed_tensor(b, NULL, matrix_form_bytes(form, rows, c->k));
    if (c->gated) {
        expand(b, m, &c->w[0], 0, c->n, 1, 0, form, &out);
        expand(b, m, &c->w[c->fused ? 0 : 1], c->high_row, c->n, 1, 1, form, &out);
    } else {
        expand(b, m, &c->w[0], 0, c->n, 2, 0, form, &out);
    }
    bed_check(b);
    return out;
}

static void make_tiles(struct bed *b, struct matrix *m, struct matmul_case *c)
{
    c->tiles = make_form(b, m, c, MATRIX_TILES);
    check_tiles(b, c);
    if (matrix_form_takes(MATRIX_BYTES, c->w[0].type)) {
        c->bytes = make_form(b, m, c, MATRIX_BYTES);
        check_bytes(b, c);
    }
}

static void make_case(struct bed *b, struct matrix *m, enum tensor_type type, uint32_t rows,
                      uint32_t k, bool gated, struct matmul_case *c)
{
    uint32_t step = tensor_type_find(type)->block_values == 256 ? 256 : 32;
    *c = (struct matmul_case){.gated = gated, .rows = rows, .k = (k + step - 1) / step * step};
    c->n = 1 + below(b, 75);
    c->gelu = below(b, 2);
    c->fused = gated && below(b, 2);
    c->high_row = !gated ? 0 : c->fused ? c->n : below(b, 5);
    c->stride = c->n + below(b, 9);
    bed_clear(b);
    make_weights(b, type, c->n + (c->fused ? c->high_row : 0), c->k, &c->w[0]);
    if (gated && !c->fused)
        make_weights(b, type, c->n + c->high_row, c->k, &c->w[1]);
    make_tiles(b, m, c);
    c->a = random_halves(b, (size_t)rows * c->k, gated ? 0.02f : 1);
    if (!gated && below(b, 2)) {
        c->bias = bed_floats(b, c->n, -4, 4);
        c->bias_t = bed_tensor(b, c->bias, c->n * 4);
    }
    if (!gated && below(b, 2)) {
        c->residual = bed_floats(b, (size_t)rows * c->stride, -4, 4);
        c->residual_t = bed_tensor(b, c->residual, (uint64_t)rows * c->stride * 4);
        c->in_place = below(b, 2);
    }
}

static void free_case(struct matmul_case *c)
{
    for (int i = 0; i < 2; i++)
        free(c->w[i].halves);
    free(c->a);
    free(c->bias);
    free(c->residual);
    free(c->x);
    free(c->norm);
}

/* What a matmul reads. */
enum source { FILE_BLOCKS, F16_TILES, BYTE_TILES, SOURCES };
static const char *const source_names[SOURCES] = {"blocks", "tiles", "bytes"};

static bool reads(const struct matmul_case *c, size_t variant, enum source source)
{
    return source != BYTE_TILES || (c->bytes.address != 0 && matrix_variant_streams(variant));
}

static struct matrix_weight describe(const struct matmul_case *c, enum source source)
{
    struct matrix_weight w = {.type = c->w[0].type,
                              .rows = c->n,
                              .cols = c->k,
                              .gated = c->gated,
                              .logits = c->logits,
                              .high_row = c->high_row};
    if (source != FILE_BLOCKS) {
        w.tiles = c->tiles.address;
        w.bytes = source == BYTE_TILES ? c->bytes.address : 0;
        return w;
    }
    w.address = c->w[0].device.address;
    w.high_address = c->w[c->fused ? 0 : 1].device.address;
    return w;
}

/* Normed rows into p's a, as the first dispatch of a chain that is begun here, or as what it norms
 * itself. */
static void norm_case(struct bed *b, struct matrix *m, const struct matmul_case *c,
                      const struct matrix_weight *w, uint32_t first, struct push_matrix_matmul *p)
{
    const float eps = 1e-5f;
    struct tensor x = bed_tensor(b, c->x + (size_t)first * c->k, (uint64_t)p->rows * c->k * 4),
                  norm = bed_tensor(b, c->norm, c->k * 4);
    if (c->norm_inside) {
        CHECK(matrix_norms(m, w, p->rows));
        p->a = x.address;
        p->norm = norm.address;
        p->eps = eps;
        return;
    }
    struct push_matrix_rows rows = {.x = x.address,
                                    .weight = norm.address,
                                    .out = p->a,
                                    .rows = p->rows,
                                    .cols = c->k,
                                    .stride = c->k,
                                    .eps = eps};
    bed_begin(b);
    gpu_chain(b->gpu, true);
    matrix_rows(m, &rows);
    gpu_barrier(b->gpu);
}

/* Plain: f32 [count][stride] as the kernel leaves it. Gated: f16 [count][n] of the row tiles. */
static void *run_case(struct bed *b, struct matrix *m, const struct matmul_case *c,
                      enum source source, uint32_t first, uint32_t count)
{
    struct err_msg why = {""};
    size_t mark_count = b->count;
    uint64_t mark_used = b->used, skip = (uint64_t)first * c->stride;
    uint32_t out_groups = (c->n + 31) / 32;
    size_t a_bytes = row_tiles_bytes((count / MATRIX_PAD_ROWS + 1) * MATRIX_PAD_ROWS, c->k),
           bytes = c->gated ? row_tiles_bytes(count, c->n) : (size_t)count * c->stride * 4;
    uint16_t *a = take(a_bytes);
    memset(a, 0xff, a_bytes);
    for (uint32_t r = 0; r < count; r++)
        for (uint32_t i = 0; i < c->k; i++)
            if (c->x == NULL)
                a[row_place(r, i, c->k / 32)] = c->a[(size_t)(first + r) * c->k + i];
    struct tensor out = bed_tensor(b, c->in_place ? c->residual + skip : NULL, bytes),
                  a_t = bed_tensor(b, a, a_bytes);
    free(a);
    struct matrix_weight w = describe(c, source);
    struct push_matrix_matmul p = {.a = a_t.address,
                                   .bias = c->bias_t.address,
                                   .residual = c->in_place   ? out.address
                                               : c->residual ? c->residual_t.address + skip * 4
                                                             : 0,
                                   .out = out.address,
                                   .bests = c->bests_t.address,
                                   .rows = count,
                                   .out_stride = c->stride,
                                   .options = c->gelu ? MATRIX_GELU : 0};
    if (c->x != NULL)
        norm_case(b, m, c, &w, first, &p);
    CHECK_OK(matrix_prepare(m, &w, count, &why), why);
    CHECK_OK(matrix_compile(m, &why), why);
    if (c->x == NULL || c->norm_inside)
        bed_begin(b);
    matrix_matmul(m, &p, &w);
    bed_run(b);
    bed_check(b);
    uint16_t *got = take(bytes);
    bed_get(b, &out, got);
    b->count = mark_count;
    b->used = mark_used;
    if (!c->gated)
        return got;
    uint16_t *rows = take((size_t)count * c->n * 2);
    size_t touched = 0;
    for (uint32_t r = 0; r < (count + 7) / 8 * 8; r++)
        for (uint32_t i = 0; i < out_groups * 32; i++) {
            uint16_t x = got[row_place(r, i, out_groups)];
            if (r < count && i < c->n)
                rows[(size_t)r * c->n + i] = x;
            touched += i >= c->n && x != UNTOUCHED;
        }
    CHECK_INT(touched, 0);
    free(got);
    return rows;
}

/* The sum in double, and the bound of a device's: k + some roundings, which may be cut off (a unit
 * of 2^-23), of the absolute sum. */
static double twin(const struct matmul_case *c, uint32_t r, uint32_t j, bool high,
                   double *ret_bound)
{
    double sum = 0, size = 0;
    for (uint32_t i = 0; i < c->k; i++) {
        double product =
            half_value(c->a[(size_t)r * c->k + i]) * half_value(weight_half(c, j, i, high));
        sum += product;
        size += fabs(product);
    }
    *ret_bound = (c->k + 8) * ldexp(size, -23) + 1e-30;
    return sum;
}

static double activated(const struct matmul_case *c, double x)
{
    if (c->gelu)
        return 0.5 * x * (1 + tanh(0.7978845608028654 * (x + 0.044715 * x * x * x)));
    return x / (1 + exp(-x));
}

/* Slopes of silu and gelu are below 1.2; exp and tanh of a device are good to 2^-18 of x. */
static double worst_gated(const struct matmul_case *c, const uint16_t *got)
{
    double worst = 0, gate_bound, value_bound;
    for (uint32_t r = 0; r < c->rows; r++)
        for (uint32_t j = 0; j < c->n; j++) {
            double gate = twin(c, r, j, false, &gate_bound);
            double value = twin(c, r, j, true, &value_bound), act = activated(c, gate);
            double want = act * value, bound = 1.2 * gate_bound * fabs(value) +
                                               (fabs(act) + gate_bound) * value_bound +
                                               ldexp(fabs(gate * value), -18) + half_unit(want);
            want = fmin(fmax(want, -65504), 65504);
            worst = worse(worst, half_value(got[(size_t)r * c->n + j]), want, bound);
        }
    return worst;
}

static double worst_plain(const struct matmul_case *c, const float *got)
{
    double worst = 0, bound;
    bool gaps = true;
    for (uint32_t r = 0; r < c->rows; r++)
        for (uint32_t j = 0; j < c->stride; j++) {
            size_t at = (size_t)r * c->stride + j;
            if (j >= c->n) {
                uint32_t bits, keep = UINT32_MAX;
                memcpy(&bits, &got[at], 4);
                if (c->in_place)
                    memcpy(&keep, &c->residual[at], 4);
                gaps = gaps && bits == keep;
                continue;
            }
            double bias = c->bias ? (double)c->bias[j] : 0,
                   residual = c->residual ? (double)c->residual[at] : 0;
            double want = twin(c, r, j, false, &bound) + bias + residual;
            bound += ldexp(fabs(bias) + fabs(residual) + fabs(want), -22);
            worst = worse(worst, (double)got[at], want, bound);
        }
    CHECK(gaps && "values between rows untouched");
    return worst;
}

static void say(const struct matmul_case *c, const char *what, double x)
{
    fprintf(stderr, "    type %u, %u x %u x %u%s: %s %g\n", (unsigned)c->w[0].type, c->rows, c->n,
            c->k, c->gated ? " gated" : "", what, x);
}

static uint32_t fitting(const struct matrix *m, uint32_t k)
{
    uint32_t all = 0;
    CHECK(matrix_variants() <= 32);
    for (uint32_t v = 0; v < matrix_variants(); v++)
        all |= (uint32_t)matrix_variant_fits(m, v, k) << v;
    return all;
}

/* variants: a bit each; all sources with each that fits, or the first. */
static void test_matmul(struct bed *b, struct matrix *m, enum tensor_type type, uint32_t rows,
                        uint32_t k, bool gated, uint32_t variants)
{
    struct matmul_case c;
    make_case(b, m, type, rows, k, gated, &c);
    size_t row = gated ? (size_t)c.n * 2 : (size_t)c.stride * 4;
    uint32_t fit = fitting(m, k);
    if ((variants & fit) == 0)
        variants = fit & -fit; /* the first */
    uint32_t first = below(b, rows), some = 1 + below(b, rows - first);
    char *usual = NULL;
    matrix_force_groups(m, below(b, 4)); /* of up to five tiles, or ten */
    for (size_t v = 0; v < matrix_variants(); v++)
        for (enum source source = 0; source < SOURCES; source++) {
            if ((variants >> v & 1) == 0 || !matrix_variant_fits(m, v, k) || !reads(&c, v, source))
                continue;
            matrix_force(m, (int)v);
            char *got = run_case(b, m, &c, source, 0, rows);
            if (usual == NULL) {
                double worst = gated ? worst_gated(&c, (uint16_t *)(void *)got)
                                     : worst_plain(&c, (float *)(void *)got);
                if (!CHECK(worst <= 1))
                    say(&c, "of the bound:", worst);
                usual = got;
                got = run_case(b, m, &c, source, first, 1);
                CHECK(memcmp(usual + first * row, got, row) == 0 && "alone, same bits");
                free(got);
                matrix_force_far(m, true);
                got = run_case(b, m, &c, source, 0, rows);
                CHECK(memcmp(usual, got, rows * row) == 0 && "weights shared, same bits");
                matrix_force_far(m, false);
            } else if (!CHECK(memcmp(usual, got, rows * row) == 0 && "same bits")) {
                fprintf(stderr, "    %s, ", source_names[source]);
                say(&c, "variant", (double)v);
            }
            free(got);
        }
    matrix_force_groups(m, 0);
    char *part = run_case(b, m, &c, FILE_BLOCKS, first, some);
    CHECK(memcmp(usual + first * row, part, some * row) == 0 && "among others, same bits");
    free(part);
    free(usual);
    free_case(&c);
}

/* Which variant is taken where nothing is forced: all of them are ready for up to max_rows. */
static void test_prepare(struct bed *b, struct matrix *m)
{
    struct matmul_case c;
    make_case(b, m, TENSOR_F16, 21, 64, false, &c);
    matrix_force(m, -1);
    for (uint32_t stream_rows = 0; stream_rows <= 16; stream_rows += 16) {
        struct tuning t = tuning_defaults();
        t.stream_rows = stream_rows;
        matrix_tune(m, &t);
        for (uint32_t rows = 1; rows <= 21; rows += 4)
            free(run_case(b, m, &c, F16_TILES, 0, rows));
    }
    free_case(&c);
}

/* matrix_prepare() looks at one number of rows in eight: all eight take the same variant. */
static void test_choices(struct matrix *m)
{
    static const uint32_t shapes[][2] = {/* outputs, columns: llama 1B's and qwen2.5 1.5B's */
                                         {2048, 2048}, {3072, 2048}, {2048, 8192}, {8192, 2048},
                                         {1536, 1536}, {1536, 8960}, {8960, 1536}};
    matrix_force(m, -1);
    for (uint32_t in_band = 0; in_band <= 32; in_band++) {
        struct tuning t = tuning_defaults();
        t.in_band_rows = in_band;
        matrix_tune(m, &t);
        for (size_t i = 0; i < ARRAY_LEN(shapes); i++)
            for (int bytes = 0; bytes < 2; bytes++) {
                struct matrix_weight w = {.tiles = 16,
                                          .bytes = bytes ? 16 : 0,
                                          .rows = shapes[i][0],
                                          .cols = shapes[i][1],
                                          .gated = shapes[i][0] > shapes[i][1]};
                for (uint32_t rows = 1; rows <= 64; rows++)
                    CHECK_INT(matrix_variant_for(m, &w, rows),
                              matrix_variant_for(m, &w, (rows + 7) / 8 * 8));
            }
    }
}

/* Norms inside have the bits of matrix_rows() before: each of the few rows, and each one alone. */
static void test_norm(struct bed *b, enum tensor_type type, bool emulated)
{
    static const uint32_t widths[] = {32, 256, 1024, 1056, 1536}; /* one octet a lane, and two */
    struct err_msg why = {""};
    struct tuning tuning = tuning_defaults();
    tuning.norm_rows = 16; /* two tiles of rows */
    for (size_t i = 0; i < ARRAY_LEN(widths); i++) {
        struct matmul_case c;
        struct matrix *m = NULL;
        CHECK_OK(matrix_create(b->gpu, 64, widths[i], emulated, &m, &why), why);
        if (m == NULL)
            return;
        matrix_tune(m, &tuning);
        make_case(b, m, type, 1 + below(b, tuning.norm_rows), widths[i], true, &c);
        c.x = bed_floats(b, (size_t)c.rows * c.k, -3, 3);
        c.norm = bed_floats(b, c.k, -0.02f, 0.02f);
        for (size_t v = 0; v < matrix_variants(); v++) {
            if (!matrix_variant_fits(m, v, c.k) || !matrix_variant_norms(m, v) ||
                c.k != widths[i]) /* blocks of 256 */
                continue;
            matrix_force(m, (int)v);
            matrix_force_groups(m, below(b, 4));
            for (enum source source = 0; source < SOURCES; source++) {
                if (!reads(&c, v, source))
                    continue;
                c.norm_inside = false;
                char *want = run_case(b, m, &c, source, 0, c.rows);
                c.norm_inside = true;
                char *got = run_case(b, m, &c, source, 0, c.rows);
                if (!CHECK(memcmp(want, got, (size_t)c.rows * c.n * 2) == 0))
                    say(&c, "norms inside, variant", (double)v);
                free(got);
                uint32_t last = c.rows - 1;
                got = run_case(b, m, &c, source, last, 1);
                CHECK(memcmp(want + (size_t)last * c.n * 2, got, c.n * 2) == 0);
                free(got);
                free(want);
            }
        }
        free_case(&c);
        matrix_destroy(&m);
    }
}

/* What c's matmul leaves beside the same outputs. */
static void check_bests(struct bed *b, struct matrix *m, struct matmul_case *c, enum source source)
{
    size_t mark_count = b->count;
    uint64_t mark_used = b->used;
    float *want = run_case(b, m, c, source, 0, c->rows);
    c->logits = true;
    struct matrix_weight w = describe(c, source);
    uint32_t groups = matrix_bests(m, &w, c->rows);
    CHECK(groups > 1);
    c->bests_t = bed_tensor(b, NULL, (uint64_t)c->rows * groups * 8);
    float *got = run_case(b, m, c, source, 0, c->rows);
    uint32_t(*bests)[2] = take(c->bests_t.bytes);
    bed_get(b, &c->bests_t, bests);
    CHECK(memcmp(want, got, (size_t)c->rows * c->stride * 4) == 0);
    for (uint32_t r = 0; r < c->rows; r++)
        for (uint32_t g = 0; g < groups; g++) {
            uint32_t key = bed_key_of(-INFINITY), column = UINT32_MAX;
            for (uint32_t j = 0; j < c->n; j++) {
                uint32_t other = bed_key_of(got[(size_t)r * c->stride + j]);
                if (j / 16 % groups == g && other > key) {
                    key = other;
                    column = j;
                }
            }
            CHECK_INT(bests[r * groups + g][0], key);
            CHECK_INT(bests[r * groups + g][1], column);
        }
    b->count = mark_count;
    b->used = mark_used;
    c->logits = false;
    c->bests_t = (struct tensor){0};
    free(want);
    free(got);
    free(bests);
}

/* Streams leave the best of each workgroup's tiles, of equal ones the first. */
static void test_bests(struct bed *b, bool emulated)
{
    struct err_msg why = {""};
    struct matmul_case c = {0};
    struct matrix *m = NULL;
    CHECK_OK(matrix_create(b->gpu, 64, 64, emulated, &m, &why), why);
    if (m == NULL)
        return;
    while (c.n < 40 || c.bias != NULL || c.residual != NULL) {
        free_case(&c);
        make_case(b, m, TENSOR_Q8_0, 11 + below(b, 6), 64 + 32 * below(b, 20), false, &c);
    }
    for (uint32_t i = 0; i < c.k; i++) {
        c.a[i] = 0;            /* row 0: all equal */
        c.a[c.k + i] = 0x7e00; /* row 1: NaN */
    }
    matrix_force_groups(m, 2);
    unsigned checked = 0;
    for (size_t v = 0; v < matrix_variants(); v++)
        for (enum source source = F16_TILES; source < SOURCES; source++) {
            if (!matrix_variant_streams(v) || !matrix_variant_fits(m, v, c.k))
                continue;
            matrix_force(m, (int)v);
            check_bests(b, m, &c, source);
            checked++;
        }
    CHECK(checked >= 8); /* one and two tiles of rows, cached rows */
    free_case(&c);
    matrix_destroy(&m);
}

static void test_type(struct bed *b, struct matrix *m, enum tensor_type type, bool all)
{
    static const uint32_t shapes[][2] = {{1, 64},  {8, 2112}, {9, 128}, {23, 1056},
                                         {40, 96}, {70, 160}, {130, 64}};
    uint32_t count = (uint32_t)matrix_variants(), every = UINT32_MAX;
    for (size_t i = 0; i < ARRAY_LEN(shapes); i++) {
        /* All variants of one source need a pipeline each: other types take a few. */
        uint32_t some = 1u << (unsigned)type % count | 1u << (unsigned)(type + 4) % count;
        if (!all && i % 3 == 2)
            continue;
        test_matmul(b, m, type, shapes[i][0], shapes[i][1], false, all ? every : some);
        test_matmul(b, m, type, shapes[i][0], shapes[i][1], true, all ? every : some);
    }
    /* Streams with all their warps' slices, and slices of whole tens of groups: minutes for a CPU.
     */
    if (all && gpu_info(b->gpu)->matrix_f16) {
        test_matmul(b, m, type, 64, 1024, false, every);
        test_matmul(b, m, type, 8, 4864, false, every);
    }
}

int main(int argc, char **argv)
{
    struct bed b;
    struct err_msg why = {""};
    bed_start_types(&b, 16 << 20, 0x3a7a11, 0);
    CHECK_OK(gpu_chain_create(b.gpu, &why), why);
    for (int emulated = 1; emulated >= !gpu_info(b.gpu)->matrix_f16; emulated--) {
        struct matrix *m = make_matrix(&b, 64, emulated);
        for (int i = 1; i < argc; i++) {
#define X(name, number, values, bytes)                                                             \
    if (strcmp(argv[i], #name) == 0)                                                               \
        test_type(&b, m, TENSOR_##name, TENSOR_##name == TENSOR_Q8_0);
            TENSOR_TYPES(X)
#undef X
            if (strcmp(argv[i], "Q8_0") != 0)
                continue;
            test_norm(&b, TENSOR_Q8_0, emulated);
            test_bests(&b, emulated);
        }
        test_prepare(&b, m);
        test_choices(m);
        matrix_destroy(&m);
    }
    return bed_finish(&b);
}
