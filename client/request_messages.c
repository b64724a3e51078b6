/* The messages of a chat; see request.h. */
#include <stdio.h>
#include <string.h>

#include "base/size.h"
#include "client/request_impl.h"

enum { MAX_MESSAGES = 4096 };

/* A list of {"type": "text", "text": ...} to one text. */
static enum err join_parts(struct parser *p, const char *param, const json_t *parts,
                           struct str *ret)
{
    size_t len = 0, i;
    json_t *part;
    json_array_foreach(parts, i, part)
    {
        const char *key;
        json_t *v;
        const json_t *type = json_object_get(part, "type"), *text = json_object_get(part, "text");
        if (!json_is_object(part) || !json_is_string(type))
            return request_bad(p->r, "invalid_type", "messages",
                               "%s: part %zu is not {\"type\": \"text\", \"text\": ...}", param, i);
        if (strcmp(json_string_value(type), "text") != 0)
            return request_bad(p->r, "unsupported_value", "messages",
                               "%s: part %zu has type \"%.60s\", only text is supported", param, i,
                               json_string_value(type));
        if (!json_is_string(text))
            return request_bad(p->r, "invalid_type", "messages", "%s: part %zu: text is %s", param,
                               i, text == NULL ? "missing" : request_what_is(text));
        json_object_foreach(part, key, v)
        {
            if (strcmp(key, "type") != 0 && strcmp(key, "text") != 0 && !json_is_null(v))
                return request_bad(p->r, "unknown_field", "messages",
                                   "%s: part %zu: \"%.60s\" is not supported", param, i, key);
        }
        len += json_string_length(text);
    }
    char *joined = arena_alloc(&p->r->arena, len + 1, 1);
    if (joined == NULL)
        return ERR_NOMEM;
    size_t at = 0;
    json_array_foreach(parts, i, part)
    {
        struct str text = request_text(json_object_get(part, "text"));
        memcpy(joined + at, text.data, text.len);
        at += text.len;
    }
    *ret = (struct str){joined, len};
    return ERR_OK;
}

/* Other keys of a message: nothing may be dropped in silence. */
static enum err check_message_keys(struct parser *p, size_t at, json_t *message)
{
    const char *key;
    json_t *v;
    json_object_foreach(message, key, v)
    {
        bool nothing = json_is_null(v) || (json_is_array(v) && json_array_size(v) == 0);
        if (strcmp(key, "role") != 0 && strcmp(key, "content") != 0 && !nothing)
            return request_bad(p->r, "unsupported_field", "messages",
                               "messages[%zu]: \"%.60s\" is not supported", at, key);
    }
    return ERR_OK;
}

static enum err take_message(struct parser *p, size_t at, json_t *message,
                             struct rec_CHAT_MESSAGE *ret)
{
    static const struct {
        const char *said, *meant;
    } roles[] = {{"system", "system"},
                 {"developer", "system"}, /* OpenAI's newer name */
                 {"user", "user"},
                 {"assistant", "assistant"}};
    char param[64];
    snprintf(param, sizeof param, "messages[%zu]", at);
    if (!json_is_object(message))
        return request_bad(p->r, "invalid_type", "messages", "%s is %s, expected an object", param,
                           request_what_is(message));
    const json_t *role = json_object_get(message, "role");
    const json_t *content = json_object_get(message, "content");
    if (!json_is_string(role))
        return request_bad(p->r, "invalid_type", "messages", "%s: role is %s, expected a string",
                           param, role == NULL ? "missing" : request_what_is(role));
    size_t which = 0;
    while (which < ARRAY_LEN(roles) && strcmp(json_string_value(role), roles[which].said) != 0)
        which++;
    if (which == ARRAY_LEN(roles))
        return request_bad(p->r, "invalid_value", "messages",
                           "%s: role is \"%.60s\", expected system, developer, user or assistant",
                           param, json_string_value(role));
    enum err e = check_message_keys(p, at, message);
    if (e != ERR_OK)
        return e;
    ret->role = str_of(roles[which].meant);
    snprintf(param, sizeof param, "messages[%zu].content", at);
    if (json_is_string(content)) {
        ret->content = request_text(content);
        return ERR_OK;
    }
    if (json_is_array(content))
        return join_parts(p, param, content, &ret->content);
    return request_bad(p->r, "invalid_type", "messages",
                       "%s is %s, expected a string or a list of text parts", param,
                       content == NULL ? "missing" : request_what_is(content));
}

enum err request_take_messages(struct parser *p, const struct field *f, const json_t *v)
{
    size_t count = json_array_size(v);
    p->has_messages = true;
    if (!json_is_array(v))
        return request_wrong_type(p->r, f->name, v, "a list of messages");
    if (count == 0 || count > MAX_MESSAGES)
        return request_bad(p->r, "invalid_value", f->name,
                           "messages has %zu items, expected 1 to %d", count, MAX_MESSAGES);
    struct rec_CHAT_MESSAGE *items = arena_alloc(&p->r->arena, count, sizeof *items);
    if (items == NULL)
        return ERR_NOMEM;
    enum err e = ERR_OK;
    for (size_t i = 0; i < count && e == ERR_OK; i++)
        e = take_message(p, i, json_array_get(v, i), &items[i]);
    p->q.messages.items = items;
    p->q.messages.count = count;
    return e;
}
