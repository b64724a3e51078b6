/* What becomes of the ledger in the long run: batches that are old enough leave it (--keep), and
 * backups are made of it on request (BACKUP, --backups). */
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/size.h"
#include "broker/server_internal.h"

enum { SCAN_EVERY_S = 60, NOTE_EVERY_S = 3600, MOST_RETRY_S = 3600 };

/* ---- old batches ---- */

void keep_open(struct server *s)
{
    struct keep_note noted = ledger_time(s->ledger);
    struct keep_clock *c = &s->keep.clock;
    if (s->o.keep_s > 0 &&
        keep_clock_start(c, &noted, s->keep.newest_ms, clock_wall_ms(), s->o.keep_s * 1000))
        log_warn("the clock is far ahead of the last run's: it removes batches when it has stayed "
                 "so for as long as --keep says ahead_s=%llu seen_s=%llu keep_s=%llu",
                 (unsigned long long)(c->note.ahead_ms / 1000),
                 (unsigned long long)((c->note.at_ms - c->note.from_ms) / 1000),
                 (unsigned long long)s->o.keep_s);
}

static uint64_t now_ms(struct server *s)
{
    return keep_clock_ms(&s->keep.clock, clock_wall_ms(), s->now_ns - s->started_ns);
}

static void note_done(struct ledger_op *op)
{
    server_op_free((struct server_op *)op);
}

/* For the next run. */
static void note_time(struct server *s)
{
    struct server_op *op = server_op_new(s, NULL, LEDGER_NOTE_TIME, note_done);
    uint64_t pause_s = max_u64(1, min_u64(NOTE_EVERY_S, s->o.keep_s / 8));
    s->keep.next_note_ns = s->now_ns + pause_s * NS_PER_S;
    if (op == NULL)
        return;
    (void)now_ms(s);
    op->op.note_time = s->keep.clock.note;
    server_op_submit(op, 0);
}

/* Nothing of it will ever change again. */
static bool is_over(const struct batch *b)
{
    const struct batch_counts *c = &b->counts;
    return (b->sealed || b->cancelled) && b->coming == 0 &&
           c->total == c->done + c->failed + c->cancelled;
}

static struct batch *find_old(struct server *s)
{
    uint64_t at_ms = now_ms(s);
    uint64_t keep_ms = s->o.keep_s * 1000;
    for (struct batch *b = jobs_first_batch(s->jobs); b != NULL; b = b->next) {
        uint64_t end_ms = max_u64(b->created_ms, max_u64(b->counts.last_finished_ms, b->sealed_ms));
        if (is_over(b) && at_ms > end_ms && at_ms - end_ms > keep_ms)
            return b;
    }
    return NULL;
}

static void count_gone(struct batch_counts *gone, const struct batch_counts *c)
{
    gone->total += c->total;
    gone->done += c->done;
    gone->failed += c->failed;
    gone->cancelled += c->cancelled;
    gone->prompt_tokens += c->prompt_tokens;
    gone->completion_tokens += c->completion_tokens;
    gone->energy_uj += c->energy_uj;
}

/* It has left the ledger. With submits for it on their way, which will be refused, it stays for the
 * next time; its name may be another's by then. */
static void remove_batch(struct server *s, struct batch *b)
{
    if (b->coming > 0) {
        jobs_unname_batch(s->jobs, b);
        return;
    }
    log_info("batch removed, it is older than --keep batch=%s lines=%llu", b->name,
             (unsigned long long)b->counts.total);
    server_event(s, EVENT_BATCH_REMOVED, b->name, "%llu lines, older than --keep",
                 (unsigned long long)b->counts.total);
    count_gone(&s->keep.gone, &b->counts);
    jobs_remove_batch(s->jobs, b);
}

static void retry_later(struct server *s, const char *why)
{
    uint64_t pause_s = min_u64(MOST_RETRY_S, UINT64_C(1) << min_u64(s->keep.failures++, 16));
    s->keep.retry_ns = s->now_ns + pause_s * NS_PER_S;
    log_warn("%s: old batches stay for now, trying again in_s=%llu", why,
             (unsigned long long)pause_s);
}

static void forget_done(struct ledger_op *ledger_op)
{
    struct server_op *op = (struct server_op *)ledger_op;
    struct server *s = op->s;
    struct batch *b = jobs_batch(s->jobs, ledger_op->forget.batch);
    s->keep.busy = false;
    if (ledger_op->err != ERR_OK)
        retry_later(s, ledger_op->why.text);
    if (ledger_op->err == ERR_OK && ledger_op->forget.ret_stuck != 0)
        log_error("%s: a batch that left stays in the file in part batch=%s id=%llu",
                  ledger_op->why.text, b == NULL ? "" : b->name,
                  (unsigned long long)ledger_op->forget.ret_stuck);
    if (ledger_op->err == ERR_OK) {
        s->keep.failures = 0;
        s->keep.more = ledger_op->forget.ret_more;
        if (b != NULL)
            remove_batch(s, b);
    }
    server_op_free(op);
}

/* A piece a tick: what is removed waits, not what is acknowledged. */
void keep_tick(struct server *s)
{
    if (!server_storage_works(s))
        return;
    if (s->o.keep_s > 0 && s->now_ns >= s->keep.next_note_ns)
        note_time(s);
    if (s->keep.busy || s->now_ns < s->keep.retry_ns)
        return;
    struct batch *old = NULL;
    if (!s->keep.more) {
        if (s->o.keep_s == 0 || s->now_ns < s->keep.next_scan_ns)
            return;
        old = find_old(s);
        if (old == NULL) {
            uint64_t pause_s = max_u64(1, min_u64(SCAN_EVERY_S, s->o.keep_s / 4));
            s->keep.next_scan_ns = s->now_ns + pause_s * NS_PER_S;
            return;
        }
    }
    struct server_op *op = server_op_new(s, NULL, LEDGER_FORGET, forget_done);
    if (op == NULL)
        return;
    op->op.forget.batch = old == NULL ? 0 : old->id;
    s->keep.busy = true;
    server_op_submit(op, 0);
}

/* ---- backups ---- */

static void backup_done(struct ledger_op *ledger_op)
{
    struct server_op *op = (struct server_op *)ledger_op;
    struct server *s = op->s;
    struct backup *b = &s->backup;
    b->state = ledger_op->err == ERR_OK ? BACKUP_DONE : BACKUP_FAILED;
    b->bytes = ledger_op->backup.ret_bytes;
    b->err = ledger_op->err;
    b->why = ledger_op->why;
    if (b->err == ERR_OK) {
        log_info("backup made path=%s bytes=%llu", b->path, (unsigned long long)b->bytes);
        server_event(s, EVENT_BACKUP_MADE, b->name, "%llu bytes", (unsigned long long)b->bytes);
    } else {
        log_error("backup failed path=%s error=\"%s\"", b->path, b->why.text);
        server_event(s, EVENT_BACKUP_FAILED, b->name, "%s", b->why.text);
    }
    op->op.err = ERR_OK; /* trouble with the copy is none of the ledger */
    server_op_free(op);
}

/* A plain file name: a client says what a backup is called, not where it lies. */
static bool is_file_name(struct str name)
{
    if (name.len == 0 || name.data[0] == '.')
        return false;
    for (size_t i = 0; i < name.len; i++) {
        if (name.data[i] == '/' || (unsigned char)name.data[i] < 0x20)
            return false;
    }
    return true;
}

static const char *begin(struct server *s, const struct msg_backup *m)
{
    struct backup *b = &s->backup;
    struct server_op *op = server_op_new(s, NULL, LEDGER_BACKUP, backup_done);
    int len = snprintf(b->path, sizeof b->path, "%s/%.*s", s->o.backups, STR_ARG(m->name));
    snprintf(b->name, sizeof b->name, "%.*s", STR_ARG(m->name));
    if (op == NULL || len >= (int)sizeof b->path) {
        free(op);
        return op == NULL ? "out of memory: try again later" : "the path is too long";
    }
    op->op.backup.path = (struct str){b->path, (size_t)len}; /* stays until it is done */
    b->state = BACKUP_RUNNING;
    b->token = m->token;
    b->err = ERR_OK;
    log_info("backup begins path=%s", b->path);
    server_op_submit(op, 0);
    return NULL;
}

void keep_backup(struct server *s, const struct proto_peer *from, const struct msg_backup *m)
{
    struct backup *b = &s->backup;
    if (s->o.backups == NULL) {
        server_error(s, from, m->seq, "conflict",
                     "this broker makes no backups: start it with --backups FOLDER", 0);
        return;
    }
    if (!is_file_name(m->name)) {
        server_refuse(s, from, m->seq,
                      "BACKUP: expected the name of a file in the broker's --backups folder", 0);
        return;
    }
    bool same = b->state != BACKUP_NONE && b->token == m->token;
    if (!same && b->state == BACKUP_RUNNING) {
        server_error(s, from, m->seq, "full", "another backup is being made", 0);
        return;
    }
    const char *problem = same ? NULL : begin(s, m);
    if (problem != NULL) {
        server_error(s, from, m->seq, "full", problem, 0);
        return;
    }
    if (b->state == BACKUP_FAILED) {
        server_error(s, from, m->seq, b->err == ERR_CONFLICT ? "conflict" : "storage", b->why.text,
                     0);
        return;
    }
    struct ledger_progress p = ledger_backup_progress(s->ledger);
    bool done = b->state == BACKUP_DONE;
    struct msg reply = {.type = MSG_TYPE_BACKUP_OK};
    reply.backup_ok.seq = m->seq;
    reply.backup_ok.path = str_of(b->path);
    reply.backup_ok.done = done;
    reply.backup_ok.bytes = done ? b->bytes : same ? p.bytes : 0;
    reply.backup_ok.total_bytes = done ? b->bytes : same ? p.total_bytes : 0;
    server_send(s, from, &reply);
}
