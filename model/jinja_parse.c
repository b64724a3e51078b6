/* Tokens to a tree: statements. Expressions are in jinja_parse_expr.c, what both need in
 * jinja_parse_base.c. */
#include <stdlib.h>
#include <string.h>

#include "model/jinja_impl.h"

static bool expect(struct jparser *p, enum jtok_kind kind, const char *what)
{
    if (p->tok->kind != kind)
        return jparse_fail(p, p->tok->line, "%s is expected", what) != NULL;
    p->tok++;
    return true;
}

static bool body(struct jparser *p, struct jnode_list *list, const char *const *ends);

/* The rest of the opening tag, the statements, the word that ends them (skipped; the tag's end
 * too). Which of `ends` (NULL last) it was. */
static bool block(struct jparser *p, struct jnode_list *list, const char *const *ends, size_t *ret)
{
    if (!expect(p, JT_BLOCK_END, "'%}'") || !jparse_enter(p))
        return false;
    uint32_t line = p->tok->line;
    if (!body(p, list, ends))
        return false;
    p->depth--;
    for (size_t i = 0; ends[i] != NULL; i++)
        if (jparse_skip_name(p, ends[i])) {
            *ret = i;
            return true;
        }
    return jparse_fail(p, line, "a block that begins here has no %s", ends[0]) != NULL;
}

static bool block_to(struct jparser *p, struct jnode_list *list, const char *end)
{
    size_t which;
    return block(p, list, (const char *const[]){end, NULL}, &which);
}

static bool can_assign(const struct jnode *n)
{
    if (n->kind == JN_TUPLE) {
        for (size_t i = 0; i < n->items.count; i++)
            if (!can_assign(n->items.items[i]))
                return false;
        return true;
    }
    return n->kind == JN_NAME || n->kind == JN_NSREF;
}

static struct jnode *target(struct jparser *p, bool with_namespace, const char *end)
{
    uint32_t line = p->tok->line;
    struct jnode *n;
    if (with_namespace && p->tok->kind == JT_NAME && p->tok[1].kind == JT_OP &&
        p->tok[1].op == JOP('.', 0)) {
        n = jparse_node(p, JN_NSREF, line);
        if (n == NULL || !jparse_symbol(p, p->tok->text, &n->symbol))
            return NULL;
        p->tok += 2;
        n->name = p->tok->text;
        return expect(p, JT_NAME, "a name") ? n : NULL;
    }
    n = jparse_tuple(p, true, true, end, false);
    if (n != NULL && !can_assign(n))
        return jparse_fail(p, line, "this cannot be assigned to");
    return n;
}

static struct jnode *parse_if(struct jparser *p, uint32_t line)
{
    static const char *const ends[] = {"endif", "elif", "else", NULL};
    struct jnode *first = NULL, **link = &first, *chain[256];
    size_t which = 1, count = 0;
    while (which == 1) {
        if (count == sizeof(chain) / sizeof(chain[0]))
            return jparse_fail_as(p, ERR_RANGE, line, "an if has too many branches");
        struct jnode *n = jparse_node(p, JN_IF, p->tok->line);
        if (n == NULL)
            return NULL;
        *link = chain[count++] = n;
        link = &n->b;
        n->a = jparse_tuple(p, false, false, NULL, false);
        if (n->a == NULL || !block(p, &n->body, ends, &which))
            return NULL;
    }
    if (which == 2) {
        struct jnode *n = jparse_node(p, JN_BODY, p->tok->line);
        if (n == NULL || !block_to(p, &n->body, "endif"))
            return NULL;
        *link = jparse_seal(p, n);
    }
    while (count > 0)
        if (jparse_seal(p, chain[--count]) == NULL)
            return NULL;
    return first;
}

static struct jnode *parse_for(struct jparser *p, uint32_t line)
{
    struct jnode *n = jparse_node(p, JN_FOR, line);
    size_t which = 0;
    if (n == NULL || (n->a = target(p, false, "in")) == NULL)
        return NULL;
    if (!jparse_skip_name(p, "in"))
        return jparse_fail(p, line, "'in' is expected");
    if ((n->b = jparse_tuple(p, false, false, "recursive", false)) == NULL)
        return NULL;
    if (jparse_skip_name(p, "if") && (n->c = jparse_expr(p, true)) == NULL)
        return NULL;
    n->op = jparse_skip_name(p, "recursive");
    p->loops++;
    bool ok = block(p, &n->body, (const char *const[]){"endfor", "else", NULL}, &which);
    p->loops--;
    if (!ok || (which == 1 && !block_to(p, &n->other, "endfor")))
        return NULL;
    return jparse_seal(p, n);
}

static struct jnode *parse_set(struct jparser *p, uint32_t line)
{
    struct jnode *n = jparse_node(p, JN_SET, line);
    if (n == NULL || (n->a = target(p, true, NULL)) == NULL)
        return NULL;
    if (jparse_skip_op(p, JOP('=', 0))) {
        n->b = jparse_tuple(p, false, true, NULL, false);
        return n->b == NULL ? NULL : jparse_seal(p, n);
    }
    n->kind = JN_SET_BLOCK;
    if (jparse_is_op(p, JOP('|', 0)) && (n->b = jparse_filters(p, NULL, false)) == NULL)
        return NULL;
    return block_to(p, &n->body, "endset") ? jparse_seal(p, n) : NULL;
}

static bool add_param(struct jparser *p, struct jnode *n)
{
    uint32_t symbol;
    if (p->tok->kind != JT_NAME)
        return jparse_fail(p, p->tok->line, "a parameter's name is expected") != NULL;
    if (!jparse_symbol(p, p->tok->text, &symbol))
        return false;
    p->tok++;
    uint32_t *params = arena_alloc(&p->t->arena, n->params_count + 1, sizeof(*params));
    if (params == NULL || n->params_count >= 100)
        return jparse_fail(p, 0, "too many parameters") != NULL;
    if (n->params_count > 0)
        memcpy(params, n->params, n->params_count * sizeof(*params));
    n->params = params;
    n->params[n->params_count++] = symbol;
    if (jparse_skip_op(p, JOP('=', 0)))
        return jparse_append(p, &n->items, jparse_expr(p, true));
    return n->items.count == 0 ||
           jparse_fail(p, p->tok->line, "a parameter without a default after one with") != NULL;
}

/* ( params ) and the body of a macro, up to `end`. */
static struct jnode *macro_rest(struct jparser *p, struct jnode *n, bool params,
                                struct jnode *callee, struct jnode **ret_call, const char *end)
{
    struct jnode *outer = p->macro;
    unsigned loops = p->loops;
    if (params && !jparse_expect_op(p, JOP('(', 0)))
        return NULL;
    p->macro = n;
    while (params && !jparse_skip_op(p, JOP(')', 0)))
        if ((n->params_count > 0 && !jparse_expect_op(p, JOP(',', 0))) || !add_param(p, n))
            return NULL;
    if (ret_call != NULL) {
        p->macro = outer;
        *ret_call = callee = jparse_expr(p, true);
        if (callee == NULL)
            return NULL;
        if (callee->kind != JN_CALL)
            return jparse_fail(p, n->line, "a call is expected");
    }
    p->macro = n;
    p->loops = 0;
    bool ok = block_to(p, &n->body, end);
    p->macro = outer;
    p->loops = loops;
    return ok ? jparse_seal(p, n) : NULL;
}

static struct jnode *parse_macro(struct jparser *p, uint32_t line)
{
    struct jnode *n = jparse_node(p, JN_MACRO, line);
    if (n == NULL)
        return NULL;
    n->name = p->tok->text;
    if (p->tok->kind != JT_NAME || !jparse_symbol(p, n->name, &n->symbol))
        return jparse_fail(p, line, "a macro's name is expected");
    p->tok++;
    return macro_rest(p, n, true, NULL, NULL, "endmacro");
}

static struct jnode *parse_call(struct jparser *p, uint32_t line)
{
    struct jnode *n = jparse_node(p, JN_CALL_BLOCK, line), *m = jparse_node(p, JN_MACRO, line);
    if (n == NULL || m == NULL)
        return NULL;
    m->name = STR_LIT("caller");
    n->b = macro_rest(p, m, jparse_is_op(p, JOP('(', 0)), NULL, &n->a, "endcall");
    return n->b == NULL ? NULL : jparse_seal(p, n);
}

static struct jnode *parse_with(struct jparser *p, uint32_t line)
{
    struct jnode *n = jparse_node(p, JN_WITH, line);
    while (n != NULL && p->tok->kind != JT_BLOCK_END) {
        if (n->items.count > 0 && !jparse_expect_op(p, JOP(',', 0)))
            return NULL;
        /* A name, not a tuple: "with a = 1, b = 2" has two. */
        struct jnode *name = jparse_primary(p);
        if (name != NULL && !can_assign(name))
            return jparse_fail(p, line, "this cannot be assigned to");
        if (!jparse_append(p, &n->items, name) || !jparse_expect_op(p, JOP('=', 0)) ||
            !jparse_append(p, &n->items, jparse_expr(p, true)))
            return NULL;
    }
    return n != NULL && block_to(p, &n->body, "endwith") ? jparse_seal(p, n) : NULL;
}

static struct jnode *parse_filter_block(struct jparser *p, uint32_t line)
{
    struct jnode *n = jparse_node(p, JN_FILTER_BLOCK, line);
    if (n == NULL || (n->a = jparse_filters(p, NULL, true)) == NULL)
        return NULL;
    return block_to(p, &n->body, "endfilter") ? jparse_seal(p, n) : NULL;
}

static struct jnode *parse_generation(struct jparser *p, uint32_t line)
{
    struct jnode *n = jparse_node(p, JN_SCOPE, line);
    unsigned loops = p->loops;
    p->loops = 0;
    bool ok = n != NULL && block_to(p, &n->body, "endgeneration");
    p->loops = loops;
    return ok ? jparse_seal(p, n) : NULL;
}

static struct jnode *parse_break(struct jparser *p, uint32_t line)
{
    return p->loops == 0 ? jparse_fail(p, line, "break outside of a loop")
                         : jparse_node(p, JN_BREAK, line);
}

static struct jnode *parse_continue(struct jparser *p, uint32_t line)
{
    return p->loops == 0 ? jparse_fail(p, line, "continue outside of a loop")
                         : jparse_node(p, JN_CONTINUE, line);
}

/* What is between {{ and }}. */
static struct jnode *parse_output(struct jparser *p, uint32_t line)
{
    struct jnode *n = jparse_node(p, JN_OUTPUT, line);
    if (n == NULL)
        return NULL;
    n->a = jparse_tuple(p, false, true, NULL, false);
    return n->a == NULL ? NULL : jparse_seal(p, n);
}

/* {% print a, b %} writes one after the other. */
static struct jnode *parse_print(struct jparser *p, uint32_t line)
{
    struct jnode *n = jparse_node(p, JN_OUTPUT, line), *all = jparse_node(p, JN_CONCAT, line);
    while (n != NULL && all != NULL && p->tok->kind != JT_BLOCK_END)
        if ((all->items.count > 0 && !jparse_expect_op(p, JOP(',', 0))) ||
            !jparse_append(p, &all->items, jparse_expr(p, true)))
            return NULL;
    if (n == NULL || all == NULL)
        return NULL;
    n->a = jparse_seal(p, all);
    return n->a == NULL ? NULL : jparse_seal(p, n);
}

/* After "{%". */
static struct jnode *statement(struct jparser *p)
{
    static const struct {
        const char *word;
        struct jnode *(*parse)(struct jparser *p, uint32_t line);
    } statements[] = {{"if", parse_if},
                      {"for", parse_for},
                      {"set", parse_set},
                      {"macro", parse_macro},
                      {"call", parse_call},
                      {"with", parse_with},
                      {"break", parse_break},
                      {"continue", parse_continue},
                      {"filter", parse_filter_block},
                      {"print", parse_print},
                      {"generation", parse_generation}};
    static const char *const left_out[] = {"include", "import", "from",
                                           "extends", "block",  "autoescape"};
    uint32_t line = p->tok->line;
    for (size_t i = 0; i < sizeof(statements) / sizeof(statements[0]); i++)
        if (jparse_skip_name(p, statements[i].word)) {
            struct jnode *n = statements[i].parse(p, line);
            return n != NULL && expect(p, JT_BLOCK_END, "'%}'") ? n : NULL;
        }
    for (size_t i = 0; i < sizeof(left_out) / sizeof(left_out[0]); i++)
        if (jparse_is_name(p, left_out[i]))
            return jparse_fail_as(p, ERR_UNSUPPORTED, line,
                                  "include, import, from, extends, block and autoescape are not "
                                  "for chat templates");
    return jparse_fail(
        p, line, "unknown statement '%.*s'",
        p->tok->kind == JT_NAME ? (int)(p->tok->text.len < 60 ? p->tok->text.len : 60) : 0,
        p->tok->kind == JT_NAME ? p->tok->text.data : "");
}

/* Statements up to a tag with one of the words (p is at the word), or the template's end when there
 * are none. */
static bool body(struct jparser *p, struct jnode_list *list, const char *const *ends)
{
    for (;;) {
        struct jnode *n;
        if (p->tok->kind == JT_EOF) {
            return ends == NULL ||
                   jparse_fail(p, p->tok->line, "the template ends inside a block: %s is missing",
                               ends[0]) != NULL;
        }
        if (p->tok->kind == JT_TEXT) {
            n = jparse_node(p, JN_TEXT, p->tok->line);
            if (n == NULL || jinja_make_str(&p->t->arena, p->tok->text, false, &n->value) != ERR_OK)
                return jparse_fail(p, 0, "too large") != NULL;
            p->tok++;
        } else if (p->tok->kind == JT_VAR_BEGIN) {
            p->tok++;
            n = parse_output(p, p->tok->line);
            if (n == NULL || !expect(p, JT_VAR_END, "'}}'"))
                return false;
        } else {
            p->tok++; /* "{%": nothing else can be here */
            for (size_t i = 0; ends != NULL && ends[i] != NULL; i++)
                if (jparse_is_name(p, ends[i]))
                    return true;
            n = statement(p);
        }
        if (!jparse_append(p, list, n))
            return false;
    }
}

enum err jinja_compile(struct str source, struct jinja **ret, struct err_msg *why)
{
    static const char *const fixed[] = {
#define X(name, text) text,
        JINJA_GLOBALS(X)
#undef X
            "loop",
        "caller", "varargs", "kwargs"};
    struct jtok_list tokens = {0};
    if (source.len > JINJA_MAX_SOURCE_BYTES)
        return err_set(why, ERR_RANGE, "chat template: %zu bytes, at most %d", source.len,
                       JINJA_MAX_SOURCE_BYTES);
    struct jinja *t = calloc(1, sizeof(*t));
    if (t == NULL)
        return err_set(why, ERR_NOMEM, "out of memory for the chat template");
    t->arena.limit_bytes = JINJA_ARENA_BYTES;
    struct jparser p = {.t = t, .why = why};
    p.e = jlex_run(source, &t->arena, &tokens, why);
    p.tok = tokens.items;
    bool ok = p.e == ERR_OK;
    for (uint32_t i = 0, symbol; ok && i < JSYM_FIRST_FREE; i++)
        ok = jparse_symbol(&p, str_of(fixed[i]), &symbol);
    if (!ok || !body(&p, &t->body, NULL) || !jcheck_names(&p, &t->body, false)) {
        jinja_destroy(&t);
        return p.e;
    }
    *ret = t;
    return ERR_OK;
}

void jinja_destroy(struct jinja **t)
{
    if (*t != NULL)
        arena_free(&(*t)->arena);
    free(*t);
    *t = NULL;
}
