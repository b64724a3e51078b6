/* Results to output lines: the exact bytes. */
#include "check.h"

#include <jansson.h>

#include "base/buf.h"
#include "base/hash.h"
#include "client/output.h"
#include "proto/codec.h"

/* The ids of (batch "b", line 7) as the test computes them itself. */
static char id[33];

static struct rec_CHOICE choices[2];

static struct rec_OUTPUT answer(void)
{
    choices[0] = (struct rec_CHOICE){.text = STR_LIT("Grüße \"x\"\\\n\t\x01\x7f\0😀"),
                                     .finish_reason = STR_LIT("stop"),
                                     .completion_tokens = 3};
    choices[1] = (struct rec_CHOICE){.text = STR_LIT("other"), .finish_reason = STR_LIT("length")};
    return (struct rec_OUTPUT){.status_code = 200,
                               .chat = true,
                               .choices = {choices, 1},
                               .prompt_tokens = 12,
                               .completion_tokens = 3,
                               .cached_tokens = 4,
                               .seed = UINT64_MAX,
                               .model_name = STR_LIT("octo"),
                               .model_hash = STR_LIT("0123"),
                               .quantization = STR_LIT("Q4_K"),
                               .numeric_class = STR_LIT("class"),
                               .device = STR_LIT("llvmpipe"),
                               .driver = STR_LIT("Mesa 22.3.6"),
                               .build = STR_LIT("0.1.0+abc"),
                               .worker = STR_LIT("host:0"),
                               .started_ms = 1764062096123,
                               .finished_ms = 1764062097005,
                               .energy_j = 1.5};
}

static const struct rec_FETCHED fetched = {.seq = 1,
                                           .line = 7,
                                           .custom_id = {"my-id", 5},
                                           .state = {"done", 4},
                                           .attempts = 2,
                                           .submitted_ms = 1764062095000,
                                           .finished_ms = 1764062099999};

static const char *const times = ",\"attempts\":2,\"worker\":\"host:0\",\"submitted_at\":"
                                 "\"2025-11-25T09:14:55.000Z\",\"started_at\":"
                                 "\"2025-11-25T09:14:56.123Z\",\"finished_at\":"
                                 "\"2025-11-25T09:14:57.005Z\",\"energy_j\":1.500000}}\n";

/* The line of f with r as its body; r NULL: f as it is. Freed by the next call with NULL f. */
static const char *line_of(struct rec_FETCHED f, const struct rec_OUTPUT *r,
                           struct output_summary *summary)
{
    static struct buf body, out;
    struct err_msg why;
    buf_clear(&body);
    buf_clear(&out);
    if (r != NULL) {
        CHECK_OK(proto_encode_output(r, &body, &why), why);
        f.body = (struct str){body.data, body.len};
    }
    CHECK_ERR(output_append("b", &f, &out, summary), ERR_OK);
    const char *text = buf_cstr(&out);
    /* whatever it is, it is one line of valid JSON */
    json_t *json = json_loads(text, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, NULL);
    CHECK(json != NULL && strlen(text) == out.len && strchr(text, '\n') == text + out.len - 1);
    json_decref(json);
    static char *last;
    free(last);
    last = strdup(text);
    buf_free(&body);
    buf_free(&out);
    if (f.line == 0) {
        free(last);
        last = NULL;
    }
    return last;
}

static void test_chat(void)
{
    struct output_summary s;
    struct rec_OUTPUT r = answer();
    char want[2000];
    snprintf(
        want, sizeof want,
        "{\"id\":\"batch_req_%s\",\"custom_id\":\"my-id\",\"response\":{\"status_code\":200,"
        "\"request_id\":\"req_%s\",\"body\":{\"id\":\"chatcmpl-%s\",\"object\":"
        "\"chat.completion\",\"created\":1735689607,\"model\":\"octo\",\"choices\":[{\"index\":0,"
        "\"message\":{\"role\":\"assistant\",\"content\":"
        "\"Grüße \\\"x\\\"\\\\\\n\\t\\u0001\x7f\\u0000😀\",\"refusal\":null},\"finish_reason\":"
        "\"stop\",\"logprobs\":null}],\"usage\":{\"prompt_tokens\":12,\"completion_tokens\":3,"
        "\"total_tokens\":15}}},\"error\":null,\"octoflow\":{\"line\":7,\"batch\":\"b\","
        "\"model\":\"octo\",\"model_hash\":\"0123\",\"quantization\":\"Q4_K\",\"numeric_class\":"
        "\"class\",\"device\":\"llvmpipe\",\"driver\":\"Mesa 22.3.6\",\"build\":\"0.1.0+abc\","
        "\"seed\":-1,\"cached_tokens\":4%s",
        id, id, id, times);
    CHECK_STR(line_of(fetched, &r, &s), want);
    CHECK(s.kind == OUTPUT_ANSWER && s.prompt_tokens == 12 && s.completion_tokens == 3);
    CHECK(s.energy_j == 1.5);
    CHECK_STR(s.reason, "");
    r.energy_j = 0;
    CHECK_HAS(line_of(fetched, &r, &s), "T09:14:57.005Z\",\"energy_j\":null}}\n");
    CHECK(s.energy_j == 0);
    r.energy_j = 2e-5; /* not to be taken for nothing */
    CHECK_HAS(line_of(fetched, &r, &s), "\"energy_j\":0.000020}}");
}

static void test_completion(void)
{
    struct output_summary s;
    struct rec_OUTPUT r = answer();
    r.chat = false;
    choices[0].text = STR_LIT("");
    choices[0].finish_reason = STR_LIT("length");
    const char *line = line_of(fetched, &r, &s);
    char want[500];
    snprintf(
        want, sizeof want,
        "\"body\":{\"id\":\"cmpl-%s\",\"object\":\"text_completion\",\"created\":1735689607,"
        "\"model\":\"octo\",\"choices\":[{\"index\":0,\"text\":\"\",\"finish_reason\":\"length\","
        "\"logprobs\":null}]",
        id);
    CHECK_HAS(line, want);
}

static void test_choices(void)
{
    struct output_summary s;
    struct rec_OUTPUT r = answer();
    choices[0].text = STR_LIT("one");
    r.choices.count = 2;
    CHECK_HAS(line_of(fetched, &r, &s),
              "\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"one\","
              "\"refusal\":null},\"finish_reason\":\"stop\",\"logprobs\":null},{\"index\":1,"
              "\"message\":{\"role\":"
              "\"assistant\",\"content\":\"other\",\"refusal\":null},\"finish_reason\":\"length\","
              "\"logprobs\":null}]");
    CHECK_INT(s.completion_tokens, 3);
    r.choices.count = 0; /* no worker says that */
    CHECK_HAS(line_of(fetched, &r, &s), "unreadable_result");
}

static void test_logprobs(void)
{
    struct output_summary s;
    struct rec_OUTPUT r = answer();
    struct rec_LOGPROB entries[6] = {{STR_LIT("é"), -0.25, 0},     {STR_LIT("é"), -0.25, 0},
                                     {STR_LIT("\xe2\x82"), -2, 0}, {STR_LIT("\xac\""), -9999, 1},
                                     {STR_LIT("a"), -0.5, 0},      {STR_LIT("a"), -0.75, 0}};
    choices[0].logprobs.items = entries;
    choices[0].logprobs.count = 6;
    choices[0].top_logprobs = 2;
    CHECK_HAS(
        line_of(fetched, &r, &s),
        "\"logprobs\":{\"content\":[{\"token\":\"é\",\"logprob\":-0.2500000,\"bytes\":[195,169],"
        "\"top_logprobs\":[{\"token\":\"é\",\"logprob\":-0.2500000,\"bytes\":[195,169]},"
        "{\"token\":\"��\",\"logprob\":-2.0000000,\"bytes\":[226,130]}]},"
        "{\"token\":\"�\\\"\",\"logprob\":-9999.0000000,\"bytes\":[172,34],\"top_logprobs\":["
        "{\"token\":\"a\",\"logprob\":-0.5000000,\"bytes\":[97]},"
        "{\"token\":\"a\",\"logprob\":-0.7500000,\"bytes\":[97]}]}],\"refusal\":null}}]");
    r.chat = false;
    CHECK_HAS(
        line_of(fetched, &r, &s),
        "\"logprobs\":{\"tokens\":[\"é\",\"bytes:\\\\xac\\\\x22\"],\"token_logprobs\":["
        "-0.2500000,-9999.0000000],\"top_logprobs\":[{\"é\":-0.2500000,\"bytes:\\\\xe2\\\\x82\":"
        "-2.0000000},{\"a\":-0.5000000,\"bytes:\\\\xac\\\\x22\":-9999.0000000}],\"text_offset\":[0,"
        "1]}}]");
    choices[0].top_logprobs = 0;
    choices[0].logprobs.count = 1;
    CHECK_HAS(line_of(fetched, &r, &s),
              "\"logprobs\":{\"tokens\":[\"é\"],\"token_logprobs\":[-0.2500000],"
              "\"top_logprobs\":null,\"text_offset\":[0]}}]");
    choices[0].logprobs.count = 5; /* not a whole number of tokens */
    choices[0].top_logprobs = 1;
    CHECK_HAS(line_of(fetched, &r, &s), "unreadable_result");
}

static void test_refusal(void)
{
    struct output_summary s;
    struct rec_OUTPUT r = {.status_code = 400,
                           .error_message = STR_LIT("n is 2"),
                           .error_type = STR_LIT("invalid_request_error"),
                           .error_code = STR_LIT("unsupported_field"),
                           .error_param = STR_LIT("n")};
    struct rec_FETCHED f = fetched;
    f.state = STR_LIT("failed");
    f.custom_id = (struct str){"", 0};
    f.attempts = 0;
    char want[1000];
    snprintf(
        want, sizeof want,
        "{\"id\":\"batch_req_%s\",\"custom_id\":null,\"response\":{\"status_code\":400,"
        "\"request_id\":\"req_%s\",\"body\":{\"error\":{\"message\":\"line 7: n is 2\",\"type\":"
        "\"invalid_request_error\",\"param\":\"n\",\"code\":\"unsupported_field\"}}},\"error\":"
        "null,\"octoflow\":{\"line\":7,\"batch\":\"b\",\"attempts\":0,\"submitted_at\":"
        "\"2025-11-25T09:14:55.000Z\",\"finished_at\":\"2025-11-25T09:14:59.999Z\"}}\n",
        id, id);
    CHECK_STR(line_of(f, &r, &s), want);
    CHECK(s.kind == OUTPUT_FAILED);
    CHECK_STR(s.reason, "line 7: n is 2");
    r.error_param = (struct str){NULL, 0};
    r.status_code = 500;
    const char *line = line_of(f, &r, &s);
    CHECK_HAS(line, "\"status_code\":500");
    CHECK_HAS(line, "\"param\":null");
}

static void test_cancelled(void)
{
    struct output_summary s;
    struct rec_FETCHED f = fetched;
    f.state = STR_LIT("cancelled");
    char want[500];
    snprintf(
        want, sizeof want,
        "{\"id\":\"batch_req_%s\",\"custom_id\":\"my-id\",\"response\":null,\"error\":{\"code\":"
        "\"batch_cancelled\",\"message\":\"line 7: cancelled before it was finished\"},",
        id);
    CHECK_HAS(line_of(f, NULL, &s), want);
    CHECK(s.kind == OUTPUT_CANCELLED);
    struct rec_OUTPUT r = {.status_code = 504,
                           .error_message = STR_LIT("not done by the deadline"),
                           .error_type = STR_LIT("server_error"),
                           .error_code = STR_LIT("batch_expired")};
    f.state = STR_LIT("failed");
    snprintf(
        want, sizeof want,
        "{\"id\":\"batch_req_%s\",\"custom_id\":\"my-id\",\"response\":null,\"error\":{\"code\":"
        "\"batch_expired\",\"message\":\"line 7: not done by the deadline\"},",
        id);
    CHECK_HAS(line_of(f, &r, &s), want);
    CHECK(s.kind == OUTPUT_FAILED);
}

static void test_unreadable(void)
{
    struct output_summary s;
    struct rec_FETCHED f = fetched;
    f.body = STR_LIT("\xdd\xff\xff\xff\xff");
    const char *line = line_of(f, NULL, &s);
    CHECK_HAS(line, "\"status_code\":500");
    CHECK_HAS(line, "unreadable_result");
    CHECK(s.kind == OUTPUT_FAILED);
    f.body = (struct str){"", 0};
    CHECK_HAS(line_of(f, NULL, &s), "unreadable_result");
}

/* Ids say (batch, line) and nothing else. */
static void test_ids(void)
{
    struct output_summary s;
    struct rec_OUTPUT r = answer();
    struct rec_FETCHED f = fetched;
    f.attempts = 9;
    f.custom_id = STR_LIT("other");
    r.seed = 1;
    CHECK_HAS(line_of(f, &r, &s), id);
    f.line = 8;
    CHECK(strstr(line_of(f, &r, &s), id) == NULL);
    f.line = 0;
    line_of(f, &r, &s);
}

int main(void)
{
    hash128_hex("b\n7", 3, id);
    test_chat();
    test_completion();
    test_choices();
    test_logprobs();
    test_refusal();
    test_cancelled();
    test_unreadable();
    test_ids();
    return check_report();
}
