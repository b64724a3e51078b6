/* The ledger: each operation, each before and after a reopen, and what happens when the disk is
 * full, the file is no ledger, or somebody else has it. */
#include "tests/broker/ledger_script.h"

/* ---- tests ---- */

static void test_life(void)
{
    struct loaded x;
    struct ledger_op op;
    bool existed = true;
    struct ledger *l = open_ledger();
    char id[33];
    snprintf(id, sizeof id, "%s", ledger_id(l));
    CHECK_INT(strlen(id), 32);
    CHECK_INT(ledger_generation(l), 1);
    CHECK_ERR(submit(l, "b", 1, 1, 0, false, &op), ERR_NOT_FOUND);
    CHECK_ERR(new_batch(l, "b", "h1", &existed), ERR_OK);
    CHECK(!existed);
    l = reopen(l, &x);
    CHECK_STR(ledger_id(l), id);
    CHECK_INT(ledger_generation(l), 2);
    CHECK_ERR(new_batch(l, "b", "h1", &existed), ERR_OK);
    CHECK(existed);
    CHECK_ERR(new_batch(l, "b", "h2", NULL), ERR_CONFLICT);

    CHECK_ERR(submit(l, "b", 1, 5, 0, false, &op), ERR_OK);
    CHECK_INT(op.submit.ret_accepted, 5);
    uint64_t jobs[6] = {0};
    memcpy(jobs + 1, op.submit.ret_jobs, 5 * sizeof *jobs);
    arena_free(&op.arena);
    l = reopen(l, &x);
    CHECK_INT(x.jobs, 5);
    CHECK_ERR(submit(l, "b", 3, 4, 0, false, &op), ERR_OK); /* 3, 4, 5 again, 6 new */
    CHECK_INT(op.submit.ret_accepted, 1);
    CHECK_INT(op.submit.ret_duplicates, 3);
    CHECK_INT(op.submit.ret_jobs[0], 0);
    arena_free(&op.arena);
    CHECK_ERR(submit(l, "b", 7, 2, 1, true, &op), ERR_OK); /* refused lines are results */
    arena_free(&op.arena);

    /* an edited line: nothing of the whole message is stored */
    static struct rec_LINE lines[2] = {{.line = 9, .hash = 90, .body = {"x", 1}},
                                       {.line = 2, .hash = 21, .body = {"x", 1}}};
    op = (struct ledger_op){.submit = {.batch = STR_LIT("b"), .lines = lines, .count = 2}};
    CHECK_ERR(run(l, &op, LEDGER_SUBMIT), ERR_CONFLICT);
    CHECK_INT(op.err_line, 2);
    CHECK_HAS(op.why.text, "line 2 of batch \"b\"");
    arena_free(&op.arena);
    l = reopen(l, &x);
    CHECK_INT(x.jobs, 6);
    CHECK_INT(x.counts[LEDGER_FAILED], 2);

    struct ledger_grant grants[2] = {{.job = jobs[1], .epoch = 77}, {.job = jobs[2], .epoch = 78}};
    op = (struct ledger_op){.grant = {.items = grants, .count = 2}};
    CHECK_ERR(run(l, &op, LEDGER_GRANT), ERR_OK);
    CHECK(str_eq(grants[1].ret_body, STR_LIT("body\0bytes")));
    CHECK(str_eq(grants[1].ret_custom_id, STR_LIT("cust\xc3\xa9")));
    arena_free(&op.arena);
    struct ledger_returned lost = {.job = jobs[2],
                                   .epoch = 78,
                                   .attempts = 1,
                                   .counted = true,
                                   .reason = STR_LIT("device lost")};
    op = (struct ledger_op){.returned = {&lost, 1}};
    CHECK_ERR(run(l, &op, LEDGER_RETURN), ERR_OK);
    l = reopen(l, &x);
    CHECK_INT(x.leased, 1);
    CHECK_INT(x.epoch, 78);
    CHECK_INT(x.attempts, 1);
    CHECK_INT(x.attempts_rows, 1);

    CHECK_INT(result(l, jobs[1], 77, true, "one"), 0);
    CHECK_INT(result(l, jobs[1], 77, true, "other"), 1);
    CHECK_INT(result(l, jobs[1], 76, false, "other"), 2);
    CHECK_INT(result(l, jobs[2], 78, false, "late"), 2); /* not accepted: only looked up */
    CHECK_INT(result(l, 999, 1, true, "nobody's"), 2);
    CHECK_INT(result(l, jobs[3], 80, true, "three"), 0);
    l = reopen(l, &x);
    CHECK_INT(result(l, jobs[1], 77, true, "other"), 1);
    CHECK_INT(x.counts[LEDGER_DONE], 2);
    CHECK_INT(x.tokens, 14);

    op = (struct ledger_op){.seal = {.batch = STR_LIT("b"), .lines = 7}};
    CHECK_ERR(run(l, &op, LEDGER_SEAL), ERR_CONFLICT);
    CHECK_HAS(op.why.text, "8 lines here, the input 7");
    op.seal.lines = 8;
    CHECK_ERR(run(l, &op, LEDGER_SEAL), ERR_OK);
    CHECK_ERR(submit(l, "b", 1, 2, 0, false, &op), ERR_OK);
    arena_free(&op.arena);
    CHECK_ERR(submit(l, "b", 10, 1, 0, false, &op), ERR_CONFLICT);
    CHECK_HAS(op.why.text, "sealed");
    arena_free(&op.arena);

    uint64_t some[3] = {4, 4, 1}; /* twice, and one that is done */
    op = (struct ledger_op){.cancel = {.batch = STR_LIT("b"), .lines = some, .count = 3}};
    CHECK_ERR(run(l, &op, LEDGER_CANCEL), ERR_OK);
    CHECK_INT(op.cancel.ret_count, 1);
    CHECK_INT(op.cancel.ret_jobs[0], jobs[4]);
    CHECK(!op.cancel.ret_whole);
    arena_free(&op.arena);
    op = (struct ledger_op){.cancel = {.batch = STR_LIT("b")}};
    CHECK_ERR(run(l, &op, LEDGER_CANCEL), ERR_OK);
    CHECK_INT(op.cancel.ret_count, 3);
    CHECK(op.cancel.ret_whole);
    arena_free(&op.arena);
    CHECK_INT(result(l, jobs[4], 81, true, "late"), 2);
    l = reopen(l, &x);
    CHECK_INT(x.counts[LEDGER_CANCELLED], 4);
    CHECK_INT(x.jobs, 0);
    CHECK(x.sealed && x.cancelled);

    CHECK_INT(fetch(l, "b", false, 0, 100, 1 << 20, &op), 8);
    static const uint64_t order[8] = {7, 8, 1, 3, 4, 2, 5, 6}; /* of completion */
    for (size_t i = 0; i < op.fetch.ret_count; i++) {
        CHECK_INT(op.fetch.ret_items[i].seq, i + 1);
        CHECK_INT(op.fetch.ret_items[i].line, order[i]);
    }
    CHECK(str_eq(op.fetch.ret_items[2].body, STR_LIT("one")));
    CHECK(str_eq(op.fetch.ret_items[2].state, STR_LIT("done")));
    CHECK_INT(op.fetch.ret_items[2].attempts, 2);
    CHECK(str_eq(op.fetch.ret_items[7].state, STR_LIT("cancelled")));
    CHECK_INT(op.fetch.ret_items[7].body.len, 0);
    arena_free(&op.arena);
    CHECK_INT(fetch(l, "b", false, 7, 100, 1 << 20, &op), 1);
    arena_free(&op.arena);
    CHECK_INT(fetch(l, "b", true, 0, 100, 1, &op), 1); /* one always fits */
    CHECK_INT(op.fetch.ret_items[0].line, 1);
    arena_free(&op.arena);
    CHECK_INT(fetch(l, "b", true, 6, 2, 1 << 20, &op), 2);
    arena_free(&op.arena);
    ledger_close(&l);
    CHECK(l == NULL);
}

/* Many operations at once: all in few groups, none lost, in order. */
static void test_groups(void)
{
    enum { COUNT = 2000 };
    static struct ledger_op ops[COUNT];
    static struct rec_LINE lines[COUNT];
    struct ledger *l = open_ledger();
    CHECK_ERR(new_batch(l, "group", "", NULL), ERR_OK);
    done_count = 0;
    for (int i = 0; i < COUNT; i++) {
        lines[i] =
            (struct rec_LINE){.line = (uint64_t)i + 1, .hash = 1, .body = STR_LIT("body\0bytes")};
        ops[i] = (struct ledger_op){.kind = LEDGER_SUBMIT, .done = done};
        ops[i].submit.batch = STR_LIT("group");
        ops[i].submit.lines = &lines[i];
        ops[i].submit.count = 1;
        ledger_submit(l, &ops[i]);
    }
    ledger_close(&l); /* runs what is queued */
    CHECK_INT(done_count, COUNT);
    uint64_t last = 0;
    for (int i = 0; i < COUNT; i++) {
        CHECK_ERR(ops[i].err, ERR_OK);
        CHECK(ops[i].submit.ret_jobs[0] > last);
        last = ops[i].submit.ret_jobs[0];
        arena_free(&ops[i].arena);
    }
    l = open_ledger();
    struct ledger_op op = {.seal = {.batch = STR_LIT("group"), .lines = COUNT}};
    CHECK_ERR(run(l, &op, LEDGER_SEAL), ERR_OK);
    ledger_close(&l);
}

static enum err fill(struct ledger *l, uint64_t *first)
{
    static char big[4096];
    memset(big, 'x', sizeof big);
    struct rec_LINE line = {.hash = 1, .body = {big, sizeof big}};
    for (int i = 0; i < 2000; i++) {
        line.line = (*first)++;
        struct ledger_op op = {.submit = {.batch = STR_LIT("full"), .lines = &line, .count = 1}};
        enum err e = run(l, &op, LEDGER_SUBMIT);
        arena_free(&op.arena);
        if (e != ERR_OK) {
            (*first)--;
            CHECK_HAS(op.why.text, path);
            return e;
        }
    }
    return ERR_OK;
}

static void test_full(void)
{
    struct ledger *l = NULL;
    struct err_msg why;
    uint64_t next = 1, jobs = 0;
    CHECK_OK(try_open(600, 0, &l, &why), why);
    CHECK_ERR(new_batch(l, "full", "", NULL), ERR_OK);
    CHECK_ERR(fill(l, &next), ERR_FULL);
    CHECK_ERR(fill(l, &next), ERR_FULL); /* still an error, still alive */
    struct ledger_op op;
    CHECK_INT(fetch(l, "full", true, 0, 1, 100, &op), 0);
    arena_free(&op.arena);
    ledger_close(&l);
    /* a limit of the system, as a full disk: then room again, in the same run */
    l = open_ledger();
    struct rlimit old, small;
    getrlimit(RLIMIT_FSIZE, &old);
    small = old;
    small.rlim_cur = 3 << 20;
    signal(SIGXFSZ, SIG_IGN);
    setrlimit(RLIMIT_FSIZE, &small);
    enum err e = fill(l, &next);
    CHECK(e == ERR_IO || e == ERR_FULL);
    setrlimit(RLIMIT_FSIZE, &old);
    jobs = next - 1;
    struct rec_LINE line = {.line = next, .hash = 1, .body = STR_LIT("fits")};
    op = (struct ledger_op){.submit = {.batch = STR_LIT("full"), .lines = &line, .count = 1}};
    CHECK_ERR(run(l, &op, LEDGER_SUBMIT), ERR_OK);
    arena_free(&op.arena);
    ledger_close(&l);
    l = open_ledger();
    op = (struct ledger_op){.seal = {.batch = STR_LIT("full"), .lines = jobs + 1}};
    CHECK_ERR(run(l, &op, LEDGER_SEAL),
              ERR_OK); /* all that was acknowledged, nothing that was not */
    ledger_close(&l);
}

static void write_file(const char *text, size_t len, off_t at)
{
    int fd = open(path, O_RDWR | O_CREAT, 0600);
    CHECK(fd >= 0 && pwrite(fd, text, len, at) == (ssize_t)len);
    close(fd);
}

static void test_bad_files(void)
{
    struct ledger *l = NULL;
    struct err_msg why;
    struct loaded x = {0};
    snprintf(path, sizeof path, "%s/garbage", dir);
    char garbage[8192];
    memset(garbage, 'G', sizeof garbage);
    write_file(garbage, sizeof garbage, 0);
    CHECK_ERR(try_open(0, 0, &l, &why), ERR_FORMAT);
    CHECK_HAS(why.text, "not a database");
    CHECK_HAS(why.text, path);

    snprintf(path, sizeof path, "%s/newer", dir);
    l = open_ledger();
    ledger_close(&l);
    write_file("\0\0\0\x63", 4, 60); /* user_version in SQLite's header */
    CHECK_ERR(try_open(0, 0, &l, &why), ERR_UNSUPPORTED);
    CHECK_HAS(why.text, "schema 99");

    snprintf(path, sizeof path, "%s/other", dir);
    l = open_ledger();
    ledger_close(&l);
    write_file("\0\0\0\x63", 4, 68); /* application_id */
    CHECK_ERR(try_open(0, 0, &l, &why), ERR_FORMAT);
    CHECK_HAS(why.text, "another program");

    snprintf(path, sizeof path, "%s/corrupt", dir);
    l = open_ledger();
    CHECK_ERR(new_batch(l, "b", "", NULL), ERR_OK);
    ledger_close(&l);
    struct stat st;
    CHECK(stat(path, &st) == 0);
    for (off_t at = LEDGER_PAGE_BYTES; at < st.st_size; at += LEDGER_PAGE_BYTES)
        write_file(garbage, 4096, at);
    enum err e = try_open(0, 0, &l, &why);
    if (e == ERR_OK)
        e = ledger_load(l, &loader, &x, &why);
    CHECK_ERR(e, ERR_FORMAT);
    CHECK_HAS(why.text, "damaged: Page");
    CHECK_HAS(why.text, "--salvage");
    if (l != NULL)
        ledger_close(&l);

    snprintf(path, sizeof path, "%s/none/ledger", dir);
    CHECK_ERR(try_open(0, 0, &l, &why), ERR_IO);
    CHECK_HAS(why.text, "No such file or directory");
}

static void test_lock(void)
{
    struct err_msg why;
    struct ledger *second = NULL;
    snprintf(path, sizeof path, "%s/locked", dir);
    struct ledger *l = open_ledger();
    CHECK_ERR(try_open(0, 40, &second, &why), ERR_CONFLICT);
    CHECK_HAS(why.text, "another broker");
    ledger_close(&l);
    CHECK_OK(try_open(0, 0, &second, &why), why);
    ledger_close(&second);
}

/* Killed at once after an acknowledgement: what was acknowledged is there. */
static void test_kill(void)
{
    snprintf(path, sizeof path, "%s/killed", dir);
    int pipe_fds[2];
    CHECK(pipe(pipe_fds) == 0);
    pid_t child = fork();
    if (child == 0) {
        struct ledger *l = open_ledger();
        struct ledger_op op;
        if (new_batch(l, "b", "", NULL) != ERR_OK ||
            submit(l, "b", 1, 300, 0, false, &op) != ERR_OK)
            _exit(1);
        for (int i = 0; i < 300; i++) {
            if (result(l, op.submit.ret_jobs[i], 9, true, "r") != 0 ||
                write(pipe_fds[1], "x", 1) != 1)
                _exit(1);
        }
        pause();
        _exit(0);
    }
    close(pipe_fds[1]);
    size_t acknowledged = 0;
    char c;
    while (acknowledged < 137 && read(pipe_fds[0], &c, 1) == 1)
        acknowledged++;
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    while (read(pipe_fds[0], &c, 1) == 1)
        acknowledged++;
    close(pipe_fds[0]);
    struct loaded x = {0};
    struct err_msg why;
    struct ledger *l = open_ledger();
    CHECK_OK(ledger_load(l, &loader, &x, &why), why);
    CHECK(acknowledged >= 137);
    CHECK(x.counts[LEDGER_DONE] >= acknowledged);
    CHECK_INT(x.counts[LEDGER_DONE] + x.counts[LEDGER_UNFINISHED], 300);
    ledger_close(&l);
}

/* A ledger of schema 1, which had no clients. */

/* New lines above the quota: none of them is stored; lines that are there are no news. */
static void test_quota(void)
{
    struct ledger_op op, again;
    snprintf(path, sizeof path, "%s/quota", dir);
    struct ledger *l = open_ledger();
    CHECK_ERR(new_batch(l, "b", "", NULL), ERR_OK);
    CHECK_ERR(submit(l, "b", 1, 4, 0, false, &op), ERR_OK);
    arena_free(&op.arena);
    CHECK_ERR(submit(l, "b", 5, 4, 0, true, &op), ERR_OK);
    arena_free(&op.arena);
    for (int i = 0; i < 4; i++) {
        struct rec_LINE lines[4];
        for (unsigned k = 0; k < 4; k++)
            lines[k] = (struct rec_LINE){
                .line = 3 + k * 3, .hash = (3 + k * 3) * 10, .body = STR_LIT("body")};
        again = (struct ledger_op){.submit = {.batch = STR_LIT("b"),
                                              .lines = lines,
                                              .count = 4,
                                              .limited = true,
                                              .max_jobs = i == 0 ? 1 : 2,
                                              .max_bytes = i == 1 ? 7 : 8}};
        CHECK_ERR(run(l, &again, LEDGER_SUBMIT), i < 2 ? ERR_RANGE : ERR_OK);
        if (i == 2)
            CHECK_INT(again.submit.ret_accepted, 2);
        if (i == 3)
            CHECK_INT(again.submit.ret_duplicates, 4);
        arena_free(&again.arena);
    }
    ledger_close(&l);
}

int main(void)
{
    if (mkdtemp(dir) == NULL)
        return 1;
    snprintf(path, sizeof path, "%s/killed", dir);
    test_kill(); /* forks: before there are threads */
    snprintf(path, sizeof path, "%s/life", dir);
    test_life();
    result_batch = 1;
    snprintf(path, sizeof path, "%s/life-known", dir);
    test_life();
    result_batch = 0;
    test_groups();
    snprintf(path, sizeof path, "%s/full", dir);
    test_full();
    test_bad_files();
    test_lock();
    test_quota();
    check_remove(dir);
    return check_report();
}
