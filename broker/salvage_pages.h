/* A damaged SQLite file and its WAL, read page by page without SQLite: every row that can be parsed
 * from any leaf page, whatever is left of the tree above it. Private to salvage.c. Never writes.
 *
 * Follows the file format at https://www.sqlite.org/fileformat2.html. Trusts nothing in the
 * file: all offsets, lengths and chains are bounded. Not thread-safe. */
#ifndef OCTO_BROKER_SALVAGE_PAGES_H
#define OCTO_BROKER_SALVAGE_PAGES_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "base/str.h"

enum { PAGES_MAX_COLUMNS = 20 };

enum pages_type { PAGES_NULL, PAGES_INT, PAGES_REAL, PAGES_TEXT, PAGES_BLOB };

struct pages_value {
    enum pages_type type;
    int64_t integer;
    struct str bytes;
};

struct pages_row {
    bool index; /* of an index or a table WITHOUT ROWID: rowid is 0 */
    int64_t rowid;
    int columns;
    struct pages_value values[PAGES_MAX_COLUMNS];
};

struct pages;

/* ERR_IO: cannot be read; ERR_FORMAT: nothing of SQLite's in it. */
enum err pages_open(const char *path, struct pages **ret, struct err_msg *why) MUST_CHECK;
void pages_close(struct pages **p);
uint64_t pages_count(const struct pages *p);
uint64_t pages_unreadable(const struct pages *p); /* rows that did not parse, so far */

/* Calls on_row for each row; its strings are valid during the call. current: of the pages as the
 * database sees them, with the whole transactions of the WAL. Otherwise of everything else: pages
 * that the WAL hides, and frames of the WAL behind a damaged one. Ends early when on_row returns an
 * error. */
enum err pages_scan(struct pages *p, bool current,
                    enum err (*on_row)(void *user, const struct pages_row *row), void *user,
                    struct err_msg *why) MUST_CHECK;

#endif
