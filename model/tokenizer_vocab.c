/* Loads a vocabulary: tokens as the bytes they stand for, merges as ids, scores.
 * tokenizer_special.c does what is left.
 *
 * GGUF keeps the tokens of byte-level BPE as GPT-2 does: every byte is written as one printable
 * character. Printable Latin-1 bytes stand for themselves, the others, in order, for U+0100 and up.
 * In SentencePiece's vocabularies a space is written as U+2581, and bytes that are in no token's
 * text have tokens <0x00> to <0xFF>. Control and user-defined tokens are plain text in both. */
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "base/size.h"
#include "base/utf8.h"
#include "model/gguf_impl.h"
#include "model/tokenizer_impl.h"

enum { MAX_VOCAB = 1 << 24, MAPPED_CHARS = 256 + 68 };

/* While loading. */
struct loader {
    struct tokenizer *t;
    const struct gguf *g;
    struct err_msg *why;
    int16_t byte_of[MAPPED_CHARS]; /* character to byte, -1: stands for none */
};

static void map_bytes(int16_t byte_of[MAPPED_CHARS])
{
    int next = 256;
    for (int i = 0; i < MAPPED_CHARS; i++)
        byte_of[i] = -1;
    for (int b = 0; b < 256; b++) {
        bool itself = (b >= 0x21 && b <= 0x7e) || (b >= 0xa1 && b <= 0xac) || b >= 0xae;
        byte_of[itself ? b : next++] = (int16_t)b;
    }
}

/* text (valid UTF-8) to the bytes it stands for; false if a character stands for none. ret_bytes
 * has room for text.len bytes. */
static bool unmap_text(const int16_t byte_of[MAPPED_CHARS], struct str text, char *ret_bytes,
                       size_t *ret_len)
{
    size_t n = 0;
    for (size_t i = 0; i < text.len;) {
        unsigned c = (unsigned char)text.data[i++];
        if (c >= 0xe0)
            return false; /* beyond U+07FF */
        if (c >= 0xc0)
            c = (c & 0x1f) << 6 | ((unsigned char)text.data[i++] & 0x3f);
        if (c >= MAPPED_CHARS || byte_of[c] < 0)
            return false;
        ret_bytes[n++] = (char)byte_of[c];
    }
    *ret_len = n;
    return true;
}

/* The slots for `count` entries. */
static bool table_create(struct id_table *table, size_t count)
{
    uint64_t slots = 16;
    while (slots < 2 * (uint64_t)count)
        slots *= 2;
    table->mask = slots - 1;
    table->slots = calloc(slots, sizeof(*table->slots));
    return table->slots != NULL;
}

/* The slot that holds `key`, or the empty one where it belongs. */
static uint32_t *key_slot(const struct tokenizer *t, struct str key)
{
    uint64_t at = hash64(key.data, key.len, 0);
    for (;; at++) {
        uint32_t *slot = &t->key_table.slots[at & t->key_table.mask];
        if (*slot == 0 || str_eq(t->keys[*slot - 1], key))
            return slot;
    }
}

int64_t vocab_find_key(const struct tokenizer *t, struct str key)
{
    uint32_t slot = *key_slot(t, key);
    return slot != 0 && is_text_token(t, slot - 1) ? (int64_t)slot - 1 : NO_ID;
}

static uint32_t *merge_slot(const struct tokenizer *t, uint32_t left, uint32_t right)
{
    uint64_t at = ((uint64_t)left << 32 | right) * UINT64_C(0x9e3779b97f4a7c15);
    for (at ^= at >> 29;; at++) {
        uint32_t *slot = &t->merge_table.slots[at & t->merge_table.mask];
        if (*slot == 0)
            return slot;
        const struct merge *m = &t->merges[*slot - 1];
        if (m->left == left && m->right == right)
            return slot;
    }
}

int64_t vocab_find_merge(const struct tokenizer *t, uint32_t left, uint32_t right)
{
    return (int64_t)*merge_slot(t, left, right) - 1;
}

static enum err no_memory(struct loader *l)
{
    return err_set(l->why, ERR_NOMEM, "%s: out of memory for the vocabulary", gguf_path(l->g));
}

static int hex_digit(char c)
{
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
                                  : -1;
}

/* "<0x41>" to 0x41; -1 if it is none. */
static int parse_byte(struct str text)
{
    if (text.len != 6 || memcmp(text.data, "<0x", 3) != 0 || text.data[5] != '>')
        return -1;
    int high = hex_digit(text.data[3]), low = hex_digit(text.data[4]);
    return high < 0 || low < 0 ? -1 : high << 4 | low;
}

/* Files without token types: the byte tokens are known by their text. */
static void guess_bytes(struct tokenizer *t, const struct str *texts)
{
    for (uint32_t i = 0; i < t->vocab; i++)
        if (parse_byte(texts[i]) >= 0)
            t->types[i] = TOKEN_BYTE;
}

static enum err load_types(struct loader *l, const struct str *texts)
{
    const void *types;
    size_t count;
    struct tokenizer *t = l->t;
    t->types = arena_alloc(&t->arena, t->vocab, 1);
    if (t->types == NULL)
        return no_memory(l);
    enum err e =
        gguf_get_array(l->g, "tokenizer.ggml.token_type", GGUF_I32, &types, &count, l->why);
    if (e == ERR_NOT_FOUND) {
        memset(t->types, TOKEN_NORMAL, t->vocab);
        if (t->spm)
            guess_bytes(t, texts);
        return ERR_OK;
    }
    if (e != ERR_OK)
        return e;
    if (count != t->vocab)
        return err_set(l->why, ERR_FORMAT,
                       "%s: key 'tokenizer.ggml.token_type' has %zu entries for %" PRIu32 " tokens",
                       gguf_path(l->g), count, t->vocab);
    for (size_t i = 0; i < count; i++) {
        int32_t type;
        memcpy(&type, (const char *)types + i * sizeof(type), sizeof(type));
        if (type < TOKEN_NORMAL || type > TOKEN_BYTE)
            return err_set(l->why, ERR_FORMAT,
                           "%s: token %zu has type %" PRId32 ", expected %d to %d", gguf_path(l->g),
                           i, type, TOKEN_NORMAL, TOKEN_BYTE);
        t->types[i] = (uint8_t)type;
    }
    return ERR_OK;
}

/* Puts a token where text finds it. */
static enum err register_key(struct loader *l, uint32_t id)
{
    struct tokenizer *t = l->t;
    if (t->keys[id].len == 0)
        return ERR_OK;
    t->key_bytes_max = max_u64(t->key_bytes_max, t->keys[id].len);
    uint32_t *slot = key_slot(t, t->keys[id]);
    if (*slot == 0 || t->types[*slot - 1] != TOKEN_NORMAL) /* normal ones come first */
        *slot = id + 1;
    else if (t->types[id] == TOKEN_NORMAL)
        return err_set(l->why, ERR_FORMAT,
                       "%s: tokens %" PRIu32 " and %" PRIu32 " are the same text", gguf_path(l->g),
                       *slot - 1, id);
    return ERR_OK;
}

/* U+2581 becomes a space; *len is shortened. */
static void unescape_spaces(char *text, size_t *len)
{
    size_t n = 0;
    for (size_t i = 0; i < *len; n++) {
        bool found = *len - i >= 3 && memcmp(text + i, "\xe2\x96\x81", 3) == 0;
        text[n] = found ? ' ' : text[i];
        i += found ? 3 : 1;
    }
    *len = n;
}

/* One token's key and piece, to bytes[0..2 * text.len). */
static enum err load_piece(struct loader *l, uint32_t id, struct str text, char *bytes)
{
    struct tokenizer *t = l->t;
    size_t key_len = text.len, piece_len = text.len;
    char *piece = bytes + text.len;
    bool plain = t->types[id] == TOKEN_NORMAL || t->types[id] == TOKEN_UNUSED;
    if (!utf8_is_valid(text.data, text.len))
        return err_set(l->why, ERR_FORMAT, "%s: token %" PRIu32 " is no valid UTF-8",
                       gguf_path(l->g), id);
    if (text.len > 0) {
        memcpy(bytes, text.data, text.len);
        memcpy(piece, text.data, text.len);
    }
    if (t->types[id] == TOKEN_BYTE &&
        (t->spm || (text.len >= 3 && memcmp(text.data, "<0x", 3) == 0))) {
        int byte = parse_byte(text);
        if (byte < 0)
            return err_set(l->why, ERR_FORMAT,
                           "%s: token %" PRIu32
                           " of type byte is '%.*s', expected <0x00> to <0xFF>",
                           gguf_path(l->g), id, (int)min_u64(text.len, 64), text.data);
        piece[0] = (char)byte;
        piece_len = 1;
        key_len = 0; /* no text leads to it */
        if (t->byte_id[byte] == NO_TOKEN)
            t->byte_id[byte] = id;
    } else if (t->spm) {
        if (plain)
            unescape_spaces(piece, &piece_len);
    } else {
        /* What has characters that stand for no byte is reached by no text: kept as it is. So is a
         * special token that would be found as other bytes than it is written with. */
        plain = plain || t->types[id] == TOKEN_BYTE;
        if (!unmap_text(l->byte_of, text, bytes, &key_len) ||
            (!plain && !str_eq((struct str){bytes, key_len}, text)))
            key_len = 0;
        if (plain && key_len > 0) {
            memcpy(piece, bytes, key_len);
            piece_len = key_len;
        }
    }
    t->keys[id] = (struct str){bytes, key_len};
    t->pieces[id] = (struct str){piece, piece_len};
    return register_key(l, id);
}

static enum err load_pieces(struct loader *l, const struct str *texts)
{
    struct tokenizer *t = l->t;
    uint64_t total = 0;
    for (uint32_t i = 0; i < t->vocab; i++)
        if (!size_add(total, texts[i].len, &total))
            return no_memory(l);
    t->pieces = arena_alloc(&t->arena, t->vocab, sizeof(*t->pieces));
    t->keys = arena_alloc(&t->arena, t->vocab, sizeof(*t->keys));
    char *bytes = arena_alloc(&t->arena, (size_t)total, 2);
    if (t->pieces == NULL || t->keys == NULL || bytes == NULL ||
        !table_create(&t->key_table, t->vocab))
        return no_memory(l);
    for (size_t b = 0; b < ARRAY_LEN(t->byte_id); b++)
        t->byte_id[b] = NO_TOKEN;
    for (uint32_t i = 0; i < t->vocab; i++) {
        enum err e = load_piece(l, i, texts[i], bytes);
        if (e != ERR_OK)
            return e;
        bytes += 2 * texts[i].len;
    }
    return ERR_OK;
}

/* The tokens of single bytes. Some vocabularies lack bytes that occur in no text, or next to none;
 * such a byte is left out of the ids. */
static enum err load_bytes(struct loader *l)
{
    for (unsigned b = 0; b < 256; b++) {
        char c = (char)b;
        int64_t id = vocab_find_key(l->t, (struct str){&c, 1});
        if (id != NO_ID)
            l->t->byte_id[b] = (uint32_t)id;
        else if (l->t->byte_id[b] == NO_TOKEN && (b == '\n' || (b >= ' ' && b <= '~')))
            return err_set(l->why, ERR_FORMAT,
                           "%s: no token stands for the byte 0x%02x, a byte-level vocabulary needs "
                           "all of ASCII",
                           gguf_path(l->g), b);
    }
    return ERR_OK;
}

/* "left right" to three ids. scratch has room for text.len bytes. */
static enum err parse_merge(struct loader *l, size_t index, struct str text, char *scratch,
                            struct merge *ret)
{
    const struct tokenizer *t = l->t;
    size_t left_len = 0, right_len = 0;
    const char *space = text.len == 0 ? NULL : memchr(text.data, ' ', text.len);
    struct str left = {0}, right = {0};
    if (space != NULL) {
        left = (struct str){text.data, (size_t)(space - text.data)};
        right = (struct str){space + 1, text.len - left.len - 1};
    }
    if (left.len == 0 || right.len == 0 || !utf8_is_valid(text.data, text.len) ||
        !unmap_text(l->byte_of, left, scratch, &left_len) ||
        !unmap_text(l->byte_of, right, scratch + left_len, &right_len))
        return err_set(l->why, ERR_FORMAT,
                       "%s: merge %zu is '%.*s', expected two tokens with a space between",
                       gguf_path(l->g), index, (int)min_u64(text.len, 64), text.data);
    uint32_t ids[3] = {
        *key_slot(t, (struct str){scratch, left_len}),
        *key_slot(t, (struct str){scratch + left_len, right_len}),
        *key_slot(t, (struct str){scratch, left_len + right_len}),
    };
    static const char *const parts[] = {"its left side", "its right side", "what it makes"};
    for (size_t i = 0; i < ARRAY_LEN(ids); i++)
        if (ids[i] == 0)
            return err_set(l->why, ERR_FORMAT, "%s: merge %zu is '%.*s': %s is no token",
                           gguf_path(l->g), index, (int)min_u64(text.len, 64), text.data, parts[i]);
    *ret = (struct merge){ids[0] - 1, ids[1] - 1, ids[2] - 1};
    return ERR_OK;
}

static enum err load_merges(struct loader *l)
{
    struct tokenizer *t = l->t;
    const struct str *texts;
    size_t count, longest = 1;
    enum err e = gguf_get_strs(l->g, "tokenizer.ggml.merges", &texts, &count, l->why);
    if (e != ERR_OK)
        return e == ERR_NOT_FOUND ? ERR_FORMAT : e;
    if (count > MAX_VOCAB)
        return err_set(l->why, ERR_RANGE, "%s: %zu merges, expected at most %d", gguf_path(l->g),
                       count, MAX_VOCAB);
    for (size_t i = 0; i < count; i++)
        longest = max_u64(longest, texts[i].len);
    t->merges = arena_alloc(&t->arena, count, sizeof(*t->merges));
    char *scratch = malloc(longest);
    if (t->merges == NULL || scratch == NULL || !table_create(&t->merge_table, count)) {
        free(scratch);
        return no_memory(l);
    }
    for (size_t i = 0; e == ERR_OK && i < count; i++) {
        struct merge m;
        e = parse_merge(l, i, texts[i], scratch, &m);
        if (e != ERR_OK)
            break;
        t->merges[i] = m;
        uint32_t *slot = merge_slot(t, m.left, m.right);
        /* The same pair again, later, never wins; nothing merges into a control token. */
        if (*slot == 0 && is_text_token(t, m.result))
            *slot = (uint32_t)i + 1;
    }
    t->merges_count = (uint32_t)count;
    free(scratch);
    return e;
}

/* Scores, and something for every byte. */
static enum err load_spm(struct loader *l)
{
    struct tokenizer *t = l->t;
    const void *scores;
    size_t count;
    t->scores = arena_alloc(&t->arena, t->vocab, sizeof(*t->scores));
    if (t->scores == NULL)
        return no_memory(l);
    enum err e = gguf_get_array(l->g, "tokenizer.ggml.scores", GGUF_F32, &scores, &count, l->why);
    if (e != ERR_OK)
        return e == ERR_NOT_FOUND ? ERR_FORMAT : e;
    if (count != t->vocab)
        return err_set(l->why, ERR_FORMAT,
                       "%s: key 'tokenizer.ggml.scores' has %zu entries for %" PRIu32 " tokens",
                       gguf_path(l->g), count, t->vocab);
    memcpy(t->scores, scores, count * sizeof(*t->scores));
    for (uint32_t i = 0; i < t->vocab; i++)
        if (isnan(t->scores[i]))
            return err_set(l->why, ERR_FORMAT, "%s: the score of token %" PRIu32 " is no number",
                           gguf_path(l->g), i);
    uint32_t unknown = 0;
    e = gguf_get_u32(l->g, "tokenizer.ggml.unknown_token_id", &unknown, l->why);
    if (e != ERR_OK && e != ERR_NOT_FOUND)
        return e;
    t->unknown = unknown < t->vocab ? unknown : NO_TOKEN;
    for (size_t b = 0; b < ARRAY_LEN(t->byte_id); b++)
        if (t->byte_id[b] == NO_TOKEN && t->unknown == NO_TOKEN)
            return err_set(l->why, ERR_FORMAT,
                           "%s: no token <0x%02zX> and no unknown token: some text would have no "
                           "ids",
                           gguf_path(l->g), b);
    return ERR_OK;
}

enum err vocab_load(struct tokenizer *t, const struct gguf *g, struct err_msg *why)
{
    struct loader l = {.t = t, .g = g, .why = why};
    struct str model;
    const struct str *texts;
    size_t count;
    enum err e = gguf_get_str(g, "tokenizer.ggml.model", &model, why);
    if (e != ERR_OK)
        return e == ERR_NOT_FOUND ? ERR_FORMAT : e;
    t->spm = str_eq(model, STR_LIT("llama"));
    if (!t->spm && !str_eq(model, STR_LIT("gpt2")))
        return err_set(why, ERR_UNSUPPORTED,
                       "%s: tokenizer '%.*s' is not supported (supported: gpt2, byte-level BPE; "
                       "llama, SentencePiece)",
                       gguf_path(g), (int)min_u64(model.len, 64), model.data);
    e = gguf_get_strs(g, "tokenizer.ggml.tokens", &texts, &count, why);
    if (e != ERR_OK)
        return e == ERR_NOT_FOUND ? ERR_FORMAT : e;
    if (count == 0 || count > MAX_VOCAB)
        return err_set(why, ERR_RANGE, "%s: a vocabulary of %zu tokens, expected 1 to %d",
                       gguf_path(g), count, MAX_VOCAB);
    t->vocab = (uint32_t)count;
    map_bytes(l.byte_of);
    e = load_types(&l, texts);
    if (e == ERR_OK)
        e = load_pieces(&l, texts);
    if (e == ERR_OK && t->spm)
        return load_spm(&l);
    if (e == ERR_OK)
        e = load_bytes(&l);
    if (e == ERR_OK)
        e = load_merges(&l);
    return e;
}
