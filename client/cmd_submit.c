/* octoflow submit: a file's lines into a batch of a broker that runs already. */
#include <inttypes.h>
#include <pwd.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/size.h"
#include "client/client.h"
#include "client/lines.h"
#include "client/remote.h"
#include "client/results.h"
#include "client/schedule.h"
#include "client/submit.h"

struct options {
    struct remote_options remote; /* first */
    const char *batch, *model, *client;
    struct schedule_options schedule;
    int64_t max_tokens, seed, max_attempts;
    bool wait, paused;
};

#define AT(field) offsetof(struct options, field)

static const struct option table[] = {
    {"The batch", .type = OPTION_SECTION},
    {"batch", 0, OPTION_STRING, AT(batch), .arg = "NAME",
     .help = "its name, up to 128 bytes (default: the file's name and a hash of its content)"},
    {"model", 'm', OPTION_STRING, AT(model), .arg = "NAME",
     .help = "only workers with this model run it: name (the file's without .gguf) or hash "
             "(default: any worker)"},
    {"max-attempts", 0, OPTION_INT, AT(max_attempts), .min = 0, .max = 100, .arg = "N",
     .help =
         "a line fails when its worker was lost this often while it ran there alone (default: the "
         "broker's)"},
    {"client", 0, OPTION_STRING, AT(client), .arg = "NAME",
     .help = "whose quota it counts for, where the broker has quotas (default: the user's name; "
             "with keys always "
             "the key's name)"},
    {"wait", 'w', OPTION_FLAG, AT(wait),
     .help = "show progress and end when the batch has; a broker that goes away is waited for"},
    SCHEDULE_OPTIONS(offsetof(struct options, schedule)),
    {"paused", 0, OPTION_FLAG, AT(paused), .help = "nothing starts before `octoflow resume`"},
    {"Lines that do not say", .type = OPTION_SECTION},
    {"max-tokens", 0, OPTION_INT, AT(max_tokens), .min = 1, .max = 1e9, .arg = "N",
     .help = "most tokens of an answer (default 2048)"},
    {"seed", 0, OPTION_INT, AT(seed), .arg = "N",
     .help = "a line without seed gets a hash of this number and its custom_id (default 0)"},
    REMOTE_OPTIONS,
};

static const struct client_command command = {
    .name = "submit",
    .text =
        "usage: octoflow submit IN.jsonl [options]\n"
        "\n"
        "Sends the requests of a file, one a line, to a broker and prints the batch's name. The\n"
        "lines are safe once it says so. The same again is a no-op: it goes on where it was cut.\n"
        "\n"
        "    octoflow submit --broker tcp://localhost:7420 prompts.jsonl --batch night\n"
        "\n",
    .options = table,
    .options_count = ARRAY_LEN(table),
    .min_arguments = 1,
    .max_arguments = 1,
    .arguments = "IN.jsonl",
};

/* Name and hash of the content: the same file is the same batch. */
static enum err default_name(const char *path, char ret[PROTO_MAX_ID_BYTES + 1],
                             struct err_msg *why)
{
    uint64_t hash = 0;
    char name[PROTO_MAX_ID_BYTES + 1];
    struct stat st;
    if (strcmp(path, "-") == 0)
        return err_set(why, ERR_USAGE, "standard input needs a name: --batch NAME");
    if (stat(path, &st) == 0 && S_ISFIFO(st.st_mode))
        return err_set(why, ERR_USAGE,
                       "%s: is a pipe, read once and for its lines, not for a name: --batch NAME",
                       path);
    enum err e = lines_hash_file(path, &hash, why);
    if (e != ERR_OK)
        return e;
    submit_batch_name(path, name);
    if (strlen(name) > PROTO_MAX_ID_BYTES - 9)
        return err_set(why, ERR_USAGE, "%s: the name is too long for a batch: say --batch NAME",
                       path);
    snprintf(ret, PROTO_MAX_ID_BYTES + 1, "%.119s-%08" PRIx32, name, (uint32_t)(hash >> 32));
    return ERR_OK;
}

/* "m.gguf" is the model m: workers know it by that name. */
static void name_model(struct options *o, char *store, size_t size)
{
    size_t len = o->model != NULL ? strlen(o->model) : 0;
    if (len <= 5 || strcmp(o->model + len - 5, ".gguf") != 0 || len - 5 >= size)
        return;
    snprintf(store, size, "%.*s", (int)(len - 5), o->model);
    fprintf(stderr, "octoflow submit: the model is taken as \"%s\", without .gguf\n", store);
    o->model = store;
}

/* Doing it again brings no cancelled line back. */
static enum err say_cancelled(struct link *l, const char *batch, struct err_msg *why)
{
    const struct rec_BATCH *b = NULL;
    enum err e = link_status(l, batch, &b, why);
    if (e == ERR_OK && b->cancelled > 0)
        fprintf(stderr,
                "octoflow submit: %" PRIu64 " of %s's lines were cancelled, and stay so: to have "
                "them answered, submit them under another --batch\n",
                b->cancelled, batch);
    return e;
}

static enum err say_end(struct link *l, const char *batch, int *ret_code, struct err_msg *why)
{
    const struct rec_BATCH *b = NULL;
    enum err e = link_status(l, batch, &b, why);
    if (e != ERR_OK)
        return e;
    fprintf(stderr,
            "%s is complete: %" PRIu64 " done, %" PRIu64 " failed, %" PRIu64
            " cancelled of %" PRIu64 "\n",
            batch, b->done, b->failed, b->cancelled, b->total);
    *ret_code = b->failed + b->cancelled > 0 ? EXIT_SOME_FAILED : EXIT_ALL_DONE;
    return ERR_OK;
}

static const char *client_name(const struct options *o)
{
    const struct passwd *user = o->client != NULL ? NULL : getpwuid(geteuid());
    return o->client != NULL ? o->client : user != NULL ? user->pw_name : "";
}

static enum err submit(struct link *l, const struct options *o, const char *path, const char *batch,
                       struct err_msg *why)
{
    char shaping[300];
    bool existed = false, complete = false;
    struct submit_counts counts = {0};
    struct err_msg warning;
    snprintf(shaping, sizeof shaping, "model=%.128s max_tokens=%" PRId64 " seed=%" PRId64,
             o->model != NULL ? o->model : "any", o->max_tokens, o->seed);
    struct submit_options s = {
        .path = path,
        .batch = batch,
        .client = client_name(o),
        .model = o->model != NULL ? o->model : "",
        .shaping = shaping,
        .max_attempts = (uint64_t)o->max_attempts,
        .request = {.max_tokens = (uint64_t)o->max_tokens, .batch_seed = (uint64_t)o->seed},
        .otherwise = "restore it, or choose another --batch",
        .otherwise_options = "say that again, or choose another --batch",
    };
    enum err e = schedule_apply(&o->schedule, &s.schedule, why);
    s.schedule.paused = o->paused;
    if (e == ERR_OK)
        e = submit_open(l, &s, &existed, &complete, &warning, why);
    if (e == ERR_OK && !complete && warning.text[0] != '\0')
        fprintf(stderr, "octoflow submit: warning: %s\n", warning.text);
    if (e == ERR_OK)
        e = submit_lines(l, &s, &counts, why);
    if (e != ERR_OK)
        return e;
    fprintf(stderr,
            "%" PRIu64 " lines: %" PRIu64 " new, %" PRIu64 " were there, %" PRIu64
            " are not valid requests%s%s\n",
            counts.lines, counts.accepted, counts.duplicates, counts.refused,
            counts.refused > 0 ? ", the first: " : "", counts.first_refusal.text);
    if (counts.lines == 0)
        fprintf(stderr, "octoflow submit: warning: %s has no lines\n", path);
    printf("%s\n", batch);
    fflush(stdout);
    return existed ? say_cancelled(l, batch, why) : ERR_OK;
}

int cmd_submit(int argc, char **argv)
{
    struct options o = {
        .remote = REMOTE_DEFAULTS, .schedule = SCHEDULE_DEFAULTS, .max_tokens = 2048};
    struct link l = {0};
    struct err_msg why = {{0}};
    char batch[PROTO_MAX_ID_BYTES + 1], model[300];
    int count = 0;
    int code = client_parse(&command, &o, argc, argv, &count);
    if (code >= 0)
        return code;
    bool is_file = false, empty = false;
    enum err e = lines_check(argv[0], &is_file, &empty, &why);
    if (e == ERR_OK)
        e = remote_open(&o.remote, command.name, &l, &why);
    l.patient = o.wait;
    if (e == ERR_OK && o.batch == NULL)
        e = default_name(argv[0], batch, &why);
    else if (e == ERR_OK && (o.batch[0] == '\0' || strlen(o.batch) > PROTO_MAX_ID_BYTES))
        e = err_set(&why, ERR_USAGE, "--batch: expected 1 to %d bytes", PROTO_MAX_ID_BYTES);
    else if (e == ERR_OK)
        snprintf(batch, sizeof batch, "%s", o.batch);
    name_model(&o, model, sizeof model);
    if (e == ERR_OK)
        e = submit(&l, &o, argv[0], batch, &why);
    code = EXIT_ALL_DONE;
    if (e == ERR_OK && o.wait) {
        e = remote_wait(&l, batch, &why);
        if (e == ERR_OK)
            e = say_end(&l, batch, &code, &why);
    }
    link_close(&l);
    return e == ERR_OK ? code : client_fail(command.name, e, &why);
}
