/* A fetched result to one line of the OpenAI Batch output format, with an "octoflow" object that
 * says where the answer comes from. Ids and `created` derive from (batch, line): of two runs of a
 * batch, only the octoflow object's times and provenance differ. Thread-safe: no state of its own.
 */
#ifndef OCTO_CLIENT_OUTPUT_H
#define OCTO_CLIENT_OUTPUT_H

#include "base/buf.h"
#include "proto/messages.h"

enum output_kind { OUTPUT_ANSWER, OUTPUT_FAILED, OUTPUT_CANCELLED };

/* What the run's summary wants to know of a line. */
struct output_summary {
    enum output_kind kind;
    uint64_t prompt_tokens, completion_tokens;
    double energy_j;  /* 0: unknown */
    char reason[160]; /* "" for an answer */
};

/* Appends the line with its newline. A body that does not decode becomes an error line. Only out of
 * memory fails. */
enum err output_append(const char *batch, const struct rec_FETCHED *f, struct buf *out,
                       struct output_summary *ret) MUST_CHECK;

#endif
