/* Template text to tokens, with Jinja2's white space control: trim_blocks and lstrip_blocks on, `-`
 * and `+` at tags, one newline at the template's end dropped, \r\n and \r read as \n. */
#include <stdlib.h>
#include <string.h>

#include "model/jinja_impl.h"

enum { MAX_BRACKETS = 200 };

struct lexer {
    struct arena *a;
    const char *s;
    size_t len, at;
    uint32_t line;
    bool line_starting; /* the last match ended a line, or nothing was read yet */
    struct jtok_list *out;
    struct err_msg *why;
    enum err e;
};

static bool fail(struct lexer *x, enum err e, const char *what)
{
    if (x->e == ERR_OK)
        x->e = e == ERR_NOMEM ? err_set(x->why, e, "chat template: too large")
                              : err_set(x->why, e, "chat template, line %u: %s", x->line, what);
    return false;
}

static struct jtok *push(struct lexer *x, enum jtok_kind kind)
{
    struct jtok_list *l = x->out;
    if (l->count == l->cap) {
        size_t cap = l->cap == 0 ? 256 : 2 * l->cap;
        struct jtok *items = arena_alloc(x->a, cap, sizeof(*items));
        if (items == NULL) {
            fail(x, ERR_NOMEM, "");
            return NULL;
        }
        if (l->count > 0)
            memcpy(items, l->items, l->count * sizeof(*items));
        l->items = items;
        l->cap = cap;
    }
    struct jtok *t = &l->items[l->count++];
    *t = (struct jtok){.kind = (uint8_t)kind, .line = x->line};
    return t;
}

/* Goes on to `to`, counting lines. */
static void advance(struct lexer *x, size_t to)
{
    for (; x->at < to; x->at++)
        x->line += x->s[x->at] == '\n';
}

static bool at_text(const struct lexer *x, size_t at, const char *text)
{
    size_t n = strlen(text);
    return at <= x->len && x->len - at >= n && memcmp(x->s + at, text, n) == 0;
}

static size_t skip_space(const struct lexer *x, size_t at)
{
    while (at < x->len) {
        uint32_t c;
        size_t n = juni_next(x->s + at, x->len - at, &c);
        if (!juni_is_space(c))
            break;
        at += n;
    }
    return at;
}

/* Text [begin, end) before a tag with this sign. */
static bool push_text(struct lexer *x, size_t begin, size_t end, char sign, bool variable)
{
    struct str s = {x->s + begin, end - begin};
    if (sign == '-') {
        s.len = jstr_strip(s, NULL, 2).end;
    } else if (sign != '+' && !variable) {
        size_t line = s.len;
        while (line > 0 && s.data[line - 1] != '\n')
            line--;
        struct str rest = {s.data + line, s.len - line};
        struct jspan kept = jstr_strip(rest, NULL, 3);
        if ((line > 0 || x->line_starting) && kept.begin == kept.end)
            s.len = line;
    }
    struct jtok *t = NULL;
    if (s.len > 0) {
        t = push(x, JT_TEXT);
        if (t == NULL)
            return false;
        t->text = s;
    }
    advance(x, end);
    return true;
}

/* A tag's end at `at`: "-%}" and white space, "%}" and a newline (trim_blocks), "+%}". 0: none
 * there. */
static size_t tag_end(const struct lexer *x, size_t at, const char *close, bool block)
{
    if (at < x->len && x->s[at] == '-' && at_text(x, at + 1, close))
        return skip_space(x, at + 3);
    if (block && at < x->len && x->s[at] == '+' && at_text(x, at + 1, close))
        return at + 3;
    if (!at_text(x, at, close))
        return 0;
    return at + 2 + (block && at_text(x, at + 2, "\n"));
}

static void finish_tag(struct lexer *x, size_t end)
{
    advance(x, end);
    x->line_starting = end > 0 && x->s[end - 1] == '\n';
}

static bool lex_comment(struct lexer *x)
{
    for (size_t p = x->at; p < x->len; p++) {
        size_t end = tag_end(x, p, "#}", true);
        if (end != 0) {
            finish_tag(x, end);
            return true;
        }
    }
    /* Jinja2 does not miss the end of one that begins at the very end. */
    return x->at == x->len || fail(x, ERR_FORMAT, "a comment has no end");
}

/* After "{%" at `at`: where a raw block's text begins, 0 when it is another tag. */
static size_t raw_begin(const struct lexer *x, size_t at)
{
    size_t p = at + 2;
    if (p < x->len && (x->s[p] == '-' || x->s[p] == '+'))
        p++;
    p = skip_space(x, p);
    if (!at_text(x, p, "raw"))
        return 0;
    p = skip_space(x, p + 3);
    if (at_text(x, p, "-%}"))
        return skip_space(x, p + 3);
    return at_text(x, p, "%}") ? p + 2 : 0;
}

static bool lex_raw(struct lexer *x)
{
    for (size_t p = x->at; p < x->len; p++) {
        if (!at_text(x, p, "{%"))
            continue;
        size_t q = p + 2;
        char sign = 0;
        if (q < x->len && (x->s[q] == '-' || x->s[q] == '+'))
            sign = x->s[q++];
        q = skip_space(x, q);
        if (!at_text(x, q, "endraw"))
            continue;
        size_t end = tag_end(x, skip_space(x, q + 6), "%}", true);
        if (end == 0)
            continue;
        if (!push_text(x, x->at, p, sign, false))
            return false;
        finish_tag(x, end);
        return true;
    }
    return x->at == x->len || fail(x, ERR_FORMAT, "a raw block has no end");
}

static int digit_of(char c, int base)
{
    int d = c >= '0' && c <= '9'                     ? c - '0'
            : (c | 0x20) >= 'a' && (c | 0x20) <= 'z' ? (c | 0x20) - 'a' + 10
                                                     : 99;
    return d < base ? d : -1;
}

/* Digits with single underscores between them; returns where they end. */
static size_t digits(const struct lexer *x, size_t at, int base, uint64_t *value, bool *overflow)
{
    size_t p = at;
    while (p < x->len) {
        size_t q = p > at && x->s[p] == '_' ? p + 1 : p;
        int d = q < x->len ? digit_of(x->s[q], base) : -1;
        if (d < 0)
            break;
        if (*value > (uint64_t)(INT64_MAX - d) / (unsigned)base)
            *overflow = true;
        else
            *value = *value * (unsigned)base + (unsigned)d;
        p = q + 1;
    }
    return p;
}

static bool lex_float(struct lexer *x, size_t end)
{
    char text[64];
    size_t n = 0;
    for (size_t p = x->at; p < end; p++)
        if (x->s[p] != '_') {
            if (n == sizeof(text) - 1)
                return fail(x, ERR_FORMAT, "a number is too long");
            text[n++] = x->s[p];
        }
    text[n] = '\0';
    struct jtok *t = push(x, JT_FLOAT);
    if (t == NULL)
        return false;
    t->real = strtod(text, NULL);
    advance(x, end);
    return true;
}

static bool lex_number(struct lexer *x)
{
    uint64_t v = 0, ignored = 0;
    bool overflow = false, no = false;
    bool after_dot = x->at > 0 && x->s[x->at - 1] == '.';
    size_t end = digits(x, x->at, 10, &v, &overflow), p = end;
    if (!after_dot) {
        size_t fraction =
            p < x->len && x->s[p] == '.' ? digits(x, p + 1, 10, &ignored, &no) : p + 1;
        if (fraction > p + 1)
            p = fraction;
        if (p < x->len && (x->s[p] | 0x20) == 'e') {
            size_t q = p + 1;
            if (q < x->len && (x->s[q] == '+' || x->s[q] == '-'))
                q++;
            size_t exponent = digits(x, q, 10, &ignored, &no);
            if (exponent > q)
                p = exponent;
        }
        if (p > end)
            return lex_float(x, p);
    }
    if (x->s[x->at] == '0') { /* 0b, 0o, 0x; or zeros only */
        static const struct {
            char letter;
            int base;
        } bases[] = {{'b', 2}, {'o', 8}, {'x', 16}};
        v = 0;
        end = x->at + 1;
        while (end < x->len && (x->s[end] == '0' || (x->s[end] == '_' && at_text(x, end + 1, "0"))))
            end++;
        for (size_t i = 0; i < 3 && x->at + 1 < x->len; i++)
            if ((x->s[x->at + 1] | 0x20) == bases[i].letter) {
                size_t q = digits(x, x->at + 2, bases[i].base, &v, &overflow);
                if (q > x->at + 2)
                    end = q;
            }
    }
    if (overflow)
        return fail(x, ERR_FORMAT, "an integer has more than 63 bits");
    struct jtok *t = push(x, JT_INT);
    if (t == NULL)
        return false;
    t->integer = (int64_t)v;
    advance(x, end);
    return true;
}

/* One escape after its backslash at p; writes to out, moves p. As Python's unicode-escape. */
static size_t escape(struct lexer *x, size_t *p, char out[4])
{
    static const char from[] = "abfnrtv\\'\"", to[] = "\a\b\f\n\r\t\v\\'\"";
    char c = x->s[*p];
    const char *simple = c != '\0' ? strchr(from, c) : NULL;
    if (c == '\n') {
        ++*p;
        return 0;
    }
    if (simple != NULL) {
        out[0] = to[simple - from];
        ++*p;
        return 1;
    }
    int width = c == 'x' ? 2 : c == 'u' ? 4 : c == 'U' ? 8 : 0, base = width > 0 ? 16 : 8;
    bool octal = c >= '0' && c <= '7';
    if (width == 0 && !octal) { /* not an escape: the backslash stays */
        out[0] = '\\';
        return 1;
    }
    uint32_t v = 0;
    size_t q = *p + (octal ? 0 : 1);
    int n = 0;
    for (; n < (octal ? 3 : width) && q < x->len && digit_of(x->s[q], base) >= 0; n++)
        v = v * (unsigned)base + (unsigned)digit_of(x->s[q++], base);
    if ((!octal && n < width) || v > 0x10ffff || (v >= 0xd800 && v < 0xe000)) {
        fail(x, ERR_FORMAT, "a string has an escape that is no character");
        return 0;
    }
    *p = q;
    return juni_put(out, v);
}

static bool lex_string(struct lexer *x)
{
    char quote = x->s[x->at];
    size_t end = x->at + 1;
    bool plain = true;
    while (end < x->len && x->s[end] != quote) {
        plain = plain && x->s[end] != '\\';
        end += x->s[end] == '\\' ? 2 : 1;
    }
    if (end >= x->len)
        return fail(x, ERR_FORMAT, "a string has no end");
    struct str s = {x->s + x->at + 1, end - x->at - 1};
    if (!plain) {
        char *out = arena_alloc(x->a, s.len + 1, 1); /* no escape is shorter than its character */
        size_t n = 0;
        if (out == NULL)
            return fail(x, ERR_NOMEM, "");
        for (size_t p = x->at + 1; p < end;) {
            if (x->s[p] != '\\') {
                out[n++] = x->s[p++];
                continue;
            }
            char c[4];
            p++;
            size_t k = escape(x, &p, c);
            if (x->e != ERR_OK)
                return false;
            memcpy(out + n, c, k);
            n += k;
        }
        s = (struct str){out, n};
    }
    struct jtok *t = push(x, JT_STRING);
    if (t == NULL)
        return false;
    t->text = s;
    advance(x, end + 1);
    return true;
}

static size_t name_end(const struct lexer *x, size_t at)
{
    while (at < x->len) {
        uint32_t c;
        size_t n = juni_next(x->s + at, x->len - at, &c);
        if (c != '_' && !(c >= '0' && c <= '9') && !juni_is_alpha(c))
            break;
        at += n;
    }
    return at;
}

static bool lex_op(struct lexer *x, char *open, unsigned *depth)
{
    static const char two[][3] = {"//", "**", "==", "!=", ">=", "<="};
    static const char one[] = "+-/*%~[](){}><=.:|,;";
    char c = x->s[x->at];
    size_t len = 0;
    for (size_t i = 0; i < sizeof(two) / sizeof(two[0]); i++)
        if (at_text(x, x->at, two[i]))
            len = 2;
    if (len == 0 && (c == '\0' || strchr(one, c) == NULL))
        return fail(x, ERR_FORMAT, "a character that means nothing inside a tag");
    if (len == 0 && strchr("([{", c) != NULL) {
        if (*depth == MAX_BRACKETS)
            return fail(x, ERR_RANGE, "too many brackets in each other");
        open[(*depth)++] = c == '(' ? ')' : c == '[' ? ']' : '}';
    } else if (len == 0 && strchr(")]}", c) != NULL) {
        if (*depth == 0 || open[*depth - 1] != c)
            return fail(x, ERR_FORMAT, "a closing bracket that none opened");
        --*depth;
    }
    struct jtok *t = push(x, JT_OP);
    if (t == NULL)
        return false;
    t->op = len == 2 ? JOP(c, x->s[x->at + 1]) : JOP(c, 0);
    advance(x, x->at + (len == 2 ? 2 : 1));
    return true;
}

/* A tag's inside up to its end. */
static bool lex_tag(struct lexer *x, bool block)
{
    char open[MAX_BRACKETS];
    unsigned depth = 0;
    for (;;) {
        size_t end = depth > 0 ? 0 : tag_end(x, x->at, block ? "%}" : "}}", block);
        if (end != 0) {
            if (push(x, block ? JT_BLOCK_END : JT_VAR_END) == NULL)
                return false;
            finish_tag(x, end);
            return true;
        }
        size_t after = skip_space(x, x->at);
        if (after > x->at) {
            advance(x, after);
            continue;
        }
        if (x->at == x->len)
            return fail(x, ERR_FORMAT, block ? "{% has no %}" : "{{ has no }}");
        char c = x->s[x->at];
        bool ok;
        if (c >= '0' && c <= '9') {
            ok = lex_number(x);
        } else if (c == '\'' || c == '"') {
            ok = lex_string(x);
        } else if ((after = name_end(x, x->at)) > x->at) {
            struct jtok *t = push(x, JT_NAME);
            if (t != NULL)
                t->text = (struct str){x->s + x->at, after - x->at};
            ok = t != NULL;
            advance(x, after);
        } else {
            ok = lex_op(x, open, &depth);
        }
        if (!ok)
            return false;
    }
}

static bool lex_all(struct lexer *x)
{
    while (x->at < x->len) {
        size_t p = x->at;
        while (p < x->len && !(x->s[p] == '{' && p + 1 < x->len &&
                               strchr("{%#", x->s[p + 1]) != NULL && x->s[p + 1] != '\0'))
            p++;
        if (p == x->len)
            return push_text(x, x->at, p, '+', false);
        char kind = x->s[p + 1], sign = 0;
        size_t raw = kind == '%' ? raw_begin(x, p) : 0;
        if (p + 2 < x->len && (x->s[p + 2] == '-' || x->s[p + 2] == '+'))
            sign = x->s[p + 2];
        if (!push_text(x, x->at, p, sign, kind == '{'))
            return false;
        size_t begin = p + 2 + (sign != 0);
        bool ok;
        if (raw != 0) {
            finish_tag(x, raw);
            ok = lex_raw(x);
        } else if (kind == '#') {
            finish_tag(x, begin);
            ok = lex_comment(x);
        } else {
            ok = push(x, kind == '%' ? JT_BLOCK_BEGIN : JT_VAR_BEGIN) != NULL;
            advance(x, begin);
            ok = ok && lex_tag(x, kind == '%');
        }
        if (!ok)
            return false;
    }
    return true;
}

/* Newlines as Jinja2 reads them; one at the end is dropped. */
static bool normalize(struct lexer *x, struct str source)
{
    char *out = arena_alloc(x->a, source.len + 1, 1);
    size_t n = 0;
    if (out == NULL)
        return fail(x, ERR_NOMEM, "");
    for (size_t i = 0; i < source.len; i++) {
        if (source.data[i] == '\r' && i + 1 < source.len && source.data[i + 1] == '\n')
            continue;
        out[n++] = source.data[i] == '\r' ? '\n' : source.data[i];
    }
    if (n > 0 && out[n - 1] == '\n')
        n--;
    x->s = out;
    x->len = n;
    return true;
}

enum err jlex_run(struct str source, struct arena *a, struct jtok_list *ret, struct err_msg *why)
{
    struct jtok_list list = {0};
    struct lexer x = {.a = a, .line = 1, .line_starting = true, .out = &list, .why = why};
    if (!normalize(&x, source) || !lex_all(&x) || push(&x, JT_EOF) == NULL)
        return x.e;
    *ret = list;
    return ERR_OK;
}
