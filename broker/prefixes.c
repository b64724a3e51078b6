/* Two direct-mapped tables; see prefixes.h. */
#include "broker/prefixes.h"

static uint32_t fold(uint64_t hash)
{
    uint32_t prefix = (uint32_t)(hash ^ hash >> 32);
    return prefix != 0 ? prefix : 1;
}

uint32_t prefix_of(struct prefixes *p, const uint64_t *hashes, size_t count)
{
    if (count == 0)
        return 0;
    uint64_t shared = hashes[0];
    for (size_t i = 0; i < count; i++) {
        uint64_t *seen = &p->seen[hashes[i] % PREFIXES];
        if (*seen == hashes[i])
            shared = hashes[i];
        *seen = hashes[i];
    }
    return fold(shared);
}

enum prefix_fit prefix_fits(const struct prefixes *p, uint32_t prefix, uint64_t owner)
{
    const struct prefix_place *at = &p->places[prefix % PREFIXES];
    if (prefix == 0 || at->owner == 0 || at->prefix != prefix)
        return PREFIX_NEW;
    return at->owner == owner ? PREFIX_HERE : PREFIX_ELSEWHERE;
}

void prefix_given(struct prefixes *p, uint32_t prefix, uint64_t owner)
{
    if (prefix != 0)
        p->places[prefix % PREFIXES] = (struct prefix_place){owner, prefix};
}

void prefix_forget(struct prefixes *p, uint64_t owner)
{
    for (size_t i = 0; i < PREFIXES; i++) {
        if (p->places[i].owner == owner)
            p->places[i] = (struct prefix_place){0};
    }
}
