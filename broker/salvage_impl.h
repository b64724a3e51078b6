/* Private to salvage.c and salvage_repair.c: a salvage at work, and SQL on the new ledger. */
#ifndef OCTO_BROKER_SALVAGE_IMPL_H
#define OCTO_BROKER_SALVAGE_IMPL_H

#include <sqlite3.h>

#include "base/arena.h"
#include "broker/salvage.h"
#include "broker/salvage_pages.h"

enum table_name { BATCH, JOB, REQUEST, RESULT, ATTEMPT, LEASE, TABLES };

struct salvage {
    const char *from;
    struct pages *pages;
    sqlite3 *db;
    sqlite3_stmt *insert[TABLES];
    struct arena arena; /* of one row's check */
    int64_t generation;
    uint64_t jobs_left, batches_left; /* with --keep: their ids are missing, and not lost */
    char id[33];
    bool found; /* something of a ledger */
    struct salvage_report report;
};

/* The text of SQLite's last error, as ERR_FULL or ERR_IO. */
enum err salvage_sql_err(struct salvage *x, struct err_msg *why);
enum err salvage_run(struct salvage *x, const char *sql, struct err_msg *why) MUST_CHECK;
/* The first column of the first row; 0 when there is none. */
enum err salvage_number(struct salvage *x, const char *sql, uint64_t *ret,
                        struct err_msg *why) MUST_CHECK;

/* salvage_repair.c */
/* When all rows are there: makes them fit together, and counts what is lost. */
enum err salvage_repair(struct salvage *x, struct err_msg *why) MUST_CHECK;
/* The ledger's id and generation: later leases must not have the epochs of earlier ones. */
enum err salvage_identity(struct salvage *x, struct err_msg *why) MUST_CHECK;

#endif
