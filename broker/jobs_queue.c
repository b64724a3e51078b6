/* A batch's waiting jobs: a heap by line, and two lines of suspects. */
#include <assert.h>
#include <stdlib.h>

#include "broker/jobs_impl.h"

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
enum err queue_reserve(struct batch *b)
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

/* ---- suspects ---- */

/* A second loss, or one that was alone: no company any more. */
bool job_must_be_alone(const struct job *job)
{
    return job->attempts > 1 || job->strikes > 0;
}

static void suspect_push(struct job *job)
{
    struct jobs_line *line = &job->batch->suspects[job_must_be_alone(job)];
    job->next = NULL;
    job->prev = line->last;
    if (line->last != NULL)
        line->last->next = job;
    else
        line->first = job;
    line->last = job;
    line->count++;
}

static void suspect_remove(struct job *job)
{
    struct jobs_line *line = &job->batch->suspects[job_must_be_alone(job)];
    if (job->prev != NULL)
        job->prev->next = job->next;
    else
        line->first = job->next;
    if (job->next != NULL)
        job->next->prev = job->prev;
    else
        line->last = job->prev;
    job->prev = job->next = NULL;
    line->count--;
}

uint64_t batch_waiting(const struct batch *b)
{
    return (uint64_t)b->heap_len + b->suspects[0].count + b->suspects[1].count;
}

void queue_push(struct job *job)
{
    if (job->attempts > 0)
        suspect_push(job);
    else
        heap_push(job);
}

void queue_remove(struct job *job)
{
    if (job->attempts > 0)
        suspect_remove(job);
    else
        heap_remove(job);
}

/* ---- prefixes ---- */

enum { LOOK_AT = 128, LOOK_AHEAD_LINES = 512 };

/* The first lines of a batch are at the front of its heap, nearly in order. None waits for lines
 * that are far behind it. */
struct job *queue_pick(const struct jobs *j, const struct batch *b, uint64_t owner)
{
    struct job *best = b->heap[0];
    uint64_t end = best->line + LOOK_AHEAD_LINES;
    enum prefix_fit fit =
        best->prefix == 0 ? PREFIX_HERE : prefix_fits(&j->prefixes, best->prefix, owner);
    for (uint32_t i = 1; fit != PREFIX_HERE && i < b->heap_len && i < LOOK_AT; i++) {
        struct job *job = b->heap[i];
        enum prefix_fit other = prefix_fits(&j->prefixes, job->prefix, owner);
        if (other > fit && job->line < end) {
            best = job;
            fit = other;
        }
    }
    return best;
}
