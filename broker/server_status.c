/* STATUS: the pictures of batches and workers, which others show as well. */
#include <stdio.h>

#include "base/clock.h"
#include "base/size.h"
#include "broker/server_internal.h"

struct rec_BATCH status_batch(const struct server *s, const struct batch *b,
                              struct err_msg *problem)
{
    const struct batch_counts *c = &b->counts;
    uint64_t finished = c->done + c->failed + c->cancelled;
    bool complete = c->total == finished;
    worker_problem(s, b, problem);
    struct rec_BATCH r = {.batch = str_of(b->name),
                          .model = str_of(b->model),
                          .client = str_of(b->client),
                          .created_ms = b->created_ms,
                          .total = c->total,
                          .queued = batch_waiting(b),
                          .leased = b->leased,
                          .done = c->done,
                          .failed = c->failed,
                          .cancelled = c->cancelled,
                          .prompt_tokens = c->prompt_tokens,
                          .completion_tokens = c->completion_tokens,
                          .energy_j = (double)c->energy_uj / 1e6,
                          .energy_jobs = c->energy_jobs,
                          .running_tokens = b->running_tokens,
                          .jobs_per_s = rate_per_s(&b->rate, s->now_ns),
                          .eta_ms = rate_left_ms(&b->rate, s->now_ns, c->total - finished),
                          .sealed = b->sealed,
                          .problem = str_of(problem->text)};
    PROTO_COPY(SCHEDULE_FIELDS, &r, &b->schedule);
    if (b->cancelled && complete) {
        r.state = STR_LIT("cancelled");
        r.completed_ms = c->last_finished_ms;
    } else if (!b->sealed) {
        r.state = STR_LIT("open");
    } else if (complete) {
        r.state = STR_LIT("completed");
        r.completed_ms = max_u64(c->last_finished_ms, b->sealed_ms);
    } else {
        r.state = STR_LIT("in_progress");
    }
    return r;
}

static const struct str session_states[] = {
    [SESSION_READY] = {"ready", 5},
    [SESSION_DRAINING] = {"draining", 8},
    [SESSION_LOST] = {"lost", 4},
};

struct rec_WORKER status_worker(const struct server *s, const struct session *w)
{
    struct rec_WORKER r = {.worker = str_of(w->worker),
                           .host = str_of(w->host),
                           .device = str_of(w->device),
                           .model = str_of(w->models[0].name),
                           .numeric_class = str_of(w->numeric_class),
                           .state = w->state == SESSION_READY && w->load[0] != '\0'
                                        ? STR_LIT("loading")
                                        : session_states[w->state],
                           .leased = w->leased,
                           .done = w->done,
                           .seen_ms = (s->now_ns - w->seen_ns) / NS_PER_MS};
    PROTO_COPY(HEADROOM_FIELDS, &r, &w->headroom);
    return r;
}

/* One that has left the ledger is none any more. */
static bool is_shown(const struct server *s, const struct batch *b)
{
    return !b->unnamed && access_sees(s, b);
}

void status_reply(struct server *s, const struct proto_peer *from, const struct msg_status *m)
{
    struct arena arena = {0};
    struct batch *only = m->batch.len == 0 ? NULL : jobs_find_batch(s->jobs, m->batch);
    struct batch *first = only != NULL || m->workers_only ? only : jobs_first_batch(s->jobs);
    if (m->batch.len > 0 && only == NULL) {
        char text[256];
        snprintf(text, sizeof text, "no batch \"%.*s\" here", STR_ARG(m->batch));
        server_error(s, from, m->seq, "not_found", text, 0);
        return;
    }
    size_t batches = only != NULL, workers = 0;
    for (struct batch *b = only == NULL ? first : NULL; b != NULL; b = b->next)
        batches += is_shown(s, b);
    for (struct session *w = s->sessions; w != NULL; w = w->next)
        workers++;
    size_t all = batches;
    batches = min_u64(batches, MAX_BATCHES);
    struct msg reply = {.type = MSG_TYPE_STATUS_OK};
    struct msg_status_ok *ok = &reply.status_ok;
    ok->seq = m->seq;
    ok->uptime_ms = (s->now_ns - s->started_ns) / NS_PER_MS;
    ok->batches.items = arena_alloc(&arena, batches, sizeof *ok->batches.items);
    ok->workers.items = arena_alloc(&arena, workers, sizeof *ok->workers.items);
    struct err_msg *problems = arena_alloc(&arena, batches, sizeof *problems);
    if (ok->batches.items == NULL || ok->workers.items == NULL || problems == NULL) {
        server_error(s, from, m->seq, "full", "out of memory: try again later", 0);
        arena_free(&arena);
        return;
    }
    worker_count_leases(s);
    const struct batch *b = first;
    size_t bytes = 0, i = 0;
    for (; i < batches && bytes < MAX_STATUS_BYTES; b = b->next) {
        if (!is_shown(s, b))
            continue;
        struct rec_BATCH *r = &ok->batches.items[i];
        *r = status_batch(s, b, &problems[i++]);
        bytes += r->batch.len + r->model.len + r->client.len + r->problem.len + 300;
    }
    ok->batches.count = i;
    ok->left_out = all - i;
    for (struct session *w = s->sessions; w != NULL; w = w->next)
        ok->workers.items[ok->workers.count++] = status_worker(s, w);
    server_send(s, from, &reply);
    arena_free(&arena);
}
