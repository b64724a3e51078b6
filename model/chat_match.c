/* Recognises plain ChatML among Jinja chat templates, however it is written.
 *
 * The template is followed symbolically: literals, the message's role and content, the loop over
 * messages and the question for the generation prompt each leave a mark, and the marks must be
 * those of ChatML. Anything else (a condition, a filter, a default system message, tools) is
 * something this file cannot follow, and so the answer is no. White space as the usual renderer
 * treats it: Jinja's trim_blocks and lstrip_blocks. */
#include <ctype.h>
#include <string.h>

#include "base/buf.h"
#include "base/size.h"
#include "model/chat_impl.h"

enum { MAX_TEMPLATE_BYTES = 16384, MAX_VARIABLES = 16 };

#define MARK_ROLE      "\x01"
#define MARK_CONTENT   "\x02"
#define MARK_FOR       "\x03"
#define MARK_ENDFOR    "\x04"
#define MARK_IF_PROMPT "\x05"
#define MARK_ENDIF     "\x06"
#define MARK_UNDEFINED "\x0e" /* if add_generation_prompt is not defined */
#define MARK_FALSE     "\x0f" /* set add_generation_prompt = false */

#define CHATML                                                                                     \
    MARK_FOR "<|im_start|>" MARK_ROLE "\n" MARK_CONTENT "<|im_end|>\n" MARK_ENDFOR MARK_IF_PROMPT  \
             "<|im_start|>assistant\n" MARK_ENDIF
static const char *const accepted[] = {
    CHATML,
    MARK_UNDEFINED MARK_FALSE MARK_ENDIF CHATML,
};

struct variable {
    struct str name;
    struct buf value;
};

struct follower {
    struct buf marks;
    struct variable variables[MAX_VARIABLES];
    size_t variables_count;
    struct str turn; /* the loop's variable */
    bool in_loop;
    enum err e;
};

/* A cursor over one tag's inside. */
struct scan {
    const char *at, *end;
};

static bool add(struct follower *f, const char *bytes, size_t len)
{
    f->e = buf_append(&f->marks, bytes, len);
    return f->e == ERR_OK;
}

static bool add_mark(struct follower *f, const char *mark)
{
    return add(f, mark, strlen(mark));
}

/* A literal must not hold what we use as marks. */
static bool add_literal(struct follower *f, struct str text)
{
    for (size_t i = 0; i < text.len; i++)
        if ((unsigned char)text.data[i] < 0x20 && text.data[i] != '\n' && text.data[i] != '\t')
            return false;
    return add(f, text.data, text.len);
}

static void skip_space(struct scan *s)
{
    while (s->at < s->end && isspace((unsigned char)*s->at))
        s->at++;
}

static bool take_char(struct scan *s, char c)
{
    skip_space(s);
    if (s->at == s->end || *s->at != c)
        return false;
    s->at++;
    return true;
}

static struct str take_word(struct scan *s)
{
    skip_space(s);
    const char *begin = s->at;
    while (s->at < s->end && (isalnum((unsigned char)*s->at) || *s->at == '_'))
        s->at++;
    return (struct str){begin, (size_t)(s->at - begin)};
}

static bool take_this(struct scan *s, const char *word)
{
    struct scan before = *s;
    if (str_eq(take_word(s), str_of(word)))
        return true;
    *s = before;
    return false;
}

static bool at_end(struct scan *s)
{
    skip_space(s);
    return s->at == s->end;
}

/* A quoted string with its escapes resolved, appended to out. */
static bool take_string(struct follower *f, struct scan *s, struct buf *out)
{
    skip_space(s);
    if (s->at == s->end || (*s->at != '\'' && *s->at != '"'))
        return false;
    char quote = *s->at++;
    while (s->at < s->end && *s->at != quote) {
        char c = *s->at++;
        if (c == '\\') {
            if (s->at == s->end)
                return false;
            c = *s->at++;
            if (c == 'n')
                c = '\n';
            else if (c == 't')
                c = '\t';
            else if (c != '\\' && c != '\'' && c != '"')
                return false;
        }
        f->e = buf_append_char(out, c);
        if (f->e != ERR_OK)
            return false;
    }
    return take_char(s, quote);
}

/* turn['role'], turn["role"] or turn.role, after `turn`. */
static bool take_field(struct follower *f, struct scan *s)
{
    struct buf name = {0};
    bool ok;
    if (take_char(s, '.')) {
        struct str word = take_word(s);
        f->e = buf_append(&name, word.data, word.len);
        ok = f->e == ERR_OK;
    } else {
        ok = take_char(s, '[') && take_string(f, s, &name) && take_char(s, ']');
    }
    struct str field = {name.data, name.len};
    if (ok && str_eq(field, STR_LIT("role")))
        ok = add_mark(f, MARK_ROLE);
    else
        ok = ok && str_eq(field, STR_LIT("content")) && add_mark(f, MARK_CONTENT);
    buf_free(&name);
    return ok;
}

static const struct variable *find_variable(const struct follower *f, struct str name)
{
    for (size_t i = 0; i < f->variables_count; i++)
        if (str_eq(f->variables[i].name, name))
            return &f->variables[i];
    return NULL;
}

static bool take_term(struct follower *f, struct scan *s)
{
    skip_space(s);
    if (s->at < s->end && (*s->at == '\'' || *s->at == '"')) {
        struct buf text = {0};
        bool ok = take_string(f, s, &text) && add_literal(f, (struct str){text.data, text.len});
        buf_free(&text);
        return ok;
    }
    struct str name = take_word(s);
    if (name.len == 0)
        return false;
    if (f->in_loop && str_eq(name, f->turn))
        return take_field(f, s);
    const struct variable *v = find_variable(f, name);
    return v != NULL && add_literal(f, (struct str){v->value.data, v->value.len});
}

/* {{ term + term ~ term }} */
static bool follow_output(struct follower *f, struct scan s)
{
    do {
        if (!take_term(f, &s))
            return false;
    } while (take_char(&s, '+') || take_char(&s, '~'));
    return at_end(&s);
}

static bool follow_set(struct follower *f, struct scan *s)
{
    struct str name = take_word(s);
    if (!take_char(s, '='))
        return false;
    if (str_eq(name, STR_LIT("add_generation_prompt")))
        return take_this(s, "false") && add_mark(f, MARK_FALSE);
    /* Where Jinja's scopes would matter, this is not followed. */
    if (name.len == 0 || f->in_loop || find_variable(f, name) != NULL ||
        f->variables_count == MAX_VARIABLES || str_eq(name, STR_LIT("messages")))
        return false;
    struct variable *v = &f->variables[f->variables_count++];
    v->name = name;
    return take_string(f, s, &v->value);
}

static bool follow_if(struct follower *f, struct scan *s)
{
    bool negated = take_this(s, "not");
    if (!take_this(s, "add_generation_prompt"))
        return false;
    if (!negated && at_end(s))
        return add_mark(f, MARK_IF_PROMPT);
    if (!take_this(s, "is"))
        return false;
    if (!negated && !take_this(s, "not"))
        return false;
    return take_this(s, "defined") && add_mark(f, MARK_UNDEFINED);
}

static bool follow_for(struct follower *f, struct scan *s)
{
    struct str name = take_word(s);
    if (f->in_loop || name.len == 0 || find_variable(f, name) != NULL || !take_this(s, "in") ||
        !take_this(s, "messages"))
        return false;
    f->turn = name;
    f->in_loop = true;
    return add_mark(f, MARK_FOR);
}

/* {% statement %} */
static bool follow_statement(struct follower *f, struct scan s)
{
    bool ok;
    if (take_this(&s, "for")) {
        ok = follow_for(f, &s);
    } else if (take_this(&s, "endfor")) {
        ok = f->in_loop && add_mark(f, MARK_ENDFOR);
        f->in_loop = false;
    } else if (take_this(&s, "if")) {
        ok = follow_if(f, &s);
    } else if (take_this(&s, "endif")) {
        ok = add_mark(f, MARK_ENDIF);
    } else {
        ok = take_this(&s, "set") && follow_set(f, &s);
    }
    return ok && at_end(&s);
}

/* A tag of the template, or its end (kind 0). */
struct tag {
    char kind; /* '{' output, '%' statement, '#' comment */
    const char *begin, *end;
    struct scan inside;
    bool trims_before, trims_after;
};

static bool find_tag(const char *at, const char *end, struct tag *ret)
{
    struct tag t = {.begin = end, .end = end};
    for (; at + 1 < end; at++)
        if (at[0] == '{' && (at[1] == '{' || at[1] == '%' || at[1] == '#')) {
            t.kind = at[1];
            t.begin = at;
            break;
        }
    if (t.kind != 0) {
        char close[2] = {t.kind == '{' ? '}' : t.kind, '}'};
        const char *inside = t.begin + 2;
        /* A string that holds the closing mark is not followed: the cut tag does not parse. */
        const char *stop = memmem(inside, (size_t)(end - inside), close, sizeof(close));
        if (stop == NULL)
            return false;
        t.end = stop + 2;
        t.trims_before = inside < stop && *inside == '-';
        inside += t.trims_before;
        t.trims_after = inside < stop && stop[-1] == '-';
        t.inside = (struct scan){inside, stop - t.trims_after};
    }
    *ret = t;
    return true;
}

/* The text between two tags, as the renderer leaves it. */
static struct str trim_text(const char *begin, const char *end, const struct tag *before,
                            const struct tag *after)
{
    const char *first = begin;
    if (before->trims_after) {
        while (first < end && isspace((unsigned char)*first))
            first++;
    } else if (first < end && *first == '\n' && (before->kind == '%' || before->kind == '#')) {
        first++;
    }
    if (after->trims_before) {
        while (end > first && isspace((unsigned char)end[-1]))
            end--;
    } else if (after->kind == '%' || after->kind == '#') {
        const char *line = end;
        while (line > begin && (line[-1] == ' ' || line[-1] == '\t'))
            line--;
        /* Only where the tag is the first thing on its line. */
        if ((line > begin && line[-1] == '\n') || (line == begin && before->begin == NULL))
            end = line > first ? line : first;
    } else if (after->kind == 0 && end > first && end[-1] == '\n') {
        end--;
    }
    return (struct str){first, (size_t)(end - first)};
}

static bool follow(struct follower *f, struct str source)
{
    const char *at = source.data, *end = source.data + source.len;
    struct tag before = {0};
    for (;;) {
        struct tag tag;
        if (!find_tag(at, end, &tag) || !add_literal(f, trim_text(at, tag.begin, &before, &tag)))
            return false;
        if (tag.kind == 0)
            return true;
        if (tag.kind == '{' && !follow_output(f, tag.inside))
            return false;
        if (tag.kind == '%' && !follow_statement(f, tag.inside))
            return false;
        at = tag.end;
        before = tag;
    }
}

enum err chat_is_chatml(struct str source, bool *ret)
{
    struct follower f = {0};
    bool is = false;
    if (source.len > 0 && source.len <= MAX_TEMPLATE_BYTES && follow(&f, source))
        for (size_t i = 0; i < ARRAY_LEN(accepted); i++)
            is = is || str_eq((struct str){f.marks.data, f.marks.len}, str_of(accepted[i]));
    enum err e = f.e;
    for (size_t i = 0; i < f.variables_count; i++)
        buf_free(&f.variables[i].value);
    buf_free(&f.marks);
    if (e == ERR_OK)
        *ret = is;
    return e;
}
