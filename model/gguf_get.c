/* Reads metadata values out of a checked GGUF file: typed getters and text for people. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/buf.h"
#include "base/utf8.h"
#include "model/gguf_impl.h"

size_t gguf_kv_count(const struct gguf *g)
{
    return g->kv_count;
}

struct str gguf_kv_key(const struct gguf *g, size_t i)
{
    return g->kvs[i].key;
}

enum gguf_kind gguf_kv_kind(const struct gguf *g, size_t i)
{
    return g->kvs[i].kind;
}

/* A scalar's bytes as the widest type of its sort. */
struct scalar {
    enum { SCALAR_UNSIGNED, SCALAR_SIGNED, SCALAR_FLOAT } sort;
    uint64_t u;
    int64_t i;
    double f;
};

#define LOAD(type, ptr)                                                                            \
    __extension__({                                                                                \
        type load_value;                                                                           \
        memcpy(&load_value, ptr, sizeof(load_value));                                              \
        load_value;                                                                                \
    })

static struct scalar scalar_load(enum gguf_kind kind, const uint8_t *p)
{
    switch (kind) {
    case GGUF_U8:
    case GGUF_BOOL:
        return (struct scalar){.sort = SCALAR_UNSIGNED, .u = *p};
    case GGUF_U16:
        return (struct scalar){.sort = SCALAR_UNSIGNED, .u = LOAD(uint16_t, p)};
    case GGUF_U32:
        return (struct scalar){.sort = SCALAR_UNSIGNED, .u = LOAD(uint32_t, p)};
    case GGUF_U64:
        return (struct scalar){.sort = SCALAR_UNSIGNED, .u = LOAD(uint64_t, p)};
    case GGUF_I8:
        return (struct scalar){.sort = SCALAR_SIGNED, .i = LOAD(int8_t, p)};
    case GGUF_I16:
        return (struct scalar){.sort = SCALAR_SIGNED, .i = LOAD(int16_t, p)};
    case GGUF_I32:
        return (struct scalar){.sort = SCALAR_SIGNED, .i = LOAD(int32_t, p)};
    case GGUF_I64:
        return (struct scalar){.sort = SCALAR_SIGNED, .i = LOAD(int64_t, p)};
    case GGUF_F32:
        return (struct scalar){.sort = SCALAR_FLOAT, .f = (double)LOAD(float, p)};
    case GGUF_F64:
        return (struct scalar){.sort = SCALAR_FLOAT, .f = LOAD(double, p)};
    case GGUF_STR:
    case GGUF_ARRAY:
        break;
    }
    return (struct scalar){.sort = SCALAR_UNSIGNED};
}

/* Text for a terminal: control characters and what is no UTF-8 as escapes. Stops soon after `max`
 * bytes. */
static enum err print_text(struct str text, size_t max, struct buf *out)
{
    size_t begin = out->len;
    for (size_t at = 0; at < text.len && out->len - begin <= max;) {
        unsigned char c = (unsigned char)text.data[at];
        size_t n = c < 0x80 ? 1 : c < 0xe0 ? 2 : c < 0xf0 ? 3 : 4;
        enum err e;
        if (n > text.len - at || !utf8_is_valid(text.data + at, n))
            n = 1;
        if (c == '\n' || c == '\t' || c == '\r')
            e = buf_printf(out, "\\%c", c == '\n' ? 'n' : c == '\t' ? 't' : 'r');
        else if (c < 0x20 || c == 0x7f || (n == 1 && c >= 0x80))
            e = buf_printf(out, "\\x%02x", c);
        else if (c == 0xc2 && (unsigned char)text.data[at + 1] < 0xa0) /* C1 controls */
            e = buf_printf(out, "\\u00%02x", (unsigned char)text.data[at + 1]);
        else
            e = buf_append(out, text.data + at, n);
        if (e != ERR_OK)
            return e;
        at += n;
    }
    return ERR_OK;
}

static enum err print_scalar(enum gguf_kind kind, const uint8_t *p, struct buf *out)
{
    struct scalar s = scalar_load(kind, p);
    if (kind == GGUF_BOOL)
        return buf_append_str(out, s.u ? "true" : "false");
    switch (s.sort) {
    case SCALAR_UNSIGNED:
        return buf_printf(out, "%" PRIu64, s.u);
    case SCALAR_SIGNED:
        return buf_printf(out, "%" PRId64, s.i);
    case SCALAR_FLOAT:
        return buf_printf(out, "%.*g", kind == GGUF_F32 ? 7 : 15, s.f);
    }
    return ERR_OK;
}

static enum err print_array(const struct gguf_kv *kv, size_t max, struct buf *out)
{
    size_t begin = out->len;
    enum err e = buf_printf(out, "[%" PRIu64 " items", kv->count);
    for (uint64_t i = 0; e == ERR_OK && i < kv->count && out->len - begin <= max; i++) {
        e = buf_append_str(out, i == 0 ? ": " : ", ");
        if (e != ERR_OK)
            break;
        if (kv->elem == GGUF_STR)
            e = print_text(kv->strs[i], max, out);
        else
            e = print_scalar(kv->elem, kv->value + i * gguf_kind_bytes(kv->elem), out);
    }
    return e == ERR_OK ? buf_append_char(out, ']') : e;
}

enum err gguf_kv_print(const struct gguf *g, size_t i, size_t max, struct buf *out)
{
    const struct gguf_kv *kv = &g->kvs[i];
    struct buf text = {0};
    enum err e;
    if (kv->kind == GGUF_STR)
        e = print_text((struct str){(const char *)kv->value, kv->value_bytes}, max, &text);
    else if (kv->kind == GGUF_ARRAY)
        e = print_array(kv, max, &text);
    else
        e = print_scalar(kv->kind, kv->value, &text);
    if (e == ERR_OK && text.len > max) {
        text.len = utf8_valid_prefix(text.data, max);
        e = buf_append_str(&text, "...");
    }
    if (e == ERR_OK)
        e = buf_append(out, text.data, text.len);
    buf_free(&text);
    return e;
}

static enum err find(const struct gguf *g, const char *key, const struct gguf_kv **ret,
                     struct err_msg *why)
{
    const struct gguf_kv *kv = gguf_kv_find(g, str_of(key));
    if (kv == NULL)
        return err_set(why, ERR_NOT_FOUND, "%s: has no key '%s'", g->path, key);
    *ret = kv;
    return ERR_OK;
}

static enum err wrong_kind(const struct gguf *g, const struct gguf_kv *kv, const char *want,
                           struct err_msg *why)
{
    if (kv->kind == GGUF_ARRAY)
        return err_set(why, ERR_FORMAT, "%s: key '%.*s' is an array of %s, expected %s", g->path,
                       STR_ARG(kv->key), gguf_kind_name(kv->elem), want);
    return err_set(why, ERR_FORMAT, "%s: key '%.*s' is %s, expected %s", g->path, STR_ARG(kv->key),
                   gguf_kind_name(kv->kind), want);
}

enum err gguf_get_u32(const struct gguf *g, const char *key, uint32_t *ret, struct err_msg *why)
{
    const struct gguf_kv *kv;
    enum err e = find(g, key, &kv, why);
    if (e != ERR_OK)
        return e;
    if (gguf_kind_bytes(kv->kind) == 0 || kv->kind == GGUF_BOOL || kv->kind == GGUF_F32 ||
        kv->kind == GGUF_F64)
        return wrong_kind(g, kv, "an integer", why);
    struct scalar s = scalar_load(kv->kind, kv->value);
    if (s.sort == SCALAR_SIGNED) {
        if (s.i < 0)
            return err_set(why, ERR_FORMAT, "%s: key '%s' is %" PRId64 ", expected at least 0",
                           g->path, key, s.i);
        s.u = (uint64_t)s.i;
    }
    if (s.u > UINT32_MAX)
        return err_set(why, ERR_FORMAT, "%s: key '%s' is %" PRIu64 ", expected at most %u", g->path,
                       key, s.u, UINT32_MAX);
    *ret = (uint32_t)s.u;
    return ERR_OK;
}

enum err gguf_get_f32(const struct gguf *g, const char *key, float *ret, struct err_msg *why)
{
    const struct gguf_kv *kv;
    enum err e = find(g, key, &kv, why);
    if (e != ERR_OK)
        return e;
    if (kv->kind != GGUF_F32 && kv->kind != GGUF_F64)
        return wrong_kind(g, kv, "a floating-point number", why);
    *ret = (float)scalar_load(kv->kind, kv->value).f;
    return ERR_OK;
}

enum err gguf_get_bool(const struct gguf *g, const char *key, bool *ret, struct err_msg *why)
{
    const struct gguf_kv *kv;
    enum err e = find(g, key, &kv, why);
    if (e != ERR_OK)
        return e;
    if (kv->kind != GGUF_BOOL)
        return wrong_kind(g, kv, "a bool", why);
    *ret = *kv->value != 0;
    return ERR_OK;
}

enum err gguf_get_str(const struct gguf *g, const char *key, struct str *ret, struct err_msg *why)
{
    const struct gguf_kv *kv;
    enum err e = find(g, key, &kv, why);
    if (e != ERR_OK)
        return e;
    if (kv->kind != GGUF_STR)
        return wrong_kind(g, kv, "a string", why);
    *ret = (struct str){(const char *)kv->value, kv->value_bytes};
    return ERR_OK;
}

enum err gguf_get_strs(const struct gguf *g, const char *key, const struct str **ret,
                       size_t *ret_count, struct err_msg *why)
{
    const struct gguf_kv *kv;
    enum err e = find(g, key, &kv, why);
    if (e != ERR_OK)
        return e;
    if (kv->kind != GGUF_ARRAY || kv->elem != GGUF_STR)
        return wrong_kind(g, kv, "an array of strings", why);
    *ret = kv->strs;
    *ret_count = (size_t)kv->count;
    return ERR_OK;
}

enum err gguf_get_array(const struct gguf *g, const char *key, enum gguf_kind kind,
                        const void **ret_data, size_t *ret_count, struct err_msg *why)
{
    const struct gguf_kv *kv;
    enum err e = find(g, key, &kv, why);
    if (e != ERR_OK)
        return e;
    if (kv->kind != GGUF_ARRAY || kv->elem != kind || kind == GGUF_STR) {
        char want[32];
        snprintf(want, sizeof(want), "an array of %s", gguf_kind_name(kind));
        return wrong_kind(g, kv, want, why);
    }
    *ret_data = kv->value;
    *ret_count = (size_t)kv->count;
    return ERR_OK;
}
