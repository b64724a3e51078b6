/* octoflow-worker: reads the options, then is one worker, or watches over several. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/gpu.h"
#include "octo_build.h"
#include "worker/worker.h"

static int list_devices(void)
{
    struct err_msg why = {{0}};
    size_t count = 0;
    struct gpu_device_info *list = calloc(GPU_MAX_DEVICES, sizeof *list);
    if (list == NULL || gpu_list(list, &count, &why) != ERR_OK) {
        log_error("cannot list devices error=\"%s\"", why.text);
        free(list);
        return WORKER_EXIT_FATAL;
    }
    for (size_t i = 0; i < count; i++) {
        const struct gpu_device_info *d = &list[i];
        printf("%u  %s  (%s)  %s%s%s%s\n", d->index, d->name, d->driver, d->pci,
               d->software ? "  software" : "",
               d->usable ? "" : "  unusable: ", d->usable ? "" : d->missing);
    }
    if (count == 0)
        printf("no Vulkan device\n");
    free(list);
    return WORKER_EXIT_OK;
}

int main(int argc, char **argv)
{
    struct worker_options o;
    struct err_msg why = {{0}};
    log_init("octoflow-worker", LOG_LEVEL_INFO);
    /* Parsing moves argv's strings about; children get the original order. */
    char **args = calloc((size_t)argc + 1, sizeof *args);
    if (args == NULL)
        return WORKER_EXIT_FATAL;
    memcpy(args, argv, (size_t)argc * sizeof *args);
    enum err e = worker_options_parse(argc, argv, &o, &why);
    int code = WORKER_EXIT_OK;
    if (e == ERR_CANCELLED) {
        worker_options_help();
    } else if (e != ERR_OK) {
        fprintf(stderr, "octoflow-worker: %s (--help shows all options)\n", why.text);
        code = WORKER_EXIT_USAGE;
    } else if (o.version) {
        printf("octoflow-worker %s\n", OCTO_BUILD);
    } else {
        log_init("octoflow-worker", o.log_level);
        if (o.list_devices)
            code = list_devices();
        else if (strcmp(o.device, "all") == 0)
            code = supervisor_main(&o, argc, args);
        else
            code = worker_main(&o);
    }
    free(args);
    return code;
}
