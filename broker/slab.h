/* Items of one size, millions of them, without malloc's header and rounding for each. Memory is
 * taken in chunks and given back when no item is left. Not thread-safe. */
#ifndef OCTO_BROKER_SLAB_H
#define OCTO_BROKER_SLAB_H

#include <stddef.h>

struct slab_chunk;

struct slab {          /* zero-initialised but for item_bytes is empty */
    size_t item_bytes; /* a multiple of 8, at least 8 */
    size_t used;
    void *free;                /* given back, each points to the next */
    struct slab_chunk *chunks; /* the newest first */
    size_t fresh;              /* items of the newest that were never taken */
};

/* Zeroed; NULL: out of memory. */
void *slab_take(struct slab *s);
void slab_give(struct slab *s, void *item);
/* Frees everything, also what is still taken. */
void slab_free(struct slab *s);

#endif
