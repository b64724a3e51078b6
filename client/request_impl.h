/* What request.c's files share. Private to them. */
#ifndef OCTO_CLIENT_REQUEST_IMPL_H
#define OCTO_CLIENT_REQUEST_IMPL_H

#include <jansson.h>

#include "client/fields.h"
#include "client/request.h"

struct parser {
    struct request *r;
    struct rec_REQUEST q;
    const char *max_tokens_from; /* the field that said it */
    bool seed_given, has_prompt, has_messages;
    bool short_form, chat_url;
    const json_t *logprobs; /* what it means depends on the kind of request */
};

/* ERR_FORMAT, and the refusal is there. */
enum err request_bad(struct request *r, const char *code, const char *param, const char *fmt, ...)
    PRINTF_LIKE(4, 5);
enum err request_wrong_type(struct request *r, const char *param, const json_t *found,
                            const char *expected);
const char *request_what_is(const json_t *v); /* "a string" */
static inline struct str request_text(const json_t *v)
{
    return (struct str){json_string_value(v), json_string_length(v)};
}

/* request_messages.c */
enum err request_take_messages(struct parser *p, const struct field *f, const json_t *v) MUST_CHECK;

/* request_sampling.c */
enum err request_take_bias(struct parser *p, const struct field *f, json_t *v) MUST_CHECK;
/* When all fields are read: what logprobs and top_logprobs mean here. */
enum err request_finish_logprobs(struct parser *p) MUST_CHECK;

#endif
