/* Opening a ledger's store: the lock, SQLite with its pragmas, the schema; and opening it again
 * after a failed sync. Everything else is ledger.c's. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/random.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/size.h"
#include "broker/ledger_sql.h"

enum { LOCK_RETRY_MS = 20, CHECK_ALL_BYTES = 1 << 30 };

static const char schema[] =
    "CREATE TABLE meta(key TEXT PRIMARY KEY, value) WITHOUT ROWID;"
    "CREATE TABLE batch(id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, model TEXT NOT NULL,"
    " options_hash TEXT NOT NULL, options_text TEXT NOT NULL, priority INTEGER NOT NULL,"
    " max_attempts INTEGER NOT NULL, created_ms INTEGER NOT NULL, sealed_ms INTEGER NOT NULL,"
    " cancelled INTEGER NOT NULL, client TEXT NOT NULL DEFAULT '',"
    /* REC_SCHEDULE; NULL: only a priority */
    " schedule BLOB);"
    /* The small rows that change. seq: place in the order of completion, NULL until then. */
    "CREATE TABLE job(id INTEGER PRIMARY KEY, batch INTEGER NOT NULL, line INTEGER NOT NULL,"
    " hash INTEGER NOT NULL, state INTEGER NOT NULL, leased INTEGER NOT NULL, attempts INTEGER NOT "
    "NULL,"
    " epoch INTEGER NOT NULL, body_bytes INTEGER NOT NULL, submitted_ms INTEGER NOT NULL,"
    " finished_ms INTEGER, seq INTEGER, prompt_tokens INTEGER, completion_tokens INTEGER,"
    /* NULL: unknown */
    " energy_uj INTEGER, prefix INTEGER);"
    "CREATE UNIQUE INDEX job_line ON job(batch, line);"
    "CREATE UNIQUE INDEX job_seq ON job(batch, seq) WHERE seq>0;"
    /* Who holds what: a row for each grant, so many pairs of job and epoch. A lease counts when its
     * epoch is above the job's. No row of results, requests, ... has three columns: a salvage
     * knows rows by their shape. */
    "CREATE TABLE lease(id INTEGER PRIMARY KEY, count INTEGER NOT NULL, jobs BLOB NOT NULL);"
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

/* What the system said of an I/O error, 0: not known. SQLite's own note of it is read late, when it
 * has rolled back; its files have what went wrong in them. */
static int io_errno(struct ledger *l)
{
    sqlite3_file *file = NULL;
    int number = 0;
    static const int files[] = {SQLITE_FCNTL_JOURNAL_POINTER, SQLITE_FCNTL_FILE_POINTER};
    for (size_t i = 0; i < ARRAY_LEN(files) && number == 0; i++) {
        if (sqlite3_file_control(l->db, "main", files[i], &file) == SQLITE_OK && file != NULL &&
            file->pMethods != NULL &&
            file->pMethods->xFileControl(file, SQLITE_FCNTL_LAST_ERRNO, &number) != SQLITE_OK)
            number = 0;
    }
    return number != 0 ? number : sqlite3_system_errno(l->db);
}

enum err ledger_sql_err(struct ledger *l, const char *what, struct err_msg *why)
{
    int code = l->db == NULL ? SQLITE_NOMEM : sqlite3_errcode(l->db);
    int more = l->db == NULL ? 0 : sqlite3_extended_errcode(l->db);
    enum err e = ERR_IO;
    l->distrusted = l->distrusted || more == SQLITE_IOERR_FSYNC || more == SQLITE_IOERR_DIR_FSYNC;
    if (code == SQLITE_FULL)
        e = ERR_FULL;
    else if (code == SQLITE_NOMEM || more == SQLITE_IOERR_NOMEM)
        e = ERR_NOMEM;
    else if (code == SQLITE_CORRUPT || code == SQLITE_NOTADB)
        e = ERR_FORMAT;
    /* SQLite's own text is of what the memory was for: a temporary file that cannot be opened. */
    if (e == ERR_NOMEM)
        return err_set(why, e, "ledger %s: %s: out of memory", l->path, what);
    if (e == ERR_FORMAT)
        return err_set(why, e, "ledger %s: %s: %s: " LEDGER_SALVAGE_HINT, l->path, what,
                       sqlite3_errmsg(l->db), l->path);
    char text[200]; /* before anything else is asked of the connection */
    snprintf(text, sizeof text, "%s", sqlite3_errmsg(l->db));
    int os = code == SQLITE_IOERR      ? io_errno(l)
             : code == SQLITE_CANTOPEN ? sqlite3_system_errno(l->db)
                                       : 0;
    if (os == EFBIG || os == EDQUOT || os == ENOSPC)
        e = ERR_FULL;
    return err_set(why, e, "ledger %s: %s: %s%s%s", l->path, what, text, os != 0 ? ": " : "",
                   os != 0 ? strerror(os) : "");
}

enum err ledger_exec(struct ledger *l, const char *sql, struct err_msg *why)
{
    if (sqlite3_exec(l->db, sql, NULL, NULL, NULL) != SQLITE_OK)
        return ledger_sql_err(l, "SQLite", why);
    return ERR_OK;
}

/* ---- open ---- */

enum err ledger_lock(struct ledger *l, int wait_ms, struct err_msg *why)
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

/* Schema 1 had no clients; schema 2 an index of unfinished jobs, and leases only in the jobs' rows
 * (they still count); schema 3 no energy; schema 4 no schedules and
 * prefixes. */
static enum err upgrade_schema(struct ledger *l, int64_t version, struct err_msg *why)
{
    enum err e = ledger_exec(l, "BEGIN IMMEDIATE", why);
    if (e == ERR_OK && version < 2)
        e = ledger_exec(l, "ALTER TABLE batch ADD COLUMN client TEXT NOT NULL DEFAULT ''", why);
    if (e == ERR_OK && version < 3)
        e = ledger_exec(l,
                        "DROP INDEX job_unfinished;"
                        "CREATE TABLE lease(id INTEGER PRIMARY KEY, count INTEGER NOT NULL,"
                        " jobs BLOB NOT NULL)",
                        why);
    if (e == ERR_OK && version < 4)
        e = ledger_exec(l, "ALTER TABLE job ADD COLUMN energy_uj INTEGER", why);
    if (e == ERR_OK)
        e = ledger_exec(l,
                        "ALTER TABLE batch ADD COLUMN schedule BLOB;"
                        "ALTER TABLE job ADD COLUMN prefix INTEGER;"
                        "PRAGMA user_version=5; COMMIT",
                        why);
    if (e != ERR_OK && sqlite3_get_autocommit(l->db) == 0)
        (void)sqlite3_exec(l->db, "ROLLBACK", NULL, NULL, NULL);
    return e;
}

/* Refuses other programs' files and newer schemas, before anything is written. *ret_version 0: an
 * empty file. */
static enum err read_version(struct ledger *l, int64_t *ret_version, struct err_msg *why)
{
    int64_t version = 0, application = 0, tables = 0;
    enum err e = pragma_int(l, "PRAGMA user_version", &version, why);
    if (e == ERR_OK)
        e = pragma_int(l, "PRAGMA application_id", &application, why);
    if (e == ERR_OK)
        e = pragma_int(l, "SELECT count(*) FROM sqlite_schema", &tables, why);
    if (e != ERR_OK)
        return e;
    bool empty = tables == 0 && application == 0;
    if (!empty && application != LEDGER_APPLICATION)
        return err_set(why, ERR_FORMAT, "ledger %s: a database, but of another program", l->path);
    if (!empty && (version < 1 || version > LEDGER_SCHEMA))
        return err_set(
            why, ERR_UNSUPPORTED,
            "ledger %s: has schema %lld, this broker knows %d: use the newer octoflow-broker",
            l->path, (long long)version, LEDGER_SCHEMA);
    *ret_version = empty ? 0 : version;
    return ERR_OK;
}

enum err ledger_note_generation(struct ledger *l, struct err_msg *why)
{
    char sql[160];
    snprintf(sql, sizeof sql,
             "UPDATE meta SET value=%u WHERE key='generation';"
             "INSERT OR IGNORE INTO meta VALUES('secret',%lld)",
             (unsigned)l->generation, (long long)l->secret);
    return ledger_exec(l, sql, why);
}

/* A ledger of an older broker has none: it gets one with the note of its generation. */
static enum err read_secret(struct ledger *l, struct err_msg *why)
{
    int64_t secret = 0;
    enum err e = pragma_int(l, "SELECT (SELECT value FROM meta WHERE key='secret')", &secret, why);
    l->secret = (uint64_t)secret;
    while (e == ERR_OK && (l->secret == 0 || l->secret > INT64_MAX)) {
        if (getrandom(&l->secret, sizeof l->secret, 0) != (ssize_t)sizeof l->secret)
            return err_set(why, ERR_IO, "ledger %s: no random numbers: %s", l->path,
                           strerror(errno));
        l->secret &= INT64_MAX;
    }
    return e;
}

/* Epochs of this run must not be those of the last: a new generation. On a full disk the ledger
 * opens all the same, so that results can be read, and the first group that can be written notes
 * the generation: nothing is granted before. */
static enum err read_identity(struct ledger *l, struct err_msg *why)
{
    int64_t generation = 0;
    struct err_msg full;
    enum err e = pragma_int(l, "SELECT value+1 FROM meta WHERE key='generation'", &generation, why);
    if (e != ERR_OK)
        return e;
    if (generation < 1 || generation > LEDGER_MAX_GENERATION)
        return err_set(why, ERR_FORMAT,
                       "ledger %s: generation %lld: expected 1 to %d: " LEDGER_SALVAGE_HINT,
                       l->path, (long long)generation, LEDGER_MAX_GENERATION, l->path);
    l->generation = (uint32_t)generation;
    e = read_secret(l, why);
    if (e != ERR_OK)
        return e;
    e = ledger_note_generation(l, &full);
    if (e == ERR_FULL || e == ERR_IO)
        log_error("%s: only what is stored can be read until it works again", full.text);
    else if (e != ERR_OK)
        return err_set(why, e, "%s", full.text);
    l->generation_noted = e == ERR_OK;
    e = ERR_OK;
    sqlite3_stmt *stmt = NULL;
    if (sqlite3_prepare_v2(l->db, "SELECT value FROM meta WHERE key='id'", -1, &stmt, NULL) !=
        SQLITE_OK)
        return ledger_sql_err(l, "open", why);
    int rc = sqlite3_step(stmt);
    const char *id = rc == SQLITE_ROW ? (const char *)sqlite3_column_text(stmt, 0) : NULL;
    if (id != NULL && sqlite3_column_bytes(stmt, 0) == 32)
        memcpy(l->id, id, 32);
    else if (id != NULL || rc == SQLITE_DONE)
        e = err_set(why, ERR_FORMAT, "ledger %s: it has no id: " LEDGER_SALVAGE_HINT, l->path,
                    l->path);
    else
        e = rc == SQLITE_ROW ? err_set(why, ERR_NOMEM, "ledger %s: out of memory", l->path)
                             : ledger_sql_err(l, "open", why);
    sqlite3_finalize(stmt);
    return e;
}

static int on_wal(void *user, sqlite3 *db, const char *name, int pages)
{
    struct ledger *l = user;
    (void)db;
    (void)name;
    l->wal_pages = l->wal_end = pages;
    if (l->sync_full)
        l->wal_synced = pages;
    else if (l->wal_copied) /* it began anew */
        l->wal_synced = 0;
    l->wal_copied = false;
    return SQLITE_OK;
}

/* SQLite's own statistics of its memory take a lock at each allocation. */
static void no_statistics(void)
{
    (void)sqlite3_config(SQLITE_CONFIG_MEMSTATUS, 0); /* refused when SQLite is in use already */
}

static enum err open_db(struct ledger *l, struct err_msg *why)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, no_statistics);
    int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX;
    if (sqlite3_open_v2(l->path, &l->db, flags, l->vfs) != SQLITE_OK)
        return ledger_sql_err(l, "open", why);
    if (sqlite3_db_readonly(l->db, "main") == 1)
        return err_set(why, ERR_IO,
                       "ledger %s: the file is read-only: the broker needs the right to write it",
                       l->path);
    sqlite3_extended_result_codes(l->db, 0);
    sqlite3_busy_timeout(l->db, l->lock_wait_ms); /* for somebody who looks into it with SQLite */
    l->sync_full = true;
    int64_t version = 0;
    /* exclusive: a second program that reads or checkpoints beside us is what WAL's bugs are made
     * of */
    char page_size[40];
    snprintf(page_size, sizeof page_size, "PRAGMA page_size=%d", LEDGER_PAGE_BYTES);
    enum err e = ledger_exec(l, "PRAGMA locking_mode=EXCLUSIVE", why);
    if (e == ERR_OK)
        e = ledger_exec(l, page_size, why); /* an older file keeps its own */
    if (e == ERR_OK)
        e = read_version(l, &version, why);
    if (e == ERR_OK)
        e = ledger_exec(l,
                        "PRAGMA journal_mode=WAL; PRAGMA wal_autocheckpoint=0;"
                        /* what left is wiped: a salvage would find it again in the free pages */
                        "PRAGMA secure_delete=ON;"
                        "PRAGMA temp_store=MEMORY; PRAGMA cache_size=-16384;",
                        why);
    sqlite3_wal_hook(l->db, on_wal, l); /* after wal_autocheckpoint, which is such a hook */
    if (e == ERR_OK)
        e = ledger_exec(l, l->sync_sql, why);
    if (e == ERR_OK && version == 0)
        e = create_schema(l, why);
    if (e == ERR_OK && version > 0 && version < LEDGER_SCHEMA)
        e = upgrade_schema(l, version, why);
    return e;
}

static enum err prepare(struct ledger *l, struct err_msg *why)
{
    char sql[64];
    snprintf(sql, sizeof sql, "PRAGMA max_page_count=%llu", (unsigned long long)l->max_pages);
    enum err e = l->max_pages > 0 ? ledger_exec(l, sql, why) : ERR_OK;
    if (e != ERR_OK)
        return e;
    for (int i = 0; i < STMT_COUNT; i++) {
        if (sqlite3_prepare_v3(l->db, statement_sql[i], -1, SQLITE_PREPARE_PERSISTENT, &l->stmts[i],
                               NULL) != SQLITE_OK)
            return ledger_sql_err(l, "open", why);
    }
    return ERR_OK;
}

/* What a check says: "ok", what is damaged, or that a page could not be read. */
static enum err check_verdict(struct ledger *l, const char *text, struct err_msg *why)
{
    if (text == NULL)
        return err_set(why, ERR_NOMEM, "ledger %s: check: out of memory", l->path);
    if (strcmp(text, "ok") == 0)
        return ERR_OK;
    const char *end = strchr(text, '\n'); /* "*** in database main ***" stands before it */
    const char *line = end == NULL ? text : end + 1, *code = strstr(line, "error code");
    int number = code == NULL ? SQLITE_CORRUPT : atoi(code + strcspn(code, "0123456789"));
    if ((number & 0xff) == SQLITE_NOMEM || number == SQLITE_IOERR_NOMEM)
        return err_set(why, ERR_NOMEM, "ledger %s: check: out of memory", l->path);
    if ((number & 0xff) == SQLITE_IOERR)
        return err_set(why, ERR_IO, "ledger %s: check: disk I/O error", l->path);
    return err_set(why, ERR_FORMAT, "ledger %s: damaged: %s: " LEDGER_SALVAGE_HINT, l->path, line,
                   l->path);
}

/* All pages' structure in a small file. In a large one only that of the tables that a start reads
 * anyway: requests and results are most of it, and are read when they are asked for. */
static enum err check_pages(struct ledger *l, struct err_msg *why)
{
    static const char *const all[] = {"PRAGMA quick_check(1)", NULL};
    static const char *const small[] = {"PRAGMA quick_check(meta)", "PRAGMA quick_check(batch)",
                                        "PRAGMA quick_check(job)", "PRAGMA quick_check(attempt)",
                                        NULL};
    int64_t pages = 0;
    enum err e = pragma_int(l, "PRAGMA page_count", &pages, why);
    const char *const *sql = pages * l->page_bytes <= CHECK_ALL_BYTES ? all : small;
    for (; *sql != NULL && e == ERR_OK; sql++) {
        sqlite3_stmt *s = NULL;
        if (sqlite3_prepare_v2(l->db, *sql, -1, &s, NULL) != SQLITE_OK ||
            sqlite3_step(s) != SQLITE_ROW) {
            e = ledger_sql_err(l, "check", why);
        } else {
            e = check_verdict(l, (const char *)sqlite3_column_text(s, 0), why);
        }
        sqlite3_finalize(s);
    }
    return e;
}

/* A file that was cut short. Only when all of the WAL is in it. */
static enum err check_size(struct ledger *l, struct err_msg *why)
{
    int64_t pages = 0;
    sqlite3_file *file = NULL;
    sqlite3_int64 size = 0;
    enum err e = pragma_int(l, "PRAGMA page_count", &pages, why);
    if (e != ERR_OK || !l->wal_copied ||
        sqlite3_file_control(l->db, "main", SQLITE_FCNTL_FILE_POINTER, &file) != SQLITE_OK ||
        file->pMethods->xFileSize(file, &size) != SQLITE_OK || size >= pages * l->page_bytes)
        return e;
    return err_set(why, ERR_FORMAT,
                   "ledger %s: damaged: %lld bytes, expected %lld: " LEDGER_SALVAGE_HINT, l->path,
                   (long long)size, (long long)(pages * l->page_bytes), l->path);
}

static enum err read_time(struct ledger *l, struct err_msg *why)
{
    int64_t at = 0, ahead = 0, from = 0;
    enum err e = pragma_int(l, "SELECT (SELECT value FROM meta WHERE key='time_ms')", &at, why);
    if (e == ERR_OK)
        e = pragma_int(l, "SELECT (SELECT value FROM meta WHERE key='time_ahead_ms')", &ahead, why);
    if (e == ERR_OK)
        e = pragma_int(l, "SELECT (SELECT value FROM meta WHERE key='time_from_ms')", &from, why);
    if (e == ERR_OK && at > 0 && ahead >= 0 && from >= 0 && from <= at) /* else as without one */
        l->time = (struct keep_note){(uint64_t)at, (uint64_t)ahead, (uint64_t)from};
    return e;
}

enum err ledger_open_store(struct ledger *l, struct err_msg *why)
{
    l->wal_synced = -1; /* not known */
    enum err e = open_db(l, why);
    if (e == ERR_OK)
        e = pragma_int(l, "PRAGMA page_size", &l->page_bytes, why);
    if (e == ERR_OK)
        e = check_pages(l, why);
    /* A predecessor that was killed left a WAL of which nobody knows what is synced. */
    if (e == ERR_OK)
        (void)ledger_checkpoint(l);
    if (e == ERR_OK)
        e = check_size(l, why);
    if (e == ERR_OK)
        e = read_identity(l, why);
    if (e == ERR_OK)
        e = read_time(l, why);
    return e == ERR_OK ? prepare(l, why) : e;
}

static void close_db(struct ledger *l)
{
    for (int i = 0; i < STMT_COUNT; i++) {
        sqlite3_finalize(l->stmts[i]);
        l->stmts[i] = NULL;
    }
    if (sqlite3_close(l->db) != SQLITE_OK)
        log_warn("ledger not closed cleanly, it recovers at the next start path=%s", l->path);
    l->db = NULL;
}

/* ---- after a failed sync ---- */

/* Cuts what was not synced off the WAL: notes of leases. The system may have dropped them though
 * they can still be read, and what is written behind a hole is lost with it. */
static enum err cut_wal(struct ledger *l, struct err_msg *why)
{
    enum { WAL_HEADER_BYTES = 32, FRAME_HEADER_BYTES = 24 };
    sqlite3_file *wal = NULL;
    sqlite3_int64 size = 0, keep = 0;
    if (l->wal_synced < 0)
        return ERR_OK;
    if (l->wal_synced > 0 && !l->wal_copied)
        keep = WAL_HEADER_BYTES + l->wal_synced * (FRAME_HEADER_BYTES + l->page_bytes);
    if (sqlite3_file_control(l->db, "main", SQLITE_FCNTL_JOURNAL_POINTER, &wal) != SQLITE_OK ||
        wal == NULL || wal->pMethods == NULL)
        return ERR_OK;
    int rc = wal->pMethods->xFileSize(wal, &size);
    if (rc == SQLITE_OK && size > keep)
        rc = wal->pMethods->xTruncate(wal, keep);
    if (rc == SQLITE_OK)
        rc = wal->pMethods->xSync(wal, SQLITE_SYNC_NORMAL);
    if (rc != SQLITE_OK)
        return err_set(why, ERR_IO, "ledger %s: %s after a failed sync", l->path,
                       sqlite3_errstr(rc));
    return ERR_OK;
}

enum err ledger_mend(struct ledger *l, struct err_msg *why)
{
    enum err e = ERR_OK;
    if (l->db != NULL) {
        e = cut_wal(l, why);
        if (e != ERR_OK)
            return e;
        sqlite3_db_config(l->db, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, NULL);
        close_db(l);
    }
    e = open_db(l, why);
    if (e == ERR_OK)
        e = prepare(l, why);
    if (e != ERR_OK) { /* nothing was written through it */
        if (l->db != NULL)
            sqlite3_db_config(l->db, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, NULL);
        close_db(l);
        return e;
    }
    l->distrusted = false;
    log_warn("ledger opened again after a failed write path=%s", l->path);
    return ERR_OK;
}

enum err ledger_checkpoint(struct ledger *l)
{
    int pages = 0, copied = 0;
    int rc = sqlite3_wal_checkpoint_v2(l->db, NULL, SQLITE_CHECKPOINT_PASSIVE, &pages, &copied);
    l->wal_pages = 0;
    if (rc == SQLITE_OK) {
        l->wal_end = l->wal_synced = pages < 0 ? 0 : pages; /* it syncs the WAL first */
        l->wal_copied = pages == copied;
        return ERR_OK;
    }
    log_warn("checkpoint failed, trying again after the next commit error=\"%s\"",
             sqlite3_errmsg(l->db));
    int more = sqlite3_extended_errcode(l->db);
    l->distrusted = l->distrusted || more == SQLITE_IOERR_FSYNC || more == SQLITE_IOERR_DIR_FSYNC;
    return ERR_IO;
}

void ledger_close_store(struct ledger *l)
{
    struct err_msg why;
    if (l->db == NULL)
        return;
    /* The checkpoint that SQLite does at the end would not say that a sync failed. */
    if (l->wal_end > 0 && !l->distrusted)
        (void)ledger_checkpoint(l);
    if (l->distrusted) {
        if (cut_wal(l, &why) != ERR_OK)
            log_error("%s: what was not acknowledged may be lost", why.text);
        sqlite3_db_config(l->db, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, NULL);
    }
    close_db(l);
}
