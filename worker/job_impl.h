/* What job.c and job_sampling.c share: how a request is refused. Private to worker/. */
#ifndef OCTO_WORKER_JOB_IMPL_H
#define OCTO_WORKER_JOB_IMPL_H

#include "worker/job.h"

static inline enum err job_refuse(struct job_refusal *r, const char *code, const char *param)
{
    r->type = "invalid_request_error";
    r->code = code;
    r->param = param;
    return ERR_USAGE;
}

/* The rest of a refusal whose why is filled. */
#define REFUSE(r, code, param, ...)                                                                \
    (err_set(why, ERR_USAGE, __VA_ARGS__) == ERR_OK ? ERR_OK : job_refuse(r, code, param))

#endif
