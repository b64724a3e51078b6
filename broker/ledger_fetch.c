/* FETCH: results after a cursor. Whole rows by one statement; a row of which a part cannot be read,
 * part by part, so that it does not hide the others. */
#include "base/log.h"
#include "base/size.h"
#include "broker/ledger_stmt.h"

static const struct str state_names[] = {
    [LEDGER_UNFINISHED] = {"", 0},
    [LEDGER_DONE] = {"done", 4},
    [LEDGER_FAILED] = {"failed", 6},
    [LEDGER_CANCELLED] = {"cancelled", 9},
};

struct fetching {
    uint64_t batch, after, last; /* last: by line, it is not looked behind that one */
    uint64_t bytes;              /* of the bodies so far */
    bool full;                   /* the row at hand has no room beside them */
    size_t no_id;                /* rows whose custom_id is damaged */
    struct err_msg no_id_why;
};

static sqlite3_stmt *bind_cursor(struct ledger *l, const struct ledger_op *op,
                                 const struct fetching *x, enum ledger_stmt by_line,
                                 enum ledger_stmt by_seq, uint64_t max)
{
    sqlite3_stmt *s = l->stmts[op->fetch.by_line ? by_line : by_seq];
    bind_u64(s, 1, x->batch);
    bind_u64(s, 2, x->after);
    bind_u64(s, 3, max);
    if (op->fetch.by_line)
        bind_u64(s, 4, x->last);
    return s;
}

/* The index of lines says nothing of which are finished: they are looked at. */
static enum err find_last(struct ledger *l, const struct ledger_op *op, struct fetching *x,
                          struct err_msg *why)
{
    sqlite3_stmt *s = l->stmts[STMT_SKIP_LINES];
    bool row;
    x->last = INT64_MAX;
    if (!op->fetch.by_line || op->fetch.max_looks == 0)
        return ERR_OK;
    bind_u64(s, 1, x->batch);
    bind_u64(s, 2, x->after);
    bind_u64(s, 3, op->fetch.max_looks - 1);
    enum err e = step(l, s, &row, why);
    if (e != ERR_OK || !row)
        return e;
    x->last = column_u64(s, 0);
    done_with(s);
    return ERR_OK;
}

static bool has_room(const struct ledger_op *op, const struct fetching *x)
{
    return op->fetch.ret_count < op->fetch.max && !x->full && x->bytes <= op->fetch.max_bytes;
}

/* Without one that is readable the result goes out all the same: its line is known. */
static enum err load_custom_id(struct ledger *l, struct ledger_op *op, struct fetching *x,
                               uint64_t job, struct str *ret, struct err_msg *why)
{
    enum err e = ledger_find_row(l, STMT_LOAD_CUSTOM_ID, "read a custom_id", job, why);
    if (e == ERR_FORMAT) {
        x->no_id++;
        x->no_id_why = *why;
        return ERR_OK;
    }
    if (e != ERR_OK)
        return e;
    *ret = column_copy(l->stmts[STMT_LOAD_CUSTOM_ID], 0, &op->arena);
    done_with(l->stmts[STMT_LOAD_CUSTOM_ID]);
    return ret->data == NULL ? out_of_memory(l, why) : ERR_OK;
}

static enum err note_damage(struct ledger *l, struct ledger_op *op, struct err_msg *why)
{
    if (op->fetch.ret_damaged == NULL)
        op->fetch.ret_damaged =
            arena_alloc(&op->arena, op->fetch.max, sizeof *op->fetch.ret_damaged);
    if (op->fetch.ret_damaged == NULL ||
        !keep_reason(op, why, &op->fetch.ret_damaged[op->fetch.ret_count]))
        return out_of_memory(l, why);
    return ERR_OK;
}

/* Of the row that the statement is on, if there is room for it. */
static enum err take_body(struct ledger *l, struct ledger_op *op, struct fetching *x,
                          sqlite3_stmt *s, int column, struct str *ret, struct err_msg *why)
{
    x->bytes += (uint64_t)sqlite3_column_bytes(s, column);
    x->full = op->fetch.ret_count > 0 && x->bytes > op->fetch.max_bytes;
    if (!x->full)
        *ret = column_copy(s, column, &op->arena);
    return !x->full && ret->data == NULL ? out_of_memory(l, why) : ERR_OK;
}

static enum err load_result(struct ledger *l, struct ledger_op *op, struct fetching *x,
                            uint64_t job, struct str *ret, struct err_msg *why)
{
    sqlite3_stmt *s = l->stmts[STMT_LOAD_RESULT];
    enum err e = ledger_find_row(l, STMT_LOAD_RESULT, "read a result", job, why);
    if (e != ERR_OK)
        return e == ERR_FORMAT ? note_damage(l, op, why) : e;
    e = take_body(l, op, x, s, 0, ret, why);
    done_with(s);
    return e;
}

/* What stands in the job's row; *ret_job: its id. */
static struct rec_FETCHED *begin_row(struct ledger_op *op, sqlite3_stmt *s, uint64_t *ret_job)
{
    uint64_t state = column_u64(s, 3);
    struct rec_FETCHED *f = &op->fetch.ret_items[op->fetch.ret_count];
    *ret_job = column_u64(s, 0);
    *f = (struct rec_FETCHED){.seq = column_u64(s, 1),
                              .line = column_u64(s, 2),
                              .state = state_names[state < ARRAY_LEN(state_names) ? state : 0],
                              .attempts = column_u64(s, 4),
                              .submitted_ms = column_u64(s, 5),
                              .finished_ms = column_u64(s, 6)};
    return f;
}

static bool is_cancelled(sqlite3_stmt *s)
{
    return column_u64(s, 3) == LEDGER_CANCELLED;
}

static void end_row(struct ledger_op *op, struct fetching *x, const struct rec_FETCHED *f)
{
    if (x->full)
        return;
    x->after = op->fetch.by_line ? f->line : f->seq;
    op->fetch.ret_count++;
}

/* The next row, its parts one by one: what is damaged of it is said. *ret_row false: there is none.
 */
static enum err fetch_apart(struct ledger *l, struct ledger_op *op, struct fetching *x,
                            bool *ret_row, struct err_msg *why)
{
    sqlite3_stmt *s = bind_cursor(l, op, x, STMT_FETCH_JOB_BY_LINE, STMT_FETCH_JOB_BY_SEQ, 1);
    uint64_t job;
    enum err e = step(l, s, ret_row, why);
    if (e != ERR_OK || !*ret_row)
        return e;
    struct rec_FETCHED *f = begin_row(op, s, &job);
    bool cancelled = is_cancelled(s);
    done_with(s);
    e = load_custom_id(l, op, x, job, &f->custom_id, why);
    if (e == ERR_OK && !cancelled)
        e = load_result(l, op, x, job, &f->body, why);
    if (e == ERR_OK)
        end_row(op, x, f);
    else
        op->err_line = f->line;
    return e;
}

/* All rows up to one that cannot be read whole: ERR_FORMAT, or ERR_IO. */
static enum err fetch_whole(struct ledger *l, struct ledger_op *op, struct fetching *x,
                            struct err_msg *why)
{
    sqlite3_stmt *s = bind_cursor(l, op, x, STMT_FETCH_BY_LINE, STMT_FETCH_BY_SEQ,
                                  op->fetch.max - op->fetch.ret_count);
    enum err e = ERR_OK;
    uint64_t job;
    bool row = false;
    while (e == ERR_OK && has_room(op, x) && (e = step(l, s, &row, why)) == ERR_OK && row) {
        struct rec_FETCHED *f = begin_row(op, s, &job);
        bool cancelled = is_cancelled(s);
        if (sqlite3_column_type(s, 7) == SQLITE_NULL ||
            (!cancelled && sqlite3_column_type(s, 8) == SQLITE_NULL)) {
            e = ERR_FORMAT;
            break;
        }
        f->custom_id = column_copy(s, 7, &op->arena);
        if (f->custom_id.data == NULL)
            e = out_of_memory(l, why);
        if (e == ERR_OK && !cancelled)
            e = take_body(l, op, x, s, 8, &f->body, why);
        if (e == ERR_OK)
            end_row(op, x, f);
    }
    done_with(s);
    return e;
}

enum err ledger_fetch(struct ledger *l, struct ledger_op *op, struct err_msg *why)
{
    struct found_batch batch;
    enum err e = ledger_find_batch(l, op, op->fetch.batch, &batch, why);
    if (e != ERR_OK || op->err != ERR_OK)
        return e != ERR_OK ? e : op->err;
    op->fetch.ret_items = arena_alloc(&op->arena, op->fetch.max, sizeof *op->fetch.ret_items);
    if (op->fetch.ret_items == NULL)
        return out_of_memory(l, why);
    struct fetching x = {.batch = batch.id, .after = min_u64(op->fetch.after, INT64_MAX)};
    e = find_last(l, op, &x, why);
    bool row = e == ERR_OK;
    while (row && has_room(op, &x)) {
        e = fetch_whole(l, op, &x, why);
        row = e == ERR_FORMAT || e == ERR_IO;
        if (row)
            e = fetch_apart(l, op, &x, &row, why);
        if (e != ERR_OK)
            break;
    }
    if (x.no_id > 0)
        log_warn("results go out without their custom_id rows=%zu error=\"%s\"", x.no_id,
                 x.no_id_why.text);
    if (e == ERR_FORMAT)
        sqlite3_db_release_memory(l->db); /* as ledger_find_row() */
    op->fetch.ret_more = e == ERR_OK && op->fetch.ret_count == 0 && x.last < INT64_MAX;
    if (op->fetch.ret_more)
        op->fetch.after = x.last;
    /* what stands before a row that cannot be read now goes out; the next one hears why */
    return op->fetch.ret_count > 0 ? ERR_OK : e;
}
