/* Quiet hours: times of the day at which the governor has other limits. Pure code. */
#ifndef OCTO_WORKER_GOVERNOR_HOURS_H
#define OCTO_WORKER_GOVERNOR_HOURS_H

#include <stddef.h>

#include "base/err.h"

struct governor_limits {
    double target_c;  /* degrees the card may reach */
    double max_watts; /* it may take on average; 0: what the card takes */
    double duty_max;  /* share of time the engine may run, above 0 and up to 1 */
};

enum { GOVERNOR_MAX_HOURS = 16, MINUTES_A_DAY = 24 * 60 };

struct governor_hours {
    struct governor_quiet {
        unsigned from, to;             /* minute of the day; from > to: over midnight */
        struct governor_limits limits; /* 0: as at other times */
    } list[GOVERNOR_MAX_HOURS];
    size_t count;
};

/* "22:00-07:00=70C/200W/50%, 12:00-13:00=60C": at least one of C, W and % (of duty) a time; times
 * do not overlap. ERR_USAGE: the message has the part that is wrong and what was expected. */
enum err governor_hours_parse(const char *text, struct governor_hours *ret,
                              struct err_msg *why) MUST_CHECK;
/* usual, or with what the quiet hours at that minute say instead. */
struct governor_limits governor_hours_at(const struct governor_hours *h, unsigned minute,
                                         struct governor_limits usual);

#endif
