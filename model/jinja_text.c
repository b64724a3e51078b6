/* Values as text: Python's str() and repr(), "..." % values, "...".format(values). */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/jinja_impl.h"

/* repr(float): the shortest digits that read back as f; an exponent below 1e-4 and from 1e16. */
size_t jtext_float(double f, char out[JTEXT_FLOAT_BYTES])
{
    char digits[40], *mark;
    if (isnan(f) || isinf(f))
        return (size_t)sprintf(out, "%s", isnan(f) ? "nan" : f < 0 ? "-inf" : "inf");
    for (int precision = 0; precision < 17; precision++) {
        snprintf(digits, sizeof(digits), "%.*e", precision, f);
        if (strtod(digits, NULL) == f)
            break;
    }
    mark = strchr(digits, 'e');
    int exponent = atoi(mark + 1);
    if (exponent < -4 || exponent >= 16) {
        *mark = '\0';
        return (size_t)snprintf(out, JTEXT_FLOAT_BYTES, "%se%c%02d", digits,
                                exponent < 0 ? '-' : '+', abs(exponent));
    }
    int decimals =
        (int)(mark - digits) - (digits[0] == '-') - 2 - exponent; /* "1.5": one behind the point */
    if (strchr(digits, '.') == NULL)
        decimals = -exponent;
    return (size_t)snprintf(out, JTEXT_FLOAT_BYTES, "%.*f", decimals < 1 ? 1 : decimals, f);
}

static bool add_repr_str(struct jvm *vm, struct jbuild *b, struct str s, bool user)
{
    bool single = memchr(s.data, '\'', s.len) != NULL, twice = memchr(s.data, '"', s.len) != NULL;
    char quote = single && !twice ? '"' : '\'';
    if (!jbuild_add(vm, b, (struct str){&quote, 1}, user))
        return false;
    for (size_t at = 0; at < s.len;) {
        uint32_t c;
        char text[16];
        size_t n = juni_next(s.data + at, s.len - at, &c), len = 0;
        if (c == '\n' || c == '\r' || c == '\t')
            len = (size_t)sprintf(text, "\\%c", c == '\n' ? 'n' : c == '\r' ? 'r' : 't');
        else if (c == '\\' || c == (uint32_t)quote)
            len = (size_t)sprintf(text, "\\%c", (char)c);
        else if (!juni_is_printable(c))
            len = (size_t)sprintf(text,
                                  c < 0x100     ? "\\x%02" PRIx32
                                  : c < 0x10000 ? "\\u%04" PRIx32
                                                : "\\U%08" PRIx32,
                                  c);
        if (!jbuild_add(vm, b, len > 0 ? (struct str){text, len} : (struct str){s.data + at, n},
                        user))
            return false;
        at += n;
    }
    return jbuild_add(vm, b, (struct str){&quote, 1}, user);
}

static bool add_items(struct jvm *vm, struct jbuild *b, struct jval v, bool user)
{
    const struct jlist *l = v.as.list;
    bool tuple = v.kind == JV_TUPLE;
    if (!jbuild_add(vm, b, tuple ? STR_LIT("(") : STR_LIT("["), user))
        return false;
    for (size_t i = 0; i < l->count; i++)
        if ((i > 0 && !jbuild_add(vm, b, STR_LIT(", "), user)) ||
            !jtext_repr(vm, b, l->items[i], user))
            return false;
    return jbuild_add(vm, b,
                      !tuple          ? STR_LIT("]")
                      : l->count == 1 ? STR_LIT(",)")
                                      : STR_LIT(")"),
                      user);
}

static bool add_dict(struct jvm *vm, struct jbuild *b, const struct jdict *d, bool user)
{
    if (!jbuild_add(vm, b, STR_LIT("{"), user))
        return false;
    for (size_t i = 0; i < d->count; i++)
        if ((i > 0 && !jbuild_add(vm, b, STR_LIT(", "), user)) ||
            !jtext_repr(vm, b, d->entries[i].key, user) ||
            !jbuild_add(vm, b, STR_LIT(": "), user) ||
            !jtext_repr(vm, b, d->entries[i].value, user))
            return false;
    return jbuild_add(vm, b, STR_LIT("}"), user);
}

static bool add_range(struct jvm *vm, struct jbuild *b, const int64_t r[3])
{
    char text[100];
    int n = r[2] == 1 ? snprintf(text, sizeof(text), "range(%" PRId64 ", %" PRId64 ")", r[0], r[1])
                      : snprintf(text, sizeof(text), "range(%" PRId64 ", %" PRId64 ", %" PRId64 ")",
                                 r[0], r[1], r[2]);
    return jbuild_add(vm, b, (struct str){text, (size_t)n}, false);
}

bool jtext_repr(struct jvm *vm, struct jbuild *b, struct jval v, bool user)
{
    char text[JTEXT_FLOAT_BYTES];
    size_t n;
    bool ok;
    switch ((enum jval_kind)v.kind) {
    case JV_STR:
        return add_repr_str(vm, b, jval_str(v), user);
    case JV_UNDEF:
        return jbuild_add(vm, b, STR_LIT("Undefined"), user);
    case JV_NONE:
        return jbuild_add(vm, b, STR_LIT("None"), user);
    case JV_BOOL:
        return jbuild_add(vm, b, v.as.boolean ? STR_LIT("True") : STR_LIT("False"), user);
    case JV_INT:
        n = (size_t)snprintf(text, sizeof(text), "%" PRId64, v.as.integer);
        return jbuild_add(vm, b, (struct str){text, n}, user);
    case JV_FLOAT:
        n = jtext_float(v.as.real, text);
        return jbuild_add(vm, b, (struct str){text, n}, user);
    case JV_RANGE:
        return add_range(vm, b, v.as.list->range);
    case JV_LIST:
    case JV_TUPLE:
    case JV_DICT:
        if (!jvm_enter(vm))
            return false;
        ok = v.kind == JV_DICT ? add_dict(vm, b, v.as.dict, user) : add_items(vm, b, v, user);
        vm->depth--;
        return ok;
    default:
        return jvm_fail(vm, "%s cannot be written as text", jval_type(v));
    }
}

bool jtext_add(struct jvm *vm, struct jbuild *b, struct jval v)
{
    bool user;
    if (v.kind == JV_STR)
        return jbuild_add_str(vm, b, v.as.str);
    if (v.kind == JV_UNDEF)
        return true;
    return jval_has_user(vm, v, &user) && jtext_repr(vm, b, v, user);
}

bool jtext_str(struct jvm *vm, struct jval v, struct jval *ret)
{
    struct jbuild b = {0};
    if (v.kind == JV_STR) {
        *ret = v;
        return true;
    }
    return jtext_add(vm, &b, v) && jbuild_end(vm, &b, ret);
}

/* One conversion: flags, width and precision as C's printf has them, which Python's % took over. */
struct conversion {
    bool left, plus, blank, zero, alternative;
    int width, precision; /* -1: none */
    char type;
};

static size_t read_number(const char *s, size_t at, size_t len, int *ret)
{
    int n = 0;
    for (; at < len && s[at] >= '0' && s[at] <= '9'; at++)
        n = n < 100000000 ? 10 * n + (s[at] - '0') : n;
    *ret = n;
    return at;
}

static size_t read_conversion(const char *s, size_t at, size_t len, struct conversion *c)
{
    *c = (struct conversion){.precision = -1};
    for (; at < len && s[at] != '\0' && strchr("-+ 0#", s[at]) != NULL; at++) {
        c->left |= s[at] == '-';
        c->plus |= s[at] == '+';
        c->blank |= s[at] == ' ';
        c->zero |= s[at] == '0';
        c->alternative |= s[at] == '#';
    }
    at = read_number(s, at, len, &c->width);
    if (at < len && s[at] == '.')
        at = read_number(s, at + 1, len, &c->precision);
    if (at < len)
        c->type = s[at++];
    return at;
}

static bool padded(struct jvm *vm, struct jbuild *b, const struct jstr *s,
                   const struct conversion *c)
{
    struct str all = {s->data, s->len};
    size_t chars = jstr_chars(all), len = s->len;
    if (c->precision >= 0 && (size_t)c->precision < chars) {
        chars = (size_t)c->precision;
        len = jstr_offset(all, chars);
    }
    size_t fill = (size_t)c->width > chars ? (size_t)c->width - chars : 0;
    for (size_t i = 0; !c->left && i < fill; i++)
        if (!jbuild_add(vm, b, STR_LIT(" "), false))
            return false;
    if (!jbuild_add_part(vm, b, s, 0, len))
        return false;
    for (size_t i = 0; c->left && i < fill; i++)
        if (!jbuild_add(vm, b, STR_LIT(" "), false))
            return false;
    return true;
}

static bool add_number(struct jvm *vm, struct jbuild *b, const struct conversion *c, struct jval v)
{
    char format[24], text[1000];
    double f;
    size_t n = 0;
    bool real = c->type != '\0' && strchr("eEfFgG", c->type) != NULL;
    if (!jval_as_number(v, &f) || (!real && v.kind == JV_FLOAT && strchr("diu", c->type) == NULL))
        return jvm_fail_type(vm, v, "where % wants a number");
    if (c->width > 500 || c->precision > 300)
        return jvm_limit(vm, "a number is to be written too wide");
    if (!real && (f >= 9.2e18 || f <= -9.2e18 || isnan(f)))
        return jvm_fail(vm, "an integer has more than 63 bits");
    format[n++] = '%';
    const bool flags[] = {c->left, c->plus, c->blank, c->zero, c->alternative};
    for (int i = 0; i < 5; i++)
        if (flags[i])
            format[n++] = "-+ 0#"[i];
    n += (size_t)sprintf(format + n, "%d", c->width > 0 ? c->width : 0);
    if (c->width == 0)
        n--;
    if (c->precision >= 0)
        n += (size_t)sprintf(format + n, ".%d", c->precision);
    snprintf(format + n, sizeof(format) - n, real ? "%c" : PRId64, real ? c->type : 'd');
    int64_t i = v.kind == JV_FLOAT ? (int64_t)f : real ? 0 : jval_integer(v);
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
    int len =
        real ? snprintf(text, sizeof(text), format, f) : snprintf(text, sizeof(text), format, i);
#pragma GCC diagnostic pop
    if (len < 0 || (size_t)len >= sizeof(text))
        return jvm_limit(vm, "a number is to be written too wide");
    return jbuild_add(vm, b, (struct str){text, (size_t)len}, false);
}

static bool convert(struct jvm *vm, struct jbuild *b, const struct conversion *c, struct jval v)
{
    struct jbuild text = {0};
    struct jval s;
    bool user;
    switch (c->type) {
    case 's':
    case 'r':
        if (c->type == 's' ? !jtext_str(vm, v, &s)
                           : !jval_has_user(vm, v, &user) || !jtext_repr(vm, &text, v, user) ||
                                 !jbuild_end(vm, &text, &s))
            return false;
        if (c->width > 1000000)
            return jvm_limit(vm, "a text is to be padded too wide");
        return padded(vm, b, s.as.str, c);
    case 'd':
    case 'i':
    case 'u':
    case 'e':
    case 'E':
    case 'f':
    case 'F':
    case 'g':
    case 'G':
        return add_number(vm, b, c, v);
    default:
        return jvm_fail(vm, "%% has a conversion that is not supported here");
    }
}

bool jtext_percent(struct jvm *vm, const struct jstr *format, struct jval args, struct jval *ret)
{
    struct jbuild b = {0};
    const char *s = format->data;
    bool tuple = args.kind == JV_TUPLE, named = false;
    size_t count = tuple ? args.as.list->count : 1, used = 0, at = 0;
    while (at < format->len) {
        const char *hit = memchr(s + at, '%', format->len - at);
        size_t end = hit == NULL ? format->len : (size_t)(hit - s);
        struct conversion c;
        if (!jbuild_add_part(vm, &b, format, at, end))
            return false;
        if (hit == NULL)
            break;
        at = end + 1;
        struct jval v = {.kind = JV_MISSING};
        if (at < format->len && s[at] == '(') {
            const char *close = memchr(s + at, ')', format->len - at);
            if (close == NULL || args.kind != JV_DICT)
                return jvm_fail(vm, "%% names a value, but there is no dict of values");
            struct jstr key = {s + at + 1, (size_t)(close - s) - at - 1, NULL, 0};
            const struct jval *found =
                jdict_find(vm, args.as.dict, (struct jval){.kind = JV_STR, .as.str = &key});
            if (found == NULL)
                return jvm_fail(vm, "%% names a value that is not there");
            v = *found;
            named = true;
            at = (size_t)(close - s) + 1;
        }
        at = read_conversion(s, at, format->len, &c);
        if (c.type == '%') {
            if (!jbuild_add(vm, &b, STR_LIT("%"), false))
                return false;
            continue;
        }
        if (v.kind == JV_MISSING) {
            if (used == count)
                return jvm_fail(vm, "not enough values for %%");
            v = tuple ? args.as.list->items[used] : args;
            used++;
        }
        if (!convert(vm, &b, &c, v))
            return false;
    }
    if (!named && used < count && args.kind != JV_DICT && args.kind != JV_LIST &&
        args.kind != JV_UNDEF)
        return jvm_fail(vm, "more values than %% takes");
    return jbuild_end(vm, &b, ret);
}

/* The value that {field} means; field: a number, a name or nothing, then .name and [key]. */
static bool field_value(struct jvm *vm, struct str field, const struct jargs *args, size_t *next,
                        struct jval *ret)
{
    size_t end = 0;
    while (end < field.len && field.data[end] != '\0' && strchr(".[!:", field.data[end]) == NULL)
        end++;
    int index = (int)*next;
    size_t digits = read_number(field.data, 0, end, &index);
    if (end == 0)
        index = (int)(*next)++;
    if (end == 0 || digits == end) {
        if ((size_t)index >= args->count)
            return jvm_fail(vm, "format has not enough values");
        *ret = args->items[index];
    } else {
        size_t k = 0;
        while (k < args->kws_count && !str_eq(args->kws[k].name, (struct str){field.data, end}))
            k++;
        if (k == args->kws_count)
            return jvm_fail(vm, "format names a value that is not there");
        *ret = args->kws[k].value;
    }
    if (end < field.len)
        return jvm_fail(vm, "format: only {}, {number} and {name} are supported");
    return true;
}

bool jtext_format(struct jvm *vm, const struct jstr *format, const struct jargs *args,
                  struct jval *ret)
{
    struct jbuild b = {0};
    const char *s = format->data;
    size_t next = 0, at = 0;
    while (at < format->len) {
        size_t end = at;
        while (end < format->len && s[end] != '{' && s[end] != '}')
            end++;
        if (!jbuild_add_part(vm, &b, format, at, end))
            return false;
        if (end == format->len)
            break;
        if (end + 1 < format->len && s[end + 1] == s[end]) {
            if (!jbuild_add_part(vm, &b, format, end, end + 1))
                return false;
            at = end + 2;
            continue;
        }
        const char *close = memchr(s + end, '}', format->len - end);
        struct jval v;
        if (s[end] == '}' || close == NULL)
            return jvm_fail(vm, "format has a single brace");
        struct str field = {s + end + 1, (size_t)(close - s) - end - 1};
        if (!field_value(vm, field, args, &next, &v) || !jtext_add(vm, &b, v))
            return false;
        at = (size_t)(close - s) + 1;
    }
    return jbuild_end(vm, &b, ret);
}
