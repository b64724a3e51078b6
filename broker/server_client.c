/* Clients: batches, lines, results, cancelling. Every answer that promises something is
 * sent from the operation's completion, after the synced commit. */
#include <stdio.h>
#include <stdlib.h>

#include "base/log.h"
#include "base/size.h"
#include "broker/server_internal.h"

enum { DEFAULT_PRIORITY = 100 };

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

/* NULL: refused, and the client was told. */
static struct server_op *client_op(struct server *s, const struct proto_peer *from, uint64_t seq,
                                   enum ledger_kind kind, void (*done)(struct ledger_op *op))
{
    struct server_op *op = NULL;
    if (server_has_room(s, from, SIDE_CLIENTS))
        op = server_op_new(s, from, kind, done);
    if (op == NULL) {
        server_error(s, from, seq, "full", "too many requests wait for the ledger: try again later",
                     0);
        return NULL;
    }
    op->side = SIDE_CLIENTS;
    op->counted = true;
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
    char *client = strndup(lb->client.data == NULL ? "" : lb->client.data, lb->client.len);
    struct batch like = {.id = lb->id,
                         .name = name,
                         .model = model,
                         .client = client,
                         .created_ms = lb->created_ms,
                         .schedule = lb->schedule,
                         .max_attempts = (uint32_t)lb->max_attempts};
    enum err e = name == NULL || model == NULL || client == NULL
                     ? ERR_NOMEM
                     : jobs_add_batch(s->jobs, &like, ret);
    free(name);
    free(model);
    free(client);
    return e;
}

static void reply_batch(struct server_op *op, struct batch *b, bool existed)
{
    struct err_msg problem;
    worker_count_leases(op->s);
    struct rec_BATCH r = status_batch(op->s, b, &problem);
    struct msg m = {.type = MSG_TYPE_BATCH_OK};
    m.batch_ok.seq = op->seq;
    m.batch_ok.existed = existed;
    m.batch_ok.batches.items = &r;
    m.batch_ok.batches.count = 1;
    struct err_msg warning;
    models_warning(op->s, b->model, &warning);
    m.batch_ok.warning = str_of(warning.text);
    server_send(op->s, &op->peer, &m);
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
    if (op->owner != NULL && strcmp(op->owner, b->client) != 0) {
        /* somebody else's of that name was on its way to the ledger before */
        access_refuse_batch(s, &op->peer, op->seq, str_of(b->name), op->owner);
        server_op_free(op);
        return;
    }
    if (!ledger_op->batch_new.ret_existed) {
        unsigned priority = (unsigned)b->schedule.priority;
        log_info("batch created batch=%s priority=%u model=%s", b->name, priority, b->model);
        server_event(s, EVENT_BATCH_CREATED, b->name, "priority %u%s%s", priority,
                     b->model[0] == '\0' ? "" : ", model ", b->model);
    }
    reply_batch(op, b, ledger_op->batch_new.ret_existed);
    server_op_free(op);
}

static void batch_new(struct server *s, const struct proto_peer *from,
                      const struct msg_batch_new *m)
{
    if (m->batch.len == 0 || memchr(m->batch.data, '\0', m->batch.len) != NULL ||
        (m->model.len > 0 && memchr(m->model.data, '\0', m->model.len) != NULL) ||
        (m->client.len > 0 && memchr(m->client.data, '\0', m->client.len) != NULL)) {
        server_refuse(s, from, m->seq,
                      "BATCH_NEW: expected a batch id of 1 to 128 bytes, without NUL", 0);
        return;
    }
    if (jobs_batch_count(s->jobs) >= MAX_BATCHES && jobs_find_batch(s->jobs, m->batch) == NULL) {
        server_error(s, from, m->seq, "too_large",
                     "BATCH_NEW: this ledger has 65536 batches, and takes no more: start a broker "
                     "with another one",
                     0);
        return;
    }
    struct server_op *op = client_op(s, from, m->seq, LEDGER_BATCH_NEW, batch_new_done);
    if (op == NULL)
        return;
    struct ledger_batch *b = &op->op.batch_new.batch;
    *b = (struct ledger_batch){.name = m->batch,
                               .model = m->model,
                               .client = s->who != NULL ? str_of(access_name(s)) : m->client,
                               .options_hash = m->options_hash,
                               .options_text = m->options_text,
                               .max_attempts =
                                   m->max_attempts == 0 ? s->o.max_attempts : m->max_attempts,
                               .created_ms = op->op.now_ms};
    PROTO_COPY(SCHEDULE_FIELDS, &b->schedule, m);
    if (b->schedule.priority == 0)
        b->schedule.priority = DEFAULT_PRIORITY;
    struct arena *a = &op->op.arena;
    bool whole = server_copy(a, &b->name) && server_copy(a, &b->model) &&
                 server_copy(a, &b->client) && server_copy(a, &b->options_hash) &&
                 server_copy(a, &b->options_text);
    if (access_owner(s) != NULL)
        op->owner = b->client.data; /* the ledger puts that of the stored one in its place */
    submit_or_refuse(op, whole, m->options_text.len);
}

static void batch_set_done(struct ledger_op *ledger_op)
{
    struct server_op *op = (struct server_op *)ledger_op;
    struct server *s = op->s;
    if (failed(op))
        return;
    struct batch *b = jobs_batch(s->jobs, ledger_op->batch_set.ret_batch);
    if (b == NULL || jobs_reschedule(s->jobs, b, &ledger_op->batch_set.schedule) != ERR_OK) {
        server_error(s, &op->peer, op->seq, "full",
                     "out of memory: the change is stored and counts from the broker's restart", 0);
    } else {
        log_info("batch changed batch=%s priority=%u paused=%d", b->name,
                 (unsigned)b->schedule.priority, b->schedule.paused);
        server_event(s, EVENT_BATCH_CHANGED, b->name, "priority %u%s",
                     (unsigned)b->schedule.priority, b->schedule.paused ? ", paused" : "");
        reply_batch(op, b, true);
    }
    server_op_free(op);
}

static void batch_set(struct server *s, const struct proto_peer *from,
                      const struct msg_batch_set *m)
{
    const struct batch *b = jobs_find_batch(s->jobs, m->batch);
    if (b != NULL && b->expired) {
        server_error(s, from, m->seq, "conflict", "the batch's deadline has passed: it is over", 0);
        return;
    }
    struct server_op *op = client_op(s, from, m->seq, LEDGER_BATCH_SET, batch_set_done);
    if (op == NULL)
        return;
    struct rec_SCHEDULE *schedule = &op->op.batch_set.schedule;
    op->op.batch_set.batch = m->batch;
    op->op.batch_set.changes = m->changes;
    PROTO_COPY(SCHEDULE_FIELDS, schedule, m);
    if (schedule->priority == 0)
        schedule->priority = DEFAULT_PRIORITY;
    submit_or_refuse(op, server_copy(&op->op.arena, &op->op.batch_set.batch), 0);
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
                           .body_bytes = (uint32_t)line->body.len,
                           .prefix = op->submit.prefixes[i]};
        e = jobs_add(s->jobs, b, &like);
    }
    return e;
}

static void submit_done(struct ledger_op *ledger_op)
{
    struct server_op *op = (struct server_op *)ledger_op;
    struct server *s = op->s;
    if (ledger_op->err == ERR_RANGE && op->quota_batch != NULL) {
        quota_refuse(op);
        server_op_free(op);
        return;
    }
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
    op->op.submit.prefixes = arena_alloc(a, m->lines.count, sizeof *op->op.submit.prefixes);
    bool whole =
        lines != NULL && op->op.submit.prefixes != NULL && server_copy(a, &op->op.submit.batch);
    for (size_t i = 0; i < m->lines.count && whole; i++) {
        lines[i] = m->lines.items[i];
        op->op.submit.prefixes[i] =
            jobs_prefix(op->s->jobs, lines[i].prefix_hashes.items, lines[i].prefix_hashes.count);
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
            server_refuse(s, from, m->seq,
                          "SUBMIT: a line needs a number from 1 and either a body or a refusal",
                          line->line);
            return;
        }
    }
    struct batch *b = jobs_find_batch(s->jobs, m->batch);
    if (b == NULL) { /* also one that is on its way to the ledger: nothing would count its lines */
        char text[PROTO_MAX_ID_BYTES + 100];
        snprintf(text, sizeof text, "no batch \"%.*s\" here", STR_ARG(m->batch));
        server_error(s, from, m->seq, "not_found", text, 0);
        return;
    }
    struct server_op *op = client_op(s, from, m->seq, LEDGER_SUBMIT, submit_done);
    if (op == NULL)
        return;
    size_t bytes = 0;
    bool whole = copy_lines(op, m, &bytes);
    if (whole)
        quota_reserve(op, b);
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
        server_event(op->s, EVENT_BATCH_SEALED, b->name, "%llu lines",
                     (unsigned long long)b->counts.total);
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

static void cancel_done(struct ledger_op *ledger_op);

/* Submits what goes on where `done` has stopped, so that others come in between; NULL: no memory,
 * or the broker stops. */
static struct server_op *next_piece(const struct server_op *done)
{
    const struct ledger_op *o = &done->op;
    struct server_op *op =
        done->s->closing ? NULL : server_op_new(done->s, &done->peer, o->kind, o->done);
    if (op == NULL)
        return NULL;
    op->side = SIDE_CLIENTS;
    op->counted = true;
    op->seq = done->seq;
    return op;
}

static bool submit_piece(struct server_op *op, bool whole, size_t bytes)
{
    if (whole)
        server_op_submit(op, bytes);
    else
        server_op_free(op);
    return whole;
}

/* The first of them now, the others by the operations behind this one. False: out of memory. */
static bool take_lines(struct server_op *op, struct u64s lines)
{
    size_t bytes = lines.count * sizeof *lines.items;
    uint64_t *copy = arena_alloc(&op->op.arena, lines.count, sizeof *copy);
    if (copy == NULL)
        return false;
    if (bytes > 0)
        memcpy(copy, lines.items, bytes);
    size_t now = min_u64(lines.count, MAX_CANCEL_JOBS);
    op->op.cancel.lines = copy;
    op->op.cancel.count = now;
    op->op.cancel.max = now == 0 ? MAX_CANCEL_JOBS : 0;
    op->lines.items = copy + now;
    op->lines.count = lines.count - now;
    return true;
}

/* What is large is cancelled in pieces, so that nobody else waits long. False: no memory. */
static bool cancel_more(const struct server_op *done)
{
    struct server_op *op = next_piece(done);
    if (op == NULL)
        return false;
    op->cancelled = done->cancelled + done->op.cancel.ret_count;
    op->op.cancel.batch = done->op.cancel.batch;
    op->op.cancel.after = done->op.cancel.after;
    bool whole = take_lines(op, done->lines) && server_copy(&op->op.arena, &op->op.cancel.batch);
    return submit_piece(op, whole, 0);
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
        server_batch_changed(op->s, b);
    }
    bool more = ledger_op->cancel.ret_more || op->lines.count > 0;
    if (more && cancel_more(op)) {
        server_op_free(op);
        return;
    }
    if (more) {
        server_error(op->s, &op->peer, op->seq, "full", "cancelled in part: try again later", 0);
    } else {
        struct msg m = {.type = MSG_TYPE_CANCEL_OK};
        m.cancel_ok.seq = op->seq;
        m.cancel_ok.cancelled = op->cancelled + ledger_op->cancel.ret_count;
        if (b != NULL) {
            log_info("cancelled batch=%s lines=%llu", b->name,
                     (unsigned long long)m.cancel_ok.cancelled);
            server_event(op->s, EVENT_BATCH_CANCELLED, b->name, "%llu lines",
                         (unsigned long long)m.cancel_ok.cancelled);
        }
        server_send(op->s, &op->peer, &m);
    }
    server_op_free(op);
}

static void cancel(struct server *s, const struct proto_peer *from, const struct msg_cancel *m)
{
    struct server_op *op = client_op(s, from, m->seq, LEDGER_CANCEL, cancel_done);
    if (op == NULL)
        return;
    op->op.cancel.batch = m->batch;
    bool whole = take_lines(op, m->lines) && server_copy(&op->op.arena, &op->op.cancel.batch);
    submit_or_refuse(op, whole, 0);
}

/* In the place of a result that is damaged stands what is wrong with it. False: out of memory. */
static bool say_damaged(struct ledger_op *op)
{
    size_t count = 0;
    bool whole = true;
    for (size_t i = 0; op->fetch.ret_damaged != NULL && i < op->fetch.ret_count && whole; i++) {
        struct str why = op->fetch.ret_damaged[i];
        struct rec_FETCHED *f = &op->fetch.ret_items[i];
        char text[600];
        if (why.len == 0)
            continue;
        snprintf(text, sizeof text, "storage: the result cannot be read: %.*s", STR_ARG(why));
        f->state = STR_LIT("failed");
        whole = server_failure(&op->arena, "storage", text, &f->body);
        if (count++ == 0)
            log_warn("results cannot be read, the others go out batch=%.*s first=%llu error=\"%s\"",
                     STR_ARG(op->fetch.batch), (unsigned long long)f->line, text);
    }
    return whole;
}

/* Most lines of a large batch may not be finished: they are gone over in pieces. False: no memory.
 */
static bool fetch_more(const struct server_op *done)
{
    struct server_op *op = next_piece(done);
    if (op == NULL)
        return false;
    op->op.fetch.batch = done->op.fetch.batch;
    op->op.fetch.by_line = true;
    op->op.fetch.after = done->op.fetch.after;
    op->op.fetch.max = done->op.fetch.max;
    op->op.fetch.max_bytes = MAX_REPLY_BYTES;
    op->op.fetch.max_looks = MAX_FETCH_LOOKS;
    return submit_piece(op, server_copy(&op->op.arena, &op->op.fetch.batch), MAX_REPLY_BYTES);
}

static void fetch_done(struct ledger_op *ledger_op)
{
    struct server_op *op = (struct server_op *)ledger_op;
    if (failed(op))
        return;
    if (ledger_op->fetch.ret_more && fetch_more(op)) {
        server_op_free(op);
        return;
    }
    if (ledger_op->fetch.ret_more || !say_damaged(ledger_op)) {
        server_error(op->s, &op->peer, op->seq, "full", "out of memory: try again later", 0);
        server_op_free(op);
        return;
    }
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
    op->op.fetch.max_looks = MAX_FETCH_LOOKS;
    /* what it may bring back counts: a hundred of them must not fill the memory */
    submit_or_refuse(op, server_copy(&op->op.arena, &op->op.fetch.batch), MAX_REPLY_BYTES);
}

void client_message(struct server *s, const struct proto_peer *from, const struct msg *m)
{
    switch (m->type) {
    case MSG_TYPE_BATCH_NEW:
        batch_new(s, from, &m->batch_new);
        break;
    case MSG_TYPE_BATCH_SET:
        batch_set(s, from, &m->batch_set);
        break;
    case MSG_TYPE_SUBMIT:
        submit(s, from, &m->submit);
        break;
    case MSG_TYPE_SEAL:
        seal(s, from, &m->seal);
        break;
    case MSG_TYPE_STATUS:
        status_reply(s, from, &m->status);
        break;
    case MSG_TYPE_FETCH:
        fetch(s, from, &m->fetch);
        break;
    case MSG_TYPE_CANCEL:
        cancel(s, from, &m->cancel);
        break;
    case MSG_TYPE_BACKUP:
        keep_backup(s, from, &m->backup);
        break;
    case MSG_TYPE_DRAIN:
        worker_drain(s, from, &m->drain);
        break;
    case MSG_TYPE_MODELS:
        models_list(s, from, &m->models);
        break;
    case MSG_TYPE_EVENTS:
        watch_events(s, from, &m->events);
        break;
    default:
        server_refuse(s, from, 0, "a message that only the broker sends", 0);
        break;
    }
}
