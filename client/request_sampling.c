/* logit_bias and logprobs of a request; see request.h. */
#include <string.h>

#include "client/request_impl.h"

enum { MAX_BIASES = 1024, MAX_TOP_COMPLETIONS = 5 };

/* "123" to 123: only as a number is written, so that no token comes twice. */
static bool read_id(const char *text, uint64_t *ret)
{
    uint64_t v = 0;
    size_t len = strlen(text);
    if (len == 0 || len > 10 || (len > 1 && text[0] == '0'))
        return false;
    for (size_t i = 0; i < len; i++) {
        if (text[i] < '0' || text[i] > '9')
            return false;
        v = v * 10 + (uint64_t)(text[i] - '0');
    }
    *ret = v;
    return v <= UINT32_MAX;
}

enum err request_take_bias(struct parser *p, const struct field *f, json_t *v)
{
    const char *key;
    json_t *bias;
    if (!json_is_object(v))
        return request_wrong_type(p->r, f->name, v, "an object of token ids and numbers");
    if (json_object_size(v) > MAX_BIASES)
        return request_bad(p->r, "invalid_value", f->name,
                           "%s has %zu tokens, at most %d are possible", f->name,
                           json_object_size(v), MAX_BIASES);
    struct rec_BIAS *items = arena_alloc(&p->r->arena, json_object_size(v), sizeof *items);
    if (items == NULL)
        return ERR_NOMEM;
    size_t count = 0;
    json_object_foreach(v, key, bias)
    {
        double d = json_number_value(bias);
        if (!read_id(key, &items[count].id))
            return request_bad(p->r, "invalid_value", f->name,
                               "%s: \"%.60s\" is no token id (a whole number, 0 or more)", f->name,
                               key);
        if (!json_is_number(bias) || !(d >= f->min && d <= f->max))
            return request_bad(
                p->r, "invalid_value", f->name,
                "%s: the bias of token %s is %s, expected a number from %g to %g", f->name, key,
                json_is_number(bias) ? "out of range" : request_what_is(bias), f->min, f->max);
        items[count++].bias = d;
    }
    p->q.logit_bias.items = items;
    p->q.logit_bias.count = count;
    return ERR_OK;
}

/* A chat has logprobs true and top_logprobs 0 to 20; a completion logprobs 0 to 5. */
enum err request_finish_logprobs(struct parser *p)
{
    const json_t *v = p->logprobs;
    bool given = v != NULL && !json_is_false(v);
    if (given && p->has_messages) {
        if (!json_is_true(v))
            return request_wrong_type(p->r, "logprobs", v,
                                      "true or false (top_logprobs is how many)");
        p->q.logprobs = true;
    } else if (given) {
        json_int_t top = 0;
        if (!request_whole(v, &top))
            return request_wrong_type(p->r, "logprobs", v, "a whole number from 0 to 5");
        if (top < 0 || top > MAX_TOP_COMPLETIONS)
            return request_bad(p->r, "invalid_value", "logprobs",
                               "logprobs is %" JSON_INTEGER_FORMAT
                               ", expected a whole number from 0 to %d",
                               top, MAX_TOP_COMPLETIONS);
        if (p->q.top_logprobs > 0)
            return request_bad(p->r, "invalid_value", "top_logprobs",
                               "top_logprobs belongs to chats: here logprobs is how many");
        p->q.logprobs = true;
        p->q.top_logprobs = (uint64_t)top;
    }
    if (p->q.top_logprobs > 0 && !p->q.logprobs)
        return request_bad(p->r, "invalid_value", "top_logprobs",
                           p->has_messages
                               ? "top_logprobs needs logprobs true"
                               : "top_logprobs belongs to chats: here logprobs is how many");
    return ERR_OK;
}
