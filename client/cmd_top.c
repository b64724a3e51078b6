/* octoflow top: a terminal's screen of batches and workers. */
#include <unistd.h>

#include "base/size.h"
#include "client/text.h"
#include "client/watch.h"

static const struct option table[] = {
    {"The output", .type = OPTION_SECTION},
    {"json", 0, OPTION_FLAG, offsetof(struct watch_options, json),
     .help = "no screen: one JSON object, as of octoflow status"},
    WATCH_INTERVAL,
    REMOTE_OPTIONS,
};

static const struct client_command command = {
    .name = "top",
    .text =
        "usage: octoflow top [options]\n"
        "\n"
        "Fills the terminal with a broker's batches (how far they are, when they will be done) "
        "and its\n"
        "workers, drawn anew each second. q or Ctrl-C ends it. Without a terminal it prints the "
        "page once.\n"
        "\n"
        "    octoflow top --broker tcp://localhost:7420\n"
        "\n",
    .options = table,
    .options_count = ARRAY_LEN(table),
    .min_arguments = 0,
    .max_arguments = 0,
};

/* Who is there, what all of them do and draw. */
static void put_heading(FILE *out, const struct msg_status_ok *m)
{
    unsigned ready = 0, there = 0;
    double tokens_per_s = 0, power_w = 0;
    char up[48];
    for (size_t i = 0; i < m->workers.count; i++) {
        const struct rec_WORKER *w = &m->workers.items[i];
        if (str_eq(w->state, STR_LIT("lost")))
            continue;
        there++;
        ready += str_eq(w->state, STR_LIT("ready"));
        tokens_per_s += w->decode_tokens_per_s;
        power_w += w->power_w;
    }
    text_duration((double)m->uptime_ms / 1000, up, sizeof up);
    fprintf(out, "octoflow top   broker up %s   %u of %u workers ready   %.0f tokens/s", up, ready,
            there, tokens_per_s);
    if (power_w > 0)
        fprintf(out, "   %.0f W", power_w);
    fprintf(out, "   q quits\n\n");
}

static void print(FILE *out, const struct msg_status_ok *m, int columns, int rows)
{
    enum { PIPE_COLUMNS = 100, OTHER_ROWS = 6, MIN_ROWS = 3 };
    int workers = (int)min_u64(m->workers.count, 1000);
    int bars = rows - OTHER_ROWS - workers;
    bars = bars > rows / 2 ? bars : rows / 2;
    put_heading(out, m);
    view_bars(out, m, columns > 0 ? columns : PIPE_COLUMNS,
              rows > 0 ? (bars > MIN_ROWS ? bars : MIN_ROWS) : INT32_MAX);
    fputc('\n', out);
    view_workers(out, m);
}

int cmd_top(int argc, char **argv)
{
    struct watch_options o = WATCH_DEFAULTS;
    struct watch w = {
        .command = command.name, .parts = VIEW_BATCHES | VIEW_WORKERS, .print = print};
    int count = 0;
    int code = client_parse(&command, &o, argc, argv, &count);
    o.watch = !o.json && isatty(STDOUT_FILENO) == 1;
    return code >= 0 ? code : watch_run(&w, &o);
}
