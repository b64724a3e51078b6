/* What Prometheus is told of workers, by a broker of all of its own and by each worker of itself: a
 * table of metrics, and the lines of the page. The names of workers are the only labels that others
 * choose, of METRICS_WORKERS workers at most.
 *
 * Pure. A row: ID, name, type, label pair or "", value, whether that is known, help. Rows of one
 * name stand together, and the first has the help. */
#ifndef OCTO_PROTO_WORKER_METRICS_H
#define OCTO_PROTO_WORKER_METRICS_H

#include "proto/messages.h"
#include "proto/prometheus.h"

enum { METRICS_WORKERS = 512 };

/* Its sensor tells something: heat, or what it takes. */
#define WORKER_SENSED(w) ((w)->temp_known || (w)->power_w > 0)

/* Of a worker w; known: false leaves the line out. Lost workers have the first row only. */
#define WORKER_METRICS(X)                                                                          \
    X(W_UP, "octoflow_worker_up", gauge, "", str_eq(w->state, STR_LIT("ready")), true,             \
      "0: draining or lost; has the host, device and model as labels, too")                        \
    X(W_SEEN, "octoflow_worker_last_seen_seconds", gauge, "", (double)w->seen_ms / 1000, true,     \
      "since its last message")                                                                    \
    X(W_RUNNING, "octoflow_worker_jobs_running", gauge, "", (double)w->leased, true,               \
      "lines it has")                                                                              \
    X(W_FINISHED, "octoflow_worker_jobs_finished_total", counter, "", (double)w->done, true,       \
      "results since it said HELLO")                                                               \
    X(W_GENERATION, "octoflow_worker_generation_tokens_per_second", gauge, "",                     \
      w->decode_tokens_per_s, true, "speed")                                                       \
    X(W_PROMPT, "octoflow_worker_prompt_tokens_per_second", gauge, "", w->prefill_tokens_per_s,    \
      true, "speed")                                                                               \
    X(W_PREFILLED, "octoflow_worker_prompt_tokens_total", counter, "source=\"computed\"",          \
      (double)w->prefill_tokens, true, "since its start; cached: found in its prefix cache")       \
    X(W_CACHED, "octoflow_worker_prompt_tokens_total", counter, "source=\"cached\"",               \
      (double)w->cached_tokens, true, "")                                                          \
    X(W_KV, "octoflow_worker_kv_cache_usage_ratio", gauge, "",                                     \
      1 - (double)w->kv_tokens_free / (double)w->kv_tokens_total, w->kv_tokens_total > 0,          \
      "share of the KV cache in use, 0 to 1")                                                      \
    X(W_VRAM, "octoflow_worker_vram_free_bytes", gauge, "", (double)w->vram_free_bytes,            \
      w->vram_free_bytes > 0, "memory free on the GPU")                                            \
    X(W_TEMP, "octoflow_worker_temperature_celsius", gauge, "", w->temp_c,                         \
      w->temp_known && w->temp_c > 0, "of the GPU")                                                \
    X(W_MARGIN, "octoflow_worker_temperature_margin_celsius", gauge, "", w->margin_c,              \
      w->temp_known, "below what the governor keeps it at")                                        \
    X(W_TARGET, "octoflow_worker_temperature_target_celsius", gauge, "", w->target_c,              \
      w->target_c > 0, "what the governor keeps it at, at most")                                   \
    X(W_POWER, "octoflow_worker_power_watts", gauge, "", w->power_w, w->power_w > 0, "of the GPU") \
    X(W_POWER_LIMIT, "octoflow_worker_power_limit_watts", gauge, "", w->power_limit_w,             \
      w->power_limit_w > 0, "what it may draw")                                                    \
    X(W_ENERGY, "octoflow_worker_energy_joules_total", counter, "", w->energy_j, w->energy_j > 0,  \
      "of the GPU since the worker's start, idle time too")                                        \
    X(W_DUTY, "octoflow_worker_duty_ratio", gauge, "", w->duty, w->duty > 0,                       \
      "share of time the governor lets it run, 0 to 1")                                            \
    X(W_PACE, "octoflow_worker_pace_seconds", gauge, "", w->pace_ms / 1000, true,                  \
      "the governor's delay after each 50 ms of work")                                             \
    X(W_THERMAL, "octoflow_worker_throttled", gauge, "reason=\"thermal\"",                         \
      (double)(w->throttle_bits & 1), WORKER_SENSED(w),                                            \
      "1: the GPU slows itself down; only while its sensor tells something")                       \
    X(W_POWER_CAP, "octoflow_worker_throttled", gauge, "reason=\"power\"",                         \
      (double)(w->throttle_bits >> 1 & 1), WORKER_SENSED(w), "")                                   \
    X(W_BRAKE, "octoflow_worker_throttled", gauge, "reason=\"hardware\"",                          \
      (double)(w->throttle_bits >> 2 & 1), WORKER_SENSED(w), "")

/* Appends the lines of all rows. */
enum err worker_metrics_render(const struct rec_WORKER *workers, size_t count,
                               struct buf *out) MUST_CHECK;
/* Appends the rows as lines of a table in Markdown. */
enum err worker_metrics_document(struct buf *out) MUST_CHECK;

#endif
