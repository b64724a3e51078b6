/* Says what the engine would make of a model on a device, without loading it: a view of
 * engine_plan_memory(). */
#include "worker/plan.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/size.h"
#include "engine/memory.h"
#include "model/tokenizer.h"

struct question {
    const struct model *model;
    struct gpu_device_info device;
    uint64_t free_bytes; /* 0: the driver does not tell */
    struct engine_options options;
};

struct text {
    char text[48];
};

static struct text size_text(uint64_t bytes)
{
    static const char *const units[] = {"KiB", "MiB", "GiB", "TiB"};
    struct text t;
    double value = (double)bytes / 1024;
    size_t unit = 0;
    for (; value >= 1024 && unit + 1 < ARRAY_LEN(units); unit++)
        value /= 1024;
    snprintf(t.text, sizeof t.text, "%.1f %s", value, units[unit]);
    return t;
}

/* The device that would be taken, and what is free of it now. */
static enum err look_at_device(const struct worker_options *o, struct question *q,
                               struct err_msg *why)
{
    struct gpu_device_info *list = calloc(GPU_MAX_DEVICES, sizeof *list);
    struct gpu *gpu = NULL;
    size_t count = 0, index = 0;
    if (list == NULL)
        return err_set(why, ERR_NOMEM, "devices: out of memory");
    enum err e = gpu_list(list, &count, why);
    if (e == ERR_OK)
        e = gpu_choose(list, count, o->device, &index, why);
    if (e == ERR_OK)
        q->device = list[index];
    free(list);
    if (e != ERR_OK)
        return e;
    struct gpu_options options = {.device_index = q->device.index};
    e = gpu_create(&options, &gpu, why);
    if (e == ERR_OK)
        q->free_bytes = gpu_memory_free(gpu);
    gpu_destroy(&gpu);
    return e;
}

/* What the worker would refuse to start with, beside the model itself: see worker.c. */
static enum err check_tokenizer(const struct worker_options *o, const struct model *m,
                                struct err_msg *why)
{
    struct tokenizer *t = NULL;
    enum err e = tokenizer_create(m->gguf, o->pre_tokenizer, &t, why);
    if (e != ERR_OK)
        return e;
    if (tokenizer_vocab_size(t) > m->n_vocab)
        e = err_set(why, ERR_FORMAT, "%s: the tokenizer has %u tokens, the model rows for %u",
                    o->model, tokenizer_vocab_size(t), m->n_vocab);
    tokenizer_destroy(&t);
    return e;
}

static void print_device(const struct question *q)
{
    printf("device:    %s (%s)%s, %s of memory", q->device.name, q->device.driver,
           q->device.software ? ", software: very slow" : "",
           size_text(q->device.memory_bytes).text);
    if (q->free_bytes != 0)
        printf(", %s free", size_text(q->free_bytes).text);
    putchar('\n');
}

static enum err plan(const struct question *q, uint32_t ctx, struct engine_memory *ret,
                     struct err_msg *why)
{
    struct engine_options o = q->options;
    o.max_ctx = ctx;
    return engine_plan_memory(q->model, &q->device, q->free_bytes, &o, ret, why);
}

/* "4 sequences of 2048 tokens, 1 of 8192, none of 32768". *ret_fits: the longest context of the
 * list that fits, 0: none. */
static enum err print_room(const struct question *q, uint32_t full, uint32_t *ret_fits,
                           struct err_msg *why)
{
    const uint32_t contexts[] = {2048, 8192, 32768, full};
    uint32_t fits = 0;
    size_t printed = 0;
    for (size_t i = 0; i < ARRAY_LEN(contexts); i++) {
        struct engine_memory m;
        if (contexts[i] >= full && i + 1 < ARRAY_LEN(contexts))
            continue;
        enum err e = plan(q, contexts[i], &m, why);
        if (e != ERR_OK)
            return e;
        printf("%s", printed++ == 0 ? "room:      " : ", ");
        if (m.fits)
            printf("%" PRIu32, m.sequences);
        else
            printf("none");
        printf(printed == 1 ? " at a time of %" PRIu32 " tokens" : " of %" PRIu32, contexts[i]);
        if (m.fits)
            fits = contexts[i];
    }
    putchar('\n');
    *ret_fits = fits;
    return ERR_OK;
}

static enum err print_answer(const struct question *q, struct err_msg *why)
{
    struct engine_memory m;
    uint32_t fits = 0;
    enum err e = plan(q, q->options.max_ctx, &m, why);
    if (e != ERR_OK)
        return e;
    printf("memory:    weights %s, buffers %s, KV cache %s a token\n",
           size_text(m.weight_bytes).text, size_text(m.activation_bytes).text,
           size_text(m.kv_token_bytes).text);
    e = print_room(q, m.max_ctx, &fits, why);
    if (e != ERR_OK)
        return e;
    if (m.fits) {
        printf("runs:      yes: %" PRIu32 " sequences of up to %" PRIu32 " tokens, %" PRIu64
               " tokens of KV cache between them\n",
               m.max_seqs, m.max_ctx, m.kv_tokens);
        return ERR_OK;
    }
    printf("runs:      no: weights, buffers and KV cache for %" PRIu32
           " tokens take %s, the device %s %s",
           m.max_ctx, size_text(m.total_bytes).text, q->free_bytes != 0 ? "has free" : "has",
           size_text(q->free_bytes != 0 ? q->free_bytes : q->device.memory_bytes).text);
    if (fits != 0)
        printf("; --ctx %" PRIu32 " fits", fits);
    putchar('\n');
    return ERR_OK;
}

int worker_plan(const struct worker_options *o)
{
    struct err_msg why = {{0}};
    struct model *model = NULL;
    struct question q = {.options = {.max_seqs = (uint32_t)o->max_jobs,
                                     .max_ctx = (uint32_t)o->ctx,
                                     .kv_tokens = (uint64_t)o->kv_tokens,
                                     .chunk_tokens = (uint32_t)o->chunk_tokens}};
    enum err e = model_open(o->model, &model, &why);
    int code = e == ERR_OK ? WORKER_EXIT_OK : WORKER_EXIT_FATAL;
    q.model = model;
    if (e == ERR_OK)
        e = check_tokenizer(o, model, &why);
    if (e == ERR_OK)
        e = look_at_device(o, &q, &why);
    if (e == ERR_OK) {
        print_device(&q);
        e = print_answer(&q, &why);
    }
    if (e != ERR_OK)
        printf("runs:      no: %s\n", why.text);
    model_close(&model);
    return fflush(stdout) == 0 ? code : WORKER_EXIT_FATAL;
}
