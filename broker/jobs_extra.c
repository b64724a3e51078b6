/* What only few jobs have: a history of losses, and a checkpoint. Bounded, all together. */
#include <stdio.h>
#include <stdlib.h>

#include "broker/jobs_impl.h"

enum { MAX_HISTORY_BYTES = 3000 };

void jobs_limit_extra(struct jobs *j, size_t max_bytes)
{
    j->max_extra_bytes = max_bytes;
}

static size_t extra_bytes(const struct job_extra *x)
{
    return x->checkpoint_bytes + (x->history == NULL ? 0 : strlen(x->history));
}

void job_free_extra(struct jobs *j, struct job *job)
{
    if (job->extra == NULL)
        return;
    j->extra_bytes -= extra_bytes(job->extra);
    free(job->extra->checkpoint);
    free(job->extra->history);
    free(job->extra);
    job->extra = NULL;
}

struct job_extra *job_get_extra(struct job *job)
{
    if (job->extra == NULL)
        job->extra = calloc(1, sizeof *job->extra);
    return job->extra;
}

enum err job_add_history(struct jobs *j, struct job *job, const char *reason)
{
    struct job_extra *x = job_get_extra(job);
    if (x == NULL)
        return ERR_NOMEM;
    size_t old = x->history == NULL ? 0 : strlen(x->history);
    size_t room = old + strlen(reason) + 32;
    /* Beyond what checkpoints may take: they must not cost a poisoned job its history. */
    size_t most = j->max_extra_bytes + j->max_extra_bytes / 4;
    if (room > MAX_HISTORY_BYTES || j->extra_bytes + room - old > most)
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

const char *jobs_history(const struct job *job)
{
    return job->extra == NULL || job->extra->history == NULL ? "" : job->extra->history;
}

void jobs_keep_checkpoint(struct jobs *j, struct job *job, struct str checkpoint)
{
    struct job_extra *x = checkpoint.len == 0 ? NULL : job_get_extra(job);
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
