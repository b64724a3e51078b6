/* What Jinja2's compiler refuses and its parser does not: names of filters and tests that do not
 * exist. As there, a condition makes it an error of the moment when it runs; a scope inside of it
 * does not. */
#include "model/jinja_impl.h"

static bool check(struct jparser *p, const struct jnode *n, bool soft)
{
    if (n == NULL)
        return true;
    if ((n->kind == JN_FILTER || n->kind == JN_TEST) && n->target == NULL && !soft)
        return jparse_fail(p, n->line, "no %s is named '%.*s'",
                           n->kind == JN_TEST ? "test" : "filter",
                           (int)(n->name.len < 60 ? n->name.len : 60), n->name.data) != NULL;
    /* The rest of an if's branches: a loop here, so that their number does not matter. */
    for (; n->kind == JN_IF && n->b != NULL; n = n->b)
        if (!check(p, n->a, true) || !jcheck_names(p, &n->body, true))
            return false;
    bool inside = soft || n->kind == JN_IF || n->kind == JN_COND;
    bool scope = n->kind == JN_FOR || n->kind == JN_MACRO || n->kind == JN_FILTER_BLOCK ||
                 n->kind == JN_WITH || n->kind == JN_SET_BLOCK || n->kind == JN_SCOPE;
    return check(p, n->a, inside) && check(p, n->b, inside) &&
           check(p, n->c, inside && n->kind != JN_FOR) && check(p, n->star, inside) &&
           check(p, n->starstar, inside) && jcheck_names(p, &n->items, inside) &&
           jcheck_names(p, &n->body, inside && !scope) &&
           jcheck_names(p, &n->other, inside && !scope);
}

bool jcheck_names(struct jparser *p, const struct jnode_list *body, bool soft)
{
    for (size_t i = 0; i < body->count; i++)
        if (!check(p, body->items[i], soft))
            return false;
    return true;
}
