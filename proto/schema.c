/* The tables of messages.h as data. */
#include "proto/schema.h"

#include <string.h>

#include "base/size.h"

/* offsetof needs the struct's type, which a row does not know: each table is made inside a function
 * that calls its struct `self`. */
#define NEED_REQ true
#define NEED_OPT false
#define FIELD(kind_, name_, limit_, need_, doc_)                                                   \
    {.name = #name_,                                                                               \
     .name_len = sizeof(#name_) - 1,                                                               \
     .kind = PROTO_KIND_##kind_,                                                                   \
     .required = NEED_##need_,                                                                     \
     .limit = (limit_),                                                                            \
     .offset = offsetof(self, name_),                                                              \
     .doc = (doc_)},
#define LIST(rec_, name_, limit_, need_, doc_)                                                     \
    {.name = #name_,                                                                               \
     .name_len = sizeof(#name_) - 1,                                                               \
     .kind = PROTO_KIND_LIST,                                                                      \
     .required = NEED_##need_,                                                                     \
     .limit = (limit_),                                                                            \
     .offset = offsetof(self, name_),                                                              \
     .record = record_##rec_,                                                                      \
     .doc = (doc_)},

#define TABLE(NAME, TYPE, ROWS)                                                                    \
    typedef TYPE self;                                                                             \
    static const struct proto_field fields[] = {ROWS(FIELD, LIST)};                                \
    static const struct proto_schema schema = {#NAME, fields, ARRAY_LEN(fields), sizeof(self)};    \
    _Static_assert(ARRAY_LEN(fields) <= PROTO_MAX_FIELDS, "more fields than the codec counts");    \
    return &schema;

#define X(NAME, name) static const struct proto_schema *record_##NAME(void);
PROTO_RECORDS(X)
#undef X

#define X(NAME, name)                                                                              \
    static const struct proto_schema *record_##NAME(void)                                          \
    {                                                                                              \
        TABLE(NAME, struct rec_##NAME, REC_##NAME)                                                 \
    }
PROTO_RECORDS(X)
#undef X

#define X(NAME, name, role)                                                                        \
    static const struct proto_schema *message_##NAME(void)                                         \
    {                                                                                              \
        TABLE(NAME, struct msg_##name, MSG_##NAME)                                                 \
    }
PROTO_MESSAGES(X)
#undef X

static const struct proto_schema *(*const message_schemas[])(void) = {
#define X(NAME, name, role) message_##NAME,
    PROTO_MESSAGES(X)
#undef X
};

static const struct proto_schema *(*const record_schemas[])(void) = {
#define X(NAME, name) record_##NAME,
    PROTO_RECORDS(X)
#undef X
};

const struct proto_schema *proto_message_schema(enum msg_type type)
{
    size_t index = (size_t)type - 1; /* MSG_NONE wraps around to a great one */
    return index < ARRAY_LEN(message_schemas) ? message_schemas[index]() : NULL;
}

size_t proto_message_count(void)
{
    return ARRAY_LEN(message_schemas);
}

const struct proto_schema *proto_record_schema(size_t index)
{
    return index < ARRAY_LEN(record_schemas) ? record_schemas[index]() : NULL;
}

const struct proto_field *proto_schema_field(const struct proto_schema *s, const char *name,
                                             size_t len)
{
    for (size_t i = 0; i < s->count; i++) {
        if (s->fields[i].name_len == len && memcmp(s->fields[i].name, name, len) == 0)
            return &s->fields[i];
    }
    return NULL;
}

const char *proto_kind_name(enum proto_kind kind)
{
    static const char *const names[] = {"U64", "F64", "BOOL", "STR", "BIN", "U64S", "LIST"};
    return (size_t)kind < ARRAY_LEN(names) ? names[kind] : "?";
}
