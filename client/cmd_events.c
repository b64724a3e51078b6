/* octoflow events: what happened at a broker. */
#include <inttypes.h>

#include "base/clock.h"
#include "base/size.h"
#include "client/client.h"
#include "client/json.h"
#include "client/remote.h"
#include "client/text.h"

struct options {
    struct remote_options remote; /* first */
    bool json, follow;
    double interval_s;
    int64_t after;
};

static const struct option table[] = {
    {"The output", .type = OPTION_SECTION},
    {"json", 0, OPTION_FLAG, offsetof(struct options, json),
     .help = "a JSON object on a line for each: seq, at, kind, subject, text"},
    {"follow", 'f', OPTION_FLAG, offsetof(struct options, follow),
     .help = "go on with what happens next, until Ctrl-C"},
    {"interval", 0, OPTION_FLOAT, offsetof(struct options, interval_s), .min = 0.1, .max = 3600,
     .arg = "SECONDS", .help = "between two looks (default 1)"},
    {"after", 0, OPTION_INT, offsetof(struct options, after), .min = 0, .max = 1e18, .arg = "SEQ",
     .help = "only events behind this number, as --json shows it (default 0: all that are kept)"},
    REMOTE_OPTIONS,
};

static const struct client_command command = {
    .name = "events",
    .text =
        "usage: octoflow events [--follow] [options]\n"
        "\n"
        "Shows what happened at a broker since its start: workers that came, left or were lost, "
        "batches,\n"
        "poison, trouble with the ledger, peers that were cut off. The broker keeps the last 128 "
        "of each\n"
        "kind, in memory.\n"
        "\n"
        "    octoflow events --broker tcp://localhost:7420 --follow\n"
        "\n",
    .options = table,
    .options_count = ARRAY_LEN(table),
    .min_arguments = 0,
    .max_arguments = 0,
};

static enum err put_json(const struct rec_EVENT *ev, const char *at)
{
    struct buf text = {0};
    struct json_out o = {.buf = &text};
    json_open(&o, '{');
    json_key(&o, "seq");
    json_u64(&o, ev->seq);
    json_key(&o, "at");
    json_str(&o, str_of(at));
    json_key(&o, "kind");
    json_str(&o, ev->kind);
    json_key(&o, "subject");
    json_str(&o, ev->subject);
    json_key(&o, "text");
    json_str(&o, ev->text);
    json_close(&o, '}');
    return json_print(&o, stdout);
}

static void put_text(const struct rec_EVENT *ev, const char *at)
{
    printf("%s  ", at);
    text_put(stdout, ev->kind, 20);
    if (ev->subject.len > 0) {
        text_put(stdout, ev->subject, 0);
        printf(": ");
    }
    text_put(stdout, ev->text, 0);
    printf("\n");
}

static enum err put_events(const struct options *o, const struct msg_events_ok *m, uint64_t *after,
                           struct err_msg *why)
{
    enum err e = ERR_OK;
    for (size_t i = 0; i < m->events.count && e == ERR_OK; i++) {
        const struct rec_EVENT *ev = &m->events.items[i];
        char at[TEXT_TIME_BYTES] = "-";
        (void)text_time(ev->at_ms, at);
        if (o->json)
            e = put_json(ev, at);
        else
            put_text(ev, at);
        *after = ev->seq;
    }
    return e == ERR_OK ? client_flush(why) : e;
}

/* All there is, then what comes; a broker that goes away meanwhile is waited for. */
static enum err run(const struct options *o, struct link *l, struct err_msg *why)
{
    uint64_t after = (uint64_t)o->after;
    for (;;) {
        struct msg m = {.type = MSG_TYPE_EVENTS};
        const struct msg *reply = NULL;
        m.events.after = after;
        enum err e = link_call(l, &m, MSG_TYPE_EVENTS_OK, &reply, why);
        if (e == ERR_OK)
            e = put_events(o, &reply->events_ok, &after, why);
        if (e != ERR_OK)
            return e;
        if (reply->events_ok.events.count > 0)
            continue;
        if (!o->follow)
            return ERR_OK;
        clock_sleep_ns((uint64_t)(o->interval_s * (double)NS_PER_S));
    }
}

int cmd_events(int argc, char **argv)
{
    struct options o = {.remote = REMOTE_DEFAULTS, .interval_s = 1};
    struct link l = {0};
    struct err_msg why = {{0}};
    int count = 0;
    int code = client_parse(&command, &o, argc, argv, &count);
    if (code >= 0)
        return code;
    enum err e = remote_open(&o.remote, command.name, &l, &why);
    l.patient = o.follow;
    if (o.follow)
        client_ends_by_interrupt();
    if (e == ERR_OK)
        e = run(&o, &l, &why);
    link_close(&l);
    return e == ERR_OK ? EXIT_ALL_DONE : client_fail(command.name, e, &why);
}
