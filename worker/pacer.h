/* Turns the governor's delay into rests: GPU work is added up, and after each full quantum a rest
 * is due. Pure: the caller sleeps. One thread. */
#ifndef OCTO_WORKER_PACER_H
#define OCTO_WORKER_PACER_H

#include <stdint.h>

struct pacer {
    uint64_t work_ns; /* since the last rest; less than a quantum */
};

/* Adds a step's GPU time; returns how long to rest now: the delay times the quanta that became
 * full. A step of several quanta rests for all of them, so that the duty is the same however long
 * steps are. */
uint64_t pacer_rest_ns(struct pacer *p, uint64_t gpu_ns, double delay_ms);

#endif
