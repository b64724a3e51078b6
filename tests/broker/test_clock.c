/* The broker's server in this process, with a wall clock that jumps by years at every look (the
 * linker puts ours in its place): leases, sessions and the order of results do not care, and the
 * stamps show what the clock said. What ends a lease is time that has really passed. */
#include <unistd.h>
#include <uv.h>

#include "base/clock.h"
#include "broker/server.h"
#include "proto/socket.h"
#include "tests/check.h"

enum { HEARTBEAT_MS = 100, LEASE_MS = 60000, BEATS = 12, JOBS = 4 };

static struct check_rng rng;
static uint64_t looks, last_wall_ms;
static bool still; /* the clock stands at last_wall_ms */

uint64_t __wrap_clock_wall_ms(void);

uint64_t __wrap_clock_wall_ms(void)
{
    static const uint64_t year_ms = UINT64_C(365) * 86400 * 1000;
    looks++;
    if (!still) /* 1970 to 2069, in no order */
        last_wall_ms = 1 + check_rng_below(&rng, 100) * year_ms + check_rng_below(&rng, 1000000);
    return last_wall_ms;
}

struct bed {
    uv_loop_t loop;
    struct server *server;
    struct proto_socket *worker, *client;
    uv_timer_t beat_timer;
    uint64_t session, granted, jobs[JOBS], epochs[JOBS];
    unsigned beats_answered, cancelled, reconnects, acked, stored;
    bool beating;
    uint64_t seq, answered; /* the client's */
    enum msg_type answer;
    uint64_t queued, leased, created_ms, completed_ms;
    uint64_t finished_ms[JOBS], seqs[JOBS];
    size_t fetched;
};

static void tell(struct proto_socket *s, const struct msg *m)
{
    struct err_msg why;
    CHECK_OK(proto_socket_send(s, NULL, m, &why), why);
}

static void worker_message(void *user, const struct proto_peer *from, const struct msg *m)
{
    struct bed *b = user;
    (void)from;
    if (m->type == MSG_TYPE_WELCOME) {
        b->session = m->welcome.session;
    } else if (m->type == MSG_TYPE_GRANT) {
        for (size_t i = 0; i < m->grant.jobs.count && b->granted < JOBS; i++) {
            b->jobs[b->granted] = m->grant.jobs.items[i].job;
            b->epochs[b->granted++] = m->grant.jobs.items[i].epoch;
        }
    } else if (m->type == MSG_TYPE_BEAT_OK) {
        b->beats_answered++;
        b->cancelled += (unsigned)m->beat_ok.cancel.count;
    } else if (m->type == MSG_TYPE_ACKS) {
        for (size_t i = 0; i < m->acks.acks.count; i++)
            b->stored += m->acks.acks.items[i].outcome == 0;
        b->acked += (unsigned)m->acks.acks.count;
    } else if (m->type == MSG_TYPE_RECONNECT) {
        b->reconnects++;
    }
}

static void client_message(void *user, const struct proto_peer *from, const struct msg *m)
{
    struct bed *b = user;
    (void)from;
    b->answer = m->type;
    b->answered = m->ok.seq; /* the first field of all answers */
    if (m->type == MSG_TYPE_STATUS_OK && m->status_ok.batches.count == 1) {
        const struct rec_BATCH *r = &m->status_ok.batches.items[0];
        b->queued = r->queued;
        b->leased = r->leased;
        b->created_ms = r->created_ms;
        b->completed_ms = r->completed_ms;
    } else if (m->type == MSG_TYPE_FETCH_OK) {
        b->fetched = m->fetch_ok.results.count;
        for (size_t i = 0; i < b->fetched && i < JOBS; i++) {
            b->finished_ms[i] = m->fetch_ok.results.items[i].finished_ms;
            b->seqs[i] = m->fetch_ok.results.items[i].seq;
        }
    }
}

static void on_beat(uv_timer_t *timer)
{
    struct bed *b = timer->data;
    struct rec_RUNNING running[JOBS];
    struct msg m = {.type = MSG_TYPE_BEAT};
    if (!b->beating)
        return;
    for (size_t i = 0; i < b->granted; i++)
        running[i] = (struct rec_RUNNING){.job = b->jobs[i], .epoch = b->epochs[i]};
    m.beat.session = b->session;
    m.beat.running.items = running;
    m.beat.running.count = b->granted;
    tell(b->worker, &m);
}

/* Turns the loop until *what is at least n. */
static bool until(struct bed *b, const unsigned *what, unsigned n)
{
    uint64_t end_ns = clock_mono_ns() + 20 * NS_PER_S;
    while (*what < n && clock_mono_ns() < end_ns)
        uv_run(&b->loop, UV_RUN_ONCE);
    return CHECK(*what >= n);
}

static void call(struct bed *b, struct msg *m, enum msg_type want)
{
    m->ok.seq = ++b->seq;
    tell(b->client, m);
    uint64_t end_ns = clock_mono_ns() + 20 * NS_PER_S;
    while (b->answered != b->seq && clock_mono_ns() < end_ns)
        uv_run(&b->loop, UV_RUN_ONCE);
    CHECK_INT(b->answer, want);
}

static void status(struct bed *b)
{
    struct msg m = {.type = MSG_TYPE_STATUS, .status = {.batch = STR_LIT("b")}};
    call(b, &m, MSG_TYPE_STATUS_OK);
}

static void make_batch(struct bed *b)
{
    struct rec_LINE lines[JOBS];
    struct msg m = {.type = MSG_TYPE_BATCH_NEW, .batch_new = {.batch = STR_LIT("b")}};
    call(b, &m, MSG_TYPE_BATCH_OK);
    for (uint64_t i = 0; i < JOBS; i++)
        lines[i] = (struct rec_LINE){.line = i + 1, .hash = i, .body = STR_LIT("x")};
    m = (struct msg){.type = MSG_TYPE_SUBMIT,
                     .submit = {.batch = STR_LIT("b"), .lines = {lines, JOBS}}};
    call(b, &m, MSG_TYPE_SUBMIT_OK);
    m = (struct msg){.type = MSG_TYPE_SEAL, .seal = {.batch = STR_LIT("b"), .lines = JOBS}};
    call(b, &m, MSG_TYPE_OK);
}

static void join(struct bed *b)
{
    struct rec_MODEL model = {.name = STR_LIT("tiny"), .hash = STR_LIT("00ff")};
    struct msg m = {.type = MSG_TYPE_HELLO};
    m.hello.worker = m.hello.host = m.hello.build = m.hello.device = m.hello.driver = STR_LIT("w");
    m.hello.numeric_class = STR_LIT("c");
    m.hello.models.items = &model;
    m.hello.models.count = 1;
    tell(b->worker, &m);
    uint64_t end_ns = clock_mono_ns() + 20 * NS_PER_S;
    while (b->session == 0 && clock_mono_ns() < end_ns)
        uv_run(&b->loop, UV_RUN_ONCE);
    m = (struct msg){.type = MSG_TYPE_PULL};
    m.pull.session = b->session;
    m.pull.credit_total = JOBS;
    tell(b->worker, &m);
    while (b->granted < JOBS && clock_mono_ns() < end_ns)
        uv_run(&b->loop, UV_RUN_ONCE);
    CHECK_INT(b->granted, JOBS);
}

static void finish(struct bed *b, size_t i)
{
    struct rec_RESULT r = {.job = b->jobs[i], .epoch = b->epochs[i], .body = STR_LIT("done")};
    struct msg m = {.type = MSG_TYPE_RESULTS};
    m.results.session = b->session;
    m.results.results.items = &r;
    m.results.results.count = 1;
    unsigned before = b->acked;
    tell(b->worker, &m);
    until(b, &b->acked, before + 1);
}

/* The worker falls silent: its jobs are queued again after three heartbeats, neither sooner nor
 * much later. */
static void fall_silent(struct bed *b)
{
    b->beating = false;
    uint64_t begin_ns = clock_mono_ns();
    do
        status(b);
    while (b->queued == 0 && clock_mono_ns() - begin_ns < 20 * NS_PER_S);
    uint64_t ms = (clock_mono_ns() - begin_ns) / NS_PER_MS;
    CHECK(ms >= 2 * HEARTBEAT_MS);
    CHECK_INT(b->queued, JOBS - 2);
    CHECK_INT(b->leased, 0);
}

static void open_bed(struct bed *b, const char *ledger, const char *endpoint)
{
    static const struct proto_socket_events worker = {.on_message = worker_message};
    static const struct proto_socket_events client = {.on_message = client_message};
    struct err_msg why;
    struct server_options so = {.ledger_path = ledger,
                                .endpoint = endpoint,
                                .heartbeat_ms = HEARTBEAT_MS,
                                .lease_ms = LEASE_MS,
                                .max_attempts = 3};
    struct proto_socket_options dealer = {.endpoint = endpoint};
    uv_loop_init(&b->loop);
    CHECK_OK(server_open(&b->loop, &so, &b->server, &why), why);
    CHECK_OK(proto_socket_open(&b->loop, &dealer, &worker, b, &b->worker, &why), why);
    CHECK_OK(proto_socket_open(&b->loop, &dealer, &client, b, &b->client, &why), why);
    uv_timer_init(&b->loop, &b->beat_timer);
    b->beat_timer.data = b;
    uv_timer_start(&b->beat_timer, on_beat, HEARTBEAT_MS / 2, HEARTBEAT_MS / 2);
}

int main(void)
{
    char dir[] = "/tmp/octo-clock-XXXXXX", ledger[64], endpoint[80];
    if (mkdtemp(dir) == NULL)
        return 1;
    rng = check_rng_start(20261126);
    snprintf(ledger, sizeof ledger, "%s/l.db", dir);
    snprintf(endpoint, sizeof endpoint, "ipc://%s/s", dir);
    static struct bed b;
    open_bed(&b, ledger, endpoint);
    make_batch(&b);
    join(&b);
    b.beating = true;
    until(&b, &b.beats_answered, BEATS);
    CHECK_INT(b.cancelled, 0);
    CHECK_INT(b.reconnects, 0);
    status(&b);
    CHECK_INT(b.leased, JOBS);

    still = true; /* the latest result carries the earliest stamp, and still comes last */
    last_wall_ms = UINT64_C(4000000000000);
    finish(&b, 0);
    last_wall_ms = 1;
    finish(&b, 1);
    still = false;
    CHECK_INT(b.stored, 2);
    struct msg m = {.type = MSG_TYPE_FETCH, .fetch = {.batch = STR_LIT("b"), .max = 10}};
    call(&b, &m, MSG_TYPE_FETCH_OK);
    CHECK_INT(b.fetched, 2);
    CHECK_INT(b.finished_ms[0], UINT64_C(4000000000000));
    CHECK_INT(b.finished_ms[1], 1);
    CHECK(b.seqs[0] == 1 && b.seqs[1] == 2);
    fall_silent(&b);
    CHECK(looks >= 7 && b.created_ms > 0 && b.completed_ms == 0);

    server_close(&b.server);
    proto_socket_close(&b.worker, 0);
    proto_socket_close(&b.client, 0);
    uv_close((uv_handle_t *)&b.beat_timer, NULL);
    uv_run(&b.loop, UV_RUN_DEFAULT);
    CHECK_INT(uv_loop_close(&b.loop), 0);
    check_remove(dir);
    return check_report();
}
