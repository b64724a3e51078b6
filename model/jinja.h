/* Chat templates in Jinja: the part of the language that templates use, as Jinja2's sandbox with
 * trim_blocks, lstrip_blocks, loop controls and Hugging Face's tojson, raise_exception,
 * strftime_now and generation blocks does it.
 *
 * A template comes from an untrusted file. It sees the values it is given and nothing else: no
 * files, no environment, no attributes but dictionary keys and the listed methods; its size,
 * nesting, steps, memory and output are limited.
 *
 * Values keep apart, byte by byte, what came from a user (`user` when made) and what the template
 * wrote, through concatenation, slicing, stripping, splitting, replacing; whatever else is computed
 * from a user's text is wholly the user's.
 *
 * Not here: includes, inheritance, imports (a clear error each). */
#ifndef OCTO_MODEL_JINJA_H
#define OCTO_MODEL_JINJA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#include "base/arena.h"
#include "base/buf.h"
#include "base/err.h"
#include "base/str.h"

enum jval_kind {
    JV_UNDEF,
    JV_NONE,
    JV_BOOL,
    JV_INT,
    JV_FLOAT,
    JV_STR,
    JV_LIST,
    JV_TUPLE,
    JV_RANGE, /* as.list, made at once */
    JV_VIEW,  /* dict.items() and so on: a length, no index */
    JV_ITER,  /* what map, select and so on give: once through */
    JV_DICT,
    JV_NAMESPACE,
    JV_LOOP,
    JV_MACRO,
    JV_METHOD,
    JV_GLOBAL,
    JV_MISSING, /* an argument not given */
};

struct jstr;
struct jlist;
struct jdict;

struct jval {
    uint8_t kind;   /* enum jval_kind */
    bool markup;    /* JV_STR that went through `safe` */
    uint16_t index; /* JV_GLOBAL, JV_METHOD: which */
    union {
        bool boolean;
        int64_t integer;
        double real;
        const struct jstr *str;
        struct jlist *list;
        struct jdict *dict; /* JV_NAMESPACE too */
        struct jloop *loop;
        struct jmacro *macro;
        struct jmethod *method;
    } as;
};

/* A range of bytes that a user wrote. */
struct jspan {
    size_t begin, end;
};
struct jstr {
    const char *data;
    size_t len;
    const struct jspan *user; /* in order, disjoint, none empty */
    size_t user_count;
};
struct jlist {
    struct jval *items;
    size_t count;
    size_t at;        /* JV_ITER: how far it was read */
    int64_t range[3]; /* JV_RANGE: start, stop, step */
};
struct jentry {
    struct jval key, value;
};
struct jdict {
    struct jentry *entries;
    size_t count, cap;
};

/* Values for a render, in an arena. The text is borrowed. ERR_NOMEM is the only error. */
enum err jinja_make_str(struct arena *a, struct str text, bool user, struct jval *ret) MUST_CHECK;
/* Room for count items (JV_NONE each), to be filled through ret->as.list->items. */
enum err jinja_make_list(struct arena *a, size_t count, struct jval *ret) MUST_CHECK;
/* The same, through ret->as.dict->entries. Keys are strings, none twice. */
enum err jinja_make_dict(struct arena *a, size_t count, struct jval *ret) MUST_CHECK;

struct jinja; /* compiled; immutable; thread-safe */

/* ERR_FORMAT: not a template, with the line. ERR_UNSUPPORTED: a statement that is left out.
 * ERR_RANGE: too large. */
enum err jinja_compile(struct str source, struct jinja **ret, struct err_msg *why) MUST_CHECK;
void jinja_destroy(struct jinja **t);

struct jinja_variable {
    const char *name;
    struct jval value;
};
struct jinja_limits {
    uint64_t steps;
    size_t memory_bytes, output_bytes;
};
struct jinja_run {
    const struct jinja_variable *variables;
    size_t variables_count;
    struct tm now; /* strftime_now */
    struct jinja_limits limits;
};
/* The output and which parts of it a user wrote, in `a`, whose limit is set here.
 * ERR_FORMAT: what the template does is an error, with its line; *ret_raised (may be NULL) says
 * whether it was the template's own raise_exception, whose message `why` then is. ERR_RANGE: a
 * limit, with the line. */
enum err jinja_render(const struct jinja *t, const struct jinja_run *run, struct arena *a,
                      struct jstr *ret, bool *ret_raised, struct err_msg *why) MUST_CHECK;

#endif
