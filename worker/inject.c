/* See inject.h. */
#include "worker/inject.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"

/* VkResult; this folder knows no Vulkan. */
enum { SUCCESS = 0, TIMED_OUT = 2, OUT_OF_DEVICE_MEMORY = -2, DEVICE_LOST = -4 };

enum kind { LOST, HANG, OOM, KILL, KINDS };
static const char *const kinds[KINDS] = {"lost", "hang", "oom", "kill"};

/* One thread at a time: the main one until the engine's starts, then that. */
static struct {
    enum kind kind;
    char call[64];
    uint64_t at, seed; /* at 0: when the seed comes */
    uint64_t calls;
    bool armed, fired;
    enum err (*add)(void *impl, const struct engine_request *r, struct err_msg *why);
} inject;

static int result(const char *call)
{
    bool waits = strcmp(call, "vkWaitForFences") == 0;
    switch (inject.kind) {
    case LOST:
        return waits || strcmp(call, "vkQueueSubmit") == 0 ? DEVICE_LOST : SUCCESS;
    case HANG:
        return waits ? TIMED_OUT : SUCCESS;
    default:
        return SUCCESS;
    }
}

static int on_call(void *user, const char *call)
{
    (void)user;
    if (inject.fired)
        return result(call);
    if (strcmp(call, inject.call) != 0)
        return 0;
    inject.calls++;
    if (inject.at > 0 ? inject.calls != inject.at : !inject.armed)
        return 0;
    log_warn("injected: %s at %s number %llu", kinds[inject.kind], call,
             (unsigned long long)inject.calls);
    inject.fired = true;
    if (inject.kind == KILL)
        raise(SIGKILL);
    if (inject.kind == OOM)
        return OUT_OF_DEVICE_MEMORY;
    return inject.kind == LOST ? DEVICE_LOST : result(call);
}

static enum err refuse(const char *text, struct err_msg *why)
{
    return err_set(
        why, ERR_USAGE,
        "OCTOFLOW_INJECT=%s: expected lost, hang, oom or kill, @, and N, CALL:N or seed:S", text);
}

enum err inject_begin(const char *text, struct err_msg *why)
{
    const char *at = text == NULL ? NULL : strchr(text, '@');
    if (text == NULL)
        return ERR_OK;
    if (at == NULL)
        return refuse(text, why);
    while (inject.kind < KINDS && (strlen(kinds[inject.kind]) != (size_t)(at - text) ||
                                   strncmp(text, kinds[inject.kind], (size_t)(at - text)) != 0))
        inject.kind++;
    const char *colon = strchr(at, ':');
    char *end = NULL;
    uint64_t number = strtoull(colon != NULL ? colon + 1 : at + 1, &end, 10);
    bool seed = strncmp(at, "@seed:", 6) == 0;
    size_t len = colon == NULL || seed ? 0 : (size_t)(colon - at - 1);
    if (inject.kind == KINDS || end == at + 1 || *end != '\0' || len >= sizeof inject.call ||
        (!seed && number == 0))
        return refuse(text, why);
    strcpy(inject.call, "vkQueueSubmit");
    if (len > 0) {
        memcpy(inject.call, at + 1, len);
        inject.call[len] = '\0';
    }
    inject.at = seed ? 0 : number;
    inject.seed = seed ? number : 0;
    log_warn("faults are injected inject=%s", text);
    gpu_set_fault_fn(on_call, NULL);
    return ERR_OK;
}

static enum err add(void *impl, const struct engine_request *r, struct err_msg *why)
{
    inject.armed |= r->seed == inject.seed;
    return inject.add(impl, r, why);
}

enum err inject_engine_open(void *user, struct engine_port *ret, struct err_msg *why)
{
    enum err e = engine_real_open(user, ret, why);
    if (e == ERR_OK && inject.call[0] != '\0' && inject.at == 0) {
        inject.add = ret->add;
        ret->add = add;
    }
    return e;
}
