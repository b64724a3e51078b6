/* What a command found, as one JSON object on the last line. */
#ifndef OCTO_BENCH_REPORT_H
#define OCTO_BENCH_REPORT_H

#include <jansson.h>
#include <stdbool.h>

#include "engine/gpu.h"

/* Device, driver, build, date (UTC) and command of this run. argv: after the command's name. */
json_t *report_create(const struct gpu_device_info *device, const char *command, int argc,
                      char **argv);
/* "name", or "name_batch" (batch > 0), with "_greedy" behind when greedy; nothing that is no finite
 * number. */
void report_number(json_t *report, const char *name, unsigned batch, bool greedy, double value);
void report_print(json_t *report); /* takes it */

#endif
