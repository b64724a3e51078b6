/* Methods of dicts, lists and tuples: those that do not change them. */
#include "model/jinja_impl.h"

#define METHOD(name)                                                                               \
    static bool name(struct jvm *vm, struct jval self, const struct jval *args,                    \
                     const struct jargs *raw, struct jval *ret)
#define UNUSED(x) (void)(x)
#define PLAIN                                                                                      \
    UNUSED(args);                                                                                  \
    UNUSED(raw)

METHOD(dict_get)
{
    UNUSED(raw);
    const struct jval *found = jdict_find(vm, self.as.dict, args[0]);
    if (vm->e != ERR_OK)
        return false;
    *ret = found != NULL                ? *found
           : args[1].kind == JV_MISSING ? (struct jval){.kind = JV_NONE}
                                        : args[1];
    return true;
}

static bool dict_view(struct jvm *vm, struct jval self, int what, struct jval *ret)
{
    const struct jdict *d = self.as.dict;
    struct jval view;
    if (!jval_list(vm, JV_VIEW, d->count, &view))
        return false;
    for (size_t i = 0; i < d->count; i++) {
        struct jval *to = &view.as.list->items[i];
        if (what == 2 && !jval_pair(vm, d->entries[i].key, d->entries[i].value, to))
            return false;
        if (what < 2)
            *to = what == 0 ? d->entries[i].key : d->entries[i].value;
    }
    *ret = view;
    return true;
}

METHOD(dict_keys)
{
    PLAIN;
    return dict_view(vm, self, 0, ret);
}

METHOD(dict_values)
{
    PLAIN;
    return dict_view(vm, self, 1, ret);
}

METHOD(dict_items)
{
    PLAIN;
    return dict_view(vm, self, 2, ret);
}

METHOD(itself) /* copy(): values do not change */
{
    PLAIN;
    UNUSED(vm);
    *ret = self;
    return true;
}

METHOD(list_count)
{
    int64_t n = 0;
    UNUSED(raw);
    for (size_t i = 0; i < self.as.list->count; i++) {
        bool same;
        if (!jval_equal(vm, self.as.list->items[i], args[0], &same))
            return false;
        n += same;
    }
    *ret = jval_int(n);
    return true;
}

METHOD(list_index)
{
    UNUSED(raw);
    for (size_t i = 0; i < self.as.list->count; i++) {
        bool same;
        if (!jval_equal(vm, self.as.list->items[i], args[0], &same))
            return false;
        if (same) {
            *ret = jval_int((int64_t)i);
            return true;
        }
    }
    return jvm_fail(vm, "index: the value is not in the list");
}

const struct jmethod_def jmethod_seq_rows[] = {
    {JV_DICT, {"get", "key ?default", dict_get}},
    {JV_DICT, {"keys", "", dict_keys}},
    {JV_DICT, {"values", "", dict_values}},
    {JV_DICT, {"items", "", dict_items}},
    {JV_DICT, {"copy", "", itself}},
    {JV_LIST, {"copy", "", itself}},
    {JV_LIST, {"count", "value", list_count}},
    {JV_LIST, {"index", "value", list_index}},
    {JV_TUPLE, {"count", "value", list_count}},
    {JV_TUPLE, {"index", "value", list_index}},
    {JV_UNDEF, {NULL, NULL, NULL}},
};
