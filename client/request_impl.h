/* What request.c's files share. Private to them. */
#ifndef OCTO_CLIENT_REQUEST_IMPL_H
#define OCTO_CLIENT_REQUEST_IMPL_H

#include <jansson.h>

#include "client/fields.h"
#include "client/request.h"

struct parser {
    struct request *r;
    struct str line;
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
/* A whole number, also one that is written 16.0; false: none. */
bool request_whole(const json_t *v, json_int_t *ret);
static inline struct str request_text(const json_t *v)
{
    return (struct str){json_string_value(v), json_string_length(v)};
}

/* What a number's field takes, for messages: "a number from 0 to 100". False: it takes none. */
enum { REQUEST_EXPECTED_BYTES = 96 };
bool request_expected(const struct field *f, char ret[REQUEST_EXPECTED_BYTES]);
bool request_id_is_good(struct str id);
/* "line-N" for a line that does not name itself. */
enum err request_make_id(struct request *r, uint64_t line_number) MUST_CHECK;

/* request_json.c */
/* ERR_FORMAT with the refusal of a line that jansson does not take; its custom_id is kept where it
 * can be read. */
enum err request_not_read(struct request *r, struct str line, uint64_t line_number,
                          const json_error_t *error) MUST_CHECK;
/* The custom_id as the line has it, a number as its text; ERR_OK also without. */
enum err request_keep_id(struct request *r, struct str line) MUST_CHECK;

/* request_messages.c */
enum err request_take_messages(struct parser *p, const struct field *f, const json_t *v) MUST_CHECK;

/* request_sampling.c */
enum err request_take_bias(struct parser *p, const struct field *f, json_t *v) MUST_CHECK;
/* When all fields are read: what logprobs and top_logprobs mean here. */
enum err request_finish_logprobs(struct parser *p) MUST_CHECK;

#endif
