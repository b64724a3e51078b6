/* Writes JSON into a buffer: compact, keys in the order of the calls, UTF-8 as it is. The first
 * failure (out of memory) is kept in `e` and makes the rest no-ops, so that only the end needs a
 * check. */
#ifndef OCTO_CLIENT_JSON_H
#define OCTO_CLIENT_JSON_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "base/buf.h"
#include "base/str.h"

struct json_out {
    struct buf *buf;
    bool comma; /* a value was written: the next one needs a comma before it */
    enum err e;
};

void json_open(struct json_out *o, char bracket);  /* '{' or '[' */
void json_close(struct json_out *o, char bracket); /* '}' or ']' */
void json_key(struct json_out *o, const char *key);
void json_key_str(struct json_out *o, struct str key);
void json_str(struct json_out *o, struct str text); /* valid UTF-8 */
void json_u64(struct json_out *o, uint64_t v);
void json_i64(struct json_out *o, int64_t v);
void json_f64(struct json_out *o, double v, int decimals); /* finite; NaN, not known: null */
void json_bool(struct json_out *o, bool v);
void json_null(struct json_out *o);
/* What is written, as a line; frees the buffer. Whether it was printed, client_flush() knows. */
enum err json_print(struct json_out *o, FILE *out) MUST_CHECK;

/* An object with every field of a record but its lists, from the protocol's own table; pointers. */
#define JSON_RECORD(REC, out, record)                                                              \
    do {                                                                                           \
        struct json_out *o_ = (out);                                                               \
        __typeof__(record) r_ = (record);                                                          \
        json_open(o_, '{');                                                                        \
        REC(JSON_FIELD, JSON_LIST)                                                                 \
        json_close(o_, '}');                                                                       \
    } while (0)
#define JSON_FIELD(kind, name, limit, need, doc)                                                   \
    json_key(o_, #name);                                                                           \
    JSON_PUT_##kind(o_, r_->name);
#define JSON_LIST(rec, name, limit, need, doc)
#define JSON_PUT_U64(o, v)  json_u64(o, v)
#define JSON_PUT_F64(o, v)  json_f64(o, v, 3)
#define JSON_PUT_BOOL(o, v) json_bool(o, v)
#define JSON_PUT_STR(o, v)  json_str(o, v)

#endif
