/* The sampler: exact greedy choice, filters and draw against a twin written from the definitions
 * (sorting, masses in integers, Philox from the paper), exact draws where all masses are equal,
 * statistics of many draws, the same tokens from every size of workgroup and every number of them,
 * and rows that do not see their neighbours.
 * `--time` measures instead. */
#include <time.h>

#include "base/size.h"
#include "tests/engine/kernel_bed.h"
#include "tests/engine/sample_twin.h"

/* Workgroups a row, of as many rows as may have several; 0: as many as the device takes by itself.
 */
static uint32_t parts;

static void force_parts(struct bed *b, uint32_t want)
{
    parts = want;
    kernels_set_sample_parts(b->kernels, parts);
}

/* Of the rows; empty where it must not be used. */
static struct tensor scratch_of(struct bed *b, uint32_t count)
{
    size_t bytes = count * (parts != 1 && count <= SAMPLE_SPLIT_ROWS) * SAMPLE_SCRATCH_WORDS * 4;
    void *zeros = take(bytes);
    struct tensor t = bed_tensor(b, zeros, bytes);
    free(zeros);
    return t;
}

/* Each row's first word is as it was. */
static void check_scratch(struct bed *b, const struct tensor *t)
{
    uint32_t *words = take(t->bytes);
    bed_get(b, t, words);
    for (size_t i = 0; i < t->bytes / 4; i += SAMPLE_SCRATCH_WORDS)
        CHECK_INT(words[i], 0);
    free(words);
}

/* As kernel_sample() is told: whether no row has a filter, and whether the logits came with bests.
 */
enum way { FILTERED, PLAIN, WITH_BESTS };

static bool is_plain(const struct row *rows, uint32_t count)
{
    bool plain = true;
    for (uint32_t r = 0; r < count; r++)
        plain &= rows[r].p.banned_count == 0 && rows[r].p.top_k == 0 && rows[r].p.min_p <= 0;
    return plain;
}

enum { BESTS = 5 };

/* The best of every BESTS-th id, [count][BESTS] of key and id. */
static struct tensor bests_of(struct bed *b, const float *logits, uint32_t count, uint32_t n_vocab)
{
    uint32_t(*bests)[2] = take((size_t)count * BESTS * sizeof *bests);
    for (uint32_t r = 0; r < count; r++)
        for (uint32_t i = 0; i < BESTS; i++) {
            uint32_t *best = bests[r * BESTS + i];
            best[0] = bed_key_of(-INFINITY);
            best[1] = UINT32_MAX;
            for (uint32_t id = i; id < n_vocab; id += BESTS) {
                uint32_t key = bed_key_of(logits[(size_t)r * n_vocab + id]);
                if (key > best[0]) {
                    best[0] = key;
                    best[1] = id;
                }
            }
        }
    struct tensor t = bed_tensor(b, bests, (uint64_t)count * BESTS * sizeof *bests);
    free(bests);
    return t;
}

static void run_as(struct bed *b, enum way way, const float *logits, struct row *rows,
                   uint32_t count, uint32_t n_vocab, uint32_t *ret_ids)
{
    bool draws = false;
    struct sample_row *params = take(count * sizeof *params);
    uint32_t *banned = take((size_t)count * MAX_BANNED * 4), used = 0;
    for (uint32_t r = 0; r < count; r++) {
        rows[r].p.banned_begin = used;
        memcpy(banned + used, rows[r].banned, rows[r].p.banned_count * 4);
        used += rows[r].p.banned_count;
        params[r] = rows[r].p;
        draws |= rows[r].p.temperature > 0;
    }
    bed_clear(b);
    struct tensor logits_t = bed_tensor(b, logits, (uint64_t)count * n_vocab * 4);
    struct tensor params_t = bed_tensor(b, params, count * sizeof *params);
    struct tensor banned_t = bed_tensor(b, banned, used * 4), out = bed_tensor(b, NULL, count * 4);
    struct tensor scratch = scratch_of(b, count), bests = {0};
    if (way == WITH_BESTS)
        bests = bests_of(b, logits, count, n_vocab);
    struct push_sample p = {.logits = logits_t.address,
                            .params = params_t.address,
                            .banned = banned_t.address,
                            .out = out.address,
                            .scratch = scratch.address,
                            .bests = bests.address,
                            .bests_count = way == WITH_BESTS ? BESTS : 0,
                            .rows = count,
                            .n_vocab = n_vocab};
    bed_begin(b);
    kernel_sample(b->kernels, &p, draws, way != FILTERED);
    bed_run(b);
    bed_check(b);
    bed_get(b, &out, ret_ids);
    check_scratch(b, &scratch);
    free(params);
    free(banned);
}

static void run(struct bed *b, const float *logits, struct row *rows, uint32_t count,
                uint32_t n_vocab, uint32_t *ret_ids)
{
    uint32_t *same = take(count * sizeof *same);
    enum way last = is_plain(rows, count) ? WITH_BESTS : FILTERED;
    run_as(b, FILTERED, logits, rows, count, n_vocab, ret_ids);
    for (enum way way = PLAIN; way <= last; way++) {
        run_as(b, way, logits, rows, count, n_vocab, same);
        if (!CHECK(memcmp(same, ret_ids, count * sizeof *same) == 0))
            fprintf(stderr, "    %s, %u rows of %u\n", way == PLAIN ? "plain" : "with bests", count,
                    n_vocab);
    }
    free(same);
}

static uint32_t run_one(struct bed *b, const float *logits, struct row row, uint32_t n_vocab)
{
    uint32_t id = UINT32_MAX;
    run(b, logits, &row, 1, n_vocab, &id);
    return id;
}

/* ---- tests ---- */

static void test_philox(void)
{
    /* The paper's known answers (Random123, kat_vectors). */
    uint32_t zero[4] = {0}, ones[4] = {~0u, ~0u, ~0u, ~0u};
    philox(zero, 0, 0);
    CHECK(zero[0] == 0x6627e8d5 && zero[1] == 0xe169c58d && zero[2] == 0xbc57ac4c &&
          zero[3] == 0x9b00dbd8);
    philox(ones, ~0u, ~0u);
    CHECK(ones[0] == 0x408f276d && ones[1] == 0x41c83b0e && ones[2] == 0xa20bc7c6 &&
          ones[3] == 0x6d5451fd);
}

static void test_greedy(struct bed *b)
{
    for (int i = 0; i < 12; i++) {
        uint32_t n = 1 + (uint32_t)check_rng_below(&b->rng, i < 6 ? 100 : 5000), best = 0;
        float *x = bed_floats(b, n, -10, 10);
        struct row row = plain_row(0, 1, 1);
        for (uint32_t j = 0; j < n; j++) {
            if (i % 3 == 0)
                x[j] = floorf(x[j]); /* ties: the lowest id */
            if (i % 3 == 1 && check_rng_below(&b->rng, 4) == 0)
                x[j] = NAN; /* never the best */
        }
        x[n / 2] = -1; /* a number there is, always */
        if (i % 4 == 3)
            for (uint32_t j = 0; j < n / 2 && j < MAX_BANNED; j++)
                row.banned[row.p.banned_count++] = (uint32_t)check_rng_below(&b->rng, n / 2);
        for (uint32_t j = 0, found = 0; j < n; j++) {
            if (twin_banned(&row, j) || isnan(x[j]) || (found && !(x[j] > x[best])))
                continue;
            best = j;
            found = 1;
        }
        CHECK_INT(run_one(b, x, row, n), best);
        free(x);
    }
}

static void test_edges(struct bed *b)
{
    float all_nan[5] = {NAN, NAN, NAN, NAN, NAN}, infinite[4] = {1, INFINITY, INFINITY, 3};
    float lost[4] = {-INFINITY, -INFINITY, NAN, -INFINITY}, zeros[3] = {-0.0f, 0.0f, -1};
    struct row row = plain_row(1, 7, 3), greedy = plain_row(0, 7, 3);
    CHECK_INT(run_one(b, all_nan, row, 5), 0);
    CHECK_INT(run_one(b, infinite, row, 4), 1);
    CHECK_INT(run_one(b, lost, row, 4), 0);
    CHECK_INT(run_one(b, zeros, greedy, 3), 0); /* -0 equals 0 */
    row.p.banned_count = greedy.p.banned_count = 2;
    row.banned[0] = greedy.banned[0] = 0;
    row.banned[1] = greedy.banned[1] = 1;
    CHECK_INT(run_one(b, all_nan, row, 5), 2);
    CHECK_INT(run_one(b, infinite, greedy, 4), 2);
    row.p.banned_count = 0;
    row.p.temperature = NAN; /* not above 0: greedy */
    CHECK_INT(run_one(b, zeros, row, 3), 0);
    float close[3] = {5, 6, 5.5f}, low[3] = {-6, -5, -5.5f};
    row.p.temperature = 1e-38f; /* all overflow: the best is the best nevertheless */
    CHECK_INT(run_one(b, close, row, 3), 1);
    CHECK_INT(run_one(b, low, row, 3), 1);
    row.p.temperature = 1e-42f;
    CHECK_INT(run_one(b, close, row, 3), 1);
    CHECK_INT(run_one(b, low, row, 3), 1);
    row = plain_row(1, 7, 3); /* filters at their limits keep the best */
    row.p.top_p = 0;
    CHECK_INT(run_one(b, close, row, 3), 1);
    row.p.top_p = 1;
    row.p.min_p = 2;
    CHECK_INT(run_one(b, close, row, 3), 1);
    row.p.min_p = 0;
    row.p.top_k = 1;
    CHECK_INT(run_one(b, close, row, 3), 1);
}

/* Random parameters; where the twin's margin is clear of f32 rounding, the same token. */
static void test_draws(struct bed *b)
{
    unsigned clear = 0, filtered = 0;
    enum { ROUNDS = 60, ROWS = 4 };
    for (int i = 0; i < ROUNDS; i++) {
        uint32_t n = 1 + (uint32_t)check_rng_below(&b->rng, i % 3 == 0 ? 4500 : 200), ids[ROWS];
        float *x = bed_floats(b, (size_t)n * ROWS, -8, 8);
        struct row rows[ROWS];
        for (uint32_t r = 0; r < ROWS; r++) {
            rows[r] = plain_row(check_rng_float(&b->rng, 0.3f, 2), check_rng_next(&b->rng),
                                (uint32_t)check_rng_below(&b->rng, 40000));
            struct sample_row *p = &rows[r].p;
            p->choice = (uint32_t)check_rng_below(&b->rng, 2);
            if (check_rng_below(&b->rng, 2))
                p->top_k = 1 + (uint32_t)check_rng_below(&b->rng, 50);
            if (check_rng_below(&b->rng, 2))
                p->top_p = check_rng_float(&b->rng, 0.05f, 0.99f);
            if (check_rng_below(&b->rng, 2))
                p->min_p = check_rng_float(&b->rng, 0.001f, 0.3f);
            for (uint32_t j = 0; j < n / 4 && j < MAX_BANNED && i % 4 == 0; j++)
                rows[r].banned[p->banned_count++] = (uint32_t)check_rng_below(&b->rng, n);
            if (i % 5 == 0) /* ties at thresholds */
                for (uint32_t j = 0; j < n; j++)
                    x[(size_t)r * n + j] = floorf(x[(size_t)r * n + j] * 2) / 2;
        }
        run(b, x, rows, ROWS, n, ids);
        for (uint32_t r = 0; r < ROWS; r++) {
            double margin;
            uint32_t want = twin_draw(x + (size_t)r * n, &rows[r], n, &margin);
            /* Rounding of z (up to 27) and exp in f32; what is common to all masses cancels out. */
            if (margin < 1e-5)
                continue;
            clear++;
            filtered += rows[r].p.top_k > 0 || rows[r].p.top_p < 1 || rows[r].p.min_p > 0;
            if (!CHECK(ids[r] == want))
                fprintf(
                    stderr,
                    "    round %d row %u of %u ids: %u, expected %u (top_k %u top_p %g min_p %g)\n",
                    i, r, n, ids[r], want, rows[r].p.top_k, (double)rows[r].p.top_p,
                    (double)rows[r].p.min_p);
        }
        free(x);
    }
    CHECK(clear > ROUNDS * ROWS / 2 && filtered > ROUNDS);
}

/* A row alone gives what it gave beside others. */
static void test_neighbours(struct bed *b)
{
    enum { ROWS = 9, N = 3000 };
    float *x = bed_floats(b, (size_t)ROWS * N, -4, 4);
    struct row rows[ROWS];
    uint32_t ids[ROWS];
    for (uint32_t r = 0; r < ROWS; r++) {
        rows[r] = plain_row(r % 3 == 0 ? 0 : 0.9f, r * UINT64_C(0x123456789abcdef), r * 100);
        rows[r].p.top_k = r % 2 ? 0 : 40;
        rows[r].p.top_p = r % 4 ? 0.9f : 1;
        rows[r].p.banned_count = r;
        for (uint32_t i = 0; i < r; i++)
            rows[r].banned[i] = i;
    }
    run(b, x, rows, ROWS, N, ids);
    for (uint32_t r = 0; r < ROWS; r++)
        CHECK_INT(run_one(b, x + (size_t)r * N, rows[r], N), ids[r]);
    free(x);
}

/* Many draws of one distribution: chi-square against its probabilities. Fixed seeds, so the outcome
 * is fixed; 60 is far beyond chance for 19 degrees of freedom (p < 5e-6). */
static void test_statistics(struct bed *b)
{
    enum { N = 20, ROWS = 4000 };
    float *x = take((size_t)ROWS * N * 4);
    struct row *rows = take(ROWS * sizeof *rows);
    uint32_t *ids = take(ROWS * 4), counts[N] = {0};
    double total = 0, chi = 0;
    for (uint32_t r = 0; r < ROWS; r++) {
        rows[r] = plain_row(1.5f, 1000 + r % 40, r / 40);
        for (uint32_t i = 0; i < N; i++)
            x[(size_t)r * N + i] = (float)(i % 7) * 0.5f;
    }
    run(b, x, rows, ROWS, N, ids);
    for (uint32_t r = 0; r < ROWS; r++)
        if (CHECK(ids[r] < N))
            counts[ids[r]]++;
    for (uint32_t i = 0; i < N; i++)
        total += exp((i % 7) * 0.5 / 1.5);
    for (uint32_t i = 0; i < N; i++) {
        double want = ROWS * exp((i % 7) * 0.5 / 1.5) / total;
        chi += (counts[i] - want) * (counts[i] - want) / want;
    }
    printf("chi-square %.1f for %d degrees of freedom\n", chi, N - 1);
    CHECK(chi < 60);
    free(x);
    free(rows);
    free(ids);
}

static uint64_t random_bits(const struct sample_row *p)
{
    uint32_t counter[4] = {p->position, p->choice, 0, 0};
    philox(counter, p->seed_low, p->seed_high);
    return (uint64_t)counter[0] << 32 | counter[1];
}

/* Equal logits: the draw is the floor(u count)-th of the kept ids, exactly, whatever exp gives. */
static void check_equal(struct bed *b, uint32_t n, const struct row *row)
{
    float *x = take(n * sizeof *x);
    uint32_t *order = twin_order(n), *kept = take(n * sizeof *kept), count = 0;
    for (uint32_t i = 0; i < n; i++)
        x[i] = i % 7 == 3 ? -INFINITY : i % 11 == 5 ? NAN : 2.5f;
    for (uint32_t i = 0; i < n; i++)
        if (x[order[i]] == 2.5f && !twin_banned(row, order[i]))
            kept[count++] = order[i];
    uint64_t u = random_bits(&row->p);
    uint32_t index = (uint32_t)(((u >> 32) * count + ((u & UINT32_MAX) * count >> 32)) >> 32);
    CHECK_INT(run_one(b, x, *row, n), kept[index]);
    free(x);
    free(order);
    free(kept);
}

static void test_equal(struct bed *b)
{
    for (uint32_t i = 0; i < 40; i++) {
        uint32_t n = 1 + (uint32_t)check_rng_below(&b->rng, i < 20 ? 60 : 9000);
        struct row row = plain_row(check_rng_float(&b->rng, 0.3f, 2), check_rng_next(&b->rng), i);
        row.p.choice = i % 3;
        row.p.top_p = i % 2 ? 0.9f : 1; /* ties at the threshold stay */
        row.p.top_k = i % 5 ? 0 : 3;
        for (uint32_t j = 1; j < n / 2 && j < MAX_BANNED && i % 4 == 0; j++)
            row.banned[row.p.banned_count++] = (uint32_t)check_rng_below(&b->rng, n);
        for (uint32_t j = 0; j < row.p.banned_count; j++)
            row.banned[j] += row.banned[j] == 0; /* id 0 remains */
        check_equal(b, n, &row);
    }
}

static void fill_row(struct bed *b, struct row *row, uint32_t r, uint32_t n)
{
    *row = plain_row(r % 8 == 7 ? 0 : 0.8f, check_rng_next(&b->rng), r);
    row->p.top_p = r % 2 ? 1 : r % 3 ? 0.95f : 0.2f;
    row->p.top_k = r % 5 == 1 ? 50 : r % 5 == 2 ? 2000 : 0;
    row->p.min_p = r % 7 == 1 ? 0.05f : 0;
    for (uint32_t i = 0; i < 30 && r % 4 == 1; i++)
        row->banned[row->p.banned_count++] = (uint32_t)check_rng_below(&b->rng, n);
}

/* The same tokens from workgroups of every size and any number of them, all filters and none. */
static void test_sizes(struct bed *b)
{
    static const struct {
        uint32_t invocations, ahead, parts;
    } ways[] = {{64, 1, 1},    {64, 4, 1},  {64, 4, 3},  {128, 4, 1}, {256, 1, 1}, {1024, 4, 1},
                {1024, 4, 32}, {256, 4, 1}, {256, 4, 2}, {256, 4, 3}, {256, 4, 8}, {256, 4, 32}};
    enum { ROWS = 24, FEW = 2 }; /* few where so many workgroups take a software device long */
    /* Rows that have no lines of four, rows that do, a real vocabulary; rows without filters. */
    static const uint32_t vocabs[] = {4099, 9000, 151936, 9000}, counts[] = {ROWS, ROWS, 7, ROWS};
    unsigned ran = 0, drawn = 0;
    float *x[ARRAY_LEN(vocabs)];
    static struct row rows[ARRAY_LEN(vocabs)][ROWS];
    uint32_t first[ARRAY_LEN(vocabs)][ROWS], ids[ROWS];
    for (size_t v = 0; v < ARRAY_LEN(vocabs); v++) {
        x[v] = bed_floats(b, (size_t)counts[v] * vocabs[v], -3, 3);
        for (uint32_t r = 0; r < counts[v]; r++)
            fill_row(b, &rows[v][r], r, vocabs[v]);
        for (uint32_t r = 0; r < counts[v] && v == 3; r++) {
            rows[v][r].p.top_k = rows[v][r].p.banned_count = 0;
            rows[v][r].p.min_p = 0;
        }
        run(b, x[v], rows[v], counts[v], vocabs[v], first[v]);
        for (uint32_t r = 0; r < counts[v]; r++)
            drawn += first[v][r] != first[v][0];
    }
    for (size_t w = 0; w < ARRAY_LEN(ways); w++) {
        bool same = w > 0 && ways[w].invocations == ways[w - 1].invocations &&
                    ways[w].ahead == ways[w - 1].ahead;
        if (!same && !kernels_force_sample(b->kernels, ways[w].invocations, ways[w].ahead)) {
            CHECK(ways[w].invocations > 256);
            while (w + 1 < ARRAY_LEN(ways) && ways[w + 1].invocations == ways[w].invocations)
                w++;
            continue;
        }
        force_parts(b, ways[w].parts);
        for (size_t v = 0; v < ARRAY_LEN(vocabs); v++) {
            uint32_t count = parts == SAMPLE_MOST_PARTS ? FEW : counts[v];
            if (ways[w].invocations * parts > 8192 && vocabs[v] < 10000)
                continue;
            run(b, x[v], rows[v], count, vocabs[v], ids);
            if (!CHECK(memcmp(ids, first[v], count * sizeof *ids) == 0))
                fprintf(stderr, "    %u workgroups of %u, %u lines ahead, %u ids\n", parts,
                        ways[w].invocations, ways[w].ahead, vocabs[v]);
            ran++;
        }
    }
    for (size_t v = 0; v < ARRAY_LEN(vocabs); v++)
        free(x[v]);
    CHECK(ran >= 29 && drawn > ROWS);
}

/* Other seeds, positions and choices: other draws. */
static void test_streams(struct bed *b)
{
    enum { N = 3000, ROWS = 4 };
    float *x = take((size_t)ROWS * N * sizeof *x);
    struct row rows[ROWS];
    uint32_t ids[ROWS];
    for (uint32_t r = 0; r < ROWS; r++)
        rows[r] = plain_row(1, r == 1 ? 6 : 5 + (r == 2 ? UINT64_C(1) << 32 : 0), 8 + (r == 3));
    run(b, x, rows, ROWS, N, ids);
    rows[0].p.choice = 1;
    uint32_t other = run_one(b, x, rows[0], N);
    for (uint32_t r = 0; r < ROWS; r++)
        for (uint32_t q = 0; q <= r; q++)
            CHECK(q == r ? ids[r] != other : ids[r] != ids[q]);
    free(x);
}

/* A real vocabulary's size: no invocation may run into a shader's loop limit. */
static void test_large(struct bed *b)
{
    enum { N = 151936 };
    float *x = bed_floats(b, N, -3, 3);
    struct row row = plain_row(1, 99, 5), flat = plain_row(0.8f, 17, 4);
    double margin;
    row.p.top_k = 30;
    row.p.top_p = 0.8f;
    for (uint32_t i = 0; i < MAX_BANNED; i++)
        row.banned[row.p.banned_count++] = N - 1 - i * 17;
    x[N - 1] = 50; /* banned */
    x[N - 2] = 9;
    for (uint32_t i = 0; i < 40; i++)
        x[i * 3000 + 11] = 4 + (float)i * 0.11f;
    uint32_t want = twin_draw(x, &row, N, &margin);
    for (int i = 0; i < 20 && margin < 1e-5; i++) { /* another draw is clearer */
        row.p.position++;
        want = twin_draw(x, &row, N, &margin);
    }
    if (CHECK(margin > 1e-5))
        CHECK_INT(run_one(b, x, row, N), want);
    row.p.temperature = 0;
    CHECK_INT(run_one(b, x, row, N), N - 2);
    check_equal(b, N, &flat);
    free(x);
}

static void time_rows(struct bed *b, const char *what, uint32_t count, struct row row)
{
    enum { N = 4096 };
    float *x = bed_floats(b, (size_t)count * N, -5, 5);
    struct row *rows = take(count * sizeof *rows);
    uint32_t *ids = take(count * 4);
    double best = INFINITY, cpu = INFINITY;
    for (uint32_t r = 0; r < count; r++)
        rows[r] = row;
    for (int i = 0; i < 5; i++) {
        run(b, x, rows, count, N, ids); /* includes the upload */
        struct push_sample p = {.logits = b->tensors[0].address,
                                .params = b->tensors[1].address,
                                .banned = b->tensors[2].address,
                                .out = b->tensors[3].address,
                                .scratch = b->tensors[4].address,
                                .rows = count,
                                .n_vocab = N};
        bed_begin(b);
        kernel_sample(b->kernels, &p, row.p.temperature > 0, false);
        clock_t begin_cpu = clock();
        uint64_t begin = clock_mono_ns();
        bed_run(b);
        best = fmin(best, (double)(clock_mono_ns() - begin) / 1e3);
        cpu = fmin(cpu, (double)(clock() - begin_cpu) / (CLOCKS_PER_SEC / 1e6));
    }
    printf("sample %s, %u rows of %d: %.0f us, %.0f us of cpu\n", what, count, N, best, cpu);
    free(x);
    free(rows);
    free(ids);
}

int main(int argc, char **argv)
{
    struct bed b;
    bed_start(&b, UINT64_C(8) << 20, 3);
    if (argc > 1 && strcmp(argv[1], "--time") == 0) {
        struct row filters = plain_row(1, 5, 5);
        filters.p.top_k = 40;
        filters.p.top_p = 0.9f;
        time_rows(&b, "greedy", 32, plain_row(0, 5, 5));
        time_rows(&b, "temperature", 32, plain_row(1, 5, 5));
        time_rows(&b, "top_k, top_p", 32, filters);
        return bed_finish(&b);
    }
    struct push_sample none = {.n_vocab = 3};
    bed_begin(&b);
    kernel_sample(b.kernels, &none, true, true);
    bed_run(&b);
    test_philox();
    test_greedy(&b);
    test_edges(&b);
    test_draws(&b);
    test_neighbours(&b);
    test_statistics(&b);
    test_equal(&b);
    test_streams(&b);
    test_large(&b);
    test_sizes(&b);
    for (uint32_t n = 1; n <= 3; n += 2) { /* as hardware reads, and knows what is good */
        force_parts(&b, n);
        test_greedy(&b);
        test_edges(&b);
        test_equal(&b);
        test_neighbours(&b);
        if (n == 1)
            test_draws(&b);
    }
    return bed_finish(&b);
}
