/* octoflow-load ROLE: the two ends of the broker's benchmark, and of beanstalkd's beside it. Who
 * starts what, and what is made of the figures, is run.py's. */
#include "bench/broker/load.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "base/options.h"
#include "base/size.h"

void load_times_add(struct load_times *t, uint64_t ns)
{
    t->counts[min_u64(ns / 100000, LOAD_BUCKETS)]++;
    t->total++;
}

void load_times_print(const char *name, const struct load_times *t)
{
    const char *comma = "";
    printf("\"%s\":{", name);
    for (size_t i = 0; i <= LOAD_BUCKETS; i++) {
        if (t->counts[i] == 0)
            continue;
        printf("%s\"%zu\":%" PRIu64, comma, i, t->counts[i]);
        comma = ",";
    }
    printf("}");
}

/* splitmix64, Steele et al. 2014 */
static uint64_t next_noise(uint64_t *state)
{
    uint64_t z = *state += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

void load_fill(char *body, size_t len, uint64_t n, uint64_t salt)
{
    uint64_t state = n * 0x10001 + salt;
    memcpy(body, &n, sizeof n);
    for (size_t at = sizeof n; at < len; at += sizeof n) {
        uint64_t noise = next_noise(&state);
        memcpy(body + at, &noise, min_u64(sizeof noise, len - at));
    }
}

uint64_t load_line_of(const char *body, size_t len, uint64_t salt)
{
    uint64_t n;
    if (len < 2 * sizeof n)
        return 0;
    memcpy(&n, body, sizeof n);
    uint64_t state = n * 0x10001 + salt;
    for (size_t at = sizeof n; at < len; at += sizeof n) {
        uint64_t noise = next_noise(&state);
        if (memcmp(body + at, &noise, min_u64(sizeof noise, len - at)) != 0)
            return 0;
    }
    return n;
}

#define AT(field) offsetof(struct load_options, field)

static const struct option table[] = {
    {"connect", 0, OPTION_STRING, AT(connect), .arg = "ENDPOINT",
     .help = "the broker's; for beanstalkd tcp://127.0.0.1:PORT"},
    {"name", 0, OPTION_STRING, AT(name), .arg = "TEXT", .help = "the worker's, or the batch's"},
    {"jobs", 0, OPTION_INT, AT(jobs), .min = 0, .max = 1e9, .arg = "N",
     .help = "jobs to send, or to take"},
    {"first", 0, OPTION_INT, AT(first), .min = 1, .max = 1e9, .arg = "N",
     .help = "number of the first line (default 1)"},
    {"lines", 0, OPTION_INT, AT(lines), .min = 1, .max = 1024, .arg = "N",
     .help = "lines in a SUBMIT (default 256)"},
    {"window", 0, OPTION_INT, AT(window), .min = 1, .max = 100000, .arg = "N",
     .help = "SUBMITs, or puts, without an answer (default 4)"},
    {"credit", 0, OPTION_INT, AT(credit), .min = 1, .max = 1024, .arg = "N",
     .help = "jobs a worker asks for at a time (default 64)"},
    {"body", 0, OPTION_INT, AT(body), .min = 16, .max = 60000, .arg = "BYTES",
     .help = "size of requests and results (default 1024)"},
    {"queued", 0, OPTION_INT, AT(queued), .min = 0, .max = 1e9, .arg = "N",
     .help = "no new lines while this many are unfinished; 0: no such limit (default 0)"},
    {"done", 0, OPTION_INT, AT(done), .min = 0, .max = 1e9, .arg = "N",
     .help = "end when this many results are fetched; 0: one for each line (default 0)"},
    {"damage", 0, OPTION_INT, AT(damage), .min = 0, .max = 1e9, .arg = "N",
     .help = "worker: spoil the result of each line that is a multiple of N, to see that it is "
             "noticed (default 0: none)"},
    {"fetch", 0, OPTION_FLAG, AT(fetch), .help = "fetch every result, and check it"},
};

int main(int argc, char **argv)
{
    static const struct role {
        const char *name;
        int (*run)(const struct load_options *o);
    } roles[] = {{"worker", load_worker},
                 {"client", load_client},
                 {"producer", load_producer},
                 {"consumer", load_consumer}};
    struct load_options o = {
        .name = "load", .first = 1, .lines = 256, .window = 4, .credit = 64, .body = 1024};
    struct err_msg why = {{0}};
    int count = 0;
    enum err e = options_parse(table, ARRAY_LEN(table), &o, argc - 1, argv + 1, &count, &why);
    if (e == ERR_OK && (count != 1 || o.connect == NULL))
        e = ERR_CANCELLED;
    for (size_t i = 0; i < ARRAY_LEN(roles) && e == ERR_OK; i++) {
        if (strcmp(argv[1], roles[i].name) != 0)
            continue;
        log_init("octoflow-load", LOG_LEVEL_WARN);
        return roles[i].run(&o);
    }
    if (e != ERR_OK && e != ERR_CANCELLED) {
        fprintf(stderr, "octoflow-load: %s\n", why.text);
        return 2;
    }
    printf("usage: octoflow-load worker|client|producer|consumer --connect ENDPOINT [options]\n\n");
    options_print(table, ARRAY_LEN(table), stdout);
    return e == ERR_CANCELLED ? 0 : 2;
}
