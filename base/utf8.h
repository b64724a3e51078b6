/* UTF-8, strict: no overlong forms, no surrogates, nothing above U+10FFFF. */
#ifndef OCTO_BASE_UTF8_H
#define OCTO_BASE_UTF8_H

#include <stdbool.h>
#include <stddef.h>

/* Length of the longest prefix that is whole, valid characters. */
size_t utf8_valid_prefix(const char *text, size_t len);
bool utf8_is_valid(const char *text, size_t len);
/* True when text[0..len) could be the beginning (1..3 bytes) of one valid character. */
bool utf8_is_partial(const char *text, size_t len);

#endif
