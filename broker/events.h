/* What happened, for `octoflow events`: workers that came and went, batches, trouble with the
 * store. Kept in memory, not in the ledger: the last EVENTS_KEPT of each kind, so that many of one
 * kind push out none of another. Numbers ascend over restarts: the broker's generation is in their
 * high 32 bits.
 *
 * Not thread-safe: belongs to the loop's thread. */
#ifndef OCTO_BROKER_EVENTS_H
#define OCTO_BROKER_EVENTS_H

#include <stdarg.h>
#include <stddef.h>

#include "base/err.h"
#include "proto/messages.h"

enum { EVENTS_KEPT = 128, EVENTS_TEXT_BYTES = 320 };

/* KIND, name on the wire, what it means */
#define EVENT_KINDS(X)                                                                             \
    X(BROKER_STARTED, "broker_started", "the broker started; what happened before is forgotten")   \
    X(BROKER_STOOD_STILL, "broker_stood_still",                                                    \
      "it was stopped or had no processor; no lease ended by that")                                \
    X(WORKER_JOINED, "worker_joined", "a worker said HELLO, for the first time or again")          \
    X(WORKER_DRAINING, "worker_draining", "a worker takes no more jobs")                           \
    X(MODEL_FETCHING, "model_fetching", "a worker was told to fetch a model from the broker")      \
    X(MODEL_LOADING, "model_loading", "a worker was told to load another model")                   \
    X(WORKER_LEFT, "worker_left", "a worker took its leave, or its key lost the role work")        \
    X(WORKER_LOST, "worker_lost", "a worker was silent for three heartbeats")                      \
    X(WORKER_REFUSED, "worker_refused", "two workers had one name, the earlier was sent away")     \
    X(BATCH_CREATED, "batch_created", "a batch was made")                                          \
    X(BATCH_SEALED, "batch_sealed", "all of a batch's lines are there")                            \
    X(BATCH_COMPLETED, "batch_completed", "all lines of a batch are finished")                     \
    X(BATCH_CANCELLED, "batch_cancelled", "lines of a batch were cancelled, or all of it")         \
    X(BATCH_CHANGED, "batch_changed",                                                              \
      "a batch was paused, goes on, or has another priority, window or limit")                     \
    X(BATCH_EXPIRED, "batch_expired",                                                              \
      "lines of a batch were not finished in its time, and failed")                                \
    X(BATCH_REMOVED, "batch_removed", "a batch left the ledger, as it was older than --keep")      \
    X(JOB_POISONED, "job_poisoned", "a line was given up, as workers were lost with it")           \
    X(JOB_DAMAGED, "job_damaged", "a line failed, as the ledger cannot read its request any more") \
    X(STORAGE_FAILED, "storage_failed",                                                            \
      "the ledger cannot be written: nothing is acknowledged or granted")                          \
    X(STORAGE_RECOVERED, "storage_recovered", "the ledger works again")                            \
    X(BACKUP_MADE, "backup_made", "a backup of the ledger is there")                               \
    X(BACKUP_FAILED, "backup_failed", "a backup of the ledger was not made, and why")              \
    X(PEER_CUT_OFF, "peer_cut_off", "a connection was ended by the limits")

enum event_kind {
#define X(KIND, name, doc) EVENT_##KIND,
    EVENT_KINDS(X)
#undef X
        EVENT_KIND_COUNT
};

struct events;

enum err events_create(uint32_t generation, struct events **ret) MUST_CHECK;
void events_destroy(struct events **e);
/* at_ms: Unix time, for people. subject: the worker or batch; "" for none. Texts are copied, and
 * cut at EVENTS_TEXT_BYTES. */
void events_add(struct events *e, enum event_kind kind, uint64_t at_ms, const char *subject,
                const char *fmt, va_list args);
/* Those after the number `after`, ascending, at most `max`. Strings are valid until the next
 * events_add(). Returns how many. */
size_t events_read(const struct events *e, uint64_t after, struct rec_EVENT *ret, size_t max);

#endif
