/* NVIDIA's management library, loaded at run time: what it tells of the GPU at a PCI address. What
 * a card does not answer is left unknown.
 *
 * The few prototypes are declared here (NVML API reference, docs.nvidia.com/deploy/nvml-api), so
 * that no vendor header is needed to build. On Hopper the limits are readable only as a margin
 * (T.Limit), so the margin is taken where it exists, else it is the distance to the threshold that
 * older cards tell; the plain power usage is an average over a second, so the instant field is
 * preferred. */
#include "worker/sensors/sensor.h"

#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

#include "base/size.h"
#include "worker/sensors/nvidia_reasons.h"

typedef void *nvml_device;
typedef int nvml_result; /* 0: success */

enum {
    NVML_TEMPERATURE_GPU = 0,
    NVML_THRESHOLD_SLOWDOWN = 1,
    NVML_THRESHOLD_GPU_MAX = 3,
    NVML_CLOCK_SM = 1,
    NVML_FIELD_MEMORY_TEMP = 82,    /* NVML_FI_DEV_MEMORY_TEMP, degrees C */
    NVML_FIELD_POWER_INSTANT = 186, /* NVML_FI_DEV_POWER_INSTANT, milliwatts */
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
    int type; /* what of value is filled in: nvmlValueType_t */
    nvml_result result;
    union {
        double d;
        unsigned ui;
        unsigned long ul;
        unsigned long long ull;
        long long ll;
        int i;
    } value;
};

struct nvml {
    nvml_result (*init)(void);
    nvml_result (*shutdown)(void);
    const char *(*error)(nvml_result r);
    nvml_result (*find)(const char *pci, nvml_device *ret);
    nvml_result (*temperature)(nvml_device d, int sensor, unsigned *ret_c);
    nvml_result (*threshold)(nvml_device d, int which, unsigned *ret_c);
    nvml_result (*margin)(nvml_device d, struct nvml_margin *ret);
    nvml_result (*fields)(nvml_device d, int count, struct nvml_field *fields);
    nvml_result (*power)(nvml_device d, unsigned *ret_mw);
    nvml_result (*limit)(nvml_device d, unsigned *ret_mw);
    nvml_result (*energy)(nvml_device d, unsigned long long *ret_mj);
    nvml_result (*clock)(nvml_device d, int which, unsigned *ret_mhz);
    nvml_result (*reasons)(nvml_device d, unsigned long long *ret_bits);
};

struct sensor_nvml {
    struct sensor base;
    void *library;
    struct nvml api;
    nvml_device device;
    bool inited;
    unsigned limit_c; /* where older cards slow down; 0: unknown */
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
    load(library, "nvmlDeviceGetTemperatureThreshold", &api->threshold);
    load(library, "nvmlDeviceGetMarginTemperature", &api->margin);
    load(library, "nvmlDeviceGetFieldValues", &api->fields);
    load(library, "nvmlDeviceGetPowerUsage", &api->power);
    load(library, "nvmlDeviceGetEnforcedPowerLimit", &api->limit);
    load(library, "nvmlDeviceGetTotalEnergyConsumption", &api->energy);
    load(library, "nvmlDeviceGetClockInfo", &api->clock);
    if (!load(library, "nvmlDeviceGetCurrentClocksEventReasons", &api->reasons))
        load(library, "nvmlDeviceGetCurrentClocksThrottleReasons", &api->reasons);
    return load(library, "nvmlInit_v2", &api->init) &&
           load(library, "nvmlShutdown", &api->shutdown) &&
           load(library, "nvmlErrorString", &api->error) &&
           load(library, "nvmlDeviceGetHandleByPciBusId_v2", &api->find) &&
           load(library, "nvmlDeviceGetTemperature", &api->temperature);
}

static bool field_value(const struct nvml_field *f, double *ret)
{
    enum { DOUBLE, UNSIGNED, UNSIGNED_LONG, UNSIGNED_LONG_LONG, LONG_LONG, INT };
    if (f->result != 0)
        return false;
    switch (f->type) {
    case DOUBLE:
        *ret = f->value.d;
        return true;
    case UNSIGNED:
        *ret = f->value.ui;
        return true;
    case UNSIGNED_LONG:
        *ret = (double)f->value.ul;
        return true;
    case UNSIGNED_LONG_LONG:
        *ret = (double)f->value.ull;
        return true;
    case LONG_LONG:
        *ret = (double)f->value.ll;
        return true;
    case INT:
        *ret = f->value.i;
        return true;
    default:
        return false;
    }
}

static void read_fields(struct sensor_nvml *n, struct sensor_reading *in)
{
    struct nvml_field fields[] = {{.field = NVML_FIELD_POWER_INSTANT},
                                  {.field = NVML_FIELD_MEMORY_TEMP}};
    double mw = 0;
    if (n->api.fields == NULL || n->api.fields(n->device, ARRAY_LEN(fields), fields) != 0)
        return;
    in->have_power = field_value(&fields[0], &mw);
    in->power_w = mw / 1000;
    in->have_memory_temp = field_value(&fields[1], &in->memory_temp_c);
}

static void read_power(struct sensor_nvml *n, struct sensor_reading *in)
{
    unsigned mw = 0;
    unsigned long long mj = 0;
    if (!in->have_power && n->api.power != NULL && n->api.power(n->device, &mw) == 0) {
        in->have_power = true;
        in->power_w = mw / 1000.0;
    }
    if (n->api.limit != NULL && n->api.limit(n->device, &mw) == 0)
        in->limit_w = mw / 1000.0;
    if (n->api.energy != NULL && n->api.energy(n->device, &mj) == 0) {
        in->have_energy = true;
        in->energy_j = (double)mj / 1000;
    }
}

static nvml_result read_heat(struct sensor_nvml *n, struct sensor_reading *in)
{
    unsigned temp_c = 0;
    /* NVML's struct version: size, and the version's number in the top byte. */
    struct nvml_margin margin = {.version = (unsigned)sizeof margin | 1u << 24};
    nvml_result r = n->api.temperature(n->device, NVML_TEMPERATURE_GPU, &temp_c);
    if (r == 0) {
        in->have_temp = true;
        in->temp_c = temp_c;
    }
    if (n->api.margin != NULL && n->api.margin(n->device, &margin) == 0) {
        in->have_margin = true;
        in->margin_c = margin.margin_c;
    } else if (in->have_temp && n->limit_c != 0) {
        in->have_margin = true;
        in->margin_c = (double)n->limit_c - temp_c;
    }
    return r;
}

static enum err nvml_read(struct sensor *s, struct sensor_reading *ret, struct err_msg *why)
{
    struct sensor_nvml *n = (struct sensor_nvml *)s;
    unsigned long long reasons = 0;
    unsigned mhz = 0;
    nvml_result r = read_heat(n, ret);
    read_fields(n, ret);
    read_power(n, ret);
    if (n->api.reasons != NULL && n->api.reasons(n->device, &reasons) == 0)
        ret->throttle_bits = nvidia_throttle_bits(reasons);
    if (n->api.clock != NULL && n->api.clock(n->device, NVML_CLOCK_SM, &mhz) == 0)
        ret->clock_mhz = mhz;
    if (!ret->have_temp && !ret->have_margin && !ret->have_power)
        return err_set(why, ERR_IO, "NVML tells neither temperature nor power: %s",
                       n->api.error(r));
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

static void find_limit(struct sensor_nvml *n)
{
    if (n->api.threshold == NULL)
        return;
    if (n->api.threshold(n->device, NVML_THRESHOLD_GPU_MAX, &n->limit_c) != 0 &&
        n->api.threshold(n->device, NVML_THRESHOLD_SLOWDOWN, &n->limit_c) != 0)
        n->limit_c = 0;
}

enum err sensor_nvml_open(const struct sensor_target *target, struct sensor **ret,
                          struct err_msg *why)
{
    static const char library[] = "libnvidia-ml.so.1";
    enum err e = ERR_NOT_FOUND;
    nvml_result r;
    if (target->pci == NULL || target->pci[0] == '\0')
        return err_set(why, e, "the Vulkan driver does not tell the device's PCI address");
    struct sensor_nvml *n = calloc(1, sizeof *n);
    if (n == NULL)
        return err_set(why, ERR_NOMEM, "sensor: out of memory");
    n->base = (struct sensor){.name = "nvml", .read = nvml_read, .close = nvml_close};
    n->library = dlopen(library, RTLD_NOW | RTLD_LOCAL);
    if (n->library == NULL) {
        err_set(why, e, "cannot load %s: %s", library, dlerror());
        goto fail;
    }
    if (!load_api(n->library, &n->api)) {
        err_set(why, e, "%s lacks functions of NVML's version 2", library);
        goto fail;
    }
    r = n->api.init();
    if (r != 0) {
        err_set(why, e, "NVML does not start: %s", n->api.error(r));
        goto fail;
    }
    n->inited = true;
    r = n->api.find(target->pci, &n->device);
    if (r != 0) {
        err_set(why, e, "NVML knows no GPU at PCI address %s: %s", target->pci, n->api.error(r));
        goto fail;
    }
    find_limit(n);
    *ret = &n->base;
    return ERR_OK;
fail:
    nvml_close(&n->base);
    return e;
}
