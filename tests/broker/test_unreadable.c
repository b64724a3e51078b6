/* One request or result that cannot be read: the others of a grant and of a fetch are, and its item
 * says why: damaged for good, or only now. */
#pragma GCC diagnostic ignored "-Wunused-function"
#include "tests/broker/disk.h"
#include "tests/broker/ledger_script.h"
#include "tests/broker/spoil.h"

static struct ledger *open_on(struct disk *d)
{
    struct ledger *l = NULL;
    struct err_msg why;
    struct ledger_options o = {.path = path, .wake = wake, .vfs = d == NULL ? NULL : disk_vfs(d)};
    CHECK_OK(ledger_open(&o, &l, &why), why);
    if (l == NULL)
        exit(1);
    return l;
}

/* Jobs 1 to SPOIL_LINES. */
static void fill(struct ledger *l)
{
    struct rec_LINE lines[SPOIL_LINES];
    char ids[SPOIL_LINES][16];
    for (size_t i = 0; i < SPOIL_LINES; i++) {
        snprintf(ids[i], sizeof ids[i], "id-%zu", i + 1);
        lines[i] = (struct rec_LINE){
            .line = i + 1, .hash = 1, .custom_id = str_of(ids[i]), .body = spoil_body(i + 1, 'q')};
    }
    CHECK_ERR(new_batch(l, "b", "", NULL), ERR_OK);
    struct ledger_op op = {.submit = {.batch = STR_LIT("b"), .lines = lines, .count = SPOIL_LINES}};
    CHECK_ERR(run(l, &op, LEDGER_SUBMIT), ERR_OK);
    CHECK_INT(op.submit.ret_jobs[SPOIL_LINES - 1], SPOIL_LINES);
    arena_free(&op.arena);
}

static void finish_all(struct ledger *l)
{
    struct ledger_result items[SPOIL_LINES];
    for (size_t i = 0; i < SPOIL_LINES; i++)
        items[i] = (struct ledger_result){
            .job = i + 1, .epoch = 1, .batch = 1, .accept = true, .body = spoil_body(i + 1, 'r')};
    struct ledger_op op = {.results = {.items = items, .count = SPOIL_LINES}};
    CHECK_ERR(run(l, &op, LEDGER_RESULTS), ERR_OK);
}

/* Of jobs 1 to 5. The operation's arena has the answers. */
static void grant(struct ledger *l, struct ledger_grant items[5], struct ledger_op *op)
{
    for (size_t i = 0; i < 5; i++)
        items[i] = (struct ledger_grant){.job = i + 1, .epoch = 1};
    *op = (struct ledger_op){.grant = {.items = items, .count = 5}};
    CHECK_ERR(run(l, op, LEDGER_GRANT), ERR_OK);
}

static void check_grant(const struct ledger_grant items[5], size_t bad, enum err want)
{
    char id[16];
    for (size_t i = 0; i < 5; i++) {
        CHECK_ERR(items[i].ret_err, i + 1 == bad ? want : ERR_OK);
        snprintf(id, sizeof id, "id-%zu", i + 1);
        if (i + 1 != bad)
            CHECK(str_eq(items[i].ret_body, spoil_body(i + 1, 'q')) &&
                  str_eq(items[i].ret_custom_id, str_of(id)));
    }
}

static void test_damaged_request(void)
{
    struct ledger_grant items[5];
    struct ledger_op op;
    char text[512];
    snprintf(path, sizeof path, "%s/request", dir);
    struct ledger *l = open_on(NULL);
    fill(l);
    grant(l, items, &op);
    check_grant(items, 0, ERR_OK);
    arena_free(&op.arena);
    spoil(path, spoil_body(3, 'q'));
    CHECK_INT(fetch(l, "b", true, 0, 10, 100, &op), 0);
    arena_free(&op.arena);
    struct ledger_grant others[5] = {
        {.job = 999}, {.job = 24}, {.job = 23}, {.job = 22}, {.job = 21}};
    op = (struct ledger_op){.grant = {.items = others, .count = 5}};
    CHECK_ERR(run(l, &op, LEDGER_GRANT), ERR_OK);
    CHECK_ERR(others[0].ret_err, ERR_FORMAT);
    snprintf(text, sizeof text, "%.*s", STR_ARG(others[0].ret_why));
    CHECK_HAS(text, "not there");
    CHECK_ERR(others[1].ret_err, ERR_OK);
    arena_free(&op.arena);
    for (int i = 0; i < 2; i++) { /* final: it stays so */
        grant(l, items, &op);
        check_grant(items, 3, ERR_FORMAT);
        snprintf(text, sizeof text, "%.*s", STR_ARG(items[2].ret_why));
        CHECK_HAS(text, path);
        CHECK_HAS(text, "malformed");
        CHECK_HAS(text, "--salvage");
        arena_free(&op.arena);
    }
    ledger_close(&l);
}

/* All results, without the one of line `bad` (0: none), and that one said. */
static void check_fetch(struct ledger *l, bool by_line, size_t bad)
{
    struct ledger_op op;
    CHECK_INT(fetch(l, "b", by_line, 0, 100, UINT64_MAX, &op), SPOIL_LINES);
    for (size_t i = 0; i < op.fetch.ret_count; i++) {
        const struct rec_FETCHED *f = &op.fetch.ret_items[i];
        struct str damaged =
            op.fetch.ret_damaged == NULL ? (struct str){0} : op.fetch.ret_damaged[i];
        CHECK_INT(f->line, i + 1);
        CHECK_INT(damaged.len > 0, i + 1 == bad);
        CHECK(f->custom_id.len > 0);
        if (i + 1 != bad)
            CHECK(str_eq(f->body, spoil_body(i + 1, 'r')));
        char text[512];
        snprintf(text, sizeof text, "%.*s", STR_ARG(damaged));
        if (damaged.len > 0)
            CHECK_HAS(text, "malformed");
    }
    arena_free(&op.arena);
}

static void test_damaged_result(void)
{
    snprintf(path, sizeof path, "%s/result", dir);
    struct ledger *l = open_on(NULL);
    fill(l);
    finish_all(l);
    check_fetch(l, true, 0);
    spoil(path, spoil_body(4, 'r'));
    check_fetch(l, true, 4);
    check_fetch(l, false, 4);
    ledger_close(&l);
}

/* The page of the requests' table that has line 2's custom_id: its answer goes out without. */
static void test_damaged_custom_id(void)
{
    static char page[LEDGER_PAGE_BYTES];
    struct ledger_op op;
    snprintf(path, sizeof path, "%s/custom-id", dir);
    struct ledger *l = open_on(NULL);
    fill(l);
    finish_all(l);
    check_fetch(l, true, 0);
    int fd = open(path, O_RDWR | O_CLOEXEC);
    unsigned wiped = 0;
    for (off_t at = LEDGER_PAGE_BYTES; pread(fd, page, sizeof page, at) == (ssize_t)sizeof page;
         at += LEDGER_PAGE_BYTES) {
        if (page[0] != 0x0d || memmem(page, sizeof page, "id-2", 4) == NULL)
            continue;
        memset(page, 0xff, sizeof page);
        CHECK(pwrite(fd, page, sizeof page, at) == (ssize_t)sizeof page);
        wiped++;
        break;
    }
    close(fd);
    CHECK_INT(wiped, 1);
    CHECK_INT(fetch(l, "b", true, 0, 100, UINT64_MAX, &op), SPOIL_LINES);
    size_t without = 0;
    for (size_t i = 0; i < op.fetch.ret_count; i++) {
        without += op.fetch.ret_items[i].custom_id.len == 0;
        CHECK(str_eq(op.fetch.ret_items[i].body, spoil_body(i + 1, 'r')));
    }
    CHECK_INT(op.fetch.ret_items[1].custom_id.len, 0);
    CHECK(without < 10);
    arena_free(&op.arena);
    ledger_close(&l);
}

static void fail_reads(struct disk *d, uint64_t first, uint64_t count, int code)
{
    disk_fail(
        d, (struct disk_fault){.calls = DISK_READ, .first = first, .count = count, .code = code});
}

/* What cannot be read now may be readable later; what was read wrongly once is read again. */
static void test_now_and_then(void)
{
    struct ledger_grant items[5];
    struct ledger_op op;
    struct disk *d = disk_new();
    snprintf(path, sizeof path, "%s/io", dir);
    struct ledger *l = open_on(d);
    fill(l);
    CHECK_INT(fetch(l, "b", true, 0, 1, 1, &op), 0); /* the checkpoint is over, too */
    arena_free(&op.arena);
    fail_reads(d, 0, 1, SQLITE_OK); /* the page that the leases are noted on */
    struct ledger_grant last = {.job = SPOIL_LINES, .epoch = 1};
    op = (struct ledger_op){.grant = {.items = &last, .count = 1}};
    CHECK_ERR(run(l, &op, LEDGER_GRANT), ERR_FORMAT);
    arena_free(&op.arena);
    op = (struct ledger_op){.grant = {.items = &last, .count = 1}};
    CHECK_ERR(run(l, &op, LEDGER_GRANT), ERR_OK);
    arena_free(&op.arena);
    fail_reads(d, 0, 1, SQLITE_IOERR_READ);
    grant(l, items, &op);
    CHECK_INT(disk_fault_hits(d), 1);
    check_grant(items, 1, ERR_IO);
    char text[512];
    snprintf(text, sizeof text, "%.*s", STR_ARG(items[0].ret_why));
    CHECK_HAS(text, "I/O");
    arena_free(&op.arena);
    fail_reads(d, 0, 1, SQLITE_OK);
    grant(l, items, &op);
    CHECK_INT(disk_fault_hits(d), 1);
    check_grant(items, 0, ERR_OK);
    arena_free(&op.arena);
    finish_all(l);
    CHECK_INT(fetch(l, "b", true, 0, 1, 1, &op), 1);
    arena_free(&op.arena);
    fail_reads(d, 200, 1000000, SQLITE_IOERR_READ); /* some 65 for each result */
    size_t count = fetch(l, "b", true, 0, 100, UINT64_MAX, &op);
    CHECK(count > 0 && count < SPOIL_LINES);
    arena_free(&op.arena);
    op = (struct ledger_op){
        .fetch = {
            .batch = STR_LIT("b"), .by_line = true, .after = count, .max = 9, .max_bytes = 99}};
    CHECK_ERR(run(l, &op, LEDGER_FETCH), ERR_IO);
    CHECK_INT(op.err_line, count + 1);
    arena_free(&op.arena);
    disk_fail(d, (struct disk_fault){0});
    check_fetch(l, true, 0);
    ledger_close(&l);
    disk_free(&d);
}

/* An old batch with a damaged row cannot leave as a whole: it is gone by its name, what is left of
 * it is not looked at again, others leave, and nobody else hears of it. */
static void test_damaged_one_leaves(void)
{
    struct ledger_op op;
    snprintf(path, sizeof path, "%s/leaves", dir);
    struct ledger *l = open_on(NULL);
    fill(l);
    finish_all(l);
    CHECK_ERR(new_batch(l, "small", "", NULL), ERR_OK);
    CHECK_ERR(submit(l, "small", 1, 5, 0, true, &op), ERR_OK);
    uint64_t small = op.submit.ret_batch;
    arena_free(&op.arena);
    CHECK_ERR(new_batch(l, "new", "", NULL), ERR_OK);
    spoil(path, spoil_body(3, 'r'));
    struct rec_LINE line = {.line = 1, .hash = 1, .body = STR_LIT("request")};
    struct ledger_op forget = {.kind = LEDGER_FORGET, .forget.batch = 1};
    struct ledger_op with = {.kind = LEDGER_SUBMIT,
                             .submit = {.batch = STR_LIT("new"), .lines = &line, .count = 1}};
    run_all(l, (struct ledger_op *[]){&forget, &with}, 2);
    CHECK_ERR(forget.err, ERR_OK);
    CHECK_ERR(with.err, ERR_OK);
    CHECK_INT(with.submit.ret_accepted, 1);
    arena_free(&with.arena);
    uint64_t stuck = forget.forget.ret_stuck;
    for (int piece = 0; piece < 10 && stuck == 0; piece++) { /* a piece is of some MiB */
        forget = (struct ledger_op){0};
        CHECK_ERR(run(l, &forget, LEDGER_FORGET), ERR_OK);
        stuck = forget.forget.ret_stuck;
    }
    CHECK_INT(stuck, 1);
    CHECK_HAS(forget.why.text, "malformed");
    op = (struct ledger_op){.fetch = {.batch = STR_LIT("b"), .max = 10, .max_bytes = 1000}};
    CHECK_ERR(run(l, &op, LEDGER_FETCH), ERR_NOT_FOUND);
    op = (struct ledger_op){.forget.batch = small};
    CHECK_ERR(run(l, &op, LEDGER_FORGET), ERR_OK);
    CHECK_INT(op.forget.ret_rows, 5);
    for (bool more = true; more; more = op.forget.ret_more) {
        op = (struct ledger_op){0};
        CHECK_ERR(run(l, &op, LEDGER_FORGET), ERR_OK);
        CHECK_INT(op.forget.ret_rows + op.forget.ret_stuck, 0);
    }
    ledger_close(&l);
}

int main(void)
{
    if (mkdtemp(dir) == NULL)
        return 1;
    test_damaged_request();
    test_damaged_one_leaves();
    test_damaged_result();
    test_damaged_custom_id();
    test_now_and_then();
    check_remove(dir);
    return check_report();
}
