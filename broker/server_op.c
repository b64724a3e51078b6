/* The way into the ledger and out of it: operations, what is on its way there, and whether the
 * store works. */
#include <stdlib.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/size.h"
#include "broker/server_internal.h"

enum { STORAGE_RETRY_MS = 1000 };

static struct pending **find_pending(struct server *s, const struct proto_peer *peer)
{
    struct pending **at = &s->pendings;
    while (*at != NULL &&
           ((*at)->peer.len != peer->len || memcmp((*at)->peer.id, peer->id, peer->len) != 0))
        at = &(*at)->next;
    return at;
}

struct server_op *server_op_new(struct server *s, const struct proto_peer *peer,
                                enum ledger_kind kind, void (*done)(struct ledger_op *op))
{
    struct server_op *op = calloc(1, sizeof *op);
    if (op == NULL)
        return NULL;
    op->s = s;
    op->op.kind = kind;
    op->op.done = done;
    op->op.now_ms = clock_wall_ms();
    if (peer != NULL)
        op->peer = *peer;
    return op;
}

bool server_has_room(const struct server *s, const struct proto_peer *from, enum side side)
{
    if (s->pending_bytes[side] > MAX_PENDING_BYTES)
        return false;
    for (const struct pending *p = s->pendings; p != NULL; p = p->next) {
        if (p->peer.len == from->len && memcmp(p->peer.id, from->id, from->len) == 0)
            return p->count < MAX_PEER_PENDING && p->bytes < MAX_PEER_PENDING_BYTES;
    }
    return true;
}

/* ---- turns: a client with much to ask does not hold up the others ---- */

static bool has_turn(const struct pending *p, const struct ledger_op *op)
{
    return p->rows == 0 || p->rows + ledger_op_rows(op) <= MAX_PEER_ROWS;
}

static void hand_in(struct server_op *op, struct pending *p)
{
    struct server *s = op->s;
    server_submit_returned(s); /* the ledger hears of things in their order */
    if (p != NULL && op->side == SIDE_CLIENTS) {
        op->rows = ledger_op_rows(&op->op);
        p->rows += op->rows;
    }
    ledger_submit(s->ledger, &op->op);
}

static void wait_for_turn(struct server_op *op, struct pending *p)
{
    if (p->waiting == NULL)
        p->waiting_end = &p->waiting;
    op->op.next = NULL;
    *p->waiting_end = &op->op;
    p->waiting_end = &op->op.next;
}

/* Room has come up. */
static void go_on(struct pending *p)
{
    while (p->waiting != NULL && has_turn(p, p->waiting)) {
        struct server_op *op = (struct server_op *)p->waiting;
        p->waiting = op->op.next;
        hand_in(op, p);
    }
}

void server_op_submit(struct server_op *op, size_t bytes)
{
    struct server *s = op->s;
    struct pending *p = NULL;
    op->bytes = max_u64(bytes, op->op.arena.total_bytes) + sizeof *op;
    s->pending_bytes[op->side] += op->bytes;
    if (op->counted) {
        struct pending **at = find_pending(s, &op->peer);
        if (*at == NULL && (*at = calloc(1, sizeof **at)) != NULL)
            (*at)->peer = op->peer;
        p = *at;
        op->counted = p != NULL; /* it is not taken off either */
        if (p != NULL) {
            p->count++;
            p->bytes += op->bytes;
        }
    }
    if (p != NULL && op->side == SIDE_CLIENTS && (p->waiting != NULL || !has_turn(p, &op->op)))
        wait_for_turn(op, p);
    else
        hand_in(op, p);
}

/* ---- notes of leases that ended ---- */

static void returned_done(struct ledger_op *op)
{
    server_op_free((struct server_op *)op);
}

/* A worker's jobs come back for one reason. False: out of memory. */
static bool add_returned(struct server_op *op, struct ledger_returned r)
{
    struct ledger_op *o = &op->op;
    const struct ledger_returned *last =
        o->returned.count > 0 ? &o->returned.items[o->returned.count - 1] : NULL;
    if (last != NULL && str_eq(last->reason, r.reason))
        r.reason = last->reason;
    else if (!server_copy(&o->arena, &r.reason))
        return false;
    o->returned.items[o->returned.count++] = r;
    return true;
}

static struct server_op *new_returned(struct server *s)
{
    struct server_op *op = server_op_new(s, NULL, LEDGER_RETURN, returned_done);
    if (op == NULL)
        return NULL;
    op->op.returned.items = arena_alloc(&op->op.arena, MAX_RETURNED, sizeof *op->op.returned.items);
    if (op->op.returned.items != NULL)
        return op;
    server_op_free(op);
    return NULL;
}

void server_note_returned(void *user, const struct job *job, bool counted, const char *reason)
{
    struct server *s = user;
    bool poison = job->state == JOB_DOOMED;
    s->watch.leases_lost += counted;
    if (counted)
        log_warn("lease lost, %s batch=%s line=%llu attempt=%u reason=\"%s\"",
                 poison ? "giving up" : "requeueing", job->batch->name,
                 (unsigned long long)job->line, (unsigned)job->attempts, reason);
    if (s->returned == NULL)
        s->returned = new_returned(s);
    struct ledger_returned r = {.job = job->id,
                                .epoch = job->epoch,
                                .attempts = job->attempts,
                                .counted = counted,
                                .reason = str_of(reason)};
    if (s->returned == NULL || !add_returned(s->returned, r))
        return; /* the note only matters after a restart */
    if (s->returned->op.returned.count == MAX_RETURNED || s->closing)
        server_submit_returned(s);
}

void server_submit_returned(struct server *s)
{
    struct server_op *op = s->returned;
    s->returned = NULL;
    if (op != NULL)
        server_op_submit(op, op->op.arena.total_bytes);
}

/* ---- done ---- */

static bool is_storage_error(enum err e)
{
    return e == ERR_IO || e == ERR_FULL || e == ERR_FORMAT || e == ERR_NOMEM;
}

void server_storage_failed(struct server *s, const char *why)
{
    if (s->storage_bad_ns == 0) {
        log_error("%s: nothing is acknowledged or granted until it works again", why);
        server_event(s, EVENT_STORAGE_FAILED, "", "%s", why);
    }
    s->storage_bad_ns = s->now_ns;
    err_set(&s->storage_why, ERR_OK, "%s", why);
}

void server_op_free(struct server_op *op)
{
    struct server *s = op->s;
    quota_release(op);
    if (op->bytes > 0) {
        s->pending_bytes[op->side] -= op->bytes;
        struct pending **at = op->counted ? find_pending(s, &op->peer) : NULL;
        if (at != NULL && *at != NULL) {
            (*at)->bytes -= min_u64((*at)->bytes, op->bytes);
            (*at)->rows -= min_u64((*at)->rows, op->rows);
            go_on(*at);
            if (--(*at)->count == 0) {
                struct pending *gone = *at;
                *at = gone->next;
                free(gone);
            }
        }
        /* a result that cannot be read, or that cannot leave, says nothing about whether others can
         * be stored */
        if (is_storage_error(op->op.err) && op->op.kind != LEDGER_FETCH &&
            op->op.kind != LEDGER_FORGET) {
            server_storage_failed(s, op->op.why.text);
        } else if (s->storage_bad_ns != 0 && op->op.err == ERR_OK && op->op.kind != LEDGER_FETCH &&
                   op->op.kind != LEDGER_GRANT && op->op.kind != LEDGER_RETURN &&
                   op->op.kind != LEDGER_FORGET && op->op.kind != LEDGER_NOTE_TIME &&
                   op->op.kind != LEDGER_BACKUP && op->op.kind != LEDGER_BARRIER) {
            /* Only what is synced shows it. The note of a failed grant's return may well be
             * written on a full disk: taken for a recovery, the next grant would follow at once. */
            log_info("the ledger works again");
            server_event(s, EVENT_STORAGE_RECOVERED, "", "the ledger works again");
            s->storage_bad_ns = 0;
        }
    }
    arena_free(&op->op.arena);
    free(op);
}

/* Grants pause for a while after a failure: results could not be stored. */
bool server_storage_works(const struct server *s)
{
    return s->storage_bad_ns == 0 || s->now_ns - s->storage_bad_ns > STORAGE_RETRY_MS * NS_PER_MS;
}

bool server_copy(struct arena *arena, struct str *text)
{
    const char *copy = arena_copy(arena, text->data == NULL ? "" : text->data, text->len);
    if (copy == NULL)
        return false;
    text->data = copy;
    return true;
}
