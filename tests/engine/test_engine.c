/* The engine's contract on octo-tiny: bad requests, ends of sequences, banned stop tokens, more
 * sequences than pages, prefix sharing. That all of it leaves the bytes alone is checked by
 * `octoflow-bench invariance`, which runs as a test too. */
#include <math.h>

#include "base/size.h"
#include "engine/engine_impl.h"
#include "tests/check.h"

static const struct model *model;
static uint32_t device_index;

/* "<|im_start|>user\n" and so on: any ids do. */
static const uint32_t prompt[] = {1,    282, 201, 43, 595, 630, 259, 353, 362, 259,
                                  1395, 835, 968, 16, 2,   201, 1,   325, 201};

static struct engine *open_engine(struct engine_options o)
{
    struct engine *e = NULL;
    struct err_msg why;
    o.device_index = device_index;
    o.validate = getenv("OCTO_VALIDATE") != NULL;
    CHECK_OK(engine_create(model, &o, &e, &why), why);
    return e;
}

static struct engine_request request(uint64_t id, uint32_t max_tokens)
{
    return (struct engine_request){.id = id,
                                   .prompt = prompt,
                                   .prompt_count = ARRAY_LEN(prompt),
                                   .max_tokens = max_tokens,
                                   .top_p = 1};
}

struct outcome {
    uint32_t tokens[64];
    size_t count;
    enum engine_finish finish;
    uint32_t cached;
};

/* Runs all; outcomes by id. */
static enum err run(struct engine *e, struct outcome *out, size_t out_count, uint64_t *ret_prefill,
                    struct err_msg *why)
{
    while (engine_live(e) > 0) {
        const struct engine_event *events;
        size_t count;
        struct engine_step_stats stats;
        enum err r = engine_step(e, &events, &count, &stats, why);
        if (r != ERR_OK)
            return r;
        if (ret_prefill != NULL)
            *ret_prefill += stats.prefill_tokens;
        for (size_t i = 0; i < count; i++) {
            struct outcome *o = &out[events[i].id];
            if (events[i].id >= out_count || o->count == ARRAY_LEN(o->tokens) ||
                o->finish != ENGINE_RUNNING)
                return err_set(why, ERR_INTERNAL, "unexpected event of sequence %llu",
                               (unsigned long long)events[i].id);
            o->tokens[o->count++] = events[i].token;
            o->finish = events[i].finish;
            o->cached = events[i].cached_count;
        }
    }
    return ERR_OK;
}

static void bad_requests(void)
{
    struct engine *e = open_engine((struct engine_options){.max_seqs = 2, .max_ctx = 64});
    struct err_msg why;
    uint32_t ids[100] = {0}, outside[] = {1, 4096};
    struct engine_request r = request(1, 4);
    r.prompt_count = 0;
    CHECK_ERR(engine_add(e, &r, &why), ERR_RANGE);
    r.prompt = ids;
    r.prompt_count = 64;
    CHECK_ERR(engine_add(e, &r, &why), ERR_RANGE);
    CHECK_HAS(why.text, "64");
    r.prompt = outside;
    r.prompt_count = 2;
    CHECK_ERR(engine_add(e, &r, &why), ERR_RANGE);
    CHECK_HAS(why.text, "4096");
    r = request(1, 4);
    r.completion = prompt;
    r.completion_count = 4;
    CHECK_ERR(engine_add(e, &r, &why), ERR_RANGE);
    r = request(1, 4);
    CHECK_OK(engine_add(e, &r, &why), why);
    CHECK_ERR(engine_add(e, &r, &why), ERR_CONFLICT);
    r.id = 2;
    CHECK_OK(engine_add(e, &r, &why), why);
    r.id = 3;
    CHECK_ERR(engine_add(e, &r, &why), ERR_FULL);
    engine_remove(e, 1);
    engine_remove(e, 77);
    CHECK_OK(engine_add(e, &r, &why), why);
    engine_destroy(&e);
    struct engine_options small = {.max_ctx = 64, .kv_tokens = 32, .device_index = device_index};
    CHECK_ERR(engine_create(model, &small, &e, &why), ERR_RANGE);
    CHECK_HAS(why.text, "longest sequence");
}

static void ends(void)
{
    struct engine *e = open_engine((struct engine_options){.max_seqs = 8, .max_ctx = 40});
    struct outcome o[8] = {0};
    struct err_msg why;
    struct engine_request r = request(0, 5);
    CHECK_OK(engine_add(e, &r, &why), why);
    r = request(1, 1000); /* ends with the context: 40 - 19 */
    CHECK_OK(engine_add(e, &r, &why), why);
    CHECK_OK(run(e, o, 2, NULL, &why), why);
    CHECK_INT(o[0].count, 5);
    CHECK_INT(o[0].finish, ENGINE_LENGTH);
    CHECK_INT(o[1].count, 21);
    CHECK_INT(o[1].finish, ENGINE_LENGTH);
    CHECK(memcmp(o[0].tokens, o[1].tokens, 5 * sizeof(uint32_t)) == 0);
    /* The third token as a stop token ends it there; banned until four were drawn, it does not come
     * before. */
    uint32_t stop = o[1].tokens[2];
    r = request(2, 10);
    r.stop_tokens = &stop;
    r.stop_tokens_count = 1;
    CHECK_OK(engine_add(e, &r, &why), why);
    r.id = 3;
    r.min_tokens = 4;
    CHECK_OK(engine_add(e, &r, &why), why);
    CHECK_OK(run(e, o, 4, NULL, &why), why);
    CHECK_INT(o[2].finish, ENGINE_STOP);
    CHECK(o[2].count <= 3 && o[2].tokens[o[2].count - 1] == stop);
    CHECK(o[3].count >= 4);
    for (size_t i = 0; i < 4; i++)
        CHECK(o[3].tokens[i] != stop);
    /* Going on from a checkpoint gives the rest of the same tokens. */
    r = request(4, 21);
    r.completion = o[1].tokens;
    r.completion_count = 9;
    CHECK_OK(engine_add(e, &r, &why), why);
    CHECK_OK(run(e, o, 5, NULL, &why), why);
    CHECK_INT(o[4].count, 12);
    CHECK(memcmp(o[4].tokens, o[1].tokens + 9, 12 * sizeof(uint32_t)) == 0);
    const struct engine_event *events;
    size_t count;
    CHECK_ERR(engine_step(e, &events, &count, NULL, &why), ERR_AGAIN);
    CHECK_INT(engine_validation_errors(e), 0);
    engine_destroy(&e);
}

/* Eight sequences of up to 64 tokens over pages for two and a half: all finish, with the tokens
 * each has alone. */
static void few_pages(void)
{
    struct engine *e = open_engine((struct engine_options){.max_seqs = 8,
                                                           .max_ctx = 64,
                                                           .kv_tokens = 160,
                                                           .chunk_tokens = 16,
                                                           .no_prefix_cache = true});
    struct outcome together[8] = {0}, alone[8] = {0};
    struct err_msg why;
    for (uint64_t i = 0; i < 8; i++) {
        struct engine_request r = request(i, 40);
        r.prompt_count -= (size_t)i % 3;
        r.temperature = i % 2 == 0 ? 0 : 1;
        r.seed = i;
        CHECK_OK(engine_add(e, &r, &why), why);
    }
    CHECK_OK(run(e, together, 8, NULL, &why), why);
    CHECK(engine_preemptions(e) > 0);
    CHECK_INT(engine_kv_tokens_free(e), 160);
    for (uint64_t i = 0; i < 8; i++) {
        struct engine_request r = request(i, 40);
        r.prompt_count -= (size_t)i % 3;
        r.temperature = i % 2 == 0 ? 0 : 1;
        r.seed = i;
        CHECK_OK(engine_add(e, &r, &why), why);
        CHECK_OK(run(e, alone, 8, NULL, &why), why);
        CHECK_INT(together[i].count, alone[i].count);
        CHECK(memcmp(together[i].tokens, alone[i].tokens, sizeof alone[i].tokens) == 0);
    }
    engine_destroy(&e);
}

/* Six requests behind the same 96 tokens compute them once. */
static void shared_prefix(void)
{
    struct engine *e =
        open_engine((struct engine_options){.max_seqs = 6, .max_ctx = 256, .chunk_tokens = 48});
    struct outcome o[6] = {0};
    struct err_msg why;
    uint32_t ids[100];
    uint64_t prefill = 0;
    for (uint32_t i = 0; i < 100; i++)
        ids[i] = 300 + i;
    for (uint32_t i = 0; i < 6; i++) {
        struct engine_request r = request(i, 3);
        ids[98] = 500 + i; /* beyond the third page */
        r.prompt = ids;
        r.prompt_count = 100;
        CHECK_OK(engine_add(e, &r, &why), why);
    }
    CHECK_OK(run(e, o, 6, &prefill, &why), why);
    CHECK_INT(prefill, 96 + 6 * 4);
    for (uint32_t i = 0; i < 6; i++)
        CHECK_INT(o[i].cached, i == 0 ? 0 : 96);
    /* All have ended; the pages are still there for the next batch. */
    CHECK_INT(engine_live(e), 0);
    struct engine_request late = request(0, 3);
    ids[98] = 600;
    late.prompt = ids;
    late.prompt_count = 100;
    CHECK_OK(engine_add(e, &late, &why), why);
    o[0] = (struct outcome){0};
    CHECK_OK(run(e, o, 1, &prefill, &why), why);
    CHECK_INT(o[0].cached, 96);
    engine_destroy(&e);
}

/* ---- bias, penalties, bad words, log-probabilities ---- */

/* The most often drawn token's count. */
static unsigned most_repeated(const struct outcome *o)
{
    unsigned most = 0;
    for (size_t i = 0; i < o->count; i++) {
        unsigned count = 0;
        for (size_t k = 0; k < o->count; k++)
            count += o->tokens[k] == o->tokens[i];
        most = count > most ? count : most;
    }
    return most;
}

static bool holds(const struct outcome *o, const uint32_t *ids, size_t count)
{
    for (size_t i = 0; i + count <= o->count; i++) {
        if (memcmp(o->tokens + i, ids, count * sizeof *ids) == 0)
            return true;
    }
    return false;
}

/* Requests whose logits are changed, each in its own way, 48 tokens long. */
static struct engine_request changed_request(uint64_t i, const struct engine_bias *bias,
                                             const uint32_t *bad, const uint32_t *lengths)
{
    struct engine_request r = request(i, 48);
    r.temperature = i % 2 == 0 ? 0 : 0.9f;
    r.seed = 7;
    switch (i / 2) {
    case 0:
        break;
    case 1:
        r.bias = bias;
        r.bias_count = 1;
        break;
    case 2:
        r.repetition_penalty = 50;
        break;
    case 3:
        r.frequency_penalty = 1.5f;
        r.presence_penalty = 1000;
        break;
    case 4:
        r.bad_ids = bad;
        r.bad_lengths = lengths;
        r.bad_count = 2;
        break;
    default:
        r.frequency_penalty = -2;
        r.bias = bias;
        r.bias_count = 1;
    }
    return r;
}

/* Each does what it says, and the tokens are the same alone, together with few edits a step,
 * preempted and gone on with in the middle. */
static void changed_logits(void)
{
    enum { KINDS = 12 };
    struct engine_options roomy = {.max_seqs = KINDS, .max_ctx = 128, .chunk_tokens = 32};
    struct outcome alone[KINDS] = {0}, together[KINDS] = {0}, resumed[KINDS] = {0};
    struct err_msg why;
    struct engine *e = open_engine(roomy);
    struct engine_bias bias = {.id = 777, .bias = 90};
    struct engine_request r = changed_request(0, NULL, NULL, NULL);
    CHECK_OK(engine_add(e, &r, &why), why);
    CHECK_OK(run(e, alone, 1, NULL, &why), why);
    uint32_t bad[3] = {alone[0].tokens[0], alone[0].tokens[4], alone[0].tokens[5]};
    uint32_t lengths[2] = {1, 2};
    for (uint64_t i = 1; i < KINDS; i++) {
        r = changed_request(i, &bias, bad, lengths);
        CHECK_OK(engine_add(e, &r, &why), why);
        CHECK_OK(run(e, alone, KINDS, NULL, &why), why);
    }
    for (size_t i = 0; i < 48; i++)
        CHECK(alone[2].tokens[i] == 777 && alone[3].tokens[i] == 777);
    CHECK(most_repeated(&alone[4]) < most_repeated(&alone[0]));
    CHECK(most_repeated(&alone[6]) == 1 && most_repeated(&alone[7]) == 1);
    CHECK(holds(&alone[0], bad, 1) && holds(&alone[0], bad + 1, 2));
    for (size_t i = 8; i < 10; i++)
        CHECK(!holds(&alone[i], bad, 1) && !holds(&alone[i], bad + 1, 2));
    for (uint64_t i = 0; i < KINDS; i++) {
        r = changed_request(i, &bias, bad, lengths);
        CHECK_OK(engine_add(e, &r, &why), why);
    }
    engine_preempt(e, 4);
    CHECK_OK(run(e, together, KINDS, NULL, &why), why);
    for (uint64_t i = 0; i < KINDS; i++) {
        CHECK(memcmp(&together[i].tokens, &alone[i].tokens, sizeof alone[i].tokens) == 0);
        r = changed_request(i, &bias, bad, lengths);
        r.completion = alone[i].tokens;
        r.completion_count = 20;
        CHECK_OK(engine_add(e, &r, &why), why);
    }
    CHECK_OK(run(e, resumed, KINDS, NULL, &why), why);
    for (uint64_t i = 0; i < KINDS; i++)
        CHECK(memcmp(resumed[i].tokens, alone[i].tokens + 20, 28 * sizeof(uint32_t)) == 0);
    CHECK_INT(engine_validation_errors(e), 0);
    engine_destroy(&e);
}

/* More edits than a step has room for: sequences wait, none is stuck, the tokens are the same. A
 * step holds those of one longest sequence and 1024 for each other one; these have 2024. */
static void many_edits(void)
{
    static uint32_t ids[1000];
    static struct engine_bias bias[ENGINE_MAX_BIAS];
    struct engine *e =
        open_engine((struct engine_options){.max_seqs = 4, .max_ctx = 1024, .chunk_tokens = 256});
    struct outcome alone[4] = {0}, together[4] = {0};
    struct err_msg why;
    for (uint32_t i = 0; i < 1000; i++)
        ids[i] = 300 + i;
    for (uint32_t i = 0; i < ENGINE_MAX_BIAS; i++)
        bias[i] = (struct engine_bias){1500 + i, (float)(i % 7)};
    for (int pass = 0; pass < 2; pass++) {
        for (uint32_t i = 0; i < 4; i++) {
            struct engine_request r = request(i, 4);
            r.prompt = ids;
            r.prompt_count = 1000 - i * 8;
            r.repetition_penalty = 1.5f;
            r.bias = bias;
            r.bias_count = ENGINE_MAX_BIAS;
            CHECK_OK(engine_add(e, &r, &why), why);
            if (pass == 0)
                CHECK_OK(run(e, alone, 4, NULL, &why), why);
        }
        if (pass == 1)
            CHECK_OK(run(e, together, 4, NULL, &why), why);
    }
    for (size_t i = 0; i < 4; i++)
        CHECK(together[i].count == 4 &&
              memcmp(together[i].tokens, alone[i].tokens, 4 * sizeof(uint32_t)) == 0);
    engine_destroy(&e);
}

/* Log-probabilities are the model's own, whatever is done to the logits afterwards. */
static void logprobs(void)
{
    struct engine *e = open_engine((struct engine_options){.max_seqs = 3, .max_ctx = 64});
    struct err_msg why;
    struct engine_bias bias = {.id = 777, .bias = 90};
    struct engine_logprobs first[3] = {0};
    for (uint64_t i = 0; i < 3; i++) {
        struct engine_request r = request(i, 1 + (uint32_t)i);
        r.logprobs = i > 0;
        r.top_logprobs = i == 2 ? 5 : 20;
        r.bias = &bias;
        r.bias_count = i == 2;
        CHECK_OK(engine_add(e, &r, &why), why);
    }
    while (engine_live(e) > 0) {
        const struct engine_event *events;
        size_t count;
        CHECK_OK(engine_step(e, &events, &count, NULL, &why), why);
        for (size_t k = 0; k < count; k++) {
            const struct engine_event *ev = &events[k];
            const struct engine_logprobs *p = ev->logprobs;
            CHECK((p != NULL) == (ev->id > 0));
            if (p == NULL)
                continue;
            CHECK_INT(ev->top_count, ev->id == 2 ? 5 : 20);
            if (first[ev->id].token == 0)
                first[ev->id] = *p;
            if (ev->id == 1)
                CHECK(p->top_ids[0] == ev->token && p->top[0] == p->token);
            else
                CHECK(ev->token == 777 && p->token < p->top[0]);
            for (uint32_t i = 1; i < ev->top_count; i++)
                CHECK(p->top[i] <= p->top[i - 1] && p->top[i] < 0);
        }
    }
    CHECK(memcmp(first[1].top_ids, first[2].top_ids, 5 * sizeof(uint32_t)) == 0 &&
          memcmp(first[1].top, first[2].top, 5 * sizeof(float)) == 0);
    engine_destroy(&e);
}

static void bad_sampling(void)
{
    struct engine *e = open_engine((struct engine_options){.max_seqs = 2, .max_ctx = 64});
    struct err_msg why;
    struct engine_bias bias = {.id = 4096, .bias = 1}, infinite = {.id = 1, .bias = INFINITY};
    uint32_t outside = 4096, one = 1, zero = 0;
#define REFUSED(change, part)                                                                      \
    do {                                                                                           \
        struct engine_request r = request(1, 4);                                                   \
        change;                                                                                    \
        CHECK_ERR(engine_add(e, &r, &why), ERR_RANGE);                                             \
        CHECK_HAS(why.text, part);                                                                 \
    } while (0)
    REFUSED(r.repetition_penalty = -1, "repetition_penalty");
    REFUSED(r.presence_penalty = NAN, "penalties");
    REFUSED((r.bias = &bias, r.bias_count = 1), "4096");
    REFUSED((r.bias = &infinite, r.bias_count = 1), "bias");
    REFUSED((r.bias = &infinite, r.bias_count = ENGINE_MAX_BIAS + 1), "1025");
    REFUSED((r.bad_ids = &outside, r.bad_lengths = &one, r.bad_count = 1), "4096");
    REFUSED((r.bad_ids = &one, r.bad_lengths = &zero, r.bad_count = 1), "no tokens");
    REFUSED((r.logprobs = true, r.top_logprobs = 21), "21");
#undef REFUSED
    engine_destroy(&e);
}

/* ---- one step ahead ---- */

static void ignore_logits(void *user, uint64_t id, uint32_t position, const float *logits)
{
    (void)user;
    (void)id;
    (void)position;
    (void)logits;
}

enum { AHEAD_KINDS = 9, AHEAD_CTX = 64 };

/* Plain ones beside those that wait for their tokens (bias, penalties); stops, banned at first;
 * lengths of 1, some, and to the end of the context. */
static struct engine_request ahead_request(uint64_t i, const uint32_t *stop,
                                           const struct engine_bias *bias)
{
    static const uint32_t lengths[AHEAD_KINDS] = {24, 24, 40, 40, 20, 20, 17, 1, 1000};
    struct engine_request r = request(i, lengths[i]);
    r.temperature = i % 2 == 0 ? 0 : 0.9f;
    r.seed = 11;
    if (i == 2 || i == 3) {
        r.stop_tokens = stop;
        r.stop_tokens_count = 1;
        r.min_tokens = i == 3 ? 8 : 0;
    }
    if (i == 4) {
        r.bias = bias;
        r.bias_count = 1;
    }
    r.repetition_penalty = i == 5 ? 1.5f : 0;
    r.logprobs = i == 6;
    return r;
}

enum disturbance { NOTHING, PREEMPT, REPLACE, DISTURBANCES };

/* All of them, with something done to one after each step: its pages taken, or itself taken out and
 * put in again at once, in the same place, while the device works on its next token. */
static void run_disturbed(struct engine *e, enum disturbance d, const uint32_t *stop,
                          const struct engine_bias *bias, struct outcome *out)
{
    struct err_msg why;
    for (uint64_t i = 0; i < AHEAD_KINDS; i++) {
        struct engine_request r = ahead_request(i, stop, bias);
        CHECK_OK(engine_add(e, &r, &why), why);
    }
    for (uint64_t step = 0; engine_live(e) > 0; step++) {
        const struct engine_event *events;
        size_t count;
        uint64_t id = step * 5 % AHEAD_KINDS;
        CHECK_OK(engine_step(e, &events, &count, NULL, &why), why);
        for (size_t i = 0; i < count; i++) {
            struct outcome *o = &out[events[i].id];
            CHECK(o->finish == ENGINE_RUNNING && o->count < ARRAY_LEN(o->tokens));
            o->tokens[o->count++] = events[i].token;
            o->finish = events[i].finish;
        }
        if (d == PREEMPT)
            engine_preempt(e, id);
        if (d == REPLACE && out[id].finish == ENGINE_RUNNING && step % 3 > 0) {
            struct engine_request r = ahead_request(id, stop, bias);
            r.completion = out[id].tokens;
            r.completion_count = out[id].count;
            engine_remove(e, id);
            CHECK_OK(engine_add(e, &r, &why), why);
        }
    }
}

/* The tokens are those of an engine that waits for each step. */
static void ahead_same_tokens(void)
{
    struct engine_options o = {.max_seqs = AHEAD_KINDS, .max_ctx = AHEAD_CTX, .chunk_tokens = 32};
    struct outcome want[AHEAD_KINDS] = {0};
    struct engine_bias bias = {.id = 777, .bias = 4};
    struct err_msg why;
    struct tuning split = tuning_defaults();
    split.sample_parts = 3;
    o.logits_fn = ignore_logits;
    struct engine *e = open_engine(o);
    struct engine_request r = ahead_request(0, NULL, NULL);
    CHECK_OK(engine_add(e, &r, &why), why);
    CHECK_OK(run(e, want, 1, NULL, &why), why);
    uint32_t stop = want[0].tokens[9];
    want[0] = (struct outcome){0};
    run_disturbed(e, NOTHING, &stop, &bias, want);
    engine_destroy(&e);
    CHECK(want[2].finish == ENGINE_STOP && want[2].count <= 10);
    CHECK(want[8].finish == ENGINE_LENGTH && want[8].count == AHEAD_CTX - ARRAY_LEN(prompt));
    o.logits_fn = NULL;
    for (int few_pages = 0; few_pages < 2; few_pages++) {
        o.kv_tokens = few_pages ? 160 : 0;
        o.no_prefix_cache = few_pages;
        o.tuning = few_pages ? &split : NULL;
        e = open_engine(o);
        CHECK(!few_pages || kernels_force_sample(e->kernels, 256, 4));
        for (enum disturbance d = 0; d < DISTURBANCES; d++) {
            struct outcome got[AHEAD_KINDS] = {0};
            run_disturbed(e, d, &stop, &bias, got);
            for (size_t i = 0; i < AHEAD_KINDS; i++) {
                CHECK_INT(got[i].count, want[i].count);
                CHECK_INT(got[i].finish, want[i].finish);
                CHECK(memcmp(got[i].tokens, want[i].tokens, sizeof want[i].tokens) == 0);
            }
        }
        CHECK_INT(engine_validation_errors(e), 0);
        engine_destroy(&e);
    }
}

/* What the steps of a run computed. */
static uint64_t run_rows(struct engine *e, const struct engine_request *r, unsigned *ret_calls)
{
    const struct engine_event *events;
    size_t count;
    struct engine_step_stats stats;
    struct err_msg why;
    uint64_t rows = 0;
    enum err bad;
    *ret_calls = 0;
    CHECK_OK(engine_add(e, r, &why), why);
    while ((bad = engine_step(e, &events, &count, &stats, &why)) == ERR_OK) {
        rows += stats.prefill_tokens + stats.decode_tokens;
        ++*ret_calls;
    }
    CHECK_INT(bad, ERR_AGAIN);
    CHECK_INT(engine_live(e), 0);
    return rows;
}

/* No step more than it takes where the end is known, one where a token ends it; what is removed
 * says nothing more; idle only when nothing is in flight. */
static void ahead_steps(void)
{
    struct engine *e = open_engine(
        (struct engine_options){.max_seqs = 1, .max_ctx = AHEAD_CTX, .no_prefix_cache = true});
    struct outcome o[1] = {0};
    struct engine_request r = request(0, 12);
    const struct engine_event *events;
    size_t count;
    struct engine_step_stats stats;
    struct err_msg why;
    unsigned calls;
    CHECK_INT(run_rows(e, &r, &calls), ARRAY_LEN(prompt) + 11);
    CHECK_INT(calls, 13);
    /* A bias and a bad word of one token are the same at each draw; penalties wait for each token.
     */
    struct engine_bias bias = {.id = 777, .bias = 4};
    uint32_t bad_id = 42, bad_length = 1;
    r.bias = &bias;
    r.bias_count = 1;
    r.bad_ids = &bad_id;
    r.bad_lengths = &bad_length;
    r.bad_count = 1;
    CHECK_INT(run_rows(e, &r, &calls), ARRAY_LEN(prompt) + 11);
    CHECK_INT(calls, 13);
    r.presence_penalty = 1;
    CHECK_INT(run_rows(e, &r, &calls), ARRAY_LEN(prompt) + 11);
    CHECK(calls > 13);
    r = request(0, 12);
    CHECK_OK(engine_add(e, &r, &why), why);
    CHECK_OK(run(e, o, 1, NULL, &why), why);
    size_t first = 0; /* of its kind */
    while (o[0].tokens[first] != o[0].tokens[5])
        first++;
    r.stop_tokens = &o[0].tokens[5];
    r.stop_tokens_count = 1;
    CHECK_INT(run_rows(e, &r, &calls), ARRAY_LEN(prompt) + first + 1);
    /* Nothing to tell yet, and the device is at it. */
    r = request(0, 12);
    CHECK_OK(engine_add(e, &r, &why), why);
    CHECK_OK(engine_step(e, &events, &count, &stats, &why), why);
    CHECK(count == 0 && stats.ahead && stats.decode_tokens == 0 && stats.prefill_tokens == 0);
    CHECK_OK(engine_step(e, &events, &count, &stats, &why), why);
    CHECK(count == 1 && stats.ahead && stats.prefill_tokens == ARRAY_LEN(prompt));
    engine_remove(e, 0);
    CHECK_INT(engine_live(e), 0);
    CHECK_OK(engine_step(e, &events, &count, &stats, &why), why);
    CHECK(count == 0 && !stats.ahead && stats.decode_tokens == 1);
    CHECK_ERR(engine_step(e, &events, &count, &stats, &why), ERR_AGAIN);
    CHECK_INT(engine_kv_tokens_free(e), engine_info(e)->kv_tokens);
    engine_destroy(&e);
}

/* Each step's rows by sequence, prompts cut into chunks beside decodes. */
static void shares(void)
{
    enum { SEQS = 3, TOKENS = 5, CHUNK = 8 };
    struct engine *e = open_engine((struct engine_options){
        .max_seqs = SEQS, .max_ctx = AHEAD_CTX, .chunk_tokens = CHUNK, .no_prefix_cache = true});
    const struct engine_event *events;
    size_t count, mixed = 0;
    struct engine_step_stats stats;
    struct err_msg why;
    uint64_t prefill[SEQS] = {0}, decode[SEQS] = {0};
    for (uint64_t id = 0; id < SEQS; id++) {
        struct engine_request r = request(id, TOKENS);
        r.prompt_count -= id;
        CHECK_OK(engine_add(e, &r, &why), why);
    }
    while (engine_live(e) > 0 && engine_step(e, &events, &count, &stats, &why) == ERR_OK) {
        uint64_t prefills = 0, decodes = 0;
        for (size_t i = 0; i < stats.shares_count; i++) {
            const struct engine_share *s = &stats.shares[i];
            if (!CHECK(s->id < SEQS))
                continue;
            prefill[s->id] += s->prefill_tokens;
            decode[s->id] += s->decode_tokens;
            prefills += s->prefill_tokens;
            decodes += s->decode_tokens;
        }
        CHECK_INT(prefills, stats.prefill_tokens);
        CHECK_INT(decodes, stats.decode_tokens);
        mixed += prefills > 0 && decodes > 0;
    }
    CHECK_INT(engine_live(e), 0);
    CHECK(mixed > 0);
    for (uint64_t id = 0; id < SEQS; id++) {
        CHECK_INT(prefill[id], ARRAY_LEN(prompt) - id);
        CHECK_INT(decode[id], TOKENS - 1); /* the first comes with the prompt */
    }
    /* A row of a sequence that was removed is nobody's. */
    struct engine_request r = request(7, TOKENS);
    CHECK_OK(engine_add(e, &r, &why), why);
    CHECK_OK(engine_step(e, &events, &count, &stats, &why), why);
    CHECK_INT(stats.shares_count, 0);
    engine_remove(e, 7);
    CHECK_OK(engine_step(e, &events, &count, &stats, &why), why);
    CHECK(stats.prefill_tokens > 0 && stats.shares_count == 0);
    engine_destroy(&e);
}

int main(int argc, char **argv)
{
    struct err_msg why;
    struct gpu_device_info list[GPU_MAX_DEVICES];
    size_t count = 0, index = 0;
    struct model *m = NULL;
    if (argc < 2 || gpu_list(list, &count, &why) != ERR_OK ||
        gpu_choose(list, count, NULL, &index, &why) != ERR_OK)
        return 77; /* no Vulkan device at all */
    device_index = list[index].index;
    CHECK_OK(model_open(argv[1], &m, &why), why);
    if (m == NULL)
        return check_report();
    model = m;
    bad_requests();
    ends();
    few_pages();
    shared_prefix();
    changed_logits();
    many_edits();
    logprobs();
    bad_sampling();
    ahead_same_tokens();
    ahead_steps();
    shares();
    model_close(&m);
    return check_report();
}
