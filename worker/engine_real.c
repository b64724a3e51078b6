/* The real engine behind struct engine_port: nothing but forwarding. */
#include "worker/port.h"

static enum err real_add(void *impl, const struct engine_request *r, struct err_msg *why)
{
    return engine_add(impl, r, why);
}

static void real_remove(void *impl, uint64_t id)
{
    engine_remove(impl, id);
}

static enum err real_step(void *impl, const struct engine_event **ret_events, size_t *ret_count,
                          struct engine_step_stats *ret_stats, struct err_msg *why)
{
    return engine_step(impl, ret_events, ret_count, ret_stats, why);
}

static const struct engine_info *real_info(void *impl)
{
    return engine_info(impl);
}

static uint64_t real_kv_tokens_free(void *impl)
{
    return engine_kv_tokens_free(impl);
}

static uint64_t real_vram_free(void *impl)
{
    return engine_vram_free(impl);
}

static unsigned real_validation_errors(void *impl)
{
    return engine_validation_errors(impl);
}

static void real_close(void *impl)
{
    struct engine *e = impl;
    engine_destroy(&e);
}

enum err engine_real_open(void *user, struct engine_port *ret, struct err_msg *why)
{
    const struct engine_real_options *o = user;
    struct engine *e = NULL;
    enum err result = engine_create(o->model, &o->engine, &e, why);
    if (result != ERR_OK)
        return result;
    *ret = (struct engine_port){
        .impl = e,
        .add = real_add,
        .remove = real_remove,
        .step = real_step,
        .info = real_info,
        .kv_tokens_free = real_kv_tokens_free,
        .vram_free = real_vram_free,
        .validation_errors = real_validation_errors,
        .close = real_close,
    };
    return ERR_OK;
}
