/* Which custom_ids a batch's input has used, and on which line first. 16 bytes an id: 96 bits of
 * hash (two different ids meet with a chance of 10^-16 among ten million) and the line. Not
 * thread-safe. */
#ifndef OCTO_CLIENT_IDS_H
#define OCTO_CLIENT_IDS_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/str.h"

struct ids { /* zero-initialised is empty */
    struct ids_slot *slots;
    size_t count, cap; /* cap: a power of two */
};

/* Adds the id; *ret_first_line is 0 when it is new, else the line that used it first (which stays).
 * Lines are below 2^32; ERR_RANGE otherwise. */
enum err ids_add(struct ids *ids, struct str id, uint64_t line,
                 uint64_t *ret_first_line) MUST_CHECK;
void ids_free(struct ids *ids);

#endif
