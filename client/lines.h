/* The lines of a file, one at a time, in memory that does not grow with the file. A byte order mark
 * at the start, CR before a newline and a last line without newline are fine; blank lines are
 * passed over, but count: numbers are those an editor shows. What is in a line is the caller's. Not
 * thread-safe. */
#ifndef OCTO_CLIENT_LINES_H
#define OCTO_CLIENT_LINES_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "base/str.h"

enum { LINES_MAX_BYTES = 16 << 20 };

struct lines;

struct line {
    uint64_t number; /* from 1 */
    struct str text; /* without newline and CR; valid until the next call. Empty when too_long */
    bool too_long;
    uint64_t hash; /* XXH3-64 of the text; of a line that is too long, of its pieces */
};

/* path "-": standard input. Lines of more than max_bytes are too long. */
enum err lines_open(const char *path, size_t max_bytes, struct lines **ret,
                    struct err_msg *why) MUST_CHECK;
/* fn is called again and again while lines_next() waits for more (a pipe, a terminal); an error of
 * its is lines_next()'s. */
void lines_while_waiting(struct lines *l, enum err (*fn)(void *user, struct err_msg *why),
                         void *user);
/* ERR_NOT_FOUND: no more lines. ERR_FORMAT: the file is none of lines (compressed, UTF-16, one
 * list). */
enum err lines_next(struct lines *l, struct line *ret, struct err_msg *why) MUST_CHECK;
void lines_close(struct lines **l);

/* Before anything is made for an input: it can be opened, and a plain file holds lines
 * (ERR_FORMAT). Of what is read once nothing is read. *ret_file: it is a plain file; *ret_empty:
 * one with none. */
enum err lines_check(const char *path, bool *ret_file, bool *ret_empty,
                     struct err_msg *why) MUST_CHECK;
/* A hash of the whole file, for a batch's name. */
enum err lines_hash_file(const char *path, uint64_t *ret, struct err_msg *why) MUST_CHECK;

#endif
