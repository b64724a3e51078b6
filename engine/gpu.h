/* A Vulkan device as this engine needs it: choosing one, memory with addresses, compute pipelines,
 * recording and submitting. Nothing here knows transformers. Vulkan 1.2 with bufferDeviceAddress,
 * shaderInt64 and subgroup arithmetic; 8/16-bit storage and shaderFloat16 are switched on where
 * they exist.
 *
 * Every Vulkan result is checked: the message names call and result; ERR_DEVICE for a lost or
 * failing device, ERR_NOMEM for memory. After ERR_DEVICE only gpu_destroy() is of use.
 * Thread-safety: a gpu belongs to one thread. */
#ifndef OCTO_ENGINE_GPU_H
#define OCTO_ENGINE_GPU_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

enum { GPU_MAX_DEVICES = 32, GPU_PUSH_MAX_BYTES = 128, GPU_FRAMES = 2 };

struct gpu_device_info {
    uint32_t index; /* in gpu_list()'s order */
    char name[256];
    char driver[256];  /* driverName driverInfo */
    char pci[16];      /* "0000:01:00.0"; "" when the driver does not tell */
    bool software;     /* a CPU device (llvmpipe, swiftshader) */
    bool usable;       /* has every feature needed */
    char missing[256]; /* what it lacks, when not usable */
    uint32_t api_version;
    uint32_t subgroup_size;
    bool matrix_f16;          /* matrix units: 16 x 8 x 16, f16 in, f32 sums, by a subgroup of 32 */
    bool shares_memory;       /* has GPU_SHARED */
    uint32_t max_invocations; /* of a workgroup, in one dimension; at least 256 if usable */
    uint32_t shared_bytes;    /* of a workgroup */
    uint64_t memory_bytes;    /* largest device-local heap */
    uint64_t max_buffer_bytes; /* one buffer; 0: the driver does not tell */
};

/* All devices of this machine. ERR_NOT_FOUND: there is no driver. */
enum err gpu_list(struct gpu_device_info ret[GPU_MAX_DEVICES], size_t *ret_count,
                  struct err_msg *why) MUST_CHECK;
/* `--device` to an index of the list: NULL or "auto": the first usable hardware device, or the
 * software one if it is alone; a number: that index; other text: the only device whose name
 * contains it (case ignored). ERR_NOT_FOUND (with the list), ERR_USAGE: several have that name,
 * ERR_UNSUPPORTED: it lacks what is needed. */
enum err gpu_choose(const struct gpu_device_info *list, size_t count, const char *want,
                    size_t *ret_index, struct err_msg *why) MUST_CHECK;

struct gpu;
struct gpu_options {
    uint32_t device_index; /* gpu_list()'s order */
    bool validate; /* the validation layer; its errors are counted (gpu_validation_errors) and
                      printed to stderr */
    const char *cache_dir; /* compiled pipelines are kept there from start to start, a file for each
                              device and driver; made when needed; NULL: not kept */
    uint32_t timeout_s;    /* how long a submission may take before the device is taken to hang;
                              0: 30, a software device 3600 */
};
enum err gpu_create(const struct gpu_options *o, struct gpu **ret, struct err_msg *why) MUST_CHECK;
/* Waits for the device; also works on a lost one. What hangs is not freed. */
void gpu_destroy(struct gpu **g);
/* One of this process hung: it should end with _exit(), a driver's exit handlers might wait for it.
 * For after gpu_destroy(). */
bool gpu_any_hung(void);
const struct gpu_device_info *gpu_info(const struct gpu *g);
unsigned gpu_validation_errors(const struct gpu *g);
/* Free bytes of device memory now (VK_EXT_memory_budget), 0 if the driver does not tell. */
uint64_t gpu_memory_free(struct gpu *g);
double gpu_timestamp_ns(const struct gpu *g); /* length of one tick; 0: no timestamps */

/* ---- memory ---- */

enum gpu_memory {
    GPU_DEVICE,  /* device-local; host-mapped too (mapped != NULL) where the device has no other */
    GPU_SHARED,  /* device-local and mapped, coherent: for the host to write little by
                    little; reading it is slow. ERR_DEVICE where there is none */
    GPU_UPLOAD,  /* host writes, device reads; mapped, coherent */
    GPU_READBACK /* device writes, host reads; mapped, coherent (cached where there is) */
};
struct gpu_buffer {
    uint64_t address; /* 256-byte aligned */
    uint64_t bytes;
    void *mapped; /* NULL: not visible to the host */
    void *impl;
};
/* `what` names the buffer in errors and for debugging. Zeroed content is not promised. */
enum err gpu_buffer_create(struct gpu *g, enum gpu_memory kind, uint64_t bytes, const char *what,
                           struct gpu_buffer *ret, struct err_msg *why) MUST_CHECK;
/* Accepts a zeroed one. Waits for the device if anything is in flight; frees nothing of one that
 * hangs. */
void gpu_buffer_destroy(struct gpu *g, struct gpu_buffer *b);
/* Copies host bytes into a device buffer, staged if it is not mapped, after waiting for all that is
 * in flight. Blocks. For loading, not for steps. */
enum err gpu_upload(struct gpu *g, const struct gpu_buffer *dst, uint64_t offset, const void *bytes,
                    uint64_t len, struct err_msg *why) MUST_CHECK;
enum err gpu_download(struct gpu *g, const struct gpu_buffer *src, uint64_t offset, void *ret_bytes,
                      uint64_t len, struct err_msg *why) MUST_CHECK;

/* ---- pipelines ---- */

struct gpu_pipeline; /* owned by the gpu, destroyed with it */
struct gpu_pipeline_options {
    const char *name;
    const uint32_t *spirv;
    size_t spirv_bytes;
    uint32_t push_bytes;
    const uint32_t *spec; /* specialization constants 0.. , all uint */
    uint32_t spec_count;
    uint32_t chain_at; /* where PUSH_CHAIN begins in the push constants; 0: no part of chains */
};
enum err gpu_pipeline_create(struct gpu *g, const struct gpu_pipeline_options *o,
                             struct gpu_pipeline **ret, struct err_msg *why) MUST_CHECK;

/* Pipelines to be created at once, on all cores. A zeroed one is empty. */
struct gpu_pipelines {
    struct gpu_wanted *wanted;
    size_t count, capacity;
};
/* name and spirv are kept, spec is copied. *ret is set by gpu_pipelines_create(); a place that is
 * in the list already is not added again. */
enum err gpu_pipelines_add(struct gpu_pipelines *l, const struct gpu_pipeline_options *o,
                           struct gpu_pipeline **ret, struct err_msg *why) MUST_CHECK;
/* All or none; the error is that of the first, in order, that failed. The list is empty then, in
 * any case. */
enum err gpu_pipelines_create(struct gpu *g, struct gpu_pipelines *l,
                              struct err_msg *why) MUST_CHECK;
void gpu_pipelines_free(struct gpu_pipelines *l);

/* Writes what gpu_destroy() would, too, to cache_dir, if it is not there already: for after the
 * last pipeline was created. What cannot be written is not. */
void gpu_save_cache(struct gpu *g);
/* Size of what is in cache_dir for this device; 0: nothing that could be used. */
size_t gpu_cache_bytes(const struct gpu *g);

/* Makes chains possible: gpu_chain(). After gpu_chain_destroy() they are not any more. */
enum err gpu_chain_create(struct gpu *g, struct err_msg *why) MUST_CHECK;
void gpu_chain_destroy(struct gpu *g);
/* A wait in a chain was given up: that is why gpu_wait() failed. */
bool gpu_chain_broken(const struct gpu *g);

/* ---- recording: gpu_begin .. gpu_submit .. gpu_wait ----
 *
 * One command buffer is recorded at a time; up to GPU_FRAMES are in flight (submitted and not
 * waited for). They run in order: each sees what the one before wrote. The host's writes and reads
 * are its own to order: what it writes while a submission is in flight, that one may see. */

/* Fewer than GPU_FRAMES may be in flight. */
enum err gpu_begin(struct gpu *g, struct err_msg *why) MUST_CHECK;
void gpu_dispatch(struct gpu *g, struct gpu_pipeline *p, const void *push, uint32_t x, uint32_t y,
                  uint32_t z);
/* What was dispatched before is finished and visible to what comes after. */
void gpu_barrier(struct gpu *g);
/* Chains: from here to the next call or the submission's end, a barrier between two dispatches
 * whose pipelines have chain_at is none for the device: the later one's workgroups start early and
 * wait in the shader (shaders/chain.glsl) until those of the earlier ones have counted themselves.
 * That is right where a device starts the workgroups of dispatches in order, and pays where they
 * are few: a barrier costs more than the work of a small dispatch. Without gpu_chain_create():
 * nothing. */
void gpu_chain(struct gpu *g, bool on);
/* The next dispatch waits so for what was before the last barrier but `stages` alone, since it sees
 * by itself when the rest has come: at most GPU_MOST_BEHIND. */
enum { GPU_MOST_BEHIND = 5 };
void gpu_chain_behind(struct gpu *g, uint32_t stages);
void gpu_copy(struct gpu *g, const struct gpu_buffer *src, uint64_t src_offset,
              const struct gpu_buffer *dst, uint64_t dst_offset, uint64_t len);
void gpu_fill(struct gpu *g, const struct gpu_buffer *dst, uint64_t offset, uint64_t len,
              uint32_t value);
/* A named time stamp (name: static storage); up to 1024 a command buffer, more are ignored. */
void gpu_mark(struct gpu *g, const char *name);
enum err gpu_submit(struct gpu *g, struct err_msg *why) MUST_CHECK;
/* For the oldest one in flight; nothing in flight: returns at once. At most the time that options
 * gave: ERR_DEVICE then, and the device counts as hung. */
enum err gpu_wait(struct gpu *g, struct err_msg *why) MUST_CHECK;
uint32_t gpu_in_flight(const struct gpu *g);
/* Marks of the last waited command buffer: time since the first mark. */
size_t gpu_marks(const struct gpu *g, const char **ret_names, uint64_t *ret_ns, size_t max);

/* Fault injection for tests: called before every checked Vulkan call; a VkResult other than 0 is
 * what the call is taken to have returned. One pointer for all of the engine; while it is set,
 * calls are made by one thread, in order. */
typedef int gpu_fault_fn(void *user, const char *call);
void gpu_set_fault_fn(gpu_fault_fn *fn, void *user);

#endif
