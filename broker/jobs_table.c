/* See jobs_table.h. */
#include "broker/jobs_table.h"

#include <stdlib.h>

enum { GROUP_JOBS = 64, MIN_SLOTS = 64 };

struct jobs_group {
    uint64_t number; /* of its jobs' ids, divided by GROUP_JOBS */
    size_t count;
    struct job *jobs[GROUP_JOBS];
};

static size_t home_of(const struct jobs_table *t, uint64_t number)
{
    return (size_t)((number * UINT64_C(0x9e3779b97f4a7c15)) >> 20) & (t->slot_count - 1);
}

/* Where the group is, or would be. */
static size_t find_slot(const struct jobs_table *t, uint64_t number)
{
    size_t i = home_of(t, number);
    while (t->slots[i] != NULL && t->slots[i]->number != number)
        i = (i + 1) & (t->slot_count - 1);
    return i;
}

struct job *table_find(const struct jobs_table *t, uint64_t id)
{
    if (t->slot_count == 0)
        return NULL;
    const struct jobs_group *g = t->slots[find_slot(t, id / GROUP_JOBS)];
    return g == NULL ? NULL : g->jobs[id % GROUP_JOBS];
}

/* Room for one more group. */
static enum err reserve(struct jobs_table *t)
{
    if ((t->group_count + 1) * 4 <= t->slot_count * 3)
        return ERR_OK;
    struct jobs_table grown = {.slot_count = t->slot_count == 0 ? MIN_SLOTS : 2 * t->slot_count,
                               .group_count = t->group_count};
    grown.slots = calloc(grown.slot_count, sizeof(struct jobs_group *));
    if (grown.slots == NULL)
        return ERR_NOMEM;
    for (size_t i = 0; i < t->slot_count; i++) {
        if (t->slots[i] != NULL)
            grown.slots[find_slot(&grown, t->slots[i]->number)] = t->slots[i];
    }
    free(t->slots);
    *t = grown;
    return ERR_OK;
}

enum err table_add(struct jobs_table *t, struct job *job)
{
    enum err e = reserve(t);
    if (e != ERR_OK)
        return e;
    struct jobs_group **at = &t->slots[find_slot(t, job->id / GROUP_JOBS)];
    if (*at == NULL) {
        struct jobs_group *g = calloc(1, sizeof *g);
        if (g == NULL)
            return ERR_NOMEM;
        g->number = job->id / GROUP_JOBS;
        t->group_count++;
        *at = g;
    }
    (*at)->count++;
    (*at)->jobs[job->id % GROUP_JOBS] = job;
    return ERR_OK;
}

/* The hole that a group leaves is closed: behind it, what could not be found any more moves back.
 */
static void remove_group(struct jobs_table *t, size_t hole)
{
    size_t mask = t->slot_count - 1;
    free(t->slots[hole]);
    t->slots[hole] = NULL;
    for (size_t i = (hole + 1) & mask; t->slots[i] != NULL; i = (i + 1) & mask) {
        size_t home = home_of(t, t->slots[i]->number);
        if (((i - home) & mask) >= ((i - hole) & mask)) {
            t->slots[hole] = t->slots[i];
            t->slots[i] = NULL;
            hole = i;
        }
    }
    if (--t->group_count == 0)
        table_free(t);
}

void table_remove(struct jobs_table *t, uint64_t id)
{
    if (table_find(t, id) == NULL)
        return;
    size_t slot = find_slot(t, id / GROUP_JOBS);
    t->slots[slot]->jobs[id % GROUP_JOBS] = NULL;
    if (--t->slots[slot]->count == 0)
        remove_group(t, slot);
}

struct job *table_next(const struct jobs_table *t, size_t *at)
{
    for (; *at / GROUP_JOBS < t->slot_count; ++*at) {
        const struct jobs_group *g = t->slots[*at / GROUP_JOBS];
        struct job *job = g == NULL ? NULL : g->jobs[*at % GROUP_JOBS];
        if (job != NULL) {
            ++*at;
            return job;
        }
    }
    return NULL;
}

void table_free(struct jobs_table *t)
{
    for (size_t i = 0; i < t->slot_count; i++)
        free(t->slots[i]);
    free(t->slots);
    *t = (struct jobs_table){0};
}
