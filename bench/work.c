/* Sequences to measure with; see work.h. */
#include "bench/work.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/size.h"

/* One number at *at, moved behind it. */
static bool read_count(const char **at, uint32_t max, uint32_t *ret)
{
    uint64_t value = 0;
    const char *p = *at;
    for (; *p >= '0' && *p <= '9' && value <= max; p++)
        value = value * 10 + (uint64_t)(*p - '0');
    if (p == *at || value < 1 || value > max)
        return false;
    *at = p;
    *ret = (uint32_t)value;
    return true;
}

enum err bench_parse_counts(const char *option, const char *text, uint32_t max,
                            struct bench_counts *ret, struct err_msg *why)
{
    struct bench_counts c = {.list = calloc(BENCH_MAX_COUNTS, sizeof *c.list)};
    if (c.list == NULL)
        return err_set(why, ERR_NOMEM, "out of memory");
    const char *at = text;
    for (;;) {
        uint32_t from, to;
        if (!read_count(&at, max, &from))
            break;
        to = from;
        bool ranged = *at == '-';
        at += ranged;
        if (ranged && (!read_count(&at, max, &to) || to < from))
            break;
        if (to - from >= BENCH_MAX_COUNTS - c.count)
            break;
        for (uint32_t v = from; v <= to; v++)
            c.list[c.count++] = (struct bench_count){v, ranged};
        if (*at == '\0') {
            *ret = c;
            return ERR_OK;
        }
        if (*at++ != ',')
            break;
    }
    bench_free_counts(&c);
    return err_set(why, ERR_USAGE, "--%s %s: expected numbers 1..%u or ranges, as 1,8,32 or 1-64",
                   option, text, max);
}

void bench_free_counts(struct bench_counts *c)
{
    free(c->list);
    *c = (struct bench_counts){0};
}

uint64_t bench_random(uint64_t *state)
{
    *state = *state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return *state >> 33;
}

void bench_random_ids(uint64_t seed, uint32_t n_vocab, uint32_t *ret_ids, size_t count)
{
    uint64_t state = seed * UINT64_C(0x9e3779b97f4a7c15) + 1;
    for (size_t i = 0; i < count; i++)
        ret_ids[i] = (uint32_t)(bench_random(&state) % n_vocab);
}

enum err work_fill(struct work_seq *s, uint64_t name, const uint32_t *prefix, uint32_t prefix_count,
                   uint32_t prompt_count, uint32_t max_tokens, uint32_t n_vocab,
                   struct err_msg *why)
{
    s->name = name;
    s->prompt = calloc(prompt_count, sizeof *s->prompt);
    s->tokens = calloc(max_tokens, sizeof *s->tokens);
    if (s->prompt == NULL || s->tokens == NULL)
        return err_set(why, ERR_NOMEM, "out of memory");
    s->prompt_count = prompt_count;
    s->max_tokens = max_tokens;
    if (prefix_count > 0)
        memcpy(s->prompt, prefix, prefix_count * sizeof *prefix);
    bench_random_ids(name, n_vocab, s->prompt + prefix_count, prompt_count - prefix_count);
    return ERR_OK;
}

enum err work_create(size_t count, uint64_t first, uint32_t prompt_count, uint32_t max_tokens,
                     uint32_t n_vocab, struct work *ret, struct err_msg *why)
{
    struct work w = {.seqs = calloc(count, sizeof *w.seqs), .count = count, .top_p = 1};
    enum err e = w.seqs == NULL ? err_set(why, ERR_NOMEM, "out of memory") : ERR_OK;
    for (size_t i = 0; e == ERR_OK && i < count; i++)
        e = work_fill(&w.seqs[i], first + i, NULL, 0, prompt_count, max_tokens, n_vocab, why);
    if (e == ERR_OK)
        *ret = w;
    else
        work_free(&w);
    return e;
}

void work_free(struct work *w)
{
    for (size_t i = 0; w->seqs != NULL && i < w->count; i++) {
        free(w->seqs[i].prompt);
        free(w->seqs[i].tokens);
    }
    free(w->seqs);
    *w = (struct work){0};
}

/* An event's id is the sequence's index. */
static enum err add(struct engine *e, const struct work *w, size_t i, struct err_msg *why)
{
    struct work_seq *s = &w->seqs[i];
    struct engine_request q = {.id = i,
                               .prompt = s->prompt,
                               .prompt_count = s->prompt_count,
                               .max_tokens = s->max_tokens,
                               .temperature = w->temperature,
                               .top_p = w->top_p,
                               .seed = s->name};
    s->tokens_count = 0;
    s->cached_count = 0;
    enum err bad = engine_add(e, &q, why);
    return bad == ERR_OK ? ERR_OK : err_prefix(why, bad, "sequence %zu", i);
}

enum err work_run(struct engine *e, struct work *w, work_step_fn *on_step, void *user,
                  struct err_msg *why)
{
    enum err bad = ERR_OK;
    const struct engine_event *events;
    size_t added = 0, count;
    bool go_on = true;
    while (added < w->count || engine_live(e) > 0) {
        while (bad == ERR_OK && added < w->count && engine_live(e) < engine_info(e)->max_seqs)
            bad = add(e, w, added++, why);
        struct engine_step_stats s;
        if (bad == ERR_OK)
            bad = engine_step(e, &events, &count, &s, why);
        if (bad != ERR_OK)
            return bad;
        uint64_t now_ns = clock_mono_ns();
        for (size_t i = 0; i < count; i++) {
            struct work_seq *seq = &w->seqs[events[i].id];
            if (seq->tokens_count < seq->max_tokens)
                seq->tokens[seq->tokens_count++] = events[i].token;
            seq->cached_count = events[i].cached_count;
        }
        if (go_on && on_step != NULL && !on_step(user, &s, now_ns)) {
            go_on = false;
            added = w->count;
            for (size_t i = 0; i < w->count; i++)
                engine_remove(e, i);
        }
    }
    /* The device may be a step ahead, with rows of sequences that are gone: not the next run's. */
    do
        bad = engine_step(e, &events, &count, NULL, why);
    while (bad == ERR_OK);
    if (bad != ERR_AGAIN)
        return bad;
    if (engine_validation_errors(e) > 0)
        return err_set(why, ERR_DEVICE, "%u messages of the validation layer",
                       engine_validation_errors(e));
    return ERR_OK;
}

bool work_same(const uint32_t *a, const uint32_t *b, size_t count, size_t *ret_at)
{
    for (size_t i = 0; i < count; i++) {
        if (a[i] != b[i]) {
            *ret_at = i;
            return false;
        }
    }
    return true;
}

enum err work_verify(struct engine *e, const struct work *w, size_t s, struct work_seq *reference,
                     struct err_msg *why)
{
    const struct work_seq *got = &w->seqs[s];
    struct work_seq again = *got;
    struct work alone = {
        .seqs = &again, .count = 1, .temperature = w->temperature, .top_p = w->top_p};
    bool known = reference != NULL && reference->tokens_count >= got->tokens_count;
    again.tokens = known ? NULL : calloc(got->max_tokens, sizeof *again.tokens);
    if (!known && again.tokens == NULL)
        return err_set(why, ERR_NOMEM, "out of memory");
    enum err bad = known ? ERR_OK : work_run(e, &alone, NULL, NULL, why);
    const struct work_seq *want = known ? reference : &again;
    size_t at = 0;
    if (bad == ERR_OK && got->tokens_count == 0)
        bad = err_set(why, ERR_CONFLICT, "sequence %zu generated nothing", s);
    if (bad == ERR_OK && want->tokens_count < got->tokens_count)
        bad = err_set(why, ERR_CONFLICT, "sequence %zu: %u tokens, alone %u", s, got->tokens_count,
                      want->tokens_count);
    if (bad == ERR_OK && !work_same(got->tokens, want->tokens, got->tokens_count, &at))
        bad = err_set(why, ERR_CONFLICT, "sequence %zu, token %zu: %u, alone %u", s, at,
                      got->tokens[at], want->tokens[at]);
    if (!known && reference != NULL && bad == ERR_OK) {
        free(reference->tokens);
        *reference = again;
    } else {
        free(again.tokens);
    }
    return bad;
}

bool decode_timing_step(void *user, const struct engine_step_stats *s, uint64_t now_ns)
{
    struct decode_timing *t = user;
    bool full = s->prefill_tokens == 0 && s->decode_tokens > 0 && s->running == t->batch;
    if (full && t->last_full) {
        t->ns += now_ns - t->last_ns;
        t->tokens += s->decode_tokens;
        t->steps++;
    }
    t->last_full = full;
    t->last_ns = now_ns;
    return t->steps < t->steps_max;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double bench_median(double *values, size_t count)
{
    if (count == 0)
        return 0;
    qsort(values, count, sizeof *values, by_value);
    return count % 2 == 1 ? values[count / 2] : (values[count / 2 - 1] + values[count / 2]) / 2;
}
