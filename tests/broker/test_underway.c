/* What happens while operations are on their way to the ledger and back, and how much is done: the
 * broker hears of what the ledger has done only when the test lets it, and calls are counted. The
 * linker puts functions of ours in the places of the broker's, and of the clock on the wall. */
#pragma GCC diagnostic ignored "-Wunused-function"
#include <stdatomic.h>

#include "base/log.h"
#include "broker/ledger.h"
#include "broker/suspects.h"
#include "tests/broker/own_broker.h"

enum { LONG_MS = 10000, SHORT_MS = 200, KINDS = LEDGER_BARRIER + 1 };

static atomic_bool held;
static atomic_uint submitted[KINDS];
static atomic_uint looked; /* for jobs to lease, while there are suspects */
static _Atomic uint64_t wall_back_ms;

void __real_ledger_poll(struct ledger *l);
void __wrap_ledger_poll(struct ledger *l);
void __real_ledger_submit(struct ledger *l, struct ledger_op *op);
void __wrap_ledger_submit(struct ledger *l, struct ledger_op *op);
size_t __real_suspects_lease(struct jobs *j, const struct seat *s, struct headroom_table *table,
                             size_t at, const struct jobs_want *want, struct job **ret_jobs,
                             bool *ret_none);
size_t __wrap_suspects_lease(struct jobs *j, const struct seat *s, struct headroom_table *table,
                             size_t at, const struct jobs_want *want, struct job **ret_jobs,
                             bool *ret_none);
uint64_t __real_clock_wall_ms(void);
uint64_t __wrap_clock_wall_ms(void);

void __wrap_ledger_poll(struct ledger *l)
{
    if (!held)
        __real_ledger_poll(l);
}

void __wrap_ledger_submit(struct ledger *l, struct ledger_op *op)
{
    submitted[op->kind]++;
    __real_ledger_submit(l, op);
}

size_t __wrap_suspects_lease(struct jobs *j, const struct seat *s, struct headroom_table *table,
                             size_t at, const struct jobs_want *want, struct job **ret_jobs,
                             bool *ret_none)
{
    looked++;
    return __real_suspects_lease(j, s, table, at, want, ret_jobs, ret_none);
}

uint64_t __wrap_clock_wall_ms(void)
{
    return __real_clock_wall_ms() - wall_back_ms;
}

static struct own_broker broker;

static void begin(const char *name, uint64_t heartbeat_ms, uint64_t keep_s)
{
    own_start(
        &broker, name,
        (struct server_options){
            .heartbeat_ms = heartbeat_ms, .lease_ms = 60000, .max_attempts = 3, .keep_s = keep_s});
}

/* So many of a kind have been submitted since the count was set to 0. */
static void wait_for(enum ledger_kind kind, unsigned count)
{
    uint64_t end_ns = clock_mono_ns() + TIMEOUT_MS * NS_PER_MS;
    while (submitted[kind] < count && clock_mono_ns() < end_ns)
        usleep(1000);
    CHECK_INT(submitted[kind], count);
}

static void wait_leased(struct peer *c, uint64_t leased)
{
    uint64_t end_ns = clock_mono_ns() + TIMEOUT_MS * NS_PER_MS;
    while (status(c, "b")->leased != leased && clock_mono_ns() < end_ns)
        usleep(1000);
    CHECK_INT(status(c, "b")->leased, leased);
}

/* What has come back meanwhile is heard with the next. */
static void let_go(struct peer *c)
{
    held = false;
    CHECK_INT(batch_new(c, "other", "", "h"), MSG_TYPE_BATCH_OK);
}

static void attempt_is_first(struct peer *w)
{
    EXPECT(w, MSG_TYPE_GRANT);
    CHECK_INT(w->m.grant.jobs.count, 1);
    CHECK_INT(w->m.grant.jobs.items[0].attempt, 1);
    CHECK_INT(outcome(w, w->m.grant.jobs.items[0].job, w->m.grant.jobs.items[0].epoch, "x"), 0);
}

/* A worker is gone before its GRANT could be sent: the job never was there, and has lost nothing.
 */
static void test_grant_not_sent(void)
{
    begin("silent", SHORT_MS, 0);
    struct peer c = open_peer(), w = open_peer(), other = open_peer();
    make_batch(&c, "b", 1);
    say_hello(&w, "w", NULL, 0);
    held = true;
    pull(&w, 1);
    wait_leased(&c, 1);
    wait_leased(&c, 0); /* silent for three heartbeats */
    held = false;
    say_hello(&other, "other", NULL, 0);
    pull(&other, 1);
    attempt_is_first(&other);
    close_peer(&c);
    close_peer(&w);
    close_peer(&other);
    own_stop(&broker);
    begin("restarted", LONG_MS, 0);
    c = open_peer();
    w = open_peer();
    make_batch(&c, "b", 1);
    say_hello(&w, "w", NULL, 0);
    held = true;
    pull(&w, 1);
    wait_leased(&c, 1);
    say_hello(&w, "w", NULL, 0);
    CHECK_INT(status(&c, "b")->leased, 0);
    held = false;
    pull(&w, 1);
    attempt_is_first(&w);
    close_peer(&c);
    close_peer(&w);
    own_stop(&broker);
}

static void hello_with_two(struct peer *w)
{
    struct rec_MODEL models[2] = {{.name = STR_LIT("tiny"), .hash = STR_LIT("00ff")},
                                  {.name = STR_LIT("large"), .hash = STR_LIT("11ff")}};
    struct msg m = {.type = MSG_TYPE_HELLO};
    m.hello.worker = STR_LIT("w");
    m.hello.host = m.hello.build = m.hello.device = m.hello.driver = STR_LIT("test");
    m.hello.numeric_class = STR_LIT("class");
    m.hello.models.items = models;
    m.hello.models.count = 2;
    m.hello.load_ms = 100;
    send_msg(w, &m);
    EXPECT(w, MSG_TYPE_WELCOME);
    w->session = w->m.welcome.session;
}

/* The last line for a worker's model is on its way through the ledger, so nothing waits for that
 * model: the order to load another comes behind the line, which would be handed back else. */
static void test_load_behind_grant(void)
{
    begin("change", LONG_MS, 0);
    struct peer c = open_peer(), w = open_peer();
    CHECK_INT(batch_new(&c, "b", "tiny", "h"), MSG_TYPE_BATCH_OK);
    CHECK_INT(submit(&c, "b", 1, 1, 0), MSG_TYPE_SUBMIT_OK);
    CHECK_INT(batch_new(&c, "next", "large", "h"), MSG_TYPE_BATCH_OK);
    CHECK_INT(submit(&c, "next", 1, 1, 0), MSG_TYPE_SUBMIT_OK);
    hello_with_two(&w);
    held = true;
    pull(&w, 1);
    wait_leased(&c, 1);
    const struct str decided = STR_LIT("worker w loads model large");
    uint64_t end_ns = clock_mono_ns() + TIMEOUT_MS * NS_PER_MS;
    while (!str_eq(status(&c, "next")->problem, decided) && clock_mono_ns() < end_ns)
        usleep(1000);
    CHECK(str_eq(status(&c, "next")->problem, decided));
    /* It is not said yet. */
    beat(&w, 0, 0);
    EXPECT(&w, MSG_TYPE_BEAT_OK);
    CHECK_INT(w.m.beat_ok.load.len, 0);
    let_go(&c);
    EXPECT(&w, MSG_TYPE_GRANT);
    CHECK_INT(w.m.grant.jobs.count, 1);
    CHECK(str_eq(w.m.grant.jobs.items[0].model, STR_LIT("tiny")));
    struct rec_JOB_REF ref = {w.m.grant.jobs.items[0].job, w.m.grant.jobs.items[0].epoch};
    beat(&w, ref.job, ref.epoch);
    EXPECT(&w, MSG_TYPE_BEAT_OK);
    CHECK(str_eq(w.m.beat_ok.load, STR_LIT("11ff")));
    CHECK_INT(outcome(&w, ref.job, ref.epoch, "x"), 0);
    close_peer(&c);
    close_peer(&w);
    own_stop(&broker);
}

/* All jobs of a worker come back at once: the ledger is told in a few operations. */
static void test_many_come_back(void)
{
    enum { JOBS = 500, NOTES = (JOBS + 63) / 64 };
    size_t granted = 0;
    begin("many", LONG_MS, 0);
    struct peer c = open_peer(), w = open_peer();
    make_batch(&c, "b", JOBS);
    say_hello(&w, "w", NULL, 0);
    pull(&w, JOBS);
    while (granted < JOBS) {
        EXPECT(&w, MSG_TYPE_GRANT);
        granted += w.m.grant.jobs.count;
    }
    submitted[LEDGER_RETURN] = 0;
    say_hello(&w, "w", NULL, 0); /* restarted */
    wait_leased(&c, 0);
    wait_for(LEDGER_RETURN, NOTES);
    pull(&w, 1);
    EXPECT(&w, MSG_TYPE_GRANT);
    CHECK_INT(w.m.grant.jobs.items[0].attempt, 2);
    close_peer(&c);
    close_peer(&w);
    own_stop(&broker);
    begin("many", LONG_MS, 0); /* and it has kept them */
    c = open_peer();
    w = open_peer();
    say_hello(&w, "w", NULL, 0);
    pull(&w, JOBS);
    EXPECT(&w, MSG_TYPE_GRANT);
    for (size_t i = 0; i < w.m.grant.jobs.count; i++)
        CHECK_INT(w.m.grant.jobs.items[i].attempt, 2);
    close_peer(&c);
    close_peer(&w);
    own_stop(&broker);
}

/* While a suspect runs, and all else is paused, nobody looks through what is paused for each worker
 * that has room. */
static void test_suspect_beside_paused(void)
{
    begin("paused", LONG_MS, 0);
    struct peer c = open_peer(), w1 = open_peer(), w2 = open_peer();
    struct msg m = {.type = MSG_TYPE_BATCH_NEW};
    m.batch_new.batch = STR_LIT("p");
    m.batch_new.paused = true;
    CHECK_INT(call(&c, &m), MSG_TYPE_BATCH_OK);
    CHECK_INT(submit(&c, "p", 1, 1, 0), MSG_TYPE_SUBMIT_OK);
    make_batch(&c, "b", 1);
    say_hello(&w1, "w1", NULL, 0);
    pull(&w1, 8);
    EXPECT(&w1, MSG_TYPE_GRANT);
    struct rec_NACK_JOB back = {.job = w1.m.grant.jobs.items[0].job,
                                .epoch = w1.m.grant.jobs.items[0].epoch,
                                .counts = true};
    m = (struct msg){.type = MSG_TYPE_NACK};
    m.nack.session = w1.session;
    m.nack.jobs.items = &back;
    m.nack.jobs.count = 1;
    send_msg(&w1, &m);
    EXPECT(&w1, MSG_TYPE_GRANT);
    CHECK_INT(w1.m.grant.jobs.items[0].attempt, 2);
    CHECK(looked > 0);
    say_hello(&w2, "w2", NULL, 0);
    pull(&w2, 8);
    beat(&w2, 0, 0);
    EXPECT(&w2, MSG_TYPE_BEAT_OK);
    looked = 0;
    for (int i = 0; i < 20; i++) {
        beat(&w2, 0, 0);
        EXPECT(&w2, MSG_TYPE_BEAT_OK);
    }
    CHECK_INT(looked, 0);
    make_batch(&c, "more", 1); /* what may start does */
    EXPECT(&w2, MSG_TYPE_GRANT);
    close_peer(&c);
    close_peer(&w1);
    close_peer(&w2);
    own_stop(&broker);
}

static void send_set(struct peer *c, struct rec_SCHEDULE schedule, uint64_t changes)
{
    struct msg m = {.type = MSG_TYPE_BATCH_SET};
    m.batch_set.seq = ++c->seq;
    m.batch_set.batch = STR_LIT("b");
    PROTO_COPY(SCHEDULE_FIELDS, &m.batch_set, &schedule);
    m.batch_set.changes = changes;
    send_msg(c, &m);
}

static void pull_at(struct peer *w, uint64_t credit, double tokens_per_s)
{
    struct msg m = {.type = MSG_TYPE_PULL};
    m.pull.session = w->session;
    m.pull.credit_total = credit;
    m.pull.decode_tokens_per_s = tokens_per_s;
    m.pull.duty = 1;
    send_msg(w, &m);
}

/* A suspect, of a batch that is paused or waits for a worker apart: the others are shared out by
 * speed all the same. */
static void test_shares_beside_suspect(bool paused)
{
    begin(paused ? "share-p" : "share", LONG_MS, 0);
    struct peer c = open_peer(), w1 = open_peer(), fast = open_peer(), slow = open_peer();
    make_batch(&c, "b", 1);
    say_hello(&w1, "w1", NULL, 0);
    pull(&w1, 1);
    EXPECT(&w1, MSG_TYPE_GRANT);
    if (paused) {
        send_set(&c, (struct rec_SCHEDULE){.priority = 100, .paused = true}, 0);
        CHECK_INT(receive(&c, TIMEOUT_MS), MSG_TYPE_BATCH_OK);
    }
    struct rec_NACK_JOB back = {.job = w1.m.grant.jobs.items[0].job,
                                .epoch = w1.m.grant.jobs.items[0].epoch,
                                .counts = true};
    struct msg m = {.type = MSG_TYPE_NACK};
    m.nack.session = w1.session;
    m.nack.jobs.items = &back;
    m.nack.jobs.count = 1;
    send_msg(&w1, &m);
    beat(&w1, 0, 0);
    EXPECT(&w1, MSG_TYPE_BEAT_OK);
    if (!paused) { /* it is the one apart */
        pull(&w1, 2);
        EXPECT(&w1, MSG_TYPE_GRANT);
    }
    say_hello(&fast, "fast", NULL, 0);
    pull_at(&fast, 60, 900);
    say_hello(&slow, "slow", NULL, 0); /* the newest is asked first */
    pull_at(&slow, 60, 100);
    beat(&slow, 0, 0);
    EXPECT(&slow, MSG_TYPE_BEAT_OK);
    make_batch(&c, "night", 60);
    EXPECT(&fast, MSG_TYPE_GRANT);
    EXPECT(&slow, MSG_TYPE_GRANT);
    CHECK(fast.m.grant.jobs.count > 45);
    CHECK(slow.m.grant.jobs.count < 15);
    close_peer(&c);
    close_peer(&w1);
    close_peer(&fast);
    close_peer(&slow);
    own_stop(&broker);
}

/* Two who change different things of a batch at once: both have their way. */
static void test_two_changes(void)
{
    begin("changes", LONG_MS, 0);
    struct peer a = open_peer(), b = open_peer(), c = open_peer();
    make_batch(&a, "b", 1);
    submitted[LEDGER_BATCH_SET] = 0;
    held = true;
    send_set(&a, (struct rec_SCHEDULE){.priority = 100, .paused = true}, SCHEDULE_BIT(paused));
    wait_for(LEDGER_BATCH_SET, 1);
    send_set(&b, (struct rec_SCHEDULE){.priority = 7, .max_parallel = 3},
             SCHEDULE_BIT(priority) | SCHEDULE_BIT(max_parallel));
    wait_for(LEDGER_BATCH_SET, 2);
    let_go(&c);
    EXPECT(&a, MSG_TYPE_BATCH_OK);
    EXPECT(&b, MSG_TYPE_BATCH_OK);
    const struct rec_BATCH *now = status(&c, "b");
    CHECK(now->paused);
    CHECK_INT(now->priority, 7);
    CHECK_INT(now->max_parallel, 3);
    send_set(&a, (struct rec_SCHEDULE){.priority = 9}, 0); /* all of it */
    EXPECT(&a, MSG_TYPE_BATCH_OK);
    now = status(&c, "b");
    CHECK(!now->paused && now->priority == 9 && now->max_parallel == 0);
    close_peer(&a);
    close_peer(&b);
    close_peer(&c);
    own_stop(&broker);
}

static void send_line(struct peer *c, uint64_t number)
{
    struct rec_LINE line = {.line = number, .hash = number, .body = STR_LIT("request")};
    struct msg m = {.type = MSG_TYPE_SUBMIT};
    m.submit.seq = ++c->seq;
    m.submit.batch = STR_LIT("b");
    m.submit.lines.items = &line;
    m.submit.lines.count = 1;
    send_msg(c, &m);
}

/* A worker says BYE again and again while what it sent before is not stored: that costs nothing. */
static void test_many_byes(void)
{
    begin("byes", LONG_MS, 0);
    struct peer c = open_peer(), w = open_peer();
    make_batch(&c, "b", 1);
    say_hello(&w, "w", NULL, 0);
    submitted[LEDGER_BARRIER] = 0;
    held = true;
    struct msg m = {.type = MSG_TYPE_BYE};
    m.bye.session = w.session;
    for (int i = 0; i < 100; i++)
        send_msg(&w, &m);
    beat(&w, 0, 0);
    EXPECT(&w, MSG_TYPE_BEAT_OK); /* it has read them all */
    CHECK_INT(submitted[LEDGER_BARRIER], 1);
    let_go(&c);
    EXPECT(&w, MSG_TYPE_BYE_OK);
    close_peer(&c);
    close_peer(&w);
    own_stop(&broker);
}

/* An old batch leaves the ledger while somebody submits to it, and the name is another's at once.
 */
static void test_name_again(void)
{
    wall_back_ms = 3600000; /* it is an hour old */
    begin("name", SHORT_MS, 0);
    struct peer c = open_peer();
    struct msg cancel = {.type = MSG_TYPE_CANCEL};
    make_batch(&c, "b", 1);
    cancel.cancel.batch = STR_LIT("b");
    CHECK_INT(call(&c, &cancel), MSG_TYPE_CANCEL_OK);
    close_peer(&c);
    own_stop(&broker);
    wall_back_ms = 0;
    for (int kind = 0; kind < KINDS; kind++)
        submitted[kind] = 0;
    held = true;
    begin("name", SHORT_MS, 4); /* what is not over yet is looked at again after a second */
    wait_for(LEDGER_FORGET, 1);
    struct peer before = open_peer(), after = open_peer(), maker = open_peer();
    c = open_peer();
    send_line(&before, 2);
    wait_for(LEDGER_SUBMIT, 1);
    struct msg m = {.type = MSG_TYPE_BATCH_NEW};
    m.batch_new.seq = ++maker.seq;
    m.batch_new.batch = STR_LIT("b");
    send_msg(&maker, &m);
    wait_for(LEDGER_BATCH_NEW, 1);
    send_line(&after, 3);
    wait_for(LEDGER_SUBMIT, 2);
    let_go(&c);
    EXPECT(&before, MSG_TYPE_ERROR);
    CHECK(str_eq(before.m.error.code, STR_LIT("not_found")));
    EXPECT(&maker, MSG_TYPE_BATCH_OK);
    CHECK(!maker.m.batch_ok.existed);
    EXPECT(&after, MSG_TYPE_SUBMIT_OK);
    CHECK_INT(status(&c, "b")->queued, 1);
    struct msg all = {.type = MSG_TYPE_STATUS};
    uint64_t end_ns = clock_mono_ns() + TIMEOUT_MS * NS_PER_MS;
    while (call(&c, &all) == MSG_TYPE_STATUS_OK && c.m.status_ok.batches.count > 2 &&
           clock_mono_ns() < end_ns) /* the old one goes */
        usleep(1000);
    CHECK_INT(c.m.status_ok.batches.count, 2);
    CHECK_INT(status(&c, "b")->queued, 1);
    CHECK_INT(batch_new(&c, "b", "", ""), MSG_TYPE_BATCH_OK);
    CHECK(c.m.batch_ok.existed);
    CHECK_INT(submit(&c, "b", 4, 1, 0), MSG_TYPE_SUBMIT_OK);
    CHECK_INT(status(&c, "b")->queued, 2);
    close_peer(&before);
    close_peer(&after);
    close_peer(&maker);
    close_peer(&c);
    own_stop(&broker);
}

int main(void)
{
    if (mkdtemp(dir) == NULL)
        return 1;
    log_init("broker", LOG_LEVEL_ERROR);
    ctx = zmq_ctx_new();
    test_grant_not_sent();
    test_load_behind_grant();
    test_many_come_back();
    test_suspect_beside_paused();
    test_shares_beside_suspect(true);
    test_shares_beside_suspect(false);
    test_two_changes();
    test_many_byes();
    test_name_again();
    zmq_ctx_term(ctx);
    check_remove(dir);
    return check_report();
}
