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
    {"curve-key", 0, OPTION_STRING, AT(curve.curve_key), .arg = "FILE",
     .help = "the worker's secret key (octoflow keygen --roles work), for a broker that lets in "
             "keys on its list"},
    {"server-key", 0, OPTION_STRING, AT(curve.server_key), .arg = "FILE|KEY",
     .help = "the broker's public key, or the file with it"},
    {"insecure", 0, OPTION_FLAG, AT(curve.insecure),
     .help = "without keys, connect to another machine all the same: whoever is on the way can "
             "read and change everything; and let others reach --metrics"},
    {"model", 'm', OPTION_STRING, AT(model), .arg = "FILE",
     .help =
         "the model to begin with, a GGUF file (needed, unless the folder of --models has one)"},
    {"models", 0, OPTION_STRING, AT(models), .arg = "FOLDER",
     .help = "other models (*.gguf) that it may change to when jobs wait for them; those that it "
             "lacks it fetches from the broker, into FOLDER/fetched (default: only --model)"},
    {"models-bytes", 0, OPTION_INT, AT(models_bytes), .min = 0, .max = 1e15, .arg = "N",
     .help = "bytes of fetched models to keep: the longest unused make room; 0: no limit (default "
             "0)"},
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
    {"governor", 0, OPTION_STRING, AT(governor), .arg = "LAW",
     .help =
         "pi: hold the GPU at its target by resting after every 50 ms of its work as long as it "
         "takes; ramp: rest longer the closer it comes to its target; off: never rest (default "
         "pi; a software device rests only with a --sensor of its own)"},
    {"target-c", 0, OPTION_FLOAT, AT(heat.limits.target_c), .min = 30, .max = 110, .arg = "CELSIUS",
     .help = "temperature the GPU stays below (default 75)"},
    {"margin-c", 0, OPTION_FLOAT, AT(heat.margin_keep_c), .min = 0, .max = 50, .arg = "CELSIUS",
     .help = "and how far it stays below its own limit, where the sensor tells how far that is "
             "(default 5)"},
    {"max-watts", 0, OPTION_FLOAT, AT(heat.limits.max_watts), .min = 0, .max = 100000,
     .arg = "WATTS", .help = "most the GPU takes on average (default 0: as the card has it)"},
    {"joules-per-token", 0, OPTION_FLOAT, AT(heat.joules_per_token), .min = 0, .max = 1e6,
     .arg = "JOULES",
     .help = "work less while a token takes more than this and working less lowers it (default 0: "
             "whatever it takes)"},
    {"duty-min", 0, OPTION_FLOAT, AT(heat.duty_min), .min = 0.01, .max = 1, .arg = "SHARE",
     .help = "share of time it works however hot it is (default 0.1)"},
    {"duty-max", 0, OPTION_FLOAT, AT(heat.limits.duty_max), .min = 0.01, .max = 1, .arg = "SHARE",
     .help = "share of time it works however cool it is (default 1)"},
    {"quiet-hours", 0, OPTION_STRING, AT(quiet_hours), .arg = "TIMES",
     .help = "other limits at times of the day (local), like 22:00-07:00=70C/200W/50%,12:00-13:00="
             "60C: target, most watts, most duty (default none)"},
    {"pace-ms-without-sensor", 0, OPTION_FLOAT, AT(heat.blind_ms), .min = 0, .max = 450,
     .arg = "MS",
     .help = "rest after every 50 ms of GPU work when no sensor can be read (default 5)"},
    {"sensor", 0, OPTION_STRING, AT(sensor), .arg = "WHICH",
     .help =
         "auto: nvml, nvidia-smi or sysfs (amdgpu, xe, i915), the first that knows the GPU; of a "
         "software device cpu, for accounting only; one of these by name; none; or fake:FILE, a "
         "text file with \"CELSIUS [WATTS [LIMIT_WATTS]]\" (default auto; docs/sensors.md)"},
    {"Running", .type = OPTION_SECTION},
    {"drain-s", 0, OPTION_FLOAT, AT(drain_s), .min = 0, .max = 86400, .arg = "SECONDS",
     .help = "on SIGTERM or SIGINT finish what ends within this time, hand the rest back; a second "
             "signal "
             "hands back at once (default 30)"},
    {"gpu-timeout-s", 0, OPTION_INT, AT(gpu_timeout_s), .min = 0, .max = 86400, .arg = "SECONDS",
     .help =
         "a GPU that works on one submission for longer hangs: everything is handed back, and the "
         "worker ends with exit code 4 (default 0: 30, a software device 3600)"},
    {"die-with-parent", 0, OPTION_FLAG, AT(die_with_parent),
     .help = "hand everything back and leave when the parent process ends"},
    {"validate", 0, OPTION_FLAG, AT(validate),
     .help = "run with Vulkan's validation layer; its errors make the exit code 3"},
    {"metrics", 0, OPTION_STRING, AT(metrics), .arg = "ADDRESS:PORT",
     .help = "serve /metrics for Prometheus, /healthz and /readyz there by HTTP; with --device all "
             "the first worker has this port, the next ones those above (default: nowhere)"},
    {"log-level", 0, OPTION_STRING, AT(log_level_text), .arg = "LEVEL",
     .help = "error, warn, info or debug (default info)"},
    {"version", 0, OPTION_FLAG, AT(version), .help = "print the version, and leave"},
};

static enum err check_heat(struct worker_options *o, struct err_msg *why)
{
    struct governor_config *c = &o->heat;
    enum err e = governor_law_parse(o->governor, &c->law, why);
    if (e != ERR_OK)
        return err_prefix(why, e, "--governor");
    if (o->quiet_hours != NULL) {
        e = governor_hours_parse(o->quiet_hours, &c->hours, why);
        if (e != ERR_OK)
            return err_prefix(why, e, "--quiet-hours");
    }
    if (c->duty_min > c->limits.duty_max)
        return err_set(why, ERR_USAGE, "--duty-min %g: more than --duty-max %g", c->duty_min,
                       c->limits.duty_max);
    for (size_t i = 0; i < c->hours.count; i++) {
        double most = c->hours.list[i].limits.duty_max;
        if (most > 0 && most < c->duty_min)
            return err_set(why, ERR_USAGE, "--quiet-hours: %g%% of duty: less than --duty-min %g",
                           most * 100, c->duty_min);
    }
    return ERR_OK;
}

static enum err check(struct worker_options *o, struct err_msg *why)
{
    enum err e = log_level_parse(o->log_level_text, &o->log_level, why);
    if (e != ERR_OK)
        return e;
    e = check_heat(o, why);
    if (e != ERR_OK)
        return e;
    if (o->list_devices || o->version)
        return ERR_OK;
    if (o->broker == NULL && !o->plan)
        return err_set(why, ERR_USAGE,
                       "--broker is missing: expected tcp://HOST:PORT or ipc://PATH");
    if (o->model == NULL && (o->models == NULL || o->plan))
        return err_set(why, ERR_USAGE, "--model is missing: expected a GGUF file");
    return ERR_OK;
}

enum err worker_options_parse(int argc, char **argv, struct worker_options *ret,
                              struct err_msg *why)
{
    struct worker_options o = {
        .device = "auto",
        .governor = "pi",
        .sensor = "auto",
        .log_level_text = "info",
        .heat = governor_defaults(),
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
