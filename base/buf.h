/* A growable byte buffer. Zero-initialised is empty and valid; buf_free() makes it so again.
 * After an ERR_NOMEM the content is what it was before the call. `data` is NULL only while cap is
 * 0. */
#ifndef OCTO_BASE_BUF_H
#define OCTO_BASE_BUF_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

struct buf {
    char *data;
    size_t len;
    size_t cap;
};

/* Room for at least `more` bytes beyond len. */
enum err buf_reserve(struct buf *b, size_t more) MUST_CHECK;
enum err buf_append(struct buf *b, const void *bytes, size_t len) MUST_CHECK;
enum err buf_append_str(struct buf *b, const char *text) MUST_CHECK;
enum err buf_append_char(struct buf *b, char c) MUST_CHECK;
enum err buf_printf(struct buf *b, const char *fmt, ...) PRINTF_LIKE(2, 3) MUST_CHECK;
/* Puts a NUL after the content (not counted in len) and returns data; NULL when out of memory. */
const char *buf_cstr(struct buf *b);
void buf_clear(struct buf *b); /* len = 0, memory kept */
void buf_free(struct buf *b);

#endif
