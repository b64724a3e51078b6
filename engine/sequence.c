/* Sequences: added, removed, asked about. Their states: engine_impl.h. */
#include <math.h>
#include <string.h>

#include "base/size.h"
#include "engine/engine_impl.h"

static struct sequence *find(const struct engine *e, uint64_t id)
{
    for (uint32_t i = 0; i < e->live; i++) {
        if (e->order[i]->id == id)
            return e->order[i];
    }
    return NULL;
}

static enum err check_request(const struct engine *e, const struct engine_request *r,
                              struct err_msg *why)
{
    if (r->prompt_count == 0 || r->prompt_count >= e->info.max_ctx)
        return err_set(why, ERR_RANGE,
                       "prompt of %zu tokens: expected 1 to %u (the context holds %u)",
                       r->prompt_count, e->info.max_ctx - 1, e->info.max_ctx);
    if (r->completion_count >= e->info.max_ctx - r->prompt_count ||
        r->completion_count >= r->max_tokens)
        return err_set(
            why, ERR_RANGE,
            "checkpoint of %zu tokens after a prompt of %zu: nothing is left to generate",
            r->completion_count, r->prompt_count);
    if (r->stop_tokens_count > MAX_STOP_TOKENS)
        return err_set(why, ERR_RANGE, "%zu stop tokens: at most %d", r->stop_tokens_count,
                       MAX_STOP_TOKENS);
    for (size_t i = 0; i < r->prompt_count + r->completion_count; i++) {
        uint32_t id = i < r->prompt_count ? r->prompt[i] : r->completion[i - r->prompt_count];
        if (id >= e->model->n_vocab)
            return err_set(why, ERR_RANGE, "token id %u at position %zu: the vocabulary has %u", id,
                           i, e->model->n_vocab);
    }
    if (!isfinite(r->temperature) || r->temperature < 0 || !isfinite(r->top_p) ||
        !isfinite(r->min_p))
        return err_set(why, ERR_RANGE,
                       "sampling parameters must be finite, temperature not negative");
    enum err bad = sampling_check(r, e->model->n_vocab, why);
    if (bad != ERR_OK)
        return bad;
    if (find(e, r->id) != NULL)
        return err_set(why, ERR_CONFLICT, "sequence id %llu is live already",
                       (unsigned long long)r->id);
    if (e->live == e->info.max_seqs)
        return err_set(why, ERR_FULL, "%u sequences are live, the most there can be", e->live);
    return ERR_OK;
}

static struct sequence *free_slot(struct engine *e)
{
    for (uint32_t i = 0; i < e->info.max_seqs; i++) {
        if (e->slots[i].arrival == 0)
            return &e->slots[i];
    }
    return NULL;
}

enum err engine_add(struct engine *e, const struct engine_request *r, struct err_msg *why)
{
    enum err bad = check_request(e, r, why);
    if (bad != ERR_OK)
        return bad;
    struct sequence *s = free_slot(e);
    struct sampling *more = NULL;
    if (sampling_create(r, e->info.max_ctx, e->model->n_vocab, &more) != ERR_OK)
        return err_set(why, ERR_NOMEM, "out of memory for a sequence's penalties");
    uint32_t *tokens = s->tokens, *pages = s->pages;
    uint64_t room = e->info.max_ctx - r->prompt_count;
    *s = (struct sequence){
        .id = r->id,
        .arrival = ++e->arrivals,
        .tokens = tokens,
        .pages = pages,
        .prompt_count = (uint32_t)r->prompt_count,
        .tokens_count = (uint32_t)(r->prompt_count + r->completion_count),
        .tokens_limit = (uint32_t)(r->prompt_count + min_u64(max_u64(r->max_tokens, 1), room)),
        .min_tokens = r->min_tokens,
        .stop_tokens_count = (uint32_t)r->stop_tokens_count,
        .sampling = {.temperature = r->temperature,
                     .top_p = r->top_p,
                     .min_p = r->min_p,
                     .top_k = r->top_k,
                     .seed_low = (uint32_t)r->seed,
                     .seed_high = (uint32_t)(r->seed >> 32),
                     .choice = r->choice,
                     .repetition_penalty = r->repetition_penalty != 0 ? r->repetition_penalty : 1,
                     .frequency_penalty = r->frequency_penalty,
                     .presence_penalty = r->presence_penalty,
                     .logprobs = r->logprobs ? 1 + r->top_logprobs : 0},
        .more = more,
    };
    memcpy(tokens, r->prompt, r->prompt_count * sizeof *tokens);
    if (r->completion_count > 0)
        memcpy(tokens + r->prompt_count, r->completion, r->completion_count * sizeof *tokens);
    if (r->stop_tokens_count > 0)
        memcpy(s->stop_tokens, r->stop_tokens, r->stop_tokens_count * sizeof *s->stop_tokens);
    e->order[e->live++] = s;
    return ERR_OK;
}

void sequence_end(struct engine *e, struct sequence *s)
{
    sequence_drop_pages(e, s);
    uint32_t i = 0;
    while (e->order[i] != s)
        i++;
    memmove(&e->order[i], &e->order[i + 1], (e->live - i - 1) * sizeof *e->order);
    e->live--;
    sampling_destroy(&s->more);
    s->arrival = 0;
}

void engine_remove(struct engine *e, uint64_t id)
{
    struct sequence *s = find(e, id);
    if (s != NULL)
        sequence_end(e, s);
}

void engine_preempt(struct engine *e, uint64_t id)
{
    struct sequence *s = find(e, id);
    if (s != NULL && s->active) {
        sequence_drop_pages(e, s);
        e->preemptions++;
    }
}

const uint32_t *engine_completion(const struct engine *e, uint64_t id, size_t *ret_count)
{
    const struct sequence *s = find(e, id);
    if (s == NULL)
        return NULL;
    *ret_count = s->tokens_count - s->prompt_count;
    return s->tokens + s->prompt_count;
}

uint32_t engine_live(const struct engine *e)
{
    return e->live;
}

uint64_t engine_kv_tokens_free(const struct engine *e)
{
    return (uint64_t)kv_available(e->kv) * PAGE_TOKENS;
}

uint64_t engine_preemptions(const struct engine *e)
{
    return e->preemptions;
}

uint64_t engine_vram_free(struct engine *e)
{
    return gpu_memory_free(e->gpu);
}
