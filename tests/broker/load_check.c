/* What is in a ledger, and whether that is what load.h's load may have left. */
#include <stdarg.h>

#include "tests/broker/load.h"

enum { PAGE = 100, GRANTS = 64 };

static PRINTF_LIKE(2, 3) void wrong(struct load_found *f, const char *fmt, ...)
{
    va_list args;
    if (f->wrong++ > 0)
        return;
    va_start(args, fmt);
    vsnprintf(f->text, sizeof f->text, fmt, args);
    va_end(args);
}

static enum err on_batch(void *user, const struct ledger_batch *b, const struct ledger_sums *sums)
{
    struct load_found *f = user;
    f->energy_uj += sums->energy_uj;
    f->energy_jobs += sums->energy_jobs;
    for (int i = 0; i < LOAD_BATCHES; i++) {
        if (!str_eq(b->name, str_of(load_names[i])))
            continue;
        if (f->batches[i].id != 0)
            wrong(f, "batch %s twice", load_names[i]);
        f->batches[i].id = b->id;
        f->batches[i].sealed = b->sealed_ms != 0;
        return ERR_OK;
    }
    wrong(f, "a batch nobody made: \"%.*s\"", STR_ARG(b->name));
    return ERR_OK;
}

static struct load_found_line *find_line(struct load_found *f, int batch, uint64_t line)
{
    if (line >= 1 && line <= LOAD_LINES)
        return &f->batches[batch].lines[line - 1];
    wrong(f, "batch %s: line %llu", load_names[batch], (unsigned long long)line);
    return NULL;
}

static void add_line(struct load_found *f, int batch, uint64_t line, uint64_t job,
                     enum ledger_state state)
{
    struct load_found_line *p = find_line(f, batch, line);
    if (p == NULL)
        return;
    if (p->there)
        wrong(f, "batch %s line %llu: twice", load_names[batch], (unsigned long long)line);
    *p = (struct load_found_line){.there = true, .job = job, .state = state};
}

static enum err on_job(void *user, const struct ledger_job *job)
{
    struct load_found *f = user;
    for (int i = 0; i < LOAD_BATCHES; i++) {
        if (f->batches[i].id == job->batch) {
            add_line(f, i, job->line, job->id, LEDGER_UNFINISHED);
            return ERR_OK;
        }
    }
    wrong(f, "job %llu is of no batch", (unsigned long long)job->id);
    return ERR_OK;
}

static enum err on_attempt(void *user, uint64_t job, const char *reason)
{
    (void)job;
    if (strcmp(reason, "device lost") != 0)
        wrong(user, "attempt: %s", reason);
    return ERR_OK;
}

static void check_result(struct load_found *f, int batch, const struct rec_FETCHED *r, bool by_line)
{
    static const char *const names[] = {"", "done", "failed", "cancelled"};
    enum ledger_state state = LEDGER_UNFINISHED;
    struct arena a = {0};
    struct load_found_line *p = find_line(f, batch, r->line);
    for (int i = LEDGER_DONE; i <= LEDGER_CANCELLED; i++) {
        if (str_eq(r->state, str_of(names[i])))
            state = (enum ledger_state)i;
    }
    struct str want = load_body(&a, batch, r->line, 'r');
    if (state == LEDGER_CANCELLED)
        want.len = 0;
    f->no_id += by_line && r->custom_id.len == 0;
    if (state == LEDGER_UNFINISHED || !str_eq(r->body, want) ||
        (r->custom_id.len > 0 && !str_eq(r->custom_id, STR_LIT("id"))))
        wrong(f, "batch %s line %llu: state %.*s, %zu bytes, expected %zu", load_names[batch],
              (unsigned long long)r->line, STR_ARG(r->state), r->body.len, want.len);
    else if (by_line)
        add_line(f, batch, r->line, 0, state);
    else if (p != NULL && (!p->there || p->state != state))
        wrong(f, "batch %s line %llu: by completion, but not by line", load_names[batch],
              (unsigned long long)r->line);
    arena_free(&a);
}

static size_t find_results(struct ledger *l, struct load_found *f, int batch, bool by_line)
{
    uint64_t after = 0;
    size_t total = 0;
    for (;;) {
        struct ledger_op op = {.kind = LEDGER_FETCH}, *ops = &op;
        op.fetch.batch = str_of(load_names[batch]);
        op.fetch.by_line = by_line;
        op.fetch.after = after;
        op.fetch.max = PAGE;
        op.fetch.max_bytes = 1 << 20;
        load_run(l, &ops, 1);
        size_t count = op.fetch.ret_count;
        if (op.err != ERR_OK)
            wrong(f, "fetch: %s", op.why.text);
        for (size_t i = 0; i < count && op.err == ERR_OK; i++) {
            const struct rec_FETCHED *r = &op.fetch.ret_items[i];
            uint64_t key = by_line ? r->line : r->seq;
            if (key <= after)
                wrong(f, "batch %s: %llu after %llu", load_names[batch], (unsigned long long)key,
                      (unsigned long long)after);
            after = key;
            check_result(f, batch, r, by_line);
        }
        total += count;
        arena_free(&op.arena);
        if (count == 0 || op.err != ERR_OK)
            return total;
    }
}

/* The requests of what is unfinished: a grant loads them. */
static void find_requests(struct ledger *l, struct load_found *f, int batch)
{
    struct load_found_batch *b = &f->batches[batch];
    for (size_t i = 0; i < LOAD_LINES;) {
        struct ledger_grant items[GRANTS];
        uint64_t lines[GRANTS];
        size_t count = 0;
        for (; i < LOAD_LINES && count < GRANTS; i++) {
            if (!b->lines[i].there || b->lines[i].state != LEDGER_UNFINISHED)
                continue;
            lines[count] = i + 1;
            items[count++] = (struct ledger_grant){.job = b->lines[i].job, .epoch = 1};
        }
        struct ledger_op op = {.kind = LEDGER_GRANT}, *ops = &op;
        op.grant.items = items;
        op.grant.count = count;
        if (count > 0)
            load_run(l, &ops, 1);
        if (op.err != ERR_OK)
            wrong(f, "requests: %s", op.why.text);
        for (size_t k = 0; k < count && op.err == ERR_OK; k++) {
            if (!str_eq(items[k].ret_body, load_body(&op.arena, batch, lines[k], 'q')))
                wrong(f, "batch %s line %llu: another request", load_names[batch],
                      (unsigned long long)lines[k]);
        }
        arena_free(&op.arena);
    }
}

void load_find(struct ledger *l, struct load_found *ret)
{
    struct err_msg why;
    static const struct ledger_loader loader = {on_batch, on_job, on_attempt};
    memset(ret, 0, sizeof *ret);
    if (ledger_load(l, &loader, ret, &why) != ERR_OK) {
        wrong(ret, "load: %s", why.text);
        return;
    }
    for (int b = 0; b < LOAD_BATCHES; b++) {
        if (ret->batches[b].id == 0)
            continue;
        size_t by_line = find_results(l, ret, b, true), by_seq = find_results(l, ret, b, false);
        if (by_line != by_seq)
            wrong(ret, "batch %s: %zu results by line, %zu by completion", load_names[b], by_line,
                  by_seq);
        find_requests(l, ret, b);
    }
}

/* Acknowledged before the cut: must be there. Asked for before it: may be. */
static bool must(struct load_span s, size_t at)
{
    return s.ack != LOAD_NEVER && s.ack <= at;
}

static bool may(struct load_span s, size_t at)
{
    return s.ask != LOAD_NEVER && s.ask <= at;
}

unsigned load_check(const struct load *x, struct load_found *found, size_t at)
{
    if (found->no_id > 0)
        wrong(found, "%u results without their custom_id", found->no_id);
    for (int b = 0; b < LOAD_BATCHES; b++) {
        const struct load_batch *batch = &x->batches[b];
        const struct load_found_batch *got = &found->batches[b];
        if (must(batch->born, at) && got->id == 0)
            wrong(found, "batch %s is missing", load_names[b]);
        if (must(batch->sealed, at) && !got->sealed)
            wrong(found, "batch %s is not sealed any more", load_names[b]);
        if ((got->sealed && !may(batch->sealed, at)) || (got->id != 0 && !may(batch->born, at)))
            wrong(found, "batch %s: made or sealed by nobody", load_names[b]);
        for (size_t i = 0; i < LOAD_LINES; i++) {
            const struct load_line *want = &batch->lines[i];
            const struct load_found_line *line = &got->lines[i];
            bool ended = line->there && line->state != LEDGER_UNFINISHED;
            const char *what = NULL;
            if (!line->there && must(want->submit, at))
                what = "missing";
            else if (line->there && !may(want->submit, at))
                what = "submitted by nobody";
            else if (!ended && must(want->end, at))
                what = "its end is missing";
            else if (ended && (!may(want->end, at) || line->state != want->state))
                what = "ended as nobody asked";
            if (what != NULL)
                wrong(found, "batch %s line %zu: %s", load_names[b], i + 1, what);
        }
    }
    return found->wrong;
}

static void adopt(struct load_span *s, bool there)
{
    *s = there ? (struct load_span){0, 0} : (struct load_span){LOAD_NEVER, LOAD_NEVER};
}

void load_adopt(struct load *x, const struct load_found *found)
{
    for (int b = 0; b < LOAD_BATCHES; b++) {
        adopt(&x->batches[b].born, found->batches[b].id != 0);
        adopt(&x->batches[b].sealed, found->batches[b].sealed);
        for (size_t i = 0; i < LOAD_LINES; i++) {
            const struct load_found_line *got = &found->batches[b].lines[i];
            struct load_line *line = &x->batches[b].lines[i];
            adopt(&line->submit, got->there);
            adopt(&line->end, got->there && got->state != LEDGER_UNFINISHED);
            line->job = got->job;
            line->busy = false;
            line->epoch = 0;
        }
    }
}
