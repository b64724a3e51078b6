/* What the gpu_*.c files share; nobody else includes this.
 *
 *   gpu_device.c    the list of devices, the choice, create and destroy
 *   gpu_memory.c    buffers with addresses, upload, download
 *   gpu_command.c   recording, submitting, time stamps
 *   gpu_idle.c      waits that end, also on a device that hangs
 *   gpu_chain.c     dispatches that wait for each other in the shader
 *   gpu_pipeline.c  pipelines, many at once
 *   gpu_cache.c     compiled pipelines on disk
 *   gpu_check.c     results of Vulkan calls to errors, fault injection */
#ifndef OCTO_ENGINE_GPU_IMPL_H
#define OCTO_ENGINE_GPU_IMPL_H

#include <stdatomic.h>
#include <vulkan/vulkan.h>

#include "engine/gpu.h"

enum { GPU_MAX_MARKS = 1024, GPU_ADDRESS_ALIGN_BYTES = 256 };

/* Asks the fault injection; 0: make the call. */
int gpu_fault(const char *call);
bool gpu_has_fault_fn(void);
/* "vkQueueSubmit: VK_ERROR_DEVICE_LOST" and the enum err that fits. */
enum err gpu_error(VkResult r, const char *call, struct err_msg *why);

/* The result of a Vulkan call, or what fault injection says it was (the call is not made then). */
#define VK_RESULT(fn, ...)                                                                         \
    (__extension__({                                                                               \
        int vk_fault = gpu_fault(#fn);                                                             \
        vk_fault == 0 ? fn(__VA_ARGS__) : (VkResult)vk_fault;                                      \
    }))

/* The one checked call: on failure sets `e` and `*why` and goes to `fail`. */
#define VK_TRY(fn, ...)                                                                            \
    do {                                                                                           \
        VkResult vk_r = VK_RESULT(fn, __VA_ARGS__);                                                \
        if (vk_r < 0 || vk_r == VK_TIMEOUT) {                                                      \
            e = gpu_error(vk_r, #fn, why);                                                         \
            goto fail;                                                                             \
        }                                                                                          \
    } while (0)

struct gpu_pipeline {
    VkPipelineLayout layout;
    VkPipeline pipeline;
    uint32_t push_bytes, chain_at;
    struct gpu_pipeline *next;
};

/* gpu_buffer.impl */
struct gpu_buffer_impl {
    VkBuffer buffer;
    VkDeviceMemory memory;
    VkDeviceSize offset; /* of the aligned address in `buffer` */
    bool cached;         /* the host reads it at full speed */
    struct gpu_buffer_impl *next_kept;
};

/* What one submission needs. */
struct gpu_frame {
    VkCommandPool pool;
    VkCommandBuffer commands;
    VkFence fence;
    VkQueryPool queries; /* none without time stamps */
    uint32_t marks_count;
    const char *mark_names[GPU_MAX_MARKS];
};

struct gpu {
    struct gpu_device_info info;
    VkInstance instance;
    VkDebugUtilsMessengerEXT messenger;
    atomic_uint validation_errors; /* the driver's threads may report, too */
    VkPhysicalDevice physical;
    VkPhysicalDeviceMemoryProperties memory;
    VkDeviceSize max_allocation_bytes;
    bool has_budget;
    double timestamp_ns;
    uint64_t timestamp_mask; /* bits that count; then they wrap */
    VkDevice device;
    uint32_t family;
    VkQueue queue;
    VkPipelineCache cache;
    char *cache_dir;     /* NULL: none */
    size_t cache_bytes;  /* of the driver's data on disk, as far as known */
    uint64_t cache_hash; /* of it */
    struct gpu_pipeline *pipelines;

    struct gpu_frame frames[GPU_FRAMES];
    uint32_t oldest;    /* of those in flight; the frame to record into comes after them */
    uint32_t in_flight; /* frames submitted and not waited for */
    uint64_t wait_ns;   /* for one submission: then the device hangs */
    bool hung;
    struct gpu *next_hung;
    struct gpu_buffer_impl *kept; /* by a device that hangs */
    bool recording;
    bool barrier_due;      /* asked for, and nothing recorded since */
    bool transfers;        /* recorded since the last barrier */
    bool transfers_waited; /* the last barrier held back transfers, too */
    struct gpu_pipeline *bound;

    struct gpu_buffer chain, chain_report; /* shaders/chain.glsl; address 0: none */
    bool chains;                           /* switched on */
    bool chain_open;      /* a barrier was left to the shaders, and none came since */
    uint32_t chain_count; /* workgroups of chains so far; wraps */
    uint32_t chain_after[GPU_MOST_BEHIND + 1]; /* of them, before the last barrier asked for, the
                                                  last but one, ... */
    uint32_t chain_behind;                     /* which of those the next dispatch waits for */
    uint32_t chain_begin;                      /* of them, before this submission */
    bool plain_open; /* a dispatch that is in no chain, and no barrier of the device since */

    uint32_t marks_count; /* of the last waited command buffer */
    const char *mark_names[GPU_MAX_MARKS];
    uint64_t mark_ns[GPU_MAX_MARKS];

    struct gpu_buffer staging; /* made when first needed */
};

/* gpu_command.c: the objects that recording needs. */
enum err gpu_command_init(struct gpu *g, struct err_msg *why) MUST_CHECK;
void gpu_command_finish(struct gpu *g);
/* gpu_chain.c: ERR_DEVICE when a wait in a chain was given up. */
enum err gpu_chain_check(const struct gpu *g, struct err_msg *why) MUST_CHECK;
/* All that was counted so far is done, or waited for by the device. */
void gpu_chain_forget(struct gpu *g);
/* gpu_pipeline.c */
void gpu_pipelines_destroy_all(struct gpu *g);
/* gpu_cache.c: g->cache, from disk if there is one. */
enum err gpu_cache_init(struct gpu *g, struct err_msg *why) MUST_CHECK;
/* gpu_idle.c. For the oldest in flight, at most the time that options gave: ERR_DEVICE then, and
 * the device counts as hung. */
enum err gpu_wait_oldest(struct gpu *g, struct err_msg *why) MUST_CHECK;
void gpu_idle_init(struct gpu *g, uint32_t timeout_s);
/* True: nothing runs on the device any more. False: it hangs, nothing it knows may be freed. */
bool gpu_settle(struct gpu *g);
/* Instead of destroying it. */
void gpu_abandon(struct gpu *g);
enum err gpu_wait_all(struct gpu *g, struct err_msg *why) MUST_CHECK;

#endif
