/* Whose turn it is: deficit round robin by tokens (Shreedhar and Varghese, 1995), over the users of
 * one priority, and over the batches of each.
 *
 *     priority 100:  user a   user b                    a line each, by rounds
 *                      |        |
 *                   batch 1  batch 3
 *                   batch 2
 *
 * A turn is a quantum; the next one is a round later. Who is first in line is served while it has
 * tokens left, then goes behind all of the next round. A worker that cannot run what is first, for
 * it has another model, serves the first that it can, whose rounds run ahead: the others keep their
 * turns, and where both can be served it is they who are. So who can use few workers is not left
 * with a small part of these. Turns of more than MOST_AHEAD rounds ago are gone. What may not start
 * on any worker waits for no turn: it is passed over, and that turn is gone.
 *
 * What a job costs is an estimate until its result is there: bytes are all that the broker knows of
 * a prompt, so each batch learns how many tokens a byte has and how long answers are, and what was
 * estimated wrongly is made good later. Who waits for nothing saves nothing up, but keeps its debts
 * while it has a batch. */
#include <stdlib.h>

#include "base/size.h"
#include "broker/jobs_impl.h"

enum { QUANTUM_TOKENS = 8192, MOST_OWED_TOKENS = 64 * QUANTUM_TOKENS, MOST_AHEAD = 16 };

/* Until a batch has results. */
static const double first_tokens_per_byte = 0.25;
static const double first_completion_tokens = 256;
static const double learn_over_jobs = 256; /* older results weigh less and less */

struct user {
    struct turn turn;          /* first; in the line of its priority */
    struct turns_line batches; /* those with waiting jobs */
    uint64_t priority;
    size_t batch_count; /* also those with nothing waiting; 0: forgotten */
    char client[];
};

/* ---- lines ---- */

static void unlink_turn(struct turns_line *l, struct turn *t)
{
    *(t->prev == NULL ? &l->first : &t->prev->next) = t->next;
    *(t->next == NULL ? &l->last : &t->next->prev) = t->prev;
}

static void link_behind(struct turns_line *l, struct turn *t, struct turn *before)
{
    t->prev = before;
    t->next = before == NULL ? l->first : before->next;
    *(t->prev == NULL ? &l->first : &t->prev->next) = t;
    *(t->next == NULL ? &l->last : &t->next->prev) = t;
}

/* As the last one of its round: nearly at the end. */
static void put_last(struct turns_line *l, struct turn *t)
{
    struct turn *before = l->last;
    while (before != NULL && before->round > t->round)
        before = before->prev;
    link_behind(l, t, before);
}

/* As the first one of its round: nearly at the front. */
static void put_first(struct turns_line *l, struct turn *t)
{
    struct turn *before = NULL, *next = l->first;
    for (; next != NULL && next->round < t->round; next = next->next)
        before = next;
    link_behind(l, t, before);
}

/* Who comes, begins with a turn of `round`; who was further when it left goes on where it was. */
static void line_add(struct turns_line *l, struct turn *t, int64_t round)
{
    t->round = min_i64(t->round, l->round + MOST_AHEAD);
    round = min_i64(round, l->round + MOST_AHEAD);
    if (l->first == NULL) {
        t->round = l->round;
        t->tokens = max_i64(t->tokens, QUANTUM_TOKENS);
    } else if (t->round < round) {
        t->round = round;
        t->tokens = min_i64(t->tokens + QUANTUM_TOKENS, QUANTUM_TOKENS);
    }
    t->waits = true;
    put_last(l, t);
}

static void line_remove(struct turns_line *l, struct turn *t)
{
    unlink_turn(l, t);
    t->prev = t->next = NULL;
    t->waits = false;
    t->tokens = min_i64(t->tokens, 0);
}

/* Its turn is over: on to the round in which it has tokens again, not far ahead of the others: what
 * it owes beyond is paid there. */
static void next_turn(struct turns_line *l, struct turn *t)
{
    int64_t rounds = 1 + -t->tokens / QUANTUM_TOKENS;
    t->round = max_i64(t->round, l->round);
    rounds = max_i64(1, min_i64(rounds, l->round + MOST_AHEAD - t->round));
    t->tokens += rounds * QUANTUM_TOKENS;
    t->round += rounds;
    unlink_turn(l, t);
    put_last(l, t);
}

/* What may start nowhere was passed over on the way to `found`: its turns until then are gone, but
 * for what it owes. */
static void pass_over(struct turns_line *l, const struct turn *found)
{
    for (struct turn *t = l->first, *next; t != found; t = next) {
        next = t->next;
        if (!t->passed)
            continue;
        int64_t rounds = found->round + 1 - t->round;
        t->tokens = min_i64(t->tokens + rounds * QUANTUM_TOKENS, QUANTUM_TOKENS);
        t->round += rounds;
        unlink_turn(l, t);
        put_last(l, t);
    }
}

/* The first that can use its turn; NULL: nobody can. */
static struct turn *line_turn(struct turns_line *l,
                              enum turn_use (*use)(struct turn *t, void *user), void *user)
{
    bool any_passed = false;
    const struct turn *first = NULL; /* that may start somewhere */
    for (struct turn *t = l->first, *next; t != NULL; t = next) {
        struct turn *before = t->prev;
        enum turn_use u = use(t, user);
        next = t->next;
        t->passed = u == TURN_NOWHERE;
        any_passed |= t->passed;
        first = first == NULL && !t->passed ? t : first;
        if (u != TURN_HERE)
            continue;
        l->round = max_i64(first->round, l->last->round - MOST_AHEAD);
        if (t->tokens > 0) {
            if (any_passed)
                pass_over(l, t);
            l->served = t->round;
            return t;
        }
        next_turn(l, t);
        first = first == t ? NULL : first;
        next = before == NULL ? l->first : before->next;
    }
    return NULL;
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

static struct batch *batch_of(struct turn *t)
{
    return (struct batch *)(void *)((char *)t - offsetof(struct batch, turn));
}

static bool compete(const char *a, const char *b)
{
    return a[0] == '\0' || b[0] == '\0' || strcmp(a, b) == 0;
}

static const struct turn *competitor(const struct turns_line *batches, const char *model,
                                     size_t *most)
{
    const struct turn *t = batches->first;
    while (t != NULL && *most > 0 &&
           !compete(batch_of((struct turn *)(uintptr_t)t)->model, model)) {
        t = t->next;
        --*most;
    }
    return *most > 0 ? t : NULL;
}

/* Where who comes begins: behind those who wait for the same workers, as far as it asks for a model
 * as they do; they may be rounds ahead of the others, or behind. */
enum { LOOK_AT = 256 };

static int64_t first_round_of_batch(const struct turns_line *l, const char *model)
{
    size_t most = LOOK_AT;
    const struct turn *t = competitor(l, model, &most);
    return (t != NULL ? t->round : l->served) + 1;
}

static int64_t first_round_of_user(const struct turns_line *l, const char *model)
{
    size_t most = LOOK_AT;
    const struct turn *t = l->first;
    while (t != NULL && most > 0 &&
           competitor(&((const struct user *)(const void *)t)->batches, model, &most) == NULL)
        t = t->next;
    return (t != NULL && most > 0 ? t->round : l->served) + 1;
}

void turns_begin(struct jobs *j, struct batch *b)
{
    struct turns_line *users = &j->turns[b->schedule.priority];
    if (b->user->batches.first == NULL)
        line_add(users, &b->user->turn, first_round_of_user(users, b->model));
    line_add(&b->user->batches, &b->turn, first_round_of_batch(&b->user->batches, b->model));
}

void turns_end(struct jobs *j, struct batch *b)
{
    line_remove(&b->user->batches, &b->turn);
    if (b->user->batches.first == NULL)
        line_remove(&j->turns[b->schedule.priority], &b->user->turn);
}

const struct turn *turns_of(const struct user *u)
{
    return u->batches.first;
}

size_t turns_batches(const struct user *u)
{
    return u->batch_count;
}

struct asking {
    enum turn_use (*use)(const struct batch *b, const void *user);
    const void *user;
    enum turn_use best;  /* of the batches of the user who was asked last */
    struct batch *found; /* of these, whose turn it is */
};

static enum turn_use batch_use(struct turn *t, void *user)
{
    struct asking *a = user;
    enum turn_use u = a->use(batch_of(t), a->user);
    a->best = u > a->best ? u : a->best;
    return u;
}

/* As the best of its batches. */
static enum turn_use user_use(struct turn *t, void *user)
{
    struct asking *a = user;
    a->best = TURN_NOWHERE;
    struct turn *found = line_turn(&((struct user *)(void *)t)->batches, batch_use, a);
    a->found = found == NULL ? NULL : batch_of(found);
    return a->best;
}

struct batch *turns_next(struct jobs *j, struct batch *last,
                         enum turn_use (*use)(const struct batch *b, const void *user),
                         const void *user)
{
    /* Nothing has changed but what its jobs took: still the first. */
    if (last != NULL && last->turn.waits && last->turn.tokens > 0 && last->user->turn.tokens > 0 &&
        use(last, user) == TURN_HERE)
        return last;
    struct asking a = {.use = use, .user = user};
    for (size_t p = ARRAY_LEN(j->turns); p-- > 0;) {
        if (line_turn(&j->turns[p], user_use, &a) != NULL)
            return a.found;
    }
    return NULL;
}

/* ---- what jobs cost ---- */

/* What comes back takes it back by rounds, but not far behind the others. */
static void charge(struct turns_line *l, struct turn *t, int64_t tokens)
{
    t->tokens = max_i64(t->tokens - tokens, -MOST_OWED_TOKENS);
    int64_t rounds = (t->tokens - 1) / QUANTUM_TOKENS;
    if (t->tokens <= QUANTUM_TOKENS)
        return;
    rounds = max_i64(0, min_i64(rounds, t->round - (l->round - MOST_AHEAD)));
    t->round -= rounds;
    t->tokens = min_i64(t->tokens - rounds * QUANTUM_TOKENS, QUANTUM_TOKENS);
    if (!t->waits || rounds == 0)
        return;
    unlink_turn(l, t);
    put_first(l, t);
}

static void charge_both(struct jobs *j, struct batch *b, int64_t tokens)
{
    charge(&b->user->batches, &b->turn, tokens);
    charge(&j->turns[b->schedule.priority], &b->user->turn, tokens);
}

uint64_t batch_job_tokens(const struct batch *b, uint64_t body_bytes)
{
    double per_byte =
        b->learnt.bytes > 0 ? b->learnt.prompt_tokens / b->learnt.bytes : first_tokens_per_byte;
    double completion =
        b->learnt.jobs > 0 ? b->learnt.completion_tokens / b->learnt.jobs : first_completion_tokens;
    return (uint64_t)(per_byte * (double)body_bytes + completion) + 1;
}

void turns_lease(struct jobs *j, struct job *job)
{
    job->tokens = (uint32_t)min_u64(batch_job_tokens(job->batch, job->body_bytes), UINT32_MAX);
    charge_both(j, job->batch, job->tokens);
}

void turns_give_back(struct jobs *j, struct job *job)
{
    charge_both(j, job->batch, -(int64_t)job->tokens);
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
        charge_both(j, b, tokens - job->tokens);
}
