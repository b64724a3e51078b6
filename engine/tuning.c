/* The table of tunables, and lists of them as --set takes them. */
#include "engine/tuning.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "base/size.h"

static const struct tunable {
    const char *name;
    size_t offset;
    uint32_t most;
} table[] = {
#define X(name, usual, most, help) {#name, offsetof(struct tuning, name), most},
    TUNABLES(X)
#undef X
};

struct tuning tuning_defaults(void)
{
    return (struct tuning){
#define X(name, usual, most, help) .name = usual,
        TUNABLES(X)
#undef X
    };
}

/* "NAME=N", `len` characters. */
static enum err parse_one(const char *text, size_t len, struct tuning *t, struct err_msg *why)
{
    const char *equals = memchr(text, '=', len);
    size_t name_len = equals == NULL ? len : (size_t)(equals - text);
    for (size_t i = 0; i < ARRAY_LEN(table); i++) {
        const struct tunable *x = &table[i];
        if (strlen(x->name) != name_len || memcmp(x->name, text, name_len) != 0)
            continue;
        char *end = NULL;
        const char *digits = equals == NULL ? "" : equals + 1;
        unsigned long n = *digits >= '0' && *digits <= '9' ? strtoul(digits, &end, 10) : 0;
        if (end != text + len || n > x->most)
            return err_set(why, ERR_USAGE, "--set %.*s: expected %s=N with N from 0 to %u",
                           (int)len, text, x->name, x->most);
        memcpy((char *)t + x->offset, &(uint32_t){(uint32_t)n}, sizeof(uint32_t));
        return ERR_OK;
    }
#define X(name, usual, most, help) " " #name
    return err_set(why, ERR_USAGE,
                   "--set %.*s: no tunable of that name; expected one of" TUNABLES(X), (int)len,
                   text);
#undef X
}

enum err tuning_parse(const char *list, struct tuning *t, struct err_msg *why)
{
    struct tuning all = *t;
    for (const char *at = list;; at++) {
        size_t len = strcspn(at, ",");
        enum err e = parse_one(at, len, &all, why);
        if (e != ERR_OK)
            return e;
        at += len;
        if (*at == '\0')
            break;
    }
    *t = all;
    return ERR_OK;
}
