/* Expressions of templates, by Jinja2's grammar (its order of precedence differs from Python's in
 * places: `~` above
 * `+`, unary minus above `**`, filters above unary minus's operand only). */
#include <string.h>

#include "model/jinja_impl.h"

static struct jnode *seal2(struct jparser *p, enum jnode_kind kind, uint32_t line, struct jnode *a,
                           struct jnode *b)
{
    struct jnode *n = a == NULL || b == NULL ? NULL : jparse_node(p, kind, line);
    if (n == NULL)
        return NULL;
    n->a = a;
    n->b = b;
    return jparse_seal(p, n);
}

static struct jnode *seal1(struct jparser *p, enum jnode_kind kind, uint32_t line, struct jnode *a)
{
    struct jnode *n = a == NULL ? NULL : jparse_node(p, kind, line);
    if (n == NULL)
        return NULL;
    n->a = a;
    return jparse_seal(p, n);
}

/* One of the values in [ ]: an expression or a slice. */
static struct jnode *subscribed(struct jparser *p)
{
    struct jnode *part[3] = {NULL, NULL, NULL};
    uint32_t line = p->tok->line;
    if (!jparse_is_op(p, JOP(':', 0))) {
        part[0] = jparse_expr(p, true);
        if (part[0] == NULL || !jparse_is_op(p, JOP(':', 0)))
            return part[0];
    }
    for (int i = 1; i < 3 && jparse_skip_op(p, JOP(':', 0)); i++) {
        if (jparse_is_op(p, JOP(':', 0)) || jparse_is_op(p, JOP(']', 0)) ||
            jparse_is_op(p, JOP(',', 0)))
            continue;
        part[i] = jparse_expr(p, true);
        if (part[i] == NULL)
            return NULL;
    }
    struct jnode *n = jparse_node(p, JN_SLICE, line);
    if (n == NULL)
        return NULL;
    n->a = part[0];
    n->b = part[1];
    n->c = part[2];
    return jparse_seal(p, n);
}

static struct jnode *subscript(struct jparser *p, struct jnode *of)
{
    uint32_t line = p->tok->line;
    if (jparse_skip_op(p, JOP('.', 0))) {
        if (p->tok->kind == JT_INT) {
            struct jnode *index = jparse_constant(p, jval_int(p->tok->integer));
            p->tok++;
            return seal2(p, JN_ITEM, line, of, index);
        }
        if (p->tok->kind != JT_NAME)
            return jparse_fail(p, line, "a name is expected after '.'");
        struct jnode *n = seal1(p, JN_ATTR, line, of);
        if (n == NULL)
            return NULL;
        n->name = p->tok->text;
        p->tok++;
        return jparse_undefined(p, n) ? n : NULL;
    }
    p->tok++;
    struct jnode *tuple = jparse_node(p, JN_TUPLE, line);
    while (tuple != NULL && !jparse_skip_op(p, JOP(']', 0)))
        if ((tuple->items.count > 0 && !jparse_expect_op(p, JOP(',', 0))) ||
            !jparse_append(p, &tuple->items, subscribed(p)))
            return NULL;
    if (tuple == NULL)
        return NULL;
    if (tuple->items.count == 1)
        return seal2(p, JN_ITEM, line, of, tuple->items.items[0]);
    for (size_t i = 0; i < tuple->items.count; i++)
        if (tuple->items.items[i]->kind == JN_SLICE)
            return jparse_fail(p, line, "a slice among several subscripts");
    return seal2(p, JN_ITEM, line, of, jparse_seal(p, tuple));
}

/* ( args ) into n. */
static bool call_args(struct jparser *p, struct jnode *n)
{
    bool keywords = false, first = true;
    p->tok++;
    while (!jparse_skip_op(p, JOP(')', 0))) {
        if (!first && !jparse_expect_op(p, JOP(',', 0)))
            return false;
        if (!first && jparse_skip_op(p, JOP(')', 0)))
            break;
        first = false;
        uint32_t line = p->tok->line;
        bool star = jparse_skip_op(p, JOP('*', 0)), starstar = jparse_skip_op(p, JOP('*', '*'));
        if (star || starstar) {
            struct jnode **to = star ? &n->star : &n->starstar;
            if (*to != NULL || (star && n->starstar != NULL))
                return jparse_fail(p, line, "call arguments are in a wrong order") != NULL;
            *to = jparse_expr(p, true);
            if (*to == NULL)
                return false;
            continue;
        }
        if (p->tok->kind == JT_NAME && p->tok[1].kind == JT_OP && p->tok[1].op == JOP('=', 0)) {
            struct str key = p->tok->text;
            p->tok += 2;
            struct jnode *k = n->starstar != NULL
                                  ? jparse_fail(p, line, "call arguments are in a wrong order")
                                  : seal1(p, JN_KEYWORD, line, jparse_expr(p, true));
            if (!jparse_append(p, &n->items, k))
                return false;
            k->name = key;
            keywords = true;
            continue;
        }
        if (keywords || n->star != NULL || n->starstar != NULL)
            return jparse_fail(p, line, "call arguments are in a wrong order") != NULL;
        if (!jparse_append(p, &n->items, jparse_expr(p, true)))
            return false;
    }
    return true;
}

static struct jnode *call(struct jparser *p, struct jnode *callee)
{
    struct jnode *n = jparse_node(p, JN_CALL, p->tok->line);
    if (n == NULL)
        return NULL;
    n->a = callee;
    return call_args(p, n) ? jparse_seal(p, n) : NULL;
}

static struct jnode *postfix(struct jparser *p, struct jnode *n)
{
    while (n != NULL) {
        if (jparse_is_op(p, JOP('.', 0)) || jparse_is_op(p, JOP('[', 0)))
            n = subscript(p, n);
        else if (jparse_is_op(p, JOP('(', 0)))
            n = call(p, n);
        else
            break;
    }
    return n;
}

/* name(.name)* into the arena. */
static bool dotted(struct jparser *p, struct str *ret)
{
    if (p->tok->kind != JT_NAME)
        return jparse_fail(p, p->tok->line, "a name is expected") != NULL;
    const char *begin = p->tok->text.data;
    size_t len = p->tok->text.len;
    p->tok++;
    while (jparse_is_op(p, JOP('.', 0)) && p->tok[1].kind == JT_NAME) {
        len = (size_t)(p->tok[1].text.data + p->tok[1].text.len - begin);
        p->tok += 2;
    }
    *ret = (struct str){begin, len};
    return true;
}

struct jnode *jparse_filters(struct jparser *p, struct jnode *node, bool start)
{
    while (start || jparse_is_op(p, JOP('|', 0))) {
        if (!start)
            p->tok++;
        struct jnode *n = jparse_node(p, JN_FILTER, p->tok->line);
        if (n == NULL || !dotted(p, &n->name))
            return NULL;
        n->a = node;
        n->target = jfilter_find(n->name);
        if (jparse_is_op(p, JOP('(', 0)) && !call_args(p, n))
            return NULL;
        node = jparse_seal(p, n);
        if (node == NULL)
            return NULL;
        start = false;
    }
    return node;
}

static struct jnode *test(struct jparser *p, struct jnode *of)
{
    uint32_t line = p->tok->line;
    p->tok++;
    bool negated = jparse_skip_name(p, "not");
    struct jnode *n = jparse_node(p, JN_TEST, line);
    if (n == NULL || !dotted(p, &n->name))
        return NULL;
    n->a = of;
    n->target = jtest_find(n->name);
    enum jtok_kind kind = p->tok->kind;
    bool argument =
        kind == JT_NAME
            ? !jparse_is_name(p, "else") && !jparse_is_name(p, "or") && !jparse_is_name(p, "and")
            : kind == JT_STRING || kind == JT_INT || kind == JT_FLOAT ||
                  jparse_is_op(p, JOP('[', 0)) || jparse_is_op(p, JOP('{', 0));
    if (jparse_is_op(p, JOP('(', 0))) {
        if (!call_args(p, n))
            return NULL;
    } else if (argument) {
        if (jparse_is_name(p, "is"))
            return jparse_fail(p, line, "tests with 'is' cannot be chained");
        if (!jparse_append(p, &n->items, postfix(p, jparse_primary(p))))
            return NULL;
    }
    n = jparse_seal(p, n);
    return negated ? seal1(p, JN_NOT, line, n) : n;
}

static struct jnode *filter_expr(struct jparser *p, struct jnode *n)
{
    while (n != NULL) {
        if (jparse_is_op(p, JOP('|', 0)))
            n = jparse_filters(p, n, false);
        else if (jparse_is_name(p, "is"))
            n = test(p, n);
        else if (jparse_is_op(p, JOP('(', 0)))
            n = call(p, n);
        else
            break;
    }
    return n;
}

static struct jnode *unary(struct jparser *p, bool with_filter)
{
    struct jnode *n;
    uint32_t line = p->tok->line;
    if (!jparse_enter(p))
        return NULL;
    if (jparse_skip_op(p, JOP('-', 0)))
        n = seal1(p, JN_NEG, line, unary(p, false));
    else if (jparse_skip_op(p, JOP('+', 0)))
        n = seal1(p, JN_POS, line, unary(p, false));
    else
        n = jparse_primary(p);
    n = postfix(p, n);
    if (with_filter)
        n = filter_expr(p, n);
    p->depth--;
    return n;
}

static struct jnode *binary(struct jparser *p, struct jnode *a, struct jnode *b,
                            const struct jtok *op)
{
    struct jnode *n = seal2(p, JN_BINARY, op->line, a, b);
    if (n != NULL)
        n->op = op->op;
    return n;
}

static struct jnode *power(struct jparser *p)
{
    struct jnode *n = unary(p, true);
    while (n != NULL && jparse_is_op(p, JOP('*', '*'))) {
        const struct jtok *op = p->tok++;
        n = binary(p, n, unary(p, true), op);
    }
    return n;
}

static struct jnode *product(struct jparser *p)
{
    struct jnode *n = power(p);
    while (n != NULL && (jparse_is_op(p, JOP('*', 0)) || jparse_is_op(p, JOP('/', 0)) ||
                         jparse_is_op(p, JOP('/', '/')) || jparse_is_op(p, JOP('%', 0)))) {
        const struct jtok *op = p->tok++;
        n = binary(p, n, power(p), op);
    }
    return n;
}

static struct jnode *concat(struct jparser *p)
{
    uint32_t line = p->tok->line;
    struct jnode *first = product(p);
    if (first == NULL || !jparse_is_op(p, JOP('~', 0)))
        return first;
    struct jnode *n = jparse_node(p, JN_CONCAT, line);
    if (n == NULL || !jparse_append(p, &n->items, first))
        return NULL;
    while (jparse_skip_op(p, JOP('~', 0)))
        if (!jparse_append(p, &n->items, product(p)))
            return NULL;
    return jparse_seal(p, n);
}

static struct jnode *sum(struct jparser *p)
{
    struct jnode *n = concat(p);
    while (n != NULL && (jparse_is_op(p, JOP('+', 0)) || jparse_is_op(p, JOP('-', 0)))) {
        const struct jtok *op = p->tok++;
        n = binary(p, n, concat(p), op);
    }
    return n;
}

/* JOP('i', 0) is in, JOP('n', 0) not in; 0: no comparison follows. */
static uint16_t comparison(struct jparser *p)
{
    static const uint16_t ops[] = {JOP('=', '='), JOP('!', '='), JOP('<', '='),
                                   JOP('>', '='), JOP('<', 0),   JOP('>', 0)};
    for (size_t i = 0; i < sizeof(ops) / sizeof(ops[0]); i++)
        if (jparse_skip_op(p, ops[i]))
            return ops[i];
    if (jparse_skip_name(p, "in"))
        return JOP('i', 0);
    if (jparse_is_name(p, "not") && p->tok[1].kind == JT_NAME &&
        str_eq(p->tok[1].text, STR_LIT("in"))) {
        p->tok += 2;
        return JOP('n', 0);
    }
    return 0;
}

static struct jnode *compare(struct jparser *p)
{
    uint32_t line = p->tok->line;
    struct jnode *first = sum(p), *n = NULL;
    uint16_t op;
    if (first == NULL)
        return NULL;
    while ((op = comparison(p)) != 0) {
        if (n == NULL && (n = jparse_node(p, JN_COMPARE, line)) == NULL)
            return NULL;
        n->a = first;
        struct jnode *operand = seal1(p, JN_OPERAND, p->tok->line, sum(p));
        if (!jparse_append(p, &n->items, operand))
            return NULL;
        operand->op = op;
    }
    return n == NULL ? first : jparse_seal(p, n);
}

static struct jnode *negation(struct jparser *p)
{
    uint32_t line = p->tok->line;
    if (!jparse_skip_name(p, "not"))
        return compare(p);
    if (!jparse_enter(p))
        return NULL;
    struct jnode *n = seal1(p, JN_NOT, line, negation(p));
    p->depth--;
    return n;
}

static struct jnode *conjunction(struct jparser *p)
{
    struct jnode *n = negation(p);
    while (n != NULL && jparse_is_name(p, "and")) {
        uint32_t line = p->tok++->line;
        n = seal2(p, JN_AND, line, n, negation(p));
    }
    return n;
}

static struct jnode *disjunction(struct jparser *p)
{
    struct jnode *n = conjunction(p);
    while (n != NULL && jparse_is_name(p, "or")) {
        uint32_t line = p->tok++->line;
        n = seal2(p, JN_OR, line, n, conjunction(p));
    }
    return n;
}

struct jnode *jparse_expr(struct jparser *p, bool with_condition)
{
    if (!jparse_enter(p))
        return NULL;
    struct jnode *n = disjunction(p);
    while (n != NULL && with_condition && jparse_is_name(p, "if")) {
        uint32_t line = p->tok++->line;
        struct jnode *cond = jparse_node(p, JN_COND, line);
        if (cond == NULL)
            return NULL;
        cond->b = n;
        cond->a = disjunction(p);
        if (cond->a == NULL)
            return NULL;
        if (jparse_skip_name(p, "else") && (cond->c = jparse_expr(p, true)) == NULL)
            return NULL;
        n = jparse_seal(p, cond);
    }
    p->depth--;
    return n;
}

static bool tuple_ends(const struct jparser *p, const char *end)
{
    return p->tok->kind == JT_VAR_END || p->tok->kind == JT_BLOCK_END ||
           jparse_is_op(p, JOP(')', 0)) || (end != NULL && jparse_is_name(p, end));
}

struct jnode *jparse_tuple(struct jparser *p, bool simple, bool with_condition, const char *end,
                           bool in_parentheses)
{
    struct jnode *n = jparse_node(p, JN_TUPLE, p->tok->line);
    bool is_tuple = false;
    if (n == NULL)
        return NULL;
    for (;;) {
        if (n->items.count > 0 && !jparse_expect_op(p, JOP(',', 0)))
            return NULL;
        if (tuple_ends(p, end))
            break;
        if (!jparse_append(p, &n->items,
                           simple ? jparse_primary(p) : jparse_expr(p, with_condition)))
            return NULL;
        if (!jparse_is_op(p, JOP(',', 0)))
            break;
        is_tuple = true;
    }
    if (!is_tuple && n->items.count > 0)
        return n->items.items[0];
    if (!is_tuple && !in_parentheses)
        return jparse_fail(p, p->tok->line, "an expression is expected");
    return jparse_seal(p, n);
}
