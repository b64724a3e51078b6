/* Endpoints and waiting; see remote.h. */
#include "client/remote.h"

#include <stdlib.h>
#include <unistd.h>

#include "base/clock.h"
#include "client/progress.h"

static const uint64_t poll_ns = 500 * NS_PER_MS;

/* NULL: not set, or empty. */
static const char *value_of(const char *variable)
{
    const char *value = getenv(variable);
    return value == NULL || value[0] == '\0' ? NULL : value;
}

enum err remote_open(const struct remote_options *o, const char *command, struct link *ret,
                     struct err_msg *why)
{
    const char *endpoint = o->broker != NULL ? o->broker : value_of("OCTOFLOW_BROKER");
    if (endpoint == NULL || endpoint[0] == '\0')
        return err_set(why, ERR_USAGE,
                       "no broker: say --broker ENDPOINT or set the variable OCTOFLOW_BROKER");
    struct link l = {.timeout_ms = (int)(o->timeout_s * 1000), .command = command};
    struct proto_curve_options files = o->curve;
    struct proto_curve curve = {0};
    if (files.curve_key == NULL && files.server_key == NULL) {
        files.curve_key = value_of("OCTOFLOW_CURVE_KEY");
        files.server_key = value_of("OCTOFLOW_SERVER_KEY");
    }
    enum err e = proto_curve_connect(endpoint, &files, &curve, why);
    if (e == ERR_OK)
        e = link_open(&l, endpoint, &curve, why);
    proto_curve_wipe(&curve);
    if (e == ERR_OK)
        *ret = l;
    return e;
}

enum err remote_wait(struct link *l, const char *batch, struct err_msg *why)
{
    struct progress progress;
    enum err e;
    progress_start(&progress, isatty(STDERR_FILENO) == 1);
    l->progress = &progress;
    for (;;) {
        const struct rec_BATCH *b = NULL;
        e = link_status(l, batch, &b, why);
        if (e != ERR_OK || link_batch_complete(b))
            break;
        progress_show(&progress, b, clock_mono_ns());
        clock_sleep_ns(poll_ns);
    }
    progress_clear(&progress);
    l->progress = NULL;
    return e;
}
