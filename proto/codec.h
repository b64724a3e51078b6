/* Encoding and decoding of messages and of the bodies inside them, from the table in messages.h.
 *
 * Decoding is strict: before msgpack-c sees the bytes, a scan checks depth (PROTO_MAX_DEPTH) and
 * every count against the bytes that remain, so that a few hostile bytes cannot ask for gigabytes.
 * A wrong kind, a value over its limit, a missing REQ field, a field twice, invalid UTF-8 in a STR,
 * a non-finite F64, an unknown type or version, trailing bytes: ERR_PROTO with one line naming the
 * message, the field, what was found and what was expected. Thread-safe: no state of its own. */
#ifndef OCTO_PROTO_CODEC_H
#define OCTO_PROTO_CODEC_H

#include "base/arena.h"
#include "base/buf.h"
#include "base/err.h"
#include "proto/messages.h"

const char *proto_type_name(enum msg_type type); /* "HELLO"; "?" for none */

/* Appends the encoded message. ERR_RANGE (field named) when a value is over its limit: what encodes
 * also decodes. */
enum err proto_encode(const struct msg *m, struct buf *out, struct err_msg *why) MUST_CHECK;
/* STR and BIN fields point into `bytes`; lists are allocated in `arena`. */
enum err proto_decode(const void *bytes, size_t len, struct arena *arena, struct msg *ret,
                      struct err_msg *why) MUST_CHECK;

/* Bodies. */
#define PROTO_DECLARE_BODY(NAME, name)                                                             \
    enum err proto_encode_##name(const struct rec_##NAME *r, struct buf *out, struct err_msg *why) \
        MUST_CHECK;                                                                                \
    enum err proto_decode_##name(const void *bytes, size_t len, struct arena *arena,               \
                                 struct rec_##NAME *ret, struct err_msg *why) MUST_CHECK;
PROTO_DECLARE_BODY(REQUEST, request)
PROTO_DECLARE_BODY(OUTPUT, output)
PROTO_DECLARE_BODY(CHECKPOINT, checkpoint)
PROTO_DECLARE_BODY(SCHEDULE, schedule)

#endif
