/* engine_plan_memory(): what fits and what does not, on devices of any size; and that an engine
 * made on the device at hand takes exactly what was planned. */
#include "base/size.h"
#include "engine/engine_impl.h"
#include "engine/memory.h"
#include "tests/check.h"

static const uint64_t MiB = UINT64_C(1) << 20, GiB = UINT64_C(1) << 30;

static struct engine_memory plan(const struct model *m, uint64_t memory_bytes, uint64_t free_bytes,
                                 const struct engine_options *o)
{
    struct gpu_device_info device = {.name = "card", .usable = true, .memory_bytes = memory_bytes};
    struct engine_memory p = {0};
    struct err_msg why = {""};
    CHECK_OK(engine_plan_memory(m, &device, free_bytes, o, &p, &why), why);
    CHECK(p.total_bytes == p.weight_bytes + p.activation_bytes + p.kv_bytes);
    CHECK(p.kv_bytes == p.kv_tokens * p.kv_token_bytes);
    CHECK(p.free_bytes == free_bytes);
    return p;
}

/* As many sequences as the memory holds, from none to all. */
static void test_room(const struct model *m)
{
    const struct engine_options o = {.max_seqs = 64};
    struct engine_memory all = plan(m, 80 * GiB, 80 * GiB, &o);
    uint64_t fixed = all.weight_bytes + all.activation_bytes;
    uint64_t one = (uint64_t)m->n_ctx_train * all.kv_token_bytes;
    CHECK(all.fits);
    CHECK_INT(all.sequences, 64);
    CHECK_INT(all.max_ctx, m->n_ctx_train);
    CHECK_INT(all.kv_tokens, 64 * (uint64_t)m->n_ctx_train); /* more would be of no use */
    CHECK_INT(all.kv_token_bytes,
              (uint64_t)m->n_layer * 2 * m->n_head_kv * m->head_size * sizeof(uint16_t));
    CHECK(all.weight_bytes > m->weight_count / 4 && all.weight_bytes < 4 * m->weight_count + MiB);
    /* A tenth is left to others: 55 / 9 of a sequence holds 5. */
    struct engine_memory some = plan(m, 80 * GiB, fixed + one * 55 / 9, &o);
    CHECK(some.fits);
    CHECK_INT(some.sequences, 5);
    struct engine_memory exact = plan(m, 80 * GiB, fixed + one, &o);
    CHECK(exact.fits); /* one always gets what is there */
    CHECK_INT(exact.sequences, 1);
    CHECK(!plan(m, 80 * GiB, fixed + one - 1, &o).fits);
    CHECK(!plan(m, 80 * GiB, fixed / 2, &o).fits);
    CHECK(!plan(m, 80 * GiB, 1, &o).fits);
    /* A driver that does not tell: half of the device's memory for the cache. */
    struct engine_memory half = plan(m, 2 * 7 * one, 0, &o);
    CHECK_INT(half.sequences, 7);
    CHECK_INT(half.fits, fixed <= 7 * one);
}

/* Beside the weights, with the smallest cache. */
static uint64_t least_bytes(const struct engine_memory *p)
{
    return p->activation_bytes + (uint64_t)p->max_ctx * p->kv_token_bytes;
}

/* f16 tiles beside the weights, where they take no more than two fifths of what those leave, and
 * with the smallest cache no more than nine tenths. */
static void test_tiles(const struct model *m)
{
    struct gpu_device_info device = {
        .name = "card", .usable = true, .memory_bytes = 80 * GiB, .matrix_f16 = true};
    struct tuning tuning = tuning_defaults();
    tuning.byte_tiles_mib = 64; /* none */
    struct engine_options o = {.max_seqs = 64, .tuning = &tuning};
    struct engine_memory p = {0};
    struct err_msg why = {""};
    uint64_t plain = plan(m, 80 * GiB, 80 * GiB, &o).weight_bytes;
    CHECK_OK(engine_plan_memory(m, &device, 80 * GiB, &o, &p, &why), why);
    uint64_t tiles = p.weight_bytes - plain;
    uint64_t matrices = 2 * m->weight_count; /* but the embeddings, if they are not the output */
    CHECK(p.fits && p.weight_bytes > plain && tiles > matrices / 2 && tiles < matrices + 4 * MiB);
    uint64_t all_but_weights = div_up((tiles + least_bytes(&p)) * 10, 9);
    uint64_t enough = plain + max_u64(div_up(tiles, 2) * 5, all_but_weights);
    CHECK_OK(engine_plan_memory(m, &device, enough, &o, &p, &why), why);
    CHECK_INT(p.weight_bytes, plain + tiles);
    const uint64_t less[] = {enough - 1, plain + 1, plain, plain - 1, 1};
    for (size_t i = 0; i < ARRAY_LEN(less); i++) {
        CHECK_OK(engine_plan_memory(m, &device, less[i], &o, &p, &why), why);
        if (!CHECK(p.weight_bytes == plain))
            fprintf(stderr, "    case %zu\n", i);
    }
    /* A driver that does not tell: a quarter of the device's memory. */
    device.memory_bytes = tiles * 4;
    CHECK_OK(engine_plan_memory(m, &device, 0, &o, &p, &why), why);
    CHECK_INT(p.weight_bytes, plain + tiles);
    device.memory_bytes--;
    CHECK_OK(engine_plan_memory(m, &device, 0, &o, &p, &why), why);
    CHECK_INT(p.weight_bytes, plain);
    device.memory_bytes = 80 * GiB;
    /* A buffer of them that the device does not allow: the output's, or a layer's. */
    uint64_t largest, all = weights_tiles_bytes(m, &tuning, MATRIX_TILES, &largest);
    CHECK(all == tiles && largest < all && largest * (m->n_layer + 1) >= all);
    device.max_buffer_bytes = largest + 64 * 1024;
    CHECK_OK(engine_plan_memory(m, &device, 80 * GiB, &o, &p, &why), why);
    CHECK_INT(p.weight_bytes, plain + tiles);
    device.max_buffer_bytes--;
    CHECK_OK(engine_plan_memory(m, &device, 80 * GiB, &o, &p, &why), why);
    CHECK_INT(p.weight_bytes, plain);
    device.max_buffer_bytes = 0;
    o.no_tiles = true;
    CHECK_OK(engine_plan_memory(m, &device, 80 * GiB, &o, &p, &why), why);
    CHECK_INT(p.weight_bytes, plain);
    o = (struct engine_options){.max_seqs = 64, .family = ENGINE_PLAIN};
    CHECK_OK(engine_plan_memory(m, &device, 80 * GiB, &o, &p, &why), why);
    CHECK_INT(p.weight_bytes, plain);
}

/* Byte tiles beside both, where all copies take no more than half. */
static void test_byte_tiles(const struct model *m)
{
    struct gpu_device_info device = {
        .name = "card", .usable = true, .memory_bytes = 80 * GiB, .matrix_f16 = true};
    struct tuning tuning = tuning_defaults();
    struct engine_options o = {.max_seqs = 64, .tuning = &tuning};
    struct engine_memory p = {0};
    struct err_msg why = {""};
    uint64_t largest, tiles = weights_tiles_bytes(m, &tuning, MATRIX_TILES, &largest);
    uint64_t plain = plan(m, 80 * GiB, 80 * GiB, &o).weight_bytes;
    CHECK_INT(weights_tiles_bytes(m, &tuning, MATRIX_BYTES, &largest), 0); /* a tiny model */
    tuning.byte_tiles_mib = 0;
    uint64_t bytes = weights_tiles_bytes(m, &tuning, MATRIX_BYTES, &largest);
    CHECK(bytes > tiles / 3 && bytes < tiles * 5 / 9);
    CHECK_OK(engine_plan_memory(m, &device, 80 * GiB, &o, &p, &why), why);
    CHECK_INT(p.weight_bytes, plain + tiles + bytes);
    uint64_t all_but_weights = div_up((tiles + bytes + least_bytes(&p)) * 10, 9);
    uint64_t enough = plain + max_u64(2 * (tiles + bytes), all_but_weights);
    CHECK_OK(engine_plan_memory(m, &device, enough, &o, &p, &why), why);
    CHECK_INT(p.weight_bytes, plain + tiles + bytes);
    CHECK_OK(engine_plan_memory(m, &device, enough - 1, &o, &p, &why), why);
    CHECK_INT(p.weight_bytes, plain + tiles);
}

/* Whatever is free: what fits without tiles fits with those that are chosen. */
static void test_tiles_fit(const struct model *m, uint64_t kv_tokens)
{
    struct gpu_device_info device = {
        .name = "card", .usable = true, .memory_bytes = 80 * GiB, .matrix_f16 = true};
    struct model longer = *m;
    struct tuning tuning = tuning_defaults();
    struct engine_options with = {.max_seqs = 8, .kv_tokens = kv_tokens, .tuning = &tuning},
                          without = with;
    struct engine_memory p = {0}, bare = {0};
    struct err_msg why = {""};
    longer.n_ctx_train = 1 << 16;
    tuning.byte_tiles_mib = 0;
    without.no_tiles = true;
    CHECK_OK(engine_plan_memory(&longer, &device, GiB, &without, &bare, &why), why);
    uint64_t least = bare.weight_bytes + bare.activation_bytes + bare.kv_token_bytes * bare.max_ctx;
    uint32_t fit = 0, tiled = 0;
    for (uint64_t bytes = least / 2; bytes < 8 * least; bytes += least / 16) {
        CHECK_OK(engine_plan_memory(&longer, &device, bytes, &without, &bare, &why), why);
        CHECK_OK(engine_plan_memory(&longer, &device, bytes, &with, &p, &why), why);
        if (!CHECK(p.fits == bare.fits))
            fprintf(stderr, "    %llu bytes\n", (unsigned long long)bytes);
        fit += bare.fits;
        tiled += p.weight_bytes > bare.weight_bytes;
    }
    CHECK(tiled > 0 && tiled < fit && fit < 120);
}

static void test_long_context(const struct model *m)
{
    struct model vast = *m;
    vast.n_ctx_train = 1 << 24;
    struct engine_options o = {.max_seqs = 8};
    struct engine_memory p = plan(&vast, 24 * GiB, 24 * GiB, &o);
    CHECK(!p.fits);
    CHECK_INT(p.sequences, 1);
    CHECK(p.kv_bytes >= p.kv_token_bytes << 24);
    o.max_ctx = 8192;
    p = plan(&vast, 24 * GiB, 24 * GiB, &o);
    CHECK(p.fits);
    CHECK_INT(p.sequences, 8);
    CHECK_INT(p.max_ctx, 8192);
    o.max_ctx = 1 << 23; /* beyond the model's */
    CHECK_INT(plan(m, 24 * GiB, 24 * GiB, &o).max_ctx, m->n_ctx_train);
}

static void test_kv_tokens(const struct model *m)
{
    struct gpu_device_info device = {.usable = true, .memory_bytes = 24 * GiB};
    struct engine_options o = {.max_seqs = 4096, .kv_tokens = (uint64_t)m->n_ctx_train * 3};
    struct engine_memory p = plan(m, 24 * GiB, 24 * GiB, &o), before = p;
    struct err_msg why = {""};
    CHECK(p.fits);
    CHECK_INT(p.sequences, 3);
    o.kv_tokens = UINT64_C(1000000000000);
    CHECK(!plan(m, 24 * GiB, 24 * GiB, &o).fits);
    o.kv_tokens = m->n_ctx_train - 1;
    CHECK_ERR(engine_plan_memory(m, &device, 24 * GiB, &o, &p, &why), ERR_RANGE);
    CHECK_HAS(why.text, "at least one longest sequence");
    CHECK(memcmp(&p, &before, sizeof p) == 0); /* untouched */
}

/* A layer's pages are one buffer: where a device limits those, the cache stops there (4 GiB less 2
 * MiB: NVIDIA's and AMD's drivers), but for one longest sequence. */
static void test_buffer_limit(const struct model *m)
{
    struct gpu_device_info device = {.usable = true, .memory_bytes = 80 * GiB};
    struct engine_options o = {.max_seqs = 4096};
    struct engine_memory p = {0};
    struct err_msg why = {""};
    uint64_t layer_token = plan(m, 80 * GiB, 80 * GiB, &o).kv_token_bytes / m->n_layer;
    device.max_buffer_bytes = 7 * m->n_ctx_train * layer_token;
    CHECK_OK(engine_plan_memory(m, &device, 80 * GiB, &o, &p, &why), why);
    CHECK_INT(p.sequences, 6);
    CHECK(p.kv_bytes / m->n_layer < device.max_buffer_bytes);
    device.max_buffer_bytes = m->n_ctx_train * layer_token / 2;
    CHECK_OK(engine_plan_memory(m, &device, 80 * GiB, &o, &p, &why), why);
    CHECK_INT(p.sequences, 1);
}

/* A file may say any size; the kernels have a largest one. */
static void test_head_size(const struct model *m)
{
    struct gpu_device_info device = {.usable = true, .memory_bytes = 80 * GiB};
    struct engine_options o = {.max_seqs = 1};
    struct model wide = *m;
    struct engine_memory p;
    struct err_msg why = {""};
    wide.head_size = 512;
    CHECK_ERR(engine_plan_memory(&wide, &device, 0, &o, &p, &why), ERR_UNSUPPORTED);
    CHECK_HAS(why.text, "heads of 512 values, at most 256");
}

/* No more rows a step than a kernel's grid can have, 65,535 in a dimension. */
static void test_rows_limit(const struct model *m)
{
    struct engine e = {.model = m, .options = {.max_seqs = 100000, .chunk_tokens = 65536}};
    struct model experts = *m;
    memory_size_step(&e);
    CHECK_INT(e.max_rows, 65535);
    CHECK_INT(e.info.max_seqs, 4096);
    experts.n_expert_used = 16;
    e = (struct engine){.model = &experts, .options = e.options};
    memory_size_step(&e);
    CHECK_INT(e.max_rows, 65535 / 16);
    CHECK(e.info.max_seqs >= 1024 && e.info.chunk_tokens >= 1024);
}

/* The device at hand: the software one, or the first. */
static void test_engine_agrees(const struct model *m, enum engine_family family, bool no_tiles)
{
    static struct gpu_device_info list[GPU_MAX_DEVICES];
    struct err_msg why = {""};
    size_t count = 0, index = 0;
    struct engine *e = NULL;
    CHECK_OK(gpu_list(list, &count, &why), why);
    for (size_t i = 0; i < count; i++)
        if (list[i].usable && list[i].software)
            index = i;
    if (count == 0 || !list[index].usable) {
        fprintf(stderr, "no device\n");
        exit(check_failures > 0 ? 1 : 77);
    }
    struct engine_options o = {.device_index = (uint32_t)index,
                               .max_seqs = 5,
                               .max_ctx = 300,
                               .kv_tokens = 1100,
                               .family = family,
                               .no_tiles = no_tiles};
    struct engine_memory p = {0};
    CHECK_OK(engine_plan_memory(m, &list[index], 0, &o, &p, &why), why);
    CHECK_OK(engine_create(m, &o, &e, &why), why);
    if (e == NULL)
        return;
    const struct engine_info *info = engine_info(e);
    CHECK_INT(p.weight_bytes, info->weight_bytes + info->tiles_bytes);
    CHECK_INT(info->matrix, family == ENGINE_EMULATED);
    CHECK_INT(info->tiles_bytes > 0, family == ENGINE_EMULATED && !no_tiles);
    CHECK_INT(p.kv_bytes, info->kv_bytes);
    CHECK_INT(p.kv_tokens, info->kv_tokens);
    CHECK_INT(p.max_ctx, info->max_ctx);
    CHECK_INT(p.max_seqs, info->max_seqs);
    CHECK_INT(p.sequences, 3); /* 1100 tokens, 320 to a sequence */
    engine_destroy(&e);
}

int main(int argc, char **argv)
{
    struct err_msg why = {""};
    if (argc < 2)
        return 2;
    for (int i = 1; i < argc; i++) {
        struct model *m = NULL;
        CHECK_OK(model_open(argv[i], &m, &why), why);
        if (m == NULL)
            break;
        test_room(m);
        test_tiles(m);
        test_tiles_fit(m, 0);
        test_tiles_fit(m, 1 << 18);
        test_long_context(m);
        test_kv_tokens(m);
        test_buffer_limit(m);
        test_rows_limit(m);
        test_head_size(m);
        test_engine_agrees(m, ENGINE_PLAIN, false);
        test_engine_agrees(m, ENGINE_EMULATED, false);
        if (i == 1)
            test_engine_agrees(m, ENGINE_EMULATED, true);
        if (i + 1 == argc) /* Q8_0 */
            test_byte_tiles(m);
        model_close(&m);
    }
    return check_report();
}
