/* octoflow cancel: stops a batch, or some of its lines. */
#include <errno.h>
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
        "stay; cancelled lines become error lines. It cannot be taken back. Exits with 1 when a\n"
        "LINE (or all of FIRST-LAST) is not in the batch.\n"
        "\n"
        "    octoflow cancel --broker tcp://localhost:7420 night 17 40-60\n"
        "\n",
    .options = table,
    .options_count = ARRAY_LEN(table),
    .min_arguments = 1,
    .max_arguments = -1,
    .arguments = "BATCH",
};

/* What an argument says: first..last. */
struct range {
    uint64_t first, last;
};

/* The number at *text, and *text behind it; 0: none that a line may have. */
static uint64_t take_number(const char **text)
{
    char *end = NULL;
    if (**text < '0' || **text > '9')
        return 0;
    errno = 0;
    unsigned long long v = strtoull(*text, &end, 10);
    *text = end;
    return errno != 0 || v > UINT32_MAX ? 0 : v;
}

/* "17" or "40-60" appended to the lines. */
static enum err add_lines(const char *text, struct u64s *lines, struct range *ret,
                          struct err_msg *why)
{
    const char *end = text;
    struct range r;
    r.first = r.last = take_number(&end);
    if (*end == '-') {
        end++;
        r.last = take_number(&end);
    }
    if (*end != '\0' || r.first == 0 || r.last < r.first)
        return err_set(why, ERR_USAGE,
                       "\"%s\" is no line number; expected 1 to %" PRIu32 ", as 17 or 40-60", text,
                       UINT32_MAX);
    if (r.last - r.first >= PROTO_MAX_LIST - lines->count)
        return err_set(why, ERR_USAGE, "\"%s\": at most %d lines at a time", text, PROTO_MAX_LIST);
    for (uint64_t n = r.first; n <= r.last; n++)
        lines->items[lines->count++] = n;
    *ret = r;
    return ERR_OK;
}

/* Lines that are cancelled, or were finished before, have a result by now. */
static enum err is_there(struct link *l, const char *batch, const struct range *r, bool *ret,
                         struct err_msg *why)
{
    struct msg m = {.type = MSG_TYPE_FETCH};
    const struct msg *reply = NULL;
    m.fetch.batch = str_of(batch);
    m.fetch.by_line = true;
    m.fetch.after = r->first - 1;
    m.fetch.max = 1;
    enum err e = link_call(l, &m, MSG_TYPE_FETCH_OK, &reply, why);
    if (e == ERR_OK)
        *ret =
            reply->fetch_ok.results.count > 0 && reply->fetch_ok.results.items[0].line <= r->last;
    return e;
}

static enum err cancel(struct link *l, struct msg *m, int count, char **argv,
                       const struct range *ranges, bool *ret_all_there, struct err_msg *why)
{
    const struct msg *reply = NULL;
    enum err e = link_call(l, m, MSG_TYPE_CANCEL_OK, &reply, why);
    if (e != ERR_OK)
        return e;
    uint64_t cancelled = reply->cancel_ok.cancelled;
    printf("%" PRIu64 " line%s of %s cancelled\n", cancelled, cancelled == 1 ? "" : "s", argv[0]);
    for (int i = 1; i < count && cancelled < m->cancel.lines.count && e == ERR_OK; i++) {
        bool there = true;
        e = is_there(l, argv[0], &ranges[i - 1], &there, why);
        if (e == ERR_OK && !there)
            fprintf(stderr, "octoflow cancel: %s has no line %s\n", argv[0], argv[i]);
        *ret_all_there = *ret_all_there && there;
    }
    return e;
}

int cmd_cancel(int argc, char **argv)
{
    struct remote_options o = REMOTE_DEFAULTS;
    struct link l = {0};
    struct err_msg why = {{0}};
    struct msg m = {.type = MSG_TYPE_CANCEL};
    int count = 0;
    bool all_there = true;
    int code = client_parse(&command, &o, argc, argv, &count);
    if (code >= 0)
        return code;
    enum err e = ERR_OK;
    m.cancel.batch = str_of(argv[0]);
    m.cancel.lines.items = calloc(PROTO_MAX_LIST, sizeof *m.cancel.lines.items);
    struct range *ranges = calloc((size_t)count, sizeof *ranges);
    if (m.cancel.lines.items == NULL || ranges == NULL)
        e = ERR_NOMEM;
    for (int i = 1; i < count && e == ERR_OK; i++)
        e = add_lines(argv[i], &m.cancel.lines, &ranges[i - 1], &why);
    if (e == ERR_OK)
        e = remote_open(&o, command.name, &l, &why);
    if (e == ERR_OK)
        e = cancel(&l, &m, count, argv, ranges, &all_there, &why);
    free(m.cancel.lines.items);
    free(ranges);
    link_close(&l);
    if (e != ERR_OK)
        return client_fail(command.name, e, &why);
    return all_there ? EXIT_ALL_DONE : EXIT_SOME_FAILED;
}
