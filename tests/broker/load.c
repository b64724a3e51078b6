/* See load.h; what a ledger is checked for is in load_check.c. */
#include "tests/broker/load.h"

#include "base/buf.h"
#include "proto/codec.h"
#include "tests/broker/ledger_wait.h"

const char *const load_names[LOAD_BATCHES] = {"alpha", "beta", "gamma"};

void load_init(struct load *x, struct disk *disk, uint64_t seed)
{
    memset(x, 0, sizeof *x);
    x->disk = disk;
    x->rng.state = seed;
    for (int b = 0; b < LOAD_BATCHES; b++) {
        x->batches[b].born = x->batches[b].sealed = (struct load_span){LOAD_NEVER, LOAD_NEVER};
        for (int i = 0; i < LOAD_LINES; i++)
            x->batches[b].lines[i].submit = x->batches[b].lines[i].end =
                (struct load_span){LOAD_NEVER, LOAD_NEVER};
    }
}

unsigned load_failures(void)
{
    return check_failures;
}

static size_t now(struct load *x)
{
    return x->disk == NULL ? x->clock++ : disk_events(x->disk);
}

/* A fifth of the lines fail. */
static bool fails(int batch, uint64_t line)
{
    return (line * 7 + (uint64_t)batch) % 5 == 0;
}

/* Requests ('q') and results ('r'): mostly short, some over several pages. */
struct str load_body(struct arena *a, int batch, uint64_t line, char what)
{
    struct check_rng r = {(uint64_t)batch * 1000003 + line * 7 + (uint64_t)what};
    size_t len = 10 + check_rng_below(&r, 150);
    if (check_rng_below(&r, 16) == 0)
        len = check_rng_below(&r, LOAD_MAX_BODY);
    char *text = arena_alloc(a, len + 1, 1);
    for (size_t i = 0; i < len; i++)
        text[i] = (char)('a' + check_rng_below(&r, 26));
    struct buf body = {0};
    struct err_msg why;
    struct rec_CHOICE choice = {.text = {text, len}, .finish_reason = STR_LIT("stop")};
    struct rec_OUTPUT output = {.status_code = fails(batch, line) ? 500 : 200};
    output.choices.items = &choice;
    output.choices.count = 1;
    struct rec_REQUEST request = {.prompt = {text, len}, .max_tokens = 5, .top_p = 1, .seed = line};
    if (what == 'r')
        CHECK_OK(proto_encode_output(&output, &body, &why), why);
    else
        CHECK_OK(proto_encode_request(&request, &body, &why), why);
    struct str copy = {arena_copy(a, body.data, body.len), body.len};
    buf_free(&body);
    return copy;
}

/* ---- the ledger ---- */

void load_run(struct ledger *l, struct ledger_op **ops, size_t count)
{
    run_all(l, ops, count);
}

enum err load_open(struct load *x, struct ledger_options o, struct err_msg *why)
{
    o.wake = wake;
    return ledger_open(&o, &x->ledger, why);
}

/* ---- the operations ---- */

static struct rec_LINE make_line(struct arena *a, int batch, uint64_t line)
{
    return (struct rec_LINE){.line = line,
                             .hash = line * 31 + (uint64_t)batch,
                             .custom_id = STR_LIT("id"),
                             .body = load_body(a, batch, line, 'q')};
}

/* What an operation stands for, so that its acknowledgement can be noted. */
struct load_step {
    struct ledger_op op;
    int batch;
    size_t first, count;         /* lines of a submit */
    struct load_line *picked[8]; /* of results, grants, cancels */
    struct load_span span;
};

static struct load_line *pick(struct load *x, int batch, uint64_t *ret_line)
{
    struct load_batch *b = &x->batches[batch];
    for (int tries = 0; tries < 8 && b->count > 0; tries++) {
        size_t i = check_rng_below(&x->rng, b->count);
        struct load_line *line = &b->lines[i];
        if (line->submit.ack == LOAD_NEVER || line->end.ask != LOAD_NEVER || line->busy ||
            line->job == 0)
            continue;
        line->busy = true;
        *ret_line = i + 1;
        return line;
    }
    return NULL;
}

static void make_submit(struct load *x, struct load_step *s)
{
    struct load_batch *b = &x->batches[s->batch];
    size_t again = b->count > 0 && check_rng_below(&x->rng, 4) == 0 ? 1 : 0;
    s->first = b->count;
    s->count = 1 + check_rng_below(&x->rng, 12);
    if (s->first + s->count > LOAD_LINES)
        s->count = LOAD_LINES - s->first;
    struct arena *a = &s->op.arena;
    struct rec_LINE *lines = arena_alloc(a, s->count + again, sizeof *lines);
    for (size_t i = 0; i < s->count + again; i++) {
        /* one that was asked for before comes once more: it must not be there twice */
        size_t at = i < s->count ? s->first + i : check_rng_below(&x->rng, s->first);
        if (i >= s->count && b->lines[at].submit.ack == LOAD_NEVER) {
            again = 0;
            break;
        }
        lines[i] = make_line(a, s->batch, at + 1);
        if (i < s->count)
            b->lines[at].submit.ask = s->span.ask;
    }
    b->count += s->count;
    s->op.kind = LEDGER_SUBMIT;
    s->op.submit.batch = str_of(load_names[s->batch]);
    s->op.submit.lines = lines;
    s->op.submit.count = s->count + again;
    s->op.submit.max_jobs = s->op.submit.max_bytes = UINT64_MAX;
}

static bool make_results(struct load *x, struct load_step *s)
{
    struct ledger_result *items = arena_alloc(&s->op.arena, 8, sizeof *items);
    size_t want = 1 + check_rng_below(&x->rng, 7);
    while (s->count < want) {
        uint64_t line;
        struct load_line *p = pick(x, s->batch, &line);
        if (p == NULL)
            break;
        bool bad = fails(s->batch, line);
        p->state = bad ? LEDGER_FAILED : LEDGER_DONE;
        p->epoch = p->epoch == 0 ? ++x->epoch : p->epoch;
        p->end.ask = s->span.ask;
        s->picked[s->count] = p;
        items[s->count++] =
            (struct ledger_result){.job = p->job,
                                   .epoch = p->epoch,
                                   .accept = true,
                                   .failed = bad,
                                   .body = load_body(&s->op.arena, s->batch, line, 'r'),
                                   .prompt_tokens = 3,
                                   .completion_tokens = 4,
                                   .energy_uj = LOAD_ENERGY_UJ,
                                   .attempts = 1};
    }
    s->op.kind = LEDGER_RESULTS;
    s->op.results.items = items;
    s->op.results.count = s->count;
    return s->count > 0;
}

static bool make_grant(struct load *x, struct load_step *s)
{
    struct ledger_grant *items = arena_alloc(&s->op.arena, 8, sizeof *items);
    uint64_t line;
    for (size_t want = 1 + check_rng_below(&x->rng, 7); s->count < want;) {
        struct load_line *p = pick(x, s->batch, &line);
        if (p == NULL)
            break;
        p->epoch = ++x->epoch;
        s->picked[s->count] = p;
        items[s->count++] = (struct ledger_grant){.job = p->job, .epoch = p->epoch};
    }
    s->op.kind = LEDGER_GRANT;
    s->op.grant.items = items;
    s->op.grant.count = s->count;
    return s->count > 0;
}

static bool make_cancel(struct load *x, struct load_step *s)
{
    uint64_t *lines = arena_alloc(&s->op.arena, 1, sizeof *lines);
    struct load_line *p = pick(x, s->batch, lines);
    if (p == NULL)
        return false;
    p->state = LEDGER_CANCELLED;
    p->end.ask = s->span.ask;
    s->picked[s->count++] = p;
    s->op.kind = LEDGER_CANCEL;
    s->op.cancel.batch = str_of(load_names[s->batch]);
    s->op.cancel.lines = lines;
    s->op.cancel.count = 1;
    return true;
}

static bool make_return(struct load *x, struct load_step *s)
{
    uint64_t line;
    struct load_line *p = pick(x, s->batch, &line);
    if (p == NULL)
        return false;
    s->picked[s->count++] = p;
    s->op.kind = LEDGER_RETURN;
    s->op.returned.items = arena_alloc(&s->op.arena, 1, sizeof *s->op.returned.items);
    s->op.returned.count = 1;
    s->op.returned.items[0] = (struct ledger_returned){.job = p->job,
                                                       .epoch = p->epoch,
                                                       .attempts = 1,
                                                       .counted = true,
                                                       .reason = STR_LIT("device lost")};
    return true;
}

static bool make_seal(struct load *x, struct load_step *s)
{
    struct load_batch *b = &x->batches[s->batch];
    bool settled = b->count >= 30 && b->sealed.ask == LOAD_NEVER;
    for (size_t i = 0; i < b->count && settled; i++)
        settled = b->lines[i].submit.ack != LOAD_NEVER;
    if (!settled)
        return false;
    b->sealed.ask = s->span.ask;
    s->op.kind = LEDGER_SEAL;
    s->op.seal.batch = str_of(load_names[s->batch]);
    s->op.seal.lines = b->count;
    return true;
}

static bool make(struct load *x, struct load_step *s)
{
    *s = (struct load_step){.batch = (int)check_rng_below(&x->rng, LOAD_BATCHES)};
    struct load_batch *b = &x->batches[s->batch];
    s->span = (struct load_span){now(x), LOAD_NEVER};
    if (b->born.ack == LOAD_NEVER) {
        if (b->born.ask == LOAD_NEVER)
            b->born.ask = s->span.ask;
        s->op.kind = LEDGER_BATCH_NEW;
        s->op.batch_new.batch = (struct ledger_batch){.name = str_of(load_names[s->batch]),
                                                      .options_hash = STR_LIT("h"),
                                                      .options_text = STR_LIT("t"),
                                                      .schedule.priority = 100,
                                                      .max_attempts = 3,
                                                      .created_ms = 5};
        return true;
    }
    uint64_t dice = check_rng_below(&x->rng, 100);
    if (dice < 40 && b->count < LOAD_LINES && b->sealed.ask == LOAD_NEVER) {
        make_submit(x, s);
        return true;
    }
    if (dice < 75)
        return make_results(x, s);
    if (dice < 88)
        return make_grant(x, s);
    if (dice < 98)
        return dice < 93 ? make_cancel(x, s) : make_return(x, s);
    return make_seal(x, s);
}

/* Notes what was acknowledged. */
static void note(struct load *x, struct load_step *s, size_t ack)
{
    struct load_batch *b = &x->batches[s->batch];
    for (size_t i = 0; s->op.kind != LEDGER_SUBMIT && i < s->count; i++)
        s->picked[i]->busy = false;
    if (s->op.err != ERR_OK) {
        x->failed_ops++;
        x->last_why = s->op.why;
        return;
    }
    switch (s->op.kind) {
    case LEDGER_BATCH_NEW:
        b->born.ack = b->born.ack == LOAD_NEVER ? ack : b->born.ack;
        break;
    case LEDGER_SUBMIT:
        for (size_t i = 0; i < s->count; i++) {
            b->lines[s->first + i].submit.ack = ack;
            b->lines[s->first + i].job = s->op.submit.ret_jobs[i];
            CHECK(s->op.submit.ret_jobs[i] != 0);
        }
        CHECK_INT(s->op.submit.ret_accepted, s->count);
        CHECK_INT(s->op.submit.ret_duplicates, s->op.submit.count - s->count);
        break;
    case LEDGER_RESULTS:
        for (size_t i = 0; i < s->count; i++) {
            CHECK_INT(s->op.results.items[i].ret_outcome, 0);
            s->picked[i]->end.ack = ack;
        }
        break;
    case LEDGER_CANCEL:
        CHECK_INT(s->op.cancel.ret_count, 1);
        s->picked[0]->end.ack = ack;
        break;
    case LEDGER_SEAL:
        b->sealed.ack = ack;
        break;
    default:
        break;
    }
}

bool load_round(struct load *x)
{
    struct load_step steps[LOAD_GROUP];
    struct ledger_op *ops[LOAD_GROUP];
    size_t count = 0, want = check_rng_below(&x->rng, 3) == 0 ? LOAD_GROUP : 1;
    size_t failed_before = x->failed_ops;
    for (size_t i = 0; i < want; i++) {
        if (make(x, &steps[count]))
            ops[count] = &steps[count].op, count++;
        else
            arena_free(&steps[count].op.arena);
    }
    load_run(x->ledger, ops, count);
    size_t ack = now(x);
    for (size_t i = 0; i < count; i++) {
        note(x, &steps[i], ack);
        arena_free(&steps[i].op.arena);
    }
    return count > 0 && x->failed_ops == failed_before;
}

bool load_lease(struct load *x)
{
    struct load_step s = {.batch = (int)check_rng_below(&x->rng, LOAD_BATCHES)};
    struct ledger_op *op = &s.op;
    bool some = make_grant(x, &s);
    if (some) {
        load_run(x->ledger, &op, 1);
        note(x, &s, now(x));
    }
    arena_free(&s.op.arena);
    return some && s.op.err == ERR_OK;
}

/* ---- asking again ---- */

static bool settle(struct load *x, struct ledger_op *op)
{
    load_run(x->ledger, &op, 1);
    if (op->err == ERR_OK)
        return true;
    x->failed_ops++;
    x->last_why = op->why;
    return false;
}

static bool settle_lines(struct load *x, int batch)
{
    struct load_batch *b = &x->batches[batch];
    struct ledger_op op = {.kind = LEDGER_SUBMIT};
    struct rec_LINE *lines = arena_alloc(&op.arena, b->count, sizeof *lines);
    size_t count = 0, at[LOAD_LINES];
    size_t ask = now(x);
    for (size_t i = 0; i < b->count; i++) {
        if (b->lines[i].submit.ack != LOAD_NEVER)
            continue;
        if (b->lines[i].submit.ask == LOAD_NEVER)
            b->lines[i].submit.ask = ask;
        at[count] = i;
        lines[count++] = make_line(&op.arena, batch, i + 1);
    }
    op.submit.batch = str_of(load_names[batch]);
    op.submit.lines = lines;
    op.submit.count = count;
    op.submit.max_jobs = op.submit.max_bytes = UINT64_MAX;
    bool good = count == 0 || settle(x, &op);
    size_t ack = now(x);
    for (size_t i = 0; i < count && good; i++) {
        /* a line that was stored though nobody was told is a duplicate: its job is unknown here */
        b->lines[at[i]].submit.ack = ack;
        b->lines[at[i]].job = op.submit.ret_jobs[i];
    }
    arena_free(&op.arena);
    return good;
}

static bool settle_end(struct load *x, int batch, struct load_line *p, uint64_t line)
{
    struct ledger_op op = {.kind = LEDGER_CANCEL};
    struct ledger_result r = {.job = p->job,
                              .epoch = p->epoch,
                              .accept = true,
                              .failed = p->state == LEDGER_FAILED,
                              .body = load_body(&op.arena, batch, line, 'r'),
                              .attempts = 1};
    if (p->state == LEDGER_CANCELLED) {
        op.cancel.batch = str_of(load_names[batch]);
        op.cancel.lines = &line;
        op.cancel.count = 1;
    } else {
        op.kind = LEDGER_RESULTS;
        op.results.items = &r;
        op.results.count = 1;
    }
    bool good = settle(x, &op);
    if (good)
        p->end.ack = now(x);
    arena_free(&op.arena);
    return good;
}

bool load_settle(struct load *x)
{
    for (int b = 0; b < LOAD_BATCHES; b++) {
        struct load_batch *batch = &x->batches[b];
        if (batch->born.ack == LOAD_NEVER)
            continue;
        if (!settle_lines(x, b))
            return false;
        for (size_t i = 0; i < batch->count; i++) {
            struct load_line *p = &batch->lines[i];
            if (p->end.ask != LOAD_NEVER && p->end.ack == LOAD_NEVER && !settle_end(x, b, p, i + 1))
                return false;
        }
        struct ledger_op op = {.kind = LEDGER_SEAL};
        op.seal.batch = str_of(load_names[b]);
        op.seal.lines = batch->count;
        if (batch->sealed.ask != LOAD_NEVER && batch->sealed.ack == LOAD_NEVER) {
            if (!settle(x, &op))
                return false;
            batch->sealed.ack = now(x);
        }
    }
    return true;
}
