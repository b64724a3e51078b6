/* The session against a scripted broker, in virtual time: what it sends is recorded and looked at.
 */
#include "base/clock.h"
#include "check.h"
#include "worker/session.h"

enum { MAX_SENT = 256, MAX_REFS = 128, MAX_JOBS = 4 };

struct sent {
    enum msg_type type;
    uint64_t session, credit_total;
    size_t count;
    struct rec_JOB_REF refs[MAX_REFS];
    bool failed, counts, draining;
    size_t body_bytes, checkpoint_bytes;
    uint64_t tokens;
    double temp_c;
    char reason[64];
};

struct bench {
    struct session *s;
    uint64_t now_ns;
    struct sent sent[MAX_SENT];
    size_t sent_count;
    bool refuse_sending;
    uint64_t jobs[MAX_REFS], serials[MAX_REFS];
    size_t jobs_count;
    uint64_t cancelled[MAX_REFS];
    size_t cancelled_count;
    unsigned drains, errors;
};

static bool on_send(void *user, const struct msg *m)
{
    struct bench *b = user;
    if (b->refuse_sending || b->sent_count == MAX_SENT)
        return false;
    struct sent *out = &b->sent[b->sent_count++];
    *out = (struct sent){.type = m->type};
#define REFS(list)                                                                                 \
    for (size_t i = 0; i < (list).count && i < MAX_REFS; i++)                                      \
        out->refs[out->count++] = (struct rec_JOB_REF){(list).items[i].job, (list).items[i].epoch};
    if (m->type == MSG_TYPE_HELLO) {
        REFS(m->hello.holding)
    } else if (m->type == MSG_TYPE_PULL) {
        out->session = m->pull.session;
        out->credit_total = m->pull.credit_total;
        out->temp_c = m->pull.temp_c;
    } else if (m->type == MSG_TYPE_RESULTS) {
        out->session = m->results.session;
        REFS(m->results.results)
        out->failed = m->results.results.items[0].failed;
        out->body_bytes = m->results.results.items[0].body.len;
    } else if (m->type == MSG_TYPE_BEAT) {
        out->session = m->beat.session;
        out->draining = m->beat.draining;
        out->temp_c = m->beat.temp_c;
        REFS(m->beat.running)
        for (size_t i = 0; i < m->beat.running.count; i++) {
            out->checkpoint_bytes += m->beat.running.items[i].checkpoint.len;
            out->tokens += m->beat.running.items[i].completion_tokens;
        }
    } else if (m->type == MSG_TYPE_NACK) {
        out->session = m->nack.session;
        REFS(m->nack.jobs)
        out->counts = m->nack.jobs.items[0].counts;
        out->checkpoint_bytes = m->nack.jobs.items[0].checkpoint.len;
        snprintf(out->reason, sizeof out->reason, "%.*s", STR_ARG(m->nack.jobs.items[0].reason));
    } else if (m->type == MSG_TYPE_BYE) {
        out->session = m->bye.session;
    }
#undef REFS
    return true;
}

static void on_job(void *user, uint64_t serial, const struct rec_GRANT_JOB *grant)
{
    struct bench *b = user;
    b->jobs[b->jobs_count] = grant->job;
    b->serials[b->jobs_count++] = serial;
}

static void on_cancel(void *user, uint64_t serial)
{
    struct bench *b = user;
    b->cancelled[b->cancelled_count++] = serial;
}

static void on_drain(void *user)
{
    ((struct bench *)user)->drains++;
}

static void on_error(void *user, struct str code, struct str text)
{
    (void)code;
    (void)text;
    ((struct bench *)user)->errors++;
}

static struct bench *bench_open(void)
{
    struct bench *b = calloc(1, sizeof *b);
    struct session_config c = {.worker = "w",
                               .host = "h",
                               .build = "b",
                               .device = "d",
                               .driver = "r",
                               .numeric_class = "n",
                               .model = {STR_LIT("m"), STR_LIT("hash"), STR_LIT("F16"), 2048},
                               .max_jobs = MAX_JOBS,
                               .kv_tokens = 65536};
    struct session_events e = {b, on_send, on_job, on_cancel, on_drain, on_error};
    CHECK_ERR(session_create(&c, &e, &b->s), ERR_OK);
    b->now_ns = 1000 * NS_PER_S;
    return b;
}

static void bench_close(struct bench *b)
{
    session_destroy(&b->s);
    free(b);
}

/* Ticks every 50 ms; forgets what was sent before. */
static void run(struct bench *b, uint64_t ms)
{
    b->sent_count = 0;
    session_tick(b->s, b->now_ns);
    for (uint64_t t = 0; t < ms; t += 50) {
        b->now_ns += 50 * NS_PER_MS;
        session_tick(b->s, b->now_ns);
    }
}

static size_t count_sent(const struct bench *b, enum msg_type type)
{
    size_t n = 0;
    for (size_t i = 0; i < b->sent_count; i++)
        n += b->sent[i].type == type;
    return n;
}

static const struct sent *last_sent(const struct bench *b, enum msg_type type)
{
    static const struct sent none;
    for (size_t i = b->sent_count; i-- > 0;) {
        if (b->sent[i].type == type)
            return &b->sent[i];
    }
    fprintf(stderr, "    nothing of type %d was sent\n", (int)type);
    return &none;
}

static void welcome(struct bench *b, uint64_t session, const struct rec_JOB_REF *lost, size_t count)
{
    struct rec_JOB_REF copy[8];
    memcpy(copy, lost == NULL ? copy : lost, count * sizeof *copy);
    struct msg m = {.type = MSG_TYPE_WELCOME};
    m.welcome = (struct msg_welcome){
        .broker = STR_LIT("L"), .session = session, .heartbeat_ms = 1000, .lease_ms = 30000};
    m.welcome.lost.items = copy;
    m.welcome.lost.count = count;
    session_receive(b->s, &m, b->now_ns);
}

static void grant(struct bench *b, uint64_t session, uint64_t first_job, size_t count,
                  uint64_t epoch)
{
    struct rec_GRANT_JOB jobs[64] = {0};
    for (size_t i = 0; i < count; i++)
        jobs[i] = (struct rec_GRANT_JOB){.job = first_job + i, .epoch = epoch, .attempt = 1};
    struct msg m = {.type = MSG_TYPE_GRANT};
    m.grant.session = session;
    m.grant.jobs.items = jobs;
    m.grant.jobs.count = count;
    session_receive(b->s, &m, b->now_ns);
}

static void ack(struct bench *b, uint64_t job, uint64_t epoch)
{
    struct rec_ACK a = {.job = job, .epoch = epoch};
    struct msg m = {.type = MSG_TYPE_ACKS};
    m.acks.acks.items = &a;
    m.acks.acks.count = 1;
    session_receive(b->s, &m, b->now_ns);
}

static void beat_ok(struct bench *b, uint64_t session, bool drain, const struct rec_JOB_REF *cancel)
{
    struct rec_JOB_REF ref;
    struct msg m = {.type = MSG_TYPE_BEAT_OK};
    m.beat_ok.session = session;
    m.beat_ok.drain = drain;
    if (cancel != NULL) {
        ref = *cancel;
        m.beat_ok.cancel.items = &ref;
        m.beat_ok.cancel.count = 1;
    }
    session_receive(b->s, &m, b->now_ns);
}

static void simple(struct bench *b, enum msg_type type, uint64_t session)
{
    struct msg m = {.type = type};
    if (type == MSG_TYPE_BYE_OK)
        m.bye_ok.session = session;
    session_receive(b->s, &m, b->now_ns);
}

static void result(struct bench *b, uint64_t serial)
{
    struct buf body = {0};
    CHECK_ERR(buf_append_str(&body, "result"), ERR_OK);
    session_result(b->s, serial, false, &body, 10, 5);
    buf_free(&body);
}

/* Joined as session 1, with `jobs` leases 100.. under epoch 1. */
static struct bench *joined(size_t jobs)
{
    struct bench *b = bench_open();
    run(b, 0);
    CHECK_INT(count_sent(b, MSG_TYPE_HELLO), 1);
    welcome(b, 1, NULL, 0);
    run(b, 0);
    CHECK_INT(last_sent(b, MSG_TYPE_PULL)->credit_total, 5); /* 4 jobs and a quarter more */
    if (jobs > 0)
        grant(b, 1, 100, jobs, 1);
    CHECK_INT(b->jobs_count, jobs);
    CHECK_INT(session_running(b->s), jobs);
    return b;
}

static void test_hello(void)
{
    struct bench *b = bench_open();
    /* At 0, 1, 3, 7, 12, 17 s. */
    run(b, 17000);
    CHECK_INT(count_sent(b, MSG_TYPE_HELLO), 6);
    CHECK_INT(b->sent_count, 6);
    CHECK_INT(session_state(b->s), SESSION_CONNECTING);
    welcome(b, 7, NULL, 0);
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
    CHECK_INT(count_sent(b, MSG_TYPE_RESULTS), 0); /* silence: a new HELLO came first */
    welcome(b, 2, NULL, 0);
    run(b, 0);
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

int main(void)
{
    test_hello();
    test_credit();
    test_kv_credit();
    test_duplicate_grant();
    test_lost_ack();
    test_reconnect();
    test_silence();
    test_beat();
    test_cancel();
    test_drain();
    test_full_socket();
    test_random();
    return check_report();
}
