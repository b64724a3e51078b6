/* The ledger: the broker's durable store, one SQLite file. Every request, every result, once.
 *
 * The loop's thread queues operations; the ledger's own thread takes what is there, runs all writes
 * of a group in one transaction (WAL, synchronous=FULL), commits, hands back what waited for that,
 * then runs the group's reads, one by one, so that a read never sees what is not synced; they stop
 * while ledger_poll() does not come for what they brought. While it syncs, the next group collects:
 * that is the group commit, and nobody waits for a timer. Finished operations come back to the
 * loop's thread through ledger_poll().
 *
 * An operation fails on its own when what it asks is wrong (ERR_NOT_FOUND, ERR_CONFLICT: err_line
 * and why say more); when the store fails (ERR_IO, ERR_FULL: disk full, ERR_FORMAT: corrupt), all
 * writes of its group fail, nothing of them is stored (only when the broker is killed before the
 * next group may they be there after all: nobody was told), and the next group tries again. After a
 * failed sync everything that was not synced is dropped, and the file opened anew. A request or a
 * result that cannot be read is no failure of its group, nor of its operation: its item says so.
 *
 * Bodies and results are append-only tables; state changes touch small rows. Checkpoints of the WAL
 * are passive, between groups. Leases are noted without a sync, a row for each grant: losing one
 * only means a rerun.
 *
 * Threads: everything here belongs to the loop's thread, except `wake`, which the ledger's thread
 * calls. */
#ifndef OCTO_BROKER_LEDGER_H
#define OCTO_BROKER_LEDGER_H

#include <stdbool.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/err.h"
#include "base/str.h"
#include "broker/histogram.h"
#include "broker/keep_clock.h"
#include "proto/messages.h"

enum { LEDGER_PAGE_BYTES = 16384 /* of a new file; bench/broker/README.md says why */ };

struct ledger;

enum ledger_state { LEDGER_UNFINISHED, LEDGER_DONE, LEDGER_FAILED, LEDGER_CANCELLED };

struct ledger_batch {
    uint64_t id;
    struct str name, model, options_hash, options_text;
    struct str client; /* whose quota its jobs count for */
    struct rec_SCHEDULE schedule;
    uint64_t max_attempts;
    uint64_t created_ms, sealed_ms; /* sealed_ms 0: not sealed */
    bool cancelled;                 /* as a whole */
};

enum ledger_kind {
    LEDGER_BATCH_NEW,
    LEDGER_BATCH_SET,
    LEDGER_SUBMIT,
    LEDGER_SEAL,
    LEDGER_CANCEL,
    LEDGER_RESULTS,
    LEDGER_GRANT,
    LEDGER_RETURN,
    LEDGER_FETCH,
    LEDGER_FORGET,
    LEDGER_NOTE_TIME,
    LEDGER_BACKUP,
    LEDGER_BARRIER
};

struct ledger_result {
    uint64_t job, epoch;
    uint64_t batch; /* the job's; 0: not known */
    bool accept;    /* false: only look up whether this very result is there */
    bool failed;
    struct str body;
    uint64_t prompt_tokens, completion_tokens, attempts;
    uint64_t energy_uj;   /* microjoules; 0: unknown */
    uint64_t ret_outcome; /* as in ACK: 0 stored, 1 already there, 2 dropped */
};

struct ledger_grant {
    uint64_t job, epoch;
    struct str ret_custom_id, ret_body;
    enum err ret_err; /* they cannot be read; ERR_FORMAT: damaged; ERR_IO: maybe only now */
    struct str ret_why;
};

/* A lease has ended, and the job waits again. */
struct ledger_returned {
    uint64_t job, epoch, attempts;
    bool counted; /* as an attempt, for this reason */
    struct str reason;
};

/* Fields named ret_* are the operation's outputs; inputs and outputs live in the arena. */
struct ledger_op {
    enum ledger_kind kind;
    struct ledger_op *next;
    struct arena arena;
    void (*done)(struct ledger_op *op); /* on the loop's thread; owns the operation from then on */
    uint64_t now_ms;
    enum err err;
    struct err_msg why;
    uint64_t err_line;
    union {
        struct {
            struct ledger_batch batch; /* in; out: the stored one */
            bool ret_existed;
        } batch_new;
        struct {
            struct str batch;
            struct rec_SCHEDULE schedule; /* out: what the batch has now */
            uint64_t changes;             /* as in BATCH_SET */
            uint64_t ret_batch;
        } batch_set;
        struct {
            struct str batch;
            struct rec_LINE *lines;
            size_t count;
            bool limited; /* more than max_jobs, max_bytes of new lines to run: ERR_RANGE */
            uint64_t max_jobs, max_bytes;
            uint32_t *prefixes;            /* of the lines (prefixes.h) */
            uint64_t ret_batch, *ret_jobs; /* a line's new job, 0: it was there */
            uint64_t ret_accepted, ret_duplicates;
        } submit;
        struct {
            struct str batch;
            uint64_t lines;
            uint64_t ret_batch;
        } seal;
        struct {
            struct str batch;
            uint64_t *lines; /* count 0: all */
            size_t count;
            uint64_t after,
                max;       /* of all: only lines behind `after`, `max` (0: any number) of them */
            bool ret_more; /* there may be more, behind the new `after` */
            uint64_t ret_batch, *ret_jobs;
            size_t ret_count;
            bool ret_whole; /* the batch counts as cancelled now */
        } cancel;
        struct {
            struct ledger_result *items;
            size_t count;
        } results;
        struct {
            struct ledger_grant *items;
            size_t count;
            struct rec_JOB_REF *held; /* all leases but these are forgotten first; NULL: none is */
            size_t held_count;
        } grant; /* notes the leases, then loads the bodies */
        struct {
            uint64_t batch;     /* finished: from now on it is gone; 0: none */
            size_t ret_rows;    /* of such batches that left the file: a piece of them */
            bool ret_more;      /* there may be more */
            uint64_t ret_stuck; /* this batch's rows are damaged and stay: `why` says it. 0: none */
            unsigned looks;     /* at damaged rows: the ledger's own */
        } forget;               /* in a group of its own: what it meets is none of the others' */
        struct keep_note note_time; /* for the next run's ledger_time() */
        struct {
            struct str path; /* with a NUL behind it. A file that is there is not overwritten */
            uint64_t ret_bytes;
        } backup; /* done when it is whole; nothing waits for it */
        struct {
            struct ledger_returned *items;
            size_t count;
        } returned;
        struct {
            struct str batch;
            bool by_line;
            uint64_t after, max, max_bytes;
            uint64_t max_looks; /* by line: at so many lines, finished or not; 0: at any number */
            struct rec_FETCHED *ret_items;
            size_t ret_count;
            bool ret_more; /* none among those, and there are lines behind the new `after` */
            struct str *ret_damaged; /* by item: why its result cannot be read any more; NULL: all
                                        can */
        } fetch; /* ends before a row that cannot be read now; the first: ERR_IO, err_line */
    };
};

/* Of a batch's jobs. */
struct ledger_sums {
    uint64_t counts[4]; /* by enum ledger_state */
    uint64_t prompt_tokens, completion_tokens, last_finished_ms;
    uint64_t energy_uj, energy_jobs; /* of so many whose energy is known */
};

/* An unfinished one. */
struct ledger_job {
    uint64_t id, batch, line, body_bytes, attempts, epoch, prefix;
    uint64_t twin; /* epoch of a second lease, before the last; 0: none */
    bool leased;
};

/* What a starting broker needs to know. Strings are valid during the call. */
struct ledger_loader {
    enum err (*on_batch)(void *user, const struct ledger_batch *batch,
                         const struct ledger_sums *sums);
    enum err (*on_job)(void *user, const struct ledger_job *job);
    enum err (*on_attempt)(void *user, uint64_t job, const char *reason);
};

struct ledger_options {
    const char *path;
    int lock_wait_ms;     /* for a predecessor that is still closing */
    uint64_t max_pages;   /* greatest size of the file in pages; 0: no limit */
    int checkpoint_pages; /* the WAL is copied into the file from here on; 0: at 4 MiB */
    const char *vfs;      /* of SQLite; NULL: its own. Tests have one that cuts the power */
    const char *sync; /* PRAGMA synchronous for what is acknowledged; NULL: FULL. For the test that
                         sees what less would lose */
    void (*wake)(void *user); /* from the ledger's thread: ledger_poll() has work */
    void *user;
};

/* Locks, opens or creates, recovers, and starts the thread. ERR_CONFLICT: another broker holds it;
 * ERR_FORMAT: no ledger, or corrupt; ERR_UNSUPPORTED: made by a newer version; ERR_IO. */
enum err ledger_open(const struct ledger_options *o, struct ledger **ret,
                     struct err_msg *why) MUST_CHECK;
/* Before the first ledger_submit only. */
enum err ledger_load(struct ledger *l, const struct ledger_loader *loader, void *user,
                     struct err_msg *why) MUST_CHECK;
const char *ledger_id(const struct ledger *l); /* made at creation */
/* One more at each open; from 1. Before the first ledger_submit only. */
uint32_t ledger_generation(const struct ledger *l);
/* Rows that an operation writes, reads or looks for, about. */
size_t ledger_op_rows(const struct ledger_op *op);
uint64_t ledger_secret(const struct ledger *l);       /* not 0; the same at each open */
struct keep_note ledger_time(const struct ledger *l); /* as it was at the open */
/* Takes the operation; `done` is called by a later ledger_poll(). */
void ledger_submit(struct ledger *l, struct ledger_op *op);
/* Calls `done` for what has finished. */
void ledger_poll(struct ledger *l);
/* How long synced commits took, since the ledger was opened. */
struct histogram ledger_commit_times(struct ledger *l);
/* Of the backup that is being made, or of the last one. */
struct ledger_progress {
    uint64_t bytes, total_bytes;
};
struct ledger_progress ledger_backup_progress(struct ledger *l);
/* Runs everything that is queued, calls its `done`, checkpoints, closes, unlocks. */
void ledger_close(struct ledger **l);

/* Writes the ledger, which no broker may use, anew without the room that removed batches left. It
 * needs as much room beside it. *ret_before, *ret_after: the file's bytes. On failure the file is
 * as it was. */
enum err ledger_compact(const char *path, uint64_t *ret_before, uint64_t *ret_after,
                        struct err_msg *why) MUST_CHECK;

#endif
