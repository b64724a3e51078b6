/* Other models than the one that is loaded: what there is (looked at every minute), and changing to
 * another when the broker says so. Files are read, and models loaded, on other threads. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/hash.h"
#include "base/log.h"
#include "base/size.h"
#include "worker/worker_impl.h"

enum { CLOSE_MOST_S = 5 };
static const uint64_t scan_every_ns = 60 * NS_PER_S;

/* ---- what there is ---- */

enum err models_check_file(void *user, const char *path, struct err_msg *why)
{
    const struct worker *w = user;
    struct model *m = NULL;
    struct tokenizer *t = NULL;
    enum err e = model_open(path, &m, why);
    if (e == ERR_OK)
        e = tokenizer_create(m->gguf, w->options->pre_tokenizer, &t, why);
    tokenizer_destroy(&t);
    model_close(&m);
    return e;
}

bool models_has_failed(const struct models *m, const char *hash)
{
    for (size_t i = 0; i < m->failed_count; i++) {
        if (strcmp(m->failed[i], hash) == 0)
            return true;
    }
    return false;
}

/* The loaded one first. */
static void make_list(struct worker *w)
{
    struct models *m = &w->models;
    m->list[0] = (struct rec_MODEL){.name = str_of(w->model_name),
                                    .hash = str_of(w->model_hash),
                                    .quantization = str_of(w->quantization),
                                    .context_tokens = w->context.max_ctx,
                                    .bytes = w->model_bytes};
    m->list_count = 1;
    for (size_t i = 0; i < m->catalog.count; i++) {
        const struct catalog_file *f = &m->catalog.files[i];
        if (f->hash[0] == '\0' || strcmp(f->hash, w->model_hash) == 0 ||
            models_has_failed(m, f->hash))
            continue;
        if (m->list_count < PROTO_MAX_MODELS) {
            m->list[m->list_count++] = (struct rec_MODEL){
                .name = str_of(f->name), .hash = str_of(f->hash), .bytes = f->bytes};
        } else if (!m->said_many) {
            m->said_many = true;
            log_warn("more models than are told to the broker, the others are not used most=%d",
                     PROTO_MAX_MODELS);
        }
    }
    w->session_config.models = m->list;
    w->session_config.models_count = m->list_count;
}

/* Another one for another list. */
static uint64_t list_sum(const struct models *m)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < m->list_count; i++) {
        sum = hash64(m->list[i].name.data, m->list[i].name.len, sum);
        sum = hash64(m->list[i].hash.data, m->list[i].hash.len, sum);
    }
    return sum;
}

void models_say_hello(struct worker *w)
{
    enum err e = session_change(w->session, &w->session_config, clock_mono_ns());
    if (e == ERR_OK)
        return;
    log_error("cannot go on with this model error=\"%s\"", err_name(e));
    w->exit_code = WORKER_EXIT_RESPAWN;
    worker_drain(w, 0, "out of memory");
}

struct folder_scan {
    uv_work_t work;
    struct worker *w;
    struct catalog found;
    enum err err;
    struct err_msg why;
};

static void scan_folder(uv_work_t *work)
{
    struct folder_scan *scan = work->data;
    struct models *m = &scan->w->models;
    struct catalog_options o = {.dir = scan->w->options->models,
                                .extra = scan->w->options->model,
                                .check = models_check_file,
                                .user = scan->w,
                                .stop = &m->stop};
    scan->err = catalog_scan(&o, &m->catalog, &scan->found, &scan->why);
}

static void folder_was_scanned(uv_work_t *work, int status)
{
    struct folder_scan *scan = work->data;
    struct worker *w = scan->w;
    struct models *m = &w->models;
    m->scanning = false;
    (void)status; /* nothing cancels it */
    if (scan->err != ERR_OK && scan->err != ERR_CANCELLED && !m->said_bad)
        log_warn("the models stay as they were error=\"%s\"", scan->why.text);
    m->said_bad = scan->err != ERR_OK;
    if (scan->err == ERR_OK && (w->stopping || m->wanted[0] != '\0')) {
        catalog_free(&scan->found); /* not now: it is about to say HELLO anyway */
        m->scan_ns = 0;
    } else if (scan->err == ERR_OK) {
        uint64_t before = list_sum(m);
        struct catalog old = m->catalog;
        m->catalog = scan->found;
        make_list(w);
        if (list_sum(m) != before) {
            log_info("models to change to folder=%s count=%zu", w->options->models,
                     m->list_count - 1);
            models_say_hello(w);
        }
        catalog_free(&old); /* the list's texts were in it */
    }
    free(scan);
}

static void begin_scan(struct worker *w, uint64_t now_ns)
{
    struct models *m = &w->models;
    if (w->options->models == NULL || m->scanning || m->wanted[0] != '\0' || now_ns < m->scan_ns)
        return;
    struct folder_scan *scan = calloc(1, sizeof *scan);
    if (scan == NULL)
        return; /* the timer comes again */
    scan->w = w;
    scan->work.data = scan;
    m->scan_ns = now_ns + scan_every_ns;
    m->scanning = uv_queue_work(&w->loop, &scan->work, scan_folder, folder_was_scanned) == 0;
    if (!m->scanning)
        free(scan);
}

enum err models_first(struct worker *w, struct err_msg *why)
{
    static const struct catalog none;
    const struct worker_options *o = w->options;
    const char *path = o->model;
    if (path == NULL) {
        struct catalog_options look = {.dir = o->models, .check = models_check_file, .user = w};
        enum err e = catalog_scan(&look, &none, &w->models.catalog, why);
        if (e != ERR_OK)
            return err_prefix(why, e, "--models");
        const struct catalog *c = &w->models.catalog;
        for (size_t i = 0; i < c->count && path == NULL; i++)
            path = c->files[i].hash[0] != '\0' ? c->files[i].path : NULL;
    }
    if (path == NULL)
        return err_set(why, ERR_USAGE, "--models %s: no model there, and no --model to begin with",
                       o->models);
    if ((size_t)snprintf(w->model_path, sizeof w->model_path, "%s", path) >= sizeof w->model_path)
        return err_set(why, ERR_USAGE, "%s: path too long", path);
    return ERR_OK;
}

void models_open(struct worker *w)
{
    if (w->models.hold >= 0)
        close(w->models.hold);
    w->models.hold = w->options->models == NULL ? -1 : fetch_hold(w->model_path);
    make_list(w);
}

void models_reload(struct worker *w)
{
    w->models.failed_count = 0;
    w->models.scan_ns = w->models.retry_ns = 0;
}

/* ---- changing ---- */

/* The broker is not to ask for it again for a while. */
void models_cannot_have(struct worker *w, const char *hash)
{
    struct models *m = &w->models;
    snprintf(m->unfetchable, sizeof m->unfetchable, "%s", hash);
    m->retry_ns = clock_mono_ns() + MODELS_RETRY_S * NS_PER_S;
    session_unfetchable(w->session, hash);
}

static void has_failed_to_load(struct worker *w, const char *hash)
{
    struct models *m = &w->models;
    if (m->failed_count == MODELS_MAX_FAILED) /* the first may be tried again */
        memmove(m->failed[0], m->failed[1], --m->failed_count * sizeof m->failed[0]);
    snprintf(m->failed[m->failed_count++], sizeof m->failed[0], "%s", hash);
    models_cannot_have(w, hash);
}

struct model_load {
    uv_work_t work;
    struct worker *w;
    char path[PATH_MAX], hash[33];
    enum err err, back_err; /* back_err: of the old one, after an error */
    struct err_msg why, back_why;
};

static void load_model(uv_work_t *work)
{
    struct model_load *l = work->data;
    worker_close_model(l->w);
    l->err = worker_open_model(l->w, l->path, &l->why);
    if (l->err != ERR_OK)
        l->back_err = worker_open_model(l->w, l->w->model_path, &l->back_why);
}

/* It holds nothing, and can run nothing. */
static void leave(struct worker *w, enum err e, const char *why)
{
    log_error("no model to go on with error=\"%s\"", why);
    w->exit_code = worker_exit_code(e);
    worker_drain(w, 0, "it has no model");
}

/* There is an engine: the new model's, or the old one's again. */
static void begin_again(struct worker *w, const char *hash)
{
    worker_describe_model(w, hash);
    models_open(w);
    heat_new_engine(w);
    enum err e = worker_loop_begin(w);
    if (e != ERR_OK) {
        leave(w, e, err_name(e));
        return;
    }
    w->loading = false;
    session_pause(w->session, false);
    models_say_hello(w);
}

static void model_was_loaded(uv_work_t *work, int status)
{
    struct model_load *l = work->data;
    struct worker *w = l->w;
    struct models *m = &w->models;
    (void)status; /* nothing cancels it */
    m->load_busy = false;
    m->wanted[0] = '\0';
    if (l->err == ERR_OK) {
        snprintf(w->model_path, sizeof w->model_path, "%s", l->path);
    } else {
        log_warn("a model cannot be loaded, going on with the one before error=\"%s\"",
                 l->why.text);
        has_failed_to_load(w, l->hash);
        snprintf(l->hash, sizeof l->hash, "%s", w->model_hash);
    }
    if (w->engine == NULL)
        leave(w, l->back_err, l->back_why.text);
    else if (!w->stopping && !w->draining)
        begin_again(w, l->hash);
    free(l);
}

/* Once all that it was granted is done, acknowledged or handed back. */
static void begin_load(struct worker *w)
{
    struct models *m = &w->models;
    if (m->wanted[0] == '\0' || w->loading || w->draining || !session_is_idle(w->session))
        return;
    const struct catalog_file *f = catalog_find(&m->catalog, m->wanted);
    struct model_load *l = calloc(1, sizeof *l);
    if (l == NULL)
        return; /* the timer comes again */
    if (f == NULL || !catalog_unchanged(f)) {
        log_warn("a model has gone or is another one, going on with the one before hash=%s",
                 m->wanted);
        models_cannot_have(w, m->wanted);
        m->wanted[0] = '\0';
        m->scan_ns = 0;
        free(l);
        session_pause(w->session, false);
        models_say_hello(w);
        return;
    }
    l->w = w;
    l->work.data = l;
    snprintf(l->path, sizeof l->path, "%s", f->path);
    snprintf(l->hash, sizeof l->hash, "%s", f->hash);
    w->loading = m->load_busy =
        uv_queue_work(&w->loop, &l->work, load_model, model_was_loaded) == 0;
    if (!w->loading)
        free(l);
}

/* ---- the loop's ---- */

void models_orders(struct worker *w, const struct msg_beat_ok *orders)
{
    struct models *m = &w->models;
    if (orders->load.len > 0 && orders->load.len < sizeof m->wanted && m->wanted[0] == '\0' &&
        w->options->models != NULL && !w->loading) {
        snprintf(m->wanted, sizeof m->wanted, "%.*s", STR_ARG(orders->load));
        log_info("changing the model once nothing runs any more hash=%s running=%u", m->wanted,
                 session_running(w->session));
        session_pause(w->session, true);
    }
    if (orders->fetch.len > 0)
        fetch_order(w, orders);
}

void models_tick(struct worker *w, uint64_t now_ns)
{
    struct models *m = &w->models;
    if (w->stopping)
        return;
    begin_scan(w, now_ns);
    begin_load(w);
    if (m->unfetchable[0] != '\0' && now_ns >= m->retry_ns) {
        m->unfetchable[0] = '\0';
        session_unfetchable(w->session, "");
    }
    fetch_tick(w, now_ns);
}

void models_close(struct worker *w)
{
    struct models *m = &w->models;
    atomic_store(&m->stop, true);
    w->stopping = true;
    uint64_t until_ns = clock_mono_ns() + CLOSE_MOST_S * NS_PER_S;
    while (m->load_busy || m->scanning || m->fetch_busy) {
        uv_run(&w->loop, UV_RUN_ONCE);
        if (clock_mono_ns() < until_ns)
            continue;
        /* nothing is held, and a load cannot be stopped: it may take minutes */
        log_info("leaving while a model is loading, or a file being read");
        _exit(w->exit_code);
    }
    fetch_close(&m->fetch);
    if (m->hold >= 0)
        close(m->hold);
}
