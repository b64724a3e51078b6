/* What each operation writes. What is read back is ledger_read.c's, transactions and threads are
 * ledger.c's. */
#include <stdio.h>
#include <stdlib.h>

#include "base/size.h"
#include "broker/ledger_stmt.h"

bool ledger_kind_writes(enum ledger_kind kind)
{
    return kind != LEDGER_FETCH && kind != LEDGER_BARRIER && kind != LEDGER_BACKUP;
}

bool ledger_kind_syncs(enum ledger_kind kind)
{
    return ledger_kind_writes(kind) && kind != LEDGER_GRANT && kind != LEDGER_RETURN &&
           kind != LEDGER_FORGET && kind != LEDGER_NOTE_TIME;
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
        struct str schedule = ledger_encode_schedule(&b->schedule, &op->arena);
        if (schedule.data == NULL)
            return out_of_memory(l, why);
        s = l->stmts[STMT_ADD_BATCH];
        bind_text(s, 1, b->name);
        bind_text(s, 2, b->model);
        bind_text(s, 3, b->options_hash);
        bind_text(s, 4, b->options_text);
        bind_u64(s, 5, b->schedule.priority);
        bind_u64(s, 6, b->max_attempts);
        bind_u64(s, 7, b->created_ms);
        bind_text(s, 8, b->client);
        bind_blob(s, 9, schedule);
        e = step(l, s, NULL, why);
        b->id = (uint64_t)sqlite3_last_insert_rowid(l->db);
        return e;
    }
    struct ledger_batch there = {.id = column_u64(s, 0),
                                 .name = b->name,
                                 .model = column_copy(s, 3, &op->arena),
                                 .options_hash = column_copy(s, 4, &op->arena),
                                 .options_text = column_copy(s, 5, &op->arena),
                                 .schedule = ledger_schedule(s, 6, 10),
                                 .max_attempts = column_u64(s, 7),
                                 .created_ms = column_u64(s, 8),
                                 .client = column_copy(s, 9, &op->arena),
                                 .sealed_ms = column_u64(s, 1),
                                 .cancelled = column_u64(s, 2) != 0};
    done_with(s);
    if (there.model.data == NULL || there.client.data == NULL || there.options_hash.data == NULL ||
        there.options_text.data == NULL)
        return out_of_memory(l, why);
    if (!str_eq(there.options_hash, b->options_hash))
        op->err = err_set(&op->why, ERR_CONFLICT,
                          "batch \"%.*s\" exists with other options: it has %.*s, now asked: %.*s",
                          STR_ARG(b->name), STR_ARG(there.options_text), STR_ARG(b->options_text));
    *b = there;
    return ERR_OK;
}

/* What is not meant stays as it is, also when another change has come in between. */
static enum err keep_others(struct ledger *l, struct ledger_op *op, struct err_msg *why)
{
    uint64_t changes = op->batch_set.changes;
    struct rec_SCHEDULE *to = &op->batch_set.schedule, there;
    sqlite3_stmt *s = l->stmts[STMT_FIND_BATCH];
    bool row;
    bind_text(s, 1, op->batch_set.batch);
    enum err e = step(l, s, &row, why);
    if (e != ERR_OK || !row)
        return e;
    there = ledger_schedule(s, 6, 10);
    done_with(s);
#define KEEP(kind, name, limit, need, doc)                                                         \
    if ((changes & SCHEDULE_BIT(name)) == 0)                                                       \
        to->name = there.name;
    SCHEDULE_FIELDS(KEEP)
#undef KEEP
    return ERR_OK;
}

static enum err batch_set(struct ledger *l, struct ledger_op *op, struct err_msg *why)
{
    struct found_batch batch;
    enum err e = ledger_find_batch(l, op, op->batch_set.batch, &batch, why);
    if (e == ERR_OK && op->err == ERR_OK && op->batch_set.changes != 0)
        e = keep_others(l, op, why);
    if (e != ERR_OK || op->err != ERR_OK)
        return e;
    struct str schedule = ledger_encode_schedule(&op->batch_set.schedule, &op->arena);
    if (schedule.data == NULL)
        return out_of_memory(l, why);
    op->batch_set.ret_batch = batch.id;
    sqlite3_stmt *s = l->stmts[STMT_SET_BATCH];
    bind_u64(s, 1, batch.id);
    bind_u64(s, 2, op->batch_set.schedule.priority);
    bind_blob(s, 3, schedule);
    return step(l, s, NULL, why);
}

static enum err next_seq(struct ledger *l, uint64_t batch, uint64_t *ret, struct err_msg *why)
{
    if (l->seqs[batch % LEDGER_SEQS].batch == batch) {
        *ret = l->seqs[batch % LEDGER_SEQS].next;
        return ERR_OK;
    }
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
    bind_u64(s, 9, r->energy_uj);
    e = step(l, s, NULL, why);
    if (e != ERR_OK)
        return e;
    *ret_changed = sqlite3_changes(l->db) == 1;
    if (*ret_changed) {
        l->seqs[batch % LEDGER_SEQS].batch = batch;
        l->seqs[batch % LEDGER_SEQS].next = seq + 1;
    }
    if (!*ret_changed || state == LEDGER_CANCELLED)
        return ERR_OK;
    s = l->stmts[STMT_ADD_RESULT];
    bind_u64(s, 1, r->job);
    bind_blob(s, 2, r->body);
    return step(l, s, NULL, why);
}

/* *ret_job stays as it is when the line was there already. */
static enum err add_line(struct ledger *l, struct ledger_op *op, uint64_t batch,
                         const struct rec_LINE *line, uint64_t *ret_job, struct err_msg *why)
{
    sqlite3_stmt *s = l->stmts[STMT_ADD_JOB];
    bind_u64(s, 1, batch);
    bind_u64(s, 2, line->line);
    bind_u64(s, 3, line->hash);
    bind_u64(s, 4, line->body.len);
    bind_u64(s, 5, op->now_ms);
    bind_u64(s, 6, op->submit.prefixes == NULL ? 0 : op->submit.prefixes[line - op->submit.lines]);
    enum err e = step(l, s, NULL, why);
    if (e != ERR_OK || sqlite3_changes(l->db) == 0)
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

/* A line that is there: with the same content that is fine. *ret_found false: it is not. */
static enum err check_line(struct ledger *l, struct ledger_op *op, uint64_t batch,
                           const struct rec_LINE *line, bool *ret_found, struct err_msg *why)
{
    sqlite3_stmt *s = l->stmts[STMT_FIND_LINE];
    bind_u64(s, 1, batch);
    bind_u64(s, 2, line->line);
    enum err e = step(l, s, ret_found, why);
    if (e != ERR_OK || !*ret_found)
        return e;
    bool same = column_u64(s, 1) == line->hash;
    done_with(s);
    op->submit.ret_duplicates++;
    if (!same)
        op->err = err_set(&op->why, ERR_CONFLICT,
                          "line %llu of batch \"%.*s\" was submitted with another content: "
                          "the input was edited since",
                          (unsigned long long)line->line, STR_ARG(op->submit.batch));
    return ERR_OK;
}

static enum err submit_line(struct ledger *l, struct ledger_op *op, const struct found_batch *batch,
                            const struct rec_LINE *line, uint64_t *ret_job, struct err_msg *why)
{
    bool closed = batch->sealed || batch->cancelled, found = false;
    enum err e = closed ? ERR_OK : add_line(l, op, batch->id, line, ret_job, why);
    if (e == ERR_OK && *ret_job == 0)
        e = check_line(l, op, batch->id, line, &found, why);
    if (e == ERR_OK && closed && !found)
        op->err = err_set(&op->why, ERR_CONFLICT,
                          "line %llu is new, but batch \"%.*s\" is %s and takes no more lines",
                          (unsigned long long)line->line, STR_ARG(op->submit.batch),
                          batch->cancelled ? "cancelled" : "sealed");
    return e;
}

static enum err submit_lines(struct ledger *l, struct ledger_op *op,
                             const struct found_batch *batch, struct err_msg *why)
{
    uint64_t jobs = 0, bytes = 0;
    for (size_t i = 0; i < op->submit.count; i++) {
        const struct rec_LINE *line = &op->submit.lines[i];
        op->err_line = line->line;
        enum err e = submit_line(l, op, batch, line, &op->submit.ret_jobs[i], why);
        if (e != ERR_OK || op->err != ERR_OK)
            return e;
        if (op->submit.ret_jobs[i] == 0)
            continue;
        op->submit.ret_accepted++;
        jobs += line->refusal.len == 0;
        bytes += line->body.len;
        if (op->submit.limited && (jobs > op->submit.max_jobs || bytes > op->submit.max_bytes)) {
            op->err = err_set(&op->why, ERR_RANGE, "over the quota");
            return ERR_OK;
        }
    }
    op->err_line = 0;
    return ERR_OK;
}

static enum err submit(struct ledger *l, struct ledger_op *op, struct err_msg *why)
{
    struct found_batch batch;
    enum err e = ledger_find_batch(l, op, op->submit.batch, &batch, why);
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
    if (e == ERR_OK && op->err != ERR_OK) {
        memset(l->seqs, 0, sizeof l->seqs);
        e = ledger_exec(l, "ROLLBACK TO submit", why);
    }
    if (e == ERR_OK)
        e = ledger_exec(l, "RELEASE submit", why);
    return e;
}

static enum err seal(struct ledger *l, struct ledger_op *op, struct err_msg *why)
{
    struct found_batch batch;
    enum err e = ledger_find_batch(l, op, op->seal.batch, &batch, why);
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
    uint64_t room = all ? op->cancel.max : op->cancel.count;
    enum err e = ERR_OK;
    bool row = false;
    sqlite3_stmt *s = l->stmts[room == 0 ? STMT_COUNT_LINES : STMT_FIND_LINE];
    if (room == 0) {
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
        bind_u64(s, 2, op->cancel.after);
        bind_u64(s, 3, room);
        while ((e = step(l, s, &row, why)) == ERR_OK && row) {
            op->cancel.ret_jobs[op->cancel.ret_count++] = column_u64(s, 0);
            op->cancel.after = column_u64(s, 1);
        }
        op->cancel.ret_more = op->cancel.max > 0 && op->cancel.ret_count == op->cancel.max;
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
    enum err e = ledger_find_batch(l, op, op->cancel.batch, &batch, why);
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
    enum ledger_state to = r->failed ? LEDGER_FAILED : LEDGER_DONE;
    sqlite3_stmt *s = l->stmts[STMT_FIND_JOB];
    bool row, changed = false;
    enum err e = ERR_OK;
    if (r->accept && r->batch != 0) /* as good as always */
        e = finish(l, op->now_ms, r->batch, to, r, &changed, why);
    r->ret_outcome = changed ? 0 : 2;
    if (e != ERR_OK || changed)
        return e;
    bind_u64(s, 1, r->job);
    e = step(l, s, &row, why);
    if (e != ERR_OK || !row)
        return e;
    uint64_t batch = column_u64(s, 0), state = column_u64(s, 1), epoch = column_u64(s, 2);
    done_with(s);
    if (state != LEDGER_UNFINISHED) {
        if (state != LEDGER_CANCELLED && epoch == r->epoch)
            r->ret_outcome = 1;
        return ERR_OK;
    }
    if (!r->accept)
        return ERR_OK;
    e = finish(l, op->now_ms, batch, to, r, &changed, why);
    if (e == ERR_OK && changed)
        r->ret_outcome = 0;
    return e;
}

static enum err add_leases(struct ledger *l, const struct rec_JOB_REF *leases, size_t count,
                           struct err_msg *why)
{
    sqlite3_stmt *s = l->stmts[STMT_ADD_LEASES];
    if (count == 0)
        return ERR_OK;
    bind_u64(s, 1, count);
    bind_blob(s, 2, (struct str){(const char *)leases, count * sizeof *leases});
    return step(l, s, NULL, why);
}

static enum err note_leases(struct ledger *l, struct ledger_op *op, struct err_msg *why)
{
    struct rec_JOB_REF *leases = arena_alloc(&op->arena, op->grant.count, sizeof *leases);
    if (leases == NULL)
        return out_of_memory(l, why);
    for (size_t i = 0; i < op->grant.count; i++)
        leases[i] = (struct rec_JOB_REF){op->grant.items[i].job, op->grant.items[i].epoch};
    enum err e = ERR_OK;
    if (op->grant.held != NULL) {
        e = step(l, l->stmts[STMT_DROP_LEASES], NULL, why);
        if (e == ERR_OK)
            e = add_leases(l, op->grant.held, op->grant.held_count, why);
    }
    return e == ERR_OK ? add_leases(l, leases, op->grant.count, why) : e;
}

static enum err note_return(struct ledger *l, uint64_t now_ms, const struct ledger_returned *r,
                            struct err_msg *why)
{
    sqlite3_stmt *s = l->stmts[STMT_RETURN_JOB];
    bind_u64(s, 1, r->job);
    bind_u64(s, 2, r->attempts);
    bind_u64(s, 3, r->epoch);
    enum err e = step(l, s, NULL, why);
    if (e != ERR_OK || !r->counted)
        return e;
    s = l->stmts[STMT_ADD_ATTEMPT];
    bind_u64(s, 1, r->job);
    bind_u64(s, 2, now_ms);
    bind_text(s, 3, r->reason);
    return step(l, s, NULL, why);
}

static enum err note_time(struct ledger *l, const struct keep_note *n, struct err_msg *why)
{
    sqlite3_stmt *s = l->stmts[STMT_NOTE_TIME];
    bind_u64(s, 1, n->at_ms);
    bind_u64(s, 2, n->ahead_ms);
    bind_u64(s, 3, n->from_ms);
    return step(l, s, NULL, why);
}

enum err ledger_run_write(struct ledger *l, struct ledger_op *op, struct err_msg *why)
{
    enum err e = ERR_OK;
    switch (op->kind) {
    case LEDGER_BATCH_NEW:
        return batch_new(l, op, why);
    case LEDGER_BATCH_SET:
        return batch_set(l, op, why);
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
        for (size_t i = 0; i < op->returned.count && e == ERR_OK; i++)
            e = note_return(l, op->now_ms, &op->returned.items[i], why);
        return e;
    case LEDGER_FORGET:
        return ledger_forget(l, op, why);
    case LEDGER_NOTE_TIME:
        return note_time(l, &op->note_time, why);
    case LEDGER_FETCH:
    case LEDGER_BACKUP:
    case LEDGER_BARRIER:
        break;
    }
    return ERR_OK;
}
