/* The list of keys that get in at a broker, from a file of lines
 *
 *     KEY ROLE[,ROLE] NAME   # comment
 *
 * as `octoflow keygen` prints them. Empty lines and lines that begin with '#' say nothing. A name
 * may have several keys (while one is replaced by another), a key stands there once. Read-only once
 * read: any thread. */
#ifndef OCTO_BROKER_ALLOW_H
#define OCTO_BROKER_ALLOW_H

#include "proto/curve.h"
#include "proto/roles.h"

struct allow_entry {
    char key[PROTO_KEY_CHARS + 1]; /* public */
    char name[65];
    unsigned roles, line;
};

struct allow;

/* ERR_USAGE: "FILE:LINE: what is wrong there", or a file that anybody may write; ERR_IO: it cannot
 * be read. */
enum err allow_read(const char *path, struct allow **ret, struct err_msg *why) MUST_CHECK;
void allow_destroy(struct allow **a);
/* NULL: not on the list. Valid as long as the list. */
const struct allow_entry *allow_find(const struct allow *a, const char *key);
size_t allow_count(const struct allow *a);

#endif
