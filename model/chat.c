/* Chat messages to a prompt: runs the model's Jinja template (jinja.h) and keeps apart what the
 * messages' authors wrote and what the template wrote, so that only the latter can become special
 * tokens. */
#include "model/chat.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/file.h"
#include "base/size.h"
#include "model/chat_impl.h"
#include "model/jinja.h"
#include "model/tokenizer_impl.h"

enum { MAX_FILE_BYTES = 1 << 20 };

/* What a usual conversation needs is far below these; the second part is for each byte of the
 * messages. */
enum {
    STEPS = 10000000,
    MEMORY_BYTES = 64 << 20,
    MEMORY_FACTOR = 64,
    OUTPUT_BYTES = 1 << 20,
    OUTPUT_FACTOR = 16
};

static const char chatml[] =
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\n' + message.content + "
    "'<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% "
    "endif %}";

struct chat_template {
    struct arena arena;
    struct jinja *jinja;
    struct str bos, eos;
    bool has_bos, has_eos;
    bool fixed_time;
    struct tm now;
};

/* A special token's text, for the template's bos_token and eos_token. */
static enum err take_token(struct chat_template *t, const struct gguf *g, const char *key,
                           struct str *ret, bool *ret_has)
{
    const struct str *tokens;
    size_t count;
    uint32_t id;
    if (gguf_get_u32(g, key, &id, NULL) != ERR_OK ||
        gguf_get_strs(g, "tokenizer.ggml.tokens", &tokens, &count, NULL) != ERR_OK || id >= count)
        return ERR_OK; /* the template sees it as undefined */
    char *copy = arena_copy(&t->arena, tokens[id].data, tokens[id].len);
    if (copy == NULL)
        return ERR_NOMEM;
    *ret = (struct str){copy, tokens[id].len};
    *ret_has = true;
    return ERR_OK;
}

/* The file's template: the only or default one, or the one of that name. */
static enum err find_template(const struct gguf *g, const char *name, struct str *ret,
                              struct err_msg *why)
{
    char key[160];
    enum err e = ERR_NOT_FOUND;
    if (name == NULL)
        e = gguf_get_str(g, "tokenizer.chat_template", ret, why);
    if (e == ERR_NOT_FOUND) {
        snprintf(key, sizeof(key), "tokenizer.chat_template.%s", name == NULL ? "default" : name);
        e = gguf_get_str(g, key, ret, why);
    }
    if (e == ERR_NOT_FOUND && name == NULL)
        return err_set(
            why, ERR_UNSUPPORTED,
            "%s: has no chat template; --chat-template chatml writes messages as plain ChatML, "
            "--chat-template FILE.jinja takes one from a file",
            gguf_path(g));
    if (e == ERR_NOT_FOUND)
        return err_set(why, ERR_UNSUPPORTED,
                       "chat template '%s' is not known (known: chatml, a path to a FILE.jinja, a "
                       "name that the "
                       "model's file has a template under)",
                       name);
    return e;
}

static bool is_path(const char *name)
{
    size_t len = strlen(name);
    return strchr(name, '/') != NULL || (len > 6 && strcmp(name + len - 6, ".jinja") == 0);
}

static enum err compile(const struct gguf *g, const char *name, struct jinja **ret,
                        struct err_msg *why)
{
    struct buf file = {0};
    struct str source = STR_LIT(chatml);
    enum err e = ERR_OK;
    if (name != NULL && strcmp(name, "chatml") == 0) {
        e = jinja_compile(source, ret, why);
    } else if (name != NULL && is_path(name)) {
        e = file_read(name, MAX_FILE_BYTES, &file, why);
        if (e == ERR_OK) {
            e = jinja_compile((struct str){file.data, file.len}, ret, why);
            if (e != ERR_OK)
                err_prefix(why, e, "%s", name);
        }
    } else {
        e = find_template(g, name, &source, why);
        if (e != ERR_OK)
            return e;
        e = jinja_compile(source, ret, why);
        if (e != ERR_OK && e != ERR_NOMEM)
            e = err_prefix(why, ERR_UNSUPPORTED,
                           "%s: --chat-template chatml or FILE.jinja replaces its template",
                           gguf_path(g));
    }
    buf_free(&file);
    return e;
}

enum err chat_template_create(const struct gguf *g, const char *name, struct chat_template **ret,
                              struct err_msg *why)
{
    struct chat_template *t = calloc(1, sizeof(*t));
    if (t == NULL)
        return err_set(why, ERR_NOMEM, "out of memory for the chat template");
    enum err e = compile(g, name, &t->jinja, why);
    if (e != ERR_OK)
        goto fail;
    e = take_token(t, g, "tokenizer.ggml.bos_token_id", &t->bos, &t->has_bos);
    if (e == ERR_OK)
        e = take_token(t, g, "tokenizer.ggml.eos_token_id", &t->eos, &t->has_eos);
    if (e != ERR_OK) {
        err_set(why, e, "out of memory for the chat template");
        goto fail;
    }
    *ret = t;
    return ERR_OK;
fail:
    chat_template_destroy(&t);
    return e;
}

void chat_template_destroy(struct chat_template **t)
{
    if (*t == NULL)
        return;
    jinja_destroy(&(*t)->jinja);
    arena_free(&(*t)->arena);
    free(*t);
    *t = NULL;
}

void chat_template_set_time(struct chat_template *t, const struct tm *now)
{
    t->fixed_time = true;
    t->now = *now;
}

static bool role_is_known(struct str role)
{
    static const char *const roles[] = {"system", "user", "assistant"};
    for (size_t i = 0; i < ARRAY_LEN(roles); i++)
        if (str_eq(role, str_of(roles[i])))
            return true;
    return false;
}

/* The list of {"role": ..., "content": ...}. Roles are of our list, so they are no user's text. */
static enum err make_messages(struct arena *a, const struct chat_message *messages, size_t count,
                              struct jval *ret)
{
    struct jval list, role_key, content_key;
    if (jinja_make_list(a, count, &list) != ERR_OK ||
        jinja_make_str(a, STR_LIT("role"), false, &role_key) != ERR_OK ||
        jinja_make_str(a, STR_LIT("content"), false, &content_key) != ERR_OK)
        return ERR_NOMEM;
    for (size_t i = 0; i < count; i++) {
        struct jval *m = &list.as.list->items[i];
        if (jinja_make_dict(a, 2, m) != ERR_OK)
            return ERR_NOMEM;
        struct jentry *e = m->as.dict->entries;
        e[0].key = role_key;
        e[1].key = content_key;
        if (jinja_make_str(a, messages[i].role, false, &e[0].value) != ERR_OK ||
            jinja_make_str(a, messages[i].content, true, &e[1].value) != ERR_OK)
            return ERR_NOMEM;
    }
    *ret = list;
    return ERR_OK;
}

/* Text and marks to a prompt's pieces. */
static enum err to_prompt(const struct jstr *s, struct chat_prompt *ret)
{
    struct chat_prompt p = {0};
    size_t at = 0;
    p.pieces = calloc(2 * s->user_count + 1, sizeof(*p.pieces));
    if (p.pieces == NULL || buf_append(&p.text, s->data, s->len) != ERR_OK) {
        chat_prompt_free(&p);
        return ERR_NOMEM;
    }
    for (size_t i = 0; i < s->user_count; i++) {
        if (s->user[i].begin > at)
            p.pieces[p.pieces_count++] = (struct chat_piece){true, at, s->user[i].begin};
        p.pieces[p.pieces_count++] = (struct chat_piece){false, s->user[i].begin, s->user[i].end};
        at = s->user[i].end;
    }
    if (at < s->len)
        p.pieces[p.pieces_count++] = (struct chat_piece){true, at, s->len};
    *ret = p;
    return ERR_OK;
}

static enum err check_messages(const struct chat_message *messages, size_t count,
                               struct err_msg *why)
{
    if (count == 0)
        return err_set(why, ERR_FORMAT, "no messages");
    for (size_t i = 0; i < count; i++)
        if (!role_is_known(messages[i].role))
            return err_set(why, ERR_FORMAT,
                           "message %zu has role '%.*s', expected system, user or assistant", i,
                           (int)min_u64(messages[i].role.len, 64), messages[i].role.data);
    return ERR_OK;
}

enum err chat_template_render(const struct chat_template *t, const struct chat_message *messages,
                              size_t count, struct chat_prompt *ret, struct err_msg *why)
{
    /* As transformers' apply_chat_template: tools and documents are there, and none. */
    struct jinja_variable variables[6] = {
        {"messages", {.kind = JV_NONE}},
        {"add_generation_prompt", {.kind = JV_BOOL, .as.boolean = true}},
        {"tools", {.kind = JV_NONE}},
        {"documents", {.kind = JV_NONE}}};
    struct jinja_run run = {.variables = variables, .variables_count = 4, .now = t->now};
    struct arena arena = {0};
    struct jstr text = {0};
    bool raised = false;
    size_t bytes = 0;
    enum err e = check_messages(messages, count, why);
    if (e != ERR_OK)
        return e;
    for (size_t i = 0; i < count; i++)
        bytes += messages[i].content.len + 64;
    run.limits = (struct jinja_limits){STEPS + bytes, MEMORY_BYTES + MEMORY_FACTOR * bytes,
                                       OUTPUT_BYTES + OUTPUT_FACTOR * bytes};
    if (!t->fixed_time) {
        time_t now = time(NULL);
        localtime_r(&now, &run.now);
    }
    e = make_messages(&arena, messages, count, &variables[0].value);
    const struct {
        const char *name;
        bool has;
        struct str text;
    } tokens[] = {{"bos_token", t->has_bos, t->bos}, {"eos_token", t->has_eos, t->eos}};
    for (size_t i = 0; e == ERR_OK && i < ARRAY_LEN(tokens); i++)
        if (tokens[i].has) {
            struct jinja_variable *v = &variables[run.variables_count++];
            v->name = tokens[i].name;
            e = jinja_make_str(&arena, tokens[i].text, false, &v->value);
        }
    if (e != ERR_OK) {
        err_set(why, e, "out of memory for %zu messages", count);
    } else {
        e = jinja_render(t->jinja, &run, &arena, &text, &raised, why);
        if (e == ERR_OK && (e = to_prompt(&text, ret)) != ERR_OK)
            err_set(why, e, "out of memory for the prompt");
        if (e != ERR_OK && raised)
            err_prefix(why, e, "the model's chat template refuses these messages");
    }
    arena_free(&arena);
    return e;
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
    /* A template that writes bos itself does not get another one. */
    if (add_bos && tokenizer_bos(tok) != TOKEN_NONE && p->pieces_count > 0 &&
        p->pieces[0].special) {
        struct str bos = tokenizer_piece(tok, (uint32_t)tokenizer_bos(tok));
        if (bos.len > 0 && bos.len <= p->pieces[0].end &&
            memcmp(p->text.data, bos.data, bos.len) == 0)
            add_bos = false;
    }
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
