/* The JSON writer behind json.h; reading is jansson's. */
#include <inttypes.h>
#include <math.h>

#include "client/json.h"

static void put(struct json_out *o, const char *bytes, size_t len)
{
    if (o->e == ERR_OK)
        o->e = buf_append(o->buf, bytes, len);
}

static void before_value(struct json_out *o)
{
    if (o->comma)
        put(o, ",", 1);
    o->comma = true;
}

void json_open(struct json_out *o, char bracket)
{
    before_value(o);
    put(o, &bracket, 1);
    o->comma = false;
}

void json_close(struct json_out *o, char bracket)
{
    put(o, &bracket, 1);
    o->comma = true;
}

static void put_string(struct json_out *o, struct str text)
{
    put(o, "\"", 1);
    size_t from = 0;
    for (size_t i = 0; i < text.len; i++) {
        unsigned char c = (unsigned char)text.data[i];
        if (c >= 0x20 && c != '"' && c != '\\')
            continue;
        put(o, text.data + from, i - from);
        from = i + 1;
        static const char plain[] = {['"'] = '"',  ['\\'] = '\\', ['\b'] = 'b', ['\f'] = 'f',
                                     ['\n'] = 'n', ['\r'] = 'r',  ['\t'] = 't'};
        if (plain[c] != 0) {
            put(o, (char[]){'\\', plain[c]}, 2);
        } else if (o->e == ERR_OK) {
            o->e = buf_printf(o->buf, "\\u%04x", c);
        }
    }
    put(o, text.data + from, text.len - from);
    put(o, "\"", 1);
}

void json_key_str(struct json_out *o, struct str key)
{
    before_value(o);
    put_string(o, key);
    put(o, ":", 1);
    o->comma = false;
}

void json_key(struct json_out *o, const char *key)
{
    json_key_str(o, str_of(key));
}

void json_str(struct json_out *o, struct str text)
{
    before_value(o);
    put_string(o, text);
}

void json_u64(struct json_out *o, uint64_t v)
{
    before_value(o);
    if (o->e == ERR_OK)
        o->e = buf_printf(o->buf, "%" PRIu64, v);
}

void json_i64(struct json_out *o, int64_t v)
{
    before_value(o);
    if (o->e == ERR_OK)
        o->e = buf_printf(o->buf, "%" PRId64, v);
}

void json_f64(struct json_out *o, double v, int decimals)
{
    before_value(o);
    if (isnan(v))
        put(o, "null", 4);
    else if (o->e == ERR_OK)
        o->e = buf_printf(o->buf, "%.*f", decimals, v);
}

void json_bool(struct json_out *o, bool v)
{
    before_value(o);
    put(o, v ? "true" : "false", v ? 4 : 5);
}

void json_null(struct json_out *o)
{
    before_value(o);
    put(o, "null", 4);
}

enum err json_print(struct json_out *o, FILE *out)
{
    if (o->e == ERR_OK)
        fprintf(out, "%.*s\n", (int)o->buf->len, o->buf->data);
    buf_free(o->buf);
    return o->e;
}
