/* Text to ids and back: cuts out special tokens; the rest is cut into words (tokenizer_pre.c) and
 * merged (tokenizer_bpe.c), or merged as a whole (tokenizer_spm.c). tokenizer_vocab.c and
 * tokenizer_special.c load the tables. */
#include "model/tokenizer.h"

#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/size.h"
#include "base/utf8.h"
#include "model/tokenizer_impl.h"

void tokens_free(struct tokens *t)
{
    free(t->ids);
    *t = (struct tokens){0};
}

enum err tokens_append(struct tokens *t, const uint32_t *ids, size_t count)
{
    if (count > t->cap - t->count) {
        uint64_t want, bytes;
        if (!size_add(t->count, count, &want))
            return ERR_NOMEM;
        want = max_u64(max_u64(want, 2 * (uint64_t)t->cap), 64);
        if (!size_mul(want, sizeof(*ids), &bytes))
            return ERR_NOMEM;
        uint32_t *grown = realloc(t->ids, (size_t)bytes);
        if (grown == NULL)
            return ERR_NOMEM;
        t->ids = grown;
        t->cap = (size_t)want;
    }
    if (count > 0)
        memcpy(t->ids + t->count, ids, count * sizeof(*ids));
    t->count += count;
    return ERR_OK;
}

/* The pre-tokenizer by the name given, or the file's, or "default". */
static enum err load_pre(struct tokenizer *t, const struct gguf *g, const char *pre_override,
                         struct err_msg *why)
{
    struct str name = str_of(pre_override);
    if (pre_override == NULL) {
        enum err e = gguf_get_str(g, "tokenizer.ggml.pre", &name, why);
        if (e == ERR_NOT_FOUND) {
            log_debug("file names no pre-tokenizer, using 'default', which may be wrong file=%s",
                      gguf_path(g));
            name = STR_LIT("default");
        } else if (e != ERR_OK) {
            return e;
        }
    }
    enum err e = pretokenizer_create(name, &t->pre, why);
    if (e != ERR_OK)
        return err_prefix(why, e, "%s", gguf_path(g));
    t->ignore_merges = (pretokenizer_flags(t->pre) & PRE_IGNORE_MERGES) != 0;
    return ERR_OK;
}

enum err tokenizer_create(const struct gguf *g, const char *pre_override, struct tokenizer **ret,
                          struct err_msg *why)
{
    struct tokenizer *t = calloc(1, sizeof(*t));
    if (t == NULL)
        return err_set(why, ERR_NOMEM, "%s: out of memory for the tokenizer", gguf_path(g));
    enum err e = vocab_load(t, g, why);
    if (e == ERR_OK && !t->spm)
        e = load_pre(t, g, pre_override, why);
    if (e == ERR_OK)
        e = special_load(t, g, why);
    if (e != ERR_OK) {
        tokenizer_destroy(&t);
        return e;
    }
    *ret = t;
    return ERR_OK;
}

void tokenizer_destroy(struct tokenizer **p)
{
    struct tokenizer *t = *p;
    if (t == NULL)
        return;
    pretokenizer_destroy(&t->pre);
    free(t->merge_table.slots);
    free(t->key_table.slots);
    arena_free(&t->arena);
    free(t);
    *p = NULL;
}

uint32_t tokenizer_vocab_size(const struct tokenizer *t)
{
    return t->vocab;
}

int64_t tokenizer_bos(const struct tokenizer *t)
{
    return t->bos;
}

int64_t tokenizer_eos(const struct tokenizer *t)
{
    return t->eos;
}

bool tokenizer_adds_bos(const struct tokenizer *t)
{
    return t->adds_bos;
}

bool tokenizer_adds_eos(const struct tokenizer *t)
{
    return t->adds_eos;
}

const uint32_t *tokenizer_end_tokens(const struct tokenizer *t, size_t *ret_count)
{
    *ret_count = t->end_tokens_count;
    return t->end_tokens;
}

struct str tokenizer_piece(const struct tokenizer *t, uint32_t id)
{
    return id < t->vocab ? t->pieces[id] : (struct str){"", 0};
}

bool tokenizer_is_control(const struct tokenizer *t, uint32_t id)
{
    return id < t->vocab && (t->types[id] == TOKEN_CONTROL || t->types[id] == TOKEN_UNKNOWN);
}

enum err tokenizer_decode(const struct tokenizer *t, const uint32_t *ids, size_t count,
                          bool with_special, struct buf *out)
{
    size_t begin = out->len;
    for (size_t i = 0; i < count; i++) {
        struct str piece = tokenizer_piece(t, ids[i]);
        if (tokenizer_is_control(t, ids[i]) && !with_special)
            continue;
        if (i == 0 && t->space_prefix && piece.len > 0 && piece.data[0] == ' ')
            piece = (struct str){piece.data + 1, piece.len - 1};
        enum err e = buf_append(out, piece.data, piece.len);
        if (e != ERR_OK) {
            out->len = begin;
            return e;
        }
    }
    return ERR_OK;
}

/* One encoding under way. */
struct encoder {
    const struct tokenizer *t;
    struct pre_scan *scan;
    struct bpe_scratch bpe;
    struct spm_scratch spm;
    bool after_text; /* what came last was text, not a special token */
    struct tokens *out;
};

/* Text without special tokens. */
static enum err encode_plain(struct encoder *e, struct str text)
{
    struct str word;
    if (text.len == 0)
        return ERR_OK;
    if (e->t->spm) {
        bool prefix = e->t->space_prefix && !e->after_text;
        e->after_text = true;
        return spm_encode(e->t, &e->spm, text, prefix, e->out);
    }
    pre_scan_begin(e->scan, text);
    for (;;) {
        enum err err = pre_scan_next(e->scan, &word);
        if (err != ERR_OK || word.len == 0)
            return err;
        err = bpe_encode(e->t, &e->bpe, word, e->out);
        if (err != ERR_OK)
            return err;
    }
}

/* Narrows specials[*low..*high), which agree in their first `depth` bytes and are longer, to those
 * with the byte c next. */
static void narrow(const struct tokenizer *t, size_t *low, size_t *high, size_t depth,
                   unsigned char c)
{
    size_t a = *low, b = *high;
    while (a < b) { /* first with a byte >= c */
        size_t middle = a + (b - a) / 2;
        if ((unsigned char)t->pieces[t->specials[middle]].data[depth] < c)
            a = middle + 1;
        else
            b = middle;
    }
    *low = a;
    b = *high;
    while (a < b) { /* first with a byte > c */
        size_t middle = a + (b - a) / 2;
        if ((unsigned char)t->pieces[t->specials[middle]].data[depth] <= c)
            a = middle + 1;
        else
            b = middle;
    }
    *high = a;
}

/* The longest special token at text[at]. Those that are not user-defined count only if they end at
 * or before control_end. */
static bool find_special(const struct tokenizer *t, struct str text, size_t at, size_t control_end,
                         uint32_t *ret_id)
{
    size_t low = 0, high = t->specials_count;
    bool found = false;
    if (!t->special_first[(unsigned char)text.data[at]])
        return false;
    for (size_t depth = 0; low < high && at + depth < text.len;) {
        narrow(t, &low, &high, depth, (unsigned char)text.data[at + depth]);
        depth++;
        /* A token that ends here is the first of its range; a second one with the same text never
         * wins. */
        for (bool first = true; low < high && t->pieces[t->specials[low]].len == depth;
             low++, first = false) {
            uint32_t id = t->specials[low];
            if (first && (t->types[id] == TOKEN_USER_DEFINED || at + depth <= control_end)) {
                *ret_id = id;
                found = true;
            }
        }
    }
    return found;
}

static size_t count_spaces(struct str text, size_t at)
{
    size_t n = 0;
    while (at + n < text.len &&
           (text.data[at + n] == ' ' || (text.data[at + n] >= '\t' && text.data[at + n] <= '\r')))
        n++;
    return n;
}

static enum err encode_text(struct encoder *e, struct str text, const struct text_range *ranges,
                            size_t ranges_count)
{
    size_t begin = 0, range = 0;
    enum err err = ERR_OK;
    for (size_t at = 0; at < text.len;) {
        uint32_t id;
        while (range < ranges_count && ranges[range].end <= at)
            range++;
        bool inside = range < ranges_count && ranges[range].begin <= at;
        if (!find_special(e->t, text, at, inside ? ranges[range].end : at, &id)) {
            at++;
            continue;
        }
        err = encode_plain(e, (struct str){text.data + begin, at - begin});
        if (err == ERR_OK)
            err = tokens_append(e->out, &id, 1);
        if (err != ERR_OK)
            return err;
        e->after_text = false;
        begin = at += e->t->pieces[id].len;
        if (e->t->strips_right != NULL && e->t->strips_right[id])
            begin = at += count_spaces(text, at);
    }
    return encode_plain(e, (struct str){text.data + begin, text.len - begin});
}

enum err tokenizer_encode_ranges(const struct tokenizer *t, struct str text, bool add_bos,
                                 const struct text_range *ranges, size_t ranges_count,
                                 struct tokens *out, struct err_msg *why)
{
    struct encoder e = {.t = t, .out = out};
    size_t count_before = out->count;
    enum err err = ERR_OK;
    if (text.len == 0)
        text.data = "";
    if (text.len > TOKENIZER_MAX_TEXT_BYTES)
        return err_set(why, ERR_RANGE, "a text of %zu bytes, expected at most %d", text.len,
                       TOKENIZER_MAX_TEXT_BYTES);
    /* Checked once here, so that PCRE2 need not check it again at every word. */
    size_t valid = utf8_valid_prefix(text.data, text.len);
    if (valid < text.len)
        return err_set(why, ERR_FORMAT, "invalid UTF-8 at byte %zu", valid);
    if (add_bos && t->adds_bos) {
        uint32_t bos = (uint32_t)t->bos;
        err = tokens_append(out, &bos, 1);
    }
    if (err == ERR_OK && !t->spm)
        err = pre_scan_create(t->pre, &e.scan);
    if (err == ERR_OK)
        err = encode_text(&e, text, ranges, ranges_count);
    if (err != ERR_OK) {
        out->count = count_before;
        err = err_set(why, err, "cannot tokenize %zu bytes: %s", text.len, err_name(err));
    }
    pre_scan_destroy(&e.scan);
    bpe_scratch_free(&e.bpe);
    spm_scratch_free(&e.spm);
    return err;
}

enum err tokenizer_encode(const struct tokenizer *t, struct str text,
                          struct tokenizer_encode_options o, struct tokens *out,
                          struct err_msg *why)
{
    struct text_range all = {0, text.len};
    size_t count_before = out->count;
    enum err e =
        tokenizer_encode_ranges(t, text, o.add_bos, &all, o.parse_special ? 1 : 0, out, why);
    if (e != ERR_OK || !o.add_eos || !t->adds_eos)
        return e;
    uint32_t eos = (uint32_t)t->eos;
    e = tokens_append(out, &eos, 1);
    if (e != ERR_OK) {
        out->count = count_before;
        e = err_set(why, e, "cannot tokenize %zu bytes: %s", text.len, err_name(e));
    }
    return e;
}
