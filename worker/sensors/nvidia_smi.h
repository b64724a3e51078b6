/* What the tests of nvidia_smi.c need beside sensor.h: another program, a shorter patience, and the
 * parser alone. */
#ifndef OCTO_WORKER_SENSORS_NVIDIA_SMI_H
#define OCTO_WORKER_SENSORS_NVIDIA_SMI_H

#include <stddef.h>

#include "worker/sensors/sensor.h"

/* In the order in which they are asked for. */
enum smi_field {
    SMI_PCI,
    SMI_TEMP,
    SMI_MARGIN,
    SMI_MEMORY_TEMP,
    SMI_POWER,
    SMI_LIMIT,
    SMI_CLOCK,
    SMI_REASONS,
    SMI_FIELDS
};

/* program is searched on PATH and borrowed; it is killed after timeout_ms. */
enum err sensor_smi_open_as(const char *program, unsigned timeout_ms,
                            const struct sensor_target *target, struct sensor **ret,
                            struct err_msg *why) MUST_CHECK;

/* The line of `text` (NUL-terminated) that is about the GPU at address pci, with a value for each
 * field that asked[] has a name for. ERR_NOT_FOUND: no such line; ERR_FORMAT: it has not as many
 * values as were asked for. A value that is no number is unknown. */
enum err smi_parse(const char *text, const char *pci, const char *const asked[SMI_FIELDS],
                   struct sensor_reading *ret, struct err_msg *why) MUST_CHECK;

#endif
