/* Dispatches that wait for each other in the shader: their state on the device, and whether a wait
 * was given up. */
#include <assert.h>
#include <string.h>

#include "base/size.h"
#include "engine/gpu_impl.h"

/* As shaders/chain.glsl has it. */
struct chain_state {
    uint32_t done, broken;
    uint64_t report;
};

enum err gpu_chain_create(struct gpu *g, struct err_msg *why)
{
    struct chain_state state = {0};
    g->chain_count = 0;
    gpu_chain_forget(g);
    enum err e =
        gpu_buffer_create(g, GPU_READBACK, sizeof(uint32_t), "chain report", &g->chain_report, why);
    if (e == ERR_OK)
        e = gpu_buffer_create(g, GPU_DEVICE, sizeof state, "chain", &g->chain, why);
    if (e == ERR_OK) {
        memset(g->chain_report.mapped, 0, sizeof(uint32_t));
        state.report = g->chain_report.address;
        e = gpu_upload(g, &g->chain, 0, &state, sizeof state, why);
    }
    if (e != ERR_OK)
        gpu_chain_destroy(g);
    return e;
}

void gpu_chain_destroy(struct gpu *g)
{
    gpu_buffer_destroy(g, &g->chain);
    gpu_buffer_destroy(g, &g->chain_report);
}

void gpu_chain(struct gpu *g, bool on)
{
    g->chains = on;
}

void gpu_chain_behind(struct gpu *g, uint32_t stages)
{
    assert(stages <= GPU_MOST_BEHIND);
    g->chain_behind = stages;
}

void gpu_chain_forget(struct gpu *g)
{
    for (size_t i = 0; i < ARRAY_LEN(g->chain_after); i++)
        g->chain_after[i] = g->chain_count;
}

bool gpu_chain_broken(const struct gpu *g)
{
    uint32_t broken = 0;
    if (g->chain.address != 0)
        memcpy(&broken, g->chain_report.mapped, sizeof broken);
    return broken != 0;
}

enum err gpu_chain_check(const struct gpu *g, struct err_msg *why)
{
    if (gpu_chain_broken(g))
        return err_set(why, ERR_DEVICE,
                       "a dispatch waited in vain for the one before: the device does not start "
                       "them in order");
    return ERR_OK;
}
