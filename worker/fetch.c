#include "worker/fetch.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/file.h"
#include "base/hash.h"
#include "base/log.h"
#include "base/size.h"

/* ---- room ---- */

/* DIR/fetched/HASH/ and what is in it. */
struct fetched {
    char path[PATH_MAX];
    uint64_t bytes;
    int64_t used_ns;
};

static void folder_of(const char *path, char *ret)
{
    const char *slash = strrchr(path, '/');
    snprintf(ret, PATH_MAX, "%.*s", (int)(slash - path), path);
}

/* Calls `each` with every file of the folder; false ends it. Returns whether all were true. */
static bool for_each_file(const char *folder, bool (*each)(const char *path, void *user),
                          void *user)
{
    DIR *d = opendir(folder);
    bool all = true;
    for (struct dirent *entry; d != NULL && all && (entry = readdir(d)) != NULL;) {
        char path[PATH_MAX];
        if (entry->d_name[0] != '.' &&
            (size_t)snprintf(path, sizeof path, "%s/%s", folder, entry->d_name) < sizeof path)
            all = each(path, user);
    }
    if (d != NULL)
        closedir(d);
    return all;
}

static bool add_bytes(const char *path, void *user)
{
    struct stat st;
    if (stat(path, &st) == 0 && S_ISREG(st.st_mode))
        *(uint64_t *)user += (uint64_t)st.st_size;
    return true;
}

/* Nobody has it open as loaded or as coming. */
static bool is_free(const char *path, void *user)
{
    (void)user;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    bool is = fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) == 0;
    if (fd >= 0)
        close(fd);
    return is;
}

static bool remove_file(const char *path, void *user)
{
    (void)user;
    return unlink(path) == 0;
}

struct search {
    const char *except; /* folder */
    uint64_t bytes;     /* of all, the exception's too */
    struct fetched oldest;
    bool found;
};

static bool look_at(const char *folder, void *user)
{
    struct search *s = user;
    struct stat st;
    uint64_t bytes = 0;
    if (stat(folder, &st) != 0 || !S_ISDIR(st.st_mode))
        return true;
    if (strcmp(folder, s->except) == 0)
        return true;
    for_each_file(folder, add_bytes, &bytes);
    int64_t used_ns = (int64_t)st.st_mtim.tv_sec * 1000000000 + st.st_mtim.tv_nsec;
    s->bytes += bytes;
    if (bytes == 0 || (s->found && used_ns >= s->oldest.used_ns) ||
        !for_each_file(folder, is_free, NULL))
        return true;
    s->found = true;
    s->oldest.bytes = bytes;
    s->oldest.used_ns = used_ns;
    snprintf(s->oldest.path, sizeof s->oldest.path, "%s", folder);
    return true;
}

/* Removes fetched files until all of them, with `bytes` for the one in `folder`, are within the
 * quota. */
static enum err make_room(const char *dir, const char *folder, uint64_t bytes, uint64_t quota_bytes,
                          struct err_msg *why)
{
    char fetched[PATH_MAX];
    if (quota_bytes == 0)
        return ERR_OK;
    if (bytes > quota_bytes)
        return err_set(why, ERR_FULL, "it has %llu bytes, --models-bytes is %llu",
                       (unsigned long long)bytes, (unsigned long long)quota_bytes);
    snprintf(fetched, sizeof fetched, "%s/fetched", dir);
    for (;;) {
        struct search s = {.except = folder};
        for_each_file(fetched, look_at, &s);
        if (s.bytes + bytes <= quota_bytes)
            return ERR_OK;
        if (!s.found || !for_each_file(s.oldest.path, remove_file, NULL))
            return err_set(why, ERR_FULL,
                           "it has %llu bytes, and of --models-bytes %llu other fetched models "
                           "that are in use have %llu",
                           (unsigned long long)bytes, (unsigned long long)quota_bytes,
                           (unsigned long long)s.bytes);
        rmdir(s.oldest.path);
        log_info("a fetched model was removed to make room folder=%s bytes=%llu", s.oldest.path,
                 (unsigned long long)s.oldest.bytes);
    }
}

static enum err check_disk(const char *folder, uint64_t need, struct err_msg *why)
{
    struct statvfs fs;
    if (statvfs(folder, &fs) != 0)
        return err_set(why, ERR_IO, "%s: %s", folder, strerror(errno));
    uint64_t room = (uint64_t)fs.f_bavail * fs.f_frsize;
    return need <= room
               ? ERR_OK
               : err_set(why, ERR_FULL, "%s: %llu bytes are missing, the disk has room for %llu",
                         folder, (unsigned long long)need, (unsigned long long)room);
}

/* ---- the file ---- */

/* They become parts of a path. */
static bool is_good(struct str hash, struct str name)
{
    bool good = hash.len == 32 && name.len > 0 && name.len <= CATALOG_NAME_BYTES &&
                name.data[0] != '.' && memchr(name.data, '/', name.len) == NULL &&
                memchr(name.data, '\0', name.len) == NULL;
    for (size_t i = 0; i < hash.len && good; i++)
        good = strchr("0123456789abcdef", hash.data[i]) != NULL && hash.data[i] != '\0';
    return good;
}

static enum err open_partial(struct fetch *f, struct err_msg *why)
{
    struct stat st;
    f->fd = open(f->partial, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    if (f->fd < 0 || fstat(f->fd, &st) != 0)
        return err_set(why, ERR_IO, "%s: cannot create: %s", f->partial, strerror(errno));
    if (flock(f->fd, LOCK_EX | LOCK_NB) != 0 || access(f->path, F_OK) == 0)
        return err_set(why, ERR_AGAIN, "%s: another worker fetches it", f->path);
    f->have = (uint64_t)st.st_size;
    if (f->have > f->bytes) { /* of something else */
        f->have = 0;
        if (ftruncate(f->fd, 0) != 0)
            return err_set(why, ERR_IO, "%s: cannot truncate: %s", f->partial, strerror(errno));
    }
    return ERR_OK;
}

enum err fetch_open(const char *dir, struct str hash, struct str name, uint64_t bytes,
                    uint64_t quota_bytes, struct fetch *ret, struct err_msg *why)
{
    struct fetch f = {.fd = -1, .bytes = bytes};
    char folder[PATH_MAX];
    if (!is_good(hash, name))
        return err_set(why, ERR_PROTO, "\"%.*s\" is no name of a file, or %.*s no hash",
                       STR_ARG(name), STR_ARG(hash));
    snprintf(f.hash, sizeof f.hash, "%.*s", STR_ARG(hash));
    snprintf(f.path, sizeof f.path, "%s/fetched/%s/%.*s.gguf", dir, f.hash, STR_ARG(name));
    if ((size_t)snprintf(f.partial, sizeof f.partial, "%s/fetched/%s/%.*s.gguf.partial", dir,
                         f.hash, STR_ARG(name)) >= sizeof f.partial)
        return err_set(why, ERR_RANGE, "%s: path too long", dir);
    folder_of(f.path, folder);
    char *slash = strrchr(folder, '/');
    *slash = '\0';
    mkdir(folder, 0755);
    *slash = '/';
    if (mkdir(folder, 0755) != 0 && errno != EEXIST)
        return err_set(why, ERR_IO, "%s: cannot create: %s", folder, strerror(errno));
    enum err e = make_room(dir, folder, bytes, quota_bytes, why);
    if (e == ERR_OK)
        e = open_partial(&f, why);
    if (e == ERR_OK)
        e = check_disk(folder, bytes - f.have, why);
    if (e == ERR_OK)
        *ret = f;
    else
        fetch_close(&f);
    return e;
}

enum err fetch_write(struct fetch *f, uint64_t offset, struct str data, uint64_t sum,
                     struct err_msg *why)
{
    if (offset != f->have || data.len > f->bytes - f->have || hash64(data.data, data.len, 0) != sum)
        return err_set(why, ERR_PROTO, "the chunk at %llu is damaged", (unsigned long long)offset);
    for (size_t done = 0; done < data.len;) {
        ssize_t n = pwrite(f->fd, data.data + done, data.len - done, (off_t)(offset + done));
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return err_set(why, errno == ENOSPC || errno == EDQUOT ? ERR_FULL : ERR_IO,
                           "%s: cannot write: %s", f->partial, strerror(errno));
        done += (size_t)n;
    }
    f->have += data.len;
    return ERR_OK;
}

enum err fetch_finish(struct fetch *f, catalog_check_fn *check, void *user, const atomic_bool *stop,
                      struct err_msg *why)
{
    char hash[33];
    enum err e = hash128_file(f->fd, f->partial, stop, hash, why);
    if (e != ERR_OK)
        return e;
    if (strcmp(hash, f->hash) != 0)
        e = err_set(why, ERR_FORMAT, "%s: its hash is %s", f->path, hash);
    else if (check != NULL && check(user, f->partial, why) != ERR_OK)
        e = ERR_FORMAT;
    if (e != ERR_OK) {
        unlink(f->partial);
        return e;
    }
    if (fsync(f->fd) != 0 || rename(f->partial, f->path) != 0)
        return err_set(why, ERR_IO, "%s: cannot store: %s", f->path, strerror(errno));
    return file_sync_dir(f->path, why);
}

void fetch_close(struct fetch *f)
{
    if (f->fd >= 0)
        close(f->fd);
    f->fd = -1;
}

int fetch_hold(const char *path)
{
    char folder[PATH_MAX];
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -1;
    if (strstr(path, "/fetched/") != NULL) {
        folder_of(path, folder);
        utimensat(AT_FDCWD, folder, NULL, 0); /* its last use */
    }
    if (flock(fd, LOCK_SH | LOCK_NB) != 0)
        log_debug("a model could not be marked as in use path=%s", path);
    return fd;
}
