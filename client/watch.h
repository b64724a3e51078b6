/* STATUS once, or again and again until the user has seen enough: what status, workers and top do.
 */
#ifndef OCTO_CLIENT_WATCH_H
#define OCTO_CLIENT_WATCH_H

#include "client/client.h"
#include "client/remote.h"
#include "client/view.h"

struct watch_options {
    struct remote_options remote; /* first */
    bool json, watch;
    double interval_s;
};

#define WATCH_DEFAULTS                                                                             \
    {                                                                                              \
        .remote = REMOTE_DEFAULTS, .interval_s = 1                                                 \
    }

#define WATCH_INTERVAL                                                                             \
    {                                                                                              \
        "interval", 0, OPTION_FLOAT, offsetof(struct watch_options, interval_s),                   \
            .min = 0.1, .max = 3600, .arg = "SECONDS", .help = "between two looks (default 1)"     \
    }

struct watch {
    const char *command;
    const char *batch; /* NULL: all. One that is complete ends the watching */
    enum view_parts parts;
    /* One page; columns and rows of a terminal, 0: none. */
    void (*print)(FILE *out, const struct msg_status_ok *m, int columns, int rows);
};

/* Returns the command's exit code. A terminal has its page drawn in place, anything else gets one
 * after the other; a broker that goes away is waited for. */
int watch_run(const struct watch *w, const struct watch_options *o);

#endif
