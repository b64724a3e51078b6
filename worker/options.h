/* The options of octoflow-worker, and its exit codes. */
#ifndef OCTO_WORKER_OPTIONS_H
#define OCTO_WORKER_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "base/log.h"
#include "proto/curve.h"
#include "worker/governor.h"

enum {
    WORKER_EXIT_OK = 0, /* drained, or sent away by the broker */
    WORKER_EXIT_USAGE = 2,
    WORKER_EXIT_FATAL = 3,   /* starting it again would not help */
    WORKER_EXIT_RESPAWN = 4, /* device lost or the like: start it again */
};

struct worker_options {
    struct proto_curve_options curve;
    const char *broker, *model, *models, *device, *chat_template, *pre_tokenizer, *name;
    const char *governor, *quiet_hours, *sensor, *log_level_text, *metrics;
    int64_t max_jobs, ctx, kv_tokens, chunk_tokens; /* 0: auto */
    struct governor_config heat; /* from governor, quiet_hours and the numbers beside them */
    double drain_s;
    int64_t gpu_timeout_s; /* 0: by device */
    int64_t models_bytes;  /* 0: no limit */
    bool no_prefix_cache, list_devices, plan, validate, die_with_parent, version;
    enum log_level log_level;
};

/* ERR_CANCELLED: --help was asked for. */
enum err worker_options_parse(int argc, char **argv, struct worker_options *ret,
                              struct err_msg *why) MUST_CHECK;
void worker_options_help(void);

#endif
