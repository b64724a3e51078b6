#include "base/hash.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

uint64_t hash64(const void *bytes, size_t len, uint64_t seed)
{
    return XXH3_64bits_withSeed(bytes, len, seed);
}

static uint64_t rotate(uint64_t x, int bits)
{
    return x << bits | x >> (64 - bits);
}

static void sip_rounds(uint64_t v[4], int count)
{
    for (int i = 0; i < count; i++) {
        v[0] += v[1];
        v[2] += v[3];
        v[1] = rotate(v[1], 13) ^ v[0];
        v[3] = rotate(v[3], 16) ^ v[2];
        v[0] = rotate(v[0], 32) + v[3];
        v[2] += v[1];
        v[3] = rotate(v[3], 21) ^ v[0];
        v[1] = rotate(v[1], 17) ^ v[2];
        v[2] = rotate(v[2], 32);
    }
}

static void sip_word(uint64_t v[4], uint64_t word)
{
    v[3] ^= word;
    sip_rounds(v, 2);
    v[0] ^= word;
}

uint64_t hash64_keyed(const void *bytes, size_t len, const uint64_t key[2])
{
    const unsigned char *at = bytes;
    uint64_t word, last = (uint64_t)len << 56;
    uint64_t v[4] = {key[0] ^ 0x736f6d6570736575, key[1] ^ 0x646f72616e646f6d,
                     key[0] ^ 0x6c7967656e657261, key[1] ^ 0x7465646279746573};
    for (; len >= sizeof word; len -= sizeof word, at += sizeof word) {
        memcpy(&word, at, sizeof word);
        sip_word(v, word);
    }
    for (size_t i = 0; i < len; i++)
        last |= (uint64_t)at[i] << 8 * i;
    sip_word(v, last);
    v[2] ^= 0xff;
    sip_rounds(v, 4);
    return v[0] ^ v[1] ^ v[2] ^ v[3];
}

static void to_hex(XXH128_hash_t h, char ret_hex[33])
{
    snprintf(ret_hex, 33, "%016llx%016llx", (unsigned long long)h.high64,
             (unsigned long long)h.low64);
}

void hash128_hex(const void *bytes, size_t len, char ret_hex[33])
{
    to_hex(XXH3_128bits(bytes, len), ret_hex);
}

enum err hash128_file(int fd, const char *path, const atomic_bool *stop, char ret_hex[33],
                      struct err_msg *why)
{
    enum { PIECE_BYTES = 1 << 20 };
    char *piece = malloc(PIECE_BYTES);
    XXH3_state_t *state = XXH3_createState();
    enum err e = piece == NULL || state == NULL ? err_set(why, ERR_NOMEM, "%s: out of memory", path)
                                                : ERR_OK;
    if (e == ERR_OK)
        XXH3_128bits_reset(state);
    for (off_t at = 0; e == ERR_OK;) {
        ssize_t n = pread(fd, piece, PIECE_BYTES, at);
        if (stop != NULL && atomic_load(stop))
            e = err_set(why, ERR_CANCELLED, "%s: stopped", path);
        else if (n < 0 && errno != EINTR)
            e = err_set(why, ERR_IO, "%s: cannot read: %s", path, strerror(errno));
        if (n == 0)
            break;
        if (n > 0) {
            XXH3_128bits_update(state, piece, (size_t)n);
            at += n;
        }
    }
    if (e == ERR_OK)
        to_hex(XXH3_128bits_digest(state), ret_hex);
    XXH3_freeState(state);
    free(piece);
    return e;
}
