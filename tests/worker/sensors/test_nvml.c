/* The NVML sensor over a fake library: cards as their vendor documents them, old drivers, a lost
 * GPU, absurd values. usage: test_nvml NEW.so OLD.so BROKEN.so */
#include <dlfcn.h>

#include "base/clock.h"
#include "check.h"
#include "tests/worker/sensors/fake_nvml.h"
#include "worker/sensors/sensor.h"

static const struct sensor_target target = {.pci = "0000:19:00.0"};

static void *use(const char *path, struct fake_nvml **ret)
{
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    fake_nvml_state_fn *state = NULL;
    void *symbol = library == NULL ? NULL : dlsym(library, "fake_nvml_state");
    memcpy(&state, &symbol, sizeof symbol);
    if (!CHECK(state != NULL)) {
        fprintf(stderr, "    %s\n", dlerror());
        exit(check_report());
    }
    *ret = state();
    return library;
}

/* An idle H200: the limits of its temperature are a margin only. */
static const struct fake_nvml h200 = {
    .pci = "0000:19:00.0",
    .temp_c = 42,
    .margin_c = 45,
    .gpu_max = NVML_NOT_SUPPORTED,
    .slowdown = NVML_NOT_SUPPORTED,
    .instant_type = 1,
    .instant_mw = 116250,
    .memory_type = 1,
    .memory_temp_c = 46,
    .power_mw = 121000,
    .limit_mw = 700000,
    .clock_mhz = 1980,
    .energy_mj = 1234567890123,
};

static void test_h200(struct fake_nvml *nvml)
{
    struct sensor *s = NULL;
    struct sensor_reading in = {0};
    struct err_msg why = {{0}};
    *nvml = h200;
    CHECK_OK(sensor_open("nvml", &target, &s, &why), why);
    CHECK_STR(sensor_name(s), "nvml");
    CHECK_OK(sensor_read(s, 7 * NS_PER_S, &in, &why), why);
    CHECK(in.have_temp && in.temp_c == 42);
    CHECK(in.have_margin && in.margin_c == 45);
    CHECK(in.have_memory_temp && in.memory_temp_c == 46);
    CHECK(in.have_power && in.power_w == 116.25 && in.limit_w == 700);
    CHECK(in.have_energy && in.energy_j == 1234567890.123);
    CHECK(in.clock_mhz == 1980 && in.throttle_bits == 0);
    CHECK(in.read_ns == 7 * NS_PER_S);
    sensor_close(&s);
    CHECK_INT(nvml->open, 0);
    CHECK_OK(sensor_open("auto", &target, &s, &why), why);
    CHECK_STR(sensor_name(s), "nvml");
    sensor_close(&s);
    CHECK_INT(nvml->open, 0);
}

static void test_field_types(struct fake_nvml *nvml)
{
    struct sensor *s = NULL;
    struct sensor_reading in = {0};
    struct err_msg why = {{0}};
    *nvml = h200;
    CHECK_OK(sensor_open("nvml", &target, &s, &why), why);
    for (int type = 0; type <= 7; type++) {
        nvml->instant_type = nvml->memory_type = type;
        CHECK_OK(sensor_read(s, NS_PER_S, &in, &why), why);
        CHECK(in.have_power && in.power_w == (type <= 5 ? 116.25 : 121));
        CHECK(in.have_memory_temp == (type <= 5) && (type > 5 || in.memory_temp_c == 46));
    }
    nvml->instant_type = nvml->memory_type = -1;
    CHECK_OK(sensor_read(s, NS_PER_S, &in, &why), why);
    CHECK(in.have_power && in.power_w == 121 && !in.have_memory_temp);
    sensor_close(&s);
}

static void test_reasons(struct fake_nvml *nvml)
{
    static const struct {
        unsigned long long reasons;
        unsigned bits;
    } cases[] = {
        {0x1, 0},                 /* idle */
        {0x2, 0},                 /* application clocks */
        {0x4, THROTTLE_POWER},    /* power cap, by software */
        {0x8, THROTTLE_BRAKE},    /* slowdown by hardware: heat or brake */
        {0x10, 0},                /* sync boost */
        {0x20, THROTTLE_THERMAL}, /* heat, by software */
        {0x40, THROTTLE_THERMAL}, /* heat, by hardware */
        {0x80, THROTTLE_BRAKE},   /* power brake, from outside */
        {0x100, 0},               /* display clocks */
        {0x8000000000000000, 0},  /* what comes later */
        {0x6c, THROTTLE_THERMAL | THROTTLE_POWER | THROTTLE_BRAKE},
    };
    struct sensor *s = NULL;
    struct sensor_reading in = {0};
    struct err_msg why = {{0}};
    *nvml = h200;
    CHECK_OK(sensor_open("nvml", &target, &s, &why), why);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        nvml->reason_bits = cases[i].reasons;
        CHECK_OK(sensor_read(s, NS_PER_S, &in, &why), why);
        CHECK_INT(in.throttle_bits, cases[i].bits);
    }
    nvml->reason_bits = 0x20;
    nvml->reasons = NVML_NOT_SUPPORTED;
    CHECK_OK(sensor_read(s, NS_PER_S, &in, &why), why);
    CHECK_INT(in.throttle_bits, 0);
    sensor_close(&s);
}

/* A card with thresholds in degrees, on a driver without margin, fields and energy. */
static void test_old(struct fake_nvml *nvml)
{
    struct sensor *s = NULL;
    struct sensor_reading in = {0};
    struct err_msg why = {{0}};
    *nvml = (struct fake_nvml){.pci = "0000:19:00.0",
                               .temp_c = 67,
                               .gpu_max_c = 93,
                               .slowdown_c = 96,
                               .power_mw = 228400,
                               .limit_mw = 250000,
                               .clock_mhz = 1830,
                               .reason_bits = 0x4};
    CHECK_OK(sensor_open("nvml", &target, &s, &why), why);
    CHECK_OK(sensor_read(s, NS_PER_S, &in, &why), why);
    CHECK(in.have_temp && in.temp_c == 67 && in.have_margin && in.margin_c == 26);
    CHECK(in.have_power && in.power_w == 228.4 && in.limit_w == 250 && in.clock_mhz == 1830);
    CHECK(!in.have_memory_temp && !in.have_energy);
    CHECK_INT(in.throttle_bits, THROTTLE_POWER);
    sensor_close(&s);
    nvml->gpu_max = NVML_NOT_SUPPORTED;
    CHECK_OK(sensor_open("nvml", &target, &s, &why), why);
    CHECK_OK(sensor_read(s, NS_PER_S, &in, &why), why);
    CHECK(in.have_margin && in.margin_c == 29);
    sensor_close(&s);
}

/* One function after the other says "not supported": that value alone is unknown. */
static void test_not_supported(struct fake_nvml *nvml)
{
    struct sensor *s = NULL;
    struct sensor_reading in = {0};
    struct err_msg why = {{0}};
    *nvml = h200;
    CHECK_OK(sensor_open("nvml", &target, &s, &why), why);
    nvml->temperature = NVML_NOT_SUPPORTED;
    CHECK_OK(sensor_read(s, NS_PER_S, &in, &why), why);
    CHECK(!in.have_temp && in.have_margin && in.margin_c == 45 && in.have_power);
    nvml->margin = NVML_NOT_SUPPORTED;
    CHECK_OK(sensor_read(s, NS_PER_S, &in, &why), why);
    CHECK(!in.have_temp && !in.have_margin && in.have_power && in.have_energy);
    nvml->limit = nvml->clock = nvml->energy = NVML_NO_PERMISSION;
    CHECK_OK(sensor_read(s, NS_PER_S, &in, &why), why);
    CHECK(in.have_power && in.limit_w == 0 && in.clock_mhz == 0 && !in.have_energy);
    nvml->fields = NVML_NOT_SUPPORTED;
    CHECK_OK(sensor_read(s, NS_PER_S, &in, &why), why);
    CHECK(in.have_power && in.power_w == 121 && !in.have_memory_temp);
    nvml->power = NVML_NOT_SUPPORTED;
    in.temp_c = 12345;
    CHECK_ERR(sensor_read(s, NS_PER_S, &in, &why), ERR_IO);
    CHECK_HAS(why.text, "Not Supported");
    CHECK(in.temp_c == 12345);
    sensor_close(&s);
    /* Such a card opens, and "auto" goes on to the next sensor. */
    CHECK_ERR(sensor_open("auto", &target, &s, &why), ERR_NOT_FOUND);
    CHECK_HAS(why.text, "nvml: NVML tells neither");
    CHECK_INT(nvml->open, 0);
}

static void test_lost(struct fake_nvml *nvml)
{
    struct sensor *s = NULL;
    struct sensor_reading in = {0};
    struct err_msg why = {{0}};
    *nvml = h200;
    CHECK_OK(sensor_open("nvml", &target, &s, &why), why);
    nvml->temperature = nvml->margin = nvml->fields = nvml->power = nvml->limit = nvml->energy =
        nvml->clock = nvml->reasons = NVML_GPU_IS_LOST;
    CHECK_ERR(sensor_read(s, NS_PER_S, &in, &why), ERR_IO);
    CHECK_HAS(why.text, "GPU is lost");
    *nvml = h200;
    CHECK_OK(sensor_read(s, NS_PER_S, &in, &why), why);
    CHECK(in.temp_c == 42);
    sensor_close(&s);
    nvml->find = NVML_GPU_IS_LOST;
    CHECK_ERR(sensor_open("nvml", &target, &s, &why), ERR_NOT_FOUND);
    CHECK_HAS(why.text, "0000:19:00.0: GPU is lost");
}

/* What cannot be true is unknown; what is only hot is not. */
static void test_absurd(struct fake_nvml *nvml)
{
    struct sensor *s = NULL;
    struct sensor_reading in = {0};
    struct err_msg why = {{0}};
    *nvml = h200;
    nvml->temp_c = 150;
    CHECK_OK(sensor_open("nvml", &target, &s, &why), why);
    CHECK_OK(sensor_read(s, 1 * NS_PER_S, &in, &why), why);
    CHECK(in.have_temp && in.temp_c == 150);
    nvml->temp_c = 151;
    nvml->memory_temp_c = 0xffff;
    nvml->limit_mw = 0xffffffff;
    nvml->clock_mhz = 0x7fffffff;
    CHECK_OK(sensor_read(s, 2 * NS_PER_S, &in, &why), why);
    CHECK(!in.have_temp && !in.have_memory_temp && in.limit_w == 0 && in.clock_mhz == 0);
    CHECK(in.have_margin && in.have_power);
    nvml->temp_c = (unsigned)-5; /* the API has no sign */
    nvml->margin_c = 100000;
    nvml->instant_mw = 5000001;
    CHECK_OK(sensor_read(s, 3 * NS_PER_S, &in, &why), why);
    CHECK(!in.have_temp && !in.have_margin && in.have_energy);
    nvml->margin_c = -12; /* above its limit */
    CHECK_OK(sensor_read(s, 4 * NS_PER_S, &in, &why), why);
    CHECK(!in.have_margin); /* not so soon */
    CHECK_OK(sensor_read(s, 6 * NS_PER_S, &in, &why), why);
    CHECK(in.have_margin && in.margin_c == -12);
    sensor_close(&s);
}

/* The counter after its driver was loaded anew: the step back is unknown, the sum never falls. */
static void test_energy(struct fake_nvml *nvml)
{
    struct sensor *s = NULL;
    struct sensor_reading in = {0};
    struct err_msg why = {{0}};
    *nvml = h200;
    nvml->energy_mj = 5000000;
    CHECK_OK(sensor_open("nvml", &target, &s, &why), why);
    CHECK_OK(sensor_read(s, 1 * NS_PER_S, &in, &why), why);
    CHECK(in.have_energy && in.energy_j == 5000);
    nvml->energy_mj = 5300000;
    CHECK_OK(sensor_read(s, 2 * NS_PER_S, &in, &why), why);
    CHECK(in.have_energy && in.energy_j == 5300);
    nvml->energy_mj = 70000;
    CHECK_OK(sensor_read(s, 3 * NS_PER_S, &in, &why), why);
    CHECK(!in.have_energy);
    nvml->energy_mj = 170000;
    CHECK_OK(sensor_read(s, 4 * NS_PER_S, &in, &why), why);
    CHECK(in.have_energy && in.energy_j == 5400);
    CHECK(in.power_w == 116.25);
    sensor_close(&s);
}

static void test_not_there(struct fake_nvml *nvml)
{
    struct sensor *s = NULL;
    struct err_msg why = {{0}};
    *nvml = h200;
    nvml->init = NVML_DRIVER_NOT_LOADED;
    CHECK_ERR(sensor_open("nvml", &target, &s, &why), ERR_NOT_FOUND);
    CHECK_HAS(why.text, "Driver Not Loaded");
    *nvml = h200;
    static const struct sensor_target other = {.pci = "0000:65:00.0"}, unknown = {.pci = ""};
    CHECK_ERR(sensor_open("nvml", &other, &s, &why), ERR_NOT_FOUND);
    CHECK_HAS(why.text, "0000:65:00.0");
    CHECK_ERR(sensor_open("nvml", &unknown, &s, &why), ERR_NOT_FOUND);
    CHECK_HAS(why.text, "PCI address");
    CHECK_INT(nvml->open, 0);
    CHECK(s == NULL);
}

int main(int argc, char **argv)
{
    struct fake_nvml *nvml;
    if (argc != 4)
        return 2;
    void *library = use(argv[1], &nvml);
    test_h200(nvml);
    test_field_types(nvml);
    test_reasons(nvml);
    test_not_supported(nvml);
    test_lost(nvml);
    test_absurd(nvml);
    test_energy(nvml);
    test_not_there(nvml);
    dlclose(library);
    library = use(argv[2], &nvml);
    test_old(nvml);
    dlclose(library);
    library = use(argv[3], &nvml);
    struct sensor *s = NULL;
    struct err_msg why = {{0}};
    *nvml = h200;
    CHECK_ERR(sensor_open("nvml", &target, &s, &why), ERR_NOT_FOUND);
    CHECK_HAS(why.text, "lacks functions");
    dlclose(library);
    return check_report();
}
