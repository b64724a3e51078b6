/* Intel's drivers xe and i915, through hwmon and sysfs (kernel documentation, ABI/testing/
 * sysfs-driver-intel-xe-hwmon, -i915-hwmon; gpu/xe: "Xe GT Throttle"): the package's and the
 * memory's temperature where the kernel tells them, an energy counter, of which sensor_read() makes
 * watts, the sustained power limit, clock and throttle reasons of the first GT.
 *
 * Integrated GPUs have no such hwmon; they share the processor's package ("cpu"). */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/size.h"
#include "worker/sensors/sysfs.h"

struct sensor_intel {
    struct sensor base;
    char hwmon[SYSFS_PATH_BYTES];
    char gt[SYSFS_PATH_BYTES]; /* "": none found */
    bool xe;
    int package, memory; /* temperature channels; 0: none */
    int energy;          /* 1: the card, 2: its package; 0: none */
};

static void read_power(const struct sensor_intel *n, struct sensor_reading *in)
{
    /* 0 stands for a limit that is switched off. */
    static const char *const limits[] = {"max", "rated_max", "cap", "crit"};
    double uj = 0, uw = 0;
    if (n->energy == 0)
        return;
    in->have_energy = sysfs_number(&uj, "%s/energy%d_input", n->hwmon, n->energy);
    in->energy_j = uj / 1e6;
    for (size_t i = 0; i < ARRAY_LEN(limits) && uw <= 0; i++) {
        if (!sysfs_number(&uw, "%s/power%d_%s", n->hwmon, n->energy, limits[i]))
            uw = 0;
    }
    in->limit_w = uw / 1e6;
}

static unsigned throttle_bits(const struct sensor_intel *n)
{
    static const struct {
        const char *name;
        unsigned bit;
    } reasons[] = {
        {"thermal", THROTTLE_THERMAL},     {"prochot", THROTTLE_THERMAL},
        {"ratl", THROTTLE_THERMAL},        {"vr_thermalert", THROTTLE_THERMAL},
        {"soc_thermal", THROTTLE_THERMAL}, {"soc_avg_thermal", THROTTLE_THERMAL},
        {"mem_thermal", THROTTLE_THERMAL}, {"vr_thermal", THROTTLE_THERMAL},
        {"pl1", THROTTLE_POWER},           {"pl2", THROTTLE_POWER},
        {"psys_pl1", THROTTLE_POWER},      {"psys_pl2", THROTTLE_POWER},
        {"pl4", THROTTLE_BRAKE},           {"vr_tdc", THROTTLE_BRAKE},
        {"iccmax", THROTTLE_BRAKE},        {"psys_crit", THROTTLE_BRAKE},
    };
    const char *reason = n->xe ? "throttle/reason" : "throttle_reason";
    const char *any = n->xe ? "throttle/status" : "throttle_reason_status";
    double v = 0;
    unsigned bits = 0;
    if (!sysfs_number(&v, "%s/%s", n->gt, any) || v == 0)
        return 0;
    for (size_t i = 0; i < ARRAY_LEN(reasons); i++) {
        if (sysfs_number(&v, "%s/%s_%s", n->gt, reason, reasons[i].name) && v != 0)
            bits |= reasons[i].bit;
    }
    return bits;
}

static enum err intel_read(struct sensor *s, struct sensor_reading *ret, struct err_msg *why)
{
    struct sensor_intel *n = (struct sensor_intel *)s;
    double margin_c = INFINITY;
    ret->have_temp = sysfs_temp(n->hwmon, n->package, &ret->temp_c, &margin_c);
    sysfs_set_margin(ret, margin_c);
    ret->have_memory_temp = sysfs_temp(n->hwmon, n->memory, &ret->memory_temp_c, NULL);
    read_power(n, ret);
    if (n->gt[0] != '\0') {
        ret->throttle_bits = throttle_bits(n);
        if (!sysfs_number(&ret->clock_mhz, "%s/%s", n->gt, n->xe ? "act_freq" : "rps_act_freq_mhz"))
            ret->clock_mhz = 0;
    }
    if (!ret->have_temp && !ret->have_energy)
        return err_set(why, ERR_IO, "%s: neither temperature nor energy can be read", n->hwmon);
    return ERR_OK;
}

static void intel_close(struct sensor *s)
{
    free(s);
}

/* xe: tile0/gt0/freq0 of the card; i915: gt/gt0 of its DRM node, whatever that one's number. */
static void find_gt(struct sensor_intel *n, const char *card)
{
    char drm[SYSFS_PATH_BYTES], node[1][SYSFS_PATH_BYTES];
    int len = -1;
    if (n->xe) {
        len = snprintf(n->gt, sizeof n->gt, "%s/tile0/gt0/freq0", card);
    } else {
        snprintf(drm, sizeof drm, "%s/drm", card);
        if (sysfs_list(drm, "card", node, 1) == 1)
            len = snprintf(n->gt, sizeof n->gt, "%s/gt/gt0", node[0]);
    }
    if (len < 0 || len >= SYSFS_PATH_BYTES)
        n->gt[0] = '\0';
}

enum err sensor_intel_open(const char *card, const char *hwmon, const char *driver,
                           struct sensor **ret, struct err_msg *why)
{
    double v;
    struct sensor_intel *n = calloc(1, sizeof *n);
    if (n == NULL)
        return err_set(why, ERR_NOMEM, "sensor: out of memory");
    n->base = (struct sensor){.name = driver, .read = intel_read, .close = intel_close};
    n->xe = strcmp(driver, "xe") == 0;
    snprintf(n->hwmon, sizeof n->hwmon, "%s", hwmon);
    find_gt(n, card);
    n->package = sysfs_temp_channel(hwmon, "pkg");
    n->memory = sysfs_temp_channel(hwmon, "vram");
    if (n->package == 0) /* not labelled: where the ABI says they are */
        n->package = n->xe ? 2 : 1;
    if (n->memory == 0 && n->xe)
        n->memory = 3;
    for (int channel = 2; channel >= 1; channel--) {
        if (sysfs_number(&v, "%s/energy%d_input", hwmon, channel))
            n->energy = channel;
    }
    *ret = &n->base;
    return ERR_OK;
}
