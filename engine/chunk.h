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

/* How many of the sequences that could go on are worth a step. Matmuls take eight rows at a time,
 * so 33 rows may take so much longer than 32 that 32 at a time, in turn, are more tokens a second.
 * Learned from the steps' times; nothing is known at first. */
enum { WIDTHS_MOST = 64, WIDTHS_TILE = 8, WIDTHS_OVER = 4, WIDTHS_TRIES = 4, WIDTHS_AGAIN = 128 };
struct widths {
    uint64_t ns[WIDTHS_MOST + 1];    /* of a step of so many rows, all decodes */
    uint32_t tries[WIDTHS_MOST + 1]; /* how often it was seen, WIDTHS_TRIES at most */
    uint32_t asked;
};

/* `ready`, or the whole tiles below it, if ready is at most WIDTHS_OVER more than those: whichever
 * gave more rows a second, both tried WIDTHS_TRIES times, and the other so often again after each
 * WIDTHS_AGAIN-th choice. */
uint32_t widths_choose(struct widths *w, uint32_t ready);
/* A step of so many decodes and nothing else took ns; 0: not known. */
void widths_learn(struct widths *w, uint32_t rows, uint64_t ns);

#endif
