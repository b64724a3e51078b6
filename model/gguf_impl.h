/* What gguf.c (opening), gguf_parse.c (checking) and gguf_get.c (reading values) share. */
#ifndef OCTO_MODEL_GGUF_IMPL_H
#define OCTO_MODEL_GGUF_IMPL_H

#include "base/arena.h"
#include "model/gguf.h"

struct gguf_kv {
    struct str key;
    enum gguf_kind kind;
    enum gguf_kind elem;    /* of an array */
    uint64_t count;         /* elements of an array, else 1 */
    const uint8_t *value;   /* packed bytes; for a string its text */
    size_t value_bytes;     /* of value; 0 for an array of strings */
    const struct str *strs; /* an array of strings */
};

struct gguf {
    char *path;
    void *map; /* NULL when the bytes are the caller's */
    const uint8_t *bytes;
    size_t len;
    uint32_t version;
    uint64_t alignment;
    struct gguf_kv *kvs;
    uint32_t *kvs_by_key; /* indices in the keys' order */
    size_t kv_count;
    struct gguf_tensor *tensors;
    uint32_t *tensors_by_name;
    size_t tensor_count;
    struct arena arena; /* the tables above */
    char hash[33];      /* "" until asked for */
};

/* Fills everything but path and map from bytes[0..len). */
enum err gguf_parse(struct gguf *g, struct err_msg *why) MUST_CHECK;

/* Name of a kind for messages; size of a scalar, 0 for strings and arrays. */
const char *gguf_kind_name(enum gguf_kind kind);
size_t gguf_kind_bytes(enum gguf_kind kind);
/* Order of names: by bytes, then by length. */
int gguf_name_compare(struct str a, struct str b);
const struct gguf_kv *gguf_kv_find(const struct gguf *g, struct str key);

#endif
