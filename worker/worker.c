/* A worker from start to exit: device, model, engine, then the loop, then everything back in turn.
 */
#include "worker/worker.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/log.h"
#include "base/size.h"
#include "base/utf8.h"
#include "engine/memory.h"
#include "octo_build.h"
#include "worker/inject.h"
#include "worker/worker_impl.h"

enum {
    STOP_MOST_S = 30,
    MAX_TWINS = 64,
    STEP_MS = 400,
    MEMORY_WAIT_FIRST_S = 2,
    MEMORY_WAIT_S = 60
};

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

static enum err open_model(struct worker *w, const char *path, struct err_msg *why)
{
    const struct worker_options *o = w->options;
    enum err e = model_open(path, &w->model, why);
    if (e != ERR_OK)
        return e;
    e = tokenizer_create(w->model->gguf, o->pre_tokenizer, &w->tokenizer, why);
    if (e != ERR_OK)
        return e;
    if (tokenizer_vocab_size(w->tokenizer) > w->model->n_vocab)
        return err_set(why, ERR_FORMAT, "%s: the tokenizer has %u tokens, the model rows for %u",
                       path, tokenizer_vocab_size(w->tokenizer), w->model->n_vocab);
    e = chat_template_create(w->model->gguf, o->chat_template, &w->chat, &w->chat_problem);
    if (e == ERR_OK)
        return ERR_OK;
    if (o->chat_template != NULL || e == ERR_NOMEM)
        return err_set(why, e, "%s", w->chat_problem.text);
    /* Prompts that are plain text can still be run. */
    log_warn("no chat: requests with messages will be refused error=\"%s\"", w->chat_problem.text);
    return ERR_OK;
}

/* On the device when it is empty. */
static bool could_fit(const struct model *m, const struct gpu_device_info *device,
                      const struct engine_options *o)
{
    struct engine_memory plan;
    return engine_plan_memory(m, device, 0, o, &plan, NULL) == ERR_OK && plan.fits;
}

static enum err open_engine(struct worker *w, struct err_msg *why)
{
    const struct worker_options *o = w->options;
    const struct gpu_device_info *device = &w->gpu;
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
                .timeout_s = (uint32_t)o->gpu_timeout_s,
                /* A long submission holds up everything else on the card, and a system's watchdog
                 * may end it. A processor has none, and works best on large steps. */
                .step_ms = device->software ? 0 : STEP_MS,
            },
    };
    enum err e;
    uint32_t waited_s = 0, wait_s = MEMORY_WAIT_FIRST_S;
    while ((e = engine_thread_start(inject_engine_open, &real, &w->engine, why)) == ERR_NOMEM &&
           waited_s < MEMORY_WAIT_S && could_fit(w->model, device, &real.engine)) {
        log_warn("no room on the GPU now, another program has it: trying again wait_s=%u "
                 "error=\"%s\"",
                 wait_s, why->text);
        clock_sleep_ns(wait_s * NS_PER_S);
        waited_s += wait_s;
        wait_s = (uint32_t)min_u64(2 * wait_s, MEMORY_WAIT_S - waited_s);
    }
    return e;
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

enum err worker_open_model(struct worker *w, const char *path, struct err_msg *why)
{
    uint64_t begin_ns = clock_mono_ns();
    enum err e = open_model(w, path, why);
    if (e == ERR_OK)
        e = open_engine(w, why);
    if (e == ERR_OK)
        w->load_ms = (clock_mono_ns() - begin_ns) / NS_PER_MS;
    else
        worker_close_model(w);
    return e;
}

void worker_close_model(struct worker *w)
{
    w->validation_errors += engine_thread_stop(&w->engine);
    chat_template_destroy(&w->chat);
    tokenizer_destroy(&w->tokenizer);
    model_close(&w->model);
}

/* Everything messages and results say about this worker, but for its model. */
static void describe(struct worker *w)
{
    const struct engine_info *info = engine_thread_info(w->engine);
    char text[512];
    uv_os_gethostname(text, &(size_t){sizeof text});
    copy_id(w->host, text);
    if (w->options->name != NULL)
        copy_id(w->name, w->options->name);
    else
        claim_name(w, w->gpu.index);
    copy_id(w->device, info->device.name);
    copy_id(w->driver, info->device.driver);
    snprintf(text, sizeof text, "%s shaders %.12s", OCTO_BUILD, info->shader_build);
    copy_id(w->build, text);
    uint64_t *process = &w->session_config.process;
    if (getrandom(process, sizeof *process, GRND_NONBLOCK) != (ssize_t)sizeof *process)
        *process = 0; /* unknown */
}

void worker_describe_model(struct worker *w, const char *hash)
{
    const struct engine_info *info = engine_thread_info(w->engine);
    struct stat st;
    copy_id(w->model_name, w->model->name);
    snprintf(w->model_hash, sizeof w->model_hash, "%s",
             hash != NULL ? hash : gguf_hash(w->model->gguf));
    snprintf(w->quantization, sizeof w->quantization, "%s", w->model->quantization);
    snprintf(w->numeric_class, sizeof w->numeric_class, "%s", info->numeric_class);
    w->model_bytes = stat(w->model_path, &st) == 0 ? (uint64_t)st.st_size : 0;
    w->context = (struct job_context){
        .tokenizer = w->tokenizer,
        .chat = w->chat,
        .chat_problem = w->chat_problem.text,
        .max_ctx = info->max_ctx,
        .model_name = w->model_name,
        .model_hash = w->model_hash,
        .quantization = w->quantization,
        .numeric_class = w->numeric_class,
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
        .numeric_class = w->numeric_class,
        .load_ms = w->load_ms,
        .fetches = w->options->models != NULL,
        .max_jobs = info->max_seqs,
        .kv_tokens = info->kv_tokens,
        .process = w->session_config.process,
    };
    log_info("ready name=%s device=\"%s\" model=%s quantization=%s jobs=%u ctx=%u kv_tokens=%llu "
             "numeric_class=%s start_ms=%llu",
             w->name, w->device, w->model_name, w->quantization, info->max_seqs, info->max_ctx,
             (unsigned long long)info->kv_tokens, w->numeric_class, (unsigned long long)w->load_ms);
}

int worker_exit_code(enum err e)
{
    return e == ERR_DEVICE  ? WORKER_EXIT_RESPAWN
           : e == ERR_USAGE ? WORKER_EXIT_USAGE
                            : WORKER_EXIT_FATAL;
}

static enum err open_worker(struct worker *w, struct err_msg *why)
{
    enum err e = choose_device(w->options, &w->gpu, why);
    if (e != ERR_OK)
        return e;
    if (w->gpu.software)
        log_warn("running on the CPU, with no GPU: this is very slow device=\"%s\"", w->gpu.name);
    e = models_first(w, why);
    if (e == ERR_OK)
        e = worker_open_model(w, w->model_path, why);
    if (e != ERR_OK)
        return e;
    describe(w);
    worker_describe_model(w, NULL);
    models_open(w);
    e = heat_open(w, why);
    return e == ERR_OK ? worker_loop_open(w, why) : e;
}

static void close_worker(struct worker *w)
{
    /* A GPU that hangs must not keep the process: whoever started it sees a death and starts it
     * again. */
    alarm(STOP_MOST_S);
    models_close(w);
    worker_close_model(w);
    worker_loop_close(w);
    if (w->validation_errors > 0) {
        log_error("the validation layer found errors count=%u", w->validation_errors);
        w->exit_code = WORKER_EXIT_FATAL;
    }
    heat_close(w);
    catalog_free(&w->models.catalog);
    if (w->claim >= 0)
        close(w->claim);
}

int worker_main(const struct worker_options *o)
{
    struct worker w = {
        .options = o, .parent = getppid(), .claim = -1, .models.hold = -1, .models.fetch.fd = -1};
    struct err_msg why = {{0}};
    if (o->die_with_parent)
        prctl(PR_SET_PDEATHSIG, SIGTERM);
    notify_open(&w.notify);
    enum err e = inject_begin(getenv("OCTOFLOW_INJECT"), &why);
    if (e == ERR_OK)
        e = proto_curve_connect(o->broker, &o->curve, &w.curve, &why);
    if (e == ERR_OK)
        e = watch_open(&w, &why);
    if (e == ERR_OK)
        e = open_worker(&w, &why);
    if (e == ERR_OK) {
        worker_loop_run(&w);
    } else {
        log_error("cannot start error=\"%s\"", why.text);
        w.exit_code = worker_exit_code(e);
    }
    close_worker(&w);
    watch_close(&w);
    notify_close(&w.notify);
    return w.exit_code;
}
