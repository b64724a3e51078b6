/* What does not fit together in a salvaged ledger: jobs with what they need, nothing without its
 * job, batches for jobs that have lost theirs, and numbers that do not come twice. */
#include <inttypes.h>
#include <stdio.h>

#include "base/size.h"
#include "broker/ledger_sql.h"
#include "broker/salvage_impl.h"
#include "proto/codec.h"

enum err salvage_sql_err(struct salvage *x, struct err_msg *why)
{
    int code = sqlite3_errcode(x->db);
    return err_set(why, code == SQLITE_FULL ? ERR_FULL : ERR_IO, "salvage %s: the new ledger: %s",
                   x->from, sqlite3_errmsg(x->db));
}

enum err salvage_run(struct salvage *x, const char *sql, struct err_msg *why)
{
    return sqlite3_exec(x->db, sql, NULL, NULL, NULL) == SQLITE_OK ? ERR_OK
                                                                   : salvage_sql_err(x, why);
}

enum err salvage_number(struct salvage *x, const char *sql, uint64_t *ret, struct err_msg *why)
{
    sqlite3_stmt *s = NULL;
    int rc = sqlite3_prepare_v2(x->db, sql, -1, &s, NULL);
    if (rc == SQLITE_OK)
        rc = sqlite3_step(s);
    uint64_t v = rc == SQLITE_ROW ? (uint64_t)sqlite3_column_int64(s, 0) : 0;
    enum err e = rc == SQLITE_ROW || rc == SQLITE_DONE ? ERR_OK : salvage_sql_err(x, why);
    sqlite3_finalize(s);
    if (e == ERR_OK)
        *ret = v;
    return e;
}

/* A job that was unfinished in what is left of its row, but whose result is there. */
static enum err finish_jobs(struct salvage *x, struct err_msg *why)
{
    sqlite3_stmt *read = NULL, *write = NULL;
    int rc = sqlite3_prepare_v2(x->db,
                                "SELECT r.job, r.body FROM result r JOIN job j ON j.id=r.job "
                                "WHERE j.state=0",
                                -1, &read, NULL);
    if (rc == SQLITE_OK)
        rc = sqlite3_prepare_v2(x->db, "UPDATE job SET state=?2 WHERE id=?1", -1, &write, NULL);
    while (rc == SQLITE_OK && (rc = sqlite3_step(read)) == SQLITE_ROW) {
        struct rec_OUTPUT output = {0};
        bool decoded =
            proto_decode_output(sqlite3_column_blob(read, 1), (size_t)sqlite3_column_bytes(read, 1),
                                &x->arena, &output, NULL) == ERR_OK;
        sqlite3_bind_int64(write, 1, sqlite3_column_int64(read, 0));
        sqlite3_bind_int64(write, 2,
                           decoded && output.status_code < 400 ? LEDGER_DONE : LEDGER_FAILED);
        rc = sqlite3_step(write) == SQLITE_DONE ? SQLITE_OK : SQLITE_ERROR;
        sqlite3_reset(write);
        arena_free(&x->arena);
    }
    enum err e = rc == SQLITE_DONE ? ERR_OK : salvage_sql_err(x, why);
    sqlite3_finalize(read);
    sqlite3_finalize(write);
    return e;
}

/* Jobs of batches that are on their way out: nobody asks for what they lack. */
#define LEAVING "batch IN (SELECT id FROM batch WHERE name<char(1))"

/* Jobs with what they need, and nothing without its job. */
static enum err match_rows(struct salvage *x, struct err_msg *why)
{
    struct salvage_report *r = &x->report;
    uint64_t orphans = 0;
    enum err e = finish_jobs(x, why);
    if (e == ERR_OK)
        e = salvage_run(
            x,
            "UPDATE batch SET name=char(0)||'forgotten-'||id WHERE name<char(1);" /* not stuck now
                                                                                   */
            "UPDATE job SET state=3 WHERE state=0 AND " LEAVING,
            why);
    if (e == ERR_OK)
        e = salvage_number(x, "SELECT count(*) FROM result WHERE job NOT IN (SELECT id FROM job)",
                           &orphans, why);
    if (e == ERR_OK)
        e = salvage_run(
            x,
            "CREATE TEMP TABLE lost AS SELECT id FROM job WHERE state IN (1,2) AND id NOT IN "
            "(SELECT job FROM result) AND NOT " LEAVING ";"
            "UPDATE job SET state=0, seq=NULL, finished_ms=NULL WHERE id IN (SELECT id FROM "
            "lost);",
            why);
    if (e == ERR_OK)
        e = salvage_number(x, "SELECT count(*) FROM lost", &r->results_lost, why);
    /* A request that is not as long as its job says has somebody else's pages in it. */
    if (e == ERR_OK)
        e = salvage_run(
            x,
            "DELETE FROM job WHERE state=0 AND NOT EXISTS (SELECT 1 FROM request r WHERE "
            "r.job=job.id AND length(r.body)>0 AND length(r.body)=job.body_bytes);"
            "CREATE TEMP TABLE orphan AS SELECT job FROM request UNION SELECT job FROM result;",
            why);
    if (e == ERR_OK)
        e = salvage_number(
            x,
            "SELECT count(*) FROM job WHERE id NOT IN (SELECT job FROM request) AND NOT " LEAVING,
            &r->ids_lost, why);
    if (e == ERR_OK)
        e = salvage_run(
            x,
            "INSERT INTO request SELECT id, '', x'', x'' FROM job WHERE id NOT IN "
            "(SELECT job FROM request);"
            "DELETE FROM result WHERE job NOT IN (SELECT id FROM job WHERE state IN (1,2));"
            "DELETE FROM request WHERE job NOT IN (SELECT id FROM job);"
            "DELETE FROM attempt WHERE job NOT IN (SELECT id FROM job);"
            "UPDATE job SET seq=(SELECT coalesce(max(k.seq),0) FROM job k WHERE "
            "k.batch=job.batch AND k.seq>0)+id WHERE state<>0 AND seq IS NULL;",
            why);
    if (e == ERR_OK)
        e = salvage_number(x, "SELECT count(*) FROM job WHERE id IN (SELECT id FROM lost)",
                           &r->rerun, why);
    r->results_lost += orphans;
    return e;
}

static enum err count_jobs(struct salvage *x, struct err_msg *why)
{
    struct salvage_report *r = &x->report;
    uint64_t last = 0, behind = 0;
    enum err e = salvage_number(x, "SELECT count(*) FROM job", &r->jobs, why);
    if (e == ERR_OK)
        e = salvage_number(x, "SELECT count(*) FROM result", &r->results, why);
    /* ids have no gaps but those of jobs that left; behind the last that is kept, what is left
     * without its job counts */
    if (e == ERR_OK)
        e = salvage_number(x, "SELECT max(id) FROM job", &last, why);
    if (e == ERR_OK)
        e = salvage_number(
            x, "SELECT count(*) FROM orphan WHERE job>(SELECT coalesce(max(id),0) FROM job)",
            &behind, why);
    uint64_t missing = last > r->jobs ? last - r->jobs : 0;
    r->jobs_lost = missing - min_u64(missing, x->jobs_left) + behind;
    x->jobs_left = missing; /* of the new ledger's */
    return e;
}

/* Jobs whose batch is not readable get one with another name. */
static enum err fill_batches(struct salvage *x, struct err_msg *why)
{
    struct salvage_report *r = &x->report;
    uint64_t named = 0, last = 0, there = 0;
    enum err e = salvage_number(x, "SELECT count(*) FROM batch", &named, why);
    if (e == ERR_OK)
        e = salvage_number(x, "SELECT max(id) FROM batch", &last, why);
    if (e == ERR_OK)
        e = salvage_run(
            x,
            "INSERT OR IGNORE INTO batch(id, name, model, options_hash, options_text, priority, "
            "max_attempts, created_ms, sealed_ms, cancelled) SELECT batch, 'salvaged-'||batch, "
            "'', '', '', 100, 3, min(submitted_ms), 1, 0 FROM job WHERE batch NOT IN "
            "(SELECT id FROM batch) GROUP BY batch;"
            "DELETE FROM job WHERE batch NOT IN (SELECT id FROM batch)",
            why);
    if (e == ERR_OK)
        e = salvage_number(x, "SELECT count(*) FROM batch", &r->batches, why);
    char sql[80];
    snprintf(sql, sizeof sql, "SELECT count(*) FROM batch WHERE id<=%" PRIu64, last);
    if (e == ERR_OK)
        e = salvage_number(x, sql, &there, why);
    r->batches_renamed = r->batches - named;
    uint64_t missing = last - there;
    r->batches_lost = missing - min_u64(missing, x->batches_left);
    x->batches_left = missing;
    return e;
}

/* Nothing in a ledger says how many lines a sealed batch had: what is gone without a trace shows
 * when its input is submitted again, and for that it has to be open. */
static enum err reopen_batches(struct salvage *x, struct err_msg *why)
{
    enum err e = salvage_run(x, "UPDATE batch SET sealed_ms=0 WHERE sealed_ms>0", why);
    x->report.batches_reopened = (uint64_t)sqlite3_changes(x->db);
    return e;
}

enum err salvage_repair(struct salvage *x, struct err_msg *why)
{
    enum err e = match_rows(x, why);
    if (e == ERR_OK)
        e = fill_batches(x, why);
    if (e == ERR_OK)
        e = count_jobs(x, why);
    return e == ERR_OK ? reopen_batches(x, why) : e;
}

/* The broker's generation is in the upper half of epochs, and meta has the last. */
enum err salvage_identity(struct salvage *x, struct err_msg *why)
{
    char sql[320];
    uint64_t generation = (uint64_t)x->generation;
    enum err e = ERR_OK;
    if (generation == 0)
        e = salvage_number(x, "SELECT 1000+max(epoch>>32) FROM job WHERE epoch>>32<1000000",
                           &generation, why); /* leases may have been above the results */
    if (e != ERR_OK)
        return e;
    snprintf(sql, sizeof sql,
             "UPDATE job SET epoch=0 WHERE epoch>>32>%" PRIu64 "; UPDATE meta SET value=%" PRIu64
             " WHERE key='generation'; INSERT INTO meta VALUES('" LEDGER_JOBS_LEFT "',%" PRIu64
             "),('" LEDGER_BATCHES_LEFT "',%" PRIu64 ")",
             generation, generation, x->jobs_left, x->batches_left);
    e = salvage_run(x, sql, why);
    if (e != ERR_OK || x->id[0] == '\0')
        return e;
    snprintf(sql, sizeof sql, "UPDATE meta SET value='%s' WHERE key='id'", x->id);
    return salvage_run(x, sql, why);
}
