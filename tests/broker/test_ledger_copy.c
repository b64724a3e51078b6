/* Batches that leave the ledger, backups while it is written to, and compaction. */
#include "tests/broker/ledger_script.h"

enum { LINES = 600, ANSWER_BYTES = 8000 };

static char answer[ANSWER_BYTES + 1];

static uint64_t file_bytes(const char *file)
{
    struct stat st;
    return stat(file, &st) == 0 ? (uint64_t)st.st_size : 0;
}

static int64_t ask_sql(const char *file, const char *sql)
{
    sqlite3 *db = NULL;
    sqlite3_stmt *s = NULL;
    int64_t n = -1;
    if (CHECK(sqlite3_open_v2(file, &db, SQLITE_OPEN_READWRITE, NULL) == SQLITE_OK) &&
        CHECK(sqlite3_prepare_v2(db, sql, -1, &s, NULL) == SQLITE_OK) &&
        CHECK(sqlite3_step(s) == SQLITE_ROW))
        n = sqlite3_column_int64(s, 0);
    sqlite3_finalize(s);
    sqlite3_close(db);
    return n;
}

static unsigned mode_of(const char *file)
{
    struct stat st;
    return stat(file, &st) == 0 ? st.st_mode & 0777 : 0;
}

/* A batch whose lines are all answered. Returns its id. */
static uint64_t finished_batch(struct ledger *l, const char *name, size_t lines)
{
    uint64_t batch = 0;
    CHECK_ERR(new_batch(l, name, "", NULL), ERR_OK);
    for (size_t at = 0; at < lines; at += 200) {
        struct ledger_op op;
        struct ledger_result results[200];
        size_t count = lines - at < 200 ? lines - at : 200;
        CHECK_ERR(submit(l, name, at + 1, count, 0, false, &op), ERR_OK);
        batch = op.submit.ret_batch;
        for (size_t i = 0; i < count; i++)
            results[i] = (struct ledger_result){.job = op.submit.ret_jobs[i],
                                                .epoch = 1,
                                                .batch = batch,
                                                .accept = true,
                                                .body = str_of(answer)};
        arena_free(&op.arena);
        struct ledger_op stored = {.results = {.items = results, .count = count}};
        CHECK_ERR(run(l, &stored, LEDGER_RESULTS), ERR_OK);
        arena_free(&stored.arena);
    }
    return batch;
}

/* One piece; batch 0: of what is left. Returns its rows. */
static size_t forget(struct ledger *l, uint64_t batch, bool *more)
{
    struct ledger_op op = {.forget.batch = batch};
    CHECK_ERR(run(l, &op, LEDGER_FORGET), ERR_OK);
    *more = op.forget.ret_more;
    arena_free(&op.arena);
    return op.forget.ret_rows;
}

static size_t forget_all(struct ledger *l, uint64_t batch)
{
    size_t rows = 0;
    for (bool more = true; more; batch = 0)
        rows += forget(l, batch, &more);
    return rows;
}

static void check_whole(const char *file)
{
    CHECK_INT(ask_sql(file, "SELECT integrity_check='ok' FROM pragma_integrity_check"), 1);
}

/* It is gone by its name at once, from the file in pieces, also when the broker dies in between. */
static void test_forget(void)
{
    struct ledger_op op;
    struct loaded x;
    bool more = false, existed = true;
    snprintf(path, sizeof path, "%s/forget", dir);
    struct ledger *l = open_ledger();
    CHECK_INT(forget(l, 0, &more), 0);
    CHECK(!more);
    uint64_t old = finished_batch(l, "old", LINES);
    finished_batch(l, "other", 5);
    struct ledger_returned lost = {.job = 1, .counted = true, .reason = STR_LIT("device lost")};
    op = (struct ledger_op){.returned = {&lost, 1}};
    CHECK_ERR(run(l, &op, LEDGER_RETURN), ERR_OK);
    size_t rows = forget(l, old, &more);
    CHECK(rows > 0 && rows <= 256 && more);
    op = (struct ledger_op){.fetch = {.batch = STR_LIT("old"), .max = 10, .max_bytes = 1000}};
    CHECK_ERR(run(l, &op, LEDGER_FETCH), ERR_NOT_FOUND);
    CHECK_ERR(new_batch(l, "old", "", &existed), ERR_OK);
    CHECK(!existed);
    CHECK_ERR(submit(l, "old", 1, 3, 7, false, &op), ERR_OK); /* other lines than it had */
    arena_free(&op.arena);
    l = reopen(l, &x);
    CHECK_INT(x.jobs, 3);
    CHECK_INT(x.counts[LEDGER_DONE], LINES + 5 - rows);
    CHECK_INT(rows + forget_all(l, 0), LINES);
    l = reopen(l, &x);
    CHECK_INT(x.counts[LEDGER_DONE], 5);
    CHECK_INT(x.jobs, 3);
    CHECK_INT(x.alices, 2);
    CHECK_INT(x.attempts_rows, 0);
    CHECK_INT(fetch(l, "other", true, 0, 10, 1 << 20, &op), 5);
    arena_free(&op.arena);
    ledger_close(&l);
    CHECK_INT(ask_sql(path, "SELECT count(*) FROM request"), 8);
    CHECK_INT(ask_sql(path, "SELECT count(*) FROM result"), 5);
    CHECK_INT(ask_sql(path, "SELECT count(*) FROM batch"), 2);
    check_whole(path);
}

/* What leaves makes room for what comes: night after night the file keeps its size. No id comes
 * twice, though the newest batch is gone each time. */
static void test_reuse(void)
{
    struct ledger_op op;
    uint64_t first = 0;
    snprintf(path, sizeof path, "%s/reuse", dir);
    struct ledger *l = open_ledger();
    for (int night = 0; night < 6; night++) {
        uint64_t batch = finished_batch(l, "night", LINES);
        CHECK_INT(fetch(l, "night", false, 0, 2, 1 << 20, &op), 2);
        CHECK_INT(op.fetch.ret_items[0].seq, 1);
        arena_free(&op.arena);
        CHECK_INT(batch, night + 1);
        CHECK_INT(forget_all(l, batch),
                  night == 0 ? LINES - 1 : LINES); /* with the last night's last */
        ledger_close(&l);
        first = night == 0 ? file_bytes(path) : first;
        CHECK(file_bytes(path) < first + first / 4);
        CHECK_INT(ask_sql(path, "SELECT max(id) FROM job"), (night + 1) * LINES);
        CHECK_INT(ask_sql(path, "SELECT count(*) FROM job"), 1);
        l = open_ledger();
    }
    ledger_close(&l);
    CHECK(first > LINES * ANSWER_BYTES);
}

/* Large answers leave in more pieces: none of them takes long. */
static void test_large(void)
{
    static char large[3 << 20];
    struct ledger_op op;
    bool more = true;
    snprintf(path, sizeof path, "%s/large", dir);
    struct ledger *l = open_ledger();
    memset(large, 'x', sizeof large - 1);
    CHECK_ERR(new_batch(l, "b", "", NULL), ERR_OK);
    CHECK_ERR(submit(l, "b", 1, 6, 0, false, &op), ERR_OK);
    uint64_t batch = op.submit.ret_batch;
    for (int i = 0; i < 6; i++)
        CHECK_INT(result(l, op.submit.ret_jobs[i], 1, true, large), 0);
    arena_free(&op.arena);
    CHECK_INT(forget(l, batch, &more), 2);
    CHECK_INT(forget_all(l, 0), 3); /* not the last */
    ledger_close(&l);
}

static void begin_backup(struct ledger_op *op, const char *to)
{
    *op = (struct ledger_op){.kind = LEDGER_BACKUP, .backup.path = str_of(to)};
}

/* Made while lines and answers come in: a ledger that has all that was acknowledged before, and is
 * whole. */
static void test_backup(void)
{
    enum { MORE = 40 };
    struct ledger_op backup, again, submits[MORE], *ops[MORE + 2];
    struct rec_LINE lines[MORE];
    char to[128], part[160], hidden[160];
    struct loaded x;
    struct err_msg why;
    snprintf(path, sizeof path, "%s/live", dir);
    snprintf(to, sizeof to, "%s/copy", dir);
    snprintf(part, sizeof part, "%s.part", to);
    snprintf(hidden, sizeof hidden, "%s/.copy.part", dir);
    struct ledger *l = open_ledger();
    struct ledger_op op;
    begin_backup(&op, part); /* of the same name but for its end: it stays */
    CHECK_ERR(run(l, &op, LEDGER_BACKUP), ERR_OK);
    uint64_t first_bytes = file_bytes(part);
    CHECK(symlink("nowhere", hidden) == 0); /* of one that was cut short: it goes */
    finished_batch(l, "before", LINES);
    CHECK_ERR(new_batch(l, "during", "", NULL), ERR_OK);
    CHECK(chmod(path, 0640) == 0); /* prompts and answers: a copy is no more open */
    begin_backup(&backup, to);
    begin_backup(&again, hidden);
    ops[0] = &backup;
    ops[1] = &again;
    for (int i = 0; i < MORE; i++) {
        lines[i] =
            (struct rec_LINE){.line = (uint64_t)i + 1, .hash = 1, .body = STR_LIT("0123456789")};
        submits[i] = (struct ledger_op){
            .kind = LEDGER_SUBMIT,
            .submit = {.batch = STR_LIT("during"), .lines = &lines[i], .count = 1}};
        ops[i + 2] = &submits[i];
    }
    run_all(l, ops, MORE + 2);
    CHECK_OK(backup.err, backup.why);
    CHECK_ERR(again.err, ERR_AGAIN);
    for (int i = 0; i < MORE; i++) {
        CHECK_ERR(submits[i].err, ERR_OK);
        arena_free(&submits[i].arena);
    }
    CHECK_INT(mode_of(to), 0640);
    CHECK_INT(backup.backup.ret_bytes, file_bytes(to));
    CHECK_INT(ledger_backup_progress(l).total_bytes, file_bytes(to));
    CHECK(first_bytes > 0 && file_bytes(part) == first_bytes);
    CHECK(access(hidden, F_OK) != 0);
    begin_backup(&op, to);
    CHECK_ERR(run(l, &op, LEDGER_BACKUP), ERR_CONFLICT);
    CHECK_HAS(op.why.text, "it is there already");
    ledger_close(&l);
    memcpy(path, to, sizeof to); /* and on with the copy */
    CHECK_OK(try_open(0, 0, &l, &why), why);
    x = (struct loaded){0};
    CHECK_OK(ledger_load(l, &loader, &x, &why), why);
    CHECK_INT(x.counts[LEDGER_DONE], LINES);
    CHECK(x.jobs <= MORE);
    CHECK_INT(fetch(l, "before", true, LINES - 1, 10, 1 << 20, &op), 1);
    CHECK(str_eq(op.fetch.ret_items[0].body, str_of(answer)));
    arena_free(&op.arena);
    CHECK_ERR(submit(l, "during", 1, MORE + 1, 0, false, &op), ERR_CONFLICT); /* other hashes */
    arena_free(&op.arena);
    ledger_close(&l);
    check_whole(path);
}

/* A broker that stops leaves half a backup nowhere; one that cannot be written says why, and the
 * ledger goes on. */
static void test_backup_fails(void)
{
    char to[128], part[160];
    struct ledger_op op;
    snprintf(path, sizeof path, "%s/live", dir);
    snprintf(to, sizeof to, "%s/second", dir);
    snprintf(part, sizeof part, "%s/.second.part", dir);
    struct ledger *l = open_ledger();
    begin_backup(&op, "/nonexistent/folder/copy");
    CHECK_ERR(run(l, &op, LEDGER_BACKUP), ERR_IO);
    CHECK_HAS(op.why.text, "/nonexistent/folder/.copy.part");
    begin_backup(&op, to);
    op.done = done;
    ledger_submit(l, &op);
    ledger_close(&l);
    CHECK(op.err == ERR_CANCELLED || op.err == ERR_OK);
    CHECK((access(to, F_OK) == 0) == (op.err == ERR_OK));
    CHECK(access(part, F_OK) != 0);
    l = open_ledger();
    CHECK_ERR(new_batch(l, "after", "", NULL), ERR_OK);
    ledger_close(&l);
}

static void test_compact(void)
{
    uint64_t before = 0, after = 0;
    struct err_msg why;
    struct loaded x, y;
    char tmp[160];
    snprintf(path, sizeof path, "%s/compact", dir);
    snprintf(tmp, sizeof tmp, "%s/.compact.compact", dir);
    CHECK_ERR(ledger_compact(path, &before, &after, &why), ERR_NOT_FOUND);
    CHECK(access(path, F_OK) != 0);
    struct ledger *l = open_ledger();
    uint64_t batch = finished_batch(l, "old", LINES);
    finished_batch(l, "kept", 50);
    CHECK_INT(forget_all(l, batch), LINES);
    l = reopen(l, &x);
    CHECK_ERR(ledger_compact(path, &before, &after, &why), ERR_CONFLICT); /* in use */
    char id[40];
    snprintf(id, sizeof id, "%s", ledger_id(l));
    ledger_close(&l);
    uint64_t size = file_bytes(path);
    CHECK(chmod(path, 0600) == 0);
    CHECK_OK(ledger_compact(path, &before, &after, &why), why);
    CHECK_INT(before, size);
    CHECK_INT(after, file_bytes(path));
    CHECK(after < before / 4);
    CHECK(access(tmp, F_OK) != 0);
    CHECK_INT(mode_of(path), 0600);
    check_whole(path);
    l = open_ledger();
    y = (struct loaded){0};
    CHECK_OK(ledger_load(l, &loader, &y, &why), why);
    CHECK_INT(y.counts[LEDGER_DONE], 50);
    CHECK_STR(ledger_id(l), id);
    ledger_close(&l);
}

int main(void)
{
    if (!CHECK(mkdtemp(dir) != NULL))
        return check_report();
    memset(answer, 'a', ANSWER_BYTES);
    test_forget();
    test_reuse();
    test_large();
    test_backup();
    test_backup_fails();
    test_compact();
    check_remove(dir);
    return check_report();
}
