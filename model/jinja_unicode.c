/* Characters for the template interpreter: UTF-8, classes and case mappings as Python's str methods
 * have them. */
#include <string.h>

#include "base/size.h"
#include "base/utf8.h"
#include "model/jinja_impl.h"
#include "model/jinja_unicode_table.h"

size_t juni_next(const char *text, size_t len, uint32_t *ret)
{
    unsigned char c = (unsigned char)text[0];
    if (c < 0x80) {
        *ret = c;
        return 1;
    }
    size_t n = c >= 0xf0 ? 4 : c >= 0xe0 ? 3 : 2;
    if (c < 0xc0 || n > len || !utf8_is_valid(text, n)) {
        *ret = 0xdc00u + c;
        return 1;
    }
    uint32_t v = c & (0xffu >> (n + 1));
    for (size_t i = 1; i < n; i++)
        v = v << 6 | ((unsigned char)text[i] & 0x3f);
    *ret = v;
    return n;
}

size_t juni_put(char out[4], uint32_t c)
{
    if (c < 0x80) {
        out[0] = (char)c;
        return 1;
    }
    if (c >= 0xdc80 && c <= 0xdcff) { /* a byte that is no character stays itself */
        out[0] = (char)(c - 0xdc00);
        return 1;
    }
    size_t n = c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
    for (size_t i = n - 1; i > 0; i--, c >>= 6)
        out[i] = (char)(0x80 | (c & 0x3f));
    out[0] = (char)((0xf00u >> n & 0xf0) | c);
    return n;
}

static bool in_set(const struct unicode_set *set, size_t count, uint32_t c)
{
    size_t low = 0, high = count;
    while (low < high) {
        size_t mid = low + (high - low) / 2;
        if (c > set[mid].last)
            low = mid + 1;
        else
            high = mid;
    }
    /* Runs of step 2 may lie in each other's gaps. */
    for (size_t i = low; i < count && i < low + 3; i++)
        if (c >= set[i].first && c <= set[i].last && (c - set[i].first) % set[i].step == 0)
            return true;
    return false;
}

static size_t map(const struct unicode_map *runs, size_t count, const struct unicode_many *many,
                  size_t many_count, uint32_t c, uint32_t out[3])
{
    out[0] = c;
    size_t low = 0, high = count;
    while (low < high) {
        size_t mid = low + (high - low) / 2;
        if (c > runs[mid].last)
            low = mid + 1;
        else
            high = mid;
    }
    for (size_t i = low; i < count && i < low + 3; i++)
        if (c >= runs[i].first && c <= runs[i].last && (c - runs[i].first) % runs[i].step == 0) {
            out[0] = (uint32_t)((int32_t)c + runs[i].delta);
            return 1;
        }
    for (size_t i = 0; c >= 0x80 && i < many_count; i++)
        if (many[i].from == c) {
            memcpy(out, many[i].to, sizeof(many[i].to));
            return out[2] != 0 ? 3 : 2;
        }
    return 1;
}

bool juni_is_space(uint32_t c)
{
    return (c >= 9 && c <= 13) || (c >= 0x1c && c <= 0x20) || c == 0x85 || c == 0xa0 ||
           c == 0x1680 || (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 ||
           c == 0x202f || c == 0x205f || c == 0x3000;
}

#define IN(set, c) in_set(set, ARRAY_LEN(set), c)

bool juni_is_alpha(uint32_t c)
{
    if (c < 0x80)
        return (c | 0x20) >= 'a' && (c | 0x20) <= 'z';
    return IN(unicode_alpha, c);
}

bool juni_is_digit(uint32_t c)
{
    return IN(unicode_digit, c);
}

bool juni_is_upper(uint32_t c)
{
    return IN(unicode_is_upper, c);
}

bool juni_is_lower(uint32_t c)
{
    return IN(unicode_is_lower, c);
}

bool juni_is_title(uint32_t c)
{
    return IN(unicode_is_title, c);
}

bool juni_is_printable(uint32_t c)
{
    return IN(unicode_printable, c);
}

#define MAP(name, c, out)                                                                          \
    map(unicode_to_##name, ARRAY_LEN(unicode_to_##name), unicode_many_##name,                      \
        ARRAY_LEN(unicode_many_##name), c, out)

size_t juni_upper(uint32_t c, uint32_t out[3])
{
    return MAP(upper, c, out);
}

size_t juni_lower(uint32_t c, uint32_t out[3])
{
    return MAP(lower, c, out);
}

size_t juni_title(uint32_t c, uint32_t out[3])
{
    return MAP(title, c, out);
}
