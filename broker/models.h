/* Which worker loads, or fetches, which model: a worker runs one at a time, and changing it costs
 * the time to finish what runs and to load the other.
 *
 * What waits for a model is a demand. A worker whose model nothing waits for changes at once; that
 * needs no patience, for it has nothing else to do. Otherwise one of higher priority takes a worker
 * away from one of lower priority, and equals share: each may have as many workers as another, and
 * who has none takes a turn on the worker of one that has. Turns are long enough for a load to be
 * no more than about a tenth of them, and no longer than five minutes. A second worker only changes
 * when what is left takes the first ones much longer than the change. A demand of lower priority
 * waits until a worker has nothing better to do, as its jobs would. What asks for no model runs
 * with any, but not while one is loaded: it occupies every worker that nothing as urgent does by
 * name.
 *
 * Who lacks the file may fetch it from the broker beside its work; one at a time does, so that a
 * small batch is not sent everywhere.
 *
 * Pure: no sockets, no clock (now_ns is monotonic). Not thread-safe. */
#ifndef OCTO_BROKER_MODELS_H
#define OCTO_BROKER_MODELS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/messages.h"

enum { MODELS_MAX_DEMANDS = 64, MODELS_MAX_CANNOT = 8 };

struct models_file {
    const char *name, *hash, *quantization;
    uint64_t bytes;
    const char *also; /* what the broker's folder calls this file; NULL: it has none */
};

/* Batches that ask for the same model, and have lines that wait. */
struct models_demand {
    const char *model;     /* name or hash, as they say it; "": any will do, which is loaded */
    uint64_t priority;     /* the highest */
    double tokens;         /* about so many are to be computed */
    const char *fetchable; /* hash of the broker's file that suits; "": it has none */
    uint64_t bytes;        /* of that file */
};

struct models_worker {
    const struct models_file *files; /* the first is loaded */
    size_t count;
    bool ready;                            /* it takes jobs, and may be told to load or fetch */
    const char *loading;                   /* hash; "": none */
    bool fetches;                          /* it can */
    const char *fetching;                  /* hash; "": none */
    const char *cannot[MODELS_MAX_CANNOT]; /* hashes of models that it is not to have; NULL: none */
    double load_s;                         /* what the load of its model took */
    double loaded_s;                       /* how long it has had its model */
    double tokens_per_s;                   /* 0: not known */
};

/* What is remembered from one decision to the next; zero-initialised knows nothing. */
struct models_state {
    struct models_wait {
        char model[PROTO_MAX_ID_BYTES + 1];
        size_t workers;    /* that had it when last looked at */
        uint64_t since_ns; /* when that changed */
    } waits[MODELS_MAX_DEMANDS];
    size_t count;
};

struct models_order {
    size_t worker;
    bool fetch;       /* else load */
    const char *hash; /* one of the worker's files', or the demand's */
    const struct models_demand *demand;
};

/* Whether a job that asks for `model` (name, here or in the broker's folder, or hash) may run with
 * this file. */
bool models_suits(const struct models_file *f, const char *model);
/* The next thing to tell a worker, if any; the caller does so, and asks again with it in the
 * picture. demands: at most MODELS_MAX_DEMANDS, each model once, "" last. */
bool models_decide(struct models_state *s, const struct models_demand *demands, size_t demand_count,
                   const struct models_worker *workers, size_t worker_count, uint64_t now_ns,
                   struct models_order *ret);

#endif
