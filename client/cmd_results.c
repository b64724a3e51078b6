/* octoflow results: a batch's results from a broker into a file. */
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/size.h"
#include "client/client.h"
#include "client/lines.h"
#include "client/remote.h"
#include "client/report.h"

struct options {
    struct remote_options remote; /* first */
    const char *output;
    bool wait, overwrite;
};

#define AT(field) offsetof(struct options, field)

static const struct option table[] = {
    {"The file", .type = OPTION_SECTION},
    {"output", 'o', OPTION_STRING, AT(output), .arg = "OUT.jsonl",
     .help = "where to write, replaced as a whole (default, and -: standard output)"},
    {"overwrite", 0, OPTION_FLAG, AT(overwrite),
     .help = "replace OUT.jsonl although it is not an earlier one of this batch"},
    {"wait", 'w', OPTION_FLAG, AT(wait),
     .help = "show progress until the batch is complete, then write; a broker that goes away is "
             "waited for"},
    REMOTE_OPTIONS,
};

static const struct client_command command = {
    .name = "results",
    .text =
        "usage: octoflow results BATCH [-o OUT.jsonl] [--wait] [options]\n"
        "\n"
        "Writes a batch's results in the order of its input, in the OpenAI Batch output format.\n"
        "Of a batch that is not complete it writes what is there, says so, and exits with 1.\n"
        "\n"
        "    octoflow results --broker tcp://localhost:7420 night -o results.jsonl --wait\n"
        "\n",
    .options = table,
    .options_count = ARRAY_LEN(table),
    .min_arguments = 1,
    .max_arguments = 1,
    .arguments = "BATCH",
};

/* What is under the path is nothing, or this batch's. */
static enum err check_ours(const char *path, const char *batch, struct err_msg *why)
{
    enum { MOST_BYTES = 128 << 20 }; /* of a result with all its escapes */
    struct lines *lines = NULL;
    struct line line = {0};
    struct err_msg ignored;
    if (access(path, F_OK) != 0)
        return ERR_OK;
    enum err e = lines_open(path, MOST_BYTES, &lines, &ignored);
    if (e == ERR_OK)
        e = lines_next(lines, &line, &ignored);
    bool ours = e == ERR_NOT_FOUND; /* empty */
    if (e == ERR_OK && !line.too_long) {
        json_t *v = json_loadb(line.text.data, line.text.len, JSON_ALLOW_NUL, NULL);
        const json_t *name = json_object_get(json_object_get(v, "octoflow"), "batch");
        ours = json_is_string(name) && strcmp(json_string_value(name), batch) == 0;
        json_decref(v);
    }
    lines_close(&lines);
    if (ours)
        return ERR_OK;
    return err_set(why, ERR_CONFLICT,
                   "%s is there, and not with results of %s: choose another output, or say "
                   "--overwrite",
                   path, batch);
}

int cmd_results(int argc, char **argv)
{
    struct options o = {.remote = REMOTE_DEFAULTS};
    struct results_counts counts = {0};
    struct link l = {0};
    struct err_msg why = {{0}};
    const struct rec_BATCH *b = NULL;
    bool complete = false;
    uint64_t total = 0;
    int count = 0;
    int code = client_parse(&command, &o, argc, argv, &count);
    if (code >= 0)
        return code;
    enum err e = remote_open(&o.remote, command.name, &l, &why);
    l.patient = o.wait;
    if (o.output != NULL && strcmp(o.output, "-") == 0)
        o.output = NULL;
    if (e == ERR_OK && o.output != NULL)
        e = results_check_path(o.output, &why);
    if (e == ERR_OK && o.output != NULL && !o.overwrite)
        e = check_ours(o.output, argv[0], &why);
    if (e == ERR_OK && o.wait)
        e = remote_wait(&l, argv[0], &why);
    if (e == ERR_OK)
        e = link_status(&l, argv[0], &b, &why);
    if (e == ERR_OK) {
        complete = link_batch_complete(b);
        total = b->total;
        e = results_write(&l, argv[0], o.output, &counts, &why);
    }
    link_close(&l);
    if (e != ERR_OK)
        return client_fail(command.name, e, &why);
    fprintf(stderr,
            "%" PRIu64 " of %" PRIu64 " lines: %" PRIu64 " answered, %" PRIu64 " failed, %" PRIu64
            " cancelled%s\n",
            counts.lines, total, counts.answered, counts.failed, counts.cancelled,
            complete ? "" : "; the batch is not complete yet");
    report_reasons(stderr, &counts);
    report_energy(stderr, &counts);
    return complete && counts.answered == counts.lines ? EXIT_ALL_DONE : EXIT_SOME_FAILED;
}
