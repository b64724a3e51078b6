/* A model file on its way from the broker, in chunks, into DIR/fetched/HASH/: NAME.gguf.partial
 * until it is whole, then NAME.gguf. What is there of it after a restart is not fetched again; the
 * whole file's hash is checked before it has its name.
 *
 * Files that were fetched make room for others, the longest unused first (a folder's time of change
 * is the last use); the user's own, beside fetched/, are never touched, nor one that some worker of
 * the machine has loaded.
 *
 * All of it blocks on the disk: not for the loop's thread. One thread at a time. */
#ifndef OCTO_WORKER_FETCH_H
#define OCTO_WORKER_FETCH_H

#include <limits.h>

#include "base/catalog.h"
#include "base/str.h"

struct fetch {
    int fd; /* of the partial file; -1: none */
    uint64_t bytes, have;
    char hash[33];
    char path[PATH_MAX], partial[PATH_MAX]; /* of the file, once it is whole and before */
};

/* quota_bytes: of all fetched files, this one included; 0: no limit. ERR_AGAIN: another process
 * fetches it at the moment, or has just done so. ERR_FULL: no room. On failure nothing is open. */
enum err fetch_open(const char *dir, struct str hash, struct str name, uint64_t bytes,
                    uint64_t quota_bytes, struct fetch *ret, struct err_msg *why) MUST_CHECK;
/* The next chunk, from f->have on. ERR_PROTO: not what was sent (ask again); ERR_FULL, ERR_IO: the
 * disk. */
enum err fetch_write(struct fetch *f, uint64_t offset, struct str data, uint64_t sum,
                     struct err_msg *why) MUST_CHECK;
/* All is there. ERR_FORMAT: it is another file, or one that cannot be used; gone. */
enum err fetch_finish(struct fetch *f, catalog_check_fn *check, void *user, const atomic_bool *stop,
                      struct err_msg *why) MUST_CHECK;
/* What there is of it stays. */
void fetch_close(struct fetch *f);

/* The file (any) is in use from now on, until the descriptor is closed; -1: it cannot be marked. */
int fetch_hold(const char *path);

#endif
