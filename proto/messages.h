/* The messages of OctoFlow: the one table from which the C structs, the codec (codec.h), its
 * limits, the field tables in PROTOCOL.md and the fuzz dictionary are made.
 *
 * A message is one frame: a msgpack map with the fields below under their names, and "v" (protocol
 * version) and "t" (message name). Absent optional fields read as zero / empty. Unknown fields are
 * skipped (a newer peer of the same version may send them). Records (GRANT_JOB, ...) are msgpack
 * maps inside lists.
 *
 * Field kinds: U64, F64, BOOL, STR (UTF-8), BIN (bytes), U64S (list of U64), LIST (list of
 * records). F(kind, name, limit, need, doc): limit  STR, BIN: most bytes; U64S, LIST: most
 * elements; F64, BOOL: 0; U64: greatest value (0: any). need   REQ: its absence makes the message
 * malformed. OPT: may be absent. L(record, name, limit, need, doc): a list of records. Units are
 * the names' last words: _ms, _ns, _c (degrees Celsius), _w (watts), _bytes, _tokens. */
#ifndef OCTO_PROTO_MESSAGES_H
#define OCTO_PROTO_MESSAGES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/str.h"

enum {
    PROTO_VERSION = 1,
    PROTO_MAX_MESSAGE_BYTES = 32 << 20, /* also ZMQ_MAXMSGSIZE */
    PROTO_MAX_ID_BYTES = 128,
    PROTO_MAX_CUSTOM_ID_BYTES = 512,
    PROTO_MAX_TEXT_BYTES = 4096,
    PROTO_MAX_BODY_BYTES = 16 << 20, /* one request or result */
    PROTO_MAX_LIST = 65536,
    PROTO_MAX_CHOICES = 128,
    PROTO_MAX_LINES_A_SUBMIT = 1024, /* and about 4 MiB of bodies */
    PROTO_MAX_CHECKPOINT_BYTES = 4 << 20,
    PROTO_MAX_CHUNK_BYTES = 512 << 10, /* of a model file; heartbeats wait behind one */
    PROTO_MAX_MODELS = 64,             /* of a worker */
    PROTO_MAX_DEPTH = 5,
    PROTO_MAX_FIELDS = 64, /* entries of one map, unknown ones included */
    /* Values, keys included: 24 bytes of memory each while they are decoded. */
    PROTO_MAX_MESSAGE_OBJECTS = 2 << 20,
    PROTO_MAX_BODY_OBJECTS = 8 << 20, /* log-probabilities */
};

/* ---- records ---- */

#define REC_MODEL(F, L)                                                                            \
    F(STR, name, PROTO_MAX_ID_BYTES, REQ, "file name without directory and .gguf")                 \
    F(STR, hash, 64, REQ, "XXH3-128 of the file's bytes, hexadecimal")                             \
    F(STR, quantization, 64, OPT, "the type most weights have, as Q4_K")                           \
    F(U64, context_tokens, 0, OPT, "longest sequence")                                             \
    F(U64, bytes, 0, OPT, "of the file; 0: unknown")

#define REC_GRANT_JOB(F, L)                                                                        \
    F(U64, job, 0, REQ, "the ledger's number of the job")                                          \
    F(U64, epoch, 0, REQ, "lease epoch: a result counts only with the current one")                \
    F(U64, attempt, 0, REQ, "1 for the first lease")                                               \
    F(STR, batch, PROTO_MAX_ID_BYTES, REQ, "batch id")                                             \
    F(U64, line, 0, REQ, "line number in the batch's input, from 1")                               \
    F(STR, custom_id, PROTO_MAX_CUSTOM_ID_BYTES, OPT, "the user's id")                             \
    F(STR, model, PROTO_MAX_ID_BYTES, OPT,                                                         \
      "the model's name or hash, as the worker has it; empty: any")                                \
    F(BIN, body, PROTO_MAX_BODY_BYTES, REQ, "the request: REC_REQUEST")                            \
    F(BIN, checkpoint, PROTO_MAX_CHECKPOINT_BYTES, OPT, "REC_CHECKPOINT of an earlier lease")

#define REC_RESULT(F, L)                                                                           \
    F(U64, job, 0, REQ, "")                                                                        \
    F(U64, epoch, 0, REQ, "the lease's epoch")                                                     \
    F(BOOL, failed, 0, REQ, "true: the request is refused for good (the body says why)")           \
    F(BIN, body, PROTO_MAX_BODY_BYTES, REQ, "REC_OUTPUT")                                          \
    F(U64, prompt_tokens, 0, OPT, "")                                                              \
    F(U64, completion_tokens, 0, OPT, "")                                                          \
    F(F64, energy_j, 0, OPT, "as REC_OUTPUT's, for the batch's sum; 0: unknown")

#define REC_ACK(F, L)                                                                              \
    F(U64, job, 0, REQ, "")                                                                        \
    F(U64, epoch, 0, REQ, "")                                                                      \
    F(U64, outcome, 2, REQ, "0 stored, 1 already there, 2 dropped: the lease was lost")

#define REC_RUNNING(F, L)                                                                          \
    F(U64, job, 0, REQ, "")                                                                        \
    F(U64, epoch, 0, REQ, "")                                                                      \
    F(U64, completion_tokens, 0, OPT, "so far")                                                    \
    F(BIN, checkpoint, PROTO_MAX_CHECKPOINT_BYTES, OPT, "REC_CHECKPOINT, now and then")

#define REC_JOB_REF(F, L)                                                                          \
    F(U64, job, 0, REQ, "")                                                                        \
    F(U64, epoch, 0, REQ, "")

#define REC_NACK_JOB(F, L)                                                                         \
    F(U64, job, 0, REQ, "")                                                                        \
    F(U64, epoch, 0, REQ, "")                                                                      \
    F(BOOL, counts, 0, REQ, "true: an attempt was used up (GPU trouble); false: drain, no room")   \
    F(STR, reason, PROTO_MAX_TEXT_BYTES, OPT, "for the job's history")                             \
    F(BIN, checkpoint, PROTO_MAX_CHECKPOINT_BYTES, OPT, "REC_CHECKPOINT to go on from")

#define REC_LINE(F, L)                                                                             \
    F(U64, line, 0, REQ, "from 1")                                                                 \
    F(U64, hash, 0, REQ,                                                                           \
      "XXH3-64 of the line's bytes: the same line again is a no-op, "                              \
      "another line under the number a conflict")                                                  \
    F(STR, custom_id, PROTO_MAX_CUSTOM_ID_BYTES, OPT, "")                                          \
    F(BIN, body, PROTO_MAX_BODY_BYTES, OPT, "REC_REQUEST; empty when the line is refused")         \
    F(BIN, refusal, PROTO_MAX_BODY_BYTES, OPT, "REC_OUTPUT with the 4xx error: stored as result")  \
    F(U64S, prefix_hashes, 64, OPT, "XXH3-64 of the prompt's first 256, 512, 1024, ... bytes")

/* When and how much of a batch runs; its owner may change it at any time. Times are the user's, of
 * the clock on the wall; minutes are of the broker's local day. */
#define SCHEDULE_FIELDS(F)                                                                         \
    F(U64, priority, 255, OPT, "higher first; absent or 0: 100")                                   \
    F(BOOL, paused, 0, OPT, "no job starts")                                                       \
    F(U64, max_parallel, 0, OPT, "most jobs that run at a time; 0: any number")                    \
    F(U64, not_before_ms, 0, OPT, "Unix time: no job starts before")                               \
    F(U64, not_after_ms, 0, OPT, "Unix time: no job starts from then on; 0: no such time")         \
    F(U64, daily_from_min, 1439, OPT, "of each day: no job starts before")                         \
    F(U64, daily_until_min, 1439, OPT, "nor from then on; both the same: all day")                 \
    F(U64, deadline_ms, 0, OPT, "Unix time: what is not done then fails as batch_expired; 0: never")

#define REC_SCHEDULE(F, L) SCHEDULE_FIELDS(F)

/* In BATCH_SET's `changes`. */
#define SCHEDULE_BIT(name) (UINT64_C(1) << SCHEDULE_PLACE_##name)
enum schedule_place {
#define SCHEDULE_PLACE(kind, name, limit, need, doc) SCHEDULE_PLACE_##name,
    SCHEDULE_FIELDS(SCHEDULE_PLACE)
#undef SCHEDULE_PLACE
};

#define REC_BATCH(F, L)                                                                            \
    F(STR, batch, PROTO_MAX_ID_BYTES, REQ, "")                                                     \
    F(STR, state, 32, REQ, "open, in_progress, completed or cancelled")                            \
    SCHEDULE_FIELDS(F)                                                                             \
    F(STR, model, PROTO_MAX_ID_BYTES, OPT, "")                                                     \
    F(U64, created_ms, 0, OPT, "Unix time")                                                        \
    F(U64, completed_ms, 0, OPT, "Unix time; 0: not yet")                                          \
    F(U64, total, 0, REQ, "lines submitted")                                                       \
    F(U64, queued, 0, REQ, "")                                                                     \
    F(U64, leased, 0, REQ, "")                                                                     \
    F(U64, done, 0, REQ, "")                                                                       \
    F(U64, failed, 0, REQ, "")                                                                     \
    F(U64, cancelled, 0, REQ, "")                                                                  \
    F(U64, prompt_tokens, 0, OPT, "of finished jobs")                                              \
    F(U64, completion_tokens, 0, OPT, "of finished jobs")                                          \
    F(F64, energy_j, 0, OPT, "of the jobs whose results tell it; 0: unknown")                      \
    F(U64, energy_jobs, 0, OPT, "how many of the finished jobs these are")                         \
    F(U64, running_tokens, 0, OPT, "completion tokens of leased jobs so far")                      \
    F(BOOL, sealed, 0, REQ, "no more lines will come")                                             \
    F(STR, problem, PROTO_MAX_TEXT_BYTES, OPT, "why nothing moves, if nothing does")               \
    F(STR, client, PROTO_MAX_ID_BYTES, OPT, "whose quota it counts for")                           \
    F(F64, jobs_per_s, 0, OPT, "finished over the last minutes; 0: unknown, or nothing moves")     \
    F(U64, eta_ms, 0, OPT, "until all lines are finished, at that speed; 0: unknown")

#define HEADROOM_FIELDS(F)                                                                         \
    F(F64, temp_c, 0, OPT, "0: unknown")                                                           \
    F(F64, target_c, 0, OPT, "")                                                                   \
    F(F64, margin_c, 0, OPT, "degrees below the governor's target")                                \
    F(BOOL, temp_known, 0, OPT, "false: temp_c and margin_c mean nothing")                         \
    F(F64, power_w, 0, OPT, "0: unknown")                                                          \
    F(F64, power_limit_w, 0, OPT, "0: unknown")                                                    \
    F(U64, throttle_bits, 0, OPT, "1 thermal, 2 power, 4 hardware brake")                          \
    F(F64, duty, 0, OPT, "share of time the engine may run, up to 1; 0: unknown")                  \
    F(F64, pace_ms, 0, OPT, "the governor's delay after each 50 ms of work")                       \
    F(U64, kv_tokens_free, 0, OPT, "of kv_tokens_total")                                           \
    F(U64, kv_tokens_total, 0, OPT, "0: unknown, as all of these until the worker says more")      \
    F(U64, vram_free_bytes, 0, OPT, "0: unknown")                                                  \
    F(F64, prefill_tokens_per_s, 0, OPT, "")                                                       \
    F(F64, decode_tokens_per_s, 0, OPT, "")                                                        \
    F(F64, joules_per_token, 0, OPT, "of tokens computed now, prompts' too; 0: unknown")           \
    F(F64, energy_j, 0, OPT, "the device's since the worker's start, idle time too; 0: unknown")   \
    F(F64, temp_mean_c, 0, OPT, "since the worker's start; 0: unknown")                            \
    F(F64, temp_peak_c, 0, OPT, "since the worker's start; 0: unknown")                            \
    F(U64, prefill_tokens, 0, OPT, "prompt tokens computed since the worker's start")              \
    F(U64, cached_tokens, 0, OPT, "prompt tokens found in the prefix cache instead, since then")

#define REC_WORKER(F, L)                                                                           \
    F(STR, worker, PROTO_MAX_ID_BYTES, REQ, "")                                                    \
    F(STR, host, PROTO_MAX_ID_BYTES, OPT, "")                                                      \
    F(STR, device, PROTO_MAX_ID_BYTES, OPT, "")                                                    \
    F(STR, model, PROTO_MAX_ID_BYTES, OPT, "")                                                     \
    F(STR, numeric_class, PROTO_MAX_ID_BYTES, OPT, "")                                             \
    F(STR, state, 32, REQ, "ready, loading (another model), draining or lost")                     \
    F(U64, leased, 0, OPT, "jobs it holds")                                                        \
    F(U64, done, 0, OPT, "results in this session")                                                \
    F(U64, seen_ms, 0, OPT, "milliseconds since its last message")                                 \
    HEADROOM_FIELDS(F)

#define REC_EVENT(F, L)                                                                            \
    F(U64, seq, 0, REQ, "ascends, also over restarts of the broker")                               \
    F(U64, at_ms, 0, REQ, "Unix time")                                                             \
    F(STR, kind, 32, REQ, "as worker_lost; docs/operations.md has them all")                       \
    F(STR, subject, PROTO_MAX_ID_BYTES, OPT, "the worker or batch")                                \
    F(STR, text, PROTO_MAX_TEXT_BYTES, OPT, "one line")

#define REC_MODEL_AT(F, L)                                                                         \
    F(STR, name, PROTO_MAX_ID_BYTES, REQ, "file name without directory and .gguf")                 \
    F(STR, hash, 64, REQ, "XXH3-128 of the file's bytes, hexadecimal")                             \
    F(STR, quantization, 64, OPT, "")                                                              \
    F(U64, bytes, 0, OPT, "of the file; 0: unknown")                                               \
    F(STR, worker, PROTO_MAX_ID_BYTES, OPT, "who has it; empty: the broker's folder")              \
    F(STR, state, 32, OPT, "of a worker: loaded, loading, there or fetching")

#define REC_FETCHED(F, L)                                                                          \
    F(U64, seq, 0, REQ, "place in the order of completion, from 1")                                \
    F(U64, line, 0, REQ, "")                                                                       \
    F(STR, custom_id, PROTO_MAX_CUSTOM_ID_BYTES, OPT, "")                                          \
    F(STR, state, 32, REQ, "done, failed or cancelled")                                            \
    F(BIN, body, PROTO_MAX_BODY_BYTES, OPT, "REC_OUTPUT; empty when cancelled before it ran")      \
    F(U64, attempts, 0, OPT, "leases it took")                                                     \
    F(U64, submitted_ms, 0, OPT, "Unix time")                                                      \
    F(U64, finished_ms, 0, OPT, "Unix time")

/* ---- bodies: opaque to the broker, between client and worker ---- */

#define REC_CHAT_MESSAGE(F, L)                                                                     \
    F(STR, role, 64, REQ, "")                                                                      \
    F(STR, content, PROTO_MAX_BODY_BYTES, REQ, "")

#define REC_BIAS(F, L)                                                                             \
    F(U64, id, UINT32_MAX, REQ, "token id")                                                        \
    F(F64, bias, 0, REQ, "added to its logit")

#define REC_TEXT(F, L) F(STR, text, PROTO_MAX_BODY_BYTES, REQ, "")

#define REC_REQUEST(F, L)                                                                          \
    F(BOOL, chat, 0, REQ, "true: messages through the chat template; false: prompt as it is")      \
    L(CHAT_MESSAGE, messages, 4096, OPT, "")                                                       \
    F(STR, prompt, PROTO_MAX_BODY_BYTES, OPT, "")                                                  \
    F(U64S, prompt_ids, 1048576, OPT, "token ids instead of a text")                               \
    F(U64, max_tokens, 0, REQ, "most completion tokens; also ends at the context's end")           \
    F(U64, min_tokens, 0, OPT, "no end-of-text, stop token or stop string before")                 \
    F(F64, temperature, 0, REQ, "0: greedy")                                                       \
    F(U64, top_k, 0, OPT, "0: off")                                                                \
    F(F64, top_p, 0, REQ, "1: off")                                                                \
    F(F64, min_p, 0, OPT, "0: off")                                                                \
    F(U64, seed, 0, REQ, "")                                                                       \
    F(BOOL, ignore_eos, 0, OPT, "")                                                                \
    L(TEXT, stop, 16, OPT, "stop strings; not part of the output")                                 \
    F(U64S, stop_token_ids, 64, OPT, "")                                                           \
    F(U64, n, PROTO_MAX_CHOICES, OPT, "choices; absent or 0: 1")                                   \
    L(BIAS, logit_bias, 1024, OPT, "")                                                             \
    F(F64, repetition_penalty, 0, OPT, "of tokens in prompt or completion; absent, 0 or 1: off")   \
    F(F64, frequency_penalty, 0, OPT, "of tokens in the completion, times their count")            \
    F(F64, presence_penalty, 0, OPT, "of tokens in the completion, once")                          \
    L(TEXT, bad_words, 128, OPT, "texts whose tokens must not be completed")                       \
    F(BOOL, logprobs, 0, OPT, "CHOICE.logprobs are wanted")                                        \
    F(U64, top_logprobs, 20, OPT, "and those of so many of the likeliest tokens")

#define REC_LOGPROB(F, L)                                                                          \
    F(BIN, token, PROTO_MAX_BODY_BYTES, REQ, "its bytes: may be part of a character")              \
    F(F64, logprob, 0, REQ, "natural logarithm; -9999 for no chance at all")                       \
    F(U64, text_offset, 0, OPT, "characters of text before it; of completion tokens only")

#define REC_CHOICE(F, L)                                                                           \
    F(STR, text, PROTO_MAX_BODY_BYTES, OPT, "the completion, valid UTF-8")                         \
    F(STR, finish_reason, 32, REQ, "stop or length")                                               \
    F(U64, completion_tokens, 0, OPT, "")                                                          \
    F(U64, top_logprobs, 20, OPT, "how many of the likeliest follow each token in logprobs")       \
    L(LOGPROB, logprobs, 4194304, OPT,                                                             \
      "each completion token, behind it the likeliest ones, best first")

#define REC_OUTPUT(F, L)                                                                           \
    F(U64, status_code, 999, REQ, "200, or 4xx / 5xx with error_*")                                \
    F(STR, error_message, PROTO_MAX_TEXT_BYTES, OPT, "")                                           \
    F(STR, error_type, 64, OPT, "as invalid_request_error")                                        \
    F(STR, error_code, 64, OPT, "as context_length_exceeded")                                      \
    F(STR, error_param, 64, OPT, "the field at fault")                                             \
    F(BOOL, chat, 0, OPT, "")                                                                      \
    L(CHOICE, choices, PROTO_MAX_CHOICES, OPT, "of an answer: n of them, in order")                \
    F(U64, prompt_tokens, 0, OPT, "")                                                              \
    F(U64, completion_tokens, 0, OPT, "of all choices")                                            \
    F(U64, cached_tokens, 0, OPT, "prompt tokens found in the prefix cache")                       \
    F(U64, seed, 0, OPT, "")                                                                       \
    F(STR, model_name, PROTO_MAX_ID_BYTES, OPT, "")                                                \
    F(STR, model_hash, 64, OPT, "")                                                                \
    F(STR, quantization, 64, OPT, "")                                                              \
    F(STR, numeric_class, PROTO_MAX_ID_BYTES, OPT, "")                                             \
    F(STR, device, PROTO_MAX_ID_BYTES, OPT, "")                                                    \
    F(STR, driver, PROTO_MAX_ID_BYTES, OPT, "")                                                    \
    F(STR, build, PROTO_MAX_ID_BYTES, OPT, "")                                                     \
    F(STR, worker, PROTO_MAX_ID_BYTES, OPT, "")                                                    \
    F(U64, started_ms, 0, OPT, "Unix time")                                                        \
    F(U64, finished_ms, 0, OPT, "Unix time")                                                       \
    F(F64, energy_j, 0, OPT,                                                                       \
      "this job's share of what its worker's device used (worker/core.h), in this lease alone; "   \
      "0: unknown")

#define REC_CHECKPOINT(F, L)                                                                       \
    F(STR, numeric_class, PROTO_MAX_ID_BYTES, REQ, "only a worker of this class goes on from it")  \
    F(STR, model_hash, 64, REQ, "")                                                                \
    F(U64S, completion_ids, 1048576, REQ, "the tokens generated so far")                           \
    F(STR, prompt_hash, 64, OPT,                                                                   \
      "of the prompt's tokens: only behind the same prompt a worker goes on from it, so without "  \
      "it "                                                                                        \
      "none does")

#define PROTO_RECORDS(X)                                                                           \
    X(MODEL, model)                                                                                \
    X(GRANT_JOB, grant_job)                                                                        \
    X(RESULT, result)                                                                              \
    X(ACK, ack)                                                                                    \
    X(RUNNING, running)                                                                            \
    X(JOB_REF, job_ref)                                                                            \
    X(NACK_JOB, nack_job)                                                                          \
    X(LINE, line)                                                                                  \
    X(BATCH, batch)                                                                                \
    X(WORKER, worker)                                                                              \
    X(EVENT, event)                                                                                \
    X(MODEL_AT, model_at)                                                                          \
    X(FETCHED, fetched)                                                                            \
    X(CHAT_MESSAGE, chat_message)                                                                  \
    X(TEXT, text)                                                                                  \
    X(BIAS, bias)                                                                                  \
    X(REQUEST, request)                                                                            \
    X(LOGPROB, logprob)                                                                            \
    X(CHOICE, choice)                                                                              \
    X(OUTPUT, output)                                                                              \
    X(CHECKPOINT, checkpoint)                                                                      \
    X(SCHEDULE, schedule)

/* ---- messages: worker <-> broker ---- */

#define MSG_HELLO(F, L)                                                                            \
    F(STR, worker, PROTO_MAX_ID_BYTES, REQ, "stable name of the worker")                           \
    F(STR, host, PROTO_MAX_ID_BYTES, REQ, "")                                                      \
    F(STR, build, PROTO_MAX_ID_BYTES, REQ, "")                                                     \
    F(STR, device, PROTO_MAX_ID_BYTES, REQ, "")                                                    \
    F(STR, driver, PROTO_MAX_ID_BYTES, REQ, "")                                                    \
    F(STR, numeric_class, PROTO_MAX_ID_BYTES, REQ, "same class, same bytes")                       \
    L(MODEL, models, PROTO_MAX_MODELS, REQ, "what it can run; the first is loaded")                \
    F(U64, max_jobs, 0, REQ, "sequences at a time")                                                \
    F(U64, kv_tokens, 0, REQ, "size of its KV cache")                                              \
    L(JOB_REF, holding, PROTO_MAX_LIST, OPT, "leases it still holds, from before a reconnect")     \
    F(U64, process, 0, OPT,                                                                        \
      "drawn at the program's start: another one means that it was restarted; 0: unknown")         \
    F(STR, ledger, PROTO_MAX_ID_BYTES, OPT, "WELCOME.broker when it was given what it holds")      \
    F(U64, load_ms, 0, OPT, "how long its model took to load; 0: unknown")                         \
    F(BOOL, fetches, 0, OPT, "it fetches models from the broker when BEAT_OK says so")
#define MSG_WELCOME(F, L)                                                                          \
    F(STR, broker, PROTO_MAX_ID_BYTES, REQ, "the ledger's id")                                     \
    F(U64, session, 0, REQ, "new with every HELLO; credits start at 0")                            \
    F(U64, heartbeat_ms, 600000, REQ, "send a BEAT this often; three missed end the session")      \
    F(U64, lease_ms, 0, REQ, "a lease no BEAT names for this long is lost")                        \
    L(JOB_REF, lost, PROTO_MAX_LIST, OPT, "of `holding`: leases that are not yours any more")
#define MSG_PULL(F, L)                                                                             \
    F(U64, session, 0, REQ, "")                                                                    \
    F(U64, credit_total, 0, REQ,                                                                   \
      "the broker may grant until the session's count of granted jobs "                            \
      "is this (cumulative, so a repeated PULL grants nothing twice)")                             \
    F(U64, credit_tokens, 0, OPT, "KV tokens free now")                                            \
    HEADROOM_FIELDS(F)
#define MSG_GRANT(F, L)                                                                            \
    F(U64, session, 0, REQ, "")                                                                    \
    L(GRANT_JOB, jobs, 1024, REQ, "")
#define MSG_RESULTS(F, L)                                                                          \
    F(U64, session, 0, REQ, "")                                                                    \
    L(RESULT, results, 1024, REQ, "kept by the worker until acknowledged")
#define MSG_ACKS(F, L) L(ACK, acks, 1024, REQ, "sent after the commit is synced")
#define MSG_BEAT(F, L)                                                                             \
    F(U64, session, 0, REQ, "")                                                                    \
    F(BOOL, draining, 0, OPT, "it takes no more jobs")                                             \
    L(RUNNING, running, PROTO_MAX_LIST, OPT,                                                       \
      "every lease it holds, finished ones not yet "                                               \
      "acknowledged too: this renews them")                                                        \
    F(STR, unfetchable, 64, OPT, "hash of a model that it tried to fetch in vain")                 \
    HEADROOM_FIELDS(F)
#define MSG_BEAT_OK(F, L)                                                                          \
    F(U64, session, 0, REQ, "")                                                                    \
    F(BOOL, drain, 0, OPT, "finish what is short, hand back the rest, leave")                      \
    L(JOB_REF, cancel, PROTO_MAX_LIST, OPT, "stop these: cancelled, or not yours any more")        \
    F(STR, load, 64, OPT,                                                                          \
      "hash of one of its models: finish what runs, load it, say HELLO anew; no grants meanwhile") \
    F(STR, fetch, 64, OPT, "hash of a model to fetch beside its work; then HELLO anew")            \
    F(STR, fetch_name, PROTO_MAX_ID_BYTES, OPT, "that model's name")                               \
    F(U64, fetch_bytes, 0, OPT, "and size")
#define MSG_MODEL_FETCH(F, L)                                                                      \
    F(U64, session, 0, REQ, "")                                                                    \
    F(STR, hash, 64, REQ, "BEAT_OK.fetch; one is on its way at a time")                            \
    F(U64, offset, 0, REQ, "where the chunk begins in the file")
#define MSG_MODEL_CHUNK(F, L)                                                                      \
    F(U64, session, 0, REQ, "")                                                                    \
    F(STR, hash, 64, REQ, "")                                                                      \
    F(U64, offset, 0, REQ, "")                                                                     \
    F(BIN, data, PROTO_MAX_CHUNK_BYTES, REQ, "empty: the broker cannot read it any more")          \
    F(U64, sum, 0, REQ, "XXH3-64 of data")
#define MSG_NACK(F, L)                                                                             \
    F(U64, session, 0, REQ, "")                                                                    \
    L(NACK_JOB, jobs, PROTO_MAX_LIST, REQ, "")
#define MSG_BYE(F, L)       F(U64, session, 0, REQ, "")
#define MSG_BYE_OK(F, L)    F(U64, session, 0, REQ, "everything sent before is in the ledger")
#define MSG_RECONNECT(F, L) F(STR, reason, PROTO_MAX_TEXT_BYTES, OPT, "session unknown: say HELLO")

/* ---- messages: client <-> broker; a reply carries its request's `seq` ---- */

#define MSG_BATCH_NEW(F, L)                                                                        \
    F(U64, seq, 0, REQ, "")                                                                        \
    F(STR, batch, PROTO_MAX_ID_BYTES, REQ, "chosen by the client; there already: a no-op")         \
    SCHEDULE_FIELDS(F)                                                                             \
    F(U64, max_attempts, 100, OPT,                                                                 \
      "losses while alone on a worker before a job is poison; absent or 0: 3")                     \
    F(STR, model, PROTO_MAX_ID_BYTES, OPT, "name or hash of the model; empty: any")                \
    F(STR, options_hash, 64, OPT,                                                                  \
      "of all that shapes the outputs: another under the same id "                                 \
      "is a conflict")                                                                             \
    F(STR, options_text, PROTO_MAX_TEXT_BYTES, OPT, "the same for people, shown on a conflict")    \
    F(STR, client, PROTO_MAX_ID_BYTES, OPT,                                                        \
      "whose quota its lines count for, as the client says; empty: one for all that say nothing")
#define MSG_BATCH_OK(F, L)                                                                         \
    F(U64, seq, 0, REQ, "")                                                                        \
    F(BOOL, existed, 0, REQ, "")                                                                   \
    L(BATCH, batches, 1, REQ, "its state: exactly one")                                            \
    F(STR, warning, PROTO_MAX_TEXT_BYTES, OPT, "why nobody could run it now, for people")
#define MSG_BATCH_SET(F, L)                                                                        \
    F(U64, seq, 0, REQ, "")                                                                        \
    F(STR, batch, PROTO_MAX_ID_BYTES, REQ, "the reply is BATCH_OK, after the commit is synced")    \
    SCHEDULE_FIELDS(F)                                                                             \
    F(U64, changes, 255, OPT,                                                                      \
      "which of these are meant: 1 priority, 2 paused, 4 max_parallel, ...; absent or 0: all")
#define MSG_SUBMIT(F, L)                                                                           \
    F(U64, seq, 0, REQ, "")                                                                        \
    F(STR, batch, PROTO_MAX_ID_BYTES, REQ, "one of which there was a BATCH_OK")                    \
    L(LINE, lines, PROTO_MAX_LINES_A_SUBMIT, REQ, "all or none")
#define MSG_SUBMIT_OK(F, L)                                                                        \
    F(U64, seq, 0, REQ, "")                                                                        \
    F(U64, accepted, 0, REQ, "new lines; sent after the commit is synced")                         \
    F(U64, duplicates, 0, REQ, "lines that were there")
#define MSG_SEAL(F, L)                                                                             \
    F(U64, seq, 0, REQ, "")                                                                        \
    F(STR, batch, PROTO_MAX_ID_BYTES, REQ, "")                                                     \
    F(U64, lines, 0, REQ, "how many there must be: a mismatch is a conflict")
#define MSG_OK(F, L) F(U64, seq, 0, REQ, "")
#define MSG_STATUS(F, L)                                                                           \
    F(U64, seq, 0, REQ, "")                                                                        \
    F(STR, batch, PROTO_MAX_ID_BYTES, OPT, "empty: all")                                           \
    F(BOOL, workers_only, 0, OPT, "no batches")
#define MSG_STATUS_OK(F, L)                                                                        \
    F(U64, seq, 0, REQ, "")                                                                        \
    F(U64, uptime_ms, 0, OPT, "")                                                                  \
    L(BATCH, batches, PROTO_MAX_LIST, REQ, "of all: it stops at about 8 MiB")                      \
    F(U64, left_out, 0, OPT, "batches that did not fit: ask for them by name")                     \
    L(WORKER, workers, PROTO_MAX_LIST, REQ, "")
#define MSG_FETCH(F, L)                                                                            \
    F(U64, seq, 0, REQ, "")                                                                        \
    F(STR, batch, PROTO_MAX_ID_BYTES, REQ, "")                                                     \
    F(BOOL, by_line, 0, REQ, "cursor: false order of completion, true input order")                \
    F(U64, after, 0, REQ, "0, or the last seq / line seen")                                        \
    F(U64, max, 1024, REQ, "most results in the reply (it also stops at about 8 MiB)")
#define MSG_FETCH_OK(F, L)                                                                         \
    F(U64, seq, 0, REQ, "")                                                                        \
    L(FETCHED, results, 1024, REQ, "empty: none after the cursor now")
#define MSG_CANCEL(F, L)                                                                           \
    F(U64, seq, 0, REQ, "")                                                                        \
    F(STR, batch, PROTO_MAX_ID_BYTES, REQ, "")                                                     \
    F(U64S, lines, PROTO_MAX_LIST, OPT, "empty: all that are not finished")
#define MSG_CANCEL_OK(F, L)                                                                        \
    F(U64, seq, 0, REQ, "")                                                                        \
    F(U64, cancelled, 0, REQ, "")
#define MSG_DRAIN(F, L)                                                                            \
    F(U64, seq, 0, REQ, "")                                                                        \
    F(STR, worker, PROTO_MAX_ID_BYTES, OPT, "one by its name")                                     \
    F(STR, host, PROTO_MAX_ID_BYTES, OPT, "or all of a machine")
#define MSG_DRAIN_OK(F, L)                                                                         \
    F(U64, seq, 0, REQ, "")                                                                        \
    F(U64, workers, 0, REQ, "asked to leave; they get no more jobs from now on")                   \
    F(U64, jobs, 0, REQ, "that they hold")
#define MSG_EVENTS(F, L)                                                                           \
    F(U64, seq, 0, REQ, "")                                                                        \
    F(U64, after, 0, REQ, "0, or the seq of the last event seen")
#define MSG_EVENTS_OK(F, L)                                                                        \
    F(U64, seq, 0, REQ, "")                                                                        \
    L(EVENT, events, 512, REQ, "the first ones after it that are still kept; empty: none now")
#define MSG_MODELS(F, L) F(U64, seq, 0, REQ, "")
#define MSG_MODELS_OK(F, L)                                                                        \
    F(U64, seq, 0, REQ, "")                                                                        \
    L(MODEL_AT, models, PROTO_MAX_LIST, REQ, "the broker's first")
#define MSG_BACKUP(F, L)                                                                           \
    F(U64, seq, 0, REQ, "")                                                                        \
    F(U64, token, 0, REQ, "drawn for each backup: the same again asks how far that one is")        \
    F(STR, name, PROTO_MAX_ID_BYTES, REQ, "of a new file in the broker's folder of backups")
#define MSG_BACKUP_OK(F, L)                                                                        \
    F(U64, seq, 0, REQ, "")                                                                        \
    F(STR, path, PROTO_MAX_TEXT_BYTES, REQ, "where it is, on the broker's machine")                \
    F(BOOL, done, 0, REQ, "false: ask again")                                                      \
    F(U64, bytes, 0, OPT, "copied so far")                                                         \
    F(U64, total_bytes, 0, OPT, "")
#define MSG_ERROR(F, L)                                                                            \
    F(U64, seq, 0, OPT, "of the request; 0: none could be read")                                   \
    F(STR, code, 64, REQ,                                                                          \
      "full, quota (try again later), too_large (of several lines: try fewer), bad_message, "      \
      "version, not_found, conflict, forbidden (by the key's roles), storage or internal")         \
    F(STR, text, PROTO_MAX_TEXT_BYTES, REQ, "one line: what, where, what was expected")            \
    F(U64, line, 0, OPT, "the line at fault")

/* X(NAME, name, role): the role (roles.h) that its sender needs; BROKER: only a broker sends it. */
#define PROTO_MESSAGES(X)                                                                          \
    X(HELLO, hello, WORK)                                                                          \
    X(WELCOME, welcome, BROKER)                                                                    \
    X(PULL, pull, WORK)                                                                            \
    X(GRANT, grant, BROKER)                                                                        \
    X(RESULTS, results, WORK)                                                                      \
    X(ACKS, acks, BROKER)                                                                          \
    X(BEAT, beat, WORK)                                                                            \
    X(BEAT_OK, beat_ok, BROKER)                                                                    \
    X(MODEL_FETCH, model_fetch, WORK)                                                              \
    X(MODEL_CHUNK, model_chunk, BROKER)                                                            \
    X(NACK, nack, WORK)                                                                            \
    X(BYE, bye, WORK)                                                                              \
    X(BYE_OK, bye_ok, BROKER)                                                                      \
    X(RECONNECT, reconnect, BROKER)                                                                \
    X(BATCH_NEW, batch_new, SUBMIT)                                                                \
    X(BATCH_OK, batch_ok, BROKER)                                                                  \
    X(BATCH_SET, batch_set, SUBMIT)                                                                \
    X(SUBMIT, submit, SUBMIT)                                                                      \
    X(SUBMIT_OK, submit_ok, BROKER)                                                                \
    X(SEAL, seal, SUBMIT)                                                                          \
    X(OK, ok, BROKER)                                                                              \
    X(STATUS, status, SUBMIT)                                                                      \
    X(STATUS_OK, status_ok, BROKER)                                                                \
    X(FETCH, fetch, SUBMIT)                                                                        \
    X(FETCH_OK, fetch_ok, BROKER)                                                                  \
    X(CANCEL, cancel, SUBMIT)                                                                      \
    X(CANCEL_OK, cancel_ok, BROKER)                                                                \
    X(DRAIN, drain, ADMIN)                                                                         \
    X(DRAIN_OK, drain_ok, BROKER)                                                                  \
    X(EVENTS, events, ADMIN)                                                                       \
    X(EVENTS_OK, events_ok, BROKER)                                                                \
    X(MODELS, models, SUBMIT)                                                                      \
    X(MODELS_OK, models_ok, BROKER)                                                                \
    X(BACKUP, backup, ADMIN)                                                                       \
    X(BACKUP_OK, backup_ok, BROKER)                                                                \
    X(ERROR, error, BROKER)

/* ---- the C structs: rec_model, msg_hello, ... ---- */

struct u64s {
    uint64_t *items;
    size_t count;
};

#define PROTO_C_U64                                 uint64_t
#define PROTO_C_F64                                 double
#define PROTO_C_BOOL                                bool
#define PROTO_C_STR                                 struct str
#define PROTO_C_BIN                                 struct str
#define PROTO_C_U64S                                struct u64s
#define PROTO_C_FIELD(kind, name, limit, need, doc) PROTO_C_##kind name;
#define PROTO_C_LIST(rec, name, limit, need, doc)                                                  \
    struct {                                                                                       \
        struct rec_##rec *items;                                                                   \
        size_t count;                                                                              \
    } name;

/* Copies fields that a list as HEADROOM_FIELDS gives to several messages, from one of them (or from
 * a struct with these members) to another; pointers to both. */
#define PROTO_COPY_FIELD(kind, name, limit, need, doc) to_->name = from_->name;
#define PROTO_COPY(FIELDS, to, from)                                                               \
    do {                                                                                           \
        __typeof__(to) to_ = (to);                                                                 \
        __typeof__(from) from_ = (from);                                                           \
        FIELDS(PROTO_COPY_FIELD)                                                                   \
    } while (0)

/* Lists name their record by its upper-case name: struct rec_GRANT_JOB. */
#define X(NAME, name)                                                                              \
    struct rec_##NAME {                                                                            \
        REC_##NAME(PROTO_C_FIELD, PROTO_C_LIST)                                                    \
    };
PROTO_RECORDS(X)
#undef X

#define X(NAME, name, role)                                                                        \
    struct msg_##name {                                                                            \
        MSG_##NAME(PROTO_C_FIELD, PROTO_C_LIST)                                                    \
    };
PROTO_MESSAGES(X)
#undef X

enum msg_type {
    MSG_NONE,
#define X(NAME, name, role) MSG_TYPE_##NAME,
    PROTO_MESSAGES(X)
#undef X
};

/* A decoded message. The member named after the type is the valid one; what it points to lives in
 * the decoder's arena and the frame. */
struct msg {
    enum msg_type type;
    union {
#define X(NAME, name, role) struct msg_##name name;
        PROTO_MESSAGES(X)
#undef X
    };
};

#endif
