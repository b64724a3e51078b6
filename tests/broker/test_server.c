/* The real broker process over ipc, with workers and clients that follow a script. Waiting is
 * always waiting for a message. argv[1]: octoflow-broker. */
#include "tests/broker/script.h"

/* ---- tests ---- */

static void test_run(void)
{
    pid_t broker = start("run", "1000", "5000");
    struct peer c = open_peer(), w = open_peer();
    CHECK_INT(submit(&c, "b", 1, 1, 0), MSG_TYPE_ERROR);
    CHECK(str_eq(c.m.error.code, STR_LIT("not_found")));
    CHECK_INT(batch_new(&c, "b", "", "h1"), MSG_TYPE_BATCH_OK);
    CHECK(!c.m.batch_ok.existed);
    CHECK_INT(batch_new(&c, "b", "", "h2"), MSG_TYPE_ERROR);
    CHECK(str_eq(c.m.error.code, STR_LIT("conflict")));
    CHECK_INT(c.m.error.seq, c.seq);
    CHECK_INT(submit(&c, "b", 1, 5, 0), MSG_TYPE_SUBMIT_OK);
    CHECK_INT(c.m.submit_ok.accepted, 5);
    CHECK_INT(submit(&c, "b", 1, 5, 0), MSG_TYPE_SUBMIT_OK);
    CHECK_INT(c.m.submit_ok.duplicates, 5);
    CHECK_INT(submit(&c, "b", 3, 4, 1), MSG_TYPE_ERROR);
    CHECK_INT(c.m.error.line, 3);
    CHECK(str_eq(status(&c, "b")->state, STR_LIT("open")));
    CHECK(str_eq(status(&c, "b")->problem, STR_LIT("no worker is connected")));
    CHECK_INT(seal(&c, "b", 6), MSG_TYPE_ERROR);
    CHECK_INT(seal(&c, "b", 5), MSG_TYPE_OK);

    say_hello(&w, "w1", NULL, 0);
    pull(&w, 2);
    EXPECT(&w, MSG_TYPE_GRANT);
    CHECK_INT(w.m.grant.jobs.count, 2);
    CHECK_INT(w.m.grant.session, w.session);
    struct rec_GRANT_JOB first = w.m.grant.jobs.items[0], second = w.m.grant.jobs.items[1];
    CHECK_INT(first.line, 1);
    CHECK_INT(first.attempt, 1);
    CHECK(str_eq(first.body, STR_LIT("request 1")));
    uint64_t job = first.job, epoch = first.epoch;
    pull(&w, 2); /* a repeated PULL grants nothing twice */
    beat(&w, job, epoch);
    EXPECT(&w, MSG_TYPE_BEAT_OK);
    CHECK_INT(w.m.beat_ok.cancel.count, 0);
    CHECK_INT(status(&c, "b")->leased, 2);
    CHECK_INT(status(&c, "b")->running_tokens, 7);
    CHECK_INT(c.m.status_ok.workers.items[0].leased, 2);
    CHECK_INT(outcome(&w, job, epoch, "one"), 0);
    CHECK_INT(outcome(&w, job, epoch, "one"), 1);
    CHECK_INT(outcome(&w, job, epoch + 1000, "forged"), 2);
    beat(&w, job, epoch);
    EXPECT(&w, MSG_TYPE_BEAT_OK);
    CHECK_INT(w.m.beat_ok.cancel.count, 1); /* done: not its lease any more */
    uint64_t granted = 2;
    for (uint64_t credit = 3; granted < 5; credit++) {
        pull(&w, credit);
        EXPECT(&w, MSG_TYPE_GRANT);
        granted += w.m.grant.jobs.count;
        CHECK(granted <= credit);
        struct rec_GRANT_JOB g = w.m.grant.jobs.items[0];
        CHECK_INT(outcome(&w, g.job, g.epoch, "more"), 0);
    }
    result_energy_j = -3; /* nonsense: not known */
    CHECK_INT(outcome(&w, second.job, second.epoch, "two"), 0);
    result_energy_j = 1.5;
    struct rec_BATCH b = *status(&c, "b");
    CHECK(str_eq(b.state, STR_LIT("completed")));
    CHECK_INT(b.done, 5);
    CHECK_INT(b.completion_tokens, 25);
    CHECK(b.energy_j == 4 * 1.5);
    CHECK_INT(b.energy_jobs, 4);
    CHECK(b.completed_ms > 0);
    CHECK_INT(c.m.status_ok.workers.items[0].done, 5);
    CHECK_INT(fetch(&c, "b", 0), 5);
    CHECK(str_eq(c.m.fetch_ok.results.items[0].body, STR_LIT("one")));
    CHECK_INT(c.m.fetch_ok.results.items[0].attempts, 1);
    CHECK_INT(fetch(&c, "b", 5), 0);

    /* credit is remembered: work that comes later goes out at once; a model nobody has does not */
    pull(&w, granted + 1);
    CHECK_INT(batch_new(&c, "other", "big", ""), MSG_TYPE_BATCH_OK);
    CHECK_INT(submit(&c, "other", 1, 1, 0), MSG_TYPE_SUBMIT_OK);
    CHECK(
        str_eq(status(&c, "other")->problem, STR_LIT("no worker has model big (there is: tiny)")));
    CHECK_INT(batch_new(&c, "by-hash", "00ff", ""), MSG_TYPE_BATCH_OK);
    CHECK_INT(submit(&c, "by-hash", 1, 1, 0), MSG_TYPE_SUBMIT_OK);
    EXPECT(&w, MSG_TYPE_GRANT);
    CHECK(str_eq(w.m.grant.jobs.items[0].batch, STR_LIT("by-hash")));
    struct msg bye = {.type = MSG_TYPE_BYE};
    bye.bye.session = w.session;
    send_msg(&w, &bye);
    EXPECT(&w, MSG_TYPE_BYE_OK);
    CHECK_INT(status(&c, "by-hash")->queued, 1);
    close_peer(&c);
    close_peer(&w);
    CHECK_INT(stop(broker), 0);
}

/* A worker goes silent: another gets its job, and its late result is dropped. */
static void test_silent_worker(void)
{
    pid_t broker = start("silent", "200", "100000");
    struct peer c = open_peer(), w1 = open_peer(), w2 = open_peer();
    make_batch(&c, "b", 1);
    say_hello(&w1, "w1", NULL, 0);
    pull(&w1, 1);
    EXPECT(&w1, MSG_TYPE_GRANT);
    uint64_t job = w1.m.grant.jobs.items[0].job, epoch = w1.m.grant.jobs.items[0].epoch;
    say_hello(&w2, "w2", NULL, 0);
    pull(&w2, 1);
    enum msg_type t = MSG_NONE;
    for (int i = 0; i < 400 && t != MSG_TYPE_GRANT; i++) {
        beat(&w2, 0, 0);
        t = receive(&w2, 25);
        if (t == MSG_TYPE_BEAT_OK)
            t = receive(&w2, 25);
    }
    if (CHECK(t == MSG_TYPE_GRANT)) {
        uint64_t epoch2 = w2.m.grant.jobs.items[0].epoch;
        CHECK_INT(w2.m.grant.jobs.items[0].attempt, 2);
        CHECK(epoch2 > epoch);
        send_result(&w1, job, epoch, "late");
        EXPECT(&w1, MSG_TYPE_RECONNECT);
        EXPECT(&w1, MSG_TYPE_ACKS);
        CHECK_INT(w1.m.acks.acks.items[0].outcome, 2);
        struct rec_JOB_REF holding = {job, epoch};
        say_hello(&w1, "w1", &holding, 1);
        CHECK_INT(w1.m.welcome.lost.count, 1);
        CHECK_INT(outcome(&w1, job, epoch, "late"), 2);
        CHECK_INT(outcome(&w2, job, epoch2, "in time"), 0);
        CHECK_INT(outcome(&w1, job, epoch, "late"), 2);
        CHECK_INT(fetch(&c, "b", 0), 1);
        CHECK(str_eq(c.m.fetch_ok.results.items[0].body, STR_LIT("in time")));
        CHECK_INT(c.m.fetch_ok.results.items[0].attempts, 2);
    }
    close_peer(&c);
    close_peer(&w1);
    close_peer(&w2);
    CHECK_INT(stop(broker), 0);
}

/* A worker that was given up brings its result, and nobody else has begun: it counts. */
static void test_given_up_too_early(void)
{
    pid_t broker = start("early", "100", "100000");
    struct peer c = open_peer(), w = open_peer();
    make_batch(&c, "b", 1);
    say_hello(&w, "w", NULL, 0);
    pull(&w, 1);
    EXPECT(&w, MSG_TYPE_GRANT);
    uint64_t job = w.m.grant.jobs.items[0].job, epoch = w.m.grant.jobs.items[0].epoch;
    uint64_t end_ns = clock_mono_ns() + TIMEOUT_MS * NS_PER_MS;
    while (status(&c, "b")->leased > 0 && clock_mono_ns() < end_ns)
        ;
    send_result(&w, job, epoch, "in time");
    EXPECT(&w, MSG_TYPE_RECONNECT);
    EXPECT(&w, MSG_TYPE_ACKS);
    CHECK_INT(w.m.acks.acks.items[0].outcome, 0);
    CHECK_INT(fetch(&c, "b", 0), 1);
    CHECK(str_eq(c.m.fetch_ok.results.items[0].body, STR_LIT("in time")));
    /* by another wire it might be another ledger's: that worker has to say HELLO first */
    struct peer other = open_peer();
    other.session = w.session;
    send_result(&other, job, epoch, "from elsewhere");
    EXPECT(&other, MSG_TYPE_RECONNECT);
    CHECK_INT(receive(&other, QUIET_MS), MSG_NONE);
    close_peer(&c);
    close_peer(&w);
    close_peer(&other);
    CHECK_INT(stop(broker), 0);
}

/* A worker that beats, but never names its job: the lease ends. */
static void test_lease_expiry(void)
{
    pid_t broker = start("lease", "200", "400");
    struct peer c = open_peer(), w = open_peer();
    make_batch(&c, "b", 1);
    say_hello(&w, "w", NULL, 0);
    pull(&w, 2);
    EXPECT(&w, MSG_TYPE_GRANT);
    uint64_t first = w.m.grant.jobs.items[0].epoch;
    for (int i = 0; i < 8; i++) { /* named: goes on beyond 400 ms */
        beat(&w, 1, first);
        EXPECT(&w, MSG_TYPE_BEAT_OK);
        CHECK_INT(w.m.beat_ok.cancel.count, 0);
        CHECK_INT(receive(&w, QUIET_MS), MSG_NONE);
    }
    enum msg_type t = MSG_NONE;
    for (int i = 0; i < 400 && t != MSG_TYPE_GRANT; i++) {
        beat(&w, 0, 0);
        t = receive(&w, 25);
        if (t == MSG_TYPE_BEAT_OK)
            t = receive(&w, 25);
    }
    CHECK_INT(t, MSG_TYPE_GRANT);
    CHECK_INT(w.m.grant.jobs.items[0].attempt, 2);
    CHECK(w.m.grant.jobs.items[0].epoch > first);
    close_peer(&c);
    close_peer(&w);
    CHECK_INT(stop(broker), 0);
}

static const char *nack_reason = "GPU trouble";

static void nack(struct peer *w, const struct rec_GRANT_JOB *g, bool counts, const char *checkpoint)
{
    struct rec_NACK_JOB n = {.job = g->job,
                             .epoch = g->epoch,
                             .counts = counts,
                             .reason = str_of(nack_reason),
                             .checkpoint = str_of(checkpoint)};
    struct msg m = {.type = MSG_TYPE_NACK};
    m.nack.session = w->session;
    m.nack.jobs.items = &n;
    m.nack.jobs.count = 1;
    send_msg(w, &m);
}

/* A worker's hand-back was lost with its wire. It names the lease when it joins again, and says it
 * again: the attempt counts, and the checkpoint is there. What it does not name is back at once, at
 * no cost. */
static void test_hand_back_after_a_break(void)
{
    pid_t broker = start("again", "1000", "60000");
    struct peer c = open_peer(), w = open_peer();
    make_batch(&c, "b", 2);
    say_hello(&w, "w", NULL, 0);
    pull(&w, 2);
    EXPECT(&w, MSG_TYPE_GRANT);
    CHECK_INT(w.m.grant.jobs.count, 2);
    struct rec_GRANT_JOB g = {.job = w.m.grant.jobs.items[0].job,
                              .epoch = w.m.grant.jobs.items[0].epoch};
    struct rec_JOB_REF ref = {g.job, g.epoch};
    struct peer again = open_peer();
    say_hello(&again, "w", &ref, 1);
    CHECK_INT(again.m.welcome.lost.count, 0);
    CHECK_INT(status(&c, "b")->queued, 1);
    nack(&again, &g, true, "so far");
    pull(&again, 2);
    uint64_t attempts[3] = {0};
    for (int i = 0; i < 2; i++) { /* the one that nobody suspects, then the other */
        EXPECT(&again, MSG_TYPE_GRANT);
        CHECK_INT(again.m.grant.jobs.count, 1);
        struct rec_GRANT_JOB got = again.m.grant.jobs.items[0];
        attempts[got.line] = got.attempt;
        CHECK(str_eq(got.checkpoint, got.line == 1 ? STR_LIT("so far") : STR_LIT("")));
        CHECK_INT(outcome(&again, got.job, got.epoch, "done"), 0);
    }
    CHECK(attempts[1] == 2 && attempts[2] == 1);
    close_peer(&c);
    close_peer(&w);
    close_peer(&again);
    CHECK_INT(stop(broker), 0);
}

static void test_poison_and_cancel(void)
{
    char long_reason[402] = "x"; /* which the broker cuts, but not inside a character */
    for (size_t i = 1; i < 401; i += 2)
        snprintf(long_reason + i, 3, "\u00e4");
    pid_t broker = start("poison", "1000", "5000");
    struct peer c = open_peer(), w = open_peer();
    make_batch(&c, "b", 3);
    say_hello(&w, "w", NULL, 0);
    /* handed back, lost, lost as a suspect, and three times alone */
    for (uint64_t i = 1; i <= 6; i++) {
        pull(&w, i);
        EXPECT(&w, MSG_TYPE_GRANT);
        struct rec_GRANT_JOB g = w.m.grant.jobs.items[0];
        CHECK_INT(g.line, 1);
        CHECK_INT(g.attempt, i == 1 ? 1 : i - 1);
        CHECK(str_eq(g.checkpoint, str_of(i == 1 ? "" : "so far")));
        nack_reason = i < 6 ? "GPU trouble" : long_reason;
        nack(&w, &g, i > 1, "so far"); /* the first is a drain, and costs nothing */
    }
    pull(&w, 7);
    EXPECT(&w, MSG_TYPE_GRANT);
    struct rec_GRANT_JOB g = w.m.grant.jobs.items[0];
    CHECK_INT(g.line, 2);
    uint64_t end_ns = clock_mono_ns() + TIMEOUT_MS * NS_PER_MS;
    while (status(&c, "b")->failed == 0 && clock_mono_ns() < end_ns)
        ;
    if (!CHECK(fetch(&c, "b", 0) == 1))
        exit(check_report());
    struct rec_FETCHED *f = &c.m.fetch_ok.results.items[0];
    struct rec_OUTPUT output = {0};
    struct err_msg why;
    CHECK(str_eq(f->state, STR_LIT("failed")));
    CHECK_INT(f->attempts, 5);
    CHECK_OK(proto_decode_output(f->body.data, f->body.len, &c.arena, &output, &why), why);
    CHECK_INT(output.status_code, 500);
    char text[2048];
    snprintf(text, sizeof text, "%.*s", STR_ARG(output.error_message));
    CHECK_HAS(text,
              "poison: given up after 5 attempts (attempt 1: handed back by w: GPU trouble; ");
    CHECK_HAS(text, "; attempt 3: alone: handed back by w: GPU trouble; attempt 4: alone: ");

    struct msg cancel = {.type = MSG_TYPE_CANCEL};
    cancel.cancel.batch = STR_LIT("b");
    CHECK_INT(call(&c, &cancel), MSG_TYPE_CANCEL_OK);
    CHECK_INT(c.m.cancel_ok.cancelled, 2);
    beat(&w, g.job, g.epoch);
    EXPECT(&w, MSG_TYPE_BEAT_OK);
    CHECK_INT(w.m.beat_ok.cancel.count, 1);
    CHECK_INT(outcome(&w, g.job, g.epoch, "too late"), 2);
    struct rec_BATCH b = *status(&c, "b");
    CHECK(str_eq(b.state, STR_LIT("cancelled")));
    CHECK_INT(b.cancelled, 2);
    CHECK_INT(b.failed, 1);
    CHECK_INT(fetch(&c, "b", 0), 3);
    CHECK(str_eq(c.m.fetch_ok.results.items[2].state, STR_LIT("cancelled")));
    close_peer(&c);
    close_peer(&w);
    CHECK_INT(stop(broker), 0);
}

/* What a worker held when it died runs apart from the others', and after a second death alone. */
static void test_suspects(void)
{
    pid_t broker = start("suspects", "1000", "60000");
    struct peer c = open_peer(), w1 = open_peer(), w2 = open_peer();
    make_batch(&c, "b", 7);
    say_hello(&w1, "w1", NULL, 0);
    pull(&w1, 4);
    EXPECT(&w1, MSG_TYPE_GRANT);
    say_hello(&w1, "w1", NULL, 0); /* restarted, and holds nothing */
    pull(&w1, 20);
    EXPECT(&w1, MSG_TYPE_GRANT);
    CHECK_INT(w1.m.grant.jobs.count, 4);
    struct rec_GRANT_JOB first = w1.m.grant.jobs.items[0];
    for (size_t i = 0; i < w1.m.grant.jobs.count; i++)
        CHECK(w1.m.grant.jobs.items[i].line <= 4 && w1.m.grant.jobs.items[i].attempt == 2);
    say_hello(&w2, "w2", NULL, 0);
    pull(&w2, 2);
    EXPECT(&w2, MSG_TYPE_GRANT);
    CHECK_INT(w2.m.grant.jobs.count, 2);
    CHECK_INT(w2.m.grant.jobs.items[0].line, 5);
    CHECK_INT(outcome(&w1, first.job, first.epoch, "innocent"), 0);
    CHECK_INT(receive(&w1, QUIET_MS), MSG_NONE); /* line 7 is not for it now */
    say_hello(&w1, "w1", NULL, 0);
    pull(&w1, 20);
    for (int alone = 0; alone < 3; alone++) {
        EXPECT(&w1, MSG_TYPE_GRANT);
        CHECK_INT(w1.m.grant.jobs.count, 1);
        struct rec_GRANT_JOB g = w1.m.grant.jobs.items[0];
        CHECK(g.line <= 4 && g.attempt == 3);
        CHECK_INT(receive(&w1, QUIET_MS), MSG_NONE);
        CHECK_INT(status(&c, "b")->queued, 3 - alone); /* with line 7 */
        CHECK_INT(outcome(&w1, g.job, g.epoch, "innocent"), 0);
    }
    EXPECT(&w1, MSG_TYPE_GRANT);
    CHECK_INT(w1.m.grant.jobs.items[0].line, 7);
    CHECK_INT(status(&c, "b")->failed, 0);
    close_peer(&c);
    close_peer(&w1);
    close_peer(&w2);
    CHECK_INT(stop(broker), 0);
}

/* ---- kill -9 of the broker ---- */

enum { KILL_LINES = 120, KILLS = 4 };

struct held {
    struct rec_JOB_REF refs[32];
    size_t count;
};

static void drop_ref(struct held *h, uint64_t job)
{
    for (size_t i = 0; i < h->count; i++) {
        if (h->refs[i].job == job)
            h->refs[i] = h->refs[--h->count];
    }
}

static void test_kill_broker(void)
{
    struct check_rng rng = check_rng_start(7);
    pid_t broker = start("kill", "200", "60000");
    struct peer c = open_peer(), w = open_peer();
    bool acked[KILL_LINES + 1] = {false};
    struct held held = {0};
    uint64_t granted = 0, acks = 0, kills = 0, next_kill = 5 + check_rng_below(&rng, 12);
    make_batch(&c, "b", KILL_LINES);
    say_hello(&w, "w", NULL, 0);
    pull(&w, 4);
    struct peer c2 = {0};
    bool finished = false;
    for (int turns = 0; !finished && turns < 5000; turns++) {
        enum msg_type t = receive(&w, 100);
        if (t == MSG_TYPE_GRANT) {
            granted += w.m.grant.jobs.count;
            for (size_t i = 0; i < w.m.grant.jobs.count; i++) {
                struct rec_GRANT_JOB *g = &w.m.grant.jobs.items[i];
                CHECK(!acked[g->line]); /* what is acknowledged never comes again */
                held.refs[held.count++] = (struct rec_JOB_REF){g->job, g->epoch};
            }
            for (size_t i = 0; i < held.count; i++)
                send_result(&w, held.refs[i].job, held.refs[i].epoch, "r");
        } else if (t == MSG_TYPE_ACKS) {
            for (size_t i = 0; i < w.m.acks.acks.count; i++) {
                struct rec_ACK a = w.m.acks.acks.items[i];
                drop_ref(&held, a.job);
                acks += a.outcome != 2 && !acked[a.job];
                acked[a.job] |= a.outcome != 2; /* in a fresh ledger, job n is line n */
            }
            pull(&w, granted + 4 - held.count);
            if (acks >= next_kill && kills < KILLS) {
                kill(broker, SIGKILL);
                CHECK_INT(reap(broker), 128 + SIGKILL);
                broker = spawn(ledger, endpoint, "200", "60000");
                kills++;
                next_kill = acks + 5 + check_rng_below(&rng, 12);
            }
        } else if (t == MSG_TYPE_RECONNECT) {
            say_hello(&w, "w", held.refs, held.count);
            for (size_t i = 0; i < w.m.welcome.lost.count; i++)
                drop_ref(&held, w.m.welcome.lost.items[i].job);
            for (size_t i = 0; i < held.count; i++)
                send_result(&w, held.refs[i].job, held.refs[i].epoch, "r");
            granted = 0;
            pull(&w, 4);
        } else if (t == MSG_NONE) {
            beat(&w, held.count > 0 ? held.refs[0].job : 0, held.refs[0].epoch);
            if (kills == KILLS && held.count == 0) {
                if (c2.socket == NULL)
                    c2 = open_peer(); /* the first one's requests may be lost with a dead broker */
                finished = str_eq(status(&c2, "b")->state, STR_LIT("completed"));
            }
        }
    }
    if (!CHECK(finished))
        exit(check_report());
    CHECK_INT(kills, KILLS);
    printf("%llu of %d acknowledged, the others' acknowledgements died with a broker\n",
           (unsigned long long)acks, KILL_LINES);
    CHECK_INT(fetch(&c2, "b", 0), KILL_LINES);
    for (size_t i = 0; i < c2.m.fetch_ok.results.count; i++)
        CHECK_INT(c2.m.fetch_ok.results.items[i].line, i + 1);
    close_peer(&c);
    close_peer(&c2);
    close_peer(&w);
    CHECK_INT(stop(broker), 0);
}

/* A restarted broker does not give away what a worker still runs. */
static void test_reclaim(void)
{
    pid_t broker = start("reclaim", "500", "60000");
    struct peer c = open_peer(), w1 = open_peer(), w2 = open_peer();
    make_batch(&c, "b", 2);
    say_hello(&w1, "w1", NULL, 0);
    pull(&w1, 1);
    EXPECT(&w1, MSG_TYPE_GRANT);
    struct rec_JOB_REF ref = {w1.m.grant.jobs.items[0].job, w1.m.grant.jobs.items[0].epoch};
    kill(broker, SIGKILL);
    reap(broker);
    broker = spawn(ledger, endpoint, "500", "60000");
    struct peer fresh = open_peer();
    say_hello(&fresh, "w2", NULL, 0);
    pull(&fresh, 2);
    EXPECT(&fresh, MSG_TYPE_GRANT);
    CHECK_INT(fresh.m.grant.jobs.count, 1);
    CHECK_INT(fresh.m.grant.jobs.items[0].line, 2);
    struct peer again = open_peer();
    say_hello(&again, "w1", &ref, 1);
    CHECK_INT(again.m.welcome.lost.count, 0);
    CHECK_INT(outcome(&again, ref.job, ref.epoch, "kept"), 0);
    CHECK_INT(fetch(&c, "b", 0), 1);
    CHECK_INT(c.m.fetch_ok.results.items[0].attempts, 1);
    close_peer(&c);
    close_peer(&w1);
    close_peer(&w2);
    close_peer(&fresh);
    close_peer(&again);
    CHECK_INT(stop(broker), 0);
}

/* Two workers under one name: the earlier one is sent away, and its job is the other's. */
static void test_twins(void)
{
    pid_t broker = start("twins", "1000", "60000");
    struct peer c = open_peer(), w1 = open_peer(), w2 = open_peer();
    make_batch(&c, "b", 1);
    say_hello(&w1, "w", NULL, 0);
    say_hello(&w1, "w", NULL, 0); /* again on its own connection: no twin */
    pull(&w1, 1);
    EXPECT(&w1, MSG_TYPE_GRANT);
    uint64_t job = w1.m.grant.jobs.items[0].job, epoch = w1.m.grant.jobs.items[0].epoch;
    say_hello(&w2, "w", NULL, 0);
    beat(&w1, job, epoch);
    EXPECT(&w1, MSG_TYPE_ERROR);
    CHECK(str_eq(w1.m.error.code, STR_LIT("conflict")));
    pull(&w2, 1);
    EXPECT(&w2, MSG_TYPE_GRANT);
    CHECK_INT(outcome(&w2, job, w2.m.grant.jobs.items[0].epoch, "done"), 0);
    close_peer(&c);
    close_peer(&w1);
    close_peer(&w2);
    CHECK_INT(stop(broker), 0);
}

/* ---- garbage, and starting wrongly ---- */

static void test_garbage(void)
{
    struct check_rng rng = check_rng_start(11);
    pid_t broker = start("garbage", "1000", "5000");
    struct peer good = open_peer(), bad = open_peer();
    make_batch(&good, "b", 1);
    zmq_send(bad.socket, "\xdd\xff\x00\x00\x00", 5, 0);
    EXPECT(&bad, MSG_TYPE_ERROR);
    CHECK(str_eq(bad.m.error.code, STR_LIT("bad_message")));
    for (int i = 0; i < 300; i++) {
        unsigned char bytes[64];
        size_t len = check_rng_below(&rng, sizeof bytes);
        for (size_t k = 0; k < len; k++)
            bytes[k] = (unsigned char)check_rng_next(&rng);
        zmq_send(bad.socket, bytes, len, i % 5 == 0 ? ZMQ_SNDMORE : 0);
        if (i % 50 == 0)
            CHECK_INT(status(&good, "b")->queued, 1);
    }
    zmq_send(bad.socket, "", 0, 0);
    struct msg odd = {.type = MSG_TYPE_BEAT};
    send_msg(&good, &odd); /* a message, but of no session */
    EXPECT(&good, MSG_TYPE_ERROR);
    odd = (struct msg){.type = MSG_TYPE_WELCOME};
    odd.welcome.broker = STR_LIT("me");
    send_msg(&good, &odd);
    EXPECT(&good, MSG_TYPE_ERROR);
    CHECK_INT(status(&good, "b")->queued, 1);
    close_peer(&good);
    close_peer(&bad);
    CHECK_INT(stop(broker), 0);
}

static void test_starting(void)
{
    char other[160];
    CHECK_INT(reap(spawn("/nonexistent/ledger", "ipc:///tmp/octo-none", "1000", "1000")), 3);
    CHECK_INT(reap(spawn("x", "tcp://0.0.0.0:4711", "1000", "1000")), 2);
    CHECK_INT(reap(spawn("x", "nonsense", "1000", "1000")), 2);
    CHECK_INT(reap(spawn("x", "ipc:///tmp/octo-none", "0", "1000")), 2);
    pid_t broker = start("one", "1000", "1000");
    struct peer c = open_peer();
    make_batch(&c, "b", 1);
    snprintf(other, sizeof other, "ipc://%s/two.sock", dir);
    pid_t second = spawn(ledger, other, "1000", "1000"); /* waits for the first to go */
    CHECK_INT(status(&c, "b")->queued, 1);
    CHECK_INT(stop(broker), 0);
    snprintf(endpoint, sizeof endpoint, "%s", other);
    struct peer c2 = open_peer();
    CHECK_INT(status(&c2, "b")->queued, 1);
    CHECK_INT(stop(second), 0);
    close_peer(&c);
    close_peer(&c2);
}

static void pull_at(struct peer *w, uint64_t credit, double tokens_per_s, double duty)
{
    struct msg m = {.type = MSG_TYPE_PULL};
    m.pull.session = w->session;
    m.pull.credit_total = credit;
    m.pull.decode_tokens_per_s = tokens_per_s;
    m.pull.duty = duty;
    send_msg(w, &m);
}

/* Who is three times as fast gets three times as much, though the other one has room for all. */
static void test_headroom(void)
{
    pid_t broker = start("headroom", "1000", "60000");
    struct peer c = open_peer(), fast = open_peer(), slow = open_peer();
    CHECK_INT(batch_new(&c, "b", "tiny", ""), MSG_TYPE_BATCH_OK);
    say_hello(&slow, "slow", NULL, 0);
    say_hello(&fast, "fast", NULL, 0);
    pull_at(&slow, 20, 300, 0.5); /* hot */
    pull_at(&fast, 20, 450, 1);
    while (status(&c, "b") != NULL &&
           (c.m.status_ok.workers.count < 2 || c.m.status_ok.workers.items[0].duty == 0 ||
            c.m.status_ok.workers.items[1].duty == 0))
        ;
    CHECK_INT(submit(&c, "b", 1, 9, 0), MSG_TYPE_SUBMIT_OK);
    size_t got = 0;
    while (got < 7) {
        EXPECT(&fast, MSG_TYPE_GRANT);
        if (!CHECK(fast.m.grant.jobs.count > 0))
            break;
        got += fast.m.grant.jobs.count;
    }
    CHECK_INT(got, 7);
    EXPECT(&slow, MSG_TYPE_GRANT);
    CHECK_INT(slow.m.grant.jobs.count, 2);
    CHECK_INT(status(&c, "b")->leased, 9);
    close_peer(&c);
    close_peer(&fast);
    close_peer(&slow);
    CHECK_INT(stop(broker), 0);
}

int main(int argc, char **argv)
{
    if (argc < 2 || mkdtemp(dir) == NULL)
        return 1;
    broker_path = argv[1];
    ctx = zmq_ctx_new();
    test_run();
    test_silent_worker();
    test_given_up_too_early();
    test_lease_expiry();
    test_hand_back_after_a_break();
    test_poison_and_cancel();
    test_suspects();
    test_kill_broker();
    test_reclaim();
    test_twins();
    test_headroom();
    test_garbage();
    test_starting();
    zmq_ctx_term(ctx);
    check_remove(dir);
    return check_report();
}
