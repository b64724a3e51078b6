/* Faults for tests of the whole program: the environment variable OCTOFLOW_INJECT makes the GPU
 * fail, or the process die, at a chosen moment. Unset: nothing of this is there.
 *
 *     KIND@WHEN   KIND  lost  the device is lost, and stays so
 *                       hang  submissions do not end any more (as seen by a wait that gives up)
 *                       oom   out of device memory, once
 *                       kill  the process is killed
 *                 WHEN  N        at the Nth submission from the start of the process
 *                       CALL:N   at the Nth call of a Vulkan function, as vkAllocateMemory:3
 *                       seed:S   when a request of that seed is begun: at the next submission
 *
 * lost@seed:4242 is a job that takes its GPU down. One place, one function pointer each: the
 * engine's gpu_set_fault_fn(), and the port's `add`. */
#ifndef OCTO_WORKER_INJECT_H
#define OCTO_WORKER_INJECT_H

#include "worker/port.h"

/* text: of the environment; NULL: nothing is injected. */
enum err inject_begin(const char *text, struct err_msg *why) MUST_CHECK;
/* engine_real_open(), and what seed: needs. */
enum err inject_engine_open(void *user, struct engine_port *ret, struct err_msg *why) MUST_CHECK;

#endif
