/* A bounded queue of fixed-size items between two threads. Thread-safe. */
#ifndef OCTO_WORKER_QUEUE_H
#define OCTO_WORKER_QUEUE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

struct queue;

enum err queue_create(size_t item_bytes, size_t capacity, struct queue **ret) MUST_CHECK;
void queue_destroy(struct queue **q);
/* Copies the item in. ERR_FULL: no room, nothing happened. */
enum err queue_push(struct queue *q, const void *item) MUST_CHECK;
/* Waits for room. ERR_CANCELLED: the queue was closed, nothing was queued. */
enum err queue_push_wait(struct queue *q, const void *item) MUST_CHECK;
bool queue_pop(struct queue *q, void *ret_item);
/* Waits until there is an item (true) or the queue is closed and empty (false). */
bool queue_pop_wait(struct queue *q, void *ret_item);
/* Sleeps up to ns, less when the queue is closed or queue_wake() is called: then returns false. */
bool queue_rest(struct queue *q, uint64_t ns);
void queue_wake(struct queue *q);
/* Wakes everyone; what is in it can still be popped. */
void queue_close(struct queue *q);

#endif
