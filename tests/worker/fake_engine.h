/* A fake engine for the worker's tests: every sequence gets the tokens of one script, one a step,
 * whoever is beside it. It checks what a caller may do (ids unique, at most max_seqs, sensible
 * sizes). */
#ifndef OCTO_TESTS_FAKE_ENGINE_H
#define OCTO_TESTS_FAKE_ENGINE_H

#include <stdatomic.h>

#include "base/buf.h"
#include "base/size.h"
#include "check.h"
#include "proto/codec.h"
#include "worker/port.h"

enum { FAKE_MAX_SEQS = 256, FAKE_MAX_STOPS = 128 };

struct fake_sequence {
    bool live;
    uint64_t id;
    size_t prompt_count, count;
    uint32_t max_tokens, min_tokens;
    uint32_t stops[FAKE_MAX_STOPS];
    size_t stops_count;
    uint32_t choice;
    bool logprobs;
    uint32_t top_logprobs;
};

struct fake_engine {
    struct engine_info info;
    const uint32_t *script; /* the n-th token of every completion; the last one for ever */
    size_t script_count;
    uint64_t kv_tokens_free;
    uint64_t step_ns;      /* GPU time told */
    unsigned fail_at_step; /* ERR_DEVICE at this step; 0: never */
    unsigned steps, adds, removes, most_live;
    unsigned misuses; /* calls that no caller may make: the test checks that there are none */
    atomic_bool closed;
    uint32_t refuse_choice; /* ERR_RANGE for this choice; 0: none */
    unsigned choices_added[8];
    struct fake_sequence seqs[FAKE_MAX_SEQS];
    struct engine_logprobs logprobs; /* of every token */
    struct engine_event events[FAKE_MAX_SEQS];
    struct engine_share shares[FAKE_MAX_SEQS];
    bool prefills; /* a sequence's first step is its prompt's; else all are decodes */
};

static inline enum err fake_add(void *impl, const struct engine_request *r, struct err_msg *why)
{
    struct fake_engine *f = impl;
    struct fake_sequence *slot = NULL;
    unsigned live = 1;
    f->misuses += !(r->prompt_count > 0 && r->prompt_count < f->info.max_ctx);
    f->misuses += !(r->max_tokens >= 1 && r->completion_count < r->max_tokens);
    f->misuses += !(r->stop_tokens_count <= FAKE_MAX_STOPS);
    for (size_t i = 0; i < f->info.max_seqs; i++) {
        if (!f->seqs[i].live) {
            slot = &f->seqs[i];
            continue;
        }
        f->misuses += !(f->seqs[i].id != r->id);
        live++;
    }
    if (slot == NULL)
        return err_set(why, ERR_FULL, "fake: full");
    if (f->refuse_choice != 0 && r->choice == f->refuse_choice)
        return err_set(why, ERR_RANGE, "fake: refused");
    f->choices_added[r->choice % 8]++;
    if (live > f->most_live)
        f->most_live = live;
    *slot = (struct fake_sequence){.live = true,
                                   .id = r->id,
                                   .prompt_count = r->prompt_count,
                                   .count = r->completion_count,
                                   .max_tokens = r->max_tokens,
                                   .min_tokens = r->min_tokens,
                                   .stops_count = r->stop_tokens_count,
                                   .choice = r->choice,
                                   .logprobs = r->logprobs,
                                   .top_logprobs = r->top_logprobs};
    memcpy(slot->stops, r->stop_tokens, r->stop_tokens_count * sizeof *r->stop_tokens);
    f->adds++;
    return ERR_OK;
}

static inline void fake_remove(void *impl, uint64_t id)
{
    struct fake_engine *f = impl;
    for (size_t i = 0; i < f->info.max_seqs; i++) {
        if (f->seqs[i].live && f->seqs[i].id == id) {
            f->seqs[i].live = false;
            f->removes++;
        }
    }
}

static inline enum err fake_step(void *impl, const struct engine_event **ret_events,
                                 size_t *ret_count, struct engine_step_stats *ret_stats,
                                 struct err_msg *why)
{
    struct fake_engine *f = impl;
    size_t count = 0;
    uint32_t prefill = 0, decode = 0;
    f->steps++;
    if (f->fail_at_step != 0 && f->steps >= f->fail_at_step)
        return err_set(why, ERR_DEVICE, "fake: vkQueueSubmit: VK_ERROR_DEVICE_LOST");
    for (size_t i = 0; i < f->info.max_seqs; i++) {
        struct fake_sequence *s = &f->seqs[i];
        if (!s->live)
            continue;
        /* choice i begins i tokens later */
        size_t at = min_u64(s->count + s->choice, f->script_count - 1);
        struct engine_event ev = {.id = s->id,
                                  .token = f->script[at],
                                  .prompt_count = (uint32_t)s->prompt_count,
                                  .cached_count = s->choice == 0 ? 3 : 9,
                                  .logprobs = s->logprobs ? &f->logprobs : NULL,
                                  .top_count = s->top_logprobs};
        struct engine_share share = {.id = s->id};
        if (f->prefills && s->count == 0)
            share.prefill_tokens = ev.prompt_count;
        else
            share.decode_tokens = 1;
        prefill += share.prefill_tokens;
        decode += share.decode_tokens;
        f->shares[count] = share;
        s->count++;
        for (size_t k = 0; k < s->stops_count; k++) {
            if (s->stops[k] == ev.token && s->count > s->min_tokens)
                ev.finish = ENGINE_STOP;
        }
        if (ev.finish == ENGINE_RUNNING && s->count >= s->max_tokens)
            ev.finish = ENGINE_LENGTH;
        s->live = ev.finish == ENGINE_RUNNING;
        f->events[count++] = ev;
    }
    if (count == 0)
        return ERR_AGAIN;
    *ret_events = f->events;
    *ret_count = count;
    *ret_stats = (struct engine_step_stats){.prefill_tokens = prefill,
                                            .decode_tokens = decode,
                                            .shares = f->shares,
                                            .shares_count = count,
                                            .gpu_ns = f->step_ns};
    return ERR_OK;
}

static inline const struct engine_info *fake_info(void *impl)
{
    struct fake_engine *f = impl;
    if (f->closed) /* it may be gone by then */
        f->misuses++;
    return &f->info;
}

static inline uint64_t fake_kv_tokens_free(void *impl)
{
    return ((struct fake_engine *)impl)->kv_tokens_free;
}

static inline uint64_t fake_vram_free(void *impl)
{
    (void)impl;
    return 12345;
}

static inline unsigned fake_validation_errors(void *impl)
{
    (void)impl;
    return 0;
}

static inline void fake_close(void *impl)
{
    ((struct fake_engine *)impl)->closed = true;
}

/* An engine_open_fn; user: the struct fake_engine. */
static inline enum err fake_open(void *user, struct engine_port *ret, struct err_msg *why)
{
    (void)why;
    *ret = (struct engine_port){.impl = user,
                                .add = fake_add,
                                .remove = fake_remove,
                                .step = fake_step,
                                .info = fake_info,
                                .kv_tokens_free = fake_kv_tokens_free,
                                .vram_free = fake_vram_free,
                                .validation_errors = fake_validation_errors,
                                .close = fake_close};
    return ERR_OK;
}

static inline void fake_init(struct fake_engine *f, uint32_t max_seqs)
{
    *f = (struct fake_engine){.kv_tokens_free = 100000, .step_ns = 1000000};
    f->info.max_seqs = max_seqs;
    f->info.max_ctx = 2048;
    f->info.kv_tokens = 100000;
}

#endif
