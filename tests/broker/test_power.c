/* Power loss: a seeded load on a disk in memory, cut before every event (write, sync, truncate,
 * file created or deleted) in several ways, and opened again on what is left. No acknowledged row
 * may be missing, none may be there twice or with other bytes, SQLite's integrity_check is ok.
 *
 * test_power [RUNS [ROUNDS]]: random runs of several power cycles, also during recovery; rounds of
 * the load that is cut everywhere. */
#include <sqlite3.h>
#include <unistd.h>

#include "tests/broker/load.h"

static char path[64]; /* only its lock file is on a real disk */

static struct ledger_options options(struct disk *d, const char *sync)
{
    return (struct ledger_options){
        .path = path, .vfs = disk_vfs(d), .sync = sync, .checkpoint_pages = 60};
}

static unsigned check_integrity(struct disk *d, char *ret, size_t size)
{
    sqlite3 *db = NULL;
    sqlite3_stmt *s = NULL;
    unsigned bad = 1;
    snprintf(ret, size, "cannot open");
    if (sqlite3_open_v2(path, &db, SQLITE_OPEN_READWRITE, disk_vfs(d)) == SQLITE_OK &&
        sqlite3_exec(db, "PRAGMA locking_mode=EXCLUSIVE", NULL, NULL, NULL) == SQLITE_OK &&
        sqlite3_prepare_v2(db, "PRAGMA integrity_check(1)", -1, &s, NULL) == SQLITE_OK &&
        sqlite3_step(s) == SQLITE_ROW) {
        const char *text = (const char *)sqlite3_column_text(s, 0);
        snprintf(ret, size, "%s", text == NULL ? "" : text);
        bad = strcmp(ret, "ok") != 0;
    }
    sqlite3_finalize(s);
    sqlite3_close(db);
    return bad;
}

/* Opens what a cut left. 0: all is well; otherwise `text` says what is not. */
static unsigned check_disk(struct load *x, struct disk *left, size_t at, bool integrity, char *text,
                           size_t size)
{
    static struct load_found found;
    struct err_msg why;
    struct load look = {.disk = left};
    enum err e = load_open(&look, options(left, NULL), &why);
    if (e != ERR_OK) {
        snprintf(text, size, "%s", why.text);
        return 1;
    }
    load_find(look.ledger, &found);
    unsigned bad = load_check(x, &found, at);
    snprintf(text, size, "%s", found.text);
    ledger_close(&look.ledger);
    return bad > 0 || !integrity ? bad : check_integrity(left, text, size);
}

/* ---- every boundary of one run ---- */

static struct disk *record(struct load *x, uint64_t seed, size_t rounds, const char *sync)
{
    struct err_msg why;
    struct disk *d = disk_new();
    disk_record(d);
    load_init(x, d, seed);
    for (int part = 0; part < 2; part++) { /* the second recovers, and its WAL begins anew */
        CHECK_OK(load_open(x, options(d, sync), &why), why);
        for (size_t i = 0; i < rounds / 2; i++)
            (void)load_round(x);
        CHECK_INT(x->failed_ops, 0);
        ledger_close(&x->ledger);
    }
    return d;
}

/* Cuts before every event in the ways asked for. Returns how many cuts lost something. */
static size_t cut_everywhere(uint64_t seed, size_t rounds, const char *sync, unsigned ways,
                             bool report)
{
    static struct load x;
    struct disk *run = record(&x, seed, rounds, sync), *d = disk_new();
    struct check_rng rng = {seed};
    size_t events = disk_events(run), lost = 0, cuts = 0;
    for (size_t at = 0; at <= events; at++) {
        for (enum disk_keep keep = 0; keep < DISK_KEEP_WAYS; keep++) {
            if ((ways >> keep & 1) == 0)
                continue;
            char text[512];
            struct disk *left = disk_cut(d, keep, check_rng_below(&rng, 2) == 0 ? 512 : 4096,
                                         check_rng_below(&rng, 2) == 0, &rng);
            bool bad = check_disk(&x, left, at, at % 8 == 0, text, sizeof text) > 0;
            if (bad && report)
                fprintf(stderr, "seed %llu, cut before event %zu of %zu, kept %d: %s\n",
                        (unsigned long long)seed, at, events, (int)keep, text);
            lost += bad;
            cuts++;
            disk_free(&left);
        }
        if (at < events)
            disk_replay(d, run, at);
    }
    printf("synchronous=%s: %zu events, %zu cuts, %zu of them lost something\n",
           sync == NULL ? "FULL" : sync, events, cuts, lost);
    disk_free(&run);
    disk_free(&d);
    return lost;
}

/* ---- several power cycles of one ledger ---- */

static void power_cycles(uint64_t seed)
{
    static struct load x;
    static struct load_found found;
    struct check_rng rng = {seed};
    struct disk *d = disk_new();
    load_init(&x, d, seed);
    for (int cycle = 0; cycle < 5; cycle++) {
        struct err_msg why;
        char text[512];
        disk_power_off(d, 1 + check_rng_below(&rng, 600)); /* small: during open and recovery */
        if (load_open(&x, options(d, NULL), &why) == ERR_OK) {
            if (cycle == 0 || load_settle(&x)) {
                for (int i = 0; i < 500 && !disk_is_off(d); i++)
                    (void)load_round(&x);
            }
            ledger_close(&x.ledger);
        }
        disk_power_off(d, 0);
        enum disk_keep keep = (enum disk_keep)check_rng_below(&rng, DISK_KEEP_WAYS);
        struct disk *left = disk_cut(d, keep, check_rng_below(&rng, 2) == 0 ? 512 : 4096,
                                     check_rng_below(&rng, 2) == 0, &rng);
        disk_free(&d);
        d = x.disk = left;
        if (!CHECK(check_integrity(d, text, sizeof text) == 0) ||
            !CHECK(load_open(&x, options(d, NULL), &why) == ERR_OK)) {
            fprintf(stderr, "seed %llu cycle %d: %s, %s\n", (unsigned long long)seed, cycle, text,
                    why.text);
            break;
        }
        load_find(x.ledger, &found);
        if (!CHECK(load_check(&x, &found, LOAD_NEVER - 1) == 0))
            fprintf(stderr, "seed %llu cycle %d: %s\n", (unsigned long long)seed, cycle,
                    found.text);
        load_adopt(&x, &found);
        ledger_close(&x.ledger);
    }
    disk_free(&d);
}

int main(int argc, char **argv)
{
    struct check_rng rng = check_rng_start(5);
    unsigned long runs = argc > 1 ? strtoul(argv[1], NULL, 10) : 40;
    unsigned long rounds = argc > 2 ? strtoul(argv[2], NULL, 10) : 32;
    snprintf(path, sizeof path, "/tmp/octo-power-%ld", (long)getpid());
    CHECK_INT(cut_everywhere(check_rng_next(&rng), rounds, NULL, 15, true), 0);
    /* and the test would see it: without the sync of each commit acknowledged rows are lost */
    unsigned nothing = 1 << DISK_NOTHING;
    CHECK(cut_everywhere(check_rng_next(&rng), rounds / 2, "NORMAL", nothing, false) > 0);
    CHECK(cut_everywhere(check_rng_next(&rng), rounds / 2, "OFF", nothing, false) > 0);
    for (unsigned long i = 0; i < runs; i++)
        power_cycles(check_rng_next(&rng));
    strcat(path, ".lock");
    unlink(path);
    CHECK_INT(load_failures(), 0);
    return check_report();
}
