/* Whose turn it is: deficit round robin by tokens (Shreedhar and Varghese, 1995), over the users of
 * one priority, and over the batches of each.
 *
 *     priority 100:  user a  <->  user b  <->  (a)         a ring; the head's turn is now
 *                      |            |
 *                   batch 1      batch 3                   a ring each
 *                   batch 2
 *
 * Who is at the head is served while it has tokens left; then it is the next one's turn, which gets
 * a quantum. What a job costs is an estimate until its result is there: bytes are all that the
 * broker knows of a prompt, so each batch learns how many tokens a byte has and how long answers
 * are, and what was estimated wrongly is made good later. Who waits for nothing saves nothing up,
 * but keeps its debts while it has a batch. */
#include <stdlib.h>

#include "base/size.h"
#include "broker/jobs_impl.h"

enum { QUANTUM_TOKENS = 8192, MOST_OWED_TOKENS = 64 * QUANTUM_TOKENS };

/* Until a batch has results. */
static const double first_tokens_per_byte = 0.25;
static const double first_completion_tokens = 256;
static const double learn_over_jobs = 256; /* older results weigh less and less */

struct user {
    struct turn turn;     /* first; in the ring of its priority */
    struct turn *batches; /* those with waiting jobs; the head */
    uint64_t priority;
    size_t batch_count; /* also those with nothing waiting; 0: forgotten */
    char client[];
};

/* ---- rings ---- */

/* As the last one. */
static void ring_add(struct turn **head, struct turn *t)
{
    if (*head == NULL) {
        t->prev = t->next = *head = t;
        t->tokens = max_i64(t->tokens, QUANTUM_TOKENS);
        return;
    }
    /* What came back to who was alone, it had paid to nobody. */
    (*head)->tokens = min_i64((*head)->tokens, QUANTUM_TOKENS);
    t->next = *head;
    t->prev = (*head)->prev;
    t->prev->next = t->next->prev = t;
}

static void ring_remove(struct turn **head, struct turn *t)
{
    if (*head == t)
        *head = t->next == t ? NULL : t->next;
    t->prev->next = t->next;
    t->next->prev = t->prev;
    t->prev = t->next = NULL;
    t->tokens = min_i64(t->tokens, 0);
}

/* The head that can use its turn; NULL: nobody can. `can` is asked with what its turn is. */
static struct turn *ring_turn(struct turn **head, bool (*can)(struct turn *t, void *user),
                              void *user)
{
    if (*head == NULL)
        return NULL;
    const struct turn *idle = NULL; /* the first of those in a row that cannot */
    for (;;) {
        struct turn *t = *head;
        if (t == idle)
            return NULL;
        bool able = can(t, user);
        if (able && t->tokens > 0)
            return t;
        idle = able ? NULL : idle == NULL ? t : idle;
        *head = t->next;
        (*head)->tokens = min_i64((*head)->tokens + QUANTUM_TOKENS, QUANTUM_TOKENS);
    }
}

/* ---- users and their batches ---- */

static int compare(const struct user *u, uint64_t priority, const char *client)
{
    if (u->priority != priority)
        return u->priority < priority ? -1 : 1;
    return strcmp(u->client, client);
}

/* How many users come before. */
static size_t find_user(const struct jobs *j, uint64_t priority, const char *client)
{
    size_t low = 0, high = j->users_count;
    while (low < high) {
        size_t mid = low + (high - low) / 2;
        if (compare(j->users[mid], priority, client) < 0)
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

static bool add_user(struct jobs *j, size_t at, uint64_t priority, const char *client)
{
    size_t len = strlen(client) + 1;
    if (j->users_count == j->users_cap) {
        size_t cap = j->users_cap == 0 ? 16 : 2 * j->users_cap;
        struct user **users = realloc(j->users, cap * sizeof(struct user *));
        if (users == NULL)
            return false;
        j->users = users;
        j->users_cap = cap;
    }
    struct user *u = calloc(1, sizeof *u + len);
    if (u == NULL)
        return false;
    memcpy(u->client, client, len);
    u->priority = priority;
    memmove(j->users + at + 1, j->users + at, (j->users_count - at) * sizeof(struct user *));
    j->users[at] = u;
    j->users_count++;
    return true;
}

enum err turns_join(struct jobs *j, struct batch *b)
{
    size_t at = find_user(j, b->schedule.priority, b->client);
    bool there = at < j->users_count && compare(j->users[at], b->schedule.priority, b->client) == 0;
    if (!there && !add_user(j, at, b->schedule.priority, b->client))
        return ERR_NOMEM;
    b->user = j->users[at];
    b->user->batch_count++;
    return ERR_OK;
}

void turns_leave(struct jobs *j, struct user *u)
{
    if (--u->batch_count > 0)
        return;
    size_t at = find_user(j, u->priority, u->client);
    j->users_count--;
    memmove(j->users + at, j->users + at + 1, (j->users_count - at) * sizeof(struct user *));
    free(u);
}

void turns_free(struct jobs *j)
{
    for (size_t i = 0; i < j->users_count; i++)
        free(j->users[i]);
    free(j->users);
}

void turns_begin(struct jobs *j, struct batch *b)
{
    if (b->user->batches == NULL)
        ring_add(&j->turns[b->schedule.priority], &b->user->turn);
    ring_add(&b->user->batches, &b->turn);
}

void turns_end(struct jobs *j, struct batch *b)
{
    ring_remove(&b->user->batches, &b->turn);
    if (b->user->batches == NULL)
        ring_remove(&j->turns[b->schedule.priority], &b->user->turn);
}

const struct turn *turns_of(const struct user *u)
{
    return u->batches;
}

size_t turns_batches(const struct user *u)
{
    return u->batch_count;
}

static struct batch *batch_of(struct turn *t)
{
    return (struct batch *)(void *)((char *)t - offsetof(struct batch, turn));
}

struct asking {
    bool (*may_run)(const struct batch *b, const void *user);
    const void *user;
};

static bool batch_can(struct turn *t, void *user)
{
    const struct asking *a = user;
    return a->may_run(batch_of(t), a->user);
}

static bool user_can(struct turn *t, void *user)
{
    return ring_turn(&((struct user *)(void *)t)->batches, batch_can, user) != NULL;
}

struct batch *turns_next(struct jobs *j, bool (*may_run)(const struct batch *b, const void *user),
                         const void *user)
{
    struct asking a = {may_run, user};
    for (size_t p = ARRAY_LEN(j->turns); p-- > 0;) {
        struct turn *t = ring_turn(&j->turns[p], user_can, &a);
        if (t != NULL)
            return batch_of(((struct user *)(void *)t)->batches);
    }
    return NULL;
}

/* ---- what jobs cost ---- */

static void charge(struct turn *t, int64_t tokens)
{
    t->tokens = max_i64(t->tokens - tokens, -MOST_OWED_TOKENS);
}

static void charge_both(struct batch *b, int64_t tokens)
{
    charge(&b->turn, tokens);
    charge(&b->user->turn, tokens);
}

uint64_t batch_job_tokens(const struct batch *b, uint64_t body_bytes)
{
    double per_byte =
        b->learnt.bytes > 0 ? b->learnt.prompt_tokens / b->learnt.bytes : first_tokens_per_byte;
    double completion =
        b->learnt.jobs > 0 ? b->learnt.completion_tokens / b->learnt.jobs : first_completion_tokens;
    return (uint64_t)(per_byte * (double)body_bytes + completion) + 1;
}

void turns_lease(struct job *job)
{
    job->tokens = (uint32_t)min_u64(batch_job_tokens(job->batch, job->body_bytes), UINT32_MAX);
    charge_both(job->batch, job->tokens);
}

void turns_give_back(struct job *job)
{
    charge_both(job->batch, -(int64_t)job->tokens);
    job->tokens = 0;
}

void jobs_learn(struct jobs *j, const struct job *job, uint64_t prompt_tokens,
                uint64_t completion_tokens)
{
    struct batch *b = job->batch;
    double keep = b->learnt.jobs < learn_over_jobs ? 1 : 1 - 1 / learn_over_jobs;
    b->learnt.jobs = keep * b->learnt.jobs + 1;
    b->learnt.bytes = keep * b->learnt.bytes + job->body_bytes;
    b->learnt.prompt_tokens = keep * b->learnt.prompt_tokens + (double)prompt_tokens;
    b->learnt.completion_tokens = keep * b->learnt.completion_tokens + (double)completion_tokens;
    if (job->tokens > 0) /* 0: leased before the broker's restart */
        b->learnt.seconds = keep * b->learnt.seconds + jobs_lease_s(j, job);
    uint64_t most = (uint64_t)UINT32_MAX;
    int64_t tokens = (int64_t)(min_u64(prompt_tokens, most) + min_u64(completion_tokens, most));
    if (job->tokens > 0)
        charge_both(b, tokens - job->tokens);
}
