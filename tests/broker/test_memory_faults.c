/* The Nth allocation fails, ours or SQLite's: once, or all from there on for a while. Every
 * operation of the ledger then either works or fails with its reason, what was acknowledged stays,
 * and everything works again when there is memory.
 *
 * test_memory_faults [RUNS] */
#include <pthread.h>
#include <stdatomic.h>
#include <unistd.h>

#include "tests/broker/load.h"
#include "tests/broker/short_memory.h"

static char path[64];
static pthread_t tester;
static atomic_bool
    in_tester; /* whose allocations fail: the opening thread's, or the ledger's own */
static atomic_ullong calls, first, count;

static bool this_fails(void)
{
    if (pthread_equal(pthread_self(), tester) != in_tester)
        return false;
    unsigned long long at = atomic_fetch_add(&calls, 1);
    return at >= first && at - first < count;
}

static void arm(bool tester_too, uint64_t nth, uint64_t many)
{
    calls = 0;
    first = nth;
    count = many;
    in_tester = tester_too;
    memory_fails = this_fails;
}

static bool disarm(void)
{
    memory_fails = (memory_fails_fn *)NULL;
    return calls > first;
}

static void remove_ledger(void)
{
    static const char *const parts[] = {"", "-wal", "-shm", "-journal", ".lock"};
    char name[80];
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        snprintf(name, sizeof name, "%s%s", path, parts[i]);
        unlink(name);
    }
}

/* The power stays on here: nothing needs a sync, and the test is quick. */
static struct ledger_options options(void)
{
    return (struct ledger_options){.path = path, .sync = "OFF", .checkpoint_pages = 40};
}

static void check_all(struct load *x, const char *what, uint64_t nth)
{
    static struct load_found found;
    struct err_msg why;
    CHECK_OK(load_open(x, options(), &why), why);
    load_find(x->ledger, &found);
    if (!CHECK(load_check(x, &found, LOAD_NEVER - 1) == 0))
        fprintf(stderr, "%s, allocation %llu: %s\n", what, (unsigned long long)nth, found.text);
    ledger_close(&x->ledger);
}

static bool fail_in_service(uint64_t seed, uint64_t nth, uint64_t many)
{
    static struct load x;
    struct err_msg why;
    load_init(&x, NULL, seed);
    CHECK_OK(load_open(&x, options(), &why), why);
    for (int i = 0; i < 6; i++)
        (void)load_round(&x);
    arm(false, nth, many);
    for (int i = 0; i < 10; i++)
        (void)load_round(&x);
    bool hit = disarm();
    if (x.failed_ops > 0)
        CHECK_HAS(x.last_why.text, "out of memory");
    x.failed_ops = 0;
    if (!CHECK(load_settle(&x)))
        fprintf(stderr, "allocation %llu: %s\n", (unsigned long long)nth, x.last_why.text);
    (void)load_round(&x);
    CHECK_INT(x.failed_ops, 0);
    ledger_close(&x.ledger);
    check_all(&x, "in service", nth);
    remove_ledger();
    return hit;
}

static bool fail_in_open(uint64_t nth, uint64_t many)
{
    static struct load x;
    struct err_msg why;
    bool hit = false;
    load_init(&x, NULL, 7);
    for (int again = 0; again < 2; again++) { /* creates, then opens */
        arm(true, nth, many);
        enum err e = load_open(&x, options(), &why);
        hit = disarm() || hit;
        if (e != ERR_OK) {
            if (!CHECK(e == ERR_NOMEM && strstr(why.text, "out of memory") != NULL))
                fprintf(stderr, "allocation %llu at start: %s\n", (unsigned long long)nth,
                        why.text);
            CHECK_OK(load_open(&x, options(), &why), why);
        }
        (void)load_round(&x);
        (void)load_round(&x);
        CHECK_INT(x.failed_ops, 0);
        ledger_close(&x.ledger);
        check_all(&x, "at start", nth);
    }
    remove_ledger();
    return hit;
}

/* Starts again and again, with a new ledger or with one that has batches in it, and each time
 * another allocation fails: dense enough that no step of a start is left out. */
static void fail_in_start(struct check_rng *rng, bool new_ledger)
{
    static struct load x;
    struct err_msg why;
    load_init(&x, NULL, 11);
    CHECK_OK(load_open(&x, options(), &why), why);
    for (int i = 0; i < 4; i++)
        (void)load_round(&x);
    ledger_close(&x.ledger);
    bool hit = true;
    for (uint64_t nth = 0; hit; nth += 1 + check_rng_below(rng, 3)) {
        if (new_ledger)
            remove_ledger();
        arm(true, nth, 1);
        enum err e = load_open(&x, options(), &why);
        hit = disarm();
        if (e != ERR_OK && !CHECK(e == ERR_NOMEM && strstr(why.text, "out of memory") != NULL))
            fprintf(stderr, "allocation %llu of a start: %s\n", (unsigned long long)nth, why.text);
        if (e != ERR_OK)
            CHECK_OK(load_open(&x, options(), &why), why);
        ledger_close(&x.ledger);
    }
    if (!new_ledger)
        check_all(&x, "a start", 0);
    remove_ledger();
}

int main(int argc, char **argv)
{
    struct check_rng rng = check_rng_start(23);
    unsigned long runs = argc > 1 ? strtoul(argv[1], NULL, 10) : 300;
    tester = pthread_self();
    CHECK(memory_watch_sqlite());
    const char *folder = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp"; /* quick */
    snprintf(path, sizeof path, "%s/octo-memory-%ld", folder, (long)getpid());
    uint64_t seed = check_rng_next(&rng), last = 0;
    while (fail_in_service(seed, last, 1))
        last = last * 2 + 1;
    unsigned hits = 0;
    for (unsigned long i = 0; i < runs; i++) {
        uint64_t many = check_rng_below(&rng, 2) == 0 ? 1 : 1 + check_rng_below(&rng, 200);
        hits += fail_in_service(seed, i < runs / 3 ? i : check_rng_below(&rng, last), many);
    }
    uint64_t opens = 0;
    while (fail_in_open(opens, 1 + opens % 2 * 1000))
        opens += 1 + check_rng_below(&rng, 10 + opens / 8);
    fail_in_start(&rng, true);
    fail_in_start(&rng, false);
    printf("in service below %llu: %u of %lu hit; at start below %llu\n", (unsigned long long)last,
           hits, runs, (unsigned long long)opens);
    CHECK_INT(load_failures(), 0);
    return check_report();
}
