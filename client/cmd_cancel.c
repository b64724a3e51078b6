/* octoflow cancel: stops a batch, or some of its lines. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/size.h"
#include "client/client.h"
#include "client/remote.h"

static const struct option table[] = {REMOTE_OPTIONS};

static const struct client_command command = {
    .name = "cancel",
    .text =
        "usage: octoflow cancel BATCH [LINE | FIRST-LAST]... [options]\n"
        "\n"
        "Cancels what is not finished of a batch, or of the lines named. Answers that are there\n"
        "stay; cancelled lines become error lines. It cannot be taken back.\n"
        "\n"
        "    octoflow cancel --broker tcp://localhost:7420 night 17 40-60\n"
        "\n",
    .options = table,
    .options_count = ARRAY_LEN(table),
    .min_arguments = 1,
    .max_arguments = -1,
    .arguments = "BATCH",
};

/* "17" or "40-60" appended to the lines. */
static enum err add_lines(const char *text, struct u64s *lines, struct err_msg *why)
{
    char *end = NULL;
    unsigned long long first = strtoull(text, &end, 10), last = first;
    bool good = text[0] >= '0' && text[0] <= '9';
    if (good && *end == '-' && end[1] >= '0' && end[1] <= '9')
        last = strtoull(end + 1, &end, 10);
    if (!good || *end != '\0' || first == 0 || last < first)
        return err_set(why, ERR_USAGE, "\"%s\" is no line number; expected as 17 or 40-60", text);
    if (last - first >= PROTO_MAX_LIST - lines->count)
        return err_set(why, ERR_USAGE, "\"%s\": at most %d lines at a time", text, PROTO_MAX_LIST);
    for (unsigned long long n = first; n <= last; n++)
        lines->items[lines->count++] = n;
    return ERR_OK;
}

int cmd_cancel(int argc, char **argv)
{
    struct remote_options o = REMOTE_DEFAULTS;
    struct link l = {0};
    struct err_msg why = {{0}};
    struct msg m = {.type = MSG_TYPE_CANCEL};
    const struct msg *reply = NULL;
    int count = 0;
    int code = client_parse(&command, &o, argc, argv, &count);
    if (code >= 0)
        return code;
    enum err e = ERR_OK;
    m.cancel.batch = str_of(argv[0]);
    m.cancel.lines.items = calloc(PROTO_MAX_LIST, sizeof *m.cancel.lines.items);
    if (m.cancel.lines.items == NULL)
        e = ERR_NOMEM;
    for (int i = 1; i < count && e == ERR_OK; i++)
        e = add_lines(argv[i], &m.cancel.lines, &why);
    if (e == ERR_OK)
        e = remote_open(&o, command.name, &l, &why);
    if (e == ERR_OK)
        e = link_call(&l, &m, MSG_TYPE_CANCEL_OK, &reply, &why);
    if (e == ERR_OK)
        printf("%" PRIu64 " lines of %s cancelled\n", reply->cancel_ok.cancelled, argv[0]);
    free(m.cancel.lines.items);
    link_close(&l);
    return e == ERR_OK ? EXIT_ALL_DONE : client_fail(command.name, e, &why);
}
