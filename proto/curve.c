/* Key files, and the rule for connecting; see curve.h. */
#include "proto/curve.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zmq.h>

#include "base/file.h"
#include "proto/socket.h"

enum { MAX_FILE_BYTES = 4096, KEY_BYTES = 32 };

static const char z85[] = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
                          ".-:+=^!/*?&<>()[]{}@%$#";

bool proto_curve_is_key(struct str text)
{
    char copy[PROTO_KEY_CHARS + 1] = "";
    uint8_t bytes[KEY_BYTES];
    if (text.len != PROTO_KEY_CHARS)
        return false;
    memcpy(copy, text.data, text.len);
    return strspn(copy, z85) == PROTO_KEY_CHARS && zmq_z85_decode(bytes, copy) != NULL;
}

enum err proto_curve_make(struct proto_curve *ret, struct err_msg *why)
{
    struct proto_curve c = {0};
    do {
        if (zmq_curve_keypair(c.public_key, c.secret_key) != 0)
            return err_set(why, ERR_UNSUPPORTED, "cannot make keys: %s",
                           errno == ENOTSUP ? "this libzmq has no CURVE" : zmq_strerror(errno));
    } while (!isalnum((unsigned char)c.public_key[0]) || !isalnum((unsigned char)c.secret_key[0]));
    *ret = c;
    proto_curve_wipe(&c);
    return ERR_OK;
}

void proto_curve_wipe(struct proto_curve *c)
{
    explicit_bzero(c->secret_key, sizeof c->secret_key);
}

/* ---- writing ---- */

static enum err create(const char *path, mode_t mode, int *ret_fd, struct err_msg *why)
{
    *ret_fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode);
    if (*ret_fd >= 0)
        return ERR_OK;
    if (errno == EEXIST)
        return err_set(why, ERR_CONFLICT,
                       "%s: is there already, and keys are never overwritten: choose another name",
                       path);
    return err_set(why, ERR_IO, "%s: cannot create: %s", path, strerror(errno));
}

/* Closes fd. */
static enum err write_key(int fd, const char *path, const char *name, const char *kind,
                          const char *key, struct err_msg *why)
{
    char text[512];
    int len = snprintf(text, sizeof text, "# OctoFlow: the %s key of %s%s\n%s %s\n", kind, name,
                       kind[0] == 's' ? ". Whoever has it can act in this name." : "", kind, key);
    bool good = len > 0 && (size_t)len < sizeof text && write(fd, text, (size_t)len) == len &&
                fsync(fd) == 0;
    enum err e =
        good ? ERR_OK : err_set(why, ERR_IO, "%s: cannot write: %s", path, strerror(errno));
    explicit_bzero(text, sizeof text);
    close(fd);
    return e;
}

enum err proto_curve_write(const char *path, const char *name, const struct proto_curve *c,
                           struct err_msg *why)
{
    char public_path[PATH_MAX];
    int secret_fd, public_fd;
    if ((size_t)snprintf(public_path, sizeof public_path, "%s.pub", path) >= sizeof public_path)
        return err_set(why, ERR_USAGE, "%s: path too long", path);
    enum err e = create(path, 0600, &secret_fd, why);
    if (e != ERR_OK)
        return e;
    e = create(public_path, 0644, &public_fd, why);
    if (e != ERR_OK) {
        close(secret_fd);
        unlink(path);
        return e;
    }
    e = write_key(secret_fd, path, name, "secret", c->secret_key, why);
    enum err public_e =
        write_key(public_fd, public_path, name, "public", c->public_key, e == ERR_OK ? why : NULL);
    if (e == ERR_OK)
        e = public_e;
    if (e == ERR_OK)
        return file_sync_dir(path, why);
    unlink(path);
    unlink(public_path);
    return e;
}

/* ---- reading ---- */

/* The one line that is no comment has to be "KIND KEY". A wrong one is not repeated: it may hold a
 * secret. */
static enum err parse_key(const char *path, struct str text, const char *kind,
                          char ret[PROTO_KEY_CHARS + 1], struct err_msg *why)
{
    struct str line;
    size_t kind_len = strlen(kind);
    bool found = false;
    for (int number = 1; str_cut(&text, '\n', &line); number++) {
        while (line.len > 0 && isspace((unsigned char)line.data[line.len - 1]))
            line.len--;
        if (line.len == 0 || line.data[0] == '#')
            continue;
        struct str key = {line.data + kind_len + 1,
                          line.len > kind_len ? line.len - kind_len - 1 : 0};
        bool good = line.len > kind_len && memcmp(line.data, kind, kind_len) == 0 &&
                    line.data[kind_len] == ' ' && proto_curve_is_key(key);
        if (!good || found)
            return err_set(why, ERR_USAGE,
                           "%s:%d: expected one line \"%s KEY\", as octoflow "
                           "keygen writes it",
                           path, number, kind);
        memcpy(ret, key.data, key.len);
        ret[key.len] = '\0';
        found = true;
    }
    if (!found)
        return err_set(why, ERR_USAGE,
                       "%s: expected a line \"%s KEY\", as octoflow keygen writes it", path, kind);
    return ERR_OK;
}

/* Owner, mode and content are those of one opened file, whatever has its name by then. */
static enum err read_file(const char *path, char *ret_text, size_t *ret_len, struct stat *ret_stat,
                          struct err_msg *why)
{
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return err_set(why, ERR_USAGE, "%s: cannot open: %s", path, strerror(errno));
    enum err e = ERR_OK;
    ssize_t len = -1;
    if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode))
        e = err_set(why, ERR_USAGE, "%s: is no file; expected one with a key", path);
    else if ((len = read(fd, ret_text, MAX_FILE_BYTES)) < 0)
        e = err_set(why, ERR_USAGE, "%s: cannot read: %s", path, strerror(errno));
    close(fd);
    if (e != ERR_OK)
        return e;
    *ret_len = (size_t)len;
    *ret_stat = st;
    return ERR_OK;
}

/* Its owner alone may use it; and where root hands it to somebody else, the group may read it: so
 * do systemd (LoadCredential) and Kubernetes (fsGroup). */
static bool is_private(const struct stat *st)
{
    mode_t group = st->st_uid == 0 && geteuid() != 0 ? S_IRGRP : 0;
    return (st->st_mode & (S_IRWXG | S_IRWXO) & ~group) == 0;
}

enum err proto_curve_read(const char *path, struct proto_curve *ret, struct err_msg *why)
{
    char text[MAX_FILE_BYTES];
    size_t len = 0;
    struct stat st = {0};
    struct proto_curve c = {0};
    enum err e = read_file(path, text, &len, &st, why);
    if (e == ERR_OK)
        e = parse_key(path, (struct str){text, len}, "secret", c.secret_key, why);
    if (e == ERR_OK && !is_private(&st))
        e = err_set(why, ERR_USAGE,
                    "%s: others than its owner may use it (mode %04o); expected 0600: chmod 600 %s",
                    path, (unsigned)(st.st_mode & 07777), path);
    if (e == ERR_OK && zmq_curve_public(c.public_key, c.secret_key) != 0)
        e = err_set(why, ERR_USAGE, "%s: its secret key is refused: %s", path,
                    errno == ENOTSUP ? "this libzmq has no CURVE" : zmq_strerror(errno));
    if (e == ERR_OK) {
        memcpy(ret->secret_key, c.secret_key, sizeof c.secret_key);
        memcpy(ret->public_key, c.public_key, sizeof c.public_key);
    }
    explicit_bzero(text, sizeof text);
    proto_curve_wipe(&c);
    return e;
}

enum err proto_curve_read_public(const char *text, char ret[PROTO_KEY_CHARS + 1],
                                 struct err_msg *why)
{
    if (proto_curve_is_key(str_of(text)) && access(text, F_OK) != 0) {
        memcpy(ret, text, PROTO_KEY_CHARS + 1);
        return ERR_OK;
    }
    if (access(text, F_OK) != 0)
        return err_set(
            why, ERR_USAGE,
            "\"%s\": neither a file nor a key; expected the broker's FILE.pub, or the 40 "
            "characters of its public key",
            text);
    char content[MAX_FILE_BYTES];
    size_t len = 0;
    struct stat st = {0};
    enum err e = read_file(text, content, &len, &st, why);
    if (e == ERR_OK)
        e = parse_key(text, (struct str){content, len}, "public", ret, why);
    explicit_bzero(content, sizeof content); /* it may have been the wrong one of the two files */
    return e;
}

/* ---- connecting ---- */

enum err proto_curve_connect(const char *endpoint, const struct proto_curve_options *o,
                             struct proto_curve *ret, struct err_msg *why)
{
    struct proto_curve c = {0};
    enum err e = proto_endpoint_check(endpoint, why);
    if (e != ERR_OK)
        return e;
    if ((o->curve_key == NULL) != (o->server_key == NULL))
        return err_set(why, ERR_USAGE,
                       "%s without %s: a connection with keys needs both, one's own "
                       "and the broker's public one",
                       o->curve_key != NULL ? "--curve-key" : "--server-key",
                       o->curve_key != NULL ? "--server-key" : "--curve-key");
    if (o->curve_key == NULL && !o->insecure && !proto_endpoint_is_local(endpoint))
        return err_set(why, ERR_USAGE,
                       "%s is on another machine, and without keys everybody on the way can read "
                       "and change what is sent: give --curve-key FILE and --server-key FILE "
                       "(docs/security.md), or --insecure on a network of your own",
                       endpoint);
    if (o->curve_key != NULL)
        e = proto_curve_read(o->curve_key, &c, why);
    if (e == ERR_OK && o->server_key != NULL)
        e = proto_curve_read_public(o->server_key, c.server_key, why);
    if (e == ERR_OK)
        *ret = c;
    proto_curve_wipe(&c);
    return e;
}
