/* A whole model on the matrix family (emulated where the device has no such units): the bits of
 * logits are the same alone, together, in chunks, preempted, behind a shared prefix, with any
 * number of sequences beside, from tiles and from the file's blocks. Arguments: the directory for a
 * model file, models in quantized types. */
#include <stdio.h>
#include <unistd.h>

#include "base/size.h"
#include "engine/engine.h"
#include "tests/check.h"
#include "tests/engine/oracle.h"

/* n_ff: 33 groups of 32, so that its sum has more slices than 8 warps take. */
static const struct oracle_case shape = {.name = "llama",
                                         .architecture = "llama",
                                         .n_layer = 2,
                                         .n_embd = 64,
                                         .n_head = 4,
                                         .n_head_kv = 2,
                                         .head_size = 32,
                                         .n_ff = 1056};

enum { PROMPTS = 7, ROOM = 80, DRAWN = 4, MOST = 17, IDS = 40, CHUNK = 7 };
/* The last one begins with the first 64 of the first one. Rows of a first step: 70 in all variants
 * for many rows; 1 .. 4 that norm in the matmul; 8 and 16 fill tiles. */
static const uint32_t lengths[PROMPTS] = {70, 33, 3, 1, 8, 16, 68};
enum { LONG = 0, TWIN = 6, SHARED = 64 };

static uint32_t prompts[PROMPTS][ROOM];
static const struct model *model;
static const struct tuning *tuning; /* of engines from here on; NULL: the defaults */
static uint32_t device_index;
static enum engine_family family;

/* By prompt; a sequence's is its id % PROMPTS. The first time a row or a token comes it is kept,
 * then all others are compared with it. */
static float rows[PROMPTS][ROOM][ORACLE_VOCAB];
static bool known[PROMPTS][ROOM];
static uint32_t drawn[PROMPTS][DRAWN], drawn_known[PROMPTS];
static unsigned compared, different;

static void on_logits(void *user, uint64_t id, uint32_t position, const float *logits)
{
    (void)user;
    uint32_t p = (uint32_t)id % PROMPTS;
    if (!CHECK(position < ROOM))
        return;
    if (!known[p][position])
        memcpy(rows[p][position], logits, sizeof rows[p][position]);
    else
        different += memcmp(rows[p][position], logits, sizeof rows[p][position]) != 0;
    compared += known[p][position];
    known[p][position] = true;
}

static struct engine *open_engine(struct engine_options o)
{
    struct engine *e = NULL;
    struct err_msg why;
    o.device_index = device_index;
    o.validate = getenv("OCTO_VALIDATE") != NULL;
    o.family = family;
    o.max_ctx = 96;
    o.tuning = tuning;
    CHECK_OK(engine_create(model, &o, &e, &why), why);
    if (e == NULL)
        exit(check_report());
    CHECK(engine_info(e)->matrix);
    CHECK_INT(engine_info(e)->tiles_bytes > 0, !o.no_tiles);
    uint32_t usual = engine_info(e)->device.software ? 0 : 32;
    CHECK_INT(engine_info(e)->in_band_rows, o.no_tiles       ? 0
                                            : tuning == NULL ? usual
                                                             : tuning->in_band_rows);
    return e;
}

static void close_engine(struct engine **e)
{
    CHECK_INT(engine_validation_errors(*e), 0);
    engine_destroy(e);
}

static void add(struct engine *e, uint64_t id)
{
    struct err_msg why;
    uint32_t p = (uint32_t)id % PROMPTS;
    struct engine_request r = {.id = id,
                               .prompt = prompts[p],
                               .prompt_count = lengths[p],
                               .max_tokens = DRAWN,
                               .temperature = p % 2 == 0 ? 0 : 1,
                               .top_p = 1,
                               .seed = p};
    CHECK_OK(engine_add(e, &r, &why), why);
}

/* preempt: one of the sequences after each of the first steps. Returns the prompt tokens that came
 * from shared pages. */
static uint32_t drain(struct engine *e, bool preempt)
{
    uint32_t counts[IDS] = {0}, cached = 0;
    for (unsigned step = 0; engine_live(e) > 0; step++) {
        const struct engine_event *events;
        size_t count;
        struct err_msg why;
        enum err bad = engine_step(e, &events, &count, NULL, &why);
        CHECK_OK(bad, why);
        if (bad != ERR_OK)
            exit(check_report());
        for (size_t i = 0; i < count; i++) {
            uint32_t p = (uint32_t)events[i].id % PROMPTS, at = counts[events[i].id]++;
            if (!CHECK(at < DRAWN))
                return cached;
            cached += at == 0 ? events[i].cached_count : 0;
            if (at == drawn_known[p])
                drawn[p][drawn_known[p]++] = events[i].token;
            else
                compared++;
            different += drawn[p][at] != events[i].token;
        }
        if (preempt && step < 3)
            engine_preempt(e, step);
    }
    return cached;
}

static void check_run(const char *what)
{
    if (!CHECK(different == 0))
        fprintf(stderr, "    %s: %u rows or tokens differ\n", what, different);
    printf("%-24s %u rows and tokens compared\n", what, compared);
    different = compared = 0;
}

static void test_alone(void)
{
    struct engine *e = open_engine((struct engine_options){
        .max_seqs = 3, .no_prefix_cache = true, .logits_fn = on_logits, .logits_all = true});
    for (uint32_t p = 0; p < PROMPTS; p++) {
        add(e, p);
        drain(e, false);
        for (uint32_t t = 0; t < lengths[p] + DRAWN - 1; t++)
            CHECK(known[p][t]);
        CHECK_INT(drawn_known[p], DRAWN);
    }
    CHECK_INT(compared, 0);
    for (uint32_t t = 0; t < SHARED; t++)
        different += memcmp(rows[LONG][t], rows[TWIN][t], sizeof rows[LONG][t]) != 0;
    check_run("alone");
    for (uint32_t p = 0; p < 3; p++)
        add(e, p);
    drain(e, false);
    CHECK(compared > 0);
    check_run("three together");
    close_engine(&e);
}

static void test_chunks(void)
{
    struct engine *e = open_engine((struct engine_options){.max_seqs = 3,
                                                           .chunk_tokens = CHUNK,
                                                           .no_prefix_cache = true,
                                                           .logits_fn = on_logits,
                                                           .logits_all = true});
    add(e, LONG);
    drain(e, false);
    CHECK_INT(compared, lengths[LONG] + DRAWN - 1 + DRAWN);
    check_run("chunks of 7");
    for (uint32_t p = 0; p < 3; p++)
        add(e, p);
    drain(e, true);
    CHECK(engine_preemptions(e) > 0);
    check_run("chunks of 7, preempted");
    close_engine(&e);
}

static void test_shared_prefix(void)
{
    struct engine *e = open_engine(
        (struct engine_options){.max_seqs = 2, .logits_fn = on_logits, .logits_all = true});
    add(e, LONG);
    drain(e, false);
    add(e, TWIN);
    CHECK_INT(drain(e, false), SHARED);
    check_run("shared prefix");
    close_engine(&e);
}

/* One step ahead of the host: without logits. Destroys e. */
static void test_numbers(struct engine *e)
{
    static const uint32_t numbers[] = {1, 3, 5, 9, MOST};
    for (size_t i = 0; i < ARRAY_LEN(numbers) && numbers[i] <= engine_info(e)->max_seqs; i++) {
        for (uint32_t k = 0, id = 0; k < numbers[i]; id++) {
            if (lengths[id % PROMPTS] > 16) /* the longest ones take their time */
                continue;
            add(e, id);
            k++;
        }
        drain(e, false);
        CHECK_INT(compared, numbers[i] * DRAWN);
        check_run("that many sequences");
    }
    close_engine(&e);
}

/* All tunables at their other ends, and results in band, which software devices are asked for:
 * other ways to the same tokens. */
static void test_tuned(void)
{
    struct tuning defaults = tuning_defaults();
    tuning = &defaults;
    test_numbers(open_engine((struct engine_options){.max_seqs = 9, .no_prefix_cache = true}));
    static const struct tuning ends = {.byte_tiles_mib = 65536, .sample_parts = 1};
    tuning = &ends;
    test_numbers(open_engine((struct engine_options){
        .max_seqs = 9, .chunk_tokens = CHUNK, .no_prefix_cache = true})); /* 16 rows a step */
    tuning = NULL;
}

/* A file's blocks beside their tiles: of several types, or of those that streams read as bytes. */
static void test_blocks(const char *path)
{
    struct tuning bytes = tuning_defaults();
    bytes.byte_tiles_mib = 0; /* whatever the size */
    tuning = &bytes;
    static const uint32_t ids[] = {1, 282, 201, 43, 595};
    struct model *m = NULL;
    struct err_msg why;
    uint32_t tokens[2][DRAWN] = {{0}};
    CHECK_OK(model_open(path, &m, &why), why);
    if (m == NULL)
        return;
    model = m;
    for (int blocks = 0; blocks < 2; blocks++) {
        struct engine *e = open_engine((struct engine_options){.max_seqs = 1, .no_tiles = blocks});
        struct engine_request r = {
            .prompt = ids, .prompt_count = ARRAY_LEN(ids), .max_tokens = 3, .top_p = 1};
        uint32_t n = 0;
        CHECK_OK(engine_add(e, &r, &why), why);
        while (engine_live(e) > 0) {
            const struct engine_event *events;
            size_t count;
            enum err bad = engine_step(e, &events, &count, NULL, &why);
            CHECK_OK(bad, why);
            if (bad != ERR_OK)
                exit(check_report());
            for (size_t i = 0; i < count && CHECK(n < DRAWN); i++)
                tokens[blocks][n++] = events[i].token;
        }
        CHECK_INT(n, 3);
        close_engine(&e);
    }
    CHECK(memcmp(tokens[0], tokens[1], sizeof tokens[0]) == 0);
    tuning = NULL;
    model_close(&m);
}

static void make_prompts(struct check_rng *rng)
{
    for (uint32_t p = 0; p < PROMPTS; p++)
        for (uint32_t t = 0; t < lengths[p]; t++)
            prompts[p][t] = p == TWIN && t < SHARED ? prompts[LONG][t]
                                                    : (uint32_t)check_rng_below(rng, ORACLE_VOCAB);
    prompts[TWIN][SHARED] = (prompts[LONG][SHARED] + 1) % ORACLE_VOCAB;
}

int main(int argc, char **argv)
{
    struct err_msg why;
    struct gpu_device_info list[GPU_MAX_DEVICES];
    size_t count = 0, index = 0;
    char path[1024];
    struct oracle *o = NULL;
    struct model *m = NULL;
    if (argc < 3 || gpu_list(list, &count, &why) != ERR_OK ||
        gpu_choose(list, count, NULL, &index, &why) != ERR_OK)
        return 77; /* no Vulkan device at all */
    device_index = list[index].index;
    family = list[index].matrix_f16 ? ENGINE_AUTO : ENGINE_EMULATED;
    snprintf(path, sizeof path, "%s/matrix-engine-%d.gguf", argv[1], (int)getpid());
    struct check_rng rng = check_rng_start(0x3a7e);
    CHECK_INT(oracle_create(&shape, check_rng_next(&rng), &o), ERR_OK);
    make_prompts(&rng);
    CHECK_OK(oracle_write(o, path, NULL, &why), why);
    CHECK_OK(model_open(path, &m, &why), why);
    unlink(path);
    if (m != NULL) {
        model = m;
        test_alone();
        test_chunks();
        test_shared_prefix();
        test_numbers(
            open_engine((struct engine_options){.max_seqs = MOST, .no_prefix_cache = true}));
        test_tuned();
    }
    model_close(&m);
    oracle_destroy(&o);
    for (int i = 2; i < argc; i++)
        test_blocks(argv[i]);
    return check_report();
}
