/* Chat messages to a prompt in ChatML:
 *
 *     <|im_start|>ROLE\nCONTENT<|im_end|>\n   for each message, then   <|im_start|>assistant\n
 *
 * chat_match.c says whether a file's template means that. */
#include "model/chat.h"

#include <stdlib.h>

#include "base/size.h"
#include "model/chat_impl.h"
#include "model/tokenizer_impl.h"

/* ChatML is all there is, so far. */
struct chat_template {
    const char *name;
};

enum err chat_template_create(const struct gguf *g, const char *name, struct chat_template **ret,
                              struct err_msg *why)
{
    if (name != NULL && strcmp(name, "chatml") != 0)
        return err_set(why, ERR_UNSUPPORTED, "chat template '%s' is not known (known: chatml)",
                       name);
    if (name == NULL) {
        struct str source;
        bool is_chatml = false;
        enum err e = gguf_get_str(g, "tokenizer.chat_template", &source, why);
        if (e == ERR_NOT_FOUND)
            return err_set(
                why, ERR_UNSUPPORTED,
                "%s: has no chat template; --chat-template chatml writes messages as plain ChatML",
                gguf_path(g));
        if (e != ERR_OK)
            return e;
        e = chat_is_chatml(source, &is_chatml);
        if (e != ERR_OK)
            return err_set(why, e, "%s: chat template: %s", gguf_path(g), err_name(e));
        if (!is_chatml)
            return err_set(why, ERR_UNSUPPORTED,
                           "%s: its chat template is not plain ChatML, the only one known so far; "
                           "--chat-template chatml writes messages as plain ChatML all the same",
                           gguf_path(g));
    }
    struct chat_template *t = calloc(1, sizeof(*t));
    if (t == NULL)
        return err_set(why, ERR_NOMEM, "out of memory for the chat template");
    t->name = "chatml";
    *ret = t;
    return ERR_OK;
}

void chat_template_destroy(struct chat_template **t)
{
    free(*t);
    *t = NULL;
}

/* Appends text; neighbours of one sort share a piece. Room for the pieces is there. */
static enum err add(struct chat_prompt *p, bool special, struct str text)
{
    size_t begin = p->text.len;
    if (text.len == 0)
        return ERR_OK;
    enum err e = buf_append(&p->text, text.data, text.len);
    if (e != ERR_OK)
        return e;
    if (p->pieces_count > 0 && p->pieces[p->pieces_count - 1].special == special)
        p->pieces[p->pieces_count - 1].end = p->text.len;
    else
        p->pieces[p->pieces_count++] = (struct chat_piece){special, begin, p->text.len};
    return ERR_OK;
}

static bool role_is_known(struct str role)
{
    static const char *const roles[] = {"system", "user", "assistant"};
    for (size_t i = 0; i < ARRAY_LEN(roles); i++)
        if (str_eq(role, str_of(roles[i])))
            return true;
    return false;
}

static enum err add_message(struct chat_prompt *p, const struct chat_message *m)
{
    enum err e = add(p, true, STR_LIT("<|im_start|>"));
    if (e == ERR_OK)
        e = add(p, true, m->role);
    if (e == ERR_OK)
        e = add(p, true, STR_LIT("\n"));
    if (e == ERR_OK)
        e = add(p, false, m->content);
    if (e == ERR_OK)
        e = add(p, true, STR_LIT("<|im_end|>\n"));
    return e;
}

enum err chat_template_render(const struct chat_template *t, const struct chat_message *messages,
                              size_t count, struct chat_prompt *ret, struct err_msg *why)
{
    struct chat_prompt p = {0};
    enum err e = ERR_OK;
    (void)t; /* one template, one way */
    if (count == 0)
        return err_set(why, ERR_FORMAT, "no messages");
    for (size_t i = 0; i < count; i++)
        if (!role_is_known(messages[i].role))
            return err_set(why, ERR_FORMAT,
                           "message %zu has role '%.*s', expected system, user or assistant", i,
                           (int)min_u64(messages[i].role.len, 64), messages[i].role.data);
    /* At most two pieces a message, one more at the end. */
    if (count <= SIZE_MAX / (3 * sizeof(*p.pieces)))
        p.pieces = calloc(2 * count + 1, sizeof(*p.pieces));
    if (p.pieces == NULL)
        return err_set(why, ERR_NOMEM, "out of memory for %zu messages", count);
    for (size_t i = 0; e == ERR_OK && i < count; i++)
        e = add_message(&p, &messages[i]);
    if (e == ERR_OK)
        e = add(&p, true, STR_LIT("<|im_start|>assistant\n"));
    if (e != ERR_OK) {
        chat_prompt_free(&p);
        return err_set(why, e, "cannot write the prompt: %s", err_name(e));
    }
    *ret = p;
    return ERR_OK;
}

void chat_prompt_free(struct chat_prompt *p)
{
    buf_free(&p->text);
    free(p->pieces);
    *p = (struct chat_prompt){0};
}

enum err chat_prompt_encode(const struct chat_prompt *p, const struct tokenizer *tok, bool add_bos,
                            struct tokens *out, struct err_msg *why)
{
    size_t count = 0;
    struct text_range *ranges = calloc(p->pieces_count + 1, sizeof(*ranges));
    if (ranges == NULL)
        return err_set(why, ERR_NOMEM, "out of memory for the prompt");
    for (size_t i = 0; i < p->pieces_count; i++) {
        const struct chat_piece *piece = &p->pieces[i];
        if (!piece->special)
            continue;
        if (count > 0 && ranges[count - 1].end == piece->begin)
            ranges[count - 1].end = piece->end;
        else
            ranges[count++] = (struct text_range){piece->begin, piece->end};
    }
    enum err e = tokenizer_encode_ranges(tok, (struct str){p->text.data, p->text.len}, add_bos,
                                         ranges, count, out, why);
    free(ranges);
    return e;
}
