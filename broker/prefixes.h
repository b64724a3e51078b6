/* Prompts that begin alike, and who was given some of them: a worker that has computed a prefix
 * keeps it in its cache for a while (engine/kv.h), so others with that prefix should go there.
 *
 * A line names its prompt by hashes of its first 256, 512, 1024, ... bytes. Its *prefix* is the
 * longest of them that an earlier line had as well: what it shares, and no more. Both tables
 * forget: they only save work. Pure, as jobs.h. */
#ifndef OCTO_BROKER_PREFIXES_H
#define OCTO_BROKER_PREFIXES_H

#include <stddef.h>
#include <stdint.h>

enum { PREFIXES = 4096 };

struct prefixes {
    uint64_t seen[PREFIXES]; /* hashes of lines, by their low bits */
    struct prefix_place {
        uint64_t owner;
        uint32_t prefix;
    } places[PREFIXES]; /* who was given one last */
};

enum prefix_fit { PREFIX_ELSEWHERE, PREFIX_NEW, PREFIX_HERE };

/* The prefix of a line with these hashes; 0: none, it is short. */
uint32_t prefix_of(struct prefixes *p, const uint64_t *hashes, size_t count);
enum prefix_fit prefix_fits(const struct prefixes *p, uint32_t prefix, uint64_t owner);
void prefix_given(struct prefixes *p, uint32_t prefix, uint64_t owner);
void prefix_forget(struct prefixes *p, uint64_t owner); /* gone, and its cache with it */

#endif
