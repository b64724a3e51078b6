/* Loads what of a vocabulary is not text: special tokens, the ids by role (bos, eos, ...), the
 * tokens that end a generation, flags. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/size.h"
#include "model/gguf_impl.h"
#include "model/tokenizer_impl.h"

/* Tokens that end a generation in the models that have them, by name. `always`: also where the
 * file forgot to call them control tokens (some converters do). */
static const struct {
    const char *name;
    bool always;
} end_names[] = {
    {"<|im_end|>", true},
    {"<|endoftext|>", true},
    {"<|eot_id|>", true},
    {"<|eom_id|>", true},
    {"<|end|>", true},
    {"<|end_of_text|>", true},
    {"<end_of_turn>", true},
    {"<|return|>", true},
    {"<|call|>", true},
    {"<|calls|>", true},
    {"<|flush|>", true},
    {"</s>", false}, /* a tag of HTML in some */
    {"<eos>", false},
    {"<|endofturn|>", true},
    {"<EOT>", true},
    {"\xe2\x96\x81<EOT>", true},
    {"[EOT]", false},
    {"[EOS]", false},
    {"<|END_OF_TURN_TOKEN|>", true},
    {"<end_of_utterance>", true},
    {"<\xef\xbd\x9c"
     "end\xe2\x96\x81of\xe2\x96\x81sentence\xef\xbd\x9c>",
     true}, /* DeepSeek, with full-width bars */
    {"<|fim_pad|>", false},
    {"<fim_pad>", false},
    {"<fim-pad>", false},
    {"<|repo_name|>", false},
    {"<|fim_repo|>", false},
    {"<|file_sep|>", false},
    {"<reponame>", false},
};

struct loader {
    struct tokenizer *t;
    const struct gguf *g;
    struct err_msg *why;
};

static int compare_specials(const void *a, const void *b, void *user)
{
    const struct tokenizer *t = user;
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    int c = gguf_name_compare(t->pieces[x], t->pieces[y]);
    return c != 0 ? c : (x > y) - (x < y);
}

static bool is_special(const struct tokenizer *t, uint32_t id)
{
    return (t->types[id] == TOKEN_CONTROL || t->types[id] == TOKEN_USER_DEFINED ||
            t->types[id] == TOKEN_UNKNOWN) &&
           t->pieces[id].len > 0;
}

/* Whether a token's name says that it ends a generation; ret_always as in the table. */
static bool is_end_name(struct str piece, bool *ret_always)
{
    for (size_t i = 0; i < ARRAY_LEN(end_names); i++)
        if (str_eq(piece, str_of(end_names[i].name))) {
            *ret_always = end_names[i].always;
            return true;
        }
    return false;
}

/* Control tokens that the file calls something else. */
static void correct_types(struct tokenizer *t)
{
    bool always;
    for (uint32_t i = 0; i < t->vocab; i++)
        if (t->pieces[i].len > 4 && t->types[i] != TOKEN_CONTROL &&
            is_end_name(t->pieces[i], &always) && always)
            t->types[i] = TOKEN_CONTROL;
}

static enum err load_specials(struct loader *l)
{
    struct tokenizer *t = l->t;
    size_t count = 0;
    correct_types(t);
    for (uint32_t i = 0; i < t->vocab; i++)
        count += is_special(t, i);
    t->specials = arena_alloc(&t->arena, count, sizeof(*t->specials));
    if (t->specials == NULL)
        return err_set(l->why, ERR_NOMEM, "%s: out of memory for the vocabulary", gguf_path(l->g));
    for (uint32_t i = 0; i < t->vocab; i++)
        if (is_special(t, i)) {
            t->specials[t->specials_count++] = i;
            t->special_first[(unsigned char)t->pieces[i].data[0]] = true;
        }
    qsort_r(t->specials, count, sizeof(*t->specials), compare_specials, t);
    return ERR_OK;
}

/* A special token by its text, or NO_ID. */
static int64_t find_special(const struct tokenizer *t, const char *text)
{
    for (size_t i = 0; i < t->specials_count; i++)
        if (str_eq(t->pieces[t->specials[i]], str_of(text)))
            return t->specials[i];
    return NO_ID;
}

static bool has_word(struct str text, const char *lower)
{
    size_t n = strlen(lower);
    for (size_t at = 0; at + n <= text.len; at++) {
        size_t i = 0;
        while (i < n &&
               (text.data[at + i] |
                (text.data[at + i] >= 'A' && text.data[at + i] <= 'Z' ? 0x20 : 0)) == lower[i])
            i++;
        if (i == n)
            return true;
    }
    return false;
}

/* Phi-3's special tokens take the white space after them (rstrip in its tokenizer.json). GGUF has
 * no key for that: as in llama.cpp the model's name tells. */
static enum err load_strips(struct loader *l)
{
    static const char *const keep[] = {"<unk>", "<s>", "<|endoftext|>"};
    struct tokenizer *t = l->t;
    struct str name;
    enum err e = gguf_get_str(l->g, "general.name", &name, l->why);
    if (e == ERR_NOT_FOUND || (e == ERR_OK && !has_word(name, "phi-3") && !has_word(name, "phi3")))
        return ERR_OK;
    if (e != ERR_OK)
        return e;
    t->strips_right = arena_alloc(&t->arena, t->vocab, sizeof(*t->strips_right));
    if (t->strips_right == NULL)
        return err_set(l->why, ERR_NOMEM, "%s: out of memory for the vocabulary", gguf_path(l->g));
    for (size_t i = 0; i < t->specials_count; i++)
        t->strips_right[t->specials[i]] = true;
    for (size_t i = 0; i < ARRAY_LEN(keep); i++) {
        int64_t id = find_special(t, keep[i]);
        if (id != NO_ID)
            t->strips_right[id] = false;
    }
    return ERR_OK;
}

/* *ret stays where the file has no such key. */
static enum err get_id(struct loader *l, const char *key, int64_t *ret)
{
    uint32_t id;
    enum err e = gguf_get_u32(l->g, key, &id, l->why);
    if (e == ERR_NOT_FOUND)
        return ERR_OK;
    if (e != ERR_OK)
        return e;
    if (id >= l->t->vocab)
        return err_set(l->why, ERR_FORMAT,
                       "%s: key '%s' is %" PRIu32 ", the vocabulary has %" PRIu32 " tokens",
                       gguf_path(l->g), key, id, l->t->vocab);
    *ret = id;
    return ERR_OK;
}

/* *ret stays where the file has no such key. */
static enum err get_flag(struct loader *l, const char *key, bool *ret)
{
    enum err e = gguf_get_bool(l->g, key, ret, l->why);
    return e == ERR_NOT_FOUND ? ERR_OK : e;
}

static void add_end_token(struct tokenizer *t, int64_t id)
{
    if (id == TOKEN_NONE || t->end_tokens_count == MAX_END_TOKENS)
        return;
    for (size_t i = 0; i < t->end_tokens_count; i++)
        if (t->end_tokens[i] == id)
            return;
    t->end_tokens[t->end_tokens_count++] = (uint32_t)id;
}

static void collect_end_tokens(struct tokenizer *t, int64_t eot, int64_t eom)
{
    /* Where one of a pair ends a turn, <|end|> only ends a part of it. */
    int64_t part = NO_ID;
    bool always,
        call = find_special(t, "<|call|>") != NO_ID || find_special(t, "<|calls|>") != NO_ID;
    if (call && (find_special(t, "<|return|>") != NO_ID || find_special(t, "<|flush|>") != NO_ID))
        part = find_special(t, "<|end|>");
    add_end_token(t, t->eos);
    add_end_token(t, eot);
    add_end_token(t, eom);
    for (size_t i = 0; i < t->specials_count; i++) {
        uint32_t id = t->specials[i];
        if (t->types[id] == TOKEN_CONTROL && id != part && is_end_name(t->pieces[id], &always))
            add_end_token(t, id);
    }
}

/* What holds where the file says nothing: llama.cpp's, which files rely on. */
static void set_defaults(struct tokenizer *t)
{
    unsigned flags = t->spm ? 0 : pretokenizer_flags(t->pre);
    t->bos = t->spm ? 1 : 11;
    t->eos = t->spm ? 2 : 11;
    if (t->bos >= t->vocab || (flags & PRE_NO_BOS) != 0)
        t->bos = TOKEN_NONE;
    if (t->eos >= t->vocab)
        t->eos = TOKEN_NONE;
    t->adds_bos = t->spm || (flags & PRE_ADD_BOS) != 0;
    t->space_prefix = t->spm;
}

enum err special_load(struct tokenizer *t, const struct gguf *g, struct err_msg *why)
{
    struct loader l = {t, g, why};
    int64_t eot = TOKEN_NONE, eom = TOKEN_NONE;
    enum err e = load_specials(&l);
    if (e == ERR_OK)
        e = load_strips(&l);
    if (e != ERR_OK)
        return e;
    set_defaults(t);
    e = get_id(&l, "tokenizer.ggml.bos_token_id", &t->bos);
    if (e == ERR_OK)
        e = get_id(&l, "tokenizer.ggml.eos_token_id", &t->eos);
    if (e == ERR_OK)
        e = get_id(&l, "tokenizer.ggml.eot_token_id", &eot);
    if (e == ERR_OK)
        e = get_id(&l, "tokenizer.ggml.eom_token_id", &eom);
    if (e == ERR_OK)
        e = get_flag(&l, "tokenizer.ggml.add_bos_token", &t->adds_bos);
    if (e == ERR_OK)
        e = get_flag(&l, "tokenizer.ggml.add_eos_token", &t->adds_eos);
    if (e == ERR_OK && t->spm)
        e = get_flag(&l, "tokenizer.ggml.add_space_prefix", &t->space_prefix);
    if (e != ERR_OK)
        return e;
    if (t->adds_bos && t->bos == TOKEN_NONE)
        return err_set(why, ERR_FORMAT,
                       "%s: a beginning-of-text token is wanted, but there is no "
                       "'tokenizer.ggml.bos_token_id'",
                       gguf_path(g));
    if (t->adds_eos && t->eos == TOKEN_NONE)
        return err_set(why, ERR_FORMAT,
                       "%s: key 'tokenizer.ggml.add_eos_token' is true, but there is no "
                       "'tokenizer.ggml.eos_token_id'",
                       gguf_path(g));
    collect_end_tokens(t, eot, eom);
    return ERR_OK;
}
