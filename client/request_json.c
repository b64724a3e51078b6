/* What is said of a line that jansson does not take: numbers beyond 64 bits, half characters and
 * keys that come twice are JSON all the same, and whoever wrote them is told which field it is. See
 * request.h. */
#include <stdio.h>
#include <string.h>

#include "client/request_impl.h"

enum { MAX_SHOWN = 60, MAX_NUMBER_BYTES = 64, MAX_DEPTH = 2048 /* jansson's */ };

/* Keys and strings as they stand in the line, without their quotes. */
struct seen {
    struct str top, second; /* the last keys of the first two levels before the error */
    struct str key;         /* the last key of all before the error */
    size_t depth;           /* of the error */
    bool envelope;          /* a key of the OpenAI Batch form is there */
    bool has_id, id_is_text;
    struct str id; /* a string with its quotes, or a number */
};

static bool is_blank(char c)
{
    return c == ' ' || c == '\t' || c == '\r';
}

static bool is_of_number(char c)
{
    return (c >= '0' && c <= '9') || c == '-' || c == '+' || c == '.' || c == 'e' || c == 'E';
}

/* Behind the string that begins at `at`. */
static size_t string_end(struct str s, size_t at)
{
    for (at++; at < s.len && s.data[at] != '"'; at++)
        at += s.data[at] == '\\';
    return at < s.len ? at + 1 : s.len;
}

static void see_key(struct seen *s, struct str key, size_t depth)
{
    s->key = key;
    if (depth == 1) {
        s->top = key;
        s->second = (struct str){"", 0};
    } else if (depth == 2) {
        s->second = key;
    }
}

/* The value of the key custom_id at `at`; the first one counts. */
static void see_id(struct seen *s, struct str line, size_t at)
{
    size_t end = at;
    s->id_is_text = at < line.len && line.data[at] == '"';
    if (s->id_is_text)
        end = string_end(line, at);
    while (!s->id_is_text && end < line.len && is_of_number(line.data[end]))
        end++;
    s->id = (struct str){line.data + at, end - at};
    s->has_id = end > at;
}

/* Not a reader: what is no JSON goes through it as well. error_at: where the first reader stopped.
 */
static struct seen look_through(struct str line, size_t error_at)
{
    struct seen s = {.depth = 0};
    size_t depth = 0;
    for (size_t at = 0; at < line.len;) {
        char c = line.data[at];
        if (at < error_at)
            s.depth = depth;
        if (c != '"') {
            depth += c == '{' || c == '[';
            depth -= depth > 0 && (c == '}' || c == ']');
            at++;
            continue;
        }
        size_t end = string_end(line, at), next = end;
        while (next < line.len && is_blank(line.data[next]))
            next++;
        struct str key = {line.data + at + 1, end - at > 1 ? end - at - 2 : 0};
        if (next < line.len && line.data[next] == ':') {
            if (end <= error_at)
                see_key(&s, key, depth);
            s.envelope = s.envelope || (depth == 1 && (str_eq(key, STR_LIT("body")) ||
                                                       str_eq(key, STR_LIT("url")) ||
                                                       str_eq(key, STR_LIT("method"))));
            next++;
            while (next < line.len && is_blank(line.data[next]))
                next++;
            if (depth == 1 && !s.has_id && str_eq(key, STR_LIT("custom_id")))
                see_id(&s, line, next);
        }
        at = end;
    }
    return s;
}

static enum err keep_id(struct request *r, const struct seen *s)
{
    struct str id = s->id;
    json_t *v = NULL;
    if (!s->has_id)
        return ERR_OK;
    if (s->id_is_text) {
        v = json_loadb(id.data, id.len, JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL);
        id = v != NULL ? request_text(v) : (struct str){"", 0};
    } else if (id.len > MAX_NUMBER_BYTES) {
        return ERR_OK;
    }
    if (request_id_is_good(id))
        r->custom_id = (struct str){arena_copy(&r->arena, id.data, id.len), id.len};
    json_decref(v);
    return r->custom_id.len > 0 && r->custom_id.data == NULL ? ERR_NOMEM : ERR_OK;
}

enum err request_keep_id(struct request *r, struct str line)
{
    struct seen s = look_through(line, 0);
    return keep_id(r, &s);
}

/* The number that ends where the reader stopped. */
static enum err bad_number(struct request *r, struct str line, size_t at, const struct field *f,
                           const char *param)
{
    char expected[REQUEST_EXPECTED_BYTES] = "less than 1.8e308, whole numbers below 2^63";
    size_t from = at;
    while (from > 0 && is_of_number(line.data[from - 1]))
        from--;
    bool known = f != NULL && request_expected(f, expected);
    return request_bad(r, "invalid_value", param, "%s%s is %.*s%s, expected %s", param,
                       known ? "" : ": a number",
                       (int)(at - from < MAX_SHOWN ? at - from : MAX_SHOWN), line.data + from,
                       at - from > MAX_SHOWN ? "..." : "", expected);
}

enum err request_not_read(struct request *r, struct str line, uint64_t line_number,
                          const json_error_t *error)
{
    static const char half[] = "invalid Unicode '";
    size_t at = error->position < 0 || (size_t)error->position > line.len ? line.len
                                                                          : (size_t)error->position;
    struct seen s = look_through(line, at);
    bool in_body = str_eq(s.top, STR_LIT("body")) && s.second.len > 0;
    struct str name = in_body ? s.second : s.top;
    char param[MAX_SHOWN + 1];
    snprintf(param, sizeof param, "%.*s", (int)(name.len < MAX_SHOWN ? name.len : MAX_SHOWN),
             name.data);
    enum json_error_code code = json_error_code(error);
    bool is_half = strncmp(error->text, half, sizeof half - 1) == 0;
    bool is_json = is_half || code == json_error_numeric_overflow ||
                   code == json_error_duplicate_key || code == json_error_null_byte_in_key ||
                   code == json_error_stack_overflow;
    enum err e = keep_id(r, &s);
    if (e == ERR_OK && is_json && !s.has_id && !s.envelope)
        e = request_make_id(r, line_number);
    if (e != ERR_OK)
        return e;
    if (!is_json)
        return request_bad(r, "invalid_json", NULL, "not JSON: %.200s (byte %d)", error->text,
                           error->position);
    if (is_half)
        return request_bad(
            r, "invalid_value", param,
            "%s: %.*s is half of a character (a lone surrogate), expected both halves", param,
            (int)strcspn(error->text + sizeof half - 1, "'"), error->text + sizeof half - 1);
    if (code == json_error_duplicate_key)
        return request_bad(r, "duplicate_key", param,
                           "the key \"%.*s\" is there twice, expected once",
                           (int)(s.key.len < MAX_SHOWN ? s.key.len : MAX_SHOWN), s.key.data);
    if (code == json_error_null_byte_in_key)
        return request_bad(r, "invalid_value", param, "a key with \\u0000 in it is not supported");
    if (code == json_error_stack_overflow)
        return request_bad(r, "invalid_value", param,
                           "%s: nested too deep, expected less than %d levels", param, MAX_DEPTH);
    return bad_number(r, line, at, s.depth == (in_body ? 2 : 1) ? field_find(param) : NULL, param);
}
