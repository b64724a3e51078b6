/* Expressions: operators and what holds them together. Access, calls and functions are elsewhere.
 */
#include <math.h>
#include <string.h>

#include "model/jinja_impl.h"

static bool eval_name(struct jvm *vm, const struct jnode *n, struct jval *ret)
{
    for (const struct jscope *s = vm->scope; s != NULL; s = s->parent)
        for (uint32_t i = 0; i < s->count; i++)
            if (s->vars[i].symbol == n->symbol) {
                *ret = s->vars[i].value;
                return true;
            }
    if (n->symbol < JG_COUNT)
        *ret = (struct jval){.kind = JV_GLOBAL, .index = (uint16_t)n->symbol};
    else
        *ret = n->value;
    return true;
}

static bool eval_list(struct jvm *vm, const struct jnode *n, enum jval_kind kind, struct jval *ret)
{
    struct jval list;
    if (!jval_list(vm, kind, n->items.count, &list))
        return false;
    for (size_t i = 0; i < n->items.count; i++)
        if (!jeval(vm, n->items.items[i], &list.as.list->items[i]))
            return false;
    *ret = list;
    return true;
}

static bool eval_dict(struct jvm *vm, const struct jnode *n, struct jval *ret)
{
    struct jval dict, key, value;
    if (!jdict_new(vm, n->items.count / 2, &dict))
        return false;
    for (size_t i = 0; i < n->items.count; i += 2)
        if (!jeval(vm, n->items.items[i], &key) || !jeval(vm, n->items.items[i + 1], &value) ||
            !jdict_set(vm, dict.as.dict, key, value))
            return false;
    *ret = dict;
    return true;
}

static bool escaped(struct jvm *vm, struct jbuild *b, const struct jval v, bool markup)
{
    static const char from[] = "&<>'\"";
    static const char *const to[] = {"&amp;", "&lt;", "&gt;", "&#39;", "&#34;"};
    const struct jstr *s = v.as.str;
    size_t begin = 0;
    if (!markup || v.markup)
        return jbuild_add_str(vm, b, s);
    for (size_t i = 0; i < s->len; i++) {
        const char *hit = s->data[i] != '\0' ? strchr(from, s->data[i]) : NULL;
        if (hit == NULL)
            continue;
        if (!jbuild_add_part(vm, b, s, begin, i) ||
            !jbuild_add(vm, b, str_of(to[hit - from]), s->user_count > 0))
            return false;
        begin = i + 1;
    }
    return jbuild_add_part(vm, b, s, begin, s->len);
}

static bool join_lists(struct jvm *vm, struct jval a, struct jval b, struct jval *ret)
{
    size_t n = a.as.list->count, m = b.as.list->count;
    struct jval list;
    if (!jval_list(vm, (enum jval_kind)a.kind, n + m, &list))
        return false;
    memcpy(list.as.list->items, a.as.list->items, n * sizeof(struct jval));
    memcpy(list.as.list->items + n, b.as.list->items, m * sizeof(struct jval));
    *ret = list;
    return true;
}

static bool bad_operands(struct jvm *vm, const char *op, struct jval a, struct jval b)
{
    if (a.kind == JV_UNDEF || b.kind == JV_UNDEF)
        return jvm_fail_type(vm, a.kind == JV_UNDEF ? a : b, op);
    return jvm_fail(vm, "%s and %s have no %s", jval_type(a), jval_type(b), op);
}

static bool too_large(struct jvm *vm)
{
    return jvm_limit(vm, "an integer has more than 63 bits");
}

bool jeval_add(struct jvm *vm, struct jval a, struct jval b, struct jval *ret)
{
    double x, y;
    int64_t sum;
    if (a.kind == JV_STR && b.kind == JV_STR) {
        struct jbuild text = {0};
        bool markup = a.markup || b.markup;
        text.cap = a.as.str->len + b.as.str->len;
        if ((text.cap > 0 && (text.data = jvm_alloc(vm, text.cap, 1)) == NULL) ||
            !escaped(vm, &text, a, markup) || !escaped(vm, &text, b, markup) ||
            !jbuild_end(vm, &text, ret))
            return false;
        ret->markup = markup;
        return true;
    }
    if (jval_is_int(a) && jval_is_int(b)) {
        if (__builtin_add_overflow(jval_integer(a), jval_integer(b), &sum))
            return too_large(vm);
        *ret = jval_int(sum);
        return true;
    }
    if (jval_as_number(a, &x) && jval_as_number(b, &y)) {
        *ret = jval_float(x + y);
        return true;
    }
    if (a.kind == b.kind && (a.kind == JV_LIST || a.kind == JV_TUPLE))
        return join_lists(vm, a, b, ret);
    return bad_operands(vm, "'+'", a, b);
}

/* Text or a list, several times. */
static bool repeat(struct jvm *vm, struct jval v, int64_t times, struct jval *ret)
{
    size_t n = times > 0 ? (size_t)times : 0,
           len = v.kind == JV_STR ? v.as.str->len : v.as.list->count;
    if (len > 0 && n > vm->run->limits.memory_bytes / len)
        return jvm_nomem(vm);
    if (!jvm_charge(vm, n))
        return false;
    if (v.kind == JV_STR) {
        struct jbuild b = {0};
        for (size_t i = 0; i < n && len > 0; i++)
            if (!jbuild_add_str(vm, &b, v.as.str))
                return false;
        return jbuild_end(vm, &b, ret);
    }
    struct jval list;
    if (!jval_list(vm, (enum jval_kind)v.kind, n * len, &list))
        return false;
    for (size_t i = 0; i < n && len > 0; i++)
        memcpy(list.as.list->items + i * len, v.as.list->items, len * sizeof(struct jval));
    *ret = list;
    return true;
}

static bool int_power(struct jvm *vm, int64_t base, int64_t exponent, struct jval *ret)
{
    int64_t result = 1;
    if (base >= -1 && base <= 1) /* would go on for ever */
        exponent = exponent == 0 ? 0 : 2 - exponent % 2;
    for (; exponent > 0; exponent--)
        if (__builtin_mul_overflow(result, base, &result))
            return too_large(vm);
    *ret = jval_int(result);
    return true;
}

static bool int_arithmetic(struct jvm *vm, uint16_t op, int64_t a, int64_t b, struct jval *ret)
{
    int64_t r = 0;
    bool overflow = false;
    switch (op) {
    case JOP('-', 0):
        overflow = __builtin_sub_overflow(a, b, &r);
        break;
    case JOP('*', 0):
        overflow = __builtin_mul_overflow(a, b, &r);
        break;
    case JOP('*', '*'):
        return int_power(vm, a, b, ret);
    default: /* // and %, which round down */
        if (b == -1) {
            overflow = op != JOP('%', 0) && __builtin_sub_overflow(0, a, &r);
            break;
        }
        r = op == JOP('%', 0) ? a % b : a / b;
        if (a % b != 0 && (a < 0) != (b < 0))
            r += op == JOP('%', 0) ? b : -1;
    }
    if (overflow)
        return too_large(vm);
    *ret = jval_int(r);
    return true;
}

static bool arithmetic(struct jvm *vm, uint16_t op, struct jval a, struct jval b, struct jval *ret)
{
    double x, y;
    char name[8] = {'\'', (char)(op & 0xff), (char)(op >> 8), 0};
    strcat(name, "'");
    if (!jval_as_number(a, &x) || !jval_as_number(b, &y))
        return bad_operands(vm, name, a, b);
    bool divides = op == JOP('/', 0) || op == JOP('/', '/') || op == JOP('%', 0);
    if (y == 0 && divides)
        return jvm_fail(vm, "division by zero");
    if (jval_is_int(a) && jval_is_int(b) && op != JOP('/', 0) &&
        !(op == JOP('*', '*') && jval_integer(b) < 0))
        return int_arithmetic(vm, op, jval_integer(a), jval_integer(b), ret);
    double r;
    switch (op) {
    case JOP('-', 0):
        r = x - y;
        break;
    case JOP('*', 0):
        r = x * y;
        break;
    case JOP('/', 0):
        r = x / y;
        break;
    case JOP('*', '*'):
        if (x == 0 && y < 0)
            return jvm_fail(vm, "division by zero");
        r = pow(x, y);
        break;
    default:
        r = fmod(x, y);
        if (r != 0 && (r < 0) != (y < 0))
            r += y;
        if (op == JOP('/', '/'))
            r = floor((x - r) / y + 0.5);
    }
    *ret = jval_float(r);
    return true;
}

static bool eval_binary(struct jvm *vm, const struct jnode *n, struct jval *ret)
{
    struct jval a, b;
    if (!jeval(vm, n->a, &a) || !jeval(vm, n->b, &b))
        return false;
    vm->line = n->line;
    if (n->op == JOP('+', 0))
        return jeval_add(vm, a, b, ret);
    bool repeats_a = a.kind == JV_STR || a.kind == JV_LIST || a.kind == JV_TUPLE;
    bool repeats_b = b.kind == JV_STR || b.kind == JV_LIST || b.kind == JV_TUPLE;
    if (n->op == JOP('*', 0) && repeats_a && jval_is_int(b))
        return repeat(vm, a, jval_integer(b), ret);
    if (n->op == JOP('*', 0) && repeats_b && jval_is_int(a))
        return repeat(vm, b, jval_integer(a), ret);
    if (n->op == JOP('%', 0) && a.kind == JV_STR)
        return jtext_percent(vm, a.as.str, b, ret);
    return arithmetic(vm, n->op, a, b, ret);
}

static bool compare_one(struct jvm *vm, uint16_t op, struct jval a, struct jval b, bool *ret)
{
    bool less, equal;
    switch (op) {
    case JOP('=', '='):
        return jval_equal(vm, a, b, ret);
    case JOP('!', '='):
        if (!jval_equal(vm, a, b, ret))
            return false;
        *ret = !*ret;
        return true;
    case JOP('i', 0):
        return jval_contains(vm, b, a, ret);
    case JOP('n', 0):
        if (!jval_contains(vm, b, a, ret))
            return false;
        *ret = !*ret;
        return true;
    case JOP('<', 0):
        return jval_less(vm, a, b, ret);
    case JOP('>', 0):
        return jval_less(vm, b, a, ret);
    default:
        if (!(op == JOP('<', '=') ? jval_less(vm, a, b, &less) : jval_less(vm, b, a, &less)) ||
            !jval_equal(vm, a, b, &equal))
            return false;
        *ret = less || equal;
        return true;
    }
}

static bool eval_compare(struct jvm *vm, const struct jnode *n, struct jval *ret)
{
    struct jval a, b;
    bool holds = true;
    if (!jeval(vm, n->a, &a))
        return false;
    for (size_t i = 0; holds && i < n->items.count; i++) {
        const struct jnode *operand = n->items.items[i];
        if (!jeval(vm, operand->a, &b))
            return false;
        vm->line = n->line;
        if (!compare_one(vm, operand->op, a, b, &holds))
            return false;
        a = b;
    }
    *ret = jval_bool(holds);
    return true;
}

static bool eval_concat(struct jvm *vm, const struct jnode *n, struct jval *ret)
{
    struct jbuild b = {0};
    for (size_t i = 0; i < n->items.count; i++) {
        struct jval v;
        if (!jeval(vm, n->items.items[i], &v) || !jtext_add(vm, &b, v))
            return false;
    }
    return jbuild_end(vm, &b, ret);
}

static bool eval_sign(struct jvm *vm, const struct jnode *n, struct jval *ret)
{
    struct jval v;
    int64_t i;
    if (!jeval(vm, n->a, &v))
        return false;
    if (v.kind == JV_FLOAT) {
        *ret = jval_float(n->kind == JN_NEG ? -v.as.real : v.as.real);
        return true;
    }
    if (!jval_is_int(v))
        return jvm_fail_type(vm, v, "has no sign");
    i = jval_integer(v);
    if (n->kind == JN_NEG && __builtin_sub_overflow(0, i, &i))
        return too_large(vm);
    *ret = jval_int(i);
    return true;
}

static bool eval_item(struct jvm *vm, const struct jnode *n, struct jval *ret)
{
    struct jval v, key, bounds[3];
    if (!jeval(vm, n->a, &v))
        return false;
    if (n->b->kind == JN_SLICE) {
        const struct jnode *parts[3] = {n->b->a, n->b->b, n->b->c};
        for (int i = 0; i < 3; i++) {
            bounds[i].kind = JV_NONE;
            if (parts[i] != NULL && !jeval(vm, parts[i], &bounds[i]))
                return false;
        }
        vm->line = n->line;
        return jaccess_slice(vm, v, bounds, ret);
    }
    if (!jeval(vm, n->b, &key))
        return false;
    vm->line = n->line;
    return jaccess_item(vm, v, key, ret);
}

static bool eval_attr(struct jvm *vm, const struct jnode *n, struct jval *ret)
{
    struct jval v;
    if (!jeval(vm, n->a, &v))
        return false;
    vm->line = n->line;
    if (!jaccess_attr(vm, v, n->name, ret))
        return false;
    if (ret->kind == JV_UNDEF)
        *ret = n->value;
    return true;
}

static bool eval_branch(struct jvm *vm, const struct jnode *n, struct jval *ret)
{
    struct jval v;
    if (!jeval(vm, n->a, &v))
        return false;
    bool yes = jval_truth(v);
    if (n->kind == JN_COND) {
        const struct jnode *branch = yes ? n->b : n->c;
        *ret = (struct jval){.kind = JV_UNDEF};
        return branch == NULL || jeval(vm, branch, ret);
    }
    if (n->kind == JN_NOT)
        *ret = jval_bool(!yes);
    else if (yes == (n->kind == JN_OR))
        *ret = v;
    else
        return jeval(vm, n->b, ret);
    return true;
}

static bool eval_kind(struct jvm *vm, const struct jnode *n, struct jval *ret)
{
    struct jval v;
    switch ((enum jnode_kind)n->kind) {
    case JN_CONST:
        *ret = n->value;
        return true;
    case JN_NAME:
        return eval_name(vm, n, ret);
    case JN_LIST:
        return eval_list(vm, n, JV_LIST, ret);
    case JN_TUPLE:
        return eval_list(vm, n, JV_TUPLE, ret);
    case JN_DICT:
        return eval_dict(vm, n, ret);
    case JN_ATTR:
        return eval_attr(vm, n, ret);
    case JN_ITEM:
        return eval_item(vm, n, ret);
    case JN_CALL:
        return jeval_call(vm, n, NULL, ret);
    case JN_FILTER:
    case JN_TEST:
        return jeval(vm, n->a, &v) && jeval_filter(vm, n, v, ret);
    case JN_NEG:
    case JN_POS:
        return eval_sign(vm, n, ret);
    case JN_BINARY:
        return eval_binary(vm, n, ret);
    case JN_COMPARE:
        return eval_compare(vm, n, ret);
    case JN_NOT:
    case JN_AND:
    case JN_OR:
    case JN_COND:
        return eval_branch(vm, n, ret);
    case JN_CONCAT:
        return eval_concat(vm, n, ret);
    default:
        return jvm_fail(vm, "an expression that is none");
    }
}

bool jeval(struct jvm *vm, const struct jnode *n, struct jval *ret)
{
    if (!jvm_enter(vm) || !jvm_charge(vm, 1))
        return false;
    vm->line = n->line;
    bool ok = eval_kind(vm, n, ret);
    vm->depth--;
    return ok;
}
