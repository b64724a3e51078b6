/* XXH3 (libxxhash): identities of models, lines, prefixes, shader builds. Not for adversaries. */
#ifndef OCTO_BASE_HASH_H
#define OCTO_BASE_HASH_H

#include <stddef.h>
#include <stdint.h>

uint64_t hash64(const void *bytes, size_t len, uint64_t seed);
/* 128 bits as 32 lower-case hexadecimal digits and a NUL. */
void hash128_hex(const void *bytes, size_t len, char ret_hex[33]);

#endif
