/* The broker and the worker of a run as child processes: started, started again when they die,
 * stopped.
 *
 *     STOPPED --start--> RUNNING --another exit, a signal--> WAITING --0.1, 0.2, 0.4 .. 10 s-->
 * RUNNING |  \--exit 2 or 3--> fatal: starting it again would not help
 *                           +--stop: SIGCONT, SIGTERM, SIGKILL after the grace--> STOPPED
 *
 * A child has a session of its own, so that Ctrl-C on the terminal is this program's to handle; it
 * is told to stop by itself when this program is gone. Its output goes to a log file. One thread.
 */
#ifndef OCTO_CLIENT_CHILDREN_H
#define OCTO_CLIENT_CHILDREN_H

#include <stdbool.h>

#include "base/err.h"

enum { CHILDREN_MAX = 2, CHILD_MAX_ARGS = 64 };

struct child_spec {
    const char *name; /* "octoflow-worker" */
    const char *path;
    const char *log;                  /* file, appended to */
    const char *args[CHILD_MAX_ARGS]; /* args[0] is the program; ends with NULL. All borrowed. */
};

struct children;

/* on_notice (may be NULL) is called before a log line is written. */
enum err children_create(void (*on_notice)(void *user), void *user, struct children **ret,
                         struct err_msg *why) MUST_CHECK;
/* The child's number is the count of those started before. The spec is copied, its strings are not.
 */
enum err children_start(struct children *c, const struct child_spec *spec,
                        struct err_msg *why) MUST_CHECK;
/* Looks after the children for about ms milliseconds (0: just a look). An error: one of them cannot
 * run; the message has the last words of its log. */
enum err children_pump(struct children *c, unsigned ms, struct err_msg *why) MUST_CHECK;
/* Work gets done: deaths so far are no reason to give up, or to wait long. */
void children_do_well(struct children *c);
/* Stops them one after the other, the last started first; a process that is stopped goes on for
 * that. */
void children_stop(struct children *c, unsigned grace_ms);
/* Process ids for a signal handler, 0: not running. */
int children_pid(const struct children *c, unsigned number);
/* Stops without grace what still runs. */
void children_destroy(struct children **c);

#endif
