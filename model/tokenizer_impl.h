/* The tokenizer's insides: tokenizer.c (encode, decode), tokenizer_vocab.c and tokenizer_special.c
 * (loading), tokenizer_pre.c and tokenizer_pre_table.c (cutting text into words), tokenizer_bpe.c
 * and tokenizer_spm.c (merging). */
#ifndef OCTO_MODEL_TOKENIZER_IMPL_H
#define OCTO_MODEL_TOKENIZER_IMPL_H

#include "base/arena.h"
#include "model/tokenizer.h"
#include "model/tokenizer_pre.h"

enum token_type {
    TOKEN_NORMAL = 1,
    TOKEN_UNKNOWN = 2,
    TOKEN_CONTROL = 3,
    TOKEN_USER_DEFINED = 4,
    TOKEN_UNUSED = 5,
    TOKEN_BYTE = 6
};

enum { MAX_END_TOKENS = 64, NO_ID = -1 };
#define NO_TOKEN UINT32_MAX

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

struct tokenizer {
    struct arena arena;
    bool spm; /* SentencePiece (pre is NULL, no merges), else byte-level BPE */
    uint32_t vocab;
    struct str *pieces; /* [vocab] what a token decodes to */
    /* [vocab] what a token is found by while merging: BPE: the bytes it stands for (for what stands
     * for none: nothing), SPM: its text, with U+2581 for a space. */
    struct str *keys;
    struct id_table key_table; /* keys to ids */
    uint8_t *types;            /* [vocab] enum token_type */
    uint32_t byte_id[256];     /* NO_TOKEN: there is none */
    float *scores;             /* SPM: [vocab] */
    size_t key_bytes_max;
    uint32_t unknown; /* SPM; NO_TOKEN: there is none */
    bool space_prefix, ignore_merges;
    struct merge *merges;
    uint32_t merges_count;
    struct id_table merge_table; /* (left, right) to rank */
    uint32_t *specials; /* control, unknown and user-defined tokens, in the order of their bytes */
    size_t specials_count;
    bool special_first[256]; /* a special token begins with this byte */
    bool *strips_right;      /* [vocab] white space after the token is dropped; NULL: none does */
    struct pretokenizer *pre;
    int64_t bos, eos;
    bool adds_bos, adds_eos;
    uint32_t end_tokens[MAX_END_TOKENS];
    size_t end_tokens_count;
};

/* A range of the text in which control tokens are parsed. */
struct text_range {
    size_t begin, end;
};

/* tokenizer_encode() with control tokens parsed only inside one of the ranges (in order, disjoint).
 * add_bos: see struct tokenizer_encode_options. */
enum err tokenizer_encode_ranges(const struct tokenizer *t, struct str text, bool add_bos,
                                 const struct text_range *ranges, size_t ranges_count,
                                 struct tokens *out, struct err_msg *why) MUST_CHECK;

/* Whether text may become the token by merging: not control tokens and their like. */
static inline bool is_text_token(const struct tokenizer *t, uint32_t id)
{
    return t->types[id] == TOKEN_NORMAL || t->types[id] == TOKEN_USER_DEFINED ||
           t->types[id] == TOKEN_UNUSED || (!t->spm && t->types[id] == TOKEN_BYTE);
}

/* tokenizer_vocab.c: tokens, types, scores, merges; t->spm is set by tokenizer.ggml.model. */
enum err vocab_load(struct tokenizer *t, const struct gguf *g, struct err_msg *why) MUST_CHECK;
/* Rank of a merge, or NO_ID. */
int64_t vocab_find_merge(const struct tokenizer *t, uint32_t left, uint32_t right);
/* The token with this key that text may become, or NO_ID. */
int64_t vocab_find_key(const struct tokenizer *t, struct str key);

/* tokenizer_special.c: special tokens, ids by role, flags. After vocab_load() and t->pre. */
enum err special_load(struct tokenizer *t, const struct gguf *g, struct err_msg *why) MUST_CHECK;

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

/* tokenizer_spm.c, in the same way. */
struct spm_symbol {
    uint32_t begin, len; /* in the escaped text; len 0: merged away */
    uint32_t prev, next;
};
struct spm_pair {
    uint64_t order; /* the lowest first: score, then place */
    uint32_t bytes; /* of both symbols; others: stale */
};
struct spm_scratch {
    struct buf text; /* the escaped text */
    struct spm_symbol *symbols;
    size_t symbols_cap;
    struct spm_pair *heap;
    size_t heap_count, heap_cap;
};
/* Appends the ids of a text; `prefix`: with a space before it. */
enum err spm_encode(const struct tokenizer *t, struct spm_scratch *s, struct str text, bool prefix,
                    struct tokens *out) MUST_CHECK;
void spm_scratch_free(struct spm_scratch *s);

#endif
