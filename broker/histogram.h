/* How long something took, counted by classes as Prometheus has them. */
#ifndef OCTO_BROKER_HISTOGRAM_H
#define OCTO_BROKER_HISTOGRAM_H

#include <stdint.h>

enum { HISTOGRAM_CLASSES = 12 };

/* Upper bounds in milliseconds, ascending; what took longer is only in the count. */
static const uint64_t histogram_bounds_ms[HISTOGRAM_CLASSES] = {1,   2,   5,   10,   25,   50,
                                                                100, 250, 500, 1000, 2500, 5000};

struct histogram {
    uint64_t count, sum_ns;
    uint64_t classes[HISTOGRAM_CLASSES]; /* not cumulative */
};

static inline void histogram_add(struct histogram *h, uint64_t ns)
{
    h->count++;
    h->sum_ns += ns;
    for (int i = 0; i < HISTOGRAM_CLASSES; i++) {
        if (ns <= histogram_bounds_ms[i] * 1000000) {
            h->classes[i]++;
            break;
        }
    }
}

#endif
