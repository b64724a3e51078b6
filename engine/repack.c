#include "engine/repack.h"

#include <pthread.h>
#include <sched.h>
#include <stdlib.h>

#include "base/size.h"
#include "base/str.h"
#include "engine/kernels.h"

enum {
    MOST_THREADS = 8,
    PLACES = 24,     /* pieces that are worked on, wait for the caller, or are with it (one) */
    STRIPE_ROWS = 32 /* a piece begins at a multiple: rows of a stripe share their bytes */
};
static const uint64_t PIECE_BYTES = UINT64_C(8) << 20; /* or one stripe of rows */

struct place {
    struct repack_piece piece;
    uint64_t first_row, rows;
    void *data;
    bool ready;
    enum err result;
    struct err_msg why;
};

struct repack {
    const struct gguf_tensor **tensors;
    size_t count;
    pthread_t threads[MOST_THREADS];
    unsigned threads_count;

    pthread_mutex_t
        lock; /* of all below; a place that was taken belongs to its thread until ready */
    pthread_cond_t changed;
    size_t tensor; /* the next piece */
    uint64_t row;
    uint64_t taken, given; /* pieces so far */
    bool stop;
    struct place places[PLACES]; /* of piece n: n % PLACES */
};

static uint64_t tensor_rows(const struct gguf_tensor *t)
{
    return t->dims[1] * t->dims[2];
}

/* Under the lock: the next piece, for the caller to work on. NULL: none is left, or no place. */
static struct place *take(struct repack *r)
{
    if (r->stop || r->tensor == r->count || r->taken - r->given == PLACES - 1)
        return NULL;
    const struct gguf_tensor *t = r->tensors[r->tensor];
    uint64_t stripe = max_u64(1, kernel_weight_bytes(t->type, STRIPE_ROWS, t->dims[0]));
    uint64_t most = max_u64(1, PIECE_BYTES / stripe) * STRIPE_ROWS;
    struct place *p = &r->places[r->taken++ % PLACES];
    *p = (struct place){.first_row = r->row, .rows = min_u64(most, tensor_rows(t) - r->row)};
    r->row += p->rows;
    p->piece = (struct repack_piece){
        .tensor = t,
        .offset = kernel_weight_bytes(t->type, p->first_row, t->dims[0]),
        .bytes = kernel_weight_bytes(t->type, p->rows, t->dims[0]),
        .last = r->row == tensor_rows(t),
    };
    if (p->piece.last) {
        r->tensor++;
        r->row = 0;
    }
    return p;
}

/* Without the lock. */
static void work(struct place *p)
{
    const struct gguf_tensor *t = p->piece.tensor;
    /* Rows lie one after the other in the file: of equal length, or the type is refused below. */
    const uint8_t *from = t->data + t->bytes / max_u64(1, tensor_rows(t)) * p->first_row;
    p->data = malloc(max_u64(1, p->piece.bytes));
    if (p->data == NULL)
        p->result = err_set(&p->why, ERR_NOMEM, "out of memory: %llu bytes for tensor %.*s",
                            (unsigned long long)p->piece.bytes, STR_ARG(t->name));
    else
        p->result = kernel_weight_repack(t->type, p->rows, t->dims[0], from, p->data, &p->why);
    p->piece.data = p->data;
}

static void *run(void *user)
{
    struct repack *r = user;
    pthread_mutex_lock(&r->lock);
    while (!r->stop && r->tensor < r->count) {
        struct place *p = take(r);
        if (p == NULL) {
            pthread_cond_wait(&r->changed, &r->lock);
            continue;
        }
        pthread_mutex_unlock(&r->lock);
        work(p);
        pthread_mutex_lock(&r->lock);
        p->ready = true;
        pthread_cond_broadcast(&r->changed);
    }
    pthread_mutex_unlock(&r->lock);
    return NULL;
}

unsigned repack_threads(void)
{
    cpu_set_t set;
    int cores = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
    return (unsigned)min_u64(MOST_THREADS, cores > 1 ? (uint64_t)cores - 1 : 0);
}

enum err repack_create(const struct gguf_tensor *const *tensors, size_t count, unsigned threads,
                       struct repack **ret, struct err_msg *why)
{
    struct repack *r = calloc(1, sizeof *r);
    if (r != NULL)
        r->tensors = calloc(count + 1, sizeof *r->tensors);
    if (r == NULL || r->tensors == NULL) {
        free(r);
        return err_set(why, ERR_NOMEM, "out of memory for the tensor table");
    }
    for (size_t i = 0; i < count; i++)
        r->tensors[i] = tensors[i];
    r->count = count;
    pthread_mutex_init(&r->lock, NULL);
    pthread_cond_init(&r->changed, NULL);
    while (r->threads_count < min_u64(threads, MOST_THREADS) &&
           pthread_create(&r->threads[r->threads_count], NULL, run, r) == 0)
        r->threads_count++;
    *ret = r;
    return ERR_OK;
}

/* The error as if the tensor had been repacked in one: rows are counted from its first. */
static enum err whole_error(const struct place *p, struct err_msg *why)
{
    const struct gguf_tensor *t = p->piece.tensor;
    uint64_t rows = p->first_row + p->rows;
    void *data = p->first_row == 0 || p->result == ERR_NOMEM
                     ? NULL
                     : malloc(kernel_weight_bytes(t->type, rows, t->dims[0]));
    enum err e = p->result;
    *why = p->why;
    if (data != NULL)
        e = kernel_weight_repack(t->type, rows, t->dims[0], t->data, data, why);
    free(data);
    return e == ERR_NOMEM ? e : err_prefix(why, e, "tensor %.*s", STR_ARG(t->name));
}

enum err repack_next(struct repack *r, struct repack_piece *ret, struct err_msg *why)
{
    pthread_mutex_lock(&r->lock);
    if (r->given > 0) { /* the piece before is the caller's no longer */
        struct place *before = &r->places[(r->given - 1) % PLACES];
        free(before->data);
        before->data = NULL;
    }
    struct place *p = r->taken == r->given ? take(r) : NULL;
    if (p != NULL) { /* nobody has begun it */
        pthread_mutex_unlock(&r->lock);
        work(p);
        pthread_mutex_lock(&r->lock);
        p->ready = true;
    }
    if (r->taken == r->given) {
        pthread_mutex_unlock(&r->lock);
        return err_set(why, ERR_AGAIN, "no piece is left");
    }
    p = &r->places[r->given % PLACES];
    while (!p->ready)
        pthread_cond_wait(&r->changed, &r->lock);
    r->given++;
    pthread_cond_broadcast(&r->changed);
    pthread_mutex_unlock(&r->lock);
    if (p->result != ERR_OK)
        return whole_error(p, why);
    *ret = p->piece;
    return ERR_OK;
}

void repack_destroy(struct repack **rp)
{
    struct repack *r = *rp;
    if (r == NULL)
        return;
    pthread_mutex_lock(&r->lock);
    r->stop = true;
    pthread_cond_broadcast(&r->changed);
    pthread_mutex_unlock(&r->lock);
    for (unsigned i = 0; i < r->threads_count; i++)
        pthread_join(r->threads[i], NULL);
    for (size_t i = 0; i < PLACES; i++)
        free(r->places[i].data);
    pthread_mutex_destroy(&r->lock);
    pthread_cond_destroy(&r->changed);
    free(r->tensors);
    free(r);
    *rp = NULL;
}
