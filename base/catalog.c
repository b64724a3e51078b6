#include "base/catalog.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/hash.h"
#include "base/log.h"
#include "base/str.h"
#include "base/utf8.h"

enum { MAX_CACHE_BYTES = 4 << 20 };

static int64_t changed_ns(const struct stat *st)
{
    return (int64_t)st->st_mtim.tv_sec * 1000000000 + st->st_mtim.tv_nsec;
}

void catalog_free(struct catalog *c)
{
    for (size_t i = 0; i < c->count; i++)
        free(c->files[i].path);
    free(c->files);
    *c = (struct catalog){0};
}

const struct catalog_file *catalog_find(const struct catalog *c, const char *hash)
{
    for (size_t i = 0; i < c->count && hash[0] != '\0'; i++) {
        if (strcmp(c->files[i].hash, hash) == 0)
            return &c->files[i];
    }
    return NULL;
}

static size_t count_usable(const struct catalog *c)
{
    size_t count = 0;
    for (size_t i = 0; i < c->count; i++)
        count += c->files[i].hash[0] != '\0';
    return count;
}

bool catalog_same(const struct catalog *a, const struct catalog *b)
{
    if (count_usable(a) != count_usable(b))
        return false;
    for (size_t i = 0; i < a->count; i++) {
        const struct catalog_file *f = &a->files[i];
        const struct catalog_file *other = catalog_find(b, f->hash);
        if (f->hash[0] != '\0' && (other == NULL || strcmp(other->name, f->name) != 0))
            return false;
    }
    return true;
}

bool catalog_unchanged(const struct catalog_file *f)
{
    struct stat st;
    return stat(f->path, &st) == 0 && (uint64_t)st.st_size == f->bytes &&
           changed_ns(&st) == f->changed_ns;
}

/* ---- the list ---- */

static bool is_model(const char *name)
{
    size_t len = strlen(name);
    return name[0] != '.' && len > 5 && strcasecmp(name + len - 5, ".gguf") == 0;
}

/* A file of that path; a second time: ignored. What is no regular file is left out. */
static enum err add(struct catalog *c, const char *path, bool fetched)
{
    struct stat st;
    if (c->count == CATALOG_MOST || stat(path, &st) != 0 || !S_ISREG(st.st_mode))
        return ERR_OK;
    for (size_t i = 0; i < c->count; i++) {
        if (strcmp(c->files[i].path, path) == 0)
            return ERR_OK;
    }
    struct catalog_file *files = realloc(c->files, (c->count + 1) * sizeof *files);
    if (files == NULL)
        return ERR_NOMEM;
    c->files = files;
    struct catalog_file *f = &files[c->count];
    const char *base = strrchr(path, '/');
    base = base == NULL ? path : base + 1;
    *f = (struct catalog_file){.path = strdup(path),
                               .bytes = (uint64_t)st.st_size,
                               .changed_ns = changed_ns(&st),
                               .fetched = fetched};
    if (f->path == NULL)
        return ERR_NOMEM;
    int len = (int)strlen(base);
    snprintf(f->name, sizeof f->name, "%.*s", is_model(base) ? len - 5 : len, base);
    f->name[utf8_valid_prefix(f->name, strlen(f->name))] = '\0';
    c->count++;
    return ERR_OK;
}

static enum err add_folder(struct catalog *c, const char *dir, bool fetched, struct err_msg *why)
{
    DIR *d = opendir(dir);
    if (d == NULL)
        return err_set(why, ERR_IO, "%s: cannot read the folder: %s", dir, strerror(errno));
    enum err e = ERR_OK;
    for (struct dirent *entry; e == ERR_OK && (entry = readdir(d)) != NULL;) {
        char path[PATH_MAX];
        if (is_model(entry->d_name) &&
            (size_t)snprintf(path, sizeof path, "%s/%s", dir, entry->d_name) < sizeof path)
            e = add(c, path, fetched);
    }
    closedir(d);
    return e == ERR_OK ? ERR_OK : err_set(why, e, "%s: out of memory", dir);
}

/* DIR/fetched/HASH/: those that are gone meanwhile are left out. */
static enum err add_fetched(struct catalog *c, const char *dir, struct err_msg *why)
{
    char path[PATH_MAX];
    if ((size_t)snprintf(path, sizeof path, "%s/fetched", dir) >= sizeof path)
        return err_set(why, ERR_RANGE, "%s: path too long", dir);
    DIR *d = opendir(path);
    enum err e = ERR_OK;
    for (struct dirent *entry; d != NULL && e != ERR_NOMEM && (entry = readdir(d)) != NULL;) {
        if (entry->d_name[0] != '.' &&
            (size_t)snprintf(path, sizeof path, "%s/fetched/%s", dir, entry->d_name) < sizeof path)
            e = add_folder(c, path, true, why);
    }
    if (d != NULL)
        closedir(d);
    return e == ERR_NOMEM ? e : ERR_OK;
}

static int by_path(const void *a, const void *b)
{
    return strcmp(((const struct catalog_file *)a)->path, ((const struct catalog_file *)b)->path);
}

/* ---- hashes kept from start to start: lines of "HASH BYTES CHANGED_NS PATH" ---- */

static bool cache_path(const char *dir, char *ret, size_t size)
{
    char folder[PATH_MAX], real[PATH_MAX], key[33];
    if (!file_cache_dir(folder, sizeof folder) || realpath(dir, real) == NULL)
        return false;
    hash128_hex(real, strlen(real), key);
    return (size_t)snprintf(ret, size, "%s/models-%s", folder, key) < size;
}

static void read_cache(const char *dir, struct catalog *ret)
{
    char path[PATH_MAX];
    struct buf text = {0};
    if (!cache_path(dir, path, sizeof path) ||
        file_read(path, MAX_CACHE_BYTES, &text, NULL) != ERR_OK || buf_cstr(&text) == NULL) {
        buf_free(&text);
        return;
    }
    struct catalog_file *files = calloc(CATALOG_MOST, sizeof *files);
    char *rest = NULL;
    for (char *line = strtok_r(text.data, "\n", &rest);
         files != NULL && line != NULL && ret->count < CATALOG_MOST;
         line = strtok_r(NULL, "\n", &rest)) {
        struct catalog_file *f = &files[ret->count];
        int at = 0;
        if (sscanf(line, "%32[0-9a-f] %" SCNu64 " %" SCNd64 " %n", f->hash, &f->bytes,
                   &f->changed_ns, &at) == 3 &&
            strlen(f->hash) == 32 && at > 0 && (f->path = strdup(line + at)) != NULL)
            ret->count++;
    }
    ret->files = files;
    buf_free(&text);
}

/* It only saves time: what cannot be written is read again at the next start. */
static void write_cache(const char *dir, const struct catalog *c)
{
    char path[PATH_MAX];
    struct buf text = {0};
    enum err e = ERR_OK;
    if (!cache_path(dir, path, sizeof path))
        return;
    for (size_t i = 0; i < c->count && e == ERR_OK; i++) {
        const struct catalog_file *f = &c->files[i];
        if (f->hash[0] != '\0' && strchr(f->path, '\n') == NULL)
            e = buf_printf(&text, "%s %" PRIu64 " %" PRId64 " %s\n", f->hash, f->bytes,
                           f->changed_ns, f->path);
    }
    char *slash = strrchr(path, '/');
    *slash = '\0';
    for (char *at = strchr(path + 1, '/'); at != NULL; at = strchr(at + 1, '/')) {
        *at = '\0';
        mkdir(path, 0755);
        *at = '/';
    }
    mkdir(path, 0755);
    *slash = '/';
    struct err_msg why;
    if (e != ERR_OK || file_write_atomic(path, text.data, text.len, &why) != ERR_OK)
        log_debug("hashes of model files not kept dir=%s", dir);
    buf_free(&text);
}

/* ---- scanning ---- */

static const struct catalog_file *find_same(const struct catalog *known,
                                            const struct catalog_file *f)
{
    for (size_t i = 0; i < known->count; i++) {
        const struct catalog_file *k = &known->files[i];
        if (k->bytes == f->bytes && k->changed_ns == f->changed_ns && strcmp(k->path, f->path) == 0)
            return k;
    }
    return NULL;
}

static enum err look_at(struct catalog_file *f, const struct catalog *cached,
                        const struct catalog_options *o, struct err_msg *why)
{
    char magic[4];
    int fd = open(f->path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return err_set(why, ERR_IO, "%s: cannot open: %s", f->path, strerror(errno));
    enum err e = ERR_OK;
    if (pread(fd, magic, 4, 0) != 4 || memcmp(magic, "GGUF", 4) != 0)
        e = err_set(why, ERR_FORMAT, "%s: no GGUF file", f->path);
    if (e == ERR_OK && o->check != NULL)
        e = o->check(o->user, f->path, why);
    const struct catalog_file *same = find_same(cached, f);
    if (e == ERR_OK && same != NULL)
        memcpy(f->hash, same->hash, sizeof f->hash);
    else if (e == ERR_OK)
        e = hash128_file(fd, f->path, o->stop, f->hash, why);
    close(fd);
    return e;
}

enum err catalog_scan(const struct catalog_options *o, const struct catalog *known,
                      struct catalog *ret, struct err_msg *why)
{
    struct catalog c = {0}, cached = {0};
    enum err e = add_folder(&c, o->dir, false, why);
    if (e == ERR_OK)
        e = add_fetched(&c, o->dir, why);
    if (e == ERR_OK && o->extra != NULL)
        e = add(&c, o->extra, false);
    if (e != ERR_OK) {
        catalog_free(&c);
        return e;
    }
    if (c.count > 0)
        qsort(c.files, c.count, sizeof *c.files, by_path);
    bool read = false;
    for (size_t i = 0; i < c.count; i++) {
        struct catalog_file *f = &c.files[i];
        const struct catalog_file *same = find_same(known, f);
        struct err_msg reason;
        if (same != NULL) {
            memcpy(f->hash, same->hash, sizeof f->hash);
            continue;
        }
        if (!read)
            read_cache(o->dir, &cached);
        read = true;
        e = look_at(f, &cached, o, &reason);
        if (e == ERR_OK)
            continue;
        f->hash[0] = '\0';
        if (e == ERR_CANCELLED)
            break;
        log_warn("a model file that cannot be used, left out until it changes error=\"%s\"",
                 reason.text);
    }
    if (read)
        write_cache(o->dir, &c);
    catalog_free(&cached);
    if (e == ERR_CANCELLED) { /* what is known of it is in the cache */
        catalog_free(&c);
        return e;
    }
    *ret = c;
    return ERR_OK;
}
