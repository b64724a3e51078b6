/* Byte-level BPE with a vocabulary small enough to merge by hand; what keys and names of a file
 * change; bad vocabularies. */
#include "base/size.h"
#include "model/tokenizer_kit.h"

static enum err create_tiny(struct gguf_build *build, const char *pre, struct tokenizer **ret,
                            struct err_msg *why)
{
    struct gguf *g = NULL;
    struct err_msg open_why;
    struct buf file = build_finish(build);
    CHECK_OK(gguf_open_memory(file.data, file.len, "tiny", &g, &open_why), open_why);
    enum err e = g == NULL ? ERR_INTERNAL : tokenizer_create(g, pre, ret, why);
    gguf_close(&g);
    buf_free(&file);
    return e;
}

static void test_tiny(void)
{
    struct gguf_build build = {0};
    struct tokenizer *t = NULL;
    struct err_msg why = {{0}};
    build_tiny_vocab(&build);
    build_kv_bool(&build, "tokenizer.ggml.add_bos_token", 1);
    build_kv_u32(&build, "tokenizer.ggml.bos_token_id", TINY_START);
    CHECK_OK(create_tiny(&build, NULL, &t, &why), why);
    if (t == NULL)
        return;
    check_ids(t, STR_LIT("abc"), plain, (uint32_t[]){257}, 1);
    check_ids(t, STR_LIT("aabc"), plain, (uint32_t[]){'a', 257}, 2); /* "a b" ranks before "a a" */
    check_ids(t, STR_LIT("aaa"), plain, (uint32_t[]){259, 'a'}, 2);  /* the leftmost first */
    check_ids(t, STR_LIT("b a"), plain, (uint32_t[]){'b', 258}, 2);
    check_ids(t, STR_LIT("a<tool>b"), plain, (uint32_t[]){'a', TINY_TOOL, 'b'},
              3); /* user-defined: always */
    check_ids(t, STR_LIT("a<|im_end|>b"), special, (uint32_t[]){'a', TINY_END, 'b'}, 3);
    check_ids(t, STR_LIT("<|im_end"), special, (uint32_t[]){'<', '|', 'i', 'm', '_', 'e', 'n', 'd'},
              8);
    struct tokens ids = {0};
    struct tokenizer_encode_options with_bos = {.add_bos = true};
    CHECK_OK(tokenizer_encode(t, STR_LIT("b"), with_bos, &ids, &why), why);
    CHECK(ids.count == 2 && ids.ids[0] == TINY_START && ids.ids[1] == 'b');
    tokens_free(&ids);
    CHECK(tokenizer_adds_bos(t));
    CHECK_INT(tokenizer_bos(t), TINY_START);
    CHECK(!tokenizer_is_control(t, TINY_TOOL));
    tokenizer_destroy(&t);
    CHECK(t == NULL);
    tokenizer_destroy(&t);
}

static void put_tokens(struct gguf_build *g, uint32_t changed, const char *text)
{
    build_kv_array(g, "tokenizer.ggml.tokens", GGUF_STR, TINY_VOCAB);
    for (uint32_t i = 0; i < TINY_VOCAB; i++) {
        char other[16];
        if (i < 256)
            build_byte_token(i, other);
        else
            snprintf(other, sizeof(other),
                     i == 256   ? "ab"
                     : i == 257 ? "abc"
                     : i == 259 ? "aa"
                                : "xx%u",
                     i);
        build_text(&g->kvs, i == changed ? text
                            : i == 258   ? "\xc4\xa0"
                                           "a"
                                         : other);
    }
}
static void put_merge(struct gguf_build *g, const char *text)
{
    build_kv_array(g, "tokenizer.ggml.merges", GGUF_STR, 1);
    build_text(&g->kvs, text);
}
static void nothing(struct gguf_build *g)
{
    (void)g;
}
static void model_llama(struct gguf_build *g)
{
    build_kv_str(g, "tokenizer.ggml.model", "llama");
}
static void model_bert(struct gguf_build *g)
{
    build_kv_str(g, "tokenizer.ggml.model", "bert");
}
static void pre_unknown_name(struct gguf_build *g)
{
    build_kv_str(g, "tokenizer.ggml.pre", "tekken2");
}
static void pre_empty(struct gguf_build *g)
{
    build_kv_str(g, "tokenizer.ggml.pre", "");
}
static void tokens_u32(struct gguf_build *g)
{
    build_kv_array(g, "tokenizer.ggml.tokens", GGUF_U32, 0);
}
static void tokens_none(struct gguf_build *g)
{
    build_kv_array(g, "tokenizer.ggml.tokens", GGUF_STR, 0);
}
static void byte_missing(struct gguf_build *g)
{
    put_tokens(g, 'q', "qq");
}
static void token_twice(struct gguf_build *g)
{
    put_tokens(g, 'q', "r");
}
static void token_no_utf8(struct gguf_build *g)
{
    put_tokens(g, 258, "\xc4");
}
static void token_unmapped(struct gguf_build *g)
{
    put_tokens(g, 259, "\xe4\xb8\xad");
}
static void types_short(struct gguf_build *g)
{
    build_kv_array(g, "tokenizer.ggml.token_type", GGUF_I32, 1);
    build_u32(&g->kvs, 1);
}
static void types_wrong(struct gguf_build *g)
{
    build_kv_array(g, "tokenizer.ggml.token_type", GGUF_I32, TINY_VOCAB);
    for (uint32_t i = 0; i < TINY_VOCAB; i++)
        build_u32(&g->kvs, i == 9 ? 7 : 1);
}
static void merge_unknown(struct gguf_build *g)
{
    put_merge(g, "a zz");
}
static void merge_no_result(struct gguf_build *g)
{
    put_merge(g, "b a");
}
static void merge_one(struct gguf_build *g)
{
    put_merge(g, "ab");
}
static void merge_empty(struct gguf_build *g)
{
    put_merge(g, "");
}
static void merge_left_empty(struct gguf_build *g)
{
    put_merge(g, " a");
}
static void merge_no_utf8(struct gguf_build *g)
{
    put_merge(g, "a \xff");
}
static void eos_outside(struct gguf_build *g)
{
    build_kv_u32(g, "tokenizer.ggml.eos_token_id", TINY_VOCAB);
}
static void eos_negative(struct gguf_build *g)
{
    build_key(g, "tokenizer.ggml.eos_token_id", GGUF_I32);
    build_u32(&g->kvs, UINT32_MAX);
}
static void bos_wanted(struct gguf_build *g)
{
    build_kv_str(g, "tokenizer.ggml.pre", "glm4"); /* has none unless the file says so */
    build_kv_bool(g, "tokenizer.ggml.add_bos_token", 1);
}
static const struct {
    const char *name, *skip;
    void (*change)(struct gguf_build *g);
    enum err e;
    const char *words;
} bad_vocabs[] = {
    {"no model", "tokenizer.ggml.model", nothing, ERR_FORMAT, "no key 'tokenizer.ggml.model'"},
    {"SPM without scores", "tokenizer.ggml.model", model_llama, ERR_FORMAT,
     "no key 'tokenizer.ggml.scores'"},
    {"another model", "tokenizer.ggml.model", model_bert, ERR_UNSUPPORTED,
     "tokenizer 'bert' is not supported (supported: gpt2"},
    {"pre unknown", "tokenizer.ggml.pre", pre_unknown_name, ERR_UNSUPPORTED,
     "tiny: pre-tokenizer 'tekken2' is not known; --pre-tokenizer NAME takes another one (default, "
     "gpt-2, "},
    {"pre empty", "tokenizer.ggml.pre", pre_empty, ERR_UNSUPPORTED, "pre-tokenizer '' is not"},
    {"no tokens", "tokenizer.ggml.tokens", nothing, ERR_FORMAT, "no key 'tokenizer.ggml.tokens'"},
    {"tokens that are numbers", "tokenizer.ggml.tokens", tokens_u32, ERR_FORMAT, "array of u32"},
    {"zero tokens", "tokenizer.ggml.tokens", tokens_none, ERR_RANGE, "a vocabulary of 0 tokens"},
    {"a byte without token", "tokenizer.ggml.tokens", byte_missing, ERR_FORMAT,
     "no token stands for the byte 0x71"},
    {"a token twice", "tokenizer.ggml.tokens", token_twice, ERR_FORMAT,
     "tokens 113 and 114 are the same text"},
    {"token that is no UTF-8", "tokenizer.ggml.tokens", token_no_utf8, ERR_FORMAT,
     "token 258 is no valid UTF-8"},
    {"merge that makes an unmapped token", "tokenizer.ggml.tokens", token_unmapped, ERR_FORMAT,
     "merge 3 is 'a a': what it makes is no token"},
    {"too few types", "tokenizer.ggml.token_type", types_short, ERR_FORMAT,
     "has 1 entries for 263 tokens"},
    {"type 7", "tokenizer.ggml.token_type", types_wrong, ERR_FORMAT,
     "token 9 has type 7, expected 1 to 6"},
    {"no merges", "tokenizer.ggml.merges", nothing, ERR_FORMAT, "no key 'tokenizer.ggml.merges'"},
    {"merge of an unknown token", "tokenizer.ggml.merges", merge_unknown, ERR_FORMAT,
     "merge 0 is 'a zz': its right side"},
    {"merge into an unknown token", "tokenizer.ggml.merges", merge_no_result, ERR_FORMAT,
     "merge 0 is 'b a': what it makes is no token"},
    {"merge of one", "tokenizer.ggml.merges", merge_one, ERR_FORMAT,
     "merge 0 is 'ab', expected two tokens"},
    {"merge of none", "tokenizer.ggml.merges", merge_empty, ERR_FORMAT,
     "merge 0 is '', expected two tokens"},
    {"merge without left", "tokenizer.ggml.merges", merge_left_empty, ERR_FORMAT,
     "merge 0 is ' a', expected two"},
    {"merge that is no UTF-8", "tokenizer.ggml.merges", merge_no_utf8, ERR_FORMAT,
     "merge 0 is 'a ?', expected two"},
    {"eos outside", "tokenizer.ggml.eos_token_id", eos_outside, ERR_FORMAT,
     "'tokenizer.ggml.eos_token_id' is 263, the vocabulary has 263 tokens"},
    {"eos negative", "tokenizer.ggml.eos_token_id", eos_negative, ERR_FORMAT,
     "eos_token_id' is -1"},
    {"bos wanted, none there", "tokenizer.ggml.pre", bos_wanted, ERR_FORMAT,
     "there is no 'tokenizer.ggml.bos_token_id'"},
};

static void test_bad_vocabs(void)
{
    struct err_msg why = {{0}};
    struct tokenizer *t = NULL;
    for (size_t i = 0; i < ARRAY_LEN(bad_vocabs); i++) {
        struct gguf_build build = {.skip = bad_vocabs[i].skip};
        build_tiny_vocab(&build);
        build.skip = NULL;
        bad_vocabs[i].change(&build);
        why.text[0] = '\0';
        enum err e = create_tiny(&build, NULL, &t, &why);
        if (e != bad_vocabs[i].e)
            fprintf(stderr, "%s: %s: \"%s\"\n", bad_vocabs[i].name, err_name(e), why.text);
        CHECK_INT(e, bad_vocabs[i].e);
        CHECK_HAS(why.text, bad_vocabs[i].words);
        CHECK(t == NULL);
        tokenizer_destroy(&t);
    }
}

/* The keys and names that change what is done. */
static void test_flags(void)
{
    struct err_msg why = {{0}};
    struct tokenizer *t = NULL;
    /* A pre-tokenizer given by name is taken instead of the file's; none: "default". */
    struct gguf_build build = {.skip = "tokenizer.ggml.pre"};
    build_tiny_vocab(&build);
    CHECK_OK(create_tiny(&build, NULL, &t, &why), why);
    tokenizer_destroy(&t);
    build_tiny_vocab(&build);
    CHECK_ERR(create_tiny(&build, "gpt-9", &t, &why), ERR_UNSUPPORTED);
    CHECK_HAS(why.text, "'gpt-9'");
    /* "abc" is a token that no merge leads to: found as a word only with ignore_merges. */
    static const struct {
        const char *pre;
        bool whole, adds_bos;
        int64_t bos;
    } names[] = {
        {"qwen2", false, false, 11},  {"llama-bpe", true, true, 11},   {"llama3", true, true, 11},
        {"tekken", true, true, 11},   {"smaug-bpe", false, false, 11}, {"glm4", true, false, -1},
        {"gpt-4o", false, false, 11},
    };
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        build = (struct gguf_build){.skip = "tokenizer.ggml.merges"};
        build_tiny_vocab(&build);
        build.skip = NULL;
        put_merge(&build, "a b");
        CHECK_OK(create_tiny(&build, names[i].pre, &t, &why), why);
        if (t == NULL)
            continue;
        if (names[i].whole)
            check_ids(t, STR_LIT("abc"), plain, (uint32_t[]){257}, 1);
        else
            check_ids(t, STR_LIT("abc"), plain, (uint32_t[]){256, 'c'}, 2);
        CHECK_INT(tokenizer_bos(t), names[i].bos);
        CHECK(tokenizer_adds_bos(t) == names[i].adds_bos);
        CHECK(!tokenizer_adds_eos(t));
        tokenizer_destroy(&t);
    }
}

static void test_bos_and_eos(void)
{
    struct err_msg why = {{0}};
    struct tokenizer *t = NULL;
    struct gguf_build build = {0};
    struct tokens ids = {0};
    build_tiny_vocab(&build);
    build_kv_bool(&build, "tokenizer.ggml.add_bos_token", 0);
    build_kv_bool(&build, "tokenizer.ggml.add_eos_token", 1);
    CHECK_OK(create_tiny(&build, "llama-bpe", &t, &why), why);
    if (t == NULL)
        return;
    struct tokenizer_encode_options o = {.add_bos = true, .add_eos = true};
    CHECK_OK(tokenizer_encode(t, STR_LIT("b"), o, &ids, &why), why);
    CHECK(ids.count == 2 && ids.ids[0] == 'b' && ids.ids[1] == TINY_END);
    ids.count = 0;
    o.add_eos = false;
    CHECK_OK(tokenizer_encode(t, STR_LIT("b"), o, &ids, &why), why);
    CHECK(ids.count == 1 && ids.ids[0] == 'b');
    tokens_free(&ids);
    tokenizer_destroy(&t);
}

/* A generation ends also where the file does not call the token a control token, and plain text
 * still does not become it. */
static void test_end_name(void)
{
    struct err_msg why = {{0}};
    struct tokenizer *t = NULL;
    struct gguf_build build = {.skip = "tokenizer.ggml.token_type"};
    struct tokens ids = {0};
    size_t count = 0;
    build_tiny_vocab(&build);
    build.skip = NULL;
    build_kv_array(&build, "tokenizer.ggml.token_type", GGUF_I32, TINY_VOCAB);
    for (uint32_t i = 0; i < TINY_VOCAB; i++)
        build_u32(&build.kvs, i < TINY_END ? 1 : 4);
    CHECK_OK(create_tiny(&build, NULL, &t, &why), why);
    if (t == NULL)
        return;
    const uint32_t *ends = tokenizer_end_tokens(t, &count);
    CHECK(count == 1 && ends[0] == TINY_END);
    CHECK(tokenizer_is_control(t, TINY_END) && !tokenizer_is_control(t, TINY_START));
    CHECK_OK(tokenizer_encode(t, STR_LIT("<|im_start|><|im_end|>"), plain, &ids, &why), why);
    CHECK(ids.count == 11 && ids.ids[0] == TINY_START && ids.ids[1] == '<');
    tokens_free(&ids);
    tokenizer_destroy(&t);
}

int main(void)
{
    test_tiny();
    test_bad_vocabs();
    test_flags();
    test_bos_and_eos();
    test_end_name();
    return check_report();
}
