/* octoflow-bench COMMAND: the engine alone, on a bare GPU host. Links only the engine's own needs.
 */
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "base/size.h"
#include "bench/bench.h"
#include "octo_build.h"

static const struct command {
    const char *name;
    int (*run)(int argc, char **argv);
    const char *help;
} commands[] = {
    {"devices", cmd_devices, "the Vulkan devices and whether each can run the engine"},
    {"ppl", cmd_ppl, "perplexity over conversations given as token ids (JSON lines with \"ids\")"},
    {"logits", cmd_logits,
     "compares logits with a reference file (JSON list with \"ids\" and \"top\")"},
    {"invariance", cmd_invariance,
     "hashes every logits row alone, batched, chunked, preempted, behind shared prefixes"},
    {"device", cmd_device, "measures bandwidth, arithmetic, cost of a dispatch and a submission"},
    {"run", cmd_run, "prefill and decode tokens/s by batch size, time by kernel, limits"},
    {"mixed", cmd_mixed, "many requests of mixed lengths from first step to last token"},
    {"governor", cmd_governor,
     "nights on simulated cards: tokens and heat under the governor's laws"},
    {"governor-live", cmd_governor_live,
     "the engine on the card itself, without and with a law: tokens, heat and watts each second"},
    {"synth", cmd_synth, "writes a model with random weights in the shape of a known one"},
};

static void print_help(FILE *out)
{
    fprintf(out, "Usage: octoflow-bench COMMAND [options]\n\n");
    for (size_t i = 0; i < ARRAY_LEN(commands); i++)
        fprintf(out, "  %-12s %s\n", commands[i].name, commands[i].help);
    fprintf(out, "\n`octoflow-bench COMMAND --help` shows a command's options.\n"
                 "Exit: 0 fine, 1 a comparison failed, 2 usage, 3 fatal.\n");
}

int main(int argc, char **argv)
{
    log_init("octoflow-bench", LOG_LEVEL_INFO);
    if (argc < 2 || strcmp(argv[1], "help") == 0 || strcmp(argv[1], "--help") == 0 ||
        strcmp(argv[1], "-h") == 0) {
        print_help(argc < 2 ? stderr : stdout);
        return argc < 2 ? BENCH_USAGE : BENCH_OK;
    }
    if (strcmp(argv[1], "--version") == 0) {
        printf("octoflow-bench %s\n", OCTO_BUILD);
        return BENCH_OK;
    }
    for (size_t i = 0; i < ARRAY_LEN(commands); i++) {
        if (strcmp(argv[1], commands[i].name) == 0)
            return commands[i].run(argc - 2, argv + 2);
    }
    fprintf(stderr, "octoflow-bench: no command \"%s\": see octoflow-bench help\n", argv[1]);
    return BENCH_USAGE;
}

int cmd_devices(int argc, char **argv)
{
    (void)argv;
    if (argc > 0) {
        fprintf(stderr, "octoflow-bench: devices takes no options\n");
        return BENCH_USAGE;
    }
    struct gpu_device_info list[GPU_MAX_DEVICES];
    size_t count = 0;
    struct err_msg why;
    enum err e = gpu_list(list, &count, &why);
    if (e != ERR_OK)
        return bench_fail(e, &why);
    for (size_t i = 0; i < count; i++) {
        const struct gpu_device_info *d = &list[i];
        printf("%u  %s  [%s]  %.1f GiB, subgroup %u%s%s%s\n", d->index, d->name, d->driver,
               (double)d->memory_bytes / (1 << 30), d->subgroup_size,
               d->software ? ", software" : "",
               d->usable ? "" : ", NOT USABLE: ", d->usable ? "" : d->missing);
    }
    return BENCH_OK;
}
