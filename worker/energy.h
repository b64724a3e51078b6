/* Joules of one device for any moment, out of sensor readings about a second apart: no sensor has
 * to be read when a step ends.
 *
 *     joules                     . measured: the counter's differences, without a counter power
 *       |            ____.---'     integrated between readings (trapezoids)
 *       |      __.--'          - told: never falls; between readings it goes on by the last power,
 *       | __.-'                  and what that got wrong is made up for within the next second
 *       +----+-----+-----+---> readings
 *
 * A reading keeps for ENERGY_KEEPS_NS; then nothing is known until the next one, and the time in
 * between is not counted unless a counter tells what was used. Pure code; one thread, and a copy of
 * it may be another's. */
#ifndef OCTO_WORKER_ENERGY_H
#define OCTO_WORKER_ENERGY_H

#include <stdbool.h>
#include <stdint.h>

#include "worker/sensors/reading.h"

#define ENERGY_KEEPS_NS UINT64_C(5000000000)

struct energy_meter { /* zero-initialised */
    bool known;       /* watts is: joules can be told */
    double joules;    /* told, as of at_ns, since the first reading */
    double total_j;   /* energy_total()'s last */
    double measured_j;
    double watts;   /* how joules go on */
    uint64_t at_ns; /* last reading with power or a counter; 0: none */
    bool have_power, have_counter;
    double power_w, counter_j; /* that reading's */
};

/* A reading that tells neither power nor energy changes nothing. */
void energy_reading(struct energy_meter *m, const struct sensor_reading *in);
/* False: not known now. now_ns: monotonic, as readings are. */
bool energy_at(const struct energy_meter *m, uint64_t now_ns, double *ret_joules);
/* All that is known to have been used until now; while nothing is known now, what it was before. */
double energy_total(struct energy_meter *m, uint64_t now_ns);

#endif
