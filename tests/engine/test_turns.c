/* How many sequences a step takes where fewer at a time are more tokens a second: what is chosen by
 * the steps' times, and that sequences take turns then and draw what they draw without. */
#include "base/size.h"
#include "engine/engine_impl.h"
#include "tests/check.h"

enum { SEQS = 9, TOKENS = 12 };

static void learn(struct widths *w, uint32_t rows, uint64_t ns, unsigned times)
{
    while (times-- > 0)
        widths_learn(w, rows, ns);
}

static void choices(void)
{
    struct widths w = {0};
    static const uint32_t alone[] = {0, 1, 7, 8, 13, 16, 23, 40, 64, 65, 256};
    for (size_t i = 0; i < ARRAY_LEN(alone); i++)
        CHECK_INT(widths_choose(&w, alone[i]), alone[i]);
    /* both are tried first */
    CHECK_INT(widths_choose(&w, 33), 33);
    learn(&w, 33, 1100, WIDTHS_TRIES);
    CHECK_INT(widths_choose(&w, 33), 32);
    learn(&w, 32, 5000, 1); /* waited for something else */
    learn(&w, 32, 1000, WIDTHS_TRIES - 1);
    CHECK_INT(widths_choose(&w, 33), 32); /* 32 a us, not 30 */
    /* what is slower is looked at now and then, and becomes the choice when it is faster */
    unsigned others = 0;
    for (unsigned i = 0; i < 2 * (WIDTHS_AGAIN + WIDTHS_TRIES - 1); i++) {
        bool all = widths_choose(&w, 33) == 33;
        others += all;
        learn(&w, all ? 33 : 32, all ? 1100 : 1000, 1);
    }
    CHECK_INT(others, 2 * WIDTHS_TRIES);
    for (unsigned i = 0; i < WIDTHS_AGAIN + WIDTHS_TRIES; i++)
        learn(&w, widths_choose(&w, 33), 1000, 1);
    CHECK_INT(widths_choose(&w, 33), 33);
    /* a step that waited for something else is forgotten as soon as it is looked at again */
    learn(&w, 33, UINT64_C(1) << 40, 1);
    CHECK_INT(widths_choose(&w, 33), 32);
    for (unsigned i = 0; i < WIDTHS_AGAIN + WIDTHS_TRIES; i++)
        learn(&w, widths_choose(&w, 33), 1000, 1);
    CHECK_INT(widths_choose(&w, 33), 33);
    /* times that are not known teach nothing, nor do larger steps */
    struct widths none = {0};
    learn(&none, 33, 0, 100);
    learn(&none, WIDTHS_MOST + 1, 5, 100);
    CHECK_INT(widths_choose(&none, 33), 33);
}

static struct engine *open_engine(const struct model *m, uint32_t device_index, bool turns)
{
    struct engine *e = NULL;
    struct err_msg why;
    struct tuning t = tuning_defaults();
    t.round_rows = turns;
    struct engine_options o = {.max_seqs = SEQS,
                               .max_ctx = 64,
                               .device_index = device_index,
                               .tuning = &t,
                               .validate = getenv("OCTO_VALIDATE") != NULL};
    CHECK_OK(engine_create(m, &o, &e, &why), why);
    if (e == NULL)
        exit(check_report());
    return e;
}

/* ALTERNATE: eight at a time are faster in every other step alone. LOOK_BACK: the next draws depend
 * on the tokens before. */
enum kind { USUAL, ALTERNATE, LOOK_BACK, KINDS };

static void eight_are_faster(struct engine *e, bool faster)
{
    e->widths = (struct widths){.ns = {[8] = 1, [9] = faster ? UINT64_C(1) << 50 : 1},
                                .tries = {[8] = WIDTHS_TRIES, [9] = WIDTHS_TRIES}};
}

/* Tokens by sequence. Returns steps in which all were there and one sat out. */
static unsigned run(struct engine *e, enum kind kind, uint32_t ret[SEQS][TOKENS])
{
    static const uint32_t prompt[] = {1, 282, 201, 43, 595, 630, 259};
    uint32_t counts[SEQS] = {0};
    unsigned fewer = 0;
    struct err_msg why;
    for (uint32_t i = 0; i < SEQS; i++) {
        struct engine_request r = {.id = i,
                                   .prompt = prompt,
                                   .prompt_count = 3 + i % 5,
                                   .max_tokens = TOKENS,
                                   .temperature = i % 2 == 0 ? 0 : 1,
                                   .top_p = 0.9f,
                                   .seed = i,
                                   .repetition_penalty = kind == LOOK_BACK ? 1.1f : 0};
        CHECK_OK(engine_add(e, &r, &why), why);
    }
    for (unsigned step = 0; engine_live(e) > 0; step++) {
        const struct engine_event *events;
        struct engine_step_stats stats;
        size_t count;
        eight_are_faster(e, kind != ALTERNATE || step % 2 == 0);
        enum err bad = engine_step(e, &events, &count, &stats, &why);
        CHECK_OK(bad, why);
        if (bad != ERR_OK)
            exit(check_report());
        for (size_t i = 0; i < count; i++)
            if (CHECK(counts[events[i].id] < TOKENS))
                ret[events[i].id][counts[events[i].id]++] = events[i].token;
        fewer += stats.running == SEQS && stats.prefill_tokens == 0 && stats.decode_tokens == 8;
        uint32_t least = TOKENS, most = 0;
        for (uint32_t i = 0; i < SEQS; i++) {
            least = counts[i] < least ? counts[i] : least;
            most = counts[i] > most ? counts[i] : most;
        }
        CHECK(most - least <= 3); /* nobody is left behind */
    }
    for (uint32_t i = 0; i < SEQS; i++)
        CHECK_INT(counts[i], TOKENS);
    return fewer;
}

int main(int argc, char **argv)
{
    struct err_msg why;
    struct gpu_device_info list[GPU_MAX_DEVICES];
    size_t count = 0, index = 0;
    struct model *m = NULL;
    static uint32_t want[KINDS][SEQS][TOKENS], got[KINDS][SEQS][TOKENS];
    choices();
    if (argc < 2 || gpu_list(list, &count, &why) != ERR_OK ||
        gpu_choose(list, count, NULL, &index, &why) != ERR_OK)
        return 77; /* no Vulkan device at all */
    CHECK_OK(model_open(argv[1], &m, &why), why);
    if (m == NULL)
        return check_report();
    for (int turns = 0; turns < 2; turns++) {
        struct engine *e = open_engine(m, list[index].index, turns);
        for (enum kind kind = USUAL; kind < KINDS; kind++) {
            unsigned sat_out = run(e, kind, turns ? got[kind] : want[kind]);
            if (!turns || kind == LOOK_BACK) /* who sat out would be ready alone ever after */
                CHECK_INT(sat_out, 0);
            else
                CHECK(sat_out >= (kind == USUAL ? TOKENS - 3 : TOKENS / 2 - 2));
        }
        CHECK_INT(engine_validation_errors(e), 0);
        engine_destroy(&e);
    }
    CHECK(memcmp(want, got, sizeof want) == 0);
    model_close(&m);
    return check_report();
}
