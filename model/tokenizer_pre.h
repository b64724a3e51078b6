/* Pre-tokenizers: how byte-level BPE cuts text into words before it merges. The tokenizer uses
 * them; on their own they are for tests. Thread-safety: a pretokenizer is immutable, a scan belongs
 * to one thread. */
#ifndef OCTO_MODEL_TOKENIZER_PRE_H
#define OCTO_MODEL_TOKENIZER_PRE_H

#include "base/err.h"
#include "base/str.h"

enum { PRE_MAX_PATTERNS = 6 };

enum pre_flag {
    PRE_IGNORE_MERGES = 1, /* a word that is a token is not merged from parts */
    PRE_ADD_BOS = 2,       /* unless tokenizer.ggml.add_bos_token says otherwise */
    PRE_NO_BOS = 4         /* no bos token unless the file names one */
};

/* tokenizer_pre_table.c. */
struct pre_definition {
    const char *names;                      /* separated by spaces */
    const char *patterns[PRE_MAX_PATTERNS]; /* NULL after the last; at least one */
    unsigned flags;                         /* of enum pre_flag */
};
const struct pre_definition *pre_find(struct str name); /* NULL: none */
const struct pre_definition *pre_at(size_t i);          /* NULL: i is beyond the last */
/* Says that there is none of this name, and which there are. */
enum err pre_unknown(struct str name, struct err_msg *why) MUST_CHECK;

struct pretokenizer; /* compiled regular expressions */
enum err pretokenizer_create(struct str name, struct pretokenizer **ret,
                             struct err_msg *why) MUST_CHECK;
void pretokenizer_destroy(struct pretokenizer **p);
unsigned pretokenizer_flags(const struct pretokenizer *p);

struct pre_scan;
enum err pre_scan_create(const struct pretokenizer *p, struct pre_scan **ret) MUST_CHECK;
void pre_scan_destroy(struct pre_scan **s);
/* The text is valid UTF-8 and stays until the last word was taken. */
void pre_scan_begin(struct pre_scan *s, struct str text);
/* The next word; at the end an empty one. The words side by side are the text. */
enum err pre_scan_next(struct pre_scan *s, struct str *ret) MUST_CHECK;

#endif
