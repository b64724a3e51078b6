/* A worker from start to exit: device, model, engine, then the loop, then everything back in turn.
 */
#include "worker/worker.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/log.h"
#include "base/utf8.h"
#include "octo_build.h"
#include "worker/worker_impl.h"

enum { STOP_MOST_S = 30, MAX_TWINS = 64 };

/* Cut to what the protocol takes, at a character's end. */
static void copy_id(char out[PROTO_MAX_ID_BYTES + 1], const char *text)
{
    snprintf(out, PROTO_MAX_ID_BYTES + 1, "%.*s", PROTO_MAX_ID_BYTES, text);
    out[utf8_valid_prefix(out, strlen(out))] = '\0';
}

static enum err choose_device(const struct worker_options *o, struct gpu_device_info *ret,
                              struct err_msg *why)
{
    struct gpu_device_info *list = calloc(GPU_MAX_DEVICES, sizeof *list);
    size_t count = 0, index = 0;
    if (list == NULL)
        return err_set(why, ERR_NOMEM, "devices: out of memory");
    enum err e = gpu_list(list, &count, why);
    if (e == ERR_OK)
        e = gpu_choose(list, count, o->device, &index, why);
    if (e == ERR_OK)
        *ret = list[index];
    free(list);
    return e;
}

static enum err open_model(struct worker *w, struct err_msg *why)
{
    const struct worker_options *o = w->options;
    enum err e = model_open(o->model, &w->model, why);
    if (e != ERR_OK)
        return e;
    e = tokenizer_create(w->model->gguf, o->pre_tokenizer, &w->tokenizer, why);
    if (e != ERR_OK)
        return e;
    if (tokenizer_vocab_size(w->tokenizer) > w->model->n_vocab)
        return err_set(why, ERR_FORMAT, "%s: the tokenizer has %u tokens, the model rows for %u",
                       o->model, tokenizer_vocab_size(w->tokenizer), w->model->n_vocab);
    e = chat_template_create(w->model->gguf, o->chat_template, &w->chat, &w->chat_problem);
    if (e == ERR_OK)
        return ERR_OK;
    if (o->chat_template != NULL || e == ERR_NOMEM)
        return err_set(why, e, "%s", w->chat_problem.text);
    /* Prompts that are plain text can still be run. */
    log_warn("no chat: requests with messages will be refused error=\"%s\"", w->chat_problem.text);
    return ERR_OK;
}

static enum err open_engine(struct worker *w, const struct gpu_device_info *device,
                            struct err_msg *why)
{
    const struct worker_options *o = w->options;
    char cache_dir[PATH_MAX];
    bool cached = file_cache_dir(cache_dir, sizeof cache_dir);
    struct engine_real_options real = {
        .model = w->model,
        .engine =
            {
                .device_index = device->index,
                .validate = o->validate,
                .cache_dir = cached ? cache_dir : NULL,
                .max_seqs = (uint32_t)o->max_jobs,
                .max_ctx = (uint32_t)o->ctx,
                .kv_tokens = (uint64_t)o->kv_tokens,
                .chunk_tokens = (uint32_t)o->chunk_tokens,
                .no_prefix_cache = o->no_prefix_cache,
            },
    };
    return engine_thread_start(engine_real_open, &real, &w->engine, why);
}

/* HOST:DEVICE_NUMBER, and #2, #3 .. for more workers on the same one: a name must be stable, so
 * that the broker knows a worker that comes back, but two that run must not share one, or each
 * takes the other's jobs away. An abstract socket is the claim: the kernel gives it back however
 * the process ends. */
static void claim_name(struct worker *w, uint32_t device)
{
    w->claim = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    for (int i = 1; i <= MAX_TWINS; i++) {
        char name[160], suffix[16] = "", key[33];
        if (i > 1)
            snprintf(suffix, sizeof suffix, "#%d", i);
        snprintf(name, sizeof name, "%.100s:%u%s", w->host, device, suffix);
        copy_id(w->name, name);
        hash128_hex(name, strlen(name), key);
        struct sockaddr_un at = {.sun_family = AF_UNIX}; /* a NUL first: no file */
        snprintf(at.sun_path + 1, sizeof at.sun_path - 1, "octoflow-worker-%s", key);
        if (w->claim < 0 || bind(w->claim, (struct sockaddr *)&at, sizeof at) == 0 ||
            errno != EADDRINUSE)
            return;
    }
}

/* Everything messages and results say about this worker. */
static void describe(struct worker *w, const struct gpu_device_info *device)
{
    const struct engine_info *info = engine_thread_info(w->engine);
    char text[512];
    uv_os_gethostname(text, &(size_t){sizeof text});
    copy_id(w->host, text);
    if (w->options->name != NULL)
        copy_id(w->name, w->options->name);
    else
        claim_name(w, device->index);
    copy_id(w->device, info->device.name);
    copy_id(w->driver, info->device.driver);
    snprintf(text, sizeof text, "%s shaders %.12s", OCTO_BUILD, info->shader_build);
    copy_id(w->build, text);
    w->context = (struct job_context){
        .tokenizer = w->tokenizer,
        .chat = w->chat,
        .chat_problem = w->chat_problem.text,
        .max_ctx = info->max_ctx,
        .model_name = w->model->name,
        .model_hash = gguf_hash(w->model->gguf),
        .quantization = w->model->quantization,
        .numeric_class = info->numeric_class,
        .device = w->device,
        .driver = w->driver,
        .build = w->build,
        .worker = w->name,
    };
    w->session_config = (struct session_config){
        .worker = w->name,
        .host = w->host,
        .build = w->build,
        .device = w->device,
        .driver = w->driver,
        .numeric_class = info->numeric_class,
        .model = {str_of(w->model->name), str_of(w->context.model_hash),
                  str_of(w->model->quantization), info->max_ctx},
        .max_jobs = info->max_seqs,
        .kv_tokens = info->kv_tokens,
    };
}

static int exit_code_of(enum err e)
{
    return e == ERR_DEVICE  ? WORKER_EXIT_RESPAWN
           : e == ERR_USAGE ? WORKER_EXIT_USAGE
                            : WORKER_EXIT_FATAL;
}

static enum err open_worker(struct worker *w, struct err_msg *why)
{
    struct gpu_device_info device;
    enum err e = choose_device(w->options, &device, why);
    if (e != ERR_OK)
        return e;
    if (device.software)
        log_warn("running on the CPU, with no GPU: this is very slow device=\"%s\"", device.name);
    uint64_t begin_ns = clock_mono_ns();
    e = open_model(w, why);
    if (e == ERR_OK)
        e = open_engine(w, &device, why);
    if (e != ERR_OK)
        return e;
    describe(w, &device);
    const struct engine_info *info = engine_thread_info(w->engine);
    log_info("ready name=%s device=\"%s\" model=%s quantization=%s jobs=%u ctx=%u kv_tokens=%llu "
             "numeric_class=%s start_ms=%llu",
             w->name, w->device, w->model->name, w->model->quantization, info->max_seqs,
             info->max_ctx, (unsigned long long)info->kv_tokens, info->numeric_class,
             (unsigned long long)((clock_mono_ns() - begin_ns) / NS_PER_MS));
    e = heat_open(w, why);
    return e == ERR_OK ? worker_loop_open(w, why) : e;
}

static void close_worker(struct worker *w)
{
    /* A GPU that hangs must not keep the process: whoever started it sees a death and starts it
     * again. */
    alarm(STOP_MOST_S);
    unsigned errors = engine_thread_stop(&w->engine);
    worker_loop_close(w);
    if (errors > 0) {
        log_error("the validation layer found errors count=%u", errors);
        w->exit_code = WORKER_EXIT_FATAL;
    }
    heat_close(w);
    chat_template_destroy(&w->chat);
    tokenizer_destroy(&w->tokenizer);
    model_close(&w->model);
    if (w->claim >= 0)
        close(w->claim);
}

int worker_main(const struct worker_options *o)
{
    struct worker w = {.options = o, .parent = getppid(), .claim = -1};
    struct err_msg why = {{0}};
    if (o->die_with_parent)
        prctl(PR_SET_PDEATHSIG, SIGTERM);
    enum err e = proto_endpoint_check(o->broker, &why);
    if (e == ERR_OK)
        e = open_worker(&w, &why);
    if (e == ERR_OK) {
        worker_loop_run(&w);
    } else {
        log_error("cannot start error=\"%s\"", why.text);
        w.exit_code = exit_code_of(e);
    }
    close_worker(&w);
    return w.exit_code;
}
