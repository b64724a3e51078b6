/* What the tests of the tokenizer share. */
#ifndef OCTO_TESTS_MODEL_TOKENIZER_KIT_H
#define OCTO_TESTS_MODEL_TOKENIZER_KIT_H

#include "check.h"
#include "model/gguf_build.h"
#include "model/tokenizer.h"

/* Sanitizers make everything slower: time limits are higher then. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SANITIZED 1
#endif
#endif
#ifndef SANITIZED
#define SANITIZED 0
#endif

static const struct tokenizer_encode_options plain = {.add_bos = false, .parse_special = false};
static const struct tokenizer_encode_options special = {.add_bos = false, .parse_special = true};

static inline struct tokenizer *open_tokenizer(const char *path)
{
    struct gguf *g = NULL;
    struct tokenizer *t = NULL;
    struct err_msg why;
    CHECK_OK(gguf_open(path, &g, &why), why);
    if (g != NULL)
        CHECK_OK(tokenizer_create(g, NULL, &t, &why), why);
    gguf_close(&g); /* the tokenizer has its own copy of everything */
    if (t == NULL)
        exit(1);
    return t;
}

static inline void check_ids(const struct tokenizer *t, struct str text,
                             struct tokenizer_encode_options o, const uint32_t *want,
                             size_t want_count)
{
    struct tokens got = {0};
    struct err_msg why;
    CHECK_OK(tokenizer_encode(t, text, o, &got, &why), why);
    bool equal = got.count == want_count &&
                 (got.count == 0 || memcmp(got.ids, want, got.count * sizeof(*want)) == 0);
    if (!CHECK(equal)) {
        fprintf(stderr, "    text \"%.*s\"\n    got ", STR_ARG(text));
        for (size_t i = 0; i < got.count; i++)
            fprintf(stderr, " %u", got.ids[i]);
        fprintf(stderr, "\n    want");
        for (size_t i = 0; i < want_count; i++)
            fprintf(stderr, " %u", want[i]);
        fprintf(stderr, "\n");
    }
    /* And back: the same bytes. */
    struct buf back = {0};
    CHECK_OK(tokenizer_decode(t, got.ids, got.count, true, &back), why);
    CHECK(str_eq((struct str){back.data, back.len}, text));
    buf_free(&back);
    tokens_free(&got);
}

#endif
