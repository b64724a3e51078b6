/* A strict walk over msgpack bytes (github.com/msgpack/msgpack/blob/master/spec.md) that builds
 * nothing: it looks at depth and counts, and leaves the values to msgpack-c and their meaning to
 * codec.c. */
#include "proto/scan.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "base/str.h"
#include "proto/messages.h"

struct scan {
    const uint8_t *bytes;
    size_t len;
    size_t at;
    size_t objects, max_objects;
    struct str key; /* the last one read, for messages */
    struct err_msg *why;
};

enum shape { SHAPE_SCALAR, SHAPE_TEXT, SHAPE_BYTES, SHAPE_ARRAY, SHAPE_MAP, SHAPE_EXT, SHAPE_BAD };

/* What one head byte announces. length_bytes of a big-endian length follow it, or `fixed` is the
 * length. */
struct head {
    enum shape shape;
    uint8_t length_bytes;
    uint8_t fixed;
};

static struct head head_of(uint8_t b)
{
    if (b <= 0x7f || b >= 0xe0)
        return (struct head){SHAPE_SCALAR, 0, 0};
    if (b <= 0x8f)
        return (struct head){SHAPE_MAP, 0, b & 0x0f};
    if (b <= 0x9f)
        return (struct head){SHAPE_ARRAY, 0, b & 0x0f};
    if (b <= 0xbf)
        return (struct head){SHAPE_TEXT, 0, b & 0x1f};
    static const struct head rest[32] = {
        [0x00] = {SHAPE_SCALAR, 0, 0},                                /* nil */
        [0x01] = {SHAPE_BAD, 0, 0},                                   /* never used */
        [0x02] = {SHAPE_SCALAR, 0, 0}, [0x03] = {SHAPE_SCALAR, 0, 0}, /* false, true */
        [0x04] = {SHAPE_BYTES, 1, 0},  [0x05] = {SHAPE_BYTES, 2, 0},  [0x06] = {SHAPE_BYTES, 4, 0},
        [0x07] = {SHAPE_EXT, 0, 0},    [0x08] = {SHAPE_EXT, 0, 0},    [0x09] = {SHAPE_EXT, 0, 0},
        [0x0a] = {SHAPE_SCALAR, 0, 4}, [0x0b] = {SHAPE_SCALAR, 0, 8}, /* float */
        [0x0c] = {SHAPE_SCALAR, 0, 1}, [0x0d] = {SHAPE_SCALAR, 0, 2}, /* uint */
        [0x0e] = {SHAPE_SCALAR, 0, 4}, [0x0f] = {SHAPE_SCALAR, 0, 8}, [0x10] = {SHAPE_SCALAR, 0, 1},
        [0x11] = {SHAPE_SCALAR, 0, 2}, /* int */
        [0x12] = {SHAPE_SCALAR, 0, 4}, [0x13] = {SHAPE_SCALAR, 0, 8}, [0x14] = {SHAPE_EXT, 0, 0},
        [0x15] = {SHAPE_EXT, 0, 0},    [0x16] = {SHAPE_EXT, 0, 0},    [0x17] = {SHAPE_EXT, 0, 0},
        [0x18] = {SHAPE_EXT, 0, 0},    [0x19] = {SHAPE_TEXT, 1, 0},   [0x1a] = {SHAPE_TEXT, 2, 0},
        [0x1b] = {SHAPE_TEXT, 4, 0},   [0x1c] = {SHAPE_ARRAY, 2, 0},  [0x1d] = {SHAPE_ARRAY, 4, 0},
        [0x1e] = {SHAPE_MAP, 2, 0},    [0x1f] = {SHAPE_MAP, 4, 0},
    };
    return rest[b - 0xc0];
}

/* " at byte 17 (after "jobs")": where the reader stands. */
static enum err bad(const struct scan *s, size_t at, const char *what)
{
    int shown = s->key.len < 40 ? (int)s->key.len : 40;
    if (shown == 0)
        return err_set(s->why, ERR_PROTO, "message: byte %zu: %s", at, what);
    return err_set(s->why, ERR_PROTO, "message: byte %zu (key \"%.*s\"): %s", at, shown,
                   s->key.data, what);
}

/* Reads a head and its length; the content of texts, bytes and scalars is skipped too. */
static enum err read_head(struct scan *s, enum shape *ret_shape, uint32_t *ret_count,
                          struct str *ret_text)
{
    size_t start = s->at;
    if (s->at >= s->len)
        return bad(s, start, "cut off: a value is missing");
    struct head h = head_of(s->bytes[s->at++]);
    if (h.shape == SHAPE_EXT || h.shape == SHAPE_BAD)
        return bad(s, start,
                   h.shape == SHAPE_EXT ? "an extension type; the protocol has none"
                                        : "0xc1 is no msgpack value");
    if (++s->objects > s->max_objects)
        return bad(s, start, "too many values in one message");
    uint32_t length = h.fixed;
    if (h.length_bytes > s->len - s->at)
        return bad(s, start, "cut off inside a length");
    for (unsigned i = 0; i < h.length_bytes; i++)
        length = length << 8 | s->bytes[s->at++];
    size_t left = s->len - s->at;
    /* Every element is a byte or more, so a count above what is left is a lie. */
    uint64_t least = h.shape == SHAPE_MAP ? (uint64_t)length * 2 : length;
    if (least > left) {
        char text[120];
        snprintf(text, sizeof text, "announces %lu %s, but only %zu bytes follow",
                 (unsigned long)length,
                 h.shape == SHAPE_MAP     ? "map entries"
                 : h.shape == SHAPE_ARRAY ? "list elements"
                                          : "bytes",
                 left);
        return bad(s, start, text);
    }
    *ret_text = (struct str){(const char *)s->bytes + s->at, length};
    if (h.shape != SHAPE_MAP && h.shape != SHAPE_ARRAY)
        s->at += length;
    *ret_shape = h.shape;
    *ret_count = length;
    return ERR_OK;
}

static enum err scan_value(struct scan *s, unsigned depth);

static enum err scan_map(struct scan *s, uint32_t count, unsigned depth)
{
    struct str keys[PROTO_MAX_FIELDS];
    if (count > PROTO_MAX_FIELDS)
        return bad(s, s->at, "a map with too many entries; at most 64 are allowed");
    for (uint32_t i = 0; i < count; i++) {
        enum shape shape;
        uint32_t length;
        size_t start = s->at;
        enum err e = read_head(s, &shape, &length, &keys[i]);
        if (e != ERR_OK)
            return e;
        if (shape != SHAPE_TEXT)
            return bad(s, start, "a map key that is no text");
        s->key = keys[i];
        for (uint32_t j = 0; j < i; j++) {
            if (str_eq(keys[i], keys[j]))
                return bad(s, start, "the same key a second time in one map");
        }
        e = scan_value(s, depth);
        if (e != ERR_OK)
            return e;
    }
    return ERR_OK;
}

static enum err scan_value(struct scan *s, unsigned depth)
{
    enum shape shape;
    uint32_t count;
    struct str text;
    size_t start = s->at;
    enum err e = read_head(s, &shape, &count, &text);
    if (e != ERR_OK || (shape != SHAPE_MAP && shape != SHAPE_ARRAY))
        return e;
    if (depth + 1 > PROTO_MAX_DEPTH)
        return bad(s, start, "nested too deep; at most 4 levels are allowed");
    if (shape == SHAPE_MAP)
        return scan_map(s, count, depth + 1);
    for (uint32_t i = 0; i < count && e == ERR_OK; i++)
        e = scan_value(s, depth + 1);
    return e;
}

enum err proto_scan(const void *bytes, size_t len, size_t max_objects, struct err_msg *why)
{
    struct scan s = {.bytes = bytes, .len = len, .max_objects = max_objects, .why = why};
    if (len > PROTO_MAX_MESSAGE_BYTES)
        return err_set(why, ERR_PROTO, "message: %zu bytes; at most %d are allowed", len,
                       PROTO_MAX_MESSAGE_BYTES);
    if (len == 0)
        return err_set(why, ERR_PROTO, "message: empty; expected a msgpack map");
    struct head h = head_of(s.bytes[0]);
    if (h.shape != SHAPE_MAP && h.shape != SHAPE_ARRAY)
        return err_set(why, ERR_PROTO, "message: starts with byte 0x%02x; expected a msgpack map",
                       s.bytes[0]);
    enum err e = scan_value(&s, 0);
    if (e != ERR_OK)
        return e;
    if (h.shape != SHAPE_MAP)
        return err_set(why, ERR_PROTO, "message: a list; expected a msgpack map");
    if (s.at != len)
        return err_set(why, ERR_PROTO, "message: %zu bytes follow its end at byte %zu", len - s.at,
                       s.at);
    return ERR_OK;
}
