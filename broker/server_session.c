/* A worker's session: HELLO opens it, silence, BYE or another HELLO of the same worker ends it. */
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/size.h"
#include "broker/server_internal.h"

static void free_session(struct session *w)
{
    arena_free(&w->arena);
    free(w);
}

void worker_free_sessions(struct server *s)
{
    while (s->sessions != NULL) {
        struct session *next = s->sessions->next;
        free_session(s->sessions);
        s->sessions = next;
    }
}

bool worker_same_peer(const struct proto_peer *a, const struct proto_peer *b)
{
    return a->len == b->len && memcmp(a->id, b->id, a->len) == 0;
}

struct session *worker_find_any(struct server *s, uint64_t number)
{
    struct session *w = s->sessions;
    while (w != NULL && w->number != number)
        w = w->next;
    return w;
}

struct session *worker_find_session(struct server *s, uint64_t number)
{
    struct session *w = worker_find_any(s, number);
    return w == NULL || w->state == SESSION_LOST ? NULL : w;
}

static void unlink_session(struct server *s, struct session *w)
{
    struct session **at = &s->sessions;
    while (*at != w)
        at = &(*at)->next;
    *at = w->next;
}

void worker_end_session(struct server *s, struct session *w)
{
    unlink_session(s, w);
    free_session(w);
}

/* Those that are silent, `count` of them: thousands at once when a switch fails, so it looks at all
 * leases once. */
static void lose_sessions(struct server *s, size_t count)
{
    static const char reason[] = "worker silent for three heartbeats";
    struct jobs_gone *gone = calloc(count + 1, sizeof *gone);
    if (gone == NULL)
        return; /* the next tick comes again */
    size_t i = count;
    for (struct session *w = s->sessions; w != NULL; w = w->next) {
        if (!w->silent)
            continue;
        w->state = SESSION_LOST;
        worker_withdraw_grant(s, w, "grant not sent");
        gone[--i].owner = w->number; /* the newest first */
    }
    jobs_release_owners(s->jobs, gone, count, true, reason);
    i = count;
    for (struct session *w = s->sessions; w != NULL; w = w->next) {
        if (!w->silent)
            continue;
        size_t jobs = gone[--i].ret_jobs;
        log_warn("worker lost, its jobs go to others worker=%s jobs=%zu reason=\"%s\"", w->worker,
                 jobs, reason);
        server_event(s, EVENT_WORKER_LOST, w->worker, "%s, %zu jobs go to others", reason, jobs);
        w->silent = false;
    }
    free(gone);
}

/* A long message of it is still coming in, behind which its heartbeats wait. */
static bool is_coming_in(struct server *s, struct session *w)
{
    return proto_moves(&w->moved_bytes, proto_socket_moved(s->socket, &w->peer).received);
}

/* No message of the worker for that long. */
static void tick_silent(struct server *s, struct session *w, uint64_t silent_ms)
{
    bool over = silent_ms > MISSED_BEATS * s->o.heartbeat_ms;
    if (!over && w->moved_bytes == 0) {
        is_coming_in(s, w); /* to compare with */
    } else if (over && is_coming_in(s, w)) {
        w->seen_ns = s->now_ns;
        jobs_renew_owner(s->jobs, w->number, server_lease_end_ns(s));
    } else {
        w->silent = over;
    }
}

void worker_tick(struct server *s)
{
    size_t silent = 0;
    for (struct session *w = s->sessions, *next; w != NULL; w = next) {
        next = w->next;
        uint64_t silent_ms = (s->now_ns - w->seen_ns) / NS_PER_MS;
        w->silent = false;
        if (w->state != SESSION_LOST && silent_ms > s->o.heartbeat_ms * 3 / 2) {
            tick_silent(s, w, silent_ms);
            silent += w->silent;
        } else if (w->state == SESSION_LOST && silent_ms > SHOW_LOST_MS) {
            worker_end_session(s, w);
        } else if (w->lost_result_ns != 0 && server_storage_works(s) &&
                   s->now_ns - w->lost_result_ns > NS_PER_S) {
            /* a new HELLO makes it send again what we could not store */
            struct msg m = {.type = MSG_TYPE_RECONNECT};
            m.reconnect.reason =
                STR_LIT("the ledger had trouble: say HELLO and send results again");
            w->lost_result_ns = s->now_ns; /* once a second, until the HELLO comes */
            server_send(s, &w->peer, &m);
        }
    }
    if (silent > 0)
        lose_sessions(s, silent);
}

void worker_stood_still(struct server *s, uint64_t gap_ns)
{
    for (struct session *w = s->sessions; w != NULL; w = w->next) {
        if (w->state != SESSION_LOST)
            w->seen_ns = min_u64(w->seen_ns + gap_ns, s->now_ns);
    }
    jobs_delay(s->jobs, gap_ns);
}

static void count_lease(struct session *const *sessions, size_t count, uint64_t owner)
{
    size_t low = 0, high = count;
    while (low < high) {
        size_t mid = low + (high - low) / 2;
        if (sessions[mid]->number > owner)
            low = mid + 1;
        else
            high = mid;
    }
    if (low < count && sessions[low]->number == owner)
        sessions[low]->leased++;
}

void worker_count_leases(struct server *s)
{
    size_t count = 0;
    for (struct session *w = s->sessions; w != NULL; w = w->next)
        count++;
    struct session **sessions = calloc(count + 1, sizeof(struct session *));
    if (sessions == NULL)
        return;
    count = 0;
    for (struct session *w = s->sessions; w != NULL; w = w->next) {
        w->leased = 0;
        sessions[count++] = w; /* the newest first: by descending numbers */
    }
    for (struct batch *b = jobs_first_batch(s->jobs); b != NULL; b = b->next)
        b->running_tokens = 0;
    for (const struct job *job = jobs_first(s->jobs, JOB_LEASED); job != NULL; job = job->next) {
        const struct lease *twin = job_twin(job);
        job->batch->running_tokens += job->running_tokens;
        count_lease(sessions, count, job->owner);
        if (twin != NULL)
            count_lease(sessions, count, twin->owner);
    }
    free(sessions);
}

/* ---- HELLO ---- */

static char *copy_text(struct session *w, struct str text)
{
    return arena_copy(&w->arena, text.data == NULL ? "" : text.data, text.len);
}

static struct session *new_session(struct server *s, const struct proto_peer *from,
                                   const struct msg_hello *h)
{
    struct session *w = calloc(1, sizeof *w);
    if (w == NULL)
        return NULL;
    w->number = ++s->last_session;
    w->peer = *from;
    w->seen_ns = s->now_ns;
    w->process = h->process;
    w->worker = copy_text(w, h->worker);
    const char *key = proto_socket_key(s->socket);
    w->owner = copy_text(w, str_of(access_name(s)));
    w->key = copy_text(w, str_of(key == NULL ? "" : key));
    w->host = copy_text(w, h->host);
    w->device = copy_text(w, h->device);
    w->numeric_class = copy_text(w, h->numeric_class);
    w->hello_ns = s->now_ns;
    w->load_ms = h->load_ms;
    w->fetches = h->fetches;
    w->models = arena_alloc(&w->arena, h->models.count, sizeof *w->models);
    bool whole = w->worker != NULL && w->owner != NULL && w->key != NULL && w->host != NULL &&
                 w->device != NULL && w->numeric_class != NULL && w->models != NULL;
    for (size_t i = 0; i < h->models.count && whole; i++) {
        const struct rec_MODEL *m = &h->models.items[i];
        struct models_file *f = &w->models[w->model_count++];
        *f = (struct models_file){.name = copy_text(w, m->name),
                                  .hash = copy_text(w, m->hash),
                                  .quantization = copy_text(w, m->quantization),
                                  .bytes = m->bytes};
        whole = f->name != NULL && f->hash != NULL && f->quantization != NULL;
    }
    if (!whole) {
        free_session(w);
        return NULL;
    }
    models_know(s, w);
    return w;
}

/* Takes over the leases it still holds. *ret_old: the worker's earlier session, unlinked; NULL:
 * none. */
static size_t claim_held(struct server *s, struct session *w, const struct msg_hello *h,
                         struct rec_JOB_REF *lost, struct session **ret_old)
{
    struct session *old = NULL;
    size_t lost_count = 0;
    for (struct session *o = s->sessions, *next; o != NULL; o = next) {
        next = o->next;
        if (strcmp(o->worker, w->worker) != 0)
            continue;
        unlink_session(s, o);
        if (old != NULL)
            free_session(old);
        old = o;
    }
    uint64_t old_number = old == NULL ? 0 : old->number;
    bool ours = h->ledger.len == 0 || str_eq(h->ledger, str_of(ledger_id(s->ledger)));
    for (size_t i = 0; i < h->holding.count; i++) {
        const struct rec_JOB_REF *ref = &h->holding.items[i];
        if (!ours || !jobs_claim(s->jobs, ref->job, ref->epoch, w->number, old_number,
                                 server_lease_end_ns(s)))
            lost[lost_count++] = *ref;
    }
    *ret_old = old;
    return lost_count;
}

/* One worker a connection, so that nobody takes all the seats with names; and of those that are
 * lost, kept to be shown, the longest silent gives way. */
static bool has_seat(struct server *s, const struct proto_peer *from, struct str name)
{
    size_t sessions = 0;
    struct session *lost = NULL;
    for (struct session *w = s->sessions, *next; w != NULL; w = next) {
        next = w->next;
        if (str_eq(str_of(w->worker), name)) /* its seat is this one's */
            continue;
        if (w->state != SESSION_LOST && worker_same_peer(&w->peer, from)) {
            jobs_release_owner(s->jobs, w->number, false, "its connection has another worker");
            worker_end_session(s, w);
            continue;
        }
        sessions++;
        if (w->state == SESSION_LOST && (lost == NULL || w->seen_ns < lost->seen_ns))
            lost = w;
    }
    if (sessions < MAX_SESSIONS)
        return true;
    if (lost == NULL)
        return false;
    worker_end_session(s, lost);
    return true;
}

void worker_hello(struct server *s, const struct proto_peer *from, const struct msg_hello *h)
{
    if (h->worker.len == 0 || h->models.count == 0) {
        server_refuse(s, from, 0, "HELLO: a worker needs a name and a model", 0);
        return;
    }
    if (!access_may_be_worker(s, from, h))
        return;
    struct session *w = has_seat(s, from, h->worker) ? new_session(s, from, h) : NULL;
    struct rec_JOB_REF *lost = calloc(h->holding.count + 1, sizeof *lost);
    if (w == NULL || lost == NULL) {
        server_error(s, from, 0, "full", "HELLO: no room for one more worker, try again later", 0);
        if (w != NULL)
            free_session(w);
        free(lost);
        return;
    }
    struct session *old = NULL;
    size_t lost_count = claim_held(s, w, h, lost, &old);
    w->next = s->sessions;
    s->sessions = w;
    log_info("worker connected worker=%s host=%s device=\"%s\" model=%s class=\"%s\" holding=%zu "
             "lost=%zu",
             w->worker, w->host, w->device, w->models[0].name, w->numeric_class, h->holding.count,
             lost_count);
    server_event(s, EVENT_WORKER_JOINED, w->worker,
                 "host %s, device %s, model %s, holding %zu jobs", w->host, w->device,
                 w->models[0].name, h->holding.count);
    if (old != NULL) {
        w->leave = old->leave && h->process == old->process;
        if (w->leave)
            w->state = SESSION_DRAINING;
        /* the same process on a new wire may be heard before the rest of what it said on the old */
        bool same_process = h->process != 0 && h->process == old->process;
        models_take_over(s, w, old, same_process);
        w->replaced =
            same_process || worker_same_peer(&old->peer, from) ? old->replaced : old->peer;
        if (old->state != SESSION_LOST) {
            /* who still holds leases, or is the same process, has not died: the others never
             * reached it, and cost nothing */
            bool died = h->holding.count == 0 && !same_process;
            worker_withdraw_grant(s, old, "grant not sent");
            size_t jobs = jobs_release_owner(s->jobs, old->number, died,
                                             died ? "worker restarted" : "grant not received");
            if (jobs > 0)
                log_warn("worker said HELLO anew, jobs it does not hold go on worker=%s jobs=%zu",
                         w->worker, jobs);
        }
        free_session(old);
    }
    struct msg m = {.type = MSG_TYPE_WELCOME};
    m.welcome.broker = str_of(ledger_id(s->ledger));
    m.welcome.session = w->number;
    m.welcome.heartbeat_ms = s->o.heartbeat_ms;
    m.welcome.lease_ms = s->o.lease_ms;
    m.welcome.lost.items = lost;
    m.welcome.lost.count = lost_count;
    server_send(s, from, &m);
    free(lost);
}
