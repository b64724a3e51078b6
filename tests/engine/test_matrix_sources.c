/* Whether tiles fit depends on what else is on the device when a worker starts: logits have the
 * same bits with tiles and with the file's blocks, in every shape of layer. Argument: a directory.
 */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/size.h"
#include "engine/engine.h"
#include "tests/check.h"
#include "tests/engine/oracle.h"

enum { COUNT = 37, DRAWN = 3, ROOM = COUNT + DRAWN };

/* Gate and up apart and of two types; one tensor; a rotation after the matmul; biases; gelu. */
static const struct oracle_case cases[] = {
    {.name = "two types", .architecture = "llama", .n_head_kv = 2, .gate_bf16 = true},
    {.name = "two types, gelu", .architecture = "gemma2", .n_head_kv = 1, .gate_bf16 = true},
    {.name = "biases", .architecture = "qwen2", .n_head_kv = 2, .biases = true, .tied = true},
    {.name = "head norms", .architecture = "qwen3", .n_head_kv = 4},
    {.name = "one tensor", .architecture = "phi3", .n_head_kv = 4},
};

struct logits {
    float rows[ROOM][ORACLE_VOCAB];
    unsigned count;
};

static void on_logits(void *user, uint64_t id, uint32_t position, const float *row)
{
    struct logits *l = user;
    (void)id;
    if (!CHECK(position < ROOM))
        return;
    memcpy(l->rows[position], row, sizeof l->rows[position]);
    l->count++;
}

static void run(const struct model *m, uint32_t device, enum engine_family family, bool no_tiles,
                struct logits *ret)
{
    uint32_t ids[COUNT];
    struct engine *e = NULL;
    struct err_msg why = {""};
    struct engine_options o = {.device_index = device,
                               .family = family,
                               .no_tiles = no_tiles,
                               .max_seqs = 1,
                               .max_ctx = 64,
                               .chunk_tokens = 21,
                               .logits_fn = on_logits,
                               .logits_user = ret,
                               .logits_all = true};
    for (uint32_t i = 0; i < COUNT; i++)
        ids[i] = i * i * 7 % ORACLE_VOCAB;
    struct engine_request r = {
        .prompt = ids, .prompt_count = COUNT, .max_tokens = DRAWN, .top_p = 1};
    CHECK_OK(engine_create(m, &o, &e, &why), why);
    if (e == NULL)
        exit(1);
    CHECK_INT(engine_info(e)->tiles_bytes == 0, no_tiles);
    CHECK_OK(engine_add(e, &r, &why), why);
    while (engine_live(e) > 0) {
        const struct engine_event *events;
        size_t count;
        enum err bad = engine_step(e, &events, &count, NULL, &why);
        CHECK_OK(bad, why);
        if (bad != ERR_OK)
            exit(1);
    }
    engine_destroy(&e);
}

static void test(const struct oracle_case *given, uint64_t seed, const char *dir, uint32_t device,
                 enum engine_family family)
{
    static struct logits tiles, blocks;
    char path[1024];
    struct err_msg why = {""};
    struct oracle *o = NULL;
    struct model *m = NULL;
    struct oracle_case c = *given;
    c.n_layer = 2;
    c.n_embd = 64;
    c.n_head = 4;
    c.head_size = 32;
    c.n_ff = 1056; /* 33 groups of 32: more slices than 8 warps take */
    snprintf(path, sizeof path, "%s/matrix-sources-%d.gguf", dir, (int)getpid());
    CHECK_INT(oracle_create(&c, seed, &o), ERR_OK);
    CHECK_OK(oracle_write(o, path, NULL, &why), why);
    CHECK_OK(model_open(path, &m, &why), why);
    unlink(path);
    if (m == NULL)
        exit(1);
    tiles.count = blocks.count = 0;
    run(m, device, family, false, &tiles);
    run(m, device, family, true, &blocks);
    CHECK_INT(tiles.count, ROOM - 1);
    CHECK_INT(blocks.count, ROOM - 1);
    if (!CHECK(memcmp(tiles.rows, blocks.rows, sizeof *tiles.rows * (ROOM - 1)) == 0))
        fprintf(stderr, "    %s, seed %llu\n", c.name, (unsigned long long)seed);
    model_close(&m);
    oracle_destroy(&o);
}

int main(int argc, char **argv)
{
    struct err_msg why = {""};
    struct gpu_device_info list[GPU_MAX_DEVICES];
    size_t count = 0, index = 0;
    if (argc != 2 || gpu_list(list, &count, &why) != ERR_OK ||
        gpu_choose(list, count, NULL, &index, &why) != ERR_OK)
        return 77; /* no Vulkan device at all */
    enum engine_family family = list[index].matrix_f16 ? ENGINE_AUTO : ENGINE_EMULATED;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++)
        test(&cases[i], 0x51 + i, argv[1], list[index].index, family);
    return check_report();
}
