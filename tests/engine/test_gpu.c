/* The Vulkan layer: the choice of a device on made-up lists, memory there and back, recording, and
 * two submissions in flight, every checked call failing once: a clean error, nothing leaked (the
 * leak checker of the sanitizer build and the validation layer watch), and the next try works. */
#include <dirent.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/file.h"
#include "base/size.h"
#include "tests/engine/kernel_bed.h"

static struct gpu_device_info device(const char *name, bool software, bool usable)
{
    struct gpu_device_info d = {.software = software, .usable = usable};
    snprintf(d.name, sizeof d.name, "%s", name);
    if (!usable)
        snprintf(d.missing, sizeof d.missing, "shaderInt64");
    return d;
}

static void test_choose(void)
{
    struct gpu_device_info list[4] = {
        device("llvmpipe (LLVM 15)", true, true), device("Old GPU", false, false),
        device("NVIDIA H200", false, true), device("NVIDIA H100", false, true)};
    struct err_msg why = {""};
    size_t index = 99;
    CHECK_OK(gpu_choose(list, 4, NULL, &index, &why), why);
    CHECK_INT(index, 2);
    CHECK_OK(gpu_choose(list, 4, "auto", &index, &why), why);
    CHECK_INT(index, 2);
    CHECK_OK(gpu_choose(list, 1, NULL, &index, &why), why); /* software when alone */
    CHECK_INT(index, 0);
    CHECK_OK(gpu_choose(list, 4, "0", &index, &why), why); /* or when asked for */
    CHECK_INT(index, 0);
    CHECK_OK(gpu_choose(list, 4, "h100", &index, &why), why);
    CHECK_INT(index, 3);
    CHECK_OK(gpu_choose(list, 4, "LLVMPIPE", &index, &why), why);
    CHECK_INT(index, 0);

    index = 99;
    /* A hardware device that lacks something: no silent fall to the CPU. */
    CHECK_ERR(gpu_choose(list, 2, NULL, &index, &why), ERR_UNSUPPORTED);
    CHECK_HAS(why.text, "shaderInt64");
    CHECK_ERR(gpu_choose(list, 4, "nvidia", &index, &why), ERR_USAGE);
    CHECK_HAS(why.text, "more than one");
    CHECK_HAS(why.text, "3 NVIDIA H100");
    CHECK_ERR(gpu_choose(list, 4, "4", &index, &why), ERR_NOT_FOUND);
    CHECK_ERR(gpu_choose(list, 4, "99999999999999999999", &index, &why), ERR_NOT_FOUND);
    CHECK_ERR(gpu_choose(list, 4, "radeon", &index, &why), ERR_NOT_FOUND);
    CHECK_HAS(why.text, "radeon");
    CHECK_HAS(why.text, "0 llvmpipe (LLVM 15) (software)");
    CHECK_ERR(gpu_choose(list, 4, "", &index, &why), ERR_NOT_FOUND);
    CHECK_ERR(gpu_choose(list, 4, "1", &index, &why), ERR_UNSUPPORTED);
    CHECK_HAS(why.text, "lacks shaderInt64");
    CHECK_ERR(gpu_choose(list, 0, NULL, &index, &why), ERR_NOT_FOUND);
    CHECK_ERR(gpu_choose(list, 0, "0", &index, &why), ERR_NOT_FOUND);
    CHECK_INT(index, 99); /* untouched on failure */
}

static void test_list(void)
{
    struct gpu_device_info list[GPU_MAX_DEVICES];
    struct err_msg why = {""};
    size_t count = 0;
    CHECK_OK(gpu_list(list, &count, &why), why);
    for (size_t i = 0; i < count; i++) {
        CHECK_INT(list[i].index, i);
        CHECK(list[i].name[0] != '\0');
        CHECK(list[i].usable == (list[i].missing[0] == '\0'));
        CHECK(!list[i].usable || (list[i].memory_bytes > 0 && list[i].subgroup_size > 0 &&
                                  list[i].shared_bytes >= 16384));
    }
}

/* Up, copied and filled on the device, down; at odd offsets; a kernel between. */
static enum err exercise(const struct gpu_options *o, bool ret_good[1], struct err_msg *why)
{
    enum { COUNT = 1000 };
    static float gate_up[2 * COUNT], out[COUNT];
    struct gpu *g = NULL;
    struct kernels *k = NULL;
    struct gpu_buffer device = {0}, other = {0}, host = {0};
    const char *names[4];
    uint64_t ns[4];
    enum err e = gpu_create(o, &g, why);
    if (e == ERR_OK)
        e = kernels_create(g, 0, &k, why);
    if (e == ERR_OK)
        e = gpu_buffer_create(g, GPU_DEVICE, sizeof gate_up, "a", &device, why);
    if (e == ERR_OK)
        e = gpu_buffer_create(g, GPU_UPLOAD, sizeof out + 8, "b", &other, why);
    if (e == ERR_OK)
        e = gpu_buffer_create(g, GPU_READBACK, sizeof out + 8, "c", &host, why);
    if (e != ERR_OK)
        goto fail;
    for (int i = 0; i < COUNT; i++) {
        gate_up[i] = 30; /* silu(30) = 30 */
        gate_up[COUNT + i] = (float)i;
    }
    e = gpu_upload(g, &device, 0, gate_up, sizeof gate_up, why);
    if (e == ERR_OK)
        e = gpu_begin(g, why);
    if (e != ERR_OK)
        goto fail;
    struct push_silu_mul p = {
        .gate_up = device.address, .out = other.address + 4, .rows = 1, .cols = COUNT};
    gpu_mark(g, "begin");
    gpu_fill(g, &other, 0, 4, 7);
    kernel_silu_mul(k, &p);
    gpu_barrier(g);
    gpu_mark(g, "end");
    gpu_copy(g, &other, 0, &host, 4, sizeof out + 4);
    e = gpu_submit(g, why);
    if (e == ERR_OK)
        e = gpu_wait(g, why);
    if (e == ERR_OK)
        e = gpu_download(g, &host, 8, out, sizeof out, why);
    if (e != ERR_OK)
        goto fail;
    *ret_good = device.address % 256 == 0 && other.mapped != NULL && host.mapped != NULL;
    for (int i = 0; i < COUNT; i++)
        *ret_good = *ret_good && fabsf(out[i] - 30 * (float)i) <= 0.01f;
    uint32_t seven;
    memcpy(&seven, (char *)host.mapped + 4, 4);
    *ret_good = *ret_good && seven == 7;
    size_t marks = gpu_marks(g, names, ns, 4);
    *ret_good = *ret_good && (gpu_timestamp_ns(g) == 0 ||
                              (marks == 2 && ns[0] == 0 && strcmp(names[1], "end") == 0));
    CHECK_INT(gpu_validation_errors(g), 0);
fail:
    if (g != NULL) {
        gpu_buffer_destroy(g, &device);
        gpu_buffer_destroy(g, &other);
        gpu_buffer_destroy(g, &host);
    }
    kernels_destroy(&k);
    gpu_destroy(&g);
    return e;
}

enum { MOST_CALLS = 4096, NAME_BYTES = 64 };

/* Fails call number `at`, counting from 0, with `result`. names: of all calls when none fails. */
struct fault {
    unsigned at, calls;
    int result;
    char name[NAME_BYTES];
    char (*names)[NAME_BYTES];
};

static int inject(void *user, const char *call)
{
    struct fault *f = user;
    if (f->names != NULL && f->calls < MOST_CALLS)
        snprintf(f->names[f->calls], NAME_BYTES, "%s", call);
    if (f->calls++ != f->at)
        return 0;
    snprintf(f->name, sizeof f->name, "%s", call);
    return f->result;
}

/* One of a long row of the same calls: each pipeline makes three, on its own. */
static bool is_repeated(char (*names)[NAME_BYTES], unsigned at)
{
    enum { PERIOD = 3 };
    for (unsigned i = 0; i < PERIOD; i++) {
        if (at < 2 * PERIOD || strcmp(names[at - i], names[at - i - PERIOD]) != 0)
            return false;
    }
    return true;
}

static void test_faults(const struct gpu_options *o)
{
    static char names[MOST_CALLS][NAME_BYTES];
    struct fault f = {.at = UINT32_MAX, .names = names};
    struct err_msg why = {""};
    bool good = false;
    struct gpu *keeper =
        NULL; /* keeps the driver loaded: NVIDIA's cannot be loaded anew dozens of times */
    CHECK_OK(gpu_create(o, &keeper, &why), why);
    gpu_set_fault_fn(inject, &f);
    CHECK_OK(exercise(o, &good, &why), why);
    CHECK(good);
    unsigned calls = f.calls;
    printf("%u checked calls\n", calls);
    CHECK(calls > 30 && calls < MOST_CALLS);
    for (unsigned at = 0; at < calls; at++) {
        enum { SAMPLE = 20 }; /* of the repeated ones two in so many fail, one with each result */
        static const struct {
            int result; /* VK_ERROR_DEVICE_LOST, VK_ERROR_OUT_OF_DEVICE_MEMORY */
            enum err want;
            const char *name;
        } kinds[] = {{-4, ERR_DEVICE, ": VK_ERROR_DEVICE_LOST"},
                     {-2, ERR_NOMEM, ": VK_ERROR_OUT_OF_DEVICE_MEMORY"}};
        size_t kind = at % 2;
        if (is_repeated(names, at) && at % SAMPLE != 0 && at % SAMPLE != 3)
            continue;
        f = (struct fault){.at = at, .result = kinds[kind].result};
        why.text[0] = '\0';
        CHECK_ERR(exercise(o, &good, &why), kinds[kind].want);
        CHECK_HAS(why.text, kinds[kind].name);
        CHECK_HAS(why.text, f.name);
    }
    gpu_set_fault_fn(NULL, NULL);
    good = false;
    CHECK_OK(exercise(o, &good, &why), why);
    CHECK(good);
    gpu_destroy(&keeper);
}

/* Uploads and downloads larger than the staging buffer, staged and not, at an offset. */
static void test_transfers(const struct gpu_options *o)
{
    enum { BYTES = 40 << 20 };
    struct err_msg why = {""};
    struct gpu *g = NULL;
    struct gpu_buffer b = {0};
    uint8_t *data = malloc(BYTES), *back = calloc(1, BYTES);
    CHECK_OK(gpu_create(o, &g, &why), why);
    if (g == NULL || data == NULL || back == NULL)
        exit(1);
    for (size_t i = 0; i < BYTES; i++)
        data[i] = (uint8_t)(i * 2654435761u >> 24);
    CHECK_OK(gpu_buffer_create(g, GPU_DEVICE, BYTES + 3, "data", &b, &why), why);
    void *mapped = b.mapped;
    for (int staged = 0; staged < 2; staged++) {
        if (staged)
            b.mapped = NULL; /* as on a device whose memory the host does not see */
        memset(back, 0, BYTES);
        CHECK_OK(gpu_upload(g, &b, 3, data, BYTES, &why), why);
        CHECK_OK(gpu_download(g, &b, 3, back, BYTES, &why), why);
        CHECK(memcmp(data, back, BYTES) == 0);
        data[5]++;
    }
    b.mapped = mapped;
    gpu_buffer_destroy(g, &b);
    CHECK_ERR(gpu_buffer_create(g, GPU_DEVICE, UINT64_MAX - 10, "far too much", &b, &why),
              ERR_NOMEM);
    CHECK_HAS(why.text, "far too much");
    CHECK_ERR(gpu_buffer_create(g, GPU_DEVICE, UINT64_C(1) << 50, "too much", &b, &why), ERR_NOMEM);
    CHECK(b.impl == NULL);
    gpu_buffer_destroy(g, &b); /* a zeroed one */
    CHECK(gpu_memory_free(g) == 0 || gpu_memory_free(g) <= gpu_info(g)->memory_bytes);
    gpu_destroy(&g);
    gpu_destroy(&g); /* NULL */
    free(data);
    free(back);
}

static void submit_round(struct gpu *g, const struct gpu_buffer *b, const struct gpu_buffer *host,
                         uint32_t round)
{
    static const char *const names[] = {"even", "odd"};
    struct err_msg why = {""};
    CHECK_OK(gpu_begin(g, &why), why);
    gpu_mark(g, names[round % 2]);
    /* What the round before left, then this one's. */
    gpu_copy(g, b, 0, host, round * sizeof(uint32_t), sizeof(uint32_t));
    gpu_barrier(g);
    gpu_fill(g, b, 0, b->bytes, round + 1);
    gpu_mark(g, "end");
    CHECK_OK(gpu_submit(g, &why), why);
}

/* Each submission sees what the one before wrote, whose end the host did not wait for. */
static void test_two_in_flight(const struct gpu_options *o)
{
    enum { ROUNDS = 9, BYTES = 4 << 20 };
    struct err_msg why = {""};
    struct gpu *g = NULL;
    struct gpu_buffer b = {0}, host = {0};
    uint32_t last = 0;
    CHECK_OK(gpu_create(o, &g, &why), why);
    if (g == NULL)
        exit(1);
    CHECK_OK(gpu_buffer_create(g, GPU_DEVICE, BYTES, "b", &b, &why), why);
    CHECK_OK(gpu_buffer_create(g, GPU_READBACK, ROUNDS * sizeof(uint32_t), "host", &host, &why),
             why);
    CHECK_OK(gpu_wait(g, &why), why); /* nothing in flight */
    CHECK_OK(gpu_upload(g, &b, 0, &last, sizeof last, &why), why);
    for (uint32_t round = 0; round < ROUNDS; round++) {
        const char *names[3] = {""};
        uint64_t ns[3];
        submit_round(g, &b, &host, round);
        CHECK_INT(gpu_in_flight(g), round == 0 ? 1 : 2);
        if (round == 0)
            continue;
        CHECK_OK(gpu_wait(g, &why), why);
        CHECK_INT(gpu_in_flight(g), 1);
        CHECK_INT(((uint32_t *)host.mapped)[round - 1], round - 1);
        size_t marks = gpu_marks(g, names, ns, 3);
        CHECK(gpu_timestamp_ns(g) == 0 ||
              (marks == 2 && strcmp(names[0], round % 2 ? "even" : "odd") == 0));
    }
    /* Helpers that block wait for what is in flight. */
    submit_round(g, &b, &host, 0);
    CHECK_OK(gpu_download(g, &b, BYTES - sizeof last, &last, sizeof last, &why), why);
    CHECK_INT(last, 1);
    CHECK_INT(gpu_in_flight(g), 0);
    submit_round(g, &b, &host, 7);
    submit_round(g, &b, &host, 8);
    gpu_buffer_destroy(g, &b);
    gpu_buffer_destroy(g, &host);
    CHECK_INT(gpu_validation_errors(g), 0);
    gpu_destroy(&g); /* with submissions that were not waited for */
}

enum { MANY = 100 };

/* `bad`: no word of this one is right. MANY: none. */
static void want_many(struct gpu_pipelines *l, struct gpu_pipeline *ret[MANY], unsigned bad,
                      unsigned also_bad)
{
    /* void main() {} with a local size of 1 */
    static const uint32_t good_code[] = {
        0x07230203, 0x00010000, 0, 5,          0,         0x00020011, 1,          0x0003000e, 0, 1,
        0x0005000f, 5,          1, 0x6e69616d, 0,         0x00060010, 1,          17,         1, 1,
        1,          0x00020013, 2, 0x00030021, 3,         2,          0x00050036, 2,          1, 0,
        3,          0x000200f8, 4, 0x000100fd, 0x00010038};
    static const uint32_t bad_code[ARRAY_LEN(good_code)] = {0};
    static char names[MANY][16];
    struct err_msg why = {""};
    for (unsigned i = 0; i < MANY; i++) {
        struct gpu_pipeline_options o = {
            .name = names[i],
            .spirv = i == bad || i == also_bad ? bad_code : good_code,
            .spirv_bytes = sizeof good_code,
            .push_bytes = i % 2 * 4,
        };
        snprintf(names[i], sizeof names[i], "number %u", i);
        CHECK_OK(gpu_pipelines_add(l, &o, &ret[i], &why), why);
        CHECK_OK(gpu_pipelines_add(l, &o, &ret[i], &why), why); /* once is enough */
    }
    CHECK_INT(l->count, MANY);
}

/* Creates a device with pipelines and ends it; returns what of the cache was read at the start. */
static size_t start_with_cache(const struct gpu_options *o)
{
    struct err_msg why = {""};
    struct gpu *g = NULL;
    struct gpu_pipelines l = {0};
    struct gpu_pipeline *p[MANY] = {0};
    CHECK_OK(gpu_create(o, &g, &why), why);
    if (g == NULL)
        exit(1);
    size_t bytes = gpu_cache_bytes(g);
    want_many(&l, p, MANY, MANY);
    CHECK_OK(gpu_pipelines_create(g, &l, &why), why);
    gpu_save_cache(g);
    gpu_destroy(&g);
    return bytes;
}

/* The only file in the directory. */
static void find_file(const char *dir, char ret_path[600])
{
    DIR *d = opendir(dir);
    unsigned files = 0;
    for (struct dirent *f; d != NULL && (f = readdir(d)) != NULL;) {
        if (f->d_name[0] == '.')
            continue;
        files++;
        snprintf(ret_path, 600, "%s/%s", dir, f->d_name);
    }
    if (d != NULL)
        closedir(d);
    CHECK_INT(files, 1);
}

/* A cache file is read by the second start; a broken one, or a place where none can be, does no
 * harm. */
static void test_cache(struct gpu_options o)
{
    char base[] = "/tmp/octo-test-gpu-XXXXXX", dir[300], path[600] = "";
    struct err_msg why = {""};
    struct stat st;
    struct buf good = {0}, now = {0};
    if (!CHECK(mkdtemp(base) != NULL))
        return;
    snprintf(dir, sizeof dir, "%s/not/there", base);
    CHECK_INT(start_with_cache(&o), 0); /* not asked for */
    o.cache_dir = dir;
    CHECK_INT(start_with_cache(&o), 0);
    find_file(dir, path);
    CHECK(stat(dir, &st) == 0 && (st.st_mode & 0777) == 0700);
    CHECK(stat(path, &st) == 0 && (st.st_mode & 0777) == 0600);
    CHECK_OK(file_read(path, 1 << 30, &good, &why), why);
    CHECK(good.len >= 24 + 32);
    CHECK_INT(start_with_cache(&o), good.len - 24);
    find_file(dir, path);

    /* Cut short, of another length, a bit turned in our header, Vulkan's and the data. */
    const size_t turned[] = {0, 9, 17, 24 + 5, 24 + 20, good.len - 1};
    for (size_t i = 0; i < ARRAY_LEN(turned) + 3; i++) {
        size_t len = i == 0 ? 0 : i == 1 ? 30 : i == 2 ? good.len - 1 : good.len;
        buf_clear(&now);
        CHECK_ERR(buf_append(&now, good.data, len), ERR_OK);
        if (i >= 3)
            now.data[turned[i - 3]] ^= 4;
        CHECK_OK(file_write_atomic(path, now.data != NULL ? now.data : "", len, &why), why);
        CHECK_INT(start_with_cache(&o), 0);
        CHECK(start_with_cache(&o) > 24); /* it was made anew */
        find_file(dir, path);
    }
    unlink(path);
    CHECK(mkdir(path, 0700) == 0); /* in its place what is no file */
    CHECK_INT(start_with_cache(&o), 0);
    rmdir(path);
    CHECK(rmdir(dir) == 0);
    CHECK_OK(file_write_atomic(dir, "a file", 6, &why), why); /* no directory can be made */
    CHECK_INT(start_with_cache(&o), 0);
    unlink(dir);
    snprintf(dir, sizeof dir, "%s/not", base);
    rmdir(dir);
    rmdir(base);
    o.cache_dir = "/proc/octoflow"; /* nor here */
    CHECK_INT(start_with_cache(&o), 0);
    buf_free(&good);
    buf_free(&now);
}

static void test_hash(const struct gpu_options *o)
{
    struct err_msg why = {""};
    struct gpu *g = NULL;
    struct kernels *a = NULL, *b = NULL;
    CHECK_OK(gpu_create(o, &g, &why), why);
    CHECK_OK(kernels_create(g, 0, &a, &why), why);
    CHECK_OK(kernels_create(g, UINT64_C(1) << TENSOR_Q4_K, &b, &why), why);
    if (a != NULL && b != NULL) {
        CHECK_INT(strlen(kernels_build_hash(a)), 32);
        CHECK_STR(kernels_build_hash(a),
                  kernels_build_hash(b)); /* not a matter of the model's types */
    }
    kernels_destroy(&a);
    kernels_destroy(&b);
    gpu_destroy(&g);
}

/* Many pipelines at once: all, or none and the first in order is named. */
static void test_pipelines(struct gpu_options o)
{
    struct err_msg why = {""};
    struct gpu *g = NULL;
    struct gpu_pipelines l = {0};
    struct gpu_pipeline *p[MANY] = {0};
    CHECK_OK(gpu_create(&o, &g, &why), why);
    if (g == NULL)
        exit(1);
    CHECK_OK(gpu_pipelines_create(g, &l, &why), why); /* none */
    /* Each pipeline is three calls, and one after the other where faults are injected. */
    struct fault f = {.at = 41 * 3 + 2, .result = -4};
    want_many(&l, p, MANY, MANY);
    gpu_set_fault_fn(inject, &f);
    CHECK_ERR(gpu_pipelines_create(g, &l, &why), ERR_DEVICE);
    gpu_set_fault_fn(NULL, NULL);
    CHECK_STR(why.text, "pipeline number 41: vkCreateComputePipelines: VK_ERROR_DEVICE_LOST");
    CHECK_INT(f.calls, 42 * 3);
    for (unsigned i = 0; i < MANY; i++)
        CHECK(p[i] == NULL);
    CHECK(l.count == 0 && l.wanted == NULL);
    want_many(&l, p, MANY, MANY);
    CHECK_OK(gpu_pipelines_create(g, &l, &why), why);
    CHECK_OK(gpu_begin(g, &why), why);
    for (unsigned i = 0; i < MANY; i++) {
        uint32_t push = 0;
        if (CHECK(p[i] != NULL) && CHECK(i == 0 || p[i] != p[i - 1]))
            gpu_dispatch(g, p[i], &push, 1, 1, 1);
    }
    CHECK_OK(gpu_submit(g, &why), why);
    CHECK_OK(gpu_wait(g, &why), why);
    CHECK_INT(gpu_validation_errors(g), 0);
    gpu_destroy(&g);
}

/* Mesa leaks what it made of a bad module. The device stays to the end of the process: only a
 * loaded driver's name is known to the leak sanitizer (lsan.supp). */
static struct gpu *volatile kept;

/* As it is without fault injection, on threads. What a driver makes of code that is none is its own
 * affair, but the software one refuses it. */
static void test_bad_pipelines(struct gpu_options o)
{
    struct err_msg why = {""};
    struct gpu *g = NULL;
    struct gpu_pipelines l = {0};
    o.validate = false;
    CHECK_OK(gpu_create(&o, &g, &why), why);
    if (g == NULL)
        exit(1);
    for (unsigned bad = 0; gpu_info(g)->software && bad < MANY; bad += 33) {
        struct gpu_pipeline *p[MANY] = {0};
        char want[64];
        snprintf(want, sizeof want, "pipeline number %u: vkCreate", bad);
        want_many(&l, p, bad, bad + 1);
        CHECK(gpu_pipelines_create(g, &l, &why) != ERR_OK);
        CHECK_HAS(why.text, want);
        for (unsigned i = 0; i < MANY; i++)
            CHECK(p[i] == NULL);
    }
    kept = g;
}

int main(void)
{
    struct gpu_options o = {.device_index = bed_device(), .validate = bed_validates()};
    struct gpu_options none = {.device_index = 1000};
    struct err_msg why = {""};
    struct gpu *g = NULL;
    test_choose();
    test_list();
    CHECK_ERR(gpu_create(&none, &g, &why), ERR_USAGE);
    CHECK(g == NULL);
    test_transfers(&o);
    test_two_in_flight(&o);
    test_hash(&o);
    test_cache(o);
    test_faults(&o);
    test_pipelines(o);
    test_bad_pipelines(o);
    return check_report();
}
