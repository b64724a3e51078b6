/* What the commands share; see client.h. */
#include "client/client.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

int client_fail(const char *command, enum err e, const struct err_msg *why)
{
    fprintf(stderr, "octoflow %s: %s\n", command, why->text[0] != '\0' ? why->text : err_name(e));
    return e == ERR_USAGE ? EXIT_USAGE : EXIT_FATAL;
}

static void on_interrupt(int number)
{
    (void)number;
    _exit(EXIT_ALL_DONE); /* what was printed is out: client_flush() comes behind every page */
}

void client_ends_by_interrupt(void)
{
    signal(SIGINT, on_interrupt);
}

enum err client_flush(struct err_msg *why)
{
    errno = 0;
    if (fflush(stdout) == 0 && !ferror(stdout))
        return ERR_OK;
    return err_set(why, ERR_IO, "standard output: cannot write%s%s", errno != 0 ? ": " : "",
                   errno != 0 ? strerror(errno) : "");
}

int client_parse(const struct client_command *c, void *target, int argc, char **argv,
                 int *ret_count)
{
    struct err_msg why = {{0}};
    int count = 0;
    enum err e = options_parse(c->options, c->options_count, target, argc, argv, &count, &why);
    if (e == ERR_CANCELLED) {
        printf("%s", c->text);
        options_print(c->options, c->options_count, stdout);
        return EXIT_ALL_DONE;
    }
    if (e == ERR_OK && count < c->min_arguments)
        e = err_set(&why, ERR_USAGE, "%s is missing (octoflow %s --help explains)", c->arguments,
                    c->name);
    if (e == ERR_OK && c->max_arguments >= 0 && count > c->max_arguments)
        e = err_set(&why, ERR_USAGE, "argument \"%s\" is one too many, expected %s",
                    argv[c->max_arguments], c->max_arguments == 0 ? "options only" : c->arguments);
    if (e != ERR_OK)
        return client_fail(c->name, e, &why);
    *ret_count = count;
    return -1;
}
