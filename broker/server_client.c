/* Clients: batches, lines, status, results, cancelling. Every answer that promises something is
 * sent from the operation's completion, after the synced commit. */
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/size.h"
#include "broker/server_internal.h"

enum { DEFAULT_PRIORITY = 100, MAX_STATUS = 65536 };

static void reply_error(struct server_op *op)
{
    const char *code = "internal";
    switch (op->op.err) {
    case ERR_NOT_FOUND:
        code = "not_found";
        break;
    case ERR_CONFLICT:
        code = "conflict";
        break;
    case ERR_IO:
    case ERR_FULL:
    case ERR_FORMAT:
    case ERR_NOMEM:
        code = "storage";
        break;
    default:
        break;
    }
    server_error(op->s, &op->peer, op->seq, code, op->op.why.text, op->op.err_line);
}

/* True: answered with the operation's error, and freed. */
static bool failed(struct server_op *op)
{
    if (op->op.err == ERR_OK)
        return false;
    reply_error(op);
    server_op_free(op);
    return true;
}

static bool has_room(struct server *s, const struct proto_peer *from)
{
    if (s->pending_bytes > MAX_PENDING_BYTES)
        return false;
    for (const struct pending *p = s->pendings; p != NULL; p = p->next) {
        if (p->peer.len == from->len && memcmp(p->peer.id, from->id, from->len) == 0)
            return p->count < MAX_PEER_PENDING && p->bytes < MAX_PEER_PENDING_BYTES;
    }
    return true;
}

/* NULL: refused, and the client was told. */
static struct server_op *client_op(struct server *s, const struct proto_peer *from, uint64_t seq,
                                   enum ledger_kind kind, void (*done)(struct ledger_op *op))
{
    struct server_op *op = NULL;
    if (has_room(s, from))
        op = server_op_new(s, from, kind, done);
    if (op == NULL) {
        server_error(s, from, seq, "full", "too many requests wait for the ledger: try again later",
                     0);
        return NULL;
    }
    op->client = true;
    op->seq = seq;
    return op;
}

static void submit_or_refuse(struct server_op *op, bool whole, size_t bytes)
{
    if (whole) {
        server_op_submit(op, bytes);
        return;
    }
    server_error(op->s, &op->peer, op->seq, "full", "out of memory: try again later", 0);
    server_op_free(op);
}

/* ---- a batch's picture ---- */

static struct rec_BATCH picture(const struct server *s, const struct batch *b,
                                struct err_msg *problem)
{
    const struct batch_counts *c = &b->counts;
    uint64_t finished = c->done + c->failed + c->cancelled;
    bool complete = c->total == finished;
    worker_problem(s, b, problem);
    struct rec_BATCH r = {.batch = str_of(b->name),
                          .priority = b->priority,
                          .model = str_of(b->model),
                          .created_ms = b->created_ms,
                          .total = c->total,
                          .queued = b->heap_len,
                          .leased = b->leased,
                          .done = c->done,
                          .failed = c->failed,
                          .cancelled = c->cancelled,
                          .prompt_tokens = c->prompt_tokens,
                          .completion_tokens = c->completion_tokens,
                          .running_tokens = jobs_running_tokens(s->jobs, b),
                          .sealed = b->sealed,
                          .problem = str_of(problem->text)};
    if (b->cancelled && complete) {
        r.state = STR_LIT("cancelled");
        r.completed_ms = c->last_finished_ms;
    } else if (!b->sealed) {
        r.state = STR_LIT("open");
    } else if (complete) {
        r.state = STR_LIT("completed");
        r.completed_ms = max_u64(c->last_finished_ms, b->sealed_ms);
    } else {
        r.state = STR_LIT("in_progress");
    }
    return r;
}

/* ---- BATCH_NEW ---- */

static enum err know_batch(struct server *s, const struct ledger_batch *lb, struct batch **ret)
{
    struct batch *b = jobs_batch(s->jobs, lb->id);
    if (b != NULL) {
        *ret = b;
        return ERR_OK;
    }
    char *name = strndup(lb->name.data, lb->name.len);
    char *model = strndup(lb->model.data == NULL ? "" : lb->model.data, lb->model.len);
    struct batch like = {.id = lb->id,
                         .name = name,
                         .model = model,
                         .created_ms = lb->created_ms,
                         .priority = (uint32_t)lb->priority,
                         .max_attempts = (uint32_t)lb->max_attempts};
    enum err e = name == NULL || model == NULL ? ERR_NOMEM : jobs_add_batch(s->jobs, &like, ret);
    free(name);
    free(model);
    return e;
}

static void batch_new_done(struct ledger_op *ledger_op)
{
    struct server_op *op = (struct server_op *)ledger_op;
    struct server *s = op->s;
    struct batch *b = NULL;
    if (failed(op))
        return;
    if (know_batch(s, &ledger_op->batch_new.batch, &b) != ERR_OK) {
        server_error(s, &op->peer, op->seq, "full", "out of memory: try again later", 0);
        server_op_free(op);
        return;
    }
    if (!ledger_op->batch_new.ret_existed)
        log_info("batch created batch=%s priority=%u model=%s", b->name, b->priority, b->model);
    struct err_msg problem;
    struct rec_BATCH r = picture(s, b, &problem);
    struct msg m = {.type = MSG_TYPE_BATCH_OK};
    m.batch_ok.seq = op->seq;
    m.batch_ok.existed = ledger_op->batch_new.ret_existed;
    m.batch_ok.batches.items = &r;
    m.batch_ok.batches.count = 1;
    server_send(s, &op->peer, &m);
    server_op_free(op);
}

static void batch_new(struct server *s, const struct proto_peer *from,
                      const struct msg_batch_new *m)
{
    if (m->batch.len == 0 || memchr(m->batch.data, '\0', m->batch.len) != NULL ||
        (m->model.len > 0 && memchr(m->model.data, '\0', m->model.len) != NULL)) {
        server_error(s, from, m->seq, "bad_message",
                     "BATCH_NEW: expected a batch id of 1 to 128 bytes, without NUL", 0);
        return;
    }
    struct server_op *op = client_op(s, from, m->seq, LEDGER_BATCH_NEW, batch_new_done);
    if (op == NULL)
        return;
    struct ledger_batch *b = &op->op.batch_new.batch;
    *b = (struct ledger_batch){.name = m->batch,
                               .model = m->model,
                               .options_hash = m->options_hash,
                               .options_text = m->options_text,
                               .priority = m->priority == 0 ? DEFAULT_PRIORITY : m->priority,
                               .max_attempts =
                                   m->max_attempts == 0 ? s->o.max_attempts : m->max_attempts,
                               .created_ms = op->op.now_ms};
    struct arena *a = &op->op.arena;
    submit_or_refuse(op,
                     server_copy(a, &b->name) && server_copy(a, &b->model) &&
                         server_copy(a, &b->options_hash) && server_copy(a, &b->options_text),
                     m->options_text.len);
}

/* ---- SUBMIT ---- */

static enum err know_lines(struct server *s, struct ledger_op *op, struct batch *b)
{
    enum err e = ERR_OK;
    for (size_t i = 0; i < op->submit.count && e == ERR_OK; i++) {
        const struct rec_LINE *line = &op->submit.lines[i];
        if (op->submit.ret_jobs[i] == 0)
            continue;
        b->counts.total++;
        if (line->refusal.len > 0) {
            b->counts.failed++;
            b->counts.last_finished_ms = op->now_ms;
            continue;
        }
        struct job like = {.id = op->submit.ret_jobs[i],
                           .line = line->line,
                           .body_bytes = (uint32_t)line->body.len};
        e = jobs_add(s->jobs, b, &like);
    }
    return e;
}

static void submit_done(struct ledger_op *ledger_op)
{
    struct server_op *op = (struct server_op *)ledger_op;
    struct server *s = op->s;
    if (failed(op))
        return;
    struct batch *b = jobs_batch(s->jobs, ledger_op->submit.ret_batch);
    if (b == NULL || know_lines(s, ledger_op, b) != ERR_OK) {
        /* they are in the ledger, but not in our picture: only a start can read them again */
        log_error("out of memory for submitted lines: restart the broker to run them");
        server_error(s, &op->peer, op->seq, "internal",
                     "the broker ran out of memory: the lines are stored and run after its restart",
                     0);
        server_op_free(op);
        return;
    }
    struct msg m = {.type = MSG_TYPE_SUBMIT_OK};
    m.submit_ok.seq = op->seq;
    m.submit_ok.accepted = ledger_op->submit.ret_accepted;
    m.submit_ok.duplicates = ledger_op->submit.ret_duplicates;
    server_send(s, &op->peer, &m);
    server_op_free(op);
}

static bool copy_lines(struct server_op *op, const struct msg_submit *m, size_t *bytes)
{
    struct arena *a = &op->op.arena;
    struct rec_LINE *lines = arena_alloc(a, m->lines.count, sizeof *lines);
    op->op.submit.lines = lines;
    op->op.submit.count = m->lines.count;
    op->op.submit.batch = m->batch;
    bool whole = lines != NULL && server_copy(a, &op->op.submit.batch);
    for (size_t i = 0; i < m->lines.count && whole; i++) {
        lines[i] = m->lines.items[i];
        size_t hash_bytes = lines[i].prefix_hashes.count * sizeof(uint64_t);
        *bytes +=
            lines[i].body.len + lines[i].refusal.len + lines[i].custom_id.len + hash_bytes + 128;
        whole = server_copy(a, &lines[i].custom_id) && server_copy(a, &lines[i].body) &&
                server_copy(a, &lines[i].refusal);
        struct str hashes = {(const char *)lines[i].prefix_hashes.items, hash_bytes};
        if (whole && hash_bytes > 0) {
            lines[i].prefix_hashes.items =
                (uint64_t *)(void *)arena_copy(a, hashes.data, hashes.len);
            whole = lines[i].prefix_hashes.items != NULL;
        }
    }
    return whole;
}

static void submit(struct server *s, const struct proto_peer *from, const struct msg_submit *m)
{
    for (size_t i = 0; i < m->lines.count; i++) {
        const struct rec_LINE *line = &m->lines.items[i];
        if (line->line == 0 || line->line > INT64_MAX ||
            (line->body.len == 0) == (line->refusal.len == 0)) {
            server_error(s, from, m->seq, "bad_message",
                         "SUBMIT: a line needs a number from 1 and either a body or a refusal",
                         line->line);
            return;
        }
    }
    struct server_op *op = client_op(s, from, m->seq, LEDGER_SUBMIT, submit_done);
    if (op == NULL)
        return;
    size_t bytes = 0;
    bool whole = copy_lines(op, m, &bytes);
    submit_or_refuse(op, whole, bytes);
}

/* ---- SEAL, CANCEL, FETCH ---- */

static void seal_done(struct ledger_op *ledger_op)
{
    struct server_op *op = (struct server_op *)ledger_op;
    if (failed(op))
        return;
    struct batch *b = jobs_batch(op->s->jobs, ledger_op->seal.ret_batch);
    if (b != NULL && !b->sealed) {
        b->sealed = true;
        b->sealed_ms = ledger_op->now_ms;
        server_batch_changed(op->s, b);
    }
    struct msg m = {.type = MSG_TYPE_OK};
    m.ok.seq = op->seq;
    server_send(op->s, &op->peer, &m);
    server_op_free(op);
}

static void seal(struct server *s, const struct proto_peer *from, const struct msg_seal *m)
{
    struct server_op *op = client_op(s, from, m->seq, LEDGER_SEAL, seal_done);
    if (op == NULL)
        return;
    op->op.seal.batch = m->batch;
    op->op.seal.lines = m->lines;
    submit_or_refuse(op, server_copy(&op->op.arena, &op->op.seal.batch), 0);
}

static void cancel_done(struct ledger_op *ledger_op)
{
    struct server_op *op = (struct server_op *)ledger_op;
    if (failed(op))
        return;
    struct batch *b = jobs_batch(op->s->jobs, ledger_op->cancel.ret_batch);
    for (size_t i = 0; i < ledger_op->cancel.ret_count; i++)
        jobs_finished(op->s->jobs, ledger_op->cancel.ret_jobs[i]);
    if (b != NULL) {
        b->counts.cancelled += ledger_op->cancel.ret_count;
        b->cancelled = b->cancelled || ledger_op->cancel.ret_whole;
        if (ledger_op->cancel.ret_count > 0)
            b->counts.last_finished_ms = ledger_op->now_ms;
        log_info("cancelled batch=%s lines=%zu", b->name, ledger_op->cancel.ret_count);
        server_batch_changed(op->s, b);
    }
    struct msg m = {.type = MSG_TYPE_CANCEL_OK};
    m.cancel_ok.seq = op->seq;
    m.cancel_ok.cancelled = ledger_op->cancel.ret_count;
    server_send(op->s, &op->peer, &m);
    server_op_free(op);
}

static void cancel(struct server *s, const struct proto_peer *from, const struct msg_cancel *m)
{
    struct server_op *op = client_op(s, from, m->seq, LEDGER_CANCEL, cancel_done);
    if (op == NULL)
        return;
    struct arena *a = &op->op.arena;
    size_t bytes = m->lines.count * sizeof(uint64_t);
    op->op.cancel.batch = m->batch;
    op->op.cancel.count = m->lines.count;
    op->op.cancel.lines = arena_alloc(a, m->lines.count, sizeof(uint64_t));
    if (op->op.cancel.lines != NULL && bytes > 0)
        memcpy(op->op.cancel.lines, m->lines.items, bytes);
    submit_or_refuse(op, op->op.cancel.lines != NULL && server_copy(a, &op->op.cancel.batch),
                     bytes);
}

static void fetch_done(struct ledger_op *ledger_op)
{
    struct server_op *op = (struct server_op *)ledger_op;
    if (failed(op))
        return;
    struct msg m = {.type = MSG_TYPE_FETCH_OK};
    m.fetch_ok.seq = op->seq;
    m.fetch_ok.results.items = ledger_op->fetch.ret_items;
    m.fetch_ok.results.count = ledger_op->fetch.ret_count;
    server_send(op->s, &op->peer, &m);
    server_op_free(op);
}

static void fetch(struct server *s, const struct proto_peer *from, const struct msg_fetch *m)
{
    struct server_op *op = client_op(s, from, m->seq, LEDGER_FETCH, fetch_done);
    if (op == NULL)
        return;
    op->op.fetch.batch = m->batch;
    op->op.fetch.by_line = m->by_line;
    op->op.fetch.after = m->after;
    op->op.fetch.max = max_u64(1, min_u64(m->max, MAX_MESSAGE_JOBS));
    op->op.fetch.max_bytes = MAX_REPLY_BYTES;
    /* what it may bring back counts: a hundred of them must not fill the memory */
    submit_or_refuse(op, server_copy(&op->op.arena, &op->op.fetch.batch), MAX_REPLY_BYTES);
}

/* ---- STATUS ---- */

static const struct str session_states[] = {
    [SESSION_READY] = {"ready", 5},
    [SESSION_DRAINING] = {"draining", 8},
    [SESSION_LOST] = {"lost", 4},
};

static struct rec_WORKER worker_picture(const struct server *s, const struct session *w)
{
    struct rec_WORKER r = {.worker = str_of(w->worker),
                           .host = str_of(w->host),
                           .device = str_of(w->device),
                           .model = str_of(w->models[0]),
                           .numeric_class = str_of(w->numeric_class),
                           .state = session_states[w->state],
                           .leased = jobs_owned(s->jobs, w->number),
                           .done = w->done,
                           .seen_ms = (s->now_ns - w->seen_ns) / NS_PER_MS};
#define COPY_FIELD(kind, name, limit, need, doc) r.name = w->headroom.name;
    HEADROOM_FIELDS(COPY_FIELD)
#undef COPY_FIELD
    return r;
}

static void status(struct server *s, const struct proto_peer *from, const struct msg_status *m)
{
    struct arena arena = {0};
    struct batch *only = m->batch.len == 0 ? NULL : jobs_find_batch(s->jobs, m->batch);
    if (m->batch.len > 0 && only == NULL) {
        char text[256];
        snprintf(text, sizeof text, "no batch \"%.*s\" here", STR_ARG(m->batch));
        server_error(s, from, m->seq, "not_found", text, 0);
        return;
    }
    size_t batches = only != NULL, workers = 0;
    for (struct batch *b = only == NULL ? jobs_first_batch(s->jobs) : NULL; b != NULL; b = b->next)
        batches++;
    for (struct session *w = s->sessions; w != NULL; w = w->next)
        workers++;
    batches = min_u64(batches, MAX_STATUS);
    struct msg reply = {.type = MSG_TYPE_STATUS_OK};
    struct msg_status_ok *ok = &reply.status_ok;
    ok->seq = m->seq;
    ok->uptime_ms = (s->now_ns - s->started_ns) / NS_PER_MS;
    ok->batches.items = arena_alloc(&arena, batches, sizeof *ok->batches.items);
    ok->workers.items = arena_alloc(&arena, workers, sizeof *ok->workers.items);
    struct err_msg *problems = arena_alloc(&arena, batches, sizeof *problems);
    if (ok->batches.items == NULL || ok->workers.items == NULL || problems == NULL) {
        server_error(s, from, m->seq, "full", "out of memory: try again later", 0);
        arena_free(&arena);
        return;
    }
    const struct batch *b = only == NULL ? jobs_first_batch(s->jobs) : only;
    for (size_t i = 0; i < batches; i++, b = b->next)
        ok->batches.items[i] = picture(s, b, &problems[i]);
    ok->batches.count = batches;
    for (struct session *w = s->sessions; w != NULL; w = w->next)
        ok->workers.items[ok->workers.count++] = worker_picture(s, w);
    server_send(s, from, &reply);
    arena_free(&arena);
}

void client_message(struct server *s, const struct proto_peer *from, const struct msg *m)
{
    switch (m->type) {
    case MSG_TYPE_BATCH_NEW:
        batch_new(s, from, &m->batch_new);
        break;
    case MSG_TYPE_SUBMIT:
        submit(s, from, &m->submit);
        break;
    case MSG_TYPE_SEAL:
        seal(s, from, &m->seal);
        break;
    case MSG_TYPE_STATUS:
        status(s, from, &m->status);
        break;
    case MSG_TYPE_FETCH:
        fetch(s, from, &m->fetch);
        break;
    case MSG_TYPE_CANCEL:
        cancel(s, from, &m->cancel);
        break;
    default:
        server_error(s, from, 0, "bad_message", "a message that only the broker sends", 0);
        break;
    }
}
