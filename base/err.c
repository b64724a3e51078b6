#include "base/err.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

const char *err_name(enum err e)
{
    static const char *const names[] = {
#define X(name, text) text,
        ERR_LIST(X)
#undef X
    };
    return (unsigned)e < sizeof names / sizeof names[0] ? names[e] : "unknown error";
}

static void replace_controls(char *text)
{
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
    replace_controls(why->text);
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
    if (used < sizeof why->text - 1)
        snprintf(why->text + used, sizeof why->text - used, ": %s", old.text);
    replace_controls(why->text);
    return e;
}
