/* octoflow drain: workers that shall leave. */
#include <inttypes.h>
#include <stdio.h>

#include "base/size.h"
#include "client/client.h"
#include "client/remote.h"

struct options {
    struct remote_options remote; /* first */
    const char *host;
};

static const struct option table[] = {
    {"Which", .type = OPTION_SECTION},
    {"host", 0, OPTION_STRING, offsetof(struct options, host), .arg = "HOST",
     .help = "all workers of that machine, as `octoflow workers` names it"},
    REMOTE_OPTIONS,
};

static const struct client_command command = {
    .name = "drain",
    .text = "usage: octoflow drain WORKER [options]\n"
            "       octoflow drain --host HOST [options]\n"
            "\n"
            "The worker gets no more lines, finishes what its --drain-s allows, hands back the "
            "rest and\n"
            "ends; no line loses an attempt. What starts it again decides whether it comes back.\n"
            "\n"
            "    octoflow drain --broker tcp://localhost:7420 --host gpu-3\n"
            "\n",
    .options = table,
    .options_count = ARRAY_LEN(table),
    .min_arguments = 0,
    .max_arguments = 1,
    .arguments = "WORKER",
};

int cmd_drain(int argc, char **argv)
{
    struct options o = {.remote = REMOTE_DEFAULTS};
    struct link l = {0};
    struct err_msg why = {{0}};
    struct msg m = {.type = MSG_TYPE_DRAIN};
    const struct msg *reply = NULL;
    int count = 0;
    int code = client_parse(&command, &o, argc, argv, &count);
    if (code >= 0)
        return code;
    enum err e = (count == 1) == (o.host != NULL)
                     ? err_set(&why, ERR_USAGE, "expected the name of a worker, or --host HOST")
                     : remote_open(&o.remote, command.name, &l, &why);
    m.drain.worker = str_of(count == 1 ? argv[0] : "");
    m.drain.host = str_of(o.host != NULL ? o.host : "");
    if (e == ERR_OK)
        e = link_call(&l, &m, MSG_TYPE_DRAIN_OK, &reply, &why);
    if (e == ERR_OK)
        printf("%" PRIu64 " workers asked to leave, with %" PRIu64 " lines\n",
               reply->drain_ok.workers, reply->drain_ok.jobs);
    link_close(&l);
    return e == ERR_OK ? EXIT_ALL_DONE : client_fail(command.name, e, &why);
}
