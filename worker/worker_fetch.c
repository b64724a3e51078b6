/* Fetching a model from the broker, beside the work: chunk after chunk, written and checked on
 * other threads (fetch.h). */
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "worker/worker_impl.h"

enum { MAX_BAD_CHUNKS = 10 };
static const uint64_t ask_again_ns = 5 * NS_PER_S;

static void end_fetch(struct worker *w)
{
    fetch_close(&w->models.fetch);
    w->models.fetching = false;
    w->models.bad_chunks = 0;
    w->models.scan_ns = 0;
}

static void fetch_failed(struct worker *w, const char *why)
{
    log_warn("a model cannot be fetched, trying again in %d s if it is needed then error=\"%s\"",
             MODELS_RETRY_S, why);
    models_cannot_have(w, w->models.fetch.hash);
    end_fetch(w);
}

/* The next chunk, or the rest of the last one's work. */
static void ask(struct worker *w, uint64_t now_ns)
{
    struct models *m = &w->models;
    m->asked_ns = now_ns;
    (void)session_fetch(w->session, m->fetch.hash, m->fetch.have);
}

enum fetch_step { FETCH_BEGIN, FETCH_WRITE, FETCH_FINISH };

struct fetch_work {
    uv_work_t work;
    struct worker *w;
    enum fetch_step step;
    struct fetch fetch; /* BEGIN */
    char name[PROTO_MAX_ID_BYTES + 1], hash[33];
    uint64_t bytes, offset, sum;
    char *data; /* WRITE: a copy */
    size_t len;
    enum err err;
    struct err_msg why;
};

static void do_fetch(uv_work_t *work)
{
    struct fetch_work *f = work->data;
    struct models *m = &f->w->models;
    const struct worker_options *o = f->w->options;
    if (f->step == FETCH_BEGIN)
        f->err = fetch_open(o->models, str_of(f->hash), str_of(f->name), f->bytes,
                            (uint64_t)o->models_bytes, &f->fetch, &f->why);
    else if (f->step == FETCH_WRITE)
        f->err = fetch_write(&m->fetch, f->offset, (struct str){f->data, f->len}, f->sum, &f->why);
    else
        f->err = fetch_finish(&m->fetch, models_check_file, f->w, &m->stop, &f->why);
}

static void fetch_was_done(uv_work_t *work, int status);

/* False: out of memory. */
static bool begin_work(struct worker *w, struct fetch_work *like)
{
    struct fetch_work *f = malloc(sizeof *f);
    if (f != NULL) {
        *f = *like;
        f->w = w;
        f->work.data = f;
        w->models.fetch_busy = true;
        if (uv_queue_work(&w->loop, &f->work, do_fetch, fetch_was_done) == 0)
            return true;
        w->models.fetch_busy = false;
    }
    free(f);
    free(like->data);
    return false;
}

static void go_on(struct worker *w)
{
    struct models *m = &w->models;
    if (m->fetch.have < m->fetch.bytes)
        ask(w, clock_mono_ns());
    else if (!begin_work(w, &(struct fetch_work){.step = FETCH_FINISH}))
        fetch_failed(w, "out of memory");
}

static void chunk_was_bad(struct worker *w, const struct err_msg *why)
{
    if (++w->models.bad_chunks > MAX_BAD_CHUNKS)
        fetch_failed(w, why->text);
    else
        ask(w, clock_mono_ns());
}

static void fetch_was_done(uv_work_t *work, int status)
{
    struct fetch_work *f = work->data;
    struct worker *w = f->w;
    struct models *m = &w->models;
    (void)status; /* nothing cancels it */
    m->fetch_busy = false;
    if (f->step == FETCH_BEGIN)
        m->fetch = f->fetch;
    if (w->stopping) {
        fetch_close(&m->fetch);
    } else if (f->err == ERR_AGAIN) { /* another process of this machine does it, or has done it */
        end_fetch(w);
    } else if (f->step == FETCH_WRITE && f->err == ERR_PROTO) {
        chunk_was_bad(w, &f->why);
    } else if (f->err != ERR_OK) {
        fetch_failed(w, f->why.text);
    } else if (f->step == FETCH_FINISH) {
        log_info("model fetched path=%s bytes=%llu", m->fetch.path,
                 (unsigned long long)m->fetch.bytes);
        end_fetch(w);
    } else {
        if (f->step == FETCH_BEGIN)
            log_info("fetching a model path=%s bytes=%llu there=%llu", m->fetch.path,
                     (unsigned long long)m->fetch.bytes, (unsigned long long)m->fetch.have);
        m->bad_chunks = 0;
        go_on(w);
    }
    free(f->data);
    free(f);
}

void fetch_take_chunk(struct worker *w, const struct msg_model_chunk *chunk)
{
    struct models *m = &w->models;
    if (!m->fetching || m->fetch_busy || !str_eq(chunk->hash, str_of(m->fetch.hash)) ||
        chunk->offset != m->fetch.have)
        return; /* it comes late */
    if (chunk->data.len == 0) {
        fetch_failed(w, "the broker cannot read it any more");
        return;
    }
    struct fetch_work f = {.step = FETCH_WRITE,
                           .offset = chunk->offset,
                           .sum = chunk->sum,
                           .data = malloc(chunk->data.len),
                           .len = chunk->data.len};
    if (f.data == NULL)
        return; /* it asks again */
    memcpy(f.data, chunk->data.data, f.len);
    (void)begin_work(w, &f); /* or asks again */
}

void fetch_order(struct worker *w, const struct msg_beat_ok *orders)
{
    struct models *m = &w->models;
    struct fetch_work f = {.step = FETCH_BEGIN, .fetch.fd = -1, .bytes = orders->fetch_bytes};
    if (w->options->models == NULL || m->fetching || m->scanning)
        return;
    snprintf(f.hash, sizeof f.hash, "%.*s", STR_ARG(orders->fetch));
    snprintf(f.name, sizeof f.name, "%.*s", STR_ARG(orders->fetch_name));
    snprintf(f.fetch.hash, sizeof f.fetch.hash, "%s", f.hash);
    if (models_has_failed(m, f.hash) || strcmp(m->unfetchable, f.hash) == 0) {
        session_unfetchable(w->session, f.hash);
        return;
    }
    if (catalog_find(&m->catalog, f.hash) != NULL) { /* it has not heard of it yet */
        models_say_hello(w);
        return;
    }
    m->fetching = begin_work(w, &f);
}

/* Asks again for a chunk that does not come; a long one takes its time on a slow wire. */
void fetch_tick(struct worker *w, uint64_t now_ns)
{
    enum { SIGN_BYTES = 32 << 10 }; /* more than answers to heartbeats */
    struct models *m = &w->models;
    if (!m->fetching || m->fetch_busy)
        return;
    uint64_t heard_bytes = proto_socket_moved(w->socket, NULL).received;
    if (heard_bytes - m->heard_bytes >= SIGN_BYTES) {
        m->heard_bytes = heard_bytes;
        m->asked_ns = now_ns;
    } else if (now_ns - m->asked_ns >= ask_again_ns) {
        ask(w, now_ns);
    }
}
