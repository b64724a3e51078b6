/* NVIDIA's clocks event reasons ("throttle reasons" before), as NVML and nvidia-smi give them:
 * which say that the card runs slower than it would like. Idle, clocks that somebody set and sync
 * boost are none. */
#ifndef OCTO_WORKER_SENSORS_NVIDIA_REASONS_H
#define OCTO_WORKER_SENSORS_NVIDIA_REASONS_H

#include "worker/sensors/reading.h"

static inline unsigned nvidia_throttle_bits(unsigned long long reasons)
{
    enum {
        SW_POWER_CAP = 0x4,
        HW_SLOWDOWN = 0x8, /* heat or the power brake; which of them, newer drivers say beside it */
        SW_THERMAL = 0x20,
        HW_THERMAL = 0x40,
        POWER_BRAKE = 0x80,
    };
    unsigned bits = 0;
    if ((reasons & (SW_THERMAL | HW_THERMAL)) != 0)
        bits |= THROTTLE_THERMAL;
    if ((reasons & SW_POWER_CAP) != 0)
        bits |= THROTTLE_POWER;
    if ((reasons & (HW_SLOWDOWN | POWER_BRAKE)) != 0)
        bits |= THROTTLE_BRAKE;
    return bits;
}

#endif
