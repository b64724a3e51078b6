/* The run's folder; see rundir.h. */
#include "client/rundir.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/hash.h"

enum { MAX_SOCKET_PATH = 100 }; /* sun_path has 108 bytes */

static enum err join(char ret[PATH_MAX], const char *a, const char *b, struct err_msg *why)
{
    if ((size_t)snprintf(ret, PATH_MAX, "%s%s", a, b) >= PATH_MAX)
        return err_set(why, ERR_RANGE, "%.200s...: path too long", a);
    return ERR_OK;
}

/* The output's path, absolute: its folder must be there, and it must not be a folder itself. */
static enum err absolute(const char *output, char ret[PATH_MAX], struct err_msg *why)
{
    char copy[PATH_MAX], dir[PATH_MAX];
    struct stat st;
    enum err e = join(copy, output, "", why);
    if (e != ERR_OK)
        return e;
    if (output[0] == '\0' || (stat(output, &st) == 0 && S_ISDIR(st.st_mode)))
        return err_set(why, ERR_IO, "%s: is a folder, expected a file to write the results to",
                       output);
    if (realpath(dirname(copy), dir) == NULL)
        return err_set(why, ERR_IO, "%s: cannot write there: %s", output, strerror(errno));
    const char *slash = strrchr(output, '/');
    const char *name = slash != NULL ? slash + 1 : output;
    if (stat(dir, &st) != 0 || !S_ISDIR(st.st_mode))
        return err_set(why, ERR_IO, "%s: cannot write there: %s is no folder", output, dir);
    if ((size_t)snprintf(ret, PATH_MAX, "%s/%s", strcmp(dir, "/") == 0 ? "" : dir, name) >=
        PATH_MAX)
        return err_set(why, ERR_RANGE, "%.200s...: path too long", output);
    return ERR_OK;
}

static enum err lock(struct rundir *r, struct err_msg *why)
{
    char path[PATH_MAX], text[64] = "";
    enum err e = join(path, r->path, "/lock", why);
    if (e != ERR_OK)
        return e;
    r->lock_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    if (r->lock_fd < 0)
        return err_set(why, ERR_IO, "%s: cannot create: %s", path, strerror(errno));
    if (flock(r->lock_fd, LOCK_EX | LOCK_NB) != 0) {
        ssize_t n = read(r->lock_fd, text, sizeof text - 1);
        text[n > 0 ? n : 0] = '\0';
        close(r->lock_fd);
        r->lock_fd = -1;
        return err_set(why, ERR_CONFLICT,
                       "%s is in use by another run (%s): wait for it, or stop it", r->path,
                       text[0] != '\0' ? text : "process unknown");
    }
    int len = snprintf(text, sizeof text, "process %ld", (long)getpid());
    if (ftruncate(r->lock_fd, 0) != 0 || pwrite(r->lock_fd, text, (size_t)len, 0) != len)
        return err_set(why, ERR_IO, "%s: cannot write: %s", path, strerror(errno));
    return ERR_OK;
}

/* A folder of our own with a short name, the same for every run on this output. */
static enum err short_dir(struct rundir *r, struct err_msg *why)
{
    const char *base = getenv("XDG_RUNTIME_DIR");
    char hash[33];
    struct stat st;
    if (base == NULL || base[0] != '/' || strlen(base) > 60)
        base = "/tmp";
    hash128_hex(r->path, strlen(r->path), hash);
    snprintf(r->socket_dir, sizeof r->socket_dir, "%s/octoflow-%u-%.16s", base, (unsigned)getuid(),
             hash);
    if (mkdir(r->socket_dir, 0700) != 0 && errno != EEXIST)
        return err_set(why, ERR_IO, "%s: cannot create: %s", r->socket_dir, strerror(errno));
    /* in a folder everybody may write to, somebody else could have made it first */
    if (lstat(r->socket_dir, &st) != 0 || !S_ISDIR(st.st_mode) || st.st_uid != getuid() ||
        (st.st_mode & 077) != 0)
        return err_set(why, ERR_IO, "%s: is not a private folder of this user: remove it",
                       r->socket_dir);
    return ERR_OK;
}

static enum err choose_endpoint(struct rundir *r, struct err_msg *why)
{
    enum err e = ERR_OK;
    const char *dir = r->path;
    if (strlen(r->path) + strlen("/broker.sock") > MAX_SOCKET_PATH) {
        e = short_dir(r, why);
        dir = r->socket_dir;
    }
    if (e == ERR_OK && (size_t)snprintf(r->endpoint, sizeof r->endpoint, "ipc://%s/broker.sock",
                                        dir) >= sizeof r->endpoint)
        e = err_set(why, ERR_RANGE, "%.200s...: path too long", dir);
    return e;
}

enum err rundir_open(const char *output, struct rundir *ret, struct err_msg *why)
{
    char path[PATH_MAX];
    struct rundir *r = ret;
    *r = (struct rundir){.lock_fd = -1};
    enum err e = absolute(output, path, why);
    if (e == ERR_OK)
        e = join(r->path, path, ".octoflow", why);
    if (e == ERR_OK)
        e = join(r->partial, path, ".partial", why);
    if (e == ERR_OK)
        e = join(r->ledger, r->path, "/ledger.db", why);
    if (e == ERR_OK && mkdir(r->path, 0755) != 0 && errno != EEXIST)
        e = err_set(why, ERR_IO, "%s: cannot create: %s", r->path, strerror(errno));
    if (e == ERR_OK)
        e = lock(r, why);
    if (e == ERR_OK)
        e = choose_endpoint(r, why);
    if (e != ERR_OK)
        rundir_close(r);
    return e;
}

void rundir_close(struct rundir *r)
{
    if (r->lock_fd < 0)
        return;
    if (r->endpoint[0] != '\0')
        unlink(r->endpoint + strlen("ipc://"));
    if (r->socket_dir[0] != '\0')
        rmdir(r->socket_dir);
    close(r->lock_fd);
    r->lock_fd = -1;
}

bool rundir_has_ledger(const struct rundir *r)
{
    return access(r->ledger, F_OK) == 0;
}

enum err rundir_remove_ledger(const struct rundir *r, struct err_msg *why)
{
    /* the ledger itself last: without it the others would be no run's */
    static const char *const ends[] = {"-wal", "-shm", "-journal", ""};
    char path[PATH_MAX];
    for (size_t i = 0; i < sizeof ends / sizeof ends[0]; i++) {
        enum err e = join(path, r->ledger, ends[i], why);
        if (e != ERR_OK)
            return e;
        if (unlink(path) != 0 && errno != ENOENT)
            return err_set(why, ERR_IO, "%s: cannot remove: %s", path, strerror(errno));
    }
    return ERR_OK;
}

static bool is_program(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 && S_ISREG(st.st_mode) && access(path, X_OK) == 0;
}

/* dir + middle + name, if that is a program. */
static bool try(const char *dir, int dir_len, const char *middle, const char *name,
                char ret[PATH_MAX])
{
    char path[PATH_MAX];
    int n = snprintf(path, sizeof path, "%.*s%s%s", dir_len, dir, middle, name);
    if (n < 0 || (size_t)n >= sizeof path || !is_program(path))
        return false;
    memcpy(ret, path, (size_t)n + 1);
    return true;
}

enum err rundir_find_program(const char *name, char ret[PATH_MAX], struct err_msg *why)
{
    char self[PATH_MAX];
    ssize_t len = readlink("/proc/self/exe", self, sizeof self - 1);
    if (len > 0) {
        self[len] = '\0';
        int dir_len = (int)(strrchr(self, '/') - self);
        const char *tree = strcmp(name, "octoflow-broker") == 0 ? "/../broker/" : "/../worker/";
        if (try(self, dir_len, "/", name, ret) || try(self, dir_len, tree, name, ret))
            return ERR_OK;
    }
    const char *path = getenv("PATH");
    while (path != NULL && *path != '\0') {
        int dir_len = (int)strcspn(path, ":");
        if (dir_len > 0 && try(path, dir_len, "/", name, ret))
            return ERR_OK;
        path += dir_len;
        path += *path == ':';
    }
    return err_set(why, ERR_NOT_FOUND,
                   "%s is neither beside this program nor in PATH: is the installation complete?",
                   name);
}
