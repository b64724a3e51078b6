/* See fake_nvml.h. With OLD_NVML defined what drivers of about 2018 lack is not there, with
 * BROKEN_NVML a function without which there is no sensor. */
#include "tests/worker/sensors/fake_nvml.h"

#include <string.h>

typedef int result;
struct margin {
    unsigned version;
    int margin_c;
};
struct field {
    unsigned field, scope;
    long long timestamp_us, latency_us;
    int type, result;
    union {
        double d;
        unsigned ui;
        unsigned long long ull;
    } value;
};

struct fake_nvml *fake_nvml_state(void);
result nvmlInit_v2(void);
result nvmlShutdown(void);
const char *nvmlErrorString(result r);
result nvmlDeviceGetHandleByPciBusId_v2(const char *pci, void **ret);
result nvmlDeviceGetTemperature(void *device, int sensor, unsigned *ret);
result nvmlDeviceGetTemperatureThreshold(void *device, int which, unsigned *ret);
result nvmlDeviceGetMarginTemperature(void *device, struct margin *ret);
result nvmlDeviceGetFieldValues(void *device, int count, struct field *fields);
result nvmlDeviceGetPowerUsage(void *device, unsigned *ret);
result nvmlDeviceGetEnforcedPowerLimit(void *device, unsigned *ret);
result nvmlDeviceGetTotalEnergyConsumption(void *device, unsigned long long *ret);
result nvmlDeviceGetClockInfo(void *device, int which, unsigned *ret);
result nvmlDeviceGetCurrentClocksEventReasons(void *device, unsigned long long *ret);
result nvmlDeviceGetCurrentClocksThrottleReasons(void *device, unsigned long long *ret);

static struct fake_nvml state;

struct fake_nvml *fake_nvml_state(void)
{
    return &state;
}

#ifndef BROKEN_NVML
result nvmlInit_v2(void)
{
    state.open += state.init == NVML_OK;
    return state.init;
}
#endif

result nvmlShutdown(void)
{
    state.open--;
    return NVML_OK;
}

const char *nvmlErrorString(result r)
{
    return r == NVML_GPU_IS_LOST         ? "GPU is lost"
           : r == NVML_DRIVER_NOT_LOADED ? "Driver Not Loaded"
           : r == NVML_NOT_SUPPORTED     ? "Not Supported"
           : r == NVML_NOT_FOUND         ? "Not Found"
                                         : "Unknown Error";
}

result nvmlDeviceGetHandleByPciBusId_v2(const char *pci, void **ret)
{
    *ret = &state;
    return strcmp(pci, state.pci) != 0 ? NVML_NOT_FOUND : state.find;
}

result nvmlDeviceGetTemperature(void *device, int sensor, unsigned *ret)
{
    *ret = device == &state && sensor == 0 ? state.temp_c : 999;
    return state.temperature;
}

result nvmlDeviceGetTemperatureThreshold(void *device, int which, unsigned *ret)
{
    (void)device;
    *ret = which == 3 ? state.gpu_max_c : which == 1 ? state.slowdown_c : 999;
    return which == 3 ? state.gpu_max : state.slowdown;
}

#ifndef OLD_NVML
result nvmlDeviceGetMarginTemperature(void *device, struct margin *ret)
{
    (void)device;
    if (ret->version != (sizeof *ret | 1u << 24))
        return 25; /* NVML_ERROR_ARGUMENT_VERSION_MISMATCH */
    ret->margin_c = state.margin_c;
    return state.margin;
}

result nvmlDeviceGetFieldValues(void *device, int count, struct field *fields)
{
    (void)device;
    for (int i = 0; i < count; i++) {
        struct field *f = &fields[i];
        int type = f->field == 186 ? state.instant_type : f->field == 82 ? state.memory_type : -1;
        unsigned value = f->field == 186 ? state.instant_mw : state.memory_temp_c;
        f->result = type < 0 ? NVML_NOT_SUPPORTED : NVML_OK;
        f->type = type;
        memset(&f->value, 0xee, sizeof f->value);
        if (type == 0)
            f->value.d = value;
        else if (type == 2 || type == 3 || type == 4)
            f->value.ull = value;
        else
            f->value.ui = value;
    }
    return state.fields;
}

result nvmlDeviceGetTotalEnergyConsumption(void *device, unsigned long long *ret)
{
    (void)device;
    *ret = state.energy_mj;
    return state.energy;
}

result nvmlDeviceGetCurrentClocksEventReasons(void *device, unsigned long long *ret)
{
    (void)device;
    *ret = state.reason_bits;
    return state.reasons;
}
#endif

result nvmlDeviceGetCurrentClocksThrottleReasons(void *device, unsigned long long *ret)
{
    (void)device;
    *ret = state.reason_bits;
    return state.reasons;
}

result nvmlDeviceGetPowerUsage(void *device, unsigned *ret)
{
    (void)device;
    *ret = state.power_mw;
    return state.power;
}

result nvmlDeviceGetEnforcedPowerLimit(void *device, unsigned *ret)
{
    (void)device;
    *ret = state.limit_mw;
    return state.limit;
}

result nvmlDeviceGetClockInfo(void *device, int which, unsigned *ret)
{
    (void)device;
    *ret = which == 1 ? state.clock_mhz : 0;
    return state.clock;
}
