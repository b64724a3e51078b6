/* Which --device a run's worker gets. This program does not touch Vulkan: it asks octoflow-worker.
 */
#ifndef OCTO_CLIENT_DEVICES_H
#define OCTO_CLIENT_DEVICES_H

#include "base/buf.h"
#include "base/err.h"

struct devices {
    unsigned hardware, software;                   /* usable ones */
    char first_hardware[128], first_software[128]; /* names */
};

/* From the output of `octoflow-worker --list-devices`: lines "0  NAME  (DRIVER)  ...", with "
 * software" and "  unusable: " behind. Other lines are passed over. */
void devices_parse(const char *text, struct devices *ret);
/* Runs the worker program with these arguments (args[0] its name; ends with NULL) until it ends,
 * and appends what it says on standard output, at most 64 KiB. ERR_IO: it cannot be started. */
enum err devices_ask(const char *worker_path, const char *const *args, struct buf *out,
                     struct err_msg *why) MUST_CHECK;
/* Asks for the list. A worker that cannot list has no devices to count. */
void devices_list(const char *worker_path, struct devices *ret);

#endif
