/* Waiting for the device, but not for ever: a hung one is left to the end of the process. */
#include "base/clock.h"
#include "base/log.h"
#include "engine/gpu_impl.h"

/* A submission takes less than a second on hardware. A CPU may take minutes for one of a large
 * model, and does not hang. */
enum { HARDWARE_WAIT_S = 30, SOFTWARE_WAIT_S = 3600 };

/* Devices that hang: what the driver holds for them stays until the process ends. */
static struct gpu *hung;

void gpu_idle_init(struct gpu *g, uint32_t timeout_s)
{
    uint32_t s = timeout_s != 0 ? timeout_s : g->info.software ? SOFTWARE_WAIT_S : HARDWARE_WAIT_S;
    g->wait_ns = s * NS_PER_S;
}

static VkResult wait_for(struct gpu *g, const struct gpu_frame *f)
{
    VkResult r = VK_RESULT(vkWaitForFences, g->device, 1, &f->fence, VK_TRUE, g->wait_ns);
    g->hung |= r == VK_TIMEOUT;
    return r;
}

enum err gpu_wait_oldest(struct gpu *g, struct err_msg *why)
{
    VkResult r = wait_for(g, &g->frames[g->oldest]);
    if (r == VK_TIMEOUT)
        return err_set(why, ERR_DEVICE,
                       "vkWaitForFences: the GPU hangs, a submission is not done after %u s",
                       (unsigned)(g->wait_ns / NS_PER_S));
    return r < 0 ? gpu_error(r, "vkWaitForFences", why) : ERR_OK;
}

bool gpu_settle(struct gpu *g)
{
    while (g->in_flight > 0 && !g->hung) {
        VkResult r = wait_for(g, &g->frames[g->oldest]);
        if (r < 0)
            vkDeviceWaitIdle(
                g->device); /* of a lost device it returns at once: nothing runs there */
        if (!g->hung) {
            g->in_flight--;
            g->oldest = (g->oldest + 1) % GPU_FRAMES;
        }
    }
    return !g->hung;
}

bool gpu_any_hung(void)
{
    return hung != NULL;
}

void gpu_abandon(struct gpu *g)
{
    log_error("the GPU hangs, what is on it is left to the end of the process device=\"%s\"",
              g->info.name);
    g->next_hung = hung;
    hung = g;
}
