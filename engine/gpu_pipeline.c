/* Compute pipelines without descriptor sets. Drivers take up to a second for one, on one core: many
 * are created on many threads. Vulkan allows that for all calls here, with one cache, too. */
#include <assert.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include "base/size.h"
#include "engine/gpu_impl.h"

enum { MAX_SPEC = 16, MOST_THREADS = 16 };

struct gpu_wanted {
    struct gpu_pipeline_options o;
    uint32_t spec[MAX_SPEC];
    struct gpu_pipeline **ret;
    struct gpu_pipeline *made;
    enum err result;
    struct err_msg why;
};

struct work {
    struct gpu *g;
    struct gpu_pipelines *list;
    atomic_size_t next;
    atomic_bool failed;
};

static enum err build(struct gpu *g, const struct gpu_pipeline_options *o, VkShaderModule *module,
                      struct gpu_pipeline *p, struct err_msg *why)
{
    enum err e = ERR_OK;
    VkPushConstantRange push = {.stageFlags = VK_SHADER_STAGE_COMPUTE_BIT, .size = o->push_bytes};
    VkPipelineLayoutCreateInfo layout = {.sType = VK_STRUCTURE_TYPE_PIPELINE_LAYOUT_CREATE_INFO,
                                         .pushConstantRangeCount = o->push_bytes > 0 ? 1 : 0,
                                         .pPushConstantRanges = &push};
    VK_TRY(vkCreatePipelineLayout, g->device, &layout, NULL, &p->layout);
    VkShaderModuleCreateInfo code = {.sType = VK_STRUCTURE_TYPE_SHADER_MODULE_CREATE_INFO,
                                     .codeSize = o->spirv_bytes,
                                     .pCode = o->spirv};
    VK_TRY(vkCreateShaderModule, g->device, &code, NULL, module);
    VkSpecializationMapEntry entries[MAX_SPEC];
    for (uint32_t i = 0; i < o->spec_count; i++)
        entries[i] = (VkSpecializationMapEntry){
            .constantID = i, .offset = i * (uint32_t)sizeof(uint32_t), .size = sizeof(uint32_t)};
    VkSpecializationInfo spec = {.mapEntryCount = o->spec_count,
                                 .pMapEntries = entries,
                                 .dataSize = o->spec_count * sizeof(uint32_t),
                                 .pData = o->spec};
    VkComputePipelineCreateInfo info = {
        .sType = VK_STRUCTURE_TYPE_COMPUTE_PIPELINE_CREATE_INFO,
        .stage = {.sType = VK_STRUCTURE_TYPE_PIPELINE_SHADER_STAGE_CREATE_INFO,
                  .stage = VK_SHADER_STAGE_COMPUTE_BIT,
                  .module = *module,
                  .pName = "main",
                  .pSpecializationInfo = o->spec_count > 0 ? &spec : NULL},
        .layout = p->layout};
    VK_TRY(vkCreateComputePipelines, g->device, g->cache, 1, &info, NULL, &p->pipeline);
fail:
    return e;
}

static void destroy(struct gpu *g, struct gpu_pipeline *p)
{
    if (p == NULL)
        return;
    vkDestroyPipeline(g->device, p->pipeline, NULL);
    vkDestroyPipelineLayout(g->device, p->layout, NULL);
    free(p);
}

static void make(struct gpu *g, struct gpu_wanted *w)
{
    VkShaderModule module = VK_NULL_HANDLE;
    struct gpu_pipeline *p = calloc(1, sizeof *p);
    if (p == NULL) {
        w->result = err_set(&w->why, ERR_NOMEM, "out of memory for pipeline %s", w->o.name);
        return;
    }
    p->push_bytes = w->o.push_bytes;
    p->chain_at = w->o.chain_at;
    w->o.spec = w->spec;
    w->result = build(g, &w->o, &module, p, &w->why);
    vkDestroyShaderModule(g->device, module, NULL);
    if (w->result == ERR_OK) {
        w->made = p;
        return;
    }
    destroy(g, p);
    err_prefix(&w->why, w->result, "pipeline %s", w->o.name);
}

/* They are begun in order: whatever fails, all before it were begun and are finished. */
static void *run(void *user)
{
    struct work *w = user;
    while (!atomic_load(&w->failed)) {
        size_t i = atomic_fetch_add(&w->next, 1);
        if (i >= w->list->count)
            break;
        make(w->g, &w->list->wanted[i]);
        if (w->list->wanted[i].result != ERR_OK)
            atomic_store(&w->failed, true);
    }
    return NULL;
}

static size_t threads_for(size_t count)
{
    cpu_set_t set;
    int cores = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
    return gpu_has_fault_fn() ? 1 : min_u64(count, min_u64(MOST_THREADS, (uint64_t)cores));
}

enum err gpu_pipelines_add(struct gpu_pipelines *l, const struct gpu_pipeline_options *o,
                           struct gpu_pipeline **ret, struct err_msg *why)
{
    assert(o->push_bytes <= GPU_PUSH_MAX_BYTES && o->spec_count <= MAX_SPEC);
    for (size_t i = 0; i < l->count; i++)
        if (l->wanted[i].ret == ret)
            return ERR_OK;
    if (l->count == l->capacity) {
        size_t capacity = l->capacity * 2 + 16;
        void *grown = realloc(l->wanted, capacity * sizeof *l->wanted);
        if (grown == NULL)
            return err_set(why, ERR_NOMEM, "out of memory for pipeline %s", o->name);
        l->wanted = grown;
        l->capacity = capacity;
    }
    struct gpu_wanted *w = &l->wanted[l->count++];
    *w = (struct gpu_wanted){.o = *o, .ret = ret};
    if (o->spec_count > 0)
        memcpy(w->spec, o->spec, o->spec_count * sizeof *o->spec);
    return ERR_OK;
}

enum err gpu_pipelines_create(struct gpu *g, struct gpu_pipelines *l, struct err_msg *why)
{
    struct work work = {.g = g, .list = l};
    pthread_t threads[MOST_THREADS];
    size_t others = 0, count = threads_for(l->count);
    enum err e = ERR_OK;
    while (others + 1 < count && pthread_create(&threads[others], NULL, run, &work) == 0)
        others++;
    run(&work);
    for (size_t i = 0; i < others; i++)
        pthread_join(threads[i], NULL);
    for (size_t i = 0; i < l->count && e == ERR_OK; i++) {
        e = l->wanted[i].result;
        if (e != ERR_OK && why != NULL)
            *why = l->wanted[i].why;
    }
    for (size_t i = 0; i < l->count; i++) {
        struct gpu_wanted *w = &l->wanted[i];
        if (e != ERR_OK) {
            destroy(g, w->made);
            continue;
        }
        w->made->next = g->pipelines;
        g->pipelines = w->made;
        *w->ret = w->made;
    }
    gpu_pipelines_free(l);
    return e;
}

void gpu_pipelines_free(struct gpu_pipelines *l)
{
    free(l->wanted);
    *l = (struct gpu_pipelines){0};
}

enum err gpu_pipeline_create(struct gpu *g, const struct gpu_pipeline_options *o,
                             struct gpu_pipeline **ret, struct err_msg *why)
{
    struct gpu_pipelines one = {0};
    enum err e = gpu_pipelines_add(&one, o, ret, why);
    return e == ERR_OK ? gpu_pipelines_create(g, &one, why) : e;
}

void gpu_pipelines_destroy_all(struct gpu *g)
{
    while (g->pipelines != NULL) {
        struct gpu_pipeline *p = g->pipelines;
        g->pipelines = p->next;
        destroy(g, p);
    }
}
