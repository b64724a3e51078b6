/* Chunks and a list of what was given back; see slab.h. */
#include "broker/slab.h"

#include <stdlib.h>
#include <string.h>

enum { CHUNK_BYTES = 256 << 10 };

struct slab_chunk {
    struct slab_chunk *next;
    unsigned char items[];
};

void *slab_take(struct slab *s)
{
    unsigned char *item = s->free;
    if (item != NULL) {
        memcpy(&s->free, item, sizeof s->free);
        memset(item, 0, s->item_bytes);
    } else {
        if (s->fresh == 0) {
            size_t count = (CHUNK_BYTES - sizeof *s->chunks) / s->item_bytes;
            struct slab_chunk *c = calloc(1, sizeof *c + count * s->item_bytes);
            if (c == NULL)
                return NULL;
            c->next = s->chunks;
            s->chunks = c;
            s->fresh = count;
        }
        item = s->chunks->items + --s->fresh * s->item_bytes;
    }
    s->used++;
    return item;
}

void slab_give(struct slab *s, void *item)
{
    memcpy(item, &s->free, sizeof s->free);
    s->free = item;
    if (--s->used == 0)
        slab_free(s);
}

void slab_free(struct slab *s)
{
    while (s->chunks != NULL) {
        struct slab_chunk *next = s->chunks->next;
        free(s->chunks);
        s->chunks = next;
    }
    *s = (struct slab){.item_bytes = s->item_bytes};
}
