/* Identities of models, lines, shader builds: XXH3 (libxxhash), whose collisions can be computed;
 * of what somebody could gain by one: hash64_keyed(). */
#ifndef OCTO_BASE_HASH_H
#define OCTO_BASE_HASH_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

uint64_t hash64(const void *bytes, size_t len, uint64_t seed);
/* SipHash-2-4 (Aumasson, Bernstein): without the key nobody can say what gives which value. */
uint64_t hash64_keyed(const void *bytes, size_t len, const uint64_t key[2]);
/* 128 bits as 32 lower-case hexadecimal digits and a NUL. */
void hash128_hex(const void *bytes, size_t len, char ret_hex[33]);
/* Of all that can be read from the file's beginning on; the descriptor's own place stays. Blocks;
 * ERR_CANCELLED once *stop is true (NULL: never). `path` is for the message. */
enum err hash128_file(int fd, const char *path, const atomic_bool *stop, char ret_hex[33],
                      struct err_msg *why) MUST_CHECK;

#endif
