/* An open-addressing set; see ids.h. */
#include "client/ids.h"

#include <stdlib.h>

#include "base/hash.h"

struct ids_slot {
    uint64_t hash;
    uint32_t more; /* of a second hash */
    uint32_t line; /* 0: free */
};

enum { FIRST_CAP = 1024 };

/* Where the id is, or the free slot where it belongs. */
static struct ids_slot *find(const struct ids *ids, uint64_t hash, uint32_t more)
{
    size_t at = (size_t)hash & (ids->cap - 1);
    while (ids->slots[at].line != 0 && (ids->slots[at].hash != hash || ids->slots[at].more != more))
        at = (at + 1) & (ids->cap - 1);
    return &ids->slots[at];
}

static enum err grow(struct ids *ids)
{
    struct ids bigger = {.cap = ids->cap == 0 ? FIRST_CAP : ids->cap * 2, .count = ids->count};
    bigger.slots = calloc(bigger.cap, sizeof *bigger.slots);
    if (bigger.slots == NULL)
        return ERR_NOMEM;
    for (size_t i = 0; i < ids->cap; i++) {
        const struct ids_slot *s = &ids->slots[i];
        if (s->line != 0)
            *find(&bigger, s->hash, s->more) = *s;
    }
    free(ids->slots);
    *ids = bigger;
    return ERR_OK;
}

enum err ids_add(struct ids *ids, struct str id, uint64_t line, uint64_t *ret_first_line)
{
    if (line == 0 || line > UINT32_MAX)
        return ERR_RANGE;
    if (ids->count >= ids->cap / 4 * 3 && grow(ids) != ERR_OK)
        return ERR_NOMEM;
    uint64_t hash = hash64(id.data, id.len, 1);
    uint32_t more = (uint32_t)hash64(id.data, id.len, 2);
    struct ids_slot *s = find(ids, hash, more);
    *ret_first_line = s->line;
    if (s->line == 0) {
        *s = (struct ids_slot){hash, more, (uint32_t)line};
        ids->count++;
    }
    return ERR_OK;
}

void ids_free(struct ids *ids)
{
    free(ids->slots);
    *ids = (struct ids){0};
}
