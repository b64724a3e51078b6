/* octoflow-bench run: what its files share. run.c measures, profile.c says where the time goes. */
#ifndef OCTO_BENCH_RUN_H
#define OCTO_BENCH_RUN_H

#include "bench/bench.h"
#include "bench/cost.h"
#include "bench/measure.h"
#include "bench/report.h"
#include "bench/work.h"
#include "worker/sensors/sensor.h"

struct run_options {
    struct bench_common common;
    const char *prefill, *batch;
    int64_t prefill_seqs, prompt, gen, repeats;
    double temperature, top_p;
    bool profile, no_verify, no_energy, json;
};

struct run {
    struct run_options o;
    struct bench_counts batches, prefills;
    struct model *model;
    struct engine *engine;
    struct sensor *sensor; /* NULL: none */
    json_t *report;
    uint32_t chunk_tokens;       /* most prompt tokens in a step */
    uint64_t vram_before;        /* free before the engine was there; 0: unknown */
    struct work_seq *references; /* [max_seqs]: generated alone; sequence i is the same in every
                                    batch */
    uint32_t references_count;
    struct measure_rates rates; /* with --profile */
    bool warm;
    double tokens_per_joule; /* of the last batch; 0: unknown */
    uint32_t last_ranged;    /* the batch before, if it came from a range */
    double last_rate, worst_drop;
    uint32_t worst_drop_at;
    bool has_drop;
};

/* What a step of a batch, with `steps` timed, or a prompt has to move and to compute on this
 * engine.
 */
void run_cost_of_batch(const struct run *r, uint32_t batch, uint64_t steps, struct step_cost *ret);
void run_cost_of_prompt(const struct run *r, uint32_t length, struct step_cost *ret);

/* profile.c: r->engine has options.profile. */
enum err profile_decode(struct run *r, struct work *w, uint32_t steps,
                        struct err_msg *why) MUST_CHECK;
enum err profile_prefill(struct run *r, uint32_t length, struct err_msg *why) MUST_CHECK;

#endif
