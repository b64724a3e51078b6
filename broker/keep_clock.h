/* The time that batches' ages go by (--keep): the wall clock, as far as it can be trusted, as what
 * is old is removed. While a broker runs it is never ahead of the monotonic clock, and a start that
 * finds the wall clock far ahead of the run before believes it only when it has stayed so for as
 * long as batches are kept: all that was there is older than that by then.
 *
 * Pure: no clock is read here. */
#ifndef OCTO_BROKER_KEEP_CLOCK_H
#define OCTO_BROKER_KEEP_CLOCK_H

#include <stdbool.h>
#include <stdint.h>

/* What the ledger keeps of it from run to run. */
struct keep_note {
    uint64_t at_ms;             /* how late it was at least; 0: nothing is known */
    uint64_t ahead_ms, from_ms; /* the wall clock is so far ahead of it, since then; ahead 0: no */
};

struct keep_clock {
    struct keep_note note;
    uint64_t keep_ms, start_ms;
};

/* newest_ms: the latest time in the ledger, for one without a note; 0: there is none. Returns
 * whether the wall clock is in doubt. */
bool keep_clock_start(struct keep_clock *c, const struct keep_note *noted, uint64_t newest_ms,
                      uint64_t wall_ms, uint64_t keep_ms);
uint64_t keep_clock_ms(struct keep_clock *c, uint64_t wall_ms, uint64_t since_start_ns);

#endif
