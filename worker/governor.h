/* Homeostasis: how long the engine rests after every quantum of 50 ms of GPU work, so that the card
 * runs steadily below its limit instead of spiking, throttling and spiking again.
 *
 *     delay                                    headroom = degrees below the target
 *     450 ms |          ____ doubles each second above the target, halves every 2 s once back
 *      50 ms |______,--'
 *            |      \            linear over the last 5 degrees
 *       1 ms |       `---------------------
 *            +------+----+----------------> headroom
 *                   0    5 C
 *
 * The same ramp runs over the last 5 % of the power limit; the larger delay wins. A
 * thermal-throttle bit halves the duty at once. Within the ramp the delay rises at once and falls
 * by at most 1 ms a second, so that it does not hunt. Without a fresh reading: a fixed delay.
 *
 * Pure code: no clock, no sensor, no sleep. One thread. The pacer turns the delay into sleep. */
#ifndef OCTO_WORKER_GOVERNOR_H
#define OCTO_WORKER_GOVERNOR_H

#include <stdbool.h>
#include <stdint.h>

#define GOVERNOR_QUANTUM_NS UINT64_C(50000000)

enum { THROTTLE_THERMAL = 1, THROTTLE_POWER = 2, THROTTLE_BRAKE = 4 };

struct governor_config {
    bool off;             /* delay 0, whatever is read */
    double target_c;      /* degrees the card may reach */
    double margin_keep_c; /* and how far it stays below its own limit, where only a margin tells */
    double blind_ms;      /* delay without a fresh reading */
};

struct governor_input {
    bool have_temp;
    double temp_c;
    bool have_margin;
    double margin_c; /* degrees below the card's own limit */
    bool have_power;
    double power_w;
    double limit_w;         /* 0: unknown, then power is ignored */
    unsigned throttle_bits; /* THROTTLE_* */
    uint64_t read_ns;       /* when it was read; 0: never */
};

struct governor {
    struct governor_config config;
    double delay_ms;
    bool started;       /* delay_ms comes from a reading */
    bool blind;         /* the last update had no fresh reading */
    bool escalated;     /* above the target, or on the way back */
    bool over;          /* above the target (or throttled) at the last update */
    bool throttled;     /* the thermal bit at the last update */
    uint64_t update_ns; /* of the last update */
    uint64_t step_ns;   /* of the last doubling or halving */
};

struct governor_config governor_defaults(void);
void governor_init(struct governor *g, struct governor_config config);
/* Returns the delay in milliseconds after each quantum. now_ns never goes back. */
double governor_update(struct governor *g, const struct governor_input *in, uint64_t now_ns);
/* Degrees left to the governor's target; false when neither temperature nor margin is known. */
bool governor_headroom_c(const struct governor *g, const struct governor_input *in, double *ret_c);
/* Share of time the engine may run at this delay, 0..1. */
double governor_duty(double delay_ms);

#endif
