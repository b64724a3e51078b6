/* octoflow-bench device: what the device can do, measured. */
#include <stdio.h>

#include "base/size.h"
#include "bench/bench.h"
#include "bench/measure.h"
#include "bench/report.h"

struct device_options {
    const char *device;
    bool validate, json;
};

static const struct option table[] = {
    {"device", 0, OPTION_STRING, offsetof(struct device_options, device), .arg = "NAME",
     .help = "index or part of the name (default: the first GPU)"},
    {"validate", 0, OPTION_FLAG, offsetof(struct device_options, validate),
     .help = "run under the Vulkan validation layer"},
    {"json", 0, OPTION_FLAG, offsetof(struct device_options, json),
     .help = "last line: one JSON object"},
};

static void print_rates(const struct gpu_device_info *info, const struct measure_rates *r)
{
    printf("%s [%s]\n", info->name, info->driver);
    printf("read bandwidth       %10.1f GB/s (%llu MiB)\n", r->read_bytes_s / 1e9,
           (unsigned long long)(r->buffer_bytes >> 20));
    printf("copy                 %10.1f GB/s\n", r->copy_bytes_s / 1e9);
    printf("F32 fma              %10.3f TFLOP/s\n", r->fma_flops_s / 1e12);
    if (r->matrix_flops_s > 0)
        printf("f16 matrix units     %10.1f TFLOP/s\n", r->matrix_flops_s / 1e12);
    else
        printf("f16 matrix units     %10s\n", "none");
    printf("dispatch + barrier   %10.2f us (1 workgroup), %.2f us (132)\n", r->dispatch_1_us,
           r->dispatch_132_us);
    printf("submit + wait        %10.2f us\n", r->submit_us);
}

int cmd_device(int argc, char **argv)
{
    struct device_options o = {0};
    struct gpu_device_info info;
    struct measure_rates r;
    struct err_msg why = {0};
    int code;
    /* The command line as given: parsing moves its parts. */
    json_t *command = report_create(&(struct gpu_device_info){.name = ""}, "device", argc, argv);
    if (!bench_parse(table, ARRAY_LEN(table), &o, "Usage: octoflow-bench device", argc, argv,
                     &code)) {
        json_decref(command);
        return code;
    }
    enum err e = measure_device(o.device, o.validate, &info, &r, &why);
    if (e != ERR_OK) {
        json_decref(command);
        return bench_fail(e, &why);
    }
    print_rates(&info, &r);
    if (!o.json) {
        json_decref(command);
        return BENCH_OK;
    }
    json_object_set_new(command, "device", json_string(info.name));
    json_object_set_new(command, "driver", json_string(info.driver));
    json_object_set_new(command, "read_buffer_bytes", json_integer((json_int_t)r.buffer_bytes));
    measure_to_json(&r, command);
    report_print(command);
    return BENCH_OK;
}
