/* The tokenizer against what other programs computed, and at the edges: length, bad
 * text. Arguments: the shipped model, the golden folder. */
#include <jansson.h>
#include <pthread.h>
#include <time.h>

#include "base/file.h"
#include "base/size.h"
#include "model/tokenizer_kit.h"

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
    return check_report();
}
