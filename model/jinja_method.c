/* Methods of strings that cut them or ask about them; and the tables that all methods are found in.
 */
#include <string.h>

#include "model/jinja_impl.h"

#define METHOD(name)                                                                               \
    static bool name(struct jvm *vm, struct jval self, const struct jval *args,                    \
                     const struct jargs *raw, struct jval *ret)
#define UNUSED(x) (void)(x)

/* ---- pieces of strings ---- */

static bool strip_sides(struct jvm *vm, struct jval self, struct jval chars, int sides,
                        struct jval *ret)
{
    const struct jstr *set = NULL;
    bool given = chars.kind != JV_MISSING && chars.kind != JV_NONE;
    if (given && !jargs_str(vm, chars, &set))
        return false;
    struct str s = jval_str(self),
               text = given ? (struct str){set->data, set->len} : (struct str){0};
    if (!jvm_charge(vm, (s.len / 64 + 1) * (text.len / 16 + 1)))
        return false;
    struct jspan keep = jstr_strip(s, given ? &text : NULL, sides);
    return jstr_part(vm, self.as.str, keep.begin, keep.end, ret);
}

METHOD(str_strip)
{
    UNUSED(raw);
    return strip_sides(vm, self, args[0], 3, ret);
}

METHOD(str_lstrip)
{
    UNUSED(raw);
    return strip_sides(vm, self, args[0], 1, ret);
}

METHOD(str_rstrip)
{
    UNUSED(raw);
    return strip_sides(vm, self, args[0], 2, ret);
}

struct pieces {
    struct jspan *items;
    size_t count, cap;
};

static bool add_piece(struct jvm *vm, struct pieces *p, size_t begin, size_t end)
{
    if (p->count == p->cap) {
        size_t cap = 2 * p->cap + 8;
        struct jspan *items = jvm_alloc(vm, cap, sizeof(*items));
        if (items == NULL)
            return false;
        if (p->count > 0)
            memcpy(items, p->items, p->count * sizeof(*items));
        p->items = items;
        p->cap = cap;
    }
    p->items[p->count++] = (struct jspan){begin, end};
    return true;
}

static bool give_pieces(struct jvm *vm, const struct jstr *s, const struct pieces *p, bool reversed,
                        struct jval *ret)
{
    struct jval list;
    if (!jval_list(vm, JV_LIST, p->count, &list))
        return false;
    for (size_t i = 0; i < p->count; i++) {
        struct jspan span = p->items[reversed ? p->count - 1 - i : i];
        if (!jstr_part(vm, s, span.begin, span.end, &list.as.list->items[i]))
            return false;
    }
    *ret = list;
    return true;
}

/* Splits at runs of white space, at most `max` times (negative: always): the rest keeps its other
 * end's blanks. */
static bool split_space(struct jvm *vm, struct str s, int64_t max, struct pieces *p)
{
    size_t at = jstr_strip(s, NULL, 1).begin;
    while (at < s.len) {
        size_t end = s.len;
        if (max < 0 || (int64_t)p->count < max) {
            uint32_t c;
            size_t n;
            for (end = at; end < s.len; end += n) {
                n = juni_next(s.data + end, s.len - end, &c);
                if (juni_is_space(c))
                    break;
            }
        }
        if (!add_piece(vm, p, at, end))
            return false;
        at = end + jstr_strip((struct str){s.data + end, s.len - end}, NULL, 1).begin;
    }
    return true;
}

/* The same from the right. */
static bool rsplit_space(struct jvm *vm, struct str s, int64_t max, struct pieces *p)
{
    size_t end = jstr_strip(s, NULL, 2).end;
    while (end > 0) {
        size_t begin = 0;
        if (max < 0 || (int64_t)p->count < max)
            for (begin = end; begin > 0;) {
                size_t n = 1;
                uint32_t c;
                while (n < 4 && n < begin && ((unsigned char)s.data[begin - n] & 0xc0) == 0x80)
                    n++;
                if (juni_next(s.data + begin - n, n, &c) != n)
                    n = juni_next(s.data + begin - 1, 1, &c);
                if (juni_is_space(c))
                    break;
                begin -= n;
            }
        if (!add_piece(vm, p, begin, end))
            return false;
        end = jstr_strip((struct str){s.data, begin}, NULL, 2).end;
    }
    return true;
}

static bool find_last(struct jvm *vm, struct str s, struct str part, size_t end, size_t *ret)
{
    *ret = SIZE_MAX;
    if (!jvm_charge(vm, (end / 64 + 1) * (part.len / 16 + 1)))
        return false;
    for (size_t at = end >= part.len ? end - part.len + 1 : 0; at-- > 0;)
        if (part.len == 0 || memcmp(s.data + at, part.data, part.len) == 0) {
            *ret = at;
            break;
        }
    return true;
}

static bool split_at(struct jvm *vm, struct str s, struct str sep, int64_t max, bool right,
                     struct pieces *p)
{
    size_t begin = 0, end = s.len, at;
    if (sep.len == 0)
        return jvm_fail(vm, "an empty separator");
    while (max < 0 || (int64_t)p->count < max) {
        if (!(right ? find_last(vm, s, sep, end, &at) : jstr_find(vm, s, sep, begin, &at)))
            return false;
        if (at == SIZE_MAX)
            break;
        if (!(right ? add_piece(vm, p, at + sep.len, end) : add_piece(vm, p, begin, at)))
            return false;
        if (right)
            end = at;
        else
            begin = at + sep.len;
    }
    return add_piece(vm, p, begin, end);
}

static bool split(struct jvm *vm, struct jval self, const struct jval *args, bool right,
                  struct jval *ret)
{
    struct pieces p = {0};
    int64_t max;
    const struct jstr *sep;
    struct str s = jval_str(self);
    if (!jargs_int(vm, args[1], -1, &max) || !jvm_charge(vm, s.len / 64))
        return false;
    if (args[0].kind == JV_MISSING || args[0].kind == JV_NONE) {
        if (!(right ? rsplit_space(vm, s, max, &p) : split_space(vm, s, max, &p)))
            return false;
    } else if (!jargs_str(vm, args[0], &sep) ||
               !split_at(vm, s, (struct str){sep->data, sep->len}, max, right, &p)) {
        return false;
    }
    return give_pieces(vm, self.as.str, &p, right, ret);
}

METHOD(str_split)
{
    UNUSED(raw);
    return split(vm, self, args, false, ret);
}

METHOD(str_rsplit)
{
    UNUSED(raw);
    return split(vm, self, args, true, ret);
}

METHOD(str_splitlines)
{
    struct pieces p = {0};
    struct str s = jval_str(self);
    size_t begin = 0;
    bool keep = jval_truth(args[0]);
    UNUSED(raw);
    for (size_t at = 0; at < s.len;) {
        uint32_t c;
        size_t n = juni_next(s.data + at, s.len - at, &c);
        bool ends = (c >= 10 && c <= 13) || (c >= 0x1c && c <= 0x1e) || c == 0x85 || c == 0x2028 ||
                    c == 0x2029;
        if (c == '\r' && at + 1 < s.len && s.data[at + 1] == '\n')
            n = 2;
        if (ends) {
            if (!add_piece(vm, &p, begin, keep ? at + n : at))
                return false;
            begin = at + n;
        }
        at += n;
    }
    if (begin < s.len && !add_piece(vm, &p, begin, s.len))
        return false;
    return give_pieces(vm, self.as.str, &p, false, ret);
}

static bool partition(struct jvm *vm, struct jval self, struct jval by, bool right,
                      struct jval *ret)
{
    const struct jstr *sep;
    struct str s = jval_str(self);
    struct pieces p = {0};
    size_t at;
    if (!jargs_str(vm, by, &sep))
        return false;
    if (sep->len == 0)
        return jvm_fail(vm, "an empty separator");
    struct str part = {sep->data, sep->len};
    if (!(right ? find_last(vm, s, part, s.len, &at) : jstr_find(vm, s, part, 0, &at)))
        return false;
    size_t cut = at != SIZE_MAX ? at
                 : right        ? 0
                                : s.len,
           after = at != SIZE_MAX ? at + part.len : cut;
    if (!add_piece(vm, &p, 0, cut) || !add_piece(vm, &p, cut, after) ||
        !add_piece(vm, &p, after, s.len) || !give_pieces(vm, self.as.str, &p, false, ret))
        return false;
    ret->kind = JV_TUPLE;
    return true;
}

METHOD(str_partition)
{
    UNUSED(raw);
    return partition(vm, self, args[0], false, ret);
}

METHOD(str_rpartition)
{
    UNUSED(raw);
    return partition(vm, self, args[0], true, ret);
}

static bool cut_affix(struct jvm *vm, struct jval self, struct jval affix, bool prefix,
                      struct jval *ret)
{
    const struct jstr *part, *s = self.as.str;
    if (!jargs_str(vm, affix, &part))
        return false;
    size_t at = prefix ? 0 : s->len - part->len;
    bool has = part->len <= s->len && memcmp(s->data + at, part->data, part->len) == 0;
    size_t cut = has ? part->len : 0;
    return jstr_part(vm, s, prefix ? cut : 0, prefix ? s->len : s->len - cut, ret);
}

METHOD(str_removeprefix)
{
    UNUSED(raw);
    return cut_affix(vm, self, args[0], true, ret);
}

METHOD(str_removesuffix)
{
    UNUSED(raw);
    return cut_affix(vm, self, args[0], false, ret);
}

/* ---- questions ---- */

/* The part of self that start and end (characters) leave. */
static bool window(struct jvm *vm, struct jval self, struct jval start, struct jval end,
                   struct jspan *ret)
{
    const struct jval none = {.kind = JV_NONE};
    const struct jval bounds[3] = {start.kind == JV_MISSING ? none : start,
                                   end.kind == JV_MISSING ? none : end, none};
    struct jval part;
    if (bounds[0].kind == JV_NONE && bounds[1].kind == JV_NONE) {
        *ret = (struct jspan){0, self.as.str->len};
        return true;
    }
    if (!jaccess_slice(vm, self, bounds, &part))
        return false;
    size_t begin = (size_t)(part.as.str->data - self.as.str->data);
    *ret = (struct jspan){begin, begin + part.as.str->len};
    return true;
}

static bool has_affix(struct jvm *vm, struct jval self, const struct jval *args, bool at_start,
                      struct jval *ret)
{
    struct jspan w;
    struct jval one[1] = {args[0]}, *parts = one;
    size_t count = 1;
    if (args[0].kind == JV_TUPLE && !jval_iterate(vm, args[0], &parts, &count))
        return false;
    if (!window(vm, self, args[1], args[2], &w))
        return false;
    *ret = jval_bool(false);
    for (size_t i = 0; i < count; i++) {
        const struct jstr *part;
        if (!jargs_str(vm, parts[i], &part))
            return false;
        if (part->len > w.end - w.begin)
            continue;
        size_t at = at_start ? w.begin : w.end - part->len;
        if (memcmp(self.as.str->data + at, part->data, part->len) == 0)
            *ret = jval_bool(true);
    }
    return true;
}

METHOD(str_startswith)
{
    UNUSED(raw);
    return has_affix(vm, self, args, true, ret);
}

METHOD(str_endswith)
{
    UNUSED(raw);
    return has_affix(vm, self, args, false, ret);
}

static bool position(struct jvm *vm, struct jval self, const struct jval *args, bool last,
                     int64_t *ret)
{
    const struct jstr *part;
    struct jspan w;
    size_t at;
    if (!jargs_str(vm, args[0], &part) || !window(vm, self, args[1], args[2], &w))
        return false;
    struct str s = {self.as.str->data, w.end}, p = {part->data, part->len};
    if (!(last ? find_last(vm, s, p, w.end, &at) : jstr_find(vm, s, p, w.begin, &at)))
        return false;
    if (at == SIZE_MAX || at < w.begin)
        *ret = -1;
    else
        *ret = (int64_t)jstr_chars((struct str){self.as.str->data, at});
    return true;
}

METHOD(str_find)
{
    int64_t at;
    UNUSED(raw);
    if (!position(vm, self, args, false, &at))
        return false;
    *ret = jval_int(at);
    return true;
}

METHOD(str_rfind)
{
    int64_t at;
    UNUSED(raw);
    if (!position(vm, self, args, true, &at))
        return false;
    *ret = jval_int(at);
    return true;
}

METHOD(str_index)
{
    int64_t at;
    UNUSED(raw);
    if (!position(vm, self, args, false, &at))
        return false;
    if (at < 0)
        return jvm_fail(vm, "index: the text does not occur");
    *ret = jval_int(at);
    return true;
}

METHOD(str_rindex)
{
    int64_t at;
    UNUSED(raw);
    if (!position(vm, self, args, true, &at))
        return false;
    if (at < 0)
        return jvm_fail(vm, "rindex: the text does not occur");
    *ret = jval_int(at);
    return true;
}

METHOD(str_count)
{
    const struct jstr *part;
    struct jspan w;
    UNUSED(raw);
    if (!jargs_str(vm, args[0], &part) || !window(vm, self, args[1], args[2], &w))
        return false;
    struct str s = {self.as.str->data, w.end}, p = {part->data, part->len};
    int64_t n = 0;
    if (p.len == 0)
        n = (int64_t)jstr_chars((struct str){s.data + w.begin, w.end - w.begin}) + 1;
    for (size_t at = w.begin; p.len > 0; n++) {
        size_t hit;
        if (!jstr_find(vm, s, p, at, &hit))
            return false;
        if (hit == SIZE_MAX)
            break;
        at = hit + p.len;
    }
    *ret = jval_int(n);
    return true;
}

static const struct jmethod_def piece_methods[] = {
    {JV_STR, {"strip", "?chars", str_strip}},
    {JV_STR, {"lstrip", "?chars", str_lstrip}},
    {JV_STR, {"rstrip", "?chars", str_rstrip}},
    {JV_STR, {"split", "?sep ?maxsplit", str_split}},
    {JV_STR, {"rsplit", "?sep ?maxsplit", str_rsplit}},
    {JV_STR, {"splitlines", "?keepends", str_splitlines}},
    {JV_STR, {"partition", "sep", str_partition}},
    {JV_STR, {"rpartition", "sep", str_rpartition}},
    {JV_STR, {"removeprefix", "prefix", str_removeprefix}},
    {JV_STR, {"removesuffix", "suffix", str_removesuffix}},
    {JV_STR, {"startswith", "prefix ?start ?end", str_startswith}},
    {JV_STR, {"endswith", "suffix ?start ?end", str_endswith}},
    {JV_STR, {"find", "sub ?start ?end", str_find}},
    {JV_STR, {"rfind", "sub ?start ?end", str_rfind}},
    {JV_STR, {"index", "sub ?start ?end", str_index}},
    {JV_STR, {"rindex", "sub ?start ?end", str_rindex}},
    {JV_STR, {"count", "sub ?start ?end", str_count}},
    {JV_UNDEF, {NULL, NULL, NULL}},
};

const struct jmethod_def *jmethod_find(enum jval_kind kind, struct str name)
{
    const struct jmethod_def *const tables[] = {piece_methods, jmethod_text_rows, jmethod_seq_rows};
    for (size_t t = 0; t < 3; t++)
        for (const struct jmethod_def *m = tables[t]; m->f.name != NULL; m++)
            if (m->kind == kind && str_eq(name, str_of(m->f.name)))
                return m;
    return NULL;
}
