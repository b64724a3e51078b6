/* One worker on one device: opens model and engine, joins the broker, runs until drained. */
#ifndef OCTO_WORKER_WORKER_H
#define OCTO_WORKER_WORKER_H

#include "worker/options.h"

/* Returns the exit code; says on the log why. Blocks. */
int worker_main(const struct worker_options *o);

#endif
