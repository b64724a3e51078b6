/* Whole files, atomically. Paths appear in every message. */
#ifndef OCTO_BASE_FILE_H
#define OCTO_BASE_FILE_H

#include <stdbool.h>

#include "base/buf.h"

/* Appends the file's content; ERR_RANGE when it is longer than max_bytes. path "-" is standard
 * input. */
enum err file_read(const char *path, size_t max_bytes, struct buf *out,
                   struct err_msg *why) MUST_CHECK;
/* Writes path.tmp, fsyncs, renames over path, fsyncs the directory: after ERR_OK it is durable, and
 * at any moment path holds the old content or the new. */
enum err file_write_atomic(const char *path, const void *bytes, size_t len,
                           struct err_msg *why) MUST_CHECK;
/* fsync of the directory that holds path. */
enum err file_sync_dir(const char *path, struct err_msg *why) MUST_CHECK;

/* Where files may be kept that save time and nothing else: OCTOFLOW_CACHE_DIR, CACHE_DIRECTORY
 * (what systemd gives a service), XDG_CACHE_HOME/octoflow or HOME/.cache/octoflow, the first that
 * is set. False: none of them, or OCTOFLOW_CACHE_DIR is empty. */
bool file_cache_dir(char *ret_path, size_t size);

#endif
