/* Rates of a device: bandwidth, arithmetic, cost of a dispatch and of a submission. The best of
 * some rounds each: what is searched is a limit. */
#include "bench/measure.h"

#include "base/clock.h"
#include "base/size.h"
#include "shaders/bench_push.h"
#include "shaders/spirv_bench.h"

enum { ROUNDS = 5, DISPATCHES = 256, OUT_BYTES = 1 << 20, WORKGROUP = 256 };
enum { FMA_CHAINS = 16, MATRIX_SIDE = 4, MATRIX_SUBGROUPS = 4 }; /* as the shaders have it */
enum { MATRIX_FLOPS = 2 * 16 * 8 * 16 };

/* A GPU's clocks rise under load: each rate is tried for so long. */
static const uint64_t WARM_NS = NS_PER_S / 5;

struct bench {
    struct gpu *gpu;
    struct gpu_buffer from, to, out;
    struct gpu_pipeline *read, *fma, *matrix;
};

static enum err pipeline(struct bench *b, const char *name, const uint32_t *spirv, size_t bytes,
                         struct gpu_pipeline **ret, struct err_msg *why)
{
    struct gpu_pipeline_options o = {.name = name,
                                     .spirv = spirv,
                                     .spirv_bytes = bytes,
                                     .push_bytes = sizeof(struct push_bench)};
    return gpu_pipeline_create(b->gpu, &o, ret, why);
}

static enum err setup(struct bench *b, uint64_t bytes, struct err_msg *why)
{
    enum err e =
        pipeline(b, "bench_read", spirv_bench_read, sizeof spirv_bench_read, &b->read, why);
    if (e == ERR_OK)
        e = pipeline(b, "bench_fma", spirv_bench_fma, sizeof spirv_bench_fma, &b->fma, why);
    if (e == ERR_OK && gpu_info(b->gpu)->matrix_f16)
        e = pipeline(b, "bench_matrix", spirv_bench_matrix, sizeof spirv_bench_matrix, &b->matrix,
                     why);
    if (e == ERR_OK)
        e = gpu_buffer_create(b->gpu, GPU_DEVICE, bytes, "bench source", &b->from, why);
    if (e == ERR_OK)
        e = gpu_buffer_create(b->gpu, GPU_DEVICE, bytes, "bench target", &b->to, why);
    if (e == ERR_OK)
        e = gpu_buffer_create(b->gpu, GPU_DEVICE, OUT_BYTES, "bench results", &b->out, why);
    return e;
}

/* `times` dispatches with barriers, or copies of the buffer where p is NULL; *ret_ns is the best
 * round's device time (by the host's clock where the device has none). */
static enum err time_it(struct bench *b, struct gpu_pipeline *p, const struct push_bench *push,
                        uint32_t groups, uint32_t times, double *ret_ns, struct err_msg *why)
{
    double best = 0;
    uint64_t start = clock_mono_ns(), least = gpu_info(b->gpu)->software ? 0 : WARM_NS;
    for (int round = 0; round < ROUNDS || clock_mono_ns() - start < least; round++) {
        enum err e = gpu_begin(b->gpu, why);
        if (e != ERR_OK)
            return e;
        gpu_mark(b->gpu, "begin");
        for (uint32_t i = 0; i < times; i++) {
            if (p != NULL)
                gpu_dispatch(b->gpu, p, push, groups, 1, 1);
            else
                gpu_copy(b->gpu, &b->from, 0, &b->to, 0, b->from.bytes);
            gpu_barrier(b->gpu);
        }
        gpu_mark(b->gpu, "end");
        uint64_t begin = clock_mono_ns();
        e = gpu_submit(b->gpu, why);
        if (e == ERR_OK)
            e = gpu_wait(b->gpu, why);
        if (e != ERR_OK)
            return e;
        double ns = (double)(clock_mono_ns() - begin);
        const char *names[2];
        uint64_t at[2];
        if (gpu_timestamp_ns(b->gpu) > 0 && gpu_marks(b->gpu, names, at, 2) == 2 && at[1] > at[0])
            ns = (double)(at[1] - at[0]);
        if (best == 0 || ns < best)
            best = ns;
    }
    *ret_ns = best;
    return ERR_OK;
}

static enum err memory_rates(struct bench *b, struct measure_rates *r, struct err_msg *why)
{
    double ns = 1;
    uint64_t words = b->from.bytes / 16, rounds = gpu_info(b->gpu)->software ? 8 : 16;
    uint32_t groups = (uint32_t)(words / (rounds * 4) / WORKGROUP);
    struct push_bench push = {.from = b->from.address,
                              .out = b->out.address,
                              .count = (uint32_t)rounds,
                              .words = groups * WORKGROUP};
    enum { TIMES = 4 };
    enum err e = time_it(b, b->read, &push, groups, TIMES, &ns, why);
    r->read_bytes_s = (double)push.words * 16 * 4 * (double)rounds * TIMES / ns * 1e9;
    if (e == ERR_OK)
        e = time_it(b, NULL, NULL, 0, TIMES, &ns, why);
    r->copy_bytes_s = (double)b->from.bytes * TIMES / ns * 1e9;
    return e;
}

static enum err arithmetic_rates(struct bench *b, struct measure_rates *r, struct err_msg *why)
{
    double ns = 1;
    bool software = gpu_info(b->gpu)->software;
    uint32_t groups = software ? 16 : 132 * 8;
    struct push_bench push = {.out = b->out.address, .count = software ? 1024 : 8192};
    enum err e = time_it(b, b->fma, &push, groups, 1, &ns, why);
    r->fma_flops_s = 2.0 * FMA_CHAINS * push.count * groups * WORKGROUP / ns * 1e9;
    if (e != ERR_OK || b->matrix == NULL)
        return e;
    e = time_it(b, b->matrix, &push, groups, 1, &ns, why);
    r->matrix_flops_s = 1.0 * MATRIX_FLOPS * MATRIX_SIDE * MATRIX_SIDE * push.count * groups *
                        MATRIX_SUBGROUPS / ns * 1e9;
    return e;
}

static enum err costs(struct bench *b, struct measure_rates *r, struct err_msg *why)
{
    double ns = 1;
    struct push_bench push = {.out = b->out.address, .count = 1};
    enum err e = time_it(b, b->fma, &push, 1, DISPATCHES, &ns, why);
    r->dispatch_1_us = ns / DISPATCHES / 1e3;
    if (e == ERR_OK)
        e = time_it(b, b->fma, &push, 132, DISPATCHES, &ns, why);
    r->dispatch_132_us = ns / DISPATCHES / 1e3;
    double best = 0;
    for (int i = 0; e == ERR_OK && i < 20; i++) {
        uint64_t begin = clock_mono_ns();
        e = gpu_begin(b->gpu, why);
        if (e == ERR_OK)
            e = gpu_submit(b->gpu, why);
        if (e == ERR_OK)
            e = gpu_wait(b->gpu, why);
        double us = (double)(clock_mono_ns() - begin) / 1e3;
        best = best == 0 || us < best ? us : best;
    }
    r->submit_us = best;
    return e;
}

enum err measure_device(const char *want, bool validate, struct gpu_device_info *ret_info,
                        struct measure_rates *ret, struct err_msg *why)
{
    struct gpu_device_info list[GPU_MAX_DEVICES];
    size_t count = 0, index = 0;
    struct bench b = {0};
    struct measure_rates r = {0};
    enum err e = gpu_list(list, &count, why);
    if (e == ERR_OK)
        e = gpu_choose(list, count, want, &index, why);
    if (e != ERR_OK)
        return e;
    struct gpu_options o = {.device_index = list[index].index, .validate = validate};
    e = gpu_create(&o, &b.gpu, why);
    if (e != ERR_OK)
        return e;
    r.free_bytes = gpu_memory_free(b.gpu);
    r.buffer_bytes = list[index].software ? UINT64_C(64) << 20 : UINT64_C(1) << 30;
    e = setup(&b, r.buffer_bytes, why);
    if (e == ERR_OK)
        e = memory_rates(&b, &r, why);
    if (e == ERR_OK)
        e = arithmetic_rates(&b, &r, why);
    if (e == ERR_OK)
        e = costs(&b, &r, why);
    if (e == ERR_OK && gpu_validation_errors(b.gpu) > 0)
        e = err_set(why, ERR_DEVICE, "%u messages of the validation layer",
                    gpu_validation_errors(b.gpu));
    gpu_buffer_destroy(b.gpu, &b.from);
    gpu_buffer_destroy(b.gpu, &b.to);
    gpu_buffer_destroy(b.gpu, &b.out);
    gpu_destroy(&b.gpu);
    if (e != ERR_OK)
        return e;
    *ret_info = list[index];
    *ret = r;
    return ERR_OK;
}

static void number(json_t *o, const char *key, double value)
{
    if (value > 0)
        json_object_set_new(o, key, json_real(value));
}

void measure_to_json(const struct measure_rates *r, json_t *o)
{
    number(o, "read_bytes_per_s", r->read_bytes_s);
    number(o, "copy_bytes_per_s", r->copy_bytes_s);
    number(o, "fma_flops_per_s", r->fma_flops_s);
    number(o, "matrix_flops_per_s", r->matrix_flops_s);
    number(o, "dispatch_1_us", r->dispatch_1_us);
    number(o, "dispatch_132_us", r->dispatch_132_us);
    number(o, "submit_us", r->submit_us);
}
