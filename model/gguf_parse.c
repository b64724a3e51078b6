/* Checks a GGUF file's bytes and makes the tables of its keys and tensors. Every number of the file
 * is taken for hostile: nothing is allocated by a count before the bytes that remain could hold
 * that many entries, nothing is added or multiplied unchecked, no pointer is formed before its
 * range is known to lie in the file. Layout: the GGUF specification (ggml, docs/gguf.md), versions
 * 2 and 3. */
#include <inttypes.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/size.h"
#include "base/utf8.h"
#include "model/gguf_impl.h"

enum {
    MAX_KEY_BYTES = 65535,
    MAX_TENSOR_NAME_BYTES = 64,
    MAX_DIMS = 4,
    DEFAULT_ALIGNMENT = 32,
    MAX_ALIGNMENT = 65536,
    MAX_ENTRIES = 1 << 20, /* keys or tensors; far above any model, below what sorting notices */
    /* The least a key (length, 1 byte, kind, 1 byte of value) and a tensor (length, 1 byte,
     * dims_count, one dimension, type, offset) can take. */
    MIN_KV_BYTES = 8 + 1 + 4 + 1,
    MIN_TENSOR_BYTES = 8 + 1 + 4 + 8 + 4 + 8,
};

/* A position in the file; `what` is being read, for messages. */
struct reader {
    const uint8_t *bytes;
    size_t len, at;
    struct err_msg *why;
    char what[160];
};

static const struct {
    const char *name;
    size_t bytes;
} kinds[] = {
    [GGUF_U8] = {"u8", 1},       [GGUF_I8] = {"i8", 1},     [GGUF_U16] = {"u16", 2},
    [GGUF_I16] = {"i16", 2},     [GGUF_U32] = {"u32", 4},   [GGUF_I32] = {"i32", 4},
    [GGUF_F32] = {"f32", 4},     [GGUF_BOOL] = {"bool", 1}, [GGUF_STR] = {"str", 0},
    [GGUF_ARRAY] = {"array", 0}, [GGUF_U64] = {"u64", 8},   [GGUF_I64] = {"i64", 8},
    [GGUF_F64] = {"f64", 8},
};

const char *gguf_kind_name(enum gguf_kind kind)
{
    return kinds[kind].name;
}

size_t gguf_kind_bytes(enum gguf_kind kind)
{
    return kinds[kind].bytes;
}

static void say_what(struct reader *r, const char *fmt, ...) PRINTF_LIKE(2, 3);

static void say_what(struct reader *r, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    vsnprintf(r->what, sizeof(r->what), fmt, args);
    va_end(args);
}

static enum err truncated(struct reader *r, uint64_t want)
{
    return err_set(r->why, ERR_FORMAT,
                   "truncated: %s at byte %zu needs %" PRIu64 " bytes, the file ends after %zu",
                   r->what, r->at, want, r->len - r->at);
}

static enum err take(struct reader *r, uint64_t want, const uint8_t **ret)
{
    if (want > r->len - r->at)
        return truncated(r, want);
    *ret = r->bytes + r->at;
    r->at += (size_t)want;
    return ERR_OK;
}

static enum err take_u32(struct reader *r, uint32_t *ret)
{
    const uint8_t *p = NULL;
    enum err e = take(r, sizeof(*ret), &p);
    if (e == ERR_OK)
        memcpy(ret, p, sizeof(*ret));
    return e;
}

static enum err take_u64(struct reader *r, uint64_t *ret)
{
    const uint8_t *p = NULL;
    enum err e = take(r, sizeof(*ret), &p);
    if (e == ERR_OK)
        memcpy(ret, p, sizeof(*ret));
    return e;
}

static enum err take_str(struct reader *r, struct str *ret)
{
    uint64_t len = 0;
    const uint8_t *p = NULL;
    enum err e = take_u64(r, &len);
    if (e == ERR_OK)
        e = take(r, len, &p);
    if (e == ERR_OK)
        *ret = (struct str){(const char *)p, (size_t)len};
    return e;
}

static bool is_printable(struct str name)
{
    for (size_t i = 0; i < name.len; i++) {
        unsigned char c = (unsigned char)name.data[i];
        bool c1 = c == 0xc2 && i + 1 < name.len && (unsigned char)name.data[i + 1] < 0xa0;
        if (c < 0x20 || c == 0x7f || c1)
            return false;
    }
    return utf8_is_valid(name.data, name.len);
}

/* A key or a tensor's name: shown to people, so it is text. */
static enum err take_name(struct reader *r, size_t max, struct str *ret)
{
    struct str name = {0};
    enum err e = take_str(r, &name);
    if (e != ERR_OK)
        return e;
    if (name.len == 0 || name.len > max)
        return err_set(r->why, ERR_FORMAT, "%s is %zu bytes long, expected 1 to %zu", r->what,
                       name.len, max);
    if (!is_printable(name))
        return err_set(r->why, ERR_FORMAT, "%s is no printable UTF-8 text", r->what);
    *ret = name;
    return ERR_OK;
}

static enum err take_kind(struct reader *r, enum gguf_kind *ret)
{
    uint32_t kind = 0;
    enum err e = take_u32(r, &kind);
    if (e != ERR_OK)
        return e;
    if (kind >= ARRAY_LEN(kinds))
        return err_set(r->why, ERR_FORMAT, "%s has type number %" PRIu32 ", expected 0 to %zu",
                       r->what, kind, ARRAY_LEN(kinds) - 1);
    *ret = (enum gguf_kind)kind;
    return ERR_OK;
}

static enum err take_bools(struct reader *r, const uint8_t *bytes, uint64_t count)
{
    for (uint64_t i = 0; i < count; i++)
        if (bytes[i] > 1)
            return err_set(r->why, ERR_FORMAT, "%s: a bool is %u, expected 0 or 1", r->what,
                           bytes[i]);
    return ERR_OK;
}

static enum err take_array(struct reader *r, struct gguf *g, struct gguf_kv *kv)
{
    enum err e = take_kind(r, &kv->elem);
    if (e == ERR_OK)
        e = take_u64(r, &kv->count);
    if (e != ERR_OK)
        return e;
    if (kv->elem == GGUF_ARRAY)
        return err_set(r->why, ERR_UNSUPPORTED, "%s is an array of arrays, which is not supported",
                       r->what);
    size_t left = r->len - r->at;
    size_t least = kv->elem == GGUF_STR ? 8 : gguf_kind_bytes(kv->elem);
    if (kv->count > left / least)
        return err_set(r->why, ERR_FORMAT,
                       "%s has %" PRIu64 " elements of %s, impossible in the %zu bytes that follow",
                       r->what, kv->count, gguf_kind_name(kv->elem), left);
    if (kv->elem != GGUF_STR) {
        kv->value_bytes = (size_t)kv->count * least;
        e = take(r, kv->value_bytes, &kv->value);
        if (e == ERR_OK && kv->elem == GGUF_BOOL)
            e = take_bools(r, kv->value, kv->count);
        return e;
    }
    struct str *strs = arena_alloc(&g->arena, (size_t)kv->count, sizeof(*strs));
    if (strs == NULL)
        return err_set(r->why, ERR_NOMEM, "%s: out of memory", r->what);
    for (uint64_t i = 0; i < kv->count; i++) {
        e = take_str(r, &strs[i]);
        if (e != ERR_OK)
            return err_prefix(r->why, e, "element %" PRIu64, i);
    }
    kv->strs = strs;
    return ERR_OK;
}

static enum err take_kv(struct reader *r, struct gguf *g, size_t index, struct gguf_kv *kv)
{
    say_what(r, "key %zu", index);
    enum err e = take_name(r, MAX_KEY_BYTES, &kv->key);
    if (e != ERR_OK)
        return e;
    say_what(r, "key '%.*s'", (int)min_u64(kv->key.len, 100), kv->key.data);
    e = take_kind(r, &kv->kind);
    if (e != ERR_OK)
        return e;
    if (kv->kind == GGUF_ARRAY)
        return take_array(r, g, kv);
    kv->count = 1;
    if (kv->kind == GGUF_STR) {
        struct str text;
        e = take_str(r, &text);
        if (e == ERR_OK) {
            kv->value = (const uint8_t *)text.data;
            kv->value_bytes = text.len;
        }
        return e;
    }
    kv->value_bytes = gguf_kind_bytes(kv->kind);
    e = take(r, kv->value_bytes, &kv->value);
    if (e == ERR_OK && kv->kind == GGUF_BOOL)
        e = take_bools(r, kv->value, 1);
    return e;
}

/* Dimensions, type and the bytes they make. */
/* Types that other programs write, so that the user reads a name. */
static const char *foreign_type(uint32_t number)
{
    static const char *const names[] = {
        [9] = "Q8_1",     [15] = "Q8_K",  [16] = "IQ2_XXS", [17] = "IQ2_XS",
        [18] = "IQ3_XXS", [19] = "IQ1_S", [21] = "IQ3_S",   [22] = "IQ2_S",
        [24] = "I8",      [25] = "I16",   [26] = "I32",     [27] = "I64",
        [28] = "F64",     [29] = "IQ1_M", [34] = "TQ1_0",   [35] = "TQ2_0"};
    return number < ARRAY_LEN(names) ? names[number] : NULL;
}

static enum err unsupported_type(struct reader *r, uint32_t number)
{
#define X(name, number, values, bytes) #name ", "
    static const char known[] = TENSOR_TYPES(X);
#undef X
    int len = (int)sizeof(known) - 3; /* without the last comma */
    const char *name = foreign_type(number);
    if (name != NULL)
        return err_set(r->why, ERR_UNSUPPORTED,
                       "%s has type %s (number %" PRIu32
                       "), which is not supported (supported: %.*s)",
                       r->what, name, number, len, known);
    return err_set(r->why, ERR_UNSUPPORTED,
                   "%s has type number %" PRIu32 ", which is not supported (supported: %.*s)",
                   r->what, number, len, known);
}

static enum err take_shape(struct reader *r, struct gguf_tensor *t)
{
    uint32_t number = 0;
    enum err e = take_u32(r, &t->dims_count);
    if (e != ERR_OK)
        return e;
    if (t->dims_count < 1 || t->dims_count > MAX_DIMS)
        return err_set(r->why, ERR_FORMAT, "%s has %" PRIu32 " dimensions, expected 1 to %d",
                       r->what, t->dims_count, MAX_DIMS);
    uint64_t values = 1;
    for (uint32_t i = 0; i < MAX_DIMS; i++) {
        t->dims[i] = 1;
        if (i < t->dims_count && (e = take_u64(r, &t->dims[i])) != ERR_OK)
            return e;
        if (t->dims[i] == 0)
            return err_set(r->why, ERR_FORMAT, "%s: dimension %" PRIu32 " is 0", r->what, i);
        if (!size_mul(values, t->dims[i], &values) || values > INT64_MAX)
            return err_set(r->why, ERR_FORMAT, "%s: the product of its dimensions overflows",
                           r->what);
    }
    e = take_u32(r, &number);
    if (e != ERR_OK)
        return e;
    const struct tensor_type_info *type = tensor_type_find(number);
    if (type == NULL)
        return unsupported_type(r, number);
    t->type = type->type;
    if (t->dims[0] % type->block_values != 0)
        return err_set(r->why, ERR_FORMAT,
                       "%s: its rows of %" PRIu64
                       " values are no multiple of %s's blocks of %" PRIu32,
                       r->what, t->dims[0], type->name, type->block_values);
    if (!size_mul(values / type->block_values, type->block_bytes, &t->bytes))
        return err_set(r->why, ERR_FORMAT, "%s: its size in bytes overflows", r->what);
    return ERR_OK;
}

/* t->data stays NULL: the data section's beginning is known only after all tensors. */
static enum err take_tensor(struct reader *r, size_t index, struct gguf_tensor *t,
                            uint64_t *ret_offset)
{
    say_what(r, "the name of tensor %zu", index);
    enum err e = take_name(r, MAX_TENSOR_NAME_BYTES, &t->name);
    if (e != ERR_OK)
        return e;
    say_what(r, "tensor '%.*s'", STR_ARG(t->name));
    e = take_shape(r, t);
    if (e == ERR_OK)
        e = take_u64(r, ret_offset);
    return e;
}

static enum err take_header(struct reader *r, struct gguf *g)
{
    static const size_t header_bytes = 4 + 4 + 8 + 8;
    if (r->len < header_bytes)
        return err_set(r->why, ERR_FORMAT, "too short: %zu bytes, a GGUF file has at least %zu",
                       r->len, header_bytes);
    if (memcmp(r->bytes, "GGUF", 4) != 0)
        return err_set(r->why, ERR_FORMAT,
                       "not a GGUF file: begins with %02x %02x %02x %02x, expected \"GGUF\"",
                       r->bytes[0], r->bytes[1], r->bytes[2], r->bytes[3]);
    r->at = 4;
    uint64_t kv_count = 0, tensor_count = 0;
    enum err e = take_u32(r, &g->version);
    if (e == ERR_OK)
        e = take_u64(r, &tensor_count);
    if (e == ERR_OK)
        e = take_u64(r, &kv_count);
    if (e != ERR_OK)
        return e;
    if (g->version != 0 && (g->version & 0xffff) == 0)
        return err_set(r->why, ERR_UNSUPPORTED, "a big-endian GGUF file, expected little-endian");
    if (g->version != 2 && g->version != 3)
        return err_set(r->why, ERR_UNSUPPORTED, "GGUF version %" PRIu32 ", expected 2 or 3",
                       g->version);
    uint64_t left = r->len - r->at;
    if (kv_count > left / MIN_KV_BYTES)
        return err_set(r->why, ERR_FORMAT, "%" PRIu64 " keys are impossible in a file of %zu bytes",
                       kv_count, r->len);
    if (tensor_count > left / MIN_TENSOR_BYTES)
        return err_set(r->why, ERR_FORMAT,
                       "%" PRIu64 " tensors are impossible in a file of %zu bytes", tensor_count,
                       r->len);
    if (kv_count > MAX_ENTRIES || tensor_count > MAX_ENTRIES)
        return err_set(r->why, ERR_UNSUPPORTED,
                       "%" PRIu64 " keys and %" PRIu64 " tensors, at most %d each", kv_count,
                       tensor_count, MAX_ENTRIES);
    g->kv_count = (size_t)kv_count;
    g->tensor_count = (size_t)tensor_count;
    return ERR_OK;
}

static int compare_keys(const void *a, const void *b, void *user)
{
    const struct gguf *g = user;
    return gguf_name_compare(g->kvs[*(const uint32_t *)a].key, g->kvs[*(const uint32_t *)b].key);
}

static int compare_tensors(const void *a, const void *b, void *user)
{
    const struct gguf *g = user;
    return gguf_name_compare(g->tensors[*(const uint32_t *)a].name,
                             g->tensors[*(const uint32_t *)b].name);
}

static enum err read_kvs(struct reader *r, struct gguf *g)
{
    g->kvs = arena_alloc(&g->arena, g->kv_count, sizeof(*g->kvs));
    g->kvs_by_key = arena_alloc(&g->arena, g->kv_count, sizeof(*g->kvs_by_key));
    if (g->kvs == NULL || g->kvs_by_key == NULL)
        return err_set(r->why, ERR_NOMEM, "out of memory for %zu keys", g->kv_count);
    for (size_t i = 0; i < g->kv_count; i++) {
        enum err e = take_kv(r, g, i, &g->kvs[i]);
        if (e != ERR_OK)
            return e;
        g->kvs_by_key[i] = (uint32_t)i;
    }
    qsort_r(g->kvs_by_key, g->kv_count, sizeof(*g->kvs_by_key), compare_keys, g);
    for (size_t i = 1; i < g->kv_count; i++) {
        struct str key = g->kvs[g->kvs_by_key[i]].key;
        if (str_eq(key, g->kvs[g->kvs_by_key[i - 1]].key))
            return err_set(r->why, ERR_FORMAT, "key '%.*s' is there twice", STR_ARG(key));
    }
    return ERR_OK;
}

static enum err read_alignment(struct reader *r, struct gguf *g)
{
    g->alignment = DEFAULT_ALIGNMENT;
    const struct gguf_kv *kv = gguf_kv_find(g, STR_LIT("general.alignment"));
    if (kv == NULL)
        return ERR_OK;
    if (kv->kind != GGUF_U32)
        return err_set(r->why, ERR_FORMAT, "key 'general.alignment' is %s, expected u32",
                       gguf_kind_name(kv->kind));
    uint32_t a;
    memcpy(&a, kv->value, sizeof(a));
    if (a < 8 || a > MAX_ALIGNMENT || (a & (a - 1)) != 0)
        return err_set(r->why, ERR_FORMAT,
                       "key 'general.alignment' is %" PRIu32
                       ", expected a power of two from 8 to %d",
                       a, MAX_ALIGNMENT);
    g->alignment = a;
    return ERR_OK;
}

/* Turns the tensors' offsets into pointers. */
static enum err place_tensors(struct reader *r, struct gguf *g, const uint64_t *offsets)
{
    uint64_t data_begin;
    if (g->tensor_count == 0)
        return ERR_OK;
    if (!size_align(r->at, g->alignment, &data_begin) || data_begin > r->len)
        return err_set(r->why, ERR_FORMAT, "truncated: the file ends before the tensors' data");
    uint64_t data_bytes = r->len - data_begin;
    for (size_t i = 0; i < g->tensor_count; i++) {
        struct gguf_tensor *t = &g->tensors[i];
        uint64_t end;
        if (offsets[i] % g->alignment != 0)
            return err_set(r->why, ERR_FORMAT,
                           "tensor '%.*s': offset %" PRIu64
                           " is no multiple of the alignment %" PRIu64,
                           STR_ARG(t->name), offsets[i], g->alignment);
        if (!size_add(offsets[i], t->bytes, &end) || end > data_bytes)
            return err_set(r->why, ERR_FORMAT,
                           "tensor '%.*s': %" PRIu64 " bytes at offset %" PRIu64
                           " lie outside the file's %" PRIu64 " bytes of data",
                           STR_ARG(t->name), t->bytes, offsets[i], data_bytes);
        t->data = g->bytes + data_begin + offsets[i];
    }
    return ERR_OK;
}

static enum err read_tensors(struct reader *r, struct gguf *g)
{
    g->tensors = arena_alloc(&g->arena, g->tensor_count, sizeof(*g->tensors));
    g->tensors_by_name = arena_alloc(&g->arena, g->tensor_count, sizeof(*g->tensors_by_name));
    uint64_t *offsets = arena_alloc(&g->arena, g->tensor_count, sizeof(*offsets));
    if (g->tensors == NULL || g->tensors_by_name == NULL || offsets == NULL)
        return err_set(r->why, ERR_NOMEM, "out of memory for %zu tensors", g->tensor_count);
    for (size_t i = 0; i < g->tensor_count; i++) {
        enum err e = take_tensor(r, i, &g->tensors[i], &offsets[i]);
        if (e != ERR_OK)
            return e;
        g->tensors_by_name[i] = (uint32_t)i;
    }
    qsort_r(g->tensors_by_name, g->tensor_count, sizeof(*g->tensors_by_name), compare_tensors, g);
    for (size_t i = 1; i < g->tensor_count; i++) {
        struct str name = g->tensors[g->tensors_by_name[i]].name;
        if (str_eq(name, g->tensors[g->tensors_by_name[i - 1]].name))
            return err_set(r->why, ERR_FORMAT, "tensor '%.*s' is there twice", STR_ARG(name));
    }
    return place_tensors(r, g, offsets);
}

enum err gguf_parse(struct gguf *g, struct err_msg *why)
{
    struct reader r = {.bytes = g->bytes, .len = g->len, .why = why};
    say_what(&r, "the header");
    enum err e = take_header(&r, g);
    if (e == ERR_OK)
        e = read_kvs(&r, g);
    if (e == ERR_OK)
        e = read_alignment(&r, g);
    if (e == ERR_OK)
        e = read_tensors(&r, g);
    return e;
}
