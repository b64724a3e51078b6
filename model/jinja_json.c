/* tojson as Hugging Face's environment has it: Python's json.dumps, not ASCII only, nothing escaped
 * for HTML. What was made of any user's text is wholly the user's. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "model/jinja_impl.h"

struct writer {
    struct jvm *vm;
    const struct jjson *o;
    struct jbuild b;
    bool user;
    unsigned level;
};

static bool add(struct writer *w, struct str s)
{
    return jbuild_add(w->vm, &w->b, s, w->user);
}

static bool add_text(struct writer *w, const char *text)
{
    return add(w, str_of(text));
}

static bool write_str(struct writer *w, struct str s)
{
    static const char from[] = "\"\\\b\f\n\r\t", to[] = "\"\\bfnrt";
    size_t begin = 0;
    if (!add_text(w, "\""))
        return false;
    for (size_t at = 0; at < s.len;) {
        uint32_t c;
        char text[16];
        size_t n = juni_next(s.data + at, s.len - at, &c);
        const char *hit = c != 0 && c < 0x80 ? strchr(from, (char)c) : NULL;
        if (hit != NULL)
            snprintf(text, sizeof(text), "\\%c", to[hit - from]);
        else if (c < 0x20 || (w->o->ascii && c >= 0x7f && c < 0x10000 && c != 0x7f))
            snprintf(text, sizeof(text), "\\u%04" PRIx32, c);
        else if (w->o->ascii && c >= 0x10000)
            snprintf(text, sizeof(text), "\\u%04" PRIx32 "\\u%04" PRIx32,
                     0xd800 + ((c - 0x10000) >> 10), 0xdc00 + ((c - 0x10000) & 0x3ff));
        else
            text[0] = '\0';
        if (text[0] != '\0') {
            if (!add(w, (struct str){s.data + begin, at - begin}) || !add_text(w, text))
                return false;
            begin = at + n;
        }
        at += n;
    }
    return add(w, (struct str){s.data + begin, s.len - begin}) && add_text(w, "\"");
}

static bool new_line(struct writer *w)
{
    if (w->o->indent == NULL)
        return true;
    if (!add_text(w, "\n"))
        return false;
    for (unsigned i = 0; i < w->level; i++)
        if (!add_text(w, w->o->indent))
            return false;
    return true;
}

static bool write_value(struct writer *w, struct jval v);

static bool write_number(struct writer *w, struct jval v)
{
    char text[JTEXT_FLOAT_BYTES];
    if (v.kind == JV_INT)
        snprintf(text, sizeof(text), "%" PRId64, v.as.integer);
    else if (isnan(v.as.real) || isinf(v.as.real))
        snprintf(text, sizeof(text), "%s",
                 isnan(v.as.real) ? "NaN"
                 : v.as.real < 0  ? "-Infinity"
                                  : "Infinity");
    else
        jtext_float(v.as.real, text);
    return add_text(w, text);
}

static bool write_list(struct writer *w, const struct jlist *l)
{
    if (l->count == 0)
        return add_text(w, "[]");
    if (!add_text(w, "["))
        return false;
    w->level++;
    for (size_t i = 0; i < l->count; i++)
        if ((i > 0 && !add(w, w->o->item_separator)) || !new_line(w) ||
            !write_value(w, l->items[i]))
            return false;
    w->level--;
    return new_line(w) && add_text(w, "]");
}

static bool write_key(struct writer *w, struct jval key)
{
    if (key.kind == JV_STR)
        return write_str(w, jval_str(key));
    if (key.kind != JV_INT && key.kind != JV_FLOAT && key.kind != JV_BOOL && key.kind != JV_NONE)
        return jvm_fail_type(w->vm, key, "cannot be a key in JSON");
    return add_text(w, "\"") && write_value(w, key) && add_text(w, "\"");
}

static bool write_dict(struct writer *w, const struct jdict *d)
{
    if (d->count == 0)
        return add_text(w, "{}");
    struct jval *keys = jvm_alloc(w->vm, d->count, sizeof(*keys)),
                *order = jvm_alloc(w->vm, d->count, sizeof(*order));
    if (keys == NULL || order == NULL || !add_text(w, "{"))
        return false;
    for (size_t i = 0; i < d->count; i++) {
        keys[i] = d->entries[i].key;
        order[i] = jval_int((int64_t)i);
    }
    if (w->o->sort && !jfilter_sort(w->vm, order, keys, d->count, false))
        return false;
    w->level++;
    for (size_t i = 0; i < d->count; i++) {
        const struct jentry *e = &d->entries[order[i].as.integer];
        if ((i > 0 && !add(w, w->o->item_separator)) || !new_line(w) || !write_key(w, e->key) ||
            !add(w, w->o->key_separator) || !write_value(w, e->value))
            return false;
    }
    w->level--;
    return new_line(w) && add_text(w, "}");
}

static bool write_value(struct writer *w, struct jval v)
{
    bool ok;
    switch ((enum jval_kind)v.kind) {
    case JV_NONE:
        return add_text(w, "null");
    case JV_BOOL:
        return add_text(w, v.as.boolean ? "true" : "false");
    case JV_INT:
    case JV_FLOAT:
        return write_number(w, v);
    case JV_STR:
        return write_str(w, jval_str(v));
    case JV_LIST:
    case JV_TUPLE:
    case JV_DICT:
        if (!jvm_enter(w->vm))
            return false;
        ok = v.kind == JV_DICT ? write_dict(w, v.as.dict) : write_list(w, v.as.list);
        w->vm->depth--;
        return ok;
    default:
        return jvm_fail_type(w->vm, v, "cannot be written as JSON");
    }
}

bool jjson_write(struct jvm *vm, struct jval v, const struct jjson *o, struct jval *ret)
{
    struct writer w = {.vm = vm, .o = o};
    return jval_has_user(vm, v, &w.user) && write_value(&w, v) && jbuild_end(vm, &w.b, ret);
}
