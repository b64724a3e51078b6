/* What a sequence asks of its logits beyond temperature and filters: bias, penalties, bad words.
 * Pure bookkeeping over token ids: which edits and bans the next step sends to the device
 * (shaders/push.h has the arithmetic). A function of the sequence's request and tokens alone. Sized
 * at creation. Private to engine/; not thread-safe. */
#ifndef OCTO_ENGINE_SAMPLING_H
#define OCTO_ENGINE_SAMPLING_H

#include "engine/engine.h"
#include "shaders/push.h"

struct sampling;

/* ERR_RANGE: a number or an id outside its range. */
enum err sampling_check(const struct engine_request *r, uint32_t n_vocab,
                        struct err_msg *why) MUST_CHECK;
/* *ret_s is NULL when the request asks for none of it. tokens_max: the longest the sequence can
 * get. r has passed sampling_check() and its tokens are inside the vocabulary. Takes the
 * completion's tokens in. */
enum err sampling_create(const struct engine_request *r, uint32_t tokens_max, uint32_t n_vocab,
                         struct sampling **ret_s) MUST_CHECK;
void sampling_destroy(struct sampling **s);

/* The most edits a sequence of up to tokens_max tokens can have. */
uint32_t sampling_most_edits(uint32_t tokens_max, uint32_t n_vocab);

/* Whether a draw depends on which tokens were drawn before: penalties, bad words of several tokens.
 * NULL, here and below, is a sequence without. */
bool sampling_looks_back(const struct sampling *s);
/* A completion token was drawn. */
void sampling_take(struct sampling *s, uint32_t token);
/* Edits of the next draw; *ret is valid until the next sampling_take(). */
uint32_t sampling_edits(const struct sampling *s, const struct logit_edit **ret);
/* Ids that would complete a bad word after this completion, at most ENGINE_MAX_BAD_WORDS; returns
 * how many it wrote. */
uint32_t sampling_bans(const struct sampling *s, const uint32_t *completion, uint32_t count,
                       uint32_t *ret_ids);

#endif
