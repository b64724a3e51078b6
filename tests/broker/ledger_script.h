/* What a test of the ledger is made of: opening it, one operation at a time, what a start reads. */
#ifndef OCTO_TESTS_BROKER_LEDGER_SCRIPT_H
#define OCTO_TESTS_BROKER_LEDGER_SCRIPT_H

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sqlite3.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "broker/ledger.h"
#include "tests/broker/ledger_wait.h"
#include "tests/check.h"

static char dir[] = "/tmp/octo-ledger-XXXXXX";
static char path[128];
static uint64_t result_batch; /* what result() says of the job's batch; 0: nothing */
static uint64_t result_energy_uj;

static enum err try_open(uint64_t max_pages, int wait_ms, struct ledger **ret, struct err_msg *why)
{
    struct ledger_options o = {
        .path = path, .wake = wake, .max_pages = max_pages, .lock_wait_ms = wait_ms};
    return ledger_open(&o, ret, why);
}

static struct ledger *open_ledger(void)
{
    struct ledger *l = NULL;
    struct err_msg why;
    CHECK_OK(try_open(0, 0, &l, &why), why);
    if (l == NULL)
        exit(1);
    return l;
}

static enum err run(struct ledger *l, struct ledger_op *op, enum ledger_kind kind)
{
    op->kind = kind;
    run_all(l, &op, 1);
    return op->err;
}

static enum err new_batch(struct ledger *l, const char *name, const char *hash, bool *ret_existed)
{
    struct ledger_op op = {.batch_new.batch = {.name = str_of(name),
                                               .options_hash = str_of(hash),
                                               .options_text = STR_LIT("temperature 1"),
                                               .client = STR_LIT("alice"),
                                               .schedule.priority = 100,
                                               .max_attempts = 3,
                                               .created_ms = 5}};
    enum err e = run(l, &op, LEDGER_BATCH_NEW);
    if (ret_existed != NULL)
        *ret_existed = op.batch_new.ret_existed;
    if (e == ERR_CONFLICT)
        CHECK_HAS(op.why.text, "temperature 1");
    arena_free(&op.arena);
    return e;
}

/* Lines first..first+count-1; hash is line * 10 + salt. */
static enum err submit(struct ledger *l, const char *batch, uint64_t first, size_t count,
                       uint64_t salt, bool refused, struct ledger_op *ret)
{
    static struct rec_LINE lines[512];
    for (size_t i = 0; i < count; i++) {
        lines[i] = (struct rec_LINE){.line = first + i, .hash = (first + i) * 10 + salt};
        lines[i].custom_id = STR_LIT("cust\xc3\xa9");
        *(refused ? &lines[i].refusal : &lines[i].body) = STR_LIT("body\0bytes");
    }
    *ret = (struct ledger_op){.submit = {.batch = str_of(batch), .lines = lines, .count = count}};
    return run(l, ret, LEDGER_SUBMIT);
}

static uint64_t result(struct ledger *l, uint64_t job, uint64_t epoch, bool accept,
                       const char *body)
{
    struct ledger_result r = {.job = job,
                              .epoch = epoch,
                              .batch = result_batch,
                              .accept = accept,
                              .body = str_of(body),
                              .prompt_tokens = 3,
                              .completion_tokens = 4,
                              .energy_uj = result_energy_uj,
                              .attempts = 2};
    struct ledger_op op = {.results = {.items = &r, .count = 1}};
    CHECK_ERR(run(l, &op, LEDGER_RESULTS), ERR_OK);
    return r.ret_outcome;
}

static size_t fetch(struct ledger *l, const char *batch, bool by_line, uint64_t after, uint64_t max,
                    uint64_t max_bytes, struct ledger_op *op)
{
    *op = (struct ledger_op){.fetch = {.batch = str_of(batch),
                                       .by_line = by_line,
                                       .after = after,
                                       .max = max,
                                       .max_bytes = max_bytes}};
    CHECK_ERR(run(l, op, LEDGER_FETCH), ERR_OK);
    return op->fetch.ret_count;
}

/* ---- load ---- */

struct loaded {
    uint64_t counts[4], tokens, energy_uj, energy_jobs, jobs, attempts_rows, leased, attempts,
        epoch, twin; /* the greatest */
    bool sealed, cancelled;
    unsigned alices; /* batches of that client */
};

static enum err on_batch(void *user, const struct ledger_batch *b, const struct ledger_sums *sums)
{
    struct loaded *x = user;
    for (int i = 0; i < 4; i++)
        x->counts[i] += sums->counts[i];
    x->tokens += sums->prompt_tokens + sums->completion_tokens;
    x->energy_uj += sums->energy_uj;
    x->energy_jobs += sums->energy_jobs;
    x->sealed = b->sealed_ms != 0;
    x->cancelled = b->cancelled;
    x->alices += str_eq(b->client, STR_LIT("alice"));
    return ERR_OK;
}

static enum err on_job(void *user, const struct ledger_job *job)
{
    struct loaded *x = user;
    CHECK_INT(job->body_bytes, 10);
    x->jobs++;
    x->leased += job->leased;
    x->attempts += job->attempts;
    x->epoch = job->epoch > x->epoch ? job->epoch : x->epoch;
    x->twin = job->twin > x->twin ? job->twin : x->twin;
    return ERR_OK;
}

static enum err on_attempt(void *user, uint64_t job, const char *reason)
{
    struct loaded *x = user;
    (void)job;
    CHECK_STR(reason, "device lost");
    x->attempts_rows++;
    return ERR_OK;
}

static const struct ledger_loader loader = {on_batch, on_job, on_attempt};

static struct ledger *reopen(struct ledger *l, struct loaded *ret)
{
    struct err_msg why;
    ledger_close(&l);
    l = open_ledger();
    *ret = (struct loaded){0};
    CHECK_OK(ledger_load(l, &loader, ret, &why), why);
    return l;
}

#endif
