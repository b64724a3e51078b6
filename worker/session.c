/* The session's states and what it does with each message; session.h has the picture. */
#include "worker/session.h"

#include <assert.h>
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

static void free_lists(struct session *s)
{
    free(s->leases);
    free(s->nacks);
    free(s->refs);
    free(s->beats);
    free(s->results);
    free(s->nack_jobs);
}

/* For a worker of that many jobs; the old lists are not freed. ERR_NOMEM: nothing has changed. */
static enum err make_lists(struct session *s, uint32_t max_jobs)
{
    struct session n = *s;
    n.target = max_jobs + (max_jobs + 3) / 4;
    n.limit = (uint32_t)min_u64(PROTO_MAX_LIST, 4 * (uint64_t)n.target + 64);
    n.leases = calloc(n.limit, sizeof *n.leases);
    n.nacks = calloc(n.limit, sizeof *n.nacks);
    n.refs = calloc(2 * (size_t)n.limit, sizeof *n.refs);
    n.beats = calloc(n.limit, sizeof *n.beats);
    n.results = calloc(n.limit, sizeof *n.results);
    n.nack_jobs = calloc(n.limit, sizeof *n.nack_jobs);
    if (n.leases == NULL || n.nacks == NULL || n.refs == NULL || n.beats == NULL ||
        n.results == NULL || n.nack_jobs == NULL) {
        free_lists(&n);
        return ERR_NOMEM;
    }
    *s = n;
    return ERR_OK;
}

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
    enum err e = make_lists(s, c->max_jobs);
    if (e == ERR_OK)
        *ret = s;
    else
        free(s);
    return e;
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
    free_lists(*s);
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
    s->kept_bytes -= l->body.len;
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

/* Forgets NACKs: that of a lease, or (NULL) those that have arrived. */
static void drop_nacks(struct session *s, const struct rec_JOB_REF *ref)
{
    uint32_t kept = 0, kept_sent = 0;
    for (uint32_t i = 0; i < s->nacks_count; i++) {
        struct pending_nack *n = &s->nacks[i];
        bool sent = i < s->nacks_sent;
        bool gone = ref != NULL ? n->job == ref->job && n->epoch == ref->epoch
                                : sent && s->beats_answered > n->sent_beats;
        if (gone) {
            buf_free(&n->checkpoint);
            continue;
        }
        kept_sent += sent;
        s->nacks[kept++] = *n;
    }
    s->nacks_count = kept;
    s->nacks_sent = kept_sent;
}

/* The lease is somebody else's or nobody's now. */
static void lose(struct session *s, const struct rec_JOB_REF *ref)
{
    drop_nacks(s, ref);
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
    if (s->draining || s->paused || s->leases_count == s->limit) {
        const char *reason = s->draining ? "draining" : s->paused ? "loading a model" : "no room";
        add_nack(s, g->job, g->epoch, false, reason, NULL);
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

/* The numbers of jobs and leases are another ledger's: what is held has no meaning there. */
static void change_ledger(struct session *s, struct str id)
{
    while (s->leases_count > 0)
        lose(s, &(struct rec_JOB_REF){s->leases[0].job, s->leases[0].epoch});
    for (uint32_t i = 0; i < s->nacks_count; i++)
        buf_free(&s->nacks[i].checkpoint);
    s->nacks_count = s->nacks_sent = 0;
    snprintf(s->ledger, sizeof s->ledger, "%.*s", STR_ARG(id));
}

static void on_welcome(struct session *s, const struct msg_welcome *w, uint64_t now_ns)
{
    if (s->state == SESSION_LEAVING || s->state == SESSION_GONE)
        return;
    for (size_t i = 0; i < w->lost.count; i++)
        lose(s, &w->lost.items[i]);
    if (!str_eq(w->broker, str_of(s->ledger)))
        change_ledger(s, w->broker);
    s->state = SESSION_READY;
    s->session = w->session;
    s->heartbeat_ns = max_u64(w->heartbeat_ms, 1) * NS_PER_MS;
    s->welcome_ns = now_ns;
    s->beat_ns = now_ns + s->heartbeat_ns;
    s->granted = 0;
    s->credit_sent = 0;
    s->hello_wait_ns = hello_first_ns;
    s->beats_sent = s->beats_answered = s->checkpoint_beat = 0;
    for (uint32_t i = 0; i < s->leases_count; i++)
        s->leases[i].sent = false;
    s->nacks_sent = 0;
    if (s->hello_is_old)
        reconnect(s, now_ns);
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
    s->beats_answered += s->beats_answered < s->beats_sent;
    drop_nacks(s, NULL);
    for (size_t i = 0; i < b->cancel.count; i++)
        lose(s, &b->cancel.items[i]);
    if (b->drain && !s->draining) {
        session_drain(s);
        s->events.on_drain(s->events.user);
    }
    /* Between its HELLO and the WELCOME these are orders that it has carried out already. */
    if (s->events.on_models != NULL && !s->draining && s->state == SESSION_READY)
        s->events.on_models(s->events.user, b);
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
    s->hellos = 0;
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

void session_wire_moves(struct session *s, uint64_t now_ns)
{
    s->heard_ns = now_ns;
    if (s->state == SESSION_CONNECTING && s->hellos > 0) /* the WELCOME is on its way, maybe */
        s->hello_ns = max_u64(s->hello_ns, now_ns + hello_first_ns);
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

/* The regular BEAT; or one in between, as soon as the last one is answered: checkpoints wait for
 * room, or only a BEAT's answer is missing to leave or to change the model. */
static void tick_beat(struct session *s, uint64_t now_ns)
{
    bool wanted = s->checkpoints_wait || ((s->draining || s->paused) && s->nacks_count > 0);
    if (now_ns >= s->beat_ns) {
        send_beat(s);
        s->beat_ns = now_ns + s->heartbeat_ns;
        s->beat_sent = true;
        s->pull_due = true; /* a lost PULL would starve us */
    } else if (wanted && s->beats_answered == s->beats_sent) {
        send_beat(s);
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
        tick_beat(s, now_ns);
        send_nacks(s);
        send_results(s, now_ns);
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
                    uint64_t prompt_tokens, uint64_t completion_tokens, double energy_j)
{
    struct lease *l = find_serial(s, serial);
    if (l == NULL || l->state != LEASE_RUNNING)
        return;
    l->state = LEASE_DONE;
    l->done = ++s->dones;
    l->failed = failed;
    l->body = *body;
    s->kept_bytes += l->body.len;
    *body = (struct buf){0};
    l->prompt_tokens = prompt_tokens;
    l->completion_tokens = completion_tokens;
    l->energy_j = energy_j;
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

void session_pause(struct session *s, bool on)
{
    s->paused = on;
}

bool session_is_idle(const struct session *s)
{
    return s->leases_count == 0 && s->nacks_count == 0;
}

enum err session_change(struct session *s, const struct session_config *c, uint64_t now_ns)
{
    if (c->max_jobs != s->config.max_jobs) {
        struct session old = *s;
        assert(session_is_idle(s));
        enum err e = make_lists(s, c->max_jobs);
        if (e != ERR_OK)
            return e;
        free_lists(&old);
    }
    s->config = *c;
    s->hello_is_old = true;
    if (s->state == SESSION_READY)
        reconnect(s, now_ns);
    return ERR_OK;
}

void session_unfetchable(struct session *s, const char *hash)
{
    snprintf(s->unfetchable, sizeof s->unfetchable, "%s", hash);
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

uint32_t session_unanswered(const struct session *s)
{
    return s->hellos;
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
