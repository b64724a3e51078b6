/* A borrowed piece of bytes: pointer and length, no NUL, may hold NULs. Whoever hands one out says
 * until when it is valid. Zero-initialised is the empty string. */
#ifndef OCTO_BASE_STR_H
#define OCTO_BASE_STR_H

#include <stdbool.h>
#include <stddef.h>
#include <string.h>

struct str {
    const char *data;
    size_t len;
};

#define STR_LIT(text) ((struct str){(text), sizeof(text) - 1})
/* For printf's "%.*s". */
#define STR_ARG(s) (int)(s).len, (s).data

static inline struct str str_of(const char *text)
{
    return (struct str){text, text == NULL ? 0 : strlen(text)};
}

static inline bool str_eq(struct str a, struct str b)
{
    return a.len == b.len && (a.len == 0 || memcmp(a.data, b.data, a.len) == 0);
}

/* Takes the text up to the next `at`, or all of it, from the front into *ret, and drops the `at`.
 * False: nothing is left. */
static inline bool str_cut(struct str *text, char at, struct str *ret)
{
    if (text->len == 0)
        return false;
    const char *end = (const char *)memchr(text->data, at, text->len);
    size_t len = end == NULL ? text->len : (size_t)(end - text->data);
    *ret = (struct str){text->data, len};
    len += end != NULL;
    *text = (struct str){text->data + len, text->len - len};
    return true;
}

#endif
