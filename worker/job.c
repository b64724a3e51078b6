/* Grants to jobs, jobs to results; see job.h. */
#include "worker/job_impl.h"

#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "base/size.h"
#include "proto/codec.h"

enum { JOB_ARENA_BYTES = 64 << 20 };

static enum err render_chat(const struct job_context *c, const struct rec_REQUEST *q,
                            struct arena *arena, struct job *j, struct job_refusal *r,
                            struct err_msg *why)
{
    if (c->chat == NULL)
        return REFUSE(r, "unsupported_model", "messages", "%s", c->chat_problem);
    struct chat_message *messages = arena_alloc(arena, q->messages.count, sizeof *messages);
    if (messages == NULL)
        return err_set(why, ERR_NOMEM, "chat messages: out of memory");
    for (size_t i = 0; i < q->messages.count; i++)
        messages[i] =
            (struct chat_message){q->messages.items[i].role, q->messages.items[i].content};
    struct chat_prompt prompt = {0};
    enum err e = chat_template_render(c->chat, messages, q->messages.count, &prompt, why);
    if (e == ERR_OK)
        e = chat_prompt_encode(&prompt, c->tokenizer, true, &j->prompt, why);
    chat_prompt_free(&prompt);
    return e == ERR_OK || e == ERR_NOMEM ? e : job_refuse(r, "invalid_messages", "messages");
}

static enum err take_ids(const struct job_context *c, const struct rec_REQUEST *q, struct job *j,
                         struct job_refusal *r, struct err_msg *why)
{
    uint32_t vocab = tokenizer_vocab_size(c->tokenizer);
    for (size_t i = 0; i < q->prompt_ids.count; i++) {
        if (q->prompt_ids.items[i] >= vocab)
            return REFUSE(r, "invalid_prompt", "prompt",
                          "prompt token %zu is %llu: this model's vocabulary has %u tokens", i,
                          (unsigned long long)q->prompt_ids.items[i], vocab);
        uint32_t id = (uint32_t)q->prompt_ids.items[i];
        if (tokens_append(&j->prompt, &id, 1) != ERR_OK)
            return err_set(why, ERR_NOMEM, "prompt: out of memory");
    }
    return ERR_OK;
}

static enum err take_prompt(const struct job_context *c, const struct rec_REQUEST *q,
                            struct arena *arena, struct job *j, struct job_refusal *r,
                            struct err_msg *why)
{
    enum err e;
    if (q->chat) {
        e = render_chat(c, q, arena, j, r, why);
    } else if (q->prompt_ids.count > 0) {
        e = take_ids(c, q, j, r, why);
    } else {
        /* Special tokens in a raw prompt are the caller's own template. */
        struct tokenizer_encode_options o = {.add_bos = true, .parse_special = true};
        e = tokenizer_encode(c->tokenizer, q->prompt, o, &j->prompt, why);
        if (e != ERR_OK && e != ERR_NOMEM)
            e = job_refuse(r, "invalid_prompt", "prompt");
    }
    if (e != ERR_OK)
        return e;
    if (j->prompt.count == 0)
        return REFUSE(r, "invalid_prompt", "prompt", "the prompt is empty: it has no tokens");
    if (j->prompt.count >= c->max_ctx)
        return REFUSE(r, "context_length_exceeded", q->chat ? "messages" : "prompt",
                      "this model's context is %u tokens; the prompt has %zu", c->max_ctx,
                      j->prompt.count);
    return ERR_OK;
}

static enum err add_stop_token(struct job *j, uint64_t id, uint32_t vocab, struct job_refusal *r,
                               struct err_msg *why)
{
    if (id >= vocab)
        return REFUSE(r, "invalid_value", "stop_token_ids",
                      "stop token %llu: this model's vocabulary has %u tokens",
                      (unsigned long long)id, vocab);
    for (size_t i = 0; i < j->stop_tokens_count; i++) {
        if (j->stop_tokens[i] == id)
            return ERR_OK;
    }
    if (j->stop_tokens_count == JOB_MAX_STOP_TOKENS)
        return REFUSE(r, "invalid_value", "stop_token_ids",
                      "more than %d stop tokens, the model's own included", JOB_MAX_STOP_TOKENS);
    j->stop_tokens[j->stop_tokens_count++] = (uint32_t)id;
    return ERR_OK;
}

static enum err take_stops(const struct job_context *c, const struct rec_REQUEST *q,
                           struct arena *arena, struct job *j, struct job_refusal *r,
                           struct err_msg *why)
{
    size_t count = 0;
    const uint32_t *ends = tokenizer_end_tokens(c->tokenizer, &count);
    uint32_t vocab = tokenizer_vocab_size(c->tokenizer);
    enum err e = ERR_OK;
    for (size_t i = 0; i < count && !q->ignore_eos && e == ERR_OK; i++)
        e = add_stop_token(j, ends[i], vocab, r, why);
    for (size_t i = 0; i < q->stop_token_ids.count && e == ERR_OK; i++)
        e = add_stop_token(j, q->stop_token_ids.items[i], vocab, r, why);
    if (e != ERR_OK)
        return e;
    j->choices = calloc(j->n, sizeof *j->choices);
    struct str *stops = arena_alloc(arena, q->stop.count, sizeof *stops);
    if (stops == NULL || j->choices == NULL)
        return err_set(why, ERR_NOMEM, "stop strings: out of memory");
    for (size_t i = 0; i < q->stop.count; i++) {
        stops[i] = q->stop.items[i].text;
        if (stops[i].len == 0)
            return REFUSE(r, "invalid_value", "stop", "stop string %zu is empty", i + 1);
    }
    for (uint32_t i = 0; i < j->n; i++) {
        if (text_stream_create(c->tokenizer, stops, q->stop.count, &j->choices[i].text) != ERR_OK)
            return err_set(why, ERR_NOMEM, "stop strings: out of memory");
    }
    return ERR_OK;
}

/* True when the request may have led to these tokens with the job still running. */
static bool checkpoint_fits(const struct job_context *c, const struct job *j,
                            const struct rec_CHECKPOINT *p)
{
    char prompt_hash[33];
    job_prompt_hash(j, prompt_hash);
    if (!str_eq(p->numeric_class, str_of(c->numeric_class)) ||
        !str_eq(p->model_hash, str_of(c->model_hash)) ||
        !str_eq(p->prompt_hash, str_of(prompt_hash)) || p->completion_ids.count >= j->max_tokens)
        return false;
    for (size_t i = 0; i < p->completion_ids.count; i++) {
        uint64_t id = p->completion_ids.items[i];
        if (id >= tokenizer_vocab_size(c->tokenizer))
            return false;
        for (size_t s = 0; s < j->stop_tokens_count; s++) {
            if (id == j->stop_tokens[s])
                return false;
        }
    }
    return true;
}

static enum err take_checkpoint(const struct job_context *c, struct str bytes, struct arena *arena,
                                struct job *j, struct err_msg *why)
{
    struct rec_CHECKPOINT p = {0};
    struct job_choice *choice = &j->choices[0];
    if (bytes.len == 0 || !job_has_checkpoints(j) ||
        proto_decode_checkpoint(bytes.data, bytes.len, arena, &p, NULL) != ERR_OK ||
        !checkpoint_fits(c, j, &p))
        return ERR_OK;
    for (size_t i = 0; i < p.completion_ids.count && !j->stopped; i++) {
        uint32_t id = (uint32_t)p.completion_ids.items[i];
        if (tokens_append(&choice->completion, &id, 1) != ERR_OK ||
            text_stream_push(choice->text, id, i + 1 >= j->min_tokens, &j->stopped) != ERR_OK)
            return err_set(why, ERR_NOMEM, "checkpoint: out of memory");
    }
    j->checkpoint_tokens = choice->completion.count;
    return ERR_OK;
}

static enum err fill(const struct job_context *c, const struct rec_GRANT_JOB *grant,
                     struct arena *arena, struct job *j, struct job_refusal *r, struct err_msg *why)
{
    struct rec_REQUEST q = {0};
    enum err e = proto_decode_request(grant->body.data, grant->body.len, arena, &q, why);
    if (e != ERR_OK)
        return e == ERR_NOMEM ? e : job_refuse(r, "unreadable_request", "");
    r->chat = j->chat = q.chat;
    r->seed = q.seed;
    e = take_prompt(c, &q, arena, j, r, why);
    if (e == ERR_OK)
        e = job_take_sampling(c, &q, j, r, why);
    if (e == ERR_OK)
        e = take_stops(c, &q, arena, j, r, why);
    if (e == ERR_OK)
        e = take_checkpoint(c, grant->checkpoint, arena, j, why);
    return e;
}

enum err job_create(const struct job_context *c, const struct rec_GRANT_JOB *grant, uint64_t serial,
                    struct job **ret, struct job_refusal *ret_refusal, struct err_msg *why)
{
    if (grant->model.len > 0 && !str_eq(grant->model, str_of(c->model_name)) &&
        !str_eq(grant->model, str_of(c->model_hash)))
        return err_set(why, ERR_UNSUPPORTED, "the job asks for model %.*s, this worker has %s",
                       STR_ARG(grant->model), c->model_name);
    struct arena arena = {.limit_bytes = JOB_ARENA_BYTES};
    struct job *j = calloc(1, sizeof *j);
    if (j == NULL)
        return err_set(why, ERR_NOMEM, "job: out of memory");
    j->serial = serial;
    struct job_refusal refusal = {.type = "", .code = "", .param = ""};
    enum err e = fill(c, grant, &arena, j, &refusal, why);
    arena_free(&arena);
    if (e == ERR_USAGE)
        *ret_refusal = refusal;
    if (e == ERR_OK)
        *ret = j;
    else
        job_destroy(&j);
    return e;
}

void job_destroy(struct job **j)
{
    if (j == NULL || *j == NULL)
        return;
    for (uint32_t i = 0; (*j)->choices != NULL && i < (*j)->n; i++) {
        tokens_free(&(*j)->choices[i].completion);
        text_stream_destroy(&(*j)->choices[i].text);
        buf_free(&(*j)->choices[i].logprobs);
    }
    free((*j)->choices);
    tokens_free(&(*j)->prompt);
    free((*j)->bias);
    tokens_free(&(*j)->bad_ids);
    free(*j);
    *j = NULL;
}
