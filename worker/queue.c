/* A ring under a mutex; see queue.h. */
#include "worker/queue.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"

struct queue {
    pthread_mutex_t mutex;
    pthread_cond_t items; /* there is an item, or closed */
    pthread_cond_t room;  /* there is room, or closed */
    pthread_cond_t rest;  /* closed, or woken */
    size_t item_bytes, capacity, head, count;
    bool closed, woken;
    unsigned char *ring;
};

enum err queue_create(size_t item_bytes, size_t capacity, struct queue **ret)
{
    struct queue *q = calloc(1, sizeof *q);
    unsigned char *ring = calloc(capacity, item_bytes);
    if (q == NULL || ring == NULL) {
        free(q);
        free(ring);
        return ERR_NOMEM;
    }
    q->ring = ring;
    q->item_bytes = item_bytes;
    q->capacity = capacity;
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_mutex_init(&q->mutex, NULL);
    pthread_cond_init(&q->items, NULL);
    pthread_cond_init(&q->room, NULL);
    pthread_cond_init(&q->rest, &monotonic);
    pthread_condattr_destroy(&monotonic);
    *ret = q;
    return ERR_OK;
}

void queue_destroy(struct queue **q)
{
    if (q == NULL || *q == NULL)
        return;
    pthread_cond_destroy(&(*q)->items);
    pthread_cond_destroy(&(*q)->room);
    pthread_cond_destroy(&(*q)->rest);
    pthread_mutex_destroy(&(*q)->mutex);
    free((*q)->ring);
    free(*q);
    *q = NULL;
}

static void put(struct queue *q, const void *item)
{
    size_t at = (q->head + q->count) % q->capacity;
    memcpy(q->ring + at * q->item_bytes, item, q->item_bytes);
    q->count++;
    pthread_cond_signal(&q->items);
}

static void take(struct queue *q, void *ret_item)
{
    memcpy(ret_item, q->ring + q->head * q->item_bytes, q->item_bytes);
    q->head = (q->head + 1) % q->capacity;
    q->count--;
    pthread_cond_signal(&q->room);
}

enum err queue_push(struct queue *q, const void *item)
{
    pthread_mutex_lock(&q->mutex);
    bool full = q->count == q->capacity;
    if (!full)
        put(q, item);
    pthread_mutex_unlock(&q->mutex);
    return full ? ERR_FULL : ERR_OK;
}

enum err queue_push_wait(struct queue *q, const void *item)
{
    pthread_mutex_lock(&q->mutex);
    while (q->count == q->capacity && !q->closed)
        pthread_cond_wait(&q->room, &q->mutex);
    bool room = q->count < q->capacity;
    if (room)
        put(q, item);
    pthread_mutex_unlock(&q->mutex);
    return room ? ERR_OK : ERR_CANCELLED;
}

bool queue_pop(struct queue *q, void *ret_item)
{
    pthread_mutex_lock(&q->mutex);
    bool any = q->count > 0;
    if (any)
        take(q, ret_item);
    pthread_mutex_unlock(&q->mutex);
    return any;
}

bool queue_pop_wait(struct queue *q, void *ret_item)
{
    pthread_mutex_lock(&q->mutex);
    while (q->count == 0 && !q->closed)
        pthread_cond_wait(&q->items, &q->mutex);
    bool any = q->count > 0;
    if (any)
        take(q, ret_item);
    pthread_mutex_unlock(&q->mutex);
    return any;
}

bool queue_rest(struct queue *q, uint64_t ns)
{
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    uint64_t end_ns = (uint64_t)until.tv_nsec + ns;
    until.tv_sec += (time_t)(end_ns / NS_PER_S);
    until.tv_nsec = (long)(end_ns % NS_PER_S);
    int timed_out = 0;
    pthread_mutex_lock(&q->mutex);
    while (!q->closed && !q->woken && timed_out == 0)
        timed_out = pthread_cond_timedwait(&q->rest, &q->mutex, &until);
    bool whole = !q->closed && !q->woken;
    q->woken = false;
    pthread_mutex_unlock(&q->mutex);
    return whole;
}

void queue_wake(struct queue *q)
{
    pthread_mutex_lock(&q->mutex);
    q->woken = true;
    pthread_cond_broadcast(&q->rest);
    pthread_mutex_unlock(&q->mutex);
}

void queue_close(struct queue *q)
{
    pthread_mutex_lock(&q->mutex);
    q->closed = true;
    pthread_cond_broadcast(&q->items);
    pthread_cond_broadcast(&q->room);
    pthread_cond_broadcast(&q->rest);
    pthread_mutex_unlock(&q->mutex);
}
