/* Preloaded by `./dev sanitize`: Vulkan drivers and layers stay loaded to the process's end. What
 * they and LLVM leave behind is told from a leak of ours by the library it was made in, and of one
 * that is unloaded the leak checker knows no name. */
#include <dlfcn.h>
#include <link.h>
#include <string.h>

int dlclose(void *library)
{
    struct link_map *map = NULL;
    if (dlinfo(library, RTLD_DI_LINKMAP, &map) == 0 && map != NULL &&
        (strstr(map->l_name, "vulkan") != NULL || strstr(map->l_name, "VkLayer") != NULL))
        return 0;
    int (*next)(void *) = NULL;
    void *symbol = dlsym(RTLD_NEXT, "dlclose");
    memcpy(&next, &symbol, sizeof next); /* C has no cast from one to the other */
    return next == NULL ? -1 : next(library);
}
