/* What a script against a real broker process is made of: starting and stopping it, peers that send
 * and wait for messages, a client's calls and a worker's messages. One test program includes it. */
#ifndef OCTO_TESTS_BROKER_SCRIPT_H
#define OCTO_TESTS_BROKER_SCRIPT_H

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>
#include <zmq.h>

#include "base/arena.h"
#include "base/buf.h"
#include "base/clock.h"
#include "proto/codec.h"
#include "proto/curve.h"
#include "tests/check.h"

enum { TIMEOUT_MS = 30000, QUIET_MS = 60 }; /* the first is for what hangs */

static const char *broker_path;
static char dir[] = "/tmp/octo-broker-XXXXXX";
static char ledger[128], endpoint[160];
static void *ctx;
static const char *more[8]; /* options of the brokers that are started, up to a NULL */

/* ---- the broker process ---- */

static pid_t spawn(const char *ledger_path, const char *listen, const char *heartbeat,
                   const char *lease)
{
    pid_t pid = fork();
    if (pid == 0) {
        const char *args[24] = {broker_path, "--ledger",    ledger_path, "--listen",
                                listen,      "--lease-ms",  lease,       "--heartbeat-ms",
                                heartbeat,   "--log-level", "error",     "--die-with-parent"};
        for (int i = 0; i < 8 && more[i] != NULL; i++)
            args[12 + i] = more[i];
        execv(broker_path, (char *const *)(uintptr_t)args);
        _exit(127);
    }
    return pid;
}

static int reap(pid_t pid)
{
    int status = 0;
    if (waitpid(pid, &status, 0) != pid)
        return -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static int stop(pid_t pid)
{
    kill(pid, SIGTERM);
    return reap(pid);
}

static pid_t start(const char *name, const char *heartbeat, const char *lease)
{
    snprintf(ledger, sizeof ledger, "%s/%s", dir, name);
    snprintf(endpoint, sizeof endpoint, "ipc://%s/%s.sock", dir, name);
    return spawn(ledger, endpoint, heartbeat, lease);
}

/* ---- peers ---- */

struct peer {
    void *socket;
    struct arena arena;
    struct msg m; /* the last message; valid until the next */
    zmq_msg_t frame;
    uint64_t session, seq;
};

/* keys NULL: without. */
static struct peer open_peer_with(const struct proto_curve *keys)
{
    struct peer p = {0};
    int linger = 0, reconnect_ms = 10;
    p.socket = zmq_socket(ctx, ZMQ_DEALER);
    zmq_setsockopt(p.socket, ZMQ_LINGER, &linger, sizeof linger);
    zmq_setsockopt(p.socket, ZMQ_RECONNECT_IVL, &reconnect_ms, sizeof reconnect_ms);
    zmq_msg_init(&p.frame);
    if (keys != NULL) {
        zmq_setsockopt(p.socket, ZMQ_CURVE_SERVERKEY, keys->server_key, PROTO_KEY_CHARS + 1);
        zmq_setsockopt(p.socket, ZMQ_CURVE_PUBLICKEY, keys->public_key, PROTO_KEY_CHARS + 1);
        zmq_setsockopt(p.socket, ZMQ_CURVE_SECRETKEY, keys->secret_key, PROTO_KEY_CHARS + 1);
    }
    if (zmq_connect(p.socket, endpoint) != 0)
        abort();
    return p;
}

static struct peer open_peer(void)
{
    return open_peer_with(NULL);
}

static void close_peer(struct peer *p)
{
    arena_free(&p->arena);
    zmq_msg_close(&p->frame);
    zmq_close(p->socket);
}

static void send_msg(struct peer *p, const struct msg *m)
{
    struct buf b = {0};
    struct err_msg why;
    CHECK_OK(proto_encode(m, &b, &why), why);
    CHECK(zmq_send(p->socket, b.data, b.len, 0) == (int)b.len);
    buf_free(&b);
}

static enum msg_type receive(struct peer *p, int timeout_ms)
{
    struct err_msg why;
    zmq_pollitem_t item = {p->socket, 0, ZMQ_POLLIN, 0};
    if (zmq_poll(&item, 1, timeout_ms) <= 0)
        return MSG_NONE;
    arena_free(&p->arena);
    zmq_msg_close(&p->frame);
    zmq_msg_init(&p->frame);
    if (zmq_msg_recv(&p->frame, p->socket, 0) < 0)
        return MSG_NONE;
    CHECK_OK(proto_decode(zmq_msg_data(&p->frame), zmq_msg_size(&p->frame), &p->arena, &p->m, &why),
             why);
    return p->m.type;
}

/* A script goes no further without the message it waits for. */
static void expect(struct peer *p, enum msg_type want, int line)
{
    enum msg_type got = receive(p, TIMEOUT_MS);
    check_count++;
    if (got == want)
        return;
    fprintf(stderr, "line %d: got %s, expected %s\n", line, proto_type_name(got),
            proto_type_name(want));
    check_failures++;
    exit(check_report());
}

#define EXPECT(p, want) expect(p, want, __LINE__)

/* ---- clients ---- */

static enum msg_type call(struct peer *c, struct msg *m)
{
    m->batch_new.seq = ++c->seq; /* seq is the first field of every request */
    send_msg(c, m);
    return receive(c, TIMEOUT_MS);
}

static enum msg_type batch_new(struct peer *c, const char *name, const char *model,
                               const char *hash)
{
    struct msg m = {.type = MSG_TYPE_BATCH_NEW};
    m.batch_new.batch = str_of(name);
    m.batch_new.model = str_of(model);
    m.batch_new.options_hash = str_of(hash);
    return call(c, &m);
}

static enum msg_type submit(struct peer *c, const char *batch, uint64_t first, size_t count,
                            uint64_t salt)
{
    static struct rec_LINE lines[512];
    static char bodies[512][32];
    struct msg m = {.type = MSG_TYPE_SUBMIT};
    for (size_t i = 0; i < count; i++) {
        int n =
            snprintf(bodies[i], sizeof bodies[i], "request %llu", (unsigned long long)(first + i));
        lines[i] = (struct rec_LINE){
            .line = first + i, .hash = first + i + salt, .body = {bodies[i], (size_t)n}};
    }
    m.submit.batch = str_of(batch);
    m.submit.lines.items = lines;
    m.submit.lines.count = count;
    return call(c, &m);
}

static enum msg_type seal(struct peer *c, const char *batch, uint64_t lines)
{
    struct msg m = {.type = MSG_TYPE_SEAL};
    m.seal.batch = str_of(batch);
    m.seal.lines = lines;
    return call(c, &m);
}

static const struct rec_BATCH *status(struct peer *c, const char *batch)
{
    static const struct rec_BATCH none;
    struct msg m = {.type = MSG_TYPE_STATUS};
    m.status.batch = str_of(batch);
    if (!CHECK(call(c, &m) == MSG_TYPE_STATUS_OK && c->m.status_ok.batches.count == 1))
        return &none;
    return &c->m.status_ok.batches.items[0];
}

static inline size_t fetch(struct peer *c, const char *batch, uint64_t after)
{
    struct msg m = {.type = MSG_TYPE_FETCH};
    m.fetch.batch = str_of(batch);
    m.fetch.by_line = true;
    m.fetch.after = after;
    m.fetch.max = 1000;
    return CHECK(call(c, &m) == MSG_TYPE_FETCH_OK) ? c->m.fetch_ok.results.count : 0;
}

static inline void make_batch(struct peer *c, const char *name, size_t lines)
{
    CHECK_INT(batch_new(c, name, "", "h"), MSG_TYPE_BATCH_OK);
    CHECK_INT(submit(c, name, 1, lines, 0), MSG_TYPE_SUBMIT_OK);
    CHECK_INT(seal(c, name, lines), MSG_TYPE_OK);
}

/* ---- workers ---- */

static inline void send_hello(struct peer *w, const char *name, struct rec_JOB_REF *holding,
                              size_t count)
{
    struct rec_MODEL model = {.name = STR_LIT("tiny"), .hash = STR_LIT("00ff")};
    struct msg m = {.type = MSG_TYPE_HELLO};
    m.hello.worker = str_of(name);
    m.hello.host = m.hello.build = m.hello.device = m.hello.driver = STR_LIT("test");
    m.hello.numeric_class = STR_LIT("class");
    m.hello.models.items = &model;
    m.hello.models.count = 1;
    m.hello.holding.items = holding;
    m.hello.holding.count = count;
    send_msg(w, &m);
}

static inline void say_hello(struct peer *w, const char *name, struct rec_JOB_REF *holding,
                             size_t count)
{
    send_hello(w, name, holding, count);
    enum msg_type t;
    while ((t = receive(w, TIMEOUT_MS)) == MSG_TYPE_RECONNECT) /* to what was sent before */
        ;
    if (CHECK(t == MSG_TYPE_WELCOME))
        w->session = w->m.welcome.session;
}

static void pull(struct peer *w, uint64_t credit)
{
    struct msg m = {.type = MSG_TYPE_PULL};
    m.pull.session = w->session;
    m.pull.credit_total = credit;
    send_msg(w, &m);
}

static inline void beat(struct peer *w, uint64_t job, uint64_t epoch)
{
    struct rec_RUNNING r = {.job = job, .epoch = epoch, .completion_tokens = 7};
    struct msg m = {.type = MSG_TYPE_BEAT};
    m.beat.session = w->session;
    m.beat.running.items = &r;
    m.beat.running.count = job != 0;
    send_msg(w, &m);
}

static double result_energy_j = 1.5; /* what results say */

static void send_result(struct peer *w, uint64_t job, uint64_t epoch, const char *body)
{
    struct rec_RESULT r = {.job = job,
                           .epoch = epoch,
                           .body = str_of(body),
                           .completion_tokens = 5,
                           .energy_j = result_energy_j};
    struct msg m = {.type = MSG_TYPE_RESULTS};
    m.results.session = w->session;
    m.results.results.items = &r;
    m.results.results.count = 1;
    send_msg(w, &m);
}

static inline uint64_t outcome(struct peer *w, uint64_t job, uint64_t epoch, const char *body)
{
    send_result(w, job, epoch, body);
    for (;;) {
        enum msg_type t = receive(w, TIMEOUT_MS);
        if (t == MSG_TYPE_ACKS)
            return w->m.acks.acks.items[0].job == job ? w->m.acks.acks.items[0].outcome : 99;
        if (!CHECK(t == MSG_TYPE_BEAT_OK))
            return 99;
    }
}

#endif
