/* From token ids, one at a time, to text: never half a UTF-8 character (bytes that can never become
 * one are replaced by U+FFFD, as Unicode recommends: one per maximal invalid piece), and stop
 * strings found also where they are spread over several tokens. Text that might be the beginning of
 * a stop string is held back until it is sure. One generation each; not thread-safe. */
#ifndef OCTO_MODEL_TEXT_STREAM_H
#define OCTO_MODEL_TEXT_STREAM_H

#include <stdbool.h>

#include "base/buf.h"
#include "base/str.h"
#include "model/tokenizer.h"

struct text_stream;

/* stops (count may be 0) are copied. tok is borrowed. */
enum err text_stream_create(const struct tokenizer *tok, const struct str *stops,
                            size_t stops_count, struct text_stream **ret) MUST_CHECK;
void text_stream_destroy(struct text_stream **s);
/* Takes a token. `may_stop` false: stop strings that are complete now do not end the text (while
 * fewer than min_tokens were generated); they may still end it only with text that comes later.
 * *ret_stopped: a stop string was found; the text ends before it. Control tokens add no text. */
enum err text_stream_push(struct text_stream *s, uint32_t id, bool may_stop,
                          bool *ret_stopped) MUST_CHECK;
/* What is sure so far; valid until the next call. Always valid UTF-8, only grows. */
struct str text_stream_text(const struct text_stream *s);
/* No more tokens: releases what was held back (half a character becomes U+FFFD). */
enum err text_stream_finish(struct text_stream *s) MUST_CHECK;

#endif
