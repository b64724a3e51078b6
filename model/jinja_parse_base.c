/* What the parser's files share: nodes, names, tokens, errors, the limits on nesting. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "model/jinja_impl.h"

void *jparse_fail(struct jparser *p, uint32_t line, const char *fmt, ...)
{
    char text[200];
    va_list args;
    if (p->e != ERR_OK)
        return NULL;
    va_start(args, fmt);
    vsnprintf(text, sizeof(text), fmt, args);
    va_end(args);
    p->e = line == 0 ? err_set(p->why, ERR_NOMEM, "chat template: %s", text)
                     : err_set(p->why, ERR_FORMAT, "chat template, line %u: %s", line, text);
    return NULL;
}

void *jparse_fail_as(struct jparser *p, enum err e, uint32_t line, const char *text)
{
    if (p->e == ERR_OK)
        p->e = err_set(p->why, e, "chat template, line %u: %s", line, text);
    return NULL;
}

struct jnode *jparse_node(struct jparser *p, enum jnode_kind kind, uint32_t line)
{
    struct jnode *n = arena_alloc(&p->t->arena, 1, sizeof(*n));
    if (n == NULL)
        return jparse_fail(p, 0, "too large");
    n->kind = (uint8_t)kind;
    n->line = line;
    n->depth = 1;
    return n;
}

bool jparse_append(struct jparser *p, struct jnode_list *list, struct jnode *n)
{
    if (n == NULL)
        return false;
    if (list->count == list->cap) {
        size_t cap = list->cap == 0 ? 4 : 2 * list->cap;
        struct jnode **items = arena_alloc(&p->t->arena, cap, sizeof(struct jnode *));
        if (items == NULL)
            return jparse_fail(p, 0, "too large") != NULL;
        if (list->count > 0)
            memcpy(items, list->items, list->count * sizeof(struct jnode *));
        list->items = items;
        list->cap = cap;
    }
    list->items[list->count++] = n;
    return true;
}

static void deepest(const struct jnode *child, unsigned *depth)
{
    if (child != NULL && child->depth > *depth)
        *depth = child->depth;
}

static void deepest_list(const struct jnode_list *list, unsigned *depth)
{
    for (size_t i = 0; i < list->count; i++)
        deepest(list->items[i], depth);
}

struct jnode *jparse_seal(struct jparser *p, struct jnode *n)
{
    unsigned depth = 0;
    if (n == NULL)
        return NULL;
    deepest(n->a, &depth);
    /* An elif's chain is walked by a loop, not by recursion. */
    if (n->kind == JN_IF && n->b != NULL && n->b->kind == JN_IF && n->b->depth > 0)
        depth = depth > (unsigned)n->b->depth - 1 ? depth : (unsigned)n->b->depth - 1;
    else
        deepest(n->b, &depth);
    deepest(n->c, &depth);
    deepest(n->star, &depth);
    deepest(n->starstar, &depth);
    deepest_list(&n->items, &depth);
    deepest_list(&n->body, &depth);
    deepest_list(&n->other, &depth);
    if (depth + 1 > JINJA_MAX_NODE_DEPTH)
        return jparse_fail_as(p, ERR_RANGE, n->line, "expressions or blocks are nested too deep");
    n->depth = (uint16_t)(depth + 1);
    return n;
}

bool jparse_enter(struct jparser *p)
{
    if (p->depth == JINJA_MAX_PARSE_DEPTH)
        return jparse_fail_as(p, ERR_RANGE, p->tok->line,
                              "expressions or blocks are nested too deep") != NULL;
    p->depth++;
    return true;
}

bool jparse_symbol(struct jparser *p, struct str name, uint32_t *ret)
{
    struct jinja *t = p->t;
    for (size_t i = 0; i < t->symbols_count; i++)
        if (str_eq(t->symbols[i], name)) {
            *ret = (uint32_t)i;
            return true;
        }
    if (t->symbols_count == t->symbols_cap) {
        size_t cap = t->symbols_cap == 0 ? 32 : 2 * t->symbols_cap;
        struct str *symbols = arena_alloc(&t->arena, cap, sizeof(*symbols));
        if (symbols == NULL || cap > 4096)
            return jparse_fail(p, 0, "too many names") != NULL;
        if (t->symbols_count > 0)
            memcpy(symbols, t->symbols, t->symbols_count * sizeof(*symbols));
        t->symbols = symbols;
        t->symbols_cap = cap;
    }
    *ret = (uint32_t)t->symbols_count;
    t->symbols[t->symbols_count++] = name;
    return true;
}

bool jparse_is_name(const struct jparser *p, const char *name)
{
    return p->tok->kind == JT_NAME && str_eq(p->tok->text, str_of(name));
}

bool jparse_is_op(const struct jparser *p, uint16_t op)
{
    return p->tok->kind == JT_OP && p->tok->op == op;
}

bool jparse_skip_op(struct jparser *p, uint16_t op)
{
    bool is = jparse_is_op(p, op);
    p->tok += is;
    return is;
}

bool jparse_skip_name(struct jparser *p, const char *name)
{
    bool is = jparse_is_name(p, name);
    p->tok += is;
    return is;
}

bool jparse_expect_op(struct jparser *p, uint16_t op)
{
    if (jparse_skip_op(p, op))
        return true;
    char text[3] = {(char)(op & 0xff), (char)(op >> 8), 0};
    return jparse_fail(p, p->tok->line, "'%s' is expected", text) != NULL;
}
