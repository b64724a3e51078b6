/* The batches: in order of priority and age, by id and by name, and those among them that have jobs
 * waiting. Thousands of finished ones cost those at work nothing. */
#include <assert.h>
#include <stdlib.h>

#include "base/hash.h"
#include "broker/jobs_impl.h"

static bool comes_before(const struct batch *a, const struct batch *b)
{
    uint64_t pa = a->schedule.priority, pb = b->schedule.priority;
    return pa > pb || (pa == pb && a->id < b->id);
}

/* How many batches have a smaller id. */
static size_t find_id(const struct jobs *j, uint64_t id)
{
    size_t low = 0, high = j->batch_count;
    while (low < high) {
        size_t mid = low + (high - low) / 2;
        if (j->by_id[mid]->id < id)
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

static bool add_id(struct jobs *j, struct batch *b)
{
    if (j->batch_count == j->by_id_cap) {
        size_t cap = j->by_id_cap == 0 ? 16 : 2 * j->by_id_cap;
        struct batch **by_id = realloc(j->by_id, cap * sizeof(struct batch *));
        if (by_id == NULL)
            return false;
        j->by_id = by_id;
        j->by_id_cap = cap;
    }
    size_t at = find_id(j, b->id);
    memmove(j->by_id + at + 1, j->by_id + at, (j->batch_count - at) * sizeof(struct batch *));
    j->by_id[at] = b;
    j->batch_count++;
    return true;
}

/* Where the batch of that name is, or would be. */
static size_t find_name(const struct jobs *j, struct str name)
{
    size_t mask = j->by_name_cap - 1;
    size_t i = (size_t)hash64(name.data, name.len, 0) & mask;
    while (j->by_name[i] != NULL && !str_eq(str_of(j->by_name[i]->name), name))
        i = (i + 1) & mask;
    return i;
}

/* What stands behind it closes the gap, as far as it is not at its own place. */
static void remove_name(struct jobs *j, const struct batch *b)
{
    size_t mask = j->by_name_cap - 1, i = find_name(j, str_of(b->name));
    j->by_name[i] = NULL;
    for (i = (i + 1) & mask; j->by_name[i] != NULL; i = (i + 1) & mask) {
        struct batch *moved = j->by_name[i];
        j->by_name[i] = NULL;
        j->by_name[find_name(j, str_of(moved->name))] = moved;
    }
}

/* Room for one more name. */
static bool reserve_name(struct jobs *j)
{
    if ((j->batch_count + 1) * 4 <= j->by_name_cap * 3)
        return true;
    size_t old_cap = j->by_name_cap, cap = old_cap == 0 ? 16 : 2 * old_cap;
    struct batch **old = j->by_name, **by_name = calloc(cap, sizeof(struct batch *));
    if (by_name == NULL)
        return false;
    j->by_name = by_name;
    j->by_name_cap = cap;
    for (size_t i = 0; i < old_cap; i++) {
        if (old[i] != NULL)
            by_name[find_name(j, str_of(old[i]->name))] = old[i];
    }
    free(old);
    return true;
}

/* By priority and age; mostly it is the last. */
static void list_batch(struct jobs *j, struct batch *b)
{
    struct batch **at = j->last_batch != NULL && comes_before(j->last_batch, b)
                            ? &j->last_batch->next
                            : &j->batches;
    while (*at != NULL && comes_before(*at, b))
        at = &(*at)->next;
    b->next = *at;
    *at = b;
    if (b->next == NULL)
        j->last_batch = b;
}

static void unlist_batch(struct jobs *j, struct batch *b)
{
    struct batch **at = &j->batches, *before = NULL;
    for (; *at != b; at = &(*at)->next)
        before = *at;
    *at = b->next;
    if (j->last_batch == b)
        j->last_batch = before;
}

static void free_batch(struct batch *b)
{
    free(b->name);
    free(b->model);
    free(b->client);
    free(b->heap);
    free(b);
}

enum err jobs_add_batch(struct jobs *j, const struct batch *like, struct batch **ret)
{
    if (jobs_find_batch(j, str_of(like->name)) != NULL)
        return ERR_CONFLICT;
    struct batch *b = calloc(1, sizeof *b);
    if (b == NULL)
        return ERR_NOMEM;
    *b = *like;
    b->heap = NULL;
    b->heap_len = b->heap_cap = 0;
    b->leased = b->bytes = 0;
    b->turn = (struct turn){0};
    b->prev_waiting = b->next_waiting = NULL;
    b->name = strdup(like->name);
    b->model = strdup(like->model == NULL ? "" : like->model);
    b->client = strdup(like->client == NULL ? "" : like->client);
    bool whole = b->name != NULL && b->model != NULL && b->client != NULL && reserve_name(j) &&
                 turns_join(j, b) == ERR_OK;
    if (!whole || !add_id(j, b)) {
        if (whole)
            turns_leave(j, b->user);
        free_batch(b);
        return ERR_NOMEM;
    }
    j->by_name[find_name(j, str_of(b->name))] = b;
    list_batch(j, b);
    *ret = b;
    return ERR_OK;
}

enum err jobs_reschedule(struct jobs *j, struct batch *b, const struct rec_SCHEDULE *schedule)
{
    uint64_t old = b->schedule.priority;
    bool waits = batch_waiting(b) > 0;
    if (schedule->priority == old) {
        b->schedule = *schedule;
        return ERR_OK;
    }
    struct batch moved = *b; /* what turns_join() would change */
    moved.schedule.priority = schedule->priority;
    if (turns_join(j, &moved) != ERR_OK)
        return ERR_NOMEM;
    if (waits)
        batch_ends_waiting(j, b);
    unlist_batch(j, b);
    turns_leave(j, b->user);
    b->schedule = *schedule;
    b->user = moved.user;
    list_batch(j, b);
    if (waits)
        batch_begins_waiting(j, b);
    return ERR_OK;
}

void jobs_unname_batch(struct jobs *j, struct batch *b)
{
    if (!b->unnamed)
        remove_name(j, b);
    b->unnamed = true;
}

void jobs_remove_batch(struct jobs *j, struct batch *b)
{
    size_t at = find_id(j, b->id);
    assert(batch_waiting(b) == 0 && b->leased == 0 && b->bytes == 0);
    memmove(j->by_id + at, j->by_id + at + 1, (j->batch_count - at - 1) * sizeof(struct batch *));
    j->batch_count--;
    jobs_unname_batch(j, b);
    unlist_batch(j, b);
    turns_leave(j, b->user);
    free_batch(b);
}

struct batch *jobs_find_batch(const struct jobs *j, struct str name)
{
    return j->by_name_cap == 0 ? NULL : j->by_name[find_name(j, name)];
}

struct batch *jobs_batch(struct jobs *j, uint64_t id)
{
    size_t at = find_id(j, id);
    return at < j->batch_count && j->by_id[at]->id == id ? j->by_id[at] : NULL;
}

struct batch *jobs_first_batch(const struct jobs *j)
{
    return j->batches;
}

const struct batch *jobs_first_waiting(const struct jobs *j)
{
    return j->waiting;
}

/* From both ends: mostly it is one of the last, as when a broker with thousands of them starts, or
 * of the first. */
void batch_begins_waiting(struct jobs *j, struct batch *b)
{
    struct batch *before = j->last_waiting, *after = j->waiting;
    while (after != NULL && comes_before(after, b) && comes_before(b, before)) {
        after = after->next_waiting;
        before = before->prev_waiting;
    }
    if (after != NULL && comes_before(after, b)) /* then `before` does, too, as the last one */
        after = before->next_waiting;
    before = after == NULL ? j->last_waiting : after->prev_waiting;
    b->prev_waiting = before;
    b->next_waiting = after;
    if (before != NULL)
        before->next_waiting = b;
    else
        j->waiting = b;
    if (after != NULL)
        after->prev_waiting = b;
    else
        j->last_waiting = b;
    turns_begin(j, b);
}

void batch_ends_waiting(struct jobs *j, struct batch *b)
{
    if (b->prev_waiting != NULL)
        b->prev_waiting->next_waiting = b->next_waiting;
    else
        j->waiting = b->next_waiting;
    if (b->next_waiting != NULL)
        b->next_waiting->prev_waiting = b->prev_waiting;
    else
        j->last_waiting = b->prev_waiting;
    b->prev_waiting = b->next_waiting = NULL;
    turns_end(j, b);
}

void batches_free(struct jobs *j)
{
    for (struct batch *b = j->batches; b != NULL;) {
        struct batch *next = b->next;
        free_batch(b);
        b = next;
    }
    turns_free(j);
    free(j->by_id);
    free(j->by_name);
}
