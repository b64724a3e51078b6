/* The ledger: each operation, each before and after a reopen, and what happens when the disk is
 * full, the file is no ledger, or somebody else has it. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "broker/ledger.h"
#include "tests/check.h"

static char dir[] = "/tmp/octo-ledger-XXXXXX";
static char path[128];
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t woken = PTHREAD_COND_INITIALIZER;
static unsigned wakes, done_count;

static void wake(void *user)
{
    (void)user;
    pthread_mutex_lock(&mutex);
    wakes++;
    pthread_cond_signal(&woken);
    pthread_mutex_unlock(&mutex);
}

static void done(struct ledger_op *op)
{
    (void)op;
    done_count++;
}

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

/* Waits until `count` operations were handed back. */
static void wait_for(struct ledger *l, unsigned count)
{
    for (;;) {
        ledger_poll(l);
        if (done_count >= count)
            return;
        pthread_mutex_lock(&mutex);
        while (wakes == 0)
            pthread_cond_wait(&woken, &mutex);
        wakes = 0;
        pthread_mutex_unlock(&mutex);
    }
}

static enum err run(struct ledger *l, struct ledger_op *op, enum ledger_kind kind)
{
    op->kind = kind;
    op->done = done;
    op->now_ms = 1000;
    done_count = 0;
    ledger_submit(l, op);
    wait_for(l, 1);
    return op->err;
}

static enum err new_batch(struct ledger *l, const char *name, const char *hash, bool *ret_existed)
{
    struct ledger_op op = {.batch_new.batch = {.name = str_of(name),
                                               .options_hash = str_of(hash),
                                               .options_text = STR_LIT("temperature 1"),
                                               .priority = 100,
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
                              .accept = accept,
                              .body = str_of(body),
                              .prompt_tokens = 3,
                              .completion_tokens = 4,
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
    uint64_t counts[4], tokens, jobs, attempts_rows, leased, attempts, epoch;
    bool sealed, cancelled;
};

static enum err on_batch(void *user, const struct ledger_batch *b, const uint64_t counts[4],
                         uint64_t prompt_tokens, uint64_t completion_tokens, uint64_t last_ms)
{
    struct loaded *x = user;
    (void)last_ms;
    for (int i = 0; i < 4; i++)
        x->counts[i] += counts[i];
    x->tokens += prompt_tokens + completion_tokens;
    x->sealed = b->sealed_ms != 0;
    x->cancelled = b->cancelled;
    return ERR_OK;
}

static enum err on_job(void *user, uint64_t batch, uint64_t job, uint64_t line, uint64_t body_bytes,
                       uint64_t attempts, uint64_t epoch, bool leased)
{
    struct loaded *x = user;
    (void)batch;
    (void)job;
    (void)line;
    CHECK_INT(body_bytes, 10);
    x->jobs++;
    x->leased += leased;
    x->attempts += attempts;
    x->epoch = epoch > x->epoch ? epoch : x->epoch;
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
    op = (struct ledger_op){
        .returned = {
            .job = jobs[2], .attempts = 1, .counted = true, .reason = STR_LIT("device lost")}};
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
    for (off_t at = 4096; at < st.st_size; at += 4096)
        write_file(garbage, 4096, at);
    enum err e = try_open(0, 0, &l, &why);
    if (e == ERR_OK)
        e = ledger_load(l, &loader, &x, &why);
    CHECK_ERR(e, ERR_FORMAT);
    CHECK_HAS(why.text, "malformed");
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

int main(void)
{
    if (mkdtemp(dir) == NULL)
        return 1;
    snprintf(path, sizeof path, "%s/killed", dir);
    test_kill(); /* forks: before there are threads */
    snprintf(path, sizeof path, "%s/life", dir);
    test_life();
    test_groups();
    snprintf(path, sizeof path, "%s/full", dir);
    test_full();
    test_bad_files();
    test_lock();
    char command[256];
    snprintf(command, sizeof command, "rm -rf '%s'", dir);
    if (system(command) != 0)
        fprintf(stderr, "left behind: %s\n", dir);
    return check_report();
}
