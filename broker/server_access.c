/* Who may do what, with keys (CURVE): which keys get in, which role a message needs, and whose
 * batch is whose. Without keys everybody who can connect may do everything. */
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "broker/allow.h"
#include "broker/server_internal.h"
#include "proto/roles.h"
#include "proto/schema.h"

enum err access_open(struct server *s, struct proto_curve *ret, struct err_msg *why)
{
    const struct server_options *o = &s->o;
    if (o->curve_key == NULL && o->allow == NULL)
        return ERR_OK;
    if (o->curve_key == NULL || o->allow == NULL)
        return err_set(
            why, ERR_USAGE,
            "%s is missing: with keys a broker needs its own, and the list of those that "
            "it lets in (docs/security.md)",
            o->curve_key == NULL ? "--curve-key FILE" : "--allow FILE");
    enum err e = proto_curve_read(o->curve_key, ret, why);
    if (e == ERR_OK)
        e = allow_read(o->allow, &s->allow, why);
    return e;
}

void access_close(struct server *s)
{
    s->who = NULL;
    allow_destroy(&s->allow);
}

bool access_may_connect(void *user, const char *key)
{
    const struct server *s = user;
    return allow_find(s->allow, key) != NULL;
}

/* Workers whose keys may not work any more: what they hold goes to others, and costs nothing. They
 * say HELLO, and hear why they are refused. */
static void end_sessions(struct server *s)
{
    struct msg m = {.type = MSG_TYPE_RECONNECT};
    m.reconnect.reason = STR_LIT("the key's role work was taken back");
    for (struct session *w = s->sessions, *next; w != NULL; w = next) {
        const struct allow_entry *entry = allow_find(s->allow, w->key);
        next = w->next;
        if (w->state == SESSION_LOST || (entry != NULL && (entry->roles & PROTO_ROLE_WORK) != 0))
            continue;
        worker_withdraw_grant(s, w, "grant not sent");
        size_t jobs = jobs_release_owner(s->jobs, w->number, false, "its key may not work");
        log_warn("worker's key may not work any more, its jobs go to others worker=%s key=%s "
                 "jobs=%zu",
                 w->worker, w->owner, jobs);
        server_event(s, EVENT_WORKER_LEFT, w->worker,
                     "the key of %s may not work any more, %zu jobs go to others", w->owner, jobs);
        server_send(s, &w->peer, &m);
        worker_end_session(s, w);
    }
    worker_feed(s);
}

void server_reload(struct server *s)
{
    struct allow *fresh = NULL;
    struct err_msg why;
    models_reload(s);
    if (s->o.allow == NULL) {
        if (s->o.models == NULL)
            log_info("nothing to read again, there is no list of keys");
        return;
    }
    if (allow_read(s->o.allow, &fresh, &why) != ERR_OK) {
        log_error("the list of keys stays as it was error=\"%s\"", why.text);
        return;
    }
    access_close(s);
    s->allow = fresh;
    log_info("list of keys read again file=%s keys=%zu", s->o.allow, allow_count(fresh));
    s->now_ns = clock_mono_ns();
    end_sessions(s);
    proto_socket_check_keys(s->socket);
}

/* ---- messages ---- */

static void forbid(struct server *s, const struct proto_peer *from, const struct msg *m,
                   const char *text)
{
    /* of clients' messages it is the first field */
    uint64_t seq = m->type > MSG_TYPE_RECONNECT ? m->batch_new.seq : 0;
    log_warn("a message is refused key=%s type=%s reason=\"%s\"", s->who->name,
             proto_type_name(m->type), text);
    server_error(s, from, seq, "forbidden", text, 0);
    proto_socket_blame(s->socket);
}

void access_refuse_batch(struct server *s, const struct proto_peer *to, uint64_t seq,
                         struct str batch, const char *name)
{
    char text[PROTO_MAX_ID_BYTES + 150];
    snprintf(text, sizeof text, "batch %.*s is not %s's: that needs the role admin", STR_ARG(batch),
             name);
    log_warn("a message is refused key=%s reason=\"%s\"", name, text);
    server_error(s, to, seq, "forbidden", text, 0);
}

/* The batch that a client's message is about; empty: none, or all. */
static struct str batch_of(const struct msg *m)
{
    const struct proto_schema *schema = proto_message_schema(m->type);
    const struct proto_field *f = proto_schema_field(schema, "batch", 5);
    struct str none = {0};
    if (f == NULL)
        return none;
    return *(const struct str *)(const void *)((const char *)&m->hello + f->offset);
}

/* What is not there may become somebody else's before the ledger looks. */
static bool batch_is_open(struct server *s, const struct proto_peer *from, const struct msg *m)
{
    char text[PROTO_MAX_ID_BYTES + 100];
    struct str name = batch_of(m);
    if (name.len == 0 || access_owner(s) == NULL)
        return true;
    const struct batch *b = jobs_find_batch(s->jobs, name);
    if (b == NULL && m->type == MSG_TYPE_BATCH_NEW)
        return true;
    if (b == NULL) {
        snprintf(text, sizeof text, "no batch \"%.*s\" here", STR_ARG(name));
        server_error(s, from, m->batch_new.seq, "not_found", text, 0);
        return false;
    }
    if (access_sees(s, b))
        return true;
    access_refuse_batch(s, from, m->batch_new.seq, name, s->who->name);
    proto_socket_blame(s->socket);
    return false;
}

bool access_allows(struct server *s, const struct proto_peer *from, const struct msg *m)
{
    const char *key = proto_socket_key(s->socket);
    s->who = NULL;
    if (s->allow == NULL)
        return true;
    s->who = key == NULL ? NULL : allow_find(s->allow, key);
    if (s->who == NULL) { /* it was on the list when it connected */
        proto_socket_check_keys(s->socket);
        return false;
    }
    enum proto_role needed = proto_message_role(m->type);
    if (needed == PROTO_ROLE_BROKER) /* whoever gets it says what is wrong with it */
        return true;
    if (!proto_roles_allow(s->who->roles, m->type)) {
        char text[200];
        snprintf(text, sizeof text, "%s needs the role %s, which the key of %s does not have",
                 proto_type_name(m->type), proto_role_name(needed), s->who->name);
        forbid(s, from, m, text);
        return false;
    }
    return needed == PROTO_ROLE_WORK || batch_is_open(s, from, m);
}

bool access_sees(const struct server *s, const struct batch *b)
{
    const char *owner = access_owner(s);
    return owner == NULL || strcmp(b->client, owner) == 0;
}

const char *access_owner(const struct server *s)
{
    return s->who == NULL || (s->who->roles & PROTO_ROLE_ADMIN) != 0 ? NULL : s->who->name;
}

const char *access_name(const struct server *s)
{
    return s->who == NULL ? "" : s->who->name;
}

bool access_may_be_worker(struct server *s, const struct proto_peer *from,
                          const struct msg_hello *h)
{
    for (const struct session *w = s->sessions; w != NULL && s->who != NULL; w = w->next) {
        if (w->state == SESSION_LOST || !str_eq(str_of(w->worker), h->worker) ||
            strcmp(w->owner, s->who->name) == 0)
            continue;
        char text[PROTO_MAX_ID_BYTES + 100];
        snprintf(text, sizeof text,
                 "worker %s is connected with another's key: give each its own name with --name",
                 w->worker);
        server_error(s, from, 0, "conflict", text, 0);
        return false;
    }
    return true;
}
