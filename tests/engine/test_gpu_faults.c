/* A device that is lost, out of memory or hung, at the checked Vulkan calls from the engine's
 * creation to the end of a run: one clear error, an end in bounded time, nothing leaks, and a new
 * engine computes the same tokens. And steps that stay short, without other tokens.
 *
 *     test_gpu_faults MODEL [all | memory]
 *
 * Each call's first, middle and last time; all: every one; memory: every allocation, and no short
 * steps: for sanitizers. */
#include <stdio.h>

#include "base/clock.h"
#include "base/size.h"
#include "engine/chunk.h"
#include "engine/engine.h"
#include "tests/check.h"

enum {
    MAX_CALLS = 20000,
    MAX_NAMES = 64,
    DRAWN = 3,
    LONG_PROMPT = 900,
    MANY = 64,
    MANY_DRAWN = 24
};
enum { LOST = -4, OUT_OF_HOST_MEMORY = -1, OUT_OF_DEVICE_MEMORY = -2, TIMED_OUT = 2 };

static const struct model *model;
static uint32_t device_index;
static bool is_software;
static bool shares_memory;
static char cache_dir[] = "/tmp/octo-faults-XXXXXX";

static const uint32_t prompt[] = {1,    282, 201, 43, 595, 630, 259, 353, 362, 259,
                                  1395, 835, 968, 16, 2,   201, 1,   325, 201};

/* The calls of an undisturbed run, in order. */
static struct {
    char names[MAX_NAMES][64];
    unsigned count;                 /* of names */
    unsigned char calls[MAX_CALLS]; /* which name */
    unsigned call_count;
} seen;

static int note_call(void *user, const char *call)
{
    (void)user;
    unsigned i = 0;
    while (i < seen.count && strcmp(seen.names[i], call) != 0)
        i++;
    if (i == seen.count && i < MAX_NAMES)
        snprintf(seen.names[seen.count++], sizeof seen.names[0], "%s", call);
    if (seen.call_count < MAX_CALLS)
        seen.calls[seen.call_count++] = (unsigned char)i;
    return 0;
}

struct fault {
    unsigned at; /* call that fails, from 0 */
    int result;
    unsigned calls; /* so far */
    bool hit;
};

/* A lost device stays lost and a hung one hangs; memory may be there again the next time. */
static int inject(void *user, const char *call)
{
    struct fault *f = user;
    bool again = f->hit && ((f->result == LOST && (strcmp(call, "vkQueueSubmit") == 0 ||
                                                   strcmp(call, "vkWaitForFences") == 0)) ||
                            (f->result == TIMED_OUT && strcmp(call, "vkWaitForFences") == 0));
    bool now = f->calls++ == f->at;
    f->hit |= now;
    return now || again ? f->result : 0;
}

struct run {
    uint32_t tokens[DRAWN];
    size_t count;
};

static enum err run_once(struct run *ret, struct err_msg *why)
{
    struct engine_options o = {
        .max_seqs = 1, .max_ctx = 64, .device_index = device_index, .cache_dir = cache_dir};
    struct engine_request r = {
        .prompt = prompt, .prompt_count = ARRAY_LEN(prompt), .max_tokens = DRAWN, .top_p = 1};
    struct engine *e = NULL;
    *ret = (struct run){0};
    enum err bad = engine_create(model, &o, &e, why);
    if (bad == ERR_OK)
        bad = engine_add(e, &r, why);
    while (bad == ERR_OK && engine_live(e) > 0) {
        const struct engine_event *events;
        size_t count;
        bad = engine_step(e, &events, &count, NULL, why);
        for (size_t i = 0; bad == ERR_OK && i < count; i++)
            ret->tokens[ret->count++] = events[i].token;
    }
    engine_destroy(&e);
    return bad;
}

static struct run undisturbed;

/* What may be done without: a start goes on when these fail. */
static bool is_optional(const char *call)
{
    return strcmp(call, "vkGetPipelineCacheData") == 0 ||
           strcmp(call, "vkCreatePipelineCache") == 0;
}

/* The two buffers of a step's input are within the host's reach while there is room for them; else
 * the input is copied. */
enum { DIRECT_BUFFERS = 2 };
static unsigned goes_on_without; /* after an allocation had failed */

static bool is_of_buffer(const char *call)
{
    return strcmp(call, "vkCreateBuffer") == 0 || strcmp(call, "vkAllocateMemory") == 0 ||
           strcmp(call, "vkBindBufferMemory") == 0 || strcmp(call, "vkMapMemory") == 0;
}

static void fail_at(unsigned at, int result)
{
    struct fault f = {.at = at, .result = result};
    struct run got;
    struct err_msg why = {{0}};
    const char *call = seen.names[seen.calls[at]];
    gpu_set_fault_fn(inject, &f);
    uint64_t start_ns = clock_mono_ns();
    enum err bad = run_once(&got, &why);
    uint64_t took_ns = clock_mono_ns() - start_ns;
    gpu_set_fault_fn(NULL, NULL);
    CHECK(f.hit);
    CHECK(took_ns < 60 * NS_PER_S); /* no wait for what hangs */
    bool memory = result == OUT_OF_DEVICE_MEMORY || result == OUT_OF_HOST_MEMORY;
    if (bad == ERR_OK && (is_optional(call) || (memory && is_of_buffer(call)))) {
        CHECK(memcmp(&got, &undisturbed, sizeof got) == 0);
        goes_on_without += strcmp(call, "vkAllocateMemory") == 0;
        return;
    }
    bool clear = strstr(why.text, "vk") != NULL || bad == ERR_UNSUPPORTED;
    bool kind = result == LOST || result == TIMED_OUT ? bad == ERR_DEVICE
                                                      : bad == ERR_NOMEM || bad == ERR_UNSUPPORTED;
    check_count++;
    if (!clear || !kind) {
        check_failures++;
        fprintf(stderr, "call %u, %s, result %d: %s: %s\n", at, call, result, err_name(bad),
                why.text);
    }
}

/* The ways to let a call fail: the first, a middle and the last time, in turns. */
static void choose(unsigned at, bool all, bool all_memory, bool *ret_lost, bool *ret_memory)
{
    unsigned name = seen.calls[at], before = 0, total = 0;
    for (unsigned i = 0; i < seen.call_count; i++) {
        total += seen.calls[i] == name;
        before += i < at && seen.calls[i] == name;
    }
    bool last = before == total - 1, odd = name % 2 == 1;
    *ret_lost = all || last || (before == 0 && odd) || (before == total / 2 && !odd);
    *ret_memory = all || (before == 0 && !odd) || (before == total / 2 && odd) ||
                  (all_memory && strcmp(seen.names[name], "vkAllocateMemory") == 0);
}

static void each_call(bool all, bool all_memory)
{
    struct err_msg why = {{0}};
    struct run got;
    unsigned tried = 0;
    /* Some drivers cannot be loaded again and again by one process: this keeps it there. */
    struct gpu_options keep = {.device_index = device_index};
    struct gpu *kept = NULL;
    CHECK_OK(gpu_create(&keep, &kept, &why), why);
    CHECK_OK(run_once(&undisturbed, &why), why); /* fills the cache */
    gpu_set_fault_fn(note_call, NULL);
    CHECK_OK(run_once(&got, &why), why);
    gpu_set_fault_fn(NULL, NULL);
    CHECK_INT(undisturbed.count, DRAWN);
    CHECK(memcmp(&got, &undisturbed, sizeof got) == 0);
    CHECK(seen.call_count < MAX_CALLS && seen.count < MAX_NAMES);
    for (unsigned at = 0; at < seen.call_count; at++) {
        bool lost, memory;
        choose(at, all, all_memory, &lost, &memory);
        if (lost)
            fail_at(at, LOST);
        if (memory)
            fail_at(at, at % 2 == 0 ? OUT_OF_DEVICE_MEMORY : OUT_OF_HOST_MEMORY);
        bool hangs = lost && strcmp(seen.names[seen.calls[at]], "vkWaitForFences") == 0;
        if (hangs)
            fail_at(at, TIMED_OUT);
        tried += lost + memory + hangs;
    }
    printf("%u faults at %u calls of %u kinds\n", tried, seen.call_count, seen.count);
    if (all || all_memory)
        CHECK_INT(goes_on_without, shares_memory ? DIRECT_BUFFERS : 0);
    for (unsigned i = 0; i < seen.count; i++)
        printf("  %s\n", seen.names[i]);
    CHECK_OK(run_once(&got, &why), why);
    CHECK(memcmp(&got, &undisturbed, sizeof got) == 0);
    gpu_destroy(&kept);
}

/* ---- short steps ---- */

static uint32_t run_long(uint32_t step_ms, struct run *ret, uint32_t *ret_last)
{
    static uint32_t ids[LONG_PROMPT];
    struct engine_options o = {.max_seqs = 2,
                               .max_ctx = 1024,
                               .chunk_tokens = 512,
                               .device_index = device_index,
                               .cache_dir = cache_dir,
                               .step_ms = step_ms};
    struct engine_request r = {
        .prompt = ids, .prompt_count = LONG_PROMPT, .max_tokens = DRAWN, .top_p = 1};
    struct engine *e = NULL;
    struct err_msg why;
    uint32_t steps = 0;
    for (uint32_t i = 0; i < LONG_PROMPT; i++)
        ids[i] = 300 + i * 7 % 3000;
    *ret = (struct run){0};
    CHECK_OK(engine_create(model, &o, &e, &why), why);
    CHECK_OK(engine_add(e, &r, &why), why);
    while (engine_live(e) > 0) {
        const struct engine_event *events;
        size_t count;
        struct engine_step_stats stats;
        CHECK_OK(engine_step(e, &events, &count, &stats, &why), why);
        for (size_t i = 0; i < count; i++)
            ret->tokens[ret->count++] = events[i].token;
        steps += stats.prefill_tokens > 0;
        if (stats.prefill_tokens > 0 && ret->count == 0)
            *ret_last = stats.prefill_tokens;
    }
    engine_destroy(&e);
    return steps;
}

static void short_steps(void)
{
    struct run whole, pieces;
    uint32_t last = 0;
    CHECK_INT(run_long(0, &whole, &last), 2);
    uint32_t steps = run_long(1, &pieces, &last);
    printf("%u steps of at most 1 ms, the last full one %u rows\n", steps, last);
    CHECK(steps >= 3); /* the first two are short, whatever the device */
    CHECK_INT(whole.count, DRAWN);
    CHECK(memcmp(&whole, &pieces, sizeof whole) == 0);
}

/* More sequences than a step may have, on a device that is always too slow. */
static size_t run_many(uint32_t step_ms, uint32_t ret_tokens[MANY][MANY_DRAWN])
{
    struct engine_options o = {.max_seqs = MANY,
                               .max_ctx = 64,
                               .device_index = device_index,
                               .cache_dir = cache_dir,
                               .step_ms = step_ms};
    struct engine *e = NULL;
    struct err_msg why;
    size_t counts[MANY] = {0}, most = 0;
    CHECK_OK(engine_create(model, &o, &e, &why), why);
    for (uint32_t i = 0; i < MANY; i++) {
        struct engine_request r = {.id = i,
                                   .prompt = prompt,
                                   .prompt_count = 2 + i % (ARRAY_LEN(prompt) - 2),
                                   .max_tokens = MANY_DRAWN,
                                   .temperature = 1,
                                   .top_p = 1,
                                   .seed = i};
        CHECK_OK(engine_add(e, &r, &why), why);
    }
    for (int steps = 0; engine_live(e) > 0 && CHECK(steps < 2000); steps++) {
        const struct engine_event *events;
        size_t count;
        struct engine_step_stats stats;
        CHECK_OK(engine_step(e, &events, &count, &stats, &why), why);
        for (size_t i = 0; i < count; i++)
            ret_tokens[events[i].id][counts[events[i].id]++] = events[i].token;
        if (steps > 20) /* by then it knows */
            most = max_u64(most, stats.decode_tokens);
    }
    for (uint32_t i = 0; i < MANY; i++)
        CHECK_INT(counts[i], MANY_DRAWN);
    engine_destroy(&e);
    return most;
}

static void short_decodes(void)
{
    static uint32_t whole[MANY][MANY_DRAWN], pieces[MANY][MANY_DRAWN];
    size_t most_whole = run_many(0, whole), most = run_many(1, pieces);
    printf("at most %zu rows, %zu without a limit\n", most, most_whole);
    CHECK(most == DECODES_LEAST || !is_software); /* a GPU may do all of them in time */
    CHECK(memcmp(whole, pieces, sizeof whole) == 0);
}

/* Devices from fast to very slow: time of a step is a part that it always takes and a part by row.
 */
static void chunk_sizes(void)
{
    static const struct {
        double fixed_ms, row_ms;
    } devices[] = {{1, 0.001}, {1, 0.1}, {20, 0.5}, {100, 1}, {350, 3}, {10, 30}, {500, 1}};
    struct check_rng rng = check_rng_start(4);
    for (size_t d = 0; d < ARRAY_LEN(devices); d++) {
        uint32_t chunk = CHUNK_FIRST, ahead = CHUNK_FIRST, decode = 0;
        for (int step = 0; step < 200; step++) {
            double ms = devices[d].fixed_ms + (ahead + decode) * devices[d].row_ms;
            /* three steps, and none is longer than a second where that can be */
            CHECK(step < 3 || ms < 1000 || ahead == CHUNK_LEAST);
            uint32_t next =
                chunk_after(chunk, 2048, ahead, decode, (uint64_t)(ms * 1e6), 400 * NS_PER_MS);
            CHECK(next >= CHUNK_LEAST && next <= 2048 && next <= 4 * chunk);
            ahead = chunk; /* the next step runs already */
            chunk = next;
            if (step % 50 == 49)
                decode = (uint32_t)check_rng_below(&rng, 64);
        }
        if (devices[d].row_ms < 0.1)
            CHECK_INT(chunk, 2048);
    }
    /* and of the rows that draw: a second is held where that can be, and not for nothing */
    for (size_t d = 0; d < ARRAY_LEN(devices); d++) {
        uint32_t decodes = 256, ahead = 256;
        for (int step = 0; step < 100; step++) {
            double ms = devices[d].fixed_ms + ahead * devices[d].row_ms;
            CHECK(step < 6 || ms < 1000 || ahead == DECODES_LEAST);
            uint32_t next =
                decodes_after(decodes, 256, 0, ahead, (uint64_t)(ms * 1e6), 400 * NS_PER_MS);
            ahead = decodes;
            decodes = next;
        }
        CHECK(devices[d].fixed_ms + 256 * devices[d].row_ms > 800 || decodes == 256);
    }
    CHECK_INT(decodes_after(64, 256, 100, 64, 9000 * NS_PER_MS, 400 * NS_PER_MS), 64);
    CHECK_INT(decodes_after(16, 256, 0, 16, NS_PER_MS, 400 * NS_PER_MS), 32);
    CHECK_INT(decodes_after(16, 256, 0, 9, NS_PER_MS, 400 * NS_PER_MS), 16);
    CHECK_INT(chunk_after(100, 2048, 0, 50, 5000 * NS_PER_MS, 400 * NS_PER_MS), 100);
    CHECK_INT(chunk_after(1024, 1024, 10, 0, NS_PER_MS, 400 * NS_PER_MS), 1024);
    CHECK_INT(chunk_after(8, 8, 8, 0, 5000 * NS_PER_MS, 400 * NS_PER_MS), 8);
}

int main(int argc, char **argv)
{
    struct err_msg why;
    struct gpu_device_info list[GPU_MAX_DEVICES];
    size_t count = 0, index = 0;
    struct model *m = NULL;
    setvbuf(stdout, NULL, _IOLBF, 0);
    chunk_sizes();
    if (argc < 2 || gpu_list(list, &count, &why) != ERR_OK ||
        gpu_choose(list, count, NULL, &index, &why) != ERR_OK)
        return 77; /* no Vulkan device at all */
    device_index = list[index].index;
    is_software = list[index].software;
    shares_memory = list[index].shares_memory;
    CHECK_OK(model_open(argv[1], &m, &why), why);
    if (m == NULL || mkdtemp(cache_dir) == NULL)
        return check_report();
    model = m;
    bool memory = argc > 2 && strcmp(argv[2], "memory") == 0;
    if (!memory) {
        short_steps();
        short_decodes();
    }
    each_call(argc > 2 && strcmp(argv[2], "all") == 0, memory);
    model_close(&m);
    check_remove(cache_dir);
    return check_report();
}
