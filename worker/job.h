/* One job, from the body of a grant to the body of its result: reads the request, checks it,
 * renders and tokenizes the prompt, and encodes the output with its provenance. Running it is
 * core.h's business.
 *
 * A request that cannot be run by anyone (prompt too long, a number out of range, an unknown role)
 * is refused: a result with status 400 and OpenAI's error fields. No text of prompts or outputs
 * goes into messages for logs. A job belongs to one thread at a time: the loop thread makes it, the
 * engine thread runs it. */
#ifndef OCTO_WORKER_JOB_H
#define OCTO_WORKER_JOB_H

#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"
#include "engine/engine.h"
#include "model/chat.h"
#include "model/text_stream.h"
#include "model/tokenizer.h"
#include "proto/messages.h"

enum { JOB_MAX_STOP_TOKENS = 128 };

/* What this worker is and can do; immutable, outlives every job. */
struct job_context {
    const struct tokenizer *tokenizer;
    const struct chat_template *chat; /* NULL: none, and why */
    const char *chat_problem;
    uint32_t max_ctx; /* tokens of prompt and completion together */
    const char *model_name, *model_hash, *quantization;
    const char *numeric_class, *device, *driver, *build, *worker;
};

/* Log-probability of a token, or of one of the likeliest beside it. */
struct job_logprob {
    uint32_t id;
    float logprob;
};

/* One of the n completions of a job. */
struct job_choice {
    struct tokens completion;  /* so far; from a checkpoint at first */
    struct text_stream *text;  /* what the completion says */
    struct buf logprobs;       /* struct job_logprob: 1 + top_logprobs a token */
    const char *finish_reason; /* "stop", "length"; NULL: not finished */
};

struct job {
    uint64_t serial; /* the worker's own number of the lease */
    bool chat;
    struct tokens prompt;
    uint32_t n; /* choices, 1 .. PROTO_MAX_CHOICES */
    struct job_choice *choices;
    uint32_t max_tokens; /* 1 .. what the context leaves */
    uint32_t min_tokens;
    uint32_t stop_tokens[JOB_MAX_STOP_TOKENS];
    size_t stop_tokens_count;
    float temperature, top_p, min_p;
    uint32_t top_k;
    uint64_t seed;
    float repetition_penalty, frequency_penalty, presence_penalty;
    struct engine_bias *bias;
    size_t bias_count;
    struct tokens bad_ids; /* one sequence after the other */
    uint32_t bad_lengths[ENGINE_MAX_BAD_WORDS];
    size_t bad_count;
    bool logprobs;
    uint32_t top_logprobs;
    bool stopped; /* a checkpoint that holds its stop string already */

    /* The core's. */
    struct job *next;
    uint32_t started, finished; /* choices; those that run: started - finished */
    uint32_t cached_tokens;
    uint64_t started_ms;
    uint64_t checkpoint_ns;
    size_t checkpoint_tokens;
    double energy_j;     /* its share so far */
    bool energy_unknown; /* of a part of it at least */
};

struct job_refusal {
    const char *type, *code, *param; /* "": none */
    bool chat;
    uint64_t seed;
};

/* ERR_USAGE: refused for good, *ret_refusal and why say how. ERR_UNSUPPORTED: not for this worker
 * (it asks for another model). Others: not now. A checkpoint of another numeric class, model or
 * prompt (a template may write the date), or one that does not fit the request, is left aside: the
 * job starts from its beginning. */
enum err job_create(const struct job_context *c, const struct rec_GRANT_JOB *grant, uint64_t serial,
                    struct job **ret, struct job_refusal *ret_refusal,
                    struct err_msg *why) MUST_CHECK;
void job_destroy(struct job **j);

/* Of all choices, so far. */
uint64_t job_completion_tokens(const struct job *j);
/* The energy of this lease of it; 0: unknown. */
static inline double job_energy_j(const struct job *j)
{
    return j->energy_unknown ? 0 : j->energy_j;
}
/* A checkpoint holds the ids of one completion: a job with several choices, or with logprobs, which
 * are lost with the worker, has none and starts over elsewhere. */
static inline bool job_has_checkpoints(const struct job *j)
{
    return j->n == 1 && !j->logprobs;
}

/* Penalties, bias, bad words, logprobs and n of a request: part of job_create(). */
enum err job_take_sampling(const struct job_context *c, const struct rec_REQUEST *q, struct job *j,
                           struct job_refusal *r, struct err_msg *why) MUST_CHECK;

/* Bodies of results: REC_OUTPUT. Every choice is finished. */
enum err job_encode_output(const struct job_context *c, const struct job *j, uint64_t finished_ms,
                           struct buf *out, struct err_msg *why) MUST_CHECK;
enum err job_encode_refusal(const struct job_context *c, const struct job_refusal *r,
                            const char *message, uint64_t now_ms, struct buf *out,
                            struct err_msg *why) MUST_CHECK;
/* Of the prompt's tokens, as checkpoints have it. */
void job_prompt_hash(const struct job *j, char ret_hex[33]);
/* REC_CHECKPOINT of its completion so far. */
enum err job_encode_checkpoint(const struct job_context *c, const struct job *j, struct buf *out,
                               struct err_msg *why) MUST_CHECK;

#endif
