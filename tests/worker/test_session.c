/* The session against a scripted broker, in virtual time: what it sends is recorded and looked at.
 */
#include "tests/worker/session_kit.h"

static void test_hello(void)
{
    struct bench *b = bench_open();
    /* At 0, 1, 3, 7, 12, 17 s. */
    run(b, 17000);
    CHECK_INT(count_sent(b, MSG_TYPE_HELLO), 6);
    CHECK_INT(b->sent_count, 6);
    CHECK_INT(session_state(b->s), SESSION_CONNECTING);
    CHECK_INT(session_unanswered(b->s), 6);
    welcome(b, 7, NULL, 0);
    CHECK_INT(session_unanswered(b->s), 0);
    CHECK_INT(session_state(b->s), SESSION_READY);
    run(b, 900);
    CHECK_INT(count_sent(b, MSG_TYPE_HELLO), 0);
    CHECK_INT(last_sent(b, MSG_TYPE_PULL)->session, 7);
    bench_close(b);
}

static void test_credit(void)
{
    struct bench *b = joined(5);
    run(b, 0);
    CHECK_INT(count_sent(b, MSG_TYPE_PULL), 0); /* full */
    result(b, b->serials[0]);
    result(b, b->serials[1]);
    run(b, 0);
    CHECK_INT(count_sent(b, MSG_TYPE_PULL), 1);
    CHECK_INT(last_sent(b, MSG_TYPE_PULL)->credit_total, 7);
    /* Results that are not acknowledged take no sequence, but are bounded. */
    for (uint64_t i = 0; i < 100; i++) {
        grant(b, 1, 200 + i, 1, 1);
        if (b->jobs_count <= 5 + i)
            break;
        result(b, b->serials[5 + i]);
    }
    run(b, 0);
    CHECK_INT(session_held(b->s), 4 * 5 + 64);
    CHECK_INT(count_sent(b, MSG_TYPE_NACK), 1);
    CHECK_STR(last_sent(b, MSG_TYPE_NACK)->reason, "no room");
    bench_close(b);
}

/* While 64 MiB of results wait for the broker's word, the worker asks for no more jobs. */
static void test_kept_bytes(void)
{
    struct bench *b = joined(5);
    for (int i = 0; i < 4; i++)
        large_result(b, b->serials[i], 16 << 20);
    result(b, b->serials[4]);
    run(b, 900);
    CHECK_INT(count_sent(b, MSG_TYPE_RESULTS), 1); /* one of that size at a time */
    CHECK_INT(count_sent(b, MSG_TYPE_PULL), 0);
    ack(b, 104, 1);
    run(b, 0);
    CHECK_INT(count_sent(b, MSG_TYPE_PULL), 0);
    ack(b, 101, 1);
    run(b, 0);
    CHECK_INT(last_sent(b, MSG_TYPE_PULL)->credit_total, 10);
    bench_close(b);
}

static void test_kv_credit(void)
{
    struct bench *b = bench_open();
    struct headroom h = {.kv_tokens_total = 512, .temp_c = 61};
    session_headroom(b->s, &h);
    run(b, 0);
    welcome(b, 1, NULL, 0);
    run(b, 0);
    /* Room for 512 / 256 + 1 jobs of the guessed length, and one in reserve. */
    CHECK_INT(last_sent(b, MSG_TYPE_PULL)->credit_total, 4);
    CHECK(last_sent(b, MSG_TYPE_PULL)->temp_c == 61);
    bench_close(b);
}

static void test_duplicate_grant(void)
{
    struct bench *b = joined(2);
    grant(b, 1, 100, 2, 1);
    CHECK_INT(b->jobs_count, 2);
    CHECK_INT(session_held(b->s), 2);
    /* Granted again under a newer epoch: goes on, its result carries the new one. */
    grant(b, 1, 100, 1, 3);
    CHECK_INT(b->jobs_count, 2);
    grant(b, 1, 100, 1, 2);
    result(b, b->serials[0]);
    run(b, 0);
    CHECK_INT(last_sent(b, MSG_TYPE_RESULTS)->refs[0].epoch, 3);
    ack(b, 100, 1);
    CHECK_INT(session_held(b->s), 2);
    ack(b, 100, 3);
    CHECK_INT(session_held(b->s), 1);
    /* Again after its end: a new lease, run again. */
    grant(b, 1, 100, 1, 4);
    CHECK_INT(b->jobs_count, 3);
    bench_close(b);
}

static void test_lost_ack(void)
{
    struct bench *b = joined(1);
    result(b, b->serials[0]);
    run(b, 0);
    CHECK_INT(count_sent(b, MSG_TYPE_RESULTS), 1);
    CHECK_INT(last_sent(b, MSG_TYPE_RESULTS)->body_bytes, 6);
    CHECK(last_sent(b, MSG_TYPE_RESULTS)->energy_j == 2.5);
    for (int i = 0; i < 5; i++) {
        beat_ok(b, 1, false, NULL);
        run(b, 900);
        CHECK_INT(count_sent(b, MSG_TYPE_RESULTS), 0);
    }
    beat_ok(b, 1, false, NULL);
    run(b, 600);
    CHECK_INT(count_sent(b, MSG_TYPE_RESULTS), 1);
    CHECK_INT(last_sent(b, MSG_TYPE_BEAT)->refs[0].job,
              100); /* and its lease is renewed meanwhile */
    ack(b, 100, 1);
    CHECK_INT(session_held(b->s), 0);
    CHECK_INT(session_finished(b->s), 1);
    ack(b, 100, 1);
    CHECK_INT(session_finished(b->s), 1);
    bench_close(b);
}

/* Nothing of one ledger is carried to a broker with another: running, finished or handed back. */
static void test_another_ledger(void)
{
    struct bench *b = joined(3);
    run(b, 0);
    result(b, b->serials[0]);
    b->refuse_sending = true;
    session_nack(b->s, b->serials[1], false, "test", NULL);
    run(b, 0);
    b->refuse_sending = false;
    run(b, 2000);
    simple(b, MSG_TYPE_RECONNECT, 0);
    run(b, 0);
    CHECK_INT(last_sent(b, MSG_TYPE_HELLO)->count, 3); /* the NACK's too */
    b->ledger = "M";
    b->cancelled_count = 0;
    b->sent_count = 0;
    welcome(b, 1, NULL, 0);
    run(b, 0);
    CHECK_INT(session_held(b->s), 0);
    CHECK(b->cancelled_count == 1 && b->cancelled[0] == b->serials[2]);
    CHECK_INT(count_sent(b, MSG_TYPE_RESULTS) + count_sent(b, MSG_TYPE_NACK), 0);
    grant(b, 1, 100, 1, 1); /* the same numbers, another job */
    CHECK_INT(b->jobs_count, 4);
    result(b, b->serials[3]);
    run(b, 0);
    CHECK_INT(count_sent(b, MSG_TYPE_RESULTS), 1);
    bench_close(b);
}

static void test_reconnect(void)
{
    struct bench *b = joined(3);
    run(b, 2000);
    result(b, b->serials[0]);
    run(b, 0);
    simple(b, MSG_TYPE_RECONNECT, 0);
    CHECK_INT(session_state(b->s), SESSION_CONNECTING);
    result(b, b->serials[1]);
    run(b, 0);
    const struct sent *hello = last_sent(b, MSG_TYPE_HELLO);
    CHECK_INT(hello->count, 3);
    CHECK_INT(count_sent(b, MSG_TYPE_RESULTS), 0);     /* not before WELCOME */
    struct rec_JOB_REF lost[2] = {{102, 1}, {101, 9}}; /* the second is no lease of ours */
    welcome(b, 2, lost, 2);
    CHECK_INT(b->cancelled_count, 1);
    CHECK_INT(b->cancelled[0], b->serials[2]);
    run(b, 0);
    CHECK_INT(last_sent(b, MSG_TYPE_RESULTS)->count, 2);
    CHECK_INT(last_sent(b, MSG_TYPE_RESULTS)->session, 2);
    CHECK_INT(last_sent(b, MSG_TYPE_PULL)->credit_total, 5); /* credits begin anew */
    /* A grant of the old session comes late. */
    grant(b, 1, 300, 1, 1);
    CHECK_INT(b->jobs_count, 3);
    /* A lost lease's result is nobody's. */
    result(b, b->serials[2]);
    CHECK_INT(session_held(b->s), 2);
    bench_close(b);
}

static void test_silence(void)
{
    struct bench *b = joined(1);
    run(b, 2900);
    CHECK_INT(count_sent(b, MSG_TYPE_BEAT), 2);
    CHECK_INT(count_sent(b, MSG_TYPE_HELLO), 0);
    run(b, 300);
    CHECK_INT(count_sent(b, MSG_TYPE_HELLO), 1);
    CHECK_INT(last_sent(b, MSG_TYPE_HELLO)->count, 1);
    /* Many HELLOs waited in the socket: their WELCOMEs and the RECONNECTs for the sessions between
     * end in one session, not in a storm. */
    for (uint64_t i = 2; i < 50; i++) {
        welcome(b, i, NULL, 0);
        session_tick(b->s, b->now_ns);
    }
    b->sent_count = 0;
    for (uint64_t i = 2; i < 49; i++)
        simple(b, MSG_TYPE_RECONNECT, 0);
    run(b, 900);
    CHECK_INT(count_sent(b, MSG_TYPE_HELLO), 0);
    CHECK_INT(session_state(b->s), SESSION_READY);
    run(b, 200);
    CHECK_INT(last_sent(b, MSG_TYPE_BEAT)->session, 49); /* asks early whether it is still known */
    simple(b, MSG_TYPE_RECONNECT, 0);
    run(b, 0);
    CHECK_INT(count_sent(b, MSG_TYPE_HELLO), 1);
    bench_close(b);
}

static void test_beat(void)
{
    struct bench *b = joined(2);
    struct buf checkpoint = {0};
    CHECK_ERR(buf_append_str(&checkpoint, "tokens"), ERR_OK);
    session_progress(b->s, b->serials[0], 40, &checkpoint);
    session_progress(b->s, b->serials[1], 2, &checkpoint);
    session_progress(b->s, 999, 7, &checkpoint);
    CHECK_INT(checkpoint.len, 0);
    CHECK(!session_beat_sent(b->s));
    run(b, 1000);
    CHECK(session_beat_sent(b->s));
    CHECK(!session_beat_sent(b->s));
    CHECK_INT(last_sent(b, MSG_TYPE_BEAT)->count, 2);
    CHECK_INT(last_sent(b, MSG_TYPE_BEAT)->tokens, 42);
    CHECK_INT(last_sent(b, MSG_TYPE_BEAT)->checkpoint_bytes, 6);
    CHECK_INT(count_sent(b, MSG_TYPE_PULL), 1); /* said again with each BEAT */
    CHECK_INT(last_sent(b, MSG_TYPE_PULL)->credit_total, 5);
    beat_ok(b, 1, false, NULL);
    run(b, 1000);
    CHECK_INT(last_sent(b, MSG_TYPE_BEAT)->tokens, 42);
    CHECK_INT(last_sent(b, MSG_TYPE_BEAT)->checkpoint_bytes, 0); /* once is enough */
    buf_free(&checkpoint);
    bench_close(b);
}

static void test_cancel(void)
{
    struct bench *b = joined(2);
    struct rec_JOB_REF other = {100, 2}, mine = {100, 1};
    beat_ok(b, 1, false, &other);
    beat_ok(b, 9, false, &mine);
    CHECK_INT(b->cancelled_count, 0);
    beat_ok(b, 1, false, &mine);
    CHECK_INT(b->cancelled_count, 1);
    CHECK_INT(session_held(b->s), 1);
    /* A finished one is dropped without a word to the engine. */
    result(b, b->serials[1]);
    struct rec_JOB_REF done = {101, 1};
    beat_ok(b, 1, false, &done);
    CHECK_INT(b->cancelled_count, 1);
    CHECK_INT(session_held(b->s), 0);
    bench_close(b);
}

static void test_drain(void)
{
    struct bench *b = joined(3);
    beat_ok(b, 1, true, NULL);
    beat_ok(b, 1, true, NULL);
    CHECK_INT(b->drains, 1);
    grant(b, 1, 500, 1, 1); /* crossed the drain */
    CHECK_INT(b->jobs_count, 3);
    struct buf checkpoint = {0};
    CHECK_ERR(buf_append_str(&checkpoint, "tokens!"), ERR_OK);
    session_nack(b->s, b->serials[0], false, "the worker leaves", &checkpoint);
    run(b, 0);
    CHECK(last_sent(b, MSG_TYPE_BEAT)->draining);
    CHECK_INT(last_sent(b, MSG_TYPE_NACK)->count, 2);
    CHECK_STR(last_sent(b, MSG_TYPE_NACK)->reason, "draining");
    CHECK_INT(count_sent(b, MSG_TYPE_PULL), 0);
    result(b, b->serials[1]);
    session_nack_all(b->s, true, "gone");
    run(b, 0);
    CHECK_INT(last_sent(b, MSG_TYPE_NACK)->refs[0].job, 102);
    CHECK(last_sent(b, MSG_TYPE_NACK)->counts);
    CHECK_INT(session_state(b->s), SESSION_READY); /* one result is not acknowledged */
    ack(b, 101, 1);
    run(b, 0);
    CHECK_INT(session_state(b->s), SESSION_READY); /* the NACKs may not have arrived */
    beat_ok(b, 1, true, NULL);
    run(b, 50);
    CHECK_INT(count_sent(b, MSG_TYPE_BEAT), 1);
    beat_ok(b, 1, true, NULL);
    run(b, 1000);
    CHECK_INT(session_state(b->s), SESSION_LEAVING);
    CHECK_INT(count_sent(b, MSG_TYPE_BYE), 2); /* the first answer was lost */
    simple(b, MSG_TYPE_BYE_OK, 1);
    CHECK_INT(session_state(b->s), SESSION_GONE);
    buf_free(&checkpoint);
    bench_close(b);
    /* Nobody answers: it leaves all the same. */
    b = joined(0);
    session_drain(b->s);
    run(b, 5100);
    CHECK_INT(session_state(b->s), SESSION_GONE);
    bench_close(b);
    b = bench_open();
    session_drain(b->s);
    run(b, 0);
    CHECK_INT(session_state(b->s), SESSION_GONE);
    bench_close(b);
}

static void test_full_socket(void)
{
    struct bench *b = joined(2);
    b->refuse_sending = true;
    result(b, b->serials[0]);
    session_nack(b->s, b->serials[1], true, "GPU", NULL);
    run(b, 500);
    b->refuse_sending = false;
    run(b, 5000);
    CHECK_INT(count_sent(b, MSG_TYPE_NACK), 1);
    CHECK_INT(count_sent(b, MSG_TYPE_RESULTS), 1);
    CHECK_INT(session_state(b->s), SESSION_CONNECTING); /* silence: nobody said that they came */
    welcome(b, 2, NULL, 0);
    run(b, 0);
    CHECK_INT(count_sent(b, MSG_TYPE_NACK), 1);
    CHECK_INT(count_sent(b, MSG_TYPE_RESULTS), 1);
    bench_close(b);
}

/* Grants, results, acks, cancels, lost sessions at random: every lease ends, none is run twice at a
 * time. */
static void test_random(void)
{
    struct check_rng rng = check_rng_start(11);
    struct bench *b = joined(0);
    uint64_t session = 1, job = 1000;
    for (int i = 0; i < 3000; i++) {
        b->sent_count = 0;
        b->now_ns += check_rng_below(&rng, 400) * NS_PER_MS;
        uint64_t dice = check_rng_below(&rng, 10);
        if (b->jobs_count > 100)
            b->jobs_count = 0;
        uint64_t serial = b->jobs_count > 0 ? b->serials[check_rng_below(&rng, b->jobs_count)] : 0;
        if (dice < 3 && session_running(b->s) < 5 && session_state(b->s) == SESSION_READY)
            grant(b, session, job++, 1, 1);
        else if (dice < 5)
            result(b, serial);
        else if (dice < 6)
            session_nack(b->s, serial, false, "test", NULL);
        else if (dice < 8)
            ack(b, job - 1 - check_rng_below(&rng, 20), 1);
        else if (dice < 9)
            simple(b, MSG_TYPE_RECONNECT, 0);
        session_tick(b->s, b->now_ns);
        if (session_state(b->s) == SESSION_CONNECTING)
            welcome(b, ++session, NULL, 0);
        b->cancelled_count = 0;
        if (!CHECK(session_running(b->s) <= 5 && session_held(b->s) >= session_running(b->s)))
            break;
    }
    session_nack_all(b->s, false, "end");
    for (uint64_t j = 1000; j < job; j++)
        ack(b, j, 1);
    CHECK_INT(session_held(b->s), 0);
    bench_close(b);
}

/* BEAT_OK tells it to load another model: it takes nothing more, and says HELLO anew with it. */
static void test_change(void)
{
    static struct rec_MODEL models[2];
    models[0] = (struct rec_MODEL){.name = STR_LIT("other"), .hash = STR_LIT("other-hash")};
    models[1] = (struct rec_MODEL){.name = STR_LIT("m"), .hash = STR_LIT("hash")};
    struct bench *b = joined(2);
    struct msg m = {.type = MSG_TYPE_BEAT_OK};
    m.beat_ok.session = 1;
    m.beat_ok.load = STR_LIT("other");
    session_receive(b->s, &m, b->now_ns);
    CHECK(b->load);
    session_pause(b->s, true);
    CHECK(!session_is_idle(b->s));
    result(b, b->serials[0]);
    run(b, 1000);
    CHECK_INT(count_sent(b, MSG_TYPE_PULL), 0); /* although there is room */
    ack(b, 100, 1);
    /* What was on its way is handed back, at no cost. */
    grant(b, 1, 200, 1, 7);
    CHECK_INT(b->jobs_count, 2);
    run(b, 0);
    CHECK_INT(last_sent(b, MSG_TYPE_NACK)->count, 1);
    CHECK(!last_sent(b, MSG_TYPE_NACK)->counts);
    CHECK_STR(last_sent(b, MSG_TYPE_NACK)->reason, "loading a model");
    result(b, b->serials[1]);
    ack(b, 101, 1);
    CHECK(!session_is_idle(b->s)); /* the hand-back may be lost */
    beat_ok(b, 1, false, NULL);
    run(b, 50);
    beat_ok(b, 1, false, NULL);
    CHECK(session_is_idle(b->s));
    /* While it loads it beats, for as long as it takes, and asks for nothing. */
    for (int i = 0; i < 20; i++) {
        run(b, 1000);
        CHECK_INT(count_sent(b, MSG_TYPE_BEAT), 1);
        CHECK_INT(count_sent(b, MSG_TYPE_PULL), 0);
        beat_ok(b, 1, false, NULL);
    }
    struct session_config c = bench_config();
    c.models = models;
    c.models_count = 2;
    c.max_jobs = 8;
    session_pause(b->s, false);
    CHECK_ERR(session_change(b->s, &c, b->now_ns), ERR_OK);
    run(b, 0);
    CHECK_INT(count_sent(b, MSG_TYPE_HELLO), 1);
    CHECK_INT(last_sent(b, MSG_TYPE_HELLO)->count, 0);
    CHECK_STR(last_sent(b, MSG_TYPE_HELLO)->reason, "other"); /* what is loaded */
    session_receive(b->s, &m, b->now_ns); /* of before: it is loaded once */
    CHECK(!b->load);
    CHECK_INT(last_sent(b, MSG_TYPE_HELLO)->credit_total, 2); /* models */
    welcome(b, 2, NULL, 0);
    run(b, 0);
    CHECK_INT(last_sent(b, MSG_TYPE_PULL)->credit_total, 10);
    CHECK_INT(session_finished(b->s), 2);
    /* Another list, while the answer to a HELLO with the old one is on its way. */
    CHECK_ERR(session_change(b->s, &c, b->now_ns), ERR_OK);
    run(b, 0);
    c.models_count = 1;
    CHECK_ERR(session_change(b->s, &c, b->now_ns), ERR_OK);
    welcome(b, 3, NULL, 0);
    run(b, 0);
    CHECK_INT(count_sent(b, MSG_TYPE_HELLO), 1);
    CHECK_INT(last_sent(b, MSG_TYPE_HELLO)->credit_total, 1);
    welcome(b, 2, NULL, 0);
    run(b, 0);
    CHECK_INT(count_sent(b, MSG_TYPE_HELLO), 0);
    /* And while jobs run: they go on. */
    grant(b, 2, 300, 10, 9);
    c.models_count = 1;
    CHECK_ERR(session_change(b->s, &c, b->now_ns), ERR_OK);
    run(b, 0);
    CHECK_INT(last_sent(b, MSG_TYPE_HELLO)->count, 10);
    welcome(b, 3, NULL, 0);
    CHECK_INT(session_running(b->s), 10);
    bench_close(b);
}

int main(void)
{
    test_hello();
    test_credit();
    test_kept_bytes();
    test_kv_credit();
    test_duplicate_grant();
    test_lost_ack();
    test_another_ledger();
    test_reconnect();
    test_silence();
    test_beat();
    test_cancel();
    test_drain();
    test_change();
    test_full_socket();
    test_random();
    return check_report();
}
