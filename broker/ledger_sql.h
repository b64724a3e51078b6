/* Private to ledger*.c: the schema, the statements, and the store both files share. */
#ifndef OCTO_BROKER_LEDGER_SQL_H
#define OCTO_BROKER_LEDGER_SQL_H

#include <pthread.h>
#include <sqlite3.h>

#include "broker/ledger.h"

enum { LEDGER_SCHEMA = 5, LEDGER_APPLICATION = 0x4f43544f /* "OCTO" */ };

/* NAME, SQL */
#define LEDGER_STATEMENTS(X)                                                                       \
    X(FIND_BATCH, "SELECT id, sealed_ms, cancelled, model, options_hash, options_text, priority, " \
                  "max_attempts, created_ms, client, schedule FROM batch WHERE name=?1")           \
    X(ADD_BATCH, "INSERT INTO batch(name, model, options_hash, options_text, priority, "           \
                 "max_attempts, created_ms, sealed_ms, cancelled, client, schedule) "              \
                 "VALUES(?1,?2,?3,?4,?5,?6,?7,0,0,?8,?9)")                                         \
    X(SET_BATCH, "UPDATE batch SET priority=?2, schedule=?3 WHERE id=?1")                          \
    X(SEAL_BATCH, "UPDATE batch SET sealed_ms=?2 WHERE id=?1 AND sealed_ms=0")                     \
    X(CANCEL_BATCH, "UPDATE batch SET cancelled=1 WHERE id=?1")                                    \
    X(COUNT_LINES, "SELECT count(*) FROM job WHERE batch=?1")                                      \
    X(FIND_LINE, "SELECT id, hash, state FROM job WHERE batch=?1 AND line=?2")                     \
    X(ADD_JOB, "INSERT INTO job(batch, line, hash, state, body_bytes, submitted_ms, attempts, "    \
               "epoch, leased, prefix) VALUES(?1,?2,?3,0,?4,?5,0,0,0,?6) "                         \
               "ON CONFLICT(batch, line) DO NOTHING")                                              \
    X(ADD_REQUEST, "INSERT INTO request(job, custom_id, prefix_hashes, body) VALUES(?1,?2,?3,?4)") \
    X(LAST_SEQ, "SELECT max(seq) FROM job WHERE batch=?1 AND seq>0")                               \
    X(FIND_JOB, "SELECT batch, state, epoch FROM job WHERE id=?1")                                 \
    X(FINISH_JOB, "UPDATE job SET state=?2, seq=?3, finished_ms=?4, epoch=max(epoch,?5), "         \
                  "attempts=max(attempts,?6), prompt_tokens=?7, completion_tokens=?8, "            \
                  "energy_uj=nullif(?9,0), leased=0 WHERE id=?1 AND state=0")                      \
    X(ADD_RESULT, "INSERT INTO result(job, body) VALUES(?1,?2)")                                   \
    X(UNFINISHED, "SELECT id, line FROM job WHERE batch=?1 AND line>?2 AND state=0 ORDER BY line " \
                  "LIMIT ?3")                                                                      \
    X(ADD_LEASES, "INSERT INTO lease(count, jobs) VALUES(?1,?2)")                                  \
    X(DROP_LEASES, "DELETE FROM lease")                                                            \
    X(RETURN_JOB,                                                                                  \
      "UPDATE job SET leased=0, attempts=?2, epoch=max(epoch,?3) WHERE id=?1 AND state=0")         \
    X(ADD_ATTEMPT, "INSERT INTO attempt(job, at_ms, reason) VALUES(?1,?2,?3)")                     \
    X(LOAD_REQUEST, "SELECT custom_id, body FROM request WHERE job=?1")                            \
    X(LOAD_CUSTOM_ID, "SELECT custom_id FROM request WHERE job=?1")                                \
    X(LOAD_RESULT, "SELECT body FROM result WHERE job=?1")                                         \
    X(MARK_FORGOTTEN, "UPDATE batch SET name=char(0)||'forgotten-'||id WHERE id=?1")               \
    /* The greatest ids of batches and jobs stay until there are greater ones: none is given twice \
     */                                                                                            \
    X(MARK_STUCK, "UPDATE batch SET name=char(0)||'stuck-'||id WHERE id=?1")                       \
    X(FIND_FORGOTTEN, "SELECT id FROM batch WHERE name>=char(0)||'forgotten-' AND "                \
                      "name<char(0)||'forgotten.' AND CASE WHEN EXISTS"                            \
                      "(SELECT 1 FROM job WHERE batch=batch.id) THEN EXISTS(SELECT 1 FROM job "    \
                      "WHERE batch=batch.id AND id<(SELECT max(id) FROM job)) "                    \
                      "ELSE id<(SELECT max(id) FROM batch) END ORDER BY name LIMIT 1")             \
    X(FORGOTTEN_JOBS, "SELECT id, body_bytes+coalesce((SELECT length(body) FROM result "           \
                      "WHERE job=job.id),0) FROM job WHERE batch=?1 AND "                          \
                      "id<(SELECT max(id) FROM job) LIMIT ?2")                                     \
    X(FORGET_RESULT, "DELETE FROM result WHERE job=?1")                                            \
    X(FORGET_REQUEST, "DELETE FROM request WHERE job=?1")                                          \
    X(FORGET_ATTEMPTS, "DELETE FROM attempt WHERE job=?1")                                         \
    X(FORGET_JOB, "DELETE FROM job WHERE id=?1")                                                   \
    X(FORGET_BATCH, "DELETE FROM batch WHERE id=?1")                                               \
    X(SKIP_LINES,                                                                                  \
      "SELECT line FROM job WHERE batch=?1 AND line>?2 ORDER BY line LIMIT 1 OFFSET ?3")           \
    X(NOTE_LEFT, "INSERT INTO meta VALUES(?1,?2) ON CONFLICT(key) DO UPDATE SET "                  \
                 "value=value+excluded.value")                                                     \
    X(NOTE_TIME, "INSERT OR REPLACE INTO meta VALUES('time_ms',?1),('time_ahead_ms',?2),"          \
                 "('time_from_ms',?3)")                                                            \
    X(FETCH_BY_SEQ, LEDGER_FETCH_SQL(LEDGER_FETCH_PARTS) LEDGER_NEXT_SEQ)                          \
    X(FETCH_BY_LINE, LEDGER_FETCH_SQL(LEDGER_FETCH_PARTS) LEDGER_NEXT_LINE)                        \
    X(FETCH_JOB_BY_SEQ, LEDGER_FETCH_SQL("FROM job j ") LEDGER_NEXT_SEQ)                           \
    X(FETCH_JOB_BY_LINE, LEDGER_FETCH_SQL("FROM job j ") LEDGER_NEXT_LINE)

#define LEDGER_FETCH_SQL(from)                                                                     \
    "SELECT j.id, j.seq, j.line, j.state, j.attempts, j.submitted_ms, j.finished_ms " from         \
    "WHERE j.batch=?1 AND "
#define LEDGER_FETCH_PARTS                                                                         \
    ", q.custom_id, r.body FROM job j LEFT JOIN request q ON q.job=j.id "                          \
    "LEFT JOIN result r ON r.job=j.id "
#define LEDGER_NEXT_SEQ  "j.seq>?2 AND j.seq>0 ORDER BY j.seq LIMIT ?3"
#define LEDGER_NEXT_LINE "j.line>?2 AND j.line<=?4 AND j.state<>0 ORDER BY j.line LIMIT ?3"

enum ledger_stmt {
#define X(name, sql) STMT_##name,
    LEDGER_STATEMENTS(X)
#undef X
        STMT_COUNT
};

/* Numbers above these no broker has written: the columns would overflow. */
enum { LEDGER_MAX_GENERATION = 1 << 30 };
#define LEDGER_MAX_SEQ (UINT64_C(1) << 62)

#define LEDGER_SALVAGE_HINT "keep the file and run octoflow-broker --ledger %s --salvage NEW-FILE"

/* Before the id of a batch that leaves, as its name; and of one with damaged rows, which cannot. */
#define LEDGER_FORGOTTEN_NAME "\0forgotten-"
#define LEDGER_STUCK_NAME     "\0stuck-"
/* In meta: how many have left. Their ids are missing, and a salvage counts none of them as lost. */
#define LEDGER_JOBS_LEFT    "jobs_left"
#define LEDGER_BATCHES_LEFT "batches_left"

enum { LEDGER_SEQS = 64 };

/* A backup under way: op is NULL when there is none. */
struct ledger_copy {
    sqlite3 *db;
    sqlite3_backup *backup;
    struct ledger_op *op;
    struct ledger_progress progress; /* guarded by the ledger's mutex */
};

struct ledger {
    sqlite3 *db; /* the opening thread's until the ledger's thread starts, then only its */
    sqlite3_stmt *stmts[STMT_COUNT];
    char *path;
    int lock_fd;
    char id[33];
    uint64_t secret;                 /* what epochs are made with */
    uint32_t generation;             /* leases since the start may have used up later ones, too */
    bool sync_full;                  /* what PRAGMA synchronous is now */
    char sync_sql[40], note_sql[40]; /* for what is acknowledged, for notes of leases */
    const char *vfs;
    int lock_wait_ms;
    uint64_t max_pages;
    int64_t page_bytes;
    int wal_pages, checkpoint_pages; /* wal_pages: since the last checkpoint */
    int wal_end, wal_synced;         /* frames in the WAL, and how many of them are synced */
    bool wal_copied;                 /* all of it is in the file: the next commit begins it anew */
    bool distrusted;                 /* a write or a sync failed: ledger_mend() */
    bool generation_noted;
    struct keep_note time;   /* at the open */
    struct ledger_copy copy; /* the ledger's thread's */
    struct {
        uint64_t batch, next;
    } seqs[LEDGER_SEQS]; /* by batch: the next place in its order of completion; 0: not known */
    void (*wake)(void *user);
    void *user;

    bool thread_started;
    pthread_t thread;
    pthread_mutex_t mutex; /* guards what follows */
    pthread_cond_t work, polled;
    struct ledger_op *queue, **queue_end;
    struct ledger_op *finished, **finished_end;
    size_t read_bytes; /* of the reads among the finished */
    bool stopping;
    struct histogram commits; /* synced ones */
};

/* The text of SQLite's last error, as ERR_IO, ERR_FULL (no space), ERR_FORMAT (corrupt, no
 * database) or ERR_NOMEM: "ledger PATH: what: text". */
enum err ledger_sql_err(struct ledger *l, const char *what, struct err_msg *why);
/* Runs SQL without results. */
enum err ledger_exec(struct ledger *l, const char *sql, struct err_msg *why) MUST_CHECK;

/* ledger_open.c */
enum err ledger_lock(struct ledger *l, int wait_ms, struct err_msg *why) MUST_CHECK;
enum err ledger_open_store(struct ledger *l, struct err_msg *why) MUST_CHECK;
enum err ledger_note_generation(struct ledger *l, struct err_msg *why) MUST_CHECK;
/* What was not synced is cut off the WAL, and SQLite starts anew. On failure l->db may be NULL, and
 * the next call goes on from there. */
enum err ledger_mend(struct ledger *l, struct err_msg *why) MUST_CHECK;
/* Failures are logged. */
enum err ledger_checkpoint(struct ledger *l);
void ledger_close_store(struct ledger *l);

/* ledger_ops.c. Both set op->err for what is wrong with the operation itself, and return the
 * store's errors. */
enum err ledger_run_write(struct ledger *l, struct ledger_op *op, struct err_msg *why) MUST_CHECK;
enum err ledger_run_read(struct ledger *l, struct ledger_op *op, struct err_msg *why) MUST_CHECK;

/* ledger_forget.c: one piece of a batch that leaves. */
enum err ledger_forget(struct ledger *l, struct ledger_op *op, struct err_msg *why) MUST_CHECK;
/* After ERR_FORMAT: whether its group is to be run once more, the last time without the rows. */
bool ledger_forget_again(struct ledger_op *op, const struct err_msg *why);

/* ledger_copy.c. True: it has begun, and keeps the operation; false: op->err says why not. */
bool ledger_backup_begin(struct ledger *l, struct ledger_op *op);
/* While copy.op is there. Returns it when it is finished, else NULL. */
struct ledger_op *ledger_backup_step(struct ledger *l);
/* Ends the one under way, if there is one, and returns it. */
struct ledger_op *ledger_backup_cancel(struct ledger *l, const char *reason);

bool ledger_kind_writes(enum ledger_kind kind);
bool ledger_kind_syncs(enum ledger_kind kind);

#endif
