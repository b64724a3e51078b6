/* Operations of a ledger, waited for: what ledger.h's callbacks do in tests. */
#ifndef OCTO_TESTS_BROKER_LEDGER_WAIT_H
#define OCTO_TESTS_BROKER_LEDGER_WAIT_H

#include <pthread.h>

#include "broker/ledger.h"

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t woken = PTHREAD_COND_INITIALIZER;
static unsigned wakes, done_count;

static void wake(void *user)
{
    (void)user;
    pthread_mutex_lock(&mutex);
    wakes++;
    pthread_cond_signal(&woken);
    pthread_mutex_unlock(&mutex);
}

static void done(struct ledger_op *op)
{
    (void)op;
    done_count++;
}

/* Submits all and waits until they were handed back. */
static void run_all(struct ledger *l, struct ledger_op **ops, size_t count)
{
    done_count = 0;
    for (size_t i = 0; i < count; i++) {
        ops[i]->done = done;
        ops[i]->now_ms = 1000;
        ledger_submit(l, ops[i]);
    }
    for (;;) {
        ledger_poll(l);
        if (done_count >= count)
            return;
        pthread_mutex_lock(&mutex);
        while (wakes == 0)
            pthread_cond_wait(&woken, &mutex);
        wakes = 0;
        pthread_mutex_unlock(&mutex);
    }
}

#endif
