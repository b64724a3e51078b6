/* Compiled pipelines on disk, so that a second start does not compile them anew. The file is the
 * driver's own data behind a header of ours; one file for each device and driver. Whatever goes
 * wrong with it costs time, never a start: it is said in the debug log and no more. */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/hash.h"
#include "base/log.h"
#include "engine/gpu_impl.h"

/* Pipelines of earlier builds stay in it. A file that has grown to this starts over. */
static const size_t MOST_BYTES = (size_t)64 << 20;

struct cache_header {
    char magic[8];
    uint64_t bytes; /* of the driver's data, which follows */
    uint64_t hash;  /* hash64() of it: drivers trust what they are given */
};
static const char MAGIC[8] = "OCTOPC1";

static bool file_name(const struct gpu *g, char ret[PATH_MAX])
{
    struct {
        uint32_t vendor, device, driver;
        uint8_t uuid[VK_UUID_SIZE];
    } key;
    char hex[33];
    VkPhysicalDeviceProperties p;
    if (g->cache_dir == NULL)
        return false;
    vkGetPhysicalDeviceProperties(g->physical, &p);
    memset(&key, 0, sizeof key);
    key.vendor = p.vendorID;
    key.device = p.deviceID;
    key.driver = p.driverVersion;
    memcpy(key.uuid, p.pipelineCacheUUID, sizeof key.uuid);
    hash128_hex(&key, sizeof key, hex);
    int n = snprintf(ret, PATH_MAX, "%s/pipelines-%s.bin", g->cache_dir, hex);
    return n > 0 && n < PATH_MAX;
}

/* What Vulkan wants at the head of the data. */
static bool fits_device(const struct gpu *g, const char *data, size_t len)
{
    VkPipelineCacheHeaderVersionOne h;
    VkPhysicalDeviceProperties p;
    if (len < sizeof h)
        return false;
    memcpy(&h, data, sizeof h);
    vkGetPhysicalDeviceProperties(g->physical, &p);
    return h.headerSize >= sizeof h && h.headerSize <= len &&
           h.headerVersion == VK_PIPELINE_CACHE_HEADER_VERSION_ONE && h.vendorID == p.vendorID &&
           h.deviceID == p.deviceID &&
           memcmp(h.pipelineCacheUUID, p.pipelineCacheUUID, sizeof h.pipelineCacheUUID) == 0;
}

/* The driver's data in the file, a pointer into *file; NULL: none that can be used. */
static const char *load(const struct gpu *g, const char *path, struct buf *file, size_t *ret_len)
{
    struct err_msg why = {""};
    struct cache_header h;
    if (access(path, F_OK) != 0 && errno == ENOENT)
        return NULL;
    if (file_read(path, MOST_BYTES, file, &why) != ERR_OK) {
        log_debug("pipeline cache not read error=\"%s\"", why.text);
        return NULL;
    }
    const char *data = (const char *)file->data + sizeof h;
    if (file->len >= sizeof h) {
        memcpy(&h, file->data, sizeof h);
        *ret_len = file->len - sizeof h;
        if (memcmp(h.magic, MAGIC, sizeof MAGIC) == 0 && h.bytes == *ret_len &&
            h.hash == hash64(data, *ret_len, 0) && fits_device(g, data, *ret_len))
            return data;
    }
    log_debug("pipeline cache is broken and will be made anew file=%s bytes=%zu", path, file->len);
    return NULL;
}

enum err gpu_cache_init(struct gpu *g, struct err_msg *why)
{
    enum err e = ERR_OK;
    char path[PATH_MAX];
    struct buf file = {0};
    VkPipelineCacheCreateInfo info = {.sType = VK_STRUCTURE_TYPE_PIPELINE_CACHE_CREATE_INFO};
    size_t len = 0;
    if (file_name(g, path))
        info.pInitialData = load(g, path, &file, &len);
    if (info.pInitialData != NULL) {
        info.initialDataSize = len;
        VkResult r = VK_RESULT(vkCreatePipelineCache, g->device, &info, NULL, &g->cache);
        if (r == VK_SUCCESS) {
            g->cache_bytes = len;
            g->cache_hash = hash64(info.pInitialData, len, 0);
            goto fail;
        }
        log_debug("the driver refuses the pipeline cache file=%s result=%d", path, (int)r);
        info.pInitialData = NULL;
        info.initialDataSize = 0;
    }
    VK_TRY(vkCreatePipelineCache, g->device, &info, NULL, &g->cache);
fail:
    buf_free(&file);
    return e;
}

size_t gpu_cache_bytes(const struct gpu *g)
{
    return g->cache_bytes;
}

/* With all the directories above it. */
static bool make_dir(const char *dir)
{
    char path[PATH_MAX];
    size_t len = strlen(dir);
    if (len == 0 || len >= sizeof path)
        return false;
    memcpy(path, dir, len + 1);
    for (size_t i = 1; i <= len; i++) {
        if (path[i] != '/' && path[i] != '\0')
            continue;
        path[i] = '\0';
        if (mkdir(path, 0700) != 0 && errno != EEXIST && errno != EROFS && errno != EACCES)
            return false;
        path[i] = dir[i];
    }
    return true;
}

static bool write_all(int fd, const void *bytes, size_t len)
{
    for (size_t done = 0; done < len;) {
        ssize_t n = write(fd, (const char *)bytes + done, len - done);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return false;
        done += (size_t)n;
    }
    return true;
}

/* By way of a file of its own name: other processes may be saving theirs. */
static bool replace(const char *path, const struct cache_header *h, const void *data)
{
    char temp[PATH_MAX];
    int n = snprintf(temp, sizeof temp, "%s.XXXXXX", path);
    if (n < 0 || (size_t)n >= sizeof temp)
        return false;
    int fd = mkstemp(temp); /* mode 0600 */
    if (fd < 0)
        return false;
    bool good = write_all(fd, h, sizeof *h) && write_all(fd, data, h->bytes);
    int saved = errno;
    if (close(fd) != 0 && good) {
        good = false;
        saved = errno;
    }
    if (good && rename(temp, path) == 0)
        return true;
    saved = good ? errno : saved;
    unlink(temp);
    errno = saved;
    return false;
}

void gpu_save_cache(struct gpu *g)
{
    char path[PATH_MAX];
    size_t len = 0;
    struct cache_header h;
    if (g->cache == VK_NULL_HANDLE || !file_name(g, path) ||
        VK_RESULT(vkGetPipelineCacheData, g->device, g->cache, &len, NULL) != VK_SUCCESS ||
        len == 0)
        return;
    if (len > MOST_BYTES - sizeof h) {
        unlink(path); /* the next start begins a new one */
        return;
    }
    char *data = malloc(len);
    if (data == NULL ||
        VK_RESULT(vkGetPipelineCacheData, g->device, g->cache, &len, data) != VK_SUCCESS)
        goto done;
    memcpy(h.magic, MAGIC, sizeof MAGIC);
    h.bytes = len;
    h.hash = hash64(data, len, 0);
    if (len == g->cache_bytes && h.hash == g->cache_hash)
        goto done; /* as on disk */
    if (make_dir(g->cache_dir) && replace(path, &h, data)) {
        g->cache_bytes = len;
        g->cache_hash = h.hash;
    } else {
        log_debug("pipeline cache not written file=%s error=\"%s\"", path, strerror(errno));
    }
done:
    free(data);
}
