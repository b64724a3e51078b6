#include "client/logprobs.h"

#include <stdio.h>
#include <string.h>

#include "base/utf8.h"

enum { DECIMALS = 7 };

static bool is_text(struct str s)
{
    return utf8_valid_prefix(s.data, s.len) == s.len;
}

/* Valid UTF-8 in any case: each byte that is none becomes U+FFFD. */
static void put_shown(struct json_out *o, struct str s)
{
    struct buf text = {0};
    while (s.len > 0 && o->e == ERR_OK) {
        size_t good = utf8_valid_prefix(s.data, s.len);
        o->e = buf_append(&text, s.data, good);
        if (o->e == ERR_OK && good < s.len)
            o->e = buf_append_str(&text, "\xef\xbf\xbd");
        good += good < s.len;
        s = (struct str){s.data + good, s.len - good};
    }
    json_str(o, (struct str){text.data, text.len});
    buf_free(&text);
}

static void put_token(struct json_out *o, const struct rec_LOGPROB *l)
{
    json_key(o, "token");
    put_shown(o, l->token);
    json_key(o, "logprob");
    json_f64(o, l->logprob, DECIMALS);
    json_key(o, "bytes");
    json_open(o, '[');
    for (size_t i = 0; i < l->token.len; i++)
        json_u64(o, (unsigned char)l->token.data[i]);
    json_close(o, ']');
}

void logprobs_put_chat(struct json_out *o, const struct rec_CHOICE *c)
{
    json_open(o, '{');
    json_key(o, "content");
    json_open(o, '[');
    for (size_t i = 0; i < c->logprobs.count; i += 1 + c->top_logprobs) {
        const struct rec_LOGPROB *l = &c->logprobs.items[i];
        json_open(o, '{');
        put_token(o, l);
        json_key(o, "top_logprobs");
        json_open(o, '[');
        for (size_t k = 1; k <= c->top_logprobs; k++) {
            json_open(o, '{');
            put_token(o, &l[k]);
            json_close(o, '}');
        }
        json_close(o, ']');
        json_close(o, '}');
    }
    json_close(o, ']');
    json_key(o, "refusal");
    json_null(o);
    json_close(o, '}');
}

/* A token's name in a completion's lists; as a key with its colon. */
static void put_name(struct json_out *o, struct str token, bool key)
{
    struct buf name = {0};
    bool text = is_text(token);
    if (o->e == ERR_OK)
        o->e = text ? buf_append(&name, token.data, token.len) : buf_append_str(&name, "bytes:");
    for (size_t i = 0; i < token.len && !text && o->e == ERR_OK; i++)
        o->e = buf_printf(&name, "\\x%02x", (unsigned char)token.data[i]);
    struct str s = {name.data, name.len};
    if (key)
        json_key_str(o, s);
    else
        json_str(o, s);
    buf_free(&name);
}

static bool has_token(const struct rec_LOGPROB *top, size_t count, struct str token)
{
    for (size_t i = 0; i < count; i++) {
        if (str_eq(top[i].token, token))
            return true;
    }
    return false;
}

/* The likeliest, and the chosen one (before them) where it is none of these. */
static void put_top(struct json_out *o, const struct rec_LOGPROB *chosen, size_t count)
{
    const struct rec_LOGPROB *top = chosen + 1;
    json_open(o, '{');
    for (size_t i = 0; i < count; i++) {
        if (has_token(top, i, top[i].token))
            continue;
        put_name(o, top[i].token, true);
        json_f64(o, top[i].logprob, DECIMALS);
    }
    if (!has_token(top, count, chosen->token)) {
        put_name(o, chosen->token, true);
        json_f64(o, chosen->logprob, DECIMALS);
    }
    json_close(o, '}');
}

void logprobs_put_completion(struct json_out *o, const struct rec_CHOICE *c)
{
    size_t stride = 1 + c->top_logprobs, count = c->logprobs.count;
    const struct rec_LOGPROB *all = c->logprobs.items;
    json_open(o, '{');
    json_key(o, "tokens");
    json_open(o, '[');
    for (size_t i = 0; i < count; i += stride)
        put_name(o, all[i].token, false);
    json_close(o, ']');
    json_key(o, "token_logprobs");
    json_open(o, '[');
    for (size_t i = 0; i < count; i += stride)
        json_f64(o, all[i].logprob, DECIMALS);
    json_close(o, ']');
    json_key(o, "top_logprobs");
    if (stride == 1) {
        json_null(o);
    } else {
        json_open(o, '[');
        for (size_t i = 0; i < count; i += stride)
            put_top(o, all + i, stride - 1);
        json_close(o, ']');
    }
    json_key(o, "text_offset");
    json_open(o, '[');
    for (size_t i = 0; i < count; i += stride)
        json_u64(o, all[i].text_offset);
    json_close(o, ']');
    json_close(o, '}');
}
