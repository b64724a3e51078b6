/* Writes GGUF files (version 3, little-endian), for synthetic models and for tests.
 *
 *     create -> metadata, tensor declarations -> begin (the header goes out)
 *            -> data of each tensor in the order of the declarations -> finish
 *
 * Metadata calls return nothing: the first failure is kept and gguf_write_begin() reports it. The
 * file appears under its name at gguf_write_finish(); before that it is PATH.tmp, which
 * gguf_write_destroy() removes. It is not synced: what is written here can be written again.
 * Thread-safety: one thread at a time. */
#ifndef OCTO_MODEL_GGUF_WRITE_H
#define OCTO_MODEL_GGUF_WRITE_H

#include "model/gguf.h"

struct gguf_writer;

enum { GGUF_WRITE_ALIGNMENT = 32 };

/* NULL when out of memory. */
struct gguf_writer *gguf_write_create(void);
void gguf_write_destroy(struct gguf_writer **w);

void gguf_write_u32(struct gguf_writer *w, const char *key, uint32_t value);
void gguf_write_f32(struct gguf_writer *w, const char *key, float value);
void gguf_write_bool(struct gguf_writer *w, const char *key, bool value);
void gguf_write_str(struct gguf_writer *w, const char *key, const char *value);
void gguf_write_strs(struct gguf_writer *w, const char *key, const struct str *values,
                     size_t count);
/* Numbers, packed as in memory; kind is neither GGUF_STR nor GGUF_ARRAY. */
void gguf_write_array(struct gguf_writer *w, const char *key, enum gguf_kind kind,
                      const void *values, size_t count);
/* Key number i of another file, as it is there. */
void gguf_write_copy(struct gguf_writer *w, const struct gguf *g, size_t i);

/* Declares a tensor; dims[0] is contiguous. Its bytes follow from the type and the dimensions. */
void gguf_write_tensor(struct gguf_writer *w, struct str name, enum tensor_type type,
                       uint32_t dims_count, const uint64_t *dims);

enum err gguf_write_begin(struct gguf_writer *w, const char *path, struct err_msg *why) MUST_CHECK;
/* The next bytes of the data; a piece lies within one tensor. */
enum err gguf_write_data(struct gguf_writer *w, const void *bytes, size_t len,
                         struct err_msg *why) MUST_CHECK;
/* ERR_INTERNAL when not all declared bytes were given. */
enum err gguf_write_finish(struct gguf_writer *w, struct err_msg *why) MUST_CHECK;
/* The number of general.file_type for a file that is mostly of this type. */
uint32_t gguf_write_file_type(enum tensor_type type);
/* After begin: the whole file's size. */
uint64_t gguf_write_file_bytes(const struct gguf_writer *w);

#endif
