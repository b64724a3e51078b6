/* Devices: the list of what this machine has, the choice by name, and the logical device with its
 * queue. Memory and commands are in gpu_memory.c and gpu_command.c. */
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/size.h"
#include "engine/gpu_impl.h"

#define VALIDATION_LAYER "VK_LAYER_KHRONOS_validation"

/* VK_KHR_cooperative_matrix, which Debian 12's headers are too old for: numbers of the registry. */
#define MATRIX_KHR_EXTENSION "VK_KHR_cooperative_matrix"
#define MATRIX_KHR_FEATURES  ((VkStructureType)1000506000)
struct matrix_khr_features {
    VkStructureType sType;
    void *pNext;
    VkBool32 cooperativeMatrix;
    VkBool32 cooperativeMatrixRobustBufferAccess;
};

/* What this engine wants to know of a physical device, in one query. */
struct device_facts {
    VkPhysicalDeviceProperties2 properties;
    VkPhysicalDeviceVulkan11Properties v11;
    VkPhysicalDeviceVulkan12Properties v12;
    VkPhysicalDevicePCIBusInfoPropertiesEXT pci;
    VkPhysicalDeviceFeatures2 features;
    VkPhysicalDeviceVulkan11Features f11;
    VkPhysicalDeviceVulkan12Features f12;
    bool has_pci;
    bool has_budget;
    bool has_matrix_nv, has_matrix_khr; /* VK_{NV,KHR}_cooperative_matrix */
    bool matrix_f16;                    /* and all that the kernels on it need */
    uint32_t family;                    /* UINT32_MAX: no queue that computes */
    uint32_t timestamp_bits;
};

static VkBool32 VKAPI_PTR on_validation(VkDebugUtilsMessageSeverityFlagBitsEXT severity,
                                        VkDebugUtilsMessageTypeFlagsEXT types,
                                        const VkDebugUtilsMessengerCallbackDataEXT *data,
                                        void *user)
{
    (void)types;
    struct gpu *g = user;
    if (severity >= VK_DEBUG_UTILS_MESSAGE_SEVERITY_ERROR_BIT_EXT)
        atomic_fetch_add(&g->validation_errors, 1);
    fprintf(stderr, "vulkan validation: %s\n", data->pMessage);
    return VK_FALSE;
}

static enum err check_layer(struct err_msg *why)
{
    enum err e;
    VkLayerProperties *layers = NULL;
    uint32_t count = 0;
    VK_TRY(vkEnumerateInstanceLayerProperties, &count, NULL);
    layers = calloc(count + 1, sizeof *layers);
    if (layers == NULL)
        return err_set(why, ERR_NOMEM, "out of memory for %u layer names", count);
    VK_TRY(vkEnumerateInstanceLayerProperties, &count, layers);
    e = ERR_UNSUPPORTED;
    for (uint32_t i = 0; i < count; i++)
        if (strcmp(layers[i].layerName, VALIDATION_LAYER) == 0)
            e = ERR_OK;
    if (e != ERR_OK)
        err_set(why, e,
                "validation asked for, but the layer %s is not installed (Debian: "
                "vulkan-validationlayers)",
                VALIDATION_LAYER);
fail:
    free(layers);
    return e;
}

/* g NULL: no validation. */
static enum err create_instance(struct gpu *g, VkInstance *ret, struct err_msg *why)
{
    static const char *const layer = VALIDATION_LAYER;
    static const char *const extension = VK_EXT_DEBUG_UTILS_EXTENSION_NAME;
    VkApplicationInfo app = {.sType = VK_STRUCTURE_TYPE_APPLICATION_INFO,
                             .pApplicationName = "octoflow",
                             .apiVersion = VK_API_VERSION_1_2};
    VkDebugUtilsMessengerCreateInfoEXT messages = {
        .sType = VK_STRUCTURE_TYPE_DEBUG_UTILS_MESSENGER_CREATE_INFO_EXT,
        .messageSeverity = VK_DEBUG_UTILS_MESSAGE_SEVERITY_WARNING_BIT_EXT |
                           VK_DEBUG_UTILS_MESSAGE_SEVERITY_ERROR_BIT_EXT,
        .messageType = VK_DEBUG_UTILS_MESSAGE_TYPE_VALIDATION_BIT_EXT,
        .pfnUserCallback = on_validation,
        .pUserData = g};
    VkInstanceCreateInfo info = {.sType = VK_STRUCTURE_TYPE_INSTANCE_CREATE_INFO,
                                 .pApplicationInfo = &app};
    VkInstance instance = VK_NULL_HANDLE;
    enum err e;
    if (g != NULL) {
        e = check_layer(why);
        if (e != ERR_OK)
            return e;
        info.enabledLayerCount = 1;
        info.ppEnabledLayerNames = &layer;
        info.enabledExtensionCount = 1;
        info.ppEnabledExtensionNames = &extension;
        info.pNext = &messages;
    }
    VkResult r = VK_RESULT(vkCreateInstance, &info, NULL, &instance);
    if (r == VK_ERROR_INCOMPATIBLE_DRIVER)
        return err_set(why, ERR_NOT_FOUND,
                       "no Vulkan driver found (vkCreateInstance: VK_ERROR_INCOMPATIBLE_DRIVER); "
                       "the GPU's driver, "
                       "or for the CPU Debian's mesa-vulkan-drivers, brings one");
    if (r < 0)
        return gpu_error(r, "vkCreateInstance", why);
    if (g != NULL) {
        PFN_vkCreateDebugUtilsMessengerEXT vkCreateDebugUtilsMessengerEXT_ =
            (PFN_vkCreateDebugUtilsMessengerEXT)vkGetInstanceProcAddr(
                instance, "vkCreateDebugUtilsMessengerEXT");
        if (vkCreateDebugUtilsMessengerEXT_ == NULL) {
            e = err_set(why, ERR_UNSUPPORTED, "validation asked for, but %s is missing", extension);
            goto fail;
        }
        VK_TRY(vkCreateDebugUtilsMessengerEXT_, instance, &messages, NULL, &g->messenger);
    }
    *ret = instance;
    return ERR_OK;
fail:
    vkDestroyInstance(instance, NULL);
    return e;
}

static enum err enumerate(VkInstance instance, VkPhysicalDevice ret[GPU_MAX_DEVICES],
                          uint32_t *ret_count, struct err_msg *why)
{
    enum err e;
    uint32_t count = GPU_MAX_DEVICES;
    VK_TRY(vkEnumeratePhysicalDevices, instance, &count, ret);
    *ret_count = count;
    e = ERR_OK;
fail:
    return e;
}

static enum err query_extensions(VkPhysicalDevice device, struct device_facts *f,
                                 struct err_msg *why)
{
    enum err e;
    VkExtensionProperties *list = NULL;
    uint32_t count = 0;
    VK_TRY(vkEnumerateDeviceExtensionProperties, device, NULL, &count, NULL);
    list = calloc(count + 1, sizeof *list);
    if (list == NULL)
        return err_set(why, ERR_NOMEM, "out of memory for %u extension names", count);
    VK_TRY(vkEnumerateDeviceExtensionProperties, device, NULL, &count, list);
    for (uint32_t i = 0; i < count; i++) {
        f->has_pci |= strcmp(list[i].extensionName, VK_EXT_PCI_BUS_INFO_EXTENSION_NAME) == 0;
        f->has_budget |= strcmp(list[i].extensionName, VK_EXT_MEMORY_BUDGET_EXTENSION_NAME) == 0;
        f->has_matrix_nv |=
            strcmp(list[i].extensionName, VK_NV_COOPERATIVE_MATRIX_EXTENSION_NAME) == 0;
        f->has_matrix_khr |= strcmp(list[i].extensionName, MATRIX_KHR_EXTENSION) == 0;
    }
    e = ERR_OK;
fail:
    free(list);
    return e;
}

/* A family that only computes has no display work in its way; else the first one that computes. */
static void choose_family(VkPhysicalDevice device, struct device_facts *f)
{
    VkQueueFamilyProperties list[32];
    uint32_t count = ARRAY_LEN(list);
    vkGetPhysicalDeviceQueueFamilyProperties(device, &count, list);
    f->family = UINT32_MAX;
    for (uint32_t i = 0; i < count; i++) {
        if (list[i].queueCount == 0 || !(list[i].queueFlags & VK_QUEUE_COMPUTE_BIT))
            continue;
        bool only_computes = !(list[i].queueFlags & VK_QUEUE_GRAPHICS_BIT);
        if (f->family != UINT32_MAX && !only_computes)
            continue;
        f->family = i;
        f->timestamp_bits = list[i].timestampValidBits;
        if (only_computes)
            break;
    }
}

/* 16 x 8 x 16, f16 to f32, by a subgroup of 32. Both extensions are of one unit: what NV lists, KHR
 * has, too; that the places of values are as expected is for matrix_check(). */
static enum err query_matrix(VkInstance instance, VkPhysicalDevice device, struct device_facts *f,
                             struct err_msg *why)
{
    enum err e = ERR_OK;
    VkCooperativeMatrixPropertiesNV list[64];
    uint32_t count = ARRAY_LEN(list);
    PFN_vkGetPhysicalDeviceCooperativeMatrixPropertiesNV
        vkGetPhysicalDeviceCooperativeMatrixPropertiesNV_ =
            (PFN_vkGetPhysicalDeviceCooperativeMatrixPropertiesNV)vkGetInstanceProcAddr(
                instance, "vkGetPhysicalDeviceCooperativeMatrixPropertiesNV");
    bool features = f->f12.shaderFloat16 && f->f11.storageBuffer16BitAccess &&
                    f->f12.vulkanMemoryModel && f->f12.vulkanMemoryModelDeviceScope;
    if (!f->has_matrix_nv || !f->has_matrix_khr || !features || f->v11.subgroupSize != 32 ||
        !(f->v11.subgroupSupportedOperations & VK_SUBGROUP_FEATURE_SHUFFLE_BIT) ||
        vkGetPhysicalDeviceCooperativeMatrixPropertiesNV_ == NULL)
        return ERR_OK;
    for (uint32_t i = 0; i < count; i++)
        list[i] = (VkCooperativeMatrixPropertiesNV){
            .sType = VK_STRUCTURE_TYPE_COOPERATIVE_MATRIX_PROPERTIES_NV};
    VK_TRY(vkGetPhysicalDeviceCooperativeMatrixPropertiesNV_, device, &count, list);
    for (uint32_t i = 0; i < count; i++) {
        const VkCooperativeMatrixPropertiesNV *m = &list[i];
        f->matrix_f16 |=
            m->MSize == 16 && m->NSize == 8 && m->KSize == 16 && m->scope == VK_SCOPE_SUBGROUP_NV &&
            m->AType == VK_COMPONENT_TYPE_FLOAT16_NV && m->BType == VK_COMPONENT_TYPE_FLOAT16_NV &&
            m->CType == VK_COMPONENT_TYPE_FLOAT32_NV && m->DType == VK_COMPONENT_TYPE_FLOAT32_NV;
    }
fail:
    return e;
}

static enum err query(VkInstance instance, VkPhysicalDevice device, struct device_facts *ret,
                      struct err_msg *why)
{
    struct device_facts *f = ret;
    *f = (struct device_facts){0};
    f->properties.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_PROPERTIES_2;
    f->v11.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_1_PROPERTIES;
    f->v12.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_2_PROPERTIES;
    f->pci.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_PCI_BUS_INFO_PROPERTIES_EXT;
    f->features.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_FEATURES_2;
    f->f11.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_1_FEATURES;
    f->f12.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_2_FEATURES;
    enum err e = query_extensions(device, f, why);
    if (e != ERR_OK)
        return e;
    choose_family(device, f);
    vkGetPhysicalDeviceProperties(device, &f->properties.properties);
    if (f->properties.properties.apiVersion < VK_API_VERSION_1_2) {
        f->has_pci = f->has_budget = false;
        return ERR_OK;
    }
    f->properties.pNext = &f->v11;
    f->v11.pNext = &f->v12;
    f->v12.pNext = f->has_pci ? &f->pci : NULL;
    vkGetPhysicalDeviceProperties2(device, &f->properties);
    f->features.pNext = &f->f11;
    f->f11.pNext = &f->f12;
    vkGetPhysicalDeviceFeatures2(device, &f->features);
    return query_matrix(instance, device, f, why);
}

static void lacks(char missing[256], const char *what)
{
    size_t used = strlen(missing);
    snprintf(missing + used, 256 - used, "%s%s", used > 0 ? ", " : "", what);
}

static void judge(const struct device_facts *f, char missing[256])
{
    const VkPhysicalDeviceLimits *l = &f->properties.properties.limits;
    missing[0] = '\0';
    if (f->properties.properties.apiVersion < VK_API_VERSION_1_2) {
        lacks(missing, "Vulkan 1.2");
        return;
    }
    VkSubgroupFeatureFlags wanted = VK_SUBGROUP_FEATURE_BASIC_BIT |
                                    VK_SUBGROUP_FEATURE_ARITHMETIC_BIT |
                                    VK_SUBGROUP_FEATURE_BALLOT_BIT;
    if (!f->f12.bufferDeviceAddress)
        lacks(missing, "bufferDeviceAddress");
    if (!f->features.features.shaderInt64)
        lacks(missing, "shaderInt64");
    if ((f->v11.subgroupSupportedOperations & wanted) != wanted ||
        !(f->v11.subgroupSupportedStages & VK_SHADER_STAGE_COMPUTE_BIT))
        lacks(missing, "subgroup arithmetic");
    if (f->family == UINT32_MAX)
        lacks(missing, "a compute queue");
    if (l->maxComputeWorkGroupInvocations < 256 || l->maxComputeWorkGroupSize[0] < 256)
        lacks(missing, "workgroups of 256");
}

static void describe(VkPhysicalDevice device, const struct device_facts *f, uint32_t index,
                     struct gpu_device_info *ret)
{
    const VkPhysicalDeviceProperties *p = &f->properties.properties;
    *ret = (struct gpu_device_info){.index = index,
                                    .software = p->deviceType == VK_PHYSICAL_DEVICE_TYPE_CPU,
                                    .api_version = p->apiVersion,
                                    .subgroup_size = f->v11.subgroupSize,
                                    .matrix_f16 = f->matrix_f16,
                                    .max_buffer_bytes = f->v11.maxMemoryAllocationSize};
    ret->max_invocations = (uint32_t)min_u64(p->limits.maxComputeWorkGroupInvocations,
                                             p->limits.maxComputeWorkGroupSize[0]);
    ret->shared_bytes = p->limits.maxComputeSharedMemorySize;
    snprintf(ret->name, sizeof ret->name, "%s", p->deviceName);
    snprintf(ret->driver, sizeof ret->driver, "%.120s %.120s", f->v12.driverName,
             f->v12.driverInfo);
    if (f->has_pci)
        snprintf(ret->pci, sizeof ret->pci, "%04x:%02x:%02x.%x", f->pci.pciDomain & 0xffff,
                 f->pci.pciBus & 0xff, f->pci.pciDevice & 0xff, f->pci.pciFunction & 0xf);
    judge(f, ret->missing);
    ret->usable = ret->missing[0] == '\0';
    VkPhysicalDeviceMemoryProperties m;
    vkGetPhysicalDeviceMemoryProperties(device, &m);
    for (uint32_t i = 0; i < m.memoryHeapCount; i++)
        if (m.memoryHeaps[i].flags & VK_MEMORY_HEAP_DEVICE_LOCAL_BIT)
            ret->memory_bytes = max_u64(ret->memory_bytes, m.memoryHeaps[i].size);
    const VkMemoryPropertyFlags shared = VK_MEMORY_PROPERTY_DEVICE_LOCAL_BIT |
                                         VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT |
                                         VK_MEMORY_PROPERTY_HOST_COHERENT_BIT;
    for (uint32_t i = 0; i < m.memoryTypeCount; i++)
        ret->shares_memory |= (m.memoryTypes[i].propertyFlags & shared) == shared;
}

enum err gpu_list(struct gpu_device_info ret[GPU_MAX_DEVICES], size_t *ret_count,
                  struct err_msg *why)
{
    VkInstance instance = VK_NULL_HANDLE;
    VkPhysicalDevice devices[GPU_MAX_DEVICES];
    uint32_t count = 0;
    struct gpu_device_info list[GPU_MAX_DEVICES];
    enum err e = create_instance(NULL, &instance, why);
    if (e != ERR_OK)
        return e;
    e = enumerate(instance, devices, &count, why);
    for (uint32_t i = 0; i < count && e == ERR_OK; i++) {
        struct device_facts f;
        e = query(instance, devices[i], &f, why);
        if (e == ERR_OK)
            describe(devices[i], &f, i, &list[i]);
    }
    vkDestroyInstance(instance, NULL);
    if (e != ERR_OK)
        return e;
    memcpy(ret, list, count * sizeof *list);
    *ret_count = count;
    return ERR_OK;
}

/* ---- the choice ---- */

static bool contains_nocase(const char *text, const char *part)
{
    size_t len = strlen(part);
    for (; strlen(text) >= len; text++) {
        size_t i = 0;
        while (i < len && tolower((unsigned char)text[i]) == tolower((unsigned char)part[i]))
            i++;
        if (i == len)
            return true;
        if (*text == '\0')
            break;
    }
    return false;
}

/* "what; devices: 0 NVIDIA H200, 1 llvmpipe (software)" */
static enum err refuse(const struct gpu_device_info *list, size_t count, enum err e,
                       const char *what, const char *want, struct err_msg *why)
{
    char devices[400] = "";
    size_t used = 0;
    for (size_t i = 0; i < count && used < sizeof devices - 1; i++) {
        int n = snprintf(devices + used, sizeof devices - used, "%s%zu %s%s%s", i > 0 ? ", " : "",
                         i, list[i].name, list[i].software ? " (software)" : "",
                         list[i].usable ? "" : " (not usable)");
        used += n < 0 ? 0 : (size_t)n;
    }
    return err_set(why, e, "%s%s; devices: %s", what, want, count > 0 ? devices : "none");
}

static enum err choose_auto(const struct gpu_device_info *list, size_t count, size_t *ret_index,
                            struct err_msg *why)
{
    size_t software = count;
    for (size_t i = 0; i < count; i++) {
        if (!list[i].usable)
            continue;
        if (!list[i].software) {
            *ret_index = i;
            return ERR_OK;
        }
        if (software == count)
            software = i;
    }
    if (software < count) {
        for (size_t i = 0; i < count; i++)
            if (!list[i].software)
                return err_set(
                    why, ERR_UNSUPPORTED,
                    "device %zu, %s, lacks %s; to run on the CPU instead, ask for it: --device %zu",
                    i, list[i].name, list[i].missing, software);
        *ret_index = software;
        return ERR_OK;
    }
    if (count > 0)
        return err_set(why, ERR_UNSUPPORTED, "no usable Vulkan device: %s lacks %s", list[0].name,
                       list[0].missing);
    return err_set(why, ERR_NOT_FOUND, "no Vulkan device found");
}

enum err gpu_choose(const struct gpu_device_info *list, size_t count, const char *want,
                    size_t *ret_index, struct err_msg *why)
{
    if (want == NULL || strcmp(want, "auto") == 0)
        return choose_auto(list, count, ret_index, why);
    size_t chosen = count, matches = 0;
    if (want[0] != '\0' && strspn(want, "0123456789") == strlen(want)) {
        unsigned long long n = strtoull(want, NULL, 10);
        if (n >= count)
            return refuse(list, count, ERR_NOT_FOUND, "no device ", want, why);
        chosen = (size_t)n;
    } else {
        for (size_t i = 0; i < count && want[0] != '\0'; i++) {
            if (!contains_nocase(list[i].name, want))
                continue;
            chosen = i;
            matches++;
        }
        if (matches == 0)
            return refuse(list, count, ERR_NOT_FOUND, "no device is called ", want, why);
        if (matches > 1)
            return refuse(list, count, ERR_USAGE, "more than one device is called ", want, why);
    }
    if (!list[chosen].usable)
        return err_set(why, ERR_UNSUPPORTED, "device %zu, %s, lacks %s", chosen, list[chosen].name,
                       list[chosen].missing);
    *ret_index = chosen;
    return ERR_OK;
}

/* ---- the logical device ---- */

static enum err create_device(struct gpu *g, const struct device_facts *f, struct err_msg *why)
{
    enum err e = ERR_OK;
    float priority = 1.0f;
    VkDeviceQueueCreateInfo queue = {.sType = VK_STRUCTURE_TYPE_DEVICE_QUEUE_CREATE_INFO,
                                     .queueFamilyIndex = f->family,
                                     .queueCount = 1,
                                     .pQueuePriorities = &priority};
    /* Only what the shaders use, and what later ones may where it exists. */
    VkPhysicalDeviceCooperativeMatrixFeaturesNV matrix = {
        .sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_COOPERATIVE_MATRIX_FEATURES_NV,
        .cooperativeMatrix = VK_TRUE};
    struct matrix_khr_features matrix_khr = {
        .sType = MATRIX_KHR_FEATURES, .pNext = &matrix, .cooperativeMatrix = VK_TRUE};
    VkPhysicalDeviceVulkan12Features f12 = {
        .sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_2_FEATURES,
        .pNext = f->matrix_f16 ? &matrix_khr : NULL,
        .vulkanMemoryModel = f->matrix_f16,
        .vulkanMemoryModelDeviceScope = f->matrix_f16,
        .bufferDeviceAddress = VK_TRUE,
        .storageBuffer8BitAccess = f->f12.storageBuffer8BitAccess,
        .shaderFloat16 = f->f12.shaderFloat16,
        .shaderInt8 = f->f12.shaderInt8,
        .shaderSubgroupExtendedTypes = f->f12.shaderSubgroupExtendedTypes};
    VkPhysicalDeviceVulkan11Features f11 = {
        .sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_1_FEATURES,
        .pNext = &f12,
        .storageBuffer16BitAccess = f->f11.storageBuffer16BitAccess};
    VkPhysicalDeviceFeatures2 features = {
        .sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_FEATURES_2,
        .pNext = &f11,
        .features = {.shaderInt64 = VK_TRUE, .shaderInt16 = f->features.features.shaderInt16}};
    const char *extensions[3];
    uint32_t extensions_count = 0;
    if (f->has_budget)
        extensions[extensions_count++] = VK_EXT_MEMORY_BUDGET_EXTENSION_NAME;
    if (f->matrix_f16) {
        extensions[extensions_count++] = VK_NV_COOPERATIVE_MATRIX_EXTENSION_NAME;
        extensions[extensions_count++] = MATRIX_KHR_EXTENSION;
    }
    VkDeviceCreateInfo info = {.sType = VK_STRUCTURE_TYPE_DEVICE_CREATE_INFO,
                               .pNext = &features,
                               .queueCreateInfoCount = 1,
                               .pQueueCreateInfos = &queue,
                               .enabledExtensionCount = extensions_count,
                               .ppEnabledExtensionNames = extensions};
    VK_TRY(vkCreateDevice, g->physical, &info, NULL, &g->device);
    vkGetDeviceQueue(g->device, f->family, 0, &g->queue);
fail:
    return e;
}

enum err gpu_create(const struct gpu_options *o, struct gpu **ret, struct err_msg *why)
{
    VkPhysicalDevice devices[GPU_MAX_DEVICES];
    struct device_facts f;
    uint32_t count = 0;
    struct gpu *g = calloc(1, sizeof *g);
    if (g == NULL)
        return err_set(why, ERR_NOMEM, "out of memory for the device");
    if (o->cache_dir != NULL && o->cache_dir[0] != '\0')
        g->cache_dir = strdup(o->cache_dir); /* without memory: no cache */
    enum err e = create_instance(o->validate ? g : NULL, &g->instance, why);
    if (e == ERR_OK)
        e = enumerate(g->instance, devices, &count, why);
    if (e == ERR_OK && o->device_index >= count)
        e = err_set(why, ERR_USAGE, "no device %u: there are %u", o->device_index, count);
    if (e != ERR_OK)
        goto fail;
    g->physical = devices[o->device_index];
    e = query(g->instance, g->physical, &f, why);
    if (e != ERR_OK)
        goto fail;
    describe(g->physical, &f, o->device_index, &g->info);
    if (!g->info.usable) {
        e = err_set(why, ERR_UNSUPPORTED, "device %u, %s, lacks %s", o->device_index, g->info.name,
                    g->info.missing);
        goto fail;
    }
    vkGetPhysicalDeviceMemoryProperties(g->physical, &g->memory);
    g->max_allocation_bytes = f.v11.maxMemoryAllocationSize;
    g->has_budget = f.has_budget;
    gpu_idle_init(g, o->timeout_s);
    g->family = f.family;
    g->timestamp_ns =
        f.timestamp_bits > 0 ? (double)f.properties.properties.limits.timestampPeriod : 0;
    g->timestamp_mask = f.timestamp_bits < 64 ? (UINT64_C(1) << f.timestamp_bits) - 1 : UINT64_MAX;
    e = create_device(g, &f, why);
    if (e == ERR_OK)
        e = gpu_command_init(g, why);
    if (e != ERR_OK)
        goto fail;
    *ret = g;
    return ERR_OK;
fail:
    gpu_destroy(&g);
    return e;
}

void gpu_destroy(struct gpu **gp)
{
    struct gpu *g = *gp;
    if (g == NULL)
        return;
    if (g->device != VK_NULL_HANDLE) {
        if (!gpu_settle(g)) {
            gpu_abandon(g);
            *gp = NULL;
            return;
        }
        vkDeviceWaitIdle(g->device); /* fails on a lost device: nothing runs there then */
        gpu_buffer_destroy(g, &g->staging);
        gpu_chain_destroy(g);
        gpu_save_cache(g);
        gpu_command_finish(g);
        vkDestroyDevice(g->device, NULL);
    }
    if (g->messenger != VK_NULL_HANDLE) {
        PFN_vkDestroyDebugUtilsMessengerEXT destroy =
            (PFN_vkDestroyDebugUtilsMessengerEXT)vkGetInstanceProcAddr(
                g->instance, "vkDestroyDebugUtilsMessengerEXT");
        if (destroy != NULL)
            destroy(g->instance, g->messenger, NULL);
    }
    if (g->instance != VK_NULL_HANDLE)
        vkDestroyInstance(g->instance, NULL);
    free(g->cache_dir);
    free(g);
    *gp = NULL;
}

const struct gpu_device_info *gpu_info(const struct gpu *g)
{
    return &g->info;
}

unsigned gpu_validation_errors(const struct gpu *g)
{
    return atomic_load(&g->validation_errors);
}

double gpu_timestamp_ns(const struct gpu *g)
{
    return g->timestamp_ns;
}
