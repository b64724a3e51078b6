/* octoflow status: a broker's batches and workers, as tables or as JSON. */
#include "base/size.h"
#include "client/watch.h"

static const struct option table[] = {
    {"The output", .type = OPTION_SECTION},
    {"json", 0, OPTION_FLAG, offsetof(struct watch_options, json),
     .help = "one JSON object with everything there is to know (with --watch: one line each)"},
    {"watch", 'w', OPTION_FLAG, offsetof(struct watch_options, watch),
     .help = "again and again, until Ctrl-C, q, or the BATCH that was named is complete"},
    WATCH_INTERVAL,
    REMOTE_OPTIONS,
};

static const struct client_command command = {
    .name = "status",
    .text = "usage: octoflow status [BATCH] [options]\n"
            "\n"
            "Shows a broker's batches (or one of them) and its workers: what is done, what runs "
            "where,\n"
            "how warm the GPUs are, and why nothing moves if nothing does.\n"
            "\n"
            "    octoflow status --broker tcp://localhost:7420\n"
            "    octoflow status --broker tcp://localhost:7420 night --watch\n"
            "\n",
    .options = table,
    .options_count = ARRAY_LEN(table),
    .min_arguments = 0,
    .max_arguments = 1,
    .arguments = "[BATCH]",
};

static void print(FILE *out, const struct msg_status_ok *m, int columns, int rows)
{
    (void)columns;
    (void)rows;
    view_batches(out, m);
    fputc('\n', out);
    view_workers(out, m);
}

int cmd_status(int argc, char **argv)
{
    struct watch_options o = WATCH_DEFAULTS;
    struct watch w = {
        .command = command.name, .parts = VIEW_BATCHES | VIEW_WORKERS, .print = print};
    int count = 0;
    int code = client_parse(&command, &o, argc, argv, &count);
    if (code >= 0)
        return code;
    w.batch = count > 0 ? argv[0] : NULL;
    return watch_run(&w, &o);
}
