/* The for statement and its `loop`. A loop's condition is asked item by item, as late as Jinja2
 * does: looking ahead (loop.last, loop.nextitem) asks for one more, loop.length for all. */
#include <string.h>

#include "model/jinja_impl.h"

/* The item at l->at; whether the loop's condition lets it through. */
static bool passes(struct jvm *vm, const struct jloop *l, struct jval item, bool *ret)
{
    struct jscope *now = vm->scope, *before;
    struct jval v;
    *ret = true;
    if (!l->filtered)
        return true;
    vm->scope = l->scope;
    bool ok =
        jrun_push(vm, &before) && jrun_assign(vm, l->node->a, item) && jeval(vm, l->node->c, &v);
    vm->scope = now;
    if (ok)
        *ret = jval_truth(v);
    return ok;
}

/* Makes has_next right. */
static bool look_ahead(struct jvm *vm, struct jloop *l)
{
    while (!l->has_next && l->at < l->count) {
        l->next = l->items[l->at++];
        if (!passes(vm, l, l->next, &l->has_next))
            return false;
    }
    return true;
}

/* Asks for all items, so that what is left is known. */
static bool know_all(struct jvm *vm, struct jloop *l)
{
    struct jval rest;
    size_t kept = 0;
    if (!l->filtered)
        return true;
    if (!jval_list(vm, JV_LIST, l->count - l->at, &rest))
        return false;
    for (; l->at < l->count; l->at++) {
        bool take;
        if (!passes(vm, l, l->items[l->at], &take))
            return false;
        if (take)
            rest.as.list->items[kept++] = l->items[l->at];
    }
    l->items = rest.as.list->items;
    l->count = kept;
    l->at = 0;
    l->filtered = false;
    return true;
}

static bool turn(struct jvm *vm, struct jloop *l, int *ret_flow)
{
    struct jscope *before;
    const struct jval self = {.kind = JV_LOOP, .as.loop = l};
    if (!jrun_push(vm, &before))
        return false;
    bool ok = jrun_set(vm, JSYM_LOOP, self) && jrun_assign(vm, l->node->a, l->current) &&
              jrun_body(vm, &l->node->body, ret_flow);
    vm->scope = before;
    return ok;
}

bool jloop_run(struct jvm *vm, const struct jnode *n, struct jval iterable, unsigned level,
               int *ret_flow)
{
    struct jloop *l = jvm_alloc(vm, 1, sizeof(*l));
    if (l == NULL || !jval_iterate(vm, iterable, &l->items, &l->count))
        return false;
    l->node = n;
    l->scope = vm->scope;
    l->level = level;
    l->filtered = n->c != NULL;
    for (;;) {
        int flow;
        if (!look_ahead(vm, l))
            return false;
        if (!l->has_next)
            break;
        l->previous = l->current;
        l->current = l->next;
        l->has_next = false;
        l->turns++;
        if (!turn(vm, l, &flow))
            return false;
        if (flow == JFLOW_BREAK)
            break;
    }
    if (l->turns > 0 || n->other.count == 0)
        return true;
    struct jscope *before;
    if (!jrun_push(vm, &before) || !jrun_body(vm, &n->other, ret_flow))
        return false;
    vm->scope = before;
    return true;
}

static bool length(struct jvm *vm, struct jloop *l, size_t *ret)
{
    if (!know_all(vm, l))
        return false;
    *ret = l->turns + l->has_next + (l->count - l->at);
    return true;
}

bool jloop_attr(struct jvm *vm, struct jval loop, struct str name, struct jval *ret)
{
    struct jloop *l = loop.as.loop;
    size_t n = 0;
    if (str_eq(name, STR_LIT("index"))) {
        *ret = jval_int((int64_t)l->turns);
    } else if (str_eq(name, STR_LIT("index0"))) {
        *ret = jval_int((int64_t)l->turns - 1);
    } else if (str_eq(name, STR_LIT("first"))) {
        *ret = jval_bool(l->turns == 1);
    } else if (str_eq(name, STR_LIT("last"))) {
        if (!look_ahead(vm, l))
            return false;
        *ret = jval_bool(!l->has_next);
    } else if (str_eq(name, STR_LIT("nextitem"))) {
        if (!look_ahead(vm, l))
            return false;
        *ret = l->has_next ? l->next : (struct jval){.kind = JV_UNDEF};
    } else if (str_eq(name, STR_LIT("previtem"))) {
        *ret = l->turns > 1 ? l->previous : (struct jval){.kind = JV_UNDEF};
    } else if (str_eq(name, STR_LIT("length"))) {
        if (!length(vm, l, &n))
            return false;
        *ret = jval_int((int64_t)n);
    } else if (str_eq(name, STR_LIT("revindex")) || str_eq(name, STR_LIT("revindex0"))) {
        if (!length(vm, l, &n))
            return false;
        *ret = jval_int((int64_t)(n - l->turns + (name.len == 8)));
    } else if (str_eq(name, STR_LIT("depth")) || str_eq(name, STR_LIT("depth0"))) {
        *ret = jval_int((int64_t)l->level + (name.len == 5));
    } else if (str_eq(name, STR_LIT("cycle")) || str_eq(name, STR_LIT("changed"))) {
        struct jmethod *m = jvm_alloc(vm, 1, sizeof(*m));
        if (m == NULL)
            return false;
        *m = (struct jmethod){loop, NULL, name};
        *ret = (struct jval){.kind = JV_METHOD, .as.method = m};
    } else {
        *ret = (struct jval){.kind = JV_UNDEF};
    }
    return true;
}

/* loop.cycle(...), loop.changed(...), and, without a name, loop(...) of a recursive loop. */
bool jloop_call(struct jvm *vm, struct jloop *l, struct str name, const struct jargs *args,
                struct jval *ret)
{
    if (args->kws_count > 0)
        return jvm_fail(vm, "a loop's functions have no keyword arguments");
    if (name.len == 0) {
        struct jbuild out = {0}, *before = vm->out;
        struct jscope *scope = vm->scope;
        int flow;
        if (l->node->op == 0 || args->count != 1)
            return jvm_fail(vm, "only a recursive loop can be called, with one argument");
        if (!jvm_enter(vm))
            return false;
        vm->out = &out;
        vm->scope = l->scope;
        bool ok = jloop_run(vm, l->node, args->items[0], l->level + 1, &flow) &&
                  jbuild_end(vm, &out, ret);
        vm->out = before;
        vm->scope = scope;
        vm->depth--;
        return ok;
    }
    if (str_eq(name, STR_LIT("cycle"))) {
        if (args->count == 0)
            return jvm_fail(vm, "loop.cycle without values");
        *ret = args->items[(l->turns - 1) % args->count];
        return true;
    }
    struct jval old = {.kind = JV_TUPLE, .as.list = l->changed}, now;
    bool same = false;
    if (!jval_list(vm, JV_TUPLE, args->count, &now))
        return false;
    if (args->count > 0)
        memcpy(now.as.list->items, args->items, args->count * sizeof(struct jval));
    if (l->changed != NULL && !jval_equal(vm, old, now, &same))
        return false;
    l->changed = now.as.list;
    *ret = jval_bool(!same);
    return true;
}
