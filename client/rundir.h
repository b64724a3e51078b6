/* Where a run keeps what must outlive it: the folder OUT.octoflow beside the output file, with the
 * ledger, the logs, the broker's socket, and a lock that keeps a second run away. Also: where the
 * other programs are. */
#ifndef OCTO_CLIENT_RUNDIR_H
#define OCTO_CLIENT_RUNDIR_H

#include <limits.h>
#include <stdbool.h>

#include "base/err.h"

struct rundir {
    char path[PATH_MAX];     /* absolute */
    char ledger[PATH_MAX];   /* path/ledger.db */
    char endpoint[PATH_MAX]; /* ipc://...; elsewhere when the folder's path is too long for a socket
                              */
    char socket_dir[PATH_MAX]; /* that elsewhere; "" when there is none */
    char partial[PATH_MAX];    /* OUT.partial */
    int lock_fd;               /* -1: not open */
};

/* Creates the folder if it is not there, and locks it. ERR_CONFLICT: another run has it (the
 * message says which process). ERR_IO: OUT cannot be written there. */
enum err rundir_open(const char *output, struct rundir *ret, struct err_msg *why) MUST_CHECK;
/* Removes the socket, releases the lock; ledger and logs stay. */
void rundir_close(struct rundir *r);
/* True when an earlier run's ledger is there. */
bool rundir_has_ledger(const struct rundir *r);
/* Removes it, to begin anew. Nobody may have it open. */
enum err rundir_remove_ledger(const struct rundir *r, struct err_msg *why) MUST_CHECK;

/* The path of "octoflow-broker" or "octoflow-worker": beside this program, in the build tree beside
 * this program's folder, or in PATH. ERR_NOT_FOUND. */
enum err rundir_find_program(const char *name, char ret[PATH_MAX], struct err_msg *why) MUST_CHECK;

#endif
