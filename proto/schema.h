/* The tables of messages.h as data: what the codec walks, PROTOCOL.md's tables and the fuzz
 * dictionary are printed from, and tests fill at random. Read-only after the compiler: any thread.
 */
#ifndef OCTO_PROTO_SCHEMA_H
#define OCTO_PROTO_SCHEMA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/messages.h"

enum proto_kind {
    PROTO_KIND_U64,
    PROTO_KIND_F64,
    PROTO_KIND_BOOL,
    PROTO_KIND_STR,
    PROTO_KIND_BIN,
    PROTO_KIND_U64S,
    PROTO_KIND_LIST
};

struct proto_schema;

struct proto_field {
    const char *name;
    size_t name_len;
    enum proto_kind kind;
    bool required;
    uint64_t limit;                             /* see messages.h; 0 on a U64: none */
    size_t offset;                              /* in the C struct */
    const struct proto_schema *(*record)(void); /* of a LIST's elements, else NULL */
    const char *doc;
};

struct proto_schema {
    const char *name; /* "HELLO", "GRANT_JOB" */
    const struct proto_field *fields;
    size_t count; /* at most PROTO_MAX_FIELDS */
    size_t size;  /* of the C struct, bytes */
};

/* NULL for MSG_NONE and for what is no message type. Offsets count from the union's beginning. */
const struct proto_schema *proto_message_schema(enum msg_type type);
size_t proto_message_count(void); /* types are 1..count */
const struct proto_schema *
proto_record_schema(size_t index); /* in the order of PROTO_RECORDS; NULL behind */
/* The field of that name, NULL if there is none. */
const struct proto_field *proto_schema_field(const struct proto_schema *s, const char *name,
                                             size_t len);
const char *proto_kind_name(enum proto_kind kind); /* "U64" */

/* A list in a C struct, whatever its elements are: every PROTO_C_LIST and struct u64s has this
 * layout. */
struct proto_list {
    void *items;
    size_t count;
};

#endif
