/* octoflow-worker: reads the options, then is one worker, or watches over several. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/gpu.h"
#include "octo_build.h"
#include "worker/plan.h"
#include "worker/sensors/sensor.h"
#include "worker/supervisor.h"
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

/* `--device all`: one process like this one for each usable hardware GPU. */
/* ADDRESS:PORT, so many ports further; what is no address is said to be none by the worker. */
static void next_address(const char *address, size_t further, char out[64])
{
    const char *colon = strrchr(address, ':');
    int host = colon == NULL ? (int)strlen(address) : (int)(colon - address);
    unsigned long port = colon == NULL ? 0 : strtoul(colon + 1, NULL, 10);
    snprintf(out, 64, "%.*s:%lu", host, address, port + further);
}

static int run_all(const struct worker_options *o, int argc, char **argv)
{
    struct supervisor_child children[GPU_MAX_DEVICES] = {0};
    struct supervisor_options s = {
        .argv = argv, .argc = argc, .children = children, .die_with_parent = o->die_with_parent};
    struct err_msg why = {{0}};
    size_t count = 0;
    char host[256] = "host";
    struct gpu_device_info *list = calloc(GPU_MAX_DEVICES, sizeof *list);
    if (list == NULL || gpu_list(list, &count, &why) != ERR_OK) {
        log_error("cannot list devices error=\"%s\"", why.text);
        free(list);
        return WORKER_EXIT_FATAL;
    }
    gethostname(host, sizeof host - 1);
    for (size_t i = 0; i < count && s.count < SUPERVISOR_MAX_CHILDREN; i++) {
        if (!list[i].usable || list[i].software)
            continue;
        struct supervisor_child *c = &children[s.count++];
        snprintf(c->device, sizeof c->device, "%u", list[i].index);
        snprintf(c->name, sizeof c->name, "%.100s:%u", o->name != NULL ? o->name : host,
                 list[i].index);
        if (o->metrics != NULL)
            next_address(o->metrics, s.count - 1, c->metrics);
    }
    free(list);
    if (s.count == 0) {
        log_error("no usable hardware GPU; --device auto takes a software one");
        return WORKER_EXIT_FATAL;
    }
    return supervisor_run(&s);
}

int main(int argc, char **argv)
{
    struct worker_options o;
    struct err_msg why = {{0}};
    log_init("octoflow-worker", LOG_LEVEL_INFO);
    signal(SIGPIPE, SIG_IGN); /* whoever reads the log may end before us */
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
        else if (o.plan)
            code = worker_plan(&o);
        else if (strcmp(o.device, "all") == 0)
            code = run_all(&o, argc, args);
        else
            code = worker_main(&o);
    }
    free(args);
    if (gpu_any_hung() || sensor_any_hung()) {
        fflush(NULL);
        _exit(code);
    }
    return code;
}
