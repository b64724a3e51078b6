/* The smallest expressions of templates: names, literals, lists, dicts, what is in parentheses. */
#include <string.h>

#include "model/jinja_impl.h"

struct jnode *jparse_constant(struct jparser *p, struct jval v)
{
    struct jnode *n = jparse_node(p, JN_CONST, p->tok->line);
    if (n != NULL)
        n->value = v;
    return n;
}

/* The node's value: undefined, with the name for messages. */
bool jparse_undefined(struct jparser *p, struct jnode *n)
{
    if (jinja_make_str(&p->t->arena, n->name, false, &n->value) != ERR_OK)
        return jparse_fail(p, 0, "too large") != NULL;
    n->value.kind = JV_UNDEF;
    return true;
}

static struct jnode *string(struct jparser *p)
{
    struct jnode *n = jparse_constant(p, (struct jval){0});
    struct str s = p->tok->text;
    if (n == NULL)
        return NULL;
    p->tok++;
    if (p->tok->kind == JT_STRING) { /* neighbours are one string */
        size_t len = s.len, at = 0;
        for (const struct jtok *t = p->tok; t->kind == JT_STRING; t++)
            len += t->text.len;
        char *all = arena_alloc(&p->t->arena, len + 1, 1);
        if (all == NULL)
            return jparse_fail(p, 0, "too large");
        for (; p->tok[-1].kind == JT_STRING; p->tok++) {
            if (p->tok[-1].text.len > 0)
                memcpy(all + at, p->tok[-1].text.data, p->tok[-1].text.len);
            at += p->tok[-1].text.len;
            if (p->tok->kind != JT_STRING)
                break;
        }
        s = (struct str){all, len};
    }
    if (jinja_make_str(&p->t->arena, s, false, &n->value) != ERR_OK)
        return jparse_fail(p, 0, "too large");
    return n;
}

static struct jnode *name(struct jparser *p)
{
    static const struct {
        const char *text;
        struct jval value;
    } words[] = {{"true", {.kind = JV_BOOL, .as.boolean = true}},
                 {"True", {.kind = JV_BOOL, .as.boolean = true}},
                 {"false", {.kind = JV_BOOL}},
                 {"False", {.kind = JV_BOOL}},
                 {"none", {.kind = JV_NONE}},
                 {"None", {.kind = JV_NONE}}};
    struct jnode *n = NULL;
    for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++)
        if (jparse_is_name(p, words[i].text)) {
            n = jparse_constant(p, words[i].value);
            p->tok++;
            return n;
        }
    n = jparse_node(p, JN_NAME, p->tok->line);
    if (n == NULL || !jparse_symbol(p, p->tok->text, &n->symbol))
        return NULL;
    n->name = p->tok->text;
    if (!jparse_undefined(p, n))
        return NULL;
    if (p->macro != NULL) {
        p->macro->takes_varargs |= n->symbol == JSYM_VARARGS;
        p->macro->takes_kwargs |= n->symbol == JSYM_KWARGS;
        p->macro->takes_caller |= n->symbol == JSYM_CALLER;
    }
    p->tok++;
    return n;
}

static struct jnode *list(struct jparser *p)
{
    struct jnode *n = jparse_node(p, JN_LIST, p->tok->line);
    p->tok++;
    while (n != NULL && !jparse_skip_op(p, JOP(']', 0))) {
        if (n->items.count > 0 && !jparse_expect_op(p, JOP(',', 0)))
            return NULL;
        if (jparse_skip_op(p, JOP(']', 0)))
            break;
        if (!jparse_append(p, &n->items, jparse_expr(p, true)))
            return NULL;
    }
    return n == NULL ? NULL : jparse_seal(p, n);
}

static struct jnode *dict(struct jparser *p)
{
    struct jnode *n = jparse_node(p, JN_DICT, p->tok->line);
    p->tok++;
    while (n != NULL && !jparse_skip_op(p, JOP('}', 0))) {
        if (n->items.count > 0 && !jparse_expect_op(p, JOP(',', 0)))
            return NULL;
        if (jparse_skip_op(p, JOP('}', 0)))
            break;
        if (!jparse_append(p, &n->items, jparse_expr(p, true)) ||
            !jparse_expect_op(p, JOP(':', 0)) || !jparse_append(p, &n->items, jparse_expr(p, true)))
            return NULL;
    }
    return n == NULL ? NULL : jparse_seal(p, n);
}

struct jnode *jparse_primary(struct jparser *p)
{
    struct jnode *n = NULL;
    switch ((enum jtok_kind)p->tok->kind) {
    case JT_NAME:
        return name(p);
    case JT_STRING:
        return string(p);
    case JT_INT:
        n = jparse_constant(p, jval_int(p->tok->integer));
        p->tok++;
        return n;
    case JT_FLOAT:
        n = jparse_constant(p, jval_float(p->tok->real));
        p->tok++;
        return n;
    default:
        break;
    }
    if (jparse_skip_op(p, JOP('(', 0))) {
        n = jparse_tuple(p, false, true, NULL, true);
        return n != NULL && jparse_expect_op(p, JOP(')', 0)) ? n : NULL;
    }
    if (jparse_is_op(p, JOP('[', 0)))
        return list(p);
    if (jparse_is_op(p, JOP('{', 0)))
        return dict(p);
    return jparse_fail(p, p->tok->line, "an expression is expected");
}
