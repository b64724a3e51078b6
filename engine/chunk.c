/* See chunk.h. */
#include "engine/chunk.h"

#include <stdbool.h>

#include "base/size.h"

uint32_t chunk_after(uint32_t chunk, uint32_t most, uint32_t prefill, uint32_t decode, uint64_t ns,
                     uint64_t target_ns)
{
    uint32_t least = (uint32_t)min_u64(CHUNK_LEAST, most);
    if (prefill == 0 || ns == 0)
        return chunk; /* nothing that a chunk could change */
    double rows = ((double)prefill + decode) * (double)target_ns / (double)ns - decode;
    if (ns <= target_ns) {
        if (prefill < chunk / 2)
            return chunk;
        rows = rows < 4.0 * chunk ? rows : 4.0 * chunk;
        rows = rows > chunk ? rows : chunk;
    } else if (rows > prefill) {
        rows = prefill;
    }
    return rows < least ? least : rows > most ? most : (uint32_t)rows;
}

uint32_t decodes_after(uint32_t decodes, uint32_t most, uint32_t prefill, uint32_t decode,
                       uint64_t ns, uint64_t target_ns)
{
    uint32_t least = (uint32_t)min_u64(DECODES_LEAST, most);
    if (decode == 0 || prefill > CHUNK_LEAST)
        return decodes; /* fewer prompt rows come first */
    if (ns > 2 * target_ns) {
        double rows = (double)decode * 2 * (double)target_ns / (double)ns;
        return rows < least ? least : (uint32_t)rows;
    }
    return ns < target_ns && decode >= decodes ? (uint32_t)min_u64(most, 2 * (uint64_t)decodes)
                                               : decodes;
}

uint32_t widths_choose(struct widths *w, uint32_t ready)
{
    uint32_t whole = ready / WIDTHS_TILE * WIDTHS_TILE;
    if (ready <= WIDTHS_TILE || ready > WIDTHS_MOST || ready == whole ||
        ready - whole > WIDTHS_OVER)
        return ready;
    if (w->tries[ready] < WIDTHS_TRIES)
        return ready;
    if (w->tries[whole] < WIDTHS_TRIES)
        return whole;
    double of_ready = (double)ready / (double)w->ns[ready];
    double of_whole = (double)whole / (double)w->ns[whole];
    bool pays = of_whole > of_ready;
    uint32_t best = pays ? whole : ready, other = pays ? ready : whole;
    if (++w->asked % WIDTHS_AGAIN != 0)
        return best;
    w->tries[other] = 0; /* what is known of it may be of other contexts */
    return other;
}

void widths_learn(struct widths *w, uint32_t rows, uint64_t ns)
{
    if (rows == 0 || rows > WIDTHS_MOST || ns == 0)
        return;
    uint64_t *mean = &w->ns[rows];
    if (w->tries[rows] < WIDTHS_TRIES) { /* first ones may wait for something else */
        *mean = w->tries[rows] == 0 ? ns : min_u64(*mean, ns);
        w->tries[rows]++;
    } else {
        *mean = (*mean * 7 + min_u64(ns, 2 * *mean)) / 8;
    }
}
