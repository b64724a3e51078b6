/* The option table of octoflow-worker. */
#include "worker/options.h"

#include <stdio.h>
#include <string.h>

#include "base/options.h"
#include "base/size.h"

#define AT(field) offsetof(struct worker_options, field)

static const struct option table[] = {
    {"What to run", .type = OPTION_SECTION},
    {"broker", 0, OPTION_STRING, AT(broker), .arg = "ENDPOINT",
     .help = "the broker: tcp://HOST:PORT or ipc://PATH (needed)"},
    {"model", 'm', OPTION_STRING, AT(model), .arg = "FILE",
     .help = "the model, a GGUF file (needed)"},
    {"device", 0, OPTION_STRING, AT(device), .arg = "WHICH",
     .help = "GPU by number or by a part of its name; auto: the first hardware GPU; all: one "
             "worker for each "
             "hardware GPU, started again when it dies (default auto)"},
    {"list-devices", 0, OPTION_FLAG, AT(list_devices),
     .help = "print the devices there are, and leave"},
    {"plan", 0, OPTION_FLAG, AT(plan),
     .help = "print whether the model would run on the device, and how many sequences at which "
             "context, and leave; needs no broker"},
    {"name", 0, OPTION_STRING, AT(name), .arg = "NAME",
     .help =
         "the worker's name in the broker's lists (default HOST:DEVICE_NUMBER, and #2 .. for more "
         "workers there); no two may share one"},
    {"chat-template", 0, OPTION_STRING, AT(chat_template), .arg = "NAME",
     .help = "chat template instead of the file's: chatml, or a FILE.jinja"},
    {"pre-tokenizer", 0, OPTION_STRING, AT(pre_tokenizer), .arg = "NAME",
     .help = "pre-tokenizer instead of the file's: see octoflow tokenize --help"},
    {"Sizes", .type = OPTION_SECTION},
    {"max-jobs", 0, OPTION_INT, AT(max_jobs), .min = 0, .max = 4096, .arg = "N",
     .help = "jobs at a time (default 0: by device)"},
    {"ctx", 0, OPTION_INT, AT(ctx), .min = 0, .max = 1 << 24, .arg = "TOKENS",
     .help = "longest prompt and completion together (default 0: the model's)"},
    {"kv-tokens", 0, OPTION_INT, AT(kv_tokens), .min = 0, .max = 1e12, .arg = "TOKENS",
     .help = "size of the KV cache (default 0: by free memory)"},
    {"chunk-tokens", 0, OPTION_INT, AT(chunk_tokens), .min = 0, .max = 65536, .arg = "TOKENS",
     .help = "most prompt tokens in one step (default 0: by device)"},
    {"no-prefix-cache", 0, OPTION_FLAG, AT(no_prefix_cache),
     .help = "do not keep the KV cache of finished prompts for later ones"},
    {"Heat and power", .type = OPTION_SECTION},
    {"governor", 0, OPTION_STRING, AT(governor), .arg = "MODE",
     .help = "ramp: rest longer the closer the GPU comes to its target; off: never rest (default "
             "ramp; a "
             "software device without a sensor never rests)"},
    {"target-c", 0, OPTION_FLOAT, AT(target_c), .min = 30, .max = 110, .arg = "CELSIUS",
     .help = "temperature the GPU stays below (default 75)"},
    {"pace-ms-without-sensor", 0, OPTION_FLOAT, AT(pace_ms), .min = 0, .max = 450, .arg = "MS",
     .help = "rest after every 50 ms of GPU work when no sensor can be read (default 5)"},
    {"sensor", 0, OPTION_STRING, AT(sensor), .arg = "WHICH",
     .help = "auto, none, nvml, or fake:FILE, a text file with \"CELSIUS [WATTS [LIMIT_WATTS]]\" "
             "(default auto)"},
    {"Running", .type = OPTION_SECTION},
    {"drain-s", 0, OPTION_FLOAT, AT(drain_s), .min = 0, .max = 86400, .arg = "SECONDS",
     .help = "on SIGTERM or SIGINT finish what ends within this time, hand the rest back; a second "
             "signal "
             "hands back at once (default 30)"},
    {"die-with-parent", 0, OPTION_FLAG, AT(die_with_parent),
     .help = "hand everything back and leave when the parent process ends"},
    {"validate", 0, OPTION_FLAG, AT(validate),
     .help = "run with Vulkan's validation layer; its errors make the exit code 3"},
    {"log-level", 0, OPTION_STRING, AT(log_level_text), .arg = "LEVEL",
     .help = "error, warn, info or debug (default info)"},
    {"version", 0, OPTION_FLAG, AT(version), .help = "print the version, and leave"},
};

static enum err check(struct worker_options *o, struct err_msg *why)
{
    enum err e = log_level_parse(o->log_level_text, &o->log_level, why);
    if (e != ERR_OK)
        return e;
    if (strcmp(o->governor, "ramp") != 0 && strcmp(o->governor, "off") != 0)
        return err_set(why, ERR_USAGE, "--governor \"%s\": expected ramp or off", o->governor);
    if (o->list_devices || o->version)
        return ERR_OK;
    if (o->broker == NULL && !o->plan)
        return err_set(why, ERR_USAGE,
                       "--broker is missing: expected tcp://HOST:PORT or ipc://PATH");
    if (o->model == NULL)
        return err_set(why, ERR_USAGE, "--model is missing: expected a GGUF file");
    return ERR_OK;
}

enum err worker_options_parse(int argc, char **argv, struct worker_options *ret,
                              struct err_msg *why)
{
    struct worker_options o = {
        .device = "auto",
        .governor = "ramp",
        .sensor = "auto",
        .log_level_text = "info",
        .target_c = 75,
        .pace_ms = 5,
        .drain_s = 30,
    };
    int extra = 0;
    enum err e = options_parse(table, ARRAY_LEN(table), &o, argc - 1, argv + 1, &extra, why);
    if (e != ERR_OK)
        return e;
    if (extra > 0)
        return err_set(why, ERR_USAGE, "\"%s\": expected options only", argv[1]);
    e = check(&o, why);
    if (e == ERR_OK)
        *ret = o;
    return e;
}

void worker_options_help(void)
{
    printf("octoflow-worker: runs jobs of a broker on one GPU.\n"
           "\n"
           "    octoflow-worker --broker tcp://HOST:PORT -m MODEL.gguf\n"
           "    octoflow-worker --broker tcp://HOST:PORT -m MODEL.gguf --device all\n"
           "\n"
           "It keeps nothing that matters: stop it at any time, its jobs are run again elsewhere.\n"
           "Exit codes: 0 drained, 2 wrong usage, 3 cannot run (bad model, no device), 4 the GPU "
           "was lost:\n"
           "start it again.\n");
    options_print(table, ARRAY_LEN(table), stdout);
}
