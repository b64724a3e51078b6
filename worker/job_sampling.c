/* A request's sampling fields to a job's, each checked; see job.h. */
#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "base/size.h"
#include "worker/job_impl.h"

/* About what an entry of logprobs takes in a result. */
enum { LOGPROB_BYTES = 48 };

static enum err take_filters(const struct job_context *c, const struct rec_REQUEST *q,
                             struct job *j, struct job_refusal *r, struct err_msg *why)
{
    if (q->max_tokens == 0)
        return REFUSE(r, "invalid_value", "max_tokens", "max_tokens is 0, expected 1 or more");
    if (q->min_tokens > q->max_tokens)
        return REFUSE(r, "invalid_value", "min_tokens",
                      "min_tokens is %llu, more than max_tokens, %llu",
                      (unsigned long long)q->min_tokens, (unsigned long long)q->max_tokens);
    if (!(q->temperature >= 0 && q->temperature <= 100))
        return REFUSE(r, "invalid_value", "temperature", "temperature is %g, expected 0 to 100",
                      q->temperature);
    if (!(q->top_p > 0 && q->top_p <= 1))
        return REFUSE(r, "invalid_value", "top_p", "top_p is %g, expected more than 0, at most 1",
                      q->top_p);
    if (!(q->min_p >= 0 && q->min_p <= 1))
        return REFUSE(r, "invalid_value", "min_p", "min_p is %g, expected 0 to 1", q->min_p);
    j->max_tokens = (uint32_t)min_u64(q->max_tokens, c->max_ctx - j->prompt.count);
    j->min_tokens = (uint32_t)min_u64(q->min_tokens, j->max_tokens);
    j->temperature = (float)q->temperature;
    j->top_p = (float)q->top_p;
    j->min_p = (float)q->min_p;
    j->top_k = (uint32_t)min_u64(q->top_k, tokenizer_vocab_size(c->tokenizer));
    j->seed = q->seed;
    return ERR_OK;
}

static enum err take_penalties(const struct job_context *c, const struct rec_REQUEST *q,
                               struct job *j, struct job_refusal *r, struct err_msg *why)
{
    double repetition = q->repetition_penalty != 0 ? q->repetition_penalty : 1;
    if (!(repetition >= 0.01 && repetition <= 100))
        return REFUSE(r, "invalid_value", "repetition_penalty",
                      "repetition_penalty is %g, expected 0.01 to 100", repetition);
    if (!(q->frequency_penalty >= -2 && q->frequency_penalty <= 2))
        return REFUSE(r, "invalid_value", "frequency_penalty",
                      "frequency_penalty is %g, expected -2 to 2", q->frequency_penalty);
    if (!(q->presence_penalty >= -2 && q->presence_penalty <= 2))
        return REFUSE(r, "invalid_value", "presence_penalty",
                      "presence_penalty is %g, expected -2 to 2", q->presence_penalty);
    j->repetition_penalty = (float)repetition;
    j->frequency_penalty = (float)q->frequency_penalty;
    j->presence_penalty = (float)q->presence_penalty;
    if (q->logit_bias.count == 0)
        return ERR_OK;
    j->bias = calloc(q->logit_bias.count, sizeof *j->bias);
    if (j->bias == NULL)
        return err_set(why, ERR_NOMEM, "logit_bias: out of memory");
    for (size_t i = 0; i < q->logit_bias.count; i++) {
        const struct rec_BIAS *b = &q->logit_bias.items[i];
        if (b->id >= tokenizer_vocab_size(c->tokenizer))
            return REFUSE(r, "invalid_value", "logit_bias",
                          "logit_bias of token %llu: this model's vocabulary has %u tokens",
                          (unsigned long long)b->id, tokenizer_vocab_size(c->tokenizer));
        if (!(b->bias >= -100 && b->bias <= 100))
            return REFUSE(r, "invalid_value", "logit_bias",
                          "logit_bias of token %llu is %g, expected -100 to 100",
                          (unsigned long long)b->id, b->bias);
        j->bias[j->bias_count++] = (struct engine_bias){(uint32_t)b->id, (float)b->bias};
    }
    return ERR_OK;
}

/* One spelling of a bad word: without a space it stands at the beginning of a text, with one behind
 * others. (vLLM leaves the second out where it has another number of tokens, so that a word which
 * is one token behind a space is not banned there; nobody who writes the word can mean that.) */
static enum err add_bad_word(const struct job_context *c, struct str word, bool space,
                             struct job *j, struct err_msg *why)
{
    struct tokenizer_encode_options plain = {0};
    struct buf text = {0};
    size_t before = j->bad_ids.count;
    if ((space && buf_append_char(&text, ' ') != ERR_OK) ||
        buf_append(&text, word.data, word.len) != ERR_OK) {
        buf_free(&text);
        return err_set(why, ERR_NOMEM, "bad_words: out of memory");
    }
    enum err e =
        tokenizer_encode(c->tokenizer, (struct str){text.data, text.len}, plain, &j->bad_ids, why);
    buf_free(&text);
    size_t count = j->bad_ids.count - before;
    if (e != ERR_OK || count == 0)
        return e;
    j->bad_lengths[j->bad_count++] = (uint32_t)count;
    return ERR_OK;
}

static enum err take_bad_words(const struct job_context *c, const struct rec_REQUEST *q,
                               struct job *j, struct job_refusal *r, struct err_msg *why)
{
    if (q->bad_words.count > ENGINE_MAX_BAD_WORDS / 2)
        return REFUSE(r, "invalid_value", "bad_words", "%zu bad words, at most %d are possible",
                      q->bad_words.count, ENGINE_MAX_BAD_WORDS / 2);
    for (size_t i = 0; i < q->bad_words.count; i++) {
        struct str word = q->bad_words.items[i].text;
        while (word.len > 0 && (word.data[0] == ' ' || (word.data[0] >= 9 && word.data[0] <= 13)))
            word = (struct str){word.data + 1, word.len - 1};
        size_t before = j->bad_count;
        enum err e = add_bad_word(c, word, false, j, why);
        if (e == ERR_OK && j->bad_count == before)
            return REFUSE(r, "invalid_value", "bad_words", "bad word %zu has no text", i + 1);
        if (e == ERR_OK)
            e = add_bad_word(c, word, true, j, why);
        if (e != ERR_OK)
            return e == ERR_NOMEM ? e : job_refuse(r, "invalid_value", "bad_words");
    }
    return ERR_OK;
}

static enum err take_choices(const struct rec_REQUEST *q, struct job *j, struct job_refusal *r,
                             struct err_msg *why)
{
    if (q->n > PROTO_MAX_CHOICES || q->top_logprobs > ENGINE_MAX_TOP_LOGPROBS)
        return REFUSE(r, "invalid_value", q->n > PROTO_MAX_CHOICES ? "n" : "top_logprobs",
                      "n is %llu and top_logprobs %llu, at most %d and %d are possible",
                      (unsigned long long)q->n, (unsigned long long)q->top_logprobs,
                      PROTO_MAX_CHOICES, ENGINE_MAX_TOP_LOGPROBS);
    j->n = (uint32_t)max_u64(q->n, 1);
    j->logprobs = q->logprobs;
    j->top_logprobs = q->logprobs ? (uint32_t)q->top_logprobs : 0;
    uint64_t bytes =
        (uint64_t)j->n * j->max_tokens * (1 + j->top_logprobs) * (j->logprobs ? LOGPROB_BYTES : 0);
    if (bytes > PROTO_MAX_BODY_BYTES)
        return REFUSE(r, "result_too_large", "logprobs",
                      "the logprobs of %u choices of up to %u tokens, %u beside each, are about "
                      "%llu bytes, at most %d can be sent: ask for less of one of them",
                      j->n, j->max_tokens, j->top_logprobs, (unsigned long long)bytes,
                      PROTO_MAX_BODY_BYTES);
    return ERR_OK;
}

enum err job_take_sampling(const struct job_context *c, const struct rec_REQUEST *q, struct job *j,
                           struct job_refusal *r, struct err_msg *why)
{
    enum err e = take_filters(c, q, j, r, why);
    if (e == ERR_OK)
        e = take_penalties(c, q, j, r, why);
    if (e == ERR_OK)
        e = take_bad_words(c, q, j, r, why);
    if (e == ERR_OK)
        e = take_choices(q, j, r, why);
    return e;
}
