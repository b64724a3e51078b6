/* The worker's core over a fake engine: texts, stop strings, min_tokens, checkpoints, cancel,
 * hand-back, device loss. Arguments: octo-tiny model, golden folder (unused). */
#include <math.h>

#include "base/clock.h"
#include "fake_engine.h"
#include "worker/core.h"
#include "worker_kit.h"

static const char story[] =
    "One day a cat found a red hat. STOP here, said the cat \xf0\x9f\x90\x99 twice.";

struct outcome {
    bool result, nack, counts;
    uint64_t prompt_tokens, completion_tokens;
    double energy_j;
    struct buf body; /* the result, or the NACK's checkpoint */
    char reason[200];
};

enum { MAX_OUTCOMES = 257 };

static struct kit kit;
static struct tokens script; /* the story, then <|im_end|> */
static struct fake_engine fake;
static struct engine_port port;
static struct core *core;
static struct outcome outcomes[MAX_OUTCOMES]; /* by serial */
static uint64_t now_ns;
static bool energy_known;
static double idle_j; /* used while nothing ran; a step takes a joule */

static uint64_t wall_ms(void *user)
{
    (void)user;
    return 1000000 + now_ns / NS_PER_MS;
}

static void on_result(void *user, uint64_t serial, struct buf *body, uint64_t prompt_tokens,
                      uint64_t completion_tokens, double energy_j)
{
    (void)user;
    struct outcome *o = &outcomes[serial];
    CHECK(!o->result && !o->nack); /* a job ends once */
    o->energy_j = energy_j;
    o->result = true;
    o->prompt_tokens = prompt_tokens;
    o->completion_tokens = completion_tokens;
    o->body = *body;
    *body = (struct buf){0};
}

static void on_nack(void *user, uint64_t serial, bool counts, const char *reason,
                    struct buf *checkpoint)
{
    (void)user;
    struct outcome *o = &outcomes[serial];
    CHECK(!o->result && !o->nack);
    o->nack = true;
    o->counts = counts;
    snprintf(o->reason, sizeof o->reason, "%s", reason);
    o->body = *checkpoint;
    *checkpoint = (struct buf){0};
}

static bool energy(void *user, double *ret_joules)
{
    (void)user;
    *ret_joules = idle_j + fake.steps;
    return energy_known;
}

static void open_core(uint32_t max_seqs)
{
    struct core_events events = {NULL, wall_ms, on_result, on_nack, energy};
    fake_init(&fake, max_seqs);
    fake.script = script.ids;
    fake.script_count = script.count;
    CHECK_ERR(fake_open(&fake, &port, NULL), ERR_OK);
    CHECK_ERR(core_create(&port, &kit.context, &events, &core), ERR_OK);
    now_ns = 1000 * NS_PER_S;
}

static void close_core(void)
{
    core_destroy(&core);
    CHECK_INT(fake.misuses, 0);
    for (size_t i = 0; i < MAX_OUTCOMES; i++)
        buf_free(&outcomes[i].body);
    memset(outcomes, 0, sizeof outcomes);
}

static void add(uint64_t serial, const struct rec_REQUEST *q, struct str checkpoint)
{
    struct job *j = NULL;
    struct job_refusal refusal;
    struct err_msg why;
    CHECK_OK(kit_job(&kit, q, checkpoint, serial, &j, &refusal, &why), why);
    if (j != NULL)
        core_add(core, &j);
}

static enum err step(void)
{
    struct err_msg why;
    uint64_t gpu_ns;
    now_ns += NS_PER_MS;
    return core_step(core, now_ns, &gpu_ns, &why);
}

static void run_out(void)
{
    for (int i = 0; i < 10000 && !core_idle(core); i++)
        CHECK_ERR(step(), ERR_OK);
    CHECK(core_idle(core));
    CHECK_ERR(step(), ERR_AGAIN);
}

static void check_output(uint64_t serial, const char *text, const char *finish_reason,
                         uint64_t completion_tokens)
{
    if (!CHECK(outcomes[serial].result))
        return;
    struct rec_OUTPUT o = kit_output(&kit, &outcomes[serial].body);
    CHECK_INT(o.status_code, 200);
    if (!CHECK(o.choices.count == 1))
        return;
    CHECK(kit_is(o.choices.items[0].text, text));
    CHECK(kit_is(o.choices.items[0].finish_reason, finish_reason));
    CHECK_INT(o.choices.items[0].completion_tokens, completion_tokens);
    CHECK_INT(o.choices.items[0].logprobs.count, 0);
    CHECK_INT(o.completion_tokens, completion_tokens);
    CHECK_INT(outcomes[serial].completion_tokens, completion_tokens);
    CHECK_INT(o.prompt_tokens, outcomes[serial].prompt_tokens);
}

static void test_result(void)
{
    open_core(2);
    struct rec_REQUEST q = kit_request("Tell me");
    add(1, &q, (struct str){0});
    run_out();
    check_output(1, story, "stop", script.count); /* the end token counts, and is no text */
    struct rec_OUTPUT o = kit_output(&kit, &outcomes[1].body);
    CHECK(kit_is(o.model_name, "octo-tiny") && kit_is(o.numeric_class, "class-1") &&
          kit_is(o.quantization, "Q4_K") && kit_is(o.device, "fake") &&
          kit_is(o.driver, "fake 1") && kit_is(o.build, "test") && kit_is(o.worker, "w0"));
    CHECK_INT(o.seed, 42);
    CHECK_INT(o.cached_tokens, 3);
    CHECK_INT(o.finished_ms - o.started_ms, script.count - 1);
    CHECK(core_stats(core).decode_tokens_per_s > 999 && core_stats(core).tokens == script.count);
    CHECK_INT(core_stats(core).cached_tokens, 3); /* once a sequence, not once a token */
    close_core();
}

static void test_length(void)
{
    open_core(2);
    struct rec_REQUEST q = kit_request("Tell me");
    q.max_tokens = 1;
    add(1, &q, (struct str){0});
    run_out();
    struct str first = tokenizer_piece(kit.tokenizer, script.ids[0]);
    char text[64];
    snprintf(text, sizeof text, "%.*s", STR_ARG(first));
    check_output(1, text, "length", 1);
    close_core();
    /* End tokens are tokens like others when they are to be ignored. */
    open_core(2);
    q.ignore_eos = true;
    q.max_tokens = script.count + 5;
    add(1, &q, (struct str){0});
    run_out();
    check_output(1, story, "length", script.count + 5);
    close_core();
    /* The octopus is cut in the middle of its bytes: a replacement character, valid UTF-8. */
    open_core(2);
    size_t cut = 0;
    for (size_t bytes = 0;
         bytes <= strlen("One day a cat found a red hat. STOP here, said the cat "); cut++)
        bytes += tokenizer_piece(kit.tokenizer, script.ids[cut]).len;
    q.max_tokens = cut;
    add(1, &q, (struct str){0});
    run_out();
    struct str got = kit_output(&kit, &outcomes[1].body).choices.items[0].text;
    CHECK(got.len > 3 && memcmp(got.data + got.len - 3, "\xef\xbf\xbd", 3) == 0);
    close_core();
}

static void test_stop_string(void)
{
    struct rec_TEXT stops[2] = {{STR_LIT("nowhere")}, {STR_LIT("STOP")}};
    struct rec_REQUEST q = kit_request("Tell me");
    q.stop.items = stops;
    q.stop.count = 2;
    open_core(2);
    add(1, &q, (struct str){0});
    run_out();
    CHECK(outcomes[1].completion_tokens > 0 && outcomes[1].completion_tokens < script.count);
    check_output(1, "One day a cat found a red hat. ", "stop", outcomes[1].completion_tokens);
    CHECK_INT(fake.removes, 1); /* the engine was told */
    uint64_t at = outcomes[1].completion_tokens;
    close_core();
    /* Not before min_tokens: the whole stop string has passed by then. */
    q.min_tokens = at + 1;
    open_core(2);
    add(1, &q, (struct str){0});
    run_out();
    check_output(1, story, "stop", script.count);
    close_core();
    q.min_tokens = at;
    open_core(2);
    add(1, &q, (struct str){0});
    run_out();
    check_output(1, "One day a cat found a red hat. ", "stop", at);
    close_core();
}

static void test_many(void)
{
    open_core(3);
    struct rec_REQUEST q = kit_request("Tell me");
    for (uint64_t i = 1; i < 40; i++) {
        q.max_tokens = 1 + i % 7 * 3;
        add(i, &q, (struct str){0});
    }
    run_out();
    CHECK_INT(fake.adds, 39);
    CHECK_INT(fake.most_live, 3);
    for (uint64_t i = 1; i < 40; i++)
        CHECK(outcomes[i].result && outcomes[i].completion_tokens == 1 + i % 7 * 3);
    close_core();
    /* Few pages: one at a time, and they all end. */
    open_core(3);
    fake.kv_tokens_free = 10;
    q.max_tokens = 30;
    for (uint64_t i = 1; i < 5; i++)
        add(i, &q, (struct str){0});
    run_out();
    CHECK_INT(fake.most_live, 1);
    CHECK(outcomes[4].result);
    close_core();
}

static void test_cancel(void)
{
    open_core(2);
    struct rec_REQUEST q = kit_request("Tell me");
    for (uint64_t i = 1; i < 6; i++)
        add(i, &q, (struct str){0});
    CHECK_ERR(step(), ERR_OK);
    core_cancel(core, 1); /* runs */
    core_cancel(core, 5); /* waits, the last */
    core_cancel(core, 3); /* waits, the first */
    core_cancel(core, 77);
    CHECK_INT(core_stats(core).running, 1);
    CHECK_INT(core_stats(core).waiting, 1);
    add(6, &q, (struct str){0});
    run_out();
    static const bool ends[] = {false, false, true, false, true, false, true};
    for (size_t i = 1; i < 7; i++)
        CHECK(outcomes[i].result == ends[i] && !outcomes[i].nack);
    CHECK_INT(fake.removes, 1);
    close_core();
}

/* Stopped at every possible token, gone on with elsewhere: the same output. */
static void test_continue(void)
{
    struct rec_TEXT stop = {STR_LIT("twice")};
    struct rec_REQUEST q = kit_request("Tell me");
    q.stop.items = &stop;
    q.stop.count = 1;
    q.min_tokens = 2;
    open_core(1);
    add(1, &q, (struct str){0});
    run_out();
    uint64_t whole = outcomes[1].completion_tokens;
    char text[128];
    struct rec_OUTPUT o = kit_output(&kit, &outcomes[1].body);
    snprintf(text, sizeof text, "%.*s", STR_ARG(o.choices.items[0].text));
    CHECK_HAS(text, "\xf0\x9f\x90\x99");
    close_core();
    for (uint64_t at = 1; at < whole; at++) {
        open_core(1);
        add(1, &q, (struct str){0});
        for (uint64_t i = 0; i < at; i++)
            CHECK_ERR(step(), ERR_OK);
        core_hand_back(core, true, false, "the worker leaves");
        CHECK(outcomes[1].nack && !outcomes[1].counts && outcomes[1].body.len > 0);
        add(2, &q, (struct str){outcomes[1].body.data, outcomes[1].body.len});
        unsigned before = fake.steps;
        run_out();
        CHECK_INT(fake.steps - before, whole - at); /* nothing is computed twice */
        check_output(2, text, "stop", whole);
        close_core();
    }
}

static void test_hand_back(void)
{
    open_core(2);
    struct rec_REQUEST q = kit_request("Tell me");
    for (uint64_t i = 1; i < 5; i++)
        add(i, &q, (struct str){0});
    CHECK_ERR(step(), ERR_OK);
    core_hand_back(core, false, false, "draining");
    CHECK(!outcomes[1].nack && !outcomes[2].nack && outcomes[3].nack && outcomes[4].nack);
    CHECK_INT(outcomes[3].body.len, 0);
    run_out();
    CHECK(outcomes[1].result && outcomes[2].result);
    close_core();
}

static void test_device_lost(void)
{
    open_core(2);
    fake.fail_at_step = 4;
    struct rec_REQUEST q = kit_request("Tell me");
    for (uint64_t i = 1; i < 4; i++)
        add(i, &q, (struct str){0});
    for (int i = 0; i < 3; i++)
        CHECK_ERR(step(), ERR_OK);
    struct err_msg why;
    uint64_t gpu_ns;
    CHECK_ERR(core_step(core, now_ns, &gpu_ns, &why), ERR_DEVICE);
    core_hand_back(core, true, true, why.text);
    CHECK(outcomes[1].nack && outcomes[1].counts && outcomes[2].nack && outcomes[2].counts);
    CHECK(outcomes[3].nack && !outcomes[3].counts); /* had not begun */
    CHECK_HAS(outcomes[1].reason, "DEVICE_LOST");
    struct rec_CHECKPOINT p = {0};
    CHECK_OK(
        proto_decode_checkpoint(outcomes[1].body.data, outcomes[1].body.len, &kit.arena, &p, &why),
        why);
    CHECK_INT(p.completion_ids.count, 3);
    CHECK(core_idle(core));
    close_core();
}

static void test_progress(void)
{
    struct core_progress p[4];
    open_core(2);
    struct rec_REQUEST q = kit_request("Tell me");
    q.ignore_eos = true;
    q.max_tokens = 1000;
    add(8, &q, (struct str){0});
    for (int i = 0; i < 200; i++)
        CHECK_ERR(step(), ERR_OK);
    CHECK_INT(core_progress(core, now_ns, p, 4), 1);
    CHECK(p[0].serial == 8 && p[0].completion_tokens == 200 &&
          p[0].checkpoint.len == 0); /* too soon */
    CHECK_INT(core_progress(core, now_ns + 10 * NS_PER_S, p, 4), 1);
    CHECK(p[0].checkpoint.len > 0);
    buf_free(&p[0].checkpoint);
    now_ns += 10 * NS_PER_S;
    for (int i = 0; i < 127; i++)
        CHECK_ERR(step(), ERR_OK);
    now_ns += 20 * NS_PER_S;
    CHECK_INT(core_progress(core, now_ns, p, 4), 1);
    CHECK_INT(p[0].checkpoint.len, 0); /* too few new tokens */
    CHECK_ERR(step(), ERR_OK);
    CHECK_INT(core_progress(core, now_ns, p, 4), 1);
    CHECK(p[0].checkpoint.len > 0);
    buf_free(&p[0].checkpoint);
    close_core();
}

/* 256 jobs of 30,000 tokens each: how much goes with a heartbeat, that each has its turn, and that
 * it is not sent again and again. */
static void test_large_checkpoints(void)
{
    enum {
        JOBS = 256,
        FIRST = 26600,
        TOKENS = 30000,
        BEATS = 8,
        MOST_BYTES = (4 << 20) + (100 << 10)
    };
    static struct core_progress p[JOBS];
    static unsigned had[JOBS + 1];
    static const uint32_t token = 4000;
    static uint64_t ids[FIRST];
    struct buf checkpoint = {0};
    struct err_msg why;
    open_core(JOBS);
    fake.script = &token;
    fake.script_count = 1;
    kit.context.max_ctx = fake.info.max_ctx = 1 << 20;
    struct rec_REQUEST q = kit_request("Tell me");
    q.ignore_eos = true;
    q.max_tokens = 1 << 16;
    for (size_t i = 0; i < FIRST; i++)
        ids[i] = token;
    char prompt[33];
    kit_prompt_hash(&kit, &q, prompt);
    struct rec_CHECKPOINT taken = {.numeric_class = str_of(kit.context.numeric_class),
                                   .model_hash = str_of(kit.context.model_hash),
                                   .completion_ids = {ids, FIRST},
                                   .prompt_hash = str_of(prompt)};
    CHECK_OK(proto_encode_checkpoint(&taken, &checkpoint, &why), why);
    for (uint64_t serial = 1; serial <= JOBS; serial++)
        add(serial, &q, (struct str){checkpoint.data, checkpoint.len});
    buf_free(&checkpoint);
    for (int i = FIRST; i < TOKENS; i++)
        CHECK_ERR(step(), ERR_OK);
    now_ns += 20 * NS_PER_S;
    size_t all = 0, largest = 0;
    for (int beat = 0; beat < 3 * BEATS; beat++) {
        size_t bytes = 0;
        now_ns += 5 * NS_PER_S;
        CHECK_ERR(step(), ERR_OK);
        CHECK_INT(core_progress(core, now_ns, p, JOBS), JOBS);
        for (size_t i = 0; i < JOBS; i++) {
            had[p[i].serial] += p[i].checkpoint.len > 0;
            bytes += p[i].checkpoint.len;
            buf_free(&p[i].checkpoint);
        }
        CHECK(bytes <= MOST_BYTES);
        CHECK(beat < BEATS || bytes == 0);
        largest = max_u64(largest, bytes);
        all += bytes;
    }
    for (size_t serial = 1; serial <= JOBS; serial++)
        CHECK_INT(had[serial], 1);
    printf("%d jobs of %d tokens: %zu KiB of checkpoints in all, at most %zu KiB a heartbeat\n",
           JOBS, TOKENS, all >> 10, largest >> 10);
    kit.context.max_ctx = 2048;
    close_core();
}

/* ---- several choices ---- */

/* The story's text from its n-th token on, and how many tokens that is with the end token. */
static const char *story_from(size_t n, uint64_t *ret_tokens)
{
    size_t bytes = 0;
    for (size_t i = 0; i < n; i++)
        bytes += tokenizer_piece(kit.tokenizer, script.ids[i]).len;
    *ret_tokens = script.count - n;
    return story + bytes;
}

/* More choices than slots, behind and before other jobs. */
static void test_choices(void)
{
    for (uint32_t slots = 1; slots < 8; slots++) {
        open_core(slots);
        struct rec_REQUEST q = kit_request("Tell me");
        add(1, &q, (struct str){0});
        q.n = 5;
        add(2, &q, (struct str){0});
        q.n = 0;
        add(3, &q, (struct str){0});
        run_out();
        check_output(1, story, "stop", script.count);
        check_output(3, story, "stop", script.count);
        CHECK_INT(fake.adds, 7);
        CHECK(fake.choices_added[0] == 3 && fake.choices_added[1] == 1 &&
              fake.choices_added[4] == 1);
        CHECK(fake.most_live <= slots);
        struct rec_OUTPUT o = kit_output(&kit, &outcomes[2].body);
        uint64_t sum = 0, tokens;
        CHECK_INT(o.choices.count, 5);
        for (size_t i = 0; i < o.choices.count; i++) {
            CHECK(kit_is(o.choices.items[i].text, story_from(i, &tokens)));
            CHECK_INT(o.choices.items[i].completion_tokens, tokens);
            sum += tokens;
        }
        CHECK(o.completion_tokens == sum && outcomes[2].completion_tokens == sum);
        CHECK_INT(o.cached_tokens, 3);
        CHECK_INT(core_stats(core).cached_tokens,
                  3 * 3 + 4 * 9); /* of 3 first and 4 other choices */
        close_core();
    }
}

/* Cancelled, handed back and refused with some choices started and others not. */
static void test_choices_end(void)
{
    struct core_progress p[4];
    struct rec_REQUEST q = kit_request("Tell me"), one = q;
    q.n = 5;
    q.ignore_eos = true;
    for (int how = 0; how < 5; how++) {
        open_core(3);
        fake.refuse_choice = how == 4 ? 2 : 0;
        add(1, &q, (struct str){0});
        add(2, &one, (struct str){0});
        CHECK_ERR(step(), ERR_OK);
        CHECK_INT(core_stats(core).running, how == 4 ? 1 : 3);
        if (how != 4) {
            CHECK_INT(core_progress(core, now_ns + 100 * NS_PER_S, p, 4), 1);
            CHECK(p[0].serial == 1 && p[0].completion_tokens == 3 && p[0].checkpoint.len == 0);
        }
        if (how == 0)
            core_cancel(core, 1);
        else if (how < 3)
            core_hand_back(core, how == 2, how == 2, "leaving");
        else if (how == 3)
            close_core(); /* with all of them in it */
        if (how == 3)
            continue;
        run_out();
        CHECK_INT(outcomes[1].result, how == 1);
        CHECK_INT(outcomes[1].nack, how == 2 || how == 4);
        CHECK_INT(outcomes[1].body.len == 0, how != 1); /* no checkpoint */
        CHECK_INT(outcomes[2].result, how == 0 || how == 4);
        close_core();
    }
}

static void test_logprobs(void)
{
    open_core(2);
    fake.logprobs = (struct engine_logprobs){-0.5f, {7, 8, 300}, {-0.25f, -INFINITY, NAN}};
    struct rec_REQUEST q = kit_request("Tell me");
    q.n = 2;
    q.logprobs = true;
    q.top_logprobs = 3;
    add(1, &q, (struct str){0});
    run_out();
    struct rec_OUTPUT o = kit_output(&kit, &outcomes[1].body);
    CHECK_INT(o.choices.count, 2);
    for (size_t i = 0; i < o.choices.count; i++) {
        const struct rec_CHOICE *c = &o.choices.items[i];
        CHECK(c->top_logprobs == 3 && c->logprobs.count == 4 * c->completion_tokens);
        size_t bytes = 0, characters = 0;
        for (size_t k = 0; k < c->logprobs.count; k++) {
            const struct rec_LOGPROB *l = &c->logprobs.items[k];
            uint32_t ids[4] = {script.ids[i + k / 4], 7, 8, 300};
            static const double want[4] = {-0.5, -0.25, -9999, -9999};
            CHECK(l->logprob == want[k % 4]);
            CHECK(str_eq(l->token, tokenizer_piece(kit.tokenizer, ids[k % 4])));
            CHECK_INT(l->text_offset, k % 4 == 0 ? characters : 0);
            for (size_t n = 0; k % 4 == 0 && n < l->token.len && bytes < c->text.len; n++, bytes++)
                characters += ((unsigned char)c->text.data[bytes] & 0xc0) != 0x80;
        }
    }
    close_core();
    /* No checkpoint: it would go on without those of the tokens so far. */
    open_core(2);
    q.n = 1;
    add(1, &q, (struct str){0});
    CHECK_ERR(step(), ERR_OK);
    core_hand_back(core, true, false, "leaving");
    CHECK(outcomes[1].nack && outcomes[1].body.len == 0);
    close_core();
}

/* ---- energy ---- */

static void check_energy(uint64_t serial, double want_j)
{
    CHECK(outcomes[serial].result);
    CHECK(fabs(outcomes[serial].energy_j - want_j) < 1e-9);
    CHECK(kit_output(&kit, &outcomes[serial].body).energy_j == outcomes[serial].energy_j);
}

static void open_metered(uint32_t max_seqs)
{
    open_core(max_seqs);
    energy_known = true;
    idle_j = 500;
}

static void close_metered(void)
{
    energy_known = false;
    close_core();
}

/* Alone it is all; side by side each step is shared; what the device uses while idle is nobody's.
 */
static void test_energy(void)
{
    struct rec_REQUEST q = kit_request("Tell me");
    open_metered(2);
    q.max_tokens = 4;
    add(1, &q, (struct str){0});
    q.max_tokens = 10;
    add(2, &q, (struct str){0});
    run_out();
    check_energy(1, 4 * 0.5);
    check_energy(2, 4 * 0.5 + 6);
    idle_j += 10000;
    add(3, &q, (struct str){0});
    run_out();
    check_energy(3, 10);
    CHECK(fabs(core_stats(core).shared_j - 20) < 1e-9);
    CHECK_INT(core_stats(core).shared_tokens, 4 + 10 + 10);
    /* All choices of a job are the job's. */
    q.n = 5;
    add(4, &q, (struct str){0});
    unsigned before = fake.steps;
    run_out();
    check_energy(4, fake.steps - before);
    close_metered();
}

/* A prompt weighs what it takes of the device's time: here as long as one decode. Before both
 * speeds are known, a token is a token. */
static void test_energy_of_prompts(void)
{
    struct rec_REQUEST q = kit_request("Tell me a story of two cats");
    open_metered(2);
    fake.prefills = true;
    q.max_tokens = 8;
    add(1, &q, (struct str){0});
    for (int i = 0; i < 3; i++)
        CHECK_ERR(step(), ERR_OK);
    add(2, &q, (struct str){0});
    CHECK_ERR(step(), ERR_OK);
    run_out();
    CHECK(outcomes[1].prompt_tokens > 2);
    check_energy(1, 3 + 5 * 0.5);
    check_energy(2, 5 * 0.5 + 3);
    close_metered();
}

/* Part of it unknown: all of it is. */
static void test_energy_unknown(void)
{
    struct rec_REQUEST q = kit_request("Tell me");
    q.max_tokens = 6;
    for (int blind = 0; blind <= 7; blind++) { /* the call at which the sensor is away */
        open_metered(2);
        energy_known = blind != 0;
        add(1, &q, (struct str){0});
        for (int i = 1; i <= 6; i++) {
            if (i == blind)
                energy_known = false;
            CHECK_ERR(step(), ERR_OK);
            energy_known = true;
        }
        check_energy(1, blind < 7 ? 0 : 6);
        add(2, &q, (struct str){0});
        run_out();
        check_energy(2, 6);
        close_metered();
    }
}

int main(int argc, char **argv)
{
    struct err_msg why = {{0}};
    if (argc != 3 || !kit_open(&kit, argv[1]))
        return 1;
    struct tokenizer_encode_options plain = {0};
    CHECK_OK(tokenizer_encode(kit.tokenizer, str_of(story), plain, &script, &why), why);
    uint32_t end = 2;
    CHECK_ERR(tokens_append(&script, &end, 1), ERR_OK);
    test_result();
    test_length();
    test_stop_string();
    test_many();
    test_cancel();
    test_continue();
    test_hand_back();
    test_device_lost();
    test_progress();
    test_large_checkpoints();
    test_choices();
    test_choices_end();
    test_logprobs();
    test_energy();
    test_energy_of_prompts();
    test_energy_unknown();
    tokens_free(&script);
    kit_close(&kit);
    return check_report();
}
