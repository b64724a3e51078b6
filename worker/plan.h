/* `octoflow-worker --plan`: whether a model would run here, and how many sequences at which
 * context. */
#ifndef OCTO_WORKER_PLAN_H
#define OCTO_WORKER_PLAN_H

#include "worker/options.h"

/* Prints a few lines "KEY:  text" on standard output, the last "runs: yes ..." or "runs: no: why",
 * and returns the exit code: 0 also when it does not fit, WORKER_EXIT_FATAL for a model that is
 * none. Loads nothing. `octoflow inspect` shows these lines. */
int worker_plan(const struct worker_options *o);

#endif
