/* Opens and closes GGUF files and finds things in them. gguf_parse.c checks the bytes, gguf_get.c
 * reads values. */
#include "model/gguf.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/hash.h"
#include "base/size.h"
#include "model/gguf_impl.h"

static const struct tensor_type_info tensor_types[] = {
#define X(name, number, values, bytes) {TENSOR_##name, #name, values, bytes},
    TENSOR_TYPES(X)
#undef X
};

const struct tensor_type_info *tensor_type_find(uint32_t number)
{
    for (size_t i = 0; i < ARRAY_LEN(tensor_types); i++)
        if ((uint32_t)tensor_types[i].type == number)
            return &tensor_types[i];
    return NULL;
}

/* Maps the whole file; the descriptor is not needed afterwards. */
static enum err map_file(struct gguf *g, const char *path, struct err_msg *why)
{
    enum err e = ERR_OK;
    struct stat st;
    /* O_NONBLOCK: a FIFO must give an error, not a wait for its writer. */
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return err_set(why, ERR_IO, "%s: cannot open: %s", path, strerror(errno));
    if (fstat(fd, &st) != 0) {
        e = err_set(why, ERR_IO, "%s: cannot stat: %s", path, strerror(errno));
        goto out;
    }
    if (!S_ISREG(st.st_mode)) {
        e = err_set(why, ERR_IO, "%s: is %s, expected a GGUF file", path,
                    S_ISDIR(st.st_mode) ? "a directory" : "not a regular file");
        goto out;
    }
    if (st.st_size == 0) {
        e = err_set(why, ERR_FORMAT, "%s: the file is empty", path);
        goto out;
    }
    if ((uint64_t)st.st_size > SIZE_MAX) {
        e = err_set(why, ERR_RANGE, "%s: %lld bytes do not fit this machine's addresses", path,
                    (long long)st.st_size);
        goto out;
    }
    void *map = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (map == MAP_FAILED) {
        e = err_set(why, ERR_IO, "%s: cannot map %lld bytes: %s", path, (long long)st.st_size,
                    strerror(errno));
        goto out;
    }
    g->map = map;
    g->bytes = map;
    g->len = (size_t)st.st_size;
out:
    close(fd);
    return e;
}

static struct gguf *alloc_named(const char *name)
{
    struct gguf *g = calloc(1, sizeof(*g));
    if (g == NULL)
        return NULL;
    g->path = strdup(name);
    if (g->path == NULL) {
        free(g);
        return NULL;
    }
    return g;
}

enum err gguf_open(const char *path, struct gguf **ret, struct err_msg *why)
{
    struct gguf *g = alloc_named(path);
    if (g == NULL)
        return err_set(why, ERR_NOMEM, "%s: out of memory", path);
    enum err e = map_file(g, path, why);
    if (e != ERR_OK)
        goto fail;
    e = gguf_parse(g, why);
    if (e != ERR_OK) {
        e = err_prefix(why, e, "%s", path);
        goto fail;
    }
    *ret = g;
    return ERR_OK;
fail:
    gguf_close(&g);
    return e;
}

enum err gguf_open_memory(const void *bytes, size_t len, const char *name, struct gguf **ret,
                          struct err_msg *why)
{
    struct gguf *g = alloc_named(name);
    if (g == NULL)
        return err_set(why, ERR_NOMEM, "%s: out of memory", name);
    g->bytes = bytes;
    g->len = len;
    enum err e = gguf_parse(g, why);
    if (e != ERR_OK) {
        e = err_prefix(why, e, "%s", name);
        gguf_close(&g);
        return e;
    }
    *ret = g;
    return ERR_OK;
}

void gguf_close(struct gguf **p)
{
    struct gguf *g = *p;
    if (g == NULL)
        return;
    if (g->map != NULL)
        munmap(g->map, g->len);
    arena_free(&g->arena);
    free(g->path);
    free(g);
    *p = NULL;
}

const char *gguf_path(const struct gguf *g)
{
    return g->path;
}

uint32_t gguf_version(const struct gguf *g)
{
    return g->version;
}

uint64_t gguf_file_bytes(const struct gguf *g)
{
    return g->len;
}

const char *gguf_hash(struct gguf *g)
{
    if (g->hash[0] == '\0')
        hash128_hex(g->bytes, g->len, g->hash);
    return g->hash;
}

size_t gguf_tensor_count(const struct gguf *g)
{
    return g->tensor_count;
}

const struct gguf_tensor *gguf_tensor_at(const struct gguf *g, size_t i)
{
    return &g->tensors[i];
}

int gguf_name_compare(struct str a, struct str b)
{
    size_t common = a.len < b.len ? a.len : b.len;
    int c = common == 0 ? 0 : memcmp(a.data, b.data, common);
    return c != 0 ? c : (a.len > b.len) - (a.len < b.len);
}

const struct gguf_tensor *gguf_tensor_find(const struct gguf *g, const char *name)
{
    struct str want = str_of(name);
    size_t low = 0, high = g->tensor_count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        const struct gguf_tensor *t = &g->tensors[g->tensors_by_name[middle]];
        int c = gguf_name_compare(want, t->name);
        if (c == 0)
            return t;
        if (c < 0)
            high = middle;
        else
            low = middle + 1;
    }
    return NULL;
}

const struct gguf_kv *gguf_kv_find(const struct gguf *g, struct str key)
{
    size_t low = 0, high = g->kv_count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        const struct gguf_kv *kv = &g->kvs[g->kvs_by_key[middle]];
        int c = gguf_name_compare(key, kv->key);
        if (c == 0)
            return kv;
        if (c < 0)
            high = middle;
        else
            low = middle + 1;
    }
    return NULL;
}
