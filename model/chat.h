/* Chat messages to prompt text, by the Jinja template that the model's file carries
 * (tokenizer.chat_template). */
#ifndef OCTO_MODEL_CHAT_H
#define OCTO_MODEL_CHAT_H

#include "base/buf.h"
#include "base/err.h"
#include "base/str.h"
#include "model/gguf.h"
#include "model/tokenizer.h"

struct chat_message {
    struct str role;
    struct str content;
};

struct chat_template; /* immutable; thread-safe */

/* name NULL: the file's (its default one, when it has several); "chatml": that one, whatever the
 * file says; a path (with a slash or ending in .jinja): that file's; else the file's template of
 * that name. No template, or one that does not parse: ERR_UNSUPPORTED, the message says why and
 * names `--chat-template chatml`. */
enum err chat_template_create(const struct gguf *g, const char *name, struct chat_template **ret,
                              struct err_msg *why) MUST_CHECK;
void chat_template_destroy(struct chat_template **t);
/* The prompt, ending where the assistant's turn begins. ERR_FORMAT: no messages, an unknown role,
 * or the template refuses them (its own message) or fails on them; ERR_RANGE: the template goes
 * over a limit. Special tokens inside a message's content must not become special: the prompt is
 * returned as pieces. */
struct chat_piece {
    bool special;      /* true: template text, special tokens in it are parsed; false: user text */
    size_t begin, end; /* bytes of `out` */
};
struct chat_prompt {
    struct buf text;
    struct chat_piece *pieces; /* in order, covering the text */
    size_t pieces_count;
};
enum err chat_template_render(const struct chat_template *t, const struct chat_message *messages,
                              size_t count, struct chat_prompt *ret,
                              struct err_msg *why) MUST_CHECK;
void chat_prompt_free(struct chat_prompt *p);
/* Appends the prompt's ids; bos is not added to a prompt that begins with it. Special tokens are
 * parsed only where they begin and end in `special` pieces; text between two special tokens is
 * pre-tokenized as one, across pieces, as a program that tokenizes the whole rendered text would.
 */
enum err chat_prompt_encode(const struct chat_prompt *p, const struct tokenizer *tok, bool add_bos,
                            struct tokens *out, struct err_msg *why) MUST_CHECK;

#endif
