/* The options of `submit` and `change` that say when and how much of a batch runs. */
#ifndef OCTO_CLIENT_SCHEDULE_H
#define OCTO_CLIENT_SCHEDULE_H

#include "base/options.h"
#include "proto/messages.h"

struct schedule_options {
    int64_t priority, max_parallel; /* -1: not said */
    const char *not_before, *not_after, *hours, *deadline;
};

#define SCHEDULE_DEFAULTS                                                                          \
    {                                                                                              \
        .priority = -1, .max_parallel = -1                                                         \
    }

#define SCHEDULE_AT(base, field) ((base) + offsetof(struct schedule_options, field))

/* Rows for an options table whose target has a struct schedule_options at `base`. */
#define SCHEDULE_OPTIONS(base)                                                                       \
    {"When it runs", .type = OPTION_SECTION},                                                        \
        {"priority", 0,          OPTION_INT, SCHEDULE_AT(base, priority),                            \
         .min = 1,   .max = 255, .arg = "N", .help = "1 to 255, higher runs first (default 100)"},   \
        {"max-parallel", 0,                                                                          \
         OPTION_INT,     SCHEDULE_AT(base, max_parallel),                                            \
         .min = 0,       .max = 1e9,                                                                 \
         .arg = "N",     .help = "most of its lines that run at a time; 0: any number (default 0)"}, \
        {"not-before",                                                                               \
         0,                                                                                          \
         OPTION_STRING,                                                                              \
         SCHEDULE_AT(base, not_before),                                                              \
         .arg = "WHEN",                                                                              \
         .help = "nothing starts before: 22:00 (the next), \"2026-11-27 22:00\", +8h or none"},      \
        {"not-after",                                                                                \
         0,                                                                                          \
         OPTION_STRING,                                                                              \
         SCHEDULE_AT(base, not_after),                                                               \
         .arg = "WHEN",                                                                              \
         .help = "nothing starts from then on; a time of day is the first behind --not-before"},     \
        {"hours",                                                                                    \
         0,                                                                                          \
         OPTION_STRING,                                                                              \
         SCHEDULE_AT(base, hours),                                                                   \
         .arg = "HH:MM-HH:MM",                                                                       \
         .help = "starts only in these hours of each day, by the broker's clock; all: any hour"},    \
    {                                                                                                \
        "deadline", 0, OPTION_STRING, SCHEDULE_AT(base, deadline),                                   \
            .arg = "WHEN",                                                                           \
            .help = "lines that are not done by then fail with code batch_expired (default none)"    \
    }

/* The fields that were said, as BATCH_SET's `changes`. */
uint64_t schedule_said(const struct schedule_options *o);
/* Puts what was said into *schedule; the rest stays as it is. */
enum err schedule_apply(const struct schedule_options *o, struct rec_SCHEDULE *schedule,
                        struct err_msg *why) MUST_CHECK;

#endif
