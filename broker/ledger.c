/* Opening, locking, the thread and the group commit; what each operation does to the tables is in
 * ledger_ops.c. See ledger.h. */
#include "broker/ledger.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/random.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "broker/ledger_sql.h"

enum { MAX_GROUP_OPS = 512, CHECKPOINT_PAGES = 1000, LOCK_RETRY_MS = 20 };

static const char schema[] =
    "CREATE TABLE meta(key TEXT PRIMARY KEY, value) WITHOUT ROWID;"
    "CREATE TABLE batch(id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, model TEXT NOT NULL,"
    " options_hash TEXT NOT NULL, options_text TEXT NOT NULL, priority INTEGER NOT NULL,"
    " max_attempts INTEGER NOT NULL, created_ms INTEGER NOT NULL, sealed_ms INTEGER NOT NULL,"
    " cancelled INTEGER NOT NULL);"
    /* The small rows that change. seq: place in the order of completion, NULL until then. */
    "CREATE TABLE job(id INTEGER PRIMARY KEY, batch INTEGER NOT NULL, line INTEGER NOT NULL,"
    " hash INTEGER NOT NULL, state INTEGER NOT NULL, leased INTEGER NOT NULL, attempts INTEGER NOT "
    "NULL,"
    " epoch INTEGER NOT NULL, body_bytes INTEGER NOT NULL, submitted_ms INTEGER NOT NULL,"
    " finished_ms INTEGER, seq INTEGER, prompt_tokens INTEGER, completion_tokens INTEGER);"
    "CREATE UNIQUE INDEX job_line ON job(batch, line);"
    "CREATE UNIQUE INDEX job_seq ON job(batch, seq) WHERE seq>0;"
    "CREATE INDEX job_unfinished ON job(batch, line) WHERE state=0;"
    /* Append-only: */
    "CREATE TABLE request(job INTEGER PRIMARY KEY, custom_id TEXT, prefix_hashes BLOB, body BLOB);"
    "CREATE TABLE result(job INTEGER PRIMARY KEY, body BLOB);"
    "CREATE TABLE attempt(id INTEGER PRIMARY KEY, job INTEGER NOT NULL, at_ms INTEGER NOT NULL,"
    " reason TEXT NOT NULL);"
    "CREATE INDEX attempt_job ON attempt(job);";

static const char *const statement_sql[STMT_COUNT] = {
#define X(name, sql) [STMT_##name] = sql,
    LEDGER_STATEMENTS(X)
#undef X
};

enum err ledger_sql_err(struct ledger *l, const char *what, struct err_msg *why)
{
    int code = l->db == NULL ? SQLITE_NOMEM : sqlite3_errcode(l->db);
    enum err e = ERR_IO;
    if (code == SQLITE_FULL)
        e = ERR_FULL;
    else if (code == SQLITE_NOMEM)
        e = ERR_NOMEM;
    else if (code == SQLITE_CORRUPT || code == SQLITE_NOTADB)
        e = ERR_FORMAT;
    int os = l->db == NULL ? 0 : sqlite3_system_errno(l->db);
    return err_set(why, e, "ledger %s: %s: %s%s%s", l->path, what,
                   l->db == NULL ? "out of memory" : sqlite3_errmsg(l->db),
                   e == ERR_IO && os != 0 ? ": " : "", e == ERR_IO && os != 0 ? strerror(os) : "");
}

enum err ledger_exec(struct ledger *l, const char *sql, struct err_msg *why)
{
    if (sqlite3_exec(l->db, sql, NULL, NULL, NULL) != SQLITE_OK)
        return ledger_sql_err(l, "SQLite", why);
    return ERR_OK;
}

/* ---- open ---- */

static enum err lock_file(struct ledger *l, int wait_ms, struct err_msg *why)
{
    char path[4096];
    if ((size_t)snprintf(path, sizeof path, "%s.lock", l->path) >= sizeof path)
        return err_set(why, ERR_RANGE, "ledger %s: the path is too long", l->path);
    l->lock_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (l->lock_fd < 0)
        return err_set(why, ERR_IO, "ledger %s: cannot create its lock file: %s", l->path,
                       strerror(errno));
    while (flock(l->lock_fd, LOCK_EX | LOCK_NB) != 0) {
        if (errno != EWOULDBLOCK && errno != EINTR)
            return err_set(why, ERR_IO, "ledger %s: cannot lock: %s", l->path, strerror(errno));
        if (wait_ms <= 0)
            return err_set(why, ERR_CONFLICT, "ledger %s: another broker is using it", l->path);
        clock_sleep_ns(LOCK_RETRY_MS * NS_PER_MS);
        wait_ms -= LOCK_RETRY_MS;
    }
    return ERR_OK;
}

static enum err pragma_int(struct ledger *l, const char *sql, int64_t *ret, struct err_msg *why)
{
    sqlite3_stmt *stmt = NULL;
    if (sqlite3_prepare_v2(l->db, sql, -1, &stmt, NULL) != SQLITE_OK)
        return ledger_sql_err(l, "open", why);
    enum err e = ERR_OK;
    int rc = sqlite3_step(stmt);
    if (rc == SQLITE_ROW)
        *ret = sqlite3_column_int64(stmt, 0);
    else
        e = rc == SQLITE_DONE
                ? err_set(why, ERR_FORMAT, "ledger %s: \"%s\" gives nothing", l->path, sql)
                : ledger_sql_err(l, "open", why);
    sqlite3_finalize(stmt);
    return e;
}

static enum err create_schema(struct ledger *l, struct err_msg *why)
{
    unsigned char random[16];
    char sql[256], id[33];
    if (getrandom(random, sizeof random, 0) != (ssize_t)sizeof random)
        return err_set(why, ERR_IO, "ledger %s: no random numbers: %s", l->path, strerror(errno));
    for (int i = 0; i < 16; i++)
        snprintf(id + 2 * i, 3, "%02x", random[i]);
    snprintf(sql, sizeof sql,
             "INSERT INTO meta VALUES('id','%s'),('generation',0);"
             "PRAGMA application_id=%d; PRAGMA user_version=%d;",
             id, LEDGER_APPLICATION, LEDGER_SCHEMA);
    enum err e = ledger_exec(l, "BEGIN IMMEDIATE", why);
    if (e == ERR_OK)
        e = ledger_exec(l, schema, why);
    if (e == ERR_OK)
        e = ledger_exec(l, sql, why);
    if (e == ERR_OK)
        e = ledger_exec(l, "COMMIT", why);
    return e;
}

/* Creates the tables in an empty file; refuses other programs' files and newer schemas. */
static enum err check_schema(struct ledger *l, struct err_msg *why)
{
    int64_t version = 0, application = 0, tables = 0;
    enum err e = pragma_int(l, "PRAGMA user_version", &version, why);
    if (e == ERR_OK)
        e = pragma_int(l, "PRAGMA application_id", &application, why);
    if (e == ERR_OK)
        e = pragma_int(l, "SELECT count(*) FROM sqlite_schema", &tables, why);
    if (e != ERR_OK)
        return e;
    if (tables == 0 && application == 0)
        return create_schema(l, why);
    if (application != LEDGER_APPLICATION)
        return err_set(why, ERR_FORMAT, "ledger %s: a database, but of another program", l->path);
    if (version != LEDGER_SCHEMA)
        return err_set(
            why, ERR_UNSUPPORTED,
            "ledger %s: has schema %lld, this broker knows %d: use the newer octoflow-broker",
            l->path, (long long)version, LEDGER_SCHEMA);
    return ERR_OK;
}

static enum err read_identity(struct ledger *l, struct err_msg *why)
{
    int64_t generation = 0;
    enum err e = ledger_exec(l, "UPDATE meta SET value=value+1 WHERE key='generation'", why);
    if (e == ERR_OK)
        e = pragma_int(l, "SELECT value FROM meta WHERE key='generation'", &generation, why);
    if (e != ERR_OK)
        return e;
    if (generation < 1 || generation > INT32_MAX)
        return err_set(why, ERR_FORMAT, "ledger %s: generation %lld: expected 1 to %d", l->path,
                       (long long)generation, INT32_MAX);
    l->generation = (uint32_t)generation;
    sqlite3_stmt *stmt = NULL;
    if (sqlite3_prepare_v2(l->db, "SELECT value FROM meta WHERE key='id'", -1, &stmt, NULL) !=
        SQLITE_OK)
        return ledger_sql_err(l, "open", why);
    if (sqlite3_step(stmt) == SQLITE_ROW && sqlite3_column_bytes(stmt, 0) == 32)
        memcpy(l->id, sqlite3_column_text(stmt, 0), 32);
    else
        e = err_set(why, ERR_FORMAT, "ledger %s: it has no id", l->path);
    sqlite3_finalize(stmt);
    return e;
}

static int on_wal(void *user, sqlite3 *db, const char *name, int pages)
{
    struct ledger *l = user;
    (void)db;
    (void)name;
    l->wal_pages = pages;
    return SQLITE_OK;
}

static enum err open_db(struct ledger *l, const struct ledger_options *o, struct err_msg *why)
{
    int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX;
    if (sqlite3_open_v2(l->path, &l->db, flags, NULL) != SQLITE_OK)
        return ledger_sql_err(l, "open", why);
    sqlite3_extended_result_codes(l->db, 0);
    sqlite3_busy_timeout(l->db, o->lock_wait_ms); /* for somebody who looks into it with SQLite */
    /* exclusive: a second program that reads or checkpoints beside us is what WAL's bugs are made
     * of */
    enum err e = ledger_exec(l,
                             "PRAGMA locking_mode=EXCLUSIVE; PRAGMA journal_mode=WAL;"
                             "PRAGMA synchronous=FULL; PRAGMA wal_autocheckpoint=0;"
                             "PRAGMA temp_store=MEMORY; PRAGMA cache_size=-65536;",
                             why);
    if (e == ERR_OK)
        e = check_schema(l, why);
    if (e == ERR_OK)
        e = read_identity(l, why);
    if (e != ERR_OK)
        return e;
    l->sync_full = true;
    if (o->max_pages > 0) {
        char sql[64];
        snprintf(sql, sizeof sql, "PRAGMA max_page_count=%llu", (unsigned long long)o->max_pages);
        e = ledger_exec(l, sql, why);
        if (e != ERR_OK)
            return e;
    }
    sqlite3_wal_hook(l->db, on_wal, l);
    for (int i = 0; i < STMT_COUNT; i++) {
        if (sqlite3_prepare_v3(l->db, statement_sql[i], -1, SQLITE_PREPARE_PERSISTENT, &l->stmts[i],
                               NULL) != SQLITE_OK)
            return ledger_sql_err(l, "open", why);
    }
    return ERR_OK;
}

static void *run_thread(void *arg);

static void close_parts(struct ledger *l)
{
    for (int i = 0; i < STMT_COUNT; i++)
        sqlite3_finalize(l->stmts[i]);
    if (sqlite3_close(l->db) != SQLITE_OK)
        log_warn("ledger not closed cleanly, it recovers at the next start path=%s", l->path);
    if (l->lock_fd >= 0)
        close(l->lock_fd);
    pthread_mutex_destroy(&l->mutex);
    pthread_cond_destroy(&l->work);
    free(l->path);
    free(l);
}

enum err ledger_open(const struct ledger_options *o, struct ledger **ret, struct err_msg *why)
{
    struct ledger *l = calloc(1, sizeof *l);
    if (l == NULL)
        return err_set(why, ERR_NOMEM, "ledger %s: out of memory", o->path);
    l->lock_fd = -1;
    l->wake = o->wake;
    l->user = o->user;
    l->queue_end = &l->queue;
    l->finished_end = &l->finished;
    pthread_mutex_init(&l->mutex, NULL);
    pthread_cond_init(&l->work, NULL);
    l->path = strdup(o->path);
    enum err e = l->path == NULL ? err_set(why, ERR_NOMEM, "ledger %s: out of memory", o->path)
                                 : lock_file(l, o->lock_wait_ms, why);
    if (e == ERR_OK)
        e = open_db(l, o, why);
    if (e != ERR_OK) {
        close_parts(l);
        return e;
    }
    *ret = l;
    return ERR_OK;
}

const char *ledger_id(const struct ledger *l)
{
    return l->id;
}

uint32_t ledger_generation(const struct ledger *l)
{
    return l->generation;
}

/* ---- the thread ---- */

static enum err set_sync(struct ledger *l, bool full, struct err_msg *why)
{
    if (l->sync_full == full)
        return ERR_OK;
    enum err e =
        ledger_exec(l, full ? "PRAGMA synchronous=FULL" : "PRAGMA synchronous=NORMAL", why);
    if (e == ERR_OK)
        l->sync_full = full;
    return e;
}

static enum err write_group(struct ledger *l, struct ledger_op *group, struct err_msg *why)
{
    bool writes = false, syncs = false;
    for (struct ledger_op *op = group; op != NULL; op = op->next) {
        writes = writes || ledger_kind_writes(op->kind);
        syncs = syncs || ledger_kind_syncs(op->kind);
    }
    if (!writes)
        return ERR_OK;
    enum err e = set_sync(l, syncs, why);
    if (e == ERR_OK)
        e = ledger_exec(l, "BEGIN IMMEDIATE", why);
    for (struct ledger_op *op = group; op != NULL && e == ERR_OK; op = op->next) {
        if (ledger_kind_writes(op->kind))
            e = ledger_run_write(l, op, why);
    }
    if (e == ERR_OK)
        e = ledger_exec(l, "COMMIT", why);
    if (e != ERR_OK && sqlite3_get_autocommit(l->db) == 0)
        (void)sqlite3_exec(l->db, "ROLLBACK", NULL, NULL, NULL);
    return e;
}

static void run_group(struct ledger *l, struct ledger_op *group)
{
    struct err_msg why = {{0}};
    enum err e = write_group(l, group, &why);
    for (struct ledger_op *op = group; op != NULL; op = op->next) {
        /* a barrier must not say that what stood before it is stored */
        if (e != ERR_OK && (ledger_kind_writes(op->kind) || op->kind == LEDGER_BARRIER)) {
            op->err = e;
            op->why = why;
        } else if (op->err == ERR_OK) {
            op->err = ledger_run_read(l, op, &op->why);
        }
    }
    if (l->wal_pages >= CHECKPOINT_PAGES) {
        /* passive and alone on the file: this copies all of the WAL, and the next commit starts it
         * anew */
        if (sqlite3_wal_checkpoint_v2(l->db, NULL, SQLITE_CHECKPOINT_PASSIVE, NULL, NULL) !=
            SQLITE_OK)
            log_warn("checkpoint failed, trying again after the next commit error=\"%s\"",
                     sqlite3_errmsg(l->db));
        l->wal_pages = 0;
    }
}

static void *run_thread(void *arg)
{
    struct ledger *l = arg;
    pthread_mutex_lock(&l->mutex);
    for (;;) {
        while (l->queue == NULL && !l->stopping)
            pthread_cond_wait(&l->work, &l->mutex);
        if (l->queue == NULL)
            break;
        struct ledger_op *group = l->queue, **end = &l->queue;
        for (int count = 0; *end != NULL && count < MAX_GROUP_OPS; count++)
            end = &(*end)->next;
        l->queue = *end;
        if (l->queue == NULL)
            l->queue_end = &l->queue;
        *end = NULL;
        pthread_mutex_unlock(&l->mutex);
        run_group(l, group);
        pthread_mutex_lock(&l->mutex);
        *l->finished_end = group;
        while (*l->finished_end != NULL)
            l->finished_end = &(*l->finished_end)->next;
        if (l->wake != NULL)
            l->wake(l->user);
    }
    pthread_mutex_unlock(&l->mutex);
    return NULL;
}

void ledger_submit(struct ledger *l, struct ledger_op *op)
{
    op->next = NULL;
    op->err = ERR_OK;
    pthread_mutex_lock(&l->mutex);
    *l->queue_end = op;
    l->queue_end = &op->next;
    if (!l->thread_started) {
        int rc = pthread_create(&l->thread, NULL, run_thread, l);
        if (rc == 0) {
            l->thread_started = true;
        } else { /* no thread: everything fails, which the clients and workers are told */
            op->err = ERR_IO;
            err_set(&op->why, ERR_IO, "ledger %s: cannot start its thread: %s", l->path,
                    strerror(rc));
            l->queue = NULL;
            l->queue_end = &l->queue;
            *l->finished_end = op;
            l->finished_end = &op->next;
            if (l->wake != NULL)
                l->wake(l->user);
        }
    }
    pthread_cond_signal(&l->work);
    pthread_mutex_unlock(&l->mutex);
}

void ledger_poll(struct ledger *l)
{
    pthread_mutex_lock(&l->mutex);
    struct ledger_op *op = l->finished;
    l->finished = NULL;
    l->finished_end = &l->finished;
    pthread_mutex_unlock(&l->mutex);
    while (op != NULL) {
        struct ledger_op *next = op->next;
        op->done(op);
        op = next;
    }
}

void ledger_close(struct ledger **ledger)
{
    struct ledger *l = *ledger;
    if (l == NULL)
        return;
    if (l->thread_started) {
        pthread_mutex_lock(&l->mutex);
        l->stopping = true;
        pthread_cond_signal(&l->work);
        pthread_mutex_unlock(&l->mutex);
        pthread_join(l->thread, NULL);
    }
    ledger_poll(l);
    while (l->queue != NULL) { /* what those calls left behind */
        struct ledger_op *group = l->queue;
        l->queue = NULL;
        l->queue_end = &l->queue;
        run_group(l, group);
        l->finished = group;
        ledger_poll(l);
    }
    *ledger = NULL;
    close_parts(l);
}
