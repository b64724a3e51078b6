/* Models: what is in the broker's folder (read on another thread), which worker loads or fetches
 * which (models.h decides), and both in words. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/size.h"
#include "broker/server_internal.h"

enum {
    SCAN_EVERY_S = 60,
    DECIDE_EVERY_MS = 250,
    DECIDE_SHARE = 50,
    CANNOT_S = 330,
    MAX_NAMES_SHOWN = 8
};

/* ---- the folder ---- */

struct folder_scan {
    uv_work_t work;
    struct server *s;
    struct catalog found;
    enum err err;
    struct err_msg why;
};

static void scan_folder(uv_work_t *work)
{
    struct folder_scan *scan = work->data;
    struct models *m = &scan->s->models;
    struct catalog_options o = {.dir = scan->s->o.models, .stop = &m->stop};
    scan->err = catalog_scan(&o, &m->catalog, &scan->found, &scan->why);
}

void models_know(const struct server *s, struct session *w)
{
    for (size_t i = 0; i < w->model_count; i++) {
        const struct catalog_file *f = catalog_find(&s->models.catalog, w->models[i].hash);
        w->models[i].also = f == NULL ? NULL : f->name;
    }
}

static void folder_was_scanned(uv_work_t *work, int status)
{
    struct folder_scan *scan = work->data;
    struct server *s = scan->s;
    struct models *m = &s->models;
    m->scanning = false;
    if (status == 0 && scan->err == ERR_OK) {
        if (!catalog_same(&m->catalog, &scan->found))
            log_info("models to fetch folder=%s files=%zu", s->o.models, scan->found.count);
        catalog_free(&m->catalog);
        m->catalog = scan->found;
        for (struct session *w = s->sessions; w != NULL; w = w->next)
            models_know(s, w); /* the names were in the old one */
        m->said_bad = false;
    } else if (status == 0 && scan->err != ERR_CANCELLED && !m->said_bad) {
        m->said_bad = true;
        log_error("the models stay as they were error=\"%s\"", scan->why.text);
    }
    free(scan);
    server_handle_closed(s);
}

static void begin_scan(struct server *s)
{
    struct models *m = &s->models;
    if (s->o.models == NULL || m->scanning || s->now_ns < m->scan_ns)
        return;
    struct folder_scan *scan = calloc(1, sizeof *scan);
    if (scan == NULL)
        return; /* the timer comes again */
    scan->s = s;
    scan->work.data = scan;
    m->scan_ns = s->now_ns + SCAN_EVERY_S * NS_PER_S;
    m->scanning = uv_queue_work(s->loop, &scan->work, scan_folder, folder_was_scanned) == 0;
    s->open_handles += m->scanning;
    if (!m->scanning)
        free(scan);
}

void models_reload(struct server *s)
{
    s->models.scan_ns = 0;
}

void models_close(struct server *s)
{
    atomic_store(&s->models.stop, true);
}

static const struct catalog_file *find_file(const struct server *s, const char *model)
{
    const struct catalog *c = &s->models.catalog;
    for (size_t i = 0; i < c->count; i++) {
        const struct catalog_file *f = &c->files[i];
        if (f->hash[0] != '\0' && (strcmp(f->hash, model) == 0 || strcmp(f->name, model) == 0))
            return f;
    }
    return NULL;
}

/* ---- who loads or fetches which ---- */

/* What waits, in order of priority and age. */
static size_t gather_demands(const struct server *s, struct models_demand *ret)
{
    struct models_demand any = {.model = "", .fetchable = ""};
    size_t count = 0;
    for (const struct batch *b = jobs_first_waiting(s->jobs); b != NULL; b = b->next_waiting) {
        size_t at = 0;
        uint64_t waiting = batch_waiting(b), body_bytes = b->bytes / (waiting + b->leased);
        double tokens = (double)waiting * (double)batch_job_tokens(b, body_bytes);
        if (!batch_may_start(s->jobs, b) && b->leased == 0)
            continue;
        if (b->model[0] == '\0') {
            any.priority = max_u64(any.priority, b->schedule.priority);
            any.tokens += tokens;
            continue;
        }
        while (at < count && strcmp(ret[at].model, b->model) != 0)
            at++;
        if (at == MODELS_MAX_DEMANDS - 1)
            continue; /* the first ones end some time */
        if (at == count) {
            const struct catalog_file *f = find_file(s, b->model);
            ret[count++] = (struct models_demand){.model = b->model,
                                                  .priority = b->schedule.priority,
                                                  .fetchable = f == NULL ? "" : f->hash,
                                                  .bytes = f == NULL ? 0 : f->bytes};
        }
        ret[at].tokens += tokens;
    }
    if (count > 0 && any.priority > 0)
        ret[count++] = any;
    return count;
}

/* NULL: it may. */
static const char *cannot(const struct server *s, const struct session *w, size_t i)
{
    return s->now_ns < w->cannot[i].until_ns ? w->cannot[i].hash : NULL;
}

static bool may_have(const struct server *s, const struct session *w, const char *hash)
{
    for (size_t i = 0; i < MODELS_MAX_CANNOT; i++) {
        if (cannot(s, w, i) != NULL && strcmp(w->cannot[i].hash, hash) == 0)
            return false;
    }
    return true;
}

/* Instead of what would have been forgotten first. */
static void note_cannot(struct server *s, struct session *w, const char *hash, bool deadly)
{
    size_t at = 0;
    for (size_t i = 1; i < MODELS_MAX_CANNOT; i++)
        at = w->cannot[i].until_ns < w->cannot[at].until_ns ? i : at;
    snprintf(w->cannot[at].hash, sizeof w->cannot[at].hash, "%s", hash);
    w->cannot[at].until_ns = s->now_ns + CANNOT_S * NS_PER_S;
    w->cannot[at].deadly = deadly;
    log_warn("%s, it is not told to have it for a while worker=%s hash=%s wait_s=%d",
             deadly ? "worker ended while it was to load a model" : "worker cannot have a model",
             w->worker, hash, CANNOT_S);
}

/* A model that takes its worker's process with it would do so again and again. */
void models_take_over(struct server *s, struct session *w, const struct session *old,
                      bool same_process)
{
    memcpy(w->cannot, old->cannot, sizeof w->cannot);
    if (old->load[0] != '\0' && !same_process)
        note_cannot(s, w, old->load, true);
}

static struct models_worker picture(const struct server *s, const struct session *w)
{
    struct models_worker r = {.files = w->models,
                              .count = w->model_count,
                              .ready = w->state == SESSION_READY && !w->stalled,
                              .loading = w->load,
                              .fetches = w->fetches,
                              .fetching = w->fetch,
                              .load_s = (double)w->load_ms / 1000,
                              .loaded_s = (double)(s->now_ns - w->hello_ns) / (double)NS_PER_S,
                              .tokens_per_s = w->best_tokens_per_s};
    for (size_t i = 0; i < MODELS_MAX_CANNOT; i++)
        r.cannot[i] = cannot(s, w, i);
    return r;
}

size_t models_fetching(const struct server *s)
{
    size_t count = 0;
    for (const struct session *w = s->sessions; w != NULL; w = w->next)
        count += w->state != SESSION_LOST && w->fetch[0] != '\0';
    return count;
}

static void obey(struct server *s, struct session *w, const struct models_order *o)
{
    char *hash = o->fetch ? w->fetch : w->load;
    snprintf(hash, sizeof w->load, "%s", o->hash);
    log_info("worker is to %s a model worker=%s model=%s hash=%s", o->fetch ? "fetch" : "load",
             w->worker, o->demand->model, o->hash);
    server_event(s, o->fetch ? EVENT_MODEL_FETCHING : EVENT_MODEL_LOADING, w->worker, "model %s",
                 o->demand->model);
}

static void decide(struct server *s)
{
    struct models_demand demands[MODELS_MAX_DEMANDS] = {0};
    struct models_order order;
    size_t demand_count = gather_demands(s, demands), count = 0;
    if (demand_count == 0) {
        s->models.state.count = 0;
        return;
    }
    for (const struct session *w = s->sessions; w != NULL; w = w->next)
        count++;
    struct models_worker *workers = calloc(count + 1, sizeof *workers);
    struct session **sessions = calloc(count + 1, sizeof(struct session *));
    count = 0;
    for (struct session *w = s->sessions; workers != NULL && sessions != NULL && w != NULL;
         w = w->next) {
        if (w->state != SESSION_READY)
            continue;
        sessions[count] = w;
        workers[count++] = picture(s, w);
    }
    while (count > 0 && models_decide(&s->models.state, demands, demand_count, workers, count,
                                      s->now_ns, &order)) {
        if (order.fetch && models_fetching(s) >= MAX_FETCHING)
            break;
        obey(s, sessions[order.worker], &order);
        workers[order.worker] = picture(s, sessions[order.worker]);
    }
    free(workers);
    free(sessions);
}

void models_tick(struct server *s)
{
    begin_scan(s);
    if (s->now_ns < s->models.decide_ns)
        return;
    decide(s);
    uint64_t took_ns = clock_mono_ns() - s->now_ns; /* long with thousands of workers */
    s->models.decide_ns = s->now_ns + max_u64(DECIDE_EVERY_MS * NS_PER_MS, DECIDE_SHARE * took_ns);
}

void models_beat(struct server *s, struct session *w, struct str unfetchable,
                 struct msg_beat_ok *ret)
{
    char hash[sizeof w->load];
    snprintf(hash, sizeof hash, "%.*s", STR_ARG(unfetchable));
    if (hash[0] != '\0' && may_have(s, w, hash))
        note_cannot(s, w, hash, false);
    if (!may_have(s, w, w->fetch))
        w->fetch[0] = '\0';
    if (!may_have(s, w, w->load))
        w->load[0] = '\0';
    /* Behind the GRANT that still waits for the ledger, after which there is none: an order that
     * overtakes it has its jobs handed back, and the worker changes once more for these. */
    if (w->grant == NULL)
        ret->load = str_of(w->load);
    const struct catalog_file *f = catalog_find(&s->models.catalog, w->fetch);
    if (f == NULL) {
        w->fetch[0] = '\0';
        return;
    }
    ret->fetch = str_of(w->fetch);
    ret->fetch_name = str_of(f->name);
    ret->fetch_bytes = f->bytes;
}

/* ---- in words ---- */

/* The names there are, into `out`, each once. */
static void name_models(const struct server *s, char *out, size_t size)
{
    const char *names[MAX_NAMES_SHOWN];
    size_t count = 0, used = 0, more = 0;
    out[0] = '\0';
    for (const struct session *w = s->sessions; w != NULL; w = w->next) {
        for (size_t i = 0; i < w->model_count && w->state != SESSION_LOST; i++) {
            size_t at = 0;
            while (at < count && strcmp(names[at], w->models[i].name) != 0)
                at++;
            if (at == count && count < MAX_NAMES_SHOWN)
                names[count++] = w->models[i].name;
            else if (at == count)
                more++;
        }
    }
    for (size_t i = 0; i < count && used < size; i++)
        used += (size_t)snprintf(out + used, size - used, "%s%.60s", i == 0 ? "" : ", ", names[i]);
    if (more > 0 && used < size)
        snprintf(out + used, size - used, ", ...");
}

/* Of connected workers, as for a model. */
struct supply {
    size_t connected, ready, loaded, has, may_fetch;   /* the last ones of ready workers */
    size_t leaving;                                    /* of those that drain, who has it */
    const struct session *loading, *fetching, *deadly; /* one of them; NULL: none */
    const struct models_file
        *renamed;                    /* the file, of a name that is not the broker's; NULL: none */
    const struct catalog_file *file; /* the broker's */
};

static const struct models_file *find_same(const struct session *w, const char *hash)
{
    for (size_t i = 0; i < w->model_count; i++) {
        if (strcmp(w->models[i].hash, hash) == 0)
            return &w->models[i];
    }
    return NULL;
}

static struct supply supply_of(const struct server *s, const char *model)
{
    struct supply r = {.file = find_file(s, model)};
    for (const struct session *w = s->sessions; w != NULL; w = w->next) {
        size_t at = 0;
        if (w->state == SESSION_LOST)
            continue;
        while (at < w->model_count && !models_suits(&w->models[at], model))
            at++;
        bool has = at < w->model_count;
        r.connected++;
        if (w->state != SESSION_READY) {
            r.leaving += has;
            continue;
        }
        r.ready++;
        r.has += has;
        for (size_t i = 0; has && i < MODELS_MAX_CANNOT; i++) {
            if (cannot(s, w, i) != NULL && w->cannot[i].deadly &&
                strcmp(w->cannot[i].hash, w->models[at].hash) == 0)
                r.deadly = w;
        }
        r.loaded += has && at == 0 && w->load[0] == '\0';
        if (has && strcmp(w->load, w->models[at].hash) == 0)
            r.loading = w;
        if (r.file != NULL && strcmp(w->fetch, r.file->hash) == 0)
            r.fetching = w;
        const struct models_file *same = has || r.file == NULL ? NULL : find_same(w, r.file->hash);
        r.renamed = same != NULL ? same : r.renamed;
        r.may_fetch += r.file != NULL && same == NULL && w->fetches && may_have(s, w, r.file->hash);
    }
    return r;
}

static void say_nobody(const struct server *s, const char *model, const struct supply *r,
                       struct err_msg *ret)
{
    char names[400];
    name_models(s, names, sizeof names);
    if (r->renamed != NULL)
        err_set(ret, ERR_OK, "who has the file of model %s has it as %s: ask for that, or for %s",
                model, r->renamed->name, r->renamed->hash);
    else if (r->file != NULL)
        err_set(ret, ERR_OK,
                "no worker has model %s or can fetch it from the broker (workers with --models "
                "DIR do; there is: %s)",
                model, names);
    else if (r->leaving > 0)
        err_set(ret, ERR_OK, "the workers that have model %s are draining", model);
    else
        err_set(ret, ERR_OK, "no worker has model %s (there is: %s)", model, names);
}

void models_problem(const struct server *s, const char *model, struct err_msg *ret)
{
    struct supply r = supply_of(s, model);
    if (r.ready == 0 || r.loaded > 0)
        return;
    if (r.loading != NULL)
        err_set(ret, ERR_OK, "worker %s loads model %s", r.loading->worker, model);
    else if (r.deadly != NULL)
        err_set(ret, ERR_OK, "worker %s ended when it was to load model %s: not again for a while",
                r.deadly->worker, model);
    else if (r.has > 0)
        err_set(ret, ERR_OK, "waits for its turn: who has model %s runs another one now", model);
    else if (r.fetching != NULL)
        err_set(ret, ERR_OK, "worker %s fetches model %s from the broker", r.fetching->worker,
                model);
    else if (r.may_fetch > 0)
        err_set(ret, ERR_OK, "waits for a worker to fetch model %s from the broker", model);
    else
        say_nobody(s, model, &r, ret);
}

/* A batch that asks for no model may be answered by each of them. */
static void warn_of_several(const struct server *s, struct err_msg *ret)
{
    const char *first = NULL;
    for (const struct session *w = s->sessions; w != NULL; w = w->next) {
        for (size_t i = 0; i < w->model_count && w->state != SESSION_LOST; i++) {
            if (first != NULL && strcmp(first, w->models[i].hash) != 0) {
                char names[400];
                name_models(s, names, sizeof names);
                err_set(ret, ERR_OK,
                        "workers have several models (%s), any may answer a line: --model chooses",
                        names);
                return;
            }
            first = w->models[i].hash;
        }
    }
}

void models_warning(const struct server *s, const char *model, struct err_msg *ret)
{
    const char *hash = NULL;
    struct supply r = supply_of(s, model);
    ret->text[0] = '\0';
    if (r.connected == 0 && model[0] != '\0')
        err_set(ret, ERR_OK, "no worker is connected now that has model %s", model);
    else if (r.connected == 0)
        err_set(ret, ERR_OK, "no worker is connected now");
    else if (r.ready == 0)
        err_set(ret, ERR_OK, "all workers are draining");
    else if (model[0] == '\0')
        warn_of_several(s, ret);
    if (r.ready == 0 || model[0] == '\0')
        return;
    if (r.has + r.may_fetch == 0) {
        say_nobody(s, model, &r, ret);
        return;
    }
    for (const struct session *w = s->sessions; w != NULL; w = w->next) {
        for (size_t i = 0; i < w->model_count && w->state != SESSION_LOST; i++) {
            if (strcmp(w->models[i].name, model) != 0)
                continue;
            if (hash != NULL && strcmp(hash, w->models[i].hash) != 0) {
                err_set(ret, ERR_OK,
                        "workers have different files of the name %s (%s, %s): either may run a "
                        "line; --model HASH chooses",
                        model, hash, w->models[i].hash);
                return;
            }
            hash = w->models[i].hash;
        }
    }
}

void models_list(struct server *s, const struct proto_peer *from, const struct msg_models *m)
{
    struct arena arena = {0};
    struct msg reply = {.type = MSG_TYPE_MODELS_OK};
    const struct catalog *c = &s->models.catalog;
    size_t room = c->count, count = 0;
    for (const struct session *w = s->sessions; w != NULL; w = w->next)
        room += w->model_count + 1;
    room = min_u64(room, MAX_MODELS_LISTED);
    struct rec_MODEL_AT *items = arena_alloc(&arena, room, sizeof *items);
    for (size_t i = 0; i < c->count && items != NULL && count < room; i++) {
        const struct catalog_file *f = &c->files[i];
        if (f->hash[0] != '\0')
            items[count++] = (struct rec_MODEL_AT){
                .name = str_of(f->name), .hash = str_of(f->hash), .bytes = f->bytes};
    }
    for (const struct session *w = s->sessions; w != NULL && items != NULL; w = w->next) {
        for (size_t i = 0; i < w->model_count && w->state != SESSION_LOST && count < room; i++) {
            const struct models_file *f = &w->models[i];
            bool loading = strcmp(f->hash, w->load) == 0;
            items[count++] =
                (struct rec_MODEL_AT){.name = str_of(f->name),
                                      .hash = str_of(f->hash),
                                      .quantization = str_of(f->quantization),
                                      .bytes = f->bytes,
                                      .worker = str_of(w->worker),
                                      .state = loading                        ? STR_LIT("loading")
                                               : i == 0 && w->load[0] == '\0' ? STR_LIT("loaded")
                                                                              : STR_LIT("there")};
        }
        const struct catalog_file *f = catalog_find(c, w->fetch);
        if (f != NULL && w->state != SESSION_LOST && count < room)
            items[count++] = (struct rec_MODEL_AT){.name = str_of(f->name),
                                                   .hash = str_of(f->hash),
                                                   .bytes = f->bytes,
                                                   .worker = str_of(w->worker),
                                                   .state = STR_LIT("fetching")};
    }
    reply.models_ok.seq = m->seq;
    reply.models_ok.models.items = items;
    reply.models_ok.models.count = count;
    if (items == NULL && room > 0)
        server_error(s, from, m->seq, "full", "out of memory: try again later", 0);
    else
        server_send(s, from, &reply);
    arena_free(&arena);
}
