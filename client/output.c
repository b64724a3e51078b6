/* Results to JSON lines; see output.h. */
#include "client/output.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>

#include "base/arena.h"
#include "base/hash.h"
#include "client/json.h"
#include "client/logprobs.h"
#include "client/text.h"
#include "proto/codec.h"

/* `created` is no time (see output.h): 2025-01-01 and one second a line, so that it is a plausible
 * Unix time and rises with the input. */
static const uint64_t created_base = 1735689600;

struct line_id {
    char hex[33];
};

/* 128 bits of the batch's name and the line's number. */
static enum err make_id(const char *batch, uint64_t line, struct line_id *ret)
{
    struct buf text = {0};
    enum err e = buf_printf(&text, "%s\n%" PRIu64, batch, line);
    if (e == ERR_OK)
        hash128_hex(text.data, text.len, ret->hex);
    buf_free(&text);
    return e;
}

static void key_id(struct json_out *o, const char *key, const char *prefix,
                   const struct line_id *id)
{
    char text[64];
    snprintf(text, sizeof text, "%s%s", prefix, id->hex);
    json_key(o, key);
    json_str(o, str_of(text));
}

static void key_str(struct json_out *o, const char *key, struct str text)
{
    json_key(o, key);
    json_str(o, text);
}

static void key_u64(struct json_out *o, const char *key, uint64_t v)
{
    json_key(o, key);
    json_u64(o, v);
}

static void key_str_or_null(struct json_out *o, const char *key, struct str text)
{
    json_key(o, key);
    if (text.len > 0)
        json_str(o, text);
    else
        json_null(o);
}

static void key_known(struct json_out *o, const char *key, struct str text)
{
    if (text.len > 0)
        key_str(o, key, text);
}

static void key_time(struct json_out *o, const char *key, uint64_t ms)
{
    char text[TEXT_TIME_BYTES];
    if (text_time(ms, text))
        key_str(o, key, str_of(text));
}

static void put_choice(struct json_out *o, bool chat, uint64_t index, const struct rec_CHOICE *c)
{
    json_open(o, '{');
    key_u64(o, "index", index);
    if (chat) {
        json_key(o, "message");
        json_open(o, '{');
        key_str(o, "role", STR_LIT("assistant"));
        key_str(o, "content", c->text);
        json_key(o, "refusal"); /* OpenAI's clients may ask for it */
        json_null(o);
        json_close(o, '}');
    } else {
        key_str(o, "text", c->text);
    }
    key_str(o, "finish_reason", c->finish_reason);
    json_key(o, "logprobs");
    if (c->logprobs.count == 0)
        json_null(o);
    else if (chat)
        logprobs_put_chat(o, c);
    else
        logprobs_put_completion(o, c);
    json_close(o, '}');
}

static void put_answer(struct json_out *o, const struct rec_FETCHED *f, const struct rec_OUTPUT *r,
                       const struct line_id *id)
{
    key_id(o, "id", r->chat ? "chatcmpl-" : "cmpl-", id);
    key_str(o, "object", r->chat ? STR_LIT("chat.completion") : STR_LIT("text_completion"));
    key_u64(o, "created", created_base + f->line);
    key_str(o, "model", r->model_name);
    json_key(o, "choices");
    json_open(o, '[');
    for (size_t i = 0; i < r->choices.count; i++)
        put_choice(o, r->chat, i, &r->choices.items[i]);
    json_close(o, ']');
    json_key(o, "usage");
    json_open(o, '{');
    key_u64(o, "prompt_tokens", r->prompt_tokens);
    key_u64(o, "completion_tokens", r->completion_tokens);
    key_u64(o, "total_tokens", r->prompt_tokens + r->completion_tokens);
    json_close(o, '}');
}

static void put_error(struct json_out *o, const struct rec_OUTPUT *r, const char *message)
{
    json_key(o, "error");
    json_open(o, '{');
    key_str(o, "message", str_of(message));
    key_str_or_null(o, "type", r->error_type);
    key_str_or_null(o, "param", r->error_param);
    key_str_or_null(o, "code", r->error_code);
    json_close(o, '}');
}

/* The `response` and `error` members. */
static void put_outcome(struct json_out *o, const struct rec_FETCHED *f, const struct rec_OUTPUT *r,
                        const struct line_id *id, const char *message, bool cancelled)
{
    bool expired = r->status_code != 200 && str_eq(r->error_code, STR_LIT("batch_expired"));
    json_key(o, "response");
    if (cancelled || expired) {
        json_null(o);
        json_key(o, "error");
        json_open(o, '{');
        key_str(o, "code", cancelled ? STR_LIT("batch_cancelled") : r->error_code);
        key_str(o, "message", str_of(message));
        json_close(o, '}');
        return;
    }
    json_open(o, '{');
    key_u64(o, "status_code", r->status_code);
    key_id(o, "request_id", "req_", id);
    json_key(o, "body");
    json_open(o, '{');
    if (r->status_code == 200)
        put_answer(o, f, r, id);
    else
        put_error(o, r, message);
    json_close(o, '}');
    json_close(o, '}');
    json_key(o, "error");
    json_null(o);
}

static void put_provenance(struct json_out *o, const char *batch, const struct rec_FETCHED *f,
                           const struct rec_OUTPUT *r)
{
    bool answered = r->status_code == 200;
    json_key(o, "octoflow");
    json_open(o, '{');
    key_u64(o, "line", f->line);
    key_str(o, "batch", str_of(batch));
    key_known(o, "model", r->model_name);
    key_known(o, "model_hash", r->model_hash);
    key_known(o, "quantization", r->quantization);
    key_known(o, "numeric_class", r->numeric_class);
    key_known(o, "device", r->device);
    key_known(o, "driver", r->driver);
    key_known(o, "build", r->build);
    if (answered) {
        /* signed, as a request's seed is: what is written here can be asked for again */
        json_key(o, "seed");
        json_i64(o, (int64_t)r->seed);
        key_u64(o, "cached_tokens", r->cached_tokens);
    }
    key_u64(o, "attempts", f->attempts);
    key_known(o, "worker", r->worker);
    key_time(o, "submitted_at", f->submitted_ms);
    key_time(o, "started_at", r->started_ms);
    key_time(o, "finished_at", r->finished_ms != 0 ? r->finished_ms : f->finished_ms);
    if (answered) {
        json_key(o, "energy_j");
        json_f64(o, r->energy_j > 0 ? r->energy_j : NAN, 6);
    }
    json_close(o, '}');
}

/* What is to be said of the line: its own number first, whoever refused it. */
static void make_message(const struct rec_FETCHED *f, const struct rec_OUTPUT *r, bool cancelled,
                         struct err_msg *ret)
{
    if (cancelled)
        err_set(ret, ERR_OK, "line %" PRIu64 ": cancelled before it was finished", f->line);
    else
        err_set(ret, ERR_OK, "line %" PRIu64 ": %.*s", f->line, STR_ARG(r->error_message));
}

enum err output_append(const char *batch, const struct rec_FETCHED *f, struct buf *out,
                       struct output_summary *ret)
{
    struct arena arena = {0};
    struct rec_OUTPUT r = {0};
    struct err_msg message = {{0}};
    struct line_id id;
    size_t before = out->len;
    bool cancelled = str_eq(f->state, STR_LIT("cancelled"));
    enum err e = make_id(batch, f->line, &id);
    if (e == ERR_OK && !cancelled) {
        e = proto_decode_output(f->body.data, f->body.len, &arena, &r, &message);
        bool empty = e == ERR_OK && r.status_code == 200 && r.choices.count == 0;
        for (size_t i = 0; e == ERR_OK && i < r.choices.count; i++)
            empty = empty ||
                    r.choices.items[i].logprobs.count % (1 + r.choices.items[i].top_logprobs) != 0;
        if ((e != ERR_OK && e != ERR_NOMEM) || empty) {
            r = (struct rec_OUTPUT){.status_code = 500,
                                    .error_message = STR_LIT("the stored result is unreadable"),
                                    .error_type = STR_LIT("server_error"),
                                    .error_code = STR_LIT("unreadable_result")};
            e = ERR_OK;
        }
    }
    if (e == ERR_OK) {
        struct json_out o = {.buf = out};
        make_message(f, &r, cancelled, &message);
        json_open(&o, '{');
        key_id(&o, "id", "batch_req_", &id);
        key_str_or_null(&o, "custom_id", f->custom_id);
        put_outcome(&o, f, &r, &id, message.text, cancelled);
        put_provenance(&o, batch, f, &r);
        json_close(&o, '}');
        e = o.e == ERR_OK ? buf_append_char(out, '\n') : o.e;
    }
    if (e == ERR_OK) {
        *ret = (struct output_summary){.kind = cancelled              ? OUTPUT_CANCELLED
                                               : r.status_code == 200 ? OUTPUT_ANSWER
                                                                      : OUTPUT_FAILED,
                                       .prompt_tokens = r.prompt_tokens,
                                       .completion_tokens = r.completion_tokens,
                                       .energy_j = r.energy_j > 0 ? r.energy_j : 0};
        if (ret->kind != OUTPUT_ANSWER)
            snprintf(ret->reason, sizeof ret->reason, "%.150s", message.text);
    } else {
        out->len = before;
    }
    arena_free(&arena);
    return e;
}
