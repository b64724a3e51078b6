/* Tests: what stands after `is`. */
#include <math.h>

#include "model/jinja_impl.h"

#define TEST(name)                                                                                 \
    static bool name(struct jvm *vm, struct jval self, const struct jval *args,                    \
                     const struct jargs *raw, struct jval *ret)
#define UNUSED(x) (void)(x)

/* A test that is a condition on the value alone. */
#define SIMPLE(name, condition)                                                                    \
    TEST(name)                                                                                     \
    {                                                                                              \
        UNUSED(vm);                                                                                \
        UNUSED(args);                                                                              \
        UNUSED(raw);                                                                               \
        *ret = jval_bool(condition);                                                               \
        return true;                                                                               \
    }

static bool has_items(struct jval v)
{
    return v.kind == JV_LIST || v.kind == JV_TUPLE || v.kind == JV_RANGE || v.kind == JV_STR ||
           v.kind == JV_DICT;
}

static bool is_callable(struct jval v)
{
    return v.kind == JV_MACRO || v.kind == JV_METHOD || v.kind == JV_GLOBAL || v.kind == JV_LOOP;
}

SIMPLE(defined, self.kind != JV_UNDEF)
SIMPLE(undefined, self.kind == JV_UNDEF)
SIMPLE(none, self.kind == JV_NONE)
SIMPLE(boolean, self.kind == JV_BOOL)
SIMPLE(true_, self.kind == JV_BOOL && self.as.boolean)
SIMPLE(false_, self.kind == JV_BOOL && !self.as.boolean)
SIMPLE(integer, self.kind == JV_INT)
SIMPLE(float_, self.kind == JV_FLOAT)
SIMPLE(number, self.kind == JV_INT || self.kind == JV_FLOAT || self.kind == JV_BOOL)
SIMPLE(string, self.kind == JV_STR)
SIMPLE(mapping, self.kind == JV_DICT)
/* Jinja2's Undefined has a length and can be iterated over. */
SIMPLE(sequence, has_items(self) || self.kind == JV_UNDEF)
SIMPLE(iterable, has_items(self) || self.kind == JV_UNDEF || self.kind == JV_ITER ||
                     self.kind == JV_VIEW || self.kind == JV_LOOP)
SIMPLE(callable, is_callable(self) || self.kind == JV_UNDEF)

static bool remainder_of(struct jvm *vm, struct jval v, struct jval by, double *ret)
{
    double x, y;
    if (!jval_as_number(v, &x) || !jval_as_number(by, &y))
        return jvm_fail_type(vm, v.kind == JV_FLOAT || jval_is_int(v) ? by : v, "is no number");
    if (y == 0)
        return jvm_fail(vm, "division by zero");
    if (jval_is_int(v) && jval_is_int(by)) {
        int64_t d = jval_integer(by);
        *ret = d == -1 ? 0 : (double)(jval_integer(v) % d);
    } else {
        *ret = fmod(x, y);
    }
    return true;
}

TEST(odd)
{
    double r;
    UNUSED(args);
    UNUSED(raw);
    if (!remainder_of(vm, self, jval_int(2), &r))
        return false;
    *ret = jval_bool(r == 1 || r == -1);
    return true;
}

TEST(even)
{
    double r;
    UNUSED(args);
    UNUSED(raw);
    if (!remainder_of(vm, self, jval_int(2), &r))
        return false;
    *ret = jval_bool(r == 0);
    return true;
}

TEST(divisibleby)
{
    double r;
    UNUSED(raw);
    if (!remainder_of(vm, self, args[0], &r))
        return false;
    *ret = jval_bool(r == 0);
    return true;
}

static bool of_case(struct jvm *vm, struct jval self, const char *method, struct jval *ret)
{
    static const struct jargs no_args;
    struct jval text;
    return jtext_str(vm, self, &text) &&
           jargs_call(vm, &jmethod_find(JV_STR, str_of(method))->f, text, &no_args, ret);
}

TEST(upper)
{
    UNUSED(args);
    UNUSED(raw);
    return of_case(vm, self, "isupper", ret);
}

TEST(lower)
{
    UNUSED(args);
    UNUSED(raw);
    return of_case(vm, self, "islower", ret);
}

TEST(in)
{
    bool is;
    UNUSED(raw);
    if (!jval_contains(vm, args[0], self, &is))
        return false;
    *ret = jval_bool(is);
    return true;
}

/* The same object: for what templates ask, constants and the value itself. */
TEST(sameas)
{
    bool is;
    UNUSED(raw);
    if (!jval_equal(vm, self, args[0], &is))
        return false;
    if (self.kind == JV_LIST || self.kind == JV_TUPLE || self.kind == JV_DICT)
        is = self.kind == args[0].kind && self.as.list == args[0].as.list;
    *ret = jval_bool(is && self.kind == args[0].kind);
    return true;
}

static bool known(struct jval self, const struct jfunction_def *(*find)(struct str name),
                  struct jval *ret)
{
    *ret = jval_bool(self.kind == JV_STR && find(jval_str(self)) != NULL);
    return true;
}

TEST(filter)
{
    UNUSED(vm);
    UNUSED(args);
    UNUSED(raw);
    return known(self, jfilter_find, ret);
}

TEST(test)
{
    UNUSED(vm);
    UNUSED(args);
    UNUSED(raw);
    return known(self, jtest_find, ret);
}

/* ask: equal or less; of the two in this order or the other; the answer or its contrary. */
static bool compared(struct jvm *vm, struct jval a, struct jval b, bool less, bool want,
                     struct jval *ret)
{
    bool is;
    if (!(less ? jval_less(vm, a, b, &is) : jval_equal(vm, a, b, &is)))
        return false;
    *ret = jval_bool(is == want);
    return true;
}

TEST(eq)
{
    UNUSED(raw);
    return compared(vm, self, args[0], false, true, ret);
}

TEST(ne)
{
    UNUSED(raw);
    return compared(vm, self, args[0], false, false, ret);
}

TEST(lt)
{
    UNUSED(raw);
    return compared(vm, self, args[0], true, true, ret);
}

TEST(gt)
{
    UNUSED(raw);
    return compared(vm, args[0], self, true, true, ret);
}

TEST(le)
{
    UNUSED(raw);
    return compared(vm, args[0], self, true, false, ret);
}

TEST(ge)
{
    UNUSED(raw);
    return compared(vm, self, args[0], true, false, ret);
}

static const struct jfunction_def rows[] = {
    {"defined", "", defined},
    {"undefined", "", undefined},
    {"none", "", none},
    {"boolean", "", boolean},
    {"true", "", true_},
    {"false", "", false_},
    {"integer", "", integer},
    {"float", "", float_},
    {"number", "", number},
    {"string", "", string},
    {"mapping", "", mapping},
    {"sequence", "", sequence},
    {"iterable", "", iterable},
    {"callable", "", callable},
    {"odd", "", odd},
    {"even", "", even},
    {"divisibleby", "num", divisibleby},
    {"upper", "", upper},
    {"lower", "", lower},
    {"in", "seq", in},
    {"sameas", "other", sameas},
    {"filter", "", filter},
    {"test", "", test},
    {"eq", "other", eq},
    {"equalto", "other", eq},
    {"==", "other", eq},
    {"ne", "other", ne},
    {"!=", "other", ne},
    {"lt", "other", lt},
    {"lessthan", "other", lt},
    {"<", "other", lt},
    {"gt", "other", gt},
    {"greaterthan", "other", gt},
    {">", "other", gt},
    {"le", "other", le},
    {"<=", "other", le},
    {"ge", "other", ge},
    {">=", "other", ge},
    {NULL, NULL, NULL},
};

const struct jfunction_def *jtest_find(struct str name)
{
    for (const struct jfunction_def *f = rows; f->name != NULL; f++)
        if (str_eq(name, str_of(f->name)))
            return f;
    return NULL;
}
