/* What each operation does to the tables, and the load at start. Transactions and threads are
 * ledger.c's. */
#include <stdio.h>
#include <stdlib.h>

#include "base/size.h"
#include "broker/ledger_sql.h"

bool ledger_kind_writes(enum ledger_kind kind)
{
    return kind != LEDGER_FETCH && kind != LEDGER_BARRIER;
}

bool ledger_kind_syncs(enum ledger_kind kind)
{
    return ledger_kind_writes(kind) && kind != LEDGER_GRANT && kind != LEDGER_RETURN;
}

/* ---- statements ---- */

static void bind_u64(sqlite3_stmt *s, int at, uint64_t v)
{
    sqlite3_bind_int64(s, at, (sqlite3_int64)v);
}

static void bind_text(sqlite3_stmt *s, int at, struct str t)
{
    sqlite3_bind_text64(s, at, t.data == NULL ? "" : t.data, t.len, SQLITE_STATIC, SQLITE_UTF8);
}

static void bind_blob(sqlite3_stmt *s, int at, struct str t)
{
    sqlite3_bind_blob64(s, at, t.data == NULL ? "" : t.data, t.len, SQLITE_STATIC);
}

static uint64_t column_u64(sqlite3_stmt *s, int at)
{
    return (uint64_t)sqlite3_column_int64(s, at);
}

/* Copied into the arena; data NULL when out of memory. */
static struct str column_copy(sqlite3_stmt *s, int at, struct arena *arena)
{
    const void *bytes = sqlite3_column_blob(s, at);
    size_t len = (size_t)sqlite3_column_bytes(s, at);
    return (struct str){arena_copy(arena, bytes == NULL ? "" : bytes, len), len};
}

/* One step. *ret_row (may be NULL) says whether there is a row. A statement without one is reset.
 */
static enum err step(struct ledger *l, sqlite3_stmt *s, bool *ret_row, struct err_msg *why)
{
    int rc = sqlite3_step(s);
    if (rc == SQLITE_ROW && ret_row != NULL) {
        *ret_row = true;
        return ERR_OK;
    }
    enum err e = ERR_OK;
    if (rc != SQLITE_DONE && rc != SQLITE_ROW)
        e = ledger_sql_err(l, "write", why);
    sqlite3_reset(s);
    sqlite3_clear_bindings(s);
    if (e == ERR_OK && ret_row != NULL)
        *ret_row = false;
    return e;
}

static void done_with(sqlite3_stmt *s)
{
    sqlite3_reset(s);
    sqlite3_clear_bindings(s);
}

static enum err out_of_memory(struct ledger *l, struct err_msg *why)
{
    return err_set(why, ERR_NOMEM, "ledger %s: out of memory", l->path);
}

struct found_batch {
    uint64_t id;
    bool sealed, cancelled;
};

/* Sets op->err when there is none. */
static enum err find_batch(struct ledger *l, struct ledger_op *op, struct str name,
                           struct found_batch *ret, struct err_msg *why)
{
    sqlite3_stmt *s = l->stmts[STMT_FIND_BATCH];
    bool row;
    bind_text(s, 1, name);
    enum err e = step(l, s, &row, why);
    if (e != ERR_OK)
        return e;
    if (!row) {
        op->err = err_set(&op->why, ERR_NOT_FOUND, "no batch \"%.*s\" here", STR_ARG(name));
        return ERR_OK;
    }
    *ret = (struct found_batch){column_u64(s, 0), column_u64(s, 1) != 0, column_u64(s, 2) != 0};
    done_with(s);
    return ERR_OK;
}

/* ---- clients' operations ---- */

static enum err batch_new(struct ledger *l, struct ledger_op *op, struct err_msg *why)
{
    struct ledger_batch *b = &op->batch_new.batch;
    sqlite3_stmt *s = l->stmts[STMT_FIND_BATCH];
    bool row;
    bind_text(s, 1, b->name);
    enum err e = step(l, s, &row, why);
    if (e != ERR_OK)
        return e;
    op->batch_new.ret_existed = row;
    if (!row) {
        s = l->stmts[STMT_ADD_BATCH];
        bind_text(s, 1, b->name);
        bind_text(s, 2, b->model);
        bind_text(s, 3, b->options_hash);
        bind_text(s, 4, b->options_text);
        bind_u64(s, 5, b->priority);
        bind_u64(s, 6, b->max_attempts);
        bind_u64(s, 7, b->created_ms);
        e = step(l, s, NULL, why);
        b->id = (uint64_t)sqlite3_last_insert_rowid(l->db);
        return e;
    }
    struct ledger_batch there = {.id = column_u64(s, 0),
                                 .name = b->name,
                                 .model = column_copy(s, 3, &op->arena),
                                 .options_hash = column_copy(s, 4, &op->arena),
                                 .options_text = column_copy(s, 5, &op->arena),
                                 .priority = column_u64(s, 6),
                                 .max_attempts = column_u64(s, 7),
                                 .created_ms = column_u64(s, 8),
                                 .sealed_ms = column_u64(s, 1),
                                 .cancelled = column_u64(s, 2) != 0};
    done_with(s);
    if (there.model.data == NULL || there.options_hash.data == NULL ||
        there.options_text.data == NULL)
        return out_of_memory(l, why);
    if (!str_eq(there.options_hash, b->options_hash))
        op->err = err_set(&op->why, ERR_CONFLICT,
                          "batch \"%.*s\" exists with other options: it has %.*s, now asked: %.*s",
                          STR_ARG(b->name), STR_ARG(there.options_text), STR_ARG(b->options_text));
    *b = there;
    return ERR_OK;
}

static enum err next_seq(struct ledger *l, uint64_t batch, uint64_t *ret, struct err_msg *why)
{
    sqlite3_stmt *s = l->stmts[STMT_LAST_SEQ];
    bool row;
    bind_u64(s, 1, batch);
    enum err e = step(l, s, &row, why);
    if (e != ERR_OK)
        return e;
    *ret = (row ? column_u64(s, 0) : 0) + 1;
    done_with(s);
    return ERR_OK;
}

/* The job leaves the unfinished; *ret_changed false: it was finished already. */
static enum err finish(struct ledger *l, uint64_t now_ms, uint64_t batch, enum ledger_state state,
                       const struct ledger_result *r, bool *ret_changed, struct err_msg *why)
{
    uint64_t seq = 0;
    enum err e = next_seq(l, batch, &seq, why);
    if (e != ERR_OK)
        return e;
    sqlite3_stmt *s = l->stmts[STMT_FINISH_JOB];
    bind_u64(s, 1, r->job);
    bind_u64(s, 2, (uint64_t)state);
    bind_u64(s, 3, seq);
    bind_u64(s, 4, now_ms);
    bind_u64(s, 5, r->epoch);
    bind_u64(s, 6, r->attempts);
    bind_u64(s, 7, r->prompt_tokens);
    bind_u64(s, 8, r->completion_tokens);
    e = step(l, s, NULL, why);
    if (e != ERR_OK)
        return e;
    *ret_changed = sqlite3_changes(l->db) == 1;
    if (!*ret_changed || state == LEDGER_CANCELLED)
        return ERR_OK;
    s = l->stmts[STMT_ADD_RESULT];
    bind_u64(s, 1, r->job);
    bind_blob(s, 2, r->body);
    return step(l, s, NULL, why);
}

static enum err add_line(struct ledger *l, struct ledger_op *op, uint64_t batch,
                         const struct rec_LINE *line, uint64_t *ret_job, struct err_msg *why)
{
    sqlite3_stmt *s = l->stmts[STMT_ADD_JOB];
    bind_u64(s, 1, batch);
    bind_u64(s, 2, line->line);
    bind_u64(s, 3, line->hash);
    bind_u64(s, 4, line->body.len);
    bind_u64(s, 5, op->now_ms);
    enum err e = step(l, s, NULL, why);
    if (e != ERR_OK)
        return e;
    uint64_t job = (uint64_t)sqlite3_last_insert_rowid(l->db);
    s = l->stmts[STMT_ADD_REQUEST];
    bind_u64(s, 1, job);
    bind_text(s, 2, line->custom_id);
    bind_blob(s, 3,
              (struct str){(const char *)line->prefix_hashes.items,
                           line->prefix_hashes.count * sizeof(uint64_t)});
    bind_blob(s, 4, line->body);
    e = step(l, s, NULL, why);
    if (e == ERR_OK && line->refusal.len > 0) {
        struct ledger_result r = {.job = job, .body = line->refusal};
        bool changed;
        e = finish(l, op->now_ms, batch, LEDGER_FAILED, &r, &changed, why);
    }
    if (e == ERR_OK)
        *ret_job = job;
    return e;
}

static enum err submit_lines(struct ledger *l, struct ledger_op *op,
                             const struct found_batch *batch, struct err_msg *why)
{
    for (size_t i = 0; i < op->submit.count; i++) {
        const struct rec_LINE *line = &op->submit.lines[i];
        sqlite3_stmt *s = l->stmts[STMT_FIND_LINE];
        bool row;
        bind_u64(s, 1, batch->id);
        bind_u64(s, 2, line->line);
        enum err e = step(l, s, &row, why);
        if (e != ERR_OK)
            return e;
        op->err_line = line->line;
        if (row) {
            bool same = column_u64(s, 1) == line->hash;
            done_with(s);
            op->submit.ret_duplicates++;
            if (same)
                continue;
            op->err = err_set(&op->why, ERR_CONFLICT,
                              "line %llu of batch \"%.*s\" was submitted with another content: "
                              "the input was edited since",
                              (unsigned long long)line->line, STR_ARG(op->submit.batch));
            return ERR_OK;
        }
        if (batch->sealed || batch->cancelled) {
            op->err = err_set(&op->why, ERR_CONFLICT,
                              "line %llu is new, but batch \"%.*s\" is %s and takes no more lines",
                              (unsigned long long)line->line, STR_ARG(op->submit.batch),
                              batch->cancelled ? "cancelled" : "sealed");
            return ERR_OK;
        }
        e = add_line(l, op, batch->id, line, &op->submit.ret_jobs[i], why);
        if (e != ERR_OK)
            return e;
        op->submit.ret_accepted++;
    }
    op->err_line = 0;
    return ERR_OK;
}

static enum err submit(struct ledger *l, struct ledger_op *op, struct err_msg *why)
{
    struct found_batch batch;
    enum err e = find_batch(l, op, op->submit.batch, &batch, why);
    if (e != ERR_OK || op->err != ERR_OK)
        return e;
    op->submit.ret_batch = batch.id;
    op->submit.ret_jobs = arena_alloc(&op->arena, op->submit.count, sizeof(uint64_t));
    if (op->submit.ret_jobs == NULL)
        return out_of_memory(l, why);
    /* all or none: a conflict takes this operation's own lines back, not its group's */
    e = ledger_exec(l, "SAVEPOINT submit", why);
    if (e == ERR_OK)
        e = submit_lines(l, op, &batch, why);
    if (e == ERR_OK && op->err != ERR_OK)
        e = ledger_exec(l, "ROLLBACK TO submit", why);
    if (e == ERR_OK)
        e = ledger_exec(l, "RELEASE submit", why);
    return e;
}

static enum err seal(struct ledger *l, struct ledger_op *op, struct err_msg *why)
{
    struct found_batch batch;
    enum err e = find_batch(l, op, op->seal.batch, &batch, why);
    if (e != ERR_OK || op->err != ERR_OK)
        return e;
    op->seal.ret_batch = batch.id;
    sqlite3_stmt *s = l->stmts[STMT_COUNT_LINES];
    bool row;
    bind_u64(s, 1, batch.id);
    e = step(l, s, &row, why);
    if (e != ERR_OK)
        return e;
    uint64_t lines = row ? column_u64(s, 0) : 0;
    done_with(s);
    if (lines != op->seal.lines) {
        op->err = err_set(
            &op->why, ERR_CONFLICT, "batch \"%.*s\" has %llu lines here, the input %llu",
            STR_ARG(op->seal.batch), (unsigned long long)lines, (unsigned long long)op->seal.lines);
        return ERR_OK;
    }
    s = l->stmts[STMT_SEAL_BATCH];
    bind_u64(s, 1, batch.id);
    bind_u64(s, 2, op->now_ms);
    return step(l, s, NULL, why);
}

/* The jobs to cancel: all unfinished, or those of the lines named. */
static enum err jobs_to_cancel(struct ledger *l, struct ledger_op *op, uint64_t batch,
                               struct err_msg *why)
{
    bool all = op->cancel.count == 0;
    uint64_t room = op->cancel.count;
    enum err e = ERR_OK;
    bool row = false;
    sqlite3_stmt *s = l->stmts[all ? STMT_COUNT_LINES : STMT_FIND_LINE];
    if (all) {
        bind_u64(s, 1, batch);
        e = step(l, s, &row, why);
        if (e != ERR_OK)
            return e;
        room = row ? column_u64(s, 0) : 0;
        done_with(s);
    }
    op->cancel.ret_jobs = arena_alloc(&op->arena, room, sizeof(uint64_t));
    if (op->cancel.ret_jobs == NULL)
        return out_of_memory(l, why);
    if (all) {
        s = l->stmts[STMT_UNFINISHED];
        bind_u64(s, 1, batch);
        while ((e = step(l, s, &row, why)) == ERR_OK && row)
            op->cancel.ret_jobs[op->cancel.ret_count++] = column_u64(s, 0);
        return e;
    }
    for (size_t i = 0; i < op->cancel.count; i++) {
        bind_u64(s, 1, batch);
        bind_u64(s, 2, op->cancel.lines[i]);
        e = step(l, s, &row, why);
        if (e != ERR_OK)
            return e;
        if (row && column_u64(s, 2) == LEDGER_UNFINISHED)
            op->cancel.ret_jobs[op->cancel.ret_count++] = column_u64(s, 0);
        done_with(s);
    }
    return ERR_OK;
}

static enum err cancel(struct ledger *l, struct ledger_op *op, struct err_msg *why)
{
    struct found_batch batch;
    enum err e = find_batch(l, op, op->cancel.batch, &batch, why);
    if (e != ERR_OK || op->err != ERR_OK)
        return e;
    op->cancel.ret_batch = batch.id;
    e = jobs_to_cancel(l, op, batch.id, why);
    size_t kept = 0;
    for (size_t i = 0; i < op->cancel.ret_count && e == ERR_OK; i++) {
        struct ledger_result r = {.job = op->cancel.ret_jobs[i]};
        bool changed = false;
        e = finish(l, op->now_ms, batch.id, LEDGER_CANCELLED, &r, &changed, why);
        if (changed) /* a line named twice is cancelled once */
            op->cancel.ret_jobs[kept++] = r.job;
    }
    op->cancel.ret_count = kept;
    op->cancel.ret_whole = op->cancel.count == 0 && (kept > 0 || !batch.sealed);
    if (e != ERR_OK || !op->cancel.ret_whole)
        return e;
    sqlite3_stmt *s = l->stmts[STMT_CANCEL_BATCH];
    bind_u64(s, 1, batch.id);
    return step(l, s, NULL, why);
}

/* ---- workers' operations ---- */

static enum err store_result(struct ledger *l, struct ledger_op *op, struct ledger_result *r,
                             struct err_msg *why)
{
    sqlite3_stmt *s = l->stmts[STMT_FIND_JOB];
    bool row, changed = false;
    bind_u64(s, 1, r->job);
    enum err e = step(l, s, &row, why);
    if (e != ERR_OK)
        return e;
    r->ret_outcome = 2;
    if (!row)
        return ERR_OK;
    uint64_t batch = column_u64(s, 0), state = column_u64(s, 1), epoch = column_u64(s, 2);
    done_with(s);
    if (state != LEDGER_UNFINISHED) {
        if (state != LEDGER_CANCELLED && epoch == r->epoch)
            r->ret_outcome = 1;
        return ERR_OK;
    }
    if (!r->accept)
        return ERR_OK;
    e = finish(l, op->now_ms, batch, r->failed ? LEDGER_FAILED : LEDGER_DONE, r, &changed, why);
    if (e == ERR_OK && changed)
        r->ret_outcome = 0;
    return e;
}

static enum err note_leases(struct ledger *l, struct ledger_op *op, struct err_msg *why)
{
    enum err e = ERR_OK;
    for (size_t i = 0; i < op->grant.count && e == ERR_OK; i++) {
        sqlite3_stmt *s = l->stmts[STMT_LEASE_JOB];
        bind_u64(s, 1, op->grant.items[i].job);
        bind_u64(s, 2, op->grant.items[i].epoch);
        e = step(l, s, NULL, why);
    }
    return e;
}

static enum err note_return(struct ledger *l, struct ledger_op *op, struct err_msg *why)
{
    sqlite3_stmt *s = l->stmts[STMT_RETURN_JOB];
    bind_u64(s, 1, op->returned.job);
    bind_u64(s, 2, op->returned.attempts);
    enum err e = step(l, s, NULL, why);
    if (e != ERR_OK || !op->returned.counted)
        return e;
    s = l->stmts[STMT_ADD_ATTEMPT];
    bind_u64(s, 1, op->returned.job);
    bind_u64(s, 2, op->now_ms);
    bind_text(s, 3, op->returned.reason);
    return step(l, s, NULL, why);
}

enum err ledger_run_write(struct ledger *l, struct ledger_op *op, struct err_msg *why)
{
    enum err e = ERR_OK;
    switch (op->kind) {
    case LEDGER_BATCH_NEW:
        return batch_new(l, op, why);
    case LEDGER_SUBMIT:
        return submit(l, op, why);
    case LEDGER_SEAL:
        return seal(l, op, why);
    case LEDGER_CANCEL:
        return cancel(l, op, why);
    case LEDGER_RESULTS:
        for (size_t i = 0; i < op->results.count && e == ERR_OK; i++)
            e = store_result(l, op, &op->results.items[i], why);
        return e;
    case LEDGER_GRANT:
        return note_leases(l, op, why);
    case LEDGER_RETURN:
        return note_return(l, op, why);
    case LEDGER_FETCH:
    case LEDGER_BARRIER:
        break;
    }
    return ERR_OK;
}

/* ---- reads ---- */

static enum err load_bodies(struct ledger *l, struct ledger_op *op, struct err_msg *why)
{
    for (size_t i = 0; i < op->grant.count; i++) {
        struct ledger_grant *g = &op->grant.items[i];
        sqlite3_stmt *s = l->stmts[STMT_LOAD_REQUEST];
        bool row;
        bind_u64(s, 1, g->job);
        enum err e = step(l, s, &row, why);
        if (e != ERR_OK)
            return e;
        if (!row)
            return err_set(why, ERR_FORMAT, "ledger %s: job %llu has no request", l->path,
                           (unsigned long long)g->job);
        g->ret_custom_id = column_copy(s, 0, &op->arena);
        g->ret_body = column_copy(s, 1, &op->arena);
        done_with(s);
        if (g->ret_custom_id.data == NULL || g->ret_body.data == NULL)
            return out_of_memory(l, why);
    }
    return ERR_OK;
}

static const struct str state_names[] = {
    [LEDGER_UNFINISHED] = {"", 0},
    [LEDGER_DONE] = {"done", 4},
    [LEDGER_FAILED] = {"failed", 6},
    [LEDGER_CANCELLED] = {"cancelled", 9},
};

static enum err fetch(struct ledger *l, struct ledger_op *op, struct err_msg *why)
{
    struct found_batch batch;
    enum err e = find_batch(l, op, op->fetch.batch, &batch, why);
    if (e != ERR_OK || op->err != ERR_OK)
        return e != ERR_OK ? e : op->err;
    op->fetch.ret_items = arena_alloc(&op->arena, op->fetch.max, sizeof *op->fetch.ret_items);
    if (op->fetch.ret_items == NULL)
        return out_of_memory(l, why);
    sqlite3_stmt *s = l->stmts[op->fetch.by_line ? STMT_FETCH_BY_LINE : STMT_FETCH_BY_SEQ];
    bind_u64(s, 1, batch.id);
    bind_u64(s, 2, min_u64(op->fetch.after, INT64_MAX));
    bind_u64(s, 3, op->fetch.max);
    uint64_t bytes = 0;
    bool row = false;
    while (op->fetch.ret_count < op->fetch.max && (e = step(l, s, &row, why)) == ERR_OK && row) {
        uint64_t state = column_u64(s, 2);
        bytes += (uint64_t)sqlite3_column_bytes(s, 7);
        if (op->fetch.ret_count > 0 && bytes > op->fetch.max_bytes)
            break;
        struct rec_FETCHED *f = &op->fetch.ret_items[op->fetch.ret_count];
        *f = (struct rec_FETCHED){.seq = column_u64(s, 0),
                                  .line = column_u64(s, 1),
                                  .custom_id = column_copy(s, 6, &op->arena),
                                  .state = state_names[state < ARRAY_LEN(state_names) ? state : 0],
                                  .body = column_copy(s, 7, &op->arena),
                                  .attempts = column_u64(s, 3),
                                  .submitted_ms = column_u64(s, 4),
                                  .finished_ms = column_u64(s, 5)};
        if (f->custom_id.data == NULL || f->body.data == NULL) {
            e = out_of_memory(l, why);
            break;
        }
        op->fetch.ret_count++;
    }
    done_with(s);
    return e;
}

enum err ledger_run_read(struct ledger *l, struct ledger_op *op, struct err_msg *why)
{
    if (op->kind == LEDGER_GRANT)
        return load_bodies(l, op, why);
    if (op->kind == LEDGER_FETCH)
        return fetch(l, op, why);
    return ERR_OK;
}

/* ---- load at start ---- */

static enum err load_counts(struct ledger *l, uint64_t batch, uint64_t counts[4], uint64_t sums[3],
                            struct err_msg *why)
{
    sqlite3_stmt *s = NULL;
    if (sqlite3_prepare_v2(
            l->db,
            "SELECT state, count(*), total(prompt_tokens), total(completion_tokens), "
            "max(finished_ms) FROM job WHERE batch=?1 GROUP BY state",
            -1, &s, NULL) != SQLITE_OK)
        return ledger_sql_err(l, "load", why);
    bind_u64(s, 1, batch);
    int rc;
    while ((rc = sqlite3_step(s)) == SQLITE_ROW) {
        uint64_t state = column_u64(s, 0);
        if (state < 4)
            counts[state] = column_u64(s, 1);
        sums[0] += column_u64(s, 2);
        sums[1] += column_u64(s, 3);
        sums[2] = max_u64(sums[2], column_u64(s, 4));
    }
    enum err e = rc == SQLITE_DONE ? ERR_OK : ledger_sql_err(l, "load", why);
    sqlite3_finalize(s);
    return e;
}

static struct str column_str(sqlite3_stmt *s, int at)
{
    const char *text = (const char *)sqlite3_column_text(s, at);
    return (struct str){text, (size_t)sqlite3_column_bytes(s, at)};
}

static enum err load_rows(struct ledger *l, const char *sql, const struct ledger_loader *loader,
                          void *user, int what, struct err_msg *why)
{
    sqlite3_stmt *s = NULL;
    if (sqlite3_prepare_v2(l->db, sql, -1, &s, NULL) != SQLITE_OK)
        return ledger_sql_err(l, "load", why);
    enum err e = ERR_OK;
    int rc = SQLITE_DONE;
    while (e == ERR_OK && (rc = sqlite3_step(s)) == SQLITE_ROW) {
        if (what == 0) {
            struct ledger_batch b = {.id = column_u64(s, 0),
                                     .name = column_str(s, 1),
                                     .model = column_str(s, 2),
                                     .priority = column_u64(s, 3),
                                     .max_attempts = column_u64(s, 4),
                                     .created_ms = column_u64(s, 5),
                                     .sealed_ms = column_u64(s, 6),
                                     .cancelled = column_u64(s, 7) != 0};
            uint64_t counts[4] = {0}, sums[3] = {0};
            e = load_counts(l, b.id, counts, sums, why);
            if (e != ERR_OK)
                break;
            e = loader->on_batch(user, &b, counts, sums[0], sums[1], sums[2]);
        } else if (what == 1) {
            e = loader->on_job(user, column_u64(s, 1), column_u64(s, 0), column_u64(s, 2),
                               column_u64(s, 3), column_u64(s, 4), column_u64(s, 5),
                               column_u64(s, 6) != 0);
        } else {
            const char *reason = (const char *)sqlite3_column_text(s, 1);
            e = loader->on_attempt(user, column_u64(s, 0), reason == NULL ? "" : reason);
        }
        if (e != ERR_OK)
            err_set(why, e, "ledger %s: load: %s", l->path, err_name(e));
    }
    if (e == ERR_OK && rc != SQLITE_DONE)
        e = ledger_sql_err(l, "load", why);
    sqlite3_finalize(s);
    return e;
}

enum err ledger_load(struct ledger *l, const struct ledger_loader *loader, void *user,
                     struct err_msg *why)
{
    enum err e = load_rows(l,
                           "SELECT id, name, model, priority, max_attempts, created_ms, sealed_ms, "
                           "cancelled FROM batch ORDER BY id",
                           loader, user, 0, why);
    if (e == ERR_OK)
        e = load_rows(l,
                      "SELECT id, batch, line, body_bytes, attempts, epoch, leased FROM job "
                      "WHERE state=0 ORDER BY batch, line",
                      loader, user, 1, why);
    if (e == ERR_OK)
        e = load_rows(l,
                      "SELECT a.job, a.reason FROM attempt a JOIN job j ON j.id=a.job "
                      "WHERE j.state=0 ORDER BY a.id",
                      loader, user, 2, why);
    return e;
}
