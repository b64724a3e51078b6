/* SentencePiece's BPE: again and again the two neighbours whose joined text is the token with the
 * best score, the leftmost ones first. What is no token in the end is written as bytes.
 *
 * As in tokenizer_bpe.c the text is a linked list of symbols, at first its characters, and a heap
 * holds the pairs that may join: at most n - 1 at the start and two more for each of n - 1 joins,
 * O(n log n). An entry is stale when the two symbols' length is no longer what it was: symbols only
 * grow, and the left one keeps its place. Keys are short (the longest token), so looking one up
 * takes constant time. */
#include <stdlib.h>

#include "base/size.h"
#include "model/tokenizer_impl.h"

#define NONE UINT32_MAX

static const char space[] = "\xe2\x96\x81"; /* U+2581 stands for a space */

void spm_scratch_free(struct spm_scratch *s)
{
    buf_free(&s->text);
    free(s->symbols);
    free(s->heap);
    *s = (struct spm_scratch){0};
}

static enum err grow(void **ptr, size_t *cap, size_t want, size_t size)
{
    uint64_t bytes;
    if (want <= *cap)
        return ERR_OK;
    want = max_u64(want, 2 * *cap);
    if (!size_mul(want, size, &bytes))
        return ERR_NOMEM;
    void *grown = realloc(*ptr, (size_t)bytes);
    if (grown == NULL)
        return ERR_NOMEM;
    *ptr = grown;
    *cap = want;
    return ERR_OK;
}

static void heap_push(struct spm_scratch *s, struct spm_pair pair)
{
    size_t at = s->heap_count++;
    while (at > 0 && s->heap[(at - 1) / 2].order > pair.order) {
        s->heap[at] = s->heap[(at - 1) / 2];
        at = (at - 1) / 2;
    }
    s->heap[at] = pair;
}

static struct spm_pair heap_pop(struct spm_scratch *s)
{
    struct spm_pair top = s->heap[0], moved = s->heap[--s->heap_count];
    size_t at = 0;
    for (;;) {
        size_t child = 2 * at + 1;
        if (child >= s->heap_count)
            break;
        if (child + 1 < s->heap_count && s->heap[child + 1].order < s->heap[child].order)
            child++;
        if (s->heap[child].order >= moved.order)
            break;
        s->heap[at] = s->heap[child];
        at = child;
    }
    s->heap[at] = moved;
    return top;
}

/* Ascending where scores descend. No score is NaN: the loader looked. */
static uint32_t order_of(float score)
{
    uint32_t bits;
    score += 0.0f; /* -0 is 0 */
    memcpy(&bits, &score, sizeof(bits));
    return (bits & UINT32_C(1) << 31) != 0 ? bits : UINT32_C(0x7fffffff) - bits;
}

static void push_pair(const struct tokenizer *t, struct spm_scratch *s, uint32_t left)
{
    if (left == NONE || s->symbols[left].next == NONE)
        return;
    size_t bytes = (size_t)s->symbols[left].len + s->symbols[s->symbols[left].next].len;
    if (bytes > t->key_bytes_max)
        return;
    int64_t id = vocab_find_key(t, (struct str){s->text.data + s->symbols[left].begin, bytes});
    if (id != NO_ID)
        heap_push(
            s, (struct spm_pair){(uint64_t)order_of(t->scores[id]) << 32 | left, (uint32_t)bytes});
}

static void join_all(const struct tokenizer *t, struct spm_scratch *s)
{
    while (s->heap_count > 0) {
        struct spm_pair pair = heap_pop(s);
        uint32_t at = (uint32_t)pair.order;
        struct spm_symbol *left = &s->symbols[at];
        if (left->len == 0 || left->next == NONE ||
            left->len + s->symbols[left->next].len != pair.bytes)
            continue;
        struct spm_symbol *right = &s->symbols[left->next];
        left->len += right->len;
        right->len = 0;
        left->next = right->next;
        if (left->next != NONE)
            s->symbols[left->next].prev = at;
        push_pair(t, s, left->prev);
        push_pair(t, s, at);
    }
}

/* A symbol's ids: the token, else its bytes, else the unknown token. */
static enum err put_symbol(const struct tokenizer *t, struct str symbol, struct tokens *out)
{
    uint32_t ids[4];
    int64_t whole = vocab_find_key(t, symbol);
    if (whole != NO_ID)
        return tokens_append(out, &(uint32_t){(uint32_t)whole}, 1);
    /* Joined symbols are tokens, so this is one character. */
    for (size_t i = 0; i < symbol.len && i < ARRAY_LEN(ids); i++) {
        ids[i] = t->byte_id[(unsigned char)symbol.data[i]];
        if (ids[i] == NO_TOKEN)
            return tokens_append(out, &t->unknown, 1);
    }
    return tokens_append(out, ids, symbol.len);
}

static enum err escape(struct buf *out, struct str text, bool prefix)
{
    enum err e = ERR_OK;
    buf_clear(out);
    if (prefix)
        e = buf_append(out, space, sizeof(space) - 1);
    for (size_t i = 0; e == ERR_OK && i < text.len;) {
        const char *end = memchr(text.data + i, ' ', text.len - i);
        size_t n = end == NULL ? text.len - i : (size_t)(end - (text.data + i));
        e = buf_append(out, text.data + i, n);
        if (e == ERR_OK && end != NULL)
            e = buf_append(out, space, sizeof(space) - 1);
        i += n + (end != NULL);
    }
    return e;
}

/* The escaped text's characters as symbols. */
static enum err split(struct spm_scratch *s, size_t *ret_count)
{
    size_t count = 0;
    for (size_t i = 0; i < s->text.len; i++)
        count += ((unsigned char)s->text.data[i] & 0xc0) != 0x80;
    enum err e = grow((void **)&s->symbols, &s->symbols_cap, count, sizeof(*s->symbols));
    if (e == ERR_OK) /* a join takes one entry out and puts at most two in */
        e = grow((void **)&s->heap, &s->heap_cap, 2 * count, sizeof(*s->heap));
    if (e != ERR_OK)
        return e;
    size_t n = 0;
    for (size_t i = 0; i < s->text.len; i++) {
        if (((unsigned char)s->text.data[i] & 0xc0) == 0x80) {
            s->symbols[n - 1].len++;
            continue;
        }
        s->symbols[n] = (struct spm_symbol){
            .begin = (uint32_t)i,
            .len = 1,
            .prev = n == 0 ? NONE : (uint32_t)(n - 1),
            .next = n + 1 == count ? NONE : (uint32_t)(n + 1),
        };
        n++;
    }
    *ret_count = count;
    return ERR_OK;
}

enum err spm_encode(const struct tokenizer *t, struct spm_scratch *s, struct str text, bool prefix,
                    struct tokens *out)
{
    size_t count = 0;
    enum err e = escape(&s->text, text, prefix);
    if (e == ERR_OK)
        e = split(s, &count);
    if (e != ERR_OK)
        return e;
    s->heap_count = 0;
    for (size_t i = 0; i + 1 < count; i++)
        push_pair(t, s, (uint32_t)i);
    join_all(t, s);
    for (uint32_t i = count == 0 ? NONE : 0; e == ERR_OK && i != NONE; i = s->symbols[i].next)
        e = put_symbol(t, (struct str){s->text.data + s->symbols[i].begin, s->symbols[i].len}, out);
    return e;
}
