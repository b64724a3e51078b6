/* What the commands of `octoflow` share: exit codes and the reading of their arguments. */
#ifndef OCTO_CLIENT_CLIENT_H
#define OCTO_CLIENT_CLIENT_H

#include <stddef.h>

#include "base/err.h"
#include "base/options.h"
#include "client/commands.h"

enum exit_code {
    EXIT_ALL_DONE = 0,
    EXIT_SOME_FAILED = 1, /* or are not finished */
    EXIT_USAGE = 2,
    EXIT_FATAL = 3, /* nothing could run, or it had to stop */
    /* and 130, the shell's, for Ctrl-C where nothing else is said */
};

/* "octoflow COMMAND: why" on standard error; returns the exit code that fits. */
int client_fail(const char *command, enum err e, const struct err_msg *why);

/* For what goes on until Ctrl-C: that is its end, and no failure. */
void client_ends_by_interrupt(void);

/* What was printed has to be out. ERR_IO: whoever reads it is gone, or its disk is full. */
enum err client_flush(struct err_msg *why) MUST_CHECK;

/* What a command says of itself, and its options. */
struct client_command {
    const char *name;
    const char *text; /* --help above the options: usage, what it does, an example */
    const struct option *options;
    size_t options_count;
    int min_arguments, max_arguments; /* beside the options; max -1: any number */
    const char *arguments;            /* for messages: "IN.jsonl" */
};

/* Parses argv (what comes after the command's name) into target; the arguments are then
 * argv[0..*ret_count). Returns -1 to go on, else the exit code: help was printed, or what is wrong.
 */
int client_parse(const struct client_command *c, void *target, int argc, char **argv,
                 int *ret_count);

#endif
