/* NVIDIA's management library, loaded at run time: temperature, margin to the card's own limit,
 * power and throttle reasons of the GPU at a PCI address. What a card does not answer is left
 * unknown.
 *
 * The few prototypes are declared here (NVML API reference, docs.nvidia.com/deploy/nvml-api), so
 * that no vendor header is needed to build. On Hopper the limits are readable only as a margin
 * (T.Limit), so the margin is taken where it exists; the plain power usage is an average over a
 * second, so the instant field is preferred. */
#include "worker/sensor.h"

#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

typedef void *nvml_device;
typedef int nvml_result; /* 0: success */

enum {
    NVML_TEMPERATURE_GPU = 0,
    NVML_FIELD_POWER_INSTANT = 186, /* NVML_FI_DEV_POWER_INSTANT, milliwatts */
    NVML_REASON_SW_POWER_CAP = 0x4,
    NVML_REASON_HW_SLOWDOWN = 0x8,
    NVML_REASON_SW_THERMAL = 0x20,
    NVML_REASON_HW_THERMAL = 0x40,
    NVML_REASON_POWER_BRAKE = 0x80,
};

struct nvml_margin { /* nvmlMarginTemperature_v1_t */
    unsigned version;
    int margin_c;
};

struct nvml_field { /* nvmlFieldValue_t */
    unsigned field;
    unsigned scope;
    long long timestamp_us;
    long long latency_us;
    int type;
    nvml_result result;
    union {
        double d;
        unsigned ui;
        unsigned long long ull;
    } value;
};

struct nvml {
    nvml_result (*init)(void);
    nvml_result (*shutdown)(void);
    const char *(*error)(nvml_result r);
    nvml_result (*find)(const char *pci, nvml_device *ret);
    nvml_result (*temperature)(nvml_device d, int sensor, unsigned *ret_c);
    nvml_result (*margin)(nvml_device d, struct nvml_margin *ret);
    nvml_result (*fields)(nvml_device d, int count, struct nvml_field *fields);
    nvml_result (*power)(nvml_device d, unsigned *ret_mw);
    nvml_result (*limit)(nvml_device d, unsigned *ret_mw);
    nvml_result (*reasons)(nvml_device d, unsigned long long *ret_bits);
};

struct sensor_nvml {
    struct sensor base;
    void *library;
    struct nvml api;
    nvml_device device;
    bool inited;
};

/* dlsym gives a data pointer; C has no cast from it to a function pointer, POSIX promises the bytes
 * agree. */
static bool load(void *library, const char *name, void *ret_function)
{
    void *symbol = dlsym(library, name);
    memcpy(ret_function, &symbol, sizeof symbol);
    return symbol != NULL;
}

static bool load_api(void *library, struct nvml *api)
{
    load(library, "nvmlDeviceGetMarginTemperature", &api->margin);
    load(library, "nvmlDeviceGetFieldValues", &api->fields);
    load(library, "nvmlDeviceGetPowerUsage", &api->power);
    load(library, "nvmlDeviceGetEnforcedPowerLimit", &api->limit);
    if (!load(library, "nvmlDeviceGetCurrentClocksEventReasons", &api->reasons))
        load(library, "nvmlDeviceGetCurrentClocksThrottleReasons", &api->reasons);
    return load(library, "nvmlInit_v2", &api->init) &&
           load(library, "nvmlShutdown", &api->shutdown) &&
           load(library, "nvmlErrorString", &api->error) &&
           load(library, "nvmlDeviceGetHandleByPciBusId_v2", &api->find) &&
           load(library, "nvmlDeviceGetTemperature", &api->temperature);
}

static void read_power(struct sensor_nvml *n, struct governor_input *in)
{
    struct nvml_field field = {.field = NVML_FIELD_POWER_INSTANT};
    unsigned mw = 0;
    if (n->api.fields != NULL && n->api.fields(n->device, 1, &field) == 0 && field.result == 0) {
        in->have_power = true;
        in->power_w = field.value.ui / 1000.0;
    } else if (n->api.power != NULL && n->api.power(n->device, &mw) == 0) {
        in->have_power = true;
        in->power_w = mw / 1000.0;
    }
    if (n->api.limit != NULL && n->api.limit(n->device, &mw) == 0)
        in->limit_w = mw / 1000.0;
}

static unsigned throttle_bits(unsigned long long reasons)
{
    unsigned bits = 0;
    if ((reasons & (NVML_REASON_SW_THERMAL | NVML_REASON_HW_THERMAL)) != 0)
        bits |= THROTTLE_THERMAL;
    if ((reasons & NVML_REASON_SW_POWER_CAP) != 0)
        bits |= THROTTLE_POWER;
    if ((reasons & (NVML_REASON_HW_SLOWDOWN | NVML_REASON_POWER_BRAKE)) != 0)
        bits |= THROTTLE_BRAKE;
    return bits;
}

static enum err nvml_read(struct sensor *s, struct governor_input *ret, struct err_msg *why)
{
    struct sensor_nvml *n = (struct sensor_nvml *)s;
    struct governor_input in = {0};
    unsigned temp_c = 0;
    unsigned long long reasons = 0;
    nvml_result r = n->api.temperature(n->device, NVML_TEMPERATURE_GPU, &temp_c);
    if (r == 0) {
        in.have_temp = true;
        in.temp_c = temp_c;
    }
    /* NVML's struct version: size, and the version's number in the top byte. */
    struct nvml_margin margin = {.version = (unsigned)sizeof margin | 1u << 24};
    if (n->api.margin != NULL && n->api.margin(n->device, &margin) == 0) {
        in.have_margin = true;
        in.margin_c = margin.margin_c;
    }
    read_power(n, &in);
    if (n->api.reasons != NULL && n->api.reasons(n->device, &reasons) == 0)
        in.throttle_bits = throttle_bits(reasons);
    if (!in.have_temp && !in.have_margin && !in.have_power)
        return err_set(why, ERR_IO, "NVML reads neither temperature nor power: %s",
                       n->api.error(r));
    *ret = in;
    return ERR_OK;
}

static void nvml_close(struct sensor *s)
{
    struct sensor_nvml *n = (struct sensor_nvml *)s;
    if (n->inited)
        n->api.shutdown();
    if (n->library != NULL)
        dlclose(n->library);
    free(n);
}

enum err sensor_nvml_open(const char *pci, struct sensor **ret, struct err_msg *why)
{
    enum err e = ERR_NOT_FOUND;
    nvml_result r;
    struct sensor_nvml *n = calloc(1, sizeof *n);
    if (n == NULL)
        return err_set(why, ERR_NOMEM, "sensor: out of memory");
    n->base = (struct sensor){.name = "nvml", .read = nvml_read, .close = nvml_close};
    n->library = dlopen("libnvidia-ml.so.1", RTLD_NOW | RTLD_LOCAL);
    if (n->library == NULL) {
        err_set(why, e, "NVML: libnvidia-ml.so.1 is not on this machine");
        goto fail;
    }
    if (!load_api(n->library, &n->api)) {
        err_set(why, e, "NVML: libnvidia-ml.so.1 lacks functions of version 2");
        goto fail;
    }
    r = n->api.init();
    if (r != 0) {
        err_set(why, e, "NVML does not start: %s", n->api.error(r));
        goto fail;
    }
    n->inited = true;
    if (pci == NULL || pci[0] == '\0') {
        err_set(why, e, "NVML: the Vulkan driver does not tell the device's PCI address");
        goto fail;
    }
    r = n->api.find(pci, &n->device);
    if (r != 0) {
        err_set(why, e, "NVML knows no GPU at PCI address %s: %s", pci, n->api.error(r));
        goto fail;
    }
    *ret = &n->base;
    return ERR_OK;
fail:
    nvml_close(&n->base);
    return e;
}
