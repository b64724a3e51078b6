/* The option table of `octoflow run`. */
#include "client/run_options.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "base/size.h"
#include "client/client.h"
#include "proto/messages.h"
#include "worker/governor_hours.h"

#define AT(field) offsetof(struct run_options, field)

static const struct option table[] = {
    {"What to run", .type = OPTION_SECTION},
    {"model", 'm', OPTION_STRING, AT(model), .arg = "FILE",
     .help = "the model, a GGUF file (needed)"},
    {"output", 'o', OPTION_STRING, AT(output), .arg = "OUT.jsonl",
     .help = "where the results go, in the input's order (needed)"},
    {"batch", 0, OPTION_STRING, AT(batch), .arg = "NAME",
     .help = "the batch's name, which the results' ids derive from (default: the input's file "
             "name)"},
    {"overwrite", 0, OPTION_FLAG, AT(overwrite),
     .help = "replace OUT.jsonl although it is not from an earlier run of this command, or from a "
             "finished one on another input or with other options"},
    {"max-attempts", 0, OPTION_INT, AT(max_attempts), .min = 1, .max = 100, .arg = "N",
     .help = "a line fails when the worker died this often while it ran there alone (default 3)"},
    {"Lines that do not say", .type = OPTION_SECTION},
    {"max-tokens", 0, OPTION_INT, AT(max_tokens), .min = 1, .max = 1e9, .arg = "N",
     .help = "most tokens of an answer; it also ends where the context ends (default 2048)"},
    {"seed", 0, OPTION_INT, AT(seed), .arg = "N",
     .help = "a line without seed gets a hash of this number and its custom_id (default 0)"},
    {"The worker", .type = OPTION_SECTION},
    {"device", 0, OPTION_STRING, AT(device), .arg = "WHICH",
     .help = "GPU by number or by a part of its name (octoflow-worker --list-devices shows them); "
             "all: one worker for each hardware GPU, or the software device when there is none "
             "(default all)"},
    {"max-jobs", 0, OPTION_INT, AT(max_jobs), .min = 0, .max = 4096, .arg = "N",
     .help = "lines at a time on a GPU (default 0: by device)"},
    {"ctx", 0, OPTION_INT, AT(ctx), .min = 0, .max = 1 << 24, .arg = "TOKENS",
     .help = "longest prompt and answer together (default 0: the model's)"},
    {"kv-tokens", 0, OPTION_INT, AT(kv_tokens), .min = 0, .max = 1e12, .arg = "TOKENS",
     .help = "size of the KV cache (default 0: by free memory)"},
    {"no-prefix-cache", 0, OPTION_FLAG, AT(no_prefix_cache),
     .help = "do not keep the KV cache of finished prompts for later ones"},
    {"chat-template", 0, OPTION_STRING, AT(chat_template), .arg = "NAME",
     .help = "chat template instead of the model's: chatml, or a FILE.jinja"},
    {"pre-tokenizer", 0, OPTION_STRING, AT(pre_tokenizer), .arg = "NAME",
     .help = "pre-tokenizer instead of the model's: see octoflow tokenize --help"},
    {"Heat and power", .type = OPTION_SECTION},
    {"governor", 0, OPTION_STRING, AT(governor), .arg = "LAW",
     .help = "pi: hold a GPU at its target by resting as long as it takes; ramp: rest longer the "
             "closer it comes to its target; off: never rest (default pi)"},
    {"target-c", 0, OPTION_FLOAT, AT(target_c), .min = 30, .max = 110, .arg = "CELSIUS",
     .help = "temperature a GPU stays below (default 75)"},
    {"max-watts", 0, OPTION_FLOAT, AT(max_watts), .min = 0, .max = 100000, .arg = "WATTS",
     .help = "most a GPU takes on average (default 0: as the card has it)"},
    {"quiet-hours", 0, OPTION_STRING, AT(quiet_hours), .arg = "TIMES",
     .help = "other limits at times of the day, like 22:00-07:00=70C/200W/50%,12:00-13:00=60C: "
             "target, most watts, most of the time it may work (default none)"},
    {"sensor", 0, OPTION_STRING, AT(sensor), .arg = "WHICH",
     .help = "auto, nvml, nvidia-smi, sysfs, cpu, none or fake:FILE (default auto; "
             "docs/sensors.md)"},
    {"When something is wrong", .type = OPTION_SECTION},
    {"log-level", 0, OPTION_STRING, AT(log_level), .arg = "LEVEL",
     .help = "error, warn, info or debug, of the logs in OUT.jsonl.octoflow (default info)"},
    {"validate", 0, OPTION_FLAG, AT(validate),
     .help = "run the worker with Vulkan's validation layer"},
};

static const struct client_command command = {
    .name = "run",
    .text = "usage: octoflow run -m MODEL.gguf IN.jsonl -o OUT.jsonl [options]\n"
            "\n"
            "Answers a file of requests, one a line, on this machine: starts a broker and a worker "
            "for each\n"
            "GPU, shows progress, writes the results, stops them. Ctrl-C stops cleanly; the same "
            "command\n"
            "again resumes and repeats nothing that is done. Ctrl-C twice stops at once, with the "
            "same promise.\n"
            "\n"
            "    octoflow run -m model.gguf prompts.jsonl -o results.jsonl\n"
            "\n"
            "While it runs, OUT.jsonl.partial has what is done so far. OUT.jsonl.octoflow keeps "
            "the ledger\n"
            "(the record of the run, and what a resume needs) and the logs; delete it when you "
            "need neither.\n"
            "\n",
    .options = table,
    .options_count = ARRAY_LEN(table),
    .min_arguments = 1,
    .max_arguments = 1,
    .arguments = "IN.jsonl",
};

/* What the worker would refuse, before anything is started for it. */
static enum err check_values(const struct run_options *o, struct err_msg *why)
{
    static const char *const laws[] = {"pi", "ramp", "off"};
    static const char *const sensors[] = {"auto", "nvml", "nvidia-smi", "sysfs", "cpu", "none"};
    struct governor_hours hours;
    enum log_level level;
    enum err e = ERR_OK;
    size_t i = 0;
    if (o->batch != NULL && (o->batch[0] == '\0' || strlen(o->batch) > PROTO_MAX_ID_BYTES))
        return err_set(why, ERR_USAGE, "--batch: expected 1 to %d bytes", PROTO_MAX_ID_BYTES);
    while (o->governor != NULL && i < ARRAY_LEN(laws) && strcmp(o->governor, laws[i]) != 0)
        i++;
    if (i == ARRAY_LEN(laws))
        return err_set(why, ERR_USAGE, "--governor: \"%s\", expected pi, ramp or off", o->governor);
    for (i = 0; o->sensor != NULL && i < ARRAY_LEN(sensors) && strcmp(o->sensor, sensors[i]) != 0;)
        i++;
    if (i == ARRAY_LEN(sensors) && strncmp(o->sensor, "fake:", 5) != 0)
        return err_set(why, ERR_USAGE,
                       "--sensor: \"%s\", expected auto, nvml, nvidia-smi, sysfs, cpu, none or "
                       "fake:FILE",
                       o->sensor);
    if (o->quiet_hours != NULL)
        e = governor_hours_parse(o->quiet_hours, &hours, why);
    if (e != ERR_OK)
        return err_prefix(why, e, "--quiet-hours");
    if (o->log_level != NULL)
        e = log_level_parse(o->log_level, &level, why);
    return e == ERR_OK ? e : err_prefix(why, e, "--log-level");
}

int run_options_parse(int argc, char **argv, struct run_options *ret)
{
    struct run_options o = {.max_tokens = 2048, .max_attempts = 3, .device = "all"};
    struct err_msg why = {{0}};
    int count = 0;
    int code = client_parse(&command, &o, argc, argv, &count);
    if (code >= 0)
        return code;
    enum err e = ERR_OK;
    if (o.model == NULL)
        e = err_set(&why, ERR_USAGE, "--model is missing: expected -m MODEL.gguf");
    else if (o.output == NULL || o.output[0] == '\0')
        e = err_set(&why, ERR_USAGE, "--output is missing: expected -o OUT.jsonl, a file");
    else if (strcmp(o.output, "-") == 0)
        e = err_set(&why, ERR_USAGE,
                    "--output -: standard output is not supported, expected -o OUT.jsonl, a file: "
                    "what is done is kept beside it");
    else
        e = check_values(&o, &why);
    if (e != ERR_OK)
        return client_fail(command.name, e, &why);
    o.input = argv[0];
    *ret = o;
    return -1;
}

static void add(struct child_spec *spec, unsigned *at, const char *flag, const char *value)
{
    if (value == NULL || *at + 3 > CHILD_MAX_ARGS)
        return;
    spec->args[(*at)++] = flag;
    if (value[0] != '\0')
        spec->args[(*at)++] = value;
}

void run_options_worker_args(const struct run_options *o, struct run_worker_args *store,
                             struct child_spec *spec, unsigned *at)
{
    const struct {
        const char *flag;
        int64_t value;
    } numbers[] = {{"--max-jobs", o->max_jobs}, {"--ctx", o->ctx}, {"--kv-tokens", o->kv_tokens}};
    for (size_t i = 0; i < ARRAY_LEN(numbers); i++) {
        snprintf(store->numbers[i], sizeof store->numbers[i], "%" PRId64, numbers[i].value);
        add(spec, at, numbers[i].flag, numbers[i].value > 0 ? store->numbers[i] : NULL);
    }
    const struct {
        const char *flag;
        double value;
    } limits[] = {{"--target-c", o->target_c}, {"--max-watts", o->max_watts}};
    for (size_t i = 0; i < ARRAY_LEN(limits); i++) {
        char *text = store->numbers[ARRAY_LEN(numbers) + i];
        snprintf(text, sizeof store->numbers[0], "%.17g", limits[i].value);
        add(spec, at, limits[i].flag, limits[i].value > 0 ? text : NULL);
    }
    add(spec, at, "--quiet-hours", o->quiet_hours);
    add(spec, at, "--governor", o->governor);
    add(spec, at, "--sensor", o->sensor);
    add(spec, at, "--chat-template", o->chat_template);
    add(spec, at, "--pre-tokenizer", o->pre_tokenizer);
    add(spec, at, "--log-level", o->log_level);
    add(spec, at, "--no-prefix-cache", o->no_prefix_cache ? "" : NULL);
    add(spec, at, "--validate", o->validate ? "" : NULL);
}
