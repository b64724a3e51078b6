/* A choice's log-probabilities in OpenAI's two formats. Private to client/. */
#ifndef OCTO_CLIENT_LOGPROBS_H
#define OCTO_CLIENT_LOGPROBS_H

#include "client/json.h"
#include "proto/messages.h"

/* c->logprobs has 1 + c->top_logprobs entries a token, at least one token. */

/* Chat: {"content": [{"token", "logprob", "bytes", "top_logprobs": [...]}, ...], "refusal": null}.
 * A token that is no valid UTF-8 is shown with U+FFFD; "bytes" has it as it is. */
void logprobs_put_chat(struct json_out *o, const struct rec_CHOICE *c);
/* Completions: {"tokens", "token_logprobs", "top_logprobs", "text_offset"}. A token that is no
 * valid UTF-8 is written "bytes:\\xe2\\x82": these are names, and no two tokens may have one. Of
 * equal ones the likelier counts. top_logprobs also has the chosen token, as OpenAI's. */
void logprobs_put_completion(struct json_out *o, const struct rec_CHOICE *c);

#endif
