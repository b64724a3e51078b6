/* The thread and the group commit; opening is in ledger_open.c, what each operation does to the
 * tables in ledger_ops.c. See ledger.h. */
#include "broker/ledger.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/size.h"
#include "broker/ledger_sql.h"

enum {
    MAX_GROUP_ROWS = 1024,
    LOOK_ROWS = 512, /* what looks for its rows counts as so many at least */
    CHECKPOINT_BYTES = 4 << 20,
    MAX_READ_BYTES = 4 << 20, /* read for who has not looked yet, and one operation more */
};

static void *run_thread(void *arg);

static void close_parts(struct ledger *l)
{
    ledger_close_store(l);
    if (l->lock_fd >= 0)
        close(l->lock_fd);
    pthread_mutex_destroy(&l->mutex);
    pthread_cond_destroy(&l->work);
    pthread_cond_destroy(&l->polled);
    free(l->path);
    free(l);
}

enum err ledger_open(const struct ledger_options *o, struct ledger **ret, struct err_msg *why)
{
    struct ledger *l = calloc(1, sizeof *l);
    if (l == NULL)
        return err_set(why, ERR_NOMEM, "ledger %s: out of memory", o->path);
    l->lock_fd = -1;
    l->wake = o->wake;
    l->user = o->user;
    snprintf(l->sync_sql, sizeof l->sync_sql, "PRAGMA synchronous=%s",
             o->sync == NULL ? "FULL" : o->sync);
    snprintf(l->note_sql, sizeof l->note_sql, "PRAGMA synchronous=%s",
             o->sync == NULL ? "NORMAL" : o->sync);
    l->queue_end = &l->queue;
    l->finished_end = &l->finished;
    pthread_mutex_init(&l->mutex, NULL);
    pthread_cond_init(&l->work, NULL);
    pthread_cond_init(&l->polled, NULL);
    l->path = strdup(o->path);
    l->vfs = o->vfs;
    l->lock_wait_ms = o->lock_wait_ms;
    l->max_pages = o->max_pages;
    enum err e = l->path == NULL ? err_set(why, ERR_NOMEM, "ledger %s: out of memory", o->path)
                                 : ledger_lock(l, o->lock_wait_ms, why);
    if (e == ERR_OK)
        e = ledger_open_store(l, why);
    l->checkpoint_pages = o->checkpoint_pages > 0 || e != ERR_OK
                              ? o->checkpoint_pages
                              : (int)(CHECKPOINT_BYTES / l->page_bytes);
    if (e != ERR_OK) {
        close_parts(l);
        return e;
    }
    *ret = l;
    return ERR_OK;
}

const char *ledger_id(const struct ledger *l)
{
    return l->id;
}

uint32_t ledger_generation(const struct ledger *l)
{
    return l->generation;
}

uint64_t ledger_secret(const struct ledger *l)
{
    return l->secret;
}

struct keep_note ledger_time(const struct ledger *l)
{
    return l->time;
}

/* ---- the thread ---- */

static enum err set_sync(struct ledger *l, bool full, struct err_msg *why)
{
    if (l->sync_full == full)
        return ERR_OK;
    enum err e = ledger_exec(l, full ? l->sync_sql : l->note_sql, why);
    if (e == ERR_OK)
        l->sync_full = full;
    return e;
}

/* Numbers of leases count on into the next generation: it is noted, and synced, before any of them
 * is given, so that the next run begins behind it. */
static void count_generations(struct ledger *l, const struct ledger_op *op)
{
    if (op->kind != LEDGER_GRANT || op->grant.count == 0)
        return;
    uint64_t last = op->grant.items[op->grant.count - 1].epoch >> 32;
    if (last > l->generation) {
        l->generation = (uint32_t)last;
        l->generation_noted = false;
    }
}

static enum err write_group(struct ledger *l, struct ledger_op *group, struct err_msg *why)
{
    for (const struct ledger_op *op = group; op != NULL; op = op->next)
        count_generations(l, op);
    bool writes = false, syncs = !l->generation_noted;
    for (struct ledger_op *op = group; op != NULL; op = op->next) {
        writes = writes || ledger_kind_writes(op->kind);
        syncs = syncs || ledger_kind_syncs(op->kind);
    }
    if (!writes)
        return ERR_OK;
    uint64_t begin_ns = clock_mono_ns();
    enum err e = set_sync(l, syncs, why);
    if (e == ERR_OK)
        e = ledger_exec(l, "BEGIN IMMEDIATE", why);
    if (e == ERR_OK && !l->generation_noted)
        e = ledger_note_generation(l, why);
    for (struct ledger_op *op = group; op != NULL && e == ERR_OK; op = op->next) {
        if (ledger_kind_writes(op->kind))
            e = ledger_run_write(l, op, why);
    }
    if (e == ERR_OK)
        e = ledger_exec(l, "COMMIT", why);
    if (e != ERR_OK)
        memset(l->seqs, 0, sizeof l->seqs);
    if (e != ERR_OK && sqlite3_get_autocommit(l->db) == 0 &&
        sqlite3_exec(l->db, "ROLLBACK", NULL, NULL, NULL) != SQLITE_OK)
        l->distrusted = true; /* out of memory: closing rolls back */
    if (e == ERR_FORMAT)
        sqlite3_db_release_memory(l->db); /* the next group reads anew what was wrong */
    l->generation_noted = l->generation_noted || e == ERR_OK;
    if (e == ERR_OK && syncs) {
        pthread_mutex_lock(&l->mutex);
        histogram_add(&l->commits, clock_mono_ns() - begin_ns);
        pthread_mutex_unlock(&l->mutex);
    }
    return e;
}

/* Under the mutex. */
static void hand_over(struct ledger *l, struct ledger_op *ops)
{
    *l->finished_end = ops;
    while (*l->finished_end != NULL)
        l->finished_end = &(*l->finished_end)->next;
    if (l->wake != NULL)
        l->wake(l->user);
}

/* Hands a list of finished operations over to the loop's thread. */
static void publish(struct ledger *l, struct ledger_op *ops)
{
    if (ops == NULL)
        return;
    pthread_mutex_lock(&l->mutex);
    hand_over(l, ops);
    pthread_mutex_unlock(&l->mutex);
}

/* Each read at once, and no further one while too much of them lies there: a result may have as
 * much as a message may, and many may be asked for. */
static void publish_read(struct ledger *l, struct ledger_op *op)
{
    op->next = NULL;
    pthread_mutex_lock(&l->mutex);
    l->read_bytes += op->arena.total_bytes;
    hand_over(l, op);
    while (l->read_bytes > MAX_READ_BYTES && !l->stopping)
        pthread_cond_wait(&l->polled, &l->mutex);
    pthread_mutex_unlock(&l->mutex);
}

static bool reads(enum ledger_kind kind)
{
    return kind == LEDGER_GRANT || kind == LEDGER_FETCH;
}

/* The connection is made anew, which a backup that reads through it does not survive. */
static enum err mend(struct ledger *l, struct err_msg *why)
{
    publish(l, ledger_backup_cancel(l, "the ledger had to be opened anew"));
    return ledger_mend(l, why);
}

/* Who waits for a commit hears of it at once; then the group's reads; then, if it is time, the
 * checkpoint: it is passive and alone on the file, so it copies all of the WAL, and the next commit
 * starts it anew. */
static void run_group(struct ledger *l, struct ledger_op *group)
{
    struct err_msg why = {{0}}, broken = {{0}};
    enum err e = l->distrusted ? mend(l, &why) : ERR_OK, mended = ERR_OK;
    if (e == ERR_OK) {
        do
            e = write_group(l, group, &why);
        while (e == ERR_FORMAT && ledger_forget_again(group, &why));
        if (l->distrusted)
            mended = mend(l, &broken);
    }
    bool usable = l->db != NULL && sqlite3_get_autocommit(l->db) != 0;
    struct ledger_op *written = NULL, *to_read = NULL;
    struct ledger_op **written_end = &written, **to_read_end = &to_read;
    for (struct ledger_op *op = group, *next; op != NULL; op = next) {
        next = op->next;
        op->next = NULL;
        /* a barrier must not say that what stood before it is stored */
        if (e != ERR_OK && (ledger_kind_writes(op->kind) || op->kind == LEDGER_BARRIER)) {
            op->err = e;
            op->why = why;
        } else if (!usable) {
            op->err = mended != ERR_OK ? mended : e;
            op->why = mended != ERR_OK ? broken : why;
        }
        if (op->kind == LEDGER_BACKUP && op->err == ERR_OK && ledger_backup_begin(l, op))
            continue;
        struct ledger_op ***end = reads(op->kind) ? &to_read_end : &written_end;
        **end = op;
        *end = &op->next;
    }
    publish(l, written);
    for (struct ledger_op *op = to_read, *next; op != NULL; op = next) {
        next = op->next;
        if (op->err == ERR_OK)
            op->err = ledger_run_read(l, op, &op->why);
        publish_read(l, op);
    }
    if (l->wal_pages >= l->checkpoint_pages && l->db != NULL)
        (void)ledger_checkpoint(l);
}

size_t ledger_op_rows(const struct ledger_op *op)
{
    switch (op->kind) {
    case LEDGER_SUBMIT:
        return op->submit.count;
    case LEDGER_RESULTS:
        return op->results.count;
    case LEDGER_GRANT:
        return op->grant.count;
    case LEDGER_RETURN:
        return op->returned.count;
    case LEDGER_FETCH:
        return max_u64(op->fetch.max, LOOK_ROWS);
    case LEDGER_CANCEL:
        return op->cancel.count > 0 ? op->cancel.count : max_u64(op->cancel.max, LOOK_ROWS);
    case LEDGER_SEAL:
        return LOOK_ROWS;
    default:
        return 1;
    }
}

/* Takes the next group off the queue: as much as is worth a sync, and no more than what can be
 * waited for. What leaves the ledger is a group of its own. */
static struct ledger_op *take_group(struct ledger *l)
{
    struct ledger_op *group = l->queue, **end = &l->queue;
    for (size_t rows = 0; *end != NULL && rows < MAX_GROUP_ROWS; end = &(*end)->next) {
        if (end != &l->queue && ((*end)->kind == LEDGER_FORGET || group->kind == LEDGER_FORGET))
            break;
        rows += ledger_op_rows(*end);
    }
    l->queue = *end;
    if (l->queue == NULL)
        l->queue_end = &l->queue;
    *end = NULL;
    return group;
}

static void *run_thread(void *arg)
{
    struct ledger *l = arg;
    pthread_mutex_lock(&l->mutex);
    for (;;) {
        while (l->queue == NULL && l->copy.op == NULL && !l->stopping)
            pthread_cond_wait(&l->work, &l->mutex);
        if (l->queue == NULL && l->stopping)
            break;
        struct ledger_op *group = take_group(l);
        pthread_mutex_unlock(&l->mutex);
        if (group != NULL)
            run_group(l, group);
        if (l->copy.op != NULL)
            publish(l, ledger_backup_step(l));
        pthread_mutex_lock(&l->mutex);
    }
    pthread_mutex_unlock(&l->mutex);
    publish(l, ledger_backup_cancel(l, "the broker stops"));
    return NULL;
}

void ledger_submit(struct ledger *l, struct ledger_op *op)
{
    op->next = NULL;
    op->err = ERR_OK;
    pthread_mutex_lock(&l->mutex);
    *l->queue_end = op;
    l->queue_end = &op->next;
    if (!l->thread_started) {
        int rc = pthread_create(&l->thread, NULL, run_thread, l);
        if (rc == 0) {
            l->thread_started = true;
        } else { /* no thread: everything fails, which the clients and workers are told */
            op->err = ERR_IO;
            err_set(&op->why, ERR_IO, "ledger %s: cannot start its thread: %s", l->path,
                    strerror(rc));
            l->queue = NULL;
            l->queue_end = &l->queue;
            *l->finished_end = op;
            l->finished_end = &op->next;
            if (l->wake != NULL)
                l->wake(l->user);
        }
    }
    pthread_cond_signal(&l->work);
    pthread_mutex_unlock(&l->mutex);
}

void ledger_poll(struct ledger *l)
{
    pthread_mutex_lock(&l->mutex);
    struct ledger_op *op = l->finished;
    l->finished = NULL;
    l->finished_end = &l->finished;
    l->read_bytes = 0;
    pthread_cond_signal(&l->polled);
    pthread_mutex_unlock(&l->mutex);
    while (op != NULL) {
        struct ledger_op *next = op->next;
        op->done(op);
        op = next;
    }
}

struct histogram ledger_commit_times(struct ledger *l)
{
    pthread_mutex_lock(&l->mutex);
    struct histogram times = l->commits;
    pthread_mutex_unlock(&l->mutex);
    return times;
}

void ledger_close(struct ledger **ledger)
{
    struct ledger *l = *ledger;
    if (l == NULL)
        return;
    if (l->thread_started) {
        pthread_mutex_lock(&l->mutex);
        l->stopping = true;
        pthread_cond_signal(&l->work);
        pthread_cond_signal(&l->polled);
        pthread_mutex_unlock(&l->mutex);
        pthread_join(l->thread, NULL);
    }
    ledger_poll(l);
    while (l->queue != NULL) { /* what those calls left behind */
        run_group(l, take_group(l));
        publish(l, ledger_backup_cancel(l, "the broker stops"));
        ledger_poll(l);
    }
    *ledger = NULL;
    close_parts(l);
}
