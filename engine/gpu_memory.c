/* Buffers: each has its own allocation and an address; copies between host and device for loading.
 */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/size.h"
#include "engine/gpu_impl.h"

/* Of two halves, for uploads: the host fills one while the device reads the other. */
static const uint64_t STAGING_BYTES = UINT64_C(16) << 20, LEAST_PIECE_BYTES = UINT64_C(256) << 10;

/* The memory type that has all of `must`, most of `like` and nothing of `never`, or UINT32_MAX. */
static uint32_t find_type(const struct gpu *g, uint32_t allowed, VkMemoryPropertyFlags must,
                          VkMemoryPropertyFlags like, VkMemoryPropertyFlags never)
{
    uint32_t best = UINT32_MAX;
    int best_score = -1;
    for (uint32_t i = 0; i < g->memory.memoryTypeCount; i++) {
        VkMemoryPropertyFlags flags = g->memory.memoryTypes[i].propertyFlags;
        if (!(allowed & (1u << i)) || (flags & must) != must || flags & never)
            continue;
        int score = __builtin_popcount(flags & like);
        if (score > best_score) {
            best = i;
            best_score = score;
        }
    }
    return best;
}

static VkDeviceSize heap_bytes(const struct gpu *g, uint32_t type)
{
    return g->memory.memoryHeaps[g->memory.memoryTypes[type].heapIndex].size;
}

static uint32_t choose_type(const struct gpu *g, enum gpu_memory kind, uint32_t allowed)
{
    const VkMemoryPropertyFlags host =
        VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT | VK_MEMORY_PROPERTY_HOST_COHERENT_BIT;
    const VkMemoryPropertyFlags local = VK_MEMORY_PROPERTY_DEVICE_LOCAL_BIT;
    uint32_t type;
    switch (kind) {
    case GPU_DEVICE:
        /* Where there is a choice, not the kind the host sees: of that, NVIDIA's driver gives out
         * half of the card's memory only. */
        type = find_type(g, allowed, local, 0, VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT);
        if (type != UINT32_MAX && heap_bytes(g, type) == g->info.memory_bytes)
            return type;
        type = find_type(g, allowed, local | host, VK_MEMORY_PROPERTY_HOST_CACHED_BIT, 0);
        /* A small window into the device's memory is not for weights. */
        if (type != UINT32_MAX && heap_bytes(g, type) == g->info.memory_bytes)
            return type;
        return find_type(g, allowed, local, 0, 0);
    case GPU_SHARED:
        return find_type(g, allowed, local | host, 0, 0);
    case GPU_UPLOAD:
        return find_type(g, allowed, host, 0, 0);
    case GPU_READBACK:
        return find_type(g, allowed, host, VK_MEMORY_PROPERTY_HOST_CACHED_BIT, 0);
    }
    return UINT32_MAX;
}

static enum err allocate(struct gpu *g, enum gpu_memory kind, uint64_t bytes,
                         struct gpu_buffer_impl *b, void **ret_mapped, struct err_msg *why)
{
    enum err e = ERR_OK;
    VkMemoryRequirements needs;
    vkGetBufferMemoryRequirements(g->device, b->buffer, &needs);
    uint32_t type = choose_type(g, kind, needs.memoryTypeBits);
    if (type == UINT32_MAX)
        return err_set(why, ERR_DEVICE, "the device has no memory of the kind needed");
    if (needs.size > g->max_allocation_bytes)
        return err_set(why, ERR_NOMEM, "%llu bytes in one piece; the device allows %llu",
                       (unsigned long long)bytes, (unsigned long long)g->max_allocation_bytes);
    VkMemoryAllocateFlagsInfo flags = {.sType = VK_STRUCTURE_TYPE_MEMORY_ALLOCATE_FLAGS_INFO,
                                       .flags = VK_MEMORY_ALLOCATE_DEVICE_ADDRESS_BIT};
    VkMemoryAllocateInfo info = {.sType = VK_STRUCTURE_TYPE_MEMORY_ALLOCATE_INFO,
                                 .pNext = &flags,
                                 .allocationSize = needs.size,
                                 .memoryTypeIndex = type};
    VK_TRY(vkAllocateMemory, g->device, &info, NULL, &b->memory);
    VK_TRY(vkBindBufferMemory, g->device, b->buffer, b->memory, 0);
    VkMemoryPropertyFlags props = g->memory.memoryTypes[type].propertyFlags;
    b->cached = props & VK_MEMORY_PROPERTY_HOST_CACHED_BIT;
    if (props & VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT && props & VK_MEMORY_PROPERTY_HOST_COHERENT_BIT)
        VK_TRY(vkMapMemory, g->device, b->memory, 0, VK_WHOLE_SIZE, 0, ret_mapped);
fail:
    return e;
}

static void free_impl(struct gpu *g, struct gpu_buffer_impl *b)
{
    vkDestroyBuffer(g->device, b->buffer, NULL);
    vkFreeMemory(g->device, b->memory, NULL); /* unmaps */
    free(b);
}

enum err gpu_buffer_create(struct gpu *g, enum gpu_memory kind, uint64_t bytes, const char *what,
                           struct gpu_buffer *ret, struct err_msg *why)
{
    enum err e;
    void *mapped = NULL;
    uint64_t size = 0;
    struct gpu_buffer_impl *b = calloc(1, sizeof *b);
    if (b == NULL)
        return err_set(why, ERR_NOMEM, "out of memory for buffer %s", what);
    /* Room to round the address up. */
    if (!size_add(max_u64(bytes, 4), GPU_ADDRESS_ALIGN_BYTES, &size)) {
        e = err_set(why, ERR_NOMEM, "%llu bytes", (unsigned long long)bytes);
        goto fail;
    }
    VkBufferCreateInfo info = {
        .sType = VK_STRUCTURE_TYPE_BUFFER_CREATE_INFO,
        .size = size,
        .usage = VK_BUFFER_USAGE_STORAGE_BUFFER_BIT | VK_BUFFER_USAGE_TRANSFER_SRC_BIT |
                 VK_BUFFER_USAGE_TRANSFER_DST_BIT | VK_BUFFER_USAGE_SHADER_DEVICE_ADDRESS_BIT |
                 VK_BUFFER_USAGE_INDIRECT_BUFFER_BIT};
    VK_TRY(vkCreateBuffer, g->device, &info, NULL, &b->buffer);
    e = allocate(g, kind, bytes, b, &mapped, why);
    if (e != ERR_OK)
        goto fail;
    VkBufferDeviceAddressInfo where = {.sType = VK_STRUCTURE_TYPE_BUFFER_DEVICE_ADDRESS_INFO,
                                       .buffer = b->buffer};
    uint64_t base = vkGetBufferDeviceAddress(g->device, &where);
    uint64_t address = div_up(base, GPU_ADDRESS_ALIGN_BYTES) * GPU_ADDRESS_ALIGN_BYTES;
    b->offset = address - base;
    *ret = (struct gpu_buffer){.address = address,
                               .bytes = bytes,
                               .mapped = mapped == NULL ? NULL : (char *)mapped + b->offset,
                               .impl = b};
    return ERR_OK;
fail:
    free_impl(g, b);
    return err_prefix(why, e, "%llu MiB for %s", (unsigned long long)(bytes >> 20), what);
}

void gpu_buffer_destroy(struct gpu *g, struct gpu_buffer *b)
{
    if (b->impl != NULL) {
        struct gpu_buffer_impl *impl = b->impl;
        if (gpu_settle(g)) { /* a step failed half-way: the device may still write here */
            free_impl(g, impl);
        } else {
            impl->next_kept = g->kept;
            g->kept = impl;
        }
    }
    *b = (struct gpu_buffer){0};
}

static enum err need_staging(struct gpu *g, struct err_msg *why)
{
    if (g->staging.impl != NULL)
        return ERR_OK;
    return gpu_buffer_create(g, GPU_READBACK, STAGING_BYTES, "staging", &g->staging, why);
}

/* One piece through the staging buffer, at `staged` in it: to the device, or back. */
static enum err submit_piece(struct gpu *g, const struct gpu_buffer *device, uint64_t offset,
                             uint64_t staged, uint64_t len, bool up, struct err_msg *why)
{
    enum err e = gpu_begin(g, why);
    if (e != ERR_OK)
        return e;
    if (up)
        gpu_copy(g, &g->staging, staged, device, offset, len);
    else
        gpu_copy(g, device, offset, &g->staging, staged, len);
    return gpu_submit(g, why);
}

enum err gpu_upload(struct gpu *g, const struct gpu_buffer *dst, uint64_t offset, const void *bytes,
                    uint64_t len, struct err_msg *why)
{
    assert(offset <= dst->bytes && len <= dst->bytes - offset);
    enum err e = gpu_wait_all(g, why);
    if (e != ERR_OK)
        return e;
    if (dst->mapped != NULL) {
        memcpy((char *)dst->mapped + offset, bytes, len);
        return ERR_OK;
    }
    static_assert(GPU_FRAMES == 2, "a submission for each half");
    uint64_t half = STAGING_BYTES / 2, staged = 0;
    uint64_t most = max_u64(LEAST_PIECE_BYTES, min_u64(half, div_up(len, 2)));
    e = need_staging(g, why);
    for (uint64_t done = 0; e == ERR_OK && done < len; done += most) {
        uint64_t piece = min_u64(len - done, most);
        if (gpu_in_flight(g) == GPU_FRAMES)
            e = gpu_wait(g, why); /* this half's last one */
        if (e != ERR_OK)
            break;
        memcpy((char *)g->staging.mapped + staged, (const char *)bytes + done, piece);
        e = submit_piece(g, dst, offset + done, staged, piece, true, why);
        staged = half - staged;
    }
    return e == ERR_OK ? gpu_wait_all(g, why) : e;
}

enum err gpu_download(struct gpu *g, const struct gpu_buffer *src, uint64_t offset, void *ret_bytes,
                      uint64_t len, struct err_msg *why)
{
    assert(offset <= src->bytes && len <= src->bytes - offset);
    const struct gpu_buffer_impl *b = src->impl;
    enum err e = gpu_wait_all(g, why);
    if (e != ERR_OK)
        return e;
    if (src->mapped != NULL && b->cached) {
        memcpy(ret_bytes, (const char *)src->mapped + offset, len);
        return ERR_OK;
    }
    e = need_staging(g, why);
    for (uint64_t done = 0; e == ERR_OK && done < len; done += STAGING_BYTES) {
        uint64_t piece = min_u64(len - done, STAGING_BYTES);
        e = submit_piece(g, src, offset + done, 0, piece, false, why);
        if (e == ERR_OK)
            e = gpu_wait(g, why);
        if (e == ERR_OK)
            memcpy((char *)ret_bytes + done, g->staging.mapped, piece);
    }
    return e;
}

uint64_t gpu_memory_free(struct gpu *g)
{
    if (!g->has_budget)
        return 0;
    VkPhysicalDeviceMemoryBudgetPropertiesEXT budget = {
        .sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_MEMORY_BUDGET_PROPERTIES_EXT};
    VkPhysicalDeviceMemoryProperties2 props = {
        .sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_MEMORY_PROPERTIES_2, .pNext = &budget};
    vkGetPhysicalDeviceMemoryProperties2(g->physical, &props);
    uint64_t most = 0;
    for (uint32_t i = 0; i < props.memoryProperties.memoryHeapCount; i++) {
        if (!(props.memoryProperties.memoryHeaps[i].flags & VK_MEMORY_HEAP_DEVICE_LOCAL_BIT))
            continue;
        if (budget.heapBudget[i] > budget.heapUsage[i])
            most = max_u64(most, budget.heapBudget[i] - budget.heapUsage[i]);
    }
    return most;
}
