/* The table of request fields. What a field's value means to the engine is the worker's. */
#include "client/fields.h"

#include <string.h>

#include "base/size.h"
#include "proto/messages.h"

#define TO(member) offsetof(struct rec_REQUEST, member)
#define LATER(name, what)                                                                          \
    {                                                                                              \
        name, FIELD_LATER, .neutral = (what)                                                       \
    }
#define HARMLESS(name)                                                                             \
    {                                                                                              \
        name, FIELD_HARMLESS                                                                       \
    }

enum { MAX_STOPS = 16, MAX_STOP_IDS = 64, MAX_BAD_WORDS = 128 };

static const struct field table[] = {
    {"prompt", FIELD_PROMPT},
    {"messages", FIELD_MESSAGES},
    {"max_tokens", FIELD_COUNT, 1, 9e15, TO(max_tokens)},
    {"max_completion_tokens", FIELD_COUNT, 1, 9e15, TO(max_tokens)},
    {"min_tokens", FIELD_COUNT, 0, 9e15, TO(min_tokens)},
    {"temperature", FIELD_FLOAT, 0, 100, TO(temperature)},
    {"top_p", FIELD_FLOAT, 0, 1, TO(top_p), .min_open = true},
    {"min_p", FIELD_FLOAT, 0, 1, TO(min_p)},
    {"top_k", FIELD_TOP_K, -1, 9e15, TO(top_k)},
    {"seed", FIELD_SEED, .offset = TO(seed)},
    {"stop", FIELD_TEXTS, .max = MAX_STOPS, .offset = TO(stop), .one_text = true},
    {"stop_token_ids", FIELD_TOKENS, .offset = TO(stop_token_ids), .max = MAX_STOP_IDS},
    {"ignore_eos", FIELD_BOOL, .offset = TO(ignore_eos)},
    {"n", FIELD_COUNT, 1, PROTO_MAX_CHOICES, TO(n)},
    {"presence_penalty", FIELD_FLOAT, -2, 2, TO(presence_penalty)},
    {"frequency_penalty", FIELD_FLOAT, -2, 2, TO(frequency_penalty)},
    {"repetition_penalty", FIELD_FLOAT, 0.01, 100, TO(repetition_penalty)},
    {"logit_bias", FIELD_BIAS, -100, 100},
    {"bad_words", FIELD_TEXTS, .max = MAX_BAD_WORDS, .offset = TO(bad_words)},
    {"logprobs", FIELD_LOGPROBS},
    {"top_logprobs", FIELD_COUNT, 0, 20, TO(top_logprobs)},

    HARMLESS("user"),
    HARMLESS("metadata"),
    HARMLESS("store"),
    HARMLESS("model"), /* the batch's model runs every line */
    HARMLESS("service_tier"),
    HARMLESS("safety_identifier"),
    HARMLESS("prompt_cache_key"),
    HARMLESS("prompt_cache_retention"),
    HARMLESS("parallel_tool_calls"), /* without tools */

    LATER("best_of", NEUTRAL_ONE),
    LATER("stream", NEUTRAL_FALSE),
    LATER("stream_options", 0),
    LATER("prompt_logprobs", 0),
    LATER("echo", NEUTRAL_FALSE),
    LATER("suffix", NEUTRAL_EMPTY),
    LATER("repeat_penalty", NEUTRAL_ONE),
    LATER("length_penalty", NEUTRAL_ONE),
    LATER("typical_p", NEUTRAL_ONE),
    LATER("mirostat", NEUTRAL_ZERO),
    LATER("use_beam_search", NEUTRAL_FALSE),
    LATER("allowed_token_ids", 0),
    LATER("tools", NEUTRAL_EMPTY),
    LATER("tool_choice", NEUTRAL_NO_TOOLS),
    LATER("functions", NEUTRAL_EMPTY),
    LATER("function_call", NEUTRAL_NO_TOOLS),
    LATER("response_format", NEUTRAL_TEXT_FORMAT),
    LATER("structured_outputs", 0),
    LATER("guided_json", 0),
    LATER("guided_regex", 0),
    LATER("guided_choice", 0),
    LATER("guided_grammar", 0),
    LATER("grammar", NEUTRAL_EMPTY),
    LATER("json_schema", 0),
    LATER("modalities", NEUTRAL_TEXT_MODE),
    LATER("audio", 0),
    LATER("prediction", 0),
    LATER("reasoning_effort", 0),
    LATER("verbosity", 0),
    LATER("web_search_options", 0),
    LATER("chat_template", 0),
    LATER("chat_template_kwargs", NEUTRAL_EMPTY),
    LATER("add_generation_prompt", NEUTRAL_TRUE),
    LATER("continue_final_message", NEUTRAL_FALSE),
    LATER("add_special_tokens", 0),
    LATER("documents", NEUTRAL_EMPTY),
    LATER("skip_special_tokens", NEUTRAL_TRUE),
    LATER("spaces_between_special_tokens", NEUTRAL_TRUE),
    LATER("include_stop_str_in_output", NEUTRAL_FALSE),
    LATER("truncate_prompt_tokens", 0),
    LATER("priority", NEUTRAL_ZERO),
};

const struct field *field_find(const char *name)
{
    for (size_t i = 0; i < ARRAY_LEN(table); i++) {
        if (strcmp(table[i].name, name) == 0)
            return &table[i];
    }
    return NULL;
}

static bool is_text(const json_t *value, const char *text)
{
    return json_is_string(value) && strcmp(json_string_value(value), text) == 0;
}

bool field_is_neutral(const struct field *f, const json_t *value)
{
    unsigned is = 0;
    if (json_is_null(value))
        return true;
    if (json_is_number(value))
        is = json_number_value(value) == 0   ? NEUTRAL_ZERO
             : json_number_value(value) == 1 ? NEUTRAL_ONE
                                             : 0;
    else if (json_is_boolean(value))
        is = json_is_true(value) ? NEUTRAL_TRUE : NEUTRAL_FALSE;
    else if (json_is_string(value))
        is = json_string_length(value) == 0                     ? NEUTRAL_EMPTY
             : is_text(value, "none") || is_text(value, "auto") ? NEUTRAL_NO_TOOLS
                                                                : 0;
    else if (json_is_array(value))
        is = json_array_size(value) == 0 ? NEUTRAL_EMPTY
             : json_array_size(value) == 1 && is_text(json_array_get(value, 0), "text")
                 ? NEUTRAL_TEXT_MODE
                 : 0;
    else if (json_object_size(value) == 0)
        is = NEUTRAL_EMPTY;
    else if (json_object_size(value) == 1 && is_text(json_object_get(value, "type"), "text"))
        is = NEUTRAL_TEXT_FORMAT;
    return (is & f->neutral) != 0;
}
