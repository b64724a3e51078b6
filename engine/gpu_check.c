/* Vulkan results to errors with a name in them, and the tests' fault injection. */
#include "base/size.h"
#include "engine/gpu_impl.h"

static gpu_fault_fn *fault_fn;
static void *fault_user;

void gpu_set_fault_fn(gpu_fault_fn *fn, void *user)
{
    fault_fn = fn;
    fault_user = user;
}

bool gpu_has_fault_fn(void)
{
    return fault_fn != NULL;
}

int gpu_fault(const char *call)
{
    return fault_fn == NULL ? 0 : fault_fn(fault_user, call);
}

static const struct {
    VkResult result;
    const char *name;
} names[] = {
#define N(x)                                                                                       \
    {                                                                                              \
        x, #x                                                                                      \
    }
    N(VK_NOT_READY),
    N(VK_TIMEOUT),
    N(VK_INCOMPLETE),
    N(VK_ERROR_OUT_OF_HOST_MEMORY),
    N(VK_ERROR_OUT_OF_DEVICE_MEMORY),
    N(VK_ERROR_INITIALIZATION_FAILED),
    N(VK_ERROR_DEVICE_LOST),
    N(VK_ERROR_MEMORY_MAP_FAILED),
    N(VK_ERROR_LAYER_NOT_PRESENT),
    N(VK_ERROR_EXTENSION_NOT_PRESENT),
    N(VK_ERROR_FEATURE_NOT_PRESENT),
    N(VK_ERROR_INCOMPATIBLE_DRIVER),
    N(VK_ERROR_TOO_MANY_OBJECTS),
    N(VK_ERROR_FORMAT_NOT_SUPPORTED),
    N(VK_ERROR_FRAGMENTED_POOL),
    N(VK_ERROR_UNKNOWN),
    N(VK_ERROR_OUT_OF_POOL_MEMORY),
    N(VK_ERROR_INVALID_EXTERNAL_HANDLE),
    N(VK_ERROR_INVALID_OPAQUE_CAPTURE_ADDRESS),
    N(VK_ERROR_INVALID_SHADER_NV),
#undef N
};

enum err gpu_error(VkResult r, const char *call, struct err_msg *why)
{
    bool memory = r == VK_ERROR_OUT_OF_HOST_MEMORY || r == VK_ERROR_OUT_OF_DEVICE_MEMORY ||
                  r == VK_ERROR_TOO_MANY_OBJECTS;
    enum err e = memory ? ERR_NOMEM : ERR_DEVICE;
    for (size_t i = 0; i < ARRAY_LEN(names); i++)
        if (names[i].result == r)
            return err_set(why, e, "%s: %s", call, names[i].name);
    return err_set(why, e, "%s: VkResult %d", call, (int)r);
}
