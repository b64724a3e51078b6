/* Private to the ledger_*.c that do operations: binding, stepping and reading a prepared statement.
 */
#ifndef OCTO_BROKER_LEDGER_STMT_H
#define OCTO_BROKER_LEDGER_STMT_H

#include "broker/ledger_sql.h"

static inline void bind_u64(sqlite3_stmt *s, int at, uint64_t v)
{
    sqlite3_bind_int64(s, at, (sqlite3_int64)v);
}

static inline void bind_text(sqlite3_stmt *s, int at, struct str t)
{
    sqlite3_bind_text64(s, at, t.data == NULL ? "" : t.data, t.len, SQLITE_STATIC, SQLITE_UTF8);
}

static inline void bind_blob(sqlite3_stmt *s, int at, struct str t)
{
    sqlite3_bind_blob64(s, at, t.data == NULL ? "" : t.data, t.len, SQLITE_STATIC);
}

static inline uint64_t column_u64(sqlite3_stmt *s, int at)
{
    return (uint64_t)sqlite3_column_int64(s, at);
}

/* Copied into the arena; data NULL when out of memory. */
static inline struct str column_copy(sqlite3_stmt *s, int at, struct arena *arena)
{
    const void *bytes = sqlite3_column_blob(s, at);
    size_t len = (size_t)sqlite3_column_bytes(s, at);
    return (struct str){arena_copy(arena, bytes == NULL ? "" : bytes, len), len};
}

/* Every use binds all parameters anew: nothing is cleared. One step. *ret_row (may be NULL) says
 * whether there is a row. A statement without one is reset.
 */
static inline enum err step(struct ledger *l, sqlite3_stmt *s, bool *ret_row, struct err_msg *why)
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
    if (e == ERR_OK && ret_row != NULL)
        *ret_row = false;
    return e;
}

static inline void done_with(sqlite3_stmt *s)
{
    sqlite3_reset(s);
}

static inline enum err out_of_memory(struct ledger *l, struct err_msg *why)
{
    return err_set(why, ERR_NOMEM, "ledger %s: out of memory", l->path);
}

/* Into the arena; data NULL: out of memory. */
struct str ledger_encode_schedule(const struct rec_SCHEDULE *schedule, struct arena *arena);
/* From columns `priority` and `schedule`. */
struct rec_SCHEDULE ledger_schedule(sqlite3_stmt *s, int priority, int schedule);

struct found_batch {
    uint64_t id;
    bool sealed, cancelled;
};

/* Sets op->err when there is none. In ledger_read.c. */
enum err ledger_find_batch(struct ledger *l, struct ledger_op *op, struct str name,
                           struct found_batch *ret, struct err_msg *why) MUST_CHECK;

/* The job's row, with the statement on it. ERR_FORMAT: damaged, or there is none. That verdict is
 * final, so it is not given for what is spoilt in memory alone: a second look is one at the disk.
 * In ledger_read.c. */
enum err ledger_find_row(struct ledger *l, enum ledger_stmt which, const char *what, uint64_t job,
                         struct err_msg *why) MUST_CHECK;

/* Into the arena; false: out of memory. */
static inline bool keep_reason(struct ledger_op *op, const struct err_msg *why, struct str *ret)
{
    struct str text = str_of(why->text);
    *ret = (struct str){arena_copy(&op->arena, text.data, text.len), text.len};
    return ret->data != NULL;
}

/* Results after a cursor. In ledger_fetch.c. */
enum err ledger_fetch(struct ledger *l, struct ledger_op *op, struct err_msg *why) MUST_CHECK;

#endif
