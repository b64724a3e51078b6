/* Filters on sequences and dicts: counting, ends, joining, sorting, grouping. */
#include <string.h>

#include "model/jinja_impl.h"

#define FILTER(name)                                                                               \
    static bool name(struct jvm *vm, struct jval self, const struct jval *args,                    \
                     const struct jargs *raw, struct jval *ret)
#define UNUSED(x) (void)(x)

static const struct jval undefined = {.kind = JV_UNDEF}, none = {.kind = JV_NONE};

/* [items, items + count) as a value. */
static bool give(struct jvm *vm, enum jval_kind kind, const struct jval *items, size_t count,
                 struct jval *ret)
{
    struct jval list;
    if (!jval_list(vm, kind, count, &list))
        return false;
    if (count > 0)
        memcpy(list.as.list->items, items, count * sizeof(*items));
    *ret = list;
    return true;
}

static bool has_attribute(struct jval attribute)
{
    return attribute.kind != JV_MISSING && attribute.kind != JV_NONE;
}

bool jfilter_attribute(struct jvm *vm, struct jval item, struct jval attribute, struct jval *ret)
{
    *ret = item;
    if (!has_attribute(attribute))
        return true;
    if (attribute.kind != JV_STR)
        return jaccess_item(vm, item, attribute, ret);
    struct str rest = jval_str(attribute);
    for (;;) {
        const char *dot = memchr(rest.data, '.', rest.len);
        size_t len = dot == NULL ? rest.len : (size_t)(dot - rest.data);
        struct jval key;
        int64_t number = 0;
        bool digits = len > 0 && len < 10;
        for (size_t i = 0; digits && i < len; i++) {
            digits = rest.data[i] >= '0' && rest.data[i] <= '9';
            number = 10 * number + (rest.data[i] - '0');
        }
        key = jval_int(number);
        if ((!digits && !jstr_new(vm, (struct str){rest.data, len}, false, &key)) ||
            !jaccess_item(vm, *ret, key, ret))
            return false;
        if (dot == NULL)
            return true;
        rest = (struct str){dot + 1, rest.len - len - 1};
    }
}

bool jfilter_lower_key(struct jvm *vm, struct jval v, struct jval *ret)
{
    static const struct jargs no_args;
    *ret = v;
    return v.kind != JV_STR ||
           jargs_call(vm, &jmethod_find(JV_STR, STR_LIT("lower"))->f, v, &no_args, ret);
}

/* Sort keys of items; an attribute with commas gives lists. */
static bool make_keys(struct jvm *vm, const struct jval *items, size_t count, struct jval attribute,
                      bool case_sensitive, bool several, struct jval **ret)
{
    struct jval *keys = jvm_alloc(vm, count, sizeof(*keys));
    if (keys == NULL)
        return false;
    for (size_t i = 0; i < count; i++) {
        struct str names = attribute.kind == JV_STR ? jval_str(attribute) : (struct str){0};
        struct jval parts[16];
        size_t n = 0;
        bool more = true;
        while (more) {
            const char *comma =
                several && names.len > 0 ? memchr(names.data, ',', names.len) : NULL;
            struct jstr one = {names.data, comma == NULL ? names.len : (size_t)(comma - names.data),
                               NULL, 0};
            struct jval name = attribute;
            if (attribute.kind == JV_STR)
                name.as.str = &one;
            if (n == 16)
                return jvm_limit(vm, "more than 16 attributes to sort by");
            if (!jfilter_attribute(vm, items[i], name, &parts[n]) ||
                (!case_sensitive && !jfilter_lower_key(vm, parts[n], &parts[n])))
                return false;
            n++;
            more = comma != NULL;
            if (more)
                names = (struct str){comma + 1, names.len - one.len - 1};
        }
        if (n == 1)
            keys[i] = parts[0];
        else if (!give(vm, JV_LIST, parts, n, &keys[i]))
            return false;
    }
    *ret = keys;
    return true;
}

/* Merges the sorted halves of order[0..count) through `spare`. */
static bool merge(struct jvm *vm, size_t *order, size_t half, size_t count, const struct jval *keys,
                  bool reverse, size_t *spare)
{
    size_t i = 0, j = half, n = 0;
    memcpy(spare, order, count * sizeof(*order));
    while (i < half && j < count) {
        bool right; /* equal ones keep their order */
        if (!(reverse ? jval_less(vm, keys[spare[i]], keys[spare[j]], &right)
                      : jval_less(vm, keys[spare[j]], keys[spare[i]], &right)))
            return false;
        order[n++] = right ? spare[j++] : spare[i++];
    }
    while (i < half)
        order[n++] = spare[i++];
    while (j < count)
        order[n++] = spare[j++];
    return true;
}

bool jfilter_sort(struct jvm *vm, struct jval *items, const struct jval *keys, size_t count,
                  bool reverse)
{
    size_t *order = jvm_alloc(vm, count, sizeof(*order)),
           *spare = jvm_alloc(vm, count, sizeof(*spare));
    struct jval *sorted = jvm_alloc(vm, count, sizeof(*sorted));
    if (order == NULL || spare == NULL || sorted == NULL || !jvm_charge(vm, count))
        return false;
    for (size_t i = 0; i < count; i++)
        order[i] = i;
    for (size_t width = 1; width < count; width *= 2)
        for (size_t at = 0; at + width < count; at += 2 * width) {
            size_t n = count - at < 2 * width ? count - at : 2 * width;
            if (!merge(vm, order + at, width, n, keys, reverse, spare))
                return false;
        }
    for (size_t i = 0; i < count; i++)
        sorted[i] = items[order[i]];
    if (count > 0)
        memcpy(items, sorted, count * sizeof(*items));
    return true;
}

FILTER(length)
{
    size_t n;
    UNUSED(args);
    UNUSED(raw);
    if (!jval_len(vm, self, &n))
        return false;
    *ret = jval_int((int64_t)n);
    return true;
}

FILTER(first)
{
    struct jval *items;
    size_t count;
    UNUSED(args);
    UNUSED(raw);
    if (self.kind == JV_ITER) { /* takes one, leaves the others */
        struct jlist *l = self.as.list;
        *ret = l->at < l->count ? l->items[l->at++] : undefined;
        return true;
    }
    if (!jval_iterate(vm, self, &items, &count))
        return false;
    *ret = count > 0 ? items[0] : undefined;
    return true;
}

FILTER(last)
{
    struct jval *items;
    size_t count;
    UNUSED(args);
    UNUSED(raw);
    if (self.kind == JV_ITER)
        return jvm_fail_type(vm, self, "has no last item");
    if (!jval_iterate(vm, self, &items, &count))
        return false;
    *ret = count > 0 ? items[count - 1] : undefined;
    return true;
}

FILTER(list)
{
    struct jval *items;
    size_t count;
    UNUSED(args);
    UNUSED(raw);
    return jval_iterate(vm, self, &items, &count) && give(vm, JV_LIST, items, count, ret);
}

FILTER(join)
{
    struct jbuild b = {0};
    struct jval *items, separator = {.kind = JV_UNDEF};
    size_t count;
    UNUSED(raw);
    if (args[0].kind != JV_MISSING && !jtext_str(vm, args[0], &separator))
        return false;
    if (!jval_iterate(vm, self, &items, &count))
        return false;
    for (size_t i = 0; i < count; i++) {
        struct jval item;
        if (!jfilter_attribute(vm, items[i], args[1], &item) ||
            (i > 0 && !jtext_add(vm, &b, separator)) || !jtext_add(vm, &b, item))
            return false;
    }
    return jbuild_end(vm, &b, ret);
}

FILTER(reverse)
{
    struct jval *items, list;
    size_t count;
    UNUSED(args);
    UNUSED(raw);
    if (self.kind == JV_STR) {
        const struct jval bounds[3] = {none, none, jval_int(-1)};
        return jaccess_slice(vm, self, bounds, ret);
    }
    if (!jval_iterate(vm, self, &items, &count))
        return false;
    bool as_list = self.kind == JV_ITER;
    if (!jval_list(vm, as_list ? JV_LIST : JV_ITER, count, &list))
        return false;
    for (size_t i = 0; i < count; i++)
        list.as.list->items[i] = items[count - 1 - i];
    *ret = list;
    return true;
}

FILTER(items)
{
    UNUSED(args);
    UNUSED(raw);
    if (self.kind == JV_UNDEF)
        return jval_list(vm, JV_ITER, 0, ret);
    if (self.kind != JV_DICT)
        return jvm_fail_type(vm, self, "has no items: a dict is expected");
    static const struct jargs no_args;
    if (!jargs_call(vm, &jmethod_find(JV_DICT, STR_LIT("items"))->f, self, &no_args, ret))
        return false;
    ret->kind = JV_ITER;
    return true;
}

FILTER(dictsort)
{
    static const struct jargs no_args;
    const struct jstr *by = NULL;
    struct jval list, *keys;
    UNUSED(raw);
    if (args[1].kind != JV_MISSING && !jargs_str(vm, args[1], &by))
        return false;
    bool by_value = by != NULL && str_eq((struct str){by->data, by->len}, STR_LIT("value"));
    if (by != NULL && !by_value && !str_eq((struct str){by->data, by->len}, STR_LIT("key")))
        return jvm_fail(vm, "dictsort sorts by key or value");
    if (self.kind != JV_DICT)
        return jvm_fail_type(vm, self, "is no dict");
    if (!jargs_call(vm, &jmethod_find(JV_DICT, STR_LIT("items"))->f, self, &no_args, &list) ||
        !make_keys(vm, list.as.list->items, list.as.list->count, jval_int(by_value),
                   jval_truth(args[0]), false, &keys) ||
        !jfilter_sort(vm, list.as.list->items, keys, list.as.list->count, jval_truth(args[2])))
        return false;
    list.kind = JV_LIST;
    *ret = list;
    return true;
}

FILTER(sort)
{
    struct jval *items, *keys, list;
    size_t count;
    UNUSED(raw);
    if (!jval_iterate(vm, self, &items, &count) || !give(vm, JV_LIST, items, count, &list) ||
        !make_keys(vm, items, count, args[2], jval_truth(args[1]), true, &keys) ||
        !jfilter_sort(vm, list.as.list->items, keys, count, jval_truth(args[0])))
        return false;
    *ret = list;
    return true;
}

FILTER(unique)
{
    struct jval *items, *keys, list, seen;
    size_t count, kept = 0;
    UNUSED(raw);
    if (!jval_iterate(vm, self, &items, &count) ||
        !make_keys(vm, items, count, args[1], jval_truth(args[0]), false, &keys) ||
        !jval_list(vm, JV_ITER, count, &list) || !jdict_new(vm, count, &seen))
        return false;
    for (size_t i = 0; i < count; i++) {
        bool known = jdict_find(vm, seen.as.dict, keys[i]) != NULL;
        if (vm->e != ERR_OK)
            return false;
        if (known)
            continue;
        if (!jdict_set(vm, seen.as.dict, keys[i], none))
            return false;
        list.as.list->items[kept++] = items[i];
    }
    list.as.list->count = kept;
    *ret = list;
    return true;
}

static bool extreme(struct jvm *vm, struct jval self, const struct jval *args, bool largest,
                    struct jval *ret)
{
    struct jval *items, *keys;
    size_t count, best = 0;
    if (!jval_iterate(vm, self, &items, &count) ||
        !make_keys(vm, items, count, args[1], jval_truth(args[0]), false, &keys))
        return false;
    for (size_t i = 1; i < count; i++) {
        bool better;
        if (!(largest ? jval_less(vm, keys[best], keys[i], &better)
                      : jval_less(vm, keys[i], keys[best], &better)))
            return false;
        best = better ? i : best;
    }
    *ret = count > 0 ? items[best] : undefined;
    return true;
}

FILTER(min)
{
    UNUSED(raw);
    return extreme(vm, self, args, false, ret);
}

FILTER(max)
{
    UNUSED(raw);
    return extreme(vm, self, args, true, ret);
}

FILTER(sum)
{
    struct jval *items, total = args[1].kind == JV_MISSING ? jval_int(0) : args[1], item;
    size_t count;
    UNUSED(raw);
    if (total.kind == JV_STR)
        return jvm_fail(vm, "sum cannot start from a string");
    if (!jval_iterate(vm, self, &items, &count))
        return false;
    for (size_t i = 0; i < count; i++)
        if (!jfilter_attribute(vm, items[i], args[0], &item) || !jeval_add(vm, total, item, &total))
            return false;
    *ret = total;
    return true;
}

/* Lists of `size` items each; args: size, what to fill the last one with. */
FILTER(batch)
{
    struct jval *items, list;
    size_t count;
    int64_t size;
    UNUSED(raw);
    if (!jargs_int(vm, args[0], 1, &size) || !jval_iterate(vm, self, &items, &count))
        return false;
    if (size < 1 || size > JINJA_MAX_RANGE)
        return jvm_fail(vm, "batch: a size from 1 to 100000 is expected");
    size_t batches = (count + (size_t)size - 1) / (size_t)size;
    if (!jval_list(vm, JV_ITER, batches, &list))
        return false;
    for (size_t i = 0; i < batches; i++) {
        size_t n = count - i * (size_t)size;
        bool fill = n < (size_t)size && has_attribute(args[1]);
        struct jval *to = &list.as.list->items[i];
        n = n < (size_t)size ? n : (size_t)size;
        if (!jval_list(vm, JV_LIST, fill ? (size_t)size : n, to))
            return false;
        memcpy(to->as.list->items, items + i * (size_t)size, n * sizeof(*items));
        for (size_t k = n; k < to->as.list->count; k++)
            to->as.list->items[k] = args[1];
    }
    *ret = list;
    return true;
}

/* Pairs of an attribute's value and the items that have it. */
FILTER(groupby)
{
    struct jval *items, *keys, sorted, list, key, members;
    size_t count, groups = 0;
    UNUSED(raw);
    if (args[1].kind != JV_MISSING)
        return jvm_fail(vm, "groupby: a default is not supported");
    if (!jval_iterate(vm, self, &items, &count) || !give(vm, JV_LIST, items, count, &sorted) ||
        !make_keys(vm, items, count, args[0], jval_truth(args[2]), false, &keys) ||
        !jfilter_sort(vm, sorted.as.list->items, keys, count, false) ||
        !make_keys(vm, sorted.as.list->items, count, args[0], jval_truth(args[2]), false, &keys) ||
        !jval_list(vm, JV_LIST, count, &list))
        return false;
    for (size_t begin = 0, end; begin < count; begin = end) {
        bool same = true;
        for (end = begin + 1; end < count; end++) {
            if (!jval_equal(vm, keys[begin], keys[end], &same))
                return false;
            if (!same)
                break;
        }
        if (!jfilter_attribute(vm, sorted.as.list->items[begin], args[0], &key) ||
            !give(vm, JV_LIST, sorted.as.list->items + begin, end - begin, &members) ||
            !jval_pair(vm, key, members, &list.as.list->items[groups++]))
            return false;
    }
    list.as.list->count = groups;
    *ret = list;
    return true;
}

const struct jfunction_def jfilter_seq_rows[] = {
    {"length", "", length},
    {"count", "", length},
    {"first", "", first},
    {"last", "", last},
    {"list", "", list},
    {"join", "?d ?attribute", join},
    {"reverse", "", reverse},
    {"items", "", items},
    {"dictsort", "?case_sensitive ?by ?reverse", dictsort},
    {"sort", "?reverse ?case_sensitive ?attribute", sort},
    {"unique", "?case_sensitive ?attribute", unique},
    {"min", "?case_sensitive ?attribute", min},
    {"max", "?case_sensitive ?attribute", max},
    {"sum", "?attribute ?start", sum},
    {"batch", "linecount ?fill_with", batch},
    {"groupby", "attribute ?default ?case_sensitive", groupby},
    {NULL, NULL, NULL},
};
