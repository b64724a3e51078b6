/* AMD's driver amdgpu, through hwmon (kernel documentation, gpu/amdgpu/thermal): temperatures at
 * the die's edge, at its hottest point and of the memory, power, its cap, the shader clock.
 *
 * The edge is what other tools call the GPU's temperature. The margin is the smaller one of edge
 * and hottest point to their critical temperatures; memory, which many cards let run close to its
 * own, is told apart. The driver has no file for throttling: gpu_metrics has bits, but their layout
 * differs by generation, and on some cards the one of the hottest point is set at any full load. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "worker/sensors/sysfs.h"

struct sensor_amdgpu {
    struct sensor base;
    char hwmon[SYSFS_PATH_BYTES];
    int edge, junction, memory; /* channels; 0: none */
};

static enum err amdgpu_read(struct sensor *s, struct sensor_reading *ret, struct err_msg *why)
{
    struct sensor_amdgpu *a = (struct sensor_amdgpu *)s;
    double margin_c = INFINITY, junction_c = 0, v;
    bool have_junction = sysfs_temp(a->hwmon, a->junction, &junction_c, &margin_c);
    ret->have_temp = sysfs_temp(a->hwmon, a->edge, &ret->temp_c, &margin_c);
    if (!ret->have_temp && have_junction) {
        ret->have_temp = true;
        ret->temp_c = junction_c;
    }
    sysfs_set_margin(ret, margin_c);
    ret->have_memory_temp = sysfs_temp(a->hwmon, a->memory, &ret->memory_temp_c, NULL);
    if (sysfs_number(&v, "%s/power1_average", a->hwmon) ||
        sysfs_number(&v, "%s/power1_input", a->hwmon)) {
        ret->have_power = true;
        ret->power_w = v / 1e6;
    }
    if (sysfs_number(&v, "%s/power1_cap", a->hwmon))
        ret->limit_w = v / 1e6;
    if (sysfs_number(&v, "%s/freq1_input", a->hwmon))
        ret->clock_mhz = v / 1e6;
    if (!ret->have_temp && !ret->have_power)
        return err_set(why, ERR_IO, "%s: neither temperature nor power can be read", a->hwmon);
    return ERR_OK;
}

static void amdgpu_close(struct sensor *s)
{
    free(s);
}

enum err sensor_amdgpu_open(const char *card, const char *hwmon, const char *driver,
                            struct sensor **ret, struct err_msg *why)
{
    (void)card;
    struct sensor_amdgpu *a = calloc(1, sizeof *a);
    if (a == NULL)
        return err_set(why, ERR_NOMEM, "sensor: out of memory");
    a->base = (struct sensor){.name = driver, .read = amdgpu_read, .close = amdgpu_close};
    snprintf(a->hwmon, sizeof a->hwmon, "%s", hwmon);
    a->edge = sysfs_temp_channel(hwmon, "edge");
    a->junction = sysfs_temp_channel(hwmon, "junction");
    a->memory = sysfs_temp_channel(hwmon, "mem");
    if (a->edge == 0 && a->junction == 0)
        a->edge = 1; /* older kernels label nothing, and have one */
    *ret = &a->base;
    return ERR_OK;
}
