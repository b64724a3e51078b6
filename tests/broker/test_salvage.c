/* A damaged ledger: found at start and said, and salvaged. Damage is drawn from a seed: bytes
 * flipped, pages wiped or overwritten, the file or its WAL cut. Salvage never crashes, never writes
 * to the damaged file, keeps every row that SQLite itself can still read, and more: also where the
 * header and the inner pages are gone; the new ledger works, and submitting again completes it.
 *
 * test_salvage [ROUNDS [SEED]]: with SEED, that of one round's line, only that round. */
#include <errno.h>
#include <fcntl.h>
#include <sqlite3.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/file.h"
#include "broker/salvage.h"
#include "tests/broker/load.h"

enum { PAGE_BYTES = LEDGER_PAGE_BYTES, MAX_FILE = 64 << 20 };

static char dir[] = "/tmp/octo-salvage-XXXXXX";
static char good_path[64], bad_path[64], new_path[64], copy_path[64];
static struct load load; /* what the undamaged ledger has */
static struct load_found found;

/* ---- files ---- */

static struct buf read_all(const char *path)
{
    struct buf b = {0};
    struct err_msg why;
    if (access(path, F_OK) == 0)
        CHECK_OK(file_read(path, MAX_FILE, &b, &why), why);
    return b;
}

static void write_all(const char *path, const struct buf *b)
{
    unlink(path);
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
    CHECK(fd >= 0 && write(fd, b->data, b->len) == (ssize_t)b->len);
    close(fd);
}

static void write_ledger(const char *path, const struct buf *db, const struct buf *wal)
{
    char name[80];
    write_all(path, db);
    snprintf(name, sizeof name, "%s-wal", path);
    unlink(name);
    if (wal->len > 0)
        write_all(name, wal);
}

static void remove_ledger(const char *path)
{
    static const char *const parts[] = {"", "-wal", "-shm", "-journal", ".lock"};
    char name[80];
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        snprintf(name, sizeof name, "%s%s", path, parts[i]);
        unlink(name);
    }
}

static bool unchanged(const char *path, const struct buf *want)
{
    struct buf got = read_all(path);
    bool same =
        got.len == want->len && (want->len == 0 || memcmp(got.data, want->data, got.len) == 0);
    buf_free(&got);
    return same;
}

/* ---- the undamaged ledger ---- */

/* An empty ledger whose pages are of that size, as those of older brokers. */
static void set_page_size(const char *path, unsigned page_bytes)
{
    struct err_msg why;
    struct ledger *l = NULL;
    sqlite3 *db = NULL;
    char sql[120];
    CHECK_OK(ledger_open(&(struct ledger_options){.path = path}, &l, &why), why);
    ledger_close(&l);
    snprintf(
        sql, sizeof sql,
        "PRAGMA locking_mode=EXCLUSIVE; PRAGMA journal_mode=DELETE; PRAGMA page_size=%u; VACUUM",
        page_bytes);
    CHECK(sqlite3_open(path, &db) == SQLITE_OK);
    CHECK(sqlite3_exec(db, sql, NULL, NULL, NULL) == SQLITE_OK);
    sqlite3_close(db);
}

/* Leaves the file and its WAL as after a kill: much of it only in the WAL. */
static void make_ledger(uint64_t seed, unsigned page_bytes, struct buf *ret_db, struct buf *ret_wal)
{
    struct err_msg why;
    char wal[80];
    load_init(&load, NULL, seed);
    remove_ledger(good_path);
    set_page_size(good_path, page_bytes);
    struct ledger_options o = {.path = good_path, .checkpoint_pages = 150, .sync = "OFF"};
    CHECK_OK(load_open(&load, o, &why), why);
    for (int i = 0; i < 150; i++)
        (void)load_round(&load);
    CHECK(load_settle(&load));
    CHECK_INT(load.failed_ops, 0);
    *ret_db = read_all(good_path);
    snprintf(wal, sizeof wal, "%s-wal", good_path);
    *ret_wal = read_all(wal);
    CHECK(ret_wal->len > 0);
    ledger_close(&load.ledger);
    CHECK(ret_db->len % page_bytes == 0);
}

/* ---- what SQLite can read of a damaged ledger ---- */

static bool same_blob(sqlite3 *db, const char *sql, uint64_t id, struct str want)
{
    sqlite3_stmt *s = NULL;
    bool same = false;
    if (sqlite3_prepare_v2(db, sql, -1, &s, NULL) == SQLITE_OK) {
        sqlite3_bind_int64(s, 1, (sqlite3_int64)id);
        if (sqlite3_step(s) == SQLITE_ROW) {
            const void *bytes = sqlite3_column_blob(s, 0);
            size_t len = (size_t)sqlite3_column_bytes(s, 0);
            same = len == want.len && bytes != NULL && memcmp(bytes, want.data, len) == 0;
        }
    }
    sqlite3_finalize(s);
    return same;
}

static bool same_job(sqlite3 *db, int batch, uint64_t line, const struct load_line *want)
{
    sqlite3_stmt *s = NULL;
    bool same = false;
    if (sqlite3_prepare_v2(
            db,
            "SELECT j.line, j.state, b.name FROM job j NOT INDEXED JOIN batch b ON "
            "b.id=j.batch WHERE j.id=?1 AND j.hash=?2 AND j.attempts BETWEEN 0 AND 9 "
            "AND j.epoch BETWEEN 0 AND 9999 AND (j.state=0)=(j.seq IS NULL) AND "
            "j.submitted_ms=1000 AND j.body_bytes BETWEEN 1 AND 10000 AND "
            "b.options_text='t' AND b.priority=100 AND b.max_attempts=3 AND "
            "b.created_ms=5 AND b.cancelled=0 AND b.client=''",
            -1, &s, NULL) == SQLITE_OK) {
        sqlite3_bind_int64(s, 1, (sqlite3_int64)want->job);
        sqlite3_bind_int64(s, 2, (sqlite3_int64)(line * 31 + (uint64_t)batch));
        int state = want->end.ack == LOAD_NEVER ? LEDGER_UNFINISHED : (int)want->state;
        same = sqlite3_step(s) == SQLITE_ROW && (uint64_t)sqlite3_column_int64(s, 0) == line &&
               sqlite3_column_int(s, 1) == state && sqlite3_column_text(s, 2) != NULL &&
               strcmp((const char *)sqlite3_column_text(s, 2), load_names[batch]) == 0;
    }
    sqlite3_finalize(s);
    return same;
}

/* All of a line, with the bytes that it had. */
static bool sqlite_reads(sqlite3 *db, int batch, uint64_t line, const struct load_line *want)
{
    struct arena a = {0};
    bool ended = want->end.ack != LOAD_NEVER;
    bool reads = same_job(db, batch, line, want) &&
                 same_blob(db, "SELECT body FROM request WHERE job=?1", want->job,
                           load_body(&a, batch, line, 'q')) &&
                 (!ended || want->state == LEDGER_CANCELLED ||
                  same_blob(db, "SELECT body FROM result WHERE job=?1", want->job,
                            load_body(&a, batch, line, 'r')));
    arena_free(&a);
    return reads;
}

/* Lines that SQLite reads in the damaged ledger have to be in the salvaged one. Returns how many it
 * reads. */
static size_t compare_with_sqlite(const struct buf *db_bytes, const struct buf *wal,
                                  size_t *ret_kept)
{
    sqlite3 *db = NULL;
    size_t readable = 0;
    write_ledger(copy_path, db_bytes, wal);
    CHECK(sqlite3_open_v2(copy_path, &db, SQLITE_OPEN_READWRITE, NULL) == SQLITE_OK);
    sqlite3_exec(db, "PRAGMA locking_mode=EXCLUSIVE; PRAGMA writable_schema=1", NULL, NULL, NULL);
    for (int b = 0; b < LOAD_BATCHES; b++) {
        for (size_t i = 0; i < load.batches[b].count; i++) {
            const struct load_line *want = &load.batches[b].lines[i];
            const struct load_found_line *got = &found.batches[b].lines[i];
            bool ended = want->end.ack != LOAD_NEVER;
            *ret_kept += got->there;
            if (!sqlite_reads(db, b, i + 1, want))
                continue;
            readable++;
            if (!CHECK(got->there && got->state == (ended ? want->state : LEDGER_UNFINISHED)))
                fprintf(stderr, "SQLite reads batch %s line %zu, salvage: there %d, state %d\n",
                        load_names[b], i + 1, got->there, (int)got->state);
        }
    }
    sqlite3_close(db);
    remove_ledger(copy_path);
    return readable;
}

/* ---- the salvaged ledger ---- */

/* As clients and workers do: the inputs are submitted again, what is not there runs again. */
static void complete(struct load *x, bool exact, const char *what)
{
    struct err_msg why;
    for (int b = 0; b < LOAD_BATCHES; b++) {
        struct load_batch *batch = &x->batches[b];
        if (found.batches[b].id == 0)
            batch->born = batch->sealed = (struct load_span){LOAD_NEVER, LOAD_NEVER};
        else if (batch->sealed.ask != LOAD_NEVER)
            batch->sealed.ack = LOAD_NEVER; /* salvage opened it again */
        for (size_t i = 0; i < batch->count; i++) {
            const struct load_found_line *got = &found.batches[b].lines[i];
            struct load_line *line = &batch->lines[i];
            if (found.batches[b].id == 0)
                line->submit = line->end = (struct load_span){LOAD_NEVER, LOAD_NEVER};
            if (!got->there)
                line->submit.ack = LOAD_NEVER;
            if (!got->there || got->state == LEDGER_UNFINISHED)
                line->end.ack = LOAD_NEVER;
            line->job = got->job;
        }
    }
    if (!CHECK(load_settle(x)))
        fprintf(stderr, "%s: %s\n", what, x->last_why.text);
    ledger_close(&x->ledger);
    CHECK_OK(load_open(x, (struct ledger_options){.path = new_path}, &why), why);
    load_find(x->ledger, &found);
    found.no_id = 0; /* that stays */
    if (exact && !CHECK(load_check(x, &found, LOAD_NEVER - 1) == 0))
        fprintf(stderr, "%s, submitted again: %s\n", what, found.text);
}

/* exact: the damage leaves no wrong bytes that look right. all: every line is still readable. */
static bool salvage(const char *what, const struct buf *db, const struct buf *wal, bool exact,
                    bool all)
{
    static struct load x;
    struct salvage_report r = {0};
    struct err_msg why = {{0}};
    char wal_path[80];
    write_ledger(bad_path, db, wal);
    remove_ledger(new_path);
    enum err e = salvage_ledger(bad_path, new_path, &r, &why);
    snprintf(wal_path, sizeof wal_path, "%s-wal", bad_path);
    CHECK(unchanged(bad_path, db) && unchanged(wal_path, wal));
    if (e != ERR_OK) {
        CHECK_ERR(e, ERR_FORMAT);
        CHECK_HAS(why.text, bad_path);
        CHECK(access(new_path, F_OK) != 0);
        return false;
    }
    x = load;
    CHECK_OK(load_open(&x, (struct ledger_options){.path = new_path}, &why), why);
    load_find(x.ledger, &found);
    bool renamed = r.batches_renamed > 0; /* one that load_find() does not know */
    if (exact && !renamed && !CHECK(found.wrong == 0))
        fprintf(stderr, "%s: %s\n", what, found.text);
    CHECK(found.energy_uj == LOAD_ENERGY_UJ * found.energy_jobs);
    CHECK(!all || found.energy_jobs > 0);
    size_t kept = 0, lines = 0, readable = compare_with_sqlite(db, wal, &kept);
    for (int b = 0; b < LOAD_BATCHES; b++)
        lines += load.batches[b].count;
    if (all) {
        CHECK_INT(kept, lines);
        CHECK_INT(r.jobs, lines);
        CHECK_INT(r.jobs_lost + r.results_lost, 0);
    }
    if (exact && !renamed) {
        CHECK_INT(r.jobs, kept);
        CHECK(kept + r.jobs_lost <= lines);
        CHECK_INT(found.no_id, r.ids_lost);
    }
    printf(
        "%s: %zu lines, SQLite reads %zu, salvage %zu; lost jobs %llu, results %llu, rerun %llu\n",
        what, lines, readable, kept, (unsigned long long)r.jobs_lost,
        (unsigned long long)r.results_lost, (unsigned long long)r.rerun);
    if (!renamed)
        complete(&x, exact, what);
    ledger_close(&x.ledger);
    return true;
}

/* ---- damage ---- */

static struct buf copy_of(const struct buf *b)
{
    struct buf copy = {0};
    struct err_msg why = {{0}};
    CHECK_OK(buf_append(&copy, b->data, b->len), why);
    return copy;
}

/* Returns whether it leaves no wrong bytes that look right. */
static bool damage(struct check_rng *rng, struct buf *db, struct buf *wal)
{
    struct buf *b = wal->len > 0 && check_rng_below(rng, 3) == 0 ? wal : db;
    uint64_t kind = check_rng_below(rng, 5), times = 1 + check_rng_below(rng, 6);
    for (uint64_t i = 0; i < times; i++) {
        size_t at = check_rng_below(rng, b->len), page = at / PAGE_BYTES * PAGE_BYTES;
        size_t end = page + PAGE_BYTES < b->len ? page + PAGE_BYTES : b->len;
        if (kind == 0) {
            b->data[at] = (char)(b->data[at] ^ (1 << check_rng_below(rng, 8)));
        } else if (kind == 1) {
            for (size_t k = page; k < end; k++)
                b->data[k] = (char)check_rng_next(rng);
        } else if (kind == 2) {
            memset(b->data + page, 0, end - page);
        } else if (kind == 3) { /* a page where another belongs */
            size_t from = check_rng_below(rng, b->len) / PAGE_BYTES * PAGE_BYTES;
            if (from + PAGE_BYTES <= b->len)
                memmove(b->data + page, b->data + from, end - page);
        } else if (i == 0) {
            b->len = at;
        }
    }
    return kind == 2 || kind == 4;
}

static void test_tree_gone(const struct buf *db, const struct buf *wal)
{
    static const struct buf none;
    struct err_msg why;
    struct buf bad = copy_of(db);
    /* the header and the schema */
    memset(bad.data, 0, PAGE_BYTES);
    struct ledger *l = NULL;
    write_ledger(bad_path, &bad, &none);
    CHECK_ERR(ledger_open(&(struct ledger_options){.path = bad_path}, &l, &why), ERR_FORMAT);
    CHECK_HAS(why.text, "--salvage NEW-FILE");
    CHECK(salvage("page 1 wiped", &bad, wal, true, true));
    buf_free(&bad);
    /* and all inner pages of tables */
    write_ledger(copy_path, db, wal);
    CHECK_OK(ledger_open(&(struct ledger_options){.path = copy_path}, &l, &why), why);
    ledger_close(&l); /* all of the WAL is in the file now */
    bad = read_all(copy_path);
    size_t wiped = 0;
    for (size_t at = 0; at < bad.len; at += PAGE_BYTES) {
        if (at == 0 || bad.data[at] == 5) {
            memset(bad.data + at, 0xff, PAGE_BYTES);
            wiped++;
        }
    }
    CHECK(wiped > 2);
    CHECK(salvage("inner pages gone", &bad, &none, true, true));
    buf_free(&bad);
}

/* Pages of every size that SQLite has, and no header that says which; or one that says another. */
static void test_page_sizes(struct check_rng *rng)
{
    for (unsigned size = 512; size <= 65536; size *= 2) {
        struct buf db, wal, whole;
        struct ledger *l = NULL;
        struct err_msg why;
        static const struct buf none;
        char what[64];
        make_ledger(check_rng_next(rng), size, &db, &wal);
        write_ledger(copy_path, &db, &wal);
        CHECK_OK(ledger_open(&(struct ledger_options){.path = copy_path}, &l, &why), why);
        ledger_close(&l); /* all of the WAL is in the file now */
        whole = read_all(copy_path);
        unsigned said = size < 65536 ? 2 * size : 512;
        whole.data[16] = (char)(said >> 8);
        whole.data[17] = (char)(said >> 16);
        snprintf(what, sizeof what, "pages of %u bytes, header says %u", size, said);
        CHECK(salvage(what, &whole, &none, true, true));
        memset(whole.data, 0, size);
        snprintf(what, sizeof what, "pages of %u bytes, no header", size);
        CHECK(salvage(what, &whole, &none, true, true));
        memset(db.data, 0, size < db.len ? size : db.len);
        memset(wal.data, 0, 32);
        snprintf(what, sizeof what, "pages of %u bytes, no header of both", size);
        CHECK(salvage(what, &db, &wal, true, true));
        buf_free(&db);
        buf_free(&wal);
        buf_free(&whole);
    }
}

static void test_detected(const struct buf *db)
{
    static const struct buf none;
    struct err_msg why;
    struct ledger *l = NULL;
    struct buf bad = copy_of(db);
    bad.len -= 3 * PAGE_BYTES;
    write_ledger(bad_path, &bad, &none);
    CHECK_ERR(ledger_open(&(struct ledger_options){.path = bad_path}, &l, &why), ERR_FORMAT);
    CHECK_HAS(why.text, bad_path);
    CHECK_HAS(why.text, "--salvage NEW-FILE");
    buf_free(&bad);
}

static void test_refusals(const struct buf *db, const struct buf *wal)
{
    struct salvage_report r;
    struct err_msg why;
    struct ledger *l = NULL;
    static char garbage[3 * PAGE_BYTES];
    struct buf b = {.data = garbage, .len = sizeof garbage};
    write_ledger(bad_path, db, wal);
    remove_ledger(new_path);
    CHECK_OK(ledger_open(&(struct ledger_options){.path = bad_path}, &l, &why), why);
    CHECK_ERR(salvage_ledger(bad_path, new_path, &r, &why), ERR_CONFLICT);
    CHECK_HAS(why.text, "stop it first");
    ledger_close(&l);
    CHECK_ERR(salvage_ledger(bad_path, bad_path, &r, &why), ERR_CONFLICT);
    CHECK_ERR(salvage_ledger("/tmp/none/ledger", new_path, &r, &why), ERR_IO);
    CHECK_ERR(salvage_ledger(bad_path, "/tmp/none/ledger", &r, &why), ERR_IO);
    CHECK_ERR(salvage_ledger(dir, new_path, &r, &why), ERR_FORMAT);
    memset(garbage, 'G', sizeof garbage);
    static const struct buf none;
    write_ledger(bad_path, &b, &none);
    CHECK_ERR(salvage_ledger(bad_path, new_path, &r, &why), ERR_FORMAT);
    CHECK_HAS(why.text, "nothing of a ledger");
    b.len = 0;
    write_ledger(bad_path, &b, &none);
    CHECK_ERR(salvage_ledger(bad_path, new_path, &r, &why), ERR_FORMAT);
    CHECK(access(new_path, F_OK) != 0);
    /* another's file under the name that the new one has until it is whole */
    char part[80];
    snprintf(part, sizeof part, "%s.part", new_path);
    b.len = 5;
    write_all(part, &b);
    write_ledger(bad_path, db, wal);
    CHECK_ERR(salvage_ledger(bad_path, new_path, &r, &why), ERR_CONFLICT);
    CHECK_HAS(why.text, part);
    CHECK(unchanged(part, &b));
    unlink(part);
}

static void run_one(struct ledger *l, struct ledger_op *op)
{
    load_run(l, &op, 1);
}

/* Old batches left: the ids of what stays are far above what the small file could hold, and neither
 * they nor the gaps are a loss. Half of one batch is still on its way out. */
static void test_old_ones_left(void)
{
    enum { LINES = 20000, PIECE = 500, LEAVING = 300, STAYS = 3 };
    static const char *const names[] = {"old", "leaving", "night"};
    static const size_t counts[] = {LINES, LEAVING, STAYS};
    static struct rec_LINE lines[PIECE];
    static struct load l;
    struct err_msg why;
    uint64_t before = 0, after = 0, ids[3] = {0};
    remove_ledger(bad_path);
    CHECK_OK(load_open(&l, (struct ledger_options){.path = bad_path}, &why), why);
    for (int b = 0; b < 3; b++) {
        struct ledger_op op = {.kind = LEDGER_BATCH_NEW};
        op.batch_new.batch = (struct ledger_batch){
            .name = str_of(names[b]), .max_attempts = 3, .schedule.priority = 100};
        run_one(l.ledger, &op);
        ids[b] = op.batch_new.batch.id;
        for (size_t line = 0; line < counts[b];) {
            size_t n = 0;
            for (; n < PIECE && line < counts[b]; n++) {
                lines[n] = (struct rec_LINE){.line = ++line};
                if (b == 0)
                    lines[n].refusal = STR_LIT("no");
                else
                    lines[n].body = load_body(&op.arena, b, line, 'q');
            }
            op = (struct ledger_op){
                .kind = LEDGER_SUBMIT,
                .arena = op.arena,
                .submit = {.batch = str_of(names[b]), .lines = lines, .count = n}};
            run_one(l.ledger, &op);
            CHECK_INT(op.submit.ret_accepted, n);
            arena_free(&op.arena);
        }
    }
    for (int b = 0; b < 2; b++) {
        struct ledger_op op = {.kind = LEDGER_FORGET, .forget.batch = ids[b]};
        do {
            run_one(l.ledger, &op);
            CHECK_ERR(op.err, ERR_OK);
            op.forget.batch = 0;
        } while (b == 0 && op.forget.ret_rows > 0);
    }
    ledger_close(&l.ledger);
    for (int compacted = 0; compacted < 2; compacted++) {
        struct salvage_report r = {0};
        remove_ledger(new_path);
        if (compacted)
            CHECK_OK(ledger_compact(bad_path, &before, &after, &why), why);
        CHECK_OK(salvage_ledger(bad_path, new_path, &r, &why), why);
        CHECK_INT(r.jobs, LEAVING - 256 + STAYS);
        CHECK_INT(r.jobs_lost + r.results_lost + r.batches_lost + r.unreadable_rows, 0);
        CHECK_INT(r.batches_renamed, 0);
        CHECK_INT(r.batches, 2);
    }
    CHECK(after < before / 4);
    struct salvage_report again = {0}; /* and so is the new one's */
    remove_ledger(copy_path);
    CHECK_OK(salvage_ledger(new_path, copy_path, &again, &why), why);
    CHECK_INT(again.jobs, LEAVING - 256 + STAYS);
    CHECK_INT(again.jobs_lost + again.batches_lost, 0);
    remove_ledger(copy_path);
    remove_ledger(bad_path);
}

int main(int argc, char **argv)
{
    struct check_rng rng = check_rng_start(3);
    unsigned long rounds = argc > 1 ? strtoul(argv[1], NULL, 10) : 40;
    if (mkdtemp(dir) == NULL)
        return 1;
    snprintf(good_path, sizeof good_path, "%s/good", dir);
    snprintf(bad_path, sizeof bad_path, "%s/bad", dir);
    snprintf(new_path, sizeof new_path, "%s/new", dir);
    snprintf(copy_path, sizeof copy_path, "%s/copy", dir);
    struct buf db, wal;
    test_page_sizes(&rng);
    make_ledger(check_rng_next(&rng), PAGE_BYTES, &db, &wal);
    CHECK(salvage("undamaged", &db, &wal, true, true));
    test_tree_gone(&db, &wal);
    test_detected(&db);
    test_refusals(&db, &wal);
    test_old_ones_left();
    for (unsigned long i = 0; i < rounds; i++) {
        char what[64];
        uint64_t seed = argc > 2 ? strtoull(argv[2], NULL, 0) : check_rng_next(&rng);
        struct check_rng damages = {seed};
        struct buf bad_db = copy_of(&db), bad_wal = copy_of(&wal);
        bool exact = damage(&damages, &bad_db, &bad_wal);
        snprintf(what, sizeof what, "seed %llu", (unsigned long long)seed);
        (void)salvage(what, &bad_db, &bad_wal, exact, false);
        buf_free(&bad_db);
        buf_free(&bad_wal);
    }
    buf_free(&db);
    buf_free(&wal);
    CHECK_INT(load_failures(), 0);
    check_remove(dir);
    return check_report();
}
