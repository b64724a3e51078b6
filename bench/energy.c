/* NVML's energy counter, loaded at run time: no vendor header or library is needed to build. NVML
 * API reference: docs.nvidia.com/deploy/nvml-api. */
#include "bench/energy.h"

#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

struct energy {
    void *library;
    void *device;
    int (*shutdown)(void); /* NULL: not started */
    int (*energy)(void *device, unsigned long long *ret_mj);
};

/* dlsym gives a data pointer; C has no cast from it to a function pointer, POSIX promises the bytes
 * agree. */
static bool load(void *library, const char *name, void *ret_function)
{
    void *symbol = dlsym(library, name);
    memcpy(ret_function, &symbol, sizeof symbol);
    return symbol != NULL;
}

static bool start(struct energy *s, const char *pci)
{
    int (*init)(void);
    int (*find)(const char *pci, void **ret);
    int (*shutdown)(void);
    s->library = dlopen("libnvidia-ml.so.1", RTLD_NOW | RTLD_LOCAL);
    if (s->library == NULL || !load(s->library, "nvmlInit_v2", &init) ||
        !load(s->library, "nvmlShutdown", &shutdown) ||
        !load(s->library, "nvmlDeviceGetHandleByPciBusId_v2", &find) ||
        !load(s->library, "nvmlDeviceGetTotalEnergyConsumption", &s->energy) || init() != 0)
        return false;
    s->shutdown = shutdown;
    double joules;
    return find(pci, &s->device) == 0 && energy_joules(s, &joules);
}

struct energy *energy_open(const char *pci)
{
    struct energy *s = pci == NULL || pci[0] == '\0' ? NULL : calloc(1, sizeof *s);
    if (s != NULL && !start(s, pci))
        energy_close(&s);
    return s;
}

bool energy_joules(struct energy *s, double *ret)
{
    unsigned long long mj;
    if (s == NULL || s->energy(s->device, &mj) != 0)
        return false;
    *ret = (double)mj / 1000;
    return true;
}

void energy_close(struct energy **s)
{
    if (*s == NULL)
        return;
    if ((*s)->shutdown != NULL)
        (*s)->shutdown();
    if ((*s)->library != NULL)
        dlclose((*s)->library);
    free(*s);
    *s = NULL;
}
