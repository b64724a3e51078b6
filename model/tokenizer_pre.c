/* Cuts text into words before merging (pre-tokenization), with the regular expressions of
 * tokenizer_pre_table.c, one after another, by PCRE2.
 *
 * Level k holds one piece from level k - 1 (level 0 the whole text) and hands out what its
 * expression matches in it, and what lies between. A piece is a text of its own: nothing looks
 * beyond its ends. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <stdlib.h>

#include "base/log.h"
#include "base/size.h"
#include "model/tokenizer_pre.h"

struct pretokenizer {
    const struct pre_definition *definition;
    pcre2_code *codes[PRE_MAX_PATTERNS];
    size_t count;
};

struct level {
    size_t begin, end; /* of the piece, in the text */
    size_t at;         /* handed out up to here */
    size_t match_end;  /* > at: the match that begins at `at` is known */
};

struct pre_scan {
    const struct pretokenizer *pre;
    struct str text;
    struct level levels[PRE_MAX_PATTERNS];
    pcre2_match_data *data;
    pcre2_match_context *context;
    pcre2_jit_stack *stack;
};

static enum err compile(const char *pattern, struct str name, pcre2_code **ret, struct err_msg *why)
{
    int number;
    PCRE2_SIZE offset;
    pcre2_code *code = pcre2_compile((PCRE2_SPTR)pattern, PCRE2_ZERO_TERMINATED,
                                     PCRE2_UTF | PCRE2_UCP, &number, &offset, NULL);
    if (code == NULL) {
        PCRE2_UCHAR text[128] = "";
        pcre2_get_error_message(number, text, sizeof(text));
        return err_set(why, ERR_INTERNAL, "pre-tokenizer '%.*s', position %zu: %s", STR_ARG(name),
                       (size_t)offset, (const char *)text);
    }
    number = pcre2_jit_compile(code, PCRE2_JIT_COMPLETE);
    if (number != 0)
        log_debug("pre-tokenizer without compiled code, going on slower error=%d", number);
    *ret = code;
    return ERR_OK;
}

enum err pretokenizer_create(struct str name, struct pretokenizer **ret, struct err_msg *why)
{
    const struct pre_definition *d = pre_find(name);
    if (d == NULL)
        return pre_unknown(name, why);
    struct pretokenizer *p = calloc(1, sizeof(*p));
    if (p == NULL)
        return err_set(why, ERR_NOMEM, "out of memory for the pre-tokenizer");
    p->definition = d;
    for (; p->count < PRE_MAX_PATTERNS && d->patterns[p->count] != NULL; p->count++) {
        enum err e = compile(d->patterns[p->count], name, &p->codes[p->count], why);
        if (e != ERR_OK) {
            pretokenizer_destroy(&p);
            return e;
        }
    }
    *ret = p;
    return ERR_OK;
}

void pretokenizer_destroy(struct pretokenizer **p)
{
    if (*p == NULL)
        return;
    for (size_t i = 0; i < (*p)->count; i++)
        pcre2_code_free((*p)->codes[i]);
    free(*p);
    *p = NULL;
}

unsigned pretokenizer_flags(const struct pretokenizer *p)
{
    return p->definition->flags;
}

enum err pre_scan_create(const struct pretokenizer *p, struct pre_scan **ret)
{
    struct pre_scan *s = calloc(1, sizeof(*s));
    if (s == NULL)
        return ERR_NOMEM;
    s->pre = p;
    s->data = pcre2_match_data_create(1, NULL);
    s->context = pcre2_match_context_create(NULL);
    s->stack = pcre2_jit_stack_create(32 << 10, 1 << 20, NULL);
    if (s->data == NULL || s->context == NULL) {
        pre_scan_destroy(&s);
        return ERR_NOMEM;
    }
    /* The patterns are ours and take linear time; the limits would only refuse long texts. */
    pcre2_set_match_limit(s->context, UINT32_MAX);
    pcre2_set_depth_limit(s->context, UINT32_MAX);
    pcre2_set_heap_limit(s->context, UINT32_MAX);
    if (s->stack != NULL) /* NULL also without JIT: the machine's stack does then */
        pcre2_jit_stack_assign(s->context, NULL, s->stack);
    *ret = s;
    return ERR_OK;
}

void pre_scan_destroy(struct pre_scan **p)
{
    struct pre_scan *s = *p;
    if (s == NULL)
        return;
    pcre2_match_data_free(s->data);
    pcre2_match_context_free(s->context);
    pcre2_jit_stack_free(s->stack);
    free(s);
    *p = NULL;
}

void pre_scan_begin(struct pre_scan *s, struct str text)
{
    s->text = text;
    for (size_t k = 0; k < s->pre->count; k++)
        s->levels[k] = (struct level){0};
    s->levels[0].end = text.len;
}

/* The first match of level k's expression in what is left of its piece; none: an empty one at the
 * piece's end. */
static enum err find(struct pre_scan *s, size_t k, size_t *ret_begin, size_t *ret_end)
{
    const struct level *l = &s->levels[k];
    PCRE2_SPTR subject = (PCRE2_SPTR)s->text.data + l->begin;
    size_t len = l->end - l->begin, start = l->at - l->begin;
    int n =
        pcre2_match(s->pre->codes[k], subject, len, start, PCRE2_NO_UTF_CHECK, s->data, s->context);
    if (n == PCRE2_ERROR_JIT_STACKLIMIT) /* the interpreter keeps its frames on the heap */
        n = pcre2_match(s->pre->codes[k], subject, len, start, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT,
                        s->data, s->context);
    if (n == PCRE2_ERROR_NOMATCH) {
        *ret_begin = *ret_end = l->end;
        return ERR_OK;
    }
    if (n == PCRE2_ERROR_NOMEMORY || n == PCRE2_ERROR_HEAPLIMIT)
        return ERR_NOMEM;
    const size_t *range = pcre2_get_ovector_pointer(s->data);
    if (n < 0 || range[1] <= range[0])
        return ERR_INTERNAL;
    *ret_begin = l->begin + range[0];
    *ret_end = l->begin + range[1];
    return ERR_OK;
}

/* Hands out the next piece of level k, whose own piece is not used up. */
static enum err take(struct pre_scan *s, size_t k, size_t *ret_begin, size_t *ret_end)
{
    struct level *l = &s->levels[k];
    size_t begin = l->at, end = l->match_end;
    if (end <= begin) {
        size_t match, match_end;
        enum err e = find(s, k, &match, &match_end);
        if (e != ERR_OK)
            return e;
        end = match > begin ? match : match_end;
        l->match_end = match_end;
    }
    l->at = end;
    *ret_begin = begin;
    *ret_end = end;
    return ERR_OK;
}

enum err pre_scan_next(struct pre_scan *s, struct str *ret)
{
    size_t last = s->pre->count - 1, k = last, begin = 0, end = 0;
    while (k > 0 && s->levels[k].at == s->levels[k].end)
        k--;
    if (s->levels[k].at == s->levels[k].end) {
        *ret = (struct str){s->text.data, 0};
        return ERR_OK;
    }
    for (;; k++) {
        enum err e = take(s, k, &begin, &end);
        if (e != ERR_OK)
            return e;
        if (k == last)
            break;
        s->levels[k + 1] = (struct level){.begin = begin, .end = end, .at = begin};
    }
    *ret = (struct str){s->text.data + begin, end - begin};
    return ERR_OK;
}
