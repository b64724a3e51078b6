/* Text to token ids and back, from a GGUF's tokenizer.ggml.* keys.
 *
 * Byte-level BPE (tokenizer.ggml.model "gpt2") with the pre-tokenizer named in tokenizer.ggml.pre,
 * and SentencePiece ("llama": scores, byte fallback). Encoding is O(n log n) in the text's length.
 * Thread-safety: a tokenizer is immutable; any number of threads may encode with one (each call has
 * its own scratch). */
#ifndef OCTO_MODEL_TOKENIZER_H
#define OCTO_MODEL_TOKENIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"
#include "base/str.h"
#include "model/gguf.h"

enum { TOKENIZER_MAX_TEXT_BYTES = 256 << 20, TOKEN_NONE = -1 };

struct tokenizer;

/* A growable list of ids; zero-initialised is empty. */
struct tokens {
    uint32_t *ids;
    size_t count;
    size_t cap;
};
void tokens_free(struct tokens *t);
enum err tokens_append(struct tokens *t, const uint32_t *ids, size_t count) MUST_CHECK;

/* Copies what it needs from g. pre_override: name of a pre-tokenizer instead of the file's, or NULL
 * (SentencePiece has none and leaves it unread). A file that names none gets "default". */
enum err tokenizer_create(const struct gguf *g, const char *pre_override, struct tokenizer **ret,
                          struct err_msg *why) MUST_CHECK;
void tokenizer_destroy(struct tokenizer **t);

uint32_t tokenizer_vocab_size(const struct tokenizer *t);
int64_t tokenizer_bos(const struct tokenizer *t); /* TOKEN_NONE if there is none */
int64_t tokenizer_eos(const struct tokenizer *t);
bool tokenizer_adds_bos(const struct tokenizer *t);
bool tokenizer_adds_eos(const struct tokenizer *t);
/* Every id that ends a generation: eos, eot, eom and the control tokens known by name to do so
 * (<|im_end|>, <|endoftext|>, <|eot_id|>, ...). Owned by t. */
const uint32_t *tokenizer_end_tokens(const struct tokenizer *t, size_t *ret_count);

struct tokenizer_encode_options {
    bool add_bos;       /* put bos first if the model wants one */
    bool add_eos;       /* put eos last if the model wants one; not for a text to go on with */
    bool parse_special; /* "<|im_start|>" in the text becomes its token (templates); false: plain
                           text */
};

/* Appends the text's ids. Invalid UTF-8: ERR_FORMAT with the byte offset. */
enum err tokenizer_encode(const struct tokenizer *t, struct str text,
                          struct tokenizer_encode_options o, struct tokens *out,
                          struct err_msg *why) MUST_CHECK;
/* A token's bytes (may be part of a character), until tokenizer_destroy(). Control tokens give
 * their text; an id outside the vocabulary gives the empty string. In SentencePiece words have
 * their space before them, also the first one of a completion: it goes on after the prompt. */
struct str tokenizer_piece(const struct tokenizer *t, uint32_t id);
/* Control tokens and the unknown token: they stand for no text. */
bool tokenizer_is_control(const struct tokenizer *t, uint32_t id);
/* Appends the text of ids, a whole text; control tokens are left out unless `with_special`. Where
 * encoding puts a space before a text (SentencePiece), a space at the beginning of the first token
 * is left out. The bytes may be invalid UTF-8 if the ids are: see text_stream.h. */
enum err tokenizer_decode(const struct tokenizer *t, const uint32_t *ids, size_t count,
                          bool with_special, struct buf *out) MUST_CHECK;

#endif
