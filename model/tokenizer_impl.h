/* The tokenizer's insides: tokenizer.c (encode, decode), tokenizer_vocab.c (loading),
 * tokenizer_bpe.c (merging), tokenizer_pre.c (cutting text into words). */
#ifndef OCTO_MODEL_TOKENIZER_IMPL_H
#define OCTO_MODEL_TOKENIZER_IMPL_H

#include "base/arena.h"
#include "model/tokenizer.h"

enum token_type {
    TOKEN_NORMAL = 1,
    TOKEN_UNKNOWN = 2,
    TOKEN_CONTROL = 3,
    TOKEN_USER_DEFINED = 4,
    TOKEN_UNUSED = 5,
    TOKEN_BYTE = 6
};

enum { MAX_END_TOKENS = 32, NO_ID = -1 };

/* left and right, beside each other, become result; a merge's index is its rank. */
struct merge {
    uint32_t left, right, result;
};

/* Open addressing over ids or ranks; slot 0 means empty, else index + 1. Power of two, at most half
 * full. */
struct id_table {
    uint32_t *slots;
    uint64_t mask;
};

struct pretokenizer; /* a compiled regular expression */

struct tokenizer {
    struct arena arena;
    uint32_t vocab;
    struct str *pieces; /* [vocab] a token's bytes */
    uint8_t *types;     /* [vocab] enum token_type */
    uint32_t byte_id[256];
    struct merge *merges;
    uint32_t merges_count;
    struct id_table merge_table; /* (left, right) to rank */
    uint32_t *specials; /* control, unknown and user-defined tokens, in the order of their bytes */
    size_t specials_count;
    bool special_first[256]; /* a special token begins with this byte */
    struct pretokenizer *pre;
    int64_t bos, eos;
    bool adds_bos;
    uint32_t end_tokens[MAX_END_TOKENS];
    size_t end_tokens_count;
};

/* A range of the text in which control tokens are parsed. */
struct text_range {
    size_t begin, end;
};

/* tokenizer_encode() with control tokens parsed only inside one of the ranges (in order, disjoint).
 */
enum err tokenizer_encode_ranges(const struct tokenizer *t, struct str text, bool add_bos,
                                 const struct text_range *ranges, size_t ranges_count,
                                 struct tokens *out, struct err_msg *why) MUST_CHECK;

/* tokenizer_vocab.c: everything but pre. */
enum err vocab_load(struct tokenizer *t, const struct gguf *g, struct err_msg *why) MUST_CHECK;
/* Rank of a merge, or NO_ID. */
int64_t vocab_find_merge(const struct tokenizer *t, uint32_t left, uint32_t right);

/* tokenizer_bpe.c. A zeroed scratch is empty; one for any number of words, one thread. */
struct bpe_symbol {
    uint32_t id;
    uint32_t prev, next; /* index; UINT32_MAX: none */
};
struct bpe_scratch {
    struct bpe_symbol *symbols;
    size_t symbols_cap;
    uint64_t *heap; /* rank << 32 | index of the left symbol */
    size_t heap_count, heap_cap;
};
/* Appends a word's ids. */
enum err bpe_encode(const struct tokenizer *t, struct bpe_scratch *s, struct str word,
                    struct tokens *out) MUST_CHECK;
void bpe_scratch_free(struct bpe_scratch *s);

/* tokenizer_pre.c. */
enum err pretokenizer_create(struct str name, struct pretokenizer **ret,
                             struct err_msg *why) MUST_CHECK;
void pretokenizer_destroy(struct pretokenizer **p);
struct pre_scan; /* one thread's state */
enum err pre_scan_create(const struct pretokenizer *p, struct pre_scan **ret) MUST_CHECK;
void pre_scan_destroy(struct pre_scan **s);
/* Length (> 0) of the word that begins at text[at]; the text is valid UTF-8 and at < text.len. */
enum err pre_scan_next(struct pre_scan *s, struct str text, size_t at, size_t *ret_len) MUST_CHECK;

#endif
