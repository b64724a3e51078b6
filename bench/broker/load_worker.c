/* A worker that answers at once: as octoflow-worker on the wire, with a noise maker for an engine.
 * Runs until SIGTERM, then prints how many jobs it did and how long its acknowledgements took. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <uv.h>

#include "base/clock.h"
#include "base/log.h"
#include "bench/broker/load.h"
#include "proto/socket.h"

/* RESULTS on their way to an acknowledgement, in order. */
enum { MAX_SENT = 4096, MAX_GRANT = 1024 };

struct worker {
    const struct load_options *o;
    uv_loop_t loop;
    uv_timer_t timer;
    uv_signal_t term;
    struct proto_socket *socket;
    uint64_t session, credit_total, done, acked, bad;
    uint64_t sent_ns[MAX_SENT];
    size_t sent_head, sent_tail;
    char *bodies;
    struct load_times acks;
    pid_t parent;
    bool failed;
};

static void send_msg(struct worker *w, const struct msg *m)
{
    struct err_msg why = {{0}};
    if (proto_socket_send(w->socket, NULL, m, &why) != ERR_OK) {
        fprintf(stderr, "octoflow-load worker: %s\n", why.text);
        w->failed = true;
    }
}

static void say_hello(struct worker *w)
{
    struct rec_MODEL model = {.name = STR_LIT("load"), .hash = STR_LIT("00ff")};
    struct msg m = {.type = MSG_TYPE_HELLO};
    m.hello.worker = str_of(w->o->name);
    m.hello.host = m.hello.build = m.hello.device = m.hello.driver = STR_LIT("load");
    m.hello.numeric_class = STR_LIT("load");
    m.hello.models.items = &model;
    m.hello.models.count = 1;
    m.hello.max_jobs = (uint64_t)w->o->credit;
    w->session = w->credit_total = 0;
    w->sent_head = w->sent_tail = 0;
    send_msg(w, &m);
}

static void pull(struct worker *w, uint64_t more)
{
    struct msg m = {.type = MSG_TYPE_PULL};
    m.pull.session = w->session;
    m.pull.credit_total = w->credit_total += more;
    send_msg(w, &m);
}

static void answer(struct worker *w, const struct msg_grant *g)
{
    struct rec_RESULT results[MAX_GRANT];
    size_t size = (size_t)w->o->body;
    for (size_t i = 0; i < g->jobs.count; i++) {
        const struct rec_GRANT_JOB *j = &g->jobs.items[i];
        uint64_t line = load_line_of(j->body.data, j->body.len, LOAD_REQUEST);
        if (line != j->line)
            w->bad++;
        load_fill(w->bodies + i * size, size, j->line, LOAD_RESULT);
        if (w->o->damage > 0 && j->line % (uint64_t)w->o->damage == 0)
            w->bodies[i * size + size / 2] ^= 1;
        results[i] = (struct rec_RESULT){.job = j->job,
                                         .epoch = j->epoch,
                                         .body = {w->bodies + i * size, size},
                                         .prompt_tokens = 10,
                                         .completion_tokens = 10};
    }
    struct msg m = {.type = MSG_TYPE_RESULTS};
    m.results.session = w->session;
    m.results.results.items = results;
    m.results.results.count = g->jobs.count;
    w->sent_ns[w->sent_tail++ % MAX_SENT] = clock_mono_ns();
    send_msg(w, &m);
    w->done += g->jobs.count;
    pull(w, g->jobs.count);
}

static void on_message(void *user, const struct proto_peer *from, const struct msg *m)
{
    struct worker *w = user;
    (void)from;
    switch (m->type) {
    case MSG_TYPE_WELCOME:
        w->session = m->welcome.session;
        pull(w, (uint64_t)w->o->credit);
        break;
    case MSG_TYPE_GRANT:
        if (m->grant.session == w->session)
            answer(w, &m->grant);
        break;
    case MSG_TYPE_ACKS:
        if (w->sent_head != w->sent_tail)
            load_times_add(&w->acks, clock_mono_ns() - w->sent_ns[w->sent_head++ % MAX_SENT]);
        for (size_t i = 0; i < m->acks.acks.count; i++)
            w->acked += m->acks.acks.items[i].outcome == 0;
        break;
    case MSG_TYPE_RECONNECT:
        say_hello(w);
        break;
    case MSG_TYPE_ERROR:
        fprintf(stderr, "octoflow-load worker: %.*s\n", STR_ARG(m->error.text));
        break;
    default:
        break;
    }
}

static void stop(struct worker *w)
{
    proto_socket_close(&w->socket, 0);
    uv_close((uv_handle_t *)&w->timer, NULL);
    uv_close((uv_handle_t *)&w->term, NULL);
}

/* Instant work holds no lease for long: a BEAT only shows that we live. */
static void on_timer(uv_timer_t *timer)
{
    struct worker *w = timer->data;
    if (getppid() != w->parent) { /* run.py was killed */
        stop(w);
        return;
    }
    struct msg m = {.type = MSG_TYPE_BEAT};
    m.beat.session = w->session;
    if (w->session != 0)
        send_msg(w, &m);
}

static void on_term(uv_signal_t *handle, int number)
{
    (void)number;
    stop(handle->data);
}

int load_worker(const struct load_options *o)
{
    static struct worker w;
    static const struct proto_socket_events events = {on_message, NULL};
    struct proto_socket_options so = {.endpoint = o->connect};
    struct err_msg why = {{0}};
    w.o = o;
    w.parent = getppid();
    w.bodies = malloc((size_t)o->body * MAX_GRANT);
    if (w.bodies == NULL || uv_loop_init(&w.loop) != 0)
        return 1;
    if (proto_socket_open(&w.loop, &so, &events, &w, &w.socket, &why) != ERR_OK) {
        fprintf(stderr, "octoflow-load worker: %s\n", why.text);
        return 1;
    }
    uv_timer_init(&w.loop, &w.timer);
    uv_signal_init(&w.loop, &w.term);
    w.timer.data = w.term.data = &w;
    uv_timer_start(&w.timer, on_timer, 1000, 1000);
    uv_signal_start(&w.term, on_term, SIGTERM);
    sigset_t term; /* run.py holds it back until here */
    sigemptyset(&term);
    sigaddset(&term, SIGTERM);
    pthread_sigmask(SIG_UNBLOCK, &term, NULL);
    say_hello(&w);
    uv_run(&w.loop, UV_RUN_DEFAULT);
    uv_loop_close(&w.loop);
    printf("{\"done\":%llu,\"acked\":%llu,\"bad\":%llu,", (unsigned long long)w.done,
           (unsigned long long)w.acked, (unsigned long long)w.bad);
    load_times_print("acks", &w.acks);
    printf("}\n");
    free(w.bodies);
    return w.failed || w.bad > 0;
}
