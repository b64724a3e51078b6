#include "engine/kv.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "base/hash.h"

static const uint32_t NONE = UINT32_MAX;

/* A page's state follows from two fields: refs > 0 held; refs == 0 and published: cached, in the
 * LRU list; refs == 0 and not published: free, in the free list. */
struct page {
    uint32_t refs;
    bool published;
    uint64_t chain;
    uint32_t hash_next;  /* next page in the same bucket */
    uint32_t prev, next; /* LRU list (prev older); the free list uses next alone */
    uint32_t tokens[PAGE_TOKENS];
};

struct kv {
    uint32_t pages_count;
    uint32_t available;
    uint32_t free_head;
    uint32_t lru_oldest, lru_newest;
    uint32_t bucket_mask;
    uint32_t *buckets;
    struct page *pages;
    uint64_t key[2]; /* of kv_chain() */
};

enum err kv_create(uint32_t pages, struct kv **ret, struct err_msg *why)
{
    struct kv *kv = calloc(1, sizeof *kv);
    if (kv == NULL)
        return err_set(why, ERR_NOMEM, "out of memory for the page table");
    if (getrandom(kv->key, sizeof kv->key, 0) != (ssize_t)sizeof kv->key) {
        kv_destroy(&kv);
        return err_set(why, ERR_IO, "the prefix cache's key: the system gives no random bytes");
    }
    uint32_t buckets = 16;
    while (buckets < pages && buckets < (1u << 30))
        buckets *= 2;
    kv->bucket_mask = buckets - 1;
    kv->buckets = malloc(sizeof *kv->buckets * buckets);
    kv->pages = calloc(pages > 0 ? pages : 1, sizeof *kv->pages);
    if (kv->buckets == NULL || kv->pages == NULL) {
        kv_destroy(&kv);
        return err_set(why, ERR_NOMEM, "out of memory for the page table");
    }
    memset(kv->buckets, 0xff, sizeof *kv->buckets * buckets);
    kv->pages_count = kv->available = pages;
    kv->lru_oldest = kv->lru_newest = kv->free_head = NONE;
    for (uint32_t i = pages; i-- > 0;) {
        kv->pages[i].next = kv->free_head;
        kv->free_head = i;
    }
    *ret = kv;
    return ERR_OK;
}

void kv_destroy(struct kv **kv)
{
    if (*kv == NULL)
        return;
    free((*kv)->buckets);
    free((*kv)->pages);
    free(*kv);
    *kv = NULL;
}

uint32_t kv_pages(const struct kv *kv)
{
    return kv->pages_count;
}

uint32_t kv_available(const struct kv *kv)
{
    return kv->available;
}

static void lru_remove(struct kv *kv, uint32_t i)
{
    struct page *p = &kv->pages[i];
    if (p->prev != NONE)
        kv->pages[p->prev].next = p->next;
    else
        kv->lru_oldest = p->next;
    if (p->next != NONE)
        kv->pages[p->next].prev = p->prev;
    else
        kv->lru_newest = p->prev;
}

static void lru_append(struct kv *kv, uint32_t i)
{
    struct page *p = &kv->pages[i];
    p->next = NONE;
    p->prev = kv->lru_newest;
    if (p->prev != NONE)
        kv->pages[p->prev].next = i;
    else
        kv->lru_oldest = i;
    kv->lru_newest = i;
}

static void unpublish(struct kv *kv, uint32_t i)
{
    uint32_t *link = &kv->buckets[kv->pages[i].chain & kv->bucket_mask];
    while (*link != i)
        link = &kv->pages[*link].hash_next;
    *link = kv->pages[i].hash_next;
    kv->pages[i].published = false;
}

bool kv_take(struct kv *kv, uint32_t *ret_page)
{
    uint32_t i = kv->free_head;
    if (i != NONE) {
        kv->free_head = kv->pages[i].next;
    } else {
        i = kv->lru_oldest;
        if (i == NONE)
            return false;
        lru_remove(kv, i);
        unpublish(kv, i);
    }
    kv->pages[i].refs = 1;
    kv->available--;
    *ret_page = i;
    return true;
}

void kv_hold(struct kv *kv, uint32_t page)
{
    struct page *p = &kv->pages[page];
    if (p->refs++ == 0) {
        assert(p->published);
        lru_remove(kv, page);
        kv->available--;
    }
}

void kv_release(struct kv *kv, uint32_t page)
{
    struct page *p = &kv->pages[page];
    assert(p->refs > 0);
    if (--p->refs > 0)
        return;
    kv->available++;
    if (p->published) {
        lru_append(kv, page);
    } else {
        p->next = kv->free_head;
        kv->free_head = page;
    }
}

/* With a key, since prompts come from people who do not trust each other: with a hash that one of
 * them can compute he finds another beginning with the chain of somebody's, whose later pages would
 * then be his. */
uint64_t kv_chain(const struct kv *kv, uint64_t parent, const uint32_t tokens[PAGE_TOKENS])
{
    struct {
        uint64_t parent;
        uint32_t tokens[PAGE_TOKENS];
    } all = {.parent = parent};
    memcpy(all.tokens, tokens, sizeof all.tokens);
    return hash64_keyed(&all, sizeof all, kv->key);
}

static uint32_t find(const struct kv *kv, uint64_t chain, const uint32_t tokens[PAGE_TOKENS])
{
    for (uint32_t i = kv->buckets[chain & kv->bucket_mask]; i != NONE; i = kv->pages[i].hash_next) {
        const struct page *p = &kv->pages[i];
        if (p->chain == chain && memcmp(p->tokens, tokens, sizeof p->tokens) == 0)
            return i;
    }
    return NONE;
}

bool kv_find(struct kv *kv, uint64_t chain, const uint32_t tokens[PAGE_TOKENS], uint32_t *ret_page)
{
    uint32_t i = find(kv, chain, tokens);
    if (i == NONE)
        return false;
    kv_hold(kv, i);
    *ret_page = i;
    return true;
}

void kv_publish(struct kv *kv, uint32_t page, uint64_t chain, const uint32_t tokens[PAGE_TOKENS])
{
    struct page *p = &kv->pages[page];
    assert(p->refs > 0);
    if (p->published || find(kv, chain, tokens) != NONE)
        return;
    p->published = true;
    p->chain = chain;
    memcpy(p->tokens, tokens, sizeof p->tokens);
    p->hash_next = kv->buckets[chain & kv->bucket_mask];
    kv->buckets[chain & kv->bucket_mask] = page;
}
