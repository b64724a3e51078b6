/* Private to jobs*.c: finding a job by its id. Ids are given in ascending order and jobs end in
 * about that order, so they are kept in groups of consecutive ids, and groups are found by hashing:
 * a million jobs are a table of 16,000 entries, which grows without a noticeable pause. A group
 * without jobs is freed, a table without groups too. */
#ifndef OCTO_BROKER_JOBS_TABLE_H
#define OCTO_BROKER_JOBS_TABLE_H

#include <stdint.h>

#include "broker/jobs.h"

struct jobs_group;

struct jobs_table {            /* zero-initialised is empty */
    struct jobs_group **slots; /* open addressing, linear probing */
    size_t slot_count;         /* a power of two, or 0 */
    size_t group_count;
};

struct job *table_find(const struct jobs_table *t, uint64_t id); /* NULL: not there */
/* The job's id must not be there. */
enum err table_add(struct jobs_table *t, struct job *job) MUST_CHECK;
void table_remove(struct jobs_table *t, uint64_t id); /* nothing when it is not there */
/* Each job once, in any order, as long as nothing is added or removed; *at starts as 0. NULL: that
 * was the last. */
struct job *table_next(const struct jobs_table *t, size_t *at);
void table_free(struct jobs_table *t);

#endif
