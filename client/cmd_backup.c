/* octoflow backup: a copy of a broker's ledger, while it works. */
#include <inttypes.h>
#include <stdio.h>
#include <sys/random.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/size.h"
#include "client/client.h"
#include "client/json.h"
#include "client/remote.h"

enum { POLL_MS = 200 };

struct options {
    struct remote_options remote; /* first */
    bool json;
};

static const struct option table[] = {
    {"The output", .type = OPTION_SECTION},
    {"json", 0, OPTION_FLAG, offsetof(struct options, json),
     .help = "one JSON object: path, bytes"},
    REMOTE_OPTIONS,
};

static const struct client_command command = {
    .name = "backup",
    .text = "usage: octoflow backup NAME [options]\n"
            "\n"
            "Has the broker write a copy of its ledger into its folder of backups (octoflow-broker "
            "--backups\n"
            "FOLDER), under a NAME that is not there yet, and waits until it is whole and synced. "
            "It holds all\n"
            "that was acknowledged before, and is a ledger that a broker can be started on.\n"
            "\n"
            "    octoflow backup --broker tcp://localhost:7420 monday.db\n"
            "\n",
    .options = table,
    .options_count = ARRAY_LEN(table),
    .min_arguments = 1,
    .max_arguments = 1,
    .arguments = "NAME",
};

static void show_progress(const struct msg_backup_ok *m, bool terminal)
{
    if (terminal && m->total_bytes > 0)
        fprintf(stderr, "\r\033[K%.0f of %.0f MiB", (double)m->bytes / (1 << 20),
                (double)m->total_bytes / (1 << 20));
}

static enum err print_json(const struct msg_backup_ok *m)
{
    struct buf text = {0};
    struct json_out o = {.buf = &text};
    json_open(&o, '{');
    json_key(&o, "path");
    json_str(&o, m->path);
    json_key(&o, "bytes");
    json_u64(&o, m->bytes);
    json_close(&o, '}');
    return json_print(&o, stdout);
}

static enum err run(const struct options *o, const char *name, struct link *l, struct err_msg *why)
{
    bool terminal = isatty(STDERR_FILENO) == 1;
    struct msg m = {.type = MSG_TYPE_BACKUP};
    m.backup.name = str_of(name);
    uint64_t *token = &m.backup.token;
    if (getrandom(token, sizeof *token, 0) != (ssize_t)sizeof *token)
        *token = clock_mono_ns();
    for (;;) {
        const struct msg *reply = NULL;
        enum err e = link_call(l, &m, MSG_TYPE_BACKUP_OK, &reply, why);
        if (e != ERR_OK)
            return e;
        show_progress(&reply->backup_ok, terminal);
        if (reply->backup_ok.done) {
            if (terminal)
                fprintf(stderr, "\r\033[K");
            if (o->json)
                return print_json(&reply->backup_ok);
            printf("%.*s\n", STR_ARG(reply->backup_ok.path));
            return ERR_OK;
        }
        clock_sleep_ns(POLL_MS * NS_PER_MS);
    }
}

int cmd_backup(int argc, char **argv)
{
    struct options o = {.remote = REMOTE_DEFAULTS};
    struct link l = {0};
    struct err_msg why = {{0}};
    int count = 0;
    int code = client_parse(&command, &o, argc, argv, &count);
    if (code >= 0)
        return code;
    enum err e = remote_open(&o.remote, command.name, &l, &why);
    if (e == ERR_OK)
        e = run(&o, argv[0], &l, &why);
    link_close(&l);
    return e == ERR_OK ? EXIT_ALL_DONE : client_fail(command.name, e, &why);
}
