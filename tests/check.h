/* The checks of every test program: they print file:line and what was seen, count, and go on, so
 * that one run shows every failure. A test's main ends with `return check_report();`. */
#ifndef OCTO_TESTS_CHECK_H
#define OCTO_TESTS_CHECK_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"

static unsigned check_count, check_failures;

static inline bool check_fail(const char *file, int line, const char *what)
{
    check_failures++;
    fprintf(stderr, "%s:%d: %s\n", file, line, what);
    return false;
}

#define CHECK(cond) (check_count++, (cond) ? true : check_fail(__FILE__, __LINE__, #cond))

/* Evaluates `call` (an enum err) once; prints `why` (a struct err_msg) when it is not ERR_OK. */
#define CHECK_OK(call, why)                                                                        \
    do {                                                                                           \
        check_count++;                                                                             \
        (why).text[0] = '\0';                                                                      \
        enum err check_e = (call);                                                                 \
        if (check_e != ERR_OK) {                                                                   \
            check_fail(__FILE__, __LINE__, #call);                                                 \
            fprintf(stderr, "    %s: %s\n", err_name(check_e), (why).text);                        \
        }                                                                                          \
    } while (0)

#define CHECK_ERR(call, want)                                                                      \
    do {                                                                                           \
        check_count++;                                                                             \
        enum err check_e = (call), check_want = (want);                                            \
        if (check_e != check_want) {                                                               \
            check_fail(__FILE__, __LINE__, #call);                                                 \
            fprintf(stderr, "    got \"%s\", expected \"%s\"\n", err_name(check_e),                \
                    err_name(check_want));                                                         \
        }                                                                                          \
    } while (0)

#define CHECK_INT(got, want)                                                                       \
    do {                                                                                           \
        check_count++;                                                                             \
        long long check_g = (long long)(got), check_w = (long long)(want);                         \
        if (check_g != check_w) {                                                                  \
            check_fail(__FILE__, __LINE__, #got " == " #want);                                     \
            fprintf(stderr, "    got %lld, expected %lld\n", check_g, check_w);                    \
        }                                                                                          \
    } while (0)

#define CHECK_STR(got, want)                                                                       \
    do {                                                                                           \
        check_count++;                                                                             \
        const char *check_g = (got), *check_w = (want);                                            \
        if (check_g == NULL || strcmp(check_g, check_w) != 0) {                                    \
            check_fail(__FILE__, __LINE__, #got);                                                  \
            fprintf(stderr, "    got \"%s\", expected \"%s\"\n", check_g ? check_g : "(null)",     \
                    check_w);                                                                      \
        }                                                                                          \
    } while (0)

/* A message must name what is wrong: `part` must occur in it. */
#define CHECK_HAS(text, part)                                                                      \
    do {                                                                                           \
        check_count++;                                                                             \
        const char *check_t = (text), *check_p = (part);                                           \
        if (strstr(check_t, check_p) == NULL) {                                                    \
            check_fail(__FILE__, __LINE__, #text);                                                 \
            fprintf(stderr, "    \"%s\" does not contain \"%s\"\n", check_t, check_p);             \
        }                                                                                          \
    } while (0)

/* For a folder that the test made. */
static inline void check_remove(const char *dir)
{
    char command[256];
    snprintf(command, sizeof command, "rm -rf '%s'", dir);
    if (system(command) != 0)
        fprintf(stderr, "left behind: %s\n", dir);
}

static inline int check_report(void)
{
    if (check_failures > 0)
        fprintf(stderr, "%u of %u checks failed\n", check_failures, check_count);
    else
        printf("%u checks passed\n", check_count);
    return check_failures > 0 || check_count == 0;
}

/* DIR/NAME; the text is good for three calls more. */
static inline const char *check_path(const char *dir, const char *name)
{
    static char paths[4][6000];
    static unsigned at;
    char *path = paths[at++ % 4];
    snprintf(path, sizeof paths[0], "%s/%s", dir, name);
    return path;
}

/* splitmix64: the tests' random numbers. The seed comes from OCTO_TEST_SEED or the test's default
 * and is printed. */
struct check_rng {
    uint64_t state;
};

static inline uint64_t check_rng_next(struct check_rng *r)
{
    uint64_t z = (r->state += UINT64_C(0x9e3779b97f4a7c15));
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

static inline uint64_t check_rng_below(struct check_rng *r, uint64_t n)
{
    return check_rng_next(r) % n;
}

static inline float check_rng_float(struct check_rng *r, float low, float high)
{
    return low + (high - low) * (float)(check_rng_next(r) >> 40) / (float)(1 << 24);
}

static inline struct check_rng check_rng_start(uint64_t seed)
{
    const char *text = getenv("OCTO_TEST_SEED");
    if (text != NULL)
        seed = strtoull(text, NULL, 0);
    printf("seed %llu\n", (unsigned long long)seed);
    return (struct check_rng){seed};
}

#endif
