/* The session's states and what it does with each message; session.h has the picture. */
#include "worker/session.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/size.h"
#include "base/utf8.h"
#include "worker/session_impl.h"

static const uint64_t hello_first_ns = NS_PER_S;
static const uint64_t settle_ns = NS_PER_S;
static const uint64_t bye_every_ns = NS_PER_S;
static const uint64_t leave_most_ns = 5 * NS_PER_S;
enum { JOB_TOKENS_GUESS = 256, SILENT_BEATS = 3 };

enum err session_create(const struct session_config *c, const struct session_events *events,
                        struct session **ret)
{
    struct session *s = calloc(1, sizeof *s);
    if (s == NULL)
        return ERR_NOMEM;
    s->config = *c;
    s->events = *events;
    s->job_tokens = JOB_TOKENS_GUESS;
    s->hello_wait_ns = hello_first_ns;
    s->target = c->max_jobs + (c->max_jobs + 3) / 4;
    s->limit = (uint32_t)min_u64(PROTO_MAX_LIST, 4 * (uint64_t)s->target + 64);
    s->leases = calloc(s->limit, sizeof *s->leases);
    s->nacks = calloc(s->limit, sizeof *s->nacks);
    s->refs = calloc(s->limit, sizeof *s->refs);
    s->beats = calloc(s->limit, sizeof *s->beats);
    s->results = calloc(s->limit, sizeof *s->results);
    s->nack_jobs = calloc(s->limit, sizeof *s->nack_jobs);
    if (s->leases == NULL || s->nacks == NULL || s->refs == NULL || s->beats == NULL ||
        s->results == NULL || s->nack_jobs == NULL) {
        session_destroy(&s);
        return ERR_NOMEM;
    }
    *ret = s;
    return ERR_OK;
}

void session_destroy(struct session **s)
{
    if (s == NULL || *s == NULL)
        return;
    for (uint32_t i = 0; i < (*s)->leases_count; i++) {
        buf_free(&(*s)->leases[i].checkpoint);
        buf_free(&(*s)->leases[i].body);
    }
    for (uint32_t i = 0; i < (*s)->nacks_count; i++)
        buf_free(&(*s)->nacks[i].checkpoint);
    free((*s)->leases);
    free((*s)->nacks);
    free((*s)->refs);
    free((*s)->beats);
    free((*s)->results);
    free((*s)->nack_jobs);
    free(*s);
    *s = NULL;
}

static struct lease *find_serial(struct session *s, uint64_t serial)
{
    for (uint32_t i = 0; i < s->leases_count; i++) {
        if (s->leases[i].serial == serial)
            return &s->leases[i];
    }
    return NULL;
}

static struct lease *find_job(struct session *s, uint64_t job)
{
    for (uint32_t i = 0; i < s->leases_count; i++) {
        if (s->leases[i].job == job)
            return &s->leases[i];
    }
    return NULL;
}

static void forget(struct session *s, struct lease *l)
{
    buf_free(&l->checkpoint);
    buf_free(&l->body);
    if (l->state == LEASE_RUNNING)
        s->running--;
    *l = s->leases[--s->leases_count];
}

static void add_nack(struct session *s, uint64_t job, uint64_t epoch, bool counts,
                     const char *reason, struct buf *checkpoint)
{
    if (s->nacks_count == s->limit)
        return; /* the lease expires by itself: no BEAT names it */
    struct pending_nack *n = &s->nacks[s->nacks_count++];
    *n = (struct pending_nack){.job = job, .epoch = epoch, .counts = counts};
    snprintf(n->reason, sizeof n->reason, "%s", reason);
    n->reason[utf8_valid_prefix(n->reason, strlen(n->reason))] = '\0';
    if (checkpoint != NULL) {
        n->checkpoint = *checkpoint;
        *checkpoint = (struct buf){0};
    }
}

/* The lease is somebody else's or nobody's now. */
static void lose(struct session *s, const struct rec_JOB_REF *ref)
{
    struct lease *l = find_job(s, ref->job);
    if (l == NULL || l->epoch != ref->epoch)
        return;
    uint64_t serial = l->serial;
    bool runs = l->state == LEASE_RUNNING;
    forget(s, l);
    if (runs)
        s->events.on_cancel(s->events.user, serial);
}

static void grant_one(struct session *s, const struct rec_GRANT_JOB *g)
{
    s->granted++;
    struct lease *l = find_job(s, g->job);
    if (l != NULL) {
        /* The same grant twice, or the job comes back under a new lease: its bytes would be the
         * same. */
        if (g->epoch > l->epoch) {
            l->epoch = g->epoch;
            l->sent = false;
        }
        return;
    }
    if (s->draining || s->leases_count == s->limit) {
        add_nack(s, g->job, g->epoch, false, s->draining ? "draining" : "no room", NULL);
        return;
    }
    s->leases[s->leases_count++] = (struct lease){
        .serial = ++s->serials, .job = g->job, .epoch = g->epoch, .state = LEASE_RUNNING};
    s->running++;
    s->events.on_job(s->events.user, s->serials, g);
}

static void reconnect(struct session *s, uint64_t now_ns)
{
    s->state = SESSION_CONNECTING;
    s->hello_wait_ns = hello_first_ns;
    s->hello_ns = now_ns;
}

static void on_welcome(struct session *s, const struct msg_welcome *w, uint64_t now_ns)
{
    if (s->state == SESSION_LEAVING || s->state == SESSION_GONE)
        return;
    for (size_t i = 0; i < w->lost.count; i++)
        lose(s, &w->lost.items[i]);
    s->state = SESSION_READY;
    s->session = w->session;
    s->heartbeat_ns = max_u64(w->heartbeat_ms, 1) * NS_PER_MS;
    s->welcome_ns = now_ns;
    s->beat_ns = now_ns + s->heartbeat_ns;
    s->granted = 0;
    s->credit_sent = 0;
    s->hello_wait_ns = hello_first_ns;
    for (uint32_t i = 0; i < s->leases_count; i++)
        s->leases[i].sent = false;
}

static void on_reconnect(struct session *s, uint64_t now_ns)
{
    if (s->state == SESSION_LEAVING) {
        s->state = SESSION_GONE; /* nothing is held: nothing to say */
        return;
    }
    if (s->state != SESSION_READY)
        return;
    /* Just welcomed: it answers something older. If not, the next BEAT brings another one. */
    if (now_ns - s->welcome_ns < settle_ns)
        s->beat_ns = min_u64(s->beat_ns, s->welcome_ns + settle_ns);
    else
        reconnect(s, now_ns);
}

static void on_beat_ok(struct session *s, const struct msg_beat_ok *b)
{
    if (b->session != s->session)
        return;
    for (size_t i = 0; i < b->cancel.count; i++)
        lose(s, &b->cancel.items[i]);
    if (b->drain && !s->draining) {
        session_drain(s);
        s->events.on_drain(s->events.user);
    }
}

static void on_acks(struct session *s, const struct msg_acks *a)
{
    for (size_t i = 0; i < a->acks.count; i++) {
        struct lease *l = find_job(s, a->acks.items[i].job);
        if (l == NULL || l->epoch != a->acks.items[i].epoch || l->state != LEASE_DONE)
            continue;
        forget(s, l);
        s->finished++;
    }
}

void session_receive(struct session *s, const struct msg *m, uint64_t now_ns)
{
    s->heard_ns = now_ns;
    switch (m->type) {
    case MSG_TYPE_WELCOME:
        on_welcome(s, &m->welcome, now_ns);
        break;
    case MSG_TYPE_GRANT:
        /* A grant of an older session: the broker has taken those leases back. */
        for (size_t i = 0;
             s->state == SESSION_READY && m->grant.session == s->session && i < m->grant.jobs.count;
             i++)
            grant_one(s, &m->grant.jobs.items[i]);
        break;
    case MSG_TYPE_ACKS:
        on_acks(s, &m->acks);
        break;
    case MSG_TYPE_BEAT_OK:
        on_beat_ok(s, &m->beat_ok);
        break;
    case MSG_TYPE_RECONNECT:
        on_reconnect(s, now_ns);
        break;
    case MSG_TYPE_BYE_OK:
        if (s->state == SESSION_LEAVING && m->bye_ok.session == s->session)
            s->state = SESSION_GONE;
        break;
    case MSG_TYPE_ERROR:
        s->events.on_error(s->events.user, m->error.code, m->error.text);
        break;
    default:
        break; /* a client's message: not ours to answer */
    }
}

static void tick_leaving(struct session *s, uint64_t now_ns)
{
    if (now_ns - s->left_ns >= leave_most_ns) {
        s->state = SESSION_GONE;
    } else if (now_ns >= s->bye_ns) {
        send_bye(s);
        s->bye_ns = now_ns + bye_every_ns;
    }
}

void session_tick(struct session *s, uint64_t now_ns)
{
    if (s->state == SESSION_READY && now_ns - s->heard_ns > SILENT_BEATS * s->heartbeat_ns)
        reconnect(s, now_ns);
    if (s->state == SESSION_CONNECTING && s->draining && s->leases_count + s->nacks_count == 0)
        s->state = SESSION_GONE; /* nobody to say goodbye to, nothing to say */
    if (s->state == SESSION_CONNECTING && now_ns >= s->hello_ns)
        send_hello(s, now_ns);
    if (s->state == SESSION_READY) {
        send_nacks(s);
        send_results(s, now_ns);
        if (now_ns >= s->beat_ns)
            send_beat(s, now_ns);
        send_pull(s);
        if (s->draining && s->leases_count == 0 && s->nacks_count == 0) {
            s->state = SESSION_LEAVING;
            s->left_ns = s->bye_ns = now_ns;
        }
    }
    if (s->state == SESSION_LEAVING)
        tick_leaving(s, now_ns);
}

void session_result(struct session *s, uint64_t serial, bool failed, struct buf *body,
                    uint64_t prompt_tokens, uint64_t completion_tokens)
{
    struct lease *l = find_serial(s, serial);
    if (l == NULL || l->state != LEASE_RUNNING)
        return;
    l->state = LEASE_DONE;
    l->failed = failed;
    l->body = *body;
    *body = (struct buf){0};
    l->prompt_tokens = prompt_tokens;
    l->completion_tokens = completion_tokens;
    l->sent = false;
    buf_free(&l->checkpoint);
    s->running--;
    if (!failed)
        s->job_tokens += ((double)(prompt_tokens + completion_tokens) - s->job_tokens) / 32;
}

void session_nack(struct session *s, uint64_t serial, bool counts, const char *reason,
                  struct buf *checkpoint)
{
    struct lease *l = find_serial(s, serial);
    if (l == NULL || l->state != LEASE_RUNNING)
        return;
    add_nack(s, l->job, l->epoch, counts, reason, checkpoint);
    forget(s, l);
}

void session_nack_all(struct session *s, bool counts, const char *reason)
{
    for (uint32_t i = s->leases_count; i-- > 0;) {
        struct lease *l = &s->leases[i];
        if (l->state != LEASE_RUNNING)
            continue;
        add_nack(s, l->job, l->epoch, counts, reason, NULL);
        forget(s, l);
    }
}

void session_progress(struct session *s, uint64_t serial, uint64_t completion_tokens,
                      struct buf *checkpoint)
{
    struct lease *l = find_serial(s, serial);
    if (l == NULL || l->state != LEASE_RUNNING)
        return;
    l->completion_tokens = completion_tokens;
    if (checkpoint->len == 0)
        return;
    buf_free(&l->checkpoint);
    l->checkpoint = *checkpoint;
    *checkpoint = (struct buf){0};
}

void session_headroom(struct session *s, const struct headroom *h)
{
    s->headroom = *h;
}

void session_drain(struct session *s)
{
    s->draining = true;
    s->beat_ns = 0; /* tell the broker now */
}

enum session_state session_state(const struct session *s)
{
    return s->state;
}

bool session_beat_sent(struct session *s)
{
    bool sent = s->beat_sent;
    s->beat_sent = false;
    return sent;
}

uint32_t session_running(const struct session *s)
{
    return s->running;
}

uint32_t session_held(const struct session *s)
{
    return s->leases_count;
}

uint64_t session_finished(const struct session *s)
{
    return s->finished;
}
