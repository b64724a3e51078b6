#include "broker/models.h"

#include <stdio.h>
#include <string.h>

#include "base/clock.h"

/* A turn's length, in loads and at least and at most. */
static const double turn_loads = 10, turn_least_s = 30, turn_most_s = 300;
/* Another worker pays when what is left takes longer than so many changes. */
static const double worth_changes = 2;
static const double guess_tokens_per_s = 500, guess_fetch_bytes_per_s = 100e6;

bool models_suits(const struct models_file *f, const char *model)
{
    return strcmp(f->name, model) == 0 || strcmp(f->hash, model) == 0 ||
           (f->also != NULL && strcmp(f->also, model) == 0);
}

static const struct models_file *find_hash(const struct models_worker *w, const char *hash)
{
    for (size_t i = 0; i < w->count; i++) {
        if (strcmp(w->files[i].hash, hash) == 0)
            return &w->files[i];
    }
    return NULL;
}

static bool may_have(const struct models_worker *w, const char *hash)
{
    for (size_t i = 0; i < MODELS_MAX_CANNOT; i++) {
        if (w->cannot[i] != NULL && strcmp(w->cannot[i], hash) == 0)
            return false;
    }
    return true;
}

/* The first of its files that would do, and that it can load; NULL: none. */
static const struct models_file *find_file(const struct models_worker *w, const char *model)
{
    for (size_t i = 0; i < w->count; i++) {
        if (models_suits(&w->files[i], model) && may_have(w, w->files[i].hash))
            return &w->files[i];
    }
    return NULL;
}

/* With what it has loaded, or is about to. */
static bool serves(const struct models_worker *w, const struct models_demand *d)
{
    const struct models_file *f = w->loading[0] != '\0' ? find_hash(w, w->loading) : &w->files[0];
    return f != NULL && w->count > 0 && (d->model[0] == '\0' || models_suits(f, d->model));
}

/* What is computed for one decision. */
struct picture {
    const struct models_demand *demands;
    const struct models_worker *workers;
    size_t demand_count, worker_count;
    uint64_t now_ns;
    size_t serving[MODELS_MAX_DEMANDS];  /* workers */
    size_t holding[MODELS_MAX_DEMANDS];  /* that have its file */
    size_t fetching[MODELS_MAX_DEMANDS]; /* that will */
    double waited_s[MODELS_MAX_DEMANDS]; /* since `serving` changed */
};

static const struct models_wait *find_wait(const struct models_state *s, const char *model)
{
    for (size_t i = 0; i < s->count; i++) {
        if (strcmp(s->waits[i].model, model) == 0)
            return &s->waits[i];
    }
    return NULL;
}

static void look(struct models_state *s, struct picture *p)
{
    struct models_state next = {.count = p->demand_count};
    for (size_t i = 0; i < p->demand_count; i++) {
        const struct models_demand *d = &p->demands[i];
        for (size_t k = 0; k < p->worker_count; k++) {
            const struct models_worker *w = &p->workers[k];
            p->serving[i] += serves(w, d);
            p->holding[i] += find_file(w, d->model) != NULL;
            p->fetching[i] += w->fetching[0] != '\0' && strcmp(w->fetching, d->fetchable) == 0;
        }
        const struct models_wait *old = find_wait(s, d->model);
        struct models_wait *wait = &next.waits[i];
        bool same = old != NULL && old->workers == p->serving[i];
        snprintf(wait->model, sizeof wait->model, "%s", d->model);
        wait->workers = p->serving[i];
        wait->since_ns = same ? old->since_ns : p->now_ns;
        p->waited_s[i] = (double)(p->now_ns - wait->since_ns) / (double)NS_PER_S;
    }
    *s = next;
}

/* The most urgent demand that the worker's model is for, by name before "any"; demand_count: none.
 */
static size_t occupied_with(const struct picture *p, const struct models_worker *w)
{
    size_t best = p->demand_count;
    for (size_t i = 0; i < p->demand_count; i++) {
        if (serves(w, &p->demands[i]) &&
            (best == p->demand_count || p->demands[i].priority > p->demands[best].priority))
            best = i;
    }
    return best;
}

/* How long n such workers take with what is left of the demand. */
static double left_s(const struct models_demand *d, const struct models_worker *w, size_t n)
{
    double rate = w->tokens_per_s > 0 ? w->tokens_per_s : guess_tokens_per_s;
    return d->tokens / rate / (double)n;
}

static double turn_s(double cost_s)
{
    double s = turn_loads * cost_s;
    return s < turn_least_s ? turn_least_s : s > turn_most_s ? turn_most_s : s;
}

/* Whether demand i may take the worker away from demand `from`, which it works for. */
static bool may_take(const struct picture *p, size_t i, size_t from, const struct models_worker *w,
                     double cost_s)
{
    const struct models_demand *d = &p->demands[i], *e = &p->demands[from];
    double turn = turn_s(cost_s), waited_s = p->waited_s[i];
    if (d->priority > e->priority)
        return waited_s >= (p->serving[i] == 0 ? cost_s : turn);
    if (d->priority < e->priority)
        return false;
    if (w->loaded_s < turn || (p->serving[i] > 0 && p->serving[from] < p->serving[i] + 2))
        return false;
    /* it is about to be through */
    if (left_s(e, w, p->serving[from]) < cost_s && waited_s < 2 * turn)
        return false;
    return waited_s >= turn;
}

/* As that of its own, by the sizes of the files. */
static double load_s(const struct models_worker *w, uint64_t bytes)
{
    uint64_t own = w->files[0].bytes;
    return bytes == 0 || own == 0 ? w->load_s : w->load_s * (double)bytes / (double)own;
}

/* What it would cost that worker to take the demand on, in seconds; negative: it cannot, or need
 * not, or may not. *ret_idle: nothing waits for what it has. */
static double cost_of(const struct picture *p, size_t i, const struct models_worker *w,
                      const struct models_file **ret_file, bool *ret_idle)
{
    const struct models_demand *d = &p->demands[i];
    size_t have = p->serving[i] + p->fetching[i];
    if (!w->ready || w->loading[0] != '\0' || serves(w, d))
        return -1;
    const struct models_file *file = find_file(w, d->model);
    double cost_s = load_s(w, file != NULL ? file->bytes : d->bytes);
    if (file == NULL) {
        if (!w->fetches || w->fetching[0] != '\0' || d->fetchable[0] == '\0' ||
            !may_have(w, d->fetchable) || find_hash(w, d->fetchable) != NULL)
            return -1;
        cost_s += (double)d->bytes / guess_fetch_bytes_per_s;
    }
    size_t from = occupied_with(p, w);
    *ret_idle = from == p->demand_count;
    *ret_file = file;
    if (file != NULL)
        have = p->serving[i];
    if (have > 0 && left_s(d, w, have) <= worth_changes * cost_s)
        return -1;
    /* fetching takes nothing away from anybody; the load that follows may have to wait */
    bool first_fetch = file == NULL && p->holding[i] + p->fetching[i] == 0;
    return *ret_idle || first_fetch || (file != NULL && may_take(p, i, from, w, cost_s)) ? cost_s
                                                                                         : -1;
}

/* Before the other: what is more urgent, then what has waited longer. */
static bool comes_before(const struct picture *p, size_t a, size_t b)
{
    if (p->demands[a].priority != p->demands[b].priority)
        return p->demands[a].priority > p->demands[b].priority;
    return p->waited_s[a] > p->waited_s[b];
}

bool models_decide(struct models_state *s, const struct models_demand *demands, size_t demand_count,
                   const struct models_worker *workers, size_t worker_count, uint64_t now_ns,
                   struct models_order *ret)
{
    struct picture p = {.demands = demands,
                        .workers = workers,
                        .demand_count = demand_count,
                        .worker_count = worker_count,
                        .now_ns = now_ns};
    size_t best_demand = demand_count;
    struct models_order order = {0};
    look(s, &p);
    for (size_t i = 0; i < demand_count; i++) {
        bool found = false, found_idle = false;
        double found_s = 0;
        if (best_demand != demand_count && !comes_before(&p, i, best_demand))
            continue;
        for (size_t k = 0; k < worker_count; k++) {
            const struct models_file *file = NULL;
            bool idle = false;
            double cost_s = cost_of(&p, i, &workers[k], &file, &idle);
            if (cost_s < 0 || (found && (idle != found_idle ? found_idle : cost_s >= found_s)))
                continue;
            found = true;
            found_idle = idle;
            found_s = cost_s;
            best_demand = i;
            order = (struct models_order){.worker = k,
                                          .fetch = file == NULL,
                                          .hash = file == NULL ? demands[i].fetchable : file->hash,
                                          .demand = &demands[i]};
        }
    }
    if (best_demand == demand_count)
        return false;
    *ret = order;
    return true;
}
