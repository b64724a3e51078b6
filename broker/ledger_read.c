/* What is read of the tables: bodies for grants, and all that a starting broker needs to know.
 * Results for clients are ledger_fetch.c's. */
#include <stdio.h>
#include <stdlib.h>

#include "base/size.h"
#include "broker/ledger_stmt.h"
#include "proto/codec.h"

enum err ledger_find_batch(struct ledger *l, struct ledger_op *op, struct str name,
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

/* ---- reads ---- */

enum err ledger_find_row(struct ledger *l, enum ledger_stmt which, const char *what, uint64_t job,
                         struct err_msg *why)
{
    sqlite3_stmt *s = l->stmts[which];
    enum err e = ERR_OK;
    for (int look = 0; look < 2; look++) {
        bind_u64(s, 1, job);
        int rc = sqlite3_step(s);
        if (rc == SQLITE_ROW)
            return ERR_OK;
        e = rc == SQLITE_DONE
                ? err_set(why, ERR_FORMAT, "ledger %s: %s: it is not there", l->path, what)
                : ledger_sql_err(l, what, why);
        sqlite3_reset(s);
        if (e != ERR_FORMAT)
            break;
        sqlite3_db_release_memory(l->db);
    }
    return e;
}

static enum err load_body(struct ledger *l, struct ledger_op *op, struct ledger_grant *g,
                          struct err_msg *why)
{
    sqlite3_stmt *s = l->stmts[STMT_LOAD_REQUEST];
    enum err e = ledger_find_row(l, STMT_LOAD_REQUEST, "read a request", g->job, why);
    if (e != ERR_OK)
        return e;
    g->ret_custom_id = column_copy(s, 0, &op->arena);
    g->ret_body = column_copy(s, 1, &op->arena);
    done_with(s);
    return g->ret_custom_id.data == NULL || g->ret_body.data == NULL ? out_of_memory(l, why)
                                                                     : ERR_OK;
}

/* One that cannot be read does not keep the others back. */
static enum err load_bodies(struct ledger *l, struct ledger_op *op, struct err_msg *why)
{
    for (size_t i = 0; i < op->grant.count; i++) {
        struct ledger_grant *g = &op->grant.items[i];
        struct err_msg item_why = {{0}};
        g->ret_err = load_body(l, op, g, &item_why);
        if (g->ret_err == ERR_NOMEM ||
            (g->ret_err != ERR_OK && !keep_reason(op, &item_why, &g->ret_why)))
            return out_of_memory(l, why);
    }
    return ERR_OK;
}

enum err ledger_run_read(struct ledger *l, struct ledger_op *op, struct err_msg *why)
{
    if (op->kind == LEDGER_GRANT)
        return load_bodies(l, op, why);
    if (op->kind == LEDGER_FETCH)
        return ledger_fetch(l, op, why);
    return ERR_OK;
}

/* ---- load at start ---- */

static enum err load_sums(struct ledger *l, uint64_t batch, struct ledger_sums *ret,
                          struct err_msg *why)
{
    sqlite3_stmt *s = NULL;
    if (sqlite3_prepare_v2(
            l->db,
            "SELECT count(*) FILTER(WHERE state=0), count(*) FILTER(WHERE state=1), "
            "count(*) FILTER(WHERE state=2), count(*) FILTER(WHERE state=3), total(prompt_tokens), "
            "total(completion_tokens), max(finished_ms), total(energy_uj), count(energy_uj), "
            "max(seq) "
            "FROM job WHERE batch=?1",
            -1, &s, NULL) != SQLITE_OK)
        return ledger_sql_err(l, "load", why);
    bind_u64(s, 1, batch);
    /* one row, without GROUP BY: that would sort all jobs in memory */
    enum err e = sqlite3_step(s) == SQLITE_ROW ? ERR_OK : ledger_sql_err(l, "load", why);
    for (int i = 0; i < 4 && e == ERR_OK; i++)
        ret->counts[i] = column_u64(s, i);
    uint64_t *sums[] = {&ret->prompt_tokens, &ret->completion_tokens, &ret->last_finished_ms,
                        &ret->energy_uj, &ret->energy_jobs};
    for (int i = 0; i < (int)ARRAY_LEN(sums) && e == ERR_OK; i++)
        *sums[i] = column_u64(s, 4 + i);
    uint64_t seq = e == ERR_OK ? column_u64(s, 9) : 0;
    if (seq > LEDGER_MAX_SEQ)
        e = err_set(why, ERR_FORMAT,
                    "ledger %s: damaged: batch %llu has place %llu in the order of "
                    "completion: " LEDGER_SALVAGE_HINT,
                    l->path, (unsigned long long)batch, (unsigned long long)seq, l->path);
    sqlite3_finalize(s);
    return e;
}

static struct str column_str(sqlite3_stmt *s, int at)
{
    const char *text = (const char *)sqlite3_column_text(s, at);
    return (struct str){text, (size_t)sqlite3_column_bytes(s, at)};
}

/* ---- leases ---- */

struct leases {
    struct rec_JOB_REF *items; /* by job and epoch */
    size_t count, cap;
};

static int compare_leases(const void *a, const void *b)
{
    const struct rec_JOB_REF *x = a, *y = b;
    if (x->job != y->job)
        return x->job < y->job ? -1 : 1;
    return x->epoch < y->epoch ? -1 : x->epoch > y->epoch;
}

static bool add_leases(struct leases *x, const void *bytes, size_t count)
{
    if (count > x->cap - x->count) {
        size_t cap = max_u64(2 * x->cap, x->count + count);
        struct rec_JOB_REF *items = realloc(x->items, cap * sizeof *items);
        if (items == NULL)
            return false;
        x->items = items;
        x->cap = cap;
    }
    if (count > 0)
        memcpy(x->items + x->count, bytes, count * sizeof *x->items);
    x->count += count;
    return true;
}

static bool is_of_runs_before(const struct ledger *l, uint64_t epoch)
{
    return epoch >> 32 < l->generation;
}

static enum err load_leases(struct ledger *l, struct leases *ret, struct err_msg *why)
{
    sqlite3_stmt *s = NULL;
    if (sqlite3_prepare_v2(l->db, "SELECT jobs FROM lease", -1, &s, NULL) != SQLITE_OK)
        return ledger_sql_err(l, "load", why);
    enum err e = ERR_OK;
    int rc = SQLITE_DONE;
    while (e == ERR_OK && (rc = sqlite3_step(s)) == SQLITE_ROW) {
        const void *bytes = sqlite3_column_blob(s, 0);
        if (!add_leases(ret, bytes, (size_t)sqlite3_column_bytes(s, 0) / sizeof *ret->items))
            e = out_of_memory(l, why);
    }
    if (e == ERR_OK && rc != SQLITE_DONE)
        e = ledger_sql_err(l, "load", why);
    sqlite3_finalize(s);
    size_t kept = 0; /* they are only notes: a damaged one is none */
    for (size_t i = 0; i < ret->count; i++) {
        if (is_of_runs_before(l, ret->items[i].epoch))
            ret->items[kept++] = ret->items[i];
    }
    ret->count = kept;
    if (kept > 0)
        qsort(ret->items, kept, sizeof *ret->items, compare_leases);
    return e;
}

/* Of the job's leases above the epoch the last one, and the one before; 0: none is noted. */
static void last_leases(const struct leases *x, uint64_t job, uint64_t epoch, uint64_t ret[2])
{
    size_t low = 0, high = x->count; /* the first of a later job */
    while (low < high) {
        size_t mid = low + (high - low) / 2;
        if (x->items[mid].job <= job)
            low = mid + 1;
        else
            high = mid;
    }
    ret[0] = ret[1] = 0;
    for (int n = 0; n < 2 && low > 0 && x->items[low - 1].job == job; low--) {
        uint64_t lease = x->items[low - 1].epoch;
        if (lease > epoch && lease != ret[0]) /* one may be noted twice */
            ret[n++] = lease;
    }
}

/* ---- rows ---- */

struct str ledger_encode_schedule(const struct rec_SCHEDULE *schedule, struct arena *arena)
{
    struct buf b = {0};
    struct err_msg why;
    struct str ret = {0};
    if (proto_encode_schedule(schedule, &b, &why) == ERR_OK)
        ret = (struct str){arena_copy(arena, b.data, b.len), b.len};
    buf_free(&b);
    return ret;
}

struct rec_SCHEDULE ledger_schedule(sqlite3_stmt *s, int priority, int schedule)
{
    struct rec_SCHEDULE r = {0};
    struct arena arena = {0};
    struct err_msg why;
    int len = sqlite3_column_bytes(s, schedule);
    /* of an earlier broker's batch, or damaged: it runs like one that has none */
    if (len == 0 || proto_decode_schedule(sqlite3_column_blob(s, schedule), (size_t)len, &arena, &r,
                                          &why) != ERR_OK)
        r = (struct rec_SCHEDULE){0};
    arena_free(&arena);
    r.priority = max_u64(1, min_u64(column_u64(s, priority), 255));
    return r;
}

static enum err load_rows(struct ledger *l, const char *sql, const struct ledger_loader *loader,
                          void *user, int what, const struct leases *leases, struct err_msg *why)
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
                                     .schedule = ledger_schedule(s, 3, 9),
                                     .max_attempts = column_u64(s, 4),
                                     .created_ms = column_u64(s, 5),
                                     .sealed_ms = column_u64(s, 6),
                                     .cancelled = column_u64(s, 7) != 0,
                                     .client = column_str(s, 8)};
            struct ledger_sums sums = {0};
            e = load_sums(l, b.id, &sums, why);
            if (e != ERR_OK)
                break;
            e = loader->on_batch(user, &b, &sums);
        } else if (what == 1) {
            uint64_t epoch = column_u64(s, 5), last[2];
            last_leases(leases, column_u64(s, 0), epoch, last);
            if (!is_of_runs_before(l, epoch)) {
                e = err_set(why, ERR_FORMAT,
                            "ledger %s: damaged: line %llu of batch %llu has lease %llu, of a "
                            "later run than all before: " LEDGER_SALVAGE_HINT,
                            l->path, (unsigned long long)column_u64(s, 2),
                            (unsigned long long)column_u64(s, 1), (unsigned long long)epoch,
                            l->path);
                break;
            }
            struct ledger_job job = {.id = column_u64(s, 0),
                                     .batch = column_u64(s, 1),
                                     .line = column_u64(s, 2),
                                     .body_bytes = column_u64(s, 3),
                                     .attempts = column_u64(s, 4),
                                     .epoch = max_u64(epoch, last[0]),
                                     .twin = last[1],
                                     .prefix = column_u64(s, 7),
                                     .leased = last[0] != 0 || column_u64(s, 6) != 0};
            e = loader->on_job(user, &job);
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
    struct leases leases = {0};
    enum err e = load_leases(l, &leases, why);
    if (e == ERR_OK)
        e = load_rows(l,
                      "SELECT id, name, model, priority, max_attempts, created_ms, sealed_ms, "
                      "cancelled, client, schedule FROM batch ORDER BY id",
                      loader, user, 0, NULL, why);
    if (e == ERR_OK)
        e = load_rows(
            l,
            "SELECT id, batch, line, body_bytes, attempts, epoch, leased, prefix FROM job "
            "WHERE state=0 ORDER BY id",
            loader, user, 1, &leases, why);
    if (e == ERR_OK)
        e = load_rows(l,
                      "SELECT a.job, a.reason FROM attempt a JOIN job j ON j.id=a.job "
                      "WHERE j.state=0 ORDER BY a.id",
                      loader, user, 2, NULL, why);
    free(leases.items);
    return e;
}
