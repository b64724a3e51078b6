/* Which tokens of which sequences the next step computes.
 *
 * Decodes first (one row each), then prefill chunks in order of arrival up to chunk_tokens rows.
 * Pages are taken as needed; out of pages the youngest sequence loses its own and waits. The oldest
 * can always go on, since the cache holds at least one longest sequence; where it sits a step out,
 * the oldest of at least eight others can, as each of them has a page of its own to lose. So every
 * step moves something.
 *
 * A step is planned while the one before runs. Where that draws a token, a decode is planned behind
 * it (engine_impl.h), unless the token is known to be the last, or the next draw depends on which
 * one it is (penalties, bad words of several tokens): such a sequence waits a step. Nothing here
 * changes what a sequence computes, only when (engine.h: same bytes). On a slow device a step is
 * cut (chunk.h): the younger sequences wait then, until older ones have ended. And where a step of
 * fewer rows is faster by more than its rows are fewer, sequences take turns. */
#include <assert.h>
#include <string.h>

#include "base/size.h"
#include "engine/engine_impl.h"

static uint32_t pages_for(uint32_t tokens)
{
    return (tokens + PAGE_TOKENS - 1) / PAGE_TOKENS;
}

void sequence_drop_pages(struct engine *e, struct sequence *s)
{
    while (s->pages_count > 0)
        kv_release(e->kv, s->pages[--s->pages_count]);
    s->computed = 0;
    s->published = 0;
    s->chain = 0;
    s->active = false;
}

static struct sequence *youngest_victim(struct engine *e, const struct sequence *asking)
{
    for (uint32_t i = e->live; i-- > 0;) {
        struct sequence *s = e->order[i];
        if (s == asking)
            return NULL;
        if (s->active && s->planned == 0)
            return s;
    }
    return NULL;
}

/* Pages for `tokens` tokens; preempts younger sequences for them. False: s itself has to wait. */
static bool ensure_pages(struct engine *e, struct sequence *s, uint32_t tokens)
{
    uint32_t want = pages_for(tokens);
    while (s->pages_count < want) {
        if (kv_take(e->kv, &s->pages[s->pages_count])) {
            s->pages_count++;
            continue;
        }
        struct sequence *victim = youngest_victim(e, s);
        if (victim == NULL)
            return false;
        sequence_drop_pages(e, victim);
        e->preemptions++;
    }
    return true;
}

/* Room in the step's input for what this sequence's draw edits; without, it waits. The first to ask
 * always finds it. */
static bool edits_fit(const struct engine *e, const struct sequence *s)
{
    const struct logit_edit *edits;
    return sampling_edits(s->more, &edits) <= e->max_edits - e->plan.edits;
}

/* Tokens that there are when the step in flight has ended. */
static uint32_t tokens_ahead(const struct sequence *s)
{
    return s->tokens_count + s->pending;
}

/* The token that is being drawn is the last, or has to be known before the next is drawn. */
static bool waits_for_token(const struct engine *e, const struct sequence *s)
{
    return s->pending > 0 && (sampling_looks_back(s->more) || tokens_ahead(s) >= s->tokens_limit ||
                              tokens_ahead(s) >= e->info.max_ctx);
}

static void plan_rows(struct engine *e, struct sequence *s, uint32_t count)
{
    struct plan *p = &e->plan;
    const struct logit_edit *edits;
    if (s->computed + count == tokens_ahead(s))
        p->edits += sampling_edits(s->more, &edits);
    s->planned = count;
    for (uint32_t i = 0; i < count; i++) {
        uint32_t position = s->computed + i;
        p->rows[p->rows_count++] =
            (struct step_row){s, s->arrival, position, position == tokens_ahead(s) - 1};
    }
}

/* True when another sequence is computing the page that s would need next: waiting a step or two
 * for it is cheaper than computing it again. */
static bool prefix_is_coming(const struct engine *e, const struct sequence *s,
                             uint32_t matched_pages)
{
    uint32_t want = (matched_pages + 1) * PAGE_TOKENS;
    if (want > s->tokens_count - 1)
        return false;
    for (uint32_t i = 0; i < e->live; i++) {
        const struct sequence *o = e->order[i];
        if (o != s && o->active && o->tokens_count > o->computed + 1 && o->tokens_count >= want &&
            o->computed < want && memcmp(o->tokens, s->tokens, want * sizeof *s->tokens) == 0)
            return true;
    }
    return false;
}

enum admission { ADMITTED, PREFIX_COMING, NO_ROOM };

/* WAITING to ACTIVE: takes over the pages of a known prefix. */
static enum admission admit(struct engine *e, struct sequence *s, uint32_t active_count)
{
    assert(s->pages_count == 0);
    uint64_t chain = 0;
    uint32_t matched = 0;
    if (!e->options.no_prefix_cache) {
        /* The last token is always computed: its row gives the logits. */
        while ((matched + 1) * PAGE_TOKENS <= s->tokens_count - 1) {
            const uint32_t *tokens = &s->tokens[(size_t)matched * PAGE_TOKENS];
            uint64_t next = kv_chain(e->kv, chain, tokens);
            if (!kv_find(e->kv, next, tokens, &s->pages[matched]))
                break;
            chain = next;
            matched++;
        }
    }
    s->pages_count = matched;
    /* Some pages stay free for those that run, so that a newcomer is not thrown out again at once.
     */
    uint32_t reserve = active_count == 0 ? 0 : active_count / 4 + 1;
    bool fits = kv_available(e->kv) >= pages_for(s->tokens_count) - matched + reserve;
    if (!fits || (!e->options.no_prefix_cache && prefix_is_coming(e, s, matched))) {
        sequence_drop_pages(e, s);
        return fits ? PREFIX_COMING : NO_ROOM;
    }
    s->active = true;
    s->computed = matched * PAGE_TOKENS;
    s->published = matched;
    s->chain = chain;
    if (!s->admitted_before) {
        s->admitted_before = true;
        s->cached_count = s->computed < s->prompt_count ? s->computed : s->prompt_count;
    }
    return ADMITTED;
}

static bool can_decode(const struct engine *e, const struct sequence *s)
{
    return s->active && tokens_ahead(s) - s->computed == 1 && !waits_for_token(e, s);
}

/* How many of those that can decode sit this step out: some where that is faster (chunk.h). None
 * while there are prompts, or sequences that would come in, nor if one has to know its token before
 * it goes on: it would be ready when the others are not, ever after. */
static uint32_t sit_out(struct engine *e, uint32_t *ret_ready)
{
    uint32_t ready = 0;
    bool all = e->tuning.round_rows == 0;
    for (uint32_t i = 0; i < e->live; i++) {
        const struct sequence *s = e->order[i];
        ready += can_decode(e, s);
        all = all || sampling_looks_back(s->more) ||
              (s->pending == 0 && (!s->active || s->tokens_count - s->computed > 1));
    }
    *ret_ready = ready;
    return all ? 0 : ready - widths_choose(&e->widths, ready);
}

/* Returns whether some have to wait that could go on. */
static bool plan_decodes(struct engine *e)
{
    uint32_t ready, rank = 0, out = sit_out(e, &ready), turn = e->widths_turn;
    for (uint32_t i = 0; i < e->live && e->plan.rows_count < e->decodes; i++) {
        struct sequence *s = e->order[i];
        if (!can_decode(e, s))
            continue;
        if (out > 0 && (rank++ + ready - turn % ready) % ready < out) /* they take turns */
            continue;
        if (!edits_fit(e, s))
            continue;
        if (ensure_pages(e, s, tokens_ahead(s))) {
            plan_rows(e, s, 1);
        } else {
            sequence_drop_pages(e, s);
            e->preemptions++;
        }
    }
    if (out > 0)
        e->widths_turn = (turn + out) % ready;
    e->plan.decode_rows = e->plan.rows_count;
    return out > 0 || e->plan.decode_rows >= e->decodes;
}

static void plan_prefills(struct engine *e, bool others_wait)
{
    uint32_t budget = e->chunk;
    uint32_t active = 0;
    bool room = true; /* first come, first served: nobody overtakes one that waits for pages */
    bool edits_room = true; /* nor one that waits for this */
    for (uint32_t i = 0; i < e->live; i++)
        active += e->order[i]->active;
    for (uint32_t i = 0; i < e->live && budget > 0; i++) {
        struct sequence *s = e->order[i];
        if (s->pending > 0) { /* decodes, or waits for its token before it comes in again */
            room = room && s->active;
            continue;
        }
        if (s->planned > 0 || (others_wait && s->active && s->tokens_count - s->computed == 1))
            continue;
        if (!s->active) {
            enum admission a = room ? admit(e, s, active) : NO_ROOM;
            room = room && a != NO_ROOM;
            if (a != ADMITTED)
                continue;
            active++;
        }
        uint32_t count = (uint32_t)min_u64(s->tokens_count - s->computed, budget);
        if (!ensure_pages(e, s, s->computed + count)) {
            uint32_t covered = s->pages_count * PAGE_TOKENS;
            count = covered > s->computed ? (uint32_t)min_u64(count, covered - s->computed) : 0;
        }
        if (s->computed + count == s->tokens_count && (!edits_room || !edits_fit(e, s)) &&
            s->more) {
            edits_room = false;
            continue;
        }
        if (count > 0)
            plan_rows(e, s, count);
        budget -= count;
    }
    e->plan.prefill_rows = e->plan.rows_count - e->plan.decode_rows;
}

void plan_step(struct engine *e)
{
    e->plan.rows_count = 0;
    e->plan.edits = 0;
    for (uint32_t i = 0; i < e->live; i++)
        e->order[i]->planned = 0;
    plan_prefills(e, plan_decodes(e));
}

void plan_commit(struct engine *e)
{
    uint32_t logit_rows = 0;
    for (uint32_t r = 0; r < e->plan.rows_count; r++) {
        struct sequence *s = e->plan.rows[r].seq;
        s->computed++;
        if (e->plan.rows[r].samples) {
            s->pending++;
            s->drawn_at = logit_rows;
        }
        logit_rows += e->plan.rows[r].samples || e->options.logits_all;
    }
}

void plan_publish(struct engine *e)
{
    for (uint32_t i = 0; i < e->live && !e->options.no_prefix_cache; i++) {
        struct sequence *s = e->order[i];
        uint32_t known = (uint32_t)min_u64(s->computed, s->tokens_count);
        while ((s->published + 1) * PAGE_TOKENS <= known) {
            const uint32_t *tokens = &s->tokens[(size_t)s->published * PAGE_TOKENS];
            s->chain = kv_chain(e->kv, s->chain, tokens);
            kv_publish(e->kv, s->pages[s->published], s->chain, tokens);
            s->published++;
        }
    }
}
