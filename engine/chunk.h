/* How many rows a step computes, from how long the last one took: a submission stays short on a
 * slow device, too. The tokens do not depend on it. */
#ifndef OCTO_ENGINE_CHUNK_H
#define OCTO_ENGINE_CHUNK_H

#include <stdint.h>

enum { CHUNK_FIRST = 256, CHUNK_LEAST = 16, DECODES_LEAST = 16 };

/* chunk: the most prompt rows of the step that took ns, which had `prefill` of them, and `decode`
 * other rows. Returns the next step's, CHUNK_LEAST .. most. It falls at once when a step takes
 * longer than target_ns, and rises at most fourfold, where the step was full enough to tell. */
uint32_t chunk_after(uint32_t chunk, uint32_t most, uint32_t prefill, uint32_t decode, uint64_t ns,
                     uint64_t target_ns);

/* The same for the other rows, one of each sequence that goes on, when those alone make a step
 * long: they fall when it takes longer than twice target_ns, and double when it is short. */
uint32_t decodes_after(uint32_t decodes, uint32_t most, uint32_t prefill, uint32_t decode,
                       uint64_t ns, uint64_t target_ns);

#endif
