/* Heat and power of one device, from whatever this machine offers. Reading may block for
 * milliseconds, with a driver that hangs for seconds or for ever: never on the loop thread. Reads
 * only; no card's settings are touched. A sensor belongs to one thread at a time.
 *
 * docs/sensors.md: what each reads, from where, and what it lacks. */
#ifndef OCTO_WORKER_SENSORS_SENSOR_H
#define OCTO_WORKER_SENSORS_SENSOR_H

#include "base/err.h"
#include "worker/sensors/degrees.h"
#include "worker/sensors/reading.h"

struct sensor;

#define SENSOR_KEEPS_NS UINT64_C(5000000000) /* an older reading is none */

/* Whose sensor is wanted. Strings are borrowed for the call. */
struct sensor_target {
    const char *pci;   /* as the Vulkan driver tells it: "0000:01:00.0"; "" or NULL: unknown */
    bool software;     /* a Vulkan device that is the processor itself */
    const char *sysfs; /* NULL: "/sys" */
};

/* spec "auto": the best that opens and can be read: for a GPU nvml, nvidia-smi, sysfs, for a
 * software device cpu; one of these names: that or an error; "fake:FILE": a text file (fake.c);
 * "none". ERR_USAGE: another spec. ERR_NOT_FOUND: no such sensor here; the message says why, of
 * "auto" for each that was tried.
 *
 * A processor is cooled and throttled by its own system. With "auto" its sensor is there for
 * accounting, and the caller leaves the governor off; with "cpu" the user wants it governed. */
enum err sensor_open(const char *spec, const struct sensor_target *target, struct sensor **ret,
                     struct err_msg *why) MUST_CHECK;
const char *sensor_name(const struct sensor *s);
/* now_ns (monotonic) becomes the reading's read_ns. What is not plausible is told as unknown, the
 * energy counter only ever rises, and power comes from it where the device tells no power. ERR_IO:
 * nothing could be read now; *ret is untouched. */
enum err sensor_read(struct sensor *s, uint64_t now_ns, struct sensor_reading *ret,
                     struct err_msg *why) MUST_CHECK;
/* A reading that has come is as old as that, however long its call took. But of one that took
 * longer than a reading keeps nobody knows when the device was looked at: it is as old as the call.
 */
void sensor_came(struct sensor_reading *in, uint64_t now_ns);
void sensor_close(struct sensor **s);
/* Instead, while a read of it does not come back: it is left to the process's end. */
void sensor_abandon(struct sensor **s);
/* One was abandoned. Whoever ends the process must not wait for the thread that reads: _exit(). */
bool sensor_any_hung(void);

/* For the implementations only: each is calloc'ed, and begins with this. */
struct sensor {
    const char *name;
    enum err (*read)(struct sensor *s, struct sensor_reading *ret, struct err_msg *why);
    void (*close)(struct sensor *s);
    /* sensor_read()'s own: */
    struct {
        bool known;
        double raw_j, sum_j; /* as last read, at raw_ns; without the steps that cannot be */
        uint64_t raw_ns;
        double power_j;    /* of sum_j, at power_ns: where the next power is counted from */
        uint64_t power_ns; /* 0: not yet */
    } energy;
    struct degrees temp, margin; /* margin: negated */
};
typedef enum err sensor_open_fn(const struct sensor_target *target, struct sensor **ret,
                                struct err_msg *why);
sensor_open_fn sensor_nvml_open, sensor_smi_open, sensor_sysfs_open, sensor_cpu_open;
enum err sensor_fake_open(const char *path, struct sensor **ret, struct err_msg *why) MUST_CHECK;

#endif
