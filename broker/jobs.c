/* States, epochs, attempts and the ends of leases; see jobs.h. Who is given what is jobs_lease.c's,
 * whose turn it is jobs_turns.c's; storing, sending and deciding when to call is the server's. */
#include "broker/jobs.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/hash.h"
#include "base/size.h"
#include "broker/jobs_impl.h"

enum err jobs_create(uint32_t generation, const struct jobs_events *events, void *user,
                     struct jobs **ret)
{
    struct jobs *j = calloc(1, sizeof *j);
    if (j == NULL)
        return ERR_NOMEM;
    if (events != NULL)
        j->events = *events;
    j->user = user;
    j->generation = generation;
    j->last_epoch = (uint64_t)generation << 32;
    j->slab.item_bytes = sizeof(struct job);
    j->max_extra_bytes = DEFAULT_EXTRA_BYTES;
    *ret = j;
    return ERR_OK;
}

void jobs_set_secret(struct jobs *j, uint64_t secret)
{
    j->secret = secret;
}

static void free_job(struct jobs *j, struct job *job)
{
    job_free_extra(j, job);
    slab_give(&j->slab, job);
}

void jobs_destroy(struct jobs **jobs)
{
    struct jobs *j = *jobs;
    if (j == NULL)
        return;
    size_t at = 0;
    for (struct job *job; (job = table_next(&j->table, &at)) != NULL;)
        free_job(j, job);
    batches_free(j);
    slab_free(&j->slab);
    table_free(&j->table);
    free(j);
    *jobs = NULL;
}

size_t jobs_count(const struct jobs *j)
{
    return j->job_count;
}

size_t jobs_leased(const struct jobs *j)
{
    return j->leased;
}

size_t jobs_batch_count(const struct jobs *j)
{
    return j->batch_count;
}

uint64_t jobs_bytes(const struct jobs *j)
{
    return j->bytes;
}

struct job *jobs_find(const struct jobs *j, uint64_t id)
{
    return table_find(&j->table, id);
}

size_t jobs_suspects(const struct jobs *j)
{
    return j->suspects;
}

/* ---- states ---- */

/* Its result will be the server's. */
static bool is_doomed(const struct job *job)
{
    return job->batch->expired || job->strikes >= job->batch->max_attempts;
}

static void enter(struct jobs *j, struct job *job, enum job_state state)
{
    job->state = (uint8_t)state;
    job->alone = false;
    if (state == JOB_SUBMITTED) {
        job->owner = 0;
        if (batch_waiting(job->batch) == 0)
            batch_begins_waiting(j, job->batch);
        queue_push(job);
        return;
    }
    job->prev = NULL;
    job->next = j->lists[state];
    if (job->next != NULL)
        job->next->prev = job;
    j->lists[state] = job;
    j->leased += state == JOB_LEASED;
    job->batch->leased++;
}

static void leave(struct jobs *j, struct job *job)
{
    if (job->state == JOB_SUBMITTED) {
        queue_remove(job);
        if (batch_waiting(job->batch) == 0)
            batch_ends_waiting(j, job->batch);
        return;
    }
    if (job->prev != NULL)
        job->prev->next = job->next;
    else
        j->lists[job->state] = job->next;
    if (job->next != NULL)
        job->next->prev = job->prev;
    job->prev = job->next = NULL;
    j->leased -= job->state == JOB_LEASED;
    job->batch->leased--;
}

void job_move(struct jobs *j, struct job *job, enum job_state state)
{
    leave(j, job);
    enter(j, job, state);
}

uint32_t jobs_prefix(struct jobs *j, const uint64_t *hashes, size_t count)
{
    return prefix_of(&j->prefixes, hashes, count);
}

enum err jobs_add(struct jobs *j, struct batch *batch, const struct job *like)
{
    if (jobs_find(j, like->id) != NULL)
        return ERR_CONFLICT;
    struct job *job = slab_take(&j->slab);
    enum err e = job == NULL ? ERR_NOMEM : queue_reserve(batch);
    if (e == ERR_OK) {
        job->id = like->id;
        e = table_add(&j->table, job);
    }
    if (e != ERR_OK) {
        if (job != NULL)
            slab_give(&j->slab, job);
        return e;
    }
    job->line = like->line;
    job->body_bytes = like->body_bytes;
    job->prefix = like->prefix;
    job->attempts = like->attempts;
    job->strikes = like->strikes;
    j->suspects += job->attempts > 0;
    job->epoch = like->epoch;
    job->batch = batch;
    j->job_count++;
    batch->bytes += job->body_bytes;
    j->bytes += job->body_bytes;
    if (is_doomed(job)) {
        enter(j, job, JOB_DOOMED);
    } else if (like->state == JOB_LEASED) {
        job->expires_ns = like->expires_ns;
        enter(j, job, JOB_LEASED);
    } else {
        enter(j, job, JOB_SUBMITTED);
    }
    return ERR_OK;
}

enum { TAG_BITS = 16 };

/* The epoch with that number: of a run, its generation's first is generation << TAG_BITS. */
static uint64_t tagged(const struct jobs *j, uint64_t number)
{
    const uint64_t key[2] = {j->secret, 0}, mask = (UINT64_C(1) << TAG_BITS) - 1;
    return number << TAG_BITS | (hash64_keyed(&number, sizeof number, key) & mask);
}

/* The last lease's epoch is current. So is a later one of an earlier generation that has its tag:
 * the note that this lease was given is not synced and can be lost with the machine, but nobody was
 * given the job since. Generations begin with 1: a smaller epoch is made up. */
static bool is_current(const struct jobs *j, const struct job *job, uint64_t epoch)
{
    if (epoch >> 32 == 0)
        return false;
    const struct lease *twin = job_twin(job);
    if (epoch == job->epoch || (twin != NULL && epoch == twin->epoch))
        return true;
    return epoch > job->epoch && epoch >> 32 < j->generation &&
           (j->secret == 0 || epoch == tagged(j, epoch >> TAG_BITS));
}

void jobs_set_time(struct jobs *j, uint64_t now_ns, uint64_t wall_ms, unsigned day_min)
{
    j->now_ns = now_ns;
    j->wall_ms = wall_ms;
    j->day_min = day_min;
}

uint64_t jobs_new_epoch(struct jobs *j)
{
    j->last_epoch = j->secret == 0 ? j->last_epoch + 1 : tagged(j, (j->last_epoch >> TAG_BITS) + 1);
    return j->last_epoch;
}

const struct job *jobs_first(const struct jobs *j, enum job_state state)
{
    return j->lists[state];
}

bool jobs_claim(struct jobs *j, uint64_t id, uint64_t epoch, uint64_t owner, uint64_t old_owner,
                uint64_t expires_ns)
{
    struct job *job = jobs_find(j, id);
    if (job == NULL || job->state == JOB_DOOMED || !is_current(j, job, epoch))
        return false;
    struct lease *twin = twin_of(job);
    if (twin != NULL && epoch == twin->epoch) {
        if (twin->owner != 0 && twin->owner != owner && twin->owner != old_owner)
            return false;
        if (twin->owner == 0)
            twin->leased_ms = (uint32_t)(j->now_ns / NS_PER_MS);
        twin->owner = owner;
        twin->expires_ns = expires_ns;
        return true;
    }
    if (job->owner != 0 && job->owner != owner && job->owner != old_owner)
        return false;
    bool older = job->owner == 0 && epoch >> 32 < j->generation; /* than this run: since when? */
    if (older)
        job->leased_ms = (uint32_t)(j->now_ns / NS_PER_MS);
    if (job->state == JOB_SUBMITTED) {
        job_move(j, job, JOB_LEASED);
        if (!older)
            turns_lease(j, job);
    }
    job->epoch = epoch;
    job->owner = owner;
    job->expires_ns = expires_ns;
    return true;
}

enum jobs_verdict jobs_result(struct jobs *j, uint64_t id, uint64_t epoch)
{
    struct job *job = jobs_find(j, id);
    if (job == NULL)
        return JOBS_GONE;
    if (!is_current(j, job, epoch) && !(job->state == JOB_DOOMED && epoch == job->epoch))
        return JOBS_STALE;
    const struct lease *twin = job_twin(job);
    if (twin != NULL && twin->epoch == epoch)
        twin_swap(job);
    job->epoch = epoch;
    if (job->state != JOB_STORING)
        job_move(j, job, JOB_STORING);
    return JOBS_ACCEPT;
}

/* Batches stay for ever, and so would the memory that their queues once took. */
static void shrink(struct batch *b)
{
    if (batch_waiting(b) + b->leased > 0)
        return;
    free(b->heap);
    b->heap = NULL;
    b->heap_cap = 0;
}

void jobs_finished(struct jobs *j, uint64_t id)
{
    struct job *job = jobs_find(j, id);
    if (job == NULL)
        return;
    struct batch *b = job->batch;
    leave(j, job);
    j->suspects -= job->attempts > 0;
    job->batch->bytes -= job->body_bytes;
    j->bytes -= job->body_bytes;
    table_remove(&j->table, id);
    j->job_count--;
    free_job(j, job);
    shrink(b);
}

void jobs_store_failed(struct jobs *j, uint64_t id, uint64_t epoch, uint64_t expires_ns)
{
    struct job *job = jobs_find(j, id);
    if (job == NULL || job->state != JOB_STORING || job->epoch != epoch)
        return;
    if (is_doomed(job)) {
        job_move(j, job, JOB_DOOMED);
    } else if (job->owner != 0 || twin_takes_over(job)) {
        job_move(j, job, JOB_LEASED);
        job->expires_ns = expires_ns;
    } else {
        job_move(j, job, JOB_SUBMITTED);
    }
}

/* ---- the ends of leases ---- */

enum err jobs_add_loss(struct jobs *j, struct job *job, const char *reason)
{
    bool strike = strncmp(reason, JOBS_ALONE, sizeof JOBS_ALONE - 1) == 0;
    if (strike && job->state == JOB_SUBMITTED && job->strikes < job->attempts) {
        leave(j, job); /* from the line of a suspect with company, maybe */
        job->strikes++;
        enter(j, job, is_doomed(job) ? JOB_DOOMED : JOB_SUBMITTED);
    } else if (strike && job->state == JOB_LEASED && job->strikes < job->attempts) {
        job->strikes++;
    }
    return job_add_history(j, job, reason);
}

static void return_job(struct jobs *j, struct job *job, bool counts, const char *reason)
{
    char text[sizeof JOBS_ALONE + 600];
    if (twin_takes_over(job))
        return;
    bool strike = counts && job->alone;
    snprintf(text, sizeof text, "%s%.599s", strike ? JOBS_ALONE : "", reason);
    leave(j, job);
    job->owner = 0;
    job->running_tokens = 0;
    turns_give_back(j, job);
    if (counts) {
        j->suspects += job->attempts == 0;
        job->attempts += job->attempts < UINT8_MAX;
        job->strikes += strike && job->strikes < UINT8_MAX;
        enum err e = job_add_history(j, job, text);
        (void)e; /* the history is for people: the count is what matters */
    }
    enter(j, job, is_doomed(job) ? JOB_DOOMED : JOB_SUBMITTED);
    if (j->events.on_returned != NULL)
        j->events.on_returned(j->user, job, counts, text);
}

bool jobs_release(struct jobs *j, uint64_t id, uint64_t epoch, uint64_t owner, bool counts,
                  const char *reason)
{
    struct job *job = jobs_find(j, id);
    if (job == NULL || job->state != JOB_LEASED)
        return false;
    const struct lease *twin = job_twin(job);
    if (twin != NULL && twin->epoch == epoch && (owner == 0 || twin->owner == owner)) {
        twin_drop(job);
        return true;
    }
    if (job->epoch != epoch || (owner != 0 && job->owner != owner))
        return false;
    return_job(j, job, counts, reason);
    return true;
}

static int compare_owner(const void *key, const void *at)
{
    uint64_t owner = *(const uint64_t *)key, other = *(const uint64_t *)at;
    return owner < other ? -1 : owner > other;
}

void *jobs_find_owner(const void *items, size_t count, size_t item_bytes, uint64_t owner)
{
    return bsearch(&owner, items, count, item_bytes, compare_owner);
}

/* NULL: it stays. */
static struct jobs_gone *find_gone(struct jobs_gone *gone, size_t count, uint64_t owner)
{
    return jobs_find_owner(gone, count, sizeof *gone, owner);
}

void jobs_release_owners(struct jobs *j, struct jobs_gone *gone, size_t count, bool counts,
                         const char *reason)
{
    for (size_t i = 0; i < count; i++)
        prefix_forget(&j->prefixes, gone[i].owner);
    for (int state = JOB_LEASED; state <= JOB_STORING; state++) {
        for (struct job *job = j->lists[state], *next; job != NULL; job = next) {
            const struct lease *twin = twin_of(job);
            next = job->next;
            if (twin != NULL && find_gone(gone, count, twin->owner) != NULL)
                twin_drop(job);
            struct jobs_gone *g = find_gone(gone, count, job->owner);
            if (g == NULL)
                continue;
            if (state == JOB_STORING) {
                job->owner = 0; /* its result is on the way; should the write fail, it is queued */
                continue;
            }
            return_job(j, job, counts, reason);
            g->ret_jobs++;
        }
    }
}

size_t jobs_release_owner(struct jobs *j, uint64_t owner, bool counts, const char *reason)
{
    struct jobs_gone gone = {.owner = owner};
    jobs_release_owners(j, &gone, 1, counts, reason);
    return gone.ret_jobs;
}

bool jobs_defer(struct jobs *j, uint64_t id, uint64_t epoch, uint64_t owner, uint64_t now_ns)
{
    struct job *job = jobs_find(j, id);
    if (job == NULL || job->state != JOB_LEASED || job->epoch != epoch || job->owner != owner)
        return false;
    struct job_extra *x = job_get_extra(job); /* no memory: as the first time */
    unsigned before = x == NULL ? 0 : x->deferred;
    if (before + 1 >= JOBS_DEFERRED_MOST)
        return false;
    if (x != NULL)
        x->deferred++;
    job->owner = 0;
    job->expires_ns = now_ns + (NS_PER_S << before);
    return true;
}

void jobs_renew_owner(struct jobs *j, uint64_t owner, uint64_t expires_ns)
{
    for (struct job *job = j->lists[JOB_LEASED]; job != NULL; job = job->next) {
        struct lease *twin = twin_of(job);
        if (job->owner == owner)
            job->expires_ns = max_u64(job->expires_ns, expires_ns);
        if (twin != NULL && twin->owner == owner)
            twin->expires_ns = max_u64(twin->expires_ns, expires_ns);
    }
}

size_t jobs_expire(struct jobs *j, uint64_t now_ns)
{
    size_t count = 0;
    for (struct job *job = j->lists[JOB_LEASED], *next; job != NULL; job = next) {
        const struct lease *twin = twin_of(job);
        next = job->next;
        if (twin != NULL && twin->expires_ns <= now_ns)
            twin_drop(job);
        if (job->expires_ns <= now_ns) {
            bool held = job->owner != 0;
            return_job(j, job, held, held ? "lease expired" : "nobody holds it");
            count++;
        }
    }
    return count;
}

void jobs_delay(struct jobs *j, uint64_t by_ns)
{
    for (struct job *job = j->lists[JOB_LEASED]; job != NULL; job = job->next) {
        struct lease *twin = twin_of(job);
        job->expires_ns += by_ns;
        if (twin != NULL)
            twin->expires_ns += by_ns;
    }
}

struct job *jobs_doomed(struct jobs *j)
{
    return j->lists[JOB_DOOMED];
}

size_t jobs_expire_batch(struct jobs *j, struct batch *b, size_t max)
{
    size_t count = 0;
    b->expired = true;
    for (struct job *job = j->lists[JOB_LEASED], *next; job != NULL && count < max; job = next) {
        next = job->next;
        if (job->batch == b) {
            job_move(j, job, JOB_DOOMED);
            count++;
        }
    }
    while (count < max && batch_waiting(b) > 0) {
        struct job *job = b->heap_len > 0            ? b->heap[0]
                          : b->suspects[0].count > 0 ? b->suspects[0].first
                                                     : b->suspects[1].first;
        job_move(j, job, JOB_DOOMED);
        count++;
    }
    return count;
}
