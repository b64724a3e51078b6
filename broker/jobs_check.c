/* What must be true of the index at all times; for tests. */
#include <assert.h>

#include "base/size.h"
#include "broker/jobs_impl.h"

static size_t line_len(const struct turn *first)
{
    size_t len = 0;
    for (const struct turn *t = first; t != NULL; t = t->next, len++) {
        assert(t->waits && (t == first) == (t->prev == NULL));
        assert(t->next == NULL || (t->next->prev == t && t->next->round >= t->round));
    }
    return len;
}

/* Each batch with waiting jobs has its place in a line, each user with one too, and nobody else. */
static void check_turns(const struct jobs *j)
{
    size_t batches = 0, users = 0, waiting = 0, in_lines = 0, in_users = 0, of_users = 0;
    for (const struct batch *b = j->batches; b != NULL; b = b->next) {
        batches += batch_waiting(b) > 0;
        assert(b->turn.waits == (batch_waiting(b) > 0));
    }
    for (size_t i = 0; i < j->users_count; i++) {
        const struct turn *first = turns_of(j->users[i]);
        in_lines += line_len(first);
        in_users += first != NULL;
        of_users += turns_batches(j->users[i]);
    }
    for (size_t p = 0; p < ARRAY_LEN(j->turns); p++)
        users += line_len(j->turns[p].first);
    for (const struct batch *b = j->waiting; b != NULL; b = b->next_waiting) {
        waiting++;
        assert(b->next_waiting != NULL || b == j->last_waiting);
    }
    assert(batches == waiting && batches == in_lines && users == in_users);
    assert(of_users == j->batch_count && j->users_count <= j->batch_count);
}

void jobs_check(const struct jobs *j)
{
    check_turns(j);
    uint64_t bytes = 0;
    size_t seen = 0, held = 0, listed = 0, heaped = 0, suspects = 0, lined_up = 0;
    size_t at = 0;
    for (const struct job *job; (job = table_next(&j->table, &at)) != NULL;) {
        seen++;
        bytes += job->body_bytes;
        assert(jobs_find(j, job->id) == job);
        assert(job->state <= JOB_DOOMED);
        assert(job->batch->expired || job->state == JOB_STORING ||
               (job->state == JOB_DOOMED) == (job->strikes >= job->batch->max_attempts));
        assert(job->strikes <= job->attempts && (!job->alone || job->state == JOB_LEASED));
        suspects += job->attempts > 0;
        held += job->state == JOB_LEASED;
        if (job->state == JOB_SUBMITTED && job->attempts == 0) {
            heaped++;
            assert(job->owner == 0 && job->batch->heap[job->heap_pos] == job);
            assert(job->heap_pos == 0 ||
                   job->batch->heap[(job->heap_pos - 1) / 2]->line <= job->line);
        }
    }
    assert(seen == j->job_count && held == j->leased);
    for (int state = JOB_LEASED; state <= JOB_DOOMED; state++) {
        for (const struct job *job = j->lists[state]; job != NULL; job = job->next) {
            listed++;
            assert(job->state == state && jobs_find(j, job->id) == job);
            assert(job->next == NULL || job->next->prev == job);
        }
    }
    for (const struct batch *b = j->batches; b != NULL; b = b->next) {
        for (int alone = 0; alone < 2; alone++) {
            size_t before = lined_up;
            for (const struct job *job = b->suspects[alone].first; job != NULL; job = job->next) {
                lined_up++;
                assert(job->state == JOB_SUBMITTED && job->owner == 0 && job->batch == b);
                assert(job->attempts > 0 && job_must_be_alone(job) == (alone == 1));
                assert(job->next != NULL || b->suspects[alone].last == job);
            }
            assert(lined_up - before == b->suspects[alone].count);
        }
    }
    assert(listed + heaped + lined_up == seen && suspects == j->suspects);
    uint64_t in_heaps = 0, leased = 0, in_batches = 0;
    size_t batches = 0;
    const struct batch *waiting = j->waiting;
    for (const struct batch *b = j->batches; b != NULL; b = b->next) {
        batches++;
        assert(b->next != NULL || b == j->last_batch);
        assert(b->unnamed || jobs_find_batch(j, str_of(b->name)) == b);
        assert(batches == 1 || j->by_id[batches - 1]->id > j->by_id[batches - 2]->id);
        if (batch_waiting(b) > 0) { /* both lists have one order */
            assert(waiting == b);
            waiting = b->next_waiting;
            assert(waiting == NULL || waiting->prev_waiting == b);
        }
        in_heaps += b->heap_len;
        leased += b->leased;
        in_batches += b->bytes;
        assert(batch_waiting(b) + b->leased > 0 || b->heap_cap == 0);
        assert(b->heap_len + b->leased <= b->heap_cap || b->heap_cap == 0);
    }
    assert(waiting == NULL && batches == j->batch_count);
    assert(in_heaps == heaped && leased == listed);
    assert(bytes == j->bytes && in_batches == bytes);
}
