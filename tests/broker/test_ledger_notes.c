/* What the ledger notes beside results: leases, the order of completion, and both in files of older
 * schemas. */
#include "broker/salvage.h"
#include "tests/broker/disk.h"
#include "tests/broker/ledger_script.h"

static void run_sql(const char *sql)
{
    sqlite3 *db = NULL;
    char *why = NULL;
    CHECK(sqlite3_open(path, &db) == SQLITE_OK);
    if (!CHECK(sqlite3_exec(db, sql, NULL, NULL, &why) == SQLITE_OK))
        fprintf(stderr, "%s\n", why);
    sqlite3_free(why);
    sqlite3_close(db);
}

static void test_upgrade(void)
{
    struct err_msg why;
    struct ledger_op op;
    struct loaded x = {0};
    snprintf(path, sizeof path, "%s/schema-2", dir);
    struct ledger *l = open_ledger();
    CHECK_ERR(new_batch(l, "b", "", NULL), ERR_OK);
    CHECK_ERR(submit(l, "b", 1, 3, 0, false, &op), ERR_OK);
    arena_free(&op.arena);
    l = reopen(l, &x);
    CHECK_INT(x.alices, 1);
    CHECK_INT(x.leased, 0);
    ledger_close(&l);
    static const char to_2[] = "ALTER TABLE job DROP COLUMN energy_uj; DROP TABLE lease;"
                               "UPDATE job SET leased=1, epoch=5 WHERE line=2;"
                               "CREATE INDEX job_unfinished ON job(batch, line) WHERE state=0;"
                               "ALTER TABLE batch DROP COLUMN schedule; ALTER TABLE job DROP "
                               "COLUMN prefix; PRAGMA user_version=2";
    run_sql(to_2);
    l = open_ledger();
    x = (struct loaded){0};
    CHECK_OK(ledger_load(l, &loader, &x, &why), why);
    CHECK_INT(x.alices, 1);
    CHECK_INT(x.jobs, 3);
    CHECK_INT(x.leased, 1);
    CHECK_INT(x.epoch, 5);
    ledger_close(&l);
    run_sql(to_2);
    run_sql("ALTER TABLE batch DROP COLUMN client; PRAGMA user_version=1");
    x = (struct loaded){0};
    l = open_ledger();
    CHECK_OK(ledger_load(l, &loader, &x, &why), why);
    CHECK_INT(x.alices, 0);
    CHECK_INT(x.leased, 1);
    bool existed = false;
    CHECK_ERR(new_batch(l, "b", "", &existed), ERR_OK);
    CHECK(existed);
    ledger_close(&l);
}

static void four_lines(struct ledger *l, uint64_t ret_jobs[4])
{
    struct ledger_op op;
    CHECK_ERR(new_batch(l, "b", "", NULL), ERR_OK);
    CHECK_ERR(submit(l, "b", 1, 4, 0, false, &op), ERR_OK);
    memcpy(ret_jobs, op.submit.ret_jobs, 4 * sizeof *ret_jobs);
    arena_free(&op.arena);
}

/* Results with and without it; in a ledger that knew none before. */
static void test_energy(void)
{
    struct loaded x;
    snprintf(path, sizeof path, "%s/energy", dir);
    struct ledger *l = open_ledger();
    uint64_t jobs[4];
    four_lines(l, jobs);
    CHECK_INT(result(l, jobs[0], 1, true, "before"), 0);
    ledger_close(&l);
    run_sql("ALTER TABLE job DROP COLUMN energy_uj; ALTER TABLE batch DROP COLUMN schedule; ALTER "
            "TABLE job DROP COLUMN prefix;"
            "PRAGMA user_version=3");
    l = open_ledger();
    result_energy_uj = 2500;
    CHECK_INT(result(l, jobs[1], 1, true, "known"), 0);
    CHECK_INT(result(l, jobs[1], 1, true, "known"), 1); /* again: it counts once */
    result_energy_uj = 100;
    CHECK_INT(result(l, jobs[2], 1, true, "known"), 0);
    result_energy_uj = 0;
    CHECK_INT(result(l, jobs[3], 1, true, "unknown"), 0);
    l = reopen(l, &x);
    CHECK_INT(x.counts[LEDGER_DONE], 4);
    CHECK_INT(x.energy_uj, 2600);
    CHECK_INT(x.energy_jobs, 2);
    ledger_close(&l);
}

static void grant(struct ledger *l, struct ledger_grant *items, size_t count,
                  struct rec_JOB_REF *held, size_t held_count)
{
    struct ledger_op op = {
        .grant = {.items = items, .count = count, .held = held, .held_count = held_count}};
    CHECK_ERR(run(l, &op, LEDGER_GRANT), ERR_OK);
    arena_free(&op.arena);
}

static void test_leases(void)
{
    struct ledger_op op;
    struct loaded x;
    snprintf(path, sizeof path, "%s/leases", dir);
    struct ledger *l = open_ledger();
    uint64_t jobs[4];
    four_lines(l, jobs);
    struct ledger_grant first[3] = {{jobs[0], 10}, {jobs[1], 11}, {jobs[2], 12}};
    struct ledger_grant again[1] = {{jobs[1], 13}}, last[1] = {{jobs[3], 14}};
    grant(l, first, 3, NULL, 0);
    grant(l, again, 1, NULL, 0);
    l = reopen(l, &x);
    CHECK_INT(x.leased, 3);
    CHECK_INT(x.epoch, 13);
    CHECK_INT(x.twin, 11); /* nothing says that it has ended: it may be one of two */
    /* an old lease's end is not that of the job's last one */
    struct ledger_returned ended = {.job = jobs[1], .epoch = 11, .reason = STR_LIT("")};
    op = (struct ledger_op){.returned = {&ended, 1}};
    CHECK_ERR(run(l, &op, LEDGER_RETURN), ERR_OK);
    l = reopen(l, &x);
    CHECK_INT(x.leased, 3);
    CHECK_INT(x.twin, 0);
    ended.epoch = 13;
    op = (struct ledger_op){.returned = {&ended, 1}};
    CHECK_ERR(run(l, &op, LEDGER_RETURN), ERR_OK);
    CHECK_INT(result(l, jobs[2], 12, true, "two"), 0);
    l = reopen(l, &x);
    CHECK_INT(x.leased, 1);
    CHECK_INT(x.epoch, 13);
    /* what is not held any more is forgotten, though nothing else says that its lease ended */
    struct rec_JOB_REF held = {jobs[1], 13};
    grant(l, last, 1, &held, 1);
    l = reopen(l, &x);
    CHECK_INT(x.leased, 1);
    CHECK_INT(x.epoch, 14);
    struct rec_JOB_REF both[3] = {{jobs[0], 15}, {jobs[3], 14}, {jobs[0], 12}};
    grant(l, last, 1, both, 3); /* the last one twice: it is no twin of itself */
    l = reopen(l, &x);
    CHECK_INT(x.leased, 2);
    CHECK_INT(x.epoch, 15);
    CHECK_INT(x.twin, 12);
    ledger_close(&l);
}

/* A lease whose number is of the next generation uses that up, too: the next run has a later one,
 * also when the power was cut right after. */
static void test_generations(void)
{
    struct ledger_op op;
    struct err_msg why;
    struct disk *d = disk_new();
    struct check_rng rng = check_rng_start(1);
    snprintf(path, sizeof path, "%s/generations", dir);
    struct ledger_options o = {.path = path, .wake = wake, .vfs = disk_vfs(d)};
    struct ledger *l = NULL, *next = NULL;
    CHECK_OK(ledger_open(&o, &l, &why), why);
    CHECK_INT(ledger_generation(l), 1);
    CHECK_ERR(new_batch(l, "b", "", NULL), ERR_OK);
    CHECK_ERR(submit(l, "b", 1, 1, 0, false, &op), ERR_OK);
    struct ledger_grant lease = {op.submit.ret_jobs[0], UINT64_C(2) << 32 | 7};
    arena_free(&op.arena);
    grant(l, &lease, 1, NULL, 0);
    struct disk *left = disk_cut(d, DISK_NOTHING, 512, false, &rng);
    ledger_close(&l);
    disk_vfs(left);
    CHECK_OK(ledger_open(&o, &next, &why), why);
    CHECK_INT(ledger_generation(next), 3);
    ledger_close(&next);
    disk_free(&d);
    disk_free(&left);
}

/* Numbers near their end, which no broker writes: refused with what to do, or passed over. */
static void refused(const char *sql, bool at_open, const char *text)
{
    struct ledger *l = NULL;
    struct err_msg why = {{0}};
    struct loaded x = {0};
    run_sql(sql);
    enum err e = try_open(0, 0, &l, &why);
    CHECK((e != ERR_OK) == at_open);
    if (e == ERR_OK)
        e = ledger_load(l, &loader, &x, &why);
    CHECK_ERR(e, ERR_FORMAT);
    CHECK_HAS(why.text, path);
    CHECK_HAS(why.text, text);
    CHECK_HAS(why.text, "--salvage NEW-FILE");
    ledger_close(&l);
    struct salvage_report r;
    char new_path[160];
    snprintf(new_path, sizeof new_path, "%s-new", path);
    CHECK_OK(salvage_ledger(path, new_path, &r, &why), why);
    CHECK_INT(r.batches, 1);
    CHECK_OK(ledger_open(&(struct ledger_options){.path = new_path}, &l, &why), why);
    CHECK_OK(ledger_load(l, &loader, &x, &why), why);
    ledger_close(&l);
    unlink(new_path);
}

static void test_great_numbers(void)
{
    struct ledger_op op;
    struct loaded x;
    snprintf(path, sizeof path, "%s/great", dir);
    struct ledger *l = open_ledger();
    CHECK_ERR(new_batch(l, "b", "", NULL), ERR_OK);
    CHECK_ERR(submit(l, "b", 1, 2, 0, false, &op), ERR_OK);
    uint64_t job = op.submit.ret_jobs[0];
    arena_free(&op.arena);
    CHECK_INT(result(l, job, 5, true, "one"), 0);
    struct ledger_grant lease = {job + 1, 77};
    grant(l, &lease, 1, NULL, 0);
    ledger_close(&l);
    refused("UPDATE job SET seq=9223372036854775807 WHERE line=1", false,
            "place 9223372036854775807 in the order of completion");
    refused("UPDATE job SET seq=1 WHERE line=1; UPDATE job SET epoch=-1 WHERE line=2", false,
            "line 2");
    refused("UPDATE job SET epoch=100<<32 WHERE line=2", false, "of a later run");
    refused("UPDATE job SET epoch=0; UPDATE meta SET value=1<<30 WHERE key='generation'", true,
            "generation 1073741825");
    refused("UPDATE meta SET value=-1 WHERE key='generation'", true, "generation 0");
    /* leases are only notes: one that cannot be is none */
    run_sql("UPDATE meta SET value=5 WHERE key='generation';"
            "UPDATE lease SET jobs=jobs||x'0200000000000000ffffffffffffffff'");
    l = open_ledger();
    l = reopen(l, &x);
    CHECK_INT(x.leased, 1);
    CHECK_INT(x.epoch, 77);
    ledger_close(&l);
}

/* The order of completion has no gaps, also where lines that counted were taken back. */
static void test_seq(void)
{
    struct ledger_op op;
    snprintf(path, sizeof path, "%s/seq", dir);
    struct ledger *l = open_ledger();
    CHECK_ERR(new_batch(l, "b", "", NULL), ERR_OK);
    CHECK_ERR(submit(l, "b", 1, 2, 0, false, &op), ERR_OK);
    uint64_t job = op.submit.ret_jobs[1];
    arena_free(&op.arena);
    CHECK_ERR(submit(l, "b", 10, 1, 0, true, &op), ERR_OK);
    arena_free(&op.arena);
    static struct rec_LINE lines[2] = {{.line = 11, .hash = 1, .refusal = {"no", 2}},
                                       {.line = 1, .hash = 99, .body = {"other", 5}}};
    op = (struct ledger_op){.submit = {.batch = STR_LIT("b"), .lines = lines, .count = 2}};
    CHECK_ERR(run(l, &op, LEDGER_SUBMIT), ERR_CONFLICT);
    arena_free(&op.arena);
    CHECK_INT(result(l, job, 5, true, "two"), 0);
    CHECK_INT(fetch(l, "b", false, 0, 10, 1000, &op), 2);
    CHECK_INT(op.fetch.ret_items[0].seq, 1);
    CHECK_INT(op.fetch.ret_items[0].line, 10);
    CHECK_INT(op.fetch.ret_items[1].seq, 2);
    CHECK_INT(op.fetch.ret_items[1].line, 2);
    arena_free(&op.arena);
    ledger_close(&l);
}

int main(void)
{
    if (mkdtemp(dir) == NULL)
        return 1;
    test_upgrade();
    test_energy();
    test_leases();
    test_generations();
    test_great_numbers();
    test_seq();
    check_remove(dir);
    return check_report();
}
