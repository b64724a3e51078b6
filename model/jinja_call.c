/* Calls: arguments, macros, and the functions that are always there. */
#include <stdlib.h>
#include <string.h>

#include "model/jinja_impl.h"

static bool push_item(struct jvm *vm, struct jargs *args, size_t *cap, struct jval v)
{
    if (args->count == *cap) {
        size_t more = 2 * *cap + 8;
        struct jval *items = jvm_alloc(vm, more, sizeof(*items));
        if (items == NULL)
            return false;
        if (args->count > 0)
            memcpy(items, args->items, args->count * sizeof(*items));
        args->items = items;
        *cap = more;
    }
    args->items[args->count++] = v;
    return true;
}

static bool push_kw(struct jvm *vm, struct jargs *args, size_t *cap, struct str name, struct jval v)
{
    for (size_t i = 0; i < args->kws_count; i++)
        if (str_eq(args->kws[i].name, name))
            return jvm_fail(vm, "an argument is given twice");
    if (args->kws_count == *cap) {
        size_t more = 2 * *cap + 4;
        struct jkw *kws = jvm_alloc(vm, more, sizeof(*kws));
        if (kws == NULL)
            return false;
        if (args->kws_count > 0)
            memcpy(kws, args->kws, args->kws_count * sizeof(*kws));
        args->kws = kws;
        *cap = more;
    }
    args->kws[args->kws_count++] = (struct jkw){name, v};
    return jvm_charge(vm, args->kws_count);
}

/* A call's arguments in order; extra (may be NULL) becomes `caller`. */
static bool eval_args(struct jvm *vm, const struct jnode *n, const struct jval *extra,
                      struct jargs *args)
{
    size_t items_cap = 0, kws_cap = 0;
    struct jval v;
    for (size_t i = 0; i < n->items.count; i++) {
        const struct jnode *item = n->items.items[i];
        bool keyword = item->kind == JN_KEYWORD;
        if (!jeval(vm, keyword ? item->a : item, &v) ||
            !(keyword ? push_kw(vm, args, &kws_cap, item->name, v)
                      : push_item(vm, args, &items_cap, v)))
            return false;
    }
    if (n->star != NULL) {
        struct jval *items;
        size_t count;
        if (!jeval(vm, n->star, &v) || !jval_iterate(vm, v, &items, &count) ||
            !jvm_charge(vm, count))
            return false;
        for (size_t i = 0; i < count; i++)
            if (!push_item(vm, args, &items_cap, items[i]))
                return false;
    }
    if (n->starstar != NULL) {
        if (!jeval(vm, n->starstar, &v))
            return false;
        if (v.kind != JV_DICT)
            return jvm_fail_type(vm, v, "is not a dict, for **");
        for (size_t i = 0; i < v.as.dict->count; i++) {
            struct jentry e = v.as.dict->entries[i];
            if (e.key.kind != JV_STR)
                return jvm_fail(vm, "keywords must be strings");
            if (!push_kw(vm, args, &kws_cap, jval_str(e.key), e.value))
                return false;
        }
    }
    return extra == NULL || push_kw(vm, args, &kws_cap, STR_LIT("caller"), *extra);
}

bool jeval_call(struct jvm *vm, const struct jnode *n, const struct jval *caller, struct jval *ret)
{
    struct jval callee;
    struct jargs args = {0};
    if (!jeval(vm, n->a, &callee) || !eval_args(vm, n, caller, &args))
        return false;
    vm->line = n->line;
    return jcall(vm, callee, &args, ret);
}

bool jeval_filter(struct jvm *vm, const struct jnode *n, struct jval value, struct jval *ret)
{
    struct jargs args = {0};
    if (n->target == NULL)
        return jvm_fail(vm, "no %s is named '%.*s'", n->kind == JN_TEST ? "test" : "filter",
                        (int)(n->name.len < 60 ? n->name.len : 60), n->name.data);
    if (!eval_args(vm, n, NULL, &args))
        return false;
    vm->line = n->line;
    return jargs_call(vm, n->target, value, &args, ret);
}

/* Binds args to f's names and calls it. */
bool jargs_call(struct jvm *vm, const struct jfunction_def *f, struct jval self,
                const struct jargs *args, struct jval *ret)
{
    struct jval bound[JARGS_MAX];
    size_t used_kws = 0, i = 0;
    if (!jvm_charge(vm, 1))
        return false;
    if (f->args == NULL)
        return f->run(vm, self, NULL, args, ret);
    for (const char *p = f->args; *p != '\0'; i++) {
        bool optional = *p == '?';
        p += optional;
        struct str name = {p, strcspn(p, " ")};
        p += name.len + (p[name.len] == ' ');
        bound[i] = i < args->count ? args->items[i] : (struct jval){.kind = JV_MISSING};
        for (size_t k = 0; k < args->kws_count; k++)
            if (str_eq(args->kws[k].name, name)) {
                if (bound[i].kind != JV_MISSING)
                    return jvm_fail(vm, "%s: an argument is given twice", f->name);
                bound[i] = args->kws[k].value;
                used_kws++;
            }
        if (bound[i].kind == JV_MISSING && !optional)
            return jvm_fail(vm, "%s needs its argument '%.*s'", f->name, (int)name.len, name.data);
    }
    if (args->count > i || used_kws < args->kws_count)
        return jvm_fail(vm, "%s has arguments that it does not take", f->name);
    return f->run(vm, self, bound, args, ret);
}

bool jargs_int(struct jvm *vm, struct jval v, int64_t or, int64_t *ret)
{
    if (v.kind == JV_MISSING) {
        *ret = or ;
        return true;
    }
    if (!jval_is_int(v))
        return jvm_fail_type(vm, v, "where an integer is expected");
    *ret = jval_integer(v);
    return true;
}

bool jargs_str(struct jvm *vm, struct jval v, const struct jstr **ret)
{
    if (v.kind != JV_STR)
        return jvm_fail_type(vm, v, "where a string is expected");
    *ret = v.as.str;
    return true;
}

static bool bind_macro(struct jvm *vm, const struct jmacro *m, const struct jargs *args)
{
    const struct jnode *n = m->node;
    struct jval rest, kwargs, v;
    size_t used = 0, extra = args->count > n->params_count ? args->count - n->params_count : 0;
    bool caller = false;
    for (size_t i = 0; i < n->params_count; i++) {
        const struct jval *given = i < args->count ? &args->items[i] : NULL;
        for (size_t k = 0; k < args->kws_count; k++)
            if (str_eq(args->kws[k].name, vm->t->symbols[n->params[i]])) {
                if (given != NULL)
                    return jvm_fail(vm, "a macro's argument is given twice");
                given = &args->kws[k].value;
                used++;
            }
        size_t first_default = n->params_count - n->items.count;
        if (given == NULL && i >= first_default) {
            if (!jeval(vm, n->items.items[i - first_default], &v))
                return false;
        } else {
            v = given != NULL ? *given : (struct jval){.kind = JV_UNDEF};
        }
        if (!jrun_set(vm, n->params[i], v))
            return false;
    }
    if (!jdict_new(vm, 4, &kwargs))
        return false;
    for (size_t k = 0; k < args->kws_count; k++) {
        bool is_param = false;
        for (size_t i = 0; i < n->params_count; i++)
            is_param |= str_eq(args->kws[k].name, vm->t->symbols[n->params[i]]);
        if (is_param)
            continue;
        if (n->takes_caller && str_eq(args->kws[k].name, STR_LIT("caller"))) {
            caller = true;
            used++;
            if (!jrun_set(vm, JSYM_CALLER, args->kws[k].value))
                return false;
        } else if (n->takes_kwargs) {
            used++;
            if (!jstr_new(vm, args->kws[k].name, false, &v) ||
                !jdict_set(vm, kwargs.as.dict, v, args->kws[k].value))
                return false;
        }
    }
    if (used < args->kws_count || (extra > 0 && !n->takes_varargs))
        return jvm_fail(vm, "macro '%.*s' has arguments that it does not take",
                        (int)(m->name.len < 60 ? m->name.len : 60), m->name.data);
    if (n->takes_caller && !caller && !jrun_set(vm, JSYM_CALLER, (struct jval){.kind = JV_UNDEF}))
        return false;
    if (n->takes_kwargs && !jrun_set(vm, JSYM_KWARGS, kwargs))
        return false;
    if (!n->takes_varargs)
        return true;
    if (!jval_list(vm, JV_TUPLE, extra, &rest))
        return false;
    for (size_t i = 0; i < extra; i++)
        rest.as.list->items[i] = args->items[n->params_count + i];
    return jrun_set(vm, JSYM_VARARGS, rest);
}

bool jcall_macro(struct jvm *vm, const struct jmacro *m, const struct jargs *args, struct jval *ret)
{
    struct jscope *now = vm->scope, *before;
    vm->scope = m->scope;
    bool ok = jvm_enter(vm) && jrun_push(vm, &before) && bind_macro(vm, m, args) &&
              jrun_capture(vm, &m->node->body, ret);
    vm->scope = now;
    vm->depth -= ok;
    return ok;
}

static bool call_range(struct jvm *vm, const struct jargs *args, struct jval *ret)
{
    int64_t v[3] = {0, 0, 1};
    if (args->count < 1 || args->count > 3 || args->kws_count > 0)
        return jvm_fail(vm, "range takes one to three integers");
    for (size_t i = 0; i < args->count; i++)
        if (!jargs_int(vm, args->items[i], 0, args->count == 1 ? &v[1] : &v[i]))
            return false;
    if (v[2] == 0)
        return jvm_fail(vm, "range's step is zero");
    bool up = v[2] > 0, empty = up ? v[0] >= v[1] : v[0] <= v[1];
    uint64_t distance = up ? (uint64_t)v[1] - (uint64_t)v[0] : (uint64_t)v[0] - (uint64_t)v[1];
    uint64_t step = up ? (uint64_t)v[2] : 0 - (uint64_t)v[2];
    uint64_t count = empty ? 0 : (distance - 1) / step + 1;
    if (count > JINJA_MAX_RANGE)
        return jvm_limit(vm, "a range is longer than 100000");
    if (!jval_list(vm, JV_RANGE, (size_t)count, ret))
        return false;
    memcpy(ret->as.list->range, v, sizeof(v));
    for (uint64_t i = 0; i < count; i++)
        ret->as.list->items[i] = jval_int((int64_t)((uint64_t)v[0] + i * (uint64_t)v[2]));
    return true;
}

/* dict(...) and namespace(...). */
static bool call_dict(struct jvm *vm, const struct jargs *args, enum jval_kind kind,
                      struct jval *ret)
{
    struct jval dict, key;
    if (args->count > 1)
        return jvm_fail(vm, "dict and namespace take at most one positional argument");
    if (!jdict_new(vm, 8, &dict))
        return false;
    if (args->count == 1 && args->items[0].kind == JV_DICT) {
        const struct jdict *from = args->items[0].as.dict;
        for (size_t i = 0; i < from->count; i++)
            if (!jdict_set(vm, dict.as.dict, from->entries[i].key, from->entries[i].value))
                return false;
    } else if (args->count == 1) {
        struct jval *items, *pair;
        size_t count, two;
        if (args->items[0].kind == JV_UNDEF || !jval_iterate(vm, args->items[0], &items, &count))
            return jvm_fail_type(vm, args->items[0], "is not pairs for a dict");
        for (size_t i = 0; i < count; i++) {
            if (!jval_iterate(vm, items[i], &pair, &two))
                return false;
            if (two != 2)
                return jvm_fail(vm, "dict takes pairs");
            if (!jdict_set(vm, dict.as.dict, pair[0], pair[1]))
                return false;
        }
    }
    for (size_t i = 0; i < args->kws_count; i++)
        if (!jstr_new(vm, args->kws[i].name, false, &key) ||
            !jdict_set(vm, dict.as.dict, key, args->kws[i].value))
            return false;
    dict.kind = (uint8_t)kind;
    *ret = dict;
    return true;
}

static bool call_raise(struct jvm *vm, const struct jargs *args)
{
    struct jval text;
    struct jbuild b = {0};
    if (args->count + args->kws_count != 1)
        return jvm_fail(vm, "raise_exception takes a message");
    if (!jtext_add(vm, &b, args->count == 1 ? args->items[0] : args->kws[0].value) ||
        !jbuild_end(vm, &b, &text))
        return false;
    vm->raised = true;
    size_t len = text.as.str->len < 400 ? text.as.str->len : 400;
    vm->e = err_set(&vm->why, ERR_FORMAT, "%.*s", (int)len, text.as.str->data);
    return false;
}

static bool call_strftime(struct jvm *vm, const struct jargs *args, struct jval *ret)
{
    const struct jstr *format;
    if (args->count != 1 || args->kws_count > 0)
        return jvm_fail(vm, "strftime_now takes a format");
    if (!jargs_str(vm, args->items[0], &format))
        return false;
    if (format->len > 1000 || memchr(format->data, '\0', format->len) != NULL)
        return jvm_fail(vm, "strftime_now: the format is too long or has a zero byte");
    /* A blank keeps an empty result apart from one that does not fit. */
    char *with_blank = jvm_alloc(vm, format->len + 2, 1), *out = jvm_alloc(vm, 8192, 1);
    if (with_blank == NULL || out == NULL)
        return false;
    if (format->len > 0)
        memcpy(with_blank, format->data, format->len);
    with_blank[format->len] = ' ';
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
    struct tm now = vm->run->now;
    now.tm_isdst = -1; /* no time zone, as Python's datetime.now() */
    now.tm_zone = "";
    size_t len = strftime(out, 8192, with_blank, &now);
#pragma GCC diagnostic pop
    if (len == 0)
        return jvm_fail(vm, "strftime_now: the result is too long");
    return jstr_new(vm, (struct str){out, len - 1}, format->user_count > 0, ret);
}

bool jcall(struct jvm *vm, struct jval callee, const struct jargs *args, struct jval *ret)
{
    switch ((enum jval_kind)callee.kind) {
    case JV_MACRO:
        return jcall_macro(vm, callee.as.macro, args, ret);
    case JV_METHOD: {
        const struct jmethod *m = callee.as.method;
        if (m->def == NULL)
            return jloop_call(vm, m->self.as.loop, m->name, args, ret);
        return jargs_call(vm, &m->def->f, m->self, args, ret);
    }
    case JV_LOOP:
        return jloop_call(vm, callee.as.loop, (struct str){0}, args, ret);
    case JV_GLOBAL:
        break;
    default:
        return jvm_fail_type(vm, callee, "cannot be called");
    }
    switch ((enum jglobal)callee.index) {
    case JG_RANGE:
        return call_range(vm, args, ret);
    case JG_NAMESPACE:
        return call_dict(vm, args, JV_NAMESPACE, ret);
    case JG_DICT:
        return call_dict(vm, args, JV_DICT, ret);
    case JG_RAISE:
        return call_raise(vm, args);
    default:
        return call_strftime(vm, args, ret);
    }
}
