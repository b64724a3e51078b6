/* Grants to jobs, jobs to results; see job.h. */
#include "worker/job.h"

#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "base/size.h"
#include "proto/codec.h"

enum { JOB_ARENA_BYTES = 64 << 20 };

static enum err refuse(struct job_refusal *r, const char *code, const char *param)
{
    r->type = "invalid_request_error";
    r->code = code;
    r->param = param;
    return ERR_USAGE;
}

/* The rest of a refusal whose why is filled. */
#define REFUSE(r, code, param, ...)                                                                \
    (err_set(why, ERR_USAGE, __VA_ARGS__) == ERR_OK ? ERR_OK : refuse(r, code, param))

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
    return e == ERR_OK || e == ERR_NOMEM ? e : refuse(r, "invalid_messages", "messages");
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
            e = refuse(r, "invalid_prompt", "prompt");
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
    struct str *stops = arena_alloc(arena, q->stop.count, sizeof *stops);
    if (stops == NULL)
        return err_set(why, ERR_NOMEM, "stop strings: out of memory");
    for (size_t i = 0; i < q->stop.count; i++) {
        stops[i] = q->stop.items[i].text;
        if (stops[i].len == 0)
            return REFUSE(r, "invalid_value", "stop", "stop string %zu is empty", i + 1);
    }
    if (text_stream_create(c->tokenizer, stops, q->stop.count, &j->text) != ERR_OK)
        return err_set(why, ERR_NOMEM, "stop strings: out of memory");
    return ERR_OK;
}

static enum err take_sampling(const struct job_context *c, const struct rec_REQUEST *q,
                              struct job *j, struct job_refusal *r, struct err_msg *why)
{
    if (q->max_tokens == 0)
        return REFUSE(r, "invalid_value", "max_tokens", "max_tokens is 0, expected 1 or more");
    if (q->min_tokens > q->max_tokens)
        return REFUSE(r, "invalid_value", "min_tokens",
                      "min_tokens is %llu, more than max_tokens, %llu",
                      (unsigned long long)q->min_tokens, (unsigned long long)q->max_tokens);
    if (!(q->temperature >= 0 && q->temperature <= 100))
        return REFUSE(r, "invalid_value", "temperature", "temperature is %g, expected 0 to 100",
                      q->temperature);
    if (!(q->top_p > 0 && q->top_p <= 1))
        return REFUSE(r, "invalid_value", "top_p", "top_p is %g, expected more than 0, at most 1",
                      q->top_p);
    if (!(q->min_p >= 0 && q->min_p <= 1))
        return REFUSE(r, "invalid_value", "min_p", "min_p is %g, expected 0 to 1", q->min_p);
    j->max_tokens = (uint32_t)min_u64(q->max_tokens, c->max_ctx - j->prompt.count);
    j->min_tokens = (uint32_t)min_u64(q->min_tokens, j->max_tokens);
    j->temperature = (float)q->temperature;
    j->top_p = (float)q->top_p;
    j->min_p = (float)q->min_p;
    j->top_k = (uint32_t)min_u64(q->top_k, tokenizer_vocab_size(c->tokenizer));
    j->seed = q->seed;
    return ERR_OK;
}

/* True when the request may have led to these tokens with the job still running. */
static bool checkpoint_fits(const struct job_context *c, const struct job *j,
                            const struct rec_CHECKPOINT *p)
{
    if (!str_eq(p->numeric_class, str_of(c->numeric_class)) ||
        !str_eq(p->model_hash, str_of(c->model_hash)) || p->completion_ids.count >= j->max_tokens)
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
    if (bytes.len == 0 ||
        proto_decode_checkpoint(bytes.data, bytes.len, arena, &p, NULL) != ERR_OK ||
        !checkpoint_fits(c, j, &p))
        return ERR_OK;
    for (size_t i = 0; i < p.completion_ids.count && !j->stopped; i++) {
        uint32_t id = (uint32_t)p.completion_ids.items[i];
        if (tokens_append(&j->completion, &id, 1) != ERR_OK ||
            text_stream_push(j->text, id, i + 1 >= j->min_tokens, &j->stopped) != ERR_OK)
            return err_set(why, ERR_NOMEM, "checkpoint: out of memory");
    }
    j->checkpoint_tokens = j->completion.count;
    return ERR_OK;
}

static enum err fill(const struct job_context *c, const struct rec_GRANT_JOB *grant,
                     struct arena *arena, struct job *j, struct job_refusal *r, struct err_msg *why)
{
    struct rec_REQUEST q = {0};
    enum err e = proto_decode_request(grant->body.data, grant->body.len, arena, &q, why);
    if (e != ERR_OK)
        return e == ERR_NOMEM ? e : refuse(r, "unreadable_request", "");
    r->chat = j->chat = q.chat;
    r->seed = q.seed;
    e = take_prompt(c, &q, arena, j, r, why);
    if (e == ERR_OK)
        e = take_sampling(c, &q, j, r, why);
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
    tokens_free(&(*j)->prompt);
    tokens_free(&(*j)->completion);
    text_stream_destroy(&(*j)->text);
    free(*j);
    *j = NULL;
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

enum err job_encode_output(const struct job_context *c, const struct job *j,
                           const char *finish_reason, uint64_t finished_ms, struct buf *out,
                           struct err_msg *why)
{
    struct rec_OUTPUT o = provenance(c);
    o.status_code = 200;
    o.chat = j->chat;
    o.text = text_stream_text(j->text);
    o.finish_reason = str_of(finish_reason);
    o.prompt_tokens = j->prompt.count;
    o.completion_tokens = j->completion.count;
    o.cached_tokens = j->cached_tokens;
    o.seed = j->seed;
    o.started_ms = j->started_ms;
    o.finished_ms = finished_ms;
    enum err e = proto_encode_output(&o, out, why);
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

enum err job_encode_checkpoint(const struct job_context *c, const struct job *j, struct buf *out,
                               struct err_msg *why)
{
    size_t count = j->completion.count;
    uint64_t *ids = calloc(count + 1, sizeof *ids);
    if (ids == NULL)
        return err_set(why, ERR_NOMEM, "checkpoint: out of memory");
    for (size_t i = 0; i < count; i++)
        ids[i] = j->completion.ids[i];
    struct rec_CHECKPOINT p = {
        .numeric_class = str_of(c->numeric_class),
        .model_hash = str_of(c->model_hash),
        .completion_ids = {ids, count},
    };
    enum err e = proto_encode_checkpoint(&p, out, why);
    if (e == ERR_OK && out->len > PROTO_MAX_CHECKPOINT_BYTES)
        e = err_set(why, ERR_RANGE, "checkpoint of %zu tokens is too large to send", count);
    free(ids);
    return e;
}
