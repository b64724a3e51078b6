/* See pacer.h. */
#include "worker/pacer.h"

#include "base/clock.h"
#include "worker/governor.h"

uint64_t pacer_rest_ns(struct pacer *p, uint64_t gpu_ns, double delay_ms)
{
    p->work_ns += gpu_ns;
    uint64_t quanta = p->work_ns / GOVERNOR_QUANTUM_NS;
    p->work_ns %= GOVERNOR_QUANTUM_NS;
    return delay_ms <= 0 ? 0 : (uint64_t)((double)quanta * delay_ms * (double)NS_PER_MS);
}
