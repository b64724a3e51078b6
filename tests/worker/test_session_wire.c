/* The session on a slow wire, in virtual time: what is sent arrives in order, at so many bytes a
 * second, and is answered by a broker that has nothing to do but that. */
#include "tests/worker/session_kit.h"

enum {
    WIRE_BYTES_PER_S = 250000, /* 2 Mbit/s */
    HEARTBEAT_MS = 1000,       /* the kit's */
    MAX_ON_WIRE = 512,
    STEP_MS = 50,
};

struct flying {
    struct sent sent;
    uint64_t said_ns, arrives_ns;
};

struct wire {
    struct bench *b;
    uint64_t bytes_per_s, free_ns; /* free_ns: when all that is on it has arrived */
    struct flying flying[MAX_ON_WIRE];
    size_t count;
    uint64_t beat_most_ms;         /* how long a BEAT took at most */
    uint64_t quiet_most_ms, at_ns; /* between two messages that arrived; the last one */
    size_t results[256];           /* how often each job's came, by job - 100 */
    uint64_t checkpoint_bytes, waiting_most_bytes;
};

static struct wire *wire_open(uint64_t bytes_per_s, size_t jobs)
{
    struct wire *w = calloc(1, sizeof *w);
    w->b = joined(0);
    w->bytes_per_s = bytes_per_s;
    for (size_t i = 0; i < jobs; i += 40)
        grant(w->b, 1, 100 + i, jobs - i < 40 ? jobs - i : 40, 1);
    w->at_ns = w->free_ns = w->b->now_ns;
    w->b->sent_count = 0;
    return w;
}

static void wire_close(struct wire *w)
{
    bench_close(w->b);
    free(w);
}

static void answer(struct wire *w, const struct flying *f)
{
    const struct sent *m = &f->sent;
    uint64_t took_ms = (f->arrives_ns - f->said_ns) / NS_PER_MS;
    uint64_t quiet_ms = (f->arrives_ns - w->at_ns) / NS_PER_MS;
    w->quiet_most_ms = quiet_ms > w->quiet_most_ms ? quiet_ms : w->quiet_most_ms;
    w->at_ns = f->arrives_ns;
    if (m->type == MSG_TYPE_BEAT) {
        w->beat_most_ms = took_ms > w->beat_most_ms ? took_ms : w->beat_most_ms;
        w->checkpoint_bytes += m->checkpoint_bytes;
        beat_ok(w->b, m->session, false, NULL);
    }
    for (size_t i = 0; i < m->count && m->type == MSG_TYPE_RESULTS; i++) {
        w->results[m->refs[i].job - 100]++;
        ack(w->b, m->refs[i].job, m->refs[i].epoch);
    }
}

/* What was sent goes on the wire; what has arrived is answered. */
static void wire_run(struct wire *w, uint64_t ms)
{
    struct bench *b = w->b;
    for (uint64_t t = 0; t < ms; t += STEP_MS) {
        b->now_ns += STEP_MS * NS_PER_MS;
        if (w->count > 0) /* as worker_loop.c finds it from the socket */
            session_wire_moves(b->s, b->now_ns);
        size_t arrived = 0;
        for (; arrived < w->count && w->flying[arrived].arrives_ns <= b->now_ns; arrived++)
            answer(w, &w->flying[arrived]);
        w->count -= arrived;
        memmove(w->flying, w->flying + arrived, w->count * sizeof *w->flying);
        b->sent_count = 0;
        session_tick(b->s, b->now_ns);
        uint64_t waiting_bytes = 0;
        for (size_t i = 0; i < b->sent_count && CHECK(w->count < MAX_ON_WIRE); i++) {
            const struct sent *m = &b->sent[i];
            uint64_t bytes = m->all_bytes + 30 * m->count + 200;
            w->free_ns = w->free_ns > b->now_ns ? w->free_ns : b->now_ns;
            w->free_ns += bytes * NS_PER_S / w->bytes_per_s;
            w->flying[w->count++] = (struct flying){*m, b->now_ns, w->free_ns};
        }
        for (size_t i = 0; i < w->count; i++)
            waiting_bytes += w->flying[i].sent.all_bytes;
        if (waiting_bytes > w->waiting_most_bytes)
            w->waiting_most_bytes = waiting_bytes;
    }
}

/* Eight megabytes of results and six of checkpoints: heartbeats pass them, nothing goes twice. */
static void test_slow_wire(void)
{
    struct wire *w = wire_open(WIRE_BYTES_PER_S, 80);
    for (size_t i = 0; i < 80; i++) {
        struct buf checkpoint = bytes_of(150000);
        if (i < 40)
            session_progress(w->b->s, w->b->serials[i], 30000, &checkpoint);
        else
            large_result(w->b, w->b->serials[i], 200000);
        buf_free(&checkpoint);
    }
    wire_run(w, 70000);
    CHECK_INT(session_state(w->b->s), SESSION_READY);
    CHECK_INT(session_held(w->b->s), 40);
    CHECK_INT(w->checkpoint_bytes, 40 * 150000);
    for (size_t i = 40; i < 80; i++)
        CHECK_INT(w->results[i], 1);
    CHECK(w->waiting_most_bytes <= 1 << 20);
    CHECK(w->beat_most_ms <= 4300); /* a MiB */
    printf("a BEAT took %llu ms at most, %llu bytes were on their way at most\n",
           (unsigned long long)w->beat_most_ms, (unsigned long long)w->waiting_most_bytes);
    wire_close(w);
}

/* A result of 16 MiB takes more than a minute: it goes once, alone, and the session stands. */
static void test_giant(void)
{
    struct wire *w = wire_open(WIRE_BYTES_PER_S, 4);
    for (size_t i = 0; i < 3; i++)
        large_result(w->b, w->b->serials[i], i == 0 ? 16 << 20 : 100000);
    wire_run(w, 75000);
    CHECK_INT(session_state(w->b->s), SESSION_READY);
    CHECK_INT(session_held(w->b->s), 1);
    for (size_t i = 0; i < 3; i++)
        CHECK_INT(w->results[i], 1);
    CHECK(w->waiting_most_bytes <= (16 << 20) + 200000);
    wire_close(w);
}

/* Small results without end do not keep a large one from its turn. */
static void test_giant_among_many(void)
{
    struct wire *w = wire_open(WIRE_BYTES_PER_S, 80);
    large_result(w->b, w->b->serials[79], 600000);
    for (size_t i = 0; i < 79; i++) {
        large_result(w->b, w->b->serials[i], 100000);
        wire_run(w, 300); /* less than one takes: there are always some on their way */
        if (i == 40)
            CHECK_INT(w->results[79], 1);
    }
    wire_run(w, 20000);
    for (size_t i = 0; i < 80; i++)
        CHECK_INT(w->results[i], 1);
    CHECK_INT(session_held(w->b->s), 0);
    wire_close(w);
}

/* Where there is room, checkpoints do not wait for the next heartbeat. */
static void test_fast_wire(void)
{
    struct wire *w = wire_open(100000000, 40);
    for (size_t i = 0; i < 40; i++) {
        struct buf checkpoint = bytes_of(100000);
        session_progress(w->b->s, w->b->serials[i], 30000, &checkpoint);
        buf_free(&checkpoint);
    }
    wire_run(w, 2 * HEARTBEAT_MS);
    CHECK_INT(w->checkpoint_bytes, 40 * 100000);
    wire_close(w);
}

/* An answer that the broker lost is asked for again, once it is sure that it has had the result. */
static void test_lost_answer(void)
{
    struct wire *w = wire_open(WIRE_BYTES_PER_S, 1);
    large_result(w->b, w->b->serials[0], 1000);
    session_tick(w->b->s, w->b->now_ns);
    w->b->sent_count = 0; /* it has arrived, its ACK has not */
    wire_run(w, 4900);
    CHECK_INT(w->results[0], 0);
    wire_run(w, 300);
    CHECK_INT(w->results[0], 1);
    CHECK_INT(session_held(w->b->s), 0);
    wire_close(w);
}

/* A NACK that a broken wire may have lost is said again, with all that it said. */
static void test_lost_nack(void)
{
    struct bench *b = joined(4);
    struct buf checkpoint = bytes_of(100);
    session_nack(b->s, b->serials[0], true, "GPU trouble", &checkpoint);
    session_nack(b->s, b->serials[1], false, "no room", NULL);
    run(b, 0);
    CHECK_INT(last_sent(b, MSG_TYPE_NACK)->count, 2);
    run(b, 900);
    CHECK_INT(count_sent(b, MSG_TYPE_NACK), 0); /* nor is it said twice on a wire that stands */
    simple(b, MSG_TYPE_RECONNECT, 0);
    b->now_ns += 2 * NS_PER_S;
    simple(b, MSG_TYPE_RECONNECT, 0);
    run(b, 0);
    CHECK_INT(last_sent(b, MSG_TYPE_HELLO)->count, 4);
    struct rec_JOB_REF lost = {101, 1};
    welcome(b, 2, &lost, 1);
    CHECK_INT(b->cancelled_count, 0);
    run(b, 0);
    CHECK_INT(last_sent(b, MSG_TYPE_NACK)->session, 2);
    CHECK_INT(last_sent(b, MSG_TYPE_NACK)->count, 1);
    CHECK_INT(last_sent(b, MSG_TYPE_NACK)->refs[0].job, 100);
    CHECK_INT(last_sent(b, MSG_TYPE_NACK)->checkpoint_bytes, 100);
    CHECK(last_sent(b, MSG_TYPE_NACK)->counts);
    run(b, 1000);
    CHECK_INT(last_sent(b, MSG_TYPE_BEAT)->count, 2); /* its lease is not renewed */
    beat_ok(b, 2, false, NULL);
    simple(b, MSG_TYPE_RECONNECT, 0);
    run(b, 0);
    CHECK_INT(last_sent(b, MSG_TYPE_HELLO)->count, 2); /* it has arrived */
    buf_free(&checkpoint);
    bench_close(b);
}

int main(void)
{
    test_slow_wire();
    test_giant();
    test_giant_among_many();
    test_fast_wire();
    test_lost_answer();
    test_lost_nack();
    return check_report();
}
