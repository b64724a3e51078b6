/* Errors: one enum for every fallible function, and a message for people.
 *
 * A fallible function returns `enum err` (ERR_OK is 0). Its outputs come last, are called ret_*,
 * and are untouched on failure. `struct err_msg *why` may be NULL; on failure it holds one line
 * that says what failed, which one, what was found and what was expected. No trailing newline. */
#ifndef OCTO_BASE_ERR_H
#define OCTO_BASE_ERR_H

#define ERR_LIST(X)                                                                                \
    X(OK, "ok")                                                                                    \
    X(NOMEM, "out of memory")                                                                      \
    X(IO, "input/output error")                                                                    \
    X(FORMAT, "malformed data")                                                                    \
    X(RANGE, "value out of range")                                                                 \
    X(UNSUPPORTED, "not supported")                                                                \
    X(DEVICE, "GPU error")                                                                         \
    X(PROTO, "protocol error")                                                                     \
    X(FULL, "no room")                                                                             \
    X(NOT_FOUND, "not found")                                                                      \
    X(CONFLICT, "conflict")                                                                        \
    X(USAGE, "wrong usage")                                                                        \
    X(AGAIN, "not now")                                                                            \
    X(CANCELLED, "cancelled")                                                                      \
    X(INTERNAL, "internal error")

enum err {
#define X(name, text) ERR_##name,
    ERR_LIST(X)
#undef X
};

struct err_msg {
    char text[512];
};

#define MUST_CHECK             __attribute__((warn_unused_result))
#define PRINTF_LIKE(fmt, args) __attribute__((format(printf, fmt, args)))

/* "malformed data" and so on; never NULL. */
const char *err_name(enum err e);

/* Writes the message (cut at the buffer's end; control characters and what is no UTF-8 replaced by
 * '?', so that a hostile file name or string can neither forge a second log line nor spoil a text
 * field) and returns `e`. why may be NULL; no argument may point into why->text. */
enum err err_set(struct err_msg *why, enum err e, const char *fmt, ...) PRINTF_LIKE(3, 4);

/* Puts "prefix: " before a message that is already there; returns `e`. why may be NULL. */
enum err err_prefix(struct err_msg *why, enum err e, const char *fmt, ...) PRINTF_LIKE(3, 4);

#endif
