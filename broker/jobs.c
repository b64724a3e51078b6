/* Leases, epochs, attempts and the queue; see jobs.h. Storing, sending and deciding when to call is
 * the server's; choosing by speed, heat and prefixes will come into jobs_lease. */
#include "broker/jobs.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/size.h"

enum { MAX_HISTORY_BYTES = 3000, DEFAULT_EXTRA_BYTES = 256 << 20, MIN_SLOTS = 64 };

struct jobs {
    struct jobs_events events;
    void *user;
    uint32_t generation;
    uint32_t last_epoch;
    struct job **slots; /* open addressing, linear probing */
    size_t slot_count;  /* a power of two */
    size_t job_count;
    struct job *lists[4]; /* by state; SUBMITTED jobs are in their batch's heap */
    struct batch *batches;
    struct batch *recent; /* found last */
    size_t extra_bytes, max_extra_bytes;
};

enum err jobs_create(uint32_t generation, const struct jobs_events *events, void *user,
                     struct jobs **ret)
{
    struct jobs *j = calloc(1, sizeof *j);
    struct job **slots = calloc(MIN_SLOTS, sizeof *slots);
    if (j == NULL || slots == NULL) {
        free(j);
        free(slots);
        return ERR_NOMEM;
    }
    if (events != NULL)
        j->events = *events;
    j->user = user;
    j->generation = generation;
    j->slots = slots;
    j->slot_count = MIN_SLOTS;
    j->max_extra_bytes = DEFAULT_EXTRA_BYTES;
    *ret = j;
    return ERR_OK;
}

static size_t extra_bytes(const struct job_extra *x)
{
    return x->checkpoint_bytes + (x->history == NULL ? 0 : strlen(x->history));
}

static void free_job(struct jobs *j, struct job *job)
{
    if (job->extra != NULL) {
        j->extra_bytes -= extra_bytes(job->extra);
        free(job->extra->checkpoint);
        free(job->extra->history);
        free(job->extra);
    }
    free(job);
}

void jobs_destroy(struct jobs **jobs)
{
    struct jobs *j = *jobs;
    if (j == NULL)
        return;
    for (size_t i = 0; i < j->slot_count; i++) {
        if (j->slots[i] != NULL)
            free_job(j, j->slots[i]);
    }
    for (struct batch *b = j->batches; b != NULL;) {
        struct batch *next = b->next;
        free(b->name);
        free(b->model);
        free(b->heap);
        free(b);
        b = next;
    }
    free(j->slots);
    free(j);
    *jobs = NULL;
}

size_t jobs_count(const struct jobs *j)
{
    return j->job_count;
}

void jobs_limit_extra(struct jobs *j, size_t max_bytes)
{
    j->max_extra_bytes = max_bytes;
}

/* ---- batches ---- */

enum err jobs_add_batch(struct jobs *j, const struct batch *like, struct batch **ret)
{
    struct batch *b = calloc(1, sizeof *b);
    if (b == NULL)
        return ERR_NOMEM;
    *b = *like;
    b->heap = NULL;
    b->heap_len = b->heap_cap = 0;
    b->leased = 0;
    b->name = strdup(like->name);
    b->model = strdup(like->model == NULL ? "" : like->model);
    if (b->name == NULL || b->model == NULL) {
        free(b->name);
        free(b->model);
        free(b);
        return ERR_NOMEM;
    }
    struct batch **at = &j->batches;
    while (*at != NULL &&
           ((*at)->priority > b->priority || ((*at)->priority == b->priority && (*at)->id < b->id)))
        at = &(*at)->next;
    b->next = *at;
    *at = b;
    *ret = b;
    return ERR_OK;
}

struct batch *jobs_find_batch(const struct jobs *j, struct str name)
{
    for (struct batch *b = j->batches; b != NULL; b = b->next) {
        if (str_eq(str_of(b->name), name))
            return b;
    }
    return NULL;
}

struct batch *jobs_batch(struct jobs *j, uint64_t id)
{
    if (j->recent != NULL && j->recent->id == id)
        return j->recent;
    for (struct batch *b = j->batches; b != NULL; b = b->next) {
        if (b->id == id)
            return j->recent = b;
    }
    return NULL;
}

struct batch *jobs_first_batch(const struct jobs *j)
{
    return j->batches;
}

/* ---- a batch's heap of waiting jobs ---- */

static void heap_set(struct batch *b, uint32_t pos, struct job *job)
{
    b->heap[pos] = job;
    job->heap_pos = pos;
}

static void heap_up(struct batch *b, uint32_t pos)
{
    struct job *job = b->heap[pos];
    while (pos > 0 && b->heap[(pos - 1) / 2]->line > job->line) {
        heap_set(b, pos, b->heap[(pos - 1) / 2]);
        pos = (pos - 1) / 2;
    }
    heap_set(b, pos, job);
}

static void heap_down(struct batch *b, uint32_t pos)
{
    struct job *job = b->heap[pos];
    for (;;) {
        uint32_t child = 2 * pos + 1;
        if (child >= b->heap_len)
            break;
        if (child + 1 < b->heap_len && b->heap[child + 1]->line < b->heap[child]->line)
            child++;
        if (b->heap[child]->line >= job->line)
            break;
        heap_set(b, pos, b->heap[child]);
        pos = child;
    }
    heap_set(b, pos, job);
}

/* Room for every job of the batch is made when the job is added, so that a return cannot fail. */
static enum err heap_reserve(struct batch *b)
{
    uint64_t need = b->heap_len + b->leased + 1;
    if (need <= b->heap_cap)
        return ERR_OK;
    uint64_t cap = need < 16 ? 16 : need + need / 2;
    if (cap > UINT32_MAX)
        return ERR_FULL;
    struct job **heap = realloc(b->heap, cap * sizeof *heap);
    if (heap == NULL)
        return ERR_NOMEM;
    b->heap = heap;
    b->heap_cap = (uint32_t)cap;
    return ERR_OK;
}

static void heap_push(struct job *job)
{
    struct batch *b = job->batch;
    assert(b->heap_len < b->heap_cap);
    heap_set(b, b->heap_len++, job);
    heap_up(b, job->heap_pos);
}

static void heap_remove(struct job *job)
{
    struct batch *b = job->batch;
    uint32_t pos = job->heap_pos;
    struct job *last = b->heap[--b->heap_len];
    if (last == job)
        return;
    heap_set(b, pos, last);
    heap_up(b, pos);
    heap_down(b, last->heap_pos);
}

/* ---- the index by id ---- */

static size_t slot_of(const struct jobs *j, uint64_t id)
{
    return (size_t)((id * UINT64_C(0x9e3779b97f4a7c15)) >> 20) & (j->slot_count - 1);
}

static size_t find_slot(const struct jobs *j, uint64_t id)
{
    size_t i = slot_of(j, id);
    while (j->slots[i] != NULL && j->slots[i]->id != id)
        i = (i + 1) & (j->slot_count - 1);
    return i;
}

static enum err index_reserve(struct jobs *j)
{
    if ((j->job_count + 1) * 4 <= j->slot_count * 3)
        return ERR_OK;
    struct job **old = j->slots;
    size_t old_count = j->slot_count;
    struct job **slots = calloc(old_count * 2, sizeof *slots);
    if (slots == NULL)
        return ERR_NOMEM;
    j->slots = slots;
    j->slot_count = old_count * 2;
    for (size_t i = 0; i < old_count; i++) {
        if (old[i] != NULL)
            j->slots[find_slot(j, old[i]->id)] = old[i];
    }
    free(old);
    return ERR_OK;
}

static void index_remove(struct jobs *j, uint64_t id)
{
    size_t hole = find_slot(j, id);
    j->slots[hole] = NULL;
    for (size_t i = (hole + 1) & (j->slot_count - 1); j->slots[i] != NULL;
         i = (i + 1) & (j->slot_count - 1)) {
        size_t home = slot_of(j, j->slots[i]->id);
        /* move back what could not be found any more behind the hole */
        if (((i - home) & (j->slot_count - 1)) >= ((i - hole) & (j->slot_count - 1))) {
            j->slots[hole] = j->slots[i];
            j->slots[i] = NULL;
            hole = i;
        }
    }
    j->job_count--;
}

struct job *jobs_find(const struct jobs *j, uint64_t id)
{
    return j->slots[find_slot(j, id)];
}

/* ---- states ---- */

static void enter(struct jobs *j, struct job *job, enum job_state state)
{
    job->state = (uint8_t)state;
    if (state == JOB_SUBMITTED) {
        job->owner = 0;
        heap_push(job);
        return;
    }
    job->prev = NULL;
    job->next = j->lists[state];
    if (job->next != NULL)
        job->next->prev = job;
    j->lists[state] = job;
    job->batch->leased++;
}

static void leave(struct jobs *j, struct job *job)
{
    if (job->state == JOB_SUBMITTED) {
        heap_remove(job);
        return;
    }
    if (job->prev != NULL)
        job->prev->next = job->next;
    else
        j->lists[job->state] = job->next;
    if (job->next != NULL)
        job->next->prev = job->prev;
    job->prev = job->next = NULL;
    job->batch->leased--;
}

static void move_to(struct jobs *j, struct job *job, enum job_state state)
{
    leave(j, job);
    enter(j, job, state);
}

enum err jobs_add(struct jobs *j, struct batch *batch, const struct job *like)
{
    if (jobs_find(j, like->id) != NULL)
        return ERR_CONFLICT;
    struct job *job = calloc(1, sizeof *job);
    enum err e = job == NULL ? ERR_NOMEM : index_reserve(j);
    if (e == ERR_OK)
        e = heap_reserve(batch);
    if (e != ERR_OK) {
        free(job);
        return e;
    }
    job->id = like->id;
    job->line = like->line;
    job->body_bytes = like->body_bytes;
    job->attempts = like->attempts;
    job->epoch = like->epoch;
    job->batch = batch;
    j->slots[find_slot(j, job->id)] = job;
    j->job_count++;
    if (job->attempts >= batch->max_attempts) {
        enter(j, job, JOB_POISONED);
    } else if (like->state == JOB_LEASED) {
        job->expires_ns = like->expires_ns;
        enter(j, job, JOB_LEASED);
    } else {
        enter(j, job, JOB_SUBMITTED);
    }
    return ERR_OK;
}

/* The last lease's epoch is current. So is a later one of an earlier generation: the note that this
 * lease was given is not synced and can be lost with the machine, but nobody was given the job
 * since. */
static bool is_current(const struct jobs *j, const struct job *job, uint64_t epoch)
{
    if (epoch == 0)
        return false;
    if (epoch == job->epoch)
        return true;
    return epoch > job->epoch && (epoch >> 32) < j->generation;
}

size_t jobs_lease(struct jobs *j, const struct jobs_want *want, struct job **ret_jobs)
{
    size_t count = 0;
    uint64_t bytes = 0;
    for (struct batch *b = j->batches; b != NULL && count < want->max_jobs; b = b->next) {
        if (b->heap_len == 0)
            continue;
        if (b->model[0] != '\0' && want->has_model != NULL &&
            !want->has_model(want->user, b->model))
            continue;
        while (b->heap_len > 0 && count < want->max_jobs) {
            struct job *job = b->heap[0];
            uint64_t size = job->body_bytes + jobs_checkpoint(job).len; /* both travel with it */
            if (count > 0 && bytes + size > want->max_bytes)
                return count;
            bytes += size;
            move_to(j, job, JOB_LEASED);
            job->epoch = (uint64_t)j->generation << 32 | ++j->last_epoch;
            job->owner = want->owner;
            job->expires_ns = want->expires_ns;
            job->running_tokens = 0;
            ret_jobs[count++] = job;
        }
    }
    return count;
}

bool jobs_claim(struct jobs *j, uint64_t id, uint64_t epoch, uint64_t owner, uint64_t old_owner,
                uint64_t expires_ns)
{
    struct job *job = jobs_find(j, id);
    if (job == NULL || job->state == JOB_POISONED || !is_current(j, job, epoch))
        return false;
    if (job->owner != 0 && job->owner != owner && job->owner != old_owner)
        return false;
    if (job->state == JOB_SUBMITTED)
        move_to(j, job, JOB_LEASED);
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
    if (!is_current(j, job, epoch) && !(job->state == JOB_POISONED && epoch == job->epoch))
        return JOBS_STALE;
    job->epoch = epoch;
    if (job->state != JOB_STORING)
        move_to(j, job, JOB_STORING);
    return JOBS_ACCEPT;
}

void jobs_finished(struct jobs *j, uint64_t id)
{
    struct job *job = jobs_find(j, id);
    if (job == NULL)
        return;
    leave(j, job);
    index_remove(j, id);
    free_job(j, job);
}

void jobs_store_failed(struct jobs *j, uint64_t id, uint64_t epoch, uint64_t expires_ns)
{
    struct job *job = jobs_find(j, id);
    if (job == NULL || job->state != JOB_STORING || job->epoch != epoch)
        return;
    if (job->attempts >= job->batch->max_attempts) {
        move_to(j, job, JOB_POISONED);
    } else if (job->owner != 0) {
        move_to(j, job, JOB_LEASED);
        job->expires_ns = expires_ns;
    } else {
        move_to(j, job, JOB_SUBMITTED);
    }
}

/* ---- the ends of leases ---- */

static struct job_extra *get_extra(struct job *job)
{
    if (job->extra == NULL)
        job->extra = calloc(1, sizeof *job->extra);
    return job->extra;
}

enum err jobs_add_history(struct jobs *j, struct job *job, const char *reason)
{
    struct job_extra *x = get_extra(job);
    if (x == NULL)
        return ERR_NOMEM;
    size_t old = x->history == NULL ? 0 : strlen(x->history);
    size_t room = old + strlen(reason) + 32;
    if (room > MAX_HISTORY_BYTES || j->extra_bytes + room - old > j->max_extra_bytes)
        return ERR_FULL;
    char *text = realloc(x->history, room);
    if (text == NULL)
        return ERR_NOMEM;
    int n = snprintf(text + old, room - old, "%sattempt %u: %s", old > 0 ? "; " : "",
                     ++x->history_count, reason);
    x->history = text;
    j->extra_bytes += n > 0 ? (size_t)n : 0;
    return ERR_OK;
}

static void return_job(struct jobs *j, struct job *job, bool counts, const char *reason)
{
    job->owner = 0;
    job->running_tokens = 0;
    if (counts && job->attempts < UINT8_MAX) {
        job->attempts++;
        enum err e = jobs_add_history(j, job, reason);
        (void)e; /* the history is for people: the count is what matters */
    }
    move_to(j, job, job->attempts >= job->batch->max_attempts ? JOB_POISONED : JOB_SUBMITTED);
    if (j->events.on_returned != NULL)
        j->events.on_returned(j->user, job, counts, reason);
}

bool jobs_release(struct jobs *j, uint64_t id, uint64_t epoch, uint64_t owner, bool counts,
                  const char *reason)
{
    struct job *job = jobs_find(j, id);
    if (job == NULL || job->state != JOB_LEASED || job->epoch != epoch ||
        (owner != 0 && job->owner != owner))
        return false;
    return_job(j, job, counts, reason);
    return true;
}

size_t jobs_release_owner(struct jobs *j, uint64_t owner, bool counts, const char *reason)
{
    size_t count = 0;
    for (struct job *job = j->lists[JOB_STORING]; job != NULL; job = job->next) {
        if (job->owner == owner)
            job->owner = 0; /* its result is on the way; should the write fail, it is queued */
    }
    for (struct job *job = j->lists[JOB_LEASED], *next; job != NULL; job = next) {
        next = job->next;
        if (job->owner == owner) {
            return_job(j, job, counts, reason);
            count++;
        }
    }
    return count;
}

size_t jobs_expire(struct jobs *j, uint64_t now_ns)
{
    size_t count = 0;
    for (struct job *job = j->lists[JOB_LEASED], *next; job != NULL; job = next) {
        next = job->next;
        if (job->expires_ns <= now_ns) {
            bool held = job->owner != 0;
            return_job(j, job, held, held ? "lease expired" : "not claimed after a broker restart");
            count++;
        }
    }
    return count;
}

void jobs_delay(struct jobs *j, uint64_t by_ns)
{
    for (struct job *job = j->lists[JOB_LEASED]; job != NULL; job = job->next)
        job->expires_ns += by_ns;
}

struct job *jobs_poisoned(struct jobs *j)
{
    return j->lists[JOB_POISONED];
}

const char *jobs_history(const struct job *job)
{
    return job->extra == NULL || job->extra->history == NULL ? "" : job->extra->history;
}

/* ---- checkpoints and figures ---- */

void jobs_keep_checkpoint(struct jobs *j, struct job *job, struct str checkpoint)
{
    struct job_extra *x = checkpoint.len == 0 ? NULL : get_extra(job);
    if (x == NULL || j->extra_bytes - x->checkpoint_bytes + checkpoint.len > j->max_extra_bytes)
        return;
    char *copy = malloc(checkpoint.len);
    if (copy == NULL)
        return;
    memcpy(copy, checkpoint.data, checkpoint.len);
    j->extra_bytes = j->extra_bytes - x->checkpoint_bytes + checkpoint.len;
    free(x->checkpoint);
    x->checkpoint = copy;
    x->checkpoint_bytes = checkpoint.len;
}

struct str jobs_checkpoint(const struct job *job)
{
    if (job->extra == NULL)
        return (struct str){0};
    return (struct str){job->extra->checkpoint, job->extra->checkpoint_bytes};
}

size_t jobs_owned(const struct jobs *j, uint64_t owner)
{
    size_t count = 0;
    for (const struct job *job = j->lists[JOB_LEASED]; job != NULL; job = job->next)
        count += job->owner == owner;
    return count;
}

uint64_t jobs_running_tokens(const struct jobs *j, const struct batch *batch)
{
    uint64_t tokens = 0;
    if (batch->leased == 0)
        return 0;
    for (const struct job *job = j->lists[JOB_LEASED]; job != NULL; job = job->next)
        tokens += job->batch == batch ? job->running_tokens : 0;
    return tokens;
}

void jobs_check(const struct jobs *j)
{
    size_t seen = 0, listed = 0, heaped = 0;
    for (size_t i = 0; i < j->slot_count; i++) {
        const struct job *job = j->slots[i];
        if (job == NULL)
            continue;
        seen++;
        assert(jobs_find(j, job->id) == job);
        assert(job->state <= JOB_POISONED);
        assert((job->state == JOB_POISONED) == (job->attempts >= job->batch->max_attempts) ||
               job->state == JOB_STORING);
        if (job->state == JOB_SUBMITTED) {
            heaped++;
            assert(job->owner == 0 && job->batch->heap[job->heap_pos] == job);
            assert(job->heap_pos == 0 ||
                   job->batch->heap[(job->heap_pos - 1) / 2]->line <= job->line);
        }
    }
    assert(seen == j->job_count);
    for (int state = JOB_LEASED; state <= JOB_POISONED; state++) {
        for (const struct job *job = j->lists[state]; job != NULL; job = job->next) {
            listed++;
            assert(job->state == state && jobs_find(j, job->id) == job);
            assert(job->next == NULL || job->next->prev == job);
        }
    }
    assert(listed + heaped == seen);
    uint64_t in_heaps = 0, leased = 0;
    for (const struct batch *b = j->batches; b != NULL; b = b->next) {
        in_heaps += b->heap_len;
        leased += b->leased;
        assert(b->heap_len + b->leased <= b->heap_cap || b->heap_cap == 0);
    }
    assert(in_heaps == heaped && leased == listed);
}
