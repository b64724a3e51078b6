/* The interpreter's insides: the tree, the machine that runs it, and what its files give each
 * other.
 *
 * Functions that can fail return false after jvm_fail() (or, in the parser, jparse_fail()) noted
 * the first error. */
#ifndef OCTO_MODEL_JINJA_IMPL_H
#define OCTO_MODEL_JINJA_IMPL_H

#include "model/jinja.h"

enum {
    JINJA_MAX_SOURCE_BYTES = 512 << 10,
    JINJA_MAX_PARSE_DEPTH = 150, /* nesting of what the parser recurses into */
    JINJA_MAX_NODE_DEPTH = 250,  /* of the tree, where chains like a + b + c add up */
    JINJA_MAX_RUN_DEPTH = 1500,  /* the tree, macros that call themselves, nested values */
    JINJA_MAX_RANGE = 100000,    /* as Jinja2's sandbox */
    JINJA_ARENA_BYTES = 64 << 20 /* a compiled template */
};

/* ---- tokens (jinja_lex.c) ---- */
enum jtok_kind {
    JT_TEXT, /* what is outside of tags, white space control done */
    JT_VAR_BEGIN,
    JT_VAR_END,
    JT_BLOCK_BEGIN,
    JT_BLOCK_END,
    JT_NAME,
    JT_STRING, /* escapes resolved */
    JT_INT,
    JT_FLOAT,
    JT_OP,
    JT_EOF,
};
/* An operator's one or two characters in one number. */
#define JOP(a, b) ((uint16_t)((unsigned char)(a) | (unsigned char)(b) << 8))
struct jtok {
    uint8_t kind;
    uint16_t op;
    uint32_t line;
    struct str text;
    int64_t integer;
    double real;
};
struct jtok_list {
    struct jtok *items;
    size_t count, cap;
};
/* Everything in `a`; the last token is JT_EOF. */
enum err jlex_run(struct str source, struct arena *a, struct jtok_list *ret,
                  struct err_msg *why) MUST_CHECK;

/* ---- the tree (jinja_parse.c, jinja_parse_expr.c) ---- */
enum jnode_kind {
    /* Expressions. */
    JN_CONST,   /* value */
    JN_NAME,    /* symbol */
    JN_LIST,    /* items */
    JN_TUPLE,   /* items */
    JN_DICT,    /* items: key, value, key, value ... */
    JN_ATTR,    /* a . name */
    JN_ITEM,    /* a [ b ] */
    JN_SLICE,   /* a : b : c (NULL: left out), only as JN_ITEM's b */
    JN_CALL,    /* a ( args ) */
    JN_FILTER,  /* a (NULL in a filter block) | name ( args ) */
    JN_TEST,    /* a is name ( args ) */
    JN_NOT,     /* a */
    JN_NEG,     /* a */
    JN_POS,     /* a */
    JN_BINARY,  /* a op b */
    JN_COMPARE, /* a, then items with their op */
    JN_OPERAND, /* op a, one of a JN_COMPARE's items */
    JN_AND,     /* a, b */
    JN_OR,      /* a, b */
    JN_CONCAT,  /* items */
    JN_COND,    /* b if a else c (c may be NULL) */
    JN_KEYWORD, /* name = a, among a call's items */
    JN_NSREF,   /* symbol . name, a target only */
    /* Statements. */
    JN_TEXT,         /* value */
    JN_OUTPUT,       /* a */
    JN_IF,           /* a, body, b: the next JN_IF or the body (JN_BODY) of else */
    JN_BODY,         /* body */
    JN_FOR,          /* a target in b if c (NULL), body, other; op: recursive */
    JN_SET,          /* a target, b value */
    JN_SET_BLOCK,    /* a target, b filter (NULL), body */
    JN_MACRO,        /* symbol, params (names), items (defaults of the last ones), body */
    JN_CALL_BLOCK,   /* a call, b a JN_MACRO */
    JN_FILTER_BLOCK, /* a filter, body */
    JN_WITH,         /* items: target, value, ...; body */
    JN_SCOPE,        /* body (generation) */
    JN_BREAK,
    JN_CONTINUE,
};

struct jnode_list {
    struct jnode **items;
    size_t count, cap;
};

struct jnode {
    uint8_t kind;
    uint16_t op;
    uint16_t depth; /* of the tree below, itself included */
    uint32_t line;
    uint32_t symbol;
    struct str name;
    struct jval value;
    struct jnode *a, *b, *c;
    struct jnode_list items;       /* positional first, then JN_KEYWORD, in calls */
    struct jnode *star, *starstar; /* *args, **kwargs of calls */
    struct jnode_list body, other;
    uint32_t *params;
    size_t params_count;
    bool takes_varargs, takes_kwargs, takes_caller;
    const void *target; /* JN_FILTER, JN_TEST: the table's row, NULL: unknown */
};

/* Names that are always there; their symbols are 0, 1, ... */
#define JINJA_GLOBALS(X)                                                                           \
    X(RANGE, "range")                                                                              \
    X(NAMESPACE, "namespace")                                                                      \
    X(DICT, "dict")                                                                                \
    X(RAISE, "raise_exception")                                                                    \
    X(STRFTIME, "strftime_now")
enum jglobal {
#define X(name, text) JG_##name,
    JINJA_GLOBALS(X)
#undef X
        JG_COUNT,
    JSYM_LOOP = JG_COUNT,
    JSYM_CALLER,
    JSYM_VARARGS,
    JSYM_KWARGS,
    JSYM_FIRST_FREE,
};

struct jinja {
    struct arena arena;
    struct jnode_list body;
    struct str *symbols;
    size_t symbols_count, symbols_cap;
};

struct jparser {
    struct jinja *t;
    struct jtok *tok; /* the current one */
    unsigned depth;
    unsigned loops;      /* for statements around, inside the innermost macro */
    struct jnode *macro; /* the innermost */
    struct err_msg *why;
    enum err e;
};
/* Notes the first error with the token's line; returns NULL. */
void *jparse_fail(struct jparser *p, uint32_t line, const char *fmt, ...) PRINTF_LIKE(3, 4);
/* The same with another error and a text of its own. */
void *jparse_fail_as(struct jparser *p, enum err e, uint32_t line, const char *text);
struct jnode *jparse_node(struct jparser *p, enum jnode_kind kind, uint32_t line);
bool jparse_append(struct jparser *p, struct jnode_list *list, struct jnode *n);
/* Sets n's depth from its children; NULL when it is too deep. */
struct jnode *jparse_seal(struct jparser *p, struct jnode *n);
bool jparse_symbol(struct jparser *p, struct str name, uint32_t *ret);
bool jparse_enter(struct jparser *p);
bool jparse_is_name(const struct jparser *p, const char *name);
bool jparse_is_op(const struct jparser *p, uint16_t op);
bool jparse_skip_op(struct jparser *p, uint16_t op);
bool jparse_skip_name(struct jparser *p, const char *name);
bool jparse_expect_op(struct jparser *p, uint16_t op);
struct jnode *jparse_constant(struct jparser *p, struct jval v);
/* The node's value: undefined, with the name for messages. */
bool jparse_undefined(struct jparser *p, struct jnode *n);
/* NULL on failure. */
struct jnode *jparse_expr(struct jparser *p, bool with_condition);
struct jnode *jparse_primary(struct jparser *p);
/* Expressions with commas are a tuple; `end` (may be NULL): a name that ends it. */
struct jnode *jparse_tuple(struct jparser *p, bool simple, bool with_condition, const char *end,
                           bool in_parentheses);
/* Filters after node; start: the filter's name comes at once, without a bar. */
struct jnode *jparse_filters(struct jparser *p, struct jnode *node, bool start);

/* jinja_check.c: filters and tests that are not there, outside of conditions (inside, they are
 * errors when they run). */
bool jcheck_names(struct jparser *p, const struct jnode_list *body, bool soft);

/* ---- the machine ---- */
struct jvar {
    uint32_t symbol;
    struct jval value;
};
struct jscope {
    struct jscope *parent;
    struct jvar *vars;
    uint32_t count, cap;
};

/* A string under construction. */
struct jbuild {
    char *data;
    size_t len, cap;
    struct jspan *spans;
    size_t spans_count, spans_cap;
};

struct jvm {
    const struct jinja *t;
    const struct jinja_run *run;
    struct arena *arena;
    struct jscope *scope;
    struct jbuild *out;
    uint64_t steps_left;
    unsigned depth;
    uint32_t line;
    enum err e;
    bool raised;
    struct err_msg why;
};

struct jloop {
    struct jval *items;
    size_t count; /* of items */
    size_t at;    /* the next item to look at */
    size_t turns; /* begun */
    bool has_next, ended;
    bool filtered; /* items are to be asked the loop's condition */
    struct jval next, current, previous;
    unsigned level;
    const struct jnode *node;
    struct jscope *scope; /* around the loop */
    struct jlist *changed;
};
struct jmacro {
    const struct jnode *node;
    struct jscope *scope; /* where it was defined */
    struct str name;
};
struct jmethod_def;
struct jmethod {
    struct jval self;
    const struct jmethod_def *def; /* NULL: one of the loop's, by name */
    struct str name;
};

struct jkw {
    struct str name;
    struct jval value;
};
struct jargs {
    struct jval *items;
    size_t count;
    struct jkw *kws;
    size_t kws_count;
};

/* Notes the first error; returns false. e: ERR_FORMAT for what is wrong, ERR_RANGE for limits. */
bool jvm_fail(struct jvm *vm, const char *fmt, ...) PRINTF_LIKE(2, 3);
/* "'x' is undefined", or "a list cannot be called" (what: "cannot be called"). */
bool jvm_fail_type(struct jvm *vm, struct jval v, const char *what);
bool jvm_limit(struct jvm *vm, const char *what);
bool jvm_nomem(struct jvm *vm);
bool jvm_charge(struct jvm *vm, uint64_t steps);
bool jvm_enter(struct jvm *vm); /* vm->depth-- goes with every success */
void *jvm_alloc(struct jvm *vm, size_t count, size_t size);

/* ---- values (jinja_value.c, jinja_string.c) ---- */
const char *jval_type(struct jval v); /* for messages */
bool jval_truth(struct jval v);
bool jval_equal(struct jvm *vm, struct jval a, struct jval b, bool *ret);
/* a < b; false: an error (no order between them). */
bool jval_less(struct jvm *vm, struct jval a, struct jval b, bool *ret);
bool jval_contains(struct jvm *vm, struct jval container, struct jval item, bool *ret);
bool jval_has_user(struct jvm *vm, struct jval v, bool *ret);
bool jval_len(struct jvm *vm, struct jval v, size_t *ret);
/* What a for loop goes over: items of lists, keys of dicts, characters. A JV_ITER is used up. */
bool jval_iterate(struct jvm *vm, struct jval v, struct jval **ret, size_t *ret_count);
bool jval_list(struct jvm *vm, enum jval_kind kind, size_t count, struct jval *ret);
bool jval_pair(struct jvm *vm, struct jval a, struct jval b, struct jval *ret);
bool jval_as_number(struct jval v, double *ret);
const struct jval *jdict_find(struct jvm *vm, const struct jdict *d, struct jval key);
bool jdict_set(struct jvm *vm, struct jdict *d, struct jval key, struct jval value);
bool jdict_new(struct jvm *vm, size_t cap, struct jval *ret);
struct str jval_str(struct jval v); /* of a JV_STR */
static inline struct jval jval_bool(bool b)
{
    return (struct jval){.kind = JV_BOOL, .as.boolean = b};
}
static inline struct jval jval_int(int64_t i)
{
    return (struct jval){.kind = JV_INT, .as.integer = i};
}
static inline struct jval jval_float(double f)
{
    return (struct jval){.kind = JV_FLOAT, .as.real = f};
}
static inline bool jval_is_int(struct jval v)
{
    return v.kind == JV_INT || v.kind == JV_BOOL;
}
static inline int64_t jval_integer(struct jval v)
{
    return v.kind == JV_BOOL ? v.as.boolean : v.as.integer;
}

bool jbuild_add(struct jvm *vm, struct jbuild *b, struct str text, bool user);
bool jbuild_add_str(struct jvm *vm, struct jbuild *b, const struct jstr *s);
/* Bytes [begin, end) of s with their marks. */
bool jbuild_add_part(struct jvm *vm, struct jbuild *b, const struct jstr *s, size_t begin,
                     size_t end);
bool jbuild_end(struct jvm *vm, struct jbuild *b, struct jval *ret);
bool jstr_new(struct jvm *vm, struct str text, bool user, struct jval *ret);
bool jstr_part(struct jvm *vm, const struct jstr *s, size_t begin, size_t end, struct jval *ret);
size_t jstr_chars(struct str s);
/* Byte offset of a character's index; s.len when it is beyond the end. */
size_t jstr_offset(struct str s, size_t chars);
bool jstr_find(struct jvm *vm, struct str text, struct str part, size_t from, size_t *ret);
/* str.strip: chars NULL is white space; sides: 1 left, 2 right. */
struct jspan jstr_strip(struct str s, const struct str *chars, int sides);

/* ---- text of values (jinja_text.c, jinja_json.c) ---- */
/* str(): appended to b; a JV_UNDEF is nothing. */
bool jtext_add(struct jvm *vm, struct jbuild *b, struct jval v);
bool jtext_str(struct jvm *vm, struct jval v, struct jval *ret);
bool jtext_repr(struct jvm *vm, struct jbuild *b, struct jval v, bool user);
enum { JTEXT_FLOAT_BYTES = 40 };
size_t jtext_float(double f, char out[JTEXT_FLOAT_BYTES]);
/* "..." % args and str.format. */
bool jtext_percent(struct jvm *vm, const struct jstr *format, struct jval args, struct jval *ret);
bool jtext_format(struct jvm *vm, const struct jstr *format, const struct jargs *args,
                  struct jval *ret);
struct jjson {
    bool ascii, sort;
    const char *indent; /* NULL: one line */
    struct str item_separator, key_separator;
};
bool jjson_write(struct jvm *vm, struct jval v, const struct jjson *o, struct jval *ret);

/* ---- running (jinja_run.c, jinja_loop.c, jinja_eval.c, jinja_access.c, jinja_call.c) ---- */
bool jrun_body(struct jvm *vm, const struct jnode_list *body, int *ret_flow);
enum { JFLOW_ON, JFLOW_BREAK, JFLOW_CONTINUE };
bool jrun_capture(struct jvm *vm, const struct jnode_list *body, struct jval *ret);
bool jrun_assign(struct jvm *vm, const struct jnode *target, struct jval v);
bool jrun_push(struct jvm *vm, struct jscope **ret_before);
bool jrun_set(struct jvm *vm, uint32_t symbol, struct jval v);
bool jloop_run(struct jvm *vm, const struct jnode *n, struct jval iterable, unsigned level,
               int *ret_flow);
bool jloop_attr(struct jvm *vm, struct jval loop, struct str name, struct jval *ret);
bool jloop_call(struct jvm *vm, struct jloop *l, struct str name, const struct jargs *args,
                struct jval *ret);
bool jeval(struct jvm *vm, const struct jnode *n, struct jval *ret);
bool jeval_call(struct jvm *vm, const struct jnode *n, const struct jval *caller, struct jval *ret);
bool jeval_filter(struct jvm *vm, const struct jnode *n, struct jval value, struct jval *ret);
bool jeval_add(struct jvm *vm, struct jval a, struct jval b, struct jval *ret);
/* env.getattr(v, name), env.getitem(v, key). */
bool jaccess_attr(struct jvm *vm, struct jval v, struct str name, struct jval *ret);
bool jaccess_item(struct jvm *vm, struct jval v, struct jval key, struct jval *ret);
bool jaccess_slice(struct jvm *vm, struct jval v, const struct jval bounds[3], struct jval *ret);
bool jcall(struct jvm *vm, struct jval callee, const struct jargs *args, struct jval *ret);
bool jcall_macro(struct jvm *vm, const struct jmacro *m, const struct jargs *args,
                 struct jval *ret);

/* ---- filters, tests, methods (jinja_filter*.c, jinja_test.c, jinja_method.c) ---- */
enum { JARGS_MAX = 5 };
/* args: names in order, optional ones with a '?' before; a call's arguments are bound to them,
 * JV_MISSING where not given. NULL: the function looks at `raw` itself. */
typedef bool jfunction(struct jvm *vm, struct jval self, const struct jval *args,
                       const struct jargs *raw, struct jval *ret);
struct jfunction_def {
    const char *name;
    const char *args;
    jfunction *run;
};
struct jmethod_def {
    enum jval_kind kind;
    struct jfunction_def f;
};
const struct jfunction_def *jfilter_find(struct str name);
const struct jfunction_def *jtest_find(struct str name);
/* Each ends with a NULL name. */
extern const struct jmethod_def jmethod_text_rows[], jmethod_seq_rows[];
const struct jmethod_def *jmethod_find(enum jval_kind kind, struct str name);
bool jargs_call(struct jvm *vm, const struct jfunction_def *f, struct jval self,
                const struct jargs *args, struct jval *ret);
/* Checked arguments; missing ones give `or`. */
bool jargs_int(struct jvm *vm, struct jval v, int64_t or, int64_t *ret);
bool jargs_str(struct jvm *vm, struct jval v, const struct jstr **ret);
/* Rows of the two files of filters, each ending with a NULL name. */
extern const struct jfunction_def jfilter_text_rows[], jfilter_seq_rows[], jfilter_pick_rows[];
/* attribute: None or missing is the item itself; "a.b" and numbers go down. */
bool jfilter_attribute(struct jvm *vm, struct jval item, struct jval attribute, struct jval *ret);
bool jfilter_sort(struct jvm *vm, struct jval *items, const struct jval *keys, size_t count,
                  bool reverse);
bool jfilter_lower_key(struct jvm *vm, struct jval v, struct jval *ret);

/* ---- characters, as Python's str sees them (jinja_unicode.c) ---- */
/* Length of the character at text (len > 0); a byte that is none is U+DC00 + byte. */
size_t juni_next(const char *text, size_t len, uint32_t *ret);
size_t juni_put(char out[4], uint32_t c);
bool juni_is_space(uint32_t c);
bool juni_is_alpha(uint32_t c);
bool juni_is_digit(uint32_t c);
bool juni_is_upper(uint32_t c);
bool juni_is_lower(uint32_t c);
bool juni_is_title(uint32_t c);
bool juni_is_printable(uint32_t c);
/* How many characters in out. */
size_t juni_upper(uint32_t c, uint32_t out[3]);
size_t juni_lower(uint32_t c, uint32_t out[3]);
size_t juni_title(uint32_t c, uint32_t out[3]);

#endif
