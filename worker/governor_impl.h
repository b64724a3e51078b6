/* What governor.c and the laws share; nobody else includes this. */
#ifndef OCTO_WORKER_GOVERNOR_IMPL_H
#define OCTO_WORKER_GOVERNOR_IMPL_H

#include "worker/governor.h"

/* What a law goes by. */
struct governor_input {
    const struct sensor_reading *reading; /* fresh */
    bool have_headroom;
    double headroom_c; /* to the target */
    double limit_w;    /* the lower of the card's limit and max_watts; 0: unknown */
    bool own_limit;    /* it is max_watts */
    double duty_min, duty_max;
    double busy; /* share of the time since the reading before; below 0: unknown */
};

/* Each returns the delay; update_ns never goes back. The bounds of duty are the caller's, too. */
double governor_ramp_update(struct governor_ramp *r, const struct governor_input *in,
                            uint64_t now_ns);
double governor_pi_update(struct governor_pi *p, const struct governor_input *in);

#endif
