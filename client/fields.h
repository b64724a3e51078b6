/* The fields a request may have: the one table behind request.c. Private to client/. */
#ifndef OCTO_CLIENT_FIELDS_H
#define OCTO_CLIENT_FIELDS_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

#include "base/str.h"

enum field_kind {
    FIELD_FLOAT,    /* a number in min..max (min_open: above min), to a double */
    FIELD_COUNT,    /* a whole number in min..max, to a uint64_t */
    FIELD_TOP_K,    /* a whole number; -1 and 0: off */
    FIELD_SEED,     /* any 64-bit whole number */
    FIELD_BOOL,     /* to a bool */
    FIELD_TEXTS,    /* a list of up to max strings; one_text: or a string */
    FIELD_BIAS,     /* {"token id": number in min..max, ...} */
    FIELD_LOGPROBS, /* of a chat true or false, else a number */
    FIELD_TOKENS,   /* a list of token ids */
    FIELD_PROMPT,   /* a string or token ids */
    FIELD_MESSAGES, /* a chat */
    FIELD_HARMLESS, /* says nothing about the output */
    FIELD_LATER,    /* not supported yet; values that ask for nothing are taken */
};

/* Values of a FIELD_LATER that ask for nothing (null always is one). */
enum neutral {
    NEUTRAL_ZERO = 1,
    NEUTRAL_ONE = 2,
    NEUTRAL_FALSE = 4,
    NEUTRAL_TRUE = 8,
    NEUTRAL_EMPTY = 16,       /* "", [] or {} */
    NEUTRAL_TEXT_FORMAT = 32, /* {"type": "text"} */
    NEUTRAL_NO_TOOLS = 64,    /* "none" or "auto" */
    NEUTRAL_TEXT_MODE = 128,  /* ["text"] */
};

struct field {
    const char *name;
    enum field_kind kind;
    double min, max;
    size_t offset; /* in struct rec_REQUEST */
    bool min_open, one_text;
    unsigned neutral;
};

const struct field *field_find(const char *name); /* NULL: unknown */
bool field_is_neutral(const struct field *f, const json_t *value);

#endif
