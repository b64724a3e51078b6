/* What every kernel test stands on: a device, the kernels, and one buffer from which guarded
 * tensors are cut.
 *
 * Between tensors lie guards of all-ones bytes: read as f32 or f16 they are NaN, so that a read
 * beyond a tensor shows in the result; a write beyond it shows in the guard, which bed_check()
 * looks at. The device: the software one if there is one, unless OCTO_TEST_DEVICE names another.
 * OCTO_VALIDATE=1 turns the validation layer on. */
#ifndef OCTO_TESTS_KERNEL_BED_H
#define OCTO_TESTS_KERNEL_BED_H

#include <math.h>

#include "base/clock.h"
#include "engine/kernels.h"
#include "tests/check.h"

enum { BED_GUARD_BYTES = 256, BED_MAX_TENSORS = 64 };

struct tensor {
    uint64_t address;
    uint64_t offset; /* in the bed's buffer */
    uint64_t bytes;
};

struct bed {
    struct gpu *gpu;
    struct kernels *kernels;
    struct gpu_buffer buffer;
    uint64_t used;
    struct tensor tensors[BED_MAX_TENSORS];
    size_t count;
    struct check_rng rng;
};

static inline bool bed_validates(void)
{
    const char *text = getenv("OCTO_VALIDATE");
    return text != NULL && strcmp(text, "1") == 0;
}

/* The device tests run on; 77 ends the test where there is none. */
static inline uint32_t bed_device(void)
{
    struct gpu_device_info list[GPU_MAX_DEVICES];
    struct err_msg why = {""};
    size_t count = 0, index = 0;
    enum err e = gpu_list(list, &count, &why);
    const char *want = getenv("OCTO_TEST_DEVICE");
    for (size_t i = 0; i < count && want == NULL; i++)
        if (list[i].software && list[i].usable)
            return (uint32_t)i;
    if (e == ERR_OK)
        e = gpu_choose(list, count, want, &index, &why);
    if (e != ERR_OK) {
        fprintf(stderr, "no device: %s\n", why.text);
        exit(want == NULL ? 77 : 1);
    }
    return (uint32_t)index;
}

/* types: as in kernels_create(). */
static inline void bed_start_types(struct bed *b, uint64_t buffer_bytes, uint64_t seed,
                                   uint64_t types)
{
    struct err_msg why = {""};
    struct gpu_options o = {.device_index = bed_device(), .validate = bed_validates()};
    *b = (struct bed){.rng = check_rng_start(seed)};
    CHECK_OK(gpu_create(&o, &b->gpu, &why), why);
    if (b->gpu == NULL)
        exit(1);
    CHECK_OK(kernels_create(b->gpu, types, &b->kernels, &why), why);
    CHECK_OK(gpu_buffer_create(b->gpu, GPU_DEVICE, buffer_bytes, "tensors", &b->buffer, &why), why);
    if (b->kernels == NULL || b->buffer.impl == NULL)
        exit(1);
    printf("%s, %s, validation %s\n", gpu_info(b->gpu)->name, gpu_info(b->gpu)->driver,
           o.validate ? "on" : "off");
}

static inline void bed_start(struct bed *b, uint64_t buffer_bytes, uint64_t seed)
{
    bed_start_types(b, buffer_bytes, seed, UINT64_C(1) << TENSOR_F32);
}

static inline int bed_finish(struct bed *b)
{
    gpu_buffer_destroy(b->gpu, &b->buffer);
    kernels_destroy(&b->kernels);
    CHECK_INT(gpu_validation_errors(b->gpu), 0);
    gpu_destroy(&b->gpu);
    return check_report();
}

/* Forgets all tensors. */
static inline void bed_clear(struct bed *b)
{
    b->used = 0;
    b->count = 0;
}

static inline void bed_put(struct bed *b, uint64_t offset, const void *bytes, uint64_t len)
{
    struct err_msg why = {""};
    CHECK_OK(gpu_upload(b->gpu, &b->buffer, offset, bytes, len, &why), why);
}

/* content NULL: filled with the guard's bytes. */
static inline struct tensor bed_tensor(struct bed *b, const void *content, uint64_t bytes)
{
    static const uint64_t align = 256;
    uint64_t room = (bytes + align - 1) / align * align;
    struct tensor t = {.offset = b->used + BED_GUARD_BYTES, .bytes = bytes};
    if (t.offset + room + BED_GUARD_BYTES > b->buffer.bytes || b->count == BED_MAX_TENSORS) {
        fprintf(stderr, "the test's buffer is too small\n");
        exit(1);
    }
    t.address = b->buffer.address + t.offset;
    uint64_t all = room + 2 * BED_GUARD_BYTES;
    void *fill = malloc(all);
    if (fill == NULL)
        exit(1);
    memset(fill, 0xff, all);
    if (content != NULL)
        memcpy((char *)fill + BED_GUARD_BYTES, content, bytes);
    bed_put(b, b->used, fill, all);
    free(fill);
    b->used = t.offset + room;
    b->tensors[b->count++] = t;
    return t;
}

static inline void bed_get(struct bed *b, const struct tensor *t, void *ret_bytes)
{
    struct err_msg why = {""};
    CHECK_OK(gpu_download(b->gpu, &b->buffer, t->offset, ret_bytes, t->bytes, &why), why);
}

/* All guards are what they were: between the tensors, and up to the next 256 bytes after each. */
static inline bool bed_check(struct bed *b)
{
    struct err_msg why = {""};
    uint64_t all = b->used + BED_GUARD_BYTES;
    uint8_t *now = malloc(all);
    bool good = now != NULL;
    CHECK_OK(gpu_download(b->gpu, &b->buffer, 0, now, all, &why), why);
    for (size_t i = 0; i < b->count && good; i++)
        memset(now + b->tensors[i].offset, 0xff, b->tensors[i].bytes);
    for (uint64_t i = 0; i < all && good; i++)
        good = now[i] == 0xff;
    free(now);
    return CHECK(good && "guards untouched");
}

static inline void bed_begin(struct bed *b)
{
    struct err_msg why = {""};
    CHECK_OK(gpu_begin(b->gpu, &why), why);
}

static inline void bed_run(struct bed *b)
{
    struct err_msg why = {""};
    CHECK_OK(gpu_submit(b->gpu, &why), why);
    CHECK_OK(gpu_wait(b->gpu, &why), why);
}

static inline float *bed_floats(struct bed *b, size_t count, float low, float high)
{
    float *x = malloc((count + 1) * sizeof *x);
    if (x == NULL)
        exit(1);
    for (size_t i = 0; i < count; i++)
        x[i] = check_rng_float(&b->rng, low, high);
    return x;
}

/* f16 by the IEEE rules, written from the standard. */
static inline double half_value(uint16_t h)
{
    int exponent = (h >> 10) & 31, fraction = h & 1023;
    double v = exponent == 0    ? ldexp(fraction, -24)
               : exponent == 31 ? (fraction == 0 ? INFINITY : NAN)
                                : ldexp(1024 + fraction, exponent - 25);
    return h & 0x8000 ? -v : v;
}

/* A logit's key as key_of() of shaders/common.glsl has it, where a NaN counts as minus infinity. */
static inline uint32_t bed_key_of(float x)
{
    uint32_t bits;
    x = isnan(x) ? -INFINITY : x == 0 ? 0.0f : x;
    memcpy(&bits, &x, sizeof bits);
    return bits >> 31 ? ~bits : bits | UINT32_C(1) << 31;
}

#endif
