/* Ids to text, one at a time: no half characters, invalid bytes, stop strings wherever tokens cut
 * them. */
#include "base/size.h"
#include "base/utf8.h"
#include "check.h"
#include "model/gguf_build.h"
#include "model/text_stream.h"

/* Byte tokens are their byte's value; some longer ones are in gguf_build.h. */
static struct tokenizer *tiny_tokenizer(void)
{
    struct gguf_build build = {0};
    struct gguf *g = NULL;
    struct tokenizer *t = NULL;
    struct err_msg why;
    build_tiny_vocab(&build);
    struct buf file = build_finish(&build);
    CHECK_OK(gguf_open_memory(file.data, file.len, "tiny", &g, &why), why);
    CHECK_OK(tokenizer_create(g, NULL, &t, &why), why);
    gguf_close(&g);
    buf_free(&file);
    if (t == NULL)
        exit(1);
    return t;
}

/* A stream, checked at every step: text is valid UTF-8 and only grows. */
struct run {
    struct text_stream *s;
    struct buf seen;
    bool stopped;
};

static struct run start(const struct tokenizer *t, const struct str *stops, size_t count)
{
    struct run r = {0};
    struct err_msg why = {{0}};
    CHECK_OK(text_stream_create(t, stops, count, &r.s), why);
    return r;
}

static void look(struct run *r)
{
    struct str text = text_stream_text(r->s);
    CHECK(utf8_is_valid(text.data, text.len));
    CHECK(text.len >= r->seen.len);
    CHECK(r->seen.len == 0 || memcmp(text.data, r->seen.data, r->seen.len) == 0);
    buf_clear(&r->seen);
    build_bytes(&r->seen, text.data, text.len);
}

static void push(struct run *r, uint32_t id, bool may_stop)
{
    struct err_msg why = {{0}};
    CHECK_OK(text_stream_push(r->s, id, may_stop, &r->stopped), why);
    look(r);
}

static void push_text(struct run *r, const char *text, bool may_stop)
{
    for (; *text != '\0'; text++)
        push(r, (unsigned char)*text, may_stop);
}

static void check_now(const struct run *r, const char *want)
{
    struct str text = text_stream_text(r->s);
    if (!CHECK(str_eq(text, str_of(want))))
        fprintf(stderr, "    got \"%.*s\", expected \"%s\"\n", STR_ARG(text), want);
}

static void finish(struct run *r, const char *want)
{
    struct err_msg why = {{0}};
    CHECK_OK(text_stream_finish(r->s), why);
    look(r);
    check_now(r, want);
    text_stream_destroy(&r->s);
    CHECK(r->s == NULL);
    buf_free(&r->seen);
}

static void test_characters(const struct tokenizer *t)
{
    struct run r = start(t, NULL, 0);
    check_now(&r, "");
    push_text(&r, "a\xf0\x9f\x98", true);
    check_now(&r, "a");
    push(&r, 0x80, true);
    check_now(&r, "a\xf0\x9f\x98\x80");
    push(&r, TINY_START, true); /* control: no text */
    push(&r, TINY_TOOL, true);  /* user-defined: text */
    push(&r, UINT32_MAX, true); /* no token */
    push(&r, 257, true);
    push(&r, 0xc3, true);
    push(&r, TINY_START, true); /* between the bytes of a character it changes nothing */
    push(&r, 0xa4, true);
    CHECK(!r.stopped);
    finish(&r, "a\xf0\x9f\x98\x80<tool>abc\xc3\xa4");
}

/* Bytes in, text out: U+FFFD as the Unicode standard's chapter 3.9 recommends (its table's example
 * among them). */
static void test_invalid(const struct tokenizer *t)
{
#define R "\xef\xbf\xbd"
    static const struct {
        const char *bytes, *text;
    } cases[] = {
        {"\x80", R},
        {"a\xff"
         "b",
         "a" R "b"},
        {"\xc3", R},
        {"\xc3\xc3\xa4", R "\xc3\xa4"},
        {"\xe2\x82", R},
        {"\xe2\x82x", R "x"},
        {"\xf0\x9f\x98", R},
        {"\xf0\x9f\x98\xf0\x9f\x98\x80", R "\xf0\x9f\x98\x80"},
        {"\xed\xa0\x80", R R R},
        {"\xc0\x80", R R},
        {"\xf4\x90\x80\x80", R R R R},
        {"\xe0\x80\x80", R R R},
        {"\xf1\x80\x80\xe1\x80\xc2"
         "b\x80"
         "c\x80\xbf"
         "d",
         R R R "b" R "c" R R "d"},
    };
#undef R
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct run r = start(t, NULL, 0);
        push_text(&r, cases[i].bytes, true);
        finish(&r, cases[i].text);
    }
}

static void test_stops(const struct tokenizer *t)
{
    static const struct {
        const char *stops[3];
        const char *text, *want;
        bool stopped;
    } cases[] = {
        {{"END"}, "oneENDtwo", "one", true},
        {{"END"}, "oneENtwo", "oneENtwo", false},
        {{"END"}, "oneEN", "oneEN", false},
        {{"END"}, "EENENDx", "EEN", true},
        {{"END"}, "END", "", true},
        {{"aab"}, "aaaab", "aa", true},
        {{"abcd", "bc"}, "abcd", "a", true},      /* the one that ends first */
        {{"abc", "bc", "c"}, "xabcy", "x", true}, /* of those the longest */
        {{"\n\n"}, "a\nb\n\nc", "a\nb", true},
        {{"\xf0\x9f\x98\x80"}, "a\xf0\x9f\x98\x80z", "a", true},
        {{"\xf0\x9f\x98\x80!"}, "a\xf0\x9f\x98\x80?", "a\xf0\x9f\x98\x80?", false},
        {{"abab", "bb"}, "ababa", "", true},
        {{"ababac"}, "abababac", "ab", true},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct str stops[3];
        size_t count = 0;
        for (; count < 3 && cases[i].stops[count] != NULL; count++)
            stops[count] = str_of(cases[i].stops[count]);
        struct run r = start(t, stops, count);
        push_text(&r, cases[i].text, true);
        CHECK(r.stopped == cases[i].stopped);
        finish(&r, cases[i].want);
    }
}

/* What could become a stop string is held back, no more than that. */
static void test_held(const struct tokenizer *t)
{
    struct str stops[] = {STR_LIT("abc"), STR_LIT("bd")};
    struct run r = start(t, stops, 2);
    push_text(&r, "xa", true);
    check_now(&r, "x");
    push_text(&r, "b", true);
    check_now(&r, "x");
    push_text(&r, "b", true); /* only the last b can still begin one */
    check_now(&r, "xab");
    push_text(&r, "e", true);
    check_now(&r, "xabbe");
    push(&r, 257, true); /* "abc" in one token */
    CHECK(r.stopped);
    push_text(&r, "more", true);
    CHECK(r.stopped);
    finish(&r, "xabbe");
}

static void test_may_stop(const struct tokenizer *t)
{
    struct str stop = STR_LIT("aa");
    struct run r = start(t, &stop, 1);
    push_text(&r, "xaa", false); /* complete, but too early: text like any other */
    CHECK(!r.stopped);
    check_now(&r, "xa"); /* its second half may begin the next one */
    push_text(&r, "b", false);
    check_now(&r, "xaab");
    push_text(&r, "a", false);
    push_text(&r, "a", true); /* begun early, complete now */
    CHECK(r.stopped);
    finish(&r, "xaab");

    r = start(t, &stop, 1);
    push_text(&r, "aa", false);
    push_text(&r, "a", true); /* overlaps the one that did not count */
    CHECK(r.stopped);
    finish(&r, "a");
}

static void test_bad_stops(const struct tokenizer *t)
{
    struct text_stream *s = NULL;
    struct str empty = STR_LIT(""), half = STR_LIT("\x9f\x98\x80");
    CHECK_ERR(text_stream_create(t, &empty, 1, &s), ERR_FORMAT);
    CHECK_ERR(text_stream_create(t, &half, 1, &s), ERR_FORMAT);
    CHECK(s == NULL);
    text_stream_destroy(&s);
}

/* ---- every split ---- */

static const char split_text[] = "a\xf0\x9f\x98\x80\xe2\x82\xac\xc3\xa4!\xff\xf0\x9f";
enum { SPLIT_BYTES = sizeof(split_text) - 1, SPLIT_VOCAB = 256 + SPLIT_BYTES * SPLIT_BYTES };

/* A vocabulary in which each piece of split_text is a token: ids[begin][end]. */
static struct tokenizer *split_tokenizer(uint32_t ids[SPLIT_BYTES][SPLIT_BYTES + 1])
{
    struct gguf_build build = {0};
    struct gguf *g = NULL;
    struct tokenizer *t = NULL;
    struct err_msg why;
    struct str pieces[SPLIT_VOCAB];
    struct buf texts = {0};
    uint32_t count = 256;
    for (unsigned b = 0; b < 256; b++) {
        char text[4];
        build_byte_token(b, text);
        build_text(&texts, text);
    }
    for (size_t i = 0; i < SPLIT_BYTES; i++)
        for (size_t j = i + 1; j <= SPLIT_BYTES; j++) {
            struct str piece = {split_text + i, j - i};
            struct buf mapped = {0};
            uint32_t id = 256;
            while (id < count && !str_eq(pieces[id], piece))
                id++;
            ids[i][j] = j == i + 1 ? (unsigned char)split_text[i] : id;
            if (j == i + 1 || id < count)
                continue;
            for (size_t k = i; k < j; k++) {
                char text[4];
                build_byte_token((unsigned char)split_text[k], text);
                build_bytes(&mapped, text, strlen(text));
            }
            pieces[count++] = piece;
            build_text(&texts, buf_cstr(&mapped));
            buf_free(&mapped);
        }
    build_kv_str(&build, "tokenizer.ggml.model", "gpt2");
    build_kv_str(&build, "tokenizer.ggml.pre", "qwen2");
    build_kv_array(&build, "tokenizer.ggml.tokens", GGUF_STR, count);
    build_bytes(&build.kvs, texts.data, texts.len);
    build_kv_array(&build, "tokenizer.ggml.merges", GGUF_STR, 0);
    struct buf file = build_finish(&build);
    CHECK_OK(gguf_open_memory(file.data, file.len, "split", &g, &why), why);
    CHECK_OK(tokenizer_create(g, NULL, &t, &why), why);
    gguf_close(&g);
    buf_free(&file);
    buf_free(&texts);
    if (t == NULL)
        exit(1);
    return t;
}

/* One split: bit i of `cuts` set: a token ends after byte i. */
static void check_split(const struct tokenizer *t, uint32_t ids[SPLIT_BYTES][SPLIT_BYTES + 1],
                        uint32_t cuts, const struct str *stops, size_t stops_count,
                        const char *want, bool want_stopped)
{
    struct run r = start(t, stops, stops_count);
    for (size_t begin = 0, end = 1; end <= SPLIT_BYTES; end++) {
        if (end < SPLIT_BYTES && (cuts >> (end - 1) & 1) == 0)
            continue;
        push(&r, ids[begin][end], true);
        begin = end;
    }
    CHECK(r.stopped == want_stopped);
    finish(&r, want);
}

/* The same bytes give the same text, however tokens cut them. */
static void test_splits(void)
{
    static uint32_t ids[SPLIT_BYTES][SPLIT_BYTES + 1];
    static const char whole[] = "a\xf0\x9f\x98\x80\xe2\x82\xac\xc3\xa4!\xef\xbf\xbd\xef\xbf\xbd";
    struct str near[] = {STR_LIT("\xe2\x82\xac\xc3\xa4!?"), STR_LIT("!!"),
                         STR_LIT("a\xf0\x9f\x98\x81")};
    struct str stops[] = {STR_LIT("\xc3\xa4!"), STR_LIT("!!"),
                          STR_LIT("\xe2\x82\xac\xc3\xa4!\xef\xbf\xbd")};
    struct tokenizer *t = split_tokenizer(ids);
    for (uint32_t cuts = 0; cuts < 1u << (SPLIT_BYTES - 1); cuts++) {
        check_split(t, ids, cuts, NULL, 0, whole, false);
        check_split(t, ids, cuts, near, ARRAY_LEN(near), whole, false);
        check_split(t, ids, cuts, stops, ARRAY_LEN(stops), "a\xf0\x9f\x98\x80\xe2\x82\xac", true);
    }
    tokenizer_destroy(&t);
}

int main(void)
{
    struct tokenizer *t = tiny_tokenizer();
    test_characters(t);
    test_invalid(t);
    test_stops(t);
    test_held(t);
    test_may_stop(t);
    test_bad_stops(t);
    test_splits();
    tokenizer_destroy(&t);
    return check_report();
}
