/* The options of `octoflow run`, and what of them goes on to the worker. */
#ifndef OCTO_CLIENT_RUN_OPTIONS_H
#define OCTO_CLIENT_RUN_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>

#include "client/children.h"

struct run_options {
    const char *input, *model, *output, *batch;
    const char *device, *chat_template, *pre_tokenizer, *governor, *quiet_hours;
    const char *sensor, *log_level;
    int64_t max_tokens, seed, max_attempts;
    int64_t max_jobs, ctx, kv_tokens; /* 0: the worker's choice */
    double target_c, max_watts;       /* 0: the worker's */
    bool overwrite, no_prefix_cache, validate;
};

/* -1 to go on, else an exit code: see client_parse(). */
int run_options_parse(int argc, char **argv, struct run_options *ret);

struct run_worker_args {
    char numbers[5][32]; /* what spec->args points to */
};
/* Appends the worker's options to spec->args, from *at on. */
void run_options_worker_args(const struct run_options *o, struct run_worker_args *store,
                             struct child_spec *spec, unsigned *at);

#endif
