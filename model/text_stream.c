/* Token ids to text, piece by piece.
 *
 * Bytes go through two stages. First UTF-8: whole characters pass, the beginning of one waits in
 * `partial`, bytes that can never become one turn into U+FFFD. Then the stop strings: each has an
 * automaton (Knuth, Morris, Pratt) that says after every byte how many bytes of it the text ends
 * with. A complete one ends the text; the longest incomplete one is how much text is held back. So
 * the result depends on the bytes only, not on how tokens cut them: the stop string that ends first
 * wins, and among those the longest. */
#include "model/text_stream.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "base/size.h"
#include "base/utf8.h"

struct stop {
    const char *text;
    size_t len;
    uint32_t *fallback; /* [len] longest proper border of text[0..i] */
    size_t matched;     /* how many bytes of it the text ends with; < len */
};

struct text_stream {
    const struct tokenizer *tok;
    struct arena arena;
    struct stop *stops;
    size_t stops_count;
    struct buf text;
    size_t sure; /* of text */
    char partial[4];
    size_t partial_len;
    bool stopped;
};

static const char replacement[] = "\xef\xbf\xbd";

static void compute_fallback(struct stop *s)
{
    size_t k = 0;
    for (size_t i = 1; i < s->len; i++) {
        while (k > 0 && s->text[i] != s->text[k])
            k = s->fallback[k - 1];
        k += s->text[i] == s->text[k];
        s->fallback[i] = (uint32_t)k;
    }
}

enum err text_stream_create(const struct tokenizer *tok, const struct str *stops,
                            size_t stops_count, struct text_stream **ret)
{
    enum err e = ERR_NOMEM;
    struct text_stream *s = calloc(1, sizeof(*s));
    if (s == NULL)
        return ERR_NOMEM;
    s->tok = tok;
    s->stops = arena_alloc(&s->arena, stops_count, sizeof(*s->stops));
    if (s->stops == NULL)
        goto fail;
    s->stops_count = stops_count;
    for (size_t i = 0; i < stops_count; i++) {
        struct stop *stop = &s->stops[i];
        stop->len = stops[i].len;
        /* An empty one would end every text; one that is no UTF-8 could cut a character in two. */
        if (stop->len == 0 || stop->len > UINT32_MAX || !utf8_is_valid(stops[i].data, stop->len)) {
            e = ERR_FORMAT;
            goto fail;
        }
        stop->text = arena_copy(&s->arena, stops[i].data, stop->len);
        stop->fallback = arena_alloc(&s->arena, stop->len, sizeof(*stop->fallback));
        if (stop->text == NULL || stop->fallback == NULL)
            goto fail;
        compute_fallback(stop);
    }
    *ret = s;
    return ERR_OK;
fail:
    text_stream_destroy(&s);
    return e;
}

void text_stream_destroy(struct text_stream **p)
{
    struct text_stream *s = *p;
    if (s == NULL)
        return;
    buf_free(&s->text);
    arena_free(&s->arena);
    free(s);
    *p = NULL;
}

/* Moves a stop string's automaton by one byte; true when it is complete. */
static bool stop_step(struct stop *s, char c)
{
    while (s->matched > 0 && s->text[s->matched] != c)
        s->matched = s->fallback[s->matched - 1];
    s->matched += s->text[s->matched] == c;
    if (s->matched < s->len)
        return false;
    s->matched = s->fallback[s->len - 1];
    return true;
}

/* Appends whole characters; may end the text. */
static enum err add_text(struct text_stream *s, const char *bytes, size_t len, bool may_stop)
{
    size_t held = 0;
    size_t begin = s->text.len;
    enum err e = buf_append(&s->text, bytes, len);
    if (e != ERR_OK)
        return e;
    for (size_t i = 0; i < len; i++) {
        size_t longest = 0;
        for (size_t j = 0; j < s->stops_count; j++)
            if (stop_step(&s->stops[j], bytes[i]) && s->stops[j].len > longest)
                longest = s->stops[j].len;
        if (longest > 0 && may_stop) {
            s->text.len = begin + i + 1 - longest;
            s->sure = s->text.len;
            s->stopped = true;
            return ERR_OK;
        }
    }
    for (size_t j = 0; j < s->stops_count; j++)
        held = max_u64(held, s->stops[j].matched);
    s->sure = max_u64(s->sure, s->text.len - held);
    return ERR_OK;
}

/* Length of the invalid piece at p that one U+FFFD replaces: as long as it could still have become
 * a character. */
static size_t invalid_len(const char *p, size_t len)
{
    size_t n = 1;
    while (n < len && n < 3 && utf8_is_partial(p, n + 1))
        n++;
    return utf8_is_partial(p, n) ? n : 1;
}

static enum err add_bytes(struct text_stream *s, const char *bytes, size_t len, bool may_stop)
{
    enum err e = ERR_OK;
    while (e == ERR_OK && len > 0 && !s->stopped) {
        size_t n = utf8_valid_prefix(bytes, len);
        if (n > 0) {
            e = add_text(s, bytes, n, may_stop);
        } else if (utf8_is_partial(bytes, len)) {
            memcpy(s->partial, bytes, len);
            s->partial_len = len;
            return ERR_OK;
        } else {
            n = invalid_len(bytes, len);
            e = add_text(s, replacement, sizeof(replacement) - 1, may_stop);
        }
        bytes += n;
        len -= n;
    }
    return e;
}

enum err text_stream_push(struct text_stream *s, uint32_t id, bool may_stop, bool *ret_stopped)
{
    struct str piece = tokenizer_piece(s->tok, id);
    enum err e = ERR_OK;
    if (!s->stopped && !tokenizer_is_control(s->tok, id) && piece.len > 0) {
        if (s->partial_len == 0) {
            e = add_bytes(s, piece.data, piece.len, may_stop);
        } else {
            struct buf joined = {0};
            e = buf_append(&joined, s->partial, s->partial_len);
            if (e == ERR_OK)
                e = buf_append(&joined, piece.data, piece.len);
            if (e == ERR_OK) {
                s->partial_len = 0;
                e = add_bytes(s, joined.data, joined.len, may_stop);
            }
            buf_free(&joined);
        }
    }
    if (e == ERR_OK)
        *ret_stopped = s->stopped;
    return e;
}

struct str text_stream_text(const struct text_stream *s)
{
    return (struct str){s->sure == 0 ? "" : s->text.data, s->sure};
}

enum err text_stream_finish(struct text_stream *s)
{
    if (s->stopped)
        return ERR_OK;
    if (s->partial_len > 0) {
        enum err e = buf_append(&s->text, replacement, sizeof(replacement) - 1);
        if (e != ERR_OK)
            return e;
        s->partial_len = 0;
    }
    s->sure = s->text.len;
    return ERR_OK;
}
