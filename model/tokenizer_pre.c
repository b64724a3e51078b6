/* Cuts text into words before merging (pre-tokenization): one regular expression per name, by
 * PCRE2. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/log.h"
#include "base/size.h"
#include "model/tokenizer_impl.h"

/* Unicode's White_Space, written out: PCRE2's own \s also has U+180E. */
#define SPACES                                                                                     \
    "\\t-\\r "                                                                                     \
    "\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{3000}"
#define S     "[" SPACES "]"
#define NOT_S "[^" SPACES "]"

static const struct {
    const char *name;
    const char *pattern;
} patterns[] = {
    {"qwen2", "'(?:[sStTmMdD]|[rR][eE]|[vV][eE]|[lL][lL])"
              "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+"
              "|\\p{N}"
              "| ?[^" SPACES "\\p{L}\\p{N}]+[\\r\\n]*"
              "|" S "*[\\r\\n]+"
              "|" S "+(?!" NOT_S ")"
              "|" S "+"},
};

struct pretokenizer {
    pcre2_code *code;
};

struct pre_scan {
    const struct pretokenizer *pre;
    pcre2_match_data *data;
    pcre2_match_context *context;
    pcre2_jit_stack *stack;
};

static enum err unknown_name(struct str name, struct err_msg *why)
{
    char known[256];
    size_t len = 0;
    for (size_t i = 0; i < ARRAY_LEN(patterns) && len < sizeof(known); i++)
        len += (size_t)snprintf(known + len, sizeof(known) - len, "%s%s", i == 0 ? "" : ", ",
                                patterns[i].name);
    return err_set(why, ERR_UNSUPPORTED,
                   "pre-tokenizer '%.*s' is not supported (supported: %s); --pre-tokenizer NAME "
                   "takes another one",
                   (int)min_u64(name.len, 64), name.data, known);
}

enum err pretokenizer_create(struct str name, struct pretokenizer **ret, struct err_msg *why)
{
    const char *pattern = NULL;
    int number;
    PCRE2_SIZE offset;
    for (size_t i = 0; i < ARRAY_LEN(patterns); i++)
        if (str_eq(name, str_of(patterns[i].name)))
            pattern = patterns[i].pattern;
    if (pattern == NULL)
        return unknown_name(name, why);
    struct pretokenizer *p = calloc(1, sizeof(*p));
    if (p == NULL)
        return err_set(why, ERR_NOMEM, "out of memory for the pre-tokenizer");
    /* Anchored: a word begins where the last one ended, nothing is searched for. */
    p->code = pcre2_compile((PCRE2_SPTR)pattern, PCRE2_ZERO_TERMINATED,
                            PCRE2_UTF | PCRE2_UCP | PCRE2_ANCHORED, &number, &offset, NULL);
    if (p->code == NULL) {
        PCRE2_UCHAR text[128] = "";
        pcre2_get_error_message(number, text, sizeof(text));
        free(p);
        return err_set(why, ERR_INTERNAL, "pre-tokenizer '%.*s', position %zu: %s", STR_ARG(name),
                       (size_t)offset, (const char *)text);
    }
    number = pcre2_jit_compile(p->code, PCRE2_JIT_COMPLETE);
    if (number != 0)
        log_debug("pre-tokenizer without compiled code, going on slower error=%d", number);
    *ret = p;
    return ERR_OK;
}

void pretokenizer_destroy(struct pretokenizer **p)
{
    if (*p == NULL)
        return;
    pcre2_code_free((*p)->code);
    free(*p);
    *p = NULL;
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

enum err pre_scan_next(struct pre_scan *s, struct str text, size_t at, size_t *ret_len)
{
    PCRE2_SPTR subject = (PCRE2_SPTR)text.data;
    int n =
        pcre2_match(s->pre->code, subject, text.len, at, PCRE2_NO_UTF_CHECK, s->data, s->context);
    if (n == PCRE2_ERROR_JIT_STACKLIMIT) /* the interpreter keeps its frames on the heap */
        n = pcre2_match(s->pre->code, subject, text.len, at, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT,
                        s->data, s->context);
    if (n == PCRE2_ERROR_NOMATCH) { /* a character that no alternative takes is a word */
        size_t len = 1;
        while (at + len < text.len && ((unsigned char)text.data[at + len] & 0xc0) == 0x80)
            len++;
        *ret_len = len;
        return ERR_OK;
    }
    if (n == PCRE2_ERROR_NOMEMORY || n == PCRE2_ERROR_HEAPLIMIT)
        return ERR_NOMEM;
    if (n < 0)
        return ERR_INTERNAL;
    size_t end = pcre2_get_ovector_pointer(s->data)[1];
    if (end <= at)
        return ERR_INTERNAL;
    *ret_len = end - at;
    return ERR_OK;
}
