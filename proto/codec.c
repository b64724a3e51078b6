/* Encoder and decoder of every message and body, driven by the tables of schema.h. What the fields
 * mean is the business of those who send and receive them. */
#include "proto/codec.h"

#include <math.h>
#include <msgpack.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/size.h"
#include "base/utf8.h"
#include "proto/scan.h"
#include "proto/schema.h"

/* Where we are, for messages: GRANT: "jobs"[3] "body". */
struct place {
    const struct place *up;
    const char *name; /* of the message, or of the list in `up` */
    size_t index;
};

static void format_place(const struct place *p, const char *field, char *out, size_t size)
{
    size_t used = 0;
    if (p->up == NULL)
        used = (size_t)snprintf(out, size, "%s", p->name);
    else
        used = (size_t)snprintf(out, size, "%s: \"%s\"[%zu]", p->up->name, p->name, p->index);
    if (field != NULL && used < size)
        snprintf(out + used, size - used, "%s \"%s\"", p->up == NULL ? ":" : "", field);
}

static enum err field_error(const struct place *p, const char *field, enum err e,
                            struct err_msg *why, const char *fmt, ...) PRINTF_LIKE(5, 6);

static enum err field_error(const struct place *p, const char *field, enum err e,
                            struct err_msg *why, const char *fmt, ...)
{
    char place[200], text[200];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    format_place(p, field, place, sizeof place);
    return err_set(why, e, "%s: %s", place, text);
}

const char *proto_type_name(enum msg_type type)
{
    const struct proto_schema *s = proto_message_schema(type);
    return s != NULL ? s->name : "?";
}

/* ---- encoding ---- */

static int write_bytes(void *user, const char *bytes, size_t len)
{
    return buf_append(user, bytes, len) == ERR_OK ? 0 : -1;
}

static bool is_absent(const struct proto_field *f, const char *at)
{
    if (f->required)
        return false;
    switch (f->kind) {
    case PROTO_KIND_U64:
        return *(const uint64_t *)(const void *)at == 0;
    case PROTO_KIND_F64:
        return *(const double *)(const void *)at == 0;
    case PROTO_KIND_BOOL:
        return !*(const bool *)(const void *)at;
    case PROTO_KIND_STR:
    case PROTO_KIND_BIN:
        return ((const struct str *)(const void *)at)->len == 0;
    case PROTO_KIND_U64S:
    case PROTO_KIND_LIST:
        break;
    }
    struct proto_list list;
    memcpy(&list, at, sizeof list);
    return list.count == 0;
}

static enum err encode_fields(msgpack_packer *pk, const struct proto_schema *s,
                              const struct place *where, const char *from, size_t extra,
                              struct err_msg *why);

static enum err encode_list(msgpack_packer *pk, const struct proto_field *f,
                            const struct place *where, const char *at, struct err_msg *why)
{
    struct proto_list list;
    memcpy(&list, at, sizeof list);
    if (list.count > f->limit)
        return field_error(where, f->name, ERR_RANGE, why, "%zu elements; at most %llu are allowed",
                           list.count, (unsigned long long)f->limit);
    if (msgpack_pack_array(pk, list.count) != 0)
        return ERR_NOMEM;
    const struct proto_schema *record = f->kind == PROTO_KIND_LIST ? f->record() : NULL;
    for (size_t i = 0; i < list.count; i++) {
        if (record == NULL) {
            if (msgpack_pack_uint64(pk, ((const uint64_t *)list.items)[i]) != 0)
                return ERR_NOMEM;
            continue;
        }
        struct place inner = {where, f->name, i};
        enum err e =
            encode_fields(pk, record, &inner, (const char *)list.items + i * record->size, 0, why);
        if (e != ERR_OK)
            return e;
    }
    return ERR_OK;
}

static enum err encode_text(msgpack_packer *pk, const struct proto_field *f,
                            const struct place *where, const char *at, struct err_msg *why)
{
    struct str text = *(const struct str *)(const void *)at;
    if (text.len > f->limit)
        return field_error(where, f->name, ERR_RANGE, why, "%zu bytes; at most %llu are allowed",
                           text.len, (unsigned long long)f->limit);
    const char *bytes = text.len > 0 ? text.data : "";
    if (f->kind == PROTO_KIND_BIN)
        return msgpack_pack_bin(pk, text.len) == 0 &&
                       msgpack_pack_bin_body(pk, bytes, text.len) == 0
                   ? ERR_OK
                   : ERR_NOMEM;
    if (!utf8_is_valid(bytes, text.len))
        return field_error(where, f->name, ERR_RANGE, why, "text that is no valid UTF-8");
    return msgpack_pack_str(pk, text.len) == 0 && msgpack_pack_str_body(pk, bytes, text.len) == 0
               ? ERR_OK
               : ERR_NOMEM;
}

static enum err encode_field(msgpack_packer *pk, const struct proto_field *f,
                             const struct place *where, const char *at, struct err_msg *why)
{
    switch (f->kind) {
    case PROTO_KIND_U64: {
        uint64_t v = *(const uint64_t *)(const void *)at;
        if (f->limit != 0 && v > f->limit)
            return field_error(where, f->name, ERR_RANGE, why, "%llu; at most %llu is allowed",
                               (unsigned long long)v, (unsigned long long)f->limit);
        return msgpack_pack_uint64(pk, v) == 0 ? ERR_OK : ERR_NOMEM;
    }
    case PROTO_KIND_F64: {
        double v = *(const double *)(const void *)at;
        if (!isfinite(v))
            return field_error(where, f->name, ERR_RANGE, why, "%g; a finite number is expected",
                               v);
        return msgpack_pack_double(pk, v) == 0 ? ERR_OK : ERR_NOMEM;
    }
    case PROTO_KIND_BOOL:
        return (*(const bool *)(const void *)at ? msgpack_pack_true(pk) : msgpack_pack_false(pk)) ==
                       0
                   ? ERR_OK
                   : ERR_NOMEM;
    case PROTO_KIND_STR:
    case PROTO_KIND_BIN:
        return encode_text(pk, f, where, at, why);
    case PROTO_KIND_U64S:
    case PROTO_KIND_LIST:
        break;
    }
    return encode_list(pk, f, where, at, why);
}

static enum err encode_key(msgpack_packer *pk, const char *name, size_t len)
{
    return msgpack_pack_str(pk, len) == 0 && msgpack_pack_str_body(pk, name, len) == 0 ? ERR_OK
                                                                                       : ERR_NOMEM;
}

/* `extra`: how many entries the caller has yet to write in front of the fields (after the map's
 * head). */
static enum err encode_fields(msgpack_packer *pk, const struct proto_schema *s,
                              const struct place *where, const char *from, size_t extra,
                              struct err_msg *why)
{
    size_t present = 0;
    for (size_t i = 0; i < s->count; i++)
        present += !is_absent(&s->fields[i], from + s->fields[i].offset);
    if (msgpack_pack_map(pk, present + extra) != 0)
        return ERR_NOMEM;
    if (extra > 0 &&
        (encode_key(pk, "v", 1) != ERR_OK || msgpack_pack_uint64(pk, PROTO_VERSION) != 0 ||
         encode_key(pk, "t", 1) != ERR_OK || encode_key(pk, s->name, strlen(s->name)) != ERR_OK))
        return ERR_NOMEM;
    for (size_t i = 0; i < s->count; i++) {
        const struct proto_field *f = &s->fields[i];
        if (is_absent(f, from + f->offset))
            continue;
        enum err e = encode_key(pk, f->name, f->name_len);
        if (e == ERR_OK)
            e = encode_field(pk, f, where, from + f->offset, why);
        if (e != ERR_OK)
            return e;
    }
    return ERR_OK;
}

/* extra 2: a message with its envelope; 0: a body. On failure `out` is as it was. */
static enum err encode(const struct proto_schema *s, const void *from, size_t extra,
                       size_t max_bytes, struct buf *out, struct err_msg *why)
{
    size_t start = out->len;
    struct place where = {NULL, s->name, 0};
    msgpack_packer pk;
    msgpack_packer_init(&pk, out, write_bytes);
    enum err e = encode_fields(&pk, s, &where, from, extra, why);
    if (e == ERR_NOMEM)
        err_set(why, e, "%s: out of memory while encoding", s->name);
    if (e == ERR_OK && out->len - start > max_bytes)
        e = err_set(why, ERR_RANGE, "%s: %zu bytes encoded; at most %zu are allowed", s->name,
                    out->len - start, max_bytes);
    if (e != ERR_OK)
        out->len = start;
    return e;
}

enum err proto_encode(const struct msg *m, struct buf *out, struct err_msg *why)
{
    const struct proto_schema *s = proto_message_schema(m->type);
    if (s == NULL)
        return err_set(why, ERR_RANGE, "message of unknown type %d", (int)m->type);
    return encode(s, &m->hello, 2, PROTO_MAX_MESSAGE_BYTES, out, why);
}

/* ---- decoding ---- */

static const char *found_name(msgpack_object_type t)
{
    switch (t) {
    case MSGPACK_OBJECT_NIL:
        return "nil";
    case MSGPACK_OBJECT_BOOLEAN:
        return "a boolean";
    case MSGPACK_OBJECT_POSITIVE_INTEGER:
        return "an integer";
    case MSGPACK_OBJECT_NEGATIVE_INTEGER:
        return "a negative integer";
    case MSGPACK_OBJECT_FLOAT32:
    case MSGPACK_OBJECT_FLOAT64:
        return "a float";
    case MSGPACK_OBJECT_STR:
        return "text";
    case MSGPACK_OBJECT_ARRAY:
        return "a list";
    case MSGPACK_OBJECT_MAP:
        return "a map";
    case MSGPACK_OBJECT_BIN:
        return "bytes";
    case MSGPACK_OBJECT_EXT:
        break;
    }
    return "an extension type";
}

static enum err wrong_kind(const struct place *where, const struct proto_field *f,
                           msgpack_object_type found, struct err_msg *why)
{
    static const char *const expected[] = {
        "an unsigned integer",         "a number",         "a boolean", "text", "bytes",
        "a list of unsigned integers", "a list of records"};
    return field_error(where, f->name, ERR_PROTO, why, "%s; expected %s", found_name(found),
                       expected[f->kind]);
}

static enum err over_limit(const struct place *where, const struct proto_field *f, uint64_t found,
                           const char *unit, struct err_msg *why)
{
    return field_error(where, f->name, ERR_PROTO, why, "%llu%s; expected at most %llu",
                       (unsigned long long)found, unit, (unsigned long long)f->limit);
}

static enum err decode_fields(const msgpack_object_map *map, const struct proto_schema *s,
                              const struct place *where, struct arena *arena, char *to,
                              struct err_msg *why);

static enum err decode_list(const msgpack_object *o, const struct proto_field *f,
                            const struct place *where, struct arena *arena, char *to,
                            struct err_msg *why)
{
    const msgpack_object_array *a = &o->via.array;
    if (o->type != MSGPACK_OBJECT_ARRAY)
        return wrong_kind(where, f, o->type, why);
    if (a->size > f->limit)
        return over_limit(where, f, a->size, " elements", why);
    const struct proto_schema *record = f->kind == PROTO_KIND_LIST ? f->record() : NULL;
    size_t size = record != NULL ? record->size : sizeof(uint64_t);
    struct proto_list list = {NULL, a->size};
    if (a->size > 0 && (list.items = arena_alloc(arena, a->size, size)) == NULL)
        return field_error(where, f->name, ERR_NOMEM, why, "out of memory for %lu elements",
                           (unsigned long)a->size);
    for (size_t i = 0; i < a->size; i++) {
        const msgpack_object *item = &a->ptr[i];
        struct place inner = {where, f->name, i};
        if (record == NULL) {
            if (item->type != MSGPACK_OBJECT_POSITIVE_INTEGER)
                return field_error(&inner, NULL, ERR_PROTO, why, "%s; expected an unsigned integer",
                                   found_name(item->type));
            ((uint64_t *)list.items)[i] = item->via.u64;
            continue;
        }
        if (item->type != MSGPACK_OBJECT_MAP)
            return field_error(&inner, NULL, ERR_PROTO, why, "%s; expected a map",
                               found_name(item->type));
        enum err e = decode_fields(&item->via.map, record, &inner, arena,
                                   (char *)list.items + i * size, why);
        if (e != ERR_OK)
            return e;
    }
    memcpy(to, &list, sizeof list);
    return ERR_OK;
}

static enum err decode_text(const msgpack_object *o, const struct proto_field *f,
                            const struct place *where, char *to, struct err_msg *why)
{
    struct str text;
    if (f->kind == PROTO_KIND_STR && o->type == MSGPACK_OBJECT_STR)
        text = (struct str){o->via.str.ptr, o->via.str.size};
    else if (f->kind == PROTO_KIND_BIN && o->type == MSGPACK_OBJECT_BIN)
        text = (struct str){o->via.bin.ptr, o->via.bin.size};
    else
        return wrong_kind(where, f, o->type, why);
    if (text.len > f->limit)
        return over_limit(where, f, text.len, " bytes", why);
    if (f->kind == PROTO_KIND_STR && !utf8_is_valid(text.data, text.len))
        return field_error(where, f->name, ERR_PROTO, why,
                           "not valid UTF-8 (from byte %zu); expected text",
                           utf8_valid_prefix(text.data, text.len));
    memcpy(to, &text, sizeof text);
    return ERR_OK;
}

static enum err decode_f64(const msgpack_object *o, const struct proto_field *f,
                           const struct place *where, char *to, struct err_msg *why)
{
    double v;
    if (o->type == MSGPACK_OBJECT_FLOAT32 || o->type == MSGPACK_OBJECT_FLOAT64)
        v = o->via.f64;
    else if (o->type == MSGPACK_OBJECT_POSITIVE_INTEGER)
        v = (double)o->via.u64;
    else if (o->type == MSGPACK_OBJECT_NEGATIVE_INTEGER)
        v = (double)o->via.i64;
    else
        return wrong_kind(where, f, o->type, why);
    if (!isfinite(v))
        return field_error(where, f->name, ERR_PROTO, why, "%g; expected a finite number", v);
    memcpy(to, &v, sizeof v);
    return ERR_OK;
}

static enum err decode_field(const msgpack_object *o, const struct proto_field *f,
                             const struct place *where, struct arena *arena, char *to,
                             struct err_msg *why)
{
    switch (f->kind) {
    case PROTO_KIND_U64:
        if (o->type != MSGPACK_OBJECT_POSITIVE_INTEGER)
            return wrong_kind(where, f, o->type, why);
        if (f->limit != 0 && o->via.u64 > f->limit)
            return over_limit(where, f, o->via.u64, "", why);
        memcpy(to, &o->via.u64, sizeof o->via.u64);
        return ERR_OK;
    case PROTO_KIND_F64:
        return decode_f64(o, f, where, to, why);
    case PROTO_KIND_BOOL:
        if (o->type != MSGPACK_OBJECT_BOOLEAN)
            return wrong_kind(where, f, o->type, why);
        memcpy(to, &o->via.boolean, sizeof o->via.boolean);
        return ERR_OK;
    case PROTO_KIND_STR:
    case PROTO_KIND_BIN:
        return decode_text(o, f, where, to, why);
    case PROTO_KIND_U64S:
    case PROTO_KIND_LIST:
        break;
    }
    return decode_list(o, f, where, arena, to, why);
}

/* Keys are text and none occurs twice: proto_scan saw to it. */
static enum err decode_fields(const msgpack_object_map *map, const struct proto_schema *s,
                              const struct place *where, struct arena *arena, char *to,
                              struct err_msg *why)
{
    uint64_t seen = 0;
    for (uint32_t i = 0; i < map->size; i++) {
        const msgpack_object_str *key = &map->ptr[i].key.via.str;
        const struct proto_field *f = proto_schema_field(s, key->ptr, key->size);
        if (f == NULL)
            continue; /* of a newer peer, or the envelope */
        enum err e = decode_field(&map->ptr[i].val, f, where, arena, to + f->offset, why);
        if (e != ERR_OK)
            return e;
        seen |= UINT64_C(1) << (f - s->fields);
    }
    for (size_t i = 0; i < s->count; i++) {
        if (s->fields[i].required && (seen >> i & 1) == 0)
            return field_error(where, s->fields[i].name, ERR_PROTO, why, "missing; it is required");
    }
    return ERR_OK;
}

static const msgpack_object *find_key(const msgpack_object_map *map, char key)
{
    for (uint32_t i = 0; i < map->size; i++) {
        const msgpack_object_str *k = &map->ptr[i].key.via.str;
        if (k->size == 1 && k->ptr[0] == key)
            return &map->ptr[i].val;
    }
    return NULL;
}

static bool is_error(const msgpack_object *type)
{
    return type != NULL && type->type == MSGPACK_OBJECT_STR &&
           str_eq((struct str){type->via.str.ptr, type->via.str.size}, STR_LIT("ERROR"));
}

/* The version comes first: a peer of another one deserves to hear just that. It hears it by an
 * ERROR, which is the same in every version. */
static enum err read_envelope(const msgpack_object_map *map, enum msg_type *ret,
                              struct err_msg *why)
{
    const msgpack_object *v = find_key(map, 'v'), *t = find_key(map, 't');
    if (v == NULL)
        return err_set(why, ERR_PROTO, "message: \"v\" (protocol version) is missing");
    if (v->type != MSGPACK_OBJECT_POSITIVE_INTEGER)
        return err_set(why, ERR_PROTO, "message: \"v\" is %s; expected protocol version %d",
                       found_name(v->type), PROTO_VERSION);
    if (v->via.u64 != PROTO_VERSION && !is_error(t))
        return err_set(why, ERR_PROTO,
                       "message: protocol version %llu; expected %d: upgrade the older program",
                       (unsigned long long)v->via.u64, PROTO_VERSION);
    if (t == NULL)
        return err_set(why, ERR_PROTO, "message: \"t\" (its type) is missing");
    if (t->type != MSGPACK_OBJECT_STR)
        return err_set(why, ERR_PROTO, "message: \"t\" is %s; expected the message's name",
                       found_name(t->type));
    struct str name = {t->via.str.ptr, t->via.str.size};
    for (size_t i = 1; i <= proto_message_count(); i++) {
        if (str_eq(name, str_of(proto_type_name((enum msg_type)i)))) {
            *ret = (enum msg_type)i;
            return ERR_OK;
        }
    }
    return err_set(why, ERR_PROTO, "message: unknown type \"%.*s\"",
                   name.len < 40 ? (int)name.len : 40, name.data);
}

static enum err unpack(const void *bytes, size_t len, size_t max_objects, msgpack_unpacked *ret,
                       struct err_msg *why)
{
    enum err e = proto_scan(bytes, len, max_objects, why);
    if (e != ERR_OK)
        return e;
    size_t at = 0;
    msgpack_unpack_return r = msgpack_unpack_next(ret, bytes, len, &at);
    if (r == MSGPACK_UNPACK_NOMEM_ERROR)
        return err_set(why, ERR_NOMEM, "message: out of memory while decoding %zu bytes", len);
    if (r != MSGPACK_UNPACK_SUCCESS || at != len || ret->data.type != MSGPACK_OBJECT_MAP)
        return err_set(why, ERR_PROTO, "message: no msgpack map (stopped at byte %zu of %zu)", at,
                       len);
    return ERR_OK;
}

enum err proto_decode(const void *bytes, size_t len, struct arena *arena, struct msg *ret,
                      struct err_msg *why)
{
    struct msg m;
    memset(&m, 0, sizeof m);
    msgpack_unpacked u;
    msgpack_unpacked_init(&u);
    enum err e = unpack(bytes, len, PROTO_MAX_MESSAGE_OBJECTS, &u, why);
    if (e == ERR_OK)
        e = read_envelope(&u.data.via.map, &m.type, why);
    if (e == ERR_OK) {
        const struct proto_schema *s = proto_message_schema(m.type);
        struct place where = {NULL, s->name, 0};
        e = decode_fields(&u.data.via.map, s, &where, arena, (char *)&m.hello, why);
    }
    msgpack_unpacked_destroy(&u);
    if (e == ERR_OK)
        *ret = m;
    return e;
}

/* `to` is zeroed. */
static enum err decode_body(const struct proto_schema *s, const void *bytes, size_t len,
                            size_t max_bytes, struct arena *arena, void *to, struct err_msg *why)
{
    if (len > max_bytes)
        return err_set(why, ERR_PROTO, "%s: %zu bytes; expected at most %zu", s->name, len,
                       max_bytes);
    struct place where = {NULL, s->name, 0};
    msgpack_unpacked u;
    msgpack_unpacked_init(&u);
    enum err e = unpack(bytes, len, PROTO_MAX_BODY_OBJECTS, &u, why);
    if (e != ERR_OK)
        err_prefix(why, e, "%s", s->name);
    else
        e = decode_fields(&u.data.via.map, s, &where, arena, to, why);
    msgpack_unpacked_destroy(&u);
    return e;
}

static const struct proto_schema *body_schema(const char *name)
{
    const struct proto_schema *s;
    for (size_t i = 0; (s = proto_record_schema(i)) != NULL; i++) {
        if (strcmp(s->name, name) == 0)
            return s;
    }
    return NULL;
}

#define DEFINE_BODY(NAME, name, max_bytes)                                                         \
    enum err proto_encode_##name(const struct rec_##NAME *r, struct buf *out, struct err_msg *why) \
    {                                                                                              \
        return encode(body_schema(#NAME), r, 0, max_bytes, out, why);                              \
    }                                                                                              \
    enum err proto_decode_##name(const void *bytes, size_t len, struct arena *arena,               \
                                 struct rec_##NAME *ret, struct err_msg *why)                      \
    {                                                                                              \
        struct rec_##NAME r;                                                                       \
        memset(&r, 0, sizeof r);                                                                   \
        enum err e = decode_body(body_schema(#NAME), bytes, len, max_bytes, arena, &r, why);       \
        if (e == ERR_OK)                                                                           \
            *ret = r;                                                                              \
        return e;                                                                                  \
    }
DEFINE_BODY(REQUEST, request, PROTO_MAX_BODY_BYTES)
DEFINE_BODY(OUTPUT, output, PROTO_MAX_BODY_BYTES)
DEFINE_BODY(CHECKPOINT, checkpoint, PROTO_MAX_CHECKPOINT_BYTES)
DEFINE_BODY(SCHEDULE, schedule, PROTO_MAX_TEXT_BYTES)
