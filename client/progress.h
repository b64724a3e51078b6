/* What a waiting command shows: one line that is rewritten on a terminal, else a log line every 10
 * s. */
#ifndef OCTO_CLIENT_PROGRESS_H
#define OCTO_CLIENT_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/str.h"
#include "proto/messages.h"

struct progress { /* zero-initialised, then progress_start() */
    bool terminal;
    bool shown; /* the terminal's line stands there */
    bool begun;
    uint64_t last_ns; /* of the last line shown */
    /* the last 30 s in steps, so that speeds are today's and not the morning's */
    struct {
        uint64_t ns, finished, tokens;
    } past[16];
    unsigned past_count;
};

void progress_start(struct progress *p, bool terminal);
/* "12 done, 1 failed of 48, 310 tokens/s, about 0:40 left". now_ns: monotonic. Returns its length.
 */
int progress_text(struct progress *p, const struct rec_BATCH *b, uint64_t now_ns, char *out,
                  size_t size);
/* Shows it on standard error when it is time to. */
void progress_show(struct progress *p, const struct rec_BATCH *b, uint64_t now_ns);
/* Takes the line off the terminal: before anything else is printed, and at the end. */
void progress_clear(struct progress *p);

#endif
