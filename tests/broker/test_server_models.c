/* Models over real sockets: what a broker with a folder of files says of them, whom it tells to
 * load and to fetch, and the chunks it sends. argv[1]: octoflow-broker. */
#include <sys/stat.h>

#include "base/file.h"
#include "base/hash.h"
#include "tests/broker/script.h"

static struct rec_MODEL models[2];
static uint64_t process = 1;

static void hello(struct peer *w, const char *name, size_t count, bool fetches)
{
    struct msg m = {.type = MSG_TYPE_HELLO};
    m.hello.worker = str_of(name);
    m.hello.host = m.hello.build = m.hello.device = m.hello.driver = STR_LIT("test");
    m.hello.numeric_class = STR_LIT("class");
    m.hello.models.items = models;
    m.hello.models.count = count;
    m.hello.load_ms = 100;
    m.hello.fetches = fetches;
    m.hello.process = process;
    send_msg(w, &m);
    EXPECT(w, MSG_TYPE_WELCOME);
    w->session = w->m.welcome.session;
}

/* Beats until the answer says to load (or fetch) something. */
static const struct msg_beat_ok *await_order(struct peer *w, const char *unfetchable, bool fetch)
{
    struct msg m = {.type = MSG_TYPE_BEAT};
    m.beat.session = w->session;
    m.beat.unfetchable = str_of(unfetchable);
    for (int i = 0; i < 400; i++) {
        send_msg(w, &m);
        EXPECT(w, MSG_TYPE_BEAT_OK);
        if ((fetch ? w->m.beat_ok.fetch : w->m.beat_ok.load).len > 0)
            break;
        clock_sleep_ns(10 * NS_PER_MS);
    }
    return &w->m.beat_ok;
}

static void test_load(void)
{
    pid_t broker = start("load", "5000", "5000");
    struct peer c = open_peer(), w = open_peer();
    CHECK_INT(batch_new(&c, "early", "large", ""), MSG_TYPE_BATCH_OK);
    CHECK(str_eq(c.m.batch_ok.warning, STR_LIT("no worker is connected now that has model large")));
    CHECK_INT(batch_new(&c, "early-any", "", ""), MSG_TYPE_BATCH_OK);
    CHECK(str_eq(c.m.batch_ok.warning, STR_LIT("no worker is connected now")));
    hello(&w, "w1", 2, false);
    pull(&w, 10);
    CHECK_INT(batch_new(&c, "nobody", "huge", ""), MSG_TYPE_BATCH_OK);
    CHECK(
        str_eq(c.m.batch_ok.warning, STR_LIT("no worker has model huge (there is: tiny, large)")));
    CHECK_INT(submit(&c, "nobody", 1, 1, 0), MSG_TYPE_SUBMIT_OK);
    CHECK(str_eq(status(&c, "nobody")->problem,
                 STR_LIT("no worker has model huge (there is: tiny, large)")));

    CHECK_INT(batch_new(&c, "b", "large", ""), MSG_TYPE_BATCH_OK);
    CHECK_INT(c.m.batch_ok.warning.len, 0);
    CHECK_INT(submit(&c, "b", 1, 2, 0), MSG_TYPE_SUBMIT_OK);
    CHECK(str_eq(await_order(&w, "", false)->load, STR_LIT("11ff")));
    CHECK(str_eq(status(&c, "b")->problem, STR_LIT("worker w1 loads model large")));
    CHECK(str_eq(c.m.status_ok.workers.items[0].state, STR_LIT("loading")));
    /* What came in before is not granted to it meanwhile. */
    CHECK_INT(batch_new(&c, "any", "", ""), MSG_TYPE_BATCH_OK);
    CHECK_INT(submit(&c, "any", 1, 1, 0), MSG_TYPE_SUBMIT_OK);
    CHECK_INT(receive(&w, QUIET_MS), MSG_NONE);
    /* It has loaded it: the first of the list. */
    struct rec_MODEL first = models[0];
    models[0] = models[1];
    models[1] = first;
    hello(&w, "w1", 2, false);
    pull(&w, 10);
    EXPECT(&w, MSG_TYPE_GRANT);
    CHECK_INT(w.m.grant.jobs.count, 3);
    models[1] = models[0];
    models[0] = first;
    CHECK_INT(stop(broker), 0);
    close_peer(&c);
    close_peer(&w);
}

/* A worker whose process ends while it loads a model is not told to load it again. */
static void test_deadly(void)
{
    pid_t broker = start("deadly", "5000", "5000");
    struct peer c = open_peer(), w = open_peer(), again = open_peer();
    hello(&w, "w1", 2, false);
    CHECK_INT(batch_new(&c, "b", "large", ""), MSG_TYPE_BATCH_OK);
    CHECK_INT(submit(&c, "b", 1, 1, 0), MSG_TYPE_SUBMIT_OK);
    CHECK(str_eq(await_order(&w, "", false)->load, STR_LIT("11ff")));
    hello(&again, "w1", 2, false);
    CHECK_INT(await_order(&again, "", false)->load.len > 0, 1); /* the same process on a new wire */
    process = 2;
    close_peer(&w);
    w = open_peer();
    hello(&w, "w1", 2, false);
    struct msg m = {.type = MSG_TYPE_BEAT};
    m.beat.session = w.session;
    for (int i = 0; i < 60; i++) {
        send_msg(&w, &m);
        EXPECT(&w, MSG_TYPE_BEAT_OK);
        CHECK_INT(w.m.beat_ok.load.len, 0);
        clock_sleep_ns(10 * NS_PER_MS);
    }
    CHECK(
        str_eq(status(&c, "b")->problem,
               STR_LIT("worker w1 ended when it was to load model large: not again for a while")));
    process = 1;
    CHECK_INT(stop(broker), 0);
    close_peer(&c);
    close_peer(&w);
    close_peer(&again);
}

static void test_names(void)
{
    pid_t broker = start("names", "5000", "5000");
    struct peer c = open_peer(), w = open_peer(), w2 = open_peer();
    hello(&w, "w1", 1, false);
    models[0].hash = STR_LIT("22ff");
    hello(&w2, "w2", 2, false);
    models[0].hash = STR_LIT("00ff");
    CHECK_INT(batch_new(&c, "b", "tiny", ""), MSG_TYPE_BATCH_OK);
    CHECK(memmem(c.m.batch_ok.warning.data, c.m.batch_ok.warning.len, "different files", 15) !=
          NULL);
    CHECK_INT(batch_new(&c, "c", "22ff", ""), MSG_TYPE_BATCH_OK);
    CHECK_INT(c.m.batch_ok.warning.len, 0);
    CHECK_INT(batch_new(&c, "d", "", ""), MSG_TYPE_BATCH_OK);
    CHECK(memmem(c.m.batch_ok.warning.data, c.m.batch_ok.warning.len, "have several models", 19) !=
          NULL);
    struct msg m = {.type = MSG_TYPE_MODELS};
    CHECK_INT(call(&c, &m), MSG_TYPE_MODELS_OK);
    CHECK_INT(c.m.models_ok.models.count, 3);
    size_t loaded = 0;
    for (size_t i = 0; i < c.m.models_ok.models.count; i++)
        loaded += str_eq(c.m.models_ok.models.items[i].state, STR_LIT("loaded"));
    CHECK_INT(loaded, 2);
    CHECK_INT(stop(broker), 0);
    close_peer(&c);
    close_peer(&w);
    close_peer(&w2);
}

/* Two workers have one file under two names: a batch that asks for one of them runs where that name
 * is, also when the other one is asked first. */
static void test_two_names(void)
{
    pid_t broker = start("two_names", "5000", "5000");
    struct peer c = open_peer(), w = open_peer(), other = open_peer();
    hello(&w, "w1", 1, false);
    pull(&w, 40);
    models[0].name = STR_LIT("small");
    hello(&other, "w2", 1, false);
    pull(&other, 40);
    models[0].name = STR_LIT("tiny");
    CHECK_INT(batch_new(&c, "b", "tiny", ""), MSG_TYPE_BATCH_OK);
    CHECK_INT(submit(&c, "b", 1, 30, 0), MSG_TYPE_SUBMIT_OK);
    EXPECT(&w, MSG_TYPE_GRANT);
    CHECK_INT(w.m.grant.jobs.count, 30);
    CHECK_INT(receive(&other, QUIET_MS), MSG_NONE);
    CHECK_INT(stop(broker), 0);
    close_peer(&c);
    close_peer(&w);
    close_peer(&other);
}

/* A batch that asks for no model is work: no model is loaded for one of lower priority before it is
 * through. */
static void test_any(void)
{
    pid_t broker = start("any", "5000", "5000");
    struct peer c = open_peer(), w = open_peer();
    struct msg m = {.type = MSG_TYPE_BATCH_NEW};
    m.batch_new.batch = STR_LIT("urgent");
    m.batch_new.priority = 200;
    CHECK_INT(call(&c, &m), MSG_TYPE_BATCH_OK);
    CHECK_INT(submit(&c, "urgent", 1, 10, 0), MSG_TYPE_SUBMIT_OK);
    CHECK_INT(batch_new(&c, "low", "large", ""), MSG_TYPE_BATCH_OK);
    CHECK_INT(submit(&c, "low", 1, 1, 0), MSG_TYPE_SUBMIT_OK);
    hello(&w, "w1", 2, false);
    m = (struct msg){.type = MSG_TYPE_BEAT};
    m.beat.session = w.session;
    for (int i = 0; i < 60; i++) {
        send_msg(&w, &m);
        EXPECT(&w, MSG_TYPE_BEAT_OK);
        CHECK_INT(w.m.beat_ok.load.len, 0);
        clock_sleep_ns(10 * NS_PER_MS);
    }
    CHECK(str_eq(status(&c, "low")->problem,
                 STR_LIT("waits for its turn: who has model large runs another one now")));
    m = (struct msg){.type = MSG_TYPE_CANCEL};
    m.cancel.batch = STR_LIT("urgent");
    CHECK_INT(call(&c, &m), MSG_TYPE_CANCEL_OK);
    CHECK(str_eq(await_order(&w, "", false)->load, STR_LIT("11ff")));
    CHECK_INT(stop(broker), 0);
    close_peer(&c);
    close_peer(&w);
}

/* Who drains begins nothing: as if it were not there. */
static void test_draining(void)
{
    pid_t broker = start("draining", "5000", "5000");
    struct peer c = open_peer(), w = open_peer(), other = open_peer();
    hello(&w, "w1", 1, false);
    struct msg m = {.type = MSG_TYPE_DRAIN};
    m.drain.worker = STR_LIT("w1");
    CHECK_INT(call(&c, &m), MSG_TYPE_DRAIN_OK);
    CHECK_INT(batch_new(&c, "a", "tiny", ""), MSG_TYPE_BATCH_OK);
    CHECK(str_eq(c.m.batch_ok.warning, STR_LIT("all workers are draining")));
    CHECK_INT(batch_new(&c, "b", "", ""), MSG_TYPE_BATCH_OK);
    CHECK(str_eq(c.m.batch_ok.warning, STR_LIT("all workers are draining")));
    CHECK_INT(submit(&c, "a", 1, 1, 0), MSG_TYPE_SUBMIT_OK);
    CHECK(str_eq(status(&c, "a")->problem, STR_LIT("all workers are draining")));
    models[0] = (struct rec_MODEL){.name = STR_LIT("new"), .hash = STR_LIT("33ff")};
    hello(&other, "w2", 1, false);
    models[0] = (struct rec_MODEL){.name = STR_LIT("tiny"), .hash = STR_LIT("00ff")};
    const struct str leaving = STR_LIT("the workers that have model tiny are draining");
    CHECK(str_eq(status(&c, "a")->problem, leaving));
    CHECK_INT(batch_new(&c, "c", "tiny", ""), MSG_TYPE_BATCH_OK);
    CHECK(str_eq(c.m.batch_ok.warning, leaving));
    CHECK_INT(batch_new(&c, "d", "new", ""), MSG_TYPE_BATCH_OK);
    CHECK_INT(c.m.batch_ok.warning.len, 0);
    CHECK_INT(stop(broker), 0);
    close_peer(&c);
    close_peer(&w);
    close_peer(&other);
}

static enum msg_type ask(struct peer *w, const char *hash, uint64_t offset)
{
    struct msg m = {.type = MSG_TYPE_MODEL_FETCH};
    m.model_fetch.session = w->session;
    m.model_fetch.hash = str_of(hash);
    m.model_fetch.offset = offset;
    send_msg(w, &m);
    return receive(w, TIMEOUT_MS);
}

static void test_fetch(void)
{
    enum { BYTES = PROTO_MAX_CHUNK_BYTES + 1000 };
    char path[200], hash[33];
    struct err_msg why;
    static unsigned char file[BYTES], got[BYTES];
    struct check_rng rng = check_rng_start(1);
    for (size_t i = 0; i < BYTES; i++)
        file[i] = (unsigned char)check_rng_next(&rng);
    memcpy(file, "GGUF", 4);
    hash128_hex(file, BYTES, hash);
    snprintf(path, sizeof path, "%s/models", dir);
    CHECK_INT(mkdir(path, 0755), 0);
    more[0] = "--models";
    more[1] = strdup(path);
    snprintf(path, sizeof path, "%s/models/new.gguf", dir);
    CHECK_OK(file_write_atomic(path, file, BYTES, &why), why);
    pid_t broker = start("fetch", "5000", "5000");
    struct peer c = open_peer(), w = open_peer(), w2 = open_peer();
    hello(&w, "w1", 1, true);
    CHECK_INT(batch_new(&c, "b", "new", ""), MSG_TYPE_BATCH_OK);
    CHECK_INT(submit(&c, "b", 1, 1, 0), MSG_TYPE_SUBMIT_OK);
    const struct msg_beat_ok *order = await_order(&w, "", true);
    CHECK(str_eq(order->fetch, str_of(hash)));
    CHECK(str_eq(order->fetch_name, STR_LIT("new")));
    CHECK_INT(order->fetch_bytes, BYTES);
    CHECK(str_eq(status(&c, "b")->problem, STR_LIT("worker w1 fetches model new from the broker")));
    size_t at = 0;
    while (at < BYTES) {
        if (!CHECK(ask(&w, hash, at) == MSG_TYPE_MODEL_CHUNK))
            return;
        const struct msg_model_chunk *chunk = &w.m.model_chunk;
        CHECK(str_eq(chunk->hash, str_of(hash)) && chunk->offset == at);
        CHECK(chunk->sum == hash64(chunk->data.data, chunk->data.len, 0));
        if (!CHECK(chunk->data.len > 0 && chunk->data.len <= BYTES - at))
            return;
        memcpy(got + at, chunk->data.data, chunk->data.len);
        at += chunk->data.len;
    }
    CHECK(memcmp(got, file, BYTES) == 0);
    /* Behind its end, and what there is not: nothing. */
    CHECK_INT(ask(&w, hash, BYTES), MSG_TYPE_MODEL_CHUNK);
    CHECK_INT(w.m.model_chunk.data.len, 0);
    CHECK_INT(ask(&w, "33ff", 0), MSG_TYPE_MODEL_CHUNK);
    CHECK_INT(w.m.model_chunk.data.len, 0);
    /* It cannot have it, and says so: another one is to try. */
    hello(&w2, "w2", 1, true);
    struct msg m = {.type = MSG_TYPE_BEAT};
    m.beat.session = w.session;
    m.beat.unfetchable = str_of(hash);
    send_msg(&w, &m);
    EXPECT(&w, MSG_TYPE_BEAT_OK);
    CHECK_INT(w.m.beat_ok.fetch.len, 0);
    CHECK(str_eq(await_order(&w2, "", true)->fetch, str_of(hash)));
    /* Gone from the disk: a worker that asks is told. */
    unlink(path);
    CHECK_INT(ask(&w2, hash, 0), MSG_TYPE_MODEL_CHUNK);
    CHECK_INT(w2.m.model_chunk.data.len, 0);
    CHECK_INT(stop(broker), 0);
    close_peer(&c);
    close_peer(&w);
    close_peer(&w2);
    free((char *)(uintptr_t)more[1]);
    more[0] = more[1] = NULL;
}

/* Nothing is fetched or loaded, and what waits is granted, as the worker knows its file. */
static void grant_as(struct peer *c, struct peer *w, const char *model, const char *as)
{
    static uint64_t credit;
    CHECK_INT(batch_new(c, model, model, ""), MSG_TYPE_BATCH_OK);
    CHECK_INT(c->m.batch_ok.warning.len, 0);
    CHECK_INT(submit(c, model, 1, 1, 0), MSG_TYPE_SUBMIT_OK);
    struct msg m = {.type = MSG_TYPE_BEAT};
    m.beat.session = w->session;
    for (int i = 0; i < 40; i++) {
        send_msg(w, &m);
        EXPECT(w, MSG_TYPE_BEAT_OK);
        CHECK(w->m.beat_ok.fetch.len == 0 && w->m.beat_ok.load.len == 0);
        clock_sleep_ns(10 * NS_PER_MS);
    }
    pull(w, ++credit);
    EXPECT(w, MSG_TYPE_GRANT);
    CHECK(str_eq(w->m.grant.jobs.items[0].model, str_of(as)));
}

/* What the broker has looked at; a worker is connected. */
static void await_first(struct peer *c, const char *name)
{
    struct msg m = {.type = MSG_TYPE_MODELS};
    for (int i = 0; i < 1000; i++) {
        CHECK_INT(call(c, &m), MSG_TYPE_MODELS_OK);
        if (str_eq(c->m.models_ok.models.items[0].name, str_of(name)))
            return;
        clock_sleep_ns(10 * NS_PER_MS);
    }
    CHECK_STR("never there", name);
}

/* The worker has a file of the broker's folder, under another name: it need not fetch it, and runs
 * what asks for it by either name. */
static void test_other_name(void)
{
    char path[200], other[200], hash[33];
    static const char file[] = "GGUF, or so";
    struct err_msg why;
    hash128_hex(file, sizeof file, hash);
    snprintf(path, sizeof path, "%s/offered", dir);
    CHECK_INT(mkdir(path, 0755), 0);
    more[0] = "--models";
    more[1] = strdup(path);
    snprintf(path, sizeof path, "%s/offered/a.gguf", dir);
    snprintf(other, sizeof other, "%s/offered/b.gguf", dir);
    CHECK_OK(file_write_atomic(path, file, sizeof file, &why), why);
    pid_t broker = start("other_name", "5000", "5000");
    struct peer c = open_peer(), w = open_peer();
    models[0] = (struct rec_MODEL){.name = STR_LIT("old"), .hash = str_of(hash)};
    hello(&w, "w1", 1, true);
    models[0] = (struct rec_MODEL){.name = STR_LIT("tiny"), .hash = STR_LIT("00ff")};
    await_first(&c, "a");
    grant_as(&c, &w, "a", hash);
    grant_as(&c, &w, "old", "old");
    grant_as(&c, &w, hash, hash);
    CHECK_INT(rename(path, other), 0);
    kill(broker, SIGHUP);
    await_first(&c, "b");
    grant_as(&c, &w, "b", hash);
    /* Two names there: the first counts, and who asks for the other is told. */
    CHECK_OK(file_write_atomic(path, file, sizeof file, &why), why);
    kill(broker, SIGHUP);
    await_first(&c, "a");
    CHECK_INT(batch_new(&c, "second", "b", ""), MSG_TYPE_BATCH_OK);
    CHECK_INT(submit(&c, "second", 1, 1, 0), MSG_TYPE_SUBMIT_OK);
    snprintf(path, sizeof path,
             "who has the file of model b has it as old: ask for that, or for %s", hash);
    CHECK(str_eq(status(&c, "second")->problem, str_of(path)));
    CHECK_INT(stop(broker), 0);
    close_peer(&c);
    close_peer(&w);
    free((char *)(uintptr_t)more[1]);
    more[0] = more[1] = NULL;
}

int main(int argc, char **argv)
{
    if (argc != 2)
        return 1;
    broker_path = argv[1];
    ctx = zmq_ctx_new();
    if (mkdtemp(dir) == NULL)
        return 1;
    models[0] = (struct rec_MODEL){.name = STR_LIT("tiny"), .hash = STR_LIT("00ff")};
    models[1] = (struct rec_MODEL){.name = STR_LIT("large"), .hash = STR_LIT("11ff")};
    setenv("OCTOFLOW_CACHE_DIR", dir, 1);
    test_load();
    test_deadly();
    test_names();
    test_two_names();
    test_any();
    test_draining();
    test_fetch();
    test_other_name();
    zmq_ctx_term(ctx);
    check_remove(dir);
    return check_report();
}
