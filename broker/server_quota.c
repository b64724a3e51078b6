/* Quotas: how many unfinished jobs, and bytes of their bodies, the broker takes in all and of one
 * client. A client is the name of the key that made the batch; without keys it is what
 * BATCH_NEW says, so that a quota keeps honest users apart and stops no thief. */
#include <inttypes.h>
#include <stdio.h>

#include "base/size.h"
#include "broker/server_internal.h"

struct usage {
    uint64_t jobs, bytes;
};

/* With what is on its way to the ledger. */
static struct usage total_usage(const struct server *s)
{
    return (struct usage){jobs_count(s->jobs) + s->coming_jobs,
                          jobs_bytes(s->jobs) + s->coming_bytes};
}

static struct usage client_usage(const struct server *s, const char *client)
{
    struct usage u = {0};
    for (const struct batch *b = jobs_first_batch(s->jobs); b != NULL; b = b->next) {
        if (strcmp(b->client, client) != 0)
            continue;
        u.jobs += batch_waiting(b) + b->leased + b->coming_jobs;
        u.bytes += b->bytes + b->coming_bytes;
    }
    return u;
}

static uint64_t left(uint64_t max, uint64_t used)
{
    return max == 0 ? UINT64_MAX : max > used ? max - used : 0;
}

static bool any_client_quota(const struct server *s)
{
    return s->o.max_client_jobs > 0 || s->o.max_client_bytes > 0;
}

static struct usage room(const struct server *s, const struct batch *b)
{
    struct usage used = total_usage(s);
    struct usage r = {left(s->o.max_jobs, used.jobs), left(s->o.max_bytes, used.bytes)};
    if (any_client_quota(s)) {
        used = client_usage(s, b->client);
        r.jobs = min_u64(r.jobs, left(s->o.max_client_jobs, used.jobs));
        r.bytes = min_u64(r.bytes, left(s->o.max_client_bytes, used.bytes));
    }
    return r;
}

struct quota {
    const char *whose, *what, *option;
    uint64_t used, more, max;
};

/* What is over, one that could never fit first. NULL: nothing any more. */
static const struct quota *find_over(const struct quota *quotas, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (quotas[i].max > 0 && quotas[i].more > quotas[i].max)
            return &quotas[i];
    }
    for (size_t i = 0; i < count; i++) {
        if (quotas[i].more > left(quotas[i].max, quotas[i].used))
            return &quotas[i];
    }
    return NULL;
}

void quota_refuse(struct server_op *op)
{
    struct server *s = op->s;
    const char *client = op->quota_batch->client;
    char whose[PROTO_MAX_ID_BYTES + 32], text[400] = "quota: try again later";
    quota_release(op);
    struct usage all = total_usage(s), of = {0};
    if (any_client_quota(s))
        of = client_usage(s, client);
    snprintf(whose, sizeof whose, client[0] == '\0' ? "all clients without a name" : "client %s",
             client);
    const char *broker = "this broker";
    const struct quota quotas[] = {
        {broker, "jobs", "--max-jobs", all.jobs, op->quota_jobs, s->o.max_jobs},
        {broker, "bytes", "--max-bytes", all.bytes, op->quota_bytes, s->o.max_bytes},
        {whose, "jobs", "--max-client-jobs", of.jobs, op->quota_jobs, s->o.max_client_jobs},
        {whose, "bytes", "--max-client-bytes", of.bytes, op->quota_bytes, s->o.max_client_bytes},
    };
    const struct quota *q = find_over(quotas, ARRAY_LEN(quotas));
    bool never = q != NULL && q->more > q->max;
    if (never)
        snprintf(text, sizeof text,
                 "%" PRIu64 " %s in one message, the quota of %s is %" PRIu64 " (%s)", q->more,
                 q->what, q->whose, q->max, q->option);
    else if (q != NULL)
        snprintf(text, sizeof text,
                 "quota: %s has %" PRIu64 " of %" PRIu64 " %s unfinished, no room for %" PRIu64
                 " more (%s)",
                 q->whose, q->used, q->max, q->what, q->more, q->option);
    server_error(s, &op->peer, op->seq, never ? "too_large" : "quota", text, 0);
}

void quota_reserve(struct server_op *op, struct batch *b)
{
    struct server *s = op->s;
    op->quota_batch = b;
    b->coming++;
    for (size_t i = 0; i < op->op.submit.count; i++) {
        op->quota_jobs += op->op.submit.lines[i].refusal.len == 0;
        op->quota_bytes += op->op.submit.lines[i].body.len;
    }
    /* Lines that are there already must pass, whatever the quota: only the ledger knows them. */
    struct usage r = room(s, b);
    op->op.submit.limited = op->quota_jobs > r.jobs || op->quota_bytes > r.bytes;
    op->op.submit.max_jobs = r.jobs;
    op->op.submit.max_bytes = r.bytes;
    b->coming_jobs += op->quota_jobs;
    b->coming_bytes += op->quota_bytes;
    s->coming_jobs += op->quota_jobs;
    s->coming_bytes += op->quota_bytes;
}

void quota_release(struct server_op *op)
{
    struct batch *b = op->quota_batch;
    if (b == NULL)
        return;
    b->coming--;
    b->coming_jobs -= op->quota_jobs;
    b->coming_bytes -= op->quota_bytes;
    op->s->coming_jobs -= op->quota_jobs;
    op->s->coming_bytes -= op->quota_bytes;
    op->quota_batch = NULL;
}
