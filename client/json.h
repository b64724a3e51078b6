/* Writes JSON into a buffer: compact, keys in the order of the calls, UTF-8 as it is. The first
 * failure (out of memory) is kept in `e` and makes the rest no-ops, so that only the end needs a
 * check. */
#ifndef OCTO_CLIENT_JSON_H
#define OCTO_CLIENT_JSON_H

#include <stdbool.h>
#include <stdint.h>

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
void json_f64(struct json_out *o, double v, int decimals); /* finite */
void json_bool(struct json_out *o, bool v);
void json_null(struct json_out *o);

#endif
