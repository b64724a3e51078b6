/* Lines to requests; see request.h. Parsing is jansson's, strict: duplicate keys, invalid UTF-8,
 * NaN, lone surrogates and integers beyond 64 bits are errors. */
#include "client/request.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/buf.h"
#include "base/hash.h"
#include "base/size.h"
#include "base/utf8.h"
#include "client/request_impl.h"
#include "proto/schema.h"

enum { MAX_PROMPT_IDS = 1048576, MAX_PARAM_BYTES = 64 };

static enum err refuse_v(struct request *r, const char *code, const char *param, const char *fmt,
                         va_list args)
{
    char text[512];
    struct err_msg why;
    vsnprintf(text, sizeof text, fmt, args);
    err_set(&why, ERR_FORMAT, "%s", text);
    size_t param_len = param == NULL ? 0 : strlen(param);
    if (param_len > MAX_PARAM_BYTES)
        param_len = utf8_valid_prefix(param, MAX_PARAM_BYTES);
    size_t len = strlen(why.text);
    char *message = arena_copy(&r->arena, why.text, len);
    char *named = arena_copy(&r->arena, param == NULL ? "" : param, param_len);
    if (message == NULL || named == NULL)
        return ERR_NOMEM;
    r->refused = true;
    r->refusal = (struct rec_OUTPUT){.status_code = 400,
                                     .error_message = {message, len},
                                     .error_type = STR_LIT("invalid_request_error"),
                                     .error_code = str_of(code),
                                     .error_param = {named, param_len}};
    return ERR_FORMAT;
}

enum err request_bad(struct request *r, const char *code, const char *param, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    enum err e = refuse_v(r, code, param, fmt, args);
    va_end(args);
    return e;
}

enum err request_refuse(struct request *r, const char *code, const char *param, const char *fmt,
                        ...)
{
    va_list args;
    va_start(args, fmt);
    enum err e = refuse_v(r, code, param, fmt, args);
    va_end(args);
    return e == ERR_FORMAT ? ERR_OK : e;
}

const char *request_what_is(const json_t *v)
{
    static const char *const names[] = {
        [JSON_OBJECT] = "an object", [JSON_ARRAY] = "a list",  [JSON_STRING] = "a string",
        [JSON_INTEGER] = "a number", [JSON_REAL] = "a number", [JSON_TRUE] = "true",
        [JSON_FALSE] = "false",      [JSON_NULL] = "null"};
    return names[json_typeof(v)];
}

enum err request_wrong_type(struct request *r, const char *param, const json_t *found,
                            const char *expected)
{
    return request_bad(r, "invalid_type", param, "%s: found %s, expected %s", param,
                       request_what_is(found), expected);
}

/* ---- kinds of fields ---- */

bool request_expected(const struct field *f, char ret[REQUEST_EXPECTED_BYTES])
{
    switch (f->kind) {
    case FIELD_FLOAT:
        snprintf(ret, REQUEST_EXPECTED_BYTES, "a number %s%g to %g",
                 f->min_open ? "above " : "from ", f->min, f->max);
        return true;
    case FIELD_SEED:
        snprintf(ret, REQUEST_EXPECTED_BYTES, "a whole number from %" PRId64 " to %" PRId64,
                 INT64_MIN, INT64_MAX);
        return true;
    case FIELD_COUNT:
    case FIELD_TOP_K:
        snprintf(ret, REQUEST_EXPECTED_BYTES, "a whole number from %.0f to %.0f%s", f->min, f->max,
                 f->kind == FIELD_TOP_K ? " (-1 and 0: off)" : "");
        return true;
    default:
        return false;
    }
}

bool request_whole(const json_t *v, json_int_t *ret)
{
    static const double most = 9007199254740992.0; /* 2^53: above, a real has lost digits */
    double d = json_number_value(v);
    if (json_is_real(v) && (d < -most || d > most || d != (double)(json_int_t)d))
        return false;
    *ret = json_is_real(v) ? (json_int_t)d : json_integer_value(v);
    return json_is_number(v);
}

static enum err take_float(struct parser *p, const struct field *f, const json_t *v)
{
    char range[REQUEST_EXPECTED_BYTES];
    request_expected(f, range);
    if (!json_is_number(v))
        return request_wrong_type(p->r, f->name, v, range);
    double d = json_number_value(v);
    if (!(d >= f->min && d <= f->max) || (f->min_open && d <= f->min))
        return request_bad(p->r, "invalid_value", f->name, "%s is %g, expected %s", f->name, d,
                           range);
    memcpy((char *)&p->q + f->offset, &d, sizeof d);
    return ERR_OK;
}

static enum err take_count(struct parser *p, const struct field *f, const json_t *v)
{
    char expected[REQUEST_EXPECTED_BYTES];
    json_int_t i = 0;
    request_expected(f, expected);
    if (!request_whole(v, &i)) {
        if (json_is_real(v))
            return request_bad(p->r, "invalid_type", f->name, "%s is %.17g, expected %s", f->name,
                               json_real_value(v), expected);
        return request_wrong_type(p->r, f->name, v, expected);
    }
    if (f->kind == FIELD_SEED) {
        p->q.seed = (uint64_t)i;
        p->seed_given = true;
        return ERR_OK;
    }
    if ((double)i < f->min || (double)i > f->max)
        return request_bad(p->r, "invalid_value", f->name,
                           "%s is %" JSON_INTEGER_FORMAT ", expected %s", f->name, i, expected);
    uint64_t u = i < 0 ? 0 : (uint64_t)i;
    if (f->offset == offsetof(struct rec_REQUEST, max_tokens)) {
        if (p->max_tokens_from != NULL && p->q.max_tokens != u)
            return request_bad(p->r, "invalid_value", f->name,
                               "%s is %" PRIu64 ", but %s is %" PRIu64 ": say one of them", f->name,
                               u, p->max_tokens_from, p->q.max_tokens);
        p->max_tokens_from = f->name;
    }
    memcpy((char *)&p->q + f->offset, &u, sizeof u);
    return ERR_OK;
}

static enum err take_bool(struct parser *p, const struct field *f, const json_t *v)
{
    if (!json_is_boolean(v))
        return request_wrong_type(p->r, f->name, v, "true or false");
    bool b = json_is_true(v);
    memcpy((char *)&p->q + f->offset, &b, sizeof b);
    return ERR_OK;
}

static enum err take_texts(struct parser *p, const struct field *f, const json_t *v)
{
    size_t count = json_is_array(v) ? json_array_size(v) : 1;
    if (!json_is_array(v) && !(f->one_text && json_is_string(v)))
        return request_wrong_type(
            p->r, f->name, v, f->one_text ? "a string or a list of strings" : "a list of strings");
    if (count > (size_t)f->max)
        return request_bad(p->r, "invalid_value", f->name,
                           "%s has %zu strings, at most %.0f are possible", f->name, count, f->max);
    struct rec_TEXT *items = arena_alloc(&p->r->arena, count, sizeof *items);
    if (items == NULL)
        return ERR_NOMEM;
    for (size_t i = 0; i < count; i++) {
        const json_t *one = json_is_array(v) ? json_array_get(v, i) : v;
        if (!json_is_string(one))
            return request_bad(p->r, "invalid_type", f->name,
                               "%s: found %s in the list, expected strings", f->name,
                               request_what_is(one));
        if (json_string_length(one) == 0)
            return request_bad(p->r, "invalid_value", f->name,
                               "%s: string %zu is empty, expected some text", f->name, i + 1);
        items[i].text = request_text(one);
    }
    struct proto_list list = {items, count};
    memcpy((char *)&p->q + f->offset, &list, sizeof list);
    return ERR_OK;
}

static enum err take_ids(struct parser *p, const char *name, const json_t *v, size_t max,
                         struct u64s *ret)
{
    size_t count = json_array_size(v);
    if (!json_is_array(v))
        return request_wrong_type(p->r, name, v, "a list of token ids");
    if (count > max)
        return request_bad(p->r, "invalid_value", name,
                           "%s has %zu token ids, at most %zu are possible", name, count, max);
    uint64_t *items = arena_alloc(&p->r->arena, count, sizeof *items);
    if (items == NULL)
        return ERR_NOMEM;
    for (size_t i = 0; i < count; i++) {
        const json_t *one = json_array_get(v, i);
        json_int_t id = 0;
        if (!request_whole(one, &id) || id < 0 || id > UINT32_MAX)
            return request_bad(
                p->r, "invalid_type", name, "%s: item %zu is %s, expected token ids (0 or more)",
                name, i, json_is_number(one) ? "no whole number in range" : request_what_is(one));
        items[i] = (uint64_t)id;
    }
    *ret = (struct u64s){items, count};
    return ERR_OK;
}

static enum err take_prompt(struct parser *p, const struct field *f, const json_t *v)
{
    p->has_prompt = true;
    if (json_array_size(v) == 1 && json_is_string(json_array_get(v, 0)))
        v = json_array_get(v, 0);
    if (json_is_string(v)) {
        p->q.prompt = request_text(v);
        if (p->q.prompt.len == 0)
            return request_bad(p->r, "invalid_value", f->name,
                               "prompt is empty, expected some text");
        return ERR_OK;
    }
    if (!json_is_array(v))
        return request_wrong_type(p->r, f->name, v, "a string or a list of token ids");
    if (json_array_size(v) == 0)
        return request_bad(p->r, "invalid_value", f->name, "prompt is an empty list");
    const json_t *first = json_array_get(v, 0);
    if (json_is_string(first) || json_is_array(first))
        return request_bad(p->r, "unsupported_value", f->name,
                           "prompt is a list of prompts: write each on a line of its own");
    return take_ids(p, f->name, v, MAX_PROMPT_IDS, &p->q.prompt_ids);
}

/* ---- the whole ---- */

static enum err take_field(struct parser *p, const char *name, json_t *v)
{
    const struct field *f = field_find(name);
    if (f == NULL)
        return request_bad(p->r, "unknown_field", name, "unknown field \"%.100s\"", name);
    if (json_is_null(v))
        return ERR_OK;
    switch (f->kind) {
    case FIELD_FLOAT:
        return take_float(p, f, v);
    case FIELD_COUNT:
    case FIELD_TOP_K:
    case FIELD_SEED:
        return take_count(p, f, v);
    case FIELD_BOOL:
        return take_bool(p, f, v);
    case FIELD_TEXTS:
        return take_texts(p, f, v);
    case FIELD_BIAS:
        return request_take_bias(p, f, v);
    case FIELD_LOGPROBS:
        p->logprobs = v;
        return ERR_OK;
    case FIELD_TOKENS:
        return take_ids(p, f->name, v, (size_t)f->max, &p->q.stop_token_ids);
    case FIELD_PROMPT:
        return take_prompt(p, f, v);
    case FIELD_MESSAGES:
        return request_take_messages(p, f, v);
    case FIELD_HARMLESS:
        return ERR_OK;
    case FIELD_LATER:
        break;
    }
    if (field_is_neutral(f, v))
        return ERR_OK;
    return request_bad(p->r, "unsupported_field", name,
                       "field \"%s\" with this value is not supported yet", name);
}

static enum err finish_request(struct parser *p, const struct request_options *o)
{
    struct request *r = p->r;
    if (p->has_prompt && p->has_messages)
        return request_bad(r, "invalid_value", "prompt",
                           "both prompt and messages are there, expected one of them");
    if (!p->has_prompt && !p->has_messages)
        return request_bad(r, "missing_field", "", "%s missing",
                           p->short_form ? "prompt (or messages) is"
                           : p->chat_url ? "messages is"
                                         : "prompt is");
    if (!p->short_form && p->chat_url != p->has_messages)
        return request_bad(r, "invalid_value", p->has_prompt ? "prompt" : "messages",
                           p->chat_url ? "prompt belongs to /v1/completions, "
                                         "/v1/chat/completions takes messages"
                                       : "messages belong to /v1/chat/completions, "
                                         "/v1/completions takes prompt");
    enum err e = request_finish_logprobs(p);
    if (e != ERR_OK)
        return e;
    if (p->max_tokens_from == NULL)
        p->q.max_tokens = o->max_tokens;
    if (p->q.min_tokens > p->q.max_tokens)
        return request_bad(r, "invalid_value", "min_tokens",
                           "min_tokens is %" PRIu64 ", more than max_tokens, %" PRIu64,
                           p->q.min_tokens, p->q.max_tokens);
    /* 53 bits, so that every JSON program reads it back exactly */
    if (!p->seed_given)
        p->q.seed = hash64(r->custom_id.data, r->custom_id.len, o->batch_seed) >> 11;
    p->q.chat = p->has_messages;
    r->request = p->q;
    return ERR_OK;
}

bool request_id_is_good(struct str id)
{
    return id.len > 0 && id.len <= PROTO_MAX_CUSTOM_ID_BYTES &&
           memchr(id.data, '\0', id.len) == NULL;
}

enum err request_make_id(struct request *r, uint64_t line_number)
{
    char name[32];
    int len = snprintf(name, sizeof name, "line-%" PRIu64, line_number);
    r->custom_id = (struct str){arena_copy(&r->arena, name, (size_t)len), (size_t)len};
    r->id_is_made = true;
    return r->custom_id.data == NULL ? ERR_NOMEM : ERR_OK;
}

static enum err take_custom_id(struct parser *p, const json_t *v, uint64_t line_number)
{
    struct request *r = p->r;
    if (v == NULL || json_is_null(v)) {
        if (!p->short_form)
            return request_bad(r, "missing_field", "custom_id", "custom_id is missing");
        return request_make_id(r, line_number);
    }
    if (json_is_number(v)) {
        enum err e = request_keep_id(r, p->line);
        if (e != ERR_OK)
            return e;
    }
    if (!json_is_string(v))
        return request_wrong_type(r, "custom_id", v, "a string");
    struct str id = request_text(v);
    if (id.len > PROTO_MAX_CUSTOM_ID_BYTES)
        return request_bad(r, "invalid_value", "custom_id",
                           "custom_id \"%.40s...\" has %zu bytes, expected 1 to %d", id.data,
                           id.len, PROTO_MAX_CUSTOM_ID_BYTES);
    if (!request_id_is_good(id))
        return request_bad(r, "invalid_value", "custom_id",
                           "custom_id has %zu bytes, expected 1 to %d without NUL", id.len,
                           PROTO_MAX_CUSTOM_ID_BYTES);
    r->custom_id = id;
    return ERR_OK;
}

/* The envelope of the OpenAI Batch form. */
static enum err take_envelope(struct parser *p, json_t *root, json_t **ret_body)
{
    struct request *r = p->r;
    const char *key;
    json_t *v;
    json_object_foreach(root, key, v)
    {
        if (strcmp(key, "custom_id") != 0 && strcmp(key, "method") != 0 &&
            strcmp(key, "url") != 0 && strcmp(key, "body") != 0)
            return request_bad(r, "unknown_field", key,
                               "unknown field \"%.100s\" beside custom_id, method, url and body",
                               key);
    }
    const json_t *method = json_object_get(root, "method"), *url = json_object_get(root, "url");
    json_t *body = json_object_get(root, "body");
    if (!json_is_string(method) || strcmp(json_string_value(method), "POST") != 0)
        return request_bad(r, "invalid_value", "method", "method is %.60s, expected POST",
                           method == NULL           ? "missing"
                           : json_is_string(method) ? json_string_value(method)
                                                    : request_what_is(method));
    if (!json_is_string(url))
        return request_bad(r, "invalid_type", "url", "url is %s, expected a string",
                           url == NULL ? "missing" : request_what_is(url));
    p->chat_url = strcmp(json_string_value(url), "/v1/chat/completions") == 0;
    if (!p->chat_url && strcmp(json_string_value(url), "/v1/completions") != 0)
        return request_bad(r, "unknown_endpoint", "url",
                           "unknown endpoint \"%.100s\", expected /v1/chat/completions or "
                           "/v1/completions",
                           json_string_value(url));
    if (!json_is_object(body))
        return request_bad(r, "invalid_type", "body", "body is %s, expected an object",
                           body == NULL ? "missing" : request_what_is(body));
    *ret_body = body;
    return ERR_OK;
}

static enum err parse(struct parser *p, json_t *root, uint64_t line_number,
                      const struct request_options *o)
{
    json_t *body = root, *v;
    const char *key;
    if (!json_is_object(root))
        return request_bad(p->r, "invalid_json", NULL,
                           "found %s, expected an object: one request a line",
                           request_what_is(root));
    p->short_form = json_object_get(root, "body") == NULL && json_object_get(root, "url") == NULL &&
                    json_object_get(root, "method") == NULL;
    enum err e = take_custom_id(p, json_object_get(root, "custom_id"), line_number);
    if (e == ERR_OK && !p->short_form)
        e = take_envelope(p, root, &body);
    if (e != ERR_OK)
        return e;
    json_object_foreach(body, key, v)
    {
        if (body == root && strcmp(key, "custom_id") == 0)
            continue;
        e = take_field(p, key, v);
        if (e != ERR_OK)
            return e;
    }
    return finish_request(p, o);
}

enum err request_parse(struct str line, uint64_t line_number, const struct request_options *o,
                       struct request *ret)
{
    json_error_t error;
    *ret = (struct request){0};
    size_t valid = utf8_valid_prefix(line.data, line.len);
    if (valid < line.len) {
        enum err bad = request_keep_id(ret, line);
        if (bad == ERR_OK)
            bad = request_bad(ret, "invalid_json", NULL, "not UTF-8 at byte %zu", valid + 1);
        return bad == ERR_NOMEM ? bad : ERR_OK;
    }
    json_t *root = json_loadb(line.data, line.len, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &error);
    enum err e;
    if (root == NULL) {
        if (json_error_code(&error) == json_error_out_of_memory)
            return ERR_NOMEM;
        e = request_not_read(ret, line, line_number, &error);
    } else {
        struct parser p = {.r = ret,
                           .line = line,
                           .q = {.temperature = 1, .top_p = 1, .repetition_penalty = 1, .n = 1}};
        ret->json = root;
        e = parse(&p, root, line_number, o);
    }
    return e == ERR_NOMEM ? e : ERR_OK;
}

void request_free(struct request *r)
{
    json_decref(r->json);
    arena_free(&r->arena);
    *r = (struct request){0};
}

size_t request_prefix_hashes(const struct rec_REQUEST *r, uint64_t ret[64])
{
    struct buf text = {0};
    struct str prompt = r->prompt;
    if (r->chat) {
        for (size_t i = 0; i < r->messages.count; i++) {
            const struct rec_CHAT_MESSAGE *m = &r->messages.items[i];
            if (buf_append(&text, m->role.data, m->role.len) != ERR_OK ||
                buf_append_char(&text, '\n') != ERR_OK ||
                buf_append(&text, m->content.data, m->content.len) != ERR_OK ||
                buf_append_char(&text, '\n') != ERR_OK) {
                buf_free(&text);
                return 0;
            }
        }
        prompt = (struct str){text.data, text.len};
    } else if (r->prompt_ids.count > 0) {
        prompt = (struct str){(const char *)r->prompt_ids.items,
                              r->prompt_ids.count * sizeof *r->prompt_ids.items};
    }
    size_t count = 0;
    for (size_t bytes = 256; bytes <= prompt.len && count < 64; bytes *= 2)
        ret[count++] = hash64(prompt.data, bytes, 0);
    buf_free(&text);
    return count;
}
