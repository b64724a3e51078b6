/* The processor's package, for software devices and GPUs that are part of it: temperature from
 * hwmon (coretemp, k10temp, zenpower, cpu_thermal) or the thermal zone of the package, energy from
 * RAPL (kernel documentation, hwmon/coretemp, hwmon/k10temp, power/powercap). Of several sockets
 * the hottest, and all their joules together; the whole machine's, whoever works on it. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/size.h"
#include "worker/sensors/sysfs.h"

enum { MAX_PACKAGES = 8, MAX_ENTRIES = 64 };

struct temp_source {
    char path[SYSFS_PATH_BYTES];
    int channel; /* of a hwmon; 0: a thermal zone */
};

struct rapl {
    char path[SYSFS_PATH_BYTES];
    double range_uj; /* where the counter begins again; 0: unknown */
    double last_uj, passed_uj;
};

struct sensor_cpu {
    struct sensor base;
    struct temp_source temps[MAX_PACKAGES];
    struct rapl rapls[MAX_PACKAGES];
    size_t temp_count, rapl_count;
};

static void read_temps(const struct sensor_cpu *c, struct sensor_reading *in)
{
    double margin_c = INFINITY;
    for (size_t i = 0; i < c->temp_count; i++) {
        const struct temp_source *t = &c->temps[i];
        double temp_c = 0;
        bool known = t->channel > 0 ? sysfs_temp(t->path, t->channel, &temp_c, &margin_c)
                                    : sysfs_number(&temp_c, "%s/temp", t->path);
        if (!known)
            continue;
        if (t->channel == 0)
            temp_c /= 1000;
        in->temp_c = in->have_temp ? fmax(in->temp_c, temp_c) : temp_c;
        in->have_temp = true;
    }
    sysfs_set_margin(in, margin_c);
}

static bool rapl_uj(struct rapl *r, double *ret_uj)
{
    double uj;
    if (!sysfs_number(&uj, "%s/energy_uj", r->path))
        return false;
    if (uj < r->last_uj)
        r->passed_uj += r->range_uj;
    r->last_uj = uj;
    *ret_uj = r->passed_uj + uj;
    return true;
}

/* A package that cannot be read would make the sum a lie. */
static void read_rapls(struct sensor_cpu *c, struct sensor_reading *in)
{
    double sum_uj = 0, limit_uw = 0, v;
    bool all = c->rapl_count > 0, limited = all;
    for (size_t i = 0; i < c->rapl_count; i++) {
        all &= rapl_uj(&c->rapls[i], &v);
        sum_uj += all ? v : 0;
        limited &= sysfs_number(&v, "%s/constraint_0_power_limit_uw", c->rapls[i].path) && v > 0;
        limit_uw += limited ? v : 0;
    }
    in->have_energy = all;
    in->energy_j = all ? sum_uj / 1e6 : 0;
    in->limit_w = limited ? limit_uw / 1e6 : 0;
}

static enum err cpu_read(struct sensor *s, struct sensor_reading *ret, struct err_msg *why)
{
    struct sensor_cpu *c = (struct sensor_cpu *)s;
    read_temps(c, ret);
    read_rapls(c, ret);
    if (!ret->have_temp && !ret->have_energy)
        return err_set(why, ERR_IO, "neither the package's temperature nor its energy can be read");
    return ERR_OK;
}

static void cpu_close(struct sensor *s)
{
    free(s);
}

static void find_temps(struct sensor_cpu *c, const char *root)
{
    static const struct {
        const char *name, *label, *other;
    } chips[] = {
        {"coretemp", "Package id", "Physical id"},
        {"k10temp", "Tdie", "Tctl"},
        {"zenpower", "Tdie", "Tctl"},
        {"cpu_thermal", "", ""},
    };
    char list[MAX_ENTRIES][SYSFS_PATH_BYTES], dir[SYSFS_PATH_BYTES], name[SYSFS_NAME_BYTES];
    double v;
    snprintf(dir, sizeof dir, "%s/class/hwmon", root);
    size_t count = sysfs_list(dir, "hwmon", list, MAX_ENTRIES);
    for (size_t i = 0; i < count * ARRAY_LEN(chips) && c->temp_count < MAX_PACKAGES; i++) {
        const char *hwmon = list[i / ARRAY_LEN(chips)];
        size_t chip = i % ARRAY_LEN(chips);
        if (!sysfs_text(name, "%s/name", hwmon) || strcmp(name, chips[chip].name) != 0)
            continue;
        struct temp_source t = {.channel = sysfs_temp_channel(hwmon, chips[chip].label)};
        if (t.channel == 0)
            t.channel = sysfs_temp_channel(hwmon, chips[chip].other);
        if (t.channel == 0)
            t.channel = 1;
        memcpy(t.path, hwmon, sizeof t.path);
        if (sysfs_number(&v, "%s/temp%d_input", hwmon, t.channel))
            c->temps[c->temp_count++] = t;
    }
}

static void find_zones(struct sensor_cpu *c, const char *root)
{
    char list[MAX_ENTRIES][SYSFS_PATH_BYTES], dir[SYSFS_PATH_BYTES], type[SYSFS_NAME_BYTES];
    double v;
    snprintf(dir, sizeof dir, "%s/class/thermal", root);
    size_t count = sysfs_list(dir, "thermal_zone", list, MAX_ENTRIES);
    for (size_t i = 0; i < count && c->temp_count < MAX_PACKAGES; i++) {
        if (!sysfs_text(type, "%s/type", list[i]) ||
            (strcmp(type, "x86_pkg_temp") != 0 && strcmp(type, "cpu-thermal") != 0) ||
            !sysfs_number(&v, "%s/temp", list[i]))
            continue;
        memcpy(c->temps[c->temp_count++].path, list[i], SYSFS_PATH_BYTES);
    }
}

/* Packages only: cores and memory are parts of them, "psys" is the whole platform. Returns how many
 * there are, those that may not be read included. */
static size_t find_rapls(struct sensor_cpu *c, const char *root)
{
    char list[MAX_ENTRIES][SYSFS_PATH_BYTES], dir[SYSFS_PATH_BYTES], name[SYSFS_NAME_BYTES];
    double v;
    size_t packages = 0, readable = 0;
    snprintf(dir, sizeof dir, "%s/class/powercap", root);
    size_t count = sysfs_list(dir, "intel-rapl:", list, MAX_ENTRIES);
    for (size_t i = 0; i < count && packages < MAX_PACKAGES; i++) {
        if (!sysfs_text(name, "%s/name", list[i]) || strncmp(name, "package", 7) != 0)
            continue;
        struct rapl *r = &c->rapls[packages++];
        memcpy(r->path, list[i], sizeof r->path);
        if (!sysfs_number(&r->range_uj, "%s/max_energy_range_uj", r->path))
            r->range_uj = 0;
        readable += sysfs_number(&v, "%s/energy_uj", r->path);
    }
    c->rapl_count = readable == packages ? packages : 0;
    return packages;
}

enum err sensor_cpu_open(const struct sensor_target *target, struct sensor **ret,
                         struct err_msg *why)
{
    const char *root = target->sysfs != NULL ? target->sysfs : "/sys";
    struct sensor_cpu *c = calloc(1, sizeof *c);
    if (c == NULL)
        return err_set(why, ERR_NOMEM, "sensor: out of memory");
    c->base = (struct sensor){.name = "cpu", .read = cpu_read, .close = cpu_close};
    find_temps(c, root);
    if (c->temp_count == 0)
        find_zones(c, root);
    size_t packages = find_rapls(c, root);
    if (c->temp_count > 0 || c->rapl_count > 0) {
        *ret = &c->base;
        return ERR_OK;
    }
    cpu_close(&c->base);
    return err_set(why, ERR_NOT_FOUND, "no temperature of the processor's package in %s, %s", root,
                   packages > 0 ? "and its energy_uj in class/powercap is readable for root only"
                                : "nor its energy");
}
