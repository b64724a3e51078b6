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
    PROTO_MAX_MESSAGE_BYTES = 64 << 20, /* also ZMQ_MAXMSGSIZE */
    PROTO_MAX_ID_BYTES = 128,
    PROTO_MAX_CUSTOM_ID_BYTES = 512,
    PROTO_MAX_TEXT_BYTES = 4096,
    PROTO_MAX_BODY_BYTES = 16 << 20, /* one request or result */
    PROTO_MAX_LIST = 65536,
    PROTO_MAX_CHOICES = 128,
    PROTO_MAX_LINES_A_SUBMIT = 1024, /* and about 4 MiB of bodies */
    PROTO_MAX_CHECKPOINT_BYTES = 4 << 20,
    PROTO_MAX_DEPTH = 5,
    PROTO_MAX_FIELDS = 64, /* entries of one map, unknown ones included */
    PROTO_MAX_OBJECTS =
        8 << 20, /* values in one message: 24 bytes of memory each while it is decoded */
};

/* ---- records ---- */

#define REC_MODEL(F, L)                                                                            \
    F(STR, name, PROTO_MAX_ID_BYTES, REQ, "file name without directory and .gguf")                 \
    F(STR, hash, 64, REQ, "XXH3-128 of the file's bytes, hexadecimal")                             \
    F(STR, quantization, 64, OPT, "the type most weights have, as Q4_K")                           \
    F(U64, context_tokens, 0, OPT, "longest sequence")

#define REC_GRANT_JOB(F, L)                                                                        \
    F(U64, job, 0, REQ, "the ledger's number of the job")                                          \
    F(U64, epoch, 0, REQ, "lease epoch: a result counts only with the current one")                \
    F(U64, attempt, 0, REQ, "1 for the first lease")                                               \
    F(STR, batch, PROTO_MAX_ID_BYTES, REQ, "batch id")                                             \
    F(U64, line, 0, REQ, "line number in the batch's input, from 1")                               \
    F(STR, custom_id, PROTO_MAX_CUSTOM_ID_BYTES, OPT, "the user's id")                             \
    F(STR, model, PROTO_MAX_ID_BYTES, OPT, "model name or hash the batch asks for; empty: any")    \
    F(BIN, body, PROTO_MAX_BODY_BYTES, REQ, "the request: REC_REQUEST")                            \
    F(BIN, checkpoint, PROTO_MAX_CHECKPOINT_BYTES, OPT, "REC_CHECKPOINT of an earlier lease")      \
    F(U64, deadline_ms, 0, OPT, "Unix time after which a result is of no use; 0: none")

#define REC_RESULT(F, L)                                                                           \
    F(U64, job, 0, REQ, "")                                                                        \
    F(U64, epoch, 0, REQ, "the lease's epoch")                                                     \
    F(BOOL, failed, 0, REQ, "true: the request is refused for good (the body says why)")           \
    F(BIN, body, PROTO_MAX_BODY_BYTES, REQ, "REC_OUTPUT")                                          \
    F(U64, prompt_tokens, 0, OPT, "")                                                              \
    F(U64, completion_tokens, 0, OPT, "")

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

#define REC_BATCH(F, L)                                                                            \
    F(STR, batch, PROTO_MAX_ID_BYTES, REQ, "")                                                     \
    F(STR, state, 32, REQ, "open, in_progress, completed or cancelled")                            \
    F(U64, priority, 255, OPT, "higher first; 100 is the default")                                 \
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
    F(U64, running_tokens, 0, OPT, "completion tokens of leased jobs so far")                      \
    F(BOOL, sealed, 0, REQ, "no more lines will come")                                             \
    F(STR, problem, PROTO_MAX_TEXT_BYTES, OPT, "why nothing moves, if nothing does")

#define HEADROOM_FIELDS(F)                                                                         \
    F(F64, temp_c, 0, OPT, "0: unknown")                                                           \
    F(F64, target_c, 0, OPT, "")                                                                   \
    F(F64, margin_c, 0, OPT, "degrees below the governor's target")                                \
    F(BOOL, temp_known, 0, OPT, "false: temp_c and margin_c mean nothing")                         \
    F(F64, power_w, 0, OPT, "0: unknown")                                                          \
    F(F64, power_limit_w, 0, OPT, "0: unknown")                                                    \
    F(U64, throttle_bits, 0, OPT, "1 thermal, 2 power, 4 hardware brake")                          \
    F(F64, duty, 0, OPT, "share of time the engine may run, 0..1")                                 \
    F(F64, pace_ms, 0, OPT, "the governor's delay after each 50 ms of work")                       \
    F(U64, kv_tokens_free, 0, OPT, "")                                                             \
    F(U64, kv_tokens_total, 0, OPT, "")                                                            \
    F(U64, vram_free_bytes, 0, OPT, "0: unknown")                                                  \
    F(F64, prefill_tokens_per_s, 0, OPT, "")                                                       \
    F(F64, decode_tokens_per_s, 0, OPT, "")                                                        \
    F(F64, joules_per_token, 0, OPT, "0: unknown")                                                 \
    F(U64, prefill_tokens, 0, OPT, "prompt tokens computed since the worker's start")              \
    F(U64, cached_tokens, 0, OPT, "prompt tokens found in the prefix cache instead, since then")

#define REC_WORKER(F, L)                                                                           \
    F(STR, worker, PROTO_MAX_ID_BYTES, REQ, "")                                                    \
    F(STR, host, PROTO_MAX_ID_BYTES, OPT, "")                                                      \
    F(STR, device, PROTO_MAX_ID_BYTES, OPT, "")                                                    \
    F(STR, model, PROTO_MAX_ID_BYTES, OPT, "")                                                     \
    F(STR, numeric_class, PROTO_MAX_ID_BYTES, OPT, "")                                             \
    F(STR, state, 32, REQ, "ready, draining or lost")                                              \
    F(U64, leased, 0, OPT, "jobs it holds")                                                        \
    F(U64, done, 0, OPT, "results in this session")                                                \
    F(U64, seen_ms, 0, OPT, "milliseconds since its last message")                                 \
    HEADROOM_FIELDS(F)

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
    F(F64, energy_j, 0, OPT, "this job's share; 0: unknown")

#define REC_CHECKPOINT(F, L)                                                                       \
    F(STR, numeric_class, PROTO_MAX_ID_BYTES, REQ, "only a worker of this class goes on from it")  \
    F(STR, model_hash, 64, REQ, "")                                                                \
    F(U64S, completion_ids, 1048576, REQ, "the tokens generated so far")

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
    X(FETCHED, fetched)                                                                            \
    X(CHAT_MESSAGE, chat_message)                                                                  \
    X(TEXT, text)                                                                                  \
    X(BIAS, bias)                                                                                  \
    X(REQUEST, request)                                                                            \
    X(LOGPROB, logprob)                                                                            \
    X(CHOICE, choice)                                                                              \
    X(OUTPUT, output)                                                                              \
    X(CHECKPOINT, checkpoint)

/* ---- messages: worker <-> broker ---- */

#define MSG_HELLO(F, L)                                                                            \
    F(STR, worker, PROTO_MAX_ID_BYTES, REQ, "stable name of the worker")                           \
    F(STR, host, PROTO_MAX_ID_BYTES, REQ, "")                                                      \
    F(STR, build, PROTO_MAX_ID_BYTES, REQ, "")                                                     \
    F(STR, device, PROTO_MAX_ID_BYTES, REQ, "")                                                    \
    F(STR, driver, PROTO_MAX_ID_BYTES, REQ, "")                                                    \
    F(STR, numeric_class, PROTO_MAX_ID_BYTES, REQ, "same class, same bytes")                       \
    L(MODEL, models, 64, REQ, "what it can run; the first is loaded")                              \
    F(U64, max_jobs, 0, REQ, "sequences at a time")                                                \
    F(U64, kv_tokens, 0, REQ, "size of its KV cache")                                              \
    L(JOB_REF, holding, PROTO_MAX_LIST, OPT, "leases it still holds, from before a reconnect")
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
    HEADROOM_FIELDS(F)                                                                             \
    F(U64S, prefix_hashes, 256, OPT, "prompt prefixes in its cache, as in LINE")
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
    HEADROOM_FIELDS(F)
#define MSG_BEAT_OK(F, L)                                                                          \
    F(U64, session, 0, REQ, "")                                                                    \
    F(BOOL, drain, 0, OPT, "finish what is short, hand back the rest, leave")                      \
    L(JOB_REF, cancel, PROTO_MAX_LIST, OPT, "stop these: cancelled, or not yours any more")
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
    F(U64, priority, 255, OPT, "higher first; absent or 0: 100")                                   \
    F(U64, max_attempts, 100, OPT, "leases before a job is poison; absent or 0: 3")                \
    F(STR, model, PROTO_MAX_ID_BYTES, OPT, "name or hash of the model; empty: any")                \
    F(STR, options_hash, 64, OPT,                                                                  \
      "of all that shapes the outputs: another under the same id "                                 \
      "is a conflict")                                                                             \
    F(STR, options_text, PROTO_MAX_TEXT_BYTES, OPT, "the same for people, shown on a conflict")
#define MSG_BATCH_OK(F, L)                                                                         \
    F(U64, seq, 0, REQ, "")                                                                        \
    F(BOOL, existed, 0, REQ, "")                                                                   \
    L(BATCH, batches, 1, REQ, "its state: exactly one")
#define MSG_SUBMIT(F, L)                                                                           \
    F(U64, seq, 0, REQ, "")                                                                        \
    F(STR, batch, PROTO_MAX_ID_BYTES, REQ, "")                                                     \
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
    F(STR, batch, PROTO_MAX_ID_BYTES, OPT, "empty: all")
#define MSG_STATUS_OK(F, L)                                                                        \
    F(U64, seq, 0, REQ, "")                                                                        \
    F(U64, uptime_ms, 0, OPT, "")                                                                  \
    L(BATCH, batches, PROTO_MAX_LIST, REQ, "")                                                     \
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
#define MSG_ERROR(F, L)                                                                            \
    F(U64, seq, 0, OPT, "of the request; 0: none could be read")                                   \
    F(STR, code, 64, REQ, "bad_message, version, not_found, conflict, full, storage or internal")  \
    F(STR, text, PROTO_MAX_TEXT_BYTES, REQ, "one line: what, where, what was expected")            \
    F(U64, line, 0, OPT, "the line at fault")

#define PROTO_MESSAGES(X)                                                                          \
    X(HELLO, hello)                                                                                \
    X(WELCOME, welcome)                                                                            \
    X(PULL, pull)                                                                                  \
    X(GRANT, grant)                                                                                \
    X(RESULTS, results)                                                                            \
    X(ACKS, acks)                                                                                  \
    X(BEAT, beat)                                                                                  \
    X(BEAT_OK, beat_ok)                                                                            \
    X(NACK, nack)                                                                                  \
    X(BYE, bye)                                                                                    \
    X(BYE_OK, bye_ok)                                                                              \
    X(RECONNECT, reconnect)                                                                        \
    X(BATCH_NEW, batch_new)                                                                        \
    X(BATCH_OK, batch_ok)                                                                          \
    X(SUBMIT, submit)                                                                              \
    X(SUBMIT_OK, submit_ok)                                                                        \
    X(SEAL, seal)                                                                                  \
    X(OK, ok)                                                                                      \
    X(STATUS, status)                                                                              \
    X(STATUS_OK, status_ok)                                                                        \
    X(FETCH, fetch)                                                                                \
    X(FETCH_OK, fetch_ok)                                                                          \
    X(CANCEL, cancel)                                                                              \
    X(CANCEL_OK, cancel_ok)                                                                        \
    X(ERROR, error)

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

/* Lists name their record by its upper-case name: struct rec_GRANT_JOB. */
#define X(NAME, name)                                                                              \
    struct rec_##NAME {                                                                            \
        REC_##NAME(PROTO_C_FIELD, PROTO_C_LIST)                                                    \
    };
PROTO_RECORDS(X)
#undef X

#define X(NAME, name)                                                                              \
    struct msg_##name {                                                                            \
        MSG_##NAME(PROTO_C_FIELD, PROTO_C_LIST)                                                    \
    };
PROTO_MESSAGES(X)
#undef X

enum msg_type {
    MSG_NONE,
#define X(NAME, name) MSG_TYPE_##NAME,
    PROTO_MESSAGES(X)
#undef X
};

/* A decoded message. The member named after the type is the valid one; what it points to lives in
 * the decoder's arena and the frame. */
struct msg {
    enum msg_type type;
    union {
#define X(NAME, name) struct msg_##name name;
        PROTO_MESSAGES(X)
#undef X
    };
};

#endif
