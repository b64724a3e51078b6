/* SentencePiece vocabularies: ids worked out by hand, a naive reference over random vocabularies,
 * bad files. */
#include <math.h>

#include "base/size.h"
#include "check.h"
#include "model/gguf_build.h"
#include "model/text_stream.h"
#include "model/tokenizer.h"

#define SP "\xe2\x96\x81"

enum { NORMAL = 1, UNKNOWN = 2, CONTROL = 3, USER = 4, BYTE = 6, MAX_TOKENS = 640 };

struct vocab {
    size_t count;
    char text[MAX_TOKENS][16];
    uint32_t type[MAX_TOKENS];
    float score[MAX_TOKENS];
    bool no_scores, no_types, short_scores;
};

static uint32_t put(struct vocab *v, const char *text, uint32_t type, float score)
{
    snprintf(v->text[v->count], sizeof(v->text[0]), "%s", text);
    v->type[v->count] = type;
    v->score[v->count] = score;
    return (uint32_t)v->count++;
}

/* <unk> 0, <s> 1, </s> 2, the bytes 3 to 258. */
static void put_base(struct vocab *v, bool bytes)
{
    char text[16];
    *v = (struct vocab){0};
    put(v, "<unk>", UNKNOWN, 0);
    put(v, "<s>", CONTROL, 0);
    put(v, "</s>", CONTROL, 0);
    for (unsigned b = 0; bytes && b < 256; b++) {
        snprintf(text, sizeof(text), "<0x%02X>", b);
        put(v, text, BYTE, 0);
    }
}

static enum err create(const struct vocab *v, void (*more)(struct gguf_build *g),
                       struct tokenizer **ret, struct err_msg *why)
{
    struct gguf_build build = {0};
    struct gguf *g = NULL;
    struct err_msg open_why;
    build_kv_str(&build, "tokenizer.ggml.model", "llama");
    build_kv_array(&build, "tokenizer.ggml.tokens", GGUF_STR, v->count);
    for (size_t i = 0; i < v->count; i++)
        build_text(&build.kvs, v->text[i]);
    if (!v->no_types) {
        build_kv_array(&build, "tokenizer.ggml.token_type", GGUF_I32, v->count);
        for (size_t i = 0; i < v->count; i++)
            build_u32(&build.kvs, v->type[i]);
    }
    if (!v->no_scores) {
        size_t count = v->count - v->short_scores;
        build_kv_array(&build, "tokenizer.ggml.scores", GGUF_F32, count);
        build_bytes(&build.kvs, v->score, count * sizeof(float));
    }
    if (more != NULL)
        more(&build);
    struct buf file = build_finish(&build);
    CHECK_OK(gguf_open_memory(file.data, file.len, "spm", &g, &open_why), open_why);
    enum err e = g == NULL ? ERR_INTERNAL : tokenizer_create(g, NULL, ret, why);
    gguf_close(&g);
    buf_free(&file);
    return e;
}

static void no_prefix(struct gguf_build *g)
{
    build_kv_bool(g, "tokenizer.ggml.add_space_prefix", 0);
}
static void other_flags(struct gguf_build *g)
{
    build_kv_bool(g, "tokenizer.ggml.add_bos_token", 0);
    build_kv_bool(g, "tokenizer.ggml.add_eos_token", 1);
}
static void phi3(struct gguf_build *g)
{
    build_kv_str(g, "general.name", "Phi-3 mini");
}
static void no_unknown(struct gguf_build *g)
{
    build_kv_u32(g, "tokenizer.ggml.unknown_token_id", UINT32_MAX - 1);
}

/* The ids in decimal, with spaces between. */
static void check_ids(const struct tokenizer *t, const char *text, bool parse_special,
                      const char *want)
{
    struct tokens ids = {0};
    struct buf got = {0};
    struct err_msg why;
    struct tokenizer_encode_options o = {.parse_special = parse_special};
    CHECK_OK(tokenizer_encode(t, str_of(text), o, &ids, &why), why);
    for (size_t i = 0; i < ids.count; i++)
        CHECK(buf_printf(&got, "%s%u", i == 0 ? "" : " ", ids.ids[i]) == ERR_OK);
    if (strcmp(buf_cstr(&got), want) != 0)
        fprintf(stderr, "    text \"%s\"\n", text);
    CHECK_STR(buf_cstr(&got), want);
    buf_free(&got);
    tokens_free(&ids);
}

static void check_text(const struct tokenizer *t, const uint32_t *ids, size_t count, bool special,
                       const char *want)
{
    struct buf out = {0};
    CHECK(tokenizer_decode(t, ids, count, special, &out) == ERR_OK);
    CHECK_STR(buf_cstr(&out), want);
    buf_free(&out);
}

/* 259 _, 260 a, 261 b, 262 c, 263 _a, 264 ab, 265 bc, 266 abc, 267 <br>, 268 two spaces */
static void put_letters(struct vocab *v)
{
    put_base(v, true);
    put(v, SP, NORMAL, -10);
    put(v, "a", NORMAL, -11);
    put(v, "b", NORMAL, -12);
    put(v, "c", NORMAL, -13);
    put(v, SP "a", NORMAL, -3);
    put(v, "ab", NORMAL, -2);
    put(v, "bc", NORMAL, -1);
    put(v, "abc", NORMAL, -4);
    put(v, "<br>", USER, 0);
    put(v, "  ", USER, 0);
}

static void test_hand(void)
{
    struct vocab v;
    struct tokenizer *t = NULL;
    struct err_msg why;
    put_letters(&v);
    CHECK_OK(create(&v, NULL, &t, &why), why);
    if (t == NULL)
        return;
    check_ids(t, "", false, "");
    check_ids(t, "a", false, "263");
    check_ids(t, "ab", false, "259 264");  /* ab is worth more than _a */
    check_ids(t, "abc", false, "263 265"); /* bc first, then _a before abc */
    check_ids(t, "aabcb", false, "263 266 261");
    check_ids(t, "a a", false, "263 263");
    check_ids(t, " a", false, "259 263");           /* its own space and the one before a text */
    check_ids(t, "\xc3\xa9", false, "259 198 172"); /* <0xC3> <0xA9> */
    check_ids(t, "a\n", false, "263 13");
    check_ids(t, "<0x41>", false, "259 63 51 123 55 52 65"); /* a byte token's name is text */
    check_ids(t, "</s>", false, "259 63 50 118 65");
    check_ids(t, "a</s>a", true, "263 2 263"); /* a space again after a special token */
    check_ids(t, "</s></s>", true, "2 2");
    check_ids(t, "a<br>a", false, "263 267 263"); /* user-defined: in plain text as well */
    check_ids(t, "a  a", false, "263 268 263");
    check_ids(t, "<unk>", true, "0");
    check_text(t, (uint32_t[]){263, 263}, 2, true, "a a");
    check_text(t, (uint32_t[]){259, 263}, 2, true, " a");
    check_text(t, (uint32_t[]){1, 263}, 2, true, "<s> a");
    check_text(t, (uint32_t[]){0, 2, 263, 198, 172}, 5, false, " a\xc3\xa9");
    CHECK(str_eq(tokenizer_piece(t, 263), STR_LIT(" a")));
    CHECK(str_eq(tokenizer_piece(t, 3 + 0x41), STR_LIT("A")));
    CHECK(tokenizer_is_control(t, 0) && tokenizer_is_control(t, 1) && !tokenizer_is_control(t, 3));
    CHECK(tokenizer_bos(t) == 1 && tokenizer_eos(t) == 2 && tokenizer_adds_bos(t) &&
          !tokenizer_adds_eos(t));
    size_t ends = 0;
    CHECK(tokenizer_end_tokens(t, &ends)[0] == 2 && ends == 1);
    /* A completion goes on after the prompt: its first word keeps its space. */
    struct text_stream *s = NULL;
    bool stopped = false;
    CHECK(text_stream_create(t, NULL, 0, &s) == ERR_OK);
    if (s != NULL)
        CHECK(text_stream_push(s, 263, true, &stopped) == ERR_OK &&
              text_stream_push(s, 261, true, &stopped) == ERR_OK &&
              text_stream_finish(s) == ERR_OK && str_eq(text_stream_text(s), STR_LIT(" ab")));
    text_stream_destroy(&s);
    tokenizer_destroy(&t);
}

static void test_keys(void)
{
    struct vocab v;
    struct tokenizer *t = NULL;
    struct err_msg why;
    struct tokens ids = {0};
    put_letters(&v);
    CHECK_OK(create(&v, no_prefix, &t, &why), why);
    if (t != NULL) {
        check_ids(t, "a", false, "260");
        check_ids(t, " a", false, "263");
        check_ids(t, "abc", false, "266");
        check_ids(t, "a</s>a", true, "260 2 260");
        check_text(t, (uint32_t[]){263}, 1, true, " a");
    }
    tokenizer_destroy(&t);
    CHECK_OK(create(&v, other_flags, &t, &why), why);
    if (t != NULL) {
        struct tokenizer_encode_options o = {.add_bos = true, .add_eos = true};
        CHECK_OK(tokenizer_encode(t, STR_LIT("a"), o, &ids, &why), why);
        CHECK(ids.count == 2 && ids.ids[0] == 263 && ids.ids[1] == 2);
    }
    tokenizer_destroy(&t);
    /* Phi-3's special tokens swallow the white space after them, but for three of them. */
    CHECK_OK(create(&v, phi3, &t, &why), why);
    if (t != NULL) {
        check_ids(t, "</s> \n a", true, "2 263");
        check_ids(t, "<s> a", true, "1 259 263");
        check_ids(t, "</s> \n ", true, "2");
    }
    tokenizer_destroy(&t);
    /* Without types the byte tokens are known by their text. */
    v.no_types = true;
    CHECK_OK(create(&v, NULL, &t, &why), why);
    if (t != NULL)
        check_ids(t, "a\xc3\xa9", false, "263 198 172");
    tokenizer_destroy(&t);
    /* Without byte tokens an unknown character is the unknown token. */
    put_base(&v, false);
    put(&v, SP "a", NORMAL, 0);
    CHECK_OK(create(&v, NULL, &t, &why), why);
    if (t != NULL)
        check_ids(t, "a\xc3\xa9z", false, "3 0 0");
    tokenizer_destroy(&t);
    tokens_free(&ids);
}

static void test_bad(void)
{
    static const char *const bad_bytes[] = {"<0x-1>", "<0x4>",  "<0x041>", "<0xG1>", "<0X41>",
                                            "<0x41",  "0x41>>", "",        "x"};
    struct vocab v;
    struct tokenizer *t = NULL;
    struct err_msg why = {{0}};
    for (size_t i = 0; i < ARRAY_LEN(bad_bytes); i++) {
        put_letters(&v);
        put(&v, bad_bytes[i], BYTE, 0);
        CHECK_ERR(create(&v, NULL, &t, &why), ERR_FORMAT);
        CHECK_HAS(why.text, "token 269 of type byte is");
        CHECK_HAS(why.text, "expected <0x00> to <0xFF>");
    }
    put_letters(&v);
    v.no_scores = true;
    CHECK_ERR(create(&v, NULL, &t, &why), ERR_FORMAT);
    CHECK_HAS(why.text, "no key 'tokenizer.ggml.scores'");
    put_letters(&v);
    v.short_scores = true;
    CHECK_ERR(create(&v, NULL, &t, &why), ERR_FORMAT);
    CHECK_HAS(why.text, "has 268 entries for 269 tokens");
    put_letters(&v);
    v.score[260] = NAN;
    CHECK_ERR(create(&v, NULL, &t, &why), ERR_FORMAT);
    CHECK_HAS(why.text, "score of token 260");
    put_letters(&v);
    put(&v, "ab", NORMAL, 0);
    CHECK_ERR(create(&v, NULL, &t, &why), ERR_FORMAT);
    CHECK_HAS(why.text, "tokens 264 and 269 are the same text");
    put_base(&v, false);
    put(&v, "a", NORMAL, 0);
    CHECK_ERR(create(&v, no_unknown, &t, &why), ERR_FORMAT);
    CHECK_HAS(why.text, "no token <0x00> and no unknown token");
    CHECK(t == NULL);
}

/* The naive way: look at all neighbours, join the best pair, the leftmost of equals; again. All
 * characters are ASCII and tokens. */
static size_t join_naively(const struct vocab *v, const char *text, uint32_t *ret)
{
    char parts[64][16];
    size_t n = 0;
    for (; text[n] != '\0'; n++)
        snprintf(parts[n], sizeof(parts[n]), "%c", text[n]);
    for (;;) {
        size_t best = SIZE_MAX;
        float score = -INFINITY;
        char joined[32];
        for (size_t i = 0; i + 1 < n; i++) {
            snprintf(joined, sizeof(joined), "%.15s%.15s", parts[i], parts[i + 1]);
            for (size_t k = 259; k < v->count; k++)
                if (strcmp(v->text[k], joined) == 0 && v->score[k] > score) {
                    best = i;
                    score = v->score[k];
                }
        }
        if (best == SIZE_MAX)
            break;
        snprintf(joined, sizeof(joined), "%.15s%.15s", parts[best], parts[best + 1]);
        snprintf(parts[best], sizeof(parts[best]), "%.15s", joined);
        memmove(parts + best + 1, parts + best + 2, (n - best - 2) * sizeof(parts[0]));
        n--;
    }
    for (size_t i = 0; i < n; i++)
        for (size_t k = 259; k < v->count; k++)
            if (strcmp(v->text[k], parts[i]) == 0)
                ret[i] = (uint32_t)k;
    return n;
}

static bool has_text(const struct vocab *v, const char *text)
{
    for (size_t i = 0; i < v->count; i++)
        if (strcmp(v->text[i], text) == 0)
            return true;
    return false;
}

static void test_naive(void)
{
    struct check_rng rng = check_rng_start(31);
    struct vocab v;
    struct err_msg why;
    for (int round = 0; round < 40; round++) {
        struct tokenizer *t = NULL;
        put_base(&v, true);
        for (char c = 'a'; c <= 'd'; c++)
            put(&v, (char[]){c, '\0'}, NORMAL, -100);
        for (int i = 0; i < 60; i++) {
            char text[8] = "";
            size_t len = 2 + check_rng_below(&rng, 4);
            for (size_t k = 0; k < len; k++)
                text[k] = (char)('a' + check_rng_below(&rng, 4));
            if (!has_text(&v, text)) /* few scores: many equal ones */
                put(&v, text, NORMAL, (float)check_rng_below(&rng, 9) - 4);
        }
        CHECK_OK(create(&v, no_prefix, &t, &why), why);
        for (int i = 0; t != NULL && i < 50; i++) {
            char text[41] = "";
            uint32_t want[64];
            struct tokens got = {0};
            struct tokenizer_encode_options o = {0};
            size_t len = check_rng_below(&rng, sizeof(text));
            for (size_t k = 0; k < len; k++)
                text[k] = (char)('a' + check_rng_below(&rng, 4));
            size_t count = join_naively(&v, text, want);
            CHECK_OK(tokenizer_encode(t, str_of(text), o, &got, &why), why);
            CHECK(got.count == count &&
                  (count == 0 || memcmp(got.ids, want, count * sizeof(*want)) == 0));
            tokens_free(&got);
        }
        tokenizer_destroy(&t);
    }
}

int main(void)
{
    test_hand();
    test_keys();
    test_bad();
    test_naive();
    return check_report();
}
