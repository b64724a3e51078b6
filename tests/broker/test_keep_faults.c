/* Batches that leave a ledger whose disk fails, or whose power is cut, at each of many moments: a
 * batch is there as a whole or gone, the others are never touched, and what is left of it leaves
 * afterwards. test_keep_faults [MOMENTS]. */
#include <unistd.h>

#include "tests/broker/disk.h"
#include "tests/broker/ledger_wait.h"

enum { OLD = 300, KEPT = 20, ANSWER_BYTES = 3000, MOMENTS = 40 };

static char path[64]; /* only its lock file is on a real disk */

static struct ledger *open_on(struct disk *d)
{
    struct ledger_options o = {
        .path = path, .vfs = disk_vfs(d), .wake = wake, .checkpoint_pages = 20};
    struct ledger *l = NULL;
    struct err_msg why;
    CHECK_OK(ledger_open(&o, &l, &why), why);
    return l;
}

static enum err run(struct ledger *l, struct ledger_op *op, enum ledger_kind kind)
{
    op->kind = kind;
    run_all(l, &op, 1);
    arena_free(&op->arena);
    return op->err;
}

static uint64_t add_batch(struct ledger *l, const char *name, size_t lines)
{
    static struct rec_LINE items[OLD];
    static char answer[ANSWER_BYTES];
    struct ledger_op op = {.batch_new.batch = {.name = str_of(name), .max_attempts = 3}};
    CHECK_ERR(run(l, &op, LEDGER_BATCH_NEW), ERR_OK);
    for (size_t i = 0; i < lines; i++)
        items[i] = (struct rec_LINE){
            .line = i + 1, .hash = i, .refusal = {answer, ANSWER_BYTES}}; /* answered at once */
    op = (struct ledger_op){.submit = {.batch = str_of(name), .lines = items, .count = lines}};
    CHECK_ERR(run(l, &op, LEDGER_SUBMIT), ERR_OK);
    return op.submit.ret_batch;
}

/* ---- what is there ---- */

struct found {
    uint64_t old, kept; /* lines under their names */
};

static enum err on_batch(void *user, const struct ledger_batch *b, const struct ledger_sums *sums)
{
    struct found *f = user;
    uint64_t lines = 0;
    for (int i = 0; i < 4; i++)
        lines += sums->counts[i];
    if (str_eq(b->name, STR_LIT("old")))
        f->old = lines;
    else if (str_eq(b->name, STR_LIT("kept")))
        f->kept = lines;
    else
        CHECK(b->name.len > 0 && b->name.data[0] == '\0');
    return ERR_OK;
}

static enum err on_job(void *user, const struct ledger_job *job)
{
    (void)user, (void)job;
    CHECK(!"all lines were answered");
    return ERR_OK;
}

static enum err on_attempt(void *user, uint64_t job, const char *reason)
{
    (void)user, (void)job, (void)reason;
    return ERR_OK;
}

static struct found look(struct ledger *l)
{
    static const struct ledger_loader loader = {on_batch, on_job, on_attempt};
    struct found f = {0};
    struct err_msg why;
    CHECK_OK(ledger_load(l, &loader, &f, &why), why);
    CHECK_INT(f.kept, KEPT);
    CHECK(f.old == 0 || f.old == OLD);
    return f;
}

/* Pieces until there are none, or `tries` are over. Returns how many failed. */
static size_t forget(struct ledger *l, uint64_t batch, size_t tries)
{
    size_t failed = 0;
    for (bool more = true; more && tries > 0; tries--) {
        struct ledger_op op = {.forget.batch = batch};
        bool bad = run(l, &op, LEDGER_FORGET) != ERR_OK;
        failed += bad;
        batch = bad ? batch : 0;
        more = bad || op.forget.ret_more;
    }
    return failed;
}

static void check_end(struct disk *d, uint64_t old)
{
    struct ledger *l = open_on(d);
    struct found f = look(l);
    CHECK_INT(forget(l, f.old > 0 ? old : 0, 100), 0);
    ledger_close(&l);
    l = open_on(d);
    f = look(l);
    CHECK_INT(f.old, 0);
    struct ledger_op op = {.fetch = {.batch = STR_LIT("kept"), .max = 100, .max_bytes = 1 << 20}};
    op.kind = LEDGER_FETCH;
    run_all(l, &(struct ledger_op *){&op}, 1);
    CHECK(op.err == ERR_OK && op.fetch.ret_count == KEPT);
    arena_free(&op.arena);
    ledger_close(&l);
}

static void fail_at(struct disk *base, uint64_t old, uint64_t moment, struct check_rng *rng)
{
    struct disk *d = disk_cut(base, DISK_EVERYTHING, 4096, false, rng);
    struct ledger *l = open_on(d);
    disk_fail(d, (struct disk_fault){.calls = DISK_CHANGES | DISK_READ,
                                     .first = moment,
                                     .count = 1 + check_rng_below(rng, 4),
                                     .code = 10 /* SQLITE_IOERR */,
                                     .lost = DISK_GONE});
    forget(l, old, 50);
    disk_fail(d, (struct disk_fault){0});
    ledger_close(&l);
    check_end(d, old);
    disk_free(&d);
}

static void cut_at(struct disk *base, uint64_t old, uint64_t moment, struct check_rng *rng)
{
    struct disk *d = disk_cut(base, DISK_EVERYTHING, 4096, false, rng);
    struct ledger *l = open_on(d);
    disk_power_off(d, moment);
    forget(l, old, 6);
    ledger_close(&l);
    enum disk_keep keep = (enum disk_keep)check_rng_below(rng, DISK_KEEP_WAYS);
    struct disk *after = disk_cut(d, keep, check_rng_below(rng, 2) == 0 ? 512 : 4096, true, rng);
    disk_free(&d);
    check_end(after, old);
    disk_free(&after);
}

/* How many events it takes without a fault. */
static uint64_t count_events(struct disk *base, uint64_t old, struct check_rng *rng)
{
    struct disk *d = disk_cut(base, DISK_EVERYTHING, 4096, false, rng);
    struct ledger *l = open_on(d);
    uint64_t before = disk_events(d);
    CHECK_INT(forget(l, old, 100), 0);
    ledger_close(&l);
    uint64_t events = disk_events(d) - before;
    disk_free(&d);
    return events;
}

int main(int argc, char **argv)
{
    struct check_rng rng = check_rng_start(31);
    uint64_t moments = argc > 1 ? strtoull(argv[1], NULL, 10) : MOMENTS;
    struct disk *base = disk_new();
    snprintf(path, sizeof path, "/tmp/octo-keep-%d", (int)getpid());
    struct ledger *l = open_on(base);
    uint64_t old = add_batch(l, "old", OLD);
    add_batch(l, "kept", KEPT);
    ledger_close(&l);
    uint64_t events = count_events(base, old, &rng);
    printf("%llu events\n", (unsigned long long)events);
    for (uint64_t i = 0; i < moments; i++) {
        uint64_t moment = i * events / moments + check_rng_below(&rng, events / moments + 1);
        fail_at(base, old, moment, &rng);
        cut_at(base, old, moment, &rng);
    }
    disk_free(&base);
    char lock[80];
    snprintf(lock, sizeof lock, "%s.lock", path);
    unlink(lock);
    return check_report();
}
