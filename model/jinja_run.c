/* The machine: statements, scopes, limits. A name is looked up through the scopes outwards to what
 * the caller of jinja_render() gave, then among the functions that are always there. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "model/jinja_impl.h"

bool jvm_fail(struct jvm *vm, const char *fmt, ...)
{
    char text[sizeof(vm->why.text)];
    va_list args;
    if (vm->e != ERR_OK)
        return false;
    va_start(args, fmt);
    vsnprintf(text, sizeof(text), fmt, args);
    va_end(args);
    vm->e = err_set(&vm->why, ERR_FORMAT, "chat template, line %u: %s", vm->line, text);
    return false;
}

bool jvm_fail_type(struct jvm *vm, struct jval v, const char *what)
{
    if (v.kind == JV_UNDEF && v.as.str != NULL)
        return jvm_fail(vm, "'%.*s' is undefined", (int)(v.as.str->len < 100 ? v.as.str->len : 100),
                        v.as.str->data);
    return jvm_fail(vm, "%s %s", jval_type(v), what);
}

bool jvm_limit(struct jvm *vm, const char *what)
{
    if (vm->e == ERR_OK)
        vm->e = err_set(&vm->why, ERR_RANGE, "chat template, line %u: %s", vm->line, what);
    return false;
}

bool jvm_nomem(struct jvm *vm)
{
    return jvm_limit(vm, "the template needs too much memory");
}

bool jvm_charge(struct jvm *vm, uint64_t steps)
{
    if (steps > vm->steps_left) {
        vm->steps_left = 0;
        return jvm_limit(vm, "the template takes too many steps");
    }
    vm->steps_left -= steps;
    return true;
}

bool jvm_enter(struct jvm *vm)
{
    if (vm->depth == JINJA_MAX_RUN_DEPTH)
        return jvm_limit(vm, "the template goes too deep (a macro that calls itself?)");
    vm->depth++;
    return true;
}

void *jvm_alloc(struct jvm *vm, size_t count, size_t size)
{
    void *p = arena_alloc(vm->arena, count, size);
    if (p == NULL)
        jvm_nomem(vm);
    return p;
}

bool jrun_push(struct jvm *vm, struct jscope **ret_before)
{
    struct jscope *s = jvm_alloc(vm, 1, sizeof(*s));
    if (s == NULL)
        return false;
    s->parent = vm->scope;
    *ret_before = vm->scope;
    vm->scope = s;
    return true;
}

bool jrun_set(struct jvm *vm, uint32_t symbol, struct jval v)
{
    struct jscope *s = vm->scope;
    for (uint32_t i = 0; i < s->count; i++)
        if (s->vars[i].symbol == symbol) {
            s->vars[i].value = v;
            return true;
        }
    if (s->count == s->cap) {
        uint32_t cap = s->cap == 0 ? 4 : 2 * s->cap;
        struct jvar *vars = jvm_alloc(vm, cap, sizeof(*vars));
        if (vars == NULL)
            return false;
        if (s->count > 0)
            memcpy(vars, s->vars, s->count * sizeof(*vars));
        s->vars = vars;
        s->cap = cap;
    }
    s->vars[s->count++] = (struct jvar){symbol, v};
    return true;
}

static bool assign_tuple(struct jvm *vm, const struct jnode *target, struct jval v)
{
    struct jval *items;
    size_t count;
    if (!jval_iterate(vm, v, &items, &count))
        return false;
    if (count != target->items.count)
        return jvm_fail(vm, "%zu values for %zu names", count, target->items.count);
    for (size_t i = 0; i < count; i++)
        if (!jrun_assign(vm, target->items.items[i], items[i]))
            return false;
    return true;
}

bool jrun_assign(struct jvm *vm, const struct jnode *target, struct jval v)
{
    struct jval ns, key;
    switch (target->kind) {
    case JN_TUPLE:
        return assign_tuple(vm, target, v);
    case JN_NSREF: {
        const struct jnode name = {.kind = JN_NAME, .symbol = target->symbol, .line = target->line};
        if (!jeval(vm, &name, &ns))
            return false;
        if (ns.kind != JV_NAMESPACE)
            return jvm_fail(vm, "an attribute is set on %s: only a namespace has them",
                            jval_type(ns));
        return jstr_new(vm, target->name, false, &key) && jdict_set(vm, ns.as.dict, key, v);
    }
    default:
        return jrun_set(vm, target->symbol, v);
    }
}

bool jrun_capture(struct jvm *vm, const struct jnode_list *body, struct jval *ret)
{
    struct jbuild out = {0}, *before = vm->out;
    int flow;
    vm->out = &out;
    bool ok = jrun_body(vm, body, &flow) && jbuild_end(vm, &out, ret);
    vm->out = before;
    return ok;
}

/* The same in a scope of its own. */
static bool capture_scoped(struct jvm *vm, const struct jnode_list *body, struct jval *ret)
{
    struct jscope *before;
    if (!jrun_push(vm, &before))
        return false;
    bool ok = jrun_capture(vm, body, ret);
    vm->scope = before;
    return ok;
}

static bool write_value(struct jvm *vm, struct jval v)
{
    if (!jtext_add(vm, vm->out, v))
        return false;
    if (vm->out->len > vm->run->limits.output_bytes)
        return jvm_limit(vm, "the template's output is too long");
    return true;
}

static bool run_if(struct jvm *vm, const struct jnode *n, int *ret_flow)
{
    for (; n != NULL; n = n->b) {
        struct jval v;
        if (n->kind == JN_BODY)
            return jrun_body(vm, &n->body, ret_flow);
        if (!jeval(vm, n->a, &v))
            return false;
        if (jval_truth(v))
            return jrun_body(vm, &n->body, ret_flow);
    }
    return true;
}

/* The filters of a block, the innermost first. */
static bool apply_filters(struct jvm *vm, const struct jnode *n, struct jval v, struct jval *ret)
{
    return (n->a == NULL || apply_filters(vm, n->a, v, &v)) && jeval_filter(vm, n, v, ret);
}

static bool run_set_block(struct jvm *vm, const struct jnode *n)
{
    struct jval v;
    return capture_scoped(vm, &n->body, &v) && (n->b == NULL || apply_filters(vm, n->b, v, &v)) &&
           jrun_assign(vm, n->a, v);
}

static bool run_filter_block(struct jvm *vm, const struct jnode *n)
{
    struct jval v;
    return capture_scoped(vm, &n->body, &v) && apply_filters(vm, n->a, v, &v) && write_value(vm, v);
}

static bool make_macro(struct jvm *vm, const struct jnode *n, struct jval *ret)
{
    struct jmacro *m = jvm_alloc(vm, 1, sizeof(*m));
    if (m == NULL)
        return false;
    *m = (struct jmacro){n, vm->scope, n->name};
    *ret = (struct jval){.kind = JV_MACRO, .as.macro = m};
    return true;
}

static bool run_with(struct jvm *vm, const struct jnode *n, int *ret_flow)
{
    struct jscope *before = vm->scope, *inner;
    struct jval v;
    bool ok = jrun_push(vm, &before);
    inner = vm->scope;
    for (size_t i = 0; ok && i < n->items.count; i += 2) { /* values are of the outer scope */
        vm->scope = before;
        ok = jeval(vm, n->items.items[i + 1], &v);
        vm->scope = inner;
        ok = ok && jrun_assign(vm, n->items.items[i], v);
    }
    ok = ok && jrun_body(vm, &n->body, ret_flow);
    vm->scope = before;
    return ok;
}

static bool run_statement(struct jvm *vm, const struct jnode *n, int *ret_flow)
{
    struct jval v;
    switch ((enum jnode_kind)n->kind) {
    case JN_TEXT:
        return write_value(vm, n->value);
    case JN_OUTPUT:
        return jeval(vm, n->a, &v) && write_value(vm, v);
    case JN_IF:
        return run_if(vm, n, ret_flow);
    case JN_FOR:
        return jeval(vm, n->b, &v) && jloop_run(vm, n, v, 0, ret_flow);
    case JN_SET:
        return jeval(vm, n->b, &v) && jrun_assign(vm, n->a, v);
    case JN_SET_BLOCK:
        return run_set_block(vm, n);
    case JN_MACRO:
        return make_macro(vm, n, &v) && jrun_set(vm, n->symbol, v);
    case JN_CALL_BLOCK: {
        struct jval caller;
        return make_macro(vm, n->b, &caller) && jeval_call(vm, n->a, &caller, &v) &&
               write_value(vm, v);
    }
    case JN_FILTER_BLOCK:
        return run_filter_block(vm, n);
    case JN_WITH:
        return run_with(vm, n, ret_flow);
    case JN_SCOPE:
        return capture_scoped(vm, &n->body, &v) && write_value(vm, v);
    case JN_BREAK:
        *ret_flow = JFLOW_BREAK;
        return true;
    case JN_CONTINUE:
        *ret_flow = JFLOW_CONTINUE;
        return true;
    default:
        return jvm_fail(vm, "a statement that is none");
    }
}

bool jrun_body(struct jvm *vm, const struct jnode_list *body, int *ret_flow)
{
    *ret_flow = JFLOW_ON;
    if (!jvm_enter(vm))
        return false;
    for (size_t i = 0; i < body->count && *ret_flow == JFLOW_ON; i++) {
        vm->line = body->items[i]->line;
        if (!jvm_charge(vm, 1) || !run_statement(vm, body->items[i], ret_flow))
            return false;
    }
    vm->depth--;
    return true;
}

enum err jinja_render(const struct jinja *t, const struct jinja_run *run, struct arena *a,
                      struct jstr *ret, bool *ret_raised, struct err_msg *why)
{
    struct jbuild out = {0};
    struct jscope root = {0};
    struct jvm vm = {.t = t,
                     .run = run,
                     .arena = a,
                     .scope = &root,
                     .out = &out,
                     .steps_left = run->limits.steps,
                     .line = 1};
    struct jval v;
    int flow;
    bool ok = true;
    a->limit_bytes = run->limits.memory_bytes;
    for (size_t i = 0; ok && i < run->variables_count; i++)
        for (uint32_t s = 0; s < t->symbols_count; s++)
            if (str_eq(t->symbols[s], str_of(run->variables[i].name)))
                ok = jrun_set(&vm, s, run->variables[i].value);
    struct jscope *before;
    if (ok && jrun_push(&vm, &before) && jrun_body(&vm, &t->body, &flow) &&
        jbuild_end(&vm, &out, &v)) {
        *ret = *v.as.str;
        if (ret_raised != NULL)
            *ret_raised = false;
        return ERR_OK;
    }
    if (ret_raised != NULL)
        *ret_raised = vm.raised;
    return err_set(why, vm.e, "%s", vm.why.text);
}
