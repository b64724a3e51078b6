/* Attributes, subscripts, slices: what a template can reach from a value, which is dictionary keys,
 * positions, the methods in jinja_method.c's table and a loop's own attributes. Methods that would
 * change a value are not there (Jinja2's immutable sandbox makes them undefined, too). */
#include <string.h>

#include "model/jinja_impl.h"

static const struct jval undefined = {.kind = JV_UNDEF};

static bool is_one_of(struct str name, const char *const *names)
{
    for (; *names != NULL; names++)
        if (str_eq(name, str_of(*names)))
            return true;
    return false;
}

/* A method of v, or undefined; *ret_known: Python's type has an attribute of that name, usable or
 * not. */
static bool find_method(struct jvm *vm, struct jval v, struct str name, bool *ret_known,
                        struct jval *ret)
{
    static const char *const dict_changers[] = {"clear",  "pop",      "popitem", "setdefault",
                                                "update", "fromkeys", NULL};
    const struct jmethod_def *def = jmethod_find((enum jval_kind)v.kind, name);
    *ret = undefined;
    *ret_known = def != NULL || (v.kind == JV_DICT && is_one_of(name, dict_changers)) ||
                 (name.len > 1 && name.data[0] == '_' && name.data[1] == '_');
    if (def == NULL)
        return true;
    struct jmethod *m = jvm_alloc(vm, 1, sizeof(*m));
    if (m == NULL)
        return false;
    *m = (struct jmethod){v, def, name};
    *ret = (struct jval){.kind = JV_METHOD, .as.method = m};
    return true;
}

static bool find_key(struct jvm *vm, struct jval dict, struct str name, struct jval *ret)
{
    const struct jstr text = {.data = name.data, .len = name.len};
    const struct jval key = {.kind = JV_STR, .as.str = &text};
    const struct jval *found = jdict_find(vm, dict.as.dict, key);
    if (vm->e != ERR_OK)
        return false;
    *ret = found != NULL ? *found : undefined;
    return true;
}

bool jaccess_attr(struct jvm *vm, struct jval v, struct str name, struct jval *ret)
{
    bool known;
    if (v.kind == JV_UNDEF)
        return jvm_fail_type(vm, v, "has no attributes");
    if (v.kind == JV_LOOP)
        return jloop_attr(vm, v, name, ret);
    if (v.kind == JV_MACRO && str_eq(name, STR_LIT("name")))
        return jstr_new(vm, v.as.macro->name, false, ret);
    if (v.kind == JV_NAMESPACE)
        return find_key(vm, v, name, ret);
    if (!find_method(vm, v, name, &known, ret))
        return false;
    return known || v.kind != JV_DICT || find_key(vm, v, name, ret);
}

static bool item_at(struct jvm *vm, struct jval v, int64_t index, struct jval *ret)
{
    *ret = undefined;
    if (v.kind == JV_STR) {
        struct str s = jval_str(v);
        size_t n;
        if (index < 0) {
            if (!jval_len(vm, v, &n))
                return false;
            index += (int64_t)n;
        }
        if (index < 0 || !jvm_charge(vm, s.len / 64))
            return index < 0;
        size_t at = jstr_offset(s, (size_t)index);
        if (at >= s.len)
            return true;
        return jstr_part(vm, v.as.str, at,
                         at + jstr_offset((struct str){s.data + at, s.len - at}, 1), ret);
    }
    int64_t count = (int64_t)v.as.list->count;
    if (index < 0)
        index += count;
    if (index >= 0 && index < count)
        *ret = v.as.list->items[index];
    return true;
}

bool jaccess_item(struct jvm *vm, struct jval v, struct jval key, struct jval *ret)
{
    bool known;
    if (v.kind == JV_UNDEF)
        return jvm_fail_type(vm, v, "has no items");
    bool positions =
        v.kind == JV_STR || v.kind == JV_LIST || v.kind == JV_TUPLE || v.kind == JV_RANGE;
    if (positions && jval_is_int(key))
        return item_at(vm, v, jval_integer(key), ret);
    *ret = undefined;
    if (v.kind == JV_DICT && key.kind != JV_LIST && key.kind != JV_DICT) {
        const struct jval *found = jdict_find(vm, v.as.dict, key);
        if (vm->e != ERR_OK)
            return false;
        if (found != NULL) {
            *ret = *found;
            return true;
        }
    }
    if (key.kind != JV_STR)
        return true;
    if (v.kind == JV_LOOP || v.kind == JV_NAMESPACE)
        return jaccess_attr(vm, v, jval_str(key), ret);
    return find_method(vm, v, jval_str(key), &known, ret);
}

static bool bound(struct jvm *vm, struct jval v, int64_t missing, int64_t count, int64_t low,
                  int64_t high, int64_t *ret)
{
    if (v.kind == JV_NONE) {
        *ret = missing;
        return true;
    }
    if (!jval_is_int(v))
        return jvm_fail_type(vm, v, "is not a position for a slice");
    int64_t i = jval_integer(v);
    if (i < 0)
        i += count;
    *ret = i < low ? low : i > high ? high : i;
    return true;
}

/* Python's slice.indices(): start, stop, step and how many. */
static bool slice_range(struct jvm *vm, const struct jval bounds[3], int64_t count, int64_t out[3],
                        size_t *ret_count)
{
    out[2] = 1;
    if (bounds[2].kind != JV_NONE) {
        if (!jval_is_int(bounds[2]))
            return jvm_fail_type(vm, bounds[2], "is not a step for a slice");
        out[2] = jval_integer(bounds[2]);
    }
    if (out[2] == 0)
        return jvm_fail(vm, "a slice's step is zero");
    bool up = out[2] > 0;
    int64_t low = up ? 0 : -1, high = up ? count : count - 1;
    if (!bound(vm, bounds[0], up ? 0 : count - 1, count, low, high, &out[0]) ||
        !bound(vm, bounds[1], up ? count : -1, count, low, high, &out[1]))
        return false;
    uint64_t distance = up ? (uint64_t)(out[1] - out[0]) : (uint64_t)(out[0] - out[1]);
    uint64_t step = up ? (uint64_t)out[2] : 0 - (uint64_t)out[2];
    bool empty = up ? out[1] <= out[0] : out[0] <= out[1];
    *ret_count = empty ? 0 : (size_t)((distance - 1) / step + 1);
    return true;
}

static bool slice_str(struct jvm *vm, struct jval v, const int64_t range[3], size_t count,
                      struct jval *ret)
{
    struct str s = jval_str(v);
    if (range[2] == 1 || count == 0) {
        size_t begin = count == 0 ? 0 : jstr_offset(s, (size_t)range[0]);
        size_t len =
            count == 0 ? 0 : jstr_offset((struct str){s.data + begin, s.len - begin}, count);
        return jstr_part(vm, v.as.str, begin, begin + len, ret);
    }
    struct jval *chars;
    size_t total;
    struct jbuild b = {0};
    if (!jval_iterate(vm, v, &chars, &total))
        return false;
    for (size_t i = 0; i < count; i++)
        if (!jbuild_add_str(vm, &b, chars[range[0] + (int64_t)i * range[2]].as.str))
            return false;
    return jbuild_end(vm, &b, ret);
}

bool jaccess_slice(struct jvm *vm, struct jval v, const struct jval bounds[3], struct jval *ret)
{
    size_t total = 0, count = 0;
    int64_t range[3] = {0, 0, 1};
    if (v.kind != JV_STR && v.kind != JV_LIST && v.kind != JV_TUPLE && v.kind != JV_RANGE)
        return jvm_fail_type(vm, v, "cannot be sliced");
    if (!jval_len(vm, v, &total) || !slice_range(vm, bounds, (int64_t)total, range, &count))
        return false;
    if (v.kind == JV_STR)
        return slice_str(vm, v, range, count, ret);
    struct jval list;
    if (!jval_list(vm, (enum jval_kind)v.kind, count, &list))
        return false;
    for (size_t i = 0; i < count; i++)
        list.as.list->items[i] = v.as.list->items[range[0] + (int64_t)i * range[2]];
    if (v.kind == JV_RANGE)
        for (int i = 0; i < 3; i++) { /* positions become the values there */
            const int64_t *r = v.as.list->range;
            list.as.list->range[i] = i == 2 ? r[2] * range[2] : r[0] + r[2] * range[i];
        }
    *ret = list;
    return true;
}
