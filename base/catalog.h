/* The model files of a folder, with the hash of each one's content:
 *
 *     DIR/NAME.gguf                    the user's
 *     DIR/fetched/HASH/NAME.gguf       fetched from a broker: may be removed to make room
 *
 * Reading 50 GB to know their hash takes minutes, so hashes are kept from start to start, in
 * file_cache_dir(): a file of the same path, size and time of change is taken for the same. What
 * cannot be read or is no GGUF file is said in one line on the log, once, and left out.
 *
 * No state of its own; a scan may run on any thread. */
#ifndef OCTO_BASE_CATALOG_H
#define OCTO_BASE_CATALOG_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

enum { CATALOG_NAME_BYTES = 128, CATALOG_MOST = 1024 };

/* One file that was looked at. */
struct catalog_file {
    char *path; /* owned by the catalog */
    char name[CATALOG_NAME_BYTES + 1];
    char hash[33]; /* XXH3-128, hexadecimal; "": not a file that can be used */
    uint64_t bytes;
    int64_t changed_ns; /* time of last change, as the file system has it */
    bool fetched;
};

struct catalog {
    struct catalog_file *files; /* [count], by path */
    size_t count;
};

/* Whether a file can be used; `why` says why not, with its path. */
typedef enum err catalog_check_fn(void *user, const char *path, struct err_msg *why);

struct catalog_options {
    const char *dir;
    const char *extra;       /* a file outside of it that is listed, too; NULL: none */
    catalog_check_fn *check; /* asked for each file that is new; NULL: all can be used */
    void *user;
    const atomic_bool *stop; /* NULL: never */
};

/* `known` is an earlier list: its files are not read again when they have not changed. Blocks while
 * it reads files; ERR_CANCELLED soon after *stop is true. ERR_IO: the folder cannot be read. */
enum err catalog_scan(const struct catalog_options *o, const struct catalog *known,
                      struct catalog *ret, struct err_msg *why) MUST_CHECK;
void catalog_free(struct catalog *c);
/* The usable file of that hash; NULL: none. */
const struct catalog_file *catalog_find(const struct catalog *c, const char *hash);
/* Whether both list the same usable files. */
bool catalog_same(const struct catalog *a, const struct catalog *b);
/* The file at its path is still the one that was looked at. */
bool catalog_unchanged(const struct catalog_file *f);

#endif
