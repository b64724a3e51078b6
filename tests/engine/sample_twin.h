/* The sampler's twin, written from the definitions in shaders/push.h: sorting, masses in integers,
 * Philox from the paper. Of double precision: margins say how near a decision of floats is. */
#ifndef OCTO_SAMPLE_TWIN_H
#define OCTO_SAMPLE_TWIN_H

#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "shaders/push.h"

enum { MAX_BANNED = 160 };

struct row {
    struct sample_row p;
    uint32_t banned[MAX_BANNED];
};

static struct row plain_row(float temperature, uint64_t seed, uint32_t position)
{
    return (struct row){.p = {.temperature = temperature,
                              .top_p = 1,
                              .seed_low = (uint32_t)seed,
                              .seed_high = (uint32_t)(seed >> 32),
                              .position = position}};
}

static void *take(size_t bytes)
{
    void *p = calloc(1, bytes + 1);
    if (p == NULL)
        exit(1);
    return p;
}

/* Philox4x32-10, Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3". */
static void philox(uint32_t counter[4], uint32_t key0, uint32_t key1)
{
    for (int round = 0; round < 10; round++) {
        uint64_t a = (uint64_t)0xD2511F53 * counter[0], c = (uint64_t)0xCD9E8D57 * counter[2];
        uint32_t next[4] = {(uint32_t)(c >> 32) ^ counter[1] ^ key0, (uint32_t)c,
                            (uint32_t)(a >> 32) ^ counter[3] ^ key1, (uint32_t)a};
        memcpy(counter, next, sizeof next);
        key0 += 0x9E3779B9;
        key1 += 0xBB67AE85;
    }
}

static bool twin_banned(const struct row *row, uint32_t id)
{
    for (uint32_t i = 0; i < row->p.banned_count; i++)
        if (row->banned[i] == id)
            return true;
    return false;
}

static int descending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? 1 : x > y ? -1 : 0;
}

/* exp(z - zmax) in units of 2^-31. */
static double twin_mass(double z, double zmax)
{
    return floor(exp(z - zmax) * 2147483648.0);
}

/* z of what min_p and top_k keep, -infinity for the others; *ret_margin: the distance in z of the
 * nearest value to min_p's threshold: where it is tiny, f32 may rightly decide otherwise. */
static double *twin_kept(const float *logits, const struct row *row, uint32_t n, double *ret_zmax,
                         double *ret_margin)
{
    double *z = take(n * sizeof *z), *sorted = take(n * sizeof *z), zmax = -INFINITY,
           least = -INFINITY;
    *ret_margin = INFINITY;
    for (uint32_t i = 0; i < n; i++) {
        z[i] = twin_banned(row, i) || isnan(logits[i]) ? -INFINITY
                                                       : logits[i] / (double)row->p.temperature;
        zmax = fmax(zmax, z[i]);
    }
    if (row->p.min_p > 0)
        least = zmax + log((double)row->p.min_p);
    for (uint32_t i = 0; i < n; i++) {
        *ret_margin = fmin(*ret_margin, fabs(z[i] - least) > 0 ? fabs(z[i] - least) : INFINITY);
        z[i] = z[i] < least ? -INFINITY : z[i];
    }
    memcpy(sorted, z, n * sizeof *z);
    qsort(sorted, n, sizeof *sorted, descending);
    if (row->p.top_k > 0 && row->p.top_k < n)
        least = fmax(least, sorted[row->p.top_k - 1]);
    for (uint32_t i = 0; i < n; i++)
        z[i] = z[i] < least ? -INFINITY : z[i];
    free(sorted);
    *ret_zmax = zmax;
    return z;
}

/* The lowest z that top_p keeps; the margin, in parts of the mass, as above. */
static double twin_nucleus(const double *z, uint32_t n, double zmax, float top_p,
                           double *ret_margin)
{
    double *sorted = take(n * sizeof *z), total = 0, sum = 0, least = -INFINITY;
    memcpy(sorted, z, n * sizeof *z);
    qsort(sorted, n, sizeof *sorted, descending);
    for (uint32_t i = 0; i < n; i++)
        total += twin_mass(sorted[i], zmax);
    for (uint32_t i = 0; i < n && top_p < 1; i++) {
        sum += twin_mass(sorted[i], zmax);
        if (i + 1 < n && sorted[i + 1] == sorted[i])
            continue;
        *ret_margin = fmin(*ret_margin, fabs(sum / total - (double)top_p));
        if (sum >= total * (double)top_p) {
            least = sorted[i];
            break;
        }
    }
    free(sorted);
    return least;
}

/* The i-th id in the order of the draw: by id / 4 % SAMPLE_GROUPS, then by id. */
static uint32_t *twin_order(uint32_t n)
{
    uint32_t *order = take(n * sizeof *order), used = 0;
    for (uint32_t g = 0; g < SAMPLE_GROUPS; g++)
        for (uint32_t id = g * 4; id < n; id += id % 4 == 3 ? SAMPLE_GROUPS * 4 - 3 : 1)
            order[used++] = id;
    return order;
}

/* 64 random bits over 2^64. */
static double twin_random(const struct sample_row *p, uint32_t round)
{
    uint32_t counter[4] = {p->position, p->choice, round, 0};
    philox(counter, p->seed_low, p->seed_high);
    return ldexp(counter[0], -32) + ldexp(counter[1], -64);
}

/* What round 0 leaves out for top_p < 1, if it may: values up to this, of those that are kept (z).
 * As push.h guesses it, in the floats that the shader has. */
static float twin_tail(const float *logits, const struct row *row, const double *z, uint32_t n,
                       double zmax, double *ret_margin)
{
    uint32_t levels[SAMPLE_LEVELS] = {0}, lines = (n + 3) / 4;
    uint32_t stride = (lines + SAMPLE_LOOK_LINES - 1) / SAMPLE_LOOK_LINES;
    float scale = 1 / row->p.temperature, zmax_f = -INFINITY, tail = -INFINITY;
    double total = 0, sum = 0;
    stride = stride < 8 ? 8 : stride;
    for (uint32_t i = 0; i < n; i++)
        if (z[i] > -INFINITY)
            zmax_f = fmaxf(zmax_f, logits[i] * scale);
    for (uint32_t i = 0; i < n; i++) {
        if (i / 4 % stride != 0 || !(z[i] > -INFINITY))
            continue;
        uint32_t level = (uint32_t)((zmax_f - logits[i] * scale) * SAMPLE_LEVELS_UNIT);
        uint32_t mass = (uint32_t)twin_mass(z[i], zmax) >> 12;
        levels[level < SAMPLE_LEVELS ? level : SAMPLE_LEVELS - 1] += mass;
        total += mass;
    }
    float most = (float)total * (1 - row->p.top_p) * 0.9375f;
    for (uint32_t level = SAMPLE_LEVELS; level-- > 0;) {
        sum += levels[level];
        if (sum > 0)
            *ret_margin = fmin(*ret_margin, fabs(sum - (double)most) / total);
        if (sum <= floor((double)most))
            tail = zmax_f - (float)level / SAMPLE_LEVELS_UNIT;
    }
    for (uint32_t i = 0; i < n; i++)
        *ret_margin = fmin(*ret_margin, fabs((double)(logits[i] * scale - tail)));
    return tail;
}

/* The id drawn; *ret_margin: of all decisions, the nearest to another outcome. */
static uint32_t twin_draw(const float *logits, const struct row *row, uint32_t n,
                          double *ret_margin)
{
    double zmax, *z = twin_kept(logits, row, n, &zmax, ret_margin), above = INFINITY;
    double least = twin_nucleus(z, n, zmax, row->p.top_p, ret_margin);
    uint32_t *order = twin_order(n), id = 0;
    double tail = -INFINITY, all = 0, without = 0;
    if (row->p.top_p < 1)
        tail = (double)twin_tail(logits, row, z, n, zmax, ret_margin);
    for (uint32_t i = 0; i < n; i++) {
        all += twin_mass(z[i], zmax);
        without += z[i] > tail ? twin_mass(z[i], zmax) : 0;
    }
    if (tail > -INFINITY)
        *ret_margin = fmin(*ret_margin, fabs(without / all - (double)row->p.top_p));
    bool leaves_out = without >= all * (double)row->p.top_p;
    for (uint32_t round = 0; round == 0 || above < least; round++) {
        double total = 0, sum = 0;
        if (round == 0)
            above = leaves_out ? tail : -INFINITY;
        for (uint32_t i = 0; i < n; i++)
            total += z[i] > above ? twin_mass(z[i], zmax) : 0;
        double target = twin_random(&row->p, round) * total;
        for (uint32_t i = 0; i < n && sum <= target; i++) {
            id = order[i];
            sum += z[id] > above ? twin_mass(z[id], zmax) : 0;
            *ret_margin = fmin(*ret_margin, fabs(sum - target) / total);
        }
        above = z[id];
    }
    free(order);
    free(z);
    return id;
}

#endif
