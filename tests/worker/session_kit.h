/* What the tests of the session share: a scripted broker in virtual time, and a record of what is
 * sent.
 */
#ifndef OCTO_TESTS_SESSION_KIT_H
#define OCTO_TESTS_SESSION_KIT_H

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
    size_t body_bytes, checkpoint_bytes, all_bytes; /* all_bytes: of bodies and checkpoints */
    uint64_t tokens;
    double temp_c, energy_j;
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
    bool load;          /* the last BEAT_OK says so */
    const char *ledger; /* of the last WELCOME */
};

static inline bool on_send(void *user, const struct msg *m)
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
        CHECK_INT(m->hello.process, 4711);
        CHECK(str_eq(m->hello.ledger, str_of(b->ledger)));
        REFS(m->hello.holding)
        out->credit_total = m->hello.models.count;
        snprintf(out->reason, sizeof out->reason, "%.*s", STR_ARG(m->hello.models.items[0].name));
    } else if (m->type == MSG_TYPE_PULL) {
        out->session = m->pull.session;
        out->credit_total = m->pull.credit_total;
        out->temp_c = m->pull.temp_c;
    } else if (m->type == MSG_TYPE_RESULTS) {
        out->session = m->results.session;
        REFS(m->results.results)
        out->failed = m->results.results.items[0].failed;
        out->body_bytes = m->results.results.items[0].body.len;
        out->energy_j = m->results.results.items[0].energy_j;
        for (size_t i = 0; i < m->results.results.count; i++)
            out->all_bytes += m->results.results.items[i].body.len;
    } else if (m->type == MSG_TYPE_BEAT) {
        out->session = m->beat.session;
        out->draining = m->beat.draining;
        out->temp_c = m->beat.temp_c;
        REFS(m->beat.running)
        for (size_t i = 0; i < m->beat.running.count; i++) {
            out->checkpoint_bytes += m->beat.running.items[i].checkpoint.len;
            out->tokens += m->beat.running.items[i].completion_tokens;
        }
        out->all_bytes = out->checkpoint_bytes;
    } else if (m->type == MSG_TYPE_NACK) {
        out->session = m->nack.session;
        REFS(m->nack.jobs)
        out->counts = m->nack.jobs.items[0].counts;
        out->checkpoint_bytes = m->nack.jobs.items[0].checkpoint.len;
        for (size_t i = 0; i < m->nack.jobs.count; i++)
            out->all_bytes += m->nack.jobs.items[i].checkpoint.len;
        snprintf(out->reason, sizeof out->reason, "%.*s", STR_ARG(m->nack.jobs.items[0].reason));
    } else if (m->type == MSG_TYPE_BYE) {
        out->session = m->bye.session;
    }
#undef REFS
    return true;
}

static inline void on_job(void *user, uint64_t serial, const struct rec_GRANT_JOB *grant)
{
    struct bench *b = user;
    b->jobs[b->jobs_count] = grant->job;
    b->serials[b->jobs_count++] = serial;
}

static inline void on_cancel(void *user, uint64_t serial)
{
    struct bench *b = user;
    b->cancelled[b->cancelled_count++] = serial;
}

static inline void on_drain(void *user)
{
    ((struct bench *)user)->drains++;
}

static inline void on_models(void *user, const struct msg_beat_ok *orders)
{
    struct bench *b = user;
    b->load = str_eq(orders->load, STR_LIT("other"));
}

static inline void on_error(void *user, struct str code, struct str text)
{
    (void)code;
    (void)text;
    ((struct bench *)user)->errors++;
}

static inline struct session_config bench_config(void)
{
    static struct rec_MODEL model;
    model = (struct rec_MODEL){STR_LIT("m"), STR_LIT("hash"), STR_LIT("F16"), 2048, 0};
    return (struct session_config){.worker = "w",
                                   .host = "h",
                                   .build = "b",
                                   .device = "d",
                                   .driver = "r",
                                   .numeric_class = "n",
                                   .models = &model,
                                   .models_count = 1,
                                   .max_jobs = MAX_JOBS,
                                   .kv_tokens = 65536,
                                   .process = 4711};
}

static inline struct bench *bench_open(void)
{
    struct bench *b = calloc(1, sizeof *b);
    struct session_config c = bench_config();
    struct session_events e = {b, on_send, on_job, on_cancel, on_drain, on_models, on_error};
    CHECK_ERR(session_create(&c, &e, &b->s), ERR_OK);
    b->ledger = "";
    b->now_ns = 1000 * NS_PER_S;
    return b;
}

static inline void bench_close(struct bench *b)
{
    session_destroy(&b->s);
    free(b);
}

/* Ticks every 50 ms; forgets what was sent before. */
static inline void run(struct bench *b, uint64_t ms)
{
    b->sent_count = 0;
    session_tick(b->s, b->now_ns);
    for (uint64_t t = 0; t < ms; t += 50) {
        b->now_ns += 50 * NS_PER_MS;
        session_tick(b->s, b->now_ns);
    }
}

static inline size_t count_sent(const struct bench *b, enum msg_type type)
{
    size_t n = 0;
    for (size_t i = 0; i < b->sent_count; i++)
        n += b->sent[i].type == type;
    return n;
}

static inline const struct sent *last_sent(const struct bench *b, enum msg_type type)
{
    static const struct sent none;
    for (size_t i = b->sent_count; i-- > 0;) {
        if (b->sent[i].type == type)
            return &b->sent[i];
    }
    fprintf(stderr, "    nothing of type %d was sent\n", (int)type);
    return &none;
}

static inline void welcome(struct bench *b, uint64_t session, const struct rec_JOB_REF *lost,
                           size_t count)
{
    struct rec_JOB_REF copy[8];
    memcpy(copy, lost == NULL ? copy : lost, count * sizeof *copy);
    struct msg m = {.type = MSG_TYPE_WELCOME};
    if (b->ledger[0] == '\0')
        b->ledger = "L";
    m.welcome = (struct msg_welcome){
        .broker = str_of(b->ledger), .session = session, .heartbeat_ms = 1000, .lease_ms = 30000};
    m.welcome.lost.items = copy;
    m.welcome.lost.count = count;
    session_receive(b->s, &m, b->now_ns);
}

static inline void grant(struct bench *b, uint64_t session, uint64_t first_job, size_t count,
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

static inline void ack(struct bench *b, uint64_t job, uint64_t epoch)
{
    struct rec_ACK a = {.job = job, .epoch = epoch};
    struct msg m = {.type = MSG_TYPE_ACKS};
    m.acks.acks.items = &a;
    m.acks.acks.count = 1;
    session_receive(b->s, &m, b->now_ns);
}

static inline void beat_ok(struct bench *b, uint64_t session, bool drain,
                           const struct rec_JOB_REF *cancel)
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

static inline void simple(struct bench *b, enum msg_type type, uint64_t session)
{
    struct msg m = {.type = type};
    if (type == MSG_TYPE_BYE_OK)
        m.bye_ok.session = session;
    session_receive(b->s, &m, b->now_ns);
}

static inline void result(struct bench *b, uint64_t serial)
{
    struct buf body = {0};
    CHECK_ERR(buf_append_str(&body, "result"), ERR_OK);
    session_result(b->s, serial, false, &body, 10, 5, 2.5);
    buf_free(&body);
}

static inline struct buf bytes_of(size_t bytes)
{
    struct buf b = {0};
    CHECK_ERR(buf_reserve(&b, bytes), ERR_OK);
    memset(b.data, 'x', bytes);
    b.len = bytes;
    return b;
}

static inline void large_result(struct bench *b, uint64_t serial, size_t bytes)
{
    struct buf body = bytes_of(bytes);
    session_result(b->s, serial, false, &body, 10, 5, 2.5);
    buf_free(&body);
}

/* Joined as session 1, with `jobs` leases 100.. under epoch 1. */
static inline struct bench *joined(size_t jobs)
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

#endif
