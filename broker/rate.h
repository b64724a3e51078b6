/* How fast something went over the last minutes: a count in which what is older weighs less, by
 * half after RATE_HALF_S. For display, as the time that a batch still needs.
 *
 * Pure: now_ns is monotonic, and passed in. */
#ifndef OCTO_BROKER_RATE_H
#define OCTO_BROKER_RATE_H

#include <stdint.h>

enum { RATE_HALF_S = 120, RATE_SILENT_S = 60 };

struct rate { /* zero-initialised: nothing has begun */
    double faded;
    uint64_t begun_ns, last_ns; /* begun_ns: time before it does not count; last_ns: last count */
    uint64_t gap_ns;            /* longest silence between counts, of late */
};

/* Work is under way from now on. Again: nothing, unless it has stood still for long. */
void rate_begin(struct rate *r, uint64_t now_ns);
void rate_count(struct rate *r, uint64_t now_ns, uint64_t n);
/* A second. 0: unknown, or nothing moves (for twice as long as it lately did between two counts,
 * and at least RATE_SILENT_S). */
double rate_per_s(const struct rate *r, uint64_t now_ns);
/* How long `left` take at that speed, in milliseconds; 0: unknown, or nothing is left. */
uint64_t rate_left_ms(const struct rate *r, uint64_t now_ns, uint64_t left);

#endif
