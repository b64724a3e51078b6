/* Endpoints and waiting; see remote.h. */
#include "client/remote.h"

#include <stdlib.h>
#include <unistd.h>

#include "base/clock.h"
#include "client/progress.h"

static const uint64_t poll_ns = 500 * NS_PER_MS;

enum err remote_open(const struct remote_options *o, struct link *ret, struct err_msg *why)
{
    const char *endpoint = o->broker != NULL ? o->broker : getenv("OCTOFLOW_BROKER");
    if (endpoint == NULL || endpoint[0] == '\0')
        return err_set(why, ERR_USAGE,
                       "no broker: say --broker ENDPOINT or set the variable OCTOFLOW_BROKER");
    struct link l = {.timeout_ms = (int)(o->timeout_s * 1000)};
    enum err e = link_open(&l, endpoint, why);
    if (e == ERR_OK)
        *ret = l;
    return e;
}

enum err remote_wait(struct link *l, const char *batch, struct err_msg *why)
{
    struct progress progress;
    enum err e;
    progress_start(&progress, isatty(STDERR_FILENO) == 1);
    for (;;) {
        const struct rec_BATCH *b = NULL;
        e = link_status(l, batch, &b, why);
        if (e != ERR_OK || link_batch_complete(b))
            break;
        progress_show(&progress, b, clock_mono_ns());
        clock_sleep_ns(poll_ns);
    }
    progress_clear(&progress);
    return e;
}
