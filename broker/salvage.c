/* Rows of a damaged ledger into a new one: which table a row is of, and which of two versions
 * counts. Reading pages is salvage_pages.c's; what has to be put right when a part is missing,
 * salvage_repair.c's. */
#include "broker/salvage.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <unistd.h>

#include "base/arena.h"
#include "base/file.h"
#include "base/size.h"
#include "base/utf8.h"
#include "broker/ledger_sql.h"
#include "broker/salvage_impl.h"
#include "proto/codec.h"

enum { MAX_ATTEMPTS = 1 << 20 };

/* Ids go up for ever while old batches leave: the size of the file says nothing about them. */
#define MAX_ID (INT64_C(1) << 48)

/* A row's columns: n the rowid's place, i an integer, t text, b bytes; capital: or NULL. `least`:
 * columns that later schemas added may be missing at the end. */
struct table {
    const char *name, *columns;
    int least;
    const char *insert;
};

static const struct table tables[TABLES] = {
    [BATCH] = {"batch", "nttttiiiiitB", 10,
               "INSERT INTO batch VALUES(?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,coalesce(?11,''),?12) "
               "ON CONFLICT(id) DO UPDATE SET sealed_ms=max(sealed_ms,excluded.sealed_ms), "
               "cancelled=max(cancelled,excluded.cancelled) WHERE excluded.name=name"},
    /* a job only goes forward: unfinished, finished; from epoch to epoch */
    [JOB] = {"job", "niiiiiiiiiIIIIII", 14,
             "INSERT INTO job VALUES(?1,?2,?3,?4,?5,0,?7,?8,?9,?10,?11,?12,?13,?14,?15,?16) "
             "ON CONFLICT(id) DO UPDATE SET state=excluded.state, attempts=excluded.attempts, "
             "epoch=excluded.epoch, finished_ms=excluded.finished_ms, seq=excluded.seq, "
             "prompt_tokens=excluded.prompt_tokens, completion_tokens=excluded.completion_tokens, "
             "energy_uj=excluded.energy_uj "
             "WHERE excluded.batch=batch AND excluded.line=line AND state=0 AND "
             "(excluded.state<>0 OR excluded.epoch>epoch OR excluded.attempts>attempts)"},
    [REQUEST] = {"request", "nTBB", 4, "INSERT OR IGNORE INTO request VALUES(?1,?2,?3,?4)"},
    [RESULT] = {"result", "nB", 2, "INSERT OR IGNORE INTO result VALUES(?1,?2)"},
    [ATTEMPT] = {"attempt", "niit", 4, "INSERT OR IGNORE INTO attempt VALUES(?1,?2,?3,?4)"},
    /* not kept: who holds a lease of the old ledger runs its job for nothing */
    [LEASE] = {"lease", "nib", 3, NULL},
};

/* ---- rows ---- */

static bool fits(const struct table *t, const struct pages_row *row)
{
    int most = (int)strlen(t->columns);
    if (row->index || row->columns < t->least || row->columns > most)
        return false;
    for (int i = 0; i < row->columns; i++) {
        const struct pages_value *v = &row->values[i];
        bool right = false;
        switch (t->columns[i]) {
        case 'n':
            right = v->type == PAGES_NULL;
            break;
        case 'I':
        case 'i':
            right = v->type == PAGES_INT || (v->type == PAGES_NULL && t->columns[i] == 'I');
            break;
        case 'T':
        case 't':
            right = v->type == PAGES_TEXT || (v->type == PAGES_NULL && t->columns[i] == 'T');
            break;
        default:
            right = v->type == PAGES_BLOB || v->type == PAGES_NULL;
            break;
        }
        if (!right)
            return false;
    }
    return true;
}

/* A batch that was old enough, and whose rows are on their way out. */
static bool is_leaving(struct str name)
{
    const struct str begins[] = {STR_LIT(LEDGER_FORGOTTEN_NAME), STR_LIT(LEDGER_STUCK_NAME)};
    for (size_t i = 0; i < ARRAY_LEN(begins); i++) {
        if (name.len > begins[i].len && memcmp(name.data, begins[i].data, begins[i].len) == 0)
            return memchr(name.data + 1, '\0', name.len - 1) == NULL;
    }
    return false;
}

/* Whether a row's values can be ours; a body has to decode. */
static bool sound(struct salvage *x, enum table_name t, const struct pages_row *row)
{
    const struct pages_value *v = row->values;
    struct rec_REQUEST request;
    struct rec_OUTPUT output;
    bool good = row->rowid >= 1 && row->rowid <= MAX_ID;
    switch (t) {
    case BATCH:
        good = good && v[1].bytes.len >= 1 && v[1].bytes.len <= PROTO_MAX_ID_BYTES &&
               (is_leaving(v[1].bytes) || memchr(v[1].bytes.data, '\0', v[1].bytes.len) == NULL) &&
               utf8_is_valid(v[1].bytes.data, v[1].bytes.len);
        break;
    case JOB:
        good = good && v[1].integer >= 1 && v[1].integer <= MAX_ID && v[2].integer >= 1 &&
               v[4].integer >= LEDGER_UNFINISHED && v[4].integer <= LEDGER_CANCELLED &&
               v[6].integer >= 0 && v[6].integer <= MAX_ATTEMPTS && v[7].integer >= 0 &&
               v[8].integer >= 0 &&
               (v[4].integer == LEDGER_UNFINISHED) == (v[11].type == PAGES_NULL);
        break;
    case REQUEST: /* empty: a refused line */
        good = good &&
               (v[3].bytes.len == 0 || proto_decode_request(v[3].bytes.data, v[3].bytes.len,
                                                            &x->arena, &request, NULL) == ERR_OK);
        break;
    case RESULT:
        good = good && proto_decode_output(v[1].bytes.data, v[1].bytes.len, &x->arena, &output,
                                           NULL) == ERR_OK;
        break;
    case ATTEMPT:
        good = good && v[1].integer >= 1;
        break;
    case LEASE:
    case TABLES:
        break;
    }
    arena_free(&x->arena);
    return good;
}

static int insert(struct salvage *x, enum table_name t, const struct pages_row *row, bool with_seq)
{
    sqlite3_stmt *s = x->insert[t];
    sqlite3_bind_int64(s, 1, row->rowid);
    for (int i = 1; i < row->columns; i++) {
        const struct pages_value *v = &row->values[i];
        const char *bytes = v->bytes.data == NULL ? "" : v->bytes.data;
        if (t == JOB && i == 11 && !with_seq)
            continue;
        if (v->type == PAGES_INT)
            sqlite3_bind_int64(s, i + 1, v->integer);
        else if (v->type == PAGES_TEXT) /* damaged: empty, others are sent such texts */
            sqlite3_bind_text64(s, i + 1, bytes,
                                utf8_is_valid(bytes, v->bytes.len) ? v->bytes.len : 0,
                                SQLITE_STATIC, SQLITE_UTF8);
        else if (v->type == PAGES_BLOB)
            sqlite3_bind_blob64(s, i + 1, bytes, v->bytes.len, SQLITE_STATIC);
    }
    int rc = sqlite3_step(s);
    sqlite3_reset(s);
    sqlite3_clear_bindings(s);
    return rc;
}

static void note_count(uint64_t *count, const struct pages_value *v)
{
    if (v->type == PAGES_INT && v->integer > 0 && v->integer <= MAX_ID)
        *count = max_u64(*count, (uint64_t)v->integer);
}

/* The rows of meta, which has no rowid: its leaves look like an index's. */
static void note_meta(struct salvage *x, const struct pages_row *row)
{
    const struct pages_value *v = row->values;
    if (row->columns != 2 || v[0].type != PAGES_TEXT)
        return;
    if (str_eq(v[0].bytes, STR_LIT("generation")) && v[1].type == PAGES_INT &&
        v[1].integer > x->generation && v[1].integer < LEDGER_MAX_GENERATION)
        x->generation = v[1].integer;
    if (str_eq(v[0].bytes, STR_LIT(LEDGER_JOBS_LEFT)))
        note_count(&x->jobs_left, &v[1]);
    if (str_eq(v[0].bytes, STR_LIT(LEDGER_BATCHES_LEFT)))
        note_count(&x->batches_left, &v[1]);
    if (str_eq(v[0].bytes, STR_LIT("id")) && v[1].type == PAGES_TEXT && v[1].bytes.len == 32 &&
        x->id[0] == '\0') {
        char id[33] = "";
        memcpy(id, v[1].bytes.data, 32);
        if (strspn(id, "0123456789abcdef") == 32)
            memcpy(x->id, id, sizeof id);
    }
}

static enum err on_row(void *user, const struct pages_row *row)
{
    struct salvage *x = user;
    if (row->index) {
        note_meta(x, row);
        return ERR_OK;
    }
    enum table_name t = 0;
    while (t < TABLES && !fits(&tables[t], row))
        t++;
    if (t == TABLES || !sound(x, t, row)) {
        x->report.unreadable_rows++;
        return ERR_OK;
    }
    if (t == LEASE)
        return ERR_OK;
    x->found = true;
    bool no_seq = t == JOB && row->values[11].integer > (int64_t)LEDGER_MAX_SEQ;
    int rc = insert(x, t, row, !no_seq);
    if (rc == SQLITE_CONSTRAINT && t == JOB) /* its place in the order of completion is taken */
        rc = insert(x, t, row, false);
    if (rc == SQLITE_CONSTRAINT)
        x->report.unreadable_rows++; /* contradicts one that is there */
    else if (rc != SQLITE_DONE)
        return rc == SQLITE_FULL ? ERR_FULL : rc == SQLITE_NOMEM ? ERR_NOMEM : ERR_IO;
    return ERR_OK;
}

/* ---- the new file ---- */

static enum err prepare(struct salvage *x, const char *part, struct err_msg *why)
{
    struct ledger *l = NULL;
    enum err e = ledger_open(&(struct ledger_options){.path = part}, &l, why);
    if (e != ERR_OK)
        return e;
    ledger_close(&l);
    if (sqlite3_open_v2(part, &x->db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX, NULL) !=
        SQLITE_OK)
        return salvage_sql_err(x, why);
    /* without a journal: the file counts when it is whole and has its name */
    e = salvage_run(
        x,
        "PRAGMA locking_mode=EXCLUSIVE; PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF;"
        "PRAGMA cache_size=-65536; PRAGMA temp_store=MEMORY; BEGIN",
        why);
    for (enum table_name t = 0; t < TABLES && e == ERR_OK; t++) {
        char sql[128];
        uint64_t columns = 0;
        snprintf(sql, sizeof sql, "SELECT count(*) FROM pragma_table_info('%s')", tables[t].name);
        e = salvage_number(x, sql, &columns, why);
        if (e == ERR_OK && columns != strlen(tables[t].columns))
            e = err_set(why, ERR_INTERNAL, "salvage: table %s has %" PRIu64 " columns, not %zu",
                        tables[t].name, columns, strlen(tables[t].columns));
        if (e == ERR_OK && tables[t].insert != NULL &&
            sqlite3_prepare_v3(x->db, tables[t].insert, -1, SQLITE_PREPARE_PERSISTENT,
                               &x->insert[t], NULL) != SQLITE_OK)
            e = salvage_sql_err(x, why);
    }
    return e;
}

static void close_db(struct salvage *x)
{
    for (enum table_name t = 0; t < TABLES; t++) {
        sqlite3_finalize(x->insert[t]);
        x->insert[t] = NULL;
    }
    sqlite3_close(x->db);
    x->db = NULL;
}

/* Synced, then under its name: never over a file that is there. */
static enum err publish(const char *part, const char *to, struct err_msg *why)
{
    int fd = open(part, O_RDWR | O_CLOEXEC);
    bool good = fd >= 0 && fsync(fd) == 0 && link(part, to) == 0;
    enum err e = good ? ERR_OK
                      : err_set(why, errno == EEXIST ? ERR_CONFLICT : ERR_IO,
                                "salvage: cannot write %s: %s", to, strerror(errno));
    if (fd >= 0)
        close(fd);
    return e == ERR_OK ? file_sync_dir(to, why) : e;
}

/* The new file until it is whole: never one that is there. */
static enum err claim(const char *part, int *ret_fd, struct err_msg *why)
{
    *ret_fd = open(part, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (*ret_fd >= 0)
        return ERR_OK;
    if (errno == EEXIST)
        return err_set(
            why, ERR_CONFLICT,
            "salvage: %s exists: of a salvage that was interrupted, maybe: remove it, or "
            "give another name",
            part);
    return err_set(why, ERR_IO, "salvage: cannot create %s: %s", part, strerror(errno));
}

/* A broker that still writes to it would make a mixture. */
static enum err lock(const char *from, int *ret_fd, struct err_msg *why)
{
    char path[4096];
    snprintf(path, sizeof path, "%s.lock", from);
    int fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) != 0) {
        close(fd);
        return err_set(why, ERR_CONFLICT, "salvage %s: a broker is using it: stop it first", from);
    }
    *ret_fd = fd; /* none: no broker ever had it here, as with a copy */
    return ERR_OK;
}

static enum err copy_rows(struct salvage *x, const char *part, struct err_msg *why)
{
    enum err e = prepare(x, part, why);
    if (e == ERR_OK)
        e = pages_scan(x->pages, true, on_row, x, why);
    x->report.pages = pages_count(x->pages);
    x->report.unreadable_rows += pages_unreadable(x->pages);
    uint64_t unreadable = x->report.unreadable_rows; /* what others hide is no loss */
    if (e == ERR_OK)
        e = pages_scan(x->pages, false, on_row, x, why);
    x->report.unreadable_rows = unreadable;
    if (e == ERR_OK && !x->found)
        e = err_set(why, ERR_FORMAT,
                    "salvage %s: nothing of a ledger was found in %" PRIu64 " pages", x->from,
                    x->report.pages);
    if (e == ERR_OK)
        e = salvage_repair(x, why);
    if (e == ERR_OK)
        e = salvage_identity(x, why);
    if (e == ERR_OK)
        e = salvage_run(x, "COMMIT", why);
    return e;
}

enum err salvage_ledger(const char *from, const char *to, struct salvage_report *ret,
                        struct err_msg *why)
{
    struct salvage x = {.from = from};
    char part[4096], extra[4200];
    int fd = -1, part_fd = -1;
    if ((size_t)snprintf(part, sizeof part, "%s.part", to) >= sizeof part)
        return err_set(why, ERR_RANGE, "salvage: the path is too long");
    snprintf(extra, sizeof extra, "%s-wal", to);
    if (access(to, F_OK) == 0 || access(extra, F_OK) == 0)
        return err_set(why, ERR_CONFLICT,
                       "salvage: %s exists: give the name of a file that does not", to);
    enum err e = lock(from, &fd, why);
    if (e == ERR_OK)
        e = pages_open(from, &x.pages, why);
    if (e == ERR_OK)
        e = claim(part, &part_fd, why);
    if (e == ERR_OK)
        e = copy_rows(&x, part, why);
    close_db(&x);
    pages_close(&x.pages);
    if (e == ERR_OK)
        e = publish(part, to, why);
    static const char *const all[] = {"", "-wal", "-shm", "-journal", ".lock"};
    for (size_t i = 0; i < ARRAY_LEN(all) && part_fd >= 0; i++) {
        snprintf(extra, sizeof extra, "%s%s", part, all[i]);
        unlink(extra);
    }
    if (part_fd >= 0)
        close(part_fd);
    if (fd >= 0)
        close(fd);
    if (e == ERR_OK)
        *ret = x.report;
    return e;
}
