/* octoflow-bench governor: nights on simulated cards without a governor and with each of its laws.
 */
#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/size.h"
#include "bench/bench.h"
#include "bench/governor_night.h"
#include "octo_build.h"

struct governor_options {
    const char *plants, *plant, *work, *csv;
    int64_t seed;
    double hours, target_c;
    bool json;
};

static const struct option table[] = {
    {"plants", 0, OPTION_STRING, offsetof(struct governor_options, plants), .arg = "FILE",
     .help = "the cards, their work, sensor and room (default tests/plants.json)"},
    {"plant", 0, OPTION_STRING, offsetof(struct governor_options, plant), .arg = "NAME",
     .help = "only this card (default all)"},
    {"work", 0, OPTION_STRING, offsetof(struct governor_options, work), .arg = "NAME",
     .help = "only this work (default all)"},
    {"hours", 0, OPTION_FLOAT, offsetof(struct governor_options, hours), .min = 0.1, .max = 1000,
     .arg = "HOURS", .help = "of a night (default: the file's)"},
    {"target-c", 0, OPTION_FLOAT, offsetof(struct governor_options, target_c), .min = 30,
     .max = 110, .arg = "CELSIUS", .help = "target of all cards (default: the file's)"},
    {"seed", 0, OPTION_INT, offsetof(struct governor_options, seed), .min = 0, .max = 1e9,
     .arg = "N", .help = "of the sensors' noise (default 1)"},
    {"csv", 0, OPTION_STRING, offsetof(struct governor_options, csv), .arg = "FILE",
     .help = "writes a row each second: what docs/governor.md draws"},
    {"json", 0, OPTION_FLAG, offsetof(struct governor_options, json),
     .help = "one JSON object on the last line"},
};

static const char *const law_names[] = {"none", "ramp", "pi"};

struct csv {
    FILE *file; /* NULL: none */
    const char *plant, *work, *law;
};

static void write_row(void *user, const struct night_row *r)
{
    struct csv *c = user;
    fprintf(c->file, "%s,%s,%s,%.4f,%.2f,%.3f,%.1f,%.1f,%.2f,%.4f,%.2f,%.4f\n", c->plant, c->work,
            c->law, r->hour, r->room_c, r->die_c, r->sensor_c, r->power_w, r->clock, r->duty,
            r->delay_ms, r->speed);
}

/* What goes into the last line; NAN: that night was not asked for. */
struct summary {
    double tokens_vs_ungoverned, overshoot_c, cool_speed;
};

static void print_night(const struct night *n, const struct night_result *r,
                        const struct night_result *none, uint64_t wall_ns)
{
    printf("%-16s %-14s %-5s %7.2f %7.3f %7.1f %7.1f %8.1f %10.5f %7.2f %8.2f %7.2f %6.0f\n",
           n->plant->name, n->work->name, law_names[n->governor.law], r->tokens * 100,
           r->tokens / none->tokens, r->peak_c, r->mean_c, r->throttled_s / 60, r->per_joule * 1000,
           r->worst_minute * 100, r->overshoot_c, r->ripple_c, (double)wall_ns / 1e6);
}

static void run_laws(const struct governor_options *o, struct night n, struct csv *csv,
                     struct summary *s)
{
    struct night_result none = {0};
    csv->plant = n.plant->name;
    csv->work = n.work->name;
    for (size_t law = 0; law < ARRAY_LEN(law_names); law++) {
        n.governor = governor_defaults();
        bool usual = n.governor.law == law;
        n.governor.law = (enum governor_law)law;
        n.governor.limits.target_c = o->target_c > 0 ? o->target_c : n.plant->target_c;
        csv->law = law_names[law];
        uint64_t start_ns = clock_mono_ns();
        struct night_result r = night_run(&n);
        none = law == GOVERNOR_OFF ? r : none;
        print_night(&n, &r, &none, clock_mono_ns() - start_ns);
        bool compute = strcmp(n.work->name, "compute_bound") == 0;
        if (usual && compute && strcmp(n.plant->name, "deep_hysteresis") == 0)
            s->tokens_vs_ungoverned = r.tokens / none.tokens;
        if (usual && compute && strcmp(n.plant->name, "cool_server") == 0)
            s->cool_speed = r.tokens / none.tokens;
        if (usual)
            s->overshoot_c = fmax(s->overshoot_c, r.overshoot_c);
    }
}

static bool wanted(const char *want, const char *name)
{
    return want == NULL || strcmp(want, name) == 0;
}

static enum err run_nights(const struct governor_options *o, const struct plant_file *f, FILE *csv,
                           struct summary *s, struct err_msg *why)
{
    struct csv rows = {.file = csv};
    size_t nights = 0;
    printf("nights of %g hours, seed %lld, laws' targets %s; tokens in %% of full speed\n"
           "s/kJ: seconds of full speed a kilojoule; min. %%: the worst minute; over C, ripple: "
           "once settled\n"
           "%-16s %-14s %-5s %7s %7s %7s %7s %8s %10s %7s %8s %7s %6s\n",
           f->hours, (long long)o->seed, o->target_c > 0 ? "as asked for" : "as the file has them",
           "card", "work", "law", "tokens", "vs none", "peak C", "mean C", "thr. min", "s/kJ",
           "min. %", "over C", "ripple", "ms");
    for (size_t p = 0; p < f->plants_count; p++) {
        for (size_t w = 0; w < f->works_count; w++) {
            struct night n = {.file = f,
                              .plant = &f->plants[p],
                              .work = &f->works[w],
                              .seed = (uint64_t)o->seed,
                              .on_row = csv == NULL ? NULL : write_row,
                              .user = &rows};
            if (!wanted(o->plant, n.plant->name) || !wanted(o->work, n.work->name))
                continue;
            run_laws(o, n, &rows, s);
            nights++;
        }
    }
    return nights > 0
               ? ERR_OK
               : err_set(why, ERR_USAGE, "%s has no card \"%s\" or no work \"%s\"", o->plants,
                         o->plant == NULL ? "" : o->plant, o->work == NULL ? "" : o->work);
}

static void print_json(const struct governor_options *o, const struct summary *s)
{
    const struct {
        const char *key;
        double value;
    } values[] = {{"tokens_vs_ungoverned", s->tokens_vs_ungoverned},
                  {"overshoot_c", s->overshoot_c},
                  {"cool_speed", s->cool_speed}};
    json_t *j = json_object();
    for (size_t i = 0; i < ARRAY_LEN(values); i++) {
        double v = values[i].value;
        json_object_set_new(j, values[i].key, isfinite(v) ? json_real(v) : json_null());
    }
    json_object_set_new(j, "law", json_string(law_names[governor_defaults().law]));
    json_object_set_new(j, "seed", json_integer(o->seed));
    json_object_set_new(j, "build", json_string(OCTO_BUILD));
    json_dumpf(j, stdout, JSON_COMPACT | JSON_REAL_PRECISION(6));
    printf("\n");
    json_decref(j);
}

static enum err run(const struct governor_options *o, struct err_msg *why)
{
    struct plant_file f;
    struct summary s = {.tokens_vs_ungoverned = NAN, .overshoot_c = NAN, .cool_speed = NAN};
    FILE *csv = NULL;
    enum err e = plant_load(o->plants, &f, why);
    if (e != ERR_OK)
        return e;
    if (o->hours > 0)
        f.hours = o->hours;
    if (o->csv != NULL) {
        csv = fopen(o->csv, "w");
        if (csv == NULL)
            return err_set(why, ERR_IO, "%s: %s", o->csv, strerror(errno));
        fprintf(csv,
                "plant,work,law,hour,room_c,die_c,sensor_c,power_w,clock,duty,delay_ms,speed\n");
    }
    e = run_nights(o, &f, csv, &s, why);
    if (csv != NULL && (ferror(csv) | fclose(csv)) != 0 && e == ERR_OK)
        e = err_set(why, ERR_IO, "%s: cannot be written", o->csv);
    if (e == ERR_OK && o->json)
        print_json(o, &s);
    return e;
}

int cmd_governor(int argc, char **argv)
{
    struct governor_options o = {.plants = "tests/plants.json", .seed = 1};
    struct err_msg why = {0};
    int code;
    if (!bench_parse(table, ARRAY_LEN(table), &o, "Usage: octoflow-bench governor", argc, argv,
                     &code))
        return code;
    enum err e = run(&o, &why);
    return e == ERR_OK ? BENCH_OK : bench_fail(e, &why);
}
