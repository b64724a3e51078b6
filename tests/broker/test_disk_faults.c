/* A disk that fails: the Nth write, sync, open, truncation, deletion or read, once or for a while,
 * on a disk in memory. What is asked for meanwhile fails with its reason, what was acknowledged
 * stays, also when the power is cut right after, and service resumes by itself.
 *
 * test_disk_faults [STEP]: of every STEP calls one, drawn from the seed; 1: each. */
#include <sqlite3.h>
#include <unistd.h>

#include "tests/broker/load.h"

static char path[64]; /* only its lock file is on a real disk */

static struct ledger_options options(struct disk *d)
{
    return (struct ledger_options){.path = path, .vfs = disk_vfs(d), .checkpoint_pages = 40};
}

struct scenario {
    const char *name;
    struct disk_fault fault; /* first is varied */
    const char *reason;
};

#define FOREVER 1000000

static const struct scenario scenarios[] = {
    {"write, disk full", {.calls = DISK_WRITE, .count = 1, .code = SQLITE_FULL}, "full"},
    {"writes, disk full for long",
     {.calls = DISK_WRITE, .count = FOREVER, .code = SQLITE_FULL},
     "full"},
    {"write, I/O error", {.calls = DISK_WRITE, .count = 1, .code = SQLITE_IOERR_WRITE}, "I/O"},
    {"sync fails, tries again",
     {.calls = DISK_SYNC, .count = 1, .code = SQLITE_IOERR_FSYNC, .lost = DISK_PENDING},
     "I/O"},
    {"sync fails, what it had is gone",
     {.calls = DISK_SYNC, .count = 1, .code = SQLITE_IOERR_FSYNC, .lost = DISK_GONE},
     "I/O"},
    {"sync fails, what it had is reverted",
     {.calls = DISK_SYNC, .count = 1, .code = SQLITE_IOERR_FSYNC, .lost = DISK_REVERTED},
     "I/O"},
    {"three syncs fail, what they had is gone",
     {.calls = DISK_SYNC, .count = 3, .code = SQLITE_IOERR_FSYNC, .lost = DISK_GONE},
     "I/O"},
    {"all writes and syncs for long, what they had is gone",
     {.calls = DISK_CHANGES, .count = FOREVER, .code = SQLITE_IOERR, .lost = DISK_GONE},
     "I/O"},
    {"truncate", {.calls = DISK_TRUNCATE, .count = 1, .code = SQLITE_IOERR_TRUNCATE}, "I/O"},
    {"read", {.calls = DISK_READ, .count = 1, .code = SQLITE_IOERR_READ}, "I/O"},
    {"anything", {.calls = DISK_CHANGES | DISK_READ, .count = 2, .code = SQLITE_IOERR}, "I/O"},
};

static unsigned look(struct load *x, struct disk *d, char *text, size_t size)
{
    static struct load_found found;
    struct err_msg why;
    struct load other = {.disk = d};
    if (load_open(&other, options(d), &why) != ERR_OK) {
        snprintf(text, size, "%s", why.text);
        return 1;
    }
    load_find(other.ledger, &found);
    unsigned bad = load_check(x, &found, LOAD_NEVER - 1);
    snprintf(text, size, "%s", found.text);
    ledger_close(&other.ledger);
    return bad;
}

/* A fault in the middle of service. False: the load has no such call. */
static bool fail_in_service(const struct scenario *s, uint64_t nth, uint64_t seed)
{
    static struct load x;
    struct err_msg why;
    char text[512];
    struct disk *d = disk_new();
    struct check_rng rng = {seed};
    load_init(&x, d, seed);
    CHECK_OK(load_open(&x, options(d), &why), why);
    for (int i = 0; i < 10; i++)
        (void)load_round(&x);
    CHECK_INT(x.failed_ops, 0);
    struct disk_fault fault = s->fault;
    fault.first = nth;
    disk_fail(d, fault);
    for (int i = 0; i < 14; i++)
        (void)load_round(&x);
    bool hit = disk_fault_hits(d) > 0;
    if (x.failed_ops > 0) {
        CHECK_HAS(x.last_why.text, path);
        CHECK_HAS(x.last_why.text, s->reason);
    }
    disk_fail(d, (struct disk_fault){0});
    x.failed_ops = 0;
    bool good = CHECK(load_settle(&x)); /* the fault is gone: at once, by itself */
    for (int i = 0; i < 6; i++)
        (void)load_round(&x);
    good = CHECK(x.failed_ops == 0) && good;
    struct disk *left = disk_cut(d, DISK_NOTHING, 512, false, &rng);
    disk_vfs(d);
    ledger_close(&x.ledger);
    unsigned bad = look(&x, left, text, sizeof text);
    if (!CHECK(bad == 0) || !good)
        fprintf(stderr, "%s, call %llu, seed %llu, then the power: %s; %s\n", s->name,
                (unsigned long long)nth, (unsigned long long)seed, text, x.last_why.text);
    disk_free(&left);
    bad = look(&x, d, text, sizeof text);
    if (!CHECK(bad == 0))
        fprintf(stderr, "%s, call %llu, seed %llu, then closed: %s\n", s->name,
                (unsigned long long)nth, (unsigned long long)seed, text);
    disk_free(&d);
    return hit;
}

/* A fault while a ledger is opened: it says why, or does without; the next open works. */
static bool fail_in_open(const struct scenario *s, uint64_t nth, uint64_t seed)
{
    static struct load x;
    struct err_msg why;
    char text[512];
    struct disk *d = disk_new();
    load_init(&x, d, seed);
    for (int again = 0; again < 2; again++) {
        struct disk_fault fault = s->fault;
        fault.first = nth;
        disk_fail(d, fault);
        enum err e = load_open(&x, options(d), &why);
        bool hit = disk_fault_hits(d) > 0;
        disk_fail(d, (struct disk_fault){0});
        if (e != ERR_OK) {
            CHECK(hit);
            CHECK_HAS(why.text, path);
            CHECK_OK(load_open(&x, options(d), &why), why);
        }
        for (int i = 0; i < 8; i++)
            (void)load_round(&x);
        CHECK_INT(x.failed_ops, 0);
        ledger_close(&x.ledger);
        unsigned bad = look(&x, d, text, sizeof text);
        if (!CHECK(bad == 0))
            fprintf(stderr, "%s, open's call %llu: %s\n", s->name, (unsigned long long)nth, text);
        if (!hit) {
            disk_free(&d);
            return false;
        }
    }
    disk_free(&d);
    return true;
}

/* Leases are noted without a sync, and the sync of the next commit fails and drops them, though
 * they can still be read: what is acknowledged later must not lie behind that hole in the WAL. */
static void test_hole(uint64_t seed, enum disk_lost lost)
{
    static struct load x;
    struct err_msg why;
    char text[512];
    struct disk *d = disk_new();
    struct check_rng rng = {seed};
    load_init(&x, d, seed);
    CHECK_OK(load_open(&x, options(d), &why), why);
    for (int i = 0; i < 5 || !load_lease(&x); i++)
        (void)load_round(&x);
    disk_fail(d, (struct disk_fault){
                     .calls = DISK_SYNC, .count = 1, .code = SQLITE_IOERR_FSYNC, .lost = lost});
    while (disk_fault_hits(d) == 0)
        (void)load_round(&x);
    CHECK(load_settle(&x));
    struct disk *left = disk_cut(d, DISK_NOTHING, 512, false, &rng);
    disk_vfs(d);
    ledger_close(&x.ledger);
    if (!CHECK(look(&x, left, text, sizeof text) == 0))
        fprintf(stderr, "a hole in the WAL, seed %llu: %s\n", (unsigned long long)seed, text);
    disk_free(&left);
    disk_free(&d);
}

int main(int argc, char **argv)
{
    struct check_rng rng = check_rng_start(11);
    uint64_t step = argc > 1 ? strtoull(argv[1], NULL, 10) : 1, failed = 0;
    if (step == 0)
        return 2;
    snprintf(path, sizeof path, "/tmp/octo-faults-%ld", (long)getpid());
    for (size_t i = 0; i < sizeof scenarios / sizeof *scenarios; i++) {
        uint64_t last = 0, at_start = 0, seed = check_rng_next(&rng), tried = 0;
        for (uint64_t n = check_rng_below(&rng, step); fail_in_service(&scenarios[i], n, seed);
             tried++)
            n = (last = n) + 1 + check_rng_below(&rng, 2 * step - 1);
        for (uint64_t n = 0; fail_in_open(&scenarios[i], n, seed); tried++)
            n = (at_start = n) + 1 + check_rng_below(&rng, 2 * step - 1);
        printf("%s: failed at %llu calls, up to number %llu in service and %llu at start\n",
               scenarios[i].name, (unsigned long long)tried, (unsigned long long)last,
               (unsigned long long)at_start);
        failed += tried;
    }
    for (int i = 0; i < 10; i++) {
        for (enum disk_lost lost = 0; lost < DISK_LOST_WAYS; lost++)
            test_hole(check_rng_next(&rng), lost);
    }
    char lock[80];
    snprintf(lock, sizeof lock, "%s.lock", path);
    unlink(lock);
    CHECK(failed > 10);
    CHECK_INT(load_failures(), 0);
    return check_report();
}
