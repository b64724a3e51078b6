/* See sampling.h. Edits lie in order of first appearance, found by id through open addressing. */
#include "engine/sampling.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/size.h"

static const uint32_t EMPTY = UINT32_MAX;

struct sampling {
    struct logit_edit *edits; /* [edits_max], ids unique */
    uint32_t edits_count, edits_max;
    uint32_t *slots; /* [slots_mask + 1]: number of an edit, or EMPTY */
    uint32_t slots_mask;
    bool counts; /* completion tokens make edits */
    uint32_t *bad_ids;
    uint32_t *bad_lengths;
    uint32_t bad_count;
    bool bad_sequences; /* one of them has several tokens */
};

static float repetition_of(const struct engine_request *r)
{
    return r->repetition_penalty != 0 ? r->repetition_penalty : 1;
}

static bool penalizes(const struct engine_request *r)
{
    return repetition_of(r) != 1 || r->presence_penalty != 0 || r->frequency_penalty != 0;
}

enum err sampling_check(const struct engine_request *r, uint32_t n_vocab, struct err_msg *why)
{
    if (!isfinite(r->repetition_penalty) || r->repetition_penalty < 0 ||
        !isfinite(r->presence_penalty) || !isfinite(r->frequency_penalty))
        return err_set(why, ERR_RANGE, "penalties must be finite, repetition_penalty above 0");
    if (r->bias_count > ENGINE_MAX_BIAS || r->bad_count > ENGINE_MAX_BAD_WORDS ||
        r->top_logprobs > ENGINE_MAX_TOP_LOGPROBS)
        return err_set(why, ERR_RANGE,
                       "%zu logit biases, %zu bad words, %u top logprobs: at most %d, %d and %d",
                       r->bias_count, r->bad_count, r->top_logprobs, ENGINE_MAX_BIAS,
                       ENGINE_MAX_BAD_WORDS, ENGINE_MAX_TOP_LOGPROBS);
    for (size_t i = 0; i < r->bias_count; i++) {
        if (r->bias[i].id >= n_vocab || !isfinite(r->bias[i].bias))
            return err_set(why, ERR_RANGE, "logit bias of token id %u: the vocabulary has %u",
                           r->bias[i].id, n_vocab);
    }
    size_t at = 0;
    for (size_t i = 0; i < r->bad_count; i++) {
        if (r->bad_lengths[i] == 0)
            return err_set(why, ERR_RANGE, "bad word %zu has no tokens", i);
        for (uint32_t k = 0; k < r->bad_lengths[i]; k++, at++) {
            if (r->bad_ids[at] >= n_vocab)
                return err_set(why, ERR_RANGE, "bad word %zu: token id %u: the vocabulary has %u",
                               i, r->bad_ids[at], n_vocab);
        }
    }
    return ERR_OK;
}

uint32_t sampling_most_edits(uint32_t tokens_max, uint32_t n_vocab)
{
    return (uint32_t)min_u64((uint64_t)tokens_max + ENGINE_MAX_BIAS, n_vocab);
}

static enum err copy_bad_words(const struct engine_request *r, struct sampling *s)
{
    size_t ids = 0;
    for (size_t i = 0; i < r->bad_count; i++)
        ids += r->bad_lengths[i];
    if (ids == 0)
        return ERR_OK;
    s->bad_ids = malloc(ids * sizeof *s->bad_ids);
    s->bad_lengths = malloc(r->bad_count * sizeof *s->bad_lengths);
    if (s->bad_ids == NULL || s->bad_lengths == NULL)
        return ERR_NOMEM;
    memcpy(s->bad_ids, r->bad_ids, ids * sizeof *s->bad_ids);
    memcpy(s->bad_lengths, r->bad_lengths, r->bad_count * sizeof *s->bad_lengths);
    s->bad_count = (uint32_t)r->bad_count;
    s->bad_sequences = ids > r->bad_count;
    return ERR_OK;
}

/* The edit of this id, a new one if there is none. */
static struct logit_edit *edit_of(struct sampling *s, uint32_t id)
{
    uint32_t slot = id * UINT32_C(2654435761) & s->slots_mask;
    while (s->slots[slot] != EMPTY) {
        if (s->edits[s->slots[slot]].id == id)
            return &s->edits[s->slots[slot]];
        slot = (slot + 1) & s->slots_mask;
    }
    assert(s->edits_count < s->edits_max);
    s->slots[slot] = s->edits_count;
    s->edits[s->edits_count] = (struct logit_edit){.id = id};
    return &s->edits[s->edits_count++];
}

static enum err make_edits(const struct engine_request *r, uint32_t tokens_max, uint32_t n_vocab,
                           struct sampling *s)
{
    s->counts = penalizes(r);
    if (!s->counts && r->bias_count == 0)
        return ERR_OK;
    s->edits_max = (uint32_t)min_u64((s->counts ? tokens_max : 0) + r->bias_count, n_vocab);
    uint32_t slots = 16;
    while (slots < 2 * (uint64_t)s->edits_max)
        slots *= 2;
    s->slots_mask = slots - 1;
    s->edits = malloc(s->edits_max * sizeof *s->edits);
    s->slots = malloc(slots * sizeof *s->slots);
    if (s->edits == NULL || s->slots == NULL)
        return ERR_NOMEM;
    memset(s->slots, 0xff, slots * sizeof *s->slots);
    for (size_t i = 0; i < r->bias_count; i++)
        edit_of(s, r->bias[i].id)->bias = r->bias[i].bias;
    for (size_t i = 0; i < r->prompt_count && repetition_of(r) != 1; i++)
        edit_of(s, r->prompt[i])->seen |= EDIT_IN_PROMPT;
    for (size_t i = 0; i < r->completion_count; i++)
        sampling_take(s, r->completion[i]);
    return ERR_OK;
}

enum err sampling_create(const struct engine_request *r, uint32_t tokens_max, uint32_t n_vocab,
                         struct sampling **ret_s)
{
    if (!penalizes(r) && r->bias_count == 0 && r->bad_count == 0) {
        *ret_s = NULL;
        return ERR_OK;
    }
    struct sampling *s = calloc(1, sizeof *s);
    if (s == NULL)
        return ERR_NOMEM;
    enum err e = copy_bad_words(r, s);
    if (e == ERR_OK)
        e = make_edits(r, tokens_max, n_vocab, s);
    if (e == ERR_OK)
        *ret_s = s;
    else
        sampling_destroy(&s);
    return e;
}

void sampling_destroy(struct sampling **s)
{
    if (*s == NULL)
        return;
    free((*s)->edits);
    free((*s)->slots);
    free((*s)->bad_ids);
    free((*s)->bad_lengths);
    free(*s);
    *s = NULL;
}

bool sampling_looks_back(const struct sampling *s)
{
    return s != NULL && (s->counts || s->bad_sequences);
}

void sampling_take(struct sampling *s, uint32_t token)
{
    if (s != NULL && s->counts)
        edit_of(s, token)->seen++;
}

uint32_t sampling_edits(const struct sampling *s, const struct logit_edit **ret)
{
    if (s == NULL)
        return 0;
    *ret = s->edits;
    return s->edits_count;
}

uint32_t sampling_bans(const struct sampling *s, const uint32_t *completion, uint32_t count,
                       uint32_t *ret_ids)
{
    uint32_t bans = 0;
    const uint32_t *word = s != NULL ? s->bad_ids : NULL;
    for (uint32_t i = 0; s != NULL && i < s->bad_count; word += s->bad_lengths[i++]) {
        uint32_t before = s->bad_lengths[i] - 1;
        if (before <= count &&
            (before == 0 || memcmp(completion + count - before, word, before * sizeof *word) == 0))
            ret_ids[bans++] = word[before];
    }
    return bans;
}
