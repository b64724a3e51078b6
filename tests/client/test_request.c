/* Every kind of input line by name: what it becomes, or which field refuses it. */
#include "check.h"

#include <stdio.h>

#include "base/buf.h"
#include "base/hash.h"
#include "base/size.h"
#include "base/utf8.h"
#include "client/ids.h"
#include "client/request.h"
#include "proto/codec.h"

static const struct request_options options = {.max_tokens = 2048, .batch_seed = 0};

static void parse(const char *line, size_t len, struct request *r)
{
    CHECK_ERR(request_parse((struct str){line, len}, 7, &options, r), ERR_OK);
}

/* Whatever a line is, what comes of it can be sent, and is one short line of text. */
static void check_encodes(const char *name, struct request *r)
{
    struct buf out = {0};
    struct err_msg why = {{0}};
    enum err e = r->refused ? proto_encode_output(&r->refusal, &out, &why)
                            : proto_encode_request(&r->request, &out, &why);
    if (!CHECK(e == ERR_OK))
        fprintf(stderr, "    %s: %s\n", name, why.text);
    buf_free(&out);
    if (r->refused) {
        CHECK(r->refusal.status_code == 400);
        CHECK(str_eq(r->refusal.error_type, STR_LIT("invalid_request_error")));
        CHECK(r->refusal.error_code.len > 0);
        CHECK(r->refusal.error_message.len > 0 && r->refusal.error_message.len < 500);
        CHECK(utf8_is_valid(r->refusal.error_message.data, r->refusal.error_message.len));
        CHECK(memchr(r->refusal.error_message.data, '\n', r->refusal.error_message.len) == NULL);
    }
}

struct refused {
    const char *name, *line, *code, *param, *text;
};

static const struct refused refused[] = {
    {"not json", "What is 1 + 1?", "invalid_json", "", "not JSON"},
    {"half", "{\"prompt\": \"a", "invalid_json", "", ""},
    {"number", "7", "invalid_json", "", ""},
    {"string", "\"prompt\"", "invalid_json", "", ""},
    {"null", "null", "invalid_json", "", ""},
    {"array", "[{\"prompt\": \"a\"}]", "invalid_json", "", "a list"},
    {"empty object", "{}", "missing_field", "", "prompt"},
    {"two values", "{\"prompt\": \"a\"} {\"prompt\": \"b\"}", "invalid_json", "", ""},
    {"trailing comma", "{\"prompt\": \"a\",}", "invalid_json", "", ""},
    {"comment", "{\"prompt\": \"a\"} // hi", "invalid_json", "", ""},
    {"not utf-8", "{\"prompt\": \"\xff\xfe\"}", "invalid_json", "", "UTF-8"},
    {"overlong utf-8", "{\"prompt\": \"\xc0\xaf\"}", "invalid_json", "", "UTF-8"},
    {"surrogate in utf-8", "{\"prompt\": \"\xed\xa0\x80\"}", "invalid_json", "", "UTF-8"},
    {"lone surrogate", "{\"prompt\": \"\\ud800\"}", "invalid_value", "prompt", "\\uD800 is half"},
    {"lone low surrogate", "{\"prompt\": \"\\udc00 a\"}", "invalid_value", "prompt", "\\uDC00"},
    {"key twice", "{\"prompt\": \"a\", \"prompt\": \"b\"}", "duplicate_key", "prompt",
     "\"prompt\" is there twice"},
    {"key twice inside", "{\"messages\": [{\"role\":\"user\",\"role\":\"user\",\"content\":\"\"}]}",
     "duplicate_key", "messages", "\"role\" is there twice"},
    {"nan", "{\"prompt\": \"a\", \"temperature\": NaN}", "invalid_json", "", ""},
    {"infinity", "{\"prompt\": \"a\", \"temperature\": -Infinity}", "invalid_json", "", ""},
    {"huge real", "{\"prompt\": \"a\", \"temperature\": 1e999}", "invalid_value", "temperature",
     "temperature is 1e999, expected a number from 0 to 100"},
    {"huge integer", "{\"prompt\": \"a\", \"seed\": 18446744073709551615}", "invalid_value", "seed",
     "seed is 18446744073709551615, expected a whole number from -9223372036854775808 to "
     "9223372036854775807"},
    {"huge in a body", "{\"custom_id\": \"x\", \"body\": {\"a\": {\"b\": 1}, \"top_p\" : 1e999}}",
     "invalid_value", "top_p", "above 0 to 1"},
    {"huge in metadata", "{\"metadata\": {\"seed\": 99999999999999999999}, \"prompt\": \"a\"}",
     "invalid_value", "metadata", "metadata: a number is 99999999999999999999, expected less"},
    {"half in metadata", "{\"prompt\": \"\\\"a\", \"metadata\": {\"a\": [\"\\udc00\"]}}",
     "invalid_value", "metadata", "\\uDC00 is half of a character"},
    {"control character", "{\"prompt\": \"a\x01z\"}", "invalid_json", "", ""},
    {"nul in a key", "{\"prompt\": \"a\", \"user\\u0000\": 1}", "invalid_value", "user\\u0000",
     "not supported"},

    {"prompt number", "{\"prompt\": 7}", "invalid_type", "prompt", "a number"},
    {"prompt empty", "{\"prompt\": \"\"}", "invalid_value", "prompt", "empty"},
    {"prompt null", "{\"prompt\": null}", "missing_field", "", ""},
    {"prompt empty list", "{\"prompt\": []}", "invalid_value", "prompt", "empty"},
    {"prompt strings", "{\"prompt\": [\"a\", \"b\"]}", "unsupported_value", "prompt",
     "line of its own"},
    {"prompt lists", "{\"prompt\": [[1], [2]]}", "unsupported_value", "prompt", "line of its own"},
    {"prompt negative id", "{\"prompt\": [1, -1]}", "invalid_type", "prompt", "item 1"},
    {"prompt large id", "{\"prompt\": [4294967296]}", "invalid_type", "prompt", "item 0"},
    {"prompt real id", "{\"prompt\": [1.0, 1.5]}", "invalid_type", "prompt", "item 1"},
    {"prompt real id -1", "{\"prompt\": [-1.0]}", "invalid_type", "prompt", "item 0"},
    {"prompt mixed", "{\"prompt\": [1, \"a\"]}", "invalid_type", "prompt", "item 1 is a string"},
    {"both", "{\"prompt\": \"a\", \"messages\": [{\"role\":\"user\",\"content\":\"b\"}]}",
     "invalid_value", "prompt", "both"},
    {"messages empty", "{\"messages\": []}", "invalid_value", "messages", "0 items"},
    {"messages text", "{\"messages\": \"hi\"}", "invalid_type", "messages", "a string"},
    {"message text", "{\"messages\": [\"hi\"]}", "invalid_type", "messages", "messages[0]"},
    {"no role", "{\"messages\": [{\"content\": \"a\"}]}", "invalid_type", "messages", "role"},
    {"role number", "{\"messages\": [{\"role\": 1, \"content\": \"a\"}]}", "invalid_type",
     "messages", "role"},
    {"role unknown", "{\"messages\": [{\"role\": \"wizard\", \"content\": \"a\"}]}",
     "invalid_value", "messages", "wizard\", expected system, developer, user or assistant"},
    {"no content", "{\"messages\": [{\"role\": \"user\"}]}", "invalid_type", "messages",
     "messages[0].content is missing"},
    {"content null", "{\"messages\": [{\"role\": \"user\", \"content\": null}]}", "invalid_type",
     "messages", "content"},
    {"content number", "{\"messages\": [{\"role\": \"user\", \"content\": 7}]}", "invalid_type",
     "messages", "content"},
    {"image", "{\"messages\": [{\"role\": \"user\", \"content\": [{\"type\": \"image_url\"}]}]}",
     "unsupported_value", "messages", "image_url"},
    {"part text", "{\"messages\": [{\"role\": \"user\", \"content\": [\"a\"]}]}", "invalid_type",
     "messages", "part 0"},
    {"part without text",
     "{\"messages\": [{\"role\": \"user\", \"content\": [{\"type\": \"text\"}]}]}", "invalid_type",
     "messages", "text is missing"},
    {"part with more",
     "{\"messages\": "
     "[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"a\",\"x\":1}]}]}",
     "unknown_field", "messages", "\"x\""},
    {"message name",
     "{\"messages\": [{\"role\": \"user\", \"content\": \"a\", \"name\": \"Bob\"}]}",
     "unsupported_field", "messages", "name"},
    {"message tool calls",
     "{\"messages\": [{\"role\": \"assistant\", \"content\": \"a\", \"tool_calls\": [{}]}]}",
     "unsupported_field", "messages", "tool_calls"},

#define P "{\"prompt\": \"a\", "
    {"temperature text", P "\"temperature\": \"hot\"}", "invalid_type", "temperature", "a string"},
    {"temperature true", P "\"temperature\": true}", "invalid_type", "temperature", "true"},
    {"temperature -1", P "\"temperature\": -1}", "invalid_value", "temperature", "-1"},
    {"temperature 101", P "\"temperature\": 101}", "invalid_value", "temperature", "101"},
    {"top_p 0", P "\"top_p\": 0}", "invalid_value", "top_p", "above 0"},
    {"top_p 2", P "\"top_p\": 2}", "invalid_value", "top_p", "2"},
    {"top_k -5", P "\"top_k\": -5}", "invalid_value", "top_k", "-5"},
    {"top_k 1.5", P "\"top_k\": 1.5}", "invalid_type", "top_k", "1.5"},
    {"min_p 2", P "\"min_p\": 2}", "invalid_value", "min_p", ""},
    {"max_tokens 0", P "\"max_tokens\": 0}", "invalid_value", "max_tokens", "is 0"},
    {"max_tokens -1", P "\"max_tokens\": -1}", "invalid_value", "max_tokens", "-1"},
    {"max_tokens 1.5", P "\"max_tokens\": 1.5}", "invalid_type", "max_tokens", "1.5"},
    {"max_tokens 0.0", P "\"max_tokens\": 0.0}", "invalid_value", "max_tokens", "is 0"},
    {"max_tokens 1e300", P "\"max_tokens\": 1e300}", "invalid_type", "max_tokens", "1e+300"},
    {"max_tokens text", P "\"max_tokens\": \"5\"}", "invalid_type", "max_tokens", "a string"},
    {"max_tokens huge", P "\"max_tokens\": 9223372036854775807}", "invalid_value", "max_tokens",
     "from 1 to 9000000000000000"},
    {"two maxima", P "\"max_tokens\": 5, \"max_completion_tokens\": 6}", "invalid_value",
     "max_completion_tokens", "max_tokens is 5"},
    {"min above max", P "\"max_tokens\": 5, \"min_tokens\": 6}", "invalid_value", "min_tokens",
     "6"},
    {"min above the default", P "\"min_tokens\": 3000}", "invalid_value", "min_tokens", "2048"},
    {"min_tokens -1", P "\"min_tokens\": -1}", "invalid_value", "min_tokens", ""},
    {"seed text", P "\"seed\": \"x\"}", "invalid_type", "seed", ""},
    {"seed 1.5", P "\"seed\": 1.5}", "invalid_type", "seed", "from -9223372036854775808"},
    {"stop number", P "\"stop\": 7}", "invalid_type", "stop", "a number"},
    {"stop list", P "\"stop\": [7]}", "invalid_type", "stop", "a number"},
    {"stop empty", P "\"stop\": \"\"}", "invalid_value", "stop", "empty"},
    {"stop empty in list", P "\"stop\": [\"a\", \"\"]}", "invalid_value", "stop", "string 2"},
    {"many stops",
     P "\"stop\": [\"\\n\",\"2\",\"3\",\"4\",\"5\",\"6\",\"7\",\"8\",\"9\",\"10\",\"11\","
       "\"12\",\"13\",\"14\",\"15\",\"16\",\"17\"]}",
     "invalid_value", "stop", "17"},
    {"stop_token_ids text", P "\"stop_token_ids\": \"5\"}", "invalid_type", "stop_token_ids", ""},
    {"stop_token_ids -1", P "\"stop_token_ids\": [-1]}", "invalid_type", "stop_token_ids", ""},
    {"ignore_eos text", P "\"ignore_eos\": \"yes\"}", "invalid_type", "ignore_eos", ""},
    {"ignore_eos 1", P "\"ignore_eos\": 1}", "invalid_type", "ignore_eos", ""},

    {"unknown field", P "\"temprature\": 0}", "unknown_field", "temprature", "temprature"},
    {"unknown null", P "\"temprature\": null}", "unknown_field", "temprature", ""},
    {"n 0", P "\"n\": 0}", "invalid_value", "n", "n is 0, expected a whole number from 1 to 128"},
    {"n 129", P "\"n\": 129}", "invalid_value", "n", "129"},
    {"n 1.5", P "\"n\": 1.5}", "invalid_type", "n", "1.5"},
    {"n text", P "\"n\": \"2\"}", "invalid_type", "n", "a string"},
    {"best_of 2", P "\"best_of\": 2}", "unsupported_field", "best_of", ""},
    {"tools", P "\"tools\": [{\"type\": \"function\"}]}", "unsupported_field", "tools", ""},
    {"tool_choice", P "\"tool_choice\": \"required\"}", "unsupported_field", "tool_choice", ""},
    {"functions", P "\"functions\": [{}]}", "unsupported_field", "functions", ""},
    {"response_format", P "\"response_format\": {\"type\": \"json_object\"}}", "unsupported_field",
     "response_format", ""},
    {"response_format text", P "\"response_format\": \"text\"}", "unsupported_field",
     "response_format", ""},
    {"logit_bias list", P "\"logit_bias\": [1]}", "invalid_type", "logit_bias", "a list"},
    {"logit_bias key", P "\"logit_bias\": {\"the\": 1}}", "invalid_value", "logit_bias", "\"the\""},
    {"logit_bias 05", P "\"logit_bias\": {\"05\": 1}}", "invalid_value", "logit_bias", "\"05\""},
    {"logit_bias -5", P "\"logit_bias\": {\"-5\": 1}}", "invalid_value", "logit_bias", "\"-5\""},
    {"logit_bias empty", P "\"logit_bias\": {\"\": 1}}", "invalid_value", "logit_bias", "\"\""},
    {"logit_bias 2^32", P "\"logit_bias\": {\"4294967296\": 1}}", "invalid_value", "logit_bias",
     ""},
    {"logit_bias 101", P "\"logit_bias\": {\"5\": 101}}", "invalid_value", "logit_bias",
     "out of range"},
    {"logit_bias text", P "\"logit_bias\": {\"5\": \"1\"}}", "invalid_value", "logit_bias",
     "a string"},
    {"logprobs true", P "\"logprobs\": true}", "invalid_type", "logprobs", "0 to 5"},
    {"logprobs 6", P "\"logprobs\": 6}", "invalid_value", "logprobs", "logprobs is 6"},
    {"logprobs -1", P "\"logprobs\": -1}", "invalid_value", "logprobs", "-1"},
    {"logprobs 1.5", P "\"logprobs\": 1.5}", "invalid_type", "logprobs", ""},
    {"top_logprobs", P "\"top_logprobs\": 2}", "invalid_value", "top_logprobs", "chats"},
    {"both logprobs", P "\"logprobs\": 2, \"top_logprobs\": 2}", "invalid_value", "top_logprobs",
     "chats"},
#define M "{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}], "
    {"chat logprobs 2", M "\"logprobs\": 2}", "invalid_type", "logprobs", "true or false"},
    {"chat top alone", M "\"top_logprobs\": 2}", "invalid_value", "top_logprobs", "needs logprobs"},
    {"chat top false", M "\"logprobs\": false, \"top_logprobs\": 2}", "invalid_value",
     "top_logprobs", "needs logprobs"},
    {"chat top 21", M "\"logprobs\": true, \"top_logprobs\": 21}", "invalid_value", "top_logprobs",
     "0 to 20"},
    {"chat top -1", M "\"logprobs\": true, \"top_logprobs\": -1}", "invalid_value", "top_logprobs",
     ""},
    {"echo", P "\"echo\": true}", "unsupported_field", "echo", ""},
    {"suffix", P "\"suffix\": \"z\"}", "unsupported_field", "suffix", ""},
    {"stream", P "\"stream\": true}", "unsupported_field", "stream", ""},
    {"presence_penalty", P "\"presence_penalty\": 2.5}", "invalid_value", "presence_penalty",
     "-2 to 2"},
    {"presence text", P "\"presence_penalty\": \"1\"}", "invalid_type", "presence_penalty", ""},
    {"frequency_penalty", P "\"frequency_penalty\": -2.1}", "invalid_value", "frequency_penalty",
     "-2 to 2"},
    {"repetition_penalty", P "\"repetition_penalty\": 0}", "invalid_value", "repetition_penalty",
     "0.01 to 100"},
    {"repetition -1", P "\"repetition_penalty\": -1}", "invalid_value", "repetition_penalty", ""},
    {"repetition 101", P "\"repetition_penalty\": 101}", "invalid_value", "repetition_penalty", ""},
    {"repeat_penalty", P "\"repeat_penalty\": 1.1}", "unsupported_field", "repeat_penalty", ""},
    {"bad_words text", P "\"bad_words\": \"x\"}", "invalid_type", "bad_words", "a list"},
    {"bad_words number", P "\"bad_words\": [5]}", "invalid_type", "bad_words", "a number"},
    {"bad_words empty", P "\"bad_words\": [\"x\", \"\"]}", "invalid_value", "bad_words",
     "string 2"},
    {"guided_json", P "\"guided_json\": {}}", "unsupported_field", "guided_json", ""},

    {"custom_id number", P "\"custom_id\": 5}", "invalid_type", "custom_id", "a number"},
    {"custom_id empty", P "\"custom_id\": \"\"}", "invalid_value", "custom_id", "0 bytes"},
    {"custom_id nul", P "\"custom_id\": \"a\\u0000\"}", "invalid_value", "custom_id", "NUL"},
#define BATCH(id, method, url, body) "{" id method "\"url\": \"" url "\", \"body\": " body "}"
#define ID                           "\"custom_id\": \"x\", "
#define POST                         "\"method\": \"POST\", "
#define CHAT                         "/v1/chat/completions"
#define ASK                          "{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}]}"
    {"batch without id", BATCH("", POST, CHAT, ASK), "missing_field", "custom_id", "missing"},
    {"method missing", BATCH(ID, "", CHAT, ASK), "invalid_value", "method", "missing"},
    {"method GET", BATCH(ID, "\"method\": \"GET\", ", CHAT, ASK), "invalid_value", "method", "GET"},
    {"embeddings", BATCH(ID, POST, "/v1/embeddings", ASK), "unknown_endpoint", "url",
     "/v1/embeddings"},
    {"body text", BATCH(ID, POST, CHAT, "\"text\""), "invalid_type", "body", "a string"},
    {"body missing", "{" ID POST "\"url\": \"" CHAT "\"}", "invalid_type", "body", "missing"},
    {"url missing", "{" ID POST "\"body\": " ASK "}", "invalid_type", "url", "missing"},
    {"body empty", BATCH(ID, POST, CHAT, "{}"), "missing_field", "", "messages"},
    {"prompt to chat", BATCH(ID, POST, CHAT, "{\"prompt\": \"a\"}"), "invalid_value", "prompt",
     "/v1/completions"},
    {"messages to completions", BATCH(ID, POST, "/v1/completions", ASK), "invalid_value",
     "messages", CHAT},
    {"field beside body",
     "{" ID POST "\"url\": \"" CHAT "\", \"temperature\": 0, \"body\": " ASK "}", "unknown_field",
     "temperature", "beside"},
    {"custom_id in body", BATCH(ID, POST, CHAT, "{\"custom_id\": \"y\"}"), "unknown_field",
     "custom_id", ""},
};

static void test_refused(void)
{
    for (size_t i = 0; i < ARRAY_LEN(refused); i++) {
        const struct refused *c = &refused[i];
        struct request r;
        unsigned before = check_failures;
        parse(c->line, strlen(c->line), &r);
        if (CHECK(r.refused)) {
            CHECK_STR(r.refusal.error_code.data, c->code);
            CHECK(str_eq(r.refusal.error_param, str_of(c->param)));
            CHECK_HAS(r.refusal.error_message.data, c->text);
            check_encodes(c->name, &r);
        }
        if (check_failures != before)
            fprintf(stderr, "    case \"%s\": %s\n", c->name,
                    r.refused ? r.refusal.error_message.data : "taken");
        request_free(&r);
    }
}

/* What asks for nothing is taken, and changes nothing. */
static void test_neutral(void)
{
    static const char *const fields[] = {"\"n\": 1",
                                         "\"n\": 1.0",
                                         "\"max_tokens\": 2048.0",
                                         "\"min_tokens\": -0.0",
                                         "\"top_k\": -1.0",
                                         "\"best_of\": 1",
                                         "\"stream\": false",
                                         "\"logprobs\": false",
                                         "\"top_logprobs\": 0",
                                         "\"echo\": false",
                                         "\"suffix\": null",
                                         "\"presence_penalty\": 0",
                                         "\"frequency_penalty\": 0.0",
                                         "\"repetition_penalty\": 1",
                                         "\"logit_bias\": {}",
                                         "\"logit_bias\": null",
                                         "\"tools\": []",
                                         "\"tool_choice\": \"none\"",
                                         "\"functions\": null",
                                         "\"response_format\": {\"type\": \"text\"}",
                                         "\"stream_options\": null",
                                         "\"user\": \"me\"",
                                         "\"metadata\": {\"a\": \"b\"}",
                                         "\"store\": true",
                                         "\"model\": \"gpt-4o\"",
                                         "\"service_tier\": \"auto\"",
                                         "\"bad_words\": []",
                                         "\"modalities\": [\"text\"]",
                                         "\"temperature\": null",
                                         "\"max_tokens\": null",
                                         "\"seed\": null",
                                         "\"stop\": null",
                                         "\"top_k\": -1",
                                         "\"top_k\": 0",
                                         "\"stop\": []",
                                         "\"skip_special_tokens\": true"};
    for (size_t i = 0; i < ARRAY_LEN(fields); i++) {
        char line[200];
        struct request r;
        int len = snprintf(line, sizeof line, "{\"prompt\": \"a\", %s}", fields[i]);
        parse(line, (size_t)len, &r);
        if (!CHECK(!r.refused))
            fprintf(stderr, "    %s: %s\n", fields[i], r.refusal.error_message.data);
        CHECK(r.request.temperature == 1 && r.request.top_p == 1 && r.request.min_p == 0);
        CHECK(r.request.max_tokens == 2048 && r.request.top_k == 0 && r.request.stop.count == 0);
        CHECK(r.request.seed == hash64("line-7", 6, 0) >> 11);
        check_encodes(fields[i], &r);
        request_free(&r);
    }
}

static void test_values(void)
{
    static const char line[] =
        "{\"custom_id\": \"id-1\", \"method\": \"POST\", \"url\": \"/v1/chat/completions\", "
        "\"body\": "
        "{\"model\": \"x\", \"messages\": [{\"role\": \"developer\", \"content\": \"be\\u0000 "
        "nice\"}, "
        "{\"role\": \"user\", \"content\": [{\"type\": \"text\", \"text\": \"Stra\\u00dfe \"}, "
        "{\"type\": \"text\", \"text\": \"\\ud83d\\ude00\"}]}], \"temperature\": 0, \"top_p\": "
        "0.5, "
        "\"top_k\": 40, \"min_p\": 0.05, \"max_completion_tokens\": 9, \"max_tokens\": 9, "
        "\"min_tokens\": 2, \"seed\": -1, \"stop\": [\"a\", \"b\\n\"], \"stop_token_ids\": [5, 0], "
        "\"ignore_eos\": true}}";
    struct request r;
    parse(line, sizeof line - 1, &r);
    const struct rec_REQUEST *q = &r.request;
    CHECK(!r.refused && str_eq(r.custom_id, STR_LIT("id-1")));
    CHECK(q->chat && q->messages.count == 2 && q->prompt.len == 0);
    if (q->messages.count == 2) {
        CHECK(str_eq(q->messages.items[0].role, STR_LIT("system")));
        CHECK(str_eq(q->messages.items[0].content, STR_LIT("be\0 nice")));
        CHECK(str_eq(q->messages.items[1].content, STR_LIT("Straße 😀")));
    }
    CHECK(q->temperature == 0 && q->top_p == 0.5 && q->min_p == 0.05 && q->top_k == 40);
    CHECK(q->max_tokens == 9 && q->min_tokens == 2 && q->seed == UINT64_MAX && q->ignore_eos);
    CHECK(q->stop.count == 2 && str_eq(q->stop.items[1].text, STR_LIT("b\n")));
    CHECK(q->stop_token_ids.count == 2 && q->stop_token_ids.items[0] == 5);
    check_encodes("values", &r);
    request_free(&r);

    static const char ids[] =
        "{\"prompt\": [1, 2.0, 4294967295], \"custom_id\": null, \"stop\": \"z\"}";
    parse(ids, sizeof ids - 1, &r);
    CHECK(!r.refused && str_eq(r.custom_id, STR_LIT("line-7")) && !r.request.chat);
    CHECK(r.request.prompt_ids.count == 3 && r.request.prompt_ids.items[2] == UINT32_MAX);
    CHECK(r.request.prompt_ids.count == 3 && r.request.prompt_ids.items[1] == 2);
    CHECK(r.request.stop.count == 1 && r.id_is_made);
    request_free(&r);

    static const char reals[] = "{\"prompt\": [\"Once\"], \"max_tokens\": 16.0, \"seed\": -5.0, "
                                "\"n\": 2.0, \"top_k\": 7e0, \"logprobs\": 3.0}";
    parse(reals, sizeof reals - 1, &r);
    q = &r.request;
    CHECK(!r.refused && str_eq(q->prompt, STR_LIT("Once")) && q->prompt_ids.count == 0);
    CHECK(q->max_tokens == 16 && q->seed == (uint64_t)-5 && q->n == 2 && q->top_k == 7);
    CHECK(q->top_logprobs == 3);
    check_encodes("reals", &r);
    request_free(&r);
}

/* A line that is refused keeps its custom_id, wherever it can be read. */
static void test_kept_ids(void)
{
    static const struct {
        const char *line, *id;
    } cases[] = {
        {"{\"custom_id\": \"a\", \"prompt\": \"p\", \"seed\": 18446744073709551615}", "a"},
        {"{\"prompt\": \"\\ud800\", \"metadata\": {\"custom_id\": \"no\"}, "
         "\"custom_id\":\t\"\\u00e4\\\"\"}",
         "ä\""},
        {"{\"custom_id\": \"a\", \"custom_id\": \"b\", \"prompt\": \"p\"}", "a"},
        {"{\"method\": \"POST\", \"body\": {\"custom_id\": \"no\", \"top_p\": 1e999}, "
         "\"custom_id\": \"z\"}",
         "z"},
        {"{\"body\": {\"top_p\": 1e999}}", ""},
        {"{\"custom_id\": null, \"prompt\": \"p\", \"seed\": 18446744073709551615}", "line-7"},
        {"{\"prompt\": \"p\", \"metadata\": [\"custom_id\", 1e999]}", "line-7"},
        {"{\"custom_id\": \"a\", \"temperature\": NaN}", "a"},
        {"{\"custom_id\": \"a\", \"prompt\": \"p", "a"},
        {"{\"custom_id\": \"a\", \"prompt\": \"\xff\"}", "a"},
        {"{\"custom_id\": \"\xff\", \"prompt\": \"p\"}", ""},
        {"{\"custom_id\": \"\\ud800\", \"prompt\": \"p\"}", ""},
        {"{\"custom_id\": \"a\\u0000\", \"prompt\": NaN}", ""},
        {"{\"custom_id\": \"a", ""},
        {"{\"custom_id\":", ""},
        {"{\"custom_id\": \"\\", ""},
        {"{\"custom_id\": 17, \"prompt\": \"p\"}", "17"},
        {"{\"custom_id\": -17.50, \"prompt\": \"p\"}", "-17.50"},
        {"{\"prompt\": \"p\", \"custom_id\": 99999999999999999999}", "99999999999999999999"},
        {"{\"custom_id\": [1], \"prompt\": \"p\"}", ""},
        {"\"custom_id\": \"a\"", ""},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct request r;
        parse(cases[i].line, strlen(cases[i].line), &r);
        CHECK(r.refused);
        if (!CHECK(str_eq(r.custom_id, str_of(cases[i].id))))
            fprintf(stderr, "    %s: \"%.*s\"\n", cases[i].line, STR_ARG(r.custom_id));
        check_encodes(cases[i].line, &r);
        request_free(&r);
    }
}

static void test_sampling_fields(void)
{
    static const char line[] =
        "{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}], \"n\": 128, "
        "\"presence_penalty\": "
        "-2, \"frequency_penalty\": 2, \"repetition_penalty\": 1.5, \"logit_bias\": {\"0\": -100, "
        "\"4294967295\": 100, \"17\": 0.5}, \"bad_words\": [\"x\", \" y\"], \"logprobs\": true, "
        "\"top_logprobs\": 20}";
    struct request r;
    parse(line, sizeof line - 1, &r);
    const struct rec_REQUEST *q = &r.request;
    CHECK(!r.refused && q->n == 128 && q->presence_penalty == -2 && q->frequency_penalty == 2 &&
          q->repetition_penalty == 1.5 && q->logprobs && q->top_logprobs == 20);
    CHECK_INT(q->logit_bias.count, 3);
    for (size_t i = 0; i < q->logit_bias.count; i++) {
        const struct rec_BIAS *b = &q->logit_bias.items[i];
        CHECK(b->bias == (b->id == 0 ? -100 : b->id == UINT32_MAX ? 100 : 0.5));
    }
    CHECK(q->bad_words.count == 2 && str_eq(q->bad_words.items[1].text, STR_LIT(" y")));
    check_encodes("sampling fields", &r);
    request_free(&r);
    for (uint64_t top = 0; top <= 5; top++) {
        char text[80];
        int len =
            snprintf(text, sizeof text, "{\"prompt\": \"a\", \"logprobs\": %u}", (unsigned)top);
        parse(text, (size_t)len, &r);
        CHECK(!r.refused && r.request.logprobs && r.request.top_logprobs == top);
        request_free(&r);
    }
    static const char off[] = "{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}], "
                              "\"logprobs\": false, \"top_logprobs\": 0}";
    parse(off, sizeof off - 1, &r);
    CHECK(!r.refused && !r.request.logprobs && r.request.n == 1 &&
          r.request.repetition_penalty == 1);
    request_free(&r);
}

static void test_seed(void)
{
    static const char a[] = "{\"prompt\": \"x\", \"custom_id\": \"a\"}";
    static const char other[] = "{\"prompt\": \"y\", \"custom_id\": \"a\", \"temperature\": 0}";
    struct request_options other_seed = {.max_tokens = 5, .batch_seed = 1};
    struct request r1, r2, r3;
    parse(a, sizeof a - 1, &r1);
    parse(other, sizeof other - 1, &r2);
    CHECK_ERR(request_parse((struct str){a, sizeof a - 1}, 1, &other_seed, &r3), ERR_OK);
    CHECK(r1.request.seed == r2.request.seed && r1.request.seed != r3.request.seed);
    CHECK(r1.request.seed < UINT64_C(1) << 53);
    CHECK(r3.request.max_tokens == 5);
    request_free(&r1);
    request_free(&r2);
    request_free(&r3);
}

/* A line built of a head, many times the middle, and a tail. */
static void parse_long(const char *head, const char *middle, size_t times, const char *tail,
                       struct request *r, struct buf *line)
{
    buf_clear(line);
    CHECK_ERR(buf_append_str(line, head), ERR_OK);
    for (size_t i = 0; i < times; i++)
        CHECK_ERR(buf_append_str(line, middle), ERR_OK);
    CHECK_ERR(buf_append_str(line, tail), ERR_OK);
    parse(line->data, line->len, r);
}

static void test_large(void)
{
    struct buf line = {0};
    struct request r;
    parse_long("{\"prompt\": ", "[", 100000, "1}", &r, &line);
    CHECK(r.refused && str_eq(r.refusal.error_param, STR_LIT("prompt")));
    CHECK_HAS(r.refusal.error_message.data, "prompt: nested too deep");
    check_encodes("deep", &r);
    request_free(&r);
    parse_long("{\"prompt\": \"a\", \"metadata\": ", "{\"x\":[", 3000, "", &r, &line);
    CHECK(r.refused && str_eq(r.refusal.error_param, STR_LIT("metadata")));
    request_free(&r);
    parse_long("{\"prompt\": \"a\", \"", "\xc3\xbc", 300, "\": 1}", &r, &line);
    CHECK(r.refused && r.refusal.error_param.len == 64);
    check_encodes("long field name", &r);
    request_free(&r);
    parse_long("{\"prompt\": \"a\", \"custom_id\": \"", "x", 513, "\"}", &r, &line);
    CHECK(r.refused && r.custom_id.len == 0);
    CHECK_HAS(r.refusal.error_message.data, "xxx...\" has 513 bytes, expected 1 to 512");
    request_free(&r);
    parse_long("{\"prompt\": \"a\", \"custom_id\": \"", "x", 512, "\"}", &r, &line);
    CHECK(!r.refused && r.custom_id.len == 512);
    request_free(&r);
    parse_long("{\"prompt\": [1", ",1", 1048576, "]}", &r, &line);
    CHECK(r.refused && str_eq(r.refusal.error_param, STR_LIT("prompt")));
    request_free(&r);
    parse_long("{\"messages\": [{\"role\":\"user\",\"content\":\"\"}",
               ",{\"role\":\"user\",\"content\":\"\"}", 4096, "]}", &r, &line);
    CHECK(r.refused && str_eq(r.refusal.error_param, STR_LIT("messages")));
    request_free(&r);
    parse_long("{\"prompt\": \"", "ab", 1 << 20, "\"}", &r, &line);
    CHECK(!r.refused && r.request.prompt.len == 2 << 20);
    uint64_t hashes[64];
    CHECK_INT(request_prefix_hashes(&r.request, hashes), 14);
    CHECK(hashes[0] == hash64(r.request.prompt.data, 256, 0));
    request_free(&r);
    buf_free(&line);
}

/* Bytes changed at random: a request or a refusal, never anything else. */
static void test_mutations(void)
{
    struct check_rng rng = check_rng_start(20261125);
    static const char good[] =
        "{\"custom_id\": \"x\", \"method\": \"POST\", \"url\": \"/v1/chat/completions\", \"body\": "
        "{\"messages\": [{\"role\": \"user\", \"content\": [{\"type\": \"text\", \"text\": "
        "\"\\u00e9\\ud83d\\ude00\"}]}], \"temperature\": 0.5, \"stop\": [\"a\"], \"n\": 1}}";
    size_t taken = 0;
    for (int i = 0; i < 20000; i++) {
        char line[sizeof good];
        struct request r;
        memcpy(line, good, sizeof good);
        size_t len = sizeof good - 1;
        for (uint64_t n = check_rng_below(&rng, 3); n > 0; n--)
            line[check_rng_below(&rng, len)] = (char)check_rng_next(&rng);
        if (check_rng_below(&rng, 8) == 0)
            len = check_rng_below(&rng, len);
        parse(line, len, &r);
        taken += !r.refused;
        check_encodes("mutation", &r);
        request_free(&r);
    }
    CHECK(taken > 1000 && taken < 19000);
}

static void test_ids(void)
{
    struct ids ids = {0};
    uint64_t first = 0;
    for (uint64_t i = 1; i <= 20000; i++) {
        char id[32];
        int len = snprintf(id, sizeof id, "id-%llu", (unsigned long long)i);
        CHECK_ERR(ids_add(&ids, (struct str){id, (size_t)len}, i, &first), ERR_OK);
        CHECK(first == 0);
    }
    CHECK_ERR(ids_add(&ids, STR_LIT("id-77"), 30000, &first), ERR_OK);
    CHECK_INT(first, 77);
    CHECK_ERR(ids_add(&ids, STR_LIT("id-77"), 30001, &first), ERR_OK);
    CHECK_INT(first, 77);
    CHECK_ERR(ids_add(&ids, STR_LIT("new"), UINT64_C(1) << 32, &first), ERR_RANGE);
    CHECK_INT(ids.count, 20000);
    ids_free(&ids);
}

int main(void)
{
    test_refused();
    test_neutral();
    test_values();
    test_kept_ids();
    test_sampling_fields();
    test_seed();
    test_large();
    test_mutations();
    test_ids();
    return check_report();
}
