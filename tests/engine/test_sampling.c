/* Edits and bans against naive counts over the whole history, drawn at random, taken token by token
 * and from a checkpoint alike. */
#include <math.h>

#include "base/size.h"
#include "engine/sampling.h"
#include "tests/check.h"

enum { VOCAB = 90, MAX_TOKENS = 64, MAX_WORDS = 12 };

struct history {
    uint32_t prompt[MAX_TOKENS], completion[MAX_TOKENS];
    size_t prompt_count, completion_count;
    struct engine_bias bias[10];
    uint32_t bad_ids[MAX_WORDS * 4], bad_lengths[MAX_WORDS];
};

static struct engine_request random_request(struct check_rng *rng, struct history *h)
{
    h->prompt_count = 1 + check_rng_below(rng, MAX_TOKENS - 1);
    h->completion_count = check_rng_below(rng, MAX_TOKENS);
    for (size_t i = 0; i < MAX_TOKENS; i++) {
        h->prompt[i] = (uint32_t)check_rng_below(rng, VOCAB);
        h->completion[i] = (uint32_t)check_rng_below(rng, 4);
    }
    struct engine_request r = {.prompt = h->prompt,
                               .prompt_count = h->prompt_count,
                               .completion = h->completion,
                               .completion_count = h->completion_count,
                               .bias = h->bias,
                               .bias_count = check_rng_below(rng, ARRAY_LEN(h->bias)),
                               .bad_ids = h->bad_ids,
                               .bad_lengths = h->bad_lengths,
                               .bad_count = check_rng_below(rng, MAX_WORDS)};
    for (size_t i = 0; i < ARRAY_LEN(h->bias); i++)
        h->bias[i] = (struct engine_bias){(uint32_t)check_rng_below(rng, VOCAB), 1 + (float)i};
    for (size_t i = 0; i < MAX_WORDS; i++)
        h->bad_lengths[i] = 1 + (uint32_t)check_rng_below(rng, 4);
    for (size_t i = 0; i < ARRAY_LEN(h->bad_ids); i++)
        h->bad_ids[i] = (uint32_t)check_rng_below(rng, 4);
    r.repetition_penalty = check_rng_below(rng, 2) ? 1.5f : check_rng_below(rng, 2) ? 1 : 0;
    r.frequency_penalty = check_rng_below(rng, 2) ? 1 : 0;
    return r;
}

/* What the device is to be told of `id`; false: nothing. */
static bool want_edit(const struct engine_request *r, uint32_t id, struct logit_edit *ret)
{
    bool repetition = r->repetition_penalty > 1, penalties = repetition || r->frequency_penalty > 0;
    *ret = (struct logit_edit){.id = id};
    for (size_t i = 0; i < r->prompt_count && repetition; i++)
        ret->seen |= r->prompt[i] == id ? EDIT_IN_PROMPT : 0;
    for (size_t i = 0; i < r->completion_count && penalties; i++)
        ret->seen += r->completion[i] == id;
    for (size_t i = 0; i < r->bias_count; i++)
        ret->bias = r->bias[i].id == id ? r->bias[i].bias : ret->bias;
    return ret->seen != 0 || ret->bias > 0;
}

static void check_edits(const struct engine_request *r, const struct sampling *s)
{
    const struct logit_edit *got = NULL;
    uint32_t count = sampling_edits(s, &got), wanted = 0;
    CHECK(count <= sampling_most_edits(2 * MAX_TOKENS, VOCAB));
    for (uint32_t id = 0; id < VOCAB; id++) {
        struct logit_edit want;
        uint32_t found = 0;
        bool some = want_edit(r, id, &want);
        wanted += some;
        for (uint32_t i = 0; i < count; i++) {
            if (got[i].id == id)
                found += got[i].seen == want.seen && got[i].bias == want.bias ? 1 : 100;
        }
        CHECK_INT(found, some);
    }
    CHECK_INT(count, wanted);
}

/* As a set: an id that several words would ban may come more than once. */
static void check_bans(const struct engine_request *r, const struct sampling *s)
{
    bool got[VOCAB] = {false}, want[VOCAB] = {false};
    uint32_t ids[ENGINE_MAX_BAD_WORDS];
    uint32_t count = sampling_bans(s, r->completion, (uint32_t)r->completion_count, ids);
    CHECK(count <= r->bad_count);
    for (uint32_t i = 0; i < count; i++)
        got[ids[i]] = true;
    const uint32_t *word = r->bad_ids;
    for (size_t i = 0; i < r->bad_count; word += r->bad_lengths[i++]) {
        size_t before = r->bad_lengths[i] - 1;
        bool same = before <= r->completion_count;
        for (size_t k = 0; k < before && same; k++)
            same = r->completion[r->completion_count - before + k] == word[k];
        want[word[before]] = want[word[before]] || same;
    }
    CHECK(memcmp(got, want, sizeof got) == 0);
}

int main(void)
{
    struct check_rng rng = check_rng_start(5);
    for (int round = 0; round < 400; round++) {
        struct history h;
        struct sampling *whole = NULL, *step = NULL;
        struct err_msg why;
        struct engine_request r = random_request(&rng, &h), begun = r;
        begun.completion_count = 0;
        CHECK_OK(sampling_check(&r, VOCAB, &why), why);
        CHECK_ERR(sampling_create(&r, 2 * MAX_TOKENS, VOCAB, &whole), ERR_OK);
        CHECK_ERR(sampling_create(&begun, 2 * MAX_TOKENS, VOCAB, &step), ERR_OK);
        for (size_t i = 0; i < r.completion_count; i++)
            sampling_take(step, r.completion[i]);
        check_edits(&r, whole);
        check_edits(&r, step);
        check_bans(&r, whole);
        check_bans(&r, step);
        sampling_destroy(&whole);
        sampling_destroy(&step);
    }
    return check_report();
}
