#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum err file_read(const char *path, size_t max_bytes, struct buf *out, struct err_msg *why)
{
    int is_stdin = strcmp(path, "-") == 0;
    int fd = is_stdin ? STDIN_FILENO : open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return err_set(why, ERR_IO, "%s: cannot open: %s", path, strerror(errno));
    size_t start = out->len;
    enum err e = ERR_OK;
    for (;;) {
        if (buf_reserve(out, 65536) != ERR_OK) {
            e = err_set(why, ERR_NOMEM, "%s: out of memory after %zu bytes", path,
                        out->len - start);
            break;
        }
        ssize_t n = read(fd, out->data + out->len, out->cap - out->len);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0) {
            e = err_set(why, ERR_IO, "%s: cannot read: %s", path, strerror(errno));
            break;
        }
        if (n == 0)
            break;
        out->len += (size_t)n;
        if (out->len - start > max_bytes) {
            e = err_set(why, ERR_RANGE, "%s: longer than %zu bytes", path, max_bytes);
            break;
        }
    }
    if (!is_stdin)
        close(fd);
    if (e != ERR_OK)
        out->len = start;
    return e;
}

enum err file_sync_dir(const char *path, struct err_msg *why)
{
    char copy[PATH_MAX];
    if (strlen(path) >= sizeof copy)
        return err_set(why, ERR_RANGE, "%s: path too long", path);
    strcpy(copy, path);
    int fd = open(dirname(copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return err_set(why, ERR_IO, "%s: cannot open its directory: %s", path, strerror(errno));
    int r = fsync(fd);
    int saved = errno;
    close(fd);
    /* Some file systems cannot sync a directory and say EINVAL; there is nothing to do about it. */
    if (r != 0 && saved != EINVAL)
        return err_set(why, ERR_IO, "%s: cannot sync its directory: %s", path, strerror(saved));
    return ERR_OK;
}

static enum err write_all(int fd, const char *bytes, size_t len)
{
    for (size_t done = 0; done < len;) {
        ssize_t n = write(fd, bytes + done, len - done);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return ERR_IO;
        done += (size_t)n;
    }
    return ERR_OK;
}

enum err file_write_atomic(const char *path, const void *bytes, size_t len, struct err_msg *why)
{
    char temp[PATH_MAX];
    if ((size_t)snprintf(temp, sizeof temp, "%s.tmp", path) >= sizeof temp)
        return err_set(why, ERR_RANGE, "%s: path too long", path);
    int fd = open(temp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (fd < 0)
        return err_set(why, ERR_IO, "%s: cannot create: %s", temp, strerror(errno));
    enum err e = write_all(fd, bytes, len);
    if (e == ERR_OK && fsync(fd) != 0)
        e = ERR_IO;
    if (e != ERR_OK)
        err_set(why, e, "%s: cannot write: %s", temp, strerror(errno));
    close(fd);
    if (e == ERR_OK && rename(temp, path) != 0)
        e = err_set(why, ERR_IO, "%s: cannot rename to %s: %s", temp, path, strerror(errno));
    if (e != ERR_OK) {
        unlink(temp);
        return e;
    }
    return file_sync_dir(path, why);
}

/* An absolute path in the environment, or NULL: a relative one would mean something else in every
 * directory. */
static const char *absolute(const char *name)
{
    const char *value = getenv(name);
    return value != NULL && value[0] == '/' ? value : NULL;
}

bool file_cache_dir(char *ret_path, size_t size)
{
    const char *own = getenv("OCTOFLOW_CACHE_DIR"), *dir, *below = "";
    int len = 0;
    if (own != NULL)
        dir = own[0] != '\0' ? own : NULL;
    else if ((dir = absolute("CACHE_DIRECTORY")) != NULL)
        len = (int)strcspn(dir, ":"); /* of several the first */
    else if ((dir = absolute("XDG_CACHE_HOME")) != NULL)
        below = "/octoflow";
    else if ((dir = absolute("HOME")) != NULL)
        below = "/.cache/octoflow";
    if (dir == NULL)
        return false;
    int n = snprintf(ret_path, size, "%.*s%s", len > 0 ? len : (int)strlen(dir), dir, below);
    return n > 0 && (size_t)n < size;
}
