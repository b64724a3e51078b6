/* The broker's quotas, against the real process: what is over is refused with the number in use,
 * what is there already passes, room comes back with results, and a restart forgets nothing.
 * argv[1]: octoflow-broker. */
#pragma GCC diagnostic ignored "-Wunused-function"
#include "tests/broker/script.h"

static void new_batch(struct peer *c, const char *name, const char *client)
{
    struct msg m = {.type = MSG_TYPE_BATCH_NEW};
    m.batch_new.batch = str_of(name);
    m.batch_new.client = str_of(client);
    CHECK_INT(call(c, &m), MSG_TYPE_BATCH_OK);
}

static void refused(struct peer *c, const char *batch, uint64_t first, size_t count,
                    const char *code, const char *text)
{
    CHECK_INT(submit(c, batch, first, count, 0), MSG_TYPE_ERROR);
    char got[512];
    snprintf(got, sizeof got, "%.*s", STR_ARG(c->m.error.text));
    CHECK(str_eq(c->m.error.code, str_of(code)));
    CHECK_HAS(got, text);
    CHECK_INT(c->m.error.seq, c->seq);
}

static void taken(struct peer *c, const char *batch, uint64_t first, size_t count, uint64_t fresh)
{
    if (!CHECK(submit(c, batch, first, count, 0) == MSG_TYPE_SUBMIT_OK))
        return;
    CHECK_INT(c->m.submit_ok.accepted, fresh);
    CHECK_INT(c->m.submit_ok.duplicates, count - fresh);
}

/* The worker takes n jobs and answers them. */
static void work(struct peer *w, uint64_t *credit, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        pull(w, ++*credit);
        EXPECT(w, MSG_TYPE_GRANT);
        struct rec_GRANT_JOB g = w->m.grant.jobs.items[0];
        CHECK_INT(outcome(w, g.job, g.epoch, "done"), 0);
    }
}

static void test_jobs(void)
{
    more[0] = "--max-client-jobs", more[1] = "10", more[2] = "--max-jobs", more[3] = "15";
    pid_t broker = start("jobs", "1000", "60000");
    struct peer c = open_peer(), w = open_peer();
    new_batch(&c, "a1", "alice");
    new_batch(&c, "a2", "alice");
    new_batch(&c, "b", "bob");
    new_batch(&c, "n", "");
    taken(&c, "a1", 1, 6, 6);
    refused(&c, "a2", 1, 5, "quota", "client alice has 6 of 10 jobs unfinished, no room for 5");
    CHECK_INT(status(&c, "a2")->total, 0); /* all or none */
    taken(&c, "a2", 1, 4, 4);
    refused(&c, "a1", 7, 1, "quota", "client alice has 10 of 10");
    taken(&c, "a1", 1, 6, 0); /* again: nothing new */
    refused(&c, "a1", 6, 2, "quota", "client alice has 10 of 10");
    refused(&c, "b", 1, 11, "too_large", "11 jobs in one message, the quota of client bob is 10");
    taken(&c, "b", 1, 3, 3);
    refused(&c, "n", 1, 3, "quota", "this broker has 13 of 15 jobs unfinished");
    taken(&c, "n", 1, 2, 2);
    CHECK(str_eq(status(&c, "a1")->client, STR_LIT("alice")));

    say_hello(&w, "w", NULL, 0);
    uint64_t credit = 0;
    work(&w, &credit, 2); /* of a1, the oldest */
    taken(&c, "a1", 7, 2, 2);
    refused(&c, "a1", 9, 1, "quota", "this broker has 15 of 15");
    close_peer(&w);
    close_peer(&c);
    CHECK_INT(stop(broker), 0);

    broker = start("jobs", "1000", "60000");
    c = open_peer();
    struct msg cancel = {.type = MSG_TYPE_CANCEL};
    cancel.cancel.batch = STR_LIT("b");
    CHECK_INT(call(&c, &cancel), MSG_TYPE_CANCEL_OK);
    refused(&c, "a2", 5, 1, "quota", "client alice has 10 of 10");
    taken(&c, "n", 3, 3, 3);
    close_peer(&c);
    CHECK_INT(stop(broker), 0);
}

static void test_bytes(void)
{
    more[0] = "--max-client-bytes", more[1] = "100", more[2] = "--max-bytes", more[3] = "120";
    pid_t broker = start("bytes", "1000", "60000");
    struct peer c = open_peer();
    new_batch(&c, "a", "alice");
    new_batch(&c, "b", "bob");
    taken(&c, "a", 1, 9, 9); /* "request 1": 9 bytes each */
    refused(&c, "a", 10, 2, "quota", "client alice has 81 of 100 bytes unfinished, no room for 20");
    taken(&c, "a", 10, 1, 1);
    taken(&c, "b", 1, 3, 3);
    refused(&c, "b", 4, 1, "quota", "this broker has 118 of 120 bytes unfinished");
    refused(&c, "b", 4, 14, "too_large", "bytes in one message");
    close_peer(&c);
    CHECK_INT(stop(broker), 0);
}

/* Many submits at once, without waiting for answers: never more than the quota. */
static void test_at_once(void)
{
    enum { CLIENTS = 8, EACH = 4, LINES = 100 };
    more[0] = "--max-client-jobs", more[1] = "1000", more[2] = NULL;
    pid_t broker = start("once", "1000", "60000");
    struct peer c[CLIENTS];
    uint64_t accepted = 0, over = 0;
    for (int i = 0; i < CLIENTS; i++)
        c[i] = open_peer();
    new_batch(&c[0], "a", "alice");
    for (uint64_t k = 0; k < EACH; k++) {
        for (uint64_t i = 0; i < CLIENTS; i++) {
            struct rec_LINE lines[LINES];
            struct msg m = {.type = MSG_TYPE_SUBMIT};
            for (uint64_t n = 0; n < LINES; n++)
                lines[n] = (struct rec_LINE){
                    .line = 1 + (k * CLIENTS + i) * LINES + n, .hash = n, .body = STR_LIT("x")};
            m.submit.seq = ++c[i].seq;
            m.submit.batch = STR_LIT("a");
            m.submit.lines.items = lines;
            m.submit.lines.count = LINES;
            send_msg(&c[i], &m);
        }
    }
    for (int k = 0; k < EACH; k++) {
        for (int i = 0; i < CLIENTS; i++) {
            enum msg_type t = receive(&c[i], TIMEOUT_MS);
            if (t == MSG_TYPE_SUBMIT_OK)
                accepted += c[i].m.submit_ok.accepted;
            else if (CHECK(t == MSG_TYPE_ERROR))
                over += str_eq(c[i].m.error.code, STR_LIT("quota"));
        }
    }
    CHECK_INT(accepted, 1000);
    CHECK_INT(over, CLIENTS * EACH - 10);
    CHECK_INT(status(&c[0], "a")->queued, 1000);
    for (int i = 0; i < CLIENTS; i++)
        close_peer(&c[i]);
    CHECK_INT(stop(broker), 0);
}

/* Lines for a batch that is still on its way to the ledger: no way around the quota. */
static void test_not_there_yet(void)
{
    enum { SUBMITS = 4, LINES = 100 };
    more[0] = "--max-client-jobs", more[1] = "100", more[2] = NULL;
    pid_t broker = start("early", "2000", "60000");
    struct peer c = open_peer();
    new_batch(&c, "first", "alice");
    kill(broker, SIGSTOP);
    struct msg m = {.type = MSG_TYPE_BATCH_NEW};
    m.batch_new.batch = STR_LIT("a");
    m.batch_new.client = STR_LIT("alice");
    send_msg(&c, &m);
    struct rec_LINE lines[LINES];
    m = (struct msg){.type = MSG_TYPE_SUBMIT};
    m.submit.batch = STR_LIT("a");
    m.submit.lines.items = lines;
    m.submit.lines.count = LINES;
    for (uint64_t k = 0; k < SUBMITS; k++) {
        for (uint64_t n = 0; n < LINES; n++)
            lines[n] =
                (struct rec_LINE){.line = 1 + k * LINES + n, .hash = n, .body = STR_LIT("x")};
        send_msg(&c, &m);
    }
    kill(broker, SIGCONT);
    unsigned made = 0, refused = 0;
    for (int i = 0; i < SUBMITS + 1; i++) {
        enum msg_type t = receive(&c, TIMEOUT_MS);
        made += t == MSG_TYPE_BATCH_OK;
        refused += t == MSG_TYPE_ERROR && (str_eq(c.m.error.code, STR_LIT("not_found")) ||
                                           str_eq(c.m.error.code, STR_LIT("quota")));
    }
    CHECK_INT(made, 1);
    CHECK(refused >= SUBMITS - 1);
    CHECK(status(&c, "a")->queued <= 100);
    close_peer(&c);
    CHECK_INT(stop(broker), 0);
}

/* One worker a connection: names are no way to take all the seats. */
static void test_names(void)
{
    more[0] = NULL;
    pid_t broker = start("names", "1000", "60000");
    struct peer c = open_peer(), w = open_peer(), good = open_peer();
    make_batch(&c, "b", 2);
    say_hello(&good, "good", NULL, 0);
    char name[16];
    for (int i = 0; i < 40; i++) {
        snprintf(name, sizeof name, "w%d", i);
        say_hello(&w, name, NULL, 0);
    }
    pull(&w, 1);
    EXPECT(&w, MSG_TYPE_GRANT);
    struct msg m = {.type = MSG_TYPE_STATUS};
    CHECK_INT(call(&c, &m), MSG_TYPE_STATUS_OK);
    CHECK_INT(c.m.status_ok.workers.count, 2);
    say_hello(&w, "last", NULL, 0); /* and what that connection held goes back to the queue */
    uint64_t credit = 0;
    work(&good, &credit, 2);
    CHECK_INT(status(&c, "b")->done, 2);
    close_peer(&c);
    close_peer(&w);
    close_peer(&good);
    CHECK_INT(stop(broker), 0);
}

/* A large batch is gone over and cancelled in pieces, and the answer is one. Asked twice at once,
 * each line counts once. */
static void test_large_batch(void)
{
    enum { SUBMITS = 40, EACH = 512, LINES = SUBMITS * EACH, NAMED = 10000 };
    more[0] = NULL;
    pid_t broker = start("cancel", "1000", "60000");
    struct peer c = open_peer(), other = open_peer();
    new_batch(&c, "large", "");
    for (uint64_t i = 0; i < SUBMITS; i++)
        taken(&c, "large", 1 + i * EACH, EACH, EACH);
    CHECK_INT(fetch(&c, "large", 0), 0);
    struct rec_LINE last = {.line = LINES + 1, .hash = 1, .refusal = STR_LIT("no")};
    struct msg m = {.type = MSG_TYPE_SUBMIT};
    m.submit.batch = STR_LIT("large");
    m.submit.lines.items = &last;
    m.submit.lines.count = 1;
    CHECK_INT(call(&c, &m), MSG_TYPE_SUBMIT_OK);
    if (CHECK(fetch(&c, "large", 0) == 1)) /* behind all that are not finished */
        CHECK_INT(c.m.fetch_ok.results.items[0].line, LINES + 1);

    static uint64_t lines[NAMED];
    for (size_t i = 0; i < NAMED; i++)
        lines[i] = 2 * (i + 1);
    m = (struct msg){.type = MSG_TYPE_CANCEL, .cancel = {.batch = STR_LIT("large")}};
    m.cancel.lines = (struct u64s){lines, NAMED};
    CHECK_INT(call(&c, &m), MSG_TYPE_CANCEL_OK);
    CHECK_INT(c.m.cancel_ok.cancelled, NAMED);
    CHECK_INT(status(&c, "large")->queued, LINES - NAMED);

    m = (struct msg){.type = MSG_TYPE_CANCEL, .cancel = {.seq = 7, .batch = STR_LIT("large")}};
    send_msg(&c, &m);
    send_msg(&other, &m);
    EXPECT(&c, MSG_TYPE_CANCEL_OK);
    uint64_t cancelled = c.m.cancel_ok.cancelled;
    CHECK_INT(c.m.cancel_ok.seq, 7);
    EXPECT(&other, MSG_TYPE_CANCEL_OK);
    CHECK_INT(cancelled + other.m.cancel_ok.cancelled, LINES - NAMED);
    struct rec_BATCH b = *status(&c, "large");
    CHECK(str_eq(b.state, STR_LIT("cancelled")));
    CHECK_INT(b.cancelled, LINES);
    CHECK_INT(b.queued, 0);
    CHECK_INT(submit(&c, "large", LINES + 2, 1, 0), MSG_TYPE_ERROR);
    CHECK(str_eq(c.m.error.code, STR_LIT("conflict")));
    CHECK_INT(call(&c, &m), MSG_TYPE_CANCEL_OK);
    CHECK_INT(c.m.cancel_ok.cancelled, 0);
    close_peer(&c);
    close_peer(&other);
    CHECK_INT(stop(broker), 0);
}

/* Clients that fetch, as many as there may be, take no room away from workers: no result is
 * refused. The broker is stopped meanwhile, so that it finds all of it at once. */
static void test_fetchers_beside_results(void)
{
    enum { CLIENTS = 25, EACH = 20, JOBS = 16 };
    more[0] = NULL;
    pid_t broker = start("fetchers", "2000", "60000");
    struct peer c[CLIENTS], w = open_peer();
    for (int i = 0; i < CLIENTS; i++)
        c[i] = open_peer();
    make_batch(&c[0], "b", JOBS);
    for (int i = 1; i < CLIENTS; i++)
        CHECK_INT(status(&c[i], "b")->total, JOBS);
    say_hello(&w, "w", NULL, 0);
    pull(&w, JOBS);
    struct rec_JOB_REF jobs[JOBS];
    size_t count = 0;
    while (count < JOBS) {
        EXPECT(&w, MSG_TYPE_GRANT);
        for (size_t i = 0; i < w.m.grant.jobs.count && count < JOBS; i++) {
            const struct rec_GRANT_JOB *g = &w.m.grant.jobs.items[i];
            jobs[count++] = (struct rec_JOB_REF){g->job, g->epoch};
        }
    }
    kill(broker, SIGSTOP);
    struct msg m = {.type = MSG_TYPE_FETCH};
    m.fetch.batch = STR_LIT("b");
    m.fetch.max = 1000;
    for (int i = 0; i < CLIENTS * EACH; i++) {
        m.fetch.seq = (uint64_t)i + 1000;
        send_msg(&c[i % CLIENTS], &m);
    }
    for (size_t i = 0; i < JOBS; i++)
        send_result(&w, jobs[i].job, jobs[i].epoch, "done");
    kill(broker, SIGCONT);
    for (size_t i = 0; i < JOBS; i++) {
        EXPECT(&w, MSG_TYPE_ACKS); /* and no RECONNECT, which tells it to send again */
        CHECK_INT(w.m.acks.acks.count, 1);
    }
    for (int i = 0; i < CLIENTS; i++)
        close_peer(&c[i]);
    close_peer(&w);
    CHECK_INT(stop(broker), 0);
}

int main(int argc, char **argv)
{
    if (argc != 2 || mkdtemp(dir) == NULL)
        return 1;
    broker_path = argv[1];
    ctx = zmq_ctx_new();
    test_jobs();
    test_bytes();
    test_at_once();
    test_not_there_yet();
    test_names();
    test_large_batch();
    test_fetchers_beside_results();
    zmq_ctx_term(ctx);
    check_remove(dir);
    return check_report();
}
