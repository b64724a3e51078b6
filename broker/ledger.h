/* The ledger: the broker's durable store, one SQLite file. Every request, every result, once.
 *
 * The loop's thread queues operations; the ledger's own thread takes what is there, runs all writes
 * of a group in one transaction (WAL, synchronous=FULL), commits, then runs the group's reads, so
 * that a read never sees what is not synced. While it syncs, the next group collects: that is the
 * group commit, and nobody waits for a timer. Finished operations come back to the loop's thread
 * through ledger_poll().
 *
 * An operation fails on its own when what it asks is wrong (ERR_NOT_FOUND, ERR_CONFLICT: err_line
 * and why say more); when the store fails (ERR_IO, ERR_FULL: disk full, ERR_FORMAT: corrupt), all
 * writes of its group fail, nothing of them is stored, and the next group tries again.
 *
 * Bodies and results are append-only tables; state changes touch small rows. Checkpoints of the WAL
 * are passive, between groups. Leases are noted without a sync: losing one only means a rerun.
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
#include "proto/messages.h"

struct ledger;

enum ledger_state { LEDGER_UNFINISHED, LEDGER_DONE, LEDGER_FAILED, LEDGER_CANCELLED };

struct ledger_batch {
    uint64_t id;
    struct str name, model, options_hash, options_text;
    uint64_t priority, max_attempts;
    uint64_t created_ms, sealed_ms; /* sealed_ms 0: not sealed */
    bool cancelled;                 /* as a whole */
};

enum ledger_kind {
    LEDGER_BATCH_NEW,
    LEDGER_SUBMIT,
    LEDGER_SEAL,
    LEDGER_CANCEL,
    LEDGER_RESULTS,
    LEDGER_GRANT,
    LEDGER_RETURN,
    LEDGER_FETCH,
    LEDGER_BARRIER
};

struct ledger_result {
    uint64_t job, epoch;
    bool accept; /* false: only look up whether this very result is there */
    bool failed;
    struct str body;
    uint64_t prompt_tokens, completion_tokens, attempts;
    uint64_t ret_outcome; /* as in ACK: 0 stored, 1 already there, 2 dropped */
};

struct ledger_grant {
    uint64_t job, epoch;
    struct str ret_custom_id, ret_body;
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
            struct rec_LINE *lines;
            size_t count;
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
        } grant; /* notes the leases, then loads the bodies */
        struct {
            uint64_t job, attempts;
            bool counted;
            struct str reason;
        } returned;
        struct {
            struct str batch;
            bool by_line;
            uint64_t after, max, max_bytes;
            struct rec_FETCHED *ret_items;
            size_t ret_count;
        } fetch;
    };
};

/* What a starting broker needs to know. Strings are valid during the call. */
struct ledger_loader {
    enum err (*on_batch)(void *user, const struct ledger_batch *batch, const uint64_t counts[4],
                         uint64_t prompt_tokens, uint64_t completion_tokens,
                         uint64_t last_finished_ms);
    enum err (*on_job)(void *user, uint64_t batch, uint64_t job, uint64_t line, uint64_t body_bytes,
                       uint64_t attempts, uint64_t epoch, bool leased);
    enum err (*on_attempt)(void *user, uint64_t job, const char *reason);
};

struct ledger_options {
    const char *path;
    int lock_wait_ms;         /* for a predecessor that is still closing */
    uint64_t max_pages;       /* greatest size of the file in pages; 0: no limit */
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
const char *ledger_id(const struct ledger *l);      /* made at creation */
uint32_t ledger_generation(const struct ledger *l); /* one more at each open; from 1 */
/* Takes the operation; `done` is called by a later ledger_poll(). */
void ledger_submit(struct ledger *l, struct ledger_op *op);
/* Calls `done` for what has finished. */
void ledger_poll(struct ledger *l);
/* Runs everything that is queued, calls its `done`, checkpoints, closes, unlocks. */
void ledger_close(struct ledger **l);

#endif
