/* What the broker tells Prometheus: a table of metrics, their values, and the page with both. Names
 * end in their unit; counters start at 0 with the broker, unless the help says otherwise. Labels
 * are bounded: a worker's name is the only one that others choose, of METRICS_WORKERS workers at
 * most.
 *
 * Pure. A row: ID, name, type, label pair or "", where the value comes from, help. Rows of one name
 * stand together, and the first has the help. */
#ifndef OCTO_BROKER_METRICS_H
#define OCTO_BROKER_METRICS_H

#include "base/buf.h"
#include "base/err.h"
#include "broker/histogram.h"
#include "proto/worker_metrics.h"

#define METRICS(X)                                                                                 \
    X(UPTIME, "octoflow_uptime_seconds", gauge, "", "time since the broker's start")               \
    X(BATCHES_OPEN, "octoflow_batches", gauge, "state=\"open\"",                                   \
      "batches in the ledger; open: lines may still come")                                         \
    X(BATCHES_IN_PROGRESS, "octoflow_batches", gauge, "state=\"in_progress\"", "")                 \
    X(BATCHES_COMPLETED, "octoflow_batches", gauge, "state=\"completed\"", "")                     \
    X(BATCHES_CANCELLED, "octoflow_batches", gauge, "state=\"cancelled\"", "")                     \
    X(JOBS_QUEUED, "octoflow_jobs", gauge, "state=\"queued\"",                                     \
      "unfinished lines; running: a worker has them, or their result is being stored")             \
    X(JOBS_RUNNING, "octoflow_jobs", gauge, "state=\"running\"", "")                               \
    X(JOBS_BYTES, "octoflow_jobs_bytes", gauge, "", "requests of unfinished lines")                \
    X(JOBS_SUSPECT, "octoflow_jobs_suspect", gauge, "",                                            \
      "unfinished lines that were on a worker that was lost")                                      \
    X(SUBMITTED, "octoflow_jobs_submitted_total", counter, "",                                     \
      "lines submitted, of batches that are in the ledger or were since the start")                \
    X(DONE, "octoflow_jobs_finished_total", counter, "outcome=\"done\"", "of these, finished")     \
    X(FAILED, "octoflow_jobs_finished_total", counter, "outcome=\"failed\"", "")                   \
    X(CANCELLED, "octoflow_jobs_finished_total", counter, "outcome=\"cancelled\"", "")             \
    X(PROMPT_TOKENS, "octoflow_prompt_tokens_total", counter, "", "of finished lines")             \
    X(GENERATION_TOKENS, "octoflow_generation_tokens_total", counter, "", "of finished lines")     \
    X(ENERGY, "octoflow_energy_joules_total", counter, "",                                         \
      "of finished lines whose energy is known")                                                   \
    X(LEASES_LOST, "octoflow_leases_lost_total", counter, "",                                      \
      "attempts used up: a worker was lost, or could not run the line")                            \
    X(POISONED, "octoflow_jobs_poisoned_total", counter, "",                                       \
      "lines given up because workers were lost with them")                                        \
    X(WORKERS_READY, "octoflow_workers", gauge, "state=\"ready\"",                                 \
      "workers; lost ones for ten minutes")                                                        \
    X(WORKERS_DRAINING, "octoflow_workers", gauge, "state=\"draining\"", "")                       \
    X(WORKERS_LOST, "octoflow_workers", gauge, "state=\"lost\"", "")                               \
    X(LEDGER_UP, "octoflow_ledger_up", gauge, "",                                                  \
      "1: the store works; 0: nothing is acknowledged or granted")                                 \
    X(LEDGER_PENDING, "octoflow_ledger_queue_bytes", gauge, "", "on their way to the ledger")      \
    X(SEND_QUEUE, "octoflow_send_queue_bytes", gauge, "", "memory of answers peers have not read") \
    X(CONNECTIONS, "octoflow_connections", gauge, "", "workers and clients connected")             \
    X(CUT_OFF, "octoflow_peers_cut_off_total", counter, "", "connections ended by the limits")     \
    X(RECEIVED, "octoflow_messages_total", counter, "direction=\"received\"", "messages")          \
    X(SENT, "octoflow_messages_total", counter, "direction=\"sent\"", "")                          \
    X(GARBAGE, "octoflow_messages_bad_total", counter, "", "frames that are no message")           \
    X(MEMORY, "process_resident_memory_bytes", gauge, "", "the broker's memory")                   \
    X(CPU, "process_cpu_seconds_total", counter, "", "the broker's processor time")

enum metric {
#define X(ID, name, type, label, help) METRIC_##ID,
    METRICS(X)
#undef X
        METRIC_COUNT
};

struct metrics {
    double values[METRIC_COUNT];
    struct histogram commits;
    const struct rec_WORKER *workers;
    size_t worker_count; /* those beyond METRICS_WORKERS are left out */
};

/* Appends the page: Prometheus' text format, version 0.0.4. */
enum err metrics_render(const struct metrics *m, struct buf *out) MUST_CHECK;
/* Appends the same rows as a table in Markdown, for docs/operations.md. */
enum err metrics_document(struct buf *out) MUST_CHECK;

#endif
