/* Methods of strings that make other text: case, replacing, joining, filling, classes of
 * characters. */
#include <string.h>

#include "model/jinja_impl.h"

#define METHOD(name)                                                                               \
    static bool name(struct jvm *vm, struct jval self, const struct jval *args,                    \
                     const struct jargs *raw, struct jval *ret)
#define UNUSED(x) (void)(x)

enum casing { CASE_UPPER, CASE_LOWER, CASE_TITLE, CASE_SWAP };

static bool is_cased(uint32_t c)
{
    return juni_is_upper(c) || juni_is_lower(c) || juni_is_title(c);
}

static bool add_cased(struct jvm *vm, struct jbuild *b, uint32_t c, enum casing how, bool user)
{
    uint32_t to[3];
    char text[4];
    if (how == CASE_SWAP)
        how = juni_is_upper(c) ? CASE_LOWER : CASE_UPPER;
    size_t n = how == CASE_UPPER   ? juni_upper(c, to)
               : how == CASE_LOWER ? juni_lower(c, to)
                                   : juni_title(c, to);
    for (size_t i = 0; i < n; i++)
        if (!jbuild_add(vm, b, (struct str){text, juni_put(text, to[i])}, user))
            return false;
    return true;
}

/* Greek's capital sigma at a word's end has another small letter. */
static bool ends_word(struct str s, size_t at, size_t after)
{
    uint32_t c;
    bool before = false;
    for (size_t p = 0; p < at;) {
        p += juni_next(s.data + p, s.len - p, &c);
        before = is_cased(c);
    }
    if (!before || after >= s.len)
        return before;
    juni_next(s.data + after, s.len - after, &c);
    return !is_cased(c);
}

/* The first character of each word (or of the text) as `first`, the others as `rest`. */
static bool change_case(struct jvm *vm, struct jval self, enum casing first, enum casing rest,
                        bool words, struct jval *ret)
{
    struct jbuild b = {0};
    struct str s = jval_str(self);
    bool inside = false, user = self.as.str->user_count > 0;
    for (size_t at = 0; at < s.len;) {
        uint32_t c;
        size_t n = juni_next(s.data + at, s.len - at, &c);
        enum casing how = inside ? rest : first;
        bool ok;
        if (!jvm_charge(vm, 1))
            return false;
        if (c == 0x3a3 && how == CASE_LOWER) {
            if (!jvm_charge(vm, s.len / 16))
                return false;
            ok = jbuild_add(
                vm, &b, ends_word(s, at, at + n) ? STR_LIT("\xcf\x82") : STR_LIT("\xcf\x83"), user);
        } else {
            ok = add_cased(vm, &b, c, how, user);
        }
        if (!ok)
            return false;
        inside = words ? is_cased(c) : true;
        at += n;
    }
    return jbuild_end(vm, &b, ret);
}

METHOD(str_upper)
{
    UNUSED(args);
    UNUSED(raw);
    return change_case(vm, self, CASE_UPPER, CASE_UPPER, false, ret);
}

METHOD(str_lower)
{
    UNUSED(args);
    UNUSED(raw);
    return change_case(vm, self, CASE_LOWER, CASE_LOWER, false, ret);
}

METHOD(str_title)
{
    UNUSED(args);
    UNUSED(raw);
    return change_case(vm, self, CASE_TITLE, CASE_LOWER, true, ret);
}

METHOD(str_capitalize)
{
    UNUSED(args);
    UNUSED(raw);
    return change_case(vm, self, CASE_TITLE, CASE_LOWER, false, ret);
}

METHOD(str_swapcase)
{
    UNUSED(args);
    UNUSED(raw);
    return change_case(vm, self, CASE_SWAP, CASE_SWAP, false, ret);
}

METHOD(str_replace)
{
    struct jbuild b = {0};
    const struct jstr *from, *to, *s = self.as.str;
    int64_t left;
    size_t begin = 0, at;
    UNUSED(raw);
    if (!jargs_str(vm, args[0], &from) || !jargs_str(vm, args[1], &to) ||
        !jargs_int(vm, args[2], -1, &left))
        return false;
    struct str text = {s->data, s->len}, part = {from->data, from->len};
    for (size_t search = 0; left != 0; left--) {
        if (!jstr_find(vm, text, part, search, &at))
            return false;
        if (at == SIZE_MAX)
            break;
        if (!jbuild_add_part(vm, &b, s, begin, at) || !jbuild_add_str(vm, &b, to))
            return false;
        begin = at + part.len;
        search = begin;
        if (part.len == 0) { /* before each character and at the end */
            if (begin == text.len)
                break;
            size_t n = jstr_offset((struct str){text.data + begin, text.len - begin}, 1);
            if (left - 1 == 0)
                continue;
            if (!jbuild_add_part(vm, &b, s, begin, begin + n))
                return false;
            begin = search = begin + n;
        }
    }
    return jbuild_add_part(vm, &b, s, begin, s->len) && jbuild_end(vm, &b, ret);
}

METHOD(str_join)
{
    struct jbuild b = {0};
    struct jval *items;
    size_t count;
    UNUSED(raw);
    if (args[0].kind == JV_UNDEF || !jval_iterate(vm, args[0], &items, &count))
        return jvm_fail_type(vm, args[0], "cannot be joined");
    for (size_t i = 0; i < count; i++) {
        const struct jstr *item;
        if (!jargs_str(vm, items[i], &item) || (i > 0 && !jbuild_add_str(vm, &b, self.as.str)) ||
            !jbuild_add_str(vm, &b, item))
            return false;
    }
    return jbuild_end(vm, &b, ret);
}

METHOD(str_format)
{
    UNUSED(args);
    return jtext_format(vm, self.as.str, raw, ret);
}

/* left, right: how many fill characters; out of width - length. */
static bool fill(struct jvm *vm, struct jval self, size_t left, size_t right, struct str with,
                 struct jval *ret)
{
    struct jbuild b = {0};
    if (left + right > vm->run->limits.memory_bytes)
        return jvm_nomem(vm);
    if (!jvm_charge(vm, left + right))
        return false;
    for (size_t i = 0; i < left; i++)
        if (!jbuild_add(vm, &b, with, false))
            return false;
    if (!jbuild_add_str(vm, &b, self.as.str))
        return false;
    for (size_t i = 0; i < right; i++)
        if (!jbuild_add(vm, &b, with, false))
            return false;
    return jbuild_end(vm, &b, ret);
}

/* How many characters are missing to the width in args[0]; the fill character in args[1]. */
static bool missing(struct jvm *vm, struct jval self, const struct jval *args, size_t *ret,
                    struct str *ret_with)
{
    int64_t width;
    size_t len;
    const struct jstr *with;
    if (!jargs_int(vm, args[0], 0, &width) || !jval_len(vm, self, &len))
        return false;
    *ret = width > 0 && (uint64_t)width > len ? (size_t)width - len : 0;
    *ret_with = STR_LIT(" ");
    if (args[1].kind == JV_MISSING)
        return true;
    if (!jargs_str(vm, args[1], &with))
        return false;
    *ret_with = (struct str){with->data, with->len};
    return jstr_chars(*ret_with) == 1 || jvm_fail(vm, "the fill character must be one character");
}

METHOD(str_center)
{
    size_t n, len;
    struct str with;
    UNUSED(raw);
    if (!missing(vm, self, args, &n, &with) || !jval_len(vm, self, &len))
        return false;
    size_t left =
        n / 2 + (n & (n + len) & 1); /* as CPython: an odd one goes left when the width is odd */
    return fill(vm, self, left, n - left, with, ret);
}

METHOD(str_ljust)
{
    size_t n;
    struct str with;
    UNUSED(raw);
    return missing(vm, self, args, &n, &with) && fill(vm, self, 0, n, with, ret);
}

METHOD(str_rjust)
{
    size_t n;
    struct str with;
    UNUSED(raw);
    return missing(vm, self, args, &n, &with) && fill(vm, self, n, 0, with, ret);
}

METHOD(str_zfill)
{
    const struct jval width[2] = {args[0], {.kind = JV_MISSING}};
    struct jval sign, rest, zeros;
    struct str with;
    size_t n;
    UNUSED(raw);
    if (!missing(vm, self, width, &n, &with))
        return false;
    const struct jstr *s = self.as.str;
    size_t skip = s->len > 0 && (s->data[0] == '-' || s->data[0] == '+');
    return jstr_part(vm, s, 0, skip, &sign) && jstr_part(vm, s, skip, s->len, &rest) &&
           fill(vm, rest, n, 0, STR_LIT("0"), &zeros) && jeval_add(vm, sign, zeros, ret);
}

static bool is_alnum(uint32_t c)
{
    return juni_is_alpha(c) || juni_is_digit(c);
}

static bool all_are(struct jval self, bool (*is)(uint32_t c), struct jval *ret)
{
    struct str s = jval_str(self);
    bool all = s.len > 0;
    for (size_t at = 0; all && at < s.len;) {
        uint32_t c;
        at += juni_next(s.data + at, s.len - at, &c);
        all = is(c);
    }
    *ret = jval_bool(all);
    return true;
}

#define CLASS_METHOD(name, is)                                                                     \
    METHOD(name)                                                                                   \
    {                                                                                              \
        UNUSED(args);                                                                              \
        UNUSED(raw);                                                                               \
        return jvm_charge(vm, self.as.str->len / 16) && all_are(self, is, ret);                    \
    }
CLASS_METHOD(str_isalpha, juni_is_alpha)
CLASS_METHOD(str_isdigit, juni_is_digit)
CLASS_METHOD(str_isalnum, is_alnum)
CLASS_METHOD(str_isspace, juni_is_space)

/* Some cased character, and none of the other case. */
static bool case_is(struct jvm *vm, struct jval self, bool upper, struct jval *ret)
{
    struct str s = jval_str(self);
    bool some = false, all = true;
    if (!jvm_charge(vm, s.len / 16))
        return false;
    for (size_t at = 0; all && at < s.len;) {
        uint32_t c;
        at += juni_next(s.data + at, s.len - at, &c);
        bool is = upper ? juni_is_upper(c) : juni_is_lower(c);
        some |= is;
        all = is || !is_cased(c);
    }
    *ret = jval_bool(some && all);
    return true;
}

METHOD(str_isupper)
{
    UNUSED(args);
    UNUSED(raw);
    return case_is(vm, self, true, ret);
}

METHOD(str_islower)
{
    UNUSED(args);
    UNUSED(raw);
    return case_is(vm, self, false, ret);
}

const struct jmethod_def jmethod_text_rows[] = {
    {JV_STR, {"upper", "", str_upper}},
    {JV_STR, {"lower", "", str_lower}},
    {JV_STR, {"casefold", "", str_lower}},
    {JV_STR, {"title", "", str_title}},
    {JV_STR, {"capitalize", "", str_capitalize}},
    {JV_STR, {"swapcase", "", str_swapcase}},
    {JV_STR, {"replace", "old new ?count", str_replace}},
    {JV_STR, {"join", "iterable", str_join}},
    {JV_STR, {"format", NULL, str_format}},
    {JV_STR, {"center", "width ?fillchar", str_center}},
    {JV_STR, {"ljust", "width ?fillchar", str_ljust}},
    {JV_STR, {"rjust", "width ?fillchar", str_rjust}},
    {JV_STR, {"zfill", "width", str_zfill}},
    {JV_STR, {"isalpha", "", str_isalpha}},
    {JV_STR, {"isdigit", "", str_isdigit}},
    {JV_STR, {"isdecimal", "", str_isdigit}},
    {JV_STR, {"isnumeric", "", str_isdigit}},
    {JV_STR, {"isalnum", "", str_isalnum}},
    {JV_STR, {"isspace", "", str_isspace}},
    {JV_STR, {"isupper", "", str_isupper}},
    {JV_STR, {"islower", "", str_islower}},
    {JV_UNDEF, {NULL, NULL, NULL}},
};
