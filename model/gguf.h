/* GGUF files (versions 2 and 3, little-endian), memory-mapped and checked.
 *
 * gguf_open() checks every count, length, type, alignment, offset and product before it forms a
 * pointer; what it returns can be used without further checks of the container (what the model
 * needs of it is checked in model.h). The file must not be truncated while it is mapped. Format:
 * the GGUF specification (ggml, docs/gguf.md). Thread-safety: immutable after gguf_open(). */
#ifndef OCTO_MODEL_GGUF_H
#define OCTO_MODEL_GGUF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/str.h"

struct buf;

/* X(name, file's number, values a block, bytes a block) */
#define TENSOR_TYPES(X)                                                                            \
    X(F32, 0, 1, 4)                                                                                \
    X(F16, 1, 1, 2)                                                                                \
    X(Q4_0, 2, 32, 18)                                                                             \
    X(Q4_1, 3, 32, 20)                                                                             \
    X(Q5_0, 6, 32, 22)                                                                             \
    X(Q5_1, 7, 32, 24)                                                                             \
    X(Q8_0, 8, 32, 34)                                                                             \
    X(Q2_K, 10, 256, 84)                                                                           \
    X(Q3_K, 11, 256, 110)                                                                          \
    X(Q4_K, 12, 256, 144)                                                                          \
    X(Q5_K, 13, 256, 176)                                                                          \
    X(Q6_K, 14, 256, 210)                                                                          \
    X(IQ4_NL, 20, 32, 18)                                                                          \
    X(IQ4_XS, 23, 256, 136)                                                                        \
    X(BF16, 30, 1, 2)                                                                              \
    X(MXFP4, 39, 32, 17)

enum tensor_type {
#define X(name, number, values, bytes) TENSOR_##name = number,
    TENSOR_TYPES(X)
#undef X
};

struct tensor_type_info {
    enum tensor_type type;
    const char *name;
    uint32_t block_values;
    uint32_t block_bytes;
};

/* NULL for a number that is not in the table. */
const struct tensor_type_info *tensor_type_find(uint32_t number);

enum gguf_kind {
    GGUF_U8,
    GGUF_I8,
    GGUF_U16,
    GGUF_I16,
    GGUF_U32,
    GGUF_I32,
    GGUF_F32,
    GGUF_BOOL,
    GGUF_STR,
    GGUF_ARRAY,
    GGUF_U64,
    GGUF_I64,
    GGUF_F64
};

struct gguf_tensor {
    struct str name;
    enum tensor_type type;
    uint32_t dims_count; /* 1..4 */
    uint64_t dims[4]; /* dims[0] is contiguous: a matrix of `rows` x `cols` has dims {cols, rows};
                         unused: 1 */
    uint64_t bytes;
    const uint8_t *data; /* into the mapping; valid until gguf_close() */
};

struct gguf;

enum err gguf_open(const char *path, struct gguf **ret, struct err_msg *why) MUST_CHECK;
/* The same over bytes in memory (tests, fuzzing); the caller keeps them until gguf_close(). */
enum err gguf_open_memory(const void *bytes, size_t len, const char *name, struct gguf **ret,
                          struct err_msg *why) MUST_CHECK;
void gguf_close(struct gguf **g);

const char *gguf_path(const struct gguf *g);
uint32_t gguf_version(const struct gguf *g);
uint64_t gguf_file_bytes(const struct gguf *g);
/* XXH3-128 of all bytes, 32 hexadecimal digits; computed on the first call (reads the whole file).
 * Not thread-safe. */
const char *gguf_hash(struct gguf *g);

size_t gguf_tensor_count(const struct gguf *g);
const struct gguf_tensor *gguf_tensor_at(const struct gguf *g, size_t i);
const struct gguf_tensor *gguf_tensor_find(const struct gguf *g, const char *name); /* NULL: none */

/* Metadata by index, for `octoflow inspect`. */
size_t gguf_kv_count(const struct gguf *g);
struct str gguf_kv_key(const struct gguf *g, size_t i);
enum gguf_kind gguf_kv_kind(const struct gguf *g, size_t i);
/* Value as text, at most `max` bytes with "..." after; arrays as [n items: first, second, ...]. */
enum err gguf_kv_print(const struct gguf *g, size_t i, size_t max, struct buf *out) MUST_CHECK;

/* Typed getters. ERR_NOT_FOUND: no such key; ERR_FORMAT: another kind, or (integers) negative or
 * too large. */
enum err gguf_get_u32(const struct gguf *g, const char *key, uint32_t *ret,
                      struct err_msg *why) MUST_CHECK;
enum err gguf_get_f32(const struct gguf *g, const char *key, float *ret,
                      struct err_msg *why) MUST_CHECK;
enum err gguf_get_bool(const struct gguf *g, const char *key, bool *ret,
                       struct err_msg *why) MUST_CHECK;
/* Borrowed until gguf_close(). */
enum err gguf_get_str(const struct gguf *g, const char *key, struct str *ret,
                      struct err_msg *why) MUST_CHECK;
/* Arrays. Strings come as a table that gguf owns; numbers are copied by the caller from `ret_data`,
 * packed little-endian elements of `kind` (not aligned). */
enum err gguf_get_strs(const struct gguf *g, const char *key, const struct str **ret,
                       size_t *ret_count, struct err_msg *why) MUST_CHECK;
enum err gguf_get_array(const struct gguf *g, const char *key, enum gguf_kind kind,
                        const void **ret_data, size_t *ret_count, struct err_msg *why) MUST_CHECK;

#endif
