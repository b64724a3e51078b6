/* Each architecture on the device against the oracle (oracle.h), and against itself in other
 * batches; the plain family, or, groups "matrix_...", the matrix family's emulation. Arguments: the
 * directory for model files, the group of cases to run. */
#include <math.h>
#include <stdio.h>
#include <unistd.h>

#include "base/size.h"
#include "engine/engine.h"
#include "engine/memory.h"
#include "tests/check.h"
#include "tests/engine/oracle.h"

/* Width 64, 4 query heads and 2 of keys, feed-forward 96: no size is another's, and 96 is no whole
 * number of matmul slices. Prompts cross pages (32 tokens), windows (24) and chunks (13). */
#define SHAPE(of, what, arch, layers)                                                              \
    .group = (of), .name = (what), .architecture = (arch), .n_layer = (layers), .n_embd = 64,      \
    .n_head = 4, .n_head_kv = 2, .n_ff = 96
#define GEMMA(what, arch, layers) SHAPE(arch, what, arch, layers), .head_size = 32, .tied = true
/* The emulation is slow: few layers, short prompts, which still cross a page, a window and chunks.
 */
enum { MATRIX_PROMPT = 40 };
#define MATRIX(of, what, arch, layers)                                                             \
    SHAPE("matrix_" of, what, arch, layers), .prompt_count = MATRIX_PROMPT
static const struct oracle_case cases[] = {
    {SHAPE("llama", "llama", "llama", 3), .rope_base = 500000},
    {SHAPE("llama", "llama 3 rope_freqs, tied", "llama", 3), .rope = ORACLE_FREQS, .tied = true},
    {SHAPE("llama", "llama linear", "llama", 3), .rope = ORACLE_LINEAR, .factor = 4},
    {SHAPE("llama", "llama old linear", "llama", 3), .rope = ORACLE_OLD_LINEAR, .factor = 2.5f},
    {SHAPE("llama", "llama biases", "llama", 3), .biases = true, .output_bias = true},
    {SHAPE("llama", "llama window, part of a head", "llama", 3), .window = 24, .head_size = 40,
     .rope_dims = 24},
    {SHAPE("llama", "mixtral", "llama", 3), .n_expert = 8, .n_expert_used = 2, .rope_base = 1e6f},
    {SHAPE("qwen", "qwen2", "qwen2", 3), .biases = true, .rope_base = 1e6f},
    {SHAPE("qwen", "qwen2 yarn", "qwen2", 3), .biases = true, .tied = true, .rope = ORACLE_YARN,
     .factor = 4, .original_ctx = 64},
    {SHAPE("qwen", "qwen2 yarn, attn_factor", "qwen2", 2), .biases = true, .rope = ORACLE_YARN,
     .factor = 8, .original_ctx = 128, .attn_factor = 0.7f, .head_size = 64},
    {SHAPE("qwen", "qwen3", "qwen3", 3), .head_size = 32, .tied = true},
    {SHAPE("qwen", "qwen3moe", "qwen3moe", 3), .head_size = 32, .n_expert = 8, .n_expert_used = 3},
    {SHAPE("qwen", "qwen3moe, all experts", "qwen3moe", 2), .n_expert = 4, .n_expert_used = 4},
    {SHAPE("phi3", "phi3", "phi3", 3)},
    {SHAPE("phi3", "phi3 window, part of a head", "phi3", 3), .window = 24, .rope_dims = 12,
     .tied = true},
    {SHAPE("phi3", "phi3 longrope, short", "phi3", 3), .rope = ORACLE_LONGROPE, .original_ctx = 128,
     .max_ctx = 128, .attn_factor = 1.19f},
    {SHAPE("phi3", "phi3 longrope, long", "phi3", 3), .rope = ORACLE_LONGROPE, .original_ctx = 64,
     .attn_factor = 1.19f},
    {SHAPE("phi3", "phi3 longrope, window", "phi3", 3), .rope = ORACLE_LONGROPE, .original_ctx = 64,
     .attn_factor = 1.19f, .window = 40},
    {GEMMA("gemma2", "gemma2", 4), .window = 24, .attn_cap = 3, .logit_cap = 12},
    {GEMMA("gemma2, no keys", "gemma2", 3)},
    {GEMMA("gemma2 27b", "gemma2", 46), .window = 24, .prompt_count = 40},
    {GEMMA("gemma3", "gemma3", 7), .window = 24, .rope_base = 1e6f, .rope = ORACLE_LINEAR,
     .factor = 8},
    {GEMMA("gemma3, local base, cap", "gemma3", 6), .window = 24, .local_base = 500,
     .logit_cap = 20},
    {GEMMA("gemma3 27b", "gemma3", 62), .window = 24, .prompt_count = 40},
    {MATRIX("llama", "llama", "llama", 2), .rope_base = 500000, .head_size = 32},
    {MATRIX("llama", "llama biases, tied", "llama", 2), .biases = true, .output_bias = true,
     .rope = ORACLE_FREQS, .tied = true, .head_size = 32},
    {MATRIX("llama", "llama window, part of a head", "llama", 2), .window = 24, .head_size = 64,
     .rope_dims = 32, .biases = true},
    {MATRIX("llama", "llama heads of 128", "llama", 1), .head_size = 128},
    {MATRIX("llama", "gate BF16, up F32, no q bias", "llama", 2), .gate_bf16 = true,
     .head_size = 32, .biases = true, .no_q_bias = true},
    {MATRIX("moe", "mixtral", "llama", 2), .n_expert = 8, .n_expert_used = 2, .rope_base = 1e6f,
     .head_size = 32, .seed = 4},
    {MATRIX("qwen", "qwen2 yarn", "qwen2", 2), .biases = true, .rope = ORACLE_YARN, .factor = 4,
     .original_ctx = 64, .head_size = 32},
    {.group = "matrix_qwen",
     .name = "qwen2 biases apart",
     .architecture = "qwen2",
     .n_layer = 2,
     .n_embd = 96,
     .n_head = 3,
     .n_head_kv = 1,
     .n_ff = 64,
     .head_size = 32,
     .prompt_count = MATRIX_PROMPT,
     .biases = true},
    {MATRIX("qwen", "qwen3", "qwen3", 2), .tied = true, .head_size = 32},
    {MATRIX("moe", "qwen3moe", "qwen3moe", 2), .n_expert = 8, .n_expert_used = 3, .head_size = 32,
     .seed = 3},
    {.group = "matrix_phi3",
     .name = "phi3",
     .architecture = "phi3",
     .n_layer = 2,
     .n_embd = 64,
     .n_head = 2,
     .n_head_kv = 1,
     .n_ff = 96,
     .prompt_count = MATRIX_PROMPT},
    {.group = "matrix_phi3",
     .name = "phi3 window, part of a head",
     .architecture = "phi3",
     .n_layer = 2,
     .n_embd = 128,
     .n_head = 4,
     .n_head_kv = 1,
     .n_ff = 96,
     .prompt_count = MATRIX_PROMPT,
     .window = 24,
     .rope_dims = 20,
     .tied = true},
    {MATRIX("gemma", "gemma2", "gemma2", 3), .window = 24, .attn_cap = 3, .logit_cap = 12,
     .tied = true, .head_size = 32},
    {MATRIX("gemma", "gemma3", "gemma3", 6), .window = 24, .rope_base = 1e6f, .rope = ORACLE_LINEAR,
     .factor = 8, .logit_cap = 20, .tied = true, .head_size = 32},
};

enum { MAX_TOKENS = 128, MOST_DECODED = 6, MATRIX_DECODED = 3, SEQUENCES = 4 };

/* Rows of logits by sequence and position, and the tokens drawn. */
struct run {
    float rows[SEQUENCES][MAX_TOKENS][ORACLE_VOCAB];
    uint32_t seen[SEQUENCES][MAX_TOKENS]; /* how often a row was handed out */
    uint32_t drawn[SEQUENCES][MOST_DECODED];
    uint32_t drawn_count[SEQUENCES];
};

static uint32_t device_index;
static struct run alone, together, again;
/* What runs now. */
static enum engine_family family = ENGINE_PLAIN;
static bool no_tiles;
static uint32_t decoded = MOST_DECODED;
static uint32_t prompts[SEQUENCES][MAX_TOKENS], lengths[SEQUENCES];

static void on_logits(void *user, uint64_t id, uint32_t position, const float *logits)
{
    struct run *r = *(struct run **)user;
    if (!CHECK(id < SEQUENCES && position < MAX_TOKENS))
        return;
    memcpy(r->rows[id][position], logits, sizeof r->rows[id][position]);
    r->seen[id][position]++;
}

static void add(struct engine *e, uint32_t id, const uint32_t *prompt, uint32_t count,
                uint32_t max_tokens)
{
    struct err_msg why;
    struct engine_request q = {.id = id,
                               .prompt = prompt,
                               .prompt_count = count,
                               .max_tokens = max_tokens,
                               .temperature = 1,
                               .top_p = 1,
                               .seed = id};
    CHECK_OK(engine_add(e, &q, &why), why);
}

static void drain(struct engine *e, struct run *r)
{
    struct err_msg why;
    while (engine_live(e) > 0) {
        const struct engine_event *events;
        size_t count;
        enum err bad = engine_step(e, &events, &count, NULL, &why);
        if (bad != ERR_OK) {
            CHECK_OK(bad, why);
            return;
        }
        for (size_t i = 0; i < count; i++)
            if (CHECK(r->drawn_count[events[i].id] < decoded))
                r->drawn[events[i].id][r->drawn_count[events[i].id]++] = events[i].token;
    }
}

static struct engine *open_engine(const struct model *m, uint32_t max_ctx, uint32_t chunk_tokens,
                                  struct run **into)
{
    struct engine *e = NULL;
    struct err_msg why;
    struct engine_options o = {.device_index = device_index,
                               .validate = getenv("OCTO_VALIDATE") != NULL,
                               .max_seqs = SEQUENCES,
                               .max_ctx = max_ctx,
                               .kv_tokens = SEQUENCES * ORACLE_CTX,
                               .chunk_tokens = chunk_tokens,
                               .no_prefix_cache = true,
                               .family = family,
                               .no_tiles = no_tiles,
                               .logits_fn = on_logits,
                               .logits_user = into,
                               .logits_all = true};
    CHECK_OK(engine_create(m, &o, &e, &why), why);
    if (e != NULL) {
        const struct engine_info *info = engine_info(e);
        struct engine_memory plan = {0};
        CHECK_OK(engine_plan_memory(m, &info->device, 0, &o, &plan, &why), why);
        CHECK_INT(plan.weight_bytes, info->weight_bytes + info->tiles_bytes);
        CHECK_INT(info->matrix, family != ENGINE_PLAIN);
        CHECK_INT(info->tiles_bytes > 0, family != ENGINE_PLAIN && !no_tiles);
    }
    return e;
}

/* Squared error of a row over the variance of the reference's row. */
static double row_error(const float *got, const double *want)
{
    double mean = 0, error = 0, variance = 0;
    for (uint32_t i = 0; i < ORACLE_VOCAB; i++)
        mean += want[i] / ORACLE_VOCAB;
    for (uint32_t i = 0; i < ORACLE_VOCAB; i++) {
        error += (got[i] - want[i]) * (got[i] - want[i]);
        variance += (want[i] - mean) * (want[i] - mean);
    }
    return error / variance;
}

/* Plain: the engine computes in float, the oracle in double. Float's own error would leave 1e-12 or
 * so; but where a value of K or V lies between two F16 numbers it may be rounded to the other one,
 * 2^-11 of its size away, and errors of that kind add up to 1e-9 to 5e-7 in models of 2 to 7
 * layers. Depth multiplies them: 1e-5 after 46 and 62. What is wrong by a key, a norm or a factor
 * is off by 1e-3 to 1 in either.
 *
 * Matrix: a matmul's weights and its rows are rounded to F16, by 2^-11 of a value at most, so that
 * its outputs are off by 2^-21 of their variance at most, (2^-11)^2 from either. In a layer that
 * happens to q, k, v, the softmax's weights, attention's output, gate, up and down one behind or
 * beside the other: 2^-18. Scores have a standard deviation of 2, which softmax makes a factor, and
 * a gate multiplies two such values: 2^-16 a layer, and as much for the head. (Measured: a quarter
 * of that and less; a router's logits, of a standard deviation of 2, are off by 5e-3 then.) */
static double most_error(const struct oracle_case *c)
{
    if (family != ENGINE_PLAIN)
        return ldexp(c->n_layer + 1, -16);
    return c->n_layer <= 8 ? 5e-6 : 1e-4;
}

static void compare(const struct oracle *o, const struct oracle_case *c)
{
    uint32_t ids[MAX_TOKENS], count = c->prompt_count + decoded - 1, worst_at = 0;
    double *want = malloc(sizeof(double) * MAX_TOKENS * ORACLE_VOCAB), margin = 0, worst = 0;
    memcpy(ids, prompts[0], sizeof ids);
    memcpy(ids + c->prompt_count, alone.drawn[0], (decoded - 1) * sizeof *ids);
    if (want == NULL || oracle_forward(o, ids, count, want, &margin) != ERR_OK) {
        CHECK(!"out of memory");
        free(want);
        return;
    }
    /* A draw of experts as close as this could go either way; another seed is needed then. */
    CHECK(margin > (family == ENGINE_PLAIN ? 1e-5 : 5e-3));
    for (uint32_t t = 0; t < count; t++) {
        double error = row_error(alone.rows[0][t], &want[(size_t)t * ORACLE_VOCAB]);
        CHECK_INT(alone.seen[0][t], 1);
        if (!(error <= worst)) { /* NaN is the worst */
            worst = error;
            worst_at = t;
        }
    }
    printf("%-28s worst error %.2e at position %u of %u (margin of experts %.1e)\n", c->name, worst,
           worst_at, count, margin);
    CHECK(worst <= most_error(c));
    free(want);
}

static void same_rows(const struct oracle_case *c, const struct run *a, const struct run *b,
                      uint32_t id, uint32_t count)
{
    uint32_t different = 0;
    for (uint32_t t = 0; t < count; t++)
        different += b->seen[id][t] != 1 ||
                     memcmp(a->rows[id][t], b->rows[id][t], sizeof a->rows[id][t]) != 0;
    if (!CHECK(different == 0))
        fprintf(stderr, "    %s: %u of %u rows of sequence %u differ\n", c->name, different, count,
                id);
}

/* Every sequence by itself in chunks of 13; all together in chunks of 13, so that prompts and
 * decoded tokens share steps; what was drawn as part of the prompt, all at once. */
static void run_model(const struct oracle *o, const struct model *m)
{
    static const uint32_t shorter[SEQUENCES] = {0, 37, 3, 71}; /* lengths differ */
    const struct oracle_case *c = oracle_case(o);
    struct run *into = &alone;
    struct engine *e = open_engine(m, c->max_ctx, 13, &into);
    if (e == NULL)
        return;
    for (uint32_t s = 0; s < SEQUENCES; s++) {
        lengths[s] = c->prompt_count > shorter[s] ? c->prompt_count - shorter[s] : 5;
        add(e, s, prompts[s], lengths[s], decoded);
        drain(e, &alone);
    }
    compare(o, c);
    into = &together;
    for (uint32_t s = 0; s < SEQUENCES; s++)
        add(e, s, prompts[s], lengths[s], decoded);
    drain(e, &together);
    CHECK_INT(engine_validation_errors(e), 0);
    engine_destroy(&e);

    into = &again;
    e = open_engine(m, c->max_ctx, 400, &into);
    if (e == NULL)
        return;
    for (uint32_t s = 0; s < SEQUENCES; s++) {
        uint32_t count = lengths[s] + decoded - 1;
        same_rows(c, &alone, &together, s, count);
        CHECK(memcmp(alone.drawn[s], together.drawn[s], sizeof alone.drawn[s]) == 0);
        memcpy(prompts[s] + lengths[s], alone.drawn[s], (decoded - 1) * sizeof *prompts[s]);
        add(e, s, prompts[s], count, 1);
    }
    drain(e, &again);
    for (uint32_t s = 0; s < SEQUENCES; s++)
        same_rows(c, &alone, &again, s, lengths[s] + decoded - 1);
    engine_destroy(&e);
}

/* Weights as the file has them: the same bits. */
static void run_without_tiles(const struct oracle *o, const struct model *m)
{
    const struct oracle_case *c = oracle_case(o);
    struct run *into = &together;
    no_tiles = true;
    struct engine *e = open_engine(m, c->max_ctx, 13, &into);
    if (e == NULL)
        return;
    memset(&together, 0, sizeof together);
    for (uint32_t s = 0; s < SEQUENCES; s++)
        add(e, s, prompts[s], lengths[s], decoded);
    drain(e, &together);
    for (uint32_t s = 0; s < SEQUENCES; s++)
        same_rows(c, &alone, &together, s, lengths[s] + decoded - 1);
    CHECK_INT(engine_validation_errors(e), 0);
    engine_destroy(&e);
}

/* LongRoPE computes by max_ctx, so results of engines on two sides of the original context must not
 * pass for equal. */
static void longrope_class(const struct oracle *o, const struct model *m)
{
    struct run *into = &again;
    uint32_t original = oracle_case(o)->original_ctx;
    struct engine *shorter = open_engine(m, original, 13, &into);
    struct engine *longer = open_engine(m, original + 1, 13, &into);
    struct engine *longest = open_engine(m, original + 2, 13, &into);
    if (shorter != NULL && longer != NULL && longest != NULL) {
        CHECK(strcmp(engine_info(shorter)->numeric_class, engine_info(longer)->numeric_class) != 0);
        CHECK_STR(engine_info(longest)->numeric_class, engine_info(longer)->numeric_class);
    }
    engine_destroy(&shorter);
    engine_destroy(&longer);
    engine_destroy(&longest);
}

static void run_case(const struct oracle_case *c, const char *path, struct check_rng *rng)
{
    struct err_msg why;
    struct oracle *o = NULL;
    struct model *m = NULL;
    memset(&alone, 0, sizeof alone);
    memset(&together, 0, sizeof together);
    memset(&again, 0, sizeof again);
    no_tiles = false;
    struct check_rng own = {c->seed};
    if (c->seed != 0)
        rng = &own;
    for (uint32_t s = 0; s < SEQUENCES; s++)
        for (uint32_t t = 0; t < MAX_TOKENS; t++)
            prompts[s][t] = (uint32_t)check_rng_below(rng, ORACLE_VOCAB);
    CHECK_INT(oracle_create(c, check_rng_next(rng), &o), ERR_OK);
    CHECK_OK(oracle_write(o, path, NULL, &why), why);
    CHECK_OK(model_open(path, &m, &why), why);
    if (m != NULL)
        run_model(o, m);
    if (m != NULL && family != ENGINE_PLAIN)
        run_without_tiles(o, m);
    if (m != NULL && c->rope == ORACLE_LONGROPE)
        longrope_class(o, m);
    model_close(&m);
    oracle_destroy(&o);
    unlink(path);
}

int main(int argc, char **argv)
{
    struct err_msg why;
    struct gpu_device_info list[GPU_MAX_DEVICES];
    size_t count = 0, index = 0;
    char path[1024];
    if (argc < 3 || gpu_list(list, &count, &why) != ERR_OK ||
        gpu_choose(list, count, NULL, &index, &why) != ERR_OK)
        return 77; /* no Vulkan device at all */
    device_index = list[index].index;
    if (strncmp(argv[2], "matrix", 6) == 0) {
        family = list[index].matrix_f16 ? ENGINE_AUTO : ENGINE_EMULATED;
        decoded = MATRIX_DECODED;
    }
    snprintf(path, sizeof path, "%s/oracle-%s-%d.gguf", argv[1], argv[2], (int)getpid());
    struct check_rng rng = check_rng_start(20);
    for (size_t i = 0; i < ARRAY_LEN(cases); i++)
        if (strcmp(cases[i].group, argv[2]) == 0)
            run_case(&cases[i], path, &rng);
    return check_report();
}
