/* A night on a simulated card, in virtual time: what a law makes of it. Pure; seeded. */
#ifndef OCTO_BENCH_GOVERNOR_NIGHT_H
#define OCTO_BENCH_GOVERNOR_NIGHT_H

#include "bench/governor_plant.h"
#include "worker/governor.h"

/* One second of the night. */
struct night_row {
    double hour, room_c, die_c, sensor_c, power_w, clock, duty, delay_ms, speed;
    bool have_sensor;
};
typedef void night_row_fn(void *user, const struct night_row *row);

struct night {
    const struct plant_file *file;
    const struct plant *plant;
    const struct plant_work *work;
    const struct plant_work *other_work; /* takes turns with work each change_s; NULL: no */
    double change_s;
    struct governor_config governor;
    bool no_counter;             /* of energy: only watts of a moment, in a rest or between two */
    double limit_w;              /* that the card tells; 0: none */
    double nonsense_probability; /* of a reading: it and up to three more tell any degrees, */
    bool nonsense_near;          /* also some that could be true */
    double glitch_s;             /* one thermal bit in the reading of this second; 0: none */
    double heat_ends_h;          /* degrees are told until this hour; 0: always */
    uint64_t seed;
    night_row_fn *on_row; /* may be NULL */
    void *user;
};

/* Settled: from 20 minutes after the start. */
struct night_result {
    double tokens; /* share of what full speed all night gives */
    double peak_c, mean_c;
    double throttled_s; /* the firmware held the clock down */
    double joules, watts;
    double per_joule;    /* seconds of full speed a joule */
    double worst_minute; /* share of full speed */
    double overshoot_c;  /* settled: most above the target; below 0: never reached it */
    double under_c;  /* settled, while full speed would pass the target by a degree: most below */
    double ripple_c; /* settled: most between highest and lowest within 10 minutes */
    double duty_least, duty_most, delay_most_ms;
};

struct night_result night_run(const struct night *n);

#endif
