/* What the parts of octoflow-load share: the options, the pattern of a body, a histogram of times.
 * One process is one role: a client, a worker, or the same two for beanstalkd. One thread. */
#ifndef OCTO_BENCH_BROKER_LOAD_H
#define OCTO_BENCH_BROKER_LOAD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct load_options {
    const char *connect; /* ipc://PATH or tcp://HOST:PORT */
    const char *name;    /* of the worker, or of the batch */
    int64_t jobs;   /* client: lines to submit; consumer: jobs to delete, all of them together */
    int64_t first;  /* client: number of the first line */
    int64_t lines;  /* a SUBMIT */
    int64_t window; /* SUBMITs, or puts, without an answer */
    int64_t credit; /* jobs a worker has room for */
    int64_t body;   /* bytes of a request and of a result */
    int64_t queued; /* client: waits with new lines while so many are unfinished; 0: never */
    int64_t done;   /* client: ends when so many results are there; 0: one for each line */
    int64_t damage; /* worker: spoils the result of each line that is a multiple; 0: none */
    bool fetch;     /* client: fetches and checks every result, until all are there */
};

/* Times in tenths of a millisecond up to a second, what is longer counts as a second. */
enum { LOAD_BUCKETS = 10000 };
struct load_times {
    uint64_t counts[LOAD_BUCKETS + 1];
    uint64_t total;
};
void load_times_add(struct load_times *t, uint64_t ns);
/* "name":{"tenths of ms":count,...} of the buckets that are not empty. */
void load_times_print(const char *name, const struct load_times *t);

/* Fills `len` bytes (16 at least) with what belongs to line n: n itself, and noise made of it. */
void load_fill(char *body, size_t len, uint64_t n, uint64_t salt);
/* The line a body was filled for; 0: it is none of ours, or damaged. */
uint64_t load_line_of(const char *body, size_t len, uint64_t salt);

enum { LOAD_REQUEST = 1, LOAD_RESULT = 2 }; /* salts */

/* The roles; each returns the process's exit status: 0, or 1 after a line on standard error. */
int load_worker(const struct load_options *o);
int load_client(const struct load_options *o);
int load_producer(const struct load_options *o);
int load_consumer(const struct load_options *o);

#endif
