/* Turns the governor's delay into rests of the device: GPU work is added up, and with each full
 * quantum a rest is owed. Whatever else the device waits for (the host between two steps, jobs)
 * is rest, too, and counts as that. Pure: the caller sleeps. One thread. */
#ifndef OCTO_WORKER_PACER_H
#define OCTO_WORKER_PACER_H

#include <stdint.h>

/* Zero-initialised. */
struct pacer {
    uint64_t work_ns; /* since the last full quantum */
    int64_t owed_ns;  /* of rest; below 0: rested already, at most one quantum's rest */
    uint64_t now_ns;  /* of the last step; 0: none yet */
};

/* A step of gpu_ns on the device has ended by now_ns (monotonic); returns how long to rest now: the
 * delay times the quanta that became full, less the time since the last step that was no work.
 *
 * The device may be a step ahead, and then works during the first part of the rest. Nobody has to
 * know for how long: a rest that it did not have is still owed after that step, so that the duty is
 * the same however long steps are, and whether long ones and short ones take turns. */
uint64_t pacer_rest_ns(struct pacer *p, uint64_t gpu_ns, uint64_t now_ns, double delay_ms);

#endif
