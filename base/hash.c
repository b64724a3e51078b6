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
