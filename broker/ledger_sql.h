/* Private to ledger*.c: the schema, the statements, and the store both files share. */
#ifndef OCTO_BROKER_LEDGER_SQL_H
#define OCTO_BROKER_LEDGER_SQL_H

#include <pthread.h>
#include <sqlite3.h>

#include "broker/ledger.h"

enum { LEDGER_SCHEMA = 1, LEDGER_APPLICATION = 0x4f43544f /* "OCTO" */ };

/* NAME, SQL */
#define LEDGER_STATEMENTS(X)                                                                       \
    X(FIND_BATCH, "SELECT id, sealed_ms, cancelled, model, options_hash, options_text, priority, " \
                  "max_attempts, created_ms FROM batch WHERE name=?1")                             \
    X(ADD_BATCH, "INSERT INTO batch(name, model, options_hash, options_text, priority, "           \
                 "max_attempts, created_ms, sealed_ms, cancelled) "                                \
                 "VALUES(?1,?2,?3,?4,?5,?6,?7,0,0)")                                               \
    X(SEAL_BATCH, "UPDATE batch SET sealed_ms=?2 WHERE id=?1 AND sealed_ms=0")                     \
    X(CANCEL_BATCH, "UPDATE batch SET cancelled=1 WHERE id=?1")                                    \
    X(COUNT_LINES, "SELECT count(*) FROM job WHERE batch=?1")                                      \
    X(FIND_LINE, "SELECT id, hash, state FROM job WHERE batch=?1 AND line=?2")                     \
    X(ADD_JOB, "INSERT INTO job(batch, line, hash, state, body_bytes, submitted_ms, attempts, "    \
               "epoch, leased) VALUES(?1,?2,?3,0,?4,?5,0,0,0)")                                    \
    X(ADD_REQUEST, "INSERT INTO request(job, custom_id, prefix_hashes, body) VALUES(?1,?2,?3,?4)") \
    X(LAST_SEQ, "SELECT max(seq) FROM job WHERE batch=?1 AND seq>0")                               \
    X(FIND_JOB, "SELECT batch, state, epoch FROM job WHERE id=?1")                                 \
    X(FINISH_JOB, "UPDATE job SET state=?2, seq=?3, finished_ms=?4, epoch=max(epoch,?5), "         \
                  "attempts=max(attempts,?6), prompt_tokens=?7, completion_tokens=?8, leased=0 "   \
                  "WHERE id=?1 AND state=0")                                                       \
    X(ADD_RESULT, "INSERT INTO result(job, body) VALUES(?1,?2)")                                   \
    X(UNFINISHED, "SELECT id FROM job WHERE batch=?1 AND state=0 ORDER BY line")                   \
    X(LEASE_JOB, "UPDATE job SET leased=1, epoch=?2 WHERE id=?1 AND state=0")                      \
    X(RETURN_JOB, "UPDATE job SET leased=0, attempts=?2 WHERE id=?1 AND state=0")                  \
    X(ADD_ATTEMPT, "INSERT INTO attempt(job, at_ms, reason) VALUES(?1,?2,?3)")                     \
    X(LOAD_REQUEST, "SELECT custom_id, body FROM request WHERE job=?1")                            \
    X(FETCH_BY_SEQ, LEDGER_FETCH_SQL "j.seq>?2 AND j.seq>0 ORDER BY j.seq LIMIT ?3")               \
    X(FETCH_BY_LINE, LEDGER_FETCH_SQL "j.line>?2 AND j.state<>0 ORDER BY j.line LIMIT ?3")

#define LEDGER_FETCH_SQL                                                                           \
    "SELECT j.seq, j.line, j.state, j.attempts, j.submitted_ms, j.finished_ms, q.custom_id, "      \
    "r.body FROM job j JOIN request q ON q.job=j.id LEFT JOIN result r ON r.job=j.id "             \
    "WHERE j.batch=?1 AND "

enum ledger_stmt {
#define X(name, sql) STMT_##name,
    LEDGER_STATEMENTS(X)
#undef X
        STMT_COUNT
};

struct ledger {
    sqlite3 *db; /* the opening thread's until the ledger's thread starts, then only its */
    sqlite3_stmt *stmts[STMT_COUNT];
    char *path;
    int lock_fd;
    char id[33];
    uint32_t generation;
    bool sync_full; /* what PRAGMA synchronous is now */
    int wal_pages;
    void (*wake)(void *user);
    void *user;

    bool thread_started;
    pthread_t thread;
    pthread_mutex_t mutex; /* guards what follows */
    pthread_cond_t work;
    struct ledger_op *queue, **queue_end;
    struct ledger_op *finished, **finished_end;
    bool stopping;
};

/* The text of SQLite's last error, as ERR_IO, ERR_FULL (no space), ERR_FORMAT (corrupt, no
 * database) or ERR_NOMEM: "ledger PATH: what: text". */
enum err ledger_sql_err(struct ledger *l, const char *what, struct err_msg *why);
/* Runs SQL without results. */
enum err ledger_exec(struct ledger *l, const char *sql, struct err_msg *why) MUST_CHECK;

/* ledger_ops.c. Both set op->err for what is wrong with the operation itself, and return the
 * store's errors. */
enum err ledger_run_write(struct ledger *l, struct ledger_op *op, struct err_msg *why) MUST_CHECK;
enum err ledger_run_read(struct ledger *l, struct ledger_op *op, struct err_msg *why) MUST_CHECK;
bool ledger_kind_writes(enum ledger_kind kind);
bool ledger_kind_syncs(enum ledger_kind kind);

#endif
