/* The ring of command buffers: record, submit, wait, time stamps. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/size.h"
#include "engine/gpu_impl.h"

static enum err init_frame(struct gpu *g, struct gpu_frame *f, struct err_msg *why)
{
    enum err e = ERR_OK;
    VkCommandPoolCreateInfo pool = {.sType = VK_STRUCTURE_TYPE_COMMAND_POOL_CREATE_INFO,
                                    .queueFamilyIndex = g->family};
    VK_TRY(vkCreateCommandPool, g->device, &pool, NULL, &f->pool);
    VkCommandBufferAllocateInfo buffer = {.sType = VK_STRUCTURE_TYPE_COMMAND_BUFFER_ALLOCATE_INFO,
                                          .commandPool = f->pool,
                                          .level = VK_COMMAND_BUFFER_LEVEL_PRIMARY,
                                          .commandBufferCount = 1};
    VK_TRY(vkAllocateCommandBuffers, g->device, &buffer, &f->commands);
    VkFenceCreateInfo fence = {.sType = VK_STRUCTURE_TYPE_FENCE_CREATE_INFO};
    VK_TRY(vkCreateFence, g->device, &fence, NULL, &f->fence);
    if (g->timestamp_ns > 0) {
        VkQueryPoolCreateInfo queries = {.sType = VK_STRUCTURE_TYPE_QUERY_POOL_CREATE_INFO,
                                         .queryType = VK_QUERY_TYPE_TIMESTAMP,
                                         .queryCount = GPU_MAX_MARKS};
        VK_TRY(vkCreateQueryPool, g->device, &queries, NULL, &f->queries);
    }
fail:
    return e;
}

enum err gpu_command_init(struct gpu *g, struct err_msg *why)
{
    enum err e = gpu_cache_init(g, why);
    for (uint32_t i = 0; i < GPU_FRAMES && e == ERR_OK; i++)
        e = init_frame(g, &g->frames[i], why);
    return e;
}

void gpu_command_finish(struct gpu *g)
{
    gpu_pipelines_destroy_all(g);
    for (uint32_t i = 0; i < GPU_FRAMES; i++) {
        vkDestroyQueryPool(g->device, g->frames[i].queries, NULL);
        vkDestroyFence(g->device, g->frames[i].fence, NULL);
        vkDestroyCommandPool(g->device, g->frames[i].pool, NULL);
    }
    vkDestroyPipelineCache(g->device, g->cache, NULL);
}

/* ---- recording ---- */

/* The one being recorded, or the next to be. */
static struct gpu_frame *current(struct gpu *g)
{
    return &g->frames[(g->oldest + g->in_flight) % GPU_FRAMES];
}

static void memory_barrier(struct gpu *g, VkPipelineStageFlags dst_stages, VkAccessFlags dst_access)
{
    VkPipelineStageFlags src = VK_PIPELINE_STAGE_COMPUTE_SHADER_BIT;
    VkAccessFlags written = VK_ACCESS_SHADER_WRITE_BIT;
    if (g->transfers) {
        src |= VK_PIPELINE_STAGE_TRANSFER_BIT;
        written |= VK_ACCESS_TRANSFER_WRITE_BIT;
    }
    VkMemoryBarrier b = {.sType = VK_STRUCTURE_TYPE_MEMORY_BARRIER,
                         .srcAccessMask = written,
                         .dstAccessMask = dst_access};
    vkCmdPipelineBarrier(current(g)->commands, src, dst_stages, 0, 1, &b, 0, NULL, 0, NULL);
}

/* The barrier asked for, as narrow as what comes next allows: between two dispatches the copy
 * engines need not be waited for, which is half of what a barrier costs. */
static void settle(struct gpu *g, bool transfer)
{
    VkPipelineStageFlags dst = VK_PIPELINE_STAGE_COMPUTE_SHADER_BIT;
    VkAccessFlags access = VK_ACCESS_SHADER_READ_BIT | VK_ACCESS_SHADER_WRITE_BIT;
    if (!g->barrier_due && !g->chain_open && (!transfer || g->transfers_waited))
        return;
    if (transfer) {
        dst |= VK_PIPELINE_STAGE_TRANSFER_BIT;
        access |= VK_ACCESS_TRANSFER_READ_BIT | VK_ACCESS_TRANSFER_WRITE_BIT;
    }
    memory_barrier(g, dst, access);
    g->barrier_due = g->chain_open = g->plain_open = false;
    gpu_chain_forget(g);
    g->transfers_waited = transfer;
    g->transfers = false;
}

enum err gpu_begin(struct gpu *g, struct err_msg *why)
{
    assert(!g->recording && g->in_flight < GPU_FRAMES);
    enum err e = ERR_OK;
    struct gpu_frame *f = current(g);
    VkCommandBufferBeginInfo info = {.sType = VK_STRUCTURE_TYPE_COMMAND_BUFFER_BEGIN_INFO,
                                     .flags = VK_COMMAND_BUFFER_USAGE_ONE_TIME_SUBMIT_BIT};
    VK_TRY(vkResetCommandPool, g->device, f->pool, 0);
    VK_TRY(vkBeginCommandBuffer, f->commands, &info);
    g->recording = true;
    g->bound = NULL;
    g->chains = false;
    g->chain_behind = 0;
    g->chain_begin = g->chain_count;
    f->marks_count = 0;
    if (f->queries != VK_NULL_HANDLE)
        vkCmdResetQueryPool(f->commands, f->queries, 0, GPU_MAX_MARKS);
    gpu_barrier(g); /* behind the submission before, whatever that did */
    g->transfers = true;
    settle(g, true);
fail:
    return e;
}

/* Between two dispatches of a chain: the later one waits for what was before the barrier. */
static void leave_to_shader(struct gpu *g)
{
    if (g->barrier_due) {
        memmove(g->chain_after + 1, g->chain_after, sizeof g->chain_after - sizeof *g->chain_after);
        g->chain_after[0] = g->chain_count;
        g->chain_open = true;
    }
    g->barrier_due = false;
}

static const void *with_chain(const struct gpu *g, const struct gpu_pipeline *p, const void *push,
                              bool chained, unsigned char filled[GPU_PUSH_MAX_BYTES])
{
    uint64_t state = chained ? g->chain.address : 0;
    uint32_t after = g->chain_after[g->chain_behind];
    memcpy(filled, push, p->push_bytes);
    memcpy(filled + p->chain_at, &state, sizeof state);
    memcpy(filled + p->chain_at + sizeof state, &after, sizeof after);
    return filled;
}

void gpu_dispatch(struct gpu *g, struct gpu_pipeline *p, const void *push, uint32_t x, uint32_t y,
                  uint32_t z)
{
    assert(g->recording);
    unsigned char filled[GPU_PUSH_MAX_BYTES];
    bool chained = p->chain_at != 0 && g->chain.address != 0 && g->chains;
    if (x == 0 || y == 0 || z == 0)
        return;
    if (chained && !g->transfers && !g->plain_open)
        leave_to_shader(g);
    else
        settle(g, false);
    if (p->chain_at != 0)
        push = with_chain(g, p, push, chained, filled);
    if (g->bound != p)
        vkCmdBindPipeline(current(g)->commands, VK_PIPELINE_BIND_POINT_COMPUTE, p->pipeline);
    g->bound = p;
    if (p->push_bytes > 0)
        vkCmdPushConstants(current(g)->commands, p->layout, VK_SHADER_STAGE_COMPUTE_BIT, 0,
                           p->push_bytes, push);
    vkCmdDispatch(current(g)->commands, x, y, z);
    g->chain_behind = 0;
    if (chained)
        g->chain_count += x * y * z;
    g->plain_open |= !chained;
}

void gpu_barrier(struct gpu *g)
{
    assert(g->recording);
    g->barrier_due = true;
}

void gpu_copy(struct gpu *g, const struct gpu_buffer *src, uint64_t src_offset,
              const struct gpu_buffer *dst, uint64_t dst_offset, uint64_t len)
{
    assert(g->recording);
    assert(src_offset <= src->bytes && len <= src->bytes - src_offset);
    assert(dst_offset <= dst->bytes && len <= dst->bytes - dst_offset);
    if (len == 0)
        return;
    settle(g, true);
    g->transfers = true;
    const struct gpu_buffer_impl *s = src->impl, *d = dst->impl;
    VkBufferCopy region = {
        .srcOffset = s->offset + src_offset, .dstOffset = d->offset + dst_offset, .size = len};
    vkCmdCopyBuffer(current(g)->commands, s->buffer, d->buffer, 1, &region);
}

void gpu_fill(struct gpu *g, const struct gpu_buffer *dst, uint64_t offset, uint64_t len,
              uint32_t value)
{
    assert(g->recording);
    assert(offset % 4 == 0 && len % 4 == 0 && offset <= dst->bytes && len <= dst->bytes - offset);
    const struct gpu_buffer_impl *d = dst->impl;
    if (len == 0)
        return;
    settle(g, true);
    g->transfers = true;
    vkCmdFillBuffer(current(g)->commands, d->buffer, d->offset + offset, len, value);
}

void gpu_mark(struct gpu *g, const char *name)
{
    assert(g->recording);
    struct gpu_frame *f = current(g);
    if (f->queries == VK_NULL_HANDLE || f->marks_count == GPU_MAX_MARKS)
        return;
    vkCmdWriteTimestamp(f->commands, VK_PIPELINE_STAGE_BOTTOM_OF_PIPE_BIT, f->queries,
                        f->marks_count);
    f->mark_names[f->marks_count++] = name;
}

enum err gpu_submit(struct gpu *g, struct err_msg *why)
{
    assert(g->recording);
    enum err e = ERR_OK;
    struct gpu_frame *f = current(g);
    g->recording = false;
    g->transfers = true;
    memory_barrier(g, VK_PIPELINE_STAGE_HOST_BIT, VK_ACCESS_HOST_READ_BIT);
    VkSubmitInfo info = {.sType = VK_STRUCTURE_TYPE_SUBMIT_INFO,
                         .commandBufferCount = 1,
                         .pCommandBuffers = &f->commands};
    VK_TRY(vkEndCommandBuffer, f->commands);
    VK_TRY(vkResetFences, g->device, 1, &f->fence);
    VK_TRY(vkQueueSubmit, g->queue, 1, &info, f->fence);
    g->in_flight++;
fail:
    if (e != ERR_OK) { /* nothing of it will count itself */
        g->chain_count = g->chain_begin;
        gpu_chain_forget(g);
    }
    return e;
}

static enum err read_marks(struct gpu *g, const struct gpu_frame *f, struct err_msg *why)
{
    enum err e = ERR_OK;
    uint64_t ticks[GPU_MAX_MARKS];
    g->marks_count = 0;
    if (f->marks_count == 0)
        return ERR_OK;
    VK_TRY(vkGetQueryPoolResults, g->device, f->queries, 0, f->marks_count, sizeof ticks, ticks,
           sizeof *ticks, VK_QUERY_RESULT_64_BIT | VK_QUERY_RESULT_WAIT_BIT);
    for (uint32_t i = 0; i < f->marks_count; i++) {
        g->mark_names[i] = f->mark_names[i];
        g->mark_ns[i] =
            (uint64_t)((double)((ticks[i] - ticks[0]) & g->timestamp_mask) * g->timestamp_ns);
    }
    g->marks_count = f->marks_count;
fail:
    return e;
}

enum err gpu_wait(struct gpu *g, struct err_msg *why)
{
    enum err e = ERR_OK;
    const struct gpu_frame *f = &g->frames[g->oldest];
    if (g->in_flight == 0)
        return ERR_OK;
    e = gpu_wait_oldest(g, why);
    if (e != ERR_OK)
        return e;
    g->in_flight--;
    g->oldest = (g->oldest + 1) % GPU_FRAMES;
    e = gpu_chain_check(g, why);
    return e != ERR_OK ? e : read_marks(g, f, why);
}

enum err gpu_wait_all(struct gpu *g, struct err_msg *why)
{
    enum err e = ERR_OK;
    while (g->in_flight > 0 && e == ERR_OK)
        e = gpu_wait(g, why);
    return e;
}

uint32_t gpu_in_flight(const struct gpu *g)
{
    return g->in_flight;
}

size_t gpu_marks(const struct gpu *g, const char **ret_names, uint64_t *ret_ns, size_t max)
{
    size_t count = min_u64(g->marks_count, max);
    for (size_t i = 0; i < count; i++) {
        ret_names[i] = g->mark_names[i];
        ret_ns[i] = g->mark_ns[i];
    }
    return count;
}
