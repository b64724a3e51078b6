/* The header is collected in memory (two buffers: keys and tensor descriptions) because its counts
 * come first; the data then goes straight to the file. */
#include "model/gguf_write.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/size.h"
#include "model/gguf_impl.h"

enum { FILE_VERSION = 3, MAX_DIMS = 4 };

struct gguf_writer {
    struct buf keys, tensors;
    struct buf sizes; /* uint64_t a tensor */
    uint64_t key_count, tensor_count;
    uint64_t data_bytes; /* of all tensors declared, padding included */
    enum err bad;        /* the first failure of a call that returns nothing */
    struct err_msg why;
    int fd;
    char *path, *tmp_path;
    size_t tensor_at;      /* the one that the next bytes belong to */
    uint64_t tensor_given; /* of its bytes */
    uint64_t header_bytes;
};

struct gguf_writer *gguf_write_create(void)
{
    struct gguf_writer *w = calloc(1, sizeof(*w));
    if (w != NULL)
        w->fd = -1;
    return w;
}

void gguf_write_destroy(struct gguf_writer **w)
{
    if (w == NULL || *w == NULL)
        return;
    struct gguf_writer *x = *w;
    if (x->fd >= 0) {
        close(x->fd);
        unlink(x->tmp_path);
    }
    buf_free(&x->keys);
    buf_free(&x->tensors);
    buf_free(&x->sizes);
    free(x->path);
    free(x->tmp_path);
    free(x);
    *w = NULL;
}

static void put(struct gguf_writer *w, struct buf *b, const void *bytes, size_t len)
{
    if (w->bad == ERR_OK && len > 0 && buf_append(b, bytes, len) != ERR_OK)
        w->bad = err_set(&w->why, ERR_NOMEM, "out of memory for a GGUF header");
}

static void put_u32(struct gguf_writer *w, struct buf *b, uint32_t v)
{
    put(w, b, &v, sizeof(v));
}

static void put_u64(struct gguf_writer *w, struct buf *b, uint64_t v)
{
    put(w, b, &v, sizeof(v));
}

static void put_str(struct gguf_writer *w, struct buf *b, struct str s)
{
    put_u64(w, b, s.len);
    put(w, b, s.data, s.len);
}

/* The file's numbers of the kinds are the enum's values. */
static void put_key(struct gguf_writer *w, struct str key, enum gguf_kind kind)
{
    w->key_count++;
    put_str(w, &w->keys, key);
    put_u32(w, &w->keys, (uint32_t)kind);
}

void gguf_write_u32(struct gguf_writer *w, const char *key, uint32_t value)
{
    put_key(w, str_of(key), GGUF_U32);
    put_u32(w, &w->keys, value);
}

void gguf_write_f32(struct gguf_writer *w, const char *key, float value)
{
    put_key(w, str_of(key), GGUF_F32);
    put(w, &w->keys, &value, sizeof(value));
}

void gguf_write_bool(struct gguf_writer *w, const char *key, bool value)
{
    uint8_t byte = value;
    put_key(w, str_of(key), GGUF_BOOL);
    put(w, &w->keys, &byte, 1);
}

void gguf_write_str(struct gguf_writer *w, const char *key, const char *value)
{
    put_key(w, str_of(key), GGUF_STR);
    put_str(w, &w->keys, str_of(value));
}

static void put_strs(struct gguf_writer *w, struct str key, const struct str *values, size_t count)
{
    put_key(w, key, GGUF_ARRAY);
    put_u32(w, &w->keys, GGUF_STR);
    put_u64(w, &w->keys, count);
    for (size_t i = 0; i < count; i++)
        put_str(w, &w->keys, values[i]);
}

void gguf_write_strs(struct gguf_writer *w, const char *key, const struct str *values, size_t count)
{
    put_strs(w, str_of(key), values, count);
}

static void put_array(struct gguf_writer *w, struct str key, enum gguf_kind kind,
                      const void *values, size_t count, size_t bytes)
{
    put_key(w, key, GGUF_ARRAY);
    put_u32(w, &w->keys, (uint32_t)kind);
    put_u64(w, &w->keys, count);
    put(w, &w->keys, values, bytes);
}

void gguf_write_array(struct gguf_writer *w, const char *key, enum gguf_kind kind,
                      const void *values, size_t count)
{
    assert(gguf_kind_bytes(kind) > 0);
    put_array(w, str_of(key), kind, values, count, count * gguf_kind_bytes(kind));
}

void gguf_write_copy(struct gguf_writer *w, const struct gguf *g, size_t i)
{
    const struct gguf_kv *kv = &g->kvs[i];
    if (kv->kind == GGUF_ARRAY && kv->elem == GGUF_STR) {
        put_strs(w, kv->key, kv->strs, (size_t)kv->count);
    } else if (kv->kind == GGUF_ARRAY) {
        put_array(w, kv->key, kv->elem, kv->value, (size_t)kv->count, kv->value_bytes);
    } else {
        put_key(w, kv->key, kv->kind);
        if (kv->kind == GGUF_STR)
            put_u64(w, &w->keys, kv->value_bytes);
        put(w, &w->keys, kv->value, kv->value_bytes);
    }
}

void gguf_write_tensor(struct gguf_writer *w, struct str name, enum tensor_type type,
                       uint32_t dims_count, const uint64_t *dims)
{
    const struct tensor_type_info *info = tensor_type_find((uint32_t)type);
    uint64_t values = 1, bytes, padded, end;
    assert(info != NULL && dims_count >= 1 && dims_count <= MAX_DIMS);
    put_str(w, &w->tensors, name);
    put_u32(w, &w->tensors, dims_count);
    bool fits = dims[0] > 0 && dims[0] % info->block_values == 0;
    for (uint32_t i = 0; i < dims_count; i++) {
        fits = fits && dims[i] > 0 && size_mul(values, dims[i], &values);
        put_u64(w, &w->tensors, dims[i]);
    }
    put_u32(w, &w->tensors, (uint32_t)type);
    put_u64(w, &w->tensors, w->data_bytes);
    if (!fits || !size_mul(values / info->block_values, info->block_bytes, &bytes) ||
        !size_align(bytes, GGUF_WRITE_ALIGNMENT, &padded) ||
        !size_add(w->data_bytes, padded, &end)) {
        if (w->bad == ERR_OK)
            w->bad = err_set(&w->why, ERR_RANGE,
                             "tensor '%.*s': rows of %" PRIu64 " values cannot have type %s",
                             STR_ARG(name), dims[0], info->name);
        return;
    }
    put_u64(w, &w->sizes, bytes);
    w->tensor_count++;
    w->data_bytes = end;
}

static enum err write_all(struct gguf_writer *w, const void *bytes, size_t len, struct err_msg *why)
{
    const char *at = bytes;
    while (len > 0) {
        ssize_t n = write(w->fd, at, len);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return err_set(why, ERR_IO, "%s: cannot write: %s", w->tmp_path, strerror(errno));
        at += n;
        len -= (size_t)n;
    }
    return ERR_OK;
}

/* Zeros up to the next multiple of the alignment after `bytes`. */
static enum err write_padding(struct gguf_writer *w, uint64_t bytes, struct err_msg *why)
{
    static const char zeros[GGUF_WRITE_ALIGNMENT];
    uint64_t over = bytes % GGUF_WRITE_ALIGNMENT;
    return over == 0 ? ERR_OK : write_all(w, zeros, (size_t)(GGUF_WRITE_ALIGNMENT - over), why);
}

static enum err write_header(struct gguf_writer *w, struct err_msg *why)
{
    struct buf start = {0};
    put(w, &start, "GGUF", 4);
    put_u32(w, &start, FILE_VERSION);
    put_u64(w, &start, w->tensor_count);
    put_u64(w, &start, w->key_count);
    enum err e = w->bad;
    if (e != ERR_OK) {
        err_set(why, e, "%s", w->why.text);
        buf_free(&start);
        return e;
    }
    w->header_bytes = start.len + w->keys.len + w->tensors.len;
    e = write_all(w, start.data, start.len, why);
    if (e == ERR_OK)
        e = write_all(w, w->keys.data, w->keys.len, why);
    if (e == ERR_OK)
        e = write_all(w, w->tensors.data, w->tensors.len, why);
    if (e == ERR_OK)
        e = write_padding(w, w->header_bytes, why);
    buf_free(&start);
    return e;
}

enum err gguf_write_begin(struct gguf_writer *w, const char *path, struct err_msg *why)
{
    assert(w->fd < 0);
    if (w->bad != ERR_OK)
        return err_set(why, w->bad, "%s", w->why.text);
    w->path = strdup(path);
    if (w->path == NULL || asprintf(&w->tmp_path, "%s.tmp", path) < 0) {
        w->tmp_path = NULL;
        return err_set(why, ERR_NOMEM, "out of memory");
    }
    w->fd = open(w->tmp_path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (w->fd < 0)
        return err_set(why, ERR_IO, "%s: cannot create: %s", w->tmp_path, strerror(errno));
    return write_header(w, why);
}

static uint64_t size_of(const struct gguf_writer *w, size_t i)
{
    uint64_t bytes;
    memcpy(&bytes, w->sizes.data + i * sizeof(bytes), sizeof(bytes));
    return bytes;
}

enum err gguf_write_data(struct gguf_writer *w, const void *bytes, size_t len, struct err_msg *why)
{
    if (len == 0)
        return ERR_OK;
    if (w->tensor_at >= w->tensor_count || len > size_of(w, w->tensor_at) - w->tensor_given)
        return err_set(why, ERR_INTERNAL, "%s: more data than tensor %zu was declared with",
                       w->path, w->tensor_at);
    enum err e = write_all(w, bytes, len, why);
    if (e != ERR_OK)
        return e;
    w->tensor_given += len;
    if (w->tensor_given == size_of(w, w->tensor_at)) {
        e = write_padding(w, w->tensor_given, why);
        w->tensor_at++;
        w->tensor_given = 0;
    }
    return e;
}

enum err gguf_write_finish(struct gguf_writer *w, struct err_msg *why)
{
    if (w->tensor_at != w->tensor_count)
        return err_set(why, ERR_INTERNAL, "%s: data of %zu of %" PRIu64 " tensors", w->path,
                       w->tensor_at, w->tensor_count);
    int fd = w->fd;
    w->fd = -1;
    bool closed = close(fd) == 0;
    if (closed && rename(w->tmp_path, w->path) == 0)
        return ERR_OK;
    enum err e = err_set(why, ERR_IO, "%s: cannot %s: %s", w->path, closed ? "rename" : "write",
                         strerror(errno));
    unlink(w->tmp_path);
    return e;
}

uint64_t gguf_write_file_bytes(const struct gguf_writer *w)
{
    return div_up(w->header_bytes, GGUF_WRITE_ALIGNMENT) * GGUF_WRITE_ALIGNMENT + w->data_bytes;
}

uint32_t gguf_write_file_type(enum tensor_type type)
{
    static const struct {
        enum tensor_type type;
        uint32_t number;
    } rows[] = {
        {TENSOR_F32, 0},   {TENSOR_F16, 1},     {TENSOR_Q4_0, 2},    {TENSOR_Q4_1, 3},
        {TENSOR_Q8_0, 7},  {TENSOR_Q5_0, 8},    {TENSOR_Q5_1, 9},    {TENSOR_Q2_K, 10},
        {TENSOR_Q3_K, 11}, {TENSOR_Q4_K, 14},   {TENSOR_Q5_K, 16},   {TENSOR_Q6_K, 18},
        {TENSOR_BF16, 32}, {TENSOR_IQ4_NL, 25}, {TENSOR_IQ4_XS, 30}, {TENSOR_MXFP4, 38},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++)
        if (rows[i].type == type)
            return rows[i].number;
    assert(!"a type of the table");
    return 0;
}
