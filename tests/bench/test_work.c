/* The benchmark's own arithmetic: counts, timed steps, costs, medians; and that the comparison with
 * a sequence alone sees other tokens: test_work MODEL.gguf */
#include "bench/cost.h"
#include "bench/work.h"
#include "check.h"

static void test_counts(void)
{
    struct bench_counts c = {0};
    struct err_msg why;
    CHECK_OK(bench_parse_counts("batch", "1,8,3-5", 64, &c, &why), why);
    if (CHECK(c.count == 5)) {
        CHECK(c.list[1].value == 8 && !c.list[1].ranged);
        CHECK(c.list[2].value == 3 && c.list[2].ranged && c.list[4].value == 5);
    }
    bench_free_counts(&c);
    static const char *const wrong[] = {
        "",   "0",     "65",   "1,", ",1",  "5-3",  "1-",
        "-2", "1-2-3", "1 ,2", "x",  "1.5", "1-65", "99999999999999999999999"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        why.text[0] = '\0';
        CHECK_ERR(bench_parse_counts("batch", wrong[i], 64, &c, &why), ERR_USAGE);
        CHECK(strncmp(why.text, "--batch ", 8) == 0 && c.list == NULL);
    }
    CHECK_ERR(bench_parse_counts("batch", "1-4097", 65535, &c, &why), ERR_USAGE);
}

static void test_median(void)
{
    CHECK(bench_median(NULL, 0) == 0);
    CHECK(bench_median((double[]){3, 1, 2}, 3) == 2);
    CHECK(bench_median((double[]){4, 1, 2, 3}, 4) == 2.5);
}

/* Only the time from one whole decode step to the next counts. */
static void test_timing(void)
{
    struct decode_timing t = {.batch = 2, .steps_max = 2};
    const struct engine_step_stats prefill = {
        .prefill_tokens = 4, .decode_tokens = 2, .running = 2};
    const struct engine_step_stats part = {.decode_tokens = 1, .running = 1},
                                   full = {.decode_tokens = 2, .running = 2};
    CHECK(decode_timing_step(&t, &prefill, 10));
    CHECK(decode_timing_step(&t, &part, 20));
    CHECK(decode_timing_step(&t, &full, 30));
    CHECK_INT(t.steps, 0);
    CHECK(decode_timing_step(&t, &full, 37));
    CHECK(
        decode_timing_step(&t, &(struct engine_step_stats){0}, 50)); /* a step ahead: nothing yet */
    CHECK(decode_timing_step(&t, &full, 60));
    CHECK(!decode_timing_step(&t, &full, 64));
    CHECK_INT(t.steps, 2);
    CHECK_INT(t.ns, 7 + 4);
    CHECK_INT(t.tokens, 4);
    /* they take turns: all are there, one draws */
    t = (struct decode_timing){.batch = 2, .steps_max = 9};
    const struct engine_step_stats turn = {.decode_tokens = 1, .running = 2};
    CHECK(decode_timing_step(&t, &turn, 100));
    CHECK(decode_timing_step(&t, &turn, 105));
    CHECK_INT(t.ns, 5);
    CHECK_INT(t.tokens, 1);
}

static void test_cost(const struct model *m)
{
    struct step_cost one, two, tiles, prompt;
    cost_of_step(m, false, 1, 100, 1, &one);
    cost_of_step(m, false, 2, 100, 2, &two);
    cost_of_step(m, true, 1, 100, 1, &tiles);
    cost_of_prompt(m, false, 64, 32, &prompt);
    CHECK(one.weight_bytes > 0 && one.weight_bytes == two.weight_bytes);
    CHECK(two.kv_bytes == 2 * one.kv_bytes && two.flops == 2 * one.flops);
    CHECK(one.bytes == one.weight_bytes + one.kv_bytes + one.logits_bytes);
    CHECK(tiles.weight_bytes > 2 * one.weight_bytes && tiles.flops == one.flops); /* Q4_K, about */
    CHECK(prompt.flops > 60 * (one.flops - 2.0 * m->n_vocab * m->n_embd) / 2);
    CHECK(prompt.weight_bytes > one.weight_bytes && prompt.weight_bytes < 2 * one.weight_bytes);
}

static void check_conflict(struct engine *e, const struct work *w, struct work_seq *reference,
                           const char *want)
{
    struct err_msg why = {0};
    CHECK_ERR(work_verify(e, w, 1, reference, &why), ERR_CONFLICT);
    if (!CHECK(strstr(why.text, want) != NULL))
        fprintf(stderr, "    \"%s\" has no \"%s\"\n", why.text, want);
}

static void test_verify(const struct model *m)
{
    struct engine_options o = {.max_seqs = 3, .max_ctx = 256, .no_prefix_cache = true};
    struct engine *e = NULL;
    struct work w = {0};
    struct work_seq reference = {0};
    struct err_msg why = {0};
    CHECK_OK(engine_create(m, &o, &e, &why), why);
    CHECK_OK(work_create(5, 7, 20, 6, m->n_vocab, &w, &why), why);
    if (e == NULL || w.seqs == NULL)
        return;
    w.temperature = 0.8f;
    w.top_p = 0.95f;
    CHECK_OK(work_run(e, &w, NULL, NULL, &why), why);
    for (size_t i = 0; i < w.count; i++) { /* more sequences than fit at a time: all ended */
        CHECK_INT(w.seqs[i].tokens_count, 6);
        CHECK_OK(work_verify(e, &w, i, NULL, &why), why);
    }
    /* A token's bit, once against a new run, once against a known one; missing and no tokens. */
    w.seqs[1].tokens[4] ^= 1;
    check_conflict(e, &w, NULL, "sequence 1, token 4");
    w.seqs[1].tokens[4] ^= 1;
    CHECK_OK(work_verify(e, &w, 1, &reference, &why), why);
    CHECK_INT(reference.tokens_count, 6);
    CHECK_OK(work_verify(e, &w, 1, &reference, &why), why);
    w.seqs[1].tokens[0] ^= 1;
    check_conflict(e, &w, &reference, "sequence 1, token 0");
    w.seqs[1].tokens[0] ^= 1;
    w.seqs[1].tokens_count = 0;
    check_conflict(e, &w, &reference, "generated nothing");
    w.seqs[1].tokens_count = 6;
    w.seqs[1].name ^= 1; /* other draws from the same prompt */
    check_conflict(e, &w, NULL, "sequence 1, token");
    free(reference.tokens);
    work_free(&w);
    engine_destroy(&e);
}

static bool stop_at_once(void *user, const struct engine_step_stats *s, uint64_t now_ns)
{
    (void)now_ns;
    *(unsigned *)user += s->decode_tokens > 0;
    return s->decode_tokens == 0;
}

/* A run that ends early leaves nothing behind that the next one could take for its own. */
static void test_stopped(const struct model *m)
{
    struct engine_options o = {.max_seqs = 2, .max_ctx = 256, .no_prefix_cache = true};
    struct engine *e = NULL;
    struct work w = {0};
    struct err_msg why = {0};
    CHECK_OK(engine_create(m, &o, &e, &why), why);
    CHECK_OK(work_create(2, 3, 10, 8, m->n_vocab, &w, &why), why);
    for (int round = 0; e != NULL && round < 3; round++) {
        unsigned decodes = 0;
        CHECK_OK(work_run(e, &w, stop_at_once, &decodes, &why), why);
        CHECK_INT(decodes, 1);
        CHECK_INT(engine_live(e), 0);
        CHECK(w.seqs[0].tokens_count < 8);
        CHECK_OK(work_verify(e, &w, 0, NULL, &why), why);
    }
    work_free(&w);
    engine_destroy(&e);
}

int main(int argc, char **argv)
{
    struct model *m = NULL;
    struct err_msg why = {0};
    test_counts();
    test_median();
    test_timing();
    if (argc != 2)
        return 2;
    CHECK_OK(model_open(argv[1], &m, &why), why);
    if (m != NULL) {
        test_cost(m);
        test_verify(m);
        test_stopped(m);
    }
    model_close(&m);
    return check_report();
}
