#include "base/buf.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum err buf_reserve(struct buf *b, size_t more)
{
    if (more <= b->cap - b->len)
        return ERR_OK;
    if (more > SIZE_MAX / 2 - b->len)
        return ERR_NOMEM;
    size_t cap = b->cap < 64 ? 64 : b->cap;
    while (cap - b->len < more)
        cap *= 2;
    char *data = realloc(b->data, cap);
    if (data == NULL)
        return ERR_NOMEM;
    b->data = data;
    b->cap = cap;
    return ERR_OK;
}

enum err buf_append(struct buf *b, const void *bytes, size_t len)
{
    if (len == 0)
        return ERR_OK;
    enum err e = buf_reserve(b, len);
    if (e != ERR_OK)
        return e;
    memcpy(b->data + b->len, bytes, len);
    b->len += len;
    return ERR_OK;
}

enum err buf_append_str(struct buf *b, const char *text)
{
    return buf_append(b, text, strlen(text));
}

enum err buf_append_char(struct buf *b, char c)
{
    return buf_append(b, &c, 1);
}

enum err buf_printf(struct buf *b, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    int n = vsnprintf(NULL, 0, fmt, args);
    va_end(args);
    if (n < 0)
        return ERR_INTERNAL;
    enum err e = buf_reserve(b, (size_t)n + 1);
    if (e != ERR_OK)
        return e;
    va_start(args, fmt);
    vsnprintf(b->data + b->len, (size_t)n + 1, fmt, args);
    va_end(args);
    b->len += (size_t)n;
    return ERR_OK;
}

const char *buf_cstr(struct buf *b)
{
    if (buf_reserve(b, 1) != ERR_OK)
        return NULL;
    b->data[b->len] = '\0';
    return b->data;
}

void buf_clear(struct buf *b)
{
    b->len = 0;
}

void buf_free(struct buf *b)
{
    free(b->data);
    *b = (struct buf){0};
}
