/* The messages a session sends; session.h has the picture. */
#include "worker/session_impl.h"

#include "base/clock.h"
#include "base/size.h"

static const uint64_t resend_ns = 5 * NS_PER_S;
static const uint64_t hello_most_ns = 5 * NS_PER_S;
enum {
    MAX_RESULTS = 1024,
    MAX_FLIGHT_BYTES = 512 << 10, /* each of results, checkpoints and NACKs that are on their way */
};

void send_hello(struct session *s, uint64_t now_ns)
{
    const struct session_config *c = &s->config;
    uint32_t refs = 0;
    for (uint32_t i = 0; i < s->leases_count; i++)
        s->refs[refs++] = (struct rec_JOB_REF){s->leases[i].job, s->leases[i].epoch};
    for (uint32_t i = 0; i < s->nacks_count && refs < PROTO_MAX_LIST; i++)
        s->refs[refs++] = (struct rec_JOB_REF){s->nacks[i].job, s->nacks[i].epoch};
    struct msg m = {.type = MSG_TYPE_HELLO};
    m.hello = (struct msg_hello){
        .worker = str_of(c->worker),
        .host = str_of(c->host),
        .build = str_of(c->build),
        .device = str_of(c->device),
        .driver = str_of(c->driver),
        .numeric_class = str_of(c->numeric_class),
        .models = {(struct rec_MODEL *)(uintptr_t)c->models, c->models_count},
        .max_jobs = c->max_jobs,
        .kv_tokens = c->kv_tokens,
        .process = c->process,
        .ledger = str_of(s->ledger),
        .load_ms = c->load_ms,
        .fetches = c->fetches,
        .holding = {s->refs, refs},
    };
    s->events.send(s->events.user, &m);
    s->hello_is_old = false;
    s->hellos++;
    s->hello_ns = now_ns + s->hello_wait_ns;
    s->hello_wait_ns = min_u64(2 * s->hello_wait_ns, hello_most_ns);
}

/* Beside `bytes` on their way there is room for so many more; what is alone may be larger. */
static bool has_room(uint64_t bytes, uint64_t more)
{
    return bytes == 0 || bytes + more <= MAX_FLIGHT_BYTES;
}

void send_nacks(struct session *s)
{
    uint64_t bytes = 0;
    uint32_t count = 0, first = s->nacks_sent;
    for (uint32_t i = 0; i < first; i++)
        bytes += s->nacks[i].checkpoint.len;
    for (; first + count < s->nacks_count; count++) {
        const struct pending_nack *n = &s->nacks[first + count];
        if (!has_room(bytes, n->checkpoint.len))
            break;
        bytes += n->checkpoint.len;
        s->nack_jobs[count] = (struct rec_NACK_JOB){
            .job = n->job,
            .epoch = n->epoch,
            .counts = n->counts,
            .reason = str_of(n->reason),
            .checkpoint = {n->checkpoint.data, n->checkpoint.len},
        };
    }
    if (count == 0)
        return;
    struct msg m = {.type = MSG_TYPE_NACK};
    m.nack.session = s->session;
    m.nack.jobs.items = s->nack_jobs;
    m.nack.jobs.count = count;
    if (!s->events.send(s->events.user, &m))
        return;
    for (uint32_t i = 0; i < count; i++)
        s->nacks[first + i].sent_beats = s->beats_sent;
    s->nacks_sent += count;
}

/* Not sent, or known to have arrived long ago: the two last answered BEATs were said after it. */
static bool is_due(const struct session *s, const struct lease *l, uint64_t now_ns)
{
    return l->state == LEASE_DONE && (!l->sent || (now_ns - l->sent_ns >= resend_ns &&
                                                   s->beats_answered >= l->sent_beats + 2));
}

static struct rec_RESULT take(struct session *s, struct lease *l, uint64_t now_ns)
{
    l->sent = true;
    l->sent_ns = now_ns;
    l->sent_beats = s->beats_sent;
    return (struct rec_RESULT){
        .job = l->job,
        .epoch = l->epoch,
        .failed = l->failed,
        .body = {l->body.data, l->body.len},
        .prompt_tokens = l->prompt_tokens,
        .completion_tokens = l->completion_tokens,
        .energy_j = l->energy_j,
    };
}

/* One message of results that are due; false when there are none, or no room. Without room for the
 * oldest, the others wait too: it would never have its turn. */
static bool send_some_results(struct session *s, uint64_t now_ns)
{
    uint64_t bytes = 0;
    size_t count = 0;
    struct lease *oldest = NULL;
    for (uint32_t i = 0; i < s->leases_count; i++) {
        struct lease *l = &s->leases[i];
        if (!is_due(s, l, now_ns))
            bytes += l->body.len;
        else if (oldest == NULL || l->done < oldest->done)
            oldest = l;
    }
    if (oldest == NULL || !has_room(bytes, oldest->body.len))
        return false;
    bytes += oldest->body.len;
    s->results[count++] = take(s, oldest, now_ns);
    for (uint32_t i = 0; i < s->leases_count && count < MAX_RESULTS; i++) {
        struct lease *l = &s->leases[i];
        if (!is_due(s, l, now_ns) || !has_room(bytes, l->body.len))
            continue;
        bytes += l->body.len;
        s->results[count++] = take(s, l, now_ns);
    }
    struct msg m = {.type = MSG_TYPE_RESULTS};
    m.results.session = s->session;
    m.results.results.items = s->results;
    m.results.results.count = count;
    if (s->events.send(s->events.user, &m))
        return true;
    for (uint32_t i = 0; i < s->leases_count; i++) {
        if (s->leases[i].sent_ns == now_ns)
            s->leases[i].sent = false;
    }
    return false;
}

void send_results(struct session *s, uint64_t now_ns)
{
    while (send_some_results(s, now_ns))
        ;
}

/* How many more jobs there is room for: sequences, KV pages by the length jobs have had, and
 * results kept. */
static uint32_t room(const struct session *s)
{
    if (s->kept_bytes >= MAX_KEPT_BYTES)
        return 0;
    uint64_t by_kv = UINT32_MAX;
    if (s->headroom.kv_tokens_total > 0)
        by_kv = (uint64_t)((double)s->headroom.kv_tokens_total / s->job_tokens) + 1;
    uint64_t surplus = s->target - s->config.max_jobs;
    uint64_t target = min_u64(s->config.max_jobs, by_kv) + surplus;
    uint64_t by_target = target > s->running ? target - s->running : 0;
    uint64_t used = s->leases_count + s->nacks_count;
    uint64_t by_limit = s->limit > used ? s->limit - used : 0;
    return (uint32_t)min_u64(by_target, by_limit);
}

void send_pull(struct session *s)
{
    uint64_t credit = s->granted + room(s);
    if (s->draining || s->paused || (credit <= s->credit_sent && !s->pull_due))
        return;
    struct msg m = {.type = MSG_TYPE_PULL};
    m.pull.session = s->session;
    /* Credit once given is not taken back: the broker may have used it already. */
    m.pull.credit_total = max_u64(credit, s->credit_sent);
    m.pull.credit_tokens = s->headroom.kv_tokens_free;
    PROTO_COPY(HEADROOM_FIELDS, &m.pull, &s->headroom);
    if (!s->events.send(s->events.user, &m))
        return;
    s->credit_sent = m.pull.credit_total;
    s->pull_due = false;
}

/* Into s->beats: the checkpoints there is room for, each lease in its turn. */
static void add_checkpoints(struct session *s)
{
    uint64_t bytes = 0;
    s->checkpoints_wait = false;
    for (uint32_t n = 0; n < s->leases_count; n++) {
        uint32_t i = (s->checkpoint_next + n) % s->leases_count;
        const struct buf *checkpoint = &s->leases[i].checkpoint;
        if (checkpoint->len == 0)
            continue;
        if (s->checkpoint_beat > s->beats_answered || !has_room(bytes, checkpoint->len)) {
            s->checkpoints_wait = true;
            s->checkpoint_next = i;
            return;
        }
        bytes += checkpoint->len;
        s->beats[i].checkpoint = (struct str){checkpoint->data, checkpoint->len};
    }
}

void send_beat(struct session *s)
{
    for (uint32_t i = 0; i < s->leases_count; i++) {
        const struct lease *l = &s->leases[i];
        s->beats[i] = (struct rec_RUNNING){
            .job = l->job, .epoch = l->epoch, .completion_tokens = l->completion_tokens};
    }
    add_checkpoints(s);
    struct msg m = {.type = MSG_TYPE_BEAT};
    m.beat.session = s->session;
    m.beat.draining = s->draining;
    m.beat.unfetchable = str_of(s->unfetchable);
    m.beat.running.items = s->beats;
    m.beat.running.count = s->leases_count;
    PROTO_COPY(HEADROOM_FIELDS, &m.beat, &s->headroom);
    if (!s->events.send(s->events.user, &m))
        return;
    s->beats_sent++;
    for (uint32_t i = 0; i < s->leases_count; i++) {
        if (s->beats[i].checkpoint.len == 0)
            continue;
        buf_free(&s->leases[i].checkpoint);
        s->checkpoint_beat = s->beats_sent;
    }
}

bool session_fetch(struct session *s, const char *hash, uint64_t offset)
{
    if (s->state != SESSION_READY)
        return false;
    struct msg m = {.type = MSG_TYPE_MODEL_FETCH};
    m.model_fetch.session = s->session;
    m.model_fetch.hash = str_of(hash);
    m.model_fetch.offset = offset;
    return s->events.send(s->events.user, &m);
}

void send_bye(struct session *s)
{
    struct msg m = {.type = MSG_TYPE_BYE};
    m.bye.session = s->session;
    s->events.send(s->events.user, &m);
}
