/* What a model takes of a device's memory, and how many sequences that leaves room for: the
 * engine's own sizing as a pure function, for those who ask before they load anything. */
#ifndef OCTO_ENGINE_MEMORY_H
#define OCTO_ENGINE_MEMORY_H

#include "engine/engine.h"

struct engine_memory {
    uint64_t free_bytes;       /* as given */
    uint64_t weight_bytes;     /* on the device */
    uint64_t activation_bytes; /* everything else of fixed size */
    uint64_t kv_token_bytes;   /* of one token in the KV cache */
    uint64_t kv_tokens, kv_bytes;
    uint64_t total_bytes;
    bool fits; /* total_bytes are free (or the device's memory is as large, if free is unknown) */
    uint32_t max_ctx, max_seqs, chunk_tokens;
    uint32_t sequences; /* of max_ctx tokens at the same time, 1 .. max_seqs */
};

/* free_bytes: of device memory, before anything is on it; 0: unknown. The options mean what they
 * mean to engine_create(). Not fitting is no error. ERR_RANGE: kv_tokens is less than one longest
 * sequence. */
enum err engine_plan_memory(const struct model *m, const struct gpu_device_info *device,
                            uint64_t free_bytes, const struct engine_options *o,
                            struct engine_memory *ret, struct err_msg *why) MUST_CHECK;

#endif
