/* Cards as two heat nodes in a room, with the firmware that keeps them alive: what the governor is
 * tried on (tests/plants.json has the equations and the figures). Pure but for the file. */
#ifndef OCTO_BENCH_GOVERNOR_PLANT_H
#define OCTO_BENCH_GOVERNOR_PLANT_H

#include <stdbool.h>
#include <stddef.h>

#include "base/err.h"

enum { PLANT_MAX = 16, PLANT_MAX_ROOM = 16, PLANT_NAME_BYTES = 32 };

/* C, W, J/C, C/W. */
struct plant {
    char name[PLANT_NAME_BYTES];
    double p_idle, p_full, r_die_sink, r_sink_room, c_die, c_sink, throttle_c, v_min, target_c;
    bool hysteresis; /* the firmware; else smooth DVFS */
    double low_clock, hysteresis_c;
};

struct plant_work {
    char name[PLANT_NAME_BYTES];
    double activity, exponent;
};

struct plant_room {
    double hour, room_c;
};

struct plant_file {
    struct plant plants[PLANT_MAX];
    size_t plants_count;
    struct plant_work works[PLANT_MAX];
    size_t works_count;
    struct plant_room room[PLANT_MAX_ROOM]; /* linear between the hours */
    size_t room_count;
    double hours, step_s;
    double noise_c, resolution_c, period_s, delay_s, dropout_probability; /* the sensor */
};

enum err plant_load(const char *path, struct plant_file *ret, struct err_msg *why) MUST_CHECK;

struct plant_state {
    double die_c, sink_c;
    double clock;      /* share of full */
    double firmware_s; /* since the firmware last looked */
    /* Of the last step: */
    double power_w, speed; /* speed: share of this work's full tokens/s */
};

void plant_start(const struct plant *p, double room_c, struct plant_state *ret);
void plant_step(const struct plant *p, const struct plant_work *work, double duty, double room_c,
                double step_s, struct plant_state *s);
double plant_room_c(const struct plant_file *f, double hour);

#endif
