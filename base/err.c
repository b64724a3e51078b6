#include "base/err.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/utf8.h"

const char *err_name(enum err e)
{
    static const char *const names[] = {
#define X(name, text) text,
        ERR_LIST(X)
#undef X
    };
    return (unsigned)e < sizeof names / sizeof names[0] ? names[e] : "unknown error";
}

/* Also mends what is no UTF-8 (bytes of a hostile file, a character cut at the buffer's end):
 * messages travel in text fields of the protocol. */
static void make_printable(char *text)
{
    size_t len = strlen(text);
    for (size_t at = 0; at < len; at++) {
        at += utf8_valid_prefix(text + at, len - at);
        if (at < len)
            text[at] = '?';
    }
    for (char *p = text; *p != '\0'; p++) {
        if ((unsigned char)*p < 0x20 || *p == 0x7f)
            *p = '?';
    }
}

enum err err_set(struct err_msg *why, enum err e, const char *fmt, ...)
{
    if (why == NULL)
        return e;
    va_list args;
    va_start(args, fmt);
    vsnprintf(why->text, sizeof why->text, fmt, args);
    va_end(args);
    make_printable(why->text);
    return e;
}

enum err err_prefix(struct err_msg *why, enum err e, const char *fmt, ...)
{
    if (why == NULL)
        return e;
    struct err_msg old = *why;
    va_list args;
    va_start(args, fmt);
    int n = vsnprintf(why->text, sizeof why->text, fmt, args);
    va_end(args);
    size_t used = n < 0 ? 0 : (size_t)n;
    if (used + 2 < sizeof why->text)
        snprintf(why->text + used, sizeof why->text - used, ": %.*s",
                 (int)(sizeof why->text - used - 3), old.text);
    make_printable(why->text);
    return e;
}
