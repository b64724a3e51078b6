/* Values of the template interpreter: making, truth, equality, order, membership, iteration.
 * Python's rules. */
#include <math.h>
#include <string.h>

#include "base/size.h"
#include "model/jinja_impl.h"

enum err jinja_make_str(struct arena *a, struct str text, bool user, struct jval *ret)
{
    bool marked = user && text.len > 0;
    struct jstr *s = arena_alloc(a, 1, sizeof(*s) + (marked ? sizeof(struct jspan) : 0));
    if (s == NULL)
        return ERR_NOMEM;
    *s = (struct jstr){text.len == 0 ? "" : text.data, text.len, NULL, 0};
    if (marked) {
        struct jspan *span = (struct jspan *)(s + 1);
        *span = (struct jspan){0, text.len};
        s->user = span;
        s->user_count = 1;
    }
    *ret = (struct jval){.kind = JV_STR, .as.str = s};
    return ERR_OK;
}

enum err jinja_make_list(struct arena *a, size_t count, struct jval *ret)
{
    struct jlist *l = arena_alloc(a, 1, sizeof(*l));
    if (l == NULL || (l->items = arena_alloc(a, count, sizeof(*l->items))) == NULL)
        return ERR_NOMEM;
    l->count = count;
    for (size_t i = 0; i < count; i++)
        l->items[i].kind = JV_NONE;
    *ret = (struct jval){.kind = JV_LIST, .as.list = l};
    return ERR_OK;
}

enum err jinja_make_dict(struct arena *a, size_t count, struct jval *ret)
{
    struct jdict *d = arena_alloc(a, 1, sizeof(*d));
    if (d == NULL || (d->entries = arena_alloc(a, count, sizeof(*d->entries))) == NULL)
        return ERR_NOMEM;
    d->count = d->cap = count;
    for (size_t i = 0; i < count; i++)
        d->entries[i].key.kind = d->entries[i].value.kind = JV_NONE;
    *ret = (struct jval){.kind = JV_DICT, .as.dict = d};
    return ERR_OK;
}

bool jval_list(struct jvm *vm, enum jval_kind kind, size_t count, struct jval *ret)
{
    if (!jvm_charge(vm, count))
        return false;
    if (jinja_make_list(vm->arena, count, ret) != ERR_OK)
        return jvm_nomem(vm);
    ret->kind = (uint8_t)kind;
    return true;
}

bool jval_pair(struct jvm *vm, struct jval a, struct jval b, struct jval *ret)
{
    if (!jval_list(vm, JV_TUPLE, 2, ret))
        return false;
    ret->as.list->items[0] = a;
    ret->as.list->items[1] = b;
    return true;
}

bool jdict_new(struct jvm *vm, size_t cap, struct jval *ret)
{
    if (jinja_make_dict(vm->arena, cap, ret) != ERR_OK)
        return jvm_nomem(vm);
    ret->as.dict->count = 0;
    return true;
}

const char *jval_type(struct jval v)
{
    static const char *const names[] = {
        [JV_UNDEF] = "undefined",       [JV_NONE] = "none",         [JV_BOOL] = "a boolean",
        [JV_INT] = "an integer",        [JV_FLOAT] = "a float",     [JV_STR] = "a string",
        [JV_LIST] = "a list",           [JV_TUPLE] = "a tuple",     [JV_RANGE] = "a range",
        [JV_VIEW] = "a dict view",      [JV_ITER] = "a sequence",   [JV_DICT] = "a dict",
        [JV_NAMESPACE] = "a namespace", [JV_LOOP] = "a loop",       [JV_MACRO] = "a macro",
        [JV_METHOD] = "a method",       [JV_GLOBAL] = "a function", [JV_MISSING] = "nothing"};
    return names[v.kind];
}

struct str jval_str(struct jval v)
{
    return (struct str){v.as.str->data, v.as.str->len};
}

static bool is_sequence(struct jval v)
{
    return v.kind == JV_LIST || v.kind == JV_TUPLE || v.kind == JV_RANGE || v.kind == JV_VIEW;
}

bool jval_truth(struct jval v)
{
    switch ((enum jval_kind)v.kind) {
    case JV_UNDEF:
    case JV_NONE:
    case JV_MISSING:
        return false;
    case JV_BOOL:
        return v.as.boolean;
    case JV_INT:
        return v.as.integer != 0;
    case JV_FLOAT:
        return v.as.real != 0;
    case JV_STR:
        return v.as.str->len > 0;
    case JV_LIST:
    case JV_TUPLE:
    case JV_RANGE:
    case JV_VIEW:
        return v.as.list->count > 0;
    case JV_DICT:
        return v.as.dict->count > 0;
    default:
        return true;
    }
}

bool jval_as_number(struct jval v, double *ret)
{
    if (v.kind == JV_FLOAT)
        *ret = v.as.real;
    else if (jval_is_int(v))
        *ret = (double)jval_integer(v);
    else
        return false;
    return true;
}

static bool equal_lists(struct jvm *vm, const struct jlist *a, const struct jlist *b, bool *ret)
{
    *ret = a->count == b->count;
    for (size_t i = 0; *ret && i < a->count; i++)
        if (!jval_equal(vm, a->items[i], b->items[i], ret))
            return false;
    return true;
}

static bool equal_dicts(struct jvm *vm, const struct jdict *a, const struct jdict *b, bool *ret)
{
    *ret = a->count == b->count;
    for (size_t i = 0; *ret && i < a->count; i++) {
        const struct jval *other = jdict_find(vm, b, a->entries[i].key);
        if (vm->e != ERR_OK)
            return false;
        *ret = other != NULL;
        if (*ret && !jval_equal(vm, a->entries[i].value, *other, ret))
            return false;
    }
    return true;
}

bool jval_equal(struct jvm *vm, struct jval a, struct jval b, bool *ret)
{
    double x, y;
    if (!jvm_charge(vm, 1))
        return false;
    *ret = false;
    if (jval_is_int(a) && jval_is_int(b)) {
        *ret = jval_integer(a) == jval_integer(b);
        return true;
    }
    if (jval_as_number(a, &x) && jval_as_number(b, &y)) {
        *ret = x == y;
        return true;
    }
    if (a.kind != b.kind)
        return true;
    bool ok = true;
    switch ((enum jval_kind)a.kind) {
    case JV_STR:
        *ret = str_eq(jval_str(a), jval_str(b));
        return jvm_charge(vm, *ret ? a.as.str->len / 64 : 0);
    case JV_UNDEF:
    case JV_NONE:
        *ret = true;
        return true;
    case JV_LIST:
    case JV_TUPLE:
    case JV_RANGE:
        if (a.as.list == b.as.list) {
            *ret = true;
            return true;
        }
        if (!jvm_enter(vm))
            return false;
        ok = equal_lists(vm, a.as.list, b.as.list, ret);
        vm->depth--;
        return ok;
    case JV_DICT:
        if (!jvm_enter(vm))
            return false;
        ok = equal_dicts(vm, a.as.dict, b.as.dict, ret);
        vm->depth--;
        return ok;
    case JV_GLOBAL:
        *ret = a.index == b.index;
        return true;
    default:
        *ret = a.as.list == b.as.list; /* the same object */
        return true;
    }
}

bool jval_less(struct jvm *vm, struct jval a, struct jval b, bool *ret)
{
    double x, y;
    if (!jvm_charge(vm, 1))
        return false;
    if (jval_is_int(a) && jval_is_int(b)) {
        *ret = jval_integer(a) < jval_integer(b);
        return true;
    }
    if (jval_as_number(a, &x) && jval_as_number(b, &y)) {
        *ret = x < y;
        return true;
    }
    if (a.kind == JV_STR && b.kind == JV_STR) { /* bytes of UTF-8 sort as characters do */
        struct str s = jval_str(a), t = jval_str(b);
        size_t n = s.len < t.len ? s.len : t.len;
        int order = n > 0 ? memcmp(s.data, t.data, n) : 0;
        *ret = order < 0 || (order == 0 && s.len < t.len);
        return jvm_charge(vm, n / 64);
    }
    if (a.kind == b.kind && (a.kind == JV_LIST || a.kind == JV_TUPLE)) {
        size_t i = 0;
        bool same = true, ok = true;
        if (!jvm_enter(vm))
            return false;
        for (; ok && i < a.as.list->count && i < b.as.list->count; i++) {
            ok = jval_equal(vm, a.as.list->items[i], b.as.list->items[i], &same);
            if (!same)
                break;
        }
        if (ok && !same)
            ok = jval_less(vm, a.as.list->items[i], b.as.list->items[i], ret);
        else
            *ret = a.as.list->count < b.as.list->count;
        vm->depth--;
        return ok;
    }
    return jvm_fail(vm, "%s and %s have no order", jval_type(a), jval_type(b));
}

bool jval_contains(struct jvm *vm, struct jval container, struct jval item, bool *ret)
{
    *ret = false;
    if (container.kind == JV_STR) {
        size_t at;
        if (item.kind != JV_STR)
            return jvm_fail(vm, "%s cannot be in a string", jval_type(item));
        if (!jstr_find(vm, jval_str(container), jval_str(item), 0, &at))
            return false;
        *ret = at != SIZE_MAX;
        return true;
    }
    if (container.kind == JV_DICT) {
        *ret = jdict_find(vm, container.as.dict, item) != NULL;
        return vm->e == ERR_OK;
    }
    struct jval *items;
    size_t count;
    if (!jval_iterate(vm, container, &items, &count))
        return false;
    for (size_t i = 0; i < count && !*ret; i++)
        if (!jval_equal(vm, items[i], item, ret))
            return false;
    return true;
}

bool jval_has_user(struct jvm *vm, struct jval v, bool *ret)
{
    bool ok = true;
    if (!jvm_charge(vm, 1))
        return false;
    *ret = false;
    if (v.kind == JV_STR)
        *ret = v.as.str->user_count > 0;
    if (!is_sequence(v) && v.kind != JV_DICT && v.kind != JV_ITER)
        return true;
    if (!jvm_enter(vm))
        return false;
    if (v.kind == JV_DICT)
        for (size_t i = 0; ok && !*ret && i < v.as.dict->count; i++) {
            ok = jval_has_user(vm, v.as.dict->entries[i].key, ret);
            if (ok && !*ret)
                ok = jval_has_user(vm, v.as.dict->entries[i].value, ret);
        }
    else
        for (size_t i = 0; ok && !*ret && i < v.as.list->count; i++)
            ok = jval_has_user(vm, v.as.list->items[i], ret);
    vm->depth--;
    return ok;
}

bool jval_len(struct jvm *vm, struct jval v, size_t *ret)
{
    if (v.kind == JV_STR) {
        *ret = jstr_chars(jval_str(v));
        return jvm_charge(vm, v.as.str->len / 64);
    }
    if (v.kind == JV_UNDEF)
        *ret = 0;
    else if (is_sequence(v))
        *ret = v.as.list->count;
    else if (v.kind == JV_DICT)
        *ret = v.as.dict->count;
    else
        return jvm_fail(vm, "%s has no length", jval_type(v));
    return true;
}

static bool characters(struct jvm *vm, const struct jstr *s, struct jval **ret, size_t *ret_count)
{
    struct jval list;
    size_t count = jstr_chars((struct str){s->data, s->len}), at = 0;
    if (!jval_list(vm, JV_LIST, count, &list))
        return false;
    for (size_t i = 0; i < count; i++) {
        uint32_t c;
        size_t n = juni_next(s->data + at, s->len - at, &c);
        if (!jstr_part(vm, s, at, at + n, &list.as.list->items[i]))
            return false;
        at += n;
    }
    *ret = list.as.list->items;
    *ret_count = count;
    return true;
}

bool jval_iterate(struct jvm *vm, struct jval v, struct jval **ret, size_t *ret_count)
{
    *ret = NULL;
    *ret_count = 0;
    if (v.kind == JV_UNDEF)
        return true;
    if (v.kind == JV_STR)
        return characters(vm, v.as.str, ret, ret_count);
    if (is_sequence(v)) {
        *ret = v.as.list->items;
        *ret_count = v.as.list->count;
        return true;
    }
    if (v.kind == JV_ITER) {
        *ret = v.as.list->items + v.as.list->at;
        *ret_count = v.as.list->count - v.as.list->at;
        v.as.list->at = v.as.list->count;
        return true;
    }
    if (v.kind != JV_DICT)
        return jvm_fail(vm, "%s cannot be iterated over", jval_type(v));
    struct jval keys;
    if (!jval_list(vm, JV_LIST, v.as.dict->count, &keys))
        return false;
    for (size_t i = 0; i < v.as.dict->count; i++)
        keys.as.list->items[i] = v.as.dict->entries[i].key;
    *ret = keys.as.list->items;
    *ret_count = v.as.dict->count;
    return true;
}

/* Index of a key, d->count when it is not there (or an error was noted). */
static size_t find(struct jvm *vm, const struct jdict *d, struct jval key)
{
    if (key.kind == JV_LIST || key.kind == JV_DICT) {
        jvm_fail(vm, "%s cannot be a key", jval_type(key));
        return d->count;
    }
    if (!jvm_charge(vm, d->count / 4))
        return d->count;
    for (size_t i = 0; i < d->count; i++) {
        bool same;
        if (key.kind == JV_STR)
            same = d->entries[i].key.kind == JV_STR &&
                   str_eq(jval_str(d->entries[i].key), jval_str(key));
        else if (!jval_equal(vm, d->entries[i].key, key, &same))
            return d->count;
        if (same)
            return i;
    }
    return d->count;
}

const struct jval *jdict_find(struct jvm *vm, const struct jdict *d, struct jval key)
{
    size_t i = find(vm, d, key);
    return i == d->count ? NULL : &d->entries[i].value;
}

bool jdict_set(struct jvm *vm, struct jdict *d, struct jval key, struct jval value)
{
    size_t i = find(vm, d, key);
    if (vm->e != ERR_OK)
        return false;
    if (i < d->count) {
        d->entries[i].value = value;
        return true;
    }
    if (d->count == d->cap) {
        size_t cap = d->cap == 0 ? 8 : 2 * d->cap;
        struct jentry *entries = jvm_alloc(vm, cap, sizeof(*entries));
        if (entries == NULL)
            return false;
        if (d->count > 0)
            memcpy(entries, d->entries, d->count * sizeof(*entries));
        d->entries = entries;
        d->cap = cap;
    }
    d->entries[d->count++] = (struct jentry){key, value};
    return true;
}
