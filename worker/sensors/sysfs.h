/* What the sensors that read files of Linux share: /sys holds one value a file, as text. A file
 * that is not there, cannot be read or holds something else is an unknown value. */
#ifndef OCTO_WORKER_SENSORS_SYSFS_H
#define OCTO_WORKER_SENSORS_SYSFS_H

#include <stdbool.h>
#include <stddef.h>

#include "worker/sensors/sensor.h"

enum { SYSFS_PATH_BYTES = 256, SYSFS_NAME_BYTES = 32 };

/* The file's first line, without its end; false: not there, unreadable, empty or longer than
 * SYSFS_NAME_BYTES. The path is printf's. */
bool sysfs_text(char ret[SYSFS_NAME_BYTES], const char *path, ...) PRINTF_LIKE(2, 3);
/* The same, of a whole number; *ret is untouched when false. */
bool sysfs_number(double *ret, const char *path, ...) PRINTF_LIKE(2, 3);

/* Paths of the entries of a folder that are called prefix and digits; at most `most` of them. */
size_t sysfs_list(const char *dir, const char *prefix, char (*ret)[SYSFS_PATH_BYTES], size_t most);
/* The hwmon folder with this name in dir/hwmon. */
bool sysfs_find_hwmon(const char *dir, const char *name, char ret[SYSFS_PATH_BYTES]);

/* Number of the hwmon folder's temperature whose label begins so; 0: none. */
int sysfs_temp_channel(const char *hwmon, const char *label);
/* The channel's temperature; it lowers *ret_margin_c (may be NULL) to its distance to its critical
 * one, where that is known. Channel 0 is none. False: *ret_c and *ret_margin_c are untouched. */
bool sysfs_temp(const char *hwmon, int channel, double *ret_c, double *ret_margin_c);

/* Puts what sysfs_temp() found into a reading: margin_c is INFINITY if no channel has one. */
void sysfs_set_margin(struct sensor_reading *in, double margin_c);

/* Card drivers behind "sysfs". card: the PCI device's folder. */
typedef enum err sysfs_open_fn(const char *card, const char *hwmon, const char *driver,
                               struct sensor **ret, struct err_msg *why);
sysfs_open_fn sensor_amdgpu_open, sensor_intel_open;

#endif
