/* Filters on text and numbers, and the table that all filters are found in. */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/jinja_impl.h"

#define FILTER(name)                                                                               \
    static bool name(struct jvm *vm, struct jval self, const struct jval *args,                    \
                     const struct jargs *raw, struct jval *ret)
#define UNUSED(x) (void)(x)

/* The method of str(self). */
static bool method(struct jvm *vm, const char *name, struct jval self, const struct jval *items,
                   size_t count, struct jval *ret)
{
    struct jval copy[JARGS_MAX], text;
    struct jargs args = {.items = copy};
    for (size_t i = 0; i < count && items[i].kind != JV_MISSING; i++)
        copy[args.count++] = items[i];
    return jtext_str(vm, self, &text) &&
           jargs_call(vm, &jmethod_find(JV_STR, str_of(name))->f, text, &args, ret);
}

FILTER(trim)
{
    UNUSED(raw);
    return method(vm, "strip", self, args, 1, ret);
}

FILTER(upper)
{
    UNUSED(args);
    UNUSED(raw);
    return method(vm, "upper", self, NULL, 0, ret);
}

FILTER(lower)
{
    UNUSED(args);
    UNUSED(raw);
    return method(vm, "lower", self, NULL, 0, ret);
}

FILTER(capitalize)
{
    UNUSED(args);
    UNUSED(raw);
    return method(vm, "capitalize", self, NULL, 0, ret);
}

FILTER(center)
{
    const struct jval width = args[0].kind == JV_MISSING ? jval_int(80) : args[0];
    UNUSED(raw);
    return method(vm, "center", self, &width, 1, ret);
}

FILTER(replace)
{
    struct jval with[3] = {args[0], args[1], args[2]};
    UNUSED(raw);
    if (with[2].kind == JV_NONE)
        with[2].kind = JV_MISSING;
    return jtext_str(vm, with[0], &with[0]) && jtext_str(vm, with[1], &with[1]) &&
           method(vm, "replace", self, with, 3, ret);
}

/* Words begin after blanks, dashes and opening brackets. */
FILTER(title)
{
    struct jval text;
    struct jbuild b = {0};
    bool begins = true;
    UNUSED(args);
    UNUSED(raw);
    if (!jtext_str(vm, self, &text))
        return false;
    struct str s = jval_str(text);
    bool user = text.as.str->user_count > 0;
    for (size_t at = 0; at < s.len;) {
        uint32_t c, to[3];
        char out[4];
        at += juni_next(s.data + at, s.len - at, &c);
        bool separates = c < 0x80 ? c != 0 && (strchr("-({[<", (char)c) != NULL || juni_is_space(c))
                                  : juni_is_space(c);
        size_t n = begins ? juni_upper(c, to) : juni_lower(c, to);
        for (size_t i = 0; i < n; i++)
            if (!jvm_charge(vm, 1) ||
                !jbuild_add(vm, &b, (struct str){out, juni_put(out, to[i])}, user))
                return false;
        begins = separates;
    }
    return jbuild_end(vm, &b, ret);
}

FILTER(string)
{
    UNUSED(args);
    UNUSED(raw);
    return jtext_str(vm, self, ret);
}

FILTER(safe)
{
    UNUSED(args);
    UNUSED(raw);
    if (!jtext_str(vm, self, ret))
        return false;
    ret->markup = true;
    return true;
}

/* HTML's characters replaced, unless it went through `safe`; adding to a safe text does just that.
 */
FILTER(escape)
{
    struct jval text, safe_nothing;
    UNUSED(args);
    UNUSED(raw);
    if (!jtext_str(vm, self, &text) || !jstr_new(vm, (struct str){0}, false, &safe_nothing))
        return false;
    safe_nothing.markup = true;
    return jeval_add(vm, safe_nothing, text, ret);
}

FILTER(indent)
{
    struct jval lines, width = args[0];
    struct jbuild b = {0}, blanks = {0};
    int64_t n;
    bool first = jval_truth(args[1]), blank = jval_truth(args[2]);
    UNUSED(raw);
    if (self.kind != JV_STR)
        return jvm_fail_type(vm, self, "cannot be indented");
    if (width.kind != JV_STR) {
        if (!jargs_int(vm, width, 4, &n))
            return false;
        if (n > 100000)
            return jvm_limit(vm, "an indentation is too wide");
        for (int64_t i = 0; i < n; i++)
            if (!jbuild_add(vm, &blanks, STR_LIT(" "), false))
                return false;
        if (!jbuild_end(vm, &blanks, &width))
            return false;
    }
    if (!method(vm, "splitlines", self, NULL, 0, &lines))
        return false;
    /* splitlines of the text and one more newline: the last line is there even if it is empty. */
    const struct jstr *s = self.as.str;
    size_t count = lines.as.list->count;
    const struct jval *items = lines.as.list->items;
    bool empty_last = s->len == 0;
    if (s->len > 0) {
        struct jval with_end, one;
        if (!jstr_new(vm, STR_LIT("\n"), false, &one) || !jeval_add(vm, self, one, &with_end) ||
            !method(vm, "splitlines", with_end, NULL, 0, &lines))
            return false;
        items = lines.as.list->items;
        count = lines.as.list->count;
    }
    if (first && !jbuild_add_str(vm, &b, width.as.str))
        return false;
    for (size_t i = 0; i < count && !empty_last; i++) {
        const struct jstr *line = items[i].as.str;
        if (i > 0 && !jbuild_add(vm, &b, STR_LIT("\n"), false))
            return false;
        if (i > 0 && (blank || line->len > 0) && !jbuild_add_str(vm, &b, width.as.str))
            return false;
        if (!jbuild_add_str(vm, &b, line))
            return false;
    }
    return jbuild_end(vm, &b, ret);
}

FILTER(tojson)
{
    struct jjson o = {.ascii = jval_truth(args[0]), .sort = jval_truth(args[3])};
    char blanks[101];
    UNUSED(raw);
    if (jval_is_int(args[1])) {
        int64_t n = jval_integer(args[1]) < 0 ? 0 : jval_integer(args[1]);
        if (n > 100)
            return jvm_limit(vm, "an indentation is too wide");
        memset(blanks, ' ', (size_t)n);
        blanks[n] = '\0';
        o.indent = blanks;
    } else if (args[1].kind == JV_STR) {
        struct str s = jval_str(args[1]);
        if (s.len > 100 || memchr(s.data, '\0', s.len) != NULL)
            return jvm_limit(vm, "an indentation is too wide");
        if (s.len > 0)
            memcpy(blanks, s.data, s.len);
        blanks[s.len] = '\0';
        o.indent = blanks;
    } else if (args[1].kind != JV_NONE && args[1].kind != JV_MISSING) {
        return jvm_fail_type(vm, args[1], "is no indentation");
    }
    o.item_separator = o.indent != NULL ? STR_LIT(",") : STR_LIT(", ");
    o.key_separator = STR_LIT(": ");
    if (args[2].kind != JV_NONE && args[2].kind != JV_MISSING) {
        const struct jlist *l = args[2].as.list;
        if ((args[2].kind != JV_TUPLE && args[2].kind != JV_LIST) || l->count != 2 ||
            l->items[0].kind != JV_STR || l->items[1].kind != JV_STR)
            return jvm_fail(vm, "tojson's separators must be two strings");
        o.item_separator = jval_str(l->items[0]);
        o.key_separator = jval_str(l->items[1]);
    }
    return jjson_write(vm, self, &o, ret);
}

FILTER(default_)
{
    bool absent = self.kind == JV_UNDEF || (jval_truth(args[1]) && !jval_truth(self));
    UNUSED(raw);
    if (absent && args[0].kind == JV_MISSING)
        return jstr_new(vm, (struct str){0}, false, ret);
    *ret = absent ? args[0] : self;
    return true;
}

/* Python's float(text). */
static bool parse_float(struct str s, double *ret)
{
    char text[400];
    struct jspan keep = jstr_strip(s, NULL, 3);
    size_t n = 0;
    for (size_t i = keep.begin; i < keep.end; i++) {
        char c = s.data[i];
        if (c == '_') {
            bool between = i > keep.begin && i + 1 < keep.end && s.data[i - 1] >= '0' &&
                           s.data[i - 1] <= '9' && s.data[i + 1] >= '0' && s.data[i + 1] <= '9';
            if (!between)
                return false;
            continue;
        }
        if (n == sizeof(text) - 1 || c == '\0' || c == 'x' || c == 'X' || c == '(')
            return false;
        text[n++] = c;
    }
    text[n] = '\0';
    char *end;
    double f = strtod(text, &end);
    if (n == 0 || *end != '\0' || (unsigned char)text[0] <= ' ')
        return false;
    *ret = f;
    return true;
}

/* Python's int(text, base). */
static bool parse_int(struct str s, int base, int64_t *ret, bool *overflow)
{
    char text[100];
    struct jspan keep = jstr_strip(s, NULL, 3);
    size_t n = 0, begin = keep.begin;
    while (begin < keep.end && keep.end - begin > 1 &&
           (s.data[begin] == '-' || s.data[begin] == '+') && n == 0)
        text[n++] = s.data[begin++];
    for (size_t i = begin; i < keep.end; i++) {
        bool digit = (s.data[i] >= '0' && s.data[i] <= '9') ||
                     (((s.data[i] | 0x20) >= 'a') && ((s.data[i] | 0x20) <= 'z'));
        if (s.data[i] == '_' && i > begin && i + 1 < keep.end && s.data[i - 1] != '_')
            continue;
        if (!digit || n == sizeof(text) - 1)
            return false;
        text[n++] = s.data[i];
    }
    text[n] = '\0';
    char *end;
    errno = 0;
    long long v = strtoll(text, &end, base);
    if (n == 0 || *end != '\0' || end == text)
        return false;
    *overflow = errno == ERANGE;
    *ret = v;
    return true;
}

FILTER(int_)
{
    double f = 0;
    int64_t i, base;
    bool overflow = false, real = self.kind == JV_FLOAT;
    UNUSED(raw);
    if (self.kind == JV_UNDEF)
        return jvm_fail_type(vm, self, "is no number");
    if (!jargs_int(vm, args[1], 10, &base))
        return false;
    if (base != 0 && (base < 2 || base > 36))
        return jvm_fail(vm, "a base from 2 to 36 is expected");
    if (jval_is_int(self)) {
        *ret = jval_int(jval_integer(self));
        return true;
    }
    if (real)
        f = self.as.real;
    if (self.kind == JV_STR && parse_int(jval_str(self), (int)base, &i, &overflow)) {
        *ret = jval_int(i);
        return !overflow || jvm_limit(vm, "an integer has more than 63 bits");
    }
    if (self.kind == JV_STR)
        real = parse_float(jval_str(self), &f);
    if (real && isinf(f))
        return jvm_fail(vm, "infinity is no integer");
    if (!real || isnan(f)) {
        *ret = args[0].kind == JV_MISSING ? jval_int(0) : args[0];
        return true;
    }
    if (f >= 9.2e18 || f <= -9.2e18)
        return jvm_limit(vm, "an integer has more than 63 bits");
    *ret = jval_int((int64_t)f);
    return true;
}

FILTER(float_)
{
    double f;
    UNUSED(raw);
    if (self.kind == JV_UNDEF)
        return jvm_fail_type(vm, self, "is no number");
    if (jval_as_number(self, &f) || (self.kind == JV_STR && parse_float(jval_str(self), &f)))
        *ret = jval_float(f);
    else
        *ret = args[0].kind == JV_MISSING ? jval_float(0) : args[0];
    return true;
}

FILTER(abs_)
{
    UNUSED(args);
    UNUSED(raw);
    if (self.kind == JV_FLOAT) {
        *ret = jval_float(fabs(self.as.real));
        return true;
    }
    if (!jval_is_int(self))
        return jvm_fail_type(vm, self, "is no number");
    int64_t i = jval_integer(self);
    if (i == INT64_MIN)
        return jvm_limit(vm, "an integer has more than 63 bits");
    *ret = jval_int(i < 0 ? -i : i);
    return true;
}

FILTER(round_)
{
    int64_t digits;
    double f;
    const struct jstr *how = NULL;
    UNUSED(raw);
    if (!jargs_int(vm, args[0], 0, &digits) ||
        (args[1].kind != JV_MISSING && !jargs_str(vm, args[1], &how)))
        return false;
    if (!jval_as_number(self, &f))
        return jvm_fail_type(vm, self, "is no number");
    if (digits < 0 || digits > 300)
        return jvm_fail(vm, "round: a precision from 0 to 300 is expected");
    struct str name = how == NULL ? STR_LIT("common") : (struct str){how->data, how->len};
    if (str_eq(name, STR_LIT("common"))) {
        char text[700];
        if (jval_is_int(self)) {
            *ret = jval_int(jval_integer(self));
            return true;
        }
        snprintf(text, sizeof(text), "%.*f", (int)digits, f);
        *ret = jval_float(isnan(f) || isinf(f) ? f : strtod(text, NULL));
        return true;
    }
    bool up = str_eq(name, STR_LIT("ceil"));
    if (!up && !str_eq(name, STR_LIT("floor")))
        return jvm_fail(vm, "round: common, ceil or floor is expected");
    double scale = pow(10, (double)digits);
    *ret = jval_float((up ? ceil(f * scale) : floor(f * scale)) / scale);
    return true;
}

FILTER(format)
{
    struct jval tuple;
    UNUSED(args);
    if (raw->count > 0 && raw->kws_count > 0)
        return jvm_fail(vm, "format takes positional or keyword arguments, not both");
    struct jval text;
    if (!jtext_str(vm, self, &text))
        return false;
    if (raw->kws_count > 0) {
        struct jval key;
        if (!jdict_new(vm, raw->kws_count, &tuple))
            return false;
        for (size_t i = 0; i < raw->kws_count; i++)
            if (!jstr_new(vm, raw->kws[i].name, false, &key) ||
                !jdict_set(vm, tuple.as.dict, key, raw->kws[i].value))
                return false;
    } else {
        if (!jval_list(vm, JV_TUPLE, raw->count, &tuple))
            return false;
        for (size_t i = 0; i < raw->count; i++)
            tuple.as.list->items[i] = raw->items[i];
    }
    return jtext_percent(vm, text.as.str, tuple, ret);
}

FILTER(wordcount)
{
    struct jval text;
    int64_t count = 0;
    bool inside = false;
    UNUSED(args);
    UNUSED(raw);
    if (!jtext_str(vm, self, &text))
        return false;
    struct str s = jval_str(text);
    for (size_t at = 0; at < s.len;) {
        uint32_t c;
        at += juni_next(s.data + at, s.len - at, &c);
        bool word = c == '_' || juni_is_alpha(c) || juni_is_digit(c);
        count += word && !inside;
        inside = word;
    }
    *ret = jval_int(count);
    return jvm_charge(vm, s.len / 16);
}

const struct jfunction_def jfilter_text_rows[] = {
    {"trim", "?chars", trim},
    {"upper", "", upper},
    {"lower", "", lower},
    {"capitalize", "", capitalize},
    {"title", "", title},
    {"center", "?width", center},
    {"replace", "old new ?count", replace},
    {"string", "", string},
    {"safe", "", safe},
    {"escape", "", escape},
    {"e", "", escape},
    {"indent", "?width ?first ?blank", indent},
    {"tojson", "?ensure_ascii ?indent ?separators ?sort_keys", tojson},
    {"default", "?default_value ?boolean", default_},
    {"d", "?default_value ?boolean", default_},
    {"int", "?default ?base", int_},
    {"float", "?default", float_},
    {"abs", "", abs_},
    {"round", "?precision ?method", round_},
    {"format", NULL, format},
    {"wordcount", "", wordcount},
    {NULL, NULL, NULL},
};

const struct jfunction_def *jfilter_find(struct str name)
{
    const struct jfunction_def *const tables[] = {jfilter_text_rows, jfilter_seq_rows,
                                                  jfilter_pick_rows};
    for (size_t t = 0; t < sizeof(tables) / sizeof(tables[0]); t++)
        for (const struct jfunction_def *f = tables[t]; f->name != NULL; f++)
            if (str_eq(name, str_of(f->name)))
                return f;
    return NULL;
}
