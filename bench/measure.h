/* What the device can do: measured with engine/gpu.h alone. */
#ifndef OCTO_BENCH_MEASURE_H
#define OCTO_BENCH_MEASURE_H

#include <jansson.h>

#include "base/err.h"
#include "engine/gpu.h"

/* 0: not measured (no such units). */
struct measure_rates {
    double read_bytes_s;
    double copy_bytes_s; /* bytes copied; each is read and written */
    double fma_flops_s;
    double matrix_flops_s;
    double dispatch_1_us, dispatch_132_us; /* one dispatch and barrier of so many workgroups */
    double submit_us;                      /* submit and wait for next to nothing */
    uint64_t free_bytes;                   /* device memory before anything was taken; 0: unknown */
    uint64_t buffer_bytes;                 /* that were read */
};

/* `want` as --device. Two seconds or less. */
enum err measure_device(const char *want, bool validate, struct gpu_device_info *ret_info,
                        struct measure_rates *ret, struct err_msg *why) MUST_CHECK;
/* Adds the rates under their flat names. */
void measure_to_json(const struct measure_rates *r, json_t *o);

#endif
