/* Old batches leave the ledger: at once by name, then row by row in small pieces. Their pages are
 * used again by what comes later; the file gets smaller only by a compaction.
 *
 * A batch that leaves gets a name that begins with NUL, which no client can ask for. So it is gone
 * as a whole, its old name is free, and a broker that is killed in between goes on with the rest.
 * The last batch's and the last job's row stay until others come: SQLite would give their ids
 * again, and a worker that was away for long could have a result of the old job.
 *
 * What is left of a batch with a damaged row stays, under a name that is not looked at again. */
#include "broker/ledger_stmt.h"

enum { PIECE_ROWS = 256, PIECE_BYTES = 4 << 20, LOOKS = 2 };

static enum err mark(struct ledger *l, uint64_t batch, struct err_msg *why)
{
    sqlite3_stmt *s = l->stmts[STMT_MARK_FORGOTTEN];
    bind_u64(s, 1, batch);
    return step(l, s, NULL, why);
}

static enum err run_for(struct ledger *l, enum ledger_stmt which, uint64_t id, struct err_msg *why)
{
    sqlite3_stmt *s = l->stmts[which];
    bind_u64(s, 1, id);
    return step(l, s, NULL, why);
}

static enum err forget_job(struct ledger *l, uint64_t job, struct err_msg *why)
{
    static const enum ledger_stmt parts[] = {STMT_FORGET_RESULT, STMT_FORGET_REQUEST,
                                             STMT_FORGET_ATTEMPTS, STMT_FORGET_JOB};
    enum err e = ERR_OK;
    for (size_t i = 0; i < sizeof parts / sizeof parts[0] && e == ERR_OK; i++)
        e = run_for(l, parts[i], job, why);
    return e;
}

/* The first of the batch's jobs that are left, and about how large their rows are. */
static enum err list_jobs(struct ledger *l, uint64_t batch, uint64_t *jobs, size_t *ret_count,
                          struct err_msg *why)
{
    sqlite3_stmt *s = l->stmts[STMT_FORGOTTEN_JOBS];
    uint64_t bytes = 0;
    bool row = true;
    enum err e = ERR_OK;
    *ret_count = 0;
    bind_u64(s, 1, batch);
    bind_u64(s, 2, PIECE_ROWS);
    while (*ret_count < PIECE_ROWS && bytes < PIECE_BYTES) {
        e = step(l, s, &row, why);
        if (e != ERR_OK || !row)
            break;
        jobs[(*ret_count)++] = column_u64(s, 0);
        bytes += column_u64(s, 1);
    }
    if (e == ERR_OK && row)
        done_with(s);
    return e;
}

static enum err note_left(struct ledger *l, struct str key, uint64_t count, struct err_msg *why)
{
    sqlite3_stmt *s = l->stmts[STMT_NOTE_LEFT];
    bind_text(s, 1, key);
    bind_u64(s, 2, count);
    return step(l, s, NULL, why);
}

static enum err one_piece(struct ledger *l, struct ledger_op *op, uint64_t batch,
                          struct err_msg *why)
{
    uint64_t jobs[PIECE_ROWS];
    size_t count = 0;
    enum err e = list_jobs(l, batch, jobs, &count, why);
    for (size_t i = 0; i < count && e == ERR_OK; i++)
        e = forget_job(l, jobs[i], why);
    if (e == ERR_OK && count > 0)
        e = note_left(l, STR_LIT(LEDGER_JOBS_LEFT), count, why);
    if (e == ERR_OK && count == 0)
        e = run_for(l, STMT_FORGET_BATCH, batch, why);
    if (e == ERR_OK && count == 0)
        e = note_left(l, STR_LIT(LEDGER_BATCHES_LEFT), 1, why);
    op->forget.ret_rows = e == ERR_OK ? count : 0;
    return e;
}

enum err ledger_forget(struct ledger *l, struct ledger_op *op, struct err_msg *why)
{
    uint64_t batch = 0;
    bool row = false;
    enum err e = op->forget.batch == 0 ? ERR_OK : mark(l, op->forget.batch, why);
    sqlite3_stmt *s = l->stmts[STMT_FIND_FORGOTTEN];
    if (e == ERR_OK)
        e = step(l, s, &row, why);
    if (e != ERR_OK || !row)
        return e;
    batch = column_u64(s, 0);
    done_with(s);
    op->forget.ret_more = true;
    if (op->forget.looks == LOOKS)
        return run_for(l, STMT_MARK_STUCK, op->forget.ret_stuck, why);
    e = one_piece(l, op, batch, why);
    op->forget.ret_stuck = e == ERR_FORMAT ? batch : 0;
    return e;
}

/* The transaction was rolled back. What is wrong in memory alone is right at the second look. */
bool ledger_forget_again(struct ledger_op *op, const struct err_msg *why)
{
    if (op->kind != LEDGER_FORGET || op->forget.ret_stuck == 0 || op->forget.looks == LOOKS)
        return false;
    op->forget.looks++;
    op->why = *why;
    return true;
}
