/* Loads a vocabulary: tokens as the bytes they stand for, merges as ids, the special tokens.
 *
 * GGUF keeps the tokens of byte-level BPE as GPT-2 does: every byte is written as one printable
 * character. Printable Latin-1 bytes stand for themselves, the others, in order, for U+0100 and up.
 * Control and user-defined tokens are plain text. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "base/size.h"
#include "base/utf8.h"
#include "model/gguf_impl.h"
#include "model/tokenizer_impl.h"

enum { MAX_VOCAB = 1 << 24, MAPPED_CHARS = 256 + 68 };

/* Control tokens that end a generation in the models that have them. */
static const char *const end_names[] = {
    "<|im_end|>",
    "<|endoftext|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|end|>",
    "<|end_of_text|>",
    "<end_of_turn>",
    "<|return|>",
    "<|call|>",
    "</s>",
    "<|endofturn|>",
    "<EOT>",
    "<|END_OF_TURN_TOKEN|>",
};

/* While loading. */
struct loader {
    struct tokenizer *t;
    const struct gguf *g;
    struct err_msg *why;
    int16_t byte_of[MAPPED_CHARS]; /* character to byte, -1: stands for none */
    struct id_table piece_table;   /* bytes of a normal token to its id; freed at the end */
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

/* The slot that holds `piece`, or the empty one where it belongs. */
static uint32_t *piece_slot(const struct loader *l, struct str piece)
{
    uint64_t at = hash64(piece.data, piece.len, 0);
    for (;; at++) {
        uint32_t *slot = &l->piece_table.slots[at & l->piece_table.mask];
        if (*slot == 0 || str_eq(l->t->pieces[*slot - 1], piece))
            return slot;
    }
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

static enum err load_types(struct loader *l)
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

/* Puts a normal token where merges and bytes find it. */
static enum err register_piece(struct loader *l, uint32_t id)
{
    struct tokenizer *t = l->t;
    uint32_t *slot = piece_slot(l, t->pieces[id]);
    if (*slot != 0)
        return err_set(l->why, ERR_FORMAT,
                       "%s: tokens %" PRIu32 " and %" PRIu32 " are the same text", gguf_path(l->g),
                       *slot - 1, id);
    *slot = id + 1;
    return ERR_OK;
}

static enum err load_pieces(struct loader *l, const struct str *texts)
{
    struct tokenizer *t = l->t;
    uint64_t total = 0;
    for (uint32_t i = 0; i < t->vocab; i++)
        if (!size_add(total, texts[i].len, &total))
            return no_memory(l);
    t->pieces = arena_alloc(&t->arena, t->vocab, sizeof(*t->pieces));
    char *bytes = arena_alloc(&t->arena, (size_t)total, 1);
    if (t->pieces == NULL || bytes == NULL || !table_create(&l->piece_table, t->vocab))
        return no_memory(l);
    for (uint32_t i = 0; i < t->vocab; i++) {
        size_t len = texts[i].len;
        bool normal = t->types[i] == TOKEN_NORMAL || t->types[i] == TOKEN_BYTE;
        if (!utf8_is_valid(texts[i].data, len))
            return err_set(l->why, ERR_FORMAT, "%s: token %" PRIu32 " is no valid UTF-8",
                           gguf_path(l->g), i);
        /* A normal token with characters that stand for no byte is one that no text leads to: kept
         * as it is. */
        bool mapped = normal && unmap_text(l->byte_of, texts[i], bytes, &len);
        if (!mapped) {
            len = texts[i].len;
            memcpy(bytes, texts[i].data, len);
        }
        t->pieces[i] = (struct str){bytes, len};
        bytes += len;
        if (mapped && len > 0) {
            enum err e = register_piece(l, i);
            if (e != ERR_OK)
                return e;
        }
    }
    return ERR_OK;
}

static enum err load_bytes(struct loader *l)
{
    for (unsigned b = 0; b < 256; b++) {
        char c = (char)b;
        uint32_t slot = *piece_slot(l, (struct str){&c, 1});
        if (slot == 0)
            return err_set(
                l->why, ERR_FORMAT,
                "%s: no token stands for the byte 0x%02x, a byte-level vocabulary needs all 256",
                gguf_path(l->g), b);
        l->t->byte_id[b] = slot - 1;
    }
    return ERR_OK;
}

/* "left right" to three ids. scratch has room for text.len bytes. */
static enum err parse_merge(struct loader *l, size_t index, struct str text, char *scratch,
                            struct merge *ret)
{
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
        *piece_slot(l, (struct str){scratch, left_len}),
        *piece_slot(l, (struct str){scratch + left_len, right_len}),
        *piece_slot(l, (struct str){scratch, left_len + right_len}),
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
        if (*slot == 0) /* the same pair again, later, never wins */
            *slot = (uint32_t)i + 1;
    }
    t->merges_count = (uint32_t)count;
    free(scratch);
    return e;
}

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

static enum err load_specials(struct loader *l)
{
    struct tokenizer *t = l->t;
    size_t count = 0;
    for (uint32_t i = 0; i < t->vocab; i++)
        count += is_special(t, i);
    t->specials = arena_alloc(&t->arena, count, sizeof(*t->specials));
    if (t->specials == NULL)
        return no_memory(l);
    for (uint32_t i = 0; i < t->vocab; i++)
        if (is_special(t, i)) {
            t->specials[t->specials_count++] = i;
            t->special_first[(unsigned char)t->pieces[i].data[0]] = true;
        }
    qsort_r(t->specials, count, sizeof(*t->specials), compare_specials, t);
    return ERR_OK;
}

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

static void add_end_token(struct tokenizer *t, int64_t id)
{
    if (id == TOKEN_NONE || t->end_tokens_count == MAX_END_TOKENS)
        return;
    for (size_t i = 0; i < t->end_tokens_count; i++)
        if (t->end_tokens[i] == id)
            return;
    t->end_tokens[t->end_tokens_count++] = (uint32_t)id;
}

static enum err load_ids(struct loader *l)
{
    struct tokenizer *t = l->t;
    int64_t eot = TOKEN_NONE, eom = TOKEN_NONE;
    bool adds_eos = false;
    t->bos = t->eos = TOKEN_NONE;
    enum err e = get_id(l, "tokenizer.ggml.bos_token_id", &t->bos);
    if (e == ERR_OK)
        e = get_id(l, "tokenizer.ggml.eos_token_id", &t->eos);
    if (e == ERR_OK)
        e = get_id(l, "tokenizer.ggml.eot_token_id", &eot);
    if (e == ERR_OK)
        e = get_id(l, "tokenizer.ggml.eom_token_id", &eom);
    if (e == ERR_OK && (e = gguf_get_bool(l->g, "tokenizer.ggml.add_bos_token", &t->adds_bos,
                                          l->why)) == ERR_NOT_FOUND)
        e = ERR_OK;
    if (e == ERR_OK && (e = gguf_get_bool(l->g, "tokenizer.ggml.add_eos_token", &adds_eos,
                                          l->why)) == ERR_NOT_FOUND)
        e = ERR_OK;
    if (e != ERR_OK)
        return e;
    if (t->adds_bos && t->bos == TOKEN_NONE)
        return err_set(l->why, ERR_FORMAT,
                       "%s: key 'tokenizer.ggml.add_bos_token' is true, but there is no "
                       "'tokenizer.ggml.bos_token_id'",
                       gguf_path(l->g));
    if (adds_eos)
        return err_set(l->why, ERR_UNSUPPORTED,
                       "%s: key 'tokenizer.ggml.add_eos_token' is true: ending prompts with a "
                       "token is not supported",
                       gguf_path(l->g));
    add_end_token(t, t->eos);
    add_end_token(t, eot);
    add_end_token(t, eom);
    for (size_t i = 0; i < t->specials_count; i++)
        for (size_t j = 0; j < ARRAY_LEN(end_names); j++)
            if (t->types[t->specials[i]] == TOKEN_CONTROL &&
                str_eq(t->pieces[t->specials[i]], str_of(end_names[j])))
                add_end_token(t, t->specials[i]);
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
    if (!str_eq(model, STR_LIT("gpt2")))
        return err_set(why, ERR_UNSUPPORTED,
                       "%s: tokenizer '%.*s' is not supported (supported: gpt2, byte-level BPE)",
                       gguf_path(g), (int)min_u64(model.len, 64), model.data);
    e = gguf_get_strs(g, "tokenizer.ggml.tokens", &texts, &count, why);
    if (e != ERR_OK)
        return e == ERR_NOT_FOUND ? ERR_FORMAT : e;
    if (count == 0 || count > MAX_VOCAB)
        return err_set(why, ERR_RANGE, "%s: a vocabulary of %zu tokens, expected 1 to %d",
                       gguf_path(g), count, MAX_VOCAB);
    t->vocab = (uint32_t)count;
    map_bytes(l.byte_of);
    e = load_types(&l);
    if (e == ERR_OK)
        e = load_pieces(&l, texts);
    if (e == ERR_OK)
        e = load_bytes(&l);
    if (e == ERR_OK)
        e = load_merges(&l);
    if (e == ERR_OK)
        e = load_specials(&l);
    if (e == ERR_OK)
        e = load_ids(&l);
    free(l.piece_table.slots);
    return e;
}
