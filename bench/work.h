/* Sequences to measure with: pseudo-random prompts, a run that records what each generates, the
 * timing of the steps in which all of them decode, and the check that each, alone, generates the
 * same. */
#ifndef OCTO_BENCH_WORK_H
#define OCTO_BENCH_WORK_H

#include "engine/engine.h"

enum { BENCH_MAX_COUNTS = 4096 };

/* "1,8,32" and "1-64", mixed; ascending within a range. */
struct bench_counts {
    struct bench_count {
        uint32_t value;
        bool ranged; /* from a range */
    } * list;
    size_t count;
};
/* Values 1 .. max. ERR_USAGE names the option. */
enum err bench_parse_counts(const char *option, const char *text, uint32_t max,
                            struct bench_counts *ret, struct err_msg *why) MUST_CHECK;
void bench_free_counts(struct bench_counts *c);

/* Fills ids below n_vocab; the same for the same seed. */
void bench_random_ids(uint64_t seed, uint32_t n_vocab, uint32_t *ret_ids, size_t count);
uint64_t bench_random(uint64_t *state);

struct work_seq {
    uint64_t name; /* seeds prompt and draws: a sequence is the same one in every run */
    uint32_t *prompt;
    uint32_t prompt_count;
    uint32_t max_tokens;
    uint32_t *tokens; /* generated; [max_tokens] */
    uint32_t tokens_count;
    uint32_t cached_count; /* of the prompt, from the prefix cache */
};
struct work {
    struct work_seq *seqs;
    size_t count;
    float temperature, top_p;
};

/* Sequence i is name first + i, with a prompt of prompt_count pseudo-random ids. */
enum err work_create(size_t count, uint64_t first, uint32_t prompt_count, uint32_t max_tokens,
                     uint32_t n_vocab, struct work *ret, struct err_msg *why) MUST_CHECK;
/* One sequence's; the prompt starts with `prefix`, if there is one. For a zeroed sequence. */
enum err work_fill(struct work_seq *s, uint64_t name, const uint32_t *prefix, uint32_t prefix_count,
                   uint32_t prompt_count, uint32_t max_tokens, uint32_t n_vocab,
                   struct err_msg *why) MUST_CHECK;
void work_free(struct work *w);

/* Called after every step; now_ns was read when the step came back. false: enough, all sequences
 * end. */
typedef bool work_step_fn(void *user, const struct engine_step_stats *s, uint64_t now_ns);
/* Adds the sequences, as many at a time as the engine takes, and steps until all are done. on_step
 * may be NULL. */
enum err work_run(struct engine *e, struct work *w, work_step_fn *on_step, void *user,
                  struct err_msg *why) MUST_CHECK;

/* Of `count` tokens; false: they differ at *ret_at. */
bool work_same(const uint32_t *a, const uint32_t *b, size_t count, size_t *ret_at);
/* Generates sequence `s` again, alone, and compares; ERR_CONFLICT: other tokens, the message says
 * which and where. `reference`, if it is not NULL and long enough, stands for the run; otherwise it
 * is filled (tokens are the caller's to free). */
enum err work_verify(struct engine *e, const struct work *w, size_t s, struct work_seq *reference,
                     struct err_msg *why) MUST_CHECK;

/* Steps while all `batch` sequences decode and none prefills (the engine may let them take turns):
 * the time between the ends of two such steps, one right after the other. By the clock, since a
 * step's time on the device says nothing about a host that waits. */
struct decode_timing {
    uint32_t batch;
    uint64_t steps_max; /* timed steps, then the run ends */
    bool last_full;
    uint64_t last_ns;
    uint64_t ns, tokens, steps; /* results */
};
work_step_fn decode_timing_step; /* user: struct decode_timing */

double bench_median(double *values, size_t count); /* sorts; 0 of none */

#endif
