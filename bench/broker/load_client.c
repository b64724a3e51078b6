/* A client: submits lines, several SUBMITs on the way at a time, and with --fetch takes every
 * result as it comes, checks it, and counts how often each line came. Prints one line of JSON. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <uv.h>

#include "base/clock.h"
#include "base/size.h"
#include "bench/broker/load.h"
#include "proto/socket.h"

enum { MAX_LINES = 1024, MAX_WINDOW = 4096, FETCH_MAX = 1024, FETCH_WAIT_MS = 3, ENOUGH = 256 };

struct client {
    const struct load_options *o;
    uv_loop_t loop;
    uv_timer_t timer;
    struct proto_socket *socket;
    uint64_t seq, begun_ns, last_ack_ns, last_fetch_ns;
    uint64_t sent, acked, fetched, cursor;
    uint64_t done, lines; /* results to wait for; the greatest line there can be a result of */
    uint64_t window_seq[MAX_WINDOW], window_ns[MAX_WINDOW];
    size_t head, tail;  /* of the SUBMITs on the way */
    uint64_t fetch_seq; /* of the FETCH on the way; 0: none */
    uint8_t *seen;      /* by line */
    uint64_t bad, double_results;
    char *bodies;
    struct load_times acks;
    bool failed;
};

static void fail(struct client *c, const char *what, struct str text)
{
    if (!c->failed)
        fprintf(stderr, "octoflow-load client: %s: %.*s\n", what, STR_ARG(text));
    c->failed = true;
}

static void send_msg(struct client *c, const struct msg *m)
{
    struct err_msg why = {{0}};
    if (proto_socket_send(c->socket, NULL, m, &why) != ERR_OK)
        fail(c, "send", str_of(why.text));
}

static void batch_new(struct client *c)
{
    struct msg m = {.type = MSG_TYPE_BATCH_NEW};
    m.batch_new.seq = ++c->seq;
    m.batch_new.batch = str_of(c->o->name);
    m.batch_new.options_hash = STR_LIT("load");
    send_msg(c, &m);
}

static void submit(struct client *c)
{
    static struct rec_LINE lines[MAX_LINES];
    size_t size = (size_t)c->o->body, count = 0;
    for (; count < (size_t)c->o->lines && c->sent < (uint64_t)c->o->jobs; count++) {
        uint64_t line = (uint64_t)c->o->first + c->sent++;
        load_fill(c->bodies + count * size, size, line, LOAD_REQUEST);
        lines[count] = (struct rec_LINE){
            .line = line, .hash = line * 3, .body = {c->bodies + count * size, size}};
    }
    struct msg m = {.type = MSG_TYPE_SUBMIT};
    m.submit.seq = ++c->seq;
    m.submit.batch = str_of(c->o->name);
    m.submit.lines.items = lines;
    m.submit.lines.count = count;
    c->window_seq[c->tail % MAX_WINDOW] = c->seq;
    c->window_ns[c->tail++ % MAX_WINDOW] = clock_mono_ns();
    send_msg(c, &m);
}

static void ask_results(struct client *c)
{
    if (!c->o->fetch || c->fetch_seq != 0 || c->fetched >= c->done)
        return;
    struct msg m = {.type = MSG_TYPE_FETCH};
    m.fetch.seq = c->fetch_seq = ++c->seq;
    m.fetch.batch = str_of(c->o->name);
    m.fetch.after = c->cursor;
    m.fetch.max = FETCH_MAX;
    send_msg(c, &m);
}

static void take_results(struct client *c, const struct msg_fetch_ok *m)
{
    for (size_t i = 0; i < m->results.count; i++) {
        const struct rec_FETCHED *f = &m->results.items[i];
        bool whole = load_line_of(f->body.data, f->body.len, LOAD_RESULT) == f->line &&
                     str_eq(f->state, STR_LIT("done"));
        if (!whole || f->line > c->lines)
            c->bad++;
        else if (c->seen[f->line]++ > 0)
            c->double_results++;
        else
            c->fetched++;
        c->cursor = f->seq;
    }
    c->last_fetch_ns = clock_mono_ns();
}

static bool is_finished(const struct client *c)
{
    return c->failed || c->bad > 0 || c->double_results > 0 ||
           (c->acked == (uint64_t)c->o->jobs && (!c->o->fetch || c->fetched >= c->done));
}

static void go_on(struct client *c)
{
    if (is_finished(c)) {
        if (c->socket != NULL) {
            proto_socket_close(&c->socket, 100);
            uv_close((uv_handle_t *)&c->timer, NULL);
        }
        return;
    }
    while (c->sent < (uint64_t)c->o->jobs && c->tail - c->head < (size_t)c->o->window &&
           (c->o->queued == 0 || c->sent < c->fetched + (uint64_t)c->o->queued))
        submit(c);
}

static void on_timer(uv_timer_t *timer)
{
    ask_results(timer->data);
}

static void on_message(void *user, const struct proto_peer *from, const struct msg *m)
{
    struct client *c = user;
    (void)from;
    switch (m->type) {
    case MSG_TYPE_BATCH_OK:
        c->begun_ns = clock_mono_ns();
        ask_results(c);
        break;
    case MSG_TYPE_SUBMIT_OK:
        if (c->head == c->tail || m->submit_ok.seq != c->window_seq[c->head % MAX_WINDOW]) {
            fail(c, "answers out of order", STR_LIT("SUBMIT_OK"));
            break;
        }
        c->last_ack_ns = clock_mono_ns();
        load_times_add(&c->acks, c->last_ack_ns - c->window_ns[c->head++ % MAX_WINDOW]);
        c->acked += m->submit_ok.accepted;
        break;
    case MSG_TYPE_FETCH_OK:
        c->fetch_seq = 0;
        take_results(c, &m->fetch_ok);
        if (m->fetch_ok.results.count >= ENOUGH)
            ask_results(c);
        else
            uv_timer_start(&c->timer, on_timer, FETCH_WAIT_MS, 0);
        break;
    case MSG_TYPE_ERROR:
        fail(c, "the broker says", m->error.text);
        break;
    default:
        break;
    }
    go_on(c);
}

int load_client(const struct load_options *o)
{
    static struct client c;
    static const struct proto_socket_events events = {on_message, NULL};
    struct proto_socket_options so = {.endpoint = o->connect};
    struct err_msg why = {{0}};
    c.o = o;
    c.bodies = malloc((size_t)o->body * MAX_LINES);
    c.done = (uint64_t)(o->done > 0 ? o->done : o->jobs);
    c.lines = (uint64_t)(o->first + o->jobs - 1);
    c.seen = calloc(c.lines + 1, 1);
    if (c.bodies == NULL || c.seen == NULL || uv_loop_init(&c.loop) != 0)
        return 1;
    if (proto_socket_open(&c.loop, &so, &events, &c, &c.socket, &why) != ERR_OK) {
        fprintf(stderr, "octoflow-load client: %s\n", why.text);
        return 1;
    }
    uv_timer_init(&c.loop, &c.timer);
    c.timer.data = &c;
    batch_new(&c);
    uv_run(&c.loop, UV_RUN_DEFAULT);
    uv_loop_close(&c.loop);
    printf("{\"submitted\":%llu,\"fetched\":%llu,\"bad\":%llu,\"doubles\":%llu,\"submit_s\":%.6f,"
           "\"fetch_s\":%.6f,",
           (unsigned long long)c.acked, (unsigned long long)c.fetched, (unsigned long long)c.bad,
           (unsigned long long)c.double_results, (double)(c.last_ack_ns - c.begun_ns) * 1e-9,
           c.last_fetch_ns == 0 ? 0 : (double)(c.last_fetch_ns - c.begun_ns) * 1e-9);
    load_times_print("acks", &c.acks);
    printf("}\n");
    free(c.bodies);
    free(c.seen);
    return c.failed || c.bad > 0 || c.double_results > 0;
}
