/* Byte-pair merging of one word: again and again the pair with the lowest rank, the leftmost one
 * first.
 *
 * The word is a linked list of symbols; a heap holds the pairs that may merge, as rank << 32 |
 * index of the left symbol. An entry is stale when its symbols have merged with others meanwhile:
 * then they are no longer the ones its rank names. n - 1 entries at the start and at most two for
 * each of n - 1 merges: O(n log n). */
#include <stdlib.h>

#include "base/size.h"
#include "model/tokenizer_impl.h"

#define NONE UINT32_MAX

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

void bpe_scratch_free(struct bpe_scratch *s)
{
    free(s->symbols);
    free(s->heap);
    *s = (struct bpe_scratch){0};
}

static void sift_down(uint64_t *heap, size_t count, size_t at)
{
    uint64_t value = heap[at];
    for (;;) {
        size_t child = 2 * at + 1;
        if (child >= count)
            break;
        if (child + 1 < count && heap[child + 1] < heap[child])
            child++;
        if (heap[child] >= value)
            break;
        heap[at] = heap[child];
        at = child;
    }
    heap[at] = value;
}

static uint64_t heap_pop(struct bpe_scratch *s)
{
    uint64_t top = s->heap[0];
    s->heap[0] = s->heap[--s->heap_count];
    if (s->heap_count > 0)
        sift_down(s->heap, s->heap_count, 0);
    return top;
}

/* There is room: bpe_encode() reserved it. */
static void heap_push(struct bpe_scratch *s, uint64_t value)
{
    size_t at = s->heap_count++;
    while (at > 0 && s->heap[(at - 1) / 2] > value) {
        s->heap[at] = s->heap[(at - 1) / 2];
        at = (at - 1) / 2;
    }
    s->heap[at] = value;
}

static bool pair_entry(const struct tokenizer *t, const struct bpe_scratch *s, uint32_t left,
                       uint64_t *ret)
{
    if (left == NONE || s->symbols[left].next == NONE)
        return false;
    int64_t rank = vocab_find_merge(t, s->symbols[left].id, s->symbols[s->symbols[left].next].id);
    if (rank == NO_ID)
        return false;
    *ret = (uint64_t)rank << 32 | left;
    return true;
}

static void merge_all(const struct tokenizer *t, struct bpe_scratch *s)
{
    uint64_t entry;
    while (s->heap_count > 0) {
        entry = heap_pop(s);
        uint32_t at = (uint32_t)entry;
        const struct merge *m = &t->merges[entry >> 32];
        struct bpe_symbol *left = &s->symbols[at];
        if (left->id != m->left || left->next == NONE || s->symbols[left->next].id != m->right)
            continue;
        struct bpe_symbol *right = &s->symbols[left->next];
        left->id = m->result;
        right->id = NONE; /* gone: no entry can name it again */
        left->next = right->next;
        if (left->next != NONE)
            s->symbols[left->next].prev = at;
        if (pair_entry(t, s, left->prev, &entry))
            heap_push(s, entry);
        if (pair_entry(t, s, at, &entry))
            heap_push(s, entry);
    }
}

enum err bpe_encode(const struct tokenizer *t, struct bpe_scratch *s, struct str word,
                    struct tokens *out)
{
    size_t n = word.len;
    if (n == 0)
        return ERR_OK;
    if (t->ignore_merges) {
        int64_t whole = vocab_find_key(t, word);
        if (whole != NO_ID)
            return tokens_append(out, &(uint32_t){(uint32_t)whole}, 1);
    }
    /* A merge takes one entry out and puts at most two in. */
    if (grow((void **)&s->symbols, &s->symbols_cap, n, sizeof(*s->symbols)) != ERR_OK ||
        grow((void **)&s->heap, &s->heap_cap, 2 * n, sizeof(*s->heap)) != ERR_OK)
        return ERR_NOMEM;
    for (size_t i = 0; i < n; i++)
        s->symbols[i] = (struct bpe_symbol){.id = t->byte_id[(unsigned char)word.data[i]],
                                            .prev = i == 0 ? NONE : (uint32_t)(i - 1),
                                            .next = i + 1 == n ? NONE : (uint32_t)(i + 1)};
    s->heap_count = 0;
    for (size_t i = 0; i + 1 < n; i++)
        if (pair_entry(t, s, (uint32_t)i, &s->heap[s->heap_count]))
            s->heap_count++;
    for (size_t i = s->heap_count / 2; i-- > 0;)
        sift_down(s->heap, s->heap_count, i);
    merge_all(t, s);
    for (uint32_t i = 0; i != NONE; i = s->symbols[i].next) {
        if (s->symbols[i].id == NO_TOKEN) /* a byte that the vocabulary has no token for */
            continue;
        enum err e = tokens_append(out, &s->symbols[i].id, 1);
        if (e != ERR_OK)
            return e;
    }
    return ERR_OK;
}
