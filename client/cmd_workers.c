/* octoflow workers: who works for a broker, and how each is. */
#include "base/size.h"
#include "client/watch.h"

static const struct option table[] = {
    {"The output", .type = OPTION_SECTION},
    {"json", 0, OPTION_FLAG, offsetof(struct watch_options, json),
     .help = "one JSON object with everything there is to know (with --watch: one line each)"},
    {"watch", 'w', OPTION_FLAG, offsetof(struct watch_options, watch),
     .help = "again and again, until Ctrl-C or q"},
    WATCH_INTERVAL,
    REMOTE_OPTIONS,
};

static const struct client_command command = {
    .name = "workers",
    .text =
        "usage: octoflow workers [options]\n"
        "\n"
        "Shows a broker's workers: their GPUs, how warm they are and what they draw, beside "
        "what they\n"
        "may; the share of time they may run (duty), tokens a second, how full the KV cache is, "
        "the share\n"
        "of prompt tokens found in it (cached), the jobs they have and had, and when they were "
        "last heard.\n"
        "Lost ones are shown for ten minutes.\n"
        "\n"
        "    octoflow workers --broker tcp://localhost:7420\n"
        "\n",
    .options = table,
    .options_count = ARRAY_LEN(table),
    .min_arguments = 0,
    .max_arguments = 0,
};

static void print(FILE *out, const struct msg_status_ok *m, int columns, int rows)
{
    (void)columns;
    (void)rows;
    view_workers(out, m);
}

int cmd_workers(int argc, char **argv)
{
    struct watch_options o = WATCH_DEFAULTS;
    struct watch w = {.command = command.name, .parts = VIEW_WORKERS, .print = print};
    int count = 0;
    int code = client_parse(&command, &o, argc, argv, &count);
    return code >= 0 ? code : watch_run(&w, &o);
}
