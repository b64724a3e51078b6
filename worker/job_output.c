/* Jobs to the bodies of results and checkpoints; see job.h. */
#include <math.h>
#include <stdlib.h>

#include "base/arena.h"
#include "base/hash.h"
#include "proto/codec.h"
#include "worker/job.h"

/* What there is to say where a probability is 0, or no number: OpenAI's -9999. */
static double finite_logprob(float x)
{
    return x > -9999.0f && x <= 0.0f ? (double)x : x > 0.0f ? 0.0 : -9999.0;
}

static uint64_t characters(struct str text)
{
    uint64_t count = 0;
    for (size_t i = 0; i < text.len; i++)
        count += ((unsigned char)text.data[i] & 0xc0) != 0x80;
    return count;
}

static enum err make_logprobs(const struct job_context *c, const struct job *j,
                              const struct job_choice *choice, struct arena *arena,
                              struct rec_CHOICE *ret)
{
    size_t count = choice->logprobs.len / sizeof(struct job_logprob), stride = 1 + j->top_logprobs;
    const struct job_logprob *from = (const void *)choice->logprobs.data;
    struct rec_LOGPROB *items = arena_alloc(arena, count + 1, sizeof *items);
    if (items == NULL)
        return ERR_NOMEM;
    uint64_t offset = 0;
    for (size_t i = 0; i < count; i++) {
        struct str piece = tokenizer_piece(c->tokenizer, from[i].id);
        items[i] = (struct rec_LOGPROB){.token = piece, .logprob = finite_logprob(from[i].logprob)};
        if (i % stride != 0)
            continue;
        items[i].text_offset = offset;
        offset += tokenizer_is_control(c->tokenizer, from[i].id) ? 0 : characters(piece);
    }
    ret->top_logprobs = j->top_logprobs;
    ret->logprobs.items = items;
    ret->logprobs.count = count;
    return ERR_OK;
}

static enum err make_choice(const struct job_context *c, const struct job *j,
                            const struct job_choice *choice, struct arena *arena,
                            struct rec_CHOICE *ret)
{
    *ret = (struct rec_CHOICE){.text = text_stream_text(choice->text),
                               .finish_reason = str_of(choice->finish_reason),
                               .completion_tokens = choice->completion.count};
    return j->logprobs ? make_logprobs(c, j, choice, arena, ret) : ERR_OK;
}

uint64_t job_completion_tokens(const struct job *j)
{
    uint64_t count = 0;
    for (uint32_t i = 0; i < j->n; i++)
        count += j->choices[i].completion.count;
    return count;
}

static struct rec_OUTPUT provenance(const struct job_context *c)
{
    return (struct rec_OUTPUT){
        .model_name = str_of(c->model_name),
        .model_hash = str_of(c->model_hash),
        .quantization = str_of(c->quantization),
        .numeric_class = str_of(c->numeric_class),
        .device = str_of(c->device),
        .driver = str_of(c->driver),
        .build = str_of(c->build),
        .worker = str_of(c->worker),
    };
}

enum err job_encode_output(const struct job_context *c, const struct job *j, uint64_t finished_ms,
                           struct buf *out, struct err_msg *why)
{
    struct rec_OUTPUT o = provenance(c);
    struct arena arena = {0};
    o.status_code = 200;
    o.chat = j->chat;
    o.choices.items = arena_alloc(&arena, j->n, sizeof *o.choices.items);
    o.choices.count = j->n;
    enum err e = o.choices.items == NULL ? ERR_NOMEM : ERR_OK;
    for (uint32_t i = 0; i < j->n && e == ERR_OK; i++)
        e = make_choice(c, j, &j->choices[i], &arena, &o.choices.items[i]);
    o.prompt_tokens = j->prompt.count;
    o.completion_tokens = job_completion_tokens(j);
    o.cached_tokens = j->cached_tokens;
    o.seed = j->seed;
    o.started_ms = j->started_ms;
    o.finished_ms = finished_ms;
    o.energy_j = job_energy_j(j);
    if (e == ERR_OK)
        e = proto_encode_output(&o, out, why);
    else
        err_set(why, e, "result: out of memory");
    arena_free(&arena);
    if (e == ERR_OK && out->len > PROTO_MAX_BODY_BYTES)
        e = err_set(why, ERR_RANGE, "result of %zu bytes, at most %d can be sent", out->len,
                    PROTO_MAX_BODY_BYTES);
    return e;
}

enum err job_encode_refusal(const struct job_context *c, const struct job_refusal *r,
                            const char *message, uint64_t now_ms, struct buf *out,
                            struct err_msg *why)
{
    struct rec_OUTPUT o = provenance(c);
    o.status_code = 400;
    o.error_message = str_of(message);
    o.error_type = str_of(r->type);
    o.error_code = str_of(r->code);
    o.error_param = str_of(r->param);
    o.chat = r->chat;
    o.seed = r->seed;
    o.started_ms = now_ms;
    o.finished_ms = now_ms;
    return proto_encode_output(&o, out, why);
}

void job_prompt_hash(const struct job *j, char ret_hex[33])
{
    hash128_hex(j->prompt.ids, j->prompt.count * sizeof *j->prompt.ids, ret_hex);
}

enum err job_encode_checkpoint(const struct job_context *c, const struct job *j, struct buf *out,
                               struct err_msg *why)
{
    size_t count = j->choices[0].completion.count;
    char prompt_hash[33];
    uint64_t *ids = calloc(count + 1, sizeof *ids);
    if (ids == NULL)
        return err_set(why, ERR_NOMEM, "checkpoint: out of memory");
    for (size_t i = 0; i < count; i++)
        ids[i] = j->choices[0].completion.ids[i];
    job_prompt_hash(j, prompt_hash);
    struct rec_CHECKPOINT p = {
        .numeric_class = str_of(c->numeric_class),
        .model_hash = str_of(c->model_hash),
        .completion_ids = {ids, count},
        .prompt_hash = str_of(prompt_hash),
    };
    enum err e = proto_encode_checkpoint(&p, out, why);
    if (e == ERR_OK && out->len > PROTO_MAX_CHECKPOINT_BYTES)
        e = err_set(why, ERR_RANGE, "checkpoint of %zu tokens is too large to send", count);
    free(ids);
    return e;
}
