/* Results out of a broker into files: the final one in input order, written whole or not at all,
 * and the partial one in the order of completion, appended to while the batch runs. Memory: one
 * reply. */
#ifndef OCTO_CLIENT_RESULTS_H
#define OCTO_CLIENT_RESULTS_H

#include "client/link.h"
#include "client/output.h"

enum { RESULTS_REASONS = 5 };

struct results_counts {
    uint64_t lines, answered, failed, cancelled;
    uint64_t prompt_tokens, completion_tokens;
    double energy_j; /* of so many answers, with so many completion tokens */
    uint64_t energy_answers, energy_tokens;
    char reasons[RESULTS_REASONS][160]; /* of the first lines without an answer */
    size_t reasons_count;
};

/* Results replace what is there under the path: never a folder, a device or a pipe; and its folder
 * has to be one that may be written to. To be asked before what takes a night. */
enum err results_check_path(const char *path, struct err_msg *why) MUST_CHECK;
/* Writes all results there are now, by line, to a file of its own beside path, syncs it and renames
 * it over path; NULL: to standard output. On failure path is what it was. */
enum err results_write(struct link *l, const char *batch, const char *path,
                       struct results_counts *ret, struct err_msg *why) MUST_CHECK;

struct partial;
/* Starts the file anew: what was in an older one comes again from the ledger. */
enum err partial_open(const char *path, struct partial **ret, struct err_msg *why) MUST_CHECK;
/* Appends what was finished since; whole lines only. One reply's worth: *ret_count of lines. */
enum err partial_fetch(struct partial *p, struct link *l, const char *batch, uint64_t *ret_count,
                       struct err_msg *why) MUST_CHECK;
/* Closes; the file stays unless `remove`. p may hold NULL. */
void partial_close(struct partial **p, bool remove);

#endif
