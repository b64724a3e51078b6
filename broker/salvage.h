/* What can still be read of a damaged ledger, as a new one. The damaged file and its WAL are only
 * read; the new file appears whole, or not at all. */
#ifndef OCTO_BROKER_SALVAGE_H
#define OCTO_BROKER_SALVAGE_H

#include <stdint.h>

#include "base/err.h"

struct salvage_report {
    uint64_t pages, unreadable_rows;
    uint64_t batches, batches_lost; /* lost as far as the numbers of what is there tell */
    uint64_t batches_renamed;       /* kept as "salvaged-ID": the name was not readable */
    uint64_t batches_reopened;      /* were sealed: submit the same input again */
    uint64_t jobs, jobs_lost;       /* a job lost: a line of a batch that is not there any more */
    uint64_t results, results_lost;
    uint64_t ids_lost; /* results kept, whose custom_id was not readable: it is empty */
    uint64_t rerun;    /* jobs kept, whose result was lost: they run again */
};

/* from: stopped (ERR_CONFLICT when a broker holds it). to: must not exist (ERR_CONFLICT).
 * ERR_FORMAT: nothing of a ledger was found. */
enum err salvage_ledger(const char *from, const char *to, struct salvage_report *ret,
                        struct err_msg *why) MUST_CHECK;

#endif
