/* KV pages: who holds which, and which finished pages hold which prompt prefix.
 *
 * Pure bookkeeping over page numbers; the bytes live on the GPU (shaders/push.h has the layout). A
 * page is free, held (reference count > 0), or cached: held by nobody but still full of a known
 * prefix, to be found again or evicted, least recently used first. Full pages are never written
 * again, so sharing needs no copies. Everything is sized at creation. Not thread-safe. */
#ifndef OCTO_ENGINE_KV_H
#define OCTO_ENGINE_KV_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "shaders/push.h"

struct kv;

enum err kv_create(uint32_t pages, struct kv **ret, struct err_msg *why) MUST_CHECK;
void kv_destroy(struct kv **kv);

uint32_t kv_pages(const struct kv *kv);
/* Pages that kv_take() can give: free and cached ones. */
uint32_t kv_available(const struct kv *kv);
/* A page with one reference; false when all are held. May evict a cached page. */
bool kv_take(struct kv *kv, uint32_t *ret_page);
void kv_hold(struct kv *kv, uint32_t page);
/* Gives one reference back. Release a sequence's pages last first, so that its beginning is evicted
 * last. */
void kv_release(struct kv *kv, uint32_t page);

/* Identity of a full page: a hash over its tokens and everything before it, with a random key that
 * this cache alone has. First page: parent 0. */
uint64_t kv_chain(const struct kv *kv, uint64_t parent, const uint32_t tokens[PAGE_TOKENS]);
/* Finds a page with exactly these tokens after the same prefix and takes a reference. */
bool kv_find(struct kv *kv, uint64_t chain, const uint32_t tokens[PAGE_TOKENS], uint32_t *ret_page);
/* Makes a held, full page findable. If an equal one is known already, that one stays. */
void kv_publish(struct kv *kv, uint32_t page, uint64_t chain, const uint32_t tokens[PAGE_TOKENS]);

#endif
