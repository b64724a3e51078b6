/* See pacer.h. */
#include "worker/pacer.h"

#include "base/clock.h"
#include "worker/governor.h"

uint64_t pacer_rest_ns(struct pacer *p, uint64_t gpu_ns, uint64_t now_ns, double delay_ms)
{
    int64_t passed_ns = p->now_ns == 0 ? (int64_t)gpu_ns : (int64_t)(now_ns - p->now_ns);
    int64_t rest_ns = (int64_t)(delay_ms * (double)NS_PER_MS);
    p->now_ns = now_ns;
    p->work_ns += gpu_ns;
    int64_t quanta = (int64_t)(p->work_ns / GOVERNOR_QUANTUM_NS);
    p->work_ns %= GOVERNOR_QUANTUM_NS;
    p->owed_ns += quanta * rest_ns - (passed_ns - (int64_t)gpu_ns);
    if (rest_ns <= 0 || p->owed_ns < -rest_ns)
        p->owed_ns = rest_ns <= 0 ? 0 : -rest_ns;
    return quanta > 0 && p->owed_ns > 0 ? (uint64_t)p->owed_ns : 0;
}
