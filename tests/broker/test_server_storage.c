/* The real broker process on a disk that is full, and with requests and results that cannot be read
 * any more: the others go on. argv[1]: octoflow-broker. */
#pragma GCC diagnostic ignored "-Wunused-function"
#include <sqlite3.h>
#include <sys/resource.h>

#include "tests/broker/disk.h"
#include "tests/broker/own_broker.h"
#include "tests/broker/spoil.h"

/* ---- a full disk ---- */

static void limit_file_size(pid_t pid, rlim_t bytes)
{
    struct rlimit r;
    CHECK(prlimit(pid, RLIMIT_FSIZE, NULL, &r) == 0);
    r.rlim_cur = bytes;
    CHECK(prlimit(pid, RLIMIT_FSIZE, &r, NULL) == 0);
}

static void test_full_disk(void)
{
    static char big[1 << 20];
    pid_t broker = start("full", "1000", "60000");
    struct peer c = open_peer(), w = open_peer();
    make_batch(&c, "b", 2);
    say_hello(&w, "w", NULL, 0);
    pull(&w, 1);
    EXPECT(&w, MSG_TYPE_GRANT);
    struct rec_JOB_REF ref = {w.m.grant.jobs.items[0].job, w.m.grant.jobs.items[0].epoch};
    memset(big, 'x', sizeof big - 1);
    limit_file_size(broker, 200 << 10);
    send_result(&w, ref.job, ref.epoch, big);
    uint64_t end_ns = clock_mono_ns() + TIMEOUT_MS * NS_PER_MS;
    while (status(&c, "b")->problem.len == 0 && clock_mono_ns() < end_ns)
        ;
    char problem[512];
    struct str seen = status(&c, "b")->problem; /* STR_ARG reads its argument twice */
    snprintf(problem, sizeof problem, "%.*s", STR_ARG(seen));
    CHECK_HAS(problem, "storage: ledger");
    CHECK_HAS(problem, "File too large");
    struct rec_LINE line = {.line = 1, .hash = 1, .body = {big, sizeof big}};
    struct msg m = {.type = MSG_TYPE_SUBMIT};
    m.submit.batch = STR_LIT("open");
    m.submit.lines.items = &line;
    m.submit.lines.count = 1;
    limit_file_size(broker, RLIM_INFINITY);
    CHECK_INT(batch_new(&c, "open", "", ""), MSG_TYPE_BATCH_OK); /* it goes on at once */
    limit_file_size(broker, 200 << 10);
    CHECK_INT(call(&c, &m), MSG_TYPE_ERROR);
    CHECK(str_eq(c.m.error.code, STR_LIT("storage")));
    limit_file_size(broker, RLIM_INFINITY);
    EXPECT(&w, MSG_TYPE_RECONNECT); /* no acknowledgement: the worker is told to send again */
    say_hello(&w, "w", &ref, 1);
    CHECK_INT(w.m.welcome.lost.count, 0);
    CHECK_INT(outcome(&w, ref.job, ref.epoch, big), 0);
    CHECK_INT(status(&c, "b")->done, 1);
    CHECK_INT(status(&c, "b")->problem.len, 0);
    pull(&w, 1);
    EXPECT(&w, MSG_TYPE_GRANT);
    close_peer(&c);
    close_peer(&w);
    CHECK_INT(stop(broker), 0);
}

/* ---- damage ---- */

/* Lines 1 to SPOIL_LINES, which are in the file and not all in memory, in a sealed batch. */
static void submit_big(struct peer *c, const char *batch)
{
    struct rec_LINE lines[SPOIL_LINES];
    struct msg m = {.type = MSG_TYPE_SUBMIT};
    for (size_t i = 0; i < SPOIL_LINES; i++)
        lines[i] = (struct rec_LINE){.line = i + 1, .hash = 1, .body = spoil_body(i + 1, 'q')};
    m.submit.batch = str_of(batch);
    m.submit.lines.items = lines;
    m.submit.lines.count = SPOIL_LINES;
    CHECK_INT(batch_new(c, batch, "", "h"), MSG_TYPE_BATCH_OK);
    CHECK_INT(call(c, &m), MSG_TYPE_SUBMIT_OK);
    CHECK_INT(seal(c, batch, SPOIL_LINES), MSG_TYPE_OK); /* behind the checkpoint */
}

static void check_storage_error(const struct rec_FETCHED *f, struct arena *arena)
{
    struct rec_OUTPUT output = {0};
    struct err_msg why;
    char text[1024];
    CHECK(str_eq(f->state, STR_LIT("failed")));
    CHECK_OK(proto_decode_output(f->body.data, f->body.len, arena, &output, &why), why);
    CHECK_INT(output.status_code, 500);
    CHECK(str_eq(output.error_code, STR_LIT("storage")));
    snprintf(text, sizeof text, "%.*s", STR_ARG(output.error_message));
    CHECK_HAS(text, "cannot be read: ledger /tmp/octo-broker-");
    CHECK_HAS(text, "malformed");
}

/* Lease of each line, by the grants that w has credit for; the body is checked. */
static size_t take_grants(struct peer *w, struct rec_JOB_REF refs[SPOIL_LINES + 1], size_t count)
{
    size_t got = 0;
    while (got < count) {
        EXPECT(w, MSG_TYPE_GRANT);
        for (size_t i = 0; i < w->m.grant.jobs.count; i++, got++) {
            const struct rec_GRANT_JOB *g = &w->m.grant.jobs.items[i];
            CHECK(refs[g->line].job == 0 && str_eq(g->body, spoil_body(g->line, 'q')));
            refs[g->line] = (struct rec_JOB_REF){g->job, g->epoch};
        }
    }
    return got;
}

/* All of the batch by line: the bodies that were sent, but of `bad` the error. */
static void check_results(struct peer *c, const char *batch, uint64_t failed, uint64_t bad)
{
    uint64_t line = 0;
    size_t count;
    while ((count = fetch(c, batch, line)) > 0) {
        for (size_t i = 0; i < count; i++) {
            const struct rec_FETCHED *f = &c->m.fetch_ok.results.items[i];
            CHECK_INT(f->line, ++line);
            if (line == failed || line == bad)
                check_storage_error(f, &c->arena);
            else
                CHECK(str_eq(f->body, spoil_body(line, 'r')) && str_eq(f->state, STR_LIT("done")));
        }
    }
    CHECK_INT(line, SPOIL_LINES);
}

static void test_damaged_rows(void)
{
    struct rec_JOB_REF refs[SPOIL_LINES + 1] = {{0}};
    struct rec_RESULT results[SPOIL_LINES];
    pid_t broker = start("damaged", "1000", "60000");
    struct peer c = open_peer(), w = open_peer();
    submit_big(&c, "b");
    spoil(ledger, spoil_body(3, 'q'));
    say_hello(&w, "w", NULL, 0);
    pull(&w, SPOIL_LINES);
    CHECK_INT(take_grants(&w, refs, SPOIL_LINES - 1), SPOIL_LINES - 1);
    CHECK_INT(refs[3].job, 0);
    uint64_t end_ns = clock_mono_ns() + TIMEOUT_MS * NS_PER_MS;
    while (status(&c, "b")->failed == 0 && clock_mono_ns() < end_ns)
        ;
    CHECK_INT(status(&c, "b")->failed, 1);
    CHECK_INT(status(&c, "b")->problem.len, 0);
    CHECK_INT(fetch(&c, "b", 0), 1);
    CHECK_INT(c.m.fetch_ok.results.items[0].line, 3);
    CHECK_INT(c.m.fetch_ok.results.items[0].attempts, 0);
    check_storage_error(&c.m.fetch_ok.results.items[0], &c.arena);

    /* what failed uses up no credit */
    make_batch(&c, "next", 1);
    EXPECT(&w, MSG_TYPE_GRANT);
    CHECK(str_eq(w.m.grant.jobs.items[0].batch, STR_LIT("next")));

    struct msg m = {.type = MSG_TYPE_RESULTS};
    m.results.session = w.session;
    m.results.results.items = results;
    for (size_t line = 1; line <= SPOIL_LINES; line++) {
        if (line != 3)
            results[m.results.results.count++] = (struct rec_RESULT){
                .job = refs[line].job, .epoch = refs[line].epoch, .body = spoil_body(line, 'r')};
    }
    send_msg(&w, &m);
    EXPECT(&w, MSG_TYPE_ACKS);
    CHECK(str_eq(status(&c, "b")->state, STR_LIT("completed")));
    check_results(&c, "b", 3, 3);
    spoil(ledger, spoil_body(5, 'r'));
    check_results(&c, "b", 3, 5);
    CHECK_INT(status(&c, "b")->problem.len, 0);
    close_peer(&c);
    close_peer(&w);
    CHECK_INT(stop(broker), 0);
}

/* Overwrites all leaves of tables that have such a text. */
static size_t wipe_leaves(const char *text)
{
    static char page[LEDGER_PAGE_BYTES];
    size_t wiped = 0;
    int fd = open(ledger, O_RDWR | O_CLOEXEC);
    for (off_t at = LEDGER_PAGE_BYTES; pread(fd, page, sizeof page, at) == (ssize_t)sizeof page;
         at += LEDGER_PAGE_BYTES) {
        if (page[0] != 0x0d || memmem(page, sizeof page, text, strlen(text)) == NULL)
            continue;
        memset(page, 0xff, sizeof page);
        CHECK(pwrite(fd, page, sizeof page, at) == (ssize_t)sizeof page);
        wiped++;
    }
    close(fd);
    return wiped;
}

/* More than a few pages: a salvage may still find what is behind them, so not all of it fails. */
static void test_much_damage(void)
{
    enum { LINES = 400, MOST = 256 };
    pid_t broker = start("much", "1000", "60000");
    struct peer c = open_peer(), w = open_peer();
    make_batch(&c, "small", LINES);
    submit_big(&c, "big"); /* takes the others' pages out of the cache */
    struct msg cancel = {.type = MSG_TYPE_CANCEL};
    cancel.cancel.batch = STR_LIT("big");
    CHECK_INT(call(&c, &cancel), MSG_TYPE_CANCEL_OK);
    CHECK(wipe_leaves("request ") > 0);
    say_hello(&w, "w", NULL, 0);
    pull(&w, LINES);
    struct str problem = {0};
    uint64_t end_ns = clock_mono_ns() + TIMEOUT_MS * NS_PER_MS;
    while ((problem = status(&c, "small")->problem).len == 0 && clock_mono_ns() < end_ns)
        ;
    char text[512];
    snprintf(text, sizeof text, "%.*s", STR_ARG(problem));
    CHECK_HAS(text, "storage: more than 256 requests cannot be read");
    CHECK_HAS(text, "--salvage");
    CHECK_INT(fetch(&c, "small", 0), MOST);
    CHECK_INT(status(&c, "small")->queued, LINES - MOST);
    CHECK_INT(batch_new(&c, "more", "", ""), MSG_TYPE_BATCH_OK); /* it takes lines all the same */
    CHECK_INT(submit(&c, "more", 1, 1, 0), MSG_TYPE_SUBMIT_OK);
    CHECK_INT(receive(&w, QUIET_MS), MSG_NONE);
    close_peer(&c);
    close_peer(&w);
    CHECK_INT(stop(broker), 0);
}

/* ---- a read that fails once ---- */

/* The job waits, loses no attempt, and goes out later. */
static void test_failed_read(void)
{
    static struct own_broker broker;
    struct rec_JOB_REF refs[SPOIL_LINES + 1] = {{0}};
    struct disk *d = disk_new();
    CHECK(sqlite3_vfs_register(sqlite3_vfs_find(disk_vfs(d)), 1) == SQLITE_OK);
    own_start(&broker, "read",
              (struct server_options){.heartbeat_ms = 5000, .lease_ms = 60000, .max_attempts = 1});
    struct peer c = open_peer(), w = open_peer();
    submit_big(&c, "b");
    say_hello(&w, "w", NULL, 0);
    pull(&w, 1);
    CHECK_INT(take_grants(&w, refs, 1), 1);
    disk_fail(d, (struct disk_fault){.calls = DISK_READ, .count = 1, .code = SQLITE_IOERR_READ});
    pull(&w, 5);
    char problem[512] = "";
    uint64_t end_ns = clock_mono_ns() + TIMEOUT_MS * NS_PER_MS;
    while (problem[0] == '\0' && clock_mono_ns() < end_ns) {
        struct str seen = status(&c, "b")->problem;
        snprintf(problem, sizeof problem, "%.*s", STR_ARG(seen));
    }
    CHECK_HAS(problem, "read a request: disk I/O error");
    CHECK_INT(take_grants(&w, refs, 4), 4);
    CHECK_INT(disk_fault_hits(d), 1);
    CHECK(refs[2].job != 0 && refs[5].job != 0);
    CHECK_INT(outcome(&w, refs[2].job, refs[2].epoch, "two"), 0);
    CHECK_INT(status(&c, "b")->problem.len, 0);
    CHECK_INT(status(&c, "b")->failed, 0);
    CHECK_INT(fetch(&c, "b", 0), 1);
    CHECK_INT(c.m.fetch_ok.results.items[0].attempts, 1);
    close_peer(&c);
    close_peer(&w);
    own_stop(&broker);
    disk_free(&d);
}

int main(int argc, char **argv)
{
    if (argc < 2 || mkdtemp(dir) == NULL)
        return 1;
    broker_path = argv[1];
    ctx = zmq_ctx_new();
    test_full_disk();
    test_damaged_rows();
    test_much_damage();
    test_failed_read(); /* makes the disk in memory the default: last */
    zmq_ctx_term(ctx);
    check_remove(dir);
    return check_report();
}
