/* The messages a session sends; session.h has the picture. */
#include "worker/session_impl.h"

#include "base/clock.h"
#include "base/size.h"

static const uint64_t resend_ns = 5 * NS_PER_S;
static const uint64_t hello_most_ns = 5 * NS_PER_S;
enum { MAX_RESULTS = 1024, MAX_BODIES_BYTES = 16 << 20, MAX_CHECKPOINTS_BYTES = 8 << 20 };

#define SET_HEADROOM(kind, name, limit, need, doc) m->name = h->name;

static void fill_pull(struct msg_pull *m, const struct headroom *h)
{
    HEADROOM_FIELDS(SET_HEADROOM)
}

static void fill_beat(struct msg_beat *m, const struct headroom *h)
{
    HEADROOM_FIELDS(SET_HEADROOM)
}

void send_hello(struct session *s, uint64_t now_ns)
{
    const struct session_config *c = &s->config;
    for (uint32_t i = 0; i < s->leases_count; i++)
        s->refs[i] = (struct rec_JOB_REF){s->leases[i].job, s->leases[i].epoch};
    struct rec_MODEL model = c->model;
    struct msg m = {.type = MSG_TYPE_HELLO};
    m.hello = (struct msg_hello){
        .worker = str_of(c->worker),
        .host = str_of(c->host),
        .build = str_of(c->build),
        .device = str_of(c->device),
        .driver = str_of(c->driver),
        .numeric_class = str_of(c->numeric_class),
        .models = {&model, 1},
        .max_jobs = c->max_jobs,
        .kv_tokens = c->kv_tokens,
        .holding = {s->refs, s->leases_count},
    };
    s->events.send(s->events.user, &m);
    s->hello_ns = now_ns + s->hello_wait_ns;
    s->hello_wait_ns = min_u64(2 * s->hello_wait_ns, hello_most_ns);
}

void send_nacks(struct session *s)
{
    if (s->nacks_count == 0)
        return;
    uint64_t bytes = 0;
    uint32_t count = 0;
    for (; count < s->nacks_count && bytes < MAX_BODIES_BYTES; count++) {
        struct pending_nack *n = &s->nacks[count];
        s->nack_jobs[count] = (struct rec_NACK_JOB){
            .job = n->job,
            .epoch = n->epoch,
            .counts = n->counts,
            .reason = str_of(n->reason),
            .checkpoint = {n->checkpoint.data, n->checkpoint.len},
        };
        bytes += n->checkpoint.len;
    }
    struct msg m = {.type = MSG_TYPE_NACK};
    m.nack.session = s->session;
    m.nack.jobs.items = s->nack_jobs;
    m.nack.jobs.count = count;
    if (!s->events.send(s->events.user, &m))
        return;
    for (uint32_t i = 0; i < count; i++)
        buf_free(&s->nacks[i].checkpoint);
    for (uint32_t i = count; i < s->nacks_count; i++)
        s->nacks[i - count] = s->nacks[i];
    s->nacks_count -= count;
}

/* One message of results that are due; false when there are none or the socket is full. */
static bool send_some_results(struct session *s, uint64_t now_ns)
{
    uint64_t bytes = 0;
    size_t count = 0;
    for (uint32_t i = 0; i < s->leases_count; i++) {
        struct lease *l = &s->leases[i];
        if (l->state != LEASE_DONE || (l->sent && now_ns - l->sent_ns < resend_ns))
            continue;
        if (count == MAX_RESULTS || (count > 0 && bytes + l->body.len > MAX_BODIES_BYTES))
            break;
        l->sent = true;
        l->sent_ns = now_ns;
        bytes += l->body.len;
        s->results[count++] = (struct rec_RESULT){
            .job = l->job,
            .epoch = l->epoch,
            .failed = l->failed,
            .body = {l->body.data, l->body.len},
            .prompt_tokens = l->prompt_tokens,
            .completion_tokens = l->completion_tokens,
        };
    }
    if (count == 0)
        return false;
    struct msg m = {.type = MSG_TYPE_RESULTS};
    m.results.session = s->session;
    m.results.results.items = s->results;
    m.results.results.count = count;
    /* Not queued: they count as sent and come again after resend_ns. */
    return s->events.send(s->events.user, &m);
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
    if (s->draining || (credit <= s->credit_sent && !s->pull_due))
        return;
    struct msg m = {.type = MSG_TYPE_PULL};
    m.pull.session = s->session;
    /* Credit once given is not taken back: the broker may have used it already. */
    m.pull.credit_total = max_u64(credit, s->credit_sent);
    m.pull.credit_tokens = s->headroom.kv_tokens_free;
    fill_pull(&m.pull, &s->headroom);
    if (!s->events.send(s->events.user, &m))
        return;
    s->credit_sent = m.pull.credit_total;
    s->pull_due = false;
}

void send_beat(struct session *s, uint64_t now_ns)
{
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < s->leases_count; i++) {
        struct lease *l = &s->leases[i];
        s->beats[i] = (struct rec_RUNNING){
            .job = l->job, .epoch = l->epoch, .completion_tokens = l->completion_tokens};
        if (l->checkpoint.len == 0 || bytes + l->checkpoint.len > MAX_CHECKPOINTS_BYTES)
            continue;
        bytes += l->checkpoint.len;
        s->beats[i].checkpoint = (struct str){l->checkpoint.data, l->checkpoint.len};
    }
    struct msg m = {.type = MSG_TYPE_BEAT};
    m.beat.session = s->session;
    m.beat.draining = s->draining;
    m.beat.running.items = s->beats;
    m.beat.running.count = s->leases_count;
    fill_beat(&m.beat, &s->headroom);
    bool queued = s->events.send(s->events.user, &m);
    for (uint32_t i = 0; queued && i < s->leases_count; i++) {
        if (s->beats[i].checkpoint.len > 0)
            buf_free(&s->leases[i].checkpoint);
    }
    s->beat_ns = now_ns + s->heartbeat_ns;
    s->beat_sent = true;
    s->pull_due = true; /* a lost PULL would starve us */
}

void send_bye(struct session *s)
{
    struct msg m = {.type = MSG_TYPE_BYE};
    m.bye.session = s->session;
    s->events.send(s->events.user, &m);
}
