/* Homeostasis: how long the engine rests after every quantum of 50 ms of GPU work, so that the card
 * runs steadily below its limit instead of spiking, throttling and spiking again.
 *
 * Two laws. `pi` (governor_pi.c), the default, holds the target by duty. `ramp` (governor_ramp.c):
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
 * by at most 1 ms a second, so that it does not hunt.
 *
 * Both: without fresh degrees a fixed delay at least, or what they last held a hot card with if
 * that is longer (the ramp at most 50 ms, pi at most what leaves two thirds of the last minute's
 * duty); and bounds of duty that nothing goes beyond. Pacing is all they do; no card's settings are
 * touched. docs/governor.md has the figures.
 *
 * Pure code: no clock, no sensor, no sleep. One thread. The pacer turns the delay into sleep. */
#ifndef OCTO_WORKER_GOVERNOR_H
#define OCTO_WORKER_GOVERNOR_H

#include <stdbool.h>
#include <stdint.h>

#include "worker/governor_hours.h"
#include "worker/sensors/reading.h"

#define GOVERNOR_QUANTUM_NS UINT64_C(50000000)

enum governor_law { GOVERNOR_OFF, GOVERNOR_RAMP, GOVERNOR_PI };

struct governor_config {
    enum governor_law law;         /* off: delay 0, whatever is read */
    struct governor_limits limits; /* at all times but the quiet hours' */
    struct governor_hours hours;
    double margin_keep_c;    /* how far it stays below the card's own limit, where margins tell */
    double duty_min;         /* at most limits.duty_max */
    double joules_per_token; /* wanted at most; 0: whatever it takes */
    double blind_ms;         /* delay without a fresh reading */
};

/* The ramp's. */
struct governor_ramp {
    double delay_ms;
    bool started;       /* delay_ms comes from a reading */
    bool escalated;     /* above the target, or on the way back */
    bool over;          /* above the target (or throttled) at the last update */
    bool throttled;     /* the thermal bit at the last update */
    uint64_t update_ns; /* of the last update */
    uint64_t step_ns;   /* of the last doubling or halving */
};

/* The controller's; governor_pi.c explains. */
struct governor_pi {
    bool started, heat_known;
    bool learnt;           /* from this throttling, which goes on */
    uint64_t throttle_ns;  /* of the last reading that told one while the card worked; 0: none */
    uint64_t read_ns;      /* of the last reading that counted */
    double headroom_c;     /* smoothed, and less backoff_c */
    double backoff_c;      /* learnt from the card's throttling */
    double integral, duty; /* shares of full duty */
    double busy;           /* share of time that steps took, smoothed */
    double power_w, power_duty; /* smoothed alike */
    double full_w, most_w;      /* watts at full duty: of this work, of the hungriest of late */
    bool counted;               /* a counter of energy tells the watts: */
    double energy_j;
    uint64_t energy_ns;
};

/* The search for fewer joules a token; governor_joules.c explains. */
struct governor_joules {
    double duty_max; /* what it allows now */
    double was;      /* and before that */
    double before;   /* joules a token before the step that is being tried; 0: none is */
    double sum;      /* of what was told since the step */
    unsigned told;
    bool unmet;        /* less duty does not help, or not enough */
    bool rests;        /* no tries for half an hour */
    uint64_t since_ns; /* when duty_max last changed; 0: nothing was told yet */
};

struct governor_told {
    double value;
    uint64_t read_ns; /* 0: never told */
};

struct governor {
    struct governor_config config;
    struct governor_limits limits; /* those that count now */
    double delay_ms;
    bool throttles; /* it told that it slows itself down by heat, and will again */
    bool blind; /* the last update had no fresh reading, or none of the heat or of the watts that
                 * are limited any more */
    double held_ms;                           /* the delay of the last update that was not blind, */
    double held_mean;                         /* and the duty of about the minute before it */
    uint64_t held_ns;                         /* when that was; 0: none yet */
    double busy;                              /* governor_tell_busy() */
    struct governor_told temp, margin, watts; /* as last told */
    uint64_t began_ns;                        /* the first update */
    struct governor_ramp ramp;
    struct governor_pi pi;
    struct governor_joules joules;
};

/* "pi", "ramp" or "off"; ERR_USAGE. */
enum err governor_law_parse(const char *name, enum governor_law *ret,
                            struct err_msg *why) MUST_CHECK;
struct governor_config governor_defaults(void);
void governor_init(struct governor *g, struct governor_config config);
/* Which limits count: 0..1439, local time, for the quiet hours. */
void governor_set_minute(struct governor *g, unsigned minute_of_day);
/* Joules a token as last measured, about once a second; only for config.joules_per_token. */
void governor_tell_joules(struct governor *g, double joules_per_token, uint64_t now_ns);
/* Share of the time from the reading before to the one that comes next that steps took on the
 * device: what a card does while nothing runs teaches nothing. Below 0, as at first: unknown. */
void governor_tell_busy(struct governor *g, double share);
/* Returns the delay in milliseconds after each quantum. now_ns never goes back. */
double governor_update(struct governor *g, const struct sensor_reading *in, uint64_t now_ns);
/* Degrees left to the governor's target; false when neither temperature nor margin is known. */
bool governor_headroom_c(const struct governor *g, const struct sensor_reading *in, double *ret_c);
/* Temperature or margin was told, and has not been for 15 s: longer than is normal when a load ends
 * (sensors/degrees.h). */
bool governor_misses_degrees(const struct governor *g, uint64_t now_ns);
/* There is a max_watts now, and nobody has told watts for 15 s, or ever: it is not kept. */
bool governor_misses_watts(const struct governor *g, uint64_t now_ns);
/* Share of time the engine may run at this delay, 0..1. */
double governor_duty(double delay_ms);
/* The delay of a duty above 0. */
double governor_delay_ms(double duty);

#endif
