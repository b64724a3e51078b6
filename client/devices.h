/* Which --device a run's worker gets. This program does not touch Vulkan: it asks octoflow-worker.
 */
#ifndef OCTO_CLIENT_DEVICES_H
#define OCTO_CLIENT_DEVICES_H

struct devices {
    unsigned hardware, software;                   /* usable ones */
    char first_hardware[128], first_software[128]; /* names */
};

/* From the output of `octoflow-worker --list-devices`: lines "0  NAME  (DRIVER)  ...", with "
 * software" and "  unusable: " behind. Other lines are passed over. */
void devices_parse(const char *text, struct devices *ret);
/* Runs it. A worker that cannot list has no devices to count. */
void devices_list(const char *worker_path, struct devices *ret);

#endif
