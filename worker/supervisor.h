/* Watches over several worker processes: starts one for each device, starts again what dies.
 *
 *     STARTED --exit 0, 2 or 3--> OVER    drained, or what a new start cannot heal
 *       ^  |
 *       |  +--another exit, a signal--> WAITING 1, 2, 4 .. 30 s --+
 *       +---------------------------------------------------------+
 *
 * Behind a lost GPU (exit 4) exit 3 is another exit: the card, or its driver, may be away for a
 * moment.
 *
 * With a service manager's watchdog each child has one of the same time: what is silent for longer
 * (after READY=1; before it for half an hour) is killed, and starts again as what died.
 *
 * A child that ran for a minute starts its waits from 1 s again. SIGTERM and SIGINT go on to the
 * children as SIGTERM; then nothing is started any more. It touches no GPU. */
#ifndef OCTO_WORKER_SUPERVISOR_H
#define OCTO_WORKER_SUPERVISOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { SUPERVISOR_MAX_CHILDREN = 32 };

struct supervisor_child {
    char device[16];  /* value of --device */
    char name[128];   /* value of --name */
    char metrics[64]; /* value of --metrics; "": none */
};

struct supervisor_options {
    const char *path;  /* the program to start; NULL: this one */
    char *const *argv; /* what the children get; --device, --name, --die-with-parent come after */
    int argc;
    const struct supervisor_child *children;
    size_t count; /* 1 .. SUPERVISOR_MAX_CHILDREN */
    bool die_with_parent;
    uint64_t wait_first_ms; /* 0: 1 s */
};

/* Blocks until every child is over. Returns 0 if each of them ended with 0, else the greatest exit
 * code. */
int supervisor_run(const struct supervisor_options *o);

#endif
