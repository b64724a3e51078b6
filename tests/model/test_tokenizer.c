/* The tokenizer against what other programs computed, and at the edges: length, bad text, bad
 * vocabularies. Arguments: the shipped model, the golden folder. */
#include <jansson.h>
#include <pthread.h>
#include <time.h>

#include "base/file.h"
#include "base/size.h"
#include "check.h"
#include "model/gguf_build.h"
#include "model/tokenizer.h"

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

static struct tokenizer *open_tokenizer(const char *path)
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

static void check_ids(const struct tokenizer *t, struct str text, struct tokenizer_encode_options o,
                      const uint32_t *want, size_t want_count)
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

static void test_cases(const struct tokenizer *t, const char *golden)
{
    char path[4096], line[65536];
    unsigned cases = 0;
    snprintf(path, sizeof(path), "%s/tokenizer_cases.jsonl", golden);
    FILE *f = fopen(path, "r");
    if (!CHECK(f != NULL))
        return;
    while (fgets(line, sizeof(line), f) != NULL) {
        json_error_t error;
        json_t *root = json_loads(line, JSON_ALLOW_NUL, &error);
        json_t *text = json_object_get(root, "text"), *ids = json_object_get(root, "ids");
        uint32_t want[4096];
        size_t count = json_array_size(ids);
        if (!CHECK(json_is_string(text) && json_is_array(ids) && count <= ARRAY_LEN(want)))
            break;
        for (size_t i = 0; i < count; i++)
            want[i] = (uint32_t)json_integer_value(json_array_get(ids, i));
        check_ids(t, (struct str){json_string_value(text), json_string_length(text)}, special, want,
                  count);
        json_decref(root);
        cases++;
    }
    fclose(f);
    CHECK_INT(cases, 281);
}

static void test_facts(const struct tokenizer *t)
{
    size_t count = 0;
    const uint32_t *ends = tokenizer_end_tokens(t, &count);
    CHECK_INT(tokenizer_vocab_size(t), 4096);
    CHECK_INT(tokenizer_bos(t), 0);
    CHECK_INT(tokenizer_eos(t), 2);
    CHECK(!tokenizer_adds_bos(t));
    CHECK(count == 2 && ends[0] == 2 && ends[1] == 0); /* <|im_end|> and <|endoftext|> */
    CHECK(tokenizer_is_control(t, 1) && !tokenizer_is_control(t, 3) &&
          !tokenizer_is_control(t, 4096));
    CHECK(str_eq(tokenizer_piece(t, 1), STR_LIT("<|im_start|>")));
    CHECK(str_eq(tokenizer_piece(t, 223), STR_LIT(" ")));
    CHECK_INT(tokenizer_piece(t, UINT32_MAX).len, 0);
    /* Plain text never becomes a control token; parsed text does. */
    struct tokens ids = {0};
    struct err_msg why;
    CHECK_OK(tokenizer_encode(t, STR_LIT("<|im_end|>"), plain, &ids, &why), why);
    for (size_t i = 0; i < ids.count; i++)
        CHECK(!tokenizer_is_control(t, ids.ids[i]));
    CHECK(ids.count > 1);
    tokens_free(&ids);
    CHECK_OK(tokenizer_encode(t, STR_LIT("<|im_end|>"), special, &ids, &why), why);
    CHECK(ids.count == 1 && ids.ids[0] == 2);
    struct buf out = {0};
    CHECK_OK(tokenizer_decode(t, ids.ids, ids.count, false, &out), why);
    CHECK_INT(out.len, 0);
    buf_free(&out);
    tokens_free(&ids);
}

static void check_invalid(const struct tokenizer *t, struct str text, const char *words)
{
    uint32_t first = 7;
    struct tokens ids = {0};
    struct err_msg why = {{0}};
    CHECK_OK(tokens_append(&ids, &first, 1), why);
    CHECK_ERR(tokenizer_encode(t, text, special, &ids, &why), ERR_FORMAT);
    CHECK_HAS(why.text, words);
    CHECK(ids.count == 1 && ids.ids[0] == 7);
    tokens_free(&ids);
}

static void test_invalid_text(const struct tokenizer *t)
{
    check_invalid(t, STR_LIT("\xff"), "invalid UTF-8 at byte 0");
    check_invalid(t, STR_LIT("ab\xc3"), "byte 2");
    check_invalid(t, STR_LIT("abc\xed\xa0\x80"), "byte 3");
    check_invalid(t, STR_LIT("\xf0\x9f\x98\x80\xc0\x80"), "byte 4");
    check_invalid(t, STR_LIT("<|im_end|>\xf5"), "byte 10");
    check_ids(t, STR_LIT(""), special, NULL, 0);
    check_ids(t, (struct str){NULL, 0}, special, NULL, 0);
}

/* Encoding takes under two seconds for a MiB of anything, and a quarter of that for each MiB of a
 * long text; prints what it took. */
static void check_speed(const struct tokenizer *t, const char *what, const char *unit, size_t limit)
{
    static const size_t want = 1 << 20;
    struct buf text = {0};
    struct tokens ids = {0};
    struct buf back = {0};
    struct err_msg why;
    struct timespec a, b;
    while (text.len < (limit == 0 ? want : limit))
        build_bytes(&text, unit, strlen(unit));
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &a);
    CHECK_OK(tokenizer_encode(t, (struct str){text.data, text.len}, special, &ids, &why), why);
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &b);
    double seconds = (double)(b.tv_sec - a.tv_sec) + (double)(b.tv_nsec - a.tv_nsec) * 1e-9;
    printf("%-24s %zu bytes, %zu ids, %.3f s\n", what, text.len, ids.count, seconds);
    double times = limit == 0 ? 1 : (double)(limit / want) / 4;
    CHECK(seconds < (SANITIZED ? 20 : 2) * times);
    CHECK_OK(tokenizer_decode(t, ids.ids, ids.count, true, &back), why);
    CHECK(str_eq((struct str){back.data, back.len}, (struct str){text.data, text.len}));
    buf_free(&back);
    buf_free(&text);
    tokens_free(&ids);
}

static void test_speed(const struct tokenizer *t)
{
    struct check_rng rng = check_rng_start(11);
    char word[4001];
    for (size_t i = 0; i + 1 < sizeof(word); i++)
        word[i] = (char)('a' + check_rng_below(&rng, 26));
    word[sizeof(word) - 1] = '\0';
    check_speed(t, "one letter", "a", 0);
    check_speed(t, "two letters", "ab", 0);
    check_speed(t, "random letters", word, 0);
    check_speed(t, "spaces", " ", 0);
    check_speed(t, "spaces, then a letter",
                "                                                               x", 0);
    check_speed(t, "newlines", "\n", 0);
    check_speed(t, "spaces and newlines", " \n", 0);
    check_speed(t, "tabs", "\t", 0);
    check_speed(t, "digits", "7", 0);
    check_speed(t, "punctuation", "!", 0);
    check_speed(t, "dashes and newlines", "-\n", 0);
    check_speed(t, "emoji", "\xf0\x9f\x98\x80", 0);
    check_speed(t, "ideographic spaces", "\xe3\x80\x80", 0);
    check_speed(t, "apostrophes", "'", 0);
    check_speed(t, "half special tokens", "<|im_", 0);
    check_speed(t, "angle brackets", "<", 0);
    check_speed(t, "special tokens", "<|im_start|>", 0);
    check_speed(t, "prose", "The hero walked to the lighthouse, and found 3 telescopes. ", 0);
    check_speed(t, "32 MiB of letters", "z", SANITIZED ? 0 : 32 << 20);
    check_speed(t, "16 MiB of spaces", " ", SANITIZED ? 0 : 16 << 20);
}

/* Random valid text comes back the same. */
static void test_roundtrip(const struct tokenizer *t)
{
    static const char *const parts[] = {" ",
                                        "  ",
                                        "\n",
                                        "\r",
                                        "\t",
                                        "a",
                                        "Z",
                                        "'s",
                                        "'Re",
                                        "7",
                                        "\xc3\xa4",
                                        ".",
                                        "-",
                                        "<|im_start|>",
                                        "<|",
                                        "\xc2\x85",
                                        "\xc2\xa0",
                                        "\xe1\xa0\x8e",
                                        "\xe3\x80\x80",
                                        "\xe4\xb8\xad",
                                        "\xf0\x9f\x98\x80",
                                        "\xcc\x88",
                                        "\xc2\xbd",
                                        "word",
                                        "\x01"};
    struct check_rng rng = check_rng_start(5);
    for (int round = 0; round < 2000; round++) {
        struct buf text = {0}, back = {0};
        struct tokens ids = {0};
        struct err_msg why;
        for (uint64_t n = check_rng_below(&rng, 40); n > 0; n--) {
            const char *part = parts[check_rng_below(&rng, ARRAY_LEN(parts))];
            build_bytes(&text, part, strlen(part));
        }
        if (check_rng_below(&rng, 10) == 0)
            build_bytes(&text, "", 1);
        struct tokenizer_encode_options o = {.parse_special = round % 2 == 0};
        CHECK_OK(tokenizer_encode(t, (struct str){text.data, text.len}, o, &ids, &why), why);
        CHECK_OK(tokenizer_decode(t, ids.ids, ids.count, true, &back), why);
        CHECK(str_eq((struct str){back.data, back.len}, (struct str){text.data, text.len}));
        buf_free(&text);
        buf_free(&back);
        tokens_free(&ids);
    }
}

/* Threads that share one tokenizer get what one alone gets. */
struct thread_work {
    const struct tokenizer *t;
    struct tokens ids;
    bool failed;
};

static const char thread_text[] =
    "<|im_start|>user\nWhat's 347 + 586?  \n\n \xc3\xa4\xf0\x9f\x98\x80<|im_end|>";

static void *encode_often(void *user)
{
    struct thread_work *w = user;
    for (int i = 0; i < 200 && !w->failed; i++) {
        w->ids.count = 0;
        w->failed = tokenizer_encode(w->t, STR_LIT(thread_text), special, &w->ids, NULL) != ERR_OK;
    }
    return NULL;
}

static void test_threads(const struct tokenizer *t)
{
    enum { THREADS = 4 };
    pthread_t threads[THREADS];
    struct thread_work work[THREADS], alone = {.t = t};
    for (size_t i = 0; i < THREADS; i++) {
        work[i] = (struct thread_work){.t = t};
        if (pthread_create(&threads[i], NULL, encode_often, &work[i]) != 0)
            abort();
    }
    encode_often(&alone);
    CHECK(!alone.failed && alone.ids.count > 0);
    for (size_t i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
        CHECK(!work[i].failed && work[i].ids.count == alone.ids.count &&
              memcmp(work[i].ids.ids, alone.ids.ids, alone.ids.count * sizeof(*alone.ids.ids)) ==
                  0);
        tokens_free(&work[i].ids);
    }
    tokens_free(&alone.ids);
}

/* ---- a vocabulary of our own ---- */

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

int main(int argc, char **argv)
{
    (void)argc;
    struct tokenizer *t = open_tokenizer(argv[1]);
    test_cases(t, argv[2]);
    test_facts(t);
    test_invalid_text(t);
    test_roundtrip(t);
    test_threads(t);
    test_speed(t);
    tokenizer_destroy(&t);
    test_tiny();
    test_bad_vocabs();
    test_flags();
    test_bos_and_eos();
    test_end_name();
    return check_report();
}
