/* From grants to jobs: prompts against the golden ids, every refusal, checkpoints, encoded outputs.
 * Arguments: octo-tiny model, golden folder. */
#include <jansson.h>

#include "worker_kit.h"

static struct kit kit;

/* Frees what came out; the caller looks at the refusal. */
static enum err try_request(const struct rec_REQUEST *q, struct job_refusal *ret_refusal,
                            struct err_msg *why)
{
    struct job *j = NULL;
    enum err e = kit_job(&kit, q, (struct str){0}, 1, &j, ret_refusal, why);
    CHECK((e == ERR_OK) == (j != NULL));
    job_destroy(&j);
    return e;
}

static void check_golden_line(const json_t *line)
{
    struct rec_CHAT_MESSAGE messages[32];
    const json_t *list = json_object_get(line, "messages"),
                 *ids = json_object_get(line, "prompt_ids");
    struct rec_REQUEST q = kit_request("");
    q.chat = true;
    q.messages.items = messages;
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *m = json_array_get(list, i);
        messages[q.messages.count++] =
            (struct rec_CHAT_MESSAGE){str_of(json_string_value(json_object_get(m, "role"))),
                                      str_of(json_string_value(json_object_get(m, "content")))};
    }
    struct job *j = NULL;
    struct job_refusal refusal;
    struct err_msg why;
    CHECK_OK(kit_job(&kit, &q, (struct str){0}, 1, &j, &refusal, &why), why);
    if (j == NULL)
        return;
    CHECK_INT(j->prompt.count, json_array_size(ids));
    for (size_t i = 0; i < j->prompt.count && i < json_array_size(ids); i++)
        CHECK_INT(j->prompt.ids[i], json_integer_value(json_array_get(ids, i)));
    /* The same prompt by its ids. */
    uint64_t raw[2048];
    struct rec_REQUEST by_ids = kit_request("");
    by_ids.prompt_ids.items = raw;
    for (size_t i = 0; i < json_array_size(ids); i++)
        raw[by_ids.prompt_ids.count++] = (uint64_t)json_integer_value(json_array_get(ids, i));
    struct job *k = NULL;
    CHECK_OK(kit_job(&kit, &by_ids, (struct str){0}, 2, &k, &refusal, &why), why);
    CHECK(k != NULL && k->prompt.count == j->prompt.count &&
          memcmp(k->prompt.ids, j->prompt.ids, k->prompt.count * sizeof *k->prompt.ids) == 0);
    job_destroy(&k);
    job_destroy(&j);
}

static void test_golden_prompts(const char *golden_dir)
{
    char path[4096], *line = NULL;
    size_t cap = 0, count = 0;
    snprintf(path, sizeof path, "%s/greedy.jsonl", golden_dir);
    FILE *f = fopen(path, "r");
    while (CHECK(f != NULL) && getline(&line, &cap, f) > 0) {
        json_t *object = json_loads(line, JSON_REJECT_DUPLICATES, NULL);
        CHECK(object != NULL);
        check_golden_line(object);
        json_decref(object);
        count++;
    }
    CHECK_INT(count, 66);
    free(line);
    if (f != NULL)
        fclose(f);
}

static void test_raw_prompt(void)
{
    /* Special tokens in a raw prompt are the caller's own template. */
    struct rec_REQUEST q = kit_request("<|im_start|>user\nHow much is 3 plus 50?<|im_end|>\n");
    struct job *j = NULL;
    struct job_refusal refusal;
    struct err_msg why;
    CHECK_OK(kit_job(&kit, &q, (struct str){0}, 5, &j, &refusal, &why), why);
    CHECK(j != NULL && j->prompt.count > 4 && j->prompt.ids[0] == 1 && j->serial == 5);
    job_destroy(&j);
    /* In a message they are text. */
    struct rec_CHAT_MESSAGE m = {STR_LIT("user"), STR_LIT("say <|im_end|> twice")};
    q = kit_request("");
    q.chat = true;
    q.messages.items = &m;
    q.messages.count = 1;
    CHECK_OK(kit_job(&kit, &q, (struct str){0}, 5, &j, &refusal, &why), why);
    size_t ends = 0;
    for (size_t i = 0; j != NULL && i < j->prompt.count; i++)
        ends += j->prompt.ids[i] == 2;
    CHECK_INT(ends, 1);
    job_destroy(&j);
}

static void test_limits(void)
{
    struct job *j = NULL;
    struct job_refusal refusal;
    struct err_msg why;
    uint64_t ids[2048] = {0};
    struct rec_REQUEST q = kit_request("");
    q.prompt_ids.items = ids;
    q.prompt_ids.count = 2000;
    q.max_tokens = 4000;
    q.min_tokens = 500;
    CHECK_OK(kit_job(&kit, &q, (struct str){0}, 1, &j, &refusal, &why), why);
    CHECK(j != NULL && j->max_tokens == 48 &&
          j->min_tokens == 48); /* clamped at the context's end */
    job_destroy(&j);
    q.prompt_ids.count = 2048;
    CHECK_ERR(try_request(&q, &refusal, &why), ERR_USAGE);
    CHECK_STR(refusal.code, "context_length_exceeded");
    CHECK_HAS(why.text, "this model's context is 2048 tokens; the prompt has 2048");
    q.prompt_ids.count = 2047;
    CHECK_ERR(try_request(&q, &refusal, &why), ERR_OK);
}

static void test_refusals(void)
{
    struct job_refusal refusal;
    struct err_msg why;
#define REFUSED(change, want_code, want_param, part)                                               \
    do {                                                                                           \
        struct rec_REQUEST q = kit_request("Hello");                                               \
        change;                                                                                    \
        refusal = (struct job_refusal){"", "", "", false, 0};                                      \
        CHECK_ERR(try_request(&q, &refusal, &why), ERR_USAGE);                                     \
        CHECK_STR(refusal.type, "invalid_request_error");                                          \
        CHECK_STR(refusal.code, want_code);                                                        \
        CHECK_STR(refusal.param, want_param);                                                      \
        CHECK_HAS(why.text, part);                                                                 \
        CHECK_INT(refusal.seed, 42);                                                               \
    } while (0)
    struct rec_CHAT_MESSAGE wizard = {STR_LIT("wizard"), STR_LIT("hi")};
    struct rec_TEXT empty_stop = {{0}};
    uint64_t big[1] = {4096};
    REFUSED(q.prompt = (struct str){0}, "invalid_prompt", "prompt", "empty");
    REFUSED((q.prompt_ids.items = big, q.prompt_ids.count = 1), "invalid_prompt", "prompt", "4096");
    REFUSED(q.chat = true, "invalid_messages", "messages", "");
    REFUSED((q.chat = true, q.messages.items = &wizard, q.messages.count = 1), "invalid_messages",
            "messages", "wizard");
    REFUSED(q.max_tokens = 0, "invalid_value", "max_tokens", "max_tokens is 0");
    REFUSED(q.min_tokens = 101, "invalid_value", "min_tokens", "101");
    REFUSED(q.temperature = -0.5, "invalid_value", "temperature", "-0.5");
    REFUSED(q.top_p = 0, "invalid_value", "top_p", "top_p is 0");
    REFUSED(q.top_p = 1.5, "invalid_value", "top_p", "1.5");
    REFUSED(q.min_p = 2, "invalid_value", "min_p", "min_p is 2");
    REFUSED((q.stop.items = &empty_stop, q.stop.count = 1), "invalid_value", "stop", "empty");
    REFUSED((q.stop_token_ids.items = big, q.stop_token_ids.count = 1), "invalid_value",
            "stop_token_ids", "4096");
    struct rec_BIAS bias[2] = {{4096, 1}, {5, 101}};
    struct rec_TEXT bad[130] = {{STR_LIT(" \n ")}};
    REFUSED(q.repetition_penalty = -1, "invalid_value", "repetition_penalty", "-1");
    REFUSED(q.repetition_penalty = 0.001, "invalid_value", "repetition_penalty", "0.001");
    REFUSED(q.repetition_penalty = 101, "invalid_value", "repetition_penalty", "101");
    REFUSED(q.frequency_penalty = 2.5, "invalid_value", "frequency_penalty", "2.5");
    REFUSED(q.presence_penalty = -2.5, "invalid_value", "presence_penalty", "-2.5");
    REFUSED((q.logit_bias.items = bias, q.logit_bias.count = 1), "invalid_value", "logit_bias",
            "4096");
    REFUSED((q.logit_bias.items = bias + 1, q.logit_bias.count = 1), "invalid_value", "logit_bias",
            "101");
    REFUSED((q.bad_words.items = bad, q.bad_words.count = 1), "invalid_value", "bad_words",
            "bad word 1 has no text");
    REFUSED((q.n = 128, q.max_tokens = 2000, q.logprobs = true, q.top_logprobs = 20),
            "result_too_large", "logprobs", "128 choices");
#undef REFUSED
    /* A model without a template we know still runs plain prompts. */
    const struct chat_template *chat = kit.context.chat;
    kit.context.chat = NULL;
    kit.context.chat_problem = "no template, use --chat-template chatml";
    struct rec_REQUEST q = kit_request("Hello");
    CHECK_ERR(try_request(&q, &refusal, &why), ERR_OK);
    q.chat = true;
    CHECK_ERR(try_request(&q, &refusal, &why), ERR_USAGE);
    CHECK_HAS(why.text, "--chat-template chatml");
    kit.context.chat = chat;
}

static void test_garbage(void)
{
    struct job *j = NULL;
    struct job_refusal refusal;
    struct err_msg why;
    struct rec_GRANT_JOB g = {.job = 1, .epoch = 1, .body = STR_LIT("\xdd\xff\xff\xff\xff")};
    CHECK_ERR(job_create(&kit.context, &g, 1, &j, &refusal, &why), ERR_USAGE);
    CHECK_STR(refusal.code, "unreadable_request");
    g.model = STR_LIT("another");
    CHECK_ERR(job_create(&kit.context, &g, 1, &j, &refusal, &why), ERR_UNSUPPORTED);
    CHECK_HAS(why.text, "another");
    g.model = str_of(kit.context.model_hash);
    CHECK_ERR(job_create(&kit.context, &g, 1, &j, &refusal, &why), ERR_USAGE);
    CHECK(j == NULL);
}

static void test_stop_tokens(void)
{
    struct job *j = NULL;
    struct job_refusal refusal;
    struct err_msg why;
    uint64_t stops[3] = {7, 2, 7};
    size_t ends = 0;
    tokenizer_end_tokens(kit.tokenizer, &ends);
    struct rec_REQUEST q = kit_request("Hello");
    q.stop_token_ids.items = stops;
    q.stop_token_ids.count = 3;
    CHECK_OK(kit_job(&kit, &q, (struct str){0}, 1, &j, &refusal, &why), why);
    CHECK(j != NULL && j->stop_tokens_count == ends + 1); /* 2 is one of the model's own */
    job_destroy(&j);
    q.ignore_eos = true;
    CHECK_OK(kit_job(&kit, &q, (struct str){0}, 1, &j, &refusal, &why), why);
    CHECK(j != NULL && j->stop_tokens_count == 2);
    job_destroy(&j);
}

static void test_sampling_fields(void)
{
    struct job *j = NULL;
    struct job_refusal refusal;
    struct err_msg why;
    struct rec_BIAS bias[2] = {{5, -100}, {4095, 0.5}};
    struct rec_TEXT bad[2] = {{STR_LIT("  fox")}, {STR_LIT("\n")}};
    struct rec_REQUEST q = kit_request("Hello");
    CHECK_OK(kit_job(&kit, &q, (struct str){0}, 1, &j, &refusal, &why), why);
    CHECK(j != NULL && j->n == 1 && j->repetition_penalty == 1 && !j->logprobs &&
          j->bias_count == 0 && j->bad_count == 0 && job_has_checkpoints(j));
    job_destroy(&j);
    q.n = 3;
    q.repetition_penalty = 1.25;
    q.frequency_penalty = -2;
    q.presence_penalty = 2;
    q.logit_bias.items = bias;
    q.logit_bias.count = 2;
    q.bad_words.items = bad;
    q.bad_words.count = 1;
    q.logprobs = true;
    q.top_logprobs = 20;
    CHECK_OK(kit_job(&kit, &q, (struct str){0}, 1, &j, &refusal, &why), why);
    if (!CHECK(j != NULL))
        return;
    CHECK(j->n == 3 && j->repetition_penalty == 1.25f && j->frequency_penalty == -2 &&
          j->presence_penalty == 2 && j->logprobs && j->top_logprobs == 20);
    CHECK(j->bias_count == 2 && j->bias[0].id == 5 && j->bias[0].bias == -100 &&
          j->bias[1].bias == 0.5f);
    /* At the beginning of a text, and behind a space. */
    struct tokens want = {0};
    struct tokenizer_encode_options plain = {0};
    CHECK_OK(tokenizer_encode(kit.tokenizer, STR_LIT("fox"), plain, &want, &why), why);
    size_t first = want.count;
    CHECK(j->bad_lengths[0] == first);
    CHECK_OK(tokenizer_encode(kit.tokenizer, STR_LIT(" fox"), plain, &want, &why), why);
    CHECK_INT(j->bad_count, 2);
    CHECK_INT(j->bad_lengths[1], want.count - first);
    CHECK(j->bad_ids.count == want.count &&
          memcmp(j->bad_ids.ids, want.ids, want.count * sizeof *want.ids) == 0);
    tokens_free(&want);
    job_destroy(&j);
}

/* Returns how many completion tokens the job begins with. */
static size_t with_checkpoint(const char *numeric_class, const char *hash, const char *prompt_hash,
                              uint64_t *ids, size_t count)
{
    struct rec_CHECKPOINT p = {
        str_of(numeric_class), str_of(hash), {ids, count}, str_of(prompt_hash)};
    struct buf bytes = {0};
    struct job *j = NULL;
    struct job_refusal refusal;
    struct err_msg why;
    struct rec_REQUEST q = kit_request("Hello");
    q.max_tokens = 4;
    CHECK_OK(proto_encode_checkpoint(&p, &bytes, &why), why);
    CHECK_OK(kit_job(&kit, &q, (struct str){bytes.data, bytes.len}, 1, &j, &refusal, &why), why);
    size_t got = j == NULL ? 99 : j->choices[0].completion.count;
    job_destroy(&j);
    buf_free(&bytes);
    return got;
}

static void test_checkpoint(void)
{
    uint64_t ids[] = {300, 301, 302, 303, 2, 4096};
    const char *class = kit.context.numeric_class, *hash = kit.context.model_hash;
    char prompt[33], others[33];
    struct rec_REQUEST q = kit_request("Hello"), other = kit_request("Hello.");
    kit_prompt_hash(&kit, &q, prompt);
    kit_prompt_hash(&kit, &other, others);
    CHECK_INT(with_checkpoint(class, hash, prompt, ids, 3), 3);
    CHECK_INT(with_checkpoint("class-2", hash, prompt, ids, 3), 0);
    CHECK_INT(with_checkpoint(class, "another", prompt, ids, 3), 0);
    CHECK_INT(with_checkpoint(class, hash, others, ids, 3), 0);
    CHECK_INT(with_checkpoint(class, hash, "", ids, 3), 0); /* of an earlier version */
    CHECK_INT(with_checkpoint(class, hash, prompt, ids, 4),
              0); /* as long as max_tokens: cannot be running */
    CHECK_INT(with_checkpoint(class, hash, prompt, ids + 3, 2), 0); /* holds a stop token */
    CHECK_INT(with_checkpoint(class, hash, prompt, ids + 5, 1), 0); /* outside the vocabulary */
    struct job *j = NULL;
    struct job_refusal refusal;
    struct err_msg why;
    CHECK_OK(kit_job(&kit, &q, STR_LIT("not msgpack"), 1, &j, &refusal, &why), why);
    CHECK(j != NULL && j->choices[0].completion.count == 0);
    /* What a job says of itself is accepted by the next worker. */
    struct buf bytes = {0};
    uint32_t done[2] = {300, 301};
    CHECK_ERR(tokens_append(&j->choices[0].completion, done, 2), ERR_OK);
    CHECK_OK(job_encode_checkpoint(&kit.context, j, &bytes, &why), why);
    struct job *next = NULL;
    CHECK_OK(kit_job(&kit, &q, (struct str){bytes.data, bytes.len}, 1, &next, &refusal, &why), why);
    CHECK(next != NULL && next->choices[0].completion.count == 2 &&
          next->choices[0].completion.ids[1] == 301);
    job_destroy(&next);
    CHECK_OK(kit_job(&kit, &other, (struct str){bytes.data, bytes.len}, 1, &next, &refusal, &why),
             why);
    CHECK(next != NULL && next->choices[0].completion.count == 0);
    buf_free(&bytes);
    job_destroy(&j);
    job_destroy(&next);
}

static void test_refusal_body(void)
{
    struct job_refusal r = {"invalid_request_error", "context_length_exceeded", "messages", true,
                            9};
    struct buf body = {0};
    struct err_msg why;
    CHECK_OK(job_encode_refusal(&kit.context, &r, "too long", 1234, &body, &why), why);
    struct rec_OUTPUT o = kit_output(&kit, &body);
    CHECK(o.status_code == 400 && o.chat && o.seed == 9 && o.finished_ms == 1234);
    CHECK(kit_is(o.error_message, "too long") && kit_is(o.error_type, "invalid_request_error") &&
          kit_is(o.error_code, "context_length_exceeded") && kit_is(o.error_param, "messages") &&
          kit_is(o.worker, "w0") && kit_is(o.model_hash, kit.context.model_hash));
    buf_free(&body);
}

int main(int argc, char **argv)
{
    if (argc != 3 || !kit_open(&kit, argv[1]))
        return 1;
    test_golden_prompts(argv[2]);
    test_raw_prompt();
    test_limits();
    test_refusals();
    test_garbage();
    test_stop_tokens();
    test_sampling_fields();
    test_checkpoint();
    test_refusal_body();
    kit_close(&kit);
    return check_report();
}
