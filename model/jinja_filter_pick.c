/* Filters that apply another filter or a test to each item: map, select, reject, selectattr,
 * rejectattr; and attr. */
#include "model/jinja_impl.h"

#define FILTER(name)                                                                               \
    static bool name(struct jvm *vm, struct jval self, const struct jval *args,                    \
                     const struct jargs *raw, struct jval *ret)
#define UNUSED(x) (void)(x)

/* raw without its first `skip` positional arguments. */
static struct jargs rest_of(const struct jargs *raw, size_t skip)
{
    struct jargs rest = *raw;
    rest.items += skip;
    rest.count -= skip;
    return rest;
}

static bool named(struct jvm *vm, struct jval name, bool is_test, const struct jfunction_def **ret)
{
    const struct jstr *s;
    if (!jargs_str(vm, name, &s))
        return false;
    struct str text = {s->data, s->len};
    *ret = is_test ? jtest_find(text) : jfilter_find(text);
    if (*ret == NULL)
        return jvm_fail(vm, "no %s is named '%.*s'", is_test ? "test" : "filter",
                        (int)(text.len < 60 ? text.len : 60), text.data);
    return true;
}

static bool map_attribute(struct jvm *vm, const struct jargs *raw, struct jval item,
                          struct jval *ret)
{
    struct jval attribute = {.kind = JV_MISSING}, or = {.kind = JV_MISSING};
    for (size_t i = 0; i < raw->kws_count; i++) {
        if (str_eq(raw->kws[i].name, STR_LIT("attribute")))
            attribute = raw->kws[i].value;
        else if (str_eq(raw->kws[i].name, STR_LIT("default")))
            or = raw->kws[i].value;
        else
            return jvm_fail(vm, "map has an argument that it does not take");
    }
    if (attribute.kind == JV_MISSING)
        return jvm_fail(vm, "map needs a filter's name or an attribute");
    if (!jfilter_attribute(vm, item, attribute, ret))
        return false;
    if (ret->kind == JV_UNDEF && or.kind != JV_MISSING && or.kind != JV_NONE)
        *ret = or ;
    return true;
}

FILTER(map)
{
    const struct jfunction_def *f = NULL;
    struct jval *items, list;
    size_t count;
    UNUSED(args);
    if (!jval_truth(self)) /* whatever is empty, numbers too */
        return jval_list(vm, JV_ITER, 0, ret);
    if (raw->count == 0 && raw->kws_count == 0)
        return jvm_fail(vm, "map needs a filter's name or an attribute");
    if (raw->count > 0 && !named(vm, raw->items[0], false, &f))
        return false;
    if (!jval_iterate(vm, self, &items, &count) || !jval_list(vm, JV_ITER, count, &list))
        return false;
    for (size_t i = 0; i < count; i++) {
        struct jval *to = &list.as.list->items[i];
        if (f == NULL) {
            if (!map_attribute(vm, raw, items[i], to))
                return false;
            continue;
        }
        struct jargs rest = rest_of(raw, 1);
        if (!jvm_enter(vm) || !jargs_call(vm, f, items[i], &rest, to))
            return false;
        vm->depth--;
    }
    *ret = list;
    return true;
}

/* The items (or their attribute, the first argument) for which a test (by default: truth) says
 * `want`. */
static bool pick(struct jvm *vm, struct jval self, const struct jargs *raw, bool by_attribute,
                 bool want, struct jval *ret)
{
    const struct jfunction_def *f = NULL;
    struct jval *items, list;
    size_t count, kept = 0, at = by_attribute;
    if (!jval_truth(self)) /* whatever is empty, numbers too */
        return jval_list(vm, JV_ITER, 0, ret);
    if (raw->count < at)
        return jvm_fail(vm, "an attribute's name is missing");
    if (raw->count > at && !named(vm, raw->items[at], true, &f))
        return false;
    if (!jval_iterate(vm, self, &items, &count) || !jval_list(vm, JV_ITER, count, &list))
        return false;
    struct jargs rest = f != NULL ? rest_of(raw, at + 1) : (struct jargs){0};
    for (size_t i = 0; i < count; i++) {
        struct jval v = items[i], answer;
        if (by_attribute && !jfilter_attribute(vm, v, raw->items[0], &v))
            return false;
        answer = v;
        if (f != NULL) {
            if (!jvm_enter(vm) || !jargs_call(vm, f, v, &rest, &answer))
                return false;
            vm->depth--;
        }
        if (jval_truth(answer) == want)
            list.as.list->items[kept++] = items[i];
    }
    list.as.list->count = kept;
    *ret = list;
    return true;
}

FILTER(select_)
{
    UNUSED(args);
    return pick(vm, self, raw, false, true, ret);
}

FILTER(reject)
{
    UNUSED(args);
    return pick(vm, self, raw, false, false, ret);
}

FILTER(selectattr)
{
    UNUSED(args);
    return pick(vm, self, raw, true, true, ret);
}

FILTER(rejectattr)
{
    UNUSED(args);
    return pick(vm, self, raw, true, false, ret);
}

/* The method of that name, never a key. */
FILTER(attr)
{
    const struct jstr *name;
    UNUSED(raw);
    if (!jargs_str(vm, args[0], &name))
        return false;
    struct str text = {name->data, name->len};
    *ret = (struct jval){.kind = JV_UNDEF};
    if (self.kind != JV_UNDEF && (self.kind != JV_DICT || jmethod_find(JV_DICT, text) != NULL))
        return jaccess_attr(vm, self, text, ret);
    return true;
}

const struct jfunction_def jfilter_pick_rows[] = {
    {"map", NULL, map},
    {"select", NULL, select_},
    {"reject", NULL, reject},
    {"selectattr", NULL, selectattr},
    {"rejectattr", NULL, rejectattr},
    {"attr", "name", attr},
    {NULL, NULL, NULL},
};
