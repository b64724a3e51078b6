/* octoflow pause, resume, change: when and how much of a batch runs. */
#include <stdio.h>

#include "base/size.h"
#include "client/client.h"
#include "client/remote.h"
#include "client/schedule.h"

struct options {
    struct remote_options remote; /* first */
    struct schedule_options schedule;
};

static const struct option table[] = {
    SCHEDULE_OPTIONS(offsetof(struct options, schedule)),
    REMOTE_OPTIONS,
};

static const struct option no_options[] = {REMOTE_OPTIONS};

static const struct client_command change = {
    .name = "change",
    .text = "usage: octoflow change BATCH [options]\n"
            "\n"
            "Changes when and how much of a batch runs; what is not said stays as it is. Lines\n"
            "that run already go on.\n"
            "\n"
            "    octoflow change --broker tcp://localhost:7420 night --priority 200 --hours "
            "22:00-06:00\n"
            "\n",
    .options = table,
    .options_count = ARRAY_LEN(table),
    .min_arguments = 1,
    .max_arguments = 1,
    .arguments = "BATCH",
};

static const struct client_command pause_command = {
    .name = "pause",
    .text =
        "usage: octoflow pause BATCH [options]\n"
        "\n"
        "Starts no more of the batch's lines; those that run go on. `octoflow resume` takes it\n"
        "back.\n"
        "\n"
        "    octoflow pause --broker tcp://localhost:7420 night\n"
        "\n",
    .options = no_options,
    .options_count = ARRAY_LEN(no_options),
    .min_arguments = 1,
    .max_arguments = 1,
    .arguments = "BATCH",
};

static const struct client_command resume_command = {
    .name = "resume",
    .text = "usage: octoflow resume BATCH [options]\n"
            "\n"
            "Goes on with a batch that was paused.\n"
            "\n"
            "    octoflow resume --broker tcp://localhost:7420 night\n"
            "\n",
    .options = no_options,
    .options_count = ARRAY_LEN(no_options),
    .min_arguments = 1,
    .max_arguments = 1,
    .arguments = "BATCH",
};

/* paused: 1 or 0; -1: as it is. */
static int set(const struct client_command *command, int paused, int argc, char **argv)
{
    struct options o = {.remote = REMOTE_DEFAULTS, .schedule = SCHEDULE_DEFAULTS};
    struct link l = {0};
    struct err_msg why = {{0}};
    struct rec_SCHEDULE schedule = {0};
    const struct rec_BATCH *b = NULL;
    const struct msg *reply = NULL;
    struct msg m = {.type = MSG_TYPE_BATCH_SET};
    int count = 0;
    int code = client_parse(command, &o, argc, argv, &count);
    if (code >= 0)
        return code;
    m.batch_set.changes = paused >= 0 ? SCHEDULE_BIT(paused) : schedule_said(&o.schedule);
    if (m.batch_set.changes == 0) {
        err_set(&why, ERR_USAGE, "nothing to change: say what, as --priority 200");
        return client_fail(command->name, ERR_USAGE, &why);
    }
    enum err e = remote_open(&o.remote, command->name, &l, &why);
    if (e == ERR_OK)
        e = link_status(&l, argv[0], &b, &why);
    if (e == ERR_OK)
        PROTO_COPY(SCHEDULE_FIELDS, &schedule, b);
    if (e == ERR_OK)
        e = schedule_apply(&o.schedule, &schedule, &why);
    if (paused >= 0)
        schedule.paused = paused != 0;
    m.batch_set.batch = str_of(argv[0]);
    PROTO_COPY(SCHEDULE_FIELDS, &m.batch_set, &schedule);
    if (e == ERR_OK)
        e = link_call(&l, &m, MSG_TYPE_BATCH_OK, &reply, &why);
    link_close(&l);
    return e == ERR_OK ? EXIT_ALL_DONE : client_fail(command->name, e, &why);
}

int cmd_change(int argc, char **argv)
{
    return set(&change, -1, argc, argv);
}

int cmd_pause(int argc, char **argv)
{
    return set(&pause_command, 1, argc, argv);
}

int cmd_resume(int argc, char **argv)
{
    return set(&resume_command, 0, argc, argv);
}
