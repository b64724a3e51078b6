/* A libnvidia-ml.so.1 that says what a test wants. The test loads the file first; the sensor's own
 * dlopen() then finds a library of that name already there. */
#ifndef OCTO_TESTS_FAKE_NVML_H
#define OCTO_TESTS_FAKE_NVML_H

/* Results of NVML functions, as its reference numbers them. */
enum {
    NVML_OK = 0,
    NVML_NOT_SUPPORTED = 3,
    NVML_NO_PERMISSION = 4,
    NVML_NOT_FOUND = 6,
    NVML_DRIVER_NOT_LOADED = 9,
    NVML_GPU_IS_LOST = 15,
};

struct fake_nvml {
    const char *pci; /* of the only GPU */
    int init, find, temperature, gpu_max, slowdown, margin, fields, power, limit, energy, clock,
        reasons; /* what the functions return */
    unsigned temp_c, gpu_max_c, slowdown_c;
    int margin_c;
    int instant_type, memory_type; /* nvmlValueType_t of the two fields; -1: not supported */
    unsigned instant_mw, memory_temp_c;
    unsigned power_mw, limit_mw, clock_mhz;
    unsigned long long energy_mj, reason_bits;
    int open; /* nvmlInit_v2 less nvmlShutdown */
};

typedef struct fake_nvml *fake_nvml_state_fn(void);

#endif
