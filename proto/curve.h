/* CURVE keys (ZeroMQ RFC 26): pairs, the files they are in, and what a program that connects is
 * told of them. A key is 40 characters of Z85 (RFC 32).
 *
 * A file of a pair has one line of meaning, "secret KEY" or "public KEY"; lines that begin with '#'
 * are comments. Secrets are only ever in files that nobody but their owner may read, and in no
 * message of ours. */
#ifndef OCTO_PROTO_CURVE_H
#define OCTO_PROTO_CURVE_H

#include <stdbool.h>

#include "base/err.h"
#include "base/str.h"

enum { PROTO_KEY_CHARS = 40 };

/* Texts with their NUL. Zero-initialised: no keys, everything is sent as it is. */
struct proto_curve {
    char public_key[PROTO_KEY_CHARS + 1], secret_key[PROTO_KEY_CHARS + 1]; /* one's own */
    char server_key[PROTO_KEY_CHARS + 1]; /* of who connects: the broker's public key */
};

bool proto_curve_is_key(struct str text);
/* ERR_UNSUPPORTED: a libzmq without CURVE. Both keys begin with a letter or a digit, so that they
 * are neither options nor comments where they are written. */
enum err proto_curve_make(struct proto_curve *ret, struct err_msg *why) MUST_CHECK;
/* PATH with the secret key (mode 0600) and PATH.pub; ERR_CONFLICT: one of them is there already, it
 * is left alone. `name` is a comment in them. */
enum err proto_curve_write(const char *path, const char *name, const struct proto_curve *c,
                           struct err_msg *why) MUST_CHECK;
/* One's own pair from the file with the secret key. ERR_USAGE: others may use it (one of root's
 * the group may read), or it holds something else. server_key is left alone. */
enum err proto_curve_read(const char *path, struct proto_curve *ret,
                          struct err_msg *why) MUST_CHECK;
/* Somebody's public key: the key itself, or a file with it. */
enum err proto_curve_read_public(const char *text, char ret[PROTO_KEY_CHARS + 1],
                                 struct err_msg *why) MUST_CHECK;
/* Forgets the secret: ZeroMQ has its own copy once a socket is open. */
void proto_curve_wipe(struct proto_curve *c);

/* The options of a program that connects: files, not keys (but server_key may be one). */
struct proto_curve_options {
    const char *curve_key, *server_key; /* --curve-key, --server-key; NULL: not given */
    bool insecure;                      /* --insecure */
};

/* The keys for connecting to an endpoint, none for a plain connection. ERR_USAGE: a bad endpoint,
 * one of two options without the other, or a plain connection that leaves this machine although
 * nobody said --insecure. */
enum err proto_curve_connect(const char *endpoint, const struct proto_curve_options *o,
                             struct proto_curve *ret, struct err_msg *why) MUST_CHECK;

#endif
