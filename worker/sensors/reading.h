/* What a sensor says of one GPU at one moment. What is not known is said to be unknown, never 0. */
#ifndef OCTO_WORKER_SENSORS_READING_H
#define OCTO_WORKER_SENSORS_READING_H

#include <stdbool.h>
#include <stdint.h>

enum { THROTTLE_THERMAL = 1, THROTTLE_POWER = 2, THROTTLE_BRAKE = 4 };

struct sensor_reading {
    bool have_temp;
    double temp_c;
    bool have_margin;
    double margin_c; /* degrees below the card's own limit */
    bool have_memory_temp;
    double memory_temp_c;
    bool have_power;
    double power_w; /* now, or the mean since the reading before */
    double limit_w; /* 0: unknown, then power is ignored */
    bool have_energy;
    double energy_j;        /* a counter that only rises, since some moment in the past */
    double clock_mhz;       /* of the shader cores; 0: unknown */
    unsigned throttle_bits; /* THROTTLE_*; 0: none, or unknown */
    uint64_t read_ns;       /* monotonic: when reading it began, or it came; 0: never */
};

#endif
