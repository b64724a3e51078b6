/* Copies of the whole file: a backup of a ledger in use, made in steps between its groups, and a
 * compacted one that takes the place of a ledger nobody uses.
 *
 * A backup reads through the writer's own connection, so what is committed meanwhile goes into the
 * copy too (sqlite3_backup_step()), and the copy is the ledger as it is at the last step. It gets
 * its name when it is whole and synced. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/log.h"
#include "broker/ledger_sql.h"

enum { STEP_BYTES = 1 << 20 };

/* A hidden name beside the file, which no backup can have: an older one there was cut short. */
static enum err hidden_name(const char *path, const char *end, char out[4096], struct err_msg *why)
{
    const char *slash = strrchr(path, '/'), *name = slash == NULL ? path : slash + 1;
    if (snprintf(out, 4096, "%.*s.%s.%s", (int)(name - path), path, name, end) < 4096)
        return ERR_OK;
    return err_set(why, ERR_RANGE, "%s: the path is too long", path);
}

/* An empty file for a copy, in place of one that was cut short: nobody else may read it before it
 * is whole. */
static enum err make_empty(const char *path, struct err_msg *why)
{
    (void)unlink(path);
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0)
        return err_set(why, ERR_IO, "%s: cannot create: %s", path, strerror(errno));
    close(fd);
    return ERR_OK;
}

/* Syncs a whole copy, which who may read the ledger may read from now on. */
static enum err finish_file(const char *path, const char *ledger, struct err_msg *why)
{
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    bool done = fd >= 0 && stat(ledger, &st) == 0 && fchmod(fd, st.st_mode & 0777) == 0;
    if (done && (st.st_uid != geteuid() || st.st_gid != getegid()))
        (void)!fchown(fd, st.st_uid, st.st_gid); /* what we may do of it */
    done = done && fsync(fd) == 0;
    int error = errno;
    if (fd >= 0)
        close(fd);
    return done ? ERR_OK : err_set(why, ERR_IO, "%s: cannot sync: %s", path, strerror(error));
}

/* ---- backup ---- */

static enum err open_copy(struct ledger *l, const char *tmp, struct err_msg *why)
{
    struct ledger_copy *c = &l->copy;
    enum err e = make_empty(tmp, why);
    if (e != ERR_OK)
        return e;
    int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX;
    if (sqlite3_open_v2(tmp, &c->db, flags, NULL) != SQLITE_OK ||
        /* worthless until it is whole: nothing to roll back, and synced once, at the end */
        sqlite3_exec(c->db,
                     "PRAGMA synchronous=OFF; PRAGMA journal_mode=OFF; PRAGMA cache_size=-2048",
                     NULL, NULL, NULL) != SQLITE_OK ||
        (c->backup = sqlite3_backup_init(c->db, "main", l->db, "main")) == NULL)
        return err_set(why, ERR_IO, "backup %s: %s", tmp,
                       c->db == NULL ? "out of memory" : sqlite3_errmsg(c->db));
    return ERR_OK;
}

/* Closes the copy. */
static enum err close_copy(struct ledger *l, struct err_msg *why)
{
    struct ledger_copy *c = &l->copy;
    enum err e = ERR_OK;
    if (c->backup != NULL && sqlite3_backup_finish(c->backup) != SQLITE_OK)
        e = err_set(why, ERR_IO, "backup: %s", sqlite3_errmsg(c->db));
    c->backup = NULL;
    sqlite3_close(c->db);
    c->db = NULL;
    return e;
}

/* The whole copy gets its name, unless somebody else has it by now. */
static enum err name_copy(struct ledger *l, const char *tmp, const char *path, struct err_msg *why)
{
    enum err e = finish_file(tmp, l->path, why);
    if (e != ERR_OK)
        return e;
    if (renameat2(AT_FDCWD, tmp, AT_FDCWD, path, RENAME_NOREPLACE) != 0)
        return err_set(why, errno == EEXIST ? ERR_CONFLICT : ERR_IO, "backup %s: %s", path,
                       strerror(errno));
    return file_sync_dir(path, why);
}

bool ledger_backup_begin(struct ledger *l, struct ledger_op *op)
{
    struct ledger_copy *c = &l->copy;
    char tmp[4096];
    if (c->op != NULL) {
        op->err = err_set(&op->why, ERR_AGAIN, "another backup is being made");
        return false;
    }
    if (access(op->backup.path.data, F_OK) == 0) {
        op->err =
            err_set(&op->why, ERR_CONFLICT, "backup %s: it is there already: give another name",
                    op->backup.path.data);
        return false;
    }
    op->err = hidden_name(op->backup.path.data, "part", tmp, &op->why);
    if (op->err != ERR_OK)
        return false;
    op->err = open_copy(l, tmp, &op->why);
    if (op->err != ERR_OK) {
        (void)close_copy(l, NULL);
        (void)unlink(tmp);
        return false;
    }
    c->op = op;
    return true;
}

/* The end, good or bad; returns the operation. */
static struct ledger_op *end_backup(struct ledger *l, enum err e)
{
    struct ledger_copy *c = &l->copy;
    struct ledger_op *op = c->op;
    char tmp[4096];
    struct err_msg why;
    (void)hidden_name(op->backup.path.data, "part", tmp, &why); /* as when it began */
    c->op = NULL;
    enum err closed = close_copy(l, &why);
    if (e == ERR_OK && closed != ERR_OK)
        e = err_set(&op->why, closed, "%s", why.text);
    if (e == ERR_OK)
        e = name_copy(l, tmp, op->backup.path.data, &op->why);
    if (e != ERR_OK)
        (void)unlink(tmp);
    op->err = e;
    return op;
}

struct ledger_op *ledger_backup_cancel(struct ledger *l, const char *reason)
{
    struct ledger_op *op = l->copy.op;
    return op == NULL ? NULL
                      : end_backup(l, err_set(&op->why, ERR_CANCELLED, "backup: %s", reason));
}

struct ledger_op *ledger_backup_step(struct ledger *l)
{
    struct ledger_copy *c = &l->copy;
    int rc = sqlite3_backup_step(c->backup, (int)(STEP_BYTES / l->page_bytes));
    if (rc == SQLITE_OK || rc == SQLITE_BUSY || rc == SQLITE_LOCKED) {
        int total = sqlite3_backup_pagecount(c->backup);
        int left = sqlite3_backup_remaining(c->backup);
        pthread_mutex_lock(&l->mutex);
        c->progress.bytes = (uint64_t)(total - left) * (uint64_t)l->page_bytes;
        c->progress.total_bytes = (uint64_t)total * (uint64_t)l->page_bytes;
        pthread_mutex_unlock(&l->mutex);
        return NULL;
    }
    if (rc == SQLITE_DONE) {
        c->op->backup.ret_bytes =
            (uint64_t)sqlite3_backup_pagecount(c->backup) * (uint64_t)l->page_bytes;
        return end_backup(l, ERR_OK);
    }
    enum err e = rc == SQLITE_FULL ? ERR_FULL : ERR_IO;
    return end_backup(l, err_set(&c->op->why, e, "backup %.*s: %s", STR_ARG(c->op->backup.path),
                                 sqlite3_errstr(rc)));
}

struct ledger_progress ledger_backup_progress(struct ledger *l)
{
    pthread_mutex_lock(&l->mutex);
    struct ledger_progress p = l->copy.progress;
    pthread_mutex_unlock(&l->mutex);
    return p;
}

/* ---- compaction ---- */

static enum err write_compacted(struct ledger *l, const char *tmp, struct err_msg *why)
{
    sqlite3_stmt *s = NULL;
    enum err e = make_empty(tmp, why);
    if (e != ERR_OK)
        return e;
    if (sqlite3_prepare_v2(l->db, "VACUUM INTO ?1", -1, &s, NULL) != SQLITE_OK)
        return ledger_sql_err(l, "compact", why);
    sqlite3_bind_text(s, 1, tmp, -1, SQLITE_STATIC);
    e = sqlite3_step(s) == SQLITE_DONE ? ERR_OK : ledger_sql_err(l, "compact", why);
    sqlite3_finalize(s);
    return e;
}

static enum err size_of(const char *path, uint64_t *ret, struct err_msg *why)
{
    struct stat st;
    if (stat(path, &st) != 0)
        return err_set(why, ERR_IO, "ledger %s: %s", path, strerror(errno));
    *ret = (uint64_t)st.st_size;
    return ERR_OK;
}

/* The store is closed, so that nothing of it lies beside the file any more. */
static enum err replace(const char *path, const char *tmp, struct err_msg *why)
{
    char wal[4096];
    snprintf(wal, sizeof wal, "%s-wal", path);
    if (access(wal, F_OK) == 0)
        return err_set(why, ERR_IO, "ledger %s: its -wal is still there, it stays as it is", path);
    enum err e = finish_file(tmp, path, why);
    if (e != ERR_OK)
        return e;
    if (rename(tmp, path) != 0)
        return err_set(why, ERR_IO, "ledger %s: cannot be replaced: %s", path, strerror(errno));
    return file_sync_dir(path, why);
}

enum err ledger_compact(const char *path, uint64_t *ret_before, uint64_t *ret_after,
                        struct err_msg *why)
{
    char tmp[4096];
    struct ledger *l = NULL;
    struct ledger_options o = {.path = path};
    if (access(path, F_OK) != 0)
        return err_set(why, ERR_NOT_FOUND, "ledger %s: %s", path, strerror(errno));
    enum err e = hidden_name(path, "compact", tmp, why);
    if (e == ERR_OK)
        e = ledger_open(&o, &l, why);
    if (e != ERR_OK)
        return e;
    e = ledger_checkpoint(l) == ERR_OK
            ? size_of(path, ret_before, why)
            : err_set(why, ERR_IO, "ledger %s: its -wal cannot be taken over", path);
    if (e == ERR_OK)
        e = write_compacted(l, tmp, why);
    if (e == ERR_OK)
        e = size_of(tmp, ret_after, why);
    ledger_close_store(l);
    if (e == ERR_OK)
        e = replace(path, tmp, why);
    if (e != ERR_OK)
        (void)unlink(tmp);
    ledger_close(&l); /* the lock is ours until here */
    return e;
}
