/* Heat and power of one GPU, from whatever this machine offers. Reading may block for milliseconds:
 * never on the loop thread. Reads only; no card's settings are touched. A sensor belongs to one
 * thread at a time. */
#ifndef OCTO_WORKER_SENSOR_H
#define OCTO_WORKER_SENSOR_H

#include "base/err.h"
#include "worker/governor.h"

struct sensor;

/* spec "auto": the best there is for the device at this PCI address ("0000:01:00.0"; "" or NULL:
 * unknown); "nvml": that or an error; "fake:FILE": a text file (sensor_fake.c); "none". ERR_USAGE:
 * another spec. ERR_NOT_FOUND: no such sensor here; the message says why. */
enum err sensor_open(const char *spec, const char *pci, struct sensor **ret,
                     struct err_msg *why) MUST_CHECK;
const char *sensor_name(const struct sensor *s);
/* Everything but read_ns. ERR_IO: nothing could be read now. */
enum err sensor_read(struct sensor *s, struct governor_input *ret, struct err_msg *why) MUST_CHECK;
void sensor_close(struct sensor **s);

/* For the implementations only. */
struct sensor {
    const char *name;
    enum err (*read)(struct sensor *s, struct governor_input *ret, struct err_msg *why);
    void (*close)(struct sensor *s);
};
enum err sensor_nvml_open(const char *pci, struct sensor **ret, struct err_msg *why) MUST_CHECK;
enum err sensor_fake_open(const char *path, struct sensor **ret, struct err_msg *why) MUST_CHECK;

#endif
