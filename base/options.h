/* Command-line options as a table: one row is the parser, the range check, the --help line and the
 * row in docs. All programs of OctoFlow use it.
 *
 *     struct my_opts { const char *model; int64_t max_tokens; double top_p; bool quiet; };
 *     static const struct option table[] = {
 *         {"model", 'm', OPTION_STRING, offsetof(struct my_opts, model), .arg = "FILE", .help =
 * "..."},
 *         {"max-tokens", 0, OPTION_INT, offsetof(struct my_opts, max_tokens), .min = 1, .max = 1e6,
 *          .arg = "N", .help = "... (default 2048)"},
 *     };
 *
 * "--name value", "--name=value", "-m value", "-mvalue"; flags take no value ("--no-name" clears
 * one);
 * "--" ends the options; options and positional arguments may mix. A value that does not parse, is
 * out of range or is missing gives one line naming the option, what was found and what was
 * expected; an unknown option names the nearest known one. */
#ifndef OCTO_BASE_OPTIONS_H
#define OCTO_BASE_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "base/err.h"

enum option_type {
    OPTION_FLAG,   /* bool */
    OPTION_INT,    /* int64_t, decimal; min..max; suffixes k, M, G (1024) only with .bytes */
    OPTION_FLOAT,  /* double; finite; min..max */
    OPTION_TIME,   /* int64_t, seconds: 90s, 15m, 12h, 30d, or 0; min..max */
    OPTION_STRING, /* const char *, borrowed from argv */
    OPTION_SECTION /* no option: a heading in --help */
};

struct option {
    const char *name; /* without dashes; for a section its title */
    char letter;      /* 0: none */
    enum option_type type;
    size_t offset;
    double min, max; /* inclusive; both 0: any */
    bool bytes;
    const char *arg;  /* the value's name in --help */
    const char *help; /* one sentence, unit and default in it */
};

/* Fills `target` (already holding the defaults). Positional arguments are moved to the front of
 * argv and counted in *ret_count. "--help" and "-h" give ERR_CANCELLED, nothing printed. */
enum err options_parse(const struct option *table, size_t count, void *target, int argc,
                       char **argv, int *ret_count, struct err_msg *why) MUST_CHECK;
/* The options' part of a help text, wrapped at 100 columns. */
void options_print(const struct option *table, size_t count, FILE *out);

#endif
