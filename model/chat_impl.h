/* chat_match.c's one function for chat.c. */
#ifndef OCTO_MODEL_CHAT_IMPL_H
#define OCTO_MODEL_CHAT_IMPL_H

#include <stdbool.h>

#include "base/err.h"
#include "base/str.h"

/* Whether a Jinja chat template does exactly what plain ChatML does: for every message
 * <|im_start|>ROLE\nCONTENT<|im_end|>\n, then <|im_start|>assistant\n. ERR_NOMEM is the only error.
 */
enum err chat_is_chatml(struct str source, bool *ret) MUST_CHECK;

#endif
