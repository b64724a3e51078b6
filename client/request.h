/* One line of a batch's input to a request for the worker, or to the reason why it is refused.
 *
 * A line is an OpenAI Batch request (custom_id, method, url, body) or a short form ({"prompt": ...}
 * or
 * {"messages": [...]}, sampling fields and an optional custom_id beside it). Nothing in a line is
 * ignored in silence: a field that is unknown, or that asks for what is not supported yet, refuses
 * the line. Reading lines is lines.h's, finding a custom_id twice is ids.h's. Thread-safe: no state
 * of its own. */
#ifndef OCTO_CLIENT_REQUEST_H
#define OCTO_CLIENT_REQUEST_H

#include <stdbool.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/err.h"
#include "proto/messages.h"

struct request_options {
    uint64_t max_tokens; /* of lines that do not say */
    uint64_t batch_seed; /* a missing seed is a hash of this and the custom_id */
};

struct request {
    struct str custom_id; /* "line-N" for a short form without one; empty: could not be read */
    bool id_is_made;      /* the line does not say it */
    bool refused;
    struct rec_REQUEST request; /* valid unless refused */
    struct rec_OUTPUT refusal;  /* status 400; the message does not say the line: output.h does */
    void *json;
    struct arena arena;
};

/* line_number (from 1) names a request without custom_id. `line` must stay until request_free().
 * Fails with ERR_NOMEM only; a bad line is a refusal. Call request_free() in either case. */
enum err request_parse(struct str line, uint64_t line_number, const struct request_options *o,
                       struct request *ret) MUST_CHECK;
/* Makes it a refusal: status 400, invalid_request_error. param may be NULL. */
enum err request_refuse(struct request *r, const char *code, const char *param, const char *fmt,
                        ...) PRINTF_LIKE(4, 5) MUST_CHECK;
void request_free(struct request *r);

/* XXH3-64 of the prompt's first 256, 512, 1024, ... bytes (of a chat: of its roles and contents,
 * each with a newline behind it). Returns how many; ERR_NOMEM counts as none. */
size_t request_prefix_hashes(const struct rec_REQUEST *r, uint64_t ret[64]);

#endif
