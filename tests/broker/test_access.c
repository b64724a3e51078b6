/* Who may do what at a broker with keys: the list's lines, and then the real process: roles, whose
 * batch is whose, names of workers, quotas, and the list read again. argv[1]: octoflow-broker. */
#pragma GCC diagnostic ignored "-Wunused-function"
#include <sys/stat.h>

#include "broker/allow.h"
#include "tests/broker/script.h"

static char list_path[128], key_path[128];

static void write_list(const char *text)
{
    FILE *f = fopen(list_path, "w");
    if (f == NULL || fputs(text, f) < 0 || fclose(f) != 0 || chmod(list_path, 0644) != 0)
        abort();
}

/* ---- the list ---- */

#define KEY_A "0123456789abcdefghijklmnopqrstuvwxyzABCD"
#define KEY_B "abcdefghijklmnopqrstuvwxyzABCDEFGHIJ.-:+"

static void test_good_list(void)
{
    struct allow *a = NULL;
    struct err_msg why;
    write_list("# who may\n\n" KEY_B " work gpu1\r\n  " KEY_A
               "\tsubmit,admin   alice@example.org # boss\n   # end");
    CHECK_OK(allow_read(list_path, &a, &why), why);
    CHECK_INT(allow_count(a), 2);
    const struct allow_entry *alice = allow_find(a, KEY_A), *gpu = allow_find(a, KEY_B);
    if (CHECK(alice != NULL && gpu != NULL)) {
        CHECK_STR(alice->name, "alice@example.org");
        CHECK_INT(alice->roles, PROTO_ROLE_SUBMIT | PROTO_ROLE_ADMIN);
        CHECK_INT(alice->line, 4);
        CHECK_STR(gpu->name, "gpu1");
        CHECK_INT(gpu->roles, PROTO_ROLE_WORK);
    }
    CHECK(allow_find(a, "0123456789abcdefghijklmnopqrstuvwxyzABCE") == NULL);
    CHECK(allow_find(a, "") == NULL && allow_find(a, "01234") == NULL);
    allow_destroy(&a);
    CHECK(a == NULL);
    write_list("# nobody\n");
    CHECK_OK(allow_read(list_path, &a, &why), why);
    CHECK_INT(allow_count(a), 0);
    CHECK(allow_find(a, KEY_A) == NULL);
    allow_destroy(&a);
}

static void test_bad_lists(void)
{
    static const char *const cases[][2] = {
        {KEY_A " work\n", "list:1: NAME is missing; expected KEY ROLE[,ROLE] NAME"},
        {KEY_A "\n", "list:1: ROLE is missing"},
        {KEY_A " work # gpu1\n", "list:1: NAME is missing"},
        {"\n#\nabc work gpu1\n", "list:3: key \"abc\": expected the 40 characters"},
        {KEY_A "9 work gpu1\n", "list:1: key"},
        {KEY_A " works gpu1\n", "list:1: roles \"works\": expected work, submit or admin"},
        {KEY_A " work, submit gpu1\n", "list:1: roles \"work,\""},
        {KEY_A " work gpu/1\n", "list:1: name \"gpu/1\": expected 1 to 64 letters"},
        {KEY_A " work gpu 1\n", "list:1: \"1\": expected nothing behind the name"},
        {KEY_A " work a\n" KEY_B " work b\n\n" KEY_A " submit c\n",
         "list:4: this key is in line 1, too"},
    };
    struct allow *a = NULL;
    struct err_msg why;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        write_list(cases[i][0]);
        CHECK_ERR(allow_read(list_path, &a, &why), ERR_USAGE);
        CHECK_HAS(why.text, cases[i][1]);
    }
    write_list("");
    chmod(list_path, 0666);
    CHECK_ERR(allow_read(list_path, &a, &why), ERR_USAGE);
    CHECK_HAS(why.text, "everybody may write it (mode 0666)");
    unlink(list_path);
    CHECK_ERR(allow_read(list_path, &a, &why), ERR_IO);
    CHECK_HAS(why.text, "No such file");
    CHECK(a == NULL);
}

/* Bytes of a good list changed, cut out or doubled: it is read, or there is a line that says why.
 */
static void test_spoilt_lists(struct check_rng *rng)
{
    static const char good[] = "# list\n" KEY_A " work,submit alice # a\n" KEY_B " admin bob\n";
    static const char bytes[] = "\n \t#,\r\x80"
                                "work0aZ%";
    for (int i = 0; i < 2000; i++) {
        char text[sizeof good];
        struct allow *a = NULL;
        struct err_msg why = {{0}};
        memcpy(text, good, sizeof good);
        for (uint64_t n = 1 + check_rng_below(rng, 4); n > 0; n--)
            text[check_rng_below(rng, sizeof good - 1)] =
                bytes[check_rng_below(rng, sizeof bytes - 1)];
        text[check_rng_below(rng, 4) == 0 ? check_rng_below(rng, sizeof good) : sizeof good - 1] =
            '\0';
        write_list(text);
        enum err e = allow_read(list_path, &a, &why);
        CHECK(e == ERR_OK ? allow_count(a) <= 3 : strstr(why.text, "list:") != NULL);
        allow_destroy(&a);
    }
}

/* ---- the broker ---- */

enum { BROKER, GPU, ALICE, BOB, ADMIN, BOTH, PEOPLE };

static const char *const names[PEOPLE] = {"broker", "gpu", "alice", "bob", "admin", "both"};
static const char *roles[PEOPLE] = {NULL, "work", "submit", "submit", "admin", "work,submit"};
static struct proto_curve keys[PEOPLE];

/* The list without one of them (BROKER: with all), and a line at its end. */
static void write_people(int without, const char *last)
{
    char text[1024] = "# the list\n";
    for (int i = GPU; i < PEOPLE; i++) {
        size_t used = strlen(text);
        if (i != without)
            snprintf(text + used, sizeof text - used, "%s %s %s\n", keys[i].public_key, roles[i],
                     names[i]);
    }
    strncat(text, last, sizeof text - strlen(text) - 1);
    write_list(text);
}

static void make_keys(void)
{
    struct err_msg why;
    for (int i = 0; i < PEOPLE; i++) {
        CHECK_OK(proto_curve_make(&keys[i], &why), why);
        memcpy(keys[i].server_key, keys[BROKER].public_key, sizeof keys[i].server_key);
    }
    CHECK_OK(proto_curve_write(key_path, "broker", &keys[BROKER], &why), why);
    write_people(BROKER, "");
    more[0] = "--curve-key", more[1] = key_path, more[2] = "--allow", more[3] = list_path;
}

static void is_refused(struct peer *c, enum msg_type got, const char *code, const char *text)
{
    if (!CHECK(got == MSG_TYPE_ERROR))
        return;
    char said[512];
    snprintf(said, sizeof said, "%.*s: %.*s", STR_ARG(c->m.error.code), STR_ARG(c->m.error.text));
    CHECK(str_eq(c->m.error.code, str_of(code)));
    CHECK_HAS(said, text);
}

static enum msg_type of_batch(struct peer *c, enum msg_type type, const char *batch)
{
    struct msg m = {.type = type};
    if (type == MSG_TYPE_STATUS)
        m.status.batch = str_of(batch);
    else if (type == MSG_TYPE_FETCH)
        m.fetch.batch = str_of(batch), m.fetch.max = 10;
    else if (type == MSG_TYPE_CANCEL)
        m.cancel.batch = str_of(batch);
    else if (type == MSG_TYPE_BATCH_SET)
        m.batch_set.batch = str_of(batch);
    else
        m.seal.batch = str_of(batch), m.seal.lines = 3;
    return call(c, &m);
}

static size_t batches_seen(struct peer *c)
{
    return CHECK(of_batch(c, MSG_TYPE_STATUS, "") == MSG_TYPE_STATUS_OK)
               ? c->m.status_ok.batches.count
               : 99;
}

static enum msg_type batch_of(struct peer *c, const char *name, const char *client)
{
    struct msg m = {.type = MSG_TYPE_BATCH_NEW};
    m.batch_new.batch = str_of(name);
    m.batch_new.client = str_of(client);
    return call(c, &m);
}

static enum msg_type hello(struct peer *w, const char *name)
{
    send_hello(w, name, NULL, 0);
    return receive(w, TIMEOUT_MS);
}

static void test_roles(void)
{
    pid_t broker = start("roles", "1000", "60000");
    struct peer gpu = open_peer_with(&keys[GPU]), alice = open_peer_with(&keys[ALICE]);
    struct peer bob = open_peer_with(&keys[BOB]), admin = open_peer_with(&keys[ADMIN]);
    struct peer both = open_peer_with(&keys[BOTH]);

    is_refused(&alice, hello(&alice, "w"), "forbidden", "HELLO needs the role work");
    is_refused(&admin, hello(&admin, "w"), "forbidden", "HELLO needs the role work");
    is_refused(&gpu, of_batch(&gpu, MSG_TYPE_STATUS, ""), "forbidden",
               "STATUS needs the role submit, which the key of gpu does not have");
    CHECK_INT(gpu.m.error.seq, gpu.seq);
    struct msg events = {.type = MSG_TYPE_EVENTS};
    is_refused(&alice, call(&alice, &events), "forbidden", "EVENTS needs the role admin");
    CHECK_INT(call(&admin, &events), MSG_TYPE_EVENTS_OK);

    /* A batch belongs to its key's name, whatever its maker says. */
    CHECK_INT(batch_of(&alice, "a", "bob"), MSG_TYPE_BATCH_OK);
    CHECK(str_eq(alice.m.batch_ok.batches.items[0].client, STR_LIT("alice")));
    CHECK_INT(submit(&alice, "a", 1, 3, 0), MSG_TYPE_SUBMIT_OK);
    static const enum msg_type types[] = {MSG_TYPE_SEAL, MSG_TYPE_STATUS, MSG_TYPE_FETCH,
                                          MSG_TYPE_CANCEL, MSG_TYPE_BATCH_SET};
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++) {
        is_refused(&bob, of_batch(&bob, types[i], "a"), "forbidden", "batch a is not bob's");
        CHECK_INT(bob.m.error.seq, bob.seq);
        is_refused(&bob, of_batch(&bob, types[i], "x"), "not_found", "no batch \"x\" here");
    }
    is_refused(&bob, batch_of(&bob, "a", "alice"), "forbidden", "batch a is not bob's");
    is_refused(&bob, submit(&bob, "a", 4, 1, 0), "forbidden", "batch a is not bob's");
    CHECK_INT(batches_seen(&bob), 0);
    CHECK_INT(batch_of(&bob, "b", ""), MSG_TYPE_BATCH_OK);
    CHECK_INT(batches_seen(&bob), 1);
    CHECK_INT(batches_seen(&alice), 1);
    CHECK_INT(batches_seen(&admin), 2);
    CHECK_INT(of_batch(&alice, MSG_TYPE_SEAL, "a"), MSG_TYPE_OK);

    /* The worker works, and no other key's takes its name. */
    say_hello(&gpu, "w", NULL, 0);
    is_refused(&both, hello(&both, "w"), "conflict", "worker w is connected with another's key");
    say_hello(&both, "w2", NULL, 0);
    pull(&gpu, 1);
    EXPECT(&gpu, MSG_TYPE_GRANT);
    struct rec_GRANT_JOB g = gpu.m.grant.jobs.items[0];
    CHECK_INT(outcome(&gpu, g.job, g.epoch, "done"), 0);
    CHECK_INT(fetch(&alice, "a", 0), 1);
    CHECK_INT(of_batch(&admin, MSG_TYPE_FETCH, "a"), MSG_TYPE_FETCH_OK);
    CHECK_INT(of_batch(&admin, MSG_TYPE_CANCEL, "a"), MSG_TYPE_CANCEL_OK);
    CHECK_INT(admin.m.cancel_ok.cancelled, 2);

    close_peer(&gpu), close_peer(&alice), close_peer(&bob), close_peer(&admin), close_peer(&both);
    CHECK_INT(stop(broker), 0);
}

/* Two who make batches of the same names at once: each has one owner, and the other is told. */
static void test_same_names(void)
{
    pid_t broker = start("names", "1000", "60000");
    struct peer c[2] = {open_peer_with(&keys[ALICE]), open_peer_with(&keys[BOB])};
    CHECK_INT(batches_seen(&c[0]), 0);
    CHECK_INT(batches_seen(&c[1]), 0);
    for (int i = 0; i < 30; i++) {
        char name[32];
        snprintf(name, sizeof name, "same-%d", i);
        struct msg m = {.type = MSG_TYPE_BATCH_NEW};
        m.batch_new.batch = str_of(name);
        for (int k = 0; k < 2; k++) {
            m.batch_new.seq = ++c[k].seq;
            send_msg(&c[k], &m);
        }
        unsigned made = 0;
        for (int k = 0; k < 2; k++) {
            enum msg_type t = receive(&c[k], TIMEOUT_MS);
            made += t == MSG_TYPE_BATCH_OK;
            if (t != MSG_TYPE_BATCH_OK)
                is_refused(&c[k], t, "forbidden", "batch same-");
        }
        CHECK_INT(made, 1);
    }
    close_peer(&c[0]), close_peer(&c[1]);
    CHECK_INT(stop(broker), 0);
}

static void test_quota(void)
{
    more[4] = "--max-client-jobs", more[5] = "5";
    pid_t broker = start("quota", "1000", "60000");
    struct peer alice = open_peer_with(&keys[ALICE]), bob = open_peer_with(&keys[BOB]);
    CHECK_INT(batch_of(&alice, "a", "nobody"), MSG_TYPE_BATCH_OK);
    CHECK_INT(batch_of(&alice, "b", "somebody"), MSG_TYPE_BATCH_OK);
    CHECK_INT(batch_of(&bob, "c", "somebody"), MSG_TYPE_BATCH_OK);
    CHECK_INT(submit(&alice, "a", 1, 4, 0), MSG_TYPE_SUBMIT_OK);
    is_refused(&alice, submit(&alice, "b", 1, 2, 0), "quota", "client alice has 4 of 5 jobs");
    CHECK_INT(submit(&bob, "c", 1, 5, 0), MSG_TYPE_SUBMIT_OK);
    close_peer(&alice), close_peer(&bob);
    CHECK_INT(stop(broker), 0);
    more[4] = NULL;
}

/* Whether the peer's calls are still answered; at most once it is not. */
static bool is_answered(struct peer *c)
{
    struct msg m = {.type = MSG_TYPE_STATUS};
    struct buf b = {0};
    m.status.seq = ++c->seq;
    CHECK_ERR(proto_encode(&m, &b, NULL), ERR_OK);
    bool sent = zmq_send(c->socket, b.data, b.len, ZMQ_DONTWAIT) >= 0;
    buf_free(&b);
    /* long enough for an answer from a busy machine, which must not be taken for silence */
    return sent && receive(c, 1000) == MSG_TYPE_STATUS_OK;
}

static void test_reload(void)
{
    pid_t broker = start("reload", "1000", "60000");
    struct peer alice = open_peer_with(&keys[ALICE]), bob = open_peer_with(&keys[BOB]);
    CHECK_INT(batches_seen(&alice), 0);
    CHECK_INT(batches_seen(&bob), 0);

    write_people(BOB, "and a mistake\n"); /* changes nothing */
    kill(broker, SIGHUP);
    clock_sleep_ns(200 * NS_PER_MS);
    CHECK_INT(batches_seen(&bob), 0);

    write_people(BOB, "");
    kill(broker, SIGHUP);
    uint64_t end_ns = clock_mono_ns() + 10 * NS_PER_S;
    while (is_answered(&bob) && clock_mono_ns() < end_ns)
        clock_sleep_ns(20 * NS_PER_MS);
    CHECK(!is_answered(&bob));
    CHECK_INT(batches_seen(&alice), 0); /* by the connection that it has */
    close_peer(&bob);

    write_people(ALICE, "");
    kill(broker, SIGHUP);
    while (is_answered(&alice) && clock_mono_ns() < end_ns)
        clock_sleep_ns(20 * NS_PER_MS);
    bob = open_peer_with(&keys[BOB]);
    CHECK_INT(batches_seen(&bob), 0);
    CHECK(!is_answered(&alice));
    close_peer(&alice), close_peer(&bob);
    CHECK_INT(stop(broker), 0);
    write_people(BROKER, "");
}

/* A key that may not work any more gets no further job, and what it held is nobody's failure. */
static void test_role_taken(void)
{
    pid_t broker = start("role", "1000", "60000");
    struct peer gpu = open_peer_with(&keys[GPU]), both = open_peer_with(&keys[BOTH]);
    struct peer alice = open_peer_with(&keys[ALICE]), admin = open_peer_with(&keys[ADMIN]);
    CHECK_INT(batch_of(&alice, "a", ""), MSG_TYPE_BATCH_OK);
    CHECK_INT(submit(&alice, "a", 1, 1, 0), MSG_TYPE_SUBMIT_OK);
    say_hello(&gpu, "w", NULL, 0);
    pull(&gpu, 10);
    EXPECT(&gpu, MSG_TYPE_GRANT);
    struct rec_GRANT_JOB held = gpu.m.grant.jobs.items[0];

    roles[GPU] = "submit";
    write_people(BROKER, "");
    kill(broker, SIGHUP);
    EXPECT(&gpu, MSG_TYPE_RECONNECT);
    CHECK_INT(submit(&alice, "a", 2, 3, 0), MSG_TYPE_SUBMIT_OK);
    struct msg m = {.type = MSG_TYPE_STATUS};
    CHECK_INT(call(&admin, &m), MSG_TYPE_STATUS_OK);
    CHECK_INT(admin.m.status_ok.workers.count, 0);
    CHECK_INT(admin.m.status_ok.batches.items[0].queued, 4);
    beat(&gpu, held.job, held.epoch);
    is_refused(&gpu, receive(&gpu, TIMEOUT_MS), "forbidden", "BEAT needs the role work");
    is_refused(&gpu, hello(&gpu, "w"), "forbidden", "HELLO needs the role work");
    say_hello(&both, "w2", NULL, 0);
    pull(&both, 1);
    EXPECT(&both, MSG_TYPE_GRANT);
    struct rec_GRANT_JOB g = both.m.grant.jobs.items[0];
    CHECK_INT(g.job, held.job);
    CHECK_INT(outcome(&both, g.job, g.epoch, "done"), 0);
    CHECK_INT(fetch(&alice, "a", 0), 1);
    CHECK_INT(alice.m.fetch_ok.results.items[0].attempts, 1);

    roles[GPU] = "work";
    write_people(BROKER, "");
    kill(broker, SIGHUP);
    uint64_t end_ns = clock_mono_ns() + 10 * NS_PER_S;
    while (hello(&gpu, "w") != MSG_TYPE_WELCOME && clock_mono_ns() < end_ns)
        clock_sleep_ns(20 * NS_PER_MS);
    CHECK_INT(gpu.m.type, MSG_TYPE_WELCOME);
    CHECK_INT(call(&admin, &m), MSG_TYPE_STATUS_OK);
    CHECK_INT(admin.m.status_ok.workers.count, 2); /* who kept the role has kept the session */
    close_peer(&gpu), close_peer(&both), close_peer(&alice), close_peer(&admin);
    CHECK_INT(stop(broker), 0);
}

static void test_wrong_start(void)
{
    more[2] = NULL;
    CHECK_INT(reap(start("x", "1000", "1000")), 2);
    more[0] = "--allow", more[1] = list_path;
    CHECK_INT(reap(start("x", "1000", "1000")), 2);
    more[0] = "--curve-key", more[1] = key_path, more[2] = "--allow", more[3] = "/nowhere/list";
    CHECK_INT(reap(start("x", "1000", "1000")), 3);
    more[3] = list_path;
    chmod(key_path, 0640);
    CHECK_INT(reap(start("x", "1000", "1000")), 2);
    CHECK(access(ledger, F_OK) != 0); /* nothing was made */
}

int main(int argc, char **argv)
{
    if (argc != 2 || mkdtemp(dir) == NULL)
        return 2;
    broker_path = argv[1];
    ctx = zmq_ctx_new();
    snprintf(list_path, sizeof list_path, "%s/list", dir);
    snprintf(key_path, sizeof key_path, "%s/broker.key", dir);
    test_good_list();
    test_bad_lists();
    struct check_rng rng = check_rng_start(1);
    test_spoilt_lists(&rng);
    make_keys();
    test_roles();
    test_same_names();
    test_quota();
    test_reload();
    test_role_taken();
    test_wrong_start();
    zmq_ctx_term(ctx);
    check_remove(dir);
    return check_report();
}
