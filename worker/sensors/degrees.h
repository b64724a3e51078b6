/* Which degrees can be true after those before. Sensors talk nonsense at times, for a reading or a
 * few: 0, all bits set, another chip's. So degrees more than 10 above what was believed last, or
 * more than 6 below, count once readings have been there for a while: for 2 s above and down to 12
 * below, where a fast chip's are once its work ends; for 8 s further below, as a rise that is
 * believed late costs heat, and a fall only a little speed. For 10 s after such a step, what was
 * believed before it is believed again at once; and whatever comes after a silence of 10 s.
 *
 * Pure code; one thread. */
#ifndef OCTO_WORKER_SENSORS_DEGREES_H
#define OCTO_WORKER_SENSORS_DEGREES_H

#include <stdbool.h>
#include <stdint.h>

struct degrees { /* zero-initialised */
    bool known;
    uint64_t read_ns;  /* of the last reading, believed or not */
    double c;          /* last believed */
    double before_c;   /* before the last step */
    uint64_t step_ns;  /* of the last step */
    int side;          /* of the readings not believed since: 1 above, -1 below, -2 far, 0: none */
    uint64_t since_ns; /* the first of them */
};

/* True: believed. Of a margin: give it negated, so that hotter is more. read_ns never goes back. */
bool degrees_believe(struct degrees *d, double c, uint64_t read_ns);

#endif
