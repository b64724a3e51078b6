/* Calls of commands against a broker that has no room for long. Nobody sleeps here. */
#include <pthread.h>

#include "client/submit.h"
#include "tests/proto/loop.h"

enum { REFUSALS = 200 };

void __wrap_clock_sleep_ns(uint64_t ns);
void __wrap_clock_sleep_ns(uint64_t ns)
{
    (void)ns;
}

static void reply(void *router, zmq_msg_t *peer, const struct msg *m)
{
    struct buf b = {0};
    if (proto_encode(m, &b, NULL) != ERR_OK ||
        zmq_send(router, zmq_msg_data(peer), zmq_msg_size(peer), ZMQ_SNDMORE) < 0 ||
        zmq_send(router, b.data, b.len, 0) < 0)
        abort();
    buf_free(&b);
}

/* Refuses so often, then answers. */
static void *broker(void *router)
{
    for (int i = 0; i <= REFUSALS; i++) {
        struct arena arena = {0};
        struct msg m;
        zmq_msg_t peer, frame;
        zmq_msg_init(&peer);
        zmq_msg_init(&frame);
        if (zmq_msg_recv(&peer, router, 0) < 0 || zmq_msg_recv(&frame, router, 0) < 0 ||
            proto_decode(zmq_msg_data(&frame), zmq_msg_size(&frame), &arena, &m, NULL) != ERR_OK)
            abort();
        struct msg full = {
            .type = MSG_TYPE_ERROR,
            .error = {.seq = m.status.seq, .code = STR_LIT("quota"), .text = STR_LIT("full")}};
        struct msg good = {.type = MSG_TYPE_STATUS_OK, .status_ok = {.seq = m.status.seq}};
        reply(router, &peer, i < REFUSALS ? &full : &good);
        zmq_msg_close(&peer);
        zmq_msg_close(&frame);
        arena_free(&arena);
    }
    return NULL;
}

static void test_full_for_long(void)
{
    struct place place;
    struct err_msg why = {{0}};
    struct link l = {.timeout_ms = 5000, .command = "test"};
    struct msg m = {.type = MSG_TYPE_STATUS};
    const struct msg *answer = NULL;
    pthread_t thread;
    place_make(&place);
    void *context = zmq_ctx_new(), *router = zmq_socket(context, ZMQ_ROUTER);
    CHECK(zmq_bind(router, place.endpoint) == 0);
    CHECK(pthread_create(&thread, NULL, broker, router) == 0);
    CHECK_OK(link_open(&l, place.endpoint, NULL, &why), why);
    CHECK_OK(link_call(&l, &m, MSG_TYPE_STATUS_OK, &answer, &why), why);
    CHECK(answer != NULL && answer->type == MSG_TYPE_STATUS_OK);
    if (answer != NULL)
        pthread_join(thread, NULL);
    link_close(&l);
    zmq_close(router);
    zmq_ctx_term(context);
    place_remove(&place);
}

static enum err third_time(void *user, struct err_msg *why)
{
    unsigned *calls = user;
    return ++*calls < 3 ? ERR_OK : err_set(why, ERR_CANCELLED, "enough");
}

/* Nobody answers, for however long: what looks after other things is called all the while. */
static void test_looks_after_others(void)
{
    struct place place;
    struct err_msg why = {{0}};
    unsigned calls = 0;
    struct link l = {.timeout_ms = 3600000, .pump = third_time, .user = &calls};
    struct msg m = {.type = MSG_TYPE_STATUS};
    const struct msg *answer = NULL;
    place_make(&place);
    CHECK_OK(link_open(&l, place.endpoint, NULL, &why), why);
    uint64_t begin_ns = clock_mono_ns();
    CHECK(link_call(&l, &m, MSG_TYPE_STATUS_OK, &answer, &why) == ERR_CANCELLED);
    CHECK_STR(why.text, "enough");
    CHECK(calls == 3);
    CHECK(clock_mono_ns() - begin_ns < 5 * NS_PER_S);
    link_close(&l);
    place_remove(&place);
}

/* Ctrl-C ends who writes into our pipe, too: what came until then is not the whole input, and is
 * not sealed. (Whatever were sent would need a client.) */
static void test_a_pipe_that_ends_with_ctrl_c(void)
{
    struct err_msg why = {{0}};
    struct submit_counts counts = {0};
    unsigned calls = 2;
    struct link l = {.pump = third_time, .user = &calls};
    struct submit_options o = {.path = "/dev/null", .batch = "b"};
    CHECK(submit_lines(&l, &o, &counts, &why) == ERR_CANCELLED);
    CHECK_STR(why.text, "enough");
    /* one that says nothing for long does not keep Ctrl-C waiting */
    int ends[2];
    char path[32];
    CHECK(pipe(ends) == 0);
    snprintf(path, sizeof path, "/dev/fd/%d", ends[0]);
    o.path = path;
    calls = 0;
    CHECK(submit_lines(&l, &o, &counts, &why) == ERR_CANCELLED && calls == 3);
    close(ends[0]);
    close(ends[1]);
}

int main(void)
{
    test_full_for_long();
    test_a_pipe_that_ends_with_ctrl_c();
    test_looks_after_others();
    return check_report();
}
