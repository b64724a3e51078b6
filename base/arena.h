/* An arena: many small allocations that die together (what one decoded message points to, what one
 * parsed file owns). Zero-initialised is empty and valid. Not thread-safe. */
#ifndef OCTO_BASE_ARENA_H
#define OCTO_BASE_ARENA_H

#include <stddef.h>

struct arena_block;

struct arena {
    struct arena_block *blocks;
    size_t limit_bytes; /* 0: none. Asking for more in all returns NULL. */
    size_t total_bytes;
};

/* Zeroed memory, aligned for any type, valid until arena_free; NULL when out of memory,
 * over the limit, or when count * size overflows. count * size == 0 gives a valid pointer. */
void *arena_alloc(struct arena *a, size_t count, size_t size);
/* A copy of `len` bytes with a NUL after it. */
char *arena_copy(struct arena *a, const void *bytes, size_t len);
void arena_free(struct arena *a); /* frees everything; limit_bytes stays */

#endif
