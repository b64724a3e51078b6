/* Tensors into the kernels' layout, on several threads, while the caller takes what is ready to the
 * device: pieces of them come out in order. No Vulkan. */
#ifndef OCTO_ENGINE_REPACK_H
#define OCTO_ENGINE_REPACK_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "model/gguf.h"

struct repack;

/* Some whole stripes of rows of a tensor. */
struct repack_piece {
    const struct gguf_tensor *tensor;
    uint64_t offset; /* bytes, in the tensor's kernel layout */
    uint64_t bytes;
    const void *data; /* valid until the next call */
    bool last;        /* of this tensor */
};

/* Starts on `tensors` (the array is copied; files stay the caller's), with up to `threads` threads
 * of its own: 0, or when none can be had, repack_next() does the work. */
enum err repack_create(const struct gguf_tensor *const *tensors, size_t count, unsigned threads,
                       struct repack **ret, struct err_msg *why) MUST_CHECK;
/* So many threads as help on this machine. */
unsigned repack_threads(void);
/* The next piece in order; ERR_AGAIN after the last one. An error is that of the first tensor in
 * order that has one; then only repack_destroy() is of use. */
enum err repack_next(struct repack *r, struct repack_piece *ret, struct err_msg *why) MUST_CHECK;
void repack_destroy(struct repack **r); /* stops and waits for the threads */

#endif
