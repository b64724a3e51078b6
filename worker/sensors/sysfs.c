/* Files of Linux, and which driver's sensor a PCI device has. */
#include "worker/sensors/sysfs.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/size.h"

enum { MAX_CHANNELS = 16, MAX_HWMONS = 8 };

/* Never waits: sysfs has no need of O_NONBLOCK, but what is no sysfs may. */
static bool read_line(const char *path, char ret[SYSFS_NAME_BYTES])
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return false;
    ssize_t n = read(fd, ret, SYSFS_NAME_BYTES);
    close(fd);
    if (n <= 0 || n == SYSFS_NAME_BYTES)
        return false;
    ret[n] = '\0';
    ret[strcspn(ret, "\n")] = '\0';
    return ret[0] != '\0';
}

static bool print_path(char ret[SYSFS_PATH_BYTES], const char *path, va_list args)
{
    int n = vsnprintf(ret, SYSFS_PATH_BYTES, path, args);
    return n > 0 && n < SYSFS_PATH_BYTES;
}

bool sysfs_text(char ret[SYSFS_NAME_BYTES], const char *path, ...)
{
    char whole[SYSFS_PATH_BYTES];
    va_list args;
    va_start(args, path);
    bool fits = print_path(whole, path, args);
    va_end(args);
    return fits && read_line(whole, ret);
}

bool sysfs_number(double *ret, const char *path, ...)
{
    char whole[SYSFS_PATH_BYTES], text[SYSFS_NAME_BYTES], *end;
    va_list args;
    va_start(args, path);
    bool fits = print_path(whole, path, args);
    va_end(args);
    if (!fits || !read_line(whole, text))
        return false;
    errno = 0;
    long long v = strtoll(text, &end, 10);
    if (end == text || *end != '\0' || errno != 0)
        return false;
    *ret = (double)v;
    return true;
}

size_t sysfs_list(const char *dir, const char *prefix, char (*ret)[SYSFS_PATH_BYTES], size_t most)
{
    size_t count = 0, len = strlen(prefix);
    DIR *d = opendir(dir);
    if (d == NULL)
        return 0;
    for (struct dirent *entry; count < most && (entry = readdir(d)) != NULL;) {
        const char *digits = entry->d_name + len;
        if (strncmp(entry->d_name, prefix, len) != 0 || *digits == '\0' ||
            digits[strspn(digits, "0123456789")] != '\0')
            continue;
        int n = snprintf(ret[count], SYSFS_PATH_BYTES, "%s/%s", dir, entry->d_name);
        count += n > 0 && n < SYSFS_PATH_BYTES;
    }
    closedir(d);
    return count;
}

bool sysfs_find_hwmon(const char *dir, const char *name, char ret[SYSFS_PATH_BYTES])
{
    char list[MAX_HWMONS][SYSFS_PATH_BYTES], parent[SYSFS_PATH_BYTES], found[SYSFS_NAME_BYTES];
    snprintf(parent, sizeof parent, "%s/hwmon", dir);
    size_t count = sysfs_list(parent, "hwmon", list, MAX_HWMONS);
    for (size_t i = 0; i < count; i++) {
        if (!sysfs_text(found, "%s/name", list[i]) || strcmp(found, name) != 0)
            continue;
        memcpy(ret, list[i], SYSFS_PATH_BYTES);
        return true;
    }
    return false;
}

int sysfs_temp_channel(const char *hwmon, const char *label)
{
    char text[SYSFS_NAME_BYTES];
    for (int n = 1; n <= MAX_CHANNELS; n++) {
        if (sysfs_text(text, "%s/temp%d_label", hwmon, n) &&
            strncmp(text, label, strlen(label)) == 0)
            return n;
    }
    return 0;
}

bool sysfs_temp(const char *hwmon, int channel, double *ret_c, double *ret_margin_c)
{
    double temp_mc, crit_mc;
    if (channel == 0 || !sysfs_number(&temp_mc, "%s/temp%d_input", hwmon, channel))
        return false;
    *ret_c = temp_mc / 1000;
    if (ret_margin_c != NULL && sysfs_number(&crit_mc, "%s/temp%d_crit", hwmon, channel) &&
        crit_mc > 0)
        *ret_margin_c = fmin(*ret_margin_c, (crit_mc - temp_mc) / 1000);
    return true;
}

void sysfs_set_margin(struct sensor_reading *in, double margin_c)
{
    in->have_margin = isfinite(margin_c);
    in->margin_c = in->have_margin ? margin_c : 0;
}

enum err sensor_sysfs_open(const struct sensor_target *target, struct sensor **ret,
                           struct err_msg *why)
{
    static const struct {
        const char *driver;
        sysfs_open_fn *open;
    } drivers[] = {
        {"amdgpu", sensor_amdgpu_open}, {"xe", sensor_intel_open}, {"i915", sensor_intel_open}};
    const char *root = target->sysfs != NULL ? target->sysfs : "/sys";
    char card[SYSFS_PATH_BYTES], hwmon[SYSFS_PATH_BYTES];
    if (target->pci == NULL || target->pci[0] == '\0')
        return err_set(why, ERR_NOT_FOUND,
                       "the Vulkan driver does not tell the device's PCI address");
    int n = snprintf(card, sizeof card, "%s/bus/pci/devices/%s", root, target->pci);
    if (n < 0 || n >= SYSFS_PATH_BYTES || access(card, F_OK) != 0)
        return err_set(why, ERR_NOT_FOUND, "there is no %s/bus/pci/devices/%s", root, target->pci);
    for (size_t i = 0; i < ARRAY_LEN(drivers); i++) {
        if (sysfs_find_hwmon(card, drivers[i].driver, hwmon))
            return drivers[i].open(card, hwmon, drivers[i].driver, ret, why);
    }
    return err_set(why, ERR_NOT_FOUND, "%s/hwmon has none of amdgpu, xe or i915", card);
}
