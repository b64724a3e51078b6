/* The engine as the worker sees it: engine/engine.h behind function pointers, so that tests run the
 * worker's core with a fake engine. The meaning of each call is that of the engine function of the
 * same name. All calls from one thread (`info` may be read by any once opened). */
#ifndef OCTO_WORKER_PORT_H
#define OCTO_WORKER_PORT_H

#include "base/err.h"
#include "engine/engine.h"

struct engine_port {
    void *impl;
    enum err (*add)(void *impl, const struct engine_request *r, struct err_msg *why);
    void (*remove)(void *impl, uint64_t id);
    enum err (*step)(void *impl, const struct engine_event **ret_events, size_t *ret_count,
                     struct engine_step_stats *ret_stats, struct err_msg *why);
    const struct engine_info *(*info)(void *impl);
    uint64_t (*kv_tokens_free)(void *impl);
    uint64_t (*vram_free)(void *impl);
    unsigned (*validation_errors)(void *impl);
    void (*close)(void *impl);
};

/* Creates the engine; called on the engine's thread. `user` is the opener's. */
typedef enum err engine_open_fn(void *user, struct engine_port *ret, struct err_msg *why);

struct engine_real_options {
    const struct model *model; /* outlives the port */
    struct engine_options engine;
};
/* An engine_open_fn; user: struct engine_real_options. */
enum err engine_real_open(void *user, struct engine_port *ret, struct err_msg *why) MUST_CHECK;

#endif
