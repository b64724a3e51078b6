#include "base/arena.h"

#include <stdalign.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

struct arena_block {
    struct arena_block *next;
    size_t used_bytes;
    size_t size_bytes;
    alignas(max_align_t) unsigned char data[];
};

enum { MIN_BLOCK_BYTES = 4096 };

void *arena_alloc(struct arena *a, size_t count, size_t size)
{
    size_t want;
    if (__builtin_mul_overflow(count, size, &want) || want > SIZE_MAX / 2)
        return NULL;
    want = (want + alignof(max_align_t) - 1) & ~(alignof(max_align_t) - 1);
    if (a->limit_bytes != 0 &&
        (a->total_bytes > a->limit_bytes || want > a->limit_bytes - a->total_bytes))
        return NULL;
    struct arena_block *b = a->blocks;
    if (b == NULL || want > b->size_bytes - b->used_bytes) {
        size_t bytes = want > MIN_BLOCK_BYTES ? want : MIN_BLOCK_BYTES;
        b = calloc(1, sizeof *b + bytes);
        if (b == NULL)
            return NULL;
        b->size_bytes = bytes;
        b->next = a->blocks;
        a->blocks = b;
    }
    void *p = b->data + b->used_bytes;
    b->used_bytes += want;
    a->total_bytes += want;
    return p;
}

char *arena_copy(struct arena *a, const void *bytes, size_t len)
{
    if (len == SIZE_MAX)
        return NULL;
    char *p = arena_alloc(a, len + 1, 1);
    if (p != NULL && len > 0)
        memcpy(p, bytes, len);
    return p;
}

void arena_free(struct arena *a)
{
    for (struct arena_block *b = a->blocks; b != NULL;) {
        struct arena_block *next = b->next;
        free(b);
        b = next;
    }
    a->blocks = NULL;
    a->total_bytes = 0;
}
